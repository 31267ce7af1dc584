//! `tidegate plugin new`: a folder with a plugin that builds, tests that pass, and what to do next.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};

use super::{
    super::Usage,
    project::{self, Sdk, Template},
};

/// Begin a plugin: a folder with code that builds, tests that pass, and a README with the next steps
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate plugin new my-router
  tidegate plugin new my-partitioner --kind partitioner
  tidegate plugin new my-router --sdk ../tidegate/sdk/rust    use the SDK of a checkout instead of a copy

The SDK is laid into the folder. Building it needs cargo, which fetches what the SDK itself depends on.")]
pub(super) struct New {
    /// The folder to make, and the plugin's name: small letters, digits, - and _
    name: String,
    /// What it decides
    #[arg(long, value_enum, default_value = "router")]
    kind: Kind,
    /// Where to make the folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    r#in: PathBuf,
    /// A folder with the SDK, to be used where it is
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Which topics a record is written to
    Router,
    /// Which partition of its topic a record goes to
    Partitioner,
    /// Whether a batch is taken, and when its write counts as acknowledged
    Ack,
    /// How long records are kept, and which are erased
    Retention,
}

const GITIGNORE: &str = "/target\n";

const RUST_ROUTER: &[Template] = &[
    ("src/lib.rs", include_str!("../../../templates/rust/router.rs")),
    ("README.md", include_str!("../../../templates/rust/router.md")),
    ("config.json", "{ \"regions\": { \"eu\": \"orders-eu\", \"us\": \"orders-us\" } }\n"),
    (
        "records.jsonl",
        "{ \"key\": \"eu.1\", \"value\": \"a\" }\n{ \"key\": \"us.2\", \"value\": \"b\" }\n{ \"key\": \"mars.3\", \"value\": \"c\" }\n",
    ),
    ("expected.jsonl", "{ \"to\": [\"orders-eu\"] }\n{ \"to\": [\"orders-us\"] }\n{ \"to\": [\"sent-to\"] }\n"),
    (".gitignore", GITIGNORE),
];

const RUST_PARTITIONER: &[Template] = &[
    ("src/lib.rs", include_str!("../../../templates/rust/partitioner.rs")),
    ("README.md", include_str!("../../../templates/rust/partitioner.md")),
    ("config.json", "{ \"keyless\": \"sticky\" }\n"),
    (
        "records.jsonl",
        "{ \"key\": \"acme.1\", \"value\": \"a\" }\n{ \"key\": \"acme.2\", \"value\": \"b\" }\n{ \"key\": \"initech.1\", \"value\": \"c\" }\n",
    ),
    (".gitignore", GITIGNORE),
];

const RUST_ACK: &[Template] = &[
    ("src/lib.rs", include_str!("../../../templates/rust/ack.rs")),
    ("README.md", include_str!("../../../templates/rust/ack.md")),
    ("config.json", "{ \"owners\": [\"payments\", \"shop\"] }\n"),
    (
        "records.jsonl",
        "{ \"key\": \"1\", \"value\": \"a\", \"headers\": { \"owner\": \"shop\" } }\n{ \"key\": \"2\", \"value\": \"b\" }\n",
    ),
    ("expected.jsonl", "{ \"accepted\": \"as asked\" }\n{ \"rejected\": \"the header 'owner' is missing\" }\n"),
    (".gitignore", GITIGNORE),
];

const RUST_RETENTION: &[Template] = &[
    ("src/lib.rs", include_str!("../../../templates/rust/retention.rs")),
    ("README.md", include_str!("../../../templates/rust/retention.md")),
    ("config.json", "{ \"groups\": [\"billing\"], \"at_most_days\": 30, \"erase\": [\"customer-7\"] }\n"),
    ("records.jsonl", "{ \"key\": \"customer-1\", \"value\": \"a\" }\n{ \"key\": \"customer-7\", \"value\": \"b\" }\n"),
    ("expected.jsonl", "{ \"kept\": true }\n{ \"kept\": false }\n"),
    (".gitignore", GITIGNORE),
];

impl New {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let name = &self.name;
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if !name.bytes().all(allowed) || !name.as_bytes().first().is_some_and(u8::is_ascii_lowercase) {
            return Err(Usage(format!(
                "{name:?} cannot be a plugin's name: it begins with a small letter, and has small letters, digits, - and _ only"
            ))
            .into());
        }
        let folder = if self.r#in == Path::new(".") { PathBuf::from(name) } else { self.r#in.join(name) };
        let is_free = !folder.exists() || fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_none());
        ensure!(is_free, "{} is there already, and not empty", folder.display());
        let sdk = self.sdk.map_or(Sdk::Included, Sdk::At);
        let (description, files) = match self.kind {
            Kind::Router => ("Sends the records of each region to a topic of their own", RUST_ROUTER),
            Kind::Partitioner => ("Keeps the records of a customer on one partition", RUST_PARTITIONER),
            Kind::Ack => ("Takes records of known owners only", RUST_ACK),
            Kind::Retention => ("Keeps records until they were consumed, and erases some keys", RUST_RETENTION),
        };
        project::write_rust(&folder, name, description, &sdk, files)
            .with_context(|| format!("{} is not complete", folder.display()))?;
        writeln!(out, "made {}", folder.display())?;
        writeln!(out, "next: cd {}; cargo test; tidegate plugin build", folder.display())?;
        Ok(writeln!(out, "README.md there has the rest")?)
    }
}
