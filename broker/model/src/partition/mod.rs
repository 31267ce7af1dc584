//! One partition as its leader sees it: offsets, epochs, producers, replicas.
//!
//! [`leader`] assigns offsets and moves the high watermark, [`producers`] recognises duplicates and gaps, [`commit_rule`] says when
//! a write counts as acknowledged. One replica is the case of an in-sync set with one member, not another code path.

pub mod commit_rule;
pub mod leader;
pub mod producers;

pub use commit_rule::CommitRule;
pub use leader::{AppendError, Appended, EpochStart, Partition};
pub use producers::{Producers, SequenceError};

#[cfg(test)]
mod tests;
