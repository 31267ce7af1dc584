//! What the author of a plugin does, as the documentation says it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    broker::Broker,
    clients,
    faults::{keyless_batch, produce},
    librdkafka::create_topic,
    offload::files_below,
    raw::Raw,
    retention::{contents, counts, fill},
    routed::deploy,
};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A command line with `tidegate` on its path. What it fetches, the build of these tests has fetched before.
fn shell(script: &str, folder: &Path) -> Command {
    let binaries = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().expect("a folder");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("bash");
    command
        .args(["-ec", script])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", binaries.display()))
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .env("CARGO_NET_OFFLINE", "true")
        .env_remove("CARGO_TARGET_DIR")
        .stdin(Stdio::null());
    command
}

fn output(mut command: Command) -> String {
    let output = command.output().expect("it runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    out.into_owned()
}

fn tidegate(folder: &Path, arguments: &[&str]) -> String {
    let mut command = shell("exec tidegate \"$@\"", folder);
    command.arg("tidegate").args(arguments);
    output(command)
}

/// A command of a `console` block, and what is printed: `...` stands for any lines.
struct Step {
    command: String,
    printed: Vec<String>,
}

fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in document.lines() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside => {}
            _ => match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { command: command.to_owned(), printed: Vec::new() }),
                None => steps.last_mut().expect("a block begins with a command").printed.push(line.to_owned()),
            },
        }
    }
    steps
}

/// Whether the lines are the expected ones, `...` being any number of them.
fn is_as_expected(expected: &[String], lines: &[&str]) -> bool {
    match expected {
        [] => lines.is_empty(),
        [first, rest @ ..] if first == "..." => {
            (0..=lines.len()).any(|skipped| is_as_expected(rest, &lines[skipped..]))
        }
        [first, rest @ ..] => {
            lines.first().is_some_and(|line| without_size(line) == without_size(first))
                && is_as_expected(rest, &lines[1..])
        }
    }
}

/// The size of a component, at the end of a line, is not the same in each build.
fn without_size(line: &str) -> &str {
    if line.ends_with("iB)") { line.rsplit_once(" (").map_or(line, |(rest, _)| rest) } else { line }
}

/// Does what a README says, in a folder of its own and with a broker.
fn follow(readme: &str, broker: &Broker) {
    let document = fs::read_to_string(repository().join(readme)).expect("the SDK has a README");
    let steps = steps(&document);
    assert!(steps.len() >= 10, "the commands of the README were found");
    let folder = tempfile::tempdir().expect("a temporary directory");
    // One shell for all, which keeps its directory; after each command it says so.
    let script: String = steps.iter().map(|step| format!("{}\necho '---- done'\n", step.command)).collect();
    let mut command = with_tools(shell(&script, folder.path()));
    command.env("TIDEGATE_BOOTSTRAP", &broker.kafka).env("TIDEGATE_ADMIN", &broker.admin);
    let printed = output(command);
    let printed: Vec<&str> = printed.split("---- done\n").collect();
    assert_eq!(printed.len(), steps.len() + 1);
    for (step, printed) in steps.iter().zip(printed) {
        let lines: Vec<&str> = printed.lines().collect();
        assert!(
            is_as_expected(&step.printed, &lines),
            "{}\nprinted:\n{printed}\nexpected:\n{}",
            step.command,
            step.printed.join("\n")
        );
    }
}

/// What builds plugins of other languages is fetched once for all tests.
fn with_tools(mut command: Command) -> Command {
    command.env("XDG_CACHE_HOME", clients::installed("plugin-tools"));
    command
}

#[test]
fn a_plugin_in_ten_minutes_is_as_the_documentation_says() {
    follow("sdk/rust/README.md", &Broker::start());
}

/// The lines of configuration that a README asks for.
fn settings(readme: &str) -> String {
    let document = fs::read_to_string(repository().join(readme)).expect("the SDK has a README");
    let block = document.split("```toml\n").nth(1).expect("it has settings").split("```").next().unwrap_or_default();
    block.to_owned()
}

#[test]
fn a_plugin_in_python_is_as_the_documentation_says() {
    if clients::has_python() {
        let readme = "sdk/python/README.md";
        follow(readme, &Broker::start_configured(&settings(readme), &[], None));
    }
}

#[test]
fn a_plugin_in_javascript_is_as_the_documentation_says() {
    if clients::has_node() {
        let readme = "sdk/javascript/README.md";
        follow(readme, &Broker::start_configured(&settings(readme), &[], None));
    }
}

/// The kinds of `tidegate plugin new`, and how many records each is asked about by `tidegate plugin test`: policies that do not erase, about
/// none.
const KINDS: [(&str, usize); 7] = [
    ("router", 3),
    ("partitioner", 3),
    ("ack", 2),
    ("retention", 0),
    ("eraser", 2),
    ("offloader", 0),
    ("archivist", 2),
];

/// A new plugin of a kind: its tests pass, it builds, and in the sandbox it does what it should.
fn new_plugin(folder: &Path, kind: &str, records: usize, test: &str) {
    output(shell(&format!("cd {kind} && {test}"), folder));
    let command = match records {
        0 => format!("cd {kind} && tidegate plugin build --path > /dev/null"),
        _ => format!(
            "cd {kind} && tidegate plugin test . --records records.jsonl --config-file config.json --expect expected.jsonl"
        ),
    };
    let said = output(with_tools(shell(&command, folder)));
    let expected = if records == 0 { String::new() } else { format!("{records} records went where they should\n") };
    assert_eq!(said, expected, "{kind}");
}

/// The example's tests, and a new plugin of each kind.
fn other_language(language: &str, test: &str) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let folder_path = folder.path();
    let make = |kinds: &[(&str, usize)]| {
        for (kind, records) in kinds {
            tidegate(folder_path, &["plugin", "new", kind, "--lang", language, "--kind", kind]);
            new_plugin(folder_path, kind, *records, test);
        }
    };
    // The tools take one core each, and some tens of seconds for each plugin.
    std::thread::scope(|scope| {
        for kinds in KINDS.chunks(4) {
            scope.spawn(|| make(kinds));
        }
    });
    output(shell(test, &repository().join(format!("examples/first-router-{language}"))));
    let refused = shell("tidegate plugin new other --lang python --sdk .", folder.path()).output().expect("it runs");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--sdk is for plugins in Rust"));
    let settings = settings(&format!("sdk/{language}/README.md"));
    new_policies_offload(folder.path(), &settings, |kind| format!("{kind}/target/plugins/{kind}.component.wasm"));
}

/// In a broker with an object store, the segments of a topic with a new policy go there, and are read from there as before.
fn new_policies_offload(folder: &Path, settings: &str, built: impl Fn(&str) -> String) {
    let objects = tempfile::tempdir().expect("a temporary directory");
    let store = format!("object.store.url = \"file://{}\"\n", objects.path().display());
    let broker = Broker::start_configured(&format!("{settings}{store}"), &[], None);
    for kind in ["offloader", "archivist"] {
        deploy(&broker, kind, folder.join(built(kind)).to_str().expect("a path of text"));
        let config = r#"{ "groups": [], "on_disk_days": 0 }"#;
        let configs = [("segment.bytes", "10000"), ("tidegate.retention", kind), ("tidegate.retention.config", config)];
        create_topic(&broker, kind, 1, &configs);
        fill(&broker, kind, 10);
        counts(&broker, kind, |counts| counts["offloaded_segments"].as_u64() >= Some(3));
        assert!(files_below(objects.path()).len() >= 3);
        assert_eq!(contents(&broker, kind).len(), 10);
    }
}

#[test]
fn plugins_in_python_do_what_their_readme_says() {
    if clients::has_python() {
        output(shell("python3 -B -m unittest discover -s tests", &repository().join("sdk/python")));
        other_language("python", "python3 -B -m unittest");
    }
}

#[test]
fn plugins_in_javascript_do_what_their_readme_says() {
    if clients::has_node() {
        output(shell("node --test", &repository().join("sdk/javascript")));
        other_language("javascript", "node --test");
    }
}

/// Numbers of 64 bits cross into JavaScript as doubles: nulls of large batches were lost, or taken for empty, or empty ones for null; counters and
/// policies trapped.
#[test]
fn javascript_sees_nulls_of_large_batches_and_counts() {
    if !clients::has_node() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    tidegate(folder.path(), &["plugin", "new", "mine", "--lang", "javascript", "--kind", "eraser"]);
    let source = r#"
        import { Eraser } from "./tidegate-sdk/index.js";
        export default class NoNulls extends Eraser {
          open(_config, setup) {
            setup.readKeys();
            this.seen = setup.counter("seen");
          }
          evaluate(_topic, logs) {
            return logs.map((log) => ({ deleteBefore: log.startOffset, rewrite: log.segments.map((_, at) => at) }));
          }
          keep(batch) {
            this.seen.add(batch.count);
            return batch.keys.map((key) => key !== null);
          }
        }"#;
    fs::write(folder.path().join("mine/plugin.js"), source).expect("written");
    let is_null = |record: usize| record % 2 == 1 || (60..64).contains(&record) || record > 190;
    let key = |record: usize| match record {
        _ if is_null(record) => Value::Null,
        // An empty key is none that is missing.
        _ if record.is_multiple_of(4) => Value::from(""),
        _ => Value::from(format!("k{record}")),
    };
    let records: String = (0..200).map(|record| format!("{}\n", json!({ "key": key(record), "value": "v" }))).collect();
    fs::write(folder.path().join("mine/large.jsonl"), records).expect("written");
    let test = "cd mine && tidegate plugin test . --records large.jsonl --json";
    let answered: Vec<Value> = serde_json::from_str(&output(shell(test, folder.path()))).expect("JSON");
    for (record, answer) in answered.iter().enumerate() {
        assert_eq!(answer["kept"], Value::from(!is_null(record)), "record {record}: {answer}");
    }

    let settings = "\"plugin.deadline.ms\" = 10000\n";
    let broker = Broker::start_configured(settings, &[], None);
    let built = folder.path().join("mine/target/plugins/mine.component.wasm");
    deploy(&broker, "mine", built.to_str().expect("a path of text"));
    create_topic(&broker, "short", 1, &[("segment.bytes", "100"), ("tidegate.retention", "mine")]);
    let mut raw = Raw::new(broker.connect());
    let mut erased = 0;
    while erased == 0 {
        assert_eq!(produce(&mut raw, "short", keyless_batch()), (0, String::new()));
        let listing: Value = serde_json::from_str(&broker.get("/v1/attachments").1).expect("JSON");
        let Some(attachment) = listing["attachments"].get(0) else { continue };
        assert_eq!(attachment["traps"], 0, "{attachment}");
        erased = attachment["erased"].as_u64().expect("a number");
    }
}

#[test]
fn a_folder_that_is_no_plugin_is_told_what_it_lacks() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let build = |expected: &str| {
        let said = shell("tidegate plugin build", folder.path()).output().expect("it runs");
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains(expected), "{said}");
    };
    build("no Cargo.toml, pyproject.toml or package.json");
    fs::write(folder.path().join("package.json"), "{").expect("written");
    build("package.json: EOF while parsing");
    fs::write(folder.path().join("package.json"), "{ \"name\": \"a\" }").expect("written");
    build("add `\"tidegate\": { \"world\": \"router\" }`");
    fs::write(folder.path().join("pyproject.toml"), "[tool.tidegate]\nworld = \"wold\"\n").expect("written");
    build(
        "\"wold\" is no world of a plugin; there are router, partitioner, ack, retention, eraser, offloader, archivist",
    );
}

/// What rustc said scrolled away: all of cargo's messages, meant for programs, came after it.
#[test]
fn a_plugin_that_does_not_compile_is_told_what_the_compiler_says_and_no_more() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let manifest = "[package]\nname = \"wrong\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n[workspace]\n";
    fs::write(folder.path().join("Cargo.toml"), manifest).expect("written");
    fs::create_dir(folder.path().join("src")).expect("made");
    fs::write(folder.path().join("src/lib.rs"), "pub fn wrong() -> u8 { \"text\" }\n").expect("written");
    let built = shell("tidegate plugin build", folder.path()).output().expect("it runs");
    let said = String::from_utf8_lossy(&built.stderr).into_owned();
    assert!(!built.status.success() && said.contains("mismatched types") && said.contains("src/lib.rs:1:24"), "{said}");
    assert!(!said.contains("\"reason\""), "{said}");
}

#[test]
fn a_new_partitioner_builds_and_its_tests_pass() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    tidegate(folder.path(), &["plugin", "new", "my-partitioner", "--kind", "partitioner"]);
    output(shell("cd my-partitioner && cargo test", folder.path()));
    let command =
        "cd my-partitioner && tidegate plugin test . --records records.jsonl --config-file config.json --json";
    let answered: Vec<Value> = serde_json::from_str(&output(shell(command, folder.path()))).expect("JSON");
    assert_eq!(answered[0]["partition"], answered[1]["partition"], "records of a customer stay together");
    // A folder that is not empty stays as it is.
    let again = shell("tidegate plugin new my-partitioner", folder.path()).output().expect("it runs");
    assert!(String::from_utf8_lossy(&again.stderr).contains("not empty"));
    let bench = "tidegate plugin bench my-partitioner --config-file my-partitioner/config.json --json";
    let measured: Vec<Value> = serde_json::from_str(&output(shell(bench, folder.path()))).expect("JSON");
    assert_eq!(measured.len(), 4);
    assert!(
        measured.iter().all(|one| one["no_op_ns_per_record"].as_f64().is_some_and(|cost| cost > 0.0)),
        "{measured:?}"
    );
}

#[test]
fn new_hooks_and_policies_build_and_do_what_their_readme_says() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    // One for all: what they depend on is built once.
    fs::create_dir(folder.path().join("target")).expect("made");
    for (kind, records) in KINDS.into_iter().filter(|(kind, _)| !matches!(*kind, "router" | "partitioner")) {
        tidegate(folder.path(), &["plugin", "new", kind, "--kind", kind]);
        std::os::unix::fs::symlink("../target", folder.path().join(kind).join("target")).expect("linked");
        new_plugin(folder.path(), kind, records, "cargo test");
        let built = output(shell(&format!("tidegate plugin build {kind}"), folder.path()));
        let what = if kind == "ack" { "an acknowledgement hook" } else { "a retention policy" };
        assert!(built.contains(what), "{built}");
        if matches!(kind, "ack" | "eraser") {
            let bench = format!("tidegate plugin bench {kind} --config-file {kind}/config.json --json");
            let measured: Vec<Value> = serde_json::from_str(&output(shell(&bench, folder.path()))).expect("JSON");
            assert!(measured.iter().all(|one| one["no_op_ns_per_record"].as_f64().is_some_and(|cost| cost > 0.0)));
        }
    }
    new_policies_offload(folder.path(), "", |kind| format!("target/plugins/{kind}.component.wasm"));
}

/// They are asked about in batches of a thousand; of a file with more, the rest was left out.
#[test]
fn a_plugin_is_tested_with_all_records_of_a_file() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let plugin = component(&repository().join("plugins/router-direct"));
    let records: String = (0..2_500).map(|number| format!("{{ \"key\": \"{}\" }}\n", number % 3)).collect();
    let expected: String = (0..2_500)
        .map(|number| if number % 3 == 0 { "{ \"to\": [\"zero\"] }\n" } else { "{ \"to\": [\"rest\"] }\n" })
        .collect();
    fs::write(folder.path().join("records.jsonl"), records).expect("written");
    fs::write(folder.path().join("expected.jsonl"), &expected).expect("written");
    let config = r#"{"bindings":[{"key":"0","topic":"zero"},{"key":"1","topic":"rest"},{"key":"2","topic":"rest"}]}"#;
    let arguments = ["plugin", "test", &plugin, "--records", "records.jsonl", "--config", config];
    let test = |more: &[&str]| tidegate(folder.path(), &[&arguments[..], more].concat());
    assert_eq!(test(&["--expect", "expected.jsonl"]), "2,500 records went where they should\n");
    let answered: Vec<Value> = serde_json::from_str(&test(&["--json"])).expect("JSON");
    assert_eq!(answered.len(), 2_500);
    assert!(answered.iter().enumerate().all(|(number, one)| one["record"] == number), "in their order");
    // One that goes elsewhere is found behind the first thousand.
    let wrong = expected.trim_end().strip_suffix("[\"zero\"] }").map(|rest| format!("{rest}[\"rest\"] }}\n"));
    fs::write(folder.path().join("expected.jsonl"), wrong.expect("the last is one of zero")).expect("written");
    let mut command = shell("exec tidegate \"$@\"", folder.path());
    command.arg("tidegate").args(arguments).args(["--expect", "expected.jsonl"]);
    let refused = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("1 of 2500 records") && said.contains("record 2499"), "{said}");
}

/// Of a thousand records it was only said that they have no answer.
#[test]
fn records_that_a_plugin_fails_with_are_found_and_the_others_are_answered() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let plugin = component(&repository().join("broker/plugin-host/tests/guests/router"));
    let records: String = (0..1_100)
        .map(|number| if [17, 18, 1_050].contains(&number) { "{ \"key\": \"bad\" }\n" } else { "{ \"key\": \"a\" }\n" })
        .collect();
    fs::write(folder.path().join("records.jsonl"), records).expect("written");
    let test = |more: &[&str]| {
        let mut command = shell("exec tidegate \"$@\"", folder.path());
        command.args([
            "tidegate",
            "plugin",
            "test",
            &plugin,
            "--records",
            "records.jsonl",
            "--config",
            "panic-with:bad",
        ]);
        command.args(more).output().expect("it runs")
    };
    let output = test(&["--json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("fails with 3 records"), "{said}");
    let answered: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answered.len(), 1_100);
    let failed: Vec<usize> = (0..1_100).filter(|number| answered[*number]["failed"].is_string()).collect();
    assert_eq!(failed, [17, 18, 1_050]);
    assert!(answered[17]["failed"].as_str().is_some_and(|words| words.contains("bad is there")), "{}", answered[17]);
    assert_eq!(answered[19]["to"], serde_json::json!(["sent-to"]));
    // It can be what is expected.
    fs::write(folder.path().join("expected.json"), &output.stdout).expect("written");
    let output = test(&["--expect", "expected.json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_plugin_is_tried_without_writing_anything() {
    let broker = Broker::start();
    let folder = repository();
    let run = |arguments: &[&str]| {
        let mut command = shell("exec tidegate \"$@\"", &folder);
        command.arg("tidegate").args(arguments);
        output({
            command.env("TIDEGATE_BOOTSTRAP", &broker.kafka).env("TIDEGATE_ADMIN", &broker.admin);
            command
        })
    };
    let built = |name: &str| component(&folder.join("plugins").join(name));
    run(&["plugin", "deploy", "direct", &built("router-direct")]);
    run(&["plugin", "deploy", "murmur2", &built("partitioner-murmur2")]);
    run(&["topic", "create", "one", "--partitions", "7", "--config", "tidegate.partitioner=murmur2"]);
    let config = r#"tidegate.router.config={"bindings":[{"key":"foobar","topic":"one"},{"key":"foobar","topic":"two"},{"key":"bad","topic":"one"}],"unmatched":"reject"}"#;
    run(&["topic", "create", "two"]);
    run(&["topic", "create", "source", "--config", "tidegate.router=direct", "--config", config]);

    let tried: Value =
        serde_json::from_str(&run(&["plugin", "try", "--topic", "source", "--key", "foobar", "--json"])).expect("JSON");
    assert_eq!(tried["router"]["plugin"], "direct");
    assert!(tried["router"]["nanoseconds"].as_f64().is_some_and(|time| time > 0.0));
    // What librdkafka's murmur2 answers for 7 partitions.
    assert_eq!(
        (&tried["destinations"][0]["topic"], &tried["destinations"][0]["partition"]),
        (&"one".into(), &0.into())
    );
    assert_eq!(tried["destinations"][0]["partitioner"]["plugin"], "murmur2");
    assert_eq!(
        (&tried["destinations"][1]["topic"], &tried["destinations"][1]["partition"]),
        (&"two".into(), &Value::Null)
    );
    let refused = run(&["plugin", "try", "--topic", "source", "--key", "other"]);
    assert!(refused.contains("rejected: no binding has the routing key 'other'"), "{refused}");
    for topic in ["source", "one", "two"] {
        assert_eq!(run(&["consume", topic, "--exit-at-end"]), "", "nothing is written to {topic}");
    }

    // The same from records that are there.
    run(&["topic", "create", "plain"]);
    let mut produce = shell("printf 'foobar:1\\nother:2\\n' | tidegate produce plain --key-separator :", &folder);
    produce.env("TIDEGATE_BOOTSTRAP", &broker.kafka);
    output(produce);
    let config = config.strip_prefix("tidegate.router.config=").expect("its name");
    let arguments =
        ["plugin", "test", &built("router-direct"), "--topic", "plain", "--from", "0", "--config", config, "--json"];
    let answered: Vec<Value> = serde_json::from_str(&run(&arguments)).expect("JSON");
    assert_eq!(answered[0]["to"], serde_json::json!(["one", "two"]));
    assert_eq!(answered[1]["rejected"], "no binding has the routing key 'other'");
    // This broker does not have all that is routed to.
    let config = r#"{"bindings":[{"key":"foobar","topic":"absent"},{"key":"other","topic":"one"}]}"#;
    let mut command = shell("exec tidegate \"$@\"", &folder);
    command.args(["tidegate", "plugin", "test", &built("router-direct"), "--topic", "plain", "--config", config]);
    let said = command.env("TIDEGATE_BOOTSTRAP", &broker.kafka).output().expect("it runs").stderr;
    let said = String::from_utf8_lossy(&said);
    let expected =
        "in this broker it would fail with 1 record: it routes to topic 'absent', which does not exist: create it\n";
    assert!(said.ends_with(expected) && said.matches("in this broker").count() == 1, "{said}");

    let described: Value = serde_json::from_str(&run(&["plugin", "describe", "direct", "--json"])).expect("JSON");
    assert_eq!((&described["topics"][0], &described["component"]["name"]), (&"source".into(), &"router-direct".into()));
}

/// Builds a plugin of this repository; the path of its component.
pub(crate) fn component(folder: &Path) -> String {
    let built = tidegate_plugin_host::build::build_component(
        folder,
        tidegate_plugin_host::build::Profile::Release,
        tidegate_plugin_host::build::Progress::Quiet,
    );
    let path = built.unwrap_or_else(|error| panic!("{}: {error}", folder.display())).path;
    path.to_str().expect("a path of text").to_owned()
}

#[test]
fn every_shipped_plugin_works_in_the_sandbox_with_its_own_example() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let records = scratch.path().join("records.jsonl");
    fs::write(&records, "{\"key\":\"eu.1\",\"value\":{\"region\":\"eu\",\"order\":{\"total\":2000}},\"headers\":{\"tenant\":\"acme\"}}\n{}\n")
        .expect("written");
    let shipped = fs::read_to_string(repository().join("plugins/README.md")).expect("it has a README");
    let mut folders: Vec<PathBuf> = fs::read_dir(repository().join("plugins"))
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("Cargo.toml").is_file())
        .collect();
    folders.sort();
    assert!(folders.len() >= 12, "{folders:?}");
    for folder in folders {
        let name = folder.file_name().and_then(|name| name.to_str()).expect("a name of text");
        assert!(shipped.contains(&format!("`{name}`")), "plugins/README.md does not tell of {name}");
        let component = component(&folder);
        let described: Value =
            serde_json::from_str(&tidegate(scratch.path(), &["plugin", "describe", &component, "--json"]))
                .expect("JSON");
        let example = described["component"]["example"].as_str().expect("an example");
        let world = described["component"]["world"].as_str().expect("a world");
        if !matches!(world, "router" | "partitioner") {
            continue;
        }
        let records = records.to_str().expect("a path of text");
        let answered: Vec<Value> = serde_json::from_str(&tidegate(
            scratch.path(),
            &["plugin", "test", &component, "--records", records, "--config", example, "--json"],
        ))
        .expect("JSON");
        assert_eq!(answered.len(), 2, "{name}");
    }
}
