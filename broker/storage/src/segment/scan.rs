//! Reading a segment back: where the extents of the active one end, and the index of a sealed one whose index file is lost.

use std::collections::BTreeMap;

use bytes::Buf;
use tidegate_records::{
    ids::{Offset, TopicPartition},
    time::Timestamp,
};

use super::{
    format::{self, EXTENT_HEADER_BYTES, ExtentHeader, FileHeader, decode_extent},
    index::{Index, IndexEntry, IndexFile},
    manifest::{self, Segment, SegmentState},
};
use crate::{
    disk::{BLOCK_BYTES, Disk, DiskError},
    error::Damage,
    journal::{checkpoint::Synced, scan::PieceReader},
    partition::ActiveIndex,
};

/// What is known of a shard's rounds when a segment is looked at: extents that it wrote may be of a round that never was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ShardCommitted {
    /// What sessions up to this one wrote was looked at by an opening that came to its end, or by a clean close.
    pub(crate) settled_session: u64,
    /// The session and number of the journal's last whole round. Extents that a later round wrote are not committed.
    pub(crate) last_round: (u64, u64),
}

/// What the journal says of a partition when its active segment is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Committed<'a> {
    /// From this offset on the journal has the partition's batches, so a segment may be torn there. `None`: the segment has all.
    pub(crate) journal_from: Option<Offset>,
    /// How far the segment is known to be on stable storage, from when the journal let go of it.
    pub(crate) synced: Option<Synced>,
    /// What other shards wrote is committed: they were drained.
    pub(crate) shards: &'a BTreeMap<u16, ShardCommitted>,
}

impl Committed<'_> {
    pub(crate) fn includes(&self, header: &ExtentHeader) -> bool {
        let place = &header.place;
        place.round == 0
            || self.shards.get(&place.shard).is_none_or(|shard| {
                place.session <= shard.settled_session || (place.session, place.round) <= shard.last_round
            })
    }

    /// Whether a segment that ends so has lost what was on stable storage.
    pub(crate) fn is_short(&self, segment: &Segment) -> bool {
        self.synced
            .is_some_and(|synced| synced.incarnation == segment.incarnation && synced.position > segment.end_position)
    }

    /// Whether the segment alone answers for what follows `offset`.
    pub(crate) fn is_settled(&self, offset: Offset) -> bool {
        self.journal_from.is_none_or(|from| offset < from)
    }
}

/// What stands in a segment.
#[derive(Debug)]
pub(crate) struct SegmentScan {
    pub(crate) segment: Segment,
    pub(crate) active: ActiveIndex,
    pub(crate) file_bytes: u64,
}

/// Walks over the extents of a segment, from where `known` ends.
pub(crate) async fn scan_segment<D: Disk>(
    disk: &D,
    topic_partition: TopicPartition,
    file: &D::File,
    entry: &Segment,
    known: Option<IndexFile>,
    committed: &Committed<'_>,
) -> Result<Result<SegmentScan, Damage>, DiskError> {
    let path = manifest::segment_path(topic_partition, entry);
    let damage = |position: u64, offset: Offset| Damage::Segment { file: path.clone(), position, offset };
    let file_bytes = disk.length(file).await?;
    let mut reader = PieceReader::new(disk, file, file_bytes);

    let known = known.filter(|known| {
        known.topic_partition == topic_partition
            && known.segment.incarnation == entry.incarnation
            && known.segment.base_offset == entry.base_offset
    });
    let mut scan = SegmentScan {
        segment: Segment::new(entry.base_offset, entry.incarnation),
        active: ActiveIndex::default(),
        file_bytes,
    };
    match known {
        Some(known) => {
            if known.segment.end_position > file_bytes {
                return Ok(Err(damage(file_bytes, known.segment.base_offset)));
            }
            scan.segment = Segment { state: SegmentState::Active, ..known.segment };
            scan.active.session = known.session;
            scan.active.index = known.index;
            scan.active.saved_position = known.segment.end_position;
            scan.active.synced_position = known.segment.end_position;
        }
        None => {
            let header = reader.read(0, BLOCK_BYTES).await?.and_then(|block| FileHeader::decode(&block));
            let ours = header.is_some_and(|header| {
                header.topic_partition == topic_partition
                    && header.incarnation == entry.incarnation
                    && header.base_offset == entry.base_offset
            });
            if !ours {
                return Ok(Err(damage(0, entry.base_offset)));
            }
        }
    }
    loop {
        let position = scan.segment.end_position;
        let expected = scan.segment.next_offset;
        let Some(header) = extent_header_at(&mut reader, topic_partition, entry.incarnation, position).await? else {
            break;
        };
        if header.base_offset != expected || header.place.session < scan.active.session || !committed.includes(&header)
        {
            break;
        }
        // What the journal still has may not have reached the segment whole: look at every byte of it.
        let length = if committed.is_settled(header.next_offset) { header.batches_at() } else { header.total_bytes() };
        let Some(bytes) = reader.read(position, length).await? else { break };
        if length == header.total_bytes() && decode_extent(&header, &bytes).is_none() {
            break;
        }
        scan.segment.add(&header, last_append_time(&header, &bytes));
        scan.active.session = header.place.session;
        scan.active.index.entries.push(IndexEntry::new(&header));
    }
    if committed.is_short(&scan.segment) {
        return Ok(Err(damage(scan.segment.end_position, scan.segment.next_offset)));
    }
    if let Some(synced) = committed.synced.filter(|synced| synced.incarnation == entry.incarnation) {
        scan.active.synced_position = scan.active.synced_position.max(synced.position);
    }
    if committed.is_settled(scan.segment.next_offset)
        && goes_on_later(&mut reader, topic_partition, &scan.segment, scan.active.session, committed).await?
    {
        return Ok(Err(damage(scan.segment.end_position, scan.segment.next_offset)));
    }
    Ok(Ok(scan))
}

/// Whether whole extents that were written later stand somewhere after the end of `segment`: then what is there is no torn end.
pub(crate) async fn goes_on_later<D: Disk>(
    reader: &mut PieceReader<'_, D>,
    topic_partition: TopicPartition,
    segment: &Segment,
    session: u64,
    committed: &Committed<'_>,
) -> Result<bool, DiskError> {
    let mut position = segment.end_position;
    while position + (EXTENT_HEADER_BYTES as u64) < reader.file_bytes() {
        if let Some(header) = extent_header_at(reader, topic_partition, segment.incarnation, position).await?
            && header.place.session >= session
            && header.base_offset >= segment.next_offset
            && committed.includes(&header)
        {
            return Ok(true);
        }
        position += BLOCK_BYTES as u64;
    }
    Ok(false)
}

/// The header of the extent at `position`, if there is one that belongs there and fits into the file.
pub(crate) async fn extent_header_at<D: Disk>(
    reader: &mut PieceReader<'_, D>,
    topic_partition: TopicPartition,
    incarnation: u64,
    position: u64,
) -> Result<Option<ExtentHeader>, DiskError> {
    let Some(bytes) = reader.read(position, EXTENT_HEADER_BYTES).await? else { return Ok(None) };
    Ok(ExtentHeader::decode(&bytes).filter(|header| {
        header.place.topic_partition == topic_partition
            && header.place.incarnation == incarnation
            && header.position == position
            && position + header.total_bytes() as u64 <= reader.file_bytes()
    }))
}

/// The append time of the last batch of an extent, whose bytes reach at least to the batches.
pub(crate) fn last_append_time(header: &ExtentHeader, bytes: &[u8]) -> Timestamp {
    let delta =
        header.batches_at().checked_sub(4).and_then(|at| bytes.get(at..at + 4)).map_or(0, |mut time| time.get_i32_le());
    Timestamp(header.append_time.0.saturating_add(i64::from(delta)))
}

/// The index of a sealed segment, from its extents. The damage if they do not reach to the segment's end.
pub(crate) async fn rebuild_index<D: Disk>(
    disk: &D,
    topic_partition: TopicPartition,
    file: &D::File,
    segment: &Segment,
) -> Result<Result<Index, Damage>, DiskError> {
    let file_bytes = disk.length(file).await?.min(segment.end_position);
    let mut reader = PieceReader::new(disk, file, file_bytes);
    let mut index = Index::default();
    let mut position = format::FILE_HEADER_BYTES;
    let mut expected = segment.base_offset;
    while position < segment.end_position {
        let header = extent_header_at(&mut reader, topic_partition, segment.incarnation, position).await?;
        let Some(header) = header.filter(|header| header.base_offset == expected) else {
            let file = manifest::segment_path(topic_partition, segment);
            return Ok(Err(Damage::Segment { file, position, offset: expected }));
        };
        index.entries.push(IndexEntry::new(&header));
        expected = header.next_offset;
        position += header.total_bytes() as u64;
    }
    Ok(Ok(index))
}
