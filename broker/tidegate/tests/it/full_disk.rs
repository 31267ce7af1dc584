//! A disk without room, and a disk that has died.

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{FutureProducer, FutureRecord},
};

use crate::{
    broker::Broker,
    librdkafka::{WAIT, block_on, client, create_topic},
    raw::Raw,
    traps::create,
    volume::{Kind, Volume, unavailable},
};

/// Produces one record after the other until one is refused: the values of those that were acknowledged, and the refusal.
fn produce_until_refused(producer: &FutureProducer, topic: &str, from: usize) -> (Vec<String>, KafkaError) {
    let mut acknowledged = Vec::new();
    for number in from.. {
        let value = format!("{number} {}", "x".repeat(100_000));
        match block_on(producer.send(FutureRecord::<(), str>::to(topic).partition(0).payload(&value), WAIT)) {
            Ok(delivery) => {
                assert_eq!(delivery.offset, number as i64, "offsets go up by one");
                acknowledged.push(value);
            }
            Err((error, _)) => return (acknowledged, error),
        }
    }
    unreachable!("some record is refused")
}

/// Refused once is refused: no retries, so that the broker's own answer is seen.
fn producer_without_retries(broker: &Broker) -> FutureProducer {
    let mut config: ClientConfig = client(broker);
    config.set("retries", "0").set("enable.idempotence", "false").create().expect("a producer")
}

fn assert_reads(broker: &Broker, topic: &str, expected: &[String]) {
    let consumer: BaseConsumer = client(broker).set("group.id", "unused").create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).expect("an offset");
    consumer.assign(&list).expect("assigned");
    for (offset, value) in expected.iter().enumerate() {
        let message = consumer.poll(WAIT).expect("a record before the time is up").expect("no error");
        assert_eq!(message.offset(), offset as i64);
        assert!(message.payload() == Some(value.as_bytes()), "the value at {offset}");
    }
}

#[test]
fn a_full_disk_refuses_records_serves_the_rest_and_heals() {
    for volume in Volume::all(96) {
        eprintln!("on {:?}", volume.kind);
        let mut broker = Broker::start_on(volume);
        create_topic(&broker, "kept", 1, &[]);
        create_topic(&broker, "other", 1, &[]);
        let producer = producer_without_retries(&broker);
        block_on(producer.send(FutureRecord::<(), str>::to("other").payload("before"), WAIT)).expect("delivered");

        broker.volume().fill(0);
        let (mut acknowledged, refused) = produce_until_refused(&producer, "kept", 0);
        assert_eq!(refused, KafkaError::MessageProduction(RDKafkaErrorCode::KafkaStorageError), "{refused}");
        // Reads, metadata and other connections go on.
        assert_reads(&broker, "kept", &acknowledged);
        assert_reads(&broker, "other", &["before".to_owned()]);
        let consumer: BaseConsumer = client(&broker).create().expect("a consumer");
        let (low, high) = consumer.fetch_watermarks("kept", 0, WAIT).expect("an answer");
        assert_eq!((low, high), (0, acknowledged.len() as i64), "nothing that was refused is readable");
        assert_eq!(broker.get("/healthz").0, 200);

        // On a disk without any room it does not start, and says so.
        broker.kill();
        broker.volume().make_room();
        broker.volume().fill(0);
        let output = broker.command("127.0.0.1:0").output().expect("the binary runs");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("no room") && message.contains("Free some space"), "{message}");
        // With little it does: how else would its owner delete records?
        broker.volume().make_room();
        broker.volume().fill(32 << 20);
        broker.restart();
        assert_reads(&broker, "kept", &acknowledged);

        // What waits for room is delivered when there is some.
        let patient: FutureProducer =
            client(&broker).set("message.timeout.ms", "120000").set("retry.backoff.ms", "50").create().expect("one");
        broker.volume().make_room();
        for _ in 0..20 {
            let value = format!("{} after", acknowledged.len());
            let record = FutureRecord::<(), str>::to("kept").partition(0).payload(&value);
            let delivery = block_on(patient.send(record, WAIT)).expect("delivered");
            assert_eq!(delivery.offset, acknowledged.len() as i64);
            acknowledged.push(value);
        }
        create(&mut Raw::new(broker.connect()), "new", 2);
        broker.kill();
        broker.restart();
        assert_reads(&broker, "kept", &acknowledged);
        assert_reads(&broker, "other", &["before".to_owned()]);
        assert!(broker.stop().success());
    }
}

/// A journal file is 64 MiB as a rule. Two shards on a disk with less room than two of those wrote zeros and removed them again,
/// twenty times a second, and refused records while most of the disk was free.
#[test]
fn most_of_a_small_disk_holds_records() {
    for volume in Volume::all(64) {
        eprintln!("on {:?}", volume.kind);
        let broker = Broker::start_on(volume);
        create_topic(&broker, "kept", 1, &[]);
        let (acknowledged, refused) = produce_until_refused(&producer_without_retries(&broker), "kept", 0);
        assert_eq!(refused, KafkaError::MessageProduction(RDKafkaErrorCode::KafkaStorageError), "{refused}");
        let bytes: usize = acknowledged.iter().map(String::len).sum();
        assert!(bytes > 28 << 20, "{bytes} bytes of records on a disk of 64 MiB");
        assert_reads(&broker, "kept", &acknowledged);
    }
}

/// A flush that fails leaves the pages in doubt: nothing is retried over it, nothing more is acknowledged, and the process ends.
#[test]
fn a_broken_disk_ends_the_broker_with_the_reason() {
    let volume = match Volume::mount(Kind::Ext4, 96) {
        Ok(volume) => volume,
        Err(reason) => return unavailable(&format!("no ext4 can be mounted, to be broken: {reason}")),
    };
    let mut broker = Broker::start_on(volume);
    create_topic(&broker, "kept", 1, &[]);
    let producer = producer_without_retries(&broker);
    for number in 0..10 {
        let value = number.to_string();
        block_on(producer.send(FutureRecord::<(), str>::to("kept").payload(&value), WAIT)).expect("delivered");
    }
    broker.volume().break_disk();
    let record = FutureRecord::<(), str>::to("kept").payload("lost");
    let (error, _) = block_on(producer.send(record, WAIT)).expect_err("nothing is acknowledged on a broken disk");
    eprintln!("{error}");
    let status = broker.wait();
    assert_eq!(status.code(), Some(1), "{}", broker.logged());
    let logged = broker.logged();
    for part in ["Input/output error", "shard-", "nothing more is acknowledged", "dmesg"] {
        assert!(logged.contains(part), "{part} in {logged}");
    }
}
