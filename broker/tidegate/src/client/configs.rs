//! The configuration of topics: reading it, and changing single entries (KIP-339).

use kafka_protocol::messages::{
    DescribeConfigsRequest, IncrementalAlterConfigsRequest,
    describe_configs_request::DescribeConfigsResource,
    incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
};
use serde::Serialize;

use super::{
    Cluster,
    error::{ClientError, check},
    topics::Change,
};

/// `ConfigResource.Type` of Kafka.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Config {
    pub(crate) name: String,
    /// `None` where it has none, or is secret.
    pub(crate) value: Option<String>,
    pub(crate) source: Source,
    pub(crate) read_only: bool,
    pub(crate) sensitive: bool,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Source {
    Topic,
    DynamicBroker,
    DynamicDefaultBroker,
    StaticBroker,
    Default,
    Other,
}

impl Source {
    /// `ConfigSource` of Kafka.
    fn from_code(code: i8) -> Self {
        match code {
            1 => Self::Topic,
            2 => Self::DynamicBroker,
            3 => Self::DynamicDefaultBroker,
            4 => Self::StaticBroker,
            5 => Self::Default,
            _ => Self::Other,
        }
    }
}

/// One change of one entry.
#[derive(Clone, Debug)]
pub(crate) enum ConfigChange {
    Set {
        name: String,
        value: String,
    },
    /// Back to what holds without it.
    Unset {
        name: String,
    },
}

impl Cluster {
    /// The configuration of a topic, by name.
    pub(crate) fn topic_configs(&mut self, topic: &str) -> Result<Vec<Config>, ClientError> {
        self.configs(TOPIC, topic, format!("the configuration of topic {topic:?}"))
    }

    /// The configuration of the broker that answers first, by name.
    pub(crate) fn broker_configs(&mut self) -> Result<Vec<Config>, ClientError> {
        let id = self.brokers().next().map_or(0, |broker| broker.id).to_string();
        self.configs(BROKER, &id, format!("the configuration of broker {id}"))
    }

    fn configs(&mut self, kind: i8, name: &str, what: String) -> Result<Vec<Config>, ClientError> {
        let asked = DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(name.to_owned().into())
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![asked]);
        let answer = self.any().call(&request)?;
        let result = answer.results.into_iter().next().ok_or_else(|| ClientError::Missing { what: what.clone() })?;
        check(what, result.error_code, result.error_message.as_ref())?;
        let mut configs: Vec<Config> = result
            .configs
            .into_iter()
            .map(|config| Config {
                name: config.name.to_string(),
                value: config.value.map(|value| value.to_string()),
                source: Source::from_code(config.config_source),
                read_only: config.read_only,
                sensitive: config.is_sensitive,
            })
            .collect();
        configs.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(configs)
    }

    pub(crate) fn alter_topic_configs(
        &mut self,
        topic: &str,
        changes: &[ConfigChange],
        change: Change,
    ) -> Result<(), ClientError> {
        // `AlterConfigOp.OpType` of Kafka.
        const SET: i8 = 0;
        const DELETE: i8 = 1;
        let configs = changes
            .iter()
            .map(|change| match change {
                ConfigChange::Set { name, value } => AlterableConfig::default()
                    .with_name(name.clone().into())
                    .with_config_operation(SET)
                    .with_value(Some(value.clone().into())),
                ConfigChange::Unset { name } => AlterableConfig::default()
                    .with_name(name.clone().into())
                    .with_config_operation(DELETE)
                    .with_value(None),
            })
            .collect();
        let altered = AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(topic.to_owned().into())
            .with_configs(configs);
        let request = IncrementalAlterConfigsRequest::default()
            .with_resources(vec![altered])
            .with_validate_only(change == Change::Check);
        let answer = self.controlling()?.call(&request)?;
        let what = format!("cannot configure topic {topic:?}");
        let result = answer.responses.into_iter().next().ok_or_else(|| ClientError::Missing { what: what.clone() })?;
        check(what, result.error_code, result.error_message.as_ref())
    }
}
