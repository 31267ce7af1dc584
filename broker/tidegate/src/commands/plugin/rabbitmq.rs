//! `tidegate plugin import-rabbitmq`: exported definitions of RabbitMQ become topics and the configuration of routers.
//!
//! An exchange becomes a topic with a router, a queue a topic. [`translate`] decides without a broker; what has no counterpart is named
//! in the plan, never left out in silence. Format: what `rabbitmqctl export_definitions` and the management API write.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Admin, Listing, Method};
use crate::{
    client::{
        Cluster,
        configs::ConfigChange,
        topics::{Change, NewTopic},
    },
    commands::{Bootstrap, Json, name_and_value},
    output,
};

/// Turn exported exchanges, queues and bindings of RabbitMQ into topics and the configuration of routers
///
/// A queue becomes a topic, an exchange a topic with a router; producers send to the exchange's topic with the routing key as the record's
/// key. What cannot be translated is listed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rabbitmqctl export_definitions definitions.json
  tidegate plugin import-rabbitmq definitions.json --dry-run
  tidegate plugin import-rabbitmq definitions.json --partitions 6

The routers must be deployed, under the names direct, topic, fanout, headers and consistent-hash or those of --plugin:
  tidegate plugin deploy topic $(tidegate plugin build plugins/router-topic --path)")]
pub(super) struct ImportRabbitmq {
    /// The definitions, as `rabbitmqctl export_definitions` writes them
    file: PathBuf,
    /// How many partitions each topic gets; without it, what the broker has for new topics
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Only this virtual host; without it, all of them, and the name of each but `/` stands before its topics
    #[arg(long, value_name = "NAME")]
    vhost: Option<String>,
    /// Under which name a router is deployed, e.g. topic=topic-patterns; may be given often
    #[arg(long = "plugin", value_name = "TYPE=NAME", value_parser = name_and_value)]
    plugins: Vec<(String, String)>,
    /// Show what would be done, and ask no broker
    #[arg(long)]
    dry_run: bool,
    /// What is added to the name of an exchange's topic where a queue has that name, too
    #[arg(long, value_name = "TEXT", default_value = ".exchange")]
    exchange_suffix: String,
    /// Give topics that are there already the configuration that the definitions say
    #[arg(long)]
    update: bool,
    /// Do nothing if something cannot be translated
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    bootstrap: Bootstrap,
    #[command(flatten)]
    admin: Admin,
}

/// What is read of the definitions.
#[derive(Debug, Default, Deserialize)]
struct Definitions {
    #[serde(default)]
    exchanges: Vec<Exchange>,
    #[serde(default)]
    queues: Vec<Queue>,
    #[serde(default)]
    bindings: Vec<Binding>,
    #[serde(default)]
    policies: Vec<Policy>,
}

/// What every virtual host has. An export names them only as sources and destinations of bindings.
const PREDECLARED: [(&str, &str); 5] = [
    ("amq.direct", "direct"),
    ("amq.fanout", "fanout"),
    ("amq.topic", "topic"),
    ("amq.headers", "headers"),
    ("amq.match", "headers"),
];

impl Definitions {
    /// Adds the predeclared exchanges where they are used and not listed.
    fn add_predeclared(&mut self) {
        for vhost in self.bindings.iter().map(|binding| binding.vhost.as_str()).collect::<BTreeSet<_>>() {
            for (name, kind) in PREDECLARED {
                if !self.exchanges.iter().any(|exchange| exchange.vhost == vhost && exchange.name == name) {
                    self.exchanges.push(Exchange {
                        name: name.to_owned(),
                        vhost: vhost.to_owned(),
                        kind: kind.to_owned(),
                        arguments: Map::new(),
                    });
                }
            }
        }
    }
}

#[derive(Debug, Deserialize)]
struct Policy {
    #[serde(default)]
    name: String,
    #[serde(default = "default_vhost")]
    vhost: String,
    #[serde(default)]
    pattern: String,
    #[serde(default)]
    definition: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Exchange {
    name: String,
    #[serde(default = "default_vhost")]
    vhost: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    arguments: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Queue {
    name: String,
    #[serde(default = "default_vhost")]
    vhost: String,
    #[serde(default)]
    arguments: Map<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
struct Binding {
    source: String,
    #[serde(default = "default_vhost")]
    vhost: String,
    destination: String,
    destination_type: String,
    #[serde(default)]
    routing_key: String,
    #[serde(default)]
    arguments: Map<String, Value>,
}

fn default_vhost() -> String {
    "/".to_owned()
}

/// What is to be created, queues before the exchanges that route to them.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Plan {
    topics: Vec<PlannedTopic>,
    /// Exchanges whose topic has another name, in words: their producers send there.
    renamed: Vec<String>,
    /// What has no counterpart, in words.
    not_translated: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct PlannedTopic {
    name: String,
    /// In RabbitMQ's words: `queue orders`, `topic exchange events`.
    from: String,
    configs: BTreeMap<String, String>,
}

/// The router for a type of exchange.
fn router(kind: &str) -> Option<&'static str> {
    match kind {
        "direct" => Some("direct"),
        "topic" => Some("topic"),
        "fanout" => Some("fanout"),
        "headers" => Some("headers"),
        "x-consistent-hash" => Some("consistent-hash"),
        _ => None,
    }
}

/// By virtual host and name of a queue, its topic.
type Queues<'a> = BTreeMap<&'a str, BTreeMap<&'a str, String>>;

fn queue_topic<'a>(queues: &'a Queues<'_>, vhost: &str, name: &str) -> Option<&'a str> {
    queues.get(vhost)?.get(name).map(String::as_str)
}

/// How the definitions are to be read.
struct Reading<'a> {
    vhost: Option<&'a str>,
    exchange_suffix: &'a str,
    /// The name under which a router is deployed.
    plugin: &'a dyn Fn(&str) -> String,
}

/// What the definitions become.
fn translate(mut definitions: Definitions, reading: &Reading<'_>) -> anyhow::Result<Plan> {
    let Reading { vhost, exchange_suffix, plugin } = *reading;
    definitions.add_predeclared();
    let definitions = &definitions;
    let mut plan = Plan::default();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let wanted = |found: &str| vhost.is_none_or(|vhost| vhost == found);
    let qualified = |found: &str, name: &str| {
        if vhost.is_some() || found == "/" { name.to_owned() } else { format!("{found}.{name}") }
    };
    // RabbitMQ keeps queues and exchanges apart; MassTransit gives each queue an exchange of its name.
    let mut take_name = |plan: &mut Plan, from: &str, wish: &str, suffix: Option<&str>| -> anyhow::Result<String> {
        let mut wish = wish.to_owned();
        if let (Some(suffix), Some(other)) = (suffix, names.get(&topic_name(&wish).replace('.', "_")))
            && other.starts_with("queue ")
        {
            wish.push_str(suffix);
            plan.renamed.push(format!("{from} is topic '{}', since {other} has its name", topic_name(&wish)));
        }
        let name = topic_name(&wish);
        if name != wish {
            plan.not_translated.push(format!("the name of {from}: as a topic it is '{name}'"));
        }
        // Kafka's metrics cannot tell a dot from an underscore, so that topics may not differ in nothing else.
        if let Some(other) = names.insert(name.replace('.', "_"), from.to_owned()) {
            bail!(
                "{other} and {from} would both become topic '{name}' (a dot and an underscore count as the same): rename one of \
                 them in the file"
            );
        }
        Ok(name)
    };

    let mut queues = Queues::new();
    for queue in definitions.queues.iter().filter(|queue| wanted(&queue.vhost)) {
        let from = format!("queue {}", queue.name);
        let name = take_name(&mut plan, &from, &qualified(&queue.vhost, &queue.name), None)?;
        queues.entry(&queue.vhost).or_default().insert(&queue.name, name.clone());
        let configs = queue_configs(&from, &queue.arguments, &mut plan.not_translated);
        plan.topics.push(PlannedTopic { name, from, configs });
    }
    for exchange in definitions.exchanges.iter().filter(|exchange| wanted(&exchange.vhost)) {
        let bindings: Vec<&Binding> = definitions
            .bindings
            .iter()
            .filter(|binding| binding.vhost == exchange.vhost && binding.source == exchange.name)
            .collect();
        // The default exchange is sending to a queue's topic; the predeclared ones are always there.
        if exchange.name.is_empty() || (exchange.name.starts_with("amq.") && bindings.is_empty()) {
            continue;
        }
        let from = format!("{} exchange {}", exchange.kind, exchange.name);
        let Some(router) = router(&exchange.kind) else {
            plan.not_translated.push(format!("{from}: there is no router for exchanges of this type"));
            continue;
        };
        let mut bound = Vec::new();
        for binding in bindings {
            let Some(reached) = queues_behind(definitions, exchange, binding, 0) else {
                plan.not_translated.push(format!(
                    "the binding of {from} to exchange {}: routers do not chain, and its bindings cannot be joined with this one; bind its queues directly",
                    binding.destination
                ));
                continue;
            };
            for binding in reached {
                match queue_topic(&queues, &exchange.vhost, &binding.destination) {
                    Some(topic) => bound.push((binding, topic)),
                    None => plan.not_translated.push(format!(
                        "the binding of {from} to queue {}: the file has no such queue",
                        binding.destination
                    )),
                }
            }
        }
        if bound.is_empty() {
            plan.not_translated.push(format!("{from}: it has no binding to a queue, so there is nothing to route to"));
            continue;
        }
        let alternate = alternate(exchange, definitions, &queues, &mut plan.not_translated);
        let config = router_config(&from, exchange, &bound, &alternate, &mut plan.not_translated)?;
        let name = take_name(&mut plan, &from, &qualified(&exchange.vhost, &exchange.name), Some(exchange_suffix))?;
        let configs = BTreeMap::from([
            ("tidegate.router".to_owned(), plugin(router)),
            ("tidegate.router.config".to_owned(), config.to_string()),
        ]);
        plan.topics.push(PlannedTopic { name, from, configs });
    }
    let is_listed = |binding: &Binding| {
        let mut exchanges = definitions.exchanges.iter();
        exchanges.any(|exchange| exchange.vhost == binding.vhost && exchange.name == binding.source)
    };
    // Those of the default exchange are the queues themselves.
    let orphans = definitions
        .bindings
        .iter()
        .filter(|binding| wanted(&binding.vhost) && !binding.source.is_empty() && !is_listed(binding));
    for Binding { source, destination, destination_type, .. } in orphans {
        plan.not_translated.push(format!(
            "the binding of exchange {source} to {destination_type} {destination}: the file has no such exchange, as RabbitMQ exports \
             no internal ones; add it with its type"
        ));
    }
    let (alternates, others): (Vec<_>, Vec<_>) = definitions
        .policies
        .iter()
        .filter(|policy| wanted(&policy.vhost))
        .partition(|policy| policy.definition.contains_key("alternate-exchange"));
    for Policy { name, pattern, .. } in alternates {
        plan.not_translated.push(format!(
            "policy {name}: it gives an alternate exchange to those whose name matches {pattern}; set \"unmatched\" of their routers"
        ));
    }
    if !others.is_empty() {
        let policies = output::count(others.len() as u64, "policy").replace("policys", "policies");
        plan.not_translated.push(format!("{policies}: set what they say as configuration of the topics"));
    }
    Ok(plan)
}

/// Exchanges that are bound one behind the other, at most.
const CHAIN_MAX: usize = 16;

/// What a binding of `exchange` leads to, as bindings to queues. Through another exchange it does where both together say no more than
/// one binding can; otherwise there is no answer.
fn queues_behind(
    definitions: &Definitions,
    exchange: &Exchange,
    binding: &Binding,
    depth: usize,
) -> Option<Vec<Binding>> {
    if binding.destination_type == "queue" {
        return Some(vec![binding.clone()]);
    }
    let mut exchanges = definitions.exchanges.iter();
    let next = exchanges.find(|next| next.vhost == exchange.vhost && next.name == binding.destination)?;
    // A hash chooses one of its destinations, and an alternate exchange takes what a combination would not show.
    let is_plain = next.kind == "fanout" || !next.arguments.contains_key("alternate-exchange");
    if depth == CHAIN_MAX || exchange.kind == "x-consistent-hash" || !is_plain {
        return None;
    }
    let mut reached = Vec::new();
    for behind in definitions.bindings.iter().filter(|one| one.vhost == next.vhost && one.source == next.name) {
        for behind in queues_behind(definitions, next, behind, depth + 1)? {
            let (first, second) = (&binding.routing_key, &behind.routing_key);
            let key = match (exchange.kind.as_str(), next.kind.as_str()) {
                (_, "fanout") => first.clone(),
                ("direct", "direct") if first == second => first.clone(),
                ("direct", "direct") => continue,
                ("direct", "topic") if second == "#" => first.clone(),
                ("topic", "topic") if second == "#" || first == second => first.clone(),
                ("topic", "topic") if first == "#" => second.clone(),
                ("topic", "direct") if first == "#" && !second.contains(['*', '#']) => second.clone(),
                _ => return None,
            };
            reached.push(Binding {
                destination: behind.destination,
                destination_type: behind.destination_type,
                routing_key: key,
                ..binding.clone()
            });
        }
    }
    Some(reached)
}

/// What happens to a record that no binding matches: RabbitMQ drops it, or hands it to the alternate exchange.
fn alternate(
    exchange: &Exchange,
    definitions: &Definitions,
    queues: &Queues<'_>,
    not_translated: &mut Vec<String>,
) -> Value {
    let Some(name) = exchange.arguments.get("alternate-exchange").and_then(Value::as_str) else {
        return json!("drop");
    };
    let is_fanout = definitions
        .exchanges
        .iter()
        .any(|other| other.name == name && other.vhost == exchange.vhost && other.kind == "fanout");
    let behind: Vec<&Binding> = definitions
        .bindings
        .iter()
        .filter(|binding| binding.source == name && binding.vhost == exchange.vhost)
        .collect();
    if let ([binding], true) = (behind.as_slice(), is_fanout)
        && let Some(topic) = queue_topic(queues, &binding.vhost, &binding.destination)
    {
        return json!({ "topic": topic });
    }
    not_translated.push(format!(
        "the alternate exchange {name} of {}: only one that fans out to a single queue can be; what nothing matches is dropped",
        exchange.name
    ));
    json!("drop")
}

/// The configuration of an exchange's router.
fn router_config(
    from: &str,
    exchange: &Exchange,
    bound: &[(Binding, &str)],
    unmatched: &Value,
    not_translated: &mut Vec<String>,
) -> anyhow::Result<Value> {
    // The same binding twice is one in RabbitMQ, and an error to the routers.
    let mut seen = BTreeSet::new();
    let mut once = |value: Value| seen.insert(value.to_string()).then_some(value);
    Ok(match exchange.kind.as_str() {
        "fanout" => {
            let topics: BTreeSet<&str> = bound.iter().map(|(_, topic)| *topic).collect();
            json!({ "topics": topics })
        }
        "direct" => {
            let each = bound.iter().map(|(binding, topic)| json!({ "key": binding.routing_key, "topic": topic }));
            json!({ "bindings": each.filter_map(&mut once).collect::<Vec<_>>(), "unmatched": unmatched })
        }
        "topic" => {
            let each = bound.iter().map(|(binding, topic)| json!({ "pattern": binding.routing_key, "topic": topic }));
            json!({ "bindings": each.filter_map(&mut once).collect::<Vec<_>>(), "unmatched": unmatched })
        }
        "headers" => {
            let is_plain = |value: &Value| !value.is_array() && !value.is_object();
            let (plain, other): (Vec<_>, Vec<_>) =
                bound.iter().partition(|(binding, _)| binding.arguments.values().all(is_plain));
            not_translated.extend(other.iter().map(|(_, topic)| {
                format!(
                    "{from}: a binding to {topic} by a header that is a table or an array; Kafka's headers are bytes"
                )
            }));
            let each = plain.iter().map(|(binding, topic)| {
                let mut headers = binding.arguments.clone();
                let kind = headers.remove("x-match").unwrap_or_else(|| json!("all"));
                json!({ "headers": headers, "match": kind, "topic": topic })
            });
            json!({ "bindings": each.filter_map(&mut once).collect::<Vec<_>>(), "unmatched": unmatched })
        }
        "x-consistent-hash" => {
            let mut weights: BTreeMap<&str, u64> = BTreeMap::new();
            for (binding, topic) in bound {
                let weight = binding
                    .routing_key
                    .parse::<u64>()
                    .with_context(|| format!("{from}: the binding key {:?} is no weight", binding.routing_key))?;
                *weights.entry(topic).or_default() += weight;
            }
            let topics: Vec<Value> =
                weights.iter().map(|(topic, weight)| json!({ "topic": topic, "weight": weight })).collect();
            let mut config = json!({ "topics": topics });
            if let Some(header) = exchange.arguments.get("hash-header") {
                config["source"] = json!({ "header": header });
            } else if exchange.arguments.contains_key("hash-property") {
                not_translated.push(format!("{from}: hash-property; the record's key is hashed"));
            }
            config
        }
        other => bail!("{from}: no router for {other}"),
    })
}

/// Arguments of a queue that a topic has, too.
fn queue_configs(
    from: &str,
    arguments: &Map<String, Value>,
    not_translated: &mut Vec<String>,
) -> BTreeMap<String, String> {
    let mut configs = BTreeMap::new();
    for (name, value) in arguments {
        let config = match name.as_str() {
            "x-message-ttl" => "retention.ms",
            "x-max-length-bytes" => "retention.bytes",
            // What a topic is anyway: durable, replicated as its configuration says.
            "x-queue-type" | "x-quorum-initial-group-size" | "x-queue-mode" | "x-queue-version" => continue,
            _ => {
                not_translated.push(format!("{name} of {from}"));
                continue;
            }
        };
        configs.insert(config.to_owned(), value.to_string());
    }
    configs
}

/// A name that a topic may have.
fn topic_name(name: &str) -> String {
    let mut topic = String::new();
    for letter in name.chars() {
        match letter {
            '.' | '_' | '-' => topic.push(letter),
            _ if letter.is_ascii_alphanumeric() => topic.push(letter),
            _ if letter.is_ascii() => topic.push('-'),
            // Told apart from each other: in some languages it is every letter.
            _ => topic.push_str(&format!("u{:04x}", u32::from(letter))),
        }
    }
    topic.truncate(249);
    let name = topic;
    if matches!(name.as_str(), "" | "." | "..") { "unnamed".to_owned() } else { name }
}

impl ImportRabbitmq {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let shown = self.file.display();
        let text = fs::read(&self.file).with_context(|| format!("cannot read {shown}"))?;
        let definitions: Definitions = serde_json::from_slice(&text)
            .with_context(|| format!("{shown} has no definitions of RabbitMQ (rabbitmqctl export_definitions)"))?;
        let deployed = |router: &str| {
            let named = self.plugins.iter().rev().find(|(kind, _)| kind == router);
            named.map_or_else(|| router.to_owned(), |(_, name)| name.clone())
        };
        if definitions.exchanges.is_empty() && definitions.queues.is_empty() {
            bail!("{shown} has no exchanges and no queues: is it what `rabbitmqctl export_definitions` wrote?");
        }
        let known: BTreeSet<&str> = definitions
            .exchanges
            .iter()
            .map(|exchange| exchange.vhost.as_str())
            .chain(definitions.queues.iter().map(|queue| queue.vhost.as_str()))
            .collect();
        if let Some(vhost) = self.vhost.as_deref().filter(|vhost| !known.contains(vhost)) {
            let known: Vec<&str> = known.into_iter().collect();
            bail!("{shown} has nothing of the virtual host {vhost:?}; it has {}", known.join(", "));
        }
        let (vhost, exchange_suffix) = (self.vhost.as_deref(), self.exchange_suffix.as_str());
        let plan = translate(definitions, &Reading { vhost, exchange_suffix, plugin: &deployed })?;
        if self.strict && !plan.not_translated.is_empty() {
            bail!("cannot be translated:\n  {}", plan.not_translated.join("\n  "));
        }
        let mut left = Vec::new();
        if !self.dry_run {
            self.check_deployed(&plan)?;
            left = self.create(&plan, out)?;
        }
        if self.json.json {
            output::json(out, &plan)?;
            return left_over(&left);
        }
        if self.dry_run {
            for topic in &plan.topics {
                writeln!(out, "topic {}  ({})", topic.name, topic.from)?;
                for (name, value) in &topic.configs {
                    writeln!(out, "    {name}={value}")?;
                }
            }
        }
        for (title, lines) in [("renamed", &plan.renamed), ("not translated", &plan.not_translated)] {
            if !lines.is_empty() {
                writeln!(out, "{title}:")?;
                lines.iter().try_for_each(|what| writeln!(out, "  {what}"))?;
            }
        }
        left_over(&left)
    }

    /// Before anything is created: half an import helps nobody.
    fn check_deployed(&self, plan: &Plan) -> anyhow::Result<()> {
        let used: BTreeSet<&String> =
            plan.topics.iter().filter_map(|topic| topic.configs.get("tidegate.router")).collect();
        let listing: Listing = self.admin.call(Method::Get, "/v1/plugins", None)?;
        let missing: Vec<&str> = used
            .into_iter()
            .filter(|name| !listing.plugins.iter().any(|plugin| plugin.name == **name))
            .map(String::as_str)
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let commands: Vec<String> = missing
            .iter()
            .map(|name| {
                format!("  tidegate plugin deploy {name} $(tidegate plugin build plugins/router-{name} --path)")
            })
            .collect();
        bail!("nothing was created: not deployed are {}\n{}", missing.join(", "), commands.join("\n"))
    }

    /// Creates what is not there, and brings what is there into line where that is asked for. Returns what is otherwise than the definitions
    /// say, and was left so.
    fn create(&self, plan: &Plan, out: &mut dyn Write) -> anyhow::Result<Vec<String>> {
        let mut cluster = self.bootstrap.connect()?;
        let there: BTreeSet<String> = cluster.topics()?.into_iter().map(|topic| topic.name).collect();
        let place = |topic: &PlannedTopic| format!("{} ({})", topic.name, topic.from);
        let new = |topic: &PlannedTopic| NewTopic {
            name: topic.name.clone(),
            partitions: self.partitions,
            replication_factor: None,
            configs: topic.configs.clone().into_iter().collect(),
        };
        let mut missing = Vec::new();
        let mut present = Vec::new();
        for topic in &plan.topics {
            if there.contains(&topic.name) {
                let changes = differing(&mut cluster, topic)?;
                if self.update && !changes.is_empty() {
                    // Routers may name what is only about to be created: that is looked at when it is done.
                    cluster
                        .alter_topic_configs(&topic.name, &changes, Change::Check)
                        .with_context(|| format!("nothing was created: {}", place(topic)))?;
                }
                present.push((topic, changes));
            } else {
                cluster
                    .create_topic(&new(topic), Change::Check)
                    .with_context(|| format!("nothing was created: {}", place(topic)))?;
                missing.push(topic);
            }
        }
        let mut say = |line: String| if self.json.json { Ok(()) } else { writeln!(out, "{line}") };
        for topic in missing {
            cluster.create_topic(&new(topic), Change::Make).with_context(|| place(topic))?;
            say(format!("created topic {}  ({})", topic.name, topic.from))?;
        }
        let mut left = Vec::new();
        for (topic, changes) in present {
            let names = changes.iter().map(|change| match change {
                ConfigChange::Set { name, .. } | ConfigChange::Unset { name, .. } => name.as_str(),
            });
            let names = names.collect::<Vec<_>>().join(", ");
            if changes.is_empty() {
                say(format!("left as it is: topic {}  ({})", topic.name, topic.from))?;
            } else if self.update {
                cluster.alter_topic_configs(&topic.name, &changes, Change::Make).with_context(|| place(topic))?;
                say(format!("updated topic {}  ({}): {names}", topic.name, topic.from))?;
            } else {
                say(format!("left otherwise: topic {}  ({}): {names}", topic.name, topic.from))?;
                left.push(topic.name.clone());
            }
        }
        Ok(left)
    }
}

/// What would give a topic that is there the planned configuration.
fn differing(cluster: &mut Cluster, topic: &PlannedTopic) -> anyhow::Result<Vec<ConfigChange>> {
    if topic.configs.is_empty() {
        return Ok(Vec::new());
    }
    let present = cluster.topic_configs(&topic.name)?;
    let is_so = |name: &str, value: &str| {
        present.iter().any(|config| config.name == name && config.value.as_deref() == Some(value))
    };
    let changes = topic.configs.iter().filter(|(name, value)| !is_so(name, value));
    Ok(changes.map(|(name, value)| ConfigChange::Set { name: name.clone(), value: value.clone() }).collect())
}

fn left_over(left: &[String]) -> anyhow::Result<()> {
    if left.is_empty() {
        return Ok(());
    }
    bail!(
        "there already, with another configuration or without a router: {}; --update gives them what the definitions say",
        left.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const READING: Reading<'static> =
        Reading { vhost: None, exchange_suffix: ".exchange", plugin: &|router| router.to_owned() };

    fn plan(definitions: Value) -> Plan {
        let definitions = serde_json::from_value(definitions).expect("definitions");
        translate(definitions, &READING).expect("a plan")
    }

    fn config(plan: &Plan, topic: &str) -> Value {
        let found = plan.topics.iter().find(|planned| planned.name == topic).expect("the topic is planned");
        serde_json::from_str(&found.configs["tidegate.router.config"]).expect("JSON")
    }

    #[test]
    fn each_type_of_exchange_becomes_its_router() {
        let queue = |name: &str| json!({ "name": name, "vhost": "/", "durable": true, "arguments": {} });
        let exchange = |name: &str, kind: &str| json!({ "name": name, "vhost": "/", "type": kind, "arguments": {} });
        let bind = |source: &str, to: &str, key: &str, arguments: Value| {
            json!({ "source": source, "vhost": "/", "destination": to, "destination_type": "queue", "routing_key": key,
                    "arguments": arguments })
        };
        let plan = plan(json!({
            "exchanges": [
                exchange("", "direct"), exchange("amq.topic", "topic"), exchange("d", "direct"), exchange("t", "topic"),
                exchange("f", "fanout"), exchange("h", "headers"), exchange("c", "x-consistent-hash")
            ],
            "queues": [queue("a"), queue("b")],
            "bindings": [
                bind("d", "a", "error", json!({})), bind("d", "b", "error", json!({})), bind("d", "b", "error", json!({})),
                bind("t", "a", "eu.*.#", json!({})),
                bind("f", "b", "", json!({})), bind("f", "a", "ignored", json!({})),
                bind("h", "a", "", json!({ "x-match": "any", "format": "pdf", "pages": 3 })),
                bind("c", "a", "1", json!({})), bind("c", "b", "2", json!({}))
            ]
        }));
        assert_eq!(plan.not_translated, Vec::<String>::new());
        let names: Vec<&str> = plan.topics.iter().map(|topic| topic.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "d", "t", "f", "h", "c"], "queues first, nothing of the predeclared");
        let bindings = json!([{ "key": "error", "topic": "a" }, { "key": "error", "topic": "b" }]);
        assert_eq!(config(&plan, "d"), json!({ "bindings": bindings, "unmatched": "drop" }));
        let bindings = json!([{ "pattern": "eu.*.#", "topic": "a" }]);
        assert_eq!(config(&plan, "t"), json!({ "bindings": bindings, "unmatched": "drop" }));
        assert_eq!(config(&plan, "f"), json!({ "topics": ["a", "b"] }));
        let bindings = json!([{ "headers": { "format": "pdf", "pages": 3 }, "match": "any", "topic": "a" }]);
        assert_eq!(config(&plan, "h"), json!({ "bindings": bindings, "unmatched": "drop" }));
        let topics = json!([{ "topic": "a", "weight": 1 }, { "topic": "b", "weight": 2 }]);
        assert_eq!(config(&plan, "c"), json!({ "topics": topics }));
        assert_eq!(plan.topics[6].configs["tidegate.router"], "consistent-hash");
    }

    #[test]
    fn exchanges_that_an_export_leaves_out_are_known_or_named() {
        let bind = |source: &str| json!({ "source": source, "destination": "q", "destination_type": "queue", "routing_key": "a.#" });
        let plan = plan(json!({
            "queues": [{ "name": "q" }],
            "bindings": [bind("amq.topic"), bind("amq.direct"), bind(""), bind("hidden")]
        }));
        let names: Vec<&str> = plan.topics.iter().map(|topic| topic.name.as_str()).collect();
        assert_eq!(names, ["q", "amq.direct", "amq.topic"]);
        let bindings = json!([{ "pattern": "a.#", "topic": "q" }]);
        assert_eq!(config(&plan, "amq.topic"), json!({ "bindings": bindings, "unmatched": "drop" }));
        assert_eq!(plan.not_translated.len(), 1, "{:?}", plan.not_translated);
        assert!(plan.not_translated[0].contains("exchange hidden to queue q"), "{:?}", plan.not_translated);
    }

    #[test]
    fn letters_of_other_languages_stay_apart() {
        let plan = plan(json!({ "queues": [{ "name": "\u{e4}" }, { "name": "\u{f6}" }] }));
        let names: Vec<&str> = plan.topics.iter().map(|topic| topic.name.as_str()).collect();
        assert_eq!(names, ["u00e4", "u00f6"]);
    }

    #[test]
    fn what_has_no_counterpart_is_named() {
        let plan = plan(json!({
            "exchanges": [
                { "name": "in", "type": "topic", "arguments": { "alternate-exchange": "rest" } },
                { "name": "rest", "type": "fanout" },
                { "name": "later", "type": "x-delayed-message" },
                { "name": "empty", "type": "direct" },
                { "name": "by-table", "type": "headers" }
            ],
            "queues": [
                { "name": "q 1", "arguments": { "x-message-ttl": 60000, "x-dead-letter-exchange": "dlx", "x-queue-type": "quorum" } },
                { "name": "left", "vhost": "other" }, { "name": "lost" }
            ],
            "bindings": [
                { "source": "in", "destination": "q 1", "destination_type": "queue", "routing_key": "#" },
                { "source": "in", "destination": "by-table", "destination_type": "exchange", "routing_key": "#" },
                { "source": "in", "destination": "gone", "destination_type": "queue", "routing_key": "#" },
                { "source": "by-table", "destination": "lost", "destination_type": "queue", "arguments": { "x-match": "all", "h": { "a": 1 } } },
                { "source": "by-table", "destination": "q 1", "destination_type": "queue", "arguments": { "h": "v" } },
                { "source": "rest", "destination": "lost", "destination_type": "queue" }
            ],
            "policies": [
                { "name": "ttl", "vhost": "/", "pattern": ".*", "definition": { "message-ttl": 5 } },
                { "name": "unmatched", "pattern": "^in$", "definition": { "alternate-exchange": "rest" } }
            ]
        }));
        assert_eq!(plan.topics[0].name, "q-1");
        assert_eq!(plan.topics[0].configs, BTreeMap::from([("retention.ms".to_owned(), "60000".to_owned())]));
        assert_eq!(plan.topics[1].name, "other.left");
        assert_eq!(config(&plan, "in")["unmatched"], json!({ "topic": "lost" }), "the alternate exchange");
        assert_eq!(config(&plan, "by-table")["bindings"].as_array().map(Vec::len), Some(1));
        let said = plan.not_translated.join("\n");
        for words in [
            "'q-1'",
            "x-dead-letter-exchange of queue q 1",
            "to exchange by-table",
            "no such queue",
            "later",
            "empty",
            "a binding to lost by a header that is a table",
            "policy unmatched: it gives an alternate exchange to those whose name matches ^in$",
            "1 policy:",
        ] {
            assert!(said.contains(words), "{words} in\n{said}");
        }
        assert!(!said.contains("x-queue-type"));
    }

    #[test]
    fn two_names_that_become_one_are_refused() {
        let definitions: Definitions =
            serde_json::from_value(json!({ "queues": [{ "name": "a b" }, { "name": "a-b" }] })).expect("definitions");
        let error = translate(definitions, &READING).expect_err("both are a-b");
        assert!(error.to_string().contains("'a-b'"), "{error}");
    }

    /// MassTransit's layout, on which the import once gave up: for each message an exchange, bound to one with the name of its queue.
    #[test]
    fn a_queue_and_an_exchange_of_one_name_are_two_topics_and_bindings_between_exchanges_are_joined() {
        let plan = plan(json!({
            "exchanges": [
                { "name": "Orders:Submitted", "type": "fanout" }, { "name": "billing", "type": "fanout" },
                { "name": "all", "type": "topic" }, { "name": "some", "type": "topic" }, { "name": "exact", "type": "direct" }
            ],
            "queues": [{ "name": "billing" }, { "name": "q" }],
            "bindings": [
                { "source": "Orders:Submitted", "destination": "billing", "destination_type": "exchange" },
                { "source": "billing", "destination": "billing", "destination_type": "queue" },
                { "source": "all", "destination": "billing", "destination_type": "exchange", "routing_key": "eu.#" },
                { "source": "all", "destination": "some", "destination_type": "exchange", "routing_key": "#" },
                { "source": "some", "destination": "q", "destination_type": "queue", "routing_key": "us.*" },
                { "source": "exact", "destination": "some", "destination_type": "exchange", "routing_key": "us.1" },
                { "source": "exact", "destination": "exact", "destination_type": "exchange", "routing_key": "loop" },
                { "source": "exact", "destination": "q", "destination_type": "queue", "routing_key": "k" }
            ]
        }));
        assert_eq!(config(&plan, "Orders-Submitted"), json!({ "topics": ["billing"] }));
        assert_eq!(config(&plan, "billing.exchange"), json!({ "topics": ["billing"] }));
        assert!(plan.renamed[0].contains("fanout exchange billing is topic 'billing.exchange'"), "{:?}", plan.renamed);
        let joined = json!([{ "pattern": "eu.#", "topic": "billing" }, { "pattern": "us.*", "topic": "q" }]);
        assert_eq!(config(&plan, "all")["bindings"], joined);
        assert_eq!(config(&plan, "exact")["bindings"], json!([{ "key": "k", "topic": "q" }]));
        let said = plan.not_translated.join("\n");
        assert!(
            said.contains("exchange exact to exchange some") && said.contains("exchange exact to exchange exact"),
            "{said}"
        );
    }
}
