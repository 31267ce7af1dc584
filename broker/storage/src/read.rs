//! Reading batches: from memory where they still are, from segments in large pieces otherwise.
//!
//! What a reader gets are whole batches in their stored bytes, starting with the one that holds the offset asked for. Batches that
//! are durable but in no segment yet are always in memory.

use std::rc::Rc;

use bytes::Bytes;
use tidegate_records::{
    batch::{BatchHeader, Batches},
    ids::{Offset, TopicPartition},
    time::Timestamp,
};

use crate::{
    disk::{Disk, DiskError, DiskErrorKind},
    error::{Damage, ReadError},
    objects::ObjectErrorKind,
    offload::object_key,
    partition::Partition,
    recovery::read_small,
    segment::{
        format::{DecodedBatch, ExtentHeader, decode_extent},
        index::{Index, IndexFile},
        manifest::{self, Segment, SegmentState},
        scan::rebuild_index,
    },
    store::Store,
};

/// What to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    pub from: Offset,
    pub bytes_max: usize,
    /// Batches that end after this offset are left out: the high watermark, the last stable offset, or the log's end.
    pub up_to: Offset,
    /// The first batch is returned even if it is larger than `bytes_max`, so that a reader gets on.
    pub at_least_one: bool,
}

/// Pieces of segments are read in sizes between these.
const PIECE_BYTES_MIN: usize = 256 << 10;
pub(crate) const PIECE_BYTES_MAX: usize = 1 << 20;

/// An extent in memory.
pub(crate) struct LoadedExtent {
    pub(crate) bytes: Bytes,
    pub(crate) batches: Vec<DecodedBatch>,
}

/// Extents of one segment, one after another.
pub(crate) struct Loaded {
    pub(crate) extents: Vec<LoadedExtent>,
    /// The segment has no more batches before this offset.
    pub(crate) covered_to: Offset,
}

/// Where the extents that are wanted stand in a segment.
struct PieceRange {
    segment: Segment,
    /// Where the first extent starts, and its first offset.
    start: u64,
    base_offset: Offset,
    /// Where the first extent ends.
    first_end: u64,
    /// Where the extents end that hold what is wanted now.
    wanted_end: u64,
    /// Where a read ends: as much as is worth one.
    end: u64,
}

/// Collects slices until a limit is reached.
struct Collector {
    request: ReadRequest,
    bytes: usize,
    out: Vec<Bytes>,
    next: Offset,
}

impl Collector {
    /// Whether a batch is taken; once one is not, nothing after it is.
    fn takes(&mut self, next_offset: Offset, length: usize) -> bool {
        let first = self.bytes == 0 && self.request.at_least_one;
        if next_offset > self.request.up_to || (!first && self.bytes + length > self.request.bytes_max) {
            return false;
        }
        self.bytes += length;
        self.next = next_offset;
        true
    }
}

/// Whether there is more to collect.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Collected {
    All,
    GoOn,
}

impl<D: Disk> Store<D> {
    /// Reads from memory. `None`: the offset is not there; ask [`Store::read`]. Empty: nothing to read up to the limit.
    #[must_use]
    pub fn read_tail(&self, topic_partition: TopicPartition, request: ReadRequest) -> Option<Vec<Bytes>> {
        let state = self.inner.state.borrow();
        let partition = state.partitions.get(&topic_partition)?;
        if partition.damage.is_some()
            || request.from < partition.tail_start()
            || request.from < partition.log_start_offset()
            || request.from > partition.durable_end
        {
            return None;
        }
        let mut collector = Collector { request, bytes: 0, out: Vec::new(), next: request.from };
        collect_tail(partition, &mut collector);
        Some(collector.out)
    }

    /// Reads batches, from memory or from segments.
    ///
    /// # Errors
    /// [`ReadError`]: no such partition or offset, or the bytes cannot be read.
    pub async fn read(&self, topic_partition: TopicPartition, request: ReadRequest) -> Result<Vec<Bytes>, ReadError> {
        let mut collector = Collector { request, bytes: 0, out: Vec::new(), next: request.from };
        self.check_readable(topic_partition, request.from)?;
        loop {
            {
                let state = self.inner.state.borrow();
                let partition = state.partitions.get(&topic_partition).ok_or(ReadError::Unknown(topic_partition))?;
                if collector.next >= partition.tail_start() {
                    collect_tail(partition, &mut collector);
                    return Ok(collector.out);
                }
            }
            if collector.next >= request.up_to {
                return Ok(collector.out);
            }
            let wanted = request.bytes_max.saturating_sub(collector.bytes);
            let loaded = match self.load_extents(topic_partition, collector.next, wanted).await {
                Ok(loaded) => loaded,
                // What was read so far is good; the next read tells of the damage.
                Err(_) if !collector.out.is_empty() => return Ok(collector.out),
                Err(error) => return Err(error),
            };
            if self.offsets(topic_partition).is_some_and(|offsets| collector.next < offsets.log_start_offset) {
                // The start of the log moved past the reader. Nothing may be skipped silently.
                if collector.out.is_empty() {
                    self.check_readable(topic_partition, collector.next)?;
                }
                return Ok(collector.out);
            }
            let Some(loaded) = loaded else {
                // The log was cut or deleted meanwhile.
                self.check_readable(topic_partition, collector.next)?;
                return Ok(collector.out);
            };
            for extent in &loaded.extents {
                if collect_extent(extent, &mut collector) == Collected::All {
                    return Ok(collector.out);
                }
            }
            collector.next = collector.next.max(loaded.covered_to);
        }
    }

    /// Reads the piece behind `records`, which [`Store::read`] gave, into memory: who reads a log from its beginning asks for it next.
    /// Does nothing where that is in memory already, or where too much was read ahead of others. Errors are left to the reader.
    pub async fn read_ahead(&self, topic_partition: TopicPartition, records: &[Bytes], wanted: usize) {
        let Some(last) = records.last().and_then(|bytes| Batches::new(bytes).filter_map(Result::ok).last()) else {
            return;
        };
        let from = last.0.next_offset();
        {
            let state = self.inner.state.borrow();
            let is_tail = state.partitions.get(&topic_partition).is_none_or(|partition| from >= partition.tail_start());
            if is_tail || !state.pieces.has_room_ahead(PIECE_BYTES_MAX, self.inner.options.read_cache_bytes) {
                return;
            }
        }
        let Ok(Some(segment)) = self.segment_at(topic_partition, from) else { return };
        let Ok(Some(mut range)) = self.piece_range(topic_partition, segment, from, wanted).await else { return };
        // The rest of the piece that was just read comes first, then the one behind it.
        let in_memory = |position| {
            let mut state = self.inner.state.borrow_mut();
            state.pieces.find(topic_partition, segment.incarnation, position)
        };
        if let Some(rest) = in_memory(range.start) {
            let behind = range.start + rest.len() as u64;
            match self.piece_range_at(topic_partition, segment, behind, wanted).await {
                Some(next) => range = next,
                None => return,
            }
            if in_memory(range.start).is_some() {
                return;
            }
        }
        if self.read_piece(topic_partition, &range).await.is_ok() {
            let key = (topic_partition, segment.incarnation, range.start);
            self.inner.state.borrow_mut().pieces.mark_ahead(key);
        }
    }

    /// The piece that starts at `position`, if an extent does.
    async fn piece_range_at(
        &self,
        topic_partition: TopicPartition,
        segment: Segment,
        position: u64,
        wanted: usize,
    ) -> Option<PieceRange> {
        let offset_at = |index: &Index| {
            let at = index.entries.partition_point(|entry| entry.position() < position);
            index.entries.get(at).filter(|entry| entry.position() == position).map(|entry| entry.base_offset)
        };
        let active = {
            let state = self.inner.state.borrow();
            let partition = state.partitions.get(&topic_partition)?;
            let is_active = partition.active_segment().is_some_and(|active| active.incarnation == segment.incarnation);
            is_active.then(|| offset_at(&partition.active.index))
        };
        let offset = match active {
            Some(offset) => offset?,
            None => offset_at(&*self.sealed_index(topic_partition, &segment).await.ok()?)?,
        };
        self.piece_range(topic_partition, segment, offset, wanted).await.ok()?
    }

    fn check_readable(&self, topic_partition: TopicPartition, from: Offset) -> Result<(), ReadError> {
        let state = self.inner.state.borrow();
        let partition = state.partitions.get(&topic_partition).ok_or(ReadError::Unknown(topic_partition))?;
        if let Some(damage) = &partition.damage {
            return Err(ReadError::Offline(Box::new(damage.clone())));
        }
        let (log_start_offset, log_end_offset) = (partition.log_start_offset(), partition.durable_end);
        if from < log_start_offset || from > log_end_offset {
            return Err(ReadError::OutOfRange { from, log_start_offset, log_end_offset });
        }
        Ok(())
    }

    /// Whole extents of one segment from the one that holds `from` (or the first after it) on; `None` if no segment reaches there.
    pub(crate) async fn load_extents(
        &self,
        topic_partition: TopicPartition,
        from: Offset,
        wanted: usize,
    ) -> Result<Option<Loaded>, ReadError> {
        let mut read_again = false;
        loop {
            let Some(segment) = self.segment_at(topic_partition, from)? else { return Ok(None) };
            let range = match self.piece_range(topic_partition, segment, from, wanted).await {
                Ok(range) => range,
                Err(error) if self.is_gone(topic_partition, &segment, &error) => continue,
                Err(error) => return Err(error),
            };
            let Some(range) = range else {
                return Ok(Some(Loaded { extents: Vec::new(), covered_to: segment.next_offset }));
            };
            match self.read_piece(topic_partition, &range).await {
                Ok(bytes) => {
                    // What is behind is checked when somebody wants it.
                    let wanted = usize::try_from(range.wanted_end - range.start).unwrap_or(usize::MAX);
                    let bytes = bytes.slice(..bytes.len().min(wanted));
                    let decoded = decode_piece(topic_partition, &range, &bytes);
                    if decoded.is_err() {
                        // The file may have been mended since the piece was read.
                        let mut state = self.inner.state.borrow_mut();
                        state.pieces.forget_at(topic_partition, segment.incarnation, range.start);
                        if !std::mem::replace(&mut read_again, true) {
                            continue;
                        }
                    }
                    return decoded.map(Some);
                }
                Err(error) => {
                    if !self.is_gone(topic_partition, &segment, &error) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Whether a file or an object was not found because the segment was replaced, moved or deleted while it was looked for.
    fn is_gone(&self, topic_partition: TopicPartition, segment: &Segment, error: &ReadError) -> bool {
        let is_missing = match error {
            ReadError::Disk(error) => error.kind == DiskErrorKind::NotFound,
            ReadError::Object(error) => error.kind == ObjectErrorKind::NotFound,
            _ => false,
        };
        let state = self.inner.state.borrow();
        is_missing
            && state.partitions.get(&topic_partition).is_some_and(|partition| {
                let found = partition.manifest.find_segment(segment.incarnation);
                found.is_none_or(|found| found.state != segment.state)
            })
    }

    /// The first segment with batches after `from`, counting only what is applied.
    fn segment_at(&self, topic_partition: TopicPartition, from: Offset) -> Result<Option<Segment>, ReadError> {
        let state = self.inner.state.borrow();
        let partition = state.partitions.get(&topic_partition).ok_or(ReadError::Unknown(topic_partition))?;
        let segments = &partition.manifest.segments;
        let at = segments.partition_point(|segment| segment.next_offset <= from);
        Ok(segments.get(at).copied())
    }

    async fn piece_range(
        &self,
        topic_partition: TopicPartition,
        segment: Segment,
        from: Offset,
        wanted: usize,
    ) -> Result<Option<PieceRange>, ReadError> {
        let find = |index: &Index| {
            let at = index.position_of(from);
            let first = index.entries.get(at)?;
            let (start, base_offset) = (first.position(), first.base_offset);
            let end_of = |at: usize| index.entries.get(at + 1).map_or(segment.end_position, |next| next.position());
            let first_end = end_of(at);
            let limit = start + wanted.clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX) as u64;
            let ends = || (at..index.entries.len()).map(end_of).take_while(|end| *end <= limit);
            let end = ends().last().unwrap_or(first_end);
            let wanted_end = ends().find(|end| end - start >= wanted as u64).unwrap_or(end);
            Some(PieceRange { segment, start, base_offset, first_end, wanted_end, end })
        };
        if segment.state == SegmentState::Active {
            let state = self.inner.state.borrow();
            let Some(partition) = state.partitions.get(&topic_partition) else { return Ok(None) };
            if partition.active_segment().is_some_and(|active| active.incarnation == segment.incarnation) {
                return Ok(find(&partition.active.index));
            }
        }
        let index = self.sealed_index(topic_partition, &segment).await?;
        Ok(find(&index))
    }

    /// The index of a sealed segment: from memory, from its file, or rebuilt from the segment.
    pub(crate) async fn sealed_index(
        &self,
        topic_partition: TopicPartition,
        segment: &Segment,
    ) -> Result<Rc<Index>, ReadError> {
        let key = (topic_partition, segment.incarnation);
        if let Some(index) = self.inner.state.borrow().indexes.find(key) {
            return Ok(index);
        }
        let stored = read_small(&self.inner.disk, &manifest::index_path(topic_partition, segment)).await?;
        let stored = stored.and_then(|bytes| IndexFile::decode(&bytes)).filter(|stored| {
            stored.topic_partition == topic_partition
                && stored.segment.incarnation == segment.incarnation
                && stored.segment.end_position == segment.end_position
        });
        let index = match stored {
            Some(stored) => stored.index,
            None if segment.state.is_offloaded() => self.rebuild_index_of_object(topic_partition, segment).await?,
            None => {
                let file = self.segment_file(topic_partition, segment).await?;
                rebuild_index(&self.inner.disk, topic_partition, &file, segment).await?.map_err(Box::new)?
            }
        };
        let index = Rc::new(index);
        self.inner.state.borrow_mut().indexes.put(key, Rc::clone(&index));
        Ok(index)
    }

    /// The bytes of a range, at least to the end of its first extent.
    async fn read_piece(&self, topic_partition: TopicPartition, range: &PieceRange) -> Result<Bytes, ReadError> {
        let incarnation = range.segment.incarnation;
        let cached = self.inner.state.borrow_mut().pieces.find(topic_partition, incarnation, range.start);
        if let Some(bytes) = cached.filter(|bytes| bytes.len() as u64 >= range.first_end - range.start) {
            return Ok(bytes);
        }
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let bytes = if let Some(key) = object_key(topic_partition, &range.segment) {
            self.inner.disk.read_object(&key, range.start, length).await?
        } else {
            let file = self.segment_file(topic_partition, &range.segment).await?;
            self.inner.disk.read(&file, range.start, length).await?
        };
        let bytes_max = self.inner.options.read_cache_bytes;
        let state = &mut *self.inner.state.borrow_mut();
        let held = state.partitions.get(&topic_partition).is_some_and(|partition| {
            partition.manifest.segments.iter().any(|segment| segment.incarnation == incarnation)
        });
        if held && bytes.len() == length {
            state.pieces.put((topic_partition, incarnation, range.start), bytes.clone(), bytes_max);
        }
        Ok(bytes)
    }

    /// Shows every batch from `from` on to `visit`, with its append time. The damage that ends it, if any.
    pub(crate) async fn visit_batches(
        &self,
        topic_partition: TopicPartition,
        from: Offset,
        mut visit: impl FnMut(&BatchHeader, Timestamp),
    ) -> Result<Result<(), Damage>, DiskError> {
        let mut next = from;
        loop {
            {
                let state = self.inner.state.borrow();
                let Some(partition) = state.partitions.get(&topic_partition) else { return Ok(Ok(())) };
                if next >= partition.tail_start() {
                    for batch in partition.tail.range(partition.tail_position(next)..) {
                        if let Ok(header) = BatchHeader::parse(&batch.bytes()) {
                            visit(&header, batch.append_time);
                        }
                    }
                    return Ok(Ok(()));
                }
            }
            let loaded = match self.load_extents(topic_partition, next, PIECE_BYTES_MAX).await {
                Ok(loaded) => loaded,
                Err(ReadError::Damaged(damage) | ReadError::Offline(damage)) => return Ok(Err(*damage)),
                Err(ReadError::Disk(error)) => return Ok(Err(error.into())),
                Err(ReadError::Object(error)) => return Ok(Err(Damage::ObjectUnreadable(error))),
                Err(ReadError::Unknown(_) | ReadError::OutOfRange { .. }) => return Ok(Ok(())),
            };
            let Some(loaded) = loaded else { return Ok(Ok(())) };
            for batch in loaded.extents.iter().flat_map(|extent| &extent.batches) {
                if batch.header.next_offset() > next {
                    next = batch.header.next_offset();
                    visit(&batch.header, batch.append_time);
                }
            }
            next = next.max(loaded.covered_to);
            self.inner.disk.yield_now().await;
        }
    }
}

/// Takes batches of the tail from `collector.next` on; neighbours in memory become one slice.
fn collect_tail(partition: &Partition, collector: &mut Collector) {
    let mut open: Option<(&Bytes, usize, usize)> = None;
    for batch in partition.tail.range(partition.tail_position(collector.next)..) {
        if !collector.takes(batch.next_offset, batch.length as usize) {
            break;
        }
        let (start, end) = (batch.start as usize, (batch.start + batch.length) as usize);
        match &mut open {
            Some((run, _, open_end)) if run.as_ptr() == batch.run.as_ptr() && *open_end == start => *open_end = end,
            _ => {
                if let Some((run, start, end)) = open {
                    collector.out.push(run.slice(start..end));
                }
                open = Some((&batch.run, start, end));
            }
        }
    }
    if let Some((run, start, end)) = open {
        collector.out.push(run.slice(start..end));
    }
}

/// Takes the batches of an extent that end after `collector.next`, as one slice.
fn collect_extent(extent: &LoadedExtent, collector: &mut Collector) -> Collected {
    let mut slice: Option<(usize, usize)> = None;
    let mut collected = Collected::GoOn;
    for batch in &extent.batches {
        if batch.header.next_offset() <= collector.next {
            continue;
        }
        if !collector.takes(batch.header.next_offset(), batch.range.len()) {
            collected = Collected::All;
            break;
        }
        let start = slice.map_or(batch.range.start, |(start, _)| start);
        slice = Some((start, batch.range.end));
    }
    if let Some((start, end)) = slice {
        collector.out.push(extent.bytes.slice(start..end));
    }
    collected
}

/// That a segment cannot be read at `position`, wherever its bytes are.
pub(crate) fn damage_at(topic_partition: TopicPartition, segment: &Segment, position: u64, offset: Offset) -> Damage {
    match object_key(topic_partition, segment) {
        Some(key) => Damage::Object { key, position, offset, next_offset: segment.next_offset },
        None => Damage::Segment { file: manifest::segment_path(topic_partition, segment), position, offset },
    }
}

fn decode_piece(topic_partition: TopicPartition, range: &PieceRange, bytes: &Bytes) -> Result<Loaded, ReadError> {
    let mut loaded = Loaded { extents: Vec::new(), covered_to: range.segment.base_offset };
    let mut at = 0;
    while at < bytes.len() {
        let extent = bytes.slice(at..);
        let position = range.start + at as u64;
        let header = ExtentHeader::decode(&extent).filter(|header| {
            header.place.topic_partition == topic_partition
                && header.place.incarnation == range.segment.incarnation
                && header.position == position
        });
        let decoded = header.and_then(|header| Some((header, decode_extent(&header, &extent)?)));
        let Some((header, batches)) = decoded else {
            // The extents before it are good; who reads on meets the damage.
            if !loaded.extents.is_empty() {
                return Ok(loaded);
            }
            return Err(ReadError::Damaged(Box::new(damage_at(
                topic_partition,
                &range.segment,
                position,
                range.base_offset,
            ))));
        };
        at += header.total_bytes();
        loaded.covered_to = header.next_offset;
        loaded.extents.push(LoadedExtent { bytes: extent, batches });
    }
    // What compaction removed at the end of the segment is covered by its last extent.
    if range.start + at as u64 >= range.segment.end_position {
        loaded.covered_to = range.segment.next_offset;
    }
    Ok(loaded)
}
