//! DeleteGroups (key 42, KIP-229): empty groups with their offsets, of either protocol.

use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, GroupId, delete_groups_response::DeletableGroupResult,
};

use super::*;

pub(super) fn read(body: DeleteGroupsRequest) -> Read {
    let ids = body.groups_names.iter().map(|id| own(&id.0)).collect();
    Read::Ask(GroupRequest::Delete(ids), Kept::Nothing)
}

pub(super) fn write(outcomes: Vec<(Text, Option<GroupError>)>) -> DeleteGroupsResponse {
    let results = outcomes.into_iter().map(|(id, error)| {
        DeletableGroupResult::default().with_group_id(GroupId(wire(&id))).with_error_code(error_code(error))
    });
    DeleteGroupsResponse::default().with_results(results.collect())
}
