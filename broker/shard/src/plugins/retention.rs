//! Retention policies, as far as a shard decides: what a policy is asked with, and what of its verdict is done.
//!
//! A policy is asked off the shard's thread, by the shell: it may take its time, and no record waits for it.

use std::sync::Arc;

use tidegate_model::{
    metadata::Topic,
    retention::{Segment, allowed_start, may_offload, may_rewrite},
    topic_config::{Attachment, OnFailure},
};
use tidegate_plugin_host::{
    CallError, Compiled, Limits, LogLevel, LogLine, OpenError, retention::Verdict, sandbox::Series,
};
use tidegate_records::{
    ids::{Offset, TopicId, TopicPartition},
    time::Now,
};

use super::{
    PluginLog, attachment_limits,
    fault::{Fault, FaultKind},
};
use crate::shard::Shard;

/// Ticks that a call may last where no record waits for it: a second.
const BACKGROUND_TICKS: u64 = 1_001;

/// What a topic's policy is opened with.
#[derive(Clone)]
pub struct RetentionTask {
    pub topic: Arc<Topic>,
    pub attachment: Attachment,
    pub version: u32,
    pub compiled: Compiled,
    pub limits: Limits,
}

/// Why a policy has no answer.
#[derive(Debug)]
pub enum RetentionFailure {
    NotLoaded,
    Open(OpenError),
    Call(CallError),
}

/// What happened when a policy was asked.
#[derive(Debug)]
pub struct RetentionReport {
    /// None: there was none to ask.
    pub version: Option<u32>,
    pub nanos: u64,
    pub memory_bytes: u64,
    pub lines: Vec<LogLine>,
    /// What it measured by itself.
    pub series: Vec<Series>,
    pub failure: Option<RetentionFailure>,
    /// Records that it was asked about; for a filter.
    pub records: u64,
    /// Records that went: deleted with what is before them, and erased from segments.
    pub deleted: u64,
    pub erased: u64,
    /// Segments that it had sent to the object store, and their bytes.
    pub offloaded_segments: u64,
    pub offloaded_bytes: u64,
}

impl RetentionReport {
    #[must_use]
    pub fn new(version: Option<u32>) -> Self {
        Self {
            version,
            nanos: 0,
            memory_bytes: 0,
            lines: Vec::new(),
            series: Vec::new(),
            failure: None,
            records: 0,
            deleted: 0,
            erased: 0,
            offloaded_segments: 0,
            offloaded_bytes: 0,
        }
    }
}

/// What of a verdict is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedVerdict {
    /// The new start of the log.
    pub start: Option<Offset>,
    /// Where segments to rewrite begin and end.
    pub rewrite: Vec<(Offset, Offset)>,
}

impl Shard {
    /// Whether a plugin says how long the records of this topic are kept.
    #[must_use]
    pub fn has_retention_plugin(&self, topic: TopicId) -> bool {
        self.image.topic_by_id(topic).is_some_and(|topic| topic.config.retention.is_some())
    }

    /// What the policy of a topic is opened with; `None` where there is none.
    ///
    /// # Errors
    /// [`RetentionFailure::NotLoaded`], with the attachment that names the plugin.
    pub fn retention_task(&self, topic: TopicId) -> Option<Result<RetentionTask, (Arc<Topic>, Attachment)>> {
        let topic = self.image.topic_by_id(topic)?;
        let attachment = topic.config.retention.as_ref()?;
        let Some(plugin) = self.plugins.deployed.get(&attachment.plugin) else {
            return Some(Err((Arc::clone(topic), attachment.clone())));
        };
        let broker = Limits { call_ticks_max: BACKGROUND_TICKS, ..self.settings.plugin_limits.clone() };
        Some(Ok(RetentionTask {
            topic: Arc::clone(topic),
            attachment: attachment.clone(),
            version: plugin.version,
            compiled: plugin.compiled.clone(),
            limits: attachment_limits(&broker, attachment),
        }))
    }

    /// Counts what a policy did, and says whether `retention.ms` and `retention.bytes` hold instead, since it failed. Its lines of log come
    /// back, for the broker's.
    pub fn retention_asked(
        &mut self,
        topic: &Topic,
        attachment: &Attachment,
        report: RetentionReport,
    ) -> (bool, Vec<PluginLog>) {
        let RetentionReport {
            version,
            nanos,
            memory_bytes,
            mut lines,
            series,
            failure,
            records,
            deleted,
            erased,
            offloaded_segments,
            offloaded_bytes,
        } = report;
        let counts = self.plugins.retention_counts.of(topic.id, attachment, version);
        counts.calls += u64::from(version.is_some());
        counts.nanos += nanos;
        if version.is_some() {
            counts.memory_bytes = memory_bytes;
        }
        counts.records += records;
        counts.deleted += deleted;
        counts.erased += erased;
        counts.offloaded_segments += offloaded_segments;
        counts.offloaded_bytes += offloaded_bytes;
        if !series.is_empty() {
            self.plugins.retention_counts.keep_series(topic.id, series);
        }
        let counts = self.plugins.retention_counts.of(topic.id, attachment, version);
        let failed = failure.is_some();
        if let Some(failure) = failure {
            let (kind, words) = match failure {
                RetentionFailure::NotLoaded => (FaultKind::Unavailable, "it is not loaded; deploy it again".to_owned()),
                RetentionFailure::Open(error) => (FaultKind::Unavailable, error.to_string()),
                RetentionFailure::Call(error) => {
                    let words = error.to_string();
                    counts.retries += u64::from(matches!(error, CallError::Retry { .. }));
                    (Fault::of_call(&attachment.plugin, error).kind.unwrap_or(FaultKind::Failed), words)
                }
            };
            counts.fault(kind);
            let kept = match attachment.on_failure {
                OnFailure::Bypass => "retention.ms and retention.bytes hold instead",
                OnFailure::Reject | OnFailure::DeadLetter => "nothing is deleted",
            };
            lines.push(LogLine {
                level: LogLevel::Error,
                message: format!("the retention policy failed, {kept}: {words}"),
            });
        }
        let log = PluginLog {
            plugin: attachment.plugin.clone(),
            version: version.unwrap_or(0),
            topic: topic.name.clone(),
            lines,
        };
        let logs = if log.lines.is_empty() { Vec::new() } else { vec![log] };
        (failed && attachment.on_failure == OnFailure::Bypass, logs)
    }

    /// What of a policy's verdict on a partition is done. `seen` are the segments that it was shown; where they have changed meanwhile, less
    /// is.
    #[must_use]
    pub fn allowed_verdict(
        &self,
        now: Now,
        partition: TopicPartition,
        seen: &[Segment],
        segments: &[Segment],
        verdict: &Verdict,
    ) -> AllowedVerdict {
        let Some(replica) = self.owned.replicas.get(&partition) else { return AllowedVerdict::default() };
        let (config, model) = (&replica.config, &replica.model);
        let (log_start, high_watermark) = (model.log_start_offset(), model.high_watermark());
        let asked = Offset(verdict.delete_before);
        let start = allowed_start(now.wall, config, log_start, high_watermark, segments, asked);
        let from = start.unwrap_or(log_start);
        let mut rewrite: Vec<(Offset, Offset)> = verdict
            .rewrite
            .iter()
            .filter_map(|index| seen.get(*index as usize))
            .filter(|wanted| segments.contains(wanted) && wanted.next_offset > from)
            .filter(|wanted| may_rewrite(now.wall, config, high_watermark, segments, wanted))
            .map(|wanted| (wanted.base_offset, wanted.next_offset))
            .collect();
        rewrite.sort_unstable();
        rewrite.dedup();
        AllowedVerdict { start, rewrite }
    }

    /// Whether a policy may have a segment offloaded: sealed, committed, and of a topic that is not compacted, which would fetch it back.
    #[must_use]
    pub fn may_offload(&self, partition: TopicPartition, segment: &Segment) -> bool {
        self.owned.replicas.get(&partition).is_some_and(|replica| {
            may_offload(&replica.config, replica.model.high_watermark(), segment) && replica.offline.is_none()
        })
    }

    /// The last offset of the last batch of each producer that a partition remembers: such a batch leaves its header behind, since a retry is
    /// held against it.
    #[must_use]
    pub fn last_batches(&self, partition: TopicPartition) -> Vec<Offset> {
        let Some(replica) = self.owned.replicas.get(&partition) else { return Vec::new() };
        let producers = replica.model.producers().iter();
        producers.filter_map(|(_, state)| Some(state.last_batch()?.last_offset)).collect()
    }

    /// A partition is to be cleaned again in so many milliseconds, if that is sooner than its turn.
    pub fn clean_again(&mut self, now: Now, partition: TopicPartition, after_ms: u64) {
        self.owned.clean_again(now.instant + std::time::Duration::from_millis(after_ms), partition);
    }
}
