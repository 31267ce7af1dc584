//! From the bytes of a produce request to batches with a destination: checked, and routed where the topic says so.
//!
//! A topic with a router or a partitioner (or whose records may go to a dead-letter topic) is a *routed topic*. Its plugin runs here, on
//! the shard that received the batch, before anything is appended. The parts carry a producer id derived from the client's and from where it sent the batch, with the batch's own
//! base sequence: a retry is split the same way, so every destination recognises it (see `model::partition::producers`). For that a plugin
//! sees nothing that is not the same for a retry: its clock is the batch's newest timestamp as the producer sent it (the append time
//! is another one for each try, and the first try's may be lost with the answer), its randomness is seeded from topic, partition and
//! sequence. A destination gets one part of a batch, however many of the router's answers lead to it: two parts with one
//! sequence would be taken for a batch and its retry.
//!
//! Order: parts go to their owners in the order of the batches. A batch that was refused for a passing reason, here or by an owner, holds back
//! those behind it until it comes again (`refused.rs`): none of them is acknowledged before it, also where it goes to other destinations
//! (`api/produce.rs`). Clients count on that: librdkafka takes a batch behind for a sign that those before it were written, and a
//! destination that has taken five batches more knows a retry no longer.
//!
//! A plugin that fails (`plugins/fault.rs`) gives the producer an error, unless the attachment's policy says that its records go on as if there
//! were none, or to a dead-letter topic. A retry meets the same policy: where the plugin's failure depends on the batch alone, it ends up
//! in the same place.
//!
//! Whether batches are taken at all, and when their writes count as acknowledged, acknowledgement hooks say (`plugins/ack.rs`). Which instance of a
//! plugin a batch meets is said in `plugins/instances.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use kafka_protocol::ResponseError;
use tidegate_model::{
    metadata::{MetadataImage, Topic},
    partition::{AppendError, producers::derived_producer_id},
    topic_config::{Attachment, OnFailure, TopicConfig, Unroutable},
};
use tidegate_plugin_host::{AckHook, Compiled, Context, LogLevel, LogLine, Partitioner, Rejection, Router, TopicInfo};
use tidegate_records::{
    batch::{BatchHeader, Compression, HEADER_BYTES, HeaderError},
    build::Producer,
    columns::{Columns, Wanted, columns},
    compress::{CompressionError, decompress},
    ids::{PartitionIndex, TopicId, TopicPartition},
    split::{Assignment, split},
    time::{Instant, Now, Timestamp},
    validate::{Rules, ValidateError, validate},
};

mod ack;
mod counts;
mod fault;
mod instances;
mod observed;
mod retention;
mod share;

pub use ack::attainable;
pub use counts::{AttachmentCounts, AttachmentReport};
pub use instances::attachment_limits;
pub use observed::ObservedBatch;
pub use retention::{AllowedVerdict, RetentionFailure, RetentionReport, RetentionTask};

pub(crate) use ack::Commit;

use counts::Counts;
use fault::{DeadLetter, Fault, FaultKind, policy};
use instances::{Attached, Deployed, instance, take_lines, timed};
use observed::Observed;
use share::Shares;

use crate::{
    ConnectionId,
    api::refuse_derived,
    error::PartitionError,
    message::ProduceItem,
    refused::{Refused, Turn},
    request::Request,
    shard::Shard,
};

/// Destinations of one batch at most: a plugin's answer must not become a flood.
const DESTINATIONS_MAX: usize = 10_000;

/// The plugins of a shard.
#[derive(Default)]
pub(crate) struct Plugins {
    deployed: BTreeMap<String, Deployed>,
    routers: BTreeMap<TopicId, Attached<Router>>,
    partitioners: BTreeMap<TopicId, Attached<Partitioner>>,
    acks: BTreeMap<TopicId, Attached<AckHook>>,
    router_counts: Counts,
    partitioner_counts: Counts,
    ack_counts: Counts,
    retention_counts: Counts,
    log: Vec<PluginLog>,
    observed: Observed,
    /// Nanoseconds of calls since [`Shard::charge_plugins`].
    spent: u64,
    shares: Shares,
    /// Batches that a plugin did not want to route now, or that a destination did not take: until they are routed again.
    pub(crate) refused: Refused<ConnectionId>,
    /// The same until they are acknowledged.
    pub(crate) unacknowledged: Refused<ConnectionId>,
}

/// Lines that a plugin logged.
#[derive(Clone, Debug)]
pub struct PluginLog {
    pub plugin: String,
    pub version: u32,
    pub topic: String,
    pub lines: Vec<LogLine>,
}

impl Plugins {
    /// A plugin, or another version of it, is ready to run.
    pub(crate) fn deployed(&mut self, name: String, version: u32, compiled: Compiled) {
        self.deployed.insert(name, Deployed { version, compiled });
    }

    /// Forgets the instances of topics that are gone.
    pub(crate) fn retain_topics(&mut self, exists: impl Fn(TopicId) -> bool) {
        self.routers.retain(|topic, _| exists(*topic));
        self.partitioners.retain(|topic, _| exists(*topic));
        self.acks.retain(|topic, _| exists(*topic));
        self.router_counts.retain(&exists);
        self.partitioner_counts.retain(&exists);
        self.ack_counts.retain(&exists);
        self.retention_counts.retain(&exists);
    }

    /// What was counted at each attachment.
    pub(crate) fn reports<'a>(&'a self, image: &'a MetadataImage) -> impl Iterator<Item = AttachmentReport> + 'a {
        let of_router = |topic| self.routers.get(&topic).map(|attached| attached.instance.series());
        let of_partitioner = |topic| self.partitioners.get(&topic).map(|attached| attached.instance.series());
        let of_hook = |topic| self.acks.get(&topic).map(|attached| attached.instance.series());
        let routed = self.router_counts.reports("router", image, of_router);
        let placed = self.partitioner_counts.reports("partitioner", image, of_partitioner);
        let hooks = self.ack_counts.reports("ack", image, of_hook);
        routed.chain(placed).chain(hooks).chain(self.retention_counts.reports("retention", image, |_| None))
    }

    /// From now on, batches that are sent to these topics are kept for who watches.
    pub(crate) fn watch(&mut self, topics: Arc<BTreeSet<TopicId>>) {
        self.observed.watch(topics);
    }

    pub(crate) fn take_observed(&mut self) -> Vec<ObservedBatch> {
        self.observed.take()
    }

    /// A batch was refused and will be sent again.
    pub(crate) fn comes_again(&mut self, connection: ConnectionId, turn: Turn) {
        self.refused.refused(connection, turn);
        self.unacknowledged.refused(connection, turn);
    }

    /// Forgets what is remembered of a connection.
    pub(crate) fn connection_closed(&mut self, connection: ConnectionId) {
        self.refused.closed(connection);
        self.unacknowledged.closed(connection);
    }

    pub(crate) fn take_log(&mut self) -> Vec<PluginLog> {
        std::mem::take(&mut self.log)
    }
}

fn rejected(plugin: &str, rejections: Vec<Rejection>) -> Result<(), PartitionError> {
    let Some(first) = rejections.first() else { return Ok(()) };
    let message = format!("plugin '{plugin}' rejects record {}: {}", first.record, first.reason);
    let records = rejections
        .into_iter()
        .map(|rejection| (i32::try_from(rejection.record).unwrap_or(i32::MAX), rejection.reason))
        .collect();
    Err(PartitionError::Invalid { code: ResponseError::InvalidRecord.code(), message, records })
}

/// A batch on its way, decompressed once for all who ask for its records.
#[derive(Clone)]
struct Batch<'a> {
    bytes: Bytes,
    header: BatchHeader,
    records: Bytes,
    /// The largest timestamp that the producer gave, before the topic stamped its own.
    newest: Timestamp,
    sent_to: TopicPartition,
    client_id: Option<&'a str>,
    /// What its producer waits for, and what its writes wait for after the hook of its topic was asked.
    acks: i16,
    commit: Commit,
}

/// A batch that may be written, as parts for the partitions that it goes to.
pub(crate) struct Checked {
    pub(crate) items: Vec<ProduceItem>,
    /// How long that may take, where a hook says less than the producer does.
    pub(crate) within: Option<Duration>,
    /// Its place among those of its derived producer, where it is routed: it is acknowledged only behind those before it.
    pub(crate) turn: Option<Turn>,
}

/// A batch as a client sent it.
pub(crate) struct Sent {
    pub(crate) to: TopicPartition,
    pub(crate) records: Option<Bytes>,
    pub(crate) acks: i16,
    /// Which partition of the request it is.
    pub(crate) index: u32,
}

/// Where records go.
#[derive(Clone)]
struct Target {
    topic: Arc<Topic>,
    /// None: that is for the topic's partitioner to say.
    partition: Option<PartitionIndex>,
    /// Why they go there instead of where they should.
    dead: Option<Arc<DeadLetter>>,
    commit: Commit,
}

impl Target {
    /// A topic whose partitioner decides; without one records keep the partition that the client chose, folded into what there is.
    fn of(topic: &Arc<Topic>, chosen: PartitionIndex, commit: Commit) -> Self {
        let folded = || PartitionIndex(chosen.0 % topic.partitions);
        let partition = topic.config.partitioner.is_none().then(folded);
        Self { topic: Arc::clone(topic), partition, dead: None, commit }
    }

    fn with_partition(topic: &Arc<Topic>, partition: PartitionIndex, commit: Commit) -> Self {
        Self { topic: Arc::clone(topic), partition: Some(partition), dead: None, commit }
    }
}

/// What tells targets apart. Dead letters of one plugin are apart from what was routed to the same place, and from those of others.
type TargetKey = (TopicId, Option<PartitionIndex>, Option<TopicId>);

/// The targets of a batch, each once, and for each record which of them it goes to, each once.
#[derive(Default)]
struct Targets {
    targets: Vec<Target>,
    numbers: BTreeMap<TargetKey, u32>,
    ends: Vec<u32>,
    /// By record: up to its end, numbers of targets.
    flat: Vec<u32>,
}

impl Targets {
    /// All records of a batch to one target.
    fn uniform(target: Target, batch: &Batch<'_>) -> Result<Self, PartitionError> {
        let mut targets = Self::default();
        let number = targets.number(target)?;
        for _ in 0..batch.header.records_count {
            targets.push(number);
            targets.end_record();
        }
        Ok(targets)
    }

    fn number(&mut self, target: Target) -> Result<u32, PartitionError> {
        let key = (target.topic.id, target.partition, target.dead.as_ref().map(|dead| dead.topic.id));
        if let Some(number) = self.numbers.get(&key) {
            return Ok(*number);
        }
        if self.targets.len() == DESTINATIONS_MAX {
            return Err(policy(format!("one batch goes to more than {DESTINATIONS_MAX} destinations")));
        }
        let number = self.targets.len() as u32;
        self.targets.push(target);
        self.numbers.insert(key, number);
        Ok(number)
    }

    /// Adds a target to the record that is being looked at.
    fn push(&mut self, number: u32) {
        let start = self.ends.last().copied().unwrap_or(0) as usize;
        if !self.flat[start..].contains(&number) {
            self.flat.push(number);
        }
    }

    fn end_record(&mut self) {
        self.ends.push(self.flat.len() as u32);
    }

    fn of_record(&self, record: usize) -> &[u32] {
        let start = if record == 0 { 0 } else { self.ends[record - 1] as usize };
        &self.flat[start..self.ends[record] as usize]
    }

    fn split(&self, batch: &Batch<'_>) -> Result<Vec<Option<(Bytes, BatchHeader)>>, PartitionError> {
        let assignment = Assignment::Many { ends: &self.ends, destinations: &self.flat };
        split(&batch.bytes, &batch.header, &batch.records, assignment, self.targets.len(), batch.producer())
            .map_err(|error| policy(format!("the batch cannot be split: {error}")))
    }
}

impl Batch<'_> {
    /// FNV-1a over what identifies the batch: the same for a retry.
    fn seed(&self) -> u64 {
        let parts: [&[u8]; 5] = [
            &self.sent_to.topic.0,
            &self.sent_to.partition.0.to_be_bytes(),
            &self.header.producer_id.0.to_be_bytes(),
            &self.header.producer_epoch.0.to_be_bytes(),
            &self.header.base_sequence.0.to_be_bytes(),
        ];
        parts
            .iter()
            .flat_map(|part| part.iter())
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
    }

    /// Whose batch its parts are.
    fn producer(&self) -> Option<Producer> {
        self.header.producer_id.is_some().then(|| Producer {
            id: derived_producer_id(self.header.producer_id, self.sent_to),
            epoch: self.header.producer_epoch,
            base_sequence: self.header.base_sequence,
        })
    }

    fn contexts(&self) -> [Context<'_>; 1] {
        let end = u32::try_from(self.header.records_count).unwrap_or(0);
        [Context { end, now: self.newest, seed: self.seed(), principal: None, client_id: self.client_id }]
    }

    fn observed(&self) -> ObservedBatch {
        ObservedBatch {
            sent_to: self.sent_to,
            bytes: self.bytes.clone(),
            now: self.newest,
            seed: self.seed(),
            client_id: self.client_id.map(str::to_owned),
            acks: self.acks,
        }
    }

    /// The records of a part of this batch, decompressed. `limit`: bytes that they may have.
    fn records_of(&self, part: &(Bytes, BatchHeader), limit: usize) -> Result<Bytes, PartitionError> {
        let (bytes, header) = part;
        if header.records_count == self.header.records_count {
            return Ok(self.records.clone());
        }
        let codec = header.attributes.compression().unwrap_or(Compression::None);
        let limit = limit.max(self.records.len());
        Ok(decompress(codec, &bytes.slice(HEADER_BYTES..), limit).map_err(ValidateError::from)?)
    }

    /// The columns that a plugin wants, with the timestamps that the producer gave.
    fn columns(&self, wanted: &Wanted) -> Result<Columns, PartitionError> {
        let attributes = self.header.attributes.without_log_marks();
        let sent = BatchHeader { attributes, max_timestamp: self.newest, ..self.header };
        Ok(columns(&sent, &self.records, wanted).map_err(ValidateError::from)?)
    }
}

impl Shard {
    /// How long who sent the last batches to `topic` should wait before sending more, by the time that plugins took for them.
    pub(crate) fn charge_plugins(&mut self, now: Instant, topic: &Topic) -> Duration {
        let plugins = &mut self.plugins;
        let took = Duration::from_nanos(std::mem::take(&mut plugins.spent));
        let wait = plugins.shares.charge(now, topic.id, took, self.settings.plugin_core_percent_max);
        if !wait.is_zero() {
            let config = &topic.config;
            let attached = [
                (&config.router, &mut plugins.router_counts),
                (&config.partitioner, &mut plugins.partitioner_counts),
                (&config.ack, &mut plugins.ack_counts),
            ];
            if let Some((attachment, counts)) =
                attached.into_iter().find_map(|(of, counts)| Some((of.as_ref()?, counts)))
            {
                counts.of(topic.id, attachment, None).throttled_ms +=
                    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            }
        }
        wait
    }

    /// How long nothing should be taken in for `topic`, by what its plugins have taken.
    pub(crate) fn plugins_owe(&mut self, now: Instant, topic: TopicId) -> Duration {
        self.plugins.shares.owes(now, topic, self.settings.plugin_core_percent_max)
    }

    /// Checks what a client sent to a partition of `topic`, and says what is to be appended where.
    pub(crate) fn check_and_route(
        &mut self,
        now: Now,
        request: &Request,
        topic: &Arc<Topic>,
        sent: Sent,
    ) -> Result<Checked, PartitionError> {
        let Sent { to: sent_to, records, acks, index } = sent;
        if topic.is_internal() {
            let message = format!("'{}' is written by the broker alone", topic.name);
            return Err(PartitionError::Other { code: ResponseError::InvalidTopicException.code(), message });
        }
        let config = &topic.config;
        let rules = Rules {
            now: now.wall,
            max_message_bytes: config.max_message_bytes,
            max_decompressed_bytes: self.decompression.room(config.max_decompressed_message_bytes),
            timestamp_before_max_ms: config.message_timestamp_before_max_ms,
            timestamp_after_max_ms: config.message_timestamp_after_max_ms,
            log_append_time: config.log_append_time,
            keys_required: config.cleanup_policy.compact,
            compression: config.compression,
            compression_level: config.compression_level(),
        };
        let records = records.unwrap_or_default();
        let is_routed = is_routed(config);
        let is_asked_about = is_routed || config.ack.is_some();
        let is_watched = self.plugins.observed.is_watched(topic.id);
        // Before the topic stamps its own. What cannot be parsed is not valid either.
        let newest = (is_asked_about || is_watched)
            .then(|| BatchHeader::parse(&records).ok().map(|header| header.max_timestamp))
            .flatten();
        let batch = validate(records, &rules).map_err(|error| {
            let ValidateError::Compression(CompressionError::TooLarge { limit }) = error else { return error.into() };
            // So much was done for it.
            self.decompression.take(limit);
            if limit < config.max_decompressed_message_bytes { self.decompression.refusal() } else { error.into() }
        })?;
        if batch.header().attributes.compression() != Some(Compression::None) {
            self.decompression.take(batch.records().len());
        }
        refuse_derived(batch.header().producer_id)?;
        check_of_version(request.version, batch.header())?;
        if batch.header().attributes.is_transactional() {
            let message = "transactions are not implemented; produce without transactional.id".to_owned();
            return Err(PartitionError::Other { code: ResponseError::InvalidTxnState.code(), message });
        }
        let commit = Commit::of_acks(acks);
        if !is_asked_about && !is_watched {
            let (bytes, header, rule) = (batch.bytes().clone(), *batch.header(), commit.rule);
            let items = vec![ProduceItem { index, partition: sent_to, bytes, header, rule }];
            return Ok(Checked { items, within: None, turn: None });
        }
        let batch = Batch {
            bytes: batch.bytes().clone(),
            header: *batch.header(),
            records: batch.records().clone(),
            newest: newest.unwrap_or(batch.header().max_timestamp),
            sent_to,
            client_id: request.client_id.as_deref(),
            acks,
            commit,
        };
        if is_watched {
            self.plugins.observed.push(batch.observed());
        }
        // The client's own sequence has no gaps: what must come again is known by its numbers.
        let producer = if is_routed { batch.producer() } else { None };
        let Some(producer) = producer else { return self.route(topic, batch, index) };
        let turn = Turn { producer: producer.id, epoch: producer.epoch, base_sequence: producer.base_sequence };
        let connection = request.connection;
        let routed = match self.plugins.refused.check(connection, turn) {
            Ok(()) => self.route(topic, batch, index),
            Err(error) => Err(AppendError::from(error).into()),
        };
        match &routed {
            Ok(_) => self.plugins.refused.taken(connection, turn),
            Err(error) if error.comes_again() => self.plugins.comes_again(connection, turn),
            Err(_) => {}
        }
        routed.map(|checked| Checked { turn: Some(turn), ..checked })
    }

    /// The parts of a batch: what its topic's hook lets through, where its router sends it, then the partitioners and hooks of the topics that
    /// it names.
    fn route(&mut self, topic: &Arc<Topic>, mut batch: Batch<'_>, index: u32) -> Result<Checked, PartitionError> {
        let (chosen, records) = (batch.sent_to.partition, batch.header.records_count);
        let mut dead = None;
        if let Some(attachment) = &topic.config.ack {
            match self.ask_ack(topic, attachment, &batch, chosen.0, batch.commit) {
                Ok(commit) => batch.commit = commit,
                Err(fault) => dead = self.after_fault::<AckHook>(topic, attachment, fault, chosen, records)?,
            }
        }
        let batch = &batch;
        let mut targets = match (dead, &topic.config.router) {
            (Some(dead), _) => Targets::uniform(dead, batch)?,
            (None, Some(attachment)) => match self.ask_router(topic, attachment, batch) {
                Ok(targets) => targets,
                Err(fault) => {
                    let dead = self.after_fault::<Router>(topic, attachment, fault, chosen, records)?;
                    Targets::uniform(dead.unwrap_or_else(|| Target::of(topic, chosen, batch.commit)), batch)?
                }
            },
            (None, None) => {
                let target = Target::of(topic, chosen, batch.commit);
                if !is_routed(&topic.config) {
                    // Nothing moves it: it keeps its bytes, and its producer its sequence.
                    let (bytes, header, rule) = (batch.bytes.clone(), batch.header, batch.commit.rule);
                    let items = vec![ProduceItem { index, partition: batch.sent_to, bytes, header, rule }];
                    return Ok(Checked { items, within: batch.commit.within, turn: None });
                }
                Targets::uniform(target, batch)?
            }
        };
        if targets.targets.iter().any(|target| target.partition.is_none()) {
            targets = self.ask_partitioners(targets, batch)?;
        }
        self.observe_parts(&targets, batch, topic)?;
        targets = self.ask_acks(targets, batch, topic)?;
        let parts = targets.split(batch)?;
        let mut items = Vec::with_capacity(parts.len());
        let mut within = batch.commit.within;
        for (target, part) in targets.targets.iter().zip(parts) {
            let Some(part) = part else { continue };
            let (bytes, header) = match &target.dead {
                None => part,
                Some(dead) => {
                    let records = batch.records_of(&part, target.topic.config.max_decompressed_message_bytes)?;
                    dead.write(&part.1, &records, &batch.header, (&topic.name, chosen))?
                }
            };
            refuse_too_large(target, bytes.len())?;
            let partition = target.partition.expect("partitioners have been asked");
            let partition = TopicPartition::new(target.topic.id, partition);
            within = [within, target.commit.within].into_iter().flatten().min();
            items.push(ProduceItem { index, partition, bytes, header, rule: target.commit.rule });
        }
        Ok(Checked { items, within, turn: None })
    }

    /// Keeps what a batch brings to other topics than its own for who watches those.
    fn observe_parts(&mut self, targets: &Targets, batch: &Batch<'_>, sent_to: &Topic) -> Result<(), PartitionError> {
        let observed = &mut self.plugins.observed;
        let is_watched = |target: &Target| {
            target.topic.id != sent_to.id && target.dead.is_none() && observed.is_watched(target.topic.id)
        };
        let watched: Vec<bool> = targets.targets.iter().map(is_watched).collect();
        if !watched.contains(&true) {
            return Ok(());
        }
        let parts = targets.split(batch)?;
        for ((target, part), _) in targets.targets.iter().zip(parts).zip(watched).filter(|(_, watched)| *watched) {
            let Some((bytes, header)) = part else { continue };
            let partition = target.partition.expect("partitioners have been asked");
            // The seed is that of where the client sent it, as the hook is told.
            let seen = Batch { bytes, header, ..batch.clone() }.observed();
            observed.push(ObservedBatch { sent_to: TopicPartition::new(target.topic.id, partition), ..seen });
        }
        Ok(())
    }

    /// Where the records go whose plugin failed, if the attachment's policy is another than to refuse them; none: on, as if there were no
    /// plugin. `topic` is the one that it is attached to.
    ///
    /// # Errors
    /// What the producer is told.
    fn after_fault<I: World>(
        &mut self,
        topic: &Arc<Topic>,
        attachment: &Attachment,
        fault: Fault,
        chosen: PartitionIndex,
        records: i32,
    ) -> Result<Option<Target>, PartitionError> {
        let Some(kind) = fault.kind else { return Err(fault.error) };
        let counts = I::counts(&mut self.plugins).of(topic.id, attachment, None);
        counts.fault(kind);
        // Now and then: a plugin that traps does so with each batch.
        if let Some(detail) = fault.detail.filter(|_| counts.traps.is_power_of_two()) {
            let message = format!("trapped, {} times on this shard: {detail}", counts.traps);
            let lines = vec![LogLine { level: LogLevel::Error, message }];
            let version = self.plugins.deployed.get(&attachment.plugin).map_or(0, |plugin| plugin.version);
            let (plugin, topic) = (attachment.plugin.clone(), topic.name.clone());
            self.plugins.log.push(PluginLog { plugin, version, topic, lines });
        }
        let counts = I::counts(&mut self.plugins).of(topic.id, attachment, None);
        let records = u64::try_from(records).unwrap_or(0);
        match attachment.on_failure {
            OnFailure::Reject => Err(fault.error),
            OnFailure::Bypass => {
                counts.bypassed += records;
                Ok(None)
            }
            OnFailure::DeadLetter => {
                let name = topic.config.dead_letter_topic.as_deref().unwrap_or_default();
                let Some(letters) = self.image.topic(name).filter(|topic| !topic.is_internal()) else {
                    let message = format!("{}; and its dead-letter topic '{name}' does not exist", fault.error);
                    return Err(policy(message));
                };
                counts.dead_lettered += records;
                let (plugin, message) = (attachment.plugin.clone(), fault.error.to_string());
                let dead = DeadLetter { topic: Arc::clone(topic), plugin, kind, message };
                let partition = PartitionIndex(chosen.0 % letters.partitions);
                let target = Target::with_partition(letters, partition, Commit::of_acks(-1));
                Ok(Some(Target { dead: Some(Arc::new(dead)), ..target }))
            }
        }
    }

    /// Where the router wants the records of a batch. A topic without a partitioner keeps the partition that the client chose, folded
    /// into what it has: records that were in order stay in order.
    fn ask_router(&mut self, topic: &Arc<Topic>, attachment: &Attachment, batch: &Batch<'_>) -> Result<Targets, Fault> {
        let plugins = &mut self.plugins;
        let (limits, stopwatch) = (&self.settings.plugin_limits, self.settings.stopwatch);
        let attached = instance(
            &plugins.deployed,
            &mut plugins.routers,
            topic.id,
            attachment,
            limits,
            stopwatch,
            &mut plugins.spent,
        )?;
        let columns = batch.columns(&attached.instance.needs().columns)?;
        let info = TopicInfo { name: &topic.name, partitions: topic.partitions.unsigned_abs() };
        let counts = plugins.router_counts.of(topic.id, attachment, Some(attached.version));
        let asked = timed(stopwatch, &mut plugins.spent, counts, columns.count, || {
            attached.instance.route(&info, &columns, &batch.contexts())
        });
        counts.memory_bytes = attached.instance.memory_bytes() as u64;
        take_lines(&mut plugins.log, attached, attachment, topic);
        let answer = asked.map_err(|error| Fault::of_call(&attachment.plugin, error))?;
        counts.rejected += answer.rejected.len() as u64;
        rejected(&attachment.plugin, answer.rejected)?;

        let chosen = batch.sent_to.partition;
        let wrong = |error| Fault::new(FaultKind::WrongAnswer, error);
        // What the router says of one destination is looked up once for each batch.
        let mut numbers: BTreeMap<(u32, Option<u32>), u32> = BTreeMap::new();
        let mut targets = Targets::default();
        let itself = match topic.config.router_store {
            true => Some(targets.number(Target::of(topic, chosen, batch.commit)).map_err(wrong)?),
            false => None,
        };
        let mut unroutable = Vec::new();
        for record in 0..columns.count as usize {
            if let Some(number) = itself {
                targets.push(number);
            }
            let mut destinations = 0;
            for to in answer.routes.of_record(record) {
                destinations += 1;
                let number = match numbers.get(&(to.topic, to.partition)) {
                    Some(number) => *number,
                    None => {
                        let name = attached.instance.topic_name(to.topic);
                        let found = destination(&self.image, topic, name, to.partition, batch, &attachment.plugin);
                        let number = found.and_then(|target| targets.number(target)).map_err(wrong)?;
                        numbers.insert((to.topic, to.partition), number);
                        number
                    }
                };
                targets.push(number);
            }
            counts.routed += destinations;
            if destinations == 0 {
                match &topic.config.unroutable {
                    Unroutable::Drop => counts.dropped += 1,
                    Unroutable::Reject => unroutable.push(record),
                    Unroutable::Alternate(name) => {
                        let number = targets.number(alternate(&self.image, name, batch)?)?;
                        targets.push(number);
                        counts.alternate += 1;
                    }
                }
            }
            targets.end_record();
        }
        if unroutable.is_empty() {
            return Ok(targets);
        }
        counts.rejected += unroutable.len() as u64;
        let reason = format!("plugin '{}' sends it nowhere (tidegate.router.unroutable=reject)", attachment.plugin);
        let records = unroutable.iter().map(|record| (i32::try_from(*record).unwrap_or(i32::MAX), reason.clone()));
        let message = format!("{} of {} records have nowhere to go", unroutable.len(), columns.count);
        let code = ResponseError::InvalidRecord.code();
        Err(PartitionError::Invalid { code, message, records: records.collect() }.into())
    }

    /// The same with a partition for every target: partitioners are asked about the records that go to their topics.
    fn ask_partitioners(&mut self, asked: Targets, batch: &Batch<'_>) -> Result<Targets, PartitionError> {
        let parts = asked.split(batch)?;
        let mut answers: Vec<Partitions> = Vec::with_capacity(parts.len());
        for (target, part) in asked.targets.iter().zip(parts) {
            let (None, Some(attachment), Some(part)) = (target.partition, &target.topic.config.partitioner, part)
            else {
                answers.push(Partitions::Settled);
                continue;
            };
            let topic = &target.topic;
            let records = batch.records_of(&part, topic.config.max_decompressed_message_bytes)?;
            let (bytes, header) = part;
            let part = Batch { records, header, bytes, ..batch.clone() };
            answers.push(match self.ask_partitioner(topic, attachment, &part) {
                Ok(partitions) => Partitions::Each(partitions.into_iter()),
                Err(fault) => {
                    let (chosen, records) = (batch.sent_to.partition, part.header.records_count);
                    let dead = self.after_fault::<Partitioner>(topic, attachment, fault, chosen, records)?;
                    Partitions::All(dead.unwrap_or_else(|| {
                        let folded = PartitionIndex(chosen.0 % topic.partitions);
                        Target::with_partition(topic, folded, target.commit)
                    }))
                }
            });
        }
        let mut targets = Targets::default();
        for record in 0..asked.ends.len() {
            for number in asked.of_record(record) {
                let target = &asked.targets[*number as usize];
                let target = match &mut answers[*number as usize] {
                    Partitions::Settled => target.clone(),
                    Partitions::All(instead) => instead.clone(),
                    Partitions::Each(answer) => {
                        let chosen = answer.next().expect("an answer for each record, which the host has checked");
                        let partition = PartitionIndex(i32::try_from(chosen).unwrap_or(i32::MAX));
                        Target { partition: Some(partition), ..target.clone() }
                    }
                };
                let number = targets.number(target)?;
                targets.push(number);
            }
            targets.end_record();
        }
        Ok(targets)
    }

    /// A partition for each record of a batch that goes to `topic`.
    fn ask_partitioner(
        &mut self,
        topic: &Arc<Topic>,
        attachment: &Attachment,
        batch: &Batch<'_>,
    ) -> Result<Vec<u32>, Fault> {
        let plugins = &mut self.plugins;
        let (limits, stopwatch) = (&self.settings.plugin_limits, self.settings.stopwatch);
        let attached = instance(
            &plugins.deployed,
            &mut plugins.partitioners,
            topic.id,
            attachment,
            limits,
            stopwatch,
            &mut plugins.spent,
        )?;
        let columns = batch.columns(&attached.instance.needs().columns)?;
        let info = TopicInfo { name: &topic.name, partitions: topic.partitions.unsigned_abs() };
        let counts = plugins.partitioner_counts.of(topic.id, attachment, Some(attached.version));
        let asked = timed(stopwatch, &mut plugins.spent, counts, columns.count, || {
            attached.instance.partition(&info, &columns, &batch.contexts())
        });
        counts.memory_bytes = attached.instance.memory_bytes() as u64;
        take_lines(&mut plugins.log, attached, attachment, topic);
        let placement = asked.map_err(|error| Fault::of_call(&attachment.plugin, error))?;
        counts.rejected += placement.rejected.len() as u64;
        rejected(&attachment.plugin, placement.rejected)?;
        counts.routed += placement.partitions.len() as u64;
        Ok(placement.partitions)
    }
}

/// A destination's own limit holds for what comes to it by a router or as a dead letter: those who read it count on it. The topic that was
/// sent to has looked at the whole batch, by its own limit.
fn refuse_too_large(target: &Target, bytes: usize) -> Result<(), PartitionError> {
    let (name, limit) = (&target.topic.name, target.topic.config.max_message_bytes);
    if bytes <= limit {
        return Ok(());
    }
    let what = match &target.dead {
        None => "what goes to".to_owned(),
        Some(dead) => format!("{}; and the dead letter for", dead.message),
    };
    let message = format!("{what} topic '{name}' has {bytes} bytes, and its max.message.bytes is {limit}");
    Err(PartitionError::Other { code: ResponseError::MessageTooLarge.code(), message })
}

/// Whether records of a topic may go elsewhere than to the partition that the client chose, so that its own sequence would have gaps there.
fn is_routed(config: &TopicConfig) -> bool {
    let may_be_dead = config.ack.as_ref().is_some_and(|attachment| attachment.on_failure == OnFailure::DeadLetter);
    config.router.is_some() || config.partitioner.is_some() || may_be_dead
}

/// What the partitioner of a target says.
enum Partitions {
    /// It was not asked: its partition is known, or no record goes there.
    Settled,
    Each(std::vec::IntoIter<u32>),
    /// It failed: all of them go there instead.
    All(Target),
}

/// What differs between the worlds when a plugin of theirs fails.
trait World {
    fn counts(plugins: &mut Plugins) -> &mut Counts;
}

impl World for Router {
    fn counts(plugins: &mut Plugins) -> &mut Counts {
        &mut plugins.router_counts
    }
}

impl World for Partitioner {
    fn counts(plugins: &mut Plugins) -> &mut Counts {
        &mut plugins.partitioner_counts
    }
}

/// The topic that a router names (none: the one that records were sent to), and the partition of it if that is settled.
fn destination(
    image: &MetadataImage,
    sent_to: &Arc<Topic>,
    name: Option<&str>,
    wish: Option<u32>,
    batch: &Batch<'_>,
    plugin: &str,
) -> Result<Target, PartitionError> {
    let topic = match name {
        None => sent_to,
        Some(name) => image.topic(name).ok_or_else(|| {
            policy(format!("plugin '{plugin}' routes to topic '{name}', which does not exist: create it"))
        })?,
    };
    if topic.is_internal() {
        return Err(policy(format!("plugin '{plugin}' routes to '{}', which is the broker's own", topic.name)));
    }
    let Some(wish) = wish else { return Ok(Target::of(topic, batch.sent_to.partition, batch.commit)) };
    let index = PartitionIndex(i32::try_from(wish).unwrap_or(-1));
    if !topic.has_partition(index) {
        return Err(policy(format!(
            "plugin '{plugin}' routes to partition {wish} of '{}', which has {}",
            topic.name, topic.partitions
        )));
    }
    Ok(Target::with_partition(topic, index, batch.commit))
}

/// The topic of records that a router sends nowhere.
fn alternate(image: &MetadataImage, name: &str, batch: &Batch<'_>) -> Result<Target, PartitionError> {
    let topic = image.topic(name).filter(|topic| !topic.is_internal());
    let missing =
        || policy(format!("tidegate.router.unroutable.topic names '{name}', which does not exist: create it"));
    Ok(Target::of(topic.ok_or_else(missing)?, batch.sent_to.partition, batch.commit))
}

/// What a produce request may hold by its version (KIP-110), and what the broker alone decides.
fn check_of_version(version: i16, header: &BatchHeader) -> Result<(), PartitionError> {
    if version < 7 && header.attributes.compression() == Some(Compression::Zstd) {
        let message = format!("produce requests of version {version} may not hold zstd, only those from 7 on");
        return Err(PartitionError::Other { code: ResponseError::UnsupportedCompressionType.code(), message });
    }
    if header.base_offset.0 != 0 {
        let message = format!("the batch's base offset is {}: a producer's batches begin at 0", header.base_offset);
        return Err(PartitionError::Other { code: ResponseError::InvalidRecord.code(), message });
    }
    Ok(())
}

impl From<ValidateError> for PartitionError {
    fn from(error: ValidateError) -> Self {
        use ResponseError as Kafka;
        let code = match &error {
            // An old format is a mistake of the client's; what is no format at all was damaged on its way.
            ValidateError::Header(HeaderError::Magic { magic: 0 | 1 }) => Kafka::InvalidRecord,
            ValidateError::Header(_)
            | ValidateError::Checksum { .. }
            | ValidateError::Compression(CompressionError::Damaged { .. }) => Kafka::CorruptMessage,
            ValidateError::TooLarge { .. } | ValidateError::Compression(CompressionError::TooLarge { .. }) => {
                Kafka::MessageTooLarge
            }
            ValidateError::Codec { .. } => Kafka::UnsupportedCompressionType,
            ValidateError::Timestamps { .. } => Kafka::InvalidTimestamp,
            ValidateError::Empty
            | ValidateError::SeveralBatches { .. }
            | ValidateError::Count { .. }
            | ValidateError::Control
            | ValidateError::Producer { .. }
            | ValidateError::Trailing { .. }
            | ValidateError::Record(_)
            | ValidateError::Records { .. } => Kafka::InvalidRecord,
        };
        let message = error.to_string();
        let records = match error {
            ValidateError::Records { records } | ValidateError::Timestamps { records } => records,
            _ => Vec::new(),
        };
        Self::Invalid { code: code.code(), message, records }
    }
}
