//! Which segments of a log go, and when the active one is closed. The rules are those of Apache Kafka's `UnifiedLog`.
//!
//! Only whole segments are deleted, oldest first, and never what is not committed. A log of `cleanup.policy=compact` alone loses only
//! what DeleteRecords gave up.

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

/// Decides about the segments of one log, oldest first.
#[must_use]
pub fn decide(
    now: Timestamp,
    config: &TopicConfig,
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
        !segment.sealed
            && segment.first_append_time.0 >= 0
            && now.0.saturating_sub(segment.first_append_time.0) > open_ms_max
    };
    let mut verdict = Verdict { roll: segments.last().is_some_and(active_expired), delete_below: None };
    let mut delete = |offset: Offset| {
        verdict.delete_below = Some(verdict.delete_below.map_or(offset, |present| present.max(offset)));
    };
    // What lies wholly below the start of the log is nobody's any more.
    for segment in segments.iter().take_while(|segment| segment.next_offset <= log_start_offset) {
        delete(segment.next_offset);
    }
    if !config.cleanup_policy.delete {
        return verdict;
    }
    let mut total: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut roll_for_deletion = false;
    for segment in segments {
        if segment.next_offset > high_watermark || segment.next_offset == segment.base_offset {
            break;
        }
        // A segment without timestamps is as old as its last append.
        let newest = if segment.max_timestamp.0 >= 0 { segment.max_timestamp } else { segment.last_append_time };
        let too_old = config.retention_ms >= 0 && now.0.saturating_sub(newest.0) > config.retention_ms;
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
        let verdict = decide(Timestamp(NOW), &config(pairs), Offset(start), Offset(high_watermark), &segments(ages));
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
}
