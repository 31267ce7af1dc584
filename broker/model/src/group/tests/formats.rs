//! The records are Kafka's: the bytes below came from the serializers of Apache Kafka 4.3.

use proptest::prelude::*;
use tidegate_records::ids::{LeaderEpoch, TopicId};

use super::*;

const ID: TopicId = TopicId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
const TIME: Timestamp = Timestamp(1_700_000_000_000);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.bytes().map(|digit| (digit as char).to_digit(16).expect("hex") as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// The record is written as Kafka writes it, and read back.
fn check(record: &GroupRecord, key: &str, value: Option<&str>) {
    let (our_key, our_value) = record.encode();
    assert_eq!(hex(&our_key), key, "key of {record:?}");
    assert_eq!(our_value.as_deref().map(hex).as_deref(), value, "value of {record:?}");
    reads(key, value, record);
}

fn reads(key: &str, value: Option<&str>, record: &GroupRecord) {
    assert_eq!(GroupRecord::decode(unhex(key), value.map(unhex)), Ok(Some(record.clone())));
}

fn offset(value: OffsetCommitValue) -> GroupRecord {
    GroupRecord::OffsetCommit { group: text("g"), topic: text("t"), partition: 7, value: Some(value) }
}

fn offset_value() -> OffsetCommitValue {
    OffsetCommitValue {
        offset: Offset(42),
        leader_epoch: LeaderEpoch(3),
        metadata: text("note"),
        commit_timestamp: TIME,
        expire_timestamp: None,
        topic_id: TopicId::ZERO,
    }
}

#[test]
fn offsets_are_written_as_kafka_writes_them() {
    let key = "000100016700017400000007";
    check(&offset(offset_value()), key, Some("0003000000000000002a0000000300046e6f74650000018bcfe56800"));
    check(
        &offset(OffsetCommitValue { topic_id: ID, ..offset_value() }),
        key,
        Some("0004000000000000002a00000003056e6f74650000018bcfe568000100100102030405060708090a0b0c0d0e0f10"),
    );
    let expiring = OffsetCommitValue {
        leader_epoch: LeaderEpoch(-1),
        expire_timestamp: Some(Timestamp(TIME.0 + 1000)),
        ..offset_value()
    };
    check(&offset(expiring), key, Some("0001000000000000002a00046e6f74650000018bcfe568000000018bcfe56be8"));
    let tombstone = GroupRecord::OffsetCommit { group: text("g"), topic: text("t"), partition: 7, value: None };
    check(&tombstone, key, None);
    // The key's type before Kafka 0.9, still read.
    reads("000000016700017400000007", None, &tombstone);
}

#[test]
fn classic_groups_are_written_as_kafka_writes_them() {
    let member =
        |id: &str, instance: Option<&str>, subscription: &'static [u8], assignment: &'static [u8]| ClassicMemberValue {
            member_id: text(id),
            group_instance_id: instance.map(text),
            client_id: text("c"),
            client_host: text("/127.0.0.1"),
            rebalance_timeout_ms: 60_000,
            session_timeout_ms: 10_000,
            subscription: Bytes::from_static(subscription),
            assignment: Bytes::from_static(assignment),
        };
    let group = |value| GroupRecord::ClassicGroup { group: text("g"), value: Some(value) };
    let stable = group(ClassicGroupValue {
        protocol_type: text("consumer"),
        generation: 2,
        protocol: Some(text("range")),
        leader: Some(text("m")),
        current_state_timestamp: Some(TIME),
        members: vec![member("m", Some("i"), &[1, 2], &[3]), member("n", None, &[], &[])],
    });
    check(
        &stable,
        "0002000167",
        Some(
            "00030008636f6e73756d657200000002000572616e676500016d0000018bcfe568000000000200016d000169000163000a2f3132372e302e\
             302e310000ea6000002710000000020102000000010300016effff000163000a2f3132372e302e302e310000ea60000027100000000000000000",
        ),
    );
    // Version 4 is not written by anyone yet, but Kafka promises to read it (KIP-915).
    reads(
        "0002000167",
        Some(
            "000409636f6e73756d6572000000020672616e6765026d0000018bcfe5680003026d026902630b2f3132372e302e302e310000ea60000027\
             10030102020300026e0002630b2f3132372e302e302e310000ea600000271001010000",
        ),
        &stable,
    );
    let empty = group(ClassicGroupValue {
        protocol_type: text(""),
        generation: 0,
        protocol: None,
        leader: None,
        current_state_timestamp: Some(TIME),
        members: Vec::new(),
    });
    check(&empty, "0002000167", Some("0003000000000000ffffffff0000018bcfe5680000000000"));
    // Version 0, as Kafka 0.9 wrote it: no rebalance timeout, no state timestamp, no instance id.
    reads(
        "0002000167",
        Some("00000008636f6e73756d657200000002ffffffff0000000100016d0001630001680000271000000001010000000102"),
        &group(ClassicGroupValue {
            protocol_type: text("consumer"),
            generation: 2,
            protocol: None,
            leader: None,
            current_state_timestamp: None,
            members: vec![ClassicMemberValue {
                client_host: text("h"),
                rebalance_timeout_ms: -1,
                ..member("m", None, &[1], &[2])
            }],
        }),
    );
}

#[test]
fn consumer_groups_are_written_as_kafka_writes_them() {
    let group = text("g");
    let member = text("m");
    let member_key = "00016700016d";
    let epoch = |metadata_hash| GroupRecord::ConsumerGroup {
        group: text("g"),
        value: Some(ConsumerGroupValue { epoch: 5, metadata_hash }),
    };
    check(&epoch(0x1122_3344_5566_7788), "0003000167", Some("0000000000050100081122334455667788"));
    check(&epoch(0), "0003000167", Some("00000000000500"));
    check(&GroupRecord::ConsumerGroupPartitions { group: group.clone(), present: false }, "0004000167", None);
    let value = ConsumerMemberValue {
        instance_id: Some(text("i")),
        rack_id: None,
        client_id: text("c"),
        client_host: text("/127.0.0.1"),
        subscribed_topic_names: vec![text("a"), text("b")],
        subscribed_topic_regex: Some(text("t.*")),
        rebalance_timeout_ms: 300_000,
        server_assignor: Some(text("uniform")),
        classic: None,
    };
    let record = |value| GroupRecord::ConsumerMember { group: text("g"), member: text("m"), value: Some(value) };
    check(
        &record(value.clone()),
        &format!("0005{member_key}"),
        Some("000002690002630b2f3132372e302e302e31030261026204742e2a000493e008756e69666f726d00"),
    );
    let classic = ClassicMemberMetadata {
        session_timeout_ms: 10_000,
        supported_protocols: vec![(text("range"), Bytes::from_static(&[1, 2]))],
    };
    check(
        &record(ConsumerMemberValue { instance_id: None, classic: Some(classic), ..value }),
        &format!("0005{member_key}"),
        Some(
            "0000000002630b2f3132372e302e302e31030261026204742e2a000493e008756e69666f726d0100110100002710020672616e67650301\
             020000",
        ),
    );
    check(
        &GroupRecord::TargetAssignmentEpoch {
            group: group.clone(),
            value: Some(TargetAssignmentEpochValue { epoch: 5, timestamp: TIME }),
        },
        "0006000167",
        Some("0000000000050100080000018bcfe56800"),
    );
    let topic = |partitions: &[i32], epochs: Option<&[i32]>| AssignedTopic {
        id: ID,
        partitions: partitions.to_vec(),
        epochs: epochs.map(<[i32]>::to_vec),
    };
    check(
        &GroupRecord::TargetAssignment {
            group: group.clone(),
            member: member.clone(),
            value: Some(vec![topic(&[0, 1, 2], None)]),
        },
        &format!("0007{member_key}"),
        Some("0000020102030405060708090a0b0c0d0e0f10040000000000000001000000020000"),
    );
    check(
        &GroupRecord::CurrentAssignment {
            group: group.clone(),
            member,
            value: Some(CurrentAssignmentValue {
                member_epoch: 5,
                previous_member_epoch: 4,
                state: 1,
                assigned: vec![topic(&[0, 1], Some(&[3, 5]))],
                pending_revocation: vec![topic(&[2], None)],
            }),
        },
        &format!("0008{member_key}"),
        Some(
            "0000000000050000000401020102030405060708090a0b0c0d0e0f1003000000000000000101000903000000030000000502010203040506\
             0708090a0b0c0d0e0f1002000000020000",
        ),
    );
    check(
        &GroupRecord::Regex {
            group,
            regex: text("t.*"),
            value: Some(RegexValue { topics: vec![text("t1"), text("t2")], version: 9, timestamp: TIME }),
        },
        "00100001670003742e2a",
        Some("00000303743103743200000000000000090000018bcfe5680000"),
    );
}

#[test]
fn records_of_other_kinds_are_left_alone() {
    // A share group's epoch.
    assert_eq!(GroupRecord::decode(unhex("000b000167"), Some(unhex("00000000000500"))), Ok(None));
}

#[test]
fn bytes_that_are_not_a_record_are_an_error() {
    let key = || unhex("000100016700017400000007");
    let check = |value: &str, expected| {
        assert_eq!(GroupRecord::decode(key(), Some(unhex(value))), Err(expected), "{value}");
    };
    check("", WireError::Truncated);
    check("0005", WireError::UnknownVersion(5));
    check("ffff", WireError::UnknownVersion(-1));
    check("0003000000000000002a0000000300046e6f", WireError::BadLength);
    check("0003000000000000002a00000003ffff0000018bcfe56800", WireError::UnexpectedNull);
    check("0003000000000000002a00000003fffe0000018bcfe56800", WireError::BadLength);
    check("0003000000000000002a000000030002c3280000018bcfe56800", WireError::NotUtf8);
    check("0004000000000000002a00000003ffffffffff0f", WireError::BadLength);
}

proptest! {
    #[test]
    fn no_bytes_panic_and_what_is_read_is_written_alike(
        key_type in 0i16..18,
        key in proptest::collection::vec(any::<u8>(), 0..40),
        version in 0i16..6,
        value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..80)),
    ) {
        let key = [&key_type.to_be_bytes()[..], &key].concat();
        let value = value.map(|value| [&version.to_be_bytes()[..], &value].concat());
        if let Ok(Some(record)) = GroupRecord::decode(key.into(), value.map(Bytes::from)) {
            let (key, value) = record.encode();
            if !matches!(record, GroupRecord::ConsumerGroupPartitions { .. }) {
                // Old versions may lack a field that the new one has, so the second reading is compared with the third.
                let again = GroupRecord::decode(key, value).expect("our own").expect("known");
                let (key, value) = again.encode();
                prop_assert_eq!(GroupRecord::decode(key, value), Ok(Some(again)));
            }
        }
    }

    #[test]
    fn every_truncation_of_a_group_is_an_error(cut in 0usize..90) {
        let value = unhex(
            "00030008636f6e73756d657200000002000572616e676500016d0000018bcfe568000000000100016d000169000163000a2f3132372e302e\
             302e310000ea60000027100000000201020000000103",
        );
        let cut = value.slice(..cut.min(value.len() - 1));
        prop_assert!(GroupRecord::decode(unhex("0002000167"), Some(cut)).is_err());
    }
}
