//! Plugins that behave.

use tidegate_plugin_host::{
    Context, Limits, Needs, OpenError, Partitioner, Rejection, Router, Routes, TopicInfo, World, router::Destinations,
};
use tidegate_records::{columns::Wanted, time::Timestamp};

use crate::{
    FIRST_ROUTER, HOSTILE, MURMUR2, ROUTER_TOPIC, TOPIC, context, hostile, keyed, names, patient, refused, route,
};

#[test]
fn a_router_that_was_built_with_cargo_alone_routes_records() {
    let config = r#"{ "regions": { "eu": "orders-eu", "us": "orders-us" } }"#;
    let mut router = Router::open(FIRST_ROUTER.compiled(), config, &Limits::default()).expect("it opens");
    assert_eq!(router.topics(), ["orders-eu", "orders-us"]);
    let wanted = Wanted { keys: true, ..Wanted::default() };
    assert_eq!(*router.needs(), Needs { columns: wanted, principal: false, client_id: false });
    let answer = route(&mut router, &[Some("eu.1"), Some("us"), Some("mars.1"), None]).expect("it answers");
    let topics = Destinations { topics: vec![1, 2, 0, 0], partitions: vec![] };
    assert_eq!(answer.routes, Routes::Single(topics));
    assert_eq!(names(&router, &answer, 4), [["orders-eu"], ["orders-us"], ["-"], ["-"]]);
}

#[test]
fn records_that_all_go_to_one_topic_are_answered_as_one() {
    let config = r#"{ "regions": { "eu": "orders-eu" } }"#;
    let mut router = Router::open(FIRST_ROUTER.compiled(), config, &patient()).expect("it opens");
    let answer = route(&mut router, &[Some("eu.1"), Some("eu.2")]).expect("it answers");
    assert_eq!(answer.routes, Routes::Uniform(Destinations { topics: vec![1], partitions: vec![] }));
    let answer = route(&mut router, &[Some("x"), None]).expect("it answers");
    assert_eq!(answer.routes, Routes::Unchanged);
}

#[test]
fn what_a_plugin_says_of_itself_can_be_asked() {
    let described = MURMUR2.compiled().describe(&patient()).expect("it answers");
    assert_eq!(described.name, "partitioner-murmur2");
    assert_eq!(described.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(described.summary, "Chooses partitions as the Java client of Apache Kafka does");
    assert_eq!(described.example, r#"{ "keyless": "sticky" }"#);
    for guest in [&FIRST_ROUTER, &ROUTER_TOPIC] {
        let compiled = guest.compiled();
        let example = compiled.describe(&patient()).expect("it answers").example;
        Router::open(compiled, &example, &patient()).expect("the example opens");
    }
}

#[test]
fn a_configuration_is_refused_in_the_words_of_the_plugin() {
    let error = Router::open(FIRST_ROUTER.compiled(), r#"{ "regions": {} }"#, &patient()).expect_err("no regions");
    assert_eq!(error.to_string(), "name at least one region");
    let error = Router::open(FIRST_ROUTER.compiled(), "{ regions", &patient()).expect_err("no JSON");
    assert_eq!(refused(&error), "the configuration cannot be read: key must be a string at line 1 column 3");
    let error = Router::open(FIRST_ROUTER.compiled(), r#"{ "regions": { "a": "b c" } }"#, &patient());
    assert_eq!(refused(&error.expect_err("no topic")), "'b c' is not the name of a topic");
}

#[test]
fn a_plugin_is_opened_only_as_what_it_is() {
    let error = Partitioner::open(FIRST_ROUTER.compiled(), "", &patient()).expect_err("it is a router");
    assert!(matches!(error, OpenError::World { found: World::Router, wanted: World::Partitioner }));
}

/// Everything that can be asked for arrives, and nothing that was not.
#[test]
fn a_plugin_sees_what_it_asked_for_and_nothing_else() {
    let mut columns = keyed(&[Some("a"), None]);
    let header = columns.keys.clone().expect("keys");
    let mut router = hostile("show");
    let wanted = Wanted {
        keys: true,
        values: true,
        timestamps: true,
        offsets: false,
        headers: vec!["h".to_owned(), "absent".to_owned()],
    };
    assert_eq!(*router.needs(), Needs { columns: wanted, principal: true, client_id: true });
    columns.headers = vec![header.clone(), header];
    let first = Context { end: 1, now: Timestamp(1), seed: u64::MAX, principal: None, client_id: Some("é") };
    let contexts = [first, Context { end: 2, seed: 0, ..context(2) }];
    let seen = router.route(&TOPIC, &columns, &contexts).expect_err("it shows what it saw").to_string();
    assert_eq!(
        seen,
        "the plugin refused the batch: Topic { name: \"orders\", partitions: 12 } Batch { count: 2, \
         keys: Some(Column { data: [97], ends: [1, 1], nulls: [2] }), \
         values: Some(Column { data: [118, 48, 118, 49], ends: [2, 4], nulls: [] }), timestamps: Some([0, 1]), \
         headers: [Column { data: [97], ends: [1, 1], nulls: [2] }, Column { data: [97], ends: [1, 1], nulls: [2] }] } \
         [Context { end: 1, now: 1, seed: 18446744073709551615, principal: None, client-id: Some(\"é\") }, \
         Context { end: 2, now: 1700000000000, seed: 0, principal: Some(\"User:alice\"), client-id: Some(\"shop\") }]"
    );

    let mut router = hostile("show-nothing");
    let seen = route(&mut router, &[Some("a")]).expect_err("it shows what it saw").to_string();
    assert_eq!(
        seen,
        "the plugin refused the batch: Topic { name: \"orders\", partitions: 12 } Batch { count: 1, keys: None, \
         values: None, timestamps: None, headers: [] } \
         [Context { end: 1, now: 1700000000000, seed: 7, principal: None, client-id: None }]"
    );
}

#[test]
fn a_record_can_be_rejected_with_a_reason() {
    let answer = route(&mut hostile("reject"), &[None, None]).expect("it answers");
    assert_eq!(answer.rejected, [Rejection { record: 1, reason: "I do not like it".to_owned() }]);
    let config = r#"{ "bindings": [ { "pattern": "a", "topic": "b" } ], "unmatched": "reject" }"#;
    let mut router = Router::open(ROUTER_TOPIC.compiled(), config, &patient()).expect("it opens");
    let answer = route(&mut router, &[Some("a"), Some("c")]).expect("it answers");
    let reason = "no binding matches the routing key 'c'".to_owned();
    assert_eq!(answer.rejected, [Rejection { record: 1, reason }]);
}

#[test]
fn a_partitioner_places_records() {
    let mut partitioner = Partitioner::open(MURMUR2.compiled(), "", &patient()).expect("it opens");
    let keys = [Some("foobar"), None, None, Some("foobar")];
    let placement = partitioner.partition(&TOPIC, &keyed(&keys), &[context(4)]).expect("it answers");
    // As the Java client: 0x7fffffff & murmur2("foobar") = 1357151166.
    assert_eq!((placement.partitions[0], placement.partitions[3]), (1_357_151_166 % 12, 1_357_151_166 % 12));
    assert_eq!(placement.partitions[1], placement.partitions[2]);
    let one = TopicInfo { partitions: 1, ..TOPIC };
    let placement = partitioner.partition(&one, &keyed(&keys), &[context(4)]).expect("it answers");
    assert_eq!(placement.partitions, [0; 4]);
}

#[test]
fn a_plugin_can_log_and_is_cut_short() {
    let limits = Limits { log_lines_max: 10, log_line_bytes_max: 100, ..patient() };
    let mut router = Router::open(HOSTILE.compiled(), "log", &limits).expect("it opens");
    route(&mut router, &[None]).expect("it answers");
    let log = router.take_log();
    assert_eq!((log.lines.len(), log.dropped), (10, 992));
    assert_eq!(log.lines[0].message, "one line");
    assert_eq!(log.lines[1].message, format!("{} [cut]", "x".repeat(100)));
    assert_eq!(router.take_log().lines.len(), 0);
}

#[test]
fn a_plugin_can_measure() {
    let mut router = hostile("measure");
    let words = route(&mut router, &[None]).expect_err("it says what was refused").to_string();
    assert_eq!(
        words,
        "the plugin refused the batch: 'seen' is already a metric of another kind; 'not a name' is not the name of a \
         metric or a label; a plugin may declare 100 metrics"
    );
    let shown: Vec<String> =
        router.series().iter().take(4).map(|one| format!("{} {:?} {:?}", one.name, one.labels, one.value)).collect();
    assert_eq!(
        shown,
        [
            "seen [] Counter(5)",
            "seen [(\"a\", \"b\")] Counter(1)",
            "level [] Gauge(0.5)",
            "size [] Histogram { count: 5, sum: inf, buckets: {-32: 1, 2: 2, 3: 1, 64: 1} }",
        ]
    );
}

#[test]
fn a_plugin_can_name_topics_up_to_a_limit() {
    let mut router = hostile("names");
    let words = route(&mut router, &[None]).expect_err("it says what was refused").to_string();
    assert_eq!(
        words,
        "the plugin refused the batch: 'not a topic' is not the name of a topic; 2; a plugin may name 10000 topics"
    );
    assert_eq!(router.topics().len(), 10_000);
    assert_eq!(router.topic_name(0), None);
    assert_eq!(router.topic_name(1), Some("one"));
    assert_eq!(router.topic_name(4), Some("t0"));
    assert_eq!(router.topic_name(10_001), None);
}
