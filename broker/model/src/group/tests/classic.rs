//! The classic protocol, seen from its members.

use super::*;

impl Rig {
    /// A dynamic member that was given its id.
    fn new_id(&mut self) -> Text {
        let token = self.join(consumer());
        let answer = self.joined(token);
        assert_eq!(answer.error, Some(GroupError::MemberIdRequired));
        answer.member_id
    }

    /// Members that have all joined the same generation, the leader first.
    fn generation_of(&mut self, count: usize) -> Vec<JoinAnswer> {
        let ids: Vec<Text> = (0..count).map(|_| self.new_id()).collect();
        let mut tokens: Vec<_> = ids.iter().map(|id| self.join(known(id))).collect();
        // With the delay off, the first join completes alone: that member joins again with the others.
        if count > 1
            && let Some(GroupAnswer::Join(_)) = self.answer(tokens[0])
        {
            tokens[0] = self.join(known(&ids[0]));
        }
        let mut answers: Vec<_> = tokens.into_iter().map(|token| self.joined(token)).collect();
        answers.sort_by_key(|answer| answer.members.is_empty());
        answers
    }

    /// Members of a stable group, the leader first. Everybody is assigned their own id.
    fn stable(&mut self, count: usize) -> Vec<JoinAnswer> {
        let members = self.generation_of(count);
        let followers: Vec<_> = members[1..].iter().map(|member| self.sync(member, &[])).collect();
        let assignments: Vec<(&Text, &str)> =
            members.iter().map(|member| (&member.member_id, &*member.member_id)).collect();
        let leader = self.sync(&members[0], &assignments);
        for (token, member) in [leader].into_iter().chain(followers).zip(&members) {
            assert_eq!(self.synced(token).assignment, member.member_id.as_bytes());
        }
        assert_eq!(self.state("g"), Some("Stable"));
        members
    }
}

#[test]
fn members_join_sync_and_get_what_the_leader_assigned() {
    let mut rig = Rig::new(prompt());
    let members = rig.stable(3);
    assert_eq!(members[0].members.len(), 3, "the leader is told of all");
    assert_eq!(members[0].leader, members[0].member_id);
    assert!(members.iter().all(|member| member.generation == members[0].generation));
    for member in &members {
        assert_eq!(rig.heartbeat(&member.member_id, member.generation), Ok(()));
    }
}

#[test]
fn the_first_rebalance_waits_for_more_members() {
    let mut rig = Rig::new(GroupConfig::default());
    let first = rig.new_id();
    let first = rig.join(known(&first));
    rig.advance(Duration::from_secs(2));
    let second = rig.new_id();
    let second = rig.join(known(&second));
    assert_eq!(rig.state("g"), Some("PreparingRebalance"));
    // The second member came within the delay, which is extended once more.
    rig.advance(Duration::from_secs(2));
    assert_eq!(rig.answer(first), None);
    rig.advance(Duration::from_secs(3));
    assert_eq!(rig.joined(first).generation, 1);
    assert_eq!(rig.joined(second).generation, 1);
}

#[test]
fn a_member_that_joins_makes_the_others_join_again() {
    let mut rig = Rig::new(prompt());
    let members = rig.stable(2);
    let late = rig.new_id();
    let late = rig.join(known(&late));
    for member in &members {
        assert_eq!(
            rig.heartbeat(&member.member_id, member.generation),
            Err(GroupError::RebalanceInProgress),
            "that is how they learn of it"
        );
    }
    let again: Vec<_> = members.iter().map(|member| rig.join(known(&member.member_id))).collect();
    let generation = members[0].generation + 1;
    assert_eq!(rig.joined(late).generation, generation);
    for token in again {
        assert_eq!(rig.joined(token).generation, generation);
    }
    // The old generation is history.
    assert_eq!(rig.heartbeat(&members[0].member_id, members[0].generation), Err(GroupError::IllegalGeneration));
}

#[test]
fn a_member_that_does_not_join_again_is_dropped() {
    let mut rig = Rig::new(prompt());
    let members = rig.stable(2);
    let late = rig.new_id();
    let late = rig.join(known(&late));
    let again = rig.join(known(&members[0].member_id));
    // The other one keeps its session, but does not join within the rebalance timeout.
    for _ in 0..10 {
        rig.advance(Duration::from_secs(6));
        let _ = rig.heartbeat(&members[1].member_id, members[1].generation);
    }
    rig.advance(Duration::from_secs(1));
    assert_eq!(rig.joined(again).error, None);
    assert_eq!(rig.joined(late).error, None);
    assert_eq!(rig.heartbeat(&members[1].member_id, members[1].generation), Err(GroupError::UnknownMemberId));
}

#[test]
fn a_member_that_falls_silent_is_dropped_and_the_rest_rebalances() {
    let mut rig = Rig::new(prompt());
    let members = rig.stable(2);
    rig.advance(Duration::from_secs(6));
    assert_eq!(rig.heartbeat(&members[1].member_id, members[1].generation), Ok(()));
    rig.advance(Duration::from_secs(5));
    assert_eq!(rig.heartbeat(&members[1].member_id, members[1].generation), Err(GroupError::RebalanceInProgress));
    let token = rig.join(known(&members[1].member_id));
    let answer = rig.joined(token);
    assert_eq!(answer.leader, members[1].member_id, "the leader was the one that fell silent");
    assert_eq!(answer.members.len(), 1);
}

#[test]
fn the_last_member_to_leave_empties_the_group() {
    let mut rig = Rig::new(prompt());
    let members = rig.stable(1);
    let answer = rig.leave(&members[0].member_id, None);
    assert_eq!((answer.error, answer.members[0].1), (None, None));
    assert_eq!(rig.state("g"), Some("Empty"));
    assert_eq!(rig.leave(&members[0].member_id, None).members[0].1, Some(GroupError::UnknownMemberId));
    // An empty group is made anew by whoever joins, and goes on counting.
    let members = rig.stable(1);
    assert_eq!(members[0].generation, 3);
}

#[test]
fn a_sync_before_the_rebalance_is_over_is_refused() {
    let mut rig = Rig::new(prompt());
    let members = rig.stable(1);
    let late = rig.new_id();
    rig.join(known(&late));
    let token = rig.sync(&members[0], &[]);
    assert_eq!(rig.synced(token).error, Some(GroupError::RebalanceInProgress));
}

#[test]
fn followers_wait_for_the_leader_and_are_sent_back_when_the_group_rebalances() {
    let mut rig = Rig::new(prompt());
    let members = rig.generation_of(2);
    let follower = rig.sync(&members[1], &[]);
    assert_eq!(rig.answer(follower), None);
    let late = rig.new_id();
    rig.join(known(&late));
    assert_eq!(rig.synced(follower).error, Some(GroupError::RebalanceInProgress));
}

#[test]
fn a_member_that_never_syncs_is_dropped() {
    let mut rig = Rig::new(prompt());
    let members = rig.generation_of(2);
    let leader = rig.sync(&members[0], &[]);
    assert_eq!(rig.synced(leader).error, None);
    for _ in 0..11 {
        rig.advance(Duration::from_secs(6));
        for member in &members {
            let _ = rig.heartbeat(&member.member_id, member.generation);
        }
    }
    assert_eq!(rig.heartbeat(&members[1].member_id, members[1].generation), Err(GroupError::UnknownMemberId));
}

#[test]
fn a_follower_that_joins_again_unchanged_is_told_the_generation() {
    let mut rig = Rig::new(prompt());
    let members = rig.stable(2);
    let token = rig.join(known(&members[1].member_id));
    let answer = rig.joined(token);
    assert_eq!((answer.error, answer.generation), (None, members[1].generation));
    assert_eq!(rig.state("g"), Some("Stable"));
    // The leader does it to have partitions assigned anew.
    rig.join(known(&members[0].member_id));
    assert_eq!(rig.state("g"), Some("PreparingRebalance"));
}

#[test]
fn join_requests_that_do_not_fit_are_refused() {
    let mut rig = Rig::new(GroupConfig { max_size: 1, ..prompt() });
    rig.stable(1);
    let check = |rig: &mut Rig, join: JoinGroup, expected| {
        let token = rig.join(join);
        assert_eq!(rig.joined(token).error, Some(expected));
    };
    check(&mut rig, JoinGroup { group_id: text(""), ..consumer() }, GroupError::InvalidGroupId);
    check(&mut rig, JoinGroup { session_timeout_ms: 5_999, ..consumer() }, GroupError::InvalidSessionTimeout);
    check(&mut rig, JoinGroup { session_timeout_ms: 1_800_001, ..consumer() }, GroupError::InvalidSessionTimeout);
    check(&mut rig, JoinGroup { session_timeout_ms: -1, ..consumer() }, GroupError::InvalidSessionTimeout);
    check(&mut rig, consumer(), GroupError::GroupMaxSizeReached);
    check(&mut rig, JoinGroup { group_id: text("other"), ..known(&text("x")) }, GroupError::UnknownMemberId);
    check(
        &mut rig,
        JoinGroup { group_id: text("new"), protocols: Vec::new(), ..consumer() },
        GroupError::InconsistentGroupProtocol,
    );
    check(&mut rig, JoinGroup { client_id: "x".repeat(40_000).into(), ..consumer() }, GroupError::InvalidRequest);
}

#[test]
fn a_member_must_share_the_protocol_type_and_a_protocol() {
    let mut rig = Rig::new(prompt());
    rig.stable(1);
    for join in [
        JoinGroup { protocol_type: text("connect"), ..consumer() },
        JoinGroup { protocols: vec![(text("sticky"), Bytes::new())], ..consumer() },
    ] {
        let token = rig.join(join);
        assert_eq!(rig.joined(token).error, Some(GroupError::InconsistentGroupProtocol));
    }
}

#[test]
fn the_protocol_with_the_most_first_votes_among_the_common_ones_wins() {
    let check = |votes: &[&[&str]], expected: &str| {
        let mut rig = Rig::new(GroupConfig::default());
        let tokens: Vec<_> = votes
            .iter()
            .map(|names| {
                let protocols = names.iter().map(|name| (text(name), subscription(&["t"]))).collect();
                rig.join(JoinGroup { known_member_id_required: false, protocols, ..consumer() })
            })
            .collect();
        rig.advance(Duration::from_secs(60));
        for token in tokens {
            assert_eq!(rig.joined(token).protocol_name.as_deref(), Some(expected));
        }
    };
    check(&[&["a"], &["a", "b"]], "a");
    check(&[&["a", "b"], &["b", "a"], &["b", "a"]], "b");
    check(&[&["c", "a", "b"], &["b", "a"]], "a");
    check(&[&["b", "a"], &["a", "b"]], "a");
}

#[test]
fn a_pending_id_that_is_not_used_expires() {
    let mut rig = Rig::new(prompt());
    let id = rig.new_id();
    rig.advance(Duration::from_secs(11));
    let token = rig.join(known(&id));
    assert_eq!(rig.joined(token).error, Some(GroupError::UnknownMemberId));
}

#[test]
fn a_static_member_that_restarts_gets_its_assignment_back_without_a_rebalance() {
    let mut rig = Rig::new(prompt());
    let token = rig.join(static_consumer("one"));
    let first = rig.joined(token);
    let token = rig.sync(&first, &[(&first.member_id, "mine")]);
    assert_eq!(rig.synced(token).assignment, "mine");
    let writes = rig.log.len();

    let token = rig.join(static_consumer("one"));
    let second = rig.joined(token);
    assert_ne!(second.member_id, first.member_id);
    assert_eq!((second.error, second.generation, second.skip_assignment), (None, first.generation, true));
    assert_eq!(rig.log.len(), writes + 1, "the new id is durable");
    assert_eq!(rig.state("g"), Some("Stable"));
    let token = rig.sync(&second, &[]);
    assert_eq!(rig.synced(token).assignment, "mine");

    // The earlier self is fenced by its instance id, and unknown without it.
    let token = rig.ask(GroupRequest::Heartbeat(Heartbeat {
        group_id: text("g"),
        generation: first.generation,
        member_id: first.member_id.clone(),
        group_instance_id: Some(text("one")),
    }));
    assert_eq!(rig.answered(token), GroupAnswer::Heartbeat(Err(GroupError::FencedInstanceId)));
    assert_eq!(rig.heartbeat(&first.member_id, first.generation), Err(GroupError::UnknownMemberId));
}

#[test]
fn an_old_client_that_leads_is_shown_its_old_id_as_leader() {
    // It must not assign anew (KIP-814): before version 9 it cannot be told to skip that.
    let mut rig = Rig::new(prompt());
    let token = rig.join(static_consumer("one"));
    let first = rig.joined(token);
    let token = rig.sync(&first, &[]);
    rig.synced(token);
    let token = rig.join(JoinGroup { skip_assignment_supported: false, ..static_consumer("one") });
    let second = rig.joined(token);
    assert_eq!((second.leader, second.members.len()), (first.member_id, 0));
}

#[test]
fn a_static_member_whose_new_id_is_not_durable_stays_its_old_self() {
    let mut rig = Rig::new(prompt());
    let token = rig.join(static_consumer("one"));
    let first = rig.joined(token);
    let token = rig.sync(&first, &[(&first.member_id, "mine")]);
    rig.synced(token);
    rig.disk = Disk::Full;
    let token = rig.join(static_consumer("one"));
    assert_eq!(rig.joined(token).error, Some(GroupError::NotCoordinator));
    assert_eq!(rig.heartbeat(&first.member_id, first.generation), Ok(()));
    let token = rig.sync(&first, &[]);
    assert_eq!(rig.synced(token).assignment, "mine");
}

#[test]
fn a_static_member_keeps_its_place_until_its_session_ends() {
    let mut rig = Rig::new(prompt());
    let token = rig.join(static_consumer("one"));
    let first = rig.joined(token);
    let token = rig.sync(&first, &[]);
    rig.synced(token);
    let late = rig.new_id();
    let late = rig.join(known(&late));
    rig.advance(Duration::from_secs(11));
    let answer = rig.joined(late);
    assert_eq!((answer.error, answer.members.len()), (None, 1));
}

#[test]
fn an_administrator_removes_a_static_member_by_its_instance_id() {
    let mut rig = Rig::new(prompt());
    let token = rig.join(static_consumer("one"));
    rig.joined(token);
    assert_eq!(rig.leave(&text(""), Some("two")).members[0].1, Some(GroupError::UnknownMemberId));
    assert_eq!(rig.leave(&text(""), Some("one")).members[0].1, None);
    assert_eq!(rig.state("g"), Some("Empty"));
}

#[test]
fn an_assignment_is_handed_out_only_once_it_is_durable() {
    let mut rig = Rig::new(prompt());
    let members = rig.generation_of(2);
    rig.disk = Disk::Slow;
    let follower = rig.sync(&members[1], &[]);
    let leader = rig.sync(&members[0], &[(&members[1].member_id, "x")]);
    assert_eq!((rig.answer(leader), rig.answer(follower)), (None, None));
    rig.release(Ok(()));
    assert_eq!(rig.synced(follower).assignment, "x");
    assert_eq!(rig.synced(leader).assignment, "");
}

#[test]
fn an_assignment_that_cannot_be_written_starts_a_rebalance() {
    let mut rig = Rig::new(prompt());
    let members = rig.generation_of(2);
    rig.disk = Disk::Full;
    let follower = rig.sync(&members[1], &[]);
    let leader = rig.sync(&members[0], &[]);
    assert_eq!(rig.synced(leader).error, Some(GroupError::NotCoordinator));
    assert_eq!(rig.synced(follower).error, Some(GroupError::NotCoordinator));
    assert_eq!(rig.state("g"), Some("PreparingRebalance"));
}

#[test]
fn a_group_that_cannot_be_written_is_not_made() {
    let mut rig = Rig::new(GroupConfig::default());
    rig.disk = Disk::Full;
    let token = rig.join(static_consumer("one"));
    assert_eq!(rig.joined(token).error, Some(GroupError::NotCoordinator));
    assert_eq!(rig.state("g"), None);
}

#[test]
fn a_stable_group_survives_a_restart() {
    let mut rig = Rig::new(prompt());
    let members = rig.stable(2);
    rig.restart();
    assert_eq!(rig.state("g"), Some("Stable"));
    for member in &members {
        assert_eq!(rig.heartbeat(&member.member_id, member.generation), Ok(()));
        let token = rig.sync(member, &[]);
        assert_eq!(rig.synced(token).assignment, member.member_id.as_bytes());
    }
    // Whoever does not come back loses its place.
    rig.advance(Duration::from_secs(11));
    assert_eq!(rig.state("g"), Some("Empty"));
}

#[test]
fn a_partition_that_loads_or_is_elsewhere_says_so() {
    let mut rig = Rig::new(prompt());
    let members = rig.stable(2);
    let late = rig.new_id();
    let late = rig.join(known(&late));
    let partition = partition_for("g", 50);
    rig.step(GroupInput::Unload { partition });
    assert_eq!(rig.joined(late).error, Some(GroupError::NotCoordinator), "whoever waits is told");
    assert_eq!(rig.heartbeat(&members[0].member_id, 1), Err(GroupError::NotCoordinator));
    rig.step(GroupInput::LoadStart { partition });
    // A heartbeat is answered as if all were well, so that nobody rejoins because of a restart.
    assert_eq!(rig.heartbeat(&members[0].member_id, 1), Ok(()));
    let token = rig.join(consumer());
    assert_eq!(rig.joined(token).error, Some(GroupError::CoordinatorLoadInProgress));
    let token = rig.ask(GroupRequest::List(ListGroups::default()));
    assert_eq!(rig.answered(token), GroupAnswer::List(Err(GroupError::CoordinatorLoadInProgress)));
}

#[test]
fn groups_are_listed_by_state_and_type() {
    let mut rig = Rig::new(prompt());
    rig.stable(1);
    let check = |rig: &mut Rig, states: &[&str], types: &[&str], expected: usize| {
        let filter = ListGroups {
            states: states.iter().map(|state| text(state)).collect(),
            types: types.iter().map(|name| text(name)).collect(),
        };
        let token = rig.ask(GroupRequest::List(filter));
        let GroupAnswer::List(Ok(groups)) = rig.answered(token) else { panic!("groups are listed") };
        assert_eq!(groups.len(), expected);
    };
    check(&mut rig, &[], &[], 1);
    check(&mut rig, &["stable"], &["classic"], 1);
    check(&mut rig, &["Empty", " Stable "], &[], 1);
    check(&mut rig, &["Empty"], &[], 0);
    check(&mut rig, &[], &["Consumer"], 0);
}

#[test]
fn a_group_is_described_with_its_members() {
    let mut rig = Rig::new(prompt());
    let members = rig.stable(2);
    let token = rig.ask(GroupRequest::Describe(vec![text("g"), text("nobody")]));
    let GroupAnswer::Describe(groups) = rig.answered(token) else { panic!("groups are described") };
    assert_eq!((groups[0].state, &*groups[0].protocol_data), ("Stable", "range"));
    assert_eq!(groups[0].members.len(), 2);
    assert!(groups[0].members.iter().all(|member| member.metadata == subscription(&["t"])));
    assert!(groups[0].members.iter().any(|member| member.assignment == members[0].member_id.as_bytes()));
    assert_eq!((groups[1].state, groups[1].error), ("Dead", Some(GroupError::GroupIdNotFound)));
}

#[test]
fn member_ids_are_the_client_or_instance_id_and_a_uuid() {
    let mut rig = Rig::new(prompt());
    let id = rig.new_id();
    insta::assert_snapshot!(id, @"client-0349e02b-958f-43af-989a-ca478414b1fe");
    let token = rig.join(static_consumer("one"));
    assert!(rig.joined(token).member_id.starts_with("one-"));
}

#[test]
fn a_group_lives_in_the_partition_of_javas_hash() {
    let check = |id: &str, expected| assert_eq!(partition_for(id, 50), expected, "{id}");
    // From `Utils.abs("...".hashCode()) % 50` in Java.
    check("", 0);
    check("g", 3);
    check("console-consumer-12345", 6);
    check("grüße", 23);
    check("polygenelubricants", 0);
}
