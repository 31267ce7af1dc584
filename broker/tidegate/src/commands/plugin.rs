//! `tidegate plugin`: begin, build, test and measure plugins, and deploy them into a running broker over its admin endpoint.

mod bench;
mod cache;
mod new;
mod project;
mod rabbitmq;
mod sandbox;
mod shadow;
mod stats;
mod test;
mod trial;

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tidegate_plugin_host::build::{Profile, Progress, build_component};
use tidegate_records::time::Timestamp;

use super::{Json, Usage};
use crate::{
    moment,
    output::{self, Align, Table},
};

/// Compiling a large component takes the broker some seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// A component is the largest answer.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Write, build, test, deploy and look at plugins
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate plugin new my-router
  tidegate plugin build plugins/router-topic
  tidegate plugin deploy topic target/plugins/router_topic.component.wasm
  tidegate topic alter clicks --config tidegate.router=topic
  tidegate plugin list")]
pub(super) struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    New(new::New),
    /// Build a plugin written in Rust, Python or JavaScript as a component; fetches what that needs, once
    #[command(after_help = "\
Examples:
  tidegate plugin build plugins/router-topic
  tidegate plugin deploy topic $(tidegate plugin build plugins/router-topic --path)")]
    Build {
        /// The folder with its Cargo.toml, pyproject.toml or package.json
        #[arg(default_value = ".")]
        folder: PathBuf,
        /// Without optimisation: quick to build, slow to run (Rust only)
        #[arg(long)]
        debug: bool,
        /// Print the component's path and nothing else
        #[arg(long, conflicts_with = "json")]
        path: bool,
        #[command(flatten)]
        json: Json,
    },
    Test(test::Test),
    Bench(bench::Bench),
    Try(trial::Try),
    Shadow(shadow::Shadow),
    Stats(stats::Stats),
    Logs(stats::Logs),
    ImportRabbitmq(rabbitmq::ImportRabbitmq),
    /// Deploy a component under a name, or a new version of it; topics that use it go over to it between two batches
    #[command(after_help = "\
Examples:
  tidegate plugin deploy topic target/plugins/router_topic.component.wasm
  tidegate plugin deploy topic router_topic.component.wasm --admin broker.example.org:9644 --admin-token-file token")]
    Deploy {
        /// What topics call it (tidegate.router=NAME)
        name: PluginName,
        /// The component, as `tidegate plugin build` makes it
        file: PathBuf,
        #[command(flatten)]
        json: Json,
        #[command(flatten)]
        admin: Admin,
    },
    /// Go back to the version before the one that is deployed, between two batches; once more undoes it
    #[command(after_help = "\
Examples:
  tidegate plugin rollback my-router")]
    Rollback {
        name: PluginName,
        #[command(flatten)]
        json: Json,
        #[command(flatten)]
        admin: Admin,
    },
    /// List the plugins of a broker
    #[command(after_help = "\
Examples:
  tidegate plugin list
  tidegate plugin list --json | jq -r '.[] | select(.topics == []) | .name'   no topic uses them")]
    List {
        #[command(flatten)]
        json: Json,
        #[command(flatten)]
        admin: Admin,
    },
    /// Show what a plugin says of itself, and the topics that use it
    #[command(after_help = "\
Examples:
  tidegate plugin describe topic                          one that is deployed
  tidegate plugin describe router_topic.component.wasm    a file: no broker is asked")]
    Describe {
        /// The name of a deployed plugin, or a component's file
        plugin: String,
        #[command(flatten)]
        json: Json,
        #[command(flatten)]
        admin: Admin,
    },
    /// Remove a plugin that no topic uses
    #[command(after_help = "\
Examples:
  tidegate topic alter clicks --unset tidegate.router
  tidegate plugin remove my-router")]
    Remove {
        name: PluginName,
        #[command(flatten)]
        admin: Admin,
    },
}

/// Which broker's admin endpoint, and what opens it.
#[derive(Clone, Debug, Args)]
pub(super) struct Admin {
    /// The admin endpoint of a broker
    #[arg(long, value_name = "HOST:PORT", env = "TIDEGATE_ADMIN", default_value = "127.0.0.1:9644")]
    pub(super) admin: String,
    /// A file whose first line is the admin endpoint's secret
    #[arg(long, value_name = "FILE", env = "TIDEGATE_ADMIN_TOKEN_FILE")]
    pub(super) admin_token_file: Option<PathBuf>,
}

/// A name that stands in a path of the admin endpoint as it is.
#[derive(Clone, Debug)]
struct PluginName(String);

impl std::str::FromStr for PluginName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if text.is_empty() || text == "." || text == ".." || !text.bytes().all(allowed) {
            return Err("a plugin's name has letters, digits, '.', '_' and '-' only".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

/// A plugin as the admin endpoint describes it.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Plugin {
    pub(super) name: String,
    pub(super) version: u64,
    pub(super) world: String,
    hash: String,
    bytes: u64,
    uploaded_at: i64,
    /// The hash of the component that a rollback goes back to.
    #[serde(default)]
    previous: Option<String>,
    topics: Vec<String>,
}

#[derive(Deserialize)]
struct Listing {
    plugins: Vec<Plugin>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl PluginArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        match self.command {
            PluginCommand::New(args) => args.run(out),
            PluginCommand::Test(args) => args.run(out),
            PluginCommand::Bench(args) => args.run(out),
            PluginCommand::Try(args) => args.run(out),
            PluginCommand::Shadow(args) => args.run(out),
            PluginCommand::Stats(args) => args.run(out),
            PluginCommand::Logs(args) => args.run(out),
            PluginCommand::ImportRabbitmq(args) => args.run(out),
            PluginCommand::Build { folder, debug, path, json } => build(&folder, debug, path, json, out),
            PluginCommand::Deploy { name, file, json, admin } => {
                let component = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
                let plugin = admin.deploy(&name.0, &component)?;
                if json.json {
                    return output::json(out, &plugin);
                }
                writeln!(out, "deployed {} version {}, {}", plugin.name, plugin.version, a_plugin(&plugin.world))?;
                if plugin.topics.is_empty() {
                    let name = &plugin.name;
                    writeln!(
                        out,
                        "attach it with: tidegate topic alter TOPIC --config tidegate.{}={name}",
                        plugin.world
                    )?;
                } else {
                    writeln!(out, "in use by {}", plugin.topics.join(", "))?;
                }
                Ok(())
            }
            PluginCommand::Rollback { name, json, admin } => {
                let plugin: Plugin = admin.call(Method::Post, &format!("/v1/plugins/{}/rollback", name.0), None)?;
                if json.json {
                    return output::json(out, &plugin);
                }
                Ok(writeln!(out, "{} runs the component before, as version {}", plugin.name, plugin.version)?)
            }
            PluginCommand::List { json, admin } => {
                let listing: Listing = admin.call(Method::Get, "/v1/plugins", None)?;
                if json.json { output::json(out, &listing.plugins) } else { list(listing.plugins, out) }
            }
            PluginCommand::Describe { plugin, json, admin } => {
                let described = Described::find(&plugin, &admin)?;
                if json.json { output::json(out, &described) } else { described.show(out) }
            }
            PluginCommand::Remove { name, admin } => {
                admin.call::<serde_json::Value>(Method::Delete, &format!("/v1/plugins/{}", name.0), None)?;
                Ok(writeln!(out, "removed {}", name.0)?)
            }
        }
    }
}

#[derive(Serialize)]
struct BuiltPlugin {
    path: PathBuf,
    world: &'static str,
    interface: String,
    bytes: usize,
}

fn build(folder: &Path, debug: bool, path_only: bool, json: Json, out: &mut dyn Write) -> anyhow::Result<()> {
    let profile = if debug { Profile::Debug } else { Profile::Release };
    let built = build_component(folder, profile, Progress::Show)?;
    let component = built.component;
    if json.json {
        let (world, bytes) = (component.world.name(), component.bytes.len());
        return output::json(out, &BuiltPlugin { path: built.path, world, interface: component.interface, bytes });
    }
    let path = built.path.display();
    if path_only {
        return Ok(writeln!(out, "{path}")?);
    }
    writeln!(
        out,
        "built {path}, {} ({})",
        a_plugin(component.world.name()),
        output::bytes(component.bytes.len() as u64)
    )?;
    Ok(writeln!(out, "deploy it with: tidegate plugin deploy NAME {path}")?)
}

fn list(plugins: Vec<Plugin>, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        ("PLUGIN", Align::Left),
        ("VERSION", Align::Right),
        ("WORLD", Align::Left),
        ("SIZE", Align::Right),
        ("TOPICS", Align::Left),
    ]);
    for plugin in plugins {
        table.row([
            plugin.name,
            plugin.version.to_string(),
            plugin.world,
            output::bytes(plugin.bytes),
            plugin.topics.join(","),
        ]);
    }
    Ok(table.write(out)?)
}

/// A plugin's own words, and what a broker knows of it.
#[derive(Serialize)]
struct Described {
    #[serde(flatten)]
    deployed: Option<Plugin>,
    component: SelfDescription,
}

/// What the component says of itself.
#[derive(Serialize)]
struct SelfDescription {
    name: String,
    version: String,
    summary: String,
    world: &'static str,
    interface: String,
    bytes: usize,
    example: String,
}

impl Described {
    /// A file where there is one of that name, or that can be nothing else; else a plugin of the broker.
    fn find(plugin: &str, admin: &Admin) -> anyhow::Result<Self> {
        let path = Path::new(plugin);
        let name: Result<PluginName, String> = plugin.parse();
        let (deployed, bytes) = match name {
            Ok(name) if !path.is_file() && path.extension().is_none_or(|extension| extension != "wasm") => {
                let deployed = admin.call(Method::Get, &format!("/v1/plugins/{}", name.0), None)?;
                (Some(deployed), admin.component(&name.0)?)
            }
            _ => (None, std::fs::read(path).with_context(|| format!("cannot read {plugin}"))?),
        };
        let loaded = sandbox::Loaded::new(&sandbox::engine()?, bytes)?;
        let said = loaded.compiled.describe(&sandbox::limits())?;
        let component = SelfDescription {
            name: said.name,
            version: said.version,
            summary: said.summary,
            world: loaded.component.world.name(),
            interface: loaded.component.interface,
            bytes: loaded.component.bytes.len(),
            example: said.example,
        };
        Ok(Self { deployed, component })
    }

    fn show(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let component = &self.component;
        if let Some(plugin) = &self.deployed {
            writeln!(out, "plugin     {}", plugin.name)?;
            writeln!(out, "version    {}", plugin.version)?;
        }
        writeln!(out, "component  {} {}", component.name, component.version)?;
        writeln!(out, "           {}", component.summary)?;
        writeln!(out, "world      {}, interface {}", component.world, component.interface)?;
        writeln!(out, "size       {}", output::bytes(component.bytes as u64))?;
        if let Some(plugin) = &self.deployed {
            writeln!(out, "hash       {}", plugin.hash)?;
            writeln!(out, "uploaded   {}", moment::display(Timestamp(plugin.uploaded_at)))?;
            let previous = plugin.previous.as_deref().map(|hash| format!("to {hash}"));
            writeln!(out, "rollback   {}", previous.as_deref().unwrap_or("none: there is no version before it"))?;
            let topics = if plugin.topics.is_empty() { "none".to_owned() } else { plugin.topics.join(", ") };
            writeln!(out, "topics     {topics}")?;
        }
        if component.example.is_empty() {
            writeln!(out, "needs no configuration")?;
        } else {
            writeln!(out, "a configuration that works:")?;
            let example = serde_json::from_str::<serde_json::Value>(&component.example)
                .and_then(|value| serde_json::to_string_pretty(&value))
                .unwrap_or_else(|_| component.example.clone());
            example.lines().try_for_each(|line| writeln!(out, "  {line}"))?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Get,
    Put,
    Post,
    Delete,
}

impl Admin {
    /// Uploads a component under a name.
    pub(super) fn deploy(&self, name: &str, component: &[u8]) -> anyhow::Result<Plugin> {
        self.call(Method::Put, &format!("/v1/plugins/{name}"), Some(component))
    }

    /// The component of a deployed plugin.
    fn component(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        self.ask(Method::Get, &format!("/v1/plugins/{name}/component"), None)
    }

    fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<&[u8]>) -> anyhow::Result<T> {
        let answer = self.ask(method, path, body)?;
        let answer: &[u8] = if answer.is_empty() { b"null" } else { &answer };
        serde_json::from_slice(answer)
            .with_context(|| format!("{} gave an answer that is none of a Tidegate broker", self.admin))
    }

    fn ask(&self, method: Method, path: &str, body: Option<&[u8]>) -> anyhow::Result<Vec<u8>> {
        let address = self.admin.strip_prefix("http://").unwrap_or(&self.admin).trim_end_matches('/');
        if address.contains("://") {
            return Err(Usage(format!("{:?}: the admin endpoint is HOST:PORT, over HTTP", self.admin)).into());
        }
        let url = format!("http://{address}{path}");
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER_TIMEOUT))
            .build()
            .into();
        let mut request = ureq::http::Request::builder().uri(&url).method(match method {
            Method::Get => "GET",
            Method::Put => "PUT",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        });
        if let Some(token) = self.token()? {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let hint = || {
            format!(
                "cannot reach the admin endpoint at {address}\nis a broker running there? name another with --admin HOST:PORT (or TIDEGATE_ADMIN)"
            )
        };
        let mut response = match body {
            // Asked first, since a broker that refuses need not read all of it before it says why.
            Some(body) => {
                agent.run(request.header("expect", "100-continue").body(body).context("the request cannot be made")?)
            }
            None => agent.run(request.body(()).context("the request cannot be made")?),
        }
        .with_context(hint)?;
        let status = response.status();
        let answer = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().with_context(hint)?;
        if !status.is_success() {
            let text = String::from_utf8_lossy(&answer).into_owned();
            let reason = serde_json::from_str::<Refusal>(&text).map_or(text, |refusal| refusal.error);
            let advice = if status == 401 { "\nname the file with the secret by --admin-token-file FILE" } else { "" };
            anyhow::bail!("{reason} (HTTP {}){advice}", status.as_u16());
        }
        Ok(answer)
    }

    fn token(&self) -> anyhow::Result<Option<String>> {
        let Some(file) = &self.admin_token_file else { return Ok(None) };
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let token = text.lines().next().unwrap_or_default().trim();
        anyhow::ensure!(!token.is_empty(), "the first line of {} is empty, and should be the secret", file.display());
        Ok(Some(token.to_owned()))
    }
}

/// What a plugin of a world is called.
fn a_plugin(world: &str) -> String {
    match world {
        "ack" => "an acknowledgement hook".to_owned(),
        "retention" => "a retention policy".to_owned(),
        other => format!("a {other}"),
    }
}
