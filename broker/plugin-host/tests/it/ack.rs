//! Acknowledgement hooks: every decision arrives, and what is nonsense is noticed.

use tidegate_plugin_host::{
    AckHook, CallError, OpenError, Rejection, TrapKind, WrongAnswer,
    ack::{Acks, Arrival, Copies, Decision, Decisions, Refusal, RefusalReason, Replica},
};

use super::{HOSTILE, HOSTILE_ACK, TOPIC, context, keyed, patient};

const ARRIVAL: Arrival<'static> = Arrival {
    partition: 3,
    bytes: 99,
    acks: Acks::Leader,
    min_in_sync: 2,
    replicas: &[
        Replica { broker: 1, rack: Some("r1"), in_sync: true, behind: 0 },
        Replica { broker: 2, rack: None, in_sync: false, behind: 17 },
    ],
};

fn opened(order: &str) -> AckHook {
    AckHook::open(HOSTILE_ACK.compiled(), order, &patient()).expect("it opens")
}

fn decide(order: &str) -> Result<Decisions, CallError> {
    let mut hook = opened(order);
    let mut columns = keyed(&[Some("a"), None, Some("b")]);
    columns.headers = vec![columns.keys.clone().expect("keys")];
    hook.decide(&TOPIC, &columns, &[context(3)], &[ARRIVAL])
}

#[test]
fn every_decision_arrives() {
    let decided = |order: &str| {
        let Decisions { mut decisions, rejected } = decide(order).expect("it answers");
        assert!(rejected.is_empty());
        decisions.pop().expect("one for each arrival")
    };
    assert_eq!(decided("as-asked"), Decision::AsAsked);
    assert_eq!(decided("appended"), Decision::Appended);
    assert_eq!(decided("leader-durable"), Decision::LeaderDurable);
    assert_eq!(decided("min-in-sync"), Decision::MinInSync);
    assert_eq!(decided("all-in-sync"), Decision::AllInSync);
    let copies = Copies { count: 1, racks: 1, brokers: vec![1], within_ms: 0 };
    assert_eq!(decided("until-here"), Decision::Until(copies));
    for (order, reason) in [
        ("refuse:invalid-record", RefusalReason::InvalidRecord),
        ("refuse:policy-violation", RefusalReason::PolicyViolation),
        ("refuse:topic-authorization-failed", RefusalReason::TopicAuthorizationFailed),
        ("refuse:message-too-large", RefusalReason::MessageTooLarge),
        ("refuse:throttled", RefusalReason::Throttled),
        ("refuse:not-enough-replicas", RefusalReason::NotEnoughReplicas),
    ] {
        assert_eq!(decided(order), Decision::Refuse(Refusal { reason, message: "I say no".to_owned() }));
    }
    let rejected = decide("reject:last").expect("it answers").rejected;
    assert_eq!(rejected, [Rejection { record: 2, reason: "not number 2".to_owned() }]);
}

#[test]
fn it_sees_the_batch_and_its_replicas() {
    let Err(CallError::Refused { message }) = decide("show") else { panic!("it says what it saw") };
    for part in [
        "name: \"orders\"",
        "partition: 3",
        "bytes: 99",
        "min-in-sync: 2",
        "Acks::Leader",
        "broker: 2",
        "rack: Some(\"r1\")",
        "in-sync: false",
        "behind: 17",
        "client-id: Some(\"shop\")",
        // It did not ask for it.
        "principal: None",
    ] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
}

#[test]
fn what_it_may_ask_for_is_said_when_it_is_opened() {
    assert_eq!(opened("as-asked").strongest(), None);
    let two = Copies { count: 2, racks: 1, brokers: Vec::new(), within_ms: 0 };
    assert_eq!(opened("until-two").strongest(), Some(&two));
    for order in ["beyond-strongest", "unannounced"] {
        let error = decide(order).expect_err("it asks for more than it said");
        assert!(matches!(error, CallError::WrongAnswer(WrongAnswer::BeyondStrongest { arrival: 0 })), "{error}");
    }
}

#[test]
fn nonsense_and_traps_are_noticed() {
    let wrong = |order: &str| match decide(order) {
        Err(CallError::WrongAnswer(wrong)) => wrong,
        other => panic!("{order}: {other:?}"),
    };
    assert_eq!(wrong("too-few"), WrongAnswer::Decisions { found: 0, wanted: 1 });
    assert_eq!(wrong("reject-beyond"), WrongAnswer::Rejection { record: 3, count: 3 });
    assert!(matches!(decide("retry"), Err(CallError::Retry { message }) if message == "come back later"));
    assert!(matches!(decide("fail"), Err(CallError::Refused { message }) if message == "I cannot"));
    assert!(matches!(decide("panic"), Err(CallError::Trap(trap)) if trap.kind == TrapKind::Panic));
    for order in ["open:panic", "strongest:panic"] {
        let error = AckHook::open(HOSTILE_ACK.compiled(), order, &patient()).expect_err("it panics");
        assert!(matches!(&error, OpenError::Trap(trap) if trap.kind == TrapKind::Panic), "{error}");
    }
    let error = AckHook::open(HOSTILE.compiled(), "keep", &patient()).expect_err("it is a router");
    assert_eq!(error.to_string(), "the plugin is of the world `router`, not `ack`");
}
