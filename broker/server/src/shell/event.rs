//! A flag that one task waits for and others of the same thread raise.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    task::{Poll, Waker},
};

/// Raised until it is waited for; raising it twice is raising it once.
#[derive(Default)]
pub(crate) struct Event {
    raised: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Event {
    pub(crate) fn raise(&self) {
        self.raised.set(true);
        if let Some(waker) = self.waiting.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Waits until the flag is raised, and lowers it. One task at a time.
    pub(crate) async fn wait(&self) {
        poll_fn(|context| {
            if self.raised.replace(false) {
                Poll::Ready(())
            } else {
                *self.waiting.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await;
    }
}
