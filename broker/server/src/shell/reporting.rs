//! What a shard tells the metrics page now and then: its partitions, its groups, and how busy its thread is.

use std::{rc::Rc, sync::Arc, time::Duration};

use tidegate_records::ids::TopicPartition;

use super::{executor::Core, runtime};
use crate::metrics::{CommittedReport, GroupReport, PartitionReport, ShardReport};

/// How often. Counters are read when the page is asked for; only what has a name is as old as this.
const INTERVAL: Duration = Duration::from_secs(2);

/// Takes a report, from any thread, without waiting.
pub type Report = Arc<dyn Fn(ShardReport) + Send + Sync>;

/// Reports until the shard stops.
pub(crate) async fn report_loop(core: Rc<Core>, report: Report) {
    let started = core.clock.now().instant;
    loop {
        runtime::sleep(INTERVAL).await;
        if core.is_stopping() {
            return;
        }
        core.metrics.alive_nanos.set(core.clock.now().instant.since(started).as_nanos() as u64);
        core.metrics.busy_nanos.set(thread_cpu_nanos());
        report(collect(&core));
    }
}

fn collect(core: &Core) -> ShardReport {
    let shard = core.shard.borrow();
    let image = shard.image();
    let partitions = shard.partitions().filter_map(|(topic_partition, start, high_watermark, end)| {
        let TopicPartition { topic, partition } = topic_partition;
        let segments = core.log.segments(topic_partition);
        let offloaded = || segments.iter().filter(|segment| segment.offloaded);
        Some(PartitionReport {
            topic: image.topic_by_id(topic)?.name.clone(),
            partition: partition.0,
            log_start_offset: start.0,
            high_watermark: high_watermark.0,
            log_end_offset: end.0,
            size_bytes: core.log.log_bytes(topic_partition),
            segments: segments.len() as u64,
            offloaded_bytes: offloaded().map(|segment| segment.bytes).sum(),
            offloaded_segments: offloaded().count() as u64,
        })
    });
    let mut groups: Vec<GroupReport> = shard
        .groups()
        .map(|(group, state)| GroupReport { group: group.to_owned(), state, committed: Vec::new() })
        .collect();
    groups.sort_by(|left, right| left.group.cmp(&right.group));
    for (group, topic, partition, offset, time) in shard.committed_offsets() {
        if let Ok(found) = groups.binary_search_by(|known| known.group.as_str().cmp(group)) {
            let committed =
                CommittedReport { topic: topic.to_owned(), partition: partition.0, offset: offset.0, time: time.0 };
            groups[found].committed.push(committed);
        }
    }
    ShardReport {
        shard: core.shard_id().0,
        partitions: partitions.collect(),
        partitions_offline: shard.partitions_offline(),
        groups,
        groups_are_loaded: shard.groups_are_loaded(),
        attachments: shard.attachments().collect(),
    }
}

/// Time that this thread has run, in nanoseconds: sleeping in the kernel is not in it.
fn thread_cpu_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` has room for the result for the duration of the call.
    let asked = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    if asked == 0 { time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64 } else { 0 }
}
