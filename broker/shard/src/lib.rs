//! One core's broker: frames in, effects out.
//!
//! A shard owns partitions, the groups whose offsets they hold, and the connections that were accepted on its core. It is a
//! pure state machine: the server's shell and the simulator turn sockets, files and timers into [`Input`]s, and [`Effect`]s into
//! calls. It knows no runtime, no clock, no thread, no socket and no file.
#![forbid(unsafe_code)]

pub mod api;
mod connection;
pub mod error;
pub mod frame_shape;
mod groups;
pub mod message;
pub mod ownership;
mod plugins;
mod refused;
mod replica;
mod request;
mod shard;
mod waiting;

pub use connection::{ConnectionId, FrameError, frame_length};
pub use plugins::{
    AllowedVerdict, AttachmentCounts, AttachmentReport, ObservedBatch, PluginLog, RetentionFailure, RetentionReport,
    RetentionTask, attachment_limits, attainable,
};
pub use request::RequestId;
pub use shard::{
    AppendBatch, CleaningStep, Effect, Effects, Input, Lookup, LookupAnswer, Observation, ReadId, ReadOutcome,
    RecoveredPartition, Shard, ShardIdentity, ShardSettings, ShownSetting, SnapshotDue,
};

pub use tidegate_model::retention::{Expiry, Segment};
