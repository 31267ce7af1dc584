//! The interface `tidegate:plugin@0.1`: what `wit/since-0.1.2` says, between the generated bindings and this crate's own types.
//!
//! A patch of the interface only adds to it, so the newest serves plugins of all. An interface that is not compatible is another file like
//! this one; several are served at a time, each in its own names.

use tidegate_records::columns::{Column, Columns, Wanted};
use wasmtime::component::{HasSelf, Linker};

use crate::{
    Answer, CallError, Context, Description, Destinations, LogLevel, Needs, OpenError, Placement, Rejection, Routes,
    TopicInfo, World,
    ack::{Acks, Arrival, Copies, Decision, Decisions, Refusal, RefusalReason},
    retention::{OffloadLog, PartitionLog, Retained, Verdict},
    sandbox::{Pre, Sandbox, SeriesValue, Store},
};

#[allow(warnings, clippy::all, clippy::restriction, reason = "generated code")]
mod router_world {
    wasmtime::component::bindgen!({
        path: "../../wit/since-0.1.2",
        world: "router",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

#[allow(warnings, clippy::all, clippy::restriction, reason = "generated code")]
mod partitioner_world {
    wasmtime::component::bindgen!({
        path: "../../wit/since-0.1.2",
        world: "partitioner",
        ownership: Borrowing { duplicate_if_necessary: true },
        with: {
            "tidegate:plugin/types": super::router_world::tidegate::plugin::types,
            "tidegate:plugin/log": super::router_world::tidegate::plugin::log,
            "tidegate:plugin/metrics": super::router_world::tidegate::plugin::metrics,
        },
    });
}

#[allow(warnings, clippy::all, clippy::restriction, reason = "generated code")]
mod ack_world {
    wasmtime::component::bindgen!({
        path: "../../wit/since-0.1.2",
        world: "ack",
        ownership: Borrowing { duplicate_if_necessary: true },
        with: {
            "tidegate:plugin/types": super::router_world::tidegate::plugin::types,
            "tidegate:plugin/log": super::router_world::tidegate::plugin::log,
            "tidegate:plugin/metrics": super::router_world::tidegate::plugin::metrics,
        },
    });
}

#[allow(warnings, clippy::all, clippy::restriction, reason = "generated code")]
mod retention_world {
    wasmtime::component::bindgen!({
        path: "../../wit/since-0.1.2",
        world: "retention",
        ownership: Borrowing { duplicate_if_necessary: true },
        with: {
            "tidegate:plugin/types": super::router_world::tidegate::plugin::types,
            "tidegate:plugin/log": super::router_world::tidegate::plugin::log,
            "tidegate:plugin/metrics": super::router_world::tidegate::plugin::metrics,
        },
    });
}

/// Only what an `eraser` has beside a `retention`.
#[allow(warnings, clippy::all, clippy::restriction, reason = "generated code")]
mod filtering_world {
    wasmtime::component::bindgen!({
        path: "../../wit/since-0.1.2",
        inline: "
            package tidegate:host;
            world filtering {
                export tidegate:plugin/filtering@0.1.2;
            }
        ",
        ownership: Borrowing { duplicate_if_necessary: true },
        with: {
            "tidegate:plugin/types": super::router_world::tidegate::plugin::types,
        },
    });
}

/// Only what an `offloader` has beside a `retention`.
#[allow(warnings, clippy::all, clippy::restriction, reason = "generated code")]
mod offloading_world {
    wasmtime::component::bindgen!({
        path: "../../wit/since-0.1.2",
        inline: "
            package tidegate:host;
            world offloading {
                export tidegate:plugin/offloading@0.1.2;
            }
        ",
        ownership: Borrowing { duplicate_if_necessary: true },
        with: {
            "tidegate:plugin/types": super::router_world::tidegate::plugin::types,
        },
    });
}

use ack_world::exports::tidegate::plugin::{acknowledging, lifecycle as ack_lifecycle};
use offloading_world::exports::tidegate::plugin::offloading;
use partitioner_world::exports::tidegate::plugin::{lifecycle as partitioner_lifecycle, partitioning};
use retention_world::exports::tidegate::plugin::{lifecycle as retention_lifecycle, retaining};
use router_world::{
    exports::tidegate::plugin::{lifecycle as router_lifecycle, routing},
    tidegate::plugin::{log, metrics, topics, types},
};

/// Words of a plugin that go to people are cut to this.
const WORDS_BYTES_MAX: usize = 2048;

pub(crate) fn add_to_linker(linker: &mut Linker<Sandbox>, world: World) -> wasmtime::Result<()> {
    type Own = HasSelf<Sandbox>;
    types::add_to_linker::<Sandbox, Own>(linker, |sandbox| sandbox)?;
    log::add_to_linker::<Sandbox, Own>(linker, |sandbox| sandbox)?;
    metrics::add_to_linker::<Sandbox, Own>(linker, |sandbox| sandbox)?;
    match world {
        World::Router => topics::add_to_linker::<Sandbox, Own>(linker, |sandbox| sandbox),
        World::Partitioner | World::Ack | World::Retention => Ok(()),
    }
}

impl types::Host for Sandbox {}

impl log::Host for Sandbox {
    fn write(&mut self, level: log::Level, message: String) {
        let level = match level {
            log::Level::Error => LogLevel::Error,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Info => LogLevel::Info,
            log::Level::Debug => LogLevel::Debug,
        };
        self.log(level, message);
    }
}

impl metrics::Host for Sandbox {
    fn declare(&mut self, name: String, kind: metrics::Kind, labels: Vec<(String, String)>) -> Result<u32, String> {
        let value = match kind {
            metrics::Kind::Counter => SeriesValue::Counter(0),
            metrics::Kind::Gauge => SeriesValue::Gauge(0.0),
            metrics::Kind::Histogram => SeriesValue::Histogram { count: 0, sum: 0.0, buckets: Default::default() },
        };
        Self::declare(self, name, labels, value)
    }

    fn add(&mut self, series: u32, by: u64) {
        Self::add(self, series, by);
    }

    fn set(&mut self, series: u32, to: f64) {
        Self::set(self, series, to);
    }

    fn observe(&mut self, series: u32, value: f64) {
        Self::observe(self, series, value);
    }
}

impl topics::Host for Sandbox {
    fn resolve(&mut self, name: String) -> Result<u32, String> {
        Self::resolve(self, name)
    }
}

/// What a world exports, with `describe` and `open`, which every world has under types of its own.
macro_rules! lifecycle {
    ($exports:ident, $world:ident, $generated:ident, $pre:ident, $lifecycle:ident) => {
        pub(crate) struct $exports($world::$generated);

        impl $exports {
            fn instantiate(store: &mut Store, pre: &Pre) -> Result<Self, OpenError> {
                store.begin_open()?;
                let instance = $world::$pre::new(pre.clone()).and_then(|pre| pre.instantiate(&mut store.inner));
                instance.map(Self).map_err(|error| store.not_instantiated(&error))
            }

            pub(crate) fn describe(store: &mut Store, pre: &Pre) -> Result<Description, OpenError> {
                let exports = Self::instantiate(store, pre)?;
                let described = exports.0.tidegate_plugin_lifecycle().call_describe(&mut store.inner);
                let $lifecycle::Description { name, version, summary, example } =
                    described.map_err(|error| store.trapped(&error))?;
                Ok(Description { name: cut(name), version: cut(version), summary: cut(summary), example: cut(example) })
            }

            pub(crate) fn open(store: &mut Store, pre: &Pre, config: &str) -> Result<(Self, Needs), OpenError> {
                let exports = Self::instantiate(store, pre)?;
                let opened = exports.0.tidegate_plugin_lifecycle().call_open(&mut store.inner, config);
                let $lifecycle::Needs { columns, facts, headers } =
                    opened.map_err(|error| store.trapped(&error))?.map_err(refused)?;
                Ok((exports, needs(store, columns, facts, headers)?))
            }
        }
    };
}

lifecycle!(RouterExports, router_world, Router, RouterPre, router_lifecycle);
lifecycle!(PartitionerExports, partitioner_world, Partitioner, PartitionerPre, partitioner_lifecycle);
lifecycle!(AckExports, ack_world, Ack, AckPre, ack_lifecycle);
lifecycle!(RetentionExports, retention_world, Retention, RetentionPre, retention_lifecycle);

/// The filter of an `eraser`, in an instance of its own.
pub(crate) struct FilterExports(filtering_world::Filtering);

impl RouterExports {
    pub(crate) fn route(&self, store: &mut Store, call: &Call<'_>) -> Result<Answer, CallError> {
        store.begin_call()?;
        let routing = self.0.tidegate_plugin_routing();
        let answered = routing.call_route(&mut store.inner, call.topic.clone(), call.batch(), &call.contexts);
        let routing::Answer { routes, rejected } = answered.map_err(|error| store.trapped(&error))?.map_err(failure)?;
        let routes = match routes {
            routing::Routes::Unchanged => Routes::Unchanged,
            routing::Routes::Uniform(to) => Routes::Uniform(destinations(to)),
            routing::Routes::Single(to) => Routes::Single(destinations(to)),
            routing::Routes::Many(routing::FanOut { ends, to }) => Routes::Many { ends, to: destinations(to) },
        };
        Ok(Answer { routes, rejected: rejections(rejected) })
    }
}

impl PartitionerExports {
    pub(crate) fn partition(&self, store: &mut Store, call: &Call<'_>) -> Result<Placement, CallError> {
        store.begin_call()?;
        let partitioning = self.0.tidegate_plugin_partitioning();
        let answered = partitioning.call_partition(&mut store.inner, call.topic.clone(), call.batch(), &call.contexts);
        let partitioning::Placement { partitions, rejected } =
            answered.map_err(|error| store.trapped(&error))?.map_err(failure)?;
        Ok(Placement { partitions, rejected: rejections(rejected) })
    }
}

impl AckExports {
    /// What it says of the most that it may ask for.
    pub(crate) fn strongest(&self, store: &mut Store) -> Result<Option<Copies>, OpenError> {
        store.begin_open()?;
        let asked = self.0.tidegate_plugin_acknowledging().call_strongest(&mut store.inner);
        Ok(asked.map_err(|error| store.trapped(&error))?.map(copies))
    }

    pub(crate) fn decide(
        &self,
        store: &mut Store,
        call: &Call<'_>,
        arrivals: &[Arrival<'_>],
    ) -> Result<Decisions, CallError> {
        store.begin_call()?;
        let mut replicas: Vec<Vec<acknowledging::Replica<'_>>> = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            let lowered = arrival.replicas.iter().map(|replica| acknowledging::Replica {
                broker: replica.broker,
                rack: replica.rack,
                in_sync: replica.in_sync,
                behind: replica.behind,
            });
            replicas.push(lowered.collect());
        }
        let arrivals: Vec<acknowledging::Arrival<'_>> = arrivals
            .iter()
            .zip(&replicas)
            .map(|(arrival, replicas)| acknowledging::Arrival {
                partition: arrival.partition,
                bytes: arrival.bytes,
                acks: match arrival.acks {
                    Acks::None => acknowledging::Acks::None,
                    Acks::Leader => acknowledging::Acks::Leader,
                    Acks::All => acknowledging::Acks::All,
                },
                min_in_sync: arrival.min_in_sync,
                replicas,
            })
            .collect();
        let hook = self.0.tidegate_plugin_acknowledging();
        let answered = hook.call_decide(&mut store.inner, call.topic.clone(), call.batch(), &call.contexts, &arrivals);
        let acknowledging::Answer { decisions, rejected } =
            answered.map_err(|error| store.trapped(&error))?.map_err(failure)?;
        let decisions = decisions.into_iter().map(decision).collect();
        Ok(Decisions { decisions, rejected: rejections(rejected) })
    }
}

fn decision(decision: acknowledging::Decision) -> Decision {
    use acknowledging::{Decision as Theirs, Reason};
    match decision {
        Theirs::AsAsked => Decision::AsAsked,
        Theirs::Appended => Decision::Appended,
        Theirs::LeaderDurable => Decision::LeaderDurable,
        Theirs::MinInSync => Decision::MinInSync,
        Theirs::AllInSync => Decision::AllInSync,
        Theirs::Until(needed) => Decision::Until(copies(needed)),
        Theirs::Refuse(acknowledging::Refusal { reason, message }) => {
            let reason = match reason {
                Reason::InvalidRecord => RefusalReason::InvalidRecord,
                Reason::PolicyViolation => RefusalReason::PolicyViolation,
                Reason::TopicAuthorizationFailed => RefusalReason::TopicAuthorizationFailed,
                Reason::MessageTooLarge => RefusalReason::MessageTooLarge,
                Reason::Throttled => RefusalReason::Throttled,
                Reason::NotEnoughReplicas => RefusalReason::NotEnoughReplicas,
            };
            Decision::Refuse(Refusal { reason, message: cut(message) })
        }
    }
}

fn copies(copies: acknowledging::Copies) -> Copies {
    let acknowledging::Copies { count, racks, brokers, within_ms } = copies;
    Copies { count, racks, brokers, within_ms }
}

impl RetentionExports {
    pub(crate) fn evaluate(
        &self,
        store: &mut Store,
        topic: &TopicInfo<'_>,
        logs: &[PartitionLog],
        now: i64,
    ) -> Result<Retained, CallError> {
        store.begin_call()?;
        let mut segments: Vec<Vec<retaining::Segment>> = Vec::with_capacity(logs.len());
        let mut readers: Vec<Vec<retaining::Reader<'_>>> = Vec::with_capacity(logs.len());
        for log in logs {
            let lowered = log.segments.iter().map(|segment| retaining::Segment {
                base_offset: segment.base_offset,
                next_offset: segment.next_offset,
                max_timestamp: segment.max_timestamp,
                bytes: segment.bytes,
            });
            segments.push(lowered.collect());
            let lowered = log.readers.iter().map(|reader| retaining::Reader {
                group: &reader.group,
                committed: reader.committed,
                idle_ms: reader.idle_ms,
            });
            readers.push(lowered.collect());
        }
        let logs: Vec<retaining::PartitionLog<'_>> = logs
            .iter()
            .zip(segments.iter().zip(&readers))
            .map(|(log, (segments, readers))| retaining::PartitionLog {
                partition: log.partition,
                start_offset: log.start_offset,
                high_watermark: log.high_watermark,
                segments,
                readers,
            })
            .collect();
        let topic = types::Topic { name: topic.name, partitions: topic.partitions };
        let answered = self.0.tidegate_plugin_retaining().call_evaluate(&mut store.inner, topic, &logs, now);
        let retaining::Answer { verdicts, again_in_ms } =
            answered.map_err(|error| store.trapped(&error))?.map_err(failure)?;
        let verdict = |retaining::Verdict { delete_before, rewrite }| Verdict { delete_before, rewrite };
        Ok(Retained { verdicts: verdicts.into_iter().map(verdict).collect(), again_in_ms })
    }
}

impl FilterExports {
    /// Whether a component has a filter.
    pub(crate) fn are_in(pre: &Pre) -> bool {
        filtering_world::FilteringPre::new(pre.clone()).is_ok()
    }

    pub(crate) fn open(store: &mut Store, pre: &Pre, config: &str) -> Result<(Self, Needs), OpenError> {
        store.begin_open()?;
        let instance = pre.instantiate(&mut store.inner).map_err(|error| store.not_instantiated(&error))?;
        let whole = retention_world::Retention::new(&mut store.inner, &instance)
            .map_err(|error| store.not_instantiated(&error))?;
        let exports = filtering_world::Filtering::new(&mut store.inner, &instance)
            .map_err(|error| store.not_instantiated(&error))?;
        let opened = whole.tidegate_plugin_lifecycle().call_open(&mut store.inner, config);
        let retention_lifecycle::Needs { columns, facts, headers } =
            opened.map_err(|error| store.trapped(&error))?.map_err(refused)?;
        Ok((Self(exports), needs(store, columns, facts, headers)?))
    }

    pub(crate) fn keep(
        &self,
        store: &mut Store,
        partition: u32,
        call: &Call<'_>,
        offsets: &[i64],
        now: i64,
    ) -> Result<Vec<u64>, CallError> {
        store.begin_call()?;
        let filter = self.0.tidegate_plugin_filtering();
        let kept = filter.call_keep(&mut store.inner, call.topic.clone(), partition, call.batch(), offsets, now);
        kept.map_err(|error| store.trapped(&error))?.map_err(failure)
    }
}

/// What an `offloader` says of segments, in an instance of its own.
pub(crate) struct OffloadExports(offloading_world::Offloading);

impl OffloadExports {
    /// Whether a component offloads.
    pub(crate) fn are_in(pre: &Pre) -> bool {
        offloading_world::OffloadingPre::new(pre.clone()).is_ok()
    }

    pub(crate) fn open(store: &mut Store, pre: &Pre, config: &str) -> Result<Self, OpenError> {
        store.begin_open()?;
        let instance = pre.instantiate(&mut store.inner).map_err(|error| store.not_instantiated(&error))?;
        let whole = retention_world::Retention::new(&mut store.inner, &instance)
            .map_err(|error| store.not_instantiated(&error))?;
        let exports = offloading_world::Offloading::new(&mut store.inner, &instance)
            .map_err(|error| store.not_instantiated(&error))?;
        let opened = whole.tidegate_plugin_lifecycle().call_open(&mut store.inner, config);
        opened.map_err(|error| store.trapped(&error))?.map_err(refused)?;
        Ok(Self(exports))
    }

    pub(crate) fn offload(
        &self,
        store: &mut Store,
        topic: &TopicInfo<'_>,
        logs: &[OffloadLog],
        now: i64,
    ) -> Result<Vec<Vec<u32>>, CallError> {
        store.begin_call()?;
        let segments = |log: &OffloadLog| -> Vec<offloading::Segment> {
            let lowered = log.segments.iter().map(|(segment, offloaded)| offloading::Segment {
                base_offset: segment.base_offset,
                next_offset: segment.next_offset,
                max_timestamp: segment.max_timestamp,
                bytes: segment.bytes,
                offloaded: *offloaded,
            });
            lowered.collect()
        };
        let segments: Vec<Vec<offloading::Segment>> = logs.iter().map(segments).collect();
        let logs: Vec<offloading::PartitionLog<'_>> = logs
            .iter()
            .zip(&segments)
            .map(|(log, segments)| offloading::PartitionLog {
                partition: log.partition,
                start_offset: log.start_offset,
                high_watermark: log.high_watermark,
                segments,
                active_bytes: log.active_bytes,
            })
            .collect();
        let topic = types::Topic { name: topic.name, partitions: topic.partitions };
        let answered = self.0.tidegate_plugin_offloading().call_offload(&mut store.inner, topic, &logs, now);
        answered.map_err(|error| store.trapped(&error))?.map_err(failure)
    }
}

/// The arguments of a call as the interface has them; they point into the caller's columns.
pub(crate) struct Call<'a> {
    topic: types::Topic<'a>,
    count: u32,
    keys: Option<types::Column<'a>>,
    values: Option<types::Column<'a>>,
    timestamps: Option<&'a [i64]>,
    headers: Vec<types::Column<'a>>,
    contexts: Vec<types::Context<'a>>,
}

impl<'a> Call<'a> {
    /// What was not asked for is left out, whatever `columns` has.
    ///
    /// # Panics
    /// Where the columns are not those of the needs, or the contexts do not end where they do: mistakes of the caller.
    pub(crate) fn new(topic: &TopicInfo<'a>, columns: &'a Columns, contexts: &[Context<'a>], needs: &Needs) -> Self {
        let Needs { columns: wanted, principal, client_id } = needs;
        assert_eq!(contexts.last().map(|last| last.end), Some(columns.count), "contexts end where the records do");
        assert!(contexts.is_sorted_by(|a, b| a.end < b.end), "each context has records");
        assert_eq!(columns.headers.len(), wanted.headers.len(), "there is a column for each header asked for");
        let pass = |wanted: bool, column: &'a Option<Column>| {
            wanted.then(|| lowered(column.as_ref().expect("a column that was asked for was built")))
        };
        Self {
            topic: types::Topic { name: topic.name, partitions: topic.partitions },
            count: columns.count,
            keys: pass(wanted.keys, &columns.keys),
            values: pass(wanted.values, &columns.values),
            timestamps: wanted
                .timestamps
                .then(|| columns.timestamps.as_deref().expect("a column that was asked for was built")),
            headers: columns.headers.iter().map(lowered).collect(),
            contexts: contexts
                .iter()
                .map(|context| types::Context {
                    end: context.end,
                    now: context.now.0,
                    seed: context.seed,
                    principal: context.principal.filter(|_| *principal),
                    client_id: context.client_id.filter(|_| *client_id),
                })
                .collect(),
        }
    }

    fn batch(&self) -> types::Batch<'_> {
        types::Batch {
            count: self.count,
            keys: self.keys.clone(),
            values: self.values.clone(),
            timestamps: self.timestamps,
            headers: &self.headers,
        }
    }
}

fn lowered(column: &Column) -> types::Column<'_> {
    types::Column { data: &column.data, ends: &column.ends, nulls: &column.nulls }
}

fn needs(
    store: &Store,
    columns: types::Columns,
    facts: types::Facts,
    headers: Vec<String>,
) -> Result<Needs, OpenError> {
    let headers_max = store.inner.data().limits.headers_max;
    if headers.len() > headers_max {
        let detail = format!("it asks for {} headers, {headers_max} are allowed", headers.len());
        return Err(OpenError::Unusable { detail });
    }
    Ok(Needs {
        columns: Wanted {
            keys: columns.contains(types::Columns::KEYS),
            values: columns.contains(types::Columns::VALUES),
            timestamps: columns.contains(types::Columns::TIMESTAMPS),
            offsets: false,
            headers,
        },
        principal: facts.contains(types::Facts::PRINCIPAL),
        client_id: facts.contains(types::Facts::CLIENT_ID),
    })
}

fn refused(message: String) -> OpenError {
    OpenError::Refused { message: cut(message) }
}

fn failure(failure: types::Failure) -> CallError {
    match failure {
        types::Failure::Retry(message) => CallError::Retry { message: cut(message) },
        types::Failure::Failed(message) => CallError::Refused { message: cut(message) },
    }
}

fn destinations(to: routing::Destinations) -> Destinations {
    Destinations { topics: to.topics, partitions: to.partitions }
}

fn rejections(rejected: Vec<types::Rejection>) -> Vec<Rejection> {
    rejected.into_iter().map(|one| Rejection { record: one.record, reason: cut(one.reason) }).collect()
}

fn cut(mut words: String) -> String {
    if words.len() > WORDS_BYTES_MAX {
        words.truncate(words.floor_char_boundary(WORDS_BYTES_MAX));
        words.push_str(" [cut]");
    }
    words
}
