//! `tidegate plugin shadow`: what another plugin would have done with the records that a topic is being sent.
//!
//! The broker hands over the batches as they come, with what its plugins are told of each; both plugins run here. So the candidate has no
//! effect, whatever it does, and costs the broker no time of a shard.

use std::{
    io::Write,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate_plugin_host::{
    World,
    ack::{Acks, Arrival, Replica},
};
use tidegate_records::{
    batch::{BatchHeader, Compression, HEADER_BYTES},
    columns::{Columns, Wanted, columns},
    compress::decompress,
};

use super::{
    super::{Bootstrap, Json},
    Admin, Method,
    bench::nanoseconds,
    sandbox::{Loaded, Opened, Outcome, Place, Surroundings, engine, read_component},
    test::{self, Configuration},
    trial,
};
use crate::{
    client::topics::Absent,
    output::{self, Align, Table},
};

/// How often the broker is asked for more.
const INTERVAL: Duration = Duration::from_millis(200);
/// Bytes of a batch's records at most; the broker has its own limit, which is lower.
const DECOMPRESSED_BYTES_MAX: usize = 1 << 30;

/// Run a candidate beside what is attached to a topic, on the batches that come in, without any effect, and compare
///
/// The candidate takes the place of the plugin of its own world (router, partitioner, ack); where there is none, the comparison is with a topic
/// that has none. A plugin that remembers earlier records begins here without them, as the one that is attached does.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate plugin shadow router_topic.component.wasm --topic orders --for 60s
  tidegate plugin shadow . --topic orders --config-file new.json    built first; another configuration
  tidegate plugin shadow . --topic orders --json --fail             for CI: fails where a record would go elsewhere")]
pub(super) struct Shadow {
    /// A component, or the folder of a plugin
    candidate: PathBuf,
    /// The topic whose batches it sees
    #[arg(long)]
    topic: String,
    /// For how long: 60s, 5m
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = duration)]
    time: Duration,
    #[command(flatten)]
    config: Configuration,
    /// Show so many records that would go elsewhere
    #[arg(long, value_name = "N", default_value_t = 10)]
    examples: usize,
    /// Fail where a record would go elsewhere
    #[arg(long)]
    fail: bool,
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    bootstrap: Bootstrap,
    #[command(flatten)]
    admin: Admin,
}

/// `60s`, `5m`, `1h`, or seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(format!("{text:?} is no time: 60s, 5m, 1h")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no time: 60s, 5m, 1h"))?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| format!("{text:?} is too long"))
}

/// Batches as the admin endpoint gives them.
#[derive(Deserialize)]
struct Page {
    batches: Vec<Observed>,
    newest: u64,
    missed: u64,
}

#[derive(Deserialize)]
struct Observed {
    partition: i32,
    now: i64,
    seed: u64,
    client_id: Option<String>,
    acks: i16,
    batch: String,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    topic: String,
    world: &'static str,
    /// None: there is none of this world.
    attached: Option<String>,
    seconds: f64,
    batches: u64,
    records: u64,
    /// Batches that came faster than they could be compared.
    missed_batches: u64,
    differing_records: u64,
    /// Batches for which a plugin had no answer, and the words of the first time.
    attached_failures: u64,
    candidate_failures: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_failure: Option<String>,
    attached_ns_per_record: f64,
    candidate_ns_per_record: f64,
    examples: Vec<Example>,
}

#[derive(Debug, Serialize)]
struct Example {
    partition: i32,
    key: Value,
    attached: Outcome,
    candidate: Outcome,
}

/// A plugin, and what its calls have cost.
struct Side {
    plugin: Option<Opened>,
    spent: Duration,
    answered: u64,
}

impl Shadow {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut cluster = self.bootstrap.connect()?;
        let partitions = cluster.topic(&self.topic, Absent::Error)?.partitions.len() as u32;
        let engine = engine()?;
        let candidate = Loaded::new(&engine, read_component(&self.candidate)?)
            .with_context(|| format!("{} is no plugin", self.candidate.display()))?;
        let world = candidate.component.world;
        ensure!(
            world != World::Retention,
            "a retention policy is asked about segments and not about batches: `tidegate plugin test` asks it about records"
        );
        let attached = trial::attached(&mut cluster, &self.topic, world.name())?;
        // The attached one's configuration, unless another is given.
        let given = self.config.read()?;
        let of_attached = attached.as_ref().map(|attached| attached.config.clone()).unwrap_or_default();
        let config = if given.is_empty() { of_attached } else { given };
        let mut candidate = Side::new(Some(candidate.open(&config).context("the candidate")?));
        let running = match &attached {
            None => None,
            Some(attached) => {
                let loaded = Loaded::new(&engine, self.admin.component(&attached.plugin)?);
                let opened = loaded.and_then(|loaded| loaded.open(&attached.config));
                Some(opened.with_context(|| format!("plugin {:?} of topic {:?}", attached.plugin, self.topic))?)
            }
        };
        let mut running = Side::new(running);
        let mut report = Report {
            topic: self.topic.clone(),
            world: world.name(),
            attached: attached.map(|attached| attached.plugin),
            ..Report::default()
        };
        self.watch(partitions, &mut running, &mut candidate, &mut report)?;
        (report.attached_ns_per_record, report.candidate_ns_per_record) = (running.cost(), candidate.cost());
        if self.json.json {
            output::json(out, &report)?;
        } else {
            report.show(out)?;
        }
        let differs = report.differing_records + report.candidate_failures > 0;
        ensure!(!(self.fail && differs), "the candidate does not do what is done now");
        Ok(())
    }

    fn watch(
        &self,
        partitions: u32,
        running: &mut Side,
        candidate: &mut Side,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let interrupted = Arc::new(AtomicBool::new(false));
        // Once: an early end with a report. Twice: an end.
        signal_hook::flag::register_conditional_default(signal_hook::consts::SIGINT, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupted))?;
        let path = format!("/v1/topics/{}/batches", self.topic);
        let mut after = self.admin.call::<Page>(Method::Get, &path, None)?.newest;
        let progress = if self.json.json { ProgressBar::hidden() } else { ProgressBar::new(self.time.as_secs()) };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len}s, {msg}").expect("the template is a valid one");
        progress.set_style(style);
        let began = Instant::now();
        while began.elapsed() < self.time && !interrupted.load(Ordering::Relaxed) {
            let page: Page = self.admin.call(Method::Get, &format!("{path}?after={after}"), None)?;
            report.missed_batches += page.missed;
            // A broker that was started again counts from 1.
            after = page.newest;
            let is_behind = !page.batches.is_empty();
            for batch in page.batches {
                self.compare(partitions, &batch, running, candidate, report)?;
            }
            progress.set_position(began.elapsed().as_secs());
            progress.set_message(format!("{} records, {} differ", report.records, report.differing_records));
            if !is_behind {
                std::thread::sleep(INTERVAL.min(self.time.saturating_sub(began.elapsed())));
            }
        }
        report.seconds = began.elapsed().as_secs_f64();
        progress.finish_and_clear();
        Ok(())
    }

    fn compare(
        &self,
        partitions: u32,
        observed: &Observed,
        running: &mut Side,
        candidate: &mut Side,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let bytes = Bytes::from(BASE64_STANDARD.decode(&observed.batch).context("a batch is base64")?);
        let header = BatchHeader::parse(&bytes).context("the broker sends valid batches")?;
        let codec = header.attributes.compression().unwrap_or(Compression::None);
        let records = decompress(codec, &bytes.slice(HEADER_BYTES..), DECOMPRESSED_BYTES_MAX)?;
        // With the timestamps that the producer gave, as in the broker.
        let sent = BatchHeader { attributes: header.attributes.without_log_marks(), ..header };
        let read = |wanted: &Wanted| columns(&sent, &records, wanted);
        let around = Surroundings {
            topic: self.topic.clone(),
            partitions,
            now: Some(observed.now),
            seed: observed.seed,
            principal: None,
            client_id: observed.client_id.clone(),
        };
        let replicas = [Replica { broker: 1, rack: None, in_sync: true, behind: 0 }];
        let arrival = Arrival {
            partition: observed.partition.unsigned_abs(),
            bytes: bytes.len() as u32,
            acks: match observed.acks {
                0 => Acks::None,
                1 => Acks::Leader,
                _ => Acks::All,
            },
            min_in_sync: 1,
            replicas: &replicas,
        };
        let count = header.records_count.unsigned_abs() as usize;
        report.batches += 1;
        report.records += count as u64;
        let done = running.ask(&read, &around, &arrival)?;
        let would = candidate.ask(&read, &around, &arrival)?;
        report.attached_failures += u64::from(done.is_err());
        report.candidate_failures += u64::from(would.is_err());
        for (side, failure) in [("attached", &done), ("candidate", &would)] {
            if let Err(words) = failure {
                report.first_failure.get_or_insert_with(|| format!("{side}: {words}"));
            }
        }
        let Ok(would) = would else { return Ok(()) };
        let Ok(done) = done else { return Ok(()) };
        let done = done.unwrap_or_else(|| vec![self.untouched(report.world, observed.partition); count]);
        let would = would.unwrap_or_default();
        let mut keys: Option<Columns> = None;
        for (record, (attached, candidate)) in done.into_iter().zip(would).enumerate() {
            if attached == candidate {
                continue;
            }
            report.differing_records += 1;
            if report.examples.len() < self.examples {
                if keys.is_none() {
                    keys = Some(read(&Wanted { keys: true, ..Wanted::default() })?);
                }
                let key = keys.as_ref().and_then(|columns| columns.keys.as_ref()?.value(record));
                let key = key.map_or(Value::Null, |key| Value::String(String::from_utf8_lossy(key).into_owned()));
                report.examples.push(Example { partition: observed.partition, key, attached, candidate });
            }
        }
        Ok(())
    }

    /// What becomes of a record where there is no plugin of this world.
    fn untouched(&self, world: &str, partition: i32) -> Outcome {
        match world {
            "router" => Outcome::To(vec![Place { topic: self.topic.clone(), partition: None }]),
            "partitioner" => Outcome::Partition(partition.unsigned_abs()),
            _ => Outcome::Accepted("as asked".to_owned()),
        }
    }
}

impl Side {
    fn new(plugin: Option<Opened>) -> Self {
        Self { plugin, spent: Duration::ZERO, answered: 0 }
    }

    /// What becomes of the records of a batch (none: there is no plugin), or why there is no answer.
    fn ask(
        &mut self,
        read: &dyn Fn(&Wanted) -> Result<Columns, tidegate_records::record::RecordError>,
        around: &Surroundings,
        arrival: &Arrival<'_>,
    ) -> anyhow::Result<Result<Option<Vec<Outcome>>, String>> {
        let Some(plugin) = &mut self.plugin else { return Ok(Ok(None)) };
        let columns = read(&plugin.needs().columns)?;
        Ok(match plugin.answer(&columns, around, arrival) {
            Ok((outcomes, took)) => {
                self.spent += took;
                self.answered += outcomes.len() as u64;
                Ok(Some(outcomes))
            }
            Err(error) => Err(format!("{:#}", anyhow::Error::new(error))),
        })
    }

    fn cost(&self) -> f64 {
        if self.answered == 0 { 0.0 } else { self.spent.as_nanos() as f64 / self.answered as f64 }
    }
}

impl Report {
    fn show(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let missed = match self.missed_batches {
            0 => String::new(),
            missed => format!("; {missed} batches came faster than they could be compared"),
        };
        let (batches, records) = (self.batches, self.records);
        writeln!(out, "{records} records of {} in {batches} batches, {:.0} s{missed}", self.topic, self.seconds)?;
        if records == 0 {
            return Ok(writeln!(out, "nothing was sent to {}: there is nothing to compare", self.topic)?);
        }
        match &self.attached {
            Some(plugin) => {
                writeln!(out, "attached   {plugin}, {} a record", nanoseconds(self.attached_ns_per_record))?
            }
            None => writeln!(out, "attached   no {}", self.world)?,
        }
        let ratio = self.candidate_ns_per_record / self.attached_ns_per_record;
        let ratio = if ratio.is_finite() { format!(" ({ratio:.2}x)") } else { String::new() };
        writeln!(out, "candidate  {} a record{ratio}", nanoseconds(self.candidate_ns_per_record))?;
        if let Some(words) = &self.first_failure {
            let (attached, candidate) = (self.attached_failures, self.candidate_failures);
            writeln!(
                out,
                "no answer  for {candidate} batches from the candidate, for {attached} from what is attached; first {words}"
            )?;
        }
        let share = self.differing_records as f64 / records as f64 * 100.0;
        writeln!(out, "differ     {} records ({share:.2} %)", self.differing_records)?;
        if self.examples.is_empty() {
            return Ok(());
        }
        let mut table = Table::new(&[
            ("PARTITION", Align::Right),
            ("KEY", Align::Left),
            ("NOW", Align::Left),
            ("WITH THE CANDIDATE", Align::Left),
        ]);
        for example in &self.examples {
            table.row([
                example.partition.to_string(),
                example.key.as_str().map_or_else(|| "null".to_owned(), str::to_owned),
                test::in_words(&example.attached),
                test::in_words(&example.candidate),
            ]);
        }
        Ok(table.write(out)?)
    }
}
