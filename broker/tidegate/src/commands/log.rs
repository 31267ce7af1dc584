//! `tidegate log`: what the files of a stopped broker hold, byte position by byte position, and whether they are whole.

mod inspect;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidegate_records::ids::{TopicId, TopicPartition};
use tidegate_server::control::{plugins::verify_components, quorum::Quorum};
use tidegate_storage::{partition_of_directory, verify::Finding};

use crate::output;

use inspect::InspectArgs;
use verify::VerifyArgs;

/// Look at the files of a stopped broker, or check them
///
/// Both read only. The broker on the directory must be stopped.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate log verify ./tidegate-data
  tidegate log inspect ./tidegate-data --topic orders --partition 0 --batches")]
pub(super) struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    Inspect(InspectArgs),
    Verify(VerifyArgs),
}

impl LogArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        match self.command {
            LogCommand::Inspect(args) => args.run(out),
            LogCommand::Verify(args) => args.run(out),
        }
    }
}

/// The topics' names and their partitions, where the metadata can be read.
#[derive(Default)]
struct Topics {
    names: BTreeMap<TopicId, String>,
    partitions: BTreeSet<TopicPartition>,
    /// Deleted ones: what is left of their files may be there.
    deleted: BTreeSet<TopicId>,
    /// What is wrong with the components of deployed plugins.
    plugins: Vec<String>,
}

impl Topics {
    fn read(directory: &Path) -> anyhow::Result<Self> {
        let (image, deleted) = Quorum::read_with_deleted(directory)?;
        let mut topics = Self { deleted, ..Self::default() };
        for topic in image.topics() {
            topics.names.insert(topic.id, topic.name.clone());
            topics.partitions.extend(topic.partition_indexes().map(|index| TopicPartition::new(topic.id, index)));
        }
        topics.plugins = verify_components(directory, &image).iter().map(ToString::to_string).collect();
        Ok(topics)
    }

    /// Directories of partitions that no topic has, and no deleted one had.
    fn strays(&self, directory: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory.join("partitions")).into_iter().flatten().flatten();
        let mut strays: Vec<PathBuf> = entries
            .filter(|entry| {
                let name = entry.file_name();
                let whose = name.to_str().and_then(partition_of_directory);
                // Of one whose objects are still to be removed a file is left that says so.
                let is_known = |whose: &TopicPartition| {
                    self.partitions.contains(whose)
                        || self.deleted.contains(&whose.topic)
                        || entry.path().join("deleted.tgm").exists()
                };
                whose.is_some_and(|whose| !is_known(&whose))
            })
            .map(|entry| Path::new("partitions").join(entry.file_name()))
            .collect();
        strays.sort_unstable();
        strays
    }

    fn name(&self, topic: TopicId) -> String {
        self.names.get(&topic).cloned().unwrap_or_else(|| topic.to_hex())
    }

    fn partition(&self, of: TopicPartition) -> String {
        format!("{}-{}", self.name(of.topic), of.partition.0)
    }
}

fn batches(count: u32) -> String {
    if count == 1 { "1 batch".to_owned() } else { format!("{} batches", output::thousands(u64::from(count))) }
}

/// A finding, for machines.
fn damage_fields(finding: &Finding) -> Value {
    let (file, position, offset) = finding.place();
    json!({
        "file": file,
        "position": position,
        "offset": offset.map(|offset| offset.0),
        "message": finding.to_string(),
    })
}
