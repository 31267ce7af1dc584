//! Keeps records until consumer groups have consumed them, as a queue does, and no longer; with bounds of time on both sides.

use tidegate_sdk::{
    Error, Failure, Setup,
    retention::{PartitionLog, Retention, Topic, Verdicts},
};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Groups that must have consumed a record. A group that has committed nothing wants everything.
    groups: Vec<String>,
    /// Milliseconds without a commit after which a group is no longer waited for.
    idle_ms: Option<u64>,
    /// However far the groups are, what is older goes.
    max_age_ms: Option<i64>,
}

#[derive(Debug)]
pub struct UntilConsumed {
    config: Config,
}

impl Retention for UntilConsumed {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "groups": ["billing"], "max_age_ms": 2592000000 }"#;

    fn open(config: Config, _: &mut Setup) -> Result<Self, Error> {
        if config.groups.is_empty() {
            return Err("'groups' is empty: nothing would ever be consumed".into());
        }
        if config.max_age_ms.is_some_and(|age| age < 0) {
            return Err("'max_age_ms' is below 0".into());
        }
        Ok(Self { config })
    }

    fn evaluate(&mut self, topic: &Topic<'_>, verdicts: &mut Verdicts) -> Result<(), Failure> {
        for log in topic.logs {
            let old = self.config.max_age_ms.map_or(-1, |keep| log.end_of_old(keep, topic.now));
            verdicts.delete_before(self.consumed(log).max(old));
        }
        Ok(())
    }
}

impl UntilConsumed {
    /// What all groups that are waited for have consumed; where none is, nothing.
    fn consumed(&self, log: &PartitionLog) -> i64 {
        let positions = self.config.groups.iter().filter_map(|group| {
            let Some(reader) = log.readers.iter().find(|reader| reader.group == *group) else { return Some(-1) };
            let given_up = self.config.idle_ms.is_some_and(|idle| reader.idle_ms > idle);
            (!given_up).then_some(reader.committed)
        });
        positions.min().unwrap_or(-1)
    }
}

tidegate_sdk::export!(retention: UntilConsumed);

#[cfg(test)]
mod tests {
    use tidegate_sdk::{
        retention::{Reader, Segment},
        testkit::{Opened, open_retention},
    };

    use super::*;

    fn log(readers: &[(&str, i64, u64)]) -> PartitionLog {
        let segment = |base_offset, age: i64| Segment {
            base_offset,
            next_offset: base_offset + 100,
            max_timestamp: 1_700_000_000_000 - age,
            bytes: 1000,
        };
        PartitionLog {
            partition: 0,
            start_offset: 0,
            high_watermark: 320,
            segments: vec![segment(0, 3000), segment(100, 2000), segment(200, 1000)],
            readers: readers
                .iter()
                .map(|(group, committed, idle_ms)| Reader {
                    group: (*group).to_owned(),
                    committed: *committed,
                    idle_ms: *idle_ms,
                })
                .collect(),
        }
    }

    fn before(policy: &mut Opened<UntilConsumed>, readers: &[(&str, i64, u64)]) -> i64 {
        policy.evaluate(&[log(readers)]).expect("it answers")[0].delete_before
    }

    #[test]
    fn the_slowest_group_decides() {
        let mut policy = open_retention::<UntilConsumed>(r#"{ "groups": ["a", "b"] }"#).expect("it opens");
        assert_eq!(before(&mut policy, &[("a", 150, 0), ("b", 40, 0), ("other", 3, 0)]), 40);
        assert_eq!(before(&mut policy, &[("a", 150, 0)]), -1, "b has consumed nothing");
        assert_eq!(before(&mut policy, &[]), -1);
    }

    #[test]
    fn a_group_that_is_gone_is_given_up_after_a_time() {
        let mut policy =
            open_retention::<UntilConsumed>(r#"{ "groups": ["a", "b"], "idle_ms": 10 }"#).expect("it opens");
        assert_eq!(before(&mut policy, &[("a", 150, 5), ("b", 40, 11)]), 150);
        assert_eq!(before(&mut policy, &[("a", 150, 11), ("b", 40, 11)]), -1, "there is nobody to decide by");
        assert_eq!(before(&mut policy, &[("a", 150, 5)]), -1, "b may come yet");
    }

    #[test]
    fn nothing_is_kept_for_longer_than_it_may() {
        let mut policy =
            open_retention::<UntilConsumed>(r#"{ "groups": ["a"], "max_age_ms": 1500 }"#).expect("it opens");
        assert_eq!(before(&mut policy, &[]), 200);
        assert_eq!(before(&mut policy, &[("a", 250, 0)]), 250);
    }

    #[test]
    fn a_policy_without_groups_is_a_mistake() {
        let error = open_retention::<UntilConsumed>(r#"{ "groups": [] }"#).expect_err("it is refused");
        assert_eq!(error, "'groups' is empty: nothing would ever be consumed");
        open_retention::<UntilConsumed>(UntilConsumed::EXAMPLE).expect("the example opens");
    }
}
