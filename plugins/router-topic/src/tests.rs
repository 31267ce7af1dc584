use tidegate_sdk::testkit::{Opened, Routed, SENT_TO, TestRecord, open_router, record};

use super::*;

fn opened(config: &str) -> Opened<TopicRouter> {
    open_router(config).expect("the configuration is good")
}

#[track_caller]
fn check(config: &str, record: TestRecord, expected: &[&str]) {
    let routed = opened(config).route(&[record]).expect("it always answers");
    assert_eq!(routed[0].topics(), expected);
}

const BY_KEY: &str = r##"{ "bindings": [
    { "pattern": "eu.#", "topic": "europe" },
    { "pattern": "*.order", "topic": "orders" },
    { "pattern": "eu.order", "topic": "orders" }
] }"##;

#[test]
fn the_example_opens() {
    opened(TopicRouter::EXAMPLE);
}

#[test]
fn every_binding_that_matches_gets_the_record_once() {
    check(BY_KEY, record().key("eu.order"), &["europe", "orders"]);
    check(BY_KEY, record().key("us.order"), &["orders"]);
    check(BY_KEY, record().key("eu"), &["europe"]);
}

#[test]
fn what_matches_nothing_is_handled_as_configured() {
    let config = |unmatched: &str| {
        format!(r#"{{ "bindings": [ {{ "pattern": "eu.*", "topic": "europe" }} ], "unmatched": {unmatched} }}"#)
    };
    check(&config(r#""keep""#), record().key("us.1"), &[SENT_TO]);
    check(&config(r#""drop""#), record().key("us.1"), &[]);
    check(&config(r#"{ "topic": "rest" }"#), record().key("us.1"), &["rest"]);
    let routed =
        opened(&config(r#""reject""#)).route(&[record().key("eu.1"), record().key("us.1")]).expect("an answer");
    assert_eq!(routed[0].topics(), ["europe"]);
    assert_eq!(routed[1], Routed::Rejected("no binding matches the routing key 'us.1'".to_owned()));
}

#[test]
fn a_record_without_a_routing_key_has_the_empty_one() {
    check(BY_KEY, record(), &[SENT_TO]);
    check(r##"{ "bindings": [ { "pattern": "#", "topic": "all" } ] }"##, record(), &["all"]);
}

#[test]
fn the_routing_key_can_be_a_header() {
    let config = r#"{ "source": { "header": "kind" }, "bindings": [ { "pattern": "*.paid", "topic": "payments" } ] }"#;
    check(config, record().key("x").header("kind", "order.paid"), &["payments"]);
    check(config, record().header("kind", "order.paid").header("kind", "order.new"), &[SENT_TO]);
    check(config, record().key("order.paid"), &[SENT_TO]);
}

#[test]
fn the_routing_key_can_be_a_field_of_json() {
    let config = |path: &str| {
        format!(
            r#"{{ "source": {{ "json": "{path}" }}, "bindings": [ {{ "pattern": "eu.*", "topic": "europe" }}, {{ "pattern": "7", "topic": "seven" }}, {{ "pattern": "true", "topic": "yes" }} ] }}"#
        )
    };
    let at = |path: &str, value: &str, expected: &[&str]| check(&config(path), record().value(value), expected);
    at("region", r#"{ "a": [1, {}], "region": "eu.fr", "z": null }"#, &["europe"]);
    at("a.b", r#"{ "a": { "x": {}, "b": "eu.fr" } }"#, &["europe"]);
    at("a.b", r#"{ "a.b": "eu.fr" }"#, &[SENT_TO]);
    at("n", r#"{ "n": 7 }"#, &["seven"]);
    at("n", r#"{ "n": true }"#, &["yes"]);
    at("n", r#"{ "n": "\u0065u.x" }"#, &["europe"]);
    at("n", r#"{ "n": ["eu.x"] }"#, &[SENT_TO]);
    at("n", r#"{ "n": null }"#, &[SENT_TO]);
    at("n", r#"{ "n": "eu.x", "n": "us.x" }"#, &["europe"]);
    at("n", r#"{ "n": "eu.x" "#, &[SENT_TO]);
    at("n", r#"{ "n": "eu.x" } trailing"#, &[SENT_TO]);
    at("n", "no JSON", &[SENT_TO]);
    at("n", r#""eu.x""#, &[SENT_TO]);
}

#[test]
fn a_bad_configuration_is_refused_with_what_is_wrong() {
    let refused = |config: &str, expected: &str| {
        let error = open_router::<TopicRouter>(config).expect_err("the configuration is bad");
        assert!(error.contains(expected), "{error}");
    };
    refused("", "missing field `bindings`");
    refused(r#"{ "bindings": [] }"#, "`bindings` is empty");
    refused(
        r#"{ "bindings": [ { "pattern": "a", "topic": "not a topic" } ] }"#,
        "'not a topic' is not the name of a topic",
    );
    refused(r#"{ "bindings": [ { "patern": "a", "topic": "b" } ] }"#, "unknown field `patern`");
    refused(r#"{ "source": { "key": false }, "bindings": [ { "pattern": "a", "topic": "b" } ] }"#, "leave it out");
    refused(
        r#"{ "source": { "json": "a..b" }, "bindings": [ { "pattern": "a", "topic": "b" } ] }"#,
        "a name in it is empty",
    );
    refused(
        r#"{ "source": { "body": "a" }, "bindings": [ { "pattern": "a", "topic": "b" } ] }"#,
        "unknown variant `body`",
    );
    refused(
        r#"{ "bindings": [ { "pattern": "a", "topic": "b" } ], "unmatched": "explode" }"#,
        "unknown variant `explode`",
    );
}
