//! Between the generated bindings and the traits: what `export!` expands to calls these, and so does the test kit.

use serde::de::DeserializeOwned;

use crate::{
    Batch, Failure, Partitioner, Placement, Router, Routes, Setup,
    ack::{AckHook, Decisions},
    bindings::{
        ack::exports::tidegate::plugin::acknowledging,
        base::tidegate::plugin::{log, types},
        partitioner::exports::tidegate::plugin::partitioning,
        retention::exports::tidegate::plugin::retaining,
        router::exports::tidegate::plugin::routing,
    },
    host,
    offload::{self, Choices, Offloader},
    retention::{Eraser, Kept, Retention, Stored, Topic, Verdicts, stored_context},
};

/// What a plugin asked for in `open`.
#[derive(Debug)]
pub struct Needs {
    pub columns: types::Columns,
    pub facts: types::Facts,
    pub headers: Vec<String>,
}

impl From<Setup> for Needs {
    fn from(setup: Setup) -> Self {
        let Setup { columns, facts, headers } = setup;
        Self { columns, facts, headers }
    }
}

/// Sends the text of a panic to the log: in Wasm it would be lost, and the broker would know only that the plugin trapped.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        host::log(log::Level::Error, &panic.to_string());
    }));
}

/// # Errors
/// In the plugin's words, or those of the parser of its configuration.
pub fn open_router<R: Router>(config: &str) -> Result<(R, Needs), String> {
    let mut setup = Setup::new();
    let router = R::open(parse(config)?, &mut setup).map_err(|error| error.to_string())?;
    Ok((router, setup.into()))
}

/// # Errors
/// As [`open_router`].
pub fn open_partitioner<P: Partitioner>(config: &str) -> Result<(P, Needs), String> {
    let mut setup = Setup::new();
    let partitioner = P::open(parse(config)?, &mut setup).map_err(|error| error.to_string())?;
    Ok((partitioner, setup.into()))
}

/// # Errors
/// As [`open_router`].
pub fn open_ack<A: AckHook>(config: &str) -> Result<(A, Needs), String> {
    let mut setup = Setup::new();
    let hook = A::open(parse(config)?, &mut setup).map_err(|error| error.to_string())?;
    Ok((hook, setup.into()))
}

/// # Errors
/// As [`open_router`].
pub fn open_retention<R: Retention>(config: &str) -> Result<(R, Needs), String> {
    let mut setup = Setup::new();
    let policy = R::open(parse(config)?, &mut setup).map_err(|error| error.to_string())?;
    Ok((policy, setup.into()))
}

/// An attachment without configuration has the empty text: that is `{}`, or nothing where `Config` is `()`.
fn parse<C: DeserializeOwned>(config: &str) -> Result<C, String> {
    let parsed = if config.trim().is_empty() {
        serde_json::from_str("{}").or_else(|error| serde_json::from_str("null").map_err(|_| error))
    } else {
        serde_json::from_str(config)
    };
    parsed.map_err(|error| format!("the configuration cannot be read: {error}"))
}

#[must_use]
pub fn batch(topic: types::Topic, records: types::Batch, contexts: Vec<types::Context>) -> Batch {
    Batch { topic, records, contexts }
}

/// # Errors
/// The router's own, or that it did not answer for every record.
pub fn route<R: Router>(router: &mut R, batch: &Batch) -> Result<routing::Answer, types::Failure> {
    let mut routes = Routes::new(batch.len());
    router.route(batch, &mut routes)?;
    Ok(routes.finish()?)
}

/// # Errors
/// The partitioner's own, or that it did not answer for every record.
pub fn partition<P: Partitioner>(
    partitioner: &mut P,
    batch: &Batch,
) -> Result<partitioning::Placement, types::Failure> {
    let mut placement = Placement::new(batch.len());
    partitioner.partition(batch, &mut placement)?;
    Ok(placement.finish()?)
}

/// # Errors
/// The hook's own, or that it did not answer for every batch.
pub fn decide<A: AckHook>(
    hook: &mut A,
    batch: &Batch,
    arrivals: &[acknowledging::Arrival],
) -> Result<acknowledging::Answer, types::Failure> {
    let mut decisions = Decisions::new(arrivals.len());
    hook.decide(batch, arrivals, &mut decisions)?;
    Ok(decisions.finish()?)
}

/// # Errors
/// The policy's own, or that it did not answer for every partition.
pub fn evaluate<R: Retention>(
    policy: &mut R,
    topic: &types::Topic,
    logs: &[retaining::PartitionLog],
    now: i64,
) -> Result<retaining::Answer, types::Failure> {
    let mut verdicts = Verdicts::new(logs.len());
    let topic = Topic { name: &topic.name, partitions: topic.partitions, logs, now };
    policy.evaluate(&topic, &mut verdicts)?;
    Ok(verdicts.finish()?)
}

/// # Errors
/// The eraser's own, or that it did not answer for every record.
pub fn keep<E: Eraser>(
    eraser: &mut E,
    topic: types::Topic,
    partition: u32,
    records: types::Batch,
    offsets: &[i64],
    now: i64,
) -> Result<Vec<u64>, types::Failure> {
    let contexts = vec![stored_context(records.count, now)];
    let batch = batch(topic, records, contexts);
    let mut kept = Kept::new(batch.len());
    eraser.keep(&Stored { partition, batch: &batch, offsets, now }, &mut kept)?;
    Ok(kept.finish()?)
}

impl From<Failure> for types::Failure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Retry(reason) => Self::Retry(reason),
            Failure::Failed(reason) => Self::Failed(reason),
        }
    }
}

impl From<types::Failure> for Failure {
    fn from(failure: types::Failure) -> Self {
        match failure {
            types::Failure::Retry(reason) => Self::Retry(reason),
            types::Failure::Failed(reason) => Self::Failed(reason),
        }
    }
}

/// # Errors
/// The policy's own, or that it did not choose for every partition.
pub fn offload<O: Offloader>(
    policy: &mut O,
    topic: &types::Topic,
    logs: &[offload::PartitionLog],
    now: i64,
) -> Result<Vec<Vec<u32>>, types::Failure> {
    let topic = offload::Topic { name: &topic.name, partitions: topic.partitions, logs, now };
    let mut choices = Choices::new(logs.len());
    policy.offload(&topic, &mut choices)?;
    Ok(choices.finish()?)
}
