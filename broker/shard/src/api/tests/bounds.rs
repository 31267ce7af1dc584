//! What a small request can make a shard do or hold.

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, DescribeConfigsRequest, DescribeConfigsResponse, MetadataRequest, MetadataResponse, ProduceRequest,
    ProduceResponse,
    describe_configs_request::DescribeConfigsResource,
    metadata_request::MetadataRequestTopic,
    produce_request::{PartitionProduceData, TopicProduceData},
};
use tidegate_records::{
    batch::{BatchHeader, Compression, HEADER_BYTES},
    build::{BatchBuilder, assemble},
};

use super::rig::{Rig, text, topic_name};

const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// A request of 140 KB that named one topic 20,000 times was answered with 520 MB, by a shard that did nothing else for five seconds.
#[test]
fn a_name_that_is_repeated_is_answered_once() {
    let mut rig = Rig::new(2);
    rig.create("t", 3, &[]);
    let id = uuid::Uuid::from_bytes(rig.image.topic("t").expect("it is there").id.0);
    let by_name = MetadataRequestTopic::default().with_name(Some(topic_name("t")));
    let by_id = MetadataRequestTopic::default().with_name(None).with_topic_id(id);
    for (version, topic) in [(5, by_name.clone()), (12, by_name), (12, by_id)] {
        let body = MetadataRequest::default().with_topics(Some(vec![topic; 100]));
        let response: MetadataResponse = rig.ask(ApiKey::Metadata, version, &body);
        assert_eq!(response.topics.len(), 1);
        assert_eq!(response.topics[0].partitions.len(), 3);
    }
    let resource = DescribeConfigsResource::default().with_resource_type(2).with_resource_name(text("t"));
    let body = DescribeConfigsRequest::default().with_resources(vec![resource; 100]);
    let response: DescribeConfigsResponse = rig.ask(ApiKey::DescribeConfigs, 4, &body);
    assert_eq!(response.results.len(), 1);
}

fn produced(rig: &mut Rig, version: i16, batches: &[Bytes]) -> Vec<(i16, String)> {
    let data = (0..)
        .zip(batches)
        .map(|(index, batch)| PartitionProduceData::default().with_index(index).with_records(Some(batch.clone())));
    let topic = TopicProduceData::default().with_name(topic_name("t")).with_partition_data(data.collect());
    let body = ProduceRequest::default().with_acks(-1).with_timeout_ms(1000).with_topic_data(vec![topic]);
    let response: ProduceResponse = rig.ask(ApiKey::Produce, version, &body);
    let answers = response.responses[0].partition_responses.iter();
    answers
        .map(|answer| (answer.error_code, answer.error_message.as_ref().map(ToString::to_string).unwrap_or_default()))
        .collect()
}

fn batch(rig: &Rig, compression: Compression, value: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    builder.push(rig.now.wall, None, Some(value), []);
    builder.build().0
}

/// Two thousand batches of 3 KB, each of 99 MiB when decompressed, kept a shard for sixteen seconds.
#[test]
fn the_batches_of_a_request_share_what_they_may_be_when_decompressed() {
    let mut rig = Rig::new(1);
    rig.create("t", 4, &[]);
    let large = batch(&rig, Compression::Zstd, &vec![0; 90 << 20]);
    let small = batch(&rig, Compression::Zstd, b"small");
    let answers = produced(&mut rig, 9, &[large.clone(), large.clone(), large.clone(), small]);
    let codes: Vec<i16> = answers.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [0, 0, 10, 10], "{answers:?}");
    assert!(answers[2].1.contains("send fewer of them in one request"), "{answers:?}");
    // The next request begins anew.
    assert_eq!(produced(&mut rig, 9, &[large])[0].0, 0);
}

#[test]
fn batches_that_no_producer_makes_get_the_codes_of_apache_kafka() {
    let mut rig = Rig::new(1);
    rig.create("t", 1, &[]);
    let zstd = batch(&rig, Compression::Zstd, b"value");
    assert_eq!(produced(&mut rig, 6, std::slice::from_ref(&zstd))[0].0, 76);
    assert_eq!(produced(&mut rig, 7, &[zstd])[0].0, 0);
    let good = batch(&rig, Compression::None, b"value");
    for base_offset in [77_i64, -5] {
        let mut moved = BytesMut::new();
        moved.put_i64(base_offset);
        moved.extend_from_slice(&good[8..]);
        assert_eq!(produced(&mut rig, 9, &[moved.freeze()])[0].0, 87, "base offset {base_offset}");
    }
    for (magic, code) in [(0, 87), (1, 87), (3, 2), (-1_i8, 2)] {
        let mut old = BytesMut::from(&good[..]);
        old[16] = magic.cast_unsigned();
        assert_eq!(produced(&mut rig, 9, &[old.freeze()])[0].0, code, "magic {magic}");
    }
}

/// The checksum holds, so it was sent so, and sending it again does not help: code 2 has producers try until their timeout.
#[test]
fn records_that_are_not_what_their_batch_says_are_invalid_and_not_corrupt() {
    let mut rig = Rig::new(1);
    rig.create("t", 1, &[]);
    let records = {
        let mut builder = BatchBuilder::new(Compression::None);
        (0..3).for_each(|_| builder.push(rig.now.wall, Some(b"key"), Some(b"value"), []));
        builder.build()
    };
    let (good, header) = records;
    let body = &good[HEADER_BYTES..];
    let record = body.len() / 3;
    let mut sent = |body: &[u8], what: &str| {
        for codec in CODECS {
            let attributes = header.attributes.with_compression(codec);
            let (batch, _) = assemble(BatchHeader { attributes, ..header }, body);
            let answers = produced(&mut rig, 9, &[batch]);
            assert_eq!(answers[0].0, if what.is_empty() { 0 } else { 87 }, "{what}, {codec:?}: {}", answers[0].1);
        }
    };
    sent(body, "");
    sent(&body[..body.len() - 1], "the last byte is missing");
    sent(&body[..2 * record], "the last record is missing");
    sent(&[], "there is none");
    sent(&[body, &[0]].concat(), "a byte follows");
    sent(&[body, &body[..record]].concat(), "a record follows");
    let with = |at: usize, byte: u8| {
        let mut changed = body.to_vec();
        changed[2 * record + at] = byte;
        changed
    };
    sent(&with(0, 1), "a negative length");
    sent(&with(0, body[0] + 2), "a length that is too large");
    sent(&with(0, body[0] - 2), "a length that is too small");
    sent(&with(record - 1, 2), "a header is missing");
}

/// It was answered as often as it was named, and all of its batches were appended. Compared with Apache Kafka 4.3, but for one point: there a
/// partition that is answered with INVALID_RECORD may have been appended to all the same.
#[test]
fn a_partition_that_is_named_twice_gets_what_was_sent_for_it_last() {
    let mut rig = Rig::new(2);
    rig.create("t", 4, &[]);
    rig.create("u", 4, &[]);
    let good = |rig: &Rig, count: usize| {
        let mut builder = BatchBuilder::new(Compression::None);
        (0..count).for_each(|_| builder.push(rig.now.wall, None, Some(b"value"), []));
        builder.build().0
    };
    let (one, two, bad) = (good(&rig, 1), good(&rig, 2), Bytes::from_static(b"bad"));
    let data =
        |index: i32, batch: &Bytes| PartitionProduceData::default().with_index(index).with_records(Some(batch.clone()));
    let topic = |name: &str, data: Vec<PartitionProduceData>| {
        TopicProduceData::default().with_name(topic_name(name)).with_partition_data(data)
    };
    let mut check = |topics: Vec<TopicProduceData>, expected: &[(&str, i32, i16, i64)]| {
        let body = ProduceRequest::default().with_acks(-1).with_timeout_ms(1000).with_topic_data(topics);
        let response: ProduceResponse = rig.ask(ApiKey::Produce, 9, &body);
        let answers = response.responses.iter().flat_map(|topic| {
            let name = topic.name.0.to_string();
            topic
                .partition_responses
                .iter()
                .map(move |answer| (name.clone(), answer.index, answer.error_code, answer.base_offset))
        });
        let expected: Vec<_> =
            expected.iter().map(|(name, index, code, offset)| ((*name).to_owned(), *index, *code, *offset)).collect();
        assert_eq!(answers.collect::<Vec<_>>(), expected);
    };
    check(vec![topic("t", vec![data(0, &one), data(0, &two)])], &[("t", 0, 0, 0)]);
    check(vec![topic("t", vec![data(0, &two)]), topic("t", vec![data(0, &one)])], &[("t", 0, 0, 2)]);
    check(vec![topic("t", vec![data(0, &bad), data(0, &one)])], &[("t", 0, 0, 3)]);
    check(vec![topic("t", vec![data(0, &one), data(0, &bad)])], &[("t", 0, 2, -1)]);
    check(vec![topic("t", vec![data(9, &one), data(9, &one)])], &[("t", 9, 3, -1)]);
    check(
        vec![
            topic("t", vec![data(1, &one), data(0, &one), data(2, &one), data(0, &one), data(3, &one)]),
            topic("u", vec![data(0, &one)]),
            topic("t", vec![data(1, &two)]),
        ],
        &[("t", 1, 0, 0), ("t", 0, 0, 4), ("t", 2, 0, 0), ("t", 3, 0, 0), ("u", 0, 0, 0)],
    );
    // What is named once is answered in the order in which it was named.
    check(
        vec![topic("t", vec![data(1, &one)]), topic("u", vec![data(0, &one)]), topic("t", vec![data(2, &one)])],
        &[("t", 1, 0, 2), ("u", 0, 0, 1), ("t", 2, 0, 1)],
    );
}
