//! How a plugin says no: to its configuration ([`Error`]) or to a batch ([`Failure`]).

/// Why a configuration is refused. `?` makes one of any error or text; whoever attaches the plugin reads it word for word.
pub type Error = Box<dyn std::error::Error>;

/// Why a whole batch gets no answer. To refuse single records, see [`Routes::reject`](crate::Routes::reject).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Not now: the producer gets a retriable error.
    Retry(String),
    /// The plugin cannot answer; the attachment's policy decides what happens to the records.
    Failed(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Retry(reason) | Self::Failed(reason)) = self;
        f.write_str(reason)
    }
}

impl std::error::Error for Failure {}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl From<&str> for Failure {
    fn from(reason: &str) -> Self {
        Self::Failed(reason.to_owned())
    }
}
