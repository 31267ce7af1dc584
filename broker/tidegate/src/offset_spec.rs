//! Where to begin reading, as `--offset` says it.

use std::str::FromStr;

use tidegate_records::{ids::Offset, time::Timestamp};

use crate::moment;

/// Where to begin in each partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OffsetSpec {
    Beginning,
    End,
    /// That offset, or the nearest that there is.
    At(Offset),
    /// That many records before the end.
    BeforeEnd(i64),
    /// The first record that is not older.
    From(Timestamp),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OffsetSpecError {
    #[error("{0:?} is no offset: use beginning, end, a number (42), that many before the end (-10), or @ and a moment")]
    Unknown(String),
    #[error(transparent)]
    Moment(#[from] moment::NoMoment),
}

impl FromStr for OffsetSpec {
    type Err = OffsetSpecError;

    fn from_str(text: &str) -> Result<Self, OffsetSpecError> {
        let unknown = || OffsetSpecError::Unknown(text.to_owned());
        let number = |digits: &str| {
            digits.parse::<i64>().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit())).ok_or_else(unknown)
        };
        match text {
            "beginning" | "earliest" => Ok(Self::Beginning),
            "end" | "latest" => Ok(Self::End),
            _ => {
                if let Some(moment) = text.strip_prefix('@') {
                    Ok(Self::From(moment::parse(moment, moment::now())?))
                } else if let Some(digits) = text.strip_prefix('-') {
                    Ok(Self::BeforeEnd(number(digits)?))
                } else {
                    Ok(Self::At(Offset(number(text)?)))
                }
            }
        }
    }
}

impl OffsetSpec {
    /// The offset itself in a log of these bounds; `None` for a moment, which only the broker can find.
    pub(crate) fn resolve(self, start: Offset, end: Offset) -> Option<Offset> {
        match self {
            Self::Beginning => Some(start),
            Self::End => Some(end),
            Self::At(offset) => Some(Offset(offset.0.clamp(start.0, end.0.max(start.0)))),
            Self::BeforeEnd(count) => Some(Offset(end.0.saturating_sub(count).max(start.0))),
            Self::From(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read() {
        let check = |text: &str, expected| assert_eq!(text.parse::<OffsetSpec>(), Ok(expected), "{text}");
        check("beginning", OffsetSpec::Beginning);
        check("earliest", OffsetSpec::Beginning);
        check("end", OffsetSpec::End);
        check("42", OffsetSpec::At(Offset(42)));
        check("-10", OffsetSpec::BeforeEnd(10));
        check("@1700000000000", OffsetSpec::From(Timestamp(1_700_000_000_000)));
        check("@2023-11-14", OffsetSpec::From(Timestamp(1_699_920_000_000)));
        for wrong in ["", "start", "+5", "--5", "-", "@", "1e3", "99999999999999999999"] {
            assert!(wrong.parse::<OffsetSpec>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn offsets_stay_within_the_log() {
        let check =
            |spec: OffsetSpec, expected: i64| assert_eq!(spec.resolve(Offset(10), Offset(20)), Some(Offset(expected)));
        check(OffsetSpec::Beginning, 10);
        check(OffsetSpec::End, 20);
        check(OffsetSpec::At(Offset(15)), 15);
        check(OffsetSpec::At(Offset(3)), 10);
        check(OffsetSpec::At(Offset(99)), 20);
        check(OffsetSpec::BeforeEnd(3), 17);
        check(OffsetSpec::BeforeEnd(i64::MAX), 10);
        assert_eq!(OffsetSpec::From(Timestamp(5)).resolve(Offset(10), Offset(20)), None);
    }
}
