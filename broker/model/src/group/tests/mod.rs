//! A coordinator with a log of its own and a clock that the test moves.

mod classic;
mod consumer;
mod formats;
mod offsets;
mod replay;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tidegate_records::time::{Instant, Now, Timestamp};

use super::*;

/// What the rig does with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    Works,
    /// Writes wait for [`Rig::release`].
    Slow,
    Full,
}

/// Records on their way to the log.
type Held = (PersistToken, i32, Vec<(Bytes, Option<Bytes>)>);

pub(super) struct Rig {
    pub(super) coordinator: GroupCoordinator,
    pub(super) config: GroupConfig,
    pub(super) now: Now,
    pub(super) disk: Disk,
    /// What is durable, in order.
    pub(super) log: Vec<(i32, Bytes, Option<Bytes>)>,
    held: VecDeque<Held>,
    answers: BTreeMap<RequestToken, GroupAnswer>,
    tokens: u64,
}

pub(super) fn text(text: &str) -> Text {
    text.into()
}

/// Settings without the delay of the first rebalance.
pub(super) fn prompt() -> GroupConfig {
    GroupConfig { initial_rebalance_delay: Duration::ZERO, ..GroupConfig::default() }
}

impl Rig {
    pub(super) fn new(config: GroupConfig) -> Self {
        let mut rig = Self {
            coordinator: GroupCoordinator::new(config.clone(), 7),
            config,
            now: Now { instant: Instant(0), wall: Timestamp(1_700_000_000_000) },
            disk: Disk::Works,
            log: Vec::new(),
            held: VecDeque::new(),
            answers: BTreeMap::new(),
            tokens: 0,
        };
        rig.load();
        rig
    }

    /// The coordinator after a restart: what the log says, and nothing else.
    pub(super) fn restart(&mut self) {
        self.coordinator = GroupCoordinator::new(self.config.clone(), 8);
        self.held.clear();
        self.answers.clear();
        self.load();
    }

    fn load(&mut self) {
        for partition in 0..self.config.offsets_partitions {
            self.step(GroupInput::LoadStart { partition });
            let records = self.log.iter().enumerate().filter(|(_, (of, _, _))| *of == partition);
            let records = records.map(|(offset, (_, key, value))| StoredRecord {
                offset: Offset(offset as i64),
                key: key.clone(),
                value: value.clone(),
            });
            let records = records.collect();
            self.step(GroupInput::Loaded { partition, records });
            self.step(GroupInput::LoadEnd { partition });
        }
    }

    pub(super) fn step(&mut self, input: GroupInput) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut effects = Vec::new();
            self.coordinator.step(self.now, input, &mut effects);
            for effect in effects {
                match effect {
                    GroupEffect::Answer { token, answer } => {
                        let earlier = self.answers.insert(token, answer);
                        assert_eq!(earlier, None, "one answer for each request");
                    }
                    GroupEffect::Persist { token, partition, records } => match self.disk {
                        Disk::Works => {
                            self.append(partition, records);
                            inputs.push_back(GroupInput::Persisted { token, result: Ok(()) });
                        }
                        Disk::Slow => self.held.push_back((token, partition, records)),
                        Disk::Full => {
                            inputs.push_back(GroupInput::Persisted { token, result: Err(PersistError::Storage) });
                        }
                    },
                    GroupEffect::Unreadable { error, .. } => panic!("a record of our own is unreadable: {error}"),
                }
            }
        }
    }

    fn append(&mut self, partition: i32, records: Vec<(Bytes, Option<Bytes>)>) {
        self.log.extend(records.into_iter().map(|(key, value)| (partition, key, value)));
    }

    /// Ends the oldest write that a slow disk holds. Says whether there was one.
    pub(super) fn release(&mut self, result: Result<(), PersistError>) -> bool {
        let Some((token, partition, records)) = self.held.pop_front() else { return false };
        if result.is_ok() {
            self.append(partition, records);
        }
        self.step(GroupInput::Persisted { token, result });
        true
    }

    pub(super) fn ask(&mut self, request: GroupRequest) -> RequestToken {
        self.tokens += 1;
        let token = RequestToken(self.tokens);
        self.step(GroupInput::Request { token, request });
        token
    }

    pub(super) fn answer(&mut self, token: RequestToken) -> Option<GroupAnswer> {
        self.answers.remove(&token)
    }

    /// The answer that must be there by now.
    pub(super) fn answered(&mut self, token: RequestToken) -> GroupAnswer {
        self.answer(token).expect("the request is answered by now")
    }

    /// Lets time pass, deadline by deadline.
    pub(super) fn advance(&mut self, duration: Duration) {
        let end = self.now.instant + duration;
        while let Some(at) = self.coordinator.next_deadline().filter(|at| *at <= end) {
            self.move_clock(at);
            self.step(GroupInput::Tick);
        }
        self.move_clock(end);
    }

    fn move_clock(&mut self, to: Instant) {
        let passed = to.since(self.now.instant);
        self.now.wall.0 += i64::try_from(passed.as_millis()).expect("tests are short");
        self.now.instant = to.max(self.now.instant);
    }

    pub(super) fn join(&mut self, join: JoinGroup) -> RequestToken {
        self.ask(GroupRequest::Join(join))
    }

    pub(super) fn joined(&mut self, token: RequestToken) -> JoinAnswer {
        match self.answered(token) {
            GroupAnswer::Join(answer) => answer,
            other => panic!("not an answer to a join: {other:?}"),
        }
    }

    pub(super) fn sync(&mut self, member: &JoinAnswer, assignments: &[(&Text, &str)]) -> RequestToken {
        let assignments =
            assignments.iter().map(|(id, bytes)| ((*id).clone(), Bytes::copy_from_slice(bytes.as_bytes()))).collect();
        self.ask(GroupRequest::Sync(SyncGroup {
            group_id: text("g"),
            generation: member.generation,
            member_id: member.member_id.clone(),
            group_instance_id: None,
            protocol_type: Some(text("consumer")),
            protocol_name: None,
            assignments,
        }))
    }

    pub(super) fn synced(&mut self, token: RequestToken) -> SyncAnswer {
        match self.answered(token) {
            GroupAnswer::Sync(answer) => answer,
            other => panic!("not an answer to a sync: {other:?}"),
        }
    }

    pub(super) fn heartbeat(&mut self, member_id: &Text, generation: i32) -> Result<(), GroupError> {
        let token = self.ask(GroupRequest::Heartbeat(Heartbeat {
            group_id: text("g"),
            generation,
            member_id: member_id.clone(),
            group_instance_id: None,
        }));
        match self.answered(token) {
            GroupAnswer::Heartbeat(result) => result,
            other => panic!("not an answer to a heartbeat: {other:?}"),
        }
    }

    pub(super) fn leave(&mut self, member_id: &Text, instance_id: Option<&str>) -> LeaveAnswer {
        let member = LeavingMember { member_id: member_id.clone(), group_instance_id: instance_id.map(text) };
        let token = self.ask(GroupRequest::Leave(LeaveGroup { group_id: text("g"), members: vec![member] }));
        match self.answered(token) {
            GroupAnswer::Leave(answer) => answer,
            other => panic!("not an answer to a leave: {other:?}"),
        }
    }

    pub(super) fn state(&self, group: &str) -> Option<&'static str> {
        self.coordinator.groups().find(|(id, _)| ***id == *group).map(|(_, state)| state)
    }
}

/// The subscription of a consumer to these topics, as version 0 of its protocol writes it.
pub(super) fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = vec![0, 0];
    bytes.extend(u32::try_from(topics.len()).expect("few").to_be_bytes());
    for topic in topics {
        bytes.extend(u16::try_from(topic.len()).expect("short").to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.extend((-1i32).to_be_bytes());
    bytes.into()
}

/// A consumer that joins group "g" for the first time, as JoinGroup 5 and later do.
pub(super) fn consumer() -> JoinGroup {
    JoinGroup {
        group_id: text("g"),
        member_id: text(""),
        group_instance_id: None,
        client_id: text("client"),
        client_host: text("/127.0.0.1"),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: text("consumer"),
        protocols: vec![(text("range"), subscription(&["t"]))],
        known_member_id_required: true,
        skip_assignment_supported: true,
    }
}

pub(super) fn static_consumer(instance_id: &str) -> JoinGroup {
    JoinGroup { group_instance_id: Some(text(instance_id)), ..consumer() }
}

pub(super) fn known(member_id: &Text) -> JoinGroup {
    JoinGroup { member_id: member_id.clone(), ..consumer() }
}
