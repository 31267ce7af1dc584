//! Reading a journal back: which rounds are whole, where it ends, and whether something in its middle is damaged.
//!
//! A round that cannot be read is a torn tail (normal) unless something later proves that it was flushed: then it is damage. Every
//! round and every file header says up to which round all was on stable storage when it was written.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use bytes::Bytes;
use tidegate_records::ids::{Offset, TopicPartition};

use super::{
    checkpoint::{Checkpoint, checkpoint_path},
    files::{file_path, file_sequence, held_path, held_sequence, shard_directory},
    format::{ENTRY_BYTES, Entry, FILE_HEADER_BYTES, FileHeader, ROUND_HEADER_BYTES, RoundHeader, decode_directory},
};
use crate::{
    disk::{Access, BLOCK_BYTES, Disk, DiskError},
    error::Damage,
    recovery::read_small,
};

/// Reads a file front to back in pieces.
pub(crate) struct PieceReader<'a, D: Disk> {
    disk: &'a D,
    file: &'a D::File,
    file_bytes: u64,
    start: u64,
    piece: Bytes,
}

impl<'a, D: Disk> PieceReader<'a, D> {
    const PIECE_BYTES: usize = 1 << 20;

    pub(crate) fn new(disk: &'a D, file: &'a D::File, file_bytes: u64) -> Self {
        Self { disk, file, file_bytes, start: 0, piece: Bytes::new() }
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Exactly `length` bytes from `position`; `None` where the file ends before.
    pub(crate) async fn read(&mut self, position: u64, length: usize) -> Result<Option<Bytes>, DiskError> {
        let Some(end) = position.checked_add(length as u64).filter(|end| *end <= self.file_bytes) else {
            return Ok(None);
        };
        let held = position >= self.start && end <= self.start + self.piece.len() as u64;
        if !held {
            let left = usize::try_from(self.file_bytes - position).unwrap_or(usize::MAX);
            self.piece = self.disk.read(self.file, position, length.max(Self::PIECE_BYTES).min(left)).await?;
            self.start = position;
            self.disk.yield_now().await;
        }
        let skip = usize::try_from(position - self.start).unwrap_or(usize::MAX);
        Ok((skip + length <= self.piece.len()).then(|| self.piece.slice(skip..skip + length)))
    }
}

/// A file of the journal with rounds in it.
pub(crate) struct ScannedFile<F> {
    pub(crate) sequence: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: F,
    pub(crate) bytes: u64,
    /// How many it was made with. A file gets its name when all of them are on stable storage, so no crash makes it shorter.
    pub(crate) made_bytes: u64,
    /// Of a file that is held: the partitions that it is held for. What it says of others is history.
    pub(crate) held_for: Option<BTreeSet<TopicPartition>>,
}

impl<F> ScannedFile<F> {
    pub(crate) fn is_cut(&self) -> bool {
        self.bytes < self.made_bytes
    }

    /// Whether what the file says of a partition counts.
    pub(crate) fn concerns(&self, topic_partition: TopicPartition) -> bool {
        self.held_for.as_ref().is_none_or(|partitions| partitions.contains(&topic_partition))
    }
}

/// A round whose header and directory are whole.
pub(crate) struct ScannedRound {
    /// Index into the files.
    pub(crate) file: usize,
    pub(crate) header: RoundHeader,
    pub(crate) entries: Vec<Entry>,
}

/// A stretch of the journal that cannot be read though it was flushed.
pub(crate) struct Lost {
    /// Before which of the rounds it was.
    pub(crate) before: usize,
    /// The partitions that it may concern; `None`: all.
    pub(crate) of: Option<BTreeSet<TopicPartition>>,
    pub(crate) damage: Damage,
}

/// What a journal holds.
pub(crate) struct JournalScan<F> {
    /// By sequence, those that are held first.
    pub(crate) files: Vec<ScannedFile<F>>,
    /// Pre-written files without a round of their own.
    pub(crate) unused: Vec<ScannedFile<F>>,
    pub(crate) rounds: Vec<ScannedRound>,
    pub(crate) lost: Vec<Lost>,
    pub(crate) checkpoint: Checkpoint,
    /// Of files that the checkpoint names and that are not there, the sequences.
    pub(crate) missing: Vec<u64>,
    /// The number that follows the last round.
    pub(crate) next_round: u64,
    /// All rounds up to this one are known to have been flushed.
    pub(crate) flushed_through: u64,
    /// The largest sequence of any file.
    pub(crate) sequence_max: u64,
}

impl<F> JournalScan<F> {
    /// Of each partition the offset from which on the journal has its batches.
    pub(crate) fn lowest_offsets(&self) -> BTreeMap<TopicPartition, Offset> {
        let mut lowest = BTreeMap::new();
        for (_, entry) in self.entries() {
            if let Entry::Batch { topic_partition, base_offset, .. }
            | Entry::Extent { topic_partition, base_offset, .. } = entry
            {
                // The lowest, not the first: after a cut the log went on below where it was.
                let from = lowest.entry(*topic_partition).or_insert(*base_offset);
                *from = (*from).min(*base_offset);
            }
        }
        lowest
    }

    /// All entries that count, each with its round.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&ScannedRound, &Entry)> {
        self.rounds.iter().flat_map(|round| {
            let file = &self.files[round.file];
            let entries = round.entries.iter().filter(|entry| file.concerns(entry.topic_partition()));
            entries.map(move |entry| (round, entry))
        })
    }

    /// The session and number of the last round that is known to have been whole; zeros without one.
    pub(crate) fn last_round(&self) -> (u64, u64) {
        let last = self.rounds.last().map_or((0, 0), |round| (round.header.session, round.header.round));
        last.max(self.checkpoint.last_round)
    }

    /// Of each partition the last round before which all was cut or is in the segments; `cuts` says how many cuts those have.
    pub(crate) fn cuts_made(&self, cuts: impl Fn(TopicPartition) -> Option<u64>) -> BTreeMap<TopicPartition, u64> {
        let mut made = BTreeMap::new();
        for (round, entry) in self.entries() {
            if let Entry::Truncate { topic_partition, number, .. } = entry
                && cuts(*topic_partition).is_some_and(|cuts| *number <= cuts)
            {
                made.insert(*topic_partition, round.header.round);
            }
        }
        made
    }
}

struct Found {
    header: RoundHeader,
    entries: Vec<Entry>,
}

/// The round at `position`; `None` if there is none that is whole.
async fn round_at<D: Disk>(
    reader: &mut PieceReader<'_, D>,
    sequence: u64,
    position: u64,
) -> Result<Option<Found>, DiskError> {
    let Some(bytes) = reader.read(position, ROUND_HEADER_BYTES).await? else { return Ok(None) };
    let Some(header) = RoundHeader::decode(&bytes) else { return Ok(None) };
    let room = reader.file_bytes() - position;
    let needed = u64::from(header.entries_count) * ENTRY_BYTES as u64 + u64::from(header.body_bytes);
    if header.sequence != sequence || header.position != position || needed + ROUND_HEADER_BYTES as u64 > room {
        return Ok(None);
    }
    let Some(bytes) = reader.read(position, header.directory_bytes()).await? else { return Ok(None) };
    Ok(decode_directory(&bytes).map(|(header, entries)| Found { header, entries }))
}

/// Reads the journal of `shard`. Batches' bytes are not looked at yet.
pub(crate) async fn scan_journal<D: Disk>(disk: &D, shard: u16) -> Result<JournalScan<D::File>, DiskError> {
    let mut scan = JournalScan {
        files: Vec::new(),
        unused: Vec::new(),
        rounds: Vec::new(),
        lost: Vec::new(),
        checkpoint: Checkpoint::default(),
        missing: Vec::new(),
        next_round: 1,
        flushed_through: 0,
        sequence_max: 0,
    };
    if let Some(checkpoint) =
        read_small(disk, &checkpoint_path(shard)).await?.and_then(|bytes| Checkpoint::decode(&bytes))
    {
        scan.checkpoint = checkpoint;
    }
    let names = disk.list(&shard_directory(shard)).await?;
    scan_held(disk, shard, &names, &mut scan).await?;
    let after_held = scan.rounds.last().map_or(1, |round| round.header.round + 1);
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| file_sequence(name)).collect();
    sequences.sort_unstable();
    scan.missing = missing_files(&scan.checkpoint, &names).collect();
    let mut next_round = None;
    let mut cut = Vec::new();
    for sequence in sequences {
        scan.sequence_max = scan.sequence_max.max(sequence);
        let path = file_path(shard, sequence);
        let file = disk.open(&path, Access::Direct).await?;
        let bytes = disk.length(&file).await?;
        let made_bytes = made_bytes(&scan.checkpoint, sequence, bytes);
        let scanned = ScannedFile { sequence, path, file, bytes, made_bytes, held_for: None };
        scan_file(disk, scanned, &mut scan, &mut next_round, &mut cut).await?;
    }
    lose_cut(&mut scan, cut);
    scan.next_round = next_round.unwrap_or(1).max(after_held);
    Ok(scan)
}

/// Of the files that a checkpoint names those that are not among `names`, the names in a shard's directory.
pub(crate) fn missing_files(checkpoint: &Checkpoint, names: &[String]) -> impl Iterator<Item = u64> {
    let there: BTreeSet<u64> =
        names.iter().filter_map(|name| file_sequence(name).or_else(|| held_sequence(name))).collect();
    checkpoint.files.keys().copied().filter(move |sequence| !there.contains(sequence))
}

/// What a file of `bytes` was made with. Where no checkpoint says it, it was some blocks, and a header at least.
fn made_bytes(checkpoint: &Checkpoint, sequence: u64, bytes: u64) -> u64 {
    let least = bytes.next_multiple_of(BLOCK_BYTES as u64).max(2 * FILE_HEADER_BYTES);
    checkpoint.files.get(&sequence).copied().unwrap_or(0).max(least)
}

/// What files that were cut short may have had is lost.
fn lose_cut<F>(scan: &mut JournalScan<F>, cut: Vec<Damage>) {
    let before = scan.rounds.len();
    scan.lost.extend(cut.into_iter().map(|damage| Lost { before, of: None, damage }));
}

/// Adds the files that are held. One that the checkpoint does not know is left alone: nobody can say for whom it is.
async fn scan_held<D: Disk>(
    disk: &D,
    shard: u16,
    names: &[String],
    scan: &mut JournalScan<D::File>,
) -> Result<(), DiskError> {
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| held_sequence(name)).collect();
    sequences.sort_unstable();
    for sequence in sequences {
        scan.sequence_max = scan.sequence_max.max(sequence);
        let Some(partitions) = scan.checkpoint.held.get(&sequence) else { continue };
        let held_for: BTreeSet<TopicPartition> = partitions.iter().copied().collect();
        let path = held_path(shard, sequence);
        let file = disk.open(&path, Access::Direct).await?;
        let bytes = disk.length(&file).await?;
        let made_bytes = made_bytes(&scan.checkpoint, sequence, bytes);
        let scanned = ScannedFile { sequence, path, file, bytes, made_bytes, held_for: Some(held_for.clone()) };
        let lost_before = scan.lost.len();
        // The numbers of its rounds go on in no other file.
        let mut cut = Vec::new();
        scan_file(disk, scanned, scan, &mut None, &mut cut).await?;
        lose_cut(scan, cut);
        for lost in &mut scan.lost[lost_before..] {
            lost.of = Some(held_for.clone());
        }
        if let Some(unreadable) = scan.unused.pop() {
            let damage = Damage::JournalRound { file: unreadable.path.clone(), position: FILE_HEADER_BYTES, round: 0 };
            scan.lost.push(Lost { before: scan.rounds.len(), of: Some(held_for), damage });
            scan.files.push(unreadable);
        }
        // It was put aside after what it has was flushed.
        let last = scan.rounds.last().map_or(0, |round| round.header.round);
        scan.flushed_through = scan.flushed_through.max(last);
    }
    Ok(())
}

/// Adds the rounds of one file. `cut`: files that were cut short, as long as nothing shows that their rounds are all there.
async fn scan_file<D: Disk>(
    disk: &D,
    scanned: ScannedFile<D::File>,
    scan: &mut JournalScan<D::File>,
    next_round: &mut Option<u64>,
    cut: &mut Vec<Damage>,
) -> Result<(), DiskError> {
    let file = scanned.file.clone();
    let mut reader = PieceReader::new(disk, &file, scanned.bytes);
    let header = match reader.read(0, BLOCK_BYTES).await? {
        Some(block) => FileHeader::decode(&block).filter(|header| header.sequence == scanned.sequence),
        None => None,
    };
    if let Some(header) = &header {
        scan.flushed_through = scan.flushed_through.max(header.flushed_through);
        // An earlier opening found these torn and went on in this file.
        while scan.rounds.last().is_some_and(|round| round.header.round >= header.first_round) {
            scan.rounds.pop();
            *next_round = Some(header.first_round);
        }
        // A later opening counts on from what it could read: only the session of the rounds shows that none is missing before this file.
        let last = scan.rounds.last().filter(|last| last.header.session == header.session);
        let goes_on = last.is_some_and(|last| last.header.round + 1 == header.first_round);
        if !cut.is_empty() && !goes_on {
            lose_cut(scan, std::mem::take(cut));
        } else if let Some(expected) = next_round.filter(|expected| *expected < header.first_round) {
            // The file before lost its last rounds, though this one was begun after they were flushed.
            let file = scan.files.last().map_or_else(|| scanned.path.clone(), |file| file.path.clone());
            let position = scan
                .rounds
                .last()
                .map_or(FILE_HEADER_BYTES, |round| round.header.position + round.header.total_bytes() as u64);
            let damage = Damage::JournalRound { file, position, round: expected };
            scan.lost.push(Lost { before: scan.rounds.len(), of: None, damage });
        }
        cut.clear();
        *next_round = Some(header.first_round);
    }
    let index = scan.files.len();
    let mut position = FILE_HEADER_BYTES;
    let mut used = header.is_some();
    loop {
        let mut found = None;
        // Without its header a file counts as used only if a later round proves that it was.
        if used {
            found = round_at(&mut reader, scanned.sequence, position).await?;
            found = found.filter(|found| next_round.is_none_or(|expected| found.header.round == expected));
        }
        if found.is_none() {
            found = find_later(&mut reader, scanned.sequence, position, *next_round).await?;
            if let Some(later) = &found {
                let round = next_round.unwrap_or(later.header.round);
                let damage = Damage::JournalRound { file: scanned.path.clone(), position, round };
                scan.lost.push(Lost { before: scan.rounds.len(), of: None, damage });
                position = later.header.position;
            }
        }
        let Some(found) = found else { break };
        used = true;
        scan.flushed_through = scan.flushed_through.max(found.header.flushed_through);
        *next_round = Some(found.header.round + 1);
        position += found.header.total_bytes() as u64;
        scan.rounds.push(ScannedRound { file: index, header: found.header, entries: found.entries });
    }
    if scanned.is_cut() {
        cut.push(Damage::JournalCut { file: scanned.path.clone(), bytes: scanned.bytes });
    }
    if used || scanned.is_cut() {
        scan.files.push(scanned);
    } else {
        scan.unused.push(scanned);
    }
    Ok(())
}

/// The first whole round from `position` on that proves that the round expected there was flushed.
async fn find_later<D: Disk>(
    reader: &mut PieceReader<'_, D>,
    sequence: u64,
    mut position: u64,
    expected: Option<u64>,
) -> Result<Option<Found>, DiskError> {
    while let Some(bytes) = reader.read(position, ROUND_HEADER_BYTES).await? {
        let proves = RoundHeader::decode(&bytes).is_some_and(|header| match expected {
            Some(expected) => header.round > expected && header.flushed_through >= expected,
            // Nothing is known of what was here: the round before this one stood in this file, and was flushed.
            None => position > FILE_HEADER_BYTES && header.flushed_through + 1 == header.round,
        });
        if proves && let Some(found) = round_at(reader, sequence, position).await? {
            return Ok(Some(found));
        }
        position += BLOCK_BYTES as u64;
    }
    Ok(None)
}

/// Reads the bytes of a round's batches: for each entry its body, empty for entries without one.
pub(crate) async fn read_bodies<D: Disk>(
    disk: &D,
    file: &ScannedFile<D::File>,
    round: &ScannedRound,
) -> Result<Option<Vec<Bytes>>, DiskError> {
    let at = round.header.position + round.header.directory_bytes() as u64;
    let length = round.header.body_bytes as usize;
    let bytes = if length == 0 { Bytes::new() } else { disk.read(&file.file, at, length).await? };
    if bytes.len() < length {
        return Ok(None);
    }
    let mut start = 0;
    let bodies = round.entries.iter().map(|entry| {
        let end = start + entry.body_bytes();
        let body = bytes.slice(start..end);
        start = end;
        body
    });
    Ok(Some(bodies.collect()))
}
