//! A batch's records as columns: what a plugin sees.
//!
//! Only the columns that are wanted are built; each is one run of bytes with the ends of its values, so that a call into a plugin
//! copies a few large pieces instead of many small ones. Shapes are those of `wit/since-0.1.0/types.wit`.

use crate::{
    batch::BatchHeader,
    record::{RecordError, Records},
};

/// Which columns to build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub keys: bool,
    pub values: bool,
    pub timestamps: bool,
    pub offsets: bool,
    /// Names of headers, in the order in which their columns come.
    pub headers: Vec<String>,
}

/// Values of variable length, one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    pub data: Vec<u8>,
    /// Where each value ends in `data`; one entry a record.
    pub ends: Vec<u32>,
    /// Bit i (of little-endian words) set: value i is null. Empty: none is null.
    pub nulls: Vec<u64>,
}

impl Column {
    fn push(&mut self, value: Option<&[u8]>) {
        match value {
            Some(bytes) => self.data.extend_from_slice(bytes),
            None => {
                let index = self.ends.len();
                if self.nulls.len() <= index / 64 {
                    self.nulls.resize(index / 64 + 1, 0);
                }
                self.nulls[index / 64] |= 1 << (index % 64);
            }
        }
        // A batch is at most 2 GiB, and so is what it decompresses to.
        self.ends.push(self.data.len() as u32);
    }

    /// The value of a record; `None` where it is null.
    ///
    /// # Panics
    /// When there is no record `index`.
    #[must_use]
    pub fn value(&self, index: usize) -> Option<&[u8]> {
        if self.nulls.get(index / 64).is_some_and(|word| word & (1 << (index % 64)) != 0) {
            return None;
        }
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        Some(&self.data[start..self.ends[index] as usize])
    }
}

/// The columns of a batch; those that were not wanted are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    pub count: u32,
    pub keys: Option<Column>,
    pub values: Option<Column>,
    pub timestamps: Option<Vec<i64>>,
    pub offsets: Option<Vec<i64>>,
    /// In the order of [`Wanted::headers`]; the last value of that header in each record, null where it is absent.
    pub headers: Vec<Column>,
}

/// Builds the wanted columns of a batch. `records` are decompressed.
///
/// # Errors
/// [`RecordError`]; does not happen for the records of a validated batch.
pub fn columns(header: &BatchHeader, records: &[u8], wanted: &Wanted) -> Result<Columns, RecordError> {
    let count = usize::try_from(header.records_count).unwrap_or(0);
    // A record takes at least seven bytes: the count of a batch that was not validated allocates nothing large.
    let capacity = count.min(records.len() / 7 + 1);
    let column = |wanted: bool, bytes: usize| {
        wanted.then(|| Column {
            data: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(capacity),
            nulls: Vec::new(),
        })
    };
    let mut out = Columns {
        count: 0,
        keys: column(wanted.keys, if wanted.values { 0 } else { capacity * 16 }),
        values: column(wanted.values, records.len()),
        timestamps: wanted.timestamps.then(|| Vec::with_capacity(capacity)),
        offsets: wanted.offsets.then(|| Vec::with_capacity(capacity)),
        headers: wanted.headers.iter().map(|_| Column::default()).collect(),
    };
    for record in Records::new(records, header.records_count) {
        let record = record?;
        out.count += 1;
        if let Some(keys) = &mut out.keys {
            keys.push(record.key);
        }
        if let Some(values) = &mut out.values {
            values.push(record.value);
        }
        if let Some(timestamps) = &mut out.timestamps {
            timestamps.push(record.timestamp(header).0);
        }
        if let Some(offsets) = &mut out.offsets {
            offsets.push(record.offset(header).0);
        }
        for (name, column) in wanted.headers.iter().zip(&mut out.headers) {
            let last = record.headers().filter(|(key, _)| *key == name.as_bytes()).last();
            column.push(last.and_then(|(_, value)| value));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        batch::{Compression, HEADER_BYTES},
        build::BatchBuilder,
        time::Timestamp,
    };

    #[test]
    fn only_what_is_wanted_is_built_and_nulls_are_told_from_empty() {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push(
            Timestamp(10),
            Some(b"k0"),
            Some(b"v0"),
            [(b"h".as_slice(), Some(b"old".as_slice())), (b"h", Some(b"new"))],
        );
        builder.push(Timestamp(12), None, Some(b""), []);
        builder.push(Timestamp(11), Some(b""), None, [(b"other".as_slice(), None)]);
        let (bytes, header): (Bytes, _) = builder.build();
        let wanted = Wanted { keys: true, timestamps: true, headers: vec!["h".into()], ..Wanted::default() };
        let columns = columns(&header, &bytes[HEADER_BYTES..], &wanted).unwrap();
        assert_eq!(columns.count, 3);
        assert_eq!(columns.values, None);
        let keys = columns.keys.unwrap();
        assert_eq!((keys.value(0), keys.value(1), keys.value(2)), (Some(b"k0".as_slice()), None, Some(b"".as_slice())));
        assert_eq!(columns.timestamps.unwrap(), [10, 12, 11]);
        assert_eq!(columns.headers[0].value(0), Some(b"new".as_slice()));
        assert_eq!(columns.headers[0].nulls, [0b110]);
    }
}
