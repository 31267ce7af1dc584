//! Starts the brokers that are compared, each on an empty directory, and waits until a client can use it.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;

use crate::process::{Process, wait_for_idle_disks};

/// A broker and the promise that it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum System {
    /// Tidegate as it comes: acknowledged is on the disk.
    Tidegate,
    /// Tidegate with `--durability os`: acknowledged is in the page cache, or will be.
    TidegateOs,
    /// Apache Kafka as it comes: acknowledged is in the page cache.
    Kafka,
    /// Apache Kafka with `flush.messages=1`: acknowledged is on the disk.
    KafkaFlush,
    /// RabbitMQ with durable quorum queues: confirmed is on the disk.
    RabbitMq,
}

impl System {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Tidegate => "Tidegate (fsync)",
            Self::TidegateOs => "Tidegate (os)",
            Self::Kafka => "Kafka (no fsync)",
            Self::KafkaFlush => "Kafka (flush.messages=1)",
            Self::RabbitMq => "RabbitMQ (quorum queues)",
        }
    }
}

/// Where things are.
pub(crate) struct Places {
    pub(crate) tidegate: PathBuf,
    /// The folder of Apache Kafka's jars.
    pub(crate) kafka_jars: PathBuf,
    /// Emptied for each broker.
    pub(crate) data: PathBuf,
}

/// A broker that answers.
pub(crate) struct Broker {
    pub(crate) bootstrap: String,
    pub(crate) process: Process,
    /// Of RabbitMQ; ended after it.
    _port_mapper: Option<PortMapper>,
    /// From the start of its process to its first answer.
    pub(crate) ready_after: Duration,
    pub(crate) system: System,
    /// The program that its command line is.
    program: PathBuf,
    log: PathBuf,
}

impl Broker {
    /// Runs a command of `tidegate` against it; what it printed.
    pub(crate) fn tidegate(&self, arguments: &[&str]) -> Result<String> {
        let log = fs::read_to_string(&self.log)?;
        let admin = log.split_whitespace().find_map(|word| word.strip_prefix("admin=")).context("no ready line")?;
        let output = Command::new(&self.program)
            .args(arguments)
            .env("TIDEGATE_BOOTSTRAP", &self.bootstrap)
            .env("TIDEGATE_ADMIN", admin)
            .output()?;
        if !output.status.success() {
            bail!("tidegate {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts `system` on an empty directory.
    pub(crate) fn start(system: System, places: &Places) -> Result<Self> {
        if places.data.exists() {
            fs::remove_dir_all(&places.data).with_context(|| format!("emptying {}", places.data.display()))?;
        }
        fs::create_dir_all(&places.data)?;
        // What the broker before has left in the page cache must not be written while this one is measured.
        Command::new("sync").status().context("running sync")?;
        wait_for_idle_disks();
        let port = free_port()?;
        let bootstrap = format!("127.0.0.1:{port}");
        let port_mapper = (system == System::RabbitMq).then(|| free_port().map(PortMapper)).transpose()?;
        let mut command = match system {
            System::Tidegate | System::TidegateOs => tidegate(system, places, &bootstrap),
            System::Kafka | System::KafkaFlush => kafka(system, places, port)?,
            System::RabbitMq => rabbitmq(places, port, port_mapper.as_ref().map_or(0, |mapper| mapper.0))?,
        };
        let log = places.data.join("broker.log");
        command.stdin(Stdio::null()).stdout(File::create(&log)?).stderr(File::options().append(true).open(&log)?);
        let started = Instant::now();
        let mut process = Process::new(command.spawn().with_context(|| format!("starting {command:?}"))?);
        loop {
            if let Err(error) = process.check_alive() {
                let log = fs::read_to_string(&log).unwrap_or_default();
                bail!("{error}; its log:\n{log}");
            }
            let ready = if system == System::RabbitMq { answers_amqp(&bootstrap) } else { answers(&bootstrap) };
            if ready {
                break;
            }
            if started.elapsed() > Duration::from_secs(120) {
                bail!("{} did not answer within two minutes; see {}", system.title(), log.display());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let program = places.tidegate.clone();
        Ok(Self { bootstrap, process, _port_mapper: port_mapper, ready_after: started.elapsed(), system, program, log })
    }
}

fn tidegate(system: System, places: &Places, listen: &str) -> Command {
    let mut command = Command::new(&places.tidegate);
    command.arg("serve").arg("--data-dir").arg(places.data.join("tidegate"));
    command.args(["--listen", listen, "--admin", "127.0.0.1:0", "--durability"]);
    command.arg(if system == System::TidegateOs { "os" } else { "fsync" });
    command
}

fn kafka(system: System, places: &Places, port: u16) -> Result<Command> {
    let classes = format!("{}/*", places.kafka_jars.display());
    let controller = free_port()?;
    let logs = places.data.join("kafka");
    let flush = if system == System::KafkaFlush { "log.flush.interval.messages=1\n" } else { "" };
    let properties = places.data.join("server.properties");
    fs::write(
        &properties,
        format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ncontroller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\nlog.dirs={}\n\
             offsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\nshare.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n{flush}",
            logs.display()
        ),
    )?;
    let format = Command::new("java")
        .args(["-cp", &classes, "kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c"])
        .arg(&properties)
        .output()
        .context("running java (Java 17 or newer is needed for Apache Kafka)")?;
    if !format.status.success() {
        bail!("formatting Apache Kafka's directory failed: {}", String::from_utf8_lossy(&format.stderr));
    }
    let mut command = Command::new("java");
    // The heap and the collector of Apache Kafka's own start script.
    command.args(["-Xms1g", "-Xmx1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"]);
    command.args(["-XX:InitiatingHeapOccupancyPercent=35", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]);
    command.args(["-cp", &classes, "kafka.Kafka"]).arg(&properties);
    Ok(command)
}

/// Erlang's port mapper, which every node starts that finds none, and which outlives it.
struct PortMapper(u16);

impl Drop for PortMapper {
    fn drop(&mut self) {
        let _ = Command::new("epmd").args(["-port", &self.0.to_string(), "-kill"]).output();
    }
}

/// RabbitMQ as Debian packages it (`rabbitmq-server`), with everything that it writes below `places.data`.
fn rabbitmq(places: &Places, port: u16, port_mapper: u16) -> Result<Command> {
    const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
    if !Path::new(PROGRAM).exists() {
        bail!("{PROGRAM} is missing: install the package rabbitmq-server, or leave the case out (--cases)");
    }
    let home = places.data.join("rabbitmq");
    fs::create_dir_all(&home)?;
    let file = |name: &str, text: &str| -> Result<PathBuf> {
        let path = home.join(name);
        fs::write(&path, text)?;
        Ok(path)
    };
    let mut command = Command::new(PROGRAM);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        // The cookie of Erlang's distribution.
        .env("HOME", &home)
        .env("RABBITMQ_NODENAME", "side-by-side@localhost")
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", port.to_string())
        .env("RABBITMQ_DIST_PORT", free_port()?.to_string())
        .env("ERL_EPMD_PORT", port_mapper.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_MNESIA_BASE", home.join("data"))
        .env("RABBITMQ_LOG_BASE", home.join("log"))
        .env("RABBITMQ_PID_FILE", home.join("pid"))
        .env("RABBITMQ_CONF_ENV_FILE", file("rabbitmq-env.conf", "")?)
        .env("RABBITMQ_CONFIG_FILE", file("rabbitmq.conf", "disk_free_limit.absolute = 1GB\n")?)
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", file("enabled_plugins", "[].\n")?)
        // Makes its script give way to the broker's own process, whose time is counted.
        .env("RUNNING_UNDER_SYSTEMD", "1");
    Ok(command)
}

/// The jars of Apache Kafka: fetched by Maven once.
pub(crate) fn fetch_kafka(jars: &Path) -> Result<()> {
    if jars.join("kafka_2.13-4.3.0.jar").exists() {
        return Ok(());
    }
    eprintln!("fetching Apache Kafka 4.3.0 with Maven into {}", jars.display());
    let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka/pom.xml");
    let status = Command::new("mvn")
        .args(["-q", "-B", "-f"])
        .arg(pom)
        .arg("dependency:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", jars.display()))
        .status()
        .context("running mvn: install Maven, or leave Kafka out with --systems tidegate,tidegate-os")?;
    if !status.success() {
        bail!("Maven could not fetch Apache Kafka; leave it out with --systems tidegate,tidegate-os");
    }
    Ok(())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Whether it answers ApiVersions, what every client asks first.
fn answers(address: &str) -> bool {
    // Length, key 18, version 0, correlation id 1, client id null.
    const ASK_VERSIONS: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    let ask = |request: &[u8]| -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(request)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; u32::from_be_bytes(length).min(1 << 20) as usize];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    // Correlation id, then the error code 0.
    ask(&ASK_VERSIONS).is_ok_and(|answer| answer.len() > 6 && answer[4..6] == [0, 0])
}

/// Whether it answers the protocol header of AMQP 0-9-1 with a method frame (connection.start).
fn answers_amqp(address: &str) -> bool {
    let ask = || -> std::io::Result<u8> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        Ok(kind[0])
    };
    ask().is_ok_and(|kind| kind == 1)
}
