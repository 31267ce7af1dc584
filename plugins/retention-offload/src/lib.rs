//! Keeps what is new on the disk and sends what is old, or too much, to the object store; and deletes it some time later, if it is told to.

use tidegate_sdk::{
    Error, Failure, Setup,
    offload::{self, Choices, Offloader},
    retention::{self, Retention, Verdicts},
};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Milliseconds for which records stay on the disk.
    local_ms: Option<i64>,
    /// Bytes of a partition that stay on the disk.
    local_bytes: Option<u64>,
    /// Newest sealed segments that stay on the disk in any case.
    #[serde(default)]
    local_segments_min: usize,
    /// Milliseconds after which records are deleted, wherever they are.
    delete_ms: Option<i64>,
    /// Bytes that a partition may have, wherever they are.
    delete_bytes: Option<u64>,
}

#[derive(Debug)]
pub struct Offload(Config);

impl Retention for Offload {
    type Config = Config;
    const EXAMPLE: &str =
        r#"{ "local_ms": 86400000, "local_bytes": 10737418240, "local_segments_min": 1, "delete_ms": 7776000000 }"#;

    fn open(config: Config, _: &mut Setup) -> Result<Self, Error> {
        if config.local_ms.is_none() && config.local_bytes.is_none() {
            return Err("neither 'local_ms' nor 'local_bytes' is there: nothing would ever be offloaded".into());
        }
        for (name, time) in [("local_ms", config.local_ms), ("delete_ms", config.delete_ms)] {
            if time.is_some_and(|time| time < 0) {
                return Err(format!("'{name}' is below 0").into());
            }
        }
        if config.delete_ms.is_some_and(|delete| config.local_ms.is_some_and(|local| delete <= local)) {
            return Err("'delete_ms' is not above 'local_ms': nothing would get old enough to be offloaded".into());
        }
        Ok(Self(config))
    }

    fn evaluate(&mut self, topic: &retention::Topic<'_>, verdicts: &mut Verdicts) -> Result<(), Failure> {
        for log in topic.logs {
            let old = self.0.delete_ms.map_or(-1, |keep| log.end_of_old(keep, topic.now));
            let surplus = self.0.delete_bytes.map_or(-1, |keep| log.end_of_surplus(keep));
            verdicts.delete_before(old.max(surplus));
        }
        Ok(())
    }
}

impl Offloader for Offload {
    fn offload(&mut self, topic: &offload::Topic<'_>, choices: &mut Choices) -> Result<(), Failure> {
        for log in topic.logs {
            choices.offload(self.choose(log, topic.now));
        }
        Ok(())
    }
}

impl Offload {
    /// The oldest segments go first, so that what is on the disk is one stretch up to the end of the log.
    fn choose(&self, log: &offload::PartitionLog, now: i64) -> Vec<usize> {
        let Config { local_ms, local_bytes, local_segments_min, .. } = &self.0;
        let candidates = log.segments.len().saturating_sub(*local_segments_min);
        let on_disk = log.segments.iter().filter(|segment| !segment.offloaded).map(|segment| segment.bytes);
        let mut local = on_disk.sum::<u64>() + log.active_bytes;
        let mut chosen = Vec::new();
        for (index, segment) in log.segments.iter().enumerate().take(candidates) {
            if segment.offloaded {
                continue;
            }
            let is_old = local_ms.is_some_and(|keep| now.saturating_sub(segment.max_timestamp) > keep);
            let is_too_much = local_bytes.is_some_and(|keep| local > keep);
            if !is_old && !is_too_much {
                break;
            }
            local -= segment.bytes;
            chosen.push(index);
        }
        chosen
    }
}

tidegate_sdk::export!(offloader: Offload);

#[cfg(test)]
mod tests {
    use tidegate_sdk::testkit::{Opened, open_retention};

    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn open(config: &str) -> Opened<Offload> {
        let mut policy = open_retention::<Offload>(config).expect("it opens");
        policy.now = NOW;
        policy
    }

    /// What goes of sealed segments of 100 bytes each, of these ages, with 50 bytes in the active one. `true`: it has gone already.
    fn chosen(config: &str, segments: &[(i64, bool)]) -> Vec<u32> {
        let segments = segments.iter().zip(0..).map(|((age, offloaded), index)| offload::Segment {
            base_offset: index * 10,
            next_offset: index * 10 + 10,
            max_timestamp: NOW - age,
            bytes: 100,
            offloaded: *offloaded,
        });
        let log = offload::PartitionLog {
            partition: 0,
            start_offset: 0,
            high_watermark: 100,
            segments: segments.collect(),
            active_bytes: 50,
        };
        open(config).offload(&[log]).expect("it answers").remove(0)
    }

    fn delete_before(config: &str, ages: &[i64]) -> i64 {
        let segments = ages.iter().zip(0..).map(|(age, index)| retention::Segment {
            base_offset: index * 10,
            next_offset: index * 10 + 10,
            max_timestamp: NOW - age,
            bytes: 100,
        });
        let log = retention::PartitionLog {
            partition: 0,
            start_offset: 0,
            high_watermark: 100,
            segments: segments.collect(),
            readers: Vec::new(),
        };
        open(config).evaluate(&[log]).expect("it answers")[0].delete_before
    }

    #[test]
    fn old_segments_go() {
        let segments = [(300, true), (200, false), (150, false), (100, false)];
        assert_eq!(chosen(r#"{ "local_ms": 149 }"#, &segments), [1, 2]);
        assert_eq!(chosen(r#"{ "local_ms": 1000 }"#, &segments), Vec::<u32>::new());
    }

    #[test]
    fn the_oldest_segments_go_until_the_rest_fits() {
        let segments = [(300, true), (200, false), (150, false), (100, false)];
        assert_eq!(chosen(r#"{ "local_bytes": 250 }"#, &segments), [1], "350 bytes are on the disk");
        assert_eq!(chosen(r#"{ "local_bytes": 350 }"#, &segments), Vec::<u32>::new());
        assert_eq!(chosen(r#"{ "local_bytes": 0 }"#, &segments), [1, 2, 3], "the active one stays");
        assert_eq!(chosen(r#"{ "local_bytes": 0, "local_segments_min": 2 }"#, &segments), [1]);
        assert_eq!(chosen(r#"{ "local_ms": 120, "local_segments_min": 9 }"#, &segments), Vec::<u32>::new());
    }

    #[test]
    fn a_young_segment_keeps_those_behind_it_on_the_disk() {
        assert_eq!(chosen(r#"{ "local_ms": 150 }"#, &[(200, false), (100, false), (300, false)]), [0]);
    }

    #[test]
    fn records_are_deleted_by_age_and_size_where_that_is_asked_for() {
        assert_eq!(delete_before(r#"{ "local_ms": 10 }"#, &[300, 200, 100]), -1);
        assert_eq!(delete_before(r#"{ "local_ms": 10, "delete_ms": 150 }"#, &[300, 200, 100]), 20);
        assert_eq!(delete_before(r#"{ "local_ms": 10, "delete_bytes": 150 }"#, &[300, 200, 100]), 10);
    }

    #[test]
    fn mistakes_are_named() {
        let refused = |config: &str| open_retention::<Offload>(config).expect_err("it is refused");
        assert!(refused("").contains("neither 'local_ms' nor 'local_bytes'"));
        assert!(refused(r#"{ "local_ms": -1 }"#).contains("'local_ms' is below 0"));
        assert!(refused(r#"{ "local_ms": 5, "delete_ms": 5 }"#).contains("not above 'local_ms'"));
        open_retention::<Offload>(Offload::EXAMPLE).expect("the example opens");
    }
}
