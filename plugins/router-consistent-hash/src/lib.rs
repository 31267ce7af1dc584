//! Splits records among topics by weight, as RabbitMQ's consistent hash exchange: what has the same key goes to the same topic.
//!
//! Each topic has points on a ring, in proportion to its weight; a record goes to the topic of the first point at or after the
//! hash of its key. The points of a topic depend on its name alone, so a topic that is added or taken away moves only the keys
//! that it gets or had.

use tidegate_sdk::{
    Batch, Error, Failure, Router, Routes, Setup, Topic,
    config::{Reader, Source},
    hash,
};

/// Points for each unit of weight: shares are right within some percent.
const POINTS: u64 = 160;
/// A ring of at most 2.5 MB.
const WEIGHTS_MAX: u32 = 1000;

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is hashed.
    #[serde(default)]
    source: Source,
    topics: Vec<Share>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Share {
    topic: String,
    #[serde(default = "one")]
    weight: u32,
}

fn one() -> u32 {
    1
}

#[derive(Debug)]
pub struct ConsistentHashRouter {
    source: Reader,
    /// Hashes and topics, sorted.
    ring: Vec<(u64, Topic)>,
}

impl Router for ConsistentHashRouter {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "source": { "key": true }, "topics": [ { "topic": "work-0", "weight": 1 }, { "topic": "work-1", "weight": 2 } ] }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        if config.topics.is_empty() {
            return Err("`topics` is empty: nothing would be routed".into());
        }
        let weights = config.topics.iter().try_fold(0_u32, |sum, share| sum.checked_add(share.weight));
        match weights {
            Some(0) => return Err("every weight is 0: nothing would be routed".into()),
            Some(weights) if weights <= WEIGHTS_MAX => {}
            _ => {
                return Err(format!("the weights are more than {WEIGHTS_MAX} together: only their ratios count").into());
            }
        }
        let mut ring = Vec::new();
        for (index, share) in config.topics.iter().enumerate() {
            if config.topics[..index].iter().any(|other| other.topic == share.topic) {
                return Err(format!("`topics` names '{}' twice: give it one weight", share.topic).into());
            }
            let topic = setup.topic(&share.topic)?;
            let name = hash::stable(share.topic.as_bytes());
            ring.extend((0..u64::from(share.weight) * POINTS).map(|point| (hash::with(name, point), topic)));
        }
        ring.sort_unstable();
        Ok(Self { source: config.source.open(setup)?, ring })
    }

    fn route(&mut self, batch: &Batch, routes: &mut Routes) -> Result<(), Failure> {
        self.source.for_each(batch, |text| {
            let place = hash::stable(text.unwrap_or_default());
            let next = self.ring.partition_point(|(point, _)| *point < place);
            // Beyond the last point the ring begins again.
            routes.to(self.ring.get(next).unwrap_or(&self.ring[0]).1);
        });
        Ok(())
    }
}

tidegate_sdk::export!(router: ConsistentHashRouter);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidegate_sdk::testkit::{TestRecord, open_router, record};

    use super::*;

    fn config(weights: &[(&str, u32)]) -> String {
        let shares: Vec<String> =
            weights.iter().map(|(topic, weight)| format!(r#"{{ "topic": "{topic}", "weight": {weight} }}"#)).collect();
        format!(r#"{{ "topics": [ {} ] }}"#, shares.join(", "))
    }

    const KEYS: usize = 20_000;

    fn placed(weights: &[(&str, u32)]) -> Vec<String> {
        let mut router = open_router::<ConsistentHashRouter>(&config(weights)).expect("the configuration is good");
        let records: Vec<TestRecord> = (0..KEYS).map(|index| record().key(format!("key-{index}"))).collect();
        let routed = router.route(&records).expect("it always answers");
        routed
            .iter()
            .map(|routed| match routed.topics()[..] {
                [topic] => topic.to_owned(),
                ref topics => panic!("a record goes to one topic, not to {topics:?}"),
            })
            .collect()
    }

    #[test]
    fn shares_follow_the_weights() {
        let mut counts = BTreeMap::new();
        for topic in placed(&[("a", 1), ("b", 2), ("c", 5), ("none", 0)]) {
            *counts.entry(topic).or_insert(0_usize) += 1;
        }
        for (topic, weight) in [("a", 1), ("b", 2), ("c", 5)] {
            let fair = KEYS * weight / 8;
            let count = counts[topic];
            assert!(count.abs_diff(fair) < fair / 5, "{topic} has {count} keys and should have about {fair}");
        }
        assert_eq!(counts.len(), 3);
    }

    #[test]
    fn a_new_topic_takes_only_its_own_share() {
        let before = placed(&[("a", 1), ("b", 1), ("c", 1)]);
        // In front of the others: the order means nothing.
        let after = placed(&[("d", 1), ("c", 1), ("b", 1), ("a", 1)]);
        let mut moved = 0;
        for (before, after) in before.iter().zip(&after) {
            if before != after {
                assert_eq!(after, "d", "a key moves to the new topic or not at all");
                moved += 1;
            }
        }
        assert!(moved > KEYS / 6 && moved < KEYS / 3, "{moved} of {KEYS} moved");
    }

    /// Records that were placed stay where they are in every later version.
    #[test]
    fn places_never_change() {
        let placed = placed(&[("a", 1), ("b", 2), ("c", 3)]);
        assert_eq!(placed[..12].concat(), "ccaacabcbbbc");
    }

    #[test]
    fn what_is_hashed_can_be_a_header() {
        let config =
            r#"{ "source": { "header": "user" }, "topics": [ { "topic": "a" }, { "topic": "b" }, { "topic": "c" } ] }"#;
        let mut router = open_router::<ConsistentHashRouter>(config).expect("the configuration is good");
        let records: Vec<TestRecord> =
            (0..50).map(|index| record().key(format!("{index}")).header("user", "u1")).collect();
        let routed = router.route(&records).expect("it always answers");
        assert!(routed.iter().all(|one| *one == routed[0]));
    }

    #[test]
    fn a_bad_configuration_is_refused() {
        let refused = |config: &str| open_router::<ConsistentHashRouter>(config).expect_err("the configuration is bad");
        assert!(refused(r#"{ "topics": [] }"#).contains("nothing would be routed"));
        assert!(refused(&config(&[("a", 0)])).contains("every weight is 0"));
        assert!(refused(&config(&[("a", 1), ("a", 2)])).contains("names 'a' twice"));
        assert!(refused(&config(&[("a", 600), ("b", 401)])).contains("more than 1000"));
        assert!(refused(&config(&[("a", u32::MAX), ("b", u32::MAX)])).contains("more than 1000"));
        open_router::<ConsistentHashRouter>(ConsistentHashRouter::EXAMPLE).expect("the example opens");
    }
}
