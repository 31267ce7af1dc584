//! One setting: what values it takes, how they are read from what was written, and how they are said.
//!
//! It keeps no value itself: that stands in [`Config`], where the setting's functions find it. Which settings there are stands in
//! `settings.rs`.

use std::path::PathBuf;

use super::{Address, Config, Problem, parse::Value};
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
