//! One at a time: an asynchronous lock on one thread, first come first served.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

/// Lets one holder of a [`Pass`] through at a time. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    state: Rc<RefCell<State>>,
}

#[derive(Debug, Default)]
struct State {
    held: bool,
    waiting: VecDeque<Waker>,
}

/// Who holds it is inside; dropping it lets the next one in.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Gate,
}

impl Gate {
    /// Waits until nobody is inside. Order is not strict: who comes just when the gate opens may slip in first.
    pub(crate) async fn enter(&self) -> Pass {
        poll_fn(|context| match self.try_enter() {
            Some(pass) => Poll::Ready(pass),
            None => {
                self.state.borrow_mut().waiting.push_back(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// Enters if nobody is inside.
    pub(crate) fn try_enter(&self) -> Option<Pass> {
        let mut state = self.state.borrow_mut();
        if state.held {
            return None;
        }
        state.held = true;
        Some(Pass { gate: self.clone() })
    }
}

/// The two gates of a partition. Whoever changes its segments passes both. A commit round that writes straight into the active
/// segment passes the second alone, so that it can do so while the first one's holder writes zeros further on.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartitionGate {
    change: Gate,
    direct: Gate,
}

/// Both gates of a partition are held.
#[derive(Debug)]
pub(crate) struct PartitionPass {
    _change: Pass,
    _direct: Pass,
}

impl PartitionGate {
    pub(crate) async fn enter(&self) -> PartitionPass {
        let change = self.change.enter().await;
        let direct = self.direct.enter().await;
        PartitionPass { _change: change, _direct: direct }
    }

    /// Keeps out changes, not direct writes.
    pub(crate) async fn enter_beside_direct(&self) -> Pass {
        self.change.enter().await
    }

    pub(crate) fn try_enter_direct(&self) -> Option<Pass> {
        self.direct.try_enter()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        // All are woken: one that was dropped while it waited must not swallow the only wake.
        let waiting = {
            let mut state = self.gate.state.borrow_mut();
            state.held = false;
            std::mem::take(&mut state.waiting)
        };
        for waker in waiting {
            waker.wake();
        }
    }
}
