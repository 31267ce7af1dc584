//! A seeded executor: one thread, and chance decides which of the tasks that can go on does.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::Pin,
    rc::{Rc, Weak},
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
};

use crate::random::Random;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Runs tasks. Dropping it drops them where they are: that is how a machine stops.
pub struct Executor {
    inner: Rc<RefCell<Inner>>,
}

/// Starts tasks from within a task.
#[derive(Clone)]
pub struct Spawner {
    inner: Weak<RefCell<Inner>>,
}

impl Spawner {
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        if let Some(inner) = self.inner.upgrade() {
            Executor { inner }.spawn(future);
        }
    }
}

struct Inner {
    random: Random,
    tasks: BTreeMap<u64, Option<Task>>,
    next_task: u64,
    ready: Arc<Mutex<Vec<u64>>>,
}

struct TaskWaker {
    task: u64,
    ready: Arc<Mutex<Vec<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock().expect("one thread, nobody panics inside");
        if !ready.contains(&self.task) {
            ready.push(self.task);
        }
    }
}

/// How a run of the executor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// What was waited for is true.
    Done,
    /// No task can go on.
    Stuck,
    /// It took more steps than a run may.
    TooLong,
}

impl Executor {
    #[must_use]
    pub fn new(random: Random) -> Self {
        let inner = Inner { random, tasks: BTreeMap::new(), next_task: 0, ready: Arc::default() };
        Self { inner: Rc::new(RefCell::new(inner)) }
    }

    #[must_use]
    pub fn spawner(&self) -> Spawner {
        Spawner { inner: Rc::downgrade(&self.inner) }
    }

    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let mut inner = self.inner.borrow_mut();
        let task = inner.next_task;
        inner.next_task += 1;
        inner.tasks.insert(task, Some(Box::pin(future)));
        inner.ready.lock().expect("one thread, nobody panics inside").push(task);
    }

    /// Runs tasks until `done` says so.
    pub fn run_until(&self, mut done: impl FnMut() -> bool, steps_max: u64) -> Ended {
        for _ in 0..steps_max {
            if done() {
                return Ended::Done;
            }
            let Some((task, mut future, waker)) = self.pick() else { return Ended::Stuck };
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            let mut inner = self.inner.borrow_mut();
            if polled.is_ready() {
                inner.tasks.remove(&task);
            } else if let Some(slot) = inner.tasks.get_mut(&task) {
                *slot = Some(future);
            }
        }
        Ended::TooLong
    }

    fn pick(&self) -> Option<(u64, Task, Waker)> {
        let mut inner = self.inner.borrow_mut();
        let ready = Arc::clone(&inner.ready);
        loop {
            let task = {
                let mut ready = ready.lock().expect("one thread, nobody panics inside");
                if ready.is_empty() {
                    return None;
                }
                let at = inner.random.index(ready.len());
                ready.swap_remove(at)
            };
            if let Some(future) = inner.tasks.get_mut(&task).and_then(Option::take) {
                let waker = Waker::from(Arc::new(TaskWaker { task, ready: Arc::clone(&ready) }));
                return Some((task, future, waker));
            }
        }
    }
}

/// Lets other tasks go first.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
