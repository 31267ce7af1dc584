//! `tidegate demo`: a broker, a router plugin and a real access log, shown step by step.
//!
//! It runs the commands that its user would: each is printed before it is run, with this same binary.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, BufRead as _, BufReader, IsTerminal as _, Write},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tidegate_plugin_host::build::{Profile, Progress, build_component};

use crate::{
    client::{Cluster, offsets::Position},
    output::{self, Align, Table},
};

/// The topics that the log is split into, and the patterns that choose them. A key is `<status>.<method>.<first part of the path>`.
const BINDINGS: &[(&str, &str)] = &[
    ("access-errors", "4xx.#"),
    ("access-errors", "5xx.#"),
    ("access-redirects", "3xx.#"),
    ("access-writes", "*.POST.#"),
    ("access-writes", "*.PUT.#"),
    ("access-writes", "*.DELETE.#"),
    ("access-logins", "*.*.login"),
    ("access-json", "*.*.json"),
    ("access-live", "*.*.socket_io"),
];
const OTHERS: &str = "access-others";
/// How many pieces the log is sent in, and the pause after each where somebody watches.
const PIECES: usize = 25;
const PAUSE: Duration = Duration::from_millis(100);

const LOG: &str = "examples/access-log/access.log";
const PLUGIN: &str = "plugins/router-topic";

/// Show a broker with a router plugin at work on a real web server's access log
#[derive(Debug, Args)]
#[command(after_help = "\
Run it in the project's directory: it builds plugins/router-topic and reads examples/access-log/access.log.

Examples:
  cargo run --release -p tidegate -- demo
  tidegate demo --exit                          stop when everything was shown
  tidegate demo --listen 127.0.0.1:9092         where the commands of this program look by themselves")]
pub(super) struct DemoArgs {
    /// Keep the demo's data here; what an earlier demo left there is removed
    #[arg(long, value_name = "DIR", default_value = "./tidegate-demo")]
    data_dir: PathBuf,
    /// The project's directory; without it, this one or the nearest above it
    #[arg(long, value_name = "DIR")]
    project: Option<PathBuf>,
    /// Where the demo's broker serves Kafka clients; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: String,
    /// Stop at the end instead of keeping the broker running until Ctrl-C
    #[arg(long)]
    exit: bool,
}

/// Left in the data directory, so that a demo removes only what a demo made; locked while a demo runs.
const MARK: &str = ".tidegate-demo";

impl DemoArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let project = self.project()?;
        let log = fs::read_to_string(project.join(LOG)).with_context(|| format!("cannot read {LOG}"))?;
        let records: Vec<String> = log.lines().filter_map(record).collect();
        let first =
            records.first().and_then(|record| record.split('\t').next()).context("the access log has no request")?;
        // Before the build, which takes longest.
        let _mark = prepare(&self.data_dir)?;

        say(out, &format!("1. Building the router plugin, {PLUGIN}, as a WebAssembly component"))?;
        let built = build_component(&project.join(PLUGIN), Profile::Release, Progress::Show)?;
        writeln!(out, "   {} ({})", built.path.display(), output::bytes(built.component.bytes.len() as u64))?;

        say(out, "2. Starting a broker")?;
        let demo = Demo::start(&self.data_dir, &self.listen, out)?;

        say(out, "3. Deploying the plugin into the running broker")?;
        demo.tidegate(out, &["plugin", "deploy", "topic-patterns", &built.path.display().to_string()])?;

        say(out, "4. Creating the topics, and attaching the router to the one that the log is sent to")?;
        let mut topics: Vec<&str> = BINDINGS.iter().map(|(topic, _)| *topic).collect();
        topics.dedup();
        topics.push(OTHERS);
        let create: Vec<&str> = ["topic", "create"].iter().chain(&topics).copied().collect();
        demo.tidegate(out, &create)?;
        demo.tidegate(out, &["topic", "create", "access-log", "--partitions", "4"])?;
        let bindings: Vec<_> =
            BINDINGS.iter().map(|(topic, pattern)| serde_json::json!({"pattern": pattern, "topic": topic})).collect();
        let config = serde_json::json!({
            "source": {"key": true},
            "bindings": bindings,
            "unmatched": {"topic": OTHERS},
        });
        let router = format!("tidegate.router.config={config}");
        let attach =
            ["topic", "alter", "access-log", "--config", "tidegate.router=topic-patterns", "--config", &router];
        demo.tidegate(out, &attach)?;

        say(out, &format!("5. Sending {LOG}, a real web server's, a line a record"))?;
        let count = output::count(records.len() as u64, "record");
        writeln!(out, "   {count}; a key is STATUS.METHOD.PATH, the first is {first}")?;
        demo.send(out, &records, &topics)?;

        demo.show_further(out)?;
        if !self.exit {
            let directory = self.data_dir.display();
            writeln!(out, "\nThe broker runs until Ctrl-C; its data and its log are in {directory}.")?;
            out.flush()?;
            demo.wait();
        }
        out.flush()?;
        demo.stop()
    }

    /// Where the plugin and the log are.
    fn project(&self) -> anyhow::Result<PathBuf> {
        let here = std::env::current_dir().context("the current directory is not known")?;
        let start = self.project.as_deref().unwrap_or(&here);
        let above = if self.project.is_some() { 1 } else { usize::MAX };
        let mut candidates = start.ancestors().take(above);
        let found = candidates.find(|candidate| candidate.join(LOG).is_file() && candidate.join(PLUGIN).is_dir());
        let found = found.with_context(|| {
            let start = start.display();
            format!("{start} is not the project's directory, with {LOG} and {PLUGIN}: run the demo there, or name it with --project")
        })?;
        Ok(found.to_path_buf())
    }
}

fn say(out: &mut dyn Write, what: &str) -> io::Result<()> {
    writeln!(out, "\n{what}")?;
    out.flush()
}

/// Makes an empty directory of the demo's own, and keeps other demos out while the file lives.
fn prepare(directory: &Path) -> anyhow::Result<File> {
    let mark = directory.join(MARK);
    let is_empty = fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none());
    ensure!(
        is_empty || mark.exists(),
        "{} holds something that no demo made: name another directory with --data-dir",
        directory.display()
    );
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let file = File::options().create(true).append(true).open(&mark);
    let file = file.with_context(|| format!("cannot write {}", mark.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            bail!("another demo runs on {}: name another directory with --data-dir", directory.display())
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", mark.display()));
        }
    }
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path == mark {
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(file)
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
    broker: Child,
    binary: PathBuf,
    kafka: String,
    admin: String,
    interrupted: Arc<AtomicBool>,
}

impl Demo {
    fn start(directory: &Path, listen: &str, out: &mut dyn Write) -> anyhow::Result<Self> {
        let binary = std::env::current_exe().context("this program's own path is not known")?;
        let (data, log) = (directory.join("data"), directory.join("broker.log"));
        let logs = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let (shown_data, shown_log) = (data.display(), log.display());
        writeln!(
            out,
            "   $ tidegate serve --data-dir {shown_data} --listen {listen} --admin 127.0.0.1:0 2> {shown_log}"
        )?;
        out.flush()?;
        // From here on Ctrl-C is ours: the broker is stopped in good order, and not by the terminal.
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        let broker = Command::new(&binary)
            .args(["serve", "--listen", listen, "--admin", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(logs)
            .process_group(0)
            .spawn()
            .context("the broker cannot be started")?;
        let mut demo = Self { broker, binary, kafka: String::new(), admin: String::new(), interrupted };
        let stdout = demo.broker.stdout.take().context("the broker has no standard output")?;
        let mut ready = String::new();
        BufReader::new(stdout).read_line(&mut ready)?;
        for word in ready.split_whitespace() {
            match word.split_once('=') {
                Some(("kafka", address)) => address.clone_into(&mut demo.kafka),
                Some(("admin", address)) => address.clone_into(&mut demo.admin),
                _ => {}
            }
        }
        if demo.kafka.is_empty() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            bail!("the broker did not start:\n{}", said.trim_end());
        }
        write!(out, "   {ready}")?;
        Ok(demo)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("TIDEGATE_BOOTSTRAP", &self.kafka).env("TIDEGATE_ADMIN", &self.admin);
        command
    }

    /// Prints a command, and runs it.
    fn tidegate(&self, out: &mut dyn Write, arguments: &[&str]) -> anyhow::Result<()> {
        let quote = |text: &&str| {
            if text.contains(['{', ' ', '*', '#']) { format!("'{text}'") } else { (*text).to_owned() }
        };
        writeln!(out, "   $ tidegate {}", arguments.iter().map(quote).collect::<Vec<_>>().join(" "))?;
        out.flush()?;
        let output = self.command(arguments).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Sends the records, and shows the topics filling where somebody watches.
    fn send(&self, out: &mut dyn Write, records: &[String], topics: &[&str]) -> anyhow::Result<()> {
        writeln!(out, "   $ tidegate produce access-log --key-separator '\\t' < records\n")?;
        out.flush()?;
        let is_watched = io::stdout().is_terminal();
        let mut cluster = Cluster::connect(&self.kafka)?;
        let mut child = self
            .command(&["produce", "access-log", "--key-separator", "\\t", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let mut input = child.stdin.take().context("the command has no standard input")?;
        for piece in records.chunks(records.len().div_ceil(PIECES).max(1)) {
            for record in piece {
                writeln!(input, "{record}")?;
            }
            if self.interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            if is_watched {
                thread::sleep(PAUSE);
                let lines = filled(&mut cluster, topics)?.0.lines();
                lines.iter().try_for_each(|line| writeln!(out, "   {line}\x1b[K"))?;
                // Back to the first of them, to be written over by the next.
                write!(out, "\x1b[{}A", lines.len())?;
                out.flush()?;
            }
        }
        drop(input);
        ensure!(child.wait()?.success(), "the records could not be sent; the reason is above");
        let (table, arrived) = filled(&mut cluster, topics)?;
        table.lines().iter().try_for_each(|line| writeln!(out, "   {line}"))?;
        let sent = records.len() as u64;
        writeln!(out, "\n   of {}: a record goes to every topic that it matches", output::count(sent, "line"))?;
        ensure!(arrived >= sent, "{sent} lines were sent, and only {arrived} records arrived");
        Ok(())
    }

    fn show_further(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        say(out, "To look further, in another terminal")?;
        let binary = self.binary.display();
        writeln!(out, "   export TIDEGATE_BOOTSTRAP={} TIDEGATE_ADMIN={}", self.kafka, self.admin)?;
        for arguments in [
            "consume access-errors --exit-at-end --offset -5",
            "consume access-writes --exit-at-end --format '%k\\n' | sort | uniq -c",
            "topic describe access-log access-errors",
            "plugin list",
        ] {
            writeln!(out, "   {binary} {arguments}")?;
        }
        writeln!(out, "   printf '5xx.GET.me\\thello\\n' | {binary} produce access-log --key-separator '\\t'")?;
        writeln!(out, "   curl http://{}/metrics", self.admin)?;
        Ok(writeln!(out, "   kcat -b {} -L        # or any other Kafka client", self.kafka)?)
    }

    /// Until Ctrl-C, or until the broker ends by itself.
    fn wait(&self) {
        let broker = PathBuf::from(format!("/proc/{}/exe", self.broker.id()));
        // A child that has ended has no executable any more, even before it is waited for.
        while !self.interrupted.load(Ordering::Relaxed) && broker.read_link().is_ok() {
            thread::sleep(PAUSE);
        }
    }

    /// As a service manager does: SIGTERM, and the broker ends in good order.
    fn stop(mut self) -> anyhow::Result<()> {
        if self.broker.try_wait()?.is_none() {
            let id = i32::try_from(self.broker.id()).ok().and_then(Pid::from_raw);
            let id = id.context("the broker has no process id")?;
            kill_process(id, Signal::TERM).context("the broker could not be told to stop")?;
        }
        let status = self.broker.wait()?;
        ensure!(status.success(), "the broker has ended: {status}; its log says why");
        Ok(())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Where something went wrong before, the demo's broker ends with it; where it has ended, this does nothing.
        let _ = self.broker.kill();
        let _ = self.broker.wait();
    }
}

/// What the topics hold, and how many records that is together.
fn filled(cluster: &mut Cluster, topics: &[&str]) -> anyhow::Result<(Table, u64)> {
    let partitions: Vec<_> = topics.iter().map(|topic| ((*topic).to_owned(), 0)).collect();
    let ends = cluster.offsets(&partitions, Position::Latest)?;
    let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
    for ((topic, _), bytes) in cluster.log_directories()?.into_iter().flat_map(|directory| directory.sizes) {
        *sizes.entry(topic).or_default() += bytes.unsigned_abs();
    }
    let mut table = Table::new(&[
        ("TOPIC", Align::Left),
        ("RECORDS", Align::Right),
        ("SIZE", Align::Right),
        ("KEYS THAT GO THERE", Align::Left),
    ]);
    let (mut records_together, mut bytes_together) = (0, 0);
    for key in &partitions {
        let topic = &key.0;
        let records = ends.get(key).map_or(0, |end| end.0.unsigned_abs());
        let bytes = sizes.get(topic).copied().unwrap_or(0);
        records_together += records;
        bytes_together += bytes;
        let patterns: Vec<&str> = BINDINGS.iter().filter(|(to, _)| to == topic).map(|(_, pattern)| *pattern).collect();
        let patterns = if patterns.is_empty() { "what nothing else matched".to_owned() } else { patterns.join("  ") };
        table.row([topic.clone(), records.to_string(), output::bytes(bytes), patterns]);
    }
    let together = ["together".to_owned(), records_together.to_string(), output::bytes(bytes_together), String::new()];
    table.row(together);
    Ok((table, records_together))
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
