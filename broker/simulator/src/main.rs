//! `tidegate-simulator`: runs seeds of the storage simulation and says which promise was broken, and how to repeat it.
#![allow(clippy::print_stdout, reason = "a command prints")]

use std::process::ExitCode;

use clap::Parser;
use tidegate_simulator::{run::run, trace::Trace};

/// Runs the storage of the broker on simulated machines that crash, and checks that nothing acknowledged is lost.
#[derive(Debug, Parser)]
#[command(name = "tidegate-simulator")]
struct Arguments {
    /// How many seeds to run
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed alone
    #[arg(long)]
    seed: Option<u64>,
    /// Print everything that the disk was asked for
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seeds = match arguments.seed {
        Some(seed) => seed..seed + 1,
        None => arguments.from..arguments.from + arguments.seeds,
    };
    let mut failures = 0_u64;
    let (mut crashes, mut batches, mut direct_batches, mut offloaded, mut operations) = (0, 0, 0, 0, 0);
    let total = seeds.end - seeds.start;
    for seed in seeds {
        let trace = if arguments.trace { Trace::keeping() } else { Trace::default() };
        let done = run(seed, &trace);
        for line in trace.lines() {
            println!("{line}");
        }
        match done {
            Ok(summary) => {
                crashes += summary.crashes;
                batches += summary.batches;
                direct_batches += summary.direct_batches;
                offloaded += summary.offloaded;
                operations += summary.operations;
            }
            Err(failure) => {
                failures += 1;
                println!("{failure}");
            }
        }
    }
    println!(
        "{total} seeds, {batches} batches, {direct_batches} of them direct, {offloaded} segments offloaded, {operations} disk operations, {crashes} crashes, {failures} failures"
    );
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
