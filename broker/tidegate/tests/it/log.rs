//! `tidegate log`: what stands in the files of a stopped broker, and that damage is named.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use kafka_protocol::{
    messages::{
        ApiKey, ProduceRequest, ProduceResponse, TopicName,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::StrBytes,
};
use serde_json::Value;
use tidegate_records::{batch::Compression, build::BatchBuilder, time::Timestamp};

use crate::{broker::Broker, raw::Raw, traps::create};

fn log(arguments: &[&str], directory: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["log", arguments[0]]).arg(directory).args(&arguments[1..]);
    command.output().expect("the binary runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The lines that `inspect --json` prints.
fn lines(arguments: &[&str], directory: &Path) -> Vec<Value> {
    let output = log(&[&["inspect", "--json"], arguments].concat(), directory);
    assert!(output.status.success(), "{}", text(&output));
    let out = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    out.lines().map(|line| serde_json::from_str(line).expect("each line is an object")).collect()
}

/// One batch of three records, `value-0` to `value-2`, acknowledged.
fn produce(broker: &Broker, topic: &str, partition: i32, compression: Compression) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let mut builder = BatchBuilder::new(compression);
    for n in 0..3 {
        let value = format!("value-{n}");
        builder.push(Timestamp(now.as_millis() as i64), Some(b"the-key"), Some(value.as_bytes()), []);
    }
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(builder.build().0));
    let topic = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partition_data(vec![data]);
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic]);
    let answer: ProduceResponse = Raw::new(broker.connect()).call(ApiKey::Produce, 9, &request);
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
}

/// A broker with three batches in `t`-0 and one in `u`-1.
fn filled() -> Broker {
    let broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    create(&mut raw, "t", 2);
    create(&mut raw, "u", 2);
    for compression in [Compression::None, Compression::Zstd, Compression::None] {
        produce(&broker, "t", 0, compression);
    }
    produce(&broker, "u", 1, Compression::None);
    broker
}

fn of_kind<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["kind"] == kind).collect()
}

fn values(lines: &[Value]) -> Vec<&str> {
    of_kind(lines, "record").iter().map(|line| line["value"].as_str().expect("text")).collect()
}

/// The segment of `t`-0, and where its extents start. The broker must be stopped.
fn segment(broker: &Broker) -> (PathBuf, Vec<u64>) {
    let lines = lines(&["--topic", "t"], &broker.data_dir());
    let extents = of_kind(&lines, "extent");
    let file = broker.data_dir().join(extents[0]["file"].as_str().expect("a path"));
    (file, extents.iter().map(|line| line["position"].as_u64().expect("a number")).collect())
}

fn flip(file: &Path, position: u64) {
    let mut bytes = std::fs::read(file).expect("it can be read");
    bytes[position as usize] ^= 0x20;
    std::fs::write(file, bytes).expect("it can be written");
}

#[test]
fn a_stopped_broker_is_whole_and_shows_its_records() {
    let mut broker = filled();
    let running = log(&["verify"], &broker.data_dir());
    assert_eq!(running.status.code(), Some(1));
    assert!(text(&running).contains(&format!("process {}", broker.pid())), "{}", text(&running));

    assert!(broker.stop().success());
    let whole = log(&["verify"], &broker.data_dir());
    assert!(whole.status.success(), "{}", text(&whole));
    assert!(text(&whole).contains("4 batches, 12 records"), "{}", text(&whole));

    let all = lines(&["--records"], &broker.data_dir());
    assert_eq!(values(&all).len(), 12);
    let filtered = lines(&["--records", "--topic", "t", "--partition", "0"], &broker.data_dir());
    assert_eq!(values(&filtered), ["value-0", "value-1", "value-2"].repeat(3));
    let batches = of_kind(&filtered, "batch");
    let offsets: Vec<_> =
        batches.iter().map(|batch| (batch["base_offset"].clone(), batch["last_offset"].clone())).collect();
    assert_eq!(offsets, [(0, 2), (3, 5), (6, 8)].map(|(first, last)| (Value::from(first), Value::from(last))));
    assert!(batches.iter().all(|batch| batch["crc_ok"] == true && batch["topic"] == "t"));
    // The position of an uncompressed batch is where its bytes are.
    let file = broker.data_dir().join(batches[0]["file"].as_str().expect("a path"));
    let at = batches[0]["position"].as_u64().expect("a number") as usize;
    let bytes = std::fs::read(file).expect("it can be read");
    let length = batches[0]["bytes"].as_u64().expect("a number") as usize;
    assert!(bytes[at..at + length].ends_with(b"value-2\0"), "the last record and its count of headers");

    let people = log(&["inspect", "--topic", "u", "--records"], &broker.data_dir());
    let people = text(&people);
    for part in [
        ".tgs: segment of u-1",
        "extent: offsets 0..=2, 1 batch",
        "batch: offsets 0..=2, 3 records",
        "value \"value-2\"",
    ] {
        assert!(people.contains(part), "{part} in {people}");
    }
    assert!(!people.contains("t-0"), "{people}");
}

#[test]
fn what_only_the_journal_has_is_shown_after_kill_9() {
    let mut broker = filled();
    broker.kill();
    let whole = log(&["verify"], &broker.data_dir());
    assert!(whole.status.success(), "{}", text(&whole));
    let lines = lines(&["--records", "--topic", "t"], &broker.data_dir());
    assert_eq!(values(&lines), ["value-0", "value-1", "value-2"].repeat(3));
    let in_journal = of_kind(&lines, "entry");
    assert_eq!(in_journal.len(), 3);
    assert!(in_journal.iter().all(|entry| entry["file"].as_str().is_some_and(|file| file.ends_with(".tgj"))));
    assert!(!of_kind(&lines, "round").is_empty(), "an entry comes with its round");
}

#[test]
fn a_flipped_byte_is_named_with_its_file_and_position() {
    let mut broker = filled();
    assert!(broker.stop().success());
    let (file, extents) = segment(&broker);
    let good = std::fs::read(&file).expect("it can be read");
    let first = extents[0];
    // The file's header, the extent's header, its first batch's header, a record.
    for position in [20, first + 60, first + 150, first + 200] {
        flip(&file, position);
        let damaged = log(&["verify", "--json"], &broker.data_dir());
        assert_eq!(damaged.status.code(), Some(1), "byte {position}: {}", text(&damaged));
        let found: Vec<Value> = String::from_utf8(damaged.stdout)
            .expect("JSON is UTF-8")
            .lines()
            .map(|line| serde_json::from_str(line).expect("an object"))
            .collect();
        let place = &found[0];
        assert!(file.ends_with(place["file"].as_str().expect("a path")), "{place}");
        assert_eq!(place["position"], if position < 4096 { 0 } else { first }, "{place}");
        assert!(place["message"].as_str().is_some_and(|text| text.contains("Restore")), "{place}");
        assert!(place["offset"].is_i64());
        std::fs::write(&file, &good).expect("it can be written");
    }
    assert!(log(&["verify"], &broker.data_dir()).status.success());
}

#[test]
fn damage_of_the_metadata_and_of_a_manifest_is_named_too() {
    let mut broker = filled();
    assert!(broker.stop().success());
    let metadata = broker.data_dir().join("metadata/log.tgm");
    let manifest = segment(&broker).0.with_file_name("partition.tgm");
    flip(&metadata, 40);
    flip(&manifest, 40);
    let damaged = log(&["verify"], &broker.data_dir());
    assert_eq!(damaged.status.code(), Some(1));
    let said = text(&damaged);
    assert!(said.contains("metadata/log.tgm") && said.contains("partition.tgm"), "{said}");
    assert!(said.contains("2 places damaged"), "{said}");
}

#[test]
fn what_is_no_data_directory_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let refused = log(&["verify"], directory.path());
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("no data directory"), "{}", text(&refused));
    assert_eq!(std::fs::read_dir(directory.path()).expect("it is there").count(), 0, "nothing was made in it");
    let mut broker = filled();
    assert!(broker.stop().success());
    let unknown = log(&["inspect", "--topic", "orders"], &broker.data_dir());
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown).contains("there are: t, u"), "{}", text(&unknown));
}
