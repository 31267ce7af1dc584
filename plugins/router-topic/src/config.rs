//! The configuration, and what is wrong with one.

use serde::Deserialize;

/// The whole of it, as JSON.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    pub source: Source,
    pub bindings: Vec<Binding>,
    #[serde(default)]
    pub unmatched: Unmatched,
}

/// What the routing key of a record is.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// `{ "key": true }`: the key of the record.
    Key(bool),
    /// `{ "header": "name" }`: the last value of a header.
    Header(String),
    /// `{ "json": "a.b" }`: a text, number or truth value in the JSON object that is the record's value; dots go deeper.
    Json(String),
}

impl Default for Source {
    fn default() -> Self {
        Self::Key(true)
    }
}

/// Records whose routing key matches the pattern go to the topic.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    pub pattern: String,
    pub topic: String,
}

/// What happens to a record that no binding matches.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unmatched {
    /// It goes nowhere, as in RabbitMQ without an alternate exchange.
    Drop,
    /// It stays in the topic that it was sent to.
    #[default]
    Keep,
    /// `{ "topic": "x" }`: it goes there, as to RabbitMQ's alternate exchange.
    Topic(String),
    /// Its producer gets an error, as with RabbitMQ's `mandatory`.
    Reject,
}

impl Config {
    /// # Errors
    /// What is wrong, for whoever attaches the plugin.
    pub fn check(&self) -> Result<(), String> {
        if self.bindings.is_empty() {
            return Err("`bindings` is empty: nothing would be routed".to_owned());
        }
        match &self.source {
            Source::Key(false) => {
                Err("`source` says `\"key\": false`; leave it out, or name a header or a field".to_owned())
            }
            Source::Header(name) if name.is_empty() => Err("the header that `source` names is empty".to_owned()),
            Source::Json(path) if path.split('.').any(str::is_empty) => {
                Err(format!("`source` names the field '{path}': a name in it is empty"))
            }
            _ => Ok(()),
        }
    }
}
