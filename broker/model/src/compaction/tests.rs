use proptest::prelude::*;
use tidegate_records::{
    batch::{Attributes, BatchHeader, checksum, stamp},
    build::{BatchBuilder, Producer},
    ids::{LeaderEpoch, ProducerEpoch, Sequence},
};

use super::*;
use crate::topic_config::BrokerDefaults;

const NOW: Timestamp = Timestamp(1_000_000);
const RETENTION: i64 = 500;

fn config(pairs: &[(&str, &str)]) -> TopicConfig {
    let compact = [("cleanup.policy", "compact"), ("delete.retention.ms", "500")];
    let pairs = compact.iter().chain(pairs).map(|(key, value)| ((*key).into(), (*value).into()));
    TopicConfig::resolve(&pairs.collect(), &BrokerDefaults::new()).unwrap()
}

// ---- when ----

/// Ten offsets and 100 bytes each; the last is active. `ages` are of the newest record; the first is ten older.
fn segments(ages: &[i64]) -> Vec<Segment> {
    let last = ages.len() - 1;
    ages.iter()
        .enumerate()
        .map(|(index, age)| Segment {
            base_offset: Offset(index as i64 * 10),
            next_offset: Offset(index as i64 * 10 + 10),
            bytes: 100,
            max_timestamp: Timestamp(NOW.0 - age),
            first_append_time: Timestamp(NOW.0 - age - 10),
            last_append_time: Timestamp(NOW.0 - age),
            sealed: index != last,
        })
        .collect()
}

fn planned(pairs: &[(&str, &str)], committed: i64, cleaned_to: Option<i64>, ages: &[i64]) -> Option<(i64, i64)> {
    let segments = segments(ages);
    let log = Log {
        log_start_offset: Offset(0),
        last_stable_offset: Offset(committed),
        cleaned_to: cleaned_to.map(Offset),
        segments: &segments,
    };
    plan(NOW, &config(pairs), log).map(|plan| (plan.first_dirty.0, plan.up_to.0))
}

#[test]
fn a_log_is_compacted_up_to_its_active_segment() {
    assert_eq!(planned(&[], 40, None, &[9, 9, 9, 9]), Some((0, 30)));
    assert_eq!(planned(&[], 40, None, &[9]), None, "only an active segment");
    assert_eq!(planned(&[("cleanup.policy", "delete")], 40, None, &[9, 9, 9]), None);
    assert_eq!(planned(&[("cleanup.policy", "compact,delete")], 40, None, &[9, 9, 9]), Some((0, 20)));
}

#[test]
fn what_is_not_committed_waits() {
    assert_eq!(planned(&[], 19, None, &[9, 9, 9, 9]), Some((0, 10)));
    assert_eq!(planned(&[], 5, None, &[9, 9, 9, 9]), None);
}

#[test]
fn little_dirt_waits_until_it_is_overdue() {
    // One of three sealed segments is dirty.
    assert_eq!(planned(&[], 40, Some(20), &[9, 9, 9, 9]), None);
    assert_eq!(planned(&[("min.cleanable.dirty.ratio", "0.3")], 40, Some(20), &[9, 9, 9, 9]), Some((20, 30)));
    assert_eq!(planned(&[("max.compaction.lag.ms", "5")], 40, Some(20), &[9, 9, 9, 9]), Some((20, 30)));
    assert_eq!(planned(&[("max.compaction.lag.ms", "100")], 40, Some(20), &[9, 9, 9, 9]), None);
    assert_eq!(planned(&[("max.compaction.lag.ms", "5")], 40, Some(30), &[9, 9, 9, 9]), None, "nothing is dirty");
}

#[test]
fn young_records_stay_as_they_are() {
    let lag: &[_] = &[("min.compaction.lag.ms", "20")];
    assert_eq!(planned(lag, 40, None, &[50, 30, 9, 0]), Some((0, 20)));
    assert_eq!(planned(lag, 40, None, &[9, 50, 50, 0]), None, "the first young segment ends it");
}

#[test]
fn a_log_that_was_cut_back_is_looked_at_from_its_start() {
    assert_eq!(planned(&[], 40, Some(400), &[9, 9, 9, 9]), Some((0, 30)));
}

// ---- what ----

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    offset: i64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
struct Stored {
    header: BatchHeader,
    bytes: Bytes,
}

fn stored(bytes: Bytes) -> Stored {
    let header = BatchHeader::parse(&bytes).unwrap();
    assert_eq!(header.total_bytes(), bytes.len());
    assert_eq!(checksum(&bytes), header.crc, "the checksum is right");
    Stored { header, bytes }
}

fn batch(base: i64, codec: Compression, producer: Producer, records: &[(i64, Option<&str>, Option<&str>)]) -> Stored {
    let mut builder = BatchBuilder::new(codec).with_producer(producer);
    for (timestamp, key, value) in records {
        let headers = [(b"h".as_slice(), Some(b"v".as_slice()))];
        builder.push(Timestamp(*timestamp), key.map(str::as_bytes), value.map(str::as_bytes), headers);
    }
    let (bytes, _) = builder.build();
    let mut bytes = bytes.to_vec();
    stamp(&mut bytes, Offset(base), LeaderEpoch(3));
    stored(bytes.into())
}

fn entries(log: &[Stored]) -> Vec<Entry> {
    log.iter()
        .flat_map(|stored| {
            let records = records_of(&stored.header, &stored.bytes).unwrap();
            let read = Records::new(&records, stored.header.records_count).map(|record| {
                let record = record.unwrap();
                assert_eq!(record.headers().count(), 1, "headers stay");
                Entry {
                    offset: record.offset(&stored.header).0,
                    timestamp: record.timestamp(&stored.header).0,
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                }
            });
            read.collect::<Vec<_>>()
        })
        .collect()
}

/// A whole round over batches below `up_to`, in a map of so many bytes.
fn compact(
    log: &[Stored],
    first_dirty: i64,
    now: Timestamp,
    producers: &[(i64, i64)],
    map: usize,
) -> (Vec<Stored>, Offset) {
    let up_to = log.last().map_or(Offset(0), |stored| stored.header.next_offset());
    let plan = Plan { first_dirty: Offset(first_dirty), up_to, dirty_ratio: 1.0 };
    let last = producers.iter().map(|(id, offset)| (ProducerId(*id), Offset(*offset))).collect();
    let mut round = Compaction::new(plan, now, &config(&[]), last, OffsetMap::new(map, [7, 8]));
    let dirty = log.iter().filter(|stored| stored.header.next_offset() > plan.first_dirty);
    let mut full = false;
    for stored in dirty {
        full = round.index(&stored.header, &stored.bytes).unwrap() == Indexed::Full;
        if full {
            break;
        }
    }
    if !full {
        round.all_indexed();
    }
    let mut left = Vec::new();
    for stored in log {
        match round.filter(&stored.header, &stored.bytes).unwrap() {
            Filtered::Keep => left.push(stored.clone()),
            Filtered::Replace(bytes) => {
                let new = self::stored(bytes);
                assert_eq!(new.header.base_offset, stored.header.base_offset);
                assert_eq!(new.header.next_offset(), stored.header.next_offset());
                assert_eq!(new.header.last_sequence(), stored.header.last_sequence());
                assert_eq!(new.header.partition_leader_epoch, LeaderEpoch(3));
                left.push(new);
            }
            Filtered::Drop => {}
        }
    }
    (left, round.cleaned_to())
}

const AMPLE: usize = 1 << 16;

fn offsets(log: &[Stored]) -> Vec<i64> {
    entries(log).iter().map(|entry| entry.offset).collect()
}

#[test]
fn the_last_record_of_a_key_stays_and_a_tombstone_for_its_time() {
    let log = [
        batch(0, Compression::None, Producer::NONE, &[(1, Some("a"), Some("1")), (2, Some("b"), Some("1"))]),
        batch(
            2,
            Compression::Lz4,
            Producer::NONE,
            &[(3, Some("a"), Some("2")), (4, None, Some("lost")), (9, Some("b"), None)],
        ),
        batch(5, Compression::Zstd, Producer::NONE, &[(5, Some("c"), Some("1")), (6, Some("c"), Some("2"))]),
    ];
    let (first, cleaned) = compact(&log, 0, NOW, &[], AMPLE);
    assert_eq!((offsets(&first), cleaned), (vec![2, 4, 6], Offset(7)));
    let header = first[0].header;
    assert!(header.attributes.has_delete_horizon());
    assert_eq!(header.base_timestamp, Timestamp(NOW.0 + RETENTION));
    assert_eq!((header.max_timestamp, entries(&first)[1].timestamp), (Timestamp(9), 9), "timestamps are as they were");
    // Before the horizon a second round changes nothing, byte for byte.
    let (second, _) = compact(&first, 7, Timestamp(NOW.0 + RETENTION - 1), &[], AMPLE);
    assert_eq!(second.iter().map(|s| &s.bytes).collect::<Vec<_>>(), first.iter().map(|s| &s.bytes).collect::<Vec<_>>());
    let (third, _) = compact(&second, 7, Timestamp(NOW.0 + RETENTION), &[], AMPLE);
    assert_eq!(offsets(&third), [2, 6]);
}

#[test]
fn the_last_batch_of_an_active_producer_and_of_the_round_stay_empty() {
    let producer =
        |sequence| Producer { id: ProducerId(5), epoch: ProducerEpoch(1), base_sequence: Sequence(sequence) };
    let log = [
        batch(0, Compression::None, producer(0), &[(1, Some("a"), Some("1"))]),
        batch(1, Compression::Gzip, producer(1), &[(2, Some("a"), Some("2")), (2, Some("b"), Some("2"))]),
        batch(3, Compression::None, Producer::NONE, &[(3, Some("b"), Some("3")), (3, Some("a"), Some("3"))]),
        batch(5, Compression::None, Producer::NONE, &[(3, None, None)]),
    ];
    let (left, _) = compact(&log, 0, NOW, &[(5, 2)], AMPLE);
    assert_eq!(offsets(&left), [3, 4]);
    let empty = left[0].header;
    assert_eq!((empty.base_offset, empty.records_count, empty.last_sequence()), (Offset(1), 0, Sequence(2)));
    assert_eq!((empty.producer_id, empty.producer_epoch), (ProducerId(5), ProducerEpoch(1)));
    assert_eq!(left.last().map(|s| (s.header.next_offset(), s.header.records_count)), Some((Offset(6), 0)));
    // And go once the producer is forgotten.
    let (left, _) = compact(&left, 6, NOW, &[], AMPLE);
    assert_eq!(left.iter().map(|s| s.header.base_offset.0).collect::<Vec<_>>(), [3, 5]);
}

#[test]
fn control_batches_are_kept_and_their_keys_are_not_keys() {
    let mut control = BatchBuilder::new(Compression::None).with_attributes(Attributes(0x30));
    control.push(Timestamp(1), Some(b"a"), Some(b"marker"), [(b"h".as_slice(), None)]);
    let (control, _) = control.build();
    let log = [batch(0, Compression::None, Producer::NONE, &[(1, Some("a"), Some("1"))]), {
        let mut bytes = control.to_vec();
        stamp(&mut bytes, Offset(1), LeaderEpoch(3));
        stored(bytes.into())
    }];
    let (left, _) = compact(&log, 0, NOW, &[], AMPLE);
    assert_eq!(offsets(&left), [0, 1]);
}

#[test]
fn damage_is_told_with_its_offset() {
    let good = batch(4, Compression::Lz4, Producer::NONE, &[(1, Some("a"), Some("1"))]);
    let mut bytes = good.bytes.to_vec();
    bytes[HEADER_BYTES + 8] ^= 0xff;
    let plan = Plan { first_dirty: Offset(0), up_to: Offset(9), dirty_ratio: 1.0 };
    let mut round = Compaction::new(plan, NOW, &config(&[]), BTreeMap::new(), OffsetMap::new(AMPLE, [1, 2]));
    let error = round.index(&good.header, &bytes.clone().into()).unwrap_err();
    assert!(error.to_string().starts_with("the batch at offset 4: "), "{error}");
    round.all_indexed();
    assert!(round.filter(&good.header, &bytes.into()).is_err());
}

#[test]
fn neighbours_become_one_segment_up_to_the_limit() {
    let groups = |segment_bytes: &str, indexed_to: i64| {
        let plan = Plan { first_dirty: Offset(0), up_to: Offset(40), dirty_ratio: 1.0 };
        let config = config(&[("segment.bytes", segment_bytes)]);
        let mut round = Compaction::new(plan, NOW, &config, BTreeMap::new(), OffsetMap::new(AMPLE, [1, 2]));
        round.indexed_to = Offset(indexed_to);
        round.groups(&segments(&[9, 9, 9, 9, 9])).iter().map(|(from, to)| (from.0, to.0)).collect::<Vec<_>>()
    };
    assert_eq!(groups("1048576", 40), [(0, 40)]);
    assert_eq!(groups("200", 40), [(0, 20), (20, 40)]);
    assert_eq!(groups("50", 40), [(0, 10), (10, 20), (20, 30), (30, 40)], "one that is larger stays alone");
    assert_eq!(groups("200", 15), [(0, 20)], "what was not indexed is not read");
    assert_eq!(groups("200", 0), []);
}

#[test]
fn a_full_map_says_so_and_keeps_what_it_has() {
    let mut map = OffsetMap::new(0, [1, 2]);
    let mut noted = 0;
    while map.insert(&[noted], Offset(i64::from(noted))) {
        noted += 1;
    }
    assert!(noted > 4 && map.len() == usize::from(noted));
    assert!(map.insert(&[0], Offset(100)), "a known key needs no room");
    assert_eq!((map.latest(&[0]), map.latest(&[1]), map.latest(&[noted])), (Some(Offset(100)), Some(Offset(1)), None));
}

/// Batches of records: key, value; and whether the batch is compressed.
type Writes = Vec<(bool, Vec<(u8, Option<u8>)>)>;

fn written(writes: &Writes) -> Vec<Stored> {
    let mut log: Vec<Stored> = Vec::new();
    for (compressed, records) in writes {
        let base = log.last().map_or(0, |stored| stored.header.next_offset().0);
        let named: Vec<_> =
            records.iter().map(|(key, value)| (format!("key{key}"), value.map(|v| v.to_string()))).collect();
        let records: Vec<_> = named
            .iter()
            .enumerate()
            .map(|(at, (key, value))| (base + at as i64, Some(&**key), value.as_deref()))
            .collect();
        let codec = if *compressed { Compression::Snappy } else { Compression::None };
        log.push(batch(base, codec, Producer::NONE, &records));
    }
    log
}

/// What a reader that keeps the last value of each key ends with.
fn table(log: &[Stored]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut table = BTreeMap::new();
    for entry in entries(log) {
        let Some(key) = entry.key else { continue };
        match entry.value {
            Some(value) => table.insert(key, value),
            None => table.remove(&key),
        };
    }
    table
}

proptest! {
    #[test]
    fn a_reader_of_the_compacted_log_ends_with_the_same_table(
        writes in prop::collection::vec(
            (any::<bool>(), prop::collection::vec((0..30_u8, prop::option::weighted(0.7, any::<u8>())), 1..6)),
            1..30,
        ),
        slots in 0..40_usize,
        later in any::<bool>(),
    ) {
        let log = written(&writes);
        let original = entries(&log);
        let end = log.last().map(|stored| stored.header.next_offset().0).unwrap_or(0);
        let mut now = NOW;
        let (mut left, mut cleaned) = (log.clone(), Offset(0));
        // As many rounds as it takes with a map that may be small.
        while cleaned.0 < end {
            let (next, to) = compact(&left, cleaned.0, now, &[], slots * 24);
            prop_assert!(to > cleaned, "a round gets on");
            prop_assert_eq!(table(&next), table(&log));
            (left, cleaned) = (next, to);
            if later {
                now = Timestamp(now.0 + RETENTION);
            }
        }
        let kept = entries(&left);
        // Nothing is invented or changed, nothing is out of order, and of each key at most the last record is left.
        let mut rest = original.iter();
        for entry in &kept {
            prop_assert!(rest.any(|was| was == entry));
        }
        for entry in &kept {
            let last = original.iter().rev().find(|was| was.key == entry.key);
            prop_assert_eq!(last, Some(entry));
        }
        prop_assert_eq!(left.last().map(|stored| stored.header.next_offset().0), Some(end));
    }
}
