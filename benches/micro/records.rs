//! Batches: checked on arrival, split by destination, taken apart into columns.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use tidegate_records::{
    batch::{BatchHeader, Compression, HEADER_BYTES},
    build::BatchBuilder,
    columns::{Wanted, columns as build_columns},
    compress,
    split::{Assignment, split},
    time::Timestamp,
    validate::{Rules, validate},
};

/// Of how many records, with values of how many bytes, the batches are.
const SHAPES: [(usize, usize); 3] = [(1, 1_024), (100, 100), (1_000, 100)];

pub(crate) fn batch(records: usize, value_bytes: usize, compression: Compression) -> (Bytes, BatchHeader) {
    let mut builder = BatchBuilder::new(compression);
    for number in 0..records {
        let key = format!("customer-{}", number * 7_919 % 1_000);
        let value: Vec<u8> = (0..value_bytes).map(|at| b'a' + ((at * 31 + number * 17) % 26) as u8).collect();
        let region: &[u8] = if number % 2 == 0 { b"eu" } else { b"us" };
        let header: (&[u8], Option<&[u8]>) = (b"region", Some(region));
        builder.push(Timestamp(1_700_000_000_000 + number as i64), Some(key.as_bytes()), Some(&value), [header]);
    }
    builder.build()
}

fn each(
    criterion: &mut Criterion,
    name: &str,
    mut run: impl FnMut(&mut criterion::Bencher<'_>, &(Bytes, BatchHeader)),
) {
    let mut group = criterion.benchmark_group(name);
    for (records, value_bytes) in SHAPES {
        let batch = batch(records, value_bytes, Compression::None);
        group.throughput(Throughput::Bytes(batch.0.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(format!("{records}x{value_bytes}B")), &batch, &mut run);
    }
    group.finish();
}

pub(crate) fn validation(criterion: &mut Criterion) {
    let rules = Rules {
        now: Timestamp(1_700_000_000_000),
        max_message_bytes: 1 << 20,
        max_decompressed_bytes: 1 << 24,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        log_append_time: false,
        keys_required: false,
        compression: None,
        compression_level: None,
    };
    each(criterion, "validate", |bencher, (bytes, _)| {
        bencher.iter(|| validate(black_box(bytes.clone()), &rules).expect("the batch is valid"));
    });
}

pub(crate) fn splitting(criterion: &mut Criterion) {
    each(criterion, "split into 10", |bencher, (bytes, header)| {
        let records = bytes.slice(HEADER_BYTES..);
        let destinations: Vec<u32> = (0..header.records_count as u32).map(|record| record % 10).collect();
        bencher.iter(|| {
            split(bytes, header, &records, Assignment::Single(black_box(&destinations)), 10, None).expect("it is split")
        });
    });
    each(criterion, "all to one", |bencher, (bytes, header)| {
        let records = bytes.slice(HEADER_BYTES..);
        bencher.iter(|| {
            split(bytes, header, &records, Assignment::Uniform(black_box(&[3])), 10, None).expect("it is split")
        });
    });
}

pub(crate) fn columns(criterion: &mut Criterion) {
    let wanted = Wanted { keys: true, headers: vec!["region".to_owned()], ..Wanted::default() };
    each(criterion, "columns of key and header", |bencher, (bytes, header)| {
        bencher.iter(|| build_columns(header, black_box(&bytes[HEADER_BYTES..]), &wanted).expect("the batch is valid"));
    });
}

pub(crate) fn compression(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decompress 1000x100B");
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let (bytes, _) = batch(1_000, 100, codec);
        let body = bytes.slice(HEADER_BYTES..);
        let records = compress::decompress(codec, &body, 1 << 24).expect("it was compressed here");
        group.throughput(Throughput::Bytes(records.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(format!("{codec:?}")), &body, |bencher, body| {
            bencher.iter(|| compress::decompress(codec, black_box(body), 1 << 24).expect("it was compressed here"));
        });
    }
    group.finish();
}
