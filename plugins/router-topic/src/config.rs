//! The configuration.

use serde::Deserialize;
pub use tidegate_sdk::config::{Source, Unmatched};

/// The whole of it, as JSON.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What the routing key of a record is.
    #[serde(default)]
    pub source: Source,
    pub bindings: Vec<Binding>,
    #[serde(default)]
    pub unmatched: Unmatched,
}

/// Records whose routing key matches the pattern go to the topic.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    pub pattern: String,
    pub topic: String,
}
