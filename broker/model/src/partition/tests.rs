use proptest::prelude::*;
use tidegate_records::{
    batch::{Attributes, BatchHeader},
    ids::*,
    time::Timestamp,
};

use super::{producers::*, *};

fn header(producer: i64, epoch: i16, sequence: i32, records: i32) -> BatchHeader {
    BatchHeader {
        base_offset: Offset(0),
        batch_length: 100,
        partition_leader_epoch: LeaderEpoch(-1),
        crc: 0,
        attributes: Attributes(0),
        last_offset_delta: records - 1,
        base_timestamp: Timestamp(0),
        max_timestamp: Timestamp(0),
        producer_id: ProducerId(producer),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence: Sequence(sequence),
        records_count: records,
    }
}

fn empty() -> Partition {
    Partition::recovered(Offset(0), Offset(0), Vec::new(), Producers::default())
}

fn append(partition: &mut Partition, header: &BatchHeader) -> Result<Appended, AppendError> {
    partition.append(header, Timestamp(1_000), None)
}

#[test]
fn offsets_are_gapless_and_visible_only_when_durable() {
    let mut partition = empty();
    let first = append(&mut partition, &header(-1, -1, -1, 3)).unwrap();
    assert_eq!(first, Appended::New { base_offset: Offset(0), next_offset: Offset(3) });
    assert_eq!(partition.high_watermark(), Offset(0));
    assert!(!CommitRule::LEADER_DURABLE.holds(&partition, Offset(3)));
    assert!(partition.durable(Offset(3)));
    assert!(CommitRule::ALL_IN_SYNC.holds(&partition, Offset(3)));
    assert_eq!(append(&mut partition, &header(-1, -1, -1, 1)).unwrap().base_offset(), Offset(3));
}

#[test]
fn rules_add_up_and_hold_when_all_of_them_do() {
    let mut partition = empty();
    append(&mut partition, &header(-1, -1, -1, 3)).unwrap();
    let (end, appended, leader, all) =
        (Offset(3), CommitRule::APPENDED, CommitRule::LEADER_DURABLE, CommitRule::ALL_IN_SYNC);
    assert!(appended.holds(&partition, end), "before it is durable");
    assert_eq!((appended.and(leader), leader.and(appended), leader.and(all)), (leader, leader, all));
    assert!(all.and(CommitRule::of_copies(2)).is_all_in_sync());
    for rule in [leader, all, CommitRule::of_copies(1)] {
        assert!(!rule.holds(&partition, end), "{rule:?}");
    }
    partition.durable(end);
    for rule in [appended, leader, all, CommitRule::of_copies(1), appended.and(all)] {
        assert!(rule.holds(&partition, end), "{rule:?}");
    }
    // There is one replica.
    assert!(!CommitRule::of_copies(2).holds(&partition, end));
    assert!(!appended.and(CommitRule::of_copies(2)).holds(&partition, end));
}

#[test]
fn a_retry_gets_the_first_appends_offsets() {
    let mut partition = empty();
    for n in 0..5 {
        append(&mut partition, &header(7, 0, n * 10, 10)).unwrap();
    }
    for n in 0..5 {
        let again = append(&mut partition, &header(7, 0, n * 10, 10)).unwrap();
        assert_eq!(
            again,
            Appended::Duplicate { base_offset: Offset(i64::from(n) * 10), next_offset: Offset(i64::from(n) * 10 + 10) }
        );
    }
    assert_eq!(partition.log_end_offset(), Offset(50));
}

#[test]
fn a_gap_in_sequence_is_refused() {
    let mut partition = empty();
    append(&mut partition, &header(7, 0, 0, 10)).unwrap();
    let error = append(&mut partition, &header(7, 0, 11, 1)).unwrap_err();
    assert!(matches!(error, AppendError::Sequence(SequenceError::OutOfOrderSequence { .. })), "{error}");
}

#[test]
fn an_older_epoch_is_fenced_and_a_newer_one_starts_at_zero() {
    let mut partition = empty();
    append(&mut partition, &header(7, 1, 0, 1)).unwrap();
    let fenced = append(&mut partition, &header(7, 0, 1, 1)).unwrap_err();
    assert!(matches!(fenced, AppendError::Sequence(SequenceError::InvalidProducerEpoch { .. })));
    assert!(append(&mut partition, &header(7, 2, 5, 1)).is_err());
    append(&mut partition, &header(7, 2, 0, 1)).unwrap();
}

#[test]
fn a_derived_producer_may_leave_gaps_but_not_go_back() {
    let mut partition = empty();
    let id = derived_producer_id(ProducerId(7), TopicPartition::new(TopicId([1; 16]), PartitionIndex(0))).0;
    assert!(is_derived(ProducerId(id)));
    append(&mut partition, &header(id, 0, 40, 2)).unwrap();
    append(&mut partition, &header(id, 0, 90, 1)).unwrap();
    assert!(matches!(append(&mut partition, &header(id, 0, 40, 2)).unwrap(), Appended::Duplicate { .. }));
    assert!(append(&mut partition, &header(id, 0, 60, 1)).is_err());
    append(&mut partition, &header(id, 0, i32::MAX - 1, 2)).unwrap_err();
}

#[test]
fn producers_expire_by_the_brokers_clock() {
    let mut partition = empty();
    let mut old = header(7, 0, 0, 1);
    old.max_timestamp = Timestamp(5);
    partition.append(&old, Timestamp(1_000_000), None).unwrap();
    assert_eq!(partition.expire_producers(Timestamp(1_000_100), 1_000), 0);
    assert_eq!(partition.expire_producers(Timestamp(999_000), 1_000), 0, "a clock that jumped back expires nobody");
    assert_eq!(partition.expire_producers(Timestamp(1_001_000), 1_000), 1);
}

#[test]
fn too_few_in_sync_replicas_refuse_acks_all() {
    let mut partition = empty();
    let error = partition.append(&header(-1, -1, -1, 1), Timestamp(0), Some(2)).unwrap_err();
    assert_eq!(error, AppendError::NotEnoughReplicas { in_sync: 1, needed: 2 });
}

#[test]
fn the_slowest_in_sync_follower_holds_the_high_watermark() {
    let mut partition = empty();
    partition.set_in_sync(&[BrokerId(2), BrokerId(3)]);
    append(&mut partition, &header(-1, -1, -1, 10)).unwrap();
    assert!(!partition.durable(Offset(10)));
    assert!(!partition.replica_fetched(BrokerId(2), Offset(10)));
    assert!(partition.replica_fetched(BrokerId(3), Offset(4)));
    assert_eq!(partition.high_watermark(), Offset(4));
    partition.set_in_sync(&[BrokerId(2)]);
    assert_eq!(partition.high_watermark(), Offset(10));
}

#[test]
fn the_end_of_an_epoch_is_the_start_of_the_next() {
    let epochs = [(0, 0), (2, 10), (5, 30)];
    let epochs =
        epochs.map(|(epoch, start)| EpochStart { epoch: LeaderEpoch(epoch), start_offset: Offset(start) }).to_vec();
    let partition = Partition::recovered(Offset(0), Offset(42), epochs, Producers::default());
    let end = |epoch| partition.end_of_epoch(LeaderEpoch(epoch)).map(|(epoch, end)| (epoch.0, end.0));
    assert_eq!(end(5), Some((5, 42)));
    assert_eq!(end(4), Some((2, 30)));
    assert_eq!(end(1), Some((0, 10)));
    assert_eq!(end(-1), None);
    assert_eq!(end(6), None, "a leader does not know the end of what is to come");
    let later = vec![EpochStart { epoch: LeaderEpoch(3), start_offset: Offset(20) }];
    let partition = Partition::recovered(Offset(20), Offset(42), later, Producers::default());
    assert_eq!(partition.end_of_epoch(LeaderEpoch(1)), Some((LeaderEpoch(1), Offset(20))), "older than the log");
}

proptest! {
    #[test]
    fn a_snapshot_is_the_producers(ops in prop::collection::vec((0i64..4, 0i16..2, 1i32..5, 0i64..9), 0..60)) {
        let mut partition = empty();
        let mut next = std::collections::BTreeMap::new();
        for (producer, epoch, records, at) in ops {
            let sequence = next.entry((producer, epoch)).or_insert(0);
            if partition.append(&header(producer, epoch, *sequence, records), Timestamp(at), None).is_ok() {
                *sequence += records;
            }
        }
        let bytes = partition.producers().encode();
        prop_assert_eq!(Producers::decode(&bytes), Some(partition.producers().clone()));
        for cut in 0..bytes.len() {
            prop_assert_eq!(Producers::decode(&bytes[..cut]), None);
        }
    }
}
