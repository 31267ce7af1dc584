//! From the bytes of a produce request to batches with a destination: checked, and routed where the topic says so.
//!
//! A topic with a router or a partitioner is a *routed topic*. Its plugin runs here, on the shard that received the batch, before
//! anything is appended. The parts carry a producer id derived from the client's and from where it sent the batch, with the batch's own
//! base sequence: a retry is split the same way, so every destination recognises it (see `model::partition::producers`). What a plugin
//! sees is a function of the batch: its clock is the append time, its randomness is seeded from topic, partition and sequence.
//!
//! An instance belongs to one attachment of one topic on this shard. One that has trapped is replaced with the next batch; a new
//! version of its plugin, or another configuration, takes over between two batches.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use kafka_protocol::ResponseError;
use tidegate_model::{metadata::Topic, partition::producers::derived_producer_id, topic_config::Attachment};
use tidegate_plugin_host::{
    CallError, Compiled, Context, Limits, LogLine, OpenError, Partitioner, Rejection, Router, TopicInfo,
};
use tidegate_records::{
    batch::{BatchHeader, HeaderError},
    build::Producer,
    columns::columns,
    compress::CompressionError,
    ids::{PartitionIndex, TopicId, TopicPartition},
    split::{Assignment, split, with_producer},
    time::{Now, Timestamp},
    validate::{Rules, ValidateError, Validated, validate},
};

use crate::{api::refuse_derived, error::PartitionError, message::ProduceItem, request::Request, shard::Shard};

/// Destinations of one batch at most: a plugin's answer must not become a flood.
const DESTINATIONS_MAX: usize = 10_000;

/// The plugins of a shard.
#[derive(Default)]
pub(crate) struct Plugins {
    deployed: BTreeMap<String, Deployed>,
    routers: BTreeMap<TopicId, Attached<Router>>,
    partitioners: BTreeMap<TopicId, Attached<Partitioner>>,
    log: Vec<PluginLog>,
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
) -> Result<&'a mut Attached<I>, PartitionError> {
    let plugin = deployed.get(&attachment.plugin).ok_or_else(|| {
        policy(format!("plugin '{}' is not loaded; deploy it again (tidegate plugin deploy)", attachment.plugin))
    })?;
    let current = instances.get(&topic).is_some_and(|attached| {
        attached.version == plugin.version && attached.attachment == *attachment && !attached.instance.is_dead()
    });
    if !current {
        let opened = I::open(&plugin.compiled, &attachment.config, &Limits::default());
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
        // Retriable for every client: the batch is as it was.
        CallError::Retry { .. } => PartitionError::Other { code: ResponseError::RequestTimedOut.code(), message },
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
struct Batch<'a> {
    bytes: Bytes,
    header: BatchHeader,
    records: Bytes,
    sent_to: TopicPartition,
    now: Timestamp,
    client_id: Option<&'a str>,
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
        [Context { end, now: self.now, seed: self.seed(), principal: None, client_id: self.client_id }]
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
        let batch = validate(records.unwrap_or_default(), &rules)?;
        refuse_derived(batch.header().producer_id)?;
        if batch.header().attributes.is_transactional() {
            let message = "transactions are not implemented; produce without transactional.id".to_owned();
            return Err(PartitionError::Other { code: ResponseError::InvalidTxnState.code(), message });
        }
        if config.router.is_none() && config.partitioner.is_none() {
            let header = *batch.header();
            return Ok(vec![ProduceItem { index, partition: sent_to, bytes: batch.bytes().clone(), header }]);
        }
        self.route(now, request, topic, sent_to, &batch, index)
    }

    fn route(
        &mut self,
        now: Now,
        request: &Request,
        topic: &Arc<Topic>,
        sent_to: TopicPartition,
        validated: &Validated,
        index: u32,
    ) -> Result<Vec<ProduceItem>, PartitionError> {
        let batch = Batch {
            bytes: validated.bytes().clone(),
            header: *validated.header(),
            records: validated.records().clone(),
            sent_to,
            now: now.wall,
            client_id: request.client_id.as_deref(),
        };
        let mut items = Vec::new();
        let mut push = |parts: Vec<(TopicPartition, Bytes, BatchHeader)>| {
            items.extend(parts.into_iter().map(|(partition, bytes, header)| ProduceItem {
                index,
                partition,
                bytes,
                header,
            }));
        };
        match &topic.config.router {
            None => push(self.place(topic, &batch, sent_to.partition)?),
            Some(attachment) => {
                for (destination, wish, bytes, header) in self.ask_router(topic, attachment, &batch)? {
                    match wish {
                        Some(partition) => push(vec![(TopicPartition::new(destination.id, partition), bytes, header)]),
                        None => {
                            let limit = topic.config.max_decompressed_message_bytes;
                            let codec = header.attributes.compression();
                            let body = bytes.slice(tidegate_records::batch::HEADER_BYTES..);
                            let records = match codec {
                                Some(codec) => tidegate_records::compress::decompress(codec, &body, limit),
                                None => Ok(body),
                            };
                            let records = records.map_err(ValidateError::from)?;
                            let part = Batch { bytes, header, records, ..batch_like(&batch) };
                            push(self.place(&destination, &part, sent_to.partition)?);
                        }
                    }
                }
            }
        }
        Ok(items)
    }

    /// Parts of a batch by topic, with the partition that the router wished for.
    #[allow(clippy::type_complexity, reason = "the parts are taken apart where they are made")]
    fn ask_router(
        &mut self,
        topic: &Arc<Topic>,
        attachment: &Attachment,
        batch: &Batch<'_>,
    ) -> Result<Vec<(Arc<Topic>, Option<PartitionIndex>, Bytes, BatchHeader)>, PartitionError> {
        let plugins = &mut self.plugins;
        let attached = instance(&plugins.deployed, &mut plugins.routers, topic.id, attachment)?;
        let wanted = attached.instance.needs().columns.clone();
        let columns = columns(&batch.header, &batch.records, &wanted).map_err(ValidateError::from)?;
        let info = TopicInfo { name: &topic.name, partitions: topic.partitions.unsigned_abs() };
        let asked = attached.instance.route(&info, &columns, &batch.contexts());
        let lines = attached.instance.lines();
        if !lines.is_empty() {
            plugins.log.push(PluginLog {
                plugin: attachment.plugin.clone(),
                version: attached.version,
                topic: topic.name.clone(),
                lines,
            });
        }
        let answer = asked.map_err(|error| call_error(&attachment.plugin, error))?;
        rejected(&attachment.plugin, answer.rejected)?;

        // Destinations are numbered in the order in which they first occur; a record names each at most once.
        let mut numbers: BTreeMap<(u32, Option<u32>), u32> = BTreeMap::new();
        let mut destinations: Vec<(Arc<Topic>, Option<PartitionIndex>)> = Vec::new();
        let mut ends = Vec::new();
        let mut flat: Vec<u32> = Vec::new();
        let stores = topic.config.router_store;
        for record in 0..columns.count as usize {
            let start = flat.len();
            let itself = stores.then_some((0, None));
            let routed = answer.routes.of_record(record).map(|to| (to.topic, to.partition));
            for (number, wish) in itself.into_iter().chain(routed) {
                let known = numbers.get(&(number, wish)).copied();
                let place = match known {
                    Some(place) => place,
                    None => {
                        let found = match attached.instance.topic_name(number) {
                            None => Arc::clone(topic),
                            Some(name) => Arc::clone(self.image.topic(name).ok_or_else(|| {
                                policy(format!(
                                    "plugin '{}' routes to topic '{name}', which does not exist: create it",
                                    attachment.plugin
                                ))
                            })?),
                        };
                        if found.is_internal() {
                            return Err(policy(format!(
                                "plugin '{}' routes to '{}', which is the broker's own",
                                attachment.plugin, found.name
                            )));
                        }
                        let wish = match wish {
                            None => None,
                            Some(partition) => {
                                let index = i32::try_from(partition).unwrap_or(-1);
                                if !found.has_partition(PartitionIndex(index)) {
                                    return Err(policy(format!(
                                        "plugin '{}' routes to partition {partition} of '{}', which has {}",
                                        attachment.plugin, found.name, found.partitions
                                    )));
                                }
                                Some(PartitionIndex(index))
                            }
                        };
                        if destinations.len() == DESTINATIONS_MAX {
                            return Err(policy(format!(
                                "plugin '{}' routes one batch to more than {DESTINATIONS_MAX} destinations",
                                attachment.plugin
                            )));
                        }
                        destinations.push((found, wish));
                        numbers.insert(
                            (number, wish.map(|partition| partition.0.unsigned_abs())),
                            destinations.len() as u32 - 1,
                        );
                        destinations.len() as u32 - 1
                    }
                };
                if !flat[start..].contains(&place) {
                    flat.push(place);
                }
            }
            ends.push(flat.len() as u32);
        }
        let assignment = Assignment::Many { ends: &ends, destinations: &flat };
        let parts =
            split(&batch.bytes, &batch.header, &batch.records, assignment, destinations.len(), batch.producer())
                .map_err(|error| policy(format!("plugin '{}': {error}", attachment.plugin)))?;
        let placed = destinations.into_iter().zip(parts).filter_map(|((topic, wish), part)| {
            let (bytes, header) = part?;
            Some((topic, wish, bytes, header))
        });
        Ok(placed.collect())
    }

    /// The partitions of a batch that goes to `topic`: its partitioner decides, else the partition that the client chose, folded into
    /// what the topic has: records that were in order stay in order.
    fn place(
        &mut self,
        topic: &Arc<Topic>,
        batch: &Batch<'_>,
        chosen: PartitionIndex,
    ) -> Result<Vec<(TopicPartition, Bytes, BatchHeader)>, PartitionError> {
        let producer = if batch.header.producer_id.0 >= tidegate_model::partition::producers::DERIVED_PRODUCER_IDS_START
        {
            None
        } else {
            batch.producer()
        };
        let Some(attachment) = &topic.config.partitioner else {
            let partition = TopicPartition::new(topic.id, PartitionIndex(chosen.0 % topic.partitions));
            let (bytes, header) = with_producer(&batch.bytes, &batch.header, producer);
            return Ok(vec![(partition, bytes, header)]);
        };
        let plugins = &mut self.plugins;
        let attached = instance(&plugins.deployed, &mut plugins.partitioners, topic.id, attachment)?;
        let wanted = attached.instance.needs().columns.clone();
        let columns = columns(&batch.header, &batch.records, &wanted).map_err(ValidateError::from)?;
        let info = TopicInfo { name: &topic.name, partitions: topic.partitions.unsigned_abs() };
        let asked = attached.instance.partition(&info, &columns, &batch.contexts());
        let lines = attached.instance.lines();
        if !lines.is_empty() {
            plugins.log.push(PluginLog {
                plugin: attachment.plugin.clone(),
                version: attached.version,
                topic: topic.name.clone(),
                lines,
            });
        }
        let placement = asked.map_err(|error| call_error(&attachment.plugin, error))?;
        rejected(&attachment.plugin, placement.rejected)?;
        let count = usize::try_from(topic.partitions).unwrap_or(0);
        let assignment = Assignment::Single(&placement.partitions);
        let parts = split(&batch.bytes, &batch.header, &batch.records, assignment, count, producer)
            .map_err(|error| policy(format!("plugin '{}': {error}", attachment.plugin)))?;
        let placed = parts.into_iter().enumerate().filter_map(|(partition, part)| {
            let (bytes, header) = part?;
            Some((TopicPartition::new(topic.id, PartitionIndex(partition as i32)), bytes, header))
        });
        Ok(placed.collect())
    }
}

/// The facts of a batch that its parts share.
fn batch_like<'a>(batch: &Batch<'a>) -> Batch<'a> {
    Batch {
        bytes: Bytes::new(),
        header: batch.header,
        records: Bytes::new(),
        sent_to: batch.sent_to,
        now: batch.now,
        client_id: batch.client_id,
    }
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
