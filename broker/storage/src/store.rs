//! The store of one shard: what it holds, how it is asked, how a batch gets in line.
//!
//! All methods take `&self`; a clone is the same store. No borrow of the state outlives a synchronous stretch of code, so appends
//! and reads go on while rounds, apply steps and recovery wait for the disk.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
};

use bytes::Bytes;
use tidegate_records::{
    batch::BatchHeader,
    ids::{LeaderEpoch, Offset, ShardId, TopicPartition},
    time::Timestamp,
};

use crate::{
    cache::{Indexes, OpenFiles, Pieces, TailCache},
    disk::{AlignedBuffer, Disk, DiskError, Flush},
    error::{AppendError, ChangeError, Damage},
    gate::Gate,
    journal::{files::Journal, format::ENTRY_BYTES},
    partition::{Partition, SegmentConfig},
};

/// How a shard's store behaves. The defaults suit a shard with a few hundred MiB of memory.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub shard: ShardId,
    /// Bytes that the journal's files may take together. At least three files. Default: 1 GiB.
    pub journal_bytes_max: u64,
    /// Bytes of one journal file; twice the largest batch at least. Default: 64 MiB.
    pub journal_file_bytes: u64,
    /// Bytes of the file that a store without any starts with, so that it is ready at once. Default: 4 MiB.
    pub journal_first_file_bytes: u64,
    /// Bytes of committed batches kept in memory for readers. Default: 128 MiB.
    pub tail_cache_bytes: usize,
    /// Bytes of segments read and kept for readers that follow. Default: 16 MiB.
    pub read_cache_bytes: usize,
    /// Bytes of batches that may be in the journal and in no segment. Beyond it appends wait. Default: 32 MiB.
    pub unapplied_bytes_max: usize,
    /// Bytes of batches that may wait for a round. Default: 64 MiB.
    pub pending_bytes_max: usize,
    /// Bytes of one round. Default: 8 MiB.
    pub round_bytes_max: usize,
    /// Bytes of one write; larger ones are split into parallel ones. Default: 256 KiB.
    pub write_bytes_max: usize,
    /// Bytes of batches in an extent; a batch that is larger has one of its own. Default: 256 KiB.
    pub extent_bytes: usize,
    /// A partition with at least so many bytes in a round is written straight into its segment. Default: 16 KiB.
    pub direct_min_bytes: usize,
    /// Bytes that a segment is pre-written by, for the direct path. Default: 16 MiB.
    pub prewrite_bytes: u64,
    /// How far an active segment grows until its index is stored again. Default: 16 MiB.
    pub index_every_bytes: u64,
    /// Files held open for reading and applying. Default: 512.
    pub open_files_max: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            shard: ShardId(0),
            journal_bytes_max: 1 << 30,
            journal_file_bytes: 64 << 20,
            journal_first_file_bytes: 4 << 20,
            tail_cache_bytes: 128 << 20,
            read_cache_bytes: 16 << 20,
            unapplied_bytes_max: 32 << 20,
            pending_bytes_max: 64 << 20,
            round_bytes_max: 8 << 20,
            write_bytes_max: 256 << 10,
            extent_bytes: 256 << 10,
            direct_min_bytes: 16 << 10,
            prewrite_bytes: 16 << 20,
            index_every_bytes: 16 << 20,
            open_files_max: 512,
        }
    }
}

/// A partition that the store is to hold.
#[derive(Clone, Copy, Debug)]
pub struct PartitionSpec {
    pub topic_partition: TopicPartition,
    pub config: SegmentConfig,
}

/// A batch to append.
#[derive(Clone, Debug)]
pub struct Append {
    /// Exactly one batch, validated: its checksum is right.
    pub bytes: Bytes,
    pub header: BatchHeader,
    /// Stamped over what the bytes say. Not below the partition's end; above it only where a leader's log has a gap.
    pub base_offset: Offset,
    pub leader_epoch: LeaderEpoch,
    /// The broker's clock.
    pub append_time: Timestamp,
    pub durability: Flush,
}

/// A batch that waits for a round.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) topic_partition: TopicPartition,
    pub(crate) bytes: Bytes,
    /// Where the log ends before it.
    pub(crate) follows: Offset,
    pub(crate) base_offset: Offset,
    pub(crate) next_offset: Offset,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) append_time: Timestamp,
    pub(crate) min_timestamp: Timestamp,
    pub(crate) max_timestamp: Timestamp,
    pub(crate) crc: u32,
    pub(crate) durability: Flush,
}

impl Pending {
    pub(crate) fn cost(&self) -> usize {
        self.bytes.len() + ENTRY_BYTES
    }
}

/// A segment as retention and compaction see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    pub base_offset: Offset,
    /// The offset after its last batch.
    pub next_offset: Offset,
    /// Bytes of its batches.
    pub bytes: u64,
    pub min_timestamp: Timestamp,
    pub max_timestamp: Timestamp,
    /// The broker's clock at its first and last append; -1 where there was none yet.
    pub first_append_time: Timestamp,
    pub last_append_time: Timestamp,
    /// A sealed segment never changes; the last one may be active. Batches that are only in the journal yet count to the active one.
    pub sealed: bool,
    /// Its bytes are in the object store, and not on the disk.
    pub offloaded: bool,
}

/// The offsets of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOffsets {
    pub log_start_offset: Offset,
    /// The end of what is durable (or written, by its durability).
    pub log_end_offset: Offset,
}

/// The store of one shard.
pub struct Store<D: Disk> {
    pub(crate) inner: Rc<Inner<D>>,
}

impl<D: Disk> Clone for Store<D> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

pub(crate) struct Inner<D: Disk> {
    pub(crate) disk: D,
    pub(crate) options: StoreOptions,
    /// Counts the openings of the data directory.
    pub(crate) session: u64,
    pub(crate) state: RefCell<State<D::File>>,
    /// What is pre-written.
    pub(crate) zeros: Arc<AlignedBuffer>,
    /// One round at a time.
    pub(crate) rounds: Gate,
    /// One apply step at a time.
    pub(crate) maintenance: Gate,
}

pub(crate) struct State<F> {
    pub(crate) partitions: BTreeMap<TopicPartition, Partition>,
    pub(crate) pending: VecDeque<Pending>,
    /// The cost of all pending.
    pub(crate) pending_bytes: usize,
    pub(crate) pending_batch_bytes_max: usize,
    pub(crate) unapplied_bytes: usize,
    /// Partitions with an extent's worth of unapplied batches.
    pub(crate) ripe: BTreeSet<TopicPartition>,
    /// Partitions that want pre-written room for the direct path.
    pub(crate) wants_prewritten: BTreeSet<TopicPartition>,
    pub(crate) journal: Journal<F>,
    pub(crate) tail_cache: TailCache,
    pub(crate) pieces: Pieces,
    pub(crate) open_files: OpenFiles<F>,
    pub(crate) indexes: Indexes,
    /// A write or flush failed.
    pub(crate) failed: Option<DiskError>,
    /// The last attempt to take room on the disk failed.
    pub(crate) full: bool,
    pub(crate) room_waiters: Vec<Waker>,
    /// Deleted partitions of which the object store may still have objects.
    pub(crate) doomed: BTreeSet<TopicPartition>,
    /// Uploads begun by this opening.
    pub(crate) uploads: u64,
}

impl<F> State<F> {
    pub(crate) fn wake_room_waiters(&mut self) {
        for waker in self.room_waiters.drain(..) {
            waker.wake();
        }
    }

    /// Drops what waits of a partition.
    pub(crate) fn drop_pending(&mut self, topic_partition: TopicPartition) {
        self.pending.retain(|pending| pending.topic_partition != topic_partition);
        self.pending_bytes = self.pending.iter().map(Pending::cost).sum();
        self.pending_batch_bytes_max = self.pending.iter().map(|pending| pending.bytes.len()).max().unwrap_or(0);
    }

    /// Whether a batch of `bytes` is taken now.
    fn admit(&self, bytes: usize, options: &StoreOptions) -> Result<(), AppendError> {
        if let Some(error) = &self.failed {
            return Err(AppendError::Failed(error.clone()));
        }
        let bytes_max = Journal::<F>::batch_bytes_max(options.journal_file_bytes);
        if bytes > bytes_max {
            return Err(AppendError::TooLarge { bytes, bytes_max });
        }
        let cost = bytes + ENTRY_BYTES;
        // One batch is always taken where nothing waits: no limit may make a batch impossible for good.
        if !self.pending.is_empty() && self.pending_bytes + cost > options.pending_bytes_max {
            return Err(AppendError::Backpressure);
        }
        let unapplied = self.unapplied_bytes + self.pending_bytes;
        let over_unapplied = unapplied > 0 && unapplied + cost > options.unapplied_bytes_max;
        let largest = self.pending_batch_bytes_max.max(bytes) as u64;
        if over_unapplied || !self.journal.has_room((self.pending_bytes + cost) as u64, largest) {
            let too_small =
                self.journal.cramped && largest > Journal::<F>::batch_bytes_max(self.journal.current.bytes) as u64;
            return Err(if self.full || too_small { AppendError::NoSpace } else { AppendError::Backpressure });
        }
        Ok(())
    }
}

impl<D: Disk> Store<D> {
    /// Puts a batch in line for the next round. It is durable when [`Store::commit_round`] reports an offset beyond it.
    ///
    /// # Errors
    /// [`AppendError`]; nothing of the batch is kept then.
    ///
    /// # Panics
    /// When the offsets do not continue the partition: offsets are assigned by who appends, once.
    pub fn append(&self, topic_partition: TopicPartition, append: Append) -> Result<(), AppendError> {
        let state = &mut *self.inner.state.borrow_mut();
        let partition = state.partitions.get(&topic_partition).ok_or(AppendError::Unknown(topic_partition))?;
        if let Some(damage) = &partition.damage {
            return Err(AppendError::Offline(topic_partition, Box::new(damage.clone())));
        }
        if partition.cutting {
            return Err(AppendError::Backpressure);
        }
        state.admit(append.bytes.len(), &self.inner.options)?;
        let partition = state.partitions.get_mut(&topic_partition).expect("it was there above");
        assert!(append.base_offset >= partition.appended_end, "a batch continues its partition");
        assert_eq!(append.bytes.len(), append.header.total_bytes(), "the bytes are exactly one batch");
        let follows = partition.appended_end;
        let next_offset = append.base_offset.plus(i64::from(append.header.last_offset_delta) + 1);
        partition.appended_end = next_offset;
        let pending = Pending {
            topic_partition,
            bytes: append.bytes,
            follows,
            base_offset: append.base_offset,
            next_offset,
            leader_epoch: append.leader_epoch,
            append_time: append.append_time,
            min_timestamp: append.header.base_timestamp,
            max_timestamp: append.header.max_timestamp,
            crc: append.header.crc,
            durability: append.durability,
        };
        state.pending_bytes += pending.cost();
        state.pending_batch_bytes_max = state.pending_batch_bytes_max.max(pending.bytes.len());
        state.pending.push_back(pending);
        Ok(())
    }

    /// Whether a batch of `bytes` would be taken now, apart from its partition. Ask before assigning offsets.
    ///
    /// # Errors
    /// What [`Store::append`] would say.
    pub fn admits(&self, bytes: usize) -> Result<(), AppendError> {
        self.inner.state.borrow().admit(bytes, &self.inner.options)
    }

    /// Waits until a batch of `bytes` is taken again, or never will be because the store failed.
    pub async fn room(&self, bytes: usize) {
        poll_fn(|context| match self.admits(bytes) {
            Err(AppendError::Backpressure | AppendError::NoSpace) => {
                self.inner.state.borrow_mut().room_waiters.push(context.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        })
        .await;
    }

    /// Adds an empty partition. Its files are made when the first batch is applied.
    pub fn create_partition(&self, spec: PartitionSpec) {
        let state = &mut *self.inner.state.borrow_mut();
        state
            .partitions
            .entry(spec.topic_partition)
            .or_insert_with(|| Partition::new(spec.topic_partition, spec.config));
    }

    /// Changes when segments are full, from the next batch applied on.
    pub fn set_partition_config(&self, topic_partition: TopicPartition, config: SegmentConfig) {
        if let Some(partition) = self.inner.state.borrow_mut().partitions.get_mut(&topic_partition) {
            partition.config = config;
        }
    }

    /// The offsets of a partition; `None` if it is not here.
    #[must_use]
    pub fn offsets(&self, topic_partition: TopicPartition) -> Option<LogOffsets> {
        let state = self.inner.state.borrow();
        let partition = state.partitions.get(&topic_partition)?;
        Some(LogOffsets { log_start_offset: partition.log_start_offset(), log_end_offset: partition.durable_end })
    }

    /// Why a partition is offline, if it is.
    #[must_use]
    pub fn damage(&self, topic_partition: TopicPartition) -> Option<Damage> {
        self.inner.state.borrow().partitions.get(&topic_partition)?.damage.clone()
    }

    /// The first offset of each leader epoch that has batches, ascending.
    #[must_use]
    pub fn epochs(&self, topic_partition: TopicPartition) -> Vec<(LeaderEpoch, Offset)> {
        let state = self.inner.state.borrow();
        state.partitions.get(&topic_partition).map(Partition::epochs_of_log).unwrap_or_default()
    }

    /// Bytes of a partition's batches on the disk: what is in the object store is not counted.
    #[must_use]
    pub fn log_bytes(&self, topic_partition: TopicPartition) -> u64 {
        let state = self.inner.state.borrow();
        let Some(partition) = state.partitions.get(&topic_partition) else { return 0 };
        let local = partition.manifest.segments.iter().filter(|segment| !segment.state.is_offloaded());
        local.map(|segment| segment.batches_bytes).sum::<u64>() + partition.unapplied_bytes as u64
    }

    /// The first offset that the disk has: those below are in the object store. `None` if the partition is not here.
    #[must_use]
    pub fn local_start_offset(&self, topic_partition: TopicPartition) -> Option<Offset> {
        let state = self.inner.state.borrow();
        let partition = state.partitions.get(&topic_partition)?;
        let offloaded = partition.manifest.segments.iter().rfind(|segment| segment.state.is_offloaded());
        Some(offloaded.map_or(Offset(0), |segment| segment.next_offset).max(partition.log_start_offset()))
    }

    /// The segments of a partition, by offset.
    #[must_use]
    pub fn segments(&self, topic_partition: TopicPartition) -> Vec<SegmentSummary> {
        let state = self.inner.state.borrow();
        let Some(partition) = state.partitions.get(&topic_partition) else { return Vec::new() };
        let mut out: Vec<SegmentSummary> = partition
            .manifest
            .segments
            .iter()
            .map(|segment| SegmentSummary {
                base_offset: segment.base_offset,
                next_offset: segment.next_offset,
                bytes: segment.batches_bytes,
                min_timestamp: segment.min_timestamp,
                max_timestamp: segment.max_timestamp,
                first_append_time: segment.first_append_time,
                last_append_time: segment.last_append_time,
                sealed: segment.state.is_sealed(),
                offloaded: segment.state.is_offloaded(),
            })
            .collect();
        let unapplied = partition.tail.range(partition.tail_position(partition.applied_end)..);
        for batch in unapplied {
            if out.last().is_none_or(|last| last.sealed) {
                out.push(SegmentSummary {
                    base_offset: batch.base_offset,
                    next_offset: batch.base_offset,
                    bytes: 0,
                    min_timestamp: Timestamp::NONE,
                    max_timestamp: Timestamp::NONE,
                    first_append_time: Timestamp::NONE,
                    last_append_time: Timestamp::NONE,
                    sealed: false,
                    offloaded: false,
                });
            }
            let last = out.last_mut().expect("one was pushed if there was none");
            if last.bytes == 0 {
                last.min_timestamp = batch.min_timestamp;
                last.max_timestamp = batch.max_timestamp;
                last.first_append_time = batch.append_time;
            }
            last.min_timestamp = last.min_timestamp.min(batch.min_timestamp);
            last.max_timestamp = last.max_timestamp.max(batch.max_timestamp);
            last.last_append_time = batch.append_time;
            last.next_offset = batch.next_offset;
            last.bytes += u64::from(batch.length);
        }
        out
    }

    /// What the store holds, for metrics.
    #[must_use]
    pub fn figures(&self) -> StoreFigures {
        let state = self.inner.state.borrow();
        StoreFigures {
            partitions: state.partitions.len(),
            pending_bytes: state.pending_bytes,
            unapplied_bytes: state.unapplied_bytes,
            tail_cache_bytes: state.tail_cache.bytes(),
            journal_bytes: state.journal.total_bytes(),
            journal_files_old: state.journal.old.len(),
            open_files: state.open_files.len(),
            full: state.full,
            failed: state.failed.is_some(),
        }
    }

    /// The partitions that are offline, and why. Looks at all of them.
    #[must_use]
    pub fn partitions_offline(&self) -> Vec<(TopicPartition, Damage)> {
        let state = self.inner.state.borrow();
        let offline = state.partitions.iter().filter_map(|(tp, partition)| Some((*tp, partition.damage.clone()?)));
        offline.collect()
    }

    /// Whether `topic_partition` may be changed: there, online, and the store takes writes.
    pub(crate) fn check_change(&self, topic_partition: TopicPartition) -> Result<(), ChangeError> {
        let state = self.inner.state.borrow();
        if let Some(error) = &state.failed {
            return Err(ChangeError::Failed(error.clone()));
        }
        let partition = state.partitions.get(&topic_partition).ok_or(ChangeError::Unknown(topic_partition))?;
        match &partition.damage {
            Some(damage) => Err(ChangeError::Offline(topic_partition, Box::new(damage.clone()))),
            None => Ok(()),
        }
    }
}

/// What a store holds at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreFigures {
    pub partitions: usize,
    pub pending_bytes: usize,
    pub unapplied_bytes: usize,
    pub tail_cache_bytes: usize,
    pub journal_bytes: u64,
    pub journal_files_old: usize,
    pub open_files: usize,
    /// The disk had no room when it was last asked for some.
    pub full: bool,
    /// A write failed: nothing more is taken.
    pub failed: bool,
}
