//! The group coordinator of a shard, between its requests and the partitions of `__consumer_offsets` that the shard owns.
//!
//! What the coordinator wants written becomes a batch that is appended like any other and reported back when it is committed.
//! When a partition comes to this shard (the broker starts, the topic is created) its log is read through the coordinator
//! before its groups are served.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate_model::{
    group::{
        GroupCoordinator, GroupEffect, GroupInput, GroupRequest, PersistError, PersistToken, RequestToken,
        StoredRecord, TopicsImage,
    },
    metadata::{MetadataImage, OFFSETS_TOPIC},
    partition::{AppendError, CommitRule},
};
use tidegate_records::{
    batch::{Batches, Compression, HEADER_BYTES},
    build::BatchBuilder,
    compress,
    ids::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition},
    record::Records,
    time::{Instant, Now, Timestamp},
};

use crate::{
    RequestId,
    error::PartitionError,
    message::{FetchAsk, FetchItem, Fetched, Origin, ProduceAsk, ProduceItem, ProducedItem, Reply},
    ownership,
    shard::{Effects, Shard},
};

/// How much of a partition is read at once while it loads.
const LOAD_BYTES: usize = 1 << 20;
/// No batch that this broker wrote decompresses to more.
const LOADED_BATCH_BYTES_MAX: usize = 64 << 20;

/// The groups of a shard.
#[derive(Default)]
pub(crate) struct Groups {
    served: Option<Served>,
    /// Who asked.
    waiting: BTreeMap<RequestToken, Origin>,
    /// Requests of ours to our own partitions.
    own_requests: BTreeMap<RequestId, Purpose>,
    next_token: u64,
    /// Partitions with writes that have failed but are not reported yet, and how many: later writes fail too, since they were
    /// decided on a state that never came to be.
    failing: BTreeMap<PartitionIndex, usize>,
    problems: Vec<String>,
}

struct Served {
    topic: TopicId,
    coordinator: GroupCoordinator,
    /// Partitions that are loaded or loading.
    partitions: Vec<PartitionIndex>,
}

enum Purpose {
    Persist { token: PersistToken, partition: PartitionIndex },
    Load { partition: PartitionIndex, next: Offset },
}

impl Groups {
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.served.as_ref()?.coordinator.next_deadline()
    }

    fn purpose(&mut self, id: RequestId) -> Option<Purpose> {
        self.own_requests.remove(&id)
    }
}

impl Shard {
    /// Every durable offset of the groups on this shard: group, topic, partition, offset, and when it was committed. Consumer lag is
    /// measured by it.
    pub fn committed_offsets(&self) -> impl Iterator<Item = (&str, &str, PartitionIndex, Offset, Timestamp)> {
        let coordinator = self.groups.served.iter().map(|served| &served.coordinator);
        coordinator.flat_map(|coordinator| {
            coordinator.committed().map(|(group, topic, partition, value)| {
                (group.as_ref(), topic.as_ref(), PartitionIndex(partition), value.offset, value.commit_timestamp)
            })
        })
    }

    /// Whether every offset that was ever committed on this shard is among [`Shard::committed_offsets`].
    #[must_use]
    pub fn groups_are_loaded(&self) -> bool {
        self.groups.served.as_ref().is_none_or(|served| served.coordinator.is_loaded())
    }

    /// Every group on this shard, with the name of its state.
    pub fn groups(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let coordinator = self.groups.served.iter().map(|served| &served.coordinator);
        coordinator.flat_map(|coordinator| coordinator.groups().map(|(group, state)| (group.as_ref(), state)))
    }

    /// What went wrong with the coordinator's log since the last call, for the broker's own log.
    pub fn take_group_problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.groups.problems)
    }

    /// Another shard, or this one, asks the coordinator.
    pub(crate) fn group_asked(&mut self, now: Now, origin: Origin, request: GroupRequest, effects: &mut Effects) {
        if self.groups.served.is_none() {
            // The metadata that told the asking shard of the topic has not come here yet.
            let answer = request.refused(tidegate_model::group::GroupError::NotCoordinator);
            return effects.reply(origin, Reply::Group(Box::new(answer)));
        }
        self.groups.next_token += 1;
        let token = RequestToken(self.groups.next_token);
        self.groups.waiting.insert(token, origin);
        self.coordinate(now, GroupInput::Request { token, request }, effects);
    }

    /// Takes a reply to one of the coordinator's own requests. Gives it back if it is none.
    pub(crate) fn group_replied(
        &mut self,
        now: Now,
        id: RequestId,
        reply: Reply,
        effects: &mut Effects,
    ) -> Option<Reply> {
        let Some(purpose) = self.groups.purpose(id) else { return Some(reply) };
        match (purpose, reply) {
            (Purpose::Persist { token, partition }, Reply::Produced(items)) => {
                let outcome = items.into_iter().next().map(|item| item.result);
                let result = match outcome {
                    Some(Ok(_)) => Ok(()),
                    Some(Err(error)) => Err(persist_error(&error)),
                    None => Err(PersistError::Unavailable),
                };
                if result.is_err()
                    && let Some(count) = self.groups.failing.get_mut(&partition)
                {
                    *count -= 1;
                    if *count == 0 {
                        self.groups.failing.remove(&partition);
                    }
                }
                self.coordinate(now, GroupInput::Persisted { token, result }, effects);
            }
            (Purpose::Load { partition, next }, Reply::Fetched { items, .. }) => {
                let outcome = items.into_iter().next().map(|item| item.result);
                let outcome = outcome.unwrap_or(Err(PartitionError::UnknownTopicOrPartition));
                self.loaded(now, partition, next, outcome, effects);
            }
            _ => unreachable!("the coordinator appends and reads, nothing else"),
        }
        None
    }

    pub(crate) fn groups_tick(&mut self, now: Now, effects: &mut Effects) {
        if self.groups.next_deadline().is_some_and(|deadline| deadline <= now.instant) {
            self.coordinate(now, GroupInput::Tick, effects);
        }
    }

    /// Takes new metadata: topics come and go, and with `__consumer_offsets` the coordinator comes into being.
    pub(crate) fn groups_metadata(&mut self, now: Now, image: &MetadataImage, effects: &mut Effects) {
        let Some(topic) = image.topic(OFFSETS_TOPIC) else { return };
        let shard = self.identity.shard;
        let settings = &self.settings.groups;
        let served = self.groups.served.get_or_insert_with(|| {
            let config =
                tidegate_model::group::GroupConfig { offsets_partitions: topic.partitions, ..settings.clone() };
            // Differs from start to start by the clock, from shard to shard by the index.
            let seed = u128::from(now.wall.0.unsigned_abs()) << 64
                | u128::from(now.instant.0.rotate_left(16) ^ u64::from(shard.0));
            Served { topic: topic.id, coordinator: GroupCoordinator::new(config, seed), partitions: Vec::new() }
        });
        let new: Vec<PartitionIndex> = topic
            .partition_indexes()
            .filter(|index| {
                let owner = ownership::owner(TopicPartition::new(topic.id, *index), self.identity.shards);
                owner == shard && !served.partitions.contains(index)
            })
            .collect();
        served.partitions.extend(&new);
        let topics = image.topics().map(|topic| (topic.name.as_str().into(), topic.id, topic.partitions));
        self.coordinate(now, GroupInput::Topics(TopicsImage::new(topics)), effects);
        for partition in new {
            self.coordinate(now, GroupInput::LoadStart { partition: partition.0 }, effects);
            self.load_from_start(now, partition, effects);
        }
    }

    fn coordinate(&mut self, now: Now, input: GroupInput, effects: &mut Effects) {
        let Some(served) = &mut self.groups.served else { return };
        let topic = served.topic;
        let mut wanted = Vec::new();
        served.coordinator.step(now, input, &mut wanted);
        for effect in wanted {
            match effect {
                GroupEffect::Answer { token, answer } => {
                    if let Some(origin) = self.groups.waiting.remove(&token) {
                        effects.reply(origin, Reply::Group(Box::new(answer)));
                    }
                }
                GroupEffect::Persist { token, partition, records } => {
                    let partition = TopicPartition::new(topic, PartitionIndex(partition));
                    self.persist(now, token, partition, &records, effects);
                }
                GroupEffect::Unreadable { partition, offset, error } => self.groups.problems.push(format!(
                    "the record at offset {offset} of {OFFSETS_TOPIC}-{partition} cannot be read and was passed over: {error}"
                )),
            }
        }
    }

    /// Appends the coordinator's records as one batch. Never given up by time: the coordinator must learn its true fate.
    fn persist(
        &mut self,
        now: Now,
        token: PersistToken,
        partition: TopicPartition,
        records: &[(Bytes, Option<Bytes>)],
        effects: &mut Effects,
    ) {
        let mut batch = BatchBuilder::new(Compression::None);
        for (key, value) in records {
            batch.push(now.wall, Some(key), value.as_deref(), []);
        }
        let (bytes, header) = batch.build();
        let bytes_max = self.image.partition_config(partition).map_or(usize::MAX, |config| config.max_message_bytes);
        let id = self.next_request_id();
        let origin = Origin { shard: self.identity.shard, request: id };
        let index = partition.partition;
        self.groups.own_requests.insert(id, Purpose::Persist { token, partition: index });
        let refusal = if self.groups.failing.contains_key(&index) {
            Some(PartitionError::Storage("an earlier write of the coordinator has failed".into()))
        } else if bytes.len() > bytes_max {
            let message = format!(
                "a group's records take {} bytes and max.message.bytes of {OFFSETS_TOPIC} allows {bytes_max}; raise it",
                bytes.len()
            );
            self.groups.problems.push(message.clone());
            Some(PartitionError::Invalid { code: 0, message, records: Vec::new() })
        } else {
            None
        };
        if let Some(error) = refusal {
            let item = ProducedItem { index: 0, partition, result: Err(error) };
            effects.reply(origin, Reply::Produced(vec![item]));
        } else {
            let ask = ProduceAsk {
                items: vec![ProduceItem { index: 0, partition, bytes, header, rule: CommitRule::ALL_IN_SYNC }],
                deadline: Instant(u64::MAX),
            };
            self.owned.produce(now, origin, ask, effects);
        }
        if effects.has_failed(id) {
            *self.groups.failing.entry(index).or_default() += 1;
        }
    }

    fn load_from_start(&mut self, now: Now, partition: PartitionIndex, effects: &mut Effects) {
        let Some(topic) = self.groups.served.as_ref().map(|served| served.topic) else { return };
        let replica = self.owned.replicas.get(&TopicPartition::new(topic, partition));
        let start = replica.map_or(Offset(0), |replica| replica.model.log_start_offset());
        self.load(now, partition, start, effects);
    }

    /// Reads on from `next`.
    fn load(&mut self, now: Now, partition: PartitionIndex, next: Offset, effects: &mut Effects) {
        let Some(topic) = self.groups.served.as_ref().map(|served| served.topic) else { return };
        let id = self.next_request_id();
        self.groups.own_requests.insert(id, Purpose::Load { partition, next });
        let item = FetchItem {
            index: 0,
            partition: TopicPartition::new(topic, partition),
            fetch_offset: next,
            max_bytes: LOAD_BYTES,
            current_leader_epoch: LeaderEpoch(-1),
            last_fetched_epoch: LeaderEpoch(-1),
        };
        let ask = FetchAsk {
            items: vec![item],
            max_bytes: LOAD_BYTES,
            min_bytes: 0,
            deadline: now.instant,
            read_committed: false,
        };
        self.owned.fetch(now, Origin { shard: self.identity.shard, request: id }, ask, effects);
    }

    /// A piece of a partition was read.
    fn loaded(
        &mut self,
        now: Now,
        partition: PartitionIndex,
        next: Offset,
        outcome: Result<Fetched, PartitionError>,
        effects: &mut Effects,
    ) {
        let fetched = match outcome {
            Ok(fetched) => fetched,
            // Compaction or retention has moved the start meanwhile.
            Err(PartitionError::OffsetOutOfRange { .. }) => return self.load_from_start(now, partition, effects),
            Err(error) => {
                self.groups
                    .problems
                    .push(format!("the groups of {OFFSETS_TOPIC}-{partition} cannot be served: {error}"));
                return self.coordinate(now, GroupInput::Unload { partition: partition.0 }, effects);
            }
        };
        let mut records = Vec::new();
        let mut end = next;
        for chunk in &fetched.records {
            match read_batches(chunk, next, &mut records) {
                Ok(after) => end = end.max(after),
                Err((after, problem)) => {
                    end = end.max(after);
                    self.groups.problems.push(format!("{OFFSETS_TOPIC}-{partition}: {problem}"));
                }
            }
        }
        if !records.is_empty() {
            self.coordinate(now, GroupInput::Loaded { partition: partition.0, records }, effects);
        }
        if end > next && end < fetched.high_watermark {
            self.load(now, partition, end, effects);
        } else {
            self.coordinate(now, GroupInput::LoadEnd { partition: partition.0 }, effects);
        }
    }
}

/// Adds the records from `from` on; the offset after them. A batch that cannot be read is named and passed over.
fn read_batches(chunk: &Bytes, from: Offset, records: &mut Vec<StoredRecord>) -> Result<Offset, (Offset, String)> {
    let mut end = from;
    let mut problem = None;
    for batch in Batches::new(chunk) {
        let (header, bytes) = match batch {
            Ok(batch) => batch,
            Err(error) => return Err((end, format!("after offset {end} there is no whole batch: {error}"))),
        };
        end = end.max(header.next_offset());
        if header.attributes.is_control() {
            continue;
        }
        let payload = chunk.slice_ref(bytes.get(HEADER_BYTES..).unwrap_or_default());
        let codec = header.attributes.compression().unwrap_or(Compression::None);
        let payload = match compress::decompress(codec, &payload, LOADED_BATCH_BYTES_MAX) {
            Ok(payload) => payload,
            Err(error) => {
                problem = Some(format!("the batch at offset {} cannot be decompressed: {error}", header.base_offset));
                continue;
            }
        };
        for record in Records::new(&payload, header.records_count) {
            match record {
                Ok(record) => {
                    let offset = record.offset(&header);
                    if let Some(key) = record.key
                        && offset >= from
                    {
                        let value = record.value.map(Bytes::copy_from_slice);
                        records.push(StoredRecord { offset, key: Bytes::copy_from_slice(key), value });
                    }
                }
                Err(error) => {
                    problem = Some(format!("the batch at offset {} cannot be read: {error}", header.base_offset));
                }
            }
        }
    }
    problem.map_or(Ok(end), |problem| Err((end, problem)))
}

fn persist_error(error: &PartitionError) -> PersistError {
    match error {
        PartitionError::NotLeader => PersistError::NotLeader,
        PartitionError::Storage(_) | PartitionError::Append(AppendError::OffsetsExhausted) => PersistError::Storage,
        PartitionError::Invalid { .. } => PersistError::TooLarge,
        _ => PersistError::Unavailable,
    }
}

impl Effects {
    /// Whether an append of ours was refused on the spot. Its reply is the latest that was queued.
    fn has_failed(&self, id: RequestId) -> bool {
        self.replies.iter().rev().any(|(origin, reply)| {
            origin.request == id
                && matches!(reply, Reply::Produced(items) if items.iter().any(|item| item.result.is_err()))
        })
    }
}
