//! What went wrong once, or must never go wrong, told step by step on a calm disk.

use tidegate_simulator::{
    disk::Stop,
    rig::{Rig, partition},
};
use tidegate_storage::{ChangeError, disk::DiskErrorKind, read_only::block_on};

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
