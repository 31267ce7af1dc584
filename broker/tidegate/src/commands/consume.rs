//! `tidegate consume`: records from topics to a terminal, a pipe or a file.
//!
//! Without a group, every partition is read from where `--offset` says. With one, the group's committed offsets decide, and an offset is
//! stored only after its record was printed, so that what is committed was seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use rdkafka::{
    Message as _, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};
use tidegate_records::ids::Offset;

use super::{Bootstrap, Separator, Usage, name_and_value};
use crate::{
    client::{
        Cluster,
        offsets::{Position, TopicPartition},
        topics::Absent,
    },
    librdkafka::{self, Warnings},
    offset_spec::OffsetSpec,
    output,
    record_format::RecordFormat,
};

/// How long is waited for a record before the output is flushed and Ctrl-C looked for.
const POLL: Duration = Duration::from_millis(100);
/// After how many records the output is flushed even where more are there.
const FLUSH_RECORDS_MAX: usize = 1000;

/// Read records from topics
///
/// Goes on until Ctrl-C, unless -n or --exit-at-end says otherwise.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate consume orders                                  from the beginning, and on as records come
  tidegate consume orders --exit-at-end --format json
  tidegate consume orders --offset -10 -e                  the last ten of each partition
  tidegate consume orders --offset @-15m -n 100            what came in the last fifteen minutes, at most 100
  tidegate consume orders --offset 42 --partition 0 --format '%o %k %v\\n'
  tidegate consume orders clicks --group billing           share the partitions with others of the group

Formats:
  text   the value; with --key-separator, the key before it
  json   one object a line, which `tidegate produce --format json` takes back
  other  a pattern: %k key, %v value, %t topic, %p partition, %o offset, %T timestamp in milliseconds, %h headers,
         %K and %S lengths of key and value (-1: none), %% a percent sign, \\n \\t \\xFF escapes")]
pub(super) struct ConsumeArgs {
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Where to begin: beginning, end, N, -N (that many before the end), or @MOMENT. With a group: where it has committed nothing yet
    ///
    /// MOMENT is milliseconds since 1970, a date, a date and time, or how long ago: @-15m.
    #[arg(long, short, value_name = "OFFSET", default_value = "beginning", allow_hyphen_values = true)]
    offset: OffsetSpec,
    /// Only this partition; may be given often
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(i32).range(0..), conflicts_with = "group")]
    partition: Vec<i32>,
    /// Read as a member of this consumer group, and commit what was read
    #[arg(long, short)]
    group: Option<String>,
    /// Stop after so many records
    #[arg(short = 'n', long = "count", value_name = "N")]
    count: Option<u64>,
    /// Stop at the end of every partition
    #[arg(long, short)]
    exit_at_end: bool,
    /// How records are printed: text, json, or a pattern
    #[arg(long, default_value = "text", value_name = "FORMAT", allow_hyphen_values = true)]
    format: String,
    /// Print JSON, for machines: the same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Print the key and this before each value; \t, \n and \xFF are escapes
    #[arg(long, short = 'K', value_name = "SEPARATOR", allow_hyphen_values = true)]
    key_separator: Option<Separator>,
    /// Also print records of transactions that are open or were aborted
    #[arg(long)]
    read_uncommitted: bool,
    /// A setting of librdkafka, such as fetch.min.bytes=65536; may be given often
    #[arg(long = "property", short = 'X', value_name = "NAME=VALUE", value_parser = name_and_value)]
    properties: Vec<(String, String)>,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

impl ConsumeArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let format = self.record_format()?;
        if self.key_separator.is_some() && !matches!(format, RecordFormat::Text { .. }) {
            return Err(Usage(
                "--key-separator is for --format text; a pattern says itself where the key goes: '%k:%v\\n'".to_owned(),
            )
            .into());
        }
        if self.exit_at_end && self.group.is_some() && self.topics.len() > 1 {
            return Err(Usage("with --group, --exit-at-end takes one topic".to_owned()).into());
        }
        let reset = self.reset()?;
        let mut cluster = self.bootstrap.connect()?;
        let (begin, unread) = match &self.group {
            Some(_) => {
                self.topics.iter().try_for_each(|topic| cluster.topic(topic, Absent::Error).map(drop))?;
                (BTreeMap::new(), Vec::new())
            }
            None => self.begin(&mut cluster)?,
        };
        self.read_from(begin, reset, out)?;
        if unread.is_empty() {
            return Ok(());
        }
        let unread: Vec<String> = unread.into_iter().map(|(topic, partition)| format!("{topic}/{partition}")).collect();
        anyhow::bail!("not read, as they have no leader: {}; the log of their broker says why", unread.join(", "))
    }

    fn read_from(
        &self,
        begin: BTreeMap<TopicPartition, Offset>,
        reset: &str,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let format = self.record_format()?;
        if self.count == Some(0) || (self.group.is_none() && begin.is_empty()) {
            return Ok(());
        }
        let consumer: BaseConsumer<Warnings> =
            self.config(reset).create_with_context(Warnings::default()).context("cannot start librdkafka")?;
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // The second one ends the process at once.
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&interrupted))?;
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        let reader = Reader { consumer, format, interrupted };
        let mut printed = 0;
        if self.group.is_some() {
            reader.consumer.subscribe(&self.topics.iter().map(String::as_str).collect::<Vec<_>>())?;
            let result = self.print(&reader, &mut printed, out);
            commit(&reader.consumer)?;
            return result;
        }
        if !self.exit_at_end {
            reader.consumer.assign(&assignment(begin.iter())?)?;
            return self.print(&reader, &mut printed, out);
        }
        // librdkafka says of which partition the end was reached, but not of which topic: one after the other.
        for topic in self.topics.iter().collect::<BTreeSet<_>>() {
            if self.is_enough(printed) {
                break;
            }
            reader.consumer.assign(&assignment(begin.iter().filter(|((name, _), _)| name == topic))?)?;
            self.print(&reader, &mut printed, out)?;
        }
        Ok(())
    }

    fn record_format(&self) -> Result<RecordFormat, Usage> {
        let format = if self.json { "json" } else { &self.format };
        RecordFormat::parse(format, self.key_separator.clone().map(|separator| separator.0))
            .map_err(|error| Usage(error.to_string()))
    }

    /// What a group begins with where it has committed nothing: librdkafka knows only the two ends.
    fn reset(&self) -> Result<&'static str, Usage> {
        match (self.offset, &self.group) {
            (OffsetSpec::End, _) => Ok("latest"),
            (OffsetSpec::Beginning, _) | (_, None) => Ok("earliest"),
            (_, Some(group)) => Err(Usage(format!(
                "with --group, --offset is beginning or end; move the group first: tidegate group reset-offsets {group} --help"
            ))),
        }
    }

    fn config(&self, reset: &str) -> rdkafka::ClientConfig {
        let mut defaults = vec![
            ("auto.offset.reset", reset),
            ("enable.partition.eof", if self.exit_at_end { "true" } else { "false" }),
            ("isolation.level", if self.read_uncommitted { "read_uncommitted" } else { "read_committed" }),
            ("enable.auto.offset.store", "false"),
            ("enable.auto.commit", if self.group.is_some() { "true" } else { "false" }),
            ("allow.auto.create.topics", "false"),
            ("fetch.wait.max.ms", "100"),
        ];
        // librdkafka assigns partitions only to a consumer with a group's name; without a subscription it never joins it.
        defaults.push(("group.id", self.group.as_deref().unwrap_or("tidegate-cli-without-group")));
        librdkafka::config(&self.bootstrap.bootstrap, &defaults, &self.properties)
    }

    /// The offset to begin with in each partition, and those that have no leader to be read from.
    fn begin(&self, cluster: &mut Cluster) -> anyhow::Result<(BTreeMap<TopicPartition, Offset>, Vec<TopicPartition>)> {
        let mut partitions: Vec<TopicPartition> = Vec::new();
        let mut unread = Vec::new();
        for name in &self.topics {
            let topic = cluster.topic(name, Absent::Error)?;
            let known: BTreeSet<i32> = topic.partitions.iter().map(|partition| partition.partition).collect();
            if let Some(wrong) = self.partition.iter().find(|wanted| !known.contains(wanted)) {
                anyhow::bail!("topic {name:?} has no partition {wrong}: it has {}", known.len());
            }
            for partition in topic.partitions {
                let index = partition.partition;
                if self.partition.is_empty() || self.partition.contains(&index) {
                    let from = if partition.leader < 0 { &mut unread } else { &mut partitions };
                    from.push((name.clone(), index));
                }
            }
        }
        if let OffsetSpec::From(timestamp) = self.offset {
            return Ok((cluster.offsets(&partitions, Position::At(timestamp))?, unread));
        }
        let starts = cluster.offsets(&partitions, Position::Earliest)?;
        let ends = cluster.offsets(&partitions, Position::Latest)?;
        let begin = starts.into_iter().filter_map(|(partition, start)| {
            let offset = self.offset.resolve(start, *ends.get(&partition)?)?;
            Some((partition, offset))
        });
        Ok((begin.collect(), unread))
    }

    /// Reads and prints one assignment or subscription: until enough was printed, everything was, or somebody wants it to end.
    fn print(&self, reader: &Reader, printed: &mut u64, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut seen = Seen::default();
        let mut ended: BTreeSet<i32> = BTreeSet::new();
        while !reader.interrupted.load(Ordering::Relaxed) {
            let polled = match reader.consumer.poll(Duration::ZERO) {
                Some(polled) if seen.records < FLUSH_RECORDS_MAX => Some(polled),
                Some(polled) => {
                    seen.flush(self.group.is_some(), &reader.consumer, out)?;
                    Some(polled)
                }
                // Nothing is there at once: show what there was before waiting.
                None => {
                    seen.flush(self.group.is_some(), &reader.consumer, out)?;
                    if output::nobody_reads() {
                        return Ok(());
                    }
                    reader.consumer.poll(POLL)
                }
            };
            match polled {
                None => {}
                Some(Ok(record)) => {
                    reader.format.write(out, &record)?;
                    ended.remove(&record.partition());
                    seen.records += 1;
                    seen.next.insert((record.topic().to_owned(), record.partition()), Offset(record.offset() + 1));
                    *printed += 1;
                    if self.is_enough(*printed) {
                        break;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    ended.insert(partition);
                    let assigned = reader.consumer.assignment()?;
                    if assigned.elements().iter().all(|element| ended.contains(&element.partition())) {
                        break;
                    }
                }
                Some(Err(error)) if librdkafka::is_passing(&error) => {
                    reader.consumer.context().warn(&error.to_string())
                }
                Some(Err(error)) => return Err(anyhow::Error::new(error).context("cannot read on")),
            }
        }
        seen.flush(self.group.is_some(), &reader.consumer, out)
    }

    fn is_enough(&self, printed: u64) -> bool {
        self.count.is_some_and(|count| printed >= count)
    }
}

/// What reads and how it is shown.
struct Reader {
    consumer: BaseConsumer<Warnings>,
    format: RecordFormat,
    interrupted: Arc<AtomicBool>,
}

/// What was printed since the last flush.
#[derive(Default)]
struct Seen {
    records: usize,
    next: BTreeMap<TopicPartition, Offset>,
}

impl Seen {
    /// Hands over what was printed, and only then stores the offsets that a group commits.
    fn flush(&mut self, store: bool, consumer: &BaseConsumer<Warnings>, out: &mut dyn Write) -> anyhow::Result<()> {
        out.flush()?;
        self.records = 0;
        for ((topic, partition), offset) in std::mem::take(&mut self.next) {
            if store {
                // The offset to store is the last one read; the next one is what gets committed.
                match consumer.store_offset(&topic, partition, offset.0 - 1) {
                    // The partition went to another member meanwhile, which reads these records again.
                    Ok(())
                    | Err(KafkaError::StoreOffset(RDKafkaErrorCode::State | RDKafkaErrorCode::UnknownPartition)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

/// Commits what was stored; having nothing to commit is no error.
fn commit(consumer: &BaseConsumer<Warnings>) -> anyhow::Result<()> {
    match consumer.commit_consumer_state(CommitMode::Sync) {
        Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => Ok(()),
        Err(error) => Err(anyhow::Error::new(error).context("cannot commit what was read")),
    }
}

fn assignment<'a>(begin: impl Iterator<Item = (&'a TopicPartition, &'a Offset)>) -> anyhow::Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for ((topic, partition), offset) in begin {
        list.add_partition_offset(topic, *partition, rdkafka::Offset::Offset(offset.0))?;
    }
    Ok(list)
}
