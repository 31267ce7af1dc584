//! The configuration of topics: from what was set on a topic, over defaults, to resolved values. The keys stand in
//! `topic_config/keys.rs`; what the value of one may be, in `topic_config/key.rs`.
//!
//! Names, defaults and meanings are Apache Kafka's (<https://kafka.apache.org/documentation/#topicconfigs>); keys that begin with
//! `tidegate.` are our own. An unknown key is refused, as Kafka refuses it. [`TopicConfig`] can only come from valid text.

mod key;
mod keys;

use std::collections::BTreeMap;

use tidegate_records::batch::Compression;

pub use key::{ConfigType, TopicKey};
pub use keys::{TOPIC_KEYS, topic_key};

/// Why a configuration is refused; the texts are Kafka's where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("Unknown topic config name: {name}")]
    Unknown { name: String },
    #[error("Invalid value {value} for configuration {name}: {reason}")]
    Invalid { name: String, value: String, reason: String },
    #[error("Configuration '{name}' values must not be empty.")]
    EmptyListElement { name: String },
    #[error(
        "conflict topic config setting min.compaction.lag.ms ({min_compaction_lag_ms}) > max.compaction.lag.ms ({max_compaction_lag_ms})"
    )]
    CompactionLags { min_compaction_lag_ms: i64, max_compaction_lag_ms: i64 },
    #[error(
        "The configuration value of {name} cannot be added because it exceeds the maximum value size of {VALUE_BYTES_MAX} bytes."
    )]
    TooLong { name: String },
    #[error("{name}={value} needs a topic in {needed}")]
    NeedsTopic { name: &'static str, value: &'static str, needed: &'static str },
    #[error(
        "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage."
    )]
    TieredStorage,
}

/// A string of the protocol's older versions has a length of 16 bits, so a longer value could not be shown to everybody.
pub const VALUE_BYTES_MAX: usize = i16::MAX as usize;

/// What becomes of old records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    pub delete: bool,
    pub compact: bool,
}

/// A topic's configuration with every value resolved. Times in milliseconds, sizes in bytes; -1 where the key says "no limit".
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    pub cleanup_policy: CleanupPolicy,
    /// `None`: what the producer chose.
    pub compression: Option<Compression>,
    pub compression_gzip_level: i32,
    pub compression_zstd_level: i32,
    pub delete_retention_ms: i64,
    pub max_compaction_lag_ms: i64,
    pub max_decompressed_message_bytes: usize,
    pub max_message_bytes: usize,
    pub message_timestamp_after_max_ms: i64,
    pub message_timestamp_before_max_ms: i64,
    pub log_append_time: bool,
    pub min_cleanable_dirty_ratio: f64,
    pub min_compaction_lag_ms: i64,
    pub min_insync_replicas: i32,
    pub retention_bytes: i64,
    pub retention_ms: i64,
    pub segment_bytes: u64,
    pub segment_ms: i64,
    pub durability_os: bool,
    pub ack: Option<Attachment>,
    /// Whether the ack plugin may acknowledge earlier than the producer asked for.
    pub ack_weaken: bool,
    pub retention: Option<Attachment>,
    /// What a retention plugin leaves: everything that is younger, and so many bytes.
    pub retention_floor_ms: i64,
    pub retention_floor_bytes: i64,
    pub partitioner: Option<Attachment>,
    pub router: Option<Attachment>,
    pub router_store: bool,
    pub unroutable: Unroutable,
    /// For attachments whose policy is [`OnFailure::DeadLetter`].
    pub dead_letter_topic: Option<String>,
    /// What was set on the topic itself.
    overrides: BTreeMap<String, String>,
}

/// A plugin attached to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub plugin: String,
    /// Handed to the plugin as it is.
    pub config: String,
    pub on_failure: OnFailure,
    pub limits: AttachmentLimits,
}

/// What becomes of records whose plugin trapped, refused to answer or answered nonsense.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// The producer gets an error, and nothing is written.
    #[default]
    Reject,
    /// As if there were no plugin: they stay in the topic that they were sent to, in the partition that the client chose.
    Bypass,
    /// They are written to [`TopicConfig::dead_letter_topic`], with headers that say why.
    DeadLetter,
}

/// What becomes of records that a router sends nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Unroutable {
    #[default]
    Drop,
    Reject,
    /// They go to this topic.
    Alternate(String),
}

/// What an attachment's instances may use, where that is less than the broker's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachmentLimits {
    pub deadline_ms: Option<u64>,
    pub memory_bytes: Option<usize>,
    pub output_bytes: Option<usize>,
}

/// Defaults that the broker's own configuration gives to topics, by topic key.
pub type BrokerDefaults = BTreeMap<String, String>;

impl TopicConfig {
    /// Resolves overrides over the broker's defaults over Kafka's defaults.
    ///
    /// # Errors
    /// [`ConfigError`]: an unknown key or a value that may not stand there.
    pub fn resolve(overrides: &BTreeMap<String, String>, defaults: &BrokerDefaults) -> Result<Self, ConfigError> {
        for (name, value) in overrides {
            topic_key(name).ok_or_else(|| ConfigError::Unknown { name: name.clone() })?.check(value)?;
        }
        let text = |name: &str| -> &str {
            overrides
                .get(name)
                .or_else(|| defaults.get(name))
                .map_or_else(|| topic_key(name).expect("only known keys are asked for").default, String::as_str)
        };
        let invalid = |name: &str| ConfigError::Invalid {
            name: name.to_owned(),
            value: text(name).to_owned(),
            reason: "the broker's own default for it is not valid".into(),
        };
        let long = |name: &str| text(name).trim().parse::<i64>().map_err(|_| invalid(name));
        let int = |name: &str| text(name).trim().parse::<i32>().map_err(|_| invalid(name));
        let size = |name: &str| text(name).trim().parse::<usize>().map_err(|_| invalid(name));
        let truth = |name: &str| text(name).trim().eq_ignore_ascii_case("true");
        let limit = |name: &str| -> Result<Option<u64>, ConfigError> { Ok(u64::try_from(long(name)?).ok()) };
        let bytes = |name: &str| -> Result<Option<usize>, ConfigError> {
            Ok(limit(name)?.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)))
        };
        let limits = AttachmentLimits {
            deadline_ms: limit("tidegate.plugin.deadline.ms")?,
            memory_bytes: bytes("tidegate.plugin.memory.max.bytes")?,
            output_bytes: bytes("tidegate.plugin.output.max.bytes")?,
        };
        let topic = |name: &str| Some(text(name).trim().to_owned()).filter(|topic| !topic.is_empty());
        let dead_letter_topic = topic("tidegate.dead.letter.topic");
        let attachment = |name: &str, config: &str, on_failure: &'static str| -> Result<_, ConfigError> {
            let plugin = text(name).trim();
            let on_failure = match text(on_failure).trim() {
                "dead-letter" if dead_letter_topic.is_none() => {
                    let (value, needed) = ("dead-letter", "tidegate.dead.letter.topic");
                    return Err(ConfigError::NeedsTopic { name: on_failure, value, needed });
                }
                "dead-letter" => OnFailure::DeadLetter,
                "bypass" => OnFailure::Bypass,
                _ => OnFailure::Reject,
            };
            let config = text(config).to_owned();
            Ok((!plugin.is_empty()).then(|| Attachment { plugin: plugin.to_owned(), config, on_failure, limits }))
        };
        let unroutable = match text("tidegate.router.unroutable").trim() {
            "alternate" => {
                Unroutable::Alternate(topic("tidegate.router.unroutable.topic").ok_or(ConfigError::NeedsTopic {
                    name: "tidegate.router.unroutable",
                    value: "alternate",
                    needed: "tidegate.router.unroutable.topic",
                })?)
            }
            "reject" => Unroutable::Reject,
            _ => Unroutable::Drop,
        };
        let policies: Vec<&str> = text("cleanup.policy").split(',').map(str::trim).collect();
        let resolved = Self {
            cleanup_policy: CleanupPolicy {
                delete: policies.contains(&"delete"),
                compact: policies.contains(&"compact"),
            },
            compression: match text("compression.type").trim() {
                "uncompressed" => Some(Compression::None),
                "gzip" => Some(Compression::Gzip),
                "snappy" => Some(Compression::Snappy),
                "lz4" => Some(Compression::Lz4),
                "zstd" => Some(Compression::Zstd),
                _ => None,
            },
            compression_gzip_level: int("compression.gzip.level")?,
            compression_zstd_level: int("compression.zstd.level")?,
            delete_retention_ms: long("delete.retention.ms")?,
            max_compaction_lag_ms: long("max.compaction.lag.ms")?,
            max_decompressed_message_bytes: size("max.decompressed.message.bytes")?,
            max_message_bytes: size("max.message.bytes")?,
            message_timestamp_after_max_ms: long("message.timestamp.after.max.ms")?,
            message_timestamp_before_max_ms: long("message.timestamp.before.max.ms")?,
            log_append_time: text("message.timestamp.type").trim() == "LogAppendTime",
            min_cleanable_dirty_ratio: text("min.cleanable.dirty.ratio")
                .trim()
                .parse()
                .map_err(|_| invalid("min.cleanable.dirty.ratio"))?,
            min_compaction_lag_ms: long("min.compaction.lag.ms")?,
            min_insync_replicas: int("min.insync.replicas")?,
            retention_bytes: long("retention.bytes")?,
            retention_ms: long("retention.ms")?,
            segment_bytes: long("segment.bytes")?.unsigned_abs(),
            segment_ms: long("segment.ms")?,
            durability_os: text("tidegate.durability").trim() == "os",
            ack: attachment("tidegate.ack", "tidegate.ack.config", "tidegate.ack.on.failure")?,
            ack_weaken: truth("tidegate.ack.weaken"),
            retention: attachment("tidegate.retention", "tidegate.retention.config", "tidegate.retention.on.failure")?,
            retention_floor_ms: long("tidegate.retention.floor.ms")?,
            retention_floor_bytes: long("tidegate.retention.floor.bytes")?,
            partitioner: attachment(
                "tidegate.partitioner",
                "tidegate.partitioner.config",
                "tidegate.partitioner.on.failure",
            )?,
            router: attachment("tidegate.router", "tidegate.router.config", "tidegate.router.on.failure")?,
            router_store: truth("tidegate.router.store"),
            unroutable,
            dead_letter_topic,
            overrides: overrides.clone(),
        };
        if resolved.min_compaction_lag_ms > resolved.max_compaction_lag_ms {
            return Err(ConfigError::CompactionLags {
                min_compaction_lag_ms: resolved.min_compaction_lag_ms,
                max_compaction_lag_ms: resolved.max_compaction_lag_ms,
            });
        }
        Ok(resolved)
    }

    /// Whether an acknowledged write is on the disk (`tidegate.durability=fsync`).
    #[must_use]
    pub fn flush_before_acknowledging(&self) -> bool {
        !self.durability_os
    }

    /// Whether the broker's clock stamps the records.
    #[must_use]
    pub fn is_log_append_time(&self) -> bool {
        self.log_append_time
    }

    /// The level for [`TopicConfig::compression`]; `None`: the codec's default.
    #[must_use]
    pub fn compression_level(&self) -> Option<i32> {
        match self.compression {
            Some(Compression::Gzip) => Some(self.compression_gzip_level),
            Some(Compression::Zstd) => Some(self.compression_zstd_level),
            _ => None,
        }
    }

    /// The plugins that are attached, each with its world.
    pub fn attachments(&self) -> impl Iterator<Item = (&'static str, &Attachment)> {
        let worlds = [
            ("router", &self.router),
            ("partitioner", &self.partitioner),
            ("ack", &self.ack),
            ("retention", &self.retention),
        ];
        worlds.into_iter().filter_map(|(world, attachment)| Some((world, attachment.as_ref()?)))
    }

    /// What was set on the topic itself, by key.
    #[must_use]
    pub fn overrides(&self) -> &BTreeMap<String, String> {
        &self.overrides
    }
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self::resolve(&BTreeMap::new(), &BrokerDefaults::new()).expect("Kafka's defaults are valid")
    }
}

#[cfg(test)]
mod tests;
