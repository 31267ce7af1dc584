//! The records of a batch, walked over their bytes without copying (message format v2).
//!
//! ```text
//! length varint | attributes i8 | timestamp delta varlong | offset delta varint
//! key length varint (-1: null) | key | value length varint (-1: null) | value
//! headers count varint | each: key length varint | key | value length varint (-1: null) | value
//! ```
//! Varints are zig-zag encoded. Source: <https://kafka.apache.org/documentation/#record>.

use crate::{
    batch::{BatchHeader, HEADER_BYTES},
    ids::Offset,
    time::Timestamp,
};

/// One record, pointing into the decompressed bytes of its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its whole encoding, length included.
    pub bytes: &'a [u8],
    /// What follows the length, attributes, timestamp delta and offset delta: key, value and headers as they are encoded.
    pub payload: &'a [u8],
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    headers: &'a [u8],
    headers_count: usize,
}

impl<'a> Record<'a> {
    /// The headers in their order: key and value.
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        Headers { rest: self.headers, left: self.headers_count }
    }

    /// How many headers it has.
    #[must_use]
    pub fn headers_count(&self) -> usize {
        self.headers_count
    }

    /// The offset of the record in a batch.
    #[inline]
    #[must_use]
    pub fn offset(&self, batch: &BatchHeader) -> Offset {
        batch.base_offset.plus(i64::from(self.offset_delta))
    }

    /// The timestamp of the record: the batch's where the broker stamped it.
    #[inline]
    #[must_use]
    pub fn timestamp(&self, batch: &BatchHeader) -> Timestamp {
        if batch.attributes.is_log_append_time() {
            batch.max_timestamp
        } else {
            Timestamp(batch.base_timestamp.0.wrapping_add(self.timestamp_delta))
        }
    }
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {index} of the batch: {fault}")]
pub struct RecordError {
    /// The position in the batch, from 0.
    pub index: usize,
    pub fault: RecordFault,
}

/// The ways in which a record can be malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    #[error("its bytes end too early")]
    Truncated,
    #[error("a number in it is too long")]
    Varint,
    #[error("a length in it is negative or larger than the record")]
    Length,
    #[error("it has bytes after its last header")]
    Trailing,
    #[error("the key of a header is null")]
    NullHeaderKey,
}

/// Iterates over the records in `bytes`, which are what follows the header of a batch, decompressed.
///
/// Ends after `count` records; an error is yielded once and ends the iteration. [`Records::rest`] is what is left.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    index: usize,
    count: usize,
}

impl<'a> Records<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8], count: i32) -> Self {
        Self { rest: bytes, index: 0, count: usize::try_from(count).unwrap_or(0) }
    }

    /// The records of a whole uncompressed batch.
    #[must_use]
    pub fn of_uncompressed(batch: &'a [u8], header: &BatchHeader) -> Self {
        Self::new(batch.get(HEADER_BYTES..).unwrap_or_default(), header.records_count)
    }

    /// Bytes after the records walked so far.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.index == self.count {
            return None;
        }
        let index = self.index;
        match record(self.rest) {
            Ok((record, rest)) => {
                self.rest = rest;
                self.index += 1;
                Some(Ok(record))
            }
            Err(fault) => {
                self.index = self.count;
                Some(Err(RecordError { index, fault }))
            }
        }
    }
}

/// Calls `each` with every record and its index, and returns the bytes after the last. The walk of validation: [`Records`] in half the time,
/// because nothing is kept between two records.
///
/// # Errors
/// [`RecordError`], or the first error of `each`.
#[inline]
pub fn walk<'a, E: From<RecordError>>(
    bytes: &'a [u8],
    count: i32,
    mut each: impl FnMut(i32, &Record<'a>) -> Result<(), E>,
) -> Result<&'a [u8], E> {
    let mut at = bytes;
    for index in 0..count {
        match record(at) {
            Ok((record, rest)) => {
                each(index, &record)?;
                at = rest;
            }
            Err(fault) => return Err(RecordError { index: index as usize, fault }.into()),
        }
    }
    Ok(at)
}

/// Iterates over the headers of a record, which were checked when the record was walked.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (header, rest) = header(self.rest).ok()?;
        self.rest = rest;
        Some(header)
    }
}

// Where it is not inlined, storing and loading the record costs as much as reading it.
#[inline(always)]
fn record(bytes: &[u8]) -> Result<(Record<'_>, &[u8]), RecordFault> {
    let (body, rest) = body_of(bytes)?;
    let parts = match quick_parts(body) {
        Some(parts) => parts,
        None => parts_of(body)?,
    };
    let whole = &bytes[..bytes.len() - rest.len()];
    if parts.headers_count != 0 || !parts.headers.is_empty() {
        check_headers(parts.headers, parts.headers_count)?;
    }
    let Parts { timestamp_delta, offset_delta, payload, key, value, headers_count, headers } = parts;
    let record = Record { bytes: whole, payload, timestamp_delta, offset_delta, key, value, headers, headers_count };
    Ok((record, rest))
}

/// What follows the length of a record, and what follows the record.
#[inline(always)]
fn body_of(bytes: &[u8]) -> Result<(&[u8], &[u8]), RecordFault> {
    let (length, after) = varint(bytes)?;
    let length = usize::try_from(length).map_err(|_| RecordFault::Length)?;
    after.split_at_checked(length).ok_or(RecordFault::Truncated)
}

/// The body of a record, taken apart; its headers are not checked yet.
struct Parts<'a> {
    timestamp_delta: i64,
    offset_delta: i32,
    payload: &'a [u8],
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers_count: usize,
    headers: &'a [u8],
}

/// The common case at half the cost: both deltas and the key's length are within eight bytes, which are loaded at once. `None` where
/// that is not so, or anything is wrong: [`parts_of`] then says what.
#[inline(always)]
fn quick_parts(body: &[u8]) -> Option<Parts<'_>> {
    let word = u64::from_le_bytes(*body.get(1..)?.first_chunk()?);
    let (timestamp_delta, word, first) = quick_varint(word)?;
    let (offset_delta, word, second) = quick_varint(word)?;
    let (key_length, _, third) = quick_varint(word)?;
    let payload = body.get(1 + first + second..)?;
    let at = payload.get(third..)?;
    let (key, at) = match usize::try_from(key_length) {
        Ok(length) => at.split_at_checked(length).map(|(key, at)| (Some(key), at))?,
        Err(_) if key_length == -1 => (None, at),
        Err(_) => return None,
    };
    let (value, at) = nullable(at).ok()?;
    let (headers_count, headers) = varint(at).ok()?;
    let headers_count = usize::try_from(headers_count).ok()?;
    let timestamp_delta = i64::from(timestamp_delta);
    Some(Parts { timestamp_delta, offset_delta, payload, key, value, headers_count, headers })
}

/// Decodes a varint of one or two bytes from the low end of `word`: its value, what is left of the word, its bytes.
#[inline(always)]
fn quick_varint(word: u64) -> Option<(i32, u64, usize)> {
    if word & 0x80 == 0 {
        Some((unzigzag((word & 0x7f) as u32), word >> 8, 1))
    } else if word & 0x8000 == 0 {
        Some((unzigzag((word & 0x7f | word >> 1 & 0x3f80) as u32), word >> 16, 2))
    } else {
        None
    }
}

#[cold]
fn parts_of(body: &[u8]) -> Result<Parts<'_>, RecordFault> {
    let [_attributes, at @ ..] = body else { return Err(RecordFault::Length) };
    let (timestamp_delta, at) = varlong(at).map_err(inside)?;
    let (offset_delta, payload) = varint(at).map_err(inside)?;
    let (key, at) = nullable(payload).map_err(inside)?;
    let (value, at) = nullable(at).map_err(inside)?;
    let (headers_count, headers) = varint(at).map_err(inside)?;
    let headers_count = usize::try_from(headers_count).map_err(|_| RecordFault::Length)?;
    Ok(Parts { timestamp_delta, offset_delta, payload, key, value, headers_count, headers })
}

/// A body is cut at its length, so "too early" inside of it means that the length is wrong.
fn inside(fault: RecordFault) -> RecordFault {
    if fault == RecordFault::Truncated { RecordFault::Length } else { fault }
}

fn check_headers(headers: &[u8], count: usize) -> Result<(), RecordFault> {
    // A header is at least two bytes: a count that cannot be is refused before it is walked.
    if count > headers.len() / 2 {
        return Err(RecordFault::Length);
    }
    let mut at = headers;
    for _ in 0..count {
        at = header(at).map_err(inside)?.1;
    }
    if at.is_empty() { Ok(()) } else { Err(RecordFault::Trailing) }
}

type Header<'a> = (&'a [u8], Option<&'a [u8]>);

#[inline]
fn header(bytes: &[u8]) -> Result<(Header<'_>, &[u8]), RecordFault> {
    let (key, at) = nullable(bytes)?;
    let key = key.ok_or(RecordFault::NullHeaderKey)?;
    let (value, rest) = nullable(at)?;
    Ok(((key, value), rest))
}

#[inline]
fn nullable(bytes: &[u8]) -> Result<(Option<&[u8]>, &[u8]), RecordFault> {
    let (length, at) = varint(bytes)?;
    if length == -1 {
        return Ok((None, at));
    }
    let length = usize::try_from(length).map_err(|_| RecordFault::Length)?;
    let (value, rest) = at.split_at_checked(length).ok_or(RecordFault::Length)?;
    Ok((Some(value), rest))
}

/// Decodes a zig-zag varint of at most 32 bits; returns what follows it.
///
/// # Errors
/// [`RecordFault::Truncated`] or [`RecordFault::Varint`].
#[inline]
pub fn varint(bytes: &[u8]) -> Result<(i32, &[u8]), RecordFault> {
    // One or two bytes is the common case, 99 in 100: lengths and deltas are small. The walk over a batch spends its time here.
    match bytes {
        [a @ 0..=0x7f, rest @ ..] => Ok((unzigzag(u32::from(*a)), rest)),
        [a, b @ 0..=0x7f, rest @ ..] => Ok((unzigzag(u32::from(*a & 0x7f) | u32::from(*b) << 7), rest)),
        _ => long_varint(bytes),
    }
}

/// Decodes a zig-zag varint of at most 64 bits; returns what follows it.
///
/// # Errors
/// [`RecordFault::Truncated`] or [`RecordFault::Varint`].
#[inline]
pub fn varlong(bytes: &[u8]) -> Result<(i64, &[u8]), RecordFault> {
    match bytes {
        [a @ 0..=0x7f, rest @ ..] => Ok((i64::from(unzigzag(u32::from(*a))), rest)),
        [a, b @ 0..=0x7f, rest @ ..] => Ok((i64::from(unzigzag(u32::from(*a & 0x7f) | u32::from(*b) << 7)), rest)),
        _ => long_varlong(bytes),
    }
}

#[inline]
fn unzigzag(value: u32) -> i32 {
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

#[cold]
fn long_varint(bytes: &[u8]) -> Result<(i32, &[u8]), RecordFault> {
    let (value, rest) = unsigned(bytes, 5)?;
    let value = u32::try_from(value).map_err(|_| RecordFault::Varint)?;
    Ok((unzigzag(value), rest))
}

#[cold]
fn long_varlong(bytes: &[u8]) -> Result<(i64, &[u8]), RecordFault> {
    let (value, rest) = unsigned(bytes, 10)?;
    Ok(((value >> 1) as i64 ^ -((value & 1) as i64), rest))
}

fn unsigned(bytes: &[u8], bytes_max: usize) -> Result<(u64, &[u8]), RecordFault> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(bytes_max).enumerate() {
        if index == 9 && *byte > 1 {
            return Err(RecordFault::Varint);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, &bytes[index + 1..]));
        }
    }
    Err(if bytes.len() >= bytes_max { RecordFault::Varint } else { RecordFault::Truncated })
}

/// Appends a zig-zag varint (of 32 or 64 bits: the encoding is the same).
pub fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut value = ((value << 1) ^ (value >> 63)) as u64;
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes [`put_varlong`] appends.
#[must_use]
pub fn varlong_bytes(value: i64) -> usize {
    let value = ((value << 1) ^ (value >> 63)) as u64;
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests;
