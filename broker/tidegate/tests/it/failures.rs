//! Plugins that fail, and records that a router sends nowhere: what becomes of them, and that it is counted and said.

use std::{path::Path, process::Command};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    admin::AdminOptions,
    consumer::{BaseConsumer, Consumer as _},
    error::RDKafkaErrorCode,
    message::{Header, Headers as _, OwnedHeaders, OwnedMessage},
    producer::{FutureProducer, FutureRecord},
};
use serde_json::Value;
use tidegate_plugin_host::build::{Profile, Progress, build_component};

use crate::{
    broker::Broker,
    faults::{good_batch, mended, produce},
    librdkafka::{WAIT, admin, block_on, client, create_topic, read},
    raw::Raw,
    routed::deploy,
};

fn built(folder: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    let built = build_component(&folder, Profile::Release, Progress::Quiet).unwrap_or_else(|error| panic!("{error}"));
    built.path.to_str().expect("a path of text").to_owned()
}

/// A broker with the router that does what its configuration says, and topics that it may route to.
fn broker() -> Broker {
    // Long enough that only a loop meets it, however busy the machine is.
    let broker = Broker::start_configured("\"plugin.deadline.ms\" = 1000\n", &[], None);
    deploy(&broker, "hostile", &built("broker/plugin-host/tests/guests/router"));
    for topic in ["one", "two", "three", "letters", "rest"] {
        create_topic(&broker, topic, 1, &[]);
    }
    broker
}

fn routed(broker: &Broker, topic: &str, order: &str, more: &[(&str, &str)]) {
    let mut configs = vec![("tidegate.router", "hostile"), ("tidegate.router.config", order)];
    configs.extend_from_slice(more);
    create_topic(broker, topic, 1, &configs);
}

/// Sends records one after the other, each with a header; the first error, as librdkafka names it.
fn send(broker: &Broker, topic: &str, values: &[&str]) -> Result<(), RDKafkaErrorCode> {
    let producer: FutureProducer =
        client(broker).set("enable.idempotence", "true").set("linger.ms", "0").create().expect("a producer");
    for value in values {
        let headers = OwnedHeaders::new().insert(Header { key: "h", value: Some("1") });
        let record = FutureRecord::to(topic).key(*value).payload(*value).headers(headers);
        block_on(producer.send(record, WAIT)).map_err(|(error, _)| error.rdkafka_error_code().expect("a code"))?;
    }
    Ok(())
}

fn messages(broker: &Broker, topic: &str, count: usize) -> Vec<OwnedMessage> {
    let consumer: BaseConsumer = client(broker).set("group.id", "unused").create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).expect("an offset");
    consumer.assign(&list).expect("assigned");
    (0..count).map(|_| consumer.poll(WAIT).expect("a record in time").expect("no error").detach()).collect()
}

fn values(broker: &Broker, topic: &str, count: usize) -> Vec<String> {
    let found = messages(broker, topic, count);
    found.iter().map(|message| String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned()).collect()
}

fn end(broker: &Broker, topic: &str) -> i64 {
    let consumer: BaseConsumer = client(broker).create().expect("a consumer");
    consumer.fetch_watermarks(topic, 0, WAIT).expect("watermarks").1
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

/// The counts of a topic's attachment, once they are there: shards report every few seconds.
fn counts(broker: &Broker, topic: &str, is_done: impl Fn(&Value) -> bool) -> Value {
    loop {
        let (good, said) = tidegate(broker, &["plugin", "stats", "--topic", topic, "--json"]);
        assert!(good, "{said}");
        let mut found: Vec<Value> = serde_json::from_str(&said).expect("JSON");
        let counts = found.pop().expect("the topic has an attachment");
        if is_done(&counts) {
            return counts;
        }
        std::thread::yield_now();
    }
}

/// What each kind of failure is called in a dead letter. A loop is stopped by its deadline.
const FAILURES: [(&str, &str, &str); 8] = [
    ("panic", "PLUGIN_TRAPPED", "told to panic"),
    ("fault", "PLUGIN_TRAPPED", ""),
    ("stack", "PLUGIN_TRAPPED", ""),
    ("loop", "PLUGIN_DEADLINE_EXCEEDED", "too long"),
    ("four-gigabytes", "PLUGIN_MEMORY_EXCEEDED", "memory"),
    ("fail", "PLUGIN_FAILED", "I cannot"),
    ("too-few", "PLUGIN_ANSWER_INVALID", ""),
    ("unknown-topic", "PLUGIN_ANSWER_INVALID", ""),
];

/// It said that a record goes to a partition that does not exist, and where the plugin trapped or sent the record nowhere, not what
/// the topic's policy makes of that: the producer that was told to ask it met something else.
#[test]
fn what_is_tried_meets_the_policies_that_a_produce_meets() {
    let broker = broker();
    let check = |topic: &str, to: &[&str], words: &str| {
        let (good, said) = tidegate(&broker, &["plugin", "try", "--topic", topic, "--key", "3", "--json"]);
        assert!(good, "{topic}: {said}");
        let tried: Value = serde_json::from_str(&said).expect("JSON");
        let destinations = tried["destinations"].as_array().expect("a list").iter();
        let found: Vec<&str> = destinations.filter_map(|one| one["topic"].as_str()).collect();
        assert_eq!(found, to, "{topic}: {said}");
        assert!(said.contains(words), "{topic}: {said}");
        // As a produce does.
        let sent = send(&broker, topic, &["3"]);
        assert_eq!(sent.is_ok(), tried["rejected"].is_null(), "{topic}: {sent:?}, {said}");
    };
    let routed = |topic: &str, order: &str, more: &[(&str, &str)]| {
        let router = [("tidegate.router", "hostile"), ("tidegate.router.config", order)];
        create_topic(&broker, topic, 4, &[&router, more].concat());
    };
    let letters = [("tidegate.router.on.failure", "dead-letter"), ("tidegate.dead.letter.topic", "letters")];
    let bypass = [("tidegate.router.on.failure", "bypass")];
    let partition = "POLICY_VIOLATION: plugin 'hostile' routes to partition 3 of 'one', which has 1";
    routed("partition", "scatter", &[]);
    check("partition", &[], partition);
    routed("partition-bypass", "scatter", &bypass);
    check("partition-bypass", &["partition-bypass"], "routes to partition 3 of 'one', which has 1");
    routed("partition-letters", "scatter", &letters);
    check("partition-letters", &["letters"], "routes to partition 3 of 'one', which has 1");
    routed("trap", "panic", &[]);
    check("trap", &[], "POLICY_VIOLATION: plugin 'hostile'");
    routed("trap-bypass", "panic", &bypass);
    check("trap-bypass", &["trap-bypass"], "told to panic");
    routed("unknown", "unknown-topic", &letters);
    check("unknown", &["letters"], "\"on_failure\": \"dead-letter\"");
    routed("fails", "fail", &[]);
    check("fails", &[], "INVALID_RECORD: plugin 'hostile'");
    routed("nowhere", "every-second", &[]);
    check("nowhere", &[], "\"destinations\": []");
    routed("nowhere-reject", "every-second", &[("tidegate.router.unroutable", "reject")]);
    check("nowhere-reject", &[], "sends it nowhere (tidegate.router.unroutable=reject)");
    let alternate = [("tidegate.router.unroutable", "alternate"), ("tidegate.router.unroutable.topic", "rest")];
    routed("nowhere-else", "every-second", &alternate);
    check("nowhere-else", &["rest"], "");
    let (_, said) = tidegate(&broker, &["plugin", "try", "--topic", "trap-bypass", "--key", "3"]);
    assert!(said.contains("tidegate.router.on.failure is bypass\nto trap-bypass, the partition that"), "{said}");
}

#[test]
fn records_whose_router_fails_become_dead_letters_that_say_why() {
    let broker = broker();
    let policy = [("tidegate.router.on.failure", "dead-letter"), ("tidegate.dead.letter.topic", "letters")];
    let mut expected = 0;
    for (order, disposition, words) in FAILURES {
        routed(&broker, order, order, &policy);
        send(&broker, order, &["a", "b"]).expect("the producer sees nothing of it");
        expected += 2;
        let letters = messages(&broker, "letters", expected);
        for (letter, value) in letters[expected - 2..].iter().zip(["a", "b"]) {
            assert_eq!((letter.payload(), letter.key()), (Some(value.as_bytes()), Some(value.as_bytes())));
            let headers = letter.headers().expect("headers");
            let header = |name: &str| {
                let found = headers.iter().find(|header| header.key == name).expect("the header is there");
                String::from_utf8_lossy(found.value.unwrap_or_default()).into_owned()
            };
            assert_eq!(header("h"), "1", "what it had it keeps");
            assert_eq!(header("_dlq.errors.disposition"), disposition, "{order}");
            assert_eq!(header("_dlq.errors.original.topic"), order);
            assert_eq!(header("_dlq.errors.original.partition"), "0");
            assert_eq!(header("_dlq.errors.plugin"), "hostile");
            assert!(header("_dlq.errors.message").contains(words), "{order}: {}", header("_dlq.errors.message"));
        }
        assert_eq!(end(&broker, order), 0, "{order}: nothing is where it was sent");
    }
    let counts = counts(&broker, "panic", |counts| counts["dead_lettered"] == 2);
    assert_eq!((&counts["traps"], &counts["calls"], &counts["records"]), (&2.into(), &2.into(), &2.into()));
    assert!(counts["nanos"].as_u64().is_some_and(|nanos| nanos > 0), "{counts}");
    let (_, page) = broker.get("/metrics");
    let line = page.lines().find(|line| {
        line.starts_with("tidegate_plugin_records_dead_lettered_total{") && line.contains("topic=\"panic\"")
    });
    assert!(line.is_some_and(|line| line.ends_with(" 2")), "{line:?}");
    // And the plugin's last words with the engine's account are kept for who asks.
    let (good, said) = tidegate(&broker, &["plugin", "logs", "hostile"]);
    assert!(good && said.contains("error hostile v1 at panic: trapped, 1 times on this shard"), "{said}");
}

/// A producer could make a letter say where else it came from, and a letter that is sent on had two answers to each question.
#[test]
fn what_a_dead_letter_says_of_itself_its_producer_cannot_forge() {
    let broker = broker();
    let policy = [("tidegate.router.on.failure", "dead-letter"), ("tidegate.dead.letter.topic", "letters")];
    routed(&broker, "failing", "fail", &policy);
    routed(&broker, "working", "keep", &policy);
    let forged = ["disposition", "original.topic", "original.partition", "original.offset", "plugin", "message"];
    let names: Vec<String> = forged.iter().map(|name| format!("_dlq.errors.{name}")).collect();
    let producer: FutureProducer = client(&broker).create().expect("a producer");
    let send = |topic: &str| {
        let headers = names.iter().fold(OwnedHeaders::new(), |headers, key| {
            headers.insert(Header { key, value: Some("forged") }).insert(Header { key: "_dlq.own", value: Some("1") })
        });
        let record = FutureRecord::to(topic).key("k").payload("v").headers(headers);
        block_on(producer.send(record, WAIT)).expect("sent");
    };
    let found = |topic: &str| -> Vec<(String, String)> {
        let message = messages(&broker, topic, 1).remove(0);
        let text = |header: Header<'_, &[u8]>| {
            (header.key.to_owned(), String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned())
        };
        message.headers().expect("headers").iter().map(text).collect()
    };
    send("failing");
    let (own, said): (Vec<_>, Vec<_>) =
        found("letters").into_iter().partition(|(name, _)| !name.starts_with("_dlq.errors."));
    assert_eq!(own.len(), forged.len(), "other headers stay, all of them: {own:?}");
    let said: Vec<(&str, &str)> = said.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expected = [
        ("_dlq.errors.disposition", "PLUGIN_FAILED"),
        ("_dlq.errors.original.topic", "failing"),
        ("_dlq.errors.original.partition", "0"),
        ("_dlq.errors.plugin", "hostile"),
    ];
    assert_eq!(&said[..4], &expected, "each once, and nothing of an offset that nobody knows");
    assert!(said.len() == 5 && said[4].0 == "_dlq.errors.message" && said[4].1.contains("I cannot"), "{said:?}");
    // What is no letter is its producer's own.
    send("working");
    assert_eq!(found("working").iter().filter(|(_, value)| value == "forged").count(), forged.len());
}

/// A letter is as much the producer's batch as any routed part: what is sent again is recognised.
#[test]
fn dead_letters_are_written_once_over_kill_9() {
    let mut broker = broker();
    let policy = [("tidegate.router.on.failure", "dead-letter"), ("tidegate.dead.letter.topic", "letters")];
    routed(&broker, "source", "fail", &policy);
    let producer: FutureProducer = client(&broker)
        .set("enable.idempotence", "true")
        .set("batch.num.messages", "5")
        .set("linger.ms", "1")
        .set("retry.backoff.ms", "10")
        .create()
        .expect("a producer");
    let numbers: Vec<String> = (0..2_000).map(|number| number.to_string()).collect();
    let mut deliveries = Vec::new();
    for (at, number) in numbers.iter().enumerate() {
        deliveries.push(producer.send_result(FutureRecord::to("source").key(number).payload(number)).expect("queued"));
        if at % 500 == 499 {
            broker.kill();
            broker.restart();
        }
    }
    for delivery in deliveries {
        block_on(delivery).expect("not cancelled").expect("delivered");
    }
    assert_eq!(end(&broker, "letters"), numbers.len() as i64);
    assert_eq!(values(&broker, "letters", numbers.len()), numbers);
}

/// A destination's `max.message.bytes` was held against what clients send to it, and not against what a router or a failure brings there.
#[test]
fn what_is_brought_to_a_topic_is_no_larger_than_it_allows() {
    let broker = broker();
    let limit = |topic: &str, bytes: &str| {
        let (good, said) =
            tidegate(&broker, &["topic", "alter", topic, "--config", &format!("max.message.bytes={bytes}")]);
        assert!(good, "{said}");
    };
    routed(&broker, "source", "scatter", &[]);
    let letters = [("tidegate.router.on.failure", "dead-letter"), ("tidegate.dead.letter.topic", "letters")];
    routed(&broker, "lettered", "fail", &letters);
    limit("one", "300");
    limit("letters", "300");
    let producer: FutureProducer = client(&broker).set("enable.idempotence", "true").create().expect("a producer");
    let send = |topic: &str, key: &str, bytes: usize| {
        let value = "x".repeat(bytes);
        let sent = block_on(producer.send(FutureRecord::to(topic).key(key).payload(&value), WAIT));
        sent.map(drop).map_err(|(error, _)| error.rdkafka_error_code().expect("a code"))
    };
    // To one and two: neither gets it.
    assert_eq!(send("source", "1", 400), Err(RDKafkaErrorCode::MessageSizeTooLarge));
    assert_eq!((end(&broker, "one"), end(&broker, "two")), (0, 0));
    send("source", "2", 400).expect("two and three have room");
    send("source", "1", 100).expect("it fits");
    assert_eq!((end(&broker, "one"), end(&broker, "two"), end(&broker, "three")), (1, 2, 1));
    // The record would fit, and what is said of it does not.
    assert_eq!(send("lettered", "1", 150), Err(RDKafkaErrorCode::MessageSizeTooLarge));
    assert_eq!(end(&broker, "letters"), 0);
    limit("letters", "3000");
    send("lettered", "1", 150).expect("it fits");
    assert_eq!(end(&broker, "letters"), 1);
}

#[test]
fn a_failing_router_can_be_bypassed_and_by_default_refuses() {
    let broker = broker();
    routed(&broker, "open", "panic", &[("tidegate.router.on.failure", "bypass")]);
    send(&broker, "open", &["a", "b"]).expect("as if there were no router");
    assert_eq!(values(&broker, "open", 2), ["a", "b"]);
    assert_eq!(counts(&broker, "open", |counts| counts["bypassed"] == 2)["traps"], 2);

    routed(&broker, "closed", "panic", &[]);
    assert_eq!(send(&broker, "closed", &["a"]), Err(RDKafkaErrorCode::PolicyViolation));
    routed(&broker, "words", "fail", &[]);
    assert_eq!(send(&broker, "words", &["a"]), Err(RDKafkaErrorCode::InvalidRecord));
    assert_eq!((end(&broker, "closed"), end(&broker, "words")), (0, 0));
}

/// By its code, and with the way to the words: librdkafka has let go of those when it reports.
#[test]
fn the_command_line_says_why_records_were_refused() {
    let broker = broker();
    routed(&broker, "words", "fail", &[]);
    routed(&broker, "closed", "panic", &[]);
    let produce = |topic: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["produce", topic, "--bootstrap", &broker.kafka])
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("it runs");
        std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), b"a\nb\nc\n").expect("written");
        let output = child.wait_with_output().expect("it ends");
        assert!(!output.status.success());
        String::from_utf8(output.stderr).expect("text")
    };
    for (topic, code) in [("words", "InvalidRecord"), ("closed", "PolicyViolation")] {
        let said = produce(topic);
        for line in 1..=3 {
            let expected = format!("line {line}: {code} (Broker: ");
            assert!(said.contains(&expected), "{said}");
        }
        assert!(said.contains(&format!("; `tidegate plugin try --topic {topic}` says what")), "{said}");
    }
}

/// Counters, gauges and histograms of a plugin's own, whatever becomes of the call in which it counts.
#[test]
fn what_a_plugin_measures_is_on_the_metrics_page() {
    let broker = broker();
    routed(&broker, "measured", "measure", &[("tidegate.router.on.failure", "bypass")]);
    send(&broker, "measured", &["a"]).expect("bypassed");
    let page = loop {
        let (_, page) = broker.get("/metrics");
        if page.contains("tidegate_plugin_own_seen_total{") {
            break page;
        }
        std::thread::yield_now();
    };
    let value = |name: &str, label: &str| {
        let line = page.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(label));
        let line = line.unwrap_or_else(|| panic!("{name} with {label} is not on the page"));
        assert!(line.contains(r#"plugin="hostile",topic="measured",world="router",shard=""#), "{line}");
        line.rsplit(' ').next().expect("a value").to_owned()
    };
    assert_eq!(value("tidegate_plugin_own_seen_total", "\"}"), "5");
    assert_eq!(value("tidegate_plugin_own_seen_total", "a=\"b\""), "1");
    assert_eq!(value("tidegate_plugin_own_level", ""), "0.5");
    assert_eq!(value("tidegate_plugin_own_size_count", ""), "5");
    // 0, 3 and 4; 5 is in the next one.
    assert_eq!(value("tidegate_plugin_own_size_bucket", "le=\"4.0\""), "3");
}

#[test]
fn a_failing_partitioner_has_a_policy_too() {
    let broker = broker();
    deploy(&broker, "murmur2", &built("plugins/partitioner-murmur2"));
    // No answer fits into one byte: it fails with each batch.
    let failing = [("tidegate.partitioner", "murmur2"), ("tidegate.plugin.output.max.bytes", "1")];
    let with = |more: &[(&'static str, &'static str)]| [&failing[..], more].concat();
    create_topic(&broker, "closed", 3, &with(&[]));
    assert_eq!(send(&broker, "closed", &["a"]), Err(RDKafkaErrorCode::PolicyViolation));
    create_topic(&broker, "open", 1, &with(&[("tidegate.partitioner.on.failure", "bypass")]));
    send(&broker, "open", &["a"]).expect("where the client sent it");
    assert_eq!(values(&broker, "open", 1), ["a"]);
    let letters = [("tidegate.partitioner.on.failure", "dead-letter"), ("tidegate.dead.letter.topic", "letters")];
    create_topic(&broker, "lettered", 1, &with(&letters));
    send(&broker, "lettered", &["a"]).expect("a dead letter");
    assert_eq!(values(&broker, "letters", 1), ["a"]);
    assert_eq!(end(&broker, "lettered"), 0);
}

#[test]
fn records_that_a_router_sends_nowhere_are_dropped_refused_or_go_to_an_alternate_topic() {
    let broker = broker();
    // Every second record of a batch goes to `one`, the others nowhere.
    routed(&broker, "dropping", "every-second", &[]);
    routed(&broker, "refusing", "every-second", &[("tidegate.router.unroutable", "reject")]);
    let alternate = [("tidegate.router.unroutable", "alternate"), ("tidegate.router.unroutable.topic", "rest")];
    routed(&broker, "passing", "every-second", &alternate);
    let all = ["0", "1", "2", "3"];
    send_batch(&broker, "dropping", &all).expect("taken");
    assert_eq!(values(&broker, "one", 2), ["1", "3"]);
    assert_eq!(counts(&broker, "dropping", |counts| counts["records"] == 4)["dropped"], 2);
    assert_eq!(send_batch(&broker, "refusing", &all), Err(RDKafkaErrorCode::InvalidRecord));
    assert_eq!(end(&broker, "one"), 2, "nothing of a refused batch is written");
    send_batch(&broker, "passing", &all).expect("taken");
    assert_eq!(values(&broker, "rest", 2), ["0", "2"]);
    assert_eq!(values(&broker, "one", 4), ["1", "3", "1", "3"]);
    let counted = counts(&broker, "passing", |counts| counts["records"] == 4);
    assert_eq!((&counted["alternate"], &counted["routed"], &counted["dropped"]), (&2.into(), &2.into(), &0.into()));
}

/// All values in one batch.
fn send_batch(broker: &Broker, topic: &str, values: &[&str]) -> Result<(), RDKafkaErrorCode> {
    let producer: FutureProducer = client(broker).set("linger.ms", "1000").create().expect("a producer");
    let queue = |value: &&str| producer.send_result(FutureRecord::to(topic).key(*value).payload(*value)).ok();
    let queued: Vec<_> = values.iter().map(|value| queue(value).expect("queued")).collect();
    for delivery in queued {
        let delivered = block_on(delivery).expect("not cancelled");
        delivered.map_err(|(error, _)| error.rdkafka_error_code().expect("a code"))?;
    }
    Ok(())
}

#[test]
fn policies_and_limits_that_cannot_hold_are_refused_when_they_are_set() {
    let broker = broker();
    let alter = |config: &str| tidegate(&broker, &["topic", "alter", "one", "--config", config]);
    for (config, words) in [
        ("tidegate.router.on.failure=dead-letter", "needs a topic in tidegate.dead.letter.topic"),
        ("tidegate.dead.letter.topic=nowhere", "there is no such topic; create it first"),
        ("tidegate.dead.letter.topic=__consumer_offsets", "topic"),
        ("tidegate.router.on.failure=ignore", "reject, bypass, dead-letter"),
        ("tidegate.router.unroutable=alternate", "needs a topic in tidegate.router.unroutable.topic"),
        ("tidegate.plugin.deadline.ms=-2", "at least 1 or equal to -1"),
    ] {
        let (good, said) = alter(config);
        assert!(!good && said.contains(words), "{config}: {said}");
    }
    // Limits go downward only: looked at when a plugin is attached, since they say nothing without one.
    let attach = |limit: &str| {
        let configs = ["--config", "tidegate.router=hostile", "--config", "tidegate.router.config=keep", "--config"];
        tidegate(&broker, &[&["topic", "alter", "two"], &configs[..], &[limit]].concat())
    };
    for (limit, words) in [
        ("tidegate.plugin.deadline.ms=100000", "more than the broker's limit of"),
        ("tidegate.plugin.memory.max.bytes=99999999999", "(plugin.memory.max.bytes)"),
    ] {
        let (good, said) = attach(limit);
        assert!(!good && said.contains(words), "{limit}: {said}");
        assert!(!said.contains("refuses its configuration"), "it is not the plugin that refuses: {said}");
    }
    // Two pages: too few for it to open.
    let (good, said) = attach("tidegate.plugin.memory.max.bytes=131072");
    assert!(!good && said.contains("memory"), "{said}");
    let (good, said) = attach("tidegate.plugin.memory.max.bytes=8388608");
    assert!(good, "{said}");
    send(&broker, "two", &["a"]).expect("it fits");
    assert_eq!(read(&broker, "two", 1, 1)[&0].len(), 1);
}

/// It could be deleted, and was missed when the router failed next: by then its records had nowhere to go.
#[test]
fn a_topic_for_dead_letters_or_unroutable_records_stays_as_long_as_it_is_named() {
    let broker = broker();
    let letters = [("tidegate.router.on.failure", "dead-letter"), ("tidegate.dead.letter.topic", "letters")];
    routed(&broker, "failing", "fail", &letters);
    let alternate = [("tidegate.router.unroutable", "alternate"), ("tidegate.router.unroutable.topic", "rest")];
    routed(&broker, "dropping", "every-second", &alternate);
    let admin = admin(&broker);
    let delete = |topics: &[&str]| -> Vec<Result<String, (String, RDKafkaErrorCode)>> {
        block_on(admin.delete_topics(topics, &AdminOptions::new())).expect("an answer")
    };
    let disabled = |topic: &str| Err((topic.to_owned(), RDKafkaErrorCode::TopicDeletionDisabled));
    assert_eq!(delete(&["letters", "rest"]), [disabled("letters"), disabled("rest")]);
    // The command line has the words.
    let (good, said) = tidegate(&broker, &["topic", "delete", "rest"]);
    let words =
        "topic 'rest' is where records of topic 'dropping' go (tidegate.router.unroutable.topic); detach it first";
    assert!(!good && said.contains(words), "{said}");
    send(&broker, "failing", &["a"]).expect("a dead letter");
    assert_eq!(values(&broker, "letters", 1), ["a"]);
    // Without the configuration it goes, and so it does with the topic that names it.
    let unset = ["--config", "tidegate.router.unroutable=drop", "--unset", "tidegate.router.unroutable.topic"];
    let (good, said) = tidegate(&broker, &[&["topic", "alter", "dropping"], &unset[..]].concat());
    assert!(good, "{said}");
    let deleted = |topic: &str| Ok(topic.to_owned());
    assert_eq!(delete(&["rest"]), [deleted("rest")]);
    assert_eq!(delete(&["letters", "failing"]), [deleted("letters"), deleted("failing")]);
}

/// Its producer would wait for a transaction that no destination knows of.
#[test]
fn a_transactional_batch_is_refused_in_words_and_goes_nowhere() {
    let broker = broker();
    routed(&broker, "source", "every-second", &[]);
    let mut batch = good_batch();
    // Attributes: transactional. Producer id, epoch and base sequence: 1, 0, 0.
    batch[22] |= 0x10;
    batch[43..51].copy_from_slice(&1_i64.to_be_bytes());
    batch[51..57].copy_from_slice(&[0; 6]);
    let mut raw = Raw::new(broker.connect());
    let (code, message) = produce(&mut raw, "source", mended(batch));
    assert_eq!((code, message.as_str()), (48, "transactions are not implemented; produce without transactional.id"));
    for topic in ["source", "one", "two", "three"] {
        assert_eq!(end(&broker, topic), 0, "{topic}");
    }
}
