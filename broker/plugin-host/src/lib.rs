//! Runs plugins: a component in, an answer out.
//!
//! A component goes through this crate in one direction:
//!
//! 1. [`component`]: bytes that somebody uploaded become a [`Component`]: of a known world, importing nothing foreign.
//! 2. [`compile`]: a `Component` becomes a [`Compiled`] of machine code, off the data path; it can be kept on disk.
//! 3. [`sandbox`]: a `Compiled` is instantiated with [`Limits`], once for each attachment and shard.
//! 4. [`router`], [`partitioner`], [`ack`], [`retention`]: an instance is asked, and what it answers is checked.
//!
//! Synchronous and deterministic: a plugin sees the batch, its context and its configuration, and nothing else. Time runs by
//! [`Engine::tick`], which the caller drives, or by fuel. What goes wrong inside a plugin is a value here, never a panic; an
//! instance that trapped is dead ([`Router::is_dead`]) and is replaced by opening another.
//!
//! This crate knows no topic, connection or real time: names of topics are numbers to it.

pub mod ack;
pub mod build;
pub mod compile;
pub mod component;
pub mod engine;
pub mod error;
pub mod partitioner;
pub mod retention;
pub mod router;
pub mod sandbox;
mod since_0_1;

pub use ack::AckHook;
pub use compile::Compiled;
pub use component::{Component, World};
pub use engine::{Engine, EngineConfig, Metering};
pub use error::{CallError, OpenError, Trap, TrapKind, WrongAnswer};
pub use partitioner::{Partitioner, Placement};
pub use retention::{Filter, Offloader, Retention};
pub use router::{Answer, Destinations, Router, Routes};
pub use sandbox::{Limits, LogLevel, LogLine, one_line};

use tidegate_records::columns::Wanted;

/// The topic that records were sent to, as a plugin sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicInfo<'a> {
    pub name: &'a str,
    pub partitions: u32,
}

/// What is true of a run of records that came in one batch of one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context<'a> {
    /// The run's records are those from the end of the run before to here; the last one ends at the number of records.
    pub end: u32,
    /// The largest timestamp that the producer gave a record of the batch.
    pub now: tidegate_records::time::Timestamp,
    /// Drawn from topic, partition, producer and sequence: the same for a retry.
    pub seed: u64,
    /// Passed on only if the plugin asked for it ([`Needs::principal`]).
    pub principal: Option<&'a str>,
    /// Passed on only if the plugin asked for it ([`Needs::client_id`]).
    pub client_id: Option<&'a str>,
}

/// What a plugin wants to see, said when it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The columns to build for it.
    pub columns: Wanted,
    pub principal: bool,
    pub client_id: bool,
}

/// What a plugin says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    pub name: String,
    pub version: String,
    pub summary: String,
    /// A configuration that works; empty where none is needed.
    pub example: String,
}

/// A record that the plugin refuses, and why: INVALID_RECORD with a record error (KIP-467).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its position in the batch of the call, from 0; checked.
    pub record: u32,
    pub reason: String,
}
