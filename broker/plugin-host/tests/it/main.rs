//! The plugin host with real components, built from Rust by the function that `tidegate plugin build` calls.

mod ack;
mod components;
mod equality;
mod hostile;
mod offload;
mod retention;
mod routing;
mod versions;

use std::{
    path::{Path, PathBuf},
    sync::{LazyLock, OnceLock},
};

use tidegate_plugin_host::{
    Answer, CallError, Compiled, Component, Context, Engine, EngineConfig, Limits, Metering, OpenError, Router,
    TopicInfo,
    build::{Profile, Progress, build_component},
    compile,
};
use tidegate_records::{
    columns::{Column, Columns},
    time::Timestamp,
};

const TOPIC: TopicInfo<'static> = TopicInfo { name: "orders", partitions: 12 };

/// An engine whose clock runs: a millisecond a tick, for as long as the tests run.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let engine = Engine::new(&EngineConfig { instances_max: 100, ..EngineConfig::default() }).expect("an engine");
    let ticking = engine.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::park_timeout(std::time::Duration::from_millis(1));
            ticking.tick();
        }
    });
    engine
});

/// An engine that counts instructions: the same on every machine.
static BY_FUEL: LazyLock<Engine> = LazyLock::new(|| {
    let config = EngineConfig { metering: Metering::Fuel, instances_max: 0, ..EngineConfig::default() };
    Engine::new(&config).expect("an engine")
});

/// A plugin of this repository, built once for all tests.
#[derive(Debug)]
struct Guest {
    folder: &'static str,
    component: OnceLock<Component>,
    compiled: OnceLock<Compiled>,
}

static HOSTILE: Guest = Guest::new("broker/plugin-host/tests/guests/router");
static HOSTILE_ACK: Guest = Guest::new("broker/plugin-host/tests/guests/ack");
static HOSTILE_RETENTION: Guest = Guest::new("broker/plugin-host/tests/guests/retention");
static HOSTILE_OFFLOAD: Guest = Guest::new("broker/plugin-host/tests/guests/offload");
static FIRST_ROUTER: Guest = Guest::new("examples/first-router-rust");
static ROUTER_TOPIC: Guest = Guest::new("plugins/router-topic");
static MURMUR2: Guest = Guest::new("plugins/partitioner-murmur2");

impl Guest {
    const fn new(folder: &'static str) -> Self {
        Self { folder, component: OnceLock::new(), compiled: OnceLock::new() }
    }

    fn component(&self) -> &Component {
        self.component.get_or_init(|| {
            let built = build_component(&repository().join(self.folder), Profile::Release, Progress::Quiet);
            built.unwrap_or_else(|error| panic!("{}: {error}", self.folder)).component
        })
    }

    fn compiled(&self) -> &Compiled {
        self.compiled.get_or_init(|| compile::compile(&ENGINE, self.component()).expect("it compiles"))
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Limits that only a guest that means it runs into, however slow the machine is.
fn patient() -> Limits {
    Limits { call_ticks_max: 60_000, open_ticks_max: 60_000, ..Limits::default() }
}

fn hostile(order: &str) -> Router {
    Router::open(HOSTILE.compiled(), order, &patient()).expect("it opens")
}

/// Columns of keys, with all that a plugin can ask for beside them.
fn keyed(keys: &[Option<&str>]) -> Columns {
    let column = |values: &mut dyn Iterator<Item = Option<String>>| {
        let mut column = Column::default();
        for (index, value) in values.enumerate() {
            match value {
                Some(value) => column.data.extend_from_slice(value.as_bytes()),
                None => {
                    column.nulls.resize(keys.len().div_ceil(64), 0);
                    column.nulls[index / 64] |= 1 << (index % 64);
                }
            }
            column.ends.push(column.data.len() as u32);
        }
        column
    };
    Columns {
        count: keys.len() as u32,
        keys: Some(column(&mut keys.iter().map(|key| key.map(str::to_owned)))),
        values: Some(column(&mut (0..keys.len()).map(|index| Some(format!("v{index}"))))),
        timestamps: Some((0..keys.len() as i64).collect()),
        offsets: None,
        headers: Vec::new(),
    }
}

fn context(end: usize) -> Context<'static> {
    Context {
        end: end as u32,
        now: Timestamp(1_700_000_000_000),
        seed: 7,
        principal: Some("User:alice"),
        client_id: Some("shop"),
    }
}

fn route(router: &mut Router, keys: &[Option<&str>]) -> Result<Answer, CallError> {
    router.route(&TOPIC, &keyed(keys), &[context(keys.len())])
}

/// Names of topics for each record; `-` is the topic that it was sent to.
fn names(router: &Router, answer: &Answer, records: usize) -> Vec<Vec<String>> {
    let name = |number| router.topic_name(number).unwrap_or("-").to_owned();
    (0..records).map(|record| answer.routes.of_record(record).map(|to| name(to.topic)).collect()).collect()
}

fn refused(error: &OpenError) -> &str {
    match error {
        OpenError::Refused { message } => message,
        other => panic!("not a refusal: {other}"),
    }
}
