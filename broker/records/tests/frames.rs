//! Batches that other implementations wrote, in the corpus of the fuzz targets: the Java client 4.3 and librdkafka 2.12.

use bytes::Bytes;
use tidegate_records::{
    batch::{BatchHeader, Compression, HeaderError},
    build::Producer,
    ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence},
    record::Records,
    time::Timestamp,
    validate::{Rules, ValidateError, Validated, validate},
};

const T: i64 = 1_700_000_000_000;

const CODECS: [(&str, Compression); 5] = [
    ("none", Compression::None),
    ("gzip", Compression::Gzip),
    ("snappy", Compression::Snappy),
    ("lz4", Compression::Lz4),
    ("zstd", Compression::Zstd),
];

fn rules() -> Rules {
    Rules {
        now: Timestamp(T),
        max_message_bytes: 1 << 20,
        max_decompressed_bytes: 1 << 20,
        timestamp_before_max_ms: 1_000,
        timestamp_after_max_ms: 1_000,
        log_append_time: false,
        keys_required: false,
        compression: None,
        compression_level: None,
    }
}

fn frame(name: &str) -> Bytes {
    let path = format!("{}/../fuzz/corpus/record_batch/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).unwrap().into()
}

/// A frame that is good is kept as it came.
fn validated(name: &str) -> Validated {
    let bytes = frame(name);
    let validated = validate(bytes.clone(), &rules()).unwrap();
    assert_eq!(validated.bytes(), &bytes, "{name}");
    validated
}

type Seen = (i64, Option<String>, Option<String>, Vec<(String, Option<String>)>);

fn seen(validated: &Validated) -> Vec<Seen> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Records::new(validated.records(), validated.header().records_count)
        .map(|record| {
            let record = record.unwrap();
            let headers = record.headers().map(|(key, value)| (text(key), value.map(text))).collect();
            (record.timestamp(validated.header()).0 - T, record.key.map(text), record.value.map(text), headers)
        })
        .collect()
}

#[test]
fn the_java_clients_batches_are_read_in_every_codec() {
    let some = |text: &str| Some(text.to_owned());
    let header = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
    let big: String = (0..300).map(|n| (b'a' + (n % 26) as u8) as char).collect();
    let expected: [Seen; 5] = [
        (0, some("key-0"), some("value-0"), vec![]),
        (
            5,
            None,
            some("no key"),
            vec![header("type", Some("order")), header("none", None), header("type", Some("last"))],
        ),
        (3, some("tombstone"), None, vec![]),
        (5, some(""), some(""), vec![]),
        (4, some("big"), Some(big), vec![]),
    ];
    for (name, codec) in CODECS {
        let validated = validated(&format!("java-{name}"));
        assert_eq!(validated.header().attributes.compression(), Some(codec));
        assert_eq!(validated.header().partition_leader_epoch, LeaderEpoch(7));
        assert_eq!((validated.max_timestamp(), validated.offset_delta_of_max_timestamp()), (Timestamp(T + 5), 1));
        assert_eq!(seen(&validated), expected, "{name}");
    }
}

#[test]
fn librdkafkas_batches_are_read_in_every_codec() {
    for (name, codec) in CODECS {
        let validated = validated(&format!("librdkafka-{name}"));
        assert_eq!(validated.header().attributes.compression(), Some(codec));
        let records = seen(&validated);
        assert_eq!(records.len(), 5, "{name}");
        for (index, (timestamp, key, value, headers)) in records.into_iter().enumerate() {
            assert_eq!(timestamp, index as i64);
            assert_eq!(key, (index != 1).then(|| format!("key-{index}")));
            assert_eq!(value, (index != 2).then(|| format!("value {index} ").repeat(20)));
            assert_eq!(headers.len(), if index == 3 { 2 } else { 0 });
        }
    }
}

#[test]
fn producers_and_attributes_are_read() {
    let idempotent = validated("java-idempotent");
    let producer = Producer { id: ProducerId(4711), epoch: ProducerEpoch(3), base_sequence: Sequence(100) };
    assert_eq!(Producer::of(idempotent.header()), producer);
    assert_eq!(idempotent.header().last_sequence(), Sequence(104));
    let transactional = validated("java-transactional");
    assert!(transactional.header().attributes.is_transactional());
    assert_eq!(Producer::of(transactional.header()), producer);
}

#[test]
fn what_only_a_broker_writes_is_refused_from_a_client() {
    let refused = |name: &str| validate(frame(name), &rules()).unwrap_err();
    assert_eq!(refused("java-commit-marker"), ValidateError::Control);
    assert_eq!(refused("java-magic-1"), ValidateError::Header(HeaderError::Magic { magic: 1 }));
    assert_eq!(refused("java-emptied"), ValidateError::Count { said: 0, last_offset_delta: 4 });
    assert_eq!(refused("java-compacted"), ValidateError::Count { said: 3, last_offset_delta: 4 });
}

#[test]
fn the_logs_own_batches_are_read() {
    let append_time = frame("java-append-time");
    let header = BatchHeader::parse(&append_time).unwrap();
    assert_eq!((header.base_offset, header.last_offset()), (Offset(42), Offset(46)));
    assert!(header.attributes.is_log_append_time());
    let timestamps = Records::of_uncompressed(&append_time, &header).map(|record| record.unwrap().timestamp(&header));
    assert_eq!(timestamps.collect::<Vec<_>>(), [Timestamp(T + 9); 5]);
    let marker = frame("java-commit-marker");
    let header = BatchHeader::parse(&marker).unwrap();
    assert!(header.attributes.is_control() && header.attributes.is_transactional());
    let record = Records::of_uncompressed(&marker, &header).next().unwrap().unwrap();
    assert_eq!(record.key, Some([0, 0, 0, 1].as_slice()), "version 0, type 1: COMMIT");
}
