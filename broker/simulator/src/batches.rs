//! Makes record batches for the workload: valid, with one record, of any size.

use bytes::{BufMut, Bytes};
use tidegate_records::{
    batch::{BatchHeader, HEADER_BYTES, LENGTH_PREFIX_BYTES, MAGIC, checksum},
    ids::{ProducerId, Sequence},
    time::Timestamp,
};

/// What a batch is to be.
#[derive(Clone, Copy, Debug)]
pub struct BatchSpec {
    /// Offsets that it takes.
    pub offsets: i32,
    pub timestamp: Timestamp,
    pub producer_id: ProducerId,
    pub base_sequence: Sequence,
    pub value_bytes: usize,
    /// What the value is filled with.
    pub fill: u64,
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.put_u8((rest as u8 & 0x7f) | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// A batch whose one record stands at its first offset.
///
/// # Panics
/// For values of gigabytes.
#[must_use]
pub fn make(spec: &BatchSpec) -> (Bytes, BatchHeader) {
    let mut body = Vec::new();
    body.put_u8(0);
    put_varint(&mut body, 0);
    put_varint(&mut body, 0);
    put_varint(&mut body, -1);
    put_varint(&mut body, spec.value_bytes as i64);
    let mut fill = spec.fill;
    let value_at = body.len();
    while body.len() < value_at + spec.value_bytes {
        body.put_u64(fill);
        fill = fill.rotate_left(5).wrapping_mul(0x2545_f491_4f6c_dd1d);
    }
    body.truncate(value_at + spec.value_bytes);
    put_varint(&mut body, 0);
    let mut record = Vec::new();
    put_varint(&mut record, body.len() as i64);
    record.extend_from_slice(&body);

    let mut out = Vec::with_capacity(HEADER_BYTES + record.len());
    out.put_i64(0);
    out.put_i32(i32::try_from(HEADER_BYTES - LENGTH_PREFIX_BYTES + record.len()).expect("batches are small"));
    out.put_i32(-1);
    out.put_i8(MAGIC);
    out.put_u32(0);
    out.put_i16(0);
    out.put_i32(spec.offsets - 1);
    out.put_i64(spec.timestamp.0);
    out.put_i64(spec.timestamp.0);
    out.put_i64(spec.producer_id.0);
    out.put_i16(0);
    out.put_i32(spec.base_sequence.0);
    out.put_i32(1);
    out.extend_from_slice(&record);
    let sum = checksum(&out);
    out[17..21].copy_from_slice(&sum.to_be_bytes());
    let header = BatchHeader::parse(&out).expect("it was made to be one");
    (out.into(), header)
}
