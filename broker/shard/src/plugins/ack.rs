//! Acknowledgement hooks: whether a batch is taken, and when its write counts as acknowledged.
//!
//! The hook of the topic that a batch was sent to is asked first, about the whole batch as it came. The hooks of the topics that it is then
//! routed to are asked about their parts: what a topic demands holds whichever way records come. A hook can make a producer wait longer than
//! it asked for; that it waits less, its topic must allow (`tidegate.ack.weaken`).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kafka_protocol::ResponseError;
use tidegate_model::{
    metadata::{Broker, Topic},
    partition::CommitRule,
    topic_config::Attachment,
};
use tidegate_plugin_host::{
    AckHook, Compiled, Limits, LogLine, OpenError, TopicInfo,
    ack::{Acks, Arrival, Copies, Decision, Refusal, RefusalReason, Replica},
};

use super::{
    Batch, Plugins, Target, Targets, World,
    counts::Counts,
    fault::{Fault, policy},
    instances::{Instance, instance, take_lines, timed},
    rejected,
};
use crate::{error::PartitionError, replica::REPLICAS_OF_A_PARTITION, shard::Shard};

/// When a write counts as acknowledged, and how long that may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) rule: CommitRule,
    /// Less than the producer's own timeout, where a hook says so.
    pub(crate) within: Option<Duration>,
}

impl Commit {
    /// What a producer asks for with its `acks`. One that wants no answer waits for nobody, and its writes are as durable as others.
    pub(crate) fn of_acks(acks: i16) -> Self {
        let rule = if acks == 1 || acks == 0 { CommitRule::LEADER_DURABLE } else { CommitRule::ALL_IN_SYNC };
        Self { rule, within: None }
    }
}

impl Instance for AckHook {
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

impl World for AckHook {
    fn counts(plugins: &mut Plugins) -> &mut Counts {
        &mut plugins.ack_counts
    }
}

/// Whether such copies can be had of brokers: those of a cluster, or those that have a partition.
///
/// # Errors
/// What they lack, for whoever attaches a plugin that may ask for it.
pub fn attainable(copies: &Copies, brokers: &[Broker]) -> Result<(), String> {
    let plural = |count: usize, noun: &str| if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") };
    let Copies { count, racks, brokers: named, .. } = copies;
    if *count as usize > brokers.len() {
        let there = plural(brokers.len(), "broker");
        return Err(format!(
            "it may wait for {count} copies, and there is {there}: add brokers, or ask for fewer copies"
        ));
    }
    let present: BTreeSet<&str> = brokers.iter().filter_map(|broker| broker.rack.as_deref()).collect();
    if *racks > 1 && *racks as usize > present.len() {
        let there = plural(brokers.len(), "broker");
        let racks_there = plural(present.len(), "rack");
        return Err(format!(
            "it may wait for copies in {racks} racks, and there is {there} in {racks_there}: add brokers in other racks (broker.rack), or ask for fewer"
        ));
    }
    match named.iter().find(|id| brokers.iter().all(|broker| broker.id != **id)) {
        Some(id) => Err(format!("it may wait for a copy on broker {id}, and there is none of that id")),
        None => Ok(()),
    }
}

impl Shard {
    /// What the hook of a topic says of a batch for a partition of it, over what was asked for so far.
    pub(super) fn ask_ack(
        &mut self,
        topic: &Arc<Topic>,
        attachment: &Attachment,
        batch: &Batch<'_>,
        partition: i32,
        asked: Commit,
    ) -> Result<Commit, Fault> {
        let leader = self.image.brokers.iter().filter(|broker| broker.broker_id() == self.identity.broker);
        let holders: Vec<Broker> = leader.cloned().collect();
        let plugins = &mut self.plugins;
        let (limits, stopwatch) = (&self.settings.plugin_limits, self.settings.stopwatch);
        let attached = instance(
            &plugins.deployed,
            &mut plugins.acks,
            topic.id,
            attachment,
            limits,
            stopwatch,
            &mut plugins.spent,
        )?;
        let columns = batch.columns(&attached.instance.needs().columns)?;
        let info = TopicInfo { name: &topic.name, partitions: topic.partitions.unsigned_abs() };
        let replicas: Vec<Replica<'_>> = holders
            .iter()
            .map(|broker| Replica { broker: broker.id, rack: broker.rack.as_deref(), in_sync: true, behind: 0 })
            .collect();
        // As in Kafka (KIP-966): a partition cannot be asked for more replicas than it has.
        let min_in_sync = topic.config.min_insync_replicas.min(REPLICAS_OF_A_PARTITION).unsigned_abs();
        let arrival = Arrival {
            partition: partition.unsigned_abs(),
            bytes: u32::try_from(batch.bytes.len()).unwrap_or(u32::MAX),
            acks: match batch.acks {
                0 => Acks::None,
                1 => Acks::Leader,
                _ => Acks::All,
            },
            min_in_sync,
            replicas: &replicas,
        };
        let counts = plugins.ack_counts.of(topic.id, attachment, Some(attached.version));
        let answered = timed(stopwatch, &mut plugins.spent, counts, columns.count, || {
            attached.instance.decide(&info, &columns, &batch.contexts(), &[arrival])
        });
        counts.memory_bytes = attached.instance.memory_bytes() as u64;
        take_lines(&mut plugins.log, attached, attachment, topic);
        let decided = answered.map_err(|error| Fault::of_call(&attachment.plugin, error))?;
        counts.rejected += decided.rejected.len() as u64;
        rejected(&attachment.plugin, decided.rejected)?;
        let decision =
            decided.decisions.into_iter().next().expect("a decision for each batch, which the host has checked");
        let (rule, within) = match decision {
            Decision::AsAsked => return Ok(asked),
            Decision::Appended => (CommitRule::APPENDED, 0),
            Decision::LeaderDurable => (CommitRule::LEADER_DURABLE, 0),
            Decision::MinInSync => (CommitRule::of_copies(min_in_sync), 0),
            Decision::AllInSync => (CommitRule::ALL_IN_SYNC, 0),
            Decision::Until(copies) => {
                if let Err(lacking) = attainable(&copies, &holders) {
                    let message = format!("plugin '{}': {lacking}", attachment.plugin);
                    let code = ResponseError::NotEnoughReplicas.code();
                    return Err(PartitionError::Other { code, message }.into());
                }
                (CommitRule::of_copies(copies.count), copies.within_ms)
            }
            Decision::Refuse(refusal) => {
                counts.rejected += u64::from(columns.count);
                return Err(refused(&attachment.plugin, refusal).into());
            }
        };
        let rule = if topic.config.ack_weaken { rule } else { asked.rule.and(rule) };
        let within = (within > 0).then(|| Duration::from_millis(u64::from(within)));
        let within = [asked.within, within].into_iter().flatten().min();
        Ok(Commit { rule, within })
    }

    /// The same targets with what the hooks of their topics say of the parts that go there. `sent_to` has been asked about all of it.
    pub(super) fn ask_acks(
        &mut self,
        asked: Targets,
        batch: &Batch<'_>,
        sent_to: &Arc<Topic>,
    ) -> Result<Targets, PartitionError> {
        let hook = |target: &Target| {
            target.topic.id != sent_to.id && target.dead.is_none() && target.topic.config.ack.is_some()
        };
        if !asked.targets.iter().any(hook) {
            return Ok(asked);
        }
        let parts = asked.split(batch)?;
        let mut answered: Vec<Target> = Vec::with_capacity(parts.len());
        for (number, (target, part)) in asked.targets.iter().zip(parts).enumerate() {
            let mut target = target.clone();
            if let (Some(attachment), Some(part), true) = (&target.topic.config.ack, part, hook(&target)) {
                let topic = Arc::clone(&target.topic);
                let partition = target.partition.expect("partitioners have been asked");
                let records = batch.records_of(&part, topic.config.max_decompressed_message_bytes)?;
                let (bytes, header) = part;
                let count = header.records_count;
                let part = Batch { records, header, bytes, ..batch.clone() };
                match self.ask_ack(&topic, attachment, &part, partition.0, target.commit) {
                    Ok(commit) => target.commit = commit,
                    Err(fault) if fault.kind.is_none() => return Err(of_whole_batch(fault.error, &asked, number)),
                    Err(fault) => {
                        let chosen = batch.sent_to.partition;
                        if let Some(dead) = self.after_fault::<AckHook>(&topic, attachment, fault, chosen, count)? {
                            target = dead;
                        }
                    }
                }
            }
            answered.push(target);
        }
        let mut targets = Targets::default();
        for record in 0..asked.ends.len() {
            for number in asked.of_record(record) {
                let number = targets.number(answered[*number as usize].clone())?;
                targets.push(number);
            }
            targets.end_record();
        }
        Ok(targets)
    }
}

/// An error about records of the part for target `number`, with their positions in the batch that the producer sent.
fn of_whole_batch(error: PartitionError, targets: &Targets, number: usize) -> PartitionError {
    let PartitionError::Invalid { code, message, records } = error else { return error };
    let of_part: Vec<usize> =
        (0..targets.ends.len()).filter(|record| targets.of_record(*record).contains(&(number as u32))).collect();
    let place = |record: i32| {
        let found = usize::try_from(record).ok().and_then(|record| of_part.get(record));
        found.and_then(|found| i32::try_from(*found).ok()).unwrap_or(record)
    };
    let records = records.into_iter().map(|(record, reason)| (place(record), reason)).collect();
    PartitionError::Invalid { code, message, records }
}

fn refused(plugin: &str, refusal: Refusal) -> PartitionError {
    let Refusal { reason, message } = refusal;
    let message = format!("plugin '{plugin}' refuses the batch: {message}");
    let code = match reason {
        RefusalReason::PolicyViolation => return policy(message),
        RefusalReason::InvalidRecord => {
            let code = ResponseError::InvalidRecord.code();
            return PartitionError::Invalid { code, message, records: Vec::new() };
        }
        RefusalReason::TopicAuthorizationFailed => ResponseError::TopicAuthorizationFailed,
        RefusalReason::MessageTooLarge => ResponseError::MessageTooLarge,
        RefusalReason::NotEnoughReplicas => ResponseError::NotEnoughReplicas,
        // Kafka's THROTTLING_QUOTA_EXCEEDED is none of a produce request: librdkafka would give up. This one every client sends again.
        RefusalReason::Throttled => ResponseError::RequestTimedOut,
    };
    PartitionError::Other { code: code.code(), message }
}
