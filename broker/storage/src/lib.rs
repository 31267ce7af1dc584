//! How bytes are kept: journal, segments, index and recovery, as straight-line async code over one trait, [`disk::Disk`].
//!
//! This crate keeps batches by topic and partition. It knows nothing of producers, leaders, groups or topics' configuration beyond
//! what it is told. The files are described byte by byte in `FORMAT.md`.
#![forbid(unsafe_code)]

pub mod disk;
