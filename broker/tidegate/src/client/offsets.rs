//! Offsets in partitions: the first, the last, the first from a moment on.

use std::collections::BTreeMap;

use kafka_protocol::{
    ResponseError,
    messages::{
        ListOffsetsRequest,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    },
};
use tidegate_records::{ids::Offset, time::Timestamp};

use super::{
    Cluster,
    error::{ClientError, check},
    patiently,
    topics::{Absent, topic_name},
};

/// A partition, by its topic's name.
pub(crate) type TopicPartition = (String, i32);

/// Which offset of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// The log start offset.
    Earliest,
    /// The end, as readers may see it.
    Latest,
    /// The first record with that timestamp or a later one; the end, where there is none.
    At(Timestamp),
}

impl Position {
    /// The timestamp that stands for it in ListOffsets.
    fn timestamp(self) -> i64 {
        match self {
            Self::Latest => -1,
            Self::Earliest => -2,
            Self::At(timestamp) => timestamp.0,
        }
    }
}

impl Cluster {
    /// That offset of each of the partitions.
    pub(crate) fn offsets(
        &mut self,
        partitions: &[TopicPartition],
        position: Position,
    ) -> Result<BTreeMap<TopicPartition, Offset>, ClientError> {
        let mut offsets = patiently(|| self.offsets_once(partitions, position))?;
        if matches!(position, Position::At(_)) {
            let unknown: Vec<_> =
                offsets.iter().filter(|(_, offset)| **offset == Offset::UNKNOWN).map(|(key, _)| key.clone()).collect();
            if !unknown.is_empty() {
                offsets.extend(patiently(|| self.offsets_once(&unknown, Position::Latest))?);
            }
        }
        Ok(offsets)
    }

    fn offsets_once(
        &mut self,
        partitions: &[TopicPartition],
        position: Position,
    ) -> Result<BTreeMap<TopicPartition, Offset>, ClientError> {
        let mut by_leader: BTreeMap<i32, BTreeMap<String, Vec<ListOffsetsPartition>>> = BTreeMap::new();
        let mut leaders: BTreeMap<&str, BTreeMap<i32, i32>> = BTreeMap::new();
        for (name, partition) in partitions {
            if !leaders.contains_key(name.as_str()) {
                let topic = self.topic(name, Absent::Error)?;
                leaders.insert(name, topic.partitions.iter().map(|found| (found.partition, found.leader)).collect());
            }
            let leader = leaders.get(name.as_str()).and_then(|found| found.get(partition));
            let leader = leader
                .ok_or_else(|| ClientError::Missing { what: format!("topic {name:?}, partition {partition}") })?;
            if *leader < 0 {
                let what = format!("the offsets of topic {name:?}, partition {partition}");
                check(what, ResponseError::LeaderNotAvailable.code(), None)?;
            }
            let asked = ListOffsetsPartition::default()
                .with_partition_index(*partition)
                .with_current_leader_epoch(-1)
                .with_timestamp(position.timestamp());
            by_leader.entry(*leader).or_default().entry(name.clone()).or_default().push(asked);
        }
        let mut offsets = BTreeMap::new();
        for (leader, topics) in by_leader {
            let topics = topics
                .into_iter()
                .map(|(name, partitions)| {
                    ListOffsetsTopic::default().with_name(topic_name(&name)).with_partitions(partitions)
                })
                .collect();
            let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(topics);
            let answer = self.broker(leader)?.call(&request)?;
            for topic in answer.topics {
                for partition in topic.partitions {
                    let index = partition.partition_index;
                    check(
                        format!("the offsets of topic {:?}, partition {index}", topic.name.as_str()),
                        partition.error_code,
                        None,
                    )?;
                    offsets.insert((topic.name.to_string(), index), Offset(partition.offset));
                }
            }
        }
        match partitions.iter().find(|partition| !offsets.contains_key(*partition)) {
            Some((topic, partition)) => {
                Err(ClientError::Missing { what: format!("the offsets of topic {topic:?}, partition {partition}") })
            }
            None => Ok(offsets),
        }
    }
}
