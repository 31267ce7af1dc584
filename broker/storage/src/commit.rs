//! Commit rounds: all that waits goes out as parallel writes and one flush.
//!
//! One round is in flight at a time; what arrives meanwhile is the next. The caller loops over [`Store::commit_round`] while
//! [`Store::has_pending`], so rounds grow under load and no timer is needed.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use bytes::Bytes;
use tidegate_records::{
    batch,
    ids::{Offset, TopicPartition},
    time::Timestamp,
};

use crate::{
    apply::is_full,
    disk::{AlignedBuffer, BLOCK_BYTES, Disk, Flush, Write},
    error::Fatal,
    gate::Pass,
    journal::format::{Entry, FILE_HEADER_BYTES, FileHeader, ROUND_HEADER_BYTES, RoundHeader, round_bytes, seal_round},
    partition::TailBatch,
    segment::format::{self, ExtentBatch, ExtentHeader, ExtentPlace},
    store::{Pending, State, Store, StoreOptions},
};

/// The batches of a smaller round are copied for the tails of their partitions: its buffer is mostly padding, and would stay as long
/// as they do.
const COPIED_ROUND_BYTES_MAX: usize = 64 << 10;
/// What remembering a round takes beside its batches, about.
const CACHED_ROUND_COST_BYTES: usize = 512;

/// What a round made durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoundReport {
    /// Of each partition in the round, the offset after its last batch.
    pub durable: Vec<(TopicPartition, Offset)>,
    /// Bytes of batches.
    pub bytes: usize,
    pub batches: usize,
    /// Those of `batches` that went straight into their segments.
    pub direct_batches: usize,
    /// Bytes written to the disk.
    pub written_bytes: usize,
    pub flushes: usize,
}

/// A round on its way.
struct Round<F> {
    /// The file before, where rounds in it are not flushed yet.
    sync_first: Option<F>,
    writes: Vec<Write<F>>,
    flush: Flush,
    number: u64,
    groups: Vec<Group>,
    written_bytes: usize,
    /// Bytes of the buffers that the tails of the partitions hold.
    cached_bytes: usize,
}

/// Splits `buffer` into parallel writes of at most `write_bytes_max` each.
pub(crate) fn split_writes<F: Clone>(
    file: &F,
    position: u64,
    buffer: &Arc<AlignedBuffer>,
    write_bytes_max: usize,
) -> impl Iterator<Item = Write<F>> {
    split_front(file, position, buffer, buffer.len(), write_bytes_max)
}

/// The same of a part of `buffer`, from its front.
pub(crate) fn split_front<F: Clone>(
    file: &F,
    position: u64,
    buffer: &Arc<AlignedBuffer>,
    length: usize,
    write_bytes_max: usize,
) -> impl Iterator<Item = Write<F>> {
    (0..length).step_by(write_bytes_max).map(move |start| Write {
        file: file.clone(),
        position: position + start as u64,
        buffer: Arc::clone(buffer),
        range: start..(start + write_bytes_max).min(length),
    })
}

impl<D: Disk> Store<D> {
    /// Whether a round can be committed.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        let state = self.inner.state.borrow();
        state.failed.is_none()
            && state.pending.front().is_some_and(|first| {
                !state.journal.ready.is_empty()
                    || round_bytes(1, first.bytes.len()) as u64 <= state.journal.current_room()
            })
    }

    /// Commits what waits, up to the size of a round. An empty report if nothing waits or the journal has no room now.
    ///
    /// # Errors
    /// [`Fatal`]: a write or flush failed. Nothing of the round may be acknowledged, and nothing more is written.
    pub async fn commit_round(&self) -> Result<RoundReport, Fatal> {
        let pass = self.inner.rounds.enter().await;
        Ok(self.commit_inside(None, &pass).await?.unwrap_or_default())
    }

    /// Commits a round with the rounds' gate held: what waits, or a control entry alone. `None`: nothing to do, or no room.
    pub(crate) async fn commit_inside(
        &self,
        control: Option<Entry>,
        _pass: &Pass,
    ) -> Result<Option<RoundReport>, Fatal> {
        let round = {
            let state = &mut *self.inner.state.borrow_mut();
            if let Some(error) = &state.failed {
                return Err(Fatal(error.clone()));
            }
            plan_round(state, &self.inner.options, self.inner.session, control)
        };
        let Some(mut round) = round else { return Ok(None) };
        let disk = &self.inner.disk;
        let mut done = Ok(());
        if let Some(file) = round.sync_first.take() {
            done = disk.sync(&file).await;
            if done.is_ok() {
                let journal = &mut self.inner.state.borrow_mut().journal;
                journal.unsynced = None;
                journal.flushed_through = journal.flushed_through.max(round.number - 1);
            }
        }
        if done.is_ok() {
            done = disk.commit(std::mem::take(&mut round.writes), round.flush).await;
        }
        let state = &mut *self.inner.state.borrow_mut();
        match done {
            Ok(()) => Ok(Some(finish_round(state, round, &self.inner.options))),
            Err(error) => {
                state.failed.get_or_insert_with(|| error.clone());
                state.wake_room_waiters();
                Err(Fatal(error))
            }
        }
    }
}

/// How many of the batches that wait make up a round that fits into `room`.
fn count_that_fits<F>(state: &State<F>, options: &StoreOptions, room: u64) -> usize {
    let mut body_bytes = 0;
    for (count, pending) in state.pending.iter().enumerate() {
        body_bytes += pending.bytes.len();
        let total = round_bytes(count + 1, body_bytes);
        if total as u64 > room || (count > 0 && total > options.round_bytes_max) {
            return count;
        }
    }
    state.pending.len()
}

/// The batches of one partition in a round.
struct Group {
    topic_partition: TopicPartition,
    batches: Vec<Pending>,
    /// Where each batch is in `bytes`.
    starts: Vec<usize>,
    bytes: Bytes,
    direct: Option<Direct>,
}

impl Group {
    fn batches_bytes(&self) -> usize {
        self.batches.iter().map(|pending| pending.bytes.len()).sum()
    }
}

/// A group that goes straight into its segment.
struct Direct {
    _pass: Pass,
    /// Its extents, and the append time of the last batch of each.
    headers: Vec<(ExtentHeader, Timestamp)>,
    /// Bytes of batches that only the journal had before and that go along.
    applied_bytes: usize,
}

fn plan_round<F: Clone>(
    state: &mut State<F>,
    options: &StoreOptions,
    session: u64,
    control: Option<Entry>,
) -> Option<Round<F>> {
    if state.pending.is_empty() && control.is_none() {
        return None;
    }
    let count = make_room(state, options, control.is_some())?;
    let mut groups = take_groups(state, count);
    let durable = control.is_some()
        || groups.iter().flat_map(|group| &group.batches).any(|pending| pending.durability == Flush::Durable);

    let round = state.journal.next_round;
    let mut directory = vec![0; ROUND_HEADER_BYTES];
    let mut entries_count = u32::from(control.is_some());
    if let Some(control) = &control {
        control.encode(&mut directory);
    }
    let mut direct_writes = Vec::new();
    let mut body_bytes = 0;
    for group in &mut groups {
        // Written rounds keep to the journal: a later flush of it must cover all that they wrote.
        if durable && group.batches_bytes() >= options.direct_min_bytes {
            group.direct = plan_direct(state, options, session, round, group, &mut direct_writes);
        }
        match &group.direct {
            Some(direct) => {
                for (header, _) in &direct.headers {
                    extent_entry(header).encode(&mut directory);
                    entries_count += 1;
                }
            }
            None => {
                for pending in &group.batches {
                    batch_entry(pending).encode(&mut directory);
                    entries_count += 1;
                    body_bytes += pending.bytes.len();
                }
            }
        }
    }

    let journal = &mut state.journal;
    let sync_first = journal.unsynced.clone();
    // What is not flushed yet is in the file that is synced before this round is written, if there is one.
    let flushed_through = if sync_first.is_some() { round - 1 } else { journal.flushed_through };
    let starts_file = journal.position == 0;
    let position = if starts_file { FILE_HEADER_BYTES } else { journal.position };
    let header = RoundHeader {
        sequence: journal.current.sequence,
        session,
        round,
        flushed_through,
        position,
        entries_count,
        body_bytes: u32::try_from(body_bytes).expect("a round is bounded in bytes"),
    };
    let mut buffer = AlignedBuffer::with_capacity(header.total_bytes());
    buffer.extend_from_slice(&directory);
    for group in groups.iter_mut().filter(|group| group.direct.is_none()) {
        for pending in &group.batches {
            let start = buffer.len();
            group.starts.push(start);
            buffer.extend_from_slice(&pending.bytes);
            batch::stamp(&mut buffer.as_mut_slice()[start..], pending.base_offset, pending.leader_epoch);
        }
    }
    let bodies = buffer.len() - body_bytes..buffer.len();
    buffer.pad_to_block();
    seal_round(&header, buffer.as_mut_slice());
    let buffer = buffer.share();
    let mut cached_bytes = 0;
    let is_small = buffer.len() <= COPIED_ROUND_BYTES_MAX;
    let bytes = if is_small { Bytes::copy_from_slice(&buffer.as_slice()[bodies.clone()]) } else { buffer.bytes() };
    if body_bytes > 0 {
        cached_bytes += bytes.len() + CACHED_ROUND_COST_BYTES;
    }
    for group in &mut groups {
        match &group.direct {
            Some(_) => cached_bytes += group.bytes.len() + CACHED_ROUND_COST_BYTES,
            None => {
                group.bytes = bytes.clone();
                if is_small {
                    group.starts.iter_mut().for_each(|start| *start -= bodies.start);
                }
            }
        }
    }

    // The journal comes first: its file is the one that the flush names.
    let mut writes: Vec<Write<F>> = Vec::new();
    if starts_file {
        let file_header = FileHeader {
            shard: options.shard.0,
            sequence: journal.current.sequence,
            session,
            first_round: round,
            flushed_through,
        };
        let block = file_header.encode().share();
        writes.extend(split_writes(&journal.current.file, 0, &block, options.write_bytes_max));
    }
    writes.extend(split_writes(&journal.current.file, position, &buffer, options.write_bytes_max));
    writes.extend(direct_writes);
    journal.position = position + buffer.len() as u64;
    journal.next_round += 1;
    Some(Round {
        sync_first,
        written_bytes: writes.iter().map(|write| write.range.len()).sum(),
        cached_bytes,
        writes,
        flush: if durable { Flush::Durable } else { Flush::Written },
        number: round,
        groups,
    })
}

/// How many of the batches that wait go into a round, after a new file is begun where the current one has no room.
fn make_room<F: Clone>(state: &mut State<F>, options: &StoreOptions, control: bool) -> Option<usize> {
    let count_now = |state: &State<F>| {
        let room = state.journal.current_room();
        // A control entry has a round of its own.
        if control { usize::from(round_bytes(1, 0) as u64 <= room) } else { count_that_fits(state, options, room) }
    };
    let mut count = count_now(state);
    if count == 0 {
        let journal = &mut state.journal;
        let next = journal.ready.pop_front()?;
        // One that is full without a round leaves the one before it to be synced.
        if journal.unsynced.is_none() && journal.flushed_through + 1 < journal.next_round {
            journal.unsynced = Some(journal.current.file.clone());
        }
        journal.old.push_back(std::mem::replace(&mut journal.current, next));
        journal.position = 0;
        count = count_now(state);
        if count == 0 {
            return None;
        }
    }
    Some(if control { 0 } else { count })
}

/// Takes the first `count` batches that wait, those of a partition together and in their order.
fn take_groups<F>(state: &mut State<F>, count: usize) -> Vec<Group> {
    let mut taken: BTreeMap<TopicPartition, Vec<Pending>> = BTreeMap::new();
    for pending in state.pending.drain(..count) {
        state.pending_bytes -= pending.cost();
        taken.entry(pending.topic_partition).or_default().push(pending);
    }
    if state.pending.is_empty() {
        state.pending_batch_bytes_max = 0;
    }
    let group = |(topic_partition, batches)| Group {
        topic_partition,
        batches,
        starts: Vec::new(),
        bytes: Bytes::new(),
        direct: None,
    };
    taken.into_iter().map(group).collect()
}

fn batch_entry(pending: &Pending) -> Entry {
    Entry::Batch {
        topic_partition: pending.topic_partition,
        base_offset: pending.follows,
        next_offset: pending.next_offset,
        leader_epoch: pending.leader_epoch,
        length: u32::try_from(pending.bytes.len()).expect("bounded by a journal file"),
        crc: pending.crc,
        append_time: pending.append_time,
    }
}

fn extent_entry(header: &ExtentHeader) -> Entry {
    Entry::Extent {
        topic_partition: header.place.topic_partition,
        base_offset: header.base_offset,
        next_offset: header.next_offset,
        leader_epoch: header.leader_epoch,
        length: u32::try_from(header.total_bytes()).expect("bounded by a journal file"),
        crc: header.header_crc,
        position_blocks: u32::try_from(header.position / BLOCK_BYTES as u64).expect("segments are below 16 TiB"),
        incarnation: header.place.incarnation,
    }
}

/// Lays a group out in extents of its active segment, if that segment has pre-written room, is synced and has place.
fn plan_direct<F: Clone>(
    state: &mut State<F>,
    options: &StoreOptions,
    session: u64,
    round: u64,
    group: &mut Group,
    writes: &mut Vec<Write<F>>,
) -> Option<Direct> {
    let topic_partition = group.topic_partition;
    let partition = state.partitions.get_mut(&topic_partition).filter(|partition| partition.damage.is_none())?;
    partition.large_bytes += group.batches_bytes() as u64;
    let segment = partition.active_segment().copied();
    let room = segment.map_or(0, |segment| partition.active.prewritten.saturating_sub(segment.end_position));
    let clean = partition.synced_end == partition.applied_end;
    // Pre-writing costs as much as it saves: only for a partition that goes on with large batches.
    let worth_it = partition.large_bytes >= options.prewrite_bytes / 32;
    if worth_it && (!clean || room < options.prewrite_bytes / 2) {
        state.wants_prewritten.insert(topic_partition);
    }
    let segment = segment.filter(|_| clean && partition.unapplied_bytes <= 4 * options.extent_bytes)?;

    let unapplied = partition.tail.range(partition.tail_position(partition.applied_end)..);
    let mut batches: Vec<ExtentBatch> = unapplied.map(TailBatch::to_extent_batch).collect();
    let along = batches.len();
    batches.extend(group.batches.iter().map(|pending| ExtentBatch {
        bytes: pending.bytes.clone(),
        stamp: Some(pending.base_offset),
        append_time: pending.append_time,
        min_timestamp: pending.min_timestamp,
        max_timestamp: pending.max_timestamp,
        leader_epoch: pending.leader_epoch,
        next_offset: pending.next_offset,
    }));
    let mut bytes = segment.batches_bytes;
    let started = if bytes > 0 { segment.first_append_time } else { batches.first()?.append_time };
    for batch in &batches {
        if is_full(partition, bytes, started, batch.bytes.len(), batch.append_time) {
            return None;
        }
        bytes += batch.bytes.len() as u64;
    }
    let extents = split_extents(&batches, options.extent_bytes);
    let needed: usize = extents
        .iter()
        .map(|range| {
            let bytes = batches[range.clone()].iter().map(|batch| batch.bytes.len()).sum();
            format::extent_bytes(range.len(), bytes)
        })
        .sum();
    if room < needed as u64 {
        return None;
    }
    let file = state.open_files.find((topic_partition, segment.incarnation))?;
    let pass = partition.gate.try_enter_direct()?;

    let place =
        ExtentPlace { topic_partition, incarnation: segment.incarnation, session, shard: options.shard.0, round };
    let mut buffer = AlignedBuffer::with_capacity(needed);
    let mut headers = Vec::with_capacity(extents.len());
    let mut base_offset = segment.next_offset;
    for range in extents {
        let extent = &batches[range.clone()];
        let start = buffer.len();
        let position = segment.end_position + start as u64;
        let header = format::encode_extent(place, position, base_offset, extent, &mut buffer);
        base_offset = header.next_offset;
        let mut at = start + header.batches_at();
        for (index, batch) in range.zip(extent) {
            if index >= along {
                group.starts.push(at);
            }
            at += batch.bytes.len();
        }
        headers.push((header, extent.last().map_or(header.append_time, |batch| batch.append_time)));
    }
    let buffer = buffer.share();
    group.bytes = buffer.bytes();
    writes.extend(split_writes(&file, segment.end_position, &buffer, options.write_bytes_max));
    Some(Direct { _pass: pass, headers, applied_bytes: partition.unapplied_bytes })
}

/// Cuts `batches` into extents: one leader epoch each, and not more than `extent_bytes` unless it is one batch.
fn split_extents(batches: &[ExtentBatch], extent_bytes: usize) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (index, batch) in batches.iter().enumerate() {
        let fits = index > 0
            && batches[index - 1].leader_epoch == batch.leader_epoch
            && bytes + batch.bytes.len() <= extent_bytes;
        match out.last_mut() {
            Some(last) if fits => {
                last.end = index + 1;
                bytes += batch.bytes.len();
            }
            _ => {
                out.push(index..index + 1);
                bytes = batch.bytes.len();
            }
        }
    }
    out
}

fn finish_round<F>(state: &mut State<F>, round: Round<F>, options: &StoreOptions) -> RoundReport {
    let mut report = RoundReport {
        written_bytes: round.written_bytes,
        flushes: usize::from(round.flush == Flush::Durable),
        ..RoundReport::default()
    };
    state.journal.written_through = round.number;
    if round.flush == Flush::Durable {
        state.journal.flushed_through = round.number;
        state.journal.durable_round = round.number;
    }
    for group in &round.groups {
        let topic_partition = group.topic_partition;
        report.batches += group.batches.len();
        report.bytes += group.batches_bytes();
        // A partition that was deleted meanwhile has nothing to tell.
        let Some(partition) = state.partitions.get_mut(&topic_partition) else { continue };
        for (pending, start) in group.batches.iter().zip(&group.starts) {
            partition.push_durable(TailBatch {
                base_offset: pending.follows,
                next_offset: pending.next_offset,
                run: group.bytes.clone(),
                start: u32::try_from(*start).expect("a round is bounded in bytes"),
                length: u32::try_from(pending.bytes.len()).expect("a round is bounded in bytes"),
                leader_epoch: pending.leader_epoch,
                append_time: pending.append_time,
                min_timestamp: pending.min_timestamp,
                max_timestamp: pending.max_timestamp,
                round: round.number,
            });
        }
        let next_offset = partition.durable_end;
        if let Some(direct) = &group.direct {
            for (header, last_append_time) in &direct.headers {
                partition.note_extent(header, *last_append_time);
            }
            partition.unapplied_bytes = 0;
            state.unapplied_bytes -= direct.applied_bytes;
            partition.applied_end = next_offset;
            partition.synced_end = next_offset;
            partition.active.synced_position = partition.active_segment().map_or(0, |segment| segment.end_position);
            state.ripe.remove(&topic_partition);
            report.direct_batches += group.batches.len();
        } else {
            state.unapplied_bytes += group.batches_bytes();
            if partition.unapplied_bytes >= options.extent_bytes {
                state.ripe.insert(topic_partition);
            }
            state.journal.current.ends.insert(topic_partition, next_offset);
        }
        partition.assert_invariants();
        report.durable.push((topic_partition, next_offset));
    }
    let partitions: Vec<_> = report.durable.iter().map(|(topic_partition, _)| *topic_partition).collect();
    state.tail_cache.push(round.number, round.cached_bytes, partitions);
    state.tail_cache.evict(options.tail_cache_bytes, &mut state.partitions);
    state.wake_room_waiters();
    report
}
