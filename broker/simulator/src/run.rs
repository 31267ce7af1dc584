//! One run: a random workload on stores over a simulated disk, a crash at a random operation, recovery, the check; several times.

mod workload;

use std::{cell::RefCell, collections::BTreeMap, fmt, pin::Pin, rc::Rc};

use bytes::Bytes;
use tidegate_records::{
    batch::Batches,
    ids::{Offset, PartitionIndex, ShardId, TopicId, TopicPartition},
};
use tidegate_storage::{
    PartitionSpec, ReadRequest, RecoveredPartition, SegmentConfig, Store, StoreOptions, migrate,
    verify::{Seen, verify},
};

use crate::{
    disk::{Fault, SimulatedDisk, Stop},
    executor::{Ended, Executor, Spawner, yield_now},
    oracle::{Expected, Oracle},
    random::Random,
    trace::Trace,
};

use workload::{maintain, use_log};

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
