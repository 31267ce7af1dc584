use proptest::prelude::*;

use super::*;
use crate::{
    build::BatchBuilder,
    compress::decompress,
    ids::{ProducerEpoch, ProducerId, Sequence},
    validate::{Rules, validate},
};

const PRODUCER: Producer = Producer { id: ProducerId(9), epoch: ProducerEpoch(1), base_sequence: Sequence(70) };

fn rules() -> Rules {
    Rules {
        now: Timestamp(0),
        max_message_bytes: usize::MAX,
        max_decompressed_bytes: 1 << 26,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        log_append_time: false,
        keys_required: false,
        compression: None,
        compression_level: None,
    }
}

fn batch(codec: Compression, records: usize) -> (Bytes, BatchHeader, Bytes) {
    let mut builder = BatchBuilder::new(codec);
    for index in 0..records {
        let value = format!("v{index}");
        builder.push(Timestamp(1000 - index as i64 * 3), None, Some(value.as_bytes()), [(b"h".as_slice(), None)]);
    }
    let (bytes, header) = builder.build();
    let records = decompress(codec, &bytes.slice(HEADER_BYTES..), 1 << 26).unwrap();
    (bytes, header, records)
}

/// The values in a part, which must be a batch that a client could have sent.
fn values(bytes: &Bytes, header: &BatchHeader) -> Vec<String> {
    let validated = validate(bytes.clone(), &rules()).unwrap();
    assert_eq!(validated.header(), header);
    assert_eq!(validated.bytes(), bytes, "nothing is left to be mended");
    Records::new(validated.records(), header.records_count)
        .map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap())
        .collect()
}

fn numbered(records: &[usize]) -> Vec<String> {
    records.iter().map(|record| format!("v{record}")).collect()
}

proptest! {
    #[test]
    fn every_record_is_where_it_was_sent_in_order(
        routes in prop::collection::vec(prop::collection::vec(0_u32..4, 0..4), 1..200),
        codec in prop_oneof![Just(Compression::None), Just(Compression::Zstd), Just(Compression::Snappy)],
        stamped in any::<bool>(),
    ) {
        let (bytes, header, records) = batch(codec, routes.len());
        let mut ends = Vec::new();
        let mut destinations = Vec::new();
        for route in &routes {
            destinations.extend(route);
            ends.push(destinations.len() as u32);
        }
        let producer = stamped.then_some(PRODUCER);
        let assignment = Assignment::Many { ends: &ends, destinations: &destinations };
        let parts = split(&bytes, &header, &records, assignment, 4, producer).unwrap();
        for (destination, part) in parts.iter().enumerate() {
            let wanted: Vec<usize> =
                (0..routes.len()).filter(|record| routes[*record].contains(&(destination as u32))).collect();
            let Some((part, part_header)) = part else {
                prop_assert!(wanted.is_empty());
                continue;
            };
            prop_assert_eq!(values(part, part_header), numbered(&wanted));
            prop_assert_eq!(Producer::of(part_header), producer.unwrap_or(Producer::NONE));
            prop_assert_eq!(part_header.last_offset_delta as usize, wanted.len() - 1);
            prop_assert_eq!(part_header.attributes, header.attributes);
        }
    }

    #[test]
    fn any_assignment_is_split_or_refused(
        ends in prop::collection::vec(0_u32..12, 0..6), destinations in prop::collection::vec(0_u32..5, 0..12),
        count in 0_usize..6, records in 1_usize..6,
    ) {
        let (bytes, header, body) = batch(Compression::None, records);
        let many = Assignment::Many { ends: &ends, destinations: &destinations };
        for assignment in [many, Assignment::Single(&destinations), Assignment::Uniform(&destinations)] {
            if let Ok(parts) = split(&bytes, &header, &body, assignment, count, None) {
                prop_assert_eq!(parts.len(), count);
                for (part, header) in parts.into_iter().flatten() {
                    prop_assert_eq!(values(&part, &header).len(), header.records_count as usize);
                }
            }
        }
    }
}

#[test]
fn one_destination_keeps_the_bytes() {
    let (bytes, header, records) = batch(Compression::Lz4, 2);
    let many = Assignment::Many { ends: &[1, 2], destinations: &[1, 1] };
    for assignment in [Assignment::Uniform(&[1]), Assignment::Single(&[1, 1]), many] {
        let parts = split(&bytes, &header, &records, assignment, 2, None).unwrap();
        assert!(parts[0].is_none());
        let (part, part_header) = parts[1].as_ref().unwrap();
        assert_eq!((part.as_ptr(), part_header), (bytes.as_ptr(), &header));

        let parts = split(&bytes, &header, &records, assignment, 2, Some(PRODUCER)).unwrap();
        let (part, part_header) = parts[1].as_ref().unwrap();
        assert_eq!(part[HEADER_BYTES..], bytes[HEADER_BYTES..], "not compressed again");
        assert_eq!(Producer::of(part_header), PRODUCER);
        assert_eq!(values(part, part_header), ["v0", "v1"]);
    }
}

#[test]
fn a_record_named_twice_is_there_once() {
    let (bytes, header, records) = batch(Compression::None, 2);
    let twice = Assignment::Many { ends: &[2, 2], destinations: &[0, 0] };
    let parts = split(&bytes, &header, &records, twice, 1, None).unwrap();
    let (part, part_header) = parts[0].as_ref().unwrap();
    assert_eq!(values(part, part_header), ["v0"]);
    assert_eq!(part_header.max_timestamp, Timestamp(1000));
}

#[test]
fn an_assignment_that_does_not_fit_is_refused() {
    fn check(assignment: Assignment<'_>, expected: &str) {
        let (bytes, header, records) = batch(Compression::None, 3);
        let error = split(&bytes, &header, &records, assignment, 2, None).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    check(Assignment::Single(&[0, 1]), "the batch has 3 records, but destinations are given for 2");
    check(Assignment::Single(&[0, 1, 2]), "record 2 goes to destination 2, and there are only 2");
    check(Assignment::Uniform(&[7]), "record 0 goes to destination 7, and there are only 2");
    check(
        Assignment::Many { ends: &[0, 1], destinations: &[0] },
        "the batch has 3 records, but destinations are given for 2",
    );
    check(
        Assignment::Many { ends: &[1, 0, 1], destinations: &[0] },
        "the destinations of record 1 end at 0, which is before they begin or after the last of them",
    );
    check(
        Assignment::Many { ends: &[1, 1, 2], destinations: &[0] },
        "the destinations of record 2 end at 2, which is before they begin or after the last of them",
    );
}

#[test]
fn append_time_stays_that_of_the_batch() {
    let (bytes, _, _) = batch(Compression::None, 4);
    let validated = validate(bytes, &Rules { now: Timestamp(5000), log_append_time: true, ..rules() }).unwrap();
    let parts =
        split(validated.bytes(), validated.header(), validated.records(), Assignment::Single(&[0, 1, 0, 1]), 2, None)
            .unwrap();
    for (_, header) in parts.into_iter().flatten() {
        assert!(header.attributes.is_log_append_time());
        assert_eq!(header.max_timestamp, Timestamp(5000));
    }
}
