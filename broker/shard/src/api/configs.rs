//! DescribeConfigs (32) and ListConfigResources (74). Sources: KIP-133, KIP-226 (synonyms), KIP-569 (types, documentation), KIP-1142.
//!
//! Topics have settings of their own over the broker's; the broker's are shown, and belong to its configuration file.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::{
    ResponseError,
    messages::{
        DescribeConfigsRequest, DescribeConfigsResponse, ListConfigResourcesRequest, ListConfigResourcesResponse,
        describe_configs_response::*, list_config_resources_response::ConfigResource,
    },
};
use tidegate_model::{
    group::GroupConfig,
    topic_config::{BrokerDefaults, ConfigType, TOPIC_KEYS, TopicKey},
};
use tidegate_records::time::Now;

use super::{code, text};
use crate::{
    error::metadata_code,
    request::Request,
    shard::{Effects, Shard},
};

pub(super) const RESOURCE_TOPIC: i8 = 2;
pub(super) const RESOURCE_BROKER: i8 = 4;
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
) -> (i8, String) {
    if let Some(value) = overrides.get(key.name) {
        (SOURCE_TOPIC, key.shown(value))
    } else if let Some(value) = defaults.get(key.name) {
        (SOURCE_STATIC_BROKER, key.shown(value))
    } else {
        (SOURCE_DEFAULT, key.default.to_owned())
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

pub(super) fn describe(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    body: &DescribeConfigsRequest,
    effects: &mut Effects,
) {
    // Each once, as in Apache Kafka: a name of a few bytes stands for an answer of thousands.
    let mut seen = BTreeSet::new();
    let results = body
        .resources
        .iter()
        .filter(|resource| seen.insert((resource.resource_type, resource.resource_name.clone())))
        .map(|resource| {
            let wanted = |name: &str| {
                // No list and an empty one mean all.
                let keys = resource.configuration_keys.as_deref().unwrap_or_default();
                keys.is_empty() || keys.iter().any(|key| key.as_str() == name)
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
                    let mut described = described(key.name, &value, source, key.kind, request);
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
            if name.is_empty() {
                // What was set for all brokers at run time: nothing can be.
                return Ok(Vec::new());
            }
            if name.parse() != Ok(me) {
                let message = format!("Unexpected broker id, expected {me} or empty string, but received {name}");
                return Err((code(ResponseError::InvalidRequest), message));
            }
            let settings = shard.settings.shown.iter().filter(|setting| wanted(&setting.name));
            Ok(settings
                .map(|setting| {
                    let is_default = setting.default.as_ref() == Some(&setting.value);
                    let source = if is_default { SOURCE_DEFAULT } else { SOURCE_STATIC_BROKER };
                    let mut shown = described(&setting.name, &setting.value, source, setting.kind, request);
                    shown.read_only = true;
                    if body.include_synonyms {
                        let set = (!is_default).then_some((&setting.value, SOURCE_STATIC_BROKER));
                        let default = setting.default.as_ref().map(|value| (value, SOURCE_DEFAULT));
                        let all = set.into_iter().chain(default);
                        shown.synonyms = all.map(|(value, source)| synonym(&setting.name, value, source)).collect();
                    }
                    if body.include_documentation && request.version >= 3 {
                        shown.documentation = Some(text(&setting.documentation));
                    }
                    shown
                })
                .collect())
        }
        RESOURCE_GROUP if name.is_empty() => {
            Err((code(ResponseError::InvalidRequest), "Group name must not be empty".to_owned()))
        }
        RESOURCE_GROUP => Ok(group_settings(&shard.settings.groups)
            .into_iter()
            .filter(|(name, ..)| wanted(name))
            .map(|(name, value, documentation)| {
                let mut shown = described(name, &value, SOURCE_STATIC_BROKER, ConfigType::Int, request);
                shown.read_only = true;
                if body.include_documentation && request.version >= 3 {
                    shown.documentation = Some(text(documentation));
                }
                shown
            })
            .collect()),
        RESOURCE_CLIENT_METRICS if name.is_empty() => {
            Err((code(ResponseError::InvalidRequest), "Client metrics subscription name must not be empty".to_owned()))
        }
        RESOURCE_CLIENT_METRICS => Ok(Vec::new()),
        _ => Err((code(ResponseError::InvalidRequest), format!("resource type {kind} has no configuration here"))),
    }
}

/// What every group has; a group has no settings of its own (KIP-1101 lets it have some).
fn group_settings(groups: &GroupConfig) -> [(&'static str, String, &'static str); 2] {
    [
        (
            "consumer.heartbeat.interval.ms",
            groups.consumer_heartbeat_interval.as_millis().to_string(),
            "Milliseconds between the heartbeats of a member; the broker's group.consumer.heartbeat.interval.ms.",
        ),
        (
            "consumer.session.timeout.ms",
            groups.consumer_session_timeout.as_millis().to_string(),
            "Milliseconds without a heartbeat after which a member is removed; the broker's group.consumer.session.timeout.ms.",
        ),
    ]
}

fn described(
    name: &str,
    value: &str,
    source: i8,
    kind: ConfigType,
    request: &Request,
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

fn synonym(name: &str, value: &str, source: i8) -> DescribeConfigsSynonym {
    DescribeConfigsSynonym::default().with_name(text(name)).with_value(Some(text(value))).with_source(source)
}

fn synonyms(
    key: &TopicKey,
    overrides: &BTreeMap<String, String>,
    defaults: &BrokerDefaults,
) -> Vec<DescribeConfigsSynonym> {
    let broker_name = key.synonym.unwrap_or(key.name);
    let mut synonyms = Vec::new();
    if let Some(value) = overrides.get(key.name) {
        synonyms.push(synonym(key.name, &key.shown(value), SOURCE_TOPIC));
    }
    if let Some(value) = defaults.get(key.name) {
        synonyms.push(synonym(broker_name, &key.shown(value), SOURCE_STATIC_BROKER));
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
