//! What is counted: by shards (cheap, no allocation, no lock), read by the admin endpoint when it is scraped.
//!
//! Every counter has one writer, its shard's thread, so bumping it is a plain load and store; the scraper reads a value that is
//! at most a moment old. What a shard knows by name (partitions, groups) comes as [`ShardReport`]s instead, every few seconds.
//!
//! Names neither glommio nor tokio: both sides of the server use it.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tidegate_shard::AttachmentReport;

/// API keys that are counted one by one: 0 to this minus 1 (the highest of Kafka 4.3 is 92). All others are counted together.
pub const API_KEYS: usize = 96;
/// Finite buckets of a [`Histogram`]; one more takes what is larger.
pub const BUCKETS: usize = 20;
/// The upper bound of a latency histogram's first bucket; each next one is twice as large (up to 16.8 s).
const FIRST_LATENCY_NANOS: u64 = 32_000;
/// The upper bound of a size histogram's first bucket; each next one is twice as large (up to 2 GiB).
const FIRST_SIZE_BYTES: u64 = 4096;

/// Counts up. One thread writes, any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A value that goes up and down. One thread writes, any may read.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Fixed buckets, each twice as wide as the one before. Recording costs a few nanoseconds.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Counts by bucket, not cumulative; the last one has no upper bound.
    counts: [Counter; BUCKETS + 1],
    sum: Counter,
}

/// The unit of a [`Histogram`], which decides where its buckets begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistogramUnit {
    /// Recorded with [`Histogram::record_latency`], shown in seconds.
    Latency,
    /// Recorded with [`Histogram::record_size`], shown in bytes.
    Size,
}

impl Histogram {
    pub fn record_latency(&self, latency: Duration) {
        self.record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX), FIRST_LATENCY_NANOS);
    }

    pub fn record_size(&self, bytes: u64) {
        self.record(bytes, FIRST_SIZE_BYTES);
    }

    fn record(&self, value: u64, first: u64) {
        self.counts[bucket(value, first)].add(1);
        self.sum.add(value);
    }

    /// Cumulative counts by upper bound (the last one infinite), the sum and the count, in the unit that is shown.
    pub fn read(&self, unit: HistogramUnit) -> HistogramReading {
        let (first, divisor) = match unit {
            HistogramUnit::Latency => (FIRST_LATENCY_NANOS, 1e9),
            HistogramUnit::Size => (FIRST_SIZE_BYTES, 1.0),
        };
        let mut count = 0;
        let buckets = self
            .counts
            .iter()
            .enumerate()
            .map(|(index, counter)| {
                let counted = counter.value();
                count += counted;
                let bound = if index == BUCKETS { f64::INFINITY } else { (first << index) as f64 / divisor };
                (bound, counted)
            })
            .collect();
        HistogramReading { buckets, sum: self.sum.value() as f64 / divisor, count }
    }
}

/// The first bucket whose upper bound is not below `value`.
fn bucket(value: u64, first: u64) -> usize {
    let times = value.div_ceil(first).max(1);
    let index = if times == 1 { 0 } else { (u64::BITS - (times - 1).leading_zeros()) as usize };
    index.min(BUCKETS)
}

/// A [`Histogram`] at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramReading {
    /// Upper bound (`f64::INFINITY` for the last) and how many fell into this bucket and no lower one.
    pub buckets: Vec<(f64, u64)>,
    pub sum: f64,
    pub count: u64,
}

/// The requests of one API.
#[derive(Debug, Default)]
pub struct ApiMetrics {
    pub requests: Counter,
    /// From the last byte of the request received to its answer handed to the socket.
    pub latency: Histogram,
}

/// Everything one shard counts. Shared as `Arc`; the shard writes, the admin endpoint reads.
#[derive(Debug)]
pub struct ShardMetrics {
    by_api: Box<[ApiMetrics]>,
    /// Error codes in answers, by API key and code. Behind a lock, which only the scraper shares: errors are rare and of few kinds.
    errors: Mutex<BTreeMap<(i16, i16), u64>>,
    /// Bytes of requests and of answers, with their length prefixes.
    pub bytes_in: Counter,
    pub bytes_out: Counter,
    /// Record bytes appended, and served to consumers.
    pub records_in: Counter,
    pub record_bytes_in: Counter,
    pub record_bytes_out: Counter,
    pub connections_open: Gauge,
    pub connections_accepted: Counter,
    /// Handed over to the shard of their partitions.
    pub connections_moved: Counter,
    /// Connections closed for what they sent, or because a limit was reached.
    pub connections_refused: Counter,
    /// Bytes of requests received and not yet answered.
    pub bytes_in_flight: Gauge,
    /// How often reading from a socket was paused because a limit on bytes in flight was reached.
    pub backpressure_pauses: Counter,
    /// Time in which the shard's thread worked, and in which it existed.
    pub busy_nanos: Gauge,
    pub alive_nanos: Gauge,
    /// Commit rounds of the journal: how many bytes each wrote, and how long it took.
    pub commit_bytes: Histogram,
    pub commit_latency: Histogram,
    /// Everything that waits for the device to have bytes: durable writes (rounds are among them) and `fdatasync`s.
    pub sync_latency: Histogram,
    pub disk_read_bytes: Counter,
    pub disk_write_bytes: Counter,
    pub disk_errors: Counter,
    /// What went to the object store and came from it, how long a read took, and calls that failed.
    pub object_write_bytes: Counter,
    pub object_read_bytes: Counter,
    pub object_read_latency: Histogram,
    pub object_errors: Counter,
    /// Segments sent there, and objects removed, since the start.
    pub segments_offloaded: Counter,
    pub objects_removed: Counter,
    pub journal_bytes_used: Gauge,
    pub tail_cache_bytes: Gauge,
    pub tail_cache_hits: Counter,
    pub tail_cache_misses: Counter,
    pub messages_to_shards: Counter,
}

impl Default for ShardMetrics {
    fn default() -> Self {
        Self {
            by_api: (0..=API_KEYS).map(|_| ApiMetrics::default()).collect(),
            errors: Mutex::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            records_in: Counter::default(),
            record_bytes_in: Counter::default(),
            record_bytes_out: Counter::default(),
            connections_open: Gauge::default(),
            connections_accepted: Counter::default(),
            connections_moved: Counter::default(),
            connections_refused: Counter::default(),
            bytes_in_flight: Gauge::default(),
            backpressure_pauses: Counter::default(),
            busy_nanos: Gauge::default(),
            alive_nanos: Gauge::default(),
            commit_bytes: Histogram::default(),
            commit_latency: Histogram::default(),
            sync_latency: Histogram::default(),
            disk_read_bytes: Counter::default(),
            disk_write_bytes: Counter::default(),
            disk_errors: Counter::default(),
            object_write_bytes: Counter::default(),
            object_read_bytes: Counter::default(),
            object_read_latency: Histogram::default(),
            object_errors: Counter::default(),
            segments_offloaded: Counter::default(),
            objects_removed: Counter::default(),
            journal_bytes_used: Gauge::default(),
            tail_cache_bytes: Gauge::default(),
            tail_cache_hits: Counter::default(),
            tail_cache_misses: Counter::default(),
            messages_to_shards: Counter::default(),
        }
    }
}

impl ShardMetrics {
    /// The counters of an API; those of unknown keys are one.
    pub fn api(&self, key: i16) -> &ApiMetrics {
        let index = usize::try_from(key).map_or(API_KEYS, |key| key.min(API_KEYS));
        &self.by_api[index]
    }

    /// Counts an error code in an answer of an API.
    pub fn count_error(&self, api: i16, code: i16) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        *errors.entry((api, code)).or_default() += 1;
    }

    /// How often each error code was answered, with the API key and the code.
    pub fn errors(&self) -> Vec<((i16, i16), u64)> {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.iter().map(|(key, count)| (*key, *count)).collect()
    }

    /// Every API that has been asked for, with its key (`None`: unknown ones).
    pub fn apis(&self) -> impl Iterator<Item = (Option<i16>, &ApiMetrics)> {
        self.by_api.iter().enumerate().map(|(index, api)| (i16::try_from(index).ok().filter(|_| index < API_KEYS), api))
    }
}

/// What a shard tells the admin endpoint by name, every few seconds. It replaces the shard's last one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardReport {
    pub shard: u16,
    pub partitions: Vec<PartitionReport>,
    /// How many of them damage keeps offline.
    pub partitions_offline: usize,
    pub groups: Vec<GroupReport>,
    /// Whether `groups` are all that there are.
    pub groups_are_loaded: bool,
    pub attachments: Vec<AttachmentReport>,
}

/// One partition, as its shard knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionReport {
    pub topic: String,
    pub partition: i32,
    pub log_start_offset: i64,
    pub high_watermark: i64,
    pub log_end_offset: i64,
    /// On the disk.
    pub size_bytes: u64,
    pub segments: u64,
    /// Bytes and segments of it that are in the object store.
    pub offloaded_bytes: u64,
    pub offloaded_segments: u64,
}

/// One consumer group, as its coordinator knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReport {
    pub group: String,
    pub state: &'static str,
    /// The lag is computed from the partitions' reports when scraped.
    pub committed: Vec<CommittedReport>,
}

/// A group's position in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedReport {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// When it was committed, in milliseconds since 1970.
    pub time: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_into_the_first_bucket_that_holds_it() {
        for (value, expected) in
            [(0, 0), (1, 0), (4096, 0), (4097, 1), (8192, 1), (8193, 2), (16384, 2), (u64::MAX, BUCKETS)]
        {
            assert_eq!(bucket(value, FIRST_SIZE_BYTES), expected, "{value}");
        }
    }

    #[test]
    fn a_reading_counts_each_value_once() {
        let histogram = Histogram::default();
        histogram.record_latency(Duration::from_micros(10));
        histogram.record_latency(Duration::from_micros(100));
        histogram.record_latency(Duration::from_secs(60));
        let reading = histogram.read(HistogramUnit::Latency);
        assert_eq!(reading.count, 3);
        assert_eq!(reading.buckets[0], (0.000_032, 1));
        assert_eq!(reading.buckets[2], (0.000_128, 1));
        assert_eq!(reading.buckets[BUCKETS], (f64::INFINITY, 1));
        assert!((reading.sum - 60.000_11).abs() < 1e-9);
    }

    #[test]
    fn unknown_apis_are_counted_together() {
        let metrics = ShardMetrics::default();
        metrics.api(-5).requests.add(1);
        metrics.api(i16::MAX).requests.add(1);
        metrics.api(0).requests.add(1);
        let counted: Vec<_> = metrics
            .apis()
            .filter(|(_, api)| api.requests.value() > 0)
            .map(|(key, api)| (key, api.requests.value()))
            .collect();
        assert_eq!(counted, [(Some(0), 1), (None, 2)]);
    }
}
