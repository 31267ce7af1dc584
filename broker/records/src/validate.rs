//! Whether a batch may be appended: structure, checksum, counts, sizes, timestamps.
//!
//! The rules are those of Apache Kafka's `LogValidator` for message format v2. A batch keeps the bytes in which it came; only
//! `LogAppendTime`, a `compression.type` of the topic's own, a header whose largest timestamp is not that of its records, and bytes behind a
//! compressed stream change them. Compressed batches are decompressed to be checked, within a limit. [`Validated`] can only come from here.
//!
//! Stricter than Apache Kafka in one point: offset deltas must count from 0 in uncompressed batches too. Left to others: what a produce
//! request may hold by its version, sequences and epochs of producers, the offsets.

use bytes::Bytes;

use crate::{
    batch::{self, Attributes, BatchHeader, Compression, HEADER_BYTES, HeaderError},
    build,
    compress::{self, CompressionError},
    ids::Offset,
    record::{RecordError, Records, walk},
    time::Timestamp,
};

/// What a batch is checked against. Sizes in bytes, times in milliseconds; names are those of the topic's configuration.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The broker's clock.
    pub now: Timestamp,
    pub max_message_bytes: usize,
    pub max_decompressed_bytes: usize,
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    /// `message.timestamp.type=LogAppendTime`: the broker's clock stamps the batch.
    pub log_append_time: bool,
    /// A compacted topic: every record needs a key.
    pub keys_required: bool,
    /// `compression.type`, unless it is `producer`.
    pub compression: Option<Compression>,
    pub compression_level: Option<i32>,
}

/// A batch that may be appended.
#[derive(Clone, Debug)]
pub struct Validated {
    bytes: Bytes,
    header: BatchHeader,
    records: Bytes,
    offset_delta_of_max_timestamp: i32,
}

impl Validated {
    /// Exactly one batch.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Its records, decompressed: they were for the checks. Where the batch is not compressed they are a part of [`Validated::bytes`].
    #[must_use]
    pub fn records(&self) -> &Bytes {
        &self.records
    }

    /// The largest timestamp of its records; the append time where the broker stamps it.
    #[must_use]
    pub fn max_timestamp(&self) -> Timestamp {
        self.header.max_timestamp
    }

    /// Which record is the first with [`Validated::max_timestamp`] (ListOffsets, KIP-734).
    #[must_use]
    pub fn offset_delta_of_max_timestamp(&self) -> i32 {
        self.offset_delta_of_max_timestamp
    }

    /// The batch and its header; the decompressed records are let go.
    #[must_use]
    pub fn into_parts(self) -> (Bytes, BatchHeader) {
        (self.bytes, self.header)
    }
}

/// Why a batch is refused. The comment of each says Kafka's code for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValidateError {
    /// `INVALID_RECORD`.
    #[error("the produce request has no record batch for the partition")]
    Empty,
    /// `CORRUPT_MESSAGE`, or `INVALID_RECORD` for an old magic.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// `INVALID_RECORD`.
    #[error(
        "produce requests may hold exactly one record batch for each partition, this one has {extra} bytes after the first"
    )]
    SeveralBatches { extra: usize },
    /// `MESSAGE_TOO_LARGE`.
    #[error("the record batch is {bytes} bytes, max.message.bytes of the topic allows {limit}")]
    TooLarge { bytes: usize, limit: usize },
    /// `CORRUPT_MESSAGE`.
    #[error("the record batch is corrupt: its checksum is {stored:#010x}, its bytes give {computed:#010x}")]
    Checksum { stored: u32, computed: u32 },
    /// `UNSUPPORTED_COMPRESSION_TYPE`.
    #[error("compression codec {codec} does not exist")]
    Codec { codec: i16 },
    /// `CORRUPT_MESSAGE`, or `MESSAGE_TOO_LARGE` over the limit.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// `INVALID_RECORD`.
    #[error(
        "the batch says that it has {said} records and its last offset delta is {last_offset_delta}; both must fit what is in it"
    )]
    Count { said: i32, last_offset_delta: i32 },
    /// `INVALID_RECORD`.
    #[error("clients may not write control records")]
    Control,
    /// `INVALID_RECORD`.
    #[error(
        "the batch has producer id {producer_id}, epoch {producer_epoch} and base sequence {base_sequence}, which do not go together"
    )]
    Producer { producer_id: i64, producer_epoch: i16, base_sequence: i32 },
    /// `INVALID_RECORD`: the checksum holds, so it was sent so.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// `INVALID_RECORD`.
    #[error("{} bytes follow the last record of the batch", bytes)]
    Trailing { bytes: usize },
    /// `INVALID_RECORD`, with the errors of single records (KIP-467).
    #[error("{} of the batch's records are not valid: {}", records.len(), records.first().map_or("", |first| first.1.as_str()))]
    Records { records: Vec<(i32, String)> },
    /// `INVALID_TIMESTAMP`, with the errors of single records.
    #[error("{} of the batch's records have a timestamp out of bounds: {}", records.len(), records.first().map_or("", |first| first.1.as_str()))]
    Timestamps { records: Vec<(i32, String)> },
}

/// Record errors named in one answer at most: an answer must not be larger than its request.
const RECORD_ERRORS_MAX: usize = 100;

/// Checks what a produce request has for one partition: exactly one batch.
///
/// Cost: one pass of the checksum over the bytes and one walk over the records; nothing is allocated for an uncompressed batch.
///
/// # Errors
/// [`ValidateError`].
pub fn validate(bytes: Bytes, rules: &Rules) -> Result<Validated, ValidateError> {
    let (header, codec) = check_header(&bytes, rules)?;
    let (records, read) =
        compress::decompress_stream(codec, &bytes.slice(HEADER_BYTES..), rules.max_decompressed_bytes)?;
    // What follows the stream is let go: consumers other than Java's stop at it.
    let end = HEADER_BYTES + read;
    let newest = check_records(&header, &records, rules)?;

    let wanted = rules.compression.unwrap_or(codec);
    let attributes = stored_attributes(header.attributes.with_compression(wanted), rules.log_append_time);
    let (max_timestamp, offset_delta_of_max_timestamp) =
        if rules.log_append_time { (rules.now, 0) } else { (newest.timestamp, newest.offset_delta) };
    let stored = BatchHeader { attributes, max_timestamp, ..header };
    let (bytes, header) = if stored == header && end == bytes.len() {
        (bytes, header)
    } else if wanted == codec {
        build::finish(stored, bytes[..end].to_vec())
    } else {
        recompressed(stored, &records, wanted, rules)?
    };
    Ok(Validated { bytes, header, records, offset_delta_of_max_timestamp })
}

/// Everything that can be said without the records.
fn check_header(bytes: &[u8], rules: &Rules) -> Result<(BatchHeader, Compression), ValidateError> {
    if bytes.is_empty() {
        return Err(ValidateError::Empty);
    }
    let header = BatchHeader::parse(bytes)?;
    let total = header.total_bytes();
    if total > bytes.len() {
        return Err(HeaderError::Truncated { available: bytes.len() }.into());
    }
    if total < bytes.len() {
        return Err(ValidateError::SeveralBatches { extra: bytes.len() - total });
    }
    if total > rules.max_message_bytes {
        return Err(ValidateError::TooLarge { bytes: total, limit: rules.max_message_bytes });
    }
    let computed = batch::checksum(bytes);
    if computed != header.crc {
        return Err(ValidateError::Checksum { stored: header.crc, computed });
    }
    let codec =
        header.attributes.compression().ok_or(ValidateError::Codec { codec: header.attributes.compression_bits() })?;
    if header.attributes.is_control() {
        return Err(ValidateError::Control);
    }
    check_producer(&header)?;
    if header.records_count < 1 || header.last_offset_delta.checked_add(1) != Some(header.records_count) {
        let (said, last_offset_delta) = (header.records_count, header.last_offset_delta);
        return Err(ValidateError::Count { said, last_offset_delta });
    }
    Ok((header, codec))
}

/// A producer that is not idempotent has id -1. What stands in the other fields then says nothing: kafkajs and Sarama leave 0 there.
fn check_producer(header: &BatchHeader) -> Result<(), ValidateError> {
    let fits = if header.producer_id.is_some() {
        header.producer_epoch.0 >= 0 && header.base_sequence.0 >= 0
    } else {
        !header.attributes.is_transactional()
    };
    if fits {
        return Ok(());
    }
    Err(ValidateError::Producer {
        producer_id: header.producer_id.0,
        producer_epoch: header.producer_epoch.0,
        base_sequence: header.base_sequence.0,
    })
}

/// The delete horizon is the log's own mark (KIP-534), and a producer's claim to append time is not believed.
fn stored_attributes(attributes: Attributes, log_append_time: bool) -> Attributes {
    let plain = attributes.without_log_marks();
    if log_append_time { plain.with_log_append_time() } else { plain }
}

/// The batch in the codec of the topic. Too large if it is so now.
fn recompressed(
    header: BatchHeader,
    records: &[u8],
    codec: Compression,
    rules: &Rules,
) -> Result<(Bytes, BatchHeader), ValidateError> {
    let mut out = vec![0; HEADER_BYTES];
    compress::compress_into(&mut out, codec, records, rules.compression_level)
        .map_err(|error| CompressionError::Damaged { codec, reason: error.to_string() })?;
    if out.len() > rules.max_message_bytes.min(i32::MAX as usize) {
        return Err(ValidateError::TooLarge { bytes: out.len(), limit: rules.max_message_bytes });
    }
    out.shrink_to_fit();
    Ok(build::finish(header, out))
}

/// The first record with the largest timestamp.
struct Newest {
    timestamp: Timestamp,
    offset_delta: i32,
}

fn check_records(header: &BatchHeader, bytes: &[u8], rules: &Rules) -> Result<Newest, ValidateError> {
    let bounds = TimestampBounds::new(header, rules);
    let mut newest = Newest { timestamp: Timestamp::NONE, offset_delta: 0 };
    let mut faults = Faults::default();
    let rest = walk(bytes, header.records_count, |index, record| {
        if record.offset_delta != index {
            return Err(misplaced(index, record.offset_delta));
        }
        let timestamp = Timestamp(header.base_timestamp.0.wrapping_add(record.timestamp_delta));
        if timestamp > newest.timestamp {
            newest = Newest { timestamp, offset_delta: index };
        }
        if rules.keys_required && record.key.is_none() {
            faults.no_key(index);
        } else if !bounds.contain(timestamp) {
            faults.untimely(index, timestamp, &bounds);
        }
        Ok(())
    })?;
    if !rest.is_empty() {
        return Err(ValidateError::Trailing { bytes: rest.len() });
    }
    faults.into_result().map(|()| newest)
}

#[cold]
fn misplaced(index: i32, offset_delta: i32) -> ValidateError {
    ValidateError::Records { records: vec![(index, format!("offset delta {offset_delta} where {index} was expected"))] }
}

/// Within which the timestamps of records must be.
enum TimestampBounds {
    /// `LogAppendTime`: they do not count.
    None,
    /// `CreateTime`: from the first to the second, both included.
    Within(Timestamp, Timestamp),
    /// The producer says that it is the log.
    Usurped,
}

impl TimestampBounds {
    fn new(header: &BatchHeader, rules: &Rules) -> Self {
        match (rules.log_append_time, header.attributes.is_log_append_time()) {
            (true, true) => Self::Usurped,
            (true, false) => Self::None,
            (false, _) => Self::Within(
                Timestamp(rules.now.0.saturating_sub(rules.timestamp_before_max_ms)),
                Timestamp(rules.now.0.saturating_add(rules.timestamp_after_max_ms)),
            ),
        }
    }

    #[inline]
    fn contain(&self, timestamp: Timestamp) -> bool {
        match self {
            Self::None => true,
            Self::Within(first, last) => (*first..=*last).contains(&timestamp) || timestamp == Timestamp::NONE,
            Self::Usurped => false,
        }
    }
}

/// What is wrong with single records (KIP-467).
#[derive(Default)]
struct Faults {
    records: Vec<(i32, String)>,
    any_untimely: bool,
}

impl Faults {
    #[cold]
    fn no_key(&mut self, index: i32) {
        if self.records.len() < RECORD_ERRORS_MAX {
            self.records.push((index, "Compacted topic cannot accept message without key".to_owned()));
        }
    }

    #[cold]
    fn untimely(&mut self, index: i32, timestamp: Timestamp, bounds: &TimestampBounds) {
        self.any_untimely = true;
        if self.records.len() < RECORD_ERRORS_MAX {
            let reason = match bounds {
                TimestampBounds::Within(first, last) => format!(
                    "Timestamp {timestamp} of message is out of range. The timestamp should be within [{first}, {last}]"
                ),
                TimestampBounds::Usurped | TimestampBounds::None => {
                    "Producer should not set timestamp type to LogAppendTime".to_owned()
                }
            };
            self.records.push((index, reason));
        }
    }

    /// One untimely record makes it an error of timestamps, whatever is wrong with others, as in Apache Kafka.
    fn into_result(self) -> Result<(), ValidateError> {
        match (self.records, self.any_untimely) {
            (records, _) if records.is_empty() => Ok(()),
            (records, true) => Err(ValidateError::Timestamps { records }),
            (records, false) => Err(ValidateError::Records { records }),
        }
    }
}

/// The offset of the first record with a stored batch's largest timestamp, for ListOffsets (KIP-734). `records` are decompressed.
#[must_use]
pub fn offset_of_max_timestamp(header: &BatchHeader, records: &[u8]) -> Option<(Offset, Timestamp)> {
    let mut found: Option<(Offset, Timestamp)> = None;
    for record in Records::new(records, header.records_count).flatten() {
        let timestamp = record.timestamp(header);
        if found.is_none_or(|(_, best)| timestamp > best) {
            found = Some((record.offset(header), timestamp));
        }
    }
    found
}

#[cfg(test)]
mod tests;
