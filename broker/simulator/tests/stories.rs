//! What went wrong once, or must never go wrong, told step by step on a calm disk.

use std::path::{Path, PathBuf};

use tidegate_simulator::{
    disk::Stop,
    rig::{Rig, partition},
};
use tidegate_storage::{ChangeError, Damage, disk::DiskErrorKind, read_only::block_on, verify::Finding};

/// A roll cuts the zeros behind the last extent off, then met a full disk. The segment went on being active, and direct writes went
/// where the zeros had been: beyond the file's end, which the one flush of a round does not make durable.
#[test]
fn a_roll_that_meets_a_full_disk_leaves_no_room_that_is_not_there() {
    let mut rig = Rig::new(1);
    rig.open_whole();
    rig.make_direct(0);
    // Cutting the zeros off frees some room, a little less than there must be for the index.
    rig.disk.set_bytes_max(0);
    let rolled = block_on(rig.store().roll(partition(0)));
    assert!(matches!(&rolled, Err(ChangeError::Disk(error)) if error.kind == DiskErrorKind::Full), "{rolled:?}");
    rig.disk.set_bytes_max(u64::MAX);
    rig.write(0, 9000);
    rig.write(0, 9000);
    let written = rig.read(0).expect("it can be read");
    rig.crash(Stop::PowerLoss);
    assert_eq!(rig.verify(), []);
    rig.open_whole();
    assert_eq!(rig.read(0).expect("it can be read"), written);
}

/// Where the last extent of a partition's only segment starts, and the file.
fn last_extent(rig: &Rig, index: i32) -> (PathBuf, u64) {
    let directory = format!("-{index}/");
    let file = rig.files(".tgs").into_iter().find(|path| path.to_str().is_some_and(|path| path.contains(&directory)));
    let file = file.expect("the partition has a segment");
    let content = rig.disk.content(&file).expect("it is there");
    let position = (0..content.len()).step_by(4096).rfind(|at| content[*at..].starts_with(b"TGEX"));
    (file, position.expect("it has an extent") as u64)
}

/// Writes to a partition until the journal has let go of everything that others wrote before.
fn push_out(rig: &mut Rig, index: i32) {
    for _ in 0..120 {
        rig.write(index, 3000);
        rig.apply();
    }
}

/// An extent whose header cannot be read looked like the end of its segment. While the journal has its batches that is right; when the
/// journal had let go of them, acknowledged batches were missing without a word.
#[test]
fn a_damaged_last_extent_is_no_end_once_the_journal_let_go_of_it() {
    let mut rig = Rig::new(2);
    rig.options.index_every_bytes = u64::MAX;
    rig.open_whole();
    for _ in 0..4 {
        rig.write(0, 3000);
        rig.write(0, 3000);
        rig.apply();
    }
    push_out(&mut rig, 1);
    rig.crash(Stop::Kill);
    assert_eq!(rig.verify(), []);
    let (file, position) = last_extent(&rig, 0);
    assert!(rig.disk.damage(&file, position + 20));
    let named = rig.verify();
    assert!(
        matches!(&named[..], [Finding::Damage(Damage::Segment { position: at, .. })] if *at == position),
        "{named:?}"
    );
    let found = rig.open().expect("the store opens");
    assert!(matches!(&found[0].error, Some(Damage::Segment { position: at, .. }) if *at == position), "{:?}", found[0]);
    assert_eq!(found[1].error, None, "the others serve");
}

/// While the journal has its batches, the same damage heals: they are applied again.
#[test]
fn a_damaged_last_extent_is_written_again_while_the_journal_has_its_batches() {
    let mut rig = Rig::new(1);
    rig.open_whole();
    for _ in 0..4 {
        rig.write(0, 3000);
        rig.write(0, 3000);
    }
    rig.apply();
    let written = rig.read(0).expect("it can be read");
    rig.crash(Stop::Kill);
    let (file, position) = last_extent(&rig, 0);
    assert!(rig.disk.damage(&file, position + 20));
    rig.open_whole();
    assert_eq!(rig.read(0).expect("it can be read"), written);
}

/// A partition that is offline kept its journal files, and the journal could not go past them.
#[test]
fn a_damaged_partition_does_not_hold_up_the_others_and_loses_nothing() {
    let mut rig = Rig::new(2);
    rig.options.index_every_bytes = u64::MAX;
    rig.open_whole();
    rig.write(0, 3000);
    rig.write(0, 9000);
    rig.apply();
    // The journal alone has these.
    rig.write(0, 100);
    rig.write(0, 200);
    let written = rig.read(0).expect("it can be read");
    rig.crash(Stop::Kill);
    let (file, _) = last_extent(&rig, 0);
    assert!(rig.disk.damage(&file, 20));

    for _ in 0..2 {
        let found = rig.open().expect("the store opens");
        assert!(found[0].error.is_some());
        assert_eq!(found[1].error, None);
        push_out(&mut rig, 1);
        let figures = rig.store().figures();
        assert!(figures.journal_bytes <= rig.options.journal_bytes_max, "{figures:?}");
        assert_eq!(rig.files(".tgj").iter().filter(|path| is_held(path)).count(), 1, "what it needs is kept");
        rig.crash(Stop::PowerLoss);
        let named = rig.verify();
        assert!(named.iter().all(|finding| finding.place().0 == file), "{named:?}");
    }

    // Mended: everything that was acknowledged is there, and the file goes.
    assert!(rig.disk.damage(&file, 20), "the same bits are flipped back");
    assert_eq!(rig.verify(), []);
    rig.open_whole();
    assert_eq!(rig.read(0).expect("it can be read"), written);
    push_out(&mut rig, 1);
    assert!(!rig.files(".tgj").iter().any(|path| is_held(path)), "nobody needs it any more");
    rig.crash(Stop::PowerLoss);
    rig.open_whole();
    assert_eq!(rig.read(0).expect("it can be read"), written);
}

#[test]
fn a_journal_file_that_is_held_goes_with_its_partition() {
    let mut rig = Rig::new(2);
    rig.open_whole();
    rig.write(0, 3000);
    rig.write(0, 9000);
    rig.apply();
    rig.write(0, 100);
    rig.crash(Stop::Kill);
    let (file, _) = last_extent(&rig, 0);
    assert!(rig.disk.damage(&file, 20));
    assert!(rig.open().expect("the store opens")[0].error.is_some());
    push_out(&mut rig, 1);
    assert!(rig.files(".tgj").iter().any(|path| is_held(path)));
    block_on(rig.store().delete_partition(partition(0))).expect("files can be removed");
    rig.apply();
    assert!(!rig.files(".tgj").iter().any(|path| is_held(path)));
}

fn is_held(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("held-"))
}

/// What opening the store reads, after `batches` batches of 8 KB of which the last 20 came after a snapshot, and a crash.
fn bytes_read_to_open(batches: usize) -> u64 {
    let mut rig = Rig::new(1);
    rig.options.index_every_bytes = 64 << 10;
    rig.segment.segment_bytes = 256 << 10;
    rig.open_whole();
    for written in 0..batches {
        if written == batches - 20 {
            let end = rig.store().offsets(partition(0)).expect("it is there").log_end_offset;
            block_on(rig.store().save_snapshot(partition(0), end, b"producers")).expect("the disk has room");
        }
        rig.write(0, 8000);
        rig.apply();
    }
    rig.crash(Stop::Kill);
    let before = rig.disk.bytes_read();
    let found = rig.open().expect("the store opens");
    assert_eq!(found[0].batches_since_snapshot.len(), 20);
    assert_eq!(found[0].bytes_since_snapshot / 8000, 20);
    rig.disk.bytes_read() - before
}

#[test]
fn recovery_reads_what_came_lately_and_not_the_whole_log() {
    let (short, long) = (bytes_read_to_open(400), bytes_read_to_open(3200));
    // The journal, the end of the last segment, and the batches since the snapshot: a part of 1.1 MB, whatever the log's 3 or 26 MB.
    assert!(short < 1_100_000 && long < 1_100_000, "{short} bytes for 400 batches, {long} for 3,200");
}
