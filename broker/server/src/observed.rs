//! Batches on their way from the shards to who watches a topic: `tidegate plugin shadow`.
//!
//! Nobody waits for who watches: what is not fetched in time is forgotten and counted.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tidegate_records::ids::TopicId;
use tidegate_shard::ObservedBatch;

/// How long a topic is watched after it was asked about last.
pub(crate) const WATCH: Duration = Duration::from_secs(10);
/// Bytes of batches that are kept for each topic.
const KEPT_BYTES_MAX: usize = 32 << 20;
/// Bytes of batches in one answer.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// What a batch costs beside its bytes.
const BATCH_COST_BYTES: usize = 128;

/// Written by shards, read by the admin endpoint.
#[derive(Debug, Default)]
pub struct ObservedBatches {
    /// Counts changes of what is watched, so that shards see them without a lock.
    changes: AtomicU64,
    topics: Mutex<BTreeMap<TopicId, Watched>>,
    /// Batches of topics that were forgotten: numbers go on behind it.
    numbered: AtomicU64,
}

#[derive(Debug)]
struct Watched {
    until: Instant,
    /// Each with its number.
    kept: VecDeque<(u64, ObservedBatch)>,
    bytes: usize,
    /// The number that it began with, and the last one.
    began: u64,
    seen: u64,
}

/// What an answer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) batches: Vec<ObservedBatch>,
    /// The number of the last of them, or of the last that there is.
    pub(crate) newest: u64,
    /// Batches after what was asked for that are not kept any more.
    pub(crate) missed: u64,
    /// The topic was not watched for a while since what was asked for.
    pub(crate) interrupted: bool,
}

impl ObservedBatches {
    /// A number that is another one whenever what is watched has changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// What is watched.
    pub(crate) fn watched(&self) -> Arc<BTreeSet<TopicId>> {
        Arc::new(self.topics().keys().copied().collect())
    }

    /// Keeps a batch for who watches its topic, and forgets the oldest where there are too many.
    pub(crate) fn write(&self, batch: ObservedBatch) {
        let mut topics = self.topics();
        let Some(watched) = topics.get_mut(&batch.sent_to.topic) else { return };
        watched.seen += 1;
        watched.bytes += batch.bytes.len() + BATCH_COST_BYTES;
        watched.kept.push_back((watched.seen, batch));
        while watched.bytes > KEPT_BYTES_MAX
            && let Some((_, oldest)) = watched.kept.pop_front()
        {
            watched.bytes -= oldest.bytes.len() + BATCH_COST_BYTES;
        }
    }

    /// The batches of a topic after a number; with none, only where to go on from. The topic is watched for [`WATCH`] more.
    pub(crate) fn fetch(&self, topic: TopicId, after: Option<u64>, now: Instant) -> Fetched {
        let mut topics = self.topics();
        let is_new = !topics.contains_key(&topic);
        let watched = topics.entry(topic).or_insert_with(|| {
            let began = self.numbered.load(Ordering::Relaxed);
            Watched { until: now, kept: VecDeque::new(), bytes: 0, began, seen: began }
        });
        watched.until = now + WATCH;
        if is_new {
            self.changes.fetch_add(1, Ordering::Release);
        }
        // A number of before the topic was forgotten in between, or of before the broker was started again.
        let known = watched.began..=watched.seen;
        let interrupted = after.is_some_and(|after| !known.contains(&after));
        let after = after.unwrap_or(watched.seen);
        let after = if known.contains(&after) { after } else { watched.began };
        // Somebody else may watch as well: what was fetched stays until it is old.
        let first_kept = watched.kept.front().map_or(watched.seen + 1, |(number, _)| *number);
        let missed = first_kept.saturating_sub(after + 1);
        let mut fetched = Fetched { batches: Vec::new(), newest: after, missed, interrupted };
        let mut bytes = 0;
        for (number, batch) in watched.kept.iter().skip_while(|(number, _)| *number <= after) {
            if bytes > 0 && bytes + batch.bytes.len() > ANSWER_BYTES_MAX {
                return fetched;
            }
            bytes += batch.bytes.len();
            fetched.newest = *number;
            fetched.batches.push(batch.clone());
        }
        fetched.newest = watched.seen;
        fetched
    }

    /// Forgets topics that nobody has asked about for [`WATCH`].
    pub(crate) fn expire(&self, now: Instant) {
        let mut topics = self.topics();
        let before = topics.len();
        topics.retain(|_, watched| {
            if watched.until <= now {
                self.numbered.fetch_max(watched.seen + 1, Ordering::Relaxed);
            }
            watched.until > now
        });
        if topics.len() < before {
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    fn topics(&self) -> MutexGuard<'_, BTreeMap<TopicId, Watched>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tidegate_records::{
        ids::{PartitionIndex, TopicPartition},
        time::Timestamp,
    };

    use super::*;

    const TOPIC: TopicId = TopicId([7; 16]);

    fn batch(bytes: usize) -> ObservedBatch {
        ObservedBatch {
            sent_to: TopicPartition::new(TOPIC, PartitionIndex(0)),
            bytes: Bytes::from(vec![0; bytes]),
            now: Timestamp(1),
            seed: 2,
            client_id: None,
            acks: -1,
        }
    }

    #[test]
    fn only_what_is_watched_is_kept_and_only_for_a_while() {
        let (observed, now) = (ObservedBatches::default(), Instant::now());
        observed.write(batch(10));
        let first = observed.changes();
        assert_eq!(
            observed.fetch(TOPIC, None, now),
            Fetched { batches: vec![], newest: 0, missed: 0, interrupted: false }
        );
        assert_ne!(observed.changes(), first);
        assert!(observed.watched().contains(&TOPIC));
        observed.write(batch(10));
        assert_eq!(
            observed.fetch(TOPIC, Some(0), now),
            Fetched { batches: vec![batch(10)], newest: 1, missed: 0, interrupted: false }
        );
        assert_eq!(
            observed.fetch(TOPIC, Some(1), now),
            Fetched { batches: vec![], newest: 1, missed: 0, interrupted: false }
        );
        observed.expire(now + WATCH / 2);
        assert!(!observed.watched().is_empty());
        observed.expire(now + WATCH * 2);
        assert!(observed.watched().is_empty());
        // Who comes back too late begins anew, and is told.
        let again = observed.fetch(TOPIC, Some(1), now);
        assert_eq!(again, Fetched { batches: vec![], newest: 2, missed: 0, interrupted: true });
        observed.write(batch(10));
        let next = observed.fetch(TOPIC, Some(again.newest), now);
        assert_eq!(next, Fetched { batches: vec![batch(10)], newest: 3, missed: 0, interrupted: false });
        // So is who asks a broker that was started again.
        assert!(observed.fetch(TOPIC, Some(100), now).interrupted);
    }

    #[test]
    fn who_is_slow_is_told_what_was_missed() {
        let (observed, now) = (ObservedBatches::default(), Instant::now());
        observed.fetch(TOPIC, None, now);
        (0..100).for_each(|_| observed.write(batch(1 << 20)));
        let fetched = observed.fetch(TOPIC, Some(0), now);
        assert_eq!((fetched.missed, fetched.batches.len(), fetched.newest), (69, 4, 73));
        let next = observed.fetch(TOPIC, Some(fetched.newest), now);
        assert_eq!((next.missed, next.newest), (0, 77));
    }
}
