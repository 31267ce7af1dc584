//! `tidegate plugin shadow`: a candidate on live batches, without any effect.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use serde_json::Value;

use crate::{
    authors::component,
    broker::Broker,
    faults::{good_batch, produce},
    librdkafka::{create_topic, read},
    raw::Raw,
    routed::{PLUGINS, deploy},
};

fn shadow_command(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["plugin", "shadow"]).args(arguments);
    command.env("TIDEGATE_BOOTSTRAP", &broker.kafka).env("TIDEGATE_ADMIN", &broker.admin);
    command
}

fn shadow(broker: &Broker, arguments: &[&str]) -> Output {
    shadow_command(broker, arguments).output().expect("it runs")
}

fn report(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&said)
        .unwrap_or_else(|error| panic!("{error}: {said}\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// Runs `what` while records are sent to a topic; how many batches were in all.
fn while_sending<T>(broker: &Broker, topic: &str, what: impl FnOnce() -> T) -> (T, u64) {
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let done = thread::scope(|scope| {
        scope.spawn(|| {
            let mut raw = Raw::new(broker.connect());
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(produce(&mut raw, topic, good_batch()), (0, String::new()));
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
        let done = what();
        stop.store(true, Ordering::Relaxed);
        done
    });
    (done, sent.into_inner())
}

#[test]
fn a_candidate_sees_live_batches_and_has_no_effect() {
    // A machine that is busy must not look like a slow plugin.
    let broker = Broker::start_configured("\"plugin.deadline.ms\" = 1000\n", &[], None);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/router-direct");
    let direct = component(&folder);
    deploy(&broker, "direct", &direct);
    let config = |topic: &str| format!(r#"{{"bindings":[{{"key":"key","topic":"{topic}"}}],"unmatched":"reject"}}"#);
    create_topic(&broker, "one", 1, &[]);
    create_topic(&broker, "two", 1, &[]);
    let now = config("one");
    create_topic(&broker, "source", 1, &[("tidegate.router", "direct"), ("tidegate.router.config", &now)]);

    let other = config("two");
    let common = [direct.as_str(), "--topic", "source", "--for", "2s", "--json"];
    let ((same, different), sent) = while_sending(&broker, "source", || {
        let same = shadow(&broker, &[common.as_slice(), &["--fail"]].concat());
        let different = shadow(&broker, &[common.as_slice(), &["--config", &other, "--fail"]].concat());
        (same, different)
    });
    let said = report(&same);
    assert!(same.status.success(), "{said}");
    assert!(said["records"].as_u64().is_some_and(|records| records > 0), "{said}");
    assert_eq!((&said["differing_records"], &said["attached"]), (&0.into(), &"direct".into()));
    let said = report(&different);
    assert!(!different.status.success(), "it is to fail where records would go elsewhere");
    assert_eq!(said["differing_records"], said["records"], "{said}");
    assert_eq!(said["examples"][0]["attached"], serde_json::json!({ "to": ["one"] }));
    assert_eq!(said["examples"][0]["candidate"], serde_json::json!({ "to": ["two"] }));
    assert_eq!(said["examples"].as_array().map(Vec::len), Some(10));
    assert!(said["candidate_ns_per_record"].as_f64().is_some_and(|cost| cost > 0.0), "{said}");
    // Without any effect: all went where the attached one sends it.
    let records = sent as usize * 3;
    assert_eq!(read(&broker, "one", 1, records)[&0].len(), records);
    let (_, page) = broker.get("/metrics");
    let stored = page.lines().find(|line| line.starts_with("tidegate_log_bytes") && line.contains("\"two\""));
    assert!(stored.is_none_or(|line| line.ends_with(" 0")), "{stored:?}");
}

#[test]
fn a_candidate_that_fails_is_said_and_harms_nobody() {
    let broker = Broker::start();
    create_topic(&broker, "plain", 1, &[]);
    for topic in ["one", "two", "three"] {
        create_topic(&broker, topic, 1, &[]);
    }
    let arguments = [PLUGINS[0].as_str(), "--topic", "plain", "--for", "2s", "--json", "--config", "panic"];
    let (output, _) = while_sending(&broker, "plain", || shadow(&broker, &arguments));
    let said = report(&output);
    assert!(said["candidate_failures"].as_u64().is_some_and(|failures| failures > 0), "{said}");
    assert_eq!((&said["attached_failures"], &said["attached"]), (&0.into(), &Value::Null));
    assert!(said["first_failure"].as_str().is_some_and(|words| words.contains("told to panic")), "{said}");

    let missing = shadow(&broker, &[PLUGINS[0].as_str(), "--topic", "missing"]);
    assert!(!missing.status.success());
    let refused = shadow(&broker, &[PLUGINS[0].as_str(), "--topic", "plain", "--for", "soon"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is no time: 60s, 5m, 1h"));
}

/// It was given ten seconds a call and four times the memory, and after one trap had no answer any more.
#[test]
fn a_candidate_runs_within_the_limits_of_the_topic_and_is_replaced_after_a_trap() {
    let broker = Broker::start();
    create_topic(&broker, "plain", 1, &[("tidegate.plugin.deadline.ms", "3")]);
    for topic in ["one", "two", "three"] {
        create_topic(&broker, topic, 1, &[]);
    }
    let run = |order: &str| {
        let arguments = [&PLUGINS[0], "--topic", "plain", "--for", "2s", "--json", "--fail", "--config", order];
        let (output, _) = while_sending(&broker, "plain", || shadow(&broker, &arguments));
        assert!(!output.status.success(), "a candidate without an answer is none to deploy");
        let said = report(&output);
        let count = |name: &str| said[name].as_u64().expect("a number");
        let words = said["first_failure"].as_str().expect("words").to_owned();
        (count("batches"), count("candidate_failures"), words)
    };
    let (batches, failures, words) = run("loop");
    assert!(batches > 0 && failures == batches && words.contains("too long"), "{failures} of {batches}: {words}");
    let (batches, failures, words) = run("good-for:2");
    // A busy machine may make a call too long here and there.
    assert!(
        batches > 6 && (batches / 4..batches / 2).contains(&failures) && words.contains("panicked"),
        "{failures} of {batches}: {words}"
    );
}

/// What a router brings to a topic was not seen by who watched that topic.
#[test]
fn what_a_router_brings_to_a_topic_is_seen_there() {
    let broker = Broker::start_configured("\"plugin.deadline.ms\" = 1000\n", &[], None);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/router-direct");
    deploy(&broker, "direct", &component(&folder));
    create_topic(&broker, "brought", 1, &[]);
    let config = r#"{"bindings":[{"key":"key","topic":"brought"}],"unmatched":"reject"}"#;
    create_topic(&broker, "source", 1, &[("tidegate.router", "direct"), ("tidegate.router.config", config)]);
    let hook = component(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-host/tests/guests/ack"));
    let arguments =
        [hook.as_str(), "--topic", "brought", "--for", "2s", "--json", "--config", "refuse:policy-violation"];
    let (output, _) = while_sending(&broker, "source", || shadow(&broker, &arguments));
    let said = report(&output);
    assert!(said["records"].as_u64().is_some_and(|records| records > 0), "{said}");
    assert_eq!(said["differing_records"], said["records"], "{said}");
}

/// A change of what is attached was not seen, and a watch of a topic that nobody sends to was taken for a success.
#[test]
fn the_comparison_is_with_what_is_attached_at_the_time() {
    let broker = Broker::start_configured("\"plugin.deadline.ms\" = 1000\n", &[], None);
    deploy(&broker, "hostile", &PLUGINS[0]);
    for topic in ["one", "two", "three", "quiet"] {
        create_topic(&broker, topic, 1, &[]);
    }
    create_topic(&broker, "source", 1, &[("tidegate.router", "hostile"), ("tidegate.router.config", "keep")]);
    let quiet = shadow(&broker, &[&PLUGINS[0], "--topic", "quiet", "--for", "1s", "--fail", "--config", "keep"]);
    let said = String::from_utf8_lossy(&quiet.stderr);
    assert!(!quiet.status.success() && said.contains("nothing was sent to quiet"), "{said}");

    let arguments = [&PLUGINS[0], "--topic", "source", "--for", "3s", "--json", "--config", "keep"];
    let (output, _) = while_sending(&broker, "source", || {
        let mut watching =
            shadow_command(&broker, &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        let mut line = String::new();
        BufReader::new(watching.stderr.take().expect("it is piped")).read_line(&mut line).expect("a line");
        assert_eq!(line, "watching source for 3 s\n");
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["topic", "alter", "source", "--config", "tidegate.router.config=count"])
            .args(["--bootstrap", &broker.kafka])
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        watching.wait_with_output().expect("it ends")
    });
    let said = report(&output);
    assert_eq!((&said["changes"], &said["differing_records"]), (&1.into(), &0.into()), "{said}");
}

/// The whole report was thrown away when the broker could not be asked at one moment.
#[test]
fn what_was_seen_is_told_when_the_topic_is_gone_in_the_end() {
    let broker = Broker::start();
    create_topic(&broker, "plain", 1, &[]);
    let arguments = [&PLUGINS[1], "--topic", "plain", "--for", "3s", "--json"];
    let mut watching =
        shadow_command(&broker, &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut said = BufReader::new(watching.stderr.take().expect("it is piped"));
    let mut line = String::new();
    said.read_line(&mut line).expect("a line");
    assert_eq!(produce(&mut Raw::new(broker.connect()), "plain", good_batch()), (0, String::new()));
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["topic", "delete", "plain", "--bootstrap", &broker.kafka])
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = watching.wait_with_output().expect("it ends");
    assert!(!output.status.success() && report(&output)["topic"] == "plain");
    said.read_to_string(&mut line).expect("text");
    assert!(line.contains("the broker could not be asked any more"), "{line}");
}
