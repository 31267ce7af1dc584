//! What the workers of a run do to the stores: appends, reads, lookups, and every kind of change, each told to the oracle.
//!
//! What a change may do is noted before it begins and what it did once it has returned: a crash in between leaves either. Which failures
//! are none (a disk that the run itself has filled, an object store that does not answer) is decided here; `run.rs` decides when the
//! machine stops, and checks what is left.

use bytes::Bytes;
use tidegate_records::{
    batch::stamp,
    ids::{LeaderEpoch, Offset, ProducerId, Sequence, TopicPartition},
    time::Timestamp,
};
use tidegate_storage::{
    Append, AppendError, ChangeError, ReadError, ReadRequest, Store, Wanted,
    disk::{DiskErrorKind, Flush},
    objects::ObjectErrorKind,
};

use super::{Mix, World, split};
use crate::{
    batches::{BatchSpec, make},
    disk::SimulatedDisk,
    executor::yield_now,
    oracle::{Expected, Removed, Written},
};

/// Appends and reads.
pub(super) async fn use_log(world: &World) {
    let topic_partition = world.any_partition();
    let store = world.store(topic_partition);
    if world.offloads && world.one_in(12) {
        return offload_some(world, &store, topic_partition).await;
    }
    match world.below(20) {
        0..=11 => append_some(world, &store, topic_partition).await,
        12 => find_some(world, &store, topic_partition).await,
        _ => read_some(world, &store, topic_partition).await,
    }
}

#[allow(clippy::await_holding_refcell_ref, reason = "it is dropped before the await, which the lint does not see")]
async fn append_some(world: &World, store: &Store<SimulatedDisk>, topic_partition: TopicPartition) {
    let count = 1 + world.below(4);
    let written = if world.seldom_flushes {
        !world.one_in(30)
    } else {
        world.one_in(if world.mix == Mix::Steady { 60 } else { 4 })
    };
    let durability = if written { Flush::Written } else { Flush::Durable };
    for _ in 0..count {
        let value_bytes = match world.below(8) {
            1.. if world.mix != Mix::Small => 1000 + world.below(7000),
            0 => 4096 + world.below(12_000),
            1 | 2 => 1000 + world.below(4000),
            _ => world.below(300),
        };
        *world.clock.borrow_mut() += world.below(200) as i64;
        let now = Timestamp(*world.clock.borrow());
        let mut oracle = world.oracle.borrow_mut();
        let expected = oracle.partitions.get_mut(&topic_partition).expect("only known partitions are used");
        let base_offset = expected.end();
        expected.epoch += i32::from(world.one_in(12));
        let leader_epoch = LeaderEpoch(expected.epoch);
        let has_producer = !world.one_in(3);
        let timestamp = Timestamp(now.0 - world.below(1000) as i64);
        let spec = BatchSpec {
            offsets: 1 + world.below(5) as i32,
            timestamp,
            producer_id: if has_producer { ProducerId(9) } else { ProducerId::NONE },
            base_sequence: if has_producer { Sequence(base_offset.0 as i32) } else { Sequence::NONE },
            value_bytes: value_bytes as usize,
            fill: world.below(u64::MAX) | 1,
        };
        let (bytes, header) = make(&spec);
        let append = Append { bytes: bytes.clone(), header, base_offset, leader_epoch, append_time: now, durability };
        match store.append(topic_partition, append) {
            Ok(()) => {
                let mut stamped = bytes.to_vec();
                stamp(&mut stamped, base_offset, leader_epoch);
                *world.batches.borrow_mut() += 1;
                world.trace.note(format_args!("append {topic_partition} {base_offset} {}", stamped.len()));
                expected.batches.push(Written {
                    base_offset,
                    next_offset: base_offset.plus(i64::from(spec.offsets)),
                    bytes: stamped.into(),
                    leader_epoch,
                    append_time: now,
                    has_producer,
                    timestamp,
                    may_be_gone: false,
                    gone: false,
                });
            }
            Err(AppendError::Backpressure) => {
                drop(oracle);
                yield_now().await;
                return;
            }
            // It takes an apply step to notice that there is room again.
            Err(AppendError::NoSpace) if *world.was_full.borrow() => return,
            Err(error) => {
                drop(oracle);
                world.fail(format!("an append was refused: {error}"));
                return;
            }
        }
    }
}

async fn read_some(world: &World, store: &Store<SimulatedDisk>, topic_partition: TopicPartition) {
    let Some(offsets) = store.offsets(topic_partition) else { return };
    let (start, end) = (offsets.log_start_offset, offsets.log_end_offset);
    let from = Offset(start.0 + world.below((end.0 - start.0 + 1) as u64) as i64);
    let request =
        ReadRequest { from, bytes_max: world.below(40_000) as usize, up_to: end, at_least_one: world.one_in(2) };
    let (cuts, rewrites) = {
        let oracle = world.oracle.borrow();
        let expected = &oracle.partitions[&topic_partition];
        (expected.cuts, expected.rewrites)
    };
    let read = match store.read_tail(topic_partition, request) {
        Some(read) => Ok(read),
        None => store.read(topic_partition, request).await,
    };
    let read = match read {
        Ok(read) => read,
        // The start of the log, or its end, moved while the read was on its way.
        Err(ReadError::OutOfRange { .. }) => return,
        Err(ReadError::Object(error)) if error.kind == ObjectErrorKind::Unavailable => return,
        Err(error) => return world.fail(format!("reading {topic_partition} from {from} failed: {error}")),
    };
    let batches = match split(&read) {
        Ok(batches) => batches,
        Err(what) => return world.fail(what),
    };
    let oracle = world.oracle.borrow();
    let expected = &oracle.partitions[&topic_partition];
    if expected.cuts != cuts || expected.cut_to.is_some() {
        return;
    }
    let last = batches.last().map_or(from, |(_, next, _)| *next);
    let removed = if expected.rewrites == rewrites { Removed::IsGone } else { Removed::MayShow };
    if let Err(what) = expected.check_read(from.max(expected.log_start), last, &batches, removed)
        && expected.log_start <= from
    {
        drop(oracle);
        world.fail(format!("reading {topic_partition} from {from}: {what}"));
        return;
    }
    if request.at_least_one && batches.is_empty() && from < end && expected.log_start <= from {
        let left = expected
            .batches
            .iter()
            .any(|batch| batch.next_offset > from && batch.next_offset <= end && !batch.gone && !batch.may_be_gone);
        if left {
            drop(oracle);
            world.fail(format!("reading {topic_partition} from {from} gave nothing, the end is {end}"));
        }
    }
}

/// Looks a record up by its time.
async fn find_some(world: &World, store: &Store<SimulatedDisk>, topic_partition: TopicPartition) {
    let Some(up_to) = store.offsets(topic_partition).map(|offsets| offsets.log_end_offset) else { return };
    let wanted = match world.below(4) {
        0 => Wanted::MaxTimestamp,
        _ => Wanted::AtOrAfter(Timestamp(*world.clock.borrow() - world.below(40_000) as i64)),
    };
    let cuts = world.oracle.borrow().partitions[&topic_partition].cuts;
    let found = match store.find_by_time(topic_partition, wanted, up_to).await {
        Ok(found) => found,
        Err(ReadError::Object(error)) if error.kind == ObjectErrorKind::Unavailable => return,
        Err(error) => return world.fail(format!("looking for {wanted:?} in {topic_partition} failed: {error}")),
    };
    let checked = {
        let oracle = world.oracle.borrow();
        let expected = &oracle.partitions[&topic_partition];
        if expected.cuts != cuts || expected.cut_to.is_some() {
            return;
        }
        expected.check_found(wanted, up_to, found)
    };
    if let Err(what) = checked {
        world.fail(format!("{topic_partition}: {what}"));
    }
}

/// Rolls, deletes, rewrites, snapshots.
pub(super) async fn maintain(world: &World) {
    let topic_partition = world.any_partition();
    let store = world.store(topic_partition);
    let done = match world.below(8) {
        0 | 1 => store.roll(topic_partition).await,
        2 => move_start(world, &store, topic_partition).await,
        3 => retain(world, &store, topic_partition).await,
        4 | 5 => rewrite(world, &store, topic_partition).await,
        6 => snapshot(world, &store, topic_partition).await,
        _ if world.one_in(3) => cut(world, &store, topic_partition).await,
        _ => {
            // The disk runs full, and has room again.
            let room = if world.is_full() || world.one_in(2) {
                u64::MAX
            } else {
                world.disk.allocated_bytes() + world.below(200_000)
            };
            world.trace.note(format_args!("room {room}"));
            world.disk.set_bytes_max(room);
            world.is_full();
            Ok(())
        }
    };
    if let Err(error) = done {
        let full = matches!(&error, ChangeError::Disk(error) if error.kind == DiskErrorKind::Full);
        if full && world.is_full() {
            return;
        }
        let moved = matches!(&error, ChangeError::NotSealed { .. }) && world.offloads;
        let unavailable = matches!(&error, ChangeError::Object(error) if error.kind == ObjectErrorKind::Unavailable);
        if moved || unavailable {
            return;
        }
        world.fail(format!("a change of {topic_partition} failed: {error}"));
    }
}

async fn cut(world: &World, store: &Store<SimulatedDisk>, topic_partition: TopicPartition) -> Result<(), ChangeError> {
    // A cut that meets a full disk closes the store: only an opening can finish it.
    if world.is_full() {
        return Ok(());
    }
    let Some(offsets) = store.offsets(topic_partition) else { return Ok(()) };
    let back = (offsets.log_end_offset.0 - offsets.log_start_offset.0) / (1 + world.below(6) as i64);
    let to = Offset(offsets.log_end_offset.0 - world.below(back as u64 + 1) as i64);
    world.trace.note(format_args!("cut {topic_partition} {to}"));
    {
        let mut oracle = world.oracle.borrow_mut();
        let expected = oracle.partitions.get_mut(&topic_partition).expect("known");
        // A batch across the cut goes whole.
        let across = expected.batches.iter().find(|batch| batch.next_offset > to);
        // Only a new leader makes a follower cut its log.
        expected.epoch += 1;
        expected.cut_to = Some(across.map_or(to, |batch| batch.base_offset.min(to)));
        expected.cuts += 1;
    }
    let cut = store.truncate(topic_partition, to).await;
    if let Err(ChangeError::Object(_)) = &cut {
        // What waited for a round is dropped all the same.
        let end = store.offsets(topic_partition).map_or(to, |offsets| offsets.log_end_offset);
        let mut oracle = world.oracle.borrow_mut();
        let expected = oracle.partitions.get_mut(&topic_partition).expect("known");
        expected.batches.retain(|batch| batch.next_offset <= end);
        expected.cut_to = None;
        expected.cuts += 1;
    }
    cut?;
    let end = store.offsets(topic_partition).map_or(to, |offsets| offsets.log_end_offset);
    world.trace.note(format_args!("was cut {topic_partition} {end}"));
    let mut oracle = world.oracle.borrow_mut();
    let expected = oracle.partitions.get_mut(&topic_partition).expect("known");
    let must = expected.cut_to.take().unwrap_or(to);
    if end < must.min(expected.durable_end) || end > to.max(expected.durable_end) {
        drop(oracle);
        world.fail(format!("{topic_partition} was cut to {to}, its end is {end}"));
        return Ok(());
    }
    expected.cuts += 1;
    expected.batches.retain(|batch| batch.next_offset <= end);
    expected.durable_end = expected.durable_end.min(end);
    expected.written_end = end;
    expected.log_start = expected.log_start.min(end);
    expected.snapshots.retain(|offset, _| *offset <= end);
    expected.snapshot = expected.snapshot.filter(|offset| *offset <= end);
    Ok(())
}

async fn move_start(
    world: &World,
    store: &Store<SimulatedDisk>,
    topic_partition: TopicPartition,
) -> Result<(), ChangeError> {
    let Some(offsets) = store.offsets(topic_partition) else { return Ok(()) };
    let room = offsets.log_end_offset.0 - offsets.log_start_offset.0;
    let to = offsets.log_start_offset.plus(world.below(room as u64 / 2 + 1) as i64);
    world.trace.note(format_args!("move start {topic_partition} {to}"));
    let note = |set: &dyn Fn(&mut Expected)| {
        set(world.oracle.borrow_mut().partitions.get_mut(&topic_partition).expect("known"));
    };
    note(&|expected| expected.log_start_max = expected.log_start_max.max(to));
    store.set_log_start_offset(topic_partition, to).await?;
    note(&|expected| expected.log_start = expected.log_start.max(to));
    Ok(())
}

async fn retain(
    world: &World,
    store: &Store<SimulatedDisk>,
    topic_partition: TopicPartition,
) -> Result<(), ChangeError> {
    let segments = store.segments(topic_partition);
    let sealed: Vec<_> = segments.iter().filter(|segment| segment.sealed).collect();
    if sealed.is_empty() {
        return Ok(());
    }
    let to = sealed[world.below(sealed.len() as u64) as usize].next_offset;
    world.trace.note(format_args!("retain {topic_partition} {to}"));
    let note = |set: &dyn Fn(&mut Expected)| {
        set(world.oracle.borrow_mut().partitions.get_mut(&topic_partition).expect("known"));
    };
    note(&|expected| expected.log_start_max = expected.log_start_max.max(to));
    store.delete_segments_below(topic_partition, to).await?;
    note(&|expected| expected.log_start = expected.log_start.max(to));
    Ok(())
}

async fn rewrite(
    world: &World,
    store: &Store<SimulatedDisk>,
    topic_partition: TopicPartition,
) -> Result<(), ChangeError> {
    let segments = store.segments(topic_partition);
    let sealed: Vec<_> = segments.iter().filter(|segment| segment.sealed).collect();
    if sealed.is_empty() {
        return Ok(());
    }
    let first = world.below(sealed.len() as u64) as usize;
    let last = (first + world.below(3) as usize).min(sealed.len() - 1);
    let (from, to) = (sealed[first].base_offset, sealed[last].next_offset);
    world.trace.note(format_args!("rewrite {topic_partition} {from}..{to}"));
    let mut rewrite = store.begin_rewrite(topic_partition, from, to).await?;
    let mut next = from;
    let mut removed = Vec::new();
    loop {
        let stored = match store.read_stored(topic_partition, next, to, 10_000).await {
            Ok(stored) => stored,
            Err(ReadError::Object(error)) if error.kind == ObjectErrorKind::Unavailable => return Ok(()),
            Err(error) => {
                world.fail(format!("reading to rewrite {topic_partition} failed: {error}"));
                return Ok(());
            }
        };
        let Some(end) = stored.last().map(|batch| batch.header.next_offset()) else { break };
        next = end;
        for batch in stored {
            if world.one_in(3) {
                removed.push(batch.header.base_offset);
            } else {
                rewrite.push(batch.bytes, batch.append_time).await?;
            }
        }
    }
    if world.one_in(5) {
        // Given up half-way.
        return Ok(());
    }
    let mark = |set: &dyn Fn(&mut Written)| {
        let mut oracle = world.oracle.borrow_mut();
        let expected = oracle.partitions.get_mut(&topic_partition).expect("known");
        for batch in expected.batches.iter_mut().filter(|batch| removed.contains(&batch.base_offset)) {
            set(batch);
        }
    };
    mark(&|batch| batch.may_be_gone = true);
    rewrite.finish().await?;
    world.oracle.borrow_mut().partitions.get_mut(&topic_partition).expect("known").rewrites += 1;
    mark(&|batch| {
        batch.gone = true;
        batch.may_be_gone = false;
    });
    Ok(())
}

/// Sends a sealed segment to the object store, or looks for what is left over there.
async fn offload_some(world: &World, store: &Store<SimulatedDisk>, topic_partition: TopicPartition) {
    if world.one_in(4) {
        // What fails is tried again.
        let _ = store.sweep_objects().await;
        return;
    }
    let segments = store.segments(topic_partition);
    let local: Vec<_> = segments.iter().filter(|segment| segment.sealed && !segment.offloaded).collect();
    if local.is_empty() {
        return;
    }
    let segment = local[world.below(local.len() as u64) as usize];
    world.trace.note(format_args!("offload {topic_partition} {}", segment.base_offset));
    let done = match store.offload(topic_partition, segment.base_offset).await {
        Err(ChangeError::NotCovered { .. }) => snapshot(world, store, topic_partition).await,
        Ok(_) => {
            *world.offloaded.borrow_mut() += 1;
            Ok(())
        }
        Err(error) => Err(error),
    };
    match done {
        Ok(()) | Err(ChangeError::NotSealed { .. }) => {}
        Err(ChangeError::Object(error)) if error.kind == ObjectErrorKind::Unavailable => {}
        Err(ChangeError::Disk(error)) if error.kind == DiskErrorKind::Full && world.is_full() => {}
        Err(error) => world.fail(format!("offloading of {topic_partition} failed: {error}")),
    }
}

async fn snapshot(
    world: &World,
    store: &Store<SimulatedDisk>,
    topic_partition: TopicPartition,
) -> Result<(), ChangeError> {
    let Some(offsets) = store.offsets(topic_partition) else { return Ok(()) };
    let offset = offsets.log_end_offset;
    let content = Bytes::from(world.below(u64::MAX).to_string());
    world.trace.note(format_args!("snapshot {topic_partition} {offset}"));
    let note = |set: &dyn Fn(&mut Expected)| {
        set(world.oracle.borrow_mut().partitions.get_mut(&topic_partition).expect("known"));
    };
    note(&|expected| {
        expected.snapshots.entry(offset).or_default().push(content.clone());
        expected.snapshots_begun += 1;
    });
    let saved = store.save_snapshot(topic_partition, offset, &content).await;
    note(&|expected| {
        expected.snapshots_begun -= 1;
        if saved.is_err() {
            return;
        }
        // Another one that is under way may be of the same offset, and take its place at any moment.
        if expected.snapshots_begun == 0 {
            expected.snapshots.insert(offset, vec![content.clone()]);
        }
        expected.snapshot = expected.snapshot.max(Some(offset));
    });
    saved
}
