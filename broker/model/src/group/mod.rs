//! The group coordinator: consumer groups, their members, and their committed offsets.
//!
//! One [`GroupCoordinator`] holds the groups of those partitions of `__consumer_offsets` that its shard owns. It is a pure
//! machine: requests, loaded records, durable writes, topic changes and the clock go in; answers and records to append come
//! out. What it owns: `classic` (the JoinGroup protocol), `consumer` (KIP-848), `offsets`, and the formats in which all of it
//! is kept (`record_format`). What it leaves to its owner: the log of the partitions, the network, the protocol's versions.
//!
//! Invariants: an answer that promises durability leaves only after [`GroupInput::Persisted`]; the state of a partition
//! equals the replay of its durable records (members of an unfinished classic rebalance live in memory only, as in Apache
//! Kafka); a failed write leaves no trace.
//!
//! Source: Apache Kafka 4.3's group coordinator; KIP-62, KIP-345, KIP-394, KIP-814, KIP-848.

mod classic;
mod config;
mod consumer;
mod context;
mod coordinator;
mod error;
mod offsets;
mod record_format;
mod request;
mod subscription;
mod timers;
mod topics;
mod wire;

use bytes::Bytes;
use tidegate_records::ids::Offset;

pub use self::{
    config::GroupConfig, coordinator::GroupCoordinator, error::*, record_format::*, request::*, topics::TopicsImage,
};

/// Names a request until it is answered. Chosen by the owner, unique among the unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestToken(pub u64);

/// Names a write until the owner reports its end. Chosen by the coordinator, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistToken(pub u64);

/// What happens to the coordinator.
#[derive(Clone, Debug)]
pub enum GroupInput {
    /// A client asks. Answered by exactly one [`GroupEffect::Answer`], possibly much later.
    Request { token: RequestToken, request: GroupRequest },
    /// The records of a [`GroupEffect::Persist`] are durable, or will never be. For each partition in the order of the effects; a
    /// write that fails takes all those with it that were wanted for its partition before its failure is reported, since they
    /// were decided on a state that never came to be.
    Persisted { token: PersistToken, result: Result<(), PersistError> },
    /// The owner begins to read a partition of `__consumer_offsets`.
    LoadStart { partition: i32 },
    /// Records of a partition that is loading, in the order of the log; control batches left out.
    Loaded { partition: i32, records: Vec<StoredRecord> },
    /// The partition is read to its end: its groups are served from now on.
    LoadEnd { partition: i32 },
    /// The partition is no longer this coordinator's: its groups are forgotten, who waits is told NOT_COORDINATOR.
    Unload { partition: i32 },
    /// The topics that exist. Sent before the first request and after every change.
    Topics(TopicsImage),
    /// A deadline has passed: see [`GroupCoordinator::next_deadline`].
    Tick,
}

/// A record as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    pub offset: Offset,
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// What the owner is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupEffect {
    /// Answer a request. May run at once.
    Answer { token: RequestToken, answer: GroupAnswer },
    /// Append the records, as one batch, to a partition of `__consumer_offsets`, after those of earlier effects, and report
    /// the end by [`GroupInput::Persisted`]. The keys and values are as in [`GroupRecord::encode`].
    Persist { token: PersistToken, partition: i32, records: Vec<(Bytes, Option<Bytes>)> },
    /// A loaded record could not be read and was passed over: to be logged as an error.
    Unreadable { partition: i32, offset: Offset, error: WireError },
}

/// The partition of `__consumer_offsets` in which a group lives: Java's hash of the group id, as every Kafka tool expects.
#[must_use]
pub fn partition_for(group_id: &str, partitions: i32) -> i32 {
    let hash = group_id.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // Java's `abs` of the smallest integer is itself; Kafka maps it to 0.
    hash.checked_abs().unwrap_or(0) % partitions
}

#[cfg(test)]
mod tests;
