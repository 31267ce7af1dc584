//! The bytes of segment files: the file header and extents. See `FORMAT.md`.
//!
//! An extent is what one write added: a header, the append times of its batches, the batches as they came, zeros up to a whole
//! block. Its header's checksum covers a second one, of the times and of those first bytes of every batch that the batch's own
//! checksum does not cover; so the header's checksum stands for every byte of the extent.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes};
use tidegate_records::{
    batch::{self, BatchHeader},
    ids::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition},
    time::Timestamp,
};

use crate::disk::{AlignedBuffer, BLOCK_BYTES};

const FILE_MAGIC: [u8; 8] = *b"TGSEGMNT";
const EXTENT_MAGIC: [u8; 4] = *b"TGEX";
pub(crate) const VERSION: u32 = 1;

/// Bytes of a segment file before its first extent.
pub(crate) const FILE_HEADER_BYTES: u64 = BLOCK_BYTES as u64;
const FILE_HEADER_USED: usize = 64;
/// Bytes of an extent before the append times.
pub(crate) const EXTENT_HEADER_BYTES: usize = 120;
const APPEND_TIME_BYTES: usize = 4;
/// The first bytes of a batch, which its own checksum does not cover (that checksum included).
const BATCH_PREFIX_BYTES: usize = 21;

/// The start of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    pub topic_partition: TopicPartition,
    pub base_offset: Offset,
    /// Tells this use of the file from all others of the partition. Extents repeat it.
    pub incarnation: u64,
    pub session: u64,
}

impl FileHeader {
    pub(crate) fn encode(&self) -> AlignedBuffer {
        let mut bytes = Vec::with_capacity(FILE_HEADER_USED);
        bytes.put_slice(&FILE_MAGIC);
        bytes.put_u32_le(VERSION);
        bytes.put_i32_le(self.topic_partition.partition.0);
        bytes.put_slice(&self.topic_partition.topic.0);
        bytes.put_i64_le(self.base_offset.0);
        bytes.put_u64_le(self.incarnation);
        bytes.put_u64_le(self.session);
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
        let partition = PartitionIndex(rest.get_i32_le());
        let mut topic = TopicId::ZERO;
        rest.copy_to_slice(&mut topic.0);
        Some(Self {
            topic_partition: TopicPartition::new(topic, partition),
            base_offset: Offset(rest.get_i64_le()),
            incarnation: rest.get_u64_le(),
            session: rest.get_u64_le(),
        })
    }
}

/// Where an extent belongs; the same for all that one writer adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentPlace {
    pub topic_partition: TopicPartition,
    pub incarnation: u64,
    pub session: u64,
    pub shard: u16,
    /// The round that committed it, where it was written straight into the segment; 0 where the journal had its batches before.
    pub round: u64,
}

/// The start of an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentHeader {
    pub place: ExtentPlace,
    /// Where in the file the extent starts.
    pub position: u64,
    pub leader_epoch: LeaderEpoch,
    /// Where the log ended before; the first batch may start later.
    pub base_offset: Offset,
    pub next_offset: Offset,
    pub min_timestamp: Timestamp,
    pub max_timestamp: Timestamp,
    /// Of the first batch; the others are stored relative to it.
    pub append_time: Timestamp,
    pub batches_count: u32,
    pub batches_bytes: u32,
    /// Of the append times and the batches' first bytes.
    pub content_crc: u32,
    /// Of this header.
    pub header_crc: u32,
}

impl ExtentHeader {
    /// Where the batches start, from the start of the extent.
    #[must_use]
    pub fn batches_at(&self) -> usize {
        EXTENT_HEADER_BYTES + APPEND_TIME_BYTES * self.batches_count as usize
    }

    /// Bytes in the file, padding included.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        extent_bytes(self.batches_count as usize, self.batches_bytes as usize)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(EXTENT_HEADER_BYTES);
        out.put_slice(&EXTENT_MAGIC);
        out.put_u32_le(0);
        out.put_u32_le(self.content_crc);
        out.put_i32_le(self.leader_epoch.0);
        out.put_slice(&self.place.topic_partition.topic.0);
        out.put_i32_le(self.place.topic_partition.partition.0);
        out.put_u32_le(self.batches_count);
        out.put_u32_le(self.batches_bytes);
        out.put_u32_le(u32::from(self.place.shard));
        out.put_u64_le(self.place.incarnation);
        out.put_u64_le(self.place.session);
        out.put_u64_le(self.place.round);
        out.put_u64_le(self.position);
        out.put_i64_le(self.base_offset.0);
        out.put_i64_le(self.next_offset.0);
        out.put_i64_le(self.min_timestamp.0);
        out.put_i64_le(self.max_timestamp.0);
        out.put_i64_le(self.append_time.0);
        debug_assert_eq!(out.len(), EXTENT_HEADER_BYTES);
        let sum = crc32c::crc32c(&out[8..]);
        out[4..8].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Decodes a header and checks its checksum.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..EXTENT_HEADER_BYTES)?;
        if bytes.get(..4)? != EXTENT_MAGIC {
            return None;
        }
        let header_crc = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
        if crc32c::crc32c(bytes.get(8..)?) != header_crc {
            return None;
        }
        let mut rest = bytes.get(8..)?;
        let content_crc = rest.get_u32_le();
        let leader_epoch = LeaderEpoch(rest.get_i32_le());
        let mut topic = TopicId::ZERO;
        rest.copy_to_slice(&mut topic.0);
        let topic_partition = TopicPartition::new(topic, PartitionIndex(rest.get_i32_le()));
        let batches_count = rest.get_u32_le();
        let batches_bytes = rest.get_u32_le();
        let shard = u16::try_from(rest.get_u32_le()).ok()?;
        let incarnation = rest.get_u64_le();
        let session = rest.get_u64_le();
        let round = rest.get_u64_le();
        let header = Self {
            place: ExtentPlace { topic_partition, incarnation, session, shard, round },
            position: rest.get_u64_le(),
            leader_epoch,
            base_offset: Offset(rest.get_i64_le()),
            next_offset: Offset(rest.get_i64_le()),
            min_timestamp: Timestamp(rest.get_i64_le()),
            max_timestamp: Timestamp(rest.get_i64_le()),
            append_time: Timestamp(rest.get_i64_le()),
            batches_count,
            batches_bytes,
            content_crc,
            header_crc,
        };
        // Every batch has a header, so the counts bound each other and no length can be absurd.
        let sane = header.batches_count > 0
            && header.base_offset.0 >= 0
            && header.next_offset > header.base_offset
            && header.batches_count as usize <= header.batches_bytes as usize / batch::HEADER_BYTES;
        sane.then_some(header)
    }
}

/// Bytes of an extent in a file, padding included.
pub(crate) fn extent_bytes(batches: usize, batches_bytes: usize) -> usize {
    (EXTENT_HEADER_BYTES + APPEND_TIME_BYTES * batches + batches_bytes).next_multiple_of(BLOCK_BYTES)
}

/// One batch that goes into an extent, and when it was appended.
#[derive(Clone, Debug)]
pub(crate) struct ExtentBatch {
    pub(crate) bytes: Bytes,
    /// What the batch must still be stamped with, beside the leader epoch. `None`: the bytes are as they are stored.
    pub(crate) stamp: Option<Offset>,
    pub(crate) append_time: Timestamp,
    pub(crate) min_timestamp: Timestamp,
    pub(crate) max_timestamp: Timestamp,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) next_offset: Offset,
}

/// Appends an extent of `batches`, all of one leader epoch, to `buffer`, which must have room for it and end at a block.
pub(crate) fn encode_extent(
    place: ExtentPlace,
    position: u64,
    base_offset: Offset,
    batches: &[ExtentBatch],
    buffer: &mut AlignedBuffer,
) -> ExtentHeader {
    let first = batches.first().expect("an extent holds at least one batch");
    let last = batches.last().expect("an extent holds at least one batch");
    let mut times = Vec::with_capacity(APPEND_TIME_BYTES * batches.len());
    for each in batches {
        assert_eq!(each.leader_epoch, first.leader_epoch, "an extent is of one leader epoch");
        let delta = each.append_time.0.saturating_sub(first.append_time.0);
        times.put_i32_le(delta.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32);
    }
    let start = buffer.len();
    buffer.extend_from_slice(&[0; EXTENT_HEADER_BYTES]);
    buffer.extend_from_slice(&times);
    let mut content_crc = crc32c::crc32c(&times);
    for each in batches {
        let at = buffer.len();
        buffer.extend_from_slice(&each.bytes);
        if let Some(base_offset) = each.stamp {
            batch::stamp(&mut buffer.as_mut_slice()[at..], base_offset, each.leader_epoch);
        }
        content_crc = crc32c::crc32c_append(content_crc, &buffer.as_slice()[at..at + BATCH_PREFIX_BYTES]);
    }
    buffer.pad_to_block();
    let mut header = ExtentHeader {
        place,
        position,
        leader_epoch: first.leader_epoch,
        base_offset,
        next_offset: last.next_offset,
        min_timestamp: batches.iter().map(|each| each.min_timestamp).min().unwrap_or_default(),
        max_timestamp: batches.iter().map(|each| each.max_timestamp).max().unwrap_or_default(),
        append_time: first.append_time,
        batches_count: u32::try_from(batches.len()).expect("bounded by the extent's bytes"),
        batches_bytes: u32::try_from(batches.iter().map(|each| each.bytes.len()).sum::<usize>())
            .expect("extents are far below 4 GiB"),
        content_crc,
        header_crc: 0,
    };
    let encoded = header.encode();
    header.header_crc = u32::from_le_bytes([encoded[4], encoded[5], encoded[6], encoded[7]]);
    buffer.as_mut_slice()[start..start + EXTENT_HEADER_BYTES].copy_from_slice(&encoded);
    header
}

/// A batch within an extent.
#[derive(Clone, Debug)]
pub(crate) struct DecodedBatch {
    pub(crate) header: BatchHeader,
    /// Where it is, from the start of the extent.
    pub(crate) range: Range<usize>,
    /// The broker's clock when it was appended.
    pub(crate) append_time: Timestamp,
}

/// The batches of an extent with their append times, in order.
///
/// `None` where the bytes do not fit the header: lengths, offsets or the content's checksum. `extent` starts at the extent and may
/// be longer. The batches' own checksums are checked too: damage is never handed out.
pub(crate) fn decode_extent(header: &ExtentHeader, extent: &[u8]) -> Option<Vec<DecodedBatch>> {
    let batches_at = header.batches_at();
    let batches_end = batches_at.checked_add(header.batches_bytes as usize)?;
    let times = extent.get(EXTENT_HEADER_BYTES..batches_at)?;
    if extent.len() < batches_end {
        return None;
    }
    let mut content_crc = crc32c::crc32c(times);
    let mut out = Vec::with_capacity(header.batches_count as usize);
    let mut at = batches_at;
    let mut expected = header.base_offset;
    for mut time in times.chunks_exact(APPEND_TIME_BYTES) {
        let rest = extent.get(at..batches_end)?;
        let batch_header = BatchHeader::parse(rest).ok()?;
        let end = at.checked_add(batch_header.total_bytes())?;
        if end > batches_end || batch_header.base_offset < expected || batch_header.last_offset_delta < 0 {
            return None;
        }
        let batch = extent.get(at..end)?;
        content_crc = crc32c::crc32c_append(content_crc, batch.get(..BATCH_PREFIX_BYTES)?);
        if batch::checksum(batch) != batch_header.crc {
            return None;
        }
        let append_time = Timestamp(header.append_time.0.saturating_add(i64::from(time.get_i32_le())));
        expected = batch_header.next_offset();
        out.push(DecodedBatch { header: batch_header, range: at..end, append_time });
        at = end;
    }
    let whole = at == batches_end && expected == header.next_offset && content_crc == header.content_crc;
    whole.then_some(out)
}
