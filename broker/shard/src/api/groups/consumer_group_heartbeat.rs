//! ConsumerGroupHeartbeat (key 68, KIP-848): joins, leaves, heartbeats and assignments of the consumer protocol, in one request.

use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
    consumer_group_heartbeat_response::{Assignment, TopicPartitions},
};
use tidegate_model::group::{ConsumerHeartbeat, ConsumerHeartbeatAnswer};
use uuid::Uuid;

use super::*;

pub(super) fn read(shard: &Shard, request: &Request, body: ConsumerGroupHeartbeatRequest) -> Read {
    let owned = |topics: Vec<kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions>| {
        topics.into_iter().map(|topic| (TopicId(topic.topic_id.into_bytes()), topic.partitions)).collect()
    };
    let heartbeat = ConsumerHeartbeat {
        group_id: own(&body.group_id.0),
        member_id: own(&body.member_id),
        member_epoch: body.member_epoch,
        instance_id: own_option(body.instance_id.as_ref()),
        rack_id: own_option(body.rack_id.as_ref()),
        rebalance_timeout_ms: body.rebalance_timeout_ms,
        subscribed_topic_names: body
            .subscribed_topic_names
            .map(|names| names.iter().map(|name| own(&name.0)).collect()),
        subscribed_topic_regex: own_option(body.subscribed_topic_regex.as_ref()),
        server_assignor: own_option(body.server_assignor.as_ref()),
        topic_partitions: body.topic_partitions.map(owned),
        client_id: own_option(request.client_id.as_ref()).unwrap_or_else(|| "".into()),
        client_host: shard.connections.client_host(request.connection).into(),
        member_makes_id: request.version >= 1,
    };
    Read::Ask(GroupRequest::ConsumerHeartbeat(heartbeat), Kept::Nothing)
}

pub(super) fn write(answer: ConsumerHeartbeatAnswer) -> ConsumerGroupHeartbeatResponse {
    let assignment = answer.assignment.map(|topics| {
        let topics = topics.into_iter().map(|(id, partitions)| {
            TopicPartitions::default().with_topic_id(Uuid::from_bytes(id.0)).with_partitions(partitions)
        });
        Assignment::default().with_topic_partitions(topics.collect())
    });
    ConsumerGroupHeartbeatResponse::default()
        .with_error_code(error_code(answer.error))
        .with_error_message(wire_option(answer.error_message.as_ref()))
        .with_member_id(wire_option(answer.member_id.as_ref()))
        .with_member_epoch(answer.member_epoch)
        .with_heartbeat_interval_ms(answer.heartbeat_interval_ms)
        .with_assignment(assignment)
}
