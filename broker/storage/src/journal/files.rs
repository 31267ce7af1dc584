//! The files of a journal and the room in them: which one is written, which are ready, which wait to be reclaimed.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
};

use tidegate_records::ids::{Offset, TopicPartition};

use super::{
    checkpoint::Checkpoint,
    format::{FILE_HEADER_BYTES, is_number, round_bytes},
};

/// The directory of a shard.
pub(crate) fn shard_directory(shard: u16) -> PathBuf {
    PathBuf::from(format!("shard-{shard}"))
}

/// The shard that a directory's name says.
pub(crate) fn shard_of_directory(name: &str) -> Option<u16> {
    name.strip_prefix("shard-")?.parse().ok()
}

pub(crate) fn file_path(shard: u16, sequence: u64) -> PathBuf {
    shard_directory(shard).join(format!("journal-{sequence:012}.tgj"))
}

/// The sequence in a journal file's name.
pub(crate) fn file_sequence(name: &str) -> Option<u64> {
    name.strip_prefix("journal-")?.strip_suffix(".tgj")?.parse().ok().filter(|sequence| is_number(*sequence))
}

/// A file that is kept for partitions that are offline. The journal goes on without it.
pub(crate) fn held_path(shard: u16, sequence: u64) -> PathBuf {
    shard_directory(shard).join(format!("held-{sequence:012}.tgj"))
}

/// The sequence in the name of a file that is held.
pub(crate) fn held_sequence(name: &str) -> Option<u64> {
    name.strip_prefix("held-")?.strip_suffix(".tgj")?.parse().ok().filter(|sequence| is_number(*sequence))
}

/// A file that is being filled with zeros. It has no number yet.
pub(crate) fn unfinished_path(shard: u16) -> PathBuf {
    shard_directory(shard).join("unfinished.tgj")
}

/// A file, pre-written to its full length.
#[derive(Debug)]
pub(crate) struct JournalFile<F> {
    pub(crate) sequence: u64,
    pub(crate) file: F,
    pub(crate) bytes: u64,
    /// How many it was made with: more where somebody cut it short.
    pub(crate) made_bytes: u64,
    /// Of each partition with batches in it, the offset after the last. The file is free when all are synced in segments.
    pub(crate) ends: BTreeMap<TopicPartition, Offset>,
    /// It was put aside for partitions that were offline, and has the name of such a file.
    pub(crate) held: bool,
}

impl<F> JournalFile<F> {
    pub(crate) fn new(sequence: u64, file: F, bytes: u64) -> Self {
        Self { sequence, file, bytes, made_bytes: bytes, ends: BTreeMap::new(), held: false }
    }

    pub(crate) fn path(&self, shard: u16) -> PathBuf {
        if self.held { held_path(shard, self.sequence) } else { file_path(shard, self.sequence) }
    }
}

/// A new file on its way.
#[derive(Debug)]
pub(crate) struct Unfinished<F> {
    pub(crate) file: F,
    pub(crate) bytes: u64,
    pub(crate) written: u64,
}

#[derive(Debug)]
pub(crate) struct Journal<F> {
    /// Being written.
    pub(crate) current: JournalFile<F>,
    /// Where the next round goes in `current`; 0 until the file's header is written with its first round.
    pub(crate) position: u64,
    /// Pre-written and named, in the order in which they will be used.
    pub(crate) ready: VecDeque<JournalFile<F>>,
    /// Full, oldest first.
    pub(crate) old: VecDeque<JournalFile<F>>,
    /// Full, and needed by partitions that are offline alone. They do not count for the journal's size: nothing more is appended to
    /// such a partition, so there are never more than the journal had files when it went offline.
    pub(crate) held: Vec<JournalFile<F>>,
    pub(crate) unfinished: Option<Unfinished<F>>,
    /// The disk had too little room for a file of the usual size: a batch that needs one is refused and not made to wait.
    pub(crate) cramped: bool,
    pub(crate) next_sequence: u64,
    pub(crate) next_round: u64,
    /// All rounds up to this one were written.
    pub(crate) written_through: u64,
    /// All rounds up to this one are on stable storage.
    pub(crate) flushed_through: u64,
    /// The file before `current`, if it had rounds that were not flushed when it was full. It is synced before `current` gets its first.
    pub(crate) unsynced: Option<F>,
    /// The last round of this session that is on stable storage; 0 for none yet.
    pub(crate) durable_round: u64,
    /// What was last saved beside the journal.
    pub(crate) checkpoint: Checkpoint,
    /// Files up to this sequence are of earlier openings: reclaimed as soon as may be.
    pub(crate) inherited_through: u64,
}

impl<F> Journal<F> {
    /// Bytes of all files.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.current.bytes
            + self.ready.iter().map(|file| file.bytes).sum::<u64>()
            + self.old.iter().map(|file| file.bytes).sum::<u64>()
    }

    /// The files that are there, each with the bytes that it was made with.
    pub(crate) fn files(&self) -> BTreeMap<u64, u64> {
        let all = self.held.iter().chain(&self.old).chain([&self.current]).chain(&self.ready);
        all.map(|file| (file.sequence, file.made_bytes)).collect()
    }

    /// Bytes of a round that fit into the current file.
    pub(crate) fn current_room(&self) -> u64 {
        self.current.bytes.saturating_sub(self.position.max(FILE_HEADER_BYTES))
    }

    /// Whether `pending` bytes (entries counted) can be placed as they are now, with `batch_bytes` the largest batch among them.
    ///
    /// Each file may waste as much at its end as the largest round piece that did not fit, and each round a header and padding.
    pub(crate) fn has_room(&self, pending: u64, batch_bytes: u64) -> bool {
        pending <= self.room(batch_bytes)
    }

    /// Bytes (entries counted) that can be placed for sure in batches of at most `batch_bytes`.
    pub(crate) fn room(&self, batch_bytes: u64) -> u64 {
        let waste = batch_bytes + round_bytes(2, 0) as u64;
        let mut room = self.current_room().saturating_sub(waste);
        for file in &self.ready {
            room += (file.bytes - FILE_HEADER_BYTES).saturating_sub(waste);
        }
        room
    }

    /// The largest batch that any file could take.
    pub(crate) fn batch_bytes_max(file_bytes: u64) -> usize {
        usize::try_from(file_bytes.saturating_sub(FILE_HEADER_BYTES) / 2).unwrap_or(usize::MAX)
    }
}
