//! Compaction: of the records with one key the last stays. The rules are Apache Kafka's (`LogCleanerManager`, `Cleaner`).
//!
//! [`plan`] says whether a log is to be compacted, and how far; [`Compaction`] is one round of it. Whoever runs it reads the stored
//! batches twice: first those from [`Plan::first_dirty`] on are [`Compaction::index`]ed until the map is full, then every batch of
//! [`Compaction::groups`] is [`Compaction::filter`]ed into a new segment.
//!
//! Invariants: nothing from [`Plan::up_to`] on is touched; the last record of a key is never dropped, but a tombstone whose delete
//! horizon has passed (KIP-534); offsets never change; the last batch of each active producer stays, empty if need be, for it
//! carries the sequence that a retry is held against, and so does the last batch of the round, for its offset.
//!
//! Left to others: transactions, whose markers are kept as they are.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate_records::{
    batch::{BatchHeader, Compression, HEADER_BYTES},
    build::{assemble, put_record},
    compress::{CompressionError, decompress},
    ids::{Offset, ProducerId},
    record::{Record, RecordError, Records},
    time::Timestamp,
};

use crate::{retention::Segment, topic_config::TopicConfig};

mod offset_map;
#[cfg(test)]
mod tests;

pub use offset_map::OffsetMap;

/// What a stored batch may have in memory; it was held against the topic's own limit when it was appended.
const DECOMPRESSED_BYTES_MAX: usize = i32::MAX as usize;

/// A log that is to be compacted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Where the log begins that no round has looked at.
    pub first_dirty: Offset,
    /// Nothing from here on is looked at: the active segment, what is not committed, what is too young.
    pub up_to: Offset,
    /// The share of the bytes below `up_to` that are dirty. The dirtiest log goes first.
    pub dirty_ratio: f64,
}

/// What [`plan`] is told of a log.
#[derive(Clone, Copy, Debug)]
pub struct Log<'a> {
    pub log_start_offset: Offset,
    /// Or the high watermark, where no transaction is open.
    pub last_stable_offset: Offset,
    /// How far the last round came; `None` after a start or for a log that was never compacted.
    pub cleaned_to: Option<Offset>,
    /// Oldest first.
    pub segments: &'a [Segment],
}

/// Whether a log is to be compacted now.
#[must_use]
pub fn plan(now: Timestamp, config: &TopicConfig, log: Log<'_>) -> Option<Plan> {
    if !config.cleanup_policy.compact {
        return None;
    }
    let end = log.segments.last()?.next_offset;
    let first_dirty = log
        .cleaned_to
        // A log that was cut back has other records than those that were cleaned.
        .filter(|cleaned| (log.log_start_offset..=end).contains(cleaned))
        .unwrap_or(log.log_start_offset);
    let dirty = || log.segments.iter().filter(|segment| segment.sealed && segment.next_offset > first_dirty);
    let active = log.segments.iter().find(|segment| !segment.sealed).map_or(end, |segment| segment.base_offset);
    let too_young = |segment: &&Segment| {
        config.min_compaction_lag_ms > 0 && newest(segment).0 > now.0.saturating_sub(config.min_compaction_lag_ms)
    };
    let young = dirty().find(too_young).map(|segment| segment.base_offset);
    let bound = [Some(log.last_stable_offset), young].into_iter().flatten().fold(active, Offset::min);
    // Whole segments only: what reaches beyond the bound waits.
    let up_to = log
        .segments
        .iter()
        .take_while(|segment| segment.sealed && segment.next_offset <= bound)
        .last()
        .map_or(first_dirty, |segment| segment.next_offset);
    let bytes = |wanted: &dyn Fn(&Segment) -> bool| -> u64 {
        log.segments.iter().filter(|segment| wanted(segment)).map(|segment| segment.bytes).sum()
    };
    let dirty_bytes = bytes(&|segment| segment.next_offset > first_dirty && segment.next_offset <= up_to);
    let clean_bytes = bytes(&|segment| segment.next_offset <= first_dirty);
    if up_to <= first_dirty || dirty_bytes == 0 {
        return None;
    }
    let dirty_ratio = dirty_bytes as f64 / (dirty_bytes + clean_bytes) as f64;
    // KIP-354: however little there is to gain.
    let overdue = dirty().any(|segment| {
        segment.first_append_time.0 >= 0
            && now.0.saturating_sub(segment.first_append_time.0) > config.max_compaction_lag_ms
    });
    (overdue || dirty_ratio > config.min_cleanable_dirty_ratio).then_some(Plan { first_dirty, up_to, dirty_ratio })
}

fn newest(segment: &Segment) -> Timestamp {
    if segment.max_timestamp.0 >= 0 { segment.max_timestamp } else { segment.last_append_time }
}

/// Why a stored batch cannot be compacted: it is damaged, and its partition must not be rewritten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompactionError {
    #[error("the batch at offset {offset} names a codec that does not exist")]
    Codec { offset: Offset },
    #[error("the batch at offset {offset}: {error}")]
    Compression { offset: Offset, error: CompressionError },
    #[error("the batch at offset {offset}: {error}")]
    Record { offset: Offset, error: RecordError },
}

/// Whether [`Compaction::index`] wants more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexed {
    More,
    /// The map is full: the round ends before this batch.
    Full,
}

/// What becomes of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filtered {
    /// It stays, byte for byte.
    Keep,
    /// These bytes stay in its place; offsets as before.
    Replace(Bytes),
    Drop,
}

/// One round over one log.
#[derive(Debug)]
pub struct Compaction {
    plan: Plan,
    now: Timestamp,
    delete_retention_ms: i64,
    segment_bytes: u64,
    /// The last offset of the last batch of each active producer.
    last_of_producer: BTreeMap<ProducerId, Offset>,
    map: OffsetMap,
    /// Everything below is in the map.
    indexed_to: Offset,
}

impl Compaction {
    /// Begins a round. `last_of_producer` names the last offset of the last batch of each producer that the partition remembers.
    #[must_use]
    pub fn new(
        plan: Plan,
        now: Timestamp,
        config: &TopicConfig,
        last_of_producer: BTreeMap<ProducerId, Offset>,
        map: OffsetMap,
    ) -> Self {
        Self {
            plan,
            now,
            delete_retention_ms: config.delete_retention_ms,
            segment_bytes: config.segment_bytes,
            last_of_producer,
            map,
            indexed_to: plan.first_dirty,
        }
    }

    /// Takes the keys of a batch into the map. Batches come in order, from [`Plan::first_dirty`] to [`Plan::up_to`]. Once all
    /// have come, [`Compaction::all_indexed`].
    ///
    /// # Errors
    /// [`CompactionError`]: the batch is damaged.
    pub fn index(&mut self, header: &BatchHeader, batch: &Bytes) -> Result<Indexed, CompactionError> {
        if !header.attributes.is_control() {
            let records = records_of(header, batch)?;
            for record in Records::new(&records, header.records_count) {
                let record = record.map_err(|error| CompactionError::Record { offset: header.base_offset, error })?;
                let offset = record.offset(header);
                let Some(key) = record.key.filter(|_| offset >= self.plan.first_dirty) else { continue };
                if !self.map.insert(key, offset) {
                    return Ok(Indexed::Full);
                }
            }
        }
        self.indexed_to = self.indexed_to.max(header.next_offset());
        Ok(Indexed::More)
    }

    /// All batches below [`Plan::up_to`] were indexed: gaps at the end count too.
    pub fn all_indexed(&mut self) {
        self.indexed_to = self.plan.up_to;
    }

    /// How far this round cleans: [`Log::cleaned_to`] of the next. Equal to [`Plan::first_dirty`] where not one batch fitted into the
    /// map: then nothing is to be done.
    #[must_use]
    pub fn cleaned_to(&self) -> Offset {
        self.indexed_to
    }

    /// The neighbouring segments that become one, as the offsets where they begin and end: at most `segment.bytes` together.
    #[must_use]
    pub fn groups(&self, segments: &[Segment]) -> Vec<(Offset, Offset)> {
        let mut groups: Vec<(Offset, Offset)> = Vec::new();
        let mut bytes = 0;
        let cleanable = segments.iter().take_while(|segment| {
            segment.sealed && segment.next_offset <= self.plan.up_to && segment.base_offset < self.indexed_to
        });
        for segment in cleanable {
            match groups.last_mut() {
                Some((_, to)) if *to == segment.base_offset && bytes + segment.bytes <= self.segment_bytes => {
                    *to = segment.next_offset;
                    bytes += segment.bytes;
                }
                _ => {
                    groups.push((segment.base_offset, segment.next_offset));
                    bytes = segment.bytes;
                }
            }
        }
        groups
    }

    /// What becomes of a batch below [`Plan::up_to`].
    ///
    /// # Errors
    /// [`CompactionError`]: the batch is damaged.
    pub fn filter(&self, header: &BatchHeader, batch: &Bytes) -> Result<Filtered, CompactionError> {
        if header.attributes.is_control() || header.base_offset >= self.indexed_to {
            return Ok(Filtered::Keep);
        }
        let records = records_of(header, batch)?;
        let horizon = header.attributes.has_delete_horizon().then_some(header.base_timestamp);
        let mut kept: Vec<Record<'_>> = Vec::new();
        let mut tombstones = false;
        for record in Records::new(&records, header.records_count) {
            let record = record.map_err(|error| CompactionError::Record { offset: header.base_offset, error })?;
            if self.stays(&record, record.offset(header), horizon) {
                tombstones |= record.value.is_none();
                kept.push(record);
            }
        }
        if kept.is_empty() {
            return Ok(match self.must_stay_empty(header) {
                true if header.records_count == 0 => Filtered::Keep,
                true => Filtered::Replace(empty(header)),
                false => Filtered::Drop,
            });
        }
        let sets_horizon = tombstones && horizon.is_none();
        if kept.len() == usize::try_from(header.records_count).unwrap_or(0) && !sets_horizon {
            return Ok(Filtered::Keep);
        }
        let new_horizon = sets_horizon.then(|| Timestamp(self.now.0.saturating_add(self.delete_retention_ms)));
        Ok(Filtered::Replace(rebuild(header, &kept, new_horizon)))
    }

    fn stays(&self, record: &Record<'_>, offset: Offset, horizon: Option<Timestamp>) -> bool {
        if offset >= self.indexed_to {
            return true;
        }
        // A record without a key is from before the topic was compacted, and nothing can replace it.
        let Some(key) = record.key else { return false };
        let is_last = self.map.latest(key).is_none_or(|latest| offset >= latest);
        let tombstone_is_due = record.value.is_none() && horizon.is_some_and(|horizon| self.now >= horizon);
        is_last && !tombstone_is_due
    }

    fn must_stay_empty(&self, header: &BatchHeader) -> bool {
        let of_active_producer = header.producer_id.is_some()
            && self.last_of_producer.get(&header.producer_id) == Some(&header.last_offset());
        of_active_producer || header.next_offset() == self.plan.up_to
    }
}

/// What becomes of a batch of which only some records are kept: `keep` has a bit for each record (word i / 64, least significant
/// first). Offsets and sequences stay. `must_stay`: where nothing is kept, its header is, for what it says of offsets or of a producer.
///
/// # Errors
/// [`CompactionError`]: the batch is damaged.
pub fn retain(header: &BatchHeader, batch: &Bytes, keep: &[u64], must_stay: bool) -> Result<Filtered, CompactionError> {
    let is_kept = |index: usize| keep.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1);
    let count = usize::try_from(header.records_count).unwrap_or(0);
    let kept_count = (0..count).filter(|index| is_kept(*index)).count();
    if header.attributes.is_control() || kept_count == count {
        return Ok(Filtered::Keep);
    }
    if kept_count == 0 {
        return Ok(if must_stay { Filtered::Replace(empty(header)) } else { Filtered::Drop });
    }
    let records = records_of(header, batch)?;
    let mut kept: Vec<Record<'_>> = Vec::with_capacity(kept_count);
    for (index, record) in Records::new(&records, header.records_count).enumerate() {
        let record = record.map_err(|error| CompactionError::Record { offset: header.base_offset, error })?;
        if is_kept(index) {
            kept.push(record);
        }
    }
    Ok(Filtered::Replace(rebuild(header, &kept, None)))
}

/// The records of a stored batch, decompressed.
///
/// # Errors
/// [`CompactionError`]: the batch is damaged.
pub fn records_of(header: &BatchHeader, batch: &Bytes) -> Result<Bytes, CompactionError> {
    let offset = header.base_offset;
    let codec = header.attributes.compression().ok_or(CompactionError::Codec { offset })?;
    if header.records_count == 0 {
        return Ok(Bytes::new());
    }
    let body = batch.slice(HEADER_BYTES.min(batch.len())..);
    decompress(codec, &body, DECOMPRESSED_BYTES_MAX).map_err(|error| CompactionError::Compression { offset, error })
}

/// The header alone: what a batch leaves behind of its offsets and its producer.
fn empty(header: &BatchHeader) -> Bytes {
    let attributes = header.attributes.with_compression(Compression::None).without_delete_horizon();
    assemble(BatchHeader { attributes, base_timestamp: Timestamp::NONE, records_count: 0, ..*header }, &[]).0
}

/// The batch with these of its records. Offsets, sequences and codec stay; a new horizon takes the place of the base timestamp, and
/// the deltas count from it (KIP-534), so that readers that know nothing of it get the same timestamps.
fn rebuild(header: &BatchHeader, kept: &[Record<'_>], new_horizon: Option<Timestamp>) -> Bytes {
    let mut records = Vec::with_capacity(kept.iter().map(|record| record.bytes.len() + 8).sum());
    let mut new = BatchHeader { records_count: kept.len() as i32, ..*header };
    if let Some(horizon) = new_horizon {
        new.attributes = header.attributes.with_delete_horizon();
        new.base_timestamp = horizon;
    }
    if !header.attributes.is_log_append_time() {
        let newest = kept.iter().map(|record| record.timestamp(header)).max();
        new.max_timestamp = newest.unwrap_or(header.max_timestamp);
    }
    for record in kept {
        let delta = if new_horizon.is_some() {
            let timestamp = header.base_timestamp.0.wrapping_add(record.timestamp_delta);
            timestamp.wrapping_sub(new.base_timestamp.0)
        } else {
            record.timestamp_delta
        };
        put_record(&mut records, delta, record.offset_delta, record.payload);
    }
    assemble(new, &records).0
}
