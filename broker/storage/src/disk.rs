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

/// Files and directories, asynchronously, on one thread. Paths are relative to the data directory.
pub trait Disk: Clone + 'static {
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

/// Memory whose start is a multiple of [`BLOCK_BYTES`], as direct I/O needs; filled once from its front, then shared.
///
/// The capacity is fixed when it is made (growing would move the memory and lose the alignment) and is a multiple of
/// [`BLOCK_BYTES`]. Once shared by [`AlignedBuffer::share`] the bytes never change, so a write that is under way, the tail cache
/// and a response to a consumer use the same memory.
pub struct AlignedBuffer {
    memory: Vec<u8>,
    /// Where the aligned part of `memory` starts.
    start: usize,
    capacity: usize,
}

impl AlignedBuffer {
    /// An empty buffer with room for `bytes`, rounded up to whole blocks. Nothing is zeroed.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        let capacity = bytes.next_multiple_of(BLOCK_BYTES);
        let mut memory: Vec<u8> = Vec::with_capacity(capacity + BLOCK_BYTES);
        let start = memory.as_ptr().align_offset(BLOCK_BYTES);
        assert!(start < BLOCK_BYTES, "a byte pointer can be aligned within one block");
        memory.resize(start, 0);
        Self { memory, start, capacity }
    }

    /// A full buffer of zeros, `bytes` rounded up to whole blocks: to pre-write with, or to read into.
    #[must_use]
    pub fn zeroed(bytes: usize) -> Self {
        let mut buffer = Self::with_capacity(bytes);
        buffer.memory.resize(buffer.start + buffer.capacity, 0);
        buffer
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.memory.len() - self.start
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that fit, a multiple of [`BLOCK_BYTES`].
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..]
    }

    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    /// When they do not fit: the caller has sized the buffer for what it puts in.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        assert!(self.len() + bytes.len() <= self.capacity, "the buffer was sized for what it holds");
        self.memory.extend_from_slice(bytes);
    }

    /// Appends zeros up to the next multiple of [`BLOCK_BYTES`].
    pub fn pad_to_block(&mut self) {
        self.memory.resize(self.start + self.len().next_multiple_of(BLOCK_BYTES), 0);
    }

    /// Shortens the buffer to `length` bytes; no effect if it is shorter.
    pub fn truncate(&mut self, length: usize) {
        self.memory.truncate(self.start + length);
    }

    /// Ends the filling: from here the bytes are shared and never change.
    #[must_use]
    pub fn share(self) -> Arc<Self> {
        Arc::new(self)
    }

    /// The whole buffer as [`Bytes`] that keep it alive; slices of them copy nothing.
    #[must_use]
    pub fn bytes(self: &Arc<Self>) -> Bytes {
        Bytes::from_owner(Shared(Arc::clone(self)))
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuffer({} of {} bytes)", self.len(), self.capacity)
    }
}

/// What [`Bytes`] keep alive.
struct Shared(Arc<AlignedBuffer>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_shared_without_a_copy() {
        for bytes in [1, 4095, 4096, 4097, 1 << 20] {
            let mut buffer = AlignedBuffer::with_capacity(bytes);
            assert_eq!(buffer.capacity() % BLOCK_BYTES, 0);
            assert!(buffer.capacity() >= bytes);
            buffer.extend_from_slice(&vec![7; bytes]);
            buffer.pad_to_block();
            assert_eq!(buffer.len(), buffer.capacity());
            assert_eq!(buffer.as_slice().as_ptr().align_offset(BLOCK_BYTES), 0);
            let shared = buffer.share();
            let slice = shared.bytes().slice(0..bytes);
            assert_eq!(slice.as_ptr(), shared.as_slice().as_ptr());
            assert!(slice.iter().all(|&byte| byte == 7));
        }
    }
}
