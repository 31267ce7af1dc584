//! The same decision natively and in the sandbox: what a plugin costs beside its own code. One batch of a thousand records a call.
//!
//! `native` is the plugin's own code, compiled for this machine and called with a batch that is there; `plugin` is the component, with
//! everything that crosses its border. For murmur2 there is also the hash alone, without the SDK.

use std::{hint::black_box, path::Path};

use bytes::Bytes;
use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use partitioner_murmur2::murmur2;
use tidegate_plugin_host::{
    AckHook, Compiled, Context, Engine, EngineConfig, Filter, Limits, Partitioner, Retention, Router, TopicInfo,
    ack::{Acks, Arrival, Replica},
    build::{Profile, Progress, build_component},
    compile,
    retention::{PartitionLog, Reader, Segment},
};
use tidegate_records::{
    batch::{BatchHeader, Compression, HEADER_BYTES},
    build::BatchBuilder,
    columns::{Column, Columns, Wanted, columns},
    time::Timestamp,
};
use tidegate_sdk::testkit::{self, TestRecord, open_partitioner, open_router};

const RECORDS: usize = 1_000;
const TOPIC: TopicInfo<'static> = TopicInfo { name: "bench", partitions: 12 };
const CONTEXT: [Context<'static>; 1] =
    [Context { end: RECORDS as u32, now: Timestamp(0), seed: 1, principal: None, client_id: None }];
/// Headers that one plugin or another looks at.
const HEADERS: [(&str, &str); 5] =
    [("region", "eu"), ("severity", "error"), ("format", "pdf"), ("tenant", "acme"), ("owner", "shop")];

fn key(number: usize) -> String {
    format!("eu.w{}.order", number % 100)
}

fn value(number: usize) -> String {
    format!(r#"{{"id":{number},"region":"eu","order":{{"total":{}}}}}"#, number * 7 % 3_000)
}

fn batch() -> (Bytes, BatchHeader) {
    let mut builder = BatchBuilder::new(Compression::None);
    for number in 0..RECORDS {
        let headers = HEADERS.map(|(name, value)| (name.as_bytes(), Some(value.as_bytes())));
        let timestamp = Timestamp(1_700_000_000_000 + number as i64);
        builder.push(timestamp, Some(key(number).as_bytes()), Some(value(number).as_bytes()), headers);
    }
    builder.build()
}

/// The same records for plugins that run natively.
fn records() -> Vec<TestRecord> {
    let record = |number| {
        let record =
            testkit::record().key(key(number)).value(value(number)).timestamp(1_700_000_000_000 + number as i64);
        HEADERS.iter().fold(record, |record, (name, value)| record.header(name, value))
    };
    (0..RECORDS).map(record).collect()
}

struct Bench<'a> {
    engine: Engine,
    limits: Limits,
    batch: (Bytes, BatchHeader),
    records: Vec<TestRecord>,
    group: BenchmarkGroup<'a, WallTime>,
}

/// Nobody ticks the engine's clock here, so that no deadline comes.
pub(crate) fn sandbox(criterion: &mut Criterion) {
    let engine = Engine::new(&EngineConfig::default()).expect("an engine");
    let mut group = criterion.benchmark_group("1,000 records");
    group.throughput(Throughput::Elements(RECORDS as u64));
    let mut bench = Bench { engine, limits: Limits::default(), batch: batch(), records: records(), group };
    bench.hash_alone();

    let (topic, direct) = (bindings("pattern", "*.w{}.#"), bindings("key", "eu.w{}.order"));
    bench.router::<router_topic::TopicRouter>("router-topic", Some(&topic));
    bench.router::<router_direct::DirectRouter>("router-direct", Some(&direct));
    bench.router::<router_fanout::FanoutRouter>("router-fanout", None);
    bench.router::<router_headers::HeadersRouter>("router-headers", None);
    bench.router::<router_regex::RegexRouter>("router-regex", None);
    bench.router::<router_consistent_hash::ConsistentHashRouter>("router-consistent-hash", None);
    bench.router::<router_json::JsonRouter>("router-json", None);
    bench.router::<router_sample::SampleRouter>("router-sample", None);
    bench.partitioner::<partitioner_murmur2::Murmur2>("partitioner-murmur2");
    bench.partitioner::<partitioner_fnv1a::Fnv1a>("partitioner-fnv1a");
    bench.partitioner::<partitioner_crc32::Crc32>("partitioner-crc32");
    bench.partitioner::<partitioner_tenant::TenantPartitioner>("partitioner-tenant");
    ["ack-schema", "ack-policy", "ack-racks"].into_iter().for_each(|name| bench.hook(name));
    ["retention-erase-keys", "retention-tenant"].into_iter().for_each(|name| bench.filter(name));
    bench.group.finish();
}

/// What is asked about a partition of a hundred segments.
pub(crate) fn policies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("100 segments");
    let (engine, limits) = (Engine::new(&EngineConfig::default()).expect("an engine"), Limits::default());
    for name in [
        "retention-until-consumed",
        "retention-business-hours",
        "retention-tenant",
        "retention-erase-keys",
        "retention-offload",
    ] {
        policy(&mut group, &engine, &limits, name);
    }
    group.finish();
}

impl Bench<'_> {
    fn wanted(&self, wanted: &Wanted) -> Columns {
        columns(&self.batch.1, &self.batch.0[HEADER_BYTES..], wanted).expect("the batch is valid")
    }

    /// The hash of each key, and nothing else.
    fn hash_alone(&mut self) {
        fn keys(column: &Column) -> impl Iterator<Item = &[u8]> {
            column.ends.iter().scan(0, |start, end| {
                let from = std::mem::replace(start, *end as usize);
                Some(&column.data[from..*end as usize])
            })
        }
        let wanted = self.wanted(&Wanted { keys: true, ..Wanted::default() });
        let native = |batch: &Columns| -> Vec<u32> {
            let keys = keys(batch.keys.as_ref().expect("they were asked for"));
            keys.map(|key| (murmur2(key) & 0x7fff_ffff) % TOPIC.partitions).collect()
        };
        let compiled = compiled(&self.engine, "partitioner-murmur2");
        let mut plugin = Partitioner::open(&compiled, "", &self.limits).expect("it opens");
        let placed = plugin.partition(&TOPIC, &wanted, &CONTEXT).expect("it answers").partitions;
        assert_eq!(placed, native(&wanted), "the same work");
        self.group.bench_function("murmur2 the hash alone", |bencher| bencher.iter(|| native(black_box(&wanted))));
    }

    /// With the plugin's own example, unless another configuration is given.
    fn router<R: tidegate_sdk::Router>(&mut self, name: &str, config: Option<&str>) {
        let compiled = compiled(&self.engine, name);
        let config = config.map_or_else(|| example(&compiled), str::to_owned);
        let mut native = open_router::<R>(&config).expect("it opens");
        native.partitions = TOPIC.partitions;
        let prepared = native.prepare(&self.records);
        let mut plugin = Router::open(&compiled, &config, &self.limits).expect("it opens");
        let wanted = self.wanted(&plugin.needs().columns);
        let answer = plugin.route(&TOPIC, &wanted, &CONTEXT).expect("it answers");
        let count: usize = (0..RECORDS).map(|record| answer.routes.of_record(record).count()).sum();
        assert_eq!(native.route_prepared(&prepared).expect("it answers"), count, "{name}: the same work");
        self.group.bench_function(format!("{name} native"), |bencher| {
            bencher.iter(|| native.route_prepared(black_box(&prepared)).expect("it answers"));
        });
        self.group.bench_function(format!("{name} plugin"), |bencher| {
            bencher.iter(|| plugin.route(&TOPIC, black_box(&wanted), &CONTEXT).expect("it answers"));
        });
    }

    fn partitioner<P: tidegate_sdk::Partitioner>(&mut self, name: &str) {
        let compiled = compiled(&self.engine, name);
        let config = example(&compiled);
        let mut native = open_partitioner::<P>(&config).expect("it opens");
        (native.partitions, native.seed) = (TOPIC.partitions, CONTEXT[0].seed);
        let prepared = native.prepare(&self.records);
        let mut plugin = Partitioner::open(&compiled, &config, &self.limits).expect("it opens");
        let wanted = self.wanted(&plugin.needs().columns);
        let placed = plugin.partition(&TOPIC, &wanted, &CONTEXT).expect("it answers").partitions;
        assert_eq!(native.partition_prepared(&prepared).expect("it answers"), placed, "{name}: the same work");
        self.group.bench_function(format!("{name} native"), |bencher| {
            bencher.iter(|| native.partition_prepared(black_box(&prepared)).expect("it answers"));
        });
        self.group.bench_function(format!("{name} plugin"), |bencher| {
            bencher.iter(|| plugin.partition(&TOPIC, black_box(&wanted), &CONTEXT).expect("it answers"));
        });
    }

    fn hook(&mut self, name: &str) {
        let compiled = compiled(&self.engine, name);
        let mut plugin = AckHook::open(&compiled, &example(&compiled), &self.limits).expect("it opens");
        let wanted = self.wanted(&plugin.needs().columns);
        let replicas = [Replica { broker: 1, rack: None, in_sync: true, behind: 0 }];
        let bytes = self.batch.0.len() as u32;
        let arrival = [Arrival { partition: 0, bytes, acks: Acks::All, min_in_sync: 1, replicas: &replicas }];
        self.group.bench_function(format!("{name} plugin"), |bencher| {
            bencher.iter(|| plugin.decide(&TOPIC, black_box(&wanted), &CONTEXT, &arrival).expect("it answers"));
        });
    }

    fn filter(&mut self, name: &str) {
        let compiled = compiled(&self.engine, name);
        let mut plugin = Filter::open(&compiled, &example(&compiled), &self.limits).expect("it opens");
        let wanted = self.wanted(&Wanted { offsets: true, ..plugin.needs().columns.clone() });
        self.group.bench_function(format!("{name} plugin"), |bencher| {
            bencher.iter(|| plugin.keep(&TOPIC, 0, black_box(&wanted), 1_700_000_000_000).expect("it answers"));
        });
    }
}

/// What a policy costs that is asked about a partition.
fn policy(group: &mut BenchmarkGroup<'_, WallTime>, engine: &Engine, limits: &Limits, name: &str) {
    let compiled = compiled(engine, name);
    let mut plugin = Retention::open(&compiled, &example(&compiled), limits).expect("it opens");
    let segments = (0..100).map(|number| Segment {
        base_offset: number * 1_000,
        next_offset: (number + 1) * 1_000,
        max_timestamp: 1_700_000_000_000 + number * 60_000,
        bytes: 1 << 20,
    });
    let log = PartitionLog {
        partition: 0,
        start_offset: 0,
        high_watermark: 100_500,
        segments: segments.collect(),
        readers: vec![Reader { group: "billing".to_owned(), committed: 50_000, idle_ms: 10 }],
    };
    let now = 1_700_000_000_000 + 86_400_000;
    group.bench_function(format!("{name} plugin"), |bencher| {
        bencher.iter(|| plugin.evaluate(&TOPIC, black_box(std::slice::from_ref(&log)), now).expect("it answers"));
    });
}

fn compiled(engine: &Engine, name: &str) -> Compiled {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(name);
    let built = build_component(&folder, Profile::Release, Progress::Show).unwrap_or_else(|error| panic!("{error}"));
    compile::compile(engine, &built.component).expect("it compiles")
}

/// The configuration that a plugin gives as one that works.
fn example(compiled: &Compiled) -> String {
    compiled.describe(&Limits::default()).expect("it says what it is").example
}

/// A hundred bindings over ten topics.
fn bindings(name: &str, pattern: &str) -> String {
    let bindings: Vec<String> = (0..100)
        .map(|number| {
            let value = pattern.replace("{}", &number.to_string());
            format!(r#"{{"{name}": "{value}", "topic": "t{}"}}"#, number % 10)
        })
        .collect();
    format!(r#"{{"bindings": [{}]}}"#, bindings.join(","))
}
