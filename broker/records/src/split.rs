//! One batch becomes several: a part for each destination that a plugin chose.
//!
//! The bytes of keys, values and headers are taken over as they are; only lengths and offset deltas are written anew. A part
//! carries the original batch's base sequence, so that a retry of the batch is recognised at every destination; the gaps that this
//! leaves are those of a derived producer (see `model::partition::producers`).

use bytes::{Bytes, BytesMut};

use crate::{
    batch::{self, BatchHeader, HEADER_BYTES},
    build::{Producer, assemble, put_record, write_header},
    record::{RecordError, Records},
    time::Timestamp,
};

/// Which destinations (numbered from 0) each record of a batch goes to.
#[derive(Clone, Copy, Debug)]
pub enum Assignment<'a> {
    /// Every record to all of these.
    Uniform(&'a [u32]),
    /// Record i to destination `[i]`.
    Single(&'a [u32]),
    /// Record i to `destinations[ends[i-1]..ends[i]]`; to none if that is empty.
    Many { ends: &'a [u32], destinations: &'a [u32] },
}

impl Assignment<'_> {
    fn of(&self, record: usize) -> &[u32] {
        match self {
            Self::Uniform(destinations) => destinations,
            Self::Single(destinations) => destinations.get(record..=record).unwrap_or_default(),
            Self::Many { ends, destinations } => {
                let start = if record == 0 { 0 } else { ends.get(record - 1).map_or(0, |end| *end as usize) };
                let end = ends.get(record).map_or(start, |end| *end as usize);
                destinations.get(start..end).unwrap_or_default()
            }
        }
    }
}

#[derive(Clone, Default)]
struct Part {
    records: Vec<u8>,
    count: i32,
    max_timestamp: Timestamp,
}

/// Splits a validated batch by destination. `bytes` is the batch, `records` its records decompressed, `count` how many destinations there
/// are. A destination that gets nothing has no part; one that gets every record keeps the batch's bytes.
///
/// # Errors
/// [`RecordError`]; does not happen for a validated batch.
pub fn split(
    bytes: &Bytes,
    header: &BatchHeader,
    records: &[u8],
    assignment: Assignment<'_>,
    count: usize,
    producer: Option<Producer>,
) -> Result<Vec<Option<(Bytes, BatchHeader)>>, RecordError> {
    if let Assignment::Uniform(destinations) = assignment {
        let whole = with_producer(bytes, header, producer);
        let mut parts = vec![None; count];
        for destination in destinations {
            if let Some(part) = parts.get_mut(*destination as usize) {
                *part = Some(whole.clone());
            }
        }
        return Ok(parts);
    }
    let mut parts = vec![Part::default(); count];
    for (index, record) in Records::new(records, header.records_count).enumerate() {
        let record = record?;
        for destination in assignment.of(index) {
            let Some(part) = parts.get_mut(*destination as usize) else { continue };
            put_record(&mut part.records, record.timestamp_delta, part.count, record.payload);
            let timestamp = record.timestamp(header);
            part.max_timestamp = if part.count == 0 { timestamp } else { part.max_timestamp.max(timestamp) };
            part.count += 1;
        }
    }
    Ok(parts
        .into_iter()
        .map(|part| match part.count {
            0 => None,
            all if all == header.records_count => Some(with_producer(bytes, header, producer)),
            _ => {
                let producer = producer.unwrap_or(Producer {
                    id: header.producer_id,
                    epoch: header.producer_epoch,
                    base_sequence: header.base_sequence,
                });
                let header = BatchHeader {
                    last_offset_delta: part.count - 1,
                    records_count: part.count,
                    max_timestamp: part.max_timestamp,
                    producer_id: producer.id,
                    producer_epoch: producer.epoch,
                    base_sequence: producer.base_sequence,
                    ..*header
                };
                Some(assemble(header, &part.records))
            }
        })
        .collect())
}

/// The same batch as another producer's. Its bytes are kept if nothing changes.
#[must_use]
pub fn with_producer(bytes: &Bytes, header: &BatchHeader, producer: Option<Producer>) -> (Bytes, BatchHeader) {
    let Some(producer) = producer else { return (bytes.clone(), *header) };
    let mut changed = BatchHeader {
        producer_id: producer.id,
        producer_epoch: producer.epoch,
        base_sequence: producer.base_sequence,
        ..*header
    };
    if changed == *header {
        return (bytes.clone(), *header);
    }
    let mut out = BytesMut::from(bytes.as_ref());
    write_header(&mut out[..HEADER_BYTES], &changed);
    changed.crc = batch::checksum(&out);
    out[17..21].copy_from_slice(&changed.crc.to_be_bytes());
    (out.freeze(), changed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        batch::Compression,
        build::BatchBuilder,
        compress::decompress,
        ids::{ProducerEpoch, ProducerId, Sequence},
        validate::{Rules, validate},
    };

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

    proptest! {
        #[test]
        fn every_record_is_where_it_was_sent_in_order(
            routes in prop::collection::vec(prop::collection::vec(0_u32..4, 0..3), 1..40), zstd in any::<bool>(),
        ) {
            let codec = if zstd { Compression::Zstd } else { Compression::None };
            let mut builder = BatchBuilder::new(codec);
            for index in 0..routes.len() {
                builder.push(Timestamp(index as i64 * 3), None, Some(format!("v{index}").as_bytes()), []);
            }
            let (bytes, header) = builder.build();
            let records = decompress(codec, &bytes.slice(HEADER_BYTES..), 1 << 26).unwrap();
            let mut ends = Vec::new();
            let mut destinations = Vec::new();
            for route in &routes {
                let mut route = route.clone();
                route.sort_unstable();
                route.dedup();
                destinations.extend(route);
                ends.push(destinations.len() as u32);
            }
            let producer = Producer { id: ProducerId(9), epoch: ProducerEpoch(1), base_sequence: Sequence(70) };
            let assignment = Assignment::Many { ends: &ends, destinations: &destinations };
            let parts = split(&bytes, &header, &records, assignment, 4, Some(producer)).unwrap();
            for (destination, part) in parts.iter().enumerate() {
                let wanted: Vec<String> = routes.iter().enumerate()
                    .filter(|(_, route)| route.contains(&(destination as u32)))
                    .map(|(index, _)| format!("v{index}"))
                    .collect();
                let Some((bytes, header)) = part else {
                    prop_assert!(wanted.is_empty());
                    continue;
                };
                let validated = validate(bytes.clone(), &rules()).unwrap();
                prop_assert_eq!(validated.header(), header);
                prop_assert_eq!(header.base_sequence, Sequence(70));
                let records = validated.records(1 << 26).unwrap();
                let got: Vec<String> = Records::new(&records, header.records_count)
                    .map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap())
                    .collect();
                prop_assert_eq!(got, wanted);
            }
        }
    }

    #[test]
    fn one_destination_keeps_the_bytes() {
        let mut builder = BatchBuilder::new(Compression::Lz4);
        builder.push(Timestamp(1), None, Some(b"a"), []);
        builder.push(Timestamp(2), None, Some(b"b"), []);
        let (bytes, header) = builder.build();
        let records = decompress(Compression::Lz4, &bytes.slice(HEADER_BYTES..), 1000).unwrap();
        for assignment in [Assignment::Uniform(&[1]), Assignment::Single(&[1, 1])] {
            let parts = split(&bytes, &header, &records, assignment, 2, None).unwrap();
            assert!(parts[0].is_none());
            assert_eq!(parts[1].as_ref().unwrap().0, bytes);
        }
    }
}
