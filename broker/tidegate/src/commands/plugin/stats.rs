//! `tidegate plugin stats` and `tidegate plugin logs`: what attached plugins do, as the broker counts and keeps it.

use std::{collections::BTreeMap, io::Write, time::Duration};

use clap::Args;
use serde::{Deserialize, Serialize};
use tidegate_records::time::Timestamp;

use super::{Admin, Method, PluginName};
use crate::{
    commands::Json,
    moment,
    output::{self, Align, Table},
};

/// Shards report as often.
const INTERVAL: Duration = Duration::from_secs(2);

/// Show what attached plugins have done: calls, records, time for each record, failures, memory
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate plugin stats
  tidegate plugin stats topic --watch
  tidegate plugin stats --topic clicks --json

Counts are since the broker started or the plugin was attached, and a few seconds old. FAILED are calls that trapped, that the plugin could not
answer, or whose answer was wrong; WAITED is what producers were told to wait, in milliseconds, because the plugin took too much of a core
(plugin.core.max.percent); DEAD and BYPASSED are records to which the policy for failures was applied, DELETED those
that a retention policy deleted or erased; OFFLOADED are bytes of segments that it sent to the object store.")]
pub(super) struct Stats {
    /// Only this plugin
    name: Option<PluginName>,
    /// Only at this topic
    #[arg(long)]
    topic: Option<String>,
    /// Go on, with what came since the last time, until interrupted
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    admin: Admin,
}

#[derive(Deserialize)]
struct Listing {
    attachments: Vec<Attachment>,
}

/// An attachment as the admin endpoint counts it; what is not shown in the table is in `others`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Attachment {
    plugin: String,
    version: u64,
    world: String,
    topic: String,
    calls: u64,
    records: u64,
    nanos: u64,
    traps: u64,
    failures: u64,
    wrong_answers: u64,
    unavailable: u64,
    rejected: u64,
    routed: u64,
    dropped: u64,
    bypassed: u64,
    dead_lettered: u64,
    deleted: u64,
    erased: u64,
    offloaded_segments: u64,
    offloaded_bytes: u64,
    throttled_ms: u64,
    memory_bytes: u64,
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

impl Attachment {
    fn key(&self) -> (String, String, String) {
        (self.plugin.clone(), self.world.clone(), self.topic.clone())
    }

    /// What came since `before`; all of it where the counts have begun anew.
    fn since(&self, before: &Self) -> Self {
        if self.calls < before.calls {
            return self.clone();
        }
        Self {
            calls: self.calls - before.calls,
            records: self.records.saturating_sub(before.records),
            nanos: self.nanos.saturating_sub(before.nanos),
            traps: self.traps.saturating_sub(before.traps),
            failures: self.failures.saturating_sub(before.failures),
            wrong_answers: self.wrong_answers.saturating_sub(before.wrong_answers),
            unavailable: self.unavailable.saturating_sub(before.unavailable),
            rejected: self.rejected.saturating_sub(before.rejected),
            routed: self.routed.saturating_sub(before.routed),
            dropped: self.dropped.saturating_sub(before.dropped),
            bypassed: self.bypassed.saturating_sub(before.bypassed),
            deleted: self.deleted.saturating_sub(before.deleted),
            erased: self.erased.saturating_sub(before.erased),
            offloaded_segments: self.offloaded_segments.saturating_sub(before.offloaded_segments),
            offloaded_bytes: self.offloaded_bytes.saturating_sub(before.offloaded_bytes),
            throttled_ms: self.throttled_ms.saturating_sub(before.throttled_ms),
            dead_lettered: self.dead_lettered.saturating_sub(before.dead_lettered),
            ..self.clone()
        }
    }
}

impl Stats {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut before: BTreeMap<_, Attachment> = BTreeMap::new();
        loop {
            let found = self.ask()?;
            if self.json.json {
                return output::json(out, &found);
            }
            let none = Attachment::default();
            let since = found.iter().map(|now| now.since(before.get(&now.key()).unwrap_or(&none)));
            table(since, out)?;
            if !self.watch {
                return Ok(());
            }
            writeln!(out)?;
            out.flush()?;
            before = found.into_iter().map(|now| (now.key(), now)).collect();
            std::thread::sleep(INTERVAL);
        }
    }

    fn ask(&self) -> anyhow::Result<Vec<Attachment>> {
        let listing: Listing = self.admin.call(Method::Get, "/v1/attachments", None)?;
        let is_wanted = |attachment: &Attachment| {
            self.name.as_ref().is_none_or(|name| name.0 == attachment.plugin)
                && self.topic.as_ref().is_none_or(|topic| *topic == attachment.topic)
        };
        Ok(listing.attachments.into_iter().filter(is_wanted).collect())
    }
}

fn table(attachments: impl Iterator<Item = Attachment>, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        ("PLUGIN", Align::Left),
        ("VERSION", Align::Right),
        ("TOPIC", Align::Left),
        ("CALLS", Align::Right),
        ("RECORDS", Align::Right),
        ("NS/RECORD", Align::Right),
        ("ROUTED", Align::Right),
        ("DROPPED", Align::Right),
        ("REJECTED", Align::Right),
        ("FAILED", Align::Right),
        ("WAITED", Align::Right),
        ("DEAD", Align::Right),
        ("BYPASSED", Align::Right),
        ("DELETED", Align::Right),
        ("OFFLOADED", Align::Right),
        ("MEMORY", Align::Right),
    ]);
    for one in attachments {
        let cost = one.nanos.checked_div(one.records).map_or_else(|| "-".to_owned(), |cost| cost.to_string());
        table.row([
            one.plugin,
            one.version.to_string(),
            one.topic,
            one.calls.to_string(),
            one.records.to_string(),
            cost,
            one.routed.to_string(),
            one.dropped.to_string(),
            one.rejected.to_string(),
            (one.traps + one.failures + one.wrong_answers + one.unavailable).to_string(),
            one.throttled_ms.to_string(),
            one.dead_lettered.to_string(),
            one.bypassed.to_string(),
            (one.deleted + one.erased).to_string(),
            output::bytes(one.offloaded_bytes),
            output::bytes(one.memory_bytes),
        ]);
    }
    Ok(table.write(out)?)
}

/// Show what plugins logged, with the topic and the version that logged it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate plugin logs
  tidegate plugin logs topic --follow

The broker keeps the newest 2,000 lines; its own log has them all.")]
pub(super) struct Logs {
    /// Only this plugin
    name: Option<PluginName>,
    /// Wait for more, until interrupted
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    admin: Admin,
}

#[derive(Deserialize)]
struct LogPage {
    lines: Vec<Line>,
    newest: u64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Line {
    number: u64,
    time: i64,
    plugin: String,
    version: u64,
    topic: String,
    level: String,
    message: String,
}

impl Logs {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut after = 0;
        loop {
            let plugin = self.name.as_ref().map(|name| format!("&plugin={}", name.0)).unwrap_or_default();
            let page: LogPage = self.admin.call(Method::Get, &format!("/v1/plugin-log?after={after}{plugin}"), None)?;
            for line in &page.lines {
                if self.json.json {
                    // A line each: it can go on for ever.
                    writeln!(out, "{}", serde_json::to_string(line)?)?;
                } else {
                    let Line { time, plugin, version, topic, level, message, .. } = line;
                    let time = moment::display(Timestamp(*time));
                    writeln!(out, "{time}  {level:<5} {plugin} v{version} at {topic}: {message}")?;
                }
            }
            out.flush()?;
            if !self.follow {
                return Ok(());
            }
            // A broker that was started again counts from 1.
            after = if page.newest < after { 0 } else { page.newest };
            std::thread::sleep(INTERVAL);
        }
    }
}
