//! A wall clock that jumps by days in both directions under a running broker: nothing is lost, doubled or reordered, nobody is
//! thrown out of a group, and only what retention promises by time goes by time.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rdkafka::{
    ClientContext, Message as _, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance},
    producer::{FutureProducer, FutureRecord},
};

use crate::{
    broker::Broker,
    librdkafka::{WAIT, block_on, client, create_topic, read},
    retention::until,
};

const DAY_SECONDS: i64 = 24 * 3600;

/// The library that shifts the clock, built by the machine's C compiler.
fn shifting_library(directory: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/jumping_clock.c");
    let library = directory.join("jumping_clock.so");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(compiler).args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    assert!(status.expect("a C compiler is there").success(), "the library is built");
    library
}

/// Counts how often partitions were given to it.
#[derive(Default)]
struct Assignments(std::sync::atomic::AtomicUsize);

impl ClientContext for Assignments {}

impl ConsumerContext for Assignments {
    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(_) = rebalance {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }
}

#[test]
fn a_clock_that_jumps_by_days_loses_nothing_and_expires_nobody() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let shift = directory.path().join("shift");
    // Written in place, never replaced: the broker has it mapped.
    let jump = |days: i64| {
        let file = fs::File::options().create(true).truncate(false).write(true).open(&shift).expect("the shift");
        std::os::unix::fs::FileExt::write_all_at(&file, &(days * DAY_SECONDS).to_ne_bytes(), 0).expect("written");
    };
    jump(0);
    let mut broker =
        Broker::start_preloaded(&shifting_library(directory.path()), &[("CLOCK_SHIFT_FILE", shift.as_path())]);
    // To a broker whose clock went back, records of today are of the future: by default it takes an hour of that.
    let after_max = ("message.timestamp.after.max.ms", "9223372036854775807");
    create_topic(&broker, "kept", 1, &[("retention.ms", "-1"), after_max]);
    create_topic(&broker, "stamped", 1, &[("retention.ms", "-1"), ("message.timestamp.type", "LogAppendTime")]);
    create_topic(&broker, "due", 1, &[]);

    let producer: FutureProducer =
        client(&broker).set("enable.idempotence", "true").set("linger.ms", "0").create().expect("a producer");
    let mut sent = 0;
    let mut produce = |count: usize| {
        for _ in 0..count {
            let value = sent.to_string();
            for topic in ["kept", "stamped"] {
                let record = FutureRecord::<(), _>::to(topic).payload(&value);
                block_on(producer.send(record, WAIT)).expect("delivered");
            }
            sent += 1;
        }
        sent
    };
    let consumer: BaseConsumer<Assignments> = client(&broker)
        .set("group.id", "steady")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("session.timeout.ms", "6000")
        .create_with_context(Assignments::default())
        .expect("a consumer");
    consumer.subscribe(&["kept"]).expect("subscribed");
    let mut received = Vec::new();
    let mut receive_to = |count: usize| {
        while received.len() < count {
            // A rebalance that is served ends a poll too, and a broker that is away for a moment is reported as an error.
            let message = (0..10).find_map(|_| consumer.poll(WAIT)?.ok()).expect("a record before the time is up");
            received.push(String::from_utf8(message.payload().expect("a value").to_vec()).expect("a number"));
        }
        // Who is not a member any more may not commit.
        consumer.commit_consumer_state(CommitMode::Sync).expect("a member commits");
        assert!(received.iter().enumerate().all(|(at, value)| *value == at.to_string()), "{received:?}");
    };
    receive_to(produce(20));
    block_on(producer.send(FutureRecord::<(), _>::to("due").payload("old"), WAIT)).expect("delivered");

    // Ten days on: what is older than a week goes, which tells that the broker has seen the jump.
    jump(10);
    let low = || consumer.fetch_watermarks("due", 0, WAIT).expect("watermarks").0;
    // Nothing tells a client that the start of a log has moved: it is asked for.
    until(low, |start| *start > 0);
    receive_to(produce(20));
    // Twenty days back.
    jump(-10);
    receive_to(produce(20));
    jump(0);
    receive_to(produce(20));
    assert_eq!(consumer.context().0.load(std::sync::atomic::Ordering::SeqCst), 1, "it was never thrown out");

    // And what was written under three clocks is recovered under a fourth.
    broker.kill();
    jump(-400);
    broker.restart();
    let all = produce(20);
    receive_to(all);
    for topic in ["kept", "stamped"] {
        let found = &read(&broker, topic, 1, all)[&0];
        let expected: Vec<_> = (0..all).map(|n| (n as i64, Some(n.to_string().into_bytes()))).collect();
        assert_eq!(*found, expected, "{topic}");
    }
    let mut list = TopicPartitionList::new();
    list.add_partition("kept", 0);
    let committed = consumer.committed_offsets(list, WAIT).expect("offsets").elements()[0].offset();
    assert_eq!(committed, rdkafka::Offset::Offset(all as i64));
    assert!(broker.stop().success());
    let verify = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["log", "verify"])
        .arg(broker.data_dir())
        .output()
        .expect("the binary runs");
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));
}
