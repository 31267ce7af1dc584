//! The load: librdkafka, in this process, the same for every broker.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures_lite::future::block_on;
use hdrhistogram::Histogram;
use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
};

/// What a producer sends, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) record_bytes: usize,
    pub(crate) partitions: i32,
    /// librdkafka's `acks`.
    pub(crate) acks: &'static str,
    pub(crate) linger_ms: u32,
    /// librdkafka's `batch.size`, in bytes.
    pub(crate) batch_bytes: u32,
    /// librdkafka's `batch.num.messages`.
    pub(crate) batch_records: u32,
    /// Whether records have keys of four words, the second of them one of [`KEY_WORDS`].
    pub(crate) keyed: bool,
}

/// Second words of keys, numbers from 0.
pub(crate) const KEY_WORDS: usize = 100;

/// How long a consumer waits whose queue is full. librdkafka's own second would be what is measured, with any broker that fills the queue.
const QUEUE_BACKOFF_MS: &str = "5";

/// What is counted while records are acknowledged.
struct Deliveries {
    acknowledged: AtomicU64,
    refused: AtomicU64,
    first_refusal: Mutex<Option<KafkaError>>,
    /// Whether latencies are counted now; off while it warms up.
    timed: AtomicBool,
    origin: Instant,
    /// From when a record was due to its acknowledgement, in microseconds.
    latency: Mutex<Histogram<u64>>,
}

impl Deliveries {
    fn new() -> Self {
        Self {
            acknowledged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            first_refusal: Mutex::new(None),
            timed: AtomicBool::new(false),
            origin: Instant::now(),
            latency: Mutex::new(Histogram::new_with_bounds(1, 120_000_000, 3).expect("these bounds are valid")),
        }
    }

    fn check(&self) -> Result<()> {
        if let Some(error) = self.first_refusal.lock().expect("no thread panics with it").clone() {
            bail!("{} records were refused, the first with: {error}", self.refused.load(Ordering::Relaxed));
        }
        Ok(())
    }
}

#[derive(Clone)]
struct Counting(Arc<Deliveries>);

impl ClientContext for Counting {}

impl ProducerContext for Counting {
    /// When the record was due, in nanoseconds since the origin; 0 if its latency does not count.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, due: usize) {
        match result {
            Ok(_) => {
                self.0.acknowledged.fetch_add(1, Ordering::Relaxed);
                if due != 0 && self.0.timed.load(Ordering::Relaxed) {
                    let took = self.0.origin.elapsed().saturating_sub(Duration::from_nanos(due as u64));
                    let mut latency = self.0.latency.lock().expect("no thread panics with it");
                    latency.saturating_record(took.as_micros() as u64);
                }
            }
            Err((error, _)) => {
                self.0.refused.fetch_add(1, Ordering::Relaxed);
                self.0.first_refusal.lock().expect("no thread panics with it").get_or_insert(error.clone());
            }
        }
    }
}

/// A producer of records that are all alike but for their bytes.
pub(crate) struct Load {
    producer: BaseProducer<Counting>,
    deliveries: Arc<Deliveries>,
    shape: Shape,
    topic: String,
    payloads: Vec<Vec<u8>>,
    keys: Vec<String>,
    sent: u64,
}

impl Load {
    pub(crate) fn new(bootstrap: &str, topic: &str, shape: Shape) -> Result<Self> {
        let deliveries = Arc::new(Deliveries::new());
        let producer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("acks", shape.acks)
            .set("linger.ms", shape.linger_ms.to_string())
            .set("batch.size", shape.batch_bytes.to_string())
            .set("batch.num.messages", shape.batch_records.to_string())
            .set("queue.buffering.max.messages", "100000")
            .set("message.timeout.ms", "600000")
            .set("socket.nagle.disable", "true")
            .create_with_context(Counting(Arc::clone(&deliveries)))?;
        Ok(Self {
            producer,
            deliveries,
            shape,
            topic: topic.to_owned(),
            payloads: payloads(shape.record_bytes),
            keys: keys(),
            sent: 0,
        })
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.deliveries.acknowledged.load(Ordering::Relaxed)
    }

    /// Sends as fast as acknowledgements come back, for `time`.
    pub(crate) fn flat_out(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            for _ in 0..256 {
                self.send(0)?;
            }
            self.producer.poll(Duration::ZERO);
            self.deliveries.check()?;
        }
        Ok(())
    }

    /// Sends `records` as fast as acknowledgements come back, and waits for the last.
    pub(crate) fn send_all(&mut self, records: u64) -> Result<()> {
        for sent in 0..records {
            self.send(0)?;
            if sent.is_multiple_of(256) {
                self.producer.poll(Duration::ZERO);
            }
        }
        self.finish()
    }

    /// Sends `per_second` records a second for `time`; each is due at its own moment, and late ones count from when they were due.
    pub(crate) fn paced(&mut self, per_second: u64, time: Duration, timed: bool) -> Result<()> {
        self.deliveries.timed.store(timed, Ordering::Relaxed);
        let start = self.deliveries.origin.elapsed();
        let step = Duration::from_nanos(1_000_000_000 / per_second);
        let mut due = start;
        while due < start + time {
            while due <= self.deliveries.origin.elapsed() {
                self.send(due.as_nanos() as usize)?;
                due += step;
            }
            let rest = due.saturating_sub(self.deliveries.origin.elapsed());
            self.producer.poll(rest.min(Duration::from_millis(1)));
            self.deliveries.check()?;
        }
        self.finish()
    }

    /// Waits until everything is acknowledged.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.producer.flush(Duration::from_secs(60)).context("waiting for the last acknowledgements")?;
        self.deliveries.check()
    }

    /// The latencies of what `paced` timed, in microseconds.
    pub(crate) fn latency(&self) -> Histogram<u64> {
        self.deliveries.latency.lock().expect("no thread panics with it").clone()
    }

    fn send(&mut self, due: usize) -> Result<()> {
        let partition = (self.sent % self.shape.partitions as u64) as i32;
        let payload = &self.payloads[self.sent as usize % self.payloads.len()];
        let mut record =
            BaseRecord::<str, [u8], usize>::with_opaque_to(&self.topic, due).partition(partition).payload(payload);
        if self.shape.keyed {
            record = record.key(&self.keys[self.sent as usize % self.keys.len()]);
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    self.producer.poll(Duration::from_millis(5));
                    record = back;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        self.sent += 1;
        Ok(())
    }
}

/// Keys of four words: `eu.7.order.1`.
pub(crate) fn keys() -> Vec<String> {
    (0..1_000).map(|key| format!("eu.{}.order.{key}", key * 7 % KEY_WORDS)).collect()
}

/// A few hundred different payloads of letters and digits, so that no layer sees the same bytes again and again.
pub(crate) fn payloads(bytes: usize) -> Vec<Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b"abcdefghijklmnopqrstuvwxyz0123456789"[(state % 36) as usize]
    };
    (0..499).map(|_| (0..bytes).map(|_| next()).collect()).collect()
}

/// Creates a topic of one replica.
pub(crate) fn create_topic(bootstrap: &str, topic: &str, partitions: i32) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    let wait = AdminOptions::new().operation_timeout(Some(Duration::from_secs(60)));
    let topics = [NewTopic::new(topic, partitions, TopicReplication::Fixed(1))];
    for result in block_on(admin.create_topics(&topics, &wait))? {
        result.map_err(|(topic, code)| anyhow::anyhow!("creating {topic}: {code}"))?;
    }
    // Its leaders are known to clients a moment later.
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    let asked = Instant::now();
    loop {
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?;
        let led = metadata.topics().first().is_some_and(|topic| {
            topic.error().is_none()
                && topic.partitions().len() == partitions as usize
                && topic.partitions().iter().all(|partition| partition.leader() >= 0)
        });
        if led {
            return Ok(());
        }
        if asked.elapsed() > Duration::from_secs(60) {
            bail!("the partitions of {topic} have no leaders after a minute");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Reads a topic from its beginning, without a group.
pub(crate) struct Reader {
    consumer: BaseConsumer,
    topic: String,
    pub(crate) records: u64,
}

impl Reader {
    pub(crate) fn new(bootstrap: &str, topic: &str, partitions: i32) -> Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "side-by-side")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "100")
            .set("fetch.queue.backoff.ms", QUEUE_BACKOFF_MS)
            .create()?;
        let mut all = TopicPartitionList::new();
        for partition in 0..partitions {
            all.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&all)?;
        Ok(Self { consumer, topic: topic.to_owned(), records: 0 })
    }

    /// Reads several topics as a member of a group, from their beginnings, and commits what it has read every second.
    pub(crate) fn in_group(bootstrap: &str, topics: &[String]) -> Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "side-by-side")
            .set("auto.offset.reset", "earliest")
            .set("auto.commit.interval.ms", "1000")
            .set("fetch.min.bytes", "100000")
            .set("fetch.wait.max.ms", "100")
            .set("fetch.queue.backoff.ms", QUEUE_BACKOFF_MS)
            .create()?;
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer.subscribe(&names)?;
        Ok(Self { consumer, topic: topics.join(", "), records: 0 })
    }

    /// Reads until `records` have come in all.
    pub(crate) fn read_to(&mut self, records: u64) -> Result<()> {
        let mut last = Instant::now();
        while self.records < records {
            if self.read(Duration::from_millis(100))? {
                last = Instant::now();
            } else if last.elapsed() > Duration::from_secs(60) {
                bail!("{} stopped at {} of {records} records", self.topic, self.records);
            }
        }
        Ok(())
    }

    /// Reads until told to stop.
    pub(crate) fn read_until(&mut self, stop: &AtomicBool, count: &AtomicU64) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.read(Duration::from_millis(50))?;
            count.store(self.records, Ordering::Relaxed);
        }
        Ok(())
    }

    fn read(&mut self, wait: Duration) -> Result<bool> {
        match self.consumer.poll(wait) {
            None => Ok(false),
            Some(message) => {
                let message = message?;
                std::hint::black_box(message.payload().map(<[u8]>::len));
                self.records += 1;
                Ok(true)
            }
        }
    }
}
