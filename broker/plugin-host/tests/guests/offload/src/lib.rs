//! A policy that offloads what its configuration says, however wrong. It goes around the SDK, whose builders would not let it.
#![cfg(target_family = "wasm")]
#![allow(missing_debug_implementations, reason = "a guest of tests")]

use std::cell::RefCell;

use tidegate_sdk::{
    bindings::{
        base::{
            exports::tidegate::plugin::lifecycle,
            tidegate::plugin::types::{Columns, Facts},
        },
        offload::exports::tidegate::plugin::offloading::{self, Failure, PartitionLog, Topic},
        retention::exports::tidegate::plugin::retaining::{self, Answer, Verdict},
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
            name: "hostile-offload".to_owned(),
            version: "0.0.1".to_owned(),
            summary: "offloads what it is told".to_owned(),
            example: "all".to_owned(),
        }
    }

    fn open(config: String) -> Result<lifecycle::Needs, String> {
        glue::report_panics();
        ORDER.set(config);
        Ok(lifecycle::Needs { columns: Columns::empty(), facts: Facts::empty(), headers: Vec::new() })
    }
}

impl retaining::Guest for Hostile {
    fn evaluate(_: retaining::Topic, logs: Vec<retaining::PartitionLog>, _: i64) -> Result<Answer, retaining::Failure> {
        let verdicts = logs.iter().map(|_| Verdict { delete_before: -1, rewrite: Vec::new() }).collect();
        Ok(Answer { verdicts, again_in_ms: 1 })
    }
}

impl offloading::Guest for Hostile {
    fn offload(topic: Topic, logs: Vec<PartitionLog>, now: i64) -> Result<Vec<Vec<u32>>, Failure> {
        let all = |log: &PartitionLog| (0..log.segments.len() as u32).collect();
        match ORDER.with_borrow(String::clone).as_str() {
            "all" => Ok(logs.iter().map(all).collect()),
            "beyond" => Ok(logs.iter().map(|log| vec![log.segments.len() as u32]).collect()),
            "too-few" => Ok(Vec::new()),
            "fail" => Err(Failure::Failed("I cannot".to_owned())),
            "show" => Err(Failure::Failed(format!("{topic:?} {logs:?} {now}"))),
            "panic" => panic!("told to panic"),
            unknown => Err(Failure::Failed(format!("what is `{unknown}`?"))),
        }
    }
}

tidegate_sdk::bindings::base::export_base!(Hostile with_types_in tidegate_sdk::bindings::base);
tidegate_sdk::bindings::retention::export_retention!(Hostile with_types_in tidegate_sdk::bindings::retention);
tidegate_sdk::bindings::offload::export_offload!(Hostile with_types_in tidegate_sdk::bindings::offload);
