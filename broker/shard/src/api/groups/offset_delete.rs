//! OffsetDelete (key 47, KIP-496): forgets offsets of topics that the group does not read any more.

use kafka_protocol::{
    ResponseError,
    messages::{
        OffsetDeleteRequest, OffsetDeleteResponse,
        offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic},
    },
};
use tidegate_model::group::{CommittedTopic, OffsetDelete};
use tidegate_records::ids::PartitionIndex;

use super::{offset_commit::Refused, *};

pub(super) fn read(shard: &Shard, body: OffsetDeleteRequest) -> Read {
    let mut refused = Refused::new();
    let mut topics = Vec::new();
    for topic in body.topics {
        let image = shard.image.topic(&topic.name.0);
        let indexes = topic.partitions.iter().map(|partition| partition.partition_index);
        let (known, unknown): (Vec<i32>, Vec<i32>) =
            indexes.partition(|index| image.is_some_and(|image| image.has_partition(PartitionIndex(*index))));
        topics.push((own(&topic.name.0), known));
        refused.push((topic.name, unknown));
    }
    let delete = OffsetDelete { group_id: own(&body.group_id.0), topics };
    Read::Ask(GroupRequest::OffsetDelete(delete), Kept::Commit(refused))
}

pub(super) fn write(answer: Result<Vec<CommittedTopic>, GroupError>, refused: Refused) -> OffsetDeleteResponse {
    let mut topics = match answer {
        Err(error) => return OffsetDeleteResponse::default().with_error_code(group_code(error)),
        Ok(topics) => topics,
    };
    topics.retain(|topic| !topic.partitions.is_empty());
    let mut topics: Vec<_> = topics
        .into_iter()
        .map(|topic| {
            let partitions = topic.partitions.into_iter().map(|(index, error)| {
                OffsetDeleteResponsePartition::default().with_partition_index(index).with_error_code(error_code(error))
            });
            OffsetDeleteResponseTopic::default()
                .with_name(TopicName(wire(&topic.name)))
                .with_partitions(partitions.collect())
        })
        .collect();
    for (name, unknown) in refused.into_iter().filter(|(_, unknown)| !unknown.is_empty()) {
        let error = ResponseError::UnknownTopicOrPartition.code();
        let unknown = unknown
            .into_iter()
            .map(|index| OffsetDeleteResponsePartition::default().with_partition_index(index).with_error_code(error));
        match topics.iter_mut().find(|topic| topic.name == name) {
            Some(topic) => topic.partitions.extend(unknown),
            None => {
                topics.push(OffsetDeleteResponseTopic::default().with_name(name).with_partitions(unknown.collect()))
            }
        }
    }
    OffsetDeleteResponse::default().with_topics(topics)
}
