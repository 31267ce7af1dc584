//! The bytes of journal files: file header, round header, directory entries. See `FORMAT.md`.
//!
//! A round's checksum covers its header and its directory. The batches' bytes are covered by their own CRC-32C, which the directory
//! repeats, so no byte is summed twice on the way in.

use bytes::{Buf, BufMut};
use tidegate_records::{
    batch::{self, BatchHeader},
    ids::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition},
    time::Timestamp,
};

use crate::disk::{AlignedBuffer, BLOCK_BYTES};

const FILE_MAGIC: [u8; 8] = *b"TGJOURNL";
const ROUND_MAGIC: [u8; 4] = *b"TGRD";
pub(crate) const VERSION: u32 = 1;

/// Bytes of a journal file before its first round.
pub(crate) const FILE_HEADER_BYTES: u64 = BLOCK_BYTES as u64;
const FILE_HEADER_USED: usize = 64;
/// Bytes of a round before its directory.
pub(crate) const ROUND_HEADER_BYTES: usize = 64;
/// Bytes of one directory entry.
pub(crate) const ENTRY_BYTES: usize = 64;

/// The start of a journal file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    pub shard: u16,
    /// The number in the file's name. Rounds repeat it, so that what a recycled file held before is told apart.
    pub sequence: u64,
    /// Counts the openings of the data directory.
    pub session: u64,
    /// The number of the file's first round: one more than the last of the file before.
    pub first_round: u64,
    /// All rounds up to this one are known to be on stable storage.
    pub flushed_through: u64,
}

impl FileHeader {
    pub(crate) fn encode(&self) -> AlignedBuffer {
        let mut bytes = Vec::with_capacity(FILE_HEADER_USED);
        bytes.put_slice(&FILE_MAGIC);
        bytes.put_u32_le(VERSION);
        bytes.put_u32_le(u32::from(self.shard));
        bytes.put_u64_le(self.sequence);
        bytes.put_u64_le(self.session);
        bytes.put_u64_le(self.first_round);
        bytes.put_u64_le(self.flushed_through);
        bytes.resize(FILE_HEADER_USED - 4, 0);
        bytes.put_u32_le(crc32c::crc32c(&bytes));
        let mut block = AlignedBuffer::with_capacity(BLOCK_BYTES);
        block.extend_from_slice(&bytes);
        block.pad_to_block();
        block
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let used = bytes.get(..FILE_HEADER_USED)?;
        let (body, mut sum) = used.split_at(FILE_HEADER_USED - 4);
        if crc32c::crc32c(body) != sum.get_u32_le() {
            return None;
        }
        let (magic, mut rest) = body.split_at(FILE_MAGIC.len());
        if magic != FILE_MAGIC || rest.get_u32_le() != VERSION {
            return None;
        }
        let header = Self {
            shard: u16::try_from(rest.get_u32_le()).ok()?,
            sequence: rest.get_u64_le(),
            session: rest.get_u64_le(),
            first_round: rest.get_u64_le(),
            flushed_through: rest.get_u64_le(),
        };
        (is_number(header.first_round) && header.flushed_through < header.first_round).then_some(header)
    }
}

/// Whether a round or a file can have this number: they count from 1, and half the range leaves room to go on counting.
pub(crate) fn is_number(number: u64) -> bool {
    (1..=u64::MAX / 2).contains(&number)
}

/// The start of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundHeader {
    /// Of the file that it is in.
    pub sequence: u64,
    pub session: u64,
    pub round: u64,
    /// Rounds up to this one were on stable storage when this one was written.
    pub flushed_through: u64,
    /// Where in the file the round starts.
    pub position: u64,
    pub entries_count: u32,
    /// Bytes of all batches.
    pub body_bytes: u32,
}

impl RoundHeader {
    /// Bytes of header and directory.
    #[must_use]
    pub fn directory_bytes(&self) -> usize {
        ROUND_HEADER_BYTES + ENTRY_BYTES * self.entries_count as usize
    }

    /// Bytes of the whole round in the file, padding included.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        round_bytes(self.entries_count as usize, self.body_bytes as usize)
    }

    /// Decodes what stands at the start of `bytes`. The checksum is checked by [`decode_directory`].
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.get(..ROUND_HEADER_BYTES)?;
        if rest.get(..4)? != ROUND_MAGIC {
            return None;
        }
        rest.advance(8);
        let header = Self {
            sequence: rest.get_u64_le(),
            session: rest.get_u64_le(),
            round: rest.get_u64_le(),
            flushed_through: rest.get_u64_le(),
            position: rest.get_u64_le(),
            entries_count: rest.get_u32_le(),
            body_bytes: rest.get_u32_le(),
        };
        (is_number(header.round) && header.flushed_through < header.round).then_some(header)
    }
}

/// Bytes of a round in a file, padding included.
pub(crate) fn round_bytes(entries: usize, body_bytes: usize) -> usize {
    (ROUND_HEADER_BYTES + ENTRY_BYTES * entries + body_bytes).next_multiple_of(BLOCK_BYTES)
}

/// What a round did, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A batch whose bytes are in the round. Bodies stand in the order of the entries.
    Batch {
        topic_partition: TopicPartition,
        /// Where the partition ended before; the batch itself may start later (a gap that compaction left at the leader).
        base_offset: Offset,
        next_offset: Offset,
        leader_epoch: LeaderEpoch,
        length: u32,
        /// The batch's own checksum.
        crc: u32,
        append_time: Timestamp,
    },
    /// An extent that this round wrote straight into a segment.
    Extent {
        topic_partition: TopicPartition,
        base_offset: Offset,
        next_offset: Offset,
        leader_epoch: LeaderEpoch,
        /// Bytes in the file, padding included.
        length: u32,
        /// The checksum of the extent's header, which covers everything else of it.
        crc: u32,
        /// In blocks.
        position_blocks: u32,
        incarnation: u64,
    },
    /// The partition was cut back. `number` counts the cuts of a partition, so that one is not made twice.
    Truncate { topic_partition: TopicPartition, to: Offset, number: u64 },
}

const KIND_BATCH: u32 = 1;
const KIND_EXTENT: u32 = 2;
const KIND_TRUNCATE: u32 = 3;

impl Entry {
    #[must_use]
    pub fn topic_partition(&self) -> TopicPartition {
        match *self {
            Self::Batch { topic_partition, .. }
            | Self::Extent { topic_partition, .. }
            | Self::Truncate { topic_partition, .. } => topic_partition,
        }
    }

    /// Bytes that the entry has among the bodies.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        match *self {
            Self::Batch { length, .. } => length as usize,
            Self::Extent { .. } | Self::Truncate { .. } => 0,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let tp = self.topic_partition();
        let kind = match self {
            Self::Batch { .. } => KIND_BATCH,
            Self::Extent { .. } => KIND_EXTENT,
            Self::Truncate { .. } => KIND_TRUNCATE,
        };
        out.put_u32_le(kind);
        out.put_i32_le(tp.partition.0);
        out.put_slice(&tp.topic.0);
        match *self {
            Self::Batch { base_offset, next_offset, leader_epoch, length, crc, append_time, .. } => {
                out.put_i64_le(base_offset.0);
                out.put_i64_le(next_offset.0);
                out.put_u32_le(length);
                out.put_u32_le(crc);
                out.put_i32_le(leader_epoch.0);
                out.put_u32_le(0);
                out.put_i64_le(append_time.0);
            }
            Self::Extent {
                base_offset, next_offset, leader_epoch, length, crc, position_blocks, incarnation, ..
            } => {
                out.put_i64_le(base_offset.0);
                out.put_i64_le(next_offset.0);
                out.put_u32_le(length);
                out.put_u32_le(crc);
                out.put_i32_le(leader_epoch.0);
                out.put_u32_le(position_blocks);
                out.put_u64_le(incarnation);
            }
            Self::Truncate { to, number, .. } => {
                out.put_i64_le(to.0);
                out.put_u64_le(number);
            }
        }
        out.resize(start + ENTRY_BYTES, 0);
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let kind = bytes.try_get_u32_le().ok()?;
        let partition = PartitionIndex(bytes.try_get_i32_le().ok()?);
        let mut topic = TopicId::ZERO;
        bytes.try_copy_to_slice(&mut topic.0).ok()?;
        let topic_partition = TopicPartition::new(topic, partition);
        let first = bytes.try_get_i64_le().ok()?;
        let second = bytes.try_get_i64_le().ok()?;
        if kind == KIND_TRUNCATE {
            return Some(Self::Truncate { topic_partition, to: Offset(first), number: second as u64 });
        }
        let (base_offset, next_offset) = (Offset(first), Offset(second));
        let length = bytes.try_get_u32_le().ok()?;
        let crc = bytes.try_get_u32_le().ok()?;
        let leader_epoch = LeaderEpoch(bytes.try_get_i32_le().ok()?);
        let position_blocks = bytes.try_get_u32_le().ok()?;
        let last = bytes.try_get_u64_le().ok()?;
        if base_offset.0 < 0 || next_offset <= base_offset {
            return None;
        }
        match kind {
            KIND_BATCH => Some(Self::Batch {
                topic_partition,
                base_offset,
                next_offset,
                leader_epoch,
                length,
                crc,
                append_time: Timestamp(last as i64),
            }),
            KIND_EXTENT => Some(Self::Extent {
                topic_partition,
                base_offset,
                next_offset,
                leader_epoch,
                length,
                crc,
                position_blocks,
                incarnation: last,
            }),
            _ => None,
        }
    }

    /// Whether `body` is the batch that this entry describes, byte by byte.
    #[must_use]
    pub fn is_body(&self, body: &[u8]) -> bool {
        let Self::Batch { base_offset, next_offset, leader_epoch, length, crc, .. } = *self else { return false };
        let Ok(header) = BatchHeader::parse(body) else { return false };
        // What the batch's checksum does not cover is compared with the directory, which has its own.
        body.len() == length as usize
            && header.total_bytes() == body.len()
            && header.crc == crc
            && header.partition_leader_epoch == leader_epoch
            && header.base_offset >= base_offset
            && header.next_offset() == next_offset
            && batch::checksum(body) == crc
    }
}

/// Writes the header of a round over the placeholder at the start of `round`, whose directory must be in place.
pub(crate) fn seal_round(header: &RoundHeader, round: &mut [u8]) {
    let mut bytes = Vec::with_capacity(ROUND_HEADER_BYTES);
    bytes.put_slice(&ROUND_MAGIC);
    bytes.put_u32_le(0);
    bytes.put_u64_le(header.sequence);
    bytes.put_u64_le(header.session);
    bytes.put_u64_le(header.round);
    bytes.put_u64_le(header.flushed_through);
    bytes.put_u64_le(header.position);
    bytes.put_u32_le(header.entries_count);
    bytes.put_u32_le(header.body_bytes);
    bytes.resize(ROUND_HEADER_BYTES, 0);
    round[..ROUND_HEADER_BYTES].copy_from_slice(&bytes);
    let sum = crc32c::crc32c(&round[8..header.directory_bytes()]);
    round[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// Decodes the directory of a round; `bytes` is header and directory. `None`: not what was written.
pub(crate) fn decode_directory(bytes: &[u8]) -> Option<(RoundHeader, Vec<Entry>)> {
    let header = RoundHeader::decode(bytes)?;
    let covered = bytes.get(8..header.directory_bytes())?;
    let sum = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
    if crc32c::crc32c(covered) != sum {
        return None;
    }
    let directory = bytes.get(ROUND_HEADER_BYTES..header.directory_bytes())?;
    let entries = directory.chunks_exact(ENTRY_BYTES).map(Entry::decode).collect::<Option<Vec<_>>>()?;
    let body_bytes: usize = entries.iter().map(Entry::body_bytes).sum();
    (body_bytes == header.body_bytes as usize).then_some((header, entries))
}
