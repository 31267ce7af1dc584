//! `tidegate topic`: create, list, describe, alter and delete topics.

use std::{collections::BTreeMap, io::Write};

use clap::{Args, Subcommand};
use kafka_protocol::error::ResponseError;
use serde::Serialize;

use super::{Bootstrap, Json, Usage, name_and_value};
use crate::{
    client::{
        Cluster,
        configs::{Config, ConfigChange, Source},
        offsets::{Position, TopicPartition},
        topics::{Absent, Change, NewTopic, Topic},
    },
    output::{self, Align, Table},
};

/// Create, list, describe, alter and delete topics
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate topic create orders --partitions 12
  tidegate topic list
  tidegate topic describe orders
  tidegate topic alter orders --config retention.ms=86400000
  tidegate topic delete orders")]
pub(super) struct TopicArgs {
    #[command(subcommand)]
    command: TopicCommand,
}

#[derive(Debug, Subcommand)]
enum TopicCommand {
    Create(Create),
    List(List),
    Describe(Describe),
    Alter(Alter),
    Delete(Delete),
}

impl TopicArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        match self.command {
            TopicCommand::Create(args) => args.run(out),
            TopicCommand::List(args) => args.run(out),
            TopicCommand::Describe(args) => args.run(out),
            TopicCommand::Alter(args) => args.run(out),
            TopicCommand::Delete(args) => args.run(out),
        }
    }
}

/// Create topics
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate topic create orders
  tidegate topic create orders --partitions 12 --config retention.ms=86400000 --config cleanup.policy=delete
  tidegate topic create orders --config tidegate.router=topic    attach a router plugin
  tidegate topic create orders --if-not-exists                   for scripts that run twice
  tidegate topic create orders clicks --json | jq -r '.[] | select(.result == \"created\") | .name'")]
struct Create {
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// How many partitions; without it, what the broker has for new topics
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// How many replicas; without it, what the broker has for new topics
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    replication_factor: Option<i16>,
    /// An entry of its configuration; may be given often
    #[arg(long = "config", short, value_name = "NAME=VALUE", value_parser = name_and_value)]
    configs: Vec<(String, String)>,
    /// Where it exists already, leave it as it is and succeed
    #[arg(long)]
    if_not_exists: bool,
    /// Let the broker check everything, and create nothing
    #[arg(long)]
    validate_only: bool,
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Creation {
    Created,
    CouldBeCreated,
    ExistsAlready,
}

#[derive(Serialize)]
struct CreatedTopic {
    name: String,
    result: Creation,
    /// `None` where the broker does not say.
    partitions: Option<i32>,
}

impl Create {
    fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut cluster = self.bootstrap.connect()?;
        self.json.each(out, ("name", &self.topics), |name| self.create(&mut cluster, name), CreatedTopic::show)
    }

    fn create(&self, cluster: &mut Cluster, name: &str) -> anyhow::Result<CreatedTopic> {
        let topic = NewTopic {
            name: name.to_owned(),
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            configs: self.configs.clone(),
        };
        let (result, partitions) = match cluster.create_topic(&topic, change(self.validate_only)) {
            Ok(partitions) if self.validate_only => (Creation::CouldBeCreated, partitions),
            Ok(partitions) => (Creation::Created, partitions),
            Err(error) if self.if_not_exists && error.code() == Some(ResponseError::TopicAlreadyExists) => {
                (Creation::ExistsAlready, None)
            }
            Err(error) => return Err(error.into()),
        };
        Ok(CreatedTopic { name: name.to_owned(), result, partitions })
    }
}

impl CreatedTopic {
    fn show(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let name = &self.name;
        match (self.result, self.partitions) {
            (Creation::CouldBeCreated, _) => writeln!(out, "topic {name} could be created")?,
            (Creation::ExistsAlready, _) => writeln!(out, "topic {name} exists already")?,
            (Creation::Created, Some(partitions)) => {
                let partitions = output::count(partitions.unsigned_abs().into(), "partition");
                writeln!(out, "created topic {name} with {partitions}")?;
            }
            (Creation::Created, None) => writeln!(out, "created topic {name}")?,
        }
        Ok(())
    }
}

/// List topics
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate topic list
  tidegate topic list --internal
  tidegate topic list --json | jq -r '.[].name'")]
struct List {
    /// Also the topics that the broker keeps for itself
    #[arg(long)]
    internal: bool,
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

#[derive(Serialize)]
struct ListedTopic {
    name: String,
    id: Option<String>,
    internal: bool,
    partitions: usize,
    replication_factor: usize,
}

impl List {
    fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let topics = self.bootstrap.connect()?.topics()?;
        let listed: Vec<ListedTopic> = topics
            .into_iter()
            .filter(|topic| self.internal || !topic.internal)
            .map(|topic| ListedTopic {
                partitions: topic.partitions.len(),
                replication_factor: topic.partitions.first().map_or(0, |partition| partition.replicas.len()),
                name: topic.name,
                id: topic.id,
                internal: topic.internal,
            })
            .collect();
        if self.json.json {
            return output::json(out, &listed);
        }
        let mut table = Table::new(&[("TOPIC", Align::Left), ("PARTITIONS", Align::Right), ("REPLICAS", Align::Right)]);
        for topic in listed {
            table.row([topic.name, topic.partitions.to_string(), topic.replication_factor.to_string()]);
        }
        Ok(table.write(out)?)
    }
}

/// Show a topic's partitions, their offsets and sizes, and its configuration
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate topic describe orders
  tidegate topic describe orders --all-configs
  tidegate topic describe orders --json | jq '.[0].partitions[].log_end_offset'")]
struct Describe {
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Every entry of the configuration, not only those that the topic sets itself
    #[arg(long)]
    all_configs: bool,
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

#[derive(Serialize)]
struct DescribedTopic {
    name: String,
    id: Option<String>,
    internal: bool,
    partitions: Vec<DescribedPartition>,
    configs: Vec<Config>,
}

#[derive(Serialize)]
struct DescribedPartition {
    #[serde(flatten)]
    partition: crate::client::topics::Partition,
    /// `None` where it has no leader to ask.
    log_start_offset: Option<i64>,
    log_end_offset: Option<i64>,
    bytes: Option<i64>,
}

impl Describe {
    fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut cluster = self.bootstrap.connect()?;
        let sizes = sizes(&mut cluster)?;
        let describe = |name: &str| {
            let topic = cluster.topic(name, Absent::Error)?;
            self.describe(&mut cluster, topic, &sizes)
        };
        let mut is_first = true;
        let show = |topic: &DescribedTopic, out: &mut dyn Write| {
            if !std::mem::take(&mut is_first) {
                writeln!(out)?;
            }
            print(topic, out)
        };
        self.json.each(out, ("name", &self.topics), describe, show)
    }

    fn describe(
        &self,
        cluster: &mut Cluster,
        topic: Topic,
        sizes: &BTreeMap<TopicPartition, i64>,
    ) -> anyhow::Result<DescribedTopic> {
        let led: Vec<TopicPartition> = topic
            .partitions
            .iter()
            .filter(|partition| partition.leader >= 0)
            .map(|partition| (topic.name.clone(), partition.partition))
            .collect();
        let starts = cluster.offsets(&led, Position::Earliest)?;
        let ends = cluster.offsets(&led, Position::Latest)?;
        let configs = cluster.topic_configs(&topic.name)?;
        let partitions = topic
            .partitions
            .into_iter()
            .map(|partition| {
                let key = (topic.name.clone(), partition.partition);
                DescribedPartition {
                    log_start_offset: starts.get(&key).map(|offset| offset.0),
                    log_end_offset: ends.get(&key).map(|offset| offset.0),
                    bytes: sizes.get(&key).copied(),
                    partition,
                }
            })
            .collect();
        Ok(DescribedTopic {
            partitions,
            configs: configs.into_iter().filter(|config| self.all_configs || config.source == Source::Topic).collect(),
            name: topic.name,
            id: topic.id,
            internal: topic.internal,
        })
    }
}

/// The bytes of every partition, of the broker that has most of it.
fn sizes(cluster: &mut Cluster) -> anyhow::Result<BTreeMap<TopicPartition, i64>> {
    let mut sizes: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    for (partition, bytes) in cluster.log_directories()?.into_iter().flat_map(|directory| directory.sizes) {
        let known = sizes.entry(partition).or_default();
        *known = bytes.max(*known);
    }
    Ok(sizes)
}

fn print(topic: &DescribedTopic, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "topic  {}{}", topic.name, if topic.internal { "  (internal)" } else { "" })?;
    if let Some(id) = &topic.id {
        writeln!(out, "id     {id}")?;
    }
    for config in &topic.configs {
        let value = if config.sensitive { "(secret)" } else { config.value.as_deref().unwrap_or("(none)") };
        let source = if config.source == Source::Topic { "" } else { "  (default)" };
        writeln!(out, "       {} = {value}{source}", config.name)?;
    }
    writeln!(out)?;
    let mut table = Table::new(&[
        ("PARTITION", Align::Right),
        ("LEADER", Align::Right),
        ("REPLICAS", Align::Left),
        ("IN SYNC", Align::Left),
        ("START", Align::Right),
        ("END", Align::Right),
        ("SIZE", Align::Right),
    ]);
    let number = |number: Option<i64>| number.map_or("-".to_owned(), |number| number.to_string());
    for described in &topic.partitions {
        let partition = &described.partition;
        table.row([
            partition.partition.to_string(),
            if partition.leader < 0 { "none".to_owned() } else { partition.leader.to_string() },
            ids(&partition.replicas),
            ids(&partition.in_sync_replicas),
            number(described.log_start_offset),
            number(described.log_end_offset),
            described.bytes.map_or("-".to_owned(), |bytes| output::bytes(bytes.unsigned_abs())),
        ]);
    }
    Ok(table.write(out)?)
}

fn ids(ids: &[i32]) -> String {
    ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

/// Give a topic more partitions, or change its configuration
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate topic alter orders --partitions 24
  tidegate topic alter orders --config retention.ms=-1 --unset segment.bytes
  tidegate topic alter clicks --config tidegate.router=topic --config 'tidegate.router.config={\"...\"}'")]
struct Alter {
    topic: String,
    /// How many partitions it is to have in all; a topic never gets fewer
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Set an entry of its configuration; may be given often
    #[arg(long = "config", short, value_name = "NAME=VALUE", value_parser = name_and_value)]
    configs: Vec<(String, String)>,
    /// Put an entry back to its default; may be given often
    #[arg(long, visible_alias = "delete-config", value_name = "NAME")]
    unset: Vec<String>,
    /// Let the broker check everything, and change nothing
    #[arg(long)]
    validate_only: bool,
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

#[derive(Serialize)]
struct AlteredTopic {
    name: String,
    result: Alteration,
    /// What was set, and to what.
    configs_set: BTreeMap<String, String>,
    configs_unset: Vec<String>,
    /// How many it has in all now, if it was given more.
    partitions: Option<i32>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Alteration {
    Altered,
    CouldBeAltered,
}

impl Alter {
    fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        if self.partitions.is_none() && self.configs.is_empty() && self.unset.is_empty() {
            return Err(Usage("nothing to alter: name --partitions, --config or --unset".to_owned()).into());
        }
        let mut cluster = self.bootstrap.connect()?;
        let result = if self.validate_only { Alteration::CouldBeAltered } else { Alteration::Altered };
        let mut altered = AlteredTopic {
            name: self.topic.clone(),
            result,
            configs_set: BTreeMap::new(),
            configs_unset: Vec::new(),
            partitions: None,
        };
        let done = self.alter(&mut cluster, &mut altered);
        // The configuration may be changed, and then the partitions refused: what was done is told either way.
        if done.is_ok() || altered.is_any() {
            if self.json.json { output::json(out, &altered)? } else { altered.show(out)? }
        }
        done
    }

    fn alter(&self, cluster: &mut Cluster, altered: &mut AlteredTopic) -> anyhow::Result<()> {
        let set = |(name, value): &(String, String)| ConfigChange::Set { name: name.clone(), value: value.clone() };
        let unset = |name: &String| ConfigChange::Unset { name: name.clone() };
        let changes: Vec<ConfigChange> = self.configs.iter().map(set).chain(self.unset.iter().map(unset)).collect();
        if !changes.is_empty() {
            cluster.alter_topic_configs(&self.topic, &changes, change(self.validate_only))?;
            altered.configs_set.extend(self.configs.iter().cloned());
            altered.configs_unset.extend(self.unset.iter().cloned());
        }
        if let Some(count) = self.partitions {
            cluster.set_partition_count(&self.topic, count, change(self.validate_only))?;
            altered.partitions = Some(count);
        }
        Ok(())
    }
}

impl AlteredTopic {
    fn is_any(&self) -> bool {
        self.has_configs() || self.partitions.is_some()
    }

    fn has_configs(&self) -> bool {
        !self.configs_set.is_empty() || !self.configs_unset.is_empty()
    }

    fn show(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let made = match self.result {
            Alteration::Altered => "was",
            Alteration::CouldBeAltered => "could be",
        };
        if self.has_configs() {
            writeln!(out, "the configuration of topic {} {made} changed", self.name)?;
        }
        if let Some(partitions) = self.partitions {
            let partitions = output::count(partitions.unsigned_abs().into(), "partition");
            writeln!(out, "topic {} {made} given {partitions}", self.name)?;
        }
        Ok(())
    }
}

/// Delete topics, with all their records
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate topic delete orders
  tidegate topic delete --if-exists orders clicks")]
struct Delete {
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Succeed where there is none of that name
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Deletion {
    Deleted,
    NotFound,
}

#[derive(Serialize)]
struct DeletedTopic {
    name: String,
    result: Deletion,
}

impl Delete {
    fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut cluster = self.bootstrap.connect()?;
        self.json.each(out, ("name", &self.topics), |name| self.delete(&mut cluster, name), DeletedTopic::show)
    }

    fn delete(&self, cluster: &mut Cluster, name: &str) -> anyhow::Result<DeletedTopic> {
        let result = match cluster.delete_topic(name) {
            Ok(()) => Deletion::Deleted,
            Err(error) if self.if_exists && error.code() == Some(ResponseError::UnknownTopicOrPartition) => {
                Deletion::NotFound
            }
            Err(error) => return Err(error.into()),
        };
        Ok(DeletedTopic { name: name.to_owned(), result })
    }
}

impl DeletedTopic {
    fn show(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        match self.result {
            Deletion::Deleted => writeln!(out, "deleted topic {}", self.name)?,
            Deletion::NotFound => writeln!(out, "there is no topic {}", self.name)?,
        }
        Ok(())
    }
}

fn change(validate_only: bool) -> Change {
    if validate_only { Change::Check } else { Change::Make }
}
