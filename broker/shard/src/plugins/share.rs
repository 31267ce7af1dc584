//! What plugins may take of a shard's core (`plugin.core.max.percent`): a slow one slows its own producers down, and nobody else.
//!
//! A call cannot be interrupted and gone on with, so its time is taken first and paid for afterwards: each topic owes what its plugins
//! took, and all topics together are forgiven the allowed share of the time that passes, the smallest debts first. Who sends to a topic that owes
//! more than [`FREE`] is told to wait (`throttle_time_ms`, as with Kafka's request quotas, KIP-124), and is not read from meanwhile. What was
//! received already, from it or from anybody else, waits as well: no call is made for a topic that owes.

use std::{collections::BTreeMap, time::Duration};

use tidegate_records::{ids::TopicId, time::Instant};

/// What a topic may owe before anybody waits: a new instance, a large batch.
const FREE: Duration = Duration::from_millis(50);
/// Nobody waits longer at once: it is less than what clients wait for an answer.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Debts are looked at no more often.
const STEP: Duration = Duration::from_millis(10);

/// The debts of a shard's topics.
#[derive(Debug, Default)]
pub(super) struct Shares {
    owed: BTreeMap<TopicId, Duration>,
    forgiven_until: Option<Instant>,
}

impl Shares {
    /// Notes what the plugins of a batch took that was sent to `topic`. How long its producer should wait before it sends more.
    pub(super) fn charge(&mut self, now: Instant, topic: TopicId, took: Duration, percent: u32) -> Duration {
        if took.is_zero() || percent >= 100 {
            return Duration::ZERO;
        }
        self.forgive(now, percent);
        *self.owed.entry(topic).or_default() += took;
        self.wait(topic, percent)
    }

    /// How long plugins should not be called for `topic`. The debt of one producer is that of all who send to it.
    pub(super) fn owes(&mut self, now: Instant, topic: TopicId, percent: u32) -> Duration {
        if !self.owed.contains_key(&topic) || percent >= 100 {
            return Duration::ZERO;
        }
        self.forgive(now, percent);
        self.wait(topic, percent)
    }

    fn wait(&self, topic: TopicId, percent: u32) -> Duration {
        let over = self.owed.get(&topic).map_or(Duration::ZERO, |owed| owed.saturating_sub(FREE));
        if over.is_zero() {
            return Duration::ZERO;
        }
        let debtors = self.owed.values().filter(|owed| **owed > FREE).count();
        (over * 100 * u32::try_from(debtors).unwrap_or(u32::MAX) / percent.max(1)).min(WAIT_MAX)
    }

    /// Shares out what was allowed since the last time.
    fn forgive(&mut self, now: Instant, percent: u32) {
        let passed = now.since(*self.forgiven_until.get_or_insert(now));
        if passed < STEP {
            return;
        }
        self.forgiven_until = Some(now);
        let mut allowed = passed * percent / 100;
        let mut debts: Vec<&mut Duration> = self.owed.values_mut().collect();
        debts.sort_unstable();
        let mut left = u32::try_from(debts.len()).unwrap_or(u32::MAX);
        for debt in debts {
            let part = (*debt).min(allowed / left.max(1));
            *debt -= part;
            allowed -= part;
            left = left.saturating_sub(1);
        }
        self.owed.retain(|_, owed| !owed.is_zero());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn topic(number: u8) -> TopicId {
        TopicId([number; 16])
    }

    #[test]
    fn no_call_is_made_for_a_topic_that_owes_whoever_sends() {
        let mut shares = Shares::default();
        let mut now = Instant::default();
        assert_eq!(shares.owes(now, topic(1), 50), Duration::ZERO);
        assert!(!shares.charge(now, topic(1), 150 * MS, 50).is_zero());
        assert_eq!(shares.owes(now, topic(1), 50), 200 * MS);
        assert_eq!(shares.owes(now, topic(2), 50), Duration::ZERO, "others do not pay for it");
        now = now + 200 * MS;
        assert_eq!(shares.owes(now, topic(1), 50), Duration::ZERO);
    }

    /// Producers that send as soon as they may, each batch with a call of so long, on one core for ten seconds. What each took of it, in
    /// percent.
    fn run(calls: &[Duration], percent: u32) -> Vec<u128> {
        let mut shares = Shares::default();
        let start = Instant::default();
        let mut now = start;
        let end = start + Duration::from_secs(10);
        let mut next = vec![start; calls.len()];
        let mut took = vec![Duration::ZERO; calls.len()];
        while now < end {
            let ready: Vec<usize> = (0..calls.len()).filter(|each| next[*each] <= now).collect();
            for each in &ready {
                now = now + calls[*each];
                took[*each] += calls[*each];
                next[*each] = now + MS + shares.charge(now, topic(*each as u8), calls[*each], percent);
            }
            if ready.is_empty() {
                now = next.iter().copied().min().expect("there are some");
            }
        }
        took.iter().map(|took| took.as_micros() * 100 / now.since(start).as_micros()).collect()
    }

    #[test]
    fn who_takes_more_than_the_share_waits() {
        for (call, percent) in [(5, 50), (5, 10), (100, 50), (1_000, 25)] {
            let took = run(&[MS * call], percent)[0];
            let allowed = u128::from(percent);
            assert!(took <= allowed + 11 && took + 6 >= allowed.min(83), "{call} ms: {took} % of {percent} %");
        }
    }

    #[test]
    fn several_share_it() {
        let took = run(&[MS * 5, MS * 5, MS * 20], 50);
        assert!(took.iter().sum::<u128>() <= 53, "{took:?}");
        assert!(took.iter().all(|each| *each >= 12), "{took:?}");
    }

    #[test]
    fn who_takes_little_never_waits_beside_who_takes_much() {
        // A twentieth of a millisecond for each batch, one a millisecond.
        let alone = run(&[MS / 20], 50)[0];
        let beside = run(&[MS / 20, MS * 5], 50);
        assert!(alone >= 4, "{alone}");
        // It waits for the core while the other has it, half of the time, and for nothing else.
        assert!(beside[0] * 3 >= alone, "{beside:?} against {alone}");
        assert!(beside[1] <= 53, "{beside:?}");
        let mut shares = Shares::default();
        let mut now = Instant::default();
        for _ in 0..10_000 {
            now = now + MS;
            assert_eq!(shares.charge(now, topic(1), MS / 20, 50), Duration::ZERO);
            shares.charge(now, topic(2), MS, 50);
        }
    }

    #[test]
    fn without_a_bound_nobody_waits() {
        let mut shares = Shares::default();
        assert_eq!(shares.charge(Instant::default(), topic(1), MS * 100_000, 100), Duration::ZERO);
        assert_eq!(shares.charge(Instant::default(), topic(1), MS * 100_000, 50), WAIT_MAX);
    }
}
