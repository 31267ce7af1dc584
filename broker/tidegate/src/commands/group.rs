//! `tidegate group`: consumer groups, how far they are behind, and setting their offsets.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
};

use clap::{Args, Subcommand};
use kafka_protocol::error::ResponseError;
use serde::Serialize;
use tidegate_records::{ids::Offset, time::Timestamp};

use super::{Bootstrap, Json, Usage};
use crate::{
    client::{
        Cluster,
        groups::{Group, Member},
        offsets::{Position, TopicPartition},
        topics::Absent,
    },
    moment,
    output::{self, Align, Table},
};

/// List, describe, reset and delete consumer groups
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate group list
  tidegate group describe billing                                               how far it is behind
  tidegate group reset-offsets billing --topic orders --to-earliest --execute
  tidegate group delete billing")]
pub(super) struct GroupArgs {
    #[command(subcommand)]
    command: GroupCommand,
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    List(List),
    Describe(Describe),
    ResetOffsets(ResetOffsets),
    Delete(Delete),
}

impl GroupArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        match self.command {
            GroupCommand::List(args) => args.run(out),
            GroupCommand::Describe(args) => args.run(out),
            GroupCommand::ResetOffsets(args) => args.run(out),
            GroupCommand::Delete(args) => args.run(out),
        }
    }
}

/// List groups
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate group list
  tidegate group list --json | jq -r '.[] | select(.state == \"Empty\") | .group'")]
struct List {
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

impl List {
    fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let groups = self.bootstrap.connect()?.groups()?;
        if self.json.json {
            return output::json(out, &groups);
        }
        let mut table = Table::new(&[
            ("GROUP", Align::Left),
            ("TYPE", Align::Left),
            ("STATE", Align::Left),
            ("COORDINATOR", Align::Right),
        ]);
        for group in groups {
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            table.row([group.group, or_dash(group.kind), or_dash(group.state), group.coordinator.to_string()]);
        }
        Ok(table.write(out)?)
    }
}

/// Show what groups have committed, how far they are behind, and their members
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate group describe billing
  tidegate group describe billing --members
  tidegate group describe billing --json | jq '[.[0].offsets[].lag] | add'")]
struct Describe {
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,
    /// Show the members, and not the offsets
    #[arg(long, conflicts_with = "json")]
    members: bool,
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

#[derive(Serialize)]
struct DescribedGroup {
    #[serde(flatten)]
    group: Group,
    offsets: Vec<GroupOffset>,
}

#[derive(Serialize)]
struct GroupOffset {
    topic: String,
    partition: i32,
    committed_offset: Option<i64>,
    log_end_offset: Option<i64>,
    lag: Option<i64>,
    member_id: Option<String>,
}

impl Describe {
    fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut cluster = self.bootstrap.connect()?;
        let mut is_first = true;
        let show = |group: &DescribedGroup, out: &mut dyn Write| {
            if !std::mem::take(&mut is_first) {
                writeln!(out)?;
            }
            heading(&group.group, out)?;
            if self.members { print_members(&group.group.members, out) } else { print_offsets(group, out) }
        };
        self.json.each(out, ("group", &self.groups), |name| describe(&mut cluster, name), show)
    }
}

fn describe(cluster: &mut Cluster, name: &str) -> anyhow::Result<DescribedGroup> {
    let group = cluster.group(name)?;
    let committed = cluster.committed(name)?;
    let mut owners: BTreeMap<TopicPartition, &str> = BTreeMap::new();
    for member in &group.members {
        for (topic, partitions) in &member.assigned {
            owners.extend(partitions.iter().map(|partition| ((topic.clone(), *partition), member.member_id.as_str())));
        }
    }
    let partitions: BTreeSet<TopicPartition> = committed.keys().chain(owners.keys()).cloned().collect();
    let ends = ends(cluster, &partitions)?;
    let offsets = partitions
        .into_iter()
        .map(|partition| {
            let committed_offset = committed.get(&partition).map(|offset| offset.0);
            let log_end_offset = ends.get(&partition).map(|offset| offset.0);
            GroupOffset {
                committed_offset,
                log_end_offset,
                lag: committed_offset.zip(log_end_offset).map(|(committed, end)| (end - committed).max(0)),
                member_id: owners.get(&partition).map(|member| (*member).to_owned()),
                topic: partition.0,
                partition: partition.1,
            }
        })
        .collect();
    Ok(DescribedGroup { offsets, group })
}

/// The log end offsets of those partitions that (still) exist and have a leader.
fn ends(
    cluster: &mut Cluster,
    partitions: &BTreeSet<TopicPartition>,
) -> anyhow::Result<BTreeMap<TopicPartition, Offset>> {
    let topics: BTreeSet<&str> = partitions.iter().map(|(topic, _)| topic.as_str()).collect();
    let mut led: Vec<TopicPartition> = Vec::new();
    for name in topics {
        match cluster.topic(name, Absent::Error) {
            Ok(topic) => led.extend(
                topic
                    .partitions
                    .iter()
                    .filter(|partition| partition.leader >= 0)
                    .map(|partition| (name.to_owned(), partition.partition))
                    .filter(|partition| partitions.contains(partition)),
            ),
            Err(error) if error.code() == Some(ResponseError::UnknownTopicOrPartition) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(cluster.offsets(&led, Position::Latest)?)
}

fn heading(group: &Group, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "group        {}", group.group)?;
    writeln!(out, "type         {}", group.kind)?;
    writeln!(out, "state        {}", group.state)?;
    writeln!(out, "coordinator  {}", group.coordinator)?;
    if !group.assignor.is_empty() {
        writeln!(out, "assignor     {}", group.assignor)?;
    }
    writeln!(out, "members      {}", group.members.len())?;
    Ok(writeln!(out)?)
}

fn print_offsets(group: &DescribedGroup, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        ("TOPIC", Align::Left),
        ("PARTITION", Align::Right),
        ("COMMITTED", Align::Right),
        ("END", Align::Right),
        ("LAG", Align::Right),
        ("MEMBER", Align::Left),
    ]);
    let number = |number: Option<i64>| number.map_or("-".to_owned(), |number| number.to_string());
    for offset in &group.offsets {
        table.row([
            offset.topic.clone(),
            offset.partition.to_string(),
            number(offset.committed_offset),
            number(offset.log_end_offset),
            number(offset.lag),
            offset.member_id.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    Ok(table.write(out)?)
}

fn print_members(members: &[Member], out: &mut dyn Write) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        ("MEMBER", Align::Left),
        ("INSTANCE", Align::Left),
        ("CLIENT", Align::Left),
        ("HOST", Align::Left),
        ("PARTITIONS", Align::Left),
    ]);
    for member in members {
        let assigned: Vec<String> = member
            .assigned
            .iter()
            .map(|(topic, partitions)| {
                format!("{topic}[{}]", partitions.iter().map(i32::to_string).collect::<Vec<_>>().join(","))
            })
            .collect();
        table.row([
            member.member_id.clone(),
            member.instance_id.clone().unwrap_or_else(|| "-".to_owned()),
            member.client_id.clone(),
            member.host.clone(),
            assigned.join(" "),
        ]);
    }
    Ok(table.write(out)?)
}

/// Set the offsets of a group without members; shows what it would do, and does it with --execute
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate group reset-offsets billing --topic orders --to-earliest                see what would change
  tidegate group reset-offsets billing --topic orders --to-earliest --execute      change it
  tidegate group reset-offsets billing --all-topics --to-datetime 2026-01-31T13:00:00Z --execute
  tidegate group reset-offsets billing --topic orders:0,3 --shift-by -100 --execute")]
struct ResetOffsets {
    group: String,
    /// A topic, or only some of its partitions; may be given often
    #[arg(long, value_name = "TOPIC[:N,N]", required_unless_present = "all_topics", value_parser = topic_and_partitions)]
    topic: Vec<Selection>,
    /// Every topic for which the group has committed something
    #[arg(long, conflicts_with = "topic")]
    all_topics: bool,
    #[command(flatten)]
    target: Target,
    /// Do it; without this, only show it
    #[arg(long)]
    execute: bool,
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// Where the offsets go.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// To the beginning of each partition
    #[arg(long)]
    to_earliest: bool,
    /// To the end of each partition
    #[arg(long)]
    to_latest: bool,
    /// To that offset, or the nearest that there is
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    to_offset: Option<i64>,
    /// To the first record that is not older: a date and time, or how long ago (-6h)
    #[arg(long, value_name = "MOMENT", value_parser = moment_argument, allow_hyphen_values = true)]
    to_datetime: Option<Timestamp>,
    /// Forward by so many records from what is committed, or back by -N
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    shift_by: Option<i64>,
}

/// A topic, and which of its partitions; none stands for all.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Selection {
    topic: String,
    partitions: BTreeSet<i32>,
}

fn topic_and_partitions(text: &str) -> Result<Selection, String> {
    let (topic, list) = text.split_once(':').unwrap_or((text, ""));
    let wrong = || format!("{text:?} is not TOPIC or TOPIC:N,N");
    if topic.is_empty() || text.ends_with(':') {
        return Err(wrong());
    }
    let partitions = list
        .split(',')
        .filter(|_| !list.is_empty())
        .map(|index| index.trim().parse::<i32>().ok().filter(|index| *index >= 0).ok_or_else(wrong))
        .collect::<Result<_, _>>()?;
    Ok(Selection { topic: topic.to_owned(), partitions })
}

fn moment_argument(text: &str) -> Result<Timestamp, moment::NoMoment> {
    moment::parse(text, moment::now())
}

#[derive(Serialize)]
struct Reset {
    topic: String,
    partition: i32,
    committed_offset: Option<i64>,
    new_offset: i64,
}

impl ResetOffsets {
    fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut cluster = self.bootstrap.connect()?;
        let members = match cluster.group(&self.group) {
            Ok(group) => group.members.len(),
            // A group may be given offsets before it has its first member, as with Kafka's own tool.
            Err(error) if error.code() == Some(ResponseError::GroupIdNotFound) => 0,
            Err(error) => return Err(error.into()),
        };
        if members > 0 {
            let members = output::count(members as u64, "active member");
            anyhow::bail!(
                "group {:?} has {members}: stop its consumers first, or they would go on where they are",
                self.group
            );
        }
        let committed = cluster.committed(&self.group)?;
        let partitions = self.partitions(&mut cluster, &committed)?;
        let new = self.target.offsets(&mut cluster, &partitions, &committed)?;
        if self.execute {
            cluster.commit(&self.group, &new)?;
        }
        let resets: Vec<Reset> = new
            .into_iter()
            .map(|(key, offset)| Reset {
                committed_offset: committed.get(&key).map(|offset| offset.0),
                new_offset: offset.0,
                topic: key.0,
                partition: key.1,
            })
            .collect();
        if self.json.json {
            return output::json(out, &resets);
        }
        let mut table = Table::new(&[
            ("TOPIC", Align::Left),
            ("PARTITION", Align::Right),
            ("COMMITTED", Align::Right),
            ("NEW", Align::Right),
        ]);
        for reset in resets {
            let committed = reset.committed_offset.map_or("-".to_owned(), |offset| offset.to_string());
            table.row([reset.topic, reset.partition.to_string(), committed, reset.new_offset.to_string()]);
        }
        table.write(out)?;
        if !self.execute {
            writeln!(std::io::stderr(), "nothing is changed yet: add --execute to do it")?;
        }
        Ok(())
    }

    /// The partitions that are meant.
    fn partitions(
        &self,
        cluster: &mut Cluster,
        committed: &BTreeMap<TopicPartition, Offset>,
    ) -> anyhow::Result<Vec<TopicPartition>> {
        if self.all_topics {
            if committed.is_empty() {
                anyhow::bail!("group {:?} has committed nothing: name topics with --topic", self.group);
            }
            return Ok(committed.keys().cloned().collect());
        }
        let mut partitions = BTreeSet::new();
        for selection in &self.topic {
            let topic = cluster.topic(&selection.topic, Absent::Error)?;
            let known: BTreeSet<i32> = topic.partitions.iter().map(|partition| partition.partition).collect();
            if let Some(wrong) = selection.partitions.difference(&known).next() {
                return Err(Usage(format!(
                    "topic {:?} has no partition {wrong}: it has {}",
                    selection.topic,
                    known.len()
                ))
                .into());
            }
            let chosen = if selection.partitions.is_empty() { known } else { selection.partitions.clone() };
            partitions.extend(chosen.into_iter().map(|index| (selection.topic.clone(), index)));
        }
        Ok(partitions.into_iter().collect())
    }
}

impl Target {
    fn offsets(
        &self,
        cluster: &mut Cluster,
        partitions: &[TopicPartition],
        committed: &BTreeMap<TopicPartition, Offset>,
    ) -> anyhow::Result<BTreeMap<TopicPartition, Offset>> {
        if self.to_earliest {
            return Ok(cluster.offsets(partitions, Position::Earliest)?);
        }
        if self.to_latest {
            return Ok(cluster.offsets(partitions, Position::Latest)?);
        }
        if let Some(moment) = self.to_datetime {
            return Ok(cluster.offsets(partitions, Position::At(moment))?);
        }
        let starts = cluster.offsets(partitions, Position::Earliest)?;
        let ends = cluster.offsets(partitions, Position::Latest)?;
        let mut offsets = BTreeMap::new();
        for (partition, start) in starts {
            let wanted = match (self.to_offset, self.shift_by) {
                (Some(offset), _) => offset,
                (None, Some(count)) => match committed.get(&partition) {
                    Some(offset) => offset.0.saturating_add(count),
                    None => anyhow::bail!(
                        "nothing is committed for topic {:?}, partition {}, to shift from",
                        partition.0,
                        partition.1
                    ),
                },
                (None, None) => unreachable!("clap requires one of the targets"),
            };
            let end = ends.get(&partition).copied().unwrap_or(start);
            offsets.insert(partition, Offset(wanted.clamp(start.0, end.0.max(start.0))));
        }
        Ok(offsets)
    }
}

/// Delete groups without members, with what they have committed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate group delete billing")]
struct Delete {
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

#[derive(Serialize)]
struct DeletedGroup {
    group: String,
    /// In the words of `tidegate topic delete`.
    result: &'static str,
}

impl Delete {
    fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut cluster = self.bootstrap.connect()?;
        let delete = |group: &str| {
            cluster.delete_group(group)?;
            Ok(DeletedGroup { group: group.to_owned(), result: "deleted" })
        };
        let show = |deleted: &DeletedGroup, out: &mut dyn Write| Ok(writeln!(out, "deleted group {}", deleted.group)?);
        self.json.each(out, ("group", &self.groups), delete, show)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_names_a_topic_and_perhaps_partitions() {
        let check = |text: &str, topic: &str, partitions: &[i32]| {
            let expected = Selection { topic: topic.to_owned(), partitions: partitions.iter().copied().collect() };
            assert_eq!(topic_and_partitions(text), Ok(expected), "{text}");
        };
        check("orders", "orders", &[]);
        check("orders:0", "orders", &[0]);
        check("orders:3,1", "orders", &[1, 3]);
        for wrong in ["", ":1", "orders:", "orders:a", "orders:-1", "orders:1,,2"] {
            assert!(topic_and_partitions(wrong).is_err(), "{wrong:?}");
        }
    }
}
