//! Changes of a partition's files other than appending: where the log starts, which segments there are, snapshots, deletion, cuts.
//!
//! Every one takes effect when the manifest is replaced; files go only after it, and files that no manifest names are removed when
//! the store opens.

use std::{cell::RefCell, collections::BTreeSet, convert::Infallible, path::Path};

use bytes::Bytes;
use tidegate_records::{
    batch::BatchHeader,
    ids::{Offset, TopicId, TopicPartition},
    time::Timestamp,
};

use crate::{
    apply::{AfterRoll, current_manifest},
    disk::{Disk, DiskError, DiskErrorKind},
    error::{ChangeError, Damage, Fatal, ReadError},
    gate::{PartitionPass, Pass},
    journal::format::Entry,
    parallel,
    partition::ActiveIndex,
    recovery::{encode_snapshot, read_small},
    segment::manifest::{self, Manifest, Segment, SegmentState},
    segment_writer::SegmentWriter,
    store::Store,
};

/// Snapshots kept for each partition.
const SNAPSHOTS_KEPT: usize = 2;

/// A batch as it is stored, for whoever rewrites segments.
#[derive(Clone, Debug)]
pub struct StoredBatch {
    pub header: BatchHeader,
    pub bytes: Bytes,
    /// The broker's clock when it was appended.
    pub append_time: Timestamp,
}

/// The rewriting of some neighbouring sealed segments into one; see [`Store::begin_rewrite`].
pub struct Rewrite<D: Disk> {
    store: Store<D>,
    topic_partition: TopicPartition,
    replaced: Vec<Segment>,
    writer: SegmentWriter<D>,
}

impl<D: Disk> Store<D> {
    pub(crate) async fn enter(&self, topic_partition: TopicPartition) -> Result<PartitionPass, ChangeError> {
        let gate = self.gate(topic_partition).ok_or(ChangeError::Unknown(topic_partition))?;
        let pass = gate.enter().await;
        self.check_change(topic_partition)?;
        Ok(pass)
    }

    /// Makes a new manifest durable and takes it over. The gate must be held since it was copied.
    pub(crate) async fn install(&self, manifest: Manifest, _pass: &PartitionPass) -> Result<(), DiskError> {
        let topic_partition = manifest.topic_partition;
        let on_disk = {
            let state = self.inner.state.borrow();
            state.partitions.get(&topic_partition).is_some_and(|partition| partition.on_disk)
        };
        if !on_disk {
            self.inner.disk.create_directory(&manifest::directory(topic_partition)).await?;
        }
        let path = manifest::manifest_path(topic_partition);
        if let Err(error) = self.inner.disk.replace(&path, &manifest.encode()).await {
            // Unless the disk was full, the file may be the old or the new one: memory cannot go on from either.
            self.note_failure(&error);
            return Err(error);
        }
        let mut state = self.inner.state.borrow_mut();
        if let Some(partition) = state.partitions.get_mut(&topic_partition) {
            partition.manifest = manifest;
            partition.on_disk = true;
            partition.trim_epochs();
        }
        Ok(())
    }

    pub(crate) fn manifest_now(&self, topic_partition: TopicPartition) -> Result<Manifest, ChangeError> {
        let state = self.inner.state.borrow();
        state.partitions.get(&topic_partition).map(current_manifest).ok_or(ChangeError::Unknown(topic_partition))
    }

    /// Removes the files of segments that the manifest does not name any more. Their objects are left to the next sweep.
    async fn remove_segments(&self, topic_partition: TopicPartition, gone: &[Segment]) -> Result<(), DiskError> {
        {
            let state = &mut *self.inner.state.borrow_mut();
            state.pieces.forget(topic_partition);
            for segment in gone {
                state.open_files.forget((topic_partition, segment.incarnation));
                state.indexes.forget((topic_partition, segment.incarnation));
            }
        }
        if gone.iter().any(|segment| segment.state.is_offloaded()) {
            self.note_unnamed(topic_partition);
        }
        for segment in gone {
            self.inner.disk.remove(&manifest::segment_path(topic_partition, segment)).await?;
            self.inner.disk.remove(&manifest::index_path(topic_partition, segment)).await?;
            self.inner.disk.yield_now().await;
        }
        Ok(())
    }

    /// Moves the start of the log forward (`DeleteRecords`). Durable when it returns; an offset that is not forward changes nothing.
    /// The segments below stay until [`Store::delete_segments_below`].
    ///
    /// # Errors
    /// [`ChangeError`]. An offset beyond the log's end is [`ChangeError::OutsideSegments`].
    pub async fn set_log_start_offset(
        &self,
        topic_partition: TopicPartition,
        offset: Offset,
    ) -> Result<(), ChangeError> {
        let pass = self.enter(topic_partition).await?;
        let mut manifest = self.manifest_now(topic_partition)?;
        if self.offsets(topic_partition).is_none_or(|offsets| offset > offsets.log_end_offset) {
            return Err(ChangeError::OutsideSegments { topic_partition, offset });
        }
        if offset <= manifest.log_start_offset {
            return Ok(());
        }
        // The log must not come back shorter than its start.
        let written_through = self.inner.state.borrow().journal.written_through;
        self.flush_rounds(written_through).await?;
        manifest.log_start_offset = offset;
        Ok(self.install(manifest, &pass).await?)
    }

    /// Deletes the sealed segments that end at or below `offset` and moves the start of the log to where the rest starts.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn delete_segments_below(
        &self,
        topic_partition: TopicPartition,
        offset: Offset,
    ) -> Result<(), ChangeError> {
        let pass = self.enter(topic_partition).await?;
        let mut manifest = self.manifest_now(topic_partition)?;
        let count = manifest
            .segments
            .iter()
            .take_while(|segment| segment.state.is_sealed() && segment.next_offset <= offset)
            .count();
        let gone: Vec<Segment> = manifest.segments.drain(..count).collect();
        let Some(last) = gone.last() else { return Ok(()) };
        manifest.log_start_offset = manifest.log_start_offset.max(last.next_offset);
        manifest.end_without_segments = last.next_offset;
        self.install(manifest, &pass).await?;
        Ok(self.remove_segments(topic_partition, &gone).await?)
    }

    /// Applies what the partition has in the journal and seals its active segment, if it has batches.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn roll(&self, topic_partition: TopicPartition) -> Result<(), ChangeError> {
        let pass = self.enter(topic_partition).await?;
        self.apply_all(topic_partition, &pass).await?;
        Ok(self.roll_inside(topic_partition, AfterRoll::Nothing, &pass).await?)
    }

    /// Keeps an opaque snapshot of what was made of all batches below `offset`. The newest two are kept.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn save_snapshot(
        &self,
        topic_partition: TopicPartition,
        offset: Offset,
        content: &[u8],
    ) -> Result<(), ChangeError> {
        let _pass = self.enter(topic_partition).await?;
        let disk = &self.inner.disk;
        disk.create_directory(&manifest::directory(topic_partition)).await?;
        disk.replace(&manifest::snapshot_path(topic_partition, offset), &encode_snapshot(content)).await?;
        let gone: Vec<Offset> = {
            let mut state = self.inner.state.borrow_mut();
            let partition = state.partitions.get_mut(&topic_partition).ok_or(ChangeError::Unknown(topic_partition))?;
            if let Err(at) = partition.snapshots.binary_search(&offset) {
                partition.snapshots.insert(at, offset);
            }
            let count = partition.snapshots.len().saturating_sub(SNAPSHOTS_KEPT);
            partition.snapshots.drain(..count).collect()
        };
        for offset in gone {
            disk.remove(&manifest::snapshot_path(topic_partition, offset)).await?;
        }
        Ok(())
    }

    /// Stores several side by side, which nobody should who is not in a hurry: rounds wait for the disk meanwhile. Those that fail are named.
    pub async fn save_snapshots(
        &self,
        snapshots: Vec<(TopicPartition, Offset, Bytes)>,
    ) -> Vec<(TopicPartition, ChangeError)> {
        let failed = RefCell::new(Vec::new());
        let Ok(()) = parallel::for_each(snapshots, async |(topic_partition, offset, content)| {
            if let Err(error) = self.save_snapshot(topic_partition, offset, &content).await {
                failed.borrow_mut().push((topic_partition, error));
            }
            Ok::<(), Infallible>(())
        })
        .await;
        failed.into_inner()
    }

    /// Deletes a partition with all its files. What waits for a round is dropped. If the object store may have objects of it, a file
    /// that says so stays until [`Store::sweep_objects`] has removed them.
    ///
    /// # Errors
    /// [`DiskError`]: some files are left; [`remove_orphans`] finds them.
    pub async fn delete_partition(&self, topic_partition: TopicPartition) -> Result<(), DiskError> {
        let Some(gate) = self.gate(topic_partition) else { return Ok(()) };
        let _pass = gate.enter().await;
        let has_objects = {
            let state = &mut *self.inner.state.borrow_mut();
            let Some(partition) = state.partitions.remove(&topic_partition) else { return Ok(()) };
            state.unapplied_bytes -= partition.unapplied_bytes;
            state.drop_pending(topic_partition);
            state.ripe.remove(&topic_partition);
            state.wants_prewritten.remove(&topic_partition);
            state.pieces.forget(topic_partition);
            for segment in &partition.manifest.segments {
                state.open_files.forget((topic_partition, segment.incarnation));
                state.indexes.forget((topic_partition, segment.incarnation));
            }
            state.wake_room_waiters();
            partition.manifest.has_objects
        };
        if !has_objects {
            return remove_partition_files(&self.inner.disk, topic_partition).await;
        }
        let done = remove_files_before_objects(&self.inner.disk, topic_partition).await;
        self.doom(topic_partition);
        done
    }

    /// Batches from the one that holds `from` on, up to `up_to`, with their append times: about `bytes_max`, at least one.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_stored(
        &self,
        topic_partition: TopicPartition,
        from: Offset,
        up_to: Offset,
        bytes_max: usize,
    ) -> Result<Vec<StoredBatch>, ReadError> {
        let mut out = Vec::new();
        let mut bytes = 0;
        let mut next = from;
        while next < up_to && bytes < bytes_max {
            let Some(loaded) = self.load_extents(topic_partition, next, bytes_max - bytes).await? else { break };
            for extent in &loaded.extents {
                for batch in &extent.batches {
                    let batch_next = batch.header.next_offset();
                    if batch_next <= next {
                        continue;
                    }
                    if batch_next > up_to || (bytes >= bytes_max && !out.is_empty()) {
                        return Ok(out);
                    }
                    bytes += batch.range.len();
                    next = batch_next;
                    out.push(StoredBatch {
                        header: batch.header,
                        bytes: extent.bytes.slice(batch.range.clone()),
                        append_time: batch.append_time,
                    });
                }
            }
            next = next.max(loaded.covered_to);
        }
        Ok(out)
    }

    /// Begins to write the sealed segments between two offsets (bases and ends of segments) anew as one, for compaction or a record
    /// filter. Push what is to stay in order, then finish. Until then, and if it is dropped, nothing changes.
    ///
    /// # Errors
    /// [`ChangeError::NotSealed`]: the offsets are not those of sealed segments.
    pub async fn begin_rewrite(
        &self,
        topic_partition: TopicPartition,
        from: Offset,
        to: Offset,
    ) -> Result<Rewrite<D>, ChangeError> {
        let (replaced, incarnation) = {
            let _pass = self.enter(topic_partition).await?;
            let mut state = self.inner.state.borrow_mut();
            let partition = state.partitions.get_mut(&topic_partition).ok_or(ChangeError::Unknown(topic_partition))?;
            let replaced: Vec<Segment> = partition
                .manifest
                .segments
                .iter()
                .filter(|segment| segment.state.is_sealed())
                .filter(|segment| segment.base_offset >= from && segment.next_offset <= to)
                .copied()
                .collect();
            let whole = replaced.first().is_some_and(|first| first.base_offset == from)
                && replaced.last().is_some_and(|last| last.next_offset == to);
            if !whole {
                return Err(ChangeError::NotSealed { topic_partition, from });
            }
            let incarnation = partition.manifest.next_incarnation;
            partition.manifest.next_incarnation += 1;
            (replaced, incarnation)
        };
        let writer = SegmentWriter::create(self, topic_partition, Segment::new(from, incarnation)).await?;
        Ok(Rewrite { store: self.clone(), topic_partition, replaced, writer })
    }

    /// Cuts the log back so that no batch reaches beyond `to`; a batch across it goes whole. Durable when it returns. What waits for a
    /// round is dropped.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn truncate(&self, topic_partition: TopicPartition, to: Offset) -> Result<(), ChangeError> {
        let rounds = self.inner.rounds.enter().await;
        {
            let _pass = self.enter(topic_partition).await?;
            let state = &mut *self.inner.state.borrow_mut();
            state.drop_pending(topic_partition);
            let partition = state.partitions.get_mut(&topic_partition).ok_or(ChangeError::Unknown(topic_partition))?;
            partition.appended_end = partition.durable_end;
            if to >= partition.durable_end {
                return Ok(());
            }
            partition.cutting = true;
        }
        // Only now, when nothing is sent away any more; and before the journal has the cut, which must be made then.
        if let Err(error) = self.fetch_back(topic_partition, to).await {
            if let Some(partition) = self.inner.state.borrow_mut().partitions.get_mut(&topic_partition) {
                partition.cutting = false;
            }
            return Err(error);
        }
        let done = loop {
            match self.truncate_once(topic_partition, to, &rounds).await {
                Ok(true) => break Ok(()),
                // The journal has no room now. It may need the partition's gate to make some.
                Ok(false) => self.inner.disk.yield_now().await,
                Err(error) => break Err(error),
            }
        };
        if let Some(partition) = self.inner.state.borrow_mut().partitions.get_mut(&topic_partition) {
            partition.cutting = false;
        }
        done
    }

    /// Tries to put the cut into the journal, and makes it. `false`: there is no room.
    async fn truncate_once(
        &self,
        topic_partition: TopicPartition,
        to: Offset,
        rounds: &Pass,
    ) -> Result<bool, ChangeError> {
        let pass = &self.enter(topic_partition).await?;
        // All below the cut must be in segments: what the journal has before the cut is not looked at again.
        self.apply_all(topic_partition, pass).await?;
        self.sync_partition(topic_partition, pass).await?;
        let number = self.manifest_now(topic_partition)?.truncations + 1;
        let entry = Entry::Truncate { topic_partition, to, number };
        match self.commit_inside(Some(entry), rounds).await {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(false),
            Err(Fatal(error)) => return Err(ChangeError::Failed(error)),
        }
        let done = self.cut_inside(topic_partition, to, number, pass).await;
        if let Err(error) = &done {
            // The journal has the cut and memory does not: only an opening can bring them together.
            let error = match error {
                ChangeError::Disk(error) | ChangeError::Failed(error) => error.clone(),
                other => DiskError {
                    operation: "truncate",
                    path: manifest::directory(topic_partition),
                    kind: DiskErrorKind::Other,
                    message: other.to_string(),
                },
            };
            self.inner.state.borrow_mut().failed.get_or_insert(error);
        }
        done.map(|()| true)
    }

    /// Makes the cuts that the journal has and the segments do not.
    pub(crate) async fn finish_cuts(&self) -> Result<(), DiskError> {
        let unfinished: Vec<(TopicPartition, Offset, u64)> = {
            let mut state = self.inner.state.borrow_mut();
            let take = state.partitions.iter_mut().filter_map(|(topic_partition, partition)| {
                let (to, number) = partition.unfinished_cut.take()?;
                Some((*topic_partition, to, number))
            });
            take.collect()
        };
        for (topic_partition, to, number) in unfinished {
            let Some(gate) = self.gate(topic_partition) else { continue };
            let pass = gate.enter().await;
            self.apply_all(topic_partition, &pass).await?;
            self.sync_partition(topic_partition, &pass).await?;
            match self.cut_inside(topic_partition, to, number, &pass).await {
                Ok(()) | Err(ChangeError::Unknown(_) | ChangeError::Offline(..)) => {}
                Err(ChangeError::Disk(error) | ChangeError::Failed(error)) => return Err(error),
                Err(ChangeError::Damaged(damage)) => {
                    let mut state = self.inner.state.borrow_mut();
                    if let Some(partition) = state.partitions.get_mut(&topic_partition) {
                        partition.damage = Some(*damage);
                    }
                }
                // The segment across was fetched back before the journal had the cut; so its manifest is older than the journal.
                Err(ChangeError::Object(error)) => {
                    let mut state = self.inner.state.borrow_mut();
                    if let Some(partition) = state.partitions.get_mut(&topic_partition) {
                        partition.damage = Some(Damage::ObjectUnreadable(error));
                    }
                }
                Err(
                    ChangeError::NotSealed { .. }
                    | ChangeError::OutsideSegments { .. }
                    | ChangeError::NotCovered { .. },
                ) => {
                    unreachable!("a cut names no segments")
                }
            }
        }
        Ok(())
    }

    /// Cuts the segments. All batches must be applied.
    async fn cut_inside(
        &self,
        topic_partition: TopicPartition,
        to: Offset,
        number: u64,
        pass: &PartitionPass,
    ) -> Result<(), ChangeError> {
        let mut manifest = self.manifest_now(topic_partition)?;
        manifest.truncations = number;
        let kept = manifest.segments.partition_point(|segment| segment.next_offset <= to);
        let gone: Vec<Segment> = manifest.segments.drain(kept..).collect();
        let mut end = to.min(manifest.segments.last().map_or(to, |segment| segment.next_offset));
        let mut active = None;
        if let Some(across) = gone.first().filter(|segment| segment.base_offset < to) {
            let segment = Segment::new(across.base_offset, manifest.next_incarnation);
            manifest.next_incarnation += 1;
            let mut writer = SegmentWriter::create(self, topic_partition, segment).await?;
            let mut next = across.base_offset;
            loop {
                let stored = self.read_stored(topic_partition, next, to, 1 << 20).await;
                let stored = stored.map_err(|error| read_to_change(topic_partition, error))?;
                let Some(last) = stored.last() else { break };
                next = last.header.next_offset();
                for batch in stored {
                    writer.push(&batch.header, batch.bytes, batch.append_time).await?;
                }
            }
            // A batch across the cut goes whole; where there is none (compaction left a gap) the log ends at the cut.
            let after = self.read_stored(topic_partition, next, across.next_offset, 1).await;
            let after = after.map_err(|error| read_to_change(topic_partition, error))?;
            end = after.first().map_or(to, |batch| batch.header.base_offset.min(to));
            let (written, index) = writer.finish(end).await?;
            // Sealed, because its end may lie behind its last batch, and only the manifest knows that.
            manifest.segments.push(self.seal_written(topic_partition, written, &index, &[*across]).await?);
        } else if let Some(last) = manifest.segments.last() {
            active = (last.state == SegmentState::Active).then(|| {
                let state = self.inner.state.borrow();
                let index = state.partitions.get(&topic_partition).map(|found| found.active.index.clone());
                (*last, index.unwrap_or_default())
            });
        }
        manifest.epochs.retain(|(_, start)| *start < end);
        manifest.log_start_offset = manifest.log_start_offset.min(end);
        manifest.end_without_segments = end;
        self.install(manifest, pass).await?;
        {
            let state = &mut *self.inner.state.borrow_mut();
            if let Some(partition) = state.partitions.get_mut(&topic_partition) {
                while partition.tail.back().is_some_and(|batch| batch.next_offset > end) {
                    partition.tail.pop_back();
                }
                partition.appended_end = end;
                partition.durable_end = end;
                partition.applied_end = end;
                partition.synced_end = end;
                partition.trim_epochs();
                // All that is left is synced in segments: no journal file has to be kept for it.
                let journal = &mut state.journal;
                for file in journal.old.iter_mut().chain([&mut journal.current]) {
                    file.ends.remove(&topic_partition);
                }
                if let Some((segment, index)) = active {
                    let session = self.inner.session;
                    let saved_position = if gone.is_empty() { partition.active.saved_position } else { 0 };
                    let synced_position = segment.end_position;
                    partition.active = ActiveIndex { index, session, saved_position, synced_position, prewritten: 0 };
                    debug_assert_eq!(
                        partition.active_segment().map(|found| found.incarnation),
                        Some(segment.incarnation)
                    );
                }
            }
        }
        self.remove_segments(topic_partition, &gone).await?;
        Ok(self.remove_snapshots_above(topic_partition, end).await?)
    }

    /// Removes the snapshots of batches that are not in the log any more.
    pub(crate) async fn remove_snapshots_above(
        &self,
        topic_partition: TopicPartition,
        end: Offset,
    ) -> Result<(), DiskError> {
        let gone = {
            let mut state = self.inner.state.borrow_mut();
            let Some(partition) = state.partitions.get_mut(&topic_partition) else { return Ok(()) };
            let kept = partition.snapshots.partition_point(|offset| *offset <= end);
            partition.snapshots.split_off(kept)
        };
        for offset in gone {
            self.inner.disk.remove(&manifest::snapshot_path(topic_partition, offset)).await?;
        }
        Ok(())
    }
}

impl<D: Disk> Rewrite<D> {
    /// Adds a batch that stays (its bytes may be new, its offsets are not).
    ///
    /// # Errors
    /// [`ChangeError::OutsideSegments`]: not after the batches before it, or beyond the segments that are replaced.
    pub async fn push(&mut self, bytes: Bytes, append_time: Timestamp) -> Result<(), ChangeError> {
        let topic_partition = self.topic_partition;
        let outside = |offset| ChangeError::OutsideSegments { topic_partition, offset };
        let header = BatchHeader::parse(&bytes).map_err(|_| outside(Offset::UNKNOWN))?;
        let end = self.replaced.last().map_or(Offset(0), |segment| segment.next_offset);
        if header.total_bytes() != bytes.len()
            || header.base_offset < self.writer.next_offset()
            || header.next_offset() > end
            || header.last_offset_delta < 0
        {
            return Err(outside(header.base_offset));
        }
        Ok(self.writer.push(&header, bytes, append_time).await?)
    }

    /// Puts the new segment in the place of the old ones, durably, and removes their files.
    ///
    /// # Errors
    /// [`ChangeError::NotSealed`]: the old segments went meanwhile (retention). Nothing is changed then.
    pub async fn finish(self) -> Result<(), ChangeError> {
        let Self { store, topic_partition, replaced, writer } = self;
        let from = replaced.first().map_or(Offset(0), |segment| segment.base_offset);
        let end = replaced.last().map_or(Offset(0), |segment| segment.next_offset);
        let (written, index) = writer.finish(end).await?;
        let written = store.seal_written(topic_partition, written, &index, &replaced).await?;
        let pass = store.enter(topic_partition).await?;
        let mut manifest = store.manifest_now(topic_partition)?;
        let at = manifest.segments.iter().position(|segment| segment.incarnation == replaced[0].incarnation);
        let at = at.filter(|at| manifest.segments.get(*at..*at + replaced.len()) == Some(replaced.as_slice()));
        let Some(at) = at else {
            store.remove_segments(topic_partition, &[written]).await?;
            return Err(ChangeError::NotSealed { topic_partition, from });
        };
        manifest.segments.splice(at..at + replaced.len(), [written]);
        store.install(manifest, &pass).await?;
        if let Some(partition) = store.inner.state.borrow_mut().partitions.get_mut(&topic_partition) {
            // Memory would go on serving the records that are gone.
            partition.forget_tail_below(end);
        }
        Ok(store.remove_segments(topic_partition, &replaced).await?)
    }
}

fn read_to_change(topic_partition: TopicPartition, error: ReadError) -> ChangeError {
    match error {
        ReadError::Unknown(topic_partition) => ChangeError::Unknown(topic_partition),
        ReadError::OutOfRange { from, .. } => ChangeError::OutsideSegments { topic_partition, offset: from },
        ReadError::Offline(damage) | ReadError::Damaged(damage) => ChangeError::Damaged(damage),
        ReadError::Disk(error) => ChangeError::Disk(error),
        ReadError::Object(error) => ChangeError::Object(error),
    }
}

pub(crate) async fn remove_partition_files<D: Disk>(
    disk: &D,
    topic_partition: TopicPartition,
) -> Result<(), DiskError> {
    let directory = manifest::directory(topic_partition);
    let names = disk.list(&directory).await?;
    for name in names {
        disk.remove(&directory.join(name)).await?;
    }
    disk.remove_directory(&directory).await
}

/// Removes the files of a deleted partition, but for one that says that its objects are still to be removed: the metadata forget a
/// deleted topic sooner than an object store may be back.
async fn remove_files_before_objects<D: Disk>(disk: &D, topic_partition: TopicPartition) -> Result<(), DiskError> {
    let kept = manifest::deleted_path(topic_partition);
    disk.replace(&kept, &manifest::DELETED_MAGIC).await?;
    let directory = manifest::directory(topic_partition);
    for name in disk.list(&directory).await? {
        let path = directory.join(name);
        if path != kept {
            disk.remove(&path).await?;
        }
    }
    Ok(())
}

/// Directories of partitions that no topic has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Removed, because their topic was deleted.
    pub removed: Vec<TopicPartition>,
    /// Left where they are: nothing says that their topic was deleted. The metadata may be older than they are.
    pub kept: Vec<TopicPartition>,
    /// Their topic was deleted, and the object store may still have objects of them: for [`Store::doom`].
    pub doomed: Vec<TopicPartition>,
}

/// Finds the directories of partitions that are not in `known`, and removes those whose topic is in `deleted`: a crash left their
/// files. To be called once at start, before any store is opened, with the partitions of all shards.
///
/// # Errors
/// [`DiskError`].
pub async fn remove_orphans<D: Disk>(
    disk: &D,
    known: &BTreeSet<TopicPartition>,
    deleted: &BTreeSet<TopicId>,
) -> Result<Orphans, DiskError> {
    let mut orphans = Orphans::default();
    for name in disk.list(Path::new(manifest::PARTITIONS_DIRECTORY)).await? {
        let Some(topic_partition) = manifest::partition_of_directory(&name) else { continue };
        if known.contains(&topic_partition) {
            continue;
        }
        let is_marked = read_small(disk, &manifest::deleted_path(topic_partition)).await?.is_some();
        if deleted.contains(&topic_partition.topic) || is_marked {
            let manifest = read_small(disk, &manifest::manifest_path(topic_partition)).await?;
            let manifest = manifest.and_then(|bytes| Manifest::decode(&bytes));
            if is_marked || manifest.is_some_and(|manifest| manifest.has_objects) {
                remove_files_before_objects(disk, topic_partition).await?;
                orphans.doomed.push(topic_partition);
                continue;
            }
            remove_partition_files(disk, topic_partition).await?;
            orphans.removed.push(topic_partition);
        } else {
            orphans.kept.push(topic_partition);
        }
    }
    Ok(orphans)
}
