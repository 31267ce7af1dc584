//! The broker settings of the group coordinator, with Apache Kafka's names and defaults.

use std::time::Duration;

/// Settings that hold for every group of the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// `offsets.topic.num.partitions`, 50: never changes once `__consumer_offsets` exists.
    pub offsets_partitions: i32,
    /// `group.initial.rebalance.delay.ms`, 3 s: how long an empty classic group waits for more members.
    pub initial_rebalance_delay: Duration,
    /// `group.min.session.timeout.ms`, 6 s.
    pub min_session_timeout: Duration,
    /// `group.max.session.timeout.ms`, 30 min.
    pub max_session_timeout: Duration,
    /// `group.max.size`, unbounded: the members of a classic group.
    pub max_size: usize,
    /// How long a new member's JoinGroup may be parked before the member is dropped. Kafka: 5 min, not settable.
    pub new_member_join_timeout: Duration,
    /// `offset.metadata.max.bytes`, 4096 (UTF-16 units, as Kafka counts them).
    pub offset_metadata_max: usize,
    /// `offsets.retention.minutes`, 7 days: after that the offsets of an empty group go.
    pub offsets_retention: Duration,
    /// `offsets.retention.check.interval.ms`, 10 min.
    pub offsets_retention_check_interval: Duration,
    /// `group.consumer.session.timeout.ms`, 45 s (KIP-848).
    pub consumer_session_timeout: Duration,
    /// `group.consumer.heartbeat.interval.ms`, 5 s (KIP-848): what members are told.
    pub consumer_heartbeat_interval: Duration,
    /// `group.consumer.max.size`, unbounded (KIP-848).
    pub consumer_max_size: usize,
    /// `group.consumer.assignment.interval.ms`, 1 s: how long after an assignment the next one may be computed (KIP-1263).
    pub consumer_assignment_interval: Duration,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            offsets_partitions: 50,
            initial_rebalance_delay: Duration::from_secs(3),
            min_session_timeout: Duration::from_secs(6),
            max_session_timeout: Duration::from_secs(30 * 60),
            max_size: usize::MAX,
            new_member_join_timeout: Duration::from_secs(5 * 60),
            offset_metadata_max: 4096,
            offsets_retention: Duration::from_secs(7 * 24 * 3600),
            offsets_retention_check_interval: Duration::from_secs(600),
            consumer_session_timeout: Duration::from_secs(45),
            consumer_heartbeat_interval: Duration::from_secs(5),
            consumer_max_size: usize::MAX,
            consumer_assignment_interval: Duration::from_secs(1),
        }
    }
}
