//! Commit rounds on a real disk: batches of many partitions, one flush.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use tidegate_records::{
    batch::{BatchHeader, Compression},
    ids::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition},
    time::Timestamp,
};
use tidegate_server::{
    metrics::ShardMetrics,
    objects::ObjectClient,
    shell::{
        disk::{DiskOptions, UringDisk},
        runtime::Runtime,
    },
};
use tidegate_storage::{Append, PartitionSpec, SegmentConfig, Store, StoreOptions, disk::Flush};

use crate::records::batch;

const PARTITIONS: i32 = 1_000;

/// So many batches of 1 KiB to as many partitions in one round, durable when it ends; their way into the segments is part of it.
pub(crate) fn rounds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("durable round of 1 KiB batches");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for batches in [1_usize, 100, 1_000] {
        group.throughput(Throughput::Elements(batches as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{batches} batches")), |bencher| {
            bencher.iter_custom(|rounds| {
                let directory =
                    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory can be written");
                let runtime = Runtime::new().expect("io_uring is to be had");
                runtime.run(commit(directory.path().to_path_buf(), rounds, batches))
            });
        });
    }
    group.finish();
}

async fn commit(root: std::path::PathBuf, rounds: u64, batches: usize) -> Duration {
    let options = DiskOptions { root, one_flush_for_all_files: true, objects: ObjectClient::default() };
    let disk = UringDisk::new(options, Arc::new(ShardMetrics::default()));
    let topic = TopicId([7; 16]);
    let partitions: Vec<_> = (0..PARTITIONS).map(|index| TopicPartition::new(topic, PartitionIndex(index))).collect();
    let specs = partitions
        .iter()
        .map(|&topic_partition| PartitionSpec { topic_partition, config: SegmentConfig::default() })
        .collect();
    let (store, _) = Store::open(disk, StoreOptions::default(), specs).await.expect("an empty directory opens");
    let (bytes, header) = batch(1, 960, Compression::None);
    let mut ends = vec![0_i64; partitions.len()];
    let mut next = 0;
    let started = Instant::now();
    for _ in 0..rounds {
        for _ in 0..batches {
            append(&store, partitions[next], &bytes, &header, ends[next]).await;
            ends[next] += 1;
            next = (next + 1) % partitions.len();
        }
        while store.has_pending() {
            store.commit_round().await.expect("the disk works");
        }
        store.apply_step(256 << 10).await;
    }
    let took = started.elapsed();
    store.close().await.expect("the disk works");
    took
}

async fn append(store: &Store<UringDisk>, partition: TopicPartition, bytes: &Bytes, header: &BatchHeader, end: i64) {
    while store.admits(bytes.len()).is_err() {
        store.apply_step(256 << 10).await;
    }
    let append = Append {
        bytes: bytes.clone(),
        header: *header,
        base_offset: Offset(end),
        leader_epoch: LeaderEpoch(0),
        append_time: Timestamp(1_700_000_000_000),
        durability: Flush::Durable,
    };
    store.append(partition, append).expect("it was asked for room");
}
