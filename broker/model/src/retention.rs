//! Which segments of a log go, and when the active one is closed. The rules are those of Apache Kafka's `UnifiedLog`.
//!
//! Only whole segments are deleted, oldest first, and never what is not committed. A log of `cleanup.policy=compact` alone loses only
//! what DeleteRecords gave up.
//!
//! Where a topic has a retention plugin, that says how long records are kept; [`allowed_start`] and [`may_rewrite`] are the bounds that it
//! cannot go beyond.

use tidegate_records::{ids::Offset, time::Timestamp};

use crate::topic_config::TopicConfig;

/// A segment, as its storage describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub base_offset: Offset,
    pub next_offset: Offset,
    /// Bytes of its batches.
    pub bytes: u64,
    /// The largest timestamp of its records; -1 if it has none.
    pub max_timestamp: Timestamp,
    /// The broker's clock at its first and last append; -1 if it has none.
    pub first_append_time: Timestamp,
    pub last_append_time: Timestamp,
    /// The active segment is not sealed.
    pub sealed: bool,
}

/// What is to be done with a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Close the active segment first.
    pub roll: bool,
    /// Delete the segments that end at or below this offset.
    pub delete_below: Option<Offset>,
}

/// By what records expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// `retention.ms` and `retention.bytes`.
    Configured,
    /// What a plugin says, beside this.
    ByPlugin,
}

/// Decides about the segments of one log, oldest first.
#[must_use]
pub fn decide(
    now: Timestamp,
    config: &TopicConfig,
    expiry: Expiry,
    log_start_offset: Offset,
    high_watermark: Offset,
    segments: &[Segment],
) -> Verdict {
    // What must be compacted by some time must leave the active segment by then (KIP-354).
    let open_ms_max = if config.cleanup_policy.compact {
        config.segment_ms.min(config.max_compaction_lag_ms)
    } else {
        config.segment_ms
    };
    let active_expired = |segment: &Segment| {
        segment.first_append_time.0 >= 0 && now.0.saturating_sub(segment.first_append_time.0) > open_ms_max
    };
    // Segments are cut when batches leave the journal, which those of a quiet log do not do by themselves.
    let active_full = |segment: &Segment| segment.bytes > config.segment_bytes;
    let roll = segments.last().is_some_and(|last| !last.sealed && (active_expired(last) || active_full(last)));
    let mut verdict = Verdict { roll, delete_below: None };
    let mut delete = |offset: Offset| {
        verdict.delete_below = Some(verdict.delete_below.map_or(offset, |present| present.max(offset)));
    };
    // What lies wholly below the start of the log is nobody's any more.
    for segment in segments.iter().take_while(|segment| segment.next_offset <= log_start_offset) {
        delete(segment.next_offset);
    }
    if !config.cleanup_policy.delete || expiry == Expiry::ByPlugin {
        return verdict;
    }
    let mut total: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut roll_for_deletion = false;
    for segment in segments {
        if segment.next_offset > high_watermark || segment.next_offset == segment.base_offset {
            break;
        }
        let too_old = config.retention_ms >= 0 && age(now, segment) > config.retention_ms;
        let too_much =
            u64::try_from(config.retention_bytes).is_ok_and(|limit| total.saturating_sub(segment.bytes) >= limit);
        // By size the active segment stays: Kafka deletes only while what is left still fills the limit.
        if !(too_old || (too_much && segment.sealed)) {
            break;
        }
        roll_for_deletion |= !segment.sealed;
        total -= segment.bytes;
        delete(segment.next_offset);
    }
    verdict.roll |= roll_for_deletion;
    verdict
}

/// Milliseconds since the newest record of a segment; one without timestamps is as old as its last append.
fn age(now: Timestamp, segment: &Segment) -> i64 {
    let newest = if segment.max_timestamp.0 >= 0 { segment.max_timestamp } else { segment.last_append_time };
    now.0.saturating_sub(newest.0)
}

/// How far a plugin that asks for `asked` may move the start of a log: not beyond the high watermark, not into the active segment, and
/// not into a segment that has a record younger than `tidegate.retention.floor.ms` or is needed for `tidegate.retention.floor.bytes`.
/// `None`: not at all.
#[must_use]
pub fn allowed_start(
    now: Timestamp,
    config: &TopicConfig,
    log_start_offset: Offset,
    high_watermark: Offset,
    segments: &[Segment],
    asked: Offset,
) -> Option<Offset> {
    let mut left: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let floor_bytes = u64::try_from(config.retention_floor_bytes).unwrap_or(0);
    let asked = asked.min(high_watermark);
    let mut start = log_start_offset;
    for segment in segments.iter().filter(|segment| segment.next_offset > log_start_offset) {
        // A segment counts as gone as soon as any of it is.
        left = left.saturating_sub(segment.bytes);
        let is_protected = age(now, segment) < config.retention_floor_ms || left < floor_bytes;
        if !segment.sealed || asked <= segment.base_offset.max(log_start_offset) || is_protected {
            break;
        }
        start = asked.min(segment.next_offset);
    }
    (start > log_start_offset).then_some(start)
}

/// Whether a plugin may have `segment`, one of `segments`, rewritten without some of its records: sealed, committed, old enough for
/// `tidegate.retention.floor.ms`, and with `tidegate.retention.floor.bytes` in the segments behind it. A rewrite may leave nothing of a
/// segment, so it counts for as much as a deletion: what is behind the newest segment that may be rewritten is whole, and fills the floor.
#[must_use]
pub fn may_rewrite(
    now: Timestamp,
    config: &TopicConfig,
    high_watermark: Offset,
    segments: &[Segment],
    segment: &Segment,
) -> bool {
    let behind = segments.iter().filter(|other| other.base_offset >= segment.next_offset);
    let floor_bytes = u64::try_from(config.retention_floor_bytes).unwrap_or(0);
    segment.sealed
        && segment.next_offset <= high_watermark
        && age(now, segment) >= config.retention_floor_ms
        && behind.map(|other| other.bytes).sum::<u64>() >= floor_bytes
}

/// Whether a plugin may have a segment sent to the object store: sealed and committed, and not of a topic that is compacted, whose
/// rounds would fetch it back again and again. (Kafka has no tiered storage for such topics either: KIP-405.)
#[must_use]
pub fn may_offload(config: &TopicConfig, high_watermark: Offset, segment: &Segment) -> bool {
    segment.sealed && segment.next_offset <= high_watermark && !config.cleanup_policy.compact
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::topic_config::BrokerDefaults;

    const NOW: i64 = 1_000_000;

    fn config(pairs: &[(&str, &str)]) -> TopicConfig {
        let overrides: BTreeMap<_, _> = pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        TopicConfig::resolve(&overrides, &BrokerDefaults::new()).unwrap()
    }

    /// Ten records and 100 bytes each; the last is active. `ages` are of the newest record, in milliseconds.
    fn segments(ages: &[i64]) -> Vec<Segment> {
        let last = ages.len() - 1;
        ages.iter()
            .enumerate()
            .map(|(index, age)| Segment {
                base_offset: Offset(index as i64 * 10),
                next_offset: Offset(index as i64 * 10 + 10),
                bytes: 100,
                max_timestamp: Timestamp(NOW - age),
                first_append_time: Timestamp(NOW - age - 10),
                last_append_time: Timestamp(NOW - age),
                sealed: index != last,
            })
            .collect()
    }

    fn check(pairs: &[(&str, &str)], start: i64, high_watermark: i64, ages: &[i64], roll: bool, below: Option<i64>) {
        let segments = segments(ages);
        let (now, start, high_watermark) = (Timestamp(NOW), Offset(start), Offset(high_watermark));
        let verdict = decide(now, &config(pairs), Expiry::Configured, start, high_watermark, &segments);
        assert_eq!(verdict, Verdict { roll, delete_below: below.map(Offset) }, "{pairs:?} {ages:?}");
    }

    #[test]
    fn old_segments_go_from_the_front() {
        let by_time: &[_] = &[("retention.ms", "1000")];
        check(by_time, 0, 40, &[5_000, 3_000, 500, 0], false, Some(20));
        check(by_time, 0, 40, &[5_000, 500, 3_000, 0], false, Some(10));
        check(by_time, 0, 40, &[500, 400, 300, 0], false, None);
        check(&[("retention.ms", "-1")], 0, 40, &[5_000, 3_000, 500, 0], false, None);
    }

    #[test]
    fn an_active_segment_that_is_too_old_is_closed_and_goes() {
        check(&[("retention.ms", "1000")], 0, 20, &[5_000, 2_000], true, Some(20));
        check(&[("segment.ms", "1000")], 0, 20, &[5_000, 2_000], true, None);
        check(&[("cleanup.policy", "compact"), ("max.compaction.lag.ms", "1000")], 0, 20, &[5_000, 2_000], true, None);
        check(&[("max.compaction.lag.ms", "1000")], 0, 20, &[5_000, 2_000], false, None);
    }

    #[test]
    fn an_active_segment_that_is_too_large_is_closed() {
        check(&[("segment.bytes", "99")], 0, 20, &[0, 0], true, None);
        check(&[("segment.bytes", "100")], 0, 20, &[0, 0], false, None);
    }

    #[test]
    fn size_leaves_at_least_the_limit() {
        check(&[("retention.bytes", "250")], 0, 40, &[0, 0, 0, 0], false, Some(10));
        check(&[("retention.bytes", "100")], 0, 40, &[0, 0, 0, 0], false, Some(30));
        check(&[("retention.bytes", "0")], 0, 40, &[0, 0, 0, 0], false, Some(30));
    }

    #[test]
    fn uncommitted_data_stays() {
        check(&[("retention.ms", "1000")], 0, 15, &[5_000, 3_000, 2_000], false, Some(10));
    }

    #[test]
    fn a_compacted_log_loses_only_what_was_given_up() {
        let compact: &[_] = &[("cleanup.policy", "compact"), ("retention.ms", "1")];
        check(compact, 0, 40, &[5_000, 5_000, 5_000, 5_000], false, None);
        check(compact, 25, 40, &[5_000, 5_000, 5_000, 5_000], false, Some(20));
    }

    #[test]
    fn where_a_plugin_says_how_long_nothing_expires_by_itself() {
        let config = config(&[("retention.ms", "1"), ("retention.bytes", "1"), ("segment.ms", "1000")]);
        let by_plugin = |start, ages: &[i64]| {
            let (now, all) = (Timestamp(NOW), Offset(i64::MAX));
            decide(now, &config, Expiry::ByPlugin, Offset(start), all, &segments(ages))
        };
        assert_eq!(by_plugin(0, &[5_000, 500]), Verdict::default());
        // What else there is to do is done.
        assert_eq!(by_plugin(15, &[5_000, 5_000]), Verdict { roll: true, delete_below: Some(Offset(10)) });
    }

    /// What a plugin gets of what it asks for, of forty records in four segments.
    fn allowed(pairs: &[(&str, &str)], start: i64, high_watermark: i64, asked: i64) -> Option<i64> {
        let (now, segments) = (Timestamp(NOW), segments(&[5_000, 3_000, 2_000, 0]));
        let (start, high_watermark) = (Offset(start), Offset(high_watermark));
        allowed_start(now, &config(pairs), start, high_watermark, &segments, Offset(asked)).map(|offset| offset.0)
    }

    #[test]
    fn a_plugin_deletes_what_it_says_but_for_the_active_segment_and_what_is_not_committed() {
        assert_eq!(allowed(&[], 0, 40, 10), Some(10));
        assert_eq!(allowed(&[], 0, 40, 15), Some(15), "within a segment");
        assert_eq!(allowed(&[], 0, 40, i64::MAX), Some(30), "the active segment stays");
        assert_eq!(allowed(&[], 0, 22, i64::MAX), Some(22), "what is not committed stays");
        for (start, asked) in [(0, 0), (0, -1), (12, 12), (12, 5), (30, 35), (0, i64::MIN)] {
            assert_eq!(allowed(&[], start, 40, asked), None, "{asked} is not above {start}, or in the active segment");
        }
    }

    #[test]
    fn floors_hold_whatever_a_plugin_says() {
        assert_eq!(allowed(&[("tidegate.retention.floor.ms", "2500")], 0, 40, i64::MAX), Some(20));
        assert_eq!(allowed(&[("tidegate.retention.floor.ms", "2500")], 0, 40, 25), Some(20), "not a part of it either");
        assert_eq!(allowed(&[("tidegate.retention.floor.ms", "6000")], 0, 40, i64::MAX), None);
        assert_eq!(allowed(&[("tidegate.retention.floor.bytes", "300")], 0, 40, i64::MAX), Some(10));
        assert_eq!(allowed(&[("tidegate.retention.floor.bytes", "301")], 0, 40, i64::MAX), None);
        assert_eq!(allowed(&[("tidegate.retention.floor.bytes", "100")], 0, 40, i64::MAX), Some(30));
    }

    #[test]
    fn only_sealed_committed_segments_of_topics_that_are_not_compacted_are_offloaded() {
        let may = |pairs: &[(&str, &str)], high_watermark, index: usize| {
            may_offload(&config(pairs), Offset(high_watermark), &segments(&[5_000, 3_000, 2_000, 0])[index])
        };
        assert!(may(&[], 40, 2));
        assert!(!may(&[], 40, 3), "the active one");
        assert!(!may(&[], 25, 2), "not committed");
        assert!(!may(&[("cleanup.policy", "compact,delete")], 40, 2));
    }

    #[test]
    fn only_sealed_committed_segments_of_some_age_are_rewritten() {
        let may = |pairs: &[(&str, &str)], high_watermark, index: usize| {
            let segments = segments(&[5_000, 3_000, 2_000, 0]);
            may_rewrite(Timestamp(NOW), &config(pairs), Offset(high_watermark), &segments, &segments[index])
        };
        assert!(may(&[], 40, 2) && may(&[("tidegate.retention.floor.ms", "2500")], 40, 1));
        assert!(!may(&[], 40, 3), "the active one");
        assert!(!may(&[], 25, 2), "not committed");
        assert!(!may(&[("tidegate.retention.floor.ms", "2500")], 40, 2), "too young");
    }

    /// A policy that asked for every segment to be rewritten, and whose filter kept nothing, once emptied a partition that was to keep some
    /// bytes: the floor was held against deletions alone.
    #[test]
    fn rewrites_leave_the_newest_bytes_of_the_floor_as_they_are() {
        for floor in 0..=450 {
            let config = config(&[("tidegate.retention.floor.bytes", &floor.to_string())]);
            let segments = segments(&[5_000, 3_000, 2_000, 0]);
            let (now, all) = (Timestamp(NOW), Offset(40));
            let (may, stays): (Vec<&Segment>, Vec<&Segment>) =
                segments.iter().partition(|segment| may_rewrite(now, &config, all, &segments, segment));
            let left: u64 = stays.iter().map(|segment| segment.bytes).sum();
            assert!(may.is_empty() || left >= floor, "{left} of {floor} bytes are left");
            // No more is held back than a deletion would be.
            let start = allowed_start(now, &config, Offset(0), all, &segments, Offset(i64::MAX));
            assert_eq!(may.last().map(|segment| segment.next_offset), start, "{floor}");
        }
    }
}
