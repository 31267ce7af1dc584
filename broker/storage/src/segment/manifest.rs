//! `partition.tgm`: which segments a partition has, where its log starts, and its leader epochs.
//!
//! Replaced whole and atomically, so it is the one point where a roll, a retention, a compaction or a cut takes effect: a segment
//! file that it does not name does not exist.

use std::path::PathBuf;

use bytes::{Buf, BufMut};
use tidegate_records::{
    ids::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition},
    time::Timestamp,
};

const MAGIC: [u8; 8] = *b"TGPARTTN";
/// What every manifest was before segments could be offloaded, and is where none of the partition ever was.
const VERSION: u32 = 1;
/// Says by being it that there may be objects, and has the number of its upload behind each segment.
const VERSION_WITH_OBJECTS: u32 = 2;
pub(crate) const SEGMENT_BYTES: usize = 80;
const UPLOAD_BYTES: usize = 8;
const EPOCH_BYTES: usize = 12;

/// Whether a segment may still grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// The last one, which batches are applied to. Its counts are those of the moment when the manifest was written.
    Active,
    /// Complete, synced, with an index. Replaced whole or deleted, never written.
    Sealed,
    /// Sealed, and its bytes are an object in the object store; here there is its index alone. `upload` tells the object from all that
    /// were begun for the segment, of which some may have come to be without anybody knowing.
    Offloaded { upload: u64 },
}

impl SegmentState {
    /// Whether nothing is appended any more, wherever the bytes are.
    #[must_use]
    pub fn is_sealed(self) -> bool {
        self != Self::Active
    }

    #[must_use]
    pub fn is_offloaded(self) -> bool {
        matches!(self, Self::Offloaded { .. })
    }
}

/// A segment as the manifest describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub base_offset: Offset,
    pub incarnation: u64,
    pub state: SegmentState,
    /// The offset after its last batch; where the next segment starts.
    pub next_offset: Offset,
    /// Bytes of its batches.
    pub batches_bytes: u64,
    /// Where its extents end in the file.
    pub end_position: u64,
    pub min_timestamp: Timestamp,
    pub max_timestamp: Timestamp,
    pub first_append_time: Timestamp,
    pub last_append_time: Timestamp,
}

impl Segment {
    pub(crate) fn new(base_offset: Offset, incarnation: u64) -> Self {
        Self {
            base_offset,
            incarnation,
            state: SegmentState::Active,
            next_offset: base_offset,
            batches_bytes: 0,
            end_position: super::format::FILE_HEADER_BYTES,
            min_timestamp: Timestamp::NONE,
            max_timestamp: Timestamp::NONE,
            first_append_time: Timestamp::NONE,
            last_append_time: Timestamp::NONE,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_i64_le(self.base_offset.0);
        out.put_u64_le(self.incarnation);
        out.put_u64_le(match self.state {
            SegmentState::Active => 0,
            SegmentState::Sealed => 1,
            SegmentState::Offloaded { .. } => 2,
        });
        out.put_i64_le(self.next_offset.0);
        out.put_u64_le(self.batches_bytes);
        out.put_u64_le(self.end_position);
        out.put_i64_le(self.min_timestamp.0);
        out.put_i64_le(self.max_timestamp.0);
        out.put_i64_le(self.first_append_time.0);
        out.put_i64_le(self.last_append_time.0);
    }

    pub(crate) fn decode(bytes: &mut &[u8]) -> Option<Self> {
        if bytes.len() < SEGMENT_BYTES {
            return None;
        }
        Some(Self {
            base_offset: Offset(bytes.get_i64_le()),
            incarnation: bytes.get_u64_le(),
            state: match bytes.get_u64_le() {
                0 => SegmentState::Active,
                1 => SegmentState::Sealed,
                // The number of the upload stands behind it, where there can be one.
                2 => SegmentState::Offloaded { upload: 0 },
                _ => return None,
            },
            next_offset: Offset(bytes.get_i64_le()),
            batches_bytes: bytes.get_u64_le(),
            end_position: bytes.get_u64_le(),
            min_timestamp: Timestamp(bytes.get_i64_le()),
            max_timestamp: Timestamp(bytes.get_i64_le()),
            first_append_time: Timestamp(bytes.get_i64_le()),
            last_append_time: Timestamp(bytes.get_i64_le()),
        })
    }

    /// Counts what an extent adds.
    pub(crate) fn add(&mut self, header: &super::format::ExtentHeader, last_append_time: Timestamp) {
        assert_eq!(header.position, self.end_position, "extents follow one another");
        assert_eq!(header.base_offset, self.next_offset, "offsets follow one another");
        if self.batches_bytes == 0 {
            self.first_append_time = header.append_time;
            self.min_timestamp = header.min_timestamp;
            self.max_timestamp = header.max_timestamp;
        }
        self.min_timestamp = self.min_timestamp.min(header.min_timestamp);
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
        self.last_append_time = last_append_time;
        self.next_offset = header.next_offset;
        self.batches_bytes += u64::from(header.batches_bytes);
        self.end_position += header.total_bytes() as u64;
    }
}

/// The durable state of a partition apart from its batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub topic_partition: TopicPartition,
    pub log_start_offset: Offset,
    /// Cuts made so far; see [`crate::journal::format::Entry::Truncate`].
    pub truncations: u64,
    /// The incarnation that the next segment gets.
    pub next_incarnation: u64,
    /// Where the log goes on if there is no segment.
    pub end_without_segments: Offset,
    /// By base offset; at most the last one is active.
    pub segments: Vec<Segment>,
    /// The object store may have objects of this partition: durable before the first one is begun, so that none is forgotten.
    pub has_objects: bool,
    /// The first offset of each leader epoch, as far as it is applied.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
}

impl Manifest {
    pub(crate) fn new(topic_partition: TopicPartition) -> Self {
        Self {
            topic_partition,
            log_start_offset: Offset(0),
            truncations: 0,
            next_incarnation: 1,
            end_without_segments: Offset(0),
            segments: Vec::new(),
            has_objects: false,
            epochs: Vec::new(),
        }
    }

    /// Where the segments end, as far as the manifest knows.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.segments.last().map_or(self.end_without_segments, |segment| segment.next_offset)
    }

    pub(crate) fn find_segment(&self, incarnation: u64) -> Option<Segment> {
        self.segments.iter().find(|segment| segment.incarnation == incarnation).copied()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + SEGMENT_BYTES * self.segments.len() + EPOCH_BYTES * self.epochs.len());
        out.put_slice(&MAGIC);
        // An earlier broker can go on with what nothing was offloaded of.
        out.put_u32_le(if self.has_objects { VERSION_WITH_OBJECTS } else { VERSION });
        out.put_i32_le(self.topic_partition.partition.0);
        out.put_slice(&self.topic_partition.topic.0);
        out.put_i64_le(self.log_start_offset.0);
        out.put_u64_le(self.truncations);
        out.put_u64_le(self.next_incarnation);
        out.put_i64_le(self.end_without_segments.0);
        out.put_u32_le(u32::try_from(self.segments.len()).expect("fewer than 2^32 segments"));
        out.put_u32_le(u32::try_from(self.epochs.len()).expect("fewer than 2^32 epochs"));
        for segment in &self.segments {
            segment.encode(&mut out);
            match segment.state {
                SegmentState::Offloaded { upload } => {
                    assert!(self.has_objects, "that there are objects is known before one is named");
                    out.put_u64_le(upload);
                }
                SegmentState::Active | SegmentState::Sealed if self.has_objects => out.put_u64_le(0),
                SegmentState::Active | SegmentState::Sealed => {}
            }
        }
        for (epoch, start) in &self.epochs {
            out.put_i32_le(epoch.0);
            out.put_i64_le(start.0);
        }
        out.put_u32_le(crc32c::crc32c(&out));
        out
    }

    /// `None`: not a manifest, or damaged.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, mut sum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        if crc32c::crc32c(body) != sum.get_u32_le() {
            return None;
        }
        let (magic, mut rest) = body.split_at_checked(MAGIC.len())?;
        let version = rest.try_get_u32_le().ok()?;
        if magic != MAGIC || ![VERSION, VERSION_WITH_OBJECTS].contains(&version) {
            return None;
        }
        let has_objects = version == VERSION_WITH_OBJECTS;
        let partition = PartitionIndex(rest.try_get_i32_le().ok()?);
        let mut topic = TopicId::ZERO;
        rest.try_copy_to_slice(&mut topic.0).ok()?;
        let log_start_offset = Offset(rest.try_get_i64_le().ok()?);
        let truncations = rest.try_get_u64_le().ok()?;
        let next_incarnation = rest.try_get_u64_le().ok()?;
        let end_without_segments = Offset(rest.try_get_i64_le().ok()?);
        let segments_count = rest.try_get_u32_le().ok()? as usize;
        let epochs_count = rest.try_get_u32_le().ok()? as usize;
        let segment_bytes = if has_objects { SEGMENT_BYTES + UPLOAD_BYTES } else { SEGMENT_BYTES };
        let expected =
            segments_count.checked_mul(segment_bytes)?.checked_add(epochs_count.checked_mul(EPOCH_BYTES)?)?;
        if rest.len() != expected {
            return None;
        }
        let segments = (0..segments_count)
            .map(|_| {
                let mut segment = Segment::decode(&mut rest)?;
                let upload = if has_objects { rest.get_u64_le() } else { 0 };
                if let SegmentState::Offloaded { upload: number } = &mut segment.state {
                    *number = upload;
                }
                // Only an object has an upload, and none has the number 0.
                (segment.state.is_offloaded() == (upload > 0)).then_some(segment)
            })
            .collect::<Option<Vec<_>>>()?;
        let epochs = (0..epochs_count).map(|_| (LeaderEpoch(rest.get_i32_le()), Offset(rest.get_i64_le()))).collect();
        Some(Self {
            topic_partition: TopicPartition::new(topic, partition),
            log_start_offset,
            truncations,
            next_incarnation,
            end_without_segments,
            segments,
            has_objects,
            epochs,
        })
    }
}

/// Where all partitions are.
pub(crate) const PARTITIONS_DIRECTORY: &str = "partitions";

/// The directory of a partition.
pub(crate) fn directory(tp: TopicPartition) -> PathBuf {
    PathBuf::from(PARTITIONS_DIRECTORY).join(tp.to_string())
}

pub(crate) fn manifest_path(tp: TopicPartition) -> PathBuf {
    directory(tp).join("partition.tgm")
}

/// What is left of a deleted partition as long as the object store may have objects of it.
pub(crate) const DELETED_MAGIC: [u8; 8] = *b"TGDELETD";

pub(crate) fn deleted_path(tp: TopicPartition) -> PathBuf {
    directory(tp).join("deleted.tgm")
}

fn segment_stem(segment: &Segment) -> String {
    format!("{:020}-{}", segment.base_offset.0, segment.incarnation)
}

pub(crate) fn segment_path(tp: TopicPartition, segment: &Segment) -> PathBuf {
    directory(tp).join(format!("{}.tgs", segment_stem(segment)))
}

pub(crate) fn index_path(tp: TopicPartition, segment: &Segment) -> PathBuf {
    directory(tp).join(format!("{}.tgx", segment_stem(segment)))
}

pub(crate) fn snapshot_path(tp: TopicPartition, offset: Offset) -> PathBuf {
    directory(tp).join(format!("producers-{:020}.snapshot", offset.0))
}

/// The offset in the name of a snapshot.
pub(crate) fn snapshot_offset(name: &str) -> Option<Offset> {
    name.strip_prefix("producers-")?.strip_suffix(".snapshot")?.parse().ok().map(Offset)
}

/// The partition that a directory's name says.
pub fn partition_of_directory(name: &str) -> Option<TopicPartition> {
    let (topic, partition) = name.split_once('-')?;
    Some(TopicPartition::new(TopicId::from_hex(topic)?, PartitionIndex(partition.parse().ok()?)))
}
