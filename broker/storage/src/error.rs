//! What storage says when something does not go: to whoever appends, reads or opens.

use std::path::{Path, PathBuf};

use tidegate_records::ids::{Offset, TopicPartition};

use crate::{disk::DiskError, objects::ObjectError};

/// Why a batch was not taken. Nothing of it is kept; the partition's end is where it was.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk is full and the journal's pre-written space is used up. Heals when there is room.
    #[error("the disk is full and the journal has no room left: free some space, or delete records")]
    NoSpace,
    /// An earlier write or flush failed: this store takes no more writes until it is opened again.
    #[error("an earlier write failed, so nothing more is written: {0}")]
    Failed(DiskError),
    #[error("{0} is offline: {1}")]
    Offline(TopicPartition, Box<Damage>),
    /// More is waiting than the store may hold. Heals as soon as rounds and apply steps catch up.
    #[error("too much is waiting to be written: try again when rounds have caught up")]
    Backpressure,
    #[error("{0} is not on this shard")]
    Unknown(TopicPartition),
    #[error("a batch of {bytes} bytes is larger than a journal file can take ({bytes_max})")]
    TooLarge { bytes: usize, bytes_max: usize },
}

/// Why there is nothing to read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{0} is not on this shard")]
    Unknown(TopicPartition),
    #[error("offset {from} is outside {log_start_offset}..={log_end_offset}")]
    OutOfRange { from: Offset, log_start_offset: Offset, log_end_offset: Offset },
    #[error("offline: {0}")]
    Offline(Box<Damage>),
    #[error(transparent)]
    Damaged(#[from] Box<Damage>),
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// What is wanted was sent to the object store, which does not give it now.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// Why a change of a partition's files was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("{0} is not on this shard")]
    Unknown(TopicPartition),
    #[error("{0} is offline: {1}")]
    Offline(TopicPartition, Box<Damage>),
    #[error("an earlier write failed, so nothing more is written: {0}")]
    Failed(DiskError),
    #[error(transparent)]
    Damaged(#[from] Box<Damage>),
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The object store did not do its part. Nothing was changed; it can be tried again.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Opening the store would have to fetch the segment from the object store, to know the producers again.
    #[error("a segment of {topic_partition} up to offset {next_offset} is not offloaded before a snapshot covers it")]
    NotCovered { topic_partition: TopicPartition, next_offset: Offset },
    /// The segments named are not sealed, or not there any more.
    #[error("segments of {topic_partition} from offset {from} on are not there or not sealed: look at them again")]
    NotSealed { topic_partition: TopicPartition, from: Offset },
    /// The batches handed in do not fit the segments that they are to replace.
    #[error("a batch at offset {offset} of {topic_partition} lies outside the segments that it is to replace")]
    OutsideSegments { topic_partition: TopicPartition, offset: Offset },
}

/// A write or flush failed: the store is closed for writes and its process must say so and stop.
#[derive(Clone, Debug, thiserror::Error)]
#[error("writing failed, nothing more is acknowledged: {0}. Check the disk (dmesg), then restart")]
pub struct Fatal(#[from] pub DiskError);

/// Why a store could not be opened at all. Damage of one partition is not here but with the partition.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(
        "the number of shards cannot change: the journal of shard {shard} has batches of {topic_partition}, which is offline \
         ({damage}). Start with the old number of shards, or mend the partition"
    )]
    NotDrained { shard: u16, topic_partition: TopicPartition, damage: Box<Damage> },
}

/// Acknowledged bytes that are not what was written. The partition stays offline; nothing is cut silently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error(
        "{} is damaged at byte {position}: round {round} was acknowledged and cannot be read. Restore the file from a copy; or, to \
         go on without what the journal holds, move it out of the data directory", file.display()
    )]
    JournalRound { file: PathBuf, position: u64, round: u64 },
    #[error(
        "{} was cut short, to {bytes} bytes: what was acknowledged behind them cannot be read. Restore the file from a copy; or, to \
         go on without what the journal holds, move it out of the data directory", file.display()
    )]
    JournalCut { file: PathBuf, bytes: u64 },
    #[error(
        "{} is damaged at byte {position}: the batch up to offset {next_offset} was acknowledged and fails its checksum. Restore the \
         file from a copy; or, to go on without what the journal holds, move it out of the data directory", file.display()
    )]
    JournalBatch { file: PathBuf, position: u64, next_offset: Offset },
    #[error(
        "{} does not continue the partition: it goes on at offset {found}, {expected} was expected. Restore the journal file \
         before it from a copy; or, to go on without, move the journal out of the data directory", file.display()
    )]
    JournalGap { file: PathBuf, expected: Offset, found: Offset },
    #[error(
        "{} is damaged at byte {position}, from offset {offset} on. Restore the file from a copy; or, to give up the \
         partition, delete the topic", file.display()
    )]
    Segment { file: PathBuf, position: u64, offset: Offset },
    #[error("{} is missing. Restore it from a copy; or, to give up the partition, delete the topic", file.display())]
    SegmentMissing { file: PathBuf },
    #[error("{} is damaged. Restore it from a copy; or, to give up the partition, delete the topic", file.display())]
    Manifest { file: PathBuf },
    #[error(
        "{} is missing, and there are segments beside it. Restore it from a copy; or, to give up the partition, delete the topic",
        file.display()
    )]
    ManifestMissing { file: PathBuf },
    #[error(
        "{} is missing, though the partition had records in a segment. Restore the partition's directory from a copy; or, to give up the \
         partition, delete the topic", file.display()
    )]
    PartitionMissing { file: PathBuf },
    #[error("{} cannot be read: {message}. Check the disk (dmesg) and the permissions, then restart", file.display())]
    Unreadable { file: PathBuf, message: String },
    #[error(
        "the object {key} is damaged at byte {position}, from offset {offset} on. Restore it in the object store from a copy; or, to go on \
         without, delete the records up to offset {next_offset}"
    )]
    Object { key: String, position: u64, offset: Offset, next_offset: Offset },
    #[error(
        "a segment that has to be read is in the object store, which does not give it ({0}). Mend that, then restart"
    )]
    ObjectUnreadable(ObjectError),
}

impl Damage {
    /// The file, and where in it, as far as that is one place.
    #[must_use]
    pub fn place(&self) -> (&Path, Option<u64>, Option<Offset>) {
        match self {
            Self::JournalRound { file, position, .. } => (file, Some(*position), None),
            Self::JournalCut { file, bytes } => (file, Some(*bytes), None),
            Self::JournalBatch { file, position, next_offset } => (file, Some(*position), Some(*next_offset)),
            Self::JournalGap { file, expected, .. } => (file, None, Some(*expected)),
            Self::Segment { file, position, offset } => (file, Some(*position), Some(*offset)),
            Self::Object { key, position, offset, .. } => (Path::new(key), Some(*position), Some(*offset)),
            Self::ObjectUnreadable(error) => (Path::new(&error.key), None, None),
            Self::SegmentMissing { file }
            | Self::Manifest { file }
            | Self::ManifestMissing { file }
            | Self::PartitionMissing { file }
            | Self::Unreadable { file, .. } => (file, None, None),
        }
    }
}

impl From<DiskError> for Damage {
    fn from(error: DiskError) -> Self {
        Self::Unreadable { file: error.path, message: error.message }
    }
}
