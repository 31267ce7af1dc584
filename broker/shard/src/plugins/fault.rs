//! Plugins that fail: what kind of failure it was, what the producer is told, and the letter to the dead-letter topic.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use tidegate_model::{metadata::Topic, partition::producers::derived_producer_id};
use tidegate_plugin_host::{CallError, Trap, TrapKind};
use tidegate_records::{
    batch::{BatchHeader, Compression},
    build::{BatchBuilder, Producer},
    ids::{PartitionIndex, TopicPartition},
    record::Records,
    validate::ValidateError,
};

use crate::error::PartitionError;

/// Words of a plugin that are repeated in each dead letter, in bytes at most.
const MESSAGE_BYTES_MAX: usize = 1024;

/// What the names of the headers that the broker gives to letters begin with (KIP-1317).
const RESERVED: &[u8] = b"_dlq.errors.";

/// In what way a plugin failed; the attachment's policy applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    Trap,
    Deadline,
    Memory,
    /// It said that it cannot answer.
    Failed,
    WrongAnswer,
    /// There is no instance: not loaded, or it does not open.
    Unavailable,
}

impl FaultKind {
    /// The value of `_dlq.errors.disposition` (KIP-1317), whose own values are those of share groups.
    fn disposition(self) -> &'static str {
        match self {
            Self::Trap => "PLUGIN_TRAPPED",
            Self::Deadline => "PLUGIN_DEADLINE_EXCEEDED",
            Self::Memory => "PLUGIN_MEMORY_EXCEEDED",
            Self::Failed => "PLUGIN_FAILED",
            Self::WrongAnswer => "PLUGIN_ANSWER_INVALID",
            Self::Unavailable => "PLUGIN_UNAVAILABLE",
        }
    }
}

/// Why a batch is not routed.
#[derive(Debug)]
pub(super) struct Fault {
    /// What the producer is told under `reject`.
    pub(super) error: PartitionError,
    /// None: it is the batch's own fault, or a retry is asked for; no policy applies.
    pub(super) kind: Option<FaultKind>,
    /// The engine's account of a trap, for the log.
    pub(super) detail: Option<String>,
}

impl From<PartitionError> for Fault {
    fn from(error: PartitionError) -> Self {
        Self { error, kind: None, detail: None }
    }
}

impl Fault {
    pub(super) fn new(kind: FaultKind, error: PartitionError) -> Self {
        Self { error, kind: Some(kind), detail: None }
    }

    /// What a call ended with.
    pub(super) fn of_call(plugin: &str, error: CallError) -> Self {
        let message = format!("plugin '{plugin}': {error}");
        match error {
            // Retriable for every client: the batch is as it was.
            CallError::Retry { .. } => {
                PartitionError::Other { code: ResponseError::RequestTimedOut.code(), message }.into()
            }
            CallError::Refused { .. } => {
                let code = ResponseError::InvalidRecord.code();
                Self::new(FaultKind::Failed, PartitionError::Invalid { code, message, records: Vec::new() })
            }
            CallError::WrongAnswer(_) => Self::new(FaultKind::WrongAnswer, policy(message)),
            CallError::Trap(Trap { kind, detail, .. }) => {
                let (kind, error) = match kind {
                    // A deadline counts time on the wall, so it can be the machine's doing: retriable too.
                    TrapKind::Deadline => {
                        let code = ResponseError::RequestTimedOut.code();
                        (FaultKind::Deadline, PartitionError::Other { code, message })
                    }
                    TrapKind::Memory => (FaultKind::Memory, policy(message)),
                    _ => (FaultKind::Trap, policy(message)),
                };
                Self { error, kind: Some(kind), detail: Some(detail) }
            }
        }
    }
}

pub(super) fn policy(message: String) -> PartitionError {
    PartitionError::Other { code: ResponseError::PolicyViolation.code(), message }
}

/// Why records go to a dead-letter topic.
#[derive(Debug)]
pub(super) struct DeadLetter {
    /// The topic whose plugin failed: the one that was sent to, or a destination with a partitioner.
    pub(super) topic: Arc<Topic>,
    pub(super) plugin: String,
    pub(super) kind: FaultKind,
    pub(super) message: String,
}

impl DeadLetter {
    /// The records of a part (`records`, decompressed) with headers that say where they were sent and why they are here: those of
    /// KIP-1317 that apply, and the plugin's name. An offset they never had.
    ///
    /// They carry a producer id of their own: the same batch may also have a part that was routed to the dead-letter topic as to any
    /// other, and two parts with one sequence would be taken for a batch and its retry.
    pub(super) fn write(
        &self,
        header: &BatchHeader,
        records: &[u8],
        client: &BatchHeader,
        sent_to: (&str, PartitionIndex),
    ) -> Result<(Bytes, BatchHeader), PartitionError> {
        let compression = header.attributes.compression().unwrap_or(Compression::None);
        let mut builder = BatchBuilder::new(compression).with_attributes(header.attributes);
        if client.producer_id.is_some() {
            let ingress = TopicPartition::new(self.topic.id, PartitionIndex(!sent_to.1.0));
            let id = derived_producer_id(client.producer_id, ingress);
            let (epoch, base_sequence) = (client.producer_epoch, client.base_sequence);
            builder = builder.with_producer(Producer { id, epoch, base_sequence });
        }
        let mut message_end = self.message.len().min(MESSAGE_BYTES_MAX);
        while !self.message.is_char_boundary(message_end) {
            message_end -= 1;
        }
        let partition = sent_to.1.0.to_string();
        let added: [(&[u8], Option<&[u8]>); 5] = [
            (b"_dlq.errors.disposition", Some(self.kind.disposition().as_bytes())),
            (b"_dlq.errors.original.topic", Some(sent_to.0.as_bytes())),
            (b"_dlq.errors.original.partition", Some(partition.as_bytes())),
            (b"_dlq.errors.plugin", Some(self.plugin.as_bytes())),
            (b"_dlq.errors.message", Some(&self.message.as_bytes()[..message_end])),
        ];
        for record in Records::new(records, header.records_count) {
            let record = record.map_err(ValidateError::from)?;
            // What the broker says of a letter nobody else says: neither a producer that sends such headers, nor a letter that is sent on. Who
            // reads them takes the first of a name, or the last.
            let own = record.headers().filter(|(key, _)| !key.starts_with(RESERVED));
            builder.push(record.timestamp(header), record.key, record.value, own.chain(added));
        }
        Ok(builder.build())
    }
}
