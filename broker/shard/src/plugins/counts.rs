//! What is counted of each attachment: by topic and world, since this shard started or another plugin was attached.

use std::collections::BTreeMap;

use tidegate_model::{metadata::MetadataImage, topic_config::Attachment};
use tidegate_plugin_host::sandbox::Series;
use tidegate_records::ids::TopicId;

use super::fault::FaultKind;

/// What happened at one attachment on one shard. Everything but `memory_bytes` only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachmentCounts {
    /// Calls, and the records that were asked about in them.
    pub calls: u64,
    pub records: u64,
    /// Time of the calls, building columns not included; 0 where the shell gives no stopwatch.
    pub nanos: u64,
    /// Calls that ended with a trap, of which `deadlines` and `memory_traps` for going beyond a limit.
    pub traps: u64,
    pub deadlines: u64,
    pub memory_traps: u64,
    /// Calls that the plugin said it could not answer, and could not answer now.
    pub failures: u64,
    pub retries: u64,
    /// Calls whose answer was nonsense: wrong counts, topics or partitions that do not exist.
    pub wrong_answers: u64,
    /// Batches that came when there was no instance to ask: not loaded, or it could not be opened.
    pub unavailable: u64,
    /// Records that the plugin rejected, or that had nowhere to go where that is an error.
    pub rejected: u64,
    /// Copies of records that were sent on to destinations.
    pub routed: u64,
    /// Records that were sent nowhere: dropped, or to the alternate topic.
    pub dropped: u64,
    pub alternate: u64,
    /// Records to which the policy for failures was applied.
    pub bypassed: u64,
    pub dead_lettered: u64,
    /// Records that a retention policy had deleted, with all before them, or erased from segments.
    pub deleted: u64,
    pub erased: u64,
    /// Segments that a retention policy had sent to the object store, and their bytes.
    pub offloaded_segments: u64,
    pub offloaded_bytes: u64,
    /// Milliseconds that producers were told to wait because plugins took more than their share of the core.
    pub throttled_ms: u64,
    /// Bytes of linear memory that the instance has.
    pub memory_bytes: u64,
}

impl AttachmentCounts {
    /// Every count with its name, as tools show it.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 22] {
        [
            ("calls", self.calls),
            ("records", self.records),
            ("nanos", self.nanos),
            ("traps", self.traps),
            ("deadlines", self.deadlines),
            ("memory_traps", self.memory_traps),
            ("failures", self.failures),
            ("retries", self.retries),
            ("wrong_answers", self.wrong_answers),
            ("unavailable", self.unavailable),
            ("rejected", self.rejected),
            ("routed", self.routed),
            ("dropped", self.dropped),
            ("alternate", self.alternate),
            ("bypassed", self.bypassed),
            ("dead_lettered", self.dead_lettered),
            ("deleted", self.deleted),
            ("erased", self.erased),
            ("offloaded_segments", self.offloaded_segments),
            ("offloaded_bytes", self.offloaded_bytes),
            ("throttled_ms", self.throttled_ms),
            ("memory_bytes", self.memory_bytes),
        ]
    }

    /// Adds those of another shard.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.records += other.records;
        self.nanos += other.nanos;
        self.traps += other.traps;
        self.deadlines += other.deadlines;
        self.memory_traps += other.memory_traps;
        self.failures += other.failures;
        self.retries += other.retries;
        self.wrong_answers += other.wrong_answers;
        self.unavailable += other.unavailable;
        self.rejected += other.rejected;
        self.routed += other.routed;
        self.dropped += other.dropped;
        self.alternate += other.alternate;
        self.bypassed += other.bypassed;
        self.dead_lettered += other.dead_lettered;
        self.deleted += other.deleted;
        self.erased += other.erased;
        self.offloaded_segments += other.offloaded_segments;
        self.offloaded_bytes += other.offloaded_bytes;
        self.throttled_ms += other.throttled_ms;
        self.memory_bytes += other.memory_bytes;
    }

    pub(super) fn fault(&mut self, kind: FaultKind) {
        let counter = match kind {
            FaultKind::Trap => &mut self.traps,
            FaultKind::Deadline => {
                self.traps += 1;
                &mut self.deadlines
            }
            FaultKind::Memory => {
                self.traps += 1;
                &mut self.memory_traps
            }
            FaultKind::Failed => &mut self.failures,
            FaultKind::WrongAnswer => &mut self.wrong_answers,
            FaultKind::Unavailable => &mut self.unavailable,
        };
        *counter += 1;
    }
}

/// The counts of an attachment, with its names.
#[derive(Clone, Debug, PartialEq)]
pub struct AttachmentReport {
    pub topic: String,
    /// `router`, `partitioner`, `ack` or `retention`.
    pub world: &'static str,
    pub plugin: String,
    /// The version that was called last.
    pub version: u32,
    pub counts: AttachmentCounts,
    /// What its instance on this shard measured by itself, since it was opened.
    pub series: Vec<Series>,
}

struct Counted {
    plugin: String,
    version: u32,
    counts: AttachmentCounts,
    /// Of an instance that is gone; one that lives has its own.
    series: Vec<Series>,
}

/// The attachments of one world.
#[derive(Default)]
pub(super) struct Counts(BTreeMap<TopicId, Counted>);

impl Counts {
    /// Those of an attachment, from 0 if another plugin was attached before. `version` is none where none could be called.
    pub(super) fn of(
        &mut self,
        topic: TopicId,
        attachment: &Attachment,
        version: Option<u32>,
    ) -> &mut AttachmentCounts {
        let new = || Counted {
            plugin: attachment.plugin.clone(),
            version: 0,
            counts: AttachmentCounts::default(),
            series: Vec::new(),
        };
        let counted = self.0.entry(topic).or_insert_with(new);
        if counted.plugin != attachment.plugin {
            *counted = new();
        }
        counted.version = version.unwrap_or(counted.version);
        &mut counted.counts
    }

    pub(super) fn retain(&mut self, exists: impl Fn(TopicId) -> bool) {
        self.0.retain(|topic, _| exists(*topic));
    }

    /// What an instance that is gone measured.
    pub(super) fn keep_series(&mut self, topic: TopicId, series: Vec<Series>) {
        if let Some(counted) = self.0.get_mut(&topic) {
            counted.series = series;
        }
    }

    /// `series` gives those of a topic's instance, where it lives.
    pub(super) fn reports<'a>(
        &'a self,
        world: &'static str,
        image: &'a MetadataImage,
        series: impl Fn(TopicId) -> Option<&'a [Series]> + 'a,
    ) -> impl Iterator<Item = AttachmentReport> + 'a {
        self.0.iter().filter_map(move |(topic, counted)| {
            let name = image.topic_by_id(*topic)?.name.clone();
            Some(AttachmentReport {
                topic: name,
                world,
                plugin: counted.plugin.clone(),
                version: counted.version,
                counts: counted.counts,
                series: series(*topic).unwrap_or(&counted.series).to_vec(),
            })
        })
    }
}
