//! A stored batch loses some of its records: what compaction writes back.
//!
//! Offsets never change: base offset, last offset delta and the offset deltas of what stays are kept, and so are producer, sequence and
//! codec. Records are copied in one run as long as they stand together. Which records stay, and when, is decided elsewhere
//! (`model::compaction`). Source: KIP-534 for the delete horizon, Apache Kafka's `MemoryRecords.filterTo`.

use bytes::Bytes;

use crate::{
    batch::{BatchHeader, Compression, HEADER_BYTES},
    build::{finish, put_record, seal},
    record::{Record, RecordError, Records},
    time::Timestamp,
};

/// What a batch becomes besides losing records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retain {
    /// Set as the batch's delete horizon (KIP-534) if a tombstone stays in it and it has none yet: bit 6 of the attributes, and the
    /// base timestamp. Deltas then count from it, so that readers that know nothing of it get the same timestamps.
    pub delete_horizon: Option<Timestamp>,
    /// What is left where no record stays.
    pub emptied: Emptied,
}

/// What is left of a batch that lost every record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emptied {
    #[default]
    Nothing,
    /// The header alone: it is the last batch of a producer, whose sequence a retry is held against, or of the log, whose offset
    /// must not be given away twice.
    Header,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retained {
    /// Every record stays: the bytes are as they were.
    All,
    Some(Bytes, BatchHeader),
    Nothing,
}

/// Keeps the records of a batch for which `keep` says so. `records` are decompressed; `batch` itself is not looked at.
///
/// # Errors
/// [`RecordError`]; does not happen for a validated batch.
pub fn retain(
    header: &BatchHeader,
    records: &[u8],
    options: Retain,
    mut keep: impl FnMut(&Record<'_>) -> bool,
) -> Result<Retained, RecordError> {
    let mut kept = Vec::new();
    let mut tombstones = false;
    for record in Records::new(records, header.records_count) {
        let record = record?;
        if keep(&record) {
            tombstones |= record.value.is_none();
            kept.push(record);
        }
    }
    let horizon = options.delete_horizon.filter(|_| tombstones && !header.attributes.has_delete_horizon());
    if kept.len() == usize::try_from(header.records_count).unwrap_or(0) && horizon.is_none() {
        let stays = header.records_count > 0 || options.emptied == Emptied::Header;
        return Ok(if stays { Retained::All } else { Retained::Nothing });
    }
    if kept.is_empty() {
        return Ok(match options.emptied {
            Emptied::Nothing => Retained::Nothing,
            Emptied::Header => {
                let (bytes, header) = header_alone(header);
                Retained::Some(bytes, header)
            }
        });
    }
    let (bytes, header) = with_records(header, &kept, horizon);
    Ok(Retained::Some(bytes, header))
}

fn with_records(header: &BatchHeader, kept: &[Record<'_>], delete_horizon: Option<Timestamp>) -> (Bytes, BatchHeader) {
    let mut new = BatchHeader { records_count: kept.len() as i32, ..*header };
    if !header.attributes.is_log_append_time() {
        new.max_timestamp =
            kept.iter().map(|record| record.timestamp(header)).max().unwrap_or(Timestamp::NONE).max(Timestamp::NONE);
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES + kept.iter().map(|record| record.bytes.len() + 8).sum::<usize>());
    bytes.resize(HEADER_BYTES, 0);
    match delete_horizon {
        None => kept.iter().for_each(|record| bytes.extend_from_slice(record.bytes)),
        Some(horizon) => {
            new.attributes = header.attributes.with_delete_horizon();
            new.base_timestamp = horizon;
            let moved = header.base_timestamp.0.wrapping_sub(horizon.0);
            for record in kept {
                let delta = record.timestamp_delta.wrapping_add(moved);
                put_record(&mut bytes, delta, record.offset_delta, record.payload);
            }
        }
    }
    seal(new, bytes, None)
}

/// What a batch leaves behind of its offsets and its producer: no record, no codec, no horizon.
#[must_use]
pub fn header_alone(header: &BatchHeader) -> (Bytes, BatchHeader) {
    let attributes = header.attributes.with_compression(Compression::None).without_delete_horizon();
    let empty = BatchHeader { attributes, base_timestamp: Timestamp::NONE, records_count: 0, ..*header };
    finish(empty, vec![0; HEADER_BYTES])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        batch::{self, Batches},
        build::{BatchBuilder, Producer},
        compress::decompress,
        ids::{Offset, ProducerEpoch, ProducerId, Sequence},
    };

    const HORIZON: Timestamp = Timestamp(900_000);

    type Seen = (Offset, Timestamp, Option<Vec<u8>>, Option<Vec<u8>>, usize);

    fn seen(bytes: &Bytes) -> (BatchHeader, Vec<Seen>) {
        let (header, _) = Batches::new(bytes).next().unwrap().unwrap();
        assert_eq!((header.total_bytes(), header.crc), (bytes.len(), batch::checksum(bytes)));
        let codec = header.attributes.compression().unwrap();
        let records = decompress(codec, &bytes.slice(HEADER_BYTES..), 1 << 20).unwrap_or_default();
        let seen = Records::new(&records, header.records_count).map(|record| {
            let record = record.unwrap();
            let (key, value) = (record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec));
            (record.offset(&header), record.timestamp(&header), key, value, record.headers().count())
        });
        (header, seen.collect())
    }

    fn stored(codec: Compression, tombstones: &[bool]) -> (Bytes, BatchHeader, Bytes) {
        let producer = Producer { id: ProducerId(5), epoch: ProducerEpoch(1), base_sequence: Sequence(40) };
        let mut builder = BatchBuilder::new(codec).with_producer(producer);
        for (index, tombstone) in tombstones.iter().enumerate() {
            let value = (!tombstone).then_some(b"value".as_slice());
            let headers = [(b"h".as_slice(), None)];
            builder.push(Timestamp(500 + index as i64 * 7 % 10), Some(&[index as u8]), value, headers);
        }
        let mut bytes = builder.build().0.to_vec();
        batch::stamp(&mut bytes, Offset(1000), crate::ids::LeaderEpoch(3));
        let bytes = Bytes::from(bytes);
        let header = BatchHeader::parse(&bytes).unwrap();
        let records = decompress(codec, &bytes.slice(HEADER_BYTES..), 1 << 20).unwrap();
        (bytes, header, records)
    }

    proptest! {
        #[test]
        fn what_stays_is_as_it_was(
            plan in prop::collection::vec((any::<bool>(), any::<bool>()), 1..60),
            codec in prop_oneof![Just(Compression::None), Just(Compression::Gzip), Just(Compression::Lz4)],
            horizon in any::<bool>(), twice in any::<bool>(),
        ) {
            let tombstones: Vec<bool> = plan.iter().map(|(tombstone, _)| *tombstone).collect();
            let (bytes, header, records) = stored(codec, &tombstones);
            let options = Retain { delete_horizon: horizon.then_some(HORIZON), emptied: Emptied::Header };
            let mut result = retain(&header, &records, options, |record| plan[record.offset_delta as usize].1).unwrap();
            let wanted: Vec<Seen> = seen(&bytes).1.into_iter().zip(&plan).filter(|(_, (_, stays))| *stays).map(|(record, _)| record).collect();
            if twice && let Retained::Some(bytes, header) = &result {
                // A second round changes nothing, and sets no other horizon.
                let codec = header.attributes.compression().unwrap();
                let body = bytes.slice(HEADER_BYTES..);
                let records = if header.records_count == 0 { body } else { decompress(codec, &body, 1 << 20).unwrap() };
                let options = Retain { delete_horizon: options.delete_horizon.map(|horizon| Timestamp(horizon.0 + 1)), ..options };
                prop_assert_eq!(retain(header, &records, options, |_| true).unwrap(), Retained::All);
            }
            if result == Retained::All {
                result = Retained::Some(bytes, header);
            }
            let Retained::Some(out, out_header) = result else { panic!("the header stays") };
            let (parsed, got) = seen(&out);
            prop_assert_eq!(parsed, out_header);
            prop_assert_eq!(&got, &wanted);
            prop_assert_eq!((parsed.base_offset, parsed.last_offset()), (header.base_offset, header.last_offset()));
            prop_assert_eq!(parsed.partition_leader_epoch, header.partition_leader_epoch);
            prop_assert_eq!(Producer::of(&parsed), Producer::of(&header));
            prop_assert_eq!(parsed.last_sequence(), header.last_sequence());
            let tombstone_stays = wanted.iter().any(|record| record.3.is_none());
            prop_assert_eq!(parsed.attributes.has_delete_horizon(), horizon && tombstone_stays);
            if parsed.attributes.has_delete_horizon() {
                prop_assert_eq!(parsed.base_timestamp, HORIZON);
            }
            if let Some(newest) = wanted.iter().map(|record| record.1).max() {
                prop_assert_eq!(parsed.max_timestamp, newest);
                prop_assert_eq!(parsed.attributes.compression(), Some(codec));
            }
        }
    }

    #[test]
    fn nothing_is_left_unless_the_header_is_asked_for() {
        let (_, header, records) = stored(Compression::Gzip, &[false, true]);
        assert_eq!(retain(&header, &records, Retain::default(), |_| false).unwrap(), Retained::Nothing);
        let (bytes, empty) = header_alone(&header);
        assert_eq!(bytes.len(), HEADER_BYTES);
        assert_eq!(retain(&empty, &[], Retain::default(), |_| true).unwrap(), Retained::Nothing);
        let keep_header = Retain { emptied: Emptied::Header, ..Retain::default() };
        assert_eq!(retain(&empty, &[], keep_header, |_| true).unwrap(), Retained::All);
        assert_eq!(retain(&header, &records, keep_header, |_| false).unwrap(), Retained::Some(bytes, empty));
    }

    #[test]
    fn an_emptied_batch_is_what_the_log_cleaner_writes() {
        let java = Bytes::from_static(include_bytes!("../../fuzz/corpus/record_batch/java-emptied"));
        let header = BatchHeader::parse(&java).unwrap();
        assert_eq!(header_alone(&header), (java, header));
    }

    #[test]
    fn a_delete_horizon_is_what_the_log_cleaner_writes() {
        let java = Bytes::from_static(include_bytes!("../../fuzz/corpus/record_batch/java-compacted"));
        let source = Bytes::from_static(include_bytes!("../../fuzz/corpus/record_batch/java-idempotent"));
        let header = BatchHeader { base_offset: Offset(40), ..BatchHeader::parse(&source).unwrap() };
        let (java_header, java_records) = seen(&java);
        assert!(java_header.attributes.has_delete_horizon());
        let options = Retain { delete_horizon: Some(java_header.base_timestamp), emptied: Emptied::Nothing };
        let stays = |record: &Record<'_>| !matches!(record.key, Some(b"key-0" | b"big"));
        let Retained::Some(bytes, header) = retain(&header, &source[HEADER_BYTES..], options, stays).unwrap() else {
            panic!("some records stay");
        };
        assert_eq!(seen(&bytes), (header, java_records));
        assert_eq!(bytes, java);
    }
}
