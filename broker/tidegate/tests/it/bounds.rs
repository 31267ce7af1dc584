//! What clients can make a broker hold or do: bounded, whatever they send and however little they read, and the others are served meanwhile.

use std::io::Write as _;

use bytes::{Buf as _, Bytes};
use kafka_protocol::{
    messages::{
        ApiKey, DescribeConfigsRequest, DescribeGroupsRequest, DescribeLogDirsRequest, DescribeProducersRequest,
        FetchResponse, FindCoordinatorRequest, FindCoordinatorResponse, GroupId, ListOffsetsRequest, MetadataRequest,
        MetadataResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, ProduceResponse, TopicName,
        describe_configs_request::DescribeConfigsResource,
        describe_log_dirs_request::DescribableLogDirTopic,
        describe_producers_request::TopicRequest,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        metadata_request::MetadataRequestTopic,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics},
    },
    protocol::StrBytes,
};
use tidegate_records::{
    batch::Compression,
    build::{BatchBuilder, Producer},
    ids::{ProducerEpoch, ProducerId, Sequence},
    time::Timestamp,
};

use crate::{
    broker::Broker,
    faults::{fetch, fetch_request, good_batch, now_ms, produce, produce_request},
    raw::Raw,
    traps::create,
};

const MIB: u64 = 1 << 20;
/// Connections that misbehave.
const CLIENTS: usize = 20;

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// A batch of one record.
fn batch_of(compression: Compression, value: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    builder.push(Timestamp(now_ms()), None, Some(value), []);
    builder.build().0
}

/// A broker of two shards whose requests, and whose answers, may take so much memory together; and a connection to it.
fn broker_with(queued_bytes_max: u64) -> (Broker, Raw) {
    let request_bytes_max = 16 * MIB;
    let settings = format!(
        "\"queued.max.request.bytes\" = {queued_bytes_max}\n\"socket.request.max.bytes\" = {request_bytes_max}\n\"tail.cache.bytes\" = 0\n"
    );
    let broker = Broker::start_configured(&settings, &["--shards", "2"], None);
    let mut raw = Raw::new(broker.connect());
    create(&mut raw, "small", 1);
    (broker, raw)
}

/// Others are served: they produce, and read what there is.
fn assert_served(other: &mut Raw) {
    assert_eq!(produce(other, "small", good_batch()), (0, String::new()));
    let (code, bytes) = fetch(other, "small");
    assert!(code == 0 && bytes > 0, "{code}");
}

/// The memory in bytes that the broker took at most, over `before`, for answers that nobody takes, while another was served.
fn grown_for_unread(broker: &Broker, before: u64, unread: &[(i32, Raw)], other: &mut Raw) -> u64 {
    for (_, raw) in unread {
        assert_eq!(raw.stream.peek(&mut [0]).expect("the connection is open"), 1, "it has begun to answer");
    }
    for _ in 0..100 {
        assert_served(other);
    }
    broker.peak_bytes().saturating_sub(before)
}

/// A few connections that asked for records and read nothing took gigabytes, until the kernel ended the broker.
#[test]
fn records_that_nobody_takes_are_bounded() {
    const PARTITIONS: i32 = CLIENTS as i32;
    const BATCHES: i32 = 12;
    const REQUESTS: i32 = 300;
    let queued = 16 * MIB;
    let (broker, mut other) = broker_with(queued);
    create(&mut other, "large", PARTITIONS);
    let large = batch_of(Compression::None, &vec![7; 900_000]);
    for number in 0..BATCHES * PARTITIONS / 10 {
        let first = number % (PARTITIONS / 10) * 10;
        let request = produce_request("large", (first..first + 10).map(|index| (index, large.clone())));
        let answer: ProduceResponse = other.call(ApiKey::Produce, 9, &request);
        assert!(answer.responses[0].partition_responses.iter().all(|answer| answer.error_code == 0));
    }
    broker.forget_peak();
    let before = broker.resident_bytes();
    // From different places, so that they share no memory.
    let asked = |client: usize, number: i32| ((client as i32 + number) % PARTITIONS, i64::from(number * 5 % BATCHES));
    let mut unread: Vec<(i32, Raw)> = (0..CLIENTS)
        .map(|client| {
            let mut raw = Raw::new(broker.connect());
            let requests = (0..REQUESTS).map(|number| {
                let (partition, offset) = asked(client, number);
                fetch_request("large", partition, offset, 50 << 20)
            });
            (raw.send_all(ApiKey::Fetch, 11, requests), raw)
        })
        .collect();
    let grown = grown_for_unread(&broker, before, &unread, &mut other);
    // What answers may take, as much again on its way between shards, a batch for each connection, and what is kept of segments.
    assert!(grown < 5 * queued, "{grown} bytes more, where answers may take {queued}");
    // Who begins to read gets everything that it asked for.
    for (client, (first, raw)) in unread.iter_mut().enumerate() {
        for number in 0..10 {
            let answer: FetchResponse = raw.receive_numbered(ApiKey::Fetch, 11, *first + number);
            let (partition, offset) = asked(client, number);
            let answer = &answer.responses[0].partitions[0];
            assert_eq!((answer.error_code, answer.partition_index), (0, partition));
            assert_eq!(answer.records.clone().expect("records").get_i64(), offset);
        }
    }
}

/// Questions of twenty bytes with answers of thousands, very many in one piece: they were all answered before anybody looked how much that was.
#[test]
fn answers_to_small_questions_that_nobody_takes_are_bounded() {
    const REQUESTS: i32 = 1_000;
    let queued = 32 * MIB;
    let (broker, mut other) = broker_with(queued);
    create(&mut other, "wide", 1_000);
    broker.forget_peak();
    let before = broker.resident_bytes();
    let all_topics = || MetadataRequest::default().with_topics(None);
    let mut unread: Vec<(i32, Raw)> = (0..CLIENTS)
        .map(|_| {
            let mut raw = Raw::new(broker.connect());
            (raw.send_all(ApiKey::Metadata, 1, (0..REQUESTS).map(|_| all_topics())), raw)
        })
        .collect();
    let grown = grown_for_unread(&broker, before, &unread, &mut other);
    assert!(grown < 3 * queued, "{grown} bytes more, where answers may take {queued}");
    let (first, raw) = &mut unread[0];
    for number in 0..REQUESTS {
        let answer: MetadataResponse = raw.receive_numbered(ApiKey::Metadata, 1, *first + number);
        assert_eq!(answer.topics.iter().map(|topic| topic.partitions.len()).max(), Some(1_000));
    }
}

/// Some that announced large requests, sent a part and stopped kept everybody's large requests out for as long as they liked.
#[test]
fn who_stops_in_the_middle_of_a_large_request_loses_its_room_where_others_wait() {
    // 32 MiB for each shard.
    let (broker, mut other) = broker_with(64 * MIB);
    create(&mut other, "large", 11);
    let batch = batch_of(Compression::None, &vec![7; 900_000]);
    let large = |partitions| produce_request("large", (0..partitions).map(|index| (index, batch.clone())));
    // They are dealt out to the shards in turn: of every two neighbours one is on this shard and one on that.
    let mut clients: Vec<Raw> = (0..8).map(|_| Raw::new(broker.connect())).collect();
    let mut frame_bytes = 0.0;
    let mut rest = Vec::new();
    for client in [0, 2, 4, 1] {
        let frame = clients[client].frame(ApiKey::Produce, 9, &large(11));
        let (sent, kept) = frame.split_at(frame.len() / 2);
        let stream = &mut clients[client].stream;
        stream.write_all(&(frame.len() as i32).to_be_bytes()).expect("sent");
        stream.write_all(sent).expect("sent");
        (frame_bytes, rest) = (frame.len() as f64, kept.to_vec());
    }
    // Three fill one shard, so that a fourth would not fit; the other shard has room.
    let reserved = || -> Vec<f64> {
        let of_shards = broker.measured("tidegate_request_bytes_in_flight");
        of_shards.into_iter().map(|(_, bytes)| (bytes / frame_bytes).floor()).collect()
    };
    loop {
        let mut reserved = reserved();
        reserved.sort_by(f64::total_cmp);
        if reserved == [1.0, 3.0] {
            break;
        }
        std::thread::yield_now();
    }
    assert_served(&mut other);
    let answer: ProduceResponse = clients[6].call(ApiKey::Produce, 9, &large(5));
    assert!(answer.responses[0].partition_responses.iter().all(|answer| answer.error_code == 0), "{answer:?}");
    for client in [0, 2, 4] {
        assert!(clients[client].is_closed());
    }
    assert_eq!(broker.logged().matches("it has announced a large request and hardly sends it").count(), 3);
    // Nobody waited for the room of this one, which has stopped for longer than they had.
    clients[1].stream.write_all(&rest).expect("the connection is open");
    let answer: ProduceResponse = clients[1].receive(ApiKey::Produce, 9);
    assert!(answer.responses[0].partition_responses.iter().all(|answer| answer.error_code == 0), "{answer:?}");
}

/// Two thousand batches of 3 KB in one request, each of 99 MiB when decompressed, kept a shard for sixteen seconds.
#[test]
fn a_request_of_bombs_is_decompressed_in_part_and_the_rest_is_refused() {
    const BATCHES: i32 = 300;
    const BOMB_BYTES: usize = 30 << 20;
    let limit = 32 * MIB;
    let settings = format!("\"max.decompressed.message.bytes\" = {limit}\n");
    let broker = Broker::start_configured(&settings, &["--shards", "1"], None);
    let mut other = Raw::new(broker.connect());
    create(&mut other, "small", 1);
    create(&mut other, "bombs", BATCHES);
    assert_served(&mut other);
    broker.forget_peak();
    let before = broker.resident_bytes();
    let bombs = [Compression::Zstd, Compression::Gzip].map(|codec| batch_of(codec, &vec![0; BOMB_BYTES]));
    std::thread::scope(|scope| {
        let (bombs, broker) = (&bombs, &broker);
        let clients: Vec<_> = (0..4)
            .map(|client| {
                scope.spawn(move || {
                    let mut raw = Raw::new(broker.connect());
                    let bomb = &bombs[client % 2];
                    let request = produce_request("bombs", (0..BATCHES).map(|index| (index, bomb.clone())));
                    let answer: ProduceResponse = raw.call(ApiKey::Produce, 9, &request);
                    answer.responses[0].partition_responses.clone()
                })
            })
            .collect();
        while clients.iter().any(|client| !client.is_finished()) {
            assert_served(&mut other);
        }
        for client in clients {
            let answers = client.join().expect("it was answered");
            assert_eq!(answers.len(), BATCHES as usize);
            let taken = answers.iter().take_while(|answer| answer.error_code == 0).count();
            // A request may be so much when decompressed.
            assert_eq!(taken, (256 << 20) / BOMB_BYTES);
            for answer in &answers[taken..] {
                assert_eq!(answer.error_code, 10, "MESSAGE_TOO_LARGE");
                let words = answer.error_message.as_deref().unwrap_or_default();
                assert!(words.contains("send fewer of them in one request"), "{words}");
            }
        }
    });
    let grown = broker.peak_bytes().saturating_sub(before);
    // One is decompressed at a time.
    assert!(grown < 4 * limit, "{grown} bytes more, where one may be {limit} when decompressed");
}

/// A request of 140 KB that named one topic 20,000 times was answered with 520 MB.
#[test]
fn names_that_are_repeated_make_no_answer_long() {
    const TIMES: usize = 20_000;
    const PRODUCERS: i64 = 100;
    let broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    let id = create(&mut raw, "wide", 1_000);
    let mut kept = Raw::new(broker.connect());
    for producer in 0..PRODUCERS {
        let producer = Producer { id: ProducerId(producer), epoch: ProducerEpoch(0), base_sequence: Sequence(0) };
        let mut builder = BatchBuilder::new(Compression::None).with_producer(producer);
        builder.push(Timestamp(now_ms()), None, Some(b"value"), []);
        assert_eq!(produce(&mut kept, "wide", builder.build().0), (0, String::new()));
    }
    commit_with_metadata(&mut raw, "wide", &"x".repeat(4_000));

    let text = StrBytes::from_static_str;
    let by_name = MetadataRequestTopic::default().with_name(Some(name("wide")));
    let by_id = MetadataRequestTopic::default().with_name(None).with_topic_id(id);
    let configs = DescribeConfigsResource::default().with_resource_type(2).with_resource_name(text("wide"));
    let producers = |indexes| TopicRequest::default().with_name(name("wide")).with_partition_indexes(indexes);
    let directory = |partitions| DescribableLogDirTopic::default().with_topic(name("wide")).with_partitions(partitions);
    let listed = ListOffsetsPartition::default().with_timestamp(-1);
    let listed = ListOffsetsTopic::default().with_name(name("wide")).with_partitions(vec![listed; TIMES]);
    let group = || OffsetFetchRequestGroup::default().with_group_id(GroupId(text("g")));
    let of_group =
        |indexes| OffsetFetchRequestTopics::default().with_name(name("wide")).with_partition_indexes(indexes);
    let alone = OffsetFetchRequestTopic::default().with_name(name("wide")).with_partition_indexes(vec![0; TIMES]);
    let alone = OffsetFetchRequest::default().with_group_id(GroupId(text("g"))).with_topics(Some(vec![alone]));
    let metadata = |topic| MetadataRequest::default().with_topics(Some(vec![topic; TIMES]));
    let offsets = |groups| OffsetFetchRequest::default().with_groups(groups);
    let topics = |topics| vec![group().with_topics(Some(topics))];
    let frames = [
        ("topics", raw.frame(ApiKey::Metadata, 9, &metadata(by_name))),
        ("topics by id", raw.frame(ApiKey::Metadata, 12, &metadata(by_id))),
        (
            "configurations",
            raw.frame(
                ApiKey::DescribeConfigs,
                4,
                &DescribeConfigsRequest::default()
                    .with_resources(vec![configs; TIMES])
                    .with_include_documentation(true),
            ),
        ),
        (
            "producers of a topic",
            raw.frame(
                ApiKey::DescribeProducers,
                0,
                &DescribeProducersRequest::default().with_topics(vec![producers(vec![0]); TIMES]),
            ),
        ),
        (
            "producers of a partition",
            raw.frame(
                ApiKey::DescribeProducers,
                0,
                &DescribeProducersRequest::default().with_topics(vec![producers(vec![0; TIMES])]),
            ),
        ),
        (
            "log directories",
            raw.frame(
                ApiKey::DescribeLogDirs,
                4,
                &DescribeLogDirsRequest::default().with_topics(Some(vec![directory(vec![0]); TIMES])),
            ),
        ),
        (
            "partitions of a log directory",
            raw.frame(
                ApiKey::DescribeLogDirs,
                4,
                &DescribeLogDirsRequest::default().with_topics(Some(vec![directory(vec![0; TIMES])])),
            ),
        ),
        ("offsets", raw.frame(ApiKey::ListOffsets, 7, &ListOffsetsRequest::default().with_topics(vec![listed]))),
        (
            "groups",
            raw.frame(
                ApiKey::DescribeGroups,
                5,
                &DescribeGroupsRequest::default().with_groups(vec![GroupId(text("g")); TIMES]),
            ),
        ),
        (
            "coordinators",
            raw.frame(
                ApiKey::FindCoordinator,
                4,
                &FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g"); TIMES]),
            ),
        ),
        ("groups with offsets", raw.frame(ApiKey::OffsetFetch, 8, &offsets(vec![group().with_topics(None); TIMES]))),
        ("topics of a group", raw.frame(ApiKey::OffsetFetch, 8, &offsets(topics(vec![of_group(vec![0]); TIMES])))),
        ("partitions of a group", raw.frame(ApiKey::OffsetFetch, 8, &offsets(topics(vec![of_group(vec![0; TIMES])])))),
        ("partitions of the group", raw.frame(ApiKey::OffsetFetch, 7, &alone)),
    ];
    broker.forget_peak();
    let before = broker.resident_bytes();
    for (what, frame) in frames {
        raw.send_frame(&frame);
        let answer = raw.receive_frame().expect("an answer").len();
        assert!(answer < 64 << 10 || answer < 16 * frame.len(), "{what}: {answer} bytes for {}", frame.len());
    }
    let grown = broker.peak_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "{grown} bytes more");
}

/// Commits offset 0 of partition 0 for the group "g".
fn commit_with_metadata(raw: &mut Raw, topic: &str, metadata: &str) {
    let group = StrBytes::from_static_str("g");
    let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![group.clone()]);
    let _: FindCoordinatorResponse = raw.call(ApiKey::FindCoordinator, 4, &find);
    let partition = OffsetCommitRequestPartition::default()
        .with_committed_offset(0)
        .with_committed_metadata(Some(StrBytes::from_string(metadata.to_owned())));
    let topic = OffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    let commit = OffsetCommitRequest::default()
        .with_group_id(GroupId(group))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    // The coordinator may still be loading.
    loop {
        let answer: OffsetCommitResponse = raw.call(ApiKey::OffsetCommit, 8, &commit);
        match answer.topics[0].partitions[0].error_code {
            0 => return,
            14..=16 => {}
            other => panic!("error {other}"),
        }
    }
}
