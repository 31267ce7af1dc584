//! What was acknowledged survives `kill -9`, in order, once.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use kafka_protocol::{
    messages::{
        ApiKey, DeleteTopicsRequest, DeleteTopicsResponse, InitProducerIdRequest, InitProducerIdResponse,
        ProduceRequest, ProduceResponse, TopicName,
        delete_topics_request::DeleteTopicState,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::StrBytes,
};
use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::DeliveryResult,
    producer::{BaseRecord, FutureProducer, FutureRecord, Producer as _, ProducerContext, ThreadedProducer},
};
use tidegate_records::{
    batch::Compression,
    build::{BatchBuilder, Producer},
    ids::{ProducerEpoch, ProducerId, Sequence},
    time::Timestamp,
};

use crate::{
    broker::Broker,
    librdkafka::{block_on, client, create_topic, read},
    raw::Raw,
    traps::create,
};

const PARTITIONS: i32 = 8;
const WAIT: Duration = Duration::from_secs(60);

/// What was acknowledged: partition, offset, value.
#[derive(Clone, Default)]
struct Acknowledged {
    records: Arc<Mutex<Vec<(i32, i64, u64)>>>,
    count: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(message) => {
                let value = std::str::from_utf8(message.payload().expect("a value")).expect("digits");
                let record = (message.partition(), message.offset(), value.parse().expect("a number"));
                self.records.lock().expect("no panic").push(record);
                self.count.fetch_add(1, Ordering::SeqCst);
            }
            Err(_) => {
                self.failed.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

fn read_all(broker: &Broker, topic: &str) -> Vec<Vec<(i64, u64)>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &broker.kafka).set("group.id", "unused").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&list).expect("assigned");
    let mut found = vec![Vec::new(); PARTITIONS as usize];
    let mut ended = 0;
    while ended < PARTITIONS {
        match consumer.poll(WAIT).expect("records or their end") {
            Ok(message) => {
                let value = std::str::from_utf8(message.payload().expect("a value")).expect("digits");
                found[message.partition() as usize].push((message.offset(), value.parse().expect("a number")));
            }
            Err(rdkafka::error::KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => panic!("{error}"),
        }
    }
    found
}

#[test]
fn an_idempotent_producer_loses_and_doubles_nothing_over_kill_9() {
    let mut broker = Broker::start();
    create(&mut Raw::new(broker.connect()), "kept", PARTITIONS);
    let acknowledged = Acknowledged::default();
    let producer: ThreadedProducer<Acknowledged> = ClientConfig::new()
        .set("bootstrap.servers", &broker.kafka)
        .set("enable.idempotence", "true")
        .set("linger.ms", "1")
        .set("message.timeout.ms", "120000")
        .set("retry.backoff.ms", "20")
        .set("reconnect.backoff.ms", "10")
        .set("reconnect.backoff.max.ms", "100")
        .create_with_context(acknowledged.clone())
        .expect("a producer");
    let mut sent = 0_u64;
    for kill in 1..=4_u64 {
        // Killed while records are on their way, and some are acknowledged since the last time.
        let before = acknowledged.count.load(Ordering::SeqCst);
        while acknowledged.count.load(Ordering::SeqCst) < before + 3_000 * kill {
            let value = sent.to_string();
            let record = BaseRecord::<(), str>::to("kept").partition((sent % PARTITIONS as u64) as i32).payload(&value);
            if producer.send(record).is_ok() {
                sent += 1;
            } else {
                std::thread::yield_now();
            }
        }
        broker.kill();
        broker.restart();
    }
    producer.flush(Duration::from_secs(120)).expect("everything is delivered in the end");
    assert_eq!(acknowledged.failed.load(Ordering::SeqCst), 0);
    assert_eq!(acknowledged.count.load(Ordering::SeqCst), sent);

    let found = read_all(&broker, "kept");
    for (partition, records) in found.iter().enumerate() {
        let values: Vec<u64> = records.iter().map(|(_, value)| *value).collect();
        let expected: Vec<u64> = (0..sent).filter(|value| value % PARTITIONS as u64 == partition as u64).collect();
        assert!(values == expected, "partition {partition}: {} records of {}", values.len(), expected.len());
    }
    for (partition, offset, value) in acknowledged.records.lock().expect("no panic").iter() {
        // A retry that found its first copy may be told no offset.
        if *offset >= 0 {
            assert_eq!(found[*partition as usize][*offset as usize], (*offset, *value));
        }
    }
}

#[test]
fn another_number_of_shards_moves_partitions_without_loss() {
    let mut broker = Broker::start_with(&["--shards", "2"]);
    create(&mut Raw::new(broker.connect()), "moved", PARTITIONS);
    let mut sent = 0_u64;
    for shards in ["1", "3", "2"] {
        let acknowledged = Acknowledged::default();
        let producer: ThreadedProducer<Acknowledged> = ClientConfig::new()
            .set("bootstrap.servers", &broker.kafka)
            .create_with_context(acknowledged.clone())
            .expect("a producer");
        for _ in 0..2_000 {
            let value = sent.to_string();
            let record =
                BaseRecord::<(), str>::to("moved").partition((sent % PARTITIONS as u64) as i32).payload(&value);
            producer.send(record).map_err(|(error, _)| error).expect("queued");
            sent += 1;
        }
        producer.flush(WAIT).expect("delivered");
        drop(producer);
        broker.kill();
        broker.restart_with(&["--shards", shards]);
        let found = read_all(&broker, "moved");
        let total: usize = found.iter().map(Vec::len).sum();
        assert_eq!(total as u64, sent, "with {shards} shards");
        for records in &found {
            assert!(records.iter().enumerate().all(|(index, (offset, _))| index as i64 == *offset));
        }
    }
}

#[test]
fn what_is_left_of_a_deleted_topic_goes_and_what_no_topic_has_stays() {
    let mut broker = Broker::start();
    let id = create(&mut Raw::new(broker.connect()), "gone", 1);
    let mut raw = Raw::new(broker.connect());
    let partition = format!("{}-0", id.simple());
    let directory = broker.data_dir().join("partitions").join(&partition);
    let records = directory.join("00000000000000000000-1.tgs");
    let stranger = broker.data_dir().join("partitions/000102030405060708090a0b0c0d0e0f-0");
    let request = DeleteTopicsRequest::default()
        .with_topics(vec![DeleteTopicState::default().with_name(Some(TopicName(StrBytes::from_static_str("gone"))))]);
    let answer: DeleteTopicsResponse = raw.call(ApiKey::DeleteTopics, 6, &request);
    assert_eq!(answer.responses[0].error_code, 0);
    // As if the crash had come between the deletion and the removal of the files.
    broker.kill();
    for directory in [&directory, &stranger] {
        std::fs::create_dir_all(directory).expect("made");
    }
    std::fs::write(&records, b"records").expect("written");
    std::fs::write(stranger.join("00000000000000000000-1.tgs"), b"records").expect("written");
    broker.restart();
    assert!(!directory.exists(), "its topic was deleted");
    assert!(stranger.join("00000000000000000000-1.tgs").exists(), "nothing says that its topic was deleted");
    assert!(broker.logged().contains("000102030405060708090a0b0c0d0e0f-0"), "and it is said");
}

/// How often anything waited for the device.
fn syncs(broker: &Broker) -> f64 {
    let (_, page) = broker.get("/metrics");
    let lines = page.lines().filter(|line| line.starts_with("tidegate_sync_seconds_count"));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

#[test]
fn durability_of_a_topic_decides_whether_an_answer_waits_for_the_device() {
    let broker = Broker::start();
    create_topic(&broker, "synced", 1, &[("flush.messages", "1000000"), ("flush.ms", "1000000")]);
    create_topic(&broker, "unsynced", 1, &[("tidegate.durability", "os"), ("flush.messages", "1")]);
    let producer: FutureProducer =
        client(&broker).set("linger.ms", "0").set("acks", "all").create().expect("a producer");
    let produce = |topic: &str| {
        let before = syncs(&broker);
        for number in 0..100 {
            let value = number.to_string();
            block_on(producer.send(FutureRecord::<(), _>::to(topic).payload(&value), WAIT)).expect("delivered");
        }
        syncs(&broker) - before
    };
    // What Kafka says of `flush.messages` (durability comes from replication) is not for one replica: it weakens and strengthens nothing.
    assert!(produce("synced") >= 100.0, "each of 100 answers waited for the device");
    // Storage syncs in the background, by its own clock: where answers are slow, some of that falls between them.
    let unsynced: Vec<f64> = (0..5).map(|_| produce("unsynced")).collect();
    assert!(unsynced.iter().any(|syncs| *syncs < 50.0), "{unsynced:?} syncs for 100 answers that need none");
    assert_eq!(read(&broker, "unsynced", 1, 500)[&0].len(), 500);
}

#[test]
fn the_last_five_batches_of_a_producer_are_known_over_kill_9() {
    let mut broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    create(&mut raw, "dup", 1);
    let request = InitProducerIdRequest::default().with_transactional_id(None);
    let id: InitProducerIdResponse = raw.call(ApiKey::InitProducerId, 4, &request);
    assert_eq!(id.error_code, 0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let batch = |sequence: i32| {
        let producer = Producer {
            id: ProducerId(id.producer_id.0),
            epoch: ProducerEpoch(id.producer_epoch),
            base_sequence: Sequence(sequence),
        };
        let mut builder = BatchBuilder::new(Compression::None).with_producer(producer);
        builder.push(Timestamp(now), None, Some(sequence.to_string().as_bytes()), []);
        builder.build().0
    };
    let produce = |raw: &mut Raw, sequence: i32| {
        let data = PartitionProduceData::default().with_index(0).with_records(Some(batch(sequence)));
        let topic = TopicProduceData::default()
            .with_name(TopicName(StrBytes::from_static_str("dup")))
            .with_partition_data(vec![data]);
        let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic]);
        let answer: ProduceResponse = raw.call(ApiKey::Produce, 9, &request);
        let partition = &answer.responses[0].partition_responses[0];
        (partition.error_code, partition.base_offset)
    };
    for sequence in 0..8 {
        assert_eq!(produce(&mut raw, sequence), (0, i64::from(sequence)));
    }
    // By log and by snapshot: a clean stop writes one, a kill does not.
    for clean in [false, true] {
        if clean {
            assert!(broker.stop().success());
        } else {
            broker.kill();
        }
        broker.restart();
        raw = Raw::new(broker.connect());
        for sequence in 3..8 {
            assert_eq!(produce(&mut raw, sequence), (0, i64::from(sequence)), "a retry is told where the batch is");
        }
        // OUT_OF_ORDER_SEQUENCE_NUMBER: older than what is remembered, and newer than what comes next, as Apache Kafka answers.
        assert_eq!(produce(&mut raw, 1).0, 45);
        assert_eq!(produce(&mut raw, 20).0, 45);
    }
    assert_eq!(produce(&mut raw, 8), (0, 8));
    assert_eq!(read(&broker, "dup", 1, 9)[&0].len(), 9);
}
