//! Policies that offload: what they see, what they say, and that nonsense is noticed.

use tidegate_plugin_host::{
    CallError, Offloader, OpenError, Retention, WrongAnswer,
    retention::{OffloadLog, Segment},
};

use super::{HOSTILE_OFFLOAD, HOSTILE_RETENTION, TOPIC, patient};

fn offload(order: &str) -> Result<Vec<Vec<u32>>, CallError> {
    let segment = |base_offset, next_offset| Segment { base_offset, next_offset, max_timestamp: 1234, bytes: 5678 };
    let log = |partition, segments| OffloadLog {
        partition,
        start_offset: 10,
        high_watermark: 40,
        segments,
        active_bytes: 99,
    };
    let logs = [log(0, vec![(segment(10, 20), true), (segment(20, 30), false)]), log(4, Vec::new())];
    let mut policy = Offloader::open(HOSTILE_OFFLOAD.compiled(), order, &patient()).expect("it opens");
    policy.offload(&TOPIC, &logs, 1_700_000_000_000)
}

#[test]
fn it_sees_segments_and_where_they_are_and_says_which_go() {
    let policy = Retention::open(HOSTILE_OFFLOAD.compiled(), "all", &patient()).expect("it opens");
    assert!(policy.offloads() && !policy.filters());
    assert_eq!(offload("all").expect("it answers"), [vec![0, 1], Vec::new()]);
    let Err(CallError::Refused { message }) = offload("show") else { panic!("it says what it saw") };
    for part in ["name: \"orders\"", "partition: 4", "next-offset: 20", "offloaded: true", "active-bytes: 99"] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
}

#[test]
fn nonsense_and_traps_are_noticed() {
    let wrong = |order: &str| match offload(order) {
        Err(CallError::WrongAnswer(wrong)) => wrong,
        other => panic!("{order}: {other:?}"),
    };
    assert_eq!(wrong("too-few"), WrongAnswer::Offloads { found: 0, wanted: 2 });
    assert_eq!(wrong("beyond"), WrongAnswer::Offload { partition: 0, segment: 2, segments: 2 });
    assert!(matches!(offload("panic"), Err(CallError::Trap(_))));
    assert!(matches!(offload("fail"), Err(CallError::Refused { message }) if message == "I cannot"));
}

#[test]
fn a_policy_that_only_deletes_offloads_nothing() {
    let policy = Retention::open(HOSTILE_RETENTION.compiled(), "keep", &patient()).expect("it opens");
    assert!(!policy.offloads());
    let refused = Offloader::open(HOSTILE_RETENTION.compiled(), "keep", &patient());
    assert!(matches!(refused, Err(OpenError::Unusable { .. })));
}
