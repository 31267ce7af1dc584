//! The configuration: one TOML file, every command-line flag's twin in it, Kafka's names where Kafka has the setting.
//!
//! A key is written as Kafka writes it (`num.partitions = 3`, which TOML reads as nested tables, or `"num.partitions" = 3`).
//! Unknown keys and bad values are errors that name the file, the line and the key; all of them are reported, not only the first.
//! Every setting stands in one table (`settings.rs`) with its documentation, so the parser, the documented default file and what
//! clients are told of the broker's configuration cannot differ.

mod defaults;
mod document;
mod parse;
mod setting;
mod settings;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
};

pub use setting::{Kind, Setting, TopicRule};
pub use settings::SETTINGS;

use crate::{control::objects::ObjectStoreOptions, objects::ObjectLocation};

/// Everything that can be configured, with its value. [`Config::default`] has the defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub data_dir: PathBuf,
    pub listen: Address,
    /// Where clients elsewhere reach this broker; `None`: where it listens.
    pub advertise: Option<Address>,
    pub admin: Address,
    pub admin_token_file: Option<PathBuf>,
    /// 0: one for each core.
    pub shards: u16,
    pub durability: Durability,
    pub node_id: i32,
    pub rack: Option<String>,
    pub log_format: LogFormat,
    pub log_filter: String,

    pub auto_create_topics: bool,
    pub default_partitions: i32,
    pub message_bytes_max: usize,
    pub decompressed_message_bytes_max: usize,
    /// Topic configuration by its topic-level name, as set by the broker's `log.*` settings and their like.
    pub topic_defaults: BTreeMap<&'static str, String>,
    pub retention_check_interval_ms: u64,
    pub producer_id_expiration_ms: i64,

    pub group_session_timeout_ms_min: i32,
    pub group_session_timeout_ms_max: i32,
    pub group_initial_rebalance_delay_ms: i32,
    pub group_size_max: i32,
    pub group_consumer_session_timeout_ms: i32,
    pub group_consumer_heartbeat_interval_ms: i32,
    pub group_consumer_size_max: i32,
    pub offsets_retention_minutes: i64,
    pub offsets_retention_check_interval_ms: u64,
    pub offset_metadata_bytes_max: usize,

    pub connections_max: u32,
    pub connections_max_idle_ms: u64,
    pub request_bytes_max: usize,
    pub requests_in_flight_bytes_max: u64,
    pub fetch_bytes_max: usize,
    pub fetch_sessions_max: u32,

    pub tail_cache_bytes: u64,
    pub journal_bytes: u64,
    pub direct_write_bytes_min: usize,
    pub open_files_max: u32,

    pub object_store_url: Option<String>,
    pub object_store_endpoint: Option<String>,
    pub object_store_region: Option<String>,
    pub object_store_access_key_file: Option<PathBuf>,
    pub object_store_secret_key_file: Option<PathBuf>,
    pub object_store_allow_http: bool,
    pub object_store_timeout_ms: u64,

    pub plugin_upload_bytes_max: usize,
    pub plugin_memory_bytes_max: u64,
    pub plugin_output_bytes_max: u64,
    pub plugin_deadline_ms: u32,
    pub plugin_core_percent_max: u32,
}

/// What an acknowledgement means for records on the disk, unless their topic says otherwise (`tidegate.durability`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The disk has them (fdatasync).
    Fsync,
    /// The operating system has them: what Apache Kafka promises by default.
    Os,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// A host and a port, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl Address {
    /// Reads `HOST:PORT`; an IPv6 address stands in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').filter(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())?,
            None if host.is_empty() || host.contains(':') => return None,
            None => host,
        };
        if host.chars().any(|letter| letter.is_whitespace() || letter.is_control() || letter == '/') {
            return None;
        }
        Some(Self { host: host.to_owned(), port })
    }

    /// The socket addresses that it stands for.
    ///
    /// # Errors
    /// When the name cannot be resolved.
    pub fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        Ok((self.host.as_str(), self.port).to_socket_addrs()?.collect())
    }

    /// Whether only this machine can reach it. A name that is not known to be local is taken for one that is not.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.resolve().is_ok_and(|all| !all.is_empty() && all.iter().all(|one| one.ip().is_loopback())),
        }
    }

    /// Whether it is every address of the machine, which clients cannot be told to connect to.
    pub fn is_unspecified(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Line {
        file: PathBuf,
        line: usize,
    },
    Flag(String),
    /// A rule between several settings.
    Together {
        file: Option<PathBuf>,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Flag(flag) => write!(f, "--{flag}"),
            Self::Together { file: Some(file) } => write!(f, "{}", file.display()),
            Self::Together { file: None } => f.write_str("configuration"),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ConfigError {
    pub place: Place,
    pub problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("has the byte {byte:#04x} in column {column}, which is not UTF-8: save the file in that encoding")]
    NotUtf8 { byte: u8, column: usize },
    #[error("is not TOML: {0}")]
    Syntax(String),
    #[error("unknown key {key:?}{}", suggestion.map(|name| format!("; did you mean {name:?}?")).unwrap_or_default())]
    UnknownKey { key: String, suggestion: Option<&'static str> },
    #[error("{key} must be {expected}, and is {found}")]
    BadValue { key: &'static str, expected: String, found: String },
    #[error("{key} is set twice")]
    Twice { key: &'static str },
    #[error(
        "admin = {admin} can be reached from other machines, and whoever uploads a plugin decides about data: name a file with a secret by \
         --admin-token-file FILE (or admin-token-file), or listen on a loopback address"
    )]
    TokenNeeded { admin: Address },
    #[error(
        "listen = {listen} is every address of this machine, which clients cannot be told: add --advertise HOST:PORT (or advertise)"
    )]
    AdvertiseNeeded { listen: Address },
    #[error("object.store.url = {url:?} is no object store: write file:///DIRECTORY or s3://BUCKET/PREFIX")]
    NoObjectStore { url: String },
    #[error("{key} says nothing without {needs}: set that, too")]
    Needs { key: &'static str, needs: &'static str },
    #[error(
        "object.store.endpoint = {endpoint:?} must begin with https://, or with http:// where object.store.allow.http = true"
    )]
    PlainEndpoint { endpoint: String },
    #[error("{smaller} = {smaller_value} must not be larger than {larger} = {larger_value}")]
    Order { smaller: &'static str, smaller_value: i64, larger: &'static str, larger_value: i64 },
}

/// Everything that is wrong, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    pub errors: Vec<ConfigError>,
    /// How it is to be said, as far as that was understood.
    pub log_format: LogFormat,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A flag of the command line: a setting's name and its value. It wins over the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    pub name: &'static str,
    pub value: String,
}

impl Config {
    /// The defaults, changed by a file, changed by flags.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first.
    pub fn load(file: Option<&Path>, flags: &[Flag]) -> Result<Self, ConfigErrors> {
        match file.map(read).transpose() {
            Ok(text) => Self::from_text(file, text.as_deref().unwrap_or(""), flags),
            Err(error) => {
                let of_flags = Self::from_text(None, "", flags);
                let log_format = of_flags.map_or_else(|errors| errors.log_format, |config| config.log_format);
                Err(ConfigErrors { errors: vec![error], log_format })
            }
        }
    }

    /// As [`Config::load`], of a text that was read already.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn from_text(file: Option<&Path>, text: &str, flags: &[Flag]) -> Result<Self, ConfigErrors> {
        let mut config = Self::default();
        let mut errors = Vec::new();
        let name = file.unwrap_or(Path::new("configuration"));
        match parse::entries(text) {
            Ok(entries) => {
                let mut seen = std::collections::BTreeSet::new();
                for entry in entries {
                    let place = Place::Line { file: name.to_path_buf(), line: entry.line };
                    let result = match document::find(&entry.key) {
                        Some(setting) if !seen.insert(setting.name) => Err(Problem::Twice { key: setting.name }),
                        Some(setting) => setting.set(&mut config, &entry.value),
                        None => {
                            let suggestion = document::suggest(&entry.key);
                            Err(Problem::UnknownKey { key: entry.key, suggestion })
                        }
                    };
                    errors.extend(result.err().map(|problem| ConfigError { place, problem }));
                }
            }
            Err((line, message)) => {
                let place = Place::Line { file: name.to_path_buf(), line };
                errors.push(ConfigError { place, problem: Problem::Syntax(message) });
            }
        }
        for flag in flags {
            let setting = document::find(flag.name).expect("flags are named in the table of settings");
            let result = setting.set(&mut config, &parse::Value::Unquoted(flag.value.clone()));
            let place = Place::Flag(flag.name.to_owned());
            errors.extend(result.err().map(|problem| ConfigError { place, problem }));
        }
        if errors.is_empty() {
            let place = Place::Together { file: file.map(Path::to_path_buf) };
            errors.extend(config.check().into_iter().map(|problem| ConfigError { place: place.clone(), problem }));
        }
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors { errors, log_format: config.log_format }) }
    }

    /// What must be true of several settings together.
    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.admin_token_file.is_none() && !self.admin.is_loopback() {
            problems.push(Problem::TokenNeeded { admin: self.admin.clone() });
        }
        if self.advertise.is_none() && self.listen.is_unspecified() {
            problems.push(Problem::AdvertiseNeeded { listen: self.listen.clone() });
        }
        problems.extend(self.check_object_store());
        for (smaller, larger) in [
            ("group.min.session.timeout.ms", "group.max.session.timeout.ms"),
            ("group.consumer.heartbeat.interval.ms", "group.consumer.session.timeout.ms"),
            ("message.max.bytes", "socket.request.max.bytes"),
            ("socket.request.max.bytes", "queued.max.request.bytes"),
        ] {
            let value =
                |name| document::find(name).and_then(|setting| setting.integer(self)).expect("an integer setting");
            let (smaller_value, larger_value) = (value(smaller), value(larger));
            if smaller_value > larger_value {
                problems.push(Problem::Order { smaller, smaller_value, larger, larger_value });
            }
        }
        problems
    }

    fn check_object_store(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let bucket = match &self.object_store_url {
            Some(url) => match ObjectLocation::parse(url) {
                Some(ObjectLocation::Bucket { .. }) => true,
                Some(ObjectLocation::Directory(_)) => false,
                None => return vec![Problem::NoObjectStore { url: url.clone() }],
            },
            None => false,
        };
        let keys = (&self.object_store_access_key_file, &self.object_store_secret_key_file);
        for (key, is_set) in [
            ("object.store.endpoint", self.object_store_endpoint.is_some()),
            ("object.store.region", self.object_store_region.is_some()),
            ("object.store.access.key.file", keys.0.is_some()),
        ] {
            if is_set && !bucket {
                problems.push(Problem::Needs { key, needs: "object.store.url = \"s3://BUCKET\"" });
            }
        }
        match keys {
            (Some(_), None) => {
                let (key, needs) = ("object.store.access.key.file", "object.store.secret.key.file");
                problems.push(Problem::Needs { key, needs });
            }
            (None, Some(_)) => {
                let (key, needs) = ("object.store.secret.key.file", "object.store.access.key.file");
                problems.push(Problem::Needs { key, needs });
            }
            _ => {}
        }
        if let Some(endpoint) = &self.object_store_endpoint {
            let is_plain = endpoint.starts_with("http://") && self.object_store_allow_http;
            if !is_plain && !endpoint.starts_with("https://") {
                problems.push(Problem::PlainEndpoint { endpoint: endpoint.clone() });
            }
        }
        problems
    }

    /// How the object store is reached, if there is one.
    pub fn object_store(&self) -> Option<ObjectStoreOptions> {
        Some(ObjectStoreOptions {
            location: self.object_store_url.as_deref().and_then(ObjectLocation::parse)?,
            endpoint: self.object_store_endpoint.clone(),
            region: self.object_store_region.clone(),
            access_key_file: self.object_store_access_key_file.clone(),
            secret_key_file: self.object_store_secret_key_file.clone(),
            allow_http: self.object_store_allow_http,
            timeout: std::time::Duration::from_millis(self.object_store_timeout_ms),
        })
    }

    /// Every setting with its value as text; `None` where it has none. What DescribeConfigs says of a broker.
    pub fn entries(&self) -> impl Iterator<Item = (&'static Setting, Option<String>)> {
        SETTINGS.iter().map(|setting| (setting, setting.get(self)))
    }

    /// The default configuration as a commented TOML file: what every key means, its unit, its range and its default.
    pub fn documented_default() -> String {
        document::document(&Self::default())
    }

    /// The defaults of topics that differ from Kafka's, by the topics' own names for them.
    pub fn broker_defaults(&self) -> BTreeMap<String, String> {
        let defaults = Self::default();
        let mut changed: BTreeMap<String, String> = self
            .topic_defaults
            .iter()
            .filter(|(name, value)| defaults.topic_defaults.get(*name) != Some(*value))
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        let mut set = |name: &str, value: String| changed.insert(name.to_owned(), value);
        if self.durability == Durability::Os {
            set("tidegate.durability", "os".to_owned());
        }
        if self.message_bytes_max != defaults.message_bytes_max {
            set("max.message.bytes", self.message_bytes_max.to_string());
        }
        if self.decompressed_message_bytes_max != defaults.decompressed_message_bytes_max {
            set("max.decompressed.message.bytes", self.decompressed_message_bytes_max.to_string());
        }
        changed
    }

    /// How many shards to run on this machine.
    pub fn shard_count(&self) -> u16 {
        match self.shards {
            0 => std::thread::available_parallelism().map_or(1, |cores| u16::try_from(cores.get()).unwrap_or(u16::MAX)),
            shards => shards,
        }
    }
}

/// The text of a file.
fn read(path: &Path) -> Result<String, ConfigError> {
    let file = path.to_path_buf();
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let place = Place::Together { file: Some(file) };
            return Err(ConfigError { place, problem: Problem::Unreadable(error.to_string()) });
        }
    };
    String::from_utf8(bytes).map_err(|error| {
        let (at, bytes) = (error.utf8_error().valid_up_to(), error.as_bytes());
        let line_start = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let column = String::from_utf8_lossy(&bytes[line_start..at]).chars().count() + 1;
        let place = Place::Line { file, line: parse::line_of(bytes, at) };
        ConfigError { place, problem: Problem::NotUtf8 { byte: bytes[at], column } }
    })
}

#[cfg(test)]
mod tests;
