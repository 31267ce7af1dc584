//! librdkafka, in this process: what kcat, confluent-kafka-python and many others are made of.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    message::{Header, Headers as _, OwnedHeaders},
    producer::{BaseRecord, FutureProducer, FutureRecord, Producer as _, ThreadedProducer},
};

use crate::broker::Broker;

pub(crate) const WAIT: Duration = Duration::from_secs(60);

pub(crate) fn client(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &broker.kafka).set("client.id", "it");
    config
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

pub(crate) fn admin(broker: &Broker) -> AdminClient<DefaultClientContext> {
    client(broker).create().expect("an admin client")
}

pub(crate) fn create_topic(broker: &Broker, name: &str, partitions: i32, configs: &[(&str, &str)]) {
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for (key, value) in configs {
        topic = topic.set(key, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(WAIT));
    for result in block_on(admin(broker).create_topics([&topic], &options)).expect("the request goes through") {
        result.expect("the topic is created");
    }
}

/// An offset and a value.
pub(crate) type Found = (i64, Option<Vec<u8>>);

/// Reads partitions from the start until `count` records are there.
pub(crate) fn read(broker: &Broker, topic: &str, partitions: i32, count: usize) -> BTreeMap<i32, Vec<Found>> {
    let consumer: BaseConsumer =
        client(broker).set("group.id", "unused").set("enable.auto.commit", "false").create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&list).expect("assigned");
    let mut found: BTreeMap<i32, Vec<_>> = BTreeMap::new();
    for _ in 0..count {
        let message = consumer.poll(WAIT).expect("a record before the time is up").expect("no error");
        found.entry(message.partition()).or_default().push((message.offset(), message.payload().map(<[u8]>::to_vec)));
    }
    found
}

#[test]
fn records_come_back_with_everything_in_every_codec_and_acks() {
    let broker = Broker::start();
    create_topic(&broker, "codecs", 1, &[]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let mut sent = Vec::new();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        for (acks, idempotent) in [("all", "true"), ("all", "false"), ("1", "false")] {
            let producer: FutureProducer = client(&broker)
                .set("compression.codec", codec)
                .set("acks", acks)
                .set("enable.idempotence", idempotent)
                .set("linger.ms", "20")
                .create()
                .expect("a producer");
            let deliveries: Vec<_> = (0..50)
                .map(|n| {
                    let value = format!("{codec} {acks} {idempotent} {n} {}", "x".repeat(200));
                    let headers = OwnedHeaders::new().insert(Header { key: "h", value: Some("1") });
                    let record =
                        FutureRecord::to("codecs").key("k").payload(&value).timestamp(now + n).headers(headers);
                    let delivery = producer.send_result(record).expect("queued");
                    sent.push(value);
                    delivery
                })
                .collect();
            for delivery in deliveries {
                block_on(delivery).expect("not cancelled").expect("delivered");
            }
        }
    }
    let consumer: BaseConsumer = client(&broker).set("group.id", "unused").create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("codecs", 0, Offset::Beginning).expect("an offset");
    consumer.assign(&list).expect("assigned");
    for (offset, value) in sent.iter().enumerate() {
        let message = consumer.poll(WAIT).expect("a record before the time is up").expect("no error");
        assert_eq!(message.offset(), offset as i64);
        assert_eq!(message.key(), Some(b"k".as_slice()));
        assert_eq!(message.payload(), Some(value.as_bytes()));
        assert_eq!(message.timestamp().to_millis(), Some(now + offset as i64 % 50));
        assert_eq!(message.headers().expect("headers").get(0).value, Some(b"1".as_slice()));
    }
}

#[test]
fn acks_0_arrives_as_well() {
    let broker = Broker::start();
    create_topic(&broker, "fire", 1, &[]);
    let producer: ThreadedProducer<_> = client(&broker).set("acks", "0").create().expect("a producer");
    for n in 0..100 {
        producer
            .send(BaseRecord::<(), str>::to("fire").payload(&n.to_string()))
            .map_err(|(error, _)| error)
            .expect("queued");
    }
    producer.flush(WAIT).expect("flushed");
    assert_eq!(read(&broker, "fire", 1, 100)[&0].len(), 100);
}

#[test]
fn a_tombstone_and_an_empty_value_are_told_apart() {
    let broker = Broker::start();
    create_topic(&broker, "nulls", 1, &[("cleanup.policy", "compact")]);
    let producer: FutureProducer = client(&broker).create().expect("a producer");
    block_on(producer.send(FutureRecord::<str, str>::to("nulls").key("k"), WAIT)).expect("delivered");
    block_on(producer.send(FutureRecord::to("nulls").key("k").payload(""), WAIT)).expect("delivered");
    let found = read(&broker, "nulls", 1, 2);
    assert_eq!(found[&0], [(0, None), (1, Some(Vec::new()))]);
    let keyless = block_on(producer.send(FutureRecord::<(), str>::to("nulls").payload("x"), WAIT));
    assert!(keyless.is_err(), "a compacted topic refuses a record without a key");
}

#[test]
fn a_group_shares_partitions_and_goes_on_where_it_committed() {
    let mut broker = Broker::start();
    create_topic(&broker, "shared", 6, &[]);
    let producer: FutureProducer = client(&broker).create().expect("a producer");
    let produce = |from: i32, to: i32| {
        for n in from..to {
            let value = n.to_string();
            block_on(producer.send(FutureRecord::to("shared").key(&value).payload(&value), WAIT)).expect("delivered");
        }
    };
    for protocol in ["classic", "consumer"] {
        let group = |id: &str| -> BaseConsumer {
            let mut config = client(&broker);
            config.set("group.id", id).set("group.protocol", protocol).set("auto.offset.reset", "earliest");
            config.set("enable.auto.commit", "false");
            if protocol == "classic" {
                config.set("session.timeout.ms", "10000").set("heartbeat.interval.ms", "500");
            }
            config.create().expect("a consumer")
        };
        let id = format!("group-{protocol}");
        let members = [group(&id), group(&id)];
        for member in &members {
            member.subscribe(&["shared"]).expect("subscribed");
        }
        produce(0, 60);
        let total = if protocol == "classic" { 60 } else { 60 + 80 };
        let mut seen = 0;
        let mut by_member = [0, 0];
        while seen < total || by_member.contains(&0) {
            for (index, member) in members.iter().enumerate() {
                if let Some(message) = member.poll(Duration::from_millis(100)) {
                    message.expect("no error");
                    seen += 1;
                    by_member[index] += 1;
                }
            }
            if seen >= total && by_member.contains(&0) {
                // One member had read everything before the other joined: more records for both.
                produce(0, 20);
                break;
            }
        }
        for member in &members {
            // A member without partitions or records has nothing to commit.
            let _ = member.commit_consumer_state(CommitMode::Sync);
        }
        drop(members);
        broker_restarts_and_keeps_the_offsets(&mut broker, &id);
        if protocol == "classic" {
            produce(60, 80);
        }
    }

    fn broker_restarts_and_keeps_the_offsets(broker: &mut Broker, id: &str) {
        let committed = |broker: &Broker| {
            let consumer: BaseConsumer = client(broker).set("group.id", id).create().expect("a consumer");
            let mut list = TopicPartitionList::new();
            for partition in 0..6 {
                list.add_partition("shared", partition);
            }
            let offsets = consumer.committed_offsets(list, WAIT).expect("the committed offsets");
            offsets.elements().iter().map(|element| element.offset().to_raw()).collect::<Vec<_>>()
        };
        let before = committed(broker);
        broker.kill();
        broker.restart();
        assert_eq!(committed(broker), before);
    }
}

#[test]
fn offsets_are_found_by_time() {
    let broker = Broker::start();
    // Records of 1970 are past every retention time.
    create_topic(&broker, "times", 1, &[("retention.ms", "-1")]);
    let producer: FutureProducer = client(&broker).set("linger.ms", "5").create().expect("a producer");
    for n in 0..100_i64 {
        let value = n.to_string();
        let record = FutureRecord::<(), str>::to("times").payload(&value).timestamp(1_000_000 + n * 10);
        block_on(producer.send(record, WAIT)).expect("delivered");
    }
    let consumer: BaseConsumer = client(&broker).set("group.id", "unused").create().expect("a consumer");
    let at = |timestamp: i64| {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("times", 0, Offset::Offset(timestamp)).expect("an offset");
        consumer.offsets_for_times(list, WAIT).expect("an answer").elements()[0].offset()
    };
    assert_eq!(at(0), Offset::Offset(0));
    assert_eq!(at(1_000_000 + 495), Offset::Offset(50));
    assert_eq!(at(1_000_000 + 500), Offset::Offset(50));
    assert_eq!(at(2_000_000), Offset::End);
    assert_eq!(consumer.fetch_watermarks("times", 0, WAIT).expect("an answer"), (0, 100));
}

#[test]
fn topics_are_administered() {
    let broker = Broker::start();
    let admin = admin(&broker);
    let options = AdminOptions::new().operation_timeout(Some(WAIT));
    create_topic(&broker, "managed", 2, &[("retention.ms", "3600000")]);

    let wrong = NewTopic::new("wrong", 1, TopicReplication::Fixed(1)).set("retention.ms", "never");
    let refused = block_on(admin.create_topics([&wrong], &options)).expect("the request goes through");
    assert!(refused[0].is_err(), "a bad value is refused");
    let many = NewTopic::new("many", 1, TopicReplication::Fixed(3));
    assert!(
        block_on(admin.create_topics([&many], &options)).expect("an answer")[0].is_err(),
        "three replicas on one broker"
    );

    let more = NewPartitions::new("managed", 5);
    block_on(admin.create_partitions([&more], &options)).expect("an answer")[0].as_ref().expect("more partitions");
    let alter = AlterConfig::new(ResourceSpecifier::Topic("managed")).set("cleanup.policy", "compact,delete");
    block_on(admin.alter_configs([&alter], &options)).expect("an answer")[0].as_ref().expect("altered");
    let described =
        block_on(admin.describe_configs([&ResourceSpecifier::Topic("managed")], &options)).expect("an answer");
    let described = described[0].as_ref().expect("described");
    let value = |name: &str| described.get(name).and_then(|entry| entry.value.clone());
    assert_eq!(value("cleanup.policy").as_deref(), Some("compact,delete"));
    // AlterConfigs replaces everything that was set.
    assert_eq!(value("retention.ms").as_deref(), Some("604800000"));

    let consumer: BaseConsumer = client(&broker).create().expect("a consumer");
    let partitions = consumer.fetch_metadata(Some("managed"), WAIT).expect("metadata").topics()[0].partitions().len();
    assert_eq!(partitions, 5);
    block_on(admin.delete_topics(&["managed"], &options)).expect("an answer")[0].as_ref().expect("deleted");
    // Metadata of one name would create it again.
    let all = consumer.fetch_metadata(None, WAIT).expect("metadata");
    assert!(all.topics().iter().all(|topic| topic.name() != "managed"));
}

#[test]
fn a_topic_is_created_when_it_is_written_to() {
    let broker = Broker::start();
    let producer: FutureProducer = client(&broker).create().expect("a producer");
    block_on(producer.send(FutureRecord::<(), str>::to("made-up").payload("x"), WAIT)).expect("delivered");
    assert_eq!(read(&broker, "made-up", 1, 1)[&0].len(), 1);
}

#[test]
fn append_time_is_the_brokers_clock() {
    let broker = Broker::start();
    create_topic(&broker, "stamped", 1, &[("message.timestamp.type", "LogAppendTime")]);
    let before = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let producer: FutureProducer = client(&broker).create().expect("a producer");
    block_on(producer.send(FutureRecord::<(), str>::to("stamped").payload("x").timestamp(5), WAIT)).expect("delivered");
    let consumer: BaseConsumer = client(&broker).set("group.id", "unused").create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("stamped", 0, Offset::Beginning).expect("an offset");
    consumer.assign(&list).expect("assigned");
    let message = consumer.poll(WAIT).expect("a record").expect("no error");
    assert!(message.timestamp().to_millis().expect("a timestamp") >= before);
}
