//! Wakes every shard a few times a second, from a thread of its own.
//!
//! glommio 0.9 can put an executor to sleep that has tasks to run: where the preempt timer fires before the first of them has begun, which
//! takes a thread that loses its core for a millisecond at the wrong moment, `LocalExecutor::run` takes "nothing was run" for "there
//! is nothing to run" and parks. If all timers have fired by then (their tasks wait in the queue as well), nothing ever wakes it: seen
//! as a shard that hangs while it recovers, on a machine with more to do than cores. A wake from outside always gets through.
//!
//! Such a wake needs a task that has run once. Until then, when the very first task is what waits in the queue (seen as a broker that
//! never became ready), a signal does the same: it ends the system call in which the thread sleeps.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

use glommio::LocalExecutor;

/// How long a shard can sleep with work to do. Each wake costs an idle shard about 50 us.
const INTERVAL: Duration = Duration::from_millis(100);
/// What is sent to a thread that has not begun. Ignored by default, so that it can do no harm.
const SIGNAL: libc::c_int = libc::SIGURG;

/// Who is woken.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Followers>>);

#[derive(Debug, Default)]
struct Followers {
    wakers: Vec<Waker>,
    /// Threads whose executors have not run their first task yet. They are alive: [`Starting`] sees to it.
    starting: Vec<libc::pthread_t>,
}

impl Pulse {
    /// Starts the thread; it ends when the last [`Pulse`] is gone.
    ///
    /// # Errors
    /// No thread could be made, or the signal could not be set up.
    pub fn start() -> io::Result<Self> {
        handle_signal()?;
        let pulse = Self::default();
        let weak = Arc::downgrade(&pulse.0);
        std::thread::Builder::new().name("pulse".into()).spawn(move || {
            loop {
                std::thread::sleep(INTERVAL);
                let Some(followers) = weak.upgrade() else { return };
                Self(followers).beat();
            }
        })?;
        Ok(pulse)
    }

    /// Runs `future` in an executor on this thread, until it ends, and wakes the executor with every beat.
    pub fn run<T>(&self, executor: &LocalExecutor, future: impl Future<Output = T>) -> T {
        // SAFETY: takes no pointers and cannot fail.
        let thread = unsafe { libc::pthread_self() };
        self.followers().starting.push(thread);
        let starting = Starting { pulse: self.clone(), thread };
        executor.run(async move {
            // Cancelled with the future: nothing wakes an executor that is gone.
            let _following = glommio::spawn_local(starting.follow());
            future.await
        })
    }

    fn followers(&self) -> MutexGuard<'_, Followers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beat(&self) {
        let wakers = {
            let mut followers = self.followers();
            for thread in &followers.starting {
                // SAFETY: the thread is alive, because it leaves the list before it ends, which takes the lock that is held here.
                unsafe { libc::pthread_kill(*thread, SIGNAL) };
            }
            std::mem::take(&mut followers.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A thread whose executor is started; it is no longer when this is dropped.
struct Starting {
    pulse: Pulse,
    thread: libc::pthread_t,
}

impl Starting {
    /// Is woken with every beat, and with it the executor that it runs on. Never ends.
    async fn follow(self) -> Infallible {
        let pulse = self.pulse.clone();
        let mut starting = Some(self);
        poll_fn(|context| {
            pulse.followers().wakers.push(context.waker().clone());
            starting = None;
            Poll::Pending
        })
        .await
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.pulse.followers().starting.retain(|thread| *thread != self.thread);
    }
}

/// Sees to it that [`SIGNAL`] interrupts system calls, and does nothing else.
fn handle_signal() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all-zero is a valid `sigaction`: no flags (so that system calls are not restarted), no signals blocked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: `action` lives over the call, and its handler does nothing, which is safe in any thread at any moment.
    let result = unsafe { libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use glommio::LocalExecutorBuilder;

    use super::*;

    /// The preempt timer fires so early that many an executor would park with its first task in the queue.
    #[test]
    fn an_executor_that_parks_before_its_first_task_is_woken() {
        let pulse = Pulse::start().expect("a thread");
        for _ in 0..100 {
            let builder = LocalExecutorBuilder::default().preempt_timer(Duration::from_micros(50));
            let executor = builder.make().expect("an executor");
            pulse.run(&executor, glommio::timer::sleep(Duration::from_micros(50)));
        }
        assert!(pulse.followers().starting.is_empty());
    }
}
