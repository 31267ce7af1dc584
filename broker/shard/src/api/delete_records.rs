//! DeleteRecords (key 21): everything below an offset goes, durably. Source: KIP-107.

use kafka_protocol::{
    ResponseError,
    messages::{
        DeleteRecordsRequest, DeleteRecordsResponse,
        delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult},
    },
};
use tidegate_records::{
    ids::{Offset, PartitionIndex, ShardId, TopicPartition},
    time::Now,
};

use super::{Work as AnyWork, code};
use crate::{
    error::PartitionError,
    message::{Ask, DeleteRecordsItem},
    request::Request,
    shard::{Effects, Shard},
};

pub(crate) struct Work {
    topics: Vec<DeleteRecordsTopicResult>,
    places: Vec<(usize, usize)>,
    awaiting: usize,
}

pub(super) fn begin(shard: &mut Shard, now: Now, request: Request, body: DeleteRecordsRequest, effects: &mut Effects) {
    let mut work = Work { topics: Vec::new(), places: Vec::new(), awaiting: 0 };
    let mut asks: Vec<Vec<DeleteRecordsItem>> = (0..shard.identity.shards).map(|_| Vec::new()).collect();
    for topic in body.topics {
        let image = shard.image.topic(&topic.name.0).cloned();
        let mut result = DeleteRecordsTopicResult::default().with_name(topic.name);
        for asked in topic.partitions {
            let mut answer = DeleteRecordsPartitionResult::default()
                .with_partition_index(asked.partition_index)
                .with_low_watermark(-1);
            match image.as_ref().filter(|image| image.has_partition(PartitionIndex(asked.partition_index))) {
                None => answer.error_code = code(ResponseError::UnknownTopicOrPartition),
                // As Kafka: the records of a compacted topic go by their keys, not by their age.
                Some(image) if !image.config.cleanup_policy.delete || image.is_internal() => {
                    answer.error_code = code(ResponseError::PolicyViolation);
                }
                Some(image) => {
                    let partition = TopicPartition::new(image.id, PartitionIndex(asked.partition_index));
                    let index = work.places.len() as u32;
                    work.places.push((work.topics.len(), result.partitions.len()));
                    let before = Offset(asked.offset);
                    asks[usize::from(shard.owner(partition).0)].push(DeleteRecordsItem { index, partition, before });
                }
            }
            result.partitions.push(answer);
        }
        work.topics.push(result);
    }
    work.awaiting = asks.iter().filter(|items| !items.is_empty()).count();
    if work.awaiting == 0 {
        return shard.answer(now, &request, &DeleteRecordsResponse::default().with_topics(work.topics), effects);
    }
    let id = request.id;
    shard.park(request, AnyWork::DeleteRecords(work));
    for (owner, items) in asks.into_iter().enumerate().filter(|(_, items)| !items.is_empty()) {
        shard.ask(now, ShardId(owner as u16), id, Ask::DeleteRecords(items), effects);
    }
}

pub(super) fn finish(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    mut work: Work,
    items: Vec<(u32, Result<Offset, PartitionError>)>,
    effects: &mut Effects,
) -> Option<AnyWork> {
    for (index, result) in items {
        let (topic, partition) = work.places[index as usize];
        let answer = &mut work.topics[topic].partitions[partition];
        match result {
            Ok(start) => answer.low_watermark = start.0,
            Err(error) => answer.error_code = error.code(),
        }
    }
    work.awaiting -= 1;
    if work.awaiting > 0 {
        return Some(AnyWork::DeleteRecords(work));
    }
    shard.answer(now, request, &DeleteRecordsResponse::default().with_topics(work.topics), effects);
    None
}
