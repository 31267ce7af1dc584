//! Retention policies in a running broker: what they delete and erase is gone, and what they must not touch is there.

use std::{path::Path, process::Command};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::KafkaError,
    producer::{BaseRecord, Producer as _, ThreadedProducer},
};
use serde_json::Value;
use tidegate_plugin_host::build::{Profile, Progress, build_component};

use crate::{
    broker::Broker,
    librdkafka::{WAIT, client, create_topic},
    routed::deploy,
};

pub(crate) fn built(folder: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    let built = build_component(&folder, Profile::Release, Progress::Quiet).unwrap_or_else(|error| panic!("{error}"));
    built.path.to_str().expect("a path of text").to_owned()
}

/// A broker with the policy that says what its configuration says.
fn broker() -> Broker {
    let broker = Broker::start();
    deploy(&broker, "policy", &built("broker/plugin-host/tests/guests/retention"));
    broker
}

/// A topic whose segments are full with every other batch of records.
fn governed(broker: &Broker, topic: &str, plugin: &str, order: &str, more: &[(&str, &str)]) {
    let mut configs =
        vec![("segment.bytes", "10000"), ("tidegate.retention", plugin), ("tidegate.retention.config", order)];
    configs.extend_from_slice(more);
    create_topic(broker, topic, 1, &configs);
}

pub(crate) fn tidegate(broker: &Broker, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .env("TIDEGATE_BOOTSTRAP", &broker.kafka)
        .env("TIDEGATE_ADMIN", &broker.admin)
        .output()
        .expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn reorder(broker: &Broker, topic: &str, order: &str) {
    let config = format!("tidegate.retention.config={order}");
    let (good, said) = tidegate(broker, &["topic", "alter", topic, "--config", &config]);
    assert!(good, "{said}");
}

/// Sends records one batch each; every third of them has a key that begins with `erase`. Each has four kilobytes.
pub(crate) fn fill(broker: &Broker, topic: &str, records: usize) {
    let mut config = client(broker);
    let producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext> =
        config.set("enable.idempotence", "true").set("linger.ms", "0").create().expect("a producer");
    let value = "x".repeat(4096);
    for number in 0..records {
        let key = if number % 3 == 0 { format!("erase-{number}") } else { format!("keep-{number}") };
        producer
            .send(BaseRecord::to(topic).partition(0).key(&key).payload(&value))
            .map_err(|(error, _)| error)
            .expect("queued");
        producer.flush(WAIT).expect("delivered");
    }
}

/// Offset and key of everything in partition 0, from its start to its end.
pub(crate) fn contents(broker: &Broker, topic: &str) -> Vec<(i64, String)> {
    let mut config: ClientConfig = client(broker);
    config.set("group.id", "unused").set("enable.partition.eof", "true").set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).expect("an offset");
    consumer.assign(&list).expect("assigned");
    let mut found = Vec::new();
    loop {
        match consumer.poll(WAIT).expect("a record or the end") {
            Ok(message) => {
                let key = String::from_utf8(message.key().unwrap_or_default().to_vec()).expect("text");
                found.push((message.offset(), key));
            }
            Err(KafkaError::PartitionEOF(_)) => return found,
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) fn bounds(broker: &Broker, topic: &str) -> (i64, i64) {
    let consumer: BaseConsumer = client(broker).create().expect("a consumer");
    consumer.fetch_watermarks(topic, 0, WAIT).expect("an answer")
}

/// Asks again until the answer is as it should be.
pub(crate) fn until<T>(mut ask: impl FnMut() -> T, enough: impl Fn(&T) -> bool) -> T {
    loop {
        let answer = ask();
        if enough(&answer) {
            return answer;
        }
        std::thread::yield_now();
    }
}

/// The counts of a topic's policy, once they are as they should be.
pub(crate) fn counts(broker: &Broker, topic: &str, enough: impl Fn(&Value) -> bool) -> Value {
    let ask = || {
        let (good, said) = tidegate(broker, &["plugin", "stats", "--topic", topic, "--json"]);
        assert!(good, "{said}");
        let mut found: Vec<Value> = serde_json::from_str(&said).expect("JSON");
        found.pop().expect("the topic has an attachment")
    };
    until(ask, enough)
}

/// A group that has consumed everything below an offset.
fn commit(broker: &Broker, group: &str, topic: &str, offset: i64) {
    let consumer: BaseConsumer = client(broker).set("group.id", group).create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(offset)).expect("an offset");
    consumer.commit(&list, CommitMode::Sync).expect("committed");
}

/// However much it asks for.
#[test]
fn a_policy_deletes_what_it_says_but_not_the_active_segment() {
    let mut broker = broker();
    // By themselves, records would go at once.
    let short = [("retention.ms", "1"), ("retention.bytes", "1")];
    governed(&broker, "all", "policy", "keep", &short);
    fill(&broker, "all", 20);
    counts(&broker, "all", |counts| counts["calls"].as_u64() > Some(2));
    assert_eq!(bounds(&broker, "all"), (0, 20), "the policy keeps it all");

    reorder(&broker, "all", "delete-before:5");
    until(|| bounds(&broker, "all").0, |start| *start == 5);
    assert_eq!(contents(&broker, "all").first(), Some(&(5, "keep-5".to_owned())));

    reorder(&broker, "all", "delete-everything");
    let start = until(|| bounds(&broker, "all").0, |start| *start > 5);
    fill(&broker, "all", 1);
    let calls = counts(&broker, "all", |_| true)["calls"].as_u64();
    counts(&broker, "all", |counts| counts["calls"].as_u64() > calls.map(|calls| calls + 2));
    let left = contents(&broker, "all");
    assert_eq!(left.last(), Some(&(20, "erase-0".to_owned())), "it is in the active segment");
    counts(&broker, "all", |counts| counts["deleted"].as_i64() >= Some(start));
    broker.kill();
    broker.restart();
    assert_eq!(contents(&broker, "all"), left);
}

#[test]
fn a_policy_cannot_go_below_the_floors() {
    let broker = broker();
    governed(&broker, "young", "policy", "delete-everything", &[("tidegate.retention.floor.ms", "3600000")]);
    governed(&broker, "small", "policy", "delete-everything", &[("tidegate.retention.floor.bytes", "50000")]);
    governed(&broker, "erased", "policy", "erase:everything", &[("tidegate.retention.floor.ms", "3600000")]);
    for topic in ["young", "small", "erased"] {
        fill(&broker, topic, 20);
    }
    let start = until(|| bounds(&broker, "small").0, |start| *start > 0);
    assert!(start <= 9, "twelve records of more than four kilobytes are needed for the floor: {start}");
    for topic in ["young", "erased"] {
        let before = counts(&broker, topic, |_| true)["calls"].as_u64();
        counts(&broker, topic, |counts| counts["calls"].as_u64() > before.map(|before| before + 2));
        assert_eq!(contents(&broker, topic).len(), 20, "{topic}");
    }
}

#[test]
fn erased_records_are_gone_from_the_disk_and_the_others_keep_their_offsets() {
    let mut broker = broker();
    governed(&broker, "people", "policy", "erase", &[("segment.ms", "1000")]);
    fill(&broker, "people", 30);
    let kept = |found: &Vec<(i64, String)>| found.iter().all(|(_, key)| key.starts_with("keep"));
    let left = until(|| contents(&broker, "people"), kept);
    let expected: Vec<(i64, String)> =
        (0..30).filter(|number| number % 3 != 0).map(|number| (number, format!("keep-{number}"))).collect();
    assert_eq!(left, expected);
    counts(&broker, "people", |counts| counts["erased"] == 10);
    broker.kill();
    broker.restart();
    assert_eq!(contents(&broker, "people"), expected);
    // A segment without anything to erase is left alone: the count does not grow.
    let calls = counts(&broker, "people", |counts| counts["calls"].as_u64() > Some(3));
    assert_eq!(calls["erased"], 0, "counted anew since the start, with nothing left to erase");
    assert!(broker.stop().success());
    let (good, said) = tidegate(&broker, &["log", "verify", broker.data_dir().to_str().expect("text")]);
    assert!(good, "{said}");
    let segments: Vec<_> = broker
        .files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "tgs"))
        .collect();
    assert!(!segments.is_empty());
    for path in segments {
        let bytes = std::fs::read(&path).expect("a segment");
        assert!(!bytes.windows(6).any(|window| window == b"erase-"), "{} has erased keys", path.display());
    }
}

#[test]
fn a_failing_policy_deletes_nothing_or_gives_way_to_the_topics_own_rules() {
    let broker = broker();
    for order in ["panic", "loop", "fail", "too-few", "rewrite-beyond"] {
        governed(&broker, &format!("closed-{order}"), "policy", order, &[("retention.bytes", "1")]);
        fill(&broker, &format!("closed-{order}"), 8);
    }
    governed(
        &broker,
        "open",
        "policy",
        "panic",
        &[("retention.bytes", "1"), ("tidegate.retention.on.failure", "bypass")],
    );
    fill(&broker, "open", 8);
    until(|| bounds(&broker, "open").0, |start| *start > 0);
    for order in ["panic", "loop", "fail", "too-few", "rewrite-beyond"] {
        let topic = format!("closed-{order}");
        counts(&broker, &topic, |counts| {
            ["traps", "failures", "wrong_answers"].iter().any(|name| counts[name].as_u64() > Some(0))
        });
        assert_eq!(bounds(&broker, &topic), (0, 8), "{order}");
    }
    let (good, said) = tidegate(&broker, &["plugin", "logs", "policy"]);
    assert!(good && said.contains("the retention policy failed, nothing is deleted: "), "{said}");
    // A filter that fails leaves its segment as it is.
    for order in ["erase:fail", "erase:short"] {
        let topic = order.replace(':', "-");
        governed(&broker, &topic, "policy", order, &[]);
        fill(&broker, &topic, 8);
        counts(&broker, &topic, |counts| {
            ["failures", "wrong_answers"].iter().any(|name| counts[name].as_u64() > Some(0))
        });
        assert_eq!(contents(&broker, &topic).len(), 8, "{order}");
    }
}

#[test]
fn records_stay_until_their_groups_have_consumed_them() {
    let mut broker = Broker::start();
    deploy(&broker, "until", &built("plugins/retention-until-consumed"));
    governed(&broker, "jobs", "until", r#"{ "groups": ["workers", "audit"] }"#, &[("retention.ms", "1")]);
    fill(&broker, "jobs", 20);
    commit(&broker, "workers", "jobs", 15);
    counts(&broker, "jobs", |counts| counts["calls"].as_u64() > Some(3));
    assert_eq!(bounds(&broker, "jobs"), (0, 20), "audit has consumed nothing");
    commit(&broker, "audit", "jobs", 7);
    until(|| bounds(&broker, "jobs").0, |start| *start == 7);
    // A broker that has just started does not take a group for one that it does not know yet.
    broker.kill();
    broker.restart();
    counts(&broker, "jobs", |counts| counts["calls"].as_u64() > Some(1));
    assert_eq!(bounds(&broker, "jobs"), (7, 20));
    commit(&broker, "audit", "jobs", 12);
    until(|| bounds(&broker, "jobs").0, |start| *start == 12);
}

#[test]
fn the_policies_that_ship_do_what_they_say() {
    let broker = Broker::start();
    for name in ["erase-keys", "tenant", "business-hours"] {
        deploy(&broker, name, &built(&format!("plugins/retention-{name}")));
    }
    governed(
        &broker,
        "forgotten",
        "erase-keys",
        r#"{ "erase": ["keep-1"], "erase_prefixes": ["erase-"] }"#,
        &[("segment.ms", "1000")],
    );
    governed(
        &broker,
        "tenants",
        "tenant",
        r#"{ "keep_ms": { "erase": 0 }, "default_ms": 3600000 }"#,
        &[("segment.ms", "1000")],
    );
    let always = r#"{ "windows": [ { "from": "00:00", "to": "24:00" } ], "keep_bytes": 1 }"#;
    governed(&broker, "hours", "business-hours", always, &[]);
    for topic in ["forgotten", "tenants", "hours"] {
        fill(&broker, topic, 9);
    }
    let numbers =
        |topic: &str| -> Vec<i64> { contents(&broker, topic).into_iter().map(|(offset, _)| offset).collect() };
    until(|| numbers("forgotten"), |found| *found == [2, 4, 5, 7, 8]);
    until(|| numbers("tenants"), |found| *found == [1, 2, 4, 5, 7, 8]);
    until(|| bounds(&broker, "hours").0, |start| *start > 0);
    let config = [
        "topic",
        "alter",
        "hours",
        "--config",
        r#"tidegate.retention.config={ "windows": [ { "from": "8", "to": "9" } ], "keep_ms": 1 }"#,
    ];
    let (good, said) = tidegate(&broker, &config);
    assert!(!good && said.contains("'8' is no time of day"), "{said}");
}
