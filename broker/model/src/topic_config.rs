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
    /// The levels of gzip, or -1 for its default.
    GzipLevel,
    Fraction,
    Boolean,
    OneOf(&'static [&'static str]),
    /// A comma-separated list of these; it may be empty. What stands there twice counts once.
    ListOf(&'static [&'static str]),
    /// `*`, or a comma-separated list of `partition:broker`; it may be empty (KIP-73).
    ThrottledReplicas,
    /// There is no tiered storage: off.
    Off,
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
const ON_FAILURE: &[&str] = &["reject", "bypass", "dead-letter"];
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
        Allowed::ListOf(&["compact", "delete"]),
        "What happens to old records: `delete` by time or size, `compact` to the last value of each key, or both. Empty: nothing.",
    ),
    key(
        "compression.gzip.level",
        ConfigType::Int,
        "-1",
        "compression.gzip.level",
        Allowed::GzipLevel,
        "Level used when the broker compresses with gzip; -1 is the codec's default.",
    ),
    key(
        "compression.lz4.level",
        ConfigType::Int,
        "9",
        "compression.lz4.level",
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
        "compression.zstd.level",
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
        Allowed::ThrottledReplicas,
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
        Allowed::ThrottledReplicas,
        "Accepted; there are no followers yet.",
    ),
    key(
        "local.retention.bytes",
        ConfigType::Long,
        "-2",
        "log.local.retention.bytes",
        Allowed::Integers { min: -2, max: i64::MAX },
        "Accepted; there is no tiered storage.",
    ),
    key(
        "local.retention.ms",
        ConfigType::Long,
        "-2",
        "log.local.retention.ms",
        Allowed::Integers { min: -2, max: i64::MAX },
        "Accepted; there is no tiered storage.",
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
        "message.downconversion.enable",
        ConfigType::Boolean,
        "true",
        "log.message.downconversion.enable",
        Allowed::Boolean,
        "Accepted; there is one message format, so nothing is converted (KIP-724).",
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
        "remote.log.copy.disable",
        ConfigType::Boolean,
        "false",
        "",
        Allowed::Boolean,
        "Accepted; there is no tiered storage.",
    ),
    key(
        "remote.log.delete.on.disable",
        ConfigType::Boolean,
        "false",
        "",
        Allowed::Boolean,
        "Accepted; there is no tiered storage.",
    ),
    key(
        "remote.storage.enable",
        ConfigType::Boolean,
        "false",
        "",
        Allowed::Off,
        "Tiered storage through a Kafka plugin does not exist here; only `false`.",
    ),
    key(
        "retention.bytes",
        ConfigType::Long,
        "-1",
        "log.retention.bytes",
        Allowed::Integers { min: i64::MIN, max: i64::MAX },
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
        "tidegate.ack",
        ConfigType::String,
        "",
        "",
        Allowed::Text,
        "The deployed plugin that says whether a batch is taken, and when its write counts as acknowledged.",
    ),
    key(
        "tidegate.ack.config",
        ConfigType::String,
        "",
        "",
        Allowed::Text,
        "The configuration of that plugin, as it asks for it.",
    ),
    key(
        "tidegate.ack.on.failure",
        ConfigType::String,
        "reject",
        "",
        Allowed::OneOf(ON_FAILURE),
        "When the acknowledgement plugin traps, fails or answers nonsense: the producer gets an error (`reject`), its own acks hold (`bypass`), or the records go to `tidegate.dead.letter.topic`.",
    ),
    key(
        "tidegate.ack.weaken",
        ConfigType::Boolean,
        "false",
        "",
        Allowed::Boolean,
        "Whether that plugin may acknowledge earlier than the producer asked for; without it, it can only make producers wait longer.",
    ),
    key(
        "tidegate.dead.letter.topic",
        ConfigType::String,
        "",
        "",
        Allowed::Text,
        "Where records go whose plugin failed, if its `on.failure` is `dead-letter`; headers say why (KIP-1317).",
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
        "tidegate.partitioner.on.failure",
        ConfigType::String,
        "reject",
        "",
        Allowed::OneOf(ON_FAILURE),
        "When the partitioner traps, fails or answers nonsense: the producer gets an error (`reject`), the partition that it chose is taken (`bypass`), or the records go to `tidegate.dead.letter.topic`.",
    ),
    key(
        "tidegate.plugin.deadline.ms",
        ConfigType::Int,
        "-1",
        "",
        FROM_MINUS_ONE,
        "Milliseconds for which a call of this topic's plugins may last: at most the broker's plugin.deadline.ms, which -1 stands for.",
    ),
    key(
        "tidegate.plugin.memory.max.bytes",
        ConfigType::Long,
        "-1",
        "",
        FROM_MINUS_ONE,
        "Bytes of memory that an instance of this topic's plugins may have: at most the broker's plugin.memory.max.bytes, which -1 stands for.",
    ),
    key(
        "tidegate.plugin.output.max.bytes",
        ConfigType::Long,
        "-1",
        "",
        FROM_MINUS_ONE,
        "Bytes that a call of this topic's plugins may answer with: at most the broker's limit, which -1 stands for.",
    ),
    key(
        "tidegate.retention",
        ConfigType::String,
        "",
        "",
        Allowed::Text,
        "The deployed plugin that says how long records are kept, instead of `retention.ms` and `retention.bytes`.",
    ),
    key(
        "tidegate.retention.config",
        ConfigType::String,
        "",
        "",
        Allowed::Text,
        "The configuration of that plugin, as it asks for it.",
    ),
    key(
        "tidegate.retention.floor.bytes",
        ConfigType::Long,
        "0",
        "",
        ANY_LONG,
        "Bytes of each partition that the retention plugin cannot go below.",
    ),
    key(
        "tidegate.retention.floor.ms",
        ConfigType::Long,
        "0",
        "",
        ANY_LONG,
        "Milliseconds for which records are kept whatever the retention plugin says.",
    ),
    key(
        "tidegate.retention.on.failure",
        ConfigType::String,
        "reject",
        "",
        Allowed::OneOf(&["reject", "bypass"]),
        "When the retention plugin traps, fails or answers nonsense: nothing is deleted (`reject`), or `retention.ms` and `retention.bytes` hold (`bypass`).",
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
        "tidegate.router.on.failure",
        ConfigType::String,
        "reject",
        "",
        Allowed::OneOf(ON_FAILURE),
        "When the router traps, fails or answers nonsense: the producer gets an error (`reject`), the records stay in this topic (`bypass`), or they go to `tidegate.dead.letter.topic`.",
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
        "tidegate.router.unroutable",
        ConfigType::String,
        "drop",
        "",
        Allowed::OneOf(&["drop", "reject", "alternate"]),
        "Records that the router sends nowhere: they are dropped, the producer gets an error for them, or they go to `tidegate.router.unroutable.topic`.",
    ),
    key(
        "tidegate.router.unroutable.topic",
        ConfigType::String,
        "",
        "",
        Allowed::Text,
        "The topic of records that the router sends nowhere, as RabbitMQ's alternate exchange.",
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
        let name = || self.name.to_owned();
        if value.len() > VALUE_BYTES_MAX {
            return Err(ConfigError::TooLong { name: name() });
        }
        let invalid =
            |value: &str, reason: String| Err(ConfigError::Invalid { name: name(), value: value.to_owned(), reason });
        let trimmed = value.trim();
        match self.allowed {
            Allowed::Text => Ok(()),
            Allowed::Boolean | Allowed::Off => match trimmed.to_ascii_lowercase().as_str() {
                "true" if self.allowed == Allowed::Off => Err(ConfigError::TieredStorage),
                "true" | "false" => Ok(()),
                _ => invalid(value, "Expected value to be either true or false".into()),
            },
            Allowed::Fraction => match trimmed.parse::<f64>() {
                Ok(number) if (0.0..=1.0).contains(&number) => Ok(()),
                Ok(number) if number < 0.0 => invalid(value, "Value must be at least 0".into()),
                Ok(_) => invalid(value, "Value must be no more than 1".into()),
                Err(_) => invalid(value, "Not a number of type DOUBLE".into()),
            },
            Allowed::Integers { min, max } => match self.integer(trimmed) {
                Some(number) if number < min => invalid(value, format!("Value must be at least {min}")),
                Some(number) if number > max => invalid(value, format!("Value must be no more than {max}")),
                Some(_) => Ok(()),
                None => invalid(value, self.not_a_number()),
            },
            Allowed::GzipLevel => match self.integer(trimmed) {
                Some(-1 | 1..=9) => Ok(()),
                Some(_) => invalid(value, "Value must be between 1 and 9 or equal to -1".into()),
                None => invalid(value, self.not_a_number()),
            },
            Allowed::OneOf(values) if values.contains(&trimmed) => Ok(()),
            Allowed::OneOf(values) => invalid(value, format!("String must be one of: {}", values.join(", "))),
            Allowed::ListOf(_) if trimmed.is_empty() => Ok(()),
            Allowed::ListOf(values) => match trimmed.split(',').map(str::trim).find(|part| !values.contains(part)) {
                None => Ok(()),
                Some("") => Err(ConfigError::EmptyListElement { name: name() }),
                Some(other) => invalid(other, format!("String must be one of: {}", values.join(", "))),
            },
            Allowed::ThrottledReplicas => {
                let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let replica = |part: &str| {
                    part.trim().split_once(':').is_some_and(|(partition, broker)| number(partition) && number(broker))
                };
                // Appending an empty value leaves a comma, which Apache Kafka takes.
                if matches!(trimmed, "" | "*") || trimmed.trim_end_matches(',').split(',').all(replica) {
                    return Ok(());
                }
                invalid(
                    &format!("[{trimmed}]"),
                    format!(
                        "{} must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],...",
                        self.name
                    ),
                )
            }
        }
    }

    /// A valid `value` as it is shown: without white space around it, booleans in lower case, nothing twice in a list.
    #[must_use]
    pub fn shown(&self, value: &str) -> String {
        let trimmed = value.trim();
        match self.kind {
            ConfigType::Boolean => trimmed.to_ascii_lowercase(),
            ConfigType::List => {
                let mut parts: Vec<&str> = Vec::new();
                for part in trimmed.split(',').map(str::trim) {
                    if !parts.contains(&part) {
                        parts.push(part);
                    }
                }
                parts.join(",")
            }
            ConfigType::Int | ConfigType::Long | ConfigType::Double => trimmed.to_owned(),
            ConfigType::String if matches!(self.allowed, Allowed::Text) => value.to_owned(),
            ConfigType::String => trimmed.to_owned(),
        }
    }

    /// Java's `Integer.parseInt` or `Long.parseLong`.
    fn integer(&self, text: &str) -> Option<i64> {
        if self.kind == ConfigType::Int { text.parse::<i32>().ok().map(i64::from) } else { text.parse().ok() }
    }

    fn not_a_number(&self) -> String {
        let kind = if self.kind == ConfigType::Int { "INT" } else { "LONG" };
        format!("Not a number of type {kind}")
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
