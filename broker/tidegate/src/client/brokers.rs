//! Brokers: the cluster as it describes itself, and what is in their log directories.

use std::collections::BTreeMap;

use kafka_protocol::messages::DescribeLogDirsRequest;
use serde::Serialize;

use super::{
    Cluster,
    error::{ClientError, check},
    offsets::TopicPartition,
};

#[derive(Clone, Debug, Serialize)]
pub(crate) struct LogDirectory {
    pub(crate) broker: i32,
    pub(crate) path: String,
    /// How many partitions it holds.
    pub(crate) partitions: usize,
    /// Bytes of all their logs.
    pub(crate) log_bytes: i64,
    /// Bytes of the volume; `None` where the broker does not say.
    pub(crate) total_bytes: Option<i64>,
    pub(crate) usable_bytes: Option<i64>,
    #[serde(skip)]
    pub(crate) sizes: BTreeMap<TopicPartition, i64>,
}

impl Cluster {
    /// The log directories of all brokers.
    pub(crate) fn log_directories(&mut self) -> Result<Vec<LogDirectory>, ClientError> {
        let ids: Vec<i32> = self.brokers.keys().copied().collect();
        let mut directories = Vec::new();
        for id in ids {
            let answer = self.broker(id)?.call(&DescribeLogDirsRequest::default().with_topics(None))?;
            check(format!("the log directories of broker {id}"), answer.error_code, None)?;
            for directory in answer.results {
                let path = directory.log_dir.to_string();
                check(format!("log directory {path} of broker {id}"), directory.error_code, None)?;
                let sizes: BTreeMap<TopicPartition, i64> = directory
                    .topics
                    .iter()
                    .flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, partition)))
                    .filter(|(_, partition)| !partition.is_future_key)
                    .map(|(topic, partition)| {
                        ((topic.name.to_string(), partition.partition_index), partition.partition_size)
                    })
                    .collect();
                directories.push(LogDirectory {
                    broker: id,
                    path,
                    partitions: sizes.len(),
                    log_bytes: sizes.values().sum(),
                    total_bytes: (directory.total_bytes >= 0).then_some(directory.total_bytes),
                    usable_bytes: (directory.usable_bytes >= 0).then_some(directory.usable_bytes),
                    sizes,
                });
            }
        }
        Ok(directories)
    }
}
