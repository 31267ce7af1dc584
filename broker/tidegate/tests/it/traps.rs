//! What breaks stock clients when a broker gets it wrong. Each of these has cost somebody a bug.

use bytes::{Buf as _, BufMut as _, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsRequest, ApiVersionsResponse, CreateTopicsRequest, CreateTopicsResponse,
        DescribeConfigsRequest, DescribeConfigsResponse, DescribeLogDirsRequest, DescribeLogDirsResponse, FetchRequest,
        FetchResponse, MetadataRequest, MetadataResponse, TopicName,
        create_topics_request::CreatableTopic,
        describe_configs_request::DescribeConfigsResource,
        fetch_request::{FetchPartition, FetchTopic},
        metadata_request::MetadataRequestTopic,
    },
    protocol::{Decodable as _, StrBytes},
};

use crate::{broker::Broker, raw::Raw};

fn versions(raw: &mut Raw, version: i16) -> ApiVersionsResponse {
    let request = ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str("it"))
        .with_client_software_version(StrBytes::from_static_str("1"));
    let request = if version >= 3 { request } else { ApiVersionsRequest::default() };
    raw.call(ApiKey::ApiVersions, version, &request)
}

pub(crate) fn create(raw: &mut Raw, name: &str, partitions: i32) -> uuid::Uuid {
    let topic = CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_string(name.to_owned())))
        .with_num_partitions(partitions)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    let answer: CreateTopicsResponse = raw.call(ApiKey::CreateTopics, 7, &request);
    assert_eq!(answer.topics[0].error_code, 0, "{:?}", answer.topics[0].error_message);
    answer.topics[0].topic_id
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_in_a_v0_body_with_the_ranges() {
    let broker = Broker::start();
    for version in [5_i16, 99, i16::MAX, -1] {
        let mut raw = Raw::new(broker.connect());
        let mut frame = BytesMut::new();
        frame.put_i16(18);
        frame.put_i16(version);
        frame.put_i32(1);
        frame.put_i16(-1);
        frame.put_u8(0);
        raw.send_frame(&frame);
        let mut answer = raw.receive_frame().expect("an answer, not a closed connection");
        assert_eq!(answer.get_i32(), 1, "the correlation id, and no tagged fields");
        let body = ApiVersionsResponse::decode(&mut answer, 0).expect("a v0 body");
        assert_eq!(body.error_code, 35);
        assert!(
            body.api_keys.iter().any(|key| key.api_key == 18 && key.max_version >= 3),
            "the range to ask again with"
        );
    }
}

#[test]
fn every_version_of_api_versions_is_answered_and_its_header_is_always_v0() {
    let broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    for version in 0..=4 {
        assert_eq!(versions(&mut raw, version).error_code, 0);
    }
}

#[test]
fn the_ranges_hold_what_old_librdkafka_looks_for() {
    let broker = Broker::start();
    let answer = versions(&mut Raw::new(broker.connect()), 3);
    let range = |key: i16| {
        let found = answer.api_keys.iter().find(|api| api.api_key == key);
        found.map(|api| api.min_version..=api.max_version).unwrap_or_else(|| panic!("API {key} is missing"))
    };
    // Message format v2, zstd, lz4, groups: exact versions in every librdkafka up to 2.11.
    for (key, version) in [
        (0, 0),
        (0, 3),
        (0, 7),
        (1, 4),
        (1, 10),
        (10, 0),
        (11, 0),
        (14, 0),
        (12, 0),
        (13, 0),
        (8, 2),
        (9, 1),
        (2, 1),
        (22, 0),
        (18, 0),
    ] {
        assert!(range(key).contains(&version), "API {key} v{version}");
    }
    assert_eq!(*range(0).end(), 11, "Produce 12 means transactions v2, which are not implemented");
    // Telemetry without a receiver, and transactions, are not advertised.
    for key in [24, 25, 26, 28, 71, 72] {
        assert!(!answer.api_keys.iter().any(|api| api.api_key == key), "API {key} is not implemented");
    }
    assert!(!answer.finalized_features.iter().any(|feature| feature.name.as_str() == "transaction.version"));
    assert!(answer.finalized_features.iter().any(|feature| feature.name.as_str() == "group.version"));
}

#[test]
fn topic_ids_are_stable_over_restarts_and_fetch_uses_them() {
    let mut broker = Broker::start();
    let id = create(&mut Raw::new(broker.connect()), "stable", 1);
    assert!(!id.is_nil());
    for _ in 0..2 {
        broker.kill();
        broker.restart();
        let mut raw = Raw::new(broker.connect());
        let topic = MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from_static_str("stable"))));
        let request = MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false);
        let answer: MetadataResponse = raw.call(ApiKey::Metadata, 12, &request);
        assert_eq!(answer.topics[0].topic_id, id);

        let fetch = |id: uuid::Uuid| {
            let partition = FetchPartition::default().with_partition(0).with_partition_max_bytes(1 << 20);
            let topic = FetchTopic::default().with_topic_id(id).with_partitions(vec![partition]);
            FetchRequest::default().with_max_bytes(1 << 20).with_topics(vec![topic])
        };
        let known: FetchResponse = raw.call(ApiKey::Fetch, 13, &fetch(id));
        assert_eq!(known.responses[0].partitions[0].error_code, 0);
        assert_eq!(known.responses[0].topic_id, id);
        let unknown: FetchResponse = raw.call(ApiKey::Fetch, 13, &fetch(uuid::Uuid::from_u128(7)));
        assert_eq!(unknown.responses[0].partitions[0].error_code, 100, "UNKNOWN_TOPIC_ID");
    }
}

#[test]
fn consoles_get_log_directories_and_configurations() {
    let broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    create(&mut raw, "shown", 3);
    let directories: DescribeLogDirsResponse =
        raw.call(ApiKey::DescribeLogDirs, 4, &DescribeLogDirsRequest::default().with_topics(None));
    let directory = &directories.results[0];
    assert_eq!((directories.error_code, directory.error_code), (0, 0));
    assert!(directory.log_dir.ends_with("data"), "{}", directory.log_dir.as_str());
    assert!(directory.total_bytes > 0 && directory.usable_bytes > 0, "{directory:?}");
    let topic = directory.topics.iter().find(|topic| topic.name.0.as_str() == "shown").expect("the topic");
    assert_eq!(topic.partitions.len(), 3);

    let resources = [(2, "shown"), (4, "1")].map(|(kind, name)| {
        DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(StrBytes::from_static_str(name))
            .with_configuration_keys(None)
    });
    let request = DescribeConfigsRequest::default().with_resources(resources.to_vec()).with_include_synonyms(true);
    let answer: DescribeConfigsResponse = raw.call(ApiKey::DescribeConfigs, 4, &request);
    for result in &answer.results {
        assert_eq!(result.error_code, 0, "{result:?}");
        assert!(!result.configs.is_empty(), "resource type {}", result.resource_type);
    }
    let retention = answer.results[0].configs.iter().find(|config| config.name.as_str() == "retention.ms");
    let retention = retention.expect("retention.ms is shown");
    assert_eq!(retention.value.as_deref(), Some("604800000"));
    assert_eq!((retention.config_type, retention.config_source), (5, 5), "LONG, DEFAULT_CONFIG");
}
