//! Segments in an object store: consumers notice nothing, crashes lose nothing, and a store that is away is nobody else's trouble.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use kafka_protocol::{
    messages::{
        ApiKey, BrokerId, ListOffsetsRequest, ListOffsetsResponse, TopicName,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    },
    protocol::StrBytes,
};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    admin::AdminOptions,
    consumer::{BaseConsumer, Consumer as _},
};
use tempfile::TempDir;

use crate::{
    broker::Broker,
    librdkafka::{WAIT, admin, block_on, client, create_topic},
    raw::Raw,
    retention::{bounds, built, contents, counts, fill, tidegate, until},
    routed::deploy,
    s3::S3,
};

/// The names of all files below a directory, with the directories that they are in.
pub(crate) fn files_below(directory: &Path) -> Vec<String> {
    fn walk(root: &Path, directory: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(root, &path, found);
            } else if let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str) {
                found.push(name.to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(directory, directory, &mut found);
    found.sort();
    found.retain(|name| name.ends_with(".tgs"));
    found
}

/// A broker whose object store is a directory.
struct Local {
    broker: Broker,
    objects: TempDir,
}

impl Local {
    fn start() -> Self {
        let objects = tempfile::Builder::new().prefix("tidegate-objects-").tempdir().expect("a temporary directory");
        let settings = format!("object.store.url = \"file://{}\"\n", objects.path().display());
        let broker = Broker::start_configured(&settings, &[], None);
        deploy_policy(&broker);
        Self { broker, objects }
    }

    fn objects(&self) -> Vec<String> {
        files_below(self.objects.path())
    }
}

fn deploy_policy(broker: &Broker) {
    deploy(broker, "tiered", &built("plugins/retention-offload"));
}

/// A topic of which every sealed segment is sent away; each is full with every other record.
fn tiered(broker: &Broker, topic: &str) {
    let configs = [
        ("segment.bytes", "10000"),
        ("tidegate.retention", "tiered"),
        ("tidegate.retention.config", r#"{ "local_bytes": 0 }"#),
    ];
    create_topic(broker, topic, 1, &configs);
}

/// Fills a topic, and waits until so many segments have gone.
fn fill_and_offload(broker: &Broker, topic: &str, records: usize, segments: u64) {
    fill(broker, topic, records);
    counts(broker, topic, |counts| counts["offloaded_segments"].as_u64() >= Some(segments));
}

/// The segments of the broker's partitions that are files.
fn local_segments(broker: &Broker) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "tgs");
    broker.files().into_iter().filter(is_segment).collect()
}

fn keys(records: usize) -> Vec<(i64, String)> {
    let key = |number| if number % 3 == 0 { format!("erase-{number}") } else { format!("keep-{number}") };
    (0..records).map(|number| (number as i64, key(number))).collect()
}

/// A consumer that begins at an offset.
fn consumer_at(broker: &Broker, topic: &str, offset: Offset) -> BaseConsumer {
    let consumer: BaseConsumer =
        client(broker).set("group.id", "unused").set("auto.offset.reset", "error").create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, offset).expect("an offset");
    consumer.assign(&list).expect("assigned");
    consumer
}

fn next(consumer: &BaseConsumer) -> i64 {
    consumer.poll(WAIT).expect("a record before the time is up").expect("no error").offset()
}

#[test]
fn consumers_read_what_was_offloaded_as_before() {
    let mut local = Local::start();
    tiered(&local.broker, "all");
    fill_and_offload(&local.broker, "all", 40, 15);
    let objects = local.objects();
    assert!(objects.len() >= 15 && local_segments(&local.broker).len() <= 5, "{objects:?}");
    assert_eq!(contents(&local.broker, "all"), keys(40));
    // What is on the disk is little, and what is elsewhere is counted there.
    let (_, page) = local.broker.get("/metrics");
    assert!(page.contains("tidegate_segments_offloaded_total"), "{page}");

    local.broker.kill();
    local.broker.restart();
    assert_eq!(contents(&local.broker, "all"), keys(40));
    assert!(local.broker.stop().success());
    let data = local.broker.data_dir();
    let data = data.to_str().expect("text");
    let (good, said) = tidegate(&local.broker, &["log", "verify", data]);
    assert!(good && said.contains("in the object store, which were not looked at"), "{said}");
    let (good, said) = tidegate(&local.broker, &["log", "inspect", data, "--topic", "all"]);
    assert!(good && said.contains(&format!("in the object store: {}", objects[0])), "{said}");
    local.broker.restart();
    assert_eq!(contents(&local.broker, "all"), keys(40));
}

/// KIP-405 and KIP-1005.
#[test]
fn the_first_offset_on_the_disk_and_the_last_elsewhere_can_be_asked_for() {
    let local = Local::start();
    create_topic(&local.broker, "plain", 1, &[]);
    fill(&local.broker, "plain", 3);
    tiered(&local.broker, "tiers");
    fill_and_offload(&local.broker, "tiers", 20, 7);
    let mut raw = Raw::new(local.broker.connect());
    let mut ask = |topic: &'static str, what: i64| {
        let partition = ListOffsetsPartition::default().with_timestamp(what).with_current_leader_epoch(-1);
        let topic = ListOffsetsTopic::default().with_name(TopicName(StrBytes::from_static_str(topic)));
        let topics = vec![topic.with_partitions(vec![partition])];
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(topics);
        let response: ListOffsetsResponse = raw.call(ApiKey::ListOffsets, 9, &request);
        let answer = &response.topics[0].partitions[0];
        assert_eq!(answer.error_code, 0);
        (answer.offset, answer.leader_epoch)
    };
    // Another segment may go between the two questions.
    let answers = until(|| (ask("tiers", -4), ask("tiers", -5)), |(local, tiered)| tiered.0 == local.0 - 1);
    assert!((14..=20).contains(&answers.0.0) && answers.1.1 == 0, "{answers:?}");
    assert_eq!(ask("tiers", -2), (0, 0));
    assert_eq!(ask("plain", -4), (0, 0));
    assert_eq!(ask("plain", -5), (-1, -1));
}

#[test]
fn a_time_is_found_in_what_was_offloaded() {
    let local = Local::start();
    tiered(&local.broker, "times");
    fill_and_offload(&local.broker, "times", 20, 7);
    let consumer = consumer_at(&local.broker, "times", Offset::Beginning);
    let mut fifth = None;
    for offset in 0..6 {
        let message = consumer.poll(WAIT).expect("a record").expect("no error");
        assert_eq!(message.offset(), offset);
        fifth = message.timestamp().to_millis();
    }
    let mut wanted = TopicPartitionList::new();
    let time = Offset::Offset(fifth.expect("it has a time"));
    wanted.add_partition_offset("times", 0, time).expect("an offset");
    let found = consumer.offsets_for_times(wanted, WAIT).expect("an answer");
    let found = found.find_partition("times", 0).expect("the partition").offset();
    assert!(matches!(found, Offset::Offset(offset) if (1..=5).contains(&offset)), "{found:?}");
}

/// In the middle of uploads, between them, whatever it hits.
#[test]
fn a_broker_that_is_killed_while_it_offloads_loses_nothing_and_leaves_nothing() {
    let mut local = Local::start();
    tiered(&local.broker, "all");
    let mut records = 0;
    for round in 1..=4 {
        // Counted first: on a busy machine all of them may be gone when the last record is answered.
        let before = local.objects().len();
        fill_from(&local.broker, "all", records, 12);
        records += 12;
        if round < 4 {
            until(|| local.objects().len(), |objects| *objects > before);
        }
        local.broker.kill();
        local.broker.restart();
        assert_eq!(contents(&local.broker, "all"), keys(records), "after round {round}");
    }
    // Everything goes, and nothing is left over that no manifest names.
    until(|| local_segments(&local.broker).len(), |segments| *segments <= 2);
    let named = || {
        let (_, page) = local.broker.get("/metrics");
        let line = page.lines().find(|line| line.starts_with("tidegate_log_offloaded_segments{topic=\"all\""));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0_usize)
    };
    until(|| (local.objects().len(), named()), |(there, named)| *named > 10 && there == named);
    assert_eq!(contents(&local.broker, "all"), keys(records));
}

/// As `fill`, with numbers that go on.
fn fill_from(broker: &Broker, topic: &str, first: usize, records: usize) {
    use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
    let producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext> =
        client(broker).set("enable.idempotence", "true").set("linger.ms", "0").create().expect("a producer");
    let value = "x".repeat(4096);
    for (_, key) in keys(first + records).drain(first..) {
        let record = BaseRecord::to(topic).partition(0).key(&key).payload(&value);
        producer.send(record).map_err(|(error, _)| error).expect("queued");
        producer.flush(WAIT).expect("delivered");
    }
}

#[test]
fn objects_go_with_the_records_that_are_deleted() {
    let local = Local::start();
    tiered(&local.broker, "some");
    tiered(&local.broker, "gone");
    for topic in ["some", "gone"] {
        fill_and_offload(&local.broker, topic, 20, 7);
    }
    let objects = local.objects().len();
    // DeleteRecords, in the middle of what was offloaded.
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset("some", 0, Offset::Offset(9)).expect("an offset");
    let options = AdminOptions::new().operation_timeout(Some(WAIT));
    block_on(admin(&local.broker).delete_records(&offsets, &options)).expect("deleted");
    until(|| local.objects().len(), |left| *left + 3 <= objects);
    assert_eq!(contents(&local.broker, "some"), keys(20)[9..]);
    // The topic.
    block_on(admin(&local.broker).delete_topics(&["gone"], &options)).expect("answered").remove(0).expect("deleted");
    let partitions = |objects: &Vec<String>| -> BTreeSet<String> {
        objects.iter().filter_map(|key| Some(key.split_once('/')?.0.to_owned())).collect()
    };
    let left = until(|| local.objects(), |left| partitions(left).len() == 1);
    assert!(left.len() >= 5, "those of the other topic stay: {left:?}");
    // The policy, beyond what was offloaded.
    let config = r#"tidegate.retention.config={ "local_bytes": 0, "delete_bytes": 9000 }"#;
    let (good, said) = tidegate(&local.broker, &["topic", "alter", "some", "--config", config]);
    assert!(good, "{said}");
    let start = until(|| bounds(&local.broker, "some").0, |start| *start > 12);
    until(|| local.objects().len(), |left| *left <= 2);
    assert_eq!(contents(&local.broker, "some"), keys(20)[start as usize..]);
}

#[test]
fn a_policy_that_offloads_is_refused_where_there_is_no_object_store() {
    let broker = Broker::start();
    deploy_policy(&broker);
    let config = ["tidegate.retention=tiered", r#"tidegate.retention.config={ "local_ms": 1 }"#];
    let (good, said) = tidegate(&broker, &["topic", "create", "t", "--config", config[0], "--config", config[1]]);
    assert!(!good && said.contains("set object.store.url in its configuration"), "{said}");
}

#[test]
fn a_broker_does_not_start_with_an_object_store_that_is_no_directory() {
    let objects = tempfile::tempdir().expect("a temporary directory");
    let missing = objects.path().join("missing");
    let settings = objects.path().join("tidegate.toml");
    std::fs::write(&settings, format!("object.store.url = \"file://{}\"\n", missing.display())).expect("written");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["serve", "--config"])
        .arg(&settings)
        .arg("--data-dir")
        .arg(objects.path().join("data"))
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--shards", "1"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(&format!("mkdir -p {}", missing.display())), "{said}");
}

/// How often Fetch was answered with KAFKA_STORAGE_ERROR.
fn storage_errors(broker: &Broker) -> u64 {
    let (_, page) = broker.get("/metrics");
    let lines = page.lines().filter(|line| line.starts_with("tidegate_errors_total") && line.contains("\"Fetch\""));
    lines
        .filter(|line| line.to_lowercase().replace('_', "").contains("kafkastorageerror"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[test]
fn an_s3_server_takes_segments_goes_away_and_comes_back() {
    let mut s3 = S3::start();
    let mut broker = Broker::start_configured(&s3.settings(), &[], None);
    deploy_policy(&broker);
    tiered(&broker, "all");
    fill_and_offload(&broker, "all", 40, 15);
    assert!(s3.objects().iter().all(|key| key.starts_with("a/prefix/")) && s3.objects().len() >= 15);
    assert_eq!(contents(&broker, "all"), keys(40));

    // Without it the broker starts, takes records and serves what it has.
    s3.stop();
    broker.kill();
    broker.restart();
    fill_from(&broker, "all", 40, 4);
    let old = consumer_at(&broker, "all", Offset::Beginning);
    until(
        || {
            assert!(old.poll(std::time::Duration::ZERO).is_none_or(|answer| answer.is_err()), "nothing can be read");
            storage_errors(&broker)
        },
        |errors| *errors > 2,
    );
    let tail = consumer_at(&broker, "all", Offset::Offset(41));
    assert_eq!([next(&tail), next(&tail), next(&tail)], [41, 42, 43]);
    let complaints = broker.logged().matches("the object store does not answer").count();
    assert_eq!(complaints, 1, "it is said once");

    s3.start_again();
    // The same consumer goes on by itself.
    let read: Vec<i64> = (0..44).map(|_| next(&old)).collect();
    assert_eq!(read, (0..44).collect::<Vec<i64>>());
    assert!(broker.logged().contains("the object store answers again"));
    // And what was not sent meanwhile is.
    let before = s3.objects().len();
    fill_from(&broker, "all", 44, 6);
    until(|| s3.objects().len(), |objects| *objects > before);
    assert_eq!(contents(&broker, "all"), keys(50));
}

/// Larger than one request may be.
#[test]
fn large_segments_go_to_an_s3_server_in_parts() {
    use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
    const RECORDS: usize = 36;
    let s3 = S3::start();
    let broker = Broker::start_configured(&s3.settings(), &[], None);
    deploy_policy(&broker);
    let policy = ("tidegate.retention.config", r#"{ "local_bytes": 0 }"#);
    create_topic(&broker, "large", 1, &[("segment.bytes", "10000000"), ("tidegate.retention", "tiered"), policy]);
    let producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext> =
        client(&broker).create().expect("a producer");
    let value = |number: usize| vec![number as u8; 900_000];
    for number in 0..RECORDS {
        let value = value(number);
        let record = BaseRecord::<(), _>::to("large").partition(0).payload(&value);
        producer.send(record).map_err(|(error, _)| error).expect("queued");
        producer.flush(WAIT).expect("delivered");
    }
    counts(&broker, "large", |counts| counts["offloaded_segments"].as_u64() >= Some(2));
    let consumer = consumer_at(&broker, "large", Offset::Beginning);
    for number in 0..RECORDS {
        let message = consumer.poll(WAIT).expect("a record").expect("no error");
        assert_eq!(message.offset(), number as i64);
        assert!(message.payload() == Some(&value(number)), "the record at {number} is another one");
    }
}

#[test]
fn an_object_that_is_gone_is_named_and_what_is_behind_it_is_served() {
    let local = Local::start();
    tiered(&local.broker, "holes");
    fill_and_offload(&local.broker, "holes", 20, 7);
    let gone = local.objects().remove(0);
    std::fs::remove_file(local.objects.path().join(&gone)).expect("it is removed");
    // Memory may have it still.
    let mut local = local;
    local.broker.kill();
    local.broker.restart();
    let first = consumer_at(&local.broker, "holes", Offset::Beginning);
    until(
        || {
            assert!(first.poll(std::time::Duration::ZERO).is_none_or(|answer| answer.is_err()), "it is gone");
            storage_errors(&local.broker)
        },
        |errors| *errors > 2,
    );
    assert_eq!(next(&consumer_at(&local.broker, "holes", Offset::Offset(6))), 6);
    let complaints = local.broker.logged().matches("an object is gone").count();
    assert_eq!(complaints, 1, "it is said once");
    assert!(local.broker.logged().contains(&gone));
}
