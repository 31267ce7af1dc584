//! `tidegate plugin try`: where a record would go, asked of what is attached to a topic of a running broker. Nothing is written: the
//! broker hands over components and configurations, and they run here.

use std::{io::Write, time::Instant};

use anyhow::Context as _;
use clap::Args;
use kafka_protocol::error::ResponseError;
use serde::Serialize;
use tidegate_plugin_host::{Engine, Limits};

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
    /// The reason, where the record would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<String>,
    destinations: Vec<Destination>,
}

/// A plugin that was asked.
#[derive(Clone, Serialize)]
struct Asked {
    plugin: String,
    /// The median of a call with this record alone.
    nanoseconds: f64,
    log: Vec<String>,
}

#[derive(Serialize)]
struct Destination {
    topic: String,
    exists: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack: Option<Asked>,
    /// None: the one that the producer chooses, modulo the number of partitions where the record goes to another topic.
    partition: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partitioner: Option<Asked>,
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
        let mut tried =
            Tried { topic: self.topic.clone(), ack: None, router: None, rejected: None, destinations: Vec::new() };
        if let Some(hook) = attached(&mut cluster, &self.topic, "ack")? {
            let (asked, outcome) = self.ask(&engine, &mut cluster, &hook, &self.topic, partitions)?;
            tried.ack = Some(asked);
            if let Outcome::Rejected(reason) = outcome {
                tried.rejected = Some(reason);
                return if self.json.json { output::json(out, &tried) } else { tried.show(out) };
            }
        }
        let places = match attached(&mut cluster, &self.topic, "router")? {
            None => vec![Place { topic: self.topic.clone(), partition: None }],
            Some(router) => {
                let (asked, outcome) = self.ask(&engine, &mut cluster, &router, &self.topic, partitions)?;
                tried.router = Some(asked);
                match outcome {
                    Outcome::To(places) => {
                        let store = config(&mut cluster, &self.topic, "tidegate.router.store")?;
                        let own = Place { topic: self.topic.clone(), partition: None };
                        let kept =
                            store.as_deref() == Some("true") && !places.iter().any(|place| place.topic == own.topic);
                        kept.then_some(own).into_iter().chain(places).collect()
                    }
                    Outcome::Rejected(reason) => {
                        tried.rejected = Some(reason);
                        Vec::new()
                    }
                    Outcome::Partition(_) | Outcome::Accepted(_) | Outcome::Kept(_) => Vec::new(),
                }
            }
        };
        for place in places {
            match self.destination(&engine, &mut cluster, place)? {
                Ok(destination) => tried.destinations.push(destination),
                Err(reason) => tried.rejected = Some(reason),
            }
        }
        if self.json.json { output::json(out, &tried) } else { tried.show(out) }
    }

    /// Where in a topic the record goes, or why the topic's partitioner refuses it.
    fn destination(
        &self,
        engine: &Engine,
        cluster: &mut Cluster,
        place: Place,
    ) -> anyhow::Result<Result<Destination, String>> {
        let Place { topic, partition } = place;
        let mut destination = Destination { topic, exists: true, ack: None, partition, partitioner: None };
        let partitions = match cluster.topic(&destination.topic, Absent::Error) {
            Ok(topic) => topic.partitions.len() as u32,
            Err(error) if error.code() == Some(ResponseError::UnknownTopicOrPartition) => {
                destination.exists = false;
                return Ok(Ok(destination));
            }
            Err(error) => return Err(error.into()),
        };
        if partition.is_none()
            && let Some(partitioner) = attached(cluster, &destination.topic, "partitioner")?
        {
            let (asked, outcome) = self.ask(engine, cluster, &partitioner, &destination.topic, partitions)?;
            destination.partitioner = Some(asked);
            match outcome {
                Outcome::Partition(partition) => destination.partition = Some(partition),
                Outcome::Rejected(reason) => return Ok(Err(reason)),
                Outcome::To(_) | Outcome::Accepted(_) | Outcome::Kept(_) => {}
            }
        }
        if destination.topic != self.topic
            && let Some(hook) = attached(cluster, &destination.topic, "ack")?
        {
            let (asked, outcome) = self.ask(engine, cluster, &hook, &destination.topic, partitions)?;
            destination.ack = Some(asked);
            if let Outcome::Rejected(reason) = outcome {
                return Ok(Err(reason));
            }
        }
        Ok(Ok(destination))
    }

    fn ask(
        &self,
        engine: &Engine,
        cluster: &mut Cluster,
        attached: &Attached,
        topic: &str,
        partitions: u32,
    ) -> anyhow::Result<(Asked, Outcome)> {
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
        let outcomes = outcomes.with_context(|| {
            let said = log.iter().map(|line| format!("\nit says {line}")).collect::<String>();
            format!("plugin {name:?} of topic {topic:?} has no answer{said}")
        })?;
        let columns = plugin.columns(std::slice::from_ref(&record));
        let mut times = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            let begin = Instant::now();
            plugin.call(&columns, &around)?;
            times.push(begin.elapsed().as_nanos() as f64);
        }
        times.sort_by(f64::total_cmp);
        let outcome = outcomes.into_iter().next().context("the plugin answers for a record")?;
        Ok((Asked { plugin: name.clone(), nanoseconds: times[CALLS / 2], log }, outcome))
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
        if let Some(reason) = &self.rejected {
            writeln!(out, "rejected: {reason}")?;
            return Ok(());
        }
        if self.destinations.is_empty() {
            writeln!(out, "dropped: it goes nowhere")?;
        }
        for destination in &self.destinations {
            if !destination.exists {
                writeln!(out, "to {}, which does not exist", destination.topic)?;
                continue;
            }
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
        writeln!(out, "{world} {} answers in {}", self.plugin, nanoseconds(self.nanoseconds))?;
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
