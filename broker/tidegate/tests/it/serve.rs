//! Starting, stopping and watching a broker, as scripts do.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Stdio,
    time::{SystemTime, UNIX_EPOCH},
};

use kafka_protocol::{
    messages::{
        ApiKey, ProduceRequest, ProduceResponse, TopicName,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::StrBytes,
};
use tidegate_records::{batch::Compression, build::BatchBuilder, time::Timestamp};

use crate::{broker::Broker, raw::Raw, traps::create};

/// A Produce request of one record for partition 0 of a topic.
fn produce_one(topic: &str) -> ProduceRequest {
    let mut builder = BatchBuilder::new(Compression::None);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis();
    builder.push(Timestamp(now as i64), None, Some(b"value"), std::iter::empty());
    let data = PartitionProduceData::default().with_index(0).with_records(Some(builder.build().0));
    let name = TopicName(StrBytes::from_string(topic.to_owned()));
    let topic = TopicProduceData::default().with_name(name).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic])
}

#[test]
fn sigterm_ends_it_with_0_and_nothing_to_recover() {
    let mut broker = Broker::start();
    create(&mut Raw::new(broker.connect()), "t", 2);
    assert!(broker.stop().success());
    broker.restart();
    assert!(broker.stop().success());
}

/// An upload that was not whole, or half a line of a request, kept the process from ending for ever.
#[test]
fn sigterm_waits_for_nobody_who_holds_a_connection() {
    let mut broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    create(&mut raw, "t", 2);
    let idle = broker.connect();
    let admin = |request: &str, answer: &str| {
        let mut stream = TcpStream::connect(&broker.admin).expect("the admin endpoint accepts connections");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut received = vec![0; answer.len()];
        stream.read_exact(&mut received).expect("an answer");
        assert_eq!(String::from_utf8_lossy(&received), answer);
        stream
    };
    let connected = admin("", "");
    let kept_alive = admin("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200 OK");
    let half_a_line = admin("GET /healthz HTTP/1.1\r\nho", "");
    // That it is asked to go on says that the broker waits for the rest.
    let upload = |length| {
        format!("PUT /v1/plugins/x HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n")
    };
    let half_an_upload = admin(&upload(1000), "HTTP/1.1 100 Continue");
    let too_large = admin(&upload(usize::MAX / 2).replace("expect: 100-continue\r\n", ""), "");
    assert!(broker.stop().success());
    drop((raw, idle, connected, kept_alive, half_a_line, half_an_upload, too_large));
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

/// Some of them ended with 1, and `--shards -1` was told that there is no argument '-1'.
#[test]
fn a_bad_flag_is_wrong_usage_and_says_what_may_stand_there() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("tidegate.toml");
    std::fs::write(&file, "num.partitions = 2\n").expect("written");
    let check = |arguments: &[&str], code: i32, words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = command.arg("serve").args(arguments).output().expect("the binary runs");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        for word in words {
            assert!(message.contains(word), "{word:?} in {message}");
        }
    };
    check(&["--shards", "-1"], 2, &["--shards", "from 0 to 1024", "-1"]);
    check(&["--shards", "1025"], 2, &["--shards", "from 0 to 1024", "1025"]);
    check(&["--shards", "many"], 2, &["--shards", "from 0 to 1024"]);
    check(&["--node-id", "-1"], 2, &["--node-id", "from 0 to 2147483647"]);
    check(&["--listen", "nowhere"], 2, &["--listen", "HOST:PORT"]);
    check(&["--durability", "maybe"], 2, &["--durability", "fsync or os"]);
    check(&["--data-dir", ""], 2, &["--data-dir", "a path"]);
    check(&["--log-format", "xml"], 2, &["--log-format", "text or json"]);
    check(&["--admin", "0.0.0.0:0"], 2, &["--admin-token-file"]);
    check(&["--listen", "0.0.0.0:0"], 2, &["--advertise"]);
    check(&["--lisen", "x"], 2, &["--lisen", "--listen"]);
    check(&["--shards"], 2, &["--shards"]);
    check(&["--shards", "-x"], 2, &["-x"]);
    let path = file.to_str().expect("UTF-8");
    check(&["--config", path, "--shards", "-1"], 2, &["--shards", "from 0 to 1024"]);
    // What stands in the file is no matter of usage.
    std::fs::write(&file, "shards = -1\n").expect("written");
    check(&["--config", path], 1, &["tidegate.toml:1", "shards", "from 0 to 1024"]);
    check(&["--config", "/nonexistent/tidegate.toml"], 1, &["/nonexistent/tidegate.toml", "cannot be read"]);
}

/// It was text in the middle of a log of JSON, which no collector of logs took.
#[test]
fn why_it_does_not_start_is_a_line_of_json_where_logs_are() {
    let running = Broker::start();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("tidegate.toml");
    let path = file.to_str().expect("UTF-8");
    // The reason comes through whatever else is not to be logged.
    std::fs::write(&file, "log-format = \"json\"\nlog-filter = \"off\"\nshard = 1\n").expect("written");
    let held = running.data_dir();
    let held = held.to_str().expect("UTF-8");
    let check = |arguments: &[&str], code: i32, words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = command.arg("serve").args(arguments).output().expect("the binary runs");
        let log = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(code), "{log}");
        let lines: Vec<serde_json::Value> =
            log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect();
        let last = lines.last().expect("it says why");
        assert_eq!(last["level"], "ERROR", "{last}");
        assert!(last["timestamp"].is_string() && last["target"].is_string(), "{last}");
        let message = last["message"].as_str().expect("a message");
        for word in words {
            assert!(message.contains(word), "{word:?} in {message}");
        }
    };
    let json = ["--log-format", "json", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir"];
    check(&[&json[..], &[held]].concat(), 1, &[&running.pid().to_string()]);
    check(&["--log-format", "json", "--shards", "many"], 2, &["--shards"]);
    check(&["--config", path], 1, &["tidegate.toml:3", "shard"]);
    check(&["--config", "/nonexistent/tidegate.toml", "--log-format", "json"], 1, &["cannot be read"]);
    let other = directory.path().join("other");
    let other = other.to_str().expect("UTF-8");
    check(&["--log-format", "json", "--listen", &running.kafka, "--data-dir", other], 1, &[&running.kafka]);
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

/// The page is read by machines: every family is written down in `METRICS.md`, with its type, and nothing else is.
#[test]
fn every_family_of_metrics_is_documented_and_counts() {
    let broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    create(&mut raw, "counted", 1);
    let answer: ProduceResponse = raw.call(ApiKey::Produce, 9, &produce_one("missing"));
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 3);
    let answer: ProduceResponse = raw.call(ApiKey::Produce, 9, &produce_one("counted"));
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
    let (_, page) = broker.get("/metrics");

    let documented: BTreeMap<&str, &str> = include_str!("../../../server/METRICS.md")
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            let name = cells.next()?.trim().trim_end_matches('`');
            Some((name, cells.next()?.trim()))
        })
        .collect();
    let shown: BTreeMap<&str, &str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    assert_eq!(shown, documented);

    // What was just done is on it, under its names and labels.
    for (name, labels, least) in [
        ("tidegate_requests_total", &["api=\"Produce\""] as &[&str], 2.0),
        ("tidegate_errors_total", &["api=\"Produce\"", "error=\"UNKNOWN_TOPIC_OR_PARTITION\""], 1.0),
        ("tidegate_request_seconds_count", &["api=\"Produce\""], 2.0),
        ("tidegate_records_appended_total", &[], 1.0),
        ("tidegate_received_bytes_total", &[], 1.0),
        ("tidegate_sent_bytes_total", &[], 1.0),
        ("tidegate_commit_seconds_count", &[], 1.0),
        ("tidegate_commit_bytes_count", &[], 1.0),
        ("tidegate_sync_seconds_count", &[], 1.0),
        ("tidegate_connections", &[], 1.0),
        ("tidegate_connections_accepted_total", &[], 1.0),
        ("process_resident_memory_bytes", &[], 1.0),
    ] {
        let values = page.lines().filter(|line| {
            let rest = line.strip_prefix(name).unwrap_or_default();
            (rest.starts_with('{') || rest.starts_with(' ')) && labels.iter().all(|label| rest.contains(label))
        });
        let sum: f64 =
            values.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<f64>().expect("a number")).sum();
        assert!(sum >= least, "{name} {labels:?} is {sum}:\n{page}");
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
