//! Retention policies: how long records are kept, and which of a segment.

use serde::de::DeserializeOwned;

use crate::{
    Batch, Error, Failure, Setup,
    bindings::{
        base::tidegate::plugin::types,
        retention::exports::tidegate::plugin::retaining::{Answer, Verdict},
    },
};

pub use crate::bindings::retention::exports::tidegate::plugin::retaining::{PartitionLog, Reader, Segment};

/// Decides how long the records of a topic are kept.
pub trait Retention: Sized + 'static {
    /// What the configuration of the attachment is read into, as JSON. `()` where there is none.
    type Config: DeserializeOwned;

    /// A configuration that works, shown by `tidegate plugin describe`.
    const EXAMPLE: &str = "";

    /// Opens the policy with its configuration. Columns are asked for here only by an [`Eraser`].
    ///
    /// # Errors
    /// Why the configuration cannot be used: whoever attaches the plugin reads it.
    fn open(config: Self::Config, setup: &mut Setup) -> Result<Self, Error>;

    /// Answers for every partition of `topic.logs`, in order. Called every `log.retention.check.interval.ms` (five minutes unless
    /// the broker says otherwise), or when the plugin asked to be ([`Verdicts::ask_again_in`]).
    ///
    /// # Errors
    /// Why there is no answer: nothing is deleted.
    fn evaluate(&mut self, topic: &Topic<'_>, verdicts: &mut Verdicts) -> Result<(), Failure>;
}

/// A policy that also says which records of a segment are kept: for `export!(eraser: …)`.
pub trait Eraser: Retention {
    /// Answers for every record of a batch, in order. Called for the segments that [`Verdicts::rewrite`] named.
    ///
    /// # Errors
    /// Why there is no answer: the segment stays as it is.
    fn keep(&mut self, stored: &Stored<'_>, kept: &mut Kept) -> Result<(), Failure>;
}

/// A topic as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct Topic<'a> {
    pub name: &'a str,
    /// How many partitions it has; `logs` may have fewer of them.
    pub partitions: u32,
    pub logs: &'a [PartitionLog],
    /// The broker's clock, in milliseconds since 1970.
    pub now: i64,
}

impl PartitionLog {
    /// Where its oldest segments end of which no record is younger than `keep_ms` at `now`; -1: there is none. What `retention.ms` deletes of a
    /// topic without a policy.
    #[must_use]
    pub fn end_of_old(&self, keep_ms: i64, now: i64) -> i64 {
        let old = self.segments.iter().take_while(|segment| now.saturating_sub(segment.max_timestamp) > keep_ms);
        old.last().map_or(-1, |segment| segment.next_offset)
    }

    /// Where its oldest segments end without which the others still have `keep_bytes`; -1: there is none. What `retention.bytes` deletes of
    /// a topic without a policy, but for the active segment.
    #[must_use]
    pub fn end_of_surplus(&self, keep_bytes: u64) -> i64 {
        let mut left: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        let mut before = -1;
        for segment in &self.segments {
            left -= segment.bytes;
            if left < keep_bytes {
                break;
            }
            before = segment.next_offset;
        }
        before
    }
}

/// Records of a partition, as they are stored.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    pub partition: u32,
    /// With the columns that were asked for in `open`.
    pub batch: &'a Batch,
    /// The offset of each record.
    pub offsets: &'a [i64],
    /// The broker's clock, in milliseconds since 1970.
    pub now: i64,
}

/// The answers of a policy: [`keep`](Self::keep) or [`delete_before`](Self::delete_before) for each partition, in order.
#[derive(Debug)]
pub struct Verdicts {
    logs: usize,
    verdicts: Vec<Verdict>,
    again_in_ms: u64,
}

impl Verdicts {
    pub(crate) fn new(logs: usize) -> Self {
        Self { logs, verdicts: Vec::with_capacity(logs), again_in_ms: 0 }
    }

    /// Nothing is deleted.
    pub fn keep(&mut self) {
        self.delete_before(-1);
    }

    /// What is below this offset is deleted, as far as the broker's bounds allow: not above the high watermark, nothing of the active
    /// segment, and not what the topic's floors protect.
    pub fn delete_before(&mut self, offset: i64) {
        self.verdicts.push(Verdict { delete_before: offset, rewrite: Vec::new() });
    }

    /// A segment of the partition that was last answered for, by its index, is passed through [`Eraser::keep`].
    ///
    /// # Panics
    /// Before the first answer.
    pub fn rewrite(&mut self, segment: usize) {
        self.verdicts.last_mut().expect("a partition was answered for").rewrite.push(segment as u32);
    }

    /// Milliseconds until the plugin wants to be asked again, if that is sooner than the broker would. The broker has a least interval.
    pub fn ask_again_in(&mut self, ms: u64) {
        self.again_in_ms = ms;
    }

    pub(crate) fn finish(self) -> Result<Answer, Failure> {
        if self.verdicts.len() != self.logs {
            let (answered, logs) = (self.verdicts.len(), self.logs);
            return Err(Failure::Failed(format!("the policy answered for {answered} of {logs} partitions")));
        }
        Ok(Answer { verdicts: self.verdicts, again_in_ms: self.again_in_ms })
    }
}

/// The answers of an eraser, in the order of the records.
#[derive(Debug)]
pub struct Kept {
    count: usize,
    answered: usize,
    words: Vec<u64>,
}

impl Kept {
    pub(crate) fn new(count: usize) -> Self {
        Self { count, answered: 0, words: vec![0; count.div_ceil(64)] }
    }

    /// The record stays.
    pub fn keep(&mut self) {
        self.answer(true);
    }

    /// The record is erased: its bytes are gone from the disk when the segment has been rewritten. Offsets of the others stay.
    pub fn erase(&mut self) {
        self.answer(false);
    }

    fn answer(&mut self, keep: bool) {
        if let Some(word) = self.words.get_mut(self.answered / 64) {
            *word |= u64::from(keep) << (self.answered % 64);
        }
        self.answered += 1;
    }

    pub(crate) fn finish(self) -> Result<Vec<u64>, Failure> {
        if self.answered != self.count {
            let (answered, count) = (self.answered, self.count);
            return Err(Failure::Failed(format!("the eraser answered for {answered} of {count} records")));
        }
        Ok(self.words)
    }
}

/// One run for the whole batch: whose it was is not known any more.
pub(crate) fn stored_context(count: u32, now: i64) -> types::Context {
    types::Context { end: count, now, seed: 0, principal: None, client_id: None }
}
