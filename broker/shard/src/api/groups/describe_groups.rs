//! DescribeGroups (key 15): classic groups. A group that does not exist is "Dead", and an error from v6 on (KIP-1043).

use kafka_protocol::messages::{
    DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
    describe_groups_response::{self, DescribedGroupMember},
};
use tidegate_model::group::DescribedGroup;

use super::*;

pub(super) fn read(body: DescribeGroupsRequest) -> Read {
    let ids = body.groups.iter().map(|id| own(&id.0)).collect();
    Read::Ask(GroupRequest::Describe(ids), Kept::WithOperations(body.include_authorized_operations))
}

pub(super) fn write(version: i16, groups: Vec<DescribedGroup>, operations: i32) -> DescribeGroupsResponse {
    let groups = groups.into_iter().map(|group| {
        let unknown = group.error == Some(GroupError::GroupIdNotFound);
        let error = group.error.filter(|_| version >= 6 || !unknown);
        let message = error.filter(|_| version >= 6).map(|error| match error {
            GroupError::GroupIdNotFound => wire(&format!("Group {} not found.", group.group_id)),
            error => wire(&error.to_string()),
        });
        let members = group.members.into_iter().map(|member| {
            DescribedGroupMember::default()
                .with_member_id(wire(&member.member_id))
                .with_group_instance_id(wire_option(member.group_instance_id.as_ref()).filter(|_| version >= 4))
                .with_client_id(wire(&member.client_id))
                .with_client_host(wire(&member.client_host))
                .with_member_metadata(member.metadata)
                .with_member_assignment(member.assignment)
        });
        let described = describe_groups_response::DescribedGroup::default()
            .with_error_code(error_code(error))
            .with_error_message(message)
            .with_group_id(GroupId(wire(&group.group_id)))
            .with_group_state(StrBytes::from_static_str(group.state))
            .with_protocol_type(wire(&group.protocol_type))
            .with_protocol_data(wire(&group.protocol_data))
            .with_members(members.collect());
        if version >= 3 { described.with_authorized_operations(operations) } else { described }
    });
    DescribeGroupsResponse::default().with_groups(groups.collect())
}
