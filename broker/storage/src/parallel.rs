//! Work on many partitions side by side. A file system makes what several files wait for durable together, so that many syncs at a time
//! take hardly longer than one.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

/// Partitions that are worked on at a time: each holds a buffer and a file or two.
pub(crate) const PARALLEL_MAX: usize = 32;

type Running<'a, E> = Pin<Box<dyn Future<Output = Result<(), E>> + 'a>>;

/// Does `work` with each of `items`, with at most [`PARALLEL_MAX`] at a time.
///
/// # Errors
/// The first error. Nothing is begun after it; what was begun is finished.
pub(crate) async fn for_each<T, E>(
    items: impl IntoIterator<Item = T>,
    work: impl AsyncFn(T) -> Result<(), E>,
) -> Result<(), E> {
    let mut items = items.into_iter();
    let mut running: Vec<Running<'_, E>> = Vec::new();
    let mut result = Ok(());
    poll_fn(|context| {
        loop {
            while result.is_ok() && running.len() < PARALLEL_MAX {
                let Some(item) = items.next() else { break };
                running.push(Box::pin(work(item)));
            }
            let begun = running.len();
            running.retain_mut(|running| match running.as_mut().poll(context) {
                Poll::Pending => true,
                Poll::Ready(done) => {
                    if result.is_ok() {
                        result = done;
                    }
                    false
                }
            });
            if running.is_empty() && (begun == 0 || result.is_err()) {
                return Poll::Ready(());
            }
            if running.len() == begun {
                return Poll::Pending;
            }
        }
    })
    .await;
    result
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        pin::pin,
        task::{Context, Waker},
    };

    use super::*;

    /// Polls until it is done.
    fn run<T>(future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return done;
            }
        }
    }

    async fn turns(mut left: usize) {
        poll_fn(|_| {
            left = left.saturating_sub(1);
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    #[test]
    fn all_are_worked_on_and_not_too_many_at_a_time() {
        let (running, most, done) = (Cell::new(0), Cell::new(0), RefCell::new(Vec::new()));
        let result: Result<(), ()> = run(for_each(0..100, async |item| {
            running.set(running.get() + 1);
            most.set(running.get().max(most.get()));
            turns(2 + item % 7).await;
            running.set(running.get() - 1);
            done.borrow_mut().push(item);
            Ok(())
        }));
        assert_eq!((result, most.get()), (Ok(()), PARALLEL_MAX));
        let mut done = done.into_inner();
        done.sort_unstable();
        assert!(done.into_iter().eq(0..100));
        assert_eq!(run(for_each(0..0, async |_| Err(()))), Ok(()));
    }

    #[test]
    fn after_an_error_nothing_is_begun_and_what_was_begun_is_finished() {
        let (begun, ended) = (Cell::new(0), Cell::new(0));
        let result = run(for_each(0..100, async |item| {
            begun.set(begun.get() + 1);
            turns(if item == 3 { 1 } else { 5 }).await;
            ended.set(ended.get() + 1);
            if item == 3 || item == 5 { Err(item) } else { Ok(()) }
        }));
        assert_eq!((result, begun.get(), ended.get()), (Err(3), PARALLEL_MAX, PARALLEL_MAX));
    }
}
