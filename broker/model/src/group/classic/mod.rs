//! A group of the classic protocol: members, their protocols and votes, the generation, the state.
//!
//! `join` and `members` answer the requests; `rebalance` holds the two phases (join and sync) and what happens when time runs
//! out. Durable is the group as of its last completed rebalance ([`ClassicGroupValue`]); everything else lives in memory and is
//! made anew by the members themselves.
//! Source: Apache Kafka's `ClassicGroup` and the `classicGroup*` part of `GroupMetadataManager`; KIP-62, KIP-345, KIP-394.

mod join;
mod members;
mod rebalance;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tidegate_records::time::Timestamp;

pub(super) use self::join::StaticReplacement;
use super::{
    GroupError, RequestToken,
    context::{Context, Then, Write, millis},
    record_format::{ClassicGroupValue, ClassicMemberValue, GroupRecord},
    request::{
        DescribedGroup, DescribedMember, GroupAnswer, JoinAnswer, JoinGroup, JoinedMember, ListedGroup, Protocol,
        SyncAnswer, Text,
    },
    subscription::{self, CONSUMER_PROTOCOL_TYPE},
    timers::Timer,
};

/// Where a classic group stands. There is no "Dead": a group that ends is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClassicState {
    /// No members; there may be offsets.
    Empty,
    /// Waits for members to join.
    PreparingRebalance,
    /// Waits for the leader's assignment.
    CompletingRebalance,
    Stable,
}

impl ClassicState {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct ClassicMember {
    pub(super) id: Text,
    instance_id: Option<Text>,
    client_id: Text,
    client_host: Text,
    rebalance_timeout_ms: i32,
    session_timeout_ms: i32,
    protocol_type: Text,
    /// In the order of preference.
    protocols: Vec<Protocol>,
    assignment: Bytes,
    awaiting_join: Option<RequestToken>,
    awaiting_sync: Option<RequestToken>,
    /// Has never been given a generation: its parked JoinGroup times out on its own.
    is_new: bool,
}

impl ClassicMember {
    /// A parked request stands for heartbeats, except for a new member.
    fn has_satisfied_heartbeat(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }

    fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols.iter().find(|(name, _)| **name == *protocol).map(|(_, bytes)| bytes.clone()).unwrap_or_default()
    }
}

/// The delay of a first rebalance: how long the present round lasts, and what is left to extend it.
#[derive(Clone, Copy, Debug)]
struct InitialDelay {
    round_ms: u64,
    remaining_ms: u64,
}

#[derive(Clone, Debug)]
pub(super) struct ClassicGroup {
    pub(super) id: Text,
    /// The partition of `__consumer_offsets`.
    pub(super) partition: i32,
    pub(super) state: ClassicState,
    previous_state: ClassicState,
    state_since: Option<Timestamp>,
    pub(super) protocol_type: Option<Text>,
    protocol_name: Option<Text>,
    pub(super) generation: i32,
    leader: Option<Text>,
    members: BTreeMap<Text, ClassicMember>,
    /// Group instance id to member id.
    static_members: BTreeMap<Text, Text>,
    /// Were given an id and are expected to join with it.
    pending_join: BTreeSet<Text>,
    /// Were given a generation and are expected to sync.
    pending_sync: BTreeSet<Text>,
    /// How many members support each protocol.
    supported: BTreeMap<Text, usize>,
    /// What the members are subscribed to, if they are consumers and it could be read.
    subscribed_topics: Option<BTreeSet<Text>>,
    new_member_added: bool,
    initial_delay: Option<InitialDelay>,
}

impl ClassicGroup {
    pub(super) fn new(id: Text, partition: i32, now: Timestamp) -> Self {
        Self {
            id,
            partition,
            state: ClassicState::Empty,
            previous_state: ClassicState::Empty,
            state_since: Some(now),
            protocol_type: None,
            protocol_name: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_join: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            supported: BTreeMap::new(),
            subscribed_topics: None,
            new_member_added: false,
            initial_delay: None,
        }
    }

    /// The group as a record tells it.
    pub(super) fn from_record(id: Text, partition: i32, value: ClassicGroupValue) -> Self {
        let mut group = Self::new(id, partition, Timestamp::NONE);
        group.state = if value.members.is_empty() { ClassicState::Empty } else { ClassicState::Stable };
        group.state_since = value.current_state_timestamp;
        group.protocol_type = (!value.protocol_type.is_empty()).then(|| value.protocol_type.clone());
        group.protocol_name.clone_from(&value.protocol);
        group.generation = value.generation;
        group.leader = value.leader.filter(|leader| value.members.iter().any(|member| member.member_id == *leader));
        let protocol = value.protocol.unwrap_or_else(|| "".into());
        for member in value.members {
            let rebalance_timeout_ms =
                if member.rebalance_timeout_ms == -1 { member.session_timeout_ms } else { member.rebalance_timeout_ms };
            group.add(ClassicMember {
                id: member.member_id,
                instance_id: member.group_instance_id,
                client_id: member.client_id,
                client_host: member.client_host,
                rebalance_timeout_ms,
                session_timeout_ms: member.session_timeout_ms,
                protocol_type: value.protocol_type.clone(),
                protocols: vec![(protocol.clone(), member.subscription)],
                assignment: member.assignment,
                awaiting_join: None,
                awaiting_sync: None,
                is_new: false,
            });
        }
        group.subscribed_topics = group.read_subscribed_topics();
        group
    }

    /// The group as a record is to tell it, with these assignments.
    fn to_record(&self, mut assignment: impl FnMut(&ClassicMember) -> Bytes) -> GroupRecord {
        let protocol = self.protocol_name.as_deref().unwrap_or_default();
        let members = self.members.values().map(|member| ClassicMemberValue {
            member_id: member.id.clone(),
            group_instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: member.metadata(protocol),
            assignment: assignment(member),
        });
        let value = ClassicGroupValue {
            protocol_type: self.protocol_type.clone().unwrap_or_else(|| "".into()),
            generation: self.generation,
            protocol: self.protocol_name.clone(),
            leader: self.leader.clone(),
            current_state_timestamp: self.state_since,
            members: members.collect(),
        };
        GroupRecord::ClassicGroup { group: self.id.clone(), value: Some(value) }
    }

    /// The group's record with the assignments that it has.
    pub(super) fn record(&self) -> GroupRecord {
        self.to_record(|member| member.assignment.clone())
    }

    /// The first record of a new group: it exists, and nothing more.
    pub(super) fn first_record(&self) -> GroupRecord {
        let value = ClassicGroupValue {
            protocol_type: "".into(),
            generation: 0,
            protocol: None,
            leader: None,
            current_state_timestamp: self.state_since,
            members: Vec::new(),
        };
        GroupRecord::ClassicGroup { group: self.id.clone(), value: Some(value) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state == ClassicState::Empty
    }

    /// Whether no rebalance has been completed since the group was made.
    pub(super) fn has_no_durable_generation(&self) -> bool {
        self.generation <= 1 && self.state != ClassicState::Stable
    }

    pub(super) fn protocol_type_text(&self) -> Text {
        self.protocol_type.clone().unwrap_or_else(|| "".into())
    }

    fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    fn leader_text(&self) -> Text {
        self.leader.clone().unwrap_or_else(|| "".into())
    }

    /// Whether members are consumers, whose subscriptions the coordinator understands.
    pub(super) fn speaks_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL_TYPE)
    }

    /// Where subscriptions are not known, a consumer group counts as subscribed to everything.
    pub(super) fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed_topics {
            Some(topics) => topics.contains(topic),
            None => self.speaks_consumer_protocol(),
        }
    }

    /// From when the retention of this offset counts, or `None` if it does not expire at present (KIP-211).
    pub(super) fn offset_expiry_base(&self, committed: Timestamp) -> Option<Timestamp> {
        match self.state {
            _ if self.protocol_type.is_none() => Some(committed),
            ClassicState::Empty => Some(self.state_since.unwrap_or(committed)),
            ClassicState::Stable if self.speaks_consumer_protocol() && self.subscribed_topics.is_some() => {
                Some(committed)
            }
            _ => None,
        }
    }

    pub(super) fn listed(&self) -> ListedGroup {
        ListedGroup {
            group_id: self.id.clone(),
            protocol_type: self.protocol_type_text(),
            state: self.state.name(),
            group_type: "Classic",
        }
    }

    /// Metadata and assignments are shown of a stable group only.
    pub(super) fn described(&self) -> DescribedGroup {
        let stable_protocol = self.protocol_name.as_deref().filter(|_| self.state == ClassicState::Stable);
        let members = self.members.values().map(|member| DescribedMember {
            member_id: member.id.clone(),
            group_instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: stable_protocol.map(|protocol| member.metadata(protocol)).unwrap_or_default(),
            assignment: if stable_protocol.is_some() { member.assignment.clone() } else { Bytes::new() },
        });
        DescribedGroup {
            group_id: self.id.clone(),
            error: None,
            state: self.state.name(),
            protocol_type: self.protocol_type_text(),
            protocol_data: stable_protocol.unwrap_or_default().into(),
            members: members.collect(),
        }
    }

    fn transition_to(&mut self, state: ClassicState, now: Timestamp) {
        use ClassicState::{CompletingRebalance, Empty, PreparingRebalance, Stable};
        let allowed = match state {
            Empty | CompletingRebalance => self.state == PreparingRebalance,
            PreparingRebalance => self.state != PreparingRebalance,
            Stable => self.state == CompletingRebalance,
        };
        assert!(allowed, "group {} may not go from {:?} to {state:?}", self.id, self.state);
        self.previous_state = self.state;
        self.state = state;
        self.state_since = Some(now);
    }

    fn add(&mut self, member: ClassicMember) {
        if let Some(instance_id) = &member.instance_id {
            let earlier = self.static_members.insert(instance_id.clone(), member.id.clone());
            assert!(earlier.is_none(), "static member {instance_id} is already in group {}", self.id);
        }
        if self.members.is_empty() {
            self.protocol_type = Some(member.protocol_type.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(member.id.clone());
        }
        self.pending_join.remove(&member.id);
        self.count_protocols(&member.protocols);
        self.members.insert(member.id.clone(), member);
    }

    /// Takes a member out, or an id that waits for its member.
    fn remove(&mut self, member_id: &str) -> Option<ClassicMember> {
        let removed = self.members.remove(member_id);
        if let Some(member) = &removed {
            self.uncount_protocols(&member.protocols);
            if let Some(instance_id) = &member.instance_id {
                self.static_members.remove(instance_id);
            }
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
        self.pending_join.remove(member_id);
        self.pending_sync.remove(member_id);
        removed
    }

    fn count_protocols(&mut self, protocols: &[Protocol]) {
        for (name, _) in protocols {
            *self.supported.entry(name.clone()).or_default() += 1;
        }
    }

    fn uncount_protocols(&mut self, protocols: &[Protocol]) {
        for (name, _) in protocols {
            if let Some(count) = self.supported.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.supported.remove(name);
                }
            }
        }
    }

    fn set_protocols(&mut self, member_id: &str, protocols: Vec<Protocol>) {
        let Some(member) = self.members.get_mut(member_id) else { return };
        let earlier = std::mem::replace(&mut member.protocols, protocols.clone());
        self.uncount_protocols(&earlier);
        self.count_protocols(&protocols);
    }

    /// Whether a member with these could be in the group.
    fn supports(&self, protocol_type: &str, protocols: &[Protocol]) -> bool {
        if self.state == ClassicState::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        let by_all = |name: &Text| self.supported.get(name).copied().unwrap_or(0) == self.members.len();
        self.protocol_type.as_deref() == Some(protocol_type) && protocols.iter().any(|(name, _)| by_all(name))
    }

    /// Every member votes for the first of its protocols that all support; the most votes win, then the alphabet.
    fn selected_protocol(&self) -> Option<Text> {
        let by_all = |name: &Text| self.supported.get(name) == Some(&self.members.len());
        let mut votes = BTreeMap::<&Text, usize>::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| by_all(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes.into_iter().rev().max_by_key(|(_, count)| *count).map(|(name, _)| name.clone())
    }

    fn read_subscribed_topics(&self) -> Option<BTreeSet<Text>> {
        if !self.speaks_consumer_protocol() {
            return None;
        }
        let mut topics = BTreeSet::new();
        if self.members.is_empty() {
            return Some(topics);
        }
        let protocol = self.protocol_name.as_deref()?;
        for member in self.members.values() {
            subscription::read_topics(&member.metadata(protocol), &mut topics).ok()?;
        }
        Some(topics)
    }

    /// The maximum over the members.
    fn rebalance_timeout_ms(&self) -> i32 {
        self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0).max(0)
    }

    fn has_all_members_joined(&self) -> bool {
        self.pending_join.is_empty() && self.members.values().all(|member| member.awaiting_join.is_some())
    }

    fn awaiting_join_count(&self) -> usize {
        self.members.values().filter(|member| member.awaiting_join.is_some()).count()
    }

    /// Fences by the group instance id, then by the member id (KIP-345).
    fn validate_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), GroupError> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(GroupError::UnknownMemberId),
                Some(current) if **current != *member_id => return Err(GroupError::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(GroupError::UnknownMemberId) }
    }

    fn answer_join(&mut self, member_id: &str, answer: JoinAnswer, context: &mut Context<'_>) {
        let Some(member) = self.members.get_mut(member_id) else { return };
        if let Some(token) = member.awaiting_join.take() {
            context.answer(token, GroupAnswer::Join(answer));
        }
    }

    /// Says whether there was a parked SyncGroup.
    fn answer_sync(&mut self, member_id: &str, answer: SyncAnswer, context: &mut Context<'_>) -> bool {
        let Some(member) = self.members.get_mut(member_id) else { return false };
        let Some(token) = member.awaiting_sync.take() else { return false };
        context.answer(token, GroupAnswer::Sync(answer));
        true
    }

    fn refuse_parked_join(&mut self, member_id: &str, context: &mut Context<'_>) {
        self.answer_join(member_id, JoinAnswer::refused("".into(), GroupError::UnknownMemberId), context);
    }

    fn session_timer(&self, member_id: &str) -> Timer {
        Timer::ClassicSession { group: self.id.clone(), member: member_id.into() }
    }

    /// The member has been heard of.
    pub(super) fn heard_of(&self, member_id: &str, context: &mut Context<'_>) {
        if let Some(member) = self.members.get(member_id) {
            context.schedule(self.session_timer(member_id), millis(member.session_timeout_ms));
        }
    }

    /// Answers whoever waits, as the group is leaving this coordinator, and forgets the group's timers.
    pub(super) fn close(&mut self, error: GroupError, context: &mut Context<'_>) {
        let ids: Vec<Text> = self.members.keys().chain(&self.pending_join).cloned().collect();
        for id in ids {
            self.answer_join(&id, JoinAnswer::refused(id.clone(), error), context);
            self.answer_sync(&id, SyncAnswer::refused(error), context);
            context.timers.cancel(&self.session_timer(&id));
        }
        self.cancel_phase_timers(context);
    }

    pub(super) fn cancel_phase_timers(&mut self, context: &mut Context<'_>) {
        context.timers.cancel(&Timer::ClassicJoin { group: self.id.clone() });
        context.timers.cancel(&Timer::ClassicSync { group: self.id.clone() });
    }

    /// What the leader is told of all members.
    fn joined_members(&self) -> Vec<JoinedMember> {
        let protocol = self.protocol_name.as_deref().unwrap_or_default();
        let members = self.members.values().map(|member| JoinedMember {
            member_id: member.id.clone(),
            group_instance_id: member.instance_id.clone(),
            metadata: member.metadata(protocol),
        });
        members.collect()
    }

    /// What a member is told when it joined the present generation.
    fn join_answer(&self, member_id: &str) -> JoinAnswer {
        JoinAnswer {
            error: None,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            leader: self.leader_text(),
            skip_assignment: false,
            member_id: member_id.into(),
            members: if self.is_leader(member_id) { self.joined_members() } else { Vec::new() },
        }
    }

    pub(super) fn assert_invariants(&self) {
        assert_eq!(self.members.is_empty(), self.leader.is_none(), "group {}: a leader, if members", self.id);
        assert!(
            self.members.is_empty() || self.state != ClassicState::Empty,
            "group {} is empty and has members",
            self.id
        );
        for id in &self.pending_sync {
            assert!(self.members.contains_key(id), "group {} waits for the sync of a stranger", self.id);
        }
        for (instance_id, id) in &self.static_members {
            let member = self.members.get(id);
            assert_eq!(
                member.and_then(|member| member.instance_id.as_ref()),
                Some(instance_id),
                "group {}: static members map to members",
                self.id
            );
        }
    }
}
