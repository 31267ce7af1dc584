//! What a store knows of one partition: its four ends, its tail in memory, its segments.
//!
//! `log_start <= synced <= applied <= durable <= appended`. The tail holds every batch from `applied` to `durable` (they are in the
//! journal and in memory, but not in a segment yet) and, as long as memory allows, some before.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use tidegate_records::{
    ids::{LeaderEpoch, Offset, TopicPartition},
    time::Timestamp,
};

use crate::{
    error::Damage,
    gate::PartitionGate,
    segment::{
        format::{ExtentBatch, ExtentHeader},
        index::{Index, IndexEntry},
        manifest::{Manifest, Segment, SegmentState},
    },
};

/// When a segment is full. Kafka's `segment.bytes` and `segment.ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentConfig {
    /// Bytes of batches; a segment holds at least one batch. Default: 1 GiB.
    pub segment_bytes: u64,
    /// Milliseconds between the append times of its first and last batch. Default: 7 days.
    pub segment_ms: i64,
}

impl Default for SegmentConfig {
    fn default() -> Self {
        Self { segment_bytes: 1 << 30, segment_ms: 7 * 24 * 3600 * 1000 }
    }
}

/// A batch in memory.
#[derive(Clone, Debug)]
pub(crate) struct TailBatch {
    /// Where the log ended before it.
    pub(crate) base_offset: Offset,
    pub(crate) next_offset: Offset,
    /// The batches of this partition that were committed together.
    pub(crate) run: Bytes,
    /// Where in `run` this one is.
    pub(crate) start: u32,
    pub(crate) length: u32,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) append_time: Timestamp,
    pub(crate) min_timestamp: Timestamp,
    pub(crate) max_timestamp: Timestamp,
    /// In whose buffer it is.
    pub(crate) round: u64,
}

impl TailBatch {
    pub(crate) fn bytes(&self) -> Bytes {
        let start = self.start as usize;
        self.run.slice(start..start + self.length as usize)
    }

    pub(crate) fn to_extent_batch(&self) -> ExtentBatch {
        ExtentBatch {
            bytes: self.bytes(),
            stamp: None,
            append_time: self.append_time,
            min_timestamp: self.min_timestamp,
            max_timestamp: self.max_timestamp,
            leader_epoch: self.leader_epoch,
            next_offset: self.next_offset,
        }
    }
}

/// What is known of the active segment beyond its manifest entry.
#[derive(Debug, Default)]
pub(crate) struct ActiveIndex {
    pub(crate) index: Index,
    /// The largest session among its extents.
    pub(crate) session: u64,
    /// Up to which position the stored index covers it.
    pub(crate) saved_position: u64,
    /// Up to which position the file is known to be on stable storage; 0 if that is not known.
    pub(crate) synced_position: u64,
    /// Up to which position the file is zeros written and synced: extents may go there within a commit round.
    pub(crate) prewritten: u64,
}

#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) config: SegmentConfig,
    /// As it is in memory: the counts of the active segment run ahead of the file.
    pub(crate) manifest: Manifest,
    /// Whether the partition has a directory.
    pub(crate) on_disk: bool,
    pub(crate) appended_end: Offset,
    pub(crate) durable_end: Offset,
    pub(crate) applied_end: Offset,
    pub(crate) synced_end: Offset,
    pub(crate) tail: VecDeque<TailBatch>,
    pub(crate) unapplied_bytes: usize,
    pub(crate) active: ActiveIndex,
    /// Of every leader epoch its first offset, as far as batches are durable.
    pub(crate) epochs: Vec<(LeaderEpoch, Offset)>,
    /// Ascending.
    pub(crate) snapshots: Vec<Offset>,
    pub(crate) damage: Option<Damage>,
    /// Whoever changes segments or the manifest is inside.
    pub(crate) gate: PartitionGate,
    /// Bytes that were large enough for the direct path, since the store was opened: how much room to pre-write goes by them.
    pub(crate) large_bytes: u64,
    /// The log is being cut back: nothing is appended.
    pub(crate) cutting: bool,
    /// A cut that the journal has and the segments do not: where to, and its number.
    pub(crate) unfinished_cut: Option<(Offset, u64)>,
    /// Uploads that are on their way: their objects are nobody's yet, and must stay.
    pub(crate) uploading: BTreeSet<u64>,
    /// The object store may have objects that the manifest does not name.
    pub(crate) sweep: bool,
}

impl Partition {
    pub(crate) fn new(topic_partition: TopicPartition, config: SegmentConfig) -> Self {
        Self {
            config,
            manifest: Manifest::new(topic_partition),
            on_disk: false,
            appended_end: Offset(0),
            durable_end: Offset(0),
            applied_end: Offset(0),
            synced_end: Offset(0),
            tail: VecDeque::new(),
            unapplied_bytes: 0,
            active: ActiveIndex::default(),
            epochs: Vec::new(),
            snapshots: Vec::new(),
            damage: None,
            gate: PartitionGate::default(),
            large_bytes: 0,
            cutting: false,
            unfinished_cut: None,
            uploading: BTreeSet::new(),
            sweep: false,
        }
    }

    pub(crate) fn log_start_offset(&self) -> Offset {
        self.manifest.log_start_offset
    }

    pub(crate) fn active_segment(&self) -> Option<&Segment> {
        self.manifest.segments.last().filter(|segment| segment.state == SegmentState::Active)
    }

    pub(crate) fn active_segment_mut(&mut self) -> Option<&mut Segment> {
        self.manifest.segments.last_mut().filter(|segment| segment.state == SegmentState::Active)
    }

    /// Where in the tail the first batch that ends after `offset` is.
    pub(crate) fn tail_position(&self, offset: Offset) -> usize {
        self.tail.partition_point(|batch| batch.next_offset <= offset)
    }

    /// The first offset that memory serves.
    pub(crate) fn tail_start(&self) -> Offset {
        self.tail.front().map_or(self.durable_end, |batch| batch.base_offset)
    }

    /// Takes note of a batch's leader epoch.
    pub(crate) fn note_epoch(&mut self, epoch: LeaderEpoch, base_offset: Offset) {
        if self.epochs.last().is_none_or(|(last, _)| epoch > *last) {
            self.epochs.push((epoch, base_offset));
        }
    }

    /// Drops the epochs that no batch below `end` or above the log start has.
    pub(crate) fn trim_epochs(&mut self) {
        let start = self.log_start_offset();
        let end = self.durable_end;
        self.epochs.retain(|(_, first)| *first < end);
        while self.epochs.len() > 1 && self.epochs[1].1 <= start {
            self.epochs.remove(0);
        }
    }

    /// The first offset of each leader epoch that the log has, none below its start.
    pub(crate) fn epochs_of_log(&self) -> Vec<(LeaderEpoch, Offset)> {
        let start = self.log_start_offset();
        let superseded = self.epochs.partition_point(|(_, first)| *first <= start).saturating_sub(1);
        self.epochs[superseded..].iter().map(|(epoch, first)| (*epoch, (*first).max(start))).collect()
    }

    /// Adds a batch that is durable at the end of the tail.
    pub(crate) fn push_durable(&mut self, batch: TailBatch) {
        assert_eq!(batch.base_offset, self.durable_end, "batches follow one another");
        self.note_epoch(batch.leader_epoch, batch.base_offset);
        self.durable_end = batch.next_offset;
        self.unapplied_bytes += batch.length as usize;
        self.tail.push_back(batch);
    }

    /// Takes note of an extent that was written to the active segment. `applied_end` is the caller's to move.
    pub(crate) fn note_extent(&mut self, header: &ExtentHeader, last_append_time: Timestamp) {
        let active = self.active_segment_mut().expect("extents are written to an active segment, with its gate held");
        active.add(header, last_append_time);
        self.active.session = header.place.session;
        self.active.index.entries.push(IndexEntry::new(header));
    }

    /// Forgets the applied batches of rounds up to `round` at the front of the tail.
    pub(crate) fn evict(&mut self, round: u64) {
        while let Some(front) = self.tail.front() {
            if front.round > round || front.next_offset > self.applied_end {
                break;
            }
            self.tail.pop_front();
        }
    }

    /// Forgets the applied batches below `offset`, which have been rewritten: readers find them in the segments.
    pub(crate) fn forget_tail_below(&mut self, offset: Offset) {
        let end = offset.min(self.applied_end);
        while self.tail.front().is_some_and(|front| front.next_offset <= end) {
            self.tail.pop_front();
        }
    }

    pub(crate) fn assert_invariants(&self) {
        assert!(self.synced_end <= self.applied_end, "what is synced was applied");
        assert!(self.applied_end <= self.durable_end, "what is applied was durable");
        assert!(self.durable_end <= self.appended_end, "what is durable was appended");
    }
}
