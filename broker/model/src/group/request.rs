//! What the coordinator is asked and what it answers, free of protocol versions.
//!
//! The request layer turns each version of a Kafka request into one of these. Where a version changes a rule and not only the
//! layout, the struct says so in a field of its own.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_records::ids::{LeaderEpoch, Offset, TopicId};

use super::error::GroupError;

/// A string that is kept and handed on: group ids, member ids, topic names.
pub type Text = Arc<str>;

/// What a member's protocol supports: its name and the bytes that only members understand.
pub type Protocol = (Text, Bytes);

/// One request to the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupRequest {
    Join(JoinGroup),
    Sync(SyncGroup),
    Heartbeat(Heartbeat),
    Leave(LeaveGroup),
    OffsetCommit(OffsetCommit),
    OffsetFetch(OffsetFetch),
    OffsetDelete(OffsetDelete),
    List(ListGroups),
    /// Classic groups (DescribeGroups).
    Describe(Vec<Text>),
    Delete(Vec<Text>),
    ConsumerHeartbeat(ConsumerHeartbeat),
    /// Groups of the consumer protocol (ConsumerGroupDescribe).
    ConsumerDescribe(Vec<Text>),
}

/// One answer, of the same kind as its request.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupAnswer {
    Join(JoinAnswer),
    Sync(SyncAnswer),
    Heartbeat(Result<(), GroupError>),
    Leave(LeaveAnswer),
    OffsetCommit(Vec<CommittedTopic>),
    OffsetFetch(Vec<FetchedGroup>),
    OffsetDelete(Result<Vec<CommittedTopic>, GroupError>),
    List(Result<Vec<ListedGroup>, GroupError>),
    Describe(Vec<DescribedGroup>),
    Delete(Vec<(Text, Option<GroupError>)>),
    ConsumerHeartbeat(Box<ConsumerHeartbeatAnswer>),
    ConsumerDescribe(Vec<DescribedConsumerGroup>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct JoinGroup {
    pub group_id: Text,
    /// Empty if the member does not have one yet.
    pub member_id: Text,
    pub group_instance_id: Option<Text>,
    pub client_id: Text,
    pub client_host: Text,
    pub session_timeout_ms: i32,
    /// Version 0 has none: the session timeout stands in.
    pub rebalance_timeout_ms: i32,
    pub protocol_type: Text,
    /// In the order of the member's preference.
    pub protocols: Vec<Protocol>,
    /// Version 4 and later: a new dynamic member is first given an id with which to join again (KIP-394).
    pub known_member_id_required: bool,
    /// Version 9 and later: a returning static leader is told to skip the assignment (KIP-814).
    pub skip_assignment_supported: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct JoinAnswer {
    pub error: Option<GroupError>,
    pub generation: i32,
    pub protocol_type: Option<Text>,
    pub protocol_name: Option<Text>,
    pub leader: Text,
    pub skip_assignment: bool,
    pub member_id: Text,
    /// For the leader only.
    pub members: Vec<JoinedMember>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct JoinedMember {
    pub member_id: Text,
    pub group_instance_id: Option<Text>,
    pub metadata: Bytes,
}

impl JoinAnswer {
    pub(super) fn refused(member_id: Text, error: GroupError) -> Self {
        Self {
            error: Some(error),
            generation: -1,
            protocol_type: None,
            protocol_name: None,
            leader: "".into(),
            skip_assignment: false,
            member_id,
            members: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct SyncGroup {
    pub group_id: Text,
    pub generation: i32,
    pub member_id: Text,
    pub group_instance_id: Option<Text>,
    /// Version 5 and later.
    pub protocol_type: Option<Text>,
    /// Version 5 and later.
    pub protocol_name: Option<Text>,
    /// From the leader; empty from others.
    pub assignments: Vec<(Text, Bytes)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SyncAnswer {
    pub error: Option<GroupError>,
    pub protocol_type: Option<Text>,
    pub protocol_name: Option<Text>,
    pub assignment: Bytes,
}

impl SyncAnswer {
    pub(super) fn refused(error: GroupError) -> Self {
        Self { error: Some(error), protocol_type: None, protocol_name: None, assignment: Bytes::new() }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    pub group_id: Text,
    pub generation: i32,
    pub member_id: Text,
    pub group_instance_id: Option<Text>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LeaveGroup {
    pub group_id: Text,
    pub members: Vec<LeavingMember>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LeavingMember {
    /// Empty when an administrator removes a static member by its instance id.
    pub member_id: Text,
    pub group_instance_id: Option<Text>,
}

/// Versions before 3 show the first member's error as that of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaveAnswer {
    pub error: Option<GroupError>,
    pub members: Vec<(LeavingMember, Option<GroupError>)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct OffsetCommit {
    pub group_id: Text,
    /// -1 without a group; the member epoch for a consumer group (version 9).
    pub generation_or_epoch: i32,
    pub member_id: Text,
    pub group_instance_id: Option<Text>,
    /// Versions 2 to 4 only: milliseconds, -1 for the broker's retention.
    pub retention_time_ms: i64,
    /// Version 9 and later: GROUP_ID_NOT_FOUND and STALE_MEMBER_EPOCH may be answered.
    pub knows_member_epochs: bool,
    pub topics: Vec<CommitTopic>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CommitTopic {
    pub name: Text,
    /// [`TopicId::ZERO`] if the request had none and the broker does not know the topic.
    pub id: TopicId,
    pub partitions: Vec<CommitPartition>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CommitPartition {
    pub partition: i32,
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
    pub metadata: Option<Text>,
}

/// One topic of an answer to OffsetCommit or OffsetDelete: an error, or none, for each partition.
#[derive(Clone, Debug, PartialEq)]
pub struct CommittedTopic {
    pub name: Text,
    pub id: TopicId,
    pub partitions: Vec<(i32, Option<GroupError>)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct OffsetFetch {
    pub groups: Vec<OffsetFetchGroup>,
    /// Answer only what no write in flight can change.
    pub require_stable: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct OffsetFetchGroup {
    pub group_id: Text,
    /// Version 9 and later, from members of a consumer group.
    pub member_id: Option<Text>,
    /// -1 if the request is not a member's.
    pub member_epoch: i32,
    /// All topics of the group if `None`.
    pub topics: Option<Vec<FetchTopic>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FetchTopic {
    pub name: Text,
    pub id: TopicId,
    pub partitions: Vec<i32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FetchedGroup {
    pub group_id: Text,
    pub error: Option<GroupError>,
    pub topics: Vec<FetchedTopic>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FetchedTopic {
    pub name: Text,
    pub id: TopicId,
    pub partitions: Vec<FetchedOffset>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FetchedOffset {
    pub partition: i32,
    /// [`Offset::UNKNOWN`] if none is committed.
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
    pub metadata: Text,
}

#[derive(Clone, Debug, PartialEq)]
pub struct OffsetDelete {
    pub group_id: Text,
    pub topics: Vec<(Text, Vec<i32>)>,
}

/// Empty filters let everything pass. Compared without regard to case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListGroups {
    pub states: Vec<Text>,
    pub types: Vec<Text>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ListedGroup {
    pub group_id: Text,
    pub protocol_type: Text,
    pub state: &'static str,
    /// "classic" or "consumer", written as Kafka does.
    pub group_type: &'static str,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DescribedGroup {
    pub group_id: Text,
    /// [`GroupError::GroupIdNotFound`] is told to clients from version 6 on only.
    pub error: Option<GroupError>,
    pub state: &'static str,
    pub protocol_type: Text,
    pub protocol_data: Text,
    pub members: Vec<DescribedMember>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DescribedMember {
    pub member_id: Text,
    pub group_instance_id: Option<Text>,
    pub client_id: Text,
    pub client_host: Text,
    pub metadata: Bytes,
    pub assignment: Bytes,
}

/// A heartbeat of the consumer protocol (KIP-848). `None` means "as before" in every optional field.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerHeartbeat {
    pub group_id: Text,
    /// Version 0 allows it to be empty when joining: the coordinator then makes one.
    pub member_id: Text,
    /// 0 to join, -1 to leave, -2 to leave for a while (static members), else the current epoch.
    pub member_epoch: i32,
    pub instance_id: Option<Text>,
    pub rack_id: Option<Text>,
    /// -1 for "as before".
    pub rebalance_timeout_ms: i32,
    pub subscribed_topic_names: Option<Vec<Text>>,
    pub subscribed_topic_regex: Option<Text>,
    pub server_assignor: Option<Text>,
    /// What the member owns now.
    pub topic_partitions: Option<Vec<(TopicId, Vec<i32>)>>,
    pub client_id: Text,
    pub client_host: Text,
    /// Version 1 and later: the member makes its own id.
    pub member_makes_id: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerHeartbeatAnswer {
    pub error: Option<GroupError>,
    pub error_message: Option<Text>,
    pub member_id: Option<Text>,
    pub member_epoch: i32,
    pub heartbeat_interval_ms: i32,
    /// Present if it changed, or if the member asked with all its fields.
    pub assignment: Option<Vec<(TopicId, Vec<i32>)>>,
}

impl ConsumerHeartbeatAnswer {
    pub(super) fn refused(error: GroupError, message: impl Into<Text>) -> Self {
        Self {
            error: Some(error),
            error_message: Some(message.into()),
            member_id: None,
            member_epoch: 0,
            heartbeat_interval_ms: 0,
            assignment: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct DescribedConsumerGroup {
    pub group_id: Text,
    pub error: Option<GroupError>,
    pub error_message: Option<Text>,
    pub state: &'static str,
    pub group_epoch: i32,
    pub assignment_epoch: i32,
    pub assignor: Text,
    pub members: Vec<DescribedConsumerMember>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DescribedConsumerMember {
    pub member_id: Text,
    pub instance_id: Option<Text>,
    pub rack_id: Option<Text>,
    pub member_epoch: i32,
    pub client_id: Text,
    pub client_host: Text,
    pub subscribed_topic_names: Vec<Text>,
    pub subscribed_topic_regex: Option<Text>,
    pub assignment: Vec<DescribedTopic>,
    pub target_assignment: Vec<DescribedTopic>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DescribedTopic {
    pub id: TopicId,
    pub name: Text,
    pub partitions: Vec<i32>,
}

impl GroupRequest {
    /// The refusal of this whole request. A heartbeat to a coordinator that loads is answered as if all were well, so that
    /// members do not rejoin; OffsetFetch and DescribeGroups carry the error per group.
    #[must_use]
    pub fn refused(&self, error: GroupError) -> GroupAnswer {
        match self {
            Self::Join(join) => GroupAnswer::Join(JoinAnswer::refused(join.member_id.clone(), error)),
            Self::Sync(_) => GroupAnswer::Sync(SyncAnswer::refused(error)),
            Self::Heartbeat(_) if error == GroupError::CoordinatorLoadInProgress => GroupAnswer::Heartbeat(Ok(())),
            Self::Heartbeat(_) => GroupAnswer::Heartbeat(Err(error)),
            Self::Leave(_) => GroupAnswer::Leave(LeaveAnswer { error: Some(error), members: Vec::new() }),
            Self::OffsetCommit(commit) => GroupAnswer::OffsetCommit(commit.refused(error)),
            Self::OffsetFetch(fetch) => GroupAnswer::OffsetFetch(
                fetch.groups.iter().map(|group| FetchedGroup::refused(group.group_id.clone(), error)).collect(),
            ),
            Self::OffsetDelete(_) => GroupAnswer::OffsetDelete(Err(error)),
            Self::List(_) => GroupAnswer::List(Err(error)),
            Self::Describe(ids) => {
                GroupAnswer::Describe(ids.iter().map(|id| DescribedGroup::refused(id.clone(), error)).collect())
            }
            Self::Delete(ids) => GroupAnswer::Delete(ids.iter().map(|id| (id.clone(), Some(error))).collect()),
            Self::ConsumerHeartbeat(_) => {
                GroupAnswer::ConsumerHeartbeat(Box::new(ConsumerHeartbeatAnswer::refused(error, error.to_string())))
            }
            Self::ConsumerDescribe(ids) => GroupAnswer::ConsumerDescribe(
                ids.iter().map(|id| DescribedConsumerGroup::refused(id.clone(), error)).collect(),
            ),
        }
    }

    /// Whether every string fits the 16-bit lengths of the record formats. Compact strings on the wire may be longer.
    pub(super) fn strings_fit(&self) -> bool {
        let fits = |text: &str| i16::try_from(text.len()).is_ok();
        let option_fits = |text: &Option<Text>| text.as_deref().is_none_or(fits);
        match self {
            Self::Join(join) => {
                fits(&join.group_id)
                    && fits(&join.member_id)
                    // The coordinator makes member ids out of these two: room for a hyphen and a UUID.
                    && join.client_id.len() < 0x7f00
                    && join.group_instance_id.as_deref().is_none_or(|id| id.len() < 0x7f00)
                    && fits(&join.client_host)
                    && fits(&join.protocol_type)
                    && join.protocols.iter().all(|(name, _)| fits(name))
            }
            Self::OffsetCommit(commit) => {
                fits(&commit.group_id)
                    && commit.topics.iter().all(|topic| {
                        fits(&topic.name) && topic.partitions.iter().all(|partition| option_fits(&partition.metadata))
                    })
            }
            Self::ConsumerHeartbeat(heartbeat) => {
                fits(&heartbeat.group_id)
                    && fits(&heartbeat.member_id)
                    && option_fits(&heartbeat.instance_id)
                    && option_fits(&heartbeat.rack_id)
                    && fits(&heartbeat.client_id)
                    && fits(&heartbeat.client_host)
                    && option_fits(&heartbeat.subscribed_topic_regex)
                    && heartbeat.subscribed_topic_names.iter().flatten().all(|name| fits(name))
            }
            // The others only look up what is there.
            _ => true,
        }
    }
}

impl GroupAnswer {
    /// Adds the groups of another shard's answer to the same request. The first error of a listing stays.
    pub fn merge(&mut self, other: Self) {
        match (self, other) {
            (Self::OffsetFetch(groups), Self::OffsetFetch(more)) => groups.extend(more),
            (Self::List(Ok(groups)), Self::List(Ok(more))) => groups.extend(more),
            (Self::List(listing @ Ok(_)), Self::List(Err(error))) => *listing = Err(error),
            (Self::List(Err(_)), Self::List(_)) => {}
            (Self::Describe(groups), Self::Describe(more)) => groups.extend(more),
            (Self::Delete(groups), Self::Delete(more)) => groups.extend(more),
            (Self::ConsumerDescribe(groups), Self::ConsumerDescribe(more)) => groups.extend(more),
            (mine, other) => unreachable!("only answers about several groups are merged, not {mine:?} and {other:?}"),
        }
    }

    /// The same answer, had its records not become durable.
    pub(super) fn failed(self, error: GroupError) -> Self {
        match self {
            Self::Join(join) => Self::Join(JoinAnswer::refused(join.member_id, error)),
            Self::Sync(_) => Self::Sync(SyncAnswer::refused(error)),
            Self::Heartbeat(_) => Self::Heartbeat(Err(error)),
            Self::Leave(_) => Self::Leave(LeaveAnswer { error: Some(error), members: Vec::new() }),
            Self::OffsetCommit(mut topics) => {
                for (_, outcome) in topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                    *outcome = Some(error);
                }
                Self::OffsetCommit(topics)
            }
            Self::OffsetFetch(groups) => Self::OffsetFetch(
                groups.into_iter().map(|group| FetchedGroup::refused(group.group_id, error)).collect(),
            ),
            Self::OffsetDelete(_) => Self::OffsetDelete(Err(error)),
            Self::List(_) => Self::List(Err(error)),
            Self::Describe(groups) => {
                Self::Describe(groups.into_iter().map(|group| DescribedGroup::refused(group.group_id, error)).collect())
            }
            Self::Delete(groups) => Self::Delete(groups.into_iter().map(|(id, _)| (id, Some(error))).collect()),
            Self::ConsumerHeartbeat(_) => {
                Self::ConsumerHeartbeat(Box::new(ConsumerHeartbeatAnswer::refused(error, error.to_string())))
            }
            Self::ConsumerDescribe(groups) => Self::ConsumerDescribe(
                groups.into_iter().map(|group| DescribedConsumerGroup::refused(group.group_id, error)).collect(),
            ),
        }
    }
}

impl OffsetCommit {
    /// Every partition refused with the same error: the answer has no error of its own.
    pub(super) fn refused(&self, error: GroupError) -> Vec<CommittedTopic> {
        self.topics
            .iter()
            .map(|topic| CommittedTopic {
                name: topic.name.clone(),
                id: topic.id,
                partitions: topic.partitions.iter().map(|partition| (partition.partition, Some(error))).collect(),
            })
            .collect()
    }
}

impl FetchedGroup {
    #[must_use]
    pub fn refused(group_id: Text, error: GroupError) -> Self {
        Self { group_id, error: Some(error), topics: Vec::new() }
    }
}

impl DescribedGroup {
    pub(super) fn refused(group_id: Text, error: GroupError) -> Self {
        let state = if error == GroupError::GroupIdNotFound { "Dead" } else { "" };
        Self {
            group_id,
            error: Some(error),
            state,
            protocol_type: "".into(),
            protocol_data: "".into(),
            members: Vec::new(),
        }
    }
}

impl DescribedConsumerGroup {
    pub(super) fn refused(group_id: Text, error: GroupError) -> Self {
        Self {
            error_message: Some(error.to_string().into()),
            group_id,
            error: Some(error),
            state: "",
            group_epoch: 0,
            assignment_epoch: 0,
            assignor: "".into(),
            members: Vec::new(),
        }
    }
}
