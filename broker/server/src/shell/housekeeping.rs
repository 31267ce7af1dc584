//! Cleaning: what retention and compaction decide, done partition by partition.

use std::rc::Rc;

use tidegate_records::ids::TopicPartition;
use tidegate_shard::{CleaningStep, Input, Segment};

use super::executor::Core;

/// Looks at the partitions whose turn it is. Failures are logged: they are tried again at the next turn.
pub(crate) async fn clean(core: &Rc<Core>) {
    let due = core.shard.borrow_mut().cleaning_due(core.clock.now());
    for partition in due {
        let segments = segments(core, partition);
        let steps = core.shard.borrow().plan_cleaning(core.clock.now(), partition, &segments);
        for step in steps {
            let done = match step {
                CleaningStep::Roll => core.log.roll(partition).await,
                CleaningStep::DeleteBelow(offset) => {
                    let done = core.log.delete_segments_below(partition, offset).await;
                    if done.is_ok() {
                        let start = core.log.store().offsets(partition).map(|offsets| offsets.log_start_offset);
                        if let Some(offset) = start {
                            core.take([Input::LogStartMoved { partition, offset }]);
                        }
                    }
                    done
                }
                CleaningStep::Compact(plan) => super::compaction::compact(core, partition, plan).await,
            };
            if let Err(error) = done {
                tracing::warn!(%partition, error, "a log could not be cleaned; it is tried again");
                break;
            }
        }
    }
}

/// The segments of a log, as the model takes them.
pub(crate) fn segments(core: &Core, partition: TopicPartition) -> Vec<Segment> {
    core.log
        .segments(partition)
        .into_iter()
        .map(|segment| Segment {
            base_offset: segment.base_offset,
            next_offset: segment.next_offset,
            bytes: segment.bytes,
            max_timestamp: segment.max_timestamp,
            first_append_time: segment.first_append_time,
            last_append_time: segment.last_append_time,
            sealed: segment.sealed,
        })
        .collect()
}
