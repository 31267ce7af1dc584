//! A disk that does the worst that a disk may do: it forgets what was not synced, tears writes at sectors, lets the writes of a
//! commit take effect in any order, stops in the middle of any operation, runs full, and fails. And the object store beside it, which keeps
//! what it has, but says so late, or never, or does it when nobody expects it any more.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    future::{Future, pending},
    path::{Path, PathBuf},
    rc::Rc,
};

use bytes::Bytes;
use tidegate_storage::{
    disk::{Access, BLOCK_BYTES, Disk, DiskError, DiskErrorKind, Flush, Write},
    objects::{ObjectError, ObjectErrorKind, Objects},
    read_only::block_on,
};

use crate::{executor::yield_now, random::Random, trace::Trace};

const SECTOR_BYTES: usize = 512;

/// How the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The process dies; what it wrote stays.
    Kill,
    /// The machine loses power; what was not synced may be lost in part.
    PowerLoss,
}

/// What goes wrong, at which operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Stop(Stop),
    /// The operation fails with an I/O error, if it writes.
    Error,
}

/// The simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimulatedDisk {
    world: Rc<RefCell<World>>,
}

struct World {
    random: Random,
    trace: Trace,
    directories: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    operations: u64,
    bytes_read: u64,
    /// After how many operations what happens.
    fault: Option<(u64, Fault)>,
    stopped: bool,
    failed: bool,
    bytes_max: u64,
    /// No operation waits.
    calm: bool,
    /// Somebody looks on: nothing is counted, nothing fails, nothing waits.
    looked_at: bool,
    /// What the object store has.
    objects: BTreeMap<String, Vec<u8>>,
    /// What it will have, or not have any more, some time after the machine was started again: calls that were given up.
    late: Vec<(String, Option<Vec<u8>>)>,
    /// One call in so many fails; 0: none.
    object_fault_one_in: u64,
}

#[derive(Default)]
struct Inode {
    current: Vec<u8>,
    /// What is on stable storage.
    durable: Vec<u8>,
    /// Blocks written at least once, now and on stable storage; the rest are holes.
    written: BTreeSet<u64>,
    durable_written: BTreeSet<u64>,
    unsynced: Vec<Change>,
}

enum Change {
    Write { position: u64, bytes: Vec<u8> },
    Length(u64),
}

/// An open file.
#[derive(Clone, Debug)]
pub struct SimulatedFile {
    inode: u64,
    path: PathBuf,
    access: Access,
}

fn blocks(position: u64, length: usize) -> impl Iterator<Item = u64> {
    let block = BLOCK_BYTES as u64;
    (position / block)..(position + length as u64).div_ceil(block)
}

fn put(target: &mut Vec<u8>, position: u64, bytes: &[u8]) {
    let start = usize::try_from(position).expect("simulated files are small");
    let end = start + bytes.len();
    if target.len() < end {
        target.resize(end, 0);
    }
    target[start..end].copy_from_slice(bytes);
}

impl Inode {
    fn write(&mut self, position: u64, bytes: &[u8]) {
        put(&mut self.current, position, bytes);
        self.written.extend(blocks(position, bytes.len()));
        self.unsynced.push(Change::Write { position, bytes: bytes.to_vec() });
    }

    fn sync(&mut self) {
        // Only what changed: files are large, and synced often.
        for change in self.unsynced.drain(..) {
            match change {
                Change::Write { position, bytes } => {
                    put(&mut self.durable, position, &bytes);
                    self.durable_written.extend(blocks(position, bytes.len()));
                }
                Change::Length(length) => {
                    self.durable.resize(usize::try_from(length).expect("simulated files are small"), 0);
                    self.durable_written.retain(|block| block * (BLOCK_BYTES as u64) < length);
                }
            }
        }
    }

    /// What is there now is what is on stable storage.
    fn settle(&mut self) {
        self.durable.clone_from(&self.current);
        self.durable_written.clone_from(&self.written);
        self.unsynced.clear();
    }

    /// What one flush of the device does for a write of this commit: only what needs no change of the file's metadata is kept.
    fn flush_in_place(&mut self, position: u64, bytes: &[u8]) {
        let inside = position + bytes.len() as u64 <= self.durable.len() as u64;
        if inside && blocks(position, bytes.len()).all(|block| self.durable_written.contains(&block)) {
            put(&mut self.durable, position, bytes);
        }
    }

    /// After the power came back.
    fn lose(&mut self, random: &mut Random) {
        let mut left = std::mem::take(&mut self.durable);
        let mut written = std::mem::take(&mut self.durable_written);
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::Length(length) => {
                    if random.one_in(2) {
                        left.resize(usize::try_from(length).expect("simulated files are small"), 0);
                    }
                }
                Change::Write { position, bytes } => {
                    // Whole, not at all, or some sectors of it.
                    let mode = random.below(3);
                    for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                        let lands = mode == 0 || (mode == 1 && random.one_in(2));
                        if lands {
                            let at = position + (index * SECTOR_BYTES) as u64;
                            put(&mut left, at, sector);
                            written.extend(blocks(at, sector.len()));
                        }
                    }
                }
            }
        }
        self.current = left;
        self.written = written;
        self.settle();
    }
}

impl World {
    fn allocated_bytes(&self) -> u64 {
        self.inodes.values().map(|inode| inode.written.len() as u64 * BLOCK_BYTES as u64).sum()
    }

    fn collect_garbage(&mut self) {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| named.contains(inode));
    }
}

/// An object on its way.
#[derive(Debug)]
pub struct SimulatedUpload {
    key: String,
    length: u64,
    content: Vec<u8>,
}

impl World {
    fn put_object(&mut self, key: String, content: Option<Vec<u8>>) {
        match content {
            Some(content) => self.objects.insert(key, content),
            None => self.objects.remove(&key),
        };
    }
}

fn object_error(operation: &'static str, key: &str, kind: ObjectErrorKind) -> ObjectError {
    ObjectError { operation, key: key.to_owned(), kind, message: format!("simulated: {kind:?}") }
}

impl SimulatedDisk {
    /// Waits as something far away does. Whether the machine stops meanwhile, and whether the call fails.
    async fn call(&self, operation: &'static str, key: &str) -> Result<(bool, bool), ObjectError> {
        let turns = {
            let world = &mut *self.world.borrow_mut();
            if world.calm { 0 } else { world.random.below(12) }
        };
        for _ in 0..turns {
            yield_now().await;
        }
        // It is a network's business, not the disk's: only a stop of the machine concerns it.
        let stop = match self.begin(operation, Path::new(key), false).await {
            Ok(stop) => stop,
            Err(error) => unreachable!("{error}: it writes nothing on the disk"),
        };
        let world = &mut *self.world.borrow_mut();
        let fails = world.object_fault_one_in > 0 && world.random.one_in(world.object_fault_one_in);
        world.trace.note(format_args!("  fails {fails}"));
        Ok((stop.is_some(), fails))
    }

    /// Something that becomes true at once, later or never when it fails or the machine stops.
    async fn change_object(
        &self,
        operation: &'static str,
        key: &str,
        content: Option<Vec<u8>>,
    ) -> Result<(), ObjectError> {
        let (stops, fails) = self.call(operation, key).await?;
        {
            let world = &mut *self.world.borrow_mut();
            let key = key.to_owned();
            match if stops || fails { world.random.below(3) } else { 0 } {
                0 => world.put_object(key, content),
                1 => world.late.push((key, content)),
                _ => {}
            }
        }
        if stops {
            return pending().await;
        }
        if fails { Err(object_error(operation, key, ObjectErrorKind::Unavailable)) } else { Ok(()) }
    }

    /// Something that changes nothing.
    async fn ask_objects<T>(
        &self,
        operation: &'static str,
        key: &str,
        answer: impl FnOnce(&World) -> Result<T, ObjectError>,
    ) -> Result<T, ObjectError> {
        let (stops, fails) = self.call(operation, key).await?;
        if stops {
            return pending().await;
        }
        if fails {
            return Err(object_error(operation, key, ObjectErrorKind::Unavailable));
        }
        answer(&self.world.borrow())
    }
}

impl Objects for SimulatedDisk {
    type Upload = SimulatedUpload;

    async fn begin_object(&self, key: &str, length: u64) -> Result<SimulatedUpload, ObjectError> {
        let upload = SimulatedUpload { key: key.to_owned(), length, content: Vec::new() };
        self.ask_objects("begin", key, |world| {
            assert!(!world.objects.contains_key(key), "{key} was used before");
            Ok(upload)
        })
        .await
    }

    async fn add_to_object(&self, upload: &mut SimulatedUpload, bytes: Bytes) -> Result<(), ObjectError> {
        self.ask_objects("add", &upload.key, |_| Ok(())).await?;
        upload.content.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish_object(&self, upload: SimulatedUpload) -> Result<(), ObjectError> {
        let SimulatedUpload { key, length, content } = upload;
        assert_eq!(content.len() as u64, length, "an object is as long as was said");
        self.change_object("finish", &key, Some(content)).await
    }

    async fn read_object(&self, key: &str, position: u64, length: usize) -> Result<Bytes, ObjectError> {
        self.ask_objects("get", key, |world| {
            let content = world.objects.get(key);
            let content = content.ok_or_else(|| object_error("get", key, ObjectErrorKind::NotFound))?;
            let start = usize::try_from(position).unwrap_or(usize::MAX).min(content.len());
            let end = start.saturating_add(length).min(content.len());
            Ok(Bytes::copy_from_slice(&content[start..end]))
        })
        .await
    }

    async fn remove_object(&self, key: &str) -> Result<(), ObjectError> {
        self.change_object("remove object", key, None).await
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<String>, ObjectError> {
        self.ask_objects("list objects", prefix, |world| {
            let below = |key: &&String| key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
            Ok(world.objects.keys().filter(below).cloned().collect())
        })
        .await
    }
}

fn error(operation: &'static str, path: &Path, kind: DiskErrorKind) -> DiskError {
    DiskError { operation, path: path.to_owned(), kind, message: format!("simulated: {kind:?}") }
}

impl SimulatedDisk {
    #[must_use]
    pub fn new(random: Random, trace: Trace, bytes_max: u64) -> Self {
        let world = World {
            random,
            trace,
            directories: BTreeSet::from([PathBuf::new()]),
            names: BTreeMap::new(),
            inodes: BTreeMap::new(),
            next_inode: 0,
            operations: 0,
            bytes_read: 0,
            fault: None,
            stopped: false,
            failed: false,
            bytes_max,
            calm: false,
            looked_at: false,
            objects: BTreeMap::new(),
            late: Vec::new(),
            object_fault_one_in: 0,
        };
        Self { world: Rc::new(RefCell::new(world)) }
    }

    /// An empty disk on which no operation waits, so that [`block_on`] runs what uses it. Faults and its end of room are as ever.
    #[must_use]
    pub fn calm() -> Self {
        let disk = Self::new(Random::new(0), Trace::default(), u64::MAX);
        disk.world.borrow_mut().calm = true;
        disk
    }

    /// From now on, after so many operations, something goes wrong.
    pub fn plan_fault(&self, fault: Option<(u64, Fault)>) {
        let mut world = self.world.borrow_mut();
        world.fault = fault.map(|(after, fault)| (world.operations + after, fault));
    }

    pub fn set_bytes_max(&self, bytes_max: u64) {
        self.world.borrow_mut().bytes_max = bytes_max;
    }

    /// Whether there is an end to the room.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.world.borrow().bytes_max != u64::MAX
    }

    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        self.world.borrow().allocated_bytes()
    }

    /// Whether an operation has failed by a planned fault.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.world.borrow().failed
    }

    /// Whether the machine has stopped by a planned fault.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.world.borrow().stopped
    }

    #[must_use]
    pub fn operations(&self) -> u64 {
        self.world.borrow().operations
    }

    /// Bytes that were read so far, by whoever.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.world.borrow().bytes_read
    }

    /// From now on one call of the object store in so many fails; 0: none does.
    pub fn set_object_faults(&self, one_in: u64) {
        self.world.borrow_mut().object_fault_one_in = one_in;
    }

    /// The keys of all objects.
    #[must_use]
    pub fn objects(&self) -> Vec<String> {
        self.world.borrow().objects.keys().cloned().collect()
    }

    /// Takes an object away, as if somebody had deleted it. `false` if there is none.
    pub fn take_object_away(&self, key: &str) -> bool {
        self.world.borrow_mut().objects.remove(key).is_some()
    }

    /// Damages a byte of an object. `false` if there is no such byte.
    pub fn damage_object(&self, key: &str, position: usize) -> bool {
        let mut world = self.world.borrow_mut();
        let byte = world.objects.get_mut(key).and_then(|content| content.get_mut(position));
        byte.map(|byte| *byte ^= 0x5a).is_some()
    }

    /// Starts the machine again.
    pub fn restart(&self, stop: Stop) {
        let world = &mut *self.world.borrow_mut();
        for (key, content) in std::mem::take(&mut world.late) {
            if world.random.one_in(2) {
                world.put_object(key, content);
            }
        }
        world.stopped = false;
        world.failed = false;
        world.bytes_max = u64::MAX;
        world.fault = None;
        world.collect_garbage();
        for inode in world.inodes.values_mut() {
            match stop {
                Stop::Kill => {}
                Stop::PowerLoss => inode.lose(&mut world.random),
            }
        }
    }

    /// Runs something that only reads, at once and without a trace: a run goes on as if nobody had looked.
    pub fn look_on<T>(&self, reading: impl Future<Output = T>) -> T {
        self.world.borrow_mut().looked_at = true;
        let done = block_on(reading);
        self.world.borrow_mut().looked_at = false;
        done
    }

    /// Damages a byte of a file. `false` if there is no such byte.
    pub fn damage(&self, path: &Path, position: u64) -> bool {
        let world = &mut *self.world.borrow_mut();
        let Some(inode) = world.names.get(path).and_then(|inode| world.inodes.get_mut(inode)) else { return false };
        let Some(byte) = usize::try_from(position).ok().and_then(|at| inode.current.get_mut(at)) else { return false };
        *byte ^= 0x5a;
        inode.settle();
        true
    }

    /// Puts a file there, as if it had always been.
    pub fn place(&self, path: &Path, content: &[u8]) {
        let world = &mut *self.world.borrow_mut();
        let parents = path.ancestors().skip(1);
        world.directories.extend(parents.map(Path::to_owned));
        let mut inode = Inode::default();
        inode.write(0, content);
        inode.sync();
        let number = world.next_inode;
        world.next_inode += 1;
        world.inodes.insert(number, inode);
        world.names.insert(path.to_owned(), number);
    }

    /// Takes a file away, as if somebody had deleted it. `false` if there is none.
    pub fn take_away(&self, path: &Path) -> bool {
        self.world.borrow_mut().names.remove(path).is_some()
    }

    /// All files and their lengths.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let world = self.world.borrow();
        world.names.iter().map(|(path, inode)| (path.clone(), world.inodes[inode].current.len() as u64)).collect()
    }

    /// The bytes of a file as they are now.
    #[must_use]
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let world = self.world.borrow();
        Some(world.inodes.get(world.names.get(path)?)?.current.clone())
    }

    /// Waits as a disk does, counts the operation, and says whether the machine stops in the middle of it, and whether it fails.
    async fn begin(&self, operation: &'static str, path: &Path, writes: bool) -> Result<Option<Stop>, DiskError> {
        if self.world.borrow().looked_at {
            assert!(!writes, "whoever looks on changes nothing");
            return Ok(None);
        }
        let turns = {
            let world = &mut *self.world.borrow_mut();
            if world.calm { 0 } else { world.random.below(4) }
        };
        for _ in 0..turns {
            yield_now().await;
        }
        if self.world.borrow().stopped {
            pending::<()>().await;
        }
        let world = &mut *self.world.borrow_mut();
        world.operations += 1;
        let fault = world.fault.filter(|(at, _)| world.operations >= *at).map(|(_, fault)| fault);
        world.trace.note(format_args!("{} {operation} {} {fault:?}", world.operations, path.display()));
        match fault {
            Some(Fault::Stop(stop)) => {
                world.stopped = true;
                Ok(Some(stop))
            }
            Some(Fault::Error) if writes => {
                world.fault = None;
                world.failed = true;
                Err(error(operation, path, DiskErrorKind::Other))
            }
            _ => Ok(None),
        }
    }

    /// An operation that happens at once or not at all.
    async fn whole<T>(
        &self,
        operation: &'static str,
        path: &Path,
        writes: bool,
        act: impl FnOnce(&mut World) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        let stop = self.begin(operation, path, writes).await?;
        let done = {
            let world = &mut *self.world.borrow_mut();
            if stop.is_some() && world.random.one_in(2) { None } else { Some(act(world)) }
        };
        match (stop, done) {
            (None, Some(done)) => done,
            _ => pending().await,
        }
    }
}

impl Disk for SimulatedDisk {
    type File = SimulatedFile;

    async fn open(&self, path: &Path, access: Access) -> Result<SimulatedFile, DiskError> {
        self.whole("open", path, false, |world| {
            let inode = *world.names.get(path).ok_or_else(|| error("open", path, DiskErrorKind::NotFound))?;
            Ok(SimulatedFile { inode, path: path.to_owned(), access })
        })
        .await
    }

    async fn create(&self, path: &Path, access: Access) -> Result<SimulatedFile, DiskError> {
        self.whole("create", path, true, |world| {
            assert!(!world.names.contains_key(path), "{} exists already", path.display());
            let parent = path.parent().unwrap_or(Path::new(""));
            if !world.directories.contains(parent) {
                return Err(error("create", path, DiskErrorKind::NotFound));
            }
            if world.allocated_bytes() >= world.bytes_max {
                return Err(error("create", path, DiskErrorKind::Full));
            }
            let inode = world.next_inode;
            world.next_inode += 1;
            world.inodes.insert(inode, Inode::default());
            world.names.insert(path.to_owned(), inode);
            Ok(SimulatedFile { inode, path: path.to_owned(), access })
        })
        .await
    }

    async fn read(&self, file: &SimulatedFile, position: u64, length: usize) -> Result<Bytes, DiskError> {
        self.whole("read", &file.path, false, |world| {
            // A file that was removed is still there for who has it open.
            let Some(inode) = world.inodes.get(&file.inode) else { return Ok(Bytes::new()) };
            let start = usize::try_from(position).unwrap_or(usize::MAX).min(inode.current.len());
            let end = start.saturating_add(length).min(inode.current.len());
            world.bytes_read += (end - start) as u64;
            Ok(Bytes::copy_from_slice(&inode.current[start..end]))
        })
        .await
    }

    async fn commit(&self, writes: Vec<Write<SimulatedFile>>, flush: Flush) -> Result<(), DiskError> {
        let Some(first) = writes.first().map(|write| write.file.clone()) else { return Ok(()) };
        for write in &writes {
            if write.file.access == Access::Direct {
                let block = BLOCK_BYTES as u64;
                assert_eq!(write.position % block, 0, "direct writes are aligned");
                assert_eq!(write.range.start % BLOCK_BYTES, 0, "direct writes are aligned");
                assert_eq!(write.range.end % BLOCK_BYTES, 0, "direct writes are aligned");
            }
            let world = self.world.borrow();
            world.trace.note(format_args!(
                "  write {} {}+{} {}",
                write.file.path.display(),
                write.position,
                write.range.len(),
                crc_of(&write.buffer.as_slice()[write.range.clone()])
            ));
        }
        let stop = match self.begin("commit", &first.path, true).await {
            Ok(stop) => stop,
            Err(failed) => {
                // Nobody knows what of it was written.
                self.write_some(&writes);
                return Err(failed);
            }
        };
        if stop.is_some() {
            self.write_some(&writes);
            return pending().await;
        }
        let world = &mut *self.world.borrow_mut();
        let mut allocated = world.allocated_bytes();
        for write in &writes {
            let bytes = &write.buffer.as_slice()[write.range.clone()];
            let Some(inode) = world.inodes.get_mut(&write.file.inode) else { continue };
            let new = blocks(write.position, bytes.len()).filter(|block| !inode.written.contains(block)).count() as u64;
            allocated += new * BLOCK_BYTES as u64;
            if new > 0 && allocated > world.bytes_max {
                return Err(error("commit", &write.file.path, DiskErrorKind::Full));
            }
            inode.write(write.position, bytes);
        }
        if flush == Flush::Durable {
            for write in &writes {
                if write.file.inode != first.inode
                    && let Some(inode) = world.inodes.get_mut(&write.file.inode)
                {
                    inode.flush_in_place(write.position, &write.buffer.as_slice()[write.range.clone()]);
                }
            }
            if let Some(inode) = world.inodes.get_mut(&first.inode) {
                inode.sync();
            }
        }
        Ok(())
    }

    async fn sync(&self, file: &SimulatedFile) -> Result<(), DiskError> {
        self.whole("sync", &file.path, true, |world| {
            if let Some(inode) = world.inodes.get_mut(&file.inode) {
                inode.sync();
            }
            Ok(())
        })
        .await
    }

    async fn length(&self, file: &SimulatedFile) -> Result<u64, DiskError> {
        self.whole("length", &file.path, false, |world| {
            Ok(world.inodes.get(&file.inode).map_or(0, |inode| inode.current.len() as u64))
        })
        .await
    }

    async fn set_length(&self, file: &SimulatedFile, length: u64) -> Result<(), DiskError> {
        self.whole("set_length", &file.path, true, |world| {
            if let Some(inode) = world.inodes.get_mut(&file.inode) {
                inode.current.resize(usize::try_from(length).expect("simulated files are small"), 0);
                inode.written.retain(|block| block * (BLOCK_BYTES as u64) < length);
                inode.unsynced.push(Change::Length(length));
            }
            Ok(())
        })
        .await
    }

    async fn replace(&self, path: &Path, content: &[u8]) -> Result<(), DiskError> {
        self.whole("replace", path, true, |world| {
            world.trace.note(format_args!("  content {} {}", content.len(), crc_of(content)));
            let parent = path.parent().unwrap_or(Path::new(""));
            if !world.directories.contains(parent) {
                return Err(error("replace", path, DiskErrorKind::NotFound));
            }
            if world.allocated_bytes() + BLOCK_BYTES as u64 > world.bytes_max {
                return Err(error("replace", path, DiskErrorKind::Full));
            }
            let mut inode = Inode::default();
            inode.write(0, content);
            inode.sync();
            let number = world.next_inode;
            world.next_inode += 1;
            world.inodes.insert(number, inode);
            world.names.insert(path.to_owned(), number);
            Ok(())
        })
        .await
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.whole("rename", from, true, |world| {
            world.trace.note(format_args!("  to {}", to.display()));
            let inode = world.names.remove(from).ok_or_else(|| error("rename", from, DiskErrorKind::NotFound))?;
            world.names.insert(to.to_owned(), inode);
            Ok(())
        })
        .await
    }

    async fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.whole("remove", path, false, |world| {
            // The inode stays for who has it open; its room is free at once, as if nobody had.
            if let Some(inode) = world.names.remove(path)
                && let Some(inode) = world.inodes.get_mut(&inode)
            {
                inode.written.clear();
                inode.durable_written.clear();
            }
            Ok(())
        })
        .await
    }

    async fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.whole("create_directory", path, false, |world| {
            world.directories.extend(path.ancestors().map(Path::to_owned));
            Ok(())
        })
        .await
    }

    async fn remove_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.whole("remove_directory", path, false, |world| {
            world.directories.remove(path);
            Ok(())
        })
        .await
    }

    async fn list(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        self.whole("list", path, false, |world| {
            let files = world.names.keys().filter(|each| each.parent() == Some(path));
            let directories = world.directories.iter().filter(|each| each.parent() == Some(path));
            let names: BTreeSet<String> =
                files.chain(directories).filter_map(|each| each.file_name()?.to_str().map(str::to_owned)).collect();
            Ok(names.into_iter().collect())
        })
        .await
    }

    async fn bytes_free(&self) -> Result<u64, DiskError> {
        let world = self.world.borrow();
        Ok(world.bytes_max.saturating_sub(world.allocated_bytes()))
    }

    async fn yield_now(&self) {
        let waits = {
            let world = self.world.borrow();
            !world.calm && !world.looked_at
        };
        if waits {
            yield_now().await;
        }
    }
}

impl SimulatedDisk {
    /// Writes some sectors of some of `writes`.
    fn write_some(&self, writes: &[Write<SimulatedFile>]) {
        let world = &mut *self.world.borrow_mut();
        for write in writes {
            let bytes = &write.buffer.as_slice()[write.range.clone()];
            let Some(inode) = world.inodes.get_mut(&write.file.inode) else { continue };
            match world.random.below(3) {
                0 => {}
                1 => inode.write(write.position, bytes),
                _ => {
                    for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                        if world.random.one_in(2) {
                            inode.write(write.position + (index * SECTOR_BYTES) as u64, sector);
                        }
                    }
                }
            }
        }
    }
}

fn crc_of(bytes: &[u8]) -> u32 {
    // It tells two runs of a seed apart.
    crc32c::crc32c(bytes)
}
