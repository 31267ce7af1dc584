//! Plugins that do not behave. Each ends in the right error, and the broker goes on.

use tidegate_plugin_host::{CallError, Limits, OpenError, Router, TrapKind, WrongAnswer, compile};

use crate::{BY_FUEL, HOSTILE, hostile, patient, route};

fn trapped(limits: &Limits, order: &str) -> (TrapKind, Option<String>, Router) {
    let mut router = Router::open(HOSTILE.compiled(), order, limits).expect("it opens");
    match route(&mut router, &[Some("a"), None]) {
        Err(CallError::Trap(trap)) => (trap.kind, trap.last_words, router),
        other => panic!("`{order}` ended in {other:?}"),
    }
}

#[test]
fn a_trap_is_told_by_its_kind() {
    let check = |order: &str, expected: TrapKind| {
        let (kind, ..) = trapped(&patient(), order);
        assert_eq!(kind, expected, "{order}");
    };
    check("panic", TrapKind::Panic);
    check("abort", TrapKind::Panic);
    check("memory", TrapKind::Memory);
    check("four-gigabytes", TrapKind::Memory);
    check("stack", TrapKind::StackOverflow);
    check("fault", TrapKind::Fault);
}

#[test]
fn an_endless_loop_ends_at_the_deadline() {
    let limits = Limits { call_ticks_max: 3, ..patient() };
    assert_eq!(trapped(&limits, "loop").0, TrapKind::Deadline);
}

#[test]
fn by_fuel_an_endless_loop_ends_without_a_clock() {
    let compiled = compile::compile(&BY_FUEL, HOSTILE.component()).expect("it compiles");
    let mut router = Router::open(&compiled, "loop", &Limits::default()).expect("it opens");
    let Err(CallError::Trap(trap)) = route(&mut router, &[None]) else { panic!("it loops") };
    assert_eq!(trap.kind, TrapKind::Deadline);
    let mut router = Router::open(&compiled, "keep", &Limits::default()).expect("it opens");
    route(&mut router, &[None]).expect("it answers");
}

#[test]
fn the_words_of_a_panic_are_kept() {
    let (_, last_words, mut router) = trapped(&patient(), "panic");
    let words = last_words.expect("the hook of the SDK logs");
    assert!(words.contains("told to panic") && words.contains("lib.rs"), "{words}");
    assert_eq!(router.take_log().lines.len(), 1);
}

#[test]
fn a_backtrace_names_the_functions_of_the_plugin() {
    let mut router = hostile("panic");
    let Err(CallError::Trap(trap)) = route(&mut router, &[None]) else { panic!("it panics") };
    assert!(trap.detail.contains("misbehave"), "{}", trap.detail);
}

#[test]
fn an_instance_is_dead_after_a_trap_and_only_then() {
    let (.., mut router) = trapped(&patient(), "panic");
    assert!(router.is_dead());
    let Err(CallError::Trap(trap)) = route(&mut router, &[None]) else { panic!("it is dead") };
    assert_eq!(trap.kind, TrapKind::Dead);
    let mut router = hostile("fail");
    route(&mut router, &[None]).expect_err("it refuses");
    assert!(!router.is_dead());
    route(&mut router, &[None]).expect_err("it refuses again");
}

#[test]
fn a_plugin_that_was_good_a_million_times_can_trap() {
    let mut router = hostile("good-for:1000000");
    for _ in 0..1_000_000 {
        route(&mut router, &[None]).expect("it answers");
    }
    assert!(matches!(route(&mut router, &[None]), Err(CallError::Trap(trap)) if trap.kind == TrapKind::Panic));
}

#[test]
fn a_wrong_answer_is_told_by_what_is_wrong() {
    let check = |order: &str, expected: WrongAnswer| {
        let mut router = hostile(order);
        match route(&mut router, &[Some("a"), Some("b"), None]) {
            Err(CallError::WrongAnswer(wrong)) => assert_eq!(wrong, expected, "{order}"),
            other => panic!("`{order}` ended in {other:?}"),
        }
        assert!(!router.is_dead(), "{order}");
    };
    check("too-few", WrongAnswer::Count { found: 2, wanted: 3 });
    check("unknown-topic", WrongAnswer::Topic { number: 4, known: 4 });
    check("twice", WrongAnswer::Twice { record: 0 });
    check("ends-back", WrongAnswer::Twice { record: 0 });
    check("ends-beyond", WrongAnswer::Ends { record: 0, end: u32::MAX, destinations: 1 });
    check("partitions-short", WrongAnswer::Partitions { partitions: 1, topics: 2 });
    check("answer-bomb", WrongAnswer::TooMany { record: 0, destinations: 1_000_000, max: 100 });
    check("reject-beyond", WrongAnswer::Rejection { record: 3, count: 3 });
}

#[test]
fn an_answer_has_a_largest_size() {
    let limits = Limits { answer_bytes_max: 1 << 20, ..patient() };
    assert_eq!(trapped(&limits, "answer-bomb").0, TrapKind::Output);
}

#[test]
fn a_reason_is_cut() {
    let answer = route(&mut hostile("long-words"), &[None]).expect("it answers");
    assert_eq!(answer.rejected[0].reason, format!("{} [cut]", "é".repeat(1024)));
}

#[test]
fn a_refusal_and_a_retry_are_told_apart() {
    let error = route(&mut hostile("fail"), &[None]).expect_err("it refuses");
    assert!(matches!(error, CallError::Refused { message } if message == "I cannot"));
    let error = route(&mut hostile("retry"), &[None]).expect_err("it asks for a retry");
    assert!(matches!(error, CallError::Retry { message } if message == "come back later"));
}

#[test]
fn what_goes_wrong_in_open_is_told() {
    let check = |order: &str, limits: &Limits, expected: TrapKind| match Router::open(HOSTILE.compiled(), order, limits)
    {
        Err(OpenError::Trap(trap)) => assert_eq!(trap.kind, expected, "{order}"),
        other => panic!("`{order}` ended in {other:?}"),
    };
    check("open:panic", &patient(), TrapKind::Panic);
    check("open:memory", &patient(), TrapKind::Memory);
    check("open:stack", &patient(), TrapKind::StackOverflow);
    check("open:loop", &Limits { open_ticks_max: 3, ..patient() }, TrapKind::Deadline);
    let error = Router::open(HOSTILE.compiled(), "refuse:not today", &patient()).expect_err("it refuses");
    assert_eq!(error.to_string(), "not today");
    let error = Router::open(HOSTILE.compiled(), "many-headers", &patient()).expect_err("it asks for too much");
    assert_eq!(error.to_string(), "the plugin cannot be used: it asks for 1000 headers, 64 are allowed");
}

/// A plugin that needs more memory than it may have before its first instruction.
#[test]
fn a_memory_limit_below_what_the_plugin_begins_with_is_told() {
    let limits = Limits { memory_bytes_max: 1 << 16, ..patient() };
    match Router::open(HOSTILE.compiled(), "keep", &limits) {
        Err(OpenError::Trap(trap)) => assert_eq!(trap.kind, TrapKind::Memory),
        other => panic!("{other:?}"),
    }
}

/// The pool has room for a hundred: an instance that was dropped, trapped or not, leaves its place.
#[test]
fn replacing_trapped_instances_leaks_nothing() {
    for _ in 0..1000 {
        let (.., router) = trapped(&patient(), "panic");
        drop(router);
        Router::open(HOSTILE.compiled(), "open:panic", &patient()).expect_err("it panics");
        hostile("keep");
    }
}
