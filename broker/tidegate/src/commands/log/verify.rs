//! `tidegate log verify`: every checksum and offset of every file, and what no file's own bytes can tell: whether the topics, their
//! partitions and the deployed plugins belong together.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tidegate_server::data_directory::StoppedDirectory;
use tidegate_storage::{
    disk::DiskError,
    missing_journals,
    read_only::{ReadOnlyDisk, block_on},
    verify::{FileKind, Part, Seen, verify},
};

use super::{super::Json, Topics, batches, damage_fields};
use crate::output;

/// Check every checksum and offset
///
/// Exit code 0: all is whole. 1: something is damaged; each place is named with its file, byte and offset, and what to do. What a
/// crash tore and nobody was told to be written is no damage.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate log verify ./tidegate-data
  tidegate log verify /backup/tidegate-data --json | jq -r .file")]
pub(super) struct VerifyArgs {
    /// The broker's data directory
    dir: PathBuf,
    #[command(flatten)]
    json: Json,
}

/// Something is damaged. What, was said.
#[derive(Debug, thiserror::Error)]
#[error("{} damaged in {}", output::count(*.places, "place"), directory.display())]
struct NotWhole {
    places: u64,
    directory: PathBuf,
}

impl VerifyArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
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
        // Files that are known to be missing are findings.
        for missing in block_on(missing_journals(&disk))?.iter().filter(|missing| missing.files.is_empty()) {
            let shard = missing.shard;
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
