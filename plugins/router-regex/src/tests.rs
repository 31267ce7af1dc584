use proptest::prelude::*;
use tidegate_sdk::testkit::{Opened, Routed, SENT_TO, TestRecord, open_router, record};

use super::*;

fn config(patterns: &[(&str, &str)]) -> String {
    let bindings: Vec<_> =
        patterns.iter().map(|(pattern, topic)| serde_json::json!({ "pattern": pattern, "topic": topic })).collect();
    serde_json::json!({ "bindings": bindings }).to_string()
}

fn opened(config: &str) -> Opened<RegexRouter> {
    open_router(config).expect("the configuration is good")
}

#[track_caller]
fn check(patterns: &[(&str, &str)], record: TestRecord, expected: &[&str]) {
    let routed = opened(&config(patterns)).route(&[record]).expect("it always answers");
    assert_eq!(routed[0].topics(), expected);
}

#[test]
fn every_pattern_that_matches_somewhere_gets_the_record_once() {
    let patterns = [("^eu-", "europe"), ("[0-9]{3}$", "large"), ("eu", "europe"), ("(?i)ORDER", "orders")];
    check(&patterns, record().key("eu-order-123"), &["europe", "large", "orders"]);
    check(&patterns, record().key("us-order-12"), &["orders"]);
    check(&patterns, record().key("us"), &[SENT_TO]);
    check(&patterns, record(), &[SENT_TO]);
    check(&[("^$", "empty")], record(), &["empty"]);
}

#[test]
fn keys_are_bytes() {
    check(&[(r"^\xff.\x00$", "t")], record().key([0xff, 0x80, 0]), &["t"]);
    check(&[("^é+$", "t")], record().key("é"), &["t"]);
    check(&[(r"^\w+$", "t")], record().key("é"), &[SENT_TO]);
    check(&[(r"\bword\b", "t")], record().key("a word"), &["t"]);
}

#[test]
fn the_source_can_be_a_header() {
    let config =
        r#"{ "source": { "header": "h" }, "bindings": [ { "pattern": "^a", "topic": "t" } ], "unmatched": "reject" }"#;
    let routed = opened(config).route(&[record().header("h", "ab"), record().key("a")]).expect("it always answers");
    assert_eq!(routed[0].topics(), ["t"]);
    assert_eq!(routed[1], Routed::Rejected("no pattern matches ''".to_owned()));
}

#[test]
fn a_pattern_that_cannot_be_used_is_named() {
    let refused =
        |patterns: &[(&str, &str)]| open_router::<RegexRouter>(&config(patterns)).expect_err("the pattern is bad");
    let error = refused(&[("good", "t"), ("a(b", "t")]);
    assert!(error.contains("the pattern 'a(b'") && error.contains("unclosed group"), "{error}");
    let error = refused(&[(r"(a)\1", "t")]);
    assert!(error.contains("backreferences are not supported"), "{error}");
    let error = refused(&[(r"\p{Greek}", "t")]);
    assert!(error.contains("Unicode"), "{error}");
    let error = refused(&[("((a{1000}){1000}){1000}", "t")]);
    assert!(error.contains("exceeded limit"), "{error}");
    assert!(open_router::<RegexRouter>(r#"{ "bindings": [] }"#).expect_err("no binding").contains("nothing"));
    opened(RegexRouter::EXAMPLE);
}

/// `(a|b)*a(a|b){n}` needs 2^n states: they are made, forgotten and made again within the bound.
#[test]
fn what_is_remembered_is_bounded() {
    let mut router = opened(&config(&[("^[ab]*a[ab]{14}$", "t")]));
    let mut random = 1_u64;
    let keys: Vec<String> = (0..4000)
        .map(|_| {
            let mut letter = || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if random >> 40 & 1 == 0 { 'a' } else { 'b' }
            };
            (0..40).map(|_| letter()).collect()
        })
        .collect();
    let records: Vec<TestRecord> = keys.iter().map(|key| record().key(key)).collect();
    for (key, routed) in keys.iter().zip(router.route(&records).expect("it always answers")) {
        let expected = if key.as_bytes()[25] == b'a' { "t" } else { SENT_TO };
        assert_eq!(routed.topics(), [expected], "{key}");
    }
}

proptest! {
    /// Another engine of the same syntax agrees: the `regex` crate's set.
    #[test]
    fn patterns_match_as_in_the_regex_crate(
        patterns in prop::collection::vec("\\^?[ab.]{1,3}[*+?]?(\\|[abc]{1,2})?\\$?", 1..6),
        keys in prop::collection::vec("[abc]{0,6}", 1..12),
    ) {
        let names: Vec<String> = (0..patterns.len()).map(|index| format!("t{index}")).collect();
        let bindings: Vec<(&str, &str)> =
            patterns.iter().zip(&names).map(|(pattern, name)| (pattern.as_str(), name.as_str())).collect();
        let set = regex::bytes::RegexSetBuilder::new(&patterns).unicode(false).build().unwrap();
        let records: Vec<TestRecord> = keys.iter().map(|key| record().key(key)).collect();
        let routed = opened(&config(&bindings)).route(&records).unwrap();
        for (key, routed) in keys.iter().zip(routed) {
            let mut expected: Vec<&str> = set.matches(key.as_bytes()).iter().map(|index| names[index].as_str()).collect();
            if expected.is_empty() {
                expected.push(SENT_TO);
            }
            prop_assert_eq!(routed.topics(), expected, "{} of {:?}", key, patterns);
        }
    }
}
