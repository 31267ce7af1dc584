//! The parts alone: `cargo bench -p tidegate-benches`. Each is named after what it measures; throughput is in bytes or batches a second.

mod codec;
mod journal;
mod plugins;
mod records;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    parts,
    records::validation,
    records::splitting,
    records::columns,
    records::compression,
    codec::produce,
    journal::rounds,
    plugins::sandbox,
    plugins::policies
);
criterion_main!(parts);
