//! CreateTopics (19), DeleteTopics (20) and CreatePartitions (37): changes of the metadata, one for each topic of the request.
//! Sources: KIP-4, KIP-195, KIP-516 (delete by id), KIP-525 (configs in the answer).

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::{
    ResponseError,
    messages::{
        CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
        DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
        create_partitions_response::CreatePartitionsTopicResult,
        create_topics_request::CreatableTopic,
        create_topics_response::{CreatableTopicConfigs, CreatableTopicResult},
        delete_topics_response::DeletableTopicResult,
    },
};
use tidegate_model::{
    metadata::{MetadataChange, MetadataError, ProposalResult, Topic},
    topic_config::TOPIC_KEYS,
};
use tidegate_records::{ids::TopicId, time::Now};
use uuid::Uuid;

use super::{Work as AnyWork, code, configs::source_and_value, text};
use crate::{
    error::metadata_code,
    request::Request,
    shard::{Effects, Shard},
};

/// The answers so far, by topic of the request, and how many changes are not committed yet.
pub(crate) struct Work {
    answers: Answers,
    awaiting: usize,
}

enum Answers {
    Created(Vec<CreatableTopicResult>),
    Deleted(Vec<DeletableTopicResult>),
    Extended(Vec<CreatePartitionsTopicResult>),
}

type Refusal = (i16, String);

fn refusal(error: &MetadataError) -> Refusal {
    (metadata_code(error), error.to_string())
}

// ---- CreateTopics ----

pub(super) fn create(shard: &mut Shard, now: Now, request: Request, body: CreateTopicsRequest, effects: &mut Effects) {
    let mut seen = BTreeSet::new();
    let repeated: BTreeSet<String> = body
        .topics
        .iter()
        .filter(|topic| !seen.insert(topic.name.0.clone()))
        .map(|topic| topic.name.0.to_string())
        .collect();
    let mut answers: Vec<CreatableTopicResult> = Vec::new();
    let mut changes = Vec::new();
    let mut refused_names = BTreeSet::new();
    for topic in &body.topics {
        let name = topic.name.0.to_string();
        if repeated.contains(&name) {
            if refused_names.insert(name) {
                let refused = (code(ResponseError::InvalidRequest), "Duplicate topic name.".to_owned());
                answers.push(created(topic.name.clone(), Err(refused)));
            }
            continue;
        }
        let change = creation(shard, topic).and_then(|change| {
            shard.image.validate(&change).map_err(|error| refusal(&error))?;
            Ok(change)
        });
        let tag = answers.len() as u32;
        match change {
            Err(refused) => answers.push(created(topic.name.clone(), Err(refused))),
            Ok(change) => {
                let mut answer = created(topic.name.clone(), Ok(()));
                if let MetadataChange::CreateTopic { partitions, configs, .. } = &change {
                    answer.num_partitions = *partitions;
                    answer.replication_factor = 1;
                    answer.configs = Some(described(shard, configs));
                }
                answers.push(answer);
                if !body.validate_only {
                    changes.push((tag, change));
                }
            }
        }
    }
    // Those without plugins first: routers of the others may name them.
    let has_router = |(_, change): &(u32, MetadataChange)| matches!(change, MetadataChange::CreateTopic { configs, .. } if configs.contains_key("tidegate.router"));
    changes.sort_by_key(has_router);
    wait_or_respond(shard, now, request, Answers::Created(answers), changes, effects);
}

fn creation(shard: &Shard, topic: &CreatableTopic) -> Result<MetadataChange, Refusal> {
    let broker = shard.identity.broker.0;
    let mut partitions = topic.num_partitions;
    if !topic.assignments.is_empty() {
        if topic.num_partitions != -1 || topic.replication_factor != -1 {
            let message = "A manual partition assignment was specified, but numPartitions or replicationFactor was not set to -1.";
            return Err((code(ResponseError::InvalidRequest), message.to_owned()));
        }
        let mut indexes: Vec<i32> = topic.assignments.iter().map(|assigned| assigned.partition_index).collect();
        indexes.sort_unstable();
        let here = topic.assignments.iter().all(|assigned| assigned.broker_ids.iter().map(|id| id.0).eq([broker]));
        if !here || !indexes.iter().copied().eq(0..indexes.len() as i32) {
            let message = format!(
                "The manual assignment must name partitions 0 and up, each on broker {broker} alone: it is the only one."
            );
            return Err((code(ResponseError::InvalidReplicaAssignment), message));
        }
        partitions = indexes.len() as i32;
    } else if !matches!(topic.replication_factor, -1 | 1) {
        let message = match topic.replication_factor {
            ..=0 => "Replication factor must be larger than 0, or -1 to use the default value.".to_owned(),
            factor => format!(
                "Unable to replicate the partition {factor} time(s): The target replication factor of {factor} cannot be reached because only 1 broker(s) are registered."
            ),
        };
        return Err((code(ResponseError::InvalidReplicationFactor), message));
    }
    if partitions == -1 {
        partitions = shard.settings.default_partitions;
    }
    let mut configs = BTreeMap::new();
    for config in &topic.configs {
        let Some(value) = &config.value else {
            let message = format!("Null value not supported for topic configs: {}", config.name.as_str());
            return Err((code(ResponseError::InvalidConfig), message));
        };
        configs.insert(config.name.to_string(), value.to_string());
    }
    Ok(MetadataChange::CreateTopic { name: topic.name.0.to_string(), id: String::new(), partitions, configs })
}

fn created(name: TopicName, result: Result<(), Refusal>) -> CreatableTopicResult {
    let mut answer = CreatableTopicResult::default()
        .with_name(name)
        .with_error_message(None)
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_configs(Some(Vec::new()));
    if let Err((error_code, message)) = result {
        answer.error_code = error_code;
        answer.error_message = Some(text(&message));
    }
    answer
}

fn described(shard: &Shard, configs: &BTreeMap<String, String>) -> Vec<CreatableTopicConfigs> {
    TOPIC_KEYS
        .iter()
        .map(|key| {
            let (source, value) = source_and_value(key, configs, shard.image.defaults());
            CreatableTopicConfigs::default()
                .with_name(text(key.name))
                .with_value(Some(text(&value)))
                .with_config_source(source)
        })
        .collect()
}

// ---- DeleteTopics ----

pub(super) fn delete(shard: &mut Shard, now: Now, request: Request, body: DeleteTopicsRequest, effects: &mut Effects) {
    let by_name = body.topic_names.into_iter().map(|name| (Some(name), Uuid::nil()));
    let by_either = body.topics.into_iter().map(|topic| (topic.name, topic.topic_id));
    let asked: Vec<_> = by_name.chain(by_either).collect();
    let invalid = |message: &str| Err((code(ResponseError::InvalidRequest), message.to_owned()));
    let mut answers: Vec<DeletableTopicResult> = Vec::new();
    let mut changes = Vec::new();
    // A name and an id may mean the same topic; what is not there is told apart as it was asked for.
    let subject = |(name, id): &(Option<TopicName>, Uuid)| {
        let found = find(shard, name.as_ref(), *id);
        (found.map(|topic| topic.id), found.map_or_else(|| (name.clone(), *id), |_| (None, Uuid::nil())))
    };
    let mut counts = BTreeMap::new();
    for one in &asked {
        *counts.entry(subject(one)).or_insert(0_usize) += 1;
    }
    let found = asked.iter().filter_map(|(name, id)| find(shard, name.as_ref(), *id));
    let deleted: BTreeSet<&str> = found.map(|topic| topic.name.as_str()).collect();
    for (name, id) in &asked {
        let mut answer = DeletableTopicResult::default().with_name(name.clone()).with_topic_id(*id);
        let found = find(shard, name.as_ref(), *id);
        let times = counts.insert(subject(&(name.clone(), *id)), 0).unwrap_or(0);
        if times == 0 {
            // Answered with the first of them.
            continue;
        }
        let result = match (name, found) {
            (Some(_), _) if !id.is_nil() => invalid("You may not specify both topic name and topic id."),
            (None, _) if id.is_nil() => invalid("Neither topic name nor id were specified."),
            _ if times > 1 => invalid("Duplicate topic name or id."),
            (Some(_), None) => {
                let message = "This server does not host this topic-partition.".to_owned();
                Err((code(ResponseError::UnknownTopicOrPartition), message))
            }
            (None, None) => {
                Err((code(ResponseError::UnknownTopicId), "This server does not host this topic ID.".to_owned()))
            }
            (_, Some(topic)) => {
                answer.name = Some(TopicName(text(&topic.name)));
                answer.topic_id = Uuid::from_bytes(topic.id.0);
                let change = MetadataChange::DeleteTopic { id: topic.id.to_hex() };
                match shard.image.validate(&change) {
                    // Who names it may go with it: whoever commits both, that one first, has the last word.
                    Err(MetadataError::TopicNamed { by, .. }) if deleted.contains(by.as_str()) => Ok(change),
                    Err(error) => Err(refusal(&error)),
                    Ok(()) => Ok(change),
                }
            }
        };
        match result {
            Ok(change) => {
                let names_others = found.is_some_and(|topic| topic.named().next().is_some());
                changes.push((names_others, answers.len() as u32, change));
            }
            Err((error_code, message)) => {
                answer.error_code = error_code;
                answer.error_message = Some(text(&message));
            }
        }
        answers.push(answer);
    }
    changes.sort_by_key(|(names_others, _, _)| !names_others);
    let changes = changes.into_iter().map(|(_, tag, change)| (tag, change)).collect();
    wait_or_respond(shard, now, request, Answers::Deleted(answers), changes, effects);
}

/// The topic of a name or, without one, of an id.
fn find<'a>(shard: &'a Shard, name: Option<&TopicName>, id: Uuid) -> Option<&'a Topic> {
    match name {
        Some(name) => shard.image.topic(&name.0),
        None => shard.image.topic_by_id(TopicId(*id.as_bytes())),
    }
    .map(AsRef::as_ref)
}

// ---- CreatePartitions ----

pub(super) fn extend(
    shard: &mut Shard,
    now: Now,
    request: Request,
    body: CreatePartitionsRequest,
    effects: &mut Effects,
) {
    let broker = shard.identity.broker.0;
    let mut answers: Vec<CreatePartitionsTopicResult> = Vec::new();
    let mut changes = Vec::new();
    let mut seen = BTreeSet::new();
    let repeated: BTreeSet<TopicName> =
        body.topics.iter().filter(|topic| !seen.insert(&topic.name)).map(|topic| topic.name.clone()).collect();
    let mut refused_names = BTreeSet::new();
    for topic in body.topics {
        if repeated.contains(&topic.name) && !refused_names.insert(topic.name.clone()) {
            continue;
        }
        let change = MetadataChange::CreatePartitions { name: topic.name.0.to_string(), partitions: topic.count };
        let elsewhere =
            topic.assignments.iter().flatten().any(|assigned| !assigned.broker_ids.iter().map(|id| id.0).eq([broker]));
        let current = shard.image.topic(&topic.name.0).map_or(0, |topic| topic.partitions);
        let assigned = topic.assignments.as_ref().map(Vec::len);
        let added = usize::try_from(topic.count.saturating_sub(current)).unwrap_or(0);
        let result = if repeated.contains(&topic.name) {
            Err((code(ResponseError::InvalidRequest), "Duplicate topic name.".to_owned()))
        } else if let Some(assigned) = assigned.filter(|assigned| current > 0 && added > 0 && *assigned != added) {
            let message = format!(
                "Attempted to add {added} additional partition(s), but only {assigned} assignment(s) were specified."
            );
            Err((code(ResponseError::InvalidReplicaAssignment), message))
        } else if elsewhere {
            let message = format!("New partitions can only be placed on broker {broker}: it is the only one.");
            Err((code(ResponseError::InvalidReplicaAssignment), message))
        } else {
            shard.image.validate(&change).map_err(|error| refusal(&error))
        };
        let mut answer = CreatePartitionsTopicResult::default().with_name(topic.name).with_error_message(None);
        match result {
            Ok(()) if body.validate_only => {}
            Ok(()) => changes.push((answers.len() as u32, change)),
            Err((error_code, message)) => {
                answer.error_code = error_code;
                answer.error_message = Some(text(&message));
            }
        }
        answers.push(answer);
    }
    wait_or_respond(shard, now, request, Answers::Extended(answers), changes, effects);
}

// ---- all three ----

fn wait_or_respond(
    shard: &mut Shard,
    now: Now,
    request: Request,
    answers: Answers,
    changes: Vec<(u32, MetadataChange)>,
    effects: &mut Effects,
) {
    let work = Work { answers, awaiting: changes.len() };
    if changes.is_empty() {
        return respond(shard, now, &request, work, effects);
    }
    let id = request.id;
    shard.park(request, AnyWork::Topics(work));
    for (tag, change) in changes {
        shard.propose(id, tag, change, effects);
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
    let tag = tag as usize;
    match (&mut work.answers, result) {
        (Answers::Created(answers), Ok(committed)) => {
            if let Some(topic) = committed.image.topic(&answers[tag].name.0) {
                answers[tag].topic_id = Uuid::from_bytes(topic.id.0);
            }
        }
        (_, Ok(_)) => {}
        (answers, Err(error)) => {
            let (error_code, message) = refusal(&error);
            let message = Some(text(&message));
            match answers {
                Answers::Created(answers) => {
                    answers[tag] = CreatableTopicResult::default()
                        .with_name(answers[tag].name.clone())
                        .with_error_code(error_code)
                        .with_error_message(message)
                        .with_num_partitions(-1)
                        .with_replication_factor(-1)
                        .with_configs(Some(Vec::new()));
                }
                Answers::Deleted(answers) => {
                    answers[tag].error_code = error_code;
                    answers[tag].error_message = message;
                }
                Answers::Extended(answers) => {
                    answers[tag].error_code = error_code;
                    answers[tag].error_message = message;
                }
            }
        }
    }
    work.awaiting -= 1;
    if work.awaiting > 0 {
        return Some(AnyWork::Topics(work));
    }
    respond(shard, now, request, work, effects);
    None
}

fn respond(shard: &mut Shard, now: Now, request: &Request, work: Work, effects: &mut Effects) {
    match work.answers {
        Answers::Created(mut answers) => {
            if request.version < 7 {
                answers.iter_mut().for_each(|answer| answer.topic_id = Uuid::nil());
            }
            if request.version < 5 {
                for answer in &mut answers {
                    (answer.num_partitions, answer.replication_factor) = (-1, -1);
                    answer.configs = Some(Vec::new());
                }
            }
            shard.answer(now, request, &CreateTopicsResponse::default().with_topics(answers), effects);
        }
        Answers::Deleted(mut answers) => {
            for answer in &mut answers {
                if request.version < 6 {
                    answer.topic_id = Uuid::nil();
                }
                if request.version < 5 {
                    answer.error_message = None;
                }
            }
            shard.answer(now, request, &DeleteTopicsResponse::default().with_responses(answers), effects);
        }
        Answers::Extended(answers) => {
            shard.answer(now, request, &CreatePartitionsResponse::default().with_results(answers), effects);
        }
    }
}
