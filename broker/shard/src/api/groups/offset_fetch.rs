//! OffsetFetch (key 9): of one group before v8, of several from then on (KIP-709); stable offsets from v7 (KIP-447).

use kafka_protocol::messages::{
    GroupId, OffsetFetchRequest, OffsetFetchResponse,
    offset_fetch_response::{
        OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
        OffsetFetchResponseTopic, OffsetFetchResponseTopics,
    },
};
use tidegate_model::group::{FetchTopic, FetchedGroup, FetchedOffset, OffsetFetchGroup};

use super::*;

/// What was asked for, in a version that has no error for the whole request.
pub(super) type Asked = Vec<(TopicName, Vec<i32>)>;

pub(super) fn read(shard: &Shard, request: &Request, body: OffsetFetchRequest) -> Read {
    let mut asked = Vec::new();
    let groups = if request.version >= 8 {
        let groups = body.groups.into_iter().map(|group| OffsetFetchGroup {
            group_id: own(&group.group_id.0),
            member_id: own_option(group.member_id.as_ref()),
            member_epoch: if request.version >= 9 { group.member_epoch } else { -1 },
            topics: group
                .topics
                .map(|topics| each_once(shard, topics.into_iter().map(|asked| (asked.name, asked.partition_indexes)))),
        });
        groups.collect()
    } else {
        if request.version < 2 {
            let topics = body.topics.iter().flatten();
            asked = topics.map(|topic| (topic.name.clone(), topic.partition_indexes.clone())).collect();
        }
        vec![OffsetFetchGroup {
            group_id: own(&body.group_id.0),
            member_id: None,
            member_epoch: -1,
            topics: body
                .topics
                .map(|topics| each_once(shard, topics.into_iter().map(|asked| (asked.name, asked.partition_indexes)))),
        }]
    };
    let fetch = OffsetFetch { groups, require_stable: body.require_stable };
    Read::Ask(GroupRequest::OffsetFetch(fetch), Kept::Fetch(asked))
}

/// Each partition once: four bytes may stand for an answer of `offset.metadata.max.bytes`.
fn each_once(shard: &Shard, topics: impl Iterator<Item = (TopicName, Vec<i32>)>) -> Vec<FetchTopic> {
    let mut seen = BTreeSet::new();
    topics
        .map(|(name, mut partitions)| {
            partitions.retain(|index| seen.insert((name.clone(), *index)));
            FetchTopic { name: own(&name.0), id: topic_id(shard, &name), partitions }
        })
        .collect()
}

pub(super) fn write(version: i16, groups: Vec<FetchedGroup>, asked: Asked) -> OffsetFetchResponse {
    if version >= 8 {
        return OffsetFetchResponse::default().with_groups(groups.into_iter().map(group).collect());
    }
    // Before v8 there is exactly one group.
    let Some(fetched) = groups.into_iter().next() else { return OffsetFetchResponse::default() };
    match fetched.error {
        Some(error) if version < 2 => {
            let topics = asked.into_iter().map(|(name, partitions)| {
                let partitions = partitions.into_iter().map(|index| {
                    OffsetFetchResponsePartition::default()
                        .with_partition_index(index)
                        .with_committed_offset(-1)
                        .with_committed_leader_epoch(-1)
                        .with_metadata(Some(StrBytes::default()))
                        .with_error_code(group_code(error))
                });
                OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions.collect())
            });
            OffsetFetchResponse::default().with_topics(topics.collect())
        }
        error => {
            let topics = fetched.topics.into_iter().map(|topic| {
                OffsetFetchResponseTopic::default()
                    .with_name(TopicName(wire(&topic.name)))
                    .with_partitions(topic.partitions.iter().map(|offset| partition(version, offset)).collect())
            });
            let response = OffsetFetchResponse::default().with_topics(topics.collect());
            if version < 2 { response } else { response.with_error_code(error_code(error)) }
        }
    }
}

fn partition(version: i16, offset: &FetchedOffset) -> OffsetFetchResponsePartition {
    OffsetFetchResponsePartition::default()
        .with_partition_index(offset.partition)
        .with_committed_offset(offset.offset.0)
        .with_committed_leader_epoch(if version >= 5 { offset.leader_epoch.0 } else { -1 })
        .with_metadata(Some(wire(&offset.metadata)))
}

fn group(group: FetchedGroup) -> OffsetFetchResponseGroup {
    let topics = group.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|offset| {
            OffsetFetchResponsePartitions::default()
                .with_partition_index(offset.partition)
                .with_committed_offset(offset.offset.0)
                .with_committed_leader_epoch(offset.leader_epoch.0)
                .with_metadata(Some(wire(&offset.metadata)))
        });
        OffsetFetchResponseTopics::default()
            .with_name(TopicName(wire(&topic.name)))
            .with_partitions(partitions.collect())
    });
    OffsetFetchResponseGroup::default()
        .with_group_id(GroupId(wire(&group.group_id)))
        .with_error_code(error_code(group.error))
        .with_topics(topics.collect())
}
