//! Sends a percentage of the records elsewhere, or a copy of them: a canary, a sample for an audit, a split in parts.
//!
//! What is chosen depends on the key (or a header, or a field), so that all records of a customer go the same way; or, with
//! `random`, on the seed of the batch, so that a retried batch is split the same.

use tidegate_sdk::{
    Batch, Error, Failure, Router, Routes, Setup, Topic,
    config::{Reader, Source, Unmatched, Unrouted},
    hash,
};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What decides; records that have the same go the same way.
    source: Option<Source>,
    /// Each record by lot instead.
    #[serde(default)]
    random: bool,
    /// Splits with another salt choose independently of this one.
    #[serde(default)]
    salt: String,
    shares: Vec<Share>,
    /// Whether chosen records also stay in the topic that they were sent to.
    #[serde(default)]
    copy: bool,
    /// What happens to those that no share takes.
    #[serde(default)]
    rest: Unmatched,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Share {
    topic: String,
    percent: f64,
}

#[derive(Debug)]
pub struct SampleRouter {
    /// None: by lot.
    source: Option<Reader>,
    salt: u64,
    /// The first place that is no more of the share, and its topic; in order.
    shares: Vec<(u64, Topic)>,
    copy: bool,
    rest: Unrouted,
}

impl Router for SampleRouter {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "source": { "key": true }, "shares": [ { "topic": "orders-canary", "percent": 5 } ], "copy": false, "rest": "keep" }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        if config.shares.is_empty() {
            return Err("`shares` is empty: nothing would be routed".into());
        }
        let source = match (config.random, config.source) {
            (true, Some(_)) => return Err("`random` and `source` exclude each other".into()),
            (true, None) => None,
            (false, source) => Some(source.unwrap_or_default().open(setup)?),
        };
        let mut percent = 0.0;
        let mut shares = Vec::with_capacity(config.shares.len());
        for share in &config.shares {
            if !(share.percent > 0.0 && share.percent <= 100.0) {
                return Err(
                    format!("{} percent for '{}': it is more than 0, at most 100", share.percent, share.topic).into()
                );
            }
            percent += share.percent;
            // Ten times 0.1 is not quite 1.
            if percent > 100.0 + 1e-9 {
                return Err("the shares are more than 100 percent together".into());
            }
            shares.push((place_of(percent), setup.topic(&share.topic)?));
        }
        let salt = hash::stable(config.salt.as_bytes());
        Ok(Self { source, salt, shares, copy: config.copy, rest: config.rest.open(setup)? })
    }

    fn route(&mut self, batch: &Batch, routes: &mut Routes) -> Result<(), Failure> {
        let mut lots = batch.runs().flat_map(|run| {
            let mut random = run.context.random();
            run.records.map(move |_| random.bits())
        });
        let Some(source) = &self.source else {
            lots.for_each(|lot| self.route_one(lot, routes));
            return Ok(());
        };
        // Records without what decides would all go one way: they are drawn by lot.
        source.for_each(batch, |text| {
            let lot = lots.next().expect("runs cover the batch");
            self.route_one(text.map_or(lot, |text| hash::with(self.salt, hash::stable(text))), routes);
        });
        Ok(())
    }
}

impl SampleRouter {
    #[inline]
    fn route_one(&self, place: u64, routes: &mut Routes) {
        match self.shares.iter().find(|(end, _)| place <= *end) {
            Some((_, topic)) => {
                if self.copy {
                    routes.add(Topic::SENT_TO);
                }
                routes.to(*topic);
            }
            None => self.rest.route(routes, || "no share takes the record".to_owned()),
        }
    }
}

/// The last place of a percentage of all.
fn place_of(percent: f64) -> u64 {
    // Saturates: 100 percent is everything.
    (percent / 100.0 * 18_446_744_073_709_551_616.0) as u64
}

tidegate_sdk::export!(router: SampleRouter);

#[cfg(test)]
mod tests {
    use tidegate_sdk::testkit::{SENT_TO, TestRecord, open_router, record};

    use super::*;

    const COUNT: usize = 20_000;

    fn routed(config: &str, seed: u64, records: &[TestRecord]) -> Vec<Vec<String>> {
        let mut router = open_router::<SampleRouter>(config).expect("the configuration is good");
        router.seed = seed;
        let routed = router.route(records).expect("it always answers");
        routed.iter().map(|routed| routed.topics().into_iter().map(str::to_owned).collect()).collect()
    }

    fn keyed() -> Vec<TestRecord> {
        (0..COUNT).map(|index| record().key(format!("key-{index}"))).collect()
    }

    #[track_caller]
    fn near(routed: &[Vec<String>], topics: &[&str], percent: usize) {
        let count = routed.iter().filter(|routed| **routed == topics).count();
        let fair = COUNT * percent / 100;
        assert!(count.abs_diff(fair) <= fair / 10 + COUNT / 500, "{topics:?} got {count}, about {fair} were due");
    }

    #[test]
    fn shares_follow_the_percentages() {
        let shares = r#""shares": [ { "topic": "a", "percent": 5 }, { "topic": "b", "percent": 25.5 } ]"#;
        for config in [format!("{{ {shares} }}"), format!(r#"{{ "random": true, {shares} }}"#)] {
            let routed = routed(&config, 1, &keyed());
            near(&routed, &["a"], 5);
            near(&routed, &["b"], 25);
            near(&routed, &[SENT_TO], 70);
        }
    }

    #[test]
    fn a_hundred_percent_is_everything() {
        let shares: Vec<String> = (0..10).map(|index| format!(r#"{{ "topic": "t{index}", "percent": 10 }}"#)).collect();
        let config = format!(r#"{{ "shares": [ {} ], "rest": "reject" }}"#, shares.join(", "));
        let routed = routed(&config, 1, &keyed());
        for index in 0..10 {
            near(&routed, &[&format!("t{index}")], 10);
        }
    }

    #[test]
    fn a_copy_leaves_the_record_where_it_is() {
        let config = r#"{ "shares": [ { "topic": "audit", "percent": 10 } ], "copy": true }"#;
        let routed = routed(config, 1, &keyed());
        near(&routed, &[SENT_TO, "audit"], 10);
        near(&routed, &[SENT_TO], 90);
    }

    #[test]
    fn the_same_key_goes_the_same_way_and_a_salt_chooses_anew() {
        let config = |salt: &str| format!(r#"{{ "salt": "{salt}", "shares": [ {{ "topic": "a", "percent": 50 }} ] }}"#);
        assert_eq!(routed(&config(""), 1, &keyed()), routed(&config(""), 2, &keyed()));
        let (one, other) = (routed(&config("1"), 1, &keyed()), routed(&config("2"), 1, &keyed()));
        let same = one.iter().zip(&other).filter(|(one, other)| one == other).count();
        assert!(same.abs_diff(COUNT / 2) < COUNT / 20, "{same} of {COUNT}");
    }

    #[test]
    fn a_retried_batch_is_split_the_same_and_another_is_not() {
        let config = r#"{ "random": true, "shares": [ { "topic": "a", "percent": 50 } ] }"#;
        assert_eq!(routed(config, 1, &keyed()), routed(config, 1, &keyed()));
        assert_ne!(routed(config, 1, &keyed()), routed(config, 2, &keyed()));
        // Without a key there is nothing to hash.
        let keyless = vec![record(); COUNT];
        near(&routed(r#"{ "shares": [ { "topic": "a", "percent": 50 } ] }"#, 1, &keyless), &["a"], 50);
    }

    #[test]
    fn a_bad_configuration_is_refused() {
        let refused = |config: &str| open_router::<SampleRouter>(config).expect_err("the configuration is bad");
        let share = |percent: &str| format!(r#"{{ "topic": "a", "percent": {percent} }}"#);
        assert!(refused(r#"{ "shares": [] }"#).contains("nothing would be routed"));
        assert!(refused(&format!(r#"{{ "shares": [ {} ] }}"#, share("0"))).contains("more than 0"));
        assert!(refused(&format!(r#"{{ "shares": [ {} ] }}"#, share("-1"))).contains("more than 0"));
        assert!(refused(&format!(r#"{{ "shares": [ {}, {} ] }}"#, share("60"), share("41"))).contains("more than 100"));
        assert!(
            refused(&format!(r#"{{ "random": true, "source": {{ "key": true }}, "shares": [ {} ] }}"#, share("1")))
                .contains("exclude each other")
        );
        open_router::<SampleRouter>(SampleRouter::EXAMPLE).expect("the example opens");
    }
}
