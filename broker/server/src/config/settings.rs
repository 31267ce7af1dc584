//! The table of settings: names, documentation, ranges, and how each is read from and written to [`Config`].

use std::path::PathBuf;

use super::{Address, Config, Durability, LogFormat, Problem, document::topic_defaults, parse::Value};
use crate::logging;

/// One setting.
#[derive(Debug)]
pub struct Setting {
    pub name: &'static str,
    /// The heading under which the documented file shows it.
    pub section: &'static str,
    /// What it decides, in whole sentences.
    pub help: &'static str,
    /// `bytes`, `milliseconds`, ...; empty where there is none.
    pub unit: &'static str,
    /// Whether it is Apache Kafka's setting of that name.
    pub is_kafka: bool,
    pub kind: Kind,
}

/// What values a setting takes, and where it is kept.
#[derive(Debug)]
pub enum Kind {
    Text {
        get: fn(&Config) -> Option<String>,
        set: fn(&mut Config, String),
    },
    /// What is logged, as `tracing` takes it.
    LogFilter {
        get: fn(&Config) -> &str,
        set: fn(&mut Config, String),
    },
    Path {
        get: fn(&Config) -> Option<PathBuf>,
        set: fn(&mut Config, PathBuf),
    },
    Address {
        get: fn(&Config) -> Option<&Address>,
        set: fn(&mut Config, Address),
    },
    Boolean {
        get: fn(&Config) -> bool,
        set: fn(&mut Config, bool),
    },
    Choice {
        values: &'static [&'static str],
        get: fn(&Config) -> usize,
        set: fn(&mut Config, usize),
    },
    Integer {
        min: i64,
        max: i64,
        get: fn(&Config) -> i64,
        set: fn(&mut Config, i64),
    },
    /// The default of a topic's configuration, kept by the topic's name for it.
    Topic {
        topic_name: &'static str,
        default: &'static str,
        rule: TopicRule,
    },
}

/// What the values of a topic's configuration must be.
#[derive(Clone, Copy, Debug)]
pub enum TopicRule {
    Integer {
        min: i64,
        max: i64,
    },
    Fraction,
    OneOf(&'static [&'static str]),
    /// Some of these, separated by commas.
    ListOf(&'static [&'static str]),
}

impl Setting {
    pub(super) fn set(&self, config: &mut Config, value: &Value) -> Result<(), Problem> {
        let bad = || Problem::BadValue { key: self.name, expected: self.expected(), found: describe(value) };
        match &self.kind {
            // What has no default is shown with an empty text, and may stand so.
            Kind::Text { get, .. } if text_of(value) == Some("") && get(&Config::default()).is_none() => {}
            Kind::Path { get, .. } if text_of(value) == Some("") && get(&Config::default()).is_none() => {}
            Kind::Address { get, .. } if text_of(value) == Some("") && get(&Config::default()).is_none() => {}
            Kind::Text { set, .. } => set(config, text_of(value).ok_or_else(bad)?.to_owned()),
            Kind::LogFilter { set, .. } => {
                let text = text_of(value).filter(|text| logging::is_filter(text)).ok_or_else(bad)?;
                set(config, text.to_owned());
            }
            Kind::Path { set, .. } => {
                let text = text_of(value).filter(|text| !text.is_empty() && !text.contains('\0')).ok_or_else(bad)?;
                set(config, PathBuf::from(text));
            }
            Kind::Address { set, .. } => set(config, text_of(value).and_then(Address::parse).ok_or_else(bad)?),
            Kind::Boolean { set, .. } => set(
                config,
                match value {
                    Value::Boolean(value) => *value,
                    Value::Unquoted(text) => text.parse().map_err(|_| bad())?,
                    _ => return Err(bad()),
                },
            ),
            Kind::Choice { values, set, .. } => {
                let text = text_of(value).ok_or_else(bad)?;
                set(config, values.iter().position(|known| *known == text).ok_or_else(bad)?);
            }
            Kind::Integer { min, max, set, .. } => {
                let number = integer_of(value).filter(|number| (*min..=*max).contains(number)).ok_or_else(bad)?;
                set(config, number);
            }
            Kind::Topic { topic_name, rule, .. } => {
                let text = rule.text(value).ok_or_else(bad)?;
                config.topic_defaults.insert(topic_name, text);
            }
        }
        Ok(())
    }

    pub(super) fn get(&self, config: &Config) -> Option<String> {
        match &self.kind {
            Kind::Text { get, .. } => get(config),
            Kind::LogFilter { get, .. } => Some(get(config).to_owned()),
            Kind::Path { get, .. } => get(config).map(|path| path.display().to_string()),
            Kind::Address { get, .. } => get(config).map(ToString::to_string),
            Kind::Boolean { get, .. } => Some(get(config).to_string()),
            Kind::Choice { values, get, .. } => Some(values[get(config)].to_owned()),
            Kind::Integer { get, .. } => Some(get(config).to_string()),
            Kind::Topic { topic_name, .. } => config.topic_defaults.get(topic_name).cloned(),
        }
    }

    pub(super) fn integer(&self, config: &Config) -> Option<i64> {
        match &self.kind {
            Kind::Integer { get, .. } => Some(get(config)),
            _ => None,
        }
    }

    /// What its values must be, in words.
    pub fn expected(&self) -> String {
        match &self.kind {
            Kind::Text { .. } => "a text".to_owned(),
            Kind::LogFilter { .. } => {
                "a level (error, warn, info, debug, trace) or a list such as info,tidegate_storage=debug".to_owned()
            }
            Kind::Path { .. } => "a path".to_owned(),
            Kind::Address { .. } => "HOST:PORT".to_owned(),
            Kind::Boolean { .. } => "true or false".to_owned(),
            Kind::Choice { values, .. } => values.join(" or "),
            Kind::Integer { min, max, .. } => integers(*min, *max),
            Kind::Topic { rule, .. } => rule.expected(),
        }
    }
}

impl TopicRule {
    fn expected(self) -> String {
        match self {
            Self::Integer { min, max } => integers(min, max),
            Self::Fraction => "a number from 0 to 1".to_owned(),
            Self::OneOf(values) => values.join(" or "),
            Self::ListOf(values) => format!("some of {}, separated by commas", values.join(", ")),
        }
    }

    /// The value as topics' configurations are kept, if it may be one.
    fn text(self, value: &Value) -> Option<String> {
        match self {
            Self::Integer { min, max } => {
                integer_of(value).filter(|number| (min..=max).contains(number)).map(|number| number.to_string())
            }
            Self::Fraction => {
                let number = match value {
                    Value::Float(number) => *number,
                    Value::Integer(number) => *number as f64,
                    Value::Text(text) | Value::Unquoted(text) => text.parse().ok()?,
                    _ => return None,
                };
                (0.0..=1.0).contains(&number).then(|| number.to_string())
            }
            Self::OneOf(values) => text_of(value).filter(|text| values.contains(text)).map(str::to_owned),
            Self::ListOf(values) => text_of(value)
                .filter(|text| text.split(',').all(|part| values.contains(&part.trim())))
                .map(|text| text.replace(' ', "")),
        }
    }
}

fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) | Value::Unquoted(text) => Some(text),
        _ => None,
    }
}

fn integer_of(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(number) => Some(*number),
        Value::Unquoted(text) => text.parse().ok(),
        _ => None,
    }
}

fn integers(min: i64, max: i64) -> String {
    match (min, max) {
        (min, i64::MAX) => format!("a whole number, at least {min}"),
        (min, max) => format!("a whole number from {min} to {max}"),
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Text(text) | Value::Unquoted(text) => format!("{text:?}"),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(value) => value.to_string(),
        Value::Other(what) => (*what).to_owned(),
    }
}

/// Every setting, in the order in which the documented file shows them.
pub static SETTINGS: &[Setting] = &[
    Setting {
        name: "data-dir",
        section: "The broker",
        help: "Where everything is kept. One broker a directory.",
        unit: "",
        is_kafka: false,
        kind: Kind::Path { get: |config| Some(config.data_dir.clone()), set: |config, path| config.data_dir = path },
    },
    Setting {
        name: "listen",
        section: "The broker",
        help: "Where Kafka clients connect. Port 0 takes a free one.",
        unit: "",
        is_kafka: false,
        kind: Kind::Address { get: |config| Some(&config.listen), set: |config, address| config.listen = address },
    },
    Setting {
        name: "advertise",
        section: "The broker",
        help: "Where clients elsewhere reach this broker; without it, where it listens. Port 0 stands for the port it listens on.",
        unit: "",
        is_kafka: false,
        kind: Kind::Address {
            get: |config| config.advertise.as_ref(),
            set: |config, address| config.advertise = Some(address),
        },
    },
    Setting {
        name: "admin",
        section: "The broker",
        help: "Where the admin endpoint listens: health, metrics, plugins. Port 0 takes a free one. Beyond loopback it needs admin-token-file.",
        unit: "",
        is_kafka: false,
        kind: Kind::Address { get: |config| Some(&config.admin), set: |config, address| config.admin = address },
    },
    Setting {
        name: "admin-token-file",
        section: "The broker",
        help: "A file whose first line is the secret that requests to the admin endpoint must carry (Authorization: Bearer SECRET).",
        unit: "",
        is_kafka: false,
        kind: Kind::Path {
            get: |config| config.admin_token_file.clone(),
            set: |config, path| config.admin_token_file = Some(path),
        },
    },
    Setting {
        name: "shards",
        section: "The broker",
        help: "How many cores serve partitions. 0 takes all of them. It may change between two runs: partitions move.",
        unit: "",
        is_kafka: false,
        kind: Kind::Integer {
            min: 0,
            max: 1024,
            get: |config| i64::from(config.shards),
            set: |config, number| config.shards = number as u16,
        },
    },
    Setting {
        name: "durability",
        section: "The broker",
        help: "What an acknowledgement means: fsync, the disk has the records; os, the operating system has them, as with Apache Kafka, and a power failure may take them. A topic may say otherwise (tidegate.durability).",
        unit: "",
        is_kafka: false,
        kind: Kind::Choice {
            values: &["fsync", "os"],
            get: |config| usize::from(config.durability == Durability::Os),
            set: |config, choice| config.durability = [Durability::Fsync, Durability::Os][choice],
        },
    },
    Setting {
        name: "node-id",
        section: "The broker",
        help: "Which broker of the cluster this is. A data directory keeps it.",
        unit: "",
        is_kafka: false,
        kind: Kind::Integer {
            min: 0,
            max: i32::MAX as i64,
            get: |config| i64::from(config.node_id),
            set: |config, number| config.node_id = number as i32,
        },
    },
    Setting {
        name: "broker.rack",
        section: "The broker",
        help: "Where this broker stands, as clients are told, so that they may read from nearby.",
        unit: "",
        is_kafka: true,
        kind: Kind::Text { get: |config| config.rack.clone(), set: |config, text| config.rack = Some(text) },
    },
    Setting {
        name: "log-format",
        section: "The broker",
        help: "How logs are written to standard error.",
        unit: "",
        is_kafka: false,
        kind: Kind::Choice {
            values: &["text", "json"],
            get: |config| usize::from(config.log_format == LogFormat::Json),
            set: |config, choice| config.log_format = [LogFormat::Text, LogFormat::Json][choice],
        },
    },
    Setting {
        name: "log-filter",
        section: "The broker",
        help: "What is logged, also by module.",
        unit: "",
        is_kafka: false,
        kind: Kind::LogFilter { get: |config| &config.log_filter, set: |config, text| config.log_filter = text },
    },
    Setting {
        name: "auto.create.topics.enable",
        section: "Topics",
        help: "Whether a topic is created when a client first asks for it (and the client allows it).",
        unit: "",
        is_kafka: true,
        kind: Kind::Boolean {
            get: |config| config.auto_create_topics,
            set: |config, value| config.auto_create_topics = value,
        },
    },
    Setting {
        name: "num.partitions",
        section: "Topics",
        help: "How many partitions a topic has that is created without a number.",
        unit: "",
        is_kafka: true,
        kind: Kind::Integer {
            min: 1,
            max: 10000,
            get: |config| i64::from(config.default_partitions),
            set: |config, number| config.default_partitions = number as i32,
        },
    },
    Setting {
        name: "message.max.bytes",
        section: "Topics",
        help: "How large a record batch may be, as it is sent. A topic may say otherwise (max.message.bytes).",
        unit: "bytes",
        is_kafka: true,
        kind: Kind::Integer {
            min: 0,
            max: i32::MAX as i64,
            get: |config| config.message_bytes_max as i64,
            set: |config, number| config.message_bytes_max = number as usize,
        },
    },
    Setting {
        name: "max.decompressed.message.bytes",
        section: "Topics",
        help: "How large a record batch may become when it is decompressed for plugins, validation or compaction. Larger ones are refused.",
        unit: "bytes",
        is_kafka: false,
        kind: Kind::Integer {
            min: 1024,
            max: i32::MAX as i64,
            get: |config| config.decompressed_message_bytes_max as i64,
            set: |config, number| config.decompressed_message_bytes_max = number as usize,
        },
    },
    Setting {
        name: "log.cleanup.policy",
        section: "Topics",
        help: "What happens to old records: deleted by age and size, or all but the newest of each key removed, or both.",
        unit: "",
        is_kafka: true,
        kind: Kind::Topic {
            topic_name: "cleanup.policy",
            default: "delete",
            rule: TopicRule::ListOf(&["delete", "compact"]),
        },
    },
    Setting {
        name: "log.retention.ms",
        section: "Topics",
        help: "How long records are kept. -1: for ever.",
        unit: "milliseconds",
        is_kafka: true,
        kind: Kind::Topic {
            topic_name: "retention.ms",
            default: "604800000",
            rule: TopicRule::Integer { min: -1, max: i64::MAX },
        },
    },
    Setting {
        name: "log.retention.bytes",
        section: "Topics",
        help: "How much of a partition is kept. -1: everything.",
        unit: "bytes",
        is_kafka: true,
        kind: Kind::Topic {
            topic_name: "retention.bytes",
            default: "-1",
            rule: TopicRule::Integer { min: -1, max: i64::MAX },
        },
    },
    Setting {
        name: "log.segment.bytes",
        section: "Topics",
        help: "How large a segment file grows.",
        unit: "bytes",
        is_kafka: true,
        kind: Kind::Topic {
            topic_name: "segment.bytes",
            default: "1073741824",
            rule: TopicRule::Integer { min: 1048576, max: i32::MAX as i64 },
        },
    },
    Setting {
        name: "log.roll.ms",
        section: "Topics",
        help: "How long a segment is appended to, so that retention and compaction get at it.",
        unit: "milliseconds",
        is_kafka: true,
        kind: Kind::Topic {
            topic_name: "segment.ms",
            default: "604800000",
            rule: TopicRule::Integer { min: 1, max: i64::MAX },
        },
    },
    Setting {
        name: "log.message.timestamp.type",
        section: "Topics",
        help: "Whether records keep the timestamp that their producer gave them or get that of the broker.",
        unit: "",
        is_kafka: true,
        kind: Kind::Topic {
            topic_name: "message.timestamp.type",
            default: "CreateTime",
            rule: TopicRule::OneOf(&["CreateTime", "LogAppendTime"]),
        },
    },
    Setting {
        name: "log.message.timestamp.before.max.ms",
        section: "Topics",
        help: "How far a record's timestamp may lie before the broker's clock.",
        unit: "milliseconds",
        is_kafka: true,
        kind: Kind::Topic {
            topic_name: "message.timestamp.before.max.ms",
            default: "9223372036854775807",
            rule: TopicRule::Integer { min: 0, max: i64::MAX },
        },
    },
    Setting {
        name: "log.message.timestamp.after.max.ms",
        section: "Topics",
        help: "How far a record's timestamp may lie after the broker's clock.",
        unit: "milliseconds",
        is_kafka: true,
        kind: Kind::Topic {
            topic_name: "message.timestamp.after.max.ms",
            default: "3600000",
            rule: TopicRule::Integer { min: 0, max: i64::MAX },
        },
    },
    Setting {
        name: "compression.type",
        section: "Topics",
        help: "How batches are compressed: as the producer did it (and then nothing is done), or so.",
        unit: "",
        is_kafka: true,
        kind: Kind::Topic {
            topic_name: "compression.type",
            default: "producer",
            rule: TopicRule::OneOf(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]),
        },
    },
    Setting {
        name: "min.insync.replicas",
        section: "Topics",
        help: "How many replicas must have a write with acks=all.",
        unit: "",
        is_kafka: true,
        kind: Kind::Topic {
            topic_name: "min.insync.replicas",
            default: "1",
            rule: TopicRule::Integer { min: 1, max: i32::MAX as i64 },
        },
    },
    Setting {
        name: "log.cleaner.min.compaction.lag.ms",
        section: "Topics",
        help: "How long a record is safe from compaction.",
        unit: "milliseconds",
        is_kafka: true,
        kind: Kind::Topic {
            topic_name: "min.compaction.lag.ms",
            default: "0",
            rule: TopicRule::Integer { min: 0, max: i64::MAX },
        },
    },
    Setting {
        name: "log.cleaner.max.compaction.lag.ms",
        section: "Topics",
        help: "After how long a record is compacted at the latest.",
        unit: "milliseconds",
        is_kafka: true,
        kind: Kind::Topic {
            topic_name: "max.compaction.lag.ms",
            default: "9223372036854775807",
            rule: TopicRule::Integer { min: 1, max: i64::MAX },
        },
    },
    Setting {
        name: "log.cleaner.delete.retention.ms",
        section: "Topics",
        help: "How long a deletion (a record without a value) stays in a compacted topic.",
        unit: "milliseconds",
        is_kafka: true,
        kind: Kind::Topic {
            topic_name: "delete.retention.ms",
            default: "86400000",
            rule: TopicRule::Integer { min: 0, max: i64::MAX },
        },
    },
    Setting {
        name: "log.cleaner.min.cleanable.ratio",
        section: "Topics",
        help: "Which part of a log must be uncompacted before it is compacted.",
        unit: "",
        is_kafka: true,
        kind: Kind::Topic { topic_name: "min.cleanable.dirty.ratio", default: "0.5", rule: TopicRule::Fraction },
    },
    Setting {
        name: "log.retention.check.interval.ms",
        section: "Topics",
        help: "How often retention is looked at.",
        unit: "milliseconds",
        is_kafka: true,
        kind: Kind::Integer {
            min: 1,
            max: i64::MAX,
            get: |config| config.retention_check_interval_ms as i64,
            set: |config, number| config.retention_check_interval_ms = number as u64,
        },
    },
    Setting {
        name: "producer.id.expiration.ms",
        section: "Topics",
        help: "How long an idle producer's last batches are remembered, by the broker's clock.",
        unit: "milliseconds",
        is_kafka: true,
        kind: Kind::Integer {
            min: 1,
            max: i64::MAX,
            get: |config| config.producer_id_expiration_ms,
            set: |config, number| config.producer_id_expiration_ms = number,
        },
    },
    Setting {
        name: "group.min.session.timeout.ms",
        section: "Consumer groups",
        help: "The shortest session timeout that a member may ask for.",
        unit: "milliseconds",
        is_kafka: true,
        kind: Kind::Integer {
            min: 1,
            max: i32::MAX as i64,
            get: |config| i64::from(config.group_session_timeout_ms_min),
            set: |config, number| config.group_session_timeout_ms_min = number as i32,
        },
    },
    Setting {
        name: "group.max.session.timeout.ms",
        section: "Consumer groups",
        help: "The longest session timeout that a member may ask for.",
        unit: "milliseconds",
        is_kafka: true,
        kind: Kind::Integer {
            min: 1,
            max: i32::MAX as i64,
            get: |config| i64::from(config.group_session_timeout_ms_max),
            set: |config, number| config.group_session_timeout_ms_max = number as i32,
        },
    },
    Setting {
        name: "group.initial.rebalance.delay.ms",
        section: "Consumer groups",
        help: "How long a new group waits for more members before its first assignment.",
        unit: "milliseconds",
        is_kafka: true,
        kind: Kind::Integer {
            min: 0,
            max: i32::MAX as i64,
            get: |config| i64::from(config.group_initial_rebalance_delay_ms),
            set: |config, number| config.group_initial_rebalance_delay_ms = number as i32,
        },
    },
    Setting {
        name: "group.max.size",
        section: "Consumer groups",
        help: "How many members a group may have.",
        unit: "",
        is_kafka: true,
        kind: Kind::Integer {
            min: 1,
            max: i32::MAX as i64,
            get: |config| i64::from(config.group_size_max),
            set: |config, number| config.group_size_max = number as i32,
        },
    },
    Setting {
        name: "group.consumer.session.timeout.ms",
        section: "Consumer groups",
        help: "After how long without a heartbeat a member of the newer protocol (KIP-848) is taken for gone.",
        unit: "milliseconds",
        is_kafka: true,
        kind: Kind::Integer {
            min: 1,
            max: i32::MAX as i64,
            get: |config| i64::from(config.group_consumer_session_timeout_ms),
            set: |config, number| config.group_consumer_session_timeout_ms = number as i32,
        },
    },
    Setting {
        name: "group.consumer.heartbeat.interval.ms",
        section: "Consumer groups",
        help: "How often a member of the newer protocol is told to send a heartbeat.",
        unit: "milliseconds",
        is_kafka: true,
        kind: Kind::Integer {
            min: 1,
            max: i32::MAX as i64,
            get: |config| i64::from(config.group_consumer_heartbeat_interval_ms),
            set: |config, number| config.group_consumer_heartbeat_interval_ms = number as i32,
        },
    },
    Setting {
        name: "group.consumer.max.size",
        section: "Consumer groups",
        help: "How many members a group of the newer protocol may have.",
        unit: "",
        is_kafka: true,
        kind: Kind::Integer {
            min: 1,
            max: i32::MAX as i64,
            get: |config| i64::from(config.group_consumer_size_max),
            set: |config, number| config.group_consumer_size_max = number as i32,
        },
    },
    Setting {
        name: "offsets.retention.minutes",
        section: "Consumer groups",
        help: "How long the offsets of a group without members are kept.",
        unit: "minutes",
        is_kafka: true,
        kind: Kind::Integer {
            min: 1,
            max: i32::MAX as i64,
            get: |config| config.offsets_retention_minutes,
            set: |config, number| config.offsets_retention_minutes = number,
        },
    },
    Setting {
        name: "offsets.retention.check.interval.ms",
        section: "Consumer groups",
        help: "How often offsets are looked at for that.",
        unit: "milliseconds",
        is_kafka: true,
        kind: Kind::Integer {
            min: 1,
            max: i64::MAX,
            get: |config| config.offsets_retention_check_interval_ms as i64,
            set: |config, number| config.offsets_retention_check_interval_ms = number as u64,
        },
    },
    Setting {
        name: "offset.metadata.max.bytes",
        section: "Consumer groups",
        help: "How much text a consumer may commit beside an offset.",
        unit: "bytes",
        is_kafka: true,
        kind: Kind::Integer {
            min: 0,
            max: i32::MAX as i64,
            get: |config| config.offset_metadata_bytes_max as i64,
            set: |config, number| config.offset_metadata_bytes_max = number as usize,
        },
    },
    Setting {
        name: "max.connections",
        section: "Connections",
        help: "How many connections are served at once; more are closed as they come.",
        unit: "",
        is_kafka: true,
        kind: Kind::Integer {
            min: 1,
            max: u32::MAX as i64,
            get: |config| i64::from(config.connections_max),
            set: |config, number| config.connections_max = number as u32,
        },
    },
    Setting {
        name: "connections.max.idle.ms",
        section: "Connections",
        help: "After how long without a request a connection is closed.",
        unit: "milliseconds",
        is_kafka: true,
        kind: Kind::Integer {
            min: 1,
            max: i64::MAX,
            get: |config| config.connections_max_idle_ms as i64,
            set: |config, number| config.connections_max_idle_ms = number as u64,
        },
    },
    Setting {
        name: "socket.request.max.bytes",
        section: "Connections",
        help: "How large a request may be; a connection that announces a larger one is closed.",
        unit: "bytes",
        is_kafka: true,
        kind: Kind::Integer {
            min: 1024,
            max: i32::MAX as i64,
            get: |config| config.request_bytes_max as i64,
            set: |config, number| config.request_bytes_max = number as usize,
        },
    },
    Setting {
        name: "queued.max.request.bytes",
        section: "Connections",
        help: "How much memory large requests may take while they are received, in the whole broker, and as much again answers that clients do not take. Beyond it sockets are not read from.",
        unit: "bytes",
        is_kafka: true,
        kind: Kind::Integer {
            min: 65536,
            max: i64::MAX,
            get: |config| config.requests_in_flight_bytes_max as i64,
            set: |config, number| config.requests_in_flight_bytes_max = number as u64,
        },
    },
    Setting {
        name: "fetch.max.bytes",
        section: "Connections",
        help: "How much one fetch is answered with at most.",
        unit: "bytes",
        is_kafka: true,
        kind: Kind::Integer {
            min: 1024,
            max: i32::MAX as i64,
            get: |config| config.fetch_bytes_max as i64,
            set: |config, number| config.fetch_bytes_max = number as usize,
        },
    },
    Setting {
        name: "max.incremental.fetch.session.cache.slots",
        section: "Connections",
        help: "How many fetch sessions are kept.",
        unit: "",
        is_kafka: true,
        kind: Kind::Integer {
            min: 0,
            max: i32::MAX as i64,
            get: |config| i64::from(config.fetch_sessions_max),
            set: |config, number| config.fetch_sessions_max = number as u32,
        },
    },
    Setting {
        name: "tail.cache.bytes",
        section: "Disk and memory",
        help: "How much of the newest records is kept in memory for consumers, in the whole broker.",
        unit: "bytes",
        is_kafka: false,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
            get: |config| config.tail_cache_bytes as i64,
            set: |config, number| config.tail_cache_bytes = number as u64,
        },
    },
    Setting {
        name: "journal.bytes",
        section: "Disk and memory",
        help: "How large the journal of each shard grows. A larger one lets records reach their segments in larger pieces, and takes longer to replay.",
        unit: "bytes",
        is_kafka: false,
        kind: Kind::Integer {
            min: 192 << 20,
            max: i64::MAX,
            get: |config| config.journal_bytes as i64,
            set: |config, number| config.journal_bytes = number as u64,
        },
    },
    Setting {
        name: "direct.write.min.bytes",
        section: "Disk and memory",
        help: "From how many pending bytes a partition's records go straight into its segment and not through the journal.",
        unit: "bytes",
        is_kafka: false,
        kind: Kind::Integer {
            min: 4096,
            max: i32::MAX as i64,
            get: |config| config.direct_write_bytes_min as i64,
            set: |config, number| config.direct_write_bytes_min = number as usize,
        },
    },
    Setting {
        name: "open.files.max",
        section: "Disk and memory",
        help: "How many log files are open at once, in the whole broker.",
        unit: "files",
        is_kafka: false,
        kind: Kind::Integer {
            min: 64,
            max: u32::MAX as i64,
            get: |config| i64::from(config.open_files_max),
            set: |config, number| config.open_files_max = number as u32,
        },
    },
    Setting {
        name: "object.store.url",
        section: "Object store",
        help: "Where retention plugins may send segments: file:///DIRECTORY (on another disk, say) or s3://BUCKET/PREFIX. A store that segments were \
               sent to stays needed as long as they are read. No two clusters may share a prefix.",
        unit: "",
        is_kafka: false,
        kind: Kind::Text {
            get: |config| config.object_store_url.clone(),
            set: |config, text| config.object_store_url = Some(text),
        },
    },
    Setting {
        name: "object.store.endpoint",
        section: "Object store",
        help: "The S3-compatible server, as a URL with its port; not needed for Amazon's own.",
        unit: "",
        is_kafka: false,
        kind: Kind::Text {
            get: |config| config.object_store_endpoint.clone(),
            set: |config, text| config.object_store_endpoint = Some(text),
        },
    },
    Setting {
        name: "object.store.region",
        section: "Object store",
        help: "The bucket's region; else AWS_REGION of the environment, or us-east-1.",
        unit: "",
        is_kafka: false,
        kind: Kind::Text {
            get: |config| config.object_store_region.clone(),
            set: |config, text| config.object_store_region = Some(text),
        },
    },
    Setting {
        name: "object.store.access.key.file",
        section: "Object store",
        help: "A file whose first line is the access key; without it the environment (AWS_ACCESS_KEY_ID and its like) or the machine's role has it.",
        unit: "",
        is_kafka: false,
        kind: Kind::Path {
            get: |config| config.object_store_access_key_file.clone(),
            set: |config, path| config.object_store_access_key_file = Some(path),
        },
    },
    Setting {
        name: "object.store.secret.key.file",
        section: "Object store",
        help: "A file whose first line is the secret key that goes with the access key.",
        unit: "",
        is_kafka: false,
        kind: Kind::Path {
            get: |config| config.object_store_secret_key_file.clone(),
            set: |config, path| config.object_store_secret_key_file = Some(path),
        },
    },
    Setting {
        name: "object.store.allow.http",
        section: "Object store",
        help: "Whether the endpoint may be reached without TLS.",
        unit: "",
        is_kafka: false,
        kind: Kind::Boolean {
            get: |config| config.object_store_allow_http,
            set: |config, value| config.object_store_allow_http = value,
        },
    },
    Setting {
        name: "object.store.timeout.ms",
        section: "Object store",
        help: "How long a read of an offloaded segment may take; its consumer then gets KAFKA_STORAGE_ERROR and tries again.",
        unit: "milliseconds",
        is_kafka: false,
        kind: Kind::Integer {
            min: 100,
            max: 600_000,
            get: |config| config.object_store_timeout_ms as i64,
            set: |config, number| config.object_store_timeout_ms = number as u64,
        },
    },
    Setting {
        name: "plugin.upload.max.bytes",
        section: "Plugins",
        help: "How large a plugin may be that is uploaded.",
        unit: "bytes",
        is_kafka: false,
        kind: Kind::Integer {
            min: 1024,
            max: i32::MAX as i64,
            get: |config| config.plugin_upload_bytes_max as i64,
            set: |config, number| config.plugin_upload_bytes_max = number as usize,
        },
    },
    Setting {
        name: "plugin.memory.max.bytes",
        section: "Plugins",
        help: "How much memory one instance of a plugin may use.",
        unit: "bytes",
        is_kafka: false,
        kind: Kind::Integer {
            min: 65536,
            max: 4 << 30,
            get: |config| config.plugin_memory_bytes_max as i64,
            set: |config, number| config.plugin_memory_bytes_max = number as u64,
        },
    },
    Setting {
        name: "plugin.output.max.bytes",
        section: "Plugins",
        help: "How much one call of a plugin may hand over: its answer, its lines of log.",
        unit: "bytes",
        is_kafka: false,
        kind: Kind::Integer {
            min: 1024,
            max: 1 << 30,
            get: |config| config.plugin_output_bytes_max as i64,
            set: |config, number| config.plugin_output_bytes_max = number as u64,
        },
    },
    Setting {
        name: "plugin.deadline.ms",
        section: "Plugins",
        help: "How long one call of a plugin on the produce path may take.",
        unit: "milliseconds",
        is_kafka: false,
        kind: Kind::Integer {
            min: 1,
            max: 60000,
            get: |config| i64::from(config.plugin_deadline_ms),
            set: |config, number| config.plugin_deadline_ms = number as u32,
        },
    },
    Setting {
        name: "plugin.core.max.percent",
        section: "Plugins",
        help: "What plugins may take of each shard's core. Who sends to topics whose plugins take more is told to wait (throttle_time_ms); \
               100: there is no bound.",
        unit: "percent",
        is_kafka: false,
        kind: Kind::Integer {
            min: 1,
            max: 100,
            get: |config| i64::from(config.plugin_core_percent_max),
            set: |config, number| config.plugin_core_percent_max = number as u32,
        },
    },
];

impl Default for Config {
    fn default() -> Self {
        let local = |port| Address { host: "127.0.0.1".to_owned(), port };
        Self {
            data_dir: PathBuf::from("./tidegate-data"),
            listen: local(9092),
            advertise: None,
            admin: local(9644),
            admin_token_file: None,
            durability: Durability::Fsync,
            rack: None,
            log_format: LogFormat::Text,
            log_filter: "info".to_owned(),
            topic_defaults: topic_defaults(),
            shards: 0,
            node_id: 1,
            auto_create_topics: true,
            default_partitions: 1,
            message_bytes_max: 1_048_588,
            decompressed_message_bytes_max: 100 << 20,
            retention_check_interval_ms: 300_000,
            producer_id_expiration_ms: 86_400_000,
            group_session_timeout_ms_min: 6000,
            group_session_timeout_ms_max: 1_800_000,
            group_initial_rebalance_delay_ms: 3000,
            group_size_max: i32::MAX,
            group_consumer_session_timeout_ms: 45_000,
            group_consumer_heartbeat_interval_ms: 5000,
            group_consumer_size_max: i32::MAX,
            offsets_retention_minutes: 10_080,
            offsets_retention_check_interval_ms: 600_000,
            offset_metadata_bytes_max: 4096,
            connections_max: 10_000,
            connections_max_idle_ms: 600_000,
            request_bytes_max: 100 << 20,
            requests_in_flight_bytes_max: 128 << 20,
            fetch_bytes_max: 55 << 20,
            fetch_sessions_max: 1000,
            tail_cache_bytes: 24 << 20,
            journal_bytes: 1 << 30,
            direct_write_bytes_min: 16 << 10,
            open_files_max: 4096,
            object_store_url: None,
            object_store_endpoint: None,
            object_store_region: None,
            object_store_access_key_file: None,
            object_store_secret_key_file: None,
            object_store_allow_http: false,
            object_store_timeout_ms: 10_000,
            plugin_upload_bytes_max: 64 << 20,
            plugin_memory_bytes_max: 64 << 20,
            plugin_output_bytes_max: 16 << 20,
            plugin_deadline_ms: 5,
            plugin_core_percent_max: 50,
        }
    }
}
