//! `tidegate plugin test`: asks a plugin about records, shows where each goes, and compares with what was expected.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use rdkafka::{
    Message as _, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    message::Headers as _,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    super::{
        Bootstrap, Json,
        produce::{self, Draft},
    },
    sandbox::{Loaded, Outcome, Place, Surroundings, engine},
    trial::wrong_places,
};
use crate::{
    client::{
        Cluster,
        offsets::{Position, TopicPartition},
        topics::Absent,
    },
    librdkafka::{self, Warnings},
    offset_spec::OffsetSpec,
    output::{self, Align, Table},
    record_format,
};

/// Records of one call: as a large batch of a producer.
const BATCH_RECORDS: usize = 1000;
/// For how long calls may fail in all before records are no longer looked for one by one: a call that never ends takes ten seconds.
const FAILING_MAX: Duration = Duration::from_secs(30);

/// The configuration that a plugin is opened with.
#[derive(Debug, Args)]
pub(super) struct Configuration {
    /// The plugin's configuration
    #[arg(long, value_name = "TEXT", conflicts_with = "config_file")]
    config: Option<String>,
    /// A file with the plugin's configuration
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
}

impl Configuration {
    pub(super) fn read(&self) -> anyhow::Result<String> {
        match &self.config_file {
            Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display())),
            None => Ok(self.config.clone().unwrap_or_default()),
        }
    }
}

/// Ask a plugin about records, in the sandbox but without a broker, and print where each goes
///
/// A record is a line of JSON, as `tidegate consume --format json` prints it: {"key": "a", "value": "b", "headers": {"h": "1"}}. A router's
/// answer is {"to": ["orders-eu", "audit/3"]} (a topic, or a topic and a partition), a partitioner's {"partition": 3}, an
/// acknowledgement hook's {"accepted": "as asked"}, that of a retention policy that erases {"kept": true}; a record that is refused has
/// {"rejected": "why"}, and one that the plugin fails with {"failed": "why"}: in a broker, its whole batch meets the topic's
/// tidegate.WORLD.on.failure.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate plugin test router_topic.component.wasm --records records.jsonl --config '{\"bindings\":[{\"pattern\":\"eu.#\",\"topic\":\"eu\"}]}'
  tidegate plugin test . --records records.jsonl --json > expected.json    a folder is built first
  tidegate plugin test . --records records.jsonl --expect expected.json    fails and shows what differs: for CI
  tidegate plugin test . --topic orders --from -100                        the last hundred records of each partition")]
pub(super) struct Test {
    /// A component, or the folder of a plugin
    plugin: PathBuf,
    #[command(flatten)]
    config: Configuration,
    /// A file with records, one JSON object a line
    #[arg(long, value_name = "FILE", conflicts_with = "topic", required_unless_present = "topic")]
    records: Option<PathBuf>,
    /// Take the records from this topic of a running broker
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// With --topic, where to begin: beginning, end, N, -N (that many before the end), or @MOMENT
    #[arg(long, value_name = "OFFSET", default_value = "beginning", allow_hyphen_values = true)]
    from: OffsetSpec,
    /// At most so many records; without it, all of a file, and 1000 of a topic
    #[arg(short = 'n', long = "count", value_name = "N")]
    count: Option<usize>,
    /// What --json printed when all was right, or {"to": [...]} a line: fail where a record goes elsewhere
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// The topic that the plugin is told the records were sent to; with --topic, that one
    #[arg(long, value_name = "TOPIC")]
    sent_to: Option<String>,
    /// How many partitions it is told that this topic has; with --topic, as many as it has, else 12
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    /// The time it is told, in milliseconds since 1970; else the newest timestamp of a batch
    #[arg(long, value_name = "MS")]
    now: Option<i64>,
    /// What its random numbers begin with
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Who it is told sent the records
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// The client id that it is told
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// A record and where it goes, as it is printed.
#[derive(Serialize)]
struct Answered {
    record: usize,
    key: Value,
    #[serde(flatten)]
    outcome: Outcome,
}

/// What is looked at of an expectation; whatever else it has is for people.
#[derive(Deserialize)]
struct Expected {
    #[serde(flatten)]
    outcome: Outcome,
}

impl Test {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let config = self.config.read()?;
        // Before the plugin is built, which takes longest.
        let expected = self.expect.as_deref().map(read_expected).transpose()?;
        let (records, around, cluster) = self.records()?;
        let plugin = Loaded::from_path(&engine()?, &self.plugin)?;
        let answered = ask_all(&plugin, &config, &records, &around)?;
        if let Some(mut cluster) = cluster {
            warn_of_wrong_places(&mut cluster, &answered)?;
        }
        if self.json.json {
            output::json(out, &answered)?;
        } else if expected.is_none() {
            show(&answered, out)?;
        }
        match expected {
            Some(expected) => compare(&answered, &expected, self.json, out),
            None => {
                let failed = answered.iter().filter(|one| matches!(one.outcome, Outcome::Failed(_))).count();
                ensure!(failed == 0, "the plugin fails with {}", output::count(failed as u64, "record"));
                Ok(())
            }
        }
    }

    /// The records, what the plugin is told beside them, and the cluster that they come from.
    fn records(&self) -> anyhow::Result<(Vec<Draft>, Surroundings, Option<Cluster>)> {
        let mut of_cluster = None;
        let mut around = Surroundings {
            topic: self.sent_to.clone().unwrap_or_else(|| "sent-to".to_owned()),
            partitions: self.partitions.unwrap_or(12),
            now: self.now,
            seed: self.seed,
            principal: self.principal.clone(),
            client_id: self.client_id.clone(),
        };
        let records = match (&self.topic, &self.records) {
            (Some(topic), _) => {
                let mut cluster = self.bootstrap.connect()?;
                let partitions = cluster.topic(topic, Absent::Error)?.partitions.len();
                around.topic = self.sent_to.clone().unwrap_or_else(|| topic.clone());
                around.partitions = self.partitions.unwrap_or(partitions as u32);
                let count = self.count.unwrap_or(BATCH_RECORDS);
                let records = read_topic(&mut cluster, &self.bootstrap.bootstrap, topic, self.from, count)?;
                of_cluster = Some(cluster);
                records
            }
            (None, Some(file)) => {
                let mut records = read_records(file, usize::MAX)?;
                if let Some(count) = self.count.filter(|count| *count < records.len()) {
                    // Standard error may be closed; there is nobody left to tell.
                    let _ = writeln!(
                        std::io::stderr(),
                        "only the first {count} of the {} records in {} (-n)",
                        records.len(),
                        file.display()
                    );
                    records.truncate(count);
                }
                records
            }
            (None, None) => Vec::new(),
        };
        Ok((records, around, of_cluster))
    }
}

/// Asks in batches; what the plugin logs goes to standard error. A batch with which it fails is asked about again in halves, by a new
/// instance each: the records that it fails with are named, and the others have their answers.
fn ask_all(plugin: &Loaded, config: &str, records: &[Draft], around: &Surroundings) -> anyhow::Result<Vec<Answered>> {
    let mut answered = Vec::with_capacity(records.len());
    let mut instance = plugin.open(config)?;
    // Those to ask about next are at the end.
    let mut batches: Vec<&[Draft]> = records.chunks(BATCH_RECORDS).rev().collect();
    let mut failing = Duration::ZERO;
    while let Some(batch) = batches.pop() {
        let began = Instant::now();
        let outcomes = instance.ask(batch, around);
        for line in instance.log() {
            // Standard error may be closed; there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "the plugin says {line}");
        }
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => {
                failing += began.elapsed();
                instance = plugin.open(config)?;
                if batch.len() > 1 && failing < FAILING_MAX {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    batches.extend([second, first]);
                    continue;
                }
                vec![Outcome::Failed(format!("{:#}", anyhow::Error::new(error))); batch.len()]
            }
        };
        for (record, outcome) in batch.iter().zip(outcomes) {
            let key = record_format::text(record.key.as_deref());
            answered.push(Answered { record: answered.len(), key, outcome });
        }
    }
    Ok(answered)
}

/// Says to which places the running broker would not let records go.
fn warn_of_wrong_places(cluster: &mut Cluster, answered: &[Answered]) -> anyhow::Result<()> {
    let mut records_of: BTreeMap<&Place, usize> = BTreeMap::new();
    for one in answered {
        if let Outcome::To(places) = &one.outcome {
            places.iter().for_each(|place| *records_of.entry(place).or_default() += 1);
        }
    }
    for (place, records) in records_of {
        if let Some(problem) = wrong_places(cluster, std::slice::from_ref(place))? {
            let records = output::count(records as u64, "record");
            // Standard error may be closed; there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "in this broker it would fail with {records}: it routes to {problem}");
        }
    }
    Ok(())
}

/// Where a record goes, for people.
pub(super) fn in_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::To(places) if places.is_empty() => "nowhere: it is dropped".to_owned(),
        Outcome::To(places) => places.iter().cloned().map(String::from).collect::<Vec<_>>().join(", "),
        Outcome::Partition(partition) => format!("partition {partition}"),
        Outcome::Accepted(when) => format!("accepted: {when}"),
        Outcome::Kept(true) => "kept".to_owned(),
        Outcome::Kept(false) => "erased".to_owned(),
        Outcome::Rejected(reason) => format!("rejected: {reason}"),
        Outcome::Failed(reason) => format!("no answer: {reason}"),
    }
}

fn show(answered: &[Answered], out: &mut dyn Write) -> anyhow::Result<()> {
    let mut table = Table::new(&[("RECORD", Align::Right), ("KEY", Align::Left), ("GOES TO", Align::Left)]);
    for one in answered {
        let key = one.key.as_str().map_or_else(|| one.key.to_string(), str::to_owned);
        table.row([one.record.to_string(), key, in_words(&one.outcome)]);
    }
    Ok(table.write(out)?)
}

fn compare(answered: &[Answered], expected: &[Expected], json: Json, out: &mut dyn Write) -> anyhow::Result<()> {
    ensure!(
        answered.len() == expected.len(),
        "there are {} records and {} expectations",
        answered.len(),
        expected.len()
    );
    let different: Vec<(&Answered, &Outcome)> = answered
        .iter()
        .zip(expected.iter().map(|expected| &expected.outcome))
        .filter(|(answered, expected)| answered.outcome != **expected)
        .collect();
    if different.is_empty() {
        if !json.json {
            writeln!(out, "{} went where they should", output::count(answered.len() as u64, "record"))?;
        }
        return Ok(());
    }
    let first: Vec<String> = different
        .iter()
        .take(10)
        .map(|(one, expected)| {
            format!(
                "record {}, key {}: goes to {}; expected: {}",
                one.record,
                one.key,
                in_words(&one.outcome),
                in_words(expected)
            )
        })
        .collect();
    let more = if different.len() > 10 { "\n..." } else { "" };
    bail!("{} of {} records do not go where they should\n{}{more}", different.len(), answered.len(), first.join("\n"))
}

pub(super) fn read_records(file: &Path, count: usize) -> anyhow::Result<Vec<Draft>> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let lines = text.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    lines
        .take(count)
        .map(|(number, line)| {
            produce::from_json(line).with_context(|| format!("{}, line {}", file.display(), number + 1))
        })
        .collect()
}

/// JSON values one after another, or lists of them.
fn read_expected(file: &Path) -> anyhow::Result<Vec<Expected>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut expected = Vec::new();
    for value in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
        let value = value.with_context(|| format!("{} is no JSON", file.display()))?;
        let values = if let Value::Array(values) = value { values } else { vec![value] };
        for value in values {
            let one = serde_json::from_value(value).with_context(|| {
                format!(
                    "{}, expectation {}: it is {{\"to\": [...]}}, {{\"partition\": N}}, {{\"accepted\": \"...\"}}, {{\"kept\": true}}, {{\"rejected\": \"...\"}} or {{\"failed\": \"...\"}}",
                    file.display(),
                    expected.len()
                )
            })?;
            expected.push(one);
        }
    }
    Ok(expected)
}

/// At most `count` records of a topic, partition by partition, as far as they are there now.
fn read_topic(
    cluster: &mut Cluster,
    bootstrap: &str,
    topic: &str,
    from: OffsetSpec,
    count: usize,
) -> anyhow::Result<Vec<Draft>> {
    let partitions = cluster.topic(topic, Absent::Error)?.partitions;
    let partitions: Vec<TopicPartition> =
        partitions.iter().map(|partition| (topic.to_owned(), partition.partition)).collect();
    let starts = cluster.offsets(&partitions, Position::Earliest)?;
    let ends = cluster.offsets(&partitions, Position::Latest)?;
    let begins = match from {
        OffsetSpec::From(timestamp) => cluster.offsets(&partitions, Position::At(timestamp))?,
        from => starts
            .into_iter()
            .filter_map(|(partition, start)| Some((partition.clone(), from.resolve(start, *ends.get(&partition)?)?)))
            .collect(),
    };
    let defaults = [
        ("group.id", "tidegate-cli-without-group"),
        ("enable.auto.commit", "false"),
        ("enable.partition.eof", "true"),
        ("allow.auto.create.topics", "false"),
    ];
    let consumer: BaseConsumer<Warnings> = librdkafka::config(bootstrap, &defaults, &[])
        .create_with_context(Warnings::default())
        .context("cannot start librdkafka")?;
    let mut list = TopicPartitionList::new();
    for ((topic, partition), offset) in &begins {
        list.add_partition_offset(topic, *partition, rdkafka::Offset::Offset(offset.0))?;
    }
    consumer.assign(&list)?;
    let mut records = Vec::new();
    let mut ended = BTreeSet::new();
    while records.len() < count && ended.len() < begins.len() {
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(record)) => {
                let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
                records.push((
                    (record.partition(), record.offset()),
                    Draft {
                        key: record.key().map(<[u8]>::to_vec),
                        value: record.payload().map(<[u8]>::to_vec),
                        headers: headers
                            .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
                            .collect(),
                        partition: Some(record.partition()),
                        timestamp: record.timestamp().to_millis(),
                    },
                ));
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ended.insert(partition);
            }
            Some(Err(error)) if librdkafka::is_passing(&error) => consumer.context().warn(&error.to_string()),
            Some(Err(error)) => return Err(anyhow::Error::new(error).context("cannot read the topic")),
        }
    }
    records.sort_by_key(|(place, _)| *place);
    Ok(records.into_iter().map(|(_, record)| record).collect())
}
