//! Plugins that do harm again and again, and very many of them: what they leave behind.

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};

use crate::{
    authors::component,
    broker::Broker,
    faults::{good_batch, produce},
    librdkafka::{WAIT, block_on, client, create_topic},
    raw::Raw,
    routed::{PLUGINS, deploy},
};

/// Of the broker's process.
fn resident_bytes(broker: &Broker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// Each trap costs an instance, and each batch meets a new one.
#[test]
fn ten_thousand_traps_are_answered_and_leave_nothing_behind() {
    const ROUNDS: usize = 2_500;
    let broker = Broker::start_configured("\"plugin.deadline.ms\" = 1000\n", &[], None);
    deploy(&broker, "hostile", &PLUGINS[0]);
    create_topic(&broker, "plain", 1, &[]);
    let orders = ["panic", "stack", "fault", "answer-bomb"];
    for order in orders {
        create_topic(&broker, order, 1, &[("tidegate.router", "hostile"), ("tidegate.router.config", order)]);
    }
    let (mut hostile, mut other) = (Raw::new(broker.connect()), Raw::new(broker.connect()));
    let mut begun_with = 0;
    for round in 0..ROUNDS {
        for order in orders {
            let (code, message) = produce(&mut hostile, order, good_batch());
            assert_eq!(code, 44, "POLICY_VIOLATION: {message}");
            assert!(message.contains("'hostile'"), "{message}");
        }
        if round % 100 == 0 {
            assert_eq!(produce(&mut other, "plain", good_batch()), (0, String::new()));
        }
        // What is kept for reuse is there by then.
        if round == ROUNDS / 5 {
            begun_with = resident_bytes(&broker);
        }
    }
    let grown = resident_bytes(&broker).saturating_sub(begun_with);
    assert!(grown < 48 << 20, "{grown} bytes more than after the first {}", ROUNDS / 5 * orders.len());
}

/// What is no plugin is refused in words, however often it comes.
#[test]
fn uploads_of_nonsense_leave_nothing_behind() {
    let broker = Broker::start();
    let put = |body: &[u8]| broker.put("/v1/plugins/nonsense", body);
    let module = b"\0asm\x01\0\0\0";
    let large = vec![0; 100 << 20];
    let mut begun_with = 0;
    for round in 0..500 {
        let garbage: Vec<u8> = (0..10_000_u32).map(|at| (at.wrapping_mul(31) ^ round) as u8).collect();
        for body in [garbage.as_slice(), module] {
            let (status, said) = put(body);
            assert_eq!(status, 422, "{said}");
        }
        if round % 100 == 0 {
            let (status, said) = put(&large);
            assert!(status == 413 && said.contains("plugin.upload.max.bytes"), "{status} {said}");
        }
        // What is kept for reuse is there by then.
        if round == 200 {
            begun_with = resident_bytes(&broker);
        }
    }
    let grown = resident_bytes(&broker).saturating_sub(begun_with);
    assert!(grown < 48 << 20, "{grown} bytes more");
    let plugins = std::fs::read_dir(broker.data_dir().join("plugins")).map_or(0, Iterator::count);
    assert_eq!(plugins, 0, "nothing is left on the disk");
}

/// An attachment costs little more than what it touches, and a start with a thousand of them compiles nothing.
#[test]
fn a_thousand_attachments_fit_into_one_broker() {
    const TOPICS: usize = 1_000;
    let mut broker = Broker::start();
    let direct = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/router-direct");
    deploy(&broker, "direct", &component(&direct));
    create_topic(&broker, "there", 1, &[]);
    let before = resident_bytes(&broker);
    let names: Vec<String> = (0..TOPICS).map(|number| format!("attached-{number}")).collect();
    let config = r#"{"bindings":[{"key":"key","topic":"there"}],"unmatched":"reject"}"#;
    let admin: AdminClient<DefaultClientContext> = client(&broker).create().expect("an admin client");
    for names in names.chunks(100) {
        let topic = |name| {
            NewTopic::new(name, 1, TopicReplication::Fixed(1))
                .set("tidegate.router", "direct")
                .set("tidegate.router.config", config)
        };
        let topics: Vec<NewTopic<'_>> = names.iter().map(|name| topic(name.as_str())).collect();
        let options = AdminOptions::new().operation_timeout(Some(WAIT));
        for created in block_on(admin.create_topics(&topics, &options)).expect("the request goes through") {
            created.expect("the topic is created");
        }
    }
    let send = |broker: &Broker| {
        let mut raw = Raw::new(broker.connect());
        for name in &names {
            assert_eq!(produce(&mut raw, name, good_batch()), (0, String::new()), "{name}");
        }
    };
    send(&broker);
    let each = (resident_bytes(&broker).saturating_sub(before)) / TOPICS as u64;
    assert!(each < 512 << 10, "{each} bytes for each attachment");
    broker.kill();
    broker.restart();
    send(&broker);
    let counted = broker.get("/v1/attachments").1;
    assert_eq!(counted.matches("\"topic\":\"attached-").count(), TOPICS);
}
