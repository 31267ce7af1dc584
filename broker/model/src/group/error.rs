//! What a group request can be refused with.
//!
//! One variant for each Kafka error code that the group coordinator answers; the request layer maps them one to one.

use thiserror::Error;

/// A refusal, named after Kafka's error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum GroupError {
    #[error("this broker is not the coordinator of the group")]
    NotCoordinator,
    #[error("the coordinator is loading the group")]
    CoordinatorLoadInProgress,
    #[error("the coordinator is not available; try again")]
    CoordinatorNotAvailable,
    #[error("the group id is empty or too long")]
    InvalidGroupId,
    #[error("the session timeout is outside group.min.session.timeout.ms and group.max.session.timeout.ms")]
    InvalidSessionTimeout,
    #[error("the member's protocol type or protocols do not fit those of the group")]
    InconsistentGroupProtocol,
    #[error("the coordinator does not know this member")]
    UnknownMemberId,
    #[error("the generation is not the group's")]
    IllegalGeneration,
    #[error("the group is rebalancing: join again")]
    RebalanceInProgress,
    #[error("join again with the member id of this answer")]
    MemberIdRequired,
    #[error("another member uses this group instance id")]
    FencedInstanceId,
    #[error("the group has as many members as it may have")]
    GroupMaxSizeReached,
    #[error("there is no such group")]
    GroupIdNotFound,
    #[error("the group has members")]
    NonEmptyGroup,
    #[error("the group is subscribed to the topic")]
    GroupSubscribedToTopic,
    #[error("the offset's metadata is longer than offset.metadata.max.bytes")]
    OffsetMetadataTooLarge,
    #[error("a write of this offset is in flight")]
    UnstableOffsetCommit,
    #[error("the member epoch is not the member's current one")]
    StaleMemberEpoch,
    #[error("the member epoch is fenced: abandon all partitions and rejoin")]
    FencedMemberEpoch,
    #[error("the group instance id is in use by another member")]
    UnreleasedInstanceId,
    #[error("the assignor is not supported")]
    UnsupportedAssignor,
    #[error("a newer version of the request is needed for a group of the consumer protocol")]
    UnsupportedVersion,
    #[error("the regular expression is not valid")]
    InvalidRegularExpression,
    #[error("the request is not valid")]
    InvalidRequest,
    #[error("the coordinator could not carry out the request")]
    UnknownServerError,
}

/// Why records of the coordinator did not become durable. The owner of the partition reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PersistError {
    #[error("the partition is not led by this broker")]
    NotLeader,
    #[error("the partition's log refused the write")]
    Storage,
    #[error("the partition does not exist, or lacks in-sync replicas")]
    Unavailable,
    #[error("the records are larger than a batch may be")]
    TooLarge,
}

impl From<PersistError> for GroupError {
    /// What a client is told: the same mapping for every request, as in Apache Kafka.
    fn from(error: PersistError) -> Self {
        match error {
            PersistError::NotLeader | PersistError::Storage => Self::NotCoordinator,
            PersistError::Unavailable => Self::CoordinatorNotAvailable,
            PersistError::TooLarge => Self::UnknownServerError,
        }
    }
}
