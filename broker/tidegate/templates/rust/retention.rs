//! A retention policy: it says what becomes of records, and when.

use tidegate_sdk::{
    Error, Failure, Setup,
    // [offload]
    offload::{self, Choices, Offloader},
    // [end]
    // [erase]
    retention::{Eraser, Kept, Stored},
    // [end]
    retention::{Retention, Topic, Verdicts},
};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What `tidegate.retention.config` says, as JSON.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Consumer groups that must have consumed a record before it is deleted.
    groups: Vec<String>,
    /// However far these groups are, nothing is kept for longer.
    at_most_days: Option<u32>,
    // [erase]
    /// Keys whose records are erased wherever they are.
    #[serde(default)]
    erase: Vec<String>,
    // [end]
    // [offload]
    /// What is older than this goes to the object store.
    on_disk_days: Option<u32>,
    // [end]
}

/// SUMMARY.
pub struct UntilConsumed {
    config: Config,
}

impl Retention for UntilConsumed {
    type Config = Config;
    const EXAMPLE: &str = r#"CONFIG"#;

    // [erase]
    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        // For `keep`; `evaluate` sees no records.
        setup.read_keys();
        Ok(Self { config })
    }
    // [end]
    // [not erase]
    fn open(config: Config, _: &mut Setup) -> Result<Self, Error> {
        Ok(Self { config })
    }
    // [end]

    fn evaluate(&mut self, topic: &Topic<'_>, verdicts: &mut Verdicts) -> Result<(), Failure> {
        for log in topic.logs {
            let position = |group: &String| {
                let reader = log.readers.iter().find(|reader| reader.group == *group);
                reader.map_or(log.start_offset, |reader| reader.committed)
            };
            let consumed = self.config.groups.iter().map(position).min().unwrap_or(log.start_offset);
            let expired = self.config.at_most_days.map_or(-1, |days| log.end_of_old(i64::from(days) * DAY_MS, topic.now));
            verdicts.delete_before(expired.max(consumed));
            // [erase]
            if !self.config.erase.is_empty() {
                (0..log.segments.len()).for_each(|segment| verdicts.rewrite(segment));
            }
            // [end]
        }
        Ok(())
    }
}
// [erase]

impl Eraser for UntilConsumed {
    fn keep(&mut self, stored: &Stored<'_>, kept: &mut Kept) -> Result<(), Failure> {
        for key in stored.batch.keys() {
            let erased = key.is_some_and(|key| self.config.erase.iter().any(|erased| erased.as_bytes() == key));
            if erased { kept.erase() } else { kept.keep() }
        }
        Ok(())
    }
}
// [end]
// [offload]

impl Offloader for UntilConsumed {
    fn offload(&mut self, topic: &offload::Topic<'_>, choices: &mut Choices) -> Result<(), Failure> {
        let oldest = self.config.on_disk_days.map(|days| topic.now - i64::from(days) * DAY_MS);
        for log in topic.logs {
            let is_old = |segment: &&offload::Segment| oldest.is_some_and(|oldest| segment.max_timestamp < oldest);
            // The oldest come first; those that have gone already may be named again.
            choices.offload(0..log.segments.iter().take_while(is_old).count());
        }
        Ok(())
    }
}
// [end]

tidegate_sdk::export!(WORLD: UntilConsumed);

#[cfg(test)]
mod tests {
    use tidegate_sdk::{
        retention::{PartitionLog, Reader, Segment},
        testkit::open_retention,
    };

    use super::*;

    #[test]
    fn what_all_groups_have_consumed_goes() {
        let mut policy = open_retention::<UntilConsumed>(r#"{ "groups": ["a", "b"] }"#).expect("it opens");
        let reader = |group: &str, committed| Reader { group: group.to_owned(), committed, idle_ms: 0 };
        let segment = Segment { base_offset: 0, next_offset: 100, max_timestamp: 0, bytes: 1000 };
        let log = |readers| PartitionLog {
            partition: 0,
            start_offset: 0,
            high_watermark: 120,
            segments: vec![segment],
            readers,
        };
        let judged = policy.evaluate(&[log(vec![reader("a", 70), reader("b", 40)]), log(vec![reader("a", 70)])]);
        let before: Vec<i64> = judged.expect("it answers").iter().map(|verdict| verdict.delete_before).collect();
        // A group that has committed nothing still wants everything.
        assert_eq!(before, [40, 0]);
    }
    // [erase]

    #[test]
    fn records_with_erased_keys_go() {
        use tidegate_sdk::testkit::record;
        let mut policy = open_retention::<UntilConsumed>(UntilConsumed::EXAMPLE).expect("the example opens");
        let kept = policy.keep(&[record().key("customer-1"), record().key("customer-7"), record()]);
        assert_eq!(kept, Ok(vec![true, false, true]));
    }
    // [end]
    // [offload]

    #[test]
    fn old_segments_go_to_the_object_store() {
        let mut policy = open_retention::<UntilConsumed>(UntilConsumed::EXAMPLE).expect("the example opens");
        policy.now = 10 * DAY_MS;
        let segment = |base_offset, day: i64| offload::Segment {
            base_offset,
            next_offset: base_offset + 10,
            max_timestamp: day * DAY_MS,
            bytes: 1000,
            offloaded: false,
        };
        let log = offload::PartitionLog {
            partition: 0,
            start_offset: 0,
            high_watermark: 25,
            segments: vec![segment(0, 1), segment(10, 9)],
            active_bytes: 500,
        };
        assert_eq!(policy.offload(&[log]), Ok(vec![vec![0]]));
    }
    // [end]
}
