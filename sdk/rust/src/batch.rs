//! The records of a call, as columns. Nothing is copied: every key and value points into what the broker handed over.

use std::ops::Range;

use crate::{bindings::base::tidegate::plugin::types, setup::Header};

/// The records of one call, in the order in which they were sent.
///
/// A column that was not asked for in `open` is not there, and reading it panics: the broker passes only what is needed.
#[derive(Debug)]
pub struct Batch {
    pub(crate) topic: types::Topic,
    pub(crate) records: types::Batch,
    pub(crate) contexts: Vec<types::Context>,
}

impl Batch {
    /// How many records there are; never zero.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.count as usize
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.count == 0
    }

    /// The topic that the records were sent to.
    #[must_use]
    pub fn topic_name(&self) -> &str {
        &self.topic.name
    }

    /// How many partitions that topic has; at least one.
    #[must_use]
    pub fn topic_partitions(&self) -> u32 {
        self.topic.partitions
    }

    /// The key of each record; `None` where it has none.
    ///
    /// # Panics
    /// Without [`Setup::read_keys`](crate::Setup::read_keys).
    #[must_use]
    pub fn keys(&self) -> Column<'_> {
        Column::new(self.records.keys.as_ref().expect("keys are there after `setup.read_keys()` in `open`"))
    }

    /// The value of each record; `None` for a tombstone.
    ///
    /// # Panics
    /// Without [`Setup::read_values`](crate::Setup::read_values).
    #[must_use]
    pub fn values(&self) -> Column<'_> {
        Column::new(self.records.values.as_ref().expect("values are there after `setup.read_values()` in `open`"))
    }

    /// The timestamp of each record, in milliseconds since 1970.
    ///
    /// # Panics
    /// Without [`Setup::read_timestamps`](crate::Setup::read_timestamps).
    #[must_use]
    pub fn timestamps(&self) -> &[i64] {
        self.records.timestamps.as_deref().expect("timestamps are there after `setup.read_timestamps()` in `open`")
    }

    /// The last value of a header in each record; `None` where the record does not have it.
    #[must_use]
    pub fn header(&self, header: Header) -> Column<'_> {
        Column::new(self.records.headers.get(header.0).expect("a header is one that `setup.read_header()` returned"))
    }

    /// The records one by one, each with its context.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        Records { batch: self, index: 0, run: 0 }
    }

    /// The runs of records that came together: each was one batch of one producer.
    #[must_use]
    pub fn runs(&self) -> Runs<'_> {
        Runs { contexts: self.contexts.iter(), start: 0 }
    }
}

/// One column of a batch: a value, or none, for each record.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    data: &'a [u8],
    ends: &'a [u32],
    nulls: &'a [u64],
}

impl<'a> Column<'a> {
    pub(crate) fn new(column: &'a types::Column) -> Self {
        Self { data: &column.data, ends: &column.ends, nulls: &column.nulls }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The value of record `index`.
    ///
    /// # Panics
    /// Beyond the last record.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        if is_null(self.nulls, index) {
            return None;
        }
        Some(&self.data[self.start_of(index)..self.ends[index] as usize])
    }

    fn start_of(&self, index: usize) -> usize {
        if index == 0 { 0 } else { self.ends[index - 1] as usize }
    }

    /// The values in order: the fastest way through them.
    #[must_use]
    pub fn iter(&self) -> Values<'a> {
        Values { data: self.data, ends: self.ends.iter(), nulls: self.nulls, start: 0, index: 0 }
    }

    /// Whether no record lacks a value.
    pub(crate) fn is_whole(&self) -> bool {
        self.nulls.is_empty()
    }

    /// The values in order, as empty ones where there are none: nothing is asked of each, which leaves a loop in the sandbox enough
    /// registers.
    pub(crate) fn or_empty(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let data = self.data;
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let end = *end as usize;
            &data[std::mem::replace(&mut start, end)..end]
        })
    }

    /// The values of some of the records.
    ///
    /// # Panics
    /// Where the range is not within the batch.
    #[must_use]
    pub fn range(&self, range: Range<usize>) -> Values<'a> {
        let start = self.start_of(range.start);
        Values { data: self.data, ends: self.ends[range.clone()].iter(), nulls: self.nulls, start, index: range.start }
    }
}

impl<'a> IntoIterator for Column<'a> {
    type Item = Option<&'a [u8]>;
    type IntoIter = Values<'a>;

    fn into_iter(self) -> Values<'a> {
        self.iter()
    }
}

fn is_null(nulls: &[u64], index: usize) -> bool {
    nulls.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
}

/// Iterates over the values of a column.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    data: &'a [u8],
    ends: std::slice::Iter<'a, u32>,
    nulls: &'a [u64],
    start: usize,
    index: usize,
}

impl<'a> Iterator for Values<'a> {
    type Item = Option<&'a [u8]>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let end = *self.ends.next()? as usize;
        let start = std::mem::replace(&mut self.start, end);
        let index = self.index;
        self.index += 1;
        if !self.nulls.is_empty() && is_null(self.nulls, index) {
            return Some(None);
        }
        Some(Some(&self.data[start..end]))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ends.size_hint()
    }
}

impl ExactSizeIterator for Values<'_> {}

/// One record of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    batch: &'a Batch,
    index: usize,
    run: usize,
}

impl<'a> Record<'a> {
    /// Its position in the batch, from 0.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// As [`Batch::keys`].
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.batch.keys().get(self.index)
    }

    /// As [`Batch::values`].
    #[must_use]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.batch.values().get(self.index)
    }

    /// As [`Batch::header`].
    #[must_use]
    pub fn header(&self, header: Header) -> Option<&'a [u8]> {
        self.batch.header(header).get(self.index)
    }

    /// As [`Batch::timestamps`].
    #[must_use]
    pub fn timestamp(&self) -> i64 {
        self.batch.timestamps()[self.index]
    }

    /// What is true of the producer's batch that it came in.
    #[must_use]
    pub fn context(&self) -> Context<'a> {
        Context(&self.batch.contexts[self.run])
    }
}

/// Iterates over the records of a batch.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    batch: &'a Batch,
    index: usize,
    run: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        if self.index == self.batch.len() {
            return None;
        }
        while self.index >= self.batch.contexts[self.run].end as usize {
            self.run += 1;
        }
        let record = Record { batch: self.batch, index: self.index, run: self.run };
        self.index += 1;
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.batch.len() - self.index;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Records<'_> {}

/// Records that came together: positions in the batch, and what is true of them.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    pub records: Range<usize>,
    pub context: Context<'a>,
}

/// Iterates over the runs of a batch.
#[derive(Clone, Debug)]
pub struct Runs<'a> {
    contexts: std::slice::Iter<'a, types::Context>,
    start: usize,
}

impl<'a> Iterator for Runs<'a> {
    type Item = Run<'a>;

    fn next(&mut self) -> Option<Run<'a>> {
        let context = self.contexts.next()?;
        let end = context.end as usize;
        let start = std::mem::replace(&mut self.start, end);
        Some(Run { records: start..end, context: Context(context) })
    }
}

/// What is true of records that came in one batch of one producer.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a>(&'a types::Context);

impl<'a> Context<'a> {
    /// The time at which the batch is appended, in milliseconds since 1970. There is no other clock.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.0.now
    }

    /// The same for every retry of the batch, otherwise as good as random.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// Random numbers from the seed: each call begins the same sequence.
    #[must_use]
    pub fn random(&self) -> Random {
        Random(self.0.seed)
    }

    /// Who sent the batch; asked for by [`Setup::read_principal`](crate::Setup::read_principal).
    #[must_use]
    pub fn principal(&self) -> Option<&'a str> {
        self.0.principal.as_deref()
    }

    /// The `client.id` of the producer; asked for by [`Setup::read_client_id`](crate::Setup::read_client_id).
    #[must_use]
    pub fn client_id(&self) -> Option<&'a str> {
        self.0.client_id.as_deref()
    }
}

/// A small fast generator (SplitMix64). Not for secrets: whoever knows the seed knows it all.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        crate::hash::mix(self.0)
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u32) -> u32 {
        // Multiply and shift (Lemire): no division, and a bias of at most bound / 2^32.
        (((self.bits() >> 32) * u64::from(bound)) >> 32) as u32
    }
}
