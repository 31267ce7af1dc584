//! Stock clients of other languages, against the real binary: Apache Kafka's Java tools, Python, JavaScript, Go.
//!
//! Their packages are fetched by their own package managers, pinned, into the target directory. A language that is not installed
//! is skipped, or with `TIDEGATE_REQUIRE_CLIENTS=1` an error.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Mutex,
};

use crate::broker::Broker;

/// Installing writes into shared directories: one at a time.
static INSTALLING: Mutex<()> = Mutex::new(());

fn sources(client: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(client)
}

/// Where a client's packages go.
pub(crate) fn installed(client: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients").join(client);
    std::fs::create_dir_all(&target).expect("the directory can be made");
    target
}

/// Whether the programs are there; says so if not.
fn available(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| {
            let found =
                Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
            !found.is_ok_and(|status| status.success())
        })
        .collect();
    missing.is_empty() || skip(&format!("needs {missing:?} on the PATH"))
}

/// Python as it is needed: distributions leave parts of it out.
pub(crate) fn has_python() -> bool {
    let check = "import ensurepip, pip, sys, venv; sys.exit(sys.version_info < (3, 11))";
    succeeds("python3", &["-c", check]) || skip("needs python3, 3.11 or newer, with pip and venv")
}

/// Node.js as plugins need it.
pub(crate) fn has_node() -> bool {
    let check = "process.exit(Number(process.versions.node.split('.')[0]) < 20 ? 1 : 0)";
    (succeeds("node", &["-e", check]) && succeeds("npm", &["--version"])) || skip("needs node, 20 or newer, with npm")
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let run = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    run.is_ok_and(|status| status.success())
}

/// Says that something is not there; where it has to be, that is the end.
fn skip(message: &str) -> bool {
    assert!(std::env::var("TIDEGATE_REQUIRE_CLIENTS").as_deref() != Ok("1"), "{message}");
    eprintln!("skipped: {message}");
    false
}

fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Apache Kafka's own tools.
struct Java {
    libraries: PathBuf,
    bootstrap: String,
}

impl Java {
    fn new(broker: &Broker) -> Option<Self> {
        if !available(&["java", "mvn"]) {
            return None;
        }
        let libraries = installed("java");
        let _one = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !libraries.join("kafka-tools-4.3.0.jar").exists() {
            run(Command::new("mvn")
                .args(["-q", "-B", "-f"])
                .arg(sources("java").join("pom.xml"))
                .arg("dependency:copy-dependencies")
                .arg(format!("-DoutputDirectory={}", libraries.display())));
        }
        Some(Self { libraries, bootstrap: broker.kafka.clone() })
    }

    fn command(&self, class: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("java");
        command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m"]);
        command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp"]);
        command.arg(format!("{}/*", self.libraries.display())).arg(class);
        command.args(["--bootstrap-server", &self.bootstrap]).args(arguments);
        command
    }

    fn tool(&self, class: &str, arguments: &[&str]) -> String {
        text(&run(&mut self.command(&format!("org.apache.kafka.tools.{class}"), arguments)))
    }

    fn tool_with_input(&self, class: &str, arguments: &[&str], input: &str) {
        use std::io::Write as _;
        let mut command = self.command(&format!("org.apache.kafka.tools.{class}"), arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("java runs");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("the input is taken");
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn apache_kafkas_own_tools() {
    let broker = Broker::start();
    let Some(java) = Java::new(&broker) else { return };
    java.tool(
        "TopicCommand",
        &["--create", "--topic", "orders", "--partitions", "3", "--config", "retention.ms=86400000"],
    );
    let described = java.tool("TopicCommand", &["--describe", "--topic", "orders"]);
    assert!(described.contains("PartitionCount: 3") && described.contains("retention.ms=86400000"), "{described}");
    java.tool("TopicCommand", &["--alter", "--topic", "orders", "--partitions", "4"]);

    let lines: String = (0..200).map(|n| format!("key{n}:value{n}\n")).collect();
    let properties = ["--reader-property", "parse.key=true", "--reader-property", "key.separator=:"];
    java.tool_with_input("ConsoleProducer", &[&["--topic", "orders"][..], &properties].concat(), &lines);
    let consumed = java.tool(
        "consumer.ConsoleConsumer",
        &[
            "--topic",
            "orders",
            "--group",
            "readers",
            "--from-beginning",
            "--max-messages",
            "200",
            "--timeout-ms",
            "60000",
        ],
    );
    let mut values: Vec<&str> = consumed.lines().collect();
    values.sort_unstable();
    values.dedup();
    assert_eq!(values.len(), 200, "{consumed}");

    let group = java.tool("consumer.group.ConsumerGroupCommand", &["--describe", "--group", "readers"]);
    assert!(group.contains("orders"), "{group}");
    let offsets = java.tool("GetOffsetShell", &["--topic", "orders", "--time", "-1"]);
    let total: i64 = offsets.lines().filter_map(|line| line.rsplit(':').next()?.parse::<i64>().ok()).sum();
    assert_eq!(total, 200, "{offsets}");

    // The group's commits are records in Kafka's own format.
    let stored = java.tool(
        "consumer.ConsoleConsumer",
        &[
            "--topic",
            "__consumer_offsets",
            "--from-beginning",
            "--timeout-ms",
            "5000",
            "--formatter",
            "org.apache.kafka.tools.consumer.OffsetsMessageFormatter",
        ],
    );
    assert!(stored.contains("readers") && stored.contains("orders"), "{stored}");

    let configs = java.command(
        "kafka.admin.ConfigCommand",
        &["--alter", "--entity-type", "topics", "--entity-name", "orders", "--add-config", "segment.bytes=1048576"],
    );
    let mut configs = configs;
    run(&mut configs);
    let mut shown = java
        .command("kafka.admin.ConfigCommand", &["--describe", "--entity-type", "topics", "--entity-name", "orders"]);
    assert!(text(&run(&mut shown)).contains("segment.bytes=1048576"));
    let directories = java.tool("LogDirsCommand", &["--describe", "--topic-list", "orders"]);
    assert!(directories.contains("\"partition\":\"orders-0\""), "{directories}");
    java.tool(
        "consumer.group.ConsumerGroupCommand",
        &["--reset-offsets", "--group", "readers", "--topic", "orders", "--to-earliest", "--execute"],
    );
    java.tool("consumer.group.ConsumerGroupCommand", &["--delete", "--group", "readers"]);
    java.tool("TopicCommand", &["--delete", "--topic", "orders"]);
    let listed = java.tool("TopicCommand", &["--list"]);
    assert!(!listed.lines().any(|line| line == "orders"), "{listed}");
}

#[test]
fn the_java_client_with_both_group_protocols_and_its_performance_tools() {
    let broker = Broker::start();
    let Some(java) = Java::new(&broker) else { return };
    let mut program = Command::new("java");
    program.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m"]);
    program.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp"]);
    program
        .arg(format!("{}/*", java.libraries.display()))
        .arg(sources("java").join("RoundTrip.java"))
        .arg(&broker.kafka);
    let output = text(&run(&mut program));
    for line in ["idempotent ok", "classic group ok", "consumer group ok", "admin ok"] {
        assert!(output.contains(line), "{line} in {output}");
    }
}

#[test]
fn kafka_python_and_confluent_kafka_python() {
    if !has_python() {
        return;
    }
    let broker = Broker::start();
    let environment = installed("python");
    let python = environment.join("bin/python");
    {
        let _one = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !environment.join("installed").exists() {
            run(Command::new("python3").args(["-m", "venv"]).arg(&environment));
            let requirements = sources("python").join("requirements.txt");
            run(Command::new(&python).args(["-m", "pip", "install", "-q", "-r"]).arg(requirements));
            std::fs::write(environment.join("installed"), "").expect("written");
        }
    }
    for program in ["kafka_python.py", "confluent.py"] {
        let output = text(&run(Command::new(&python).arg(sources("python").join(program)).arg(&broker.kafka)));
        assert!(output.contains("all ok"), "{program}: {output}");
    }
}

#[test]
fn kafkajs() {
    if !available(&["node", "npm"]) {
        return;
    }
    let broker = Broker::start();
    let directory = installed("node");
    {
        let _one = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for file in ["package.json", "package-lock.json", "round_trip.js"] {
            std::fs::copy(sources("node").join(file), directory.join(file)).expect("copied");
        }
        if !directory.join("node_modules/kafkajs").exists() {
            run(Command::new("npm").args(["ci", "--silent", "--no-audit", "--no-fund"]).current_dir(&directory));
        }
    }
    let output = text(&run(Command::new("node").arg("round_trip.js").arg(&broker.kafka).current_dir(&directory)));
    assert!(output.contains("all ok"), "{output}");
}

#[test]
fn franz_go() {
    if !available(&["go"]) {
        return;
    }
    let broker = Broker::start();
    let binary = installed("go").join("round-trip");
    {
        let _one = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        run(Command::new("go").args(["build", "-o"]).arg(&binary).arg(".").current_dir(sources("go")));
    }
    let output = text(&run(Command::new(&binary).arg(&broker.kafka)));
    assert!(output.contains("all ok"), "{output}");
}
