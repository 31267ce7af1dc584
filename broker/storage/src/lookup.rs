//! Records by their time: the first at or after a timestamp, and the one with the largest (Kafka's ListOffsets).
//!
//! Segments and extents that cannot hold the record are passed over by their index; only one extent is read, and one batch in it
//! decompressed, where the record is.

use bytes::Bytes;
use tidegate_records::{
    batch::{BatchHeader, Compression, HEADER_BYTES},
    compress::{CompressionError, decompress},
    ids::{LeaderEpoch, Offset, TopicPartition},
    record::Records,
    time::Timestamp,
};

use crate::{
    disk::Disk,
    error::{Damage, ReadError},
    partition::Partition,
    read::damage_at,
    segment::{
        index::Index,
        manifest::{self, Segment, SegmentState},
    },
    store::Store,
};

/// What a batch may decompress to while a record is looked for. It was within the topic's limit when it came.
const DECOMPRESSED_BYTES_MAX: usize = 1 << 30;

/// Which record is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The first one, by offset, whose timestamp is at least this.
    AtOrAfter(Timestamp),
    /// The first one with the largest timestamp.
    MaxTimestamp,
}

/// A record that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub offset: Offset,
    pub timestamp: Timestamp,
    pub leader_epoch: LeaderEpoch,
}

/// A place that may hold the record, with the largest timestamp in it.
struct Candidate {
    from: Offset,
    max_timestamp: Timestamp,
}

impl<D: Disk> Store<D> {
    /// Finds a record by time in the batches that end at or below `up_to`. `None`: there is no such record.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn find_by_time(
        &self,
        topic_partition: TopicPartition,
        wanted: Wanted,
        up_to: Offset,
    ) -> Result<Option<Found>, ReadError> {
        let log_start = self.offsets(topic_partition).ok_or(ReadError::Unknown(topic_partition))?.log_start_offset;
        if let Some(damage) = self.damage(topic_partition) {
            return Err(ReadError::Offline(Box::new(damage)));
        }
        let mut best: Option<Found> = None;
        let mut from = log_start;
        while let Some(segment) = self.segment_from(topic_partition, from, up_to) {
            if is_worth(wanted, best, segment.max_timestamp) {
                let found = self.find_in_segment(topic_partition, &segment, wanted, best, log_start, up_to).await;
                // Rewritten or deleted meanwhile: its extents were not what its index said. What came in its place is looked at.
                if !self.has_segment(topic_partition, &segment) {
                    continue;
                }
                let found = found?;
                match wanted {
                    Wanted::AtOrAfter(_) if found.is_some() => return Ok(found),
                    _ => best = found.or(best),
                }
            }
            from = segment.next_offset;
        }
        // What is in no segment yet is in memory.
        let tail: Vec<Bytes> = {
            let state = self.inner.state.borrow();
            let Some(partition) = state.partitions.get(&topic_partition) else { return Ok(best) };
            let batches = partition.tail.range(partition.tail_position(from.max(partition.applied_end))..);
            batches
                .filter(|batch| batch.next_offset <= up_to && is_worth(wanted, best, batch.max_timestamp))
                .map(|batch| batch.bytes())
                .collect()
        };
        for batch in tail {
            let Ok(header) = BatchHeader::parse(&batch) else { continue };
            let found = find_in_batch(&header, &batch, wanted, best, log_start);
            let found = found.map_err(|_| self.undecodable(topic_partition, header.base_offset))?;
            match wanted {
                Wanted::AtOrAfter(_) if found.is_some() => return Ok(found),
                _ => best = found.or(best),
            }
        }
        Ok(best)
    }

    fn segment_from(&self, topic_partition: TopicPartition, from: Offset, up_to: Offset) -> Option<Segment> {
        let state = self.inner.state.borrow();
        let segments = &state.partitions.get(&topic_partition)?.manifest.segments;
        let at = segments.partition_point(|segment| segment.next_offset <= from);
        segments.get(at).copied().filter(|segment| segment.base_offset < up_to)
    }

    /// Whether a segment is still what it was: there, and where it was.
    pub(crate) fn has_segment(&self, topic_partition: TopicPartition, segment: &Segment) -> bool {
        let state = self.inner.state.borrow();
        let partition = state.partitions.get(&topic_partition);
        // Of a partition that is gone nothing comes in its place.
        let find = |partition: &Partition| partition.manifest.find_segment(segment.incarnation);
        partition.is_none_or(|partition| find(partition).is_some_and(|found| found.state == segment.state))
    }

    async fn find_in_segment(
        &self,
        topic_partition: TopicPartition,
        segment: &Segment,
        wanted: Wanted,
        mut best: Option<Found>,
        log_start: Offset,
        up_to: Offset,
    ) -> Result<Option<Found>, ReadError> {
        for candidate in self.candidates(topic_partition, segment).await? {
            if candidate.from >= up_to || !is_worth(wanted, best, candidate.max_timestamp) {
                continue;
            }
            let found = self.find_in_extent(topic_partition, candidate.from, wanted, best, log_start, up_to).await?;
            match wanted {
                Wanted::AtOrAfter(_) if found.is_some() => return Ok(found),
                _ => best = found.or(best),
            }
        }
        Ok(best)
    }

    async fn candidates(
        &self,
        topic_partition: TopicPartition,
        segment: &Segment,
    ) -> Result<Vec<Candidate>, ReadError> {
        let list = |index: &Index| {
            let entries = index.entries.iter();
            entries.map(|entry| Candidate { from: entry.base_offset, max_timestamp: entry.max_timestamp }).collect()
        };
        if segment.state == SegmentState::Active {
            let state = self.inner.state.borrow();
            let Some(partition) = state.partitions.get(&topic_partition) else { return Ok(Vec::new()) };
            if partition.active_segment().is_some_and(|active| active.incarnation == segment.incarnation) {
                return Ok(list(&partition.active.index));
            }
        }
        Ok(list(self.sealed_index(topic_partition, segment).await?.as_ref()))
    }

    async fn find_in_extent(
        &self,
        topic_partition: TopicPartition,
        from: Offset,
        wanted: Wanted,
        mut best: Option<Found>,
        log_start: Offset,
        up_to: Offset,
    ) -> Result<Option<Found>, ReadError> {
        let Some(loaded) = self.load_extents(topic_partition, from, 0).await? else { return Ok(None) };
        let Some(extent) = loaded.extents.first() else { return Ok(None) };
        for batch in &extent.batches {
            let header = &batch.header;
            if header.next_offset() > up_to || !is_worth(wanted, best, header.max_timestamp) {
                continue;
            }
            let bytes = extent.bytes.slice(batch.range.clone());
            let found = find_in_batch(header, &bytes, wanted, best, log_start);
            let found = found.map_err(|_| self.undecodable(topic_partition, header.base_offset))?;
            match wanted {
                Wanted::AtOrAfter(_) if found.is_some() => return Ok(found),
                _ => best = found.or(best),
            }
        }
        Ok(best)
    }

    fn undecodable(&self, topic_partition: TopicPartition, offset: Offset) -> ReadError {
        let state = self.inner.state.borrow();
        let segment = state.partitions.get(&topic_partition).and_then(|partition| {
            let segments = &partition.manifest.segments;
            segments.iter().find(|segment| segment.next_offset > offset).copied()
        });
        let damage = segment.map_or_else(
            || Damage::Segment { file: manifest::directory(topic_partition), position: 0, offset },
            |segment| damage_at(topic_partition, &segment, 0, offset),
        );
        ReadError::Damaged(Box::new(damage))
    }
}

/// Whether something whose largest timestamp is `max_timestamp` can hold what is wanted.
fn is_worth(wanted: Wanted, best: Option<Found>, max_timestamp: Timestamp) -> bool {
    match wanted {
        Wanted::AtOrAfter(timestamp) => max_timestamp >= timestamp,
        Wanted::MaxTimestamp => best.is_none_or(|best| max_timestamp > best.timestamp),
    }
}

fn find_in_batch(
    header: &BatchHeader,
    batch: &Bytes,
    wanted: Wanted,
    best: Option<Found>,
    log_start: Offset,
) -> Result<Option<Found>, CompressionError> {
    let codec = header.attributes.compression().unwrap_or(Compression::None);
    let body = decompress(codec, &batch.slice(HEADER_BYTES.min(batch.len())..), DECOMPRESSED_BYTES_MAX)?;
    let mut best = best;
    let mut found = None;
    for record in Records::new(&body, header.records_count).map_while(Result::ok) {
        let timestamp = record.timestamp(header);
        let offset = record.offset(header);
        if offset < log_start || !is_worth(wanted, best, timestamp) {
            continue;
        }
        found = Some(Found { offset, timestamp, leader_epoch: header.partition_leader_epoch });
        if matches!(wanted, Wanted::AtOrAfter(_)) {
            return Ok(found);
        }
        best = found;
    }
    Ok(found)
}
