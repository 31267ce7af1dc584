//! The memory that clients can make a shard hold: requests that are being received, and answers that are not taken.
//!
//! A large request is given its room before it is received, in the order of asking, and gives it back once storage has taken it in. So
//! however many clients send at once, what they have sent of unfinished requests stays below `queued.max.request.bytes`, and each that
//! has room can finish. Small requests are bounded by the number of connections.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

/// However large an answer may be, so many of its size fit into what is left.
const ANSWERS_AT_LEAST: usize = 4;
/// An answer may always have so many bytes: with them a client goes on, slowly.
const ANSWER_BYTES_MIN: usize = 64 << 10;

/// A shard's room for requests, and a count of its unsent answers. Clones are the same.
#[derive(Clone)]
pub(crate) struct Memory {
    shared: Rc<Shared>,
}

struct Shared {
    bytes_max: usize,
    reserved: Cell<usize>,
    unsent: Cell<usize>,
    /// What reads that are under way may bring.
    reading: Cell<usize>,
    next_ticket: Cell<u64>,
    /// Who waits, the first in line in front.
    waiting: RefCell<VecDeque<(u64, Option<Waker>)>>,
}

/// Room for one request; given back when dropped.
pub(crate) struct Reservation {
    shared: Rc<Shared>,
    bytes: usize,
}

impl Memory {
    /// `bytes_max` is the shard's part of `queued.max.request.bytes`.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let shared = Shared {
            bytes_max,
            reserved: Cell::new(0),
            unsent: Cell::new(0),
            reading: Cell::new(0),
            next_ticket: Cell::new(0),
            waiting: RefCell::default(),
        };
        Self { shared: Rc::new(shared) }
    }

    /// Waits for room, after those that have waited longer. A request that is larger than everything gets it when nobody else has any.
    pub(crate) async fn reserve(&self, bytes: usize) -> Reservation {
        let shared = &self.shared;
        let ticket = shared.next_ticket.get();
        shared.next_ticket.set(ticket + 1);
        shared.waiting.borrow_mut().push_back((ticket, None));
        // Leaves the line also when whoever waits goes away.
        let place = Place { shared, ticket };
        poll_fn(|context| {
            let mut waiting = shared.waiting.borrow_mut();
            let is_first = waiting.front().is_some_and(|(first, _)| *first == ticket);
            let reserved = shared.reserved.get();
            if is_first && (reserved == 0 || reserved + bytes <= shared.bytes_max) {
                return Poll::Ready(());
            }
            if let Some((_, waker)) = waiting.iter_mut().find(|(other, _)| *other == ticket) {
                *waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
        shared.reserved.set(shared.reserved.get() + bytes);
        drop(place);
        Reservation { shared: Rc::clone(shared), bytes }
    }

    /// Whether somebody waits for room.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.shared.waiting.borrow().is_empty()
    }

    /// Bytes that requests have room for.
    pub(crate) fn reserved_bytes(&self) -> usize {
        self.shared.reserved.get()
    }

    /// An answer of so many bytes was queued.
    pub(crate) fn queued(&self, bytes: usize) {
        self.shared.unsent.set(self.shared.unsent.get() + bytes);
    }

    /// So many bytes of answers were sent or dropped.
    pub(crate) fn sent(&self, bytes: usize) {
        self.shared.unsent.set(self.shared.unsent.get() - bytes);
    }

    /// A read of so many bytes at most begins; what it brings is an answer's soon.
    pub(crate) fn read_begun(&self, bytes: usize) {
        self.shared.reading.set(self.shared.reading.get() + bytes);
    }

    pub(crate) fn read_ended(&self, bytes: usize) {
        self.shared.reading.set(self.shared.reading.get() - bytes);
    }

    /// How large the next answer of records may be: the more of them wait for their clients, the smaller, so that those which take
    /// theirs go on.
    pub(crate) fn answer_room(&self) -> usize {
        let held = self.shared.unsent.get().saturating_add(self.shared.reading.get());
        (self.shared.bytes_max.saturating_sub(held) / ANSWERS_AT_LEAST).max(ANSWER_BYTES_MIN)
    }

    /// Whether clients that have answers to take should take them before they ask for more.
    pub(crate) fn is_full_of_answers(&self) -> bool {
        self.shared.unsent.get() > self.shared.bytes_max
    }
}

impl Shared {
    fn wake_first(&self) {
        if let Some((_, Some(waker))) = self.waiting.borrow().front() {
            waker.wake_by_ref();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.reserved.set(self.shared.reserved.get() - self.bytes);
        self.shared.wake_first();
    }
}

/// A place in the line.
struct Place<'s> {
    shared: &'s Shared,
    ticket: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shared.waiting.borrow_mut().retain(|(ticket, _)| *ticket != self.ticket);
        self.shared.wake_first();
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Context};

    use super::*;

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn room_is_given_in_turn_and_given_back() {
        let memory = Memory::new(100);
        let first = poll(pin!(memory.reserve(60))).expect("there is room");
        let mut second = pin!(memory.reserve(60));
        let mut third = pin!(memory.reserve(10));
        assert!(poll(second.as_mut()).is_none());
        // There would be room for it, but it is not its turn.
        assert!(poll(third.as_mut()).is_none());
        drop(first);
        assert!(poll(third.as_mut()).is_none());
        let second = poll(second.as_mut()).expect("it is its turn");
        let third = poll(third.as_mut()).expect("there is room");
        assert_eq!(memory.reserved_bytes(), 70);
        drop((second, third));
        assert_eq!(memory.reserved_bytes(), 0);
    }

    #[test]
    fn answers_grow_smaller_the_more_of_them_wait() {
        let memory = Memory::new(64 << 20);
        assert_eq!(memory.answer_room(), 16 << 20);
        memory.read_begun(16 << 20);
        memory.queued(16 << 20);
        assert_eq!(memory.answer_room(), 8 << 20);
        memory.read_ended(16 << 20);
        assert_eq!(memory.answer_room(), 12 << 20);
        memory.queued(1 << 30);
        assert_eq!(memory.answer_room(), ANSWER_BYTES_MIN);
        memory.sent((1 << 30) + (16 << 20));
        assert_eq!(memory.answer_room(), 16 << 20);
    }

    #[test]
    fn who_goes_away_leaves_the_line() {
        let memory = Memory::new(100);
        let first = poll(pin!(memory.reserve(100))).expect("there is room");
        {
            let mut gone = pin!(memory.reserve(50));
            assert!(poll(gone.as_mut()).is_none());
        }
        let mut next = pin!(memory.reserve(50));
        assert!(poll(next.as_mut()).is_none());
        drop(first);
        assert!(poll(next.as_mut()).is_some());
    }

    #[test]
    fn a_request_larger_than_everything_gets_it_alone() {
        let memory = Memory::new(100);
        let small = poll(pin!(memory.reserve(1))).expect("there is room");
        let mut large = pin!(memory.reserve(1000));
        assert!(poll(large.as_mut()).is_none());
        drop(small);
        let large = poll(large.as_mut()).expect("nobody else has any");
        assert!(poll(pin!(memory.reserve(1))).is_none());
        drop(large);
    }
}
