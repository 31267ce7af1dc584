//! Acknowledgement hooks in a running broker: what they say of a batch is what its producer gets.

use std::{path::Path, process::Command};

use kafka_protocol::{
    messages::{
        ApiKey, ProduceRequest, ProduceResponse, TopicName,
        produce_request::{PartitionProduceData, TopicProduceData},
        produce_response::PartitionProduceResponse,
    },
    protocol::StrBytes,
};
use rdkafka::{
    consumer::{BaseConsumer, Consumer as _},
    error::RDKafkaErrorCode,
    producer::{FutureProducer, FutureRecord},
};
use tidegate_plugin_host::build::{Profile, Progress, build_component};
use tidegate_records::{batch::Compression, build::BatchBuilder, time::Timestamp};

use crate::{
    broker::Broker,
    faults::now_ms,
    librdkafka::{WAIT, block_on, client, create_topic, read},
    raw::Raw,
    routed::deploy,
};

fn built(folder: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    let built = build_component(&folder, Profile::Release, Progress::Quiet).unwrap_or_else(|error| panic!("{error}"));
    built.path.to_str().expect("a path of text").to_owned()
}

/// A broker with the hook that answers what its configuration says.
fn broker() -> Broker {
    let broker = Broker::start_configured("\"plugin.deadline.ms\" = 1000\n\"broker.rack\" = \"r1\"\n", &[], None);
    deploy(&broker, "hook", &built("broker/plugin-host/tests/guests/ack"));
    broker
}

fn hooked(broker: &Broker, topic: &str, order: &str, more: &[(&str, &str)]) {
    let mut configs = vec![("tidegate.ack", "hook"), ("tidegate.ack.config", order)];
    configs.extend_from_slice(more);
    create_topic(broker, topic, 1, &configs);
}

fn tidegate(broker: &Broker, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .env("TIDEGATE_BOOTSTRAP", &broker.kafka)
        .env("TIDEGATE_ADMIN", &broker.admin)
        .output()
        .expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Another order for the hook of a topic.
fn reorder(broker: &Broker, topic: &str, order: &str) {
    let config = format!("tidegate.ack.config={order}");
    let (good, said) = tidegate(broker, &["topic", "alter", topic, "--config", &config]);
    assert!(good, "{said}");
}

/// Sends one batch as it is, and gives the answer for its partition.
fn produce(broker: &Broker, topic: &str, acks: i16, values: &[&str]) -> PartitionProduceResponse {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder.push(Timestamp(now_ms()), None, Some(value.as_bytes()), []);
    }
    let data = PartitionProduceData::default().with_index(0).with_records(Some(builder.build().0));
    let topic = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partition_data(vec![data]);
    let request = ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![topic]);
    let mut answer: ProduceResponse = Raw::new(broker.connect()).call(ApiKey::Produce, 9, &request);
    answer.responses.remove(0).partition_responses.remove(0)
}

fn end(broker: &Broker, topic: &str) -> i64 {
    let consumer: BaseConsumer = client(broker).create().expect("a consumer");
    consumer.fetch_watermarks(topic, 0, WAIT).expect("watermarks").1
}

fn values(broker: &Broker, topic: &str, count: usize) -> Vec<String> {
    let found = read(broker, topic, 1, count).remove(&0).unwrap_or_default();
    found.into_iter().map(|(_, value)| String::from_utf8(value.unwrap_or_default()).expect("text")).collect()
}

#[test]
fn batches_that_a_hook_takes_are_acknowledged_and_kept() {
    let mut broker = broker();
    let orders = ["as-asked", "leader-durable", "min-in-sync", "all-in-sync", "until-one", "until-here", "appended"];
    for order in orders {
        hooked(&broker, order, order, &[]);
        for (acks, value) in [(-1, "all"), (1, "leader")] {
            let answer = produce(&broker, order, acks, &[value]);
            assert_eq!((answer.error_code, answer.error_message), (0, None), "{order}");
        }
    }
    hooked(&broker, "weakened", "appended", &[("tidegate.ack.weaken", "true")]);
    assert_eq!(produce(&broker, "weakened", -1, &["early"]).error_code, 0);
    assert_eq!(values(&broker, "weakened", 1), ["early"]);
    // Also what `appended` was said of: the topic does not let the hook weaken what its producers asked for.
    broker.kill();
    broker.restart();
    for order in orders {
        assert_eq!(values(&broker, order, 2), ["all", "leader"], "{order}");
    }
}

#[test]
fn a_refusal_has_the_code_and_the_words_of_the_hook() {
    let broker = broker();
    for (reason, code) in [
        ("invalid-record", 87),
        ("policy-violation", 44),
        ("topic-authorization-failed", 29),
        ("message-too-large", 10),
        // REQUEST_TIMED_OUT: what every client sends again.
        ("throttled", 7),
        ("not-enough-replicas", 19),
    ] {
        hooked(&broker, reason, &format!("refuse:{reason}"), &[]);
        let answer = produce(&broker, reason, -1, &["a"]);
        let words = answer.error_message.map(|words| words.to_string());
        assert_eq!((answer.error_code, words.as_deref()), (code, Some("plugin 'hook' refuses the batch: I say no")));
        assert_eq!(end(&broker, reason), 0);
    }
}

#[test]
fn records_that_a_hook_rejects_are_named_and_their_batch_is_refused() {
    let broker = broker();
    hooked(&broker, "odd", "reject:odd", &[]);
    let answer = produce(&broker, "odd", -1, &["0", "1", "2", "3"]);
    let named: Vec<(i32, &str)> = answer
        .record_errors
        .iter()
        .map(|error| (error.batch_index, error.batch_index_error_message.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!((answer.error_code, named), (87, vec![(1, "not number 1"), (3, "not number 3")]));
    assert_eq!(produce(&broker, "odd", -1, &["0", "2"]).error_code, 0);
    assert_eq!(values(&broker, "odd", 2), ["0", "2"]);
}

/// What a topic demands holds for records that a router brings as well; they are named by where they are in the producer's batch.
#[test]
fn hooks_of_destinations_are_asked_about_what_is_routed_there() {
    let broker = broker();
    deploy(&broker, "router", &built("broker/plugin-host/tests/guests/router"));
    hooked(&broker, "one", "reject:odd", &[]);
    ["two", "three"].into_iter().for_each(|topic| create_topic(&broker, topic, 1, &[]));
    let router = [("tidegate.router", "router"), ("tidegate.router.config", "every-second")];
    create_topic(&broker, "source", 1, &router);
    // The second and the fourth go on.
    let answer = produce(&broker, "source", -1, &["1", "0", "1", "1"]);
    let named: Vec<i32> = answer.record_errors.iter().map(|error| error.batch_index).collect();
    assert_eq!((answer.error_code, named), (87, vec![3]));
    assert_eq!(produce(&broker, "source", -1, &["1", "0", "1", "2"]).error_code, 0);
    assert_eq!(values(&broker, "one", 2), ["0", "2"]);
}

#[test]
fn a_hook_that_waits_for_what_the_cluster_cannot_give_is_not_attached() {
    let broker = broker();
    create_topic(&broker, "plain", 1, &[]);
    deploy(&broker, "racks", &built("plugins/ack-racks"));
    let refused = |plugin: &str, config: &str, words: &str| {
        let (plugin, config) = (format!("tidegate.ack={plugin}"), format!("tidegate.ack.config={config}"));
        let (good, said) = tidegate(&broker, &["topic", "alter", "plain", "--config", &plugin, "--config", &config]);
        assert!(!good && said.contains(words), "{said}");
    };
    let fewer = "it may wait for 2 copies, and there is 1 broker: add brokers, or ask for fewer copies";
    refused("hook", "until-two", fewer);
    refused("hook", "two-racks", "it may wait for copies in 2 racks, and there is 1 broker in 1 rack");
    refused("hook", "broker-seven", "it may wait for a copy on broker 7, and there is none of that id");
    refused("hook", "strongest:panic", "told to panic");
    refused("racks", r#"{ "racks": 2 }"#, fewer);
    let one = [("tidegate.ack", "racks"), ("tidegate.ack.config", r#"{ "racks": 1 }"#)];
    create_topic(&broker, "one-rack", 1, &one);
    assert_eq!(produce(&broker, "one-rack", -1, &["a"]).error_code, 0);
    // It is no router, and what is attached stays.
    let (good, said) = tidegate(&broker, &["topic", "alter", "plain", "--config", "tidegate.router=hook"]);
    assert!(!good && said.contains("plugin 'hook' is of the world ack, not router"), "{said}");
    let (good, said) = tidegate(&broker, &["plugin", "remove", "racks"]);
    assert!(!good && said.contains("is attached to topic 'one-rack'"), "{said}");
}

/// A stock producer sends again until the hook lets it through, and nothing is lost or doubled on the way.
#[test]
fn a_throttled_producer_gets_through_in_the_end() {
    let broker = broker();
    hooked(&broker, "throttled", "refuse:throttled", &[]);
    let producer: FutureProducer = client(&broker)
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .set("retry.backoff.ms", "10")
        .set("message.timeout.ms", "120000")
        .create()
        .expect("a producer");
    let numbers: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    let deliveries: Vec<_> = numbers
        .iter()
        .map(|number| producer.send_result(FutureRecord::to("throttled").key("").payload(number)).expect("queued"))
        .collect();
    // It has been refused at least once.
    while !broker
        .get("/metrics")
        .1
        .lines()
        .any(|line| line.starts_with("tidegate_plugin_records_rejected_total{") && !line.ends_with(" 0"))
    {
        std::thread::yield_now();
    }
    reorder(&broker, "throttled", "as-asked");
    for delivery in deliveries {
        block_on(delivery).expect("not cancelled").expect("delivered");
    }
    assert_eq!(values(&broker, "throttled", 50), numbers);
    assert_eq!(end(&broker, "throttled"), 50);
}

#[test]
fn a_hook_that_fails_has_a_policy() {
    let broker = broker();
    create_topic(&broker, "letters", 1, &[]);
    for order in ["panic", "loop", "fail", "too-few", "reject-beyond", "unannounced"] {
        hooked(&broker, &format!("closed-{order}"), order, &[]);
        assert_ne!(produce(&broker, &format!("closed-{order}"), -1, &["a"]).error_code, 0, "{order}");
        assert_eq!(end(&broker, &format!("closed-{order}")), 0);
        hooked(&broker, &format!("open-{order}"), order, &[("tidegate.ack.on.failure", "bypass")]);
        assert_eq!(produce(&broker, &format!("open-{order}"), -1, &["a"]).error_code, 0, "{order}");
        assert_eq!(values(&broker, &format!("open-{order}"), 1), ["a"]);
    }
    // A producer whose batches became letters goes on in the topic where it left off.
    let policy = [("tidegate.ack.on.failure", "dead-letter"), ("tidegate.dead.letter.topic", "letters")];
    hooked(&broker, "sometimes", "as-asked", &policy);
    let producer: FutureProducer =
        client(&broker).set("enable.idempotence", "true").set("linger.ms", "0").create().expect("a producer");
    let send = |value: &str| {
        let sent = producer.send(FutureRecord::to("sometimes").key("").payload(value), WAIT);
        block_on(sent).map_err(|(error, _)| error).expect("the producer sees nothing of it");
    };
    send("1");
    reorder(&broker, "sometimes", "panic");
    send("2");
    send("3");
    reorder(&broker, "sometimes", "as-asked");
    send("4");
    assert_eq!(values(&broker, "sometimes", 2), ["1", "4"]);
    assert_eq!(values(&broker, "letters", 2), ["2", "3"]);
}

#[test]
fn the_hooks_that_ship_refuse_in_their_own_words() {
    let broker = broker();
    deploy(&broker, "schema", &built("plugins/ack-schema"));
    deploy(&broker, "policy", &built("plugins/ack-policy"));
    let schema = r#"{ "schema": { "type": "object", "properties": { "total": { "type": "number" } } } }"#;
    create_topic(&broker, "orders", 1, &[("tidegate.ack", "schema"), ("tidegate.ack.config", schema)]);
    let answer = produce(&broker, "orders", -1, &[r#"{ "total": 1 }"#, r#"{ "total": "1" }"#]);
    assert_eq!((answer.error_code, answer.record_errors.len()), (87, 1));
    let words = answer.record_errors[0].batch_index_error_message.as_deref().unwrap_or_default();
    assert_eq!(words, "at '/total': want number, but got string");

    let policy = r#"{ "key": "required", "headers": [ { "name": "owner" } ] }"#;
    create_topic(&broker, "owned", 1, &[("tidegate.ack", "policy"), ("tidegate.ack.config", policy)]);
    let producer: FutureProducer = client(&broker).create().expect("a producer");
    let (error, _) =
        block_on(producer.send(FutureRecord::<str, str>::to("owned").payload("a"), WAIT)).expect_err("no key");
    assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::InvalidRecord));

    let (good, said) = tidegate(&broker, &["plugin", "try", "--topic", "owned", "--key", "k"]);
    assert!(good && said.contains("ack policy answers in "), "{said}");
    assert!(said.contains("rejected: the header 'owner' is missing"), "{said}");
    let (good, said) = tidegate(&broker, &["plugin", "try", "--topic", "owned", "--key", "k", "--header", "owner=me"]);
    assert!(good && said.contains("to owned, the partition that the producer chooses"), "{said}");
}
