//! Heartbeat (key 12) of the classic protocol.

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};
use tidegate_model::group::Heartbeat;

use super::*;

pub(super) fn read(body: HeartbeatRequest) -> Read {
    let heartbeat = Heartbeat {
        group_id: own(&body.group_id.0),
        generation: body.generation_id,
        member_id: own(&body.member_id),
        group_instance_id: own_option(body.group_instance_id.as_ref()),
    };
    Read::Ask(GroupRequest::Heartbeat(heartbeat), Kept::Nothing)
}

pub(super) fn write(answer: Result<(), GroupError>) -> HeartbeatResponse {
    HeartbeatResponse::default().with_error_code(error_code(answer.err()))
}
