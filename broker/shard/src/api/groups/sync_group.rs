//! SyncGroup (key 14). Sources: KIP-345 (static members, v3), KIP-559 (protocol type and name, v5).

use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};
use tidegate_model::group::{SyncAnswer, SyncGroup};

use super::*;

pub(super) fn read(request: &Request, body: SyncGroupRequest) -> Read {
    let names_missing = body.protocol_type.is_none() || body.protocol_name.is_none();
    let assignments = body.assignments.into_iter();
    let sync = GroupRequest::Sync(SyncGroup {
        group_id: own(&body.group_id.0),
        generation: body.generation_id,
        member_id: own(&body.member_id),
        group_instance_id: own_option(body.group_instance_id.as_ref()),
        protocol_type: own_option(body.protocol_type.as_ref()),
        protocol_name: own_option(body.protocol_name.as_ref()),
        assignments: assignments.map(|assigned| (own(&assigned.member_id), assigned.assignment)).collect(),
    });
    if request.version >= 5 && names_missing {
        return Read::Answer(sync.refused(GroupError::InconsistentGroupProtocol), Kept::Nothing);
    }
    Read::Ask(sync, Kept::Nothing)
}

pub(super) fn write(version: i16, answer: SyncAnswer) -> SyncGroupResponse {
    SyncGroupResponse::default()
        .with_error_code(error_code(answer.error))
        .with_protocol_type(wire_option(answer.protocol_type.as_ref()).filter(|_| version >= 5))
        .with_protocol_name(wire_option(answer.protocol_name.as_ref()).filter(|_| version >= 5))
        .with_assignment(answer.assignment)
}
