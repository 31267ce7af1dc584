//! Requests about offsets, and the ends of offsets: deletion, expiry, deleted topics.

use std::time::Duration;

use tidegate_records::{
    ids::{LeaderEpoch, Offset, TopicId},
    time::Timestamp,
};

use super::*;
use crate::group::{
    offsets::OffsetKey,
    request::{
        CommittedTopic, FetchedGroup, FetchedOffset, FetchedTopic, OffsetCommit, OffsetDelete, OffsetFetch,
        OffsetFetchGroup,
    },
};

/// A housekeeping write carries at most this many records, so that it stays far below the size that a batch may have.
const RECORDS_PER_WRITE: usize = 1000;

impl GroupCoordinator {
    pub(super) fn commit(
        &mut self,
        now: Now,
        token: RequestToken,
        commit: OffsetCommit,
        effects: &mut Vec<GroupEffect>,
    ) {
        if let Err(error) = self.validate_commit(now, &commit, effects) {
            let answer = GroupAnswer::OffsetCommit(commit.refused(error));
            effects.push(GroupEffect::Answer { token, answer });
            return;
        }
        let group = commit.group_id;
        let expire_timestamp =
            (commit.retention_time_ms >= 0).then(|| Timestamp(now.wall.0.saturating_add(commit.retention_time_ms)));
        let metadata_max = self.core.config.offset_metadata_max.min(i16::MAX as usize);
        let mut records = Vec::new();
        let mut topics = Vec::with_capacity(commit.topics.len());
        for topic in commit.topics {
            let mut outcomes = Vec::with_capacity(topic.partitions.len());
            for partition in topic.partitions {
                let metadata = partition.metadata.unwrap_or_else(|| "".into());
                let too_large = metadata.encode_utf16().count() > metadata_max;
                outcomes.push((partition.partition, too_large.then_some(GroupError::OffsetMetadataTooLarge)));
                if too_large {
                    continue;
                }
                let value = OffsetCommitValue {
                    offset: partition.offset,
                    leader_epoch: partition.leader_epoch,
                    metadata,
                    commit_timestamp: now.wall,
                    expire_timestamp,
                    topic_id: topic.id,
                };
                records.push(GroupRecord::OffsetCommit {
                    group: group.clone(),
                    topic: topic.name.clone(),
                    partition: partition.partition,
                    value: Some(value),
                });
            }
            topics.push(CommittedTopic { name: topic.name, id: topic.id, partitions: outcomes });
        }
        let answer = GroupAnswer::OffsetCommit(topics);
        if records.is_empty() {
            effects.push(GroupEffect::Answer { token, answer });
            return;
        }
        let partition = self.partition_of(&group);
        self.ensure_group(now, partition, &group);
        let write =
            Write { group: Some(group), offsets: Vec::new(), answers: vec![(token, answer)], then: Then::Nothing };
        self.persist_offsets(now, partition, records, write, effects);
    }

    fn validate_commit(
        &mut self,
        now: Now,
        commit: &OffsetCommit,
        effects: &mut Vec<GroupEffect>,
    ) -> Result<(), GroupError> {
        match self.groups.get(&commit.group_id) {
            Some(Group::Classic(group)) => group.validate_commit(commit, &mut self.core.context(now, effects)),
            Some(Group::Consumer(group)) => group.validate_commit(commit, &self.topics),
            None if commit.generation_or_epoch < 0 => Ok(()),
            None if commit.knows_member_epochs => Err(GroupError::GroupIdNotFound),
            None => Err(GroupError::IllegalGeneration),
        }
    }

    /// Appends records, and notes those that are offsets as in flight.
    fn persist_offsets(
        &mut self,
        now: Now,
        partition: i32,
        records: Vec<GroupRecord>,
        write: Write,
        effects: &mut Vec<GroupEffect>,
    ) -> PersistToken {
        let mut keys = Vec::with_capacity(records.len());
        let mut values = Vec::with_capacity(records.len());
        for record in &records {
            if let GroupRecord::OffsetCommit { group, topic, partition, value } = record {
                keys.push((group.clone(), topic.clone(), *partition));
                values.push(value.clone());
            }
        }
        let mut context = self.core.context(now, effects);
        let token = context.persist(partition, &records, Write { offsets: keys.clone(), ..write });
        for (key, value) in keys.iter().zip(values) {
            self.offsets.begin(key, token, value);
        }
        token
    }

    pub(super) fn fetch(&mut self, token: RequestToken, fetch: OffsetFetch, effects: &mut Vec<GroupEffect>) {
        if fetch.require_stable {
            // As in Apache Kafka 4: the answer waits for the writes in flight instead of UNSTABLE_OFFSET_COMMIT.
            let until: BTreeSet<_> =
                fetch.groups.iter().filter_map(|group| self.core.ledger.latest_of(&group.group_id)).collect();
            if !until.is_empty() {
                self.parked.push(Parked { until, token, request: GroupRequest::OffsetFetch(fetch) });
                return;
            }
        }
        let groups = fetch.groups.into_iter().map(|group| self.fetch_group(group)).collect();
        effects.push(GroupEffect::Answer { token, answer: GroupAnswer::OffsetFetch(groups) });
    }

    fn fetch_group(&self, fetch: OffsetFetchGroup) -> FetchedGroup {
        if let Err(error) = self.owned(&fetch.group_id) {
            return FetchedGroup::refused(fetch.group_id, error);
        }
        if let Some(Group::Consumer(group)) = self.groups.get(&fetch.group_id)
            && let Err(error) = group.validate_fetch(fetch.member_id.as_ref(), fetch.member_epoch)
        {
            return FetchedGroup::refused(fetch.group_id, error);
        }
        let fetched = |partition, value: Option<&OffsetCommitValue>| match value {
            Some(value) => FetchedOffset {
                partition,
                offset: value.offset,
                leader_epoch: value.leader_epoch,
                metadata: value.metadata.clone(),
            },
            None => {
                FetchedOffset { partition, offset: Offset::UNKNOWN, leader_epoch: LeaderEpoch(-1), metadata: "".into() }
            }
        };
        let group_id = fetch.group_id;
        let topics = match fetch.topics {
            None => self
                .offsets
                .committed_topics(&group_id)
                .map(|(name, offsets)| FetchedTopic {
                    name: name.clone(),
                    id: TopicId::ZERO,
                    partitions: offsets.into_iter().map(|(index, value)| fetched(index, Some(value))).collect(),
                })
                .collect(),
            Some(topics) => topics
                .into_iter()
                .map(|topic| {
                    let value = |index| self.offsets.committed(&group_id, &topic.name, topic.id, index);
                    let partitions = topic.partitions.iter().map(|index| fetched(*index, value(*index))).collect();
                    FetchedTopic { name: topic.name, id: topic.id, partitions }
                })
                .collect(),
        };
        FetchedGroup { group_id, error: None, topics }
    }

    pub(super) fn delete_offsets(
        &mut self,
        now: Now,
        token: RequestToken,
        delete: OffsetDelete,
        effects: &mut Vec<GroupEffect>,
    ) {
        let id = delete.group_id;
        let error = match self.groups.get(&id) {
            None => Some(GroupError::GroupIdNotFound),
            Some(Group::Classic(group)) if !group.is_empty() && !group.speaks_consumer_protocol() => {
                Some(GroupError::NonEmptyGroup)
            }
            Some(_) => None,
        };
        if let Some(error) = error {
            effects.push(GroupEffect::Answer { token, answer: GroupAnswer::OffsetDelete(Err(error)) });
            return;
        }
        let mut records = Vec::new();
        let mut topics = Vec::with_capacity(delete.topics.len());
        for (name, partitions) in delete.topics {
            let subscribed = self.groups.get(&id).is_some_and(|group| group.is_subscribed_to(&name));
            let outcome = subscribed.then_some(GroupError::GroupSubscribedToTopic);
            for index in &partitions {
                if !subscribed && self.offsets.has_latest(&id, &name, *index) {
                    records.push(tombstone(&(id.clone(), name.clone(), *index)));
                }
            }
            let partitions = partitions.into_iter().map(|index| (index, outcome)).collect();
            topics.push(CommittedTopic { name, id: TopicId::ZERO, partitions });
        }
        let answer = GroupAnswer::OffsetDelete(Ok(topics));
        if records.is_empty() {
            effects.push(GroupEffect::Answer { token, answer });
            return;
        }
        let partition = self.partition_of(&id);
        let write = Write { group: Some(id), offsets: Vec::new(), answers: vec![(token, answer)], then: Then::Nothing };
        self.persist_offsets(now, partition, records, write, effects);
    }

    /// Takes out groups of one partition, with all their offsets.
    pub(super) fn remove_groups(
        &mut self,
        now: Now,
        partition: i32,
        ids: Vec<Text>,
        request: Option<RequestToken>,
        effects: &mut Vec<GroupEffect>,
    ) {
        let mut records = Vec::new();
        let mut groups = Vec::with_capacity(ids.len());
        for id in &ids {
            let Some(mut group) = self.groups.remove(id) else { continue };
            group.close(GroupError::CoordinatorNotAvailable, &mut self.core.context(now, effects));
            for (topic, index, _) in self.offsets.latest(id) {
                records.push(tombstone(&(id.clone(), topic.clone(), index)));
            }
            records.extend(group.tombstones());
            groups.push(group);
        }
        let write = Write {
            group: None,
            offsets: Vec::new(),
            answers: Vec::new(),
            then: Then::GroupsRemoved { request, groups },
        };
        let token = self.persist_offsets(now, partition, records, write, effects);
        self.removing.extend(ids.into_iter().map(|id| (id, token)));
    }

    /// Ends offsets whose retention has passed, and groups that have nothing left.
    pub(super) fn expire(&mut self, now: Now, effects: &mut Vec<GroupEffect>) {
        let mut expired = BTreeMap::<i32, Vec<GroupRecord>>::new();
        let mut removed = BTreeMap::<i32, Vec<Text>>::new();
        for (id, group) in &self.groups {
            let Ok(partition) = self.owned(id) else { continue };
            let mut all_expired = true;
            let mut records = Vec::new();
            for (topic, index, value) in self.offsets.latest(id) {
                if !group.is_subscribed_to(topic) && self.is_expired(group, value, now.wall) {
                    records.push(tombstone(&(id.clone(), topic.clone(), index)));
                } else {
                    all_expired = false;
                }
            }
            if all_expired && group.is_empty() && group.last_write().is_none() {
                removed.entry(partition).or_default().push(id.clone());
            } else {
                expired.entry(partition).or_default().append(&mut records);
            }
        }
        for (partition, records) in expired {
            self.housekeeping(now, partition, records, effects);
        }
        for (partition, ids) in removed {
            for ids in ids.chunks(RECORDS_PER_WRITE / 10) {
                self.remove_groups(now, partition, ids.to_vec(), None, effects);
            }
        }
    }

    fn is_expired(&self, group: &Group, value: &OffsetCommitValue, now: Timestamp) -> bool {
        let base = match group {
            Group::Classic(group) => group.offset_expiry_base(value.commit_timestamp),
            Group::Consumer(_) => Some(value.commit_timestamp),
        };
        let Some(base) = base else { return false };
        match value.expire_timestamp {
            Some(expire) => now >= expire,
            None => u64::try_from(now.0.saturating_sub(base.0))
                .map(Duration::from_millis)
                .is_ok_and(|age| age >= self.core.config.offsets_retention),
        }
    }

    /// Ends the offsets of topics that were there before and are not any more.
    pub(super) fn forget_deleted_topics(&mut self, now: Now, before: &TopicsImage, effects: &mut Vec<GroupEffect>) {
        let mut records = BTreeMap::<i32, Vec<GroupRecord>>::new();
        for (name, id, _) in before.iter() {
            if self.topics.by_id(id).is_some() {
                continue;
            }
            for key in self.offsets.of_topic(name, id) {
                if let Ok(partition) = self.owned(&key.0) {
                    records.entry(partition).or_default().push(tombstone(&key));
                }
            }
        }
        for (partition, records) in records {
            self.housekeeping(now, partition, records, effects);
        }
    }

    fn housekeeping(
        &mut self,
        now: Now,
        partition: i32,
        mut records: Vec<GroupRecord>,
        effects: &mut Vec<GroupEffect>,
    ) {
        while !records.is_empty() {
            let rest = records.split_off(records.len().min(RECORDS_PER_WRITE));
            let write = Write { group: None, offsets: Vec::new(), answers: Vec::new(), then: Then::Nothing };
            self.persist_offsets(now, partition, std::mem::replace(&mut records, rest), write, effects);
        }
    }
}

fn tombstone((group, topic, partition): &OffsetKey) -> GroupRecord {
    GroupRecord::OffsetCommit { group: group.clone(), topic: topic.clone(), partition: *partition, value: None }
}
