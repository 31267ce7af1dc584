//! Plugins in a running broker: the demo, which builds, deploys and attaches one, their limits, and restarts.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    broker::Broker,
    faults::{good_batch, produce},
    librdkafka::create_topic,
    raw::Raw,
    routed::deploy_router,
};

#[test]
fn the_demo_routes_a_real_access_log() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("demo");
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Twice: it must be repeatable.
    for _ in 0..2 {
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["demo", "--exit", "--data-dir"])
            .arg(&data)
            .arg("--project")
            .arg(&project)
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs");
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{shown}\n{}", String::from_utf8_lossy(&output.stderr));
        let records = |topic: &str| -> u64 {
            let row = shown.lines().rfind(|line| line.trim_start().starts_with(topic)).expect("a row of the table");
            row.split_whitespace().nth(1).and_then(|count| count.parse().ok()).expect("a count")
        };
        for topic in ["access-errors", "access-logins", "access-json", "access-writes", "access-redirects"] {
            assert!(records(topic) > 0, "{topic} in {shown}");
        }
        assert!(records("together") >= 4_000, "{shown}");
    }
}

/// The code and the words of the answer to a record that goes through the test's router with this order.
fn produced(broker: &Broker, order: &str) -> (i16, String) {
    let topic = order.replace(':', ".");
    create_topic(broker, &topic, 1, &[("tidegate.router", "router"), ("tidegate.router.config", order)]);
    produce(&mut Raw::new(broker.connect()), &topic, good_batch())
}

#[test]
fn a_plugins_memory_is_what_the_configuration_says() {
    let settings = "\"plugin.memory.max.bytes\" = 33554432\n\"plugin.deadline.ms\" = 60000\n";
    let broker = Broker::start_configured(settings, &[], None);
    deploy_router(&broker, "router");
    assert_eq!(produced(&broker, "hold:24"), (0, String::new()));
    let (code, message) = produced(&broker, "hold:40");
    assert_eq!(code, 44, "POLICY_VIOLATION: {message}");
    assert!(message.contains("'router'") && message.contains("memory"), "{message}");
    // A configuration is tried within the same limits.
    create_topic(&broker, "plain", 1, &[]);
    let alter = |order: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["topic", "alter", "plain", "--bootstrap", &broker.kafka, "--config", "tidegate.router=router"]);
        command.args(["--config", &format!("tidegate.router.config={order}")]).output().expect("it runs")
    };
    assert!(alter("open:hold:24").status.success());
    let refused = alter("open:hold:40");
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && message.contains("memory"), "{message}");
}

/// A million destinations are four million bytes; what is wrong with them is the next question.
#[test]
fn a_plugins_output_is_what_the_configuration_says() {
    let settings = "\"plugin.output.max.bytes\" = 1048576\n\"plugin.deadline.ms\" = 60000\n";
    let small = Broker::start_configured(settings, &[], None);
    deploy_router(&small, "router");
    let (code, message) = produced(&small, "answer-bomb");
    assert!(code == 44 && !message.contains("1000000"), "{code} {message}");
    let large = Broker::start_configured("\"plugin.deadline.ms\" = 60000\n", &[], None);
    deploy_router(&large, "router");
    let (code, message) = produced(&large, "answer-bomb");
    assert!(code == 44 && message.contains("1000000"), "{code} {message}");
    // A topic cannot have more than the broker allows.
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["topic", "create", "greedy", "--bootstrap", &small.kafka, "--config", "tidegate.router=router"]);
    command.args(["--config", "tidegate.router.config=keep", "--config", "tidegate.plugin.output.max.bytes=2000000"]);
    let refused = command.output().expect("it runs");
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && message.contains("(plugin.output.max.bytes)"), "{message}");
}

/// A deadline counts time on the wall, which a busy machine takes from a plugin as well: the producer may try again.
#[test]
fn a_plugins_deadline_is_what_the_configuration_says() {
    let patient = Broker::start_configured("\"plugin.deadline.ms\" = 60000\n", &[], None);
    deploy_router(&patient, "router");
    assert_eq!(produced(&patient, "count"), (0, String::new()));
    let strict = Broker::start_configured("\"plugin.deadline.ms\" = 5\n", &[], None);
    deploy_router(&strict, "router");
    let (code, message) = produced(&strict, "count");
    assert_eq!(code, 7, "REQUEST_TIMED_OUT: {message}");
    assert!(message.contains("'router'") && message.contains("took too long"), "{message}");
}

/// A plugin belongs to the shards that run it, and they are new after a restart: routed topics refused everything.
#[test]
fn a_routed_topic_is_routed_after_a_restart() {
    let mut broker = Broker::start_configured("\"plugin.deadline.ms\" = 60000\n", &["--shards", "3"], None);
    deploy_router(&broker, "router");
    assert_eq!(produced(&broker, "keep"), (0, String::new()));
    for _ in 0..3 {
        broker.kill();
        broker.restart();
        for _ in 0..3 {
            let answer = produce(&mut Raw::new(broker.connect()), "keep", good_batch());
            assert_eq!(answer, (0, String::new()));
        }
    }
}

#[test]
fn a_demo_removes_nothing_that_is_not_its_own() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("precious"), "").expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["demo", "--exit", "--data-dir"])
        .arg(directory.path())
        .arg("--project")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    assert!(!output.status.success());
    assert!(directory.path().join("precious").exists());
}
