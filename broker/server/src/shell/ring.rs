//! A shard's own io_uring: operations in, completions out, as futures on the shard's executor.
//!
//! Owns two rings and every buffer, path and file that an operation on them uses: an operation owns what it points to until the
//! kernel is done with it, even if the future that asked for it is dropped. Nothing here knows what the bytes mean.
//!
//! - The **general** ring takes single operations in any order. Each completion raises an eventfd that the executor reads.
//! - The **rounds** ring takes one round at a time: many writes in parallel, then a flush that waits for all of them
//!   (`IOSQE_IO_DRAIN`), hard-linked to a one-byte SEND to a socket pair that the executor reads. So a round of a hundred writes
//!   wakes the executor once. Draining would hold up everything behind it, which is why nothing else uses this ring. The link is
//!   hard so that a failing flush wakes as well.
//!
//! Neither ring is set up with `DEFER_TASKRUN`: nobody enters them while the executor sleeps in its own ring, and completions
//! (and the links behind them) would stall. What is pushed within one turn of the executor is submitted by one system call. A
//! timer reaps both rings once a second, so that a lost wake is a delay and not a hang; it is counted.

use std::{
    cell::{Cell, RefCell},
    ffi::CString,
    future::Future,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd},
    path::PathBuf,
    pin::Pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_lite::AsyncReadExt as _;
use glommio::{io::BufferedFile, net::UnixStream};
use io_uring::{IoUring, opcode, squeue, types};
use tidegate_storage::disk::AlignedBuffer;

use crate::metrics::ShardMetrics;

/// Submission queue entries of each ring; more than that in one turn are submitted in several calls.
const ENTRIES: u32 = 256;
/// Completion queue entries of each ring. The kernel keeps what does not fit, so this bounds memory and not correctness.
const COMPLETIONS: u32 = 2048;
/// How often both rings are reaped without having been woken.
const WATCHDOG: Duration = Duration::from_secs(1);
/// Marks completions that belong to no operation: the SEND that wakes.
const WAKE_TOKEN: u64 = u64::MAX;
/// What the SEND sends. Static, because a SEND may outlive the ring's owner by a moment.
static WAKE_BYTE: [u8; 1] = [1];

/// An open file, or a directory to be synced. Closed when the last operation and the last owner are gone.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) descriptor: OwnedFd,
    /// Where it was when it was opened; for messages only (renaming does not follow).
    pub(crate) path: PathBuf,
    /// Whether the file system took `O_DIRECT` for it.
    pub(crate) direct: bool,
    /// Writes that promised nothing, and how many of them a later sync has covered.
    pub(crate) unsynced: Cell<u64>,
    pub(crate) synced: Cell<u64>,
}

impl OpenFile {
    pub(crate) fn new(descriptor: OwnedFd, path: PathBuf, direct: bool) -> Self {
        Self { descriptor, path, direct, unsynced: Cell::new(0), synced: Cell::new(0) }
    }

    /// Whether everything that was written to it is on stable storage.
    pub(crate) fn is_synced(&self) -> bool {
        self.unsynced == self.synced
    }
}

/// How much a write promises when it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// The kernel has the bytes.
    No,
    /// The bytes and what is needed to read them back are on stable storage (`RWF_DSYNC`).
    Data,
}

/// One operation and everything that it points to.
#[derive(Debug)]
pub(crate) enum Operation {
    Write {
        file: Rc<OpenFile>,
        position: u64,
        buffer: Arc<AlignedBuffer>,
        start: usize,
        length: usize,
        sync: Sync,
    },
    WriteBytes {
        file: Rc<OpenFile>,
        position: u64,
        bytes: Vec<u8>,
    },
    /// Reads `length` bytes into `buffer`, behind the `filled` first.
    Read {
        file: Rc<OpenFile>,
        position: u64,
        buffer: AlignedBuffer,
        filled: usize,
        length: usize,
    },
    /// `fdatasync`.
    SyncData {
        file: Rc<OpenFile>,
    },
    /// `fsync`: for directories.
    SyncAll {
        file: Rc<OpenFile>,
    },
    Rename {
        from: CString,
        to: CString,
    },
    Remove {
        path: CString,
    },
}

impl Operation {
    /// The word for it in error messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Write { .. } | Self::WriteBytes { .. } => "write",
            Self::Read { .. } => "read",
            Self::SyncData { .. } | Self::SyncAll { .. } => "sync",
            Self::Rename { .. } => "rename",
            Self::Remove { .. } => "remove",
        }
    }

    /// What it is done to, for error messages.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Write { file, .. }
            | Self::WriteBytes { file, .. }
            | Self::Read { file, .. }
            | Self::SyncData { file }
            | Self::SyncAll { file } => file.path.clone(),
            Self::Rename { from: path, .. } | Self::Remove { path } => {
                PathBuf::from(path.to_string_lossy().into_owned())
            }
        }
    }

    /// The number of bytes that a completion must report; `None` where it may report less (a read at the end of a file).
    fn expected(&self) -> Option<u32> {
        match self {
            Self::Write { length, .. } => Some(u32::try_from(*length).expect("writes are split far below 4 GiB")),
            Self::WriteBytes { bytes, .. } => Some(u32::try_from(bytes.len()).expect("small files are below 4 GiB")),
            Self::Read { .. } => None,
            _ => Some(0),
        }
    }

    /// The kernel's form. It points into `self`, whose heap memory stays where it is when `self` moves.
    fn entry(&mut self) -> squeue::Entry {
        let cwd = types::Fd(libc::AT_FDCWD);
        let fd = |file: &OpenFile| types::Fd(file.descriptor.as_raw_fd());
        let length = |bytes: usize| u32::try_from(bytes).expect("operations are far below 4 GiB");
        match self {
            Self::Write { file, position, buffer, start, length: bytes, sync } => {
                let part = &buffer.as_slice()[*start..*start + *bytes];
                let flags = if *sync == Sync::Data { libc::RWF_DSYNC } else { 0 };
                opcode::Write::new(fd(file), part.as_ptr(), length(part.len()))
                    .offset(*position)
                    .rw_flags(flags)
                    .build()
            }
            Self::WriteBytes { file, position, bytes } => {
                opcode::Write::new(fd(file), bytes.as_ptr(), length(bytes.len())).offset(*position).build()
            }
            Self::Read { file, position, buffer, filled, length: bytes } => {
                let part = &mut buffer.as_mut_slice()[*filled..*filled + *bytes];
                opcode::Read::new(fd(file), part.as_mut_ptr(), length(part.len())).offset(*position).build()
            }
            Self::SyncData { file } => opcode::Fsync::new(fd(file)).flags(types::FsyncFlags::DATASYNC).build(),
            Self::SyncAll { file } => opcode::Fsync::new(fd(file)).build(),
            Self::Rename { from, to } => opcode::RenameAt::new(cwd, from.as_ptr(), cwd, to.as_ptr()).build(),
            Self::Remove { path } => opcode::UnlinkAt::new(cwd, path.as_ptr()).build(),
        }
    }
}

/// What is known of operations that were started together, once all of them are complete.
#[derive(Debug)]
pub(crate) struct Completed {
    pub(crate) operations: Vec<Operation>,
    /// Bytes that the last operation to complete transferred; what a single read wants to know.
    pub(crate) transferred: usize,
    /// The first operation that failed, and how.
    pub(crate) failure: Option<(usize, Failure)>,
}

/// How an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Errno(i32),
    /// Fewer bytes were written than asked for: no room, or a file that is smaller than it should be.
    Short {
        expected: u32,
        written: u32,
    },
}

/// Which ring an operation goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    General,
    Rounds,
}

/// A shard's two rings. Dropping it waits for what is in flight.
pub(crate) struct Rings {
    general: Ring,
    rounds: Ring,
    /// Whether a task that submits is already in the executor's queue.
    submission_scheduled: Cell<bool>,
    me: Weak<Self>,
    /// The end of the socket pair that the kernel writes to.
    _wake_sender: std::os::unix::net::UnixStream,
    /// Cancelled when dropped.
    tasks: RefCell<Vec<glommio::Task<()>>>,
}

impl Rings {
    /// Sets up both rings and the tasks that wake with them. Must be called within a glommio executor.
    ///
    /// # Errors
    /// What the kernel said: see `startup_check` for the words that help an operator.
    pub(crate) fn new(metrics: Arc<ShardMetrics>) -> io::Result<Rc<Self>> {
        let (wake_sender, wake_receiver) = std::os::unix::net::UnixStream::pair()?;
        let sender = wake_sender.as_raw_fd();
        // SAFETY: the descriptor is given up by its one owner and taken over by another, which closes it.
        let mut wake_receiver = unsafe { UnixStream::from_raw_fd(wake_receiver.into_raw_fd()) };
        // SAFETY: no pointers are passed; the result is checked below.
        let eventfd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if eventfd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `eventfd` was just opened and nothing else owns it; the `BufferedFile` closes it.
        let eventfd_reader = unsafe { BufferedFile::from_raw_fd(eventfd) };
        let general = Ring::new(None)?;
        general.uring.borrow().submitter().register_eventfd(eventfd)?;
        let rounds = Ring::new(Some(sender))?;
        let rings = Rc::new_cyclic(|me| Self {
            general,
            rounds,
            submission_scheduled: Cell::new(false),
            me: Weak::clone(me),
            _wake_sender: wake_sender,
            tasks: RefCell::new(Vec::new()),
        });
        let weak = Rc::downgrade(&rings);
        let general_task = glommio::spawn_local(async move {
            while let Ok(read) = eventfd_reader.read_at(0, 8).await {
                let Some(rings) = weak.upgrade() else { break };
                drop(read);
                rings.general.reap();
            }
        });
        let weak = Rc::downgrade(&rings);
        let rounds_task = glommio::spawn_local(async move {
            let mut bytes = [0; 64];
            while let Ok(1..) = wake_receiver.read(&mut bytes).await {
                let Some(rings) = weak.upgrade() else { break };
                rings.rounds.reap();
            }
        });
        let weak = Rc::downgrade(&rings);
        let watchdog = glommio::spawn_local(async move {
            loop {
                glommio::timer::sleep(WATCHDOG).await;
                let Some(rings) = weak.upgrade() else { break };
                rings.submit();
                let late = rings.general.reap() + rings.rounds.reap();
                // Each is a bug or a kernel's oddity, unless its wake was on the way.
                metrics.disk_wakes_lost.add(late);
            }
        });
        rings.tasks.borrow_mut().extend([general_task, rounds_task, watchdog]);
        Ok(rings)
    }

    /// Starts one operation on the general ring.
    pub(crate) fn start(&self, operation: Operation) -> Completion {
        self.start_all(vec![operation])
    }

    /// Starts operations on the general ring, in parallel; complete when all are.
    pub(crate) fn start_all(&self, operations: Vec<Operation>) -> Completion {
        let slot = self.general.start(operations);
        self.schedule_submission();
        Completion { rings: self.me.upgrade().expect("self is alive"), which: Which::General, slot, done: false }
    }

    /// Starts a round: `writes` in parallel, then, when all are complete, one `fdatasync` of each of `flush`.
    /// `None` if another round is in flight: then the writes and the flush have to be waited for one after the other.
    pub(crate) fn try_round(
        &self,
        writes: Vec<Operation>,
        flush: Vec<Rc<OpenFile>>,
    ) -> Result<Completion, (Vec<Operation>, Vec<Rc<OpenFile>>)> {
        if self.rounds.busy() {
            return Err((writes, flush));
        }
        let mut operations = writes;
        operations.extend(flush.into_iter().map(|file| Operation::SyncData { file }));
        let slot = self.rounds.start(operations);
        self.schedule_submission();
        Ok(Completion { rings: self.me.upgrade().expect("self is alive"), which: Which::Rounds, slot, done: false })
    }

    /// Puts a task at the end of the executor's queue that submits what this turn has pushed.
    fn schedule_submission(&self) {
        if self.submission_scheduled.replace(true) {
            return;
        }
        let weak = Weak::clone(&self.me);
        glommio::spawn_local(async move {
            if let Some(rings) = weak.upgrade() {
                rings.submission_scheduled.set(false);
                rings.submit();
                // Reads from the page cache and refused operations complete within the call.
                rings.general.reap();
                rings.rounds.reap();
            }
        })
        .detach();
    }

    fn submit(&self) {
        if !(self.general.submit() && self.rounds.submit()) {
            self.schedule_submission();
        }
    }

    fn ring(&self, which: Which) -> &Ring {
        match which {
            Which::General => &self.general,
            Which::Rounds => &self.rounds,
        }
    }
}

/// The result of operations that were started together. Dropping it does not cancel them.
pub(crate) struct Completion {
    rings: Rc<Rings>,
    which: Which,
    slot: usize,
    done: bool,
}

impl Future for Completion {
    type Output = Completed;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completed> {
        assert!(!self.done, "a completion is taken once");
        match self.rings.ring(self.which).take(self.slot, context.waker()) {
            Some(completed) => {
                self.done = true;
                Poll::Ready(completed)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if !self.done {
            self.rings.ring(self.which).abandon(self.slot);
        }
    }
}

/// One ring and what is in flight on it.
struct Ring {
    uring: RefCell<IoUring>,
    slots: RefCell<Slots>,
    /// Room for what `start` builds, kept so that it is allocated once.
    entries: Cell<Vec<(squeue::Entry, Option<squeue::Entry>)>>,
    /// Where a SEND goes after each flush; `None` for a ring whose completions raise an eventfd.
    wake: Option<RawFd>,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Completions that the kernel still owes.
    owed: usize,
}

#[derive(Default)]
struct Slot {
    operations: Vec<Operation>,
    owed: usize,
    transferred: usize,
    failure: Option<(usize, Failure)>,
    waker: Option<Waker>,
    abandoned: bool,
}

impl Ring {
    fn new(wake: Option<RawFd>) -> io::Result<Self> {
        let uring = IoUring::builder().setup_coop_taskrun().setup_cqsize(COMPLETIONS).build(ENTRIES)?;
        Ok(Self { uring: RefCell::new(uring), slots: RefCell::default(), entries: Cell::default(), wake })
    }

    fn busy(&self) -> bool {
        self.slots.borrow().owed > 0
    }

    fn start(&self, operations: Vec<Operation>) -> usize {
        assert!(!operations.is_empty(), "there is something to wait for");
        let mut entries = self.entries.take();
        let index = {
            let mut slots = self.slots.borrow_mut();
            let index = slots.free.pop().unwrap_or_else(|| {
                slots.slots.push(Slot::default());
                slots.slots.len() - 1
            });
            slots.owed += operations.len();
            let slot = &mut slots.slots[index];
            slot.owed = operations.len();
            slot.operations = operations;
            let mut drained = false;
            for (number, operation) in slot.operations.iter_mut().enumerate() {
                let entry = operation.entry().user_data(token(index, number));
                match (self.wake, &*operation) {
                    (Some(socket), Operation::SyncData { .. }) => {
                        // Everything behind a drained entry waits for it, so only the first flush drains.
                        let drain = if drained { squeue::Flags::empty() } else { squeue::Flags::IO_DRAIN };
                        drained = true;
                        let wake = opcode::Send::new(types::Fd(socket), WAKE_BYTE.as_ptr(), 1)
                            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                            .build()
                            .user_data(WAKE_TOKEN);
                        entries.push((entry.flags(drain | squeue::Flags::IO_HARDLINK), Some(wake)));
                    }
                    _ => entries.push((entry, None)),
                }
            }
            index
        };
        for (entry, wake) in entries.drain(..) {
            self.push(entry, wake);
        }
        self.entries.replace(entries);
        index
    }

    /// Pushes an entry and the one that is linked to it; submits first if there is no room for both.
    fn push(&self, entry: squeue::Entry, linked: Option<squeue::Entry>) {
        loop {
            {
                let mut uring = self.uring.borrow_mut();
                let mut queue = uring.submission();
                if queue.capacity() - queue.len() >= 2 {
                    for entry in [Some(entry), linked].into_iter().flatten() {
                        // SAFETY: the entry points into its `Operation`, which `slots` owns until the kernel has completed it
                        // (`Drop` waits for that too), or to `WAKE_BYTE`, which is static.
                        unsafe { queue.push(&entry) }.expect("there is room, it was just asked for");
                    }
                    return;
                }
            }
            if !self.submit() {
                self.reap();
            }
        }
    }

    /// Hands the kernel what was pushed. `false` if it had no room for now: try again after reaping.
    fn submit(&self) -> bool {
        let mut uring = self.uring.borrow_mut();
        if uring.submission().is_empty() {
            return true;
        }
        match uring.submit() {
            Ok(_) => uring.submission().is_empty(),
            Err(error) if is_busy(&error) => false,
            Err(error) => panic!("io_uring refused what a shard submitted: {error}"),
        }
    }

    /// Takes note of all completions and wakes who waits for them. Returns how many there were.
    fn reap(&self) -> u64 {
        let mut reaped = 0;
        let mut uring = self.uring.borrow_mut();
        let mut slots = self.slots.borrow_mut();
        for completion in uring.completion() {
            if completion.user_data() == WAKE_TOKEN {
                // A SEND that found the socket full is no loss: then there are bytes to wake with.
                continue;
            }
            reaped += 1;
            slots.complete(completion.user_data(), completion.result());
        }
        reaped
    }

    fn take(&self, index: usize, waker: &Waker) -> Option<Completed> {
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots.slots[index];
        if slot.owed > 0 {
            if !slot.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
                slot.waker = Some(waker.clone());
            }
            return None;
        }
        let Slot { operations, transferred, failure, .. } = std::mem::take(slot);
        slots.free.push(index);
        Some(Completed { operations, transferred, failure })
    }

    fn abandon(&self, index: usize) {
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots.slots[index];
        if slot.owed > 0 {
            slot.abandoned = true;
            slot.waker = None;
        } else {
            *slot = Slot::default();
            slots.free.push(index);
        }
    }
}

impl Slots {
    fn complete(&mut self, token: u64, result: i32) {
        let (index, number) = untoken(token);
        let slot = &mut self.slots[index];
        assert!(slot.owed > 0 && self.owed > 0, "a completion belongs to an operation in flight");
        self.owed -= 1;
        slot.owed -= 1;
        let failure = match u32::try_from(result) {
            Err(_) => Some(Failure::Errno(-result)),
            Ok(written) => match slot.operations[number].expected() {
                Some(expected) if expected != written => Some(Failure::Short { expected, written }),
                _ => {
                    slot.transferred = written as usize;
                    None
                }
            },
        };
        if let (Some(failure), None) = (failure, slot.failure) {
            slot.failure = Some((number, failure));
        }
        if slot.owed > 0 {
            return;
        }
        if slot.abandoned {
            *slot = Slot::default();
            self.free.push(index);
        } else if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for Ring {
    /// Waits for the kernel, which still reads from or writes to memory that `slots` owns.
    fn drop(&mut self) {
        while self.slots.get_mut().owed > 0 {
            match self.uring.get_mut().submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if is_busy(&error) => {}
                Err(_) => {
                    // The kernel cannot be asked any more: leak the memory rather than let it be written to after it is freed.
                    std::mem::forget(std::mem::take(self.slots.get_mut()));
                    return;
                }
            }
            self.reap();
        }
    }
}

fn token(slot: usize, number: usize) -> u64 {
    (slot as u64) << 32 | number as u64
}

fn untoken(token: u64) -> (usize, usize) {
    ((token >> 32) as usize, (token & u64::from(u32::MAX)) as usize)
}

/// Whether the kernel only wants completions reaped first, or was interrupted.
fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN))
}
