//! `tidegate config`: the broker's configuration file, checked or shown with its defaults.

use std::{io::Write, path::PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use tidegate_server::config::Config;

use super::Json;
use crate::output;

/// Check a configuration file, or show the documented defaults
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate config default > tidegate.toml
  tidegate config check tidegate.toml")]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a file: every mistake with its line
    #[command(after_help = "\
Examples:
  tidegate config check tidegate.toml
  tidegate config check tidegate.toml --json | jq -r '.[] | .place + \": \" + .problem'")]
    Check {
        /// The configuration file
        file: PathBuf,
        #[command(flatten)]
        json: Json,
    },
    /// Print every setting with its documentation and its default, ready to be changed
    #[command(after_help = "\
Examples:
  tidegate config default > tidegate.toml
  tidegate config default | grep -B 5 retention")]
    Default,
}

impl ConfigArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        match self.command {
            ConfigCommand::Default => Ok(out.write_all(Config::documented_default().as_bytes())?),
            ConfigCommand::Check { file, json } => check(&file, json, out),
        }
    }
}

#[derive(Serialize)]
struct Mistake {
    place: String,
    problem: String,
}

fn check(file: &std::path::Path, json: Json, out: &mut dyn Write) -> anyhow::Result<()> {
    let result = Config::load(Some(file), &[]);
    if json.json {
        let mistakes: Vec<Mistake> = result
            .as_ref()
            .err()
            .into_iter()
            .flat_map(|errors| &errors.errors)
            .map(|error| Mistake { place: error.place.to_string(), problem: error.problem.to_string() })
            .collect();
        output::json(out, &mistakes)?;
    }
    match result {
        Ok(_) if json.json => Ok(()),
        Ok(_) => Ok(writeln!(out, "{}: no mistakes", file.display())?),
        Err(errors) => {
            let count = output::count(errors.errors.len() as u64, "mistake");
            anyhow::bail!("{count} in {}:\n{errors}", file.display())
        }
    }
}
