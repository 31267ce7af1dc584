//! Writes a new segment file whole, from batches that are handed in: for compaction, record filters and cuts.

use bytes::Bytes;
use tidegate_records::{
    batch::BatchHeader,
    ids::{Offset, TopicPartition},
    time::Timestamp,
};

use crate::{
    commit::split_writes,
    disk::{AlignedBuffer, Disk, DiskError, Flush},
    segment::{
        format::{self, ExtentBatch, ExtentPlace},
        index::{Index, IndexEntry, IndexFile},
        manifest::{self, Segment, SegmentState},
    },
    store::Store,
};

pub(crate) struct SegmentWriter<D: Disk> {
    store: Store<D>,
    topic_partition: TopicPartition,
    segment: Segment,
    file: D::File,
    index: Index,
    waiting: Vec<ExtentBatch>,
    waiting_bytes: usize,
}

impl<D: Disk> SegmentWriter<D> {
    pub(crate) async fn create(
        store: &Store<D>,
        topic_partition: TopicPartition,
        segment: Segment,
    ) -> Result<Self, DiskError> {
        let file = store.create_segment_file(topic_partition, &segment).await?;
        Ok(Self {
            store: store.clone(),
            topic_partition,
            segment,
            file,
            index: Index::default(),
            waiting: Vec::new(),
            waiting_bytes: 0,
        })
    }

    /// Where the segment ends, counting what waits.
    pub(crate) fn next_offset(&self) -> Offset {
        self.waiting.last().map_or(self.segment.next_offset, |batch| batch.next_offset)
    }

    pub(crate) async fn push(
        &mut self,
        header: &BatchHeader,
        bytes: Bytes,
        append_time: Timestamp,
    ) -> Result<(), DiskError> {
        let ends_extent = self.waiting.last().is_some_and(|last| {
            last.leader_epoch != header.partition_leader_epoch
                || self.waiting_bytes + bytes.len() > self.store.inner.options.extent_bytes
        });
        if ends_extent {
            self.write_extent().await?;
        }
        self.waiting_bytes += bytes.len();
        self.waiting.push(ExtentBatch {
            bytes,
            stamp: None,
            append_time,
            min_timestamp: header.base_timestamp,
            max_timestamp: header.max_timestamp,
            leader_epoch: header.partition_leader_epoch,
            next_offset: header.next_offset(),
        });
        Ok(())
    }

    async fn write_extent(&mut self) -> Result<(), DiskError> {
        let batches = std::mem::take(&mut self.waiting);
        let bytes = std::mem::take(&mut self.waiting_bytes);
        let Some(last) = batches.last() else { return Ok(()) };
        let inner = &self.store.inner;
        let place = ExtentPlace {
            topic_partition: self.topic_partition,
            incarnation: self.segment.incarnation,
            session: inner.session,
            shard: inner.options.shard.0,
            round: 0,
        };
        let mut buffer = AlignedBuffer::with_capacity(format::extent_bytes(batches.len(), bytes));
        let position = self.segment.end_position;
        let header = format::encode_extent(place, position, self.segment.next_offset, &batches, &mut buffer);
        let buffer = buffer.share();
        let writes = split_writes(&self.file, position, &buffer, inner.options.write_bytes_max).collect();
        inner.disk.commit(writes, Flush::Written).await?;
        self.segment.add(&header, last.append_time);
        self.index.entries.push(IndexEntry::new(&header));
        inner.disk.yield_now().await;
        Ok(())
    }

    /// Writes what waits and syncs. The segment reaches to `next_offset`, even if its last batch does not.
    pub(crate) async fn finish(mut self, next_offset: Offset) -> Result<(Segment, Index), DiskError> {
        self.write_extent().await?;
        self.store.sync(&self.file).await?;
        self.segment.next_offset = self.segment.next_offset.max(next_offset);
        Ok((self.segment, self.index))
    }
}

impl<D: Disk> Store<D> {
    /// Stores the index of a segment that takes the place of `replaced`, and says how the manifest is to name it.
    pub(crate) async fn seal_written(
        &self,
        topic_partition: TopicPartition,
        mut segment: Segment,
        index: &Index,
        replaced: &[Segment],
    ) -> Result<Segment, DiskError> {
        segment.state = SegmentState::Sealed;
        if segment.batches_bytes == 0 {
            // Nothing stays: retention still goes by when the old batches came.
            segment.max_timestamp = replaced.iter().map(|old| old.max_timestamp).max().unwrap_or(Timestamp::NONE);
            segment.min_timestamp = segment.max_timestamp;
            segment.first_append_time = replaced.first().map_or(Timestamp::NONE, |old| old.first_append_time);
            segment.last_append_time = replaced.last().map_or(Timestamp::NONE, |old| old.last_append_time);
        }
        let file = IndexFile { topic_partition, segment, session: self.inner.session, index: index.clone() };
        self.inner.disk.replace(&manifest::index_path(topic_partition, &segment), &file.encode()).await?;
        Ok(segment)
    }
}
