//! Sending segments to the object store, one after another, beside everything else; and removing the objects that nobody names any more.
//!
//! An upload takes as long as it takes, so nobody waits for it: what policies choose is put in line here, and a task of its own works on it.
//! What fails is forgotten: the policy is asked again.

use std::{
    cell::RefCell,
    collections::{BTreeSet, VecDeque},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;

use tidegate_plugin_host::retention::OffloadLog;
use tidegate_records::ids::{Offset, TopicPartition};
use tidegate_shard::{RetentionReport, RetentionTask, Segment};
use tidegate_storage::ChangeError;

use super::{
    event::Event,
    executor::Core,
    retention::{asked, shown},
    runtime,
};

/// How often it is looked for objects that nobody names, and how long it is waited when the object store does not answer.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
const SWEEP_AGAIN: Duration = Duration::from_secs(15);

/// How often a partition is looked at for a snapshot of its producers before it is left for another round.
const SNAPSHOT_TRIES_MAX: u32 = 200;

/// Segments of a partition that are to go.
pub(super) struct Job {
    pub(super) partition: TopicPartition,
    pub(super) segments: Vec<Segment>,
    pub(super) task: RetentionTask,
}

/// What waits to be sent.
#[derive(Default)]
pub(crate) struct Offloads {
    jobs: RefCell<VecDeque<Job>>,
    /// Those in line, and the one that is being sent.
    busy: RefCell<BTreeSet<TopicPartition>>,
    added: Event,
}

impl Offloads {
    pub(super) fn is_busy(&self, partition: TopicPartition) -> bool {
        self.busy.borrow().contains(&partition)
    }

    pub(super) fn add(&self, job: Job) {
        self.busy.borrow_mut().insert(job.partition);
        self.jobs.borrow_mut().push_back(job);
        self.added.raise();
    }
}

/// The sealed segments of a partition, whether each is offloaded, and as a policy sees them; the offsets are filled in.
pub(super) fn shown_to_offloader(core: &Core, partition: TopicPartition) -> (Vec<(Segment, bool)>, OffloadLog) {
    let stored = core.log.segments(partition);
    let offloaded = stored.iter().map(|segment| segment.offloaded);
    let all: Vec<(Segment, bool)> = super::housekeeping::segments(core, partition).into_iter().zip(offloaded).collect();
    let (sealed, active): (Vec<_>, Vec<_>) = all.into_iter().partition(|(segment, _)| segment.sealed);
    let log = OffloadLog {
        partition: partition.partition.0.unsigned_abs(),
        start_offset: 0,
        high_watermark: 0,
        segments: sealed.iter().map(|(segment, offloaded)| (shown(segment), *offloaded)).collect(),
        active_bytes: active.iter().map(|(segment, _)| segment.bytes).sum(),
    };
    (sealed, log)
}

/// Works on what is in line, for as long as the shard runs.
pub(crate) async fn offload_loop(core: Rc<Core>) {
    loop {
        futures_lite::future::or(core.offloads.added.wait(), async {
            runtime::sleep(SWEEP_EVERY).await;
        })
        .await;
        loop {
            let Some(job) = core.offloads.jobs.borrow_mut().pop_front() else { break };
            if !core.is_stopping() {
                send(&core, &job).await;
            }
            core.offloads.busy.borrow_mut().remove(&job.partition);
        }
        if core.is_stopping() {
            return;
        }
        if core.objects_configured() && core.log.store().wants_sweep() && !sweep(&core).await {
            futures_lite::future::or(core.offloads.added.wait(), async {
                runtime::sleep(SWEEP_AGAIN).await;
            })
            .await;
        }
    }
}

async fn send(core: &Rc<Core>, job: &Job) {
    let Job { partition, segments, task } = job;
    let store = core.log.store();
    for segment in segments {
        if core.is_stopping() {
            return;
        }
        let done = match store.offload(*partition, segment.base_offset).await {
            Err(ChangeError::NotCovered { .. }) => {
                // The producers of what is sent away must be known without it.
                let Some((offset, bytes)) = snapshot(core, *partition).await else { return };
                core.log.save_snapshots(vec![(*partition, offset, bytes)]).await;
                store.offload(*partition, segment.base_offset).await
            }
            done => done,
        };
        match done {
            Ok(bytes) => {
                core.metrics.segments_offloaded.add(1);
                let report =
                    RetentionReport { offloaded_segments: 1, offloaded_bytes: bytes, ..RetentionReport::new(None) };
                let _ = asked(core, &task.topic, &task.attachment, report);
            }
            // It was deleted or rewritten meanwhile; the policy sees what there is when it is asked again.
            Err(ChangeError::NotSealed { .. } | ChangeError::NotCovered { .. } | ChangeError::Unknown(_)) => {}
            Err(ChangeError::Object(error)) => {
                // Why has been logged, once, where the object store is asked.
                tracing::debug!(%partition, %error, "a segment was not offloaded; the policy is asked again");
                return;
            }
            Err(error) => {
                tracing::warn!(%partition, %error, "a segment was not offloaded; it is tried again");
                return;
            }
        }
    }
}

/// The producers of a partition, at a moment in which none of its batches is under way: on a busy one it takes some looking.
async fn snapshot(core: &Rc<Core>, partition: TopicPartition) -> Option<(Offset, Bytes)> {
    for _ in 0..SNAPSHOT_TRIES_MAX {
        let found = core.shard.borrow_mut().producer_snapshot(partition);
        if found.is_some() || core.is_stopping() {
            return found;
        }
        runtime::sleep(Duration::from_millis(2)).await;
    }
    None
}

/// Removes objects that nobody names. False: the object store does not answer.
async fn sweep(core: &Rc<Core>) -> bool {
    loop {
        match core.log.store().sweep_objects().await {
            Ok(swept) => {
                core.metrics.objects_removed.add(swept.removed as u64);
                if swept.done || core.is_stopping() {
                    return true;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "objects that are not needed any more were not removed; it is tried again");
                return false;
            }
        }
    }
}
