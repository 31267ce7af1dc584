//! Starting, stopping and watching a broker, as scripts do.

use std::process::Stdio;

use crate::{broker::Broker, raw::Raw, traps::create};

#[test]
fn sigterm_ends_it_with_0_and_nothing_to_recover() {
    let mut broker = Broker::start();
    create(&mut Raw::new(broker.connect()), "t", 2);
    assert!(broker.stop().success());
    broker.restart();
    assert!(broker.stop().success());
}

#[test]
fn a_second_broker_on_the_same_directory_is_refused() {
    let broker = Broker::start();
    let output = broker.command("127.0.0.1:0").stdin(Stdio::null()).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains(&broker.pid().to_string()), "it names who holds the directory: {message}");
}

#[test]
fn a_taken_port_is_said() {
    let first = Broker::start();
    let second = Broker::start();
    let output = {
        let mut command = second.command(&first.kafka);
        command.arg("--data-dir").arg(second.data_dir().with_file_name("other"));
        command.stdin(Stdio::null()).output().expect("the binary runs")
    };
    // The flag may be given once only; either way the broker must not start.
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_bad_configuration_names_its_line() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("tidegate.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:0\"\nlisen = 5\nnode-id = \"x\"\n").expect("written");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["serve", "--config"])
        .arg(&file)
        .output()
        .expect("the binary runs");
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr);
    for part in ["tidegate.toml:2", "lisen", "listen", "tidegate.toml:3", "node-id"] {
        assert!(message.contains(part), "{part} in {message}");
    }
}

#[test]
fn health_and_metrics_are_served() {
    let broker = Broker::start();
    create(&mut Raw::new(broker.connect()), "t", 2);
    assert_eq!(broker.get("/healthz").0, 200);
    assert_eq!(broker.get("/readyz").0, 200);
    let (status, metrics) = broker.get("/metrics");
    assert_eq!(status, 200);
    for name in ["tidegate_requests_total", "CreateTopics", "tidegate_connections", "tidegate_request_seconds"] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
}

#[test]
fn beyond_loopback_it_does_not_start_without_a_token() {
    let broker = Broker::start();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "0.0.0.0:0", "--data-dir"]);
    let output = command.arg(broker.data_dir().with_file_name("other")).output().expect("the binary runs");
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("--admin-token-file") || message.contains("admin-token-file"), "{message}");
}

#[test]
fn a_read_only_directory_is_said() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // Root may write anywhere, so a directory below a file stands for one that cannot be made.
    let blocked = directory.path().join("file");
    std::fs::write(&blocked, "").expect("written");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir"])
        .arg(blocked.join("data"))
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("file/data"), "it names the directory: {message}");
}
