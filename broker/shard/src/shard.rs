//! The shard: one `match` over what happened, and nothing else. State lives in the modules that it dispatches to.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use kafka_protocol::messages::ApiKey;
use tidegate_model::{
    compaction::{Compaction, OffsetMap, Plan},
    fetch_session::{FetchSessions, SessionIds},
    group::GroupConfig,
    metadata::{MetadataChange, MetadataImage},
    partition::EpochStart,
    retention::{Expiry, Segment},
    topic_config::ConfigType,
};
use tidegate_plugin_host::{Compiled, Limits};
use tidegate_records::{
    batch::BatchHeader,
    ids::{BrokerId, LeaderEpoch, Offset, ShardId, TopicId, TopicPartition},
    time::{Instant, Now, Timestamp},
};

use crate::{
    api::{self, Decompression, Work},
    connection::{ConnectionId, Connections},
    groups::Groups,
    message::{Ask, Origin, Reply},
    ownership,
    plugins::{AttachmentReport, ObservedBatch, PluginLog, Plugins},
    replica::Owned,
    request::{Request, RequestId},
};

/// A read or lookup under way, unique for the life of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// Who this shard is.
#[derive(Clone, Debug)]
pub struct ShardIdentity {
    pub shard: ShardId,
    pub shards: u16,
    pub broker: BrokerId,
}

/// The broker's settings that decisions need; the server's configuration fills them. Names are Kafka's where it has one.
#[derive(Clone, Debug)]
pub struct ShardSettings {
    pub auto_create_topics: bool,
    /// `num.partitions`: of topics created without a count, automatically or not.
    pub default_partitions: i32,
    /// `socket.request.max.bytes`.
    pub request_bytes_max: usize,
    /// `fetch.max.bytes`: what a fetch may ask for at most, in bytes.
    pub fetch_bytes_max: usize,
    /// `max.incremental.fetch.session.cache.slots`, of the whole broker.
    pub fetch_sessions_max: usize,
    /// `producer.id.expiration.ms`.
    pub producer_id_expiration_ms: i64,
    /// Milliseconds after which a produce request that names no timeout is given up.
    pub request_timeout_ms: i32,
    /// `log.retention.check.interval.ms`.
    pub cleaning_interval_ms: u64,
    /// `offsets.topic.num.partitions`.
    pub offsets_topic_partitions: i32,
    /// The settings of groups; their number of partitions is that of the topic once it exists.
    pub groups: GroupConfig,
    /// What an instance of a plugin may use.
    pub plugin_limits: Limits,
    /// What plugins may take of a shard's core, in percent: who sends to topics whose plugins take more is told to wait. 100: no bound.
    pub plugin_core_percent_max: u32,
    /// Nanoseconds since any moment, to measure the calls of plugins. What they cost is charged by it (`plugins/share.rs`), and nothing
    /// else is decided by it.
    pub stopwatch: fn() -> u64,
    /// Where the logs are, as DescribeLogDirs shows it.
    pub data_directory: String,
    /// The broker's own settings, as DescribeConfigs shows them.
    pub shown: Vec<ShownSetting>,
}

/// A setting of the broker, to be shown. It is changed in its configuration file.
#[derive(Clone, Debug)]
pub struct ShownSetting {
    pub name: String,
    pub value: String,
    pub kind: ConfigType,
    /// What holds where nobody sets it; `None`: nothing.
    pub default: Option<String>,
    pub documentation: String,
}

impl Default for ShardSettings {
    fn default() -> Self {
        Self {
            auto_create_topics: true,
            default_partitions: 1,
            request_bytes_max: 100 << 20,
            fetch_bytes_max: 55 << 20,
            fetch_sessions_max: 1_000,
            producer_id_expiration_ms: 86_400_000,
            request_timeout_ms: 30_000,
            cleaning_interval_ms: 300_000,
            offsets_topic_partitions: 50,
            groups: GroupConfig::default(),
            plugin_limits: Limits::default(),
            plugin_core_percent_max: 50,
            stopwatch: || 0,
            data_directory: String::new(),
            shown: Vec::new(),
        }
    }
}

/// What recovery found of a partition that this shard owns.
#[derive(Clone, Debug)]
pub struct RecoveredPartition {
    pub partition: TopicPartition,
    pub log_start_offset: Offset,
    pub log_end_offset: Offset,
    pub epochs: Vec<EpochStart>,
    /// As `model::partition::Producers::encode` wrote it.
    pub producers: Option<Bytes>,
    /// Headers of the batches after that snapshot, and the broker's clock when each was appended.
    pub batches: Vec<(BatchHeader, Timestamp)>,
    /// Bytes of the log after that snapshot.
    pub unsaved_bytes: u64,
    /// Damage: the partition stays offline, and says so.
    pub error: Option<String>,
}

/// When a snapshot of a partition's producers is due: as soon as either has come since the last. Recovery reads what came since.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotDue {
    /// Batches of idempotent producers; at least 1.
    pub batches: u32,
    /// Bytes of batches, of whatever producers.
    pub bytes: u64,
}

/// Something that happened. The shell calls [`Shard::step`] with it.
pub enum Input {
    /// First of all: the cluster's metadata, and the partitions of this shard as recovery found them.
    Start { image: Arc<MetadataImage>, recovered: Vec<RecoveredPartition> },
    /// A client connected. `client_host` is its address, as groups show it.
    Connected { connection: ConnectionId, client_host: String },
    /// A whole request, its length prefix removed.
    Frame { connection: ConnectionId, frame: Bytes },
    /// The connection is gone; nothing can be sent to it any more.
    Disconnected { connection: ConnectionId },
    /// Another shard asks.
    Asked { origin: Origin, ask: Ask },
    /// A shard, or the control plane, answered.
    Replied { request: RequestId, reply: Reply },
    /// A commit round is done: everything below these offsets is durable (or written, where the topic asks no more).
    Durable { partitions: Vec<(TopicPartition, Offset)> },
    /// An [`Effect::Read`] is done.
    ReadDone { read: ReadId, outcome: Result<Vec<Bytes>, ReadOutcome> },
    /// An [`Effect::Lookup`] is done; `None`: no such record.
    LookupDone { read: ReadId, answer: Result<Option<LookupAnswer>, ReadOutcome> },
    /// Committed metadata has changed.
    Metadata { image: Arc<MetadataImage> },
    /// An [`Effect::SetLogStart`] is done; [`Input::LogStartMoved`] came before it if it went well.
    LogStartSet { read: ReadId, result: Result<(), String> },
    /// An [`Effect::Measure`] is done: bytes of each log.
    Measured { read: ReadId, sizes: Vec<u64> },
    /// Damage keeps these partitions offline, here and at other shards: Metadata gives them no leader. Each shard knows its own at its
    /// start; this comes once all have said theirs.
    Offline { partitions: Arc<BTreeSet<TopicPartition>> },
    /// These topics are watched from now on, and no others: see [`Effects::observed`].
    Watch { topics: Arc<BTreeSet<TopicId>> },
    /// A plugin, or another version of it, is ready to run; it comes before the metadata that name it.
    Plugin { name: String, version: u32, compiled: Compiled },
    /// Retention or an [`Effect::SetLogStart`] moved the start of a log.
    LogStartMoved { partition: TopicPartition, offset: Offset },
    /// Writes are over for this process: a flush has failed. What waits is answered with an error.
    StorageFailed { message: String },
    /// Time has passed; the shell sends it at least every 10 ms while [`Shard::next_deadline`] is due, else when it is.
    Tick,
}

/// Why a read gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The offset is below the start of the log, which has moved meanwhile.
    OutOfRange,
    /// The disk or the file says no; the text says which and what to do.
    Failed(String),
}

/// The record that a [`Lookup`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookupAnswer {
    pub offset: Offset,
    pub timestamp: Timestamp,
    pub leader_epoch: LeaderEpoch,
}

/// A question that only stored records can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The first record whose timestamp is at least this.
    AtOrAfter(Timestamp),
    /// The record with the largest timestamp.
    MaxTimestamp,
    /// The first offset that the disk has (KIP-405).
    EarliestLocal,
    /// The last offset that the object store has (KIP-1005); none where nothing is offloaded.
    LatestTiered,
}

/// A batch for the log; storage stamps base offset and leader epoch as it copies it.
#[derive(Clone, Debug)]
pub struct AppendBatch {
    pub bytes: Bytes,
    pub header: BatchHeader,
    pub base_offset: Offset,
    pub leader_epoch: LeaderEpoch,
    /// The broker's clock: what producer ids expire by.
    pub append_time: Timestamp,
    /// False where the topic says `tidegate.durability=os`: written counts, no flush is waited for.
    pub flush: bool,
}

/// Something to do. The shell does them in order; none fails silently.
pub enum Effect {
    /// Write these bytes to the connection, in this order after what was sent before. Requests are done with it: no bytes at all where those have
    /// no answer, and who waits for them goes on.
    Send { connection: ConnectionId, chunks: Vec<Bytes> },
    /// Close the connection after what was sent. `reason` is for the log.
    Close { connection: ConnectionId, reason: String },
    /// Read nothing from the connection until then: it was told to wait.
    Pause { connection: ConnectionId, until: Instant },
    /// Bring the frame again then, and nothing else of the connection before it.
    Later { connection: ConnectionId, frame: Bytes, until: Instant },
    /// Ask another shard; its answer comes as [`Input::Replied`].
    Ask { to: ShardId, request: RequestId, ask: Ask },
    /// Answer another shard.
    Reply { to: ShardId, request: RequestId, reply: Reply },
    /// Queue a batch for the next commit round; [`Input::Durable`] follows. Only after [`Shard::set_append_budget`] allowed it.
    Append { partition: TopicPartition, batch: AppendBatch },
    /// Read whole batches from `from` on, below `up_to`, at most `max_bytes` (but one batch, if `at_least_one`).
    Read { read: ReadId, partition: TopicPartition, from: Offset, up_to: Offset, max_bytes: usize, at_least_one: bool },
    /// Look a record up among those below `up_to`.
    Lookup { read: ReadId, partition: TopicPartition, lookup: Lookup, up_to: Offset },
    /// Make `offset` the start of the log, durably (DeleteRecords).
    SetLogStart { read: ReadId, partition: TopicPartition, offset: Offset },
    /// Say how large these logs are.
    Measure { read: ReadId, partitions: Vec<TopicPartition> },
    /// Ask the control plane to commit a change of the metadata; [`Reply::Proposed`] comes to `request`.
    Propose { request: RequestId, tag: u32, change: MetadataChange },
    /// All that this connection wants lives on another shard: hand it over once nothing of it is under way.
    MoveConnection { connection: ConnectionId, to: ShardId },
    /// The metadata has a new partition for this shard: make its log.
    CreatePartition { partition: TopicPartition },
    /// The topic's configuration has changed: take it for this log.
    ConfigurePartition { partition: TopicPartition },
    /// The topic is deleted: remove the log.
    DeletePartition { partition: TopicPartition },
}

/// A step of cleaning a log.
#[derive(Clone, Debug, PartialEq)]
pub enum CleaningStep {
    /// Close the active segment.
    Roll,
    /// Delete the segments that end at or below this offset, then report [`Input::LogStartMoved`].
    DeleteBelow(Offset),
    /// Run a round of compaction, then [`Shard::compacted`].
    Compact(Plan),
}

/// One answered request, for the metrics.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    pub api: ApiKey,
    /// Nanoseconds from the whole request to the answer's hand-over.
    pub nanos: u64,
}

/// What a step wants done.
#[derive(Default)]
pub struct Effects {
    pub list: Vec<Effect>,
    pub observations: Vec<Observation>,
    /// The error codes of what was answered, one for each time; 0 is not among them.
    pub errors: Vec<(ApiKey, i16)>,
    /// What plugins logged.
    pub plugin_logs: Vec<PluginLog>,
    /// What was sent to topics that are watched ([`Input::Watch`]).
    pub observed: Vec<ObservedBatch>,
    pub(crate) replies: VecDeque<(Origin, Reply)>,
    asks: VecDeque<(ShardId, RequestId, Ask)>,
    /// Requests that were done but for those before them on their connection, and are next there.
    pub(crate) release: VecDeque<RequestId>,
}

impl Effects {
    /// Notes an error code of an answer, for the metrics; 0 is none.
    pub(crate) fn count_error(&mut self, api: ApiKey, code: i16) {
        if code != 0 {
            self.errors.push((api, code));
        }
    }

    pub(crate) fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    pub(crate) fn reply(&mut self, origin: Origin, reply: Reply) {
        self.replies.push_back((origin, reply));
    }

    /// Asks after the present input is dealt with.
    pub(crate) fn ask_later(&mut self, to: ShardId, request: RequestId, ask: Ask) {
        self.asks.push_back((to, request, ask));
    }
}

/// One core's broker. See the crate's documentation.
pub struct Shard {
    pub(crate) identity: ShardIdentity,
    pub(crate) settings: Arc<ShardSettings>,
    pub(crate) image: Arc<MetadataImage>,
    pub(crate) connections: Connections,
    pub(crate) owned: Owned,
    pub(crate) plugins: Plugins,
    pub(crate) groups: Groups,
    pub(crate) producer_ids: api::ProducerIds,
    pub(crate) fetch_sessions: FetchSessions,
    pub(crate) disk_bytes: Option<(i64, i64)>,
    /// Of all shards: see [`Input::Offline`].
    pub(crate) offline: Arc<BTreeSet<TopicPartition>>,
    /// Of the produce request that is being taken in.
    pub(crate) decompression: Decompression,
    in_flight: BTreeMap<RequestId, (Request, Work)>,
    next_request: u64,
}

impl Shard {
    /// A shard that owns nothing yet; the first input is [`Input::Start`].
    #[must_use]
    pub fn new(identity: ShardIdentity, settings: Arc<ShardSettings>) -> Self {
        let owned = Owned::new(identity.shard);
        let fetch_sessions = fetch_sessions(&identity, &settings, 0);
        Self {
            identity,
            settings,
            image: Arc::new(MetadataImage::default()),
            connections: Connections::default(),
            owned,
            plugins: Plugins::default(),
            groups: Groups::default(),
            producer_ids: api::ProducerIds::default(),
            fetch_sessions,
            disk_bytes: None,
            offline: Arc::default(),
            decompression: Decompression::default(),
            in_flight: BTreeMap::new(),
            next_request: 0,
        }
    }

    /// Takes one input. Effects are appended; the shell performs them in order.
    pub fn step(&mut self, now: Now, input: Input, effects: &mut Effects) {
        match input {
            Input::Start { image, recovered } => {
                let seed = now.wall.0.unsigned_abs().rotate_left(32) ^ now.instant.0;
                self.fetch_sessions = fetch_sessions(&self.identity, &self.settings, seed);
                self.owned.recovered(recovered);
                self.metadata(now, image, effects);
            }
            Input::Connected { connection, client_host } => self.connections.opened(connection, client_host),
            Input::Frame { connection, frame } => api::frame(self, now, connection, frame, effects),
            Input::Disconnected { connection } => {
                for held in self.connections.closed(connection) {
                    self.in_flight.remove(&held);
                }
                self.plugins.connection_closed(connection);
            }
            Input::Asked { origin, ask } => self.asked(now, origin, ask, effects),
            Input::Replied { request, reply } => self.replied(now, request, reply, effects),
            Input::Durable { partitions } => self.owned.durable(now, &partitions, effects),
            Input::ReadDone { read, outcome } => self.owned.read_done(now, read, outcome, effects),
            Input::LookupDone { read, answer } => self.owned.lookup_done(read, answer, effects),
            Input::LogStartSet { read, result } => self.owned.log_start_set(read, result, effects),
            Input::Measured { read, sizes } => self.owned.measured(read, &sizes, effects),
            Input::Metadata { image } => self.metadata(now, image, effects),
            Input::Plugin { name, version, compiled } => self.plugins.deployed(name, version, compiled),
            Input::Offline { partitions } => self.offline = partitions,
            Input::Watch { topics } => self.plugins.watch(topics),
            Input::LogStartMoved { partition, offset } => self.owned.log_start_moved(now, partition, offset, effects),
            Input::StorageFailed { message } => self.owned.storage_failed(message, effects),
            Input::Tick => {
                self.owned.expire(now, effects);
                self.groups_tick(now, effects);
            }
        }
        effects.plugin_logs.append(&mut self.plugins.take_log());
        effects.observed.append(&mut self.plugins.take_observed());
        loop {
            if let Some((origin, reply)) = effects.replies.pop_front() {
                if origin.shard == self.identity.shard {
                    self.replied(now, origin.request, reply, effects);
                } else {
                    effects.push(Effect::Reply { to: origin.shard, request: origin.request, reply });
                }
            } else if let Some((to, request, ask)) = effects.asks.pop_front() {
                self.ask(now, to, request, ask, effects);
            } else if let Some(id) = effects.release.pop_front() {
                if let Some((request, work)) = self.in_flight.remove(&id) {
                    api::release(self, now, &request, work, effects);
                }
            } else {
                break;
            }
        }
    }

    /// When [`Input::Tick`] is due at the latest, if anything waits for time.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.owned.next_deadline().into_iter().chain(self.groups.next_deadline()).min()
    }

    /// How many bytes the answer to a fetch may hold from here on; the shell says it before each step. One batch is always allowed.
    pub fn set_fetch_budget(&mut self, bytes: usize) {
        self.owned.set_fetch_budget(bytes);
    }

    /// How many bytes storage takes before the next call; the shell says it before each step. Beyond it, produce requests are
    /// refused with `reason`: nothing is given an offset that storage may refuse.
    pub fn set_append_budget(&mut self, bytes: usize, reason: Option<String>) {
        self.owned.set_append_budget(bytes, reason);
    }

    /// Requests of a connection that are not answered, and their bytes.
    #[must_use]
    pub fn backlog(&self, connection: ConnectionId) -> (usize, usize) {
        self.connections.backlog(connection)
    }

    /// Connections open, partitions owned, requests under way.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.connections.len(), self.owned.len(), self.in_flight.len())
    }

    /// What was counted at each attachment of a plugin, on this shard.
    pub fn attachments(&self) -> impl Iterator<Item = AttachmentReport> {
        self.plugins.reports(&self.image)
    }

    /// Every partition that this shard owns: where its log starts, its high watermark, and where it ends. For the metrics.
    pub fn partitions(&self) -> impl Iterator<Item = (TopicPartition, Offset, Offset, Offset)> {
        self.owned.replicas.iter().map(|(partition, replica)| {
            let model = &replica.model;
            (*partition, model.log_start_offset(), model.high_watermark(), model.log_end_offset())
        })
    }

    /// How many partitions of this shard damage keeps offline.
    #[must_use]
    pub fn partitions_offline(&self) -> usize {
        self.owned.replicas.values().filter(|replica| replica.offline.is_some()).count()
    }

    /// Where the log of a partition starts, and its high watermark; `None` if it is gone.
    #[must_use]
    pub fn log_bounds(&self, partition: TopicPartition) -> Option<(Offset, Offset)> {
        let model = &self.owned.replicas.get(&partition)?.model;
        Some((model.log_start_offset(), model.high_watermark()))
    }

    /// Partitions that have not been looked at for `log.retention.check.interval.ms`; some at a time, each named once.
    pub fn cleaning_due(&mut self, now: Now) -> Vec<TopicPartition> {
        self.owned.cleaning_due(now, self.settings.cleaning_interval_ms)
    }

    /// What is to be done with the segments of a partition, in order.
    #[must_use]
    pub fn plan_cleaning(
        &self,
        now: Now,
        partition: TopicPartition,
        expiry: Expiry,
        segments: &[Segment],
    ) -> Vec<CleaningStep> {
        self.owned.plan_cleaning(now, partition, expiry, segments)
    }

    /// Begins a round of compaction; `None` if the partition is gone.
    #[must_use]
    pub fn begin_compaction(
        &self,
        now: Now,
        partition: TopicPartition,
        plan: Plan,
        map: OffsetMap,
    ) -> Option<Compaction> {
        self.owned.begin_compaction(now, partition, plan, map)
    }

    /// A round has cleaned everything below `cleaned_to`.
    pub fn compacted(&mut self, partition: TopicPartition, cleaned_to: Offset) {
        self.owned.compacted(partition, cleaned_to);
    }

    /// Produce requests whose parts on this shard are not committed.
    #[must_use]
    pub fn produces_under_way(&self) -> usize {
        self.owned.waiting.produces()
    }

    /// Snapshots of the producers of partitions to which enough came since the last one.
    pub fn producer_snapshots(&mut self, due: SnapshotDue) -> Vec<(TopicPartition, Offset, Bytes)> {
        self.owned.producer_snapshots(due)
    }

    /// A snapshot of the producers of one partition as it is now; none while it has batches that are not durable.
    pub fn producer_snapshot(&mut self, partition: TopicPartition) -> Option<(Offset, Bytes)> {
        self.owned.producer_snapshot(partition)
    }

    /// Forgets producers that have been idle for `producer.id.expiration.ms`.
    pub fn expire_producers(&mut self, now: Now) {
        self.owned.expire_producers(now, self.settings.producer_id_expiration_ms);
    }

    /// Asks the control plane for a change; the reply comes to the request, which must be
    /// parked, with the same `tag`.
    pub(crate) fn propose(&mut self, request: RequestId, tag: u32, change: MetadataChange, effects: &mut Effects) {
        effects.push(Effect::Propose { request, tag, change });
    }

    /// Takes a request back that waits for what another request has got.
    pub(crate) fn unpark(&mut self, id: RequestId) -> Option<Request> {
        self.in_flight.remove(&id).map(|(request, _)| request)
    }

    /// The size of the file system and what is free on it, in bytes; the shell says it now and then.
    pub fn set_disk_bytes(&mut self, total: u64, usable: u64) {
        let clamp = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.disk_bytes = Some((clamp(total), clamp(usable)));
    }

    /// The metadata that this shard answers from.
    #[must_use]
    pub fn image(&self) -> &Arc<MetadataImage> {
        &self.image
    }

    fn metadata(&mut self, now: Now, image: Arc<MetadataImage>, effects: &mut Effects) {
        self.owned.metadata(now, &image, self.identity.shards, effects);
        self.plugins.retain_topics(|topic| image.topic_by_id(topic).is_some());
        self.image = Arc::clone(&image);
        self.groups_metadata(now, &image, effects);
    }

    fn asked(&mut self, now: Now, origin: Origin, ask: Ask, effects: &mut Effects) {
        match ask {
            Ask::Produce(ask) => self.owned.produce(now, origin, ask, effects),
            Ask::Fetch(ask) => self.owned.fetch(now, origin, ask, effects),
            Ask::CancelFetch => self.owned.cancel_fetch(now, origin, effects),
            Ask::ListOffsets(items) => self.owned.list_offsets(origin, items, effects),
            Ask::EpochEnds(items) => self.owned.epoch_ends(origin, &items, effects),
            Ask::DeleteRecords(items) => self.owned.delete_records(origin, &items, effects),
            Ask::LogSizes(partitions) => self.owned.log_sizes(origin, partitions, effects),
            Ask::DescribeProducers(partitions) => self.owned.describe_producers(origin, &partitions, effects),
            Ask::Group(request) => self.group_asked(now, origin, *request, effects),
        }
    }

    fn replied(&mut self, now: Now, id: RequestId, reply: Reply, effects: &mut Effects) {
        let Some(reply) = self.group_replied(now, id, reply, effects) else { return };
        // A reply to a request that was answered meanwhile (a cancelled fetch, a closed connection) has nobody to go to.
        let Some((request, work)) = self.in_flight.remove(&id) else { return };
        if let Some(work) = api::finish(self, now, &request, work, reply, effects) {
            self.in_flight.insert(id, (request, work));
        }
    }

    pub(crate) fn next_request_id(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    /// Parks a request until its replies are in. Must precede the asks, which may be answered at once.
    pub(crate) fn park(&mut self, request: Request, work: Work) {
        self.in_flight.insert(request.id, (request, work));
    }

    /// Asks the owner of some partitions, be it this shard or another.
    pub(crate) fn ask(&mut self, now: Now, to: ShardId, request: RequestId, ask: Ask, effects: &mut Effects) {
        if to == self.identity.shard {
            self.asked(now, Origin { shard: to, request }, ask, effects);
        } else {
            effects.push(Effect::Ask { to, request, ask });
        }
    }

    /// Lets a connection move to the shard that alone owns what it asks for. `owners` are those of one request, each once.
    pub(crate) fn note_owners(&mut self, connection: ConnectionId, owners: &[ShardId], effects: &mut Effects) {
        let only = match owners {
            [only] if *only != self.identity.shard => Some(*only),
            _ => None,
        };
        if self.connections.served_by(connection, only)
            && let Some(to) = only
        {
            effects.push(Effect::MoveConnection { connection, to });
        }
    }

    pub(crate) fn owner(&self, partition: TopicPartition) -> ShardId {
        ownership::owner(partition, self.identity.shards)
    }
}

/// The fetch sessions of this shard's connections: its share of the slots and of the ids.
fn fetch_sessions(identity: &ShardIdentity, settings: &ShardSettings, seed: u64) -> FetchSessions {
    let slots = settings.fetch_sessions_max.div_ceil(usize::from(identity.shards));
    FetchSessions::new(slots, SessionIds::of_shard(identity.shard.0, identity.shards), seed)
}
