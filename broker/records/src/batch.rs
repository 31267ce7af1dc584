//! The record batch (message format v2, KIP-98) as bytes: its header, where it is stamped, and how batches follow one another.
//!
//! A batch keeps the bytes in which it came. Base offset and partition leader epoch stand before the checksummed part, so the
//! leader stamps them without touching the checksum. All integers are big-endian.
//!
//! ```text
//!  0 base offset            i64      21 attributes         i16      43 producer id     i64
//!  8 batch length           i32      23 last offset delta  i32      51 producer epoch  i16
//! 12 partition leader epoch i32      27 base timestamp     i64      53 base sequence   i32
//! 16 magic                  i8       35 max timestamp      i64      57 records count   i32
//! 17 CRC-32C of 21..        u32                                     61 records
//! ```
//! Source: <https://kafka.apache.org/documentation/#recordbatch>.

use crc_fast::CrcAlgorithm;

use crate::{
    ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence},
    time::Timestamp,
};

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;
/// Bytes before the part that `batch length` counts.
pub const LENGTH_PREFIX_BYTES: usize = 12;
/// The only message format that is kept. 0 and 1 ended with Kafka 4.0 (KIP-724).
pub const MAGIC: i8 = 2;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// The attributes of a batch; see the accessors for the bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub i16);

impl Attributes {
    const COMPRESSION_MASK: i16 = 0x07;
    const LOG_APPEND_TIME: i16 = 0x08;
    const TRANSACTIONAL: i16 = 0x10;
    const CONTROL: i16 = 0x20;
    const DELETE_HORIZON: i16 = 0x40;

    /// Bits 0-2; `None` for a codec that does not exist.
    #[must_use]
    pub fn compression(self) -> Option<Compression> {
        match self.0 & Self::COMPRESSION_MASK {
            0 => Some(Compression::None),
            1 => Some(Compression::Gzip),
            2 => Some(Compression::Snappy),
            3 => Some(Compression::Lz4),
            4 => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// Bits 0-2 as they are, for an error about a codec that does not exist.
    #[must_use]
    pub fn compression_bits(self) -> i16 {
        self.0 & Self::COMPRESSION_MASK
    }

    #[must_use]
    pub fn with_compression(self, compression: Compression) -> Self {
        Self((self.0 & !Self::COMPRESSION_MASK) | compression as i16)
    }

    /// Bit 3: the broker set the timestamps when it appended (`message.timestamp.type=LogAppendTime`).
    #[must_use]
    pub fn is_log_append_time(self) -> bool {
        self.0 & Self::LOG_APPEND_TIME != 0
    }

    #[must_use]
    pub fn with_log_append_time(self) -> Self {
        Self(self.0 | Self::LOG_APPEND_TIME)
    }

    /// Without the bits that only the log itself sets: append time and delete horizon.
    #[must_use]
    pub fn without_log_marks(self) -> Self {
        Self(self.0 & !(Self::LOG_APPEND_TIME | Self::DELETE_HORIZON))
    }

    /// Bit 4: part of a transaction.
    #[must_use]
    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Bit 5: a control batch (transaction markers), which only brokers write.
    #[must_use]
    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Bit 6: the base timestamp holds the delete horizon of tombstones (compaction, KIP-534).
    #[must_use]
    pub fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }

    #[must_use]
    pub fn with_delete_horizon(self) -> Self {
        Self(self.0 | Self::DELETE_HORIZON)
    }

    #[must_use]
    pub fn without_delete_horizon(self) -> Self {
        Self(self.0 & !Self::DELETE_HORIZON)
    }
}

/// Why bytes are not a batch header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error(
        "the bytes end inside a record batch: {available} are here, fewer than its header of {HEADER_BYTES} or than the length that it names"
    )]
    Truncated { available: usize },
    #[error(
        "message format v{magic} is not supported, only v2 is: upgrade the client or set its message.format.version"
    )]
    Magic { magic: i8 },
    #[error("the batch says it is {length} bytes long, which cannot be: its header alone is {}", HEADER_BYTES - LENGTH_PREFIX_BYTES)]
    Length { length: i32 },
}

/// The header of a batch, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: Offset,
    /// As on the wire: bytes after the field itself. See [`BatchHeader::total_bytes`].
    pub batch_length: i32,
    pub partition_leader_epoch: LeaderEpoch,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    pub attributes: Attributes,
    /// Of the last record that the batch had when it was written; compaction may have removed it.
    pub last_offset_delta: i32,
    pub base_timestamp: Timestamp,
    pub max_timestamp: Timestamp,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub base_sequence: Sequence,
    pub records_count: i32,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl BatchHeader {
    /// Decodes the header at the start of `bytes`. Does not look at the records or the checksum.
    ///
    /// # Errors
    /// [`HeaderError`]: too short, another magic, or a length below that of the header. A length beyond `bytes` is no error here.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        // The magic of every format stands at byte 16, so an old batch is told apart even when it is shorter than our header.
        if bytes.len() > 16 && bytes[16] as i8 != MAGIC {
            return Err(HeaderError::Magic { magic: bytes[16] as i8 });
        }
        if bytes.len() < HEADER_BYTES {
            return Err(HeaderError::Truncated { available: bytes.len() });
        }
        let batch_length = i32::from_be_bytes(array(bytes, 8));
        if batch_length < (HEADER_BYTES - LENGTH_PREFIX_BYTES) as i32 {
            return Err(HeaderError::Length { length: batch_length });
        }
        Ok(Self {
            base_offset: Offset(i64::from_be_bytes(array(bytes, 0))),
            batch_length,
            partition_leader_epoch: LeaderEpoch(i32::from_be_bytes(array(bytes, 12))),
            crc: u32::from_be_bytes(array(bytes, 17)),
            attributes: Attributes(i16::from_be_bytes(array(bytes, 21))),
            last_offset_delta: i32::from_be_bytes(array(bytes, 23)),
            base_timestamp: Timestamp(i64::from_be_bytes(array(bytes, 27))),
            max_timestamp: Timestamp(i64::from_be_bytes(array(bytes, 35))),
            producer_id: ProducerId(i64::from_be_bytes(array(bytes, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(array(bytes, 51))),
            base_sequence: Sequence(i32::from_be_bytes(array(bytes, 53))),
            records_count: i32::from_be_bytes(array(bytes, 57)),
        })
    }

    /// Bytes of the whole batch, header included.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        LENGTH_PREFIX_BYTES + self.batch_length as usize
    }

    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    /// The offset after the batch.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    /// The sequence of the last record, where an idempotent producer wrote the batch.
    #[must_use]
    pub fn last_sequence(&self) -> Sequence {
        if self.base_sequence == Sequence::NONE {
            Sequence::NONE
        } else {
            self.base_sequence.plus(self.last_offset_delta)
        }
    }
}

/// Stamps what the leader assigns; neither field is under the checksum.
///
/// # Panics
/// When `batch` is shorter than a header: only validated batches are stamped.
pub fn stamp(batch: &mut [u8], base_offset: Offset, leader_epoch: LeaderEpoch) {
    assert!(batch.len() >= HEADER_BYTES, "only a validated batch is stamped");
    batch[0..8].copy_from_slice(&base_offset.0.to_be_bytes());
    batch[12..16].copy_from_slice(&leader_epoch.0.to_be_bytes());
}

/// The CRC-32C that the header of `batch` must carry. `batch` is exactly one batch.
#[must_use]
pub fn checksum(batch: &[u8]) -> u32 {
    let checked = batch.get(21..).unwrap_or_default();
    // 32 bits wide, in the width of the widest that the crate knows.
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, checked) as u32
}

/// Iterates over batches that stand one after another.
///
/// Ends at the end of the bytes; a batch that is cut off or malformed is yielded as an error, once, and ends the iteration.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Batches<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<(BatchHeader, &'a [u8]), HeaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        match BatchHeader::parse(rest) {
            Ok(header) if header.total_bytes() <= rest.len() => {
                let (batch, after) = rest.split_at(header.total_bytes());
                self.rest = after;
                Some(Ok((header, batch)))
            }
            Ok(_) => Some(Err(HeaderError::Truncated { available: rest.len() })),
            Err(error) => Some(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        /// All lengths, for the ways that are chosen by it; two implementations that know nothing of each other.
        #[test]
        fn the_checksum_is_crc_32c(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            prop_assert_eq!(super::checksum(&bytes), crc32c::crc32c(bytes.get(21..).unwrap_or_default()));
        }
    }
}
