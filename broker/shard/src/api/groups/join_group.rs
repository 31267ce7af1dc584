//! JoinGroup (key 11). Sources: KIP-345 (static members, v5), KIP-394 (member ids, v4), KIP-559 (protocol type, v7), KIP-814 (v9).

use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse, join_group_response::JoinGroupResponseMember};
use tidegate_model::group::{JoinAnswer, JoinGroup};

use super::*;

pub(super) fn read(shard: &Shard, request: &Request, body: JoinGroupRequest) -> Read {
    let version = request.version;
    let join = JoinGroup {
        group_id: own(&body.group_id.0),
        member_id: own(&body.member_id),
        group_instance_id: own_option(body.group_instance_id.as_ref()),
        client_id: own_option(request.client_id.as_ref()).unwrap_or_else(|| "".into()),
        client_host: shard.connections.client_host(request.connection).into(),
        session_timeout_ms: body.session_timeout_ms,
        rebalance_timeout_ms: if version == 0 { body.session_timeout_ms } else { body.rebalance_timeout_ms },
        protocol_type: own(&body.protocol_type),
        protocols: body.protocols.into_iter().map(|protocol| (own(&protocol.name), protocol.metadata)).collect(),
        known_member_id_required: version >= 4,
        skip_assignment_supported: version >= 9,
    };
    Read::Ask(GroupRequest::Join(join), Kept::Nothing)
}

pub(super) fn write(version: i16, answer: JoinAnswer) -> JoinGroupResponse {
    let members = answer.members.into_iter().map(|member| {
        JoinGroupResponseMember::default()
            .with_member_id(wire(&member.member_id))
            .with_group_instance_id(wire_option(member.group_instance_id.as_ref()).filter(|_| version >= 5))
            .with_metadata(member.metadata)
    });
    // No protocol is an empty name before v7.
    let no_name = (version < 7).then(StrBytes::default);
    JoinGroupResponse::default()
        .with_error_code(error_code(answer.error))
        .with_generation_id(answer.generation)
        .with_protocol_type(wire_option(answer.protocol_type.as_ref()).filter(|_| version >= 7))
        .with_protocol_name(wire_option(answer.protocol_name.as_ref()).or(no_name))
        .with_leader(wire(&answer.leader))
        .with_skip_assignment(answer.skip_assignment)
        .with_member_id(wire(&answer.member_id))
        .with_members(members.collect())
}
