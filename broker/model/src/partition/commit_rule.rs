//! When a write counts as acknowledged: the question that `acks` and an acknowledgement plugin answer.

use tidegate_records::ids::Offset;

use super::Partition;

/// What must be true of the replicas before a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitRule {
    wait: Wait,
    /// Durable copies, the leader's among them; 0 and 1 say nothing that `wait` does not.
    copies: u32,
}

/// Stronger ones compare greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wait {
    Appended,
    LeaderDurable,
    AllInSync,
}

impl CommitRule {
    /// The leader has given it an offset. It may be lost in a crash.
    pub const APPENDED: Self = Self { wait: Wait::Appended, copies: 0 };
    /// The leader has it, durably (`acks=1`).
    pub const LEADER_DURABLE: Self = Self { wait: Wait::LeaderDurable, copies: 0 };
    /// Every in-sync replica has it (`acks=all`); how many these must be is checked when it is appended (`min.insync.replicas`).
    pub const ALL_IN_SYNC: Self = Self { wait: Wait::AllInSync, copies: 0 };

    /// The leader and `copies - 1` of the followers that are in sync have it, durably.
    #[must_use]
    pub fn of_copies(copies: u32) -> Self {
        Self { wait: Wait::LeaderDurable, copies }
    }

    /// What holds where both do.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { wait: self.wait.max(other.wait), copies: self.copies.max(other.copies) }
    }

    /// Whether it asks for all replicas that are in sync.
    #[must_use]
    pub fn is_all_in_sync(self) -> bool {
        self.wait == Wait::AllInSync
    }

    /// Whether everything below `next_offset` is acknowledged under this rule.
    #[must_use]
    pub fn holds(self, partition: &Partition, next_offset: Offset) -> bool {
        let waited = match self.wait {
            Wait::Appended => true,
            Wait::LeaderDurable => partition.durable_end_offset() >= next_offset,
            Wait::AllInSync => partition.high_watermark() >= next_offset,
        };
        waited && (self.copies <= 1 || partition.durable_copies(next_offset) >= self.copies)
    }
}
