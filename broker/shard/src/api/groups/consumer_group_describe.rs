//! ConsumerGroupDescribe (key 69, KIP-848): groups of the consumer protocol. The type of a member from v1 (KIP-1099).

use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, GroupId,
    consumer_group_describe_response::{Assignment, DescribedGroup, Member, TopicPartitions},
};
use tidegate_model::group::{DescribedConsumerGroup, DescribedConsumerMember, DescribedTopic};
use uuid::Uuid;

use super::*;

/// What `member_type` calls a member of the consumer protocol. Classic members cannot be in such a group here.
const CONSUMER_MEMBER: i8 = 1;

pub(super) fn read(body: ConsumerGroupDescribeRequest) -> Read {
    let ids = body.group_ids.iter().map(|id| own(&id.0)).collect();
    Read::Ask(GroupRequest::ConsumerDescribe(ids), Kept::WithOperations(body.include_authorized_operations))
}

pub(super) fn write(
    version: i16,
    groups: Vec<DescribedConsumerGroup>,
    operations: i32,
) -> ConsumerGroupDescribeResponse {
    let groups = groups.into_iter().map(|group| {
        DescribedGroup::default()
            .with_error_code(error_code(group.error))
            .with_error_message(wire_option(group.error_message.as_ref()))
            .with_group_id(GroupId(wire(&group.group_id)))
            .with_group_state(StrBytes::from_static_str(group.state))
            .with_group_epoch(group.group_epoch)
            .with_assignment_epoch(group.assignment_epoch)
            .with_assignor_name(wire(&group.assignor))
            .with_members(group.members.into_iter().map(|described| member(version, described)).collect())
            .with_authorized_operations(operations)
    });
    ConsumerGroupDescribeResponse::default().with_groups(groups.collect())
}

fn member(version: i16, described: DescribedConsumerMember) -> Member {
    let names = described.subscribed_topic_names.iter().map(|name| TopicName(wire(name)));
    let member = Member::default()
        .with_member_id(wire(&described.member_id))
        .with_instance_id(wire_option(described.instance_id.as_ref()))
        .with_rack_id(wire_option(described.rack_id.as_ref()))
        .with_member_epoch(described.member_epoch)
        .with_client_id(wire(&described.client_id))
        .with_client_host(wire(&described.client_host))
        .with_subscribed_topic_names(names.collect())
        .with_subscribed_topic_regex(wire_option(described.subscribed_topic_regex.as_ref()))
        .with_assignment(assignment(described.assignment))
        .with_target_assignment(assignment(described.target_assignment));
    if version >= 1 { member.with_member_type(CONSUMER_MEMBER) } else { member }
}

fn assignment(topics: Vec<DescribedTopic>) -> Assignment {
    let topics = topics.into_iter().map(|topic| {
        TopicPartitions::default()
            .with_topic_id(Uuid::from_bytes(topic.id.0))
            .with_topic_name(TopicName(wire(&topic.name)))
            .with_partitions(topic.partitions)
    });
    Assignment::default().with_topic_partitions(topics.collect())
}
