//! The metadata log: every committed change of the cluster's metadata, in one append-only file.
//!
//! Owns `metadata/log.tgm`. A change is in force once its entry is synced. The file starts with a snapshot (of everything before
//! it) and is written anew, whole, when the changes behind the snapshot outgrow it; a rename makes the new one the log. This module
//! keeps payloads; what they mean is `quorum`'s.
//!
//! The file (integers are little-endian):
//! ```text
//! 0   8  magic "TGMETA\0" and the format version (1)
//! 8      entries, each padded with zeros to a multiple of 8 bytes:
//!        0   4  CRC-32C of everything behind it, up to the end of the payload
//!        4   4  length of the payload in bytes
//!        8   8  index: 0 for the first change ever, then one more for each entry
//!        16  1  kind: 1 change, 2 snapshot (everything up to and with its index)
//!        17  7  zero
//!        24     payload
//! ```
//! Recovery tells two things apart. What a crash tears is the end: an incomplete or wrong entry with nothing valid behind it, which
//! was never in force and is cut off. A wrong entry with a valid one behind it is damage, and an error.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use crate::data_directory::replace_file;

const MAGIC: [u8; 8] = *b"TGMETA\0\x01";
const HEADER_BYTES: usize = 24;
/// Entries begin at multiples of this.
const ALIGNMENT: usize = 8;
/// An entry that claims more is no entry.
const PAYLOAD_BYTES_MAX: usize = 256 << 20;
/// Changes behind a snapshot before a new one is written, in bytes; more if the snapshot is larger.
const CHANGES_BYTES_MIN: u64 = 1 << 20;

/// What went wrong with the log.
#[derive(Debug, thiserror::Error)]
pub enum MetadataLogError {
    #[error("{operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{} is damaged at byte {position}: the entry there is wrong, and valid ones follow. Topics and their configuration are in this file: \
         restore it from a backup of the data directory; records are not touched",
        path.display()
    )]
    Damaged { path: PathBuf, position: u64 },
    #[error(
        "{} is missing, and partitions/ beside its directory has the data of {partitions}: their topics are in this file. Restore it from a copy; \
         or, to begin anew without them, move partitions/ away",
        path.display()
    )]
    Missing { path: PathBuf, partitions: usize },
    #[error("{} is no metadata log: it starts with {found:02x?}", path.display())]
    NotALog { path: PathBuf, found: Vec<u8> },
    #[error(
        "{} has format version {found}, and this broker reads version {}. Start it with the newer Tidegate that wrote it",
        path.display(), MAGIC[7]
    )]
    NewerFormat { path: PathBuf, found: u8 },
    #[error("syncing {} failed: {source}. What is on the disk is not known any more, so nothing more may be written", path.display())]
    Sync { path: PathBuf, source: io::Error },
}

/// One payload that the log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub index: u64,
    pub kind: EntryKind,
    pub payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Change,
    /// Stands for every change up to and with its index.
    Snapshot,
}

/// The log, open for appending.
#[derive(Debug)]
pub struct MetadataLog {
    path: PathBuf,
    file: File,
    next_index: u64,
    /// Where the next entry goes.
    end: u64,
    snapshot_end: u64,
    /// Set when a sync has failed.
    failed: bool,
}

/// What a log was found to hold.
#[derive(Debug)]
pub struct Recovered {
    pub log: MetadataLog,
    /// In order; a snapshot can only be the first.
    pub entries: Vec<Entry>,
    /// Bytes of a torn end that were cut off.
    pub torn_bytes: u64,
}

/// Directories of partitions in a data directory: without the metadata nobody knows whose they are.
fn orphaned_partitions(data_directory: &Path) -> usize {
    let entries = fs::read_dir(data_directory.join("partitions")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count()
}

impl MetadataLog {
    /// Opens the log below the data directory, making an empty one if there is none.
    ///
    /// # Errors
    /// Damage, and what the file system says.
    pub fn open(data_directory: &Path) -> Result<Recovered, MetadataLogError> {
        let directory = data_directory.join("metadata");
        let path = directory.join("log.tgm");
        let fail = |operation: &'static str| {
            let path = path.clone();
            move |source| MetadataLogError::Io { operation, path, source }
        };
        fs::create_dir_all(&directory).map_err(fail("create the directory of"))?;
        if !path.exists() {
            let partitions = orphaned_partitions(data_directory);
            if partitions > 0 {
                return Err(MetadataLogError::Missing { path, partitions });
            }
            replace_file(&path, &MAGIC).map_err(fail("create"))?;
            File::open(data_directory).and_then(|directory| directory.sync_all()).map_err(fail("create"))?;
        }
        let file = File::options().read(true).write(true).open(&path).map_err(fail("open"))?;
        let bytes = fs::read(&path).map_err(fail("read"))?;
        let (entries, end) = scan(&path, &bytes)?;
        let torn_bytes = bytes.len() as u64 - end;
        let aligned = end.next_multiple_of(ALIGNMENT as u64);
        if torn_bytes > 0 || aligned != end {
            file.set_len(end)
                .and_then(|()| file.set_len(aligned))
                .and_then(|()| file.sync_all())
                .map_err(fail("cut"))?;
        }
        let next_index = entries.last().map_or(0, |entry| entry.index + 1);
        let snapshot_end = match entries.first() {
            Some(Entry { kind: EntryKind::Snapshot, payload, .. }) => (MAGIC.len() + padded(payload.len())) as u64,
            _ => MAGIC.len() as u64,
        };
        let log = Self { path: path.clone(), file, next_index, end: aligned, snapshot_end, failed: false };
        Ok(Recovered { log, entries, torn_bytes })
    }

    /// The entries of the log below the data directory, and how many bytes of a torn end follow. Changes nothing; no log is an empty
    /// one.
    ///
    /// # Errors
    /// Damage, and what the file system says.
    pub fn read(data_directory: &Path) -> Result<(Vec<Entry>, u64), MetadataLogError> {
        let path = data_directory.join("metadata").join("log.tgm");
        match fs::read(&path) {
            Ok(bytes) => scan(&path, &bytes).map(|(entries, end)| (entries, bytes.len() as u64 - end)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match orphaned_partitions(data_directory) {
                0 => Ok((Vec::new(), 0)),
                partitions => Err(MetadataLogError::Missing { path, partitions }),
            },
            Err(source) => Err(MetadataLogError::Io { operation: "read", path, source }),
        }
    }

    /// Appends changes and syncs them, once for all. Returns the index of the first.
    ///
    /// # Errors
    /// Nothing is in force then. After [`MetadataLogError::Sync`] nothing more is taken.
    pub fn append<'p>(&mut self, payloads: impl IntoIterator<Item = &'p [u8]>) -> Result<u64, MetadataLogError> {
        assert!(!self.failed, "nothing is written after a failed sync");
        let first = self.next_index;
        let mut bytes = Vec::new();
        let mut next_index = first;
        for payload in payloads {
            encode(next_index, EntryKind::Change, payload, &mut bytes);
            next_index += 1;
        }
        if let Err(source) = self.file.write_all_at(&bytes, self.end) {
            // What was written of it is cut off, now or by the next recovery.
            let _ = self.file.set_len(self.end);
            return Err(MetadataLogError::Io { operation: "append to", path: self.path.clone(), source });
        }
        if let Err(source) = self.file.sync_data() {
            self.failed = true;
            return Err(MetadataLogError::Sync { path: self.path.clone(), source });
        }
        self.end += bytes.len() as u64;
        self.next_index = next_index;
        Ok(first)
    }

    /// Whether the changes behind the snapshot have outgrown it.
    pub fn wants_snapshot(&self) -> bool {
        let changes = self.end - self.snapshot_end;
        changes >= CHANGES_BYTES_MIN.max(2 * self.snapshot_end)
    }

    /// Writes the log anew, beginning with `payload`, which stands for every change so far.
    ///
    /// # Errors
    /// The old log stays in force then.
    pub fn replace_by_snapshot(&mut self, payload: &[u8]) -> Result<(), MetadataLogError> {
        assert!(!self.failed, "nothing is written after a failed sync");
        let Some(index) = self.next_index.checked_sub(1) else { return Ok(()) };
        let mut bytes = MAGIC.to_vec();
        encode(index, EntryKind::Snapshot, payload, &mut bytes);
        let fail = |source| MetadataLogError::Io { operation: "write a snapshot of", path: self.path.clone(), source };
        replace_file(&self.path, &bytes).map_err(fail)?;
        self.file = File::options().read(true).write(true).open(&self.path).map_err(fail)?;
        self.end = bytes.len() as u64;
        self.snapshot_end = self.end;
        Ok(())
    }

    /// How many bytes the file has.
    pub fn bytes(&self) -> u64 {
        self.end
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn padded(payload: usize) -> usize {
    (HEADER_BYTES + payload).next_multiple_of(ALIGNMENT)
}

fn encode(index: u64, kind: EntryKind, payload: &[u8], bytes: &mut Vec<u8>) {
    assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a change of the metadata is small");
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&index.to_le_bytes());
    bytes.push(match kind {
        EntryKind::Change => 1,
        EntryKind::Snapshot => 2,
    });
    bytes.extend_from_slice(&[0; 7]);
    bytes.write_all(payload).expect("a vector takes all");
    let checksum = crc32c::crc32c(&bytes[start + 4..]);
    bytes[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    bytes.resize(start + padded(payload.len()), 0);
}

/// The entry at the start of `bytes`, if it is whole and right.
fn decode(bytes: &[u8]) -> Option<(Entry, usize)> {
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let length = word(4) as usize;
    if length > PAYLOAD_BYTES_MAX {
        return None;
    }
    let covered = bytes.get(4..HEADER_BYTES + length)?;
    if crc32c::crc32c(covered) != word(0) {
        return None;
    }
    let index = u64::from(word(8)) | u64::from(word(12)) << 32;
    let kind = match header[16] {
        1 => EntryKind::Change,
        2 => EntryKind::Snapshot,
        _ => return None,
    };
    let payload = bytes[HEADER_BYTES..HEADER_BYTES + length].to_vec();
    Some((Entry { index, kind, payload }, padded(length)))
}

/// All entries, and where the last one ends.
fn scan(path: &Path, bytes: &[u8]) -> Result<(Vec<Entry>, u64), MetadataLogError> {
    let magic = bytes.get(..MAGIC.len()).unwrap_or(bytes);
    if magic.get(..7) != Some(&MAGIC[..7]) {
        return Err(MetadataLogError::NotALog { path: path.to_path_buf(), found: magic.to_vec() });
    }
    if magic.get(7) != Some(&MAGIC[7]) {
        return Err(MetadataLogError::NewerFormat {
            path: path.to_path_buf(),
            found: magic.get(7).copied().unwrap_or(0),
        });
    }
    let mut entries: Vec<Entry> = Vec::new();
    let mut position = MAGIC.len();
    while let Some((entry, length)) = bytes.get(position..).and_then(decode) {
        let fits = match entries.last() {
            Some(last) => entry.kind == EntryKind::Change && entry.index == last.index + 1,
            None => entry.kind == EntryKind::Snapshot || entry.index == 0,
        };
        if !fits {
            return Err(MetadataLogError::Damaged { path: path.to_path_buf(), position: position as u64 });
        }
        entries.push(entry);
        // The padding of the last entry may be missing: the file was cut there by a crash after its payload.
        position = (position + length).min(bytes.len());
    }
    let next_index = entries.last().map_or(0, |entry| entry.index + 1);
    let rest = position.next_multiple_of(ALIGNMENT)..bytes.len();
    let follows = rest
        .step_by(ALIGNMENT)
        .skip(1)
        .filter_map(|start| decode(&bytes[start..]))
        .any(|(entry, _)| entry.index >= next_index);
    if follows {
        return Err(MetadataLogError::Damaged { path: path.to_path_buf(), position: position as u64 });
    }
    Ok((entries, position as u64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reopen(directory: &Path) -> (MetadataLog, Vec<String>, u64) {
        let Recovered { log, entries, torn_bytes } = MetadataLog::open(directory).unwrap();
        (log, entries.into_iter().map(|entry| String::from_utf8(entry.payload).unwrap()).collect(), torn_bytes)
    }

    #[test]
    fn changes_are_found_again_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let (mut log, found, _) = reopen(directory.path());
        assert!(found.is_empty());
        assert_eq!(log.append(["a", "bb"].map(str::as_bytes)).unwrap(), 0);
        assert_eq!(log.append([b"".as_slice()]).unwrap(), 2);
        drop(log);
        let (mut log, found, torn) = reopen(directory.path());
        assert_eq!((found, torn), (vec!["a".to_owned(), "bb".to_owned(), String::new()], 0));
        assert_eq!(log.append([b"c".as_slice()]).unwrap(), 3);
        log.replace_by_snapshot(b"all").unwrap();
        assert_eq!(log.append([b"d".as_slice()]).unwrap(), 4);
        drop(log);
        let (log, found, _) = reopen(directory.path());
        assert_eq!(found, ["all", "d"]);
        assert_eq!(log.next_index, 5);
    }

    #[test]
    fn a_log_that_outgrows_its_snapshot_wants_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let (mut log, ..) = reopen(directory.path());
        let change = vec![b'x'; 300 << 10];
        for _ in 0..3 {
            log.append([change.as_slice()]).unwrap();
            assert!(!log.wants_snapshot());
        }
        log.append([change.as_slice()]).unwrap();
        assert!(log.wants_snapshot());
        log.replace_by_snapshot(b"small").unwrap();
        assert!(!log.wants_snapshot());
    }

    /// Three entries as a file, and where each begins and ends.
    fn sample() -> (Vec<u8>, Vec<std::ops::Range<usize>>) {
        let mut bytes = MAGIC.to_vec();
        let mut ranges = Vec::new();
        for (index, payload) in ["first", "the second one", "3"].iter().enumerate() {
            let start = bytes.len();
            encode(index as u64, EntryKind::Change, payload.as_bytes(), &mut bytes);
            ranges.push(start..bytes.len());
        }
        (bytes, ranges)
    }

    #[test]
    fn every_truncation_is_a_torn_end() {
        let (bytes, ranges) = sample();
        for length in MAGIC.len()..bytes.len() {
            let (entries, end) = scan(Path::new("log"), &bytes[..length]).unwrap();
            // An entry whose padding alone is missing is whole.
            let whole = ranges
                .iter()
                .zip([5, 14, 1])
                .filter(|(range, payload)| range.start + HEADER_BYTES + payload <= length)
                .count();
            assert_eq!(entries.len(), whole, "cut after {length}");
            assert!(end as usize <= length);
        }
    }

    #[test]
    fn damage_in_the_middle_is_told_from_a_torn_end() {
        let (bytes, ranges) = sample();
        for position in MAGIC.len()..bytes.len() {
            let number = ranges.iter().position(|range| range.contains(&position)).unwrap();
            let mut damaged = bytes.clone();
            damaged[position] ^= 0x40;
            match scan(Path::new("log"), &damaged) {
                // The last entry is indistinguishable from one that was being written.
                Ok((entries, _)) if number == 2 => assert!(entries.len() >= 2, "{position}"),
                // Padding is not covered.
                Ok((entries, _)) => assert_eq!(entries.len(), 3, "{position}"),
                Err(MetadataLogError::Damaged { position: found, .. }) => {
                    assert!(number < 2);
                    assert_eq!(found as usize, ranges[number].start);
                }
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn another_file_is_refused() {
        let check = |bytes: &[u8]| scan(Path::new("log"), bytes).unwrap_err().to_string();
        assert!(check(b"").contains("no metadata log"));
        assert!(check(b"PK\x03\x04 and so on").contains("no metadata log"));
        assert!(check(b"TGMETA\0\x02").contains("version 2"));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(tail: Vec<u8>) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(&tail);
            let _ = scan(Path::new("log"), &bytes);
            let _ = scan(Path::new("log"), &tail);
        }

        #[test]
        fn what_was_appended_is_what_is_found(payloads: Vec<Vec<u8>>) {
            let mut bytes = MAGIC.to_vec();
            for (index, payload) in payloads.iter().enumerate() {
                encode(index as u64, EntryKind::Change, payload, &mut bytes);
            }
            let (entries, end) = scan(Path::new("log"), &bytes).unwrap();
            prop_assert_eq!(end as usize, bytes.len());
            prop_assert_eq!(entries.into_iter().map(|entry| entry.payload).collect::<Vec<_>>(), payloads);
        }
    }
}
