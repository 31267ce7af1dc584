//! The interface `tidegate:plugin@0.1`: what `wit/since-0.1.0` says, between the generated bindings and this crate's own types.
//!
//! Another released interface is another file like this one; several are served at a time, each in its own names.

use tidegate_records::columns::{Column, Columns, Wanted};
use wasmtime::component::{HasSelf, Linker};

use crate::{
    Answer, CallError, Context, Description, Destinations, LogLevel, Needs, OpenError, Placement, Rejection, Routes,
    TopicInfo, World,
    sandbox::{Pre, Sandbox, SeriesValue, Store},
};

#[allow(warnings, clippy::all, clippy::restriction, reason = "generated code")]
mod router_world {
    wasmtime::component::bindgen!({
        path: "../../wit/since-0.1.0",
        world: "router",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

#[allow(warnings, clippy::all, clippy::restriction, reason = "generated code")]
mod partitioner_world {
    wasmtime::component::bindgen!({
        path: "../../wit/since-0.1.0",
        world: "partitioner",
        ownership: Borrowing { duplicate_if_necessary: true },
        with: {
            "tidegate:plugin/types": super::router_world::tidegate::plugin::types,
            "tidegate:plugin/log": super::router_world::tidegate::plugin::log,
            "tidegate:plugin/metrics": super::router_world::tidegate::plugin::metrics,
        },
    });
}

use partitioner_world::exports::tidegate::plugin::{lifecycle as partitioner_lifecycle, partitioning};
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
        World::Partitioner => Ok(()),
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

pub(crate) struct RouterExports(router_world::Router);

pub(crate) struct PartitionerExports(partitioner_world::Partitioner);

fn instantiate_router(store: &mut Store, pre: &Pre) -> Result<RouterExports, OpenError> {
    store.begin_open()?;
    let instance = router_world::RouterPre::new(pre.clone()).and_then(|pre| pre.instantiate(&mut store.inner));
    instance.map(RouterExports).map_err(|error| store.not_instantiated(&error))
}

fn instantiate_partitioner(store: &mut Store, pre: &Pre) -> Result<PartitionerExports, OpenError> {
    store.begin_open()?;
    let instance =
        partitioner_world::PartitionerPre::new(pre.clone()).and_then(|pre| pre.instantiate(&mut store.inner));
    instance.map(PartitionerExports).map_err(|error| store.not_instantiated(&error))
}

pub(crate) fn describe_router(store: &mut Store, pre: &Pre) -> Result<Description, OpenError> {
    let exports = instantiate_router(store, pre)?;
    let described = exports.0.tidegate_plugin_lifecycle().call_describe(&mut store.inner);
    let router_lifecycle::Description { name, version, summary, example } =
        described.map_err(|error| store.trapped(&error))?;
    Ok(description(name, version, summary, example))
}

pub(crate) fn describe_partitioner(store: &mut Store, pre: &Pre) -> Result<Description, OpenError> {
    let exports = instantiate_partitioner(store, pre)?;
    let described = exports.0.tidegate_plugin_lifecycle().call_describe(&mut store.inner);
    let partitioner_lifecycle::Description { name, version, summary, example } =
        described.map_err(|error| store.trapped(&error))?;
    Ok(description(name, version, summary, example))
}

pub(crate) fn open_router(store: &mut Store, pre: &Pre, config: &str) -> Result<(RouterExports, Needs), OpenError> {
    let exports = instantiate_router(store, pre)?;
    let opened = exports.0.tidegate_plugin_lifecycle().call_open(&mut store.inner, config);
    let router_lifecycle::Needs { columns, facts, headers } =
        opened.map_err(|error| store.trapped(&error))?.map_err(refused)?;
    Ok((exports, needs(store, columns, facts, headers)?))
}

pub(crate) fn open_partitioner(
    store: &mut Store,
    pre: &Pre,
    config: &str,
) -> Result<(PartitionerExports, Needs), OpenError> {
    let exports = instantiate_partitioner(store, pre)?;
    let opened = exports.0.tidegate_plugin_lifecycle().call_open(&mut store.inner, config);
    let partitioner_lifecycle::Needs { columns, facts, headers } =
        opened.map_err(|error| store.trapped(&error))?.map_err(refused)?;
    Ok((exports, needs(store, columns, facts, headers)?))
}

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

fn description(name: String, version: String, summary: String, example: String) -> Description {
    Description { name: cut(name), version: cut(version), summary: cut(summary), example: cut(example) }
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
