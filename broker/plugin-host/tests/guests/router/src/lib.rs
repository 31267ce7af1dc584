//! A router that does whatever its configuration says, however wrong. It goes around the SDK, whose builders would not let it.
#![cfg(target_family = "wasm")]
#![allow(missing_debug_implementations, reason = "a guest of tests")]

use std::{cell::RefCell, hint::black_box};

use tidegate_sdk::{
    bindings::{
        base::{
            exports::tidegate::plugin::lifecycle,
            tidegate::plugin::{
                log::{self, Level},
                metrics::{self, Kind},
                types::{Columns, Facts, Rejection},
            },
        },
        router::{
            exports::tidegate::plugin::routing::{
                self, Answer, Batch, Context, Destinations, Failure, FanOut, Routes, Topic,
            },
            tidegate::plugin::topics,
        },
    },
    glue,
};

thread_local! {
    static ORDER: RefCell<String> = const { RefCell::new(String::new()) };
    static CALLS: RefCell<u32> = const { RefCell::new(0) };
}

struct Hostile;

impl lifecycle::Guest for Hostile {
    fn describe() -> lifecycle::Description {
        lifecycle::Description {
            name: "hostile-router".to_owned(),
            version: "0.0.1".to_owned(),
            summary: "does what it is told".to_owned(),
            example: "keep".to_owned(),
        }
    }

    fn open(config: String) -> Result<lifecycle::Needs, String> {
        glue::report_panics();
        if let Some(order) = config.strip_prefix("open:") {
            misbehave(order);
        }
        if let Some(words) = config.strip_prefix("refuse:") {
            return Err(words.to_owned());
        }
        if config == "many-headers" {
            let headers = (0..1000).map(|index| format!("h{index}")).collect();
            return Ok(lifecycle::Needs { columns: Columns::empty(), facts: Facts::empty(), headers });
        }
        ORDER.set(config.clone());
        for name in ["one", "two", "three"] {
            topics::resolve(name)?;
        }
        Ok(match config.as_str() {
            "show" => lifecycle::Needs {
                columns: Columns::all(),
                facts: Facts::all(),
                headers: vec!["h".to_owned(), "absent".to_owned()],
            },
            "show-nothing" => lifecycle::Needs { columns: Columns::empty(), facts: Facts::empty(), headers: vec![] },
            _ => lifecycle::Needs { columns: Columns::KEYS, facts: Facts::empty(), headers: vec![] },
        })
    }
}

impl routing::Guest for Hostile {
    fn route(topic: Topic, batch: Batch, contexts: Vec<Context>) -> Result<Answer, Failure> {
        let order = ORDER.with_borrow(String::clone);
        let calls = CALLS.with_borrow_mut(|calls| {
            *calls += 1;
            *calls
        });
        if let Some(limit) = order.strip_prefix("good-for:") {
            if calls > limit.parse().expect("a number of calls") {
                panic!("enough is enough");
            }
            return Ok(unchanged());
        }
        if let Some(key) = order.strip_prefix("panic-with:") {
            let keys = batch.keys.as_ref().expect("keys were asked for");
            if String::from_utf8_lossy(&keys.data).contains(key) {
                panic!("{key} is there");
            }
            return Ok(unchanged());
        }
        misbehave(&order);
        let count = batch.count;
        let to = |topics: Vec<u32>| Destinations { topics, partitions: Vec::new() };
        let routes = |routes| Ok(Answer { routes, rejected: Vec::new() });
        let reject = |record, reason: String| {
            Ok(Answer { routes: Routes::Unchanged, rejected: vec![Rejection { record, reason }] })
        };
        match order.as_str() {
            "keep" | "count" => routes(Routes::Unchanged),
            order if order.starts_with("hold:") => routes(Routes::Unchanged),
            "too-few" => routes(Routes::Single(to(vec![1; count as usize - 1]))),
            "unknown-topic" => routes(Routes::Uniform(to(vec![4]))),
            "twice" => routes(Routes::Uniform(to(vec![1, 2, 1]))),
            "ends-back" => routes(Routes::Many(FanOut { ends: (0..count).rev().collect(), to: to(vec![1; 9]) })),
            "ends-beyond" => routes(Routes::Many(FanOut { ends: vec![u32::MAX; count as usize], to: to(vec![1]) })),
            "partitions-short" => routes(Routes::Uniform(Destinations { topics: vec![1, 2], partitions: vec![0] })),
            "answer-bomb" => routes(Routes::Uniform(to(vec![1; 1_000_000]))),
            // The second record of a batch, the fourth and so on to topic `one`; the others nowhere.
            "every-second" => {
                let ends = (0..count).map(|record| record.div_ceil(2)).collect();
                routes(Routes::Many(FanOut { ends, to: to(vec![1; count as usize / 2]) }))
            }
            "scatter" => routes(scatter(&topic, &batch, &contexts)),
            "scatter-sometimes" if calls % 3 == 1 => Err(Failure::Retry("not every time".to_owned())),
            "scatter-sometimes" => routes(scatter(&topic, &batch, &contexts)),
            "reject" => reject(count - 1, "I do not like it".to_owned()),
            "reject-beyond" => reject(count, "there is no such record".to_owned()),
            "long-words" => reject(0, "é".repeat(100_000)),
            "retry" => Err(Failure::Retry("come back later".to_owned())),
            "fail" => Err(Failure::Failed("I cannot".to_owned())),
            "show" | "show-nothing" => Err(Failure::Failed(format!("{topic:?} {batch:?} {contexts:?}"))),
            "log" => {
                log::write(Level::Info, "one line");
                log::write(Level::Warn, &"x".repeat(10_000));
                (0..1000).for_each(|index| log::write(Level::Debug, &format!("line {index}")));
                Ok(unchanged())
            }
            "names" => {
                let refused = topics::resolve("not a topic").expect_err("it has spaces");
                let again = topics::resolve("two").expect("it is known");
                let full = (0..100_000).find_map(|index| topics::resolve(&format!("t{index}")).err());
                Err(Failure::Failed(format!("{refused}; {again}; {}", full.unwrap_or_default())))
            }
            "measure" => {
                let seen = metrics::declare("seen", Kind::Counter, &[]).expect("the first");
                let labelled = metrics::declare("seen", Kind::Counter, &[("a".to_owned(), "b".to_owned())]);
                let level = metrics::declare("level", Kind::Gauge, &[]).expect("the third");
                let size = metrics::declare("size", Kind::Histogram, &[]).expect("the fourth");
                metrics::add(seen, 2);
                metrics::add(seen, 3);
                metrics::add(labelled.expect("the second"), 1);
                metrics::set(level, 0.5);
                for value in [3.0, 4.0, 5.0, 0.0, f64::NAN, f64::INFINITY] {
                    metrics::observe(size, value);
                }
                // Of another kind, and of no kind at all: ignored.
                metrics::add(level, 1);
                metrics::set(999, 1.0);
                let other_kind = metrics::declare("seen", Kind::Gauge, &[]).expect_err("it is a counter");
                let no_name = metrics::declare("not a name", Kind::Gauge, &[]).expect_err("it has spaces");
                let full = (0..1000).find_map(|index| metrics::declare(&format!("m{index}"), Kind::Gauge, &[]).err());
                Err(Failure::Failed(format!("{other_kind}; {no_name}; {}", full.unwrap_or_default())))
            }
            unknown => Err(Failure::Failed(format!("what is `{unknown}`?"))),
        }
    }
}

/// Spreads records whose keys are numbers over three topics, with and without wishes for a partition, by all that a context has: an
/// answer that differs for a retry if anything in the context does.
fn scatter(topic: &Topic, batch: &Batch, contexts: &[Context]) -> Routes {
    let keys = batch.keys.as_ref().expect("keys were asked for");
    let mut out = FanOut { ends: Vec::new(), to: Destinations { topics: Vec::new(), partitions: Vec::new() } };
    let mut start = 0;
    for (record, end) in keys.ends.iter().enumerate() {
        let key = &keys.data[start..*end as usize];
        start = *end as usize;
        let number = key.iter().fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
        let context = contexts.iter().find(|context| record < context.end as usize).expect("of some run");
        let wish = |by: u64| (by % u64::from(topic.partitions)) as u32;
        let any = u32::MAX;
        let to: &[(u32, u32)] = match number % 4 {
            0 => &[(1, any)],
            1 => &[(1, any), (2, wish(context.now as u64))],
            2 => &[(2, any), (3, wish(context.seed))],
            // Two ways to one partition, where the client chose that one.
            _ => &[(1, wish(number)), (3, any)],
        };
        for (topic, partition) in to {
            out.to.topics.push(*topic);
            out.to.partitions.push(*partition);
        }
        out.ends.push(out.to.topics.len() as u32);
    }
    Routes::Many(out)
}

fn misbehave(order: &str) {
    if let Some(mebibytes) = order.strip_prefix("hold:") {
        drop(black_box(vec![1_u8; mebibytes.parse::<usize>().expect("a number") << 20]));
    }
    match order {
        // Longer than five milliseconds on any machine.
        "count" => (0..300_000_000_u64).for_each(|number| {
            black_box(number);
        }),
        "loop" => loop {
            black_box(0);
        },
        "panic" => panic!("told to panic"),
        "abort" => std::process::abort(),
        "memory" => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(black_box(vec![1_u8; 1 << 20]));
            }
        }
        "four-gigabytes" => drop(black_box(vec![1_u8; 0x7fff_0000])),
        "stack" => {
            black_box(deeper(1));
        }
        "fault" => {
            // SAFETY: not at all. The address is beyond the end of memory, which the sandbox has to notice.
            black_box(unsafe { std::ptr::read_volatile(0xffff_0000 as *const u64) });
        }
        _ => {}
    }
}

#[expect(unconditional_recursion, reason = "that is what it is for")]
fn deeper(depth: u64) -> u64 {
    black_box(deeper(black_box(depth + 1))) + depth
}

fn unchanged() -> Answer {
    Answer { routes: Routes::Unchanged, rejected: Vec::new() }
}

tidegate_sdk::bindings::base::export_base!(Hostile with_types_in tidegate_sdk::bindings::base);
tidegate_sdk::bindings::router::export_router!(Hostile with_types_in tidegate_sdk::bindings::router);
