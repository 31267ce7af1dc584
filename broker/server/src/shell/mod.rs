//! The only place with glommio and io_uring: executors, sockets, files, timers, and waking shards from elsewhere.
//!
//! The one part of the broker with `unsafe` code, each block with its reason.

pub mod acceptor;
mod compaction;
mod connection;
pub mod disk;
mod event;
pub mod executor;
mod housekeeping;
pub mod log;
pub mod mailbox;
mod memory;
mod offload;
pub mod pulse;
pub mod reporting;
mod retention;
mod ring;
pub mod startup_check;
