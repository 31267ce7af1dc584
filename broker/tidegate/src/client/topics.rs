//! Topics: what there is, and creating, growing and deleting them.

use std::thread;

use kafka_protocol::{
    error::ResponseError,
    messages::{
        CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, MetadataRequest, TopicName,
        create_partitions_request::CreatePartitionsTopic,
        create_topics_request::{CreatableTopic, CreatableTopicConfig},
        delete_topics_request::DeleteTopicState,
        metadata_request::MetadataRequestTopic,
    },
    protocol::StrBytes,
};
use serde::Serialize;

use super::{
    CHANGE_TIMEOUT_MS, Cluster, PAUSE,
    error::{ClientError, check},
    patiently,
};

/// How often a topic is looked for that the broker may be creating.
const CREATION_TRIES_MAX: u32 = 20;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Topic {
    pub(crate) name: String,
    /// As Kafka prints it: 22 letters of URL-safe base 64.
    pub(crate) id: Option<String>,
    pub(crate) internal: bool,
    pub(crate) partitions: Vec<Partition>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Partition {
    pub(crate) partition: i32,
    /// -1 where it has none.
    pub(crate) leader: i32,
    pub(crate) leader_epoch: i32,
    pub(crate) replicas: Vec<i32>,
    pub(crate) in_sync_replicas: Vec<i32>,
    pub(crate) offline_replicas: Vec<i32>,
}

/// What a topic to be created is to be; `None` leaves it to the broker.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewTopic {
    pub(crate) name: String,
    pub(crate) partitions: Option<i32>,
    pub(crate) replication_factor: Option<i16>,
    pub(crate) configs: Vec<(String, String)>,
}

/// Whether a change is made, or only checked by the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Make,
    Check,
}

/// Whether asking for a topic that is not there may create it, as the broker's `auto.create.topics.enable` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    Error,
    MayBeCreated,
}

impl Cluster {
    /// All topics, by name.
    pub(crate) fn topics(&mut self) -> Result<Vec<Topic>, ClientError> {
        let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
        let mut topics = self.metadata(&request)?.into_iter().filter_map(Result::ok).collect::<Vec<_>>();
        topics.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(topics)
    }

    /// One topic, as soon as all its partitions have leaders.
    pub(crate) fn topic(&mut self, name: &str, absent: Absent) -> Result<Topic, ClientError> {
        let topic = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = MetadataRequest::default()
            .with_topics(Some(vec![topic]))
            .with_allow_auto_topic_creation(absent == Absent::MayBeCreated);
        let mut created = 0;
        loop {
            let result = patiently(|| {
                let found = self.metadata(&request)?.into_iter().next();
                found.unwrap_or_else(|| Err(ClientError::Missing { what: format!("topic {name:?}") }))
            });
            // A broker that creates it says so only by having it some moments later.
            let unknown = matches!(&result, Err(error) if error.code() == Some(ResponseError::UnknownTopicOrPartition));
            if !unknown || absent == Absent::Error || created == CREATION_TRIES_MAX {
                return result;
            }
            created += 1;
            thread::sleep(PAUSE);
        }
    }

    fn metadata(&mut self, request: &MetadataRequest) -> Result<Vec<Result<Topic, ClientError>>, ClientError> {
        let answer = self.any().call(request)?;
        check("cannot see the topics", answer.error_code, None)?;
        Ok(answer
            .topics
            .into_iter()
            .map(|topic| {
                let name = topic.name.map(|name| name.to_string()).unwrap_or_default();
                check(format!("topic {name:?}"), topic.error_code, None)?;
                let mut partitions = topic
                    .partitions
                    .into_iter()
                    .map(|partition| {
                        let what = || format!("topic {name:?}, partition {}", partition.partition_index);
                        // A replica that is missing is news to be shown; a leader that is still being chosen is worth asking again.
                        if partition.error_code == ResponseError::LeaderNotAvailable.code()
                            && partition.replica_nodes.is_empty()
                        {
                            check(what(), partition.error_code, None)?;
                        }
                        Ok(Partition {
                            partition: partition.partition_index,
                            leader: partition.leader_id.0,
                            leader_epoch: partition.leader_epoch,
                            replicas: partition.replica_nodes.iter().map(|id| id.0).collect(),
                            in_sync_replicas: partition.isr_nodes.iter().map(|id| id.0).collect(),
                            offline_replicas: partition.offline_replicas.iter().map(|id| id.0).collect(),
                        })
                    })
                    .collect::<Result<Vec<_>, ClientError>>()?;
                partitions.sort_by_key(|partition| partition.partition);
                let id = (!topic.topic_id.is_nil()).then(|| topic_id(topic.topic_id.as_bytes()));
                Ok(Topic { name, id, internal: topic.is_internal, partitions })
            })
            .collect())
    }

    /// Creates a topic; answers with the number of its partitions, where the broker says it.
    pub(crate) fn create_topic(&mut self, topic: &NewTopic, change: Change) -> Result<Option<i32>, ClientError> {
        let configs = topic
            .configs
            .iter()
            .map(|(name, value)| {
                CreatableTopicConfig::default().with_name(name.clone().into()).with_value(Some(value.clone().into()))
            })
            .collect();
        let creatable = CreatableTopic::default()
            .with_name(topic_name(&topic.name))
            .with_num_partitions(topic.partitions.unwrap_or(-1))
            .with_replication_factor(topic.replication_factor.unwrap_or(-1))
            .with_configs(configs);
        let request = CreateTopicsRequest::default()
            .with_topics(vec![creatable])
            .with_timeout_ms(CHANGE_TIMEOUT_MS)
            .with_validate_only(change == Change::Check);
        let answer = self.controlling()?.call(&request)?;
        let what = format!("cannot create topic {:?}", topic.name);
        let result = answer.topics.into_iter().next().ok_or_else(|| ClientError::Missing { what: what.clone() })?;
        check(what, result.error_code, result.error_message.as_ref())?;
        Ok((result.num_partitions > 0).then_some(result.num_partitions))
    }

    pub(crate) fn delete_topic(&mut self, name: &str) -> Result<(), ClientError> {
        let connection = self.controlling()?;
        let mut request = DeleteTopicsRequest::default().with_timeout_ms(CHANGE_TIMEOUT_MS);
        if connection.version::<DeleteTopicsRequest>()? >= 6 {
            request.topics = vec![DeleteTopicState::default().with_name(Some(topic_name(name)))];
        } else {
            request.topic_names = vec![topic_name(name)];
        }
        let answer = connection.call(&request)?;
        let what = format!("cannot delete topic {name:?}");
        let result = answer.responses.into_iter().next().ok_or_else(|| ClientError::Missing { what: what.clone() })?;
        check(what, result.error_code, result.error_message.as_ref())
    }

    /// Gives a topic `count` partitions in all.
    pub(crate) fn set_partition_count(&mut self, name: &str, count: i32, change: Change) -> Result<(), ClientError> {
        let topic =
            CreatePartitionsTopic::default().with_name(topic_name(name)).with_count(count).with_assignments(None);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(CHANGE_TIMEOUT_MS)
            .with_validate_only(change == Change::Check);
        let answer = self.controlling()?.call(&request)?;
        let what = format!("cannot give topic {name:?} {count} partitions");
        let result = answer.results.into_iter().next().ok_or_else(|| ClientError::Missing { what: what.clone() })?;
        check(what, result.error_code, result.error_message.as_ref())
    }
}

pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn topic_id(id: &[u8; 16]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(id)
}
