//! The consumer protocol, seen from its members.

use std::collections::BTreeMap;

use tidegate_records::ids::TopicId;

use super::*;

pub(super) const T: TopicId = TopicId([1; 16]);
const U: TopicId = TopicId([2; 16]);

/// Settings that compute an assignment whenever there is something to assign.
pub(super) fn eager() -> GroupConfig {
    GroupConfig { consumer_assignment_interval: Duration::ZERO, ..prompt() }
}

/// A member that follows the protocol: it gives up what it is told to, takes what it gets, and says so.
#[derive(Clone, Debug)]
pub(super) struct Consumer {
    pub(super) id: Text,
    instance_id: Option<Text>,
    pub(super) epoch: i32,
    names: Vec<Text>,
    regex: Option<Text>,
    assignor: Option<Text>,
    pub(super) owned: BTreeMap<TopicId, Vec<i32>>,
}

impl Consumer {
    pub(super) fn new(id: &str, names: &[&str]) -> Self {
        Self {
            id: text(id),
            instance_id: None,
            epoch: 0,
            names: names.iter().map(|name| text(name)).collect(),
            regex: None,
            assignor: None,
            owned: BTreeMap::new(),
        }
    }

    fn with_instance(self, instance_id: &str) -> Self {
        Self { instance_id: Some(text(instance_id)), ..self }
    }

    fn with_regex(self, regex: &str) -> Self {
        Self { regex: Some(text(regex)), ..self }
    }

    fn with_assignor(self, assignor: &str) -> Self {
        Self { assignor: Some(text(assignor)), ..self }
    }

    /// A heartbeat with all fields.
    pub(super) fn full(&self) -> ConsumerHeartbeat {
        ConsumerHeartbeat {
            group_id: text("g"),
            member_id: self.id.clone(),
            member_epoch: self.epoch,
            instance_id: self.instance_id.clone(),
            rack_id: None,
            rebalance_timeout_ms: 60_000,
            subscribed_topic_names: Some(self.names.clone()),
            subscribed_topic_regex: self.regex.clone(),
            server_assignor: self.assignor.clone(),
            topic_partitions: Some(self.owned.clone().into_iter().collect()),
            client_id: text("client"),
            client_host: text("/127.0.0.1"),
            member_makes_id: true,
        }
    }

    fn epoch(&self, epoch: i32) -> ConsumerHeartbeat {
        ConsumerHeartbeat { member_epoch: epoch, ..self.full() }
    }

    /// Takes the answer over; says whether anything has changed.
    pub(super) fn take(&mut self, answer: &ConsumerHeartbeatAnswer) -> bool {
        let before = (self.epoch, self.owned.clone());
        self.epoch = answer.member_epoch;
        if let Some(assignment) = &answer.assignment {
            self.owned = assignment.iter().cloned().collect();
        }
        before != (self.epoch, self.owned.clone())
    }

    fn partitions(&self) -> Vec<(TopicId, i32)> {
        self.owned.iter().flat_map(|(topic, all)| all.iter().map(move |partition| (*topic, *partition))).collect()
    }
}

impl Rig {
    pub(super) fn with_topics(config: GroupConfig, topics: &[(&str, TopicId, i32)]) -> Self {
        let mut rig = Self::new(config);
        rig.topics(topics);
        rig
    }

    pub(super) fn topics(&mut self, topics: &[(&str, TopicId, i32)]) {
        let image = TopicsImage::new(topics.iter().map(|(name, id, partitions)| (text(name), *id, *partitions)));
        self.step(GroupInput::Topics(image));
    }

    fn beat_with(&mut self, heartbeat: ConsumerHeartbeat) -> ConsumerHeartbeatAnswer {
        let token = self.ask(GroupRequest::ConsumerHeartbeat(heartbeat));
        match self.answered(token) {
            GroupAnswer::ConsumerHeartbeat(answer) => *answer,
            other => panic!("a heartbeat is answered: {other:?}"),
        }
    }

    /// One heartbeat of a member that goes well.
    fn beat(&mut self, consumer: &mut Consumer) -> bool {
        let answer = self.beat_with(consumer.full());
        assert_eq!((answer.error, &answer.error_message), (None, &None));
        consumer.take(&answer)
    }

    /// Heartbeats until nothing changes.
    fn converge(&mut self, consumers: &mut [Consumer]) {
        for _ in 0..50 {
            let changes = consumers.iter_mut().map(|consumer| self.beat(consumer)).filter(|changed| *changed).count();
            if changes == 0 && self.state("g") == Some("Stable") {
                return;
            }
        }
        panic!("the group does not come to rest");
    }

    fn described(&mut self) -> DescribedConsumerGroup {
        let token = self.ask(GroupRequest::ConsumerDescribe(vec![text("g")]));
        match self.answered(token) {
            GroupAnswer::ConsumerDescribe(mut groups) => groups.remove(0),
            other => panic!("a description: {other:?}"),
        }
    }
}

fn sizes(consumers: &[Consumer]) -> Vec<usize> {
    consumers.iter().map(|consumer| consumer.partitions().len()).collect()
}

#[test]
fn one_member_gets_everything_at_once() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 3)]);
    let mut consumer = Consumer::new("a", &["t"]);
    let answer = rig.beat_with(consumer.full());
    assert_eq!((answer.member_epoch, answer.heartbeat_interval_ms), (1, 5000));
    assert_eq!(answer.assignment, Some(vec![(T, vec![0, 1, 2])]));
    consumer.take(&answer);
    // A heartbeat in which nothing is new gets an answer in which nothing is new, and writes nothing.
    let writes = rig.log.len();
    let short = ConsumerHeartbeat {
        rebalance_timeout_ms: -1,
        subscribed_topic_names: None,
        topic_partitions: None,
        ..consumer.full()
    };
    let answer = rig.beat_with(short);
    assert_eq!((answer.member_epoch, answer.assignment), (1, None));
    assert_eq!((rig.log.len(), rig.state("g")), (writes, Some("Stable")));
}

#[test]
fn a_partition_changes_hands_only_when_it_was_given_up() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 4)]);
    let mut first = Consumer::new("a", &["t"]);
    rig.beat(&mut first);
    let mut second = Consumer::new("b", &["t"]);
    rig.beat(&mut second);
    assert_eq!((second.epoch, second.partitions().len()), (2, 0), "everything is still owned");
    assert_eq!(rig.state("g"), Some("Reconciling"));
    // The first one learns what to give up, and stays at its epoch until it has.
    let answer = rig.beat_with(first.full());
    assert_eq!((answer.member_epoch, answer.assignment.clone()), (1, Some(vec![(T, vec![0, 1])])));
    rig.beat(&mut second);
    assert_eq!(second.partitions(), []);
    assert_eq!(rig.beat_with(first.full()).member_epoch, 1, "it still reports them");
    first.take(&answer);
    rig.beat(&mut first);
    assert_eq!(first.epoch, 2);
    rig.beat(&mut second);
    assert_eq!(second.partitions(), [(T, 2), (T, 3)]);
    assert_eq!(rig.state("g"), Some("Stable"));
}

#[test]
fn members_come_and_go_and_everything_stays_assigned_evenly() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 7), ("u", U, 5)]);
    let mut consumers = vec![Consumer::new("a", &["t", "u"])];
    rig.converge(&mut consumers);
    assert_eq!(sizes(&consumers), [12]);
    for id in ["b", "c", "d", "e"] {
        consumers.push(Consumer::new(id, &["t", "u"]));
        rig.converge(&mut consumers);
        let (least, most) = (sizes(&consumers).into_iter().min(), sizes(&consumers).into_iter().max());
        assert!(most <= least.map(|least| least + 1), "{:?}", sizes(&consumers));
    }
    let leaving = consumers.remove(1);
    assert_eq!(rig.beat_with(leaving.epoch(-1)).error, None);
    rig.converge(&mut consumers);
    assert_eq!(sizes(&consumers).iter().sum::<usize>(), 12);
}

#[test]
fn a_member_that_falls_silent_loses_its_partitions() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 4)]);
    let mut consumers = vec![Consumer::new("a", &["t"]), Consumer::new("b", &["t"])];
    rig.converge(&mut consumers);
    let silent = consumers.remove(0);
    for _ in 0..10 {
        rig.advance(Duration::from_secs(5));
        rig.beat(&mut consumers[0]);
    }
    rig.converge(&mut consumers);
    assert_eq!(sizes(&consumers), [4]);
    let answer = rig.beat_with(silent.full());
    assert_eq!(answer.error, Some(GroupError::UnknownMemberId));
    assert_eq!(answer.error_message.as_deref(), Some("Member a is not a member of group g."));
}

#[test]
fn a_member_that_does_not_give_up_its_partitions_in_time_is_fenced() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 4)]);
    let mut first = Consumer::new("a", &["t"]);
    rig.beat(&mut first);
    let mut second = Consumer::new("b", &["t"]);
    rig.beat(&mut second);
    // It goes on beating, but owns what it should not.
    for _ in 0..12 {
        rig.advance(Duration::from_secs(5));
        rig.beat_with(first.full());
        rig.beat(&mut second);
    }
    rig.advance(Duration::from_secs(5));
    assert_eq!(rig.beat_with(first.full()).error, Some(GroupError::UnknownMemberId));
    rig.converge(std::slice::from_mut(&mut second));
    assert_eq!(second.partitions().len(), 4);
}

#[test]
fn epochs_that_are_not_the_members_are_fenced() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 2)]);
    let mut consumer = Consumer::new("a", &["t"]);
    rig.beat(&mut consumer);
    let mut other = Consumer::new("b", &["t"]);
    rig.beat(&mut other);
    rig.converge(&mut [consumer.clone(), other]);
    let check = |rig: &mut Rig, heartbeat, expected| assert_eq!(rig.beat_with(heartbeat).error, expected);
    check(&mut rig, consumer.epoch(9), Some(GroupError::FencedMemberEpoch));
    // The answer with the new epoch may have been lost: the last epoch is good if nothing else is owned.
    let previous = ConsumerHeartbeat { topic_partitions: Some(vec![(T, vec![0])]), ..consumer.epoch(1) };
    check(&mut rig, previous.clone(), None);
    let more = ConsumerHeartbeat { topic_partitions: Some(vec![(T, vec![0, 1])]), ..previous };
    check(&mut rig, more, Some(GroupError::FencedMemberEpoch));
    // Epoch 0 joins again.
    let again = ConsumerHeartbeat { topic_partitions: Some(Vec::new()), ..consumer.epoch(0) };
    check(&mut rig, again, None);
}

#[test]
fn heartbeats_that_are_not_valid_are_refused_with_kafkas_words() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 2)]);
    let consumer = Consumer::new("a", &["t"]);
    let mut check = |heartbeat, error, message: &str| {
        let answer = rig.beat_with(heartbeat);
        assert_eq!((answer.error, answer.error_message.as_deref()), (Some(error), Some(message)));
    };
    let full = || consumer.full();
    let invalid = GroupError::InvalidRequest;
    check(ConsumerHeartbeat { member_id: text(""), ..full() }, invalid, "MemberId can't be empty.");
    check(ConsumerHeartbeat { group_id: text(""), ..full() }, invalid, "GroupId can't be empty.");
    check(ConsumerHeartbeat { instance_id: Some(text("")), ..full() }, invalid, "InstanceId can't be empty.");
    check(ConsumerHeartbeat { rack_id: Some(text("")), ..full() }, invalid, "RackId can't be empty.");
    check(
        ConsumerHeartbeat { rebalance_timeout_ms: -1, ..full() },
        invalid,
        "RebalanceTimeoutMs must be provided in first request.",
    );
    check(
        ConsumerHeartbeat { topic_partitions: None, ..full() },
        invalid,
        "TopicPartitions must be empty when (re-)joining.",
    );
    check(
        ConsumerHeartbeat { subscribed_topic_names: None, ..full() },
        invalid,
        "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
    );
    check(consumer.epoch(-2), invalid, "InstanceId can't be null.");
    check(consumer.epoch(-3), invalid, "MemberEpoch is invalid.");
    check(
        ConsumerHeartbeat { server_assignor: Some(text("mine")), ..full() },
        GroupError::UnsupportedAssignor,
        "ServerAssignor mine is not supported. Supported assignors: uniform, range.",
    );
    check(consumer.epoch(3), GroupError::GroupIdNotFound, "Group g not found.");
    let regex = rig.beat_with(consumer.clone().with_regex("(").full());
    assert_eq!(regex.error, Some(GroupError::InvalidRegularExpression));
    let regex = rig.beat_with(consumer.with_regex("a)|(b").full());
    assert_eq!(regex.error, Some(GroupError::InvalidRegularExpression));
    assert_eq!(rig.state("g"), None, "a refused member makes no group");
}

#[test]
fn the_coordinator_makes_the_id_of_an_old_member() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 2)]);
    let heartbeat = ConsumerHeartbeat { member_makes_id: false, ..Consumer::new("", &["t"]).full() };
    let answer = rig.beat_with(heartbeat);
    assert_eq!(answer.member_id.map(|id| id.len()), Some(36));
}

#[test]
fn a_full_group_takes_nobody_else() {
    let mut rig = Rig::with_topics(GroupConfig { consumer_max_size: 1, ..eager() }, &[("t", T, 2)]);
    let mut consumer = Consumer::new("a", &["t"]);
    rig.beat(&mut consumer);
    rig.beat(&mut consumer);
    let answer = rig.beat_with(Consumer::new("b", &["t"]).full());
    assert_eq!(answer.error, Some(GroupError::GroupMaxSizeReached));
}

#[test]
fn a_static_member_gets_its_partitions_back_under_a_new_id() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 4)]);
    let mut consumers = vec![Consumer::new("a", &["t"]).with_instance("one"), Consumer::new("b", &["t"])];
    rig.converge(&mut consumers);
    let before = consumers[0].partitions();
    // As long as it is there, nobody takes its place.
    let usurper = Consumer::new("x", &["t"]).with_instance("one");
    assert_eq!(rig.beat_with(usurper.full()).error, Some(GroupError::UnreleasedInstanceId));
    assert_eq!(rig.beat_with(consumers[0].epoch(-2)).member_epoch, -2);
    assert_eq!(rig.described().members.len(), 2, "its place is kept");
    let mut back = Consumer::new("c", &["t"]).with_instance("one");
    rig.beat(&mut back);
    assert_eq!(back.partitions(), before);
    assert_eq!(rig.state("g"), Some("Stable"), "and nobody else noticed");
    // The earlier self is fenced by name, and unknown without it.
    assert_eq!(rig.beat_with(consumers[0].full()).error, Some(GroupError::FencedInstanceId));
    let nameless = ConsumerHeartbeat { instance_id: None, ..consumers[0].full() };
    assert_eq!(rig.beat_with(nameless).error, Some(GroupError::UnknownMemberId));
}

#[test]
fn a_static_member_that_does_not_come_back_loses_its_place() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 4)]);
    let mut consumers = vec![Consumer::new("b", &["t"]), Consumer::new("a", &["t"]).with_instance("one")];
    rig.converge(&mut consumers);
    rig.beat_with(consumers[1].epoch(-2));
    consumers.truncate(1);
    for _ in 0..10 {
        rig.advance(Duration::from_secs(5));
        rig.beat(&mut consumers[0]);
    }
    rig.converge(&mut consumers);
    assert_eq!(sizes(&consumers), [4]);
}

#[test]
fn new_partitions_and_topics_are_assigned() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 2)]);
    let mut consumers = vec![Consumer::new("a", &["t", "u"]), Consumer::new("b", &["t", "u"])];
    rig.converge(&mut consumers);
    assert_eq!(sizes(&consumers), [1, 1]);
    rig.topics(&[("t", T, 4)]);
    rig.converge(&mut consumers);
    assert_eq!(sizes(&consumers), [2, 2]);
    rig.topics(&[("t", T, 4), ("u", U, 2)]);
    rig.converge(&mut consumers);
    assert_eq!(sizes(&consumers), [3, 3]);
    rig.topics(&[("u", U, 2)]);
    rig.converge(&mut consumers);
    assert_eq!(sizes(&consumers), [1, 1]);
}

#[test]
fn a_regular_expression_follows_the_topics() {
    let mut rig = Rig::with_topics(eager(), &[("logs-a", T, 1), ("other-logs-a", TopicId([9; 16]), 1)]);
    let mut consumer = Consumer::new("a", &[]).with_regex("logs-.*");
    rig.converge(std::slice::from_mut(&mut consumer));
    assert_eq!(consumer.partitions(), [(T, 0)], "the whole name must match");
    rig.topics(&[("logs-a", T, 1), ("logs-b", U, 2), ("other", TopicId([9; 16]), 1)]);
    rig.converge(std::slice::from_mut(&mut consumer));
    assert_eq!(consumer.partitions(), [(T, 0), (U, 0), (U, 1)]);
    consumer.regex = Some(text(""));
    consumer.names = vec![text("other")];
    rig.converge(std::slice::from_mut(&mut consumer));
    assert_eq!(consumer.partitions(), [(TopicId([9; 16]), 0)]);
    let mut group = rig.described();
    assert_eq!(group.members.remove(0).subscribed_topic_regex, Some(text("")));
}

#[test]
fn a_member_that_unsubscribes_gives_the_topic_up_at_once() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 1), ("u", U, 1)]);
    let mut consumer = Consumer::new("a", &["t", "u"]);
    rig.converge(std::slice::from_mut(&mut consumer));
    consumer.names = vec![text("u")];
    rig.converge(std::slice::from_mut(&mut consumer));
    assert_eq!(consumer.partitions(), [(U, 0)]);
}

#[test]
fn ranges_of_all_topics_go_to_the_same_member() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 5), ("u", U, 5)]);
    let mut consumers = ["a", "b"].map(|id| Consumer::new(id, &["t", "u"]).with_assignor("range"));
    rig.converge(&mut consumers);
    assert_eq!(consumers[0].owned, BTreeMap::from([(T, vec![0, 1, 2]), (U, vec![0, 1, 2])]));
    assert_eq!(consumers[1].owned, BTreeMap::from([(T, vec![3, 4]), (U, vec![3, 4])]));
    assert_eq!(&*rig.described().assignor, "range");
}

#[test]
fn different_subscriptions_are_balanced_too() {
    let topics = [("t", T, 6), ("u", U, 3)];
    let mut rig = Rig::with_topics(eager(), &topics);
    let mut consumers = vec![Consumer::new("a", &["t", "u"]), Consumer::new("b", &["t"]), Consumer::new("c", &["u"])];
    rig.converge(&mut consumers);
    assert_eq!(sizes(&consumers), [3, 3, 3]);
    assert!(consumers[2].partitions().iter().all(|(topic, _)| *topic == U));
}

#[test]
fn assignments_are_not_computed_more_often_than_the_interval() {
    let config = GroupConfig { consumer_assignment_interval: Duration::from_secs(1), ..eager() };
    let mut rig = Rig::with_topics(config, &[("t", T, 2)]);
    let mut consumers = vec![Consumer::new("a", &["t"]), Consumer::new("b", &["t"])];
    rig.beat(&mut consumers[0]);
    rig.beat(&mut consumers[1]);
    assert_eq!(rig.state("g"), Some("Assigning"));
    rig.advance(Duration::from_secs(1));
    rig.converge(&mut consumers);
    assert_eq!(sizes(&consumers), [1, 1]);
}

#[test]
fn nothing_is_told_before_it_is_durable() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 2)]);
    rig.disk = Disk::Slow;
    let consumer = Consumer::new("a", &["t"]);
    let first = rig.ask(GroupRequest::ConsumerHeartbeat(consumer.full()));
    let again = rig.ask(GroupRequest::ConsumerHeartbeat(consumer.full()));
    assert_eq!((rig.answer(first), rig.answer(again)), (None, None));
    let listed = rig.ask(GroupRequest::List(ListGroups::default()));
    assert_eq!(rig.answered(listed), GroupAnswer::List(Ok(Vec::new())));
    rig.release(Ok(()));
    assert!(rig.answer(first).is_some() && rig.answer(again).is_some());
    assert_eq!(rig.described().state, "Stable");
}

#[test]
fn a_write_that_fails_leaves_the_group_as_it_was() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 2)]);
    rig.disk = Disk::Full;
    let answer = rig.beat_with(Consumer::new("a", &["t"]).full());
    assert_eq!((answer.error, rig.state("g")), (Some(GroupError::NotCoordinator), None));
    rig.disk = Disk::Works;
    let mut consumer = Consumer::new("a", &["t"]);
    rig.beat(&mut consumer);
    rig.disk = Disk::Full;
    assert_eq!(rig.beat_with(Consumer::new("b", &["t"]).full()).error, Some(GroupError::NotCoordinator));
    assert_eq!(rig.beat_with(consumer.epoch(-1)).error, Some(GroupError::NotCoordinator));
    rig.disk = Disk::Works;
    assert!(!rig.beat(&mut consumer), "as if nothing had been");
    assert_eq!(rig.described().members.len(), 1);
}

#[test]
fn a_group_survives_a_restart() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 4)]);
    let mut consumers = vec![Consumer::new("a", &["t"]).with_instance("one"), Consumer::new("b", &["t"])];
    rig.converge(&mut consumers);
    let before = rig.described();
    rig.restart();
    rig.topics(&[("t", T, 4)]);
    assert_eq!(rig.described(), before);
    let writes = rig.log.len();
    for consumer in &mut consumers {
        assert!(!rig.beat(consumer));
    }
    assert_eq!(rig.log.len(), writes, "nothing has changed");
    rig.restart();
    rig.topics(&[("t", T, 4)]);
    rig.advance(Duration::from_secs(46));
    assert_eq!(rig.state("g"), Some("Empty"), "sessions go on after a restart");
}

#[test]
fn commits_and_fetches_are_checked_by_epoch() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 2)]);
    let mut consumers = vec![Consumer::new("a", &["t"])];
    rig.converge(&mut consumers);
    consumers.push(Consumer::new("b", &["t"]));
    rig.converge(&mut consumers);
    let commit = |member: &str, epoch, partition| OffsetCommit {
        member_id: text(member),
        generation_or_epoch: epoch,
        ..offsets::commit("t", partition, 5)
    };
    let epoch = consumers[0].epoch;
    assert!(epoch > 1);
    let check = |rig: &mut Rig, commit, expected| assert_eq!(rig.commit(commit), expected);
    check(&mut rig, commit("a", epoch, 0), None);
    // An older epoch is good for what was assigned by then.
    check(&mut rig, commit("a", 1, 0), None);
    check(&mut rig, commit("a", 1, 1), Some(GroupError::StaleMemberEpoch));
    check(&mut rig, commit("b", 1, 1), Some(GroupError::StaleMemberEpoch));
    check(&mut rig, commit("a", epoch + 1, 0), Some(GroupError::StaleMemberEpoch));
    check(&mut rig, commit("x", epoch, 0), Some(GroupError::UnknownMemberId));
    check(&mut rig, commit("", -1, 0), Some(GroupError::UnknownMemberId));
    let old = OffsetCommit { knows_member_epochs: false, ..commit("a", epoch, 0) };
    check(&mut rig, old, Some(GroupError::UnsupportedVersion));

    let fetch = |rig: &mut Rig, member: Option<&str>, member_epoch, expected| {
        let group = OffsetFetchGroup { group_id: text("g"), member_id: member.map(text), member_epoch, topics: None };
        let token = rig.ask(GroupRequest::OffsetFetch(OffsetFetch { groups: vec![group], require_stable: false }));
        let GroupAnswer::OffsetFetch(groups) = rig.answered(token) else { panic!("a fetch is answered") };
        assert_eq!(groups[0].error, expected);
    };
    fetch(&mut rig, None, -1, None);
    fetch(&mut rig, Some("a"), epoch, None);
    fetch(&mut rig, Some("a"), epoch - 1, Some(GroupError::StaleMemberEpoch));
    fetch(&mut rig, Some("x"), epoch, Some(GroupError::UnknownMemberId));
}

#[test]
fn an_administrator_removes_members_and_then_the_group() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 2)]);
    let mut consumers = vec![Consumer::new("a", &["t"]).with_instance("one"), Consumer::new("b", &["t"])];
    rig.converge(&mut consumers);
    let delete = |rig: &mut Rig| {
        let token = rig.ask(GroupRequest::Delete(vec![text("g")]));
        rig.answered(token)
    };
    assert_eq!(delete(&mut rig), GroupAnswer::Delete(vec![(text("g"), Some(GroupError::NonEmptyGroup))]));
    assert_eq!(rig.leave(&text("b"), None).members[0].1, None);
    assert_eq!(rig.leave(&text("b"), None).members[0].1, Some(GroupError::UnknownMemberId));
    assert_eq!(rig.leave(&text("x"), Some("one")).members[0].1, Some(GroupError::FencedInstanceId));
    assert_eq!(rig.leave(&text(""), Some("one")).members[0].1, None);
    assert_eq!(rig.state("g"), Some("Empty"));
    assert_eq!(delete(&mut rig), GroupAnswer::Delete(vec![(text("g"), None)]));
    rig.restart();
    assert_eq!(rig.state("g"), None);
}

#[test]
fn an_empty_group_changes_its_protocol_and_a_used_one_does_not() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 2)]);
    // Offsets of a simple group stay.
    rig.commit(offsets::commit("t", 0, 5));
    let mut consumer = Consumer::new("a", &["t"]);
    rig.beat(&mut consumer);
    let token = rig.ask(GroupRequest::List(ListGroups { types: vec![text("consumer")], ..ListGroups::default() }));
    let GroupAnswer::List(Ok(groups)) = rig.answered(token) else { panic!("groups are listed") };
    assert_eq!((groups.len(), groups[0].group_type, &*groups[0].protocol_type), (1, "Consumer", "consumer"));
    assert_eq!(rig.offsets(), [("t".into(), 0, 5)]);

    let token = rig.join(super::consumer());
    assert_eq!(rig.joined(token).error, Some(GroupError::InconsistentGroupProtocol));
    rig.beat_with(consumer.epoch(-1));
    let token = rig.join(JoinGroup { known_member_id_required: false, ..super::consumer() });
    assert_eq!(rig.joined(token).error, None);
    let consumer = Consumer::new("a", &["t"]);
    assert_eq!(rig.beat_with(consumer.full()).error, Some(GroupError::GroupIdNotFound));
    rig.restart();
    rig.topics(&[("t", T, 2)]);
    let token = rig.ask(GroupRequest::ConsumerDescribe(vec![text("g")]));
    let GroupAnswer::ConsumerDescribe(groups) = rig.answered(token) else { panic!("groups are described") };
    assert_eq!(groups[0].error, Some(GroupError::GroupIdNotFound));
    assert_eq!(rig.offsets(), [("t".into(), 0, 5)]);
    // Nobody came back: the classic group is empty again and makes room.
    rig.advance(Duration::from_secs(60));
    assert_eq!(rig.beat_with(consumer.full()).error, None);
    rig.restart();
    assert_eq!(rig.described().error, None);
}

#[test]
fn a_conversion_that_fails_leaves_the_group_that_was() {
    let mut rig = Rig::with_topics(eager(), &[("t", T, 2)]);
    rig.commit(offsets::commit("t", 0, 5));
    rig.disk = Disk::Full;
    assert_eq!(rig.beat_with(Consumer::new("a", &["t"]).full()).error, Some(GroupError::NotCoordinator));
    let token = rig.ask(GroupRequest::List(ListGroups { types: vec![text("classic")], ..ListGroups::default() }));
    let GroupAnswer::List(Ok(groups)) = rig.answered(token) else { panic!("groups are listed") };
    assert_eq!(groups.len(), 1);
    rig.disk = Disk::Works;
    let mut consumer = Consumer::new("a", &["t"]);
    rig.beat(&mut consumer);
    rig.beat_with(consumer.epoch(-1));
    rig.disk = Disk::Full;
    let token = rig.join(JoinGroup { known_member_id_required: false, ..super::consumer() });
    rig.joined(token);
    rig.disk = Disk::Works;
    assert_eq!(rig.described().error, None);
}
