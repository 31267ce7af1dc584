//! `tidegate serve`: a broker in this process, until a signal stops it.

use std::path::PathBuf;

use clap::Args;
use tidegate_server::{
    config::{Config, ConfigError, ConfigErrors, Flag, LogFormat, Place},
    logging, serve,
};

use super::{Said, Usage};
use crate::output;

/// Start a broker
#[derive(Debug, Args)]
#[command(
    long_about = "Start a broker. It prints one line to standard output when it accepts connections:\n\n\
                  ready node=1 kafka=HOST:PORT admin=HOST:PORT data=DIR\n\n\
                  Logs go to standard error. SIGTERM or SIGINT stops it: what is in flight is finished and synced.",
    after_help = "\
Examples:
  tidegate serve
  tidegate serve --data-dir /var/lib/tidegate --listen 0.0.0.0:9092 --advertise broker.example.org:9092
  tidegate serve --config tidegate.toml --log-format json
  tidegate serve --data-dir /tmp/try --listen 127.0.0.1:0 --admin 127.0.0.1:0     take free ports

Every flag has its twin in the configuration file; a flag wins. `tidegate config default` prints a file with all settings."
)]
pub(super) struct ServeArgs {
    /// Read this configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep the logs here [default: ./tidegate-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Serve Kafka clients here; port 0 takes a free one [default: 127.0.0.1:9092]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Tell clients to connect here, if that differs from --listen
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Serve health, metrics and plugin uploads here [default: 127.0.0.1:9644]
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<String>,
    /// The token that admin requests must carry; needed if --admin is not a loopback address
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<String>,
    /// Use this many cores, at most 1024; 0 takes all that there are [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    shards: Option<String>,
    /// What an acknowledgement means: `fsync` (on the disk) or `os` (given to the operating system) [default: fsync]
    #[arg(long, value_name = "fsync|os")]
    durability: Option<String>,
    /// The id of this broker in its cluster [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    node_id: Option<String>,
    /// How logs are written to standard error [default: text]
    #[arg(long, value_name = "text|json")]
    log_format: Option<String>,
}

impl ServeArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let flags: Vec<Flag> = [
            ("data-dir", self.data_dir),
            ("listen", self.listen),
            ("advertise", self.advertise),
            ("admin", self.admin),
            ("admin-token-file", self.admin_token_file),
            ("shards", self.shards),
            ("durability", self.durability),
            ("node-id", self.node_id),
            ("log-format", self.log_format),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some(Flag { name, value: value? }))
        .collect();
        match Config::load(self.config.as_deref(), &flags) {
            Ok(config) => serve::serve(&config).map_err(|error| said(error.into(), config.log_format)),
            Err(errors) => {
                let log_format = errors.log_format;
                Err(said(not_started(errors), log_format))
            }
        }
    }
}

/// Mistakes in flags are wrong usage. Those in a file are not: the command was asked for rightly.
fn not_started(errors: ConfigErrors) -> anyhow::Error {
    let of_flags = |error: &ConfigError| matches!(error.place, Place::Flag(_) | Place::Together { file: None });
    let is_usage = errors.errors.iter().any(of_flags);
    let message = format!("the broker was not started: {errors}");
    if is_usage { Usage(message).into() } else { anyhow::anyhow!(message) }
}

/// An error that is said in JSON, if that is how logs are written.
fn said(error: anyhow::Error, log_format: LogFormat) -> anyhow::Error {
    if log_format == LogFormat::Text {
        return error;
    }
    logging::write_fatal(&output::whole(&error));
    Said { is_usage: error.is::<Usage>() }.into()
}
