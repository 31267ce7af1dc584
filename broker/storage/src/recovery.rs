//! Opening a store: the segments as they are, and the journal replayed over them.
//!
//! The order: manifests, then the journal's directory, then the ends of the active segments, then the journal's batches that no
//! segment has. Only what the last rounds wrote can be torn; everything else that does not fit is damage, which takes the
//! partitions offline that it concerns and no others.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
    rc::Rc,
};

use bytes::{Buf, BufMut, Bytes};
use tidegate_records::{
    batch::BatchHeader,
    ids::{LeaderEpoch, Offset, TopicPartition},
    time::Timestamp,
};

use crate::{
    apply::ZEROS_BYTES,
    cache::{Indexes, OpenFiles, Pieces, TailCache},
    commit::split_writes,
    disk::{Access, AlignedBuffer, Disk, DiskError, DiskErrorKind, Flush},
    error::{Damage, OpenError},
    gate::Gate,
    journal::{
        checkpoint::checkpoint_path,
        files::{Journal, JournalFile, file_path, shard_directory, shard_of_directory},
        format::Entry,
        scan::{JournalScan, Lost, ScannedFile, ScannedRound, read_bodies, scan_journal},
    },
    partition::{Partition, TailBatch},
    segment::{
        format::{ExtentHeader, decode_extent},
        index::IndexFile,
        manifest::{self, Manifest, Segment, SegmentState},
        scan::{Committed, ShardCommitted, scan_segment},
    },
    store::{Inner, PartitionSpec, State, Store, StoreOptions},
};

/// A partition as it was found.
#[derive(Clone, Debug)]
pub struct RecoveredPartition {
    pub topic_partition: TopicPartition,
    pub log_start_offset: Offset,
    pub log_end_offset: Offset,
    /// The newest snapshot that does not reach beyond the log's end, and its offset.
    pub snapshot: Option<(Offset, Bytes)>,
    /// The batches from the snapshot on (from the log's start without one) that carry a producer id, with the broker's clock when
    /// they were appended.
    pub batches_since_snapshot: Vec<(BatchHeader, Timestamp)>,
    /// Bytes of all batches from the snapshot on: what this opening had to read, and the next one will without a newer snapshot.
    pub bytes_since_snapshot: u64,
    /// The first offset of each leader epoch that has batches.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// Why the partition is offline.
    pub error: Option<Damage>,
}

const SESSION_MAGIC: [u8; 8] = *b"TGSESSIO";
const SNAPSHOT_MAGIC: [u8; 8] = *b"TGSNAPSH";

impl<D: Disk> Store<D> {
    /// Opens the store of a shard with these partitions, replaying the journal.
    ///
    /// Partitions that the journal knows and `partitions` does not name were deleted. The other shards of the data directory must
    /// have been left empty if the number of shards changed: see [`crate::migrate`].
    ///
    /// # Errors
    /// [`OpenError`]: the shard's directory cannot be used. Damage of a partition is reported with the partition.
    pub async fn open(
        disk: D,
        options: StoreOptions,
        partitions: Vec<PartitionSpec>,
    ) -> Result<(Self, Vec<RecoveredPartition>), OpenError> {
        let shard = options.shard.0;
        disk.create_directory(&shard_directory(shard)).await?;
        disk.create_directory(Path::new(manifest::PARTITIONS_DIRECTORY)).await?;
        let (session, settled_session) = start_session(&disk, shard).await?;

        let mut loaded = BTreeMap::new();
        let mut unnamed = BTreeMap::new();
        for spec in partitions {
            let topic_partition = spec.topic_partition;
            let (partition, files) = load_partition(&disk, spec).await?;
            loaded.insert(topic_partition, partition);
            unnamed.insert(topic_partition, files);
        }
        let mut scan = scan_journal(&disk, shard).await?;
        let find_segment = |topic_partition: TopicPartition, incarnation: u64| {
            loaded.get(&topic_partition).and_then(|partition| partition.manifest.find_segment(incarnation))
        };
        cut_torn_rounds(&disk, &mut scan, &find_segment).await?;
        // What is read back now may not be on stable storage yet (the process died, not the machine). It will be acted upon.
        for file in &scan.files {
            disk.sync(&file.file).await?;
        }

        take_offline_without_end(&mut loaded, &scan);
        let journal_from = scan.lowest_offsets();
        let shards = BTreeMap::from([(shard, ShardCommitted { settled_session, last_round: scan.last_round() })]);
        for (topic_partition, partition) in &mut loaded {
            let files = unnamed.remove(topic_partition).unwrap_or_default();
            if !partition.on_disk && needs_manifest(&files, journal_from.get(topic_partition).copied()) {
                // A damaged journal is the likelier reason: what it lost may be the beginning of this partition.
                let of = |lost: &&Lost| lost.of.as_ref().is_none_or(|partitions| partitions.contains(topic_partition));
                let damage = scan.lost.iter().find(of).map_or_else(
                    || Damage::ManifestMissing { file: manifest::manifest_path(*topic_partition) },
                    |lost| lost.damage.clone(),
                );
                partition.damage.get_or_insert(damage);
                continue;
            }
            // The checkpoint names no segment before a manifest does, and a manifest stays for as long as its topic does.
            if !partition.on_disk && scan.checkpoint.segments.contains_key(topic_partition) {
                let file = manifest::manifest_path(*topic_partition);
                partition.damage.get_or_insert(Damage::PartitionMissing { file });
                continue;
            }
            for file in files {
                disk.remove(&file).await?;
            }
            let committed = Committed {
                journal_from: journal_from.get(topic_partition).copied(),
                synced: scan.checkpoint.segments.get(topic_partition).copied(),
                shards: &shards,
            };
            recover_segments(&disk, partition, &committed).await?;
        }
        // Every active segment ends where it should now: what earlier sessions left behind is cut off.
        write_session(&disk, shard, session, session - 1).await?;

        let mut state = State {
            partitions: loaded,
            pending: VecDeque::new(),
            pending_bytes: 0,
            pending_batch_bytes_max: 0,
            unapplied_bytes: 0,
            ripe: BTreeSet::new(),
            wants_prewritten: BTreeSet::new(),
            journal: open_journal(&disk, &options, &mut scan).await?,
            tail_cache: TailCache::default(),
            pieces: Pieces::default(),
            open_files: OpenFiles::new(options.open_files_max),
            indexes: Indexes::default(),
            failed: None,
            full: false,
            room_waiters: Vec::new(),
            doomed: BTreeSet::new(),
            uploads: 0,
        };
        replay(&disk, &mut state, &scan, &options).await?;
        for (index, file) in scan.files.iter().enumerate() {
            let mut ends = BTreeMap::new();
            for (_, entry) in scan.entries().filter(|(round, _)| round.file == index) {
                if let Entry::Batch { topic_partition, next_offset, .. }
                | Entry::Extent { topic_partition, next_offset, .. } = entry
                {
                    ends.insert(*topic_partition, *next_offset);
                }
            }
            // What was lost of it may be anything of these: it is kept for them when it is restored.
            for lost in scan.lost.iter().filter(|lost| lost.damage.place().0 == file.path) {
                let concerned = concerned(&state, lost).map(|(topic_partition, _)| topic_partition);
                for topic_partition in
                    concerned.filter(|each| state.partitions[each].damage.as_ref() == Some(&lost.damage))
                {
                    ends.insert(topic_partition, Offset(i64::MAX));
                }
            }
            let held = file.held_for.is_some();
            let made_bytes = file.made_bytes;
            let found = JournalFile::new(file.sequence, file.file.clone(), file.bytes);
            let found = JournalFile { ends, held, made_bytes, ..found };
            let needed = file.held_for.iter().flatten().any(|topic_partition| {
                state.partitions.get(topic_partition).is_some_and(|partition| partition.damage.is_some())
            });
            if needed {
                state.journal.held.push(found);
            } else {
                state.journal.old.push_back(found);
            }
        }

        let inner = Inner {
            zeros: AlignedBuffer::zeroed(ZEROS_BYTES as usize).share(),
            disk,
            options,
            session,
            state: RefCell::new(state),
            rounds: Gate::default(),
            maintenance: Gate::default(),
        };
        let store = Self { inner: Rc::new(inner) };
        store.save_files(None).await?;
        store.finish_cuts().await?;
        store.settle_journal_ends();
        let recovered = store.describe_recovered().await?;
        Ok((store, recovered))
    }

    /// A cut may have taken batches of which the journal still says that they must be synced somewhere.
    fn settle_journal_ends(&self) {
        let state = &mut *self.inner.state.borrow_mut();
        for file in &mut state.journal.old {
            for (topic_partition, end) in &mut file.ends {
                // What an offline partition has here is found nowhere else: the file stays until it is mended.
                if let Some(partition) = state.partitions.get(topic_partition)
                    && partition.damage.is_none()
                {
                    *end = (*end).min(partition.durable_end);
                }
            }
        }
    }

    async fn describe_recovered(&self) -> Result<Vec<RecoveredPartition>, DiskError> {
        let all: Vec<TopicPartition> = self.inner.state.borrow().partitions.keys().copied().collect();
        let mut recovered = Vec::with_capacity(all.len());
        for topic_partition in all {
            let end = {
                let state = self.inner.state.borrow();
                let partition = &state.partitions[&topic_partition];
                partition.damage.is_none().then_some(partition.durable_end)
            };
            if let Some(end) = end {
                self.remove_snapshots_above(topic_partition, end).await?;
            }
            let snapshot = self.newest_snapshot(topic_partition).await?;
            let (log_start_offset, damaged) = {
                let state = self.inner.state.borrow();
                let partition = &state.partitions[&topic_partition];
                (partition.log_start_offset(), partition.damage.is_some())
            };
            let from = snapshot.as_ref().map_or(log_start_offset, |(offset, _)| (*offset).max(log_start_offset));
            let mut batches_since_snapshot = Vec::new();
            let mut bytes_since_snapshot = 0;
            if !damaged {
                let visit = |header: &BatchHeader, append_time| {
                    bytes_since_snapshot += header.total_bytes() as u64;
                    if header.producer_id.is_some() {
                        batches_since_snapshot.push((*header, append_time));
                    }
                };
                if let Err(damage) = self.visit_batches(topic_partition, from, visit).await? {
                    let mut state = self.inner.state.borrow_mut();
                    if let Some(partition) = state.partitions.get_mut(&topic_partition) {
                        partition.damage = Some(damage);
                    }
                    batches_since_snapshot.clear();
                }
            }
            let state = self.inner.state.borrow();
            let partition = &state.partitions[&topic_partition];
            recovered.push(RecoveredPartition {
                topic_partition,
                log_start_offset,
                log_end_offset: partition.durable_end,
                snapshot,
                batches_since_snapshot,
                bytes_since_snapshot,
                epochs: partition.epochs_of_log(),
                error: partition.damage.clone(),
            });
        }
        Ok(recovered)
    }
}

/// Counts this opening, durably, above all that any shard has counted: extents of earlier openings are told apart by it. Also the
/// session up to which this shard's extents are settled.
async fn start_session<D: Disk>(disk: &D, shard: u16) -> Result<(u64, u64), DiskError> {
    let (mut session, mut settled) = (0, 0);
    for name in disk.list(Path::new("")).await? {
        let Some(found) = shard_of_directory(&name) else { continue };
        let bytes = read_small(disk, &session_path(found)).await?;
        let Some((last, last_settled)) = bytes.and_then(|bytes| decode_session(&bytes)) else { continue };
        session = session.max(last);
        if found == shard {
            settled = last_settled;
        }
    }
    session += 1;
    write_session(disk, shard, session, settled).await?;
    Ok((session, settled))
}

pub(crate) fn session_path(shard: u16) -> PathBuf {
    shard_directory(shard).join("session.tgm")
}

pub(crate) async fn write_session<D: Disk>(disk: &D, shard: u16, session: u64, settled: u64) -> Result<(), DiskError> {
    disk.replace(&session_path(shard), &encode_session(session, settled)).await
}

pub(crate) fn encode_session(session: u64, settled: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    bytes.put_slice(&SESSION_MAGIC);
    bytes.put_u64_le(session);
    bytes.put_u64_le(settled);
    bytes.put_u32_le(crc32c::crc32c(&bytes));
    bytes
}

/// The session, and the one up to which extents are settled.
pub(crate) fn decode_session(bytes: &[u8]) -> Option<(u64, u64)> {
    let (body, mut sum) = bytes.split_at_checked(24)?;
    let (magic, mut rest) = body.split_at(8);
    (magic == SESSION_MAGIC && sum.try_get_u32_le().ok()? == crc32c::crc32c(body))
        .then(|| (rest.get_u64_le(), rest.get_u64_le()))
}

/// A snapshot as it is stored: what is kept is opaque, so only a checksum is added.
pub(crate) fn encode_snapshot(content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 12);
    bytes.put_slice(&SNAPSHOT_MAGIC);
    bytes.put_u32_le(crc32c::crc32c(content));
    bytes.put_slice(content);
    bytes
}

pub(crate) fn decode_snapshot(bytes: &Bytes) -> Option<Bytes> {
    let sum = u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?);
    let content = bytes.slice(12..);
    (bytes.get(..8)? == SNAPSHOT_MAGIC && crc32c::crc32c(&content) == sum).then_some(content)
}

/// A small file whole; `None` if it is not there.
pub(crate) async fn read_small<D: Disk>(disk: &D, path: &Path) -> Result<Option<Bytes>, DiskError> {
    let file = match disk.open(path, Access::Buffered).await {
        Ok(file) => file,
        Err(error) if error.kind == DiskErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = disk.length(&file).await?;
    let bytes = disk.read(&file, 0, usize::try_from(length).unwrap_or(usize::MAX)).await?;
    Ok(Some(bytes))
}

/// Whether a partition without a manifest has lost it. A crash can leave the files of its first segment before they are named; then the
/// journal has everything from the first record on. `segments` are the paths of its segments and indexes.
pub(crate) fn needs_manifest(segments: &[PathBuf], journal_from: Option<Offset>) -> bool {
    !segments.is_empty() && journal_from != Some(Offset(0))
}

/// Whether a file is a segment or an index, by its name.
pub(crate) fn is_segment_or_index(name: &str) -> bool {
    name.ends_with(".tgs") || name.ends_with(".tgx")
}

/// Reads a partition's manifest. With it come the segments and indexes that the manifest does not name.
async fn load_partition<D: Disk>(disk: &D, spec: PartitionSpec) -> Result<(Partition, Vec<PathBuf>), DiskError> {
    let topic_partition = spec.topic_partition;
    let mut partition = Partition::new(topic_partition, spec.config);
    let directory = manifest::directory(topic_partition);
    let names = disk.list(&directory).await?;
    let manifest_path = manifest::manifest_path(topic_partition);
    let found = read_small(disk, &manifest_path).await?;
    if let Some(bytes) = &found {
        match Manifest::decode(bytes).filter(|manifest| manifest.topic_partition == topic_partition) {
            Some(manifest) => partition.manifest = manifest,
            None => {
                partition.damage = Some(Damage::Manifest { file: manifest_path });
                return Ok((partition, Vec::new()));
            }
        }
        partition.on_disk = true;
    }
    let mut named = BTreeSet::new();
    for segment in &partition.manifest.segments {
        let index = manifest::index_path(topic_partition, segment);
        named.extend(index.file_name().and_then(|name| name.to_str()).map(str::to_owned));
        if segment.state.is_offloaded() {
            // A file of it is what a crash left between the manifest and its removal.
            continue;
        }
        let path = manifest::segment_path(topic_partition, segment);
        named.extend(path.file_name().and_then(|name| name.to_str()).map(str::to_owned));
        let there = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| names.binary_search_by(|each| each.as_str().cmp(name)).is_ok());
        if !there && partition.damage.is_none() {
            partition.damage = Some(Damage::SegmentMissing { file: path });
        }
    }
    let mut unnamed = Vec::new();
    for name in &names {
        if is_segment_or_index(name) && !named.contains(name) {
            unnamed.push(directory.join(name));
        }
        partition.snapshots.extend(manifest::snapshot_offset(name));
    }
    partition.snapshots.sort_unstable();
    // A crash may have come between an upload and the manifest, or between that and the removal of an object.
    partition.sweep = partition.manifest.has_objects;
    partition.epochs = partition.manifest.epochs.clone();
    Ok((partition, unnamed))
}

/// Drops the last rounds, as far as nothing proves that they were flushed, from the first one on that is not whole.
pub(crate) async fn cut_torn_rounds<D: Disk>(
    disk: &D,
    scan: &mut JournalScan<D::File>,
    find_segment: &impl Fn(TopicPartition, u64) -> Option<Segment>,
) -> Result<(), DiskError> {
    let first_unproven = scan.rounds.partition_point(|round| round.header.round <= scan.flushed_through);
    let mut keep = first_unproven;
    while let Some(round) = scan.rounds.get(keep) {
        if !is_whole(disk, &scan.files[round.file], round, find_segment).await? {
            break;
        }
        keep += 1;
    }
    if let Some(torn) = scan.rounds.get(keep) {
        scan.next_round = torn.header.round;
        scan.rounds.truncate(keep);
    }
    Ok(())
}

/// Whether all bytes that a round wrote are there.
async fn is_whole<D: Disk>(
    disk: &D,
    file: &ScannedFile<D::File>,
    round: &ScannedRound,
    find_segment: &impl Fn(TopicPartition, u64) -> Option<Segment>,
) -> Result<bool, DiskError> {
    let Some(bodies) = read_bodies(disk, file, round).await? else { return Ok(false) };
    for (entry, body) in round.entries.iter().zip(&bodies) {
        match entry {
            Entry::Batch { .. } => {
                if !entry.is_body(body) {
                    return Ok(false);
                }
            }
            Entry::Extent { topic_partition, incarnation, position_blocks, length, crc, .. } => {
                // Its partition was deleted, or its segment: not a question any more.
                let Some(segment) = find_segment(*topic_partition, *incarnation) else { continue };
                let path = manifest::segment_path(*topic_partition, &segment);
                let position = u64::from(*position_blocks) * crate::disk::BLOCK_BYTES as u64;
                if segment.state.is_offloaded() {
                    // It was whole, to its end. A file that is there was begun to be fetched back, and says nothing.
                    if position + u64::from(*length) > segment.end_position {
                        return Ok(false);
                    }
                    continue;
                }
                let Ok(file) = disk.open(&path, Access::Direct).await else { continue };
                let bytes = disk.read(&file, position, *length as usize).await?;
                let header = ExtentHeader::decode(&bytes).filter(|header| header.header_crc == *crc);
                let whole = header.is_some_and(|header| decode_extent(&header, &bytes).is_some());
                if !whole {
                    return Ok(false);
                }
            }
            Entry::Truncate { .. } => {}
        }
    }
    Ok(true)
}

/// Finds the end of the active segment, and cuts off what a crash left behind it.
async fn recover_segments<D: Disk>(
    disk: &D,
    partition: &mut Partition,
    committed: &Committed<'_>,
) -> Result<(), DiskError> {
    let topic_partition = partition.manifest.topic_partition;
    let settle = |partition: &mut Partition, end: Offset| {
        partition.appended_end = end;
        partition.durable_end = end;
        partition.applied_end = end;
        // What the journal still has is synced once more before the journal lets go of it.
        partition.synced_end = committed.journal_from.map_or(end, |from| end.min(from));
    };
    let end = partition.manifest.end_offset();
    settle(partition, end);
    // The journal may have lost batches that the manifest knows the epochs of.
    partition.trim_epochs();
    let Some(entry) = partition.active_segment().copied() else { return Ok(()) };
    if partition.damage.is_some() {
        return Ok(());
    }
    let file = match disk.open(&manifest::segment_path(topic_partition, &entry), Access::Direct).await {
        Ok(file) => file,
        Err(error) => {
            partition.damage = Some(error.into());
            return Ok(());
        }
    };
    let known = read_small(disk, &manifest::index_path(topic_partition, &entry)).await?;
    let known = known.and_then(|bytes| IndexFile::decode(&bytes));
    match scan_segment(disk, topic_partition, &file, &entry, known, committed).await? {
        Ok(found) => {
            if found.file_bytes > found.segment.end_position {
                disk.set_length(&file, found.segment.end_position).await?;
                disk.sync(&file).await?;
            }
            let end = found.segment.next_offset;
            *partition.active_segment_mut().expect("it was there above") = found.segment;
            partition.active = found.active;
            for at in 0..partition.active.index.entries.len() {
                let entry = partition.active.index.entries[at];
                partition.note_epoch(entry.leader_epoch, entry.base_offset);
            }
            settle(partition, end);
        }
        Err(damage) => partition.damage = Some(damage),
    }
    partition.trim_epochs();
    Ok(())
}

/// The journal to write to: a new file, so that nothing is written after a torn end.
async fn open_journal<D: Disk>(
    disk: &D,
    options: &StoreOptions,
    scan: &mut JournalScan<D::File>,
) -> Result<Journal<D::File>, DiskError> {
    let shard = options.shard.0;
    let mut next_sequence = scan.sequence_max + 1;
    let mut ready = VecDeque::new();
    // Those that get another number now are named again once they have it.
    let files: BTreeMap<u64, u64> = scan.files.iter().map(|file| (file.sequence, file.made_bytes)).collect();
    if scan.checkpoint.files.keys().any(|sequence| !files.contains_key(sequence)) {
        scan.checkpoint.files = files;
        disk.replace(&checkpoint_path(shard), &scan.checkpoint.encode()).await?;
    }
    for unused in scan.unused.drain(..) {
        if unused.bytes < options.journal_first_file_bytes.min(options.journal_file_bytes) {
            disk.remove(&unused.path).await?;
            continue;
        }
        let sequence = next_sequence;
        next_sequence += 1;
        disk.rename(&unused.path, &file_path(shard, sequence)).await?;
        ready.push_back(JournalFile::new(sequence, unused.file, unused.bytes));
    }
    let current = match ready.pop_front() {
        Some(current) => current,
        None => {
            let sequence = next_sequence;
            next_sequence += 1;
            let bytes = options.journal_first_file_bytes.min(options.journal_file_bytes);
            let path = crate::journal::files::unfinished_path(shard);
            disk.remove(&path).await?;
            let file = disk.create(&path, Access::Direct).await?;
            let zeros = AlignedBuffer::zeroed(usize::try_from(bytes).unwrap_or(usize::MAX)).share();
            let writes = split_writes(&file, 0, &zeros, options.write_bytes_max).collect();
            disk.commit(writes, Flush::Durable).await?;
            disk.rename(&path, &file_path(shard, sequence)).await?;
            JournalFile::new(sequence, file, bytes)
        }
    };
    Ok(Journal {
        current,
        position: 0,
        ready,
        old: VecDeque::new(),
        held: Vec::new(),
        unfinished: None,
        cramped: false,
        next_sequence,
        next_round: scan.next_round,
        written_through: scan.next_round - 1,
        flushed_through: scan.next_round - 1,
        unsynced: None,
        durable_round: 0,
        checkpoint: scan.checkpoint.clone(),
        inherited_through: scan.sequence_max,
    })
}

/// Feeds the journal's batches that no segment has to their partitions.
async fn replay<D: Disk>(
    disk: &D,
    state: &mut State<D::File>,
    scan: &JournalScan<D::File>,
    options: &StoreOptions,
) -> Result<(), DiskError> {
    let mut losses = scan.lost.iter().peekable();
    // What came before a cut that is made in the segments is in the segments, or cut.
    let skip_below = scan.cuts_made(|topic_partition| {
        state.partitions.get(&topic_partition).map(|partition| partition.manifest.truncations)
    });
    // Partitions that may have lost a batch, and in which damage.
    let mut suspect: BTreeMap<TopicPartition, Damage> = BTreeMap::new();
    for (index, round) in scan.rounds.iter().enumerate() {
        while let Some(lost) = losses.next_if(|lost| lost.before <= index) {
            suspect.extend(concerned(state, lost));
        }
        replay_round(disk, state, &scan.files[round.file], round, &skip_below, &mut suspect).await?;
    }
    for lost in losses {
        suspect.extend(concerned(state, lost));
    }
    for (topic_partition, lost) in suspect {
        if let Some(partition) = state.partitions.get_mut(&topic_partition) {
            partition.damage.get_or_insert(lost);
        }
    }
    for (topic_partition, partition) in &state.partitions {
        partition.assert_invariants();
        if partition.unapplied_bytes >= options.extent_bytes {
            state.ripe.insert(*topic_partition);
        }
    }
    Ok(())
}

/// Where a journal file was cut short nobody knows which extents its last rounds committed: the segments of partitions of which no
/// later round tells are left as they are.
fn take_offline_without_end<F>(loaded: &mut BTreeMap<TopicPartition, Partition>, scan: &JournalScan<F>) {
    for lost in scan.lost.iter().filter(|lost| matches!(lost.damage, Damage::JournalCut { .. })) {
        let told: BTreeSet<TopicPartition> = scan
            .rounds
            .iter()
            .skip(lost.before)
            .flat_map(|round| round.entries.iter().map(Entry::topic_partition))
            .collect();
        for (topic_partition, partition) in &mut *loaded {
            if lost.of.as_ref().is_none_or(|of| of.contains(topic_partition)) && !told.contains(topic_partition) {
                partition.damage.get_or_insert_with(|| lost.damage.clone());
            }
        }
    }
}

/// The partitions that may have lost a batch, each with the damage.
fn concerned<F>(state: &State<F>, lost: &Lost) -> impl Iterator<Item = (TopicPartition, Damage)> {
    let all = state.partitions.keys();
    let concerned = all.filter(|each| lost.of.as_ref().is_none_or(|partitions| partitions.contains(each)));
    concerned.map(|topic_partition| (*topic_partition, lost.damage.clone()))
}

async fn replay_round<D: Disk>(
    disk: &D,
    state: &mut State<D::File>,
    file: &ScannedFile<D::File>,
    round: &ScannedRound,
    skip_below: &BTreeMap<TopicPartition, u64>,
    suspect: &mut BTreeMap<TopicPartition, Damage>,
) -> Result<(), DiskError> {
    let mut bodies: Option<Vec<Bytes>> = None;
    let mut touched = BTreeSet::new();
    let mut position = round.header.position + round.header.directory_bytes() as u64;
    for (index, entry) in round.entries.iter().enumerate() {
        let body_position = position;
        position += entry.body_bytes() as u64;
        let topic_partition = entry.topic_partition();
        if !file.concerns(topic_partition) {
            continue;
        }
        let Some(partition) = state.partitions.get_mut(&topic_partition) else { continue };
        let cut_before = skip_below.get(&topic_partition).is_some_and(|below| round.header.round <= *below);
        if partition.damage.is_some() || cut_before {
            continue;
        }
        let (base_offset, next_offset) = match *entry {
            Entry::Batch { base_offset, next_offset, .. } | Entry::Extent { base_offset, next_offset, .. } => {
                (base_offset, next_offset)
            }
            Entry::Truncate { to, number, .. } => {
                partition.unfinished_cut = Some((to, number));
                continue;
            }
        };
        if next_offset <= partition.durable_end {
            // The segment has it, and so all that came before.
            suspect.remove(&topic_partition);
            continue;
        }
        if base_offset != partition.durable_end {
            let expected = partition.durable_end;
            let gap = Damage::JournalGap { file: file.path.clone(), expected, found: base_offset };
            partition.damage = Some(suspect.remove(&topic_partition).unwrap_or(gap));
            continue;
        }
        suspect.remove(&topic_partition);
        let Entry::Batch { leader_epoch, append_time, length, .. } = *entry else {
            // Its round was whole, so it was in the segment; it is not any more.
            if let Some(segment) = partition.active_segment() {
                let file = manifest::segment_path(topic_partition, segment);
                partition.damage =
                    Some(Damage::Segment { file, position: segment.end_position, offset: partition.durable_end });
            }
            continue;
        };
        if bodies.is_none() {
            bodies = read_bodies(disk, file, round).await?;
        }
        let body = bodies.as_ref().and_then(|bodies| bodies.get(index)).filter(|body| entry.is_body(body));
        let header = body.and_then(|body| BatchHeader::parse(body).ok());
        let (Some(body), Some(header)) = (body, header) else {
            let file = file.path.clone();
            partition.damage = Some(Damage::JournalBatch { file, position: body_position, next_offset });
            continue;
        };
        partition.appended_end = next_offset;
        partition.push_durable(TailBatch {
            base_offset,
            next_offset,
            run: body.clone(),
            start: 0,
            length,
            leader_epoch,
            append_time,
            min_timestamp: header.base_timestamp,
            max_timestamp: header.max_timestamp,
            round: round.header.round,
        });
        state.unapplied_bytes += body.len();
        touched.insert(topic_partition);
    }
    if !touched.is_empty() {
        let bytes = round.header.total_bytes();
        state.tail_cache.push(round.header.round, bytes, touched.into_iter().collect());
    }
    Ok(())
}

impl<D: Disk> Store<D> {
    async fn newest_snapshot(&self, topic_partition: TopicPartition) -> Result<Option<(Offset, Bytes)>, DiskError> {
        let offsets = {
            let state = self.inner.state.borrow();
            let Some(partition) = state.partitions.get(&topic_partition) else { return Ok(None) };
            let end = partition.durable_end;
            partition.snapshots.iter().copied().filter(|offset| *offset <= end).rev().collect::<Vec<_>>()
        };
        for offset in offsets {
            let path = manifest::snapshot_path(topic_partition, offset);
            // A damaged snapshot is only a longer way: an older one, or all batches.
            if let Some(bytes) = read_small(&self.inner.disk, &path).await?.and_then(|bytes| decode_snapshot(&bytes)) {
                return Ok(Some((offset, bytes)));
            }
        }
        Ok(None)
    }

    /// Whether the partition's active segment is sealed; for callers that look before they roll.
    #[must_use]
    pub fn has_active_segment(&self, topic_partition: TopicPartition) -> bool {
        let state = self.inner.state.borrow();
        state.partitions.get(&topic_partition).is_some_and(|partition| {
            partition.manifest.segments.last().is_some_and(|segment| segment.state == SegmentState::Active)
        })
    }
}
