//! From one number of shards to another: every shard's journal is applied to the segments, which belong to no shard.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use bytes::{Buf, BufMut};
use tidegate_records::ids::ShardId;

use crate::{
    disk::{Access, BLOCK_BYTES, Disk, DiskError},
    error::OpenError,
    journal::{
        checkpoint::{Checkpoint, checkpoint_path},
        files::{file_path, file_sequence, held_sequence, shard_directory, shard_of_directory},
        format::FileHeader,
        scan::{missing_files, scan_journal},
    },
    recovery::{read_small, session_path},
    store::{PartitionSpec, Store, StoreOptions},
};

const MAGIC: [u8; 8] = *b"TGLAYOUT";

pub(crate) fn layout_path() -> PathBuf {
    PathBuf::from("layout.tgm")
}

/// Makes a data directory ready to be opened by `shards` shards: if it was used with another number, drains every journal into the
/// segments. To be called at each start, before any shard opens its store, with the partitions of all shards. `true` if it drained.
///
/// A crash in the middle of it is like any other: it is called again and goes on.
///
/// # Errors
/// [`OpenError`]; [`OpenError::NotDrained`] where an offline partition keeps a journal from being emptied.
pub async fn migrate<D: Disk>(
    disk: &D,
    options: &StoreOptions,
    shards: u16,
    partitions: &[PartitionSpec],
) -> Result<bool, OpenError> {
    let found = read_small(disk, &layout_path()).await?.and_then(|bytes| decode(&bytes));
    if found == Some(shards) {
        return Ok(false);
    }
    let mut drained = false;
    for name in disk.list(Path::new("")).await? {
        let Some(shard) = shard_of_directory(&name) else { continue };
        let directory = shard_directory(shard);
        let files = disk.list(&directory).await?;
        if !files.iter().any(|name| file_sequence(name).or_else(|| held_sequence(name)).is_some()) {
            continue;
        }
        drained |= drain(disk, options, shard, partitions).await?;
        if shard >= shards {
            // The session's number stays: extents that this shard wrote are judged by it should it come back.
            for name in files.iter().chain(&disk.list(&directory).await?).filter(|name| name.ends_with(".tgj")) {
                disk.remove(&directory.join(name)).await?;
            }
        }
    }
    write(disk, shards).await?;
    Ok(drained)
}

/// A shard whose journal is not all there: somebody took it away, and with it what was acknowledged and not in a segment yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingJournal {
    pub shard: u16,
    /// The files that were there, or the whole directory; empty where nothing says so: the shard may have been killed before it had one.
    pub files: Vec<PathBuf>,
}

/// The shards of a data directory that lack journal files. To be called before [`migrate`].
///
/// # Errors
/// [`DiskError`].
pub async fn missing_journals<D: Disk>(disk: &D) -> Result<Vec<MissingJournal>, DiskError> {
    let mut missing = Vec::new();
    let shards = read_small(disk, &layout_path()).await?.and_then(|bytes| decode(&bytes)).unwrap_or(0);
    let gone = missing_directories(disk, shards).await?;
    // The layout is there before any shard was opened for the first time.
    let mut opened = false;
    for shard in 0..shards {
        opened |= read_small(disk, &session_path(shard)).await?.is_some();
    }
    for shard in 0..shards {
        let names = disk.list(&shard_directory(shard)).await?;
        let has_journal = names.iter().any(|name| file_sequence(name).or_else(|| held_sequence(name)).is_some());
        let checkpoint = read_small(disk, &checkpoint_path(shard)).await?;
        let checkpoint = checkpoint.and_then(|bytes| Checkpoint::decode(&bytes)).unwrap_or_default();
        let missing_files = missing_files(&checkpoint, &names).map(|sequence| file_path(shard, sequence));
        let whole = gone.contains(&shard).then(|| shard_directory(shard));
        let files: Vec<PathBuf> = missing_files.chain(whole).collect();
        if (opened && !has_journal) || !files.is_empty() {
            missing.push(MissingJournal { shard, files });
        }
    }
    Ok(missing)
}

/// Of `shards` shards those that have been opened and have lost their directory. All are opened before one writes a round, so a round of
/// one is a sign of all.
pub(crate) async fn missing_directories<D: Disk>(disk: &D, shards: u16) -> Result<Vec<u16>, DiskError> {
    let mut missing = Vec::new();
    let mut used = false;
    for shard in 0..shards {
        if read_small(disk, &session_path(shard)).await?.is_none() {
            missing.push(shard);
        }
        for sequence in disk.list(&shard_directory(shard)).await?.iter().filter_map(|name| file_sequence(name)) {
            let file = disk.open(&file_path(shard, sequence), Access::Direct).await?;
            let block = disk.read(&file, 0, BLOCK_BYTES).await?;
            used |= FileHeader::decode(&block).is_some_and(|header| header.sequence == sequence);
        }
    }
    Ok(if used { missing } else { Vec::new() })
}

/// Applies what the journal of one shard has. `true` if it had something.
async fn drain<D: Disk>(
    disk: &D,
    options: &StoreOptions,
    shard: u16,
    partitions: &[PartitionSpec],
) -> Result<bool, OpenError> {
    // Only the partitions that the journal knows: the others may be in another shard's, which has the say on their segments.
    let scan = scan_journal(disk, shard).await?;
    let known: BTreeSet<_> = scan.entries().map(|(_, entry)| entry.topic_partition()).collect();
    let lost = !scan.lost.is_empty();
    let used = !known.is_empty() || lost;
    let specs = partitions.iter().filter(|spec| lost || known.contains(&spec.topic_partition)).copied().collect();
    let options = StoreOptions { shard: ShardId(shard), ..options.clone() };
    let (store, recovered) = Store::open(disk.clone(), options, specs).await?;
    if let Some((topic_partition, damage)) =
        recovered.into_iter().find_map(|found| Some((found.topic_partition, found.error?)))
    {
        return Err(OpenError::NotDrained { shard, topic_partition, damage: Box::new(damage) });
    }
    store.close().await.map_err(|fatal| OpenError::Disk(fatal.0))?;
    Ok(used)
}

async fn write<D: Disk>(disk: &D, shards: u16) -> Result<(), DiskError> {
    disk.replace(&layout_path(), &encode(shards)).await
}

pub(crate) fn encode(shards: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(14);
    bytes.put_slice(&MAGIC);
    bytes.put_u16_le(shards);
    bytes.put_u32_le(crc32c::crc32c(&bytes));
    bytes
}

pub(crate) fn decode(bytes: &[u8]) -> Option<u16> {
    let (body, mut sum) = bytes.split_at_checked(10)?;
    let (magic, mut shards) = body.split_at(8);
    (magic == MAGIC && sum.try_get_u32_le().ok()? == crc32c::crc32c(body)).then(|| shards.get_u16_le())
}
