//! Damaged files: each is named, with the way out, and what does not depend on it is served.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use kafka_protocol::messages::{ApiKey, ProduceResponse};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use tidegate_records::{batch::Compression, build::BatchBuilder, time::Timestamp};

use crate::{
    broker::Broker,
    faults::{assert_serves, fetch, fetch_from, good_batch, now_ms, produce, produce_request},
    librdkafka::{WAIT, client},
    raw::Raw,
    traps::create,
    volume::Volume,
};

/// Batches of each topic.
const BATCHES: usize = 10;

/// A broker with two topics of a few batches each, and their ids.
fn broker_with_records() -> (Broker, [String; 2]) {
    let broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    let ids = ["hurt", "well"].map(|topic| create(&mut raw, topic, 1).simple().to_string());
    for _ in 0..BATCHES {
        for topic in ["hurt", "well"] {
            assert_eq!(produce(&mut raw, topic, good_batch()).0, 0);
        }
    }
    (broker, ids)
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).expect("it can be read");
    bytes[at] ^= 0xff;
    std::fs::write(file, bytes).expect("it can be written");
}

/// The only file that is so.
fn only(broker: &Broker, is_it: impl Fn(&str) -> bool) -> PathBuf {
    let mut found: Vec<PathBuf> =
        broker.files().into_iter().filter(|file| is_it(file.to_str().expect("our names are ASCII"))).collect();
    assert_eq!(found.len(), 1, "{found:?} of {:?}", broker.files());
    found.pop().expect("there is one")
}

/// The broker refuses to start; what it says on standard error.
fn refuses_to_start(broker: &Broker) -> String {
    let output = broker.command("127.0.0.1:0").output().expect("the binary runs");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    message
}

#[test]
fn damaged_metadata_stop_the_start() {
    let (mut broker, _) = broker_with_records();
    assert!(broker.stop().success());
    let log = broker.data_dir().join("metadata/log.tgm");
    // The first entry: others follow, so it is no torn end.
    flip(&log, 60);
    let message = refuses_to_start(&broker);
    for part in ["metadata/log.tgm", "damaged at byte", "restore it from a backup"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    flip(&log, 60);
    let meta = broker.data_dir().join("meta.properties");
    flip(&meta, 100);
    let message = refuses_to_start(&broker);
    for part in ["meta.properties", "damaged", "Restore it from a backup"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    flip(&meta, 100);
    broker.restart();
    let mut raw = Raw::new(broker.connect());
    assert_eq!(produce(&mut raw, "hurt", good_batch()).0, 0, "nothing else was touched");
}

/// A batch that only the journal has, damaged, with later rounds behind it: a cut would lose what was acknowledged.
#[test]
fn a_damaged_journal_takes_offline_what_it_held() {
    let (mut broker, [hurt, _]) = broker_with_records();
    broker.kill();
    // Each batch was a round of its own, so the first one of "hurt" is far from the end.
    let id: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&hurt[2 * at..2 * at + 2], 16).expect("hex")).collect();
    let place = |file: &Path| {
        let bytes = std::fs::read(file).expect("it can be read");
        let entry = bytes.windows(16).position(|window| window == id)?;
        bytes[entry..].windows(5).position(|window| window == b"value").map(|at| entry + at)
    };
    let journals = broker.files().into_iter().filter(|file| file.extension().is_some_and(|end| end == "tgj"));
    let (journal, at) = journals.filter_map(|file| place(&file).map(|at| (file, at))).next().expect("it is in one");
    flip(&journal, at);
    broker.restart();
    assert_serves(&broker);
    let mut raw = Raw::new(broker.connect());
    assert_eq!(fetch(&mut raw, "hurt").0, 56);
    let (code, message) = produce(&mut raw, "hurt", good_batch());
    assert_eq!(code, 56, "{message}");
    let name = journal.file_name().and_then(|name| name.to_str()).expect("a name");
    for part in [name, "damaged at byte", "Restore the file from a copy", "move it out of the data directory"] {
        assert!(message.contains(part), "{part} in {message}");
        assert!(broker.logged().contains(part), "{part} in the log");
    }
    assert_eq!(fetch(&mut raw, "well").0, 0);
    assert_eq!(produce(&mut raw, "well", good_batch()).0, 0);
    // Nothing is thrown away meanwhile: the partition came back empty, and online, with the second start.
    assert!(broker.stop().success());
    broker.restart();
    assert_eq!(fetch(&mut Raw::new(broker.connect()), "hurt").0, 56);
    // The first way out that the message names.
    assert!(broker.stop().success());
    // Kept under another name once all else in it is applied, which a stop may come before or after.
    let held = journal.with_file_name(name.replace("journal-", "held-"));
    flip(if held.exists() { &held } else { &journal }, at);
    broker.restart();
    let mut raw = Raw::new(broker.connect());
    let (code, bytes) = fetch(&mut raw, "hurt");
    assert_eq!((code, bytes), (0, BATCHES * good_batch().len()), "mended, it is whole again");
}

/// The first bytes of a journal file: where its first rounds were cannot be told, so nothing that they may have held is served as if
/// whole. What the rounds behind them prove to be whole is.
#[test]
fn a_journal_without_its_header_is_not_taken_for_an_empty_one() {
    let (mut broker, _) = broker_with_records();
    broker.kill();
    let journals: Vec<PathBuf> = broker
        .files()
        .into_iter()
        .filter(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("journal-")))
        .filter(|file| std::fs::read(file).expect("it can be read").windows(5).any(|window| window == b"value"))
        .collect();
    for journal in &journals {
        flip(journal, 3);
    }
    broker.restart();
    let mut raw = Raw::new(broker.connect());
    for topic in ["hurt", "well"] {
        let (code, bytes) = fetch(&mut raw, topic);
        if topic == "well" && code == 0 {
            // On the shard of "hurt", its first batch is in the second round.
            assert_eq!(bytes, BATCHES * good_batch().len());
            continue;
        }
        let (code, message) = produce(&mut raw, topic, good_batch());
        assert_eq!(code, 56, "{message}");
        assert!(message.contains("journal-") && message.contains("move it out of the data directory"), "{message}");
        assert_eq!(fetch(&mut raw, topic).0, 56);
    }
    assert!(broker.stop().success());
    for journal in &journals {
        flip(journal, 3);
    }
    broker.restart();
    let mut raw = Raw::new(broker.connect());
    for topic in ["hurt", "well"] {
        assert_eq!(fetch(&mut raw, topic), (0, BATCHES * good_batch().len()), "{topic}");
    }
}

#[test]
fn a_damaged_manifest_takes_its_partition_offline() {
    let (mut broker, [hurt, _]) = broker_with_records();
    assert!(broker.stop().success());
    let manifest = only(&broker, |file| file.contains(&hurt) && file.ends_with("partition.tgm"));
    flip(&manifest, 20);
    broker.restart();
    let mut raw = Raw::new(broker.connect());
    let (code, message) = produce(&mut raw, "hurt", good_batch());
    assert_eq!(code, 56, "{message}");
    for part in ["partition.tgm is damaged", "Restore it from a copy", "delete the topic"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert_eq!(produce(&mut raw, "well", good_batch()).0, 0);
}

/// Indexes and snapshots are made from the log, and are made again.
#[test]
fn a_damaged_index_or_snapshot_costs_nothing_but_time() {
    let (mut broker, [hurt, _]) = broker_with_records();
    let producer: ThreadedProducer<_> = client(&broker)
        .set("enable.idempotence", "true")
        .set("partitioner", "consistent")
        .create()
        .expect("a producer");
    let send = |number: i32| {
        let value = number.to_string();
        let record = BaseRecord::<(), str>::to("hurt").partition(0).payload(&value);
        producer.send(record).map_err(|(error, _)| error).expect("queued");
        producer.flush(WAIT).expect("delivered");
    };
    send(0);
    assert!(broker.stop().success());
    let index = only(&broker, |file| file.contains(&hurt) && file.ends_with(".tgx"));
    let snapshot = only(&broker, |file| file.contains(&hurt) && file.contains("snapshot"));
    flip(&index, 30);
    flip(&snapshot, 15);
    broker.restart();
    // Its sequence goes on, so the broker still knows it.
    send(1);
    let mut raw = Raw::new(broker.connect());
    let (code, bytes) = fetch(&mut raw, "hurt");
    assert_eq!(code, 0);
    assert!(bytes > BATCHES * good_batch().len());
}

#[test]
fn a_read_only_file_system_is_said() {
    for volume in Volume::all(64) {
        let mut broker = Broker::start_on(volume);
        create(&mut Raw::new(broker.connect()), "t", 1);
        assert!(broker.stop().success());
        broker.volume().remount("ro");
        let message = refuses_to_start(&broker);
        assert!(message.contains("Read-only file system") && message.contains("remount"), "{message}");
        assert!(message.contains("data"), "it names the directory: {message}");
        broker.volume().remount("rw");
        broker.restart();
        assert_serves(&broker);
    }
}

/// `tidegate log verify` of a stopped broker's directory: whether all is well, and what it says.
fn verified(broker: &Broker) -> (bool, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["log", "verify"])
        .arg(broker.data_dir())
        .output()
        .expect("it runs");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn moved(from: &Path, to: &Path) {
    std::fs::rename(from, to).unwrap_or_else(|error| panic!("{} to {}: {error}", from.display(), to.display()));
}

/// Its segments are there, so it was there: an empty partition in their place would throw them away.
#[test]
fn a_partition_without_its_manifest_is_not_taken_for_an_empty_one() {
    let (mut broker, [hurt, _]) = broker_with_records();
    assert!(broker.stop().success());
    let manifest = only(&broker, |file| file.contains(&hurt) && file.ends_with("partition.tgm"));
    let away = broker.data_dir().join("../partition.tgm");
    moved(&manifest, &away);
    let (good, said) = verified(&broker);
    assert!(!good && said.contains("partition.tgm is missing, and there are segments beside it"), "{said}");
    broker.restart();
    let mut raw = Raw::new(broker.connect());
    let (code, message) = produce(&mut raw, "hurt", good_batch());
    assert!(code == 56 && message.contains("is missing, and there are segments beside it"), "{message}");
    assert_eq!((fetch(&mut raw, "hurt").0, fetch(&mut raw, "well").0), (56, 0));
    // Nothing was thrown away.
    assert!(broker.stop().success());
    moved(&away, &manifest);
    assert!(verified(&broker).0);
    broker.restart();
    let (code, bytes) = fetch(&mut Raw::new(broker.connect()), "hurt");
    assert_eq!((code, bytes), (0, BATCHES * good_batch().len()));
}

/// Its offsets were given out before: an empty partition in its place would give them out again.
#[test]
fn a_partition_whose_directory_is_gone_is_not_taken_for_an_empty_one() {
    for all in [false, true] {
        let (mut broker, [hurt, _]) = broker_with_records();
        assert!(broker.stop().success());
        let partitions = broker.data_dir().join("partitions");
        let directory = if all { partitions } else { partitions.join(format!("{hurt}-0")) };
        let away = broker.data_dir().join("../away");
        moved(&directory, &away);
        let (good, said) = verified(&broker);
        assert!(!good && said.contains("is missing, though the partition had records in a segment"), "{said}");
        broker.restart();
        let mut raw = Raw::new(broker.connect());
        let (code, message) = produce(&mut raw, "hurt", good_batch());
        assert!(code == 56 && message.contains("is missing, though the partition had records"), "{code} {message}");
        assert_eq!((fetch(&mut raw, "hurt").0, fetch(&mut raw, "well").0), (56, if all { 56 } else { 0 }));
        assert!(broker.logged().contains("is missing, though the partition had records"));
        assert!(broker.stop().success());
        if directory.exists() {
            std::fs::remove_dir_all(&directory).expect("nothing is needed of it");
        }
        moved(&away, &directory);
        broker.restart();
        let (code, bytes) = fetch(&mut Raw::new(broker.connect()), "hurt");
        assert_eq!((code, bytes), (0, BATCHES * good_batch().len()));
    }
}

/// Moving it away is a way out that messages name, so the broker starts; but it says what is gone.
#[test]
fn a_missing_journal_is_said() {
    let (mut broker, _) = broker_with_records();
    broker.kill();
    for journal in broker.files().into_iter().filter(|file| file.extension().is_some_and(|end| end == "tgj")) {
        std::fs::remove_file(&journal).expect("it is there");
    }
    let (good, said) = verified(&broker);
    for part in [
        "shard-0/journal-000000000001.tgj is missing: what was",
        "shard-1/journal-000000000001.tgj is missing: what was",
    ] {
        assert!(!good && said.contains(part), "{part} in {said}");
    }
    broker.restart();
    assert_serves(&broker);
    let said = broker.logged();
    assert!(said.contains("the journal of a shard is missing, or a file of it: what was acknowledged"), "{said}");
    // From here on it is as it was when it was first started.
    assert!(broker.stop().success());
    assert!(verified(&broker).0);
}

/// The file that is being written and the spare one behind it are there in every journal: what was lost of the first looked like a crash.
#[test]
fn a_journal_that_lost_a_file_is_said() {
    for whole in [false, true] {
        let (mut broker, [hurt, _]) = broker_with_records();
        // Both shards have something: that the other was used shows that all were.
        let mut raw = Raw::new(broker.connect());
        create(&mut raw, "everywhere", 16);
        let request = produce_request("everywhere", (0..16).map(|partition| (partition, good_batch().into())));
        let answer: ProduceResponse = raw.call(ApiKey::Produce, 9, &request);
        assert!(answer.responses[0].partition_responses.iter().all(|answer| answer.error_code == 0));
        broker.kill();
        let journal = journal_of(&broker, &hurt);
        let directory = journal.parent().expect("a shard's");
        let missing = if whole {
            std::fs::remove_dir_all(directory).expect("it is there");
            directory
        } else {
            std::fs::remove_file(&journal).expect("it is there");
            &journal
        };
        let missing = missing.strip_prefix(broker.data_dir()).expect("it was there").display().to_string();
        let (good, said) = verified(&broker);
        assert!(!good && said.contains(&format!("{missing} is missing: what was acknowledged")), "{said}");
        broker.restart();
        assert_serves(&broker);
        let said = broker.logged();
        assert!(
            said.contains("the journal of a shard is missing, or a file of it") && said.contains(&missing),
            "{said}"
        );
        assert!(broker.stop().success());
        assert!(verified(&broker).0);
    }
}

/// The journal's file that has the records of a topic.
fn journal_of(broker: &Broker, topic: &str) -> PathBuf {
    let id: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&topic[2 * at..2 * at + 2], 16).expect("hex")).collect();
    let has_it = |file: &PathBuf| {
        file.extension().is_some_and(|end| end == "tgj")
            && std::fs::read(file).expect("it can be read").windows(16).any(|window| window == id)
    };
    broker.files().into_iter().find(has_it).expect("it is in one")
}

/// A crash cannot shorten a file of the journal: all of it is on stable storage before it has its name.
#[test]
fn a_journal_that_was_cut_short_takes_offline_what_it_held() {
    for length in [0, 20_000] {
        let (mut broker, [hurt, _]) = broker_with_records();
        broker.kill();
        let journal = journal_of(&broker, &hurt);
        let whole = std::fs::read(&journal).expect("it can be read");
        std::fs::write(&journal, &whole[..length]).expect("it can be written");
        let name = journal.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let said_so = format!("{name} was cut short, to {length} bytes");
        let (good, said) = verified(&broker);
        assert!(!good && said.contains(&said_so), "{said}");
        broker.restart();
        let mut raw = Raw::new(broker.connect());
        let (code, message) = produce(&mut raw, "hurt", good_batch());
        assert!(code == 56 && message.contains(&said_so), "{code} {message}");
        assert!(broker.logged().contains(&said_so));
        // Nothing is thrown away meanwhile.
        assert!(broker.stop().success());
        let held = journal.with_file_name(name.replace("journal-", "held-"));
        std::fs::write(if held.exists() { &held } else { &journal }, &whole).expect("it can be written");
        assert!(verified(&broker).0, "{}", verified(&broker).1);
        broker.restart();
        let (code, bytes) = fetch(&mut Raw::new(broker.connect()), "hurt");
        assert_eq!((code, bytes), (0, BATCHES * good_batch().len()), "mended, it is whole again");
    }
}

#[test]
fn without_its_metadata_a_broker_with_records_does_not_start() {
    let (mut broker, _) = broker_with_records();
    assert!(broker.stop().success());
    let (log, away) = (broker.data_dir().join("metadata/log.tgm"), broker.data_dir().join("../log.tgm"));
    moved(&log, &away);
    let (good, said) = verified(&broker);
    assert!(!good && said.contains("metadata/log.tgm is missing, and partitions/"), "{said}");
    let message = refuses_to_start(&broker);
    for part in ["metadata/log.tgm is missing", "has the data of 2", "Restore it from a copy", "move partitions/ away"]
    {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert!(!log.exists(), "nothing is put in its place");
    // Cut short it is taken for one whose last change was being written; what is there beyond it is named.
    let bytes = std::fs::read(&away).expect("it can be read");
    std::fs::write(&log, &bytes[..32]).expect("it can be written");
    let (good, said) = verified(&broker);
    assert!(!good && said.contains("no topic has this partition, and nothing says that it was deleted"), "{said}");
    moved(&away, &log);
    assert!(verified(&broker).0);
    broker.restart();
    assert_eq!(fetch(&mut Raw::new(broker.connect()), "well").0, 0);
}

#[test]
fn a_damaged_plugin_is_named() {
    let mut broker = Broker::start();
    crate::routed::deploy(&broker, "router", &crate::routed::PLUGINS[0]);
    assert!(broker.stop().success());
    assert!(verified(&broker).0);
    let component = only(&broker, |file| file.ends_with(".wasm"));
    flip(&component, 1000);
    let (good, said) = verified(&broker);
    assert!(
        !good && said.contains("is damaged: its SHA-256 is ") && said.contains("Upload the plugin again"),
        "{said}"
    );
    std::fs::remove_file(&component).expect("it is there");
    let (good, said) = verified(&broker);
    assert!(!good && said.contains(".wasm: "), "{said}");
}

/// What a disk loses while the broker runs is met by who reads it: nothing was said of it, and nobody but consumers that made no progress knew.
#[test]
fn damage_below_a_running_broker_is_said_and_costs_its_readers_alone() {
    const DAMAGED: i64 = 5;
    let mut broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    let hurt = create(&mut raw, "hurt", 2).simple().to_string();
    create(&mut raw, "well", 1);
    let batch = |value: &str| {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push(Timestamp(now_ms()), None, Some(value.repeat(20_000).as_bytes()), []);
        builder.build().0
    };
    for number in 0..BATCHES {
        let batch = batch(&format!("number {number}, "));
        let request = produce_request("hurt", [(0, batch.clone()), (1, batch.clone())]);
        let answer: ProduceResponse = raw.call(ApiKey::Produce, 9, &request);
        assert!(answer.responses[0].partition_responses.iter().all(|answer| answer.error_code == 0));
        assert_eq!(produce(&mut raw, "well", batch).0, 0);
    }
    // So that nothing of it is in memory.
    assert!(broker.stop().success());
    broker.restart();
    let segment = only(&broker, |file| file.contains(&format!("{hurt}-0/")) && file.ends_with(".tgs"));
    let bytes = std::fs::read(&segment).expect("it can be read");
    let value = format!("number {DAMAGED}, number {DAMAGED}");
    let at = bytes.windows(value.len()).position(|window| window == value.as_bytes()).expect("a record") + 1_000;
    let file = File::options().write(true).open(&segment).expect("it is there");
    let put = |byte: u8| {
        file.write_all_at(&[byte], at as u64).expect("it can be written");
        file.sync_all().expect("it is on the disk");
    };
    put(!bytes[at]);

    let started = Instant::now();
    let mut raw = Raw::new(broker.connect());
    for _ in 0..50 {
        assert_eq!(fetch_from(&mut raw, "hurt", 0, DAMAGED), (56, 0), "KAFKA_STORAGE_ERROR");
        for (topic, partition, offset) in
            [("hurt", 0, 0), ("hurt", 0, DAMAGED + 1), ("hurt", 1, DAMAGED), ("well", 0, DAMAGED)]
        {
            let (code, bytes) = fetch_from(&mut raw, topic, partition, offset);
            assert!(code == 0 && bytes > 0, "{topic}-{partition} from {offset}: {code}");
        }
    }
    let logged = broker.logged();
    let said: Vec<&str> = logged.lines().filter(|line| line.contains("records cannot be read")).collect();
    // Once a minute.
    assert!(!said.is_empty() && said.len() as u64 <= 1 + started.elapsed().as_secs() / 60, "{said:?}");
    let name = segment.file_name().and_then(|name| name.to_str()).expect("a name");
    let (_, from) = said[0].split_once(&format!("{name} is damaged at byte ")).expect("the file and the byte");
    let from: usize = from.split(',').next().and_then(|byte| byte.parse().ok()).expect("a number");
    assert!((from..from + (512 << 10)).contains(&at), "said at {from}, done at {at}");
    for part in [&format!("from offset {DAMAGED} on"), "Restore the file from a copy", "delete the topic"] {
        assert!(said[0].contains(part), "{part} in {}", said[0]);
    }
    // It takes records as before, and they are read.
    let next = BATCHES as i64;
    assert_eq!(produce(&mut raw, "hurt", good_batch()).0, 0);
    assert_eq!(fetch_from(&mut raw, "hurt", 0, next), (0, good_batch().len()));
    // Mended, it is read again: nothing of what was damaged is kept.
    put(bytes[at]);
    let (code, bytes) = fetch_from(&mut raw, "hurt", 0, DAMAGED);
    assert!(code == 0 && bytes > 0, "{code}");
}
