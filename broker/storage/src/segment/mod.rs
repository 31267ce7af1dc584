//! Segment files: the log of a partition at rest, and its index.

pub mod format;
pub mod index;
pub mod manifest;
pub(crate) mod scan;
