//! Produce (key 0): batches to append. Sources: KIP-98 (idempotence), KIP-467 (record errors), KIP-951 (leader hints).
//!
//! `begin` checks every batch on the shard that received it, lets plugins route those of routed topics, and sends each owner its
//! parts in one message; `finish` answers when every part's commit rule holds. The partitions of a request succeed or fail one by one.
//! A request with routed batches is answered when those before it on its connection are: see `Work::is_held`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kafka_protocol::{
    ResponseError,
    messages::{
        ProduceRequest, ProduceResponse, TopicName,
        produce_request::TopicProduceData,
        produce_response::{BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse},
    },
    protocol::StrBytes,
};
use tidegate_model::partition::{AppendError, producers};
use tidegate_records::{
    ids::{PartitionIndex, ProducerId, ShardId, TopicId, TopicPartition},
    time::{Instant, Now},
};

use super::{Work as AnyWork, code};
use crate::{
    ConnectionId,
    error::PartitionError,
    message::{Ask, ProduceAsk, ProduceItem, ProducedItem},
    plugins::{Checked, Plugins, Sent},
    refused::Turn,
    request::Request,
    shard::{Effect, Effects, Shard},
};

/// What the batches of one request may be when decompressed, in bytes, at least. A shard does nothing else meanwhile: thousands of batches
/// that are each within `max.decompressed.message.bytes` would keep it for many seconds.
const DECOMPRESSED_BYTES_MIN: usize = 256 << 20;
/// The same as a multiple of what came.
const DECOMPRESSED_RATIO: usize = 16;

/// What the batches of a produce request may still be when decompressed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Decompression {
    bytes_max: usize,
    taken: usize,
}

impl Decompression {
    fn of(body: &ProduceRequest) -> Self {
        let partitions = body.topic_data.iter().flat_map(|topic| &topic.partition_data);
        let came: usize = partitions.filter_map(|data| data.records.as_ref()).map(|records| records.len()).sum();
        Self { bytes_max: DECOMPRESSED_BYTES_MIN.max(came.saturating_mul(DECOMPRESSED_RATIO)), taken: 0 }
    }

    /// What the next batch may be, where its topic allows `limit`. The first of a request is bound by its topic alone.
    pub(crate) fn room(&self, limit: usize) -> usize {
        if self.taken == 0 { limit } else { limit.min(self.bytes_max.saturating_sub(self.taken)) }
    }

    pub(crate) fn take(&mut self, bytes: usize) {
        self.taken = self.taken.saturating_add(bytes);
    }

    /// Why a batch is refused that its topic would allow.
    pub(crate) fn refusal(&self) -> PartitionError {
        let message = format!(
            "the batches of this request are over {} bytes when decompressed: send fewer of them in one request",
            self.bytes_max
        );
        PartitionError::Other { code: code(ResponseError::MessageTooLarge), message }
    }
}

pub(crate) struct Work {
    topics: Vec<TopicProduceResponse>,
    places: Vec<Place>,
    awaiting: usize,
    acks: i16,
    /// How long the client should send nothing more.
    throttle: Duration,
}

/// One partition of the request, by the index of its items.
struct Place {
    topic: usize,
    partition: usize,
    /// What the client sent it to; parts that were routed elsewhere do not set its base offset.
    sent_to: TopicPartition,
    /// Its batch's place among those of a derived producer.
    turn: Option<Turn>,
    /// A destination did not take it, and its client sends it again.
    comes_again: bool,
}

/// How long a request waits before it is begun, where plugins have taken their share of the core for one of its topics.
pub(super) fn waits(shard: &mut Shard, now: Instant, body: &ProduceRequest) -> Duration {
    let topics = body.topic_data.iter().filter_map(|topic| Some(shard.image.topic(&topic.name.0)?.id));
    let topics: Vec<TopicId> = topics.collect();
    topics.into_iter().map(|topic| shard.plugins_owe(now, topic)).max().unwrap_or_default()
}

/// Each partition once, with what was sent for it last, as in Apache Kafka; clients take one answer for each.
fn each_once(topics: Vec<TopicProduceData>) -> Vec<TopicProduceData> {
    if let [topic] = topics.as_slice()
        && topic.partition_data.len() == 1
    {
        return topics;
    }
    // Nothing is repeated, unless somebody tries what happens then.
    let mut seen = BTreeSet::new();
    let mut named = topics.iter().flat_map(|topic| {
        let name = topic.name.0.as_str();
        topic.partition_data.iter().map(move |data| (name, data.index))
    });
    if named.all(|partition| seen.insert(partition)) {
        return topics;
    }
    let mut merged: Vec<TopicProduceData> = Vec::new();
    let mut places: BTreeMap<TopicName, (usize, BTreeMap<i32, usize>)> = BTreeMap::new();
    for TopicProduceData { name, partition_data, .. } in topics {
        let (topic, partitions) = places.entry(name.clone()).or_insert_with(|| {
            merged.push(TopicProduceData::default().with_name(name));
            (merged.len() - 1, BTreeMap::new())
        });
        let kept = &mut merged[*topic].partition_data;
        for data in partition_data {
            match partitions.get(&data.index) {
                Some(at) => kept[*at] = data,
                None => {
                    partitions.insert(data.index, kept.len());
                    kept.push(data);
                }
            }
        }
    }
    merged
}

pub(super) fn begin(shard: &mut Shard, now: Now, request: Request, mut body: ProduceRequest, effects: &mut Effects) {
    body.topic_data = each_once(body.topic_data);
    let acks = body.acks;
    let topics = Vec::with_capacity(body.topic_data.len());
    let mut work = Work { topics, places: Vec::new(), awaiting: 0, acks, throttle: Duration::ZERO };
    let refusal = refusal_of_request(&body);
    shard.decompression = Decompression::of(&body);
    let timeout = if body.timeout_ms > 0 { body.timeout_ms } else { shard.settings.request_timeout_ms };
    let timeout = Duration::from_millis(timeout as u64);
    // One for each owner, and one more where a plugin gives a batch less time.
    let mut asks: BTreeMap<(u16, Instant), Vec<ProduceItem>> = BTreeMap::new();
    for topic in body.topic_data {
        let image = shard.image.topic(&topic.name.0).cloned();
        let mut response = TopicProduceResponse::default().with_name(topic.name);
        for data in topic.partition_data {
            let mut answer = PartitionProduceResponse::default()
                .with_index(data.index)
                .with_base_offset(-1)
                .with_log_append_time_ms(-1)
                .with_log_start_offset(-1);
            let index = work.places.len() as u32;
            let checked = match (&refusal, &image) {
                (Some(refusal), _) => Err(refusal.clone()),
                (None, Some(image)) if image.has_partition(PartitionIndex(data.index)) => {
                    let sent_to = TopicPartition::new(image.id, PartitionIndex(data.index));
                    work.places.push(Place {
                        topic: work.topics.len(),
                        partition: response.partition_responses.len(),
                        sent_to,
                        turn: None,
                        comes_again: false,
                    });
                    if image.config.is_log_append_time() {
                        answer.log_append_time_ms = now.wall.0;
                    }
                    let sent = Sent { to: sent_to, records: data.records, acks, index };
                    let checked = shard.check_and_route(now, &request, image, sent);
                    work.throttle = work.throttle.max(shard.charge_plugins(now.instant, image));
                    checked
                }
                (None, _) => Err(PartitionError::UnknownTopicOrPartition),
            };
            match checked {
                Ok(Checked { items, within, turn }) => {
                    work.places[index as usize].turn = turn;
                    let deadline = now.instant + within.map_or(timeout, |within| within.min(timeout));
                    for item in items {
                        asks.entry((shard.owner(item.partition).0, deadline)).or_default().push(item);
                    }
                }
                Err(error) => set_error(&mut answer, &error),
            }
            response.partition_responses.push(answer);
        }
        work.topics.push(response);
    }
    if !work.throttle.is_zero() {
        let until = now.instant + work.throttle;
        effects.push(Effect::Pause { connection: request.connection, until });
    }
    work.awaiting = asks.len();
    if work.awaiting == 0 {
        if work.is_held(shard, &request) {
            return shard.park(request, AnyWork::Produce(work));
        }
        return respond(shard, now, &request, work, effects);
    }
    let id = request.id;
    let mut owners: Vec<ShardId> = asks.keys().map(|(owner, _)| ShardId(*owner)).collect();
    owners.dedup();
    shard.note_owners(request.connection, &owners, effects);
    shard.park(request, AnyWork::Produce(work));
    for ((owner, deadline), items) in asks {
        shard.ask(now, ShardId(owner), id, Ask::Produce(ProduceAsk { items, deadline }), effects);
    }
}

/// Why the whole request is refused, if it is.
fn refusal_of_request(body: &ProduceRequest) -> Option<PartitionError> {
    if !matches!(body.acks, -1..=1) {
        let message = format!("acks={} is not one of -1 (all), 0 and 1", body.acks);
        return Some(PartitionError::Other { code: code(ResponseError::InvalidRequiredAcks), message });
    }
    if body.transactional_id.is_some() {
        let message = "transactions are not implemented; produce without transactional.id".to_owned();
        return Some(PartitionError::Other { code: code(ResponseError::TransactionalIdAuthorizationFailed), message });
    }
    None
}

/// Ids that the broker derives for routed parts are its own.
pub(crate) fn refuse_derived(producer: ProducerId) -> Result<(), PartitionError> {
    if producers::is_derived(producer) {
        let message = format!("producer id {producer} was not given out by this cluster");
        return Err(PartitionError::Other { code: code(ResponseError::UnknownProducerId), message });
    }
    Ok(())
}

pub(super) fn finish(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    mut work: Work,
    items: Vec<ProducedItem>,
    effects: &mut Effects,
) -> Option<AnyWork> {
    for item in items {
        let place = &mut work.places[item.index as usize];
        let answer = &mut work.topics[place.topic].partition_responses[place.partition];
        match item.result {
            Ok(produced) if item.partition == place.sent_to && answer.error_code == 0 => {
                answer.base_offset = produced.base_offset.0;
                answer.log_start_offset = produced.log_start_offset.0;
            }
            Ok(_) => {}
            Err(error) => {
                place.comes_again |= error.comes_again();
                set_error(answer, &error);
            }
        }
    }
    work.awaiting -= 1;
    if work.awaiting > 0 || work.is_held(shard, request) {
        return Some(AnyWork::Produce(work));
    }
    respond(shard, now, request, work, effects);
    None
}

fn set_error(answer: &mut PartitionProduceResponse, error: &PartitionError) {
    if answer.error_code != 0 {
        // The first error of a partition stays: the others are usually its consequences.
        return;
    }
    answer.error_code = error.code();
    answer.base_offset = -1;
    answer.log_append_time_ms = -1;
    answer.error_message = Some(StrBytes::from_string(error.to_string()));
    answer.record_errors = error
        .record_errors()
        .iter()
        .map(|(index, message)| {
            BatchIndexAndErrorMessage::default()
                .with_batch_index(*index)
                .with_batch_index_error_message(Some(StrBytes::from_string(message.clone())))
        })
        .collect();
}

impl Work {
    /// Whether it waits until those before it on its connection are answered: only then it is known whether routed batches before its own
    /// were taken. Nothing is lost by it, since answers leave in the order of the requests.
    fn is_held(&self, shard: &mut Shard, request: &Request) -> bool {
        let has_turns = self.acks != 0 && self.places.iter().any(|place| place.turn.is_some());
        has_turns && shard.connections.hold(request.connection, request.slot, request.id)
    }

    /// No routed batch is acknowledged behind one that must come again: its client sends both, and this one is known then.
    fn keep_turns(&mut self, plugins: &mut Plugins, connection: ConnectionId) {
        for place in &self.places {
            let Some(turn) = place.turn else { continue };
            let answer = &mut self.topics[place.topic].partition_responses[place.partition];
            if place.comes_again {
                plugins.comes_again(connection, turn);
            } else if answer.error_code == 0 {
                match plugins.unacknowledged.check(connection, turn) {
                    Ok(()) => plugins.unacknowledged.taken(connection, turn),
                    Err(error) => {
                        plugins.comes_again(connection, turn);
                        set_error(answer, &AppendError::from(error).into());
                    }
                }
            }
        }
    }
}

pub(super) fn respond(shard: &mut Shard, now: Now, request: &Request, mut work: Work, effects: &mut Effects) {
    work.keep_turns(&mut shard.plugins, request.connection);
    if work.acks == 0 {
        shard.answer_nothing(now, request, effects);
        let failed =
            work.topics.iter().flat_map(|topic| &topic.partition_responses).find(|answer| answer.error_code != 0);
        if let Some(answer) = failed {
            // A producer that wants no answer can only be told by closing its connection, as Apache Kafka does.
            let why = answer.error_message.as_ref().map_or("", |message| message.as_str());
            let reason = format!("a batch of an acks=0 producer was refused: {why}");
            effects.push(Effect::Close { connection: request.connection, reason });
        }
        return;
    }
    let throttle_ms = i32::try_from(work.throttle.as_millis()).unwrap_or(i32::MAX);
    let answer = ProduceResponse::default().with_responses(work.topics).with_throttle_time_ms(throttle_ms);
    shard.answer(now, request, &answer, effects);
}
