//! Replays the fuzz corpus on stable: each file as it is, cut off everywhere, and with one bit of each byte flipped.

use std::{fs, path::Path};

#[path = "../../fuzz/src/record_batch.rs"]
pub mod record_batch;

fn check(corpus: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(corpus);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus is in the repository");
    for file in files {
        let bytes = fs::read(&file).unwrap();
        target(&bytes);
        for at in 0..bytes.len() {
            target(&bytes[..at]);
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            target(&flipped);
        }
    }
}

#[test]
fn record_batches_never_panic() {
    check("record_batch", record_batch::record_batch);
}

#[test]
fn records_under_a_good_header_never_panic() {
    check("frame_records", record_batch::frame_records);
}
