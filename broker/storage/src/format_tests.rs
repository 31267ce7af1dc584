//! The formats of all files: what is written is what is read, any bytes are an error and no panic, and no changed byte goes unnoticed.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::{
    collection::{btree_map, vec},
    prelude::*,
};
use tidegate_records::{
    batch::Compression,
    build::BatchBuilder,
    ids::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition},
    time::Timestamp,
};

use crate::{
    disk::{AlignedBuffer, BLOCK_BYTES},
    journal::{
        self,
        checkpoint::{Checkpoint, Synced},
        format::{Entry, ROUND_HEADER_BYTES, RoundHeader, decode_directory, round_bytes, seal_round},
    },
    migrate,
    recovery::{decode_session, decode_snapshot, encode_session, encode_snapshot},
    segment::{
        format::{self, ExtentBatch, ExtentHeader, ExtentPlace, decode_extent, encode_extent, extent_bytes},
        index::{Index, IndexEntry, IndexFile},
        manifest::{Manifest, Segment, SegmentState},
    },
};

fn topic_partition() -> impl Strategy<Value = TopicPartition> {
    (any::<[u8; 16]>(), any::<i32>())
        .prop_map(|(topic, index)| TopicPartition::new(TopicId(topic), PartitionIndex(index)))
}

fn number() -> impl Strategy<Value = u64> {
    1..=u64::MAX / 2
}

/// A base and an end after it.
fn offsets() -> impl Strategy<Value = (Offset, Offset)> {
    (0..i64::MAX / 2, 1..i64::MAX / 2).prop_map(|(base, count)| (Offset(base), Offset(base + count)))
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp)
}

fn entry() -> impl Strategy<Value = Entry> {
    let common = || (topic_partition(), offsets(), any::<i32>().prop_map(LeaderEpoch), any::<u32>());
    prop_oneof![
        (common(), 0..1000_u32, timestamp()).prop_map(
            |((topic_partition, (base_offset, next_offset), leader_epoch, crc), length, append_time)| Entry::Batch {
                topic_partition,
                base_offset,
                next_offset,
                leader_epoch,
                length,
                crc,
                append_time
            }
        ),
        (common(), any::<u32>(), any::<u32>(), any::<u64>()).prop_map(
            |(
                (topic_partition, (base_offset, next_offset), leader_epoch, crc),
                length,
                position_blocks,
                incarnation,
            )| {
                Entry::Extent {
                    topic_partition,
                    base_offset,
                    next_offset,
                    leader_epoch,
                    length,
                    crc,
                    position_blocks,
                    incarnation,
                }
            }
        ),
        (topic_partition(), any::<i64>(), any::<u64>()).prop_map(|(topic_partition, to, number)| Entry::Truncate {
            topic_partition,
            to: Offset(to),
            number
        }),
    ]
}

fn segment() -> impl Strategy<Value = Segment> {
    let times = (timestamp(), timestamp(), timestamp(), timestamp());
    (offsets(), any::<u64>(), 0..3_u64, any::<u64>(), any::<u64>(), times).prop_map(
        |((base_offset, next_offset), incarnation, state, batches_bytes, end_position, times)| Segment {
            base_offset,
            incarnation,
            state: match state {
                0 => SegmentState::Active,
                1 => SegmentState::Sealed,
                _ => SegmentState::Offloaded { upload: incarnation | 1 },
            },
            next_offset,
            batches_bytes,
            end_position,
            min_timestamp: times.0,
            max_timestamp: times.1,
            first_append_time: times.2,
            last_append_time: times.3,
        },
    )
}

/// Every changed bit of what the decoder looks at is noticed.
fn assert_every_bit_counts<T>(bytes: &[u8], decode: impl Fn(&[u8]) -> Option<T>) {
    assert!(decode(bytes).is_some());
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1 << (at % 8);
        assert!(decode(&damaged).is_none(), "byte {at}");
        assert!(decode(&bytes[..at]).is_none(), "cut after {at}");
    }
}

proptest! {
    #[test]
    fn journal_headers_come_back(shard: u16, sequence: u64, session: u64, first_round in number(), before: u64) {
        let flushed_through = before % first_round;
        let header = journal::format::FileHeader { shard, sequence, session, first_round, flushed_through };
        let block = header.encode();
        prop_assert_eq!(block.len(), BLOCK_BYTES);
        prop_assert_eq!(journal::format::FileHeader::decode(block.as_slice()), Some(header));
        assert_every_bit_counts(&block.as_slice()[..64], journal::format::FileHeader::decode);
    }

    #[test]
    fn rounds_come_back(entries in vec(entry(), 0..6), sequence: u64, session: u64, round in number(), before: u64) {
        let body_bytes: usize = entries.iter().map(Entry::body_bytes).sum();
        let header = RoundHeader {
            sequence,
            session,
            round,
            flushed_through: before % round,
            position: 4096,
            entries_count: entries.len() as u32,
            body_bytes: body_bytes as u32,
        };
        let mut directory = vec![0; ROUND_HEADER_BYTES];
        entries.iter().for_each(|entry| entry.encode(&mut directory));
        prop_assert_eq!(directory.len(), header.directory_bytes());
        seal_round(&header, &mut directory);
        prop_assert_eq!(header.total_bytes(), round_bytes(entries.len(), body_bytes));
        prop_assert_eq!(decode_directory(&directory), Some((header, entries)));
        assert_every_bit_counts(&directory, decode_directory);
    }

    #[test]
    fn segment_headers_come_back(topic_partition in topic_partition(), base: i64, incarnation: u64, session: u64) {
        let header = format::FileHeader { topic_partition, base_offset: Offset(base), incarnation, session };
        let block = header.encode();
        prop_assert_eq!(format::FileHeader::decode(block.as_slice()), Some(header));
        assert_every_bit_counts(&block.as_slice()[..64], format::FileHeader::decode);
    }

    #[test]
    fn extents_come_back(
        topic_partition in topic_partition(),
        numbers: (u64, u64, u16, u64),
        values in vec(vec(any::<u8>(), 0..40), 1..4),
        times in vec(0..1_000_000_i64, 4),
        position_blocks in 0..1000_u64,
        epoch in 0..i32::MAX,
    ) {
        let (incarnation, session, shard, round) = numbers;
        let place = ExtentPlace { topic_partition, incarnation, session, shard, round };
        let leader_epoch = LeaderEpoch(epoch);
        let mut batches = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let mut builder = BatchBuilder::new(Compression::None);
            builder.push(Timestamp(times[index]), None, Some(value), []);
            let (bytes, header) = builder.build();
            batches.push(ExtentBatch {
                bytes,
                // Each leaves a gap before it, as compaction does.
                stamp: Some(Offset(10 + 2 * index as i64)),
                append_time: Timestamp(times[index]),
                min_timestamp: header.base_timestamp,
                max_timestamp: header.max_timestamp,
                leader_epoch,
                next_offset: Offset(11 + 2 * index as i64),
            });
        }
        let bytes = batches.iter().map(|batch| batch.bytes.len()).sum();
        let mut buffer = AlignedBuffer::with_capacity(extent_bytes(batches.len(), bytes));
        let header = encode_extent(place, position_blocks * 4096, Offset(9), &batches, &mut buffer);
        let extent = buffer.as_slice();
        prop_assert_eq!(extent.len(), header.total_bytes());
        prop_assert_eq!(ExtentHeader::decode(extent), Some(header));
        let decoded = decode_extent(&header, extent).expect("it was just encoded");
        prop_assert_eq!(decoded.len(), batches.len());
        for ((found, batch), base) in decoded.iter().zip(&batches).zip((10..).step_by(2)) {
            prop_assert_eq!(found.append_time, batch.append_time);
            prop_assert_eq!(found.header.base_offset, Offset(base));
            prop_assert_eq!(found.header.partition_leader_epoch, leader_epoch);
            // What is stamped are the first 16 bytes.
            prop_assert_eq!(&extent[found.range.clone()][16..], &batch.bytes[16..]);
        }
        let end = header.batches_at() + header.batches_bytes as usize;
        assert_every_bit_counts(&extent[..end], |bytes| {
            let header = ExtentHeader::decode(bytes)?;
            decode_extent(&header, bytes).map(drop)
        });
    }

    #[test]
    fn indexes_come_back(
        topic_partition in topic_partition(),
        segment in segment(),
        session: u64,
        entries in vec((any::<i64>(), any::<u32>(), any::<i32>(), timestamp()), 0..5),
    ) {
        let entries = entries.into_iter().map(|(base_offset, position_blocks, epoch, max_timestamp)| IndexEntry {
            base_offset: Offset(base_offset),
            position_blocks,
            leader_epoch: LeaderEpoch(epoch),
            max_timestamp,
        });
        // An index is of a file: where the bytes went is the manifest's to say.
        let state = if segment.state.is_sealed() { SegmentState::Sealed } else { SegmentState::Active };
        let segment = Segment { state, ..segment };
        let file = IndexFile { topic_partition, segment, session, index: Index { entries: entries.collect() } };
        let bytes = file.encode();
        prop_assert_eq!(IndexFile::decode(&bytes), Some(file));
        assert_every_bit_counts(&bytes, IndexFile::decode);
    }

    #[test]
    fn manifests_come_back(
        topic_partition in topic_partition(),
        numbers: (i64, u64, u64, i64),
        segments in vec(segment(), 0..4),
        epochs in vec((any::<i32>(), any::<i64>()), 0..4),
        had_objects: bool,
    ) {
        let manifest = Manifest {
            has_objects: had_objects || segments.iter().any(|segment| segment.state.is_offloaded()),
            topic_partition,
            log_start_offset: Offset(numbers.0),
            truncations: numbers.1,
            next_incarnation: numbers.2,
            end_without_segments: Offset(numbers.3),
            segments,
            epochs: epochs.into_iter().map(|(epoch, start)| (LeaderEpoch(epoch), Offset(start))).collect(),
        };
        let bytes = manifest.encode();
        prop_assert_eq!(Manifest::decode(&bytes), Some(manifest));
        assert_every_bit_counts(&bytes, Manifest::decode);
    }

    #[test]
    fn checkpoints_come_back(
        last_round: (u64, u64),
        segments in vec((topic_partition(), any::<u64>(), any::<u64>(), any::<i64>()), 0..4),
        held in vec((any::<u64>(), vec(topic_partition(), 1..3)), 0..3),
        files in btree_map(any::<u64>(), any::<u64>(), 0..3),
    ) {
        let segments: BTreeMap<_, _> = segments
            .into_iter()
            .map(|(tp, incarnation, position, next)| (tp, Synced { incarnation, position, next_offset: Offset(next) }))
            .collect();
        let checkpoint = Checkpoint { last_round, segments, held: held.into_iter().collect(), files };
        let bytes = checkpoint.encode();
        prop_assert_eq!(Checkpoint::decode(&bytes), Some(checkpoint));
        assert_every_bit_counts(&bytes, Checkpoint::decode);
    }

    #[test]
    fn small_files_come_back(session: u64, settled: u64, shards: u16, content: Vec<u8>) {
        let bytes = encode_session(session, settled);
        prop_assert_eq!(decode_session(&bytes), Some((session, settled)));
        assert_every_bit_counts(&bytes, decode_session);
        let bytes = migrate::encode(shards);
        prop_assert_eq!(migrate::decode(&bytes), Some(shards));
        assert_every_bit_counts(&bytes, migrate::decode);
        let bytes = encode_snapshot(&content);
        prop_assert_eq!(decode_snapshot(&Bytes::copy_from_slice(&bytes)), Some(Bytes::from(content)));
        assert_every_bit_counts(&bytes, |bytes| decode_snapshot(&Bytes::copy_from_slice(bytes)));
    }

    #[test]
    fn any_bytes_are_no_panic(bytes: Vec<u8>, magic in 0..10_usize) {
        const MAGICS: [&[u8]; 10] = [
            b"", b"TGJOURNL", b"TGRD", b"TGSEGMNT", b"TGEX", b"TGINDEX\0", b"TGPARTTN", b"TGCHECKP", b"TGSESSIO", b"TGSNAPSH",
        ];
        let mut bytes = [MAGICS[magic], &bytes].concat();
        // Once as it is, once with the checksum at its end right, as most files have it.
        for _ in 0..2 {
            let _ = journal::format::FileHeader::decode(&bytes);
            let _ = decode_directory(&bytes);
            let _ = format::FileHeader::decode(&bytes);
            let _ = ExtentHeader::decode(&bytes).map(|header| decode_extent(&header, &bytes));
            let _ = IndexFile::decode(&bytes);
            let _ = Manifest::decode(&bytes);
            let _ = Checkpoint::decode(&bytes);
            let _ = decode_session(&bytes);
            let _ = migrate::decode(&bytes);
            let _ = decode_snapshot(&Bytes::copy_from_slice(&bytes));
            let sum = crc32c::crc32c(&bytes);
            bytes.extend_from_slice(&sum.to_le_bytes());
        }
    }
}

/// As a broker wrote it that knew of no object store.
const MANIFEST_OF_VERSION_1: &str = "544750415254544e0100000003000000000102030405060708090a0b0c0d0e0f0700000000000000020000000000000009000000000000000000000000000000\
    02000000010000000500000000000000030000000000000001000000000000002800000000000000d20400000000000000200000000000006400000000000000\
    c8000000000000002c01000000000000900100000000000028000000000000000800000000000000000000000000000037000000000000006300000000000000\
    0020000000000000c900000000000000ca0000000000000091010000000000009201000000000000040000000500000000000000660bedf9";

#[test]
fn a_manifest_of_before_segments_could_be_offloaded_is_read_and_stays_as_it_is() {
    let text = MANIFEST_OF_VERSION_1;
    let bytes: Vec<u8> =
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect();
    let manifest = Manifest::decode(&bytes).expect("it is whole");
    assert!(!manifest.has_objects);
    assert_eq!((manifest.log_start_offset, manifest.truncations, manifest.next_incarnation), (Offset(7), 2, 9));
    let states: Vec<_> = manifest.segments.iter().map(|segment| (segment.base_offset.0, segment.state)).collect();
    assert_eq!(states, [(5, SegmentState::Sealed), (40, SegmentState::Active)]);
    assert_eq!(manifest.epochs, [(LeaderEpoch(4), Offset(5))]);
    assert_eq!(manifest.encode(), bytes, "an earlier broker can go on with it");
}

#[test]
fn a_manifest_that_names_an_object_without_its_upload_is_none() {
    let mut segment = Segment::new(Offset(0), 1);
    segment.state = SegmentState::Offloaded { upload: 0 };
    let topic_partition = TopicPartition::new(TopicId([1; 16]), PartitionIndex(0));
    let manifest = Manifest { has_objects: true, segments: vec![segment], ..Manifest::new(topic_partition) };
    assert_eq!(Manifest::decode(&manifest.encode()), None);
}
