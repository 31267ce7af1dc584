//! `checkpoint.tgm`: what a shard must still know when a journal file is taken into use again.
//!
//! While the journal has a batch, a segment may be torn where that batch is. Once the file is gone the segment alone answers for it,
//! and nothing in a segment tells where it ended: a last extent that cannot be read would look like the end. So before a file goes,
//! this one is replaced: how far each active segment is on stable storage, and which was the last round that was. It also names the
//! files that are held for partitions that are offline.
//!
//! And it names the journal's files, with the length that each was made with: one that is named and not there, or shorter, was lost, and
//! not by a crash. For that a file is named after it is there and durable, and not named any more before it gets another number or goes.

use std::{collections::BTreeMap, path::PathBuf};

use bytes::{Buf, BufMut};
use tidegate_records::ids::{Offset, PartitionIndex, TopicId, TopicPartition};

use super::files::shard_directory;

const MAGIC: [u8; 8] = *b"TGCHECKP";
/// Version 1 names no files: it has neither their count nor them.
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 8 + 4 + 8 + 8 + 4 + 4;
const FILE_BYTES: usize = 8 + 8;
const SEGMENT_BYTES: usize = 20 + 8 + 8 + 8;
const HELD_BYTES: usize = 20 + 8;

/// How far an active segment is on stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    pub incarnation: u64,
    /// Where its extents end in the file.
    pub position: u64,
    pub next_offset: Offset,
}

/// What `checkpoint.tgm` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The session and number of the last round that was on stable storage; zeros for none.
    pub last_round: (u64, u64),
    pub segments: BTreeMap<TopicPartition, Synced>,
    /// By sequence, the journal files that are held, each with the partitions that need it.
    pub held: BTreeMap<u64, Vec<TopicPartition>>,
    /// By sequence, the files that must be there, held or not, and how many bytes each was made with. There may be more.
    pub files: BTreeMap<u64, u64>,
}

pub(crate) fn checkpoint_path(shard: u16) -> PathBuf {
    shard_directory(shard).join("checkpoint.tgm")
}

fn put_partition(out: &mut Vec<u8>, topic_partition: TopicPartition) {
    out.put_slice(&topic_partition.topic.0);
    out.put_i32_le(topic_partition.partition.0);
}

fn take_partition(bytes: &mut &[u8]) -> TopicPartition {
    let mut topic = TopicId::ZERO;
    bytes.copy_to_slice(&mut topic.0);
    TopicPartition::new(topic, PartitionIndex(bytes.get_i32_le()))
}

impl Checkpoint {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let held_count = self.held.values().map(Vec::len).sum::<usize>();
        let mut out =
            Vec::with_capacity(HEADER_BYTES + SEGMENT_BYTES * self.segments.len() + HELD_BYTES * held_count + 8);
        out.put_slice(&MAGIC);
        out.put_u32_le(VERSION);
        out.put_u64_le(self.last_round.0);
        out.put_u64_le(self.last_round.1);
        out.put_u32_le(u32::try_from(self.segments.len()).expect("fewer than 2^32 partitions"));
        out.put_u32_le(u32::try_from(held_count).expect("fewer than 2^32 partitions in held files"));
        for (topic_partition, synced) in &self.segments {
            put_partition(&mut out, *topic_partition);
            out.put_u64_le(synced.incarnation);
            out.put_u64_le(synced.position);
            out.put_i64_le(synced.next_offset.0);
        }
        for (sequence, partitions) in &self.held {
            for topic_partition in partitions {
                out.put_u64_le(*sequence);
                put_partition(&mut out, *topic_partition);
            }
        }
        out.put_u32_le(u32::try_from(self.files.len()).expect("fewer than 2^32 files"));
        for (sequence, bytes) in &self.files {
            out.put_u64_le(*sequence);
            out.put_u64_le(*bytes);
        }
        out.put_u32_le(crc32c::crc32c(&out));
        out
    }

    /// `None`: not a checkpoint, or damaged.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, mut sum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        if body.len() < HEADER_BYTES || crc32c::crc32c(body) != sum.get_u32_le() {
            return None;
        }
        let (magic, mut rest) = body.split_at(MAGIC.len());
        let version = rest.get_u32_le();
        if magic != MAGIC || !(1..=VERSION).contains(&version) {
            return None;
        }
        let last_round = (rest.get_u64_le(), rest.get_u64_le());
        let segments_count = rest.get_u32_le() as usize;
        let held_count = rest.get_u32_le() as usize;
        let expected = segments_count.checked_mul(SEGMENT_BYTES)?.checked_add(held_count.checked_mul(HELD_BYTES)?)?;
        if rest.len() < expected {
            return None;
        }
        let mut checkpoint = Self { last_round, ..Self::default() };
        for _ in 0..segments_count {
            let topic_partition = take_partition(&mut rest);
            let synced = Synced {
                incarnation: rest.get_u64_le(),
                position: rest.get_u64_le(),
                next_offset: Offset(rest.get_i64_le()),
            };
            checkpoint.segments.insert(topic_partition, synced);
        }
        for _ in 0..held_count {
            let sequence = rest.get_u64_le();
            let topic_partition = take_partition(&mut rest);
            checkpoint.held.entry(sequence).or_default().push(topic_partition);
        }
        if version > 1 {
            let files_count = rest.try_get_u32_le().ok()? as usize;
            if rest.len() != files_count.checked_mul(FILE_BYTES)? {
                return None;
            }
            for _ in 0..files_count {
                checkpoint.files.insert(rest.get_u64_le(), rest.get_u64_le());
            }
        }
        if !rest.is_empty() {
            return None;
        }
        Some(checkpoint)
    }
}
