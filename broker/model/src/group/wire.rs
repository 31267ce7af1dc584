//! The primitive types of Kafka's record and protocol formats, big-endian, as the coordinator's records use them.
//!
//! "Flexible" formats have compact lengths (unsigned varint of length plus one) and end each struct with tagged fields
//! (KIP-482); the older ones have 16-bit string and 32-bit array lengths.

use bytes::{Buf, BufMut, Bytes};
use thiserror::Error;

use super::request::Text;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    #[error("the bytes end in the middle of a field")]
    Truncated,
    #[error("a length is negative or longer than what follows")]
    BadLength,
    #[error("a string is not UTF-8")]
    NotUtf8,
    #[error("a null where none is allowed")]
    UnexpectedNull,
    #[error("version {0} of this record is not known")]
    UnknownVersion(i16),
}

/// How lengths are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lengths {
    Classic,
    Compact,
}

/// Reads a field at a time; never past the end, never allocates by an unchecked length.
#[derive(Debug)]
pub(super) struct Reader {
    bytes: Bytes,
    lengths: Lengths,
}

impl Reader {
    pub(super) fn new(bytes: Bytes, lengths: Lengths) -> Self {
        Self { bytes, lengths }
    }

    pub(super) fn set_lengths(&mut self, lengths: Lengths) {
        self.lengths = lengths;
    }

    pub(super) fn i8(&mut self) -> Result<i8, WireError> {
        self.bytes.try_get_i8().map_err(|_| WireError::Truncated)
    }

    pub(super) fn i16(&mut self) -> Result<i16, WireError> {
        self.bytes.try_get_i16().map_err(|_| WireError::Truncated)
    }

    pub(super) fn i32(&mut self) -> Result<i32, WireError> {
        self.bytes.try_get_i32().map_err(|_| WireError::Truncated)
    }

    pub(super) fn i64(&mut self) -> Result<i64, WireError> {
        self.bytes.try_get_i64().map_err(|_| WireError::Truncated)
    }

    pub(super) fn uuid(&mut self) -> Result<[u8; 16], WireError> {
        let bytes = self.take(16)?;
        <[u8; 16]>::try_from(&bytes[..]).map_err(|_| WireError::Truncated)
    }

    pub(super) fn unsigned_varint(&mut self) -> Result<u32, WireError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.bytes.try_get_u8().map_err(|_| WireError::Truncated)?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::BadLength)
    }

    /// A length, `None` for null.
    fn length(
        &mut self,
        classic: impl FnOnce(&mut Self) -> Result<i32, WireError>,
    ) -> Result<Option<usize>, WireError> {
        let length = match self.lengths {
            Lengths::Classic => i64::from(classic(self)?),
            Lengths::Compact => i64::from(self.unsigned_varint()?) - 1,
        };
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| WireError::BadLength)?;
        // Whatever is counted takes at least a byte each.
        if length > self.bytes.remaining() { Err(WireError::BadLength) } else { Ok(Some(length)) }
    }

    fn take(&mut self, length: usize) -> Result<Bytes, WireError> {
        if length > self.bytes.len() { Err(WireError::Truncated) } else { Ok(self.bytes.split_to(length)) }
    }

    pub(super) fn nullable_string(&mut self) -> Result<Option<Text>, WireError> {
        let Some(length) = self.length(|reader| reader.i16().map(i32::from))? else { return Ok(None) };
        let bytes = self.take(length)?;
        std::str::from_utf8(&bytes).map(|text| Some(text.into())).map_err(|_| WireError::NotUtf8)
    }

    pub(super) fn string(&mut self) -> Result<Text, WireError> {
        self.nullable_string()?.ok_or(WireError::UnexpectedNull)
    }

    /// Null reads as empty.
    pub(super) fn bytes(&mut self) -> Result<Bytes, WireError> {
        let length = self.length(Self::i32)?.unwrap_or(0);
        self.take(length)
    }

    pub(super) fn array<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let count = self.length(Self::i32)?.unwrap_or(0);
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// The tagged fields at the end of a flexible struct; hands each to `field` and skips what that leaves.
    pub(super) fn tagged_fields(
        &mut self,
        mut field: impl FnMut(u32, &mut Self) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        for _ in 0..self.unsigned_varint()? {
            let tag = self.unsigned_varint()?;
            let size = usize::try_from(self.unsigned_varint()?).map_err(|_| WireError::BadLength)?;
            let bytes = self.take(size)?;
            field(tag, &mut Self::new(bytes, self.lengths))?;
        }
        Ok(())
    }

    pub(super) fn skip_tagged_fields(&mut self) -> Result<(), WireError> {
        self.tagged_fields(|_, _| Ok(()))
    }
}

/// Writes a field at a time.
#[derive(Debug)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    lengths: Lengths,
}

impl Writer {
    /// Starts with the 16-bit version that every key and value begins with.
    pub(super) fn new(version: i16, lengths: Lengths) -> Self {
        let mut writer = Self { bytes: Vec::with_capacity(64), lengths };
        writer.i16(version);
        writer
    }

    pub(super) fn i8(&mut self, value: i8) {
        self.bytes.put_i8(value);
    }

    pub(super) fn i16(&mut self, value: i16) {
        self.bytes.put_i16(value);
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.bytes.put_i32(value);
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.bytes.put_i64(value);
    }

    pub(super) fn uuid(&mut self, value: &[u8; 16]) {
        self.bytes.put_slice(value);
    }

    pub(super) fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.bytes.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.put_u8(value as u8);
    }

    fn compact_length(&mut self, length: usize) {
        let length = u32::try_from(length + 1).expect("nothing that fits a request is this long");
        self.unsigned_varint(length);
    }

    fn count(&mut self, count: usize) {
        match self.lengths {
            Lengths::Classic => self.i32(i32::try_from(count).expect("nothing that fits a request is this long")),
            Lengths::Compact => self.compact_length(count),
        }
    }

    pub(super) fn string(&mut self, text: &str) {
        let length = i16::try_from(text.len()).expect("the length of every string was checked when it arrived");
        match self.lengths {
            Lengths::Classic => self.i16(length),
            Lengths::Compact => self.compact_length(text.len()),
        }
        self.bytes.put_slice(text.as_bytes());
    }

    pub(super) fn nullable_string(&mut self, text: Option<&str>) {
        match (text, self.lengths) {
            (Some(text), _) => self.string(text),
            (None, Lengths::Classic) => self.i16(-1),
            (None, Lengths::Compact) => self.unsigned_varint(0),
        }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.bytes.put_slice(bytes);
    }

    pub(super) fn array<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Self, &T)) {
        self.count(items.len());
        for value in items {
            item(self, value);
        }
    }

    pub(super) fn no_tagged_fields(&mut self) {
        self.unsigned_varint(0);
    }

    /// The tagged fields of a struct, in ascending order of their tags; `None` is left out.
    pub(super) fn tagged_fields(&mut self, fields: &[(u32, Option<Vec<u8>>)]) {
        let present = fields.iter().filter(|(_, value)| value.is_some()).count();
        self.unsigned_varint(u32::try_from(present).expect("a handful"));
        for (tag, value) in fields {
            if let Some(value) = value {
                self.unsigned_varint(*tag);
                self.unsigned_varint(u32::try_from(value.len()).expect("nothing that fits a request is this long"));
                self.bytes.put_slice(value);
            }
        }
    }

    /// The bytes of a tagged field's value, written by `write`.
    pub(super) fn field(lengths: Lengths, write: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut writer = Self { bytes: Vec::new(), lengths };
        write(&mut writer);
        writer.bytes
    }

    pub(super) fn finish(self) -> Bytes {
        self.bytes.into()
    }
}
