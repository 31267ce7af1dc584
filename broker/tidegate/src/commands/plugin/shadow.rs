//! `tidegate plugin shadow`: what another plugin would have done with the records that a topic is being sent.
//!
//! The broker hands over the batches as they come, with what its plugins are told of each; both plugins run here. So the candidate has no
//! effect, whatever it does, and costs the broker no time of a shard.

mod report;
mod side;

use std::{
    collections::BTreeMap,
    io::{self, Write},
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
use serde::Deserialize;
use serde_json::Value;
use tidegate_plugin_host::{
    Engine, World,
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
    sandbox::{Loaded, Outcome, Place, Surroundings, engine, read_component},
    test::Configuration,
    trial::{self, Attached},
};
use crate::{
    client::{Cluster, topics::Absent},
    output,
};

use report::{Example, Report};
use side::{Running, Side};

/// How often the broker is asked for more.
const INTERVAL: Duration = Duration::from_millis(200);
/// The broker is told as often that it is still watched; it forgets after 10 s.
const KEEP_WATCHING: Duration = Duration::from_secs(2);
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
    if number == 0 {
        return Err("in no time at all nothing is seen".to_owned());
    }
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| format!("{text:?} is too long"))
}

/// Batches as the admin endpoint gives them.
#[derive(Deserialize)]
struct Page {
    batches: Vec<Observed>,
    newest: u64,
    missed: u64,
    interrupted: bool,
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
        let mut standing = Standing { engine, cluster, known: BTreeMap::new(), world };
        let attached = standing.attached(&self)?;
        // The attached one's configuration, unless another is given.
        let given = self.config.read()?;
        let of_attached = attached.as_ref().map(|(attached, _)| attached.config.clone()).unwrap_or_default();
        let config = if given.is_empty() { of_attached } else { given };
        // As they would run in the broker: what takes longer or more memory there has no answer here.
        let limits = trial::limits(&mut standing.cluster, &self.topic)?;
        let mut candidate = Side::new(Some(Running::open(candidate, config, &limits).context("the candidate")?));
        let mut running = Side::new(standing.open(&self, attached.as_ref())?);
        let mut report = Report {
            topic: self.topic.clone(),
            world: world.name(),
            attached: attached.as_ref().map(|(attached, _)| attached.plugin.clone()),
            ..Report::default()
        };
        let lost = self.watch(partitions, &mut standing, attached, &mut running, &mut candidate, &mut report)?;
        (report.attached_ns_per_record, report.candidate_ns_per_record) = (running.cost(), candidate.cost());
        if self.json.json {
            output::json(out, &report)?;
        } else {
            report.show(out)?;
        }
        if let Some(lost) = lost {
            return Err(lost.context("the broker could not be asked any more"));
        }
        ensure!(!(self.fail && report.records == 0), "nothing was sent to {}: nothing is known", self.topic);
        let differs = report.differing_records + report.candidate_failures > 0;
        ensure!(!(self.fail && differs), "the candidate does not do what is done now");
        Ok(())
    }

    /// Watches until the time is over. Why the broker could not be asked in the end, if it could not.
    fn watch(
        &self,
        partitions: u32,
        standing: &mut Standing,
        mut attached: Option<(Attached, u64)>,
        running: &mut Side,
        candidate: &mut Side,
        report: &mut Report,
    ) -> anyhow::Result<Option<anyhow::Error>> {
        let interrupted = Arc::new(AtomicBool::new(false));
        // Once: an early end with a report. Twice: an end.
        signal_hook::flag::register_conditional_default(signal_hook::consts::SIGINT, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupted))?;
        let path = format!("/v1/topics/{}/batches", self.topic);
        let mut after = self.admin.call::<Page>(Method::Get, &path, None)?.newest;
        let progress = if self.json.json { ProgressBar::hidden() } else { ProgressBar::new(self.time.as_secs()) };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len}s, {msg}").expect("the template is a valid one");
        progress.set_style(style);
        // Before the bar, and where there is none: what is sent from now on is seen.
        writeln!(io::stderr(), "watching {} for {} s", self.topic, self.time.as_secs())?;
        let began = Instant::now();
        let mut lost = None;
        while began.elapsed() < self.time && !interrupted.load(Ordering::Relaxed) {
            let asked = self.admin.call(Method::Get, &format!("{path}?after={after}"), None);
            let seen = asked.and_then(|page: Page| {
                let now = standing.attached(self)?;
                if now != attached {
                    running.replace(standing.open(self, now.as_ref())?);
                    report.changes += 1;
                    attached = now;
                }
                Ok(page)
            });
            let page = match seen {
                Ok(page) => page,
                // A broker that is started again is worth waiting for; in the end what was seen is told all the same.
                Err(error) => {
                    lost = Some(error);
                    std::thread::sleep(INTERVAL.min(self.time.saturating_sub(began.elapsed())));
                    if let Ok(cluster) = self.bootstrap.connect() {
                        standing.cluster = cluster;
                    }
                    continue;
                }
            };
            lost = None;
            report.missed_batches += page.missed;
            report.interruptions += u64::from(page.interrupted);
            after = page.newest;
            let is_behind = !page.batches.is_empty();
            let mut asked = Instant::now();
            for batch in page.batches {
                if interrupted.load(Ordering::Relaxed) {
                    break;
                }
                if asked.elapsed() > KEEP_WATCHING {
                    // Without a number: only so that the broker goes on keeping batches.
                    let _ = self.admin.call::<Page>(Method::Get, &path, None);
                    asked = Instant::now();
                }
                self.compare(partitions, &batch, standing, running, candidate, report)?;
            }
            progress.set_position(began.elapsed().as_secs());
            progress.set_message(format!("{} records, {} differ", report.records, report.differing_records));
            if !is_behind {
                std::thread::sleep(INTERVAL.min(self.time.saturating_sub(began.elapsed())));
            }
        }
        report.seconds = began.elapsed().as_secs_f64();
        progress.finish_and_clear();
        Ok(lost)
    }

    fn compare(
        &self,
        partitions: u32,
        observed: &Observed,
        standing: &mut Standing,
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
        let done = done.and_then(|done| standing.checked(done));
        let would = would.and_then(|would| standing.checked(would));
        report.attached_failures += u64::from(done.is_err());
        report.candidate_failures += u64::from(would.is_err());
        for (side, failure) in [("attached", &done), ("candidate", &would)] {
            if let Err(words) = failure {
                report.first_failure.get_or_insert_with(|| format!("{side}: {words}"));
            }
        }
        let Ok(would) = would else { return Ok(()) };
        let done = match done {
            Ok(Some(done)) => done,
            Ok(None) => vec![self.untouched(report.world, observed.partition); count],
            Err(words) => vec![Outcome::Rejected(words); count],
        };
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

/// What stands now: what is attached, and the topics that there are.
struct Standing {
    engine: Engine,
    cluster: Cluster,
    /// Topics that were asked about, and how many partitions each has; none: it does not exist.
    known: BTreeMap<String, Option<u32>>,
    world: World,
}

impl Standing {
    /// What is attached now, and its version.
    fn attached(&mut self, of: &Shadow) -> anyhow::Result<Option<(Attached, u64)>> {
        let Some(attached) = trial::attached(&mut self.cluster, &of.topic, self.world.name())? else { return Ok(None) };
        let plugin: Value = of.admin.call(Method::Get, &format!("/v1/plugins/{}", attached.plugin), None)?;
        let version = plugin["version"].as_u64().unwrap_or(0);
        Ok(Some((attached, version)))
    }

    fn open(&mut self, of: &Shadow, attached: Option<&(Attached, u64)>) -> anyhow::Result<Option<Running>> {
        let Some((attached, _)) = attached else { return Ok(None) };
        let limits = trial::limits(&mut self.cluster, &of.topic)?;
        let loaded = Loaded::new(&self.engine, of.admin.component(&attached.plugin)?);
        let opened = loaded.and_then(|loaded| Running::open(loaded, attached.config.clone(), &limits));
        opened.map(Some).with_context(|| format!("plugin {:?} of topic {:?}", attached.plugin, of.topic))
    }

    /// The answer, if all the topics and partitions in it exist; the broker takes no other.
    fn checked(&mut self, answer: Option<Vec<Outcome>>) -> Result<Option<Vec<Outcome>>, String> {
        for outcome in answer.iter().flatten() {
            let Outcome::To(places) = outcome else { continue };
            for place in places {
                let partitions = match self.known.get(&place.topic) {
                    Some(partitions) => *partitions,
                    None => {
                        let found = self.cluster.topic(&place.topic, Absent::Error).ok();
                        let partitions = found.map(|topic| topic.partitions.len() as u32);
                        self.known.insert(place.topic.clone(), partitions);
                        partitions
                    }
                };
                match (partitions, place.partition) {
                    (None, _) => return Err(format!("it routes to {:?}, which does not exist", place.topic)),
                    (Some(partitions), Some(partition)) if partition >= partitions => {
                        let topic = &place.topic;
                        return Err(format!("it routes to partition {partition} of {topic:?}, which has {partitions}"));
                    }
                    _ => {}
                }
            }
        }
        Ok(answer)
    }
}
