//! ListGroups (key 16): of every shard. States from v4 (KIP-518), types from v5 (KIP-848).

use kafka_protocol::messages::{GroupId, ListGroupsRequest, ListGroupsResponse, list_groups_response};
use tidegate_model::group::{ListGroups, ListedGroup};

use super::*;

pub(super) fn read(body: ListGroupsRequest) -> Read {
    let list = ListGroups {
        states: body.states_filter.iter().map(own).collect(),
        types: body.types_filter.iter().map(own).collect(),
    };
    Read::Ask(GroupRequest::List(list), Kept::Nothing)
}

pub(super) fn write(version: i16, answer: Result<Vec<ListedGroup>, GroupError>) -> ListGroupsResponse {
    let groups = match answer {
        Err(error) => return ListGroupsResponse::default().with_error_code(group_code(error)),
        Ok(groups) => groups,
    };
    let groups = groups.into_iter().map(|group| {
        let mut listed = list_groups_response::ListedGroup::default()
            .with_group_id(GroupId(wire(&group.group_id)))
            .with_protocol_type(wire(&group.protocol_type));
        if version >= 4 {
            listed.group_state = StrBytes::from_static_str(group.state);
        }
        if version >= 5 {
            listed.group_type = StrBytes::from_static_str(group.group_type);
        }
        listed
    });
    ListGroupsResponse::default().with_groups(groups.collect())
}
