//! Metadata (key 3): brokers, topics, who leads what. Sources: KIP-4 (auto-creation), KIP-516 (topic ids), KIP-430 (operations).
//!
//! A topic that is missing is created where the broker's settings and the request allow it, and the answer waits for that: a client
//! that sees the topic at once need not ask again.

use std::{collections::BTreeSet, sync::Arc};

use kafka_protocol::{
    ResponseError,
    messages::{
        BrokerId, MetadataRequest, MetadataResponse, TopicName,
        metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic},
    },
    protocol::StrBytes,
};
use tidegate_model::metadata::{Broker, MetadataChange, MetadataError, ProposalResult, Topic, validate_name};
use tidegate_records::{
    ids::{TopicId, TopicPartition},
    time::Now,
};
use uuid::Uuid;

use super::{Work as AnyWork, code, text};
use crate::{
    error::metadata_code,
    request::Request,
    shard::{Effects, Shard},
};

/// The leader of a partition that has none.
pub(super) const NO_LEADER: BrokerId = BrokerId(-1);

/// What a broker without authorisation answers where it was not asked for operations (KIP-430).
pub(super) const OPERATIONS_NOT_ASKED: i32 = i32::MIN;

pub(crate) struct Work {
    asked: Vec<Asked>,
    awaiting: usize,
    with_operations: (bool, bool),
}

enum Asked {
    Name { name: String, refused: Option<i16> },
    Id(TopicId),
}

pub(super) fn begin(shard: &mut Shard, now: Now, request: Request, body: MetadataRequest, effects: &mut Effects) {
    let with_operations = (body.include_cluster_authorized_operations, body.include_topic_authorized_operations);
    // All topics: null, or in v0 an empty list.
    let all = body.topics.as_ref().is_none_or(|topics| request.version == 0 && topics.is_empty());
    if all {
        let asked = shard.image.topics().map(|topic| Asked::Id(topic.id)).collect();
        return respond(shard, now, &request, &Work { asked, awaiting: 0, with_operations }, effects);
    }
    let may_create = shard.settings.auto_create_topics && (request.version < 4 || body.allow_auto_topic_creation);
    let mut work = Work { asked: Vec::new(), awaiting: 0, with_operations };
    let mut changes = Vec::new();
    // Each once, as in Apache Kafka: a name of a few bytes may stand for an answer of many.
    let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for topic in body.topics.unwrap_or_default() {
        match topic.name {
            Some(name) if !name.0.is_empty() || topic.topic_id.is_nil() => {
                if !names.insert(name.0.clone()) {
                    continue;
                }
                let name = name.0.to_string();
                if may_create && shard.image.topic(&name).is_none() {
                    changes.push((work.asked.len() as u32, shard.creation_of(&name)));
                }
                work.asked.push(Asked::Name { name, refused: None });
            }
            _ if ids.insert(topic.topic_id) => work.asked.push(Asked::Id(TopicId(*topic.topic_id.as_bytes()))),
            _ => {}
        }
    }
    if changes.is_empty() {
        return respond(shard, now, &request, &work, effects);
    }
    work.awaiting = changes.len();
    let id = request.id;
    shard.park(request, AnyWork::Metadata(work));
    for (tag, change) in changes {
        shard.propose(id, tag, change, effects);
    }
}

impl Shard {
    /// The change that creates a topic nobody described.
    pub(crate) fn creation_of(&self, name: &str) -> MetadataChange {
        if name == tidegate_model::metadata::OFFSETS_TOPIC {
            return MetadataChange::create_offsets_topic(self.settings.offsets_topic_partitions);
        }
        MetadataChange::CreateTopic {
            name: name.to_owned(),
            id: String::new(),
            partitions: self.settings.default_partitions,
            configs: Default::default(),
        }
    }
}

pub(super) fn finish(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    mut work: Work,
    (tag, result): (u32, ProposalResult),
    effects: &mut Effects,
) -> Option<AnyWork> {
    match result {
        // Somebody else may have created it meanwhile: then it is there.
        Ok(_) | Err(MetadataError::TopicExists { .. }) => {}
        Err(error) => {
            if let Some(Asked::Name { refused, .. }) = work.asked.get_mut(tag as usize) {
                *refused = Some(metadata_code(&error));
            }
        }
    }
    work.awaiting -= 1;
    if work.awaiting > 0 {
        return Some(AnyWork::Metadata(work));
    }
    respond(shard, now, request, &work, effects);
    None
}

fn respond(shard: &mut Shard, now: Now, request: &Request, work: &Work, effects: &mut Effects) {
    let image = Arc::clone(&shard.image);
    let topics = work
        .asked
        .iter()
        .map(|asked| {
            let (found, name, id, unknown) = match asked {
                Asked::Name { name, refused } => {
                    let unknown = refused.unwrap_or_else(|| unknown_name(name));
                    (image.topic(name), Some(name.as_str()), TopicId::ZERO, unknown)
                }
                Asked::Id(id) => (image.topic_by_id(*id), None, *id, code(ResponseError::UnknownTopicId)),
            };
            let mut answer = match found {
                Some(topic) => describe(topic, shard.identity.broker.0, &shard.offline),
                None => MetadataResponseTopic::default()
                    .with_error_code(unknown)
                    // Only v12 and up may leave the name out.
                    .with_name(
                        (name.is_some() || request.version < 12).then(|| TopicName(text(name.unwrap_or_default()))),
                    )
                    .with_topic_id(Uuid::from_bytes(id.0)),
            };
            if request.version < 5 {
                answer.partitions.iter_mut().for_each(|partition| partition.offline_replicas.clear());
            }
            if request.version < 10 {
                answer.topic_id = Uuid::nil();
            }
            answer.topic_authorized_operations =
                if work.with_operations.1 { all_topic_operations() } else { OPERATIONS_NOT_ASKED };
            if !(8..).contains(&request.version) {
                answer.topic_authorized_operations = OPERATIONS_NOT_ASKED;
            }
            answer
        })
        .collect();
    let mut response = MetadataResponse::default()
        .with_brokers(image.brokers.iter().map(broker).collect())
        .with_cluster_id(Some(text(&image.cluster_id)))
        .with_controller_id(BrokerId(image.controller))
        .with_topics(topics);
    if (8..=10).contains(&request.version) && work.with_operations.0 {
        response.cluster_authorized_operations = all_cluster_operations();
    }
    if request.version < 2 {
        response.cluster_id = None;
    }
    shard.answer(now, request, &response, effects);
}

/// The code for a topic that is not there: no retry helps where the name can never be one (17).
pub(super) fn unknown_name(name: &str) -> i16 {
    validate_name(name).map_or_else(|error| metadata_code(&error), |()| code(ResponseError::UnknownTopicOrPartition))
}

fn broker(broker: &Broker) -> MetadataResponseBroker {
    MetadataResponseBroker::default()
        .with_node_id(BrokerId(broker.id))
        .with_host(text(&broker.host))
        .with_port(i32::from(broker.port))
        .with_rack(broker.rack.as_deref().map(text))
}

/// A partition that damage keeps offline has no leader, as in Apache Kafka where the only replica is in a log directory that failed:
/// clients go on with the others, and consoles show it.
fn describe(topic: &Topic, broker: i32, offline: &BTreeSet<TopicPartition>) -> MetadataResponseTopic {
    let broker = BrokerId(broker);
    let partitions = topic
        .partition_indexes()
        .map(|index| {
            let partition = MetadataResponsePartition::default()
                .with_partition_index(index.0)
                .with_leader_epoch(0)
                .with_replica_nodes(vec![broker])
                .with_isr_nodes(vec![broker]);
            if offline.contains(&TopicPartition::new(topic.id, index)) {
                partition
                    .with_error_code(code(ResponseError::LeaderNotAvailable))
                    .with_leader_id(NO_LEADER)
                    .with_offline_replicas(vec![broker])
            } else {
                partition.with_leader_id(broker)
            }
        })
        .collect();
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_string(topic.name.clone()))))
        .with_topic_id(Uuid::from_bytes(topic.id.0))
        .with_is_internal(topic.is_internal())
        .with_partitions(partitions)
}

/// Every operation on a topic, as a bit set of `AclOperation` codes: without authorisation everybody may do everything.
pub(super) fn all_topic_operations() -> i32 {
    // Read 3, write 4, create 5, delete 6, alter 7, describe 8, describe-configs 10, alter-configs 11.
    [3, 4, 5, 6, 7, 8, 10, 11].iter().fold(0, |bits, operation| bits | 1 << operation)
}

/// Every operation on the cluster.
pub(super) fn all_cluster_operations() -> i32 {
    // Create 5, alter 7, describe 8, cluster-action 9, describe-configs 10, alter-configs 11, idempotent-write 12.
    [5, 7, 8, 9, 10, 11, 12].iter().fold(0, |bits, operation| bits | 1 << operation)
}
