//! The newest offset of each key, in a bounded memory: the hash of a key stands for the key.
//!
//! 24 bytes a key, as in Kafka's `SkimpyOffsetMap`. Two keys with one hash would lose a record, so the hash has 128 bits and begins
//! with a secret of the process, without which no client can look for collisions.

use std::hash::{DefaultHasher, Hasher};

use tidegate_records::ids::Offset;

const SLOT_BYTES: usize = size_of::<Slot>();
/// Probing gets long in a table that is fuller (`log.cleaner.io.buffer.load.factor`).
const FULL_TENTHS: usize = 9;

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: [u64; 2],
    /// -1: free.
    offset: i64,
}

const FREE: Slot = Slot { hash: [0; 2], offset: -1 };

/// See the module.
#[derive(Clone, Debug)]
pub struct OffsetMap {
    slots: Vec<Slot>,
    secret: [u64; 2],
    used: usize,
}

impl OffsetMap {
    /// A map of at most `bytes` of memory; `secret` is random, and stays in the process.
    #[must_use]
    pub fn new(bytes: usize, secret: [u64; 2]) -> Self {
        let slots = (bytes / SLOT_BYTES).max(16);
        Self { slots: vec![FREE; slots], secret, used: 0 }
    }

    /// Notes that `key` is at `offset`; offsets only go up. False, and nothing is noted, when the map is full.
    pub fn insert(&mut self, key: &[u8], offset: Offset) -> bool {
        let hash = self.hash(key);
        let at = self.probe(hash);
        let is_full = self.used >= self.slots.len() / 10 * FULL_TENTHS;
        let Some(slot) = self.slots.get_mut(at) else { return false };
        if slot.offset < 0 {
            if is_full {
                return false;
            }
            self.used += 1;
        }
        assert!(slot.offset <= offset.0, "a log is indexed in the order of its offsets");
        *slot = Slot { hash, offset: offset.0 };
        true
    }

    /// The newest offset of a key, if it was inserted.
    #[must_use]
    pub fn latest(&self, key: &[u8]) -> Option<Offset> {
        let slot = self.slots.get(self.probe(self.hash(key)))?;
        (slot.offset >= 0).then_some(Offset(slot.offset))
    }

    /// Keys in the map.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        let [first, second] = self.secret;
        [(0, first), (1, second)].map(|(half, secret)| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(half);
            hasher.write_u64(secret);
            hasher.write(key);
            hasher.finish()
        })
    }

    /// The slot of a hash, or the free one where it would go. A table that is never full has one.
    fn probe(&self, hash: [u64; 2]) -> usize {
        let count = self.slots.len();
        let start = (hash[0] % count as u64) as usize;
        (start..count)
            .chain(0..start)
            .find(|at| self.slots[*at].offset < 0 || self.slots[*at].hash == hash)
            .expect("a tenth of the slots is always free")
    }
}
