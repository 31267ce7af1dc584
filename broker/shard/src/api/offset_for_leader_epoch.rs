//! OffsetForLeaderEpoch (key 23): where a leader epoch ends, so that a reader sees whether its log was truncated (KIP-101, KIP-320).

use kafka_protocol::{
    ResponseError,
    messages::{
        OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
        offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult},
    },
};
use tidegate_records::{
    ids::{LeaderEpoch, PartitionIndex, ShardId, TopicPartition},
    time::Now,
};

use super::{Work as AnyWork, code};
use crate::{
    message::{Ask, EpochEnd, EpochEndItem},
    request::Request,
    shard::{Effects, Shard},
};

pub(crate) struct Work {
    topics: Vec<OffsetForLeaderTopicResult>,
    places: Vec<(usize, usize)>,
    awaiting: usize,
}

pub(super) fn begin(
    shard: &mut Shard,
    now: Now,
    request: Request,
    body: OffsetForLeaderEpochRequest,
    effects: &mut Effects,
) {
    let mut work = Work { topics: Vec::new(), places: Vec::new(), awaiting: 0 };
    let mut asks: Vec<Vec<EpochEndItem>> = (0..shard.identity.shards).map(|_| Vec::new()).collect();
    for topic in &body.topics {
        let image = shard.image.topic(&topic.topic.0).cloned();
        let mut result = OffsetForLeaderTopicResult::default().with_topic(topic.topic.clone());
        for asked in &topic.partitions {
            let mut answer = EpochEndOffset::default().with_partition(asked.partition);
            match image.as_ref().filter(|image| image.has_partition(PartitionIndex(asked.partition))) {
                None => answer.error_code = code(ResponseError::UnknownTopicOrPartition),
                Some(image) => {
                    let partition = TopicPartition::new(image.id, PartitionIndex(asked.partition));
                    let index = work.places.len() as u32;
                    work.places.push((work.topics.len(), result.partitions.len()));
                    asks[usize::from(shard.owner(partition).0)].push(EpochEndItem {
                        index,
                        partition,
                        current_leader_epoch: LeaderEpoch(asked.current_leader_epoch),
                        epoch: LeaderEpoch(asked.leader_epoch),
                    });
                }
            }
            result.partitions.push(answer);
        }
        work.topics.push(result);
    }
    work.awaiting = asks.iter().filter(|items| !items.is_empty()).count();
    if work.awaiting == 0 {
        return respond(shard, now, &request, work, effects);
    }
    let id = request.id;
    shard.park(request, AnyWork::OffsetForLeaderEpoch(work));
    for (owner, items) in asks.into_iter().enumerate().filter(|(_, items)| !items.is_empty()) {
        shard.ask(now, ShardId(owner as u16), id, Ask::EpochEnds(items), effects);
    }
}

pub(super) fn finish(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    mut work: Work,
    items: Vec<EpochEnd>,
    effects: &mut Effects,
) -> Option<AnyWork> {
    for item in items {
        let (topic, partition) = work.places[item.index as usize];
        let answer = &mut work.topics[topic].partitions[partition];
        match item.result {
            Ok((epoch, end)) => {
                answer.leader_epoch = epoch.0;
                answer.end_offset = end.0;
            }
            Err(error) => answer.error_code = error.code(),
        }
    }
    work.awaiting -= 1;
    if work.awaiting > 0 {
        return Some(AnyWork::OffsetForLeaderEpoch(work));
    }
    respond(shard, now, request, work, effects);
    None
}

fn respond(shard: &mut Shard, now: Now, request: &Request, work: Work, effects: &mut Effects) {
    shard.answer(now, request, &OffsetForLeaderEpochResponse::default().with_topics(work.topics), effects);
}
