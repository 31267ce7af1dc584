//! OffsetDelete (key 47, KIP-496): forgets offsets of topics that the group does not read any more.

use kafka_protocol::messages::{
    OffsetDeleteRequest, OffsetDeleteResponse,
    offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic},
};
use tidegate_model::group::{CommittedTopic, OffsetDelete};

use super::*;

pub(super) fn read(body: OffsetDeleteRequest) -> Read {
    let topics = body.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| partition.partition_index).collect();
        (own(&topic.name.0), partitions)
    });
    let delete = OffsetDelete { group_id: own(&body.group_id.0), topics: topics.collect() };
    Read::Ask(GroupRequest::OffsetDelete(delete), Kept::Nothing)
}

pub(super) fn write(answer: Result<Vec<CommittedTopic>, GroupError>) -> OffsetDeleteResponse {
    let topics = match answer {
        Err(error) => return OffsetDeleteResponse::default().with_error_code(group_code(error)),
        Ok(topics) => topics,
    };
    let topics = topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|(index, error)| {
            OffsetDeleteResponsePartition::default().with_partition_index(index).with_error_code(error_code(error))
        });
        OffsetDeleteResponseTopic::default()
            .with_name(TopicName(wire(&topic.name)))
            .with_partitions(partitions.collect())
    });
    OffsetDeleteResponse::default().with_topics(topics.collect())
}
