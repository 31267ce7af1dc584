//! Builds record batches: what the broker itself writes (coordinator records, dead letters, parts of split batches).

use bytes::Bytes;

use crate::{
    batch::{self, Attributes, BatchHeader, Compression, HEADER_BYTES, LENGTH_PREFIX_BYTES, MAGIC},
    compress,
    ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence},
    record::{put_varlong, varlong_bytes},
    time::Timestamp,
};

/// The producer that a batch is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
    pub base_sequence: Sequence,
}

impl Producer {
    /// No idempotent producer.
    pub const NONE: Self = Self { id: ProducerId(-1), epoch: ProducerEpoch(-1), base_sequence: Sequence(-1) };

    /// The producer that wrote the batch of `header`.
    #[must_use]
    pub fn of(header: &BatchHeader) -> Self {
        Self { id: header.producer_id, epoch: header.producer_epoch, base_sequence: header.base_sequence }
    }
}

/// Collects records into a batch. Offsets count from 0; the leader stamps the base offset.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    /// Room for the header, then the records, uncompressed.
    bytes: Vec<u8>,
    count: i32,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
    compression: Compression,
    compression_level: Option<i32>,
    attributes: Attributes,
    producer: Producer,
    /// Reused by each record, so that none allocates.
    payload: Vec<u8>,
    headers: Vec<u8>,
}

impl BatchBuilder {
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self {
            bytes: vec![0; HEADER_BYTES],
            count: 0,
            base_timestamp: Timestamp::NONE,
            max_timestamp: Timestamp::NONE,
            compression,
            compression_level: None,
            attributes: Attributes::default(),
            producer: Producer::NONE,
            payload: Vec::new(),
            headers: Vec::new(),
        }
    }

    #[must_use]
    pub fn with_producer(mut self, producer: Producer) -> Self {
        self.producer = producer;
        self
    }

    /// Bits beside the compression, such as append time.
    #[must_use]
    pub fn with_attributes(mut self, attributes: Attributes) -> Self {
        self.attributes = attributes;
        self
    }

    /// The codec's own level; its default if this is not called.
    #[must_use]
    pub fn with_compression_level(mut self, level: Option<i32>) -> Self {
        self.compression_level = level;
        self
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Bytes of records so far, uncompressed.
    #[must_use]
    pub fn records_bytes(&self) -> usize {
        self.bytes.len() - HEADER_BYTES
    }

    /// Adds a record.
    ///
    /// # Panics
    /// When the records pass 2 GiB: callers bound a batch by the topic's `max.message.bytes`.
    pub fn push<'h>(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl IntoIterator<Item = (&'h [u8], Option<&'h [u8]>)>,
    ) {
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        self.headers.clear();
        put_nullable(&mut payload, key);
        put_nullable(&mut payload, value);
        let mut count = 0;
        for (name, value) in headers {
            put_nullable(&mut self.headers, Some(name));
            put_nullable(&mut self.headers, value);
            count += 1;
        }
        put_varlong(&mut payload, count);
        payload.extend_from_slice(&self.headers);
        self.push_payload(timestamp, &payload);
        self.payload = payload;
    }

    /// Adds a record whose key, value and headers are encoded already ([`crate::record::Record::payload`]).
    ///
    /// # Panics
    /// As [`BatchBuilder::push`].
    pub fn push_payload(&mut self, timestamp: Timestamp, payload: &[u8]) {
        if self.count == 0 {
            self.base_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        put_record(&mut self.bytes, timestamp.0.wrapping_sub(self.base_timestamp.0), self.count, payload);
        assert!(self.bytes.len() <= i32::MAX as usize, "a batch is bounded by max.message.bytes, far below 2 GiB");
        self.count += 1;
    }

    /// The batch, and its header.
    ///
    /// # Panics
    /// When no record was pushed: a batch has at least one.
    #[must_use]
    pub fn build(self) -> (Bytes, BatchHeader) {
        assert!(self.count > 0, "a batch has at least one record");
        let header = BatchHeader {
            base_offset: Offset(0),
            batch_length: 0,
            partition_leader_epoch: LeaderEpoch(-1),
            crc: 0,
            attributes: self.attributes.with_compression(self.compression),
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.producer.id,
            producer_epoch: self.producer.epoch,
            base_sequence: self.producer.base_sequence,
            records_count: self.count,
        };
        seal(header, self.bytes, self.compression_level)
    }
}

/// Puts a header before `records` (uncompressed), compresses them with the codec of its attributes, and fills length and checksum.
///
/// # Panics
/// When a codec fails on memory, which it does not, and when the batch passes 2 GiB.
#[must_use]
pub fn assemble(header: BatchHeader, records: &[u8]) -> (Bytes, BatchHeader) {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + records.len());
    bytes.resize(HEADER_BYTES, 0);
    bytes.extend_from_slice(records);
    seal(header, bytes, None)
}

/// As [`assemble`], where the uncompressed records stand already in `bytes`, after room for the header: they are not copied unless
/// they are compressed.
pub(crate) fn seal(header: BatchHeader, bytes: Vec<u8>, level: Option<i32>) -> (Bytes, BatchHeader) {
    let codec = header.attributes.compression().unwrap_or(Compression::None);
    if codec == Compression::None {
        return finish(header, bytes);
    }
    let mut packed = vec![0; HEADER_BYTES];
    compress::compress_into(&mut packed, codec, &bytes[HEADER_BYTES..], level)
        .expect("compressing memory into memory does not fail");
    // An encoder's room for the worst case would stay in memory for as long as the batch does.
    packed.shrink_to_fit();
    finish(header, packed)
}

/// Writes `header` over the start of `bytes`, a whole batch, with the length and the checksum that they have.
pub(crate) fn finish(header: BatchHeader, mut bytes: Vec<u8>) -> (Bytes, BatchHeader) {
    let batch_length =
        i32::try_from(bytes.len() - LENGTH_PREFIX_BYTES).expect("a batch is bounded far below 2 GiB by its callers");
    let mut header = BatchHeader { batch_length, ..header };
    write_header(&mut bytes, &header);
    header.crc = batch::checksum(&bytes);
    bytes[17..21].copy_from_slice(&header.crc.to_be_bytes());
    (bytes.into(), header)
}

/// Writes every field of `header` over the start of a batch, the checksum as it stands in `header`.
pub(crate) fn write_header(out: &mut [u8], header: &BatchHeader) {
    out[0..8].copy_from_slice(&header.base_offset.0.to_be_bytes());
    out[8..12].copy_from_slice(&header.batch_length.to_be_bytes());
    out[12..16].copy_from_slice(&header.partition_leader_epoch.0.to_be_bytes());
    out[16] = MAGIC as u8;
    out[17..21].copy_from_slice(&header.crc.to_be_bytes());
    out[21..23].copy_from_slice(&header.attributes.0.to_be_bytes());
    out[23..27].copy_from_slice(&header.last_offset_delta.to_be_bytes());
    out[27..35].copy_from_slice(&header.base_timestamp.0.to_be_bytes());
    out[35..43].copy_from_slice(&header.max_timestamp.0.to_be_bytes());
    out[43..51].copy_from_slice(&header.producer_id.0.to_be_bytes());
    out[51..53].copy_from_slice(&header.producer_epoch.0.to_be_bytes());
    out[53..57].copy_from_slice(&header.base_sequence.0.to_be_bytes());
    out[57..61].copy_from_slice(&header.records_count.to_be_bytes());
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varlong(out, -1),
        Some(bytes) => {
            put_varlong(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}

/// Appends a record: length, attributes, deltas, then the encoded key, value and headers.
#[inline]
pub fn put_record(out: &mut Vec<u8>, timestamp_delta: i64, offset_delta: i32, payload: &[u8]) {
    let offset_delta = i64::from(offset_delta);
    let length = 1 + varlong_bytes(timestamp_delta) + varlong_bytes(offset_delta) + payload.len();
    put_varlong(out, length as i64);
    out.push(0);
    put_varlong(out, timestamp_delta);
    put_varlong(out, offset_delta);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Records;

    #[test]
    fn what_is_built_is_what_the_java_client_builds() {
        let mut builder = BatchBuilder::new(Compression::None);
        let t = 1_700_000_000_000;
        builder.push(Timestamp(t), Some(b"key-0"), Some(b"value-0"), []);
        let headers: [(&[u8], Option<&[u8]>); 3] =
            [(b"type", Some(b"order")), (b"none", None), (b"type", Some(b"last"))];
        builder.push(Timestamp(t + 5), None, Some(b"no key"), headers);
        builder.push(Timestamp(t + 3), Some(b"tombstone"), None, []);
        builder.push(Timestamp(t + 5), Some(b""), Some(b""), []);
        let big: Vec<u8> = (0..300).map(|n| b'a' + (n % 26) as u8).collect();
        builder.push(Timestamp(t + 4), Some(b"big"), Some(&big), []);
        assert_eq!(builder.len(), 5);
        let (bytes, header) = builder.build();
        let mut java = include_bytes!("../../fuzz/corpus/record_batch/java-none").to_vec();
        batch::stamp(&mut java, header.base_offset, header.partition_leader_epoch);
        assert_eq!(bytes, java);
        assert_eq!(BatchHeader::parse(&bytes), Ok(header));
    }

    #[test]
    fn each_codec_and_level_says_the_same() {
        for (codec, level) in [
            (Compression::None, None),
            (Compression::Gzip, Some(1)),
            (Compression::Snappy, None),
            (Compression::Lz4, None),
            (Compression::Zstd, Some(7)),
        ] {
            let producer = Producer { id: ProducerId(1), epoch: ProducerEpoch(2), base_sequence: Sequence(3) };
            let mut builder = BatchBuilder::new(codec).with_compression_level(level).with_producer(producer);
            for n in 0..100 {
                builder.push(Timestamp(5), None, Some(&[n; 50]), []);
            }
            let (bytes, header) = builder.build();
            assert_eq!(BatchHeader::parse(&bytes), Ok(header));
            assert_eq!((header.max_timestamp, Producer::of(&header)), (Timestamp(5), producer));
            let records = compress::decompress(codec, &bytes.slice(HEADER_BYTES..), 1 << 20).unwrap();
            let values: Vec<u8> =
                Records::new(&records, header.records_count).map(|record| record.unwrap().value.unwrap()[0]).collect();
            assert_eq!(values, (0..100).collect::<Vec<u8>>());
        }
    }
}
