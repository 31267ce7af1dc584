//! The seam between storage and the world: what storage asks of a disk.
//!
//! Two implementors: the server's (io_uring, `O_DIRECT`) and the simulator's (seeded, loses what was not synced, tears sectors,
//! reorders writes). Everything in this crate is straight-line async code over this trait, on one thread.

use std::{
    fmt,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

pub use crate::buffer::AlignedBuffer;
use crate::objects::Objects;

/// Alignment of positions, lengths and buffers of files opened with [`Access::Direct`], in bytes.
pub const BLOCK_BYTES: usize = 4096;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Positions, lengths and buffers are multiples of [`BLOCK_BYTES`]; the page cache is bypassed where the file system can.
    Direct,
    /// Small files that are written whole and renamed into place (indexes, snapshots, metadata).
    Buffered,
}

/// What went wrong, and where. `kind` is what callers decide by.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation} {}: {message}", path.display())]
pub struct DiskError {
    pub operation: &'static str,
    pub path: PathBuf,
    pub kind: DiskErrorKind,
    pub message: String,
}

/// The errors that storage tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskErrorKind {
    NotFound,
    /// No room (ENOSPC, EDQUOT, EFBIG): writes are refused until there is some; nothing is lost.
    Full,
    ReadOnly,
    /// Anything else. After a failed flush nothing more may be acknowledged.
    Other,
}

/// One write of a [`Disk::commit`]. `buffer` may hold more than is written.
#[derive(Clone, Debug)]
pub struct Write<F> {
    pub file: F,
    /// Byte position in the file; a multiple of [`BLOCK_BYTES`] for [`Access::Direct`].
    pub position: u64,
    pub buffer: Arc<AlignedBuffer>,
    /// The part of `buffer` to write; both ends are multiples of [`BLOCK_BYTES`] for [`Access::Direct`].
    pub range: std::ops::Range<usize>,
}

/// What must be true when a [`Disk::commit`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Every byte written is on stable storage. The caller promises that all blocks are pre-written and synced (no file grows, no
    /// hole is filled) in every file but that of the first write. So the implementor may flush the first write's file alone where
    /// one flush of the device holds for many files (ext4, XFS on one block device), and flushes each touched file elsewhere.
    Durable,
    /// Written, but a power failure may take it (`durability = "os"`). A killed process loses nothing.
    Written,
}

/// Files and directories, asynchronously, on one thread. Paths are relative to the data directory. Beside them the object store, so that
/// storage has one type parameter.
pub trait Disk: Objects + Clone + 'static {
    /// An open file. Clones share it; it is closed when the last one is dropped.
    type File: Clone + fmt::Debug + 'static;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path, access: Access) -> impl Future<Output = Result<Self::File, DiskError>>;

    /// Creates a file, which must not exist, and makes its directory entry durable.
    fn create(&self, path: &Path, access: Access) -> impl Future<Output = Result<Self::File, DiskError>>;

    /// Reads `length` bytes from `position`; fewer where the file ends. Any alignment: the implementor widens the read.
    fn read(&self, file: &Self::File, position: u64, length: usize) -> impl Future<Output = Result<Bytes, DiskError>>;

    /// Performs all writes in parallel, in no particular order, then at most one flush. All or an error: after an error nothing
    /// is known of any of them.
    fn commit(&self, writes: Vec<Write<Self::File>>, flush: Flush) -> impl Future<Output = Result<(), DiskError>>;

    /// Makes a file's bytes and size durable (fdatasync). A failure is fatal for writes: it is never retried.
    fn sync(&self, file: &Self::File) -> impl Future<Output = Result<(), DiskError>>;

    /// The length of a file in bytes.
    fn length(&self, file: &Self::File) -> impl Future<Output = Result<u64, DiskError>>;

    /// Sets the length of a file. Growing leaves a hole (or unwritten extents), not pre-written blocks.
    fn set_length(&self, file: &Self::File, length: u64) -> impl Future<Output = Result<(), DiskError>>;

    /// Writes a small file whole: to a temporary name, synced, renamed into place, directory synced. Atomic over crashes.
    fn replace(&self, path: &Path, content: &[u8]) -> impl Future<Output = Result<(), DiskError>>;

    /// Renames a file, replacing what has the name, and makes the directory entries durable.
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = Result<(), DiskError>>;

    /// Removes a file; one that is not there is no error.
    fn remove(&self, path: &Path) -> impl Future<Output = Result<(), DiskError>>;

    /// Creates a directory and its parents, durably.
    fn create_directory(&self, path: &Path) -> impl Future<Output = Result<(), DiskError>>;

    /// Removes an empty directory; one that is not there is no error.
    fn remove_directory(&self, path: &Path) -> impl Future<Output = Result<(), DiskError>>;

    /// Names in a directory, sorted; empty if there is no such directory.
    fn list(&self, path: &Path) -> impl Future<Output = Result<Vec<String>, DiskError>>;

    /// Bytes free for us on the file system.
    fn bytes_free(&self) -> impl Future<Output = Result<u64, DiskError>>;

    /// Lets others run: long work calls it between steps of at most 256 KiB.
    fn yield_now(&self) -> impl Future<Output = ()>;
}
