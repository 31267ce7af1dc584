//! Segments whose bytes are in the object store: sending them there, fetching one back, and removing objects that nobody names.
//!
//! The order that makes every crash harmless: the manifest says that there may be objects; the object is whole; the manifest names it;
//! the local file goes. And backwards: the manifest names it no more; the object goes. An upload has a number that is used once, so an
//! object that comes to be late, or is removed late, after a crash or a time-out, is never one that is named. What is left over is
//! found by listing ([`Store::sweep_objects`]).
//!
//! The index stays on the disk: lookups by offset and time cost one ranged read of the object, as they cost one of a file.

use bytes::Bytes;
use tidegate_records::ids::{Offset, TopicPartition};

use crate::{
    commit::split_writes,
    disk::{Access, AlignedBuffer, BLOCK_BYTES, Disk, DiskErrorKind, Flush},
    error::{ChangeError, Damage, ReadError},
    objects::{ObjectError, ObjectErrorKind},
    read::{PIECE_BYTES_MAX, damage_at},
    segment::{
        format::{self, ExtentHeader, FileHeader, decode_extent},
        index::{Index, IndexEntry, IndexFile},
        manifest::{self, Segment, SegmentState},
    },
    store::Store,
};

/// Uploads that one opening of a store can number.
const UPLOADS_OF_A_SESSION: u64 = 1 << 24;

/// The object of a segment that is offloaded.
#[must_use]
pub fn object_key(topic_partition: TopicPartition, segment: &Segment) -> Option<String> {
    match segment.state {
        SegmentState::Offloaded { upload } => Some(key_of_upload(topic_partition, segment, upload)),
        SegmentState::Active | SegmentState::Sealed => None,
    }
}

fn key_of_upload(topic_partition: TopicPartition, segment: &Segment, upload: u64) -> String {
    format!("{topic_partition}/{:020}-{}-{upload}.tgs", segment.base_offset.0, segment.incarnation)
}

/// The number of the upload in a key.
fn upload_of_key(key: &str) -> Option<u64> {
    key.strip_suffix(".tgs")?.rsplit_once('-')?.1.parse().ok()
}

/// What [`Store::sweep_objects`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Objects that were removed.
    pub removed: usize,
    /// There is nothing left to look for.
    pub done: bool,
}

/// Keeps an upload's object from being swept until the manifest names it, or nobody wants it any more.
struct Uploading<'a, D: Disk> {
    store: &'a Store<D>,
    topic_partition: TopicPartition,
    upload: u64,
    named: bool,
}

impl<D: Disk> Drop for Uploading<'_, D> {
    fn drop(&mut self) {
        let mut state = self.store.inner.state.borrow_mut();
        if let Some(partition) = state.partitions.get_mut(&self.topic_partition) {
            partition.uploading.remove(&self.upload);
            // Whatever became of it: if there is an object, it is nobody's.
            partition.sweep |= !self.named;
        } else if !self.named {
            state.doomed.insert(self.topic_partition);
        }
    }
}

impl<D: Disk> Store<D> {
    /// Sends the sealed segment at `base_offset` to the object store, and removes its file. Readers go on meanwhile, and find it there
    /// afterwards; so does whoever opens the store. Gives the bytes of its batches.
    ///
    /// It takes as long as the upload does; nothing of the partition waits for it.
    ///
    /// # Errors
    /// [`ChangeError::NotCovered`]: opening the store would have to fetch it. [`ChangeError::Object`]: try again later.
    /// [`ChangeError::NotSealed`]: it is offloaded already, or was replaced meanwhile. Nothing was changed in any case.
    pub async fn offload(&self, topic_partition: TopicPartition, base_offset: Offset) -> Result<u64, ChangeError> {
        let segment = self.allow_objects(topic_partition, base_offset).await?;
        let mut uploading = self.begin_upload(topic_partition);
        self.upload(topic_partition, &segment, uploading.upload).await?;

        let offloaded = Segment { state: SegmentState::Offloaded { upload: uploading.upload }, ..segment };
        let pass = self.enter(topic_partition).await?;
        self.exchange(topic_partition, &segment, offloaded, &pass).await?;
        uploading.named = true;
        // Should it fail, the next opening removes the file. The gate is still held: whoever fetches the segment back makes a file of
        // the same name.
        self.inner.disk.remove(&manifest::segment_path(topic_partition, &segment)).await?;
        // A file that is open keeps its room.
        self.inner.state.borrow_mut().open_files.forget((topic_partition, segment.incarnation));
        drop(pass);
        Ok(segment.batches_bytes)
    }

    /// The sealed segment at `base_offset`, if it may be offloaded. That the partition has objects is durable then.
    async fn allow_objects(
        &self,
        topic_partition: TopicPartition,
        base_offset: Offset,
    ) -> Result<Segment, ChangeError> {
        let pass = self.enter(topic_partition).await?;
        let mut manifest = self.manifest_now(topic_partition)?;
        let found = manifest.segments.iter().find(|segment| segment.base_offset == base_offset).copied();
        let segment = found.filter(|segment| segment.state == SegmentState::Sealed);
        let segment = segment.ok_or(ChangeError::NotSealed { topic_partition, from: base_offset })?;
        let covered = {
            let state = self.inner.state.borrow();
            let partition = state.partitions.get(&topic_partition).ok_or(ChangeError::Unknown(topic_partition))?;
            partition.snapshots.last().is_some_and(|offset| *offset >= segment.next_offset)
        };
        if !covered {
            return Err(ChangeError::NotCovered { topic_partition, next_offset: segment.next_offset });
        }
        if !manifest.has_objects {
            manifest.has_objects = true;
            self.install(manifest, &pass).await?;
        }
        Ok(segment)
    }

    fn begin_upload(&self, topic_partition: TopicPartition) -> Uploading<'_, D> {
        let state = &mut *self.inner.state.borrow_mut();
        state.uploads += 1;
        assert!(state.uploads < UPLOADS_OF_A_SESSION, "each upload takes longer than a microsecond");
        let upload = self.inner.session * UPLOADS_OF_A_SESSION + state.uploads;
        if let Some(partition) = state.partitions.get_mut(&topic_partition) {
            partition.uploading.insert(upload);
        }
        Uploading { store: self, topic_partition, upload, named: false }
    }

    /// Writes the object. Every byte is checked on its way: what is damaged here must not be all that there is elsewhere.
    async fn upload(&self, topic_partition: TopicPartition, segment: &Segment, upload: u64) -> Result<(), ChangeError> {
        let disk = &self.inner.disk;
        let damage = |position| Damage::from_segment(topic_partition, segment, position);
        let key = key_of_upload(topic_partition, segment, upload);
        let gone = |error: ReadError| match into_change(error) {
            // It was replaced or deleted a moment ago, unless its file was taken away.
            ChangeError::Disk(error) if error.kind == DiskErrorKind::NotFound => {
                if self.has_segment(topic_partition, segment) {
                    return ChangeError::Disk(error);
                }
                ChangeError::NotSealed { topic_partition, from: segment.base_offset }
            }
            error => error,
        };
        let index = self.sealed_index(topic_partition, segment).await.map_err(gone)?;
        let file = self.segment_file(topic_partition, segment).await;
        let file = file.map_err(|error| gone(error.into()))?;
        let first = disk.read(&file, 0, BLOCK_BYTES).await?;
        let is_ours = FileHeader::decode(&first).is_some_and(|header| {
            header.topic_partition == topic_partition
                && header.incarnation == segment.incarnation
                && header.base_offset == segment.base_offset
        });
        if !is_ours || first.len() != BLOCK_BYTES {
            return Err(damage(0).into());
        }
        let mut object = disk.begin_object(&key, segment.end_position).await?;
        disk.add_to_object(&mut object, first).await?;
        let mut last = None;
        let mut at = 0;
        let mut position = format::FILE_HEADER_BYTES;
        while let Some(entry) = index.entries.get(at) {
            let end_of =
                |at: usize| index.entries.get(at + 1).map_or(segment.end_position, |next: &IndexEntry| next.position());
            if entry.position() != position {
                return Err(damage(position).into());
            }
            let mut next = at + 1;
            while next < index.entries.len() && end_of(next) - position <= PIECE_BYTES_MAX as u64 {
                next += 1;
            }
            let end = end_of(next - 1);
            let bytes = disk.read(&file, position, usize::try_from(end - position).unwrap_or(usize::MAX)).await?;
            if bytes.len() as u64 != end - position {
                return Err(damage(position).into());
            }
            last = check_extents(topic_partition, segment, position, &bytes).map_err(Box::new)?;
            disk.add_to_object(&mut object, bytes).await?;
            (at, position) = (next, end);
            disk.yield_now().await;
        }
        if position != segment.end_position {
            return Err(damage(position).into());
        }
        disk.finish_object(object).await?;
        self.read_back(topic_partition, segment, &key, last).await
    }

    /// Looks at both ends of an object as a reader would: it is where it will be looked for, and as long as it must be.
    async fn read_back(
        &self,
        topic_partition: TopicPartition,
        segment: &Segment,
        key: &str,
        last: Option<(u64, usize)>,
    ) -> Result<(), ChangeError> {
        let disk = &self.inner.disk;
        let first = disk.read_object(key, 0, BLOCK_BYTES).await?;
        let mut whole = FileHeader::decode(&first).is_some_and(|header| header.incarnation == segment.incarnation);
        if let Some((position, length)) = last {
            // One byte more is asked for than there may be.
            let bytes = disk.read_object(key, position, length + 1).await?;
            whole &= bytes.len() == length && check_extents(topic_partition, segment, position, &bytes).is_ok();
        }
        if whole {
            return Ok(());
        }
        let message = "what was just written reads back as something else: check the object store".to_owned();
        let kind = ObjectErrorKind::Unavailable;
        Err(ObjectError { operation: "read back", key: key.to_owned(), kind, message }.into())
    }

    /// Puts the same segment in another state into the manifest.
    async fn exchange(
        &self,
        topic_partition: TopicPartition,
        before: &Segment,
        after: Segment,
        pass: &crate::gate::PartitionPass,
    ) -> Result<(), ChangeError> {
        let mut manifest = self.manifest_now(topic_partition)?;
        let cutting = {
            let state = self.inner.state.borrow();
            state.partitions.get(&topic_partition).is_some_and(|partition| partition.cutting)
        };
        // A cut reads the segment that it goes through from the disk.
        let is_leaving = cutting && after.state.is_offloaded();
        let slot = manifest.segments.iter_mut().find(|segment| *segment == before).filter(|_| !is_leaving);
        let slot = slot.ok_or(ChangeError::NotSealed { topic_partition, from: before.base_offset })?;
        *slot = after;
        Ok(self.install(manifest, pass).await?)
    }

    /// Brings the offloaded segment that holds `offset`, if one does, back to the disk.
    pub(crate) async fn fetch_back(&self, topic_partition: TopicPartition, offset: Offset) -> Result<(), ChangeError> {
        let manifest = {
            let _pass = self.enter(topic_partition).await?;
            self.manifest_now(topic_partition)?
        };
        let across = |segment: &&Segment| segment.base_offset < offset && offset < segment.next_offset;
        let Some(segment) = manifest.segments.iter().find(across).copied() else { return Ok(()) };
        let Some(key) = object_key(topic_partition, &segment) else { return Ok(()) };
        let disk = &self.inner.disk;
        let path = manifest::segment_path(topic_partition, &segment);
        disk.remove(&path).await?;
        let file = disk.create(&path, Access::Direct).await?;
        let mut position = 0;
        while position < segment.end_position {
            let length = (segment.end_position - position).min(PIECE_BYTES_MAX as u64) as usize;
            let bytes = disk.read_object(&key, position, length).await?;
            if bytes.len() != length {
                return Err(Box::new(damage_at(topic_partition, &segment, position, segment.base_offset)).into());
            }
            let mut buffer = AlignedBuffer::with_capacity(length);
            buffer.extend_from_slice(&bytes);
            let buffer = buffer.share();
            let writes = split_writes(&file, position, &buffer, self.inner.options.write_bytes_max).collect();
            disk.commit(writes, Flush::Written).await?;
            position += length as u64;
        }
        self.sync(&file).await?;
        let pass = self.enter(topic_partition).await?;
        let local = Segment { state: SegmentState::Sealed, ..segment };
        self.exchange(topic_partition, &segment, local, &pass).await?;
        self.note_unnamed(topic_partition);
        Ok(())
    }

    /// The index of an offloaded segment whose index file was lost, which it gets again.
    pub(crate) async fn rebuild_index_of_object(
        &self,
        topic_partition: TopicPartition,
        segment: &Segment,
    ) -> Result<Index, ReadError> {
        let Some(key) = object_key(topic_partition, segment) else { return Ok(Index::default()) };
        let mut index = Index::default();
        let mut position = format::FILE_HEADER_BYTES;
        let mut expected = segment.base_offset;
        let mut session = 0;
        while position < segment.end_position {
            let length = (segment.end_position - position).min(PIECE_BYTES_MAX as u64) as usize;
            let piece = self.inner.disk.read_object(&key, position, length).await?;
            let start = position;
            while let Some(header) = piece
                .get(usize::try_from(position - start).unwrap_or(usize::MAX)..)
                .and_then(ExtentHeader::decode)
                .filter(|header| belongs(topic_partition, segment, position, header) && header.base_offset == expected)
            {
                index.entries.push(IndexEntry::new(&header));
                session = session.max(header.place.session);
                expected = header.next_offset;
                position += header.total_bytes() as u64;
            }
            if position == start {
                return Err(Box::new(damage_at(topic_partition, segment, position, expected)).into());
            }
        }
        let stored = Segment { state: SegmentState::Sealed, ..*segment };
        let file = IndexFile { topic_partition, segment: stored, session, index: index.clone() };
        // Else the whole object is fetched again after the next start. Where it does not work now, it may then.
        let _ = self.inner.disk.replace(&manifest::index_path(topic_partition, segment), &file.encode()).await;
        Ok(index)
    }

    /// Takes note that the object store may have objects that the manifest names no more.
    pub(crate) fn note_unnamed(&self, topic_partition: TopicPartition) {
        if let Some(partition) = self.inner.state.borrow_mut().partitions.get_mut(&topic_partition) {
            partition.sweep = true;
        }
    }

    /// A deleted partition whose objects are still to be removed, as [`crate::remove_orphans`] found it.
    pub fn doom(&self, topic_partition: TopicPartition) {
        self.inner.state.borrow_mut().doomed.insert(topic_partition);
    }

    /// The keys of the objects that the partitions' segments are in.
    #[must_use]
    pub fn named_objects(&self) -> Vec<String> {
        let state = self.inner.state.borrow();
        let keys = state.partitions.iter().flat_map(|(topic_partition, partition)| {
            partition.manifest.segments.iter().filter_map(|segment| object_key(*topic_partition, segment))
        });
        keys.collect()
    }

    /// Whether [`Store::sweep_objects`] has something to look for.
    #[must_use]
    pub fn wants_sweep(&self) -> bool {
        let state = self.inner.state.borrow();
        !state.doomed.is_empty() || state.partitions.values().any(|partition| partition.sweep)
    }

    /// Removes the objects of one partition that its manifest does not name: those of segments and partitions that were deleted, and
    /// what crashes left. To be called until it is done, and again after a while when it fails.
    ///
    /// # Errors
    /// [`ObjectError`]: the rest stays to be removed.
    pub async fn sweep_objects(&self) -> Result<Swept, ObjectError> {
        let doomed = self.inner.state.borrow().doomed.first().copied();
        if let Some(topic_partition) = doomed {
            let keys = self.inner.disk.list_objects(&topic_partition.to_string()).await?;
            for key in &keys {
                self.inner.disk.remove_object(key).await?;
            }
            // If they cannot be removed now, the next start finds them.
            let _ = crate::change::remove_partition_files(&self.inner.disk, topic_partition).await;
            self.inner.state.borrow_mut().doomed.remove(&topic_partition);
            return Ok(Swept { removed: keys.len(), done: false });
        }
        let next = {
            let mut state = self.inner.state.borrow_mut();
            let next = state.partitions.iter_mut().find(|(_, partition)| partition.sweep);
            next.map(|(topic_partition, partition)| {
                // Cleared before the look: what is left over while it goes on is looked for again.
                partition.sweep = false;
                *topic_partition
            })
        };
        let Some(topic_partition) = next else { return Ok(Swept { removed: 0, done: true }) };
        let swept = self.sweep_partition(topic_partition).await;
        if swept.is_err() {
            self.note_unnamed(topic_partition);
        }
        swept.map(|removed| Swept { removed, done: false })
    }

    async fn sweep_partition(&self, topic_partition: TopicPartition) -> Result<usize, ObjectError> {
        let keys = self.inner.disk.list_objects(&topic_partition.to_string()).await?;
        let mut removed = 0;
        for key in keys {
            let is_named = {
                let state = self.inner.state.borrow();
                let Some(partition) = state.partitions.get(&topic_partition) else { return Ok(removed) };
                // What a damaged manifest names is not known.
                partition.damage.is_some()
                    || upload_of_key(&key).is_some_and(|upload| partition.uploading.contains(&upload))
                    || partition
                        .manifest
                        .segments
                        .iter()
                        .any(|segment| object_key(topic_partition, segment).as_deref() == Some(&key))
            };
            if !is_named {
                self.inner.disk.remove_object(&key).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn belongs(topic_partition: TopicPartition, segment: &Segment, position: u64, header: &ExtentHeader) -> bool {
    header.place.topic_partition == topic_partition
        && header.place.incarnation == segment.incarnation
        && header.position == position
}

/// Decodes every extent of a piece. Where the last one is, and its length; the damage of the first that is not whole.
fn check_extents(
    topic_partition: TopicPartition,
    segment: &Segment,
    start: u64,
    bytes: &Bytes,
) -> Result<Option<(u64, usize)>, Damage> {
    let mut last = None;
    let mut at = 0;
    while at < bytes.len() {
        let position = start + at as u64;
        let extent = &bytes[at..];
        let whole = ExtentHeader::decode(extent)
            .filter(|header| belongs(topic_partition, segment, position, header))
            .filter(|header| header.total_bytes() <= extent.len() && decode_extent(header, extent).is_some());
        let Some(header) = whole else { return Err(Damage::from_segment(topic_partition, segment, position)) };
        last = Some((position, header.total_bytes()));
        at += header.total_bytes();
    }
    Ok(last)
}

impl Damage {
    fn from_segment(topic_partition: TopicPartition, segment: &Segment, position: u64) -> Self {
        damage_at(topic_partition, segment, position, segment.base_offset)
    }
}

impl From<Damage> for ChangeError {
    fn from(damage: Damage) -> Self {
        Self::Damaged(Box::new(damage))
    }
}

/// What reading says, to whoever changes.
fn into_change(error: ReadError) -> ChangeError {
    match error {
        ReadError::Unknown(topic_partition) => ChangeError::Unknown(topic_partition),
        ReadError::Offline(damage) | ReadError::Damaged(damage) => ChangeError::Damaged(damage),
        ReadError::Disk(error) => ChangeError::Disk(error),
        ReadError::Object(error) => ChangeError::Object(error),
        ReadError::OutOfRange { .. } => unreachable!("an index is no offset"),
    }
}
