//! Connections find their way to the shard of their partitions, and nothing is lost or reordered on it.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use kafka_protocol::{
    messages::{
        ApiKey, CreateTopicsRequest, CreateTopicsResponse, FetchRequest, FetchResponse, ProduceRequest,
        ProduceResponse, TopicName,
        create_topics_request::CreatableTopic,
        fetch_request::{FetchPartition, FetchTopic},
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::StrBytes,
};
use tidegate_records::{batch::Compression, build::BatchBuilder, time::Timestamp};

use crate::{broker::Broker, raw::Raw, traps::create};

/// Requests of each connection; it moves after 64 in a row.
const REQUESTS: i64 = 200;

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

fn batch(value: &str) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    // Of today: retention would take older records away.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis();
    builder.push(Timestamp(now as i64), None, Some(value.as_bytes()), std::iter::empty());
    builder.build().0
}

fn produce(topic: &str, value: &str) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(0).with_records(Some(batch(value)));
    let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic])
}

fn moved(broker: &Broker) -> f64 {
    let (_, page) = broker.get("/metrics");
    let lines = page.lines().filter(|line| line.starts_with("tidegate_connections_moved_total"));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

#[test]
fn a_connection_moves_to_the_shard_of_its_partition_and_its_order_stays() {
    let broker = Broker::start_with(&["--shards", "2"]);
    let topics: Vec<String> = (0..4).map(|number| format!("moving-{number}")).collect();
    let mut admin = Raw::new(broker.connect());
    let creatable = |topic: &String| {
        CreatableTopic::default().with_name(name(topic)).with_num_partitions(1).with_replication_factor(1)
    };
    let request =
        CreateTopicsRequest::default().with_topics(topics.iter().map(creatable).collect()).with_timeout_ms(30_000);
    let created: CreateTopicsResponse = admin.call(ApiKey::CreateTopics, 7, &request);
    assert!(created.topics.iter().all(|topic| topic.error_code == 0), "{created:?}");

    // Connections are dealt out in turn: of the two of a topic, one is on the wrong shard, wherever the topic is.
    let mut connections: Vec<[Raw; 2]> =
        topics.iter().map(|_| [Raw::new(broker.connect()), Raw::new(broker.connect())]).collect();
    let mut offset = 0;
    for _ in 0..REQUESTS {
        for side in 0..2 {
            for (pair, topic) in connections.iter_mut().zip(&topics) {
                let answer: ProduceResponse =
                    pair[side].call(ApiKey::Produce, 9, &produce(topic, &format!("{topic} {offset}")));
                let partition = &answer.responses[0].partition_responses[0];
                assert_eq!((partition.error_code, partition.base_offset), (0, offset));
            }
            offset += 1;
        }
    }
    assert!(moved(&broker) > 0.0, "no connection has moved");

    for (pair, topic) in connections.iter_mut().zip(&topics) {
        let partition =
            FetchPartition::default().with_partition(0).with_fetch_offset(0).with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default().with_topic(name(topic)).with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_max_bytes(1 << 20)
            .with_max_wait_ms(0)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let answer: FetchResponse = pair[0].call(ApiKey::Fetch, 12, &request);
        let partition = &answer.responses[0].partitions[0];
        assert_eq!((partition.error_code, partition.high_watermark), (0, offset));
    }
}

/// What was wrong once: a connection that moved in the middle of a large request lost what had come of it.
#[test]
fn a_connection_that_sends_large_requests_without_waiting_moves_too() {
    let broker = Broker::start_with(&["--shards", "2"]);
    let mut admin = Raw::new(broker.connect());
    let topics: Vec<String> = (0..4).map(|number| format!("large-{number}")).collect();
    let creatable = |topic: &String| {
        CreatableTopic::default().with_name(name(topic)).with_num_partitions(1).with_replication_factor(1)
    };
    let request =
        CreateTopicsRequest::default().with_topics(topics.iter().map(creatable).collect()).with_timeout_ms(30_000);
    let created: CreateTopicsResponse = admin.call(ApiKey::CreateTopics, 7, &request);
    assert!(created.topics.iter().all(|topic| topic.error_code == 0), "{created:?}");
    let value = "x".repeat(70_000);
    // Two connections for each topic: of those, one is on the wrong shard.
    for (number, topic) in topics.iter().flat_map(|topic| [(0, topic), (1, topic)]) {
        let before = number * REQUESTS;
        let mut sender = Raw::new(broker.connect());
        let mut receiver = Raw::new(sender.stream.try_clone().expect("a socket can be duplicated"));
        let request = produce(topic, &value);
        let sending = std::thread::spawn(move || {
            for _ in 0..REQUESTS {
                sender.send(ApiKey::Produce, 9, &request);
            }
        });
        for number in 0..REQUESTS {
            let answer: ProduceResponse = receiver.receive_next(ApiKey::Produce, 9);
            let partition = &answer.responses[0].partition_responses[0];
            assert_eq!((partition.error_code, partition.base_offset), (0, before + number));
        }
        sending.join().expect("all is sent");
    }
    assert!(moved(&broker) > 0.0, "no connection has moved");
}

/// Requests that have no answer woke nobody: a connection that waited for the last of them, to go on or to move, waited for ever.
#[test]
fn a_connection_goes_on_behind_requests_without_answers() {
    let broker = Broker::start_with(&["--shards", "2"]);
    let mut other = Raw::new(broker.connect());
    create(&mut other, "fire", 1);
    // One of two is on the wrong shard.
    for round in 0..2 {
        let mut raw = Raw::new(broker.connect());
        for _ in 0..5 {
            raw.send_all(ApiKey::Produce, 9, (0..REQUESTS).map(|_| produce("fire", "and forget").with_acks(0)));
        }
        let answer: ProduceResponse = raw.call(ApiKey::Produce, 9, &produce("fire", "the last"));
        let partition = &answer.responses[0].partition_responses[0];
        let offset = (round + 1) * 5 * REQUESTS + round;
        assert_eq!((partition.error_code, partition.base_offset), (0, offset));
    }
}
