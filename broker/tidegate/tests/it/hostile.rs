//! Plugins that do harm again and again, and very many of them: what they leave behind.

use std::time::Instant;

use kafka_protocol::{
    messages::{
        ApiKey, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, ProduceResponse,
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
    },
    protocol::StrBytes,
};
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};

use crate::{
    authors::component,
    broker::Broker,
    faults::{good_batch, produce, produce_request, produce_throttled},
    librdkafka::{WAIT, block_on, client, create_topic},
    raw::Raw,
    routed::{deploy, deploy_router},
};

/// Each trap costs an instance, and each batch meets a new one.
#[test]
fn ten_thousand_traps_are_answered_and_leave_nothing_behind() {
    const ROUNDS: usize = 2_500;
    let broker = Broker::start_configured("\"plugin.deadline.ms\" = 1000\n", &[], None);
    deploy_router(&broker, "hostile");
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
            begun_with = broker.resident_bytes();
        }
    }
    let grown = broker.resident_bytes().saturating_sub(begun_with);
    assert!(grown < 48 << 20, "{grown} bytes more than after the first {}", ROUNDS / 5 * orders.len());
}

/// A plugin that runs into its deadline with every batch, sent to by clients that do not wait when they are told to: it gets its share of the
/// core, and the others' partitions on the same shard the rest.
#[test]
fn a_slow_plugin_takes_its_share_of_a_core_and_others_are_served() {
    let settings = "\"plugin.core.max.percent\" = 40\n";
    let broker = Broker::start_configured(settings, &["--shards", "1"], None);
    deploy_router(&broker, "hostile");
    create_topic(&broker, "plain", 1, &[]);
    create_topic(&broker, "slow", 1, &[("tidegate.router", "hostile"), ("tidegate.router.config", "loop")]);
    let of_slow = |name: &str| {
        let page = broker.get("/metrics").1;
        let start = format!("tidegate_plugin_{name}_total{{");
        let line = page.lines().find(|line| line.starts_with(&start) && line.contains("topic=\"slow\""));
        line.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).unwrap_or(0.0)
    };
    std::thread::scope(|scope| {
        let started = Instant::now();
        let floods: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut raw = Raw::new(broker.connect());
                    for _ in 0..100 {
                        let (code, message) = produce(&mut raw, "slow", good_batch());
                        assert!(code != 0 && message.contains("'hostile'"), "{code} {message}");
                    }
                })
            })
            .collect();
        let mut other = Raw::new(broker.connect());
        let mut served = 0;
        while floods.iter().any(|flood| !flood.is_finished()) {
            let (code, throttle_ms) = produce_throttled(&mut other, "plain", good_batch());
            assert_eq!((code, throttle_ms), (0, 0), "it has no plugin that could take too much");
            served += 1;
        }
        floods.into_iter().for_each(|flood| flood.join().expect("it was answered"));
        let took = started.elapsed().as_secs_f64();
        // Shards report every second.
        while of_slow("calls") < 300.0 {
            std::thread::yield_now();
        }
        let share = of_slow("call_nanoseconds") / 1e9 / took;
        // What a topic may owe before it waits counts, too.
        assert!(share < 0.5, "the slow plugin took {share:.2} of the core");
        assert!(of_slow("throttle_milliseconds") > 0.0, "its clients were told to wait");
        assert!(served > 300, "{served} batches of others beside 300 of the slow topic");
    });
}

/// What was sent ahead, before anybody could be told to wait, waits as well: a client that sends a hundred requests at once had a hundred calls
/// made for it in a row. What is behind them on the connection waits with them, so that answers keep their order.
#[test]
fn requests_sent_ahead_to_a_slow_plugin_are_paid_for_in_their_order() {
    const REQUESTS: usize = 100;
    let settings = "\"plugin.core.max.percent\" = 20\n";
    let broker = Broker::start_configured(settings, &["--shards", "1"], None);
    deploy_router(&broker, "hostile");
    create_topic(&broker, "plain", 1, &[]);
    create_topic(&broker, "slow", 1, &[("tidegate.router", "hostile"), ("tidegate.router.config", "loop")]);
    let behind = ["behind-0", "behind-1", "behind-2"];
    behind.into_iter().for_each(|topic| create_topic(&broker, topic, 1, &[]));
    std::thread::scope(|scope| {
        let started = Instant::now();
        let broker = &broker;
        let floods = behind.map(|behind| {
            scope.spawn(move || {
                let mut raw = Raw::new(broker.connect());
                let topic = |number| if number % 2 == 0 { "slow" } else { behind };
                let requests = (0..REQUESTS).map(|number| produce_request(topic(number), [(0, good_batch().into())]));
                let first = raw.send_all(ApiKey::Produce, 9, requests);
                for number in 0..REQUESTS {
                    let answer: ProduceResponse = raw.receive_numbered(ApiKey::Produce, 9, first + number as i32);
                    let answer = &answer.responses[0].partition_responses[0];
                    if number % 2 == 0 {
                        let words = answer.error_message.as_deref().unwrap_or_default();
                        assert!(answer.error_code != 0 && words.contains("'hostile'"), "{words}");
                    } else {
                        let offset = 3 * (number as i64 / 2);
                        assert_eq!((answer.error_code, answer.base_offset), (0, offset), "in the order of sending");
                    }
                }
            })
        });
        let mut other = Raw::new(broker.connect());
        let mut served = 0;
        while floods.iter().any(|flood| !flood.is_finished()) {
            assert_eq!(produce_throttled(&mut other, "plain", good_batch()), (0, 0));
            served += 1;
        }
        let took = started.elapsed().as_secs_f64();
        floods.into_iter().for_each(|flood| flood.join().expect("it was answered"));
        let of_slow = |family: &str| {
            let all = broker.measured(family).into_iter().filter(|(labels, _)| labels.contains("topic=\"slow\""));
            all.map(|(_, value)| value).sum::<f64>()
        };
        // Shards report every second.
        while of_slow("tidegate_plugin_calls_total") < (behind.len() * REQUESTS / 2) as f64 {
            std::thread::yield_now();
        }
        let share = of_slow("tidegate_plugin_call_nanoseconds_total") / 1e9 / took;
        // What a topic may owe before it waits counts, too.
        assert!(share < 0.35, "the slow plugin took {share:.2} of the core");
        assert!(served > behind.len() * REQUESTS, "{served} batches of others meanwhile");
    });
}

/// Ten thousand attachments that must be refused: traps in `open`, the wrong world, refusals in the plugin's own words.
#[test]
fn attachments_that_are_refused_leave_nothing_behind() {
    const ROUNDS: usize = 2_500;
    let broker = Broker::start();
    deploy_router(&broker, "hostile");
    create_topic(&broker, "plain", 1, &[]);
    let mut raw = Raw::new(broker.connect());
    let mut attach = |key: &str, config: &str| {
        let text = |text: &str| StrBytes::from_string(text.to_owned());
        let set = |key: &str, value: &str| {
            AlterableConfig::default().with_name(text(key)).with_value(Some(text(value))).with_config_operation(0)
        };
        let configs = vec![set(key, "hostile"), set(&format!("{key}.config"), config)];
        let resource = AlterConfigsResource::default().with_resource_type(2).with_resource_name(text("plain"));
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource.with_configs(configs)]);
        let answer: IncrementalAlterConfigsResponse = raw.call(ApiKey::IncrementalAlterConfigs, 1, &request);
        let answer = &answer.responses[0];
        (answer.error_code, answer.error_message.as_deref().unwrap_or_default().to_owned())
    };
    let refused = [
        ("tidegate.router", "open:panic", "told to panic"),
        ("tidegate.router", "open:stack", "stack"),
        ("tidegate.router", "refuse:not today", "not today"),
        ("tidegate.partitioner", "keep", "router"),
    ];
    let mut other = Raw::new(broker.connect());
    let mut begun_with = 0;
    for round in 0..ROUNDS {
        for (key, config, words) in refused {
            let (code, message) = attach(key, config);
            assert!(code != 0 && message.contains(words), "{config}: {code} {message}");
        }
        if round % 100 == 0 {
            // These take long.
            for config in ["open:loop", "open:memory"] {
                let (code, message) = attach("tidegate.router", config);
                assert!(code != 0, "{message}");
            }
            assert_eq!(produce(&mut other, "plain", good_batch()), (0, String::new()));
        }
        // What is kept for reuse is there by then.
        if round == ROUNDS / 5 {
            begun_with = broker.resident_bytes();
        }
    }
    let grown = broker.resident_bytes().saturating_sub(begun_with);
    assert!(grown < 48 << 20, "{grown} bytes more than after the first {}", ROUNDS / 5 * refused.len());
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
            begun_with = broker.resident_bytes();
        }
    }
    let grown = broker.resident_bytes().saturating_sub(begun_with);
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
    let before = broker.resident_bytes();
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
    let each = (broker.resident_bytes().saturating_sub(before)) / TOPICS as u64;
    assert!(each < 512 << 10, "{each} bytes for each attachment");
    broker.kill();
    broker.restart();
    send(&broker);
    let counted = broker.get("/v1/attachments").1;
    assert_eq!(counted.matches("\"topic\":\"attached-").count(), TOPICS);
}
