use std::time::Duration;

use kafka_protocol::{
    ResponseError,
    messages::{
        ApiKey, FetchRequest, FetchResponse,
        fetch_request::{FetchPartition, FetchTopic, ForgottenTopic},
    },
};
use tidegate_model::metadata::MetadataChange;
use uuid::Uuid;

use super::rig::{Rig, topic_name};

const VERSION_BY_NAME: i16 = 12;
const VERSION_BY_ID: i16 = 13;

fn request(rig: &Rig, version: i16, session: (i32, i32), wanted: &[(&str, i32, i64)]) -> FetchRequest {
    let topics = wanted.iter().map(|(topic, partition, offset)| {
        let partition = FetchPartition::default()
            .with_partition(*partition)
            .with_fetch_offset(*offset)
            .with_partition_max_bytes(1 << 20);
        let asked = FetchTopic::default().with_partitions(vec![partition]);
        match version {
            ..VERSION_BY_ID => asked.with_topic(topic_name(topic)),
            _ => asked.with_topic_id(id(rig, topic)),
        }
    });
    FetchRequest::default()
        .with_max_wait_ms(500)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_session_id(session.0)
        .with_session_epoch(session.1)
        .with_topics(topics.collect())
}

fn id(rig: &Rig, topic: &str) -> Uuid {
    rig.image.topic(topic).map_or(Uuid::nil(), |topic| Uuid::from_bytes(topic.id.0))
}

/// What an answer says: its partitions with their offsets' ends and bytes.
fn carried(response: &FetchResponse) -> Vec<(i32, i64, usize)> {
    assert_eq!(response.error_code, 0);
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    partitions
        .map(|partition| {
            let bytes = partition.records.as_ref().map_or(0, bytes::Bytes::len);
            (partition.partition_index, partition.high_watermark, bytes)
        })
        .collect()
}

#[test]
fn a_consumer_names_its_partitions_once() {
    for version in [7, VERSION_BY_NAME, VERSION_BY_ID, 18] {
        let mut rig = Rig::new(3);
        rig.create("t", 4, &[]);
        rig.produce("t", 2, 1);
        let all: Vec<_> = (0..4).map(|partition| ("t", partition, 0)).collect();
        let body = request(&rig, version, (0, 0), &all);
        let first: FetchResponse = rig.ask(ApiKey::Fetch, version, &body);
        let session = first.session_id;
        assert!(session > 0, "v{version}");
        let ends: Vec<_> = carried(&first).iter().map(|(index, end, bytes)| (*index, *end, *bytes > 0)).collect();
        assert_eq!(ends, [(0, 0, false), (1, 0, false), (2, 1, true), (3, 0, false)]);

        // Nothing new: the fetch waits, and answers nothing at the end of its time.
        rig.send(0, ApiKey::Fetch, version, &request(&rig, version, (session, 1), &[("t", 2, 1)]));
        assert!(rig.received::<FetchResponse>(0, ApiKey::Fetch, version).is_none());
        rig.wait(Duration::from_millis(500));
        let quiet: FetchResponse = rig.received(0, ApiKey::Fetch, version).unwrap();
        assert_eq!((quiet.session_id, carried(&quiet)), (session, vec![]));

        // A record arrives on a partition that this request does not name.
        rig.send(0, ApiKey::Fetch, version, &request(&rig, version, (session, 2), &[]));
        assert!(rig.received::<FetchResponse>(0, ApiKey::Fetch, version).is_none());
        rig.produce_on(1, "t", 3, 2);
        let news: FetchResponse = rig.received(0, ApiKey::Fetch, version).unwrap();
        let news = carried(&news);
        assert_eq!((news.len(), news[0].0, news[0].1, news[0].2 > 0), (1, 3, 2, true), "v{version}");
    }
}

#[test]
fn partitions_come_and_go() {
    let mut rig = Rig::new(2);
    rig.create("t", 2, &[]);
    let body = request(&rig, VERSION_BY_NAME, (0, 0), &[("t", 0, 0)]);
    rig.send(0, ApiKey::Fetch, VERSION_BY_NAME, &body);
    rig.wait(Duration::from_millis(500));
    let first: FetchResponse = rig.received(0, ApiKey::Fetch, VERSION_BY_NAME).unwrap();
    rig.produce("t", 1, 1);
    let forgotten = ForgottenTopic::default().with_topic(topic_name("t")).with_partitions(vec![0]);
    let body = request(&rig, VERSION_BY_NAME, (first.session_id, 1), &[("t", 1, 0)])
        .with_forgotten_topics_data(vec![forgotten]);
    let second: FetchResponse = rig.ask(ApiKey::Fetch, VERSION_BY_NAME, &body);
    let news: Vec<_> = carried(&second).iter().map(|(index, end, _)| (*index, *end)).collect();
    assert_eq!(news, [(1, 1)]);
}

#[test]
fn a_session_that_is_not_known_is_refused_and_begun_anew() {
    let mut rig = Rig::new(2);
    rig.create("t", 1, &[]);
    rig.produce("t", 0, 1);
    let check = |rig: &mut Rig, version: i16, session, expected: ResponseError| {
        let body = request(rig, version, session, &[]);
        let response: FetchResponse = rig.ask(ApiKey::Fetch, version, &body);
        assert_eq!(response.error_code, expected.code());
        assert!(response.responses.is_empty());
    };
    check(&mut rig, VERSION_BY_NAME, (99, 1), ResponseError::FetchSessionIdNotFound);
    let body = request(&rig, VERSION_BY_NAME, (0, 0), &[("t", 0, 0)]);
    let session = rig.ask::<FetchResponse>(ApiKey::Fetch, VERSION_BY_NAME, &body).session_id;
    check(&mut rig, VERSION_BY_NAME, (session, 5), ResponseError::InvalidFetchSessionEpoch);
    check(&mut rig, VERSION_BY_ID, (session, 1), ResponseError::FetchSessionTopicIdError);
    // Another shard's connection does not have it.
    let body = request(&rig, VERSION_BY_NAME, (session, 1), &[]);
    let elsewhere: FetchResponse = rig.ask_on(1, ApiKey::Fetch, VERSION_BY_NAME, &body);
    assert_eq!(elsewhere.error_code, ResponseError::FetchSessionIdNotFound.code());
}

#[test]
fn clients_without_sessions_get_everything_each_time() {
    for (version, session) in [(4, (0, -1)), (12, (0, -1)), (18, (0, -1))] {
        let mut rig = Rig::new(2);
        rig.create("t", 2, &[]);
        rig.produce("t", 0, 1);
        for _ in 0..2 {
            let body = request(&rig, version, session, &[("t", 0, 0), ("t", 1, 0)]);
            let response: FetchResponse = rig.ask(ApiKey::Fetch, version, &body);
            assert_eq!(response.session_id, 0);
            assert_eq!(carried(&response).len(), 2, "v{version}");
        }
    }
}

#[test]
fn a_partition_that_is_gone_is_told_each_time() {
    let mut rig = Rig::new(2);
    rig.create("t", 1, &[]);
    let body = request(&rig, VERSION_BY_NAME, (0, 0), &[("t", 0, 0), ("gone", 0, 0)]);
    let first: FetchResponse = rig.ask(ApiKey::Fetch, VERSION_BY_NAME, &body);
    let error = |response: &FetchResponse| {
        let gone = response.responses.iter().find(|topic| topic.topic == topic_name("gone")).unwrap();
        gone.partitions[0].error_code
    };
    assert_eq!(error(&first), ResponseError::UnknownTopicOrPartition.code());
    for epoch in 1..3 {
        let body = request(&rig, VERSION_BY_NAME, (first.session_id, epoch), &[]);
        let again: FetchResponse = rig.ask(ApiKey::Fetch, VERSION_BY_NAME, &body);
        assert_eq!(error(&again), ResponseError::UnknownTopicOrPartition.code());
        assert_eq!(again.responses.len(), 1, "the other has nothing new");
    }
}

/// It was answered at the end of its time, as if there could still be something to read.
#[test]
fn a_fetch_that_waits_on_a_topic_is_answered_when_the_topic_is_deleted() {
    for partition in 0..4 {
        let mut rig = Rig::new(2);
        rig.create("t", 4, &[]);
        let body = request(&rig, VERSION_BY_ID, (0, -1), &[("t", partition, 0)]);
        rig.send(0, ApiKey::Fetch, VERSION_BY_ID, &body);
        assert!(rig.received::<FetchResponse>(0, ApiKey::Fetch, VERSION_BY_ID).is_none());
        let topic = rig.image.topic("t").expect("it was created").id;
        rig.commit(MetadataChange::DeleteTopic { id: topic.to_hex() }).expect("it can be deleted");
        let answer: FetchResponse = rig.received(0, ApiKey::Fetch, VERSION_BY_ID).expect("it does not wait any more");
        let code = answer.responses[0].partitions[0].error_code;
        assert_eq!(code, ResponseError::UnknownTopicOrPartition.code(), "partition {partition}");
    }
}

/// The first batch is given whole however little is asked for, so that a consumer gets on; but of one partition (KIP-74). Each shard
/// gave one of its own.
#[test]
fn only_the_first_partition_with_records_goes_beyond_its_limit() {
    let check = |limits: [i32; 4], expected: [bool; 4]| {
        let mut rig = Rig::new(3);
        rig.create("t", 5, &[]);
        for partition in 1..5 {
            rig.produce("t", partition, 2);
        }
        let all: Vec<_> = (0..5).map(|partition| ("t", partition, 0)).collect();
        let mut body = request(&rig, VERSION_BY_NAME, (0, -1), &all);
        for (topic, limit) in body.topics[1..].iter_mut().zip(limits) {
            topic.partitions[0].partition_max_bytes = limit;
        }
        let answer: FetchResponse = rig.ask(ApiKey::Fetch, VERSION_BY_NAME, &body);
        let has_records: Vec<bool> = carried(&answer).iter().map(|(_, _, bytes)| *bytes > 0).collect();
        assert_eq!(has_records[1..], expected, "{limits:?}");
    };
    check([1 << 20; 4], [true; 4]);
    check([1; 4], [true, false, false, false]);
    check([1, 1 << 20, 1, 1 << 20], [true, true, false, true]);
    check([1 << 20, 1, 1, 1], [true, false, false, false]);
}
