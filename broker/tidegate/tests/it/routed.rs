//! Exactly once, and in order, through a router: to every destination, over crashes, lost answers, refusals and a full disk.

use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kafka_protocol::{
    messages::{
        ApiKey, ProduceRequest, ProduceResponse, TopicName,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::StrBytes,
};
use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    message::DeliveryResult,
    producer::{BaseRecord, FutureProducer, FutureRecord, Producer as _, ProducerContext, ThreadedProducer},
};
use tidegate_plugin_host::build::{Profile, Progress, build_component};
use tidegate_records::{
    batch::Compression,
    build::{self, BatchBuilder},
    ids::{ProducerEpoch, ProducerId, Sequence},
    split::with_producer,
    time::Timestamp,
};

use crate::{
    broker::Broker,
    faults::now_ms,
    librdkafka::{WAIT, block_on, client, create_topic},
    proxy::Proxy,
    raw::Raw,
    volume::Volume,
};

const PARTITIONS: u64 = 12;
const DESTINATIONS: [&str; 3] = ["one", "two", "three"];
/// Enough for a machine that does other things; the tests of limits have their own.
const SETTINGS: &str = "\"plugin.deadline.ms\" = 5000\n";

/// The router that does what it is told, and a partitioner: their files.
pub(crate) static PLUGINS: LazyLock<[String; 2]> = LazyLock::new(|| {
    ["broker/plugin-host/tests/guests/router", "plugins/partitioner-murmur2"].map(|folder| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
        let built =
            build_component(&folder, Profile::Release, Progress::Quiet).unwrap_or_else(|error| panic!("{error}"));
        built.path.to_str().expect("a path of text").to_owned()
    })
});

pub(crate) fn deploy(broker: &Broker, name: &str, file: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = command.args(["plugin", "deploy", name, file, "--admin", &broker.admin]).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Deploys the router that does what it is told, and creates the topics that it names when it is opened.
pub(crate) fn deploy_router(broker: &Broker, name: &str) {
    deploy(broker, name, &PLUGINS[0]);
    DESTINATIONS.into_iter().for_each(|topic| create_topic(broker, topic, 1, &[]));
}

/// The topics, and the router with its order.
fn prepare(broker: &Broker, order: &str) {
    deploy(broker, "router", &PLUGINS[0]);
    deploy(broker, "murmur2", &PLUGINS[1]);
    let partitions = PARTITIONS as i32;
    for topic in ["one", "two"] {
        create_topic(broker, topic, partitions, &[]);
    }
    create_topic(broker, "three", partitions, &[("tidegate.partitioner", "murmur2")]);
    create_topic(broker, "source", partitions, &[("tidegate.router", "router"), ("tidegate.router.config", order)]);
}

/// Where the router sends a number: see `scatter` in `broker/plugin-host/tests/guests/router`.
fn destinations(number: u64) -> &'static [&'static str] {
    match number % 4 {
        0 => &["one"],
        1 => &["one", "two"],
        2 => &["two", "three"],
        _ => &["one", "three"],
    }
}

/// The partition of `source` that a number is sent to.
fn sent_to(number: u64) -> u64 {
    number / 4 % PARTITIONS
}

#[derive(Clone, Default)]
struct Counts {
    acknowledged: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl ClientContext for Counts {}

impl ProducerContext for Counts {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => &self.acknowledged,
            Err((error, _)) => {
                eprintln!("not delivered: {error}");
                &self.failed
            }
        }
        .fetch_add(1, Ordering::SeqCst);
    }
}

/// Numbers of the second producer begin here, those of the third at twice as many, and so on.
const NUMBERS_OF_A_PRODUCER: u64 = 1_000_000;

struct Producer {
    inner: ThreadedProducer<Counts>,
    counts: Counts,
    first: u64,
    sent: u64,
}

impl Producer {
    fn new(address: &str) -> Self {
        Self::numbered(address, 0)
    }

    fn numbered(address: &str, producer: u64) -> Self {
        let counts = Counts::default();
        let inner = ClientConfig::new()
            .set("bootstrap.servers", address)
            .set("enable.idempotence", "true")
            .set("linger.ms", "1")
            .set("batch.num.messages", "40")
            .set("message.timeout.ms", "300000")
            .set("retry.backoff.ms", "20")
            .set("reconnect.backoff.ms", "10")
            .set("reconnect.backoff.max.ms", "100")
            .create_with_context(counts.clone())
            .expect("a producer");
        Self { inner, counts, first: producer * NUMBERS_OF_A_PRODUCER, sent: 0 }
    }

    fn send(&mut self) {
        let number = self.first + self.sent;
        let partition = sent_to(number) as i32;
        let number = number.to_string();
        let record = BaseRecord::to("source").partition(partition).key(&number).payload(&number);
        match self.inner.send(record) {
            Ok(()) => self.sent += 1,
            Err(_) => std::thread::yield_now(),
        }
    }

    /// Of the records that were sent, how many were acknowledged. None may have failed.
    fn acknowledged(&self) -> u64 {
        assert_eq!(self.counts.failed.load(Ordering::SeqCst), 0, "records were refused for good");
        self.counts.acknowledged.load(Ordering::SeqCst)
    }

    fn finish(&self) {
        self.inner.flush(Duration::from_secs(300)).expect("everything is delivered in the end");
        assert_eq!(self.acknowledged(), self.sent);
    }
}

/// The values of each partition, in order.
fn read_all(address: &str, topic: &str) -> Vec<Vec<u64>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address).set("group.id", "unused").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS as i32 {
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&list).expect("assigned");
    let mut found = vec![Vec::new(); PARTITIONS as usize];
    let mut ended = 0;
    while ended < PARTITIONS {
        match consumer.poll(WAIT).expect("records or their end") {
            Ok(message) => {
                let value = std::str::from_utf8(message.payload().expect("a value")).expect("digits");
                found[message.partition() as usize].push(value.parse().expect("a number"));
            }
            Err(KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => panic!("{error}"),
        }
    }
    found
}

/// Each number that was sent is once in each of its destinations, and where two of one partition of `source` meet again, they are in the
/// order in which they were sent. `sent`: how many numbers each producer has sent.
fn assert_exactly_once_in_order(address: &str, sent: &[u64]) {
    for topic in DESTINATIONS {
        let mut times: BTreeMap<u64, u64> = BTreeMap::new();
        for (partition, values) in read_all(address, topic).iter().enumerate() {
            let mut last: BTreeMap<(u64, u64), u64> = BTreeMap::new();
            for value in values {
                *times.entry(*value).or_default() += 1;
                if let Some(before) = last.insert((value / NUMBERS_OF_A_PRODUCER, sent_to(*value)), *value) {
                    assert!(before < *value, "{topic}-{partition}: {value} comes after {before}");
                }
            }
        }
        let numbers = sent.iter().zip(0..).flat_map(|(sent, producer)| {
            let first = producer * NUMBERS_OF_A_PRODUCER;
            first..first + sent
        });
        for number in numbers.filter(|number| destinations(*number).contains(&topic)) {
            let found = times.remove(&number).unwrap_or(0);
            assert_eq!(found, 1, "{number} is in {topic} {found} times");
        }
        assert!(times.is_empty(), "{topic} has what was not sent to it: {times:?}");
    }
}

/// Hundreds of answers are lost, and the broker is killed dozens of times while it routes, also between the parts of a batch.
#[test]
fn kill_9_and_lost_answers_lose_and_double_nothing_at_any_destination() {
    // More by hand: TIDEGATE_KILLS=100.
    let kills = std::env::var("TIDEGATE_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(24_u64);
    const LOST: u64 = 300;
    let proxy = Proxy::start();
    let mut broker = Broker::start_configured(SETTINGS, &["--shards", "3", "--advertise", &proxy.address], None);
    proxy.pass_on_to(&broker.kafka);
    prepare(&broker, "scatter");
    let mut producers = [0, 1, 2, 3].map(|producer| Producer::numbered(&proxy.address, producer));
    // Until each of them has got so many more answers: whatever goes wrong, it goes on.
    let send = |producers: &mut [Producer], more: u64| {
        let until: Vec<u64> = producers.iter().map(|producer| producer.acknowledged() + more).collect();
        while producers.iter().zip(&until).any(|(producer, until)| producer.acknowledged() < *until) {
            // What is on its way is enough, and not more than has to be read again in the end.
            for producer in producers.iter_mut().filter(|producer| producer.sent < producer.acknowledged() + 2_000) {
                producer.send();
            }
        }
    };
    for kill in 0..kills {
        proxy.lose(if kill % 2 == 0 { 10 } else { 0 });
        send(&mut producers, 100 + 70 * (kill % 5));
        broker.kill();
        broker.restart();
    }
    proxy.lose(8);
    while proxy.lost() < LOST {
        send(&mut producers, 100);
    }
    producers.iter().for_each(Producer::finish);
    proxy.lose(0);
    let sent = producers.map(|producer| producer.sent);
    assert_exactly_once_in_order(&proxy.address, &sent);
    broker.kill();
    broker.restart();
    assert_exactly_once_in_order(&proxy.address, &sent);
}

/// A router that does not want the first batch now and takes the one behind it: were that one appended, the retry of the first would be out
/// of order for good.
#[test]
fn a_batch_that_is_not_routed_now_holds_back_those_behind_it() {
    let broker = Broker::start_configured(SETTINGS, &["--shards", "1"], None);
    // It refuses its first call, its fourth, and so on.
    prepare(&broker, "scatter-sometimes");
    let mut raw = Raw::new(broker.connect());
    let request = |sequence: i32| {
        let mut builder = BatchBuilder::new(Compression::None);
        // The key is one that goes to the topic "one" alone.
        builder.push(Timestamp(now_ms()), Some(b"0"), Some(sequence.to_string().as_bytes()), []);
        let (bytes, header) = builder.build();
        let producer =
            build::Producer { id: ProducerId(1), epoch: ProducerEpoch(0), base_sequence: Sequence(sequence) };
        let (bytes, _) = with_producer(&bytes, &header, Some(producer));
        let data = PartitionProduceData::default().with_index(0).with_records(Some(bytes));
        let topic = TopicProduceData::default()
            .with_name(TopicName(StrBytes::from_static_str("source")))
            .with_partition_data(vec![data]);
        ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic])
    };
    // In one go, as clients with several requests in flight do.
    let mut produce = |sequences: &[i32]| -> Vec<i16> {
        let first = raw.send_all(ApiKey::Produce, 9, sequences.iter().map(|sequence| request(*sequence)));
        let answers: Vec<ProduceResponse> =
            (0..sequences.len()).map(|at| raw.receive_numbered(ApiKey::Produce, 9, first + at as i32)).collect();
        answers.iter().map(|answer| answer.responses[0].partition_responses[0].error_code).collect()
    };
    const NOT_NOW: i16 = 7;
    const OUT_OF_ORDER: i16 = 45;
    assert_eq!(produce(&[0, 1, 2]), [NOT_NOW, OUT_OF_ORDER, OUT_OF_ORDER]);
    // What is held back is not asked about, so the second call is the retry's.
    assert_eq!(produce(&[0, 1]), [0, 0]);
    assert_eq!(produce(&[2, 3]), [NOT_NOW, OUT_OF_ORDER]);
    assert_eq!(produce(&[2, 3]), [0, 0]);
    assert_eq!(read_all(&broker.kafka, "one")[0], [0, 1, 2, 3]);
}

/// Fills what the shards' journals have left, so that single parts are refused.
fn use_up_the_room(broker: &Broker) {
    create_topic(broker, "ballast", PARTITIONS as i32, &[]);
    let producer: FutureProducer =
        client(broker).set("retries", "0").set("enable.idempotence", "false").create().expect("a producer");
    let value = "x".repeat(100_000);
    for partition in 0..PARTITIONS as i32 {
        let record = || FutureRecord::<(), str>::to("ballast").partition(partition).payload(&value);
        while block_on(producer.send(record(), WAIT)).is_ok() {}
    }
}

/// How many produce requests were answered.
fn produce_requests(broker: &Broker) -> u64 {
    let page = broker.get("/metrics").1;
    let of_produce =
        page.lines().filter(|line| line.starts_with("tidegate_requests_total{") && line.contains("\"Produce\""));
    of_produce.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

/// A destination without room refuses its part, while others have taken theirs; then there is room again.
#[test]
fn parts_that_a_full_disk_refuses_are_taken_later_and_in_order() {
    for volume in Volume::all(96) {
        eprintln!("on {:?}", volume.kind);
        let broker = Broker::start_configured(SETTINGS, &["--shards", "3"], Some(volume));
        prepare(&broker, "scatter");
        let mut producer = Producer::new(&broker.kafka);
        while producer.sent < 1_000 {
            producer.send();
        }
        producer.finish();
        broker.volume().fill(0);
        use_up_the_room(&broker);
        let answered = produce_requests(&broker);
        for _ in 0..2_000 {
            producer.send();
        }
        // Refused, and sent again, a few times.
        while produce_requests(&broker) < answered + 50 {
            std::thread::yield_now();
        }
        broker.volume().make_room();
        producer.finish();
        assert_exactly_once_in_order(&broker.kafka, &[producer.sent]);
    }
}

/// Versions of a router change while batches are on their way: each batch is routed by one of them, and none is lost.
#[test]
fn swaps_and_rollbacks_under_load_lose_and_double_nothing() {
    let broker = Broker::start_configured(SETTINGS, &["--shards", "3"], None);
    prepare(&broker, "scatter");
    // The same program with an empty custom section: another hash, the same answers.
    let mut component = std::fs::read(&PLUGINS[0]).expect("it is built");
    component.extend(b"\0\x05\x04more");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let other = folder.path().join("other.wasm");
    std::fs::write(&other, component).expect("written");
    let mut producer = Producer::new(&broker.kafka);
    for swap in 0..6 {
        let until = producer.sent + 3_000;
        while producer.sent < until {
            producer.send();
        }
        if swap == 0 {
            deploy(&broker, "router", other.to_str().expect("a path of text"));
        } else {
            let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
            let output = command.args(["plugin", "rollback", "router", "--admin", &broker.admin]).output();
            let output = output.expect("it runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    for _ in 0..3_000 {
        producer.send();
    }
    producer.finish();
    assert_exactly_once_in_order(&broker.kafka, &[producer.sent]);
    let (_, described) = broker.get("/v1/plugins/router");
    assert!(described.contains("\"version\":7"), "{described}");
}
