//! DescribeConfigs (32), AlterConfigs (33), IncrementalAlterConfigs (44), ListConfigResources (74).
//! Sources: KIP-133, KIP-226 (synonyms), KIP-339 (incremental), KIP-569 (types, documentation).
//!
//! Topics can be changed; the broker's own settings are shown and belong to its configuration file.

use std::collections::BTreeMap;

use kafka_protocol::{
    ResponseError,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
        IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, ListConfigResourcesRequest,
        ListConfigResourcesResponse, alter_configs_response, describe_configs_response::*,
        incremental_alter_configs_response, list_config_resources_response::ConfigResource,
    },
    protocol::StrBytes,
};
use tidegate_model::{
    metadata::{MetadataChange, ProposalResult},
    topic_config::{BrokerDefaults, ConfigType, TOPIC_KEYS, TopicKey, topic_key},
};
use tidegate_records::time::Now;

use super::{Work as AnyWork, code, text};
use crate::{
    error::metadata_code,
    request::Request,
    shard::{Effects, Shard},
};

const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
const RESOURCE_CLIENT_METRICS: i8 = 16;
const RESOURCE_GROUP: i8 = 32;

/// `DescribeConfigsResponse.ConfigSource`.
const SOURCE_TOPIC: i8 = 1;
const SOURCE_STATIC_BROKER: i8 = 4;
const SOURCE_DEFAULT: i8 = 5;

/// Where the value of a key comes from, and the value.
pub(super) fn source_and_value<'a>(
    key: &'a TopicKey,
    overrides: &'a BTreeMap<String, String>,
    defaults: &'a BrokerDefaults,
) -> (i8, &'a str) {
    if let Some(value) = overrides.get(key.name) {
        (SOURCE_TOPIC, value)
    } else if let Some(value) = defaults.get(key.name) {
        (SOURCE_STATIC_BROKER, value)
    } else {
        (SOURCE_DEFAULT, key.default)
    }
}

fn type_code(kind: ConfigType) -> i8 {
    match kind {
        ConfigType::Boolean => 1,
        ConfigType::String => 2,
        ConfigType::Int => 3,
        ConfigType::Long => 5,
        ConfigType::Double => 6,
        ConfigType::List => 7,
    }
}

// ---- describe ----

pub(super) fn describe(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    body: &DescribeConfigsRequest,
    effects: &mut Effects,
) {
    let results = body
        .resources
        .iter()
        .map(|resource| {
            let wanted = |name: &str| {
                resource.configuration_keys.as_ref().is_none_or(|keys| keys.iter().any(|key| key.as_str() == name))
            };
            let mut result = DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone())
                .with_error_message(None);
            let name = resource.resource_name.as_str();
            match describe_resource(shard, request, body, resource.resource_type, name, &wanted) {
                Ok(configs) => result.configs = configs,
                Err((error_code, message)) => {
                    result.error_code = error_code;
                    result.error_message = Some(text(&message));
                }
            }
            result
        })
        .collect();
    shard.answer(now, request, &DescribeConfigsResponse::default().with_results(results), effects);
}

fn describe_resource(
    shard: &Shard,
    request: &Request,
    body: &DescribeConfigsRequest,
    kind: i8,
    name: &str,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Vec<DescribeConfigsResourceResult>, (i16, String)> {
    match kind {
        RESOURCE_TOPIC => {
            tidegate_model::metadata::validate_name(name)
                .map_err(|error| (metadata_code(&error), error.to_string()))?;
            let topic = shard.image.topic(name).ok_or_else(|| {
                let message = "This server does not host this topic-partition.".to_owned();
                (code(ResponseError::UnknownTopicOrPartition), message)
            })?;
            let keys = TOPIC_KEYS.iter().filter(|key| wanted(key.name));
            Ok(keys
                .map(|key| {
                    let overrides = topic.config.overrides();
                    let (source, value) = source_and_value(key, overrides, shard.image.defaults());
                    let mut described = described(key.name, value, source, key.kind, request, body);
                    if body.include_synonyms {
                        described.synonyms = synonyms(key, overrides, shard.image.defaults());
                    }
                    if body.include_documentation && request.version >= 3 {
                        described.documentation = Some(text(key.documentation));
                    }
                    described
                })
                .collect())
        }
        RESOURCE_BROKER => {
            let me = shard.identity.broker.0;
            if !name.is_empty() && name.parse() != Ok(me) {
                let message = format!("Unexpected broker id, expected {me} or empty string, but received {name}");
                return Err((code(ResponseError::InvalidRequest), message));
            }
            let settings = shard.settings.shown.iter().filter(|setting| wanted(&setting.name));
            Ok(settings
                .map(|setting| {
                    let source = if setting.is_default { SOURCE_DEFAULT } else { SOURCE_STATIC_BROKER };
                    let mut shown = described(&setting.name, &setting.value, source, setting.kind, request, body);
                    shown.read_only = true;
                    if body.include_documentation && request.version >= 3 {
                        shown.documentation = Some(text(&setting.documentation));
                    }
                    shown
                })
                .collect())
        }
        RESOURCE_GROUP | RESOURCE_CLIENT_METRICS => Ok(Vec::new()),
        _ => Err((code(ResponseError::InvalidRequest), format!("resource type {kind} has no configuration here"))),
    }
}

fn described(
    name: &str,
    value: &str,
    source: i8,
    kind: ConfigType,
    request: &Request,
    _body: &DescribeConfigsRequest,
) -> DescribeConfigsResourceResult {
    let mut described = DescribeConfigsResourceResult::default()
        .with_name(text(name))
        .with_value(Some(text(value)))
        .with_config_source(source)
        .with_documentation(None);
    if request.version >= 3 {
        described.config_type = type_code(kind);
    }
    described
}

fn synonyms(
    key: &TopicKey,
    overrides: &BTreeMap<String, String>,
    defaults: &BrokerDefaults,
) -> Vec<DescribeConfigsSynonym> {
    let synonym = |name: &str, value: &str, source| {
        DescribeConfigsSynonym::default().with_name(text(name)).with_value(Some(text(value))).with_source(source)
    };
    let broker_name = key.synonym.unwrap_or(key.name);
    let mut synonyms = Vec::new();
    if let Some(value) = overrides.get(key.name) {
        synonyms.push(synonym(key.name, value, SOURCE_TOPIC));
    }
    if let Some(value) = defaults.get(key.name) {
        synonyms.push(synonym(broker_name, value, SOURCE_STATIC_BROKER));
    }
    synonyms.push(synonym(broker_name, key.default, SOURCE_DEFAULT));
    synonyms
}

pub(super) fn list(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    body: &ListConfigResourcesRequest,
    effects: &mut Effects,
) {
    // v0 was ListClientMetricsResources: there are none.
    let wanted =
        |kind: i8| request.version > 0 && (body.resource_types.is_empty() || body.resource_types.contains(&kind));
    let mut resources = Vec::new();
    if wanted(RESOURCE_TOPIC) {
        resources.extend(shard.image.topics().map(|topic| (RESOURCE_TOPIC, topic.name.clone())));
    }
    if wanted(RESOURCE_BROKER) {
        resources.extend(shard.image.brokers.iter().map(|broker| (RESOURCE_BROKER, broker.id.to_string())));
    }
    let resources = resources
        .into_iter()
        .map(|(kind, name)| {
            let resource = ConfigResource::default().with_resource_name(text(&name));
            if request.version > 0 { resource.with_resource_type(kind) } else { resource }
        })
        .collect();
    shard.answer(now, request, &ListConfigResourcesResponse::default().with_config_resources(resources), effects);
}

// ---- alter ----

/// The answers so far, by resource, and how many changes are not committed yet.
pub(crate) struct Work {
    answers: Vec<Answer>,
    awaiting: usize,
    incremental: bool,
}

struct Answer {
    kind: i8,
    name: StrBytes,
    refused: Option<(i16, String)>,
}

pub(super) fn alter(shard: &mut Shard, now: Now, request: Request, body: AlterConfigsRequest, effects: &mut Effects) {
    let resources = body
        .resources
        .into_iter()
        .map(|resource| {
            let kind = resource.resource_type;
            let configs = (|| {
                topic_only(kind)?;
                let mut configs = BTreeMap::new();
                for config in resource.configs {
                    let Some(value) = config.value else {
                        return Err(null_value(&config.name));
                    };
                    configs.insert(config.name.to_string(), value.to_string());
                }
                Ok(configs)
            })();
            (kind, resource.resource_name, configs)
        })
        .collect();
    propose_all(shard, now, request, resources, body.validate_only, false, effects);
}

pub(super) fn alter_incrementally(
    shard: &mut Shard,
    now: Now,
    request: Request,
    body: IncrementalAlterConfigsRequest,
    effects: &mut Effects,
) {
    let resources = body
        .resources
        .into_iter()
        .map(|resource| {
            let kind = resource.resource_type;
            let configs = topic_only(kind).and_then(|()| {
                let topic = shard.image.topic(&resource.resource_name);
                let mut configs = topic.map(|topic| topic.config.overrides().clone()).unwrap_or_default();
                for config in &resource.configs {
                    let change = Incremental {
                        name: &config.name,
                        operation: config.config_operation,
                        value: config.value.as_deref(),
                    };
                    change.apply(&mut configs, shard.image.defaults())?;
                }
                Ok(configs)
            });
            (kind, resource.resource_name, configs)
        })
        .collect();
    propose_all(shard, now, request, resources, body.validate_only, true, effects);
}

fn topic_only(kind: i8) -> Result<(), (i16, String)> {
    match kind {
        RESOURCE_TOPIC => Ok(()),
        RESOURCE_BROKER => Err((
            code(ResponseError::InvalidRequest),
            "Broker settings cannot be changed while it runs: set them in tidegate.toml and restart.".to_owned(),
        )),
        _ => Err((code(ResponseError::InvalidRequest), format!("resource type {kind} cannot be altered"))),
    }
}

fn null_value(name: &str) -> (i16, String) {
    (code(ResponseError::InvalidConfig), format!("Null value not supported for : {name}"))
}

struct Incremental<'a> {
    name: &'a str,
    operation: i8,
    value: Option<&'a str>,
}

impl Incremental<'_> {
    fn apply(&self, configs: &mut BTreeMap<String, String>, defaults: &BrokerDefaults) -> Result<(), (i16, String)> {
        let invalid = |message: String| (code(ResponseError::InvalidConfig), message);
        let key = topic_key(self.name).ok_or_else(|| invalid(format!("Unknown topic config name: {}", self.name)))?;
        match self.operation {
            0 => {
                let value = self.value.ok_or_else(|| null_value(self.name))?;
                configs.insert(self.name.to_owned(), value.to_owned());
            }
            1 => {
                configs.remove(self.name);
            }
            operation @ (2 | 3) => {
                if key.kind != ConfigType::List {
                    let verb = if operation == 2 { "APPEND" } else { "SUBTRACT" };
                    return Err(invalid(format!("Can't {verb} to key {} because its type is not LIST.", self.name)));
                }
                let value = self.value.ok_or_else(|| null_value(self.name))?;
                let current = source_and_value(key, configs, defaults).1.to_owned();
                let split = |text: &str| -> Vec<String> {
                    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
                };
                let mut parts = split(&current);
                for part in split(value) {
                    if operation == 3 {
                        parts.retain(|present| *present != part);
                    } else if !parts.contains(&part) {
                        parts.push(part);
                    }
                }
                configs.insert(self.name.to_owned(), parts.join(","));
            }
            other => return Err((code(ResponseError::InvalidRequest), format!("Unknown operation type {other}"))),
        }
        Ok(())
    }
}

type Resource = (i8, StrBytes, Result<BTreeMap<String, String>, (i16, String)>);

fn propose_all(
    shard: &mut Shard,
    now: Now,
    request: Request,
    resources: Vec<Resource>,
    validate_only: bool,
    incremental: bool,
    effects: &mut Effects,
) {
    let mut answers = Vec::new();
    let mut changes = Vec::new();
    for (kind, name, configs) in resources {
        let change = configs.and_then(|configs| {
            let change = MetadataChange::AlterTopicConfig { name: name.to_string(), configs };
            shard.image.validate(&change).map_err(|error| (metadata_code(&error), error.to_string()))?;
            Ok(change)
        });
        let refused = match change {
            Ok(_) if validate_only => None,
            Ok(change) => {
                changes.push((answers.len() as u32, change));
                None
            }
            Err(refused) => Some(refused),
        };
        answers.push(Answer { kind, name, refused });
    }
    let work = Work { answers, awaiting: changes.len(), incremental };
    if changes.is_empty() {
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
    if let Err(error) = result {
        work.answers[tag as usize].refused = Some((metadata_code(&error), error.to_string()));
    }
    work.awaiting -= 1;
    if work.awaiting > 0 {
        return Some(AnyWork::AlterConfigs(work));
    }
    respond(shard, now, request, work, effects);
    None
}

fn respond(shard: &mut Shard, now: Now, request: &Request, work: Work, effects: &mut Effects) {
    if work.incremental {
        let responses = work.answers.into_iter().map(|answer| {
            let (error_code, message) = answer.refused.map_or((0, None), |(code, text)| (code, Some(text)));
            incremental_alter_configs_response::AlterConfigsResourceResponse::default()
                .with_resource_type(answer.kind)
                .with_resource_name(answer.name)
                .with_error_code(error_code)
                .with_error_message(message.as_deref().map(text))
        });
        let response = IncrementalAlterConfigsResponse::default().with_responses(responses.collect());
        return shard.answer(now, request, &response, effects);
    }
    let responses = work.answers.into_iter().map(|answer| {
        let (error_code, message) = answer.refused.map_or((0, None), |(code, text)| (code, Some(text)));
        alter_configs_response::AlterConfigsResourceResponse::default()
            .with_resource_type(answer.kind)
            .with_resource_name(answer.name)
            .with_error_code(error_code)
            .with_error_message(message.as_deref().map(text))
    });
    shard.answer(now, request, &AlterConfigsResponse::default().with_responses(responses.collect()), effects);
}
