//! What administrators' tools are told when they ask for something wrong. Compared with Apache Kafka 4.3.

use kafka_protocol::{
    messages::{
        ApiKey, BrokerId, CreatePartitionsRequest, CreatePartitionsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
        DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, FindCoordinatorRequest,
        FindCoordinatorResponse, GroupId, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
        MetadataRequest, MetadataResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest,
        OffsetDeleteResponse, TopicName,
        create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic},
        delete_topics_request::DeleteTopicState,
        describe_topic_partitions_request::TopicRequest,
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
        metadata_request::MetadataRequestTopic,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic},
    },
    protocol::StrBytes,
};

use crate::{broker::Broker, raw::Raw, traps::create};

fn topic(name: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(name))
}

/// Code 3 makes a client ask again until its timeout; no retry makes "a b" a name.
#[test]
fn a_name_that_cannot_be_a_topics_is_invalid_and_not_unknown() {
    let broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    for (name, code) in [("a b", 17), ("nowhere", 3)] {
        let asked = MetadataRequestTopic::default().with_name(Some(topic(name)));
        let request = MetadataRequest::default().with_topics(Some(vec![asked])).with_allow_auto_topic_creation(false);
        let answer: MetadataResponse = raw.call(ApiKey::Metadata, 12, &request);
        assert_eq!(answer.topics[0].error_code, code, "{name}");
        let asked = TopicRequest::default().with_name(topic(name));
        let request =
            DescribeTopicPartitionsRequest::default().with_topics(vec![asked]).with_response_partition_limit(100);
        let answer: DescribeTopicPartitionsResponse = raw.call(ApiKey::DescribeTopicPartitions, 0, &request);
        assert_eq!(answer.topics[0].error_code, code, "{name}");
    }
}

/// It was told "coordinator not available" and tried until its timeout, a minute, without a word why.
#[test]
fn a_transactional_producer_is_told_at_once_that_there_are_no_transactions() {
    let broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    let key = StrBytes::from_static_str("tx");
    let request = FindCoordinatorRequest::default().with_key_type(1).with_coordinator_keys(vec![key.clone()]);
    let answer: FindCoordinatorResponse = raw.call(ApiKey::FindCoordinator, 4, &request);
    assert_eq!(answer.coordinators[0].error_code, 35, "UNSUPPORTED_VERSION");
    let message = answer.coordinators[0].error_message.as_deref().expect("words");
    assert!(message.contains("no transactions"), "{message}");
    // What librdkafka sends; it gives up on this code alone.
    let request = FindCoordinatorRequest::default().with_key_type(1).with_key(key);
    let answer: FindCoordinatorResponse = raw.call(ApiKey::FindCoordinator, 2, &request);
    assert_eq!(answer.error_code, 53, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED");
}

/// The id was not looked at, and the topic of that name was deleted with all its records.
#[test]
fn a_topic_is_not_deleted_by_its_name_beside_another_id() {
    let broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    let id = create(&mut raw, "kept", 1);
    let mut delete = |name: Option<TopicName>, id: uuid::Uuid| {
        let asked = DeleteTopicState::default().with_name(name).with_topic_id(id);
        let request = DeleteTopicsRequest::default().with_topics(vec![asked]).with_timeout_ms(30_000);
        let answer: DeleteTopicsResponse = raw.call(ApiKey::DeleteTopics, 6, &request);
        answer.responses[0].error_code
    };
    assert_eq!(delete(Some(topic("kept")), uuid::Uuid::from_u128(7)), 42);
    assert_eq!(delete(Some(topic("kept")), id), 42, "even its own");
    assert_eq!(delete(None, uuid::Uuid::nil()), 42);
    assert_eq!(delete(None, id), 0);
}

#[test]
fn new_partitions_need_as_many_assignments() {
    let broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    create(&mut raw, "grows", 2);
    let on = |broker: i32| CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(broker)]);
    let grow = |count, assignments| {
        CreatePartitionsTopic::default().with_name(topic("grows")).with_count(count).with_assignments(assignments)
    };
    for (topics, code) in [
        (vec![grow(4, Some(vec![on(1)]))], 39),
        (vec![grow(3, Some(vec![on(2)]))], 39),
        (vec![grow(3, None), grow(3, None)], 42),
        (vec![grow(4, Some(vec![on(1), on(1)]))], 0),
    ] {
        let request = CreatePartitionsRequest::default().with_topics(topics).with_timeout_ms(30_000);
        let answer: CreatePartitionsResponse = raw.call(ApiKey::CreatePartitions, 3, &request);
        assert_eq!(answer.results.len(), 1, "one answer for each name");
        assert_eq!(answer.results[0].error_code, code, "{:?}", answer.results[0].error_message);
    }
}

#[test]
fn offsets_of_a_topic_that_does_not_exist_cannot_be_deleted() {
    let broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    create(&mut raw, "read", 1);
    let group = GroupId(StrBytes::from_static_str("readers"));
    let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![group.0.clone()]);
    let _: FindCoordinatorResponse = raw.call(ApiKey::FindCoordinator, 4, &find);
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(0);
    let commit =
        OffsetCommitRequest::default().with_group_id(group.clone()).with_generation_id_or_member_epoch(-1).with_topics(
            vec![OffsetCommitRequestTopic::default().with_name(topic("read")).with_partitions(vec![partition])],
        );
    // The coordinator may still be loading.
    loop {
        let answer: OffsetCommitResponse = raw.call(ApiKey::OffsetCommit, 8, &commit);
        match answer.topics[0].partitions[0].error_code {
            0 => break,
            14..=16 => {}
            other => panic!("error {other}"),
        }
    }
    let of = |name, partitions: &[i32]| {
        let partition = |index: &i32| OffsetDeleteRequestPartition::default().with_partition_index(*index);
        OffsetDeleteRequestTopic::default()
            .with_name(topic(name))
            .with_partitions(partitions.iter().map(partition).collect())
    };
    let request =
        OffsetDeleteRequest::default().with_group_id(group).with_topics(vec![of("read", &[0, 7]), of("nowhere", &[0])]);
    let answer: OffsetDeleteResponse = raw.call(ApiKey::OffsetDelete, 0, &request);
    assert_eq!(answer.error_code, 0);
    let codes: Vec<(&str, i32, i16)> = answer
        .topics
        .iter()
        .flat_map(|topic| {
            topic.partitions.iter().map(|answer| (topic.name.0.as_str(), answer.partition_index, answer.error_code))
        })
        .collect();
    assert_eq!(codes, [("read", 0, 0), ("read", 7, 3), ("nowhere", 0, 3)]);
}

#[test]
fn a_configuration_without_a_value_is_an_invalid_request() {
    let broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    create(&mut raw, "set", 1);
    let config = AlterableConfig::default().with_name(StrBytes::from_static_str("retention.ms")).with_value(None);
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(StrBytes::from_static_str("set"))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let answer: IncrementalAlterConfigsResponse = raw.call(ApiKey::IncrementalAlterConfigs, 1, &request);
    assert_eq!(answer.responses[0].error_code, 42, "INVALID_REQUEST");
}
