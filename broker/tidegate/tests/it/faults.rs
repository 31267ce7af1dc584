//! Bad input and faults: a clear error or a closed connection, and the others are served as if nothing had been.

use std::io::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsRequest, ApiVersionsResponse, CreateTopicsRequest, CreateTopicsResponse, FetchRequest,
        FetchResponse, ProduceRequest, ProduceResponse, TopicName,
        create_topics_request::{CreatableTopic, CreatableTopicConfig},
        fetch_request::{FetchPartition, FetchTopic},
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::StrBytes,
};
use tidegate_records::{
    batch::{self, Compression},
    build::BatchBuilder,
    time::Timestamp,
};

use crate::{broker::Broker, raw::Raw, traps::create};

/// The broker still serves: a new connection gets an answer.
pub(crate) fn assert_serves(broker: &Broker) {
    let mut raw = Raw::new(broker.connect());
    let answer: ApiVersionsResponse = raw.call(ApiKey::ApiVersions, 0, &ApiVersionsRequest::default());
    assert_eq!(answer.error_code, 0);
}

/// Records of 1970 would be deleted by time at once.
pub(crate) fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    now.as_millis() as i64
}

pub(crate) fn good_batch() -> Vec<u8> {
    batch_of(Some(b"key"))
}

/// Whose records have no key.
pub(crate) fn keyless_batch() -> Vec<u8> {
    batch_of(None)
}

fn batch_of(key: Option<&[u8]>) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::None);
    for n in 0..3 {
        builder.push(Timestamp(now_ms() + n), key, Some(b"value"), []);
    }
    builder.build().0.to_vec()
}

pub(crate) fn mended(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = batch::checksum(&bytes);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// A batch whose last record lacks `bytes`, by the length that it says itself.
fn cut_records(batch: &[u8], bytes: usize) -> Vec<u8> {
    let mut cut = batch[..batch.len() - bytes].to_vec();
    let length = (cut.len() - batch::LENGTH_PREFIX_BYTES) as i32;
    cut[8..12].copy_from_slice(&length.to_be_bytes());
    cut
}

pub(crate) fn produce(raw: &mut Raw, topic: &str, batch: impl Into<Bytes>) -> (i16, String) {
    let answer = produced(raw, topic, batch);
    let partition = &answer.responses[0].partition_responses[0];
    (partition.error_code, partition.error_message.as_deref().unwrap_or_default().to_owned())
}

/// The error code, and for how many milliseconds nothing more should be sent.
pub(crate) fn produce_throttled(raw: &mut Raw, topic: &str, batch: impl Into<Bytes>) -> (i16, i32) {
    let answer = produced(raw, topic, batch);
    (answer.responses[0].partition_responses[0].error_code, answer.throttle_time_ms)
}

fn produced(raw: &mut Raw, topic: &str, batch: impl Into<Bytes>) -> ProduceResponse {
    raw.call(ApiKey::Produce, 9, &produce_request(topic, [(0, batch.into())]))
}

/// Batches for partitions of a topic.
pub(crate) fn produce_request(topic: &str, batches: impl IntoIterator<Item = (i32, Bytes)>) -> ProduceRequest {
    let data = |(index, batch)| PartitionProduceData::default().with_index(index).with_records(Some(batch));
    let topic = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partition_data(batches.into_iter().map(data).collect());
    ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic])
}

/// The error code of a fetch from the start of partition 0, and the bytes of records that it got.
pub(crate) fn fetch(raw: &mut Raw, topic: &str) -> (i16, usize) {
    fetch_from(raw, topic, 0, 0)
}

/// The same from an offset of a partition.
pub(crate) fn fetch_from(raw: &mut Raw, topic: &str, partition: i32, offset: i64) -> (i16, usize) {
    let answer: FetchResponse = raw.call(ApiKey::Fetch, 11, &fetch_request(topic, partition, offset, 1 << 20));
    let partition = &answer.responses[0].partitions[0];
    (partition.error_code, partition.records.as_ref().map_or(0, Bytes::len))
}

pub(crate) fn fetch_request(topic: &str, partition: i32, offset: i64, bytes_max: i32) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(bytes_max);
    let topic = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partitions(vec![partition]);
    FetchRequest::default().with_max_bytes(bytes_max).with_topics(vec![topic])
}

#[test]
fn what_is_no_frame_ends_its_connection_alone() {
    let broker = Broker::start();
    let oversized = (200_i32 << 20).to_be_bytes();
    let cases: [(&str, Vec<u8>); 6] = [
        ("negative length", vec![0xff, 0xff, 0xff, 0xff]),
        ("oversized", oversized.to_vec()),
        ("empty frame", vec![0, 0, 0, 0]),
        ("short header", vec![0, 0, 0, 3, 0, 3, 0]),
        ("unknown API", [&[0, 0, 0, 10][..], &[0x7f, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff]].concat()),
        ("HTTP", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
    ];
    for (name, bytes) in cases {
        let mut raw = Raw::new(broker.connect());
        raw.stream.write_all(&bytes).expect("sent");
        assert!(raw.is_closed(), "{name}");
        assert_serves(&broker);
    }
    // A frame that is cut off by the client's end harms nobody.
    let mut raw = Raw::new(broker.connect());
    raw.stream.write_all(&[0, 0, 1, 0, 0, 18]).expect("sent");
    drop(raw);
    assert_serves(&broker);
}

#[test]
fn random_bodies_never_harm_the_broker() {
    let broker = Broker::start();
    // A fixed seed: splitmix64.
    let mut state = 7_u64;
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    for key in 0..=93_i16 {
        for _ in 0..12 {
            let mut raw = Raw::new(broker.connect());
            let mut frame = BytesMut::new();
            frame.put_i16(key);
            frame.put_i16((next() % 14) as i16);
            frame.put_i32(1);
            frame.put_i16(-1);
            for _ in 0..next() % 60 {
                // Large counts are likelier to hurt than evenly random bytes.
                frame.put_u8(if next() % 3 == 0 { 0x7f } else { next() as u8 });
            }
            raw.send_frame(&frame);
            raw.stream.shutdown(std::net::Shutdown::Write).expect("no more requests");
            // Answered or closed: both end here.
            let _ = raw.receive_frame();
        }
    }
    assert_serves(&broker);
}

#[test]
fn a_version_that_is_not_implemented_closes_the_connection() {
    let broker = Broker::start();
    for (api, version) in [(ApiKey::Produce, 2_i16), (ApiKey::Produce, 12), (ApiKey::Fetch, 3), (ApiKey::Metadata, 99)]
    {
        let mut raw = Raw::new(broker.connect());
        let mut frame = BytesMut::new();
        frame.put_i16(api as i16);
        frame.put_i16(version);
        frame.put_i32(1);
        frame.put_i16(-1);
        frame.put_u8(0);
        raw.send_frame(&frame);
        assert!(raw.is_closed(), "{api:?} v{version}");
    }
    assert!(broker.logged().contains("is not implemented"), "the log says why");
}

#[test]
fn bad_batches_are_refused_with_their_code() {
    let broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    create(&mut raw, "t", 1);
    let good = good_batch();
    let bomb = {
        let mut builder = BatchBuilder::new(Compression::Zstd);
        builder.push(Timestamp(1), None, Some(&vec![0; 120 << 20]), []);
        builder.build().0.to_vec()
    };
    assert!(bomb.len() < 100_000, "a bomb is small: {}", bomb.len());
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let cases: Vec<(&str, Vec<u8>, i16)> = vec![
        ("wrong checksum", with(70, &[0xff]), 2),
        ("magic 0", with(16, &[0]), 87),
        ("magic 1", with(16, &[1]), 87),
        ("count too large", mended(with(57, &9_i32.to_be_bytes())), 87),
        ("last offset delta too large", mended(with(23, &9_i32.to_be_bytes())), 87),
        ("unknown codec", mended(with(21, &7_i16.to_be_bytes())), 76),
        ("records cut off", mended(cut_records(&good, 2)), 87),
        ("control batch", mended(with(21, &0x20_i16.to_be_bytes())), 87),
        ("two batches", [good.clone(), good.clone()].concat(), 87),
        ("cut off", good[..good.len() - 2].to_vec(), 2),
        ("a decompression bomb", bomb, 10),
        ("nothing", Vec::new(), 87),
    ];
    for (name, batch, code) in cases {
        let (got, message) = produce(&mut raw, "t", batch);
        assert_eq!(got, code, "{name}: {message}");
        assert!(!message.is_empty(), "{name}");
    }
    // Overlapping offsets: the second record says it is the first.
    let mut overlapping = good.clone();
    let first = usize::from(overlapping[61] >> 1) + 1;
    overlapping[61 + first + 3] = 0;
    assert_eq!(produce(&mut raw, "t", mended(overlapping)).0, 87);
    assert_eq!(produce(&mut raw, "t", good).0, 0, "a good batch still goes");
    assert_eq!(produce(&mut raw, "not..there", good_batch()).0, 3);
    assert_ne!(produce(&mut raw, "__consumer_offsets", good_batch()).0, 0, "the broker's own topic");
}

#[test]
fn topics_are_refused_with_their_code() {
    let broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    create(&mut raw, "a.b", 1);
    let mut check = |name: &str, partitions: i32, replicas: i16, config: Option<(&str, &str)>, code: i16| {
        let configs = config
            .map(|(key, value)| {
                CreatableTopicConfig::default()
                    .with_name(StrBytes::from_string(key.to_owned()))
                    .with_value(Some(StrBytes::from_string(value.to_owned())))
            })
            .into_iter()
            .collect();
        let topic = CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_string(name.to_owned())))
            .with_num_partitions(partitions)
            .with_replication_factor(replicas)
            .with_configs(configs);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        let answer: CreateTopicsResponse = raw.call(ApiKey::CreateTopics, 7, &request);
        let answer = &answer.topics[0];
        assert_eq!(answer.error_code, code, "{name}: {:?}", answer.error_message);
        assert!(answer.error_message.as_ref().is_some_and(|message| !message.is_empty()), "{name}");
    };
    check("", 1, 1, None, 17);
    check("a b", 1, 1, None, 17);
    check("..", 1, 1, None, 17);
    check(&"x".repeat(250), 1, 1, None, 17);
    check("a_b", 1, 1, None, 17);
    check("a.b", 1, 1, None, 36);
    check("t", 0, 1, None, 37);
    check("t", i32::MAX, 1, None, 37);
    check("t", 1, 3, None, 38);
    check("t", 1, 1, Some(("retention.ms", "soon")), 40);
    check("t", 1, 1, Some(("no.such.config", "1")), 40);
    check("t", 1, 1, Some(("tidegate.router", "nobody")), 40);
}

#[test]
fn a_slow_reader_and_silent_connections_do_not_hold_up_others() {
    let broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    create(&mut raw, "t", 1);
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(Timestamp(now_ms()), None, Some(&vec![7; 900_000]), []);
    let large = builder.build().0;
    for _ in 0..20 {
        assert_eq!(produce(&mut raw, "t", large.clone()).0, 0);
    }
    // Asks for much again and again, and never reads.
    let mut slow = Raw::new(broker.connect());
    for _ in 0..200 {
        slow.send(ApiKey::Fetch, 11, &fetch_request("t", 0, 0, 20 << 20));
    }
    let silent: Vec<_> = (0..200).map(|_| broker.connect()).collect();
    for _ in 0..50 {
        assert_eq!(produce(&mut raw, "t", good_batch()).0, 0);
    }
    // What is not read is bounded: 200 answers of 18 MB were asked for.
    let resident = broker.resident_bytes();
    assert!(resident < 1_500_000 << 10, "{resident} bytes resident");
    drop(silent);
    assert_serves(&broker);
}

#[test]
fn five_thousand_idle_connections_are_carried() {
    const COUNT: u64 = 5_000;
    // SAFETY: `limit` is a valid place for the result, and for the argument.
    let allowed = unsafe {
        let mut limit = std::mem::zeroed::<libc::rlimit>();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0 && limit.rlim_max >= COUNT + 2_000
    };
    if !allowed {
        eprintln!("skipped: needs an open-files limit (ulimit -Hn) of {}", COUNT + 2_000);
        return;
    }
    let broker = Broker::start();
    let mut idle = Vec::new();
    for _ in 0..COUNT {
        idle.push(broker.connect());
    }
    assert_serves(&broker);
    let mut last = Raw::new(idle.pop().expect("there are some"));
    let answer: ApiVersionsResponse = last.call(ApiKey::ApiVersions, 0, &ApiVersionsRequest::default());
    assert_eq!(answer.error_code, 0);
}

#[test]
fn damage_takes_its_partition_offline_and_no_other() {
    let mut broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    create(&mut raw, "hurt", 1);
    create(&mut raw, "well", 1);
    for _ in 0..10 {
        assert_eq!(produce(&mut raw, "hurt", good_batch()).0, 0);
        assert_eq!(produce(&mut raw, "well", good_batch()).0, 0);
    }
    assert!(broker.stop().success());
    // After a clean stop everything is in the segments. Flip a byte in the middle of the first one of "hurt".
    broker.restart();
    let id = {
        let mut raw = Raw::new(broker.connect());
        let topic = kafka_protocol::messages::metadata_request::MetadataRequestTopic::default()
            .with_name(Some(TopicName(StrBytes::from_static_str("hurt"))));
        let request = kafka_protocol::messages::MetadataRequest::default().with_topics(Some(vec![topic]));
        let answer: kafka_protocol::messages::MetadataResponse = raw.call(ApiKey::Metadata, 12, &request);
        answer.topics[0].topic_id.simple().to_string()
    };
    assert!(broker.stop().success());
    let segment = broker
        .files()
        .into_iter()
        .find(|file| file.to_string_lossy().contains(&id) && file.extension().is_some_and(|end| end == "tgs"))
        .expect("a segment");
    let mut bytes = std::fs::read(&segment).expect("it can be read");
    let at = bytes.windows(5).rposition(|window| window == b"value").expect("a record") + 1;
    bytes[at] ^= 0xff;
    std::fs::write(&segment, bytes).expect("it can be written");
    broker.restart();
    let mut raw = Raw::new(broker.connect());
    assert_eq!(produce(&mut raw, "well", good_batch()).0, 0, "the others serve");
    assert_eq!(fetch(&mut raw, "well").0, 0);
    assert_eq!(fetch(&mut raw, "hurt").0, 56, "KAFKA_STORAGE_ERROR: damage is never handed out");
}
