//! The newest lines that plugins logged, for `tidegate plugin logs`. The broker's own log has them too.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tidegate_plugin_host::LogLevel;

/// Lines kept, of all plugins together.
const LINES_MAX: usize = 2_000;

/// A line of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLine {
    /// Counts all lines since the broker's start, from 1.
    pub number: u64,
    /// Milliseconds since 1970.
    pub time: i64,
    pub plugin: String,
    pub version: u32,
    pub topic: String,
    pub level: LogLevel,
    pub message: String,
}

/// Written by shards when a plugin logs, which limits keep rare; read by the admin endpoint.
#[derive(Debug, Default)]
pub struct PluginLines(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<KeptLine>,
    written: u64,
}

impl PluginLines {
    /// Keeps a line, and forgets the oldest where there are too many. Its number is given here.
    pub fn write(&self, line: KeptLine) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.written += 1;
        if lines.kept.len() == LINES_MAX {
            lines.kept.pop_front();
        }
        let number = lines.written;
        lines.kept.push_back(KeptLine { number, ..line });
    }

    /// The lines of a plugin (none: of all) after a number, and the number of the newest line of all.
    pub fn after(&self, number: u64, plugin: Option<&str>) -> (Vec<KeptLine>, u64) {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |line: &&KeptLine| line.number > number && plugin.is_none_or(|plugin| plugin == line.plugin);
        (lines.kept.iter().filter(wanted).cloned().collect(), lines.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept_and_numbered() {
        let lines = PluginLines::default();
        for index in 0..LINES_MAX + 10 {
            let plugin = if index % 2 == 0 { "even" } else { "odd" }.to_owned();
            let (topic, level, message) = ("t".to_owned(), LogLevel::Info, index.to_string());
            lines.write(KeptLine { number: 0, time: 0, plugin, version: 1, topic, level, message });
        }
        let (all, newest) = lines.after(0, None);
        assert_eq!((all.len(), all[0].number, newest), (LINES_MAX, 11, LINES_MAX as u64 + 10));
        let (odd, _) = lines.after(newest - 4, Some("odd"));
        assert_eq!(odd.iter().map(|line| line.message.as_str()).collect::<Vec<_>>(), ["2007", "2009"]);
    }
}
