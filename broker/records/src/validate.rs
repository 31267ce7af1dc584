//! Whether a batch may be appended: structure, checksum, counts, sizes, timestamps.
//!
//! The rules are those of Apache Kafka's `LogValidator` for message format v2. A batch keeps the bytes in which it came; only
//! `LogAppendTime` and a `compression.type` of the topic's own change them. Compressed batches are decompressed to be checked, within
//! a limit. [`Validated`] can only come from here.

use bytes::{Bytes, BytesMut};

use crate::{
    batch::{self, Attributes, BatchHeader, Compression, HEADER_BYTES, HeaderError},
    compress::{self, CompressionError},
    ids::{Offset, Sequence},
    record::{RecordError, Records},
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

    /// Its records, decompressed. Within the limit that it was validated with, because it was decompressed then.
    ///
    /// # Errors
    /// As [`compress::decompress`]; does not happen with the same limit.
    pub fn records(&self, limit: usize) -> Result<Bytes, CompressionError> {
        let codec = self.header.attributes.compression().unwrap_or(Compression::None);
        compress::decompress(codec, &self.bytes.slice(HEADER_BYTES..), limit)
    }
}

/// Why a batch is refused. The comment of each says Kafka's code for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValidateError {
    /// `INVALID_RECORD`.
    #[error("the produce request has no record batch for the partition")]
    Empty,
    /// `CORRUPT_MESSAGE`, or `UNSUPPORTED_FOR_MESSAGE_FORMAT` for an old magic.
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
    /// `CORRUPT_MESSAGE`.
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
    if bytes.is_empty() {
        return Err(ValidateError::Empty);
    }
    let mut header = BatchHeader::parse(&bytes)?;
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
    let computed = batch::checksum(&bytes);
    if computed != header.crc {
        return Err(ValidateError::Checksum { stored: header.crc, computed });
    }
    let codec = header.attributes.compression().ok_or(ValidateError::Codec { codec: header.attributes.0 & 7 })?;
    if header.attributes.is_control() {
        return Err(ValidateError::Control);
    }
    check_producer(&header)?;
    let counts = ValidateError::Count { said: header.records_count, last_offset_delta: header.last_offset_delta };
    if header.records_count < 1 || header.last_offset_delta.checked_add(1) != Some(header.records_count) {
        return Err(counts);
    }
    let records = compress::decompress(codec, &bytes.slice(HEADER_BYTES..), rules.max_decompressed_bytes)?;
    let seen = check_records(&header, &records, rules)?;

    let wanted = rules.compression.unwrap_or(codec);
    // The delete horizon is the log's own mark (KIP-534), and a producer's claim to append time is not believed.
    let attributes = stored_attributes(header.attributes.with_compression(wanted), rules.log_append_time);
    let max_timestamp = if rules.log_append_time { rules.now } else { seen.max_timestamp };
    let unchanged = wanted == codec && attributes == header.attributes && max_timestamp == header.max_timestamp;
    if unchanged {
        return Ok(Validated { bytes, header });
    }
    let body = if wanted == codec {
        bytes.slice(HEADER_BYTES..)
    } else {
        let packed = compress::compress(wanted, &records, rules.compression_level)
            .map_err(|error| CompressionError::Damaged { codec: wanted, reason: error.to_string() })?;
        packed.into()
    };
    let mut out = BytesMut::with_capacity(HEADER_BYTES + body.len());
    out.extend_from_slice(&bytes[..HEADER_BYTES]);
    out.extend_from_slice(&body);
    let length = (out.len() - batch::LENGTH_PREFIX_BYTES) as i32;
    out[8..12].copy_from_slice(&length.to_be_bytes());
    out[21..23].copy_from_slice(&attributes.0.to_be_bytes());
    out[35..43].copy_from_slice(&max_timestamp.0.to_be_bytes());
    let crc = batch::checksum(&out);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    header = BatchHeader { batch_length: length, attributes, max_timestamp, crc, ..header };
    if out.len() > rules.max_message_bytes {
        return Err(ValidateError::TooLarge { bytes: out.len(), limit: rules.max_message_bytes });
    }
    Ok(Validated { bytes: out.freeze(), header })
}

fn stored_attributes(attributes: Attributes, log_append_time: bool) -> Attributes {
    let plain = attributes.without_log_marks();
    if log_append_time { plain.with_log_append_time() } else { plain }
}

fn check_producer(header: &BatchHeader) -> Result<(), ValidateError> {
    let fits = if header.producer_id.is_some() {
        header.producer_epoch.0 >= 0 && header.base_sequence.0 >= 0
    } else {
        header.base_sequence == Sequence::NONE && !header.attributes.is_transactional()
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

struct Seen {
    max_timestamp: Timestamp,
}

fn check_records(header: &BatchHeader, bytes: &[u8], rules: &Rules) -> Result<Seen, ValidateError> {
    let mut walk = Records::new(bytes, header.records_count);
    let mut max_timestamp = Timestamp::NONE;
    let mut keyless = Vec::new();
    let mut untimely = Vec::new();
    let mut index = 0_i32;
    while let Some(record) = walk.next() {
        let record = record?;
        if record.offset_delta != index {
            return Err(ValidateError::Records {
                records: vec![(index, format!("offset delta {} where {index} was expected", record.offset_delta))],
            });
        }
        let timestamp = header.base_timestamp.0.wrapping_add(record.timestamp_delta);
        max_timestamp = max_timestamp.max(Timestamp(timestamp));
        if rules.keys_required && record.key.is_none() && keyless.len() < RECORD_ERRORS_MAX {
            keyless.push((index, "Compacted topic cannot accept message without key".to_owned()));
        }
        if !rules.log_append_time
            && timestamp != Timestamp::NONE.0
            && untimely.len() < RECORD_ERRORS_MAX
            && let Some(reason) = untimeliness(timestamp, rules)
        {
            untimely.push((index, reason));
        }
        index += 1;
    }
    if !walk.rest().is_empty() {
        return Err(ValidateError::Trailing { bytes: walk.rest().len() });
    }
    if !keyless.is_empty() {
        return Err(ValidateError::Records { records: keyless });
    }
    if !untimely.is_empty() {
        return Err(ValidateError::Timestamps { records: untimely });
    }
    Ok(Seen { max_timestamp })
}

fn untimeliness(timestamp: i64, rules: &Rules) -> Option<String> {
    let now = rules.now.0;
    let bounds = || {
        format!(
            "Timestamp {timestamp} of message is out of range. The timestamp should be within [{}, {}]",
            now.saturating_sub(rules.timestamp_before_max_ms),
            now.saturating_add(rules.timestamp_after_max_ms)
        )
    };
    let early = now.saturating_sub(timestamp) > rules.timestamp_before_max_ms;
    let late = timestamp.saturating_sub(now) > rules.timestamp_after_max_ms;
    (early || late).then(bounds)
}

/// The offset of the first record with the batch's largest timestamp, for ListOffsets (KIP-734). `records` are decompressed.
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
