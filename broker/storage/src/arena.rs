//! Huge pages for the buffers of direct I/O, mapped once and used again.
//!
//! For direct I/O the kernel looks up and holds every page of a buffer, and hands the device a list of those that do not lie one behind the
//! other. In pages of 4 KiB that took a tenth of a busy broker's processor time, and fresh memory a fault and a clearing for each. A chunk
//! is some 2 MiB pages (where the system has them: `transparent_hugepage` is `madvise` or `always`); buffers take ranges of its blocks.
//! It is one arena for all shards: who lets go of a buffer is often not who made it.

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
    sync::{Mutex, PoisonError},
};

use memmap2::{Advice, MmapMut};

use crate::disk::BLOCK_BYTES;

/// A huge page of x86-64, and of 64-bit Arm with pages of 4 KiB. Chunks are multiples of it.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// What chunks that nobody uses may hold, in bytes, before the last of them is given back.
const IDLE_BYTES_MAX: usize = 16 << 20;

static ARENA: Mutex<Arena> = Mutex::new(Arena { chunks: BTreeMap::new(), next_chunk: 0, idle_bytes: 0 });

/// Takes `bytes`, a multiple of [`BLOCK_BYTES`], aligned to it. What was in that memory before is still there. `None`: the system has no
/// more to map.
pub(crate) fn take(bytes: usize) -> Option<Region> {
    assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES), "regions are whole blocks");
    ARENA.lock().unwrap_or_else(PoisonError::into_inner).take(bytes)
}

/// A range of a chunk that nobody else has. Dropping it gives it back.
pub(crate) struct Region {
    chunk: u64,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a region is the only way to its bytes, like a box: `Arena::take` hands out each range once until `Region::drop` gives it back.
#[expect(unsafe_code, reason = "memory that is cut from a mapping")]
unsafe impl Send for Region {}
// SAFETY: as above; a shared region only lets read.
#[expect(unsafe_code, reason = "memory that is cut from a mapping")]
unsafe impl Sync for Region {}

impl Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range is within its chunk, which stays mapped while a region of it is out, and initialised, by the kernel at first;
        // nobody writes to it while `self` is borrowed.
        #[expect(unsafe_code, reason = "memory that is cut from a mapping")]
        unsafe {
            slice::from_raw_parts(self.start.as_ptr(), self.bytes)
        }
    }
}

impl DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `self` is borrowed alone.
        #[expect(unsafe_code, reason = "memory that is cut from a mapping")]
        unsafe {
            slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes)
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let idle = ARENA.lock().unwrap_or_else(PoisonError::into_inner).give_back(self);
        // Unmapped outside the lock.
        drop(idle);
    }
}

struct Arena {
    /// By the number in which they were mapped: what is taken from the oldest leaves the newest to become idle.
    chunks: BTreeMap<u64, Chunk>,
    next_chunk: u64,
    /// Bytes of the chunks of which no region is out.
    idle_bytes: usize,
}

struct Chunk {
    mapping: MmapMut,
    /// Where the first huge page begins in `mapping`.
    start: NonNull<u8>,
    bytes: usize,
    /// Ranges that nobody has, from their first byte to their length; no two touch.
    free: BTreeMap<usize, usize>,
    /// The length of the longest of them, or more.
    longest: usize,
}

// SAFETY: `start` points into `mapping`, which is `Send`.
#[expect(unsafe_code, reason = "memory that is cut from a mapping")]
unsafe impl Send for Chunk {}

impl Arena {
    fn take(&mut self, bytes: usize) -> Option<Region> {
        for (number, chunk) in &mut self.chunks {
            let was_idle = chunk.is_idle();
            if let Some(start) = chunk.take(bytes) {
                if was_idle {
                    self.idle_bytes -= chunk.bytes;
                }
                return Some(Region { chunk: *number, start, bytes });
            }
        }
        let mut chunk = Chunk::map(bytes.next_multiple_of(HUGE_PAGE_BYTES))?;
        let start = chunk.take(bytes).expect("a new chunk has room for what it is mapped for");
        let number = self.next_chunk;
        self.next_chunk += 1;
        self.chunks.insert(number, chunk);
        Some(Region { chunk: number, start, bytes })
    }

    /// Takes a region back; a chunk that is too much now, to be dropped outside the lock.
    fn give_back(&mut self, region: &Region) -> Option<Chunk> {
        let chunk = self.chunks.get_mut(&region.chunk).expect("a chunk stays while a region of it is out");
        chunk.give_back(region);
        if !chunk.is_idle() {
            return None;
        }
        if self.idle_bytes + chunk.bytes > IDLE_BYTES_MAX {
            return self.chunks.remove(&region.chunk);
        }
        self.idle_bytes += chunk.bytes;
        None
    }
}

impl Chunk {
    fn map(bytes: usize) -> Option<Self> {
        // A huge page more, to begin where one begins; what is not touched is not there.
        let mut mapping = MmapMut::map_anon(bytes + HUGE_PAGE_BYTES).ok()?;
        // Where the system has none, pages of 4 KiB do.
        let _ = mapping.advise(Advice::HugePage);
        let offset = mapping.as_ptr().align_offset(HUGE_PAGE_BYTES);
        let start = NonNull::from(&mut mapping[offset..offset + bytes]).cast();
        Some(Self { mapping, start, bytes, free: BTreeMap::from([(0, bytes)]), longest: bytes })
    }

    fn is_idle(&self) -> bool {
        self.free.get(&0) == Some(&self.bytes)
    }

    /// The first range that is long enough.
    fn take(&mut self, bytes: usize) -> Option<NonNull<u8>> {
        if self.longest < bytes {
            return None;
        }
        let found = self.free.iter().find(|(_, free)| **free >= bytes).map(|(at, free)| (*at, *free));
        let Some((at, free)) = found else {
            self.longest = self.free.values().copied().max().unwrap_or(0);
            return None;
        };
        self.free.remove(&at);
        if free > bytes {
            self.free.insert(at + bytes, free - bytes);
        }
        // SAFETY: `at` is within the chunk, so the sum is within `mapping`.
        #[expect(unsafe_code, reason = "memory that is cut from a mapping")]
        Some(unsafe { self.start.add(at) })
    }

    fn give_back(&mut self, region: &Region) {
        let mut at = region.start.addr().get() - self.start.addr().get();
        let mut bytes = region.bytes;
        debug_assert!(self.mapping.as_ptr().addr() <= region.start.addr().get(), "a region of this chunk");
        if let Some(behind) = self.free.remove(&(at + bytes)) {
            bytes += behind;
        }
        if let Some((before, free)) = self.free.range(..at).next_back().map(|(before, free)| (*before, *free))
            && before + free == at
        {
            at = before;
            bytes += free;
        }
        self.free.insert(at, bytes);
        self.longest = self.longest.max(bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arena() -> Arena {
        Arena { chunks: BTreeMap::new(), next_chunk: 0, idle_bytes: 0 }
    }

    /// Gives a region back to `arena` and not to the process's.
    fn give_back(arena: &mut Arena, region: Region) {
        drop(arena.give_back(&region));
        std::mem::forget(region);
    }

    proptest! {
        #[test]
        fn regions_never_overlap_and_all_of_them_come_back(
            steps in prop::collection::vec((any::<bool>(), 1..700_usize, any::<prop::sample::Index>()), 1..200),
        ) {
            let mut arena = arena();
            let mut out: Vec<(Region, u8)> = Vec::new();
            for (number, (takes, blocks, index)) in steps.into_iter().enumerate() {
                if takes || out.is_empty() {
                    let mut region = arena.take(blocks * BLOCK_BYTES).expect("there is memory");
                    prop_assert_eq!(region.as_ptr().align_offset(BLOCK_BYTES), 0);
                    prop_assert_eq!(region.len(), blocks * BLOCK_BYTES);
                    let mark = number as u8;
                    region.fill(mark);
                    out.push((region, mark));
                } else {
                    let (region, mark) = out.swap_remove(index.index(out.len()));
                    prop_assert!(region.iter().all(|byte| *byte == mark), "somebody else has written here");
                    give_back(&mut arena, region);
                }
            }
            for (region, mark) in out.drain(..) {
                prop_assert!(region.iter().all(|byte| *byte == mark), "somebody else has written here");
                give_back(&mut arena, region);
            }
            prop_assert!(arena.chunks.values().all(Chunk::is_idle), "ranges that touch are one again");
            let idle: usize = arena.chunks.values().map(|chunk| chunk.bytes).sum();
            prop_assert_eq!(idle, arena.idle_bytes);
            prop_assert!(idle <= IDLE_BYTES_MAX);
        }
    }

    #[test]
    fn what_comes_and_goes_uses_the_same_memory_again() {
        let mut arena = arena();
        for _ in 0..1000 {
            let regions: Vec<Region> =
                (1..=20).map(|tens| arena.take(tens * 10 * BLOCK_BYTES).expect("there is memory")).collect();
            regions.into_iter().for_each(|region| give_back(&mut arena, region));
        }
        // 8.6 MB at a time.
        assert!(arena.next_chunk <= 6, "{} chunks were mapped", arena.next_chunk);
    }

    #[test]
    fn what_is_larger_than_a_huge_page_has_a_chunk_that_goes_with_it() {
        let mut arena = arena();
        let region = arena.take(100 << 20).expect("there is memory");
        assert_eq!(region.len(), 100 << 20);
        give_back(&mut arena, region);
        assert!(arena.chunks.is_empty(), "it is more than is kept");
    }
}
