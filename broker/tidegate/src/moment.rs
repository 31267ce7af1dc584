//! Moments as people write them: milliseconds since 1970, a date, a date and a time, or how long ago.

use jiff::{civil, tz::TimeZone};
use tidegate_records::time::Timestamp;

/// What [`parse`] takes, for help texts and errors.
pub(crate) const FORMS: &str = "milliseconds since 1970, a date (2026-01-31), a date and time (2026-01-31T13:00:00Z; UTC unless it says otherwise), or how long ago (-90s, -15m, -6h, -7d)";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no moment: write {FORMS}")]
pub(crate) struct NoMoment {
    text: String,
}

/// The moment that `text` means, seen from `now`.
pub(crate) fn parse(text: &str, now: Timestamp) -> Result<Timestamp, NoMoment> {
    let found = match text.strip_prefix('-') {
        Some(ago) => milliseconds_of(ago).and_then(|span| now.0.checked_sub(span)).map(Timestamp),
        None => absolute(text),
    };
    found.filter(|moment| moment.0 >= 0).ok_or_else(|| NoMoment { text: text.to_owned() })
}

fn absolute(text: &str) -> Option<Timestamp> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().map(Timestamp);
    }
    let zoned = text.parse::<jiff::Timestamp>();
    let moment = zoned.or_else(|_| {
        let civil = text.parse::<civil::DateTime>().or_else(|_| text.parse::<civil::Date>().map(Into::into))?;
        civil.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp())
    });
    moment.ok().map(|moment| Timestamp(moment.as_millisecond()))
}

fn milliseconds_of(span: &str) -> Option<i64> {
    let (number, unit) = span.split_at_checked(span.len().checked_sub(1)?)?;
    let unit: i64 = match unit {
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<i64>().ok().filter(|number| *number >= 0)?.checked_mul(unit)
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_millisecond())
}

/// `2026-01-31T13:00:00.000Z`.
pub(crate) fn display(timestamp: Timestamp) -> String {
    match jiff::Timestamp::from_millisecond(timestamp.0) {
        Ok(moment) if timestamp != Timestamp::NONE => format!("{moment:.3}"),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        let now = Timestamp(1_000_000_000_000);
        let check = |text: &str, expected: i64| assert_eq!(parse(text, now), Ok(Timestamp(expected)), "{text}");
        check("0", 0);
        check("1700000000000", 1_700_000_000_000);
        check("2023-11-14", 1_699_920_000_000);
        check("2023-11-14T22:13:20", 1_700_000_000_000);
        check("2023-11-14T22:13:20Z", 1_700_000_000_000);
        check("2023-11-14T23:13:20+01:00", 1_700_000_000_000);
        check("2023-11-14T22:13:20.250Z", 1_700_000_000_250);
        check("-90s", 999_999_910_000);
        check("-2h", 999_992_800_000);
        check("-1d", 999_913_600_000);
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in
            ["", "-", "yesterday", "-5", "-5y", "--5s", "2023-13-01", "1969-01-01", "-9999999999999d", "é", "-é"]
        {
            assert!(parse(text, Timestamp(1_000_000_000_000)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_moment_is_shown_in_utc() {
        assert_eq!(display(Timestamp(1_700_000_000_250)), "2023-11-14T22:13:20.250Z");
        assert_eq!(display(Timestamp::NONE), "-");
    }
}
