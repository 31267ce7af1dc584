//! The journal of a shard: what is durable first, before the segments have it.
//!
//! Files of fixed size, pre-written, recycled by renaming. A commit round is one run of blocks in one file: a header, a directory
//! of [`format::Entry`], and the batches' bytes. Rounds are numbered without gaps over the life of the shard.

pub mod checkpoint;
pub(crate) mod files;
pub mod format;
pub(crate) mod scan;
