//! A retention policy that answers what its configuration says, however wrong. It goes around the SDK, whose builders would not let it.
#![cfg(target_family = "wasm")]
#![allow(missing_debug_implementations, reason = "a guest of tests")]

use std::{cell::RefCell, hint::black_box};

use tidegate_sdk::{
    bindings::{
        base::{
            exports::tidegate::plugin::lifecycle,
            tidegate::plugin::types::{Columns, Facts},
        },
        filter::exports::tidegate::plugin::filtering::{self, Batch},
        retention::exports::tidegate::plugin::retaining::{self, Answer, Failure, PartitionLog, Topic, Verdict},
    },
    glue,
};

thread_local! {
    static ORDER: RefCell<String> = const { RefCell::new(String::new()) };
}

struct Hostile;

impl lifecycle::Guest for Hostile {
    fn describe() -> lifecycle::Description {
        lifecycle::Description {
            name: "hostile-retention".to_owned(),
            version: "0.0.1".to_owned(),
            summary: "does what it is told".to_owned(),
            example: "keep".to_owned(),
        }
    }

    fn open(config: String) -> Result<lifecycle::Needs, String> {
        glue::report_panics();
        ORDER.set(config);
        Ok(lifecycle::Needs { columns: Columns::KEYS, facts: Facts::empty(), headers: Vec::new() })
    }
}

impl retaining::Guest for Hostile {
    fn evaluate(topic: Topic, logs: Vec<PartitionLog>, now: i64) -> Result<Answer, Failure> {
        let order = ORDER.with_borrow(String::clone);
        let all = |verdict: &dyn Fn(&PartitionLog) -> Verdict| {
            Ok(Answer { verdicts: logs.iter().map(verdict).collect(), again_in_ms: 1 })
        };
        let before = |delete_before| Verdict { delete_before, rewrite: Vec::new() };
        match order.as_str() {
            "keep" => all(&|_| before(-1)),
            "delete-everything" => all(&|_| before(i64::MAX)),
            "delete-first" => all(&|log| before(log.segments.first().map_or(-1, |segment| segment.next_offset))),
            "consumed" => all(&|log| before(log.readers.iter().map(|reader| reader.committed).min().unwrap_or(-1))),
            order if order.starts_with("delete-before:") => {
                let offset = order["delete-before:".len()..].parse().expect("an offset");
                all(&|_| before(offset))
            }
            "erase" | "erase:fail" | "erase:short" | "erase:everything" => {
                all(&|log| Verdict { delete_before: -1, rewrite: (0..log.segments.len() as u32).collect() })
            }
            "rewrite-beyond" => all(&|log| Verdict { delete_before: -1, rewrite: vec![log.segments.len() as u32] }),
            "too-few" => Ok(Answer { verdicts: Vec::new(), again_in_ms: 1 }),
            "retry" => Err(Failure::Retry("come back later".to_owned())),
            "fail" => Err(Failure::Failed("I cannot".to_owned())),
            "show" => Err(Failure::Failed(format!("{topic:?} {logs:?} {now}"))),
            "panic" => panic!("told to panic"),
            "loop" => loop {
                black_box(0);
            },
            unknown => Err(Failure::Failed(format!("what is `{unknown}`?"))),
        }
    }
}

impl filtering::Guest for Hostile {
    fn keep(
        _: filtering::Topic,
        _: u32,
        batch: Batch,
        offsets: Vec<i64>,
        _: i64,
    ) -> Result<Vec<u64>, filtering::Failure> {
        let mut words = vec![0_u64; offsets.len().div_ceil(64)];
        match ORDER.with_borrow(String::clone).as_str() {
            "erase:fail" => return Err(filtering::Failure::Failed("I cannot".to_owned())),
            "erase:short" => return Ok(Vec::new()),
            "erase:everything" => return Ok(words),
            _ => {}
        }
        let keys = batch.keys.expect("keys were asked for");
        let mut start = 0;
        for (record, end) in keys.ends.iter().enumerate() {
            let erased = keys.data[start..*end as usize].starts_with(b"erase");
            start = *end as usize;
            words[record / 64] |= u64::from(!erased) << (record % 64);
        }
        Ok(words)
    }
}

tidegate_sdk::bindings::base::export_base!(Hostile with_types_in tidegate_sdk::bindings::base);
tidegate_sdk::bindings::retention::export_retention!(Hostile with_types_in tidegate_sdk::bindings::retention);
tidegate_sdk::bindings::filter::export_filter!(Hostile with_types_in tidegate_sdk::bindings::filter);
