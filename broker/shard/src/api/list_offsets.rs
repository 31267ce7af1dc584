//! ListOffsets (key 2): the first, the last, or the offset of a time. Sources: KIP-79, KIP-734 (max timestamp), KIP-405 (tiers).

use std::collections::BTreeSet;

use kafka_protocol::{
    ResponseError,
    messages::{
        ListOffsetsRequest, ListOffsetsResponse,
        list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
    },
};
use tidegate_records::{
    ids::{LeaderEpoch, PartitionIndex, TopicPartition},
    time::{Now, Timestamp},
};

use super::{Work as AnyWork, code};
use crate::{
    error::PartitionError,
    message::{Ask, ListOffsetsItem, ListedOffset, OffsetQuery},
    request::Request,
    shard::{Effects, Shard},
};

pub(crate) struct Work {
    topics: Vec<ListOffsetsTopicResponse>,
    /// Topic and partition in `topics` for each index of an item.
    places: Vec<(usize, usize)>,
    awaiting: usize,
}

pub(super) fn begin(shard: &mut Shard, now: Now, request: Request, body: ListOffsetsRequest, effects: &mut Effects) {
    let mut work = Work { topics: Vec::new(), places: Vec::new(), awaiting: 0 };
    let mut asks: Vec<Vec<ListOffsetsItem>> = (0..shard.identity.shards).map(|_| Vec::new()).collect();
    let mut seen = BTreeSet::new();
    for topic in &body.topics {
        let image = shard.image.topic(&topic.name.0).cloned();
        let mut response = ListOffsetsTopicResponse::default().with_name(topic.name.clone());
        for asked in &topic.partitions {
            let mut answer = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            let partition = image
                .as_ref()
                .filter(|image| image.has_partition(PartitionIndex(asked.partition_index)))
                .map(|image| TopicPartition::new(image.id, PartitionIndex(asked.partition_index)));
            let repeated = !seen.insert((topic.name.clone(), asked.partition_index));
            match (partition, query(asked.timestamp, request.version)) {
                _ if repeated => {
                    answer.error_code = code(ResponseError::InvalidRequest);
                }
                (None, _) => answer.error_code = code(ResponseError::UnknownTopicOrPartition),
                (_, None) => answer.error_code = code(ResponseError::UnsupportedVersion),
                (Some(partition), Some(what)) => {
                    let index = work.places.len() as u32;
                    work.places.push((work.topics.len(), response.partitions.len()));
                    asks[usize::from(shard.owner(partition).0)].push(ListOffsetsItem {
                        index,
                        partition,
                        current_leader_epoch: LeaderEpoch(asked.current_leader_epoch),
                        read_committed: body.isolation_level == 1,
                        what,
                    });
                }
            }
            response.partitions.push(answer);
        }
        work.topics.push(response);
    }
    work.awaiting = asks.iter().filter(|items| !items.is_empty()).count();
    if work.awaiting == 0 {
        return respond(shard, now, &request, work, effects);
    }
    let id = request.id;
    shard.park(request, AnyWork::ListOffsets(work));
    for (owner, items) in asks.into_iter().enumerate().filter(|(_, items)| !items.is_empty()) {
        shard.ask(now, tidegate_records::ids::ShardId(owner as u16), id, Ask::ListOffsets(items), effects);
    }
}

/// What a timestamp asks for; negative ones are names, each known from a version on.
fn query(timestamp: i64, version: i16) -> Option<OffsetQuery> {
    Some(match timestamp {
        -1 => OffsetQuery::Latest,
        -2 => OffsetQuery::Earliest,
        -3 if version >= 7 => OffsetQuery::MaxTimestamp,
        -4 if version >= 8 => OffsetQuery::EarliestLocal,
        -5 if version >= 9 => OffsetQuery::LatestTiered,
        timestamp if timestamp >= 0 => OffsetQuery::AtOrAfter(Timestamp(timestamp)),
        _ => return None,
    })
}

pub(super) fn finish(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    mut work: Work,
    items: Vec<ListedOffset>,
    effects: &mut Effects,
) -> Option<AnyWork> {
    for item in items {
        let (topic, partition) = work.places[item.index as usize];
        let answer = &mut work.topics[topic].partitions[partition];
        match item.result {
            Ok((offset, timestamp, epoch)) => {
                answer.offset = offset.0;
                answer.timestamp = timestamp.0;
                // Before v4 the answer has no place for it.
                if request.version >= 4 {
                    answer.leader_epoch = epoch.0;
                }
            }
            Err(error) => answer.error_code = PartitionError::code(&error),
        }
    }
    work.awaiting -= 1;
    if work.awaiting > 0 {
        return Some(AnyWork::ListOffsets(work));
    }
    respond(shard, now, request, work, effects);
    None
}

fn respond(shard: &mut Shard, now: Now, request: &Request, work: Work, effects: &mut Effects) {
    shard.answer(now, request, &ListOffsetsResponse::default().with_topics(work.topics), effects);
}
