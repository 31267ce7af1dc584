//! Wakes every shard a few times a second, from a thread of its own.
//!
//! glommio 0.9 can put an executor to sleep that has tasks to run: where the preempt timer fires before the first of them has begun, which
//! takes a thread that loses its core for a millisecond at the wrong moment, `LocalExecutor::run` takes "nothing was run" for "there
//! is nothing to run" and parks. If all timers have fired by then (their tasks wait in the queue as well), nothing ever wakes it: seen
//! as a shard that hangs while it recovers, on a machine with more to do than cores. A wake from outside always gets through.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    sync::{Arc, Mutex, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

/// How long a shard can sleep with work to do. Each wake costs an idle shard about 50 us.
const INTERVAL: Duration = Duration::from_millis(100);

/// The wakers of the shards that follow.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Vec<Waker>>>);

impl Pulse {
    /// Starts the thread; it ends when the last [`Pulse`] is gone.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn start() -> io::Result<Self> {
        let pulse = Self::default();
        let wakers = Arc::downgrade(&pulse.0);
        std::thread::Builder::new().name("pulse".into()).spawn(move || {
            loop {
                std::thread::sleep(INTERVAL);
                let Some(wakers) = wakers.upgrade() else { return };
                let followers = std::mem::take(&mut *wakers.lock().unwrap_or_else(PoisonError::into_inner));
                followers.into_iter().for_each(Waker::wake);
            }
        })?;
        Ok(pulse)
    }

    /// Is woken with every beat, and with it the executor that it runs on. Never ends.
    pub(crate) async fn follow(self) -> Infallible {
        poll_fn(|context| {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}
