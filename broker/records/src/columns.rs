//! A batch's records as columns: what a plugin sees.
//!
//! Only the columns that are wanted are built; each is one run of bytes with the ends of its values, so that a call into a plugin
//! copies a few large pieces instead of many small ones. Shapes are those of `wit/since-0.1.0/types.wit`.

use crate::{
    batch::BatchHeader,
    record::{Record, RecordError, Records},
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

impl Wanted {
    /// Whether nothing but the number of records is wanted: the batch need not be decompressed.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        !(self.keys || self.values || self.timestamps || self.offsets) && self.headers.is_empty()
    }
}

/// Values of variable length, one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    pub data: Vec<u8>,
    /// Where each value ends in `data`; one entry a record.
    pub ends: Vec<u32>,
    /// Bit i (of little-endian words) set: value i is null. Empty: none is null; else a word for every 64 records begun.
    pub nulls: Vec<u64>,
}

impl Column {
    fn with_capacity(data_bytes: usize, records: usize) -> Self {
        Self { data: Vec::with_capacity(data_bytes), ends: Vec::with_capacity(records), nulls: Vec::new() }
    }

    fn push(&mut self, value: Option<&[u8]>) {
        match value {
            Some(bytes) => self.data.extend_from_slice(bytes),
            None => self.mark_null(self.ends.len()),
        }
        // `append` asserts that all data fits.
        self.ends.push(self.data.len() as u32);
    }

    #[cold]
    fn mark_null(&mut self, index: usize) {
        if self.nulls.len() <= index / 64 {
            self.nulls.resize(index / 64 + 1, 0);
        }
        self.nulls[index / 64] |= 1 << (index % 64);
    }

    fn finish(&mut self) {
        if !self.nulls.is_empty() {
            self.nulls.resize(self.ends.len().div_ceil(64), 0);
        }
    }

    fn truncate(&mut self, records: usize) {
        self.ends.truncate(records);
        self.data.truncate(self.ends.last().map_or(0, |end| *end as usize));
        self.nulls.truncate(records.div_ceil(64));
        if let Some(last) = self.nulls.last_mut()
            && !records.is_multiple_of(64)
        {
            *last &= (1 << (records % 64)) - 1;
        }
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

/// The columns of one or several batches; those that were not wanted are `None`.
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
    let mut out = Columns::new(wanted);
    out.append(header, records, wanted)?;
    Ok(out)
}

impl Columns {
    /// The wanted columns, of no record yet.
    #[must_use]
    pub fn new(wanted: &Wanted) -> Self {
        Self {
            count: 0,
            keys: wanted.keys.then(Column::default),
            values: wanted.values.then(Column::default),
            timestamps: wanted.timestamps.then(Vec::new),
            offsets: wanted.offsets.then(Vec::new),
            headers: vec![Column::default(); wanted.headers.len()],
        }
    }

    /// Appends the records of a batch; `wanted` is what `self` was made with. `records` are decompressed.
    ///
    /// Cost: a walk over the records and a copy of what is wanted; allocates a few times, whatever the number of records.
    ///
    /// # Errors
    /// [`RecordError`]; does not happen for the records of a validated batch. What the batch had is taken out again.
    ///
    /// # Panics
    /// When a column could pass 4 GiB: whoever gathers batches bounds their bytes far below.
    pub fn append(&mut self, header: &BatchHeader, records: &[u8], wanted: &Wanted) -> Result<(), RecordError> {
        let before = self.count as usize;
        self.reserve(header, records);
        let names: Vec<&[u8]> = wanted.headers.iter().map(String::as_bytes).collect();
        let mut last_values: Vec<Option<&[u8]>> = vec![None; names.len()];
        let mut result = Ok(());
        for record in Records::new(records, header.records_count) {
            match record {
                Ok(record) => self.push(header, &record, &names, &mut last_values),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if result.is_err() {
            self.truncate(before);
        }
        self.every_column(Column::finish);
        result
    }

    #[inline]
    fn push<'a>(
        &mut self,
        header: &BatchHeader,
        record: &Record<'a>,
        names: &[&[u8]],
        last_values: &mut [Option<&'a [u8]>],
    ) {
        self.count += 1;
        if let Some(keys) = &mut self.keys {
            keys.push(record.key);
        }
        if let Some(values) = &mut self.values {
            values.push(record.value);
        }
        if let Some(timestamps) = &mut self.timestamps {
            timestamps.push(record.timestamp(header).0);
        }
        if let Some(offsets) = &mut self.offsets {
            offsets.push(record.offset(header).0);
        }
        if names.is_empty() {
            return;
        }
        last_values.fill(None);
        for (key, value) in record.headers() {
            for (name, last) in names.iter().zip(last_values.iter_mut()) {
                if *name == key {
                    *last = value;
                }
            }
        }
        for (column, value) in self.headers.iter_mut().zip(last_values) {
            column.push(*value);
        }
    }

    /// Makes room for a batch, by what its bytes can hold and not by what its header claims.
    fn reserve(&mut self, header: &BatchHeader, records: &[u8]) {
        // A record takes at least seven bytes.
        let count = usize::try_from(header.records_count).unwrap_or(0).min(records.len() / 7 + 1);
        let with_keys_alone = records.len().min(count.saturating_mul(32));
        let keys_bytes = if self.values.is_some() { with_keys_alone.min(records.len() / 4) } else { with_keys_alone };
        let room = |column: &mut Option<Column>, bytes: usize| match column {
            Some(column) if column.ends.is_empty() => *column = Column::with_capacity(bytes, count),
            Some(column) => {
                column.data.reserve(bytes);
                column.ends.reserve(count);
            }
            None => {}
        };
        let largest = self.keys.iter().chain(&self.values).chain(&self.headers).map(|column| column.data.len()).max();
        assert!(
            largest.unwrap_or(0) + records.len() <= u32::MAX as usize,
            "the batches of one call are bounded far below 4 GiB"
        );
        room(&mut self.keys, keys_bytes);
        room(&mut self.values, records.len());
        for numbers in [&mut self.timestamps, &mut self.offsets].into_iter().flatten() {
            numbers.reserve(count);
        }
        for column in &mut self.headers {
            column.ends.reserve(count);
        }
    }

    fn truncate(&mut self, records: usize) {
        self.count = records as u32;
        self.every_column(|column| column.truncate(records));
        for numbers in [&mut self.timestamps, &mut self.offsets].into_iter().flatten() {
            numbers.truncate(records);
        }
    }

    fn every_column(&mut self, act: impl FnMut(&mut Column)) {
        self.keys.iter_mut().chain(&mut self.values).chain(&mut self.headers).for_each(act);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        batch::{Compression, HEADER_BYTES},
        build::BatchBuilder,
        ids::Offset,
        time::Timestamp,
    };

    type Plain = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

    fn built(records: &[Plain]) -> (Bytes, BatchHeader) {
        let mut builder = BatchBuilder::new(Compression::None);
        for (index, (key, value, headers)) in records.iter().enumerate() {
            let headers = headers.iter().map(|(key, value)| (key.as_slice(), value.as_deref()));
            builder.push(Timestamp(1000 - index as i64), key.as_deref(), value.as_deref(), headers);
        }
        builder.build()
    }

    fn plain_record() -> impl Strategy<Value = Plain> {
        let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..80));
        let name = prop_oneof![Just(b"a".to_vec()), Just(b"b".to_vec()), Just(Vec::new())];
        (bytes(), bytes(), prop::collection::vec((name, bytes()), 0..5))
    }

    proptest! {
        #[test]
        fn columns_say_what_the_records_say(
            batches in prop::collection::vec(prop::collection::vec(plain_record(), 1..90), 1..4),
        ) {
            let wanted = Wanted {
                keys: true, values: true, timestamps: true, offsets: true,
                headers: vec!["b".into(), "a".into(), "absent".into()],
            };
            let mut columns = Columns::new(&wanted);
            for batch in &batches {
                let (bytes, mut header) = built(batch);
                header.base_offset = Offset(500);
                columns.append(&header, &bytes[HEADER_BYTES..], &wanted).unwrap();
            }
            let all: Vec<&Plain> = batches.iter().flatten().collect();
            prop_assert_eq!(columns.count as usize, all.len());
            let (keys, values) = (columns.keys.as_ref().unwrap(), columns.values.as_ref().unwrap());
            for (index, (key, value, headers)) in all.iter().enumerate() {
                prop_assert_eq!(keys.value(index), key.as_deref());
                prop_assert_eq!(values.value(index), value.as_deref());
                for (name, column) in wanted.headers.iter().zip(&columns.headers) {
                    let last = headers.iter().rfind(|(key, _)| key == name.as_bytes());
                    prop_assert_eq!(column.value(index), last.and_then(|(_, value)| value.as_deref()));
                }
            }
            let counted: Vec<i64> = batches.iter().flat_map(|batch| 0..batch.len() as i64).collect();
            let offsets: Vec<i64> = counted.iter().map(|delta| 500 + delta).collect();
            let timestamps: Vec<i64> = counted.iter().map(|delta| 1000 - delta).collect();
            prop_assert_eq!(columns.offsets.unwrap(), offsets);
            prop_assert_eq!(columns.timestamps.unwrap(), timestamps);
            for column in columns.keys.iter().chain(&columns.values).chain(&columns.headers) {
                prop_assert!(column.nulls.is_empty() || column.nulls.len() == all.len().div_ceil(64));
            }
        }

        #[test]
        fn a_damaged_batch_leaves_the_others(cut in 0_usize..40, good in prop::collection::vec(plain_record(), 1..70)) {
            let wanted = Wanted { keys: true, values: true, timestamps: true, offsets: true, headers: vec!["a".into()] };
            let (bytes, header) = built(&good);
            let mut columns = columns(&header, &bytes[HEADER_BYTES..], &wanted).unwrap();
            let before = columns.clone();
            let (bytes, header) = built(&vec![(None, Some(vec![7; 30]), vec![(b"a".to_vec(), None)]); 70]);
            prop_assert!(columns.append(&header, &bytes[HEADER_BYTES..bytes.len() - 1 - cut], &wanted).is_err());
            for (column, was) in columns.keys.iter_mut().zip(&before.keys) {
                // A bitmap of zeros may stay behind.
                if was.nulls.is_empty() && column.nulls.iter().all(|word| *word == 0) {
                    column.nulls.clear();
                }
            }
            for (column, was) in columns.headers.iter_mut().zip(&before.headers) {
                if was.nulls.is_empty() && column.nulls.iter().all(|word| *word == 0) {
                    column.nulls.clear();
                }
            }
            prop_assert_eq!(columns, before);
        }
    }

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
        assert!(!wanted.is_nothing());
        let columns = columns(&header, &bytes[HEADER_BYTES..], &wanted).unwrap();
        assert_eq!(columns.count, 3);
        assert_eq!(columns.values, None);
        assert_eq!(columns.offsets, None);
        let keys = columns.keys.unwrap();
        assert_eq!((keys.value(0), keys.value(1), keys.value(2)), (Some(b"k0".as_slice()), None, Some(b"".as_slice())));
        assert_eq!(columns.timestamps.unwrap(), [10, 12, 11]);
        assert_eq!(columns.headers[0].value(0), Some(b"new".as_slice()));
        assert_eq!(columns.headers[0].nulls, [0b110]);
    }
}
