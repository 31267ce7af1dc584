//! What a shadow found.

use std::io::Write;

use serde::Serialize;
use serde_json::Value;

use super::super::{bench::nanoseconds, sandbox::Outcome, test};
use crate::output::{Align, Table};

#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) topic: String,
    pub(super) world: &'static str,
    /// None: there is none of this world.
    pub(super) attached: Option<String>,
    pub(super) seconds: f64,
    pub(super) batches: u64,
    pub(super) records: u64,
    /// Batches that came faster than they could be compared.
    pub(super) missed_batches: u64,
    /// Times that the broker had forgotten who watches, or was started again: what came in between was not seen.
    pub(super) interruptions: u64,
    pub(super) differing_records: u64,
    /// Times that something else was attached meanwhile.
    pub(super) changes: u64,
    /// Batches for which a plugin had no answer, and the words of the first time.
    pub(super) attached_failures: u64,
    pub(super) candidate_failures: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_failure: Option<String>,
    pub(super) attached_ns_per_record: f64,
    pub(super) candidate_ns_per_record: f64,
    pub(super) examples: Vec<Example>,
}

#[derive(Debug, Serialize)]
pub(super) struct Example {
    pub(super) partition: i32,
    pub(super) key: Value,
    pub(super) attached: Outcome,
    pub(super) candidate: Outcome,
}

impl Report {
    pub(super) fn show(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let missed = match self.missed_batches {
            0 => String::new(),
            missed => format!("; {missed} batches came faster than they could be compared"),
        };
        let interrupted = match self.interruptions {
            0 => "",
            _ => "; the watch was interrupted, and what came meanwhile was not seen",
        };
        let changed = match self.changes {
            0 => String::new(),
            changes => format!("; what is attached changed {changes} times meanwhile, and was compared as it was"),
        };
        let (batches, records) = (self.batches, self.records);
        writeln!(
            out,
            "{records} records of {} in {batches} batches, {:.0} s{missed}{interrupted}{changed}",
            self.topic, self.seconds
        )?;
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
