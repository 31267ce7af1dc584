//! Commit rounds: all that waits goes out as parallel writes and one flush.
//!
//! One round is in flight at a time; what arrives meanwhile is the next. The caller loops over [`Store::commit_round`] while
//! [`Store::has_pending`], so rounds grow under load and no timer is needed.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_records::{
    batch,
    ids::{Offset, TopicPartition},
};

use crate::{
    disk::{AlignedBuffer, Disk, Flush, Write},
    error::Fatal,
    gate::Pass,
    journal::format::{Entry, FILE_HEADER_BYTES, FileHeader, ROUND_HEADER_BYTES, RoundHeader, round_bytes, seal_round},
    partition::TailBatch,
    store::{Pending, State, Store, StoreOptions},
};

/// What a round made durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoundReport {
    /// Of each partition in the round, the offset after its last batch.
    pub durable: Vec<(TopicPartition, Offset)>,
    /// Bytes of batches.
    pub bytes: usize,
    pub batches: usize,
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
    batches: Vec<Pending>,
    /// Of each of `batches`, where its bytes are in `bytes`.
    starts: Vec<usize>,
    bytes: Bytes,
    written_bytes: usize,
}

/// Splits `buffer` into parallel writes of at most `write_bytes_max` each.
pub(crate) fn split_writes<F: Clone>(
    file: &F,
    position: u64,
    buffer: &Arc<AlignedBuffer>,
    write_bytes_max: usize,
) -> impl Iterator<Item = Write<F>> {
    let length = buffer.len();
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

fn plan_round<F: Clone>(
    state: &mut State<F>,
    options: &StoreOptions,
    session: u64,
    control: Option<Entry>,
) -> Option<Round<F>> {
    if state.pending.is_empty() && control.is_none() {
        return None;
    }
    let mut sync_first = None;
    let count_now = |state: &State<F>| match control {
        // A control entry has a round of its own.
        Some(_) => usize::from(round_bytes(1, 0) as u64 <= state.journal.current_room()),
        None => count_that_fits(state, options, state.journal.current_room()),
    };
    let mut count = count_now(state);
    if count == 0 {
        let next = state.journal.ready.pop_front()?;
        let journal = &mut state.journal;
        if journal.flushed_through + 1 < journal.next_round {
            sync_first = Some(journal.current.file.clone());
            journal.flushed_through = journal.next_round - 1;
        }
        journal.old.push_back(std::mem::replace(&mut journal.current, next));
        journal.position = 0;
        count = count_now(state);
        if count == 0 {
            return None;
        }
    }
    if control.is_some() {
        count = 0;
    }
    let mut batches: Vec<Pending> = state.pending.drain(..count).collect();
    let cost: usize = batches.iter().map(Pending::cost).sum();
    state.pending_bytes -= cost;
    state.pending_batch_bytes_max = state.pending.iter().map(|pending| pending.bytes.len()).max().unwrap_or(0);
    // Batches of a partition stand together, so that a reader gets them in one piece. The sort is stable.
    batches.sort_by_key(|pending| pending.topic_partition);

    let journal = &mut state.journal;
    let starts_file = journal.position == 0;
    let position = if starts_file { FILE_HEADER_BYTES } else { journal.position };
    let body_bytes: usize = batches.iter().map(|pending| pending.bytes.len()).sum();
    let header = RoundHeader {
        sequence: journal.current.sequence,
        session,
        round: journal.next_round,
        flushed_through: journal.flushed_through,
        position,
        entries_count: u32::try_from(batches.len() + usize::from(control.is_some()))
            .expect("a round is bounded in bytes"),
        body_bytes: u32::try_from(body_bytes).expect("a round is bounded in bytes"),
    };
    let mut directory = Vec::with_capacity(header.directory_bytes());
    directory.resize(ROUND_HEADER_BYTES, 0);
    if let Some(control) = &control {
        control.encode(&mut directory);
    }
    for pending in &batches {
        Entry::Batch {
            topic_partition: pending.topic_partition,
            base_offset: pending.follows,
            next_offset: pending.next_offset,
            leader_epoch: pending.leader_epoch,
            length: u32::try_from(pending.bytes.len()).expect("bounded by a journal file"),
            crc: pending.crc,
            append_time: pending.append_time,
        }
        .encode(&mut directory);
    }
    let mut buffer = AlignedBuffer::with_capacity(header.total_bytes());
    buffer.extend_from_slice(&directory);
    let mut starts = Vec::with_capacity(batches.len());
    for pending in &batches {
        let start = buffer.len();
        starts.push(start);
        buffer.extend_from_slice(&pending.bytes);
        batch::stamp(&mut buffer.as_mut_slice()[start..], pending.base_offset, pending.leader_epoch);
    }
    buffer.pad_to_block();
    seal_round(&header, buffer.as_mut_slice());

    let buffer = buffer.share();
    let mut writes: Vec<Write<F>> = Vec::new();
    if starts_file {
        let file_header = FileHeader {
            shard: options.shard.0,
            sequence: journal.current.sequence,
            session,
            first_round: journal.next_round,
            flushed_through: journal.flushed_through,
        };
        let block = file_header.encode().share();
        writes.extend(split_writes(&journal.current.file, 0, &block, options.write_bytes_max));
    }
    writes.extend(split_writes(&journal.current.file, position, &buffer, options.write_bytes_max));
    journal.position = position + buffer.len() as u64;
    journal.next_round += 1;
    let durable = control.is_some() || batches.iter().any(|pending| pending.durability == Flush::Durable);
    Some(Round {
        sync_first,
        written_bytes: writes.iter().map(|write| write.range.len()).sum(),
        writes,
        flush: if durable { Flush::Durable } else { Flush::Written },
        number: header.round,
        batches,
        starts,
        bytes: buffer.bytes(),
    })
}

fn finish_round<F>(state: &mut State<F>, round: Round<F>, options: &StoreOptions) -> RoundReport {
    let mut report = RoundReport {
        written_bytes: round.written_bytes,
        flushes: usize::from(round.flush == Flush::Durable),
        ..RoundReport::default()
    };
    if round.flush == Flush::Durable {
        state.journal.flushed_through = round.number;
    }
    let mut at = 0;
    while let Some(first) = round.batches.get(at) {
        let topic_partition = first.topic_partition;
        let count = round.batches[at..].iter().take_while(|each| each.topic_partition == topic_partition).count();
        let group = &round.batches[at..at + count];
        let starts = &round.starts[at..at + count];
        at += count;
        let run_start = starts[0];
        let run_end = starts[count - 1] + group[count - 1].bytes.len();
        let next_offset = group[count - 1].next_offset;
        report.batches += count;
        report.bytes += run_end - run_start;
        // A partition that was deleted meanwhile has nothing to tell.
        let Some(partition) = state.partitions.get_mut(&topic_partition) else { continue };
        let run = round.bytes.slice(run_start..run_end);
        for (pending, start) in group.iter().zip(starts) {
            partition.push_durable(TailBatch {
                base_offset: pending.follows,
                next_offset: pending.next_offset,
                run: run.clone(),
                start: u32::try_from(start - run_start).expect("a round is bounded in bytes"),
                length: u32::try_from(pending.bytes.len()).expect("a round is bounded in bytes"),
                leader_epoch: pending.leader_epoch,
                append_time: pending.append_time,
                min_timestamp: pending.min_timestamp,
                max_timestamp: pending.max_timestamp,
                round: round.number,
            });
            state.unapplied_bytes += pending.bytes.len();
        }
        partition.assert_invariants();
        if partition.unapplied_bytes >= options.extent_bytes {
            state.ripe.insert(topic_partition);
        }
        state.journal.current.ends.insert(topic_partition, next_offset);
        report.durable.push((topic_partition, next_offset));
    }
    let partitions: Vec<_> = report.durable.iter().map(|(topic_partition, _)| *topic_partition).collect();
    state.tail_cache.push(round.number, round.bytes.len(), partitions);
    state.tail_cache.evict(options.tail_cache_bytes, &mut state.partitions);
    state.wake_room_waiters();
    report
}
