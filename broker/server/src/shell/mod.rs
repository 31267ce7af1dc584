//! The only place with glommio and io_uring: threads, sockets, files, timers, and waking shards from elsewhere.
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
mod operation;
mod reactor;
pub mod reporting;
mod retention;
pub mod runtime;
pub mod startup_check;
