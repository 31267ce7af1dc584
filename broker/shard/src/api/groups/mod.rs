//! The APIs of groups: each file turns one request into the coordinator's and its answer into one response, for all versions.
//!
//! This file carries them: a request about one group goes to the shard that coordinates it, one about several is split by
//! shard and its answers are joined. Groups live on the shard that owns their partition of `__consumer_offsets`.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::{
    messages::{RequestKind, TopicName},
    protocol::StrBytes,
};
use tidegate_model::{
    group::{GroupAnswer, GroupError, GroupRequest, OffsetFetch, Text},
    metadata::OFFSETS_TOPIC,
};
use tidegate_records::{
    ids::{ShardId, TopicId},
    time::Now,
};

use super::Work as AnyWork;
use crate::{
    error::group_code,
    message::Ask,
    ownership,
    request::Request,
    shard::{Effects, Shard},
};

mod consumer_group_describe;
mod consumer_group_heartbeat;
mod delete_groups;
mod describe_groups;
mod heartbeat;
mod join_group;
mod leave_group;
mod list_groups;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod sync_group;
#[cfg(test)]
mod tests;

pub(crate) struct Work {
    /// What has come so far.
    answer: Option<GroupAnswer>,
    awaiting: usize,
    kept: Kept,
}

/// What a response needs of its request.
enum Kept {
    Nothing,
    /// Partitions of an OffsetCommit or OffsetDelete that do not exist.
    Commit(offset_commit::Refused),
    /// The topics of an OffsetFetch in a version without an error for the whole.
    Fetch(offset_fetch::Asked),
    /// Whether the client wants to know what it may do.
    WithOperations(bool),
}

/// What becomes of a request before the coordinator sees it.
enum Read {
    Ask(GroupRequest, Kept),
    /// Answered here.
    Answer(GroupAnswer, Kept),
}

pub(super) fn begin(shard: &mut Shard, now: Now, request: Request, body: RequestKind, effects: &mut Effects) {
    let (asked, kept) = match read(shard, &request, body) {
        Read::Ask(asked, kept) => (asked, kept),
        Read::Answer(answer, kept) => return respond(shard, now, &request, answer, kept, effects),
    };
    let Some((topic, partitions)) = shard.image.topic(OFFSETS_TOPIC).map(|topic| (topic.id, topic.partitions)) else {
        // Nobody has asked for a coordinator yet.
        let answer = match &asked {
            GroupRequest::List(_) => GroupAnswer::List(Ok(Vec::new())),
            asked => asked.refused(GroupError::NotCoordinator),
        };
        return respond(shard, now, &request, answer, kept, effects);
    };
    let shards = shard.identity.shards;
    let asks = split(asked, shards, |group| ownership::group_owner(group, topic, partitions, shards));
    let id = request.id;
    shard.park(request, AnyWork::Groups(Work { answer: None, awaiting: asks.len(), kept }));
    for (owner, asked) in asks {
        shard.ask(now, owner, id, Ask::Group(Box::new(asked)), effects);
    }
}

fn read(shard: &Shard, request: &Request, body: RequestKind) -> Read {
    match body {
        RequestKind::JoinGroup(body) => join_group::read(shard, request, body),
        RequestKind::SyncGroup(body) => sync_group::read(request, body),
        RequestKind::Heartbeat(body) => heartbeat::read(body),
        RequestKind::LeaveGroup(body) => leave_group::read(request, body),
        RequestKind::OffsetCommit(body) => offset_commit::read(shard, request, body),
        RequestKind::OffsetFetch(body) => offset_fetch::read(shard, request, body),
        RequestKind::OffsetDelete(body) => offset_delete::read(shard, body),
        RequestKind::ListGroups(body) => list_groups::read(body),
        RequestKind::DescribeGroups(body) => describe_groups::read(body),
        RequestKind::DeleteGroups(body) => delete_groups::read(body),
        RequestKind::ConsumerGroupHeartbeat(body) => consumer_group_heartbeat::read(shard, request, body),
        RequestKind::ConsumerGroupDescribe(body) => consumer_group_describe::read(body),
        _ => unreachable!("only the APIs of groups come here, not {:?}", request.api),
    }
}

/// Each group once: a name of a few bytes may stand for a long answer.
fn once(ids: &[Text]) -> Vec<Text> {
    let mut seen = BTreeSet::new();
    ids.iter().filter(|id| seen.insert(Text::clone(id))).cloned().collect()
}

/// The part of each shard. One shard gets the whole of what is about no group at all.
fn split(request: GroupRequest, shards: u16, owner: impl Fn(&str) -> ShardId) -> BTreeMap<ShardId, GroupRequest> {
    fn by_owner<T>(
        items: Vec<T>,
        owner: impl Fn(&T) -> ShardId,
        request: impl Fn(Vec<T>) -> GroupRequest,
    ) -> BTreeMap<ShardId, GroupRequest> {
        let mut parts = BTreeMap::<ShardId, Vec<T>>::new();
        for item in items {
            parts.entry(owner(&item)).or_default().push(item);
        }
        if parts.is_empty() {
            parts.insert(ShardId(0), Vec::new());
        }
        parts.into_iter().map(|(owner, items)| (owner, request(items))).collect()
    }
    let group = match &request {
        GroupRequest::Join(join) => &join.group_id,
        GroupRequest::Sync(sync) => &sync.group_id,
        GroupRequest::Heartbeat(heartbeat) => &heartbeat.group_id,
        GroupRequest::Leave(leave) => &leave.group_id,
        GroupRequest::OffsetCommit(commit) => &commit.group_id,
        GroupRequest::OffsetDelete(delete) => &delete.group_id,
        GroupRequest::ConsumerHeartbeat(heartbeat) => &heartbeat.group_id,
        GroupRequest::List(_) => return (0..shards).map(|shard| (ShardId(shard), request.clone())).collect(),
        GroupRequest::OffsetFetch(fetch) => {
            let require_stable = fetch.require_stable;
            let GroupRequest::OffsetFetch(OffsetFetch { mut groups, .. }) = request else {
                unreachable!("just matched")
            };
            let mut seen = BTreeSet::new();
            groups.retain(|group| seen.insert(group.group_id.clone()));
            return by_owner(
                groups,
                |group| owner(&group.group_id),
                |groups| GroupRequest::OffsetFetch(OffsetFetch { groups, require_stable }),
            );
        }
        GroupRequest::Describe(ids) => return by_owner(once(ids), |id| owner(id), GroupRequest::Describe),
        GroupRequest::Delete(ids) => return by_owner(ids.clone(), |id| owner(id), GroupRequest::Delete),
        GroupRequest::ConsumerDescribe(ids) => {
            return by_owner(once(ids), |id| owner(id), GroupRequest::ConsumerDescribe);
        }
    };
    BTreeMap::from([(owner(group), request)])
}

pub(super) fn finish(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    mut work: Work,
    answer: GroupAnswer,
    effects: &mut Effects,
) -> Option<AnyWork> {
    let answer = match work.answer.take() {
        None => answer,
        Some(mut earlier) => {
            earlier.merge(answer);
            earlier
        }
    };
    work.awaiting -= 1;
    if work.awaiting > 0 {
        work.answer = Some(answer);
        return Some(AnyWork::Groups(work));
    }
    respond(shard, now, request, answer, work.kept, effects);
    None
}

fn respond(shard: &mut Shard, now: Now, request: &Request, answer: GroupAnswer, kept: Kept, effects: &mut Effects) {
    let version = request.version;
    match answer {
        GroupAnswer::Join(answer) => shard.answer(now, request, &join_group::write(version, answer), effects),
        GroupAnswer::Sync(answer) => shard.answer(now, request, &sync_group::write(version, answer), effects),
        GroupAnswer::Heartbeat(answer) => shard.answer(now, request, &heartbeat::write(answer), effects),
        GroupAnswer::Leave(answer) => shard.answer(now, request, &leave_group::write(version, answer), effects),
        GroupAnswer::OffsetCommit(topics) => {
            let refused = if let Kept::Commit(refused) = kept { refused } else { Vec::new() };
            shard.answer(now, request, &offset_commit::write(topics, refused), effects);
        }
        GroupAnswer::OffsetFetch(groups) => {
            let asked = if let Kept::Fetch(asked) = kept { asked } else { Vec::new() };
            shard.answer(now, request, &offset_fetch::write(version, groups, asked), effects);
        }
        GroupAnswer::OffsetDelete(answer) => {
            let refused = if let Kept::Commit(refused) = kept { refused } else { Vec::new() };
            shard.answer(now, request, &offset_delete::write(answer, refused), effects);
        }
        GroupAnswer::List(answer) => shard.answer(now, request, &list_groups::write(version, answer), effects),
        GroupAnswer::Describe(groups) => {
            let response = describe_groups::write(version, groups, operations(&kept));
            shard.answer(now, request, &response, effects);
        }
        GroupAnswer::Delete(outcomes) => shard.answer(now, request, &delete_groups::write(outcomes), effects),
        GroupAnswer::ConsumerHeartbeat(answer) => {
            shard.answer(now, request, &consumer_group_heartbeat::write(*answer), effects);
        }
        GroupAnswer::ConsumerDescribe(groups) => {
            let response = consumer_group_describe::write(version, groups, operations(&kept));
            shard.answer(now, request, &response, effects);
        }
    }
}

/// What may be done with a group, as a bit set of `AclOperation` codes: without authorisation everybody may do everything.
fn operations(kept: &Kept) -> i32 {
    // Read 3, delete 6, describe 8, describe-configs 10, alter-configs 11.
    let all = [3, 6, 8, 10, 11].iter().fold(0, |bits, operation| bits | 1 << operation);
    if matches!(kept, Kept::WithOperations(true)) { all } else { super::metadata::OPERATIONS_NOT_ASKED }
}

/// The code of an outcome.
fn error_code(error: Option<GroupError>) -> i16 {
    error.map_or(0, group_code)
}

/// The coordinator keeps strings without the buffer that they came in.
fn own(text: &StrBytes) -> Text {
    Text::from(text.as_str())
}

fn own_option(text: Option<&StrBytes>) -> Option<Text> {
    text.map(own)
}

fn wire(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn wire_option(text: Option<&Text>) -> Option<StrBytes> {
    text.map(|text| wire(text))
}

/// The id of a topic, zero if there is none of this name.
fn topic_id(shard: &Shard, name: &TopicName) -> TopicId {
    shard.image.topic(&name.0).map_or(TopicId::ZERO, |topic| topic.id)
}
