//! A plugin that runs in this process, in the same sandbox as in a broker.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_plugin_host::{
    AckHook, CallError, Compiled, Component, Context, Engine, EngineConfig, Filter, Limits, Needs, Partitioner,
    Rejection, Retention, Router, TopicInfo, World,
    ack::{Acks, Arrival, Decision, Decisions, Replica},
    build::{Profile, Progress, build_component},
    component::{COMPONENT_BYTES_MAX, inspect},
};
use tidegate_records::{
    columns::{Column, Columns},
    time::Timestamp,
};

use super::{super::produce::Draft, cache};
use crate::client::configs::Config;

/// Calls end when they take as long as nobody would wait for.
const CALL_TICKS_MAX: u64 = 10_000;
const TICK: Duration = Duration::from_millis(1);

/// Where a record goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// To these topics; none: it is dropped.
    To(Vec<Place>),
    Partition(u32),
    /// An acknowledgement hook lets it through, and its write counts then.
    Accepted(String),
    /// Whether a retention policy keeps it where its segment is rewritten.
    Kept(bool),
    /// It is refused, in the plugin's words.
    Rejected(String),
    /// There is no answer for it: the call trapped, took too long, or answered what no broker takes.
    Failed(String),
}

/// A topic, and the partition that a router wishes for: `orders` or `orders/3`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(super) struct Place {
    pub(super) topic: String,
    pub(super) partition: Option<u32>,
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        match place.partition {
            Some(partition) => format!("{}/{partition}", place.topic),
            None => place.topic,
        }
    }
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once('/') {
            None => Ok(Self { topic: text, partition: None }),
            Some((topic, partition)) => {
                let number = partition.parse().map_err(|_| format!("{text:?} is not TOPIC or TOPIC/PARTITION"))?;
                Ok(Self { topic: topic.to_owned(), partition: Some(number) })
            }
        }
    }
}

/// What a plugin is told beside the records.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) topic: String,
    pub(super) partitions: u32,
    pub(super) now: Option<i64>,
    pub(super) seed: u64,
    pub(super) principal: Option<String>,
    pub(super) client_id: Option<String>,
}

/// A component, checked and compiled.
pub(super) struct Loaded {
    pub(super) component: Component,
    pub(super) compiled: Compiled,
}

/// An engine whose clock runs.
pub(super) fn engine() -> anyhow::Result<Engine> {
    let engine = Engine::new(&EngineConfig { instances_max: 0, ..EngineConfig::default() })?;
    let ticking = engine.clone();
    std::thread::Builder::new()
        .name("plugin-clock".to_owned())
        .spawn(move || ticking.tick_forever(TICK, Duration::from_secs(60)))
        .context("a thread for the clock of plugins cannot be started")?;
    Ok(engine)
}

/// The component in a file; a folder is a plugin's sources, and built first.
pub(super) fn read_component(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path.is_dir() {
        return Ok(build_component(path, Profile::Release, Progress::Show)?.component.bytes.into());
    }
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

impl Loaded {
    pub(super) fn new(engine: &Engine, bytes: Vec<u8>) -> anyhow::Result<Self> {
        let component = inspect(&Bytes::from(bytes), COMPONENT_BYTES_MAX)?;
        let compiled = cache::compile_once(engine, &component)?;
        Ok(Self { component, compiled })
    }

    pub(super) fn from_path(engine: &Engine, path: &Path) -> anyhow::Result<Self> {
        Self::new(engine, read_component(path)?).with_context(|| format!("{} is no plugin", path.display()))
    }

    /// Opens an instance with a configuration.
    pub(super) fn open(&self, config: &str) -> anyhow::Result<Opened> {
        self.open_within(config, &limits())
    }

    /// Opens an instance that may use no more than this.
    pub(super) fn open_within(&self, config: &str, limits: &Limits) -> anyhow::Result<Opened> {
        let opened = match self.component.world {
            World::Router => Router::open(&self.compiled, config, limits).map(Opened::Router),
            World::Partitioner => Partitioner::open(&self.compiled, config, limits).map(Opened::Partitioner),
            World::Ack => AckHook::open(&self.compiled, config, limits).map(Opened::Ack),
            World::Retention => match Retention::open(&self.compiled, config, limits) {
                Ok(policy) if !policy.filters() => anyhow::bail!(
                    "this retention policy is asked about segments and not about records: test it natively (in Rust with cargo test, in Python with python3 -m unittest, in JavaScript with node --test)"
                ),
                Ok(_) => Filter::open(&self.compiled, config, limits).map(Opened::Filter),
                Err(error) => Err(error),
            },
        };
        opened.context("the plugin does not open with this configuration")
    }
}

pub(super) fn limits() -> Limits {
    Limits {
        call_ticks_max: CALL_TICKS_MAX,
        open_ticks_max: CALL_TICKS_MAX,
        memory_bytes_max: 256 << 20,
        ..Limits::default()
    }
}

/// What an instance may use that is attached to a topic with these configurations, at a broker with those.
pub(super) fn limits_of(broker: &[Config], topic: &[Config]) -> Limits {
    let number = |configs: &[Config], name: &str| -> Option<u64> {
        configs.iter().find(|config| config.name == name)?.value.as_ref()?.parse().ok()
    };
    // A topic says less than the broker, or -1, which is no number here.
    let least =
        |of_topic: &str, of_broker: Option<u64>| [number(topic, of_topic), of_broker].into_iter().flatten().min();
    let known = Limits::default();
    let deadline = least("tidegate.plugin.deadline.ms", number(broker, "plugin.deadline.ms"));
    let memory = least("tidegate.plugin.memory.max.bytes", number(broker, "plugin.memory.max.bytes"));
    let output = least("tidegate.plugin.output.max.bytes", number(broker, "plugin.output.max.bytes"));
    let bytes = |limit: Option<u64>, known| limit.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(known);
    Limits {
        // A tick is a millisecond, and the first may come at once.
        call_ticks_max: deadline.map_or(CALL_TICKS_MAX, |deadline| deadline.saturating_add(1).max(2)),
        memory_bytes_max: bytes(memory, limits().memory_bytes_max),
        answer_bytes_max: bytes(output, known.answer_bytes_max),
        ..known
    }
}

/// An instance.
pub(super) enum Opened {
    Router(Router),
    Partitioner(Partitioner),
    Ack(AckHook),
    Filter(Filter),
}

impl Opened {
    pub(super) fn needs(&self) -> &Needs {
        match self {
            Self::Router(router) => router.needs(),
            Self::Partitioner(partitioner) => partitioner.needs(),
            Self::Ack(hook) => hook.needs(),
            Self::Filter(filter) => filter.needs(),
        }
    }

    /// Whether it trapped, and answers nothing any more.
    pub(super) fn is_dead(&self) -> bool {
        match self {
            Self::Router(router) => router.is_dead(),
            Self::Partitioner(partitioner) => partitioner.is_dead(),
            Self::Ack(hook) => hook.is_dead(),
            Self::Filter(filter) => filter.is_dead(),
        }
    }

    /// What it wants to see of the records.
    pub(super) fn columns(&self, records: &[Draft]) -> Columns {
        let wanted = &self.needs().columns;
        let column = |of: &dyn Fn(&Draft) -> Option<Vec<u8>>| column(records.iter().map(of));
        Columns {
            count: records.len() as u32,
            keys: wanted.keys.then(|| column(&|record| record.key.clone())),
            values: wanted.values.then(|| column(&|record| record.value.clone())),
            timestamps: wanted.timestamps.then(|| records.iter().map(|record| record.timestamp.unwrap_or(0)).collect()),
            offsets: matches!(self, Self::Filter(_)).then(|| (0..records.len() as i64).collect()),
            headers: wanted
                .headers
                .iter()
                .map(|name| {
                    column(&|record| {
                        let last = record.headers.iter().rev().find(|(known, _)| known == name);
                        last.and_then(|(_, value)| value.clone())
                    })
                })
                .collect(),
        }
    }

    /// Calls it once and throws its answer away.
    pub(super) fn call(&mut self, columns: &Columns, around: &Surroundings) -> Result<(), CallError> {
        let (topic, context) = (topic(around), context(around, columns.count));
        match self {
            Self::Router(router) => router.route(&topic, columns, &[context]).map(drop),
            Self::Partitioner(partitioner) => partitioner.partition(&topic, columns, &[context]).map(drop),
            Self::Ack(hook) => hook.decide(&topic, columns, &[context], &[ARRIVAL]).map(drop),
            Self::Filter(filter) => filter.keep(&topic, 0, columns, context.now.0).map(drop),
        }
    }

    /// Asks about records of one batch.
    pub(super) fn ask(&mut self, records: &[Draft], around: &Surroundings) -> Result<Vec<Outcome>, CallError> {
        let columns = self.columns(records);
        let newest = records.iter().filter_map(|record| record.timestamp).max();
        let around = Surroundings { now: around.now.or(newest), ..around.clone() };
        Ok(self.answer(&columns, &around, &ARRIVAL)?.0)
    }

    /// Asks about the records of columns that it wants: what becomes of each, and how long the call took.
    pub(super) fn answer(
        &mut self,
        columns: &Columns,
        around: &Surroundings,
        arrival: &Arrival<'_>,
    ) -> Result<(Vec<Outcome>, Duration), CallError> {
        let (topic, context) = (topic(around), context(around, columns.count));
        let records = columns.count as usize;
        let began = Instant::now();
        match self {
            Self::Router(router) => {
                let answer = router.route(&topic, columns, &[context])?;
                let took = began.elapsed();
                let place = |to: tidegate_plugin_host::router::Destination| Place {
                    topic: router.topic_name(to.topic).unwrap_or(&around.topic).to_owned(),
                    partition: to.partition,
                };
                let routed = (0..records)
                    .map(|record| Outcome::To(answer.routes.of_record(record).map(place).collect()))
                    .collect();
                Ok((with_rejections(routed, answer.rejected), took))
            }
            Self::Partitioner(partitioner) => {
                let placement = partitioner.partition(&topic, columns, &[context])?;
                let took = began.elapsed();
                let placed = placement.partitions.into_iter().map(Outcome::Partition).collect();
                Ok((with_rejections(placed, placement.rejected), took))
            }
            Self::Ack(hook) => {
                let decided = hook.decide(&topic, columns, &[context], std::slice::from_ref(arrival))?;
                let took = began.elapsed();
                Ok((acknowledged(decided, records), took))
            }
            Self::Filter(filter) => {
                let kept = filter.keep(&topic, 0, columns, context.now.0)?;
                let took = began.elapsed();
                let of_record = |record: usize| Outcome::Kept(kept[record / 64] >> (record % 64) & 1 == 1);
                Ok(((0..records).map(of_record).collect(), took))
            }
        }
    }

    /// The lines that it logged, each with its level.
    pub(super) fn log(&mut self) -> Vec<String> {
        let log = match self {
            Self::Router(router) => router.take_log(),
            Self::Partitioner(partitioner) => partitioner.take_log(),
            Self::Ack(hook) => hook.take_log(),
            Self::Filter(filter) => filter.take_log(),
        };
        log.lines
            .into_iter()
            .map(|line| format!("{}: {}", format!("{:?}", line.level).to_lowercase(), line.message))
            .collect()
    }
}

/// A batch as a hook is told of it here: of a producer that wants all replicas, of which there is one. Its size is that of a header.
const ARRIVAL: Arrival<'static> = Arrival {
    partition: 0,
    bytes: 61,
    acks: Acks::All,
    min_in_sync: 1,
    replicas: &[Replica { broker: 1, rack: None, in_sync: true, behind: 0 }],
};

/// What a hook says of one batch, record by record.
fn acknowledged(decided: Decisions, records: usize) -> Vec<Outcome> {
    let words = match decided.decisions.into_iter().next() {
        Some(Decision::Refuse(refusal)) => return vec![Outcome::Rejected(refusal.message); records],
        None | Some(Decision::AsAsked) => "as asked".to_owned(),
        Some(Decision::Appended) => "appended".to_owned(),
        Some(Decision::LeaderDurable) => "leader durable".to_owned(),
        Some(Decision::MinInSync) => "min in sync".to_owned(),
        Some(Decision::AllInSync) => "all in sync".to_owned(),
        Some(Decision::Until(copies)) => format!("{} copies in {} racks", copies.count, copies.racks.max(1)),
    };
    with_rejections(vec![Outcome::Accepted(words); records], decided.rejected)
}

fn topic(around: &Surroundings) -> TopicInfo<'_> {
    TopicInfo { name: &around.topic, partitions: around.partitions }
}

fn context(around: &Surroundings, end: u32) -> Context<'_> {
    Context {
        end,
        now: Timestamp(around.now.unwrap_or_else(|| crate::moment::now().0)),
        seed: around.seed,
        principal: around.principal.as_deref(),
        client_id: around.client_id.as_deref(),
    }
}

fn with_rejections(mut outcomes: Vec<Outcome>, rejected: Vec<Rejection>) -> Vec<Outcome> {
    for rejection in rejected {
        outcomes[rejection.record as usize] = Outcome::Rejected(rejection.reason);
    }
    outcomes
}

fn column(values: impl Iterator<Item = Option<Vec<u8>>>) -> Column {
    let mut column = Column::default();
    for (index, value) in values.enumerate() {
        match value {
            Some(value) => column.data.extend_from_slice(&value),
            None => {
                column.nulls.resize(column.nulls.len().max(index / 64 + 1), 0);
                column.nulls[index / 64] |= 1 << (index % 64);
            }
        }
        column.ends.push(column.data.len() as u32);
    }
    if !column.nulls.is_empty() {
        column.nulls.resize(column.ends.len().div_ceil(64), 0);
    }
    column
}
