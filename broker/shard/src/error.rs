//! What can go wrong with one partition of a request, and Kafka's code for it. The one place where codes are chosen.

use kafka_protocol::ResponseError;
use tidegate_model::{
    group::GroupError,
    metadata::MetadataError,
    partition::{AppendError, SequenceError},
};
use tidegate_records::ids::Offset;

/// An error of one partition, as its owner says it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    #[error("no such topic or partition")]
    UnknownTopicOrPartition,
    #[error("no topic has this id")]
    UnknownTopicId,
    #[error("this shard does not own the partition any more; ask for metadata again")]
    NotLeader,
    #[error("the leader epoch {got} is older than the current {current}")]
    FencedLeaderEpoch { got: i32, current: i32 },
    #[error("the leader epoch {got} is newer than the current {current}")]
    UnknownLeaderEpoch { got: i32, current: i32 },
    #[error("offset {asked} is outside of {start}..={end}")]
    OffsetOutOfRange { asked: Offset, start: Offset, end: Offset },
    #[error("{0}")]
    Append(#[from] AppendError),
    #[error("{message}")]
    Invalid { code: i16, message: String, records: Vec<(i32, String)> },
    #[error("{0}")]
    Storage(String),
    #[error("the write was not committed within the request's timeout; it may still be")]
    TimedOut,
    #[error("{message}")]
    Other { code: i16, message: String },
}

impl PartitionError {
    /// Kafka's error code.
    #[must_use]
    pub fn code(&self) -> i16 {
        use ResponseError as Kafka;
        match self {
            Self::UnknownTopicOrPartition => Kafka::UnknownTopicOrPartition.code(),
            Self::UnknownTopicId => Kafka::UnknownTopicId.code(),
            Self::NotLeader => Kafka::NotLeaderOrFollower.code(),
            Self::FencedLeaderEpoch { .. } => Kafka::FencedLeaderEpoch.code(),
            Self::UnknownLeaderEpoch { .. } => Kafka::UnknownLeaderEpoch.code(),
            Self::OffsetOutOfRange { .. } => Kafka::OffsetOutOfRange.code(),
            Self::Append(AppendError::Sequence(SequenceError::InvalidProducerEpoch { .. })) => {
                Kafka::InvalidProducerEpoch.code()
            }
            Self::Append(AppendError::Sequence(SequenceError::OutOfOrderSequence { .. })) => {
                Kafka::OutOfOrderSequenceNumber.code()
            }
            Self::Append(AppendError::NotEnoughReplicas { .. }) => Kafka::NotEnoughReplicas.code(),
            Self::Append(AppendError::OffsetsExhausted) | Self::Storage(_) => Kafka::KafkaStorageError.code(),
            Self::TimedOut => Kafka::RequestTimedOut.code(),
            Self::Invalid { code, .. } | Self::Other { code, .. } => *code,
        }
    }

    /// Whether the same batch may be taken when it is sent again: every client tries.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Append(error) => matches!(error, AppendError::NotEnoughReplicas { .. }),
            Self::Invalid { code, .. } | Self::Other { code, .. } => {
                [ResponseError::RequestTimedOut.code(), ResponseError::NotEnoughReplicas.code()].contains(code)
            }
            Self::UnknownTopicOrPartition | Self::NotLeader | Self::Storage(_) | Self::TimedOut => true,
            Self::UnknownTopicId
            | Self::FencedLeaderEpoch { .. }
            | Self::UnknownLeaderEpoch { .. }
            | Self::OffsetOutOfRange { .. } => false,
        }
    }

    /// Whether an idempotent producer sends the batch again that was routed: also where it only waits for one before it.
    #[must_use]
    pub fn comes_again(&self) -> bool {
        let waits = matches!(self, Self::Append(AppendError::Sequence(SequenceError::OutOfOrderSequence { .. })));
        waits || self.is_passing()
    }

    /// The errors of single records, where there are some (KIP-467).
    #[must_use]
    pub fn record_errors(&self) -> &[(i32, String)] {
        match self {
            Self::Invalid { records, .. } => records,
            _ => &[],
        }
    }
}

/// Kafka's error code for what the group coordinator refuses.
#[must_use]
pub fn group_code(error: GroupError) -> i16 {
    use ResponseError as Kafka;
    match error {
        GroupError::NotCoordinator => Kafka::NotCoordinator,
        GroupError::CoordinatorLoadInProgress => Kafka::CoordinatorLoadInProgress,
        GroupError::CoordinatorNotAvailable => Kafka::CoordinatorNotAvailable,
        GroupError::InvalidGroupId => Kafka::InvalidGroupId,
        GroupError::InvalidSessionTimeout => Kafka::InvalidSessionTimeout,
        GroupError::InconsistentGroupProtocol => Kafka::InconsistentGroupProtocol,
        GroupError::UnknownMemberId => Kafka::UnknownMemberId,
        GroupError::IllegalGeneration => Kafka::IllegalGeneration,
        GroupError::RebalanceInProgress => Kafka::RebalanceInProgress,
        GroupError::MemberIdRequired => Kafka::MemberIdRequired,
        GroupError::FencedInstanceId => Kafka::FencedInstanceId,
        GroupError::GroupMaxSizeReached => Kafka::GroupMaxSizeReached,
        GroupError::GroupIdNotFound => Kafka::GroupIdNotFound,
        GroupError::NonEmptyGroup => Kafka::NonEmptyGroup,
        GroupError::GroupSubscribedToTopic => Kafka::GroupSubscribedToTopic,
        GroupError::OffsetMetadataTooLarge => Kafka::OffsetMetadataTooLarge,
        GroupError::UnstableOffsetCommit => Kafka::UnstableOffsetCommit,
        GroupError::StaleMemberEpoch => Kafka::StaleMemberEpoch,
        GroupError::FencedMemberEpoch => Kafka::FencedMemberEpoch,
        GroupError::UnreleasedInstanceId => Kafka::UnreleasedInstanceId,
        GroupError::UnsupportedAssignor => Kafka::UnsupportedAssignor,
        GroupError::UnsupportedVersion => Kafka::UnsupportedVersion,
        GroupError::InvalidRegularExpression => Kafka::InvalidRegularExpression,
        GroupError::InvalidRequest => Kafka::InvalidRequest,
        GroupError::UnknownServerError => Kafka::UnknownServerError,
    }
    .code()
}

/// Kafka's error code for a refused change of the metadata.
#[must_use]
pub fn metadata_code(error: &MetadataError) -> i16 {
    use ResponseError as Kafka;
    match error {
        MetadataError::TopicExists { .. } => Kafka::TopicAlreadyExists,
        MetadataError::InvalidTopicName { .. }
        | MetadataError::TopicCollides { .. }
        | MetadataError::InternalTopic { .. } => Kafka::InvalidTopicException,
        MetadataError::UnknownTopic { .. } => Kafka::UnknownTopicOrPartition,
        MetadataError::UnknownTopicId { .. } => Kafka::UnknownTopicId,
        MetadataError::InvalidPartitions { .. } => Kafka::InvalidPartitions,
        MetadataError::Config(_) | MetadataError::PluginRefused(_) | MetadataError::UnknownPlugin { .. } => {
            Kafka::InvalidConfig
        }
        MetadataError::PluginAttached { .. } => Kafka::PolicyViolation,
        // Clients that are told no more than the code say "Topic deletion is disabled".
        MetadataError::TopicNamed { .. } => Kafka::TopicDeletionDisabled,
        // Retriable: whoever computed the change computes it again.
        MetadataError::ConfigChanged { .. } => Kafka::NotController,
        MetadataError::ProducerIdsExhausted => Kafka::UnknownServerError,
        MetadataError::Storage { .. } => Kafka::KafkaStorageError,
    }
    .code()
}
