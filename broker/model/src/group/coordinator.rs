//! The dispatch of the coordinator: which group, whether it is ours, what became of writes, which timers are due.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_records::time::{Instant, Now};

use super::{
    GroupEffect, GroupInput, PersistToken, RequestToken, StoredRecord,
    classic::ClassicGroup,
    config::GroupConfig,
    consumer::{ConsumerGroup, Draft, Settled, Topics},
    context::{Context, Ledger, MemberIds, Then, Write},
    error::{GroupError, PersistError},
    offsets::Offsets,
    partition_for,
    record_format::{GroupRecord, OffsetCommitValue},
    request::{GroupAnswer, GroupRequest, Text},
    timers::{Timer, Timers},
    topics::TopicsImage,
};

mod commits;
mod requests;

/// A group of either protocol.
#[derive(Clone, Debug)]
pub(super) enum Group {
    Classic(ClassicGroup),
    Consumer(ConsumerGroup),
}

impl Group {
    pub(super) fn id(&self) -> &Text {
        match self {
            Self::Classic(group) => &group.id,
            Self::Consumer(group) => &group.id,
        }
    }

    /// A write in flight that the group's state depends on: the group is not removed before its fate is known.
    fn last_write(&self) -> Option<PersistToken> {
        match self {
            Self::Classic(_) => None,
            Self::Consumer(group) => group.last_write(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Classic(group) => group.is_empty(),
            Self::Consumer(group) => group.is_empty(),
        }
    }

    /// The records that make the group unknown.
    fn tombstones(&self) -> Vec<GroupRecord> {
        match self {
            Self::Classic(group) => vec![GroupRecord::ClassicGroup { group: group.id.clone(), value: None }],
            Self::Consumer(group) => group.tombstones(),
        }
    }

    /// Answers whoever waits, and forgets the timers.
    fn close(&mut self, error: GroupError, context: &mut Context<'_>) {
        match self {
            Self::Classic(group) => group.close(error, context),
            // Who waits for a write of its is answered with that write.
            Self::Consumer(group) => group.close(context),
        }
    }

    fn is_subscribed_to(&self, topic: &str) -> bool {
        match self {
            Self::Classic(group) => group.is_subscribed_to(topic),
            Self::Consumer(group) => group.is_subscribed_to(topic),
        }
    }
}

/// Where a partition of `__consumer_offsets` stands.
#[derive(Debug)]
enum Partition {
    /// With the groups that were met so far.
    Loading(BTreeSet<Text>),
    Active,
}

/// A request that waits until earlier writes of its groups are durable.
#[derive(Debug)]
struct Parked {
    until: BTreeSet<PersistToken>,
    token: RequestToken,
    request: GroupRequest,
}

/// A DeleteGroups whose writes are in flight.
#[derive(Debug)]
struct Deletion {
    writes: usize,
    outcomes: Vec<(Text, Option<GroupError>)>,
}

/// Everything besides the groups: what a [`Context`] is made of.
#[derive(Debug)]
struct Core {
    config: GroupConfig,
    timers: Timers,
    ledger: Ledger,
    member_ids: MemberIds,
}

impl Core {
    fn context<'a>(&'a mut self, now: Now, effects: &'a mut Vec<GroupEffect>) -> Context<'a> {
        Context {
            now,
            config: &self.config,
            timers: &mut self.timers,
            ledger: &mut self.ledger,
            member_ids: &mut self.member_ids,
            effects,
        }
    }
}

/// The coordinator of the groups in some partitions of `__consumer_offsets`.
#[derive(Debug)]
pub struct GroupCoordinator {
    groups: BTreeMap<Text, Group>,
    offsets: Offsets,
    partitions: BTreeMap<i32, Partition>,
    topics: TopicsImage,
    /// Counts the images of topics.
    topics_version: i64,
    parked: Vec<Parked>,
    deletions: BTreeMap<RequestToken, Deletion>,
    /// Groups that are deleted in memory, by a write in flight. Who would make them anew waits for it.
    removing: BTreeMap<Text, PersistToken>,
    core: Core,
}

impl GroupCoordinator {
    /// A coordinator without partitions. Member ids are made from `seed`, which must differ from start to start.
    ///
    /// # Panics
    /// If the settings have no partitions.
    #[must_use]
    pub fn new(config: GroupConfig, seed: u128) -> Self {
        assert!(config.offsets_partitions > 0, "__consumer_offsets has at least one partition");
        let core =
            Core { config, timers: Timers::default(), ledger: Ledger::default(), member_ids: MemberIds::new(seed) };
        Self {
            groups: BTreeMap::new(),
            offsets: Offsets::default(),
            partitions: BTreeMap::new(),
            topics: TopicsImage::default(),
            topics_version: 0,
            parked: Vec::new(),
            deletions: BTreeMap::new(),
            removing: BTreeMap::new(),
            core,
        }
    }

    /// When [`GroupInput::Tick`] is due next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.core.timers.next_deadline()
    }

    /// Every durable offset: group, topic, partition, what was committed.
    pub fn committed(&self) -> impl Iterator<Item = (&Text, &Text, i32, &OffsetCommitValue)> {
        self.offsets.all_committed()
    }

    /// Whether all partitions of the offsets topic that are served here have been read.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.partitions.values().all(|partition| matches!(partition, Partition::Active))
    }

    /// The groups that there are, with the name of their state.
    pub fn groups(&self) -> impl Iterator<Item = (&Text, &'static str)> {
        self.groups.iter().map(|(id, group)| match group {
            Group::Classic(group) => (id, group.state.name()),
            Group::Consumer(group) => (id, group.state_name()),
        })
    }

    /// The one entry: takes in what happened, puts out what is to be done.
    pub fn step(&mut self, now: Now, input: GroupInput, effects: &mut Vec<GroupEffect>) {
        match input {
            GroupInput::Request { token, request } => self.request(now, token, request, effects),
            GroupInput::Persisted { token, result } => self.persisted(now, token, result, effects),
            GroupInput::LoadStart { partition } => self.load_start(now, partition, effects),
            GroupInput::Loaded { partition, records } => self.loaded(now, partition, records, effects),
            GroupInput::LoadEnd { partition } => self.load_end(now, partition, effects),
            GroupInput::Unload { partition } => self.unload(now, partition, effects),
            GroupInput::Topics(topics) => self.topics_changed(now, topics, effects),
            GroupInput::Tick => self.tick(now, effects),
        }
    }

    fn partition_of(&self, group_id: &str) -> i32 {
        partition_for(group_id, self.core.config.offsets_partitions)
    }

    /// Whether the group's partition is served here, now.
    fn owned(&self, group_id: &str) -> Result<i32, GroupError> {
        let partition = self.partition_of(group_id);
        match self.partitions.get(&partition) {
            Some(Partition::Active) => Ok(partition),
            Some(Partition::Loading(_)) => Err(GroupError::CoordinatorLoadInProgress),
            None => Err(GroupError::NotCoordinator),
        }
    }

    fn load_start(&mut self, now: Now, partition: i32, effects: &mut Vec<GroupEffect>) {
        if self.partitions.contains_key(&partition) {
            self.unload(now, partition, effects);
        }
        self.partitions.insert(partition, Partition::Loading(BTreeSet::new()));
    }

    fn loaded(&mut self, now: Now, partition: i32, records: Vec<StoredRecord>, effects: &mut Vec<GroupEffect>) {
        for StoredRecord { offset, key, value } in records {
            match GroupRecord::decode(key, value) {
                Ok(Some(record)) => {
                    if let Some(Partition::Loading(groups)) = self.partitions.get_mut(&partition) {
                        groups.insert(record.group().clone());
                        self.replay(now, partition, record);
                    }
                }
                Ok(None) => {}
                Err(error) => effects.push(GroupEffect::Unreadable { partition, offset, error }),
            }
        }
    }

    /// Takes over a record of the log.
    fn replay(&mut self, now: Now, partition: i32, record: GroupRecord) {
        match record {
            GroupRecord::OffsetCommit { group, topic, partition: index, value } => {
                if value.is_some() {
                    self.ensure_group(now, partition, &group);
                }
                self.offsets.replay(group, topic, index, value);
            }
            GroupRecord::ClassicGroup { group, value: None } => {
                self.groups.remove(&group);
            }
            GroupRecord::ClassicGroup { group, value: Some(value) } => {
                let loaded = ClassicGroup::from_record(group.clone(), partition, value);
                self.groups.insert(group, Group::Classic(loaded));
            }
            // The end of something that compaction has taken away already.
            record if record.is_tombstone() && !matches!(self.groups.get(record.group()), Some(Group::Consumer(_))) => {
            }
            GroupRecord::ConsumerGroup { group, value: None } => {
                self.groups.remove(&group);
            }
            record => {
                let id = record.group().clone();
                let group = self
                    .groups
                    .entry(id.clone())
                    .or_insert_with(|| Group::Consumer(ConsumerGroup::new(id.clone(), partition)));
                // Offsets that stand before the group's own records made it a simple one.
                if matches!(group, Group::Classic(_)) {
                    *group = Group::Consumer(ConsumerGroup::new(id, partition));
                }
                if let Group::Consumer(group) = group {
                    group.replay(&record);
                }
            }
        }
    }

    /// Offsets without a group make a simple one: an empty classic group without a protocol type.
    fn ensure_group(&mut self, now: Now, partition: i32, id: &Text) {
        if !self.groups.contains_key(id) {
            let group = ClassicGroup::new(id.clone(), partition, now.wall);
            self.groups.insert(id.clone(), Group::Classic(group));
        }
    }

    fn load_end(&mut self, now: Now, partition: i32, effects: &mut Vec<GroupEffect>) {
        let Some(Partition::Loading(ids)) = self.partitions.insert(partition, Partition::Active) else { return };
        if !self.core.timers.is_scheduled(&Timer::Expiration) {
            let interval = self.core.config.offsets_retention_check_interval;
            self.core.timers.schedule(Timer::Expiration, now.instant + interval);
        }
        let mut context = self.core.context(now, effects);
        for id in ids {
            match self.groups.get_mut(&id) {
                Some(Group::Classic(group)) => group.loaded(&mut context),
                Some(Group::Consumer(group)) => group.restart_timers(&mut context),
                None => {}
            }
        }
    }

    fn unload(&mut self, now: Now, partition: i32, effects: &mut Vec<GroupEffect>) {
        let error = GroupError::NotCoordinator;
        self.partitions.remove(&partition);
        for (token, write) in self.core.ledger.abandon(partition) {
            self.settle(now, token, write, Err(PersistError::NotLeader), effects);
        }
        let partitions = self.core.config.offsets_partitions;
        let is_gone = |id: &Text| partition_for(id, partitions) == partition;
        let mut context = self.core.context(now, effects);
        self.groups.retain(|id, group| {
            let gone = is_gone(id);
            if gone {
                group.close(error, &mut context);
            }
            !gone
        });
        self.offsets.forget(is_gone);
    }

    fn persisted(
        &mut self,
        now: Now,
        token: PersistToken,
        result: Result<(), PersistError>,
        effects: &mut Vec<GroupEffect>,
    ) {
        if let Some(write) = self.core.ledger.close(token) {
            self.settle(now, token, write, result, effects);
        }
    }

    /// The fate of a write is known: the state follows, then the answers.
    fn settle(
        &mut self,
        now: Now,
        token: PersistToken,
        write: Write,
        result: Result<(), PersistError>,
        effects: &mut Vec<GroupEffect>,
    ) {
        let result = result.map_err(GroupError::from);
        for key in &write.offsets {
            self.offsets.settle(key, token, result.is_ok());
        }
        for (request, answer) in write.answers {
            let answer = match result {
                Ok(()) => answer,
                Err(error) => answer.failed(error),
            };
            effects.push(GroupEffect::Answer { token: request, answer });
        }
        let mut context = self.core.context(now, effects);
        let group = write.group.as_ref().and_then(|id| self.groups.get_mut(id));
        match (write.then, group) {
            (Then::Nothing, _) => {}
            (Then::ClassicCreated { replaced }, Some(Group::Classic(group))) => {
                if let Err(error) = result
                    && group.has_no_durable_generation()
                    // A later record of the group may still become durable.
                    && context.ledger.latest_of(&group.id).is_none()
                {
                    group.close(error, &mut context);
                    let id = group.id.clone();
                    self.groups.remove(&id);
                    self.groups.extend(replaced.map(|group| (id, *group)));
                }
            }
            (Then::ConsumerChanged { replaced }, Some(Group::Consumer(group))) => {
                if group.settle(token, result.is_ok(), &mut context) == Settled::NeverWas {
                    let id = group.id.clone();
                    self.groups.remove(&id);
                    self.groups.extend(replaced.map(|group| (id, *group)));
                }
            }
            (Then::ClassicSynced { generation, assignments }, Some(Group::Classic(group))) => {
                group.synced(generation, assignments, result, &mut context);
            }
            (Then::ClassicStaticReplaced(replacement), Some(Group::Classic(group))) => {
                group.static_replaced(*replacement, result, &mut context);
            }
            (Then::GroupsRemoved { request, groups }, _) => self.groups_removed(request, groups, result, effects),
            (
                Then::ClassicCreated { .. }
                | Then::ClassicSynced { .. }
                | Then::ClassicStaticReplaced(_)
                | Then::ConsumerChanged { .. },
                _,
            ) => {}
        }
        self.wake_parked(now, token, effects);
    }

    fn groups_removed(
        &mut self,
        request: Option<RequestToken>,
        groups: Vec<Group>,
        result: Result<(), GroupError>,
        effects: &mut Vec<GroupEffect>,
    ) {
        let ids: Vec<Text> = groups.iter().map(|group| group.id().clone()).collect();
        for id in &ids {
            self.removing.remove(id);
        }
        if result.is_err() {
            for group in groups {
                self.groups.entry(group.id().clone()).or_insert(group);
            }
        }
        let Some(request) = request else { return };
        let Some(deletion) = self.deletions.get_mut(&request) else { return };
        if let Err(error) = result {
            for (_, outcome) in deletion.outcomes.iter_mut().filter(|(id, _)| ids.contains(id)) {
                *outcome = Some(error);
            }
        }
        deletion.writes -= 1;
        if deletion.writes == 0
            && let Some(deletion) = self.deletions.remove(&request)
        {
            effects.push(GroupEffect::Answer { token: request, answer: GroupAnswer::Delete(deletion.outcomes) });
        }
    }

    fn wake_parked(&mut self, now: Now, token: PersistToken, effects: &mut Vec<GroupEffect>) {
        let mut ready = Vec::new();
        self.parked.retain_mut(|parked| {
            parked.until.remove(&token);
            let is_ready = parked.until.is_empty();
            if is_ready {
                ready.push((parked.token, parked.request.clone()));
            }
            !is_ready
        });
        for (token, request) in ready {
            self.request(now, token, request, effects);
        }
    }

    fn tick(&mut self, now: Now, effects: &mut Vec<GroupEffect>) {
        while let Some(timer) = self.core.timers.pop_due(now.instant) {
            if timer == Timer::Expiration {
                self.expire(now, effects);
                let interval = self.core.config.offsets_retention_check_interval;
                self.core.timers.schedule(Timer::Expiration, now.instant + interval);
                continue;
            }
            let mut context = self.core.context(now, effects);
            match timer {
                Timer::ClassicSession { group, member } => {
                    if let Some(Group::Classic(group)) = self.groups.get_mut(&group) {
                        group.session_expired(&member, &mut context);
                        group.assert_invariants();
                    }
                }
                Timer::ClassicJoin { group } => {
                    if let Some(Group::Classic(group)) = self.groups.get_mut(&group) {
                        group.join_expired(&mut context);
                        group.assert_invariants();
                    }
                }
                Timer::ClassicSync { group } => {
                    if let Some(Group::Classic(group)) = self.groups.get_mut(&group) {
                        group.sync_expired(&mut context);
                        group.assert_invariants();
                    }
                }
                Timer::ConsumerSession { ref group, ref member }
                | Timer::ConsumerRebalance { ref group, ref member } => {
                    if let Some(Group::Consumer(group)) = self.groups.get_mut(group) {
                        let topics = Topics { image: &self.topics, version: self.topics_version };
                        let draft = group.expired(&timer, member, &topics, &mut context);
                        persist_draft(group, draft, Vec::new(), None, &mut context);
                        group.assert_invariants();
                    }
                }
                Timer::Expiration => unreachable!("handled above"),
            }
        }
    }

    fn topics_changed(&mut self, now: Now, topics: TopicsImage, effects: &mut Vec<GroupEffect>) {
        let before = std::mem::replace(&mut self.topics, topics);
        if before == self.topics {
            return;
        }
        self.topics_version += 1;
        for group in self.groups.values_mut() {
            if let Group::Consumer(group) = group {
                group.topics_changed();
            }
        }
        self.forget_deleted_topics(now, &before, effects);
    }
}

/// Hands the records of a consumer group to the log, if there are any; `answers` go with them. The records of `before` stand
/// first; they end the group `replaced`.
fn persist_draft(
    group: &mut ConsumerGroup,
    draft: Draft,
    answers: Vec<(RequestToken, GroupAnswer)>,
    replaced: Option<Box<Group>>,
    context: &mut Context<'_>,
) {
    if draft.records.is_empty() {
        // Nothing may be told that a write in flight could still take back.
        match group.last_write() {
            Some(write) => {
                answers.into_iter().for_each(|(token, answer)| context.ledger.answer_with(write, token, answer))
            }
            None => answers.into_iter().for_each(|(token, answer)| context.answer(token, answer)),
        }
        return;
    }
    let mut records = replaced.as_ref().map(|replaced| replaced.tombstones()).unwrap_or_default();
    records.extend(draft.records.iter().cloned());
    let write =
        Write { group: Some(group.id.clone()), offsets: Vec::new(), answers, then: Then::ConsumerChanged { replaced } };
    let token = context.persist(group.partition, &records, write);
    group.begin(token, draft);
}
