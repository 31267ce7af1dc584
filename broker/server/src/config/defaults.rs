//! The configuration of a broker that nobody configured.

use std::{collections::BTreeMap, path::PathBuf};

use super::{Address, Config, Durability, Kind, LogFormat, SETTINGS};

impl Default for Config {
    fn default() -> Self {
        let local = |port| Address { host: "127.0.0.1".to_owned(), port };
        Self {
            data_dir: PathBuf::from("./tidegate-data"),
            listen: local(9092),
            advertise: None,
            admin: local(9644),
            admin_token_file: None,
            durability: Durability::Fsync,
            rack: None,
            log_format: LogFormat::Text,
            log_filter: "info".to_owned(),
            topic_defaults: topic_defaults(),
            shards: 0,
            node_id: 1,
            auto_create_topics: true,
            default_partitions: 1,
            message_bytes_max: 1_048_588,
            decompressed_message_bytes_max: 100 << 20,
            retention_check_interval_ms: 300_000,
            producer_id_expiration_ms: 86_400_000,
            group_session_timeout_ms_min: 6000,
            group_session_timeout_ms_max: 1_800_000,
            group_initial_rebalance_delay_ms: 3000,
            group_size_max: i32::MAX,
            group_consumer_session_timeout_ms: 45_000,
            group_consumer_heartbeat_interval_ms: 5000,
            group_consumer_size_max: i32::MAX,
            offsets_retention_minutes: 10_080,
            offsets_retention_check_interval_ms: 600_000,
            offset_metadata_bytes_max: 4096,
            connections_max: 10_000,
            connections_max_idle_ms: 600_000,
            request_bytes_max: 100 << 20,
            requests_in_flight_bytes_max: 128 << 20,
            fetch_bytes_max: 55 << 20,
            fetch_sessions_max: 1000,
            tail_cache_bytes: 24 << 20,
            journal_bytes: 1 << 30,
            direct_write_bytes_min: 64 << 10,
            open_files_max: 4096,
            object_store_url: None,
            object_store_endpoint: None,
            object_store_region: None,
            object_store_access_key_file: None,
            object_store_secret_key_file: None,
            object_store_allow_http: false,
            object_store_timeout_ms: 10_000,
            plugin_upload_bytes_max: 64 << 20,
            plugin_memory_bytes_max: 64 << 20,
            plugin_output_bytes_max: 16 << 20,
            plugin_deadline_ms: 5,
            plugin_core_percent_max: 50,
        }
    }
}

/// The defaults of topics' configuration, which stand in the table of settings.
fn topic_defaults() -> BTreeMap<&'static str, String> {
    SETTINGS
        .iter()
        .filter_map(|setting| match setting.kind {
            Kind::Topic { topic_name, default, .. } => Some((topic_name, default.to_owned())),
            _ => None,
        })
        .collect()
}
