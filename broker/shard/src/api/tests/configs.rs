use std::collections::BTreeMap;

use kafka_protocol::{
    ResponseError,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, ApiKey, DescribeConfigsRequest, DescribeConfigsResponse,
        IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, ListConfigResourcesRequest,
        ListConfigResourcesResponse, alter_configs_request, describe_configs_request::DescribeConfigsResource,
        describe_configs_response::DescribeConfigsResult, incremental_alter_configs_request,
    },
};
use tidegate_model::topic_config::{BrokerDefaults, ConfigType, TOPIC_KEYS};

use super::rig::{Rig, text};
use crate::{ShardSettings, ShownSetting};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const GROUP: i8 = 32;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

fn describe(rig: &mut Rig, version: i16, kind: i8, name: &str, keys: Option<&[&str]>) -> DescribeConfigsResult {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(keys.map(|keys| keys.iter().map(|key| text(key)).collect()));
    let mut body = DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(true);
    if version >= 3 {
        body.include_documentation = true;
    }
    let mut response: DescribeConfigsResponse = rig.ask(ApiKey::DescribeConfigs, version, &body);
    assert_eq!(response.results.len(), 1);
    response.results.remove(0)
}

fn operations(
    kind: i8,
    name: &str,
    operations: &[(&str, i8, Option<&str>)],
) -> incremental_alter_configs_request::AlterConfigsResource {
    let configs = operations.iter().map(|(key, operation, value)| {
        incremental_alter_configs_request::AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(*operation)
            .with_value(value.map(text))
    });
    incremental_alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(configs.collect())
}

fn incremental(
    resources: Vec<incremental_alter_configs_request::AlterConfigsResource>,
) -> IncrementalAlterConfigsRequest {
    IncrementalAlterConfigsRequest::default().with_resources(resources)
}

/// The code and text of each resource's answer.
fn alter(rig: &mut Rig, body: &IncrementalAlterConfigsRequest) -> Vec<(i16, String)> {
    let response: IncrementalAlterConfigsResponse = rig.ask(ApiKey::IncrementalAlterConfigs, 1, body);
    let answers = response.responses.into_iter();
    answers.map(|answer| (answer.error_code, answer.error_message.unwrap_or_default().to_string())).collect()
}

fn overrides(rig: &Rig, topic: &str) -> BTreeMap<String, String> {
    rig.image.topic(topic).unwrap().config.overrides().clone()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

#[test]
fn a_topics_settings_say_where_they_come_from() {
    for version in 1..=4 {
        let defaults = BrokerDefaults::from([("segment.ms".into(), "7000".into())]);
        let mut rig = Rig::with(2, ShardSettings::default(), defaults);
        rig.create("t", 1, &[("retention.ms", "5")]);
        let result = describe(&mut rig, version, TOPIC, "t", None);
        assert_eq!((result.error_code, result.configs.len()), (0, TOPIC_KEYS.len()));
        let config = |name: &str| result.configs.iter().find(|config| config.name.as_str() == name).unwrap();
        let sources = |name: &str| {
            let config = config(name);
            let synonyms = config.synonyms.iter();
            let synonyms: Vec<_> = synonyms
                .map(|one| (one.name.to_string(), one.value.clone().unwrap_or_default().to_string(), one.source))
                .collect();
            (config.value.clone().unwrap_or_default().to_string(), config.config_source, synonyms)
        };
        let synonym = |name: &str, value: &str, source: i8| (name.to_owned(), value.to_owned(), source);
        let (retention, default) = ("log.retention.ms", "604800000");
        let expected = vec![synonym("retention.ms", "5", 1), synonym(retention, default, 5)];
        assert_eq!(sources("retention.ms"), ("5".into(), 1, expected));
        let expected = vec![synonym("log.roll.ms", "7000", 4), synonym("log.roll.ms", default, 5)];
        assert_eq!(sources("segment.ms"), ("7000".into(), 4, expected));
        assert_eq!(sources("cleanup.policy").1, 5);
        assert!(!config("retention.ms").read_only && !config("retention.ms").is_sensitive);
        if version >= 3 {
            assert_eq!((config("retention.ms").config_type, config("cleanup.policy").config_type), (5, 7));
            assert!(config("retention.ms").documentation.is_some());
        }
    }
}

#[test]
fn only_the_keys_that_were_asked_for_are_shown() {
    let mut rig = Rig::new(1);
    rig.create("t", 1, &[]);
    let result = describe(&mut rig, 4, TOPIC, "t", Some(&["retention.ms", "no.such.key"]));
    assert_eq!(result.configs.iter().map(|config| config.name.as_str()).collect::<Vec<_>>(), ["retention.ms"]);
}

#[test]
fn what_cannot_be_described_says_why() {
    let mut rig = Rig::new(1);
    let mut check = |kind: i8, name: &str, expected: ResponseError| {
        let result = describe(&mut rig, 4, kind, name, None);
        assert_eq!(result.error_code, expected.code(), "{kind} {name}");
        assert!(result.error_message.is_some_and(|message| !message.is_empty()));
    };
    check(TOPIC, "missing", ResponseError::UnknownTopicOrPartition);
    check(TOPIC, "not a name", ResponseError::InvalidTopicException);
    check(BROKER, "2", ResponseError::InvalidRequest);
    check(BROKER, "one", ResponseError::InvalidRequest);
    check(GROUP, "", ResponseError::InvalidRequest);
    check(77, "x", ResponseError::InvalidRequest);
}

#[test]
fn a_brokers_and_a_groups_settings_are_shown_and_cannot_be_changed() {
    let shown = |name: &str, default: &str| ShownSetting {
        name: name.to_owned(),
        value: "3".to_owned(),
        kind: ConfigType::Int,
        default: (!default.is_empty()).then(|| default.to_owned()),
        documentation: "How many.".to_owned(),
    };
    let settings = ShardSettings {
        shown: vec![shown("num.partitions", "1"), shown("default.replication.factor", "3"), shown("broker.rack", "")],
        ..ShardSettings::default()
    };
    let mut rig = Rig::with(1, settings, BrokerDefaults::new());
    let broker = describe(&mut rig, 4, BROKER, "1", None);
    let seen: Vec<_> = broker.configs.iter().map(|c| (c.name.as_str(), c.config_source, c.read_only)).collect();
    assert_eq!(seen, [("num.partitions", 4, true), ("default.replication.factor", 5, true), ("broker.rack", 4, true)]);
    // They were empty: what holds without the file was not to be seen.
    let synonyms: Vec<_> = broker.configs.iter().flat_map(|config| &config.synonyms).collect();
    let synonyms: Vec<_> =
        synonyms.iter().map(|one| (one.name.as_str(), one.value.as_deref().unwrap_or_default(), one.source)).collect();
    assert_eq!(
        synonyms,
        [
            ("num.partitions", "3", 4),
            ("num.partitions", "1", 5),
            ("default.replication.factor", "3", 5),
            ("broker.rack", "3", 4)
        ]
    );
    let all_brokers = describe(&mut rig, 4, BROKER, "", None);
    assert_eq!((all_brokers.error_code, all_brokers.configs.len()), (0, 0));
    let group = describe(&mut rig, 4, GROUP, "g", None);
    let session = group.configs.iter().find(|config| config.name.as_str() == "consumer.session.timeout.ms").unwrap();
    assert_eq!(session.value.as_deref(), Some("45000"));
    let body = incremental(vec![
        operations(BROKER, "1", &[("num.partitions", SET, Some("4"))]),
        operations(GROUP, "g", &[("consumer.session.timeout.ms", SET, Some("4"))]),
    ]);
    let answers = alter(&mut rig, &body);
    assert!(answers.iter().all(|(code, _)| *code == ResponseError::InvalidRequest.code()), "{answers:?}");
    assert!(answers[0].1.contains("configuration file"), "{answers:?}");
}

#[test]
fn an_incremental_change_leaves_the_rest_alone() {
    let mut rig = Rig::new(2);
    rig.create("t", 1, &[("retention.ms", "5"), ("segment.ms", "6")]);
    let step = |rig: &mut Rig, ops: &[(&str, i8, Option<&str>)], expected: &[(&str, &str)]| {
        assert_eq!(alter(rig, &incremental(vec![operations(TOPIC, "t", ops)])), [(0, String::new())], "{ops:?}");
        assert_eq!(overrides(rig, "t"), map(expected));
    };
    step(
        &mut rig,
        &[("max.message.bytes", SET, Some("1000")), ("segment.ms", DELETE, None)],
        &[("retention.ms", "5"), ("max.message.bytes", "1000")],
    );
    step(&mut rig, &[("max.message.bytes", DELETE, None), ("never.set", DELETE, None)], &[("retention.ms", "5")]);
    step(
        &mut rig,
        &[("cleanup.policy", APPEND, Some("compact"))],
        &[("retention.ms", "5"), ("cleanup.policy", "delete,compact")],
    );
    step(
        &mut rig,
        &[("cleanup.policy", SUBTRACT, Some("delete")), ("retention.ms", DELETE, Some("5"))],
        &[("cleanup.policy", "compact")],
    );
}

#[test]
fn a_refused_change_changes_nothing() {
    let mut rig = Rig::new(1);
    rig.create("t", 1, &[("retention.ms", "5")]);
    let mut check = |ops: &[(&str, i8, Option<&str>)], expected: ResponseError, message: &str| {
        let answers = alter(&mut rig, &incremental(vec![operations(TOPIC, "t", ops)]));
        assert_eq!(answers, [(expected.code(), message.to_owned())]);
        assert_eq!(overrides(&rig, "t"), map(&[("retention.ms", "5")]));
    };
    let config = ResponseError::InvalidConfig;
    check(&[("nonsense", SET, Some("1"))], config, "Unknown topic config name: nonsense");
    check(
        &[("segment.ms", SET, Some("7")), ("retention.ms", SET, Some("x"))],
        config,
        "Invalid value x for configuration retention.ms: Not a number of type LONG",
    );
    check(
        &[("retention.ms", APPEND, Some("1"))],
        config,
        "Can't APPEND to key retention.ms because its type is not LIST.",
    );
    check(&[("nonsense", SUBTRACT, Some("1"))], config, "Can't SUBTRACT to key nonsense because its type is not LIST.");
    check(&[("retention.ms", SET, None)], ResponseError::InvalidRequest, "Null value not supported for : retention.ms");
    check(
        &[("tidegate.router", SET, Some("nobody"))],
        config,
        "there is no plugin named 'nobody'; `tidegate plugin list` shows those that are deployed",
    );
    let request = ResponseError::InvalidRequest;
    check(&[("retention.ms", 9, Some("1"))], request, "Unknown operation type 9");
    check(
        &[("segment.ms", SET, Some("7")), ("segment.ms", DELETE, None)],
        request,
        "Error due to duplicate config keys: segment.ms",
    );
}

/// What Apache Kafka 4.3 makes of odd values for APPEND and SUBTRACT. An empty one was appended to any list and answered with 0.
#[test]
fn lists_are_appended_to_as_in_apache_kafka() {
    let mut rig = Rig::new(1);
    rig.create("t", 1, &[]);
    let empty = (ResponseError::InvalidConfig.code(), "Configuration 'cleanup.policy' values must not be empty.");
    let done = (0, "");
    let mut check = |kind: i8, value: &str, expected: (i16, &str), list: &str| {
        let ops = [("cleanup.policy", kind, Some(value))];
        let answers = alter(&mut rig, &incremental(vec![operations(TOPIC, "t", &ops)]));
        assert_eq!(answers, [(expected.0, expected.1.to_owned())], "{kind} {value:?}");
        let answer = describe(&mut rig, 4, TOPIC, "t", Some(&["cleanup.policy"]));
        assert_eq!(answer.configs[0].value.as_deref(), Some(list), "{kind} {value:?}");
    };
    check(APPEND, "", empty, "delete");
    check(APPEND, " ", empty, "delete");
    check(APPEND, ",compact", empty, "delete");
    check(APPEND, ",", done, "delete");
    check(APPEND, "compact,", done, "delete,compact");
    check(APPEND, " compact ", done, "delete,compact");
    check(APPEND, "compact,compact", done, "delete,compact");
    check(SUBTRACT, "", done, "delete,compact");
    check(SUBTRACT, "compact", done, "delete");
    check(SUBTRACT, "delete", done, "");
    check(APPEND, "", done, "");
    check(SUBTRACT, "delete", done, "");
    check(APPEND, "delete", done, "delete");
    check(SET, "delete,", empty, "delete");
    let replicas = "leader.replication.throttled.replicas";
    for value in ["0:1", "", "1:1,"] {
        let ops = [(replicas, APPEND, Some(value))];
        assert_eq!(
            alter(&mut rig, &incremental(vec![operations(TOPIC, "t", &ops)])),
            [(0, String::new())],
            "{value:?}"
        );
    }
    let ops = [(replicas, APPEND, Some("*"))];
    assert_eq!(alter(&mut rig, &incremental(vec![operations(TOPIC, "t", &ops)]))[0].0, empty.0);
}

#[test]
fn each_resource_is_answered_for_itself() {
    let mut rig = Rig::new(2);
    rig.create("a", 1, &[]);
    rig.create("b", 1, &[]);
    rig.create("c", 1, &[]);
    let set = |name| operations(TOPIC, name, &[("retention.ms", SET, Some("9"))]);
    let answers = alter(&mut rig, &incremental(vec![set("a"), set("missing"), set("b"), set("c"), set("b")]));
    let codes: Vec<i16> = answers.iter().map(|(code, _)| *code).collect();
    let twice = ResponseError::InvalidRequest.code();
    assert_eq!(codes, [0, ResponseError::UnknownTopicOrPartition.code(), twice, 0, twice]);
    assert_eq!(overrides(&rig, "a"), map(&[("retention.ms", "9")]));
    assert_eq!(overrides(&rig, "b"), map(&[]));
}

#[test]
fn a_change_that_is_only_validated_is_not_made() {
    let mut rig = Rig::new(1);
    rig.create("t", 1, &[]);
    let body = incremental(vec![operations(TOPIC, "t", &[("retention.ms", SET, Some("9"))])]).with_validate_only(true);
    assert_eq!(alter(&mut rig, &body), [(0, String::new())]);
    assert_eq!(overrides(&rig, "t"), map(&[]));
}

/// Two tools that change different keys of one topic at once: before a change named what it was computed from, the second took
/// the first one's key away.
#[test]
fn concurrent_changes_are_all_kept() {
    let mut rig = Rig::new(2);
    rig.create("t", 1, &[("cleanup.policy", "delete")]);
    rig.held = Some(Vec::new());
    let one = incremental(vec![operations(TOPIC, "t", &[("retention.ms", SET, Some("1"))])]);
    let other = incremental(vec![operations(
        TOPIC,
        "t",
        &[("segment.ms", SET, Some("2")), ("cleanup.policy", APPEND, Some("compact"))],
    )]);
    rig.send(0, ApiKey::IncrementalAlterConfigs, 1, &one);
    rig.send(1, ApiKey::IncrementalAlterConfigs, 1, &other);
    rig.release();
    for connection in [0, 1] {
        let answer: IncrementalAlterConfigsResponse =
            rig.received(connection, ApiKey::IncrementalAlterConfigs, 1).unwrap();
        assert_eq!(answer.responses[0].error_code, 0, "{:?}", answer.responses[0].error_message);
    }
    let expected = map(&[("cleanup.policy", "delete,compact"), ("retention.ms", "1"), ("segment.ms", "2")]);
    assert_eq!(overrides(&rig, "t"), expected);
}

#[test]
fn alter_configs_replaces_everything() {
    for version in 0..=2 {
        let mut rig = Rig::new(1);
        rig.create("t", 1, &[("retention.ms", "5"), ("segment.ms", "6")]);
        let resource = |kind: i8, name: &str, configs: &[(&str, Option<&str>)]| {
            let configs = configs.iter().map(|(key, value)| {
                alter_configs_request::AlterableConfig::default().with_name(text(key)).with_value(value.map(text))
            });
            alter_configs_request::AlterConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(name))
                .with_configs(configs.collect())
        };
        let body = AlterConfigsRequest::default().with_resources(vec![
            resource(TOPIC, "t", &[("max.message.bytes", Some("7"))]),
            resource(TOPIC, "missing", &[]),
            resource(BROKER, "1", &[]),
        ]);
        let response: AlterConfigsResponse = rig.ask(ApiKey::AlterConfigs, version, &body);
        let codes: Vec<i16> = response.responses.iter().map(|answer| answer.error_code).collect();
        let (unknown, refused) = (ResponseError::UnknownTopicOrPartition, ResponseError::InvalidRequest);
        assert_eq!(codes, [0, unknown.code(), refused.code()]);
        assert_eq!(overrides(&rig, "t"), map(&[("max.message.bytes", "7")]));
        let body = AlterConfigsRequest::default().with_resources(vec![resource(TOPIC, "t", &[("segment.ms", None)])]);
        let response: AlterConfigsResponse = rig.ask(ApiKey::AlterConfigs, version, &body);
        assert_eq!(response.responses[0].error_code, ResponseError::InvalidRequest.code());
    }
}

#[test]
fn resources_that_have_settings_are_listed() {
    let mut rig = Rig::new(1);
    rig.create("t", 1, &[]);
    let list = |rig: &mut Rig, version, kinds: &[i8]| {
        let body = ListConfigResourcesRequest::default().with_resource_types(kinds.to_vec());
        let response: ListConfigResourcesResponse = rig.ask(ApiKey::ListConfigResources, version, &body);
        let resources = response.config_resources.into_iter();
        resources.map(|one| (one.resource_type, one.resource_name.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(list(&mut rig, 1, &[]), [(TOPIC, "t".to_owned()), (BROKER, "1".to_owned())]);
    assert_eq!(list(&mut rig, 1, &[TOPIC]), [(TOPIC, "t".to_owned())]);
    assert_eq!(list(&mut rig, 0, &[]), [], "version 0 lists client metrics alone");
}

/// A topic that was made for three brokers took no record here with acks=all. Kafka asks for no more than there are (KIP-966).
#[test]
fn a_partition_is_not_asked_for_more_replicas_than_it_has() {
    let mut rig = Rig::new(1);
    rig.create("t", 1, &[("min.insync.replicas", "2")]);
    assert_eq!(rig.produce("t", 0, 3), 0);
}
