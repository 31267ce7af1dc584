//! What decides: partitions, groups, metadata, configuration, retention, compaction, fetch sessions.
//!
//! Pure: no I/O, no clock, no threads, no randomness. It knows no request, no connection, no file and no plugin.
#![forbid(unsafe_code)]

pub mod compaction;
pub mod fetch_session;
pub mod group;
pub mod metadata;
pub mod partition;
pub mod retention;
pub mod topic_config;
