//! What stays in memory, and for how long: committed rounds, pieces of segments, open files.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

use bytes::Bytes;
use tidegate_records::ids::TopicPartition;

use crate::{partition::Partition, segment::index::Index};

/// The rounds whose buffers the partitions' tails hold, oldest first.
#[derive(Debug, Default)]
pub(crate) struct TailCache {
    rounds: VecDeque<CachedRound>,
    bytes: usize,
}

#[derive(Debug)]
struct CachedRound {
    round: u64,
    bytes: usize,
    partitions: Vec<TopicPartition>,
}

impl TailCache {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, round: u64, bytes: usize, partitions: Vec<TopicPartition>) {
        self.bytes += bytes;
        self.rounds.push_back(CachedRound { round, bytes, partitions });
    }

    /// Lets go of the oldest rounds until `bytes_max` holds. A round with batches that are in no segment yet stays, and so do those
    /// after it.
    pub(crate) fn evict(&mut self, bytes_max: usize, partitions: &mut BTreeMap<TopicPartition, Partition>) {
        while self.bytes > bytes_max {
            let Some(oldest) = self.rounds.front() else { break };
            let mut held = false;
            for topic_partition in &oldest.partitions {
                let Some(partition) = partitions.get_mut(topic_partition) else { continue };
                partition.evict(oldest.round);
                held |= partition.tail.front().is_some_and(|batch| batch.round <= oldest.round);
            }
            if held {
                break;
            }
            self.bytes -= oldest.bytes;
            self.rounds.pop_front();
        }
    }

    /// A partition that keeps the oldest round in memory because it is not applied.
    pub(crate) fn oldest_unapplied(&self, partitions: &BTreeMap<TopicPartition, Partition>) -> Option<TopicPartition> {
        self.rounds.iter().find_map(|round| {
            round.partitions.iter().copied().find(|topic_partition| {
                partitions.get(topic_partition).is_some_and(|partition| {
                    partition.damage.is_none()
                        && partition.unapplied_bytes > 0
                        && partition
                            .tail
                            .get(partition.tail_position(partition.applied_end))
                            .is_some_and(|batch| batch.round <= round.round)
                })
            })
        })
    }
}

/// Which piece of which file.
pub(crate) type PieceKey = (TopicPartition, u64, u64);

/// The pieces of segments that were read last.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    pieces: BTreeMap<PieceKey, Bytes>,
    order: VecDeque<PieceKey>,
    bytes: usize,
    /// Pieces that were read ahead and that nobody has asked for yet, and their bytes.
    ahead: BTreeMap<PieceKey, usize>,
    ahead_bytes: usize,
}

impl Pieces {
    /// The piece of the file that contains `position`, from there on.
    pub(crate) fn find(&mut self, topic_partition: TopicPartition, incarnation: u64, position: u64) -> Option<Bytes> {
        let from = (topic_partition, incarnation, 0);
        let (key, bytes) = self.pieces.range(from..=(topic_partition, incarnation, position)).next_back()?;
        let skip = usize::try_from(position - key.2).ok()?;
        let (key, found) = (*key, (skip < bytes.len()).then(|| bytes.slice(skip..))?);
        self.not_ahead(&key);
        Some(found)
    }

    /// Whether so many bytes may be read before anybody asks for them: with too many readers they would be evicted unread.
    pub(crate) fn has_room_ahead(&self, bytes: usize, bytes_max: usize) -> bool {
        self.ahead_bytes + bytes <= bytes_max / 2
    }

    /// The piece that begins at `key` was read ahead.
    pub(crate) fn mark_ahead(&mut self, key: PieceKey) {
        if let Some(piece) = self.pieces.get(&key)
            && self.ahead.insert(key, piece.len()).is_none()
        {
            self.ahead_bytes += piece.len();
        }
    }

    fn not_ahead(&mut self, key: &PieceKey) {
        if let Some(bytes) = self.ahead.remove(key) {
            self.ahead_bytes -= bytes;
        }
    }

    pub(crate) fn put(&mut self, key: PieceKey, bytes: Bytes, bytes_max: usize) {
        if bytes.len() > bytes_max {
            return;
        }
        self.bytes += bytes.len();
        self.not_ahead(&key);
        if let Some(before) = self.pieces.insert(key, bytes) {
            self.bytes -= before.len();
        } else {
            self.order.push_back(key);
        }
        while self.bytes > bytes_max {
            let Some(oldest) = self.order.pop_front() else { break };
            self.not_ahead(&oldest);
            if let Some(piece) = self.pieces.remove(&oldest) {
                self.bytes -= piece.len();
            }
        }
    }

    /// Forgets the piece of the file that contains `position`: it is not what was written.
    pub(crate) fn forget_at(&mut self, topic_partition: TopicPartition, incarnation: u64, position: u64) {
        let range = (topic_partition, incarnation, 0)..=(topic_partition, incarnation, position);
        if let Some(key) = self.pieces.range(range).next_back().map(|(key, _)| *key) {
            self.forget_piece(key);
        }
    }

    fn forget_piece(&mut self, key: PieceKey) {
        self.not_ahead(&key);
        if let Some(piece) = self.pieces.remove(&key) {
            self.bytes -= piece.len();
        }
        self.order.retain(|each| *each != key);
    }

    /// Forgets a partition's pieces: its files are going.
    pub(crate) fn forget(&mut self, topic_partition: TopicPartition) {
        let range = (topic_partition, 0, 0)..=(topic_partition, u64::MAX, u64::MAX);
        let keys: Vec<PieceKey> = self.pieces.range(range).map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| self.forget_piece(key));
    }
}

/// Which segment file.
pub(crate) type FileKey = (TopicPartition, u64);

/// Segment files that are open, bounded; the one that was used longest ago goes first.
#[derive(Debug)]
pub(crate) struct OpenFiles<F> {
    files: BTreeMap<FileKey, (F, u64)>,
    by_use: BTreeSet<(u64, FileKey)>,
    uses: u64,
    files_max: usize,
}

impl<F: Clone> OpenFiles<F> {
    pub(crate) fn new(files_max: usize) -> Self {
        Self { files: BTreeMap::new(), by_use: BTreeSet::new(), uses: 0, files_max: files_max.max(1) }
    }

    pub(crate) fn find(&mut self, key: FileKey) -> Option<F> {
        let (file, used) = self.files.get_mut(&key)?;
        self.by_use.remove(&(*used, key));
        self.uses += 1;
        *used = self.uses;
        self.by_use.insert((self.uses, key));
        Some(file.clone())
    }

    pub(crate) fn put(&mut self, key: FileKey, file: F) {
        self.forget(key);
        self.uses += 1;
        self.files.insert(key, (file, self.uses));
        self.by_use.insert((self.uses, key));
        while self.files.len() > self.files_max {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.files.remove(&oldest);
        }
    }

    pub(crate) fn forget(&mut self, key: FileKey) {
        if let Some((_, used)) = self.files.remove(&key) {
            self.by_use.remove(&(used, key));
        }
    }
}

impl<F> OpenFiles<F> {
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }
}

/// Indexes of sealed segments, loaded when asked for, bounded by their entries; the one loaded first goes first.
#[derive(Debug, Default)]
pub(crate) struct Indexes {
    indexes: BTreeMap<FileKey, Rc<Index>>,
    order: VecDeque<FileKey>,
    entries: usize,
}

impl Indexes {
    /// Twenty-four bytes each: 24 MiB.
    const ENTRIES_MAX: usize = 1 << 20;

    pub(crate) fn find(&self, key: FileKey) -> Option<Rc<Index>> {
        self.indexes.get(&key).map(Rc::clone)
    }

    pub(crate) fn put(&mut self, key: FileKey, index: Rc<Index>) {
        self.forget(key);
        self.entries += index.entries.len();
        self.indexes.insert(key, index);
        self.order.push_back(key);
        while self.entries > Self::ENTRIES_MAX && self.order.len() > 1 {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(index) = self.indexes.remove(&oldest) {
                self.entries -= index.entries.len();
            }
        }
    }

    pub(crate) fn forget(&mut self, key: FileKey) {
        if let Some(index) = self.indexes.remove(&key) {
            self.entries -= index.entries.len();
            self.order.retain(|each| *each != key);
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_records::ids::{PartitionIndex, TopicId};

    use super::*;

    fn partition() -> TopicPartition {
        TopicPartition::new(TopicId([1; 16]), PartitionIndex(0))
    }

    #[test]
    fn a_piece_that_was_read_ahead_counts_until_it_is_asked_for() {
        let mut pieces = Pieces::default();
        pieces.put((partition(), 1, 0), Bytes::from(vec![0; 40]), 100);
        pieces.mark_ahead((partition(), 1, 0));
        assert!(pieces.has_room_ahead(10, 100));
        assert!(!pieces.has_room_ahead(11, 100));
        assert_eq!(pieces.find(partition(), 1, 30).map(|bytes| bytes.len()), Some(10));
        assert!(pieces.has_room_ahead(50, 100), "it was asked for");
    }

    #[test]
    fn what_is_evicted_or_forgotten_is_not_ahead() {
        let mut pieces = Pieces::default();
        for position in [0, 40] {
            pieces.put((partition(), 1, position), Bytes::from(vec![0; 40]), 100);
            pieces.mark_ahead((partition(), 1, position));
        }
        pieces.put((partition(), 1, 80), Bytes::from(vec![0; 40]), 100);
        assert!(pieces.has_room_ahead(10, 100), "the first was evicted");
        pieces.forget(partition());
        assert!(pieces.has_room_ahead(50, 100));
    }
}
