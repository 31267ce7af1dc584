//! What the fuzz targets do with their bytes, as plain functions.
//!
//! Each module depends on the crate that it tests and on nothing of this one, so that a test of that crate can include it and replay the
//! corpus on stable.

pub mod frames;
pub mod record_batch;
pub mod storage_files;
