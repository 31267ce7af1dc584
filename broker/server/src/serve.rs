//! Start and stop of the broker, in order.
//!
//! Start: data directory locked, machine checked, ports taken, control plane, shards (each recovers its logs), connections accepted,
//! and one line on standard output. Stop, by SIGTERM or SIGINT: no more connections, shards finish what is under way and sync, control
//! plane. A shard that cannot write any more, or a metadata log that cannot, ends the process with the reason.
//!
//! The main thread waits for signals on a tokio runtime of its own; nothing else of this file runs on one.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc, LazyLock,
        atomic::AtomicUsize,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tidegate_model::topic_config::ConfigType;
use tidegate_model::{
    group::GroupConfig,
    metadata::{Broker, MetadataImage},
};
use tidegate_plugin_host::Limits;
use tidegate_records::ids::{BrokerId, ShardId};
use tidegate_shard::{ShardIdentity, ShardSettings, ShownSetting, ownership};
use tidegate_storage::StoreOptions;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc as tokio_mpsc,
};

use crate::{
    config::{Address, Config, Kind, TopicRule},
    control::{
        admin::AdminOptions,
        controller::{Control, ControlError, ControlEvent, ControlOptions, EventSink, Readiness},
        metrics::MetricsPage,
    },
    data_directory::{DataDirectory, DataDirectoryError},
    logging::{self, LoggingError},
    metrics::ShardMetrics,
    observed::ObservedBatches,
    plugin_log::PluginLines,
    plugin_runtime::{self, WasmHost},
    shell::{
        acceptor::Acceptor,
        disk::DiskOptions,
        executor::{self, Clock, ConnectionLimits, Propose, ShardReady, ShardSetup},
        log::LogOptions,
        mailbox::{Letter, Mailboxes},
        reporting::Report,
        startup_check::{self, Needs, StartupError, StartupReport},
    },
};

/// Memory that each executor registers for its own files, in bytes; the shards' data does not go through it.
pub(crate) const REGISTERED_BYTES_PER_SHARD: u64 = 1 << 20;
/// Requests of one connection that may be under way.
const REQUESTS_IN_FLIGHT_MAX: usize = 100;
/// A shard that may hold fewer log files open would only open and close.
const LOG_FILES_PER_SHARD_MIN: usize = 16;
/// How long a stop may take before the process ends anyway; below the 10 s that were promised.
const STOP_MAX: Duration = Duration::from_secs(9);

/// Why the broker did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Logging(#[from] LoggingError),
    #[error(transparent)]
    DataDirectory(#[from] DataDirectoryError),
    #[error(transparent)]
    Startup(#[from] StartupError),
    #[error(
        "cannot listen for Kafka clients on {address}: {source}. Name another address with --listen HOST:PORT (port 0 takes a free one)"
    )]
    Listen { address: Address, source: io::Error },
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("shard {shard} did not start: {reason}")]
    Shard { shard: u16, reason: String },
    #[error("plugins cannot be run: {reason}")]
    Plugins { reason: String },
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
    #[error(
        "the broker has stopped: {reason}. Acknowledged records are on the disk; mend the cause and start it again"
    )]
    Fatal { reason: String },
    #[error("the broker did not stop within {} s: {waiting}. What was acknowledged is on the disk; the next start recovers it", STOP_MAX.as_secs())]
    StopTimedOut { waiting: String },
}

/// Runs a broker until a signal stops it.
///
/// # Errors
/// Why it did not start or had to stop; the text says what to do.
pub fn serve(config: &Config) -> Result<(), ServeError> {
    startup_check::limit_huge_pages();
    logging::start(config.log_format, &config.log_filter)?;
    let started = Instant::now();
    let shards = config.shard_count();
    let mut directory = DataDirectory::open(&config.data_dir, config.node_id, shards)?;
    let report = startup_check::check(&Needs {
        data_directory: directory.path().to_path_buf(),
        shards,
        registered_bytes_per_shard: REGISTERED_BYTES_PER_SHARD,
        open_files: u64::from(config.open_files_max) + u64::from(config.connections_max),
    })?;
    for notice in &report.notices {
        tracing::warn!("{notice}");
    }
    let system = |what| move |source| ServeError::System { what, source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("the runtime of the main thread cannot be made"))?;
    let (fatal, mut fatal_reasons) = tokio_mpsc::unbounded_channel();
    // Before anything is started, so that no signal ends the process halfway.
    let mut signals = {
        let _context = runtime.enter();
        let caught = |kind| signal(kind).map_err(system("signals cannot be caught"));
        (caught(SignalKind::terminate())?, caught(SignalKind::interrupt())?)
    };

    let listener = listen(&config.listen)?;
    let kafka = listener.local_addr().map_err(system("the listener has no address"))?;
    let broker = advertised(config, kafka);
    let metrics: Vec<Arc<ShardMetrics>> = (0..shards).map(|_| Arc::default()).collect();
    let page = MetricsPage::new(metrics.clone());
    let (plugin_lines, observed) = (Arc::clone(&page.plugin_lines), Arc::clone(&page.observed));
    let control = Control::start(ControlOptions {
        data_directory: directory.path().to_path_buf(),
        empty: MetadataImage::new(directory.meta().cluster_id.clone(), broker.clone(), config.broker_defaults()),
        admin: AdminOptions {
            listen: config.admin.clone(),
            token_file: config.admin_token_file.clone(),
            upload_bytes_max: config.plugin_upload_bytes_max,
        },
        page,
        plugin_host: Arc::new(
            WasmHost::start(plugin_limits(config), config.object_store().is_some())
                .map_err(|reason| ServeError::Plugins { reason })?,
        ),
        object_store: config.object_store(),
        fatal: {
            let fatal = fatal.clone();
            // The receiver lives as long as the process.
            Box::new(move |reason| drop(fatal.send(reason)))
        },
    })?;
    let running = match start_shards(config, &directory, &report, &control, (metrics, plugin_lines, observed), fatal) {
        Ok(running) => running,
        Err(error) => {
            control.stop();
            return Err(error);
        }
    };
    directory.set_shards(shards)?;
    let (_, connections_max) = share_open_files(config, &report);
    let acceptor =
        Acceptor::start(listener, running.mailboxes.clone(), running.open_connections.clone(), connections_max)
            .map_err(system("the thread that accepts connections cannot be started"))?;
    control.handle.set_readiness(Readiness::Ready);
    tracing::info!(
        node = config.node_id,
        shards,
        file_system = %report.file_system,
        direct_io = report.direct_io,
        milliseconds = started.elapsed().as_millis() as u64,
        "ready"
    );
    announce(config, kafka, &broker, control.admin, directory.path());

    let reason = runtime.block_on(async {
        tokio::select! {
            _ = signals.0.recv() => None,
            _ = signals.1.recv() => None,
            reason = fatal_reasons.recv() => reason,
        }
    });
    match &reason {
        None => tracing::info!("stopping: finishing what is under way"),
        Some(reason) => tracing::error!(reason, "stopping"),
    }
    let deadline = Instant::now() + STOP_MAX;
    control.handle.set_readiness(Readiness::Stopping);
    acceptor.stop();
    let stopped = running.stop(deadline);
    control.stop();
    match reason {
        Some(reason) => Err(ServeError::Fatal { reason }),
        None => stopped.inspect(|()| tracing::info!("stopped")),
    }
}

/// Takes the port. Not shared (no `SO_REUSEPORT`): a second broker on it is refused.
fn listen(address: &Address) -> Result<TcpListener, ServeError> {
    TcpListener::bind((address.host.as_str(), address.port))
        .map_err(|source| ServeError::Listen { address: address.clone(), source })
}

/// This broker as clients are told of it.
fn advertised(config: &Config, kafka: SocketAddr) -> Broker {
    let address = config.advertise.as_ref().unwrap_or(&config.listen);
    let port = if address.port == 0 { kafka.port() } else { address.port };
    Broker { id: config.node_id, host: address.host.clone(), port, rack: config.rack.clone() }
}

/// The line that scripts wait for.
fn announce(config: &Config, kafka: SocketAddr, broker: &Broker, admin: SocketAddr, data: &Path) {
    // Where it listens on everything, what clients are told is of more use.
    let kafka = if kafka.ip().is_unspecified() {
        Address { host: broker.host.clone(), port: broker.port }.to_string()
    } else {
        kafka.to_string()
    };
    let line = format!("ready node={} kafka={kafka} admin={admin} data={}\n", config.node_id, data.display());
    let mut output = io::stdout().lock();
    if let Err(error) = output.write_all(line.as_bytes()).and_then(|()| output.flush()) {
        tracing::error!(%error, "the ready line is lost: it cannot be written to standard output; the broker runs on");
    }
}

/// Log files and connections that there may be.
fn share_open_files(config: &Config, report: &StartupReport) -> (u32, usize) {
    let (log_files, connections) = startup_check::share_open_files(
        report.open_files_max,
        u64::from(config.open_files_max),
        u64::from(config.connections_max),
    );
    (u32::try_from(log_files).unwrap_or(u32::MAX), usize::try_from(connections).unwrap_or(usize::MAX))
}

/// The shards, running.
struct Shards {
    mailboxes: Mailboxes,
    open_connections: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

fn start_shards(
    config: &Config,
    directory: &DataDirectory,
    report: &StartupReport,
    control: &Control,
    (metrics, plugin_lines, observed): (Vec<Arc<ShardMetrics>>, Arc<PluginLines>, Arc<ObservedBatches>),
    fatal: tokio_mpsc::UnboundedSender<String>,
) -> Result<Shards, ServeError> {
    let shards = config.shard_count();
    let cpus = startup_check::allowed_cpus();
    let (log_files_max, _) = share_open_files(config, report);
    let (mailboxes, own_mailboxes) = Mailboxes::new(shards);
    let settings = Arc::new(shard_settings(config, directory));
    let log = log_options(config, shards, log_files_max);
    let clock = Clock::start();
    let disk = DiskOptions {
        root: directory.path().to_path_buf(),
        one_flush_for_all_files: report.one_flush_for_all_files,
        objects: control.objects.clone(),
    };
    let deleted = control.deleted_topics.clone();
    let prepared = executor::prepare(&control.image, deleted, &disk, &log, shards, &metrics[0])
        .map_err(|reason| ServeError::Shard { shard: 0, reason })?;
    if prepared.drained {
        tracing::info!(shards, "the number of shards has changed: emptied the journals of the old ones");
    }
    if !prepared.orphans.removed.is_empty() {
        tracing::info!(partitions = prepared.orphans.removed.len(), "removed what was left of deleted topics");
    }
    for partition in &prepared.orphans.kept {
        tracing::warn!(
            directory = %format!("partitions/{partition}"),
            "no topic has this partition, and nothing says that it was deleted: left as it is. If metadata/log.tgm was restored, it is \
             older than the topic; if the records are not wanted, delete the directory"
        );
    }
    for missing in &prepared.missing_journals {
        for file in &missing.files {
            tracing::warn!(
                file = %file.display(),
                "the journal of a shard is missing, or a file of it: what was acknowledged and not in a segment yet is gone with it. If it was not \
                 moved away on purpose, stop the broker and restore it from a copy"
            );
        }
        if !missing.files.is_empty() {
            continue;
        }
        tracing::warn!(
            directory = %format!("shard-{}", missing.shard),
            "the journal of this shard is missing: what was acknowledged and not in a segment yet is gone with it. If there was one and it was not \
             moved away on purpose, stop the broker and restore the directory from a copy"
        );
    }
    let doomed_of = |shard| {
        let doomed = prepared.orphans.doomed.iter().copied();
        doomed.filter(|partition| ownership::owner(*partition, shards) == shard).collect()
    };
    let handle = control.handle.clone();
    let reports = control.handle.clone();
    let report_to: Report = Arc::new(move |found| reports.report(found));
    let propose: Propose = Arc::new(move |change, answer| handle.propose(change, answer));
    let fatal: Arc<dyn Fn(String) + Send + Sync> = Arc::new(move |reason| drop(fatal.send(reason)));
    let (ready, readies) = mpsc::channel::<(u16, Result<ShardReady, String>)>();
    let mut running = Shards { mailboxes, open_connections: Arc::default(), threads: Vec::new() };
    for ((shard, mailbox), metrics) in (0..shards).zip(own_mailboxes).zip(metrics) {
        let ready = ready.clone();
        let setup = ShardSetup {
            identity: ShardIdentity { shard: ShardId(shard), shards, broker: BrokerId(config.node_id) },
            settings: Arc::clone(&settings),
            image: Arc::clone(&control.image),
            mailboxes: running.mailboxes.clone(),
            mailbox,
            disk: disk.clone(),
            log: log.clone(),
            doomed: doomed_of(ShardId(shard)),
            limits: connection_limits(config, shards),
            clock,
            metrics,
            plugin_lines: Arc::clone(&plugin_lines),
            observed: Arc::clone(&observed),
            open_connections: Arc::clone(&running.open_connections),
            propose: Arc::clone(&propose),
            report: Arc::clone(&report_to),
            cpu: cpus[usize::from(shard) % cpus.len()],
            ready: Box::new(move |result| drop(ready.send((shard, result)))),
            fatal: Arc::clone(&fatal),
        };
        match executor::spawn(setup) {
            Ok(thread) => running.threads.push(thread),
            Err(reason) => return running.give_up(ServeError::Shard { shard, reason }),
        }
    }
    drop(ready);
    let mut partitions = 0;
    let mut offline = BTreeSet::new();
    for _ in 0..shards {
        match readies.recv() {
            Ok((_, Ok(found))) => {
                partitions += found.partitions;
                for (partition, damage) in found.damaged {
                    tracing::error!("a partition stays offline, the others serve: {partition}: {damage}");
                    offline.insert(partition);
                }
            }
            Ok((shard, Err(reason))) => return running.give_up(ServeError::Shard { shard, reason }),
            // A shard that ended without a word has said why in the log.
            Err(_) => {
                let reason = "its thread ended while it recovered".to_owned();
                return running.give_up(ServeError::Shard { shard: 0, reason });
            }
        }
    }
    tracing::info!(partitions, "recovered");
    // Before any connection: a routed topic without its plugin would refuse what is sent to it.
    let offline = Arc::new(offline);
    for shard in 0..shards {
        let plugins = control.plugins.iter().cloned().map(Letter::Plugin);
        let letters = plugins.chain([Letter::Offline(Arc::clone(&offline))]).collect();
        running.mailboxes.send(ShardId(shard), letters);
    }
    let sinks = (0..shards).map(|shard| -> EventSink {
        let mailboxes = running.mailboxes.clone();
        Box::new(move |event| {
            let letter = match event {
                ControlEvent::Metadata { image, taken } => Letter::Metadata { image, taken },
                ControlEvent::Plugin(plugin) => Letter::Plugin(plugin),
                ControlEvent::Readers(readers) => Letter::Readers(readers),
            };
            mailboxes.send(ShardId(shard), vec![letter]);
        })
    });
    control.handle.subscribe(sinks.collect(), control.image.version);
    Ok(running)
}

impl Shards {
    /// Ends those that run, for a start that did not work.
    fn give_up(self, error: ServeError) -> Result<Self, ServeError> {
        if let Err(also) = self.stop(Instant::now() + STOP_MAX) {
            tracing::error!(error = %also, "while giving up");
        }
        Err(error)
    }

    /// Has every shard finish what is under way, sync and end.
    fn stop(self, deadline: Instant) -> Result<(), ServeError> {
        for shard in 0..self.mailboxes.shards() {
            self.mailboxes.send(ShardId(shard), vec![Letter::Stop]);
        }
        let (ended, ends) = mpsc::channel();
        let count = self.threads.len();
        for (shard, thread) in self.threads.into_iter().enumerate() {
            let ended = ended.clone();
            // Joining has no time limit of its own, hence a thread for each; they end with the process.
            std::thread::spawn(move || {
                // A panic has been reported by the executor.
                let _ = thread.join();
                let _ = ended.send(shard);
            });
        }
        drop(ended);
        let mut left: Vec<usize> = (0..count).collect();
        while !left.is_empty() {
            match ends.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(shard) => left.retain(|other| *other != shard),
                Err(RecvTimeoutError::Timeout) => {
                    let waiting = format!("shards {left:?} are still at work");
                    return Err(ServeError::StopTimedOut { waiting });
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Ok(())
    }
}

fn shard_settings(config: &Config, directory: &DataDirectory) -> ShardSettings {
    ShardSettings {
        auto_create_topics: config.auto_create_topics,
        default_partitions: config.default_partitions,
        request_bytes_max: config.request_bytes_max,
        fetch_bytes_max: config.fetch_bytes_max,
        fetch_sessions_max: usize::try_from(config.fetch_sessions_max).unwrap_or(usize::MAX),
        cleaning_interval_ms: config.retention_check_interval_ms,
        producer_id_expiration_ms: config.producer_id_expiration_ms,
        groups: group_config(config),
        plugin_limits: plugin_limits(config),
        plugin_core_percent_max: config.plugin_core_percent_max,
        stopwatch: monotonic_nanos,
        data_directory: directory.path().display().to_string(),
        shown: shown_settings(config),
        ..ShardSettings::default()
    }
}

/// Nanoseconds since the first call, to measure by.
fn monotonic_nanos() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn plugin_limits(config: &Config) -> Limits {
    let deadline = Duration::from_millis(config.plugin_deadline_ms.into());
    plugin_runtime::limits(config.plugin_memory_bytes_max, config.plugin_output_bytes_max, deadline)
}

/// Kafka's word for what a setting takes (KIP-569).
fn config_type(kind: &Kind) -> ConfigType {
    match kind {
        Kind::Boolean { .. } => ConfigType::Boolean,
        Kind::Integer { .. } => ConfigType::Long,
        Kind::Topic { rule: TopicRule::Integer { .. }, .. } => ConfigType::Long,
        Kind::Topic { rule: TopicRule::Fraction, .. } => ConfigType::Double,
        Kind::Topic { rule: TopicRule::ListOf(_), .. } => ConfigType::List,
        _ => ConfigType::String,
    }
}

/// The broker's settings as DescribeConfigs shows them.
fn shown_settings(config: &Config) -> Vec<ShownSetting> {
    let defaults: Vec<_> = Config::default().entries().map(|(_, value)| value).collect();
    config
        .entries()
        .zip(defaults)
        .filter_map(|((setting, value), default)| {
            Some(ShownSetting {
                name: setting.name.to_owned(),
                value: value?,
                kind: config_type(&setting.kind),
                default,
                documentation: setting.help.to_owned(),
            })
        })
        .collect()
}

fn group_config(config: &Config) -> GroupConfig {
    let millis = |millis: i32| Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    let size = |size: i32| usize::try_from(size).unwrap_or(usize::MAX);
    GroupConfig {
        initial_rebalance_delay: millis(config.group_initial_rebalance_delay_ms),
        min_session_timeout: millis(config.group_session_timeout_ms_min),
        max_session_timeout: millis(config.group_session_timeout_ms_max),
        max_size: size(config.group_size_max),
        offset_metadata_max: config.offset_metadata_bytes_max,
        offsets_retention: Duration::from_secs(u64::try_from(config.offsets_retention_minutes).unwrap_or(0) * 60),
        offsets_retention_check_interval: Duration::from_millis(config.offsets_retention_check_interval_ms),
        consumer_session_timeout: millis(config.group_consumer_session_timeout_ms),
        consumer_heartbeat_interval: millis(config.group_consumer_heartbeat_interval_ms),
        consumer_max_size: size(config.group_consumer_size_max),
        ..GroupConfig::default()
    }
}

fn log_options(config: &Config, shards: u16, log_files_max: u32) -> LogOptions {
    let share = |bytes: u64| usize::try_from(bytes / u64::from(shards)).unwrap_or(usize::MAX);
    LogOptions {
        store: StoreOptions {
            journal_bytes_max: config.journal_bytes,
            tail_cache_bytes: share(config.tail_cache_bytes),
            direct_min_bytes: config.direct_write_bytes_min,
            open_files_max: share(u64::from(log_files_max)).max(LOG_FILES_PER_SHARD_MIN),
            ..StoreOptions::default()
        },
    }
}

fn connection_limits(config: &Config, shards: u16) -> ConnectionLimits {
    let in_flight = usize::try_from(config.requests_in_flight_bytes_max).unwrap_or(usize::MAX);
    let shard_bytes_max = in_flight / usize::from(shards);
    ConnectionLimits {
        request_bytes_max: config.request_bytes_max,
        requests_in_flight_max: REQUESTS_IN_FLIGHT_MAX,
        // Room for one request of the largest size, or for many small ones, but not for all that a shard may hold.
        connection_bytes_max: (shard_bytes_max / 4).max(1 << 20),
        shard_bytes_max,
        idle_max: Duration::from_millis(config.connections_max_idle_ms),
    }
}
