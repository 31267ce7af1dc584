//! The control plane: one thread with tokio on it. Cluster metadata, plugins, the admin endpoint. No record passes through it.
//!
//! Names neither glommio nor io-uring.

pub mod admin;
pub mod controller;
pub mod metadata_log;
pub mod metrics;
pub mod objects;
mod plugin_api;
pub mod plugins;
pub mod quorum;

#[cfg(test)]
mod tests;
