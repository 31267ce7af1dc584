//! One key of the configuration of topics: what its values may be, and how they are shown. Refusals are in Kafka's words.

use super::{ConfigError, VALUE_BYTES_MAX};

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
pub(super) enum Allowed {
    Integers {
        min: i64,
        max: i64,
    },
    /// A limit of at least 1, or -1 where the broker's own holds.
    Limit,
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
    pub(super) allowed: Allowed,
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
            Allowed::Limit => match self.integer(trimmed) {
                Some(number) if number == -1 || number >= 1 => Ok(()),
                Some(_) => invalid(value, "Value must be at least 1 or equal to -1".into()),
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
