//! Tidegate beside Apache Kafka, and beside RabbitMQ: the same load on each in turn, in one run, as ratios.
//!
//! `cargo run --release -p tidegate-benches --bin side-by-side` fetches Apache Kafka with Maven, builds Tidegate, runs every case three
//! times on fresh brokers, and writes the medians to `benches/results`.

mod broker;
mod cases;
mod exchange;
mod load;
mod process;
mod raw;
mod report;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};

use crate::{
    broker::{Broker, Places, System},
    cases::{Case, Durations},
    report::{Machine, Results},
};

/// Drives Tidegate and Apache Kafka (or RabbitMQ) in turn with the same load, and prints a table with ratios.
#[derive(Parser)]
struct Arguments {
    /// How often each case is run; the table has the medians.
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Only these cases; without it all but `exchange`, which needs RabbitMQ.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<Case>,
    /// Only these brokers.
    #[arg(long, value_delimiter = ',')]
    systems: Vec<System>,
    /// Seconds before the measured window.
    #[arg(long, default_value_t = 5.0)]
    warm_up: f64,
    /// Seconds of the measured window.
    #[arg(long, default_value_t = 10.0)]
    window: f64,
    /// Records in the backlog that is read.
    #[arg(long, default_value_t = 3_000_000)]
    backlog: u64,
    /// A Tidegate to measure instead of this tree's.
    #[arg(long)]
    tidegate: Option<PathBuf>,
    /// Where Apache Kafka's jars are or go.
    #[arg(long, env = "TIDEGATE_BENCH_KAFKA_JARS")]
    kafka_jars: Option<PathBuf>,
    /// A directory for the brokers' data, on the disk to measure; it is emptied.
    #[arg(long)]
    data: Option<PathBuf>,
    /// The name of the files in benches/results; without it nothing is written.
    #[arg(long)]
    save: Option<String>,
}

#[expect(clippy::print_stdout, reason = "the table is the program's result")]
fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let executable = std::env::current_exe()?;
    let target = executable.parent().context("an executable has a folder")?;
    let work = target.join("side-by-side-data");
    let places = Places {
        tidegate: match arguments.tidegate {
            Some(path) => path,
            None => build_tidegate(target)?,
        },
        kafka_jars: arguments.kafka_jars.unwrap_or_else(|| target.join("side-by-side-kafka")),
        data: arguments.data.unwrap_or(work),
    };
    let durations = Durations {
        warm_up: Duration::from_secs_f64(arguments.warm_up),
        window: Duration::from_secs_f64(arguments.window),
        backlog: arguments.backlog,
    };
    let cases = if arguments.cases.is_empty() {
        Case::value_variants().iter().copied().filter(|case| *case != Case::Exchange).collect()
    } else {
        arguments.cases
    };
    let wanted = |system: &System| arguments.systems.is_empty() || arguments.systems.contains(system);
    if cases.iter().flat_map(|case| case.systems()).any(|system| wanted(system) && is_kafka(*system)) {
        broker::fetch_kafka(&places.kafka_jars)?;
    }

    let mut failed = 0;
    let mut results = Results { machine: Machine::here(), ..Results::default() };
    for run in 1..=arguments.runs {
        for &case in &cases {
            for &system in case.systems().iter().filter(|system| wanted(system)) {
                eprint!("run {run}/{}: {} on {} ... ", arguments.runs, case.title(), system.title());
                let mut broker = Broker::start(system, &places)?;
                results.ready_seconds.entry(broker.system).or_default().push(broker.ready_after.as_secs_f64());
                let figures = match cases::run(case, &mut broker, durations) {
                    Ok(figures) => figures,
                    Err(error) => {
                        eprintln!("failed: {error:#}");
                        failed += 1;
                        continue;
                    }
                };
                let said: Vec<String> = figures.iter().map(|(name, value)| format!("{name} {value:.2}")).collect();
                eprintln!("{}", said.join(", "));
                results.runs.entry(case).or_default().entry(system).or_default().push(figures);
            }
        }
    }
    println!("{}", results.markdown());
    if let Some(name) = arguments.save {
        results.write(&Path::new(env!("CARGO_MANIFEST_DIR")).join("results"), &name)?;
    }
    if failed > 0 {
        bail!("{failed} measurements failed; they are missing from the medians");
    }
    Ok(())
}

fn is_kafka(system: System) -> bool {
    matches!(system, System::Kafka | System::KafkaFlush)
}

/// Builds `tidegate` into the folder that this program is in.
fn build_tidegate(target: &Path) -> Result<PathBuf> {
    if cfg!(debug_assertions) {
        bail!("measure what users run: cargo run --release -p tidegate-benches --bin side-by-side");
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status =
        Command::new(cargo).args(["build", "--release", "-p", "tidegate"]).status().context("running cargo")?;
    if !status.success() {
        bail!("Tidegate was not built; its errors are above");
    }
    Ok(target.join("tidegate"))
}
