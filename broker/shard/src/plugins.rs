//! From the bytes of a produce request to batches with a destination: checked, and routed where the topic says so.
//!
//! A topic with a router or a partitioner is a *routed topic*. Its plugin runs here, on the shard that received the batch, before
//! anything is appended. The parts carry a producer id derived from the client's and from where it sent the batch, with the batch's own
//! base sequence: a retry is split the same way, so every destination recognises it (see `model::partition::producers`). For that a plugin
//! sees nothing that is not the same for a retry: its clock is the batch's newest timestamp as the producer sent it (the append time
//! is another one for each try, and the first try's may be lost with the answer), its randomness is seeded from topic, partition and
//! sequence. A destination gets one part of a batch, however many of the router's answers lead to it: two parts with one
//! sequence would be taken for a batch and its retry.
//!
//! Order: parts go to their owners in the order of the batches. A batch that was refused for a passing reason, here or by an owner, holds back
//! those behind it until it comes again (`refused.rs`).
//!
//! An instance belongs to one attachment of one topic on this shard. One that has trapped is replaced with the next batch; a new
//! version of its plugin, or another configuration, takes over between two batches.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use kafka_protocol::ResponseError;
use tidegate_model::{
    metadata::{MetadataImage, Topic},
    partition::{AppendError, producers::derived_producer_id},
    topic_config::Attachment,
};
use tidegate_plugin_host::{
    CallError, Compiled, Context, Limits, LogLine, OpenError, Partitioner, Rejection, Router, TopicInfo, Trap, TrapKind,
};
use tidegate_records::{
    batch::{BatchHeader, Compression, HEADER_BYTES, HeaderError},
    build::Producer,
    columns::{Columns, Wanted, columns},
    compress::{CompressionError, decompress},
    ids::{PartitionIndex, TopicId, TopicPartition},
    split::{Assignment, split},
    time::{Now, Timestamp},
    validate::{Rules, ValidateError, validate},
};

use crate::{
    api::refuse_derived, error::PartitionError, message::ProduceItem, refused::Refused, request::Request, shard::Shard,
};

/// Destinations of one batch at most: a plugin's answer must not become a flood.
const DESTINATIONS_MAX: usize = 10_000;

/// The plugins of a shard.
#[derive(Default)]
pub(crate) struct Plugins {
    deployed: BTreeMap<String, Deployed>,
    routers: BTreeMap<TopicId, Attached<Router>>,
    partitioners: BTreeMap<TopicId, Attached<Partitioner>>,
    log: Vec<PluginLog>,
    /// Batches that a plugin did not want to route now.
    refused: Refused,
}

struct Deployed {
    version: u32,
    compiled: Compiled,
}

/// An instance, and what it was opened with.
struct Attached<I> {
    attachment: Attachment,
    version: u32,
    instance: I,
}

/// Lines that a plugin logged.
#[derive(Clone, Debug)]
pub struct PluginLog {
    pub plugin: String,
    pub version: u32,
    pub topic: String,
    pub lines: Vec<LogLine>,
}

/// A kind of instance: what the two worlds have in common.
trait Instance: Sized {
    fn open(compiled: &Compiled, config: &str, limits: &Limits) -> Result<Self, OpenError>;
    fn is_dead(&self) -> bool;
    fn lines(&mut self) -> Vec<LogLine>;
}

impl Instance for Router {
    fn open(compiled: &Compiled, config: &str, limits: &Limits) -> Result<Self, OpenError> {
        Self::open(compiled, config, limits)
    }

    fn is_dead(&self) -> bool {
        self.is_dead()
    }

    fn lines(&mut self) -> Vec<LogLine> {
        self.take_log().lines
    }
}

impl Instance for Partitioner {
    fn open(compiled: &Compiled, config: &str, limits: &Limits) -> Result<Self, OpenError> {
        Self::open(compiled, config, limits)
    }

    fn is_dead(&self) -> bool {
        self.is_dead()
    }

    fn lines(&mut self) -> Vec<LogLine> {
        self.take_log().lines
    }
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
    }

    pub(crate) fn take_log(&mut self) -> Vec<PluginLog> {
        std::mem::take(&mut self.log)
    }
}

/// The instance of an attachment, opened if it is not, or not as it should be.
fn instance<'a, I: Instance>(
    deployed: &BTreeMap<String, Deployed>,
    instances: &'a mut BTreeMap<TopicId, Attached<I>>,
    topic: TopicId,
    attachment: &Attachment,
    limits: &Limits,
) -> Result<&'a mut Attached<I>, PartitionError> {
    let plugin = deployed.get(&attachment.plugin).ok_or_else(|| {
        policy(format!("plugin '{}' is not loaded; deploy it again (tidegate plugin deploy)", attachment.plugin))
    })?;
    let current = instances.get(&topic).is_some_and(|attached| {
        attached.version == plugin.version && attached.attachment == *attachment && !attached.instance.is_dead()
    });
    if !current {
        let opened = I::open(&plugin.compiled, &attachment.config, limits);
        let instance = opened.map_err(|error| policy(format!("plugin '{}': {error}", attachment.plugin)))?;
        let attached = Attached { attachment: attachment.clone(), version: plugin.version, instance };
        instances.insert(topic, attached);
    }
    Ok(instances.get_mut(&topic).expect("it is there, or was just put there"))
}

fn policy(message: String) -> PartitionError {
    PartitionError::Other { code: ResponseError::PolicyViolation.code(), message }
}

fn call_error(plugin: &str, error: CallError) -> PartitionError {
    let message = format!("plugin '{plugin}': {error}");
    match error {
        // Retriable for every client: the batch is as it was. A deadline counts time on the wall, so it can be the machine's doing.
        CallError::Retry { .. } | CallError::Trap(Trap { kind: TrapKind::Deadline, .. }) => {
            PartitionError::Other { code: ResponseError::RequestTimedOut.code(), message }
        }
        CallError::Refused { .. } => {
            PartitionError::Invalid { code: ResponseError::InvalidRecord.code(), message, records: Vec::new() }
        }
        CallError::Trap(_) | CallError::WrongAnswer(_) => policy(message),
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
}

/// Where records go: a topic, and a partition unless that is for the topic's partitioner to say.
type Target = (Arc<Topic>, Option<PartitionIndex>);

/// The targets of a batch, each once, and for each record which of them it goes to, each once.
#[derive(Default)]
struct Targets {
    targets: Vec<Target>,
    numbers: BTreeMap<(TopicId, Option<PartitionIndex>), u32>,
    ends: Vec<u32>,
    /// By record: up to its end, numbers of targets.
    flat: Vec<u32>,
}

impl Targets {
    fn number(&mut self, topic: &Arc<Topic>, partition: Option<PartitionIndex>) -> Result<u32, PartitionError> {
        if let Some(number) = self.numbers.get(&(topic.id, partition)) {
            return Ok(*number);
        }
        if self.targets.len() == DESTINATIONS_MAX {
            return Err(policy(format!("one batch goes to more than {DESTINATIONS_MAX} destinations")));
        }
        let number = self.targets.len() as u32;
        self.targets.push((Arc::clone(topic), partition));
        self.numbers.insert((topic.id, partition), number);
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

    /// The columns that a plugin wants, with the timestamps that the producer gave.
    fn columns(&self, wanted: &Wanted) -> Result<Columns, PartitionError> {
        let attributes = self.header.attributes.without_log_marks();
        let sent = BatchHeader { attributes, max_timestamp: self.newest, ..self.header };
        Ok(columns(&sent, &self.records, wanted).map_err(ValidateError::from)?)
    }
}

impl Shard {
    /// Checks what a client sent to a partition, and says what is to be appended where. `index` names it in the answer.
    pub(crate) fn check_and_route(
        &mut self,
        now: Now,
        request: &Request,
        topic: &Arc<Topic>,
        sent_to: TopicPartition,
        records: Option<Bytes>,
        index: u32,
    ) -> Result<Vec<ProduceItem>, PartitionError> {
        if topic.is_internal() {
            let message = format!("'{}' is written by the broker alone", topic.name);
            return Err(PartitionError::Other { code: ResponseError::InvalidTopicException.code(), message });
        }
        let config = &topic.config;
        let rules = Rules {
            now: now.wall,
            max_message_bytes: config.max_message_bytes,
            max_decompressed_bytes: config.max_decompressed_message_bytes,
            timestamp_before_max_ms: config.message_timestamp_before_max_ms,
            timestamp_after_max_ms: config.message_timestamp_after_max_ms,
            log_append_time: config.log_append_time,
            keys_required: config.cleanup_policy.compact,
            compression: config.compression,
            compression_level: config.compression_level(),
        };
        let records = records.unwrap_or_default();
        let is_routed = config.router.is_some() || config.partitioner.is_some();
        // Before the topic stamps its own. What cannot be parsed is not valid either.
        let newest = is_routed.then(|| BatchHeader::parse(&records).ok().map(|header| header.max_timestamp)).flatten();
        let batch = validate(records, &rules)?;
        refuse_derived(batch.header().producer_id)?;
        if batch.header().attributes.is_transactional() {
            let message = "transactions are not implemented; produce without transactional.id".to_owned();
            return Err(PartitionError::Other { code: ResponseError::InvalidTxnState.code(), message });
        }
        if !is_routed {
            let header = *batch.header();
            return Ok(vec![ProduceItem { index, partition: sent_to, bytes: batch.bytes().clone(), header }]);
        }
        let batch = Batch {
            bytes: batch.bytes().clone(),
            header: *batch.header(),
            records: batch.records().clone(),
            newest: newest.unwrap_or(batch.header().max_timestamp),
            sent_to,
            client_id: request.client_id.as_deref(),
        };
        let Some(producer) = batch.producer() else { return self.route(topic, &batch, index) };
        let derived = BatchHeader { producer_id: producer.id, ..batch.header };
        self.plugins.refused.check(&derived).map_err(AppendError::from)?;
        let routed = self.route(topic, &batch, index);
        match &routed {
            Ok(_) => self.plugins.refused.taken(&derived),
            Err(error) if error.is_passing() => self.plugins.refused.refused(&derived),
            Err(_) => {}
        }
        routed
    }

    /// The parts of a batch: what its topic's router says, then the partitioners of the topics that it names.
    fn route(&mut self, topic: &Arc<Topic>, batch: &Batch<'_>, index: u32) -> Result<Vec<ProduceItem>, PartitionError> {
        let mut targets = match &topic.config.router {
            Some(attachment) => self.ask_router(topic, attachment, batch)?,
            None => {
                let mut targets = Targets::default();
                let number = targets.number(topic, None)?;
                for _ in 0..batch.header.records_count {
                    targets.push(number);
                    targets.end_record();
                }
                targets
            }
        };
        if targets.targets.iter().any(|(_, partition)| partition.is_none()) {
            targets = self.ask_partitioners(targets, batch)?;
        }
        let parts = targets.split(batch)?;
        let items = targets.targets.iter().zip(parts).filter_map(|((topic, partition), part)| {
            let (bytes, header) = part?;
            let partition = TopicPartition::new(topic.id, partition.expect("partitioners have been asked"));
            Some(ProduceItem { index, partition, bytes, header })
        });
        Ok(items.collect())
    }

    /// Where the router wants the records of a batch. A topic without a partitioner keeps the partition that the client chose, folded
    /// into what it has: records that were in order stay in order.
    fn ask_router(
        &mut self,
        topic: &Arc<Topic>,
        attachment: &Attachment,
        batch: &Batch<'_>,
    ) -> Result<Targets, PartitionError> {
        let plugins = &mut self.plugins;
        let limits = &self.settings.plugin_limits;
        let attached = instance(&plugins.deployed, &mut plugins.routers, topic.id, attachment, limits)?;
        let columns = batch.columns(&attached.instance.needs().columns)?;
        let info = TopicInfo { name: &topic.name, partitions: topic.partitions.unsigned_abs() };
        let asked = attached.instance.route(&info, &columns, &batch.contexts());
        take_lines(&mut plugins.log, attached, attachment, topic);
        let answer = asked.map_err(|error| call_error(&attachment.plugin, error))?;
        rejected(&attachment.plugin, answer.rejected)?;

        // What the router says of one destination is looked up once for each batch.
        let mut numbers: BTreeMap<(u32, Option<u32>), u32> = BTreeMap::new();
        let mut targets = Targets::default();
        let itself = topic.config.router_store.then_some((0, None));
        for record in 0..columns.count as usize {
            let routed = answer.routes.of_record(record).map(|to| (to.topic, to.partition));
            for (number, wish) in itself.into_iter().chain(routed) {
                let target = match numbers.get(&(number, wish)) {
                    Some(target) => *target,
                    None => {
                        let name = attached.instance.topic_name(number);
                        let (found, partition) =
                            destination(&self.image, topic, name, wish, batch.sent_to.partition, &attachment.plugin)?;
                        let target = targets.number(&found, partition)?;
                        numbers.insert((number, wish), target);
                        target
                    }
                };
                targets.push(target);
            }
            targets.end_record();
        }
        Ok(targets)
    }

    /// The same with a partition for every target: partitioners are asked about the records that go to their topics.
    fn ask_partitioners(&mut self, asked: Targets, batch: &Batch<'_>) -> Result<Targets, PartitionError> {
        let parts = asked.split(batch)?;
        let mut answers: Vec<Option<std::vec::IntoIter<u32>>> = Vec::with_capacity(parts.len());
        for ((topic, partition), part) in asked.targets.iter().zip(parts) {
            let (None, Some(attachment), Some((bytes, header))) = (partition, &topic.config.partitioner, part) else {
                answers.push(None);
                continue;
            };
            let part = if header.records_count == batch.header.records_count {
                batch.clone()
            } else {
                let codec = header.attributes.compression().unwrap_or(Compression::None);
                let limit = topic.config.max_decompressed_message_bytes.max(batch.records.len());
                let records = decompress(codec, &bytes.slice(HEADER_BYTES..), limit).map_err(ValidateError::from)?;
                Batch { records, header, bytes, ..batch.clone() }
            };
            answers.push(Some(self.ask_partitioner(topic, attachment, &part)?.into_iter()));
        }
        let mut targets = Targets::default();
        for record in 0..asked.ends.len() {
            for number in asked.of_record(record) {
                let (topic, mut partition) = asked.targets[*number as usize].clone();
                if let Some(answer) = &mut answers[*number as usize] {
                    let chosen = answer.next().expect("an answer for each record, which the host has checked");
                    partition = Some(PartitionIndex(i32::try_from(chosen).unwrap_or(i32::MAX)));
                }
                let number = targets.number(&topic, partition)?;
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
    ) -> Result<Vec<u32>, PartitionError> {
        let plugins = &mut self.plugins;
        let limits = &self.settings.plugin_limits;
        let attached = instance(&plugins.deployed, &mut plugins.partitioners, topic.id, attachment, limits)?;
        let columns = batch.columns(&attached.instance.needs().columns)?;
        let info = TopicInfo { name: &topic.name, partitions: topic.partitions.unsigned_abs() };
        let asked = attached.instance.partition(&info, &columns, &batch.contexts());
        take_lines(&mut plugins.log, attached, attachment, topic);
        let placement = asked.map_err(|error| call_error(&attachment.plugin, error))?;
        rejected(&attachment.plugin, placement.rejected)?;
        Ok(placement.partitions)
    }
}

fn take_lines<I: Instance>(
    log: &mut Vec<PluginLog>,
    attached: &mut Attached<I>,
    attachment: &Attachment,
    topic: &Topic,
) {
    let lines = attached.instance.lines();
    if !lines.is_empty() {
        let (plugin, version, topic) = (attachment.plugin.clone(), attached.version, topic.name.clone());
        log.push(PluginLog { plugin, version, topic, lines });
    }
}

/// The topic that a router names (none: the one that records were sent to), and the partition of it if that is settled.
fn destination(
    image: &MetadataImage,
    sent_to: &Arc<Topic>,
    name: Option<&str>,
    wish: Option<u32>,
    chosen: PartitionIndex,
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
    let partition = match wish {
        Some(wish) => {
            let index = PartitionIndex(i32::try_from(wish).unwrap_or(-1));
            if !topic.has_partition(index) {
                return Err(policy(format!(
                    "plugin '{plugin}' routes to partition {wish} of '{}', which has {}",
                    topic.name, topic.partitions
                )));
            }
            Some(index)
        }
        None if topic.config.partitioner.is_some() => None,
        None => Some(PartitionIndex(chosen.0 % topic.partitions)),
    };
    Ok((Arc::clone(topic), partition))
}

impl From<ValidateError> for PartitionError {
    fn from(error: ValidateError) -> Self {
        use ResponseError as Kafka;
        let code = match &error {
            ValidateError::Header(HeaderError::Magic { .. }) => Kafka::UnsupportedForMessageFormat,
            ValidateError::Header(_)
            | ValidateError::Checksum { .. }
            | ValidateError::Record(_)
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
