//! Consumer groups of both protocols, and the offsets that they committed.

use std::collections::BTreeMap;

use bytes::Buf as _;
use kafka_protocol::{
    error::ResponseError,
    messages::{
        ConsumerGroupDescribeRequest, ConsumerProtocolAssignment, DeleteGroupsRequest, DescribeGroupsRequest,
        FindCoordinatorRequest, GroupId, ListGroupsRequest, OffsetCommitRequest, OffsetFetchRequest,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch_request::OffsetFetchRequestGroup,
    },
    protocol::{Decodable as _, StrBytes},
};
use serde::Serialize;
use tidegate_records::ids::Offset;

use super::{
    Cluster,
    connection::Connection,
    error::{ClientError, check},
    offsets::TopicPartition,
    patiently,
    topics::topic_name,
};

/// The newest version of the assignment in classic groups that the codec reads.
const ASSIGNMENT_VERSION_MAX: i16 = 3;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct ListedGroup {
    pub(crate) group: String,
    /// `classic`, `consumer` (KIP-848), ...; `None` from brokers that do not say it.
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) protocol_type: String,
    pub(crate) coordinator: i32,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Group {
    pub(crate) group: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) state: String,
    pub(crate) coordinator: i32,
    pub(crate) assignor: String,
    /// The group's epoch; `None` in classic groups, which do not say their generation.
    pub(crate) epoch: Option<i32>,
    pub(crate) members: Vec<Member>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Member {
    pub(crate) member_id: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) host: String,
    pub(crate) assigned: BTreeMap<String, Vec<i32>>,
}

impl Cluster {
    /// The groups of all brokers, by name.
    pub(crate) fn groups(&mut self) -> Result<Vec<ListedGroup>, ClientError> {
        let ids: Vec<i32> = self.brokers.keys().copied().collect();
        let mut groups = Vec::new();
        for id in ids {
            let listed = patiently(|| {
                let answer = self.broker(id)?.call(&ListGroupsRequest::default())?;
                check(format!("the groups of broker {id}"), answer.error_code, None)?;
                Ok(answer.groups)
            })?;
            groups.extend(listed.into_iter().map(|group| ListedGroup {
                group: group.group_id.to_string(),
                kind: some_text(&group.group_type),
                state: some_text(&group.group_state),
                protocol_type: group.protocol_type.to_string(),
                coordinator: id,
            }));
        }
        groups.sort_by(|left, right| left.group.cmp(&right.group));
        Ok(groups)
    }

    /// One group with its members.
    pub(crate) fn group(&mut self, name: &str) -> Result<Group, ClientError> {
        if self.supports::<ConsumerGroupDescribeRequest>() {
            match self.consumer_group(name) {
                Err(error)
                    if matches!(
                        error.code(),
                        Some(
                            ResponseError::GroupIdNotFound
                                | ResponseError::UnsupportedVersion
                                | ResponseError::InvalidGroupId
                        )
                    ) => {}
                result => return result,
            }
        }
        self.classic_group(name)
    }

    fn consumer_group(&mut self, name: &str) -> Result<Group, ClientError> {
        let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group_id(name)]);
        patiently(|| {
            let (coordinator, connection) = self.coordinator(name)?;
            let answer = connection.call(&request)?;
            let what = format!("group {name:?}");
            let group = answer.groups.into_iter().next().ok_or_else(|| ClientError::Missing { what: what.clone() })?;
            check(what, group.error_code, group.error_message.as_ref())?;
            let members = group.members.into_iter().map(|member| Member {
                member_id: member.member_id.to_string(),
                instance_id: member.instance_id.map(|id| id.to_string()),
                client_id: member.client_id.to_string(),
                host: member.client_host.to_string(),
                assigned: member
                    .assignment
                    .topic_partitions
                    .into_iter()
                    .map(|topic| (topic.topic_name.to_string(), topic.partitions))
                    .collect(),
            });
            Ok(Group {
                group: name.to_owned(),
                kind: "consumer",
                state: group.group_state.to_string(),
                coordinator,
                assignor: group.assignor_name.to_string(),
                epoch: Some(group.group_epoch),
                members: members.collect(),
            })
        })
    }

    fn classic_group(&mut self, name: &str) -> Result<Group, ClientError> {
        let request = DescribeGroupsRequest::default().with_groups(vec![group_id(name)]);
        patiently(|| {
            let (coordinator, connection) = self.coordinator(name)?;
            let answer = connection.call(&request)?;
            let what = format!("group {name:?}");
            let group = answer.groups.into_iter().next().ok_or_else(|| ClientError::Missing { what: what.clone() })?;
            check(what.clone(), group.error_code, group.error_message.as_ref())?;
            // Before version 6 a group that does not exist is a dead one without members.
            if group.group_state.as_str() == "Dead" && group.members.is_empty() {
                check(what, ResponseError::GroupIdNotFound.code(), None)?;
            }
            let is_consumer = group.protocol_type.as_str() == "consumer";
            let members = group.members.into_iter().map(|member| Member {
                member_id: member.member_id.to_string(),
                instance_id: member.group_instance_id.map(|id| id.to_string()),
                client_id: member.client_id.to_string(),
                host: member.client_host.to_string(),
                assigned: if is_consumer { assigned(member.member_assignment) } else { BTreeMap::new() },
            });
            Ok(Group {
                group: name.to_owned(),
                kind: "classic",
                state: group.group_state.to_string(),
                coordinator,
                assignor: group.protocol_data.to_string(),
                epoch: None,
                members: members.collect(),
            })
        })
    }

    /// What the group has committed, by partition.
    pub(crate) fn committed(&mut self, name: &str) -> Result<BTreeMap<TopicPartition, Offset>, ClientError> {
        patiently(|| {
            let (_, connection) = self.coordinator(name)?;
            let mut offsets = BTreeMap::new();
            let mut keep = |topic: &str, partition: i32, offset: i64, code: i16| {
                check(format!("what group {name:?} committed for topic {topic:?}, partition {partition}"), code, None)?;
                if offset >= 0 {
                    offsets.insert((topic.to_owned(), partition), Offset(offset));
                }
                Ok::<_, ClientError>(())
            };
            let what = || format!("what group {name:?} committed");
            if connection.version::<OffsetFetchRequest>()? >= 8 {
                let group = OffsetFetchRequestGroup::default()
                    .with_group_id(group_id(name))
                    .with_member_epoch(-1)
                    .with_topics(None);
                let answer = connection.call(&OffsetFetchRequest::default().with_groups(vec![group]))?;
                for group in answer.groups {
                    check(what(), group.error_code, None)?;
                    for topic in group.topics {
                        for partition in topic.partitions {
                            keep(
                                &topic.name,
                                partition.partition_index,
                                partition.committed_offset,
                                partition.error_code,
                            )?;
                        }
                    }
                }
            } else {
                let request = OffsetFetchRequest::default().with_group_id(group_id(name)).with_topics(None);
                let answer = connection.call(&request)?;
                check(what(), answer.error_code, None)?;
                for topic in answer.topics {
                    for partition in topic.partitions {
                        keep(&topic.name, partition.partition_index, partition.committed_offset, partition.error_code)?;
                    }
                }
            }
            Ok(offsets)
        })
    }

    /// Commits offsets for a group that has no members, as an admin does.
    pub(crate) fn commit(&mut self, name: &str, offsets: &BTreeMap<TopicPartition, Offset>) -> Result<(), ClientError> {
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for ((topic, partition), offset) in offsets {
            let committed = OffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(offset.0)
                .with_committed_leader_epoch(-1)
                .with_committed_metadata(Some(StrBytes::new()));
            topics.entry(topic).or_default().push(committed);
        }
        let topics = topics
            .into_iter()
            .map(|(topic, partitions)| {
                OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(partitions)
            })
            .collect();
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id(name))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(topics);
        patiently(|| {
            let answer = self.coordinator(name)?.1.call(&request)?;
            for topic in answer.topics {
                for partition in topic.partitions {
                    let index = partition.partition_index;
                    let what = format!(
                        "cannot set the offset of group {name:?} in topic {:?}, partition {index}",
                        topic.name.as_str()
                    );
                    check(what, partition.error_code, None)?;
                }
            }
            Ok(())
        })
    }

    pub(crate) fn delete_group(&mut self, name: &str) -> Result<(), ClientError> {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id(name)]);
        patiently(|| {
            let answer = self.coordinator(name)?.1.call(&request)?;
            let what = format!("cannot delete group {name:?}");
            let result =
                answer.results.into_iter().next().ok_or_else(|| ClientError::Missing { what: what.clone() })?;
            check(what, result.error_code, None)
        })
    }

    /// The broker that coordinates the group. Callers ask again while there is none yet.
    fn coordinator(&mut self, group: &str) -> Result<(i32, &mut Connection), ClientError> {
        let connection = self.any();
        let key = StrBytes::from_string(group.to_owned());
        let what = || format!("the coordinator of group {group:?}");
        let id = if connection.version::<FindCoordinatorRequest>()? >= 4 {
            let answer = connection.call(&FindCoordinatorRequest::default().with_coordinator_keys(vec![key]))?;
            let found = answer.coordinators.into_iter().next().ok_or_else(|| ClientError::Missing { what: what() })?;
            check(what(), found.error_code, found.error_message.as_ref())?;
            found.node_id.0
        } else {
            let answer = connection.call(&FindCoordinatorRequest::default().with_key(key))?;
            check(what(), answer.error_code, answer.error_message.as_ref())?;
            answer.node_id.0
        };
        Ok((id, self.broker(id)?))
    }
}

fn group_id(name: &str) -> GroupId {
    GroupId(StrBytes::from_string(name.to_owned()))
}

fn some_text(text: &StrBytes) -> Option<String> {
    (!text.is_empty()).then(|| text.to_string())
}

/// Which partitions a classic group's leader gave a member; nothing, where it is in no format that consumers share.
fn assigned(mut assignment: bytes::Bytes) -> BTreeMap<String, Vec<i32>> {
    if assignment.remaining() < 2 {
        return BTreeMap::new();
    }
    let version = assignment.get_i16().min(ASSIGNMENT_VERSION_MAX);
    let Ok(assignment) = ConsumerProtocolAssignment::decode(&mut assignment, version) else {
        return BTreeMap::new();
    };
    assignment.assigned_partitions.into_iter().map(|topic| (topic.topic.to_string(), topic.partitions)).collect()
}
