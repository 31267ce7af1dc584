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
use kafka_protocol::error::ResponseError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Admin, Listing, Method};
use crate::{
    client::topics::{Change, NewTopic},
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
    policies: Vec<Value>,
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

#[derive(Debug, Deserialize)]
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

/// What the definitions become. `plugin` gives the name under which a router is deployed.
fn translate(definitions: &Definitions, vhost: Option<&str>, plugin: &dyn Fn(&str) -> String) -> anyhow::Result<Plan> {
    let mut plan = Plan::default();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let wanted = |found: &str| vhost.is_none_or(|vhost| vhost == found);
    let qualified = |found: &str, name: &str| {
        if vhost.is_some() || found == "/" { name.to_owned() } else { format!("{found}.{name}") }
    };
    let mut take_name = |plan: &mut Plan, from: &str, wish: &str| -> anyhow::Result<String> {
        let name = topic_name(wish);
        if name != wish {
            plan.not_translated.push(format!("the name of {from}: as a topic it is '{name}'"));
        }
        if let Some(other) = names.insert(name.clone(), from.to_owned()) {
            bail!("{other} and {from} would both become topic '{name}': rename one of them in the file");
        }
        Ok(name)
    };

    let mut queues: BTreeMap<(&str, &str), String> = BTreeMap::new();
    for queue in definitions.queues.iter().filter(|queue| wanted(&queue.vhost)) {
        let from = format!("queue {}", queue.name);
        let name = take_name(&mut plan, &from, &qualified(&queue.vhost, &queue.name))?;
        queues.insert((&queue.vhost, &queue.name), name.clone());
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
            if binding.destination_type != "queue" {
                plan.not_translated.push(format!(
                    "the binding of {from} to exchange {}: routers do not chain; bind its queues directly",
                    binding.destination
                ));
                continue;
            }
            match queues.get(&(binding.vhost.as_str(), binding.destination.as_str())) {
                Some(topic) => bound.push((binding, topic.as_str())),
                None => plan.not_translated.push(format!(
                    "the binding of {from} to queue {}: the file has no such queue",
                    binding.destination
                )),
            }
        }
        if bound.is_empty() {
            plan.not_translated.push(format!("{from}: it has no binding to a queue, so there is nothing to route to"));
            continue;
        }
        let alternate = alternate(exchange, definitions, &queues, &mut plan.not_translated);
        let config = router_config(&from, exchange, &bound, &alternate, &mut plan.not_translated)?;
        let name = take_name(&mut plan, &from, &qualified(&exchange.vhost, &exchange.name))?;
        let configs = BTreeMap::from([
            ("tidegate.router".to_owned(), plugin(router)),
            ("tidegate.router.config".to_owned(), config.to_string()),
        ]);
        plan.topics.push(PlannedTopic { name, from, configs });
    }
    if !definitions.policies.is_empty() {
        let policies = output::count(definitions.policies.len() as u64, "policy").replace("policys", "policies");
        plan.not_translated.push(format!("{policies}: set what they say as configuration of the topics"));
    }
    Ok(plan)
}

/// What happens to a record that no binding matches: RabbitMQ drops it, or hands it to the alternate exchange.
fn alternate(
    exchange: &Exchange,
    definitions: &Definitions,
    queues: &BTreeMap<(&str, &str), String>,
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
        && let Some(topic) = queues.get(&(binding.vhost.as_str(), binding.destination.as_str()))
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
    bound: &[(&Binding, &str)],
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
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    let name: String = name.chars().map(|letter| if allowed(letter) { letter } else { '-' }).take(249).collect();
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
        let plan = translate(&definitions, self.vhost.as_deref(), &deployed)?;
        if self.strict && !plan.not_translated.is_empty() {
            bail!("cannot be translated:\n  {}", plan.not_translated.join("\n  "));
        }
        if !self.dry_run {
            self.check_deployed(&plan)?;
            self.create(&plan, out)?;
        }
        if self.json.json {
            return output::json(out, &plan);
        }
        if self.dry_run {
            for topic in &plan.topics {
                writeln!(out, "topic {}  ({})", topic.name, topic.from)?;
                for (name, value) in &topic.configs {
                    writeln!(out, "    {name}={value}")?;
                }
            }
        }
        if !plan.not_translated.is_empty() {
            writeln!(out, "not translated:")?;
            plan.not_translated.iter().try_for_each(|what| writeln!(out, "  {what}"))?;
        }
        Ok(())
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

    fn create(&self, plan: &Plan, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut cluster = self.bootstrap.connect()?;
        for topic in &plan.topics {
            let new = NewTopic {
                name: topic.name.clone(),
                partitions: self.partitions,
                replication_factor: None,
                configs: topic.configs.clone().into_iter().collect(),
            };
            let done = match cluster.create_topic(&new, Change::Make) {
                Ok(_) => "created",
                Err(error) if error.code() == Some(ResponseError::TopicAlreadyExists) => "left as it is:",
                Err(error) => return Err(error).with_context(|| format!("{} ({})", topic.name, topic.from)),
            };
            if !self.json.json {
                writeln!(out, "{done} topic {}  ({})", topic.name, topic.from)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(definitions: Value) -> Plan {
        let definitions = serde_json::from_value(definitions).expect("definitions");
        translate(&definitions, None, &|router| router.to_owned()).expect("a plan")
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
                { "source": "in", "destination": "rest", "destination_type": "exchange", "routing_key": "#" },
                { "source": "in", "destination": "gone", "destination_type": "queue", "routing_key": "#" },
                { "source": "by-table", "destination": "lost", "destination_type": "queue", "arguments": { "x-match": "all", "h": { "a": 1 } } },
                { "source": "by-table", "destination": "q 1", "destination_type": "queue", "arguments": { "h": "v" } },
                { "source": "rest", "destination": "lost", "destination_type": "queue" }
            ],
            "policies": [{ "name": "ttl" }]
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
            "to exchange rest",
            "no such queue",
            "later",
            "empty",
            "a binding to lost by a header that is a table",
            "1 policy",
        ] {
            assert!(said.contains(words), "{words} in\n{said}");
        }
        assert!(!said.contains("x-queue-type"));
    }

    #[test]
    fn two_names_that_become_one_are_refused() {
        let definitions: Definitions =
            serde_json::from_value(json!({ "queues": [{ "name": "a b" }, { "name": "a-b" }] })).expect("definitions");
        let error = translate(&definitions, None, &|router| router.to_owned()).expect_err("both are a-b");
        assert!(error.to_string().contains("'a-b'"), "{error}");
    }
}
