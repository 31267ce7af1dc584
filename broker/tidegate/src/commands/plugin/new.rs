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
  tidegate plugin new my-router --lang python
  tidegate plugin new my-router --sdk ../tidegate/sdk/rust    use the SDK of a checkout instead of a copy

The SDK is laid into the folder. Building it needs cargo (Rust), python3 with pip, or node with npm, which fetch what else it takes.
On a path where microseconds count, write Rust: a record costs it nanoseconds.")]
pub(super) struct New {
    /// The folder to make, and the plugin's name: small letters, digits, - and _
    name: String,
    /// What it decides
    #[arg(long, value_enum, default_value = "router")]
    kind: Kind,
    /// What it is written in
    #[arg(long, value_enum, default_value = "rust")]
    lang: Language,
    /// Where to make the folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    r#in: PathBuf,
    /// A folder with the SDK, to be used where it is (Rust only)
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
    /// How long records are kept
    Retention,
    /// How long records are kept, and which are erased before that
    Eraser,
    /// How long records are kept, and which segments go to the object store
    Offloader,
    /// All of what retention policies can say
    Archivist,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    Python,
    Javascript,
}

/// What a plugin of a kind is tried with, in whatever language.
struct Trial {
    description: &'static str,
    config: &'static str,
    records: &'static str,
    expected: &'static str,
}

const ROUTER: Trial = Trial {
    description: "Sends the records of each region to a topic of their own",
    config: "{ \"regions\": { \"eu\": \"orders-eu\", \"us\": \"orders-us\" } }\n",
    records: "{ \"key\": \"eu.1\", \"value\": \"a\" }\n{ \"key\": \"us.2\", \"value\": \"b\" }\n{ \"key\": \"mars.3\", \"value\": \"c\" }\n",
    expected: "{ \"to\": [\"orders-eu\"] }\n{ \"to\": [\"orders-us\"] }\n{ \"to\": [\"sent-to\"] }\n",
};

const PARTITIONER: Trial = Trial {
    description: "Keeps the records of a customer on one partition",
    config: "{ \"keyless\": \"sticky\" }\n",
    records: "{ \"key\": \"acme.1\", \"value\": \"a\" }\n{ \"key\": \"acme.2\", \"value\": \"b\" }\n{ \"key\": \"initech.1\", \"value\": \"c\" }\n",
    // Where a hash leads depends on the language: see `placed`.
    expected: "",
};

const ACK: Trial = Trial {
    description: "Takes records of known owners only",
    config: "{ \"owners\": [\"payments\", \"shop\"] }\n",
    records: "{ \"key\": \"1\", \"value\": \"a\", \"headers\": { \"owner\": \"shop\" } }\n{ \"key\": \"2\", \"value\": \"b\" }\n",
    expected: "{ \"accepted\": \"as asked\" }\n{ \"rejected\": \"the header 'owner' is missing\" }\n",
};

/// Asked about segments and not about records: its tests are all that tries it.
const RETENTION: Trial = Trial {
    description: "Keeps records until they were consumed",
    config: "{ \"groups\": [\"billing\"], \"at_most_days\": 30 }\n",
    records: "",
    expected: "",
};

const ERASER: Trial = Trial {
    description: "Keeps records until they were consumed, and erases some keys",
    config: "{ \"groups\": [\"billing\"], \"at_most_days\": 30, \"erase\": [\"customer-7\"] }\n",
    records: "{ \"key\": \"customer-1\", \"value\": \"a\" }\n{ \"key\": \"customer-7\", \"value\": \"b\" }\n",
    expected: "{ \"kept\": true }\n{ \"kept\": false }\n",
};

const OFFLOADER: Trial = Trial {
    description: "Keeps records until they were consumed, the old ones in the object store",
    config: "{ \"groups\": [\"billing\"], \"at_most_days\": 30, \"on_disk_days\": 2 }\n",
    ..RETENTION
};

const ARCHIVIST: Trial = Trial {
    description: "Keeps records until they were consumed, the old ones in the object store, and erases some keys",
    config: "{ \"groups\": [\"billing\"], \"at_most_days\": 30, \"on_disk_days\": 2, \"erase\": [\"customer-7\"] }\n",
    ..ERASER
};

/// Where the template of a partitioner in a language puts its records, of the twelve partitions that `tidegate plugin test` tells it of.
fn placed(language: Language) -> &'static str {
    match language {
        Language::Rust => "{ \"partition\": 11 }\n{ \"partition\": 11 }\n{ \"partition\": 0 }\n",
        Language::Python => "{ \"partition\": 2 }\n{ \"partition\": 2 }\n{ \"partition\": 0 }\n",
        Language::Javascript => "{ \"partition\": 7 }\n{ \"partition\": 7 }\n{ \"partition\": 1 }\n",
    }
}

/// What a kind does, as its templates name it.
type Parts = &'static [&'static str];

/// The lines of a template that are for a kind. Those between `[x]` and `[end]`, each in a comment of its own, are for kinds that do x, and those
/// from `[not x]` on for the others.
fn with_parts(template: &str, does: Parts) -> String {
    let mut is_in = true;
    let mut lines = String::new();
    for line in template.lines() {
        let comment = ["// ", "# ", "<!-- "].iter().find_map(|mark| line.trim_start().strip_prefix(mark));
        let part = comment.and_then(|text| text.trim_end_matches(" -->").strip_prefix('[')?.strip_suffix(']'));
        match part {
            Some("end") => is_in = true,
            Some(part) => is_in = part.strip_prefix("not ").map_or(does.contains(&part), |part| !does.contains(&part)),
            None if is_in => lines += &format!("{line}\n"),
            None => {}
        }
    }
    lines
}

macro_rules! template {
    ($path:literal) => {
        include_str!(concat!("../../../templates/", $path))
    };
}

impl Kind {
    fn trial(self) -> &'static Trial {
        match self {
            Self::Router => &ROUTER,
            Self::Partitioner => &PARTITIONER,
            Self::Ack => &ACK,
            Self::Retention => &RETENTION,
            Self::Eraser => &ERASER,
            Self::Offloader => &OFFLOADER,
            Self::Archivist => &ARCHIVIST,
        }
    }

    /// As topic configurations name it.
    fn name(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Partitioner => "partitioner",
            Self::Ack => "ack",
            Self::Retention | Self::Eraser | Self::Offloader | Self::Archivist => "retention",
        }
    }

    /// The world of the interface that its templates are of.
    fn world(self) -> &'static str {
        match self {
            Self::Eraser => "eraser",
            Self::Offloader => "offloader",
            Self::Archivist => "archivist",
            other => other.name(),
        }
    }

    /// Which parts of the templates it has, by what they do: see [`Parts`].
    fn does(self) -> Parts {
        match self {
            Self::Router | Self::Partitioner | Self::Ack => &["records"],
            Self::Retention => &[],
            Self::Eraser => &["records", "erase"],
            Self::Offloader => &["offload"],
            Self::Archivist => &["records", "erase", "offload"],
        }
    }

    /// What stands in its templates for what differs between kinds.
    fn filled(self, text: &str) -> String {
        let (base, exported) = match self {
            Self::Eraser => ("Eraser", "Lifecycle, Retaining, Filtering"),
            Self::Offloader => ("Offloader", "Lifecycle, Retaining, Offloading"),
            Self::Archivist => ("Archivist", "Lifecycle, Retaining, Filtering, Offloading"),
            _ => ("Retention", "Lifecycle, Retaining"),
        };
        let trial = self.trial();
        let topics = if self == Self::Router { "orders orders-eu orders-us" } else { "orders" };
        [
            ("SUMMARY", trial.description),
            ("CONFIG", trial.config.trim_end()),
            ("KIND", self.name()),
            ("WORLD", self.world()),
            ("BASE", base),
            ("EXPORTED", exported),
            ("TOPICS", topics),
        ]
        .into_iter()
        .fold(with_parts(text, self.does()), |text, (token, filled)| text.replace(token, filled))
    }

    fn rust(self) -> Vec<Template<'static>> {
        let (source, readme) = match self {
            Self::Router => (template!("rust/router.rs"), template!("rust/router.md")),
            Self::Partitioner => (template!("rust/partitioner.rs"), template!("rust/partitioner.md")),
            Self::Ack => (template!("rust/ack.rs"), template!("rust/ack.md")),
            Self::Retention | Self::Eraser | Self::Offloader | Self::Archivist => {
                (template!("rust/retention.rs"), template!("rust/retention.md"))
            }
        };
        vec![("src/lib.rs", source), ("README.md", readme)]
    }

    fn python(self) -> Vec<Template<'static>> {
        let (source, test) = match self {
            Self::Router => (
                include_str!("../../../../../examples/first-router-python/plugin.py"),
                include_str!("../../../../../examples/first-router-python/test_plugin.py"),
            ),
            Self::Partitioner => (template!("python/partitioner.py"), template!("python/test_partitioner.py")),
            Self::Ack => (template!("python/ack.py"), template!("python/test_ack.py")),
            Self::Retention | Self::Eraser | Self::Offloader | Self::Archivist => {
                (template!("python/retention.py"), template!("python/test_retention.py"))
            }
        };
        vec![("plugin.py", source), ("test_plugin.py", test), ("README.md", template!("python/readme.md"))]
    }

    fn javascript(self) -> Vec<Template<'static>> {
        let (source, test) = match self {
            Self::Router => (
                include_str!("../../../../../examples/first-router-javascript/plugin.js"),
                include_str!("../../../../../examples/first-router-javascript/plugin.test.js"),
            ),
            Self::Partitioner => (template!("javascript/partitioner.js"), template!("javascript/partitioner.test.js")),
            Self::Ack => (template!("javascript/ack.js"), template!("javascript/ack.test.js")),
            Self::Retention | Self::Eraser | Self::Offloader | Self::Archivist => {
                (template!("javascript/retention.js"), template!("javascript/retention.test.js"))
            }
        };
        vec![("plugin.js", source), ("plugin.test.js", test), ("README.md", template!("javascript/readme.md"))]
    }
}

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
        if self.sdk.is_some() && self.lang != Language::Rust {
            return Err(Usage("--sdk is for plugins in Rust: others get a copy of their SDK".to_owned()).into());
        }
        let (kind, trial) = (self.kind, self.kind.trial());
        let expected = if kind == Kind::Partitioner { placed(self.lang) } else { trial.expected };
        let data = [("config.json", trial.config), ("records.jsonl", trial.records), ("expected.jsonl", expected)];
        let (templates, ignored) = match self.lang {
            Language::Rust => (kind.rust(), "/target\n"),
            Language::Python => (kind.python(), "/target\n__pycache__\n"),
            Language::Javascript => (kind.javascript(), "/target\n"),
        };
        let filled: Vec<_> = templates.into_iter().map(|(path, text)| (path, kind.filled(text))).collect();
        let mut files: Vec<_> = filled.iter().map(|(path, text)| (*path, text.as_str())).collect();
        files.extend(data.into_iter().filter(|(_, text)| !text.is_empty()));
        files.push((".gitignore", ignored));
        let (written, tests) = match self.lang {
            Language::Rust => {
                let sdk = self.sdk.map_or(Sdk::Included, Sdk::At);
                (project::write_rust(&folder, name, trial.description, &sdk, &files), "cargo test")
            }
            Language::Python => (project::write_python(&folder, name, kind.world(), &files), "python3 -m unittest"),
            Language::Javascript => (project::write_javascript(&folder, name, kind.world(), &files), "node --test"),
        };
        written.with_context(|| format!("{} is not complete", folder.display()))?;
        writeln!(out, "made {}", folder.display())?;
        writeln!(out, "next: cd {}; {tests}; tidegate plugin build", folder.display())?;
        Ok(writeln!(out, "README.md there has the rest")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_template_nothing_is_left_that_is_for_other_kinds() {
        for kind in Kind::value_variants() {
            for (path, text) in [kind.rust(), kind.python(), kind.javascript()].concat() {
                let filled = kind.filled(text);
                for token in ["SUMMARY", "CONFIG", "KIND", "WORLD", "BASE", "EXPORTED", "TOPICS", "// [", "# [", "-- ["]
                {
                    assert!(!filled.contains(token), "{kind:?}, {path}: {token} in\n{filled}");
                }
            }
        }
        let template = "a\n// [x]\nb\n<!-- [end] -->\n    # [not x]\nc\n    // [end]\n#[test]\n";
        assert_eq!(with_parts(template, &["x"]), "a\nb\n#[test]\n");
        assert_eq!(with_parts(template, &[]), "a\nc\n#[test]\n");
    }
}
