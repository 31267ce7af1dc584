//! Files of the log as a broken disk, or somebody else, may leave them: opening says what is wrong, and what `verify` finds whole can be
//! opened and read.

use std::path::{Path, PathBuf};

use tidegate_simulator::rig::Rig;
use tidegate_storage::{disk::BLOCK_BYTES, read_only::block_on};

/// Files of a case are no longer: what is in them is found by checksums, not by size.
const FILE_BYTES_MAX: usize = 256 * 1024;

/// `bytes` are a journal's only file, after a crash. They are tried as they are, and with mended checksums, since a fuzzer does not
/// find one.
pub fn journal_file(bytes: &[u8]) {
    let bytes = padded(bytes);
    let path = Path::new("shard-0/journal-000000000001.tgj");
    for content in [mend_journal(bytes.clone()), bytes] {
        let mut rig = Rig::new(2);
        rig.disk.place(path, &content);
        open_and_read(&mut rig);
    }
}

/// `bytes` are the first segment of a partition: once as the active one without an index, once sealed.
pub fn segment_file(bytes: &[u8]) {
    let bytes = padded(bytes);
    let mended = mend_segment(bytes.clone());
    for sealed in [false, true] {
        for content in [&mended, &bytes] {
            let mut rig = Rig::new(1);
            let (segment, index) = first_segment(&mut rig, sealed);
            rig.disk.place(&segment, content);
            rig.disk.take_away(&index);
            open_and_read(&mut rig);
        }
    }
}

/// What a store with a few batches leaves: the file of a journal, and of a segment. For whoever makes a corpus.
#[must_use]
pub fn samples() -> (Vec<u8>, Vec<u8>) {
    let mut rig = Rig::new(2);
    rig.open_whole();
    for (index, value_bytes) in [(0, 10), (1, 100), (0, 5000), (0, 1)] {
        rig.write(index, value_bytes);
    }
    let journal = rig.disk.content(&rig.files(".tgj")[0]).expect("it is there");
    let mut rig = Rig::new(1);
    let (segment, _) = first_segment(&mut rig, false);
    (trimmed(journal), trimmed(rig.disk.content(&segment).expect("it is there")))
}

/// A partition with one segment of some extents, closed; the paths of segment and index.
fn first_segment(rig: &mut Rig, sealed: bool) -> (PathBuf, PathBuf) {
    rig.open_whole();
    for value_bytes in [10, 5000, 9000, 1, 2] {
        rig.write(0, value_bytes);
        rig.apply();
    }
    if sealed {
        block_on(rig.store().roll(tidegate_simulator::rig::partition(0))).expect("the disk has room");
    }
    block_on(rig.store().close()).expect("the disk has room");
    (rig.files(".tgs").remove(0), rig.files(".tgx").remove(0))
}

fn open_and_read(rig: &mut Rig) {
    let findings = rig.verify();
    let Ok(recovered) = rig.open() else {
        assert!(!findings.is_empty(), "a directory that verify finds whole can be opened");
        return;
    };
    for (index, found) in recovered.iter().enumerate() {
        let read = rig.read(index as i32);
        if findings.is_empty() {
            assert_eq!(found.error, None, "verify found the directory whole");
            let read = read.expect("verify found the directory whole");
            assert_eq!(read.is_empty(), found.log_start_offset >= found.log_end_offset);
        }
    }
    // It takes more, or says that it is offline.
    if rig.append(0, 100).is_ok() {
        block_on(rig.store().commit_round()).expect("the disk has room");
    }
    rig.apply();
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes[..bytes.len().min(FILE_BYTES_MAX)].to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    bytes
}

fn trimmed(mut bytes: Vec<u8>) -> Vec<u8> {
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

fn mend(bytes: &mut [u8], covered: std::ops::Range<usize>, at: usize) {
    if let Some(covered) = bytes.get(covered) {
        let sum = crc32c::crc32c(covered);
        bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    }
}

fn mend_journal(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() < BLOCK_BYTES {
        return bytes;
    }
    mend(&mut bytes, 0..60, 60);
    for at in (BLOCK_BYTES..bytes.len()).step_by(BLOCK_BYTES) {
        if bytes[at..].starts_with(b"TGRD") {
            let entries = u32::from_le_bytes(bytes[at + 48..at + 52].try_into().expect("four bytes")) as usize;
            mend(&mut bytes, at + 8..at.saturating_add(64).saturating_add(entries.saturating_mul(64)), at + 4);
        }
    }
    bytes
}

fn mend_segment(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() < BLOCK_BYTES {
        return bytes;
    }
    mend(&mut bytes, 0..60, 60);
    for at in (BLOCK_BYTES..bytes.len()).step_by(BLOCK_BYTES) {
        if bytes[at..].starts_with(b"TGEX") {
            mend(&mut bytes, at + 8..at + 120, at + 4);
        }
    }
    bytes
}
