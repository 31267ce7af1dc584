//! Retention policies and their filters: what they see, what they say, and that nonsense is noticed.

use tidegate_plugin_host::{
    CallError, Filter, Retention, TrapKind, WrongAnswer,
    retention::{PartitionLog, Reader, Retained, Segment, Verdict},
};

use super::{HOSTILE_RETENTION, TOPIC, keyed, patient};

fn logs() -> Vec<PartitionLog> {
    let segment = |base_offset, next_offset| Segment { base_offset, next_offset, max_timestamp: 1234, bytes: 5678 };
    let reader = |group: &str, committed| Reader { group: group.to_owned(), committed, idle_ms: 9 };
    let log = |partition, segments, readers| PartitionLog {
        partition,
        start_offset: 10,
        high_watermark: 40,
        segments,
        readers,
    };
    vec![
        log(0, vec![segment(10, 20), segment(20, 30)], vec![reader("billing", 33), reader("audit", 21)]),
        log(4, Vec::new(), Vec::new()),
    ]
}

fn evaluate(order: &str) -> Result<Retained, CallError> {
    let mut policy = Retention::open(HOSTILE_RETENTION.compiled(), order, &patient()).expect("it opens");
    assert!(policy.filters());
    policy.evaluate(&TOPIC, &logs(), 1_700_000_000_000)
}

fn keep(order: &str) -> Result<Vec<u64>, CallError> {
    let mut filter = Filter::open(HOSTILE_RETENTION.compiled(), order, &patient()).expect("it opens");
    let mut columns = keyed(&[Some("a"), Some("erase me"), None]);
    columns.offsets = Some(vec![10, 12, 13]);
    filter.keep(&TOPIC, 4, &columns, 1_700_000_000_000)
}

#[test]
fn it_sees_segments_and_readers_and_says_what_becomes_of_them() {
    let Err(CallError::Refused { message }) = evaluate("show") else { panic!("it says what it saw") };
    for part in [
        "name: \"orders\"",
        "partition: 4",
        "base-offset: 20",
        "next-offset: 30",
        "max-timestamp: 1234",
        "bytes: 5678",
        "group: \"billing\"",
        "committed: 21",
        "idle-ms: 9",
        "high-watermark: 40",
        "1700000000000",
    ] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let before = |order: &str| {
        let verdicts = evaluate(order).expect("it answers").verdicts;
        verdicts.into_iter().map(|verdict| verdict.delete_before).collect::<Vec<_>>()
    };
    assert_eq!(before("consumed"), [21, -1]);
    assert_eq!(before("delete-everything"), [i64::MAX; 2]);
    let erase = evaluate("erase").expect("it answers");
    assert_eq!(erase.verdicts[0], Verdict { delete_before: -1, rewrite: vec![0, 1] });
    assert_eq!(erase.again_in_ms, 1);
}

#[test]
fn a_filter_says_which_records_are_kept() {
    assert_eq!(keep("erase").expect("it answers"), [0b101]);
    let wrong = keep("erase:short").expect_err("a word is missing");
    assert!(matches!(wrong, CallError::WrongAnswer(WrongAnswer::Kept { found: 0, count: 3, wanted: 1 })), "{wrong}");
    assert!(matches!(keep("erase:fail"), Err(CallError::Refused { message }) if message == "I cannot"));
}

#[test]
fn nonsense_and_traps_are_noticed() {
    let wrong = |order: &str| match evaluate(order) {
        Err(CallError::WrongAnswer(wrong)) => wrong,
        other => panic!("{order}: {other:?}"),
    };
    assert_eq!(wrong("too-few"), WrongAnswer::Verdicts { found: 0, wanted: 2 });
    assert_eq!(wrong("rewrite-beyond"), WrongAnswer::Segment { partition: 0, segment: 2, segments: 2 });
    assert!(matches!(evaluate("retry"), Err(CallError::Retry { .. })));
    assert!(matches!(evaluate("panic"), Err(CallError::Trap(trap)) if trap.kind == TrapKind::Panic));
}
