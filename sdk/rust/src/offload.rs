//! Which segments go to the object store, for retention policies that say so.

use crate::{Failure, retention::Retention};

pub use crate::bindings::offload::exports::tidegate::plugin::offloading::{PartitionLog, Segment};

/// A policy that also says which segments go to the object store: for `export!(offloader: …)`. It is attached only where the broker has
/// one.
pub trait Offloader: Retention {
    /// Answers for every partition of `topic.logs`, in order. Called after [`Retention::evaluate`], with what that has left.
    ///
    /// # Errors
    /// Why there is no answer: nothing is offloaded.
    fn offload(&mut self, topic: &Topic<'_>, choices: &mut Choices) -> Result<(), Failure>;
}

/// A topic as a policy that offloads sees it.
#[derive(Clone, Copy, Debug)]
pub struct Topic<'a> {
    pub name: &'a str,
    /// How many partitions it has; `logs` may have fewer of them.
    pub partitions: u32,
    pub logs: &'a [PartitionLog],
    /// The broker's clock, in milliseconds since 1970.
    pub now: i64,
}

/// The answers of a policy: [`keep`](Self::keep) or [`offload`](Self::offload) for each partition, in order.
#[derive(Debug)]
pub struct Choices {
    logs: usize,
    chosen: Vec<Vec<u32>>,
}

impl Choices {
    pub(crate) fn new(logs: usize) -> Self {
        Self { logs, chosen: Vec::with_capacity(logs) }
    }

    /// Everything of the partition stays where it is.
    pub fn keep(&mut self) {
        self.offload([]);
    }

    /// These segments of the partition, by their indexes, go to the object store, and from the disk. Those that are there already may be
    /// among them.
    pub fn offload(&mut self, segments: impl IntoIterator<Item = usize>) {
        self.chosen.push(segments.into_iter().map(|segment| segment as u32).collect());
    }

    pub(crate) fn finish(self) -> Result<Vec<Vec<u32>>, Failure> {
        if self.chosen.len() != self.logs {
            let (answered, logs) = (self.chosen.len(), self.logs);
            return Err(Failure::Failed(format!("the policy chose for {answered} of {logs} partitions")));
        }
        Ok(self.chosen)
    }
}
