//! A broker of the real binary, on free ports and a directory of its own.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;

use crate::volume::Volume;

/// A running broker; killed when dropped. What it logged is shown when the test fails.
pub(crate) struct Broker {
    child: Option<Child>,
    directory: TempDir,
    /// Where its data is, if not below `directory`.
    volume: Option<Volume>,
    arguments: Vec<String>,
    environment: Vec<(&'static str, PathBuf)>,
    pub(crate) kafka: String,
    pub(crate) admin: String,
}

/// A port for a broker that comes back on it: free, and below those that the system gives to clients' ends of connections, of which one may be in
/// the way after a restart.
fn lasting_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let of_process = std::process::id().wrapping_mul(97);
    loop {
        let next = of_process.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (FIRST + next % COUNT) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Broker {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts with more arguments of `tidegate serve`.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        Self::start_configured("", arguments, None)
    }

    /// Starts with its data on a volume of its own.
    pub(crate) fn start_on(volume: Volume) -> Self {
        Self::start_configured("", &[], Some(volume))
    }

    /// Starts with a library that takes the place of functions of the C library, and with more environment variables.
    pub(crate) fn start_preloaded(library: &Path, environment: &[(&'static str, &Path)]) -> Self {
        let preload = [("LD_PRELOAD", library.to_owned())];
        let others = environment.iter().map(|(name, value)| (*name, value.to_path_buf()));
        Self::start_in(preload.into_iter().chain(others).collect(), "", &[], None)
    }

    /// Starts with more lines of configuration, more arguments and, if named, a volume for its data.
    pub(crate) fn start_configured(settings: &str, arguments: &[&str], volume: Option<Volume>) -> Self {
        Self::start_in(Vec::new(), settings, arguments, volume)
    }

    fn start_in(
        environment: Vec<(&'static str, PathBuf)>,
        settings: &str,
        arguments: &[&str],
        volume: Option<Volume>,
    ) -> Self {
        let directory = tempfile::Builder::new().prefix("tidegate-it-").tempdir().expect("a temporary directory");
        let config = directory.path().join("tidegate.toml");
        // Small, so that many brokers fit beside one another; no wait for more members in the first rebalance.
        let text = "\"group.initial.rebalance.delay.ms\" = 0\n\"journal.bytes\" = 268435456\n\"log.retention.check.interval.ms\" = 1000\n";
        std::fs::write(&config, format!("{text}{settings}")).expect("the configuration is written");
        let mut broker = Self {
            child: None,
            directory,
            volume,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            environment,
            kafka: String::new(),
            admin: String::new(),
        };
        broker.spawn(&format!("127.0.0.1:{}", lasting_port()));
        broker
    }

    /// The command that starts it.
    pub(crate) fn command(&self, listen: &str) -> Command {
        let program = env!("CARGO_BIN_EXE_tidegate");
        let mut command = match &self.volume {
            Some(volume) => volume.command(program),
            None => Command::new(program),
        };
        command.arg("serve").arg("--config").arg(self.directory.path().join("tidegate.toml"));
        let data_dir = self.volume.as_ref().map_or_else(|| self.data_dir(), Volume::data_dir);
        command.arg("--data-dir").arg(data_dir).args(["--listen", listen, "--admin", "127.0.0.1:0"]);
        if !self.arguments.iter().any(|argument| argument == "--shards") {
            command.args(["--shards", "2"]);
        }
        command.args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn spawn(&mut self, listen: &str) {
        let log = File::options().create(true).append(true).open(self.log()).expect("a log file");
        let mut child =
            self.command(listen).stdout(Stdio::piped()).stderr(log).spawn().expect("the broker's binary runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("standard output is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("standard output can be read");
        self.child = Some(child);
        let field = |name: &str| {
            let start = line.find(name).unwrap_or_else(|| panic!("no ready line, but {line:?}"));
            line[start + name.len()..].split_whitespace().next().unwrap_or_default().to_owned()
        };
        assert!(line.starts_with("ready node="), "no ready line, but {line:?}");
        self.kafka = field("kafka=");
        self.admin = field("admin=");
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        match &self.volume {
            Some(volume) => volume.seen_from_outside(&volume.data_dir()),
            None => self.directory.path().join("data"),
        }
    }

    /// # Panics
    /// When it has none of its own.
    pub(crate) fn volume(&self) -> &Volume {
        self.volume.as_ref().expect("it was started on a volume")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("stderr.log")
    }

    /// What it logged so far.
    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Memory that its process has, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that it had since [`Broker::forget_peak`].
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    pub(crate) fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").expect("it runs");
    }

    fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel says it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// The values of a family of metrics, by their labels.
    pub(crate) fn measured(&self, family: &str) -> Vec<(String, f64)> {
        let of_line = |line: &str| {
            let (labels, value) = line.strip_prefix(family)?.rsplit_once(' ')?;
            let is_its = labels.is_empty() || labels.starts_with('{');
            is_its.then(|| (labels.to_owned(), value.parse().expect("a number")))
        };
        self.get("/metrics").1.lines().filter_map(of_line).collect()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it has ended");
        }
    }

    /// Starts again on the same port and directory.
    pub(crate) fn restart(&mut self) {
        assert!(self.child.is_none(), "stop or kill it first");
        let listen = self.kafka.clone();
        self.spawn(&listen);
    }

    /// The same with more or other arguments.
    pub(crate) fn restart_with(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self.restart();
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.take().expect("it runs").wait().expect("it has ended")
    }

    /// SIGTERM; it must end by itself.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
        assert!(killed.success());
        child.wait().expect("it has ended")
    }

    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.kafka).expect("the broker accepts connections")
    }

    /// GET of the admin endpoint: status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        use std::io::Write as _;
        let mut stream = TcpStream::connect(&self.admin).expect("the admin endpoint accepts connections");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: tidegate\r\nconnection: close\r\n\r\n")
            .expect("the request is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("there is an answer");
        status_and_body(&answer)
    }

    /// PUT of bytes to the admin endpoint: status and body.
    pub(crate) fn put(&self, path: &str, body: &[u8]) -> (u16, String) {
        use std::io::Write as _;
        let mut stream = TcpStream::connect(&self.admin).expect("the admin endpoint accepts connections");
        let length = body.len();
        write!(
            stream,
            "PUT {path} HTTP/1.1\r\nhost: tidegate\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        )
        .expect("the request is sent");
        // What is too large is answered before it is all sent.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        status_and_body(&String::from_utf8_lossy(&answer))
    }

    /// Every file below the data directory.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        fn walk(directory: &Path, files: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() { walk(&path, files) } else { files.push(path) }
            }
        }
        let mut files = Vec::new();
        walk(&self.data_dir(), &mut files);
        files.sort();
        files
    }
}

fn status_and_body(answer: &str) -> (u16, String) {
    let status = answer.split_whitespace().nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    (status, body)
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("---- what the broker logged ----\n{}", self.logged());
        }
    }
}
