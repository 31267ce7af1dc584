//! The coordinator's timers: one deadline for each key, the earliest first.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_records::time::Instant;

use super::request::Text;

/// What is due when a deadline passes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A classic member has not been heard of for its session timeout.
    ClassicSession { group: Text, member: Text },
    /// A classic group's members had the time to join.
    ClassicJoin { group: Text },
    /// A classic group's members had the time to sync.
    ClassicSync { group: Text },
    /// A member of a consumer group has not been heard of for the session timeout.
    ConsumerSession { group: Text, member: Text },
    /// A member of a consumer group had the time to revoke its partitions.
    ConsumerRebalance { group: Text, member: Text },
    /// Time to look for expired offsets and groups.
    Expiration,
}

/// Deadlines by key and by time.
#[derive(Clone, Debug, Default)]
pub(super) struct Timers {
    deadlines: BTreeMap<Timer, Instant>,
    queue: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    /// Sets the deadline of `timer`, in place of an earlier one.
    pub(super) fn schedule(&mut self, timer: Timer, at: Instant) {
        self.cancel(&timer);
        self.queue.insert((at, timer.clone()));
        self.deadlines.insert(timer, at);
    }

    pub(super) fn cancel(&mut self, timer: &Timer) {
        if let Some((timer, at)) = self.deadlines.remove_entry(timer) {
            self.queue.remove(&(at, timer));
        }
    }

    pub(super) fn is_scheduled(&self, timer: &Timer) -> bool {
        self.deadlines.contains_key(timer)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes out the earliest timer if it is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        if self.next_deadline()? > now {
            return None;
        }
        let (_, timer) = self.queue.pop_first()?;
        self.deadlines.remove(&timer);
        Some(timer)
    }
}
