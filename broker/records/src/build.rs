//! Builds record batches: what the broker itself writes (coordinator records, dead letters, parts of split batches).

use bytes::{Bytes, BytesMut};

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
}

/// Collects records into a batch. Offsets count from 0; the leader stamps the base offset.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    records: Vec<u8>,
    count: i32,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
    compression: Compression,
    attributes: Attributes,
    producer: Producer,
}

impl BatchBuilder {
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self {
            records: Vec::new(),
            count: 0,
            base_timestamp: Timestamp::NONE,
            max_timestamp: Timestamp::NONE,
            compression,
            attributes: Attributes::default(),
            producer: Producer::NONE,
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
        self.records.len()
    }

    /// Adds a record.
    pub fn push<'h>(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl IntoIterator<Item = (&'h [u8], Option<&'h [u8]>)>,
    ) {
        let mut payload = Vec::with_capacity(key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + 8);
        put_nullable(&mut payload, key);
        put_nullable(&mut payload, value);
        let mut encoded = Vec::new();
        let mut count = 0;
        for (name, value) in headers {
            put_nullable(&mut encoded, Some(name));
            put_nullable(&mut encoded, value);
            count += 1;
        }
        put_varlong(&mut payload, count);
        payload.extend_from_slice(&encoded);
        self.push_payload(timestamp, &payload);
    }

    /// Adds a record whose key, value and headers are encoded already ([`crate::record::Record::payload`]).
    pub fn push_payload(&mut self, timestamp: Timestamp, payload: &[u8]) {
        if self.count == 0 {
            self.base_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        put_record(&mut self.records, timestamp.0.wrapping_sub(self.base_timestamp.0), self.count, payload);
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
        assemble(header, &self.records)
    }
}

/// Puts a header before `records` (uncompressed), compresses them with the codec of its attributes, and fills length and checksum.
///
/// # Panics
/// When a codec fails on memory, which it does not.
#[must_use]
pub fn assemble(header: BatchHeader, records: &[u8]) -> (Bytes, BatchHeader) {
    let codec = header.attributes.compression().unwrap_or(Compression::None);
    let packed;
    let body = if codec == Compression::None {
        records
    } else {
        packed = compress::compress(codec, records, None).expect("compressing memory into memory does not fail");
        &packed
    };
    let mut out = BytesMut::zeroed(HEADER_BYTES);
    out.extend_from_slice(body);
    let batch_length = (out.len() - LENGTH_PREFIX_BYTES) as i32;
    let mut header = BatchHeader { batch_length, ..header };
    write_header(&mut out, &header);
    header.crc = batch::checksum(&out);
    out[17..21].copy_from_slice(&header.crc.to_be_bytes());
    (out.freeze(), header)
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
pub fn put_record(out: &mut Vec<u8>, timestamp_delta: i64, offset_delta: i32, payload: &[u8]) {
    let offset_delta = i64::from(offset_delta);
    let length = 1 + varlong_bytes(timestamp_delta) + varlong_bytes(offset_delta) + payload.len();
    put_varlong(out, length as i64);
    out.push(0);
    put_varlong(out, timestamp_delta);
    put_varlong(out, offset_delta);
    out.extend_from_slice(payload);
}
