//! A thread that runs tasks over a `Reactor`: spawn, sleep, yield.
//!
//! Tasks run in turns: those that can go on do so, for at most `TURN`, then the ring is looked at. A thread with nothing to run sleeps
//! in the ring. glommio's own loop costs three rings, a preemption timer, a membarrier and some seven system calls each time it goes to
//! sleep and wakes; this one costs one (ARCHITECTURE.md has what that was worth).

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io,
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_executor::{LocalExecutor, Task};

use super::reactor::{Reactor, Sleep, Turn};

/// How long tasks run before completions, timers and other threads' letters are looked at again.
const TURN: Duration = Duration::from_micros(500);

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

#[derive(Clone)]
struct Current {
    reactor: Rc<Reactor>,
    tasks: Rc<LocalExecutor<'static>>,
    turn_ends: Rc<Cell<Instant>>,
}

fn current<T>(of: impl FnOnce(&Current) -> T) -> T {
    CURRENT.with_borrow(|current| of(current.as_ref().expect("this thread runs tasks")))
}

/// What runs tasks on this thread.
pub struct Runtime {
    current: Current,
}

impl Runtime {
    /// Sets up the ring of this thread.
    ///
    /// # Errors
    /// What the kernel said: see `startup_check` for the words that help an operator.
    pub fn new() -> io::Result<Self> {
        let current = Current {
            reactor: Reactor::new()?,
            tasks: Rc::new(LocalExecutor::new()),
            turn_ends: Rc::new(Cell::new(Instant::now() + TURN)),
        };
        Ok(Self { current })
    }

    /// Runs `future`, and the tasks that it spawns, until `future` ends. What would run on then is dropped.
    ///
    /// # Panics
    /// Within a future that is being run so.
    pub fn run<T: 'static>(self, future: impl Future<Output = T> + 'static) -> T {
        let before = CURRENT.replace(Some(self.current.clone()));
        assert!(before.is_none(), "a thread runs one future at a time");
        let _leaving = Leaving;
        let result = self.drive(future);
        // Tasks are dropped while the ring is there: they give back what they have of it.
        let tasks = CURRENT.with_borrow_mut(|current| {
            let current = current.as_mut().expect("it was set above");
            std::mem::replace(&mut current.tasks, Rc::new(LocalExecutor::new()))
        });
        drop((self.current.tasks, tasks));
        result
    }

    fn drive<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let Current { reactor, tasks, turn_ends } = &self.current;
        let waker = reactor.waker();
        let context = &mut Context::from_waker(&waker);
        let mut main = pin!(tasks.spawn(future));
        loop {
            // Whoever was woken until now is found in the queue.
            reactor.forget_wakes();
            if let Poll::Ready(result) = main.as_mut().poll(context) {
                return result;
            }
            turn_ends.set(Instant::now() + TURN);
            let mut idle = false;
            while !idle && Instant::now() < turn_ends.get() {
                idle = !tasks.try_tick();
            }
            if !idle {
                reactor.turn(Turn::Look);
                continue;
            }
            // While this is there, a task that can go on wakes the thread.
            let mut more = pin!(tasks.tick());
            let turn = if more.as_mut().poll(context).is_ready() { Turn::Look } else { Turn::Sleep };
            reactor.turn(turn);
        }
    }
}

/// Forgets what the thread ran.
struct Leaving;

impl Drop for Leaving {
    fn drop(&mut self) {
        drop(CURRENT.take());
    }
}

/// The ring of this thread.
pub(crate) fn reactor() -> Rc<Reactor> {
    current(|current| Rc::clone(&current.reactor))
}

/// Runs `future` beside the others of this thread. Dropping the task ends it.
pub(crate) fn spawn_local<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    current(|current| current.tasks.spawn(future))
}

/// Ready after `duration`.
pub(crate) fn sleep(duration: Duration) -> Sleep {
    Sleep::until(reactor(), Instant::now() + duration)
}

/// Lets others run where this turn has taken its time: long work calls it between steps.
pub(crate) async fn yield_if_needed() {
    if current(|current| current.turn_ends.get() <= Instant::now()) {
        futures_lite::future::yield_now().await;
    }
}

/// Runs `work`, which takes its time, on a thread of its own.
pub(crate) async fn unblock<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    blocking::unblock(work).await
}

#[cfg(test)]
mod tests;
