//! The metrics page: what shards have counted, in Prometheus' text format, put together when it is asked for.

use std::{
    collections::BTreeMap,
    fmt, fs,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use kafka_protocol::{ResponseError, messages::ApiKey};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use tidegate_plugin_host::sandbox::SeriesValue;
use tidegate_shard::AttachmentCounts;

use crate::{
    metrics::{ApiMetrics, CommittedReport, Histogram, HistogramUnit, ShardMetrics, ShardReport},
    observed::ObservedBatches,
    plugin_log::PluginLines,
};

/// Everything that the metrics page is made of. Shared with the admin endpoint; shards never touch it.
#[derive(Debug)]
pub struct MetricsPage {
    shards: Vec<Arc<ShardMetrics>>,
    /// The last report of each shard. Only the control thread locks it.
    reports: Mutex<Vec<ShardReport>>,
    /// What plugins logged; shards write it, and tell the broker's own log as well.
    pub plugin_lines: Arc<PluginLines>,
    pub observed: Arc<ObservedBatches>,
    started: Instant,
}

impl MetricsPage {
    /// A page of these shards' counters.
    pub fn new(shards: Vec<Arc<ShardMetrics>>) -> Arc<Self> {
        let reports = (0..shards.len()).map(|_| ShardReport::default()).collect();
        Arc::new(Self {
            shards,
            reports: Mutex::new(reports),
            plugin_lines: Arc::default(),
            observed: Arc::default(),
            started: Instant::now(),
        })
    }

    /// Replaces what a shard said last. A shard that is not there is ignored.
    pub fn report(&self, report: ShardReport) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = reports.get_mut(usize::from(report.shard)) {
            *last = report;
        }
    }

    /// The last report of each shard.
    pub fn reports(&self) -> Vec<ShardReport> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The page.
    ///
    /// # Errors
    /// Never in fact: writing to a string does not fail.
    pub fn render(self: &Arc<Self>) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(PageCollector(Arc::clone(self))));
        let mut page = String::with_capacity(64 << 10);
        text::encode(&mut page, &registry)?;
        Ok(page)
    }
}

#[derive(Debug)]
struct PageCollector(Arc<MetricsPage>);

/// Writes families one after the other.
struct Families<'e>(DescriptorEncoder<'e>);

impl Families<'_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        values: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        values(&mut self.0.encode_descriptor(name, help, None, kind)?)
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        shards: &[Arc<ShardMetrics>],
        value: impl Fn(&ShardMetrics) -> u64,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |encoder| {
            each_shard(shards, |shard, labels| counter(encoder, labels, value(shard)))
        })
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        shards: &[Arc<ShardMetrics>],
        value: impl Fn(&ShardMetrics) -> f64,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |encoder| {
            each_shard(shards, |shard, labels| encoder.encode_family(labels)?.encode_gauge(&value(shard)))
        })
    }

    fn histograms(
        &mut self,
        name: &str,
        help: &str,
        unit: HistogramUnit,
        shards: &[Arc<ShardMetrics>],
        value: impl Fn(&ShardMetrics) -> &Histogram,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Histogram, |encoder| {
            each_shard(shards, |shard, labels| histogram(encoder, labels, value(shard), unit))
        })
    }
}

fn each_shard(
    shards: &[Arc<ShardMetrics>],
    mut write: impl FnMut(&ShardMetrics, &[(&'static str, String); 1]) -> fmt::Result,
) -> fmt::Result {
    shards.iter().enumerate().try_for_each(|(index, shard)| write(shard, &[("shard", index.to_string())]))
}

fn counter(encoder: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
    encoder.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn histogram(
    encoder: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    histogram: &Histogram,
    unit: HistogramUnit,
) -> fmt::Result {
    let reading = histogram.read(unit);
    let mut encoder = encoder.encode_family(labels)?;
    encoder.encode_histogram::<NoLabelSet>(reading.sum, reading.count, &reading.buckets, None)
}

/// Kafka's name of an API.
fn api_name(key: Option<i16>) -> String {
    match key.map(ApiKey::try_from) {
        Some(Ok(key)) => format!("{key:?}"),
        _ => "unknown".to_owned(),
    }
}

/// Kafka's name of an error code, as its own metrics and logs write it: `NOT_LEADER_OR_FOLLOWER`.
fn error_name(code: i16) -> String {
    let Some(error) = ResponseError::try_from_code(code) else { return code.to_string() };
    let mut name = String::new();
    for letter in format!("{error:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

impl Collector for PageCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let page = &self.0;
        let shards = page.shards.as_slice();
        let mut families = Families(encoder);
        let f = &mut families;
        requests(f, shards)?;
        f.counters("tidegate_received_bytes", "Bytes of requests", shards, |s| s.bytes_in.value())?;
        f.counters("tidegate_sent_bytes", "Bytes of responses", shards, |s| s.bytes_out.value())?;
        f.counters("tidegate_records_appended", "Records appended", shards, |s| s.records_in.value())?;
        f.counters("tidegate_record_bytes_appended", "Bytes of record batches appended", shards, |s| {
            s.record_bytes_in.value()
        })?;
        f.counters("tidegate_record_bytes_fetched", "Bytes of record batches sent to consumers", shards, |s| {
            s.record_bytes_out.value()
        })?;
        f.gauges("tidegate_connections", "Connections open", shards, |s| s.connections_open.value() as f64)?;
        f.counters(
            "tidegate_connections_moved",
            "Connections handed over to the shard of their partitions",
            shards,
            |s| s.connections_moved.value(),
        )?;
        f.counters("tidegate_connections_accepted", "Connections accepted", shards, |s| {
            s.connections_accepted.value()
        })?;
        f.counters(
            "tidegate_connections_refused",
            "Connections closed for what they sent or for a limit",
            shards,
            |s| s.connections_refused.value(),
        )?;
        f.gauges("tidegate_request_bytes_in_flight", "Bytes of requests received and not answered", shards, |s| {
            s.bytes_in_flight.value() as f64
        })?;
        f.counters("tidegate_backpressure_pauses", "Times that reading from a socket was paused", shards, |s| {
            s.backpressure_pauses.value()
        })?;
        f.counters("tidegate_shard_busy_nanoseconds", "Time in which the shard's thread worked", shards, |s| {
            s.busy_nanos.value()
        })?;
        f.gauges("tidegate_shard_utilisation", "Part of its life in which the shard's thread worked", shards, |s| {
            s.busy_nanos.value() as f64 / s.alive_nanos.value().max(1) as f64
        })?;
        f.counters("tidegate_shard_messages", "Messages sent to other shards", shards, |s| {
            s.messages_to_shards.value()
        })?;
        disk(f, shards)?;
        let reports = page.reports();
        plugins(f, &reports)?;
        own_series(f, &reports)?;
        partitions(f, &reports)?;
        groups(f, &reports)?;
        process(f, page.started)
    }
}

/// Which shard and which API.
type ApiLabels = [(&'static str, String); 2];

fn requests(f: &mut Families<'_>, shards: &[Arc<ShardMetrics>]) -> fmt::Result {
    let asked = |shard: &ShardMetrics| {
        shard.apis().filter(|(_, api)| api.requests.value() > 0).map(|(key, _)| key).collect::<Vec<_>>()
    };
    let labels = |shard: usize, key: Option<i16>| [("shard", shard.to_string()), ("api", api_name(key))];
    let known: Vec<(usize, Vec<Option<i16>>)> = shards.iter().map(|shard| asked(shard)).enumerate().collect();
    let each = |write: &mut dyn FnMut(&ApiLabels, &ApiMetrics) -> fmt::Result| {
        known.iter().try_for_each(|(shard, keys)| {
            keys.iter().try_for_each(|key| write(&labels(*shard, *key), shards[*shard].api(key.unwrap_or(-1))))
        })
    };
    f.family("tidegate_requests", "Requests by API", MetricType::Counter, |encoder| {
        each(&mut |labels, api| counter(encoder, labels, api.requests.value()))
    })?;
    f.family(
        "tidegate_errors",
        "Error codes in answers, by API: of the answer and of each partition, topic or group in it",
        MetricType::Counter,
        |encoder| {
            shards.iter().enumerate().try_for_each(|(shard, metrics)| {
                metrics.errors().into_iter().try_for_each(|((key, code), count)| {
                    let labels =
                        [("shard", shard.to_string()), ("api", api_name(Some(key))), ("error", error_name(code))];
                    counter(encoder, &labels, count)
                })
            })
        },
    )?;
    f.family(
        "tidegate_request_seconds",
        "From a request's last byte to its answer, by API",
        MetricType::Histogram,
        |encoder| each(&mut |labels, api| histogram(encoder, labels, &api.latency, HistogramUnit::Latency)),
    )
}

fn disk(f: &mut Families<'_>, shards: &[Arc<ShardMetrics>]) -> fmt::Result {
    f.histograms("tidegate_commit_bytes", "Bytes of a commit round", HistogramUnit::Size, shards, |s| &s.commit_bytes)?;
    f.histograms(
        "tidegate_commit_seconds",
        "Duration of a commit round: its writes and its flush",
        HistogramUnit::Latency,
        shards,
        |s| &s.commit_latency,
    )?;
    f.histograms(
        "tidegate_sync_seconds",
        "Time until the device has what was written, by commit or fdatasync",
        HistogramUnit::Latency,
        shards,
        |s| &s.sync_latency,
    )?;
    f.counters("tidegate_disk_read_bytes", "Bytes read from files", shards, |s| s.disk_read_bytes.value())?;
    f.counters("tidegate_disk_written_bytes", "Bytes written to files", shards, |s| s.disk_write_bytes.value())?;
    f.counters("tidegate_disk_errors", "Operations on files that failed", shards, |s| s.disk_errors.value())?;
    f.counters("tidegate_object_read_bytes", "Bytes read from the object store", shards, |s| {
        s.object_read_bytes.value()
    })?;
    f.counters("tidegate_object_written_bytes", "Bytes written to the object store", shards, |s| {
        s.object_write_bytes.value()
    })?;
    f.histograms(
        "tidegate_object_read_seconds",
        "Time until the object store gave what was asked for",
        HistogramUnit::Latency,
        shards,
        |s| &s.object_read_latency,
    )?;
    f.counters("tidegate_object_errors", "Calls of the object store that failed", shards, |s| s.object_errors.value())?;
    f.counters("tidegate_segments_offloaded", "Segments sent to the object store", shards, |s| {
        s.segments_offloaded.value()
    })?;
    f.counters("tidegate_objects_removed", "Objects removed from the object store", shards, |s| {
        s.objects_removed.value()
    })?;
    f.gauges("tidegate_journal_bytes", "Journal in use", shards, |s| s.journal_bytes_used.value() as f64)?;
    f.gauges("tidegate_tail_cache_bytes", "Memory of the newest records", shards, |s| {
        s.tail_cache_bytes.value() as f64
    })?;
    f.counters("tidegate_tail_cache_hits", "Reads served from memory", shards, |s| s.tail_cache_hits.value())?;
    f.counters("tidegate_tail_cache_misses", "Reads served from files", shards, |s| s.tail_cache_misses.value())
}

/// The counts of attachments, by plugin, topic and shard.
fn plugins(f: &mut Families<'_>, reports: &[ShardReport]) -> fmt::Result {
    type Value = fn(&AttachmentCounts) -> u64;
    let each = |encoder: &mut MetricEncoder<'_>, kind: MetricType, value: Value| {
        for report in reports {
            for attachment in &report.attachments {
                let labels = [
                    ("plugin", attachment.plugin.clone()),
                    ("topic", attachment.topic.clone()),
                    ("world", attachment.world.to_owned()),
                    ("shard", report.shard.to_string()),
                ];
                let value = value(&attachment.counts);
                match kind {
                    MetricType::Gauge => encoder.encode_family(&labels)?.encode_gauge(&value)?,
                    _ => counter(encoder, &labels, value)?,
                }
            }
        }
        Ok(())
    };
    let counters: [(&str, &str, Value); 22] = [
        ("calls", "Calls of an attached plugin", |c| c.calls),
        ("records", "Records that it was asked about", |c| c.records),
        ("call_nanoseconds", "Time of its calls", |c| c.nanos),
        ("traps", "Calls that ended with a trap", |c| c.traps),
        ("deadlines", "Calls that took longer than they may; they are among the traps", |c| c.deadlines),
        ("memory_traps", "Calls that wanted more memory than they may have; among the traps", |c| c.memory_traps),
        ("failures", "Calls that the plugin said it cannot answer", |c| c.failures),
        ("retries", "Calls for which the plugin asked for a retry", |c| c.retries),
        ("wrong_answers", "Calls whose answer was nonsense", |c| c.wrong_answers),
        ("unavailable", "Batches for which there was no instance to ask", |c| c.unavailable),
        ("records_rejected", "Records that were rejected", |c| c.rejected),
        ("records_routed", "Copies of records that were sent to destinations", |c| c.routed),
        ("records_dropped", "Records that were sent nowhere and dropped", |c| c.dropped),
        ("records_alternate", "Records that were sent nowhere and went to the alternate topic", |c| c.alternate),
        ("records_bypassed", "Records that went on as if there were no plugin, after it failed", |c| c.bypassed),
        ("records_dead_lettered", "Records that went to the dead-letter topic", |c| c.dead_lettered),
        ("records_deleted", "Records that a retention policy had deleted", |c| c.deleted),
        ("records_erased", "Records that a retention policy had erased from segments", |c| c.erased),
        ("segments_offloaded", "Segments that a retention policy had sent to the object store", |c| {
            c.offloaded_segments
        }),
        ("bytes_offloaded", "Bytes of the segments that a retention policy had sent to the object store", |c| {
            c.offloaded_bytes
        }),
        (
            "throttle_milliseconds",
            "Time that producers were told to wait because plugins took more than plugin.core.max.percent",
            |c| c.throttled_ms,
        ),
        ("batches_failed", "Calls that failed in any way: traps, failures, wrong answers, no instance", |c| {
            c.traps + c.failures + c.wrong_answers + c.unavailable
        }),
    ];
    for (name, help, value) in counters {
        f.family(&format!("tidegate_plugin_{name}"), help, MetricType::Counter, |encoder| {
            each(encoder, MetricType::Counter, value)
        })?;
    }
    f.family("tidegate_plugin_memory_bytes", "Memory of its instance", MetricType::Gauge, |encoder| {
        each(encoder, MetricType::Gauge, |c| c.memory_bytes)
    })
}

/// What plugins measure by themselves: a family for each name. A name that one plugin has for a counter and another for a gauge
/// is that of the first; the page cannot have both.
fn own_series(f: &mut Families<'_>, reports: &[ShardReport]) -> fmt::Result {
    type Labelled<'a> = (Vec<(String, String)>, &'a SeriesValue);
    let mut families: BTreeMap<&str, Vec<Labelled<'_>>> = BTreeMap::new();
    for report in reports {
        for attachment in &report.attachments {
            for series in &attachment.series {
                let mut labels = vec![
                    ("plugin".to_owned(), attachment.plugin.clone()),
                    ("topic".to_owned(), attachment.topic.clone()),
                    ("world".to_owned(), attachment.world.to_owned()),
                    ("shard".to_owned(), report.shard.to_string()),
                ];
                let own = |name: &str| if labels.iter().any(|(known, _)| known == name) { "own_" } else { "" };
                let more: Vec<_> =
                    series.labels.iter().map(|(name, value)| (format!("{}{name}", own(name)), value.clone())).collect();
                labels.extend(more);
                families.entry(&series.name).or_default().push((labels, &series.value));
            }
        }
    }
    for (name, mut series) in families {
        let kind = std::mem::discriminant(series[0].1);
        series.retain(|(_, value)| std::mem::discriminant(*value) == kind);
        let metric = match series[0].1 {
            SeriesValue::Counter(_) => MetricType::Counter,
            SeriesValue::Gauge(_) => MetricType::Gauge,
            SeriesValue::Histogram { .. } => MetricType::Histogram,
        };
        f.family(&format!("tidegate_plugin_own_{name}"), "Measured by plugins themselves", metric, |encoder| {
            for (labels, value) in &series {
                let labels: Vec<(&str, &str)> =
                    labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                let labels = labels.as_slice();
                match value {
                    SeriesValue::Counter(value) => counter(encoder, &labels, *value)?,
                    SeriesValue::Gauge(value) => encoder.encode_family(&labels)?.encode_gauge(value)?,
                    SeriesValue::Histogram { count, sum, buckets } => {
                        let mut bounds: Vec<(f64, u64)> =
                            buckets.iter().map(|(power, count)| (f64::from(*power).exp2(), *count)).collect();
                        // What is beyond every bound is counted under the last one.
                        bounds.push((f64::MAX, 0));
                        let mut encoder = encoder.encode_family(&labels)?;
                        encoder.encode_histogram::<NoLabelSet>(*sum, *count, &bounds, None)?;
                    }
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn partitions(f: &mut Families<'_>, reports: &[ShardReport]) -> fmt::Result {
    let total: usize = reports.iter().map(|report| report.partitions.len()).sum();
    f.family("tidegate_partitions", "Partitions of this broker", MetricType::Gauge, |encoder| {
        encoder.encode_gauge(&(total as u64))
    })?;
    let offline: usize = reports.iter().map(|report| report.partitions_offline).sum();
    f.family("tidegate_partitions_offline", "Partitions that damage keeps offline", MetricType::Gauge, |encoder| {
        encoder.encode_gauge(&(offline as u64))
    })?;
    let mut gauge = |name: &str, help: &str, value: fn(&crate::metrics::PartitionReport) -> i64| {
        f.family(name, help, MetricType::Gauge, |encoder| {
            for partition in reports.iter().flat_map(|report| &report.partitions) {
                let labels = [("topic", partition.topic.clone()), ("partition", partition.partition.to_string())];
                encoder.encode_family(&labels)?.encode_gauge(&value(partition))?;
            }
            Ok(())
        })
    };
    gauge("tidegate_log_size_bytes", "Bytes of a partition's log on the disk", |partition| {
        i64::try_from(partition.size_bytes).unwrap_or(i64::MAX)
    })?;
    gauge("tidegate_log_segments", "Segments of a partition's log", |partition| {
        i64::try_from(partition.segments).unwrap_or(i64::MAX)
    })?;
    gauge("tidegate_log_offloaded_bytes", "Bytes of a partition's log in the object store", |partition| {
        i64::try_from(partition.offloaded_bytes).unwrap_or(i64::MAX)
    })?;
    gauge("tidegate_log_offloaded_segments", "Segments of a partition's log in the object store", |partition| {
        i64::try_from(partition.offloaded_segments).unwrap_or(i64::MAX)
    })?;
    gauge("tidegate_log_start_offset", "First offset of a partition", |partition| partition.log_start_offset)?;
    gauge("tidegate_log_end_offset", "Next offset of a partition", |partition| partition.log_end_offset)?;
    gauge("tidegate_high_watermark", "Offset up to which consumers read", |partition| partition.high_watermark)
}

fn groups(f: &mut Families<'_>, reports: &[ShardReport]) -> fmt::Result {
    let ends: BTreeMap<(&str, i32), i64> = reports
        .iter()
        .flat_map(|report| &report.partitions)
        .map(|partition| ((partition.topic.as_str(), partition.partition), partition.high_watermark))
        .collect();
    let groups = || reports.iter().flat_map(|report| &report.groups);
    f.family("tidegate_groups", "Consumer groups by state", MetricType::Gauge, |encoder| {
        let mut by_state = BTreeMap::<&str, u64>::new();
        for group in groups() {
            *by_state.entry(group.state).or_default() += 1;
        }
        for (state, count) in by_state {
            encoder.encode_family(&[("state", state)])?.encode_gauge(&count)?;
        }
        Ok(())
    })?;
    f.family("tidegate_consumer_lag", "Records that a consumer group has not committed", MetricType::Gauge, |encoder| {
        for group in groups() {
            for CommittedReport { topic, partition, offset: committed, .. } in &group.committed {
                let Some(end) = ends.get(&(topic.as_str(), *partition)) else { continue };
                let labels =
                    [("group", group.group.clone()), ("topic", topic.clone()), ("partition", partition.to_string())];
                encoder.encode_family(&labels)?.encode_gauge(&(end - committed).max(0))?;
            }
        }
        Ok(())
    })
}

/// What the operating system says of the process; nothing where it says nothing.
fn process(f: &mut Families<'_>, started: Instant) -> fmt::Result {
    f.family("tidegate_uptime_seconds", "Time since the broker started", MetricType::Gauge, |encoder| {
        encoder.encode_gauge(&started.elapsed().as_secs_f64())
    })?;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    if let Some(kibibytes) = resident {
        let bytes: u64 = kibibytes;
        f.family("process_resident_memory_bytes", "Resident memory", MetricType::Gauge, |encoder| {
            encoder.encode_gauge(&(bytes * 1024))
        })?;
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        f.family("process_open_fds", "Open file descriptors", MetricType::Gauge, |encoder| {
            encoder.encode_gauge(&(open.count() as u64))
        })?;
    }
    // Fields 14 and 15 of stat(5), counted behind the command's closing bracket, in ticks of 1/100 s.
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: Option<u64> = stat.rsplit_once(") ").and_then(|(_, fields)| {
        let mut fields = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().ok());
        Some(fields.next()?? + fields.next()??)
    });
    if let Some(ticks) = ticks {
        f.family("process_cpu_seconds", "CPU time of all threads", MetricType::Counter, |encoder| {
            encoder.encode_counter::<NoLabelSet, _, u64>(&(ticks as f64 / 100.0), None)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{GroupReport, PartitionReport};

    #[test]
    fn the_page_shows_what_was_counted() {
        let shards: Vec<Arc<ShardMetrics>> = vec![Arc::default(), Arc::default()];
        let page = MetricsPage::new(shards.clone());
        let produce = shards[0].api(0);
        produce.requests.add(3);
        produce.latency.record_latency(Duration::from_micros(500));
        shards[1].api(-7).requests.add(1);
        shards[0].commit_bytes.record_size(5000);
        shards[0].busy_nanos.set(1);
        shards[0].alive_nanos.set(4);
        let partition = PartitionReport {
            topic: "orders \"and\" more".to_owned(),
            partition: 2,
            log_start_offset: 1,
            high_watermark: 10,
            log_end_offset: 11,
            size_bytes: 4096,
            segments: 1,
            offloaded_bytes: 0,
            offloaded_segments: 0,
        };
        let committed =
            |topic: &str, partition, offset| CommittedReport { topic: topic.to_owned(), partition, offset, time: 0 };
        let committed = vec![committed(&partition.topic, 2, 4), committed("gone", 0, 1)];
        let group = GroupReport { group: "readers".to_owned(), state: "Stable", committed };
        page.report(ShardReport {
            groups_are_loaded: true,
            shard: 1,
            partitions: vec![partition],
            partitions_offline: 1,
            groups: vec![group],
            attachments: Vec::new(),
        });
        page.report(ShardReport { groups_are_loaded: true, shard: 9, ..ShardReport::default() });
        let text = page.render().unwrap();
        // What the machine says differs from run to run.
        let stable: String = text
            .lines()
            .filter(|line| !line.contains("process_") && !line.contains("uptime"))
            .filter(|line| line.starts_with('#') || !line.ends_with(" 0") && !line.ends_with(" 0.0"))
            .map(|line| format!("{line}\n"))
            .collect();
        insta::assert_snapshot!(stable);
        assert!(text.contains("process_resident_memory_bytes") && text.contains("process_cpu_seconds_total"));
    }
}
