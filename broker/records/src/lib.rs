//! Record batches as bytes, and the vocabulary of the broker.
//!
//! This crate is pure: no I/O, no clock, no threads. It knows nothing of topics' configuration.
#![forbid(unsafe_code)]

pub mod batch;
pub mod build;
pub mod columns;
pub mod compress;
pub mod ids;
pub mod record;
pub mod retain;
pub mod split;
pub mod time;
pub mod validate;
