//! The same decision natively and in the sandbox: what a plugin costs beside its own code. One batch of a thousand records a call.

use std::{hint::black_box, path::Path};

use criterion::{Criterion, Throughput};
use partitioner_murmur2::murmur2;
use tidegate_plugin_host::{
    Context, Engine, EngineConfig, Limits, Partitioner, Router, TopicInfo,
    build::{Profile, Progress, build_component},
    compile,
};
use tidegate_records::{
    batch::{Compression, HEADER_BYTES},
    columns::{Column, Columns, columns},
    time::Timestamp,
};

use crate::records::batch;

const RECORDS: usize = 1_000;
const TOPIC: TopicInfo<'static> = TopicInfo { name: "bench", partitions: 12 };

fn compiled(engine: &Engine, name: &str) -> tidegate_plugin_host::Compiled {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(name);
    let built = build_component(&folder, Profile::Release, Progress::Show).unwrap_or_else(|error| panic!("{error}"));
    compile::compile(engine, &built.component).expect("it compiles")
}

fn keys(column: &Column) -> impl Iterator<Item = &[u8]> {
    column.ends.iter().scan(0, |start, end| {
        let from = std::mem::replace(start, *end as usize);
        Some(&column.data[from..*end as usize])
    })
}

/// Nobody ticks the engine's clock here, so that no deadline comes.
pub(crate) fn sandbox(criterion: &mut Criterion) {
    let engine = Engine::new(&EngineConfig::default()).expect("an engine");
    let limits = Limits::default();
    let (bytes, header) = batch(RECORDS, 100, Compression::None);
    let context = [Context { end: RECORDS as u32, now: Timestamp(0), seed: 1, principal: None, client_id: None }];
    let mut group = criterion.benchmark_group("1,000 records");
    group.throughput(Throughput::Elements(RECORDS as u64));

    let mut partitioner = Partitioner::open(&compiled(&engine, "partitioner-murmur2"), "", &limits).expect("it opens");
    let wanted = columns(&header, &bytes[HEADER_BYTES..], &partitioner.needs().columns).expect("valid");
    let native = |batch: &Columns| -> Vec<u32> {
        let keys = keys(batch.keys.as_ref().expect("it asks for keys"));
        keys.map(|key| (murmur2(key) & 0x7fff_ffff) % TOPIC.partitions).collect()
    };
    let placed = partitioner.partition(&TOPIC, &wanted, &context).expect("it answers").partitions;
    assert_eq!(placed, native(&wanted), "the same work");
    group.bench_function("murmur2 native", |bencher| bencher.iter(|| native(black_box(&wanted))));
    group.bench_function("murmur2 plugin", |bencher| {
        bencher.iter(|| partitioner.partition(&TOPIC, black_box(&wanted), &context).expect("it answers"));
    });

    for (name, config) in [
        ("router-topic", patterns("pattern", "*.w{}.#")),
        ("router-direct", patterns("key", "customer-{}")),
        ("router-fanout", r#"{"topics":["a","b"]}"#.to_owned()),
    ] {
        let mut router = Router::open(&compiled(&engine, name), &config, &limits).expect("it opens");
        let wanted = columns(&header, &bytes[HEADER_BYTES..], &router.needs().columns).expect("valid");
        group.bench_function(format!("{name} plugin"), |bencher| {
            bencher.iter(|| router.route(&TOPIC, black_box(&wanted), &context).expect("it answers"));
        });
    }
    group.finish();
}

/// A hundred bindings over ten topics.
fn patterns(name: &str, pattern: &str) -> String {
    let bindings: Vec<String> = (0..100)
        .map(|number| {
            let value = pattern.replace("{}", &number.to_string());
            format!(r#"{{"{name}": "{value}", "topic": "t{}"}}"#, number % 10)
        })
        .collect();
    format!(r#"{{"bindings": [{}]}}"#, bindings.join(","))
}
