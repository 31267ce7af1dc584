//! How bytes are kept: journal, segments, index and recovery, as straight-line async code over one trait, [`disk::Disk`].
//!
//! This crate keeps batches by topic and partition. It knows nothing of producers, leaders, groups or topics' configuration beyond
//! what it is told. The files are described byte by byte in `FORMAT.md`.
#![deny(unsafe_code)]

mod apply;
mod arena;
mod buffer;
mod cache;
mod change;
mod commit;
pub mod disk;
mod error;
#[cfg(test)]
mod format_tests;
mod gate;
pub mod journal;
mod lookup;
mod migrate;
pub mod objects;
mod offload;
mod parallel;
mod partition;
mod read;
pub mod read_only;
mod recovery;
pub mod segment;
mod segment_writer;
mod store;
pub mod verify;

pub use change::{Orphans, Rewrite, StoredBatch, remove_orphans};
pub use commit::RoundReport;
pub use error::{AppendError, ChangeError, Damage, Fatal, OpenError, ReadError};
pub use lookup::{Found, Wanted};
pub use migrate::{MissingJournal, migrate, missing_journals};
pub use offload::{Swept, object_key};
pub use partition::SegmentConfig;
pub use read::ReadRequest;
pub use recovery::RecoveredPartition;
pub use segment::manifest::partition_of_directory;
pub use store::{Append, LogOffsets, PartitionSpec, SegmentSummary, Store, StoreFigures, StoreOptions};
