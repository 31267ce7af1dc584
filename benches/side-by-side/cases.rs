//! What is measured. Each case starts on a fresh broker, warms it up, and measures over a window of time.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{
    broker::{Broker, System},
    exchange,
    load::{Load, Reader, Shape, create_topic},
    process::own_threads_cpu_seconds,
    raw,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Case {
    /// 100 B records, one partition, acks=1.
    Small,
    /// 1 KiB records, 12 partitions, acks=all.
    Large,
    /// 1,000 partitions, batches of 10 records of 100 B, acks=all.
    ManyPartitions,
    /// 5,000 records of 1 KiB a second, 12 partitions, acks=all, linger 0.
    Steady,
    /// A consumer reads a million records of 1 KiB.
    Backlog,
    /// 1 KiB records, 12 partitions, acks=all, and a consumer at their tail.
    Together,
    /// Keyed records of 100 B, 12 partitions, acks=all, as [`Case::Routed`] without the router.
    Unrouted,
    /// The same through a router of 100 topic patterns over 10 topics.
    Routed,
    /// Keyed messages of 100 B through a topic exchange of 100 bindings to 10 durable queues, confirmed, consumed and acknowledged; in
    /// Tidegate a router of the same bindings to 10 topics, read by a consumer group.
    Exchange,
    /// Ready-made requests: 100 batches of 1 KiB to 1,000 partitions in each, as many as are acknowledged.
    LimitBatches,
    /// Ready-made requests: 100,000 batches of 1 KiB a second over 1,000 partitions.
    LimitSteady,
    /// Ready-made requests: batches of 256 KiB to 64 partitions.
    LimitBytes,
}

impl Case {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Small => "100 B records, 1 partition, acks=1",
            Self::Large => "1 KiB records, 12 partitions, acks=all",
            Self::ManyPartitions => "1,000 partitions, batches of 10 x 100 B, acks=all",
            Self::Steady => "5,000 records/s of 1 KiB, acks=all, linger 0",
            Self::Backlog => "a consumer reads a backlog of 1 KiB records, 12 partitions",
            Self::Together => "1 KiB, 12 partitions, acks=all, and a consumer",
            Self::Unrouted => "keyed records of 100 B, 12 partitions, acks=all",
            Self::Routed => "the same through 100 topic patterns to 10 topics",
            Self::Exchange => "100 B through 100 bindings to 10 queues, consumed and acknowledged",
            Self::LimitBatches => "limit: 1 KiB batches over 1,000 partitions",
            Self::LimitSteady => "limit: 100,000 batches/s of 1 KiB, 1,000 partitions",
            Self::LimitBytes => "limit: 256 KiB batches, 64 partitions",
        }
    }

    /// The brokers that it is run with.
    pub(crate) fn systems(self) -> &'static [System] {
        match self {
            Self::ManyPartitions => &[System::Tidegate, System::TidegateOs, System::Kafka, System::KafkaFlush],
            Self::Exchange => &[System::Tidegate, System::RabbitMq],
            Self::LimitBatches | Self::LimitBytes | Self::LimitSteady | Self::Routed => &[System::Tidegate],
            _ => &[System::Tidegate, System::TidegateOs, System::Kafka],
        }
    }

    fn shape(self) -> Shape {
        let shape = |record_bytes, partitions, acks| Shape {
            record_bytes,
            partitions,
            acks,
            linger_ms: 5,
            batch_bytes: 65_536,
            batch_records: 10_000,
            keyed: false,
        };
        match self {
            Self::Small => shape(100, 1, "1"),
            Self::ManyPartitions => Shape { batch_records: 10, ..shape(100, 1_000, "all") },
            Self::Exchange => Shape { keyed: true, linger_ms: 20, batch_bytes: 1_000_000, ..shape(100, 1, "all") },
            Self::Unrouted | Self::Routed => Shape { keyed: true, ..shape(100, 12, "all") },
            Self::Steady => Shape { linger_ms: 0, ..shape(1_024, 12, "all") },
            _ => shape(1_024, 12, "all"),
        }
    }
}

/// The figures of one run, by name; what they are is in `FIGURES`.
pub(crate) type Figures = BTreeMap<String, f64>;

/// A figure's name, its unit, and whether more is better.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) more_is_better: bool,
}

pub(crate) const FIGURES: [Figure; 10] = [
    Figure { name: "records/s", more_is_better: true },
    Figure { name: "MB/s", more_is_better: true },
    Figure { name: "CPU s/M records", more_is_better: false },
    Figure { name: "CPU s/GB", more_is_better: false },
    Figure { name: "p50 ms", more_is_better: false },
    Figure { name: "p99 ms", more_is_better: false },
    Figure { name: "p99.9 ms", more_is_better: false },
    Figure { name: "peak MiB", more_is_better: false },
    Figure { name: "load CPU s/M records", more_is_better: false },
    Figure { name: "busiest load thread", more_is_better: false },
];

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Durations {
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
    /// How many records the backlog has.
    pub(crate) backlog: u64,
}

pub(crate) const TOPIC: &str = "side-by-side";

/// Runs `case` against a fresh `broker`.
pub(crate) fn run(case: Case, broker: &mut Broker, durations: Durations) -> Result<Figures> {
    let shape = case.shape();
    let figures = match case {
        Case::Small | Case::Large | Case::ManyPartitions | Case::Unrouted => flat_out(broker, shape, durations),
        Case::Routed => routed(broker, shape, durations),
        Case::Exchange if broker.system == System::RabbitMq => {
            exchange::rabbitmq(broker, shape.record_bytes, durations)
        }
        Case::Exchange => exchange::tidegate(broker, shape, durations),
        Case::Steady => steady(broker, shape, durations),
        Case::Backlog => backlog(broker, shape, durations),
        Case::Together => together(broker, shape, durations),
        Case::LimitBatches => limit(broker, raw::SMALL, None, durations),
        Case::LimitSteady => limit(broker, raw::SMALL, Some(100_000), durations),
        Case::LimitBytes => limit(broker, raw::LARGE, None, durations),
    };
    broker.process.check_alive()?;
    let mut figures = figures?;
    figures.insert("peak MiB".into(), broker.process.peak_memory_bytes()? as f64 / (1 << 20) as f64);
    Ok(figures)
}

/// What was done in a window, and what it cost.
pub(crate) struct Window {
    began: Instant,
    cpu: f64,
    records: u64,
    /// Of the load generator's threads: one that has a core to itself is what limits a case, whatever the broker could do.
    threads: BTreeMap<String, f64>,
}

impl Window {
    pub(crate) fn open(broker: &Broker, records: u64) -> Result<Self> {
        Ok(Self {
            began: Instant::now(),
            cpu: broker.process.cpu_seconds()?,
            records,
            threads: own_threads_cpu_seconds()?,
        })
    }

    pub(crate) fn close(self, broker: &Broker, records: u64, record_bytes: usize) -> Result<Figures> {
        let seconds = self.began.elapsed().as_secs_f64();
        let cpu = broker.process.cpu_seconds()? - self.cpu;
        let records = (records - self.records) as f64;
        let bytes = records * record_bytes as f64;
        let threads = own_threads_cpu_seconds()?;
        let busy = |(thread, now): (&String, &f64)| now - self.threads.get(thread).copied().unwrap_or_default();
        let busiest = threads.iter().map(busy).fold(0.0, f64::max);
        let load: f64 = threads.iter().map(busy).sum();
        Ok(Figures::from([
            ("records/s".into(), records / seconds),
            ("MB/s".into(), bytes / seconds / 1e6),
            ("CPU s/M records".into(), cpu / records * 1e6),
            ("CPU s/GB".into(), cpu / bytes * 1e9),
            ("load CPU s/M records".into(), load / records * 1e6),
            ("busiest load thread".into(), busiest / seconds),
        ]))
    }
}

fn flat_out(broker: &Broker, shape: Shape, durations: Durations) -> Result<Figures> {
    create_topic(&broker.bootstrap, TOPIC, shape.partitions)?;
    let mut load = Load::new(&broker.bootstrap, TOPIC, shape)?;
    load.flat_out(durations.warm_up)?;
    let window = Window::open(broker, load.acknowledged())?;
    load.flat_out(durations.window)?;
    // What is still under way is not waited for: a slow broker may need minutes for it.
    window.close(broker, load.acknowledged(), shape.record_bytes)
}

/// As [`flat_out`], with a router before it. Each record matches one of its patterns.
fn routed(broker: &Broker, shape: Shape, durations: Durations) -> Result<Figures> {
    exchange::bind(broker, TOPIC, shape.partitions)?;
    let mut load = Load::new(&broker.bootstrap, TOPIC, shape)?;
    load.flat_out(durations.warm_up)?;
    let window = Window::open(broker, load.acknowledged())?;
    load.flat_out(durations.window)?;
    window.close(broker, load.acknowledged(), shape.record_bytes)
}

fn steady(broker: &Broker, shape: Shape, durations: Durations) -> Result<Figures> {
    const PER_SECOND: u64 = 5_000;
    create_topic(&broker.bootstrap, TOPIC, shape.partitions)?;
    let mut load = Load::new(&broker.bootstrap, TOPIC, shape)?;
    load.paced(PER_SECOND, durations.warm_up, false)?;
    let window = Window::open(broker, load.acknowledged())?;
    load.paced(PER_SECOND, durations.window, true)?;
    let mut figures = window.close(broker, load.acknowledged(), shape.record_bytes)?;
    latencies(&mut figures, &load.latency());
    Ok(figures)
}

fn latencies(figures: &mut Figures, latency: &Histogram<u64>) {
    for (name, quantile) in [("p50 ms", 0.5), ("p99 ms", 0.99), ("p99.9 ms", 0.999)] {
        figures.insert(name.into(), latency.value_at_quantile(quantile) as f64 / 1e3);
    }
}

fn backlog(broker: &Broker, shape: Shape, durations: Durations) -> Result<Figures> {
    create_topic(&broker.bootstrap, TOPIC, shape.partitions)?;
    Load::new(&broker.bootstrap, TOPIC, shape)?.send_all(durations.backlog)?;
    let mut reader = Reader::new(&broker.bootstrap, TOPIC, shape.partitions)?;
    // The half second in which librdkafka finds its way to the partitions says nothing of a broker.
    reader.read_to(1)?;
    let window = Window::open(broker, reader.records)?;
    reader.read_to(durations.backlog)?;
    window.close(broker, reader.records, shape.record_bytes)
}

/// A producer and a consumer at once; the figures are the consumer's, since what is not read yet is not done.
fn together(broker: &Broker, shape: Shape, durations: Durations) -> Result<Figures> {
    create_topic(&broker.bootstrap, TOPIC, shape.partitions)?;
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let reading = {
        let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
        let mut reader = Reader::new(&broker.bootstrap, TOPIC, shape.partitions)?;
        thread::spawn(move || reader.read_until(&stop, &count))
    };
    let produced = (|| {
        let mut load = Load::new(&broker.bootstrap, TOPIC, shape)?;
        load.flat_out(durations.warm_up)?;
        let window = Window::open(broker, count.load(Ordering::Relaxed))?;
        load.flat_out(durations.window)?;
        window.close(broker, count.load(Ordering::Relaxed), shape.record_bytes)
    })();
    stop.store(true, Ordering::Relaxed);
    reading.join().map_err(|_| anyhow!("the reading thread panicked"))??;
    produced
}

/// Figures of ready-made requests: a "record" is here a batch, which holds one.
fn limit(broker: &Broker, shape: raw::Shape, per_second: Option<u64>, durations: Durations) -> Result<Figures> {
    create_topic(&broker.bootstrap, TOPIC, shape.partitions)?;
    let flood = raw::Flood::start(&broker.bootstrap, TOPIC, shape, per_second)?;
    thread::sleep(durations.warm_up);
    flood.check()?;
    if per_second.is_some() {
        flood.settle()?;
    }
    flood.time_from_now();
    let window = Window::open(broker, flood.acknowledged())?;
    thread::sleep(durations.window);
    let mut figures = window.close(broker, flood.acknowledged(), shape.batch_bytes)?;
    latencies(&mut figures, &flood.stop()?);
    Ok(figures)
}
