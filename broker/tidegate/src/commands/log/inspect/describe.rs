//! What is said of each part of a file, to people and to machines. Which parts are said, and when, is `inspect.rs`'s to decide.

use serde_json::{Value, json};
use tidegate_records::{
    batch::{BatchHeader, Compression},
    ids::{Offset, TopicPartition},
    time::Timestamp,
};
use tidegate_storage::{journal::format::Entry, object_key, segment::format::ExtentHeader, verify::Part};

use super::{super::batches, Line, Print};
use crate::{moment, output};

impl Print<'_> {
    /// The line of a part; `None` of a batch where batches are not asked for.
    pub(super) fn describe(&self, position: u64, bytes: u64, part: Part<'_>) -> Option<Line> {
        let line = |indent, kind, text: String, fields| {
            Some(Line { position: Some((position, bytes)), indent, kind, text, fields })
        };
        match part {
            Part::Layout { shards } => {
                line(0, "layout", output::count(u64::from(shards), "shard"), json!({ "shards": shards }))
            }
            Part::Session { session, settled_session } => line(
                0,
                "session",
                format!("session {session}, settled up to {settled_session}"),
                json!({ "session": session, "settled_session": settled_session }),
            ),
            Part::Checkpoint(checkpoint) => line(
                0,
                "checkpoint",
                format!(
                    "up to round {} of session {}: {}, {}",
                    checkpoint.last_round.1,
                    checkpoint.last_round.0,
                    output::count(checkpoint.segments.len() as u64, "active segment"),
                    output::count(checkpoint.held.len() as u64, "held journal file"),
                ),
                json!({
                    "session": checkpoint.last_round.0,
                    "round": checkpoint.last_round.1,
                    "segments": checkpoint
                        .segments
                        .iter()
                        .map(|(of, synced)| {
                            json!({
                                "topic": self.topics.name(of.topic),
                                "partition": of.partition.0,
                                "incarnation": synced.incarnation,
                                "end_position": synced.position,
                                "next_offset": synced.next_offset.0,
                            })
                        })
                        .collect::<Vec<_>>(),
                    "held": checkpoint.held.keys().collect::<Vec<_>>(),
                }),
            ),
            Part::JournalHeader(header) => line(
                0,
                "journal-header",
                format!(
                    "header: shard {}, sequence {}, session {}, first round {}, flushed through round {}",
                    header.shard, header.sequence, header.session, header.first_round, header.flushed_through
                ),
                json!({
                    "shard": header.shard,
                    "sequence": header.sequence,
                    "session": header.session,
                    "first_round": header.first_round,
                    "flushed_through": header.flushed_through,
                }),
            ),
            Part::Round(header) => line(
                0,
                "round",
                format!(
                    "round {}: {}, {} of batches, flushed through round {}",
                    header.round,
                    entries(header.entries_count),
                    output::bytes(u64::from(header.body_bytes)),
                    header.flushed_through
                ),
                json!({
                    "round": header.round,
                    "session": header.session,
                    "entries": header.entries_count,
                    "batches_bytes": header.body_bytes,
                    "flushed_through": header.flushed_through,
                }),
            ),
            Part::Entry(entry) => {
                let (text, fields) = self.entry(entry);
                line(1, "entry", text, fields)
            }
            Part::Manifest(manifest) => {
                let segments: Vec<Value> = manifest
                    .segments
                    .iter()
                    .map(|segment| {
                        json!({
                            "base_offset": segment.base_offset.0,
                            "next_offset": segment.next_offset.0,
                            "incarnation": segment.incarnation,
                            "sealed": segment.state.is_sealed(),
                            "object": object_key(manifest.topic_partition, segment),
                            "batches_bytes": segment.batches_bytes,
                            "end_position": segment.end_position,
                        })
                    })
                    .collect();
                line(
                    0,
                    "manifest",
                    format!(
                        "log starts at offset {}, {}, {}, {}",
                        manifest.log_start_offset,
                        output::count(manifest.segments.len() as u64, "segment"),
                        output::count(manifest.epochs.len() as u64, "leader epoch"),
                        output::count(manifest.truncations, "cut"),
                    ),
                    json!({
                        "log_start_offset": manifest.log_start_offset.0,
                        "cuts": manifest.truncations,
                        "next_incarnation": manifest.next_incarnation,
                        "segments": segments,
                        "epochs": manifest.epochs.iter().map(|(epoch, first)| (epoch.0, first.0)).collect::<Vec<_>>(),
                    }),
                )
            }
            Part::SegmentHeader(header) => line(
                0,
                "segment-header",
                format!(
                    "header: base offset {}, incarnation {}, session {}",
                    header.base_offset, header.incarnation, header.session
                ),
                json!({
                    "base_offset": header.base_offset.0,
                    "incarnation": header.incarnation,
                    "session": header.session,
                }),
            ),
            Part::Extent { header, whole } => {
                let (text, fields) = self.extent(header, whole);
                line(0, "extent", text, fields)
            }
            Part::Batch { topic_partition, header, append_time, whole, .. } => {
                if !self.batches {
                    return None;
                }
                let (text, fields) = self.batch(topic_partition, header, append_time, whole);
                line(1, "batch", text, fields)
            }
            Part::Index(index) => line(
                0,
                "index",
                format!(
                    "{} up to offset {}, byte {}",
                    output::count(index.index.entries.len() as u64, "extent"),
                    index.segment.next_offset,
                    index.segment.end_position
                ),
                json!({
                    "extents": index.index.entries.len(),
                    "next_offset": index.segment.next_offset.0,
                    "end_position": index.segment.end_position,
                }),
            ),
            Part::Snapshot { offset, content } => line(
                0,
                "snapshot",
                format!("producers below offset {offset}, {}", output::bytes(content.len() as u64)),
                json!({ "offset": offset.0 }),
            ),
            Part::Unused => line(0, "unused", "unused".to_owned(), json!({})),
        }
    }

    fn entry(&self, entry: &Entry) -> (String, Value) {
        let of = entry.topic_partition();
        let partition = self.topics.partition(of);
        let (text, mut fields) = match *entry {
            Entry::Batch { base_offset, next_offset, leader_epoch, length, .. } => (
                format!("{partition}: a batch of {length} bytes, offsets {}", offsets(base_offset, next_offset)),
                json!({
                    "entry": "batch",
                    "base_offset": base_offset.0,
                    "last_offset": next_offset.0 - 1,
                    "leader_epoch": leader_epoch.0,
                    "batch_bytes": length,
                }),
            ),
            Entry::Extent { base_offset, next_offset, leader_epoch, length, position_blocks, incarnation, .. } => (
                format!(
                    "{partition}: an extent of {length} bytes at byte {} of segment incarnation {incarnation}, offsets {}",
                    u64::from(position_blocks) * 4096,
                    offsets(base_offset, next_offset)
                ),
                json!({
                    "entry": "extent",
                    "base_offset": base_offset.0,
                    "last_offset": next_offset.0 - 1,
                    "leader_epoch": leader_epoch.0,
                    "extent_bytes": length,
                    "extent_position": u64::from(position_blocks) * 4096,
                    "incarnation": incarnation,
                }),
            ),
            Entry::Truncate { to, number, .. } => (
                format!("{partition}: cut back to offset {to}, cut {number}"),
                json!({ "entry": "cut", "to": to.0, "cut": number }),
            ),
        };
        if let Value::Object(fields) = &mut fields {
            fields.insert("topic".to_owned(), json!(self.topics.name(of.topic)));
            fields.insert("partition".to_owned(), json!(of.partition.0));
        }
        (text, fields)
    }

    fn extent(&self, header: &ExtentHeader, whole: bool) -> (String, Value) {
        let how = match header.place.round {
            0 => "applied from the journal".to_owned(),
            round => format!("written by round {round} of shard {}", header.place.shard),
        };
        let text = format!(
            "extent: offsets {}, {}, {}, {how}, session {}{}",
            offsets(header.base_offset, header.next_offset),
            batches(header.batches_count),
            output::bytes(u64::from(header.batches_bytes)),
            header.place.session,
            crc(whole)
        );
        let fields = json!({
            "base_offset": header.base_offset.0,
            "last_offset": header.next_offset.0 - 1,
            "batches": header.batches_count,
            "batches_bytes": header.batches_bytes,
            "leader_epoch": header.leader_epoch.0,
            "round": header.place.round,
            "shard": header.place.shard,
            "session": header.place.session,
            "crc_ok": whole,
        });
        (text, fields)
    }

    fn batch(&self, of: TopicPartition, header: &BatchHeader, append_time: Timestamp, whole: bool) -> (String, Value) {
        let producer = if header.producer_id.is_some() {
            format!(
                ", producer {} epoch {} sequence {}",
                header.producer_id.0, header.producer_epoch.0, header.base_sequence.0
            )
        } else {
            String::new()
        };
        let codec = header.attributes.compression();
        let text = format!(
            "batch: offsets {}, {}, {}, epoch {}, appended {}{producer}{}",
            offsets(header.base_offset, header.next_offset()),
            output::count(u64::try_from(header.records_count).unwrap_or(0), "record"),
            compression(codec),
            header.partition_leader_epoch.0,
            moment::display(append_time),
            crc(whole)
        );
        let fields = json!({
            "topic": self.topics.name(of.topic),
            "partition": of.partition.0,
            "base_offset": header.base_offset.0,
            "last_offset": header.last_offset().0,
            "records": header.records_count,
            "compression": compression(codec),
            "leader_epoch": header.partition_leader_epoch.0,
            "producer_id": header.producer_id.0,
            "producer_epoch": header.producer_epoch.0,
            "base_sequence": header.base_sequence.0,
            "base_timestamp": header.base_timestamp.0,
            "max_timestamp": header.max_timestamp.0,
            "append_time": append_time.0,
            "crc_ok": whole,
        });
        (text, fields)
    }
}

fn entries(count: u32) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{} entries", output::thousands(u64::from(count))) }
}

fn offsets(base_offset: Offset, next_offset: Offset) -> String {
    match next_offset.0 - 1 {
        last if last == base_offset.0 => last.to_string(),
        last => format!("{base_offset}..={last}"),
    }
}

fn crc(whole: bool) -> &'static str {
    if whole { "" } else { ", CRC WRONG" }
}

fn compression(codec: Option<Compression>) -> &'static str {
    match codec {
        Some(Compression::None) => "uncompressed",
        Some(Compression::Gzip) => "gzip",
        Some(Compression::Snappy) => "snappy",
        Some(Compression::Lz4) => "lz4",
        Some(Compression::Zstd) => "zstd",
        None => "unknown compression",
    }
}
