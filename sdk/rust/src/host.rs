//! The broker as a plugin sees it: the imports of its world in Wasm, and a stand-in for native tests.

#[cfg(target_family = "wasm")]
pub(crate) use broker::{add, declare, log, observe, resolve, set};
#[cfg(not(target_family = "wasm"))]
pub(crate) use stand_in::{add, declare, log, observe, resolve, set};

#[cfg(target_family = "wasm")]
mod broker {
    use crate::bindings::{
        base::tidegate::plugin::{
            log::{self, Level},
            metrics::{self, Kind},
        },
        router::tidegate::plugin::topics,
    };

    pub(crate) fn log(level: Level, message: &str) {
        log::write(level, message);
    }

    pub(crate) fn resolve(name: &str) -> Result<u32, String> {
        topics::resolve(name)
    }

    pub(crate) fn declare(name: &str, kind: Kind, labels: &[(&str, &str)]) -> Result<u32, String> {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>();
        metrics::declare(name, kind, &labels)
    }

    pub(crate) fn add(series: u32, by: u64) {
        metrics::add(series, by);
    }

    pub(crate) fn set(series: u32, to: f64) {
        metrics::set(series, to);
    }

    pub(crate) fn observe(series: u32, value: f64) {
        metrics::observe(series, value);
    }
}

/// What the broker would do, for one thread: a test is one.
#[cfg(not(target_family = "wasm"))]
pub(crate) mod stand_in {
    use std::cell::RefCell;

    use crate::bindings::base::tidegate::plugin::{log::Level, metrics::Kind};

    #[derive(Debug, Default)]
    pub(crate) struct StandIn {
        pub(crate) topics: Vec<String>,
        pub(crate) lines: Vec<(Level, String)>,
        /// Name and labels, and the value: for a histogram the number of observations.
        pub(crate) series: Vec<(String, f64)>,
    }

    thread_local! {
        pub(crate) static HOST: RefCell<StandIn> = RefCell::default();
    }

    pub(crate) fn log(level: Level, message: &str) {
        HOST.with_borrow_mut(|host| host.lines.push((level, message.to_owned())));
    }

    /// Numbers begin at 1: 0 is the topic that the records were sent to.
    pub(crate) fn resolve(name: &str) -> Result<u32, String> {
        let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.len() > 249 || name == "." || name == ".." || !name.chars().all(legal) {
            return Err(format!("'{name}' is not the name of a topic"));
        }
        HOST.with_borrow_mut(|host| {
            let index = host.topics.iter().position(|known| known == name).unwrap_or_else(|| {
                host.topics.push(name.to_owned());
                host.topics.len() - 1
            });
            Ok(index as u32 + 1)
        })
    }

    pub(crate) fn declare(name: &str, _kind: Kind, labels: &[(&str, &str)]) -> Result<u32, String> {
        let mut full = name.to_owned();
        for (label, value) in labels {
            full.push_str(&format!(" {label}={value}"));
        }
        HOST.with_borrow_mut(|host| {
            let index = host.series.iter().position(|(known, _)| *known == full).unwrap_or_else(|| {
                host.series.push((full, 0.0));
                host.series.len() - 1
            });
            Ok(index as u32)
        })
    }

    pub(crate) fn add(series: u32, by: u64) {
        change(series, |value| *value += by as f64);
    }

    pub(crate) fn set(series: u32, to: f64) {
        change(series, |value| *value = to);
    }

    pub(crate) fn observe(series: u32, _value: f64) {
        change(series, |value| *value += 1.0);
    }

    fn change(series: u32, with: impl FnOnce(&mut f64)) {
        HOST.with_borrow_mut(|host| {
            if let Some((_, value)) = host.series.get_mut(series as usize) {
                with(value);
            }
        });
    }
}
