//! The requests: for each API a few good ones and what can be wrong with it.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::{
    messages::{
        consumer_group_heartbeat_request as consumer_heartbeat, create_partitions_request as create_partitions,
        create_topics_request as create_topics, delete_records_request as delete_records,
        delete_topics_request as delete_topics, describe_configs_request as describe_configs,
        describe_log_dirs_request as log_dirs, describe_producers_request as producers,
        describe_topic_partitions_request as topic_partitions, fetch_request as fetch,
        incremental_alter_configs_request as incremental, list_offsets_request as list_offsets,
        metadata_request as metadata, offset_commit_request as commit, offset_delete_request as offset_delete,
        offset_fetch_request as offset_fetch, offset_for_leader_epoch_request as epochs, produce_request as produce, *,
    },
    protocol::StrBytes,
};
use tidegate_records::{batch::Compression, build::BatchBuilder, time::Timestamp};
use uuid::Uuid;

/// What earlier answers told.
#[derive(Default)]
pub(super) struct Known {
    /// Ids by name.
    pub(super) topics: BTreeMap<String, Uuid>,
    /// Strings that differ from run to run, in the order in which they came.
    seen: std::cell::RefCell<Vec<String>>,
}

const NOWHERE: Uuid = Uuid::from_u128(0x77);

impl Known {
    pub(super) fn id(&self, name: &str) -> Uuid {
        self.topics.get(name).copied().unwrap_or(NOWHERE)
    }

    /// The debug form without defaults that say nothing, and with names for what differs from run to run.
    pub(super) fn plain(&self, debug: &str, version: i16) -> String {
        let mut text = debug.to_owned();
        for noise in [", unknown_tagged_fields: {}", "throttle_time_ms: 0, "] {
            text = text.replace(noise, "");
        }
        text = text.replace(&format!("-v{version}\""), "-vN\"");
        // Addresses, directories and sizes of the machine, and ids that are drawn.
        for field in
            ["port: ", "log_dir: \"", "total_bytes: ", "usable_bytes: ", "cluster_id: \"", "cluster_id: Some(\""]
        {
            text = mask(&text, field);
        }
        let mut out = String::new();
        let mut rest = text.as_str();
        while let Some(at) = rest.find(|letter: char| letter.is_ascii_hexdigit()) {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let word = rest.find(|letter: char| !(letter.is_ascii_hexdigit() || letter == '-')).unwrap_or(rest.len());
            let (this, after) = rest.split_at(word);
            match Uuid::try_parse(this) {
                Ok(id) if this.len() == 36 && !id.is_nil() => out.push_str(&self.name(this)),
                _ => out.push_str(this),
            }
            rest = after;
        }
        out.push_str(rest);
        out
    }

    fn name(&self, word: &str) -> String {
        if let Some((name, _)) = self.topics.iter().find(|(_, id)| id.to_string() == word) {
            return format!("id-of-{name}");
        }
        let mut seen = self.seen.borrow_mut();
        if !seen.iter().any(|other| other == word) {
            seen.push(word.to_owned());
        }
        "some-id".to_owned()
    }
}

/// Replaces the value that follows each `field`.
fn mask(text: &str, field: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(field) {
        let (before, after) = rest.split_at(at + field.len());
        out.push_str(before);
        let end =
            after.find(|letter: char| !letter.is_alphanumeric() && !"-_/.".contains(letter)).unwrap_or(after.len());
        if end > 0 {
            out.push('*');
        }
        rest = &after[end..];
    }
    out + rest
}

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(super) fn name(name: &str) -> TopicName {
    TopicName(text(name))
}

pub(super) fn group(name: &str) -> GroupId {
    GroupId(text(name))
}

/// Three records of 1970.
fn batch() -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for n in 0..3_i64 {
        builder.push(Timestamp(1000 + n), Some(b"k"), Some(b"value"), []);
    }
    builder.build().0
}

fn new_topic(called: &str, partitions: i32, configs: &[(&str, &str)]) -> create_topics::CreatableTopic {
    let configs = configs.iter().map(|(key, value)| {
        create_topics::CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value)))
    });
    create_topics::CreatableTopic::default()
        .with_name(name(called))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(configs.collect())
}

fn producing(to: &[(&str, i32, Option<Bytes>)], acks: i16) -> RequestKind {
    let topics = to.iter().map(|(topic, partition, records)| {
        let data = produce::PartitionProduceData::default().with_index(*partition).with_records(records.clone());
        produce::TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data])
    });
    let request = ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(topics.collect());
    RequestKind::Produce(request)
}

/// Requests that must succeed before the rest.
pub(super) fn preparation() -> Vec<(ApiKey, i16, RequestKind)> {
    let topics = vec![
        new_topic("t", 2, &[("retention.ms", "-1")]),
        new_topic("compacted", 1, &[("cleanup.policy", "compact")]),
        new_topic("produced", 1, &[("retention.ms", "-1")]),
        new_topic("many", 5, &[]),
    ];
    let create = CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(30_000);
    let coordinator = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]);
    let committed = commit::OffsetCommitRequestPartition::default()
        .with_committed_offset(2)
        .with_committed_leader_epoch(0)
        .with_committed_metadata(Some(text("note")));
    let simple = OffsetCommitRequest::default()
        .with_group_id(group("simple"))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![
            commit::OffsetCommitRequestTopic::default().with_name(name("t")).with_partitions(vec![committed]),
        ]);
    vec![
        (ApiKey::CreateTopics, 7, RequestKind::CreateTopics(create)),
        (ApiKey::Produce, 9, producing(&[("t", 0, Some(batch()))], -1)),
        (ApiKey::FindCoordinator, 4, RequestKind::FindCoordinator(coordinator)),
        (ApiKey::OffsetCommit, 8, RequestKind::OffsetCommit(simple)),
    ]
}

type Subjects = Vec<(&'static str, RequestKind)>;

/// The requests of one version of an API that do not depend on one another.
pub(super) fn of(api: ApiKey, v: i16, known: &Known) -> Subjects {
    match api {
        ApiKey::Produce => vec![
            ("one batch", producing(&[("t", 1, Some(batch()))], -1)),
            ("acks of the leader", producing(&[("t", 1, Some(batch()))], 1)),
            ("wrong acks", producing(&[("t", 1, Some(batch()))], 7)),
            ("nothing", producing(&[], -1)),
            ("no records", producing(&[("t", 0, None)], -1)),
            ("empty records", producing(&[("t", 0, Some(Bytes::new()))], -1)),
            ("garbage", producing(&[("t", 0, Some(Bytes::from_static(&[7; 80])))], -1)),
            ("unknown", producing(&[("nowhere", 0, Some(batch())), ("t", 9, Some(batch()))], -1)),
            ("without a key", producing(&[("compacted", 0, Some(keyless()))], -1)),
        ],
        ApiKey::Fetch => fetches(v, known),
        ApiKey::ListOffsets => list_offsets(),
        ApiKey::Metadata => metadata(v, known),
        ApiKey::OffsetCommit => commits(v),
        ApiKey::OffsetFetch => offset_fetches(v),
        ApiKey::FindCoordinator => coordinators(v),
        ApiKey::JoinGroup => vec![
            ("an empty group id", RequestKind::JoinGroup(join(v, "", ""))),
            ("an unknown member", RequestKind::JoinGroup(join(v, "strangers", "nobody"))),
            ("no protocols", RequestKind::JoinGroup(join(v, "strangers", "").with_protocols(vec![]))),
            ("no protocol type", RequestKind::JoinGroup(join(v, "strangers", "").with_protocol_type(text("")))),
            ("a short session", RequestKind::JoinGroup(join(v, "strangers", "").with_session_timeout_ms(1))),
            ("a long session", RequestKind::JoinGroup(join(v, "strangers", "").with_session_timeout_ms(i32::MAX))),
        ],
        ApiKey::Heartbeat => {
            let beat = |id: &str| {
                let request = HeartbeatRequest::default().with_group_id(group(id)).with_generation_id(1);
                RequestKind::Heartbeat(request.with_member_id(text("nobody")))
            };
            vec![
                ("an unknown group", beat("none")),
                ("an empty group id", beat("")),
                ("an empty group", beat("simple")),
            ]
        }
        ApiKey::LeaveGroup => {
            let leave = |id: &str| {
                let request = LeaveGroupRequest::default().with_group_id(group(id));
                RequestKind::LeaveGroup(if v < 3 {
                    request.with_member_id(text("nobody"))
                } else {
                    let one = leave_group_request::MemberIdentity::default().with_member_id(text("nobody"));
                    let two =
                        leave_group_request::MemberIdentity::default().with_group_instance_id(Some(text("static")));
                    request.with_members(vec![one, two])
                })
            };
            vec![("an unknown group", leave("none")), ("an empty group id", leave("")), ("a stranger", leave("simple"))]
        }
        ApiKey::SyncGroup => {
            let sync = |id: &str| {
                let request = SyncGroupRequest::default().with_group_id(group(id)).with_generation_id(1);
                let request = request.with_member_id(text("nobody"));
                RequestKind::SyncGroup(if v < 5 {
                    request
                } else {
                    request.with_protocol_type(Some(text("consumer"))).with_protocol_name(Some(text("range")))
                })
            };
            vec![
                ("an unknown group", sync("none")),
                ("an empty group id", sync("")),
                ("an empty group", sync("simple")),
            ]
        }
        ApiKey::DescribeGroups => {
            let request = DescribeGroupsRequest::default();
            let request = request.with_groups(vec![group("none"), group("simple"), group("")]);
            vec![
                ("three", RequestKind::DescribeGroups(request.with_include_authorized_operations(v >= 3))),
                ("none", RequestKind::DescribeGroups(DescribeGroupsRequest::default())),
            ]
        }
        ApiKey::ListGroups => list_groups(v),
        ApiKey::DeleteGroups => {
            let request = |ids: &[&str]| {
                let ids = ids.iter().map(|id| group(id)).collect();
                RequestKind::DeleteGroups(DeleteGroupsRequest::default().with_groups_names(ids))
            };
            vec![("unknown", request(&["none", ""])), ("none", request(&[]))]
        }
        ApiKey::ApiVersions => {
            let mut request = ApiVersionsRequest::default();
            if v >= 3 {
                // Names that KIP-511 refuses; the rest of the answer is a matter of what each broker has.
                request = request.with_client_software_name(text("-bad-"));
                return vec![("a bad name", RequestKind::ApiVersions(request))];
            }
            vec![]
        }
        ApiKey::CreateTopics => creations(v),
        ApiKey::DeleteTopics => deletions(v),
        ApiKey::DeleteRecords => {
            let delete = |topic: &str, partition, offset| {
                let one = delete_records::DeleteRecordsPartition::default().with_partition_index(partition);
                delete_records::DeleteRecordsTopic::default()
                    .with_name(name(topic))
                    .with_partitions(vec![one.with_offset(offset)])
            };
            let request = |topics| {
                RequestKind::DeleteRecords(DeleteRecordsRequest::default().with_topics(topics).with_timeout_ms(30_000))
            };
            vec![
                ("below the first", request(vec![delete("t", 0, 0)])),
                ("beyond the end", request(vec![delete("t", 0, 99)])),
                ("negative", request(vec![delete("t", 0, -2)])),
                ("compacted", request(vec![delete("compacted", 0, 0)])),
                ("unknown", request(vec![delete("nowhere", 0, 0), delete("t", 9, 0)])),
                ("nothing", request(vec![])),
            ]
        }
        ApiKey::InitProducerId => {
            let request = InitProducerIdRequest::default().with_transactional_id(None);
            let mut subjects =
                vec![("an id", RequestKind::InitProducerId(request.with_transaction_timeout_ms(60_000)))];
            if v >= 3 {
                let half = InitProducerIdRequest::default().with_transactional_id(None).with_producer_id(ProducerId(5));
                subjects.push(("an id without an epoch", RequestKind::InitProducerId(half)));
            }
            let empty = InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(text(""))));
            subjects.push(("an empty transactional id", RequestKind::InitProducerId(empty)));
            subjects
        }
        ApiKey::OffsetForLeaderEpoch => {
            let ask = |topic: &str, partition, epoch, current| {
                let one = epochs::OffsetForLeaderPartition::default()
                    .with_partition(partition)
                    .with_leader_epoch(epoch)
                    .with_current_leader_epoch(current);
                epochs::OffsetForLeaderTopic::default().with_topic(name(topic)).with_partitions(vec![one])
            };
            let request = |topics| {
                let request = OffsetForLeaderEpochRequest::default().with_topics(topics);
                RequestKind::OffsetForLeaderEpoch(if v >= 3 { request.with_replica_id(BrokerId(-1)) } else { request })
            };
            vec![
                ("the epoch", request(vec![ask("t", 0, 0, -1)])),
                ("a later epoch", request(vec![ask("t", 0, 5, -1)])),
                ("a fenced epoch", request(vec![ask("t", 0, 0, 7)])),
                ("no epoch", request(vec![ask("t", 0, -1, -1)])),
                ("unknown", request(vec![ask("nowhere", 0, 0, -1), ask("t", 9, 0, -1)])),
                ("nothing", request(vec![])),
            ]
        }
        ApiKey::DescribeConfigs => {
            let ask = |kind, called: &str, keys: Option<&[&str]>| {
                let keys = keys.map(|keys| keys.iter().map(|key| text(key)).collect());
                let resource = describe_configs::DescribeConfigsResource::default()
                    .with_resource_type(kind)
                    .with_resource_name(text(called))
                    .with_configuration_keys(keys);
                let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
                let request = request.with_include_synonyms(true);
                RequestKind::DescribeConfigs(request)
            };
            vec![
                ("one key", ask(2, "t", Some(&["retention.ms", "retention.bytes", "no.such.key"]))),
                ("no key", ask(2, "t", Some(&[]))),
                ("unknown topic", ask(2, "nowhere", None)),
                ("bad name", ask(2, "a b", None)),
                ("another broker", ask(4, "5", None)),
                ("no broker", ask(4, "x", None)),
                ("unknown type", ask(1, "x", None)),
                ("no group", ask(32, "", None)),
            ]
        }
        ApiKey::AlterConfigs => {
            let alter = |kind, called: &str, configs: &[(&str, Option<&str>)]| {
                let configs = configs.iter().map(|(key, value)| {
                    let config = alter_configs_request::AlterableConfig::default().with_name(text(key));
                    config.with_value(value.map(text))
                });
                let resource = alter_configs_request::AlterConfigsResource::default()
                    .with_resource_type(kind)
                    .with_resource_name(text(called))
                    .with_configs(configs.collect());
                RequestKind::AlterConfigs(AlterConfigsRequest::default().with_resources(vec![resource]))
            };
            vec![
                ("one", alter(2, "many", &[("retention.ms", Some("5000"))])),
                ("an unknown key", alter(2, "many", &[("no.such.key", Some("5"))])),
                ("a bad value", alter(2, "many", &[("retention.ms", Some("x"))])),
                ("no value", alter(2, "many", &[("retention.ms", None)])),
                ("twice", alter(2, "many", &[("retention.ms", Some("1")), ("retention.ms", Some("2"))])),
                ("unknown topic", alter(2, "nowhere", &[("retention.ms", Some("5"))])),
                ("bad name", alter(2, "a b", &[("retention.ms", Some("5"))])),
                ("everything back", alter(2, "many", &[])),
                ("unknown type", alter(1, "many", &[])),
            ]
        }
        ApiKey::IncrementalAlterConfigs => {
            let alter = |kind, called: &str, configs: &[(&str, i8, Option<&str>)]| {
                let configs = configs.iter().map(|(key, operation, value)| {
                    let config = incremental::AlterableConfig::default().with_name(text(key));
                    config.with_config_operation(*operation).with_value(value.map(text))
                });
                let resource = incremental::AlterConfigsResource::default()
                    .with_resource_type(kind)
                    .with_resource_name(text(called))
                    .with_configs(configs.collect());
                let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
                RequestKind::IncrementalAlterConfigs(request)
            };
            vec![
                ("set", alter(2, "many", &[("retention.ms", 0, Some("5000"))])),
                ("append", alter(2, "many", &[("cleanup.policy", 2, Some("compact"))])),
                ("subtract", alter(2, "many", &[("cleanup.policy", 3, Some("compact"))])),
                ("delete", alter(2, "many", &[("retention.ms", 1, None), ("cleanup.policy", 1, None)])),
                ("delete an unknown key", alter(2, "many", &[("no.such.key", 1, None)])),
                ("append to a number", alter(2, "many", &[("retention.ms", 2, Some("1"))])),
                ("an unknown operation", alter(2, "many", &[("retention.ms", 9, Some("1"))])),
                ("no value", alter(2, "many", &[("retention.ms", 0, None)])),
                ("unknown topic", alter(2, "nowhere", &[("retention.ms", 0, Some("1"))])),
                ("twice", alter(2, "many", &[("retention.ms", 0, Some("1")), ("retention.ms", 1, None)])),
            ]
        }
        ApiKey::DescribeLogDirs => {
            let topic = log_dirs::DescribableLogDirTopic::default();
            let ask = |topics| RequestKind::DescribeLogDirs(DescribeLogDirsRequest::default().with_topics(topics));
            vec![
                ("nothing", ask(Some(vec![]))),
                ("unknown", ask(Some(vec![topic.with_topic(name("nowhere")).with_partitions(vec![0])]))),
            ]
        }
        ApiKey::CreatePartitions => {
            let grow = |called: &str, count| {
                create_partitions::CreatePartitionsTopic::default()
                    .with_name(name(called))
                    .with_count(count)
                    .with_assignments(None)
            };
            let request = |topics: Vec<create_partitions::CreatePartitionsTopic>, validate_only| {
                let request = CreatePartitionsRequest::default().with_topics(topics).with_timeout_ms(30_000);
                RequestKind::CreatePartitions(request.with_validate_only(validate_only))
            };
            vec![
                ("only checked", request(vec![grow("many", 50)], true)),
                ("the same", request(vec![grow("many", 5)], false)),
                ("fewer", request(vec![grow("many", 2)], false)),
                ("none", request(vec![grow("many", 0)], false)),
                ("negative", request(vec![grow("many", -1)], false)),
                ("unknown", request(vec![grow("nowhere", 5)], false)),
                ("twice", request(vec![grow("many", 6), grow("many", 7)], false)),
                ("nothing", request(vec![], false)),
            ]
        }
        ApiKey::OffsetDelete => {
            let delete = |id: &str, topic: &str| {
                let one = offset_delete::OffsetDeleteRequestPartition::default();
                let topic = offset_delete::OffsetDeleteRequestTopic::default().with_name(name(topic));
                let request = OffsetDeleteRequest::default().with_group_id(group(id));
                RequestKind::OffsetDelete(request.with_topics(vec![topic.with_partitions(vec![one])]))
            };
            vec![
                ("an unknown group", delete("none", "t")),
                ("an empty group id", delete("", "t")),
                ("an unknown topic", delete("simple", "nowhere")),
                ("without a commit", delete("simple", "many")),
            ]
        }
        ApiKey::DescribeCluster => {
            let request = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
            let mut subjects = Subjects::new();
            if v >= 1 {
                subjects.push(("the controllers", RequestKind::DescribeCluster(request.clone().with_endpoint_type(2))));
                subjects.push(("of an unknown type", RequestKind::DescribeCluster(request.with_endpoint_type(3))));
            }
            subjects
        }
        ApiKey::DescribeProducers => {
            let ask = |topic: &str, partitions: &[i32]| {
                let topic = producers::TopicRequest::default().with_name(name(topic));
                let topic = topic.with_partition_indexes(partitions.to_vec());
                RequestKind::DescribeProducers(DescribeProducersRequest::default().with_topics(vec![topic]))
            };
            vec![("none", ask("t", &[0])), ("unknown", ask("nowhere", &[0])), ("unknown partition", ask("t", &[9]))]
        }
        ApiKey::ConsumerGroupDescribe => {
            let ids = vec![group("none"), group("simple"), group("")];
            let request = ConsumerGroupDescribeRequest::default().with_group_ids(ids);
            vec![
                ("three", RequestKind::ConsumerGroupDescribe(request)),
                ("none", RequestKind::ConsumerGroupDescribe(ConsumerGroupDescribeRequest::default())),
            ]
        }
        ApiKey::ConsumerGroupHeartbeat => consumer_heartbeats(v, known),
        ApiKey::ListConfigResources => {
            let mut request = ListConfigResourcesRequest::default();
            if v >= 1 {
                request = request.with_resource_types(vec![32, 16]);
            }
            vec![("groups and metrics", RequestKind::ListConfigResources(request))]
        }
        ApiKey::DescribeTopicPartitions => {
            let ask = |topics: &[&str], limit, cursor: Option<(&str, i32)>| {
                let cursor = cursor.map(|(topic, index)| {
                    topic_partitions::Cursor::default().with_topic_name(name(topic)).with_partition_index(index)
                });
                let topics =
                    topics.iter().map(|topic| topic_partitions::TopicRequest::default().with_name(name(topic)));
                let request = DescribeTopicPartitionsRequest::default().with_topics(topics.collect());
                let request = request.with_response_partition_limit(limit).with_cursor(cursor);
                RequestKind::DescribeTopicPartitions(request)
            };
            vec![
                ("two", ask(&["many", "compacted"], 100, None)),
                ("two at a time", ask(&["many"], 2, None)),
                ("the next two", ask(&["many"], 2, Some(("many", 2)))),
                ("the last", ask(&["many"], 2, Some(("many", 4)))),
                ("a limit between topics", ask(&["compacted", "many"], 1, None)),
                ("a cursor behind the topics", ask(&["many"], 2, Some(("z", 0)))),
                ("a cursor of a topic between", ask(&["compacted", "many"], 9, Some(("d", 3)))),
                ("a cursor beyond the partitions", ask(&["many", "t"], 9, Some(("many", 9)))),
                ("unknown", ask(&["nowhere", "a b", "t"], 100, None)),
                ("no limit", ask(&["many"], 0, None)),
            ]
        }
        other => panic!("{other:?} is advertised and has no requests here"),
    }
}

fn keyless() -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(Timestamp(1000), Some(b"key"), Some(b"value"), []);
    builder.push(Timestamp(1000), None, Some(b"value"), []);
    builder.build().0
}

fn fetches(v: i16, known: &Known) -> Subjects {
    let ask = |topic: &str, partition: i32, offset: i64, current_epoch: i32| {
        let mut one = fetch::FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(1 << 20);
        if v >= 9 {
            one = one.with_current_leader_epoch(current_epoch);
        }
        let asked = fetch::FetchTopic::default().with_partitions(vec![one]);
        if v >= 13 { asked.with_topic_id(known.id(topic)) } else { asked.with_topic(name(topic)) }
    };
    let request = |topics, isolation_level| {
        let mut request = FetchRequest::default()
            .with_max_wait_ms(0)
            .with_min_bytes(1)
            .with_max_bytes(1 << 20)
            .with_isolation_level(isolation_level)
            .with_topics(topics);
        if v <= 14 {
            request = request.with_replica_id(BrokerId(-1));
        }
        RequestKind::Fetch(request)
    };
    let session = |id, epoch| {
        let request = FetchRequest::default().with_max_bytes(1 << 20).with_session_id(id).with_session_epoch(epoch);
        RequestKind::Fetch(if v <= 14 { request.with_replica_id(BrokerId(-1)) } else { request })
    };
    let mut subjects = vec![
        ("records", request(vec![ask("t", 0, 0, -1)], 0)),
        ("in the middle of a batch", request(vec![ask("t", 0, 1, -1)], 1)),
        ("the end", request(vec![ask("t", 0, 3, -1)], 1)),
        ("beyond the end", request(vec![ask("t", 0, 99, -1)], 0)),
        ("negative", request(vec![ask("t", 0, -5, -1)], 0)),
        ("unknown", request(vec![ask("nowhere", 0, 0, -1), ask("t", 9, 0, -1)], 0)),
        ("nothing", request(vec![], 0)),
    ];
    if v >= 7 {
        subjects.push(("an unknown session", session(12345, 1)));
        subjects.push(("an epoch without a session", session(0, 5)));
        subjects.push(("the end of an unknown session", session(12345, -1)));
    }
    if v >= 9 {
        subjects.push(("an epoch to come", request(vec![ask("t", 0, 0, 5)], 0)));
    }
    subjects
}

fn list_offsets() -> Subjects {
    let ask = |topic: &str, partition: i32, timestamp: i64| {
        let one = list_offsets::ListOffsetsPartition::default().with_partition_index(partition);
        list_offsets::ListOffsetsTopic::default()
            .with_name(name(topic))
            .with_partitions(vec![one.with_timestamp(timestamp)])
    };
    let request = |topics| {
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(topics);
        RequestKind::ListOffsets(request)
    };
    vec![
        ("latest", request(vec![ask("t", 0, -1)])),
        ("earliest", request(vec![ask("t", 0, -2)])),
        ("the largest timestamp", request(vec![ask("t", 0, -3)])),
        ("the earliest local", request(vec![ask("t", 0, -4)])),
        ("the latest tiered", request(vec![ask("t", 0, -5)])),
        ("the earliest to upload", request(vec![ask("t", 0, -6)])),
        ("no such timestamp", request(vec![ask("t", 0, -7)])),
        ("a time", request(vec![ask("t", 0, 1001)])),
        ("a time before", request(vec![ask("t", 0, 0)])),
        ("a time after", request(vec![ask("t", 0, 5000)])),
        ("of an empty partition", request(vec![ask("many", 0, -1), ask("many", 1, -3), ask("many", 2, 0)])),
        ("unknown", request(vec![ask("nowhere", 0, -1), ask("t", 9, -1)])),
        ("twice", request(vec![ask("t", 0, -1), ask("t", 0, -2)])),
        ("nothing", request(vec![])),
    ]
}

fn metadata(v: i16, known: &Known) -> Subjects {
    let by_name = |called: &str| metadata::MetadataRequestTopic::default().with_name(Some(name(called)));
    let request = |topics: Vec<metadata::MetadataRequestTopic>| {
        let mut request = MetadataRequest::default().with_topics(Some(topics));
        if v >= 4 {
            request = request.with_allow_auto_topic_creation(false);
        }
        if v >= 8 {
            request = request.with_include_topic_authorized_operations(true);
        }
        if (8..=10).contains(&v) {
            request = request.with_include_cluster_authorized_operations(true);
        }
        RequestKind::Metadata(request)
    };
    let mut subjects = vec![("one", request(vec![by_name("t")]))];
    if v >= 1 {
        subjects.push(("nothing", request(vec![])));
    }
    if v >= 4 {
        subjects.push(("unknown", request(vec![by_name("nowhere"), by_name("a b"), by_name("")])));
    } else {
        subjects.push(("a bad name", request(vec![by_name("a b")])));
    }
    if v >= 12 {
        let id = |id| metadata::MetadataRequestTopic::default().with_name(None).with_topic_id(id);
        subjects.push(("by id", request(vec![id(known.id("t")), id(Uuid::from_u128(0x99))])));
    }
    subjects
}

fn commits(v: i16) -> Subjects {
    let commit = |id: &str, generation, member: &str, topic: &str, note: &str| {
        let one = commit::OffsetCommitRequestPartition::default();
        let one = one.with_committed_offset(1).with_committed_metadata(Some(text(note)));
        let topic = commit::OffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(vec![one]);
        let request = OffsetCommitRequest::default()
            .with_group_id(group(id))
            .with_generation_id_or_member_epoch(generation)
            .with_member_id(text(member))
            .with_topics(vec![topic]);
        RequestKind::OffsetCommit(request)
    };
    let nothing = OffsetCommitRequest::default().with_group_id(group("simple")).with_generation_id_or_member_epoch(-1);
    vec![
        ("without members", commit("simple", -1, "", "t", "")),
        ("of a new group", commit(&format!("new-v{v}"), -1, "", "t", "")),
        ("of an empty group id", commit("", -1, "", "t", "")),
        ("of a stranger", commit("simple", 3, "nobody", "t", "")),
        ("of an unknown group", commit("none", 3, "nobody", "t", "")),
        ("of an unknown topic", commit("simple", -1, "", "nowhere", "")),
        ("a long note", commit("simple", -1, "", "t", &"x".repeat(4097))),
        ("of nothing", RequestKind::OffsetCommit(nothing)),
    ]
}

fn offset_fetches(v: i16) -> Subjects {
    let fetch = |id: &str, topics: Option<&[(&str, &[i32])]>, stable: bool| {
        let mut request = OffsetFetchRequest::default();
        if v >= 7 {
            request = request.with_require_stable(stable);
        }
        RequestKind::OffsetFetch(if v >= 8 {
            let topics = topics.map(|topics| {
                let topics = topics.iter().map(|(topic, partitions)| {
                    offset_fetch::OffsetFetchRequestTopics::default()
                        .with_name(name(topic))
                        .with_partition_indexes(partitions.to_vec())
                });
                topics.collect()
            });
            let one = offset_fetch::OffsetFetchRequestGroup::default().with_group_id(group(id)).with_topics(topics);
            request.with_groups(vec![one])
        } else {
            let topics = topics.map(|topics| {
                let topics = topics.iter().map(|(topic, partitions)| {
                    offset_fetch::OffsetFetchRequestTopic::default()
                        .with_name(name(topic))
                        .with_partition_indexes(partitions.to_vec())
                });
                topics.collect()
            });
            request.with_group_id(group(id)).with_topics(topics)
        })
    };
    let mut subjects = vec![
        ("some", fetch("simple", Some(&[("t", &[0, 1]), ("nowhere", &[0])]), false)),
        ("none", fetch("simple", Some(&[]), false)),
        ("of an unknown group", fetch("none", Some(&[("t", &[0])]), false)),
        ("of an empty group id", fetch("", Some(&[("t", &[1])]), false)),
    ];
    if v >= 2 {
        subjects.push(("all", fetch("simple", None, false)));
        subjects.push(("all of an unknown group", fetch("none", None, false)));
    }
    if v >= 7 {
        subjects.push(("stable ones", fetch("simple", None, true)));
    }
    if v >= 8 {
        let no_group = OffsetFetchRequest::default();
        subjects.push(("of no group", RequestKind::OffsetFetch(no_group)));
        let two = ["simple", "none"]
            .map(|id| offset_fetch::OffsetFetchRequestGroup::default().with_group_id(group(id)).with_topics(None));
        let request = OffsetFetchRequest::default().with_groups(two.to_vec());
        subjects.push(("of two groups", RequestKind::OffsetFetch(request)));
    }
    if v >= 9 {
        let stranger = offset_fetch::OffsetFetchRequestGroup::default()
            .with_group_id(group("simple"))
            .with_member_id(Some(text("nobody")))
            .with_member_epoch(3)
            .with_topics(None);
        let request = OffsetFetchRequest::default().with_groups(vec![stranger]);
        subjects.push(("of a stranger", RequestKind::OffsetFetch(request)));
    }
    subjects
}

fn coordinators(v: i16) -> Subjects {
    let ask = |keys: &[&str], kind: i8| {
        let mut request = FindCoordinatorRequest::default();
        if v >= 1 {
            request = request.with_key_type(kind);
        }
        RequestKind::FindCoordinator(if v >= 4 {
            request.with_coordinator_keys(keys.iter().map(|key| text(key)).collect())
        } else {
            request.with_key(text(keys.first().copied().unwrap_or_default()))
        })
    };
    let mut subjects = vec![("a group", ask(&["g"], 0)), ("an empty group id", ask(&[""], 0))];
    if v >= 1 {
        subjects.push(("an unknown type", ask(&["g"], 9)));
    }
    if v >= 4 {
        subjects.push(("several groups", ask(&["g", "h", "g"], 0)));
        subjects.push(("no group", ask(&[], 0)));
    }
    subjects
}

fn list_groups(v: i16) -> Subjects {
    let mut request = ListGroupsRequest::default();
    let mut subjects = Subjects::new();
    if v >= 4 {
        let states = vec![text("Dead"), text("stable"), text("PreparingRebalance")];
        request = request.with_states_filter(states);
        subjects.push(("by state", RequestKind::ListGroups(request.clone())));
        let wrong = ListGroupsRequest::default().with_states_filter(vec![text("Nonsense")]);
        subjects.push(("by an unknown state", RequestKind::ListGroups(wrong)));
    }
    if v >= 5 {
        let types = ListGroupsRequest::default().with_types_filter(vec![text("CONSUMER")]);
        subjects.push(("by type", RequestKind::ListGroups(types)));
        let wrong = ListGroupsRequest::default().with_types_filter(vec![text("nonsense")]);
        subjects.push(("by an unknown type", RequestKind::ListGroups(wrong)));
    }
    subjects
}

fn creations(v: i16) -> Subjects {
    let request = |topics: Vec<create_topics::CreatableTopic>, validate_only| {
        let request = CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(30_000);
        RequestKind::CreateTopics(request.with_validate_only(validate_only))
    };
    let without_value = {
        let mut topic = new_topic("x", 1, &[]);
        let config = create_topics::CreatableTopicConfig::default().with_name(text("retention.ms")).with_value(None);
        topic.configs.push(config);
        topic
    };
    let mut defaults = new_topic(&format!("defaults-v{v}"), -1, &[]);
    defaults.replication_factor = -1;
    let mut subjects = vec![
        ("there already", request(vec![new_topic("t", 1, &[])], false)),
        ("a bad name", request(vec![new_topic("a b", 1, &[])], false)),
        ("no name", request(vec![new_topic("", 1, &[])], false)),
        ("twice", request(vec![new_topic("x", 1, &[]), new_topic("x", 2, &[])], false)),
        ("an unknown key", request(vec![new_topic("x", 1, &[("no.such.key", "1")])], false)),
        ("a key without a value", request(vec![without_value], false)),
        ("no partitions", request(vec![new_topic("x", 0, &[])], false)),
        (
            "replicas",
            request(
                vec![{
                    let mut topic = new_topic("x", 1, &[]);
                    topic.replication_factor = 3;
                    topic
                }],
                false,
            ),
        ),
        ("nothing", request(vec![], false)),
    ];
    // With configurations in the answer it shows what only we have.
    if v < 5 {
        subjects.push(("defaults", request(vec![defaults], false)));
        subjects.push(("only checked", request(vec![new_topic("only-checked", 3, &[])], true)));
    }
    subjects
}

fn deletions(v: i16) -> Subjects {
    let request = |names: &[&str], ids: &[Uuid]| {
        let request = DeleteTopicsRequest::default().with_timeout_ms(30_000);
        RequestKind::DeleteTopics(if v >= 6 {
            let by_name =
                names.iter().map(|called| delete_topics::DeleteTopicState::default().with_name(Some(name(called))));
            let by_id =
                ids.iter().map(|id| delete_topics::DeleteTopicState::default().with_name(None).with_topic_id(*id));
            request.with_topics(by_name.chain(by_id).collect())
        } else {
            request.with_topic_names(names.iter().map(|called| name(called)).collect())
        })
    };
    let mut subjects = vec![
        ("unknown", request(&["nowhere"], &[])),
        ("a bad name", request(&["a b"], &[])),
        ("twice", request(&["nowhere", "nowhere"], &[])),
        ("nothing", request(&[], &[])),
    ];
    if v >= 6 {
        subjects.push(("unknown ids", request(&[], &[NOWHERE])));
        let both = delete_topics::DeleteTopicState::default().with_name(Some(name("t"))).with_topic_id(NOWHERE);
        let both = DeleteTopicsRequest::default().with_timeout_ms(30_000).with_topics(vec![both]);
        subjects.push(("a name and an id", RequestKind::DeleteTopics(both)));
        let neither = delete_topics::DeleteTopicState::default().with_name(None);
        let neither = DeleteTopicsRequest::default().with_timeout_ms(30_000).with_topics(vec![neither]);
        subjects.push(("neither a name nor an id", RequestKind::DeleteTopics(neither)));
    }
    subjects
}

fn consumer_heartbeats(v: i16, known: &Known) -> Subjects {
    let member = if v >= 1 { "member" } else { "" };
    let join = || {
        ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group("wrong"))
            .with_member_id(text(member))
            .with_member_epoch(0)
            .with_rebalance_timeout_ms(60_000)
            .with_subscribed_topic_names(Some(vec![name("many")]))
            .with_topic_partitions(Some(vec![]))
    };
    let owned = consumer_heartbeat::TopicPartitions::default().with_topic_id(known.id("many")).with_partitions(vec![0]);
    let mut subjects: Vec<(&'static str, ConsumerGroupHeartbeatRequest)> = vec![
        ("an empty group id", join().with_group_id(group(""))),
        ("an unknown assignor", join().with_server_assignor(Some(text("sticky")))),
        ("an empty assignor", join().with_server_assignor(Some(text("")))),
        ("no rebalance timeout", join().with_rebalance_timeout_ms(-1)),
        ("no subscription", join().with_subscribed_topic_names(None)),
        ("an empty subscription", join().with_subscribed_topic_names(Some(vec![]))),
        ("owning at once", join().with_topic_partitions(Some(vec![owned]))),
        ("not owning nothing", join().with_topic_partitions(None)),
        ("an empty instance id", join().with_instance_id(Some(text("")))),
        ("a bad epoch", join().with_member_id(text("m")).with_member_epoch(-3)),
        ("a static leave without an instance", join().with_member_id(text("m")).with_member_epoch(-2)),
        ("a stranger", join().with_member_id(text("m")).with_member_epoch(5)),
        ("a leaving stranger", join().with_member_id(text("m")).with_member_epoch(-1)),
        ("an empty rack", join().with_rack_id(Some(text("")))),
    ];
    if v >= 1 {
        subjects.push(("no member id", join().with_member_id(text(""))));
        let pattern =
            |pattern| join().with_subscribed_topic_names(None).with_subscribed_topic_regex(Some(text(pattern)));
        subjects.push(("a bad expression", pattern("ma[ny")));
    }
    let subjects = subjects.into_iter().map(|(subject, body)| (subject, RequestKind::ConsumerGroupHeartbeat(body)));
    subjects.collect()
}

pub(super) fn join(v: i16, id: &str, member: &str) -> JoinGroupRequest {
    let protocol = join_group_request::JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\0\0\0\0"));
    let request = JoinGroupRequest::default()
        .with_group_id(group(id))
        .with_session_timeout_ms(30_000)
        .with_member_id(text(member))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    if v >= 1 { request.with_rebalance_timeout_ms(30_000) } else { request }
}
