//! An acknowledgement hook that answers what its configuration says, however wrong. It goes around the SDK, whose builders would not let it.
#![cfg(target_family = "wasm")]
#![allow(missing_debug_implementations, reason = "a guest of tests")]

use std::{cell::RefCell, hint::black_box};

use tidegate_sdk::{
    bindings::{
        ack::exports::tidegate::plugin::acknowledging::{
            self, Answer, Arrival, Batch, Context, Copies, Decision, Failure, Reason, Refusal, Topic,
        },
        base::{
            exports::tidegate::plugin::lifecycle,
            tidegate::plugin::types::{Columns, Facts, Rejection},
        },
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
            name: "hostile-ack".to_owned(),
            version: "0.0.1".to_owned(),
            summary: "does what it is told".to_owned(),
            example: "as-asked".to_owned(),
        }
    }

    fn open(config: String) -> Result<lifecycle::Needs, String> {
        glue::report_panics();
        if config == "open:panic" {
            panic!("told to panic");
        }
        ORDER.set(config);
        Ok(lifecycle::Needs {
            columns: Columns::KEYS | Columns::VALUES,
            facts: Facts::CLIENT_ID,
            headers: vec!["owner".to_owned()],
        })
    }
}

fn copies(count: u32, racks: u32, brokers: &[i32]) -> Copies {
    Copies { count, racks, brokers: brokers.to_vec(), within_ms: 0 }
}

impl acknowledging::Guest for Hostile {
    fn strongest() -> Option<Copies> {
        let order = ORDER.with_borrow(String::clone);
        match order.as_str() {
            "until-one" | "until-here" => Some(copies(1, 1, &[1])),
            "until-soon" => Some(Copies { within_ms: 1, ..copies(1, 1, &[]) }),
            "until-two" | "beyond-strongest" => Some(copies(2, 1, &[])),
            "two-racks" => Some(copies(1, 2, &[])),
            "broker-seven" => Some(copies(1, 1, &[7])),
            "strongest:panic" => panic!("told to panic"),
            _ => None,
        }
    }

    fn decide(topic: Topic, batch: Batch, contexts: Vec<Context>, arrivals: Vec<Arrival>) -> Result<Answer, Failure> {
        let order = ORDER.with_borrow(String::clone);
        let all = |decision: &dyn Fn() -> Decision| {
            Ok(Answer { decisions: arrivals.iter().map(|_| decision()).collect(), rejected: Vec::new() })
        };
        let refuse = |reason: Reason| all(&|| Decision::Refuse(Refusal { reason, message: "I say no".to_owned() }));
        let reject = |records: &[u32]| {
            let rejected =
                records.iter().map(|record| Rejection { record: *record, reason: format!("not number {record}") });
            Ok(Answer { decisions: vec![Decision::AsAsked; arrivals.len()], rejected: rejected.collect() })
        };
        match order.as_str() {
            "as-asked" => all(&|| Decision::AsAsked),
            "appended" => all(&|| Decision::Appended),
            "leader-durable" => all(&|| Decision::LeaderDurable),
            "min-in-sync" => all(&|| Decision::MinInSync),
            "all-in-sync" => all(&|| Decision::AllInSync),
            "until-one" => all(&|| Decision::Until(copies(1, 0, &[]))),
            "until-here" => all(&|| Decision::Until(copies(1, 1, &[1]))),
            "until-soon" => all(&|| Decision::Until(Copies { within_ms: 1, ..copies(1, 1, &[]) })),
            "beyond-strongest" => all(&|| Decision::Until(copies(3, 1, &[]))),
            "unannounced" => all(&|| Decision::Until(copies(1, 1, &[]))),
            "refuse:invalid-record" => refuse(Reason::InvalidRecord),
            "refuse:policy-violation" => refuse(Reason::PolicyViolation),
            "refuse:topic-authorization-failed" => refuse(Reason::TopicAuthorizationFailed),
            "refuse:message-too-large" => refuse(Reason::MessageTooLarge),
            "refuse:throttled" => refuse(Reason::Throttled),
            "refuse:not-enough-replicas" => refuse(Reason::NotEnoughReplicas),
            "reject:last" => reject(&[batch.count - 1]),
            "reject-beyond" => reject(&[batch.count]),
            // Those with an odd number as their value.
            "reject:odd" => {
                let values = batch.values.as_ref().expect("values were asked for");
                let odd = |record: &u32| {
                    let end = values.ends[*record as usize] as usize;
                    end > 0 && values.data[end - 1] % 2 == 1
                };
                reject(&(0..batch.count).filter(odd).collect::<Vec<_>>())
            }
            "too-few" => Ok(Answer { decisions: Vec::new(), rejected: Vec::new() }),
            "retry" => Err(Failure::Retry("come back later".to_owned())),
            "fail" => Err(Failure::Failed("I cannot".to_owned())),
            "show" => Err(Failure::Failed(format!("{topic:?} {} {contexts:?} {arrivals:?}", batch.count))),
            "panic" => panic!("told to panic"),
            "loop" => loop {
                black_box(0);
            },
            unknown => Err(Failure::Failed(format!("what is `{unknown}`?"))),
        }
    }
}

tidegate_sdk::bindings::base::export_base!(Hostile with_types_in tidegate_sdk::bindings::base);
tidegate_sdk::bindings::ack::export_ack!(Hostile with_types_in tidegate_sdk::bindings::ack);
