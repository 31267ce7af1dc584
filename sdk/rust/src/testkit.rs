//! Tests of plugins without Wasm and without a broker: make records, ask the plugin, look where they went.
//!
//! What the broker would withhold is withheld here, too: a column that the plugin did not ask for is not there.

use std::{fmt, marker::PhantomData};

use crate::{
    Batch, Failure, Partitioner, Router,
    ack::{AckHook, Acks, Arrival, Copies, Reason, Replica},
    bindings::{
        ack::exports::tidegate::plugin::acknowledging::Decision,
        base::tidegate::plugin::{log::Level, types},
        router::exports::tidegate::plugin::routing,
    },
    glue::{self, Needs},
    host::stand_in::HOST,
    offload::{self, Offloader},
    retention::{Eraser, PartitionLog, Retention},
};

/// The name of the topic that test records are sent to.
pub const SENT_TO: &str = "sent-to";

/// A record to ask a plugin about.
#[derive(Clone, Debug, Default)]
pub struct TestRecord {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    timestamp: i64,
    headers: Vec<(String, Vec<u8>)>,
}

/// A record without key, value and headers.
#[must_use]
pub fn record() -> TestRecord {
    TestRecord::default()
}

impl TestRecord {
    #[must_use]
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(key.as_ref().to_vec());
        self
    }

    #[must_use]
    pub fn value(mut self, value: impl AsRef<[u8]>) -> Self {
        self.value = Some(value.as_ref().to_vec());
        self
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    #[must_use]
    pub fn timestamp(mut self, timestamp: i64) -> Self {
        self.timestamp = timestamp;
        self
    }
}

/// Where a record went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routed {
    /// To these topics, each with the partition that was wished for. None: it was dropped.
    To(Vec<(String, Option<u32>)>),
    /// It was refused, for this reason.
    Rejected(String),
}

impl Routed {
    /// The names of the topics; [`SENT_TO`] is the one it was sent to.
    ///
    /// # Panics
    /// Where the record was rejected.
    #[must_use]
    pub fn topics(&self) -> Vec<&str> {
        match self {
            Self::To(destinations) => destinations.iter().map(|(topic, _)| topic.as_str()).collect(),
            Self::Rejected(reason) => panic!("the record was rejected: {reason}"),
        }
    }
}

/// A plugin that was opened, and the surroundings that a test can change.
pub struct Opened<P> {
    plugin: P,
    needs: Needs,
    /// How many partitions the topic has; 12 unless said otherwise.
    pub partitions: u32,
    /// [`Context::now`](crate::Context::now) of the next batch.
    pub now: i64,
    /// [`Context::seed`](crate::Context::seed) of the next batch.
    pub seed: u64,
    pub principal: Option<String>,
    pub client_id: Option<String>,
    _not_send: PhantomData<*const ()>,
}

/// Opens a router with a configuration, as the broker does when it is attached.
///
/// # Errors
/// What whoever attaches the plugin would read.
pub fn open_router<R: Router>(config: &str) -> Result<Opened<R>, String> {
    HOST.take();
    glue::open_router(config).map(Opened::new)
}

/// Opens a partitioner with a configuration, as the broker does when it is attached.
///
/// # Errors
/// What whoever attaches the plugin would read.
pub fn open_partitioner<P: Partitioner>(config: &str) -> Result<Opened<P>, String> {
    HOST.take();
    glue::open_partitioner(config).map(Opened::new)
}

/// Opens an acknowledgement hook with a configuration, as the broker does when it is attached.
///
/// # Errors
/// What whoever attaches the plugin would read.
pub fn open_ack<A: AckHook>(config: &str) -> Result<Opened<A>, String> {
    HOST.take();
    glue::open_ack(config).map(Opened::new)
}

/// Opens a retention policy with a configuration, as the broker does when it is attached.
///
/// # Errors
/// What whoever attaches the plugin would read.
pub fn open_retention<R: Retention>(config: &str) -> Result<Opened<R>, String> {
    HOST.take();
    glue::open_retention(config).map(Opened::new)
}

/// What a hook said of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    AsAsked,
    Appended,
    LeaderDurable,
    MinInSync,
    AllInSync,
    /// Copies, racks, brokers and milliseconds of [`Copies`].
    Until(u32, u32, Vec<i32>, u32),
    Refused(Reason, String),
    /// Some records are rejected: their positions and the reasons.
    Rejected(Vec<(u32, String)>),
}

/// What a policy said of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub delete_before: i64,
    pub rewrite: Vec<u32>,
}

// By hand: a plugin need not be `Debug` for `expect_err` to work on the result of opening it.
impl<P> fmt::Debug for Opened<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("needs", &self.needs).finish_non_exhaustive()
    }
}

impl<P> Opened<P> {
    fn new((plugin, needs): (P, Needs)) -> Self {
        Self {
            plugin,
            needs,
            partitions: 12,
            now: 1_700_000_000_000,
            seed: 1,
            principal: None,
            client_id: None,
            _not_send: PhantomData,
        }
    }

    /// The lines that plugins of this thread logged since the last one was opened, each after its level.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        HOST.with_borrow(|host| {
            let level = |level: &Level| match level {
                Level::Error => "error",
                Level::Warn => "warn",
                Level::Info => "info",
                Level::Debug => "debug",
            };
            host.lines.iter().map(|(at, line)| format!("{}: {line}", level(at))).collect()
        })
    }

    /// The value of a series, named with its labels in order: `records_seen topic=x`. A histogram's is how often it observed.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<f64> {
        HOST.with_borrow(|host| host.series.iter().find(|(known, _)| known == name).map(|(_, value)| *value))
    }

    fn batch(&self, records: &[TestRecord]) -> Batch {
        let count = u32::try_from(records.len()).expect("a test has fewer than four billion records");
        let wants = |columns| self.needs.columns.contains(columns);
        let column = |of: &dyn Fn(&TestRecord) -> Option<Vec<u8>>| column(records.iter().map(of));
        let batch = types::Batch {
            count,
            keys: wants(types::Columns::KEYS).then(|| column(&|record| record.key.clone())),
            values: wants(types::Columns::VALUES).then(|| column(&|record| record.value.clone())),
            timestamps: wants(types::Columns::TIMESTAMPS)
                .then(|| records.iter().map(|record| record.timestamp).collect()),
            headers: self.needs.headers.iter().map(|name| column(&|record| record.last_header(name))).collect(),
        };
        let known = |fact| self.needs.facts.contains(fact);
        let context = types::Context {
            end: count,
            now: self.now,
            seed: self.seed,
            principal: self.principal.clone().filter(|_| known(types::Facts::PRINCIPAL)),
            client_id: self.client_id.clone().filter(|_| known(types::Facts::CLIENT_ID)),
        };
        let topic = types::Topic { name: SENT_TO.to_owned(), partitions: self.partitions };
        glue::batch(topic, batch, vec![context])
    }
}

/// A batch that was made for a plugin: for benchmarks, which ask about the same one again and again.
pub struct Prepared(Batch);

impl<P> Opened<P> {
    /// Makes a batch with what the plugin asked for.
    #[must_use]
    pub fn prepare(&self, records: &[TestRecord]) -> Prepared {
        Prepared(self.batch(records))
    }
}

impl<R: Router> Opened<R> {
    /// Routes a batch, and does with the answer nothing but count its destinations.
    ///
    /// # Errors
    /// As [`Opened::route`].
    pub fn route_prepared(&mut self, batch: &Prepared) -> Result<usize, Failure> {
        let count = batch.0.len();
        Ok(match glue::route(&mut self.plugin, &batch.0)?.routes {
            routing::Routes::Unchanged => count,
            routing::Routes::Uniform(to) => to.topics.len() * count,
            routing::Routes::Single(to) => to.topics.len(),
            routing::Routes::Many(fan_out) => fan_out.to.topics.len(),
        })
    }

    /// Asks where the records go.
    ///
    /// # Errors
    /// The router's own, or that it did not answer for every record.
    pub fn route(&mut self, records: &[TestRecord]) -> Result<Vec<Routed>, Failure> {
        let batch = self.batch(records);
        let answer = glue::route(&mut self.plugin, &batch)?;
        let mut routed = (0..records.len()).map(|index| destinations(&answer.routes, index)).collect::<Vec<_>>();
        for rejection in answer.rejected {
            routed[rejection.record as usize] = Routed::Rejected(rejection.reason);
        }
        Ok(routed)
    }
}

impl<P: Partitioner> Opened<P> {
    /// Places a batch: a partition for each record.
    ///
    /// # Errors
    /// As [`Opened::partition`].
    pub fn partition_prepared(&mut self, batch: &Prepared) -> Result<Vec<u32>, Failure> {
        Ok(glue::partition(&mut self.plugin, &batch.0)?.partitions)
    }

    /// Asks for the partition of each record, or the reason why it was rejected.
    ///
    /// # Errors
    /// The partitioner's own, or that it did not answer for every record.
    pub fn partition(&mut self, records: &[TestRecord]) -> Result<Vec<Result<u32, String>>, Failure> {
        let batch = self.batch(records);
        let answer = glue::partition(&mut self.plugin, &batch)?;
        let mut placed = answer.partitions.into_iter().map(Ok).collect::<Vec<_>>();
        for rejection in answer.rejected {
            placed[rejection.record as usize] = Err(rejection.reason);
        }
        Ok(placed)
    }
}

impl<A: AckHook> Opened<A> {
    /// Asks about one batch of a producer with `acks=all`, to a partition with one replica.
    ///
    /// # Errors
    /// The hook's own, or that it did not answer.
    ///
    /// # Panics
    /// Where it asks for more than [`AckHook::strongest`]: the broker takes that for a fault.
    pub fn decide(&mut self, records: &[TestRecord]) -> Result<Decided, Failure> {
        let batch = self.batch(records);
        let columns = [&batch.records.keys, &batch.records.values];
        let bytes = columns.into_iter().flatten().map(|column| column.data.len()).sum::<usize>() + 61;
        let leader = Replica { broker: 1, rack: None, in_sync: true, behind: 0 };
        let arrival =
            Arrival { partition: 0, bytes: bytes as u32, acks: Acks::All, min_in_sync: 1, replicas: vec![leader] };
        let answer = glue::decide(&mut self.plugin, &batch, &[arrival])?;
        if !answer.rejected.is_empty() {
            let rejected = answer.rejected.into_iter().map(|rejection| (rejection.record, rejection.reason));
            return Ok(Decided::Rejected(rejected.collect()));
        }
        Ok(match answer.decisions.into_iter().next().expect("one for each arrival") {
            Decision::AsAsked => Decided::AsAsked,
            Decision::Appended => Decided::Appended,
            Decision::LeaderDurable => Decided::LeaderDurable,
            Decision::MinInSync => Decided::MinInSync,
            Decision::AllInSync => Decided::AllInSync,
            Decision::Refuse(refusal) => Decided::Refused(refusal.reason, refusal.message),
            Decision::Until(Copies { count, racks, brokers, within_ms }) => {
                let strongest =
                    self.plugin.strongest().expect("a hook that uses `until` says what it asks for at most");
                assert!(count <= strongest.count.max(1) && racks <= strongest.racks.max(1), "more than `strongest`");
                Decided::Until(count, racks, brokers, within_ms)
            }
        })
    }

    /// What it says of the most that it asks for: copies, racks and brokers.
    #[must_use]
    pub fn strongest(&self) -> Option<(u32, u32, Vec<i32>)> {
        self.plugin.strongest().map(|copies| (copies.count, copies.racks, copies.brokers))
    }
}

impl<R: Retention> Opened<R> {
    /// Asks what becomes of partitions, at [`Opened::now`].
    ///
    /// # Errors
    /// The policy's own, or that it did not answer for every partition.
    pub fn evaluate(&mut self, logs: &[PartitionLog]) -> Result<Vec<Judged>, Failure> {
        let topic = types::Topic { name: SENT_TO.to_owned(), partitions: self.partitions };
        let answer = glue::evaluate(&mut self.plugin, &topic, logs, self.now)?;
        let judged = answer
            .verdicts
            .into_iter()
            .map(|verdict| Judged { delete_before: verdict.delete_before, rewrite: verdict.rewrite });
        Ok(judged.collect())
    }
}

impl<O: Offloader> Opened<O> {
    /// Asks which segments of partitions go to the object store, at [`Opened::now`]: their indexes, for each partition.
    ///
    /// # Errors
    /// The policy's own, or that it did not choose for every partition.
    pub fn offload(&mut self, logs: &[offload::PartitionLog]) -> Result<Vec<Vec<u32>>, Failure> {
        let topic = types::Topic { name: SENT_TO.to_owned(), partitions: self.partitions };
        Ok(glue::offload(&mut self.plugin, &topic, logs, self.now)?)
    }
}

impl<E: Eraser> Opened<E> {
    /// Asks which records of a segment are kept; their offsets are 0, 1 and so on.
    ///
    /// # Errors
    /// The eraser's own, or that it did not answer for every record.
    pub fn keep(&mut self, records: &[TestRecord]) -> Result<Vec<bool>, Failure> {
        let Batch { topic, records: stored, .. } = self.batch(records);
        let offsets: Vec<i64> = (0..records.len() as i64).collect();
        let words = glue::keep(&mut self.plugin, topic, 0, stored, &offsets, self.now)?;
        Ok((0..records.len()).map(|record| words[record / 64] >> (record % 64) & 1 == 1).collect())
    }
}

impl TestRecord {
    fn last_header(&self, name: &str) -> Option<Vec<u8>> {
        self.headers.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }
}

fn column(values: impl Iterator<Item = Option<Vec<u8>>>) -> types::Column {
    let mut column = types::Column { data: Vec::new(), ends: Vec::new(), nulls: Vec::new() };
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
    column
}

fn destinations(routes: &routing::Routes, index: usize) -> Routed {
    let pick = |to: &routing::Destinations, range: std::ops::Range<usize>| {
        let named = range.map(|at| {
            let partition = to.partitions.get(at).copied().filter(|partition| *partition != u32::MAX);
            (topic_name(to.topics[at]), partition)
        });
        Routed::To(named.collect())
    };
    match routes {
        routing::Routes::Unchanged => Routed::To(vec![(SENT_TO.to_owned(), None)]),
        routing::Routes::Uniform(to) => pick(to, 0..to.topics.len()),
        routing::Routes::Single(to) => pick(to, index..index + 1),
        routing::Routes::Many(fan_out) => {
            let start = if index == 0 { 0 } else { fan_out.ends[index - 1] as usize };
            pick(&fan_out.to, start..fan_out.ends[index] as usize)
        }
    }
}

fn topic_name(number: u32) -> String {
    match number.checked_sub(1) {
        None => SENT_TO.to_owned(),
        Some(index) => HOST.with_borrow(|host| host.topics[index as usize].clone()),
    }
}
