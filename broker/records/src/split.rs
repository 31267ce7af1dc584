//! One batch becomes several: a part for each destination that a plugin chose.
//!
//! The bytes of keys, values and headers are taken over as they are; only lengths and offset deltas are written anew. A part
//! carries the original batch's base sequence, so that a retry of the batch is recognised at every destination; its last offset delta is
//! that of its own records, and the gaps in sequence that this leaves are those of a derived producer (see
//! `model::partition::producers`). A destination that gets the whole batch gets its bytes: they are copied only where another producer
//! is stamped on them, and never compressed again.

use bytes::Bytes;

use crate::{
    batch::{BatchHeader, Compression, HEADER_BYTES},
    build::{Producer, finish, put_record, seal},
    record::{RecordError, Records},
    time::Timestamp,
};

/// Which destinations (numbered from 0) each record of a batch goes to.
#[derive(Clone, Copy, Debug)]
pub enum Assignment<'a> {
    /// Every record to all of these.
    Uniform(&'a [u32]),
    /// Record i to destination `[i]`.
    Single(&'a [u32]),
    /// Record i to `destinations[ends[i-1]..ends[i]]`; to none if that is empty. A destination that is named twice for a record gets it
    /// once.
    Many { ends: &'a [u32], destinations: &'a [u32] },
}

/// Why a batch cannot be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    #[error("the batch has {records} records, but destinations are given for {given}")]
    Count { records: usize, given: usize },
    #[error("the destinations of record {record} end at {end}, which is before they begin or after the last of them")]
    Ends { record: usize, end: u32 },
    #[error("record {record} goes to destination {destination}, and there are only {count}")]
    Destination { record: usize, destination: u32, count: usize },
    /// Does not happen for a validated batch.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Splits a validated batch by destination. `bytes` is the batch, `records` its records decompressed, `count` how many destinations there
/// are. A destination that gets nothing has no part; one that gets every record keeps the batch's bytes. `producer` is stamped on each
/// part; without one they keep the batch's own.
///
/// Cost: one walk over the records if any part is not the whole batch, and one copy, one compression and one checksum for each such part.
///
/// # Errors
/// [`SplitError`]: the assignment does not fit the batch. Nothing is split then.
pub fn split(
    bytes: &Bytes,
    header: &BatchHeader,
    records: &[u8],
    assignment: Assignment<'_>,
    count: usize,
    producer: Option<Producer>,
) -> Result<Vec<Option<(Bytes, BatchHeader)>>, SplitError> {
    let records_count = usize::try_from(header.records_count).unwrap_or(0);
    let shares = shares(assignment, records_count, count)?;
    let whole =
        shares.contains(&records_count).then(|| with_producer(bytes, header, producer)).filter(|_| records_count > 0);
    let mut parts: Vec<Option<Part>> =
        shares.iter().map(|share| Part::for_share(*share, records_count, records.len())).collect();
    if parts.iter().any(Option::is_some) {
        for (index, record) in Records::new(records, header.records_count).enumerate() {
            let record = record?;
            for destination in assignment.of(index) {
                let Some(Some(part)) = parts.get_mut(*destination as usize) else { continue };
                if part.last_record == Some(index) {
                    continue;
                }
                part.last_record = Some(index);
                if record.offset_delta == part.count {
                    part.bytes.extend_from_slice(record.bytes);
                } else {
                    put_record(&mut part.bytes, record.timestamp_delta, part.count, record.payload);
                }
                part.max_timestamp = part.max_timestamp.max(record.timestamp(header));
                part.count += 1;
            }
        }
    }
    let producer = producer.unwrap_or(Producer::of(header));
    Ok(parts
        .into_iter()
        .zip(shares)
        .map(|(part, share)| match part {
            Some(part) => Some(part.into_batch(header, producer)),
            None if share == 0 => None,
            None => whole.clone(),
        })
        .collect())
}

impl Assignment<'_> {
    /// The destinations of a record; the assignment was checked by [`shares`].
    #[inline]
    fn of(&self, record: usize) -> &[u32] {
        match self {
            Self::Uniform(destinations) => destinations,
            Self::Single(destinations) => &destinations[record..=record],
            Self::Many { ends, destinations } => {
                let start = if record == 0 { 0 } else { ends[record - 1] as usize };
                &destinations[start..ends[record] as usize]
            }
        }
    }
}

/// How many records each destination gets; checks the assignment, which comes from a plugin.
fn shares(assignment: Assignment<'_>, records: usize, count: usize) -> Result<Vec<usize>, SplitError> {
    let mut shares = vec![0; count];
    match assignment {
        Assignment::Uniform(destinations) => {
            for destination in destinations {
                *share(&mut shares, 0, *destination)? = records;
            }
        }
        Assignment::Single(destinations) => {
            check_count(records, destinations.len())?;
            for (record, destination) in destinations.iter().enumerate() {
                *share(&mut shares, record, *destination)? += 1;
            }
        }
        Assignment::Many { ends, destinations } => {
            check_count(records, ends.len())?;
            // The record that each destination got last, counted from 1.
            let mut last = vec![0; count];
            let mut start = 0;
            for (record, end) in ends.iter().enumerate() {
                let error = SplitError::Ends { record, end: *end };
                for destination in destinations.get(start..*end as usize).ok_or(error)? {
                    let share = share(&mut shares, record, *destination)?;
                    let last = &mut last[*destination as usize];
                    if *last != record + 1 {
                        *last = record + 1;
                        *share += 1;
                    }
                }
                start = *end as usize;
            }
        }
    }
    Ok(shares)
}

fn share(shares: &mut [usize], record: usize, destination: u32) -> Result<&mut usize, SplitError> {
    let count = shares.len();
    shares.get_mut(destination as usize).ok_or(SplitError::Destination { record, destination, count })
}

fn check_count(records: usize, given: usize) -> Result<(), SplitError> {
    if records == given { Ok(()) } else { Err(SplitError::Count { records, given }) }
}

/// A batch in the making.
struct Part {
    /// Room for the header, then records.
    bytes: Vec<u8>,
    count: i32,
    max_timestamp: Timestamp,
    last_record: Option<usize>,
}

impl Part {
    /// `None` for a destination that gets nothing or everything.
    fn for_share(share: usize, records: usize, bytes: usize) -> Option<Self> {
        if share == 0 || share == records {
            return None;
        }
        // Its share of the bytes and a bit, for records are rarely of one size.
        let expected = (bytes as u64 * share as u64 / records as u64) as usize;
        let mut out = Vec::with_capacity(HEADER_BYTES + expected + expected / 8 + 16);
        out.resize(HEADER_BYTES, 0);
        Some(Self { bytes: out, count: 0, max_timestamp: Timestamp::NONE, last_record: None })
    }

    fn into_batch(self, header: &BatchHeader, producer: Producer) -> (Bytes, BatchHeader) {
        let header = BatchHeader {
            last_offset_delta: self.count - 1,
            records_count: self.count,
            max_timestamp: self.max_timestamp,
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            base_sequence: producer.base_sequence,
            ..*header
        };
        // A codec that does not exist cannot be in a validated batch.
        let codec = header.attributes.compression().unwrap_or(Compression::None);
        seal(BatchHeader { attributes: header.attributes.with_compression(codec), ..header }, self.bytes, None)
    }
}

/// The same batch as another producer's. Its bytes are kept if nothing changes.
#[must_use]
pub fn with_producer(bytes: &Bytes, header: &BatchHeader, producer: Option<Producer>) -> (Bytes, BatchHeader) {
    match producer {
        Some(producer) if producer != Producer::of(header) => {
            let changed = BatchHeader {
                producer_id: producer.id,
                producer_epoch: producer.epoch,
                base_sequence: producer.base_sequence,
                ..*header
            };
            finish(changed, bytes.to_vec())
        }
        _ => (bytes.clone(), *header),
    }
}

#[cfg(test)]
mod tests;
