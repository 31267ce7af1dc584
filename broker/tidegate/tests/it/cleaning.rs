//! Retention, compaction and DeleteRecords, as a consumer sees them. What the broker does in its own time is waited for by asking again.

use std::collections::BTreeMap;

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::AdminOptions,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    producer::{BaseRecord, Producer as _, ThreadedProducer},
};

use crate::{
    broker::Broker,
    librdkafka::{WAIT, admin, block_on, client, create_topic},
};

/// A record: its offset, its key and its value.
type Record = (i64, String, Option<String>);

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// Everything in partition 0, from its start to its end.
fn contents(broker: &Broker, topic: &str) -> Vec<Record> {
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
                found.push((message.offset(), message.key().map(text).unwrap_or_default(), message.payload().map(text)))
            }
            Err(KafkaError::PartitionEOF(_)) => return found,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Asks again until the answer is as it should be.
fn until<T>(mut ask: impl FnMut() -> T, enough: impl Fn(&T) -> bool) -> T {
    loop {
        let answer = ask();
        if enough(&answer) {
            return answer;
        }
    }
}

fn start_of(broker: &Broker, topic: &str) -> i64 {
    let consumer: BaseConsumer = client(broker).create().expect("a consumer");
    consumer.fetch_watermarks(topic, 0, WAIT).expect("an answer").0
}

/// Sends records one batch each, so that segments have somewhere to end.
struct Sender {
    producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext>,
}

impl Sender {
    fn new(broker: &Broker) -> Self {
        let mut config = client(broker);
        Self { producer: config.set("enable.idempotence", "true").set("linger.ms", "0").create().expect("a producer") }
    }

    fn send(&self, topic: &str, key: &str, value: Option<&str>) {
        let mut record = BaseRecord::to(topic).partition(0).key(key);
        if let Some(value) = value {
            record = record.payload(value);
        }
        self.producer.send(record).map_err(|(error, _)| error).expect("queued");
    }

    fn flush(&self) {
        self.producer.flush(WAIT).expect("delivered");
    }
}

const KEYS: usize = 10;
const ROUNDS: usize = 20;

/// Twenty values for each of ten keys; the last value of each key with its offset.
fn overwrite(sender: &Sender, topic: &str) -> BTreeMap<String, (i64, Option<String>)> {
    let mut last = BTreeMap::new();
    for round in 0..ROUNDS {
        for key in 0..KEYS {
            let (name, value) = (format!("key-{key}"), format!("value-{round}"));
            sender.send(topic, &name, Some(&value));
            last.insert(name, ((round * KEYS + key) as i64, Some(value)));
        }
        sender.flush();
    }
    last
}

/// Whatever compaction has got to, the last value of each key is there, at its offset, and what is there was written.
fn assert_last_values(records: &[Record], last: &BTreeMap<String, (i64, Option<String>)>) {
    assert!(records.is_sorted_by(|left, right| left.0 < right.0), "offsets go up");
    for (key, (offset, value)) in last {
        assert!(records.contains(&(*offset, key.clone(), value.clone())), "{key} at {offset} in {records:?}");
    }
    for (offset, key, value) in records.iter().filter(|(_, _, value)| value.is_some()) {
        let written = *offset as usize;
        assert_eq!((key, value), (&format!("key-{}", written % KEYS), &Some(format!("value-{}", written / KEYS))));
    }
}

#[test]
fn compaction_keeps_the_last_value_of_each_key_and_tombstones_for_their_time() {
    let mut broker = Broker::start();
    let eager = [
        ("cleanup.policy", "compact"),
        ("segment.bytes", "1048576"),
        ("segment.ms", "200"),
        ("min.cleanable.dirty.ratio", "0.01"),
    ];
    create_topic(&broker, "short", 1, &[&eager[..], &[("delete.retention.ms", "100")]].concat());
    create_topic(&broker, "long", 1, &[&eager[..], &[("delete.retention.ms", "86400000")]].concat());
    let sender = Sender::new(&broker);
    let mut expected = BTreeMap::new();
    for topic in ["short", "long"] {
        let mut last = overwrite(&sender, topic);
        sender.send(topic, "key-0", None);
        sender.flush();
        last.remove("key-0");
        expected.insert(topic, last);
    }
    let tombstone: Record = ((ROUNDS * KEYS) as i64, "key-0".to_owned(), None);
    // All keys but one are left, and where it is kept for a day, the tombstone.
    let looked_at = |topic: &str| {
        let records = contents(&broker, topic);
        assert_last_values(&records, &expected[topic]);
        records
    };
    let long = until(|| looked_at("long"), |records| records.len() <= KEYS);
    assert!(long.contains(&tombstone), "{long:?}");
    assert!(long.iter().all(|(_, key, value)| key != "key-0" || value.is_none()), "{long:?}");
    // A tombstone goes with the first round after its time, and a round needs something new to compact.
    let look_again = || {
        sender.send("short", "tick", Some("x"));
        sender.flush();
        let mut records = contents(&broker, "short");
        records.retain(|(_, key, _)| key != "tick");
        assert_last_values(&records, &expected["short"]);
        records
    };
    let short = until(look_again, |records| records.len() < KEYS);
    assert!(!short.contains(&tombstone), "{short:?}");
    // A compacted log is a log: the end is where it was, the producer goes on, a restart changes nothing.
    let consumer: BaseConsumer = client(&broker).create().expect("a consumer");
    assert_eq!(consumer.fetch_watermarks("long", 0, WAIT).expect("an answer"), (0, tombstone.0 + 1));
    broker.kill();
    broker.restart();
    assert_last_values(&contents(&broker, "long"), &expected["long"]);
    sender.send("long", "key-0", Some("again"));
    sender.flush();
    let again = (tombstone.0 + 1, "key-0".to_owned(), Some("again".to_owned()));
    assert_eq!(contents(&broker, "long").last(), Some(&again));
}

/// Four topics with the same records. Those that may be compacted are; by then the others have been looked at as often.
#[test]
fn compaction_lags_are_kept() {
    let broker = Broker::start();
    let topics: [(&str, &[(&str, &str)]); 4] = [
        ("now", &[("min.cleanable.dirty.ratio", "0.01")]),
        ("later", &[("min.cleanable.dirty.ratio", "0.01"), ("min.compaction.lag.ms", "86400000")]),
        ("dirty", &[("min.cleanable.dirty.ratio", "1.0")]),
        ("overdue", &[("min.cleanable.dirty.ratio", "1.0"), ("max.compaction.lag.ms", "500")]),
    ];
    let sender = Sender::new(&broker);
    for (topic, configs) in topics {
        let common: [(&str, &str); 2] = [("cleanup.policy", "compact"), ("segment.ms", "200")];
        create_topic(&broker, topic, 1, &[&common[..], configs].concat());
        overwrite(&sender, topic);
    }
    for topic in ["now", "overdue"] {
        until(|| contents(&broker, topic).len(), |count| *count <= KEYS);
    }
    for topic in ["later", "dirty"] {
        assert_eq!(contents(&broker, topic).len(), KEYS * ROUNDS, "{topic}");
    }
}

#[test]
fn retention_moves_the_start_of_the_log() {
    let mut broker = Broker::start();
    create_topic(&broker, "by-time", 1, &[("retention.ms", "1500"), ("segment.ms", "300")]);
    create_topic(&broker, "by-size", 1, &[("retention.bytes", "400000"), ("segment.bytes", "100000")]);
    create_topic(&broker, "kept", 1, &[("segment.ms", "300")]);
    let sender = Sender::new(&broker);
    let value = "x".repeat(10_000);
    for _ in 0..100 {
        for topic in ["by-time", "by-size", "kept"] {
            sender.send(topic, "key", Some(&value));
        }
        sender.flush();
    }
    // By size about forty records stay, in whole segments of up to ten.
    // One may go between the two questions.
    let both = || (start_of(&broker, "by-size"), contents(&broker, "by-size"));
    let (start, records) = until(both, |(start, records)| *start >= 50 && records[0].0 == *start);
    assert!(start <= 60, "{start}");
    assert_eq!(records.len() as i64, 100 - start);
    // By time everything goes, and the end stays where it is.
    until(|| start_of(&broker, "by-time"), |start| *start == 100);
    assert!(contents(&broker, "by-time").is_empty());
    sender.send("by-time", "key", Some("new"));
    sender.flush();
    assert_eq!(contents(&broker, "by-time"), [(100, "key".to_owned(), Some("new".to_owned()))]);
    assert_eq!(contents(&broker, "kept").len(), 100);
    // A reader below the start is told so, and goes on where its policy says.
    let mut config = client(&broker);
    config.set("group.id", "unused").set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("by-size", 0, Offset::Offset(3)).expect("an offset");
    consumer.assign(&list).expect("assigned");
    assert_eq!(consumer.poll(WAIT).expect("a record").expect("no error").offset(), start);
    broker.kill();
    broker.restart();
    assert!(start_of(&broker, "by-size") >= start, "the start never goes back");
    assert_eq!(contents(&broker, "kept").len(), 100);
}

#[test]
fn delete_records_takes_what_it_is_told_and_for_good() {
    let mut broker = Broker::start();
    create_topic(&broker, "cut", 1, &[]);
    let sender = Sender::new(&broker);
    for number in 0..10 {
        sender.send("cut", "key", Some(&number.to_string()));
    }
    sender.flush();
    let options = AdminOptions::new().operation_timeout(Some(WAIT));
    let delete = |broker: &Broker, before: Offset| {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("cut", 0, before).expect("an offset");
        block_on(admin(broker).delete_records(&list, &options)).expect("an answer")
    };
    let answer = delete(&broker, Offset::Offset(4));
    assert_eq!(answer.elements()[0].offset(), Offset::Offset(4));
    assert_eq!(start_of(&broker, "cut"), 4);
    assert_eq!(contents(&broker, "cut").iter().map(|(offset, ..)| *offset).collect::<Vec<_>>(), [4, 5, 6, 7, 8, 9]);
    let beyond = delete(&broker, Offset::Offset(11));
    assert!(beyond.elements()[0].error().is_err(), "beyond the end");
    assert_eq!(start_of(&broker, "cut"), 4);
    broker.kill();
    broker.restart();
    assert_eq!(start_of(&broker, "cut"), 4);
    delete(&broker, Offset::End);
    assert_eq!(start_of(&broker, "cut"), 10);
    assert!(contents(&broker, "cut").is_empty());
    broker.kill();
    broker.restart();
    assert_eq!(start_of(&broker, "cut"), 10);
    sender.send("cut", "key", Some("new"));
    sender.flush();
    assert_eq!(contents(&broker, "cut"), [(10, "key".to_owned(), Some("new".to_owned()))]);
}
