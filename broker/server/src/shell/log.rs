//! A shard's log: storage, in the words of the shard.
//!
//! Translates between the two crates that do not know each other, and nothing else: no rule is here.

use std::time::Duration;

use bytes::Bytes;
use tidegate_model::{metadata::MetadataImage, partition::EpochStart, topic_config::TopicConfig};
use tidegate_records::{
    ids::{LeaderEpoch, Offset, TopicPartition},
    time::Timestamp,
};
use tidegate_shard::{AppendBatch, Lookup, LookupAnswer, ReadOutcome, RecoveredPartition, ShardIdentity, ownership};
use tidegate_storage::{
    Append, AppendError, ChangeError, Found, OpenError, PartitionSpec, ReadError, ReadRequest, RoundReport,
    SegmentConfig, SegmentSummary, Store, StoreOptions, Wanted,
    disk::{DiskErrorKind, Flush},
};

use super::disk::UringDisk;
use crate::metrics::ShardMetrics;

/// Background work of one step, in bytes written: short enough that a commit round waits little for it.
const APPLY_STEP_BYTES: usize = 256 << 10;

/// What a shard's journal and its small files take at least, in MiB.
const START_MIB: u64 = 5;

/// How a shard keeps its log.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// The same for every shard, but for the shard's number, which is filled in.
    pub store: StoreOptions,
}

/// The store of a shard.
pub(crate) struct Log {
    store: Store<UringDisk>,
    options: StoreOptions,
}

impl Log {
    /// Opens the store with the partitions that the metadata gives this shard.
    pub(crate) async fn open(
        disk: UringDisk,
        options: &LogOptions,
        identity: &ShardIdentity,
        image: &MetadataImage,
    ) -> Result<(Self, Vec<RecoveredPartition>), String> {
        let options = StoreOptions { shard: identity.shard, ..options.store.clone() };
        let ours = |topic_partition| ownership::owner(topic_partition, identity.shards) == identity.shard;
        let specs = partition_specs(image, ours);
        let (store, recovered) = Store::open(disk, options.clone(), specs).await.map_err(|error| match error {
            OpenError::Disk(error) if error.kind == DiskErrorKind::Full => format!(
                "there is no room in the data directory ({error}). Free some space; a shard needs {START_MIB} MiB to start"
            ),
            error => error.to_string(),
        })?;
        let recovered = recovered
            .into_iter()
            .map(|found| RecoveredPartition {
                partition: found.topic_partition,
                log_start_offset: found.log_start_offset,
                log_end_offset: found.log_end_offset,
                epochs: found
                    .epochs
                    .into_iter()
                    .map(|(epoch, start_offset)| EpochStart { epoch, start_offset })
                    .collect(),
                producers: found.snapshot.map(|(_, bytes)| bytes),
                batches: found.batches_since_snapshot,
                unsaved_bytes: found.bytes_since_snapshot,
                error: found.error.map(|damage| damage.to_string()),
            })
            .collect();
        Ok((Self { store, options }, recovered))
    }

    /// How many bytes may be appended before the next question, and why none if none.
    pub(crate) fn append_budget(&self) -> (usize, Option<String>) {
        if let Err(error) = self.store.admits(1) {
            // Clients are held back before this; who still comes through is told to try again.
            return (0, Some(error.to_string()));
        }
        let figures = self.store.figures();
        let pending = self.options.pending_bytes_max.saturating_sub(figures.pending_bytes);
        let unapplied = figures.unapplied_bytes + figures.pending_bytes;
        let most = pending.min(self.options.unapplied_bytes_max.saturating_sub(unapplied));
        if self.store.admits(most).is_ok() {
            return (most, None);
        }
        // Exactly what fits: a batch that was waited for must not be refused for less.
        let (mut fits, mut too_much) = (1, most);
        while too_much > fits + 1 {
            let middle = usize::midpoint(fits, too_much);
            if self.store.admits(middle).is_ok() { fits = middle } else { too_much = middle }
        }
        (fits, None)
    }

    /// Whether clients should wait with sending more: storage is behind, but not yet so far that it refuses.
    pub(crate) fn is_congested(&self) -> bool {
        let figures = self.store.figures();
        if figures.full {
            // Waiting makes no room on a full disk: who sends is told, and everybody else goes on.
            return false;
        }
        // A full round waits behind the one in flight: more would only take memory and add to the latency of all.
        figures.pending_bytes > self.options.round_bytes_max
            // Applying begins at half of it.
            || figures.unapplied_bytes > self.options.unapplied_bytes_max / 4 * 3
            // What is in memory only because an older batch is in no segment yet is not counted as unapplied.
            || figures.tail_cache_bytes > self.options.tail_cache_bytes + self.options.unapplied_bytes_max
    }

    /// Whether storage takes so many bytes now, or would refuse them for another reason than being behind.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        !matches!(self.store.admits(bytes), Err(AppendError::Backpressure))
    }

    /// Waits until storage takes so many bytes. Returns at once if it never will, or not before the disk has room again: then who
    /// sends them is told so.
    pub(crate) async fn wait_for_room(&self, bytes: usize) {
        while !self.has_room(bytes) {
            let room = self.store.room(bytes);
            // The state may turn from "behind" to "full" while it is waited for, which wakes nobody.
            let look_again = super::runtime::sleep(Duration::from_millis(50));
            futures_lite::future::or(room, async {
                look_again.await;
            })
            .await;
        }
    }

    pub(crate) fn append(&self, partition: TopicPartition, batch: AppendBatch) -> Result<(), String> {
        let durability = if batch.flush { Flush::Durable } else { Flush::Written };
        let append = Append {
            bytes: batch.bytes,
            header: batch.header,
            base_offset: batch.base_offset,
            leader_epoch: batch.leader_epoch,
            append_time: batch.append_time,
            durability,
        };
        self.store.append(partition, append).map_err(|error| error.to_string())
    }

    pub(crate) fn has_pending(&self) -> bool {
        self.store.has_pending()
    }

    /// Commits one round.
    pub(crate) async fn commit_round(&self, metrics: &ShardMetrics) -> Result<RoundReport, String> {
        let started = std::time::Instant::now();
        let report = self.store.commit_round().await.map_err(|error| error.to_string())?;
        if report.batches > 0 {
            metrics.commit_latency.record_latency(started.elapsed());
            metrics.commit_bytes.record_size(report.bytes as u64);
        }
        Ok(report)
    }

    /// Bytes that wait for a round.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.store.figures().pending_bytes
    }

    /// A step of background work. Whether there is more.
    pub(crate) async fn apply_step(&self) -> Result<bool, String> {
        let worked = self.store.apply_step(APPLY_STEP_BYTES).await;
        if self.store.figures().failed {
            return Err(
                "writing failed in the background; nothing more is acknowledged. Check the disk (dmesg), then restart"
                    .into(),
            );
        }
        Ok(worked)
    }

    pub(crate) fn read_tail(
        &self,
        partition: TopicPartition,
        from: Offset,
        bytes_max: usize,
        up_to: Offset,
        at_least_one: bool,
    ) -> Option<Vec<Bytes>> {
        self.store.read_tail(partition, ReadRequest { from, bytes_max, up_to, at_least_one })
    }

    pub(crate) async fn read(
        &self,
        partition: TopicPartition,
        from: Offset,
        bytes_max: usize,
        up_to: Offset,
        at_least_one: bool,
    ) -> Result<Vec<Bytes>, ReadOutcome> {
        let request = ReadRequest { from, bytes_max, up_to, at_least_one };
        self.store.read(partition, request).await.map_err(|error| read_outcome(&error))
    }

    /// Reads what comes after `records` into memory, for the reader's next fetch.
    pub(crate) async fn read_ahead(&self, partition: TopicPartition, records: &[Bytes], bytes_max: usize) {
        self.store.read_ahead(partition, records, bytes_max).await;
    }

    /// Finds a record by time among those below `up_to`.
    pub(crate) async fn lookup(
        &self,
        partition: TopicPartition,
        lookup: Lookup,
        up_to: Offset,
    ) -> Result<Option<LookupAnswer>, ReadOutcome> {
        let wanted = match lookup {
            Lookup::AtOrAfter(timestamp) => Wanted::AtOrAfter(timestamp),
            Lookup::MaxTimestamp => Wanted::MaxTimestamp,
            Lookup::EarliestLocal => {
                return Ok(self.store.local_start_offset(partition).map(|offset| self.without_time(partition, offset)));
            }
            Lookup::LatestTiered => {
                let tiered = self.store.segments(partition).into_iter().rfind(|segment| segment.offloaded);
                return Ok(tiered.map(|segment| self.without_time(partition, segment.next_offset.plus(-1))));
            }
        };
        match self.store.find_by_time(partition, wanted, up_to).await {
            Ok(found) => Ok(found.map(|Found { offset, timestamp, leader_epoch }| LookupAnswer {
                offset,
                timestamp,
                leader_epoch,
            })),
            Err(ReadError::Unknown(_)) => Ok(None),
            Err(error) => Err(read_outcome(&error)),
        }
    }

    /// An answer that is no record's.
    fn without_time(&self, partition: TopicPartition, offset: Offset) -> LookupAnswer {
        let epochs = self.store.epochs(partition);
        let epoch = epochs.iter().rfind(|(_, first)| *first <= offset).or(epochs.last());
        let leader_epoch = epoch.map_or(LeaderEpoch(-1), |(epoch, _)| *epoch);
        LookupAnswer { offset, timestamp: Timestamp::NONE, leader_epoch }
    }

    pub(crate) fn create_partition(&self, topic_partition: TopicPartition, config: Option<&TopicConfig>) {
        let config = config.map(segment_config).unwrap_or_default();
        self.store.create_partition(PartitionSpec { topic_partition, config });
    }

    pub(crate) fn configure_partition(&self, partition: TopicPartition, config: Option<&TopicConfig>) {
        if let Some(config) = config {
            self.store.set_partition_config(partition, segment_config(config));
        }
    }

    pub(crate) async fn delete_partition(&self, partition: TopicPartition) -> Result<(), String> {
        self.store.delete_partition(partition).await.map_err(|error| error.to_string())
    }

    pub(crate) async fn set_log_start(&self, partition: TopicPartition, offset: Offset) -> Result<(), String> {
        self.store.set_log_start_offset(partition, offset).await.map_err(|error| error.to_string())
    }

    pub(crate) async fn delete_segments_below(&self, partition: TopicPartition, offset: Offset) -> Result<(), String> {
        self.store.delete_segments_below(partition, offset).await.map_err(|error| error.to_string())
    }

    pub(crate) async fn roll(&self, partition: TopicPartition) -> Result<(), String> {
        self.store.roll(partition).await.map_err(|error| error.to_string())
    }

    pub(crate) fn store(&self) -> &Store<UringDisk> {
        &self.store
    }

    pub(crate) fn segments(&self, partition: TopicPartition) -> Vec<SegmentSummary> {
        self.store.segments(partition)
    }

    pub(crate) fn log_bytes(&self, partition: TopicPartition) -> u64 {
        self.store.log_bytes(partition)
    }

    pub(crate) async fn save_snapshots(&self, snapshots: Vec<(TopicPartition, Offset, Bytes)>) {
        for (partition, offset, bytes) in snapshots {
            if let Err(error) = self.store.save_snapshot(partition, offset, &bytes).await {
                say_unsaved(partition, &error);
            }
        }
    }

    /// As [`Log::save_snapshots`], when nothing is appended any more.
    pub(crate) async fn save_last_snapshots(&self, snapshots: Vec<(TopicPartition, Offset, Bytes)>) {
        for (partition, error) in self.store.save_snapshots(snapshots).await {
            say_unsaved(partition, &error);
        }
    }

    pub(crate) async fn close(&self) -> Result<(), String> {
        self.store.close().await.map_err(|error| error.to_string())
    }

    pub(crate) fn gauge(&self, metrics: &ShardMetrics) {
        let figures = self.store.figures();
        metrics.journal_bytes_used.set(figures.journal_bytes);
        metrics.tail_cache_bytes.set(figures.tail_cache_bytes as u64);
        metrics.bytes_in_flight.set(figures.pending_bytes as u64);
    }
}

/// The partitions that the metadata has, of which `wanted` is true.
pub(crate) fn partition_specs(image: &MetadataImage, wanted: impl Fn(TopicPartition) -> bool) -> Vec<PartitionSpec> {
    let mut specs = Vec::new();
    for topic in image.topics() {
        for index in topic.partition_indexes() {
            let topic_partition = TopicPartition::new(topic.id, index);
            if wanted(topic_partition) {
                specs.push(PartitionSpec { topic_partition, config: segment_config(&topic.config) });
            }
        }
    }
    specs
}

/// Recovery then reads more of the log; nothing is lost.
fn say_unsaved(partition: TopicPartition, error: &ChangeError) {
    tracing::warn!(%partition, %error, "a snapshot of the producers could not be saved");
}

fn read_outcome(error: &ReadError) -> ReadOutcome {
    match error {
        ReadError::OutOfRange { .. } => ReadOutcome::OutOfRange,
        error => ReadOutcome::Failed(error.to_string()),
    }
}

fn segment_config(config: &TopicConfig) -> SegmentConfig {
    SegmentConfig { segment_bytes: config.segment_bytes, segment_ms: config.segment_ms }
}
