//! Topics whose records are kept as long as a plugin says: it is asked beside the shard, on a thread where it may take its time, and what
//! the model allows of its verdicts is done here.

use std::{collections::BTreeMap, rc::Rc, time::Instant};

use bytes::Bytes;
use tidegate_model::{
    compaction::{self, Filtered},
    metadata::Topic,
    topic_config::Attachment,
};
use tidegate_plugin_host::{
    Filter, LogLine, Offloader, OpenError, Retention, TopicInfo,
    retention::{OffloadLog, PartitionLog, Reader, Retained, Segment as Shown, Verdict},
};
use tidegate_records::{
    batch::BatchHeader,
    columns::{Wanted, columns},
    ids::{Offset, TopicId, TopicPartition},
};
use tidegate_shard::{Expiry, Input, RetentionFailure, RetentionReport, RetentionTask, Segment};

use super::{
    executor::Core,
    housekeeping::segments,
    offload::{Job, shown_to_offloader},
    runtime,
};

/// What a plugin that wants to be asked again soon gets at least to wait.
const AGAIN_MS_MIN: u64 = 1_000;
/// Bytes of batches that go through a filter at a time.
const READ_BYTES: usize = 256 << 10;

/// The verdicts on partitions, and by what the records of those without one expire.
pub(super) struct Judged {
    verdicts: Vec<(TopicPartition, Vec<Segment>, Verdict)>,
    pub(super) expiry: Expiry,
    task: Option<RetentionTask>,
    /// Whether the policy also says what is offloaded.
    offloads: bool,
}

/// Asks the policy of a topic about partitions of it. `None`: not now, since not all groups are known yet.
pub(super) async fn judge(core: &Rc<Core>, topic: TopicId, partitions: &[TopicPartition]) -> Option<Judged> {
    let judged = |verdicts, task| Judged { verdicts, expiry: Expiry::ByPlugin, task, offloads: false };
    let task = core.shard.borrow().retention_task(topic);
    let task = match task {
        None => return Some(Judged { expiry: Expiry::Configured, ..judged(Vec::new(), None) }),
        Some(Ok(task)) => task,
        Some(Err((topic, attachment))) => {
            let failure = Some(RetentionFailure::NotLoaded);
            let report = RetentionReport { failure, ..RetentionReport::new(None) };
            let expiry = asked(core, &topic, &attachment, report);
            return Some(Judged { expiry, ..judged(Vec::new(), None) });
        }
    };
    let readers = core.readers.borrow().clone()?;
    let now = core.clock.now();
    let mut seen: Vec<(TopicPartition, Vec<Segment>)> = Vec::with_capacity(partitions.len());
    let mut logs = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let segments = segments(core, *partition);
        let Some((start_offset, high_watermark)) = core.shard.borrow().log_bounds(*partition) else { continue };
        let sealed: Vec<Segment> = segments.into_iter().filter(|segment| segment.sealed).collect();
        let readers = readers.of(&task.topic.name, partition.partition.0).iter().map(|position| Reader {
            group: position.group.clone(),
            committed: position.committed,
            idle_ms: u64::try_from(now.wall.0.saturating_sub(position.time)).unwrap_or(0),
        });
        logs.push(PartitionLog {
            partition: partition.partition.0.unsigned_abs(),
            start_offset: start_offset.0,
            high_watermark: high_watermark.0,
            segments: sealed.iter().map(shown).collect(),
            readers: readers.collect(),
        });
        seen.push((*partition, sealed));
    }
    let (retained, offloads, report) = {
        let (task, logs, now) = (task.clone(), logs, now.wall.0);
        runtime::unblock(move || evaluate(&task, &logs, now)).await
    };
    let expiry = asked(core, &task.topic, &task.attachment, report);
    let Some(Retained { verdicts, again_in_ms }) = retained else {
        return Some(Judged { expiry, ..judged(Vec::new(), None) });
    };
    if again_in_ms > 0 {
        for partition in partitions {
            core.shard.borrow_mut().clean_again(now, *partition, again_in_ms.max(AGAIN_MS_MIN));
        }
    }
    let verdicts = seen.into_iter().zip(verdicts).map(|((partition, seen), verdict)| (partition, seen, verdict));
    Some(Judged { expiry, offloads, ..judged(verdicts.collect(), Some(task)) })
}

pub(super) fn shown(segment: &Segment) -> Shown {
    let newest = if segment.max_timestamp.0 >= 0 { segment.max_timestamp } else { segment.last_append_time };
    Shown {
        base_offset: segment.base_offset.0,
        next_offset: segment.next_offset.0,
        max_timestamp: newest.0,
        bytes: segment.bytes,
    }
}

/// On a thread of its own. Also whether the policy offloads.
fn evaluate(task: &RetentionTask, logs: &[PartitionLog], now: i64) -> (Option<Retained>, bool, RetentionReport) {
    let mut report = RetentionReport::new(Some(task.version));
    let mut policy = match Retention::open(&task.compiled, &task.attachment.config, &task.limits) {
        Ok(policy) => policy,
        Err(error) => {
            report.failure = Some(RetentionFailure::Open(error));
            return (None, false, report);
        }
    };
    let info = TopicInfo { name: &task.topic.name, partitions: task.topic.partitions.unsigned_abs() };
    let started = Instant::now();
    let retained = policy.evaluate(&info, logs, now);
    report.nanos = started.elapsed().as_nanos() as u64;
    report.memory_bytes = policy.memory_bytes() as u64;
    report.lines = policy.take_log().lines;
    report.series = policy.series().to_vec();
    match retained {
        Ok(retained) => (Some(retained), policy.offloads(), report),
        Err(error) => {
            report.failure = Some(RetentionFailure::Call(error));
            (None, false, report)
        }
    }
}

/// Counts a report. By what records expire after it.
pub(super) fn asked(core: &Rc<Core>, topic: &Topic, attachment: &Attachment, report: RetentionReport) -> Expiry {
    let (bypassed, logs) = core.shard.borrow_mut().retention_asked(topic, attachment, report);
    logs.into_iter().for_each(|log| core.write_plugin_log(&log));
    if bypassed { Expiry::Configured } else { Expiry::ByPlugin }
}

impl Judged {
    /// Does what the model allows of the verdict on a partition.
    pub(super) async fn carry_out(&self, core: &Rc<Core>, partition: TopicPartition) -> Result<(), String> {
        let Some(task) = &self.task else { return Ok(()) };
        let Some((_, seen, verdict)) = self.verdicts.iter().find(|(judged, ..)| *judged == partition) else {
            return Ok(());
        };
        let now = core.clock.now();
        let present = segments(core, partition);
        let allowed = core.shard.borrow().allowed_verdict(now, partition, seen, &present, verdict);
        if let Some(offset) = allowed.start {
            let before = core.shard.borrow().log_bounds(partition).map_or(offset, |(start, _)| start);
            core.log.set_log_start(partition, offset).await?;
            core.take([Input::LogStartMoved { partition, offset }]);
            let deleted = u64::try_from(offset.0.saturating_sub(before.0)).unwrap_or(0);
            let report = RetentionReport { deleted, ..RetentionReport::new(None) };
            let _ = asked(core, &task.topic, &task.attachment, report);
        }
        for (from, to) in allowed.rewrite {
            if !erase(core, task, partition, from, to).await? {
                break;
            }
        }
        Ok(())
    }
}

impl Judged {
    /// Asks which segments go to the object store, of what the verdicts have left, and has those sent that the model allows.
    pub(super) async fn offload(&self, core: &Rc<Core>, partitions: &[TopicPartition]) {
        let Some(task) = self.task.as_ref().filter(|_| self.offloads) else { return };
        let mut seen = Vec::new();
        let mut logs = Vec::new();
        // What was chosen before is still on its way.
        for partition in partitions.iter().filter(|partition| !core.offloads.is_busy(**partition)) {
            let Some((start_offset, high_watermark)) = core.shard.borrow().log_bounds(*partition) else { continue };
            let (segments, log) = shown_to_offloader(core, *partition);
            seen.push((*partition, segments));
            logs.push(OffloadLog { start_offset: start_offset.0, high_watermark: high_watermark.0, ..log });
        }
        if seen.is_empty() {
            return;
        }
        let now = core.clock.now().wall.0;
        let (chosen, report) = {
            let task = task.clone();
            runtime::unblock(move || choose(&task, &logs, now)).await
        };
        let _ = asked(core, &task.topic, &task.attachment, report);
        for ((partition, segments), chosen) in seen.into_iter().zip(chosen) {
            let allowed = chosen
                .iter()
                .filter_map(|index| segments.get(*index as usize))
                .filter(|(segment, offloaded)| !offloaded && core.shard.borrow().may_offload(partition, segment));
            let segments: Vec<Segment> = allowed.map(|(segment, _)| *segment).collect();
            if !segments.is_empty() {
                core.offloads.add(Job { partition, segments, task: task.clone() });
            }
        }
    }
}

/// On a thread of its own. Nothing is chosen where the policy fails, which its report says.
fn choose(task: &RetentionTask, logs: &[OffloadLog], now: i64) -> (Vec<Vec<u32>>, RetentionReport) {
    let mut report = RetentionReport::new(Some(task.version));
    let mut policy = match Offloader::open(&task.compiled, &task.attachment.config, &task.limits) {
        Ok(policy) => policy,
        Err(error) => {
            report.failure = Some(RetentionFailure::Open(error));
            return (Vec::new(), report);
        }
    };
    let info = TopicInfo { name: &task.topic.name, partitions: task.topic.partitions.unsigned_abs() };
    let started = Instant::now();
    let chosen = policy.offload(&info, logs, now);
    report.nanos = started.elapsed().as_nanos() as u64;
    report.memory_bytes = policy.memory_bytes() as u64;
    report.lines = policy.take_log().lines;
    match chosen {
        Ok(chosen) => (chosen, report),
        Err(error) => {
            report.failure = Some(RetentionFailure::Call(error));
            (Vec::new(), report)
        }
    }
}

/// What is kept of each batch of a segment, by its base offset.
type KeptBits = BTreeMap<Offset, Vec<u64>>;

/// Passes a segment through the filter, and rewrites it if anything goes. False: the filter failed, and no other segment is tried now.
async fn erase(
    core: &Rc<Core>,
    task: &RetentionTask,
    partition: TopicPartition,
    from: Offset,
    to: Offset,
) -> Result<bool, String> {
    let store = core.log.store();
    let read = async |next: Offset| {
        store.read_stored(partition, next, to, READ_BYTES).await.map_err(|error| error.to_string())
    };
    let now = core.clock.now().wall.0;
    let mut filter = None;
    let mut report = RetentionReport::new(Some(task.version));
    let mut bits = KeptBits::new();
    let mut next = from;
    let mut whole = true;
    loop {
        let stored = read(next).await?;
        let Some(last) = stored.last() else { break };
        next = last.header.next_offset();
        let batches: Vec<_> = stored.into_iter().map(|batch| (batch.header, batch.bytes)).collect();
        let (of, at, task) = (filter.take(), partition.partition.0.unsigned_abs(), task.clone());
        let filtered = runtime::unblock(move || keep(of, &task, at, &batches, now)).await;
        report.nanos += filtered.nanos;
        report.records += filtered.records;
        report.erased += filtered.erased;
        report.lines.extend(filtered.lines);
        report.memory_bytes = report.memory_bytes.max(filtered.memory_bytes);
        if let Some(failure) = filtered.failure {
            report.failure = Some(failure);
            report.erased = 0;
            whole = false;
            break;
        }
        bits.extend(filtered.bits);
        filter = filtered.filter;
    }
    let erases = whole && report.erased > 0;
    // Counted once it is done.
    let erased = std::mem::take(&mut report.erased);
    let _ = asked(core, &task.topic, &task.attachment, report);
    if !erases {
        return Ok(whole);
    }
    let mut rewrite = store.begin_rewrite(partition, from, to).await.map_err(|error| error.to_string())?;
    let mut next = from;
    loop {
        let stored = read(next).await?;
        let Some(last) = stored.last() else { break };
        next = last.header.next_offset();
        // Asked at each turn: a producer's last batch may be another one by now, and only the newest of them must stay.
        let last_batches = core.shard.borrow().last_batches(partition);
        for batch in stored {
            let header = &batch.header;
            let keep = bits.get(&header.base_offset).ok_or("the segment is not what it was a moment ago")?;
            let of_producer = header.producer_id.is_some() && last_batches.contains(&header.last_offset());
            let must_stay = of_producer || header.next_offset() == to;
            let filtered = compaction::retain(header, &batch.bytes, keep, must_stay);
            let kept = match filtered.map_err(|error| error.to_string())? {
                Filtered::Keep => batch.bytes,
                Filtered::Replace(bytes) => bytes,
                Filtered::Drop => continue,
            };
            rewrite.push(kept, batch.append_time).await.map_err(|error| error.to_string())?;
        }
        runtime::yield_if_needed().await;
    }
    rewrite.finish().await.map_err(|error| error.to_string())?;
    let report = RetentionReport { erased, ..RetentionReport::new(None) };
    let _ = asked(core, &task.topic, &task.attachment, report);
    Ok(true)
}

/// What a filter said of some batches.
#[derive(Default)]
struct Kept {
    filter: Option<Filter>,
    bits: KeptBits,
    nanos: u64,
    records: u64,
    erased: u64,
    memory_bytes: u64,
    lines: Vec<LogLine>,
    failure: Option<RetentionFailure>,
}

/// On a thread of its own. `filter` is the instance of the batches before, if there were any.
fn keep(
    filter: Option<Filter>,
    task: &RetentionTask,
    partition: u32,
    batches: &[(BatchHeader, Bytes)],
    now: i64,
) -> Kept {
    let mut kept = Kept::default();
    let opened = filter.map_or_else(|| Filter::open(&task.compiled, &task.attachment.config, &task.limits), Ok);
    let mut filter = match opened {
        Ok(filter) => filter,
        Err(error) => return Kept { failure: Some(RetentionFailure::Open(error)), ..kept },
    };
    let wanted = Wanted { offsets: true, ..filter.needs().columns.clone() };
    let info = TopicInfo { name: &task.topic.name, partitions: task.topic.partitions.unsigned_abs() };
    let started = Instant::now();
    for (header, bytes) in batches {
        let count = usize::try_from(header.records_count).unwrap_or(0);
        if header.attributes.is_control() || count == 0 {
            kept.bits.insert(header.base_offset, vec![u64::MAX; count.div_ceil(64)]);
            continue;
        }
        // What is damaged is not rewritten, and not this filter's doing: the round ends here, and recovery or a read names the batch.
        let columns = compaction::records_of(header, bytes)
            .map_err(|error| error.to_string())
            .and_then(|records| columns(header, &records, &wanted).map_err(|error| error.to_string()));
        let answered = match columns {
            Ok(columns) => filter.keep(&info, partition, &columns, now).map_err(RetentionFailure::Call),
            Err(detail) => Err(RetentionFailure::Open(OpenError::Unusable { detail })),
        };
        match answered {
            Ok(words) => {
                let staying: u32 = (0..count).map(|record| (words[record / 64] >> (record % 64) & 1) as u32).sum();
                kept.erased += count as u64 - u64::from(staying);
                kept.records += count as u64;
                kept.bits.insert(header.base_offset, words);
            }
            Err(failure) => {
                kept.failure = Some(failure);
                break;
            }
        }
    }
    kept.nanos = started.elapsed().as_nanos() as u64;
    kept.memory_bytes = filter.memory_bytes() as u64;
    kept.lines = filter.take_log().lines;
    kept.filter = Some(filter);
    kept
}
