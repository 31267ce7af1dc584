//! Replays the fuzz corpora of journal and segment files on stable, and seeded mutations of them.

use std::{fs, path::Path};

use rustix::process::{Resource, Rlimit, setrlimit};
use tidegate_simulator::random::Random;

#[path = "../../fuzz/src/storage_files.rs"]
pub mod storage_files;

/// What the process may take in all, in bytes: a length that is believed before it is checked ends the test.
const ADDRESS_SPACE_MAX: u64 = 2 << 30;
/// Mutations of each file; `TIDEGATE_MUTATIONS` asks for more.
const MUTATIONS: u64 = 1500;

fn check(corpus: &str, target: fn(&[u8])) {
    let limit = Rlimit { current: Some(ADDRESS_SPACE_MAX), maximum: None };
    setrlimit(Resource::As, limit).expect("a limit can be lowered");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(corpus);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus is in the repository");
    for file in files {
        let bytes = fs::read(&file).unwrap();
        target(&bytes);
        for seed in 0..mutations() {
            target(&mutated(&bytes, seed));
        }
    }
}

fn mutations() -> u64 {
    std::env::var("TIDEGATE_MUTATIONS").map_or(MUTATIONS, |text| text.parse().expect("TIDEGATE_MUTATIONS is a number"))
}

/// Some bytes changed, mostly where headers are; some cut, some doubled.
fn mutated(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let block = random.index(bytes.len().div_ceil(4096)) * 4096;
        let at = match random.below(4) {
            0 => random.index(bytes.len()),
            _ => (block + random.index(200)).min(bytes.len() - 1),
        };
        match random.below(8) {
            0 => bytes.truncate(at.max(1)),
            1 => bytes[at] = 0xff,
            2 => bytes[at] = 0,
            // A number, large or negative.
            3 => {
                let end = (at + 4).min(bytes.len());
                bytes[at..end].fill(if random.one_in(2) { 0xff } else { 0x7f });
            }
            // What another block says.
            4 => {
                let from = random.index(bytes.len().div_ceil(4096)) * 4096;
                let length = (bytes.len() - from.max(block)).min(4096);
                bytes.copy_within(from..from + length, block);
            }
            _ => bytes[at] ^= 1 << random.below(8),
        }
    }
    bytes
}

#[test]
fn journal_files_never_panic() {
    check("journal_file", storage_files::journal_file);
}

#[test]
fn segment_files_never_panic() {
    check("segment_file", storage_files::segment_file);
}

/// The corpus's `written-*` are what this version writes: made anew by this test when the format changes.
#[test]
fn the_corpus_has_what_this_version_writes() {
    let (journal, segment) = storage_files::samples();
    for (corpus, bytes) in [("journal_file", journal), ("segment_file", segment)] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(corpus).join("written-v1");
        if std::env::var_os("TIDEGATE_CORPUS").is_some() {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &bytes).unwrap();
        }
        let stored = fs::read(&file).unwrap_or_default();
        assert!(stored == bytes, "run once with TIDEGATE_CORPUS=1: {} is not what is written now", file.display());
    }
}
