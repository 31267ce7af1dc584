//! The server: threads, sockets, io_uring and the control plane. What the broker decides is in other crates.

pub mod config;
pub mod control;
pub mod data_directory;
pub mod logging;
pub mod metrics;
pub mod objects;
pub mod observed;
pub mod plugin_log;
pub mod plugin_runtime;
pub mod readers;
pub mod serve;
pub mod shell;
