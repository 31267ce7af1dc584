//! One run: a random workload on stores over a simulated disk, a crash at a random operation, recovery, the check; several times.

use std::{cell::RefCell, collections::BTreeMap, fmt, pin::Pin, rc::Rc};

use bytes::Bytes;
use tidegate_records::{
    batch::{Batches, stamp},
    ids::{LeaderEpoch, Offset, PartitionIndex, ProducerId, Sequence, ShardId, TopicId, TopicPartition},
    time::Timestamp,
};
use tidegate_storage::{
    Append, AppendError, ChangeError, PartitionSpec, ReadError, ReadRequest, RecoveredPartition, SegmentConfig, Store,
    StoreOptions, Wanted,
    disk::{DiskErrorKind, Flush},
    migrate,
    objects::ObjectErrorKind,
    verify::{Seen, verify},
};

use crate::{
    batches::{BatchSpec, make},
    disk::{Fault, SimulatedDisk, Stop},
    executor::{Ended, Executor, Spawner, yield_now},
    oracle::{Expected, Oracle, Removed, Written},
    random::Random,
    trace::Trace,
};

/// A run that went wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {}\nrepeat it with: cargo run -p tidegate-simulator -- --seed {} --trace",
            self.seed, self.what, self.seed
        )
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub operations: u64,
    pub crashes: u64,
    pub batches: u64,
    /// Those that went straight into a segment.
    pub direct_batches: u64,
    /// Segments that were sent to the object store.
    pub offloaded: u64,
    pub hash: u64,
}

const PARTITIONS: i32 = 5;
const STEPS_MAX: u64 = 2_000_000;

type Stores = Rc<RefCell<BTreeMap<u16, Store<SimulatedDisk>>>>;

/// What the tasks of a run share.
#[derive(Clone)]
struct World {
    random: Rc<RefCell<Random>>,
    trace: Trace,
    disk: SimulatedDisk,
    oracle: Rc<RefCell<Oracle>>,
    stores: Stores,
    failure: Rc<RefCell<Option<String>>>,
    /// Workers that still have something to do.
    working: Rc<RefCell<u32>>,
    batches: Rc<RefCell<u64>>,
    direct_batches: Rc<RefCell<u64>>,
    offloaded: Rc<RefCell<u64>>,
    clock: Rc<RefCell<i64>>,
    /// All stores are open and were checked.
    opened: Rc<RefCell<bool>>,
    was_full: Rc<RefCell<bool>>,
    shards: u16,
    mix: Mix,
    /// Whether segments are offloaded.
    offloads: bool,
    /// Nearly everything is appended as with `durability = "os"`.
    seldom_flushes: bool,
}

/// What the workload is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mix {
    /// Batches of all sizes to all partitions.
    Small,
    /// Large batches, mostly to few partitions, with every kind of disturbance.
    Large,
    /// Large batches to two partitions, seldom disturbed: what the direct path is for.
    Steady,
}

fn topic_partition(index: i32) -> TopicPartition {
    TopicPartition::new(TopicId([7; 16]), PartitionIndex(index))
}

fn options(random: &mut Random, shard: u16, mix: Mix) -> StoreOptions {
    let block = 4096;
    let file_blocks = random.between(24, 64);
    let (direct_min_bytes, prewrite_bytes) = match mix {
        Mix::Small => (random.between(2, 24) * 1024, random.between(4, 24) * block),
        Mix::Large => (random.between(1, 8) * 1024, random.between(16, 48) * block),
        Mix::Steady => (random.between(1, 3) * 1024, random.between(24, 64) * block),
    };
    let extent_bytes_min = if mix == Mix::Steady { 24 } else { 2 };
    StoreOptions {
        shard: ShardId(shard),
        journal_bytes_max: file_blocks * block * random.between(3, 5),
        journal_file_bytes: file_blocks * block,
        journal_first_file_bytes: random.between(16, 24) * block,
        tail_cache_bytes: random.between(4, 400) as usize * 1024,
        read_cache_bytes: random.between(0, 200) as usize * 1024,
        unapplied_bytes_max: random.between(32, 200) as usize * 1024,
        pending_bytes_max: random.between(16, 64) as usize * 1024,
        round_bytes_max: random.between(8, 64) as usize * 1024,
        write_bytes_max: random.between(1, 8) as usize * 4096,
        extent_bytes: random.between(extent_bytes_min, 40) as usize * 1024,
        direct_min_bytes: direct_min_bytes as usize,
        prewrite_bytes,
        index_every_bytes: random.between(2, 40) * 4096,
        open_files_max: random.between(1, 8) as usize,
    }
}

impl World {
    fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    fn one_in(&self, times: u64) -> bool {
        self.random.borrow_mut().one_in(times)
    }

    /// Something went wrong that must not, unless the disk failed.
    fn fail(&self, what: String) {
        if self.disk.has_failed() {
            self.trace.note(format_args!("after the disk failed: {what}"));
            return;
        }
        self.failure.borrow_mut().get_or_insert(what);
    }

    fn is_full(&self) -> bool {
        let full = self.disk.is_limited();
        *self.was_full.borrow_mut() |= full;
        full
    }

    fn store(&self, topic_partition: TopicPartition) -> Store<SimulatedDisk> {
        let shard = u16::try_from(topic_partition.partition.0).expect("few partitions") % self.shards;
        self.stores.borrow()[&shard].clone()
    }

    fn any_partition(&self) -> TopicPartition {
        let others = match self.mix {
            Mix::Small => true,
            Mix::Large => self.one_in(5),
            Mix::Steady => self.one_in(40),
        };
        let busy = if others { PARTITIONS as u64 } else { 2 };
        topic_partition(self.below(busy) as i32)
    }
}

/// Runs one seed.
///
/// # Errors
/// [`Failure`]: a promise was broken.
pub fn run(seed: u64, trace: &Trace) -> Result<Summary, Failure> {
    let mut random = Random::new(seed);
    let cycles = random.between(2, 4);
    let disk = SimulatedDisk::new(random.fork(), trace.clone(), u64::MAX);
    let mut oracle = Oracle::default();
    for index in 0..PARTITIONS {
        oracle.partitions.insert(topic_partition(index), Expected::default());
    }
    let mut world = World {
        random: Rc::new(RefCell::new(random.fork())),
        trace: trace.clone(),
        disk,
        oracle: Rc::new(RefCell::new(oracle)),
        stores: Rc::default(),
        failure: Rc::default(),
        working: Rc::default(),
        batches: Rc::default(),
        direct_batches: Rc::default(),
        offloaded: Rc::default(),
        clock: Rc::new(RefCell::new(1_000_000)),
        opened: Rc::default(),
        was_full: Rc::default(),
        shards: 1,
        mix: [Mix::Small, Mix::Large, Mix::Steady, Mix::Steady][random.index(4)],
        // Those in `seeds/` that are older do not, and tell what they told.
        offloads: seed % 4 == 1,
        seldom_flushes: seed % 8 == 4,
    };
    let mut summary = Summary::default();
    let mut stop = None;
    let mut cycle = 0;
    while cycle < cycles {
        world.stores.borrow_mut().clear();
        *world.opened.borrow_mut() = false;
        let executor = Executor::new(random.fork());
        let kind = if random.one_in(2) { Stop::Kill } else { Stop::PowerLoss };
        let fault = match random.below(12) {
            0 | 1 => None,
            2 => Some(Fault::Error),
            _ => Some(Fault::Stop(kind)),
        };
        if let Some(fault) = fault {
            // Many crashes hit the recovery of the one before.
            let after = match random.below(6) {
                0 => random.between(1, 60),
                1 => random.between(100, 2500),
                _ => random.between(20, 700),
            };
            world.disk.plan_fault(Some((after, fault)));
        }
        if random.one_in(3) {
            world.shards = u16::try_from(random.between(1, 3)).expect("a few shards");
        }
        let settings: Vec<StoreOptions> =
            (0..world.shards).map(|shard| options(&mut random, shard, world.mix)).collect();
        let ended = {
            let started = world.clone();
            let spawner = executor.spawner();
            executor.spawn(async move {
                let working = Rc::clone(&started.working);
                life(started, spawner, settings, stop).await;
                *working.borrow_mut() = 0;
            });
            *world.working.borrow_mut() = 1;
            let seen = world.clone();
            executor.run_until(
                move || seen.failure.borrow().is_some() || seen.disk.has_stopped() || *seen.working.borrow() == 0,
                STEPS_MAX,
            )
        };
        let failure = world.failure.borrow_mut().take();
        if let Some(what) = failure {
            return Err(Failure { seed, what });
        }
        if ended != Ended::Done {
            let figures: Vec<_> = world.stores.borrow().values().map(Store::figures).collect();
            return Err(Failure { seed, what: format!("the run is {ended:?}, nothing crashed: {figures:?}") });
        }
        if world.disk.has_stopped() || world.disk.has_failed() {
            trace.note(format_args!("{kind:?} after {} operations", world.disk.operations()));
            summary.crashes += 1;
            world.disk.restart(kind);
            // A loss of power counts until a recovery has come to its end.
            let unseen = stop == Some(Stop::PowerLoss) && !*world.opened.borrow();
            stop = Some(if unseen { Stop::PowerLoss } else { kind });
        } else {
            world.disk.plan_fault(None);
            stop = None;
        }
        // What a crash leaves is no damage: `tidegate log verify` must find the directory whole.
        if let Some(what) = first_finding(&world.disk) {
            return Err(Failure { seed, what: format!("verify after cycle {cycle}: {what}") });
        }
        cycle += 1;
        // The last opening must be looked at too.
        if cycle == cycles && stop.is_some() {
            cycle -= u64::from(!world.one_in(3));
        }
    }
    summary.operations = world.disk.operations();
    summary.batches = *world.batches.borrow();
    summary.direct_batches = *world.direct_batches.borrow();
    summary.offloaded = *world.offloaded.borrow();
    summary.hash = trace.hash();
    Ok(summary)
}

/// The first thing that is wrong with the files as they are.
fn first_finding(disk: &SimulatedDisk) -> Option<String> {
    let partitions = (0..PARTITIONS).map(topic_partition).collect();
    let mut first = None;
    let mut see = |seen: Seen<'_>| {
        if let Seen::Finding(finding) = seen {
            first.get_or_insert_with(|| finding.to_string());
        }
    };
    let done = disk.look_on(verify(disk, Some(&partitions), &mut see));
    first.or(done.err().map(|error| error.to_string()))
}

/// From opening the stores to closing them, unless the machine stops before.
async fn life(world: World, spawner: Spawner, settings: Vec<StoreOptions>, stop: Option<Stop>) {
    let config = || {
        let (segment_blocks, segment_ms) = match world.mix {
            Mix::Small => (1 + world.below(24), 500 + world.below(10_000)),
            Mix::Large => (1 + world.below(80), 500 + world.below(10_000)),
            Mix::Steady => (40 + world.below(200), 100_000),
        };
        SegmentConfig { segment_bytes: 4096 * segment_blocks, segment_ms: segment_ms as i64 }
    };
    let specs: Vec<PartitionSpec> = (0..PARTITIONS)
        .map(|index| PartitionSpec { topic_partition: topic_partition(index), config: config() })
        .collect();
    // Recovery is checked by reading everything, so everything must be there to be read.
    world.disk.set_object_faults(0);
    match migrate(&world.disk, &settings[0], world.shards, &specs).await {
        Ok(drained) => world.trace.note(format_args!("{} shards, drained {drained}", world.shards)),
        Err(error) => return world.fail(format!("the shards cannot be changed: {error}")),
    }
    for options in settings {
        let shard = options.shard.0;
        let specs = specs
            .iter()
            .filter(|spec| spec.topic_partition.partition.0 as u16 % world.shards == shard)
            .copied()
            .collect();
        match Store::open(world.disk.clone(), options, specs).await {
            Ok((store, recovered)) => {
                world.stores.borrow_mut().insert(shard, store.clone());
                for partition in recovered {
                    if let Err(what) = check_partition(&world, &store, stop, &partition).await {
                        world.fail(what);
                        return;
                    }
                }
            }
            Err(error) => {
                world.fail(format!("the store cannot be opened: {error}"));
                return;
            }
        }
    }
    *world.opened.borrow_mut() = true;
    if world.offloads {
        world.disk.set_object_faults([0, 10, 40][world.below(3) as usize]);
    }
    let workers = 4;
    let finished = Rc::new(RefCell::new(0));
    let running = Rc::new(RefCell::new(0));
    let start = |future: Pin<Box<dyn Future<Output = ()>>>| {
        *running.borrow_mut() += 1;
        let running = Rc::clone(&running);
        spawner.spawn(async move {
            future.await;
            *running.borrow_mut() -= 1;
        });
    };
    let actions = 20
        + world.below(match world.mix {
            Mix::Small => 150,
            Mix::Large => 400,
            Mix::Steady => 250,
        });
    for worker in 0..workers {
        let world = world.clone();
        let finished = Rc::clone(&finished);
        start(Box::pin(async move {
            for _ in 0..actions {
                if world.failure.borrow().is_some() || world.disk.has_failed() {
                    break;
                }
                if worker == 0 {
                    if world.mix != Mix::Steady || world.one_in(30) {
                        maintain(&world).await
                    }
                } else {
                    use_log(&world).await
                }
                yield_now().await;
            }
            *finished.borrow_mut() += 1;
        }));
    }
    let stores: Vec<_> = world.stores.borrow().values().cloned().collect();
    for store in stores {
        let (committing, applying) = (world.clone(), world.clone());
        let (store_a, store_b) = (store.clone(), store);
        let (done_a, done_b) = (Rc::clone(&finished), Rc::clone(&finished));
        start(Box::pin(async move {
            while (*done_a.borrow() < workers || store_a.has_pending()) && !store_a.figures().failed {
                if store_a.has_pending() {
                    commit(&committing, &store_a).await;
                }
                yield_now().await;
            }
        }));
        start(Box::pin(async move {
            while (*done_b.borrow() < workers || store_b.has_pending()) && !store_b.figures().failed {
                let (bytes, turns) = if applying.mix == Mix::Steady { (1 << 20, 3) } else { (64 * 1024, 20) };
                store_b.apply_step(1 + applying.below(bytes) as usize).await;
                for _ in 0..applying.below(turns) {
                    yield_now().await;
                }
            }
        }));
    }
    while *running.borrow() > 0 {
        yield_now().await;
    }
    world.disk.set_bytes_max(u64::MAX);
    if world.offloads && !world.disk.has_failed() {
        sweep_all(&world).await;
    }
    if world.one_in(2) && !world.disk.has_failed() {
        let stores: Vec<_> = world.stores.borrow().values().cloned().collect();
        for store in stores {
            if let Err(error) = store.close().await {
                world.fail(format!("closing failed: {error}"));
            }
        }
    }
    if world.disk.has_failed() {
        return;
    }
    for expected in world.oracle.borrow_mut().partitions.values_mut() {
        // What was refused or never committed is not in the log.
        let end = expected.written_end.max(expected.durable_end);
        expected.batches.retain(|batch| batch.next_offset <= end);
    }
}

/// Nothing is in the object store that nobody names, once it works and was swept.
async fn sweep_all(world: &World) {
    world.disk.set_object_faults(0);
    let stores: Vec<_> = world.stores.borrow().values().cloned().collect();
    let mut named = Vec::new();
    for store in stores {
        loop {
            match store.sweep_objects().await {
                Ok(swept) if swept.done => break,
                Ok(_) => {}
                Err(error) => return world.fail(format!("sweeping failed: {error}")),
            }
        }
        named.extend(store.named_objects());
    }
    named.sort_unstable();
    let there = world.disk.objects();
    if there != named {
        world.fail(format!("the objects are {there:?}, and those that are named {named:?}"));
    }
}

async fn commit(world: &World, store: &Store<SimulatedDisk>) {
    let flushes = store.commit_round().await;
    match flushes {
        Ok(report) => {
            let mut oracle = world.oracle.borrow_mut();
            *world.direct_batches.borrow_mut() += report.direct_batches as u64;
            for (topic_partition, end) in report.durable {
                world.trace.note(format_args!("durable {topic_partition} {end} flushes {}", report.flushes));
                let expected = oracle.partitions.get_mut(&topic_partition).expect("only known partitions are used");
                expected.written_end = expected.written_end.max(end);
                if report.flushes > 0 {
                    expected.durable_end = expected.durable_end.max(end);
                }
            }
        }
        Err(error) => world.fail(format!("a round failed without a fault: {error}")),
    }
}

/// Appends and reads.
async fn use_log(world: &World) {
    let topic_partition = world.any_partition();
    let store = world.store(topic_partition);
    if world.offloads && world.one_in(12) {
        return offload_some(world, &store, topic_partition).await;
    }
    match world.below(20) {
        0..=11 => append_some(world, &store, topic_partition).await,
        12 => find_some(world, &store, topic_partition).await,
        _ => read_some(world, &store, topic_partition).await,
    }
}

#[allow(clippy::await_holding_refcell_ref, reason = "it is dropped before the await, which the lint does not see")]
async fn append_some(world: &World, store: &Store<SimulatedDisk>, topic_partition: TopicPartition) {
    let count = 1 + world.below(4);
    let written = if world.seldom_flushes {
        !world.one_in(30)
    } else {
        world.one_in(if world.mix == Mix::Steady { 60 } else { 4 })
    };
    let durability = if written { Flush::Written } else { Flush::Durable };
    for _ in 0..count {
        let value_bytes = match world.below(8) {
            1.. if world.mix != Mix::Small => 1000 + world.below(7000),
            0 => 4096 + world.below(12_000),
            1 | 2 => 1000 + world.below(4000),
            _ => world.below(300),
        };
        *world.clock.borrow_mut() += world.below(200) as i64;
        let now = Timestamp(*world.clock.borrow());
        let mut oracle = world.oracle.borrow_mut();
        let expected = oracle.partitions.get_mut(&topic_partition).expect("only known partitions are used");
        let base_offset = expected.end();
        expected.epoch += i32::from(world.one_in(12));
        let leader_epoch = LeaderEpoch(expected.epoch);
        let has_producer = !world.one_in(3);
        let timestamp = Timestamp(now.0 - world.below(1000) as i64);
        let spec = BatchSpec {
            offsets: 1 + world.below(5) as i32,
            timestamp,
            producer_id: if has_producer { ProducerId(9) } else { ProducerId::NONE },
            base_sequence: if has_producer { Sequence(base_offset.0 as i32) } else { Sequence::NONE },
            value_bytes: value_bytes as usize,
            fill: world.below(u64::MAX) | 1,
        };
        let (bytes, header) = make(&spec);
        let append = Append { bytes: bytes.clone(), header, base_offset, leader_epoch, append_time: now, durability };
        match store.append(topic_partition, append) {
            Ok(()) => {
                let mut stamped = bytes.to_vec();
                stamp(&mut stamped, base_offset, leader_epoch);
                *world.batches.borrow_mut() += 1;
                world.trace.note(format_args!("append {topic_partition} {base_offset} {}", stamped.len()));
                expected.batches.push(Written {
                    base_offset,
                    next_offset: base_offset.plus(i64::from(spec.offsets)),
                    bytes: stamped.into(),
                    leader_epoch,
                    append_time: now,
                    has_producer,
                    timestamp,
                    may_be_gone: false,
                    gone: false,
                });
            }
            Err(AppendError::Backpressure) => {
                drop(oracle);
                yield_now().await;
                return;
            }
            // It takes an apply step to notice that there is room again.
            Err(AppendError::NoSpace) if *world.was_full.borrow() => return,
            Err(error) => {
                drop(oracle);
                world.fail(format!("an append was refused: {error}"));
                return;
            }
        }
    }
}

fn split(slices: &[Bytes]) -> Result<Vec<(Offset, Offset, Bytes)>, String> {
    let mut out = Vec::new();
    for slice in slices {
        for each in Batches::new(slice) {
            let (header, bytes) = each.map_err(|error| format!("what was read is no batch: {error}"))?;
            out.push((header.base_offset, header.next_offset(), slice.slice_ref(bytes)));
        }
    }
    Ok(out)
}

async fn read_some(world: &World, store: &Store<SimulatedDisk>, topic_partition: TopicPartition) {
    let Some(offsets) = store.offsets(topic_partition) else { return };
    let (start, end) = (offsets.log_start_offset, offsets.log_end_offset);
    let from = Offset(start.0 + world.below((end.0 - start.0 + 1) as u64) as i64);
    let request =
        ReadRequest { from, bytes_max: world.below(40_000) as usize, up_to: end, at_least_one: world.one_in(2) };
    let (cuts, rewrites) = {
        let oracle = world.oracle.borrow();
        let expected = &oracle.partitions[&topic_partition];
        (expected.cuts, expected.rewrites)
    };
    let read = match store.read_tail(topic_partition, request) {
        Some(read) => Ok(read),
        None => store.read(topic_partition, request).await,
    };
    let read = match read {
        Ok(read) => read,
        // The start of the log, or its end, moved while the read was on its way.
        Err(ReadError::OutOfRange { .. }) => return,
        Err(ReadError::Object(error)) if error.kind == ObjectErrorKind::Unavailable => return,
        Err(error) => return world.fail(format!("reading {topic_partition} from {from} failed: {error}")),
    };
    let batches = match split(&read) {
        Ok(batches) => batches,
        Err(what) => return world.fail(what),
    };
    let oracle = world.oracle.borrow();
    let expected = &oracle.partitions[&topic_partition];
    if expected.cuts != cuts || expected.cut_to.is_some() {
        return;
    }
    let last = batches.last().map_or(from, |(_, next, _)| *next);
    let removed = if expected.rewrites == rewrites { Removed::IsGone } else { Removed::MayShow };
    if let Err(what) = expected.check_read(from.max(expected.log_start), last, &batches, removed)
        && expected.log_start <= from
    {
        drop(oracle);
        world.fail(format!("reading {topic_partition} from {from}: {what}"));
        return;
    }
    if request.at_least_one && batches.is_empty() && from < end && expected.log_start <= from {
        let left = expected
            .batches
            .iter()
            .any(|batch| batch.next_offset > from && batch.next_offset <= end && !batch.gone && !batch.may_be_gone);
        if left {
            drop(oracle);
            world.fail(format!("reading {topic_partition} from {from} gave nothing, the end is {end}"));
        }
    }
}

/// Looks a record up by its time.
async fn find_some(world: &World, store: &Store<SimulatedDisk>, topic_partition: TopicPartition) {
    let Some(up_to) = store.offsets(topic_partition).map(|offsets| offsets.log_end_offset) else { return };
    let wanted = match world.below(4) {
        0 => Wanted::MaxTimestamp,
        _ => Wanted::AtOrAfter(Timestamp(*world.clock.borrow() - world.below(40_000) as i64)),
    };
    let cuts = world.oracle.borrow().partitions[&topic_partition].cuts;
    let found = match store.find_by_time(topic_partition, wanted, up_to).await {
        Ok(found) => found,
        Err(ReadError::Object(error)) if error.kind == ObjectErrorKind::Unavailable => return,
        Err(error) => return world.fail(format!("looking for {wanted:?} in {topic_partition} failed: {error}")),
    };
    let checked = {
        let oracle = world.oracle.borrow();
        let expected = &oracle.partitions[&topic_partition];
        if expected.cuts != cuts || expected.cut_to.is_some() {
            return;
        }
        expected.check_found(wanted, up_to, found)
    };
    if let Err(what) = checked {
        world.fail(format!("{topic_partition}: {what}"));
    }
}

/// Rolls, deletes, rewrites, snapshots.
async fn maintain(world: &World) {
    let topic_partition = world.any_partition();
    let store = world.store(topic_partition);
    let done = match world.below(8) {
        0 | 1 => store.roll(topic_partition).await,
        2 => move_start(world, &store, topic_partition).await,
        3 => retain(world, &store, topic_partition).await,
        4 | 5 => rewrite(world, &store, topic_partition).await,
        6 => snapshot(world, &store, topic_partition).await,
        _ if world.one_in(3) => cut(world, &store, topic_partition).await,
        _ => {
            // The disk runs full, and has room again.
            let room = if world.is_full() || world.one_in(2) {
                u64::MAX
            } else {
                world.disk.allocated_bytes() + world.below(200_000)
            };
            world.trace.note(format_args!("room {room}"));
            world.disk.set_bytes_max(room);
            world.is_full();
            Ok(())
        }
    };
    if let Err(error) = done {
        let full = matches!(&error, ChangeError::Disk(error) if error.kind == DiskErrorKind::Full);
        if full && world.is_full() {
            return;
        }
        let moved = matches!(&error, ChangeError::NotSealed { .. }) && world.offloads;
        let unavailable = matches!(&error, ChangeError::Object(error) if error.kind == ObjectErrorKind::Unavailable);
        if moved || unavailable {
            return;
        }
        world.fail(format!("a change of {topic_partition} failed: {error}"));
    }
}

async fn cut(world: &World, store: &Store<SimulatedDisk>, topic_partition: TopicPartition) -> Result<(), ChangeError> {
    // A cut that meets a full disk closes the store: only an opening can finish it.
    if world.is_full() {
        return Ok(());
    }
    let Some(offsets) = store.offsets(topic_partition) else { return Ok(()) };
    let back = (offsets.log_end_offset.0 - offsets.log_start_offset.0) / (1 + world.below(6) as i64);
    let to = Offset(offsets.log_end_offset.0 - world.below(back as u64 + 1) as i64);
    world.trace.note(format_args!("cut {topic_partition} {to}"));
    {
        let mut oracle = world.oracle.borrow_mut();
        let expected = oracle.partitions.get_mut(&topic_partition).expect("known");
        // A batch across the cut goes whole.
        let across = expected.batches.iter().find(|batch| batch.next_offset > to);
        // Only a new leader makes a follower cut its log.
        expected.epoch += 1;
        expected.cut_to = Some(across.map_or(to, |batch| batch.base_offset.min(to)));
        expected.cuts += 1;
    }
    let cut = store.truncate(topic_partition, to).await;
    if let Err(ChangeError::Object(_)) = &cut {
        // What waited for a round is dropped all the same.
        let end = store.offsets(topic_partition).map_or(to, |offsets| offsets.log_end_offset);
        let mut oracle = world.oracle.borrow_mut();
        let expected = oracle.partitions.get_mut(&topic_partition).expect("known");
        expected.batches.retain(|batch| batch.next_offset <= end);
        expected.cut_to = None;
        expected.cuts += 1;
    }
    cut?;
    let end = store.offsets(topic_partition).map_or(to, |offsets| offsets.log_end_offset);
    world.trace.note(format_args!("was cut {topic_partition} {end}"));
    let mut oracle = world.oracle.borrow_mut();
    let expected = oracle.partitions.get_mut(&topic_partition).expect("known");
    let must = expected.cut_to.take().unwrap_or(to);
    if end < must.min(expected.durable_end) || end > to.max(expected.durable_end) {
        drop(oracle);
        world.fail(format!("{topic_partition} was cut to {to}, its end is {end}"));
        return Ok(());
    }
    expected.cuts += 1;
    expected.batches.retain(|batch| batch.next_offset <= end);
    expected.durable_end = expected.durable_end.min(end);
    expected.written_end = end;
    expected.log_start = expected.log_start.min(end);
    expected.snapshots.retain(|offset, _| *offset <= end);
    expected.snapshot = expected.snapshot.filter(|offset| *offset <= end);
    Ok(())
}

async fn move_start(
    world: &World,
    store: &Store<SimulatedDisk>,
    topic_partition: TopicPartition,
) -> Result<(), ChangeError> {
    let Some(offsets) = store.offsets(topic_partition) else { return Ok(()) };
    let room = offsets.log_end_offset.0 - offsets.log_start_offset.0;
    let to = offsets.log_start_offset.plus(world.below(room as u64 / 2 + 1) as i64);
    world.trace.note(format_args!("move start {topic_partition} {to}"));
    let note = |set: &dyn Fn(&mut Expected)| {
        set(world.oracle.borrow_mut().partitions.get_mut(&topic_partition).expect("known"));
    };
    note(&|expected| expected.log_start_max = expected.log_start_max.max(to));
    store.set_log_start_offset(topic_partition, to).await?;
    note(&|expected| expected.log_start = expected.log_start.max(to));
    Ok(())
}

async fn retain(
    world: &World,
    store: &Store<SimulatedDisk>,
    topic_partition: TopicPartition,
) -> Result<(), ChangeError> {
    let segments = store.segments(topic_partition);
    let sealed: Vec<_> = segments.iter().filter(|segment| segment.sealed).collect();
    if sealed.is_empty() {
        return Ok(());
    }
    let to = sealed[world.below(sealed.len() as u64) as usize].next_offset;
    world.trace.note(format_args!("retain {topic_partition} {to}"));
    let note = |set: &dyn Fn(&mut Expected)| {
        set(world.oracle.borrow_mut().partitions.get_mut(&topic_partition).expect("known"));
    };
    note(&|expected| expected.log_start_max = expected.log_start_max.max(to));
    store.delete_segments_below(topic_partition, to).await?;
    note(&|expected| expected.log_start = expected.log_start.max(to));
    Ok(())
}

async fn rewrite(
    world: &World,
    store: &Store<SimulatedDisk>,
    topic_partition: TopicPartition,
) -> Result<(), ChangeError> {
    let segments = store.segments(topic_partition);
    let sealed: Vec<_> = segments.iter().filter(|segment| segment.sealed).collect();
    if sealed.is_empty() {
        return Ok(());
    }
    let first = world.below(sealed.len() as u64) as usize;
    let last = (first + world.below(3) as usize).min(sealed.len() - 1);
    let (from, to) = (sealed[first].base_offset, sealed[last].next_offset);
    world.trace.note(format_args!("rewrite {topic_partition} {from}..{to}"));
    let mut rewrite = store.begin_rewrite(topic_partition, from, to).await?;
    let mut next = from;
    let mut removed = Vec::new();
    loop {
        let stored = match store.read_stored(topic_partition, next, to, 10_000).await {
            Ok(stored) => stored,
            Err(ReadError::Object(error)) if error.kind == ObjectErrorKind::Unavailable => return Ok(()),
            Err(error) => {
                world.fail(format!("reading to rewrite {topic_partition} failed: {error}"));
                return Ok(());
            }
        };
        let Some(end) = stored.last().map(|batch| batch.header.next_offset()) else { break };
        next = end;
        for batch in stored {
            if world.one_in(3) {
                removed.push(batch.header.base_offset);
            } else {
                rewrite.push(batch.bytes, batch.append_time).await?;
            }
        }
    }
    if world.one_in(5) {
        // Given up half-way.
        return Ok(());
    }
    let mark = |set: &dyn Fn(&mut Written)| {
        let mut oracle = world.oracle.borrow_mut();
        let expected = oracle.partitions.get_mut(&topic_partition).expect("known");
        for batch in expected.batches.iter_mut().filter(|batch| removed.contains(&batch.base_offset)) {
            set(batch);
        }
    };
    mark(&|batch| batch.may_be_gone = true);
    rewrite.finish().await?;
    world.oracle.borrow_mut().partitions.get_mut(&topic_partition).expect("known").rewrites += 1;
    mark(&|batch| {
        batch.gone = true;
        batch.may_be_gone = false;
    });
    Ok(())
}

/// Sends a sealed segment to the object store, or looks for what is left over there.
async fn offload_some(world: &World, store: &Store<SimulatedDisk>, topic_partition: TopicPartition) {
    if world.one_in(4) {
        // What fails is tried again.
        let _ = store.sweep_objects().await;
        return;
    }
    let segments = store.segments(topic_partition);
    let local: Vec<_> = segments.iter().filter(|segment| segment.sealed && !segment.offloaded).collect();
    if local.is_empty() {
        return;
    }
    let segment = local[world.below(local.len() as u64) as usize];
    world.trace.note(format_args!("offload {topic_partition} {}", segment.base_offset));
    let done = match store.offload(topic_partition, segment.base_offset).await {
        Err(ChangeError::NotCovered { .. }) => snapshot(world, store, topic_partition).await,
        Ok(_) => {
            *world.offloaded.borrow_mut() += 1;
            Ok(())
        }
        Err(error) => Err(error),
    };
    match done {
        Ok(()) | Err(ChangeError::NotSealed { .. }) => {}
        Err(ChangeError::Object(error)) if error.kind == ObjectErrorKind::Unavailable => {}
        Err(ChangeError::Disk(error)) if error.kind == DiskErrorKind::Full && world.is_full() => {}
        Err(error) => world.fail(format!("offloading of {topic_partition} failed: {error}")),
    }
}

async fn snapshot(
    world: &World,
    store: &Store<SimulatedDisk>,
    topic_partition: TopicPartition,
) -> Result<(), ChangeError> {
    let Some(offsets) = store.offsets(topic_partition) else { return Ok(()) };
    let offset = offsets.log_end_offset;
    let content = Bytes::from(world.below(u64::MAX).to_string());
    world.trace.note(format_args!("snapshot {topic_partition} {offset}"));
    let note = |set: &dyn Fn(&mut Expected)| {
        set(world.oracle.borrow_mut().partitions.get_mut(&topic_partition).expect("known"));
    };
    note(&|expected| {
        expected.snapshots.entry(offset).or_default().push(content.clone());
        expected.snapshots_begun += 1;
    });
    let saved = store.save_snapshot(topic_partition, offset, &content).await;
    note(&|expected| {
        expected.snapshots_begun -= 1;
        if saved.is_err() {
            return;
        }
        // Another one that is under way may be of the same offset, and take its place at any moment.
        if expected.snapshots_begun == 0 {
            expected.snapshots.insert(offset, vec![content.clone()]);
        }
        expected.snapshot = expected.snapshot.max(Some(offset));
    });
    saved
}

async fn check_partition(
    world: &World,
    store: &Store<SimulatedDisk>,
    stop: Option<Stop>,
    recovered: &RecoveredPartition,
) -> Result<(), String> {
    let topic_partition = recovered.topic_partition;
    world
        .trace
        .note(format_args!("recovered {topic_partition} {}..{}", recovered.log_start_offset, recovered.log_end_offset));
    let mut all = Vec::new();
    let mut from = recovered.log_start_offset;
    while recovered.error.is_none() {
        let request = ReadRequest { from, bytes_max: 20_000, up_to: recovered.log_end_offset, at_least_one: true };
        let read = store.read(topic_partition, request).await.map_err(|error| error.to_string())?;
        let batches = split(&read)?;
        let Some((_, next, _)) = batches.last() else { break };
        from = *next;
        all.extend(batches);
    }
    world.oracle.borrow_mut().check_recovered(stop, recovered, &all)
}
