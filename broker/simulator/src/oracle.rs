//! What must be true of a log, kept the trivial way: a list of batches for each partition.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate_records::{
    ids::{LeaderEpoch, Offset, TopicPartition},
    time::Timestamp,
};
use tidegate_storage::{Found, RecoveredPartition, Wanted};

use crate::disk::Stop;

/// A batch that was handed to the store.
#[derive(Clone, Debug)]
pub struct Written {
    pub base_offset: Offset,
    pub next_offset: Offset,
    /// As it is stored: stamped.
    pub bytes: Bytes,
    pub leader_epoch: LeaderEpoch,
    pub append_time: Timestamp,
    pub has_producer: bool,
    /// Of its one record, which stands at its first offset.
    pub timestamp: Timestamp,
    /// A rewrite that was not finished leaves it out.
    pub may_be_gone: bool,
    /// A rewrite that was finished left it out.
    pub gone: bool,
}

/// What is known of one partition.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    pub batches: Vec<Written>,
    /// Acknowledged as on the disk.
    pub durable_end: Offset,
    /// Acknowledged as written.
    pub written_end: Offset,
    pub log_start: Offset,
    /// What a change that is under way may make of the start.
    pub log_start_max: Offset,
    /// A cut that is under way.
    pub cut_to: Option<Offset>,
    /// The newest leader epoch. It never goes back.
    pub epoch: i32,
    /// How often the log was cut.
    pub cuts: u64,
    /// How many rewrites have come to their end.
    pub rewrites: u64,
    /// What may be saved at each offset: what was acknowledged last, and what was tried since.
    pub snapshots: BTreeMap<Offset, Vec<Bytes>>,
    /// How many are being saved.
    pub snapshots_begun: u32,
    /// The newest snapshot that was acknowledged.
    pub snapshot: Option<Offset>,
}

impl Expected {
    #[must_use]
    pub fn end(&self) -> Offset {
        // A cut may leave the end in a gap behind the last batch.
        let end = self.written_end.max(self.log_start);
        self.batches.last().map_or(end, |batch| batch.next_offset.max(end))
    }

    /// Checks what was read from `from` on against what was written; `end` is where the reader must have come.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check_read(
        &self,
        from: Offset,
        end: Offset,
        batches: &[(Offset, Offset, Bytes)],
        removed: Removed,
    ) -> Result<(), String> {
        let mut read = batches.iter().peekable();
        for expected in &self.batches {
            if expected.next_offset <= from || expected.next_offset > end {
                continue;
            }
            match read.peek() {
                Some((base, _, bytes)) if *base == expected.base_offset => {
                    if *bytes != expected.bytes {
                        return Err(format!("the batch at {base} has other bytes than were written"));
                    }
                    if expected.gone && removed == Removed::IsGone {
                        return Err(format!("the batch at {base} is back after it was compacted away"));
                    }
                    read.next();
                }
                _ if expected.gone || expected.may_be_gone => {}
                other => {
                    return Err(format!(
                        "the batch {}..{} is missing, found {:?}",
                        expected.base_offset,
                        expected.next_offset,
                        other.map(|(base, next, _)| (base.0, next.0))
                    ));
                }
            }
        }
        match read.next() {
            Some((base, next, _)) => Err(format!("the batch {base}..{next} was never written, or out of order")),
            None => Ok(()),
        }
    }

    /// Checks what was found by time among the batches that end at or below `up_to`.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check_found(&self, wanted: Wanted, up_to: Offset, found: Option<Found>) -> Result<(), String> {
        if let Some(found) = found {
            let at = self.batches.iter().find(|batch| batch.base_offset == found.offset);
            let right = at.is_some_and(|batch| {
                (batch.timestamp, batch.leader_epoch) == (found.timestamp, found.leader_epoch)
                    && batch.next_offset <= up_to
            });
            if !right {
                return Err(format!("{wanted:?} gave {found:?}, which is no record"));
            }
        }
        let better = self.batches.iter().find(|batch| {
            let stays = batch.base_offset >= self.log_start_max && !batch.gone && !batch.may_be_gone;
            let earlier = found.is_none_or(|found| batch.base_offset < found.offset);
            stays
                && batch.next_offset <= up_to
                && match wanted {
                    Wanted::AtOrAfter(timestamp) => batch.timestamp >= timestamp && earlier,
                    Wanted::MaxTimestamp => found.is_none_or(|found| {
                        batch.timestamp > found.timestamp || (batch.timestamp == found.timestamp && earlier)
                    }),
                }
        });
        match better {
            Some(better) => Err(format!("{wanted:?} gave {found:?}, but {} fits better", better.base_offset)),
            None => Ok(()),
        }
    }
}

/// What a rewrite removed, to whoever reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    IsGone,
    /// It was removed while this was read.
    MayShow,
}

/// All partitions.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    pub partitions: BTreeMap<TopicPartition, Expected>,
}

impl Oracle {
    /// Checks what a store found, and takes it over as the new truth. `all` is every batch of the partition from its start.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check_recovered(
        &mut self,
        stop: Option<Stop>,
        recovered: &RecoveredPartition,
        all: &[(Offset, Offset, Bytes)],
    ) -> Result<(), String> {
        let topic_partition = recovered.topic_partition;
        let expected =
            self.partitions.get_mut(&topic_partition).ok_or_else(|| format!("{topic_partition} is unknown"))?;
        if let Some(damage) = &recovered.error {
            return Err(format!("{topic_partition} is offline without any damage: {damage}"));
        }
        let (start, end) = (recovered.log_start_offset, recovered.log_end_offset);
        let must = match stop {
            Some(Stop::PowerLoss) => expected.durable_end,
            Some(Stop::Kill) => expected.written_end.max(expected.durable_end),
            None => expected.end(),
        };
        let must = expected.cut_to.map_or(must, |to| must.min(to));
        if end < must {
            return Err(format!("{topic_partition} ends at {end}, but {must} was acknowledged"));
        }
        if end > expected.end() {
            return Err(format!("{topic_partition} ends at {end}, but only {} was written", expected.end()));
        }
        if start < expected.log_start && expected.cut_to.is_none() {
            return Err(format!("{topic_partition} starts at {start} again, it was {}", expected.log_start));
        }
        if start > expected.log_start_max {
            return Err(format!("{topic_partition} starts at {start}, at most {} fits", expected.log_start_max));
        }
        expected.check_read(start, end, all, Removed::IsGone).map_err(|what| format!("{topic_partition}: {what}"))?;
        // A rewrite is whole or not at all: what a read did not see is gone, the rest stays.
        let seen: std::collections::BTreeSet<Offset> = all.iter().map(|(base, _, _)| *base).collect();
        expected.batches.retain(|batch| batch.next_offset <= end);
        for batch in &mut expected.batches {
            if batch.may_be_gone && batch.next_offset > start {
                batch.gone = !seen.contains(&batch.base_offset);
                batch.may_be_gone = false;
            }
        }
        Self::check_snapshot(expected, recovered).map_err(|what| format!("{topic_partition}: {what}"))?;
        Self::check_epochs(expected, recovered).map_err(|what| format!("{topic_partition}: {what}"))?;
        expected.log_start = start;
        expected.log_start_max = start;
        expected.durable_end = end;
        expected.written_end = end;
        expected.cut_to = None;
        Ok(())
    }

    fn check_snapshot(expected: &mut Expected, recovered: &RecoveredPartition) -> Result<(), String> {
        let end = recovered.log_end_offset;
        let found = recovered.snapshot.as_ref().map(|(offset, _)| *offset);
        if let Some((offset, content)) = &recovered.snapshot
            && !expected.snapshots.get(offset).is_some_and(|saved| saved.contains(content))
        {
            return Err(format!("the snapshot at {offset} has other bytes than were saved"));
        }
        if expected.snapshot.is_some_and(|must| must <= end && found < Some(must)) {
            return Err(format!("the snapshot at {:?} is missing, found {found:?}", expected.snapshot));
        }
        expected.snapshots.retain(|offset, _| *offset <= end);
        expected.snapshots_begun = 0;
        expected.snapshot = found;
        let from = found.unwrap_or(recovered.log_start_offset).max(recovered.log_start_offset);
        let batches =
            expected.batches.iter().filter(|batch| batch.has_producer && !batch.gone && batch.next_offset > from);
        let expected: Vec<_> = batches.map(|batch| (batch.base_offset, batch.append_time)).collect();
        let found: Vec<_> =
            recovered.batches_since_snapshot.iter().map(|(header, time)| (header.base_offset, *time)).collect();
        if expected != found {
            return Err(format!("the batches since the snapshot are {found:?}, not {expected:?}"));
        }
        Ok(())
    }

    fn check_epochs(expected: &Expected, recovered: &RecoveredPartition) -> Result<(), String> {
        let epochs = &recovered.epochs;
        if epochs.windows(2).any(|pair| pair[0].0 >= pair[1].0 || pair[0].1 >= pair[1].1) {
            return Err(format!("the epochs {epochs:?} do not ascend"));
        }
        for batch in
            expected.batches.iter().filter(|batch| batch.next_offset > recovered.log_start_offset && !batch.gone)
        {
            let at = epochs.iter().rev().find(|(_, start)| *start <= batch.base_offset.max(recovered.log_start_offset));
            if at.map(|(epoch, _)| *epoch) != Some(batch.leader_epoch) {
                return Err(format!(
                    "offset {} is of epoch {}, the epochs say {epochs:?}",
                    batch.base_offset, batch.leader_epoch
                ));
            }
        }
        Ok(())
    }
}
