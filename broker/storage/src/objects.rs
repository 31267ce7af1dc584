//! The other seam between storage and the world: what storage asks of an object store, where segments go that a policy sends away.
//!
//! An object is written whole or not at all, never changed, and read in ranges. It is far away: every call may take seconds or fail, so
//! nobody holds a gate or a borrow over one that others need. The same implementors as [`Disk`](crate::disk::Disk).

use std::future::Future;

use bytes::Bytes;

/// What went wrong with which object. `kind` is what callers decide by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("object store: {operation} {key}: {message}")]
pub struct ObjectError {
    pub operation: &'static str,
    pub key: String,
    pub kind: ObjectErrorKind,
    /// What happened, and what to do about it.
    pub message: String,
}

/// The errors that storage tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectErrorKind {
    /// The store answers, and has no such object.
    NotFound,
    /// No store is configured.
    NotConfigured,
    /// Anything else. It may have been done all the same.
    Unavailable,
}

/// An object store, asynchronously. Keys are relative paths of plain characters.
pub trait Objects {
    /// An object that is being written. Dropped, it is given up: nothing of it is ever seen.
    type Upload: 'static;

    /// Begins an object of `length` bytes. Keys are never used twice, so there is none yet.
    fn begin_object(&self, key: &str, length: u64) -> impl Future<Output = Result<Self::Upload, ObjectError>>;

    /// Adds bytes at its end. Waits while too many are on their way.
    fn add_to_object(&self, upload: &mut Self::Upload, bytes: Bytes) -> impl Future<Output = Result<(), ObjectError>>;

    /// Makes the object seen, whole, and safe from a loss of power. After an error it may be there or come yet.
    fn finish_object(&self, upload: Self::Upload) -> impl Future<Output = Result<(), ObjectError>>;

    /// Reads `length` bytes from `position`; fewer where the object ends.
    fn read_object(&self, key: &str, position: u64, length: usize) -> impl Future<Output = Result<Bytes, ObjectError>>;

    /// Removes an object; one that is not there is no error.
    fn remove_object(&self, key: &str) -> impl Future<Output = Result<(), ObjectError>>;

    /// The keys that begin with the directory `prefix`, and what is left of objects that were never finished.
    fn list_objects(&self, prefix: &str) -> impl Future<Output = Result<Vec<String>, ObjectError>>;
}
