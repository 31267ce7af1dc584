use tidegate_sdk::testkit::{Routed, SENT_TO, open_router, record};

use super::*;

fn one(when: &str) -> String {
    format!(r#"{{ "bindings": [ {{ "when": [ {when} ], "topic": "t" }} ] }}"#)
}

#[track_caller]
fn check(config: &str, value: &str, expected: &[&str]) {
    let mut router = open_router::<JsonRouter>(config).expect("the configuration is good");
    assert_eq!(router.route(&[record().value(value)]).expect("it always answers")[0].topics(), expected, "{value}");
}

#[track_caller]
fn holds(when: &str, value: &str, expected: bool) {
    check(&one(when), value, if expected { &["t"] } else { &[SENT_TO] });
}

#[test]
fn equality_is_of_type_and_value() {
    for (wanted, value, expected) in [
        (r#""eu""#, r#"{ "f": "eu" }"#, true),
        (r#""eu""#, r#"{ "f": "us" }"#, false),
        (r#""7""#, r#"{ "f": 7 }"#, false),
        ("7", r#"{ "f": 7 }"#, true),
        ("7", r#"{ "f": 7.0 }"#, true),
        ("18446744073709551615", r#"{ "f": 18446744073709551614 }"#, false),
        ("true", r#"{ "f": true }"#, true),
        ("null", r#"{ "f": null }"#, true),
        ("null", "{}", false),
        (r#""eu""#, r#"{ "f": ["eu"] }"#, false),
    ] {
        holds(&format!(r#"{{ "field": "f", "equals": {wanted} }}"#), value, expected);
        holds(&format!(r#"{{ "field": "f", "in": [ "-", {wanted} ] }}"#), value, expected);
        holds(&format!(r#"{{ "field": "f", "not": {wanted} }}"#), value, !expected);
    }
}

#[test]
fn ranges_are_of_numbers() {
    for (range, inside, outside) in [
        (r#""from": 10, "below": 20"#, &["10", "19.999", "1e1"][..], &["9.999", "20", "-15", r#""15""#, "null"][..]),
        (r#""above": 10, "to": 20"#, &["10.001", "20"], &["10", "20.001"]),
        (r#""from": -0.5"#, &["0", "-0.5", "99999999999999999999"], &["-0.6"]),
        (r#""below": 9007199254740993"#, &["9007199254740992"], &["9007199254740993"]),
    ] {
        let when = format!(r#"{{ "field": "a.b", {range} }}"#);
        for (values, expected) in [(inside, true), (outside, false)] {
            for value in values {
                holds(&when, &format!(r#"{{ "a": {{ "b": {value} }} }}"#), expected);
            }
        }
        holds(&when, "{}", false);
    }
}

#[test]
fn presence_and_prefixes() {
    holds(r#"{ "field": "f", "exists": true }"#, r#"{ "f": null }"#, true);
    holds(r#"{ "field": "f", "exists": true }"#, r#"{ "f": {} }"#, true);
    holds(r#"{ "field": "f", "exists": true }"#, r#"{ "g": 1 }"#, false);
    holds(r#"{ "field": "f", "exists": false }"#, r#"{ "g": 1 }"#, true);
    holds(r#"{ "field": "f", "prefix": "eu-" }"#, r#"{ "f": "eu-1" }"#, true);
    holds(r#"{ "field": "f", "prefix": "eu-" }"#, r#"{ "f": 7 }"#, false);
}

#[test]
fn all_or_any_must_hold_and_a_topic_gets_a_record_once() {
    let config = r#"{ "bindings": [
        { "when": [ { "field": "a", "equals": 1 }, { "field": "b", "equals": 1 } ], "topic": "both" },
        { "when": [ { "field": "a", "equals": 1 }, { "field": "b", "equals": 1 } ], "match": "any", "topic": "one" },
        { "when": [ { "field": "a", "from": 1, "exists": true } ], "topic": "one" } ], "unmatched": "drop" }"#;
    check(config, r#"{ "a": 1, "b": 1 }"#, &["both", "one"]);
    check(config, r#"{ "b": 1 }"#, &["one"]);
    check(config, r#"{ "c": 1 }"#, &[]);
}

#[test]
fn what_is_no_json_has_a_way_of_its_own() {
    let config =
        r#"{ "bindings": [ { "when": [ { "field": "a", "exists": false } ], "topic": "t" } ], "invalid": "reject" }"#;
    let mut router = open_router::<JsonRouter>(config).expect("the configuration is good");
    let routed = router.route(&[record().value("{"), record(), record().value("[]")]).expect("it always answers");
    let rejected = Routed::Rejected("the value is not JSON".to_owned());
    assert_eq!(routed[..2], [rejected.clone(), rejected]);
    assert_eq!(routed[2].topics(), ["t"]);
    check(&one(r#"{ "field": "a", "exists": false }"#), "{", &[SENT_TO]);
}

#[test]
fn a_bad_configuration_is_refused() {
    let refused = |config: &str, expected: &str| {
        let error = open_router::<JsonRouter>(config).expect_err("the configuration is bad");
        assert!(error.contains(expected), "{error}");
    };
    refused(r#"{ "bindings": [] }"#, "nothing would be routed");
    refused(&one(""), "no `when`");
    refused(&one(r#"{ "field": "a" }"#), "demands nothing of the field 'a'");
    refused(&one(r#"{ "field": "a..b", "exists": true }"#), "a name in it is empty");
    refused(&one(r#"{ "field": "a", "equals": [1] }"#), "cannot be compared with an array");
    refused(&one(r#"{ "field": "a", "from": 1, "above": 2 }"#), "bounded twice");
    refused(&one(r#"{ "field": "a", "from": 3, "to": 1 }"#), "no number can be in it");
    refused(&one(r#"{ "field": "a", "above": 3, "to": 3 }"#), "no number can be in it");
    refused(&one(r#"{ "field": "a", "equal": 1 }"#), "unknown field `equal`");
    refused(
        r#"{ "bindings": [ { "when": [ { "field": "a", "from": 1, "exists": true } ], "match": "any", "topic": "t" } ] }"#,
        "demands one thing",
    );
    open_router::<JsonRouter>(JsonRouter::EXAMPLE).expect("the example opens");
}
