//! Record batches as a producer may send them: whatever validation lets through can be read, split, compacted and validated again.

use bytes::Bytes;
use tidegate_records::{
    batch::{self, Batches, Compression, HEADER_BYTES, LENGTH_PREFIX_BYTES},
    build::Producer,
    columns::{Wanted, columns},
    compress,
    ids::{ProducerEpoch, ProducerId, Sequence},
    record::Records,
    retain::{Emptied, Retain, Retained, retain},
    split::{Assignment, split},
    time::Timestamp,
    validate::{Rules, Validated, validate},
};

const DECOMPRESSED_BYTES_MAX: usize = 1 << 20;

fn rules() -> Rules {
    Rules {
        now: Timestamp(0),
        max_message_bytes: DECOMPRESSED_BYTES_MAX,
        max_decompressed_bytes: DECOMPRESSED_BYTES_MAX,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        log_append_time: false,
        keys_required: false,
        compression: None,
        compression_level: None,
    }
}

/// `bytes` are what a produce request has for one partition. They are tried as they are, and with length and checksum mended, since a
/// fuzzer does not find a checksum.
pub fn record_batch(bytes: &[u8]) {
    for (header, batch) in Batches::new(bytes).flatten() {
        assert_eq!(header.total_bytes(), batch.len());
        let _ = Records::of_uncompressed(batch, &header).count();
    }
    try_batch(Bytes::copy_from_slice(bytes));
    if bytes.len() >= HEADER_BYTES {
        let mut mended = bytes.to_vec();
        let length = (bytes.len() - LENGTH_PREFIX_BYTES) as i32;
        mended[8..12].copy_from_slice(&length.to_be_bytes());
        mended[16] = batch::MAGIC as u8;
        let checksum = batch::checksum(&mended);
        mended[17..21].copy_from_slice(&checksum.to_be_bytes());
        try_batch(mended.into());
    }
}

/// `bytes` are the attributes, the number of records, and the records of a batch whose header is right.
pub fn frame_records(bytes: &[u8]) {
    let [attributes, count, records @ ..] = bytes else { return };
    let mut batch = vec![0; HEADER_BYTES];
    batch[22] = *attributes;
    batch[26] = count.saturating_sub(1);
    batch[43..57].fill(0xff);
    batch[60] = *count;
    batch.extend_from_slice(records);
    record_batch(&batch);
}

fn try_batch(bytes: Bytes) {
    let _ = validate(bytes.clone(), &Rules { log_append_time: true, keys_required: true, ..rules() });
    let _ = validate(bytes.clone(), &Rules { compression: Some(Compression::Snappy), ..rules() });
    let Ok(validated) = validate(bytes, &rules()) else { return };
    again(&validated, validated.bytes());
    read(&validated);
    split_in_three(&validated);
    compact(&validated);
}

/// A batch that is good stays as it is.
fn again(validated: &Validated, bytes: &Bytes) {
    let second = validate(bytes.clone(), &rules()).expect("what was validated is valid");
    assert_eq!(second.bytes(), bytes);
    assert_eq!(second.header().records_count, validated.header().records_count);
}

fn read(validated: &Validated) {
    let header = validated.header();
    let mut records = Records::new(validated.records(), header.records_count);
    for (index, record) in records.by_ref().enumerate() {
        let record = record.expect("validation walked it");
        assert_eq!(record.offset_delta as usize, index);
        assert_eq!(record.headers().count(), record.headers_count());
        assert!(record.timestamp(header) <= validated.max_timestamp());
    }
    assert!(records.rest().is_empty());
    let wanted = Wanted {
        keys: true,
        values: true,
        timestamps: true,
        offsets: true,
        headers: vec!["type".to_owned(), String::new()],
    };
    let columns = columns(header, validated.records(), &wanted).expect("validation walked it");
    assert_eq!(columns.count as i32, header.records_count);
    for column in columns.keys.iter().chain(&columns.values).chain(&columns.headers) {
        assert_eq!(column.ends.len() as u32, columns.count);
    }
}

fn split_in_three(validated: &Validated) {
    let header = validated.header();
    let destinations: Vec<u32> = (0..header.records_count as u32).map(|index| index * 7 % 3).collect();
    let producer = Producer { id: ProducerId(1), epoch: ProducerEpoch(0), base_sequence: Sequence(5) };
    let assignment = Assignment::Single(&destinations);
    let parts = split(validated.bytes(), header, validated.records(), assignment, 3, Some(producer));
    let mut count = 0;
    for (bytes, part) in parts.expect("the assignment fits").into_iter().flatten() {
        // A part may compress worse than the whole did.
        if bytes.len() <= DECOMPRESSED_BYTES_MAX {
            let validated = validate(bytes, &rules()).expect("a part is a batch");
            assert_eq!(validated.header(), &part);
        }
        count += part.records_count;
    }
    assert_eq!(count, header.records_count);
}

fn compact(validated: &Validated) {
    let header = validated.header();
    let options = Retain { delete_horizon: Some(Timestamp(12_345)), emptied: Emptied::Header };
    let stays = |index: i32| index % 3 != 1;
    let retained = retain(header, validated.records(), options, |record| stays(record.offset_delta));
    let Retained::Some(bytes, rewritten) = retained.expect("validation walked it") else { return };
    assert_eq!(rewritten.crc, batch::checksum(&bytes));
    assert_eq!(rewritten.last_offset(), header.last_offset());
    let body = bytes.slice(HEADER_BYTES..);
    let codec = rewritten.attributes.compression().expect("it had a codec");
    let records = compress::decompress(codec, &body, usize::MAX - 1).expect("it was just compressed");
    let before = Records::new(validated.records(), header.records_count).flatten();
    let mut after = Records::new(&records, rewritten.records_count).flatten();
    for record in before.filter(|record| stays(record.offset_delta)) {
        let kept = after.next().expect("it stays");
        assert_eq!((kept.offset_delta, kept.payload), (record.offset_delta, record.payload));
        assert_eq!(kept.timestamp(&rewritten), record.timestamp(header));
    }
    assert!(after.next().is_none());
}
