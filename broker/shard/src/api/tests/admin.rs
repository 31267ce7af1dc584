use kafka_protocol::{
    ResponseError,
    messages::{
        ApiKey, BrokerId, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
        DeleteRecordsRequest, DeleteRecordsResponse, DeleteTopicsRequest, DeleteTopicsResponse, DescribeClusterRequest,
        DescribeClusterResponse, DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeProducersRequest,
        DescribeProducersResponse, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
        InitProducerIdRequest, InitProducerIdResponse, MetadataRequest, MetadataResponse, TransactionalId,
        create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic},
        create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig},
        delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
        delete_topics_request::DeleteTopicState,
        describe_log_dirs_request::DescribableLogDirTopic,
        describe_producers_request::TopicRequest as ProducersTopic,
        describe_topic_partitions_request::{Cursor, TopicRequest},
        metadata_request::MetadataRequestTopic,
    },
};
use tidegate_model::topic_config::{BrokerDefaults, TOPIC_KEYS};
use uuid::Uuid;

use super::rig::{Rig, text, topic_name};
use crate::ShardSettings;

fn id(rig: &Rig, topic: &str) -> Uuid {
    Uuid::from_bytes(rig.image.topic(topic).expect("it exists").id.0)
}

// ---- topics ----

fn topic(name: &str, partitions: i32, replication_factor: i16) -> CreatableTopic {
    CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(replication_factor)
}

fn with_config(topic: CreatableTopic, key: &str, value: Option<&str>) -> CreatableTopic {
    let config = CreatableTopicConfig::default().with_name(text(key)).with_value(value.map(text));
    topic.with_configs(vec![config])
}

fn assigned(name: &str, partitions: &[(i32, &[i32])]) -> CreatableTopic {
    let assignments = partitions.iter().map(|(index, brokers)| {
        let brokers = brokers.iter().map(|id| BrokerId(*id)).collect();
        CreatableReplicaAssignment::default().with_partition_index(*index).with_broker_ids(brokers)
    });
    topic(name, -1, -1).with_assignments(assignments.collect())
}

#[test]
fn a_topic_is_made_in_every_version() {
    for version in 2..=7 {
        let mut rig = Rig::new(3);
        let body = CreateTopicsRequest::default().with_topics(vec![with_config(
            topic("orders", 5, 1),
            "retention.ms",
            Some("9"),
        )]);
        let response: CreateTopicsResponse = rig.ask(ApiKey::CreateTopics, version, &body);
        let answer = &response.topics[0];
        assert_eq!((answer.error_code, &answer.error_message), (0, &None));
        let made = rig.image.topic("orders").unwrap();
        assert_eq!((made.partitions, made.config.retention_ms), (5, 9));
        assert_eq!(rig.logs.len(), 5, "each partition has a log on its shard");
        if version >= 5 {
            assert_eq!((answer.num_partitions, answer.replication_factor), (5, 1));
            let configs = answer.configs.as_ref().unwrap();
            assert_eq!(configs.len(), TOPIC_KEYS.len());
            let retention = configs.iter().find(|config| config.name.as_str() == "retention.ms").unwrap();
            assert_eq!((retention.value.as_deref(), retention.config_source), (Some("9"), 1));
        }
        if version >= 7 {
            assert_eq!(answer.topic_id, id(&rig, "orders"));
        }
    }
}

#[test]
fn topics_that_cannot_be_made_say_why() {
    let mut rig = Rig::new(2);
    rig.create("here", 1, &[]);
    rig.create("a.b", 1, &[]);
    let mut check = |topic: CreatableTopic, expected: ResponseError, message: &str| {
        for validate_only in [true, false] {
            let body =
                CreateTopicsRequest::default().with_topics(vec![topic.clone()]).with_validate_only(validate_only);
            let response: CreateTopicsResponse = rig.ask(ApiKey::CreateTopics, 7, &body);
            let answer = &response.topics[0];
            let said = answer.error_message.clone().unwrap_or_default();
            assert_eq!(answer.error_code, expected.code(), "{said:?}");
            assert!(said.contains(message), "{said:?} has no {message:?}");
        }
        assert_eq!(rig.image.topics().count(), 2);
    };
    use ResponseError as Kafka;
    check(topic("here", 1, 1), Kafka::TopicAlreadyExists, "Topic 'here' already exists.");
    check(topic("a_b", 1, 1), Kafka::InvalidTopicException, "Topic 'a_b' collides with existing topic: a.b");
    check(topic("", 1, 1), Kafka::InvalidTopicException, "the empty string is not allowed");
    check(topic("..", 1, 1), Kafka::InvalidTopicException, "'..' is not allowed");
    check(topic("a b", 1, 1), Kafka::InvalidTopicException, "contains one or more characters other than");
    check(topic(&"x".repeat(250), 1, 1), Kafka::InvalidTopicException, "longer than the max allowed length 249");
    check(topic("new", 0, 1), Kafka::InvalidPartitions, "Number of partitions must be larger than 0");
    check(topic("new", -2, 1), Kafka::InvalidPartitions, "Number of partitions must be larger than 0");
    check(topic("new", i32::MAX, 1), Kafka::InvalidPartitions, "at most 100000 partitions");
    check(topic("new", 1, 0), Kafka::InvalidReplicationFactor, "Replication factor must be larger than 0");
    check(topic("new", 1, 3), Kafka::InvalidReplicationFactor, "only 1 broker(s) are registered");
    check(assigned("new", &[(0, &[1, 2])]), Kafka::InvalidReplicaAssignment, "on broker 1 alone");
    check(assigned("new", &[(0, &[1]), (2, &[1])]), Kafka::InvalidReplicaAssignment, "partitions 0 and up");
    check(assigned("new", &[(0, &[1])]).with_num_partitions(1), Kafka::InvalidRequest, "was not set to -1");
    check(
        with_config(topic("new", 1, 1), "nonsense", Some("1")),
        Kafka::InvalidConfig,
        "Unknown topic config name: nonsense",
    );
    check(
        with_config(topic("new", 1, 1), "retention.ms", Some("x")),
        Kafka::InvalidConfig,
        "Not a number of type LONG",
    );
    check(with_config(topic("new", 1, 1), "retention.ms", None), Kafka::InvalidConfig, "Null value not supported");
}

#[test]
fn a_topic_that_another_names_is_deleted_with_it_or_not_at_all() {
    let mut rig = Rig::new(2);
    rig.create("letters", 1, &[]);
    rig.create("orders", 1, &[("tidegate.dead.letter.topic", "letters")]);
    rig.create("users", 1, &[("tidegate.dead.letter.topic", "letters")]);
    let mut delete = |topics: &[&str]| -> Vec<(i16, String)> {
        let topics = topics.iter().map(|name| DeleteTopicState::default().with_name(Some(topic_name(name))));
        let body = DeleteTopicsRequest::default().with_topics(topics.collect());
        let response: DeleteTopicsResponse = rig.ask(ApiKey::DeleteTopics, 6, &body);
        let answers = response.responses.into_iter();
        answers.map(|answer| (answer.error_code, answer.error_message.unwrap_or_default().to_string())).collect()
    };
    let disabled = ResponseError::TopicDeletionDisabled.code();
    let refused = |by: &str| {
        let words = "detach it first (delete that configuration, or name another topic there)";
        (disabled, format!("topic 'letters' is where records of topic '{by}' go (tidegate.dead.letter.topic); {words}"))
    };
    assert_eq!(delete(&["letters"]), [refused("orders")]);
    let done = (0, String::new());
    assert_eq!(delete(&["letters", "orders"]), [refused("users"), done.clone()], "one of the two is left");
    assert_eq!(delete(&["letters", "users"]), [done.clone(), done]);
}

#[test]
fn each_topic_of_a_request_is_answered_for_itself() {
    let settings = ShardSettings { default_partitions: 4, ..ShardSettings::default() };
    let mut rig = Rig::with(2, settings, BrokerDefaults::new());
    let topics = vec![
        topic("a", -1, -1),
        topic("twice", 1, 1),
        topic("b", 1, 5),
        topic("twice", 1, 1),
        assigned("c", &[(1, &[1]), (0, &[1])]),
    ];
    let body = CreateTopicsRequest::default().with_topics(topics);
    let response: CreateTopicsResponse = rig.ask(ApiKey::CreateTopics, 7, &body);
    let answers: Vec<_> = response.topics.iter().map(|answer| (answer.name.as_str(), answer.error_code)).collect();
    let (factor, request) = (ResponseError::InvalidReplicationFactor.code(), ResponseError::InvalidRequest.code());
    assert_eq!(answers, [("a", 0), ("twice", request), ("b", factor), ("c", 0)]);
    assert_eq!(
        rig.image.topics().map(|topic| (topic.name.as_str(), topic.partitions)).collect::<Vec<_>>(),
        [("a", 4), ("c", 2)]
    );
}

#[test]
fn topics_go_by_name_and_by_id() {
    for version in 1..=5 {
        let mut rig = Rig::new(2);
        rig.create("a", 3, &[]);
        let body = DeleteTopicsRequest::default().with_topic_names(vec![topic_name("a"), topic_name("missing")]);
        let response: DeleteTopicsResponse = rig.ask(ApiKey::DeleteTopics, version, &body);
        let codes: Vec<_> = response.responses.iter().map(|answer| answer.error_code).collect();
        assert_eq!(codes, [0, ResponseError::UnknownTopicOrPartition.code()], "v{version}");
        assert_eq!((rig.image.topics().count(), rig.logs.len()), (0, 0));
    }
    let mut rig = Rig::new(2);
    rig.create("a", 1, &[]);
    rig.create("b", 1, &[]);
    rig.create("__consumer_offsets", 1, &[]);
    let by_id = |id| DeleteTopicState::default().with_name(None).with_topic_id(id);
    let by_name = |name| DeleteTopicState::default().with_name(Some(topic_name(name)));
    let body = DeleteTopicsRequest::default().with_topics(vec![
        by_id(id(&rig, "a")),
        by_id(Uuid::from_u128(5)),
        by_name("b"),
        by_name("__consumer_offsets"),
    ]);
    let response: DeleteTopicsResponse = rig.ask(ApiKey::DeleteTopics, 6, &body);
    let answers: Vec<_> = response
        .responses
        .iter()
        .map(|answer| (answer.name.as_ref().map(|name| name.0.to_string()), answer.error_code))
        .collect();
    let name = |name: &str| Some(name.to_owned());
    let (unknown, internal) = (ResponseError::UnknownTopicId.code(), ResponseError::InvalidTopicException.code());
    assert_eq!(answers, [(name("a"), 0), (None, unknown), (name("b"), 0), (name("__consumer_offsets"), internal)]);
}

#[test]
fn partitions_are_added() {
    for version in 0..=3 {
        let mut rig = Rig::new(2);
        rig.create("t", 2, &[]);
        let more = |name: &str, count, brokers: Option<&[i32]>| {
            let assignments = brokers.map(|brokers| {
                let ids = brokers.iter().map(|id| BrokerId(*id)).collect();
                vec![CreatePartitionsAssignment::default().with_broker_ids(ids)]
            });
            CreatePartitionsTopic::default().with_name(topic_name(name)).with_count(count).with_assignments(assignments)
        };
        let ask = |rig: &mut Rig, topic, validate_only| {
            let body = CreatePartitionsRequest::default().with_topics(vec![topic]).with_validate_only(validate_only);
            let response: CreatePartitionsResponse = rig.ask(ApiKey::CreatePartitions, version, &body);
            response.results[0].error_code
        };
        assert_eq!(ask(&mut rig, more("t", 5, None), true), 0);
        assert_eq!(rig.image.topic("t").unwrap().partitions, 2);
        assert_eq!(ask(&mut rig, more("t", 3, Some(&[1])), false), 0);
        assert_eq!((rig.image.topic("t").unwrap().partitions, rig.logs.len()), (3, 3));
        for wrong in [0, 2, 3] {
            assert_eq!(ask(&mut rig, more("t", wrong, None), false), ResponseError::InvalidPartitions.code());
        }
        assert_eq!(ask(&mut rig, more("t", 4, Some(&[2])), false), ResponseError::InvalidReplicaAssignment.code());
        assert_eq!(ask(&mut rig, more("x", 4, None), false), ResponseError::UnknownTopicOrPartition.code());
        // A new partition can be written to at once.
        assert_eq!(rig.produce("t", 2, 3), 0);
    }
}

// ---- metadata ----

fn metadata(names: Option<&[&str]>) -> MetadataRequest {
    let topics = names.map(|names| {
        names.iter().map(|name| MetadataRequestTopic::default().with_name(Some(topic_name(name)))).collect()
    });
    MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false)
}

#[test]
fn metadata_is_answered_in_every_version() {
    for version in 0..=13 {
        let mut rig = Rig::new(2);
        rig.create("t", 3, &[]);
        let body = metadata(Some(&["t"]));
        let body = if version < 4 { body.with_allow_auto_topic_creation(true) } else { body };
        let response: MetadataResponse = rig.ask(ApiKey::Metadata, version, &body);
        let broker = &response.brokers[0];
        assert_eq!((broker.node_id, broker.host.as_str(), broker.port), (BrokerId(1), "broker.example", 9092));
        if version >= 1 {
            assert_eq!((broker.rack.as_deref(), response.controller_id), (Some("r1"), BrokerId(1)));
        }
        if version >= 2 {
            assert_eq!(response.cluster_id.as_deref(), Some("cluster"));
        }
        let topic = &response.topics[0];
        assert_eq!((topic.error_code, topic.name.as_ref().unwrap().as_str(), topic.partitions.len()), (0, "t", 3));
        for (index, partition) in topic.partitions.iter().enumerate() {
            assert_eq!((partition.partition_index, partition.leader_id), (index as i32, BrokerId(1)));
            assert_eq!((&partition.replica_nodes, &partition.isr_nodes), (&vec![BrokerId(1)], &vec![BrokerId(1)]));
        }
        if version >= 10 {
            assert_eq!(topic.topic_id, id(&rig, "t"));
        }
    }
}

#[test]
fn all_topics_or_none() {
    let mut rig = Rig::new(1);
    rig.create("a", 1, &[]);
    rig.create("b", 1, &[]);
    let mut count = |version: i16, names: Option<&[&str]>| {
        let body = metadata(names);
        let body = if version < 4 { body.with_allow_auto_topic_creation(true) } else { body };
        let response: MetadataResponse = rig.ask(ApiKey::Metadata, version, &body);
        response.topics.len()
    };
    assert_eq!(count(0, Some(&[])), 2, "version 0 has no null");
    for version in 1..=13 {
        assert_eq!((count(version, None), count(version, Some(&[]))), (2, 0), "v{version}");
    }
}

#[test]
fn topics_are_asked_for_by_id() {
    let mut rig = Rig::new(1);
    rig.create("t", 1, &[]);
    for version in 12..=13 {
        let asked = |id| MetadataRequestTopic::default().with_name(None).with_topic_id(id);
        let body = MetadataRequest::default()
            .with_topics(Some(vec![asked(id(&rig, "t")), asked(Uuid::from_u128(9))]))
            .with_allow_auto_topic_creation(true);
        let response: MetadataResponse = rig.ask(ApiKey::Metadata, version, &body);
        assert_eq!(response.topics[0].name, Some(topic_name("t")));
        assert_eq!(response.topics[1].error_code, ResponseError::UnknownTopicId.code());
        assert_eq!((response.topics[1].name.clone(), response.topics[1].topic_id), (None, Uuid::from_u128(9)));
    }
}

#[test]
fn a_missing_topic_is_made_where_broker_and_client_want_it() {
    for (broker, client, version, made) in [
        (true, true, 9, true),
        (true, false, 9, false),
        (false, true, 9, false),
        (true, true, 1, true),
        (false, true, 1, false),
    ] {
        let settings = ShardSettings { auto_create_topics: broker, default_partitions: 6, ..ShardSettings::default() };
        let mut rig = Rig::with(2, settings, BrokerDefaults::new());
        let body = metadata(Some(&["new", "not a name"])).with_allow_auto_topic_creation(client);
        let response: MetadataResponse = rig.ask(ApiKey::Metadata, version, &body);
        let codes: Vec<_> = response.topics.iter().map(|topic| topic.error_code).collect();
        if made {
            assert_eq!(codes, [0, ResponseError::InvalidTopicException.code()]);
            assert_eq!(response.topics[0].partitions.len(), 6);
        } else {
            assert_eq!(codes[0], ResponseError::UnknownTopicOrPartition.code());
            assert!(rig.image.topic("new").is_none());
        }
    }
}

// ---- the cluster ----

#[test]
fn the_cluster_is_described() {
    for version in 0..=2 {
        let mut rig = Rig::new(1);
        let body = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
        let response: DescribeClusterResponse = rig.ask(ApiKey::DescribeCluster, version, &body);
        assert_eq!((response.error_code, response.cluster_id.as_str()), (0, "cluster"));
        assert_eq!((response.controller_id, response.brokers.len()), (BrokerId(1), 1));
        assert!(response.cluster_authorized_operations > 0);
    }
    let body = DescribeClusterRequest::default().with_endpoint_type(2);
    let response: DescribeClusterResponse = Rig::new(1).ask(ApiKey::DescribeCluster, 1, &body);
    assert_eq!(response.error_code, ResponseError::MismatchedEndpointType.code());
}

#[test]
fn topics_are_described_page_by_page() {
    let mut rig = Rig::new(2);
    for (name, partitions) in [("a", 3), ("b", 1), ("c", 4)] {
        rig.create(name, partitions, &[]);
    }
    let mut seen: Vec<(String, i32)> = Vec::new();
    let mut cursor: Option<Cursor> = None;
    let mut pages = 0;
    loop {
        let body = DescribeTopicPartitionsRequest::default().with_response_partition_limit(2).with_cursor(cursor);
        let response: DescribeTopicPartitionsResponse = rig.ask(ApiKey::DescribeTopicPartitions, 0, &body);
        pages += 1;
        for topic in &response.topics {
            let name = topic.name.as_ref().unwrap().0.to_string();
            assert_eq!((topic.error_code, topic.topic_id), (0, id(&rig, &name)));
            seen.extend(topic.partitions.iter().map(|partition| (name.clone(), partition.partition_index)));
        }
        let Some(next) = response.next_cursor else { break };
        cursor = Some(Cursor::default().with_topic_name(next.topic_name).with_partition_index(next.partition_index));
    }
    let all = [("a", 3), ("b", 1), ("c", 4)];
    let expected: Vec<_> =
        all.iter().flat_map(|(name, count)| (0..*count).map(|index| ((*name).to_owned(), index))).collect();
    assert_eq!((seen, pages), (expected, 4));
    let asked = |name| TopicRequest::default().with_name(topic_name(name));
    let body = DescribeTopicPartitionsRequest::default().with_topics(vec![asked("b"), asked("missing")]);
    let response: DescribeTopicPartitionsResponse = rig.ask(ApiKey::DescribeTopicPartitions, 0, &body);
    let codes: Vec<_> = response.topics.iter().map(|topic| topic.error_code).collect();
    assert_eq!(codes, [0, ResponseError::UnknownTopicOrPartition.code()]);
}

#[test]
fn log_directories_have_the_sizes_of_all_shards() {
    for version in 1..=4 {
        let settings = ShardSettings { data_directory: "/data".into(), ..ShardSettings::default() };
        let mut rig = Rig::with(3, settings, BrokerDefaults::new());
        rig.create("t", 4, &[]);
        rig.create("u", 1, &[]);
        (0..4).for_each(|partition| {
            rig.produce("t", partition, partition as usize + 1);
        });
        rig.shards[0].set_disk_bytes(1000, 400);
        let sizes = |response: &DescribeLogDirsResponse| {
            let topics = response.results[0].topics.iter();
            let partitions = topics.flat_map(|topic| {
                topic.partitions.iter().map(|one| (topic.name.0.to_string(), one.partition_index, one.partition_size))
            });
            partitions.collect::<Vec<_>>()
        };
        let all: DescribeLogDirsResponse =
            rig.ask(ApiKey::DescribeLogDirs, version, &DescribeLogDirsRequest::default().with_topics(None));
        let directory = &all.results[0];
        assert_eq!((directory.error_code, directory.log_dir.as_str()), (0, "/data"));
        if version >= 4 {
            assert_eq!((directory.total_bytes, directory.usable_bytes), (1000, 400));
        }
        let found = sizes(&all);
        assert_eq!(found.len(), 5);
        for (name, partition, size) in found {
            let topic = rig.image.topic(&name).unwrap().id;
            let partition =
                tidegate_records::ids::TopicPartition::new(topic, tidegate_records::ids::PartitionIndex(partition));
            let expected: usize = rig.logs[&partition].iter().map(|(_, _, bytes)| bytes.len()).sum();
            assert_eq!(size, expected as i64);
        }
        let topic = DescribableLogDirTopic::default().with_topic(topic_name("t")).with_partitions(vec![2]);
        let body = DescribeLogDirsRequest::default().with_topics(Some(vec![topic]));
        let one: DescribeLogDirsResponse = rig.ask(ApiKey::DescribeLogDirs, version, &body);
        assert_eq!(sizes(&one).iter().map(|(name, index, _)| (name.as_str(), *index)).collect::<Vec<_>>(), [("t", 2)]);
    }
}

#[test]
fn records_are_deleted_below_an_offset() {
    for version in 0..=2 {
        let mut rig = Rig::new(3);
        rig.create("t", 3, &[]);
        rig.create("compacted", 1, &[("cleanup.policy", "compact")]);
        (0..3).for_each(|partition| {
            rig.produce("t", partition, 10);
        });
        let wanted = |name: &str, partitions: &[(i32, i64)]| {
            let partitions = partitions.iter().map(|(index, offset)| {
                DeleteRecordsPartition::default().with_partition_index(*index).with_offset(*offset)
            });
            DeleteRecordsTopic::default().with_name(topic_name(name)).with_partitions(partitions.collect())
        };
        let body = DeleteRecordsRequest::default()
            .with_timeout_ms(1000)
            .with_topics(vec![wanted("t", &[(0, 4), (1, -1), (2, 11), (7, 0)]), wanted("compacted", &[(0, 0)])]);
        let response: DeleteRecordsResponse = rig.ask(ApiKey::DeleteRecords, version, &body);
        let answers: Vec<_> = response
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|answer| (answer.low_watermark, answer.error_code))
            .collect();
        let range = ResponseError::OffsetOutOfRange.code();
        let (unknown, policy) = (ResponseError::UnknownTopicOrPartition.code(), ResponseError::PolicyViolation.code());
        assert_eq!(answers, [(4, 0), (10, 0), (-1, range), (-1, unknown), (-1, policy)], "v{version}");
    }
}

// ---- producers ----

#[test]
fn a_producer_id_is_given_once() {
    let mut rig = Rig::new(3);
    let mut given = std::collections::BTreeSet::new();
    for round in 0..1_200 {
        let connection = round % 3;
        let body = InitProducerIdRequest::default().with_transactional_id(None);
        let response: InitProducerIdResponse =
            rig.ask_on(connection, ApiKey::InitProducerId, (round % 6) as i16, &body);
        assert_eq!((response.error_code, response.producer_epoch), (0, 0));
        assert!(given.insert(response.producer_id.0), "{} was given twice", response.producer_id.0);
    }
    // Who has one gets another.
    let body =
        InitProducerIdRequest::default().with_transactional_id(None).with_producer_id(0.into()).with_producer_epoch(3);
    let response: InitProducerIdResponse = rig.ask(ApiKey::InitProducerId, 4, &body);
    assert_eq!(response.producer_epoch, 0);
    assert!(given.insert(response.producer_id.0));
}

#[test]
fn many_that_ask_at_once_share_a_block() {
    let mut rig = Rig::new(1);
    rig.held = Some(Vec::new());
    let body = InitProducerIdRequest::default().with_transactional_id(None);
    for _ in 0..50 {
        rig.send(0, ApiKey::InitProducerId, 2, &body);
    }
    assert_eq!(rig.held.as_ref().map(Vec::len), Some(1), "one proposal serves all");
    rig.release();
    let mut given = std::collections::BTreeSet::new();
    while let Some(response) = rig.received::<InitProducerIdResponse>(0, ApiKey::InitProducerId, 2) {
        assert!(response.error_code == 0 && given.insert(response.producer_id.0));
    }
    assert_eq!(given.len(), 50);
}

#[test]
fn a_transactional_producer_is_refused_for_good() {
    let body = InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(text("t"))));
    let response: InitProducerIdResponse = Rig::new(1).ask(ApiKey::InitProducerId, 4, &body);
    assert_eq!(response.error_code, ResponseError::TransactionalIdAuthorizationFailed.code());
}

#[test]
fn producers_of_a_partition_are_described() {
    let mut rig = Rig::new(2);
    rig.create("t", 2, &[]);
    rig.produce("t", 0, 1);
    let topic = ProducersTopic::default().with_name(topic_name("t")).with_partition_indexes(vec![0, 1, 9]);
    let body = DescribeProducersRequest::default().with_topics(vec![topic]);
    let response: DescribeProducersResponse = rig.ask(ApiKey::DescribeProducers, 0, &body);
    let answers: Vec<_> =
        response.topics[0].partitions.iter().map(|one| (one.error_code, one.active_producers.len())).collect();
    assert_eq!(answers, [(0, 0), (0, 0), (ResponseError::UnknownTopicOrPartition.code(), 0)]);
}
