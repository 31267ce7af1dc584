//! Keeps the records of each tenant for a time of their own. Whose a record is, its key or a header says.
//!
//! Segments hold the records of many tenants, so those that are due are erased from segments; a segment that nobody needs any more goes as
//! a whole.

use std::{collections::BTreeMap, ops::Bound};

use tidegate_sdk::{
    Error, Failure, Setup,
    config::{Reader, Source},
    retention::{Eraser, Kept, Retention, Stored, Topic, Verdicts},
};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the tenant's name is.
    #[serde(default)]
    tenant: Source,
    /// Milliseconds for which the records of a tenant are kept, by the name or its beginning; the longest that fits counts.
    keep_ms: BTreeMap<String, i64>,
    /// For all others.
    default_ms: i64,
}

#[derive(Debug)]
pub struct Tenants {
    tenant: Reader,
    keep_ms: BTreeMap<Box<[u8]>, i64>,
    default_ms: i64,
    shortest_ms: i64,
    longest_ms: i64,
}

impl Retention for Tenants {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "keep_ms": { "acme.": 86400000, "trial-": 3600000 }, "default_ms": 604800000 }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        let Config { tenant, keep_ms, default_ms } = config;
        if let Some((name, time)) = keep_ms.iter().find(|(_, time)| **time < 0) {
            return Err(format!("{time} milliseconds of '{name}' are below 0").into());
        }
        if default_ms < 0 {
            return Err("'default_ms' is below 0".into());
        }
        if keep_ms.keys().any(String::is_empty) {
            return Err("an empty name fits everybody: that is 'default_ms'".into());
        }
        setup.read_timestamps();
        let times = || keep_ms.values().copied().chain([default_ms]);
        let (shortest_ms, longest_ms) = (times().min().unwrap_or(default_ms), times().max().unwrap_or(default_ms));
        let tenant = tenant.open(setup)?;
        let keep_ms = keep_ms.into_iter().map(|(name, time)| (name.into_bytes().into(), time)).collect();
        Ok(Self { tenant, keep_ms, default_ms, shortest_ms, longest_ms })
    }

    fn evaluate(&mut self, topic: &Topic<'_>, verdicts: &mut Verdicts) -> Result<(), Failure> {
        for log in topic.logs {
            let age = |timestamp: i64| topic.now.saturating_sub(timestamp);
            let start = log.end_of_old(self.longest_ms, topic.now);
            verdicts.delete_before(start);
            for (index, segment) in log.segments.iter().enumerate() {
                // As long as its newest record is not due for anybody, it may still have older ones that are: only time tells.
                if segment.next_offset > start && age(segment.max_timestamp) > self.shortest_ms {
                    verdicts.rewrite(index);
                }
            }
        }
        Ok(())
    }
}

impl Eraser for Tenants {
    fn keep(&mut self, stored: &Stored<'_>, kept: &mut Kept) -> Result<(), Failure> {
        let mut timestamps = stored.batch.timestamps().iter();
        let tenant = self.tenant.clone();
        tenant.for_each(stored.batch, |name| {
            let age = stored.now.saturating_sub(timestamps.next().copied().unwrap_or(stored.now));
            if age > self.time_of(name.unwrap_or_default()) { kept.erase() } else { kept.keep() }
        });
        Ok(())
    }
}

impl Tenants {
    fn time_of(&self, name: &[u8]) -> i64 {
        // The longest beginning: names that are beginnings of this one come before it, the longest of them last.
        let known = self.keep_ms.range::<[u8], _>((Bound::Unbounded, Bound::Included(name))).rev();
        known
            .filter(|(beginning, _)| name.starts_with(beginning))
            .map(|(_, time)| *time)
            .next()
            .unwrap_or(self.default_ms)
    }
}

tidegate_sdk::export!(eraser: Tenants);

#[cfg(test)]
mod tests {
    use tidegate_sdk::{
        retention::{PartitionLog, Segment},
        testkit::{Judged, open_retention, record},
    };

    use super::*;

    const CONFIG: &str = r#"{ "keep_ms": { "a": 100, "acme": 300, "trial": 10 }, "default_ms": 200 }"#;
    const NOW: i64 = 1_700_000_000_000;

    #[test]
    fn each_tenant_has_its_time_and_the_longest_name_counts() {
        let mut policy = open_retention::<Tenants>(CONFIG).expect("it opens");
        let sent = |key: &str, age: i64| record().key(key).timestamp(NOW - age);
        let kept = policy.keep(&[
            sent("trial.1", 11),
            sent("trial.1", 10),
            sent("acme.1", 300),
            sent("acme.1", 301),
            sent("abel", 101),
            sent("zoe", 150),
            sent("zoe", 201),
            record().timestamp(NOW - 150),
        ]);
        assert_eq!(kept, Ok(vec![false, true, true, false, false, true, false, true]));
    }

    #[test]
    fn segments_go_when_nobody_needs_them_and_are_rewritten_when_somebody_may_not() {
        let mut policy = open_retention::<Tenants>(CONFIG).expect("it opens");
        let segment = |base_offset, age: i64| Segment {
            base_offset,
            next_offset: base_offset + 10,
            max_timestamp: NOW - age,
            bytes: 1000,
        };
        let log = PartitionLog {
            partition: 0,
            start_offset: 0,
            high_watermark: 35,
            segments: vec![segment(0, 400), segment(10, 50), segment(20, 5)],
            readers: Vec::new(),
        };
        assert_eq!(policy.evaluate(&[log]), Ok(vec![Judged { delete_before: 10, rewrite: vec![1] }]));
    }

    #[test]
    fn mistakes_are_named() {
        let refused = |config| open_retention::<Tenants>(config).expect_err("it is refused");
        assert!(refused(r#"{ "keep_ms": {} }"#).contains("missing field `default_ms`"));
        assert_eq!(refused(r#"{ "keep_ms": { "a": -1 }, "default_ms": 1 }"#), "-1 milliseconds of 'a' are below 0");
        assert!(refused(r#"{ "keep_ms": { "": 1 }, "default_ms": 1 }"#).contains("that is 'default_ms'"));
        open_retention::<Tenants>(Tenants::EXAMPLE).expect("the example opens");
    }
}
