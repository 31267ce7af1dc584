use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;

use super::*;

fn topic(name: &str) -> TopicName {
    TopicName::Name(name.into())
}

fn fetched(name: &str, partition: i32, offset: i64) -> Fetched {
    let parameters = FetchParameters {
        fetch_offset: Offset(offset),
        bytes_max: 1000,
        current_leader_epoch: LeaderEpoch(-1),
        last_fetched_epoch: LeaderEpoch(-1),
    };
    Fetched { topic: topic(name), partition: PartitionIndex(partition), parameters }
}

fn found(high_watermark: i64, content: FoundContent) -> Found {
    Found { high_watermark: Offset(high_watermark), log_start_offset: Offset(0), content }
}

fn nothing(high_watermark: i64) -> Found {
    found(high_watermark, FoundContent::Nothing)
}

struct Rig {
    sessions: FetchSessions,
    now: Instant,
}

impl Rig {
    fn new(slots: usize) -> Self {
        Self { sessions: FetchSessions::new(slots, SessionIds::of_shard(1, 3), 7), now: Instant(0) }
    }

    fn begin(
        &mut self,
        session_id: i32,
        epoch: i32,
        partitions: &[Fetched],
        forgotten: &[(&str, i32)],
    ) -> Result<(FetchContext, Vec<Fetched>), FetchSessionError> {
        let forgotten = forgotten.iter().map(|(name, partition)| (topic(name), PartitionIndex(*partition))).collect();
        let partitions = partitions.to_vec();
        let request = FetchRequest { session_id, epoch, uses_topic_ids: false, partitions, forgotten };
        self.sessions.begin(self.now, request)
    }

    fn end(&mut self, begun: (FetchContext, Vec<Fetched>), found: &[Found]) -> Result<Answer, FetchSessionError> {
        self.sessions.end(self.now, begun.0, &begun.1, found)
    }

    /// A full request for partitions of which nothing is found; returns the session.
    fn open(&mut self, partitions: &[Fetched]) -> i32 {
        let begun = self.begin(0, 0, partitions, &[]).unwrap();
        let all: Vec<Found> = partitions.iter().map(|_| nothing(5)).collect();
        self.end(begun, &all).unwrap().session_id
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now = self.now + Duration::from_millis(milliseconds);
    }
}

#[test]
fn an_answer_carries_only_what_changed() {
    let mut rig = Rig::new(10);
    let id = rig.open(&[fetched("a", 0, 5), fetched("a", 1, 5), fetched("b", 0, 5)]);
    assert!(id > 0);
    let begun = rig.begin(id, 1, &[], &[]).unwrap();
    assert_eq!(begun.1, [fetched("a", 0, 5), fetched("a", 1, 5), fetched("b", 0, 5)], "what it named before");
    let answer = rig.end(begun, &[nothing(5), found(9, FoundContent::Records), nothing(6)]).unwrap();
    assert_eq!(answer, Answer { session_id: id, carries: vec![false, true, true] });
    // What had records is last now, with the offset that the client sends for it.
    let begun = rig.begin(id, 2, &[fetched("a", 1, 9)], &[]).unwrap();
    assert_eq!(begun.1, [fetched("a", 0, 5), fetched("b", 0, 5), fetched("a", 1, 9)]);
    assert_eq!(rig.end(begun, &[nothing(5), nothing(6), nothing(9)]).unwrap().carries, [false; 3]);
}

#[test]
fn an_error_is_told_each_time_and_its_end_too() {
    let mut rig = Rig::new(10);
    let id = rig.open(&[fetched("a", 0, 5)]);
    for (epoch, content, carried) in [
        (1, FoundContent::Error, true),
        (2, FoundContent::Error, true),
        (3, FoundContent::Nothing, true),
        (4, FoundContent::Nothing, false),
        (5, FoundContent::DivergingEpoch, true),
    ] {
        let begun = rig.begin(id, epoch, &[], &[]).unwrap();
        assert_eq!(rig.end(begun, &[found(5, content)]).unwrap().carries, [carried], "{epoch}");
    }
}

#[test]
fn a_log_start_that_moves_is_told() {
    let mut rig = Rig::new(10);
    let id = rig.open(&[fetched("a", 0, 5)]);
    let begun = rig.begin(id, 1, &[], &[]).unwrap();
    let moved = Found { log_start_offset: Offset(3), ..nothing(5) };
    assert_eq!(rig.end(begun, &[moved]).unwrap().carries, [true]);
}

#[test]
fn partitions_are_added_and_forgotten() {
    let mut rig = Rig::new(10);
    let id = rig.open(&[fetched("a", 0, 5), fetched("b", 0, 5)]);
    let (_, now) = rig.begin(id, 1, &[fetched("c", 7, 1)], &[("a", 0), ("never", 0)]).unwrap();
    assert_eq!(now, [fetched("b", 0, 5), fetched("c", 7, 1)]);
    assert_eq!(rig.sessions.counts(), (1, 2));
    // Without partitions there is no session any more.
    let begun = rig.begin(id, 2, &[], &[("b", 0), ("c", 7)]).unwrap();
    assert_eq!(begun, (FetchContext::Sessionless, vec![]));
    assert_eq!(rig.sessions.counts(), (0, 0));
}

#[test]
fn requests_out_of_turn_are_refused() {
    let mut rig = Rig::new(10);
    let id = rig.open(&[fetched("a", 0, 5)]);
    let wrong = |got| Err(FetchSessionError::InvalidSessionEpoch { session_id: id, expected: 1, got });
    assert_eq!(rig.begin(id, 2, &[], &[]), wrong(2));
    assert_eq!(rig.begin(id + 1, 1, &[], &[]), Err(FetchSessionError::SessionIdNotFound { session_id: id + 1 }));
    let by_id = FetchRequest { session_id: id, epoch: 1, uses_topic_ids: true, partitions: vec![], forgotten: vec![] };
    assert_eq!(rig.sessions.begin(rig.now, by_id), Err(FetchSessionError::SessionTopicId { session_id: id }));
    let first = rig.begin(id, 1, &[], &[]).unwrap();
    let second = rig.begin(id, 2, &[], &[]).unwrap();
    let overtaken = Err(FetchSessionError::InvalidSessionEpoch { session_id: id, expected: 3, got: 2 });
    assert_eq!(rig.end(first, &[nothing(5)]), overtaken);
    assert!(rig.end(second, &[nothing(5)]).is_ok());
}

#[test]
fn a_full_request_ends_the_session_that_it_names() {
    let mut rig = Rig::new(10);
    let id = rig.open(&[fetched("a", 0, 5)]);
    let begun = rig.begin(id, -1, &[fetched("a", 0, 5)], &[]).unwrap();
    assert_eq!(rig.end(begun, &[nothing(5)]), Ok(Answer { session_id: 0, carries: vec![true] }));
    assert_eq!(rig.sessions.counts(), (0, 0));
    let id = rig.open(&[fetched("a", 0, 5)]);
    let begun = rig.begin(id, 0, &[fetched("a", 0, 5)], &[]).unwrap();
    let next = rig.end(begun, &[nothing(5)]).unwrap().session_id;
    assert!(next != id && next != 0);
    assert_eq!(rig.sessions.counts(), (1, 1));
}

#[test]
fn a_partition_named_twice_is_one() {
    let mut rig = Rig::new(10);
    let id = rig.open(&[fetched("a", 0, 5), fetched("a", 0, 6)]);
    assert_eq!(rig.begin(id, 1, &[], &[]).unwrap().1, [fetched("a", 0, 6)]);
}

#[test]
fn names_that_no_topic_has_are_not_remembered() {
    let mut rig = Rig::new(10);
    let long = "x".repeat(250);
    assert_eq!(rig.open(&[fetched(&long, 0, 5)]), 0);
    let id = rig.open(&[fetched("a", 0, 5)]);
    let gone = Err(FetchSessionError::SessionIdNotFound { session_id: id });
    assert_eq!(rig.begin(id, 1, &[fetched(&long, 0, 5)], &[]), gone);
    assert_eq!(rig.sessions.counts(), (0, 0));
}

#[test]
fn topics_that_come_and_go_end_the_session_at_last() {
    let mut rig = Rig::new(10);
    let id = rig.open(&[fetched("a", 0, 5)]);
    let ended = (1..).find(|epoch| {
        let (name, last) = (format!("t{epoch}"), format!("t{}", epoch - 1));
        rig.begin(id, *epoch, &[fetched(&name, 0, 5)], &[(&last, 0)]).is_err()
    });
    assert!(ended.is_some_and(|epoch| (1_000..1_010).contains(&epoch)), "{ended:?}");
    assert_eq!(rig.sessions.counts(), (0, 0));
}

#[test]
fn an_epoch_wraps_to_one() {
    assert_eq!((next_epoch(0), next_epoch(i32::MAX)), (1, 1));
}

#[test]
fn room_is_made_for_larger_sessions_and_of_idle_ones() {
    let mut rig = Rig::new(2);
    let small = rig.open(&[fetched("a", 0, 5)]);
    let large = rig.open(&[fetched("a", 0, 5), fetched("a", 1, 5), fetched("a", 2, 5)]);
    assert_eq!(rig.open(&[fetched("b", 0, 5), fetched("b", 1, 5)]), 0, "both are new");
    rig.wait(100_000);
    rig.begin(small, 1, &[], &[]).unwrap();
    rig.begin(large, 1, &[], &[]).unwrap();
    rig.wait(30_000);
    let second = rig.open(&[fetched("b", 0, 5), fetched("b", 1, 5)]);
    assert!(second != 0 && rig.begin(small, 2, &[], &[]).is_err(), "the smaller one went");
    rig.wait(120_001);
    rig.begin(second, 1, &[], &[]).unwrap();
    assert_ne!(rig.open(&[fetched("c", 0, 5)]), 0);
    assert!(rig.begin(large, 2, &[], &[]).is_err(), "the idle one went, large as it was");
    assert_eq!(rig.sessions.counts(), (2, 3));
}

#[test]
fn without_slots_there_are_no_sessions() {
    assert_eq!(Rig::new(0).open(&[fetched("a", 0, 5)]), 0);
}

#[test]
fn shards_share_the_ids_among_them() {
    let shares: Vec<SessionIds> = (0..5).map(|shard| SessionIds::of_shard(shard, 5)).collect();
    for pair in shares.windows(2) {
        assert_eq!(pair[0].first + pair[0].count, pair[1].first);
    }
    assert!(shares[4].first.checked_add(shares[4].count).is_some());
    let mut sessions = FetchSessions::new(100, shares[2], 1);
    let ids: BTreeSet<i32> = (0..100).map(|_| sessions.new_id()).collect();
    assert!(ids.iter().all(|id| (shares[2].first..shares[3].first).contains(id)));
    assert_eq!(ids.len(), 100);
}

#[derive(Clone, Debug)]
enum Step {
    /// Partitions that get records, with how many.
    Produce(u8, i64),
    Fetch {
        add: Option<u8>,
        forget: Option<u8>,
    },
    /// The client's answer got lost: it begins anew.
    Lost,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..6_u8, 1..4_i64).prop_map(|(partition, count)| Step::Produce(partition, count)),
        4 => (prop::option::of(0..6_u8), prop::option::of(0..6_u8)).prop_map(|(add, forget)| Step::Fetch { add, forget }),
        1 => Just(Step::Lost),
    ]
}

proptest! {
    /// A client that believes the session sees every partition's end move, as one without sessions does.
    #[test]
    fn a_client_with_a_session_learns_everything(steps in prop::collection::vec(step(), 1..60)) {
        let mut rig = Rig::new(3);
        let mut ends = [0_i64; 6];
        let mut wanted: BTreeMap<u8, i64> = BTreeMap::from([(0, 0), (1, 0)]);
        let mut known: BTreeMap<u8, i64> = BTreeMap::new();
        let (mut id, mut epoch) = (0, 0);
        for step in steps {
            match step {
                Step::Produce(partition, count) => ends[usize::from(partition)] += count,
                Step::Lost => (id, epoch) = (id, 0),
                Step::Fetch { add, forget } => {
                    let mut changed: BTreeSet<u8> = BTreeSet::new();
                    let forget = forget.filter(|forget| wanted.len() > 1 && wanted.remove(forget).is_some());
                    if let Some(add) = add.filter(|add| Some(*add) != forget) {
                        wanted.entry(add).or_insert(0);
                        changed.insert(add);
                    }
                    known.retain(|partition, _| wanted.contains_key(partition));
                    let named: Vec<Fetched> = wanted
                        .iter()
                        .filter(|(partition, _)| epoch == 0 || changed.contains(partition) || !known.contains_key(partition))
                        .map(|(partition, offset)| fetched("t", i32::from(*partition), *offset))
                        .collect();
                    let forgotten: Vec<(&str, i32)> =
                        forget.filter(|_| epoch != 0).map(|partition| ("t", i32::from(partition))).into_iter().collect();
                    let begun = rig.begin(id, epoch, &named, &forgotten).unwrap();
                    let partitions: BTreeSet<u8> = begun.1.iter().map(|fetched| fetched.partition.0 as u8).collect();
                    prop_assert_eq!(&partitions, &wanted.keys().copied().collect());
                    let all: Vec<Found> = begun.1.iter().map(|fetched| nothing(ends[fetched.partition.0 as usize])).collect();
                    let order = begun.1.clone();
                    let answer = rig.end(begun, &all).unwrap();
                    for ((fetched, carried), found) in order.iter().zip(&answer.carries).zip(&all) {
                        if *carried {
                            known.insert(fetched.partition.0 as u8, found.high_watermark.0);
                        }
                    }
                    for partition in wanted.keys() {
                        prop_assert_eq!(known.get(partition), Some(&ends[usize::from(*partition)]));
                    }
                    id = answer.session_id;
                    epoch = if id == 0 { 0 } else { next_epoch(epoch) };
                }
            }
        }
    }
}
