//! The configuration of topics: every key that is known, its default, what it may be, and the resolved values.
//!
//! Names, defaults and meanings are Apache Kafka's (<https://kafka.apache.org/documentation/#topicconfigs>); keys that begin with
//! `tidegate.` are our own. An unknown key is refused, as Kafka refuses it. [`TopicConfig`] can only come from valid text.

use std::collections::BTreeMap;

use tidegate_records::batch::Compression;

/// How a value is written, for DescribeConfigs (KIP-569).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigType {
    Boolean,
    String,
    Int,
    Long,
    Double,
    List,
}

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Allowed {
    Integers {
        min: i64,
        max: i64,
    },
    Fraction,
    Boolean,
    OneOf(&'static [&'static str]),
    /// A comma-separated list of these, each at most once.
    ListOf(&'static [&'static str]),
    /// Anything, as long as it is UTF-8.
    Text,
}

/// A key of the configuration of topics.
#[derive(Clone, Copy, Debug)]
pub struct TopicKey {
    pub name: &'static str,
    pub kind: ConfigType,
    pub default: &'static str,
    /// The broker setting that gives the default, where Kafka has one.
    pub synonym: Option<&'static str>,
    pub documentation: &'static str,
    allowed: Allowed,
}

const ANY_INT: Allowed = Allowed::Integers { min: 0, max: i32::MAX as i64 };
const ANY_LONG: Allowed = Allowed::Integers { min: 0, max: i64::MAX };
const FROM_MINUS_ONE: Allowed = Allowed::Integers { min: -1, max: i64::MAX };
const UNLIMITED: &str = "9223372036854775807";

const fn key(
    name: &'static str,
    kind: ConfigType,
    default: &'static str,
    synonym: &'static str,
    allowed: Allowed,
    documentation: &'static str,
) -> TopicKey {
    let synonym = if synonym.is_empty() { None } else { Some(synonym) };
    TopicKey { name, kind, default, synonym, documentation, allowed }
}

/// Every key, sorted by name.
pub const TOPIC_KEYS: &[TopicKey] = &[
    key(
        "cleanup.policy",
        ConfigType::List,
        "delete",
        "log.cleanup.policy",
        Allowed::ListOf(&["delete", "compact"]),
        "What happens to old records: `delete` by time or size, `compact` to the last value of each key, or both.",
    ),
    key(
        "compression.gzip.level",
        ConfigType::Int,
        "-1",
        "",
        Allowed::Integers { min: -1, max: 9 },
        "Level used when the broker compresses with gzip; -1 is the codec's default.",
    ),
    key(
        "compression.lz4.level",
        ConfigType::Int,
        "9",
        "",
        Allowed::Integers { min: 1, max: 17 },
        "Accepted; the lz4 encoder has one level.",
    ),
    key(
        "compression.type",
        ConfigType::String,
        "producer",
        "compression.type",
        Allowed::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
        "The codec of stored batches; `producer` keeps what the producer chose, byte for byte.",
    ),
    key(
        "compression.zstd.level",
        ConfigType::Int,
        "3",
        "",
        Allowed::Integers { min: -131_072, max: 22 },
        "Level used when the broker compresses with zstd.",
    ),
    key(
        "delete.retention.ms",
        ConfigType::Long,
        "86400000",
        "log.cleaner.delete.retention.ms",
        ANY_LONG,
        "Milliseconds for which a tombstone is kept after it was compacted.",
    ),
    key(
        "file.delete.delay.ms",
        ConfigType::Long,
        "60000",
        "log.segment.delete.delay.ms",
        ANY_LONG,
        "Accepted; files are recycled as soon as no reader has them.",
    ),
    key(
        "flush.messages",
        ConfigType::Long,
        UNLIMITED,
        "log.flush.interval.messages",
        Allowed::Integers { min: 1, max: i64::MAX },
        "Accepted; a write is on the disk before it is acknowledged unless `tidegate.durability` is `os`.",
    ),
    key("flush.ms", ConfigType::Long, UNLIMITED, "log.flush.interval.ms", ANY_LONG, "Accepted, as `flush.messages`."),
    key(
        "follower.replication.throttled.replicas",
        ConfigType::List,
        "",
        "",
        Allowed::Text,
        "Accepted; there are no followers yet.",
    ),
    key(
        "index.interval.bytes",
        ConfigType::Int,
        "4096",
        "log.index.interval.bytes",
        ANY_INT,
        "Accepted; the index has an entry for each extent.",
    ),
    key(
        "leader.replication.throttled.replicas",
        ConfigType::List,
        "",
        "",
        Allowed::Text,
        "Accepted; there are no followers yet.",
    ),
    key(
        "max.compaction.lag.ms",
        ConfigType::Long,
        UNLIMITED,
        "log.cleaner.max.compaction.lag.ms",
        Allowed::Integers { min: 1, max: i64::MAX },
        "Milliseconds after which a record is compacted, however little there is to gain (KIP-354).",
    ),
    key(
        "max.decompressed.message.bytes",
        ConfigType::Int,
        "104857600",
        "",
        Allowed::Integers { min: 1, max: i32::MAX as i64 },
        "The largest batch after decompression, in bytes: the limit against decompression bombs.",
    ),
    key(
        "max.message.bytes",
        ConfigType::Int,
        "1048588",
        "message.max.bytes",
        ANY_INT,
        "The largest record batch that is accepted, in bytes, compressed if it is.",
    ),
    key(
        "message.timestamp.after.max.ms",
        ConfigType::Long,
        "3600000",
        "log.message.timestamp.after.max.ms",
        ANY_LONG,
        "How far a record's timestamp may lie ahead of the broker's clock, in milliseconds (KIP-937).",
    ),
    key(
        "message.timestamp.before.max.ms",
        ConfigType::Long,
        UNLIMITED,
        "log.message.timestamp.before.max.ms",
        ANY_LONG,
        "How far a record's timestamp may lie behind the broker's clock, in milliseconds (KIP-937).",
    ),
    key(
        "message.timestamp.type",
        ConfigType::String,
        "CreateTime",
        "log.message.timestamp.type",
        Allowed::OneOf(&["CreateTime", "LogAppendTime"]),
        "Whose clock stamps the records: the producer's or the broker's.",
    ),
    key(
        "min.cleanable.dirty.ratio",
        ConfigType::Double,
        "0.5",
        "log.cleaner.min.cleanable.ratio",
        Allowed::Fraction,
        "The share of a log that must be uncompacted before compaction begins.",
    ),
    key(
        "min.compaction.lag.ms",
        ConfigType::Long,
        "0",
        "log.cleaner.min.compaction.lag.ms",
        ANY_LONG,
        "Milliseconds for which a record stays uncompacted.",
    ),
    key(
        "min.insync.replicas",
        ConfigType::Int,
        "1",
        "min.insync.replicas",
        Allowed::Integers { min: 1, max: i32::MAX as i64 },
        "Replicas that must be in sync before acks=all is accepted.",
    ),
    key(
        "preallocate",
        ConfigType::Boolean,
        "false",
        "log.preallocate",
        Allowed::Boolean,
        "Accepted; segments are pre-written where it pays.",
    ),
    key(
        "remote.storage.enable",
        ConfigType::Boolean,
        "false",
        "",
        Allowed::OneOf(&["false"]),
        "Tiered storage through a Kafka plugin does not exist here; only `false`.",
    ),
    key(
        "retention.bytes",
        ConfigType::Long,
        "-1",
        "log.retention.bytes",
        FROM_MINUS_ONE,
        "The size of a partition from which its oldest segments are deleted; -1: no limit.",
    ),
    key(
        "retention.ms",
        ConfigType::Long,
        "604800000",
        "log.retention.ms",
        FROM_MINUS_ONE,
        "Milliseconds after which segments are deleted; -1: never.",
    ),
    key(
        "segment.bytes",
        ConfigType::Int,
        "1073741824",
        "log.segment.bytes",
        Allowed::Integers { min: 14, max: i32::MAX as i64 },
        "The size at which a segment is closed and a new one begun.",
    ),
    key(
        "segment.index.bytes",
        ConfigType::Int,
        "10485760",
        "log.index.size.max.bytes",
        Allowed::Integers { min: 4, max: i32::MAX as i64 },
        "Accepted; indexes are as large as they need to be.",
    ),
    key(
        "segment.jitter.ms",
        ConfigType::Long,
        "0",
        "log.roll.jitter.ms",
        ANY_LONG,
        "Accepted; segments are rolled one after another anyway.",
    ),
    key(
        "segment.ms",
        ConfigType::Long,
        "604800000",
        "log.roll.ms",
        Allowed::Integers { min: 1, max: i64::MAX },
        "Milliseconds after which a segment is closed even if it is not full.",
    ),
    key(
        "tidegate.durability",
        ConfigType::String,
        "fsync",
        "durability",
        Allowed::OneOf(&["fsync", "os"]),
        "`fsync`: acknowledged means on the disk. `os`: acknowledged means written, as Apache Kafka has it.",
    ),
    key(
        "tidegate.partitioner",
        ConfigType::String,
        "",
        "",
        Allowed::Text,
        "The deployed plugin that chooses the partition of each record.",
    ),
    key(
        "tidegate.partitioner.config",
        ConfigType::String,
        "",
        "",
        Allowed::Text,
        "The configuration of that plugin, as it asks for it.",
    ),
    key(
        "tidegate.router",
        ConfigType::String,
        "",
        "",
        Allowed::Text,
        "The deployed plugin that routes records to topics.",
    ),
    key(
        "tidegate.router.config",
        ConfigType::String,
        "",
        "",
        Allowed::Text,
        "The configuration of that plugin, as it asks for it.",
    ),
    key(
        "tidegate.router.store",
        ConfigType::Boolean,
        "false",
        "",
        Allowed::Boolean,
        "Whether a routed topic also keeps the records that were sent to it.",
    ),
    key(
        "unclean.leader.election.enable",
        ConfigType::Boolean,
        "false",
        "unclean.leader.election.enable",
        Allowed::Boolean,
        "Accepted; there is one replica, so no election.",
    ),
];

/// Why a configuration is refused; the texts are Kafka's where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("Unknown topic config name: {name}")]
    Unknown { name: String },
    #[error("Invalid value {value} for configuration {name}: {reason}")]
    Invalid { name: String, value: String, reason: String },
    #[error("Invalid config value for {name}: the value is missing")]
    Missing { name: String },
}

/// The key of a name.
#[must_use]
pub fn topic_key(name: &str) -> Option<&'static TopicKey> {
    TOPIC_KEYS.binary_search_by(|key| key.name.cmp(name)).ok().map(|index| &TOPIC_KEYS[index])
}

impl TopicKey {
    /// Whether `value` may stand for this key.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], with what may.
    pub fn check(&self, value: &str) -> Result<(), ConfigError> {
        let invalid =
            |reason: String| Err(ConfigError::Invalid { name: self.name.to_owned(), value: value.to_owned(), reason });
        match self.allowed {
            Allowed::Text => Ok(()),
            Allowed::Boolean => match value.to_ascii_lowercase().as_str() {
                "true" | "false" => Ok(()),
                _ => invalid("Expected value to be either true or false".into()),
            },
            Allowed::Fraction => match value.trim().parse::<f64>() {
                Ok(number) if (0.0..=1.0).contains(&number) => Ok(()),
                Ok(_) => invalid("Value must be between 0 and 1".into()),
                Err(_) => invalid("Not a number of type DOUBLE".into()),
            },
            Allowed::Integers { min, max } => match value.trim().parse::<i64>() {
                Ok(number) if number < min => invalid(format!("Value must be at least {min}")),
                Ok(number) if number > max => invalid(format!("Value must be at most {max}")),
                Ok(_) => Ok(()),
                Err(_) if self.kind == ConfigType::Int => invalid("Not a number of type INT".into()),
                Err(_) => invalid("Not a number of type LONG".into()),
            },
            Allowed::OneOf(values) if values.contains(&value) => Ok(()),
            Allowed::OneOf(values) => invalid(format!("String must be one of: {}", values.join(", "))),
            Allowed::ListOf(values) => {
                let parts: Vec<&str> = value.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
                if parts.is_empty() || parts.iter().any(|part| !values.contains(part)) {
                    return invalid(format!("String must be one of: {}", values.join(", ")));
                }
                let mut sorted = parts.clone();
                sorted.sort_unstable();
                sorted.dedup();
                if sorted.len() == parts.len() { Ok(()) } else { invalid("Values must not be repeated".into()) }
            }
        }
    }
}

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
    pub partitioner: Option<Attachment>,
    pub router: Option<Attachment>,
    pub router_store: bool,
    /// What was set on the topic itself.
    overrides: BTreeMap<String, String>,
}

/// A plugin attached to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub plugin: String,
    /// Handed to the plugin as it is.
    pub config: String,
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
        let truth = |name: &str| text(name).eq_ignore_ascii_case("true");
        let attachment = |name: &str, config: &str| {
            let plugin = text(name).trim();
            (!plugin.is_empty()).then(|| Attachment { plugin: plugin.to_owned(), config: text(config).to_owned() })
        };
        let policies: Vec<&str> = text("cleanup.policy").split(',').map(str::trim).collect();
        let resolved = Self {
            cleanup_policy: CleanupPolicy {
                delete: policies.contains(&"delete"),
                compact: policies.contains(&"compact"),
            },
            compression: match text("compression.type") {
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
            log_append_time: text("message.timestamp.type") == "LogAppendTime",
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
            durability_os: text("tidegate.durability") == "os",
            partitioner: attachment("tidegate.partitioner", "tidegate.partitioner.config"),
            router: attachment("tidegate.router", "tidegate.router.config"),
            router_store: truth("tidegate.router.store"),
            overrides: overrides.clone(),
        };
        if resolved.min_compaction_lag_ms > resolved.max_compaction_lag_ms {
            return Err(ConfigError::Invalid {
                name: "min.compaction.lag.ms".into(),
                value: resolved.min_compaction_lag_ms.to_string(),
                reason: format!("it is larger than max.compaction.lag.ms ({})", resolved.max_compaction_lag_ms),
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
mod tests {
    use super::*;

    fn resolve(pairs: &[(&str, &str)]) -> Result<TopicConfig, ConfigError> {
        let overrides = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        TopicConfig::resolve(&overrides, &BrokerDefaults::new())
    }

    #[test]
    fn keys_are_sorted_and_their_defaults_are_valid() {
        assert!(TOPIC_KEYS.is_sorted_by_key(|key| key.name));
        for key in TOPIC_KEYS {
            assert_eq!(key.check(key.default), Ok(()), "{}", key.name);
        }
    }

    #[test]
    fn bad_values_are_refused_as_kafka_refuses_them() {
        let check = |key: &str, value: &str, expected: &str| {
            assert_eq!(resolve(&[(key, value)]).unwrap_err().to_string(), expected, "{key}={value}");
        };
        check("nonsense", "1", "Unknown topic config name: nonsense");
        check("retention.ms", "-2", "Invalid value -2 for configuration retention.ms: Value must be at least -1");
        check("retention.ms", "x", "Invalid value x for configuration retention.ms: Not a number of type LONG");
        check("segment.bytes", "1", "Invalid value 1 for configuration segment.bytes: Value must be at least 14");
        check(
            "cleanup.policy",
            "shred",
            "Invalid value shred for configuration cleanup.policy: String must be one of: delete, compact",
        );
        check(
            "cleanup.policy",
            "",
            "Invalid value  for configuration cleanup.policy: String must be one of: delete, compact",
        );
        check(
            "min.cleanable.dirty.ratio",
            "2",
            "Invalid value 2 for configuration min.cleanable.dirty.ratio: Value must be between 0 and 1",
        );
    }

    #[test]
    fn values_are_resolved_over_the_brokers_defaults() {
        let defaults = BrokerDefaults::from([("retention.ms".into(), "5".into()), ("segment.ms".into(), "7".into())]);
        let overrides =
            BTreeMap::from([("retention.ms".into(), "9".into()), ("cleanup.policy".into(), "compact, delete".into())]);
        let config = TopicConfig::resolve(&overrides, &defaults).unwrap();
        assert_eq!((config.retention_ms, config.segment_ms), (9, 7));
        assert_eq!(config.cleanup_policy, CleanupPolicy { delete: true, compact: true });
        assert_eq!(config.overrides().len(), 2);
    }
}
