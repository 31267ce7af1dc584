//! Committed offsets: commits, fetches, deletion, expiry.

use tidegate_records::ids::{LeaderEpoch, TopicId};

use super::*;

/// A commit from outside of the group's management: an administrator, or a simple consumer.
pub(super) fn commit(topic: &str, partition: i32, offset: i64) -> OffsetCommit {
    OffsetCommit {
        group_id: text("g"),
        generation_or_epoch: -1,
        member_id: text(""),
        group_instance_id: None,
        retention_time_ms: -1,
        knows_member_epochs: true,
        topics: vec![CommitTopic {
            name: text(topic),
            id: TopicId::ZERO,
            partitions: vec![CommitPartition {
                partition,
                offset: Offset(offset),
                leader_epoch: LeaderEpoch(3),
                metadata: Some(text("note")),
            }],
        }],
    }
}

impl Rig {
    pub(super) fn commit(&mut self, commit: OffsetCommit) -> Option<GroupError> {
        let token = self.ask(GroupRequest::OffsetCommit(commit));
        let GroupAnswer::OffsetCommit(topics) = self.answered(token) else { panic!("a commit is answered") };
        topics[0].partitions[0].1
    }

    pub(super) fn fetch_request(require_stable: bool) -> GroupRequest {
        GroupRequest::OffsetFetch(OffsetFetch {
            groups: vec![OffsetFetchGroup { group_id: text("g"), member_id: None, member_epoch: -1, topics: None }],
            require_stable,
        })
    }

    /// All offsets of group "g".
    pub(super) fn offsets(&mut self) -> Vec<(String, i32, i64)> {
        let token = self.ask(Self::fetch_request(false));
        Self::offsets_of(self.answered(token))
    }

    fn offsets_of(answer: GroupAnswer) -> Vec<(String, i32, i64)> {
        let GroupAnswer::OffsetFetch(groups) = answer else { panic!("a fetch is answered") };
        assert_eq!(groups[0].error, None);
        let topics = groups[0].topics.iter();
        topics
            .flat_map(|topic| {
                topic.partitions.iter().map(|offset| (topic.name.to_string(), offset.partition, offset.offset.0))
            })
            .collect()
    }

    fn delete(&mut self, id: &str) -> Option<GroupError> {
        let token = self.ask(GroupRequest::Delete(vec![text(id)]));
        let GroupAnswer::Delete(outcomes) = self.answered(token) else { panic!("a deletion is answered") };
        outcomes[0].1
    }

    /// A stable group of one old client, which was not asked for a known id.
    fn only_member(&mut self) -> JoinAnswer {
        let token = self.join(JoinGroup { known_member_id_required: false, ..consumer() });
        let member = self.joined(token);
        let token = self.sync(&member, &[]);
        self.synced(token);
        member
    }
}

#[test]
fn a_commit_without_a_group_makes_a_simple_one() {
    let mut rig = Rig::new(prompt());
    assert_eq!(rig.commit(commit("t", 0, 5)), None);
    assert_eq!(rig.commit(commit("t", 1, 7)), None);
    assert_eq!(rig.offsets(), [("t".into(), 0, 5), ("t".into(), 1, 7)]);
    assert_eq!(rig.state("g"), Some("Empty"));
    rig.restart();
    assert_eq!(rig.offsets(), [("t".into(), 0, 5), ("t".into(), 1, 7)]);
    assert_eq!(rig.coordinator.committed().count(), 2);
}

#[test]
fn partitions_without_an_offset_are_answered_with_none() {
    let mut rig = Rig::new(prompt());
    rig.commit(commit("t", 0, 5));
    let topics = vec![FetchTopic { name: text("t"), id: TopicId::ZERO, partitions: vec![0, 1] }];
    let group =
        |group_id| OffsetFetchGroup { group_id, member_id: None, member_epoch: -1, topics: Some(topics.clone()) };
    let fetch = OffsetFetch { groups: vec![group(text("g")), group(text("nobody"))], require_stable: false };
    let token = rig.ask(GroupRequest::OffsetFetch(fetch));
    let GroupAnswer::OffsetFetch(groups) = rig.answered(token) else { panic!("a fetch is answered") };
    let [ours, nobodys] = &groups[..] else { panic!("two groups") };
    let [first, second] = &ours.topics[0].partitions[..] else { panic!("two partitions") };
    assert_eq!((first.offset, first.leader_epoch, &*first.metadata), (Offset(5), LeaderEpoch(3), "note"));
    assert_eq!((second.offset, second.leader_epoch, &*second.metadata), (Offset(-1), LeaderEpoch(-1), ""));
    assert!(nobodys.topics[0].partitions.iter().all(|offset| offset.offset == Offset(-1)));
}

#[test]
fn a_commit_is_answered_and_seen_once_it_is_durable() {
    let mut rig = Rig::new(prompt());
    rig.commit(commit("t", 0, 5));
    rig.disk = Disk::Slow;
    let write = rig.ask(GroupRequest::OffsetCommit(commit("t", 0, 6)));
    assert_eq!(rig.answer(write), None);
    assert_eq!(rig.offsets(), [("t".into(), 0, 5)]);
    // Whoever wants stable offsets waits for what is in flight.
    let stable = rig.ask(Rig::fetch_request(true));
    assert_eq!(rig.answer(stable), None);
    rig.release(Ok(()));
    rig.answered(write);
    assert_eq!(Rig::offsets_of(rig.answered(stable)), [("t".into(), 0, 6)]);
}

#[test]
fn a_commit_that_fails_leaves_the_offset_before_it() {
    let mut rig = Rig::new(prompt());
    rig.commit(commit("t", 0, 5));
    rig.disk = Disk::Slow;
    let first = rig.ask(GroupRequest::OffsetCommit(commit("t", 0, 6)));
    let second = rig.ask(GroupRequest::OffsetCommit(commit("t", 0, 7)));
    rig.release(Err(PersistError::Storage));
    assert_eq!(rig.offsets(), [("t".into(), 0, 5)]);
    rig.release(Ok(()));
    assert_eq!(rig.offsets(), [("t".into(), 0, 7)]);
    let error_of = |answer| match answer {
        GroupAnswer::OffsetCommit(topics) => topics[0].partitions[0].1,
        other => panic!("a commit is answered: {other:?}"),
    };
    assert_eq!(error_of(rig.answered(first)), Some(GroupError::NotCoordinator));
    assert_eq!(error_of(rig.answered(second)), None);
}

#[test]
fn commits_are_checked_against_the_group() {
    let mut rig = Rig::new(prompt());
    let member = rig.only_member();
    let by = |member_id: &Text, generation| OffsetCommit {
        generation_or_epoch: generation,
        member_id: member_id.clone(),
        ..commit("t", 0, 1)
    };
    let check = |rig: &mut Rig, commit: OffsetCommit, expected| assert_eq!(rig.commit(commit), expected);
    check(&mut rig, by(&member.member_id, member.generation), None);
    check(&mut rig, by(&member.member_id, 9), Some(GroupError::IllegalGeneration));
    check(&mut rig, by(&text("x"), member.generation), Some(GroupError::UnknownMemberId));
    check(&mut rig, commit("t", 0, 1), Some(GroupError::UnknownMemberId));
    let elsewhere = OffsetCommit { group_id: text("other"), ..by(&text("x"), 1) };
    check(&mut rig, elsewhere.clone(), Some(GroupError::GroupIdNotFound));
    let old = OffsetCommit { knows_member_epochs: false, ..elsewhere };
    check(&mut rig, old, Some(GroupError::IllegalGeneration));
    let fenced = OffsetCommit { group_instance_id: Some(text("i")), ..by(&member.member_id, member.generation) };
    check(&mut rig, fenced, Some(GroupError::UnknownMemberId));
}

#[test]
fn a_commit_between_join_and_sync_is_refused_and_one_before_counts_as_a_heartbeat() {
    let mut rig = Rig::new(prompt());
    let token = rig.join(JoinGroup { known_member_id_required: false, ..consumer() });
    let member = rig.joined(token);
    let by_member = OffsetCommit {
        generation_or_epoch: member.generation,
        member_id: member.member_id.clone(),
        ..commit("t", 0, 1)
    };
    assert_eq!(rig.commit(by_member.clone()), Some(GroupError::RebalanceInProgress));
    let token = rig.sync(&member, &[]);
    rig.synced(token);
    for _ in 0..5 {
        rig.advance(Duration::from_secs(9));
        assert_eq!(rig.commit(by_member.clone()), None);
    }
}

#[test]
fn metadata_that_is_too_long_is_refused_for_its_partition_only() {
    let mut rig = Rig::new(prompt());
    let mut request = commit("t", 0, 1);
    let mut longer = request.topics[0].partitions[0].clone();
    longer.partition = 1;
    longer.metadata = Some("x".repeat(4097).into());
    request.topics[0].partitions.push(longer.clone());
    longer.partition = 2;
    longer.metadata = Some("ü".repeat(4096).into());
    request.topics[0].partitions.push(longer);
    let token = rig.ask(GroupRequest::OffsetCommit(request));
    let GroupAnswer::OffsetCommit(topics) = rig.answered(token) else { panic!("a commit is answered") };
    let outcomes: Vec<_> = topics[0].partitions.iter().map(|(_, error)| *error).collect();
    assert_eq!(outcomes, [None, Some(GroupError::OffsetMetadataTooLarge), None]);
}

#[test]
fn an_offset_of_an_earlier_topic_of_the_same_name_is_not_shown() {
    let mut rig = Rig::new(prompt());
    let mut request = commit("t", 0, 5);
    request.topics[0].id = TopicId([1; 16]);
    rig.commit(request);
    rig.restart();
    let check = |rig: &mut Rig, id, expected| {
        let topics = Some(vec![FetchTopic { name: text("t"), id, partitions: vec![0] }]);
        let group = OffsetFetchGroup { group_id: text("g"), member_id: None, member_epoch: -1, topics };
        let token = rig.ask(GroupRequest::OffsetFetch(OffsetFetch { groups: vec![group], require_stable: false }));
        let GroupAnswer::OffsetFetch(groups) = rig.answered(token) else { panic!("a fetch is answered") };
        assert_eq!(groups[0].topics[0].partitions[0].offset, Offset(expected));
    };
    check(&mut rig, TopicId([1; 16]), 5);
    check(&mut rig, TopicId::ZERO, 5);
    check(&mut rig, TopicId([2; 16]), -1);
}

#[test]
fn an_empty_group_is_deleted_with_its_offsets() {
    let mut rig = Rig::new(prompt());
    rig.commit(commit("t", 0, 5));
    assert_eq!(rig.delete("nobody"), Some(GroupError::GroupIdNotFound));
    assert_eq!(rig.delete("g"), None);
    assert_eq!(rig.offsets(), []);
    rig.restart();
    assert_eq!((rig.offsets(), rig.state("g")), (Vec::new(), None));
    rig.only_member();
    assert_eq!(rig.delete("g"), Some(GroupError::NonEmptyGroup));
}

#[test]
fn a_deletion_covers_commits_in_flight_and_fails_as_a_whole() {
    let mut rig = Rig::new(prompt());
    rig.commit(commit("t", 0, 5));
    rig.disk = Disk::Slow;
    rig.ask(GroupRequest::OffsetCommit(commit("t", 1, 6)));
    let first = rig.ask(GroupRequest::Delete(vec![text("g")]));
    assert_eq!(rig.answer(first), None, "answered once it is durable");
    rig.release(Ok(()));
    rig.release(Err(PersistError::Storage));
    assert_eq!(rig.answered(first), GroupAnswer::Delete(vec![(text("g"), Some(GroupError::NotCoordinator))]));
    assert_eq!(rig.offsets().len(), 2, "nothing is lost");
    assert_eq!(rig.state("g"), Some("Empty"));
    rig.disk = Disk::Works;
    assert_eq!(rig.delete("g"), None);
    assert_eq!(rig.offsets(), []);
}

#[test]
fn offsets_of_topics_that_the_group_reads_are_not_deleted() {
    let mut rig = Rig::new(prompt());
    let member = rig.only_member();
    for topic in ["t", "other"] {
        rig.commit(OffsetCommit {
            generation_or_epoch: member.generation,
            member_id: member.member_id.clone(),
            ..commit(topic, 0, 1)
        });
    }
    let topics = ["t", "other", "unknown"].map(|topic| (text(topic), vec![0])).to_vec();
    let token = rig.ask(GroupRequest::OffsetDelete(OffsetDelete { group_id: text("g"), topics }));
    let GroupAnswer::OffsetDelete(Ok(topics)) = rig.answered(token) else { panic!("topic by topic") };
    let outcomes: Vec<_> = topics.iter().map(|topic| topic.partitions[0].1).collect();
    assert_eq!(outcomes, [Some(GroupError::GroupSubscribedToTopic), None, None]);
    assert_eq!(rig.offsets(), [("t".into(), 0, 1)]);
    let nobody = OffsetDelete { group_id: text("nobody"), topics: Vec::new() };
    let token = rig.ask(GroupRequest::OffsetDelete(nobody));
    assert_eq!(rig.answered(token), GroupAnswer::OffsetDelete(Err(GroupError::GroupIdNotFound)));
}

#[test]
fn offsets_expire_after_the_retention_counted_from_the_end_of_the_group() {
    let day = Duration::from_secs(24 * 3600);
    let mut rig = Rig::new(prompt());
    let member = rig.only_member();
    rig.commit(OffsetCommit {
        generation_or_epoch: member.generation,
        member_id: member.member_id.clone(),
        ..commit("t", 0, 1)
    });
    // As long as a member is there, nothing expires.
    for _ in 0..(8 * 24 * 720) {
        rig.advance(Duration::from_secs(5));
        assert_eq!(rig.heartbeat(&member.member_id, member.generation), Ok(()));
    }
    assert_eq!(rig.offsets(), [("t".into(), 0, 1)]);
    rig.leave(&member.member_id, None);
    rig.advance(7 * day - Duration::from_secs(1));
    assert_eq!(rig.offsets(), [("t".into(), 0, 1)]);
    rig.advance(Duration::from_secs(1200));
    assert_eq!((rig.offsets(), rig.state("g")), (Vec::new(), None));
    rig.restart();
    assert_eq!((rig.offsets(), rig.state("g")), (Vec::new(), None));
}

#[test]
fn a_simple_groups_offsets_expire_one_by_one() {
    let day = Duration::from_secs(24 * 3600);
    let mut rig = Rig::new(prompt());
    rig.commit(commit("t", 0, 1));
    rig.advance(day);
    rig.commit(commit("t", 1, 1));
    rig.commit(OffsetCommit { retention_time_ms: 1000, ..commit("t", 2, 1) });
    rig.advance(Duration::from_secs(1200));
    assert_eq!(rig.offsets().len(), 2, "a retention of its own");
    rig.advance(6 * day);
    assert_eq!(rig.offsets(), [("t".into(), 1, 1)]);
    rig.advance(day);
    assert_eq!((rig.offsets(), rig.state("g")), (Vec::new(), None));
}

#[test]
fn offsets_go_with_their_topic() {
    let mut rig = Rig::new(prompt());
    let id = TopicId([1; 16]);
    let topic = |name: &str, id| (text(name), id, 3);
    rig.step(GroupInput::Topics(TopicsImage::new([topic("t", id), topic("other", TopicId([2; 16]))])));
    rig.commit(commit("t", 0, 5));
    rig.commit(commit("other", 0, 6));
    let mut recreated = commit("t", 1, 7);
    recreated.topics[0].id = TopicId([3; 16]);
    rig.commit(recreated);
    rig.step(GroupInput::Topics(TopicsImage::new([topic("t", TopicId([3; 16])), topic("other", TopicId([2; 16]))])));
    assert_eq!(rig.offsets(), [("other".into(), 0, 6), ("t".into(), 1, 7)]);
    rig.restart();
    assert_eq!(rig.offsets(), [("other".into(), 0, 6), ("t".into(), 1, 7)]);
}
