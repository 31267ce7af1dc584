//! Thousands of crashes in every test run, and every failure that was ever found again.

use std::{fs, path::Path};

use tidegate_simulator::{run::run, trace::Trace};

/// Runs seeds on two threads and says which failed.
fn failures(seeds: impl Iterator<Item = u64>) -> Vec<String> {
    let seeds: Vec<u64> = seeds.collect();
    let (left, right) = seeds.split_at(seeds.len() / 2);
    let run_all = |seeds: &[u64]| -> Vec<String> {
        seeds.iter().filter_map(|seed| run(*seed, &Trace::default()).err()).map(|failure| failure.to_string()).collect()
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| run_all(left));
        let mut found = run_all(right);
        found.extend(other.join().expect("a run that panics prints its seed's assertion"));
        found
    })
}

#[test]
fn nothing_acknowledged_is_lost_in_three_thousand_seeds() {
    let found = failures(0..3000);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_failure_ever_found_stays_mended() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let mut seeds = Vec::new();
    for entry in fs::read_dir(directory).expect("the folder is in the repository") {
        let path = entry.expect("a readable entry").path();
        if path.extension().is_some_and(|extension| extension == "md") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a readable file");
        let first = text.lines().next().unwrap_or_default();
        seeds.push(first.trim().parse::<u64>().unwrap_or_else(|_| panic!("{} starts with a seed", path.display())));
    }
    assert!(!seeds.is_empty(), "the folder has seeds");
    let found = failures(seeds.into_iter());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_seed_repeats_to_the_byte() {
    for seed in 0..60 {
        let first = run(seed, &Trace::default());
        let second = run(seed, &Trace::default());
        match (first, second) {
            (Ok(first), Ok(second)) => assert_eq!(first, second, "seed {seed} is not decided by its seed alone"),
            (first, second) => panic!("seed {seed} failed: {:?} {:?}", first.err(), second.err()),
        }
    }
}
