//! A group of the consumer protocol (KIP-848): the coordinator assigns, members reconcile.
//!
//! The state of a group is the fold of its records: [`State::apply`] is used both while a partition loads and when the
//! coordinator writes, so that a restart finds what there was. Writes in flight are part of the latest state; what is durable
//! is kept beside it until they are settled, to be shown to readers and to be gone back to when a write fails.
//!
//! Three epochs: the group's rises when subscriptions or topics change; the assignment's follows when a new target is
//! computed; a member's follows when it has given up what it must. A partition is never assigned to a member while another
//! one still owns it.
//! Source: KIP-848; Apache Kafka's `ConsumerGroup`, `CurrentAssignmentBuilder`, `TargetAssignmentBuilder`.

mod assignor;
mod heartbeat;
mod reconcile;

pub(super) use self::heartbeat::{Draft, Refusal, Topics, validate};

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate_records::{ids::TopicId, time::Timestamp};

use super::{
    GroupError, PersistToken,
    context::{Context, millis},
    record_format::{
        AssignedTopic, ClassicMemberMetadata, ConsumerGroupValue, ConsumerMemberValue, CurrentAssignmentValue,
        GroupRecord, RegexValue, TargetAssignmentEpochValue,
    },
    request::{DescribedConsumerGroup, DescribedConsumerMember, DescribedTopic, ListedGroup, OffsetCommit, Text},
    timers::Timer,
    topics::TopicsImage,
};

/// The epoch with which a member leaves.
const LEAVE_EPOCH: i32 = -1;
/// The epoch with which a static member leaves for a while, and the one it has in the meantime.
const LEAVE_STATIC_EPOCH: i32 = -2;

/// Partitions by topic; no topic without partitions.
type Partitions = BTreeMap<TopicId, BTreeSet<i32>>;
/// Partitions with the epoch at which the member got them.
type Owned = BTreeMap<TopicId, BTreeMap<i32, i32>>;

/// How far a member is in its reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MemberState {
    /// Has what it is to have at its epoch.
    Stable,
    /// Must give up partitions first.
    UnrevokedPartitions,
    /// Waits for partitions that others still own.
    UnreleasedPartitions,
    /// Written by a later version.
    Unknown,
}

impl MemberState {
    fn from_code(code: i8) -> Self {
        match code {
            0 => Self::Stable,
            1 => Self::UnrevokedPartitions,
            2 => Self::UnreleasedPartitions,
            _ => Self::Unknown,
        }
    }

    fn code(self) -> i8 {
        match self {
            Self::Stable => 0,
            Self::UnrevokedPartitions => 1,
            Self::UnreleasedPartitions => 2,
            Self::Unknown => 127,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Member {
    id: Text,
    instance_id: Option<Text>,
    rack_id: Option<Text>,
    client_id: Text,
    client_host: Text,
    topic_names: BTreeSet<Text>,
    /// Empty counts as none.
    topic_regex: Option<Text>,
    rebalance_timeout_ms: i32,
    server_assignor: Option<Text>,
    classic: Option<ClassicMemberMetadata>,
    epoch: i32,
    previous_epoch: i32,
    state: MemberState,
    assigned: Owned,
    revoking: Owned,
}

impl Member {
    fn new(id: Text) -> Self {
        Self {
            id,
            instance_id: None,
            rack_id: None,
            client_id: "".into(),
            client_host: "".into(),
            topic_names: BTreeSet::new(),
            topic_regex: None,
            rebalance_timeout_ms: -1,
            server_assignor: None,
            classic: None,
            epoch: 0,
            previous_epoch: -1,
            state: MemberState::Stable,
            assigned: Owned::new(),
            revoking: Owned::new(),
        }
    }

    fn regex(&self) -> Option<&Text> {
        self.topic_regex.as_ref().filter(|regex| !regex.is_empty())
    }

    fn is_reconciled_to(&self, assignment_epoch: i32) -> bool {
        self.state == MemberState::Stable && self.epoch == assignment_epoch
    }

    fn set_epoch(&mut self, epoch: i32) {
        self.previous_epoch = self.epoch;
        self.epoch = epoch;
    }

    fn owns(&self, topic: TopicId, partition: i32) -> bool {
        [&self.assigned, &self.revoking]
            .into_iter()
            .any(|owned| owned.get(&topic).is_some_and(|partitions| partitions.contains_key(&partition)))
    }

    fn subscription_record(&self, group: &Text) -> GroupRecord {
        let value = ConsumerMemberValue {
            instance_id: self.instance_id.clone(),
            rack_id: self.rack_id.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            subscribed_topic_names: self.topic_names.iter().cloned().collect(),
            subscribed_topic_regex: self.topic_regex.clone(),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            server_assignor: self.server_assignor.clone(),
            classic: self.classic.clone(),
        };
        GroupRecord::ConsumerMember { group: group.clone(), member: self.id.clone(), value: Some(value) }
    }

    fn assignment_record(&self, group: &Text) -> GroupRecord {
        let value = CurrentAssignmentValue {
            member_epoch: self.epoch,
            previous_member_epoch: self.previous_epoch,
            state: self.state.code(),
            assigned: to_topics_with_epochs(&self.assigned),
            pending_revocation: to_topics_with_epochs(&self.revoking),
        };
        GroupRecord::CurrentAssignment { group: group.clone(), member: self.id.clone(), value: Some(value) }
    }
}

/// The topics that an expression matched when it was last looked at.
#[derive(Clone, Debug, PartialEq)]
struct ResolvedRegex {
    topics: BTreeSet<Text>,
    version: i64,
    timestamp: Timestamp,
}

/// Everything that records tell of a group.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    epoch: i32,
    metadata_hash: i64,
    /// -1 before the first.
    assignment_epoch: i32,
    assignment_timestamp: Timestamp,
    members: BTreeMap<Text, Member>,
    /// Instance id to member id.
    static_members: BTreeMap<Text, Text>,
    targets: BTreeMap<Text, Partitions>,
    regexes: BTreeMap<Text, ResolvedRegex>,
    /// A record of Kafka before 4.1 is in the log, to be removed.
    has_partitions_record: bool,
}

impl State {
    fn new() -> Self {
        Self {
            epoch: 0,
            metadata_hash: 0,
            assignment_epoch: -1,
            assignment_timestamp: Timestamp(0),
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            targets: BTreeMap::new(),
            regexes: BTreeMap::new(),
            has_partitions_record: false,
        }
    }

    /// Takes a record over. Records about unknown members that only end something are passed over: compaction may have
    /// removed what they end.
    fn apply(&mut self, record: &GroupRecord) {
        match record {
            GroupRecord::ConsumerGroup { value, .. } => {
                let value = value.unwrap_or(ConsumerGroupValue { epoch: 0, metadata_hash: 0 });
                self.epoch = value.epoch;
                self.metadata_hash = value.metadata_hash;
            }
            GroupRecord::ConsumerGroupPartitions { present, .. } => self.has_partitions_record = *present,
            GroupRecord::ConsumerMember { member, value: Some(value), .. } => self.apply_member(member, value),
            GroupRecord::ConsumerMember { member, value: None, .. } => {
                if let Some(instance_id) = self.members.remove(member).and_then(|member| member.instance_id)
                    && self.static_members.get(&instance_id) == Some(member)
                {
                    self.static_members.remove(&instance_id);
                }
            }
            GroupRecord::TargetAssignmentEpoch { value, .. } => {
                let none = TargetAssignmentEpochValue { epoch: -1, timestamp: Timestamp(0) };
                let value = value.unwrap_or(none);
                self.assignment_epoch = value.epoch;
                self.assignment_timestamp = value.timestamp;
            }
            GroupRecord::TargetAssignment { member, value, .. } => {
                match value {
                    Some(topics) => self.targets.insert(member.clone(), from_topics(topics)),
                    None => self.targets.remove(member),
                };
            }
            GroupRecord::CurrentAssignment { member, value: Some(value), .. } => {
                let member = self.members.entry(member.clone()).or_insert_with(|| Member::new(member.clone()));
                member.epoch = value.member_epoch;
                member.previous_epoch = value.previous_member_epoch;
                member.state = MemberState::from_code(value.state);
                member.assigned = from_topics_with_epochs(&value.assigned, value.member_epoch);
                member.revoking = from_topics_with_epochs(&value.pending_revocation, value.member_epoch);
            }
            GroupRecord::CurrentAssignment { member, value: None, .. } => {
                if let Some(member) = self.members.get_mut(member) {
                    member.epoch = LEAVE_EPOCH;
                    member.previous_epoch = LEAVE_EPOCH;
                    member.state = MemberState::Stable;
                    member.assigned.clear();
                    member.revoking.clear();
                }
            }
            GroupRecord::Regex { regex, value, .. } => {
                match value {
                    Some(RegexValue { topics, version, timestamp }) => {
                        let topics = topics.iter().cloned().collect();
                        let resolved = ResolvedRegex { topics, version: *version, timestamp: *timestamp };
                        self.regexes.insert(regex.clone(), resolved)
                    }
                    None => self.regexes.remove(regex),
                };
            }
            GroupRecord::OffsetCommit { .. } | GroupRecord::ClassicGroup { .. } => {}
        }
    }

    fn apply_member(&mut self, id: &Text, value: &ConsumerMemberValue) {
        let member = self.members.entry(id.clone()).or_insert_with(|| Member::new(id.clone()));
        if member.instance_id != value.instance_id
            && let Some(earlier) = &member.instance_id
            && self.static_members.get(earlier) == Some(id)
        {
            self.static_members.remove(earlier);
        }
        member.instance_id.clone_from(&value.instance_id);
        member.rack_id.clone_from(&value.rack_id);
        member.client_id = value.client_id.clone();
        member.client_host = value.client_host.clone();
        member.topic_names = value.subscribed_topic_names.iter().cloned().collect();
        member.topic_regex.clone_from(&value.subscribed_topic_regex);
        member.rebalance_timeout_ms = value.rebalance_timeout_ms;
        member.server_assignor.clone_from(&value.server_assignor);
        member.classic.clone_from(&value.classic);
        if let Some(instance_id) = &value.instance_id {
            self.static_members.insert(instance_id.clone(), id.clone());
        }
    }

    fn name(&self) -> &'static str {
        if self.members.is_empty() {
            "Empty"
        } else if self.epoch > self.assignment_epoch {
            "Assigning"
        } else if self.members.values().all(|member| member.is_reconciled_to(self.assignment_epoch)) {
            "Stable"
        } else {
            "Reconciling"
        }
    }

    /// How many members are subscribed by this expression.
    fn regex_subscribers(&self, regex: &str) -> usize {
        self.members.values().filter(|member| member.regex().is_some_and(|of| **of == *regex)).count()
    }

    /// The names that a member is subscribed to, directly or by an expression.
    fn subscribed_names<'a>(&'a self, member: &'a Member) -> impl Iterator<Item = &'a Text> {
        let by_regex = member.regex().and_then(|regex| self.regexes.get(regex));
        member.topic_names.iter().chain(by_regex.into_iter().flat_map(|resolved| &resolved.topics))
    }

    /// The assignor that most members ask for, then the alphabet.
    fn preferred_assignor(&self) -> Option<&Text> {
        let mut votes = BTreeMap::<&Text, usize>::new();
        for assignor in self.members.values().filter_map(|member| member.server_assignor.as_ref()) {
            *votes.entry(assignor).or_default() += 1;
        }
        votes.into_iter().rev().max_by_key(|(_, count)| *count).map(|(name, _)| name)
    }

    /// Of all topics that anybody is subscribed to: changes when one of them does. 0 without topics.
    fn compute_metadata_hash(&self, topics: &TopicsImage) -> i64 {
        let names: BTreeSet<&Text> = self.members.values().flat_map(|member| self.subscribed_names(member)).collect();
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut any = false;
        for name in names {
            if let Some((id, partitions)) = topics.by_name(name) {
                any = true;
                // FNV-1a: the names are not hostile and a collision only delays a rebalance.
                for byte in id.0.into_iter().chain(partitions.to_be_bytes()).chain(name.bytes()) {
                    hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
                }
            }
        }
        if any { hash as i64 } else { 0 }
    }
}

/// A group with its writes in flight.
#[derive(Clone, Debug)]
pub(super) struct ConsumerGroup {
    pub(super) id: Text,
    /// The partition of `__consumer_offsets`.
    pub(super) partition: i32,
    state: State,
    /// What is durable, while writes are in flight.
    durable: Option<Box<State>>,
    in_flight: VecDeque<(PersistToken, Vec<GroupRecord>)>,
    /// Whether any record of the group is durable.
    is_durable: bool,
    /// Topics may have changed since the group looked.
    metadata_is_stale: bool,
    /// The version of the topics with which expressions were looked up last.
    regexes_seen: i64,
}

/// What became of a group when a write was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    Stays,
    /// None of its records is durable, or will be.
    NeverWas,
}

impl ConsumerGroup {
    pub(super) fn new(id: Text, partition: i32) -> Self {
        Self {
            id,
            partition,
            state: State::new(),
            durable: None,
            in_flight: VecDeque::new(),
            is_durable: false,
            metadata_is_stale: true,
            regexes_seen: -1,
        }
    }

    /// Takes over a record of the log.
    pub(super) fn replay(&mut self, record: &GroupRecord) {
        self.state.apply(record);
        self.is_durable = true;
    }

    /// Takes over records of ours that are on their way to the log.
    pub(super) fn begin(&mut self, token: PersistToken, draft: Draft) {
        if self.in_flight.is_empty() {
            self.durable = draft.before;
        }
        self.in_flight.push_back((token, draft.records));
    }

    /// A write of ours is durable, or will never be.
    pub(super) fn settle(&mut self, token: PersistToken, durable: bool, context: &mut Context<'_>) -> Settled {
        let Some(index) = self.in_flight.iter().position(|(other, _)| *other == token) else { return Settled::Stays };
        let Some((_, records)) = self.in_flight.remove(index) else { return Settled::Stays };
        let Some(base) = &mut self.durable else { return Settled::Stays };
        if durable {
            records.iter().for_each(|record| base.apply(record));
            self.is_durable = true;
        } else {
            self.state = State::clone(base);
            self.in_flight.iter().flat_map(|(_, records)| records).for_each(|record| self.state.apply(record));
            self.metadata_is_stale = true;
            self.regexes_seen = -1;
            self.restart_timers(context);
        }
        if self.in_flight.is_empty() {
            self.durable = None;
            if !self.is_durable {
                return Settled::NeverWas;
            }
        }
        Settled::Stays
    }

    /// The latest write of its records that is in flight.
    pub(super) fn last_write(&self) -> Option<PersistToken> {
        self.in_flight.back().map(|(token, _)| *token)
    }

    /// What readers may be shown.
    fn shown(&self) -> &State {
        self.durable.as_deref().unwrap_or(&self.state)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state.members.is_empty()
    }

    pub(super) fn state_name(&self) -> &'static str {
        self.shown().name()
    }

    pub(super) fn topics_changed(&mut self) {
        self.metadata_is_stale = true;
    }

    /// Whether it exists for those who list and describe: not before its first record is durable.
    pub(super) fn is_visible(&self) -> bool {
        self.is_durable
    }

    pub(super) fn listed(&self) -> ListedGroup {
        ListedGroup {
            group_id: self.id.clone(),
            protocol_type: super::subscription::CONSUMER_PROTOCOL_TYPE.into(),
            state: self.state_name(),
            group_type: "Consumer",
        }
    }

    pub(super) fn described(&self, topics: &TopicsImage) -> DescribedConsumerGroup {
        let state = self.shown();
        let describe = |partitions: Partitions| {
            let described = partitions.into_iter().filter_map(|(id, partitions)| {
                let name = topics.by_id(id)?.clone();
                Some(DescribedTopic { id, name, partitions: partitions.into_iter().collect() })
            });
            described.collect::<Vec<_>>()
        };
        let members = state.members.values().map(|member| {
            // It is still responsible for what it has not given up yet.
            let mut owned = without_epochs(&member.assigned);
            for (id, partitions) in without_epochs(&member.revoking) {
                owned.entry(id).or_default().extend(partitions);
            }
            DescribedConsumerMember {
                member_id: member.id.clone(),
                instance_id: member.instance_id.clone(),
                rack_id: member.rack_id.clone(),
                member_epoch: member.epoch,
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                subscribed_topic_names: member.topic_names.iter().cloned().collect(),
                subscribed_topic_regex: member.topic_regex.clone(),
                assignment: describe(owned),
                target_assignment: describe(state.targets.get(&member.id).cloned().unwrap_or_default()),
            }
        });
        DescribedConsumerGroup {
            group_id: self.id.clone(),
            error: None,
            error_message: None,
            state: state.name(),
            group_epoch: state.epoch,
            assignment_epoch: state.assignment_epoch,
            assignor: state.preferred_assignor().cloned().unwrap_or_else(|| assignor::DEFAULT.into()),
            members: members.collect(),
        }
    }

    /// The records that make an empty group unknown.
    pub(super) fn tombstones(&self) -> Vec<GroupRecord> {
        let group = &self.id;
        let mut records = vec![GroupRecord::TargetAssignmentEpoch { group: group.clone(), value: None }];
        for regex in self.state.regexes.keys() {
            records.push(GroupRecord::Regex { group: group.clone(), regex: regex.clone(), value: None });
        }
        if self.state.has_partitions_record {
            records.push(GroupRecord::ConsumerGroupPartitions { group: group.clone(), present: false });
        }
        records.push(GroupRecord::ConsumerGroup { group: group.clone(), value: None });
        records
    }

    pub(super) fn is_subscribed_to(&self, topic: &str) -> bool {
        let state = &self.state;
        state.members.values().any(|member| state.subscribed_names(member).any(|name| **name == *topic))
    }

    /// Whether offsets may be committed: with the current epoch, or an older one that had the partition already.
    pub(super) fn validate_commit(&self, request: &OffsetCommit, topics: &TopicsImage) -> Result<(), GroupError> {
        let epoch = request.generation_or_epoch;
        if epoch < 0 && self.is_empty() {
            return Ok(());
        }
        let member = self.state.members.get(&request.member_id).ok_or(GroupError::UnknownMemberId)?;
        if member.classic.is_none() && !request.knows_member_epochs {
            return Err(GroupError::UnsupportedVersion);
        }
        if epoch == member.epoch {
            return Ok(());
        }
        let stale = if member.classic.is_some() { GroupError::IllegalGeneration } else { GroupError::StaleMemberEpoch };
        if epoch > member.epoch {
            return Err(stale);
        }
        for topic in &request.topics {
            let id = if topic.id == TopicId::ZERO {
                topics.by_name(&topic.name).map_or(TopicId::ZERO, |(id, _)| id)
            } else {
                topic.id
            };
            for partition in &topic.partitions {
                let owned = [&member.assigned, &member.revoking];
                let since = owned.into_iter().find_map(|owned| owned.get(&id)?.get(&partition.partition));
                if since.is_none_or(|since| epoch < *since) {
                    return Err(stale);
                }
            }
        }
        Ok(())
    }

    /// Whether a member may fetch offsets: with its epoch, as it was told of it.
    pub(super) fn validate_fetch(&self, member_id: Option<&Text>, epoch: i32) -> Result<(), GroupError> {
        let Some(member_id) = member_id else {
            return if epoch < 0 { Ok(()) } else { Err(GroupError::UnknownMemberId) };
        };
        let member = self.shown().members.get(member_id).ok_or(GroupError::UnknownMemberId)?;
        if member.epoch == epoch { Ok(()) } else { Err(GroupError::StaleMemberEpoch) }
    }

    fn session_timer(&self, member: &Text) -> Timer {
        Timer::ConsumerSession { group: self.id.clone(), member: member.clone() }
    }

    fn rebalance_timer(&self, member: &Text) -> Timer {
        Timer::ConsumerRebalance { group: self.id.clone(), member: member.clone() }
    }

    fn cancel_timers(&self, member: &Text, context: &mut Context<'_>) {
        context.timers.cancel(&self.session_timer(member));
        context.timers.cancel(&self.rebalance_timer(member));
    }

    fn heard_of(&self, member: &Text, context: &mut Context<'_>) {
        context.schedule(self.session_timer(member), context.config.consumer_session_timeout);
    }

    /// Every member has its timers; those that run go on.
    pub(super) fn restart_timers(&self, context: &mut Context<'_>) {
        for member in self.state.members.values() {
            if !context.timers.is_scheduled(&self.session_timer(&member.id)) {
                self.heard_of(&member.id, context);
            }
            let timer = self.rebalance_timer(&member.id);
            if member.state == MemberState::UnrevokedPartitions && !context.timers.is_scheduled(&timer) {
                context.schedule(timer, millis(member.rebalance_timeout_ms));
            }
        }
    }

    /// The group leaves this coordinator, or ends.
    pub(super) fn close(&self, context: &mut Context<'_>) {
        for member in self.state.members.keys() {
            self.cancel_timers(member, context);
        }
    }

    pub(super) fn assert_invariants(&self) {
        let state = &self.state;
        for (instance_id, id) in &state.static_members {
            let member = state.members.get(id);
            assert_eq!(
                member.and_then(|member| member.instance_id.as_ref()),
                Some(instance_id),
                "group {}: static members map to members",
                self.id
            );
        }
        let mut owners = BTreeMap::new();
        for member in state.members.values() {
            for (topic, partition) in [&member.assigned, &member.revoking].into_iter().flat_map(each_partition) {
                let other = owners.insert((topic, partition), &member.id);
                assert_eq!(other, None, "group {}: {topic}-{partition} has one owner", self.id);
            }
        }
        assert_eq!(
            self.durable.is_some(),
            !self.in_flight.is_empty(),
            "group {}: a base for what is in flight",
            self.id
        );
    }
}

fn each_partition(owned: &Owned) -> impl Iterator<Item = (TopicId, i32)> {
    owned.iter().flat_map(|(topic, partitions)| partitions.keys().map(move |partition| (*topic, *partition)))
}

fn without_epochs(owned: &Owned) -> Partitions {
    owned.iter().map(|(topic, partitions)| (*topic, partitions.keys().copied().collect())).collect()
}

fn to_topics(partitions: &Partitions) -> Vec<AssignedTopic> {
    let topics = partitions.iter().map(|(id, partitions)| AssignedTopic {
        id: *id,
        partitions: partitions.iter().copied().collect(),
        epochs: None,
    });
    topics.collect()
}

fn from_topics(topics: &[AssignedTopic]) -> Partitions {
    let topics = topics.iter().filter(|topic| !topic.partitions.is_empty());
    topics.map(|topic| (topic.id, topic.partitions.iter().copied().collect())).collect()
}

fn to_topics_with_epochs(owned: &Owned) -> Vec<AssignedTopic> {
    let topics = owned.iter().map(|(id, partitions)| AssignedTopic {
        id: *id,
        partitions: partitions.keys().copied().collect(),
        epochs: Some(partitions.values().copied().collect()),
    });
    topics.collect()
}

/// Records of Kafka before 4.3 have no epochs for each partition: the member's stands in.
fn from_topics_with_epochs(topics: &[AssignedTopic], member_epoch: i32) -> Owned {
    let topics = topics.iter().filter(|topic| !topic.partitions.is_empty());
    topics
        .map(|topic| {
            let epoch = |index| topic.epochs.as_ref().and_then(|epochs| epochs.get(index)).copied();
            let partitions = topic.partitions.iter().enumerate();
            let partitions =
                partitions.map(|(index, partition)| (*partition, epoch(index).unwrap_or(member_epoch))).collect();
            (topic.id, partitions)
        })
        .collect()
}
