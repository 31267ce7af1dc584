//! Requests between bytes and structs.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput};
use kafka_protocol::{
    messages::{
        ProduceRequest, TopicName,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::{Decodable, Encodable, StrBytes},
};
use tidegate_records::batch::Compression;

use crate::records::batch;

const VERSION: i16 = 11;

/// A produce request with a batch for each of several partitions, decoded as the broker does.
pub(crate) fn produce(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode produce");
    for partitions in [1, 100] {
        let frame = request(partitions);
        group.throughput(Throughput::Elements(partitions as u64));
        group.bench_with_input(
            BenchmarkId::from_parameter(format!("{partitions} batches")),
            &frame,
            |bencher, frame| {
                bencher.iter(|| {
                    ProduceRequest::decode(&mut black_box(frame.clone()), VERSION).expect("it was encoded here")
                });
            },
        );
    }
    group.finish();
}

fn request(partitions: i32) -> Bytes {
    let (batch, _) = batch(10, 100, Compression::None);
    let data = (0..partitions)
        .map(|index| PartitionProduceData::default().with_index(index).with_records(Some(batch.clone())))
        .collect();
    let topic =
        TopicProduceData::default().with_name(TopicName(StrBytes::from_static_str("orders"))).with_partition_data(data);
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic]);
    let mut out = BytesMut::new();
    request.encode(&mut out, VERSION).expect("a request is encoded");
    out.freeze()
}
