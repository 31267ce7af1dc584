//! The cluster's metadata: topics, plugins, brokers, producer id blocks; and the changes that make it.
//!
//! A [`MetadataImage`] is a value: a change gives a new one, which shares what did not change. Whoever commits changes (the
//! control plane today, a quorum of brokers later) validates a change against the newest image, writes it to the metadata log,
//! applies it, and hands the new image to every shard. Names of topics follow Kafka's rules (`Topic.validate`, KIP-516 for ids).

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use tidegate_records::ids::{BrokerId, PartitionIndex, TopicId, TopicPartition};

use crate::{
    partition::producers::DERIVED_PRODUCER_IDS_START,
    topic_config::{BrokerDefaults, ConfigError, TopicConfig, Unroutable},
};

/// The internal topic that holds committed offsets and groups, in Kafka's own formats.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// Partitions that one topic may have at most: a guard against a typing mistake, not a promise.
pub const PARTITIONS_MAX: i32 = 100_000;
/// Kafka's limit, which leaves room for a partition number and a suffix in a file name.
const NAME_BYTES_MAX: usize = 249;

/// A broker as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broker {
    pub id: i32,
    pub host: String,
    pub port: u16,
    pub rack: Option<String>,
}

impl Broker {
    #[must_use]
    pub fn broker_id(&self) -> BrokerId {
        BrokerId(self.id)
    }
}

/// One topic.
#[derive(Clone, Debug)]
pub struct Topic {
    pub id: TopicId,
    pub name: String,
    pub partitions: i32,
    pub config: Arc<TopicConfig>,
}

impl Topic {
    #[must_use]
    pub fn has_partition(&self, partition: PartitionIndex) -> bool {
        (0..self.partitions).contains(&partition.0)
    }

    pub fn partition_indexes(&self) -> impl Iterator<Item = PartitionIndex> + use<> {
        (0..self.partitions).map(PartitionIndex)
    }

    /// Whether it belongs to the broker itself (KIP-163).
    #[must_use]
    pub fn is_internal(&self) -> bool {
        is_internal(&self.name)
    }

    /// The topics that its configuration names for records that it does not keep itself, each with the configuration that does. What a
    /// router names is not among them.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        named(&self.config)
    }
}

fn named(config: &TopicConfig) -> impl Iterator<Item = (&'static str, &str)> {
    let alternate = match &config.unroutable {
        Unroutable::Alternate(topic) => Some(topic.as_str()),
        Unroutable::Drop | Unroutable::Reject => None,
    };
    let letters = config.dead_letter_topic.as_deref().map(|topic| ("tidegate.dead.letter.topic", topic));
    letters.into_iter().chain(alternate.map(|topic| ("tidegate.router.unroutable.topic", topic)))
}

/// Whether a topic of this name belongs to the broker itself.
#[must_use]
pub fn is_internal(name: &str) -> bool {
    matches!(name, OFFSETS_TOPIC | "__transaction_state")
}

/// A deployed plugin; its bytes are stored by `hash`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugin {
    pub name: String,
    /// Counts the uploads under this name, and the times that it went back to the one before, from 1.
    pub version: u32,
    /// SHA-256 of the component, in hex.
    pub hash: String,
    /// Its world: `router` or `partitioner`.
    pub world: String,
    pub bytes: u64,
    /// Milliseconds since 1970.
    pub uploaded_at: i64,
    /// The hash of the component before this one, which is kept to go back to. None in metadata of older brokers.
    #[serde(default)]
    pub previous: Option<String>,
}

/// The whole metadata at one moment.
#[derive(Clone, Debug, Default)]
pub struct MetadataImage {
    /// Counts the changes that made it.
    pub version: u64,
    pub cluster_id: String,
    pub brokers: Vec<Broker>,
    /// The broker that commits changes.
    pub controller: i32,
    topics: BTreeMap<String, Arc<Topic>>,
    names: BTreeMap<TopicId, String>,
    plugins: BTreeMap<String, Arc<Plugin>>,
    next_producer_id: i64,
    defaults: BrokerDefaults,
}

/// What can be changed. Serialised into the metadata log: variants and fields are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum MetadataChange {
    /// `id` is 32 hex digits; empty in a proposal, for whoever commits it to draw.
    CreateTopic {
        name: String,
        id: String,
        partitions: i32,
        configs: BTreeMap<String, String>,
    },
    DeleteTopic {
        id: String,
    },
    /// `partitions` is the new total.
    CreatePartitions {
        name: String,
        partitions: i32,
    },
    /// `configs` replaces everything that was set on the topic. `based_on` is what was set when it was computed from that: if
    /// something else is set by now, it is refused.
    AlterTopicConfig {
        name: String,
        configs: BTreeMap<String, String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        based_on: Option<BTreeMap<String, String>>,
    },
    DeployPlugin(Plugin),
    RemovePlugin {
        name: String,
    },
    /// Hands out a block of producer ids.
    AllocateProducerIds {
        count: u32,
    },
}

impl MetadataChange {
    /// The change that makes [`OFFSETS_TOPIC`], configured as Kafka configures it.
    #[must_use]
    pub fn create_offsets_topic(partitions: i32) -> Self {
        let configs = [("cleanup.policy", "compact"), ("compression.type", "producer"), ("segment.bytes", "104857600")];
        Self::CreateTopic {
            name: OFFSETS_TOPIC.to_owned(),
            id: String::new(),
            partitions,
            configs: configs.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        }
    }
}

/// A change that was committed.
#[derive(Clone, Debug)]
pub struct Committed {
    pub image: Arc<MetadataImage>,
    /// The first id of the block, where the change was [`MetadataChange::AllocateProducerIds`].
    pub first_producer_id: Option<i64>,
}

/// What whoever proposed a change is told.
pub type ProposalResult = Result<Committed, MetadataError>;

/// Why a change is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    #[error("Topic '{name}' already exists.")]
    TopicExists { name: String },
    #[error("{reason}")]
    InvalidTopicName { reason: String },
    #[error("Topic '{name}' collides with existing topic: {existing}")]
    TopicCollides { name: String, existing: String },
    #[error("This server does not host this topic-partition: {name}")]
    UnknownTopic { name: String },
    #[error("This server does not host this topic ID: {id}")]
    UnknownTopicId { id: String },
    #[error("{reason}")]
    InvalidPartitions { reason: String },
    #[error("the configuration of topic '{name}' was changed meanwhile")]
    ConfigChanged { name: String, current: BTreeMap<String, String> },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}")]
    PluginRefused(String),
    #[error("there is no plugin named '{name}'; `tidegate plugin list` shows those that are deployed")]
    UnknownPlugin { name: String },
    #[error(
        "plugin '{name}' is attached to topic '{topic}'; detach it first (`tidegate topic alter {topic} --unset tidegate.router`, or .partitioner, .ack or .retention, whichever names it)"
    )]
    PluginAttached { name: String, topic: String },
    #[error(
        "topic '{name}' is where records of topic '{by}' go ({config}); detach it first (delete that configuration, or name another topic there)"
    )]
    TopicNamed { name: String, by: String, config: &'static str },
    #[error("internal topic '{name}' belongs to the broker and cannot be changed so")]
    InternalTopic { name: String },
    #[error("no producer ids are left")]
    ProducerIdsExhausted,
    #[error("the metadata log cannot be written: {reason}")]
    Storage { reason: String },
}

impl MetadataImage {
    /// An empty cluster of one broker.
    #[must_use]
    pub fn new(cluster_id: String, broker: Broker, defaults: BrokerDefaults) -> Self {
        Self { cluster_id, controller: broker.id, brokers: vec![broker], defaults, ..Self::default() }
    }

    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    #[must_use]
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(&id)?)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    #[must_use]
    pub fn partition_config(&self, partition: TopicPartition) -> Option<Arc<TopicConfig>> {
        Some(Arc::clone(&self.topic_by_id(partition.topic)?.config))
    }

    #[must_use]
    pub fn plugin(&self, name: &str) -> Option<&Arc<Plugin>> {
        self.plugins.get(name)
    }

    /// All plugins, by name.
    pub fn plugins(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        self.plugins.values()
    }

    /// The defaults of topics that this broker's configuration gives.
    #[must_use]
    pub fn defaults(&self) -> &BrokerDefaults {
        &self.defaults
    }

    /// Whether a change may be applied to this image.
    ///
    /// # Errors
    /// [`MetadataError`], with what is wrong and, where there is one, the way out.
    pub fn validate(&self, change: &MetadataChange) -> Result<(), MetadataError> {
        match change {
            MetadataChange::CreateTopic { name, id: _, partitions, configs } => {
                validate_name(name)?;
                if self.topics.contains_key(name) {
                    return Err(MetadataError::TopicExists { name: name.clone() });
                }
                // Kafka's metric names cannot tell '.' from '_', so two topics may not differ in them alone.
                let folded = name.replace('.', "_");
                if let Some(existing) = self.topics.keys().find(|existing| existing.replace('.', "_") == folded) {
                    return Err(MetadataError::TopicCollides { name: name.clone(), existing: existing.clone() });
                }
                validate_partitions(*partitions)?;
                self.validate_config(configs)
            }
            MetadataChange::DeleteTopic { id } => {
                let topic = TopicId::from_hex(id).and_then(|id| self.topic_by_id(id));
                let topic = topic.ok_or_else(|| MetadataError::UnknownTopicId { id: id.clone() })?;
                if topic.is_internal() {
                    return Err(MetadataError::InternalTopic { name: topic.name.clone() });
                }
                // Records would be lost or refused later, when a plugin fails, and by then nobody thinks of the deletion.
                let named = self.topics.values().filter(|other| other.id != topic.id).find_map(|other| {
                    let config = other.named().find(|(_, named)| *named == topic.name)?.0;
                    Some((other.name.clone(), config))
                });
                named.map_or(Ok(()), |(by, config)| {
                    Err(MetadataError::TopicNamed { name: topic.name.clone(), by, config })
                })
            }
            MetadataChange::CreatePartitions { name, partitions } => {
                let topic = self.known(name)?;
                if topic.is_internal() {
                    return Err(MetadataError::InternalTopic { name: name.clone() });
                }
                validate_partitions(*partitions)?;
                let now = topic.partitions;
                if *partitions < now {
                    let reason = format!(
                        "The topic {name} currently has {now} partition(s); {partitions} would not be an increase."
                    );
                    return Err(MetadataError::InvalidPartitions { reason });
                }
                if *partitions == now {
                    let reason = format!("Topic already has {now} partition(s).");
                    return Err(MetadataError::InvalidPartitions { reason });
                }
                Ok(())
            }
            MetadataChange::AlterTopicConfig { name, configs, based_on } => {
                validate_name(name)?;
                let current = self.known(name)?.config.overrides();
                if based_on.as_ref().is_some_and(|based_on| based_on != current) {
                    return Err(MetadataError::ConfigChanged { name: name.clone(), current: current.clone() });
                }
                self.validate_config(configs)
            }
            MetadataChange::DeployPlugin(plugin) => validate_plugin_name(&plugin.name),
            MetadataChange::RemovePlugin { name } => {
                if !self.plugins.contains_key(name) {
                    return Err(MetadataError::UnknownPlugin { name: name.clone() });
                }
                let attached = self
                    .topics
                    .values()
                    .find(|topic| topic.config.attachments().any(|(_, attachment)| attachment.plugin == *name));
                attached.map_or(Ok(()), |topic| {
                    Err(MetadataError::PluginAttached { name: name.clone(), topic: topic.name.clone() })
                })
            }
            MetadataChange::AllocateProducerIds { count } => {
                let end = self.next_producer_id.checked_add(i64::from(*count));
                if end.is_none_or(|end| end > DERIVED_PRODUCER_IDS_START) {
                    return Err(MetadataError::ProducerIdsExhausted);
                }
                Ok(())
            }
        }
    }

    fn known(&self, name: &str) -> Result<&Arc<Topic>, MetadataError> {
        self.topics.get(name).ok_or_else(|| MetadataError::UnknownTopic { name: name.to_owned() })
    }

    fn validate_config(&self, configs: &BTreeMap<String, String>) -> Result<(), MetadataError> {
        let config = TopicConfig::resolve(configs, &self.defaults)?;
        for (name, topic) in named(&config) {
            let reason = match self.topics.get(topic) {
                Some(found) if !found.is_internal() => continue,
                Some(_) => "this topic is written by the broker alone",
                None => "there is no such topic; create it first",
            };
            let (name, value, reason) = (name.to_owned(), topic.to_owned(), reason.to_owned());
            return Err(ConfigError::Invalid { name, value, reason }.into());
        }
        for (world, attachment) in config.attachments() {
            let plugin = self
                .plugins
                .get(&attachment.plugin)
                .ok_or_else(|| MetadataError::UnknownPlugin { name: attachment.plugin.clone() })?;
            if plugin.world != world {
                let refusal = format!("plugin '{}' is of the world {}, not {world}", plugin.name, plugin.world);
                return Err(MetadataError::PluginRefused(refusal));
            }
        }
        Ok(())
    }

    /// The image after a change that was validated against this one.
    ///
    /// # Panics
    /// When the change was not validated: whoever commits it has made a mistake, and the metadata is no longer known.
    #[must_use]
    pub fn apply(&self, change: &MetadataChange) -> Self {
        let mut next = self.clone();
        next.version += 1;
        match change {
            MetadataChange::CreateTopic { name, id, partitions, configs } => {
                let id = TopicId::from_hex(id).expect("a committed topic has an id");
                next.insert(Topic { id, name: name.clone(), partitions: *partitions, config: self.config(configs) });
            }
            MetadataChange::DeleteTopic { id } => {
                let id = TopicId::from_hex(id).expect("a validated id");
                if let Some(name) = next.names.remove(&id) {
                    next.topics.remove(&name);
                }
            }
            MetadataChange::CreatePartitions { name, partitions } => {
                let topic = self.topics.get(name).expect("a validated name");
                next.insert(Topic { partitions: *partitions, ..Topic::clone(topic) });
            }
            MetadataChange::AlterTopicConfig { name, configs, based_on: _ } => {
                let topic = self.topics.get(name).expect("a validated name");
                next.insert(Topic { config: self.config(configs), ..Topic::clone(topic) });
            }
            MetadataChange::DeployPlugin(plugin) => {
                next.plugins.insert(plugin.name.clone(), Arc::new(plugin.clone()));
            }
            MetadataChange::RemovePlugin { name } => {
                next.plugins.remove(name);
            }
            MetadataChange::AllocateProducerIds { count } => next.next_producer_id += i64::from(*count),
        }
        assert_eq!(next.names.len(), next.topics.len(), "every topic has one name and one id");
        next
    }

    fn insert(&mut self, topic: Topic) {
        self.names.insert(topic.id, topic.name.clone());
        self.topics.insert(topic.name.clone(), Arc::new(topic));
    }

    fn config(&self, configs: &BTreeMap<String, String>) -> Arc<TopicConfig> {
        Arc::new(TopicConfig::resolve(configs, &self.defaults).expect("a validated configuration"))
    }

    /// What is handed out next; the first id of a block that [`MetadataChange::AllocateProducerIds`] takes.
    #[must_use]
    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// The changes that make this image from an empty one: the snapshot of the metadata log.
    #[must_use]
    pub fn to_changes(&self) -> Vec<MetadataChange> {
        let plugins = self.plugins.values().map(|plugin| MetadataChange::DeployPlugin(Plugin::clone(plugin)));
        let topics = self.topics.values().map(|topic| MetadataChange::CreateTopic {
            name: topic.name.clone(),
            id: topic.id.to_hex(),
            partitions: topic.partitions,
            configs: topic.config.overrides().clone(),
        });
        let mut changes: Vec<_> = plugins.chain(topics).collect();
        // Blocks are at most 2^32 - 1 long; the ids given out so far may need several.
        let mut left = self.next_producer_id;
        while left > 0 {
            let count = u32::try_from(left).unwrap_or(u32::MAX);
            changes.push(MetadataChange::AllocateProducerIds { count });
            left -= i64::from(count);
        }
        changes
    }
}

fn validate_partitions(partitions: i32) -> Result<(), MetadataError> {
    let reason = match partitions {
        ..=0 => "Number of partitions must be larger than 0.".to_owned(),
        1..=PARTITIONS_MAX => return Ok(()),
        _ => format!("a topic may have at most {PARTITIONS_MAX} partitions, {partitions} were asked for"),
    };
    Err(MetadataError::InvalidPartitions { reason })
}

/// Kafka's rules for the names of topics.
///
/// # Errors
/// [`MetadataError::InvalidTopicName`] in Kafka's words.
pub fn validate_name(name: &str) -> Result<(), MetadataError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let reason = if name.is_empty() {
        "Topic name is invalid: the empty string is not allowed".to_owned()
    } else if name == "." || name == ".." {
        format!("Topic name is invalid: '{name}' is not allowed")
    } else if name.len() > NAME_BYTES_MAX {
        format!("Topic name is invalid: the length of '{name}' is longer than the max allowed length {NAME_BYTES_MAX}")
    } else if !name.bytes().all(legal) {
        format!(
            "Topic name is invalid: '{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        )
    } else {
        return Ok(());
    };
    Err(MetadataError::InvalidTopicName { reason })
}

fn validate_plugin_name(name: &str) -> Result<(), MetadataError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.bytes().all(legal) {
        let refusal = format!(
            "'{name}' is not a plugin name: 1 to 100 ASCII letters, digits, '.', '_' and '-', not beginning with '.'"
        );
        return Err(MetadataError::PluginRefused(refusal));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> MetadataImage {
        let broker = Broker { id: 1, host: "localhost".into(), port: 9092, rack: None };
        MetadataImage::new("cluster".into(), broker, BrokerDefaults::new())
    }

    fn create(name: &str, id: u8, configs: &[(&str, &str)]) -> MetadataChange {
        MetadataChange::CreateTopic {
            name: name.into(),
            id: TopicId([id; 16]).to_hex(),
            partitions: 3,
            configs: configs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        }
    }

    fn commit(image: &MetadataImage, change: &MetadataChange) -> Result<MetadataImage, MetadataError> {
        image.validate(change)?;
        Ok(image.apply(change))
    }

    #[test]
    fn names_are_refused_in_kafkas_words() {
        for bad in ["", ".", "..", "a b", "ä", "a/b", &"x".repeat(250)] {
            assert!(matches!(validate_name(bad), Err(MetadataError::InvalidTopicName { .. })), "{bad}");
        }
        for good in ["a", "a.b_c-D9", "...", &"x".repeat(249)] {
            assert_eq!(validate_name(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn a_topic_is_found_by_name_and_id_until_it_is_deleted() {
        let first = commit(&image(), &create("orders", 1, &[("retention.ms", "5")])).unwrap();
        let topic = first.topic("orders").unwrap();
        assert_eq!((topic.partitions, topic.config.retention_ms), (3, 5));
        assert!(first.topic_by_id(TopicId([1; 16])).is_some());
        assert!(matches!(commit(&first, &create("orders", 2, &[])), Err(MetadataError::TopicExists { .. })));
        let gone = commit(&first, &MetadataChange::DeleteTopic { id: topic.id.to_hex() }).unwrap();
        assert!(gone.topic("orders").is_none() && gone.topic_by_id(TopicId([1; 16])).is_none());
    }

    /// A topic of dead letters that was deleted was missed only when a plugin failed.
    #[test]
    fn a_topic_that_another_names_stays() {
        let made = commit(&image(), &create("letters", 1, &[])).unwrap();
        let made = commit(&made, &create("rest", 2, &[])).unwrap();
        let alternate = [("tidegate.router.unroutable", "alternate"), ("tidegate.router.unroutable.topic", "rest")];
        let made = commit(&made, &create("a", 3, &[("tidegate.dead.letter.topic", "letters")])).unwrap();
        let made = commit(&made, &create("b", 4, &alternate)).unwrap();
        let delete = |id: u8| MetadataChange::DeleteTopic { id: TopicId([id; 16]).to_hex() };
        let refused = |id, by: &str, config| {
            let error = commit(&made, &delete(id)).unwrap_err();
            assert!(
                matches!(&error, MetadataError::TopicNamed { by: found, config: named, .. } if (found.as_str(), *named) == (by, config)),
                "{error}"
            );
        };
        refused(1, "a", "tidegate.dead.letter.topic");
        refused(2, "b", "tidegate.router.unroutable.topic");
        let without = commit(&made, &delete(3)).unwrap();
        assert!(commit(&without, &delete(1)).is_ok());
        let detached = MetadataChange::AlterTopicConfig { name: "b".into(), configs: BTreeMap::new(), based_on: None };
        assert!(commit(&commit(&made, &detached).unwrap(), &delete(2)).is_ok());
        let itself = MetadataChange::AlterTopicConfig {
            name: "rest".into(),
            configs: [("tidegate.dead.letter.topic".to_owned(), "rest".to_owned())].into(),
            based_on: None,
        };
        let itself = commit(&commit(&made, &detached).unwrap(), &itself).unwrap();
        assert!(commit(&itself, &delete(2)).is_ok(), "its own letters go with it");
    }

    #[test]
    fn a_dot_and_an_underscore_collide() {
        let first = commit(&image(), &create("a.b", 1, &[])).unwrap();
        assert!(matches!(commit(&first, &create("a_b", 2, &[])), Err(MetadataError::TopicCollides { .. })));
    }

    #[test]
    fn partitions_only_grow() {
        let first = commit(&image(), &create("t", 1, &[])).unwrap();
        for wrong in [0, 2, 3, PARTITIONS_MAX + 1] {
            let change = MetadataChange::CreatePartitions { name: "t".into(), partitions: wrong };
            assert!(matches!(commit(&first, &change), Err(MetadataError::InvalidPartitions { .. })), "{wrong}");
        }
        let more = commit(&first, &MetadataChange::CreatePartitions { name: "t".into(), partitions: 5 }).unwrap();
        assert_eq!(more.topic("t").unwrap().partitions, 5);
    }

    #[test]
    fn a_change_that_was_computed_from_something_older_is_refused() {
        let set = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
        };
        let alter = |configs, based_on| MetadataChange::AlterTopicConfig { name: "t".into(), configs, based_on };
        let first = commit(&image(), &create("t", 1, &[("retention.ms", "5")])).unwrap();
        let one = alter(set(&[("retention.ms", "5"), ("segment.ms", "6")]), Some(set(&[("retention.ms", "5")])));
        let second = commit(&first, &one).unwrap();
        let current = set(&[("retention.ms", "5"), ("segment.ms", "6")]);
        assert_eq!(commit(&second, &one).unwrap_err(), MetadataError::ConfigChanged { name: "t".into(), current });
        let whole = commit(&second, &alter(set(&[]), None)).unwrap();
        assert!(whole.topic("t").unwrap().config.overrides().is_empty());
        // As it was written before there was a base.
        let old: MetadataChange =
            serde_json::from_str(r#"{"change":"alter-topic-config","name":"t","configs":{}}"#).unwrap();
        assert_eq!(old, alter(set(&[]), None));
    }

    #[test]
    fn an_attached_plugin_must_exist_fit_and_stay() {
        let attached = create("t", 1, &[("tidegate.router", "split")]);
        assert!(matches!(commit(&image(), &attached), Err(MetadataError::UnknownPlugin { .. })));
        let plugin = Plugin {
            name: "split".into(),
            version: 1,
            hash: "00".into(),
            world: "router".into(),
            bytes: 5,
            uploaded_at: 0,
            previous: None,
        };
        let deployed = commit(&image(), &MetadataChange::DeployPlugin(plugin)).unwrap();
        let wrong = create("t", 1, &[("tidegate.partitioner", "split")]);
        assert!(matches!(commit(&deployed, &wrong), Err(MetadataError::PluginRefused(_))));
        let with_topic = commit(&deployed, &attached).unwrap();
        let remove = MetadataChange::RemovePlugin { name: "split".into() };
        assert!(matches!(commit(&with_topic, &remove), Err(MetadataError::PluginAttached { .. })));
    }

    #[test]
    fn a_snapshot_makes_the_same_image() {
        let mut made = image();
        for change in [
            create("a", 1, &[("cleanup.policy", "compact")]),
            create("b", 2, &[]),
            MetadataChange::AllocateProducerIds { count: 1000 },
        ] {
            made = commit(&made, &change).unwrap();
        }
        let mut again = image();
        for change in made.to_changes() {
            let text = serde_json::to_string(&change).unwrap();
            again = commit(&again, &serde_json::from_str(&text).unwrap()).unwrap();
        }
        assert_eq!(again.to_changes(), made.to_changes());
        assert_eq!(again.next_producer_id(), 1000);
    }
}
