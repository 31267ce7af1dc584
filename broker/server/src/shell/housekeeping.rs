//! Cleaning: what retention and compaction decide, done partition by partition. Topics with a retention plugin are judged as a whole.

use std::{collections::BTreeMap, rc::Rc};

use tidegate_records::ids::{TopicId, TopicPartition};
use tidegate_shard::{CleaningStep, Expiry, Input, Segment};

use super::{executor::Core, retention};

/// Looks at the partitions whose turn it is. Failures are logged: they are tried again at the next turn.
pub(crate) async fn clean(core: &Rc<Core>) {
    let due = core.shard.borrow_mut().cleaning_due(core.clock.now());
    let mut governed: BTreeMap<TopicId, Vec<TopicPartition>> = BTreeMap::new();
    for partition in due {
        if core.shard.borrow().has_retention_plugin(partition.topic) {
            governed.entry(partition.topic).or_default().push(partition);
        } else {
            clean_one(core, partition, Expiry::Configured).await;
        }
    }
    for (topic, partitions) in governed {
        let Some(judged) = retention::judge(core, topic, &partitions).await else {
            let now = core.clock.now();
            partitions.iter().for_each(|partition| core.shard.borrow_mut().clean_again(now, *partition, 1_000));
            continue;
        };
        for partition in &partitions {
            if let Err(error) = judged.carry_out(core, *partition).await {
                tracing::warn!(%partition, error, "what a retention plugin said could not be done; it is asked again");
            }
            clean_one(core, *partition, judged.expiry).await;
        }
        judged.offload(core, &partitions).await;
    }
}

async fn clean_one(core: &Rc<Core>, partition: TopicPartition, expiry: Expiry) {
    let segments = segments(core, partition);
    let steps = core.shard.borrow().plan_cleaning(core.clock.now(), partition, expiry, &segments);
    let mut has_failed = false;
    for step in steps {
        // On a full disk nothing can be rolled before something is deleted: what is sealed goes all the same.
        if has_failed && !matches!(step, CleaningStep::DeleteBelow(_)) {
            break;
        }
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
            has_failed = true;
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
