//! `tidegate produce`: records from a terminal, a pipe or a file into a topic.
//!
//! One line is one record. Memory is bounded by librdkafka's queue and by [`LINE_BYTES_MAX`]; a full queue makes the reader wait.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal as _, Read as _, Write},
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use base64::Engine as _;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use rdkafka::{
    ClientContext, Message as _,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::Value;

use super::{Bootstrap, Separator, name_and_value};
use crate::{
    client::topics::Absent,
    librdkafka::{self, Warnings},
    output,
};

/// How long one line of input may be; no broker takes a record as long as this.
const LINE_BYTES_MAX: u64 = 256 << 20;
/// How many failures are told one by one.
const FAILURES_SHOWN: usize = 5;

/// Write records into a topic, from a terminal, a pipe or a file
///
/// One line is one record. Without a key separator the whole line is the value.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate produce orders                                  type records, end with Ctrl-D
  echo 'user-1:hello' | tidegate produce orders --key-separator :
  tidegate produce orders --file orders.tsv --key-separator '\\t' --compression zstd
  tidegate consume orders -e --format json | tidegate produce copy --format json
  tidegate produce orders --key user-1 --header source=test --acks all --idempotent < lines.txt

With --format json a line is an object; value is a string, null, {\"base64\": \"...\"}, or any other JSON, sent as it is:
  {\"key\": \"user-1\", \"value\": {\"total\": 3}, \"headers\": {\"source\": \"test\"}, \"partition\": 0, \"timestamp\": 1700000000000}")]
pub(super) struct ProduceArgs {
    topic: String,
    /// Read records from a file, not from standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What stands between key and value on a line; \t, \n and \xFF are escapes
    #[arg(long, short = 'K', value_name = "SEPARATOR", conflicts_with_all = ["key", "format"], allow_hyphen_values = true)]
    key_separator: Option<Separator>,
    /// The key of every record
    #[arg(long, short, conflicts_with = "format", allow_hyphen_values = true)]
    key: Option<String>,
    /// A header of every record; may be given often
    #[arg(long = "header", short = 'H', value_name = "NAME=VALUE", value_parser = name_and_value, allow_hyphen_values = true)]
    headers: Vec<(String, String)>,
    /// What a line is: text, or a JSON object as `consume --format json` prints it
    #[arg(long, value_enum, default_value_t = LineFormat::Text)]
    format: LineFormat,
    /// An empty value is none at all: a tombstone, which deletes its key in a compacted topic
    #[arg(long, short = 'Z')]
    null: bool,
    /// The partition; without it, Kafka's murmur2 of the key, or any
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// What must have a record before it counts as written: 0 nobody, 1 the leader, all every replica in sync
    #[arg(long, value_enum, default_value_t = Acks::All)]
    acks: Acks,
    /// How record batches are compressed
    #[arg(long, value_enum, default_value_t = Compression::None)]
    compression: Compression,
    /// Number the records, so that a retry writes nothing twice
    #[arg(long)]
    idempotent: bool,
    /// How long to wait for more records before a batch is sent
    #[arg(long, value_name = "MS", default_value_t = 5)]
    linger_ms: u32,
    /// A setting of librdkafka, such as batch.size=65536; may be given often
    #[arg(long = "property", short = 'X', value_name = "NAME=VALUE", value_parser = name_and_value)]
    properties: Vec<(String, String)>,
    /// Say nothing at the end but errors
    #[arg(long, short)]
    quiet: bool,
    /// Print JSON, for machines, of what became of the records; they are read as JSON with --format json
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LineFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Acks {
    #[value(name = "0")]
    Nobody,
    #[value(name = "1")]
    Leader,
    #[value(alias = "-1")]
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// A record that is still to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Draft {
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Option<Vec<u8>>)>,
    pub(super) partition: Option<i32>,
    pub(super) timestamp: Option<i64>,
}

impl ProduceArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        // librdkafka would wait for minutes for a broker or a topic that is not there.
        self.bootstrap.connect()?.topic(&self.topic, Absent::MayBeCreated)?;
        let started = Instant::now();
        let (mut input, progress) = self.input()?;
        let producer: ThreadedProducer<Deliveries> =
            self.config().create_with_context(Deliveries::default()).context("cannot start librdkafka")?;

        let mut line = Vec::new();
        let mut number = 0_u64;
        let read = loop {
            match read_line(&mut input, &mut line) {
                Ok(false) => break Ok(()),
                Ok(true) => number += 1,
                Err(error) => break Err(anyhow::Error::new(error).context(format!("line {}", number + 1))),
            }
            let draft = match self.draft(&line) {
                Ok(draft) => draft,
                Err(error) => break Err(error.context(format!("line {number}"))),
            };
            if let Err(error) = self.send(&producer, &draft, number) {
                break Err(anyhow::Error::new(error).context(format!("line {number}")));
            }
        };
        // What was read is written even where a later line is wrong.
        let flushed = producer.flush(Duration::from_secs(86_400));
        progress.finish_and_clear();
        let summary = producer.context().summary(started.elapsed());
        self.report(&summary, out)?;
        read?;
        flushed.context("not everything could be sent")?;
        match summary.failed {
            0 => Ok(()),
            failed => Err(anyhow::anyhow!("{} not written", were(failed))),
        }
    }

    fn input(&self) -> anyhow::Result<(Box<dyn BufRead>, ProgressBar)> {
        let Some(path) = &self.file else {
            if io::stdin().is_terminal() && !self.quiet {
                let shape = if self.key_separator.is_some() { "key, separator and value" } else { "a record" };
                writeln!(io::stderr(), "type {shape} on each line; end with Ctrl-D")?;
            }
            return Ok((Box::new(io::stdin().lock()), ProgressBar::hidden()));
        };
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        // Draws on standard error, and only where that is a terminal.
        let progress = if length == 0 || self.quiet { ProgressBar::hidden() } else { ProgressBar::new(length) };
        progress
            .set_style(ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left")?);
        Ok((Box::new(BufReader::with_capacity(1 << 16, progress.wrap_read(file))), progress))
    }

    fn config(&self) -> rdkafka::ClientConfig {
        let linger = self.linger_ms.to_string();
        let acks = match self.acks {
            Acks::Nobody => "0",
            Acks::Leader => "1",
            Acks::All => "all",
        };
        let compression = match self.compression {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        };
        let defaults = [
            ("acks", acks),
            ("compression.type", compression),
            ("enable.idempotence", if self.idempotent { "true" } else { "false" }),
            ("linger.ms", &linger),
            ("message.timeout.ms", "60000"),
            // The Java clients' choice, so that a key stays in its partition whoever writes it.
            ("partitioner", "murmur2_random"),
        ];
        librdkafka::config(&self.bootstrap.bootstrap, &defaults, &self.properties)
    }

    /// The record that a line stands for.
    fn draft(&self, line: &[u8]) -> anyhow::Result<Draft> {
        let mut draft = match self.format {
            LineFormat::Json => from_json(line)?,
            LineFormat::Text => {
                let (key, value) = match &self.key_separator {
                    None => (self.key.as_ref().map(|key| key.clone().into_bytes()), line),
                    Some(Separator(separator)) => split_key(line, separator)?,
                };
                Draft { key, value: Some(value.to_vec()), ..Draft::default() }
            }
        };
        if self.null && draft.value.as_ref().is_some_and(Vec::is_empty) {
            draft.value = None;
        }
        draft.partition = self.partition.or(draft.partition);
        draft.headers.extend(self.headers.iter().map(|(name, value)| (name.clone(), Some(value.clone().into_bytes()))));
        Ok(draft)
    }

    /// Hands a record to librdkafka, and waits while its queue is full.
    fn send(&self, producer: &ThreadedProducer<Deliveries>, draft: &Draft, line: u64) -> Result<(), KafkaError> {
        let mut record = BaseRecord::with_opaque_to(&self.topic, Box::new(line));
        record.key = draft.key.as_deref();
        record.payload = draft.value.as_deref();
        record.partition = draft.partition;
        record.timestamp = draft.timestamp;
        if !draft.headers.is_empty() {
            let headers = draft.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_deref() })
            });
            record.headers = Some(headers);
        }
        loop {
            match producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                    record = returned;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    fn report(&self, summary: &Summary, out: &mut dyn Write) -> anyhow::Result<()> {
        for failure in &summary.failures {
            writeln!(io::stderr(), "line {}: {}", failure.line, failure.error)?;
        }
        let untold = summary.failed.saturating_sub(summary.failures.len() as u64);
        if untold > 0 {
            writeln!(io::stderr(), "and {} more", output::count(untold, "record"))?;
        }
        if self.json {
            return output::json(out, summary);
        }
        if !self.quiet {
            let (records, bytes) = (output::count(summary.records, "record"), output::bytes(summary.bytes));
            writeln!(io::stderr(), "wrote {records} ({bytes}) to {} in {:.1} s", self.topic, summary.seconds)?;
        }
        Ok(())
    }
}

fn were(count: u64) -> String {
    format!("{} {}", output::count(count, "record"), if count == 1 { "was" } else { "were" })
}

/// Reads a line without its end; whether there was one.
fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    input.take(LINE_BYTES_MAX).read_until(b'\n', line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
        Ok(true)
    } else if line.len() as u64 == LINE_BYTES_MAX {
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("is longer than {LINE_BYTES_MAX} bytes")))
    } else {
        Ok(!line.is_empty())
    }
}

fn split_key<'a>(line: &'a [u8], separator: &[u8]) -> anyhow::Result<(Option<Vec<u8>>, &'a [u8])> {
    let found = line.windows(separator.len()).position(|window| window == separator);
    let found = found.with_context(|| {
        format!(
            "no separator {:?}; leave --key-separator out for records without keys",
            String::from_utf8_lossy(separator)
        )
    })?;
    let (key, rest) = line.split_at(found);
    Ok((Some(key.to_vec()), &rest[separator.len()..]))
}

/// A line of `--format json`. A field that is not known is refused: it may be one that was misspelled.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRecord {
    #[serde(default)]
    key: Value,
    #[serde(default)]
    value: Value,
    #[serde(default)]
    headers: Value,
    partition: Option<i32>,
    timestamp: Option<i64>,
    /// `consume` prints it; it means nothing here.
    #[serde(default, rename = "topic")]
    _topic: IgnoredAny,
    /// As `topic`.
    #[serde(default, rename = "offset")]
    _offset: IgnoredAny,
}

/// A header of a list of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonHeader {
    key: String,
    #[serde(default)]
    value: Value,
}

pub(super) fn from_json(line: &[u8]) -> anyhow::Result<Draft> {
    let record: JsonRecord = serde_json::from_slice(line).context("is no JSON object of a record")?;
    let headers = match record.headers {
        Value::Null => Vec::new(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| Ok((name, to_bytes(value)?))).collect::<anyhow::Result<_>>()?
        }
        Value::Array(list) => list
            .into_iter()
            .map(|header| {
                let header: JsonHeader = serde_json::from_value(header).context("is no header")?;
                Ok((header.key, to_bytes(header.value)?))
            })
            .collect::<anyhow::Result<_>>()?,
        _ => anyhow::bail!("headers must be an object, or a list of objects with key and value"),
    };
    Ok(Draft {
        key: to_bytes(record.key)?,
        value: to_bytes(record.value)?,
        headers,
        partition: record.partition,
        timestamp: record.timestamp,
    })
}

fn to_bytes(value: Value) -> anyhow::Result<Option<Vec<u8>>> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.into_bytes())),
        Value::Object(fields) if fields.len() == 1 && fields.get("base64").is_some_and(Value::is_string) => {
            let text = fields.get("base64").and_then(Value::as_str).unwrap_or_default();
            Ok(Some(base64::engine::general_purpose::STANDARD.decode(text).context("base64")?))
        }
        other => Ok(Some(serde_json::to_vec(&other)?)),
    }
}

/// What became of the records that librdkafka was handed.
#[derive(Debug, Default)]
struct Deliveries {
    warnings: Warnings,
    records: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<Vec<Failure>>,
}

#[derive(Clone, Debug, Serialize)]
struct Failure {
    line: u64,
    error: String,
}

#[derive(Debug, Serialize)]
struct Summary {
    records: u64,
    bytes: u64,
    failed: u64,
    seconds: f64,
    /// The first ones.
    failures: Vec<Failure>,
}

impl Deliveries {
    fn summary(&self, elapsed: Duration) -> Summary {
        let failures = self.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        Summary {
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            seconds: elapsed.as_secs_f64(),
            failures,
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.warnings.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.warnings.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, line: Box<u64>) {
        match result {
            Ok(record) => {
                self.records.fetch_add(1, Ordering::Relaxed);
                let bytes = record.key_len() + record.payload_len();
                self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            Err((error, record)) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let mut failures = self.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if failures.len() < FAILURES_SHOWN {
                    failures.push(Failure { line: *line, error: librdkafka::delivery_error(error, record.topic()) });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ProduceArgs,
    }

    fn args(flags: &[&str]) -> ProduceArgs {
        Line::try_parse_from(["produce", "topic"].iter().chain(flags)).expect("flags that are meant to be right").args
    }

    fn draft(flags: &[&str], line: &str) -> Result<Draft, String> {
        args(flags).draft(line.as_bytes()).map_err(|error| format!("{error:#}"))
    }

    fn record(key: Option<&str>, value: Option<&str>) -> Draft {
        let bytes = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
        Draft { key: bytes(key), value: bytes(value), ..Draft::default() }
    }

    #[test]
    fn a_line_becomes_a_record() {
        let check = |flags: &[&str], line, key, value| assert_eq!(draft(flags, line), Ok(record(key, value)), "{line}");
        check(&[], "a:b", None, Some("a:b"));
        check(&[], "", None, Some(""));
        check(&["--null"], "", None, None);
        check(&["--key", "k"], "a:b", Some("k"), Some("a:b"));
        check(&["--key-separator", ":"], "a:b:c", Some("a"), Some("b:c"));
        check(&["--key-separator", ":"], ":b", Some(""), Some("b"));
        check(&["--key-separator", "\\t"], "a\tb", Some("a"), Some("b"));
        check(&["--key-separator", "=>"], "a=b=>c", Some("a=b"), Some("c"));
        check(&["-Z", "-K", ":"], "a:", Some("a"), None);
        // What begins with a hyphen is a text as well.
        check(&["-K", "->"], "a->b", Some("a"), Some("b"));
        check(&["--key-separator", "-"], "a-b", Some("a"), Some("b"));
        check(&["--key", "-1"], "b", Some("-1"), Some("b"));
        check(&["--format", "json"], r#"{"key":"a","value":"b","offset":7}"#, Some("a"), Some("b"));
        check(&["--format", "json"], r#"{"value":{"n":[1,2]}}"#, None, Some(r#"{"n":[1,2]}"#));
        check(&["--format", "json"], r#"{"key":{"base64":"YQ=="},"value":null}"#, Some("a"), None);
    }

    #[test]
    fn headers_partition_and_timestamp_are_kept() {
        let line =
            r#"{"value":"v","partition":2,"timestamp":5,"headers":[{"key":"a","value":"1"},{"key":"a","value":null}]}"#;
        let mut expected = record(None, Some("v"));
        expected.partition = Some(2);
        expected.timestamp = Some(5);
        expected.headers =
            vec![("a".into(), Some(b"1".to_vec())), ("a".into(), None), ("b".into(), Some(b"2=3".to_vec()))];
        assert_eq!(draft(&["--format", "json", "-H", "b=2=3"], line), Ok(expected));
        assert_eq!(draft(&["--partition", "9"], "x").map(|draft| draft.partition), Ok(Some(9)));
    }

    #[test]
    fn a_wrong_line_is_an_error_with_its_reason() {
        let check = |flags: &[&str], line, expected: &str| {
            let error = draft(flags, line).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(&["--key-separator", ":"], "a", "no separator \":\"");
        check(&["--format", "json"], "a", "is no JSON object");
        check(&["--format", "json"], r#"{"headers": 3}"#, "headers must be");
        // It was left out, and a record without a value was written.
        check(
            &["--format", "json"],
            r#"{"key":"a","valeu":"b"}"#,
            "unknown field `valeu`, expected one of `key`, `value`",
        );
        check(&["--format", "json"], r#"{"headers": [{"key":"a","valeu":"b"}]}"#, "unknown field `valeu`");
        check(&["--format", "json"], r#"{"headers": [{}]}"#, "missing field `key`");
        check(&["--format", "json"], r#"{"value":{"base64":"?"}}"#, "base64");
    }

    #[test]
    fn lines_are_read_to_their_ends() {
        let mut input: &[u8] = b"a\n\nlast";
        let mut line = Vec::new();
        let mut lines = Vec::new();
        while read_line(&mut input, &mut line).unwrap() {
            lines.push(line.clone());
        }
        assert_eq!(lines, [b"a".to_vec(), b"".to_vec(), b"last".to_vec()]);
    }
}
