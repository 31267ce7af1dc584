//! `tidegate log`: what the files of a stopped broker hold, byte position by byte position, and whether they are whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use tidegate_records::{
    batch::{BatchHeader, Compression, HEADER_BYTES},
    compress::decompress,
    ids::{Offset, PartitionIndex, TopicId, TopicPartition},
    record::Records,
    time::Timestamp,
};
use tidegate_server::{
    control::{plugins::verify_components, quorum::Quorum},
    data_directory::StoppedDirectory,
};
use tidegate_storage::{
    disk::DiskError,
    journal::format::Entry,
    missing_journals, object_key, partition_of_directory,
    read_only::{ReadOnlyDisk, block_on},
    segment::{format::ExtentHeader, manifest::Segment},
    verify::{FileKind, Finding, Part, Seen, verify},
};

use super::{Json, Usage};
use crate::{moment, output, record_format::text};

/// What one batch may decompress to while its records are shown.
const DECOMPRESSED_BYTES_MAX: usize = 1 << 30;
/// How much of a key or value is shown to people.
const TEXT_CHARS_MAX: usize = 60;

/// Look at the files of a stopped broker, or check them
///
/// Both read only. The broker on the directory must be stopped.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate log verify ./tidegate-data
  tidegate log inspect ./tidegate-data --topic orders --partition 0 --batches")]
pub(super) struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    Inspect(InspectArgs),
    Verify(VerifyArgs),
}

/// Print what the files hold, byte position by byte position
///
/// Each file, and in it every round of the journal and every extent of a segment. A file's name starts at the margin, what is in
/// it follows with its position and its size in bytes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate log inspect ./tidegate-data                                      files, rounds and extents
  tidegate log inspect ./tidegate-data --topic orders --partition 0 --batches
  tidegate log inspect ./tidegate-data --records --json | jq 'select(.kind == \"record\")'")]
struct InspectArgs {
    /// The broker's data directory
    dir: PathBuf,
    /// Only this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Only this partition
    #[arg(long, value_name = "NUMBER", requires = "topic", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Show batches, too
    #[arg(long)]
    batches: bool,
    /// Show batches and records, too
    #[arg(long)]
    records: bool,
    /// Print JSON, one object a line, for machines
    #[arg(long)]
    json: bool,
}

/// Check every checksum and offset
///
/// Exit code 0: all is whole. 1: something is damaged; each place is named with its file, byte and offset, and what to do. What a
/// crash tore and nobody was told to be written is no damage.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate log verify ./tidegate-data
  tidegate log verify /backup/tidegate-data --json | jq -r .file")]
struct VerifyArgs {
    /// The broker's data directory
    dir: PathBuf,
    #[command(flatten)]
    json: Json,
}

impl LogArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        match self.command {
            LogCommand::Inspect(args) => args.run(out),
            LogCommand::Verify(args) => args.run(out),
        }
    }
}

/// Something is damaged. What, was said.
#[derive(Debug, thiserror::Error)]
#[error("{} damaged in {}", output::count(*.places, "place"), directory.display())]
struct NotWhole {
    places: u64,
    directory: PathBuf,
}

/// The topics' names and their partitions, where the metadata can be read.
#[derive(Default)]
struct Topics {
    names: BTreeMap<TopicId, String>,
    partitions: BTreeSet<TopicPartition>,
    /// Deleted ones: what is left of their files may be there.
    deleted: BTreeSet<TopicId>,
    /// What is wrong with the components of deployed plugins.
    plugins: Vec<String>,
}

impl Topics {
    fn read(directory: &Path) -> anyhow::Result<Self> {
        let (image, deleted) = Quorum::read_with_deleted(directory)?;
        let mut topics = Self { deleted, ..Self::default() };
        for topic in image.topics() {
            topics.names.insert(topic.id, topic.name.clone());
            topics.partitions.extend(topic.partition_indexes().map(|index| TopicPartition::new(topic.id, index)));
        }
        topics.plugins = verify_components(directory, &image).iter().map(ToString::to_string).collect();
        Ok(topics)
    }

    /// Directories of partitions that no topic has, and no deleted one had.
    fn strays(&self, directory: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory.join("partitions")).into_iter().flatten().flatten();
        let mut strays: Vec<PathBuf> = entries
            .filter(|entry| {
                let name = entry.file_name();
                let whose = name.to_str().and_then(partition_of_directory);
                // Of one whose objects are still to be removed a file is left that says so.
                let is_known = |whose: &TopicPartition| {
                    self.partitions.contains(whose)
                        || self.deleted.contains(&whose.topic)
                        || entry.path().join("deleted.tgm").exists()
                };
                whose.is_some_and(|whose| !is_known(&whose))
            })
            .map(|entry| Path::new("partitions").join(entry.file_name()))
            .collect();
        strays.sort_unstable();
        strays
    }

    fn name(&self, topic: TopicId) -> String {
        self.names.get(&topic).cloned().unwrap_or_else(|| topic.to_hex())
    }

    fn partition(&self, of: TopicPartition) -> String {
        format!("{}-{}", self.name(of.topic), of.partition.0)
    }
}

impl InspectArgs {
    fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let directory = StoppedDirectory::open(&self.dir)?;
        let topics = Topics::read(&directory.path)?;
        let mut partitions = topics.partitions.clone();
        if let Some(name) = &self.topic {
            let wanted = self.partition.map(PartitionIndex);
            partitions.retain(|each| {
                topics.names.get(&each.topic) == Some(name) && wanted.is_none_or(|wanted| wanted == each.partition)
            });
            if partitions.is_empty() {
                return Err(self.nothing_to_show(name, &topics).into());
            }
        }
        let mut print = Print {
            out,
            filtered: self.topic.is_some(),
            batches: self.batches || self.records,
            records: self.records,
            json: self.json,
            topics: &topics,
            file: PathBuf::new(),
            held: Vec::new(),
            failed: None,
        };
        let disk = ReadOnlyDisk::new(&directory.path);
        block_on(verify(&disk, Some(&partitions), &mut |seen| print.see(seen)))?;
        print.failed.map_or(Ok(()), |error| Err(error.into()))
    }

    fn nothing_to_show(&self, name: &str, topics: &Topics) -> Usage {
        if topics.names.values().any(|each| each == name) {
            return Usage(format!("topic {name} has no partition {}", self.partition.unwrap_or_default()));
        }
        let mut names: Vec<&str> = topics.names.values().map(String::as_str).collect();
        names.sort_unstable();
        Usage(format!("there is no topic {name} in {}; there are: {}", self.dir.display(), names.join(", ")))
    }
}

/// A line to print: for people `text`, for machines `fields`.
struct Line {
    position: Option<(u64, u64)>,
    indent: usize,
    kind: &'static str,
    text: String,
    fields: Value,
}

/// Prints what is seen, as it is seen.
struct Print<'a> {
    out: &'a mut dyn Write,
    filtered: bool,
    batches: bool,
    records: bool,
    json: bool,
    topics: &'a Topics,
    file: PathBuf,
    /// The lines of a file, or of a round, that are printed only if something wanted follows.
    held: Vec<Line>,
    failed: Option<io::Error>,
}

impl Print<'_> {
    fn see(&mut self, seen: Seen<'_>) {
        if self.failed.is_some() {
            return;
        }
        let done = match seen {
            Seen::File { path, bytes, kind, topic_partition } => self.file(path, bytes, kind, topic_partition),
            Seen::Part { position, bytes, part } => self.part(position, bytes, part),
            Seen::Offloaded { topic_partition, segment, key } => self.offloaded(topic_partition, segment, key),
            Seen::Finding(finding) => self.finding(finding),
        };
        self.failed = done.err();
    }

    fn line(&mut self, line: Line) -> io::Result<()> {
        if self.json {
            let mut object = Map::new();
            object.insert("file".to_owned(), json!(self.file));
            object.insert("kind".to_owned(), json!(line.kind));
            if let Some((position, bytes)) = line.position {
                object.insert("position".to_owned(), json!(position));
                object.insert("bytes".to_owned(), json!(bytes));
            }
            if let Value::Object(fields) = line.fields {
                object.extend(fields);
            }
            serde_json::to_writer(&mut *self.out, &object)?;
            return writeln!(self.out);
        }
        match line.position {
            Some((position, bytes)) => {
                let indent = "  ".repeat(line.indent);
                writeln!(self.out, "{position:>12} {bytes:>10}  {indent}{}", line.text)
            }
            None => writeln!(self.out, "{}", line.text),
        }
    }

    fn release(&mut self) -> io::Result<()> {
        for line in std::mem::take(&mut self.held) {
            self.line(line)?;
        }
        Ok(())
    }

    fn file(
        &mut self,
        path: &Path,
        bytes: u64,
        kind: FileKind,
        topic_partition: Option<TopicPartition>,
    ) -> io::Result<()> {
        path.clone_into(&mut self.file);
        let what = match kind {
            FileKind::Layout => "layout",
            FileKind::Session => "session",
            FileKind::Checkpoint => "checkpoint",
            FileKind::Journal => "journal",
            FileKind::Manifest => "manifest",
            FileKind::Segment => "segment",
            FileKind::Index => "index",
            FileKind::Snapshot => "snapshot of producers",
        };
        let whose = topic_partition.map(|of| format!(" of {}", self.topics.partition(of))).unwrap_or_default();
        let line = Line {
            position: None,
            indent: 0,
            kind: "file",
            text: format!("{}: {what}{whose}, {}", path.display(), output::bytes(bytes)),
            fields: json!({
                "what": what,
                "bytes": bytes,
                "topic": topic_partition.map(|of| self.topics.name(of.topic)),
                "partition": topic_partition.map(|of| of.partition.0),
            }),
        };
        self.held = vec![line];
        // With a filter the files of shards are shown only where they hold something of it.
        if self.filtered && topic_partition.is_none() { Ok(()) } else { self.release() }
    }

    /// A segment that is no file here.
    fn offloaded(&mut self, topic_partition: TopicPartition, segment: &Segment, key: &str) -> io::Result<()> {
        self.file = PathBuf::from(key);
        self.held.clear();
        self.line(Line {
            position: None,
            indent: 0,
            kind: "offloaded",
            text: format!(
                "in the object store: {key}: segment of {}, offsets {} to {}, {}",
                self.topics.partition(topic_partition),
                segment.base_offset,
                segment.next_offset.0 - 1,
                output::bytes(segment.end_position)
            ),
            fields: json!({
                "topic": self.topics.name(topic_partition.topic),
                "partition": topic_partition.partition.0,
                "base_offset": segment.base_offset.0,
                "next_offset": segment.next_offset.0,
                "batches_bytes": segment.batches_bytes,
                "end_position": segment.end_position,
            }),
        })
    }

    fn part(&mut self, position: u64, bytes: u64, part: Part<'_>) -> io::Result<()> {
        let shard_wide = matches!(
            part,
            Part::Layout { .. }
                | Part::Session { .. }
                | Part::Checkpoint(_)
                | Part::JournalHeader(_)
                | Part::Round(_)
                | Part::Unused
        );
        let Some(line) = self.describe(position, bytes, part) else { return Ok(()) };
        if shard_wide && self.filtered && !self.in_partition_file() {
            if matches!(part, Part::Round(_)) {
                self.held.retain(|line| line.kind != "round");
            }
            self.held.push(line);
            return Ok(());
        }
        self.release()?;
        // An entry is a line only where batches are; with a filter it calls for its round's.
        if line.kind == "entry" && !self.batches {
            return Ok(());
        }
        self.line(line)?;
        match part {
            Part::Batch { header, bytes, whole: true, .. } if self.records => self.records(position, header, bytes),
            _ => Ok(()),
        }
    }

    fn in_partition_file(&self) -> bool {
        self.file.starts_with("partitions")
    }

    fn describe(&self, position: u64, bytes: u64, part: Part<'_>) -> Option<Line> {
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

    fn records(&mut self, position: u64, header: &BatchHeader, bytes: &bytes::Bytes) -> io::Result<()> {
        let codec = header.attributes.compression().unwrap_or(Compression::None);
        let body = match decompress(codec, &bytes.slice(HEADER_BYTES.min(bytes.len())..), DECOMPRESSED_BYTES_MAX) {
            Ok(body) => body,
            Err(error) => return self.unreadable(position, &error),
        };
        for record in Records::new(&body, header.records_count) {
            let record = match record {
                Ok(record) => record,
                Err(error) => return self.unreadable(position, &error),
            };
            let (offset, timestamp) = (record.offset(header), record.timestamp(header));
            let headers: Vec<Value> =
                record.headers().map(|(key, value)| json!({ "key": text(Some(key)), "value": text(value) })).collect();
            // Records of a compressed batch have no position of their own.
            let line = Line {
                position: Some((position, record.bytes.len() as u64)),
                indent: 2,
                kind: "record",
                text: format!(
                    "record {offset}: {}, key {}, value {}",
                    moment::display(timestamp),
                    brief(record.key),
                    brief(record.value)
                ),
                fields: json!({
                    "offset": offset.0,
                    "timestamp": timestamp.0,
                    "key": text(record.key),
                    "value": text(record.value),
                    "headers": headers,
                }),
            };
            self.line(line)?;
        }
        Ok(())
    }

    fn unreadable(&mut self, position: u64, error: &dyn std::error::Error) -> io::Result<()> {
        let text = format!("its records cannot be read: {error}");
        let fields = json!({ "error": error.to_string() });
        self.line(Line { position: Some((position, 0)), indent: 2, kind: "unreadable", text, fields })
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.release()?;
        let text = format!("DAMAGED: {finding}");
        self.line(Line { position: None, indent: 0, kind: "damage", text, fields: damage_fields(finding) })
    }
}

fn entries(count: u32) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{} entries", output::thousands(u64::from(count))) }
}

fn batches(count: u32) -> String {
    if count == 1 { "1 batch".to_owned() } else { format!("{} batches", output::thousands(u64::from(count))) }
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

/// The beginning of a key or value, for people.
fn brief(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "null".to_owned() };
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().count() <= TEXT_CHARS_MAX => format!("{text:?}"),
        Ok(text) => format!("{:?}...", text.chars().take(TEXT_CHARS_MAX).collect::<String>()),
        Err(_) => output::bytes(bytes.len() as u64),
    }
}

fn damage_fields(finding: &Finding) -> Value {
    let (file, position, offset) = finding.place();
    json!({
        "file": file,
        "position": position,
        "offset": offset.map(|offset| offset.0),
        "message": finding.to_string(),
    })
}

impl VerifyArgs {
    fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let directory = StoppedDirectory::open(&self.dir)?;
        let mut places = 0;
        let mut tell = |fields: Value, message: String, out: &mut dyn Write| -> io::Result<()> {
            places += 1;
            if self.json.json {
                serde_json::to_writer(&mut *out, &fields)?;
                return writeln!(out);
            }
            writeln!(out, "{message}")
        };
        if let Err(error) = &directory.meta {
            let fields = json!({ "file": "meta.properties", "message": error.to_string() });
            tell(fields, error.to_string(), out)?;
        }
        // Without the metadata every partition that has files is looked at.
        let topics = match Topics::read(&directory.path) {
            Ok(topics) => Some(topics),
            Err(error) => {
                let fields = json!({ "file": "metadata/log.tgm", "message": error.to_string() });
                tell(fields, error.to_string(), out)?;
                None
            }
        };
        if let Some(topics) = &topics {
            for stray in topics.strays(&directory.path) {
                let message = format!(
                    "{}: no topic has this partition, and nothing says that it was deleted. metadata/log.tgm may be older than the topic, or cut \
                     short: restore it from a copy; or, if the records are not wanted, delete the directory",
                    stray.display()
                );
                tell(json!({ "file": stray, "message": message }), message, out)?;
            }
            for message in &topics.plugins {
                tell(json!({ "file": "plugins", "message": message }), message.clone(), out)?;
            }
        }
        let disk = ReadOnlyDisk::new(&directory.path);
        for shard in block_on(missing_journals(&disk))? {
            // No finding: a broker that was killed in its first moment looks the same.
            writeln!(
                io::stderr(),
                "note: shard-{shard} has been opened and has no journal. If there was one, what was acknowledged and not in a segment yet is gone with it: \
                 restore the directory from a copy"
            )?;
        }
        let progress = progress(&directory.path)?;
        let mut counts = Counts::default();
        let mut failed = Ok(());
        let done: Result<(), DiskError> =
            block_on(verify(&disk, topics.as_ref().map(|topics| &topics.partitions), &mut |seen| match seen {
                Seen::File { bytes, kind, .. } => counts.begin(bytes, kind, &progress),
                Seen::Part { part, position, bytes } => counts.add(position + bytes, part, &progress),
                Seen::Offloaded { segment, .. } => {
                    counts.offloaded += 1;
                    counts.offloaded_bytes += segment.end_position;
                }
                Seen::Finding(finding) if failed.is_ok() => {
                    failed = progress.suspend(|| tell(damage_fields(finding), finding.to_string(), out));
                }
                Seen::Finding(_) => {}
            }));
        progress.finish_and_clear();
        failed?;
        done?;
        if places > 0 {
            return Err(NotWhole { places, directory: self.dir }.into());
        }
        if !self.json.json {
            writeln!(
                out,
                "{} is whole: {}, {}, {}, {} read",
                self.dir.display(),
                output::count(counts.files, "file"),
                batches(u32::try_from(counts.batches).unwrap_or(u32::MAX)),
                output::count(counts.records, "record"),
                output::bytes(counts.bytes)
            )?;
            if counts.offloaded > 0 {
                let segments = output::count(counts.offloaded, "segment");
                let bytes = output::bytes(counts.offloaded_bytes);
                writeln!(
                    out,
                    "{segments} ({bytes}) are in the object store, which were not looked at; their indexes were"
                )?;
            }
        }
        Ok(())
    }
}

/// What was looked at so far.
#[derive(Default)]
struct Counts {
    files: u64,
    batches: u64,
    records: u64,
    /// Of all files that were begun.
    bytes: u64,
    /// Segments in the object store.
    offloaded: u64,
    offloaded_bytes: u64,
    /// The same without the file that was begun last, as far as it counts for the progress.
    large_before: u64,
    large: u64,
}

impl Counts {
    fn begin(&mut self, bytes: u64, kind: FileKind, progress: &ProgressBar) {
        self.files += 1;
        self.bytes += bytes;
        self.large_before += self.large;
        self.large = if is_large(kind) { bytes } else { 0 };
        progress.set_position(self.large_before);
    }

    fn add(&mut self, position: u64, part: Part<'_>, progress: &ProgressBar) {
        if let Part::Batch { header, .. } = part {
            self.batches += 1;
            self.records += u64::try_from(header.records_count).unwrap_or(0);
        }
        if self.large > 0 {
            progress.set_position(self.large_before + position.min(self.large));
        }
    }
}

fn is_large(kind: FileKind) -> bool {
    matches!(kind, FileKind::Journal | FileKind::Segment)
}

/// A bar over the bytes of journals and segments; it draws on standard error, and only where that is a terminal.
fn progress(directory: &Path) -> anyhow::Result<ProgressBar> {
    let mut bytes = 0;
    let mut waiting = vec![directory.to_path_buf()];
    while let Some(path) = waiting.pop() {
        for entry in std::fs::read_dir(&path)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let path = entry.path();
            if kind.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|end| end == "tgs" || end == "tgj") {
                bytes += entry.metadata()?.len();
            }
        }
    }
    let progress = ProgressBar::new(bytes);
    progress.set_style(ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left")?);
    Ok(progress)
}
