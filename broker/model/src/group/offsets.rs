//! The committed offsets of all groups of this coordinator.
//!
//! An offset has a committed value, which is durable, and the values of writes in flight, in the order of the log. Fetches
//! see only what is durable; whoever decides what to write (deletion, expiry) sees the latest. When a write becomes durable
//! its values replace the committed ones, when it fails they vanish: so the store always equals the replay of the durable log.
//! Source: Apache Kafka's `OffsetMetadataManager`; offsets of transactions come with transactions.

use std::collections::BTreeMap;

use tidegate_records::ids::TopicId;

use super::{PersistToken, record_format::OffsetCommitValue, request::Text};

/// One partition's offset of one group.
#[derive(Clone, Debug, Default, PartialEq)]
struct Entry {
    committed: Option<OffsetCommitValue>,
    /// Oldest first; `None` is a tombstone.
    in_flight: Vec<(PersistToken, Option<OffsetCommitValue>)>,
}

impl Entry {
    fn latest(&self) -> Option<&OffsetCommitValue> {
        match self.in_flight.last() {
            Some((_, value)) => value.as_ref(),
            None => self.committed.as_ref(),
        }
    }
}

type Partitions = BTreeMap<i32, Entry>;
type Topics = BTreeMap<Text, Partitions>;

/// Where an offset stands.
pub(super) type OffsetKey = (Text, Text, i32);

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Offsets {
    groups: BTreeMap<Text, Topics>,
}

impl Offsets {
    /// Takes over what was read from the log: durable by definition.
    pub(super) fn replay(&mut self, group: Text, topic: Text, partition: i32, value: Option<OffsetCommitValue>) {
        let key = (group, topic, partition);
        self.entry(&key).committed = value;
        self.drop_if_empty(&key);
    }

    /// Notes a write in flight.
    pub(super) fn begin(&mut self, key: &OffsetKey, token: PersistToken, value: Option<OffsetCommitValue>) {
        self.entry(key).in_flight.push((token, value));
    }

    /// The write is durable, or will never be.
    pub(super) fn settle(&mut self, key: &OffsetKey, token: PersistToken, durable: bool) {
        let entry = self.entry(key);
        if let Some(index) = entry.in_flight.iter().position(|(other, _)| *other == token) {
            let (_, value) = entry.in_flight.remove(index);
            if durable {
                entry.committed = value;
            }
        }
        self.drop_if_empty(key);
    }

    fn entry(&mut self, (group, topic, partition): &OffsetKey) -> &mut Entry {
        let topics = self.groups.entry(group.clone()).or_default();
        topics.entry(topic.clone()).or_default().entry(*partition).or_default()
    }

    fn drop_if_empty(&mut self, (group, topic, partition): &OffsetKey) {
        let Some(topics) = self.groups.get_mut(group) else { return };
        let Some(partitions) = topics.get_mut(topic) else { return };
        if partitions.get(partition).is_some_and(|entry| entry.committed.is_none() && entry.in_flight.is_empty()) {
            partitions.remove(partition);
        }
        if partitions.is_empty() {
            topics.remove(topic);
        }
        if topics.is_empty() {
            self.groups.remove(group);
        }
    }

    /// The durable offset, unless it was committed for an earlier topic of the same name.
    pub(super) fn committed(
        &self,
        group: &str,
        topic: &str,
        id: TopicId,
        partition: i32,
    ) -> Option<&OffsetCommitValue> {
        let value = self.groups.get(group)?.get(topic)?.get(&partition)?.committed.as_ref()?;
        let of_another_topic = value.topic_id != TopicId::ZERO && id != TopicId::ZERO && value.topic_id != id;
        (!of_another_topic).then_some(value)
    }

    /// The durable offsets of a group, by topic.
    pub(super) fn committed_topics(&self, group: &str) -> impl Iterator<Item = (&Text, CommittedOfTopic<'_>)> {
        let topics = self.groups.get(group).into_iter().flatten();
        topics.filter_map(|(topic, partitions)| {
            let committed: Vec<_> =
                partitions.iter().filter_map(|(index, entry)| Some((*index, entry.committed.as_ref()?))).collect();
            (!committed.is_empty()).then_some((topic, committed))
        })
    }

    /// Every durable offset.
    pub(super) fn all_committed(&self) -> impl Iterator<Item = (&Text, &Text, i32, &OffsetCommitValue)> {
        self.groups.iter().flat_map(|(group, topics)| {
            topics.iter().flat_map(move |(topic, partitions)| {
                partitions
                    .iter()
                    .filter_map(move |(index, entry)| Some((group, topic, *index, entry.committed.as_ref()?)))
            })
        })
    }

    /// What a group's offsets will be once all writes in flight are durable.
    pub(super) fn latest(&self, group: &str) -> impl Iterator<Item = (&Text, i32, &OffsetCommitValue)> {
        self.groups.get(group).into_iter().flatten().flat_map(|(topic, partitions)| {
            partitions.iter().filter_map(move |(index, entry)| Some((topic, *index, entry.latest()?)))
        })
    }

    pub(super) fn has_latest(&self, group: &str, topic: &str, partition: i32) -> bool {
        let entry = self.groups.get(group).and_then(|topics| topics.get(topic)?.get(&partition));
        entry.is_some_and(|entry| entry.latest().is_some())
    }

    /// The latest offsets of any group in a topic of this name that were committed for `id`, or for no known id.
    pub(super) fn of_topic(&self, name: &str, id: TopicId) -> Vec<OffsetKey> {
        let mut keys = Vec::new();
        for (group, topics) in &self.groups {
            let Some((topic, partitions)) = topics.get_key_value(name) else { continue };
            for (index, entry) in partitions {
                if entry.latest().is_some_and(|value| value.topic_id == TopicId::ZERO || value.topic_id == id) {
                    keys.push((group.clone(), topic.clone(), *index));
                }
            }
        }
        keys
    }

    /// Forgets the groups for which `is_gone`.
    pub(super) fn forget(&mut self, mut is_gone: impl FnMut(&Text) -> bool) {
        self.groups.retain(|group, _| !is_gone(group));
    }
}

/// Partitions of one topic with their durable offsets.
pub(super) type CommittedOfTopic<'a> = Vec<(i32, &'a OffsetCommitValue)>;
