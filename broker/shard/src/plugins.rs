//! From the bytes of a produce request to batches with a destination: checked, and routed where the topic says so.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use tidegate_model::metadata::Topic;
use tidegate_records::{
    batch::HeaderError,
    compress::CompressionError,
    ids::TopicPartition,
    time::Now,
    validate::{Rules, ValidateError, validate},
};

use crate::{api::refuse_derived, error::PartitionError, message::ProduceItem, request::Request, shard::Shard};

impl Shard {
    /// Checks what a client sent to a partition, and says what is to be appended where. `index` names it in the answer.
    pub(crate) fn check_and_route(
        &mut self,
        now: Now,
        _request: &Request,
        topic: &Arc<Topic>,
        sent_to: TopicPartition,
        records: Option<Bytes>,
        index: u32,
    ) -> Result<Vec<ProduceItem>, PartitionError> {
        if topic.is_internal() {
            let message = format!("'{}' is written by the broker alone", topic.name);
            return Err(PartitionError::Other { code: ResponseError::InvalidTopicException.code(), message });
        }
        let config = &topic.config;
        let rules = Rules {
            now: now.wall,
            max_message_bytes: config.max_message_bytes,
            max_decompressed_bytes: config.max_decompressed_message_bytes,
            timestamp_before_max_ms: config.message_timestamp_before_max_ms,
            timestamp_after_max_ms: config.message_timestamp_after_max_ms,
            log_append_time: config.log_append_time,
            keys_required: config.cleanup_policy.compact,
            compression: config.compression,
            compression_level: config.compression_level(),
        };
        let batch = validate(records.unwrap_or_default(), &rules)?;
        refuse_derived(batch.header().producer_id)?;
        if batch.header().attributes.is_transactional() {
            let message = "transactions are not implemented; produce without transactional.id".to_owned();
            return Err(PartitionError::Other { code: ResponseError::InvalidTxnState.code(), message });
        }
        let header = *batch.header();
        Ok(vec![ProduceItem { index, partition: sent_to, bytes: batch.bytes().clone(), header }])
    }
}

impl From<ValidateError> for PartitionError {
    fn from(error: ValidateError) -> Self {
        use ResponseError as Kafka;
        let code = match &error {
            ValidateError::Header(HeaderError::Magic { .. }) => Kafka::UnsupportedForMessageFormat,
            ValidateError::Header(_)
            | ValidateError::Checksum { .. }
            | ValidateError::Record(_)
            | ValidateError::Compression(CompressionError::Damaged { .. }) => Kafka::CorruptMessage,
            ValidateError::TooLarge { .. } | ValidateError::Compression(CompressionError::TooLarge { .. }) => {
                Kafka::MessageTooLarge
            }
            ValidateError::Codec { .. } => Kafka::UnsupportedCompressionType,
            ValidateError::Timestamps { .. } => Kafka::InvalidTimestamp,
            ValidateError::Empty
            | ValidateError::SeveralBatches { .. }
            | ValidateError::Count { .. }
            | ValidateError::Control
            | ValidateError::Producer { .. }
            | ValidateError::Trailing { .. }
            | ValidateError::Records { .. } => Kafka::InvalidRecord,
        };
        let message = error.to_string();
        let records = match error {
            ValidateError::Records { records } | ValidateError::Timestamps { records } => records,
            _ => Vec::new(),
        };
        Self::Invalid { code: code.code(), message, records }
    }
}
