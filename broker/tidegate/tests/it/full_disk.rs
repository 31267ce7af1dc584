//! A disk without room, and a disk that has died.

use bytes::Bytes;
use kafka_protocol::{
    messages::{
        ApiKey, DeleteRecordsRequest, DeleteRecordsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
        DescribeConfigsRequest, DescribeConfigsResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest,
        MetadataResponse, TopicName,
        delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
        delete_topics_request::DeleteTopicState,
        describe_configs_request::DescribeConfigsResource,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    },
    protocol::StrBytes,
};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{FutureProducer, FutureRecord},
};

use tidegate_records::{batch::Compression, build::BatchBuilder, time::Timestamp};

use crate::{
    broker::Broker,
    faults::{assert_serves, fetch, fetch_from, good_batch, now_ms, produce},
    librdkafka::{WAIT, block_on, client, create_topic},
    raw::Raw,
    traps::create,
    volume::{Kind, Volume, unavailable},
};

/// Produces one record after the other until one is refused: the values of those that were acknowledged, and the refusal.
fn produce_until_refused(producer: &FutureProducer, topic: &str, from: usize) -> (Vec<String>, KafkaError) {
    let mut acknowledged = Vec::new();
    for number in from.. {
        let value = format!("{number} {}", "x".repeat(100_000));
        match block_on(producer.send(FutureRecord::<(), str>::to(topic).partition(0).payload(&value), WAIT)) {
            Ok(delivery) => {
                assert_eq!(delivery.offset, number as i64, "offsets go up by one");
                acknowledged.push(value);
            }
            Err((error, _)) => return (acknowledged, error),
        }
    }
    unreachable!("some record is refused")
}

/// Refused once is refused: no retries, so that the broker's own answer is seen.
fn producer_without_retries(broker: &Broker) -> FutureProducer {
    let mut config: ClientConfig = client(broker);
    config.set("retries", "0").set("enable.idempotence", "false").create().expect("a producer")
}

fn assert_reads(broker: &Broker, topic: &str, expected: &[String]) {
    let consumer: BaseConsumer = client(broker).set("group.id", "unused").create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).expect("an offset");
    consumer.assign(&list).expect("assigned");
    for (offset, value) in expected.iter().enumerate() {
        let message = consumer.poll(WAIT).expect("a record before the time is up").expect("no error");
        assert_eq!(message.offset(), offset as i64);
        assert!(message.payload() == Some(value.as_bytes()), "the value at {offset}");
    }
}

#[test]
fn a_full_disk_refuses_records_serves_the_rest_and_heals() {
    for volume in Volume::all(96) {
        eprintln!("on {:?}", volume.kind);
        let mut broker = Broker::start_on(volume);
        create_topic(&broker, "kept", 1, &[]);
        create_topic(&broker, "other", 1, &[]);
        let producer = producer_without_retries(&broker);
        block_on(producer.send(FutureRecord::<(), str>::to("other").payload("before"), WAIT)).expect("delivered");

        broker.volume().fill(0);
        let (mut acknowledged, refused) = produce_until_refused(&producer, "kept", 0);
        assert_eq!(refused, KafkaError::MessageProduction(RDKafkaErrorCode::KafkaStorageError), "{refused}");
        // Reads, metadata and other connections go on.
        assert_reads(&broker, "kept", &acknowledged);
        assert_reads(&broker, "other", &["before".to_owned()]);
        let consumer: BaseConsumer = client(&broker).create().expect("a consumer");
        let (low, high) = consumer.fetch_watermarks("kept", 0, WAIT).expect("an answer");
        assert_eq!((low, high), (0, acknowledged.len() as i64), "nothing that was refused is readable");
        assert_eq!(broker.get("/healthz").0, 200);

        // On a disk without any room it does not start, and says so.
        broker.kill();
        broker.volume().make_room();
        broker.volume().fill(0);
        let output = broker.command("127.0.0.1:0").output().expect("the binary runs");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("no room") && message.contains("Free some space"), "{message}");
        // With little it does: how else would its owner delete records?
        broker.volume().make_room();
        broker.volume().fill(32 << 20);
        broker.restart();
        assert_reads(&broker, "kept", &acknowledged);

        // What waits for room is delivered when there is some.
        let patient: FutureProducer =
            client(&broker).set("message.timeout.ms", "120000").set("retry.backoff.ms", "50").create().expect("one");
        broker.volume().make_room();
        for _ in 0..20 {
            let value = format!("{} after", acknowledged.len());
            let record = FutureRecord::<(), str>::to("kept").partition(0).payload(&value);
            let delivery = block_on(patient.send(record, WAIT)).expect("delivered");
            assert_eq!(delivery.offset, acknowledged.len() as i64);
            acknowledged.push(value);
        }
        create(&mut Raw::new(broker.connect()), "new", 2);
        broker.kill();
        broker.restart();
        assert_reads(&broker, "kept", &acknowledged);
        assert_reads(&broker, "other", &["before".to_owned()]);
        assert!(broker.stop().success());
    }
}

/// A journal file is 64 MiB as a rule. Two shards on a disk with less room than two of those wrote zeros and removed them again,
/// twenty times a second, and refused records while most of the disk was free.
#[test]
fn most_of_a_small_disk_holds_records() {
    for volume in Volume::all(64) {
        eprintln!("on {:?}", volume.kind);
        let broker = Broker::start_on(volume);
        create_topic(&broker, "kept", 1, &[]);
        let (acknowledged, refused) = produce_until_refused(&producer_without_retries(&broker), "kept", 0);
        assert_eq!(refused, KafkaError::MessageProduction(RDKafkaErrorCode::KafkaStorageError), "{refused}");
        let bytes: usize = acknowledged.iter().map(String::len).sum();
        assert!(bytes > 28 << 20, "{bytes} bytes of records on a disk of 64 MiB");
        assert_reads(&broker, "kept", &acknowledged);
    }
}

/// Where segments had no room any more the journal still had some, until so much waited to be moved that every connection was held back: nobody
/// was answered, not even who wanted to delete something.
#[test]
fn on_a_full_disk_everything_is_answered_and_deleting_makes_room() {
    for volume in Volume::all(320) {
        eprintln!("on {:?}", volume.kind);
        let settings = "\"log.segment.bytes\" = 4194304\n";
        let mut broker = Broker::start_configured(settings, &["--shards", "1"], Some(volume));
        let mut raw = Raw::new(broker.connect());
        for topic in ["kept", "doomed", "other"] {
            create(&mut raw, topic, 1);
        }
        assert_eq!(produce(&mut raw, "other", good_batch()).0, 0);
        let large = large_batch();
        for _ in 0..40 {
            assert_eq!(produce(&mut raw, "doomed", large.clone()).0, 0);
        }
        let reserve = broker.data_dir().join("reserve");
        let is_reserved = || std::fs::metadata(&reserve).is_ok_and(|metadata| metadata.len() == 1 << 20);
        wait_until(is_reserved);

        let mut kept = fill_with_records(&mut raw, "kept", &large);
        assert_everything_is_answered(&broker);
        // A topic goes, and its room is had again.
        let doomed = DeleteTopicState::default().with_name(Some(name("doomed")));
        let request = DeleteTopicsRequest::default().with_topics(vec![doomed]).with_timeout_ms(30_000);
        let answer: DeleteTopicsResponse = raw.call(ApiKey::DeleteTopics, 6, &request);
        assert_eq!(answer.responses[0].error_code, 0, "{:?}", answer.responses[0].error_message);
        wait_until(|| produce(&mut raw, "kept", large.clone()).0 == 0);
        kept += 1 + fill_with_records(&mut raw, "kept", &large);
        assert_everything_is_answered(&broker);

        // Nothing whatever is left: what is kept for manifests is used. The first says where the log starts now, and others may have the room that
        // was made for it; the second lets the segments go, though the last one cannot be closed before there is room.
        broker.volume().fill(0);
        let first = kept / 2;
        assert_eq!(delete_records(&mut raw, "kept", first), (0, first));
        // ext4 may still have a block somewhere.
        let is_used = broker.logged().contains("are used to delete records");
        assert!(is_used || broker.volume().kind == Kind::Ext4, "the reserve is used, and that is said");
        wait_until(|| produce(&mut raw, "kept", large.clone()).0 == 0);
        kept += 1;
        broker.volume().make_room();
        wait_until(is_reserved);

        // What was acknowledged and not deleted is there, before and after a crash.
        for _ in 0..2 {
            let mut raw = Raw::new(broker.connect());
            let (code, bytes) = fetch_from(&mut raw, "kept", 0, first - 1);
            assert_eq!((code, bytes), (1, 0), "OFFSET_OUT_OF_RANGE");
            for offset in first..kept {
                let (code, bytes) = fetch_from(&mut raw, "kept", 0, offset);
                assert!(code == 0 && bytes >= large.len(), "{offset} of {first}..{kept}: {code}");
            }
            assert_eq!(fetch(&mut raw, "other"), (0, good_batch().len()));
            broker.kill();
            broker.restart();
        }
        assert!(broker.stop().success());
    }
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

fn large_batch() -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(Timestamp(now_ms()), None, Some(&vec![7; 900_000]), []);
    builder.build().0
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        std::thread::yield_now();
    }
}

/// Produces until nothing more is taken. How many batches were.
fn fill_with_records(raw: &mut Raw, topic: &str, batch: &Bytes) -> i64 {
    let (mut taken, mut refused) = (0, 0);
    while refused < 50 {
        let (code, message) = produce(raw, topic, batch.clone());
        assert!(matches!(code, 0 | 56), "{code} {message}");
        if code == 0 { taken += 1 } else { refused += 1 }
    }
    taken
}

/// The error code, and the new start of the log.
fn delete_records(raw: &mut Raw, topic: &str, before: i64) -> (i16, i64) {
    let partition = DeleteRecordsPartition::default().with_offset(before);
    let topic = DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    let answer: DeleteRecordsResponse = raw.call(ApiKey::DeleteRecords, 2, &request);
    let partition = &answer.topics[0].partitions[0];
    (partition.error_code, partition.low_watermark)
}

fn assert_everything_is_answered(broker: &Broker) {
    let mut raw = Raw::new(broker.connect());
    let answer: MetadataResponse = raw.call(ApiKey::Metadata, 12, &MetadataRequest::default().with_topics(None));
    assert!(answer.topics.iter().any(|topic| topic.name == Some(name("kept"))));
    assert_eq!(fetch(&mut raw, "other"), (0, good_batch().len()));
    let (code, bytes) = fetch(&mut raw, "kept");
    assert!(code == 0 && bytes > 0, "{code}");
    let partition = ListOffsetsPartition::default().with_timestamp(-1);
    let topic = ListOffsetsTopic::default().with_name(name("kept")).with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default().with_topics(vec![topic]);
    let answer: ListOffsetsResponse = raw.call(ApiKey::ListOffsets, 7, &request);
    assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    let resource = DescribeConfigsResource::default().with_resource_type(2).with_resource_name(name("kept").0);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let answer: DescribeConfigsResponse = raw.call(ApiKey::DescribeConfigs, 4, &request);
    assert_eq!(answer.results[0].error_code, 0);
    assert_serves(broker);
    assert_eq!(broker.get("/healthz").0, 200);
}

/// A flush that fails leaves the pages in doubt: nothing is retried over it, nothing more is acknowledged, and the process ends.
#[test]
fn a_broken_disk_ends_the_broker_with_the_reason() {
    let volume = match Volume::mount(Kind::Ext4, 96) {
        Ok(volume) => volume,
        Err(reason) => return unavailable(&format!("no ext4 can be mounted, to be broken: {reason}")),
    };
    let mut broker = Broker::start_on(volume);
    create_topic(&broker, "kept", 1, &[]);
    let producer = producer_without_retries(&broker);
    for number in 0..10 {
        let value = number.to_string();
        block_on(producer.send(FutureRecord::<(), str>::to("kept").payload(&value), WAIT)).expect("delivered");
    }
    broker.volume().break_disk();
    let record = FutureRecord::<(), str>::to("kept").payload("lost");
    let (error, _) = block_on(producer.send(record, WAIT)).expect_err("nothing is acknowledged on a broken disk");
    eprintln!("{error}");
    let status = broker.wait();
    assert_eq!(status.code(), Some(1), "{}", broker.logged());
    let logged = broker.logged();
    for part in ["Input/output error", "shard-", "nothing more is acknowledged", "dmesg"] {
        assert!(logged.contains(part), "{part} in {logged}");
    }
}
