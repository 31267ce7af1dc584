//! Plugins that were built against a released interface keep working: as files that nobody builds again.

use std::collections::BTreeSet;

use bytes::Bytes;
use tidegate_plugin_host::{
    AckHook, Compiled, Filter, Limits, Offloader, Partitioner, Retention, Router,
    ack::{Acks, Arrival, Copies, Decision},
    compile, component,
    retention::{OffloadLog, PartitionLog, Segment},
};
use tidegate_records::columns::Columns;

use super::{ENGINE, TOPIC, context, keyed, names, patient, repository, route};

/// A component from the folder of the version that it was built with.
fn old(version: &str, name: &str) -> Compiled {
    let path = repository().join(format!("broker/plugin-host/tests/built-with-{version}/{name}.wasm"));
    let bytes = std::fs::read(&path).expect("the file is part of the repository");
    let component = component::inspect(&Bytes::from(bytes), 1 << 20).expect("a plugin");
    assert_eq!(component.interface, version, "it says what it was built against");
    compile::compile(&ENGINE, &component).expect("it compiles")
}

fn routers_and_partitioners_work(version: &str) {
    let config = r#"{ "regions": { "eu": "orders-eu", "us": "orders-us" } }"#;
    let mut router = Router::open(&old(version, "first-router"), config, &Limits::default()).expect("it opens");
    let answer = route(&mut router, &[Some("eu.1"), Some("us"), None]).expect("it answers");
    assert_eq!(names(&router, &answer, 3), [["orders-eu"], ["orders-us"], ["-"]]);

    let murmur2 = old(version, "partitioner-murmur2");
    let mut partitioner = Partitioner::open(&murmur2, "", &patient()).expect("it opens");
    let placement = partitioner.partition(&TOPIC, &keyed(&[Some("foobar")]), &[context(1)]).expect("it answers");
    assert_eq!(placement.partitions, [1_357_151_166 % 12]);
}

#[test]
fn plugins_built_against_0_1_0_work() {
    routers_and_partitioners_work("0.1.0");
}

#[test]
fn plugins_built_against_0_1_1_work() {
    routers_and_partitioners_work("0.1.1");

    let racks = old("0.1.1", "ack-racks");
    let mut hook = AckHook::open(&racks, r#"{ "racks": 2, "copies": 3 }"#, &patient()).expect("it opens");
    let copies = Copies { count: 3, racks: 2, brokers: Vec::new(), within_ms: 0 };
    assert_eq!(hook.strongest(), Some(&copies));
    let arrival = Arrival { partition: 0, bytes: 100, acks: Acks::All, min_in_sync: 1, replicas: &[] };
    let decided = hook.decide(&TOPIC, &keyed(&[None]), &[context(1)], &[arrival]).expect("it answers");
    assert_eq!(decided.decisions, [Decision::Until(copies)]);

    let eraser = old("0.1.1", "eraser");
    let mut policy = Retention::open(&eraser, "delete-before:7", &patient()).expect("it opens");
    let log = PartitionLog { partition: 0, start_offset: 0, high_watermark: 9, segments: vec![], readers: vec![] };
    assert_eq!(policy.evaluate(&TOPIC, &[log], 0).expect("it answers").verdicts[0].delete_before, 7);
    let mut filter = Filter::open(&eraser, "erase", &patient()).expect("it opens");
    let stored = Columns { offsets: Some(vec![3, 4]), ..keyed(&[Some("erase"), Some("a")]) };
    assert_eq!(filter.keep(&TOPIC, 0, &stored, 0).expect("it answers"), [0b10]);
}

#[test]
fn plugins_built_against_0_1_2_work() {
    routers_and_partitioners_work("0.1.2");

    let policy = old("0.1.2", "retention-offload");
    let config = r#"{ "local_ms": 100 }"#;
    assert!(Retention::open(&policy, config, &patient()).expect("it opens").offloads());
    let mut offloader = Offloader::open(&policy, config, &patient()).expect("it opens");
    let segment = |max_timestamp| (Segment { base_offset: 0, next_offset: 9, max_timestamp, bytes: 1 }, false);
    let segments = vec![segment(0), segment(150)];
    let log = OffloadLog { partition: 0, start_offset: 0, high_watermark: 9, segments, active_bytes: 0 };
    assert_eq!(offloader.offload(&TOPIC, &[log], 200).expect("it answers"), [vec![0]]);
}

/// Whoever releases an interface leaves components that were built against it.
#[test]
fn every_released_interface_has_components_that_were_built_against_it() {
    let folders = |folder: &str, prefix: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(repository().join(folder)).expect("the folder is there");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter_map(|name| name.strip_prefix(prefix).map(str::to_owned)).collect()
    };
    assert_eq!(folders("wit", "since-"), folders("broker/plugin-host/tests", "built-with-"));
}
