use super::*;

fn load(text: &str) -> Result<Config, ConfigErrors> {
    Config::from_text(Some(Path::new("tidegate.toml")), text, &[])
}

fn flag(name: &'static str, value: &str) -> Flag {
    Flag { name, value: value.to_owned() }
}

#[test]
fn nothing_configured_is_the_default() {
    assert_eq!(Config::load(None, &[]).unwrap(), Config::default());
    assert!(Config::default().shard_count() >= 1);
}

#[test]
fn every_form_of_a_key_is_the_same_setting() {
    for text in [
        "num.partitions = 7\nlog.retention.ms = -1",
        "\"num.partitions\" = 7\n[log.retention]\nms = -1",
        "[num]\npartitions = 7\n[log]\nretention.ms = -1",
    ] {
        let config = load(text).unwrap();
        assert_eq!(config.default_partitions, 7);
        assert_eq!(config.topic_defaults["retention.ms"], "-1");
    }
}

#[test]
fn a_flag_wins_over_the_file() {
    let text = "shards = 2\ndurability = \"os\"\nnode-id = 4\nlisten = \"127.0.0.1:1\"";
    let flags = [flag("shards", "3"), flag("listen", "[::1]:0"), flag("log-format", "json")];
    let config = Config::from_text(None, text, &flags).unwrap();
    assert_eq!((config.shards, config.node_id, config.durability), (3, 4, Durability::Os));
    assert_eq!(config.listen, Address { host: "::1".to_owned(), port: 0 });
    assert_eq!(config.log_format, LogFormat::Json);
}

#[test]
fn every_mistake_is_named_with_its_line() {
    let text = r#"# A comment.
num.partition = 3
data_dir = "/data"
shards = "two"
durability = "maybe"
auto.create.topics.enable = 1
listen = "nowhere"
log.cleanup.policy = "shrink"
log.cleaner.min.cleanable.ratio = 1.5
node-id = -1
message.max.bytes = 99999999999999999999
frobnicate = [1, 2]
log-filter = "!!"

[group]
max.size = 0
"#;
    insta::assert_snapshot!(load(text).unwrap_err());
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    let mut all = Vec::new();
    for text in [
        "admin = \"0.0.0.0:9644\"",
        "listen = \"0.0.0.0:9092\"",
        "group.min.session.timeout.ms = 100000\ngroup.max.session.timeout.ms = 10000",
        "num.partitions = 2\n\"num.partitions\" = 3",
        "message.max.bytes = 200000000",
        "shards = ",
        "object.store.url = \"http://x\"",
        "object.store.endpoint = \"http://127.0.0.1:9000\"",
        "object.store.url = \"s3://bucket\"\nobject.store.access.key.file = \"key\"",
    ] {
        all.push(load(text).unwrap_err().to_string());
    }
    all.push(Config::from_text(None, "", &[flag("shards", "many")]).unwrap_err().to_string());
    let missing = Config::load(Some(Path::new("/nonexistent/tidegate.toml")), &[]).unwrap_err();
    all.push(missing.to_string());
    insta::assert_snapshot!(all.join("\n"));
    load("admin = \"0.0.0.0:9644\"\nadmin-token-file = \"token\"").unwrap();
    load("object.store.url = \"file:///objects\"").unwrap();
    let bucket = "object.store.url = \"s3://bucket\"\nobject.store.endpoint = \"http://127.0.0.1:9000\"";
    load(bucket).unwrap_err();
    load(&format!("{bucket}\nobject.store.allow.http = true")).unwrap();
    load("listen = \"0.0.0.0:9092\"\nadvertise = \"broker.example:9092\"").unwrap();
}

/// It was "cannot be read: stream did not contain valid UTF-8", and nobody knew where.
#[test]
fn a_byte_that_is_not_utf_8_is_named_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    let check = |bytes: &[u8], expected: &str| {
        std::fs::write(&file, bytes).unwrap();
        let error = Config::load(Some(&file), &[]).unwrap_err().to_string();
        let (path, rest) = error.split_at(file.to_str().unwrap().len());
        assert_eq!(Path::new(path), file);
        assert!(rest.starts_with(expected), "{error}");
    };
    // Latin-1, as an old editor saves it.
    check(b"shards = 1\n# f\xfcr\nshard = 2\n", ":2: has the byte 0xfc in column 4,");
    check("# größer\nbroker.rack = \"grö\u{fffd}".as_bytes(), ":2: is not TOML");
    check(b"# gr\xc3\xb6\xc3", ":1: has the byte 0xc3 in column 6,");
    check(b"\xff\xfes\0h\0", ":1: has the byte 0xff in column 1,");
}

#[test]
fn mistakes_are_said_in_the_format_of_the_logs() {
    let check = |file: Option<&str>, text: &str, flags: &[Flag], expected: LogFormat| {
        let loaded = match file {
            Some(file) => Config::load(Some(Path::new(file)), flags),
            None => Config::from_text(None, text, flags),
        };
        assert_eq!(loaded.unwrap_err().log_format, expected, "{file:?} {text:?} {flags:?}");
    };
    let json = || flag("log-format", "json");
    check(None, "shard = 1", &[], LogFormat::Text);
    check(None, "shard = 1\nlog-format = \"json\"", &[], LogFormat::Json);
    check(None, "shard = 1\nlog-format = \"json\"", &[flag("log-format", "text")], LogFormat::Text);
    check(None, "shards = ", &[json()], LogFormat::Json);
    check(None, "", &[flag("shards", "many"), json()], LogFormat::Json);
    check(Some("/nonexistent/tidegate.toml"), "", &[json()], LogFormat::Json);
}

#[test]
fn the_documented_default_is_the_default() {
    let text = Config::documented_default();
    // With every comment sign before a key removed it must load, and change nothing but what has no default.
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with([' ', '#']) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert_eq!(load(&uncommented).unwrap(), Config::default());
    insta::assert_snapshot!(text);
}

#[test]
fn every_setting_is_read_back_as_it_was_set() {
    let mut names = std::collections::BTreeSet::new();
    for (setting, value) in Config::default().entries() {
        assert!(names.insert(setting.name), "{} stands once", setting.name);
        assert!(setting.help.ends_with('.'), "{}", setting.name);
        if let Some(value) = value {
            let flags = [Flag { name: setting.name, value: value.clone() }];
            let config = Config::from_text(None, "", &flags).unwrap();
            assert_eq!(setting.get(&config), Some(value), "{}", setting.name);
        }
    }
}

#[test]
fn addresses() {
    let check = |text: &str, expected: Option<&str>| {
        assert_eq!(Address::parse(text).map(|address| address.to_string()).as_deref(), expected, "{text}");
    };
    for text in ["127.0.0.1:9092", "[::1]:0", "broker.example:1"] {
        check(text, Some(text));
    }
    for text in ["", ":1", "host", "host:", "host:99999", "::1:9092", "[nonsense]:1", "a b:1", "http://x:1"] {
        check(text, None);
    }
    assert!(Address::parse("127.0.0.1:1").unwrap().is_loopback());
    assert!(!Address::parse("0.0.0.0:1").unwrap().is_loopback());
    assert!(!Address::parse("10.1.2.3:1").unwrap().is_loopback());
    assert!(Address::parse("[::]:1").unwrap().is_unspecified());
}

#[test]
fn topics_get_the_defaults_that_were_changed_and_they_are_valid() {
    use tidegate_model::topic_config::TopicConfig;
    assert!(Config::default().broker_defaults().is_empty());
    let text =
        "durability = \"os\"\nmessage.max.bytes = 5000\nlog.retention.ms = 7\nlog.cleanup.policy = \"compact, delete\"";
    let defaults = load(text).unwrap().broker_defaults();
    let config = TopicConfig::resolve(&BTreeMap::new(), &defaults).unwrap();
    assert_eq!((config.max_message_bytes, config.retention_ms, config.durability_os), (5000, 7, true));
    assert!(config.cleanup_policy.compact && config.cleanup_policy.delete);
    // What we take for Kafka's defaults is what topics take for them.
    for (name, value) in Config::default().topic_defaults {
        let key = tidegate_model::topic_config::topic_key(name).expect(name);
        assert_eq!(key.default, value, "{name}");
    }
}
