//! Memory for direct I/O: aligned, filled once, then shared; used again when its last reader is gone.
//!
//! Large buffers come and go at the rate of the traffic. Fresh memory for each costs a page fault for every 4 KiB and is
//! zeroed twice, by the kernel and by us, which took a tenth of a busy broker's processor time. So what is let go is kept for the next, up
//! to [`KEPT_BYTES_MAX`] in a process. It is one store for all shards: who lets go of a buffer is often not who made it.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use crate::disk::BLOCK_BYTES;

/// Buffers that are kept for use again, in bytes, of the whole process.
const KEPT_BYTES_MAX: usize = 12 << 20;
/// Smaller ones are cheap to allocate; larger ones are rare.
const KEPT_BUFFER_BYTES: std::ops::RangeInclusive<usize> = 32 << 10..=4 << 20;
/// Sizes of what is kept are multiples of it, so that it fits many; and of the allocator's classes.
const KEPT_STEP_BYTES: usize = 32 << 10;

/// Memory whose start is a multiple of [`BLOCK_BYTES`], as direct I/O needs; filled once from its front, then shared.
///
/// The capacity is fixed when it is made (growing would move the memory and lose the alignment) and is a multiple of
/// [`BLOCK_BYTES`]. Once shared by [`AlignedBuffer::share`] the bytes never change, so a write that is under way, the tail cache
/// and a response to a consumer use the same memory.
pub struct AlignedBuffer {
    /// All of it initialised; behind `length` with anything.
    memory: Vec<u8>,
    /// Where the aligned part of `memory` starts.
    start: usize,
    capacity: usize,
    length: usize,
}

impl AlignedBuffer {
    /// An empty buffer with room for `bytes`, rounded up to whole blocks.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        // A block more, to begin where one begins.
        let mut memory_bytes = bytes.next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES;
        let mut kept = None;
        if KEPT_BUFFER_BYTES.contains(&memory_bytes) {
            memory_bytes = memory_bytes.next_multiple_of(KEPT_STEP_BYTES);
            kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).take(memory_bytes);
        }
        // A fresh page is zero without anybody's work.
        let memory = kept.unwrap_or_else(|| vec![0; memory_bytes]);
        let start = memory.as_ptr().align_offset(BLOCK_BYTES);
        assert!(start < BLOCK_BYTES, "a byte pointer can be aligned within one block");
        Self { capacity: memory.len() - BLOCK_BYTES, memory, start, length: 0 }
    }

    /// A full buffer of zeros, `bytes` rounded up to whole blocks.
    #[must_use]
    pub fn zeroed(bytes: usize) -> Self {
        let mut buffer = Self::uncleared(bytes);
        buffer.as_mut_slice().fill(0);
        buffer
    }

    /// A full buffer to be read into, `bytes` rounded up to whole blocks. It may hold anything, other clients' records too: what is not
    /// overwritten must not be passed on.
    #[must_use]
    pub fn uncleared(bytes: usize) -> Self {
        let mut buffer = Self::with_capacity(bytes);
        buffer.length = bytes.next_multiple_of(BLOCK_BYTES);
        buffer
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes that fit, a multiple of [`BLOCK_BYTES`].
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    /// When they do not fit: the caller has sized the buffer for what it puts in.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        assert!(end <= self.capacity, "the buffer was sized for what it holds");
        self.memory[self.start + self.length..self.start + end].copy_from_slice(bytes);
        self.length = end;
    }

    /// Appends zeros up to the next multiple of [`BLOCK_BYTES`].
    pub fn pad_to_block(&mut self) {
        let end = self.length.next_multiple_of(BLOCK_BYTES);
        self.memory[self.start + self.length..self.start + end].fill(0);
        self.length = end;
    }

    /// Shortens the buffer to `length` bytes; no effect if it is shorter.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
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

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        if KEPT_BUFFER_BYTES.contains(&self.memory.len()) {
            let memory = std::mem::take(&mut self.memory);
            let over = KEPT.lock().unwrap_or_else(PoisonError::into_inner).put(memory);
            drop(over);
        }
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

static KEPT: Mutex<Kept> = Mutex::new(Kept { buffers: VecDeque::new(), bytes: 0 });

/// Memory that waits to be used again, in the order in which it was let go.
struct Kept {
    buffers: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Kept {
    /// Memory of at least `bytes`, and not of much more. The one let go last is the likeliest to be in the processor's caches.
    fn take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        let fits = bytes..=bytes + bytes / 4;
        let found = self.buffers.iter().rposition(|memory| fits.contains(&memory.len()))?;
        let memory = self.buffers.remove(found)?;
        self.bytes -= memory.len();
        Some(memory)
    }

    /// Keeps memory; gives back what is too much then, to be freed outside the lock.
    fn put(&mut self, memory: Vec<u8>) -> Vec<Vec<u8>> {
        self.bytes += memory.len();
        self.buffers.push_back(memory);
        let mut over = Vec::new();
        while self.bytes > KEPT_BYTES_MAX
            && let Some(oldest) = self.buffers.pop_front()
        {
            self.bytes -= oldest.len();
            over.push(oldest);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_shared_without_a_copy() {
        for bytes in [1, 4095, 4096, 4097, 100_000, 1 << 20, 5 << 20] {
            // The second is likely the memory of the first, which was full of sevens.
            for _ in 0..2 {
                let mut buffer = AlignedBuffer::with_capacity(bytes);
                assert_eq!(buffer.capacity() % BLOCK_BYTES, 0);
                assert!(buffer.capacity() >= bytes);
                buffer.extend_from_slice(&vec![7; bytes]);
                buffer.pad_to_block();
                assert_eq!(buffer.len(), bytes.next_multiple_of(BLOCK_BYTES));
                assert_eq!(buffer.as_slice().as_ptr().align_offset(BLOCK_BYTES), 0);
                assert!(buffer.as_slice()[bytes..].iter().all(|&byte| byte == 0), "the padding is zeros");
                let shared = buffer.share();
                let slice = shared.bytes().slice(0..bytes);
                assert_eq!(slice.as_ptr(), shared.as_slice().as_ptr());
                assert!(slice.iter().all(|&byte| byte == 7));
            }
            assert!(AlignedBuffer::zeroed(bytes).as_slice().iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_fits() {
        let mut kept = Kept { buffers: VecDeque::new(), bytes: 0 };
        for number in 0..100 {
            drop(kept.put(vec![number; 1 << 20]));
            assert!(kept.bytes <= KEPT_BYTES_MAX);
            assert_eq!(kept.bytes, kept.buffers.iter().map(Vec::len).sum::<usize>());
        }
        assert_eq!(kept.take(1 << 21), None, "none is large enough");
        assert_eq!(kept.take(1 << 19), None, "too large for so little");
        assert_eq!(kept.take(900 << 10).map(|memory| memory[0]), Some(99), "the last one first");
        assert_eq!(kept.bytes, kept.buffers.iter().map(Vec::len).sum::<usize>());
    }
}
