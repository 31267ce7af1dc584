//! Acknowledgement hooks: whether a batch is taken, and when its write counts as acknowledged.

use serde::de::DeserializeOwned;

use crate::{
    Batch, Error, Failure, Setup,
    bindings::{
        ack::exports::tidegate::plugin::acknowledging::{Answer, Decision, Refusal},
        base::tidegate::plugin::types::Rejection,
    },
};

pub use crate::bindings::ack::exports::tidegate::plugin::acknowledging::{Acks, Arrival, Copies, Reason, Replica};

/// Decides whether batches are taken, and when their write counts as acknowledged.
pub trait AckHook: Sized + 'static {
    /// What the configuration of the attachment is read into, as JSON. `()` where there is none.
    type Config: DeserializeOwned;

    /// A configuration that works, shown by `tidegate plugin describe`.
    const EXAMPLE: &str = "";

    /// Opens the hook with its configuration, and says what it needs to see.
    ///
    /// # Errors
    /// Why the configuration cannot be used: whoever attaches the plugin reads it.
    fn open(config: Self::Config, setup: &mut Setup) -> Result<Self, Error>;

    /// The most that it ever asks for with [`Decisions::until`]. The broker refuses to attach a hook that asks for what the cluster can
    /// never give.
    fn strongest(&self) -> Option<Copies> {
        None
    }

    /// Answers for every batch of a producer. There is an arrival for each of [`Batch::runs`], in the same order:
    /// `for (run, arrival) in batch.runs().zip(arrivals)`.
    ///
    /// # Errors
    /// Why there is no answer at all.
    fn decide(&mut self, batch: &Batch, arrivals: &[Arrival], decisions: &mut Decisions) -> Result<(), Failure>;
}

/// The answers of a hook: one of the methods for each arrival, in order, and [`reject`](Self::reject) for single records.
#[derive(Debug)]
pub struct Decisions {
    arrivals: usize,
    decisions: Vec<Decision>,
    rejected: Vec<Rejection>,
}

impl Decisions {
    pub(crate) fn new(arrivals: usize) -> Self {
        Self { arrivals, decisions: Vec::with_capacity(arrivals), rejected: Vec::new() }
    }

    /// The write counts when the producer's acks say so.
    pub fn as_asked(&mut self) {
        self.decisions.push(Decision::AsAsked);
    }

    /// The producer is answered when the batch is appended, before it is durable: a crash may lose it. Holds only where the topic has
    /// `tidegate.ack.weaken`; elsewhere the producer's acks do.
    pub fn appended(&mut self) {
        self.decisions.push(Decision::Appended);
    }

    /// The leader's copy must be durable.
    pub fn leader_durable(&mut self) {
        self.decisions.push(Decision::LeaderDurable);
    }

    /// As many copies as `min.insync.replicas` must be durable.
    pub fn min_in_sync(&mut self) {
        self.decisions.push(Decision::MinInSync);
    }

    /// The copies of all in-sync replicas must be durable.
    pub fn all_in_sync(&mut self) {
        self.decisions.push(Decision::AllInSync);
    }

    /// These copies must be durable; at most [`AckHook::strongest`].
    pub fn until(&mut self, copies: Copies) {
        self.decisions.push(Decision::Until(copies));
    }

    /// The batch is refused. [`Reason::Throttled`] and [`Reason::NotEnoughReplicas`] make producers try again.
    pub fn refuse(&mut self, reason: Reason, message: impl Into<String>) {
        self.decisions.push(Decision::Refuse(Refusal { reason, message: message.into() }));
    }

    /// What the acks say, for every arrival that has no answer yet.
    pub fn rest_as_asked(&mut self) {
        self.decisions.resize_with(self.arrivals, || Decision::AsAsked);
    }

    /// A record is refused, and with it its batch: the producer gets the reasons of all its rejected records. `record` is the position in the
    /// whole call, [`Record::index`](crate::Record::index).
    pub fn reject(&mut self, record: usize, reason: impl Into<String>) {
        self.rejected.push(Rejection { record: record as u32, reason: reason.into() });
    }

    pub(crate) fn finish(self) -> Result<Answer, Failure> {
        if self.decisions.len() != self.arrivals {
            let (answered, arrivals) = (self.decisions.len(), self.arrivals);
            return Err(Failure::Failed(format!("the hook answered for {answered} of {arrivals} batches")));
        }
        Ok(Answer { decisions: self.decisions, rejected: self.rejected })
    }
}
