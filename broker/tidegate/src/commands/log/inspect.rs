//! `tidegate log inspect`: every part of the files on a line of its own, for people or for machines.

mod describe;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::{Map, Value, json};
use tidegate_records::{
    batch::{BatchHeader, Compression, HEADER_BYTES},
    compress::decompress,
    ids::{PartitionIndex, TopicPartition},
    record::Records,
};
use tidegate_server::data_directory::StoppedDirectory;
use tidegate_storage::{
    read_only::{ReadOnlyDisk, block_on},
    segment::manifest::Segment,
    verify::{FileKind, Finding, Part, Seen, verify},
};

use super::{super::Usage, Topics, damage_fields};
use crate::{moment, output, record_format::text};

/// What one batch may decompress to while its records are shown.
const DECOMPRESSED_BYTES_MAX: usize = 1 << 30;
/// How much of a key or value is shown to people.
const TEXT_CHARS_MAX: usize = 60;

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
pub(super) struct InspectArgs {
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

impl InspectArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
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

/// The beginning of a key or value, for people.
fn brief(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "null".to_owned() };
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().count() <= TEXT_CHARS_MAX => format!("{text:?}"),
        Ok(text) => format!("{:?}...", text.chars().take(TEXT_CHARS_MAX).collect::<String>()),
        Err(_) => output::bytes(bytes.len() as u64),
    }
}
