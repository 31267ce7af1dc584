//! Erases the records of some keys wherever they are: what a person's right to be forgotten asks for. Everything else is kept, or goes by age.

use std::collections::BTreeSet;

use tidegate_sdk::{
    Error, Failure, Setup,
    config::{Reader, Source},
    retention::{Eraser, Kept, Retention, Stored, Topic, Verdicts},
};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where it stands whose record it is.
    #[serde(default)]
    subject: Source,
    /// Whose records are erased.
    #[serde(default)]
    erase: BTreeSet<String>,
    /// And whose name begins so.
    #[serde(default)]
    erase_prefixes: BTreeSet<String>,
    /// Milliseconds for which all other records are kept; without it, for ever.
    keep_ms: Option<i64>,
}

#[derive(Debug)]
pub struct EraseKeys {
    subject: Reader,
    erase: BTreeSet<Box<[u8]>>,
    erase_prefixes: Vec<Box<[u8]>>,
    keep_ms: Option<i64>,
}

impl Retention for EraseKeys {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "erase": ["customer-4711"], "erase_prefixes": ["test-"], "keep_ms": 604800000 }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        let Config { subject, erase, erase_prefixes, keep_ms } = config;
        if erase.iter().chain(&erase_prefixes).any(String::is_empty) {
            return Err("an empty name would erase what has none: it is not taken".into());
        }
        if keep_ms.is_some_and(|time| time < 0) {
            return Err("'keep_ms' is below 0".into());
        }
        let bytes = |names: BTreeSet<String>| names.into_iter().map(|name| name.into_bytes().into_boxed_slice());
        Ok(Self {
            subject: subject.open(setup)?,
            erase: bytes(erase).collect(),
            erase_prefixes: bytes(erase_prefixes).collect(),
            keep_ms,
        })
    }

    fn evaluate(&mut self, topic: &Topic<'_>, verdicts: &mut Verdicts) -> Result<(), Failure> {
        let erases = !self.erase.is_empty() || !self.erase_prefixes.is_empty();
        for log in topic.logs {
            let is_old = |timestamp: i64| self.keep_ms.is_some_and(|keep| topic.now.saturating_sub(timestamp) > keep);
            let old = log.segments.iter().take_while(|segment| is_old(segment.max_timestamp));
            let start = old.map(|segment| segment.next_offset).last().unwrap_or(-1);
            verdicts.delete_before(start);
            for (index, segment) in log.segments.iter().enumerate() {
                if erases && segment.next_offset > start {
                    verdicts.rewrite(index);
                }
            }
        }
        Ok(())
    }
}

impl Eraser for EraseKeys {
    fn keep(&mut self, stored: &Stored<'_>, kept: &mut Kept) -> Result<(), Failure> {
        self.subject.clone().for_each(stored.batch, |name| {
            let erased = name.is_some_and(|name| {
                self.erase.contains(name) || self.erase_prefixes.iter().any(|prefix| name.starts_with(prefix))
            });
            if erased { kept.erase() } else { kept.keep() }
        });
        Ok(())
    }
}

tidegate_sdk::export!(eraser: EraseKeys);

#[cfg(test)]
mod tests {
    use tidegate_sdk::{
        retention::{PartitionLog, Segment},
        testkit::{Judged, open_retention, record},
    };

    use super::*;

    fn log() -> PartitionLog {
        let segment = |base_offset, age: i64| Segment {
            base_offset,
            next_offset: base_offset + 10,
            max_timestamp: 1_700_000_000_000_i64 - age,
            bytes: 1000,
        };
        PartitionLog {
            partition: 0,
            start_offset: 0,
            high_watermark: 25,
            segments: vec![segment(0, 100), segment(10, 10)],
            readers: Vec::new(),
        }
    }

    #[test]
    fn records_of_those_who_are_to_be_forgotten_go() {
        let mut policy = open_retention::<EraseKeys>(EraseKeys::EXAMPLE).expect("the example opens");
        let kept = policy.keep(&[
            record().key("customer-4711"),
            record().key("customer-47110"),
            record().key("test-1"),
            record(),
            record().key(""),
        ]);
        assert_eq!(kept, Ok(vec![false, true, false, true, true]));
    }

    #[test]
    fn it_looks_at_all_sealed_segments_that_stay() {
        let mut policy = open_retention::<EraseKeys>(r#"{ "erase": ["a"], "keep_ms": 50 }"#).expect("it opens");
        assert_eq!(policy.evaluate(&[log()]), Ok(vec![Judged { delete_before: 10, rewrite: vec![1] }]));
        let mut policy = open_retention::<EraseKeys>(r#"{ "keep_ms": 50 }"#).expect("it opens");
        assert_eq!(policy.evaluate(&[log()]), Ok(vec![Judged { delete_before: 10, rewrite: vec![] }]));
        let mut policy = open_retention::<EraseKeys>(r#"{ "erase": ["a"] }"#).expect("it opens");
        assert_eq!(policy.evaluate(&[log()]), Ok(vec![Judged { delete_before: -1, rewrite: vec![0, 1] }]));
    }

    #[test]
    fn the_subject_may_stand_in_a_field() {
        let config = r#"{ "subject": { "json": "person.id" }, "erase": ["7"] }"#;
        let mut policy = open_retention::<EraseKeys>(config).expect("it opens");
        let value = |id: u32| record().value(format!(r#"{{ "person": {{ "id": {id} }} }}"#));
        assert_eq!(policy.keep(&[value(7), value(8)]), Ok(vec![false, true]));
    }

    #[test]
    fn an_empty_name_is_a_mistake() {
        let error = open_retention::<EraseKeys>(r#"{ "erase": [""] }"#).expect_err("it is refused");
        assert!(error.contains("an empty name"), "{error}");
    }
}
