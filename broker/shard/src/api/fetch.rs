//! Fetch (key 1): records from an offset on, now or when there are some. Sources: KIP-227 (sessions), KIP-320 (epochs), KIP-516 (ids).
//!
//! `begin` finds the partitions and asks their owners; the first owner that has enough ends the wait of the others; `finish` puts
//! the parts together in the order in which the client asked, within its `max_bytes`.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::{ResponseError, messages::FetchRequest};
use tidegate_model::fetch_session::{
    self, FetchContext, FetchParameters, FetchSessionError, Found, FoundContent, TopicName,
};
use tidegate_records::{
    ids::{LeaderEpoch, Offset, PartitionIndex, ShardId, TopicId, TopicPartition},
    time::Now,
};

use super::{
    Work as AnyWork, code,
    fetch_response::{self, PartitionAnswer, TopicAnswer},
};
use crate::{
    message::{Ask, FetchAsk, FetchItem, Fetched, FetchedItem},
    request::Request,
    shard::{Effects, Shard},
};

pub(crate) struct Work {
    context: FetchContext,
    fetched: Vec<fetch_session::Fetched>,
    /// One partition for each of `fetched`, in that order.
    topics: Vec<TopicAnswer>,
    /// Topic and partition in `topics` for each index of an item.
    places: Vec<(usize, usize)>,
    max_bytes: usize,
    read_committed: bool,
    awaiting: Vec<ShardId>,
    cancelled: bool,
}

pub(super) fn begin(shard: &mut Shard, now: Now, request: Request, body: FetchRequest, effects: &mut Effects) {
    if body.replica_id.0 >= 0 || body.replica_state.replica_id.0 >= 0 {
        // A follower of another cluster member: there is none that this broker knows.
        return respond(shard, now, &request, code(ResponseError::NotLeaderOrFollower), 0, &[], effects);
    }
    let (context, fetched) = match shard.fetch_sessions.begin(now.instant, session_request(&request, &body)) {
        Ok(begun) => begun,
        Err(error) => return respond(shard, now, &request, session_code(error), 0, &[], effects),
    };
    let max_bytes = usize::try_from(body.max_bytes).unwrap_or(0).min(shard.settings.fetch_bytes_max);
    // Its answer waits here for the client, wherever it is read.
    let max_bytes = max_bytes.min(shard.owned.fetch_budget());
    let mut work = Work {
        context,
        fetched: Vec::new(),
        topics: Vec::new(),
        places: Vec::new(),
        max_bytes,
        read_committed: body.isolation_level == 1,
        awaiting: Vec::new(),
        cancelled: false,
    };
    let mut asks: Vec<Vec<FetchItem>> = (0..shard.identity.shards).map(|_| Vec::new()).collect();
    let mut immediate = false;
    for of_topic in fetched.chunk_by(|one, next| one.topic == next.topic) {
        let image = match &of_topic[0].topic {
            TopicName::Id(id) => shard.image.topic_by_id(*id).cloned(),
            TopicName::Name(name) => shard.image.topic(name).cloned(),
        };
        let mut answer = TopicAnswer::new(&of_topic[0].topic, of_topic.len());
        for asked in of_topic {
            let index = asked.partition.0;
            let Some(image) = image.as_ref().filter(|image| image.has_partition(asked.partition)) else {
                let is_unknown_id = image.is_none() && matches!(asked.topic, TopicName::Id(_));
                let unknown =
                    if is_unknown_id { ResponseError::UnknownTopicId } else { ResponseError::UnknownTopicOrPartition };
                answer.partitions.push(PartitionAnswer::error(index, code(unknown)));
                immediate = true;
                continue;
            };
            let partition = TopicPartition::new(image.id, asked.partition);
            let item = work.places.len() as u32;
            work.places.push((work.topics.len(), answer.partitions.len()));
            // Kept only if no owner answers for it before the response leaves.
            answer.partitions.push(PartitionAnswer::error(index, 0));
            asks[usize::from(shard.owner(partition).0)].push(FetchItem {
                index: item,
                partition,
                fetch_offset: asked.parameters.fetch_offset,
                max_bytes: usize::try_from(asked.parameters.bytes_max).unwrap_or(0),
                current_leader_epoch: asked.parameters.current_leader_epoch,
                last_fetched_epoch: asked.parameters.last_fetched_epoch,
            });
        }
        work.topics.push(answer);
    }
    work.fetched = fetched;
    work.awaiting = (0..shard.identity.shards).map(ShardId).filter(|id| !asks[usize::from(id.0)].is_empty()).collect();
    if work.awaiting.is_empty() {
        return complete(shard, now, &request, work, effects);
    }
    let wait = if immediate { 0 } else { u64::try_from(body.max_wait_ms).unwrap_or(0) };
    let deadline = now.instant + Duration::from_millis(wait);
    let id = request.id;
    let owners = work.awaiting.clone();
    shard.note_owners(request.connection, &owners, effects);
    let read_committed = work.read_committed;
    shard.park(request, AnyWork::Fetch(work));
    for owner in owners {
        let ask = FetchAsk {
            items: std::mem::take(&mut asks[usize::from(owner.0)]),
            max_bytes,
            min_bytes: usize::try_from(body.min_bytes).unwrap_or(0),
            deadline,
            read_committed,
        };
        shard.ask(now, owner, id, Ask::Fetch(ask), effects);
    }
}

fn session_request(request: &Request, body: &FetchRequest) -> fetch_session::FetchRequest {
    let uses_topic_ids = request.version >= 13;
    let name = |name: &str, id: uuid::Uuid| {
        if uses_topic_ids { TopicName::Id(TopicId(*id.as_bytes())) } else { TopicName::Name(name.into()) }
    };
    let mut partitions = Vec::with_capacity(body.topics.iter().map(|topic| topic.partitions.len()).sum());
    for topic in &body.topics {
        let name = name(&topic.topic.0, topic.topic_id);
        partitions.extend(topic.partitions.iter().map(|asked| fetch_session::Fetched {
            topic: name.clone(),
            partition: PartitionIndex(asked.partition),
            parameters: FetchParameters {
                fetch_offset: Offset(asked.fetch_offset),
                bytes_max: asked.partition_max_bytes,
                current_leader_epoch: LeaderEpoch(asked.current_leader_epoch),
                last_fetched_epoch: LeaderEpoch(asked.last_fetched_epoch),
            },
        }));
    }
    let forgotten = body.forgotten_topics_data.iter().flat_map(|topic| {
        let name = name(&topic.topic.0, topic.topic_id);
        topic.partitions.iter().map(move |partition| (name.clone(), PartitionIndex(*partition)))
    });
    fetch_session::FetchRequest {
        session_id: body.session_id,
        // Versions below 7 know no sessions; the codec fills in what means "none".
        epoch: body.session_epoch,
        uses_topic_ids,
        forgotten: forgotten.collect(),
        partitions,
    }
}

fn session_code(error: FetchSessionError) -> i16 {
    code(match error {
        FetchSessionError::SessionIdNotFound { .. } => ResponseError::FetchSessionIdNotFound,
        FetchSessionError::InvalidSessionEpoch { .. } => ResponseError::InvalidFetchSessionEpoch,
        FetchSessionError::SessionTopicId { .. } => ResponseError::FetchSessionTopicIdError,
    })
}

pub(super) fn finish(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    mut work: Work,
    (from, items): (ShardId, Vec<FetchedItem>),
    effects: &mut Effects,
) -> Option<AnyWork> {
    work.awaiting.retain(|waiting| *waiting != from);
    for item in items {
        let (topic, partition) = work.places[item.index as usize];
        let answer = &mut work.topics[topic].partitions[partition];
        *answer = match item.result {
            Ok(fetched) => answered(answer.index, fetched, work.read_committed),
            Err(error) => PartitionAnswer::error(answer.index, error.code()),
        };
    }
    if !work.awaiting.is_empty() {
        // One owner has enough (or its time is up): the others answer with what they have now.
        if !std::mem::replace(&mut work.cancelled, true) {
            for owner in &work.awaiting {
                // Queued, because the work is not parked again before this returns.
                effects.ask_later(*owner, request.id, Ask::CancelFetch);
            }
        }
        return Some(AnyWork::Fetch(work));
    }
    limit(&mut work);
    complete(shard, now, request, work, effects);
    None
}

/// Leaves out what the session's client knows already, and answers.
fn complete(shard: &mut Shard, now: Now, request: &Request, mut work: Work, effects: &mut Effects) {
    let found: Vec<Found> = work.topics.iter().flat_map(|topic| &topic.partitions).map(found).collect();
    match shard.fetch_sessions.end(now.instant, work.context, &work.fetched, &found) {
        Ok(answer) => {
            if matches!(work.context, FetchContext::Incremental { .. }) {
                let mut carries = answer.carries.iter();
                for topic in &mut work.topics {
                    topic.partitions.retain(|_| carries.next().is_some_and(|carries| *carries));
                }
                work.topics.retain(|topic| !topic.partitions.is_empty());
            }
            respond(shard, now, request, 0, answer.session_id, &work.topics, effects);
        }
        Err(error) => respond(shard, now, request, session_code(error), 0, &[], effects),
    }
}

fn found(answer: &PartitionAnswer) -> Found {
    let content = if answer.error_code != 0 {
        FoundContent::Error
    } else if answer.diverging.is_some() {
        FoundContent::DivergingEpoch
    } else if answer.records_bytes() > 0 {
        FoundContent::Records
    } else {
        FoundContent::Nothing
    };
    Found { high_watermark: answer.high_watermark, log_start_offset: answer.log_start_offset, content }
}

fn answered(index: i32, fetched: Fetched, read_committed: bool) -> PartitionAnswer {
    PartitionAnswer {
        index,
        error_code: 0,
        high_watermark: fetched.high_watermark,
        last_stable_offset: fetched.last_stable_offset,
        log_start_offset: fetched.log_start_offset,
        diverging: fetched.diverging,
        read_committed,
        records: fetched.records,
    }
}

/// Several owners may each have found `max_bytes`, and each has given its first batch whole: what is over is left for the next fetch,
/// but never the first batch. From there on what is asked of each partition holds as well (KIP-74).
fn limit(work: &mut Work) {
    let mut room = work.max_bytes;
    let mut first = true;
    let answers = work.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
    for (answer, asked) in answers.zip(&work.fetched) {
        let room_of_partition = usize::try_from(asked.parameters.bytes_max).unwrap_or(0);
        let bytes = answer.records.iter().map(Bytes::len).sum::<usize>();
        if bytes == 0 {
            continue;
        }
        if !first && bytes > room.min(room_of_partition) {
            answer.records.clear();
            continue;
        }
        first = false;
        room = room.saturating_sub(bytes);
    }
}

fn respond(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    error_code: i16,
    session_id: i32,
    topics: &[TopicAnswer],
    effects: &mut Effects,
) {
    effects.count_error(request.api, error_code);
    for partition in topics.iter().flat_map(|topic| &topic.partitions) {
        effects.count_error(request.api, partition.error_code);
    }
    let mut head = BytesMut::with_capacity(256);
    match request.begin_frame(&mut head) {
        Ok(()) => {
            let chunks = fetch_response::encode(head, request.version, error_code, session_id, topics);
            shard.answer_frame(now, request, chunks, effects);
        }
        Err(error) => {
            effects.push(crate::shard::Effect::Close { connection: request.connection, reason: error.to_string() })
        }
    }
}
