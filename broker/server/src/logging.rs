//! Where logs go: to standard error, as text or as JSON, a line each.

use tracing_subscriber::{EnvFilter, util::SubscriberInitExt as _};

use crate::config::LogFormat;

/// Why logs cannot be written as configured.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error(
        "log-filter = {filter:?} is not understood: {source}. It is a level (error, warn, info, debug, trace) or a list such as info,tidegate_storage=debug"
    )]
    Filter { filter: String, source: tracing_subscriber::filter::ParseError },
}

/// Whether a filter is understood.
#[must_use]
pub fn is_filter(filter: &str) -> bool {
    EnvFilter::try_new(filter).is_ok()
}

/// Sets up logging for the process. A second call changes nothing.
///
/// # Errors
/// A filter that is not understood.
pub fn start(format: LogFormat, filter: &str) -> Result<(), LoggingError> {
    let parsed =
        EnvFilter::try_new(filter).map_err(|source| LoggingError::Filter { filter: filter.to_owned(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr).with_ansi(false);
    // Only a second call fails, and then the first one's choice stays.
    let _ = match format {
        LogFormat::Text => builder.finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    Ok(())
}

/// Writes why the broker does not run, or not any more, as a line of its log in JSON, whatever the filter lets through: who reads nothing but
/// JSON must find it.
pub fn write_fatal(message: &str) {
    let subscriber =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).json().flatten_event(true).finish();
    tracing::subscriber::with_default(subscriber, || tracing::error!("{message}"));
}
