//! AlterConfigs (33) and IncrementalAlterConfigs (44) of topics. Sources: KIP-133, KIP-339.
//!
//! An incremental change is computed here, from what was set on the topic, and names what that was: if somebody else changed it
//! meanwhile, it is computed again from what is set then. So no change is lost, whoever else changes the topic.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::{
    ResponseError,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
        alter_configs_response, incremental_alter_configs_response,
    },
    protocol::StrBytes,
};
use tidegate_model::{
    metadata::{MetadataChange, MetadataError, ProposalResult},
    topic_config::{BrokerDefaults, ConfigType, topic_key},
};
use tidegate_records::time::Now;

use super::{
    Work as AnyWork, code,
    configs::{RESOURCE_BROKER, RESOURCE_TOPIC, source_and_value},
    text,
};
use crate::{
    error::metadata_code,
    request::Request,
    shard::{Effects, Shard},
};

/// The answers so far, by resource of the request, and how many changes are not committed yet.
pub(crate) struct Work {
    answers: Vec<Answer>,
    awaiting: usize,
    incremental: bool,
}

struct Answer {
    kind: i8,
    name: StrBytes,
    /// Of an incremental request, to compute the change again.
    operations: Vec<Operation>,
    refused: Option<Refusal>,
}

type Refusal = (i16, String);
type Configs = BTreeMap<String, String>;

fn refusal(error: &MetadataError) -> Refusal {
    (metadata_code(error), error.to_string())
}

fn invalid_request(message: String) -> Refusal {
    (code(ResponseError::InvalidRequest), message)
}

fn null_value(name: &str) -> Refusal {
    invalid_request(format!("Null value not supported for : {name}"))
}

/// AlterConfigs: what is not named goes back to its default.
pub(super) fn replace(shard: &mut Shard, now: Now, request: Request, body: AlterConfigsRequest, effects: &mut Effects) {
    let repeated = repeated(body.resources.iter().map(|resource| (resource.resource_type, &resource.resource_name)));
    let mut changes = Vec::new();
    let mut answers = Vec::new();
    for resource in body.resources {
        let (kind, name) = (resource.resource_type, resource.resource_name);
        let configs = resource.configs.iter().map(|config| {
            let value = config.value.as_ref().ok_or_else(|| null_value(&config.name))?;
            Ok((config.name.to_string(), value.to_string()))
        });
        let change = may_be_altered(kind, &name, &repeated)
            .and_then(|()| no_repeated_keys(resource.configs.iter().map(|config| &config.name)))
            .and_then(|()| configs.collect::<Result<Configs, Refusal>>())
            .and_then(|configs| {
                let change = MetadataChange::AlterTopicConfig { name: name.to_string(), configs, based_on: None };
                shard.image.validate(&change).map_err(|error| refusal(&error))?;
                Ok(change)
            });
        answers.push(Answer { kind, name, operations: Vec::new(), refused: None });
        note(change, &mut answers, &mut changes);
    }
    let work = Work { answers, awaiting: 0, incremental: false };
    propose_all(shard, now, request, work, changes, body.validate_only, effects);
}

/// IncrementalAlterConfigs: only what is named changes.
pub(super) fn alter(
    shard: &mut Shard,
    now: Now,
    request: Request,
    body: IncrementalAlterConfigsRequest,
    effects: &mut Effects,
) {
    let repeated = repeated(body.resources.iter().map(|resource| (resource.resource_type, &resource.resource_name)));
    let mut changes = Vec::new();
    let mut answers = Vec::new();
    for resource in body.resources {
        let (kind, name) = (resource.resource_type, resource.resource_name);
        let change = may_be_altered(kind, &name, &repeated)
            .and_then(|()| no_repeated_keys(resource.configs.iter().map(|config| &config.name)));
        let operations: Vec<Operation> = resource
            .configs
            .into_iter()
            .map(|config| Operation { name: config.name, kind: config.config_operation, value: config.value })
            .collect();
        let change = change.and_then(|()| {
            let topic = shard.image.topic(&name);
            let current = topic.map(|topic| topic.config.overrides().clone()).unwrap_or_default();
            let change = incremental_change(&name, &operations, current, shard.image.defaults())?;
            shard.image.validate(&change).map_err(|error| refusal(&error))?;
            Ok(change)
        });
        answers.push(Answer { kind, name, operations, refused: None });
        note(change, &mut answers, &mut changes);
    }
    let work = Work { answers, awaiting: 0, incremental: true };
    propose_all(shard, now, request, work, changes, body.validate_only, effects);
}

fn repeated<'a>(resources: impl Iterator<Item = (i8, &'a StrBytes)>) -> BTreeSet<(i8, StrBytes)> {
    let mut seen = BTreeSet::new();
    resources.map(|(kind, name)| (kind, name.clone())).filter(|resource| !seen.insert(resource.clone())).collect()
}

fn may_be_altered(kind: i8, name: &StrBytes, repeated: &BTreeSet<(i8, StrBytes)>) -> Result<(), Refusal> {
    match kind {
        _ if repeated.contains(&(kind, name.clone())) => {
            Err(invalid_request("Each resource must appear at most once.".to_owned()))
        }
        RESOURCE_TOPIC => Ok(()),
        RESOURCE_BROKER => Err(invalid_request(
            "Broker settings cannot be changed while it runs: set them in its configuration file and restart it."
                .to_owned(),
        )),
        _ => Err(invalid_request(format!("resource type {kind} cannot be altered"))),
    }
}

fn no_repeated_keys<'a>(keys: impl Iterator<Item = &'a StrBytes>) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    let mut keys = keys.filter(|key| !seen.insert(key.as_str()));
    match keys.next() {
        None => Ok(()),
        Some(key) => Err(invalid_request(format!("Error due to duplicate config keys: {}", key.as_str()))),
    }
}

fn note(change: Result<MetadataChange, Refusal>, answers: &mut [Answer], changes: &mut Vec<(u32, MetadataChange)>) {
    let tag = answers.len() - 1;
    match change {
        Ok(change) => changes.push((tag as u32, change)),
        Err(refused) => answers[tag].refused = Some(refused),
    }
}

/// One change of one key.
struct Operation {
    name: StrBytes,
    /// 0 set, 1 delete, 2 append, 3 subtract.
    kind: i8,
    value: Option<StrBytes>,
}

fn incremental_change(
    name: &str,
    operations: &[Operation],
    current: Configs,
    defaults: &BrokerDefaults,
) -> Result<MetadataChange, Refusal> {
    let mut configs = current.clone();
    for operation in operations {
        operation.apply(&mut configs, defaults)?;
    }
    Ok(MetadataChange::AlterTopicConfig { name: name.to_owned(), configs, based_on: Some(current) })
}

impl Operation {
    fn apply(&self, configs: &mut Configs, defaults: &BrokerDefaults) -> Result<(), Refusal> {
        let name = self.name.as_str();
        let value = || self.value.as_ref().map(StrBytes::as_str).ok_or_else(|| null_value(name));
        match self.kind {
            0 => {
                configs.insert(name.to_owned(), value()?.to_owned());
            }
            1 => {
                configs.remove(name);
            }
            kind @ (2 | 3) => {
                let Some(key) = topic_key(name).filter(|key| key.kind == ConfigType::List) else {
                    let verb = if kind == 2 { "APPEND" } else { "SUBTRACT" };
                    let message = format!("Can't {verb} to key {name} because its type is not LIST.");
                    return Err((code(ResponseError::InvalidConfig), message));
                };
                let current = source_and_value(key, configs, defaults).1;
                let mut list: Vec<&str> = current.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
                for part in java_split(value()?) {
                    if kind == 3 {
                        list.retain(|present| *present != part);
                    } else if !list.contains(&part) {
                        // An empty one, too: whether the list may have it is said where it is checked.
                        list.push(part);
                    }
                }
                configs.insert(name.to_owned(), list.join(","));
            }
            other => return Err(invalid_request(format!("Unknown operation type {other}"))),
        }
        Ok(())
    }
}

/// Java's `split(",")`: empty parts at the end are left out, but an empty text is one empty part.
fn java_split(text: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = text.split(',').collect();
    while !text.is_empty() && parts.last() == Some(&"") {
        parts.pop();
    }
    parts.into_iter().map(str::trim).collect()
}

fn propose_all(
    shard: &mut Shard,
    now: Now,
    request: Request,
    mut work: Work,
    changes: Vec<(u32, MetadataChange)>,
    validate_only: bool,
    effects: &mut Effects,
) {
    work.awaiting = if validate_only { 0 } else { changes.len() };
    if work.awaiting == 0 {
        return respond(shard, now, &request, work, effects);
    }
    let id = request.id;
    shard.park(request, AnyWork::AlterConfigs(work));
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
    let answer = &mut work.answers[tag as usize];
    match result {
        Ok(_) => {}
        Err(MetadataError::ConfigChanged { current, .. }) if work.incremental => {
            let again = incremental_change(&answer.name, &answer.operations, current, shard.image.defaults());
            match again {
                Ok(change) => {
                    shard.propose(request.id, tag, change, effects);
                    return Some(AnyWork::AlterConfigs(work));
                }
                Err(refused) => answer.refused = Some(refused),
            }
        }
        Err(error) => answer.refused = Some(refusal(&error)),
    }
    work.awaiting -= 1;
    if work.awaiting > 0 {
        return Some(AnyWork::AlterConfigs(work));
    }
    respond(shard, now, request, work, effects);
    None
}

fn respond(shard: &mut Shard, now: Now, request: &Request, work: Work, effects: &mut Effects) {
    let outcome = |refused: Option<Refusal>| refused.map_or((0, None), |(code, message)| (code, Some(text(&message))));
    if work.incremental {
        let responses = work.answers.into_iter().map(|answer| {
            let (error_code, message) = outcome(answer.refused);
            incremental_alter_configs_response::AlterConfigsResourceResponse::default()
                .with_resource_type(answer.kind)
                .with_resource_name(answer.name)
                .with_error_code(error_code)
                .with_error_message(message)
        });
        let response = IncrementalAlterConfigsResponse::default().with_responses(responses.collect());
        return shard.answer(now, request, &response, effects);
    }
    let responses = work.answers.into_iter().map(|answer| {
        let (error_code, message) = outcome(answer.refused);
        alter_configs_response::AlterConfigsResourceResponse::default()
            .with_resource_type(answer.kind)
            .with_resource_name(answer.name)
            .with_error_code(error_code)
            .with_error_message(message)
    });
    shard.answer(now, request, &AlterConfigsResponse::default().with_responses(responses.collect()), effects);
}
