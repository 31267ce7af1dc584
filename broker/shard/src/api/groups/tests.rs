//! Group requests as frames, through shards with logs in memory.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    ResponseError,
    messages::{
        ApiKey, ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest,
        ConsumerGroupHeartbeatResponse, DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest,
        FindCoordinatorResponse, GroupId, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
        LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest,
        OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, RequestHeader, ResponseHeader, SyncGroupRequest,
        SyncGroupResponse,
        join_group_request::JoinGroupRequestProtocol,
        leave_group_request::MemberIdentity,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic},
        sync_group_request::SyncGroupRequestAssignment,
    },
    protocol::{Decodable, Encodable},
};
use tidegate_model::{
    group::*,
    metadata::{Broker, Committed, MetadataChange, MetadataImage},
    topic_config::BrokerDefaults,
};
use tidegate_records::{
    ids::{BrokerId, LeaderEpoch, Offset, TopicPartition},
    time::{Instant, Timestamp},
};

use super::*;
use crate::{
    ConnectionId, Effect, Input, ShardIdentity, ShardSettings,
    message::{Origin, Reply},
};

const CONNECTION: ConnectionId = ConnectionId(1);

/// A broker without a disk: what is appended is durable at once, and is read from memory.
struct Rig {
    shards: Vec<Shard>,
    now: Now,
    image: Arc<MetadataImage>,
    logs: BTreeMap<TopicPartition, Vec<(Offset, Offset, Bytes)>>,
    /// What the connection on shard 0 was sent.
    sent: VecDeque<Bytes>,
    closed: Option<String>,
    append_budget: usize,
}

impl Rig {
    fn new(shards: u16) -> Self {
        let broker = Broker { id: 1, host: "broker.example".into(), port: 9092, rack: None };
        let image = MetadataImage::new("cluster".into(), broker, BrokerDefaults::default());
        let mut rig = Self {
            shards: Vec::new(),
            now: Now { instant: Instant(1), wall: Timestamp(1_700_000_000_000) },
            image: Arc::new(image),
            logs: BTreeMap::new(),
            sent: VecDeque::new(),
            closed: None,
            append_budget: usize::MAX,
        };
        rig.start(shards);
        rig.create("t", 3);
        rig
    }

    /// Starts shards on what is in the logs.
    fn start(&mut self, shards: u16) {
        let groups = GroupConfig { initial_rebalance_delay: Duration::ZERO, ..GroupConfig::default() };
        let settings = Arc::new(ShardSettings { groups, ..ShardSettings::default() });
        let identity = |shard| ShardIdentity { shard: ShardId(shard), shards, broker: BrokerId(1) };
        self.shards = (0..shards).map(|shard| Shard::new(identity(shard), Arc::clone(&settings))).collect();
        for shard in 0..shards {
            let owned = self.logs.iter().filter(|(id, _)| ownership::owner(**id, shards) == ShardId(shard));
            let recovered = owned.map(|(id, batches)| crate::RecoveredPartition {
                partition: *id,
                log_start_offset: Offset(0),
                log_end_offset: batches.last().map_or(Offset(0), |(_, end, _)| *end),
                epochs: Vec::new(),
                producers: None,
                batches: Vec::new(),
                unsaved_bytes: 0,
                error: None,
            });
            let recovered = recovered.collect();
            self.step(usize::from(shard), Input::Start { image: Arc::clone(&self.image), recovered });
        }
        self.step(0, Input::Connected { connection: CONNECTION, client_host: "/10.0.0.1".into() });
    }

    fn create(&mut self, name: &str, partitions: i32) {
        self.change(MetadataChange::CreateTopic {
            name: name.into(),
            id: String::new(),
            partitions,
            configs: BTreeMap::new(),
        });
    }

    fn change(&mut self, mut change: MetadataChange) {
        if let MetadataChange::CreateTopic { id, name, .. } = &mut change {
            let mut bytes = [7; 16];
            bytes[..name.len().min(16)].copy_from_slice(&name.as_bytes()[..name.len().min(16)]);
            *id = TopicId(bytes).to_hex();
        }
        self.image.validate(&change).expect("the change is valid");
        self.image = Arc::new(self.image.apply(&change));
        for shard in 0..self.shards.len() {
            self.step(shard, Input::Metadata { image: Arc::clone(&self.image) });
        }
    }

    fn step(&mut self, shard: usize, input: Input) {
        let mut inputs = VecDeque::from([(shard, input)]);
        while let Some((at, input)) = inputs.pop_front() {
            let mut effects = Effects::default();
            self.shards[at].set_append_budget(self.append_budget, None);
            self.shards[at].step(self.now, input, &mut effects);
            for effect in effects.list {
                let from = ShardId(at as u16);
                match effect {
                    Effect::Send { chunks, .. } => self.sent.extend(chunks),
                    Effect::Close { reason, .. } => self.closed = Some(reason),
                    Effect::Ask { to, request, ask } => {
                        let origin = Origin { shard: from, request };
                        inputs.push_back((usize::from(to.0), Input::Asked { origin, ask }));
                    }
                    Effect::Reply { to, request, reply } => {
                        inputs.push_back((usize::from(to.0), Input::Replied { request, reply }));
                    }
                    Effect::Append { partition, batch } => {
                        let mut bytes = BytesMut::from(&batch.bytes[..]);
                        tidegate_records::batch::stamp(&mut bytes, batch.base_offset, batch.leader_epoch);
                        let end = batch.base_offset.plus(i64::from(batch.header.last_offset_delta) + 1);
                        self.logs.entry(partition).or_default().push((batch.base_offset, end, bytes.freeze()));
                        inputs.push_back((at, Input::Durable { partitions: vec![(partition, end)] }));
                    }
                    Effect::Read { read, partition, from, up_to, .. } => {
                        let log = self.logs.get(&partition).into_iter().flatten();
                        let wanted = log.filter(|(base, end, _)| *end > from && *base < up_to);
                        let batches: Vec<Bytes> = wanted.map(|(_, _, bytes)| bytes.clone()).collect();
                        inputs.push_back((at, Input::ReadDone { read, outcome: Ok(batches) }));
                    }
                    Effect::Propose { request, tag, change } => {
                        self.change(change);
                        let committed = Committed { image: Arc::clone(&self.image), first_producer_id: None };
                        let reply = Reply::Proposed { tag, result: Ok(committed) };
                        inputs.push_back((at, Input::Replied { request, reply }));
                    }
                    Effect::CreatePartition { partition } => {
                        self.logs.insert(partition, Vec::new());
                    }
                    _ => {}
                }
            }
        }
    }

    fn send<T: Encodable>(&mut self, api: ApiKey, version: i16, body: &T) {
        let mut frame = BytesMut::new();
        let header = RequestHeader::default()
            .with_request_api_key(api as i16)
            .with_request_api_version(version)
            .with_correlation_id(7)
            .with_client_id(Some(StrBytes::from_static_str("client")));
        header.encode(&mut frame, api.request_header_version(version)).expect("a header");
        body.encode(&mut frame, version).expect("a request");
        self.step(0, Input::Frame { connection: CONNECTION, frame: frame.freeze() });
        assert_eq!(self.closed, None);
    }

    fn received<T: Decodable>(&mut self, api: ApiKey, version: i16) -> Option<T> {
        let mut frame = self.sent.pop_front()?;
        let length = frame.split_to(4);
        assert_eq!(u32::from_be_bytes(length[..].try_into().expect("four")) as usize, frame.len());
        let header = ResponseHeader::decode(&mut frame, api.response_header_version(version)).expect("a header");
        assert_eq!(header.correlation_id, 7);
        let response = T::decode(&mut frame, version).expect("a response");
        assert!(frame.is_empty(), "nothing follows");
        Some(response)
    }

    fn ask<T: Decodable>(&mut self, api: ApiKey, version: i16, body: &impl Encodable) -> T {
        self.send(api, version, body);
        self.received(api, version).expect("it is answered by now")
    }

    fn find_coordinator(&mut self, version: i16) -> FindCoordinatorResponse {
        let key = StrBytes::from_static_str("g");
        let body = if version >= 4 {
            FindCoordinatorRequest::default().with_coordinator_keys(vec![key])
        } else {
            FindCoordinatorRequest::default().with_key(key)
        };
        self.ask(ApiKey::FindCoordinator, version, &body)
    }

    fn join(&mut self, version: i16, member_id: &StrBytes) -> JoinGroupResponse {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(StrBytes::from_static_str("range"))
            .with_metadata(Bytes::from_static(&[0, 0, 0, 0, 0, 0, 255, 255, 255, 255]));
        let body = JoinGroupRequest::default()
            .with_group_id(group_id("g"))
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(if version == 0 { -1 } else { 60_000 })
            .with_member_id(member_id.clone())
            .with_protocol_type(StrBytes::from_static_str("consumer"))
            .with_protocols(vec![protocol]);
        self.ask(ApiKey::JoinGroup, version, &body)
    }

    fn commit(&mut self, version: i16, group: &str, topic: &'static str, offset: i64) -> OffsetCommitResponse {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(1)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(StrBytes::from_static_str("note")));
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(StrBytes::from_static_str(topic)))
            .with_partitions(vec![partition]);
        let body = OffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        self.ask(ApiKey::OffsetCommit, version, &body)
    }

    fn fetch_all(&mut self, groups: &[&str]) -> Vec<(String, i16, Vec<i64>)> {
        let groups = groups
            .iter()
            .map(|id| OffsetFetchRequestGroup::default().with_group_id(group_id(id)).with_topics(None))
            .collect();
        let body = OffsetFetchRequest::default().with_groups(groups);
        let response: OffsetFetchResponse = self.ask(ApiKey::OffsetFetch, 9, &body);
        let groups = response.groups.into_iter().map(|group| {
            let offsets = group.topics.iter().flat_map(|topic| &topic.partitions);
            let offsets = offsets.map(|partition| partition.committed_offset).collect();
            (group.group_id.0.to_string(), group.error_code, offsets)
        });
        let mut groups: Vec<_> = groups.collect();
        groups.sort();
        groups
    }
}

fn group_id(id: &str) -> GroupId {
    GroupId(StrBytes::from_string(id.to_owned()))
}

#[test]
fn the_coordinator_is_this_broker_in_every_version() {
    for version in 0..=6 {
        let mut rig = Rig::new(2);
        let response = rig.find_coordinator(version);
        let (node, host, port) = match response.coordinators.first() {
            Some(coordinator) => (coordinator.node_id, coordinator.host.clone(), coordinator.port),
            None => (response.node_id, response.host.clone(), response.port),
        };
        assert_eq!((node.0, &*host, port, response.error_code), (1, "broker.example", 9092, 0), "v{version}");
        assert!(rig.image.topic(OFFSETS_TOPIC).is_some(), "the first to ask makes the topic");
    }
}

#[test]
fn transactions_and_share_groups_have_no_coordinator_yet() {
    let mut rig = Rig::new(1);
    let check = |rig: &mut Rig, key_type, expected: ResponseError| {
        let keys = vec![StrBytes::from_static_str("x")];
        let body = FindCoordinatorRequest::default().with_key_type(key_type).with_coordinator_keys(keys);
        let response: FindCoordinatorResponse = rig.ask(ApiKey::FindCoordinator, 6, &body);
        let coordinator = &response.coordinators[0];
        assert_eq!((coordinator.error_code, coordinator.node_id.0), (expected.code(), -1));
        assert!(coordinator.error_message.is_some());
    };
    check(&mut rig, 1, ResponseError::UnsupportedVersion);
    check(&mut rig, 2, ResponseError::InvalidRequest);
    check(&mut rig, 9, ResponseError::InvalidRequest);
}

#[test]
fn a_member_joins_syncs_beats_and_leaves_in_every_version() {
    for version in 0..=9 {
        let mut rig = Rig::new(2);
        rig.find_coordinator(0);
        let mut joined = rig.join(version, &StrBytes::default());
        if version >= 4 {
            assert_eq!(joined.error_code, ResponseError::MemberIdRequired.code());
            joined = rig.join(version, &joined.member_id);
        }
        assert_eq!((joined.error_code, joined.generation_id, joined.members.len()), (0, 1, 1), "v{version}");
        assert!(joined.member_id.starts_with("client-"));
        assert_eq!(joined.leader, joined.member_id);

        let sync_version = version.min(5);
        let assignment = SyncGroupRequestAssignment::default()
            .with_member_id(joined.member_id.clone())
            .with_assignment(Bytes::from_static(b"yours"));
        let named = sync_version >= 5;
        let sync = SyncGroupRequest::default()
            .with_group_id(group_id("g"))
            .with_generation_id(1)
            .with_member_id(joined.member_id.clone())
            .with_protocol_type(named.then(|| StrBytes::from_static_str("consumer")))
            .with_protocol_name(named.then(|| StrBytes::from_static_str("range")))
            .with_assignments(vec![assignment]);
        let synced: SyncGroupResponse = rig.ask(ApiKey::SyncGroup, sync_version, &sync);
        assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"yours"[..]));

        let beat = HeartbeatRequest::default()
            .with_group_id(group_id("g"))
            .with_generation_id(1)
            .with_member_id(joined.member_id.clone());
        let beaten: HeartbeatResponse = rig.ask(ApiKey::Heartbeat, version.min(4), &beat);
        assert_eq!(beaten.error_code, 0);

        let leave_version = version.min(5);
        let mut leave = LeaveGroupRequest::default().with_group_id(group_id("g"));
        if leave_version < 3 {
            leave.member_id = joined.member_id.clone();
        } else {
            leave.members = vec![MemberIdentity::default().with_member_id(joined.member_id.clone())];
        }
        let left: LeaveGroupResponse = rig.ask(ApiKey::LeaveGroup, leave_version, &leave);
        assert_eq!((left.error_code, left.members.len()), (0, usize::from(leave_version >= 3)));
        let left: LeaveGroupResponse = rig.ask(ApiKey::LeaveGroup, leave_version, &leave);
        let unknown = ResponseError::UnknownMemberId.code();
        assert!(left.error_code == unknown || left.members[0].error_code == unknown);
    }
}

#[test]
fn a_sync_without_its_protocol_is_refused() {
    let mut rig = Rig::new(1);
    rig.find_coordinator(0);
    let body = SyncGroupRequest::default().with_group_id(group_id("g"));
    let response: SyncGroupResponse = rig.ask(ApiKey::SyncGroup, 5, &body);
    assert_eq!(response.error_code, ResponseError::InconsistentGroupProtocol.code());
}

#[test]
fn offsets_are_committed_and_fetched_in_every_version() {
    let mut rig = Rig::new(2);
    rig.find_coordinator(0);
    for version in 2..=9 {
        let response = rig.commit(version, "g", "t", i64::from(version));
        assert_eq!(response.topics[0].partitions[0].error_code, 0, "v{version}");
        for version in 1..=7 {
            let topic = OffsetFetchRequestTopic::default()
                .with_name(TopicName(StrBytes::from_static_str("t")))
                .with_partition_indexes(vec![0, 1]);
            let body = OffsetFetchRequest::default().with_group_id(group_id("g")).with_topics(Some(vec![topic]));
            let response: OffsetFetchResponse = rig.ask(ApiKey::OffsetFetch, version, &body);
            let [first, second] = &response.topics[0].partitions[..] else { panic!("two partitions") };
            assert_eq!((first.committed_offset, first.metadata.as_deref()), (-1, Some("")));
            assert_eq!(second.metadata.as_deref(), Some("note"));
        }
        assert_eq!(rig.fetch_all(&["g"]), [("g".into(), 0, vec![i64::from(version)])]);
    }
}

#[test]
fn partitions_that_do_not_exist_are_refused_and_the_rest_is_committed() {
    let mut rig = Rig::new(1);
    rig.find_coordinator(0);
    let response = rig.commit(9, "g", "nothing", 1);
    assert_eq!(response.topics[0].partitions[0].error_code, ResponseError::UnknownTopicOrPartition.code());
    assert_eq!(rig.fetch_all(&["g"]), [("g".into(), 0, vec![])]);

    let partition =
        |index| OffsetCommitRequestPartition::default().with_partition_index(index).with_committed_offset(4);
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(StrBytes::from_static_str("t")))
        .with_partitions(vec![partition(0), partition(3)]);
    let body = OffsetCommitRequest::default()
        .with_group_id(group_id("g"))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    let response: OffsetCommitResponse = rig.ask(ApiKey::OffsetCommit, 9, &body);
    let codes: Vec<_> = response.topics[0].partitions.iter().map(|answer| answer.error_code).collect();
    assert_eq!(codes, [0, ResponseError::UnknownTopicOrPartition.code()]);
    assert_eq!(rig.fetch_all(&["g"]), [("g".into(), 0, vec![4])]);
}

#[test]
fn groups_of_all_shards_answer_as_one_and_survive_another_number_of_shards() {
    let mut rig = Rig::new(3);
    rig.find_coordinator(0);
    let ids: Vec<String> = (0..10).map(|index| format!("group-{index}")).collect();
    for (offset, id) in ids.iter().enumerate() {
        rig.commit(9, id, "t", offset as i64);
    }
    let names: Vec<&str> = ids.iter().map(String::as_str).collect();
    let expected: Vec<_> = ids.iter().enumerate().map(|(offset, id)| (id.clone(), 0, vec![offset as i64])).collect();
    assert_eq!(rig.fetch_all(&names), expected);
    for version in 0..=5 {
        let listed: ListGroupsResponse = rig.ask(ApiKey::ListGroups, version, &ListGroupsRequest::default());
        assert_eq!((listed.error_code, listed.groups.len()), (0, 10), "v{version}");
    }
    assert_eq!(rig.shards.iter().map(|shard| shard.committed_offsets().count()).sum::<usize>(), 10);

    rig.start(2);
    assert_eq!(rig.fetch_all(&names), expected);

    let body = DeleteGroupsRequest::default().with_groups_names(names.iter().map(|id| group_id(id)).collect());
    let deleted: kafka_protocol::messages::DeleteGroupsResponse = rig.ask(ApiKey::DeleteGroups, 2, &body);
    assert!(deleted.results.iter().all(|result| result.error_code == 0) && deleted.results.len() == 10);
    rig.start(1);
    assert!(rig.fetch_all(&names).iter().all(|(_, error, offsets)| *error == 0 && offsets.is_empty()));
}

#[test]
fn without_the_topic_there_is_no_coordinator() {
    let mut rig = Rig::new(1);
    let listed: ListGroupsResponse = rig.ask(ApiKey::ListGroups, 5, &ListGroupsRequest::default());
    assert_eq!((listed.error_code, listed.groups.len()), (0, 0));
    let not_coordinator = ResponseError::NotCoordinator.code();
    assert_eq!(rig.fetch_all(&["g"]), [("g".into(), not_coordinator, vec![])]);
    // Version 1 has no error for the whole.
    let topic = OffsetFetchRequestTopic::default()
        .with_name(TopicName(StrBytes::from_static_str("t")))
        .with_partition_indexes(vec![0]);
    let body = OffsetFetchRequest::default().with_group_id(group_id("g")).with_topics(Some(vec![topic]));
    let response: OffsetFetchResponse = rig.ask(ApiKey::OffsetFetch, 1, &body);
    assert_eq!(response.topics[0].partitions[0].error_code, not_coordinator);
}

#[test]
fn an_unknown_group_is_dead_and_from_version_6_an_error() {
    let mut rig = Rig::new(2);
    rig.find_coordinator(0);
    for version in 0..=6 {
        let body = DescribeGroupsRequest::default().with_groups(vec![group_id("nobody")]);
        let response: kafka_protocol::messages::DescribeGroupsResponse =
            rig.ask(ApiKey::DescribeGroups, version, &body);
        let group = &response.groups[0];
        let expected = if version >= 6 { ResponseError::GroupIdNotFound.code() } else { 0 };
        assert_eq!((group.error_code, &*group.group_state), (expected, "Dead"), "v{version}");
        assert_eq!(group.authorized_operations, i32::MIN);
    }
}

/// Every answer of the coordinator has a response in every version of its API.
#[test]
fn every_answer_can_be_written_in_every_version() {
    fn check<T: Encodable>(api: ApiKey, write: impl Fn(i16) -> T) {
        let range = super::super::VERSIONS.iter().find(|versions| versions.api == api).expect("implemented");
        for version in range.min..=range.max {
            let written = write(version).encode(&mut BytesMut::new(), version);
            assert!(written.is_ok(), "{api:?} v{version}: {written:?}");
        }
    }
    let text = |text: &str| Text::from(text);
    let error = GroupError::UnknownMemberId;
    for error in [None, Some(error)] {
        check(ApiKey::JoinGroup, |version| {
            let member = JoinedMember {
                member_id: text("m"),
                group_instance_id: Some(text("i")),
                metadata: Bytes::from_static(b"x"),
            };
            join_group::write(
                version,
                JoinAnswer {
                    error,
                    generation: 1,
                    protocol_type: error.is_none().then(|| text("consumer")),
                    protocol_name: error.is_none().then(|| text("range")),
                    leader: text("m"),
                    skip_assignment: version >= 9,
                    member_id: text("m"),
                    members: vec![member],
                },
            )
        });
        check(ApiKey::SyncGroup, |version| {
            sync_group::write(
                version,
                SyncAnswer {
                    error,
                    protocol_type: Some(text("consumer")),
                    protocol_name: Some(text("range")),
                    assignment: Bytes::from_static(b"x"),
                },
            )
        });
        check(ApiKey::Heartbeat, |_| heartbeat::write(error.map_or(Ok(()), Err)));
        check(ApiKey::LeaveGroup, |version| {
            let member = LeavingMember { member_id: text("m"), group_instance_id: Some(text("i")) };
            leave_group::write(version, LeaveAnswer { error, members: vec![(member, error)] })
        });
        let committed = || CommittedTopic { name: text("t"), id: TopicId([1; 16]), partitions: vec![(0, error)] };
        check(ApiKey::OffsetCommit, |_| offset_commit::write(vec![committed()], vec![(TopicName(wire("u")), vec![1])]));
        check(ApiKey::OffsetDelete, |_| {
            offset_delete::write(error.map_or(Ok(vec![committed()]), Err), vec![(TopicName(wire("u")), vec![1])])
        });
        check(ApiKey::OffsetFetch, |version| {
            let offset =
                FetchedOffset { partition: 1, offset: Offset(5), leader_epoch: LeaderEpoch(3), metadata: text("note") };
            let topics = vec![FetchedTopic { name: text("t"), id: TopicId([1; 16]), partitions: vec![offset] }];
            let group = FetchedGroup { group_id: text("g"), error, topics };
            offset_fetch::write(version, vec![group], vec![(TopicName(wire("t")), vec![1])])
        });
        check(ApiKey::ListGroups, |version| {
            let group = ListedGroup {
                group_id: text("g"),
                protocol_type: text("consumer"),
                state: "Stable",
                group_type: "Classic",
            };
            list_groups::write(version, error.map_or(Ok(vec![group]), Err))
        });
        check(ApiKey::DescribeGroups, |version| {
            let member = DescribedMember {
                member_id: text("m"),
                group_instance_id: Some(text("i")),
                client_id: text("c"),
                client_host: text("/h"),
                metadata: Bytes::from_static(b"x"),
                assignment: Bytes::from_static(b"y"),
            };
            let group = DescribedGroup {
                group_id: text("g"),
                error,
                state: "Stable",
                protocol_type: text("consumer"),
                protocol_data: text("range"),
                members: vec![member],
            };
            describe_groups::write(version, vec![group], operations(&Kept::WithOperations(true)))
        });
        check(ApiKey::DeleteGroups, |_| delete_groups::write(vec![(text("g"), error)]));
        check(ApiKey::ConsumerGroupHeartbeat, |_| {
            consumer_group_heartbeat::write(ConsumerHeartbeatAnswer {
                error,
                error_message: error.map(|error| error.to_string().into()),
                member_id: Some(text("m")),
                member_epoch: 3,
                heartbeat_interval_ms: 5000,
                assignment: Some(vec![(TopicId([1; 16]), vec![0, 1])]),
            })
        });
        check(ApiKey::ConsumerGroupDescribe, |version| {
            let topic = DescribedTopic { id: TopicId([1; 16]), name: text("t"), partitions: vec![0] };
            let member = DescribedConsumerMember {
                member_id: text("m"),
                instance_id: Some(text("i")),
                rack_id: Some(text("r")),
                member_epoch: 3,
                client_id: text("c"),
                client_host: text("/h"),
                subscribed_topic_names: vec![text("t")],
                subscribed_topic_regex: Some(text("t.*")),
                assignment: vec![topic.clone()],
                target_assignment: vec![topic],
            };
            let group = DescribedConsumerGroup {
                group_id: text("g"),
                error,
                error_message: None,
                state: "Stable",
                group_epoch: 3,
                assignment_epoch: 3,
                assignor: text("uniform"),
                members: vec![member],
            };
            consumer_group_describe::write(version, vec![group], operations(&Kept::WithOperations(false)))
        });
    }
}

#[test]
fn a_consumer_joins_heartbeats_and_is_described_in_every_version() {
    for version in 0..=1 {
        let mut rig = Rig::new(2);
        rig.find_coordinator(0);
        let mut beat = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id("g"))
            .with_member_id(StrBytes::from_static_str("m"))
            .with_rebalance_timeout_ms(60_000)
            .with_subscribed_topic_names(Some(vec![TopicName(StrBytes::from_static_str("t"))]))
            .with_topic_partitions(Some(Vec::new()));
        let joined: ConsumerGroupHeartbeatResponse = rig.ask(ApiKey::ConsumerGroupHeartbeat, version, &beat);
        assert_eq!((joined.error_code, joined.member_epoch, joined.member_id.as_deref()), (0, 1, Some("m")));
        let assigned = &joined.assignment.expect("it is told what it gets").topic_partitions[0];
        assert_eq!(assigned.partitions, [0, 1, 2]);
        assert_eq!(Some(TopicId(assigned.topic_id.into_bytes())), rig.image.topic("t").map(|topic| topic.id));

        let body = ConsumerGroupDescribeRequest::default()
            .with_group_ids(vec![group_id("g"), group_id("nobody")])
            .with_include_authorized_operations(true);
        let described: ConsumerGroupDescribeResponse = rig.ask(ApiKey::ConsumerGroupDescribe, version, &body);
        let found = described.groups.iter().find(|group| group.error_code == 0).expect("the group");
        assert_eq!((&*found.group_state, found.members.len(), &*found.assignor_name), ("Stable", 1, "uniform"));
        assert_eq!(&*found.members[0].client_host, "/10.0.0.1");
        assert!(found.authorized_operations > 0);
        let missing = ResponseError::GroupIdNotFound.code();
        assert!(described.groups.iter().any(|group| group.error_code == missing));

        beat.member_epoch = -1;
        let left: ConsumerGroupHeartbeatResponse = rig.ask(ApiKey::ConsumerGroupHeartbeat, version, &beat);
        assert_eq!((left.error_code, left.member_epoch), (0, -1));
        beat.member_epoch = 5;
        let refused: ConsumerGroupHeartbeatResponse = rig.ask(ApiKey::ConsumerGroupHeartbeat, version, &beat);
        assert_eq!(refused.error_code, ResponseError::UnknownMemberId.code());
        assert!(refused.error_message.is_some());
    }
}

#[test]
fn a_disk_that_is_full_refuses_commits_and_loses_none() {
    let mut rig = Rig::new(1);
    rig.find_coordinator(0);
    rig.commit(9, "g", "t", 1);
    rig.append_budget = 0;
    let response = rig.commit(9, "g", "t", 2);
    assert_eq!(response.topics[0].partitions[0].error_code, ResponseError::NotCoordinator.code());
    assert_eq!(rig.fetch_all(&["g"]), [("g".into(), 0, vec![1])]);
    rig.append_budget = usize::MAX;
    let response = rig.commit(9, "g", "t", 3);
    assert_eq!(response.topics[0].partitions[0].error_code, 0);
    assert_eq!(rig.fetch_all(&["g"]), [("g".into(), 0, vec![3])]);
}

#[test]
fn requests_about_no_group_are_answered() {
    let mut rig = Rig::new(2);
    rig.find_coordinator(0);
    assert_eq!(rig.fetch_all(&[]), []);
    let described: kafka_protocol::messages::DescribeGroupsResponse =
        rig.ask(ApiKey::DescribeGroups, 6, &DescribeGroupsRequest::default());
    assert!(described.groups.is_empty());
}
