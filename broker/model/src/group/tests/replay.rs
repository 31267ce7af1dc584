//! Whatever happens, a restart finds what was durable: the replay of the log equals the state.

use proptest::prelude::*;

use super::{offsets::commit, *};

#[derive(Clone, Debug)]
enum Action {
    JoinNew {
        instance: Option<u8>,
    },
    /// Some member joins again.
    Rejoin(u8),
    Sync(u8),
    Leave(u8),
    Heartbeat(u8),
    Commit {
        partition: u8,
        offset: i64,
    },
    DeleteOffset {
        partition: u8,
    },
    DeleteGroup,
    Advance {
        seconds: u16,
    },
    Disk(u8),
    Release {
        works: bool,
    },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => proptest::option::of(0..3u8).prop_map(|instance| Action::JoinNew { instance }),
        4 => any::<u8>().prop_map(Action::Rejoin),
        6 => any::<u8>().prop_map(Action::Sync),
        1 => any::<u8>().prop_map(Action::Leave),
        2 => any::<u8>().prop_map(Action::Heartbeat),
        3 => (0..4u8, 0..100i64).prop_map(|(partition, offset)| Action::Commit { partition, offset }),
        1 => (0..4u8).prop_map(|partition| Action::DeleteOffset { partition }),
        1 => Just(Action::DeleteGroup),
        2 => (0..20u16).prop_map(|seconds| Action::Advance { seconds }),
        1 => (0..3u8).prop_map(Action::Disk),
        4 => any::<bool>().prop_map(|works| Action::Release { works }),
    ]
}

/// What a client that follows the protocol knows of itself.
struct Client {
    join: Option<RequestToken>,
    sync: Option<RequestToken>,
    instance: Option<Text>,
    last: Option<JoinAnswer>,
}

/// The parts of a stable or empty group that are durable.
fn described(rig: &mut Rig) -> DescribedGroup {
    let token = rig.ask(GroupRequest::Describe(vec![text("g")]));
    match rig.answered(token) {
        GroupAnswer::Describe(mut groups) => groups.remove(0),
        other => panic!("a description: {other:?}"),
    }
}

fn run(actions: Vec<Action>) {
    let mut rig = Rig::new(prompt());
    let mut clients: Vec<Client> = Vec::new();
    for action in actions {
        let chosen = |index: u8, clients: &[Client]| (!clients.is_empty()).then(|| usize::from(index) % clients.len());
        match action {
            Action::JoinNew { instance } => {
                let instance = instance.map(|index| text(&format!("instance-{index}")));
                let join = rig.join(JoinGroup { group_instance_id: instance.clone(), ..consumer() });
                clients.push(Client { join: Some(join), sync: None, instance, last: None });
            }
            Action::Rejoin(index) => {
                if let Some(index) = chosen(index, &clients)
                    && let Some(last) = &clients[index].last
                {
                    let join =
                        JoinGroup { group_instance_id: clients[index].instance.clone(), ..known(&last.member_id) };
                    clients[index].join = Some(rig.join(join));
                }
            }
            Action::Sync(index) => {
                if let Some(index) = chosen(index, &clients)
                    && let Some(last) = clients[index].last.clone()
                {
                    let assignments: Vec<_> =
                        last.members.iter().map(|member| (&member.member_id, "assigned")).collect();
                    clients[index].sync = Some(rig.sync(&last, &assignments));
                }
            }
            Action::Leave(index) => {
                if let Some(index) = chosen(index, &clients)
                    && let Some(last) = clients[index].last.clone()
                {
                    let member = LeavingMember { member_id: last.member_id, group_instance_id: None };
                    rig.ask(GroupRequest::Leave(LeaveGroup { group_id: text("g"), members: vec![member] }));
                }
            }
            Action::Heartbeat(index) => {
                if let Some(index) = chosen(index, &clients)
                    && let Some(last) = clients[index].last.clone()
                {
                    let _ = rig.heartbeat(&last.member_id, last.generation);
                }
            }
            Action::Commit { partition, offset } => {
                let member = clients.iter().find_map(|client| client.last.as_ref());
                let mut request = commit("other", i32::from(partition), offset);
                if let Some(member) = member {
                    request.member_id = member.member_id.clone();
                    request.generation_or_epoch = member.generation;
                }
                rig.ask(GroupRequest::OffsetCommit(request));
            }
            Action::DeleteOffset { partition } => {
                let topics = vec![(text("other"), vec![i32::from(partition)])];
                rig.ask(GroupRequest::OffsetDelete(OffsetDelete { group_id: text("g"), topics }));
            }
            Action::DeleteGroup => {
                rig.ask(GroupRequest::Delete(vec![text("g")]));
            }
            Action::Advance { seconds } => rig.advance(Duration::from_secs(seconds.into())),
            Action::Disk(index) => rig.disk = [Disk::Works, Disk::Slow, Disk::Full][usize::from(index)],
            Action::Release { works: true } => {
                rig.release(Ok(()));
            }
            // A write that fails takes the later ones with it.
            Action::Release { works: false } => while rig.release(Err(PersistError::Storage)) {},
        }
        if rig.disk != Disk::Slow {
            while rig.release(Ok(())) {}
        }
        for client in &mut clients {
            if let Some(token) = client.join
                && let Some(GroupAnswer::Join(answer)) = rig.answer(token)
            {
                client.join = None;
                if matches!(answer.error, None | Some(GroupError::MemberIdRequired)) {
                    client.last = Some(answer);
                }
            }
        }
    }
    rig.disk = Disk::Works;
    while rig.release(Ok(())) {}
    let before = (rig.offsets(), described(&mut rig));
    rig.restart();
    let after = (rig.offsets(), described(&mut rig));
    assert_eq!(before.0, after.0, "offsets");
    // Members of a rebalance that is not over are in memory only.
    if matches!(before.1.state, "Stable") {
        assert_eq!(before.1, after.1);
    }
    if before.1.state == "Dead" {
        assert_eq!(after.1.state, "Dead");
    }
}

proptest! {
    #[test]
    fn a_restart_finds_what_was_durable(actions in proptest::collection::vec(action(), 0..120)) {
        run(actions);
    }
}

#[derive(Clone, Debug)]
enum ConsumerAction {
    Beat(u8),
    /// An answer that is lost: the member does not learn of it.
    LostBeat(u8),
    Leave(u8),
    LeaveForNow(u8),
    Start {
        id: u8,
        instance: Option<u8>,
        topics: u8,
    },
    Topics {
        partitions: u8,
    },
    Advance {
        seconds: u16,
    },
    Disk(u8),
    Release {
        works: bool,
    },
}

fn consumer_action() -> impl Strategy<Value = ConsumerAction> {
    prop_oneof![
        8 => any::<u8>().prop_map(ConsumerAction::Beat),
        1 => any::<u8>().prop_map(ConsumerAction::LostBeat),
        1 => any::<u8>().prop_map(ConsumerAction::Leave),
        1 => any::<u8>().prop_map(ConsumerAction::LeaveForNow),
        3 => (0..5u8, proptest::option::of(0..2u8), 0..4u8)
            .prop_map(|(id, instance, topics)| ConsumerAction::Start { id, instance, topics }),
        1 => (1..6u8).prop_map(|partitions| ConsumerAction::Topics { partitions }),
        1 => (0..30u16).prop_map(|seconds| ConsumerAction::Advance { seconds }),
        1 => (0..3u8).prop_map(ConsumerAction::Disk),
        4 => any::<bool>().prop_map(|works| ConsumerAction::Release { works }),
    ]
}

fn run_consumers(actions: Vec<ConsumerAction>) {
    use tidegate_records::ids::TopicId;

    use super::consumer::{Consumer, T, eager};

    let topics = |partitions| [("t", T, partitions), ("u", TopicId([2; 16]), 3)];
    let mut rig = Rig::with_topics(eager(), &topics(3));
    let mut partitions = 3;
    let mut consumers: Vec<(Consumer, ConsumerHeartbeat, Option<RequestToken>)> = Vec::new();
    for action in actions {
        let chosen = |index: u8, all: usize| (all > 0).then(|| usize::from(index) % all.max(1));
        let count = consumers.len();
        match action {
            ConsumerAction::Beat(index) | ConsumerAction::LostBeat(index) => {
                if let Some(index) = chosen(index, count) {
                    let (consumer, template, waiting) = &mut consumers[index];
                    let heartbeat = ConsumerHeartbeat {
                        member_epoch: consumer.epoch,
                        topic_partitions: Some(consumer.owned.clone().into_iter().collect()),
                        ..template.clone()
                    };
                    let token = rig.ask(GroupRequest::ConsumerHeartbeat(heartbeat));
                    *waiting = matches!(action, ConsumerAction::Beat(_)).then_some(token);
                }
            }
            ConsumerAction::Leave(index) | ConsumerAction::LeaveForNow(index) => {
                if let Some(index) = chosen(index, count) {
                    let (_, template, _) = consumers.remove(index);
                    let member_epoch = if matches!(action, ConsumerAction::Leave(_)) { -1 } else { -2 };
                    rig.ask(GroupRequest::ConsumerHeartbeat(ConsumerHeartbeat { member_epoch, ..template }));
                }
            }
            ConsumerAction::Start { id, instance, topics } => {
                let subscriptions: [&[&str]; 4] = [&["t"], &["u"], &["t", "u"], &[]];
                let names = subscriptions[usize::from(topics)];
                let consumer = Consumer::new(&format!("member-{id}-{count}"), names);
                let mut template = consumer.full();
                template.instance_id = instance.map(|index| text(&format!("instance-{index}")));
                template.subscribed_topic_regex = names.is_empty().then(|| text("[tu]"));
                consumers.push((consumer, template, None));
            }
            ConsumerAction::Topics { partitions: more } => {
                partitions = partitions.max(i32::from(more));
                rig.topics(&topics(partitions));
            }
            ConsumerAction::Advance { seconds } => rig.advance(Duration::from_secs(seconds.into())),
            ConsumerAction::Disk(index) => rig.disk = [Disk::Works, Disk::Slow, Disk::Full][usize::from(index)],
            ConsumerAction::Release { works: true } => {
                rig.release(Ok(()));
            }
            // A write that fails takes the later ones with it.
            ConsumerAction::Release { works: false } => while rig.release(Err(PersistError::Storage)) {},
        }
        if rig.disk != Disk::Slow {
            while rig.release(Ok(())) {}
        }
        for (consumer, _, waiting) in &mut consumers {
            if let Some(token) = *waiting
                && let Some(GroupAnswer::ConsumerHeartbeat(answer)) = rig.answer(token)
            {
                *waiting = None;
                match answer.error {
                    None => {
                        consumer.take(&answer);
                    }
                    Some(GroupError::NotCoordinator) => {}
                    // Abandons everything and joins again.
                    Some(_) => {
                        consumer.epoch = 0;
                        consumer.owned.clear();
                    }
                }
            }
        }
    }
    rig.disk = Disk::Works;
    while rig.release(Ok(())) {}
    let describe = |rig: &mut Rig| {
        let token = rig.ask(GroupRequest::ConsumerDescribe(vec![text("g")]));
        rig.answered(token)
    };
    let before = describe(&mut rig);
    rig.restart();
    rig.topics(&topics(partitions));
    assert_eq!(describe(&mut rig), before);
}

proptest! {
    #[test]
    fn a_restart_finds_the_consumer_group_that_was_durable(
        actions in proptest::collection::vec(consumer_action(), 0..120),
    ) {
        run_consumers(actions);
    }
}
