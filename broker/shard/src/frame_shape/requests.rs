//! How each request lies on the wire, field by field, in the order of Kafka's message definitions (`common/message/*.json` of
//! kafka-clients 4.3). A version that only adds a field at the end of a struct is one `since`. The tests hold this table against the
//! codec's own layout, for every version that is told to clients.

use kafka_protocol::messages::ApiKey;

use super::{BOOL, BYTES, Field, INT8, INT16, INT32, INT64, Kind, NEVER, STRING, Shape, UUID, array, field};

/// The shape of an API's requests; `None` for one that is not in the table, and must not be decoded.
pub(crate) fn shape(api: ApiKey) -> Option<Shape> {
    let (flexible_since, fields) = match api {
        ApiKey::Produce => (9, PRODUCE),
        ApiKey::Fetch => (12, FETCH),
        ApiKey::ListOffsets => (6, LIST_OFFSETS),
        ApiKey::Metadata => (9, METADATA),
        ApiKey::OffsetCommit => (8, OFFSET_COMMIT),
        ApiKey::OffsetFetch => (6, OFFSET_FETCH),
        ApiKey::FindCoordinator => (3, FIND_COORDINATOR),
        ApiKey::JoinGroup => (6, JOIN_GROUP),
        ApiKey::Heartbeat => (4, HEARTBEAT),
        ApiKey::LeaveGroup => (4, LEAVE_GROUP),
        ApiKey::SyncGroup => (4, SYNC_GROUP),
        ApiKey::DescribeGroups => (5, DESCRIBE_GROUPS),
        ApiKey::ListGroups => (3, LIST_GROUPS),
        ApiKey::ApiVersions => (3, API_VERSIONS),
        ApiKey::CreateTopics => (5, CREATE_TOPICS),
        ApiKey::DeleteTopics => (4, DELETE_TOPICS),
        ApiKey::DeleteRecords => (2, DELETE_RECORDS),
        ApiKey::InitProducerId => (2, INIT_PRODUCER_ID),
        ApiKey::OffsetForLeaderEpoch => (4, OFFSET_FOR_LEADER_EPOCH),
        ApiKey::DescribeConfigs => (4, DESCRIBE_CONFIGS),
        ApiKey::AlterConfigs => (2, ALTER_CONFIGS),
        ApiKey::DescribeLogDirs => (2, DESCRIBE_LOG_DIRS),
        ApiKey::CreatePartitions => (2, CREATE_PARTITIONS),
        ApiKey::DeleteGroups => (2, DELETE_GROUPS),
        ApiKey::IncrementalAlterConfigs => (1, INCREMENTAL_ALTER_CONFIGS),
        ApiKey::OffsetDelete => (NEVER, OFFSET_DELETE),
        ApiKey::DescribeCluster => (0, DESCRIBE_CLUSTER),
        ApiKey::DescribeProducers => (0, DESCRIBE_PRODUCERS),
        ApiKey::ConsumerGroupHeartbeat => (0, CONSUMER_GROUP_HEARTBEAT),
        ApiKey::ConsumerGroupDescribe => (0, CONSUMER_GROUP_DESCRIBE),
        ApiKey::ListConfigResources => (0, LIST_CONFIG_RESOURCES),
        ApiKey::DescribeTopicPartitions => (0, DESCRIBE_TOPIC_PARTITIONS),
        _ => return None,
    };
    Some(Shape { flexible_since, fields })
}

const PRODUCE: &[Field] = &[
    field("transactional_id", STRING).nullable(3),
    field("acks", INT16),
    field("timeout_ms", INT32),
    array(
        "topic_data",
        &Kind::Struct(&[
            field("name", STRING).until(12),
            field("topic_id", UUID).since(13),
            array("partition_data", &Kind::Struct(&[field("index", INT32), field("records", BYTES).nullable(0)])),
        ]),
    ),
];

const FETCH: &[Field] = &[
    field("cluster_id", STRING).since(12).nullable(12).tagged(0),
    field("replica_id", INT32).until(14),
    field(
        "replica_state",
        Kind::Struct(&[field("replica_id", INT32).since(15), field("replica_epoch", INT64).since(15)]),
    )
    .since(15)
    .tagged(1),
    field("max_wait_ms", INT32),
    field("min_bytes", INT32),
    field("max_bytes", INT32),
    field("isolation_level", INT8),
    field("session_id", INT32).since(7),
    field("session_epoch", INT32).since(7),
    array(
        "topics",
        &Kind::Struct(&[
            field("topic", STRING).until(12),
            field("topic_id", UUID).since(13),
            array(
                "partitions",
                &Kind::Struct(&[
                    field("partition", INT32),
                    field("current_leader_epoch", INT32).since(9),
                    field("fetch_offset", INT64),
                    field("last_fetched_epoch", INT32).since(12),
                    field("log_start_offset", INT64).since(5),
                    field("partition_max_bytes", INT32),
                    field("replica_directory_id", UUID).since(17).tagged(0),
                    field("high_watermark", INT64).since(18).tagged(1),
                ]),
            ),
        ]),
    ),
    array(
        "forgotten_topics_data",
        &Kind::Struct(&[
            field("topic", STRING).since(7).until(12),
            field("topic_id", UUID).since(13),
            array("partitions", &INT32).since(7),
        ]),
    )
    .since(7),
    field("rack_id", STRING).since(11),
];

const LIST_OFFSETS: &[Field] = &[
    field("replica_id", INT32),
    field("isolation_level", INT8).since(2),
    array(
        "topics",
        &Kind::Struct(&[
            field("name", STRING),
            array(
                "partitions",
                &Kind::Struct(&[
                    field("partition_index", INT32),
                    field("current_leader_epoch", INT32).since(4),
                    field("timestamp", INT64),
                ]),
            ),
        ]),
    ),
    field("timeout_ms", INT32).since(10),
];

const METADATA: &[Field] = &[
    array("topics", &Kind::Struct(&[field("topic_id", UUID).since(10), field("name", STRING).nullable(10)]))
        .nullable(1),
    field("allow_auto_topic_creation", BOOL).since(4),
    field("include_cluster_authorized_operations", BOOL).since(8).until(10),
    field("include_topic_authorized_operations", BOOL).since(8),
];

const OFFSET_COMMIT: &[Field] = &[
    field("group_id", STRING),
    field("generation_id_or_member_epoch", INT32),
    field("member_id", STRING),
    field("group_instance_id", STRING).since(7).nullable(7),
    field("retention_time_ms", INT64).until(4),
    array(
        "topics",
        &Kind::Struct(&[
            field("name", STRING).until(9),
            field("topic_id", UUID).since(10),
            array(
                "partitions",
                &Kind::Struct(&[
                    field("partition_index", INT32),
                    field("committed_offset", INT64),
                    field("committed_leader_epoch", INT32).since(6),
                    field("committed_metadata", STRING).nullable(0),
                ]),
            ),
        ]),
    ),
];

const OFFSET_FETCH: &[Field] = &[
    field("group_id", STRING).until(7),
    array("topics", &Kind::Struct(&[field("name", STRING).until(7), array("partition_indexes", &INT32).until(7)]))
        .until(7)
        .nullable(2),
    array(
        "groups",
        &Kind::Struct(&[
            field("group_id", STRING).since(8),
            field("member_id", STRING).since(9).nullable(9),
            field("member_epoch", INT32).since(9),
            array(
                "topics",
                &Kind::Struct(&[
                    field("name", STRING).since(8).until(9),
                    field("topic_id", UUID).since(10),
                    array("partition_indexes", &INT32).since(8),
                ]),
            )
            .since(8)
            .nullable(8),
        ]),
    )
    .since(8),
    field("require_stable", BOOL).since(7),
];

const FIND_COORDINATOR: &[Field] =
    &[field("key", STRING).until(3), field("key_type", INT8).since(1), array("coordinator_keys", &STRING).since(4)];

const JOIN_GROUP: &[Field] = &[
    field("group_id", STRING),
    field("session_timeout_ms", INT32),
    field("rebalance_timeout_ms", INT32).since(1),
    field("member_id", STRING),
    field("group_instance_id", STRING).since(5).nullable(5),
    field("protocol_type", STRING),
    array("protocols", &Kind::Struct(&[field("name", STRING), field("metadata", BYTES)])),
    field("reason", STRING).since(8).nullable(8),
];

const HEARTBEAT: &[Field] = &[
    field("group_id", STRING),
    field("generation_id", INT32),
    field("member_id", STRING),
    field("group_instance_id", STRING).since(3).nullable(3),
];

const LEAVE_GROUP: &[Field] = &[
    field("group_id", STRING),
    field("member_id", STRING).until(2),
    array(
        "members",
        &Kind::Struct(&[
            field("member_id", STRING).since(3),
            field("group_instance_id", STRING).since(3).nullable(3),
            field("reason", STRING).since(5).nullable(5),
        ]),
    )
    .since(3),
];

const SYNC_GROUP: &[Field] = &[
    field("group_id", STRING),
    field("generation_id", INT32),
    field("member_id", STRING),
    field("group_instance_id", STRING).since(3).nullable(3),
    field("protocol_type", STRING).since(5).nullable(5),
    field("protocol_name", STRING).since(5).nullable(5),
    array("assignments", &Kind::Struct(&[field("member_id", STRING), field("assignment", BYTES)])),
];

const DESCRIBE_GROUPS: &[Field] = &[array("groups", &STRING), field("include_authorized_operations", BOOL).since(3)];

const LIST_GROUPS: &[Field] = &[array("states_filter", &STRING).since(4), array("types_filter", &STRING).since(5)];

const API_VERSIONS: &[Field] =
    &[field("client_software_name", STRING).since(3), field("client_software_version", STRING).since(3)];

const CREATE_TOPICS: &[Field] = &[
    array(
        "topics",
        &Kind::Struct(&[
            field("name", STRING),
            field("num_partitions", INT32),
            field("replication_factor", INT16),
            array("assignments", &Kind::Struct(&[field("partition_index", INT32), array("broker_ids", &INT32)])),
            array("configs", &Kind::Struct(&[field("name", STRING), field("value", STRING).nullable(0)])),
        ]),
    ),
    field("timeout_ms", INT32),
    field("validate_only", BOOL),
];

const DELETE_TOPICS: &[Field] = &[
    array("topics", &Kind::Struct(&[field("name", STRING).since(6).nullable(6), field("topic_id", UUID).since(6)]))
        .since(6),
    array("topic_names", &STRING).until(5),
    field("timeout_ms", INT32),
];

const DELETE_RECORDS: &[Field] = &[
    array(
        "topics",
        &Kind::Struct(&[
            field("name", STRING),
            array("partitions", &Kind::Struct(&[field("partition_index", INT32), field("offset", INT64)])),
        ]),
    ),
    field("timeout_ms", INT32),
];

const INIT_PRODUCER_ID: &[Field] = &[
    field("transactional_id", STRING).nullable(0),
    field("transaction_timeout_ms", INT32),
    field("producer_id", INT64).since(3),
    field("producer_epoch", INT16).since(3),
    field("enable2_pc", BOOL).since(6),
    field("keep_prepared_txn", BOOL).since(6),
];

const OFFSET_FOR_LEADER_EPOCH: &[Field] = &[
    field("replica_id", INT32).since(3),
    array(
        "topics",
        &Kind::Struct(&[
            field("topic", STRING),
            array(
                "partitions",
                &Kind::Struct(&[
                    field("partition", INT32),
                    field("current_leader_epoch", INT32),
                    field("leader_epoch", INT32),
                ]),
            ),
        ]),
    ),
];

const DESCRIBE_CONFIGS: &[Field] = &[
    array(
        "resources",
        &Kind::Struct(&[
            field("resource_type", INT8),
            field("resource_name", STRING),
            array("configuration_keys", &STRING).nullable(0),
        ]),
    ),
    field("include_synonyms", BOOL),
    field("include_documentation", BOOL).since(3),
];

const ALTER_CONFIGS: &[Field] = &[
    array(
        "resources",
        &Kind::Struct(&[
            field("resource_type", INT8),
            field("resource_name", STRING),
            array("configs", &Kind::Struct(&[field("name", STRING), field("value", STRING).nullable(0)])),
        ]),
    ),
    field("validate_only", BOOL),
];

const DESCRIBE_LOG_DIRS: &[Field] =
    &[array("topics", &Kind::Struct(&[field("topic", STRING), array("partitions", &INT32)])).nullable(0)];

const CREATE_PARTITIONS: &[Field] = &[
    array(
        "topics",
        &Kind::Struct(&[
            field("name", STRING),
            field("count", INT32),
            array("assignments", &Kind::Struct(&[array("broker_ids", &INT32)])).nullable(0),
        ]),
    ),
    field("timeout_ms", INT32),
    field("validate_only", BOOL),
];

const DELETE_GROUPS: &[Field] = &[array("groups_names", &STRING)];

const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    array(
        "resources",
        &Kind::Struct(&[
            field("resource_type", INT8),
            field("resource_name", STRING),
            array(
                "configs",
                &Kind::Struct(&[
                    field("name", STRING),
                    field("config_operation", INT8),
                    field("value", STRING).nullable(0),
                ]),
            ),
        ]),
    ),
    field("validate_only", BOOL),
];

const OFFSET_DELETE: &[Field] = &[
    field("group_id", STRING),
    array(
        "topics",
        &Kind::Struct(&[field("name", STRING), array("partitions", &Kind::Struct(&[field("partition_index", INT32)]))]),
    ),
];

const DESCRIBE_CLUSTER: &[Field] = &[
    field("include_cluster_authorized_operations", BOOL),
    field("endpoint_type", INT8).since(1),
    field("include_fenced_brokers", BOOL).since(2),
];

const DESCRIBE_PRODUCERS: &[Field] =
    &[array("topics", &Kind::Struct(&[field("name", STRING), array("partition_indexes", &INT32)]))];

const CONSUMER_GROUP_HEARTBEAT: &[Field] = &[
    field("group_id", STRING),
    field("member_id", STRING),
    field("member_epoch", INT32),
    field("instance_id", STRING).nullable(0),
    field("rack_id", STRING).nullable(0),
    field("rebalance_timeout_ms", INT32),
    array("subscribed_topic_names", &STRING).nullable(0),
    field("subscribed_topic_regex", STRING).since(1).nullable(1),
    field("server_assignor", STRING).nullable(0),
    array("topic_partitions", &Kind::Struct(&[field("topic_id", UUID), array("partitions", &INT32)])).nullable(0),
];

const CONSUMER_GROUP_DESCRIBE: &[Field] = &[array("group_ids", &STRING), field("include_authorized_operations", BOOL)];

const LIST_CONFIG_RESOURCES: &[Field] = &[array("resource_types", &INT8).since(1)];

const DESCRIBE_TOPIC_PARTITIONS: &[Field] = &[
    array("topics", &Kind::Struct(&[field("name", STRING)])),
    field("response_partition_limit", INT32),
    field("cursor", Kind::Struct(&[field("topic_name", STRING), field("partition_index", INT32)])).nullable(0),
];
