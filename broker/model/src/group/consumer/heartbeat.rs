//! ConsumerGroupHeartbeat: a member joins, changes, reconciles or leaves; and what happens when it does not come.

use regex::RegexBuilder;

use super::{
    assignor::{self, Candidate},
    *,
};
use crate::group::request::{ConsumerHeartbeat, ConsumerHeartbeatAnswer, LeavingMember};

/// Memory that a compiled expression may take; beyond it the expression is refused.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// A refusal with Kafka's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::group) struct Refusal {
    pub(in crate::group) error: GroupError,
    pub(in crate::group) message: String,
}

impl Refusal {
    fn new(error: GroupError, message: impl Into<String>) -> Self {
        Self { error, message: message.into() }
    }
}

/// Records of ours that are applied but not yet written.
#[derive(Debug, Default)]
pub(in crate::group) struct Draft {
    /// The state before the first of them, where nothing else is in flight.
    pub(in crate::group) before: Option<Box<State>>,
    pub(in crate::group) records: Vec<GroupRecord>,
}

/// What a heartbeat needs of the coordinator.
pub(in crate::group) struct Topics<'a> {
    pub(in crate::group) image: &'a TopicsImage,
    /// Counts the images.
    pub(in crate::group) version: i64,
}

/// Checks what no state is needed for. The words are Kafka's.
pub(in crate::group) fn validate(request: &ConsumerHeartbeat) -> Result<(), Refusal> {
    let invalid = |message: &str| Err(Refusal::new(GroupError::InvalidRequest, message));
    let is_empty = |text: &Option<Text>| text.as_deref().is_some_and(str::is_empty);
    let epoch = request.member_epoch;
    if (request.member_makes_id || epoch > 0 || epoch == LEAVE_EPOCH) && request.member_id.is_empty() {
        return invalid("MemberId can't be empty.");
    }
    if request.group_id.is_empty() {
        return invalid("GroupId can't be empty.");
    }
    if is_empty(&request.instance_id) {
        return invalid("InstanceId can't be empty.");
    }
    if is_empty(&request.rack_id) {
        return invalid("RackId can't be empty.");
    }
    match epoch {
        0 if request.rebalance_timeout_ms == -1 => {
            return invalid("RebalanceTimeoutMs must be provided in first request.");
        }
        0 if request.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) => {
            return invalid("TopicPartitions must be empty when (re-)joining.");
        }
        0 if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() => {
            return invalid("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.");
        }
        LEAVE_STATIC_EPOCH if request.instance_id.is_none() => return invalid("InstanceId can't be null."),
        ..LEAVE_STATIC_EPOCH => return invalid("MemberEpoch is invalid."),
        _ => {}
    }
    if let Some(assignor) = &request.server_assignor
        && !assignor::SUPPORTED.contains(&&**assignor)
    {
        let message = format!(
            "ServerAssignor {assignor} is not supported. Supported assignors: {}.",
            assignor::SUPPORTED.join(", ")
        );
        return Err(Refusal::new(GroupError::UnsupportedAssignor, message));
    }
    if let Some(regex) = request.subscribed_topic_regex.as_deref().filter(|regex| !regex.is_empty()) {
        compile(regex).map_err(|error| {
            let message = format!("SubscribedTopicRegex `{regex}` is not a valid regular expression: {error}.");
            Refusal::new(GroupError::InvalidRegularExpression, message)
        })?;
    }
    Ok(())
}

/// The expression must match the whole name.
fn compile(regex: &str) -> Result<regex::Regex, regex::Error> {
    // By itself too: parentheses that only close the group around it do not make it valid.
    RegexBuilder::new(regex).size_limit(REGEX_BYTES_MAX).build()?;
    RegexBuilder::new(&format!("^(?:{regex})$")).size_limit(REGEX_BYTES_MAX).build()
}

impl ConsumerGroup {
    /// Applies a record of ours.
    fn emit(&mut self, record: GroupRecord, draft: &mut Draft) {
        if draft.before.is_none() && self.in_flight.is_empty() {
            draft.before = Some(Box::new(self.state.clone()));
        }
        self.state.apply(&record);
        draft.records.push(record);
    }

    /// Handles a heartbeat that is valid in itself. The answer may leave when the draft is durable.
    pub(in crate::group) fn heartbeat(
        &mut self,
        request: &ConsumerHeartbeat,
        topics: &Topics<'_>,
        context: &mut Context<'_>,
    ) -> Result<(ConsumerHeartbeatAnswer, Draft), Refusal> {
        if request.member_epoch < 0 {
            return self.leave(request, topics, context);
        }
        let is_member = self.state.members.contains_key(&request.member_id);
        if self.state.members.len() >= context.config.consumer_max_size && !is_member {
            let max = context.config.consumer_max_size;
            let message = format!("The consumer group has reached its maximum capacity of {max} members.");
            return Err(Refusal::new(GroupError::GroupMaxSizeReached, message));
        }
        let id = match &*request.member_id {
            "" => context.member_ids.uuid().into(),
            _ => request.member_id.clone(),
        };
        let replaced = self.check_member(request, &id)?;
        let mut draft = Draft::default();
        if let Some(replaced) = replaced {
            self.replace(&replaced, &id, &mut draft);
            self.cancel_timers(&replaced, context);
        }
        let before = self.state.members.get(&id).cloned();
        let subscription_changed = self.update_member(request, &id, before.as_ref(), topics, context, &mut draft);
        self.update_epoch(subscription_changed, topics, &mut draft);
        self.update_target(topics, context, &mut draft);
        self.reconcile(request, &id, subscription_changed, topics, context, &mut draft);
        self.heard_of(&id, context);

        let member = &self.state.members[&id];
        let is_full_request = request.rebalance_timeout_ms != -1
            && (request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some())
            && request.topic_partitions.is_some();
        let has_changed = before.is_none_or(|before| before.assigned != member.assigned);
        let shows_assignment = request.member_epoch == 0 || is_full_request || has_changed;
        let assignment = shows_assignment.then(|| {
            let assigned = member.assigned.iter();
            assigned.map(|(topic, partitions)| (*topic, partitions.keys().copied().collect())).collect()
        });
        let interval = context.config.consumer_heartbeat_interval.as_millis();
        let answer = ConsumerHeartbeatAnswer {
            error: None,
            error_message: None,
            member_id: Some(id),
            member_epoch: member.epoch,
            heartbeat_interval_ms: i32::try_from(interval).unwrap_or(i32::MAX),
            assignment,
        };
        Ok((answer, draft))
    }

    /// Whether the member is who it says; the static member whose place it takes, if any.
    fn check_member(&self, request: &ConsumerHeartbeat, id: &Text) -> Result<Option<Text>, Refusal> {
        let joins = request.member_epoch == 0;
        let Some(instance_id) = &request.instance_id else {
            return match self.state.members.get(id) {
                Some(member) => check_epoch(member, request).map(|()| None),
                None if joins => Ok(None),
                None => Err(self.unknown_member(id)),
            };
        };
        let Some(existing) = self.static_member(instance_id) else {
            return if joins { Ok(None) } else { Err(unknown_instance(instance_id)) };
        };
        if joins {
            if existing.epoch != LEAVE_STATIC_EPOCH {
                let message = format!(
                    "Static member {id} with instance id {instance_id} cannot join the group because the instance id is \
                     owned by {} member.",
                    existing.id
                );
                return Err(Refusal::new(GroupError::UnreleasedInstanceId, message));
            }
            return Ok(Some(existing.id.clone()));
        }
        self.check_instance(existing, id, instance_id)?;
        check_epoch(existing, request).map(|()| None)
    }

    fn static_member(&self, instance_id: &str) -> Option<&Member> {
        self.state.members.get(self.state.static_members.get(instance_id)?)
    }

    fn check_instance(&self, existing: &Member, id: &Text, instance_id: &Text) -> Result<(), Refusal> {
        if existing.id == *id {
            return Ok(());
        }
        let message =
            format!("Static member {id} with instance id {instance_id} was fenced by member {}.", existing.id);
        Err(Refusal::new(GroupError::FencedInstanceId, message))
    }

    fn unknown_member(&self, id: &Text) -> Refusal {
        let message = format!("Member {id} is not a member of group {}.", self.id);
        Refusal::new(GroupError::UnknownMemberId, message)
    }

    /// A static member that had left for a while comes back: it gets its assignment under its new id.
    fn replace(&mut self, old_id: &Text, new_id: &Text, draft: &mut Draft) {
        let Some(mut member) = self.state.members.get(old_id).cloned() else { return };
        let target = self.state.targets.get(old_id).map(to_topics).unwrap_or_default();
        self.remove_member(old_id, draft);
        member.id = new_id.clone();
        member.epoch = 0;
        member.previous_epoch = 0;
        self.emit(member.subscription_record(&self.id), draft);
        let target =
            GroupRecord::TargetAssignment { group: self.id.clone(), member: new_id.clone(), value: Some(target) };
        self.emit(target, draft);
        self.emit(member.assignment_record(&self.id), draft);
    }

    fn remove_member(&mut self, id: &Text, draft: &mut Draft) {
        let (group, member) = (self.id.clone(), id.clone());
        self.emit(GroupRecord::CurrentAssignment { group, member, value: None }, draft);
        if self.state.targets.contains_key(id) {
            let (group, member) = (self.id.clone(), id.clone());
            self.emit(GroupRecord::TargetAssignment { group, member, value: None }, draft);
        }
        let (group, member) = (self.id.clone(), id.clone());
        self.emit(GroupRecord::ConsumerMember { group, member, value: None }, draft);
    }

    /// Takes over what the member says of itself. Says whether it reads other topics than before.
    fn update_member(
        &mut self,
        request: &ConsumerHeartbeat,
        id: &Text,
        before: Option<&Member>,
        topics: &Topics<'_>,
        context: &Context<'_>,
        draft: &mut Draft,
    ) -> bool {
        let mut member = before.cloned().unwrap_or_else(|| Member::new(id.clone()));
        if request.instance_id.is_some() {
            member.instance_id.clone_from(&request.instance_id);
        }
        if request.rack_id.is_some() {
            member.rack_id.clone_from(&request.rack_id);
        }
        if request.rebalance_timeout_ms != -1 {
            member.rebalance_timeout_ms = request.rebalance_timeout_ms;
        }
        if request.server_assignor.is_some() {
            member.server_assignor.clone_from(&request.server_assignor);
        }
        if let Some(names) = &request.subscribed_topic_names {
            member.topic_names = names.iter().cloned().collect();
        }
        if request.subscribed_topic_regex.is_some() {
            member.topic_regex.clone_from(&request.subscribed_topic_regex);
        }
        member.client_id = request.client_id.clone();
        member.client_host = request.client_host.clone();
        member.classic = None;
        if before == Some(&member) {
            return self.resolve_regexes(topics, context, draft);
        }
        let old_regex = before.and_then(Member::regex).cloned();
        let names_changed = before.is_none_or(|before| before.topic_names != member.topic_names)
            && !(before.is_none() && member.topic_names.is_empty());
        let regex_changed = old_regex.as_ref() != member.regex();
        self.emit(member.subscription_record(&self.id), draft);
        if regex_changed && let Some(old_regex) = old_regex {
            self.drop_regex_if_unused(&old_regex, draft);
        }
        let resolved = self.resolve_regexes(topics, context, draft);
        names_changed || regex_changed || resolved
    }

    fn drop_regex_if_unused(&mut self, regex: &Text, draft: &mut Draft) {
        if self.state.regex_subscribers(regex) == 0 && self.state.regexes.contains_key(regex) {
            let record = GroupRecord::Regex { group: self.id.clone(), regex: regex.clone(), value: None };
            self.emit(record, draft);
        }
    }

    /// Looks up the topics of expressions, if there are new ones of either. Says whether any matches others than before.
    fn resolve_regexes(&mut self, topics: &Topics<'_>, context: &Context<'_>, draft: &mut Draft) -> bool {
        let subscribed: BTreeSet<Text> = self.state.members.values().filter_map(Member::regex).cloned().collect();
        let all_resolved = subscribed.iter().all(|regex| self.state.regexes.contains_key(regex));
        if all_resolved && self.regexes_seen == topics.version {
            return false;
        }
        self.regexes_seen = topics.version;
        let mut changed = false;
        for regex in subscribed {
            // Checked when it came; a record of another broker's dialect may still fail and then matches nothing.
            let matches: BTreeSet<Text> = match compile(&regex) {
                Ok(compiled) => {
                    let names = topics.image.iter().map(|(name, _, _)| name);
                    names.filter(|name| compiled.is_match(name)).cloned().collect()
                }
                Err(_) => BTreeSet::new(),
            };
            let resolved = self.state.regexes.get(&regex);
            if resolved.is_some_and(|resolved| resolved.topics == matches) {
                continue;
            }
            changed = true;
            let value = RegexValue {
                topics: matches.into_iter().collect(),
                version: topics.version,
                timestamp: context.now.wall,
            };
            self.emit(GroupRecord::Regex { group: self.id.clone(), regex, value: Some(value) }, draft);
        }
        changed
    }

    /// The group's epoch rises when somebody reads other topics, or when topics are not what they were.
    ///
    /// It is at least 1 once somebody is there, even with an empty subscription: a member that is told the epoch 0 joins again.
    fn update_epoch(&mut self, subscription_changed: bool, topics: &Topics<'_>, draft: &mut Draft) {
        let subscription_changed = subscription_changed || self.state.epoch == 0;
        if !subscription_changed && !self.metadata_is_stale {
            return;
        }
        self.metadata_is_stale = false;
        let metadata_hash = self.state.compute_metadata_hash(topics.image);
        if subscription_changed || metadata_hash != self.state.metadata_hash {
            self.bump_epoch(metadata_hash, draft);
        }
        if self.state.has_partitions_record {
            self.emit(GroupRecord::ConsumerGroupPartitions { group: self.id.clone(), present: false }, draft);
        }
    }

    fn bump_epoch(&mut self, metadata_hash: i64, draft: &mut Draft) {
        let value = Some(ConsumerGroupValue { epoch: self.state.epoch + 1, metadata_hash });
        self.emit(GroupRecord::ConsumerGroup { group: self.id.clone(), value }, draft);
    }

    /// Computes a new target if the group's epoch is ahead, but not more often than the assignment interval allows (KIP-1263).
    fn update_target(&mut self, topics: &Topics<'_>, context: &Context<'_>, draft: &mut Draft) {
        let state = &self.state;
        if state.assignment_epoch >= state.epoch {
            return;
        }
        let last = state.assignment_timestamp.0;
        let interval_ms = i64::try_from(context.config.consumer_assignment_interval.as_millis()).unwrap_or(i64::MAX);
        if last != 0 && interval_ms != 0 && context.now.wall.0 < last.saturating_add(interval_ms) {
            return;
        }
        let none = Partitions::new();
        let mut counts = BTreeMap::new();
        let candidates: Vec<Candidate<'_>> = state
            .members
            .values()
            .map(|member| {
                let existing = state.subscribed_names(member).filter_map(|name| topics.image.by_name(name));
                let subscribed = existing.map(|(id, partitions)| {
                    counts.insert(id, partitions);
                    id
                });
                Candidate {
                    id: &member.id,
                    instance_id: member.instance_id.as_ref(),
                    topics: subscribed.collect(),
                    current: state.targets.get(&member.id).unwrap_or(&none),
                }
            })
            .collect();
        let chosen = state.preferred_assignor().map_or(assignor::DEFAULT, |name| &**name);
        let targets = assignor::assign(chosen, &candidates, &counts);
        let changed: Vec<_> =
            targets.into_iter().filter(|(member, target)| state.targets.get(member) != Some(target)).collect();
        let group = self.id.clone();
        for (member, target) in changed {
            let value = Some(to_topics(&target));
            self.emit(GroupRecord::TargetAssignment { group: group.clone(), member, value }, draft);
        }
        let value = Some(TargetAssignmentEpochValue { epoch: self.state.epoch, timestamp: context.now.wall });
        self.emit(GroupRecord::TargetAssignmentEpoch { group, value }, draft);
    }

    fn reconcile(
        &mut self,
        request: &ConsumerHeartbeat,
        id: &Text,
        subscription_changed: bool,
        topics: &Topics<'_>,
        context: &mut Context<'_>,
        draft: &mut Draft,
    ) {
        let Some(member) = self.state.members.get(id) else { return };
        if !subscription_changed && member.is_reconciled_to(self.state.assignment_epoch) {
            return;
        }
        let reported = request.topic_partitions.as_deref();
        let next = self.state.reconciled(member, subscription_changed, reported, topics.image);
        if next == *member {
            return;
        }
        let timer = self.rebalance_timer(id);
        if next.state == MemberState::UnrevokedPartitions {
            context.schedule(timer, millis(next.rebalance_timeout_ms));
        } else {
            context.timers.cancel(&timer);
        }
        self.emit(next.assignment_record(&self.id), draft);
    }

    fn leave(
        &mut self,
        request: &ConsumerHeartbeat,
        topics: &Topics<'_>,
        context: &mut Context<'_>,
    ) -> Result<(ConsumerHeartbeatAnswer, Draft), Refusal> {
        let member = match &request.instance_id {
            None => {
                self.state.members.get(&request.member_id).ok_or_else(|| self.unknown_member(&request.member_id))?
            }
            Some(instance_id) => {
                let member = self.static_member(instance_id).ok_or_else(|| unknown_instance(instance_id))?;
                self.check_instance(member, &request.member_id, instance_id)?;
                member
            }
        };
        let id = member.id.clone();
        let mut draft = Draft::default();
        if request.instance_id.is_some() && request.member_epoch == LEAVE_STATIC_EPOCH {
            let mut leaving = member.clone();
            leaving.epoch = LEAVE_STATIC_EPOCH;
            leaving.revoking.clear();
            for since in leaving.assigned.values_mut().flat_map(BTreeMap::values_mut) {
                // Whoever comes back under another id has had them from the beginning.
                *since = 0;
            }
            context.timers.cancel(&self.rebalance_timer(&id));
            self.emit(leaving.assignment_record(&self.id), &mut draft);
        } else {
            self.fence(std::slice::from_ref(&id), topics, context, &mut draft);
        }
        let answer = ConsumerHeartbeatAnswer {
            error: None,
            error_message: None,
            member_id: Some(id),
            member_epoch: request.member_epoch,
            heartbeat_interval_ms: 0,
            assignment: None,
        };
        Ok((answer, draft))
    }

    /// Takes members out, and has their partitions assigned to others.
    fn fence(&mut self, ids: &[Text], topics: &Topics<'_>, context: &mut Context<'_>, draft: &mut Draft) {
        let mut regexes = BTreeSet::new();
        for id in ids {
            regexes.extend(self.state.members.get(id).and_then(Member::regex).cloned());
            self.remove_member(id, draft);
            self.cancel_timers(id, context);
        }
        for regex in regexes {
            self.drop_regex_if_unused(&regex, draft);
        }
        self.bump_epoch(self.state.compute_metadata_hash(topics.image), draft);
    }

    /// A member's session has ended, or it did not give its partitions up in time.
    pub(in crate::group) fn expired(
        &mut self,
        timer: &Timer,
        member: &Text,
        topics: &Topics<'_>,
        context: &mut Context<'_>,
    ) -> Draft {
        let mut draft = Draft::default();
        let is_due = self.state.members.get(member).is_some_and(|member| match timer {
            Timer::ConsumerRebalance { .. } => member.state == MemberState::UnrevokedPartitions,
            _ => true,
        });
        if is_due {
            self.fence(std::slice::from_ref(member), topics, context, &mut draft);
        }
        draft
    }

    /// An administrator takes members out with LeaveGroup.
    pub(in crate::group) fn remove(
        &mut self,
        leaving: Vec<LeavingMember>,
        topics: &Topics<'_>,
        context: &mut Context<'_>,
    ) -> (Vec<(LeavingMember, Option<GroupError>)>, Draft) {
        let mut ids = Vec::new();
        let mut outcomes = Vec::with_capacity(leaving.len());
        for member in leaving {
            let found = match &member.group_instance_id {
                None => self.state.members.get(&member.member_id).ok_or(GroupError::UnknownMemberId),
                Some(instance_id) => match self.static_member(instance_id) {
                    None => Err(GroupError::UnknownMemberId),
                    Some(found) if !member.member_id.is_empty() && found.id != member.member_id => {
                        Err(GroupError::FencedInstanceId)
                    }
                    Some(found) => Ok(found),
                },
            };
            match found {
                Ok(found) => {
                    if !ids.contains(&found.id) {
                        ids.push(found.id.clone());
                    }
                    outcomes.push((member, None));
                }
                Err(error) => outcomes.push((member, Some(error))),
            }
        }
        let mut draft = Draft::default();
        if !ids.is_empty() {
            self.fence(&ids, topics, context, &mut draft);
        }
        (outcomes, draft)
    }
}

/// A member may repeat its last heartbeat if the answer to it was lost.
fn check_epoch(member: &Member, request: &ConsumerHeartbeat) -> Result<(), Refusal> {
    let (got, known) = (request.member_epoch, member.epoch);
    let fenced = |relation: &str| {
        let message = format!(
            "The consumer group member has a {relation} member epoch ({got}) than the one known by the group coordinator \
             ({known}). The member must abandon all its partitions and rejoin."
        );
        Err(Refusal::new(GroupError::FencedMemberEpoch, message))
    };
    if member.state == MemberState::Unknown && request.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) {
        let message =
            "The consumer group member is in a unknown state. The member must abandon all its partitions and rejoin.";
        return Err(Refusal::new(GroupError::FencedMemberEpoch, message));
    }
    if got == 0 || got == known {
        return Ok(());
    }
    if got > known {
        return fenced("greater");
    }
    let owns_nothing_else = request.topic_partitions.as_ref().is_some_and(|owned| {
        owned.iter().all(|(topic, partitions)| {
            let assigned = member.assigned.get(topic);
            partitions.iter().all(|partition| assigned.is_some_and(|assigned| assigned.contains_key(partition)))
        })
    });
    if got == member.previous_epoch && owns_nothing_else { Ok(()) } else { fenced("smaller") }
}

fn unknown_instance(instance_id: &Text) -> Refusal {
    Refusal::new(GroupError::UnknownMemberId, format!("Instance id {instance_id} is unknown."))
}
