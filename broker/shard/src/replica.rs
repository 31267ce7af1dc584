//! The partitions that a shard owns: requests of their clients become steps of [`tidegate_model::partition::Partition`].
//!
//! Requests arrive as [`crate::message::Ask`]s, from this shard or another. What cannot be answered at once is a *part* in
//! [`crate::waiting`]. Nothing here knows a connection.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tidegate_model::{
    compaction::{self, Compaction, OffsetMap, Plan},
    metadata::MetadataImage,
    partition::{
        AppendError, Appended, Partition, Producers,
        producers::{SequenceCheck, is_derived},
    },
    retention::{self, Expiry, Segment},
    topic_config::TopicConfig,
};
use tidegate_records::{
    ids::{LeaderEpoch, Offset, Sequence, ShardId, TopicPartition},
    time::{Instant, Now, Timestamp},
};

use crate::{
    error::PartitionError,
    message::*,
    ownership,
    refused::{Refused, Turn},
    shard::{
        AppendBatch, CleaningStep, Effect, Effects, Lookup, LookupAnswer, ReadId, ReadOutcome, RecoveredPartition,
        SnapshotDue,
    },
    waiting::{Part, PartId, PartWork, ProduceWaiter, Waiting},
};

/// There is no replication yet.
pub(crate) const REPLICAS_OF_A_PARTITION: i32 = 1;

/// One partition of which this broker is the leader, and who waits for it.
pub(crate) struct Replica {
    pub(crate) model: Partition,
    pub(crate) config: Arc<TopicConfig>,
    pub(crate) produce_waiters: VecDeque<ProduceWaiter>,
    pub(crate) fetch_waiters: Vec<PartId>,
    /// Ends and sizes of batches that are appended but not committed.
    uncommitted: VecDeque<(Offset, u64)>,
    /// Bytes ever committed in this run; fetches that wait for `min_bytes` compare it.
    pub(crate) committed_bytes: u64,
    /// Batches of idempotent producers since the last snapshot.
    unsaved_producer_batches: u32,
    /// Bytes of batches since the last snapshot: what recovery would have to read.
    unsaved_bytes: u64,
    /// How far it is compacted, as far as this run knows.
    cleaned_to: Option<Offset>,
    /// When its segments were last looked at, and when that is due sooner than the interval says.
    cleaned: Instant,
    clean_at: Option<Instant>,
    /// Why it is offline, if it is.
    pub(crate) offline: Option<String>,
    /// Parts of routed batches that must come again before those behind them.
    refused: Refused,
}

/// What a read was for.
pub(crate) enum ReadPurpose {
    Fetch(PartId),
    ListOffsets { part: PartId, item: usize },
    DeleteRecords { part: PartId, item: usize, partition: TopicPartition },
    Measure { origin: Origin, indexes: Vec<u32> },
}

/// The partitions of a shard.
pub(crate) struct Owned {
    pub(crate) shard: ShardId,
    pub(crate) replicas: BTreeMap<TopicPartition, Replica>,
    pub(crate) waiting: Waiting,
    pub(crate) reads: BTreeMap<ReadId, ReadPurpose>,
    next_read: u64,
    fetch_budget: usize,
    append_budget: usize,
    refusal: Option<String>,
    /// What recovery found, until the metadata says whose it is.
    recovered: BTreeMap<TopicPartition, RecoveredPartition>,
}

impl Replica {
    fn new(recovered: Option<RecoveredPartition>, config: Arc<TopicConfig>) -> Self {
        let (unsaved_batches, unsaved_bytes) =
            recovered.as_ref().map_or((0, 0), |found| (found.batches.len(), found.unsaved_bytes));
        let (model, offline) = match recovered {
            None => (Partition::recovered(Offset(0), Offset(0), Vec::new(), Producers::default()), None),
            Some(found) => {
                let mut producers = match found.producers.as_deref().map(Producers::decode) {
                    Some(Some(producers)) => producers,
                    // A snapshot that cannot be read is rebuilt as far as the log goes; storage has checked its checksum, so
                    // this is a snapshot of a newer version.
                    Some(None) | None => Producers::default(),
                };
                for (header, append_time) in &found.batches {
                    producers.appended(header, *append_time);
                }
                (
                    Partition::recovered(found.log_start_offset, found.log_end_offset, found.epochs, producers),
                    found.error,
                )
            }
        };
        Self {
            model,
            config,
            produce_waiters: VecDeque::new(),
            fetch_waiters: Vec::new(),
            uncommitted: VecDeque::new(),
            committed_bytes: 0,
            unsaved_producer_batches: u32::try_from(unsaved_batches).unwrap_or(u32::MAX),
            unsaved_bytes,
            cleaned_to: None,
            cleaned: Instant(0),
            clean_at: None,
            offline,
            refused: Refused::default(),
        }
    }

    fn check_epoch(&self, asked: LeaderEpoch) -> Result<(), PartitionError> {
        let current = self.model.leader_epoch();
        if asked.0 >= 0 && asked < current {
            return Err(PartitionError::FencedLeaderEpoch { got: asked.0, current: current.0 });
        }
        if asked > current {
            return Err(PartitionError::UnknownLeaderEpoch { got: asked.0, current: current.0 });
        }
        Ok(())
    }
}

impl Owned {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self {
            shard,
            replicas: BTreeMap::new(),
            waiting: Waiting::default(),
            reads: BTreeMap::new(),
            next_read: 0,
            append_budget: 0,
            fetch_budget: usize::MAX,
            refusal: None,
            recovered: BTreeMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.replicas.len()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.next_deadline()
    }

    pub(crate) fn fetch_budget(&self) -> usize {
        self.fetch_budget
    }

    pub(crate) fn set_fetch_budget(&mut self, bytes: usize) {
        self.fetch_budget = bytes;
    }

    pub(crate) fn set_append_budget(&mut self, bytes: usize, reason: Option<String>) {
        self.append_budget = bytes;
        self.refusal = reason;
    }

    pub(crate) fn recovered(&mut self, recovered: Vec<RecoveredPartition>) {
        self.recovered = recovered.into_iter().map(|found| (found.partition, found)).collect();
    }

    /// A partition that is here and serves.
    pub(crate) fn online(&mut self, partition: TopicPartition) -> Result<&mut Replica, PartitionError> {
        let replica = self.replicas.get_mut(&partition).ok_or(PartitionError::UnknownTopicOrPartition)?;
        match &replica.offline {
            Some(reason) => Err(PartitionError::Storage(reason.clone())),
            None => Ok(replica),
        }
    }

    /// Takes new metadata: partitions come, go and change their configuration. Who waits on one that goes is answered.
    pub(crate) fn metadata(&mut self, now: Now, image: &MetadataImage, shards: u16, effects: &mut Effects) {
        let mut gone: Vec<TopicPartition> = Vec::new();
        for (partition, replica) in &mut self.replicas {
            match image.topic_by_id(partition.topic) {
                None => gone.push(*partition),
                Some(topic) => {
                    if !Arc::ptr_eq(&replica.config, &topic.config) {
                        if replica.config.retention != topic.config.retention {
                            replica.clean_at = Some(Instant(0));
                        }
                        replica.config = Arc::clone(&topic.config);
                        effects.push(Effect::ConfigurePartition { partition: *partition });
                    }
                }
            }
        }
        for partition in gone {
            self.remove(partition, effects);
        }
        for topic in image.topics() {
            for partition in topic.partition_indexes() {
                let partition = TopicPartition::new(topic.id, partition);
                if ownership::owner(partition, shards) != self.shard || self.replicas.contains_key(&partition) {
                    continue;
                }
                let recovered = self.recovered.remove(&partition);
                if recovered.is_none() {
                    effects.push(Effect::CreatePartition { partition });
                }
                self.replicas.insert(partition, Replica::new(recovered, Arc::clone(&topic.config)));
            }
        }
        self.evaluate_woken(now, effects);
    }

    fn remove(&mut self, partition: TopicPartition, effects: &mut Effects) {
        let Some(replica) = self.replicas.remove(&partition) else { return };
        for waiter in replica.produce_waiters {
            self.waiting.produced(waiter.part, waiter.item, Err(PartitionError::UnknownTopicOrPartition), effects);
        }
        for part in replica.fetch_waiters {
            self.waiting.wake(part);
        }
        effects.push(Effect::DeletePartition { partition });
    }

    // ---- produce ----

    pub(crate) fn produce(&mut self, now: Now, origin: Origin, ask: ProduceAsk, effects: &mut Effects) {
        let ProduceAsk { items, deadline } = ask;
        let part = self.waiting.begin_produce(origin, &items, deadline);
        for (position, item) in items.into_iter().enumerate() {
            match self.append(now, &item, effects) {
                Err(error) => self.waiting.produced(part, position, Err(error), effects),
                Ok(appended) => {
                    let replica = self.replicas.get_mut(&item.partition).expect("append found it");
                    if item.rule.holds(&replica.model, appended.next_offset()) {
                        let produced = produced(&replica.model, appended.base_offset());
                        self.waiting.produced(part, position, Ok(produced), effects);
                    } else {
                        replica.produce_waiters.push_back(ProduceWaiter {
                            part,
                            item: position,
                            rule: item.rule,
                            base_offset: appended.base_offset(),
                            next_offset: appended.next_offset(),
                        });
                    }
                }
            }
        }
    }

    /// Appends a batch; a routed part only behind those of its producer that came before it.
    fn append(&mut self, now: Now, item: &ProduceItem, effects: &mut Effects) -> Result<Appended, PartitionError> {
        if !is_derived(item.header.producer_id) {
            return self.append_now(now, item, effects);
        }
        let replica = self.replicas.get(&item.partition).ok_or(PartitionError::UnknownTopicOrPartition)?;
        let turn = Turn::of(&item.header);
        let appended = match replica.refused.check((), turn) {
            Ok(()) => self.append_now(now, item, effects),
            Err(error) => Err(AppendError::from(error).into()),
        };
        if let Some(replica) = self.replicas.get_mut(&item.partition) {
            match &appended {
                Ok(_) => replica.refused.taken((), turn),
                // What is there already need not come again: this is a late copy of it, from a connection that is gone.
                Err(error) if error.comes_again() => {
                    if matches!(replica.model.producers().check(&item.header), Ok(SequenceCheck::New)) {
                        replica.refused.refused((), turn);
                    }
                }
                Err(_) => {}
            }
        }
        appended
    }

    fn append_now(&mut self, now: Now, item: &ProduceItem, effects: &mut Effects) -> Result<Appended, PartitionError> {
        if let Some(reason) = &self.refusal {
            return Err(PartitionError::Storage(reason.clone()));
        }
        let bytes = item.bytes.len();
        // What storage adds to a batch counts as well; this is more than it adds.
        let cost = bytes + 256;
        if cost > self.append_budget {
            return Err(PartitionError::Storage(
                "the broker has more unwritten data than its limit allows; the disk is slower than its producers"
                    .into(),
            ));
        }
        let replica = self.online(item.partition)?;
        // As in Kafka (KIP-966): a partition cannot be asked for more replicas than it has.
        let needed = replica.config.min_insync_replicas.min(REPLICAS_OF_A_PARTITION);
        let needed = item.rule.is_all_in_sync().then_some(needed);
        let appended = replica.model.append(&item.header, now.wall, needed)?;
        if let Appended::New { base_offset, next_offset } = appended {
            replica.uncommitted.push_back((next_offset, bytes as u64));
            if item.header.producer_id.is_some() {
                replica.unsaved_producer_batches = replica.unsaved_producer_batches.saturating_add(1);
            }
            replica.unsaved_bytes += bytes as u64;
            let batch = AppendBatch {
                bytes: item.bytes.clone(),
                header: item.header,
                base_offset,
                leader_epoch: replica.model.leader_epoch(),
                append_time: now.wall,
                flush: replica.config.flush_before_acknowledging(),
            };
            effects.push(Effect::Append { partition: item.partition, batch });
            self.append_budget -= cost;
        }
        Ok(appended)
    }

    /// A commit round is done: offsets become durable, the high watermark moves, who waited is answered.
    pub(crate) fn durable(&mut self, now: Now, partitions: &[(TopicPartition, Offset)], effects: &mut Effects) {
        for (partition, offset) in partitions {
            // A deleted topic's last round may still come in.
            let Some(replica) = self.replicas.get_mut(partition) else { continue };
            let moved = replica.model.durable(*offset);
            let (model, waiting) = (&replica.model, &mut self.waiting);
            replica.produce_waiters.retain(|waiter| {
                let done = waiter.rule.holds(model, waiter.next_offset);
                if done {
                    waiting.produced(waiter.part, waiter.item, Ok(produced(model, waiter.base_offset)), effects);
                }
                !done
            });
            if moved {
                while replica.uncommitted.front().is_some_and(|(end, _)| *end <= model.high_watermark()) {
                    replica.committed_bytes += replica.uncommitted.pop_front().map_or(0, |(_, bytes)| bytes);
                }
                for part in replica.fetch_waiters.drain(..) {
                    waiting.wake(part);
                }
            }
        }
        self.evaluate_woken(now, effects);
    }

    // ---- fetch ----

    pub(crate) fn fetch(&mut self, now: Now, origin: Origin, ask: FetchAsk, effects: &mut Effects) {
        let partitions: Vec<TopicPartition> = ask.items.iter().map(|item| item.partition).collect();
        let part = self.waiting.begin_fetch(origin, ask);
        // Registered before the first look, so that no commit between that look and the wait is missed.
        for partition in partitions {
            if let Some(replica) = self.replicas.get_mut(&partition) {
                replica.fetch_waiters.push(part);
            }
        }
        self.waiting.wake(part);
        self.evaluate_woken(now, effects);
    }

    pub(crate) fn cancel_fetch(&mut self, now: Now, origin: Origin, effects: &mut Effects) {
        if let Some(part) = self.waiting.fetch_of(origin) {
            self.waiting.expire_now(part);
            self.evaluate_woken(now, effects);
        }
    }

    fn evaluate_woken(&mut self, now: Now, effects: &mut Effects) {
        while let Some(id) = self.waiting.next_woken() {
            self.evaluate_fetch(now, id, effects);
        }
    }

    /// Goes on with a fetch: the next read, or its answer, or back to waiting.
    fn evaluate_fetch(&mut self, now: Now, id: PartId, effects: &mut Effects) {
        let Some(Part { work: PartWork::Fetch(mut fetch), origin, deadline }) = self.waiting.take(id) else { return };
        if fetch.reading {
            // Woken by a partition while a read for another is under way: looked at again before it waits.
            fetch.woken_while_reading = true;
            self.waiting.put(id, Part { work: PartWork::Fetch(fetch), origin, deadline });
            return;
        }
        if let Some(parked) = fetch.parked.take()
            && now.instant < deadline
            && !fetch.has_error
        {
            // Many small commits must not each re-read what was already too little.
            let arrived = self.committed_bytes(&fetch.ask.items).saturating_sub(parked);
            if fetch.found_bytes as u64 + arrived < fetch.ask.min_bytes as u64 && self.all_online(&fetch.ask.items) {
                fetch.parked = Some(parked);
                self.register(id, &fetch.ask.items);
                self.waiting.put(id, Part { work: PartWork::Fetch(fetch), origin, deadline });
                return;
            }
        }
        if fetch.next_item == 0 {
            fetch.woken_while_reading = false;
            // For all of its reads: they are one answer.
            fetch.budget = self.fetch_budget;
            fetch.results.clear();
            fetch.found_bytes = 0;
            fetch.has_error = false;
        }
        while fetch.next_item < fetch.ask.items.len() {
            let item = &fetch.ask.items[fetch.next_item];
            let up_to = match self.readable(item, fetch.ask.read_committed) {
                Ok(up_to) => up_to,
                Err(answer) => {
                    fetch.has_error |= answer.is_err() || answer.as_ref().is_ok_and(|found| found.diverging.is_some());
                    fetch.results.push(FetchedItem { index: item.index, result: answer });
                    fetch.next_item += 1;
                    continue;
                }
            };
            let room = fetch.ask.max_bytes.min(fetch.budget).saturating_sub(fetch.found_bytes).min(item.max_bytes);
            if up_to <= item.fetch_offset || (room == 0 && fetch.found_bytes > 0) {
                let result = self.fetched(item.partition, Vec::new());
                fetch.results.push(FetchedItem { index: item.index, result });
                fetch.next_item += 1;
                continue;
            }
            let read = self.read(ReadPurpose::Fetch(id));
            effects.push(Effect::Read {
                read,
                partition: item.partition,
                from: item.fetch_offset,
                up_to,
                max_bytes: room,
                at_least_one: fetch.found_bytes == 0,
            });
            fetch.reading = true;
            self.waiting.put(id, Part { work: PartWork::Fetch(fetch), origin, deadline });
            return;
        }
        let wanted = fetch.ask.min_bytes.min(fetch.ask.max_bytes).min(fetch.budget);
        let enough = fetch.has_error || fetch.found_bytes >= wanted || now.instant >= deadline;
        if enough {
            self.waiting.finished(id, origin, deadline);
            for item in &fetch.ask.items {
                if let Some(replica) = self.replicas.get_mut(&item.partition) {
                    replica.fetch_waiters.retain(|waiter| *waiter != id);
                }
            }
            effects.reply(origin, Reply::Fetched { from: self.shard, items: fetch.results });
            return;
        }
        fetch.next_item = 0;
        // Read again when there is more, and not held until then.
        fetch.results.clear();
        if fetch.woken_while_reading {
            self.waiting.wake(id);
        } else {
            fetch.parked = Some(self.committed_bytes(&fetch.ask.items));
        }
        self.register(id, &fetch.ask.items);
        self.waiting.put(id, Part { work: PartWork::Fetch(fetch), origin, deadline });
    }

    fn register(&mut self, id: PartId, items: &[FetchItem]) {
        for item in items {
            if let Some(replica) = self.replicas.get_mut(&item.partition)
                && !replica.fetch_waiters.contains(&id)
            {
                replica.fetch_waiters.push(id);
            }
        }
    }

    fn committed_bytes(&self, items: &[FetchItem]) -> u64 {
        items.iter().filter_map(|item| self.replicas.get(&item.partition)).map(|replica| replica.committed_bytes).sum()
    }

    fn all_online(&self, items: &[FetchItem]) -> bool {
        items.iter().all(|item| self.replicas.get(&item.partition).is_some_and(|replica| replica.offline.is_none()))
    }

    /// How far the reader may read, or its answer without reading.
    fn readable(&mut self, item: &FetchItem, read_committed: bool) -> Result<Offset, Result<Fetched, PartitionError>> {
        let replica = self.online(item.partition).map_err(Err)?;
        replica.check_epoch(item.current_leader_epoch).map_err(Err)?;
        let model = &replica.model;
        if item.last_fetched_epoch.0 >= 0 {
            let Some((epoch, end)) = model.end_of_epoch(item.last_fetched_epoch) else {
                let (start, end) = (model.log_start_offset(), model.high_watermark());
                return Err(Err(PartitionError::OffsetOutOfRange { asked: item.fetch_offset, start, end }));
            };
            if end < item.fetch_offset || epoch < item.last_fetched_epoch {
                let diverging = Some((epoch, end));
                return Err(self.fetched(item.partition, Vec::new()).map(|found| Fetched { diverging, ..found }));
            }
        }
        let (start, end) = (model.log_start_offset(), model.high_watermark());
        if item.fetch_offset < start || item.fetch_offset > end {
            return Err(Err(PartitionError::OffsetOutOfRange { asked: item.fetch_offset, start, end }));
        }
        Ok(if read_committed { model.last_stable_offset() } else { end })
    }

    fn fetched(&self, partition: TopicPartition, records: Vec<Bytes>) -> Result<Fetched, PartitionError> {
        let model = &self.replicas.get(&partition).ok_or(PartitionError::UnknownTopicOrPartition)?.model;
        Ok(Fetched {
            high_watermark: model.high_watermark(),
            last_stable_offset: model.last_stable_offset(),
            log_start_offset: model.log_start_offset(),
            diverging: None,
            records,
        })
    }

    pub(crate) fn read_done(
        &mut self,
        now: Now,
        read: ReadId,
        outcome: Result<Vec<Bytes>, ReadOutcome>,
        effects: &mut Effects,
    ) {
        let Some(purpose) = self.reads.remove(&read) else { return };
        let ReadPurpose::Fetch(id) = purpose else { return };
        let Some(mut part) = self.waiting.take(id) else { return };
        if let PartWork::Fetch(fetch) = &mut part.work {
            fetch.reading = false;
            if let Some(item) = fetch.ask.items.get(fetch.next_item) {
                let result = match outcome {
                    Ok(records) => {
                        fetch.found_bytes += records.iter().map(Bytes::len).sum::<usize>();
                        self.fetched(item.partition, records)
                    }
                    Err(ReadOutcome::OutOfRange) => Err(PartitionError::OffsetOutOfRange {
                        asked: item.fetch_offset,
                        start: Offset::UNKNOWN,
                        end: Offset::UNKNOWN,
                    }),
                    Err(ReadOutcome::Failed(message)) => Err(PartitionError::Storage(message)),
                };
                fetch.has_error |= result.is_err();
                fetch.results.push(FetchedItem { index: item.index, result });
                fetch.next_item += 1;
            }
        }
        self.waiting.put(id, part);
        self.waiting.wake(id);
        self.evaluate_woken(now, effects);
    }

    // ---- offsets ----

    pub(crate) fn list_offsets(&mut self, origin: Origin, items: Vec<ListOffsetsItem>, effects: &mut Effects) {
        let part = self.waiting.begin_lookups(origin, items.len());
        for (position, item) in items.into_iter().enumerate() {
            match self.offset_known(&item) {
                Err(error) => self.waiting.listed(part, position, item.index, Err(error)),
                Ok(Known::Answer(offset, timestamp, epoch)) => {
                    self.waiting.listed(part, position, item.index, Ok((offset, timestamp, epoch)));
                }
                Ok(Known::Lookup(lookup, up_to)) => {
                    let read = self.read(ReadPurpose::ListOffsets { part, item: position });
                    self.waiting.lookup_index(part, position, item.index);
                    effects.push(Effect::Lookup { read, partition: item.partition, lookup, up_to });
                }
            }
        }
        self.waiting.finish_lookups(part, effects);
    }

    fn offset_known(&mut self, item: &ListOffsetsItem) -> Result<Known, PartitionError> {
        let replica = self.online(item.partition)?;
        replica.check_epoch(item.current_leader_epoch)?;
        let model = &replica.model;
        let end = if item.read_committed { model.last_stable_offset() } else { model.high_watermark() };
        Ok(match item.what {
            OffsetQuery::Latest => Known::Answer(end, Timestamp::NONE, model.leader_epoch()),
            OffsetQuery::Earliest => {
                let start = model.log_start_offset();
                let epoch = model.epoch_at(start).unwrap_or(model.leader_epoch());
                Known::Answer(start, Timestamp::NONE, epoch)
            }
            OffsetQuery::EarliestLocal => Known::Lookup(Lookup::EarliestLocal, end),
            OffsetQuery::LatestTiered => Known::Lookup(Lookup::LatestTiered, end),
            OffsetQuery::MaxTimestamp => Known::Lookup(Lookup::MaxTimestamp, end),
            OffsetQuery::AtOrAfter(timestamp) => Known::Lookup(Lookup::AtOrAfter(timestamp), end),
        })
    }

    pub(crate) fn lookup_done(
        &mut self,
        read: ReadId,
        answer: Result<Option<LookupAnswer>, ReadOutcome>,
        effects: &mut Effects,
    ) {
        let Some(ReadPurpose::ListOffsets { part, item }) = self.reads.remove(&read) else { return };
        let result = match answer {
            Ok(Some(found)) => Ok((found.offset, found.timestamp, found.leader_epoch)),
            Ok(None) | Err(ReadOutcome::OutOfRange) => Ok((Offset::UNKNOWN, Timestamp::NONE, LeaderEpoch(-1))),
            Err(ReadOutcome::Failed(message)) => Err(PartitionError::Storage(message)),
        };
        self.waiting.looked_up(part, item, result);
        self.waiting.finish_lookups(part, effects);
    }

    pub(crate) fn epoch_ends(&mut self, origin: Origin, items: &[EpochEndItem], effects: &mut Effects) {
        let ends = items
            .iter()
            .map(|item| {
                let result = self.online(item.partition).and_then(|replica| {
                    replica.check_epoch(item.current_leader_epoch)?;
                    Ok(replica.model.end_of_epoch(item.epoch).unwrap_or((LeaderEpoch(-1), Offset::UNKNOWN)))
                });
                EpochEnd { index: item.index, result }
            })
            .collect();
        effects.reply(origin, Reply::EpochEnds(ends));
    }

    pub(crate) fn delete_records(&mut self, origin: Origin, items: &[DeleteRecordsItem], effects: &mut Effects) {
        let part = self.waiting.begin_deletes(origin, items);
        for (position, item) in items.iter().enumerate() {
            let target = self.online(item.partition).and_then(|replica| {
                let (start, end) = (replica.model.log_start_offset(), replica.model.high_watermark());
                let target = if item.before == Offset::UNKNOWN { end } else { item.before };
                if target < Offset(0) || target > end {
                    return Err(PartitionError::OffsetOutOfRange { asked: target, start, end });
                }
                Ok(target.max(start))
            });
            match target {
                Err(error) => self.waiting.deleted(part, position, Err(error), effects),
                Ok(offset) => {
                    let partition = item.partition;
                    let read = self.read(ReadPurpose::DeleteRecords { part, item: position, partition });
                    effects.push(Effect::SetLogStart { read, partition, offset });
                }
            }
        }
    }

    pub(crate) fn log_start_set(&mut self, read: ReadId, result: Result<(), String>, effects: &mut Effects) {
        let Some(ReadPurpose::DeleteRecords { part, item, partition }) = self.reads.remove(&read) else { return };
        let result = result
            .map_err(PartitionError::Storage)
            .and_then(|()| self.online(partition).map(|replica| replica.model.log_start_offset()));
        self.waiting.deleted(part, item, result, effects);
    }

    pub(crate) fn log_sizes(&mut self, origin: Origin, partitions: Vec<(u32, TopicPartition)>, effects: &mut Effects) {
        let (indexes, partitions) = partitions.into_iter().unzip();
        let read = self.read(ReadPurpose::Measure { origin, indexes });
        effects.push(Effect::Measure { read, partitions });
    }

    pub(crate) fn measured(&mut self, read: ReadId, sizes: &[u64], effects: &mut Effects) {
        let Some(ReadPurpose::Measure { origin, indexes }) = self.reads.remove(&read) else { return };
        let sizes = indexes.into_iter().zip(sizes.iter().copied()).collect();
        effects.reply(origin, Reply::LogSizes(sizes));
    }

    pub(crate) fn describe_producers(
        &mut self,
        origin: Origin,
        partitions: &[(u32, TopicPartition)],
        effects: &mut Effects,
    ) {
        let answers = partitions
            .iter()
            .map(|(index, partition)| {
                let producers = self.online(*partition).map(|replica| {
                    let active = replica.model.producers().iter();
                    active
                        .map(|(producer, state)| ActiveProducer {
                            producer,
                            epoch: state.epoch,
                            last_sequence: state.last_batch().map_or(Sequence::NONE, |batch| batch.last_sequence),
                            last_timestamp: state.last_batch().map_or(Timestamp::NONE, |batch| batch.max_timestamp),
                        })
                        .collect()
                });
                (*index, producers)
            })
            .collect();
        effects.reply(origin, Reply::Producers(answers));
    }

    fn read(&mut self, purpose: ReadPurpose) -> ReadId {
        self.next_read += 1;
        let read = ReadId(self.next_read);
        self.reads.insert(read, purpose);
        read
    }

    // ---- time and storage ----

    pub(crate) fn log_start_moved(
        &mut self,
        now: Now,
        partition: TopicPartition,
        offset: Offset,
        effects: &mut Effects,
    ) {
        if let Some(replica) = self.replicas.get_mut(&partition) {
            replica.model.advance_log_start(offset);
        }
        self.evaluate_woken(now, effects);
    }

    /// Fetches whose time is up are answered with what there is; produce requests with a timeout.
    pub(crate) fn expire(&mut self, now: Now, effects: &mut Effects) {
        for id in self.waiting.expired(now.instant) {
            match self.waiting.is_fetch(id) {
                true => self.waiting.wake(id),
                false => {
                    for replica in self.replicas.values_mut() {
                        replica.produce_waiters.retain(|waiter| waiter.part != id);
                    }
                    self.waiting.fail_produce(id, &PartitionError::TimedOut, effects);
                }
            }
        }
        self.evaluate_woken(now, effects);
    }

    pub(crate) fn storage_failed(&mut self, message: String, effects: &mut Effects) {
        for replica in self.replicas.values_mut() {
            for waiter in replica.produce_waiters.drain(..) {
                let error = PartitionError::Storage(message.clone());
                self.waiting.produced(waiter.part, waiter.item, Err(error), effects);
            }
        }
        self.refusal = Some(message);
    }

    /// Partitions whose turn it is to be cleaned.
    pub(crate) fn cleaning_due(&mut self, now: Now, interval_ms: u64) -> Vec<TopicPartition> {
        // Some at a time: looking at thousands at once would hold up everything else.
        const AT_ONCE: usize = 100;
        let interval = Duration::from_millis(interval_ms);
        let due = self.replicas.iter_mut().filter(|(_, replica)| replica.offline.is_none()).filter(|(_, replica)| {
            now.instant.since(replica.cleaned) >= interval || replica.clean_at.is_some_and(|at| at <= now.instant)
        });
        due.take(AT_ONCE)
            .map(|(partition, replica)| {
                replica.cleaned = now.instant;
                replica.clean_at = None;
                *partition
            })
            .collect()
    }

    /// The segments of a partition are to be looked at in a while, if that is sooner than its turn.
    pub(crate) fn clean_again(&mut self, at: Instant, partition: TopicPartition) {
        if let Some(replica) = self.replicas.get_mut(&partition) {
            replica.clean_at = Some(replica.clean_at.map_or(at, |present| present.min(at)));
        }
    }

    pub(crate) fn plan_cleaning(
        &self,
        now: Now,
        partition: TopicPartition,
        expiry: Expiry,
        segments: &[Segment],
    ) -> Vec<CleaningStep> {
        let Some(replica) = self.replicas.get(&partition) else { return Vec::new() };
        let (start, high_watermark) = (replica.model.log_start_offset(), replica.model.high_watermark());
        let verdict = retention::decide(now.wall, &replica.config, expiry, start, high_watermark, segments);
        let mut steps = Vec::new();
        if verdict.roll {
            steps.push(CleaningStep::Roll);
        }
        steps.extend(verdict.delete_below.map(CleaningStep::DeleteBelow));
        let log = compaction::Log {
            log_start_offset: start,
            last_stable_offset: replica.model.last_stable_offset(),
            cleaned_to: replica.cleaned_to,
            segments,
        };
        steps.extend(compaction::plan(now.wall, &replica.config, log).map(CleaningStep::Compact));
        steps
    }

    pub(crate) fn begin_compaction(
        &self,
        now: Now,
        partition: TopicPartition,
        plan: Plan,
        map: OffsetMap,
    ) -> Option<Compaction> {
        let replica = self.replicas.get(&partition)?;
        let producers = replica.model.producers().iter();
        let last = producers.filter_map(|(id, state)| Some((id, state.last_batch()?.last_offset))).collect();
        Some(Compaction::new(plan, now.wall, &replica.config, last, map))
    }

    pub(crate) fn compacted(&mut self, partition: TopicPartition, cleaned_to: Offset) {
        if let Some(replica) = self.replicas.get_mut(&partition) {
            replica.cleaned_to = Some(cleaned_to);
        }
    }

    /// Forgets idle producers of every partition.
    pub(crate) fn expire_producers(&mut self, now: Now, expiration_ms: i64) {
        for replica in self.replicas.values_mut() {
            replica.model.expire_producers(now.wall, expiration_ms);
        }
    }

    /// Snapshots of producers where one is due: the offset they are of, and their bytes.
    /// Only of partitions without uncommitted batches: a snapshot must not know what recovery may not find.
    pub(crate) fn producer_snapshots(&mut self, due: SnapshotDue) -> Vec<(TopicPartition, Offset, Bytes)> {
        let mut snapshots = Vec::new();
        for (partition, replica) in &mut self.replicas {
            let settled = replica.model.durable_end_offset() == replica.model.log_end_offset();
            let is_due =
                replica.unsaved_producer_batches >= due.batches.max(1) || replica.unsaved_bytes >= due.bytes.max(1);
            if settled && is_due && replica.offline.is_none() {
                replica.unsaved_producer_batches = 0;
                replica.unsaved_bytes = 0;
                let bytes = Bytes::from(replica.model.producers().encode());
                snapshots.push((*partition, replica.model.log_end_offset(), bytes));
            }
        }
        snapshots
    }

    /// A snapshot of the producers of one partition, due or not; none while it has uncommitted batches.
    pub(crate) fn producer_snapshot(&mut self, partition: TopicPartition) -> Option<(Offset, Bytes)> {
        let replica = self.replicas.get_mut(&partition).filter(|replica| replica.offline.is_none())?;
        if replica.model.durable_end_offset() != replica.model.log_end_offset() {
            return None;
        }
        replica.unsaved_producer_batches = 0;
        replica.unsaved_bytes = 0;
        Some((replica.model.log_end_offset(), Bytes::from(replica.model.producers().encode())))
    }
}

enum Known {
    Answer(Offset, Timestamp, LeaderEpoch),
    Lookup(Lookup, Offset),
}

fn produced(model: &Partition, base_offset: Offset) -> Produced {
    Produced { base_offset, log_start_offset: model.log_start_offset() }
}
