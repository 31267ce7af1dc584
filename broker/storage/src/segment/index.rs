//! The index of a segment: where each extent starts, and the largest timestamp in it.
//!
//! Kept in memory for the segment that is being written, in a `.tgx` file beside a sealed one. The file is written now and then for
//! the active segment too, so that recovery does not start from the front. An index that is missing or damaged is rebuilt from the
//! segment.

use super::{
    format::ExtentHeader,
    manifest::{SEGMENT_BYTES, Segment},
};
use bytes::{Buf, BufMut};
use tidegate_records::{
    ids::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition},
    time::Timestamp,
};

const MAGIC: [u8; 8] = *b"TGINDEX\0";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 8 + 4 + 4 + 16 + SEGMENT_BYTES + 8 + 4;
const ENTRY_BYTES: usize = 24;

/// One extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    pub base_offset: Offset,
    /// In blocks.
    pub position_blocks: u32,
    pub leader_epoch: LeaderEpoch,
    pub max_timestamp: Timestamp,
}

impl IndexEntry {
    pub(crate) fn new(header: &ExtentHeader) -> Self {
        Self {
            base_offset: header.base_offset,
            position_blocks: u32::try_from(header.position / crate::disk::BLOCK_BYTES as u64)
                .expect("segments are below 16 TiB"),
            leader_epoch: header.leader_epoch,
            max_timestamp: header.max_timestamp,
        }
    }

    /// Where the extent starts in the segment file.
    #[must_use]
    pub fn position(&self) -> u64 {
        u64::from(self.position_blocks) * crate::disk::BLOCK_BYTES as u64
    }
}

/// The extents of a segment, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    pub entries: Vec<IndexEntry>,
}

impl Index {
    /// Where in `entries` the extent that holds `offset` stands; the first one for an offset before it.
    #[must_use]
    pub fn position_of(&self, offset: Offset) -> usize {
        self.entries.partition_point(|entry| entry.base_offset <= offset).saturating_sub(1)
    }
}

/// An index as it is stored, with what it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexFile {
    pub topic_partition: TopicPartition,
    /// The segment as far as the index covers it.
    pub segment: Segment,
    /// The largest session among the extents.
    pub session: u64,
    pub index: Index,
}

impl IndexFile {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + ENTRY_BYTES * self.index.entries.len() + 4);
        out.put_slice(&MAGIC);
        out.put_u32_le(VERSION);
        out.put_i32_le(self.topic_partition.partition.0);
        out.put_slice(&self.topic_partition.topic.0);
        self.segment.encode(&mut out);
        out.put_u64_le(self.session);
        out.put_u32_le(u32::try_from(self.index.entries.len()).expect("a segment has fewer extents than 2^32"));
        debug_assert_eq!(out.len(), HEADER_BYTES);
        for entry in &self.index.entries {
            out.put_i64_le(entry.base_offset.0);
            out.put_u32_le(entry.position_blocks);
            out.put_i32_le(entry.leader_epoch.0);
            out.put_i64_le(entry.max_timestamp.0);
        }
        out.put_u32_le(crc32c::crc32c(&out));
        out
    }

    /// `None`: not an index, or damaged.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, mut sum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        if body.len() < HEADER_BYTES || crc32c::crc32c(body) != sum.get_u32_le() {
            return None;
        }
        let (magic, mut rest) = body.split_at(MAGIC.len());
        if magic != MAGIC || rest.get_u32_le() != VERSION {
            return None;
        }
        let partition = PartitionIndex(rest.get_i32_le());
        let mut topic = TopicId::ZERO;
        rest.copy_to_slice(&mut topic.0);
        let segment = Segment::decode(&mut rest)?;
        let session = rest.get_u64_le();
        let count = rest.get_u32_le() as usize;
        if rest.len() != count.checked_mul(ENTRY_BYTES)? {
            return None;
        }
        let mut entries = Vec::with_capacity(count);
        while rest.has_remaining() {
            entries.push(IndexEntry {
                base_offset: Offset(rest.get_i64_le()),
                position_blocks: rest.get_u32_le(),
                leader_epoch: LeaderEpoch(rest.get_i32_le()),
                max_timestamp: Timestamp(rest.get_i64_le()),
            });
        }
        Some(Self {
            topic_partition: TopicPartition::new(topic, partition),
            segment,
            session,
            index: Index { entries },
        })
    }
}
