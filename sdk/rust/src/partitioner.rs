//! Partitioners: which partition of its topic a record goes to.

use serde::de::DeserializeOwned;

use crate::{
    Batch, Error, Failure, Setup,
    bindings::{
        base::tidegate::plugin::types::Rejection,
        partitioner::exports::tidegate::plugin::partitioning::Placement as Answer,
    },
};

/// Decides which partition of its topic a record goes to.
pub trait Partitioner: Sized + 'static {
    /// What the configuration of the attachment is read into, as JSON. `()` where there is none.
    type Config: DeserializeOwned;

    /// A configuration that works, shown by `tidegate plugin describe`.
    const EXAMPLE: &str = "";

    /// Opens the partitioner with its configuration, and says what it needs to see.
    ///
    /// # Errors
    /// Why the configuration cannot be used: whoever attaches the plugin reads it.
    fn open(config: Self::Config, setup: &mut Setup) -> Result<Self, Error>;

    /// Answers for every record of the batch, in order.
    ///
    /// # Errors
    /// Why there is no answer for the whole batch.
    fn partition(&mut self, batch: &Batch, placement: &mut Placement) -> Result<(), Failure>;
}

/// The answers of a partitioner, in the order of the records.
#[derive(Debug)]
pub struct Placement {
    /// One for each record. Nothing grows here: that costs less in a loop over records than a vector which might.
    partitions: Vec<u32>,
    /// How many answers there were, which may be more.
    answered: usize,
    rejected: Vec<Rejection>,
}

impl Placement {
    pub(crate) fn new(count: usize) -> Self {
        Self { partitions: vec![0; count], answered: 0, rejected: Vec::new() }
    }

    /// The record goes to this partition, which is below [`Batch::topic_partitions`].
    #[inline]
    pub fn to(&mut self, partition: u32) {
        if let Some(next) = self.partitions.get_mut(self.answered) {
            *next = partition;
        }
        self.answered += 1;
    }

    /// The places of the next `count` records, to be filled in.
    pub(crate) fn next(&mut self, count: usize) -> &mut [u32] {
        let from = self.answered.min(self.partitions.len());
        self.answered += count;
        let to = self.answered.min(self.partitions.len());
        &mut self.partitions[from..to]
    }

    /// The record is refused: its producer gets the reason, and nothing of the producer's batch is written.
    pub fn reject(&mut self, reason: impl Into<String>) {
        self.rejected.push(Rejection { record: self.answered as u32, reason: reason.into() });
        self.to(0);
    }

    pub(crate) fn finish(self) -> Result<Answer, Failure> {
        if self.answered != self.partitions.len() {
            let (answered, count) = (self.answered, self.partitions.len());
            return Err(Failure::Failed(format!("the partitioner answered for {answered} of {count} records")));
        }
        Ok(Answer { partitions: self.partitions, rejected: self.rejected })
    }
}
