//! Looking at a data directory whose broker is stopped: what its files hold, and whether it is what was written.
//!
//! Nothing is changed. The rules are recovery's (`recovery.rs`): what an opening would cut off as torn is no damage here, and what
//! would take a partition offline is. Beyond that every byte of every segment is read, which recovery leaves to readers.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tidegate_records::{
    batch::BatchHeader,
    ids::{Offset, TopicPartition},
    time::Timestamp,
};

use crate::{
    disk::{Access, BLOCK_BYTES, Disk, DiskError},
    error::Damage,
    journal::{
        self,
        checkpoint::{Checkpoint, Synced, checkpoint_path},
        files::{file_path, shard_directory, shard_of_directory},
        format::{Entry, RoundHeader},
        scan::{JournalScan, PieceReader, ScannedFile, ScannedRound, read_bodies, scan_journal},
    },
    migrate,
    offload::object_key,
    recovery::{
        cut_torn_rounds, decode_session, decode_snapshot, is_segment_or_index, needs_manifest, read_small, session_path,
    },
    segment::{
        format::{self, EXTENT_HEADER_BYTES, ExtentHeader, decode_extent},
        index::{IndexEntry, IndexFile},
        manifest::{self, Manifest, Segment, SegmentState},
        scan::{Committed, ShardCommitted, extent_header_at, goes_on_later, last_append_time},
    },
};

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// What takes a partition offline.
    #[error(transparent)]
    Damage(#[from] Damage),
    #[error(
        "{} is damaged at byte {position}: the batch up to offset {next_offset} fails its checksum. The segments have it too: nothing \
         is lost, and the broker starts as always", file.display()
    )]
    JournalCopy { file: PathBuf, position: u64, next_offset: Offset },
    #[error(
        "{} is damaged at byte 0: its header cannot be read. Its rounds can: nothing is lost, and the broker starts as always",
        file.display()
    )]
    JournalHeader { file: PathBuf },
    #[error(
        "{} is missing: what was acknowledged and not in a segment yet is gone with it. Restore it from a copy; a broker that is started \
         without it goes on without what it held", file.display()
    )]
    JournalMissing { file: PathBuf },
    #[error("{} is damaged. It is made anew from its segment: start the broker, or delete the file first", file.display())]
    Index { file: PathBuf },
    #[error(
        "{} does not fit its segment: entry {entry} names no extent. Delete the file: the broker makes it anew from the segment",
        file.display()
    )]
    IndexEntry { file: PathBuf, entry: usize },
    #[error("{} is damaged. Producers' states are read from the records instead: start the broker, or delete the file", file.display())]
    Snapshot { file: PathBuf },
    #[error(
        "{} is damaged: what it says was lost is not told from what was torn. Restore it from a copy, or move the directory's journal \
         files away with it", file.display()
    )]
    Session { file: PathBuf },
    #[error(
        "{} is damaged: a segment whose last extent is damaged too would not be noticed, and journal files that are held for \
         partitions that are offline are not looked at. Restore it from a copy; the broker starts without it, and writes it anew",
        file.display()
    )]
    Checkpoint { file: PathBuf },
    #[error("{} is damaged. The broker writes it anew when it starts, after it applied every journal", file.display())]
    Layout { file: PathBuf },
    #[error(
        "{}: the segment at offset {found} does not follow the one before it, which ends at {expected}. Restore the partition's \
         directory from a copy; or, to give up the partition, delete the topic", file.display()
    )]
    SegmentGap { file: PathBuf, expected: Offset, found: Offset },
    #[error(
        "{}: the log starts at offset {log_start_offset} and ends before, at {log_end_offset}. Restore the partition's directory and \
         the journal from a copy; or, to give up the partition, delete the topic", file.display()
    )]
    StartBeyondEnd { file: PathBuf, log_start_offset: Offset, log_end_offset: Offset },
}

impl Finding {
    /// The file, and where in it, as far as that is one place.
    #[must_use]
    pub fn place(&self) -> (&Path, Option<u64>, Option<Offset>) {
        match self {
            Self::Damage(damage) => damage.place(),
            Self::JournalCopy { file, position, next_offset } => (file, Some(*position), Some(*next_offset)),
            Self::JournalHeader { file } => (file, Some(0), None),
            Self::Index { file }
            | Self::IndexEntry { file, .. }
            | Self::Snapshot { file }
            | Self::Session { file }
            | Self::JournalMissing { file }
            | Self::Checkpoint { file }
            | Self::Layout { file } => (file, None, None),
            Self::SegmentGap { file, found, .. } => (file, None, Some(*found)),
            Self::StartBeyondEnd { file, log_start_offset, .. } => (file, None, Some(*log_start_offset)),
        }
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Layout,
    Session,
    Checkpoint,
    Journal,
    Manifest,
    Segment,
    Index,
    Snapshot,
}

/// A part of a file. Parts come in order of their position, and what a part holds comes after it.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    Layout {
        shards: u16,
    },
    Session {
        session: u64,
        settled_session: u64,
    },
    Checkpoint(&'a Checkpoint),
    JournalHeader(&'a journal::format::FileHeader),
    Round(&'a RoundHeader),
    /// What a round did; the position is its batch's, the round's for an entry without one.
    Entry(&'a Entry),
    Manifest(&'a Manifest),
    SegmentHeader(&'a format::FileHeader),
    Extent {
        header: &'a ExtentHeader,
        whole: bool,
    },
    /// A batch of an entry or an extent.
    Batch {
        topic_partition: TopicPartition,
        header: &'a BatchHeader,
        append_time: Timestamp,
        bytes: &'a Bytes,
        whole: bool,
    },
    Index(&'a IndexFile),
    Snapshot {
        offset: Offset,
        content: &'a Bytes,
    },
    /// Zeros, or what is left of an earlier use, to the end of the file.
    Unused,
}

/// What is told to whoever looks.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// A file is begun. `topic_partition` is whose it is, if it is one partition's.
    File {
        path: &'a Path,
        bytes: u64,
        kind: FileKind,
        topic_partition: Option<TopicPartition>,
    },
    /// A part of the file that was begun last.
    Part {
        position: u64,
        bytes: u64,
        part: Part<'a>,
    },
    /// A segment whose bytes are in the object store, under this key: they are not looked at. Its index comes next.
    Offloaded {
        topic_partition: TopicPartition,
        segment: &'a Segment,
        key: &'a str,
    },
    Finding(&'a Finding),
}

/// Reads a data directory and tells `see` what is in it. `partitions` are those to look at; `None`: all that have files.
///
/// # Errors
/// [`DiskError`]: a directory cannot be listed. A file that cannot be read is a finding.
pub async fn verify<D: Disk>(
    disk: &D,
    partitions: Option<&BTreeSet<TopicPartition>>,
    see: &mut dyn FnMut(Seen<'_>),
) -> Result<(), DiskError> {
    let mut look = Look {
        disk,
        see,
        reported: BTreeSet::new(),
        manifests: BTreeMap::new(),
        shards: BTreeMap::new(),
        synced: BTreeMap::new(),
    };
    look.layout().await?;
    let found = look.manifests().await?;
    let wanted: BTreeSet<TopicPartition> = match partitions {
        Some(partitions) => partitions.clone(),
        None => found,
    };
    let journals = look.scan_journals().await?;
    let mut journal_from: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
    for (_, scan, _) in &journals {
        for (topic_partition, from) in scan.lowest_offsets() {
            let lowest = journal_from.entry(topic_partition).or_insert(from);
            *lowest = (*lowest).min(from);
        }
    }
    let mut ends = BTreeMap::new();
    for topic_partition in &wanted {
        let end = look.partition(*topic_partition, journal_from.get(topic_partition).copied()).await?;
        ends.insert(*topic_partition, end);
    }
    for (_, scan, torn) in &journals {
        look.journal(scan, *torn, &mut ends).await?;
    }
    for (topic_partition, end) in ends {
        let Some(log_end_offset) = end else { continue };
        let Some(manifest) = look.manifests.get(&topic_partition) else { continue };
        let log_start_offset = manifest.log_start_offset;
        if log_start_offset > log_end_offset {
            let file = manifest::manifest_path(topic_partition);
            look.find(Finding::StartBeyondEnd { file, log_start_offset, log_end_offset });
        }
    }
    Ok(())
}

/// Where a journal's torn end begins: the file, by its place among the scanned ones, and the position.
type Torn = Option<(usize, u64)>;

struct Look<'a, D: Disk> {
    disk: &'a D,
    see: &'a mut dyn FnMut(Seen<'_>),
    /// One place is named once.
    reported: BTreeSet<(PathBuf, Option<u64>)>,
    manifests: BTreeMap<TopicPartition, Manifest>,
    shards: BTreeMap<u16, ShardCommitted>,
    /// What the shards' checkpoints say of active segments: the furthest, should several know one.
    synced: BTreeMap<TopicPartition, Synced>,
}

impl<D: Disk> Look<'_, D> {
    fn find(&mut self, finding: impl Into<Finding>) {
        let finding = finding.into();
        let (file, position, _) = finding.place();
        if self.reported.insert((file.to_path_buf(), position)) {
            (self.see)(Seen::Finding(&finding));
        }
    }

    fn part(&mut self, position: u64, bytes: u64, part: Part<'_>) {
        (self.see)(Seen::Part { position, bytes, part });
    }

    /// A small file, announced; `None` if it is not there or cannot be read, which is a finding.
    async fn small(&mut self, path: &Path, kind: FileKind, topic_partition: Option<TopicPartition>) -> Option<Bytes> {
        match read_small(self.disk, path).await {
            Ok(Some(content)) => {
                (self.see)(Seen::File { path, bytes: content.len() as u64, kind, topic_partition });
                Some(content)
            }
            Ok(None) => None,
            Err(error) => {
                self.find(Damage::from(error));
                None
            }
        }
    }

    async fn layout(&mut self) -> Result<(), DiskError> {
        let file = migrate::layout_path();
        if let Some(content) = self.small(&file, FileKind::Layout, None).await {
            match migrate::decode(&content) {
                Some(shards) => {
                    self.part(0, content.len() as u64, Part::Layout { shards });
                    for shard in migrate::missing_directories(self.disk, shards).await? {
                        self.find(Finding::JournalMissing { file: shard_directory(shard) });
                    }
                }
                None => self.find(Finding::Layout { file }),
            }
        }
        Ok(())
    }

    /// Reads every manifest; which partitions have a directory.
    async fn manifests(&mut self) -> Result<BTreeSet<TopicPartition>, DiskError> {
        let names = self.disk.list(Path::new(manifest::PARTITIONS_DIRECTORY)).await?;
        let found: BTreeSet<TopicPartition> =
            names.iter().filter_map(|name| manifest::partition_of_directory(name)).collect();
        for topic_partition in &found {
            let path = manifest::manifest_path(*topic_partition);
            // One that is damaged is named when its partition is looked at.
            if let Ok(Some(content)) = read_small(self.disk, &path).await
                && let Some(manifest) = Manifest::decode(&content)
            {
                self.manifests.insert(*topic_partition, manifest);
            }
        }
        Ok(found)
    }

    async fn scan_journals(&mut self) -> Result<Vec<(u16, JournalScan<D::File>, Torn)>, DiskError> {
        let mut journals = Vec::new();
        let names = self.disk.list(Path::new("")).await?;
        for shard in names.iter().filter_map(|name| shard_of_directory(name)) {
            let mut settled_session = 0;
            let file = session_path(shard);
            if let Some(content) = self.small(&file, FileKind::Session, None).await {
                match decode_session(&content) {
                    Some((session, settled)) => {
                        settled_session = settled;
                        self.part(0, content.len() as u64, Part::Session { session, settled_session });
                    }
                    None => self.find(Finding::Session { file }),
                }
            }
            self.checkpoint(shard).await;
            let mut scan = match scan_journal(self.disk, shard).await {
                Ok(scan) => scan,
                Err(error) => {
                    self.find(Damage::from(error));
                    continue;
                }
            };
            for sequence in &scan.missing {
                self.find(Finding::JournalMissing { file: file_path(shard, *sequence) });
            }
            let unproven: Vec<_> = scan.rounds.iter().map(|round| (round.file, round.header.position)).collect();
            let manifests = &self.manifests;
            let find_segment = |topic_partition: TopicPartition, incarnation: u64| {
                manifests.get(&topic_partition).and_then(|manifest| manifest.find_segment(incarnation))
            };
            if let Err(error) = cut_torn_rounds(self.disk, &mut scan, &find_segment).await {
                self.find(Damage::from(error));
                continue;
            }
            let torn = unproven.get(scan.rounds.len()).copied();
            self.shards.insert(shard, ShardCommitted { settled_session, last_round: scan.last_round() });
            journals.push((shard, scan, torn));
        }
        Ok(journals)
    }

    async fn checkpoint(&mut self, shard: u16) {
        let file = checkpoint_path(shard);
        let Some(content) = self.small(&file, FileKind::Checkpoint, None).await else { return };
        let Some(checkpoint) = Checkpoint::decode(&content) else { return self.find(Finding::Checkpoint { file }) };
        self.part(0, content.len() as u64, Part::Checkpoint(&checkpoint));
        for (topic_partition, synced) in checkpoint.segments {
            let known = self.synced.entry(topic_partition).or_insert(synced);
            if (synced.incarnation, synced.position) > (known.incarnation, known.position) {
                *known = synced;
            }
        }
    }

    /// Looks at a partition's files. Where its segments end; `None` if they are damaged.
    async fn partition(
        &mut self,
        topic_partition: TopicPartition,
        journal_from: Option<Offset>,
    ) -> Result<Option<Offset>, DiskError> {
        let directory = manifest::directory(topic_partition);
        let path = manifest::manifest_path(topic_partition);
        let whose = Some(topic_partition);
        let content = self.small(&path, FileKind::Manifest, whose).await;
        let mut end = Some(Offset(0));
        if let Some(content) = content {
            match Manifest::decode(&content).filter(|manifest| manifest.topic_partition == topic_partition) {
                Some(manifest) => {
                    self.part(0, content.len() as u64, Part::Manifest(&manifest));
                    end = Some(manifest.end_offset());
                    for (before, after) in manifest.segments.iter().zip(manifest.segments.iter().skip(1)) {
                        if before.next_offset != after.base_offset {
                            let (expected, found) = (before.next_offset, after.base_offset);
                            self.find(Finding::SegmentGap { file: path.clone(), expected, found });
                        }
                    }
                    for segment in &manifest.segments {
                        let shards = std::mem::take(&mut self.shards);
                        let synced = self.synced.get(&topic_partition).copied();
                        let committed = Committed { journal_from, synced, shards: &shards };
                        let found = self.segment(topic_partition, segment, &committed).await;
                        self.shards = shards;
                        match found {
                            Ok(segment_end) => end = end.and(segment_end),
                            Err(error) => {
                                end = None;
                                self.find(Damage::from(error));
                            }
                        }
                    }
                }
                None => {
                    end = None;
                    self.find(Damage::Manifest { file: path.clone() });
                }
            }
        }
        let names = self.disk.list(&directory).await?;
        if !self.manifests.contains_key(&topic_partition) && end.is_some() {
            let segments: Vec<PathBuf> =
                names.iter().filter(|name| is_segment_or_index(name)).map(|name| directory.join(name)).collect();
            if needs_manifest(&segments, journal_from) {
                end = None;
                self.find(Damage::ManifestMissing { file: path });
            } else if self.synced.contains_key(&topic_partition) {
                end = None;
                self.find(Damage::PartitionMissing { file: path });
            }
        }
        for name in names {
            let Some(offset) = manifest::snapshot_offset(&name) else { continue };
            let file = directory.join(name);
            let Some(content) = self.small(&file, FileKind::Snapshot, whose).await else { continue };
            match decode_snapshot(&content) {
                Some(inner) => {
                    self.part(0, content.len() as u64, Part::Snapshot { offset, content: &inner });
                }
                None => self.find(Finding::Snapshot { file }),
            }
        }
        Ok(end)
    }

    /// Looks at a segment and its index. Where it ends; `None` if it is damaged.
    async fn segment(
        &mut self,
        topic_partition: TopicPartition,
        entry: &Segment,
        committed: &Committed<'_>,
    ) -> Result<Option<Offset>, DiskError> {
        if let Some(key) = object_key(topic_partition, entry) {
            self.offloaded(topic_partition, entry, &key).await;
            return Ok(Some(entry.next_offset));
        }
        let path = manifest::segment_path(topic_partition, entry);
        let file = match self.disk.open(&path, Access::Direct).await {
            Ok(file) => file,
            Err(error) if error.kind == crate::disk::DiskErrorKind::NotFound => {
                self.find(Damage::SegmentMissing { file: path });
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let file_bytes = self.disk.length(&file).await?;
        let whose = Some(topic_partition);
        (self.see)(Seen::File { path: &path, bytes: file_bytes, kind: FileKind::Segment, topic_partition: whose });
        let mut reader = PieceReader::new(self.disk, &file, file_bytes);
        let header = reader.read(0, BLOCK_BYTES).await?.and_then(|block| format::FileHeader::decode(&block));
        let ours = header.filter(|header| {
            header.topic_partition == topic_partition
                && header.incarnation == entry.incarnation
                && header.base_offset == entry.base_offset
        });
        let mut whole = ours.is_some();
        match &ours {
            Some(header) => self.part(0, format::FILE_HEADER_BYTES, Part::SegmentHeader(header)),
            None => self.find(Damage::Segment { file: path.clone(), position: 0, offset: entry.base_offset }),
        }
        let mut extents = Vec::new();
        let (walked, undamaged) = match entry.state {
            SegmentState::Sealed | SegmentState::Offloaded { .. } => {
                self.sealed_extents(topic_partition, entry, &mut reader, &mut extents).await?
            }
            SegmentState::Active => {
                self.active_extents(topic_partition, entry, &mut reader, committed, &mut extents).await?
            }
        };
        whole &= undamaged;
        if walked.end_position < file_bytes {
            self.part(walked.end_position, file_bytes - walked.end_position, Part::Unused);
        }
        let index_path = manifest::index_path(topic_partition, entry);
        if let Some(content) = self.small(&index_path, FileKind::Index, whose).await {
            whole &= self.index(topic_partition, entry, &content, index_path, &extents, whole.then_some(&walked));
        }
        Ok(whole.then_some(match entry.state {
            SegmentState::Sealed | SegmentState::Offloaded { .. } => entry.next_offset,
            SegmentState::Active => walked.next_offset,
        }))
    }

    /// A segment that is in the object store: its index is all that there is to look at.
    async fn offloaded(&mut self, topic_partition: TopicPartition, entry: &Segment, key: &str) {
        (self.see)(Seen::Offloaded { topic_partition, segment: entry, key });
        let file = manifest::index_path(topic_partition, entry);
        let Some(content) = self.small(&file, FileKind::Index, Some(topic_partition)).await else { return };
        let Some(index) = IndexFile::decode(&content) else { return self.find(Finding::Index { file }) };
        self.part(0, content.len() as u64, Part::Index(&index));
        let is_ours = index.topic_partition == topic_partition
            && index.segment.incarnation == entry.incarnation
            && index.segment.end_position == entry.end_position;
        if !is_ours {
            self.find(Finding::Index { file });
        }
    }

    /// Every extent of a sealed segment. After damage it goes on at the next extent that can be read, so that all of it is named.
    async fn sealed_extents(
        &mut self,
        topic_partition: TopicPartition,
        entry: &Segment,
        reader: &mut PieceReader<'_, D>,
        extents: &mut Vec<IndexEntry>,
    ) -> Result<(Segment, bool), DiskError> {
        let path = manifest::segment_path(topic_partition, entry);
        let mut walked = Segment::new(entry.base_offset, entry.incarnation);
        let mut whole = true;
        while walked.end_position < entry.end_position {
            let position = walked.end_position;
            let header = extent_header_at(reader, topic_partition, entry.incarnation, position).await?;
            if let Some(header) = header.filter(|header| header.base_offset == walked.next_offset) {
                let bytes = reader.read(position, header.total_bytes()).await?.unwrap_or_default();
                if !self.extent(&header, &bytes) {
                    whole = false;
                    self.find(Damage::Segment { file: path.clone(), position, offset: header.base_offset });
                }
                walked.add(&header, last_append_time(&header, &bytes));
                extents.push(IndexEntry::new(&header));
                continue;
            }
            whole = false;
            self.find(Damage::Segment { file: path.clone(), position, offset: walked.next_offset });
            loop {
                walked.end_position += BLOCK_BYTES as u64;
                if walked.end_position + EXTENT_HEADER_BYTES as u64 > entry.end_position {
                    walked.end_position = entry.end_position;
                    break;
                }
                let later = extent_header_at(reader, topic_partition, entry.incarnation, walked.end_position).await?;
                if let Some(later) = later.filter(|later| later.base_offset >= walked.next_offset) {
                    walked.next_offset = later.base_offset;
                    break;
                }
            }
        }
        Ok((walked, whole))
    }

    /// The extents of the active segment, up to where recovery would end it.
    async fn active_extents(
        &mut self,
        topic_partition: TopicPartition,
        entry: &Segment,
        reader: &mut PieceReader<'_, D>,
        committed: &Committed<'_>,
        extents: &mut Vec<IndexEntry>,
    ) -> Result<(Segment, bool), DiskError> {
        let path = manifest::segment_path(topic_partition, entry);
        let mut walked = Segment::new(entry.base_offset, entry.incarnation);
        let mut session = 0;
        let mut whole = true;
        loop {
            let position = walked.end_position;
            let header = extent_header_at(reader, topic_partition, entry.incarnation, position).await?;
            let Some(header) = header.filter(|header| {
                header.base_offset == walked.next_offset
                    && header.place.session >= session
                    && committed.includes(header)
            }) else {
                break;
            };
            let bytes = reader.read(position, header.total_bytes()).await?.unwrap_or_default();
            let readable = decode_extent(&header, &bytes).is_some();
            if !readable && !committed.is_settled(header.next_offset) {
                // Torn: the journal has it.
                break;
            }
            self.extent(&header, &bytes);
            if !readable {
                whole = false;
                self.find(Damage::Segment { file: path.clone(), position, offset: header.base_offset });
            }
            session = header.place.session;
            walked.add(&header, last_append_time(&header, &bytes));
            extents.push(IndexEntry::new(&header));
        }
        let settled = committed.is_settled(walked.next_offset);
        if committed.is_short(&walked)
            || (settled && goes_on_later(reader, topic_partition, &walked, session, committed).await?)
        {
            whole = false;
            self.find(Damage::Segment { file: path, position: walked.end_position, offset: walked.next_offset });
        }
        Ok((walked, whole))
    }

    /// Tells of an extent and its batches; whether it is whole.
    fn extent(&mut self, header: &ExtentHeader, bytes: &Bytes) -> bool {
        let batches = decode_extent(header, bytes);
        let whole = batches.is_some();
        self.part(header.position, header.total_bytes() as u64, Part::Extent { header, whole });
        for batch in batches.unwrap_or_default() {
            let position = header.position + batch.range.start as u64;
            let content = bytes.slice(batch.range.clone());
            let part = Part::Batch {
                topic_partition: header.place.topic_partition,
                header: &batch.header,
                append_time: batch.append_time,
                bytes: &content,
                whole: true,
            };
            self.part(position, batch.range.len() as u64, part);
        }
        whole
    }

    /// Compares an index with the extents that stand in the segment. `false`: the segment lost what the index knows.
    fn index(
        &mut self,
        topic_partition: TopicPartition,
        entry: &Segment,
        content: &Bytes,
        file: PathBuf,
        extents: &[IndexEntry],
        walked: Option<&Segment>,
    ) -> bool {
        let Some(index) = IndexFile::decode(content) else {
            self.find(Finding::Index { file });
            return true;
        };
        self.part(0, content.len() as u64, Part::Index(&index));
        let ours = index.topic_partition == topic_partition
            && index.segment.incarnation == entry.incarnation
            && index.segment.base_offset == entry.base_offset;
        if !ours {
            self.find(Finding::Index { file });
            return true;
        }
        // A damaged segment was named; what its index says beside it is no news.
        let Some(walked) = walked else { return true };
        let entries = &index.index.entries;
        if entry.state == SegmentState::Active && index.segment.end_position > walked.end_position {
            let position = walked.end_position;
            let file = manifest::segment_path(topic_partition, entry);
            self.find(Damage::Segment { file, position, offset: walked.next_offset });
            return false;
        }
        let differs = entries.iter().zip(extents).position(|(stored, found)| stored != found);
        let too_long = (entries.len() > extents.len()).then_some(extents.len());
        let too_short = (entry.state == SegmentState::Sealed && entries.len() < extents.len()).then_some(entries.len());
        if let Some(entry) = differs.or(too_long).or(too_short) {
            self.find(Finding::IndexEntry { file, entry });
        }
        true
    }

    /// Looks at a shard's journal, and whether it goes on where the segments end.
    async fn journal(
        &mut self,
        scan: &JournalScan<D::File>,
        torn: Torn,
        ends: &mut BTreeMap<TopicPartition, Option<Offset>>,
    ) -> Result<(), DiskError> {
        for lost in &scan.lost {
            self.find(lost.damage.clone());
        }
        let manifests = &self.manifests;
        let cuts =
            scan.cuts_made(|topic_partition| manifests.get(&topic_partition).map(|manifest| manifest.truncations));
        for (at, file) in scan.files.iter().enumerate() {
            if let Err(error) = self.journal_file_header(file).await {
                self.find(Damage::from(error));
                continue;
            }
            let mut position = journal::format::FILE_HEADER_BYTES;
            for round in scan.rounds.iter().filter(|round| round.file == at) {
                if let Err(error) = self.round(file, round, &cuts, ends).await {
                    self.find(Damage::from(error));
                }
                position = round.header.position + round.header.total_bytes() as u64;
            }
            if let Some((_, start)) = torn.filter(|(torn, _)| *torn == at) {
                position = start;
            }
            self.part(position, file.bytes.saturating_sub(position), Part::Unused);
        }
        for file in &scan.unused {
            let kind = FileKind::Journal;
            (self.see)(Seen::File { path: &file.path, bytes: file.bytes, kind, topic_partition: None });
            self.part(0, file.bytes, Part::Unused);
        }
        Ok(())
    }

    async fn journal_file_header(&mut self, file: &ScannedFile<D::File>) -> Result<(), DiskError> {
        let kind = FileKind::Journal;
        (self.see)(Seen::File { path: &file.path, bytes: file.bytes, kind, topic_partition: None });
        let block = self.disk.read(&file.file, 0, BLOCK_BYTES).await?;
        let header = journal::format::FileHeader::decode(&block).filter(|header| header.sequence == file.sequence);
        match header {
            Some(header) => self.part(0, journal::format::FILE_HEADER_BYTES, Part::JournalHeader(&header)),
            // It was named with what was cut off.
            None if file.is_cut() => {}
            None => self.find(Finding::JournalHeader { file: file.path.clone() }),
        }
        Ok(())
    }

    async fn round(
        &mut self,
        file: &ScannedFile<D::File>,
        round: &ScannedRound,
        cuts: &BTreeMap<TopicPartition, u64>,
        ends: &mut BTreeMap<TopicPartition, Option<Offset>>,
    ) -> Result<(), DiskError> {
        let header = &round.header;
        self.part(header.position, header.total_bytes() as u64, Part::Round(header));
        let bodies = read_bodies(self.disk, file, round).await?.unwrap_or_default();
        let mut position = header.position + header.directory_bytes() as u64;
        for (index, entry) in round.entries.iter().enumerate() {
            let at = position;
            position += entry.body_bytes() as u64;
            let topic_partition = entry.topic_partition();
            if !file.concerns(topic_partition) {
                continue;
            }
            let Some(end) = ends.get_mut(&topic_partition) else { continue };
            let before = *end;
            let cut_before = cuts.get(&topic_partition).is_some_and(|below| header.round <= *below);
            self.part(
                if entry.body_bytes() > 0 { at } else { header.position },
                entry.body_bytes() as u64,
                Part::Entry(entry),
            );
            let (base_offset, next_offset) = match *entry {
                Entry::Batch { base_offset, next_offset, .. } | Entry::Extent { base_offset, next_offset, .. } => {
                    (base_offset, next_offset)
                }
                Entry::Truncate { .. } => continue,
            };
            let applied = cut_before || before.is_some_and(|end| next_offset <= end);
            if let (false, Some(expected)) = (applied, before) {
                *end = Some(next_offset);
                if base_offset != expected {
                    *end = None;
                    self.find(Damage::JournalGap { file: file.path.clone(), expected, found: base_offset });
                }
            }
            match *entry {
                Entry::Batch { append_time, .. } => {
                    let Some(body) = bodies.get(index) else {
                        self.find(Damage::JournalBatch { file: file.path.clone(), position: at, next_offset });
                        continue;
                    };
                    let whole = entry.is_body(body);
                    if let Ok(batch) = BatchHeader::parse(body) {
                        let part = Part::Batch { topic_partition, header: &batch, append_time, bytes: body, whole };
                        self.part(at, body.len() as u64, part);
                    }
                    match (whole, applied) {
                        (true, _) => {}
                        (false, true) => {
                            self.find(Finding::JournalCopy { file: file.path.clone(), position: at, next_offset });
                        }
                        (false, false) => {
                            self.find(Damage::JournalBatch { file: file.path.clone(), position: at, next_offset });
                        }
                    }
                }
                Entry::Extent { incarnation, position_blocks, crc, .. } => {
                    let position = u64::from(position_blocks) * BLOCK_BYTES as u64;
                    self.direct_extent(topic_partition, incarnation, position, crc, base_offset).await?;
                }
                Entry::Truncate { .. } => {}
            }
        }
        Ok(())
    }

    /// Whether an extent that a round wrote straight into a segment is still there, if its segment is, and is here.
    async fn direct_extent(
        &mut self,
        topic_partition: TopicPartition,
        incarnation: u64,
        position: u64,
        crc: u32,
        offset: Offset,
    ) -> Result<(), DiskError> {
        let segment = self.manifests.get(&topic_partition).and_then(|manifest| manifest.find_segment(incarnation));
        // A file of an offloaded one was begun to be fetched back, and is removed when the store opens.
        let Some(segment) = segment.filter(|segment| !segment.state.is_offloaded()) else { return Ok(()) };
        let path = manifest::segment_path(topic_partition, &segment);
        // A file that is missing was named.
        let Ok(file) = self.disk.open(&path, Access::Direct).await else { return Ok(()) };
        let bytes = self.disk.read(&file, position, EXTENT_HEADER_BYTES).await?;
        if ExtentHeader::decode(&bytes).is_none_or(|header| header.header_crc != crc) {
            self.find(Damage::Segment { file: path, position, offset });
        }
        Ok(())
    }
}
