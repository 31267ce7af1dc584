//! Deletes by age and size as a topic does by itself, but only in given hours of the week: not while people work with the data, or while the
//! disks are busy.

use tidegate_sdk::{
    Error, Failure, Setup,
    retention::{Retention, Topic, Verdicts},
};

const MINUTE_MS: i64 = 60_000;
const DAY_MINUTES: i64 = 24 * 60;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// 1970-01-01 was a Thursday.
const FIRST_DAY: i64 = 3;

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// When records may be deleted.
    windows: Vec<WindowConfig>,
    /// Minutes that the clock of the windows is ahead of UTC.
    #[serde(default)]
    utc_offset_minutes: i64,
    /// Milliseconds for which records are kept.
    keep_ms: Option<i64>,
    /// Bytes that a partition may have.
    keep_bytes: Option<u64>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowConfig {
    /// Days of the week on which it begins; all, where none is named.
    #[serde(default)]
    days: Vec<String>,
    from: String,
    to: String,
}

#[derive(Debug)]
struct Window {
    days: [bool; 7],
    /// Minutes of the day. `to` may be before `from`: it is on the day after then.
    from: i64,
    to: i64,
}

#[derive(Debug)]
pub struct BusinessHours {
    windows: Vec<Window>,
    utc_offset_minutes: i64,
    keep_ms: Option<i64>,
    keep_bytes: Option<u64>,
}

impl Retention for BusinessHours {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "windows": [ { "from": "22:00", "to": "05:30" }, { "days": ["sat", "sun"], "from": "00:00", "to": "24:00" } ], "keep_ms": 604800000 }"#;

    fn open(config: Config, _: &mut Setup) -> Result<Self, Error> {
        let Config { windows, utc_offset_minutes, keep_ms, keep_bytes } = config;
        if windows.is_empty() {
            return Err("'windows' is empty: nothing could ever be deleted".into());
        }
        if keep_ms.is_none() && keep_bytes.is_none() {
            return Err("neither 'keep_ms' nor 'keep_bytes' is there: nothing would ever be deleted".into());
        }
        if keep_ms.is_some_and(|time| time < 0) {
            return Err("'keep_ms' is below 0".into());
        }
        if utc_offset_minutes.abs() > 18 * 60 {
            return Err("'utc_offset_minutes' is beyond 18 hours".into());
        }
        let windows = windows.iter().map(Window::read).collect::<Result<_, Error>>()?;
        Ok(Self { windows, utc_offset_minutes, keep_ms, keep_bytes })
    }

    fn evaluate(&mut self, topic: &Topic<'_>, verdicts: &mut Verdicts) -> Result<(), Failure> {
        let minute = topic.now.div_euclid(MINUTE_MS) + self.utc_offset_minutes;
        if !self.windows.iter().any(|window| window.has(minute)) {
            topic.logs.iter().for_each(|_| verdicts.keep());
            // The minute in which a window begins is not missed by much.
            verdicts.ask_again_in(60_000);
            return Ok(());
        }
        for log in topic.logs {
            let old = self.keep_ms.map_or(-1, |keep| log.end_of_old(keep, topic.now));
            let surplus = self.keep_bytes.map_or(-1, |keep| log.end_of_surplus(keep));
            verdicts.delete_before(old.max(surplus));
        }
        Ok(())
    }
}

impl Window {
    fn read(config: &WindowConfig) -> Result<Self, Error> {
        let mut days = [config.days.is_empty(); 7];
        for day in &config.days {
            let known = DAYS.iter().position(|known| known == day);
            let index = known.ok_or_else(|| format!("'{day}' is no day: they are {}", DAYS.join(", ")))?;
            days[index] = true;
        }
        let (from, to) = (minute_of_day(&config.from)?, minute_of_day(&config.to)?);
        if from == to {
            return Err(format!(
                "the window from {} to {} is empty; a whole day is 00:00 to 24:00",
                config.from, config.to
            )
            .into());
        }
        Ok(Self { days, from, to })
    }

    /// Whether a minute since 1970 is in it.
    fn has(&self, minute: i64) -> bool {
        let (day, of_day) = (minute.div_euclid(DAY_MINUTES), minute.rem_euclid(DAY_MINUTES));
        let begins_on = |day: i64| self.days[(day + FIRST_DAY).rem_euclid(7) as usize];
        if self.from < self.to {
            return begins_on(day) && (self.from..self.to).contains(&of_day);
        }
        (begins_on(day) && of_day >= self.from) || (begins_on(day - 1) && of_day < self.to)
    }
}

/// `HH:MM` in minutes; 24:00 is the end of the day.
fn minute_of_day(text: &str) -> Result<i64, Error> {
    let wrong = || format!("'{text}' is no time of day: it is HH:MM, from 00:00 to 24:00");
    let (hours, minutes) = text.split_once(':').ok_or_else(wrong)?;
    let (hours, minutes): (i64, i64) = (hours.parse().map_err(|_| wrong())?, minutes.parse().map_err(|_| wrong())?);
    let total = hours * 60 + minutes;
    if !(0..60).contains(&minutes) || !(0..=DAY_MINUTES).contains(&total) {
        return Err(wrong().into());
    }
    Ok(total)
}

tidegate_sdk::export!(retention: BusinessHours);

#[cfg(test)]
mod tests {
    use tidegate_sdk::{
        retention::{PartitionLog, Segment},
        testkit::{Opened, open_retention},
    };

    use super::*;

    /// 2023-11-14 was a Tuesday; 22:13:20 UTC.
    const TUESDAY: i64 = 1_700_000_000_000;
    const HOUR_MS: i64 = 60 * MINUTE_MS;

    fn before(policy: &mut Opened<BusinessHours>, now: i64) -> i64 {
        policy.now = now;
        let segment = |base_offset, age: i64| Segment {
            base_offset,
            next_offset: base_offset + 10,
            max_timestamp: now - age,
            bytes: 100,
        };
        let log = PartitionLog {
            partition: 0,
            start_offset: 0,
            high_watermark: 35,
            segments: vec![segment(0, 300), segment(10, 200), segment(20, 100)],
            readers: Vec::new(),
        };
        policy.evaluate(&[log]).expect("it answers")[0].delete_before
    }

    #[test]
    fn records_go_only_in_the_windows() {
        let config = r#"{ "windows": [ { "from": "22:00", "to": "05:30" } ], "keep_ms": 150 }"#;
        let mut policy = open_retention::<BusinessHours>(config).expect("it opens");
        assert_eq!(before(&mut policy, TUESDAY), 20, "22:13");
        assert_eq!(before(&mut policy, TUESDAY + 7 * HOUR_MS), 20, "05:13, of the window that began yesterday");
        assert_eq!(before(&mut policy, TUESDAY + 8 * HOUR_MS), -1, "06:13");
        assert_eq!(before(&mut policy, TUESDAY - HOUR_MS), -1, "21:13");
        let ahead =
            r#"{ "windows": [ { "from": "23:00", "to": "24:00" } ], "keep_ms": 150, "utc_offset_minutes": 60 }"#;
        let mut policy = open_retention::<BusinessHours>(ahead).expect("it opens");
        assert_eq!(before(&mut policy, TUESDAY), 20, "23:13 there");
        assert_eq!(before(&mut policy, TUESDAY + HOUR_MS), -1, "00:13 there");
    }

    #[test]
    fn a_window_belongs_to_the_day_on_which_it_begins() {
        let config = r#"{ "windows": [ { "days": ["tue"], "from": "22:00", "to": "05:00" } ], "keep_bytes": 150 }"#;
        let mut policy = open_retention::<BusinessHours>(config).expect("it opens");
        assert_eq!(before(&mut policy, TUESDAY), 10);
        assert_eq!(before(&mut policy, TUESDAY + 5 * HOUR_MS), 10, "Wednesday morning");
        assert_eq!(before(&mut policy, TUESDAY + 24 * HOUR_MS), -1, "Wednesday night");
    }

    #[test]
    fn mistakes_are_named() {
        let refused = |windows: &str| {
            let config = format!(r#"{{ "windows": {windows}, "keep_ms": 1 }}"#);
            open_retention::<BusinessHours>(&config).expect_err("it is refused")
        };
        assert!(refused("[]").contains("'windows' is empty"));
        assert!(refused(r#"[{ "from": "25:00", "to": "26:00" }]"#).contains("'25:00' is no time of day"));
        assert!(refused(r#"[{ "from": "1", "to": "2" }]"#).contains("'1' is no time of day"));
        assert!(refused(r#"[{ "from": "08:00", "to": "08:00" }]"#).contains("is empty"));
        assert!(refused(r#"[{ "days": ["monday"], "from": "08:00", "to": "09:00" }]"#).contains("'monday' is no day"));
        let nothing = r#"{ "windows": [ { "from": "08:00", "to": "09:00" } ] }"#;
        assert!(open_retention::<BusinessHours>(nothing).expect_err("it is refused").contains("neither 'keep_ms'"));
        open_retention::<BusinessHours>(BusinessHours::EXAMPLE).expect("the example opens");
    }
}
