//! When a write counts as acknowledged: the question that `acks` and an acknowledgement plugin answer.

use tidegate_records::ids::Offset;

use super::Partition;

/// What must be true of the replicas before a write is acknowledged. Stronger rules compare greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CommitRule {
    /// The leader has it, durably (`acks=1`).
    LeaderDurable,
    /// Every in-sync replica has it (`acks=all`); how many these must be is checked when it is appended (`min.insync.replicas`).
    AllInSync,
}

impl CommitRule {
    /// Whether everything below `next_offset` is acknowledged under this rule.
    #[must_use]
    pub fn holds(self, partition: &Partition, next_offset: Offset) -> bool {
        match self {
            Self::LeaderDurable => partition.durable_end_offset() >= next_offset,
            Self::AllInSync => partition.high_watermark() >= next_offset,
        }
    }
}
