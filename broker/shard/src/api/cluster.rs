//! DescribeCluster (60), DescribeTopicPartitions (75), DescribeLogDirs (35), DescribeProducers (61): what consoles and tools ask.
//! Sources: KIP-700, KIP-966 (cursor), KIP-113 and KIP-827 (log directories), KIP-664 (producers).

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::{
    ResponseError,
    messages::{
        BrokerId, DescribeClusterRequest, DescribeClusterResponse, DescribeLogDirsRequest, DescribeLogDirsResponse,
        DescribeProducersRequest, DescribeProducersResponse, DescribeTopicPartitionsRequest,
        DescribeTopicPartitionsResponse, ProducerId, TopicName,
        describe_cluster_response::DescribeClusterBroker,
        describe_log_dirs_response::{DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic},
        describe_producers_response::{PartitionResponse, ProducerState, TopicResponse},
        describe_topic_partitions_response::{
            Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
        },
    },
};
use tidegate_records::{
    ids::{PartitionIndex, ShardId, TopicPartition},
    time::Now,
};
use uuid::Uuid;

use super::{
    Work as AnyWork, code,
    metadata::{NO_LEADER, OPERATIONS_NOT_ASKED, all_cluster_operations, all_topic_operations, unknown_name},
    text,
};
use crate::{
    error::PartitionError,
    message::{ActiveProducer, Ask},
    request::Request,
    shard::{Effects, Shard},
};

pub(super) fn describe(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    body: &DescribeClusterRequest,
    effects: &mut Effects,
) {
    let mut response = DescribeClusterResponse::default()
        .with_cluster_id(text(&shard.image.cluster_id))
        .with_controller_id(BrokerId(shard.image.controller))
        .with_cluster_authorized_operations(if body.include_cluster_authorized_operations {
            all_cluster_operations()
        } else {
            OPERATIONS_NOT_ASKED
        });
    response.brokers = shard
        .image
        .brokers
        .iter()
        .map(|broker| {
            DescribeClusterBroker::default()
                .with_broker_id(BrokerId(broker.id))
                .with_host(text(&broker.host))
                .with_port(i32::from(broker.port))
                .with_rack(broker.rack.as_deref().map(text))
        })
        .collect();
    if request.version >= 1 {
        response.endpoint_type = body.endpoint_type;
        if body.endpoint_type != 1 {
            let (error, message) = match body.endpoint_type {
                2 => (
                    ResponseError::MismatchedEndpointType,
                    "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER",
                ),
                _ => (ResponseError::UnsupportedEndpointType, "this endpoint type is not known, only 1 (broker) is"),
            };
            response = DescribeClusterResponse::default()
                .with_error_code(code(error))
                .with_error_message(Some(text(message)))
                .with_endpoint_type(1);
        }
    }
    shard.answer(now, request, &response, effects);
}

pub(super) fn topic_partitions(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    body: &DescribeTopicPartitionsRequest,
    effects: &mut Effects,
) {
    let leader = BrokerId(shard.identity.broker.0);
    let mut names: Vec<String> = if body.topics.is_empty() {
        shard.image.topics().map(|topic| topic.name.clone()).collect()
    } else {
        body.topics.iter().map(|topic| topic.name.0.to_string()).collect()
    };
    names.sort();
    names.dedup();
    let mut from = 0;
    if let Some(cursor) = &body.cursor {
        let cursor_name = cursor.topic_name.0.as_str();
        if cursor.partition_index < 0 || !body.topics.is_empty() && names.iter().all(|name| name != cursor_name) {
            return refuse_cursor(shard, now, request, &names, effects);
        }
        names.retain(|name| name.as_str() >= cursor.topic_name.0.as_str());
        from = cursor.partition_index.max(0);
        if names.first().is_none_or(|name| name.as_str() != cursor.topic_name.0.as_str()) {
            from = 0;
        }
    }
    let mut left = usize::try_from(body.response_partition_limit).unwrap_or(0).clamp(1, 2000);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names {
        if left == 0 {
            response.next_cursor = Some(Cursor::default().with_topic_name(TopicName(text(&name))));
            break;
        }
        let mut answer = DescribeTopicPartitionsResponseTopic::default()
            .with_name(Some(TopicName(text(&name))))
            .with_topic_authorized_operations(all_topic_operations());
        match shard.image.topic(&name) {
            None => answer.error_code = unknown_name(&name),
            Some(topic) => {
                answer.topic_id = Uuid::from_bytes(topic.id.0);
                answer.is_internal = topic.is_internal();
                let mut indexes = topic.partition_indexes().skip(from as usize);
                for index in indexes.by_ref().take(left) {
                    let mut partition = DescribeTopicPartitionsResponsePartition::default()
                        .with_partition_index(index.0)
                        .with_leader_id(leader)
                        .with_leader_epoch(0)
                        .with_replica_nodes(vec![leader])
                        .with_isr_nodes(vec![leader])
                        .with_eligible_leader_replicas(Some(Vec::new()))
                        .with_last_known_elr(Some(Vec::new()));
                    if shard.offline.contains(&TopicPartition::new(topic.id, index)) {
                        partition.error_code = code(ResponseError::LeaderNotAvailable);
                        partition.leader_id = NO_LEADER;
                        partition.offline_replicas = vec![leader];
                    }
                    answer.partitions.push(partition);
                }
                left -= answer.partitions.len();
                if let Some(next) = indexes.next() {
                    response.next_cursor =
                        Some(Cursor::default().with_topic_name(TopicName(text(&name))).with_partition_index(next.0));
                    response.topics.push(answer);
                    break;
                }
            }
        }
        from = 0;
        response.topics.push(answer);
    }
    shard.answer(now, request, &response, effects);
}

/// A cursor that no answer of ours can have given, as Kafka answers it: an error for each topic.
fn refuse_cursor(shard: &mut Shard, now: Now, request: &Request, names: &[String], effects: &mut Effects) {
    let topics = names.iter().map(|name| {
        DescribeTopicPartitionsResponseTopic::default()
            .with_error_code(code(ResponseError::InvalidRequest))
            .with_name(Some(TopicName(text(name))))
    });
    let response = DescribeTopicPartitionsResponse::default().with_topics(topics.collect());
    shard.answer(now, request, &response, effects);
}

// ---- log directories ----

pub(crate) struct LogDirsWork {
    topics: Vec<DescribeLogDirsTopic>,
    places: Vec<(usize, usize)>,
    awaiting: usize,
}

pub(super) fn log_dirs(
    shard: &mut Shard,
    now: Now,
    request: Request,
    body: DescribeLogDirsRequest,
    effects: &mut Effects,
) {
    let asked: BTreeMap<String, Option<BTreeSet<i32>>> = match body.topics {
        None => shard.image.topics().map(|topic| (topic.name.clone(), None)).collect(),
        Some(topics) => topics
            .into_iter()
            .map(|topic| (topic.topic.0.to_string(), Some(topic.partitions.into_iter().collect())))
            .collect(),
    };
    let mut work = LogDirsWork { topics: Vec::new(), places: Vec::new(), awaiting: 0 };
    let mut asks: Vec<Vec<(u32, TopicPartition)>> = (0..shard.identity.shards).map(|_| Vec::new()).collect();
    for (name, wanted) in asked {
        let Some(topic) = shard.image.topic(&name) else { continue };
        let mut answer = DescribeLogDirsTopic::default().with_name(TopicName(text(&name)));
        for index in topic.partition_indexes() {
            if wanted.as_ref().is_some_and(|wanted| !wanted.is_empty() && !wanted.contains(&index.0)) {
                continue;
            }
            let partition = TopicPartition::new(topic.id, index);
            // What it has is not known, and a size of 0 would say that it is empty.
            if shard.offline.contains(&partition) {
                continue;
            }
            asks[usize::from(shard.owner(partition).0)].push((work.places.len() as u32, partition));
            work.places.push((work.topics.len(), answer.partitions.len()));
            answer.partitions.push(DescribeLogDirsPartition::default().with_partition_index(index.0));
        }
        work.topics.push(answer);
    }
    work.awaiting = asks.iter().filter(|asks| !asks.is_empty()).count();
    if work.awaiting == 0 {
        return respond_log_dirs(shard, now, &request, work, effects);
    }
    let id = request.id;
    shard.park(request, AnyWork::LogDirs(work));
    for (owner, partitions) in asks.into_iter().enumerate().filter(|(_, asks)| !asks.is_empty()) {
        shard.ask(now, ShardId(owner as u16), id, Ask::LogSizes(partitions), effects);
    }
}

pub(super) fn finish_log_dirs(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    mut work: LogDirsWork,
    sizes: Vec<(u32, u64)>,
    effects: &mut Effects,
) -> Option<AnyWork> {
    for (index, bytes) in sizes {
        let (topic, partition) = work.places[index as usize];
        work.topics[topic].partitions[partition].partition_size = i64::try_from(bytes).unwrap_or(i64::MAX);
    }
    work.awaiting -= 1;
    if work.awaiting > 0 {
        return Some(AnyWork::LogDirs(work));
    }
    respond_log_dirs(shard, now, request, work, effects);
    None
}

fn respond_log_dirs(shard: &mut Shard, now: Now, request: &Request, work: LogDirsWork, effects: &mut Effects) {
    let mut directory = DescribeLogDirsResult::default()
        .with_log_dir(text(&shard.settings.data_directory))
        .with_topics(work.topics)
        .with_total_bytes(-1)
        .with_usable_bytes(-1);
    if request.version >= 4
        && let Some((total, usable)) = shard.disk_bytes
    {
        directory.total_bytes = total;
        directory.usable_bytes = usable;
    }
    shard.answer(now, request, &DescribeLogDirsResponse::default().with_results(vec![directory]), effects);
}

// ---- producers ----

pub(crate) struct ProducersWork {
    topics: Vec<TopicResponse>,
    places: Vec<(usize, usize)>,
    awaiting: usize,
}

pub(super) fn producers(
    shard: &mut Shard,
    now: Now,
    request: Request,
    body: DescribeProducersRequest,
    effects: &mut Effects,
) {
    let mut work = ProducersWork { topics: Vec::new(), places: Vec::new(), awaiting: 0 };
    let mut asks: Vec<Vec<(u32, TopicPartition)>> = (0..shard.identity.shards).map(|_| Vec::new()).collect();
    // Each once: the answer about a partition may be long.
    let mut seen = BTreeSet::new();
    for topic in body.topics {
        let image = shard.image.topic(&topic.name.0).cloned();
        let mut answer = TopicResponse::default().with_name(topic.name.clone());
        for index in topic.partition_indexes {
            if !seen.insert((topic.name.clone(), index)) {
                continue;
            }
            let mut partition = PartitionResponse::default().with_partition_index(index).with_error_message(None);
            match image.as_ref().filter(|image| image.has_partition(PartitionIndex(index))) {
                None => partition.error_code = code(ResponseError::UnknownTopicOrPartition),
                Some(image) => {
                    let id = TopicPartition::new(image.id, PartitionIndex(index));
                    asks[usize::from(shard.owner(id).0)].push((work.places.len() as u32, id));
                    work.places.push((work.topics.len(), answer.partitions.len()));
                }
            }
            answer.partitions.push(partition);
        }
        work.topics.push(answer);
    }
    work.awaiting = asks.iter().filter(|asks| !asks.is_empty()).count();
    if work.awaiting == 0 {
        let response = DescribeProducersResponse::default().with_topics(work.topics);
        return shard.answer(now, &request, &response, effects);
    }
    let id = request.id;
    shard.park(request, AnyWork::Producers(work));
    for (owner, partitions) in asks.into_iter().enumerate().filter(|(_, asks)| !asks.is_empty()) {
        shard.ask(now, ShardId(owner as u16), id, Ask::DescribeProducers(partitions), effects);
    }
}

pub(super) fn finish_producers(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    mut work: ProducersWork,
    found: Vec<(u32, Result<Vec<ActiveProducer>, PartitionError>)>,
    effects: &mut Effects,
) -> Option<AnyWork> {
    for (index, result) in found {
        let (topic, partition) = work.places[index as usize];
        let answer = &mut work.topics[topic].partitions[partition];
        match result {
            Err(error) => {
                answer.error_code = error.code();
                answer.error_message = Some(text(&error.to_string()));
            }
            Ok(producers) => {
                answer.active_producers = producers
                    .into_iter()
                    .map(|active| {
                        ProducerState::default()
                            .with_producer_id(ProducerId(active.producer.0))
                            .with_producer_epoch(i32::from(active.epoch.0))
                            .with_last_sequence(active.last_sequence.0)
                            .with_last_timestamp(active.last_timestamp.0)
                            .with_coordinator_epoch(-1)
                            .with_current_txn_start_offset(-1)
                    })
                    .collect();
            }
        }
    }
    work.awaiting -= 1;
    if work.awaiting > 0 {
        return Some(AnyWork::Producers(work));
    }
    shard.answer(now, request, &DescribeProducersResponse::default().with_topics(work.topics), effects);
    None
}
