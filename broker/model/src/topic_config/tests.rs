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
        assert!(!key.documentation.is_empty());
    }
}

/// From `LogConfig.CONFIG` and `ServerTopicConfigSynonyms` of Apache Kafka 4.3: name, default, the broker's name for it.
#[test]
fn kafkas_keys_have_kafkas_defaults_and_synonyms() {
    for (name, default, synonym) in [
        ("cleanup.policy", "delete", "log.cleanup.policy"),
        ("compression.gzip.level", "-1", "compression.gzip.level"),
        ("compression.lz4.level", "9", "compression.lz4.level"),
        ("compression.type", "producer", "compression.type"),
        ("compression.zstd.level", "3", "compression.zstd.level"),
        ("delete.retention.ms", "86400000", "log.cleaner.delete.retention.ms"),
        ("file.delete.delay.ms", "60000", "log.segment.delete.delay.ms"),
        ("flush.messages", "9223372036854775807", "log.flush.interval.messages"),
        ("flush.ms", "9223372036854775807", "log.flush.interval.ms"),
        ("follower.replication.throttled.replicas", "", ""),
        ("index.interval.bytes", "4096", "log.index.interval.bytes"),
        ("leader.replication.throttled.replicas", "", ""),
        ("local.retention.bytes", "-2", "log.local.retention.bytes"),
        ("local.retention.ms", "-2", "log.local.retention.ms"),
        ("max.compaction.lag.ms", "9223372036854775807", "log.cleaner.max.compaction.lag.ms"),
        ("max.message.bytes", "1048588", "message.max.bytes"),
        ("message.timestamp.after.max.ms", "3600000", "log.message.timestamp.after.max.ms"),
        ("message.timestamp.before.max.ms", "9223372036854775807", "log.message.timestamp.before.max.ms"),
        ("message.timestamp.type", "CreateTime", "log.message.timestamp.type"),
        ("min.cleanable.dirty.ratio", "0.5", "log.cleaner.min.cleanable.ratio"),
        ("min.compaction.lag.ms", "0", "log.cleaner.min.compaction.lag.ms"),
        ("min.insync.replicas", "1", "min.insync.replicas"),
        ("preallocate", "false", "log.preallocate"),
        ("remote.log.copy.disable", "false", ""),
        ("remote.log.delete.on.disable", "false", ""),
        ("remote.storage.enable", "false", ""),
        ("retention.bytes", "-1", "log.retention.bytes"),
        ("retention.ms", "604800000", "log.retention.ms"),
        ("segment.bytes", "1073741824", "log.segment.bytes"),
        ("segment.index.bytes", "10485760", "log.index.size.max.bytes"),
        ("segment.jitter.ms", "0", "log.roll.jitter.ms"),
        ("segment.ms", "604800000", "log.roll.ms"),
        ("unclean.leader.election.enable", "false", "unclean.leader.election.enable"),
    ] {
        let key = topic_key(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!((key.default, key.synonym.unwrap_or("")), (default, synonym), "{name}");
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
    check("retention.ms", "", "Invalid value  for configuration retention.ms: Not a number of type LONG");
    check("retention.ms", "1.5", "Invalid value 1.5 for configuration retention.ms: Not a number of type LONG");
    check("segment.bytes", "1", "Invalid value 1 for configuration segment.bytes: Value must be at least 14");
    check(
        "segment.bytes",
        "2147483648",
        "Invalid value 2147483648 for configuration segment.bytes: Not a number of type INT",
    );
    check(
        "tidegate.plugin.deadline.ms",
        "0",
        "Invalid value 0 for configuration tidegate.plugin.deadline.ms: Value must be at least 1 or equal to -1",
    );
    check("segment.ms", "0", "Invalid value 0 for configuration segment.ms: Value must be at least 1");
    check(
        "min.insync.replicas",
        "0",
        "Invalid value 0 for configuration min.insync.replicas: Value must be at least 1",
    );
    check("max.message.bytes", "-1", "Invalid value -1 for configuration max.message.bytes: Value must be at least 0");
    check(
        "cleanup.policy",
        "delete,shred",
        "Invalid value shred for configuration cleanup.policy: String must be one of: compact, delete",
    );
    check("cleanup.policy", "delete,", "Configuration 'cleanup.policy' values must not be empty.");
    check(
        "compression.type",
        "brotli",
        "Invalid value brotli for configuration compression.type: String must be one of: uncompressed, zstd, lz4, snappy, gzip, producer",
    );
    check(
        "compression.gzip.level",
        "0",
        "Invalid value 0 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1",
    );
    check(
        "compression.lz4.level",
        "18",
        "Invalid value 18 for configuration compression.lz4.level: Value must be no more than 17",
    );
    check(
        "min.cleanable.dirty.ratio",
        "1.1",
        "Invalid value 1.1 for configuration min.cleanable.dirty.ratio: Value must be no more than 1",
    );
    check(
        "min.cleanable.dirty.ratio",
        "-0.1",
        "Invalid value -0.1 for configuration min.cleanable.dirty.ratio: Value must be at least 0",
    );
    check(
        "min.cleanable.dirty.ratio",
        "half",
        "Invalid value half for configuration min.cleanable.dirty.ratio: Not a number of type DOUBLE",
    );
    check(
        "message.timestamp.type",
        "createtime",
        "Invalid value createtime for configuration message.timestamp.type: String must be one of: CreateTime, LogAppendTime",
    );
    check(
        "preallocate",
        "yes",
        "Invalid value yes for configuration preallocate: Expected value to be either true or false",
    );
    check(
        "remote.storage.enable",
        "true",
        "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage.",
    );
    check(
        "tidegate.durability",
        "maybe",
        "Invalid value maybe for configuration tidegate.durability: String must be one of: fsync, os",
    );
    check(
        "tidegate.router.config",
        &"x".repeat(VALUE_BYTES_MAX + 1),
        "The configuration value of tidegate.router.config cannot be added because it exceeds the maximum value size of 32767 bytes.",
    );
}

#[test]
fn lags_that_cannot_both_hold_are_refused() {
    let refused = resolve(&[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "9")]).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "conflict topic config setting min.compaction.lag.ms (10) > max.compaction.lag.ms (9)"
    );
}

#[test]
fn good_values_are_taken_with_the_spaces_that_kafka_takes() {
    let config = resolve(&[
        ("cleanup.policy", " compact , delete "),
        ("compression.type", " zstd "),
        ("compression.zstd.level", " 19 "),
        ("message.timestamp.type", "LogAppendTime "),
        ("retention.bytes", "-7"),
        ("min.cleanable.dirty.ratio", ".25"),
        ("tidegate.durability", " os "),
        ("tidegate.router", "split"),
        ("tidegate.router.config", "{}"),
        ("tidegate.router.store", "TRUE"),
    ])
    .unwrap();
    assert_eq!(config.cleanup_policy, CleanupPolicy { delete: true, compact: true });
    assert_eq!((config.compression, config.compression_level()), (Some(Compression::Zstd), Some(19)));
    assert!(config.is_log_append_time() && !config.flush_before_acknowledging() && config.router_store);
    assert_eq!((config.retention_bytes, config.min_cleanable_dirty_ratio), (-7, 0.25));
    let (on_failure, limits) = (OnFailure::Reject, AttachmentLimits::default());
    assert_eq!(config.router, Some(Attachment { plugin: "split".into(), config: "{}".into(), on_failure, limits }));
    let nothing = resolve(&[("cleanup.policy", "")]).unwrap();
    assert_eq!(nothing.cleanup_policy, CleanupPolicy { delete: false, compact: false });
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

#[test]
fn replicas_to_throttle_are_pairs_or_a_star() {
    for good in ["", "*", "0:1", "0:1,12:3", " 0:1 , 2:3 ", "0:1,"] {
        assert!(resolve(&[("leader.replication.throttled.replicas", good)]).is_ok(), "{good}");
    }
    for bad in ["x", "0", "0:", ":1", "0:1,,1:1", "0:1:2", "-1:1"] {
        assert!(resolve(&[("follower.replication.throttled.replicas", bad)]).is_err(), "{bad}");
    }
}

/// Tools compare what they set with what they are shown: Kafka shows the parsed value, so "TRUE" is not a difference for ever.
#[test]
fn values_are_shown_as_kafka_shows_them() {
    for (key, value, shown) in [
        ("cleanup.policy", "delete,delete", "delete"),
        ("cleanup.policy", " compact , delete ", "compact,delete"),
        ("preallocate", "TRUE", "true"),
        ("retention.ms", " 5 ", "5"),
        ("compression.type", " zstd ", "zstd"),
        ("tidegate.router.config", " {} ", " {} "),
    ] {
        assert!(resolve(&[(key, value)]).is_ok() || key.starts_with("tidegate"), "{key}={value}");
        assert_eq!(topic_key(key).unwrap().shown(value), shown, "{key}");
    }
}

#[test]
fn what_becomes_of_records_whose_plugin_fails_is_resolved() {
    let config = resolve(&[
        ("tidegate.partitioner", "p"),
        ("tidegate.partitioner.on.failure", "bypass"),
        ("tidegate.router", "r"),
        ("tidegate.router.on.failure", " dead-letter "),
        ("tidegate.dead.letter.topic", "letters"),
        ("tidegate.router.unroutable", "alternate"),
        ("tidegate.router.unroutable.topic", "rest"),
        ("tidegate.plugin.deadline.ms", "2"),
        ("tidegate.plugin.memory.max.bytes", "65536"),
    ])
    .unwrap();
    let limits = AttachmentLimits { deadline_ms: Some(2), memory_bytes: Some(65_536), output_bytes: None };
    let (partitioner, router) = (config.partitioner.unwrap(), config.router.unwrap());
    assert_eq!((partitioner.on_failure, partitioner.limits), (OnFailure::Bypass, limits));
    assert_eq!((router.on_failure, router.limits), (OnFailure::DeadLetter, limits));
    assert_eq!(config.dead_letter_topic.as_deref(), Some("letters"));
    assert_eq!(config.unroutable, Unroutable::Alternate("rest".into()));

    // A policy that needs a topic says which setting names it.
    let error = resolve(&[("tidegate.router.on.failure", "dead-letter")]).unwrap_err();
    assert_eq!(error.to_string(), "tidegate.router.on.failure=dead-letter needs a topic in tidegate.dead.letter.topic");
    let error = resolve(&[("tidegate.router.unroutable", "alternate")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tidegate.router.unroutable=alternate needs a topic in tidegate.router.unroutable.topic"
    );
    let error = resolve(&[("tidegate.router.on.failure", "ignore")]).unwrap_err();
    assert!(error.to_string().ends_with("String must be one of: reject, bypass, dead-letter"), "{error}");
}
