//! The command line against a broker, as a person or a script uses it: what it prints, and its exit codes.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use kafka_protocol::messages::{
    ApiKey, DescribeLogDirsRequest, DescribeLogDirsResponse, MetadataRequest, MetadataResponse,
};
use serde_json::Value;

use crate::{broker::Broker, raw::Raw, retention::until};

/// What a command did.
struct Done {
    code: i32,
    out: String,
    err: String,
}

impl Done {
    fn succeeded(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    fn failed_with(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} in {}", self.err);
        }
    }
}

fn command(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env("TIDEGATE_BOOTSTRAP", &broker.kafka).env("TIDEGATE_ADMIN", &broker.admin);
    command
}

fn run_with(mut command: Command, input: &str) -> Done {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    // A command that ends without reading its input closes the pipe, and that is all right.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    Done {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

fn run(broker: &Broker, arguments: &[&str]) -> Done {
    run_with(command(broker, arguments), "")
}

fn produce(broker: &Broker, arguments: &[&str], input: &str) -> Done {
    run_with(command(broker, &[&["produce"], arguments].concat()), input)
}

fn consume(broker: &Broker, arguments: &[&str]) -> String {
    run(broker, &[&["consume", "--exit-at-end"], arguments].concat()).succeeded()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn a_topic_from_creation_to_deletion() {
    let broker = Broker::start();
    let created = run(&broker, &["topic", "create", "orders", "-p", "3", "-c", "retention.ms=86400000"]).succeeded();
    assert_eq!(created, "created topic orders with 3 partitions\n");
    run(&broker, &["topic", "create", "orders"]).failed_with(1, &["TOPIC_ALREADY_EXISTS", "--if-not-exists"]);
    run(&broker, &["topic", "create", "orders", "--if-not-exists"]).succeeded();
    run(&broker, &["topic", "create", "maybe", "--validate-only"]).succeeded();
    run(&broker, &["topic", "create", "a b"]).failed_with(1, &["INVALID_TOPIC_EXCEPTION"]);
    run(&broker, &["topic", "create", "x", "-c", "no.such.key=1"]).failed_with(1, &["INVALID_CONFIG", "no.such.key"]);
    let listed = json(&run(&broker, &["topic", "list", "--json"]).succeeded());
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert_eq!((&listed[0]["name"], &listed[0]["partitions"]), (&"orders".into(), &3.into()));

    run(&broker, &["topic", "alter", "orders", "-p", "5", "-c", "cleanup.policy=compact", "--unset", "retention.ms"])
        .succeeded();
    let described = json(&run(&broker, &["topic", "describe", "orders", "--json"]).succeeded());
    assert_eq!(described[0]["partitions"].as_array().map(Vec::len), Some(5));
    let configs = described[0]["configs"].as_array().expect("a list");
    assert_eq!(configs.len(), 1, "{configs:?}");
    assert_eq!((&configs[0]["name"], &configs[0]["value"]), (&"cleanup.policy".into(), &"compact".into()));
    run(&broker, &["topic", "alter", "orders", "-p", "2"]).failed_with(1, &["INVALID_PARTITIONS"]);
    run(&broker, &["topic", "alter", "orders"]).failed_with(2, &["nothing to alter"]);

    run(&broker, &["topic", "delete", "orders"]).succeeded();
    run(&broker, &["topic", "delete", "orders"]).failed_with(1, &["UNKNOWN_TOPIC_OR_PARTITION"]);
    run(&broker, &["topic", "delete", "--if-exists", "orders"]).succeeded();
}

/// What changes something says what it did to machines, too, also where it fails halfway.
#[test]
fn machines_are_told_what_was_done() {
    use serde_json::json;
    let broker = Broker::start();
    let done = |arguments: &[&str]| json(&run(&broker, &[arguments, &["--json"]].concat()).succeeded());
    assert_eq!(
        done(&["topic", "create", "a", "b", "-p", "2"]),
        json!([
            { "name": "a", "result": "created", "partitions": 2 },
            { "name": "b", "result": "created", "partitions": 2 },
        ])
    );
    assert_eq!(
        done(&["topic", "create", "a", "--if-not-exists"]),
        json!([{ "name": "a", "result": "exists-already", "partitions": null }])
    );
    assert_eq!(
        done(&["topic", "create", "c", "-p", "3", "--validate-only"]),
        json!([{ "name": "c", "result": "could-be-created", "partitions": 3 }])
    );
    let nothing = run(&broker, &["topic", "create", "a", "--json"]);
    assert_eq!(json(&nothing.out)[0]["result"], "failed");
    nothing.failed_with(1, &["TOPIC_ALREADY_EXISTS"]);

    let altered = |result: &str, partitions: Option<i32>| {
        json!({
            "name": "a",
            "result": result,
            "configs_set": { "retention.ms": "60000" },
            "configs_unset": ["segment.bytes"],
            "partitions": partitions,
        })
    };
    let alter = ["topic", "alter", "a", "-c", "retention.ms=60000", "--unset", "segment.bytes", "-p"];
    assert_eq!(done(&[&alter[..], &["4", "--validate-only"]].concat()), altered("could-be-altered", Some(4)));
    assert_eq!(done(&[&alter[..], &["4"]].concat()), altered("altered", Some(4)));
    let halfway = run(&broker, &[&alter[..], &["3", "--json"]].concat());
    assert_eq!(json(&halfway.out), altered("altered", None), "the configuration was changed");
    halfway.failed_with(1, &["INVALID_PARTITIONS"]);

    assert_eq!(
        done(&["topic", "delete", "b", "nothing", "--if-exists"]),
        json!([{ "name": "b", "result": "deleted" }, { "name": "nothing", "result": "not-found" }])
    );
    produce(&broker, &["a", "--partition", "0"], "1\n").succeeded();
    assert_eq!(consume(&broker, &["a", "--group", "g", "-n", "1"]), "1\n");
    assert_eq!(done(&["group", "delete", "g"]), json!([{ "group": "g", "result": "deleted" }]));
}

/// The first name that failed ended it: those behind it were neither tried nor mentioned, and machines were not told why.
#[test]
fn every_name_is_tried_and_told() {
    let broker = Broker::start();
    let check = |arguments: &[&str], names: [&str; 3], result: &str, code: &str| {
        let tried = run(&broker, &[arguments, &["--json"]].concat());
        let told = json(&tried.out);
        let key = if arguments[0] == "group" { "group" } else { "name" };
        let named: Vec<&str> = told.as_array().expect("a list").iter().filter_map(|one| one[key].as_str()).collect();
        assert_eq!(named, names, "{told}");
        assert_eq!((&told[0]["result"], &told[2]["result"]), (&result.into(), &result.into()), "{told}");
        assert_eq!((&told[0]["error"], &told[1]["result"]), (&Value::Null, &"failed".into()), "{told}");
        assert!(told[1]["error"].as_str().is_some_and(|error| error.contains(code)), "{told}");
        tried.failed_with(1, &[code]);
    };
    run(&broker, &["topic", "create", "there"]).succeeded();
    check(&["topic", "create", "a", "there", "b"], ["a", "there", "b"], "created", "TOPIC_ALREADY_EXISTS");
    for group in ["g", "h"] {
        produce(&broker, &["a"], "1\n").succeeded();
        consume(&broker, &["a", "--group", group]);
    }
    check(&["group", "delete", "g", "none", "h"], ["g", "none", "h"], "deleted", "GROUP_ID_NOT_FOUND");
    let described = run(&broker, &["topic", "describe", "a", "none", "b"]);
    assert!(described.out.contains("topic  a\n") && described.out.contains("\n\ntopic  b\n"), "{}", described.out);
    described.failed_with(1, &["UNKNOWN_TOPIC_OR_PARTITION"]);
    check(&["topic", "delete", "a", "none", "b"], ["a", "none", "b"], "deleted", "UNKNOWN_TOPIC_OR_PARTITION");

    let people = run(&broker, &["topic", "create", "a", "there", "b", "-p", "1"]);
    assert_eq!(people.out, "created topic a with 1 partition\ncreated topic b with 1 partition\n");
    people.failed_with(1, &["error: ", "there", "TOPIC_ALREADY_EXISTS"]);
}

#[test]
fn records_come_out_as_they_went_in() {
    let broker = Broker::start();
    run(&broker, &["topic", "create", "a"]).succeeded();
    run(&broker, &["topic", "create", "b"]).succeeded();
    produce(&broker, &["a", "--key-separator", ":", "--header", "h=1"], "k1:v1\nk2:\nk3:v:3\n").succeeded();
    produce(&broker, &["a", "--compression", "zstd", "--idempotent"], "größer").succeeded();
    produce(&broker, &["a", "--key", "gone", "--null"], "\n").succeeded();
    assert_eq!(consume(&broker, &["a"]), "v1\n\nv:3\ngrößer\n\n");
    assert_eq!(consume(&broker, &["a", "--key-separator", "\\t", "-n", "2"]), "k1\tv1\nk2\t\n");
    assert_eq!(
        consume(&broker, &["a", "--format", "%o %K %S [%h]\\n"]),
        "0 2 2 [h=1]\n1 2 0 [h=1]\n2 2 3 [h=1]\n3 -1 8 []\n4 4 -1 []\n"
    );
    // What JSON takes out it takes in.
    let records = consume(&broker, &["a", "--format", "json"]);
    assert_eq!(consume(&broker, &["a", "--json"]), records);
    produce(&broker, &["b", "--format", "json"], &records).succeeded();
    let without_topic = |text: &str| text.replace("\"topic\":\"b\"", "\"topic\":\"a\"");
    assert_eq!(without_topic(&consume(&broker, &["b", "--format", "json"])), records);

    produce(&broker, &["a", "--key-separator", ":"], "no separator\n").failed_with(1, &["line 1", "no separator"]);
    produce(&broker, &["a", "--partition", "7"], "x\n").failed_with(1, &["line 1"]);
}

#[test]
fn reading_begins_where_it_is_told() {
    let broker = Broker::start();
    run(&broker, &["topic", "create", "t", "-p", "2"]).succeeded();
    for partition in ["0", "1"] {
        produce(&broker, &["t", "--partition", partition], "1\n2\n3\n4\n").succeeded();
    }
    let check = |arguments: &[&str], expected: &str| {
        assert_eq!(consume(&broker, &[&["t", "--partition", "0"], arguments].concat()), expected, "{arguments:?}");
    };
    check(&["--offset", "beginning"], "1\n2\n3\n4\n");
    check(&["--offset", "end"], "");
    check(&["--offset", "2"], "3\n4\n");
    check(&["--offset", "-1"], "4\n");
    check(&["--offset", "99"], "");
    check(&["--offset", "@0", "-n", "1"], "1\n");
    check(&["--offset", "@-1h"], "1\n2\n3\n4\n");
    check(&["--offset", "@2100-01-01"], "");
    assert_eq!(consume(&broker, &["t", "--offset", "-1"]), "4\n4\n");
    run(&broker, &["consume", "t", "--partition", "9"]).failed_with(1, &["no partition 9"]);
    run(&broker, &["consume", "nosuch"]).failed_with(1, &["UNKNOWN_TOPIC_OR_PARTITION", "tidegate topic list"]);
    run(&broker, &["consume", "t", "--format", "%y"]).failed_with(2, &["%y means nothing"]);
}

#[test]
fn a_group_reads_on_and_is_reset() {
    let broker = Broker::start();
    run(&broker, &["topic", "create", "t"]).succeeded();
    produce(&broker, &["t"], "1\n2\n3\n4\n5\n").succeeded();
    assert_eq!(consume(&broker, &["t", "--group", "g", "-n", "2"]), "1\n2\n");
    assert_eq!(consume(&broker, &["t", "--group", "g", "-n", "1"]), "3\n");
    let described = json(&run(&broker, &["group", "describe", "g", "--json"]).succeeded());
    let offset = &described[0]["offsets"][0];
    assert_eq!((&offset["committed_offset"], &offset["lag"]), (&3.into(), &2.into()));
    assert!(run(&broker, &["group", "list"]).succeeded().contains("\ng "));

    let reset = |arguments: &[&str]| run(&broker, &[&["group", "reset-offsets", "g"], arguments].concat());
    let shown = reset(&["--topic", "t", "--to-earliest"]);
    assert!(shown.err.contains("--execute"), "{}", shown.err);
    shown.succeeded();
    assert_eq!(consume(&broker, &["t", "--group", "g", "-n", "1"]), "4\n", "nothing was changed");
    let check = |arguments: &[&str], next: &str| {
        reset(&[arguments, &["--execute"]].concat()).succeeded();
        assert_eq!(consume(&broker, &["t", "--group", "g", "-n", "1"]), next, "{arguments:?}");
    };
    check(&["--topic", "t", "--to-earliest"], "1\n");
    check(&["--topic", "t:0", "--to-offset", "3"], "4\n");
    check(&["--all-topics", "--shift-by", "-2"], "3\n");
    check(&["--topic", "t", "--to-datetime", "-1h"], "1\n");
    check(&["--topic", "t", "--to-latest"], "");
    reset(&["--topic", "t:4", "--to-latest"]).failed_with(2, &["no partition 4"]);

    run(&broker, &["group", "delete", "g"]).succeeded();
    run(&broker, &["group", "describe", "g"]).failed_with(1, &["GROUP_ID_NOT_FOUND"]);
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let broker = Broker::start();
    run(&broker, &["topic", "create", "t"]).succeeded();
    let input: String = (0..20_000).map(|number| format!("{number}\n")).collect();
    produce(&broker, &["t"], &input).succeeded();
    // Without --exit-at-end it would go on for ever.
    let mut child = command(&broker, &["consume", "t"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut first = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut first).expect("a line");
    assert_eq!(first, "0\n");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn the_cluster_says_what_it_is() {
    let broker = Broker::start();
    run(&broker, &["topic", "create", "t", "-p", "4"]).succeeded();
    let info = json(&run(&broker, &["cluster", "info", "--json", "--apis"]).succeeded());
    assert_eq!((&info["topics"], &info["partitions"]), (&1.into(), &4.into()));
    assert_eq!(info["log_directories"][0]["partitions"], 4);
    assert_eq!(info["apis"]["Produce"]["min"], 0, "Kafka's own untruth, which old clients need");
    let text = run(&broker, &["cluster", "info"]).succeeded();
    assert!(text.contains(&broker.kafka), "{text}");
}

#[test]
fn errors_say_what_to_do() {
    let broker = Broker::start();
    // A listener that is closed again: nobody is there.
    let free =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string();
    run(&broker, &["topic", "list", "--bootstrap", &free])
        .failed_with(1, &["refused", "tidegate serve", "--bootstrap"]);
    run(&broker, &["topic", "list", "--bootstrap", "nothing"]).failed_with(1, &["HOST:PORT"]);
    run(&broker, &["plugin", "list", "--admin", &free]).failed_with(1, &["--admin"]);
    run(&broker, &["plugin", "describe", "none"]).failed_with(1, &["none"]);
    run(&broker, &["plugin", "deploy", "a/b", "x"]).failed_with(2, &["letters, digits"]);
    run(&broker, &["topic"]).failed_with(2, &["Usage"]);
    // The first of several that answers will do.
    run(&broker, &["topic", "list", "--bootstrap", &format!("{free},{}", broker.kafka)]).succeeded();
}

#[test]
fn a_configuration_file_is_checked() {
    let broker = Broker::start();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("tidegate.toml");
    let path = file.to_str().expect("a path in UTF-8");
    std::fs::write(&file, run(&broker, &["config", "default"]).succeeded()).expect("written");
    run(&broker, &["config", "check", path]).succeeded();
    std::fs::write(&file, "shards = 1\nlisten = 5\nshard = 2\n").expect("written");
    let checked = run(&broker, &["config", "check", path]);
    let lines: Vec<&str> = checked.err.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[0], format!("error: 2 mistakes in {path}:"));
    // Editors and people find the place at the beginning of a line.
    assert!(lines[1].starts_with(&format!("{path}:2: ")) && lines[2].starts_with(&format!("{path}:3: ")), "{lines:?}");
    checked.failed_with(1, &["did you mean"]);
}

#[test]
fn completions_are_made_for_every_shell() {
    let broker = Broker::start();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(run(&broker, &["completions", shell]).succeeded().contains("reset-offsets"), "{shell}");
    }
}

/// It waited a minute for a first answer that never came.
#[test]
fn a_port_that_does_not_answer_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("it is bound").to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["topic", "list", "--bootstrap", &address]);
    run_with(command, "").failed_with(1, &[&address, "no answer came in time"]);
}

/// It was to be seen in the log alone, and the commands failed for the whole topic.
#[test]
fn an_offline_partition_is_shown_and_the_others_are_used() {
    let mut broker = Broker::start();
    run(&broker, &["topic", "create", "part", "--partitions", "2"]).succeeded();
    for partition in ["0", "1"] {
        produce(&broker, &["part", "--partition", partition], &format!("in {partition}\n")).succeeded();
    }
    assert!(broker.stop().success());
    let is_segment = |file: &Path| file.to_string_lossy().contains("-0/") && file.extension() == Some("tgs".as_ref());
    let segment = broker.files().into_iter().find(|file| is_segment(file)).expect("partition 0 has one");
    std::fs::File::options().write(true).open(&segment).and_then(|file| file.set_len(100)).expect("it is cut");
    broker.restart();

    let described = json(&run(&broker, &["topic", "describe", "part", "--json"]).succeeded());
    let leaders: Vec<i64> = described[0]["partitions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|partition| partition["leader"].as_i64().expect("a number"))
        .collect();
    assert_eq!(leaders, [-1, 1], "{described}");
    assert_eq!(described[0]["partitions"][0]["offline_replicas"], serde_json::json!([1]), "{described}");
    let info = json(&run(&broker, &["cluster", "info", "--json"]).succeeded());
    assert_eq!(info["partitions_without_leader"], 1, "{info}");
    let read = run(&broker, &["consume", "part", "--exit-at-end"]);
    assert_eq!(read.out, "in 1\n");
    read.failed_with(1, &["part/0", "no leader"]);
    run(&broker, &["consume", "part", "--exit-at-end", "--partition", "0"]).failed_with(1, &["part/0"]);
    produce(&broker, &["part", "--partition", "1"], "more\n").succeeded();
    assert_eq!(consume(&broker, &["part", "--partition", "1"]), "in 1\nmore\n");

    let mut raw = Raw::new(broker.connect());
    let directories: DescribeLogDirsResponse =
        raw.call(ApiKey::DescribeLogDirs, 4, &DescribeLogDirsRequest::default().with_topics(None));
    let topic = directories.results[0].topics.iter().find(|topic| topic.name.as_str() == "part").expect("it is there");
    let sizes: Vec<i32> = topic.partitions.iter().map(|partition| partition.partition_index).collect();
    assert_eq!(sizes, [1], "the size of the other is not known");
    // Every version can say it.
    for version in 1..=12 {
        let answer: MetadataResponse =
            raw.call(ApiKey::Metadata, version, &MetadataRequest::default().with_topics(None));
        let topic = answer.topics.iter().find(|topic| topic.name.as_ref().is_some_and(|name| name.as_str() == "part"));
        let partition = &topic.expect("it is there").partitions[0];
        let seen = (partition.error_code, partition.leader_id.0, partition.offline_replicas.len());
        assert_eq!(seen, (5, -1, usize::from(version >= 5)), "version {version}");
    }
    until(|| broker.get("/metrics").1, |page| page.lines().any(|line| line == "tidegate_partitions_offline 1"));
}
