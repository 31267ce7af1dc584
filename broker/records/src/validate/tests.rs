use proptest::prelude::*;

use super::*;
use crate::{
    build::{BatchBuilder, Producer},
    ids::{ProducerEpoch, ProducerId, Sequence},
};

const NOW: Timestamp = Timestamp(1_000_000);

fn rules() -> Rules {
    Rules {
        now: NOW,
        max_message_bytes: 1 << 20,
        max_decompressed_bytes: 4 << 20,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 3_600_000,
        log_append_time: false,
        keys_required: false,
        compression: None,
        compression_level: None,
    }
}

fn builder(codec: Compression, records: i64) -> BatchBuilder {
    let mut builder = BatchBuilder::new(codec);
    for n in 0..records {
        let value = format!("value {n}");
        builder.push(Timestamp(NOW.0 + n), Some(b"key"), Some(value.as_bytes()), [(b"h".as_slice(), None)]);
    }
    builder
}

fn batch(codec: Compression, records: i64) -> Vec<u8> {
    builder(codec, records).build().0.to_vec()
}

/// Changes bytes and mends the checksum.
fn patched(mut bytes: Vec<u8>, at: usize, with: &[u8]) -> Bytes {
    bytes[at..at + with.len()].copy_from_slice(with);
    let crc = batch::checksum(&bytes);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

#[test]
fn a_good_batch_keeps_its_bytes() {
    for codec in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let bytes = Bytes::from(batch(codec, 5));
        let validated = validate(bytes.clone(), &rules()).unwrap();
        assert_eq!(validated.bytes(), &bytes);
        assert_eq!(validated.header().records_count, 5);
        assert_eq!(validated.header().max_timestamp, Timestamp(NOW.0 + 4));
    }
}

#[test]
fn each_fault_has_its_error() {
    fn check(bytes: impl Into<Bytes>, expected: &str) {
        let error = validate(bytes.into(), &rules()).unwrap_err();
        assert_eq!(format!("{error:?}").split([' ', '(']).next().unwrap(), expected, "{error}");
    }
    let good = batch(Compression::None, 3);
    check(Bytes::new(), "Empty");
    check(good[..40].to_vec(), "Header");
    check(good[..good.len() - 1].to_vec(), "Header");
    check([good.clone(), good.clone()].concat(), "SeveralBatches");
    check(
        {
            let mut old = good.clone();
            old[16] = 1;
            old
        },
        "Header",
    );
    check(
        {
            let mut flipped = good.clone();
            flipped[70] ^= 1;
            flipped
        },
        "Checksum",
    );
    check(patched(good.clone(), 21, &7_i16.to_be_bytes()), "Codec");
    check(patched(good.clone(), 21, &0x20_i16.to_be_bytes()), "Control");
    check(patched(good.clone(), 57, &4_i32.to_be_bytes()), "Count");
    check(patched(good.clone(), 57, &(-1_i32).to_be_bytes()), "Count");
    check(patched(good.clone(), 23, &7_i32.to_be_bytes()), "Count");
    let two = patched(good.clone(), 57, &2_i32.to_be_bytes());
    check(patched(two.to_vec(), 23, &1_i32.to_be_bytes()), "Trailing");
    let four = patched(good.clone(), 57, &4_i32.to_be_bytes());
    check(patched(four.to_vec(), 23, &3_i32.to_be_bytes()), "Record");
    // The second record's offset delta: overlapping offsets.
    let first_length = usize::from(good[61] >> 1) + 1;
    check(patched(good.clone(), 61 + first_length + 3, &[0]), "Records");
    check(patched(good.clone(), 43, &5_i64.to_be_bytes()), "Producer");
    check(patched(batch(Compression::Gzip, 3), 61, &[9, 9, 9]), "Compression");
    check(patched(good.clone(), 21, &2_i16.to_be_bytes()), "Compression");
}

#[test]
fn limits_are_kept() {
    let large = validate(batch(Compression::None, 100).into(), &Rules { max_message_bytes: 200, ..rules() });
    assert!(matches!(large, Err(ValidateError::TooLarge { limit: 200, .. })));
    let bomb = {
        let mut builder = BatchBuilder::new(Compression::Zstd);
        builder.push(NOW, None, Some(&vec![0; 8 << 20]), []);
        builder.build().0
    };
    assert!(bomb.len() < 10_000);
    let error = validate(bomb, &rules()).unwrap_err();
    assert!(matches!(error, ValidateError::Compression(CompressionError::TooLarge { .. })), "{error}");
}

#[test]
fn records_are_named_that_break_a_rule() {
    let mut builder = BatchBuilder::new(Compression::None);
    for key in [Some(b"k".as_slice()), None, Some(b"k"), None] {
        builder.push(NOW, key, None, []);
    }
    let error = validate(builder.build().0, &Rules { keys_required: true, ..rules() }).unwrap_err();
    let ValidateError::Records { records } = error else { panic!("{error}") };
    assert_eq!(records.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 3]);

    let mut builder = BatchBuilder::new(Compression::None);
    for timestamp in [NOW.0, NOW.0 + 3_600_001, 5, -1] {
        builder.push(Timestamp(timestamp), None, None, []);
    }
    let error = validate(builder.build().0, &Rules { timestamp_before_max_ms: 1_000, ..rules() }).unwrap_err();
    let ValidateError::Timestamps { records } = error else { panic!("{error}") };
    assert_eq!(records.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn append_time_is_stamped_and_checksummed() {
    let rules = Rules { log_append_time: true, ..rules() };
    let validated = validate(batch(Compression::Lz4, 3).into(), &rules).unwrap();
    assert!(validated.header().attributes.is_log_append_time());
    assert_eq!(validated.header().max_timestamp, NOW);
    assert_eq!(batch::checksum(validated.bytes()), validated.header().crc);
    assert_eq!(BatchHeader::parse(validated.bytes()).unwrap(), *validated.header());
}

#[test]
fn a_topics_codec_replaces_the_producers() {
    for wanted in [Compression::None, Compression::Zstd, Compression::Snappy] {
        let rules = Rules { compression: Some(wanted), ..rules() };
        let validated = validate(batch(Compression::Gzip, 50).into(), &rules).unwrap();
        assert_eq!(validated.header().attributes.compression(), Some(wanted));
        assert_eq!(BatchHeader::parse(validated.bytes()).unwrap(), *validated.header());
        let again = validate(validated.bytes().clone(), &rules).unwrap();
        assert_eq!(again.bytes(), validated.bytes(), "a batch in the right codec is kept");
    }
}

#[test]
fn one_untimely_record_makes_it_an_error_of_timestamps() {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(NOW, None, None, []);
    builder.push(Timestamp(i64::MAX), Some(b"k"), None, []);
    let error = validate(builder.build().0, &Rules { keys_required: true, ..rules() }).unwrap_err();
    let ValidateError::Timestamps { records } = error else { panic!("{error}") };
    assert_eq!(records.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn an_answer_names_a_hundred_records_at_most() {
    let mut builder = BatchBuilder::new(Compression::None);
    for _ in 0..1000 {
        builder.push(NOW, None, None, []);
    }
    let error = validate(builder.build().0, &Rules { keys_required: true, ..rules() }).unwrap_err();
    assert!(matches!(error, ValidateError::Records { records } if records.len() == 100));
}

#[test]
fn append_time_is_the_logs_to_claim() {
    let claims = builder(Compression::None, 3).with_attributes(Attributes(0x48)).build().0;
    let error = validate(claims.clone(), &Rules { log_append_time: true, ..rules() }).unwrap_err();
    assert!(matches!(error, ValidateError::Timestamps { records } if records.len() == 3));
    // A topic with create time takes the batch, and the marks away.
    let validated = validate(claims, &rules()).unwrap();
    assert_eq!(validated.header().attributes, Attributes(0));
    assert_eq!(validated.max_timestamp(), Timestamp(NOW.0 + 2));
    assert_eq!(BatchHeader::parse(validated.bytes()).unwrap(), *validated.header());
}

#[test]
fn a_wrong_max_timestamp_is_mended() {
    let bytes = patched(batch(Compression::Snappy, 3), 35, &7_i64.to_be_bytes());
    let validated = validate(bytes, &rules()).unwrap();
    assert_eq!(validated.max_timestamp(), Timestamp(NOW.0 + 2));
    assert_eq!(validate(validated.bytes().clone(), &rules()).unwrap().bytes(), validated.bytes());
}

/// Apache Kafka accepts such a batch and keeps it as it is; then librdkafka and Go's gzip stop at it for ever.
#[test]
fn what_follows_a_compressed_stream_is_cut_off() {
    for codec in [Compression::Gzip, Compression::Lz4] {
        let good = batch(codec, 3);
        let mut bytes = [&good[..], b"tail"].concat();
        let length = (bytes.len() - batch::LENGTH_PREFIX_BYTES) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        let validated = validate(patched(bytes, 0, &[]), &rules()).unwrap();
        assert_eq!(validated.bytes(), &good, "{codec:?}");
        assert_eq!(BatchHeader::parse(validated.bytes()).unwrap(), *validated.header());
    }
}

#[test]
fn the_first_record_with_the_largest_timestamp_is_known() {
    let mut builder = BatchBuilder::new(Compression::Lz4);
    for timestamp in [5, 9, 3, 9] {
        builder.push(Timestamp(timestamp), None, None, []);
    }
    let bytes = builder.build().0;
    let validated = validate(bytes.clone(), &rules()).unwrap();
    assert_eq!((validated.max_timestamp(), validated.offset_delta_of_max_timestamp()), (Timestamp(9), 1));
    let found = offset_of_max_timestamp(validated.header(), validated.records());
    assert_eq!(found, Some((Offset(1), Timestamp(9))));
    let stamped = validate(bytes, &Rules { log_append_time: true, ..rules() }).unwrap();
    assert_eq!((stamped.max_timestamp(), stamped.offset_delta_of_max_timestamp()), (NOW, 0));
    let (bytes, header) = stamped.into_parts();
    assert_eq!(BatchHeader::parse(&bytes), Ok(header));
}

#[test]
fn a_recompressed_batch_may_be_too_large() {
    let zeros = [0; 10_000];
    let mut builder = BatchBuilder::new(Compression::Zstd);
    builder.push(NOW, None, Some(&zeros), []);
    let rules = Rules { compression: Some(Compression::None), max_message_bytes: 1000, ..rules() };
    let error = validate(builder.build().0, &rules).unwrap_err();
    assert!(matches!(error, ValidateError::TooLarge { limit: 1000, .. }), "{error}");
}

#[test]
fn a_producer_without_an_id_may_have_any_sequence() {
    // kafkajs and Sarama send epoch 0 and base sequence 0 with producer id -1.
    let producer = Producer { id: ProducerId(-1), epoch: ProducerEpoch(0), base_sequence: Sequence(0) };
    let bytes = builder(Compression::None, 3).with_producer(producer).build().0;
    assert_eq!(validate(bytes.clone(), &rules()).unwrap().bytes(), &bytes);
    let transactional = builder(Compression::None, 3).with_attributes(Attributes(0x10)).build().0;
    assert!(matches!(validate(transactional, &rules()), Err(ValidateError::Producer { producer_id: -1, .. })));
}

#[test]
fn an_idempotent_batch_passes() {
    let producer = Producer { id: ProducerId(5), epoch: ProducerEpoch(0), base_sequence: Sequence(7) };
    let bytes = builder(Compression::None, 3).with_producer(producer).build().0;
    assert_eq!(validate(bytes, &rules()).unwrap().header().last_sequence(), Sequence(9));
}

#[test]
fn a_flipped_bit_or_a_cut_is_refused() {
    for codec in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let good = batch(codec, 3);
        for at in 0..good.len() {
            assert!(validate(good[..at].to_vec().into(), &rules()).is_err(), "{codec:?} cut at {at}");
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                // Base offset and leader epoch are the leader's to stamp, and not under the checksum.
                let stamped = at < 8 || (12..16).contains(&at);
                assert_eq!(validate(bytes.into(), &rules()).is_ok(), stamped, "{codec:?} bit {bit} of byte {at}");
            }
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(validate(bytes.into(), &rules()).is_err());
    }

    #[test]
    fn random_bodies_with_a_good_checksum_never_panic(
        body in prop::collection::vec(any::<u8>(), 0..300), codec in 0_i16..5, count in 1_i32..20,
    ) {
        let mut bytes = batch(Compression::None, 1)[..HEADER_BYTES].to_vec();
        bytes.extend_from_slice(&body);
        let length = (bytes.len() - batch::LENGTH_PREFIX_BYTES) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        let _ = validate(patched(bytes, 21, &codec.to_be_bytes()), &rules());
    }
}
