//! A thread's one io_uring: what its tasks wait for, and how other threads wake it.
//!
//! Owns the ring and every operation on it: an operation owns what it points to until the kernel is done with it, even if the future that
//! asked for it is dropped. What is pushed within one turn of the thread's tasks, and the wait for whatever comes next, are one system
//! call ([`Reactor::turn`]). Files and sockets share the ring, timers are its timeout, and another thread's wake is a completion on it, so
//! that a thread with nothing to do sleeps in one place.
//!
//! Where the kernel has it (6.1) the ring is set up with `DEFER_TASKRUN`: completions are worked off when this thread asks for them, and do
//! not interrupt it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::Future,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use io_uring::{IoUring, Submitter, opcode, squeue, types};

use super::operation::{Completed, Failure, Operation};

/// Submission queue entries; more than that in one turn are submitted in several calls.
const ENTRIES: u32 = 256;
/// Completion queue entries. The kernel keeps what does not fit, so this bounds memory and not correctness.
const COMPLETIONS: u32 = 2048;
/// A thread that sleeps for several operations which were started together, and is woken by one of them, waits so long for the others: the
/// writes of a round end within it, and one wake for all costs what one wake for each does.
const TOGETHER_MICROSECONDS: u32 = 250;
/// Marks the completion that another thread's wake is.
const UNPARK_TOKEN: u64 = u64::MAX;
/// Marks completions that nobody waits for.
const CANCEL_TOKEN: u64 = u64::MAX - 1;

/// A thread's ring and what is in flight on it. Never leaves its thread.
pub(crate) struct Reactor {
    uring: RefCell<IoUring>,
    /// Whether the kernel can be asked to wait for several completions, but not for long (6.12).
    waits_together: bool,
    slots: RefCell<Slots>,
    /// Room for what `start_all` builds, kept so that it is allocated once.
    entries: Cell<Vec<squeue::Entry>>,
    timers: RefCell<BTreeMap<(Instant, u64), Waker>>,
    timers_begun: Cell<u64>,
    unpark: Arc<Unpark>,
}

/// What a turn does when it has handed the kernel what was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Takes in what is complete.
    Look,
    /// Sleeps until something is complete, a timer fires or somebody wakes the thread.
    Sleep,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Completions that the kernel still owes.
    owed: usize,
    /// Those of `owed` that belong to operations which were started together.
    owed_together: usize,
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

impl Reactor {
    /// Sets up the ring of this thread.
    ///
    /// # Errors
    /// What the kernel said: see `startup_check` for the words that help an operator.
    pub(crate) fn new() -> io::Result<Rc<Self>> {
        let uring = set_up()?;
        let reactor = Self {
            waits_together: uring.params().is_feature_min_timeout(),
            uring: RefCell::new(uring),
            slots: RefCell::default(),
            entries: Cell::default(),
            timers: RefCell::default(),
            timers_begun: Cell::new(0),
            unpark: Arc::new(Unpark::new()?),
        };
        reactor.watch_for_wakes();
        Ok(Rc::new(reactor))
    }

    /// Wakes this thread, from any.
    pub(crate) fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.unpark))
    }

    /// Wakes until now do not keep this thread from sleeping: who was woken will be looked at.
    pub(crate) fn forget_wakes(&self) {
        self.unpark.woken.store(false, Ordering::SeqCst);
    }

    /// Starts one operation.
    pub(crate) fn start(self: &Rc<Self>, operation: Operation) -> Completion {
        self.start_all(vec![operation])
    }

    /// Starts operations, in parallel; complete when all are.
    pub(crate) fn start_all(self: &Rc<Self>, operations: Vec<Operation>) -> Completion {
        assert!(!operations.is_empty(), "there is something to wait for");
        let mut entries = self.entries.take();
        let slot = self.slots.borrow_mut().take(operations, &mut entries);
        entries.drain(..).for_each(|entry| self.push(&entry));
        self.entries.replace(entries);
        Completion { reactor: Rc::clone(self), slot, done: false }
    }

    /// Waits until a socket has something to receive, or an end. The descriptor stays open meanwhile.
    ///
    /// # Errors
    /// The kernel cannot wait for it.
    pub(crate) async fn readable(self: &Rc<Self>, socket: RawFd) -> io::Result<()> {
        self.poll(socket, libc::POLLIN).await
    }

    /// Waits until a socket has room to send, or an end. The descriptor stays open meanwhile.
    ///
    /// # Errors
    /// As [`Reactor::readable`].
    pub(crate) async fn writable(self: &Rc<Self>, socket: RawFd) -> io::Result<()> {
        self.poll(socket, libc::POLLOUT).await
    }

    async fn poll(self: &Rc<Self>, socket: RawFd, events: libc::c_short) -> io::Result<()> {
        match self.start(Operation::Poll { socket, events }).await.failure {
            Some((_, Failure::Errno(errno))) => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(()),
        }
    }

    /// Has `waker` woken at `deadline`; by the number that this gives it can be called off.
    fn begin_timer(&self, deadline: Instant, waker: Waker) -> u64 {
        let number = self.timers_begun.get();
        self.timers_begun.set(number + 1);
        self.timers.borrow_mut().insert((deadline, number), waker);
        number
    }

    /// Submits what was pushed, and wakes who waited for what is complete or due.
    pub(crate) fn turn(&self, turn: Turn) {
        let mut timeout = None;
        let mut sleeps = turn == Turn::Sleep;
        if sleeps && let Some(((deadline, _), _)) = self.timers.borrow().first_key_value() {
            let left = deadline.saturating_duration_since(Instant::now());
            sleeps = !left.is_zero();
            timeout = Some(left);
        }
        // From here on who wakes this thread ends its sleep; who did so before is seen here.
        sleeps = sleeps && self.unpark.begin_sleep();
        self.enter(sleeps, timeout);
        self.unpark.end_sleep();
        self.reap();
        self.fire_timers();
    }

    fn fire_timers(&self) {
        let mut timers = self.timers.borrow_mut();
        if timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(first) = timers.first_entry().filter(|first| first.key().0 <= now) {
            first.remove().wake();
        }
    }

    /// The one system call of a turn; none where there is nothing to submit, to work off or to wait for.
    fn enter(&self, sleeps: bool, timeout: Option<Duration>) {
        let mut uring = self.uring.borrow_mut();
        let (submitter, mut queue, completions) = uring.split();
        queue.sync();
        let nothing = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
        let sleeps = sleeps && completions.is_empty();
        let pushed = queue.len();
        if nothing && !sleeps {
            return;
        }
        drop((queue, completions));
        let owed_together = self.slots.borrow().owed_together;
        let entered = match (sleeps, timeout) {
            (false, _) => submitter.submit(),
            (true, timeout) if self.waits_together && owed_together > 1 => {
                sleep_together(&submitter, pushed, owed_together, timeout)
            }
            (true, None) => submitter.submit_and_wait(1),
            (true, Some(timeout)) => {
                let timeout = types::Timespec::from(timeout);
                submitter.submit_with_args(1, &types::SubmitArgs::new().timespec(&timeout))
            }
        };
        match entered {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ETIME) || is_busy(&error) => {}
            Err(error) => panic!("io_uring refused what a shard submitted: {error}"),
        }
    }

    /// Pushes an entry; submits first if there is no room for it.
    fn push(&self, entry: &squeue::Entry) {
        loop {
            // SAFETY: the entry points into its `Operation`, which `slots` owns until the kernel has completed it (`Drop` waits for that
            // too), or to nothing.
            if unsafe { self.uring.borrow_mut().submission().push(entry) }.is_ok() {
                return;
            }
            self.enter(false, None);
            self.reap();
        }
    }

    /// Takes note of all completions and wakes who waits for them.
    fn reap(&self) {
        let mut watches = true;
        {
            let mut uring = self.uring.borrow_mut();
            let mut slots = self.slots.borrow_mut();
            for completion in uring.completion() {
                match completion.user_data() {
                    UNPARK_TOKEN => watches &= io_uring::cqueue::more(completion.flags()),
                    CANCEL_TOKEN => {}
                    token => slots.complete(token, completion.result()),
                }
            }
        }
        if !watches {
            self.watch_for_wakes();
        }
    }

    /// Each write to the eventfd is a completion from now on; nobody reads what it counts.
    fn watch_for_wakes(&self) {
        let socket = types::Fd(self.unpark.eventfd.as_raw_fd());
        let watch = opcode::PollAdd::new(socket, u32::from(libc::POLLIN.cast_unsigned())).multi(true);
        self.push(&watch.build().user_data(UNPARK_TOKEN));
    }

    fn abandon(&self, slot: usize) {
        let polls = self.slots.borrow_mut().abandon(slot);
        if polls {
            self.push(&opcode::AsyncCancel::new(token(slot, 0)).build().user_data(CANCEL_TOKEN));
        }
    }
}

fn set_up() -> io::Result<IoUring> {
    let mut best = IoUring::builder();
    best.setup_cqsize(COMPLETIONS).setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    match best.build(ENTRIES) {
        // Before 6.1.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            IoUring::builder().setup_cqsize(COMPLETIONS).setup_coop_taskrun().setup_taskrun_flag().build(ENTRIES)
        }
        built => built,
    }
}

/// What `io_uring_enter` takes for a wait (`struct io_uring_getevents_arg` of the kernel's `io_uring.h`); `io_uring` does not let set all
/// of it.
#[repr(C)]
struct WaitArguments {
    signals: u64,
    signals_bytes: u32,
    together_microseconds: u32,
    timeout: u64,
}

/// Submits, and sleeps until `together` completions are there, or one and [`TOGETHER_MICROSECONDS`] are over.
fn sleep_together(
    submitter: &Submitter<'_>,
    pushed: usize,
    together: usize,
    timeout: Option<Duration>,
) -> io::Result<usize> {
    const GETEVENTS: u32 = 1 << 0;
    const EXTENDED_ARGUMENTS: u32 = 1 << 3;
    let microseconds = timeout.map_or(u128::MAX, |timeout| timeout.as_micros());
    let timeout = timeout.map(types::Timespec::from);
    let arguments = WaitArguments {
        signals: 0,
        signals_bytes: 0,
        together_microseconds: u32::try_from(microseconds).unwrap_or(u32::MAX).min(TOGETHER_MICROSECONDS),
        timeout: timeout.as_ref().map_or(0, |timeout| std::ptr::from_ref(timeout).addr() as u64),
    };
    // SAFETY: the arguments, which have the kernel's form, and the time that they point to live over the call.
    unsafe { submitter.enter(pushed as u32, together as u32, GETEVENTS | EXTENDED_ARGUMENTS, Some(&arguments)) }
}

impl Slots {
    fn take(&mut self, operations: Vec<Operation>, entries: &mut Vec<squeue::Entry>) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        self.owed += operations.len();
        if operations.len() > 1 {
            self.owed_together += operations.len();
        }
        let slot = &mut self.slots[index];
        slot.owed = operations.len();
        slot.operations = operations;
        let tokens = (0..).map(|number| token(index, number));
        entries.extend(
            slot.operations.iter_mut().zip(tokens).map(|(operation, token)| operation.entry().user_data(token)),
        );
        index
    }

    fn complete(&mut self, token: u64, result: i32) {
        let (index, number) = untoken(token);
        let slot = &mut self.slots[index];
        assert!(slot.owed > 0 && self.owed > 0, "a completion belongs to an operation in flight");
        self.owed -= 1;
        slot.owed -= 1;
        if slot.operations.len() > 1 {
            self.owed_together -= 1;
        }
        let failure = match u32::try_from(result) {
            Err(_) => Some(Failure::Errno(-result)),
            Ok(written) => match slot.operations[number].expected() {
                Some(expected) if expected != written => Some(Failure::Short { expected, written }),
                _ => {
                    slot.operations[number].take(written);
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

    fn result(&mut self, index: usize, waker: &Waker) -> Option<Completed> {
        let slot = &mut self.slots[index];
        if slot.owed > 0 {
            if !slot.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
                slot.waker = Some(waker.clone());
            }
            return None;
        }
        let Slot { operations, transferred, failure, .. } = std::mem::take(slot);
        self.free.push(index);
        Some(Completed { operations, transferred, failure })
    }

    /// Whether it is a wait for a socket, which may never end by itself.
    fn abandon(&mut self, index: usize) -> bool {
        let slot = &mut self.slots[index];
        if slot.owed > 0 {
            slot.abandoned = true;
            slot.waker = None;
            return matches!(slot.operations[..], [Operation::Poll { .. }]);
        }
        *slot = Slot::default();
        self.free.push(index);
        false
    }
}

impl Drop for Reactor {
    /// Waits for the kernel, which still reads from or writes to memory that `slots` owns.
    fn drop(&mut self) {
        let is_poll = |slot: &Slot| slot.owed > 0 && matches!(slot.operations[..], [Operation::Poll { .. }]);
        let slots = &self.slots.get_mut().slots;
        let polls: Vec<usize> = (0..slots.len()).filter(|slot| is_poll(&slots[*slot])).collect();
        for slot in polls {
            self.push(&opcode::AsyncCancel::new(token(slot, 0)).build().user_data(CANCEL_TOKEN));
        }
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

/// The result of operations that were started together. Dropping it does not cancel them (but for the wait for a socket).
pub(crate) struct Completion {
    reactor: Rc<Reactor>,
    slot: usize,
    done: bool,
}

impl Future for Completion {
    type Output = Completed;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completed> {
        assert!(!self.done, "a completion is taken once");
        let completed = self.reactor.slots.borrow_mut().result(self.slot, context.waker());
        match completed {
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
            self.reactor.abandon(self.slot);
        }
    }
}

/// Ready at a deadline.
pub(crate) struct Sleep {
    reactor: Rc<Reactor>,
    deadline: Instant,
    timer: Option<u64>,
}

impl Sleep {
    pub(crate) fn until(reactor: Rc<Reactor>, deadline: Instant) -> Self {
        Self { reactor, deadline, timer: None }
    }

    fn call_off(&mut self) {
        if let Some(number) = self.timer.take() {
            self.reactor.timers.borrow_mut().remove(&(self.deadline, number));
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.call_off();
        if self.deadline <= Instant::now() {
            return Poll::Ready(());
        }
        self.timer = Some(self.reactor.begin_timer(self.deadline, context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.call_off();
    }
}

/// Ends a thread's sleep.
///
/// Two flags that both sides write before they look at the other's, in one order for all: either the sleeper sees that it was woken, or who
/// wakes sees that it sleeps.
struct Unpark {
    eventfd: OwnedFd,
    sleeping: AtomicBool,
    woken: AtomicBool,
}

impl Unpark {
    fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed; the result is checked below.
        let eventfd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if eventfd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `eventfd` was just opened and nothing else owns it.
        let eventfd = unsafe { OwnedFd::from_raw_fd(eventfd) };
        Ok(Self { eventfd, sleeping: AtomicBool::new(false), woken: AtomicBool::new(false) })
    }

    /// Whether the thread may sleep: nobody has woken it meanwhile.
    fn begin_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        !self.woken.load(Ordering::SeqCst)
    }

    fn end_sleep(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if self.sleeping.swap(false, Ordering::SeqCst) {
            let one = 1_u64.to_ne_bytes();
            // SAFETY: writes eight bytes that live over the call. It fails only where the counter is at its end, after 2^64 wakes.
            unsafe { libc::write(self.eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
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
