//! From the journal into the segments, in small steps, and what follows: rolling, syncing, reclaiming journal files.
//!
//! A batch is applied when its partition has an extent's worth, when memory is needed, or when the oldest journal file is. So a busy
//! partition gets large extents, and a quiet one is written rarely. No segment is synced before its journal file must go: one flush
//! for each touched segment and journal file.
//!
//! What is applied was flushed in the journal. Otherwise a loss of power may take a batch from the journal and leave a torn extent of
//! it, which nobody could tell from damage.

use std::{collections::BTreeMap, rc::Rc};

use tidegate_records::{
    ids::{Offset, TopicPartition},
    time::Timestamp,
};

use crate::{
    cache::FileKey,
    commit::{split_front, split_writes},
    disk::{Access, AlignedBuffer, BLOCK_BYTES, Disk, DiskError, DiskErrorKind, Flush, Write},
    error::{Damage, Fatal},
    gate::{PartitionGate, PartitionPass},
    journal::{
        checkpoint::{Checkpoint, Synced, checkpoint_path},
        files::{JournalFile, Unfinished, file_path, unfinished_path},
    },
    parallel,
    partition::{ActiveIndex, Partition, TailBatch},
    segment::{
        format::{self, ExtentPlace, FileHeader},
        index::IndexFile,
        manifest::{self, Manifest, Segment, SegmentState},
    },
    store::{State, Store, StoreOptions},
};

/// Pre-written files that a journal keeps ahead of the one it writes.
const READY_FILES: usize = 1;
/// Zeros written at a time.
pub(crate) const ZEROS_BYTES: u64 = 1 << 20;

/// What to do next for a partition.
enum Plan {
    Nothing,
    /// There is no active segment, or it is full. What comes into the new one first is of this round.
    NewSegment {
        round: u64,
    },
    Write(Extent),
}

/// The next extent of a partition.
struct Extent {
    segment: Segment,
    batches: Vec<TailBatch>,
}

/// The journal files that are about to go or to get another number: the checkpoint does not name them any more.
#[derive(Clone, Copy)]
enum Leaving {
    None,
    File(u64),
    All,
}

/// What an apply step found to do.
enum Task {
    Prepare,
    Reclaim,
    /// A file that was held is needed no more.
    Release,
    Apply(TopicPartition),
    Prewrite(TopicPartition),
}

impl<D: Disk> Store<D> {
    /// Does some background work: about `budget` bytes written. `true` if it did some, so that there may be more.
    ///
    /// To be called again and again while it says `true`, and now and then otherwise. It never runs twice at a time. A full disk is
    /// no error: appends are refused as the journal fills, and it is tried again. Any other failed write closes the store for writes.
    pub async fn apply_step(&self, budget: usize) -> bool {
        let Some(_pass) = self.inner.maintenance.try_enter() else { return false };
        let mut spent = 0;
        let mut worked = false;
        let mut no_room_for_journal = false;
        while spent < budget.max(1) {
            let task = {
                let state = self.inner.state.borrow();
                if state.failed.is_some() {
                    return false;
                }
                next_task(&state, &self.inner.options, no_room_for_journal)
            };
            let Some(task) = task else { break };
            let prepares = matches!(task, Task::Prepare);
            let done = match task {
                Task::Prepare => self.prepare_journal_file().await,
                Task::Reclaim => self.reclaim_step().await,
                Task::Release => self.release_held().await,
                Task::Apply(topic_partition) => self.apply_when_free(topic_partition).await,
                Task::Prewrite(topic_partition) => self.prewrite_step(topic_partition).await,
            };
            match done {
                Ok(0) => break,
                Ok(bytes) => {
                    spent += bytes;
                    worked = true;
                    let state = &mut *self.inner.state.borrow_mut();
                    state.full = false;
                    state.tail_cache.evict(self.inner.options.tail_cache_bytes, &mut state.partitions);
                    state.wake_room_waiters();
                }
                // The segments may still have room: what is applied to them makes room in the journal.
                Err(error) if prepares && error.kind == DiskErrorKind::Full => {
                    self.note_failure(&error);
                    no_room_for_journal = true;
                }
                Err(error) => {
                    self.note_failure(&error);
                    return false;
                }
            }
            self.inner.disk.yield_now().await;
        }
        worked
    }

    /// Writes everything into the segments, syncs them and leaves an empty journal. The store takes no writes afterwards.
    ///
    /// # Errors
    /// [`Fatal`]: some write failed, so the journal stays as it is; nothing is lost, the next opening replays it.
    pub async fn close(&self) -> Result<(), Fatal> {
        while self.has_pending() {
            self.commit_round().await?;
        }
        let _rounds = self.inner.rounds.enter().await;
        let _maintenance = self.inner.maintenance.enter().await;
        let done = self.close_inside().await;
        let state = &mut *self.inner.state.borrow_mut();
        if let Err(error) = &done {
            state.failed.get_or_insert_with(|| error.clone());
        }
        state.failed.get_or_insert_with(|| DiskError {
            operation: "write",
            path: crate::journal::files::shard_directory(self.inner.options.shard.0),
            kind: DiskErrorKind::Other,
            message: "the store is closed".to_owned(),
        });
        state.wake_room_waiters();
        done.map_err(Fatal)
    }

    async fn close_inside(&self) -> Result<(), DiskError> {
        if let Some(error) = self.inner.state.borrow().failed.clone() {
            return Err(error);
        }
        let all: Vec<TopicPartition> = self.inner.state.borrow().partitions.keys().copied().collect();
        // Each costs several syncs: one after another, hundreds of partitions with a record or two would take many seconds.
        parallel::for_each(all, async |topic_partition| {
            let Some(gate) = self.gate(topic_partition) else { return Ok(()) };
            let pass = gate.enter().await;
            self.apply_all(topic_partition, &pass).await?;
            self.sync_partition(topic_partition, &pass).await?;
            self.save_index(topic_partition, 1).await
        })
        .await?;
        let offline = self.inner.state.borrow().partitions.values().any(|partition| partition.damage.is_some());
        let (shard, session) = (self.inner.options.shard.0, self.inner.session);
        crate::recovery::write_session(&self.inner.disk, shard, session, session).await?;
        if offline {
            // What an offline partition has in the journal is not applied: the files stay for when it is mended.
            return Ok(());
        }
        // Nothing in the journal is needed any more, and the segments answer for themselves from here on.
        self.save_checkpoint(Leaving::All).await?;
        // Oldest first, so that what is left is always the end of the journal. A file that gets a new number is empty.
        loop {
            let file = {
                let journal = &mut self.inner.state.borrow_mut().journal;
                journal.held.pop().or_else(|| journal.old.pop_front())
            };
            let Some(file) = file else { break };
            self.inner.disk.remove(&file.path(shard)).await?;
        }
        let (from, to) = {
            let mut state = self.inner.state.borrow_mut();
            let from = state.journal.current.sequence;
            let to = state.journal.next_sequence;
            state.journal.next_sequence += 1;
            state.journal.current.ends.clear();
            (from, to)
        };
        self.inner.disk.rename(&file_path(shard, from), &file_path(shard, to)).await
    }

    /// Makes a failed write known. Only a full disk heals.
    pub(crate) fn note_failure(&self, error: &DiskError) {
        let mut state = self.inner.state.borrow_mut();
        if error.kind == DiskErrorKind::Full {
            state.full = true;
        } else {
            state.failed.get_or_insert_with(|| error.clone());
            state.wake_room_waiters();
        }
    }

    pub(crate) fn gate(&self, topic_partition: TopicPartition) -> Option<PartitionGate> {
        self.inner.state.borrow().partitions.get(&topic_partition).map(|partition| partition.gate.clone())
    }

    /// Syncs `file`. A failure closes the store for writes at once, whatever its kind.
    pub(crate) async fn sync(&self, file: &D::File) -> Result<(), DiskError> {
        let done = self.inner.disk.sync(file).await;
        if let Err(error) = &done {
            let mut state = self.inner.state.borrow_mut();
            state.failed.get_or_insert_with(|| error.clone());
            state.wake_room_waiters();
        }
        done
    }

    /// The open file of a segment.
    pub(crate) async fn segment_file(
        &self,
        topic_partition: TopicPartition,
        segment: &Segment,
    ) -> Result<D::File, DiskError> {
        let key: FileKey = (topic_partition, segment.incarnation);
        if let Some(file) = self.inner.state.borrow_mut().open_files.find(key) {
            return Ok(file);
        }
        let file = self.inner.disk.open(&manifest::segment_path(topic_partition, segment), Access::Direct).await?;
        self.inner.state.borrow_mut().open_files.put(key, file.clone());
        Ok(file)
    }

    /// Adds zeros to the journal file that is being made, and makes it ready when it is full.
    async fn prepare_journal_file(&self) -> Result<usize, DiskError> {
        let options = &self.inner.options;
        let path = unfinished_path(options.shard.0);
        let unfinished = self.inner.state.borrow_mut().journal.unfinished.take();
        let mut unfinished = match unfinished {
            Some(unfinished) => unfinished,
            None => {
                self.inner.disk.remove(&path).await?;
                let bytes = self.next_journal_file_bytes(&path).await?;
                let file = self.inner.disk.create(&path, Access::Direct).await?;
                self.inner.disk.set_length(&file, bytes).await?;
                Unfinished { file, bytes, written: 0 }
            }
        };
        let length = ZEROS_BYTES.min(unfinished.bytes - unfinished.written);
        if let Err(error) = self.write_zeros(&unfinished.file, unfinished.written, length).await {
            // The room that it took so far may be what others need.
            drop(unfinished);
            self.inner.disk.remove(&path).await?;
            return Err(error);
        }
        unfinished.written += length;
        if unfinished.written < unfinished.bytes {
            self.inner.state.borrow_mut().journal.unfinished = Some(unfinished);
        } else {
            self.sync(&unfinished.file).await?;
            self.name_journal_file(&path, unfinished.file, unfinished.bytes).await?;
        }
        Ok(length as usize)
    }

    /// Writes up to [`ZEROS_BYTES`] of zeros.
    async fn write_zeros(&self, file: &D::File, position: u64, length: u64) -> Result<(), DiskError> {
        let zeros = &self.inner.zeros;
        let length = usize::try_from(length).expect("a step is small");
        // One write: nobody waits for it, and it takes turns with those that somebody waits for.
        let writes = split_front(file, position, zeros, length, zeros.len()).collect();
        self.inner.disk.commit(writes, Flush::Written).await
    }

    /// How large the next journal file is: smaller where the disk is nearly full, so that the journal leaves room for the segments and
    /// for other shards, and nothing is written that must be removed again.
    async fn next_journal_file_bytes(&self, path: &std::path::Path) -> Result<u64, DiskError> {
        let options = &self.inner.options;
        let least = options.journal_first_file_bytes.min(options.journal_file_bytes);
        let free = self.inner.disk.bytes_free().await?;
        let bytes = if free / 4 >= options.journal_file_bytes { options.journal_file_bytes } else { least };
        self.inner.state.borrow_mut().journal.cramped = bytes < options.journal_file_bytes;
        if free < 2 * least {
            let message = format!("{free} bytes are free, {} are needed for the journal", 2 * least);
            return Err(DiskError {
                operation: "create",
                path: path.to_path_buf(),
                kind: DiskErrorKind::Full,
                message,
            });
        }
        Ok(bytes)
    }

    /// Gives a pre-written file the next number and puts it in line.
    async fn name_journal_file(&self, from: &std::path::Path, file: D::File, bytes: u64) -> Result<(), DiskError> {
        let sequence = {
            let journal = &mut self.inner.state.borrow_mut().journal;
            let sequence = journal.next_sequence;
            journal.next_sequence += 1;
            sequence
        };
        self.inner.disk.rename(from, &file_path(self.inner.options.shard.0, sequence)).await?;
        self.inner.state.borrow_mut().journal.ready.push_back(JournalFile::new(sequence, file, bytes));
        self.save_files(None).await
    }

    /// One step towards freeing the oldest journal file.
    async fn reclaim_step(&self) -> Result<usize, DiskError> {
        let next = {
            let state = &mut *self.inner.state.borrow_mut();
            let partitions = &state.partitions;
            let Some(oldest) = state.journal.old.front_mut() else { return Ok(0) };
            oldest.ends.retain(|topic_partition, end| {
                partitions.get(topic_partition).is_some_and(|partition| partition.synced_end < *end)
            });
            let found = oldest.ends.iter().find(|(topic_partition, _)| {
                partitions.get(topic_partition).is_some_and(|partition| partition.damage.is_none())
            });
            let offline = found.is_none() && !oldest.ends.is_empty();
            (found.map(|(topic_partition, end)| (*topic_partition, *end)), offline)
        };
        let (topic_partition, end) = match next {
            (Some(next), _) => next,
            // Nobody can apply what is left in it: it waits beside the journal, which goes on without it.
            (None, true) => return self.hold_oldest().await,
            (None, false) => return self.recycle_oldest().await,
        };
        let Some(gate) = self.gate(topic_partition) else { return Ok(1) };
        let pass = gate.enter().await;
        let applied = self.apply_some(topic_partition, &pass).await?;
        let ready = {
            let state = self.inner.state.borrow();
            state.partitions.get(&topic_partition).is_some_and(|partition| partition.applied_end >= end)
        };
        if ready {
            self.sync_partition(topic_partition, &pass).await?;
        }
        Ok(applied.max(1))
    }

    /// Takes the oldest journal file, whose batches are all in segments, into use again.
    async fn recycle_oldest(&self) -> Result<usize, DiskError> {
        let options = &self.inner.options;
        let (path, sequence, keep) = {
            let journal = &self.inner.state.borrow().journal;
            let Some(oldest) = journal.old.front() else { return Ok(0) };
            let keep = !oldest.held && oldest.bytes >= options.journal_file_bytes && journal.ready.len() < 2;
            (oldest.path(options.shard.0), oldest.sequence, keep)
        };
        self.save_checkpoint(Leaving::File(sequence)).await?;
        let Some(oldest) = self.inner.state.borrow_mut().journal.old.pop_front() else { return Ok(0) };
        if keep {
            self.name_journal_file(&path, oldest.file, oldest.bytes).await?;
        } else {
            self.inner.disk.remove(&path).await?;
        }
        Ok(BLOCK_BYTES)
    }

    /// Puts the oldest journal file aside, which only partitions need that are offline.
    async fn hold_oldest(&self) -> Result<usize, DiskError> {
        let shard = self.inner.options.shard.0;
        let paths = {
            let journal = &mut self.inner.state.borrow_mut().journal;
            let Some(mut oldest) = journal.old.pop_front() else { return Ok(0) };
            let from = oldest.path(shard);
            oldest.held = true;
            let to = oldest.path(shard);
            journal.held.push(oldest);
            (from, to)
        };
        // For whom it is must be known before it has its name.
        let mut done = self.save_checkpoint(Leaving::None).await;
        if done.is_ok() && paths.0 != paths.1 {
            done = self.inner.disk.rename(&paths.0, &paths.1).await;
        }
        if done.is_err()
            && let Some(mut file) = self.inner.state.borrow_mut().journal.held.pop()
        {
            file.held = paths.0 == paths.1;
            self.inner.state.borrow_mut().journal.old.push_front(file);
        }
        done.map(|()| BLOCK_BYTES)
    }

    /// Removes a file that was held for partitions that were deleted meanwhile.
    async fn release_held(&self) -> Result<usize, DiskError> {
        let found = {
            let state = self.inner.state.borrow();
            position_of_released(&state).map(|at| state.journal.held[at].sequence)
        };
        let Some(sequence) = found else { return Ok(0) };
        self.save_files(Some(sequence)).await?;
        let released = {
            let held = &mut self.inner.state.borrow_mut().journal.held;
            held.iter().position(|file| file.sequence == sequence).map(|at| held.swap_remove(at))
        };
        let Some(file) = released else { return Ok(0) };
        self.inner.disk.remove(&file.path(self.inner.options.shard.0)).await?;
        Ok(BLOCK_BYTES)
    }

    /// Saves what must be known when the journal lets go of a file.
    async fn save_checkpoint(&self, leaving: Leaving) -> Result<(), DiskError> {
        let mut checkpoint = checkpoint_now(&self.inner.state.borrow(), self.inner.session);
        match leaving {
            Leaving::None => {}
            Leaving::File(sequence) => drop(checkpoint.files.remove(&sequence)),
            Leaving::All => checkpoint.files.clear(),
        }
        self.replace_checkpoint(checkpoint).await
    }

    /// Saves which files the journal has, but for the one that is `leaving`. What else the checkpoint says stays as it was.
    pub(crate) async fn save_files(&self, leaving: Option<u64>) -> Result<(), DiskError> {
        let checkpoint = {
            let journal = &self.inner.state.borrow().journal;
            let mut files = journal.files();
            files.retain(|sequence, _| Some(*sequence) != leaving);
            Checkpoint { files, ..journal.checkpoint.clone() }
        };
        self.replace_checkpoint(checkpoint).await
    }

    async fn replace_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), DiskError> {
        let shard = self.inner.options.shard.0;
        self.inner.disk.replace(&checkpoint_path(shard), &checkpoint.encode()).await?;
        self.inner.state.borrow_mut().journal.checkpoint = checkpoint;
        Ok(())
    }

    async fn apply_when_free(&self, topic_partition: TopicPartition) -> Result<usize, DiskError> {
        let Some(gate) = self.gate(topic_partition) else { return Ok(1) };
        let pass = gate.enter().await;
        Ok(self.apply_some(topic_partition, &pass).await?.max(1))
    }

    /// Applies all that a partition has in the journal.
    pub(crate) async fn apply_all(
        &self,
        topic_partition: TopicPartition,
        pass: &PartitionPass,
    ) -> Result<(), DiskError> {
        while self.apply_some(topic_partition, pass).await? > 0 {}
        Ok(())
    }

    /// Applies at most an extent; bytes applied. The partition's gate must be held.
    async fn apply_some(&self, topic_partition: TopicPartition, pass: &PartitionPass) -> Result<usize, DiskError> {
        loop {
            let plan = {
                let state = &mut *self.inner.state.borrow_mut();
                match state.partitions.get(&topic_partition) {
                    Some(partition) => plan_extent(partition, &self.inner.options),
                    None => Plan::Nothing,
                }
            };
            match plan {
                Plan::Nothing => {
                    self.inner.state.borrow_mut().ripe.remove(&topic_partition);
                    return Ok(0);
                }
                Plan::NewSegment { round } => {
                    self.flush_rounds(round).await?;
                    self.roll_inside(topic_partition, AfterRoll::NewSegment, pass).await?;
                }
                Plan::Write(extent) => {
                    self.flush_rounds(extent.batches.last().map_or(0, |batch| batch.round)).await?;
                    return self.write_extent(topic_partition, extent).await;
                }
            }
        }
    }

    /// Makes rounds durable that were only written (`durability = "os"`), as far as `round`, which was written.
    ///
    /// One flush is for all that was written: where much is applied there is seldom something left to flush. It waits for no round,
    /// as whoever cuts a log applies between two rounds.
    pub(crate) async fn flush_rounds(&self, round: u64) -> Result<(), DiskError> {
        let (files, through) = {
            let journal = &self.inner.state.borrow().journal;
            assert!(round <= journal.written_through, "only what was written can be flushed");
            if round <= journal.flushed_through {
                return Ok(());
            }
            let files: Vec<D::File> = journal.unsynced.iter().chain([&journal.current.file]).cloned().collect();
            (files, journal.written_through)
        };
        for file in files {
            self.sync(&file).await?;
        }
        let journal = &mut self.inner.state.borrow_mut().journal;
        journal.flushed_through = journal.flushed_through.max(through);
        Ok(())
    }

    async fn write_extent(&self, topic_partition: TopicPartition, extent: Extent) -> Result<usize, DiskError> {
        let options = &self.inner.options;
        let segment = extent.segment;
        let file = match self.segment_file(topic_partition, &segment).await {
            Ok(file) => file,
            Err(error) if error.kind == DiskErrorKind::NotFound => {
                // Somebody removed it under us. That is damage of one partition, not of the disk.
                let mut state = self.inner.state.borrow_mut();
                if let Some(partition) = state.partitions.get_mut(&topic_partition) {
                    let file = manifest::segment_path(topic_partition, &segment);
                    partition.damage = Some(Damage::SegmentMissing { file });
                }
                state.ripe.remove(&topic_partition);
                return Ok(0);
            }
            Err(error) => return Err(error),
        };
        let place = ExtentPlace {
            topic_partition,
            incarnation: segment.incarnation,
            session: self.inner.session,
            shard: options.shard.0,
            round: 0,
        };
        let batches: Vec<_> = extent.batches.iter().map(TailBatch::to_extent_batch).collect();
        let bytes: usize = batches.iter().map(|batch| batch.bytes.len()).sum();
        let mut buffer = AlignedBuffer::with_capacity(format::extent_bytes(batches.len(), bytes));
        let base_offset = segment.next_offset;
        let header = format::encode_extent(place, segment.end_position, base_offset, &batches, &mut buffer);
        let buffer = buffer.share();
        let writes: Vec<Write<D::File>> =
            split_writes(&file, segment.end_position, &buffer, options.write_bytes_max).collect();
        self.inner.disk.commit(writes, Flush::Written).await?;

        let state = &mut *self.inner.state.borrow_mut();
        // The gate is held, so the partition is still there and its segment is the same.
        let Some(partition) = state.partitions.get_mut(&topic_partition) else { return Ok(bytes) };
        let last_append_time = extent.batches.last().map_or(header.append_time, |batch| batch.append_time);
        partition.note_extent(&header, last_append_time);
        partition.applied_end = header.next_offset;
        partition.unapplied_bytes -= bytes;
        state.unapplied_bytes -= bytes;
        partition.assert_invariants();
        if partition.unapplied_bytes < options.extent_bytes {
            state.ripe.remove(&topic_partition);
        }
        Ok(bytes)
    }

    /// Makes all that is applied durable in the segment. The partition's gate must be held.
    pub(crate) async fn sync_partition(
        &self,
        topic_partition: TopicPartition,
        _pass: &PartitionPass,
    ) -> Result<(), DiskError> {
        let dirty = {
            let state = self.inner.state.borrow();
            let Some(partition) = state.partitions.get(&topic_partition) else { return Ok(()) };
            (partition.synced_end < partition.applied_end)
                .then(|| (partition.applied_end, partition.active_segment().copied()))
        };
        let Some((applied_end, segment)) = dirty else { return Ok(()) };
        if let Some(segment) = segment {
            let file = self.segment_file(topic_partition, &segment).await?;
            self.sync(&file).await?;
        }
        self.note_synced(topic_partition, applied_end, segment);
        self.save_index(topic_partition, self.inner.options.index_every_bytes).await
    }

    fn note_synced(&self, topic_partition: TopicPartition, end: Offset, segment: Option<Segment>) {
        if let Some(partition) = self.inner.state.borrow_mut().partitions.get_mut(&topic_partition) {
            partition.synced_end = partition.synced_end.max(end);
            if let Some(segment) = segment
                && partition.active_segment().is_some_and(|active| active.incarnation == segment.incarnation)
            {
                partition.active.synced_position = partition.active.synced_position.max(segment.end_position);
            }
            partition.assert_invariants();
        }
    }

    /// Stores the index of the active segment, if the segment grew by `grown_bytes` since it was stored. What it covers is synced.
    async fn save_index(&self, topic_partition: TopicPartition, grown_bytes: u64) -> Result<(), DiskError> {
        let due = {
            let state = self.inner.state.borrow();
            state.partitions.get(&topic_partition).and_then(|partition| {
                let segment = *partition.active_segment()?;
                let grown = segment.end_position - partition.active.saved_position.max(format::FILE_HEADER_BYTES);
                let synced = partition.synced_end == partition.applied_end;
                (synced && grown >= grown_bytes).then(|| index_file(topic_partition, segment, partition))
            })
        };
        let Some(file) = due else { return Ok(()) };
        self.inner.disk.replace(&manifest::index_path(topic_partition, &file.segment), &file.encode()).await?;
        let mut state = self.inner.state.borrow_mut();
        if let Some(partition) = state.partitions.get_mut(&topic_partition) {
            partition.active.saved_position = file.segment.end_position;
        }
        Ok(())
    }

    /// Seals the active segment if it has batches, and starts a new one if asked. The partition's gate must be held.
    pub(crate) async fn roll_inside(
        &self,
        topic_partition: TopicPartition,
        after: AfterRoll,
        _pass: &PartitionPass,
    ) -> Result<(), DiskError> {
        let disk = &self.inner.disk;
        let (mut manifest, sealing, on_disk, applied_end) = {
            let state = self.inner.state.borrow();
            let Some(partition) = state.partitions.get(&topic_partition) else { return Ok(()) };
            let sealing = partition.active_segment().map(|segment| index_file(topic_partition, *segment, partition));
            (current_manifest(partition), sealing, partition.on_disk, partition.applied_end)
        };
        match &sealing {
            Some(index) if index.segment.batches_bytes == 0 => return Ok(()),
            None if after == AfterRoll::Nothing => return Ok(()),
            _ => {}
        }
        let mut sealed = None;
        if let Some(mut index) = sealing {
            let file = self.segment_file(topic_partition, &index.segment).await?;
            let length = disk.length(&file).await?;
            if length > index.segment.end_position {
                // Zeros that were written for batches that went to the next segment. Should the roll go no further, the segment
                // stays active, and nothing may go where they were.
                if let Some(partition) = self.inner.state.borrow_mut().partitions.get_mut(&topic_partition) {
                    partition.active.prewritten = 0;
                }
                disk.set_length(&file, index.segment.end_position).await?;
            }
            self.sync(&file).await?;
            index.segment.state = SegmentState::Sealed;
            disk.replace(&manifest::index_path(topic_partition, &index.segment), &index.encode()).await?;
            *manifest.segments.last_mut().expect("the segment is the last one") = index.segment;
            sealed = Some(index);
        }
        let mut opened = None;
        if after == AfterRoll::NewSegment {
            if !on_disk {
                disk.create_directory(&manifest::directory(topic_partition)).await?;
            }
            let segment = Segment::new(applied_end, manifest.next_incarnation);
            manifest.next_incarnation += 1;
            let file = self.create_segment_file(topic_partition, &segment).await?;
            self.sync(&file).await?;
            manifest.segments.push(segment);
            opened = Some((segment, file));
        }
        disk.replace(&manifest::manifest_path(topic_partition), &manifest.encode()).await?;

        let state = &mut *self.inner.state.borrow_mut();
        let Some(partition) = state.partitions.get_mut(&topic_partition) else { return Ok(()) };
        partition.manifest = manifest;
        partition.on_disk = true;
        partition.active = ActiveIndex { session: self.inner.session, ..ActiveIndex::default() };
        if let Some(index) = sealed {
            partition.synced_end = partition.synced_end.max(applied_end);
            state.indexes.put((topic_partition, index.segment.incarnation), Rc::new(index.index));
        }
        if let Some((segment, file)) = opened {
            state.open_files.put((topic_partition, segment.incarnation), file);
        }
        Ok(())
    }

    /// Creates a segment file with its header. Not synced.
    pub(crate) async fn create_segment_file(
        &self,
        topic_partition: TopicPartition,
        segment: &Segment,
    ) -> Result<D::File, DiskError> {
        let path = manifest::segment_path(topic_partition, segment);
        // An earlier attempt may have met a full disk after it made the file.
        self.inner.disk.remove(&path).await?;
        let file = self.inner.disk.create(&path, Access::Direct).await?;
        let header = FileHeader {
            topic_partition,
            base_offset: segment.base_offset,
            incarnation: segment.incarnation,
            session: self.inner.session,
        };
        let block = header.encode().share();
        let writes = split_writes(&file, 0, &block, self.inner.options.write_bytes_max).collect();
        self.inner.disk.commit(writes, Flush::Written).await?;
        Ok(file)
    }

    /// Makes a partition ready for the direct path: applies and syncs what it has, and writes zeros where its batches will go.
    async fn prewrite_step(&self, topic_partition: TopicPartition) -> Result<usize, DiskError> {
        let options = &self.inner.options;
        let Some(gate) = self.gate(topic_partition) else {
            self.inner.state.borrow_mut().wants_prewritten.remove(&topic_partition);
            return Ok(1);
        };
        let needs_settling = {
            let state = self.inner.state.borrow();
            state.partitions.get(&topic_partition).is_some_and(|partition| {
                partition.active_segment().is_none() || partition.synced_end < partition.applied_end
            })
        };
        if needs_settling {
            let pass = gate.enter().await;
            self.apply_all(topic_partition, &pass).await?;
            self.sync_partition(topic_partition, &pass).await?;
            let missing = {
                let state = self.inner.state.borrow();
                // A segment comes before the manifest that names it, so it must not be a partition's first file before the journal
                // has something to be found in it. It is asked for again with the next large batch.
                state.partitions.get(&topic_partition).is_some_and(|partition| {
                    partition.damage.is_none() && partition.on_disk && partition.active_segment().is_none()
                })
            };
            if missing {
                self.roll_inside(topic_partition, AfterRoll::NewSegment, &pass).await?;
            }
        }
        // Direct writes go on meanwhile: they stay below what was pre-written before.
        let _pass = gate.enter_beside_direct().await;
        let planned = {
            let mut state = self.inner.state.borrow_mut();
            state.wants_prewritten.remove(&topic_partition);
            state.partitions.get(&topic_partition).and_then(|partition| plan_prewrite(partition, options))
        };
        let Some((segment, from, to)) = planned else { return Ok(1) };
        let file = self.segment_file(topic_partition, &segment).await?;
        if self.inner.disk.length(&file).await? < to {
            // A write that makes a file longer locks out those that somebody waits for.
            self.inner.disk.set_length(&file, to).await?;
        }
        let mut position = from;
        while position < to {
            let length = ZEROS_BYTES.min(to - position);
            self.write_zeros(&file, position, length).await?;
            position += length;
            self.inner.disk.yield_now().await;
        }
        self.sync(&file).await?;
        let mut state = self.inner.state.borrow_mut();
        if let Some(partition) = state.partitions.get_mut(&topic_partition)
            && partition.active_segment().is_some_and(|active| active.incarnation == segment.incarnation)
        {
            partition.active.prewritten = to;
        }
        Ok(usize::try_from(to - from).unwrap_or(usize::MAX))
    }
}

/// The active segment of a partition and the range of it to fill with zeros, if there is any.
fn plan_prewrite(partition: &Partition, options: &StoreOptions) -> Option<(Segment, u64, u64)> {
    let segment = *partition.active_segment().filter(|_| partition.damage.is_none())?;
    let block = BLOCK_BYTES as u64;
    let wanted = partition.large_bytes.clamp(options.prewrite_bytes / 8, options.prewrite_bytes);
    // Headers and padding take some room beyond the batches.
    let left = partition.config.segment_bytes.saturating_sub(segment.batches_bytes);
    let left = left.saturating_add(left / 8 + 16 * block);
    let from = partition.active.prewritten.max(segment.end_position);
    let to = (segment.end_position + wanted.min(left)).next_multiple_of(block);
    (to > from).then_some((segment, from, to))
}

/// What comes after a segment is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterRoll {
    NewSegment,
    /// The next batch that is applied starts one.
    Nothing,
}

/// The manifest as it would be written now.
pub(crate) fn current_manifest(partition: &Partition) -> Manifest {
    let mut manifest = partition.manifest.clone();
    manifest.epochs = partition.epochs.iter().copied().filter(|(_, start)| *start < partition.applied_end).collect();
    manifest
}

fn index_file(topic_partition: TopicPartition, segment: Segment, partition: &Partition) -> IndexFile {
    IndexFile { topic_partition, segment, session: partition.active.session, index: partition.active.index.clone() }
}

fn next_task<F>(state: &State<F>, options: &StoreOptions, no_room_for_journal: bool) -> Option<Task> {
    let journal = &state.journal;
    let bytes_max = options.journal_bytes_max.max(3 * options.journal_file_bytes);
    let wants_file = journal.ready.len() < READY_FILES;
    let reclaimable = !journal.old.is_empty();
    if position_of_released(state).is_some() {
        return Some(Task::Release);
    }
    // Where nothing can be reclaimed the limit gives way: appends would stop for good.
    let may_grow = journal.total_bytes() + options.journal_file_bytes <= bytes_max || !reclaimable;
    if journal.unfinished.is_some() || (wants_file && may_grow) {
        // A full disk: what is reclaimed instead may serve.
        if !(no_room_for_journal || (state.full && reclaimable)) {
            return Some(Task::Prepare);
        }
    }
    if wants_file && reclaimable {
        return Some(Task::Reclaim);
    }
    // Before what is ripe: it applies that too, and what is applied without it would only have to be synced again.
    if let Some(topic_partition) = state.wants_prewritten.first() {
        return Some(Task::Prewrite(*topic_partition));
    }
    if let Some(topic_partition) = state.ripe.first() {
        return Some(Task::Apply(*topic_partition));
    }
    let crowded =
        state.tail_cache.bytes() > options.tail_cache_bytes || state.unapplied_bytes > options.unapplied_bytes_max / 2;
    if crowded && let Some(topic_partition) = state.tail_cache.oldest_unapplied(&state.partitions) {
        return Some(Task::Apply(topic_partition));
    }
    let old_bytes: u64 = journal.old.iter().map(|file| file.bytes).sum();
    let inherited = journal.old.front().is_some_and(|oldest| oldest.sequence <= journal.inherited_through);
    (reclaimable && (inherited || old_bytes > bytes_max / 2)).then_some(Task::Reclaim)
}

/// Which of the files that are held nobody needs any more.
fn position_of_released<F>(state: &State<F>) -> Option<usize> {
    let is_gone = |topic_partition| !state.partitions.contains_key(topic_partition);
    state.journal.held.iter().position(|file| file.ends.keys().all(is_gone))
}

fn checkpoint_now<F>(state: &State<F>, session: u64) -> Checkpoint {
    let journal = &state.journal;
    let mut segments = BTreeMap::new();
    for (topic_partition, partition) in &state.partitions {
        // What is known of a partition that is offline stays as it was.
        let synced = match (&partition.damage, partition.active_segment()) {
            (Some(_), _) => journal.checkpoint.segments.get(topic_partition).copied(),
            (None, Some(active)) => Some(Synced {
                incarnation: active.incarnation,
                position: partition.active.synced_position,
                next_offset: partition.synced_end,
            }),
            (None, None) => None,
        };
        if let Some(synced) = synced.filter(|synced| synced.position > format::FILE_HEADER_BYTES) {
            segments.insert(*topic_partition, synced);
        }
    }
    let held = journal.held.iter().chain(journal.old.iter().filter(|file| file.held));
    Checkpoint {
        last_round: journal.checkpoint.last_round.max((session, journal.durable_round)),
        segments,
        held: held.map(|file| (file.sequence, file.ends.keys().copied().collect())).collect(),
        files: journal.files(),
    }
}

/// Whether `batch` goes into a new segment, when the active one would hold `bytes` from `first_append_time` on.
pub(crate) fn is_full(
    partition: &Partition,
    bytes: u64,
    first_append_time: Timestamp,
    batch_bytes: usize,
    append_time: Timestamp,
) -> bool {
    bytes > 0
        && (bytes + batch_bytes as u64 > partition.config.segment_bytes
            || append_time.0.saturating_sub(first_append_time.0) > partition.config.segment_ms)
}

fn plan_extent(partition: &Partition, options: &StoreOptions) -> Plan {
    if partition.damage.is_some() {
        return Plan::Nothing;
    }
    let unapplied = partition.tail.range(partition.tail_position(partition.applied_end)..);
    let Some(first) = unapplied.clone().next() else { return Plan::Nothing };
    assert_eq!(first.base_offset, partition.applied_end, "the tail goes on where the segments end");
    let round = first.round;
    let Some(active) = partition.active_segment() else { return Plan::NewSegment { round } };
    let started = if active.batches_bytes > 0 { active.first_append_time } else { first.append_time };
    if is_full(partition, active.batches_bytes, started, first.length as usize, first.append_time) {
        return Plan::NewSegment { round };
    }
    let mut batches = Vec::new();
    let mut bytes = 0;
    for batch in unapplied {
        let length = batch.length as usize;
        let ends = !batches.is_empty()
            && (batch.leader_epoch != first.leader_epoch
                || bytes + length > options.extent_bytes
                || is_full(partition, active.batches_bytes + bytes as u64, started, length, batch.append_time));
        if ends {
            break;
        }
        bytes += length;
        batches.push(batch.clone());
    }
    Plan::Write(Extent { segment: *active, batches })
}
