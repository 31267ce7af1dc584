//! Medians of the runs, ratios, and the table.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, process::Command};

use anyhow::Result;
use serde::Serialize;

use crate::{
    broker::System,
    cases::{Case, FIGURES, Figures},
};

/// The figures of every run, by case and system.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) runs: BTreeMap<Case, BTreeMap<System, Vec<Figures>>>,
    /// From the start of the process to the first answer, in seconds.
    pub(crate) ready_seconds: BTreeMap<System, Vec<f64>>,
}

/// Where it was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) kernel: String,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = processor
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or_else(String::new, |(_, name)| name.trim().to_owned());
        let kernel = Command::new("uname").arg("-r").output();
        let kernel =
            kernel.map_or_else(|_| String::new(), |out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
        Self { cores: std::thread::available_parallelism().map_or(1, usize::from), processor, kernel }
    }
}

impl Results {
    /// The median of a figure over the runs.
    fn median(&self, case: Case, system: System, figure: &str) -> Option<f64> {
        let runs = self.runs.get(&case)?.get(&system)?;
        median(runs.iter().filter_map(|run| run.get(figure).copied()).collect())
    }

    /// The table in Markdown: a row for each figure of each case, and Tidegate's share of what Kafka does.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::new();
        let to = match self.ready_seconds.contains_key(&System::RabbitMq) {
            true => "RabbitMQ",
            false => "Kafka as it comes, or where said to Kafka with `flush.messages=1`",
        };
        let _ = writeln!(
            out,
            "Medians of runs that followed one another on {} cores ({}), Linux {}; the load generator shares the cores. \
             The ratio is Tidegate (fsync) to {to}.\n",
            self.machine.cores, self.machine.processor, self.machine.kernel
        );
        let systems = [System::Tidegate, System::TidegateOs, System::Kafka, System::KafkaFlush, System::RabbitMq];
        let systems: Vec<System> =
            systems.into_iter().filter(|system| self.ready_seconds.contains_key(system)).collect();
        let _ = write!(out, "| case | figure |");
        for system in &systems {
            let _ = write!(out, " {} |", system.title());
        }
        let _ = writeln!(out, " ratio |");
        let _ = writeln!(out, "|---|---|{}---:|", "---:|".repeat(systems.len()));
        for case in self.runs.keys() {
            for figure in FIGURES {
                let medians: Vec<Option<f64>> =
                    systems.iter().map(|&system| self.median(*case, system, figure.name)).collect();
                if medians.iter().all(Option::is_none) {
                    continue;
                }
                let ratio = |to: System| {
                    let of = self.median(*case, System::Tidegate, figure.name)?;
                    Some(of / self.median(*case, to, figure.name)?)
                };
                let mut ratios = Vec::new();
                if let Some(ratio) = ratio(System::Kafka) {
                    ratios.push(format!("{ratio:.2}x"));
                }
                if let Some(ratio) = ratio(System::KafkaFlush) {
                    ratios.push(format!("{ratio:.2}x of flush"));
                }
                if let Some(ratio) = ratio(System::RabbitMq) {
                    ratios.push(format!("{ratio:.2}x"));
                }
                row(&mut out, case.title(), figure.name, &medians, &ratios.join(", "));
            }
        }
        let ready: Vec<Option<f64>> =
            systems.iter().map(|system| median(self.ready_seconds.get(system)?.clone())).collect();
        let of = |system| self.ready_seconds.get(&system).and_then(|all| median(all.clone()));
        let ratio =
            of(System::Tidegate).zip(of(System::Kafka)).map_or_else(String::new, |(a, b)| format!("{:.2}x", a / b));
        row(&mut out, "an empty directory", "ready after s", &ready, &ratio);
        out
    }

    /// Writes `NAME.json` and `NAME.md` into a folder.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join(format!("{name}.json")), serde_json::to_string_pretty(self)? + "\n")?;
        fs::write(folder.join(format!("{name}.md")), self.markdown())?;
        Ok(())
    }
}

fn row(out: &mut String, case: &str, figure: &str, medians: &[Option<f64>], ratio: &str) {
    let _ = write!(out, "| {case} | {figure} |");
    for median in medians {
        let _ = write!(out, " {} |", median.map_or_else(String::new, number));
    }
    let _ = writeln!(out, " {ratio} |");
}

/// Three significant digits, with separators for thousands.
fn number(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 1_000.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    Some(if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) })
}

#[cfg(test)]
mod tests {
    use super::{median, number};

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(number(0.123), "0.12");
        assert_eq!(number(123.45), "123.5");
        assert_eq!(number(1_234_567.0), "1,234,567");
    }
}
