//! `tidegate plugin try`: where a record would go, asked of what is attached to a topic of a running broker. Nothing is written: the
//! broker hands over components and configurations, and they run here.

use std::{io::Write, time::Instant};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use tidegate_plugin_host::{CallError, Engine, Limits, Trap, TrapKind};

use super::{
    super::{Bootstrap, Json, name_and_value, produce::Draft},
    Admin,
    bench::nanoseconds,
    sandbox::{Loaded, Outcome, Place, Surroundings, engine, limits_of},
};
use crate::{
    client::{Cluster, topics::Absent},
    moment, output,
};

/// How often the plugin is asked, for the time that it takes.
const CALLS: usize = 101;

/// Ask what is attached to a topic where a record would go; nothing is written
///
/// The plugins and their configuration come from the broker and run here, in the same sandbox. A plugin that remembers earlier records
/// remembers none here.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate plugin try --topic orders --key eu.order.1
  tidegate plugin try --topic orders --key k --value '{\"region\":\"eu\"}' --header tenant=acme --json")]
pub(super) struct Try {
    /// The topic that the record would be sent to
    #[arg(long)]
    topic: String,
    /// Its key; without it, the record has none
    #[arg(long, allow_hyphen_values = true)]
    key: Option<String>,
    /// Its value; without it, the record has none
    #[arg(long, allow_hyphen_values = true)]
    value: Option<String>,
    /// A header; may be given often
    #[arg(long = "header", short = 'H', value_name = "NAME=VALUE", value_parser = name_and_value, allow_hyphen_values = true)]
    headers: Vec<(String, String)>,
    /// Its timestamp in milliseconds since 1970; else now
    #[arg(long, value_name = "MS")]
    timestamp: Option<i64>,
    /// What the plugins' random numbers begin with
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Who the plugins are told sends it
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// The client id that they are told
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    bootstrap: Bootstrap,
    #[command(flatten)]
    admin: Admin,
}

/// What is known in the end.
#[derive(Serialize)]
struct Tried {
    topic: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack: Option<Asked>,
    #[serde(skip_serializing_if = "Option::is_none")]
    router: Option<Asked>,
    /// The plugins that failed or answered what cannot be, and what the topic's policy is then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<Failure>,
    /// The reason, where the record would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<String>,
    destinations: Vec<Destination>,
}

/// A plugin that was asked.
#[derive(Clone, Serialize)]
struct Asked {
    plugin: String,
    /// The median of a call with this record alone; none, where it ends without an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    nanoseconds: Option<f64>,
    log: Vec<String>,
}

#[derive(Serialize)]
struct Destination {
    topic: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack: Option<Asked>,
    /// None: the one that the producer chooses, modulo the number of partitions where the record goes to another topic.
    partition: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partitioner: Option<Asked>,
}

/// A plugin that failed, in the broker's words.
#[derive(Serialize)]
struct Failure {
    world: &'static str,
    plugin: String,
    topic: String,
    error: String,
    on_failure: String,
}

/// Where a record is bound for: as any other, or as a dead letter.
enum Bound {
    To(Place),
    Letter(Place),
}

/// What becomes of a record whose plugin was asked.
enum Verdict {
    /// It goes on.
    On,
    Letter(Place),
    Refused(String),
}

/// In what way a plugin failed, and what its producer is told where it is refused for that.
struct Wrong {
    error: String,
    code: &'static str,
    /// No policy applies.
    is_final: bool,
}

impl Wrong {
    fn answer(error: String) -> Self {
        Self { error, code: "POLICY_VIOLATION", is_final: false }
    }

    /// As the broker tells them apart.
    fn of_call(plugin: &str, error: &CallError) -> Self {
        let code = match error {
            CallError::Retry { .. } | CallError::Trap(Trap { kind: TrapKind::Deadline, .. }) => "REQUEST_TIMED_OUT",
            CallError::Refused { .. } => "INVALID_RECORD",
            CallError::WrongAnswer(_) | CallError::Trap(_) => "POLICY_VIOLATION",
        };
        let is_final = matches!(error, CallError::Retry { .. });
        Self { error: format!("plugin '{plugin}': {error}"), code, is_final }
    }
}

impl Destination {
    fn of(Place { topic, partition }: Place) -> Self {
        Self { topic, ack: None, partition, partitioner: None }
    }
}

/// The first place that the broker does not let a router send to, and why.
pub(super) fn wrong_places(cluster: &mut Cluster, places: &[Place]) -> anyhow::Result<Option<String>> {
    for Place { topic: name, partition } in places {
        let topic = match cluster.topic(name, Absent::Error) {
            Ok(topic) => topic,
            Err(error) if error.code().is_some() => {
                return Ok(Some(format!("topic '{name}', which does not exist: create it")));
            }
            Err(error) => return Err(error.into()),
        };
        let partitions = topic.partitions.len();
        if topic.internal {
            return Ok(Some(format!("'{name}', which is the broker's own")));
        }
        if let Some(partition) = partition.filter(|partition| *partition as usize >= partitions) {
            return Ok(Some(format!("partition {partition} of '{name}', which has {partitions}")));
        }
    }
    Ok(None)
}

/// What is attached to a topic as one of its plugins.
#[derive(PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) plugin: String,
    pub(super) config: String,
}

impl Try {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut cluster = self.bootstrap.connect()?;
        let engine = engine()?;
        let partitions = cluster.topic(&self.topic, Absent::Error)?.partitions.len() as u32;
        let mut tried = Tried {
            topic: self.topic.clone(),
            ack: None,
            router: None,
            failures: Vec::new(),
            rejected: None,
            destinations: Vec::new(),
        };
        let own = Place { topic: self.topic.clone(), partition: None };
        let places = match self.hook(&engine, &mut cluster, &mut tried, &self.topic, partitions)? {
            (asked, Verdict::Refused(reason)) => {
                tried.ack = asked;
                tried.rejected = Some(reason);
                Vec::new()
            }
            (asked, Verdict::Letter(letters)) => {
                tried.ack = asked;
                vec![Bound::Letter(letters)]
            }
            (asked, Verdict::On) => {
                tried.ack = asked;
                match attached(&mut cluster, &self.topic, "router")? {
                    None => vec![Bound::To(own)],
                    Some(router) => self.route(&engine, &mut cluster, &mut tried, &router, partitions)?,
                }
            }
        };
        for place in places {
            match self.destination(&engine, &mut cluster, &mut tried, place)? {
                Ok(destination) => tried.destinations.push(destination),
                Err(reason) => tried.rejected = Some(reason),
            }
        }
        if self.json.json { output::json(out, &tried) } else { tried.show(out) }
    }

    /// Where the router sends the record, as the broker takes its answer.
    fn route(
        &self,
        engine: &Engine,
        cluster: &mut Cluster,
        tried: &mut Tried,
        router: &Attached,
        partitions: u32,
    ) -> anyhow::Result<Vec<Bound>> {
        let own = Place { topic: self.topic.clone(), partition: None };
        let (asked, outcome) = self.ask(engine, cluster, router, &self.topic, partitions)?;
        tried.router = Some(asked);
        let answer = match outcome {
            Err(error) => Err(Wrong::of_call(&router.plugin, &error)),
            Ok(Outcome::Rejected(reason)) => {
                tried.rejected = Some(reason);
                return Ok(Vec::new());
            }
            Ok(Outcome::To(places)) => match wrong_places(cluster, &places)? {
                Some(problem) => Err(Wrong::answer(format!("plugin '{}' routes to {problem}", router.plugin))),
                None => Ok(places),
            },
            Ok(Outcome::Partition(_) | Outcome::Accepted(_) | Outcome::Kept(_) | Outcome::Failed(_)) => Ok(Vec::new()),
        };
        let mut places = match answer {
            Ok(places) => places,
            Err(wrong) => {
                return Ok(match self.after(cluster, tried, ("router", &self.topic, &router.plugin), wrong)? {
                    Verdict::On => vec![Bound::To(own)],
                    Verdict::Letter(letters) => vec![Bound::Letter(letters)],
                    Verdict::Refused(reason) => {
                        tried.rejected = Some(reason);
                        Vec::new()
                    }
                });
            }
        };
        if places.is_empty() {
            match config(cluster, &self.topic, "tidegate.router.unroutable")?.as_deref() {
                Some("reject") => {
                    let plugin = &router.plugin;
                    let reason = format!("plugin '{plugin}' sends it nowhere (tidegate.router.unroutable=reject)");
                    tried.rejected = Some(reason);
                    return Ok(Vec::new());
                }
                Some("alternate") => {
                    let name = config(cluster, &self.topic, "tidegate.router.unroutable.topic")?.unwrap_or_default();
                    let alternate = Place { topic: name.clone(), partition: None };
                    if wrong_places(cluster, std::slice::from_ref(&alternate))?.is_some() {
                        let reason = format!("tidegate.router.unroutable.topic names '{name}', which does not exist");
                        tried.rejected = Some(reason);
                        return Ok(Vec::new());
                    }
                    places.push(alternate);
                }
                _ => {}
            }
        }
        let stores = config(cluster, &self.topic, "tidegate.router.store")?.as_deref() == Some("true");
        let kept = stores && !places.iter().any(|place| place.topic == own.topic);
        Ok(kept.then_some(own).into_iter().chain(places).map(Bound::To).collect())
    }

    /// What the acknowledgement hook of a topic says of the record, if it has one.
    fn hook(
        &self,
        engine: &Engine,
        cluster: &mut Cluster,
        tried: &mut Tried,
        topic: &str,
        partitions: u32,
    ) -> anyhow::Result<(Option<Asked>, Verdict)> {
        let Some(hook) = attached(cluster, topic, "ack")? else { return Ok((None, Verdict::On)) };
        let (asked, outcome) = self.ask(engine, cluster, &hook, topic, partitions)?;
        let verdict = match outcome {
            Ok(Outcome::Rejected(reason)) => Verdict::Refused(reason),
            Ok(_) => Verdict::On,
            Err(error) => {
                let wrong = Wrong::of_call(&hook.plugin, &error);
                self.after(cluster, tried, ("ack", topic, &hook.plugin), wrong)?
            }
        };
        Ok((Some(asked), verdict))
    }

    /// What the topic's policy makes of a plugin that failed.
    fn after(
        &self,
        cluster: &mut Cluster,
        tried: &mut Tried,
        (world, topic, plugin): (&'static str, &str, &str),
        wrong: Wrong,
    ) -> anyhow::Result<Verdict> {
        let policy = config(cluster, topic, &format!("tidegate.{world}.on.failure"))?.unwrap_or_default();
        let policy = if wrong.is_final { "reject" } else { &policy };
        let verdict = match policy {
            "bypass" => Verdict::On,
            "dead-letter" => {
                let name = config(cluster, topic, "tidegate.dead.letter.topic")?.unwrap_or_default();
                let letters = Place { topic: name.clone(), partition: None };
                match wrong_places(cluster, std::slice::from_ref(&letters))? {
                    None => Verdict::Letter(letters),
                    Some(_) => {
                        let error = &wrong.error;
                        Verdict::Refused(format!("{error}; and its dead-letter topic '{name}' does not exist"))
                    }
                }
            }
            _ => Verdict::Refused(format!("the producer gets {}: {}", wrong.code, wrong.error)),
        };
        tried.failures.push(Failure {
            world,
            plugin: plugin.to_owned(),
            topic: topic.to_owned(),
            error: wrong.error,
            on_failure: policy.to_owned(),
        });
        Ok(verdict)
    }

    /// Where in a topic the record goes, or why it is refused there.
    fn destination(
        &self,
        engine: &Engine,
        cluster: &mut Cluster,
        tried: &mut Tried,
        place: Bound,
    ) -> anyhow::Result<Result<Destination, String>> {
        let Place { topic, partition } = match place {
            Bound::To(place) => place,
            // A letter asks no plugin.
            Bound::Letter(letters) => return Ok(Ok(Destination::of(letters))),
        };
        let mut destination = Destination::of(Place { topic, partition });
        let partitions = cluster.topic(&destination.topic, Absent::Error)?.partitions.len() as u32;
        if partition.is_none()
            && let Some(partitioner) = attached(cluster, &destination.topic, "partitioner")?
        {
            let (asked, outcome) = self.ask(engine, cluster, &partitioner, &destination.topic, partitions)?;
            destination.partitioner = Some(asked);
            match outcome {
                Ok(Outcome::Partition(partition)) => destination.partition = Some(partition),
                Ok(Outcome::Rejected(reason)) => return Ok(Err(reason)),
                Ok(Outcome::To(_) | Outcome::Accepted(_) | Outcome::Kept(_) | Outcome::Failed(_)) => {}
                Err(error) => {
                    let wrong = Wrong::of_call(&partitioner.plugin, &error);
                    let failed = ("partitioner", destination.topic.as_str(), partitioner.plugin.as_str());
                    match self.after(cluster, tried, failed, wrong)? {
                        Verdict::On => {}
                        Verdict::Letter(letters) => return Ok(Ok(Destination::of(letters))),
                        Verdict::Refused(reason) => return Ok(Err(reason)),
                    }
                }
            }
        }
        if destination.topic != self.topic {
            let (asked, verdict) = self.hook(engine, cluster, tried, &destination.topic, partitions)?;
            destination.ack = asked;
            match verdict {
                Verdict::On => {}
                Verdict::Letter(letters) => return Ok(Ok(Destination::of(letters))),
                Verdict::Refused(reason) => return Ok(Err(reason)),
            }
        }
        Ok(Ok(destination))
    }

    /// A plugin's answer, or how the call ended.
    fn ask(
        &self,
        engine: &Engine,
        cluster: &mut Cluster,
        attached: &Attached,
        topic: &str,
        partitions: u32,
    ) -> anyhow::Result<(Asked, Result<Outcome, CallError>)> {
        let name = &attached.plugin;
        let component = self.admin.component(name)?;
        let limits = limits(cluster, topic)?;
        let mut plugin = Loaded::new(engine, component)
            .and_then(|loaded| loaded.open_within(&attached.config, &limits))
            .with_context(|| format!("plugin {name:?} of topic {topic:?}"))?;
        let record = Draft {
            key: self.key.clone().map(String::into_bytes),
            value: self.value.clone().map(String::into_bytes),
            headers: self
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), Some(value.clone().into_bytes())))
                .collect(),
            partition: None,
            timestamp: Some(self.timestamp.unwrap_or_else(|| moment::now().0)),
        };
        let around = Surroundings {
            topic: topic.to_owned(),
            partitions,
            now: record.timestamp,
            seed: self.seed,
            principal: self.principal.clone(),
            client_id: self.client_id.clone(),
        };
        let outcomes = plugin.ask(std::slice::from_ref(&record), &around);
        let log = plugin.log();
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => return Ok((Asked { plugin: name.clone(), nanoseconds: None, log }, Err(error))),
        };
        let columns = plugin.columns(std::slice::from_ref(&record));
        let mut times = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            let begin = Instant::now();
            plugin.call(&columns, &around)?;
            times.push(begin.elapsed().as_nanos() as f64);
        }
        times.sort_by(f64::total_cmp);
        let outcome = outcomes.into_iter().next().context("the plugin answers for a record")?;
        Ok((Asked { plugin: name.clone(), nanoseconds: Some(times[CALLS / 2]), log }, Ok(outcome)))
    }
}

impl Tried {
    fn show(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        if let Some(hook) = &self.ack {
            hook.show("ack", out)?;
        }
        match &self.router {
            None => writeln!(out, "topic {} has no router", self.topic)?,
            Some(router) => router.show("router", out)?,
        }
        for failure in &self.failures {
            let Failure { world, plugin, topic, error, on_failure } = failure;
            writeln!(out, "{world} {plugin} of {topic} fails: {error}")?;
            writeln!(out, "  tidegate.{world}.on.failure is {on_failure}")?;
        }
        if let Some(reason) = &self.rejected {
            writeln!(out, "rejected: {reason}")?;
            return Ok(());
        }
        if self.destinations.is_empty() {
            writeln!(out, "dropped: it goes nowhere")?;
        }
        for destination in &self.destinations {
            match destination.partition {
                Some(partition) => writeln!(out, "to {}, partition {partition}", destination.topic)?,
                None => writeln!(out, "to {}, the partition that the producer chooses", destination.topic)?,
            }
            if let Some(partitioner) = &destination.partitioner {
                partitioner.show("partitioner", out)?;
            }
            if let Some(hook) = &destination.ack {
                hook.show("ack", out)?;
            }
        }
        Ok(())
    }
}

impl Asked {
    fn show(&self, world: &str, out: &mut dyn Write) -> anyhow::Result<()> {
        if let Some(time) = self.nanoseconds {
            writeln!(out, "{world} {} answers in {}", self.plugin, nanoseconds(time))?;
        }
        self.log.iter().try_for_each(|line| writeln!(out, "  it says {line}"))?;
        Ok(())
    }
}

pub(super) fn attached(cluster: &mut Cluster, topic: &str, world: &str) -> anyhow::Result<Option<Attached>> {
    let Some(plugin) = config(cluster, topic, &format!("tidegate.{world}"))?.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let config = config(cluster, topic, &format!("tidegate.{world}.config"))?.unwrap_or_default();
    Ok(Some(Attached { plugin, config }))
}

/// What the plugins of a topic may use.
pub(super) fn limits(cluster: &mut Cluster, topic: &str) -> anyhow::Result<Limits> {
    Ok(limits_of(&cluster.broker_configs()?, &cluster.topic_configs(topic)?))
}

fn config(cluster: &mut Cluster, topic: &str, name: &str) -> anyhow::Result<Option<String>> {
    let configs = cluster.topic_configs(topic)?;
    Ok(configs.into_iter().find(|config| config.name == name).and_then(|config| config.value))
}
