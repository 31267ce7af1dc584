//! The leader's rules: which offset a batch gets, who has it, and how far consumers may read.
//!
//! Invariants, asserted after each step: `log start <= high watermark <= log end`, `durable end <= log end`, epochs and their
//! start offsets only grow. Sources: KIP-101 (leader epochs), KIP-98 (sequences), KIP-966 (why only durable copies count).

use std::collections::BTreeMap;

use tidegate_records::{
    batch::BatchHeader,
    ids::{BrokerId, LeaderEpoch, Offset},
    time::Timestamp,
};

use super::producers::{Producers, SequenceCheck, SequenceError};

/// The first offset that the leader of an epoch wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    pub epoch: LeaderEpoch,
    pub start_offset: Offset,
}

/// Where an accepted batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Write it; it is acknowledged once `next_offset` is covered by the commit rule.
    New { base_offset: Offset, next_offset: Offset },
    /// A retry: nothing to write. The answer still waits until the first copy is committed.
    Duplicate { base_offset: Offset, next_offset: Offset },
}

impl Appended {
    #[must_use]
    pub fn base_offset(self) -> Offset {
        match self {
            Self::New { base_offset, .. } | Self::Duplicate { base_offset, .. } => base_offset,
        }
    }

    #[must_use]
    pub fn next_offset(self) -> Offset {
        match self {
            Self::New { next_offset, .. } | Self::Duplicate { next_offset, .. } => next_offset,
        }
    }
}

/// Why a batch is not appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    #[error("{in_sync} replicas are in sync, min.insync.replicas asks for {needed}")]
    NotEnoughReplicas { in_sync: usize, needed: i32 },
    #[error("the partition has no offsets left")]
    OffsetsExhausted,
}

/// A partition of which this broker is the leader.
#[derive(Clone, Debug)]
pub struct Partition {
    leader_epoch: LeaderEpoch,
    log_start_offset: Offset,
    log_end_offset: Offset,
    /// Everything below is on this broker's disk.
    durable_end_offset: Offset,
    high_watermark: Offset,
    epochs: Vec<EpochStart>,
    producers: Producers,
    /// The followers in the in-sync set and how far each has fetched; the leader itself is not among them.
    in_sync_followers: BTreeMap<BrokerId, Offset>,
}

impl Partition {
    /// A partition as recovery found it: everything there is durable.
    #[must_use]
    pub fn recovered(
        log_start_offset: Offset,
        log_end_offset: Offset,
        epochs: Vec<EpochStart>,
        producers: Producers,
    ) -> Self {
        let leader_epoch = epochs.last().map_or(LeaderEpoch(0), |start| start.epoch);
        let partition = Self {
            leader_epoch,
            log_start_offset,
            log_end_offset,
            durable_end_offset: log_end_offset,
            high_watermark: log_end_offset,
            epochs,
            producers,
            in_sync_followers: BTreeMap::new(),
        };
        partition.assert_invariants();
        partition
    }

    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    #[must_use]
    pub fn log_start_offset(&self) -> Offset {
        self.log_start_offset
    }

    #[must_use]
    pub fn log_end_offset(&self) -> Offset {
        self.log_end_offset
    }

    #[must_use]
    pub fn durable_end_offset(&self) -> Offset {
        self.durable_end_offset
    }

    /// How many replicas have everything below `next_offset`, durably; followers that are not in sync do not count.
    #[must_use]
    pub fn durable_copies(&self, next_offset: Offset) -> u32 {
        let followers = self.in_sync_followers.values().filter(|fetched| **fetched >= next_offset).count();
        u32::from(self.durable_end_offset >= next_offset) + followers as u32
    }

    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// How far a `read_committed` consumer may read. Without transactions that is the high watermark.
    #[must_use]
    pub fn last_stable_offset(&self) -> Offset {
        self.high_watermark
    }

    #[must_use]
    pub fn producers(&self) -> &Producers {
        &self.producers
    }

    /// Replicas in sync, the leader among them.
    #[must_use]
    pub fn in_sync_count(&self) -> usize {
        1 + self.in_sync_followers.len()
    }

    /// Accepts `header`'s batch as leader and assigns its offsets. Not durable yet: report [`Partition::durable`] once it is.
    ///
    /// `needed_in_sync` is `min.insync.replicas` where the producer asked for `acks=all`. `append_time` is the broker's clock.
    /// Cost: O(log producers), no allocation for a known producer.
    ///
    /// # Errors
    /// [`AppendError::Sequence`]: a gap after the producer's last batch or a fenced epoch; nothing has changed.
    pub fn append(
        &mut self,
        header: &BatchHeader,
        append_time: Timestamp,
        needed_in_sync: Option<i32>,
    ) -> Result<Appended, AppendError> {
        if let Some(needed) = needed_in_sync
            && (self.in_sync_count() as i64) < i64::from(needed)
        {
            return Err(AppendError::NotEnoughReplicas { in_sync: self.in_sync_count(), needed });
        }
        if let SequenceCheck::Duplicate(batch) = self.producers.check(header)? {
            return Ok(Appended::Duplicate { base_offset: batch.base_offset, next_offset: batch.last_offset.plus(1) });
        }
        let base_offset = self.log_end_offset;
        let records = i64::from(header.last_offset_delta) + 1;
        let next = base_offset.0.checked_add(records).ok_or(AppendError::OffsetsExhausted)?;
        if self.epochs.last().is_none_or(|last| last.epoch < self.leader_epoch) {
            self.epochs.push(EpochStart { epoch: self.leader_epoch, start_offset: base_offset });
        }
        let stamped = BatchHeader { base_offset, partition_leader_epoch: self.leader_epoch, ..*header };
        self.producers.appended(&stamped, append_time);
        self.log_end_offset = Offset(next);
        self.assert_invariants();
        Ok(Appended::New { base_offset, next_offset: self.log_end_offset })
    }

    /// Everything below `next_offset` is on the disk. Returns whether the high watermark moved.
    pub fn durable(&mut self, next_offset: Offset) -> bool {
        assert!(next_offset <= self.log_end_offset, "only what was appended can be durable");
        self.durable_end_offset = self.durable_end_offset.max(next_offset);
        self.advance_high_watermark()
    }

    /// A follower asks for records from `offset` on: it has everything below, durably. Returns whether the high watermark moved.
    pub fn replica_fetched(&mut self, replica: BrokerId, offset: Offset) -> bool {
        match self.in_sync_followers.get_mut(&replica) {
            Some(fetched) => {
                *fetched = offset.max(*fetched);
                self.advance_high_watermark()
            }
            None => false,
        }
    }

    /// The in-sync set that the cluster agreed on. New followers start from the high watermark.
    pub fn set_in_sync(&mut self, followers: &[BrokerId]) {
        let high_watermark = self.high_watermark;
        let known = std::mem::take(&mut self.in_sync_followers);
        self.in_sync_followers =
            followers.iter().map(|id| (*id, known.get(id).copied().unwrap_or(high_watermark))).collect();
        self.advance_high_watermark();
        self.assert_invariants();
    }

    fn advance_high_watermark(&mut self) -> bool {
        let committed = self.in_sync_followers.values().copied().fold(self.durable_end_offset, Offset::min);
        let moved = committed > self.high_watermark;
        if moved {
            self.high_watermark = committed;
        }
        self.assert_invariants();
        moved
    }

    /// Retention or DeleteRecords removed everything below `offset`. Never goes back; never passes the high watermark.
    pub fn advance_log_start(&mut self, offset: Offset) -> bool {
        let target = offset.min(self.high_watermark);
        let moved = target > self.log_start_offset;
        if moved {
            self.log_start_offset = target;
            // Kafka keeps the epoch that the new start lies in, with the start clamped.
            let keep = self.epochs.iter().rposition(|start| start.start_offset <= target).unwrap_or(0);
            self.epochs.drain(..keep);
            if let Some(first) = self.epochs.first_mut() {
                first.start_offset = first.start_offset.max(target);
            }
        }
        self.assert_invariants();
        moved
    }

    /// The epoch in which the record at `offset` was written, if that is known.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.epochs.partition_point(|start| start.start_offset <= offset);
        Some(self.epochs.get(after.checked_sub(1)?)?.epoch)
    }

    /// The last offset + 1 of the largest epoch that is not above `epoch` (KIP-101), and that epoch. Of an epoch from before the
    /// log's start: where the log's first begins. `None` for one that is still to come.
    #[must_use]
    pub fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        if epoch == self.leader_epoch {
            return Some((epoch, self.log_end_offset));
        }
        if epoch.0 < 0 {
            return None;
        }
        let after = self.epochs.partition_point(|start| start.epoch <= epoch);
        let end = self.epochs.get(after)?.start_offset;
        let held = after.checked_sub(1).map_or(epoch, |held| self.epochs[held].epoch);
        Some((held, end))
    }

    /// Forgets idle producers; see [`Producers::expire`].
    pub fn expire_producers(&mut self, now: Timestamp, expiration_ms: i64) -> usize {
        self.producers.expire(now, expiration_ms)
    }

    fn assert_invariants(&self) {
        assert!(self.log_start_offset <= self.high_watermark, "the log starts at or below the high watermark");
        assert!(self.high_watermark <= self.log_end_offset, "what is committed was appended");
        assert!(self.durable_end_offset <= self.log_end_offset, "what is durable was appended");
        debug_assert!(self.epochs.is_sorted_by(|a, b| a.epoch < b.epoch && a.start_offset <= b.start_offset));
    }
}
