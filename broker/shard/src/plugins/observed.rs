//! Batches that somebody watches: kept as they came, with what their plugins were told, for `tidegate plugin shadow`.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use tidegate_records::{
    ids::{TopicId, TopicPartition},
    time::Timestamp,
};

/// A valid batch as a client sent it to a watched topic, or the part of one that a router brings there, and what a plugin is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedBatch {
    pub sent_to: TopicPartition,
    /// With its header; compressed if it was.
    pub bytes: Bytes,
    /// The clock of plugins for this batch.
    pub now: Timestamp,
    pub seed: u64,
    pub client_id: Option<String>,
    /// What its producer waits for.
    pub acks: i16,
}

/// What is watched, and what was seen since it was taken last.
#[derive(Default)]
pub(super) struct Observed {
    topics: Arc<BTreeSet<TopicId>>,
    batches: Vec<ObservedBatch>,
}

impl Observed {
    pub(super) fn watch(&mut self, topics: Arc<BTreeSet<TopicId>>) {
        self.topics = topics;
    }

    pub(super) fn is_watched(&self, topic: TopicId) -> bool {
        self.topics.contains(&topic)
    }

    pub(super) fn push(&mut self, batch: ObservedBatch) {
        self.batches.push(batch);
    }

    pub(super) fn take(&mut self) -> Vec<ObservedBatch> {
        std::mem::take(&mut self.batches)
    }
}
