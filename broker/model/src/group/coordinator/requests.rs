//! Requests about groups and their members. Those about offsets are in `commits`.

use super::*;
use crate::group::{
    consumer,
    context::millis,
    request::{
        ConsumerHeartbeat, ConsumerHeartbeatAnswer, DescribedConsumerGroup, DescribedGroup, JoinAnswer, JoinGroup,
        LeaveAnswer, LeaveGroup, ListGroups, ListedGroup, SyncAnswer,
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
        let until = self.writes_to_wait_for(&request);
        if !until.is_empty() {
            self.parked.push(Parked { until, token, request });
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
                _ => GroupAnswer::Heartbeat(Err(GroupError::UnknownMemberId)),
            },
            GroupRequest::Leave(leave) => return self.leave(now, token, leave, effects),
            GroupRequest::OffsetCommit(commit) => return self.commit(now, token, commit, effects),
            GroupRequest::OffsetFetch(fetch) => return self.fetch(token, fetch, effects),
            GroupRequest::OffsetDelete(delete) => return self.delete_offsets(now, token, delete, effects),
            GroupRequest::List(list) => GroupAnswer::List(self.list(&list)),
            GroupRequest::Describe(ids) => GroupAnswer::Describe(ids.into_iter().map(|id| self.describe(id)).collect()),
            GroupRequest::Delete(ids) => return self.delete(now, token, ids, effects),
            GroupRequest::ConsumerHeartbeat(heartbeat) => {
                return self.consumer_heartbeat(now, token, &heartbeat, effects);
            }
            GroupRequest::ConsumerDescribe(ids) => {
                GroupAnswer::ConsumerDescribe(ids.into_iter().map(|id| self.describe_consumer(id)).collect())
            }
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
            GroupRequest::OffsetDelete(delete) => (&delete.group_id, false),
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

    /// A group is not made anew before it is known that it is gone, and not removed before it is known what it is: else a
    /// write that fails could not be undone.
    fn writes_to_wait_for(&self, request: &GroupRequest) -> BTreeSet<PersistToken> {
        let removal = |id: &Text| self.removing.get(id).copied();
        let change = |id: &Text| self.groups.get(id).and_then(Group::last_write);
        match request {
            GroupRequest::Join(join) => {
                removal(&join.group_id).or_else(|| change(&join.group_id)).into_iter().collect()
            }
            GroupRequest::OffsetCommit(commit) => removal(&commit.group_id).into_iter().collect(),
            GroupRequest::ConsumerHeartbeat(heartbeat) => removal(&heartbeat.group_id).into_iter().collect(),
            GroupRequest::Delete(ids) => ids.iter().filter_map(change).collect(),
            _ => BTreeSet::new(),
        }
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
        if let Some(Group::Consumer(group)) = self.groups.get(&id)
            && !group.is_empty()
        {
            let answer = JoinAnswer::refused("".into(), GroupError::InconsistentGroupProtocol);
            effects.push(GroupEffect::Answer { token, answer: GroupAnswer::Join(answer) });
            return;
        }
        let replaced = match self.groups.get(&id) {
            Some(Group::Consumer(_)) => self.groups.remove(&id).map(Box::new),
            _ => None,
        };
        if replaced.is_some() && !join.member_id.is_empty() {
            self.groups.extend(replaced.map(|group| (id, *group)));
            let answer = JoinAnswer::refused(join.member_id, GroupError::UnknownMemberId);
            effects.push(GroupEffect::Answer { token, answer: GroupAnswer::Join(answer) });
            return;
        }
        let is_new = is_new || replaced.is_some();
        self.ensure_group(now, partition, &id);
        let mut context = self.core.context(now, effects);
        let Some(Group::Classic(group)) = self.groups.get_mut(&id) else { return };
        group.join(token, join, &mut context);
        group.assert_invariants();
        if is_new {
            // The group is known by a record from its first moment, so that it can expire.
            let mut records = replaced.as_ref().map(|group| group.tombstones()).unwrap_or_default();
            records.push(group.first_record());
            context.persist(partition, &records, Write::of_group(&id, Then::ClassicCreated { replaced }));
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
            Some(Group::Consumer(group)) => {
                let topics = Topics { image: &self.topics, version: self.topics_version };
                let (members, draft) = group.remove(leave.members, &topics, &mut context);
                let answer = GroupAnswer::Leave(LeaveAnswer { error: None, members });
                persist_draft(group, draft, vec![(token, answer)], None, &mut context);
                group.assert_invariants();
                return;
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

    fn list(&self, filter: &ListGroups) -> Result<Vec<ListedGroup>, GroupError> {
        if self.partitions.values().any(|partition| matches!(partition, Partition::Loading(_))) {
            return Err(GroupError::CoordinatorLoadInProgress);
        }
        let matches = |wanted: &[Text], is: &str| {
            wanted.is_empty() || wanted.iter().any(|text| text.trim().eq_ignore_ascii_case(is))
        };
        let listed = self.groups.values().filter_map(|group| match group {
            Group::Classic(group) => Some(group.listed()),
            Group::Consumer(group) => group.is_visible().then(|| group.listed()),
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
            _ => DescribedGroup::refused(id, GroupError::GroupIdNotFound),
        }
    }

    fn describe_consumer(&self, id: Text) -> DescribedConsumerGroup {
        if id.is_empty() {
            return DescribedConsumerGroup::refused(id, GroupError::InvalidGroupId);
        }
        if let Err(error) = self.owned(&id) {
            return DescribedConsumerGroup::refused(id, error);
        }
        match self.groups.get(&id) {
            Some(Group::Consumer(group)) if group.is_visible() => group.described(&self.topics),
            Some(Group::Classic(_)) => DescribedConsumerGroup {
                error_message: Some(format!("Group {id} is not a consumer group.").into()),
                ..DescribedConsumerGroup::refused(id, GroupError::GroupIdNotFound)
            },
            _ => DescribedConsumerGroup {
                error_message: Some(format!("Group {id} not found.").into()),
                ..DescribedConsumerGroup::refused(id, GroupError::GroupIdNotFound)
            },
        }
    }

    fn consumer_heartbeat(
        &mut self,
        now: Now,
        token: RequestToken,
        heartbeat: &ConsumerHeartbeat,
        effects: &mut Vec<GroupEffect>,
    ) {
        let refuse = |refusal: consumer::Refusal, effects: &mut Vec<GroupEffect>| {
            let answer = ConsumerHeartbeatAnswer::refused(refusal.error, refusal.message);
            effects.push(GroupEffect::Answer { token, answer: GroupAnswer::ConsumerHeartbeat(Box::new(answer)) });
        };
        if let Err(refusal) = consumer::validate(heartbeat) {
            return refuse(refusal, effects);
        }
        let id = &heartbeat.group_id;
        let joins = heartbeat.member_epoch == 0;
        let replaced = match self.groups.get(id) {
            Some(Group::Consumer(_)) => None,
            // An empty classic group makes room; with members in it, nobody changes its protocol.
            Some(Group::Classic(group)) if joins && group.is_empty() => self.groups.remove(id),
            None if joins => None,
            found => {
                let what = if found.is_some() { "is not a consumer group" } else { "not found" };
                let message = format!("Group {id} {what}.");
                return refuse(consumer::Refusal { error: GroupError::GroupIdNotFound, message }, effects);
            }
        };
        let is_new = !self.groups.contains_key(id);
        let partition = self.partition_of(id);
        let group =
            self.groups.entry(id.clone()).or_insert_with(|| Group::Consumer(ConsumerGroup::new(id.clone(), partition)));
        let Group::Consumer(group) = group else { unreachable!("a classic group was taken out or refused") };
        let topics = Topics { image: &self.topics, version: self.topics_version };
        let mut context = self.core.context(now, effects);
        match group.heartbeat(heartbeat, &topics, &mut context) {
            Ok((answer, draft)) => {
                let mut replaced = replaced.map(Box::new);
                if let Some(replaced) = &mut replaced {
                    replaced.close(GroupError::UnknownMemberId, &mut context);
                }
                let answers = vec![(token, GroupAnswer::ConsumerHeartbeat(Box::new(answer)))];
                persist_draft(group, draft, answers, replaced, &mut context);
                group.assert_invariants();
            }
            Err(refusal) => {
                group.assert_invariants();
                if is_new {
                    self.groups.remove(id);
                    self.groups.extend(replaced.map(|group| (id.clone(), group)));
                }
                refuse(refusal, effects);
            }
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
