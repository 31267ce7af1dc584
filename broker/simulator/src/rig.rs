//! A store on a calm disk, for tests that tell one story step by step instead of leaving it to chance.

use std::path::PathBuf;

use bytes::Bytes;
use tidegate_records::{
    batch::Batches,
    ids::{LeaderEpoch, Offset, PartitionIndex, ProducerId, Sequence, TopicId, TopicPartition},
    time::Timestamp,
};
use tidegate_storage::{
    Append, AppendError, OpenError, PartitionSpec, ReadError, ReadRequest, RecoveredPartition, RoundReport,
    SegmentConfig, Store, StoreOptions,
    disk::Flush,
    read_only::block_on,
    verify::{Finding, Seen, verify},
};

use crate::{
    batches::{BatchSpec, make},
    disk::{SimulatedDisk, Stop},
};

/// The partition with this index; all are of one topic.
#[must_use]
pub fn partition(index: i32) -> TopicPartition {
    TopicPartition::new(TopicId([7; 16]), PartitionIndex(index))
}

/// Small files, so that a test fills them soon.
#[must_use]
pub fn small_options() -> StoreOptions {
    StoreOptions {
        journal_bytes_max: 4 * 64 * 1024,
        journal_file_bytes: 64 * 1024,
        journal_first_file_bytes: 64 * 1024,
        extent_bytes: 8 * 1024,
        prewrite_bytes: 64 * 1024,
        direct_min_bytes: 4 * 1024,
        unapplied_bytes_max: 128 * 1024,
        ..StoreOptions::default()
    }
}

/// A machine with a disk, on which a store is opened again and again.
pub struct Rig {
    pub disk: SimulatedDisk,
    pub options: StoreOptions,
    pub segment: SegmentConfig,
    pub partitions: i32,
    /// Of what is appended.
    pub durability: Flush,
    store: Option<Store<SimulatedDisk>>,
    fill: u64,
}

impl Rig {
    #[must_use]
    pub fn new(partitions: i32) -> Self {
        let disk = SimulatedDisk::calm();
        let segment = SegmentConfig { segment_bytes: 1 << 20, segment_ms: i64::MAX };
        let durability = Flush::Durable;
        Self { disk, options: small_options(), segment, partitions, durability, store: None, fill: 0 }
    }

    /// Opens the store.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(&mut self) -> Result<Vec<RecoveredPartition>, OpenError> {
        let (store, recovered) = block_on(self.opening())?;
        self.store = Some(store);
        Ok(recovered)
    }

    /// The opening of a store, for whoever runs it on a disk that waits.
    pub fn opening(
        &self,
    ) -> impl Future<Output = Result<(Store<SimulatedDisk>, Vec<RecoveredPartition>), OpenError>> + use<> {
        let specs = (0..self.partitions)
            .map(|index| PartitionSpec { topic_partition: partition(index), config: self.segment })
            .collect();
        Store::open(self.disk.clone(), self.options.clone(), specs)
    }

    /// Takes over a store that was opened elsewhere.
    pub fn take_over(&mut self, store: Store<SimulatedDisk>) {
        self.store = Some(store);
    }

    /// Opens the store of a disk on which nothing is wrong.
    ///
    /// # Panics
    /// When something is.
    pub fn open_whole(&mut self) {
        for found in self.open().expect("the store opens") {
            assert_eq!(found.error, None, "{}", found.topic_partition);
        }
    }

    /// The store that was opened last.
    ///
    /// # Panics
    /// When none is open.
    #[must_use]
    pub fn store(&self) -> Store<SimulatedDisk> {
        self.store.clone().expect("a store is open")
    }

    /// The process dies, or the machine loses power.
    pub fn crash(&mut self, stop: Stop) {
        self.store = None;
        self.disk.restart(stop);
    }

    /// Queues a batch of one record with about `value_bytes`.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn append(&mut self, index: i32, value_bytes: usize) -> Result<(), AppendError> {
        let store = self.store();
        self.fill += 1;
        let base_offset = store.offsets(partition(index)).map_or(Offset(0), |offsets| offsets.log_end_offset);
        let spec = BatchSpec {
            offsets: 1,
            timestamp: Timestamp(1_000_000),
            producer_id: ProducerId(7),
            base_sequence: Sequence(0),
            value_bytes,
            fill: self.fill,
        };
        let (bytes, header) = make(&spec);
        let append = Append {
            bytes,
            header,
            base_offset,
            leader_epoch: LeaderEpoch(0),
            append_time: Timestamp(1_000_000),
            durability: self.durability,
        };
        store.append(partition(index), append)
    }

    /// Appends a batch and commits it.
    ///
    /// # Panics
    /// When the store does not take it.
    pub fn write(&mut self, index: i32, value_bytes: usize) -> RoundReport {
        self.append(index, value_bytes).expect("there is room");
        block_on(self.store().commit_round()).expect("the disk takes it")
    }

    /// Makes a partition ready for the direct path: a batch that is large enough goes straight into its segment now.
    ///
    /// # Panics
    /// When it does not.
    pub fn make_direct(&mut self, index: i32) {
        for _ in 0..3 {
            self.write(index, 9000);
            self.apply();
        }
        assert_eq!(self.write(index, 9000).direct_batches, 1, "the options lead there");
    }

    /// Does all background work that there is.
    pub fn apply(&self) {
        while block_on(self.store().apply_step(1 << 20)) {}
    }

    /// The batches of a partition from the start of its log on.
    ///
    /// # Errors
    /// As [`Store::read`].
    ///
    /// # Panics
    /// When what is read is no batch.
    pub fn read(&self, index: i32) -> Result<Vec<Bytes>, ReadError> {
        let store = self.store();
        let offsets = store.offsets(partition(index)).ok_or(ReadError::Unknown(partition(index)))?;
        let mut batches = Vec::new();
        let mut from = offsets.log_start_offset;
        while from < offsets.log_end_offset {
            let up_to = offsets.log_end_offset;
            let request = ReadRequest { from, bytes_max: 1 << 20, up_to, at_least_one: true };
            let read = block_on(store.read(partition(index), request))?;
            let before = from;
            for slice in &read {
                for each in Batches::new(slice) {
                    let (header, bytes) = each.expect("what is read is batches");
                    from = header.next_offset();
                    batches.push(slice.slice_ref(bytes));
                }
            }
            if from == before {
                break;
            }
        }
        Ok(batches)
    }

    /// What `tidegate log verify` would say of the disk.
    ///
    /// # Panics
    /// When a directory cannot be listed.
    #[must_use]
    pub fn verify(&self) -> Vec<Finding> {
        let partitions = (0..self.partitions).map(partition).collect();
        let mut found = Vec::new();
        let mut see = |seen: Seen<'_>| {
            if let Seen::Finding(finding) = seen {
                found.push(finding.clone());
            }
        };
        self.disk.look_on(verify(&self.disk, Some(&partitions), &mut see)).expect("directories can be listed");
        found
    }

    /// The files whose names end so.
    #[must_use]
    pub fn files(&self, end: &str) -> Vec<PathBuf> {
        let files = self.disk.files().into_iter().map(|(path, _)| path);
        files.filter(|path| path.to_str().is_some_and(|path| path.ends_with(end))).collect()
    }
}
