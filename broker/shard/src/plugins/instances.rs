//! Instances of plugins: which one a batch meets, what it may use of a shard, and what a call of it took.
//!
//! An instance belongs to one attachment of one topic on this shard. One that has trapped is replaced with the next batch; a new
//! version of its plugin, or another configuration, takes over between two batches.

use std::collections::BTreeMap;

use tidegate_model::{metadata::Topic, topic_config::Attachment};
use tidegate_plugin_host::{CallError, Compiled, Limits, LogLine, OpenError, Partitioner, Router};
use tidegate_records::ids::TopicId;

use super::{
    PluginLog,
    counts::AttachmentCounts,
    fault::{Fault, FaultKind, policy},
};

/// A plugin that is ready to run.
pub(super) struct Deployed {
    pub(super) version: u32,
    pub(super) compiled: Compiled,
}

/// An instance, and what it was opened with.
pub(super) struct Attached<I> {
    attachment: Attachment,
    pub(super) version: u32,
    pub(super) instance: I,
}

/// A kind of instance: what the worlds have in common.
pub(super) trait Instance: Sized {
    fn open(compiled: &Compiled, config: &str, limits: &Limits) -> Result<Self, OpenError>;
    fn is_dead(&self) -> bool;
    fn lines(&mut self) -> Vec<LogLine>;
}

impl Instance for Router {
    fn open(compiled: &Compiled, config: &str, limits: &Limits) -> Result<Self, OpenError> {
        Self::open(compiled, config, limits)
    }

    fn is_dead(&self) -> bool {
        self.is_dead()
    }

    fn lines(&mut self) -> Vec<LogLine> {
        self.take_log().lines
    }
}

impl Instance for Partitioner {
    fn open(compiled: &Compiled, config: &str, limits: &Limits) -> Result<Self, OpenError> {
        Self::open(compiled, config, limits)
    }

    fn is_dead(&self) -> bool {
        self.is_dead()
    }

    fn lines(&mut self) -> Vec<LogLine> {
        self.take_log().lines
    }
}

/// The instance of an attachment, opened if it is not, or not as it should be.
pub(super) fn instance<'a, I: Instance>(
    deployed: &BTreeMap<String, Deployed>,
    instances: &'a mut BTreeMap<TopicId, Attached<I>>,
    topic: TopicId,
    attachment: &Attachment,
    limits: &Limits,
    stopwatch: fn() -> u64,
    spent: &mut u64,
) -> Result<&'a mut Attached<I>, Fault> {
    let unavailable = |message: String| Fault::new(FaultKind::Unavailable, policy(message));
    let plugin = deployed.get(&attachment.plugin).ok_or_else(|| {
        unavailable(format!("plugin '{}' is not loaded; deploy it again (tidegate plugin deploy)", attachment.plugin))
    })?;
    let current = instances.get(&topic).is_some_and(|attached| {
        attached.version == plugin.version && attached.attachment == *attachment && !attached.instance.is_dead()
    });
    if !current {
        let started = stopwatch();
        let opened = I::open(&plugin.compiled, &attachment.config, &attachment_limits(limits, attachment));
        *spent += stopwatch().saturating_sub(started);
        let instance = opened.map_err(|error| unavailable(format!("plugin '{}': {error}", attachment.plugin)))?;
        let attached = Attached { attachment: attachment.clone(), version: plugin.version, instance };
        instances.insert(topic, attached);
    }
    Ok(instances.get_mut(&topic).expect("it is there, or was just put there"))
}

/// The limits of an attachment: the broker's, or its own where those are lower.
#[must_use]
pub fn attachment_limits(broker: &Limits, attachment: &Attachment) -> Limits {
    let own = &attachment.limits;
    // A tick is a millisecond, and the first may come at once.
    let ticks = own.deadline_ms.map_or(u64::MAX, |deadline| deadline.saturating_add(1).max(2));
    Limits {
        call_ticks_max: broker.call_ticks_max.min(ticks),
        memory_bytes_max: broker.memory_bytes_max.min(own.memory_bytes.unwrap_or(usize::MAX)),
        answer_bytes_max: broker.answer_bytes_max.min(own.output_bytes.unwrap_or(usize::MAX)),
        ..broker.clone()
    }
}

/// Makes a call, and counts it.
pub(super) fn timed<T>(
    stopwatch: fn() -> u64,
    spent: &mut u64,
    counts: &mut AttachmentCounts,
    records: u32,
    call: impl FnOnce() -> Result<T, CallError>,
) -> Result<T, CallError> {
    let started = stopwatch();
    let result = call();
    let nanos = stopwatch().saturating_sub(started);
    *spent += nanos;
    counts.nanos += nanos;
    counts.calls += 1;
    counts.records += u64::from(records);
    counts.retries += u64::from(matches!(result, Err(CallError::Retry { .. })));
    result
}

/// Keeps what the instance has logged since.
pub(super) fn take_lines<I: Instance>(
    log: &mut Vec<PluginLog>,
    attached: &mut Attached<I>,
    attachment: &Attachment,
    topic: &Topic,
) {
    let lines = attached.instance.lines();
    if !lines.is_empty() {
        let (plugin, version, topic) = (attachment.plugin.clone(), attached.version, topic.name.clone());
        log.push(PluginLog { plugin, version, topic, lines });
    }
}
