//! What shards ask one another. An [`Ask`] goes to the shard that owns the partitions; a [`Reply`] comes back to the request.
//!
//! The same messages serve when the owner is the asking shard itself; then nothing is queued.

use bytes::Bytes;
use tidegate_model::{
    group::{GroupAnswer, GroupRequest},
    metadata::ProposalResult,
    partition::CommitRule,
};
use tidegate_records::{
    batch::BatchHeader,
    ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, ShardId, TopicPartition},
    time::{Instant, Timestamp},
};

use crate::{RequestId, error::PartitionError};

/// Where a reply goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub shard: ShardId,
    pub request: RequestId,
}

/// Asked of the owner of partitions.
#[derive(Debug)]
pub enum Ask {
    Produce(ProduceAsk),
    Fetch(FetchAsk),
    /// The fetch of this origin is answered: no need to wait any longer.
    CancelFetch,
    ListOffsets(Vec<ListOffsetsItem>),
    EpochEnds(Vec<EpochEndItem>),
    DeleteRecords(Vec<DeleteRecordsItem>),
    /// How many bytes the logs of these partitions have.
    LogSizes(Vec<(u32, TopicPartition)>),
    DescribeProducers(Vec<(u32, TopicPartition)>),
    /// For the group coordinator.
    Group(Box<GroupRequest>),
}

/// An owner's answer, or that of the control plane, to the request that asked.
#[derive(Debug)]
pub enum Reply {
    Produced(Vec<ProducedItem>),
    Fetched {
        from: ShardId,
        items: Vec<FetchedItem>,
    },
    OffsetsListed(Vec<ListedOffset>),
    EpochEnds(Vec<EpochEnd>),
    /// The new start of each log.
    RecordsDeleted(Vec<(u32, Result<Offset, PartitionError>)>),
    LogSizes(Vec<(u32, u64)>),
    Producers(Vec<(u32, Result<Vec<ActiveProducer>, PartitionError>)>),
    Group(Box<GroupAnswer>),
    /// The control plane has committed or refused a change.
    Proposed {
        tag: u32,
        result: ProposalResult,
    },
}

#[derive(Clone, Debug)]
pub struct DeleteRecordsItem {
    pub index: u32,
    pub partition: TopicPartition,
    /// Everything below goes; -1: everything below the high watermark.
    pub before: Offset,
}

/// A producer that a partition remembers (KIP-664).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveProducer {
    pub producer: ProducerId,
    pub epoch: ProducerEpoch,
    pub last_sequence: Sequence,
    pub last_timestamp: Timestamp,
}

/// Batches to append, each to a partition of the asked shard.
#[derive(Debug)]
pub struct ProduceAsk {
    pub items: Vec<ProduceItem>,
    /// Answered with a timeout if it is not committed by then.
    pub deadline: Instant,
}

#[derive(Debug)]
pub struct ProduceItem {
    /// Which partition of the request this is a part of.
    pub index: u32,
    pub partition: TopicPartition,
    pub bytes: Bytes,
    pub header: BatchHeader,
    /// When its write counts as acknowledged.
    pub rule: CommitRule,
}

#[derive(Debug)]
pub struct ProducedItem {
    pub index: u32,
    pub partition: TopicPartition,
    pub result: Result<Produced, PartitionError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    pub base_offset: Offset,
    pub log_start_offset: Offset,
}

#[derive(Debug)]
pub struct FetchAsk {
    pub items: Vec<FetchItem>,
    pub max_bytes: usize,
    pub min_bytes: usize,
    pub deadline: Instant,
    pub read_committed: bool,
}

#[derive(Clone, Debug)]
pub struct FetchItem {
    pub index: u32,
    pub partition: TopicPartition,
    pub fetch_offset: Offset,
    pub max_bytes: usize,
    /// -1: the client does not know it.
    pub current_leader_epoch: LeaderEpoch,
    /// -1: none was fetched (KIP-595).
    pub last_fetched_epoch: LeaderEpoch,
}

#[derive(Debug)]
pub struct FetchedItem {
    pub index: u32,
    pub result: Result<Fetched, PartitionError>,
}

#[derive(Debug)]
pub struct Fetched {
    pub high_watermark: Offset,
    pub last_stable_offset: Offset,
    pub log_start_offset: Offset,
    /// Where the reader's log and ours part, if they do (KIP-595).
    pub diverging: Option<(LeaderEpoch, Offset)>,
    /// Whole batches in the stored bytes.
    pub records: Vec<Bytes>,
}

#[derive(Clone, Debug)]
pub struct ListOffsetsItem {
    pub index: u32,
    pub partition: TopicPartition,
    pub current_leader_epoch: LeaderEpoch,
    pub read_committed: bool,
    pub what: OffsetQuery,
}

/// Which offset is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetQuery {
    Latest,
    Earliest,
    /// Of the record with the largest timestamp (KIP-734).
    MaxTimestamp,
    /// Of the first record whose timestamp is at least this.
    AtOrAfter(Timestamp),
    /// The first that is on the disk, and not in the object store (KIP-405).
    EarliestLocal,
    /// The last that is in the object store (KIP-1005).
    LatestTiered,
}

#[derive(Debug)]
pub struct ListedOffset {
    pub index: u32,
    pub result: Result<(Offset, Timestamp, LeaderEpoch), PartitionError>,
}

#[derive(Clone, Debug)]
pub struct EpochEndItem {
    pub index: u32,
    pub partition: TopicPartition,
    pub current_leader_epoch: LeaderEpoch,
    pub epoch: LeaderEpoch,
}

#[derive(Debug)]
pub struct EpochEnd {
    pub index: u32,
    pub result: Result<(LeaderEpoch, Offset), PartitionError>,
}
