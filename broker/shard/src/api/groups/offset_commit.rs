//! OffsetCommit (key 8). Partitions that do not exist are refused here; the coordinator sees the rest.

use kafka_protocol::{
    ResponseError,
    messages::{
        OffsetCommitRequest, OffsetCommitResponse,
        offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
    },
};
use tidegate_model::group::{CommitPartition, CommitTopic, CommittedTopic, OffsetCommit};
use tidegate_records::ids::{LeaderEpoch, Offset, PartitionIndex};

use super::*;

/// Partitions of topics that do not exist.
pub(super) type Refused = Vec<(TopicName, Vec<i32>)>;

pub(super) fn read(shard: &Shard, request: &Request, body: OffsetCommitRequest) -> Read {
    let mut topics = Vec::with_capacity(body.topics.len());
    let mut refused = Vec::new();
    for topic in body.topics {
        let image = shard.image.topic(&topic.name.0);
        let exists = |index| image.is_some_and(|image| image.has_partition(PartitionIndex(index)));
        let (known, unknown): (Vec<_>, Vec<_>) =
            topic.partitions.into_iter().partition(|partition| exists(partition.partition_index));
        if !unknown.is_empty() {
            let unknown = unknown.iter().map(|partition| partition.partition_index).collect();
            refused.push((topic.name.clone(), unknown));
        }
        if known.is_empty() {
            continue;
        }
        let partitions = known.into_iter().map(|partition| CommitPartition {
            partition: partition.partition_index,
            offset: Offset(partition.committed_offset),
            leader_epoch: LeaderEpoch(partition.committed_leader_epoch),
            metadata: own_option(partition.committed_metadata.as_ref()),
        });
        let partitions = partitions.collect();
        topics.push(CommitTopic { name: own(&topic.name.0), id: topic_id(shard, &topic.name), partitions });
    }
    let nothing_left = topics.is_empty();
    let commit = OffsetCommit {
        group_id: own(&body.group_id.0),
        generation_or_epoch: body.generation_id_or_member_epoch,
        member_id: own(&body.member_id),
        group_instance_id: own_option(body.group_instance_id.as_ref()),
        // Only v2 to v4 have it.
        retention_time_ms: if request.version <= 4 { body.retention_time_ms } else { -1 },
        knows_member_epochs: request.version >= 9,
        topics,
    };
    if nothing_left {
        return Read::Answer(GroupAnswer::OffsetCommit(Vec::new()), Kept::Commit(refused));
    }
    Read::Ask(GroupRequest::OffsetCommit(commit), Kept::Commit(refused))
}

pub(super) fn write(committed: Vec<CommittedTopic>, refused: Refused) -> OffsetCommitResponse {
    let answer =
        |index, code| OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code);
    let mut topics: Vec<OffsetCommitResponseTopic> = committed
        .into_iter()
        .map(|topic| {
            let partitions = topic.partitions.into_iter().map(|(index, error)| answer(index, error_code(error)));
            OffsetCommitResponseTopic::default()
                .with_name(TopicName(wire(&topic.name)))
                .with_partitions(partitions.collect())
        })
        .collect();
    for (name, partitions) in refused {
        let unknown = ResponseError::UnknownTopicOrPartition.code();
        let partitions: Vec<_> = partitions.into_iter().map(|index| answer(index, unknown)).collect();
        match topics.iter_mut().find(|topic| topic.name == name) {
            Some(topic) => topic.partitions.extend(partitions),
            None => topics.push(OffsetCommitResponseTopic::default().with_name(name).with_partitions(partitions)),
        }
    }
    OffsetCommitResponse::default().with_topics(topics)
}
