//! The records of `__consumer_offsets`, in Apache Kafka's own formats, so that Kafka's tools read them.
//!
//! Source: `group-coordinator/src/main/resources/common/message/*.json` of Apache Kafka 4.3; KIP-915 (flexible values), KIP-848
//! (consumer groups). A key is a 16-bit record type and its fields, never flexible. A value is a 16-bit version and its
//! fields. A key without a value is a tombstone.
//!
//! | type | record | written | read |
//! |---|---|---|---|
//! | 0, 1 | OffsetCommit | 1, value 3; with a topic id 4; with an expiry 1 | values 0-4 |
//! | 2 | GroupMetadata (classic) | value 3 | 0-4 |
//! | 3 | ConsumerGroupMetadata | 0 | 0 |
//! | 4 | ConsumerGroupPartitionMetadata (before Kafka 4.1) | tombstones | 0 |
//! | 5 | ConsumerGroupMemberMetadata | 0 | 0 |
//! | 6 | ConsumerGroupTargetAssignmentMetadata | 0 | 0 |
//! | 7 | ConsumerGroupTargetAssignmentMember | 0 | 0 |
//! | 8 | ConsumerGroupCurrentMemberAssignment | 0 | 0 |
//! | 16 | ConsumerGroupRegularExpression | 0 | 0 |

use bytes::Bytes;
use tidegate_records::{
    ids::{LeaderEpoch, Offset, TopicId},
    time::Timestamp,
};

pub use super::wire::WireError;
use super::{
    request::{Protocol, Text},
    wire::{Lengths, Reader, Writer},
};

const OFFSET_COMMIT_LEGACY: i16 = 0;
const OFFSET_COMMIT: i16 = 1;
const GROUP_METADATA: i16 = 2;
const CONSUMER_GROUP_METADATA: i16 = 3;
const CONSUMER_GROUP_PARTITION_METADATA: i16 = 4;
const CONSUMER_GROUP_MEMBER: i16 = 5;
const CONSUMER_GROUP_TARGET_ASSIGNMENT_METADATA: i16 = 6;
const CONSUMER_GROUP_TARGET_ASSIGNMENT_MEMBER: i16 = 7;
const CONSUMER_GROUP_CURRENT_ASSIGNMENT: i16 = 8;
const CONSUMER_GROUP_REGEX: i16 = 16;

/// One record: what it is about, and its value, `None` for a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRecord {
    OffsetCommit {
        group: Text,
        topic: Text,
        partition: i32,
        value: Option<OffsetCommitValue>,
    },
    ClassicGroup {
        group: Text,
        value: Option<ClassicGroupValue>,
    },
    ConsumerGroup {
        group: Text,
        value: Option<ConsumerGroupValue>,
    },
    /// Only read: Kafka 4.1 replaced it by a hash in [`ConsumerGroupValue`]. The value is not looked into.
    ConsumerGroupPartitions {
        group: Text,
        present: bool,
    },
    ConsumerMember {
        group: Text,
        member: Text,
        value: Option<ConsumerMemberValue>,
    },
    TargetAssignmentEpoch {
        group: Text,
        value: Option<TargetAssignmentEpochValue>,
    },
    TargetAssignment {
        group: Text,
        member: Text,
        value: Option<Vec<AssignedTopic>>,
    },
    CurrentAssignment {
        group: Text,
        member: Text,
        value: Option<CurrentAssignmentValue>,
    },
    Regex {
        group: Text,
        regex: Text,
        value: Option<RegexValue>,
    },
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommitValue {
    pub offset: Offset,
    /// -1 if the client did not say.
    pub leader_epoch: LeaderEpoch,
    pub metadata: Text,
    pub commit_timestamp: Timestamp,
    /// Set only by clients that gave a retention time (OffsetCommit 2 to 4).
    pub expire_timestamp: Option<Timestamp>,
    /// [`TopicId::ZERO`] if not known.
    pub topic_id: TopicId,
}

/// A classic group as of its last completed rebalance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicGroupValue {
    /// Empty for none.
    pub protocol_type: Text,
    pub generation: i32,
    pub protocol: Option<Text>,
    pub leader: Option<Text>,
    pub current_state_timestamp: Option<Timestamp>,
    pub members: Vec<ClassicMemberValue>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicMemberValue {
    pub member_id: Text,
    pub group_instance_id: Option<Text>,
    pub client_id: Text,
    pub client_host: Text,
    /// -1 before version 1: the session timeout stands in.
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub subscription: Bytes,
    pub assignment: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerGroupValue {
    pub epoch: i32,
    /// Of all topics that the group is subscribed to; 0 if not known, which makes the group look again.
    pub metadata_hash: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerMemberValue {
    pub instance_id: Option<Text>,
    pub rack_id: Option<Text>,
    pub client_id: Text,
    pub client_host: Text,
    /// In ascending order.
    pub subscribed_topic_names: Vec<Text>,
    pub subscribed_topic_regex: Option<Text>,
    pub rebalance_timeout_ms: i32,
    pub server_assignor: Option<Text>,
    /// Set for members that speak the classic protocol in a consumer group: not created here, but kept when read.
    pub classic: Option<ClassicMemberMetadata>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicMemberMetadata {
    pub session_timeout_ms: i32,
    pub supported_protocols: Vec<Protocol>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetAssignmentEpochValue {
    pub epoch: i32,
    /// 0 if not known.
    pub timestamp: Timestamp,
}

/// Partitions of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignedTopic {
    pub id: TopicId,
    pub partitions: Vec<i32>,
    /// For each partition the epoch at which the member got it (Kafka 4.3); `None` in target assignments and older records.
    pub epochs: Option<Vec<i32>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentAssignmentValue {
    pub member_epoch: i32,
    pub previous_member_epoch: i32,
    /// Kafka's `MemberState`: 0 stable, 1 unrevoked, 2 unreleased, 127 unknown.
    pub state: i8,
    pub assigned: Vec<AssignedTopic>,
    pub pending_revocation: Vec<AssignedTopic>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegexValue {
    /// In ascending order.
    pub topics: Vec<Text>,
    /// The version of the metadata with which it was resolved.
    pub version: i64,
    pub timestamp: Timestamp,
}

impl GroupRecord {
    /// The group that the record belongs to.
    #[must_use]
    pub fn group(&self) -> &Text {
        match self {
            Self::OffsetCommit { group, .. }
            | Self::ClassicGroup { group, .. }
            | Self::ConsumerGroup { group, .. }
            | Self::ConsumerGroupPartitions { group, .. }
            | Self::ConsumerMember { group, .. }
            | Self::TargetAssignmentEpoch { group, .. }
            | Self::TargetAssignment { group, .. }
            | Self::CurrentAssignment { group, .. }
            | Self::Regex { group, .. } => group,
        }
    }

    /// Whether the record ends what it is about.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        match self {
            Self::OffsetCommit { value, .. } => value.is_none(),
            Self::ClassicGroup { value, .. } => value.is_none(),
            Self::ConsumerGroup { value, .. } => value.is_none(),
            Self::ConsumerGroupPartitions { present, .. } => !present,
            Self::ConsumerMember { value, .. } => value.is_none(),
            Self::TargetAssignmentEpoch { value, .. } => value.is_none(),
            Self::TargetAssignment { value, .. } => value.is_none(),
            Self::CurrentAssignment { value, .. } => value.is_none(),
            Self::Regex { value, .. } => value.is_none(),
        }
    }

    /// The key and the value to append.
    ///
    /// # Panics
    /// If a string is longer than 32767 bytes; the coordinator refuses requests that carry such.
    #[must_use]
    pub fn encode(&self) -> (Bytes, Option<Bytes>) {
        (self.encode_key(), self.encode_value())
    }

    fn encode_key(&self) -> Bytes {
        let mut writer = Writer::new(self.record_type(), Lengths::Classic);
        writer.string(self.group());
        match self {
            Self::OffsetCommit { topic, partition, .. } => {
                writer.string(topic);
                writer.i32(*partition);
            }
            Self::ConsumerMember { member: id, .. }
            | Self::TargetAssignment { member: id, .. }
            | Self::CurrentAssignment { member: id, .. }
            | Self::Regex { regex: id, .. } => writer.string(id),
            Self::ClassicGroup { .. }
            | Self::ConsumerGroup { .. }
            | Self::ConsumerGroupPartitions { .. }
            | Self::TargetAssignmentEpoch { .. } => {}
        }
        writer.finish()
    }

    fn record_type(&self) -> i16 {
        match self {
            Self::OffsetCommit { .. } => OFFSET_COMMIT,
            Self::ClassicGroup { .. } => GROUP_METADATA,
            Self::ConsumerGroup { .. } => CONSUMER_GROUP_METADATA,
            Self::ConsumerGroupPartitions { .. } => CONSUMER_GROUP_PARTITION_METADATA,
            Self::ConsumerMember { .. } => CONSUMER_GROUP_MEMBER,
            Self::TargetAssignmentEpoch { .. } => CONSUMER_GROUP_TARGET_ASSIGNMENT_METADATA,
            Self::TargetAssignment { .. } => CONSUMER_GROUP_TARGET_ASSIGNMENT_MEMBER,
            Self::CurrentAssignment { .. } => CONSUMER_GROUP_CURRENT_ASSIGNMENT,
            Self::Regex { .. } => CONSUMER_GROUP_REGEX,
        }
    }

    fn encode_value(&self) -> Option<Bytes> {
        match self {
            Self::OffsetCommit { value, .. } => value.as_ref().map(OffsetCommitValue::encode),
            Self::ClassicGroup { value, .. } => value.as_ref().map(ClassicGroupValue::encode),
            Self::ConsumerGroup { value, .. } => value.as_ref().map(ConsumerGroupValue::encode),
            // The value of this superseded record is not kept, so only its tombstone can be written.
            Self::ConsumerGroupPartitions { .. } => None,
            Self::ConsumerMember { value, .. } => value.as_ref().map(ConsumerMemberValue::encode),
            Self::TargetAssignmentEpoch { value, .. } => value.as_ref().map(TargetAssignmentEpochValue::encode),
            Self::TargetAssignment { value, .. } => value.as_deref().map(encode_target_assignment),
            Self::CurrentAssignment { value, .. } => value.as_ref().map(CurrentAssignmentValue::encode),
            Self::Regex { value, .. } => value.as_ref().map(RegexValue::encode),
        }
    }

    /// Reads a record; `None` if its type is not one of this table (share and streams groups): such records are kept in the
    /// log and otherwise left alone.
    ///
    /// # Errors
    /// [`WireError`] if the bytes are not what their type and version say.
    pub fn decode(key: Bytes, value: Option<Bytes>) -> Result<Option<Self>, WireError> {
        let mut key = Reader::new(key, Lengths::Classic);
        let record_type = key.i16()?;
        if !matches!(record_type, OFFSET_COMMIT_LEGACY..=CONSUMER_GROUP_CURRENT_ASSIGNMENT | CONSUMER_GROUP_REGEX) {
            return Ok(None);
        }
        let group = key.string()?;
        let record = match record_type {
            OFFSET_COMMIT_LEGACY | OFFSET_COMMIT => {
                let topic = key.string()?;
                let partition = key.i32()?;
                Self::OffsetCommit { group, topic, partition, value: read(value, OffsetCommitValue::decode)? }
            }
            GROUP_METADATA => Self::ClassicGroup { group, value: read(value, ClassicGroupValue::decode)? },
            CONSUMER_GROUP_METADATA => Self::ConsumerGroup { group, value: read(value, ConsumerGroupValue::decode)? },
            CONSUMER_GROUP_PARTITION_METADATA => Self::ConsumerGroupPartitions { group, present: value.is_some() },
            CONSUMER_GROUP_MEMBER => {
                let member = key.string()?;
                Self::ConsumerMember { group, member, value: read(value, ConsumerMemberValue::decode)? }
            }
            CONSUMER_GROUP_TARGET_ASSIGNMENT_METADATA => {
                Self::TargetAssignmentEpoch { group, value: read(value, TargetAssignmentEpochValue::decode)? }
            }
            CONSUMER_GROUP_TARGET_ASSIGNMENT_MEMBER => {
                let member = key.string()?;
                Self::TargetAssignment { group, member, value: read(value, decode_target_assignment)? }
            }
            CONSUMER_GROUP_CURRENT_ASSIGNMENT => {
                let member = key.string()?;
                Self::CurrentAssignment { group, member, value: read(value, CurrentAssignmentValue::decode)? }
            }
            _ => {
                let regex = key.string()?;
                Self::Regex { group, regex, value: read(value, RegexValue::decode)? }
            }
        };
        Ok(Some(record))
    }
}

/// Reads a value, if there is one, by its version.
fn read<T>(
    value: Option<Bytes>,
    decode: impl FnOnce(i16, &mut Reader) -> Result<T, WireError>,
) -> Result<Option<T>, WireError> {
    let Some(value) = value else { return Ok(None) };
    let mut reader = Reader::new(value, Lengths::Compact);
    let version = reader.i16()?;
    decode(version, &mut reader).map(Some)
}

/// Values before version 4 are not flexible.
fn lengths_of(version: i16, versions: std::ops::RangeInclusive<i16>) -> Result<Lengths, WireError> {
    match version {
        _ if !versions.contains(&version) => Err(WireError::UnknownVersion(version)),
        4.. => Ok(Lengths::Compact),
        _ => Ok(Lengths::Classic),
    }
}

fn only_version_0(version: i16) -> Result<(), WireError> {
    if version == 0 { Ok(()) } else { Err(WireError::UnknownVersion(version)) }
}

impl OffsetCommitValue {
    fn encode(&self) -> Bytes {
        let (version, lengths) = match (self.expire_timestamp, self.topic_id) {
            (Some(_), _) => (1, Lengths::Classic),
            (None, TopicId::ZERO) => (3, Lengths::Classic),
            (None, _) => (4, Lengths::Compact),
        };
        let mut writer = Writer::new(version, lengths);
        writer.i64(self.offset.0);
        if version >= 3 {
            writer.i32(self.leader_epoch.0);
        }
        writer.string(&self.metadata);
        writer.i64(self.commit_timestamp.0);
        if let Some(expire) = self.expire_timestamp {
            writer.i64(expire.0);
        }
        if version >= 4 {
            writer.tagged_fields(&[(0, Some(self.topic_id.0.to_vec()))]);
        }
        writer.finish()
    }

    fn decode(version: i16, reader: &mut Reader) -> Result<Self, WireError> {
        reader.set_lengths(lengths_of(version, 0..=4)?);
        let offset = Offset(reader.i64()?);
        let leader_epoch = LeaderEpoch(if version >= 3 { reader.i32()? } else { -1 });
        let metadata = reader.string()?;
        let commit_timestamp = Timestamp(reader.i64()?);
        let expire = if version == 1 { reader.i64()? } else { -1 };
        let mut topic_id = TopicId::ZERO;
        if version >= 4 {
            reader.tagged_fields(|tag, field| {
                if tag == 0 {
                    topic_id = TopicId(field.uuid()?);
                }
                Ok(())
            })?;
        }
        let expire_timestamp = (expire != -1).then_some(Timestamp(expire));
        Ok(Self { offset, leader_epoch, metadata, commit_timestamp, expire_timestamp, topic_id })
    }
}

impl ClassicGroupValue {
    fn encode(&self) -> Bytes {
        let mut writer = Writer::new(3, Lengths::Classic);
        writer.string(&self.protocol_type);
        writer.i32(self.generation);
        writer.nullable_string(self.protocol.as_deref());
        writer.nullable_string(self.leader.as_deref());
        writer.i64(self.current_state_timestamp.unwrap_or(Timestamp::NONE).0);
        writer.array(&self.members, |writer, member| {
            writer.string(&member.member_id);
            writer.nullable_string(member.group_instance_id.as_deref());
            writer.string(&member.client_id);
            writer.string(&member.client_host);
            writer.i32(member.rebalance_timeout_ms);
            writer.i32(member.session_timeout_ms);
            writer.bytes(&member.subscription);
            writer.bytes(&member.assignment);
        });
        writer.finish()
    }

    fn decode(version: i16, reader: &mut Reader) -> Result<Self, WireError> {
        let lengths = lengths_of(version, 0..=4)?;
        reader.set_lengths(lengths);
        let protocol_type = reader.string()?;
        let generation = reader.i32()?;
        let protocol = reader.nullable_string()?;
        let leader = reader.nullable_string()?;
        let timestamp = if version >= 2 { reader.i64()? } else { -1 };
        let members = reader.array(|reader| {
            let member = ClassicMemberValue {
                member_id: reader.string()?,
                group_instance_id: if version >= 3 { reader.nullable_string()? } else { None },
                client_id: reader.string()?,
                client_host: reader.string()?,
                rebalance_timeout_ms: if version >= 1 { reader.i32()? } else { -1 },
                session_timeout_ms: reader.i32()?,
                subscription: reader.bytes()?,
                assignment: reader.bytes()?,
            };
            if lengths == Lengths::Compact {
                reader.skip_tagged_fields()?;
            }
            Ok(member)
        })?;
        let current_state_timestamp = (timestamp != -1).then_some(Timestamp(timestamp));
        Ok(Self { protocol_type, generation, protocol, leader, current_state_timestamp, members })
    }
}

impl ConsumerGroupValue {
    fn encode(&self) -> Bytes {
        let mut writer = Writer::new(0, Lengths::Compact);
        writer.i32(self.epoch);
        let hash = (self.metadata_hash != 0).then(|| self.metadata_hash.to_be_bytes().to_vec());
        writer.tagged_fields(&[(0, hash)]);
        writer.finish()
    }

    fn decode(version: i16, reader: &mut Reader) -> Result<Self, WireError> {
        only_version_0(version)?;
        let epoch = reader.i32()?;
        let mut metadata_hash = 0;
        reader.tagged_fields(|tag, field| {
            if tag == 0 {
                metadata_hash = field.i64()?;
            }
            Ok(())
        })?;
        Ok(Self { epoch, metadata_hash })
    }
}

impl ConsumerMemberValue {
    fn encode(&self) -> Bytes {
        let mut writer = Writer::new(0, Lengths::Compact);
        writer.nullable_string(self.instance_id.as_deref());
        writer.nullable_string(self.rack_id.as_deref());
        writer.string(&self.client_id);
        writer.string(&self.client_host);
        writer.array(&self.subscribed_topic_names, |writer, name| writer.string(name));
        writer.nullable_string(self.subscribed_topic_regex.as_deref());
        writer.i32(self.rebalance_timeout_ms);
        writer.nullable_string(self.server_assignor.as_deref());
        let classic = self.classic.as_ref().map(|classic| {
            Writer::field(Lengths::Compact, |writer| {
                // A nullable struct in a tagged field begins with 1 for "present".
                writer.unsigned_varint(1);
                writer.i32(classic.session_timeout_ms);
                writer.array(&classic.supported_protocols, |writer, (name, metadata)| {
                    writer.string(name);
                    writer.bytes(metadata);
                    writer.no_tagged_fields();
                });
                writer.no_tagged_fields();
            })
        });
        writer.tagged_fields(&[(0, classic)]);
        writer.finish()
    }

    fn decode(version: i16, reader: &mut Reader) -> Result<Self, WireError> {
        only_version_0(version)?;
        let mut value = Self {
            instance_id: reader.nullable_string()?,
            rack_id: reader.nullable_string()?,
            client_id: reader.string()?,
            client_host: reader.string()?,
            subscribed_topic_names: reader.array(Reader::string)?,
            subscribed_topic_regex: reader.nullable_string()?,
            rebalance_timeout_ms: reader.i32()?,
            server_assignor: reader.nullable_string()?,
            classic: None,
        };
        reader.tagged_fields(|tag, field| {
            if tag == 0 && field.unsigned_varint()? != 0 {
                let session_timeout_ms = field.i32()?;
                let supported_protocols = field.array(|field| {
                    let protocol = (field.string()?, field.bytes()?);
                    field.skip_tagged_fields()?;
                    Ok(protocol)
                })?;
                value.classic = Some(ClassicMemberMetadata { session_timeout_ms, supported_protocols });
            }
            Ok(())
        })?;
        Ok(value)
    }
}

impl TargetAssignmentEpochValue {
    fn encode(&self) -> Bytes {
        let mut writer = Writer::new(0, Lengths::Compact);
        writer.i32(self.epoch);
        let timestamp = (self.timestamp.0 != 0).then(|| self.timestamp.0.to_be_bytes().to_vec());
        writer.tagged_fields(&[(0, timestamp)]);
        writer.finish()
    }

    fn decode(version: i16, reader: &mut Reader) -> Result<Self, WireError> {
        only_version_0(version)?;
        let epoch = reader.i32()?;
        let mut timestamp = Timestamp(0);
        reader.tagged_fields(|tag, field| {
            if tag == 0 {
                timestamp = Timestamp(field.i64()?);
            }
            Ok(())
        })?;
        Ok(Self { epoch, timestamp })
    }
}

fn write_topics(writer: &mut Writer, topics: &[AssignedTopic]) {
    writer.array(topics, |writer, topic| {
        writer.uuid(&topic.id.0);
        writer.array(&topic.partitions, |writer, partition| writer.i32(*partition));
        let epochs = topic.epochs.as_deref().map(|epochs| {
            Writer::field(Lengths::Compact, |writer| writer.array(epochs, |writer, epoch| writer.i32(*epoch)))
        });
        writer.tagged_fields(&[(0, epochs)]);
    });
}

fn read_topics(reader: &mut Reader) -> Result<Vec<AssignedTopic>, WireError> {
    reader.array(|reader| {
        let id = TopicId(reader.uuid()?);
        let partitions = reader.array(Reader::i32)?;
        let mut epochs = None;
        reader.tagged_fields(|tag, field| {
            if tag == 0 {
                epochs = Some(field.array(Reader::i32)?);
            }
            Ok(())
        })?;
        Ok(AssignedTopic { id, partitions, epochs })
    })
}

fn encode_target_assignment(topics: &[AssignedTopic]) -> Bytes {
    let mut writer = Writer::new(0, Lengths::Compact);
    write_topics(&mut writer, topics);
    writer.no_tagged_fields();
    writer.finish()
}

fn decode_target_assignment(version: i16, reader: &mut Reader) -> Result<Vec<AssignedTopic>, WireError> {
    only_version_0(version)?;
    let topics = read_topics(reader)?;
    reader.skip_tagged_fields()?;
    Ok(topics)
}

impl CurrentAssignmentValue {
    fn encode(&self) -> Bytes {
        let mut writer = Writer::new(0, Lengths::Compact);
        writer.i32(self.member_epoch);
        writer.i32(self.previous_member_epoch);
        writer.i8(self.state);
        write_topics(&mut writer, &self.assigned);
        write_topics(&mut writer, &self.pending_revocation);
        writer.no_tagged_fields();
        writer.finish()
    }

    fn decode(version: i16, reader: &mut Reader) -> Result<Self, WireError> {
        only_version_0(version)?;
        let value = Self {
            member_epoch: reader.i32()?,
            previous_member_epoch: reader.i32()?,
            state: reader.i8()?,
            assigned: read_topics(reader)?,
            pending_revocation: read_topics(reader)?,
        };
        reader.skip_tagged_fields()?;
        Ok(value)
    }
}

impl RegexValue {
    fn encode(&self) -> Bytes {
        let mut writer = Writer::new(0, Lengths::Compact);
        writer.array(&self.topics, |writer, topic| writer.string(topic));
        writer.i64(self.version);
        writer.i64(self.timestamp.0);
        writer.no_tagged_fields();
        writer.finish()
    }

    fn decode(version: i16, reader: &mut Reader) -> Result<Self, WireError> {
        only_version_0(version)?;
        let value =
            Self { topics: reader.array(Reader::string)?, version: reader.i64()?, timestamp: Timestamp(reader.i64()?) };
        reader.skip_tagged_fields()?;
        Ok(value)
    }
}
