//! LeaveGroup (key 13): one member before v3, several from then on (KIP-345).

use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse, leave_group_response::MemberResponse};
use tidegate_model::group::{LeaveAnswer, LeaveGroup, LeavingMember};

use super::*;

pub(super) fn read(request: &Request, body: LeaveGroupRequest) -> Read {
    let members = if request.version < 3 {
        vec![LeavingMember { member_id: own(&body.member_id), group_instance_id: None }]
    } else {
        let members = body.members.iter();
        members
            .map(|member| LeavingMember {
                member_id: own(&member.member_id),
                group_instance_id: own_option(member.group_instance_id.as_ref()),
            })
            .collect()
    };
    let leave = LeaveGroup { group_id: own(&body.group_id.0), members };
    Read::Ask(GroupRequest::Leave(leave), Kept::Nothing)
}

pub(super) fn write(version: i16, answer: LeaveAnswer) -> LeaveGroupResponse {
    if version < 3 {
        let of_member = answer.members.first().and_then(|(_, error)| *error);
        return LeaveGroupResponse::default().with_error_code(error_code(answer.error.or(of_member)));
    }
    let members = answer.members.into_iter().map(|(member, error)| {
        MemberResponse::default()
            .with_member_id(wire(&member.member_id))
            .with_group_instance_id(wire_option(member.group_instance_id.as_ref()))
            .with_error_code(error_code(error))
    });
    LeaveGroupResponse::default().with_error_code(error_code(answer.error)).with_members(members.collect())
}
