//! Requests about groups and their members. Those about offsets are in `commits`.

use super::*;
use crate::group::{
    ConsumerHeartbeatAnswer,
    context::millis,
    request::{
        DescribedConsumerGroup, DescribedGroup, JoinAnswer, JoinGroup, LeaveAnswer, LeaveGroup, ListGroups, SyncAnswer,
    },
};

impl GroupCoordinator {
    pub(super) fn request(
        &mut self,
        now: Now,
        token: RequestToken,
        request: GroupRequest,
        effects: &mut Vec<GroupEffect>,
    ) {
        if let Err(error) = self.admit(&request) {
            effects.push(GroupEffect::Answer { token, answer: request.refused(error) });
            return;
        }
        if let Some(write) = self.removal_to_wait_for(&request) {
            self.parked.push(Parked { until: BTreeSet::from([write]), token, request });
            return;
        }
        let answer = match request {
            GroupRequest::Join(join) => return self.join(now, token, join, effects),
            GroupRequest::Sync(sync) => match self.groups.get_mut(&sync.group_id) {
                Some(Group::Classic(group)) if !group.is_empty() => {
                    return group.sync(token, sync, &mut self.core.context(now, effects));
                }
                _ => GroupAnswer::Sync(SyncAnswer::refused(GroupError::UnknownMemberId)),
            },
            GroupRequest::Heartbeat(heartbeat) => match self.groups.get_mut(&heartbeat.group_id) {
                Some(Group::Classic(group)) => {
                    GroupAnswer::Heartbeat(group.heartbeat(&heartbeat, &mut self.core.context(now, effects)))
                }
                None => GroupAnswer::Heartbeat(Err(GroupError::UnknownMemberId)),
            },
            GroupRequest::Leave(leave) => return self.leave(now, token, leave, effects),
            GroupRequest::OffsetCommit(commit) => return self.commit(now, token, commit, effects),
            GroupRequest::OffsetFetch(fetch) => return self.fetch(token, fetch, effects),
            GroupRequest::OffsetDelete(delete) => return self.delete_offsets(now, token, delete, effects),
            GroupRequest::List(list) => GroupAnswer::List(self.list(&list)),
            GroupRequest::Describe(ids) => GroupAnswer::Describe(ids.into_iter().map(|id| self.describe(id)).collect()),
            GroupRequest::Delete(ids) => return self.delete(now, token, ids, effects),
            GroupRequest::ConsumerHeartbeat(_) => GroupAnswer::ConsumerHeartbeat(Box::new(
                ConsumerHeartbeatAnswer::refused(GroupError::CoordinatorNotAvailable, ""),
            )),
            GroupRequest::ConsumerDescribe(ids) => GroupAnswer::ConsumerDescribe(
                ids.into_iter().map(|id| DescribedConsumerGroup::refused(id, GroupError::GroupIdNotFound)).collect(),
            ),
        };
        effects.push(GroupEffect::Answer { token, answer });
    }

    /// Whether the request as a whole may be looked at. Requests about several groups are checked group by group.
    fn admit(&self, request: &GroupRequest) -> Result<(), GroupError> {
        if !request.strings_fit() {
            return Err(GroupError::InvalidRequest);
        }
        let (group_id, may_be_empty) = match request {
            GroupRequest::Join(join) => (&join.group_id, false),
            GroupRequest::Sync(sync) => (&sync.group_id, false),
            GroupRequest::Heartbeat(heartbeat) => (&heartbeat.group_id, false),
            GroupRequest::Leave(leave) => (&leave.group_id, false),
            GroupRequest::OffsetCommit(commit) => (&commit.group_id, true),
            GroupRequest::OffsetDelete(delete) => (&delete.group_id, true),
            GroupRequest::ConsumerHeartbeat(heartbeat) => (&heartbeat.group_id, true),
            GroupRequest::OffsetFetch(_)
            | GroupRequest::List(_)
            | GroupRequest::Describe(_)
            | GroupRequest::Delete(_)
            | GroupRequest::ConsumerDescribe(_) => return Ok(()),
        };
        if group_id.is_empty() && !may_be_empty {
            return Err(GroupError::InvalidGroupId);
        }
        if let GroupRequest::Join(join) = request {
            let session = millis(join.session_timeout_ms);
            let config = &self.core.config;
            if session < config.min_session_timeout || session > config.max_session_timeout {
                return Err(GroupError::InvalidSessionTimeout);
            }
        }
        self.owned(group_id).map(|_| ())
    }

    /// A group is not made anew before it is known that it is gone: else a failed deletion would bring back the old one.
    fn removal_to_wait_for(&self, request: &GroupRequest) -> Option<PersistToken> {
        let group_id = match request {
            GroupRequest::Join(join) => &join.group_id,
            GroupRequest::OffsetCommit(commit) => &commit.group_id,
            GroupRequest::ConsumerHeartbeat(heartbeat) => &heartbeat.group_id,
            _ => return None,
        };
        self.removing.get(group_id).copied()
    }

    fn join(&mut self, now: Now, token: RequestToken, join: JoinGroup, effects: &mut Vec<GroupEffect>) {
        let partition = self.partition_of(&join.group_id);
        let is_new = !self.groups.contains_key(&join.group_id);
        if is_new && !join.member_id.is_empty() {
            let answer = JoinAnswer::refused(join.member_id, GroupError::UnknownMemberId);
            effects.push(GroupEffect::Answer { token, answer: GroupAnswer::Join(answer) });
            return;
        }
        let id = join.group_id.clone();
        self.ensure_group(now, partition, &id);
        let mut context = self.core.context(now, effects);
        let Some(Group::Classic(group)) = self.groups.get_mut(&id) else { return };
        group.join(token, join, &mut context);
        group.assert_invariants();
        if is_new {
            // The group is known by a record from its first moment, so that it can expire.
            let record = group.first_record();
            context.persist(partition, &[record], Write::of_group(&id, Then::ClassicCreated));
        }
    }

    fn leave(&mut self, now: Now, token: RequestToken, leave: LeaveGroup, effects: &mut Vec<GroupEffect>) {
        let mut context = self.core.context(now, effects);
        let (members, write) = match self.groups.get_mut(&leave.group_id) {
            Some(Group::Classic(group)) => {
                let outcome = group.leave(leave.members, &mut context);
                group.assert_invariants();
                outcome
            }
            None => {
                let unknown = |member| (member, Some(GroupError::UnknownMemberId));
                (leave.members.into_iter().map(unknown).collect(), None)
            }
        };
        let answer = GroupAnswer::Leave(LeaveAnswer { error: None, members });
        match write {
            Some(write) => context.ledger.answer_with(write, token, answer),
            None => context.answer(token, answer),
        }
    }

    fn list(&self, filter: &ListGroups) -> Result<Vec<crate::group::ListedGroup>, GroupError> {
        if self.partitions.values().any(|partition| matches!(partition, Partition::Loading(_))) {
            return Err(GroupError::CoordinatorLoadInProgress);
        }
        let matches = |wanted: &[Text], is: &str| {
            wanted.is_empty() || wanted.iter().any(|text| text.trim().eq_ignore_ascii_case(is))
        };
        let listed = self.groups.values().map(|group| match group {
            Group::Classic(group) => group.listed(),
        });
        Ok(listed
            .filter(|group| matches(&filter.states, group.state) && matches(&filter.types, group.group_type))
            .collect())
    }

    fn describe(&self, id: Text) -> DescribedGroup {
        if let Err(error) = self.owned(&id) {
            return DescribedGroup::refused(id, error);
        }
        match self.groups.get(&id) {
            Some(Group::Classic(group)) => group.described(),
            None => DescribedGroup::refused(id, GroupError::GroupIdNotFound),
        }
    }

    /// Deletes empty groups and their offsets. One write for each partition; the answer waits for all.
    fn delete(&mut self, now: Now, token: RequestToken, ids: Vec<Text>, effects: &mut Vec<GroupEffect>) {
        let mut outcomes = Vec::with_capacity(ids.len());
        let mut doomed = BTreeMap::<i32, Vec<Text>>::new();
        for id in ids {
            let outcome = self.owned(&id).and_then(|partition| match self.groups.get(&id) {
                None => Err(GroupError::GroupIdNotFound),
                Some(group) if !group.is_empty() => Err(GroupError::NonEmptyGroup),
                Some(_) => Ok(partition),
            });
            match outcome {
                Ok(partition) => {
                    let ids = doomed.entry(partition).or_default();
                    if !ids.contains(&id) {
                        ids.push(id.clone());
                    }
                    outcomes.push((id, None));
                }
                Err(error) => outcomes.push((id, Some(error))),
            }
        }
        if doomed.is_empty() {
            effects.push(GroupEffect::Answer { token, answer: GroupAnswer::Delete(outcomes) });
            return;
        }
        self.deletions.insert(token, Deletion { writes: doomed.len(), outcomes });
        for (partition, ids) in doomed {
            self.remove_groups(now, partition, ids, Some(token), effects);
        }
    }
}
