//! What went wrong once, or must never go wrong, told step by step on a calm disk.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    rc::Rc,
};

use tidegate_records::ids::Offset;
use tidegate_simulator::{
    disk::{Fault, SimulatedDisk, Stop},
    executor::{Executor, yield_now},
    random::Random,
    rig::{Rig, partition},
    trace::Trace,
};
use tidegate_storage::{
    AppendError, ChangeError, Damage, ReadError, ReadRequest,
    disk::{DiskErrorKind, Flush},
    objects::ObjectErrorKind,
    read_only::block_on,
    remove_orphans,
    verify::Finding,
};

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

/// The journal alone has what was acknowledged, in its first file; the spare one behind it is not used yet.
fn in_the_journal_alone() -> (Rig, PathBuf, Vec<Vec<bytes::Bytes>>) {
    let mut rig = Rig::new(2);
    rig.open_whole();
    for _ in 0..3 {
        rig.write(0, 900);
        rig.write(1, 900);
    }
    // It has a spare file now.
    rig.apply();
    let written = [0, 1].map(|index| rig.read(index).expect("it can be read")).to_vec();
    rig.crash(Stop::Kill);
    assert_eq!(rig.verify(), []);
    let has_rounds = |file: &PathBuf| rig.disk.content(file).is_some_and(|content| content.starts_with(b"TGJOURNL"));
    let journal = rig.files(".tgj").into_iter().find(has_rounds).expect("rounds were written");
    (rig, journal, written)
}

/// A file that ends early looked like one whose last rounds were torn, and an empty one like one that was never used: acknowledged
/// batches were missing without a word. A crash cannot shorten a file: it has its name only when all of it is on stable storage.
#[test]
fn a_journal_file_that_was_cut_short_is_no_torn_one() {
    for length in [0, 100, 4096, 2 * 4096, 4 * 4096 + 512] {
        let (mut rig, journal, written) = in_the_journal_alone();
        let whole = rig.disk.content(&journal).expect("it is there");
        rig.disk.place(&journal, &whole[..length]);
        for opening in 0..3 {
            let named = rig.verify();
            assert!(
                matches!(&named[..], [Finding::Damage(Damage::JournalCut { bytes, .. })] if *bytes == length as u64),
                "cut to {length}, opening {opening}: {named:?}"
            );
            for found in rig.open().expect("the store opens") {
                assert!(
                    matches!(&found.error, Some(Damage::JournalCut { bytes, .. }) if *bytes == length as u64),
                    "cut to {length}, opening {opening}: {found:?}"
                );
            }
            rig.apply();
            rig.crash(Stop::PowerLoss);
        }
        // The way out that the message names first.
        let cut = rig.files(".tgj").into_iter().find(|file| is_held(file)).expect("what is left of it is kept");
        rig.disk.place(&cut, &whole);
        assert_eq!(rig.verify(), []);
        rig.open_whole();
        for (index, written) in [0, 1].into_iter().zip(&written) {
            assert_eq!(&rig.read(index).expect("it can be read"), written, "cut to {length}");
        }
    }
}

/// A partition whose directory had gone was taken for a new one: its offsets were given out twice.
#[test]
fn a_partition_whose_files_are_gone_is_not_taken_for_an_empty_one() {
    let mut rig = Rig::new(2);
    rig.open_whole();
    rig.write(0, 900);
    rig.write(1, 900);
    let written = rig.read(0).expect("it can be read");
    block_on(rig.store().close()).expect("it can be closed");
    rig.crash(Stop::PowerLoss);
    assert_eq!(rig.verify(), []);
    let all = [".tgm", ".tgs", ".tgx", ".snapshot"].map(|end| rig.files(end)).concat();
    let is_of_it =
        |file: &&PathBuf| file.to_str().is_some_and(|path| path.contains("-0/") && path.starts_with("partitions"));
    let files: Vec<(PathBuf, Vec<u8>)> =
        all.iter().filter(is_of_it).map(|file| (file.clone(), rig.disk.content(file).expect("it is there"))).collect();
    assert!(!files.is_empty());
    for (file, _) in &files {
        assert!(rig.disk.take_away(file));
    }
    // It stays so, whatever becomes of the others, and however often it is opened.
    for _ in 0..2 {
        assert!(matches!(&rig.verify()[..], [Finding::Damage(Damage::PartitionMissing { .. })]), "{:?}", rig.verify());
        let found = rig.open().expect("the store opens");
        assert!(matches!(&found[0].error, Some(Damage::PartitionMissing { .. })), "{:?}", found[0]);
        assert_eq!(found[1].error, None);
        push_out(&mut rig, 1);
        block_on(rig.store().close()).expect("it can be closed");
        rig.crash(Stop::PowerLoss);
    }
    for (file, content) in &files {
        rig.disk.place(file, content);
    }
    assert_eq!(rig.verify(), []);
    rig.open_whole();
    assert_eq!(rig.read(0).expect("it can be read"), written);
}

/// Behind a file that is gone there is a spare one, so that the journal did not look empty.
#[test]
fn a_missing_journal_file_is_said() {
    let (mut rig, journal, _) = in_the_journal_alone();
    assert!(rig.disk.take_away(&journal));
    let missing = block_on(tidegate_storage::missing_journals(&rig.disk)).expect("it can be read");
    assert_eq!(missing, [], "without a layout nobody knows which shards there are");
    assert!(matches!(&rig.verify()[..], [Finding::JournalMissing { file }] if *file == journal));
    // Taking it away is a way out that messages name, so the store goes on.
    rig.open_whole();
    rig.write(0, 900);
    rig.crash(Stop::Kill);
    assert_eq!(rig.verify(), []);
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

fn is_full(error: &ChangeError) -> bool {
    matches!(error, ChangeError::Disk(error) if error.kind == DiskErrorKind::Full)
}

/// Fills the journal on a full disk: appends are refused in the end with what a client is to be told, and everything before is kept.
/// Returns how many batches were acknowledged.
fn fill_until_refused(rig: &mut Rig, index: i32) -> usize {
    for written in 0..1000 {
        match rig.append(index, 3000) {
            Ok(()) => {
                block_on(rig.store().commit_round()).expect("what is admitted has its place");
                rig.apply();
            }
            Err(AppendError::NoSpace) => return written,
            Err(AppendError::Backpressure) => rig.apply(),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("a full disk takes everything");
}

/// Every kind of I/O meets the full disk once: the journal's growth, a new segment, extents, pre-writing, the index and the manifest
/// of a roll, the checkpoint, a rewrite, a snapshot. Appends are refused, reads go on, and all of it works again with room.
#[test]
fn a_full_disk_refuses_appends_serves_reads_and_heals() {
    // At each room that is left, something else is the first to be refused.
    for room in (0..40).map(|blocks| blocks * 8192) {
        let mut rig = Rig::new(3);
        rig.segment.segment_bytes = 100_000;
        rig.open_whole();
        for _ in 0..40 {
            rig.write(0, 3000);
            rig.apply();
        }
        rig.make_direct(1);
        block_on(rig.store().roll(partition(0))).expect("there is room yet");
        rig.disk.set_bytes_max(rig.disk.allocated_bytes() + room);

        let before = rig.read(0).expect("it can be read").len();
        let taken = fill_until_refused(&mut rig, 0);
        let refused = fill_until_refused(&mut rig, 2);
        assert!(rig.store().figures().full, "room {room}: it is known why");
        assert_eq!(rig.read(0).expect("reads go on").len(), before + taken, "room {room}");
        assert_eq!(rig.read(2).expect("reads go on").len(), refused, "room {room}");
        for done in [
            block_on(rig.store().roll(partition(0))),
            block_on(rig.store().save_snapshot(partition(0), Offset(1), b"producers")),
            block_on(rig.store().set_log_start_offset(partition(1), Offset(1))),
            compact_all(&rig, 0),
        ] {
            assert!(done.as_ref().err().is_none_or(is_full), "room {room}: {done:?}");
        }
        assert!(!rig.store().figures().failed, "room {room}: nothing is over");

        rig.disk.set_bytes_max(u64::MAX);
        rig.apply();
        rig.write(2, 3000);
        rig.write(0, 9000);
        rig.apply();
        assert!(!rig.store().figures().full, "room {room}: it has healed");
        let whole = (rig.read(0).expect("it can be read"), rig.read(2).expect("it can be read"));
        assert_eq!((whole.0.len(), whole.1.len()), (before + taken + 1, refused + 1), "room {room}");
        rig.crash(Stop::PowerLoss);
        assert_eq!(rig.verify(), [], "room {room}");
        rig.open_whole();
        assert_eq!((rig.read(0).expect("whole"), rig.read(2).expect("whole")), whole, "room {room}");
    }
}

/// Rewrites the sealed segments of a partition, keeping everything.
fn compact_all(rig: &Rig, index: i32) -> Result<(), ChangeError> {
    let (store, whose) = (rig.store(), partition(index));
    let segments = store.segments(whose);
    let mut sealed = segments.iter().filter(|segment| segment.sealed);
    let Some(first) = sealed.next() else { return Ok(()) };
    let end = sealed.next_back().unwrap_or(first).next_offset;
    let stored = block_on(store.read_stored(whose, first.base_offset, end, usize::MAX)).expect("it can be read");
    let mut rewrite = block_on(store.begin_rewrite(whose, first.base_offset, end))?;
    for batch in stored {
        block_on(rewrite.push(batch.bytes, batch.append_time))?;
    }
    block_on(rewrite.finish())
}

/// A write or flush that fails, wherever it does: from then on nothing is acknowledged, and what was acknowledged is there afterwards.
#[test]
fn after_a_failed_write_or_flush_nothing_is_acknowledged() {
    for after in 1..90 {
        let mut rig = Rig::new(2);
        rig.segment.segment_bytes = 60_000;
        rig.open_whole();
        rig.write(0, 3000);
        rig.disk.plan_fault(Some((after, Fault::Error)));
        let mut acknowledged = 1;
        for _ in 0..200 {
            if rig.append(0, 3000).is_err() {
                break;
            }
            let round = block_on(rig.store().commit_round());
            if rig.disk.has_failed() && round.is_err() {
                break;
            }
            assert!(round.is_ok(), "fault {after}: only a failed disk fails a round");
            assert!(
                rig.store().offsets(partition(0)).is_some_and(|offsets| offsets.log_end_offset.0 == acknowledged + 1)
            );
            acknowledged += 1;
            rig.apply();
        }
        assert!(rig.disk.has_failed(), "fault {after} came");
        assert!(rig.store().figures().failed, "fault {after}: it is known");
        for index in 0..2 {
            assert!(matches!(rig.append(index, 10), Err(AppendError::Failed(_))), "fault {after}");
        }
        assert!(block_on(rig.store().commit_round()).is_err(), "fault {after}: nothing is tried over it");
        assert!(rig.read(0).is_ok_and(|batches| batches.len() as i64 >= acknowledged), "fault {after}: reads go on");
        rig.crash(Stop::PowerLoss);
        assert_eq!(rig.verify(), [], "fault {after}");
        rig.open_whole();
        assert!(rig.read(0).expect("it can be read").len() as i64 >= acknowledged, "fault {after}");
    }
}

/// What was only written (`durability = "os"`) was applied while the journal was not flushed. Power went and took a batch from the journal
/// and, in the segment, the first extent but not the next: that looked like damage of what nothing else has, and the partition was
/// taken offline. Or it left the file of the first segment, and neither the journal nor a manifest: that looked like a lost manifest.
#[test]
fn what_was_only_written_takes_no_partition_offline_when_power_goes() {
    for after in 1..60 {
        let mut rig = Rig::new(1);
        rig.durability = Flush::Written;
        rig.segment.segment_bytes = 60_000;
        rig.open_whole();
        rig.disk.plan_fault(Some((after, Fault::Error)));
        for _ in 0..30 {
            if rig.append(0, 9000).is_err() || block_on(rig.store().commit_round()).is_err() {
                break;
            }
            rig.apply();
        }
        let written = rig.read(0).expect("it can be read");
        rig.crash(Stop::PowerLoss);
        assert_eq!(rig.verify(), [], "fault {after}");
        rig.open_whole();
        let left = rig.read(0).expect("it can be read");
        // The round that failed may be there, too.
        assert!(left.len() <= written.len() + 1, "fault {after}");
        assert!(left.iter().zip(&written).all(|(left, written)| left == written), "fault {after}");
    }
}

/// A large batch makes background work prepare the active segment. The first one of a partition was still on its way to the journal
/// when the file of the segment was there already; power went, the journal had nothing, and what the manifest would have been was missed.
#[test]
fn a_partition_has_no_segment_before_the_journal_has_its_first_batch() {
    for seed in 0..600 {
        let mut random = Random::new(seed);
        let mut rig = Rig::new(1);
        rig.disk = SimulatedDisk::new(random.fork(), Trace::default(), u64::MAX);
        let executor = Executor::new(random.fork());
        let opened = Rc::new(RefCell::new(None));
        let (opening, result) = (rig.opening(), Rc::clone(&opened));
        executor.spawn(async move { *result.borrow_mut() = opening.await.ok() });
        executor.run_until(|| opened.borrow().is_some(), 10_000);
        let (store, _) = opened.take().expect("the store opens");
        rig.take_over(store.clone());
        // The journal gets its second file first, so that nothing else is to be done.
        let (idle, preparing) = (Rc::new(RefCell::new(false)), store.clone());
        let prepared = Rc::clone(&idle);
        executor.spawn(async move {
            while preparing.apply_step(1 << 20).await {}
            *prepared.borrow_mut() = true;
        });
        executor.run_until(|| *idle.borrow(), 10_000);
        rig.append(0, 9000).expect("there is room");
        rig.disk.plan_fault(Some((random.between(1, 20), Fault::Stop(Stop::PowerLoss))));
        let applied = store.clone();
        executor.spawn(async move { drop(store.commit_round().await) });
        executor.spawn(async move {
            for _ in 0..20 {
                applied.apply_step(1 << 20).await;
                yield_now().await;
            }
        });
        executor.run_until(|| rig.disk.has_stopped(), 10_000);
        rig.crash(Stop::PowerLoss);
        assert_eq!(rig.verify(), [], "seed {seed}");
    }
}

/// A partition with three sealed segments of four records, and one record more, of which a snapshot knows everything.
fn sealed(index: i32) -> Rig {
    let mut rig = Rig::new(2);
    rig.open_whole();
    for _ in 0..3 {
        for _ in 0..4 {
            rig.write(index, 3000);
        }
        block_on(rig.store().roll(partition(index))).expect("it rolls");
    }
    rig.write(index, 3000);
    rig.apply();
    let end = rig.store().offsets(partition(index)).expect("it is here").log_end_offset;
    block_on(rig.store().save_snapshot(partition(index), end, b"everything")).expect("it is saved");
    rig
}

fn offload(rig: &Rig, base_offset: i64) {
    block_on(rig.store().offload(partition(0), Offset(base_offset))).expect("it is offloaded");
}

fn sweep(rig: &Rig) {
    while !block_on(rig.store().sweep_objects()).expect("the object store answers").done {}
}

#[test]
fn what_is_offloaded_is_read_as_before_and_takes_no_room() {
    let mut rig = sealed(0);
    let written = rig.read(0).expect("it can be read");
    let bytes = rig.store().log_bytes(partition(0));
    offload(&rig, 0);
    offload(&rig, 4);
    let again = block_on(rig.store().offload(partition(0), Offset(4)));
    assert!(matches!(again, Err(ChangeError::NotSealed { .. })), "it is there already: {again:?}");
    assert_eq!(rig.disk.objects(), rig.store().named_objects());
    assert_eq!(rig.files(".tgs").len(), 1, "the third; what came after it is in the journal still");
    assert!(rig.store().log_bytes(partition(0)) < bytes / 2);
    assert_eq!(rig.store().local_start_offset(partition(0)), Some(Offset(8)));
    for _ in 0..2 {
        assert_eq!(rig.read(0).expect("it can be read"), written);
        assert_eq!(rig.verify(), []);
        rig.crash(Stop::PowerLoss);
        rig.open_whole();
    }
    // The index can be made anew, from the object.
    for index in rig.files(".tgx") {
        rig.disk.take_away(&index);
    }
    rig.crash(Stop::Kill);
    rig.open_whole();
    assert_eq!(rig.read(0).expect("it can be read"), written);
    assert_eq!(rig.files(".tgx").len(), 2, "and is kept, for those that are far away");
}

#[test]
fn opening_a_store_asks_no_object_store() {
    let mut rig = sealed(0);
    offload(&rig, 0);
    offload(&rig, 4);
    rig.disk.set_object_faults(1);
    rig.crash(Stop::PowerLoss);
    rig.open_whole();
    let error = rig.read(0).expect_err("the store is down");
    assert!(matches!(&error, ReadError::Object(error) if error.kind == ObjectErrorKind::Unavailable), "{error}");
    rig.write(0, 3000);
    rig.disk.set_object_faults(0);
    assert_eq!(rig.read(0).expect("it is back").len(), 14);
}

#[test]
fn a_segment_that_no_snapshot_covers_is_not_offloaded() {
    let mut rig = Rig::new(1);
    rig.open_whole();
    rig.write(0, 3000);
    block_on(rig.store().roll(partition(0))).expect("it rolls");
    let refused = block_on(rig.store().offload(partition(0), Offset(0)));
    assert!(matches!(refused, Err(ChangeError::NotCovered { next_offset: Offset(1), .. })), "{refused:?}");
}

#[test]
fn a_failed_upload_leaves_everything_as_it_was() {
    let mut rig = sealed(0);
    let written = rig.read(0).expect("it can be read");
    rig.disk.set_object_faults(2);
    for _ in 0..40 {
        let done = block_on(rig.store().offload(partition(0), Offset(0)));
        if done.is_ok() {
            break;
        }
        assert!(matches!(done, Err(ChangeError::Object(_))), "{done:?}");
        assert_eq!(rig.files(".tgs").len(), 3);
    }
    rig.disk.set_object_faults(0);
    assert_eq!(rig.read(0).expect("it can be read"), written);
    sweep(&rig);
    assert_eq!(rig.disk.objects(), rig.store().named_objects());
    rig.crash(Stop::PowerLoss);
    rig.open_whole();
    assert_eq!(rig.read(0).expect("it can be read"), written);
}

#[test]
fn a_damaged_segment_is_not_offloaded() {
    let rig = sealed(0);
    let first = rig.files(".tgs").remove(0);
    rig.disk.damage(&first, 4096 + 500);
    let refused = block_on(rig.store().offload(partition(0), Offset(0)));
    assert!(matches!(refused, Err(ChangeError::Damaged(_))), "{refused:?}");
    assert!(rig.disk.content(&first).is_some());
    sweep(&rig);
    assert_eq!(rig.disk.objects(), Vec::<String>::new());
}

#[test]
fn an_object_that_is_gone_or_damaged_is_named_and_the_rest_is_served() {
    let mut rig = sealed(0);
    offload(&rig, 0);
    offload(&rig, 4);
    let objects = rig.disk.objects();
    rig.disk.damage_object(&objects[0], 4096 + 500);
    rig.disk.take_object_away(&objects[1]);
    // Memory has the newest records still.
    rig.crash(Stop::Kill);
    rig.open_whole();
    let read = |from: i64| {
        let up_to = rig.store().offsets(partition(0)).expect("it is here").log_end_offset;
        let request = ReadRequest { from: Offset(from), bytes_max: 100, up_to, at_least_one: true };
        block_on(rig.store().read(partition(0), request))
    };
    assert!(matches!(read(0), Err(ReadError::Damaged(damage)) if matches!(*damage, Damage::Object { .. })));
    assert!(matches!(read(4), Err(ReadError::Object(error)) if error.kind == ObjectErrorKind::NotFound));
    assert!(read(8).is_ok_and(|batches| !batches.is_empty()));
}

#[test]
fn objects_of_deleted_segments_go_and_none_before() {
    let mut rig = sealed(0);
    offload(&rig, 0);
    offload(&rig, 4);
    block_on(rig.store().delete_segments_below(partition(0), Offset(4))).expect("it is deleted");
    assert_eq!(rig.disk.objects().len(), 2);
    // A crash does not make it forget.
    rig.crash(Stop::PowerLoss);
    rig.open_whole();
    sweep(&rig);
    assert_eq!(rig.disk.objects(), rig.store().named_objects());
    assert_eq!(rig.disk.objects().len(), 1);
    assert_eq!(rig.read(0).expect("it can be read").len(), 9);
}

#[test]
fn objects_of_a_deleted_partition_go_even_if_the_store_is_away_until_after_a_restart() {
    let mut rig = sealed(0);
    offload(&rig, 0);
    rig.disk.set_object_faults(1);
    block_on(rig.store().delete_partition(partition(0))).expect("its files go");
    assert!(block_on(rig.store().sweep_objects()).is_err());
    rig.crash(Stop::PowerLoss);
    // By now the metadata know nothing of the topic, not even that it was deleted.
    let known = [partition(1)].into();
    let orphans = block_on(remove_orphans(&rig.disk, &known, &[].into())).expect("it can be listed");
    assert_eq!((orphans.doomed.as_slice(), orphans.kept.as_slice()), ([partition(0)].as_slice(), [].as_slice()));
    rig.open_whole();
    rig.store().doom(partition(0));
    rig.disk.set_object_faults(0);
    sweep(&rig);
    assert_eq!(rig.disk.objects(), Vec::<String>::new());
    assert!(rig.disk.files().iter().all(|(path, _)| !path.ends_with("deleted.tgm")));
}

#[test]
fn a_cut_through_an_offloaded_segment_fetches_it_back() {
    let mut rig = sealed(0);
    let written = rig.read(0).expect("it can be read");
    for base_offset in [0, 4, 8] {
        offload(&rig, base_offset);
    }
    rig.disk.set_object_faults(1);
    let refused = block_on(rig.store().truncate(partition(0), Offset(6)));
    assert!(matches!(refused, Err(ChangeError::Object(_))), "{refused:?}");
    rig.disk.set_object_faults(0);
    assert_eq!(rig.read(0).expect("nothing was cut"), written);
    block_on(rig.store().truncate(partition(0), Offset(6))).expect("it is cut");
    rig.crash(Stop::PowerLoss);
    rig.open_whole();
    assert_eq!(rig.read(0).expect("it can be read"), written[..6]);
    sweep(&rig);
    assert_eq!(rig.disk.objects(), rig.store().named_objects());
    assert_eq!(rig.disk.objects().len(), 1);
}

#[test]
fn a_segment_that_is_rewritten_comes_back_to_the_disk() {
    let rig = sealed(0);
    offload(&rig, 0);
    let mut rewrite = block_on(rig.store().begin_rewrite(partition(0), Offset(0), Offset(4))).expect("it begins");
    let stored = block_on(rig.store().read_stored(partition(0), Offset(0), Offset(4), 1 << 20)).expect("it is read");
    for batch in stored.into_iter().skip(1) {
        block_on(rewrite.push(batch.bytes, batch.append_time)).expect("it is taken");
    }
    block_on(rewrite.finish()).expect("it is written");
    sweep(&rig);
    assert_eq!(rig.disk.objects(), Vec::<String>::new());
    assert_eq!(rig.read(0).expect("it can be read").len(), 12);
    assert_eq!(rig.verify(), []);
}

/// A round that went straight into a segment is whole if its extent is. Its segment was offloaded, and a cut was fetching the file back
/// when the process died: the extent was not there yet, so the journal's last round was taken for torn, with all that others had in it.
#[test]
fn a_segment_that_was_being_fetched_back_takes_no_round_away() {
    for after in 1..8 {
        let mut rig = Rig::new(2);
        rig.options.write_bytes_max = 4096;
        rig.open_whole();
        rig.make_direct(0);
        rig.append(0, 9000).expect("there is room");
        rig.append(1, 100).expect("there is room");
        assert_eq!(block_on(rig.store().commit_round()).expect("the disk takes it").direct_batches, 1);
        let written = rig.read(1).expect("it can be read");
        let store = rig.store();
        block_on(store.roll(partition(0))).expect("it is sealed");
        let end = store.offsets(partition(0)).expect("it is known").log_end_offset;
        block_on(store.save_snapshot(partition(0), end, b"all")).expect("it is saved");
        offload(&rig, 0);
        rig.disk.plan_fault(Some((after, Fault::Error)));
        assert!(block_on(store.truncate(partition(0), Offset(2))).is_err(), "fault {after}");
        rig.crash(Stop::Kill);
        assert_eq!(rig.verify(), [], "fault {after}");
        rig.open_whole();
        assert_eq!(rig.read(1).expect("it can be read"), written, "fault {after}");
    }
}
