use proptest::prelude::*;

use super::*;

/// RabbitMQ's own rule, as plainly as it can be said.
fn oracle(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern, key) {
        ([], []) => true,
        (["#", rest @ ..], _) => oracle(rest, key) || (!key.is_empty() && oracle(pattern, &key[1..])),
        (["*", rest @ ..], [_, key @ ..]) => oracle(rest, key),
        ([word, rest @ ..], [first, key @ ..]) => word == first && oracle(rest, key),
        _ => false,
    }
}

fn words(text: &str) -> Vec<&str> {
    if text.is_empty() { Vec::new() } else { text.split('.').collect() }
}

fn matched(patterns: &[(&str, u32)], key: &str) -> Vec<u32> {
    Matcher::new(patterns.iter().copied()).expect("the patterns are good").matches(key.as_bytes()).to_vec()
}

/// The bindings and keys of RabbitMQ's own test of its topic exchange (`topic_matching` in `rabbit_exchange_type_topic`'s suite).
#[test]
fn keys_match_as_in_the_tests_of_rabbitmq() {
    let patterns = [
        "a.b.c",
        "a.*.c",
        "a.#.b",
        "a.b.b.c",
        "#",
        "#.#",
        "#.b",
        "*.*",
        "a.*",
        "*.b.c",
        "a.#",
        "a.#.#",
        "b.b.c",
        "a.b.b",
        "a.b",
        "b.c",
        "",
        "*.*.*",
        "vodka.martini",
        "a.b.c",
        "*.#",
        "#.*.#",
        "*.#.#",
        "#.#.#",
        "*",
        "#.b.#",
    ];
    let numbered: Vec<(&str, u32)> = patterns.into_iter().zip(1..).collect();
    let check = |key: &str, expected: &[u32]| assert_eq!(matched(&numbered, key), expected, "{key:?}");
    check("a.b.c", &[1, 2, 5, 6, 10, 11, 12, 18, 20, 21, 22, 23, 24, 26]);
    check("a.b", &[3, 5, 6, 7, 8, 9, 11, 12, 15, 21, 22, 23, 24, 26]);
    check("a.b.b", &[3, 5, 6, 7, 11, 12, 14, 18, 21, 22, 23, 24, 26]);
    check("", &[5, 6, 17, 24]);
    check("b.c.c", &[5, 6, 18, 21, 22, 23, 24, 26]);
    check("a.a.a.a.a", &[5, 6, 11, 12, 21, 22, 23, 24]);
    check("vodka.gin", &[5, 6, 8, 21, 22, 23, 24]);
    check("vodka.martini", &[5, 6, 8, 19, 21, 22, 23, 24]);
    check("b.b.c", &[5, 6, 10, 13, 18, 21, 22, 23, 24, 26]);
    check("nothing.here.at.all", &[5, 6, 21, 22, 23, 24]);
    check("oneword", &[5, 6, 21, 22, 23, 24, 25]);
}

/// RabbitMQ's tutorial on topics: Q1 is bound with `*.orange.*`, Q2 with `*.*.rabbit` and `lazy.#`.
#[test]
fn keys_match_as_in_the_tutorial_of_rabbitmq() {
    let patterns = [("*.orange.*", 1), ("*.*.rabbit", 2), ("lazy.#", 2)];
    let check = |key: &str, expected: &[u32]| assert_eq!(matched(&patterns, key), expected, "{key:?}");
    check("quick.orange.rabbit", &[1, 2]);
    check("lazy.orange.elephant", &[1, 2]);
    check("quick.orange.fox", &[1]);
    check("lazy.brown.fox", &[2]);
    check("lazy.pink.rabbit", &[2]);
    check("quick.brown.fox", &[]);
    check("orange", &[]);
    check("quick.orange.new.rabbit", &[]);
    check("lazy.orange.new.rabbit", &[2]);
}

#[test]
fn an_empty_word_is_a_word() {
    let check = |pattern: &str, key: &str, expected: bool| {
        assert_eq!(!matched(&[(pattern, 1)], key).is_empty(), expected, "{pattern:?} {key:?}");
    };
    check("a.*", "a.", true);
    check("a", "a.", false);
    check("*.*", ".", true);
    check("*", "", false);
    check("#", "", true);
    check("a..b", "a..b", true);
    check("a.*.b", "a..b", true);
    check("a.#", "a", true);
}

#[test]
fn what_is_remembered_is_bounded() {
    // With k times `a.*` any of the last k words may be the `a`: an automaton of 2^k states.
    let pattern = format!("#.a{}", ".*".repeat(20));
    let mut matcher = Matcher::new([(pattern.as_str(), 1), ("#.b.*", 2)]).expect("the patterns are good");
    let mut random = 1_u64;
    for _ in 0..3000 {
        let mut key = String::new();
        for _ in 0..24 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            key.push_str(["a.", "b.", "c."][(random >> 33) as usize % 3]);
        }
        key.pop();
        let expected: Vec<u32> = [(pattern.as_str(), 1), ("#.b.*", 2)]
            .into_iter()
            .filter(|(pattern, _)| oracle(&words(pattern), &words(&key)))
            .map(|(_, target)| target)
            .collect();
        assert_eq!(matcher.matches(key.as_bytes()), expected, "{key}");
        assert!(matcher.remembered() <= STEPS_MAX + 2);
    }
}

#[test]
fn a_pattern_longer_than_in_amqp_is_refused() {
    assert!(Matcher::new([("a".repeat(255).as_str(), 1)]).is_ok());
    assert!(Matcher::new([("a".repeat(256).as_str(), 1)]).is_err());
}

fn dotted(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(words), 0..7).prop_map(|words| words.join("."))
}

proptest! {
    #[test]
    fn a_key_matches_as_the_rule_says(
        patterns in prop::collection::vec((dotted(&["a", "b", "cc", "", "*", "#"]), 0_u32..5), 1..12),
        keys in prop::collection::vec(dotted(&["a", "b", "cc", "", "d"]), 1..20),
    ) {
        let mut matcher = Matcher::new(patterns.iter().map(|(pattern, target)| (pattern.as_str(), *target))).unwrap();
        for key in keys {
            let mut expected = Vec::new();
            for (pattern, target) in &patterns {
                if oracle(&words(pattern), &words(&key)) && !expected.contains(target) {
                    expected.push(*target);
                }
            }
            prop_assert_eq!(matcher.matches(key.as_bytes()), &expected, "{} of {:?}", key, patterns);
        }
    }

    #[test]
    fn random_bytes_match_what_they_should(key in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut matcher = Matcher::new([("#", 1), ("*", 2), ("#.a", 3)]).unwrap();
        let dots = key.iter().filter(|byte| **byte == b'.').count();
        let matched = matcher.matches(&key).to_vec();
        prop_assert!(matched.contains(&1));
        prop_assert_eq!(matched.contains(&2), dots == 0 && !key.is_empty());
        prop_assert_eq!(matched.contains(&3), key == b"a" || key.ends_with(b".a"));
    }
}
