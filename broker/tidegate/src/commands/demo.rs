//! `tidegate demo`: a broker, a router plugin and a real access log, shown step by step.
//!
//! It runs the commands that its user would: each is printed before it is run, with this same binary.

use std::{
    io::{BufRead as _, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use tidegate_plugin_host::build::{Profile, Progress, build_component};

use crate::client::{Cluster, offsets::Position};

/// The topics that the log is split into, and the patterns that choose them. A key is `<status>.<method>.<first part of the path>`.
const BINDINGS: &[(&str, &str)] = &[
    ("access-errors", "4xx.#"),
    ("access-errors", "5xx.#"),
    ("access-logins", "*.*.login"),
    ("access-json", "*.*.json"),
    ("access-writes", "*.POST.#"),
    ("access-writes", "*.PUT.#"),
    ("access-writes", "*.DELETE.#"),
    ("access-redirects", "3xx.#"),
];
const OTHERS: &str = "access-others";

/// Show a broker with a router plugin at work on a real web server's access log
#[derive(Debug, Args)]
#[command(after_help = "\
Run it in the project's directory: it builds plugins/router-topic and reads examples/access-log/access.log.

Examples:
  cargo run --release -p tidegate -- demo
  tidegate demo --exit              stop when everything was shown")]
pub(super) struct DemoArgs {
    /// Keep the demo's data here; what an earlier demo left there is removed
    #[arg(long, value_name = "DIR", default_value = "./tidegate-demo")]
    data_dir: PathBuf,
    /// The project's directory
    #[arg(long, value_name = "DIR", default_value = ".")]
    project: PathBuf,
    /// Stop at the end instead of keeping the broker running until Ctrl-C
    #[arg(long)]
    exit: bool,
}

/// Left in the data directory, so that a demo removes only what a demo made.
const MARK: &str = ".tidegate-demo";

impl DemoArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let log = self.project.join("examples/access-log/access.log");
        let plugin = self.project.join("plugins/router-topic");
        ensure!(
            log.is_file() && plugin.is_dir(),
            "{} is not the project's directory: run the demo there, or name it with --project",
            self.project.display()
        );
        let lines = std::fs::read_to_string(&log).with_context(|| format!("{} cannot be read", log.display()))?;

        say(out, "1. Building the router plugin, plugins/router-topic, as a WebAssembly component")?;
        let built = build_component(&plugin, Profile::Release, Progress::Show)?;
        writeln!(out, "   {} ({} KiB)", built.path.display(), built.component.bytes.len() / 1024)?;

        say(out, "2. Starting a broker")?;
        prepare(&self.data_dir)?;
        let demo = Demo::start(&self.data_dir, out)?;

        say(out, "3. Deploying the plugin into the running broker")?;
        demo.tidegate(
            out,
            &["plugin", "deploy", "topic-patterns", &built.path.display().to_string(), "--admin", &demo.admin.clone()],
        )?;

        say(out, "4. Creating the topics, and attaching the router to the one that the log is sent to")?;
        let mut topics: Vec<&str> = BINDINGS.iter().map(|(topic, _)| *topic).chain([OTHERS]).collect();
        topics.sort_unstable();
        topics.dedup();
        for topic in &topics {
            demo.tidegate(out, &["topic", "create", topic])?;
        }
        let bindings: Vec<_> =
            BINDINGS.iter().map(|(topic, pattern)| serde_json::json!({"pattern": pattern, "topic": topic})).collect();
        let config = serde_json::json!({"source": {"key": true}, "bindings": bindings, "unmatched": {"topic": OTHERS}});
        demo.tidegate(out, &["topic", "create", "access-log", "--partitions", "4"])?;
        let router = format!("tidegate.router.config={config}");
        demo.tidegate(
            out,
            &["topic", "alter", "access-log", "--config", "tidegate.router=topic-patterns", "--config", &router],
        )?;

        say(out, "5. Sending a real web server's access log, a line a record, to access-log")?;
        let records: Vec<String> = lines.lines().filter_map(record).collect();
        writeln!(
            out,
            "   examples/access-log/access.log: {} lines; the first record's key is {}",
            records.len(),
            records[0].split('\t').next().unwrap_or_default()
        )?;
        demo.send(out, &records)?;

        say(out, "6. What the router made of it")?;
        demo.table(out, &topics, records.len())?;

        say(out, "To look further, in another terminal")?;
        let binary = demo.binary.display().to_string();
        for command in [
            format!("{binary} consume access-errors --bootstrap {} --offset beginning -n 5", demo.kafka),
            format!("{binary} topic describe access-log --bootstrap {}", demo.kafka),
            format!("{binary} plugin list --admin {}", demo.admin),
            format!("curl http://{}/metrics", demo.admin),
            format!("kcat -b {} -L        # or any other Kafka client", demo.kafka),
        ] {
            writeln!(out, "   {command}")?;
        }
        out.flush()?;
        if self.exit {
            return demo.stop();
        }
        writeln!(out, "\nThe broker runs until Ctrl-C; its data are in {}.", self.data_dir.display())?;
        out.flush()?;
        demo.wait()
    }
}

fn say(out: &mut dyn Write, what: &str) -> std::io::Result<()> {
    writeln!(out, "\n{what}")?;
    out.flush()
}

/// An empty directory of the demo's own.
fn prepare(directory: &Path) -> anyhow::Result<()> {
    let empty = std::fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none());
    if !empty {
        ensure!(
            directory.join(MARK).exists(),
            "{} holds something that no demo made: name another directory with --data-dir",
            directory.display()
        );
        std::fs::remove_dir_all(directory).with_context(|| format!("{} cannot be removed", directory.display()))?;
    }
    std::fs::create_dir_all(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    Ok(std::fs::write(directory.join(MARK), "")?)
}

/// A line of the access log as key, tab, value; `None` for a line that is no request.
fn record(line: &str) -> Option<String> {
    let mut quoted = line.split('"');
    let (_, request, after) = (quoted.next()?, quoted.next()?, quoted.next()?);
    let mut words = request.split(' ');
    let (method, path) = (words.next()?, words.next().unwrap_or("/"));
    let status = after.split_whitespace().next()?.get(..1)?;
    let word = |text: &str| -> String {
        text.chars()
            .map(|letter| if letter.is_ascii_alphanumeric() || letter == '-' { letter } else { '_' })
            .take(40)
            .collect()
    };
    let first = path.trim_start_matches('/').split(['/', '?']).next().filter(|part| !part.is_empty()).unwrap_or("root");
    Some(format!("{status}xx.{}.{}\t{line}", word(method), word(first)))
}

/// The demo's broker, a child of this process.
struct Demo {
    broker: Option<Child>,
    binary: PathBuf,
    kafka: String,
    admin: String,
}

impl Demo {
    fn start(directory: &Path, out: &mut dyn Write) -> anyhow::Result<Self> {
        let binary = std::env::current_exe().context("this program's own path is not known")?;
        let data = directory.join("data");
        writeln!(out, "   $ tidegate serve --data-dir {} --listen 127.0.0.1:0 --admin 127.0.0.1:0", data.display())?;
        out.flush()?;
        let mut broker = Command::new(&binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("the broker cannot be started")?;
        let stdout = broker.stdout.take().context("the broker has no standard output")?;
        let mut demo = Self { broker: Some(broker), binary, kafka: String::new(), admin: String::new() };
        let mut ready = String::new();
        BufReader::new(stdout).read_line(&mut ready)?;
        for word in ready.split_whitespace() {
            match word.split_once('=') {
                Some(("kafka", address)) => address.clone_into(&mut demo.kafka),
                Some(("admin", address)) => address.clone_into(&mut demo.admin),
                _ => {}
            }
        }
        ensure!(!demo.kafka.is_empty(), "the broker did not start; what it says is above");
        write!(out, "   {ready}")?;
        Ok(demo)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("TIDEGATE_BOOTSTRAP", &self.kafka);
        command
    }

    /// Prints a command, and runs it.
    fn tidegate(&self, out: &mut dyn Write, arguments: &[&str]) -> anyhow::Result<()> {
        let quoted: Vec<String> = arguments
            .iter()
            .map(|text| if text.contains(['{', ' ', '*', '#']) { format!("'{text}'") } else { (*text).to_owned() })
            .collect();
        writeln!(out, "   $ tidegate {}", quoted.join(" "))?;
        out.flush()?;
        let output = self.command(arguments).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    fn send(&self, out: &mut dyn Write, records: &[String]) -> anyhow::Result<()> {
        writeln!(out, "   $ tidegate produce access-log --key-separator '\\t' < records")?;
        out.flush()?;
        let mut child = self
            .command(&["produce", "access-log", "--key-separator", "\\t"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        {
            let mut input = child.stdin.take().context("the command has no standard input")?;
            for record in records {
                writeln!(input, "{record}")?;
            }
        }
        ensure!(child.wait()?.success(), "the records could not be sent; the reason is above");
        Ok(())
    }

    fn table(&self, out: &mut dyn Write, topics: &[&str], sent: usize) -> anyhow::Result<()> {
        let mut cluster = Cluster::connect(&self.kafka)?;
        writeln!(out, "   {:<20} {:>8}   patterns", "topic", "records")?;
        let mut total = 0;
        for topic in topics {
            let ends = cluster.offsets(&[((*topic).to_owned(), 0)], Position::Latest)?;
            let records: i64 = ends.values().map(|offset| offset.0).sum();
            total += records;
            let patterns: Vec<&str> =
                BINDINGS.iter().filter(|(to, _)| to == topic).map(|(_, pattern)| *pattern).collect();
            let patterns =
                if patterns.is_empty() { "what nothing else matched".to_owned() } else { patterns.join("  ") };
            writeln!(out, "   {topic:<20} {records:>8}   {patterns}")?;
        }
        writeln!(
            out,
            "   {:<20} {total:>8}   from {sent} lines: a record goes to every topic that it matches",
            "together"
        )?;
        ensure!(total >= sent as i64, "{sent} lines were sent, and only {total} records arrived");
        Ok(())
    }

    /// Until Ctrl-C, which the broker gets as well, or until the broker ends by itself.
    fn wait(mut self) -> anyhow::Result<()> {
        if let Some(mut broker) = self.broker.take() {
            let status = broker.wait()?;
            ensure!(status.success(), "the broker has ended: {status}");
        }
        Ok(())
    }

    fn stop(mut self) -> anyhow::Result<()> {
        if let Some(mut broker) = self.broker.take() {
            let sent = Command::new("kill").args(["-TERM", &broker.id().to_string()]).status()?;
            ensure!(sent.success(), "the broker could not be told to stop");
            let status = broker.wait()?;
            ensure!(status.success(), "the broker has ended: {status}");
        }
        Ok(())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if let Some(mut broker) = self.broker.take() {
            // Something went wrong before: the demo's broker ends with it.
            let _ = broker.kill();
            let _ = broker.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::record;

    #[test]
    fn a_line_becomes_a_key_of_words() {
        let line = r#"1.2.3.4 - - [22/Jan/2021:01:47:05 +0000] "GET /login?x=1 HTTP/1.1" 200 654 "-" "Mozilla""#;
        assert_eq!(record(line), Some(format!("2xx.GET.login\t{line}")));
        let root = r#"1.2.3.4 - - [x] "POST / HTTP/1.1" 503 0 "-" "-""#;
        assert_eq!(record(root), Some(format!("5xx.POST.root\t{root}")));
        assert_eq!(record("nonsense"), None);
    }
}
