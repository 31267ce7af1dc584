//! `tidegate cluster info`: the brokers, what they hold and what they speak.

use std::{collections::BTreeMap, io::Write};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Bootstrap, Json};
use crate::{
    client::{self, Broker, brokers::LogDirectory},
    output::{self, Align, Table},
};

/// Look at the cluster
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate cluster info
  tidegate cluster info --bootstrap broker.example.org:9092 --json")]
pub(super) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Show brokers, topics, disk space and, on demand, the protocol versions
    #[command(after_help = "\
Examples:
  tidegate cluster info
  tidegate cluster info --apis
  tidegate cluster info --json | jq '.brokers[].host'")]
    Info {
        #[command(flatten)]
        bootstrap: Bootstrap,
        /// Also show which APIs, in which versions, the broker offers
        #[arg(long)]
        apis: bool,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Serialize)]
struct Info {
    cluster_id: Option<String>,
    controller: i32,
    brokers: Vec<Broker>,
    topics: usize,
    partitions: usize,
    partitions_without_leader: usize,
    log_directories: Vec<LogDirectory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    apis: Option<BTreeMap<String, Versions>>,
}

#[derive(Serialize)]
struct Versions {
    key: i16,
    min: i16,
    max: i16,
}

impl ClusterArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let ClusterCommand::Info { bootstrap, apis, json } = self.command;
        let mut cluster = bootstrap.connect()?;
        let topics = cluster.topics()?;
        let partitions = || topics.iter().flat_map(|topic| &topic.partitions);
        let info = Info {
            cluster_id: cluster.cluster_id().map(str::to_owned),
            controller: cluster.controller(),
            brokers: cluster.brokers().cloned().collect(),
            topics: topics.len(),
            partitions: partitions().count(),
            partitions_without_leader: partitions().filter(|partition| partition.leader < 0).count(),
            log_directories: cluster.log_directories()?,
            apis: apis.then(|| offered(&cluster)),
        };
        if json.json { output::json(out, &info) } else { print(&info, out) }
    }
}

fn offered(cluster: &client::Cluster) -> BTreeMap<String, Versions> {
    cluster
        .offered()
        .iter()
        .map(|(key, range)| (client::api_name(*key).to_owned(), Versions { key: *key, min: range.min, max: range.max }))
        .collect()
}

fn print(info: &Info, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "cluster     {}", info.cluster_id.as_deref().unwrap_or("-"))?;
    writeln!(out, "controller  {}", info.controller)?;
    writeln!(out, "topics      {}", info.topics)?;
    write!(out, "partitions  {}", info.partitions)?;
    match info.partitions_without_leader {
        0 => writeln!(out)?,
        count => writeln!(out, ", {count} of them without a leader")?,
    }
    let mut table = Table::new(&[
        ("BROKER", Align::Right),
        ("ADDRESS", Align::Left),
        ("RACK", Align::Left),
        ("LOG DIRECTORY", Align::Left),
        ("PARTITIONS", Align::Right),
        ("LOGS", Align::Right),
        ("FREE", Align::Right),
        ("VOLUME", Align::Right),
    ]);
    let space = |bytes: Option<i64>| bytes.map_or("-".to_owned(), |bytes| output::bytes(bytes.unsigned_abs()));
    for broker in &info.brokers {
        for directory in info.log_directories.iter().filter(|directory| directory.broker == broker.id) {
            table.row([
                broker.id.to_string(),
                broker.address(),
                broker.rack.clone().unwrap_or_else(|| "-".to_owned()),
                directory.path.clone(),
                directory.partitions.to_string(),
                output::bytes(directory.log_bytes.unsigned_abs()),
                space(directory.usable_bytes),
                space(directory.total_bytes),
            ]);
        }
    }
    writeln!(out)?;
    table.write(out)?;
    if let Some(apis) = &info.apis {
        let mut table = Table::new(&[("KEY", Align::Right), ("API", Align::Left), ("VERSIONS", Align::Left)]);
        let mut by_key: Vec<_> = apis.iter().collect();
        by_key.sort_by_key(|(_, versions)| versions.key);
        for (name, versions) in by_key {
            table.row([versions.key.to_string(), name.clone(), format!("{}-{}", versions.min, versions.max)]);
        }
        writeln!(out)?;
        table.write(out)?;
    }
    Ok(())
}
