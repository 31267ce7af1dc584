use tidegate_sdk::testkit::{Routed, SENT_TO, TestRecord, open_router, record};

use super::*;

fn one(headers: &str, how: &str) -> String {
    format!(r#"{{ "bindings": [ {{ "headers": {headers}, "match": "{how}", "topic": "t" }} ] }}"#)
}

#[track_caller]
fn check(config: &str, record: TestRecord, expected: &[&str]) {
    let mut router = open_router::<HeadersRouter>(config).expect("the configuration is good");
    assert_eq!(router.route(&[record]).expect("it always answers")[0].topics(), expected);
}

#[track_caller]
fn matches(headers: &str, how: &str, record: TestRecord, expected: bool) {
    check(&one(headers, how), record, if expected { &["t"] } else { &[SENT_TO] });
}

fn with(headers: &[(&str, &str)]) -> TestRecord {
    headers.iter().fold(record(), |record, (name, value)| record.header(name, value))
}

/// The cases of `headers_match` in RabbitMQ's `rabbit_exchange_type_headers`, and of its documentation.
#[test]
fn headers_match_as_in_rabbitmq() {
    let two = r#"{ "format": "pdf", "type": "report" }"#;
    for (headers, all, any) in [
        (&[("format", "pdf"), ("type", "report")][..], true, true),
        (&[("format", "pdf"), ("type", "report"), ("more", "x")], true, true),
        (&[("format", "pdf"), ("type", "log")], false, true),
        (&[("format", "zip"), ("type", "log")], false, false),
        (&[("type", "report")], false, true),
        (&[], false, false),
    ] {
        for (how, expected) in [("all", all), ("any", any), ("all-with-x", all), ("any-with-x", any)] {
            matches(two, how, with(headers), expected);
        }
    }
}

#[test]
fn names_that_begin_with_x_count_only_with_x() {
    let binding = r#"{ "x-tier": "gold", "kind": "a" }"#;
    let gold = || with(&[("x-tier", "gold")]);
    let kind = || with(&[("kind", "a")]);
    matches(binding, "all", kind(), true);
    matches(binding, "all-with-x", kind(), false);
    matches(binding, "all-with-x", kind().header("x-tier", "gold"), true);
    matches(binding, "any", gold(), false);
    matches(binding, "any-with-x", gold(), true);
}

#[test]
fn null_asks_whether_the_header_is_there() {
    matches(r#"{ "a": null }"#, "all", with(&[("a", "")]), true);
    matches(r#"{ "a": null }"#, "all", with(&[("b", "")]), false);
}

#[test]
fn all_of_nothing_is_everything_and_any_of_nothing_is_nothing() {
    matches("{}", "all", record(), true);
    matches("{}", "any", record(), false);
    matches(r#"{ "x-a": "1" }"#, "all", record(), true);
    matches(r#"{ "x-a": "1" }"#, "any", with(&[("x-a", "1")]), false);
}

#[test]
fn numbers_and_truth_values_are_compared_as_text() {
    matches(r#"{ "n": 7 }"#, "all", with(&[("n", "7")]), true);
    matches(r#"{ "n": 7 }"#, "all", with(&[("n", "7.0")]), false);
    matches(r#"{ "n": 1.5 }"#, "all", with(&[("n", "1.5")]), true);
    matches(r#"{ "n": true }"#, "all", with(&[("n", "true")]), true);
}

#[test]
fn the_last_value_of_a_header_counts() {
    matches(r#"{ "a": "2" }"#, "all", with(&[("a", "1"), ("a", "2")]), true);
    matches(r#"{ "a": "1" }"#, "all", with(&[("a", "1"), ("a", "2")]), false);
}

#[test]
fn a_topic_gets_a_record_once() {
    let config = r#"{ "bindings": [
        { "headers": { "a": "1" }, "topic": "x" }, { "headers": { "b": "1" }, "topic": "y" },
        { "headers": { "a": "1", "b": "1" }, "topic": "x" } ], "unmatched": "reject" }"#;
    check(config, with(&[("a", "1"), ("b", "1")]), &["x", "y"]);
    let mut router = open_router::<HeadersRouter>(config).expect("the configuration is good");
    let routed = router.route(&[with(&[("b", "1")]), record()]).expect("it always answers");
    assert_eq!(routed[0].topics(), ["y"]);
    assert_eq!(routed[1], Routed::Rejected("no binding matches the headers".to_owned()));
}

#[test]
fn a_bad_configuration_is_refused() {
    let refused = |config: &str| open_router::<HeadersRouter>(config).expect_err("the configuration is bad");
    assert!(refused(r#"{ "bindings": [] }"#).contains("nothing would be routed"));
    assert!(refused(&one("{}", "some")).contains("unknown variant `some`"));
    open_router::<HeadersRouter>(HeadersRouter::EXAMPLE).expect("the example opens");
}
