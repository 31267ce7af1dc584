//! Memory for direct I/O: aligned, filled once, then shared; used again when its last reader is gone.
//!
//! Large buffers come and go at the rate of the traffic, and the kernel looks up each of their pages for every read and write. So they
//! are in huge pages that are mapped once and stay: see [`arena`]. Small ones are the allocator's.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::{
    arena::{self, Region},
    disk::BLOCK_BYTES,
};

/// Smaller buffers are cheap to allocate, and come in numbers.
const LARGE_BYTES: usize = 32 << 10;

/// Memory whose start is a multiple of [`BLOCK_BYTES`], as direct I/O needs; filled once from its front, then shared.
///
/// The capacity is fixed when it is made (growing would move the memory and lose the alignment) and is a multiple of
/// [`BLOCK_BYTES`]. Once shared by [`AlignedBuffer::share`] the bytes never change, so a write that is under way, the tail cache
/// and a response to a consumer use the same memory.
pub struct AlignedBuffer {
    memory: Memory,
    capacity: usize,
    length: usize,
}

/// All of it initialised; behind the buffer's length with anything.
enum Memory {
    /// The aligned part starts at `start`.
    Small {
        memory: Vec<u8>,
        start: usize,
    },
    Large(Region),
}

impl AlignedBuffer {
    /// An empty buffer with room for `bytes`, rounded up to whole blocks.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        let capacity = bytes.next_multiple_of(BLOCK_BYTES);
        let large = if capacity >= LARGE_BYTES { arena::take(capacity) } else { None };
        let memory = large.map_or_else(|| Memory::small(capacity), Memory::Large);
        Self { memory, capacity, length: 0 }
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
        match &self.memory {
            Memory::Small { memory, start } => &memory[*start..*start + self.length],
            Memory::Large(region) => &region[..self.length],
        }
    }

    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let length = self.length;
        &mut self.whole()[..length]
    }

    /// Up to its capacity.
    fn whole(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Small { memory, start } => &mut memory[*start..*start + self.capacity],
            Memory::Large(region) => &mut region[..self.capacity],
        }
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    /// When they do not fit: the caller has sized the buffer for what it puts in.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        assert!(end <= self.capacity, "the buffer was sized for what it holds");
        let start = std::mem::replace(&mut self.length, end);
        self.whole()[start..end].copy_from_slice(bytes);
    }

    /// Appends zeros up to the next multiple of [`BLOCK_BYTES`].
    pub fn pad_to_block(&mut self) {
        let end = self.length.next_multiple_of(BLOCK_BYTES);
        let start = std::mem::replace(&mut self.length, end);
        self.whole()[start..end].fill(0);
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

impl Memory {
    fn small(bytes: usize) -> Self {
        // A block more, to begin where one begins.
        let memory = vec![0; bytes + BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES);
        assert!(start <= BLOCK_BYTES, "a byte pointer can be aligned within one block");
        Self::Small { memory, start }
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
}
