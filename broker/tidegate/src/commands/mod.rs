//! The commands: one file each, with its arguments, its examples and what it does.

mod cluster;
mod completions;
mod config;
mod consume;
mod demo;
mod group;
mod log;
mod plugin;
mod produce;
mod serve;
mod topic;

use std::{io::Write, str::FromStr};

use clap::{
    Args, Parser, Subcommand,
    builder::{Styles, styling::AnsiColor},
};
use serde::Serialize;

use crate::{
    client::{Cluster, error::ClientError},
    output,
};

#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    about = "A message broker that speaks the Apache Kafka protocol, and the command line to it",
    long_about = "Tidegate is a message broker for Linux that speaks the Apache Kafka protocol and routes records with WebAssembly plugins.\n\n\
                  Its command line works with any Kafka cluster; only `plugin` and `log` need Tidegate itself.",
    after_help = EXAMPLES,
    max_term_width = 110,
    styles = STYLES
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  tidegate serve                                    start a broker on ./tidegate-data
  tidegate topic create orders --partitions 3
  echo 'user-1:hello' | tidegate produce orders --key-separator :
  tidegate consume orders --exit-at-end             print what is in the topic
  tidegate --help, tidegate COMMAND --help          more, with examples

Exit codes: 0 done, 1 failed, 2 asked for wrongly.";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Topic(topic::TopicArgs),
    Produce(produce::ProduceArgs),
    Consume(consume::ConsumeArgs),
    Group(group::GroupArgs),
    Cluster(cluster::ClusterArgs),
    Plugin(plugin::PluginArgs),
    Log(log::LogArgs),
    Config(config::ConfigArgs),
    Completions(completions::CompletionsArgs),
    Demo(demo::DemoArgs),
}

impl Cli {
    pub(crate) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(args) => args.run(),
            Command::Topic(args) => args.run(out),
            Command::Produce(args) => args.run(out),
            Command::Consume(args) => args.run(out),
            Command::Group(args) => args.run(out),
            Command::Cluster(args) => args.run(out),
            Command::Plugin(args) => args.run(out),
            Command::Log(args) => args.run(out),
            Command::Config(args) => args.run(out),
            Command::Completions(args) => args.run(out),
            Command::Demo(args) => args.run(out),
        }
    }
}

/// The command was asked for in a way that cannot be meant: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// What went wrong has been said; only the exit code is left.
#[derive(Debug, thiserror::Error)]
#[error("it has been said")]
pub(crate) struct Said {
    pub(crate) is_usage: bool,
}

/// Which cluster.
#[derive(Clone, Debug, Args)]
pub(crate) struct Bootstrap {
    /// A broker of the cluster, or several with commas between them
    #[arg(long, short, value_name = "HOST:PORT", env = "TIDEGATE_BOOTSTRAP", default_value = "127.0.0.1:9092")]
    pub(crate) bootstrap: String,
}

impl Bootstrap {
    fn connect(&self) -> Result<Cluster, ClientError> {
        Cluster::connect(&self.bootstrap)
    }
}

/// For people or for machines.
#[derive(Clone, Copy, Debug, Args)]
struct Json {
    /// Print JSON, for machines
    #[arg(long)]
    json: bool,
}

impl Json {
    /// Does something with each of `names` and says what it was: to people line by line, to machines as one list, whose entries name
    /// what they are about as `key`. What fails is said as well, and does not keep the others from being done.
    fn each<T: Serialize>(
        self,
        out: &mut dyn Write,
        (key, names): (&'static str, &[String]),
        mut act: impl FnMut(&str) -> anyhow::Result<T>,
        mut show: impl FnMut(&T, &mut dyn Write) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut all = Vec::new();
        let mut failed = false;
        for name in names {
            match act(name) {
                Ok(done) if self.json => all.push(serde_json::to_value(&done)?),
                Ok(done) => show(&done, out)?,
                Err(error) => {
                    failed = true;
                    let error = output::whole(&error);
                    // In the order of the names, where both streams go to one place.
                    out.flush()?;
                    writeln!(std::io::stderr(), "error: {error}")?;
                    all.push(serde_json::json!({ key: name, "result": "failed", "error": error }));
                }
            }
        }
        if self.json {
            output::json(out, &all)?;
        }
        if failed { Err(Said { is_usage: false }.into()) } else { Ok(()) }
    }
}

/// `NAME=VALUE`.
fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} has no =: write NAME=VALUE"))?;
    if name.is_empty() {
        return Err(format!("{text:?} has no name: write NAME=VALUE"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// What stands between a key and a value: some bytes, in which `\t` and its like are escapes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Separator(Vec<u8>);

impl FromStr for Separator {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match crate::record_format::unescape(text) {
            Ok(bytes) if bytes.is_empty() => Err("a separator cannot be empty".to_owned()),
            Ok(bytes) => Ok(Self(bytes)),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
