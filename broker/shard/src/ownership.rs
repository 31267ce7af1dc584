//! Which shard owns what. One pure function, so that every shard, the recovery and the tools agree.

use tidegate_records::ids::{PartitionIndex, ShardId, TopicId, TopicPartition};

/// The shard that owns a partition. Stable for a given number of shards; another number moves partitions at the next start.
///
/// Consecutive partitions of a topic go to consecutive shards, so that a topic with as many partitions as shards is spread evenly.
#[must_use]
pub fn owner(partition: TopicPartition, shards: u16) -> ShardId {
    assert!(shards > 0, "a broker has at least one shard");
    // Random version-4 ids: any eight bytes are as good as a hash of them.
    let mut seed = [0; 8];
    seed.copy_from_slice(&partition.topic.0[..8]);
    let index = partition.partition.0.max(0) as u64;
    let slot = u64::from_be_bytes(seed).wrapping_add(index) % u64::from(shards);
    ShardId(slot as u16)
}

/// The partition of `__consumer_offsets` that holds a group: Java's `String.hashCode` of its id, as every Kafka broker computes it.
#[must_use]
pub fn group_partition(group: &str, partitions: i32) -> PartitionIndex {
    PartitionIndex(tidegate_model::group::partition_for(group, partitions.max(1)))
}

/// The shard that coordinates a group, given the id and partition count of `__consumer_offsets`.
#[must_use]
pub fn group_owner(group: &str, offsets_topic: TopicId, partitions: i32, shards: u16) -> ShardId {
    owner(TopicPartition::new(offsets_topic, group_partition(group, partitions)), shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_partition_is_javas_hash() {
        // "console-consumer".hashCode() and others, from a JVM.
        assert_eq!(group_partition("", 50), PartitionIndex(0));
        assert_eq!(group_partition("a", 50), PartitionIndex(97 % 50));
        assert_eq!(group_partition("group", 50), PartitionIndex(98_629_247 % 50));
    }

    #[test]
    fn neighbouring_partitions_are_on_neighbouring_shards() {
        let topic = TopicId(*b"0123456789abcdef");
        let owners: Vec<u16> = (0..4).map(|p| owner(TopicPartition::new(topic, PartitionIndex(p)), 4).0).collect();
        let mut sorted = owners.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3]);
    }
}
