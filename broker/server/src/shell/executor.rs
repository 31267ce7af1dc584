//! One shard's thread, which turns sockets, files and timers into inputs, and effects into calls.
//!
//! `Core::take` is the loop: an input goes into the pure shard, its effects are performed in order, and what they give at once
//! (a read from memory) goes in again. Commit rounds, applying the journal, reading from disk and housekeeping are tasks beside it.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use glommio::{LocalExecutorBuilder, Placement};
use kafka_protocol::messages::ApiKey;
use tidegate_model::metadata::{MetadataChange, MetadataImage, ProposalResult};
use tidegate_plugin_host::{LogLevel, one_line};
use tidegate_records::{
    ids::{ShardId, TopicId, TopicPartition},
    time::{Instant, Now, Timestamp},
};
use tidegate_shard::{
    ConnectionId, Effect, Effects, Input, PluginLog, ReadOutcome, Shard, ShardIdentity, ShardSettings, SnapshotDue,
    message::{Ask, Origin, Reply},
};
use tidegate_storage::Orphans;

use super::{
    acceptor::OpenConnections,
    connection::{Connection, Incoming, Received},
    disk::{DiskOptions, UringDisk, keep_reserve},
    event::Event,
    log::{Log, LogOptions, partition_specs},
    mailbox::{Letter, Mailbox, Mailboxes, NewConnection},
    memory::Memory,
    offload::{Offloads, offload_loop},
    reporting::{Report, report_loop},
    runtime::{self, Runtime},
};
use crate::{
    metrics::ShardMetrics,
    observed::ObservedBatches,
    plugin_log::{KeptLine, PluginLines},
    plugin_runtime,
    readers::Readers,
};

/// How often what cannot be read is said again.
const UNREADABLE_AGAIN: Duration = Duration::from_secs(60);

/// After a round of so many bytes the next waits a little for as many: whoever sends so much does not wait for each answer, and a round costs
/// a flush and some wakes however small it is. Measured with 1 KiB records at 500 MB/s: a tenth of the processor time.
const LARGE_ROUND_BYTES: usize = 512 << 10;
/// How long it waits.
const GATHER_ROUND: Duration = Duration::from_micros(500);

/// What storage may add to a batch, with room to spare.
const FRAME_COST_BYTES: usize = 1024;

/// Memory that glommio registers for file I/O of its own, which nobody does.
const GLOMMIO_BYTES: usize = 64 << 10;

/// Batches of other shards that are taken in together, in bytes about.
const LETTER_BYTES_MAX: usize = 1 << 20;

/// How much of a shard's logs a start reads to know the producers again, in bytes, about; shared out among its partitions, but a
/// partition with little is not worth a file's two syncs.
const UNSAVED_BYTES_MAX: u64 = 512 << 20;
const UNSAVED_PARTITION_BYTES_MIN: u64 = 8 << 20;
const UNSAVED_PARTITION_BYTES_MAX: u64 = 64 << 20;

/// Both clocks, the same for all shards of a process.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: std::time::Instant,
}

impl Clock {
    #[must_use]
    pub fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }

    #[must_use]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { instant: Instant(self.start.elapsed().as_nanos() as u64), wall: Timestamp(wall.as_millis() as i64) }
    }
}

/// Sends a change to the control plane, which calls back when it is committed or refused.
pub type Propose = Arc<dyn Fn(MetadataChange, Box<dyn FnOnce(ProposalResult) + Send>) + Send + Sync>;

/// What bounds the memory that clients can make a shard use.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// `socket.request.max.bytes`.
    pub request_bytes_max: usize,
    /// Requests of one connection that are not answered.
    pub requests_in_flight_max: usize,
    /// Bytes of one connection that are not answered, or answered and not sent.
    pub connection_bytes_max: usize,
    /// What the large requests of a shard may take while they are received, and so may the answers that its clients do not take
    /// (`queued.max.request.bytes`).
    pub shard_bytes_max: usize,
    /// `connections.max.idle.ms`.
    pub idle_max: Duration,
}

/// Everything that a shard's thread is started with.
pub struct ShardSetup {
    pub identity: ShardIdentity,
    pub settings: Arc<ShardSettings>,
    pub image: Arc<MetadataImage>,
    pub mailboxes: Mailboxes,
    pub mailbox: Mailbox,
    pub disk: DiskOptions,
    pub log: LogOptions,
    /// Deleted partitions of this shard that the object store may still have objects of.
    pub doomed: Vec<TopicPartition>,
    pub limits: ConnectionLimits,
    pub clock: Clock,
    pub metrics: Arc<ShardMetrics>,
    /// What plugins log is kept here for those who ask.
    pub plugin_lines: Arc<PluginLines>,
    /// What is sent to topics that somebody watches goes here.
    pub observed: Arc<ObservedBatches>,
    pub open_connections: OpenConnections,
    pub propose: Propose,
    /// The core to run on.
    pub cpu: usize,
    /// Where its partitions and groups are reported, for the metrics.
    pub report: Report,
    /// Called once: recovered and serving, or why not.
    pub ready: Box<dyn FnOnce(Result<ShardReady, String>) + Send>,
    /// Called when writes are over: the process must say why and stop.
    pub fatal: Arc<dyn Fn(String) + Send + Sync>,
}

/// What [`prepare`] did.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The directory was used with another number of shards: their journals were emptied.
    pub drained: bool,
    pub orphans: Orphans,
    /// Shards that have been running and whose journal is gone.
    pub missing_journals: Vec<tidegate_storage::MissingJournal>,
}

/// Makes a data directory ready for `shards` shards, before any of them opens it: empties the journals if it was used with another
/// number, and removes what a crash left of topics that were deleted.
///
/// # Errors
/// A journal could not be read or applied; the text says which and what to do.
pub fn prepare(
    image: &Arc<MetadataImage>,
    deleted: BTreeSet<TopicId>,
    disk: &DiskOptions,
    log: &LogOptions,
    shards: u16,
    metrics: &Arc<ShardMetrics>,
) -> Result<Prepared, String> {
    let (image, disk, log, metrics) = (Arc::clone(image), disk.clone(), log.clone(), Arc::clone(metrics));
    let preparing = std::thread::Builder::new().name("prepare".into()).spawn(move || {
        let runtime = Runtime::new().map_err(|error| format!("io_uring: {error}"))?;
        runtime.run(async move {
            let disk = UringDisk::new(disk, metrics);
            let specs = partition_specs(&image, |_| true);
            let known = specs.iter().map(|spec| spec.topic_partition).collect();
            let orphans =
                tidegate_storage::remove_orphans(&disk, &known, &deleted).await.map_err(|error| error.to_string())?;
            let missing_journals =
                tidegate_storage::missing_journals(&disk).await.map_err(|error| error.to_string())?;
            let drained = tidegate_storage::migrate(&disk, &log.store, shards, &specs).await;
            Ok(Prepared { drained: drained.map_err(|error| error.to_string())?, orphans, missing_journals })
        })
    });
    let preparing = preparing.map_err(|error| format!("thread prepare: {error}"))?;
    preparing.join().map_err(|_| "the thread that prepares the data directory has panicked".to_owned())?
}

/// What recovery found on a shard.
#[derive(Clone, Debug, Default)]
pub struct ShardReady {
    pub partitions: usize,
    /// Partitions that stay offline, and why.
    pub damaged: Vec<(TopicPartition, String)>,
}

/// Starts a shard's thread. It ends after [`Letter::Stop`], or when it cannot be started.
///
/// # Errors
/// The executor could not be made: io_uring, memlock or the core are not to be had.
pub fn spawn(setup: ShardSetup) -> Result<std::thread::JoinHandle<()>, String> {
    let name = format!("shard-{}", setup.identity.shard);
    std::thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            let _abort = AbortOnPanic;
            // glommio puts the thread on its core. Its one task is the shard's own loop, which sleeps in one ring and not in three.
            let executor = LocalExecutorBuilder::new(Placement::Fixed(setup.cpu)).io_memory(GLOMMIO_BYTES).make();
            let executor = executor.map_err(|error| error.to_string());
            match executor
                .and_then(|executor| Ok((executor, Runtime::new().map_err(|error| format!("io_uring: {error}"))?)))
            {
                Ok((executor, runtime)) => executor.run(async { runtime.run(run(setup)) }),
                Err(error) => (setup.ready)(Err(error)),
            }
        })
        .map_err(|error| format!("thread {name}: {error}"))
}

/// A broker without one of its shards is none: others would wait for it for ever.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a shard's thread has panicked");
            std::process::abort();
        }
    }
}

async fn run(setup: ShardSetup) {
    let fatal = Arc::clone(&setup.fatal);
    let disk = UringDisk::new(setup.disk.clone(), Arc::clone(&setup.metrics));
    let (log, recovered) = match Log::open(disk, &setup.log, &setup.identity, &setup.image).await {
        Ok(opened) => opened,
        Err(error) => return (setup.ready)(Err(error)),
    };
    let damaged = recovered
        .iter()
        .filter_map(|found| found.error.as_ref().map(|error| (found.partition, error.clone())))
        .collect();
    let summary = ShardReady { partitions: recovered.len(), damaged };
    for partition in setup.doomed {
        log.store().doom(partition);
    }
    let needed = log.store().named_objects().len();
    if needed > 0 && !setup.disk.objects.is_configured() {
        tracing::error!(
            segments = needed,
            "segments were offloaded and there is no object store: who reads their records gets KAFKA_STORAGE_ERROR. Set object.store.url as it \
             was, and restart"
        );
    }
    let core = Rc::new(Core {
        shard: RefCell::new(Shard::new(setup.identity.clone(), Arc::clone(&setup.settings))),
        log,
        root: setup.disk.root,
        clock: setup.clock,
        identity: setup.identity,
        mailboxes: setup.mailboxes,
        propose: setup.propose,
        memory: Memory::new(setup.limits.shard_bytes_max),
        limits: setup.limits,
        metrics: setup.metrics,
        plugin_lines: setup.plugin_lines,
        observed: setup.observed,
        watching: Cell::new(0),
        readers: RefCell::new(None),
        offloads: Offloads::default(),
        has_object_store: setup.disk.objects.is_configured(),
        open_connections: setup.open_connections,
        inputs: RefCell::default(),
        effects: RefCell::default(),
        taking: Cell::new(false),
        connections: RefCell::default(),
        next_connection: Cell::new(0),
        unsent: RefCell::default(),
        letters: RefCell::default(),
        scratch: RefCell::new(vec![0; 64 * 1024]),
        unreadable: RefCell::default(),
        pending: Event::default(),
        tick: Event::default(),
        armed: Cell::new(None),
        held_back: Cell::new(false),
        stopping: Cell::new(false),
        stopped: Event::default(),
        fatal: Arc::clone(&fatal),
    });
    core.take([Input::Start { image: setup.image, recovered }]);
    (setup.ready)(Ok(summary));

    runtime::spawn_local(commit_loop(Rc::clone(&core))).detach();
    runtime::spawn_local(apply_loop(Rc::clone(&core))).detach();
    runtime::spawn_local(tick_loop(Rc::clone(&core))).detach();
    runtime::spawn_local(housekeeping_loop(Rc::clone(&core))).detach();
    runtime::spawn_local(offload_loop(Rc::clone(&core))).detach();
    runtime::spawn_local(report_loop(Rc::clone(&core), setup.report)).detach();
    runtime::spawn_local(letter_loop(Rc::clone(&core), setup.mailbox)).detach();
    core.stopped.wait().await;
    core.shut_down().await;
}

/// A shard and everything that it acts on.
pub(crate) struct Core {
    pub(crate) shard: RefCell<Shard>,
    pub(crate) log: Log,
    root: std::path::PathBuf,
    pub(crate) clock: Clock,
    identity: ShardIdentity,
    mailboxes: Mailboxes,
    propose: Propose,
    limits: ConnectionLimits,
    memory: Memory,
    pub(crate) metrics: Arc<ShardMetrics>,
    plugin_lines: Arc<PluginLines>,
    observed: Arc<ObservedBatches>,
    /// [`ObservedBatches::changes`] when the shard was told last what is watched.
    watching: Cell<u64>,
    /// Who reads topics with a retention plugin; none until all groups are known.
    pub(crate) readers: RefCell<Option<Arc<Readers>>>,
    /// Segments that are to go to the object store.
    pub(crate) offloads: Offloads,
    has_object_store: bool,
    open_connections: OpenConnections,
    inputs: RefCell<VecDeque<Input>>,
    effects: RefCell<Effects>,
    taking: Cell<bool>,
    connections: RefCell<BTreeMap<ConnectionId, Rc<Connection>>>,
    next_connection: Cell<u64>,
    /// Connections with new answers, to be flushed when all inputs are taken.
    unsent: RefCell<Vec<Rc<Connection>>>,
    /// Letters for other shards, to be sent when all inputs are taken.
    letters: RefCell<BTreeMap<ShardId, Vec<Letter>>>,
    scratch: RefCell<Vec<u8>>,
    /// When it was last said that a partition has what cannot be read.
    unreadable: RefCell<BTreeMap<TopicPartition, Instant>>,
    /// Something waits for a commit round.
    pending: Event,
    /// The next deadline is earlier than what [`tick_loop`] waits for.
    tick: Event,
    armed: Cell<Option<Instant>>,
    /// Some connection waits for storage to catch up.
    held_back: Cell<bool>,
    stopping: Cell<bool>,
    stopped: Event,
    fatal: Arc<dyn Fn(String) + Send + Sync>,
}

impl Core {
    pub(crate) fn shard_id(&self) -> ShardId {
        self.identity.shard
    }

    pub(crate) fn objects_configured(&self) -> bool {
        self.has_object_store
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Hands what a plugin logged to the broker's log and to who asks for the lines of plugins.
    pub(crate) fn write_plugin_log(&self, log: &PluginLog) {
        for line in &log.lines {
            // The broker's own lines about a plugin repeat names and words of it.
            let message = one_line(&line.message);
            let (plugin, version, topic) = (&log.plugin, log.version, &log.topic);
            match line.level {
                LogLevel::Error => tracing::error!(plugin, version, topic, "{message}"),
                LogLevel::Warn => tracing::warn!(plugin, version, topic, "{message}"),
                LogLevel::Info => tracing::info!(plugin, version, topic, "{message}"),
                LogLevel::Debug => tracing::debug!(plugin, version, topic, "{message}"),
            }
            self.plugin_lines.write(KeptLine {
                number: 0,
                time: self.clock.now().wall.0,
                plugin: plugin.clone(),
                version,
                topic: topic.clone(),
                level: line.level,
                message: message.into_owned(),
            });
        }
    }

    /// Takes inputs in order, with everything that follows from them at once.
    pub(crate) fn take(self: &Rc<Self>, inputs: impl IntoIterator<Item = Input>) {
        self.inputs.borrow_mut().extend(inputs);
        if self.taking.replace(true) {
            return;
        }
        let changes = self.observed.changes();
        if self.watching.replace(changes) != changes {
            self.inputs.borrow_mut().push_front(Input::Watch { topics: self.observed.watched() });
        }
        let mut effects = self.effects.take();
        loop {
            let Some(input) = self.inputs.borrow_mut().pop_front() else { break };
            let Some(input) = self.in_its_order(input) else { continue };
            let now = self.clock.now();
            {
                let mut shard = self.shard.borrow_mut();
                let (budget, refusal) = self.log.append_budget();
                shard.set_append_budget(budget, refusal);
                shard.set_fetch_budget(self.memory.answer_room());
                shard.step(now, input, &mut effects);
            }
            for observation in effects.observations.drain(..) {
                let api = self.metrics.api(observation.api as i16);
                api.requests.add(1);
                api.latency.record_latency(Duration::from_nanos(observation.nanos));
            }
            for (api, code) in effects.errors.drain(..) {
                self.metrics.count_error(api as i16, code);
            }
            for log in effects.plugin_logs.drain(..) {
                self.write_plugin_log(&log);
            }
            effects.observed.drain(..).for_each(|batch| self.observed.write(batch));
            for effect in effects.list.drain(..) {
                self.perform(effect);
            }
        }
        *self.effects.borrow_mut() = effects;
        self.taking.set(false);
        if self.log.has_pending() {
            self.pending.raise();
        }
        for connection in self.unsent.borrow_mut().drain(..) {
            connection.flush();
        }
        for (to, letters) in std::mem::take(&mut *self.letters.borrow_mut()) {
            self.metrics.messages_to_shards.add(letters.len() as u64);
            self.mailboxes.send(to, letters);
        }
        let deadline = self.shard.borrow().next_deadline();
        if deadline.is_some_and(|deadline| self.armed.get().is_none_or(|armed| deadline < armed)) {
            self.tick.raise();
        }
    }

    /// A frame waits whose client has to take answers first: thousands of small requests come in one piece. One behind a frame that is taken
    /// in later waits with it.
    fn in_its_order(&self, input: Input) -> Option<Input> {
        if let Input::Frame { connection, frame } = &input
            && let Some(connection) = self.connections.borrow().get(connection)
            && (!connection.deferred.borrow().is_empty()
                || self.has_much_to_send(connection)
                || (is_fetch(frame) && !self.is_settled(connection)))
        {
            connection.deferred.borrow_mut().push_back(frame.clone());
            return None;
        }
        Some(input)
    }

    /// Whether the client of a connection should take what there is for it before it asks for more.
    fn has_much_to_send(&self, connection: &Connection) -> bool {
        let unsent = connection.unsent_bytes();
        unsent > self.limits.connection_bytes_max || (unsent > 0 && self.memory.is_full_of_answers())
    }

    /// Whether nothing of a connection is under way.
    fn is_settled(&self, connection: &Connection) -> bool {
        self.shard.borrow().backlog(connection.id).0 == 0 && connection.unsent_bytes() == 0
    }

    fn perform(self: &Rc<Self>, effect: Effect) {
        match effect {
            Effect::Send { connection, chunks } => {
                if let Some(connection) = self.connections.borrow().get(&connection) {
                    let bytes = chunks.iter().map(Bytes::len).sum::<usize>();
                    self.metrics.bytes_out.add(bytes as u64);
                    connection.queue(chunks);
                    self.unsent.borrow_mut().push(Rc::clone(connection));
                }
            }
            Effect::Close { connection, reason } => {
                if let Some(connection) = self.connections.borrow().get(&connection) {
                    tracing::warn!(peer = %connection.peer, reason, "connection closed");
                    self.metrics.connections_refused.add(1);
                    connection.flush();
                    connection.close();
                }
            }
            Effect::Pause { connection, until } => {
                if let Some(connection) = self.connections.borrow().get(&connection) {
                    connection.paused_until.set(until.max(connection.paused_until.get()));
                }
            }
            Effect::Later { connection, frame, until } => {
                if let Some(connection) = self.connections.borrow().get(&connection) {
                    connection.paused_until.set(until.max(connection.paused_until.get()));
                    connection.deferred.borrow_mut().push_back(frame);
                }
            }
            Effect::MoveConnection { connection, to } => {
                if let Some(connection) = self.connections.borrow().get(&connection) {
                    connection.move_to.set(Some(to));
                }
            }
            Effect::Ask { to, request, ask } => {
                let origin = Origin { shard: self.identity.shard, request };
                self.letters.borrow_mut().entry(to).or_default().push(Letter::Asked { origin, ask });
            }
            Effect::Reply { to, request, reply } => {
                self.letters.borrow_mut().entry(to).or_default().push(Letter::Replied { request, reply });
            }
            Effect::Append { partition, batch } => {
                self.metrics.record_bytes_in.add(batch.bytes.len() as u64);
                self.metrics.records_in.add(u64::try_from(batch.header.records_count).unwrap_or(0));
                if let Err(message) = self.log.append(partition, batch) {
                    // An offset was given to a batch that storage does not have: state is no longer what the shard believes.
                    (self.fatal)(format!("{partition}: a batch was accepted and could not be kept: {message}"));
                }
            }
            Effect::Read { read, partition, from, up_to, max_bytes, at_least_one } => {
                if let Some(records) = self.log.read_tail(partition, from, max_bytes, up_to, at_least_one) {
                    self.metrics.tail_cache_hits.add(1);
                    self.count_read(&records);
                    self.inputs.borrow_mut().push_back(Input::ReadDone { read, outcome: Ok(records) });
                    return;
                }
                self.metrics.tail_cache_misses.add(1);
                let core = Rc::clone(self);
                self.memory.read_begun(max_bytes);
                runtime::spawn_local(async move {
                    let outcome = core.log.read(partition, from, max_bytes, up_to, at_least_one).await;
                    core.memory.read_ended(max_bytes);
                    if let Err(ReadOutcome::Failed(message)) = &outcome {
                        core.say_unreadable(partition, message);
                    }
                    // The slices share the memory that was read: cheap to keep.
                    let records = outcome.clone().unwrap_or_default();
                    core.count_read(&records);
                    core.take([Input::ReadDone { read, outcome }]);
                    core.log.read_ahead(partition, &records, max_bytes).await;
                })
                .detach();
            }
            Effect::Lookup { read, partition, lookup, up_to } => {
                let core = Rc::clone(self);
                runtime::spawn_local(async move {
                    let answer = core.log.lookup(partition, lookup, up_to).await;
                    core.take([Input::LookupDone { read, answer }]);
                })
                .detach();
            }
            Effect::CreatePartition { partition } => {
                let config = self.shard.borrow().image().partition_config(partition);
                self.log.create_partition(partition, config.as_deref());
            }
            Effect::ConfigurePartition { partition } => {
                let config = self.shard.borrow().image().partition_config(partition);
                self.log.configure_partition(partition, config.as_deref());
            }
            Effect::DeletePartition { partition } => {
                let core = Rc::clone(self);
                runtime::spawn_local(async move {
                    if let Err(error) = core.log.delete_partition(partition).await {
                        tracing::error!(%partition, error, "a deleted partition's files could not be removed");
                    }
                })
                .detach();
            }
            Effect::SetLogStart { read, partition, offset } => {
                let core = Rc::clone(self);
                runtime::spawn_local(async move {
                    let result = core.log.set_log_start(partition, offset).await;
                    if result.is_ok() {
                        core.take([Input::LogStartMoved { partition, offset }]);
                    }
                    core.take([Input::LogStartSet { read, result }]);
                })
                .detach();
            }
            Effect::Measure { read, partitions } => {
                let sizes = partitions.iter().map(|partition| self.log.log_bytes(*partition)).collect();
                self.inputs.borrow_mut().push_back(Input::Measured { read, sizes });
            }
            Effect::Propose { request, tag, change } => {
                let (mailboxes, me) = (self.mailboxes.clone(), self.identity.shard);
                (self.propose)(
                    change,
                    Box::new(move |result| {
                        let reply = Reply::Proposed { tag, result };
                        mailboxes.send(me, vec![Letter::Replied { request, reply }]);
                    }),
                );
            }
        }
    }

    /// Says what cannot be read of a partition: whoever wants it asks again and again, so not each time.
    fn say_unreadable(&self, partition: TopicPartition, message: &str) {
        let now = self.clock.now().instant;
        let mut said = self.unreadable.borrow_mut();
        if said.get(&partition).is_none_or(|last| now.since(*last) >= UNREADABLE_AGAIN) {
            said.insert(partition, now);
            tracing::error!(%partition, message, "records cannot be read; their consumers get KAFKA_STORAGE_ERROR");
        }
    }

    fn count_read(&self, records: &[Bytes]) {
        self.metrics.record_bytes_out.add(records.iter().map(|chunk| chunk.len() as u64).sum());
    }

    fn connected(self: &Rc<Self>, new: NewConnection) {
        let id = ConnectionId(self.next_connection.get());
        self.next_connection.set(id.0 + 1);
        let connection = match Connection::new(id, new.socket, new.peer, self.clock.now().instant, self.memory.clone())
        {
            Ok(connection) => connection,
            Err(error) => {
                self.open_connections.fetch_sub(1, Ordering::Relaxed);
                return tracing::debug!(peer = %new.peer, %error, "a connection was gone before it was served");
            }
        };
        self.connections.borrow_mut().insert(id, Rc::clone(&connection));
        if new.is_new {
            self.metrics.connections_accepted.add(1);
        }
        self.metrics.connections_open.set(self.connections.borrow().len() as u64);
        self.take([Input::Connected { connection: id, client_host: format!("/{}", new.peer.ip()) }]);
        runtime::spawn_local(self.clone().serve(connection, Incoming::with(new.received))).detach();
    }

    /// Lets readers that wait for storage look again.
    fn resume_connections(&self) {
        if self.held_back.get() && !self.log.is_congested() {
            self.held_back.set(false);
            for connection in self.connections.borrow().values() {
                connection.progress.raise();
            }
        }
    }

    async fn serve(self: Rc<Self>, connection: Rc<Connection>, mut incoming: Incoming) {
        let writer = Rc::clone(&connection);
        runtime::spawn_local(async move { writer.write_loop().await }).detach();
        let limit = self.limits.request_bytes_max;
        let mut moved = false;
        loop {
            self.wait_for_room(&connection).await;
            self.wait_for_pause(&connection).await;
            if let Some(to) = connection.move_to.take() {
                if self.settled(&connection).await {
                    moved = self.hand_over(&connection, &mut incoming, to);
                }
                if moved {
                    break;
                }
            }
            match connection.receive(&mut incoming, &self.scratch, limit).await {
                Received::Frames(frames) => {
                    connection.last_active.set(self.clock.now().instant);
                    self.metrics.bytes_in.add(frames.iter().map(|frame| frame.len() as u64 + 4).sum());
                    let id = connection.id;
                    self.log.wait_for_room(frames.iter().map(|frame| frame.len() + FRAME_COST_BYTES).sum()).await;
                    self.take(frames.into_iter().map(|frame| Input::Frame { connection: id, frame }));
                    self.take_deferred(&connection).await;
                    connection.release();
                    let waiting = self.shard.borrow().backlog(id).0;
                    if let Some(pause) = connection.gather(self.clock.now().instant, waiting) {
                        runtime::sleep(pause).await;
                    }
                }
                Received::End(error) => {
                    if let Some(error) = error {
                        self.metrics.connections_refused.add(1);
                        tracing::warn!(peer = %connection.peer, %error, "connection closed");
                    }
                    break;
                }
            }
        }
        connection.close();
        self.connections.borrow_mut().remove(&connection.id);
        self.metrics.connections_open.set(self.connections.borrow().len() as u64);
        if !moved {
            self.open_connections.fetch_sub(1, Ordering::Relaxed);
        }
        self.take([Input::Disconnected { connection: connection.id }]);
    }

    /// Takes in what had to wait, each when its time has come.
    async fn take_deferred(self: &Rc<Self>, connection: &Connection) {
        loop {
            let mut rest = connection.deferred.take();
            let Some(frame) = rest.pop_front() else { return };
            self.wait_for_pause(connection).await;
            self.wait_for_room(connection).await;
            if is_fetch(&frame) {
                self.settled(connection).await;
            }
            if connection.is_closing() {
                return;
            }
            self.take([Input::Frame { connection: connection.id, frame }]);
            // It may have to wait again.
            connection.deferred.borrow_mut().append(&mut rest);
        }
    }

    /// Backpressure: waits while this connection, or the shard, has too much under way.
    async fn wait_for_room(&self, connection: &Connection) {
        loop {
            let (requests, bytes) = self.shard.borrow().backlog(connection.id);
            let own = bytes + connection.unsent_bytes();
            let over_own = requests >= self.limits.requests_in_flight_max
                || own > self.limits.connection_bytes_max
                || self.has_much_to_send(connection);
            // Storage is behind: everybody waits for the next round or apply step.
            let over_shard = self.log.is_congested();
            if connection.is_closing() || !(over_own || over_shard) {
                return;
            }
            self.held_back.set(self.held_back.get() || over_shard);
            self.metrics.backpressure_pauses.add(1);
            connection.progress.wait().await;
        }
    }

    /// Waits while a connection's client was told to send nothing. (It may have sent before it knew.)
    async fn wait_for_pause(&self, connection: &Connection) {
        loop {
            let now = self.clock.now().instant;
            let left = connection.paused_until.get().since(now);
            if left.is_zero() || connection.is_closing() {
                return;
            }
            let closed = async { connection.progress.wait().await };
            futures_lite::future::or(async { runtime::sleep(left).await }, closed).await;
        }
    }

    /// Waits until nothing of a connection is under way. False if it closes meanwhile.
    async fn settled(&self, connection: &Connection) -> bool {
        loop {
            if connection.is_closing() {
                return false;
            }
            if self.is_settled(connection) {
                return true;
            }
            connection.progress.wait().await;
        }
    }

    /// Gives a connection to another shard, with the bytes that are not taken apart. Whether it went.
    fn hand_over(&self, connection: &Connection, incoming: &mut Incoming, to: ShardId) -> bool {
        let Ok(socket) = connection.duplicate_socket() else { return false };
        let received = incoming.take_rest();
        let new = NewConnection { socket, peer: connection.peer, received, is_new: false };
        self.metrics.connections_moved.add(1);
        self.mailboxes.send(to, vec![Letter::Connection(new)]);
        connection.forget();
        true
    }

    /// Bytes of the file system of the data directory, and those free for us.
    fn disk_bytes(&self) -> Option<(u64, u64)> {
        let path = std::ffi::CString::new(self.root.as_os_str().as_encoded_bytes()).ok()?;
        // SAFETY: all-zero is a valid `statvfs`, and the path ends with a zero byte.
        let status = unsafe {
            let mut status: libc::statvfs = std::mem::zeroed();
            (libc::statvfs(path.as_ptr(), &raw mut status) == 0).then_some(status)
        }?;
        Some((status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize))
    }

    async fn shut_down(self: &Rc<Self>) {
        // What is in flight is finished first: requests under way wait at most for a round or their own deadline.
        let deadline = self.clock.now().instant + Duration::from_secs(5);
        loop {
            let under_way = self.shard.borrow().produces_under_way();
            if (under_way == 0 && !self.log.has_pending()) || self.clock.now().instant >= deadline {
                break;
            }
            runtime::sleep(Duration::from_millis(2)).await;
        }
        for connection in self.connections.borrow().values() {
            connection.flush();
            connection.close();
        }
        let snapshots = self.shard.borrow_mut().producer_snapshots(SnapshotDue { batches: 1, bytes: 1 << 20 });
        self.log.save_last_snapshots(snapshots).await;
        if let Err(error) = self.log.close().await {
            tracing::error!(
                shard = self.identity.shard.0,
                error,
                "the log was not closed cleanly; the next start recovers it"
            );
        }
    }
}

/// Answers to fetches are as large as there is room when they begin, so a connection has one under way at a time, as with Apache Kafka
/// any request. No client asks for more at once.
fn is_fetch(frame: &[u8]) -> bool {
    frame.starts_with(&(ApiKey::Fetch as i16).to_be_bytes())
}

/// Commits rounds: while one is in flight, the next gathers.
async fn commit_loop(core: Rc<Core>) {
    loop {
        core.pending.wait().await;
        while core.log.has_pending() {
            match core.log.commit_round(&core.metrics).await {
                Ok(report) => {
                    core.take([Input::Durable { partitions: report.durable }]);
                    core.resume_connections();
                    let gathers = (1..LARGE_ROUND_BYTES).contains(&core.log.pending_bytes());
                    if report.bytes >= LARGE_ROUND_BYTES && gathers {
                        runtime::sleep(GATHER_ROUND).await;
                    }
                }
                Err(message) => {
                    core.take([Input::StorageFailed { message: message.clone() }]);
                    (core.fatal)(message);
                    return;
                }
            }
        }
        core.resume_connections();
    }
}

/// Moves journal content into the segments, a small step at a time.
async fn apply_loop(core: Rc<Core>) {
    loop {
        match core.log.apply_step().await {
            Ok(true) => {
                core.resume_connections();
                runtime::yield_if_needed().await;
            }
            Ok(false) => {
                // It may be a full disk that it has met: who waits is told so.
                core.resume_connections();
                runtime::sleep(Duration::from_millis(50)).await;
            }
            Err(message) => {
                core.take([Input::StorageFailed { message: message.clone() }]);
                (core.fatal)(message);
                return;
            }
        }
        if core.stopping.get() {
            return;
        }
    }
}

/// Wakes the shard when a deadline has come.
async fn tick_loop(core: Rc<Core>) {
    loop {
        let deadline = core.shard.borrow().next_deadline();
        let now = core.clock.now().instant;
        core.armed.set(deadline);
        match deadline {
            None => core.tick.wait().await,
            Some(deadline) if deadline <= now => core.take([Input::Tick]),
            Some(deadline) => {
                let wait = deadline.since(now);
                futures_lite::future::or(core.tick.wait(), async {
                    runtime::sleep(wait).await;
                })
                .await;
            }
        }
    }
}

/// Takes in what other threads have sent. What shards ask and answer is taken in together, as far as it has come: one step for each
/// would be one system call for each connection that gets an answer, and one wake of the other shard.
async fn letter_loop(core: Rc<Core>, mailbox: Mailbox) {
    let mut inputs = Vec::new();
    while let Ok(mut letters) = mailbox.recv().await {
        while let Ok(more) = mailbox.try_recv() {
            letters.extend(more);
        }
        let mut bytes = 0;
        for letter in letters {
            match letter {
                Letter::Asked { origin, ask } => {
                    if let Ask::Produce(produce) = &ask {
                        let own = produce.items.iter().map(|item| item.bytes.len() + FRAME_COST_BYTES).sum::<usize>();
                        bytes += own;
                        if bytes > LETTER_BYTES_MAX || !core.log.has_room(bytes) {
                            // What came before must not wait for the room that this needs.
                            core.take(inputs.drain(..));
                            bytes = own;
                            core.log.wait_for_room(own).await;
                        }
                    }
                    inputs.push(Input::Asked { origin, ask });
                }
                Letter::Replied { request, reply } => inputs.push(Input::Replied { request, reply }),
                Letter::Metadata { image, taken } => {
                    inputs.push(Input::Metadata { image });
                    core.take(inputs.drain(..));
                    taken();
                }
                Letter::Plugin(plugin) => match plugin_runtime::compiled(&plugin.compiled) {
                    Some(compiled) => {
                        let (name, version) = (plugin.name, plugin.version);
                        inputs.push(Input::Plugin { name, version, compiled });
                    }
                    None => tracing::error!(plugin = plugin.name, "a plugin of another runtime cannot be run here"),
                },
                Letter::Offline(partitions) => inputs.push(Input::Offline { partitions }),
                Letter::Readers(readers) => *core.readers.borrow_mut() = Some(readers),
                Letter::Connection(new) => core.connected(new),
                Letter::Stop => {
                    core.stopping.set(true);
                    core.stopped.raise();
                }
            }
        }
        core.take(inputs.drain(..));
    }
}

/// Retention, compaction, snapshots, idle connections: what nobody waits for.
async fn housekeeping_loop(core: Rc<Core>) {
    let mut round = 0_u64;
    loop {
        if core.stopping.get() {
            return;
        }
        round += 1;
        let now = core.clock.now();
        let idle: Vec<_> = core
            .connections
            .borrow()
            .values()
            .filter(|connection| now.instant.since(connection.last_active.get()) > core.limits.idle_max)
            .filter(|connection| core.shard.borrow().backlog(connection.id).0 == 0)
            .cloned()
            .collect();
        for connection in idle {
            tracing::debug!(peer = %connection.peer, "connection closed: idle for connections.max.idle.ms");
            // A client that takes no answer for so long would hold the memory for ever.
            connection.abort();
        }
        if core.memory.is_waited_for() {
            for connection in core.connections.borrow().values().filter(|connection| connection.is_stalled()) {
                tracing::warn!(
                    peer = %connection.peer,
                    "connection closed: it has announced a large request and hardly sends it, while others wait for its room \
                     (queued.max.request.bytes)"
                );
                connection.abort();
            }
        }
        for problem in core.shard.borrow_mut().take_group_problems() {
            tracing::error!("{problem}");
        }
        let snapshots = {
            let mut shard = core.shard.borrow_mut();
            let partitions = shard.counts().1.max(1) as u64;
            let bytes =
                (UNSAVED_BYTES_MAX / partitions).clamp(UNSAVED_PARTITION_BYTES_MIN, UNSAVED_PARTITION_BYTES_MAX);
            shard.producer_snapshots(SnapshotDue { batches: 10_000, bytes })
        };
        core.log.save_snapshots(snapshots).await;
        core.log.gauge(&core.metrics);
        let in_flight = core.metrics.bytes_in_flight.value() + core.memory.reserved_bytes() as u64;
        core.metrics.bytes_in_flight.set(in_flight);
        if core.shard_id() == ShardId(0)
            && let Err(error) = keep_reserve(&core.root)
        {
            tracing::debug!(%error, "no room is kept for when the disk is full");
        }
        if let Some((total, usable)) = core.disk_bytes() {
            core.shard.borrow_mut().set_disk_bytes(total, usable);
        }
        if round.is_multiple_of(60) {
            core.shard.borrow_mut().expire_producers(now);
        }
        super::housekeeping::clean(&core).await;
        runtime::sleep(Duration::from_secs(1)).await;
    }
}
