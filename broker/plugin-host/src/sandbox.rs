//! What surrounds an instance: its limits, the host functions that it can call, and how a fault is read.
//!
//! The host functions change nothing but this: lines of log and numbers of topics are collected here and taken out by the caller;
//! metrics are added up. So a call has no effect on anything outside of its store.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
};

use wasmtime::{ResourceLimiter, component::InstancePre};

use crate::{Compiled, Engine, Metering, OpenError, Trap, TrapKind};

/// What an instance may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of linear memory. At most [`EngineConfig::memory_bytes_max`](crate::EngineConfig) where instances are pooled.
    pub memory_bytes_max: usize,
    /// Ticks of [`Engine::tick`](crate::Engine::tick) that a call may last; at least 2, since the first may come at once.
    pub call_ticks_max: u64,
    /// Ticks that `open` and `describe` may last: regexes are compiled there.
    pub open_ticks_max: u64,
    /// Instructions of a call, with [`Metering::Fuel`]; `open` has ten times as many.
    pub call_fuel_max: u64,
    /// Bytes that one call may hand to the host, in its answer or a host call.
    pub answer_bytes_max: usize,
    /// Topics that one record may go to.
    pub destinations_max: usize,
    /// Names that a router may resolve.
    pub topics_max: usize,
    /// Columns of headers that a plugin may ask for.
    pub headers_max: usize,
    /// Series of metrics that a plugin may declare.
    pub series_max: usize,
    /// Lines of log that are kept until they are taken; more are counted and dropped.
    pub log_lines_max: usize,
    pub log_line_bytes_max: usize,
}

impl Default for Limits {
    /// For the produce path, with a tick of one millisecond.
    fn default() -> Self {
        Self {
            memory_bytes_max: 16 << 20,
            call_ticks_max: 5,
            open_ticks_max: 1000,
            call_fuel_max: 50_000_000,
            answer_bytes_max: 16 << 20,
            destinations_max: 100,
            topics_max: 10_000,
            headers_max: 64,
            series_max: 100,
            log_lines_max: 100,
            log_line_bytes_max: 2048,
        }
    }
}

/// How bad a line of log is, in the plugin's eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// A line that a plugin wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub level: LogLevel,
    pub message: String,
}

/// `text` without what would end a line of log or steer a terminal: control characters and the separators of lines and paragraphs are
/// escaped as in Rust (`\n`, `\u{1b}`). Whoever could write those could write lines in the name of others. What was escaped stays as it is.
#[must_use]
pub fn one_line(text: &str) -> Cow<'_, str> {
    let breaks = |character: char| character.is_control() || matches!(character, '\u{2028}' | '\u{2029}');
    if !text.contains(breaks) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if breaks(character) { line.extend(character.escape_default()) } else { line.push(character) }
    }
    Cow::Owned(line)
}

/// What a plugin logged since it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    pub lines: Vec<LogLine>,
    /// Lines beyond [`Limits::log_lines_max`].
    pub dropped: u64,
}

/// A metric of the plugin's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub value: SeriesValue,
}

#[derive(Clone, Debug, PartialEq)]
pub enum SeriesValue {
    Counter(u64),
    Gauge(f64),
    Histogram {
        count: u64,
        sum: f64,
        /// By power of two: how many values were at most 2^i, for the i given, and above the one before.
        buckets: BTreeMap<i16, u64>,
    },
}

/// What host functions work on: the data of a store.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) limits: Limits,
    memory_bytes: usize,
    /// Set once a growth was refused: then an abort is the limit's doing.
    memory_refused: bool,
    lines: VecDeque<LogLine>,
    lines_dropped: u64,
    last_error: Option<String>,
    pub(crate) series: Vec<Series>,
    /// Number 0 is the topic that records were sent to and has no name here; name i has number i + 1.
    pub(crate) topics: Vec<String>,
    topic_numbers: BTreeMap<String, u32>,
}

impl ResourceLimiter for Sandbox {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if bytes > self.limits.memory_bytes_max {
            self.memory_refused = true;
            return Ok(false);
        }
        self.memory_bytes = bytes;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= 100_000)
    }
}

impl Sandbox {
    fn new(limits: &Limits) -> Self {
        Self {
            limits: limits.clone(),
            memory_bytes: 0,
            memory_refused: false,
            lines: VecDeque::new(),
            lines_dropped: 0,
            last_error: None,
            series: Vec::new(),
            topics: Vec::new(),
            topic_numbers: BTreeMap::new(),
        }
    }

    pub(crate) fn log(&mut self, level: LogLevel, mut message: String) {
        if message.len() > self.limits.log_line_bytes_max {
            message.truncate(message.floor_char_boundary(self.limits.log_line_bytes_max));
            message.push_str(" [cut]");
        }
        if let Cow::Owned(escaped) = one_line(&message) {
            message = escaped;
        }
        if level == LogLevel::Error {
            self.last_error = Some(message.clone());
        }
        if self.lines.len() >= self.limits.log_lines_max {
            self.lines_dropped += 1;
            return;
        }
        self.lines.push_back(LogLine { level, message });
    }

    /// # Errors
    /// For the plugin to read.
    pub(crate) fn resolve(&mut self, name: String) -> Result<u32, String> {
        if let Some(number) = self.topic_numbers.get(&name) {
            return Ok(*number);
        }
        if !is_topic_name(&name) {
            let shown: String = name.chars().take(260).collect();
            return Err(format!("'{shown}' is not the name of a topic"));
        }
        if self.topics.len() >= self.limits.topics_max {
            return Err(format!("a plugin may name {} topics", self.limits.topics_max));
        }
        self.topics.push(name.clone());
        let number = self.topics.len() as u32;
        self.topic_numbers.insert(name, number);
        Ok(number)
    }

    /// # Errors
    /// For the plugin to read.
    pub(crate) fn declare(
        &mut self,
        name: String,
        labels: Vec<(String, String)>,
        value: SeriesValue,
    ) -> Result<u32, String> {
        if let Some(index) = self.series.iter().position(|series| series.name == name && series.labels == labels) {
            let same = std::mem::discriminant(&self.series[index].value) == std::mem::discriminant(&value);
            return if same { Ok(index as u32) } else { Err(format!("'{name}' is already a metric of another kind")) };
        }
        for part in std::iter::once(&name).chain(labels.iter().map(|(name, _)| name)) {
            if !is_metric_name(part) {
                let shown: String = part.chars().take(120).collect();
                return Err(format!("'{shown}' is not the name of a metric or a label"));
            }
        }
        if labels.len() > 10 || labels.iter().any(|(_, value)| value.len() > 200) {
            return Err(format!("'{name}' has more than ten labels, or one of more than 200 bytes"));
        }
        if self.series.len() >= self.limits.series_max {
            return Err(format!("a plugin may declare {} metrics", self.limits.series_max));
        }
        self.series.push(Series { name, labels, value });
        Ok((self.series.len() - 1) as u32)
    }

    pub(crate) fn add(&mut self, series: u32, by: u64) {
        if let Some(SeriesValue::Counter(count)) = self.value(series) {
            *count = count.saturating_add(by);
        }
    }

    pub(crate) fn set(&mut self, series: u32, to: f64) {
        if let Some(SeriesValue::Gauge(value)) = self.value(series) {
            *value = to;
        }
    }

    pub(crate) fn observe(&mut self, series: u32, observed: f64) {
        let Some(SeriesValue::Histogram { count, sum, buckets }) = self.value(series) else { return };
        if observed.is_nan() {
            return;
        }
        *count += 1;
        *sum += observed;
        // The least power of two that is not below; -32 for all that is tiny, zero or negative, 64 for all that is huge.
        let bucket = if observed > 0.0 { observed.log2().ceil().clamp(-32.0, 64.0) as i16 } else { -32 };
        *buckets.entry(bucket).or_default() += 1;
    }

    fn value(&mut self, series: u32) -> Option<&mut SeriesValue> {
        self.series.get_mut(series as usize).map(|series| &mut series.value)
    }
}

fn is_topic_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= 249 && name != "." && name != ".." && name.chars().all(legal)
}

fn is_metric_name(name: &str) -> bool {
    name.len() <= 100
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A store with its limits, and whether it is still alive.
pub(crate) struct Store {
    pub(crate) inner: wasmtime::Store<Sandbox>,
    engine: Engine,
    dead: bool,
}

impl Store {
    pub(crate) fn new(compiled: &Compiled, limits: &Limits) -> Result<Self, OpenError> {
        let engine = compiled.engine();
        let mut inner = wasmtime::Store::new(&engine.inner, Sandbox::new(limits));
        inner.limiter(|sandbox| sandbox);
        inner.set_hostcall_fuel(limits.answer_bytes_max);
        Ok(Self { inner, engine: engine.clone(), dead: false })
    }

    /// Before `open`, `describe` and instantiation.
    pub(crate) fn begin_open(&mut self) -> Result<(), Trap> {
        let limits = &self.inner.data().limits;
        let (ticks, fuel) = (limits.open_ticks_max, limits.call_fuel_max.saturating_mul(10));
        self.begin(ticks, fuel)
    }

    /// Before every other call.
    pub(crate) fn begin_call(&mut self) -> Result<(), Trap> {
        let limits = &self.inner.data().limits;
        let (ticks, fuel) = (limits.call_ticks_max, limits.call_fuel_max);
        self.begin(ticks, fuel)
    }

    fn begin(&mut self, ticks: u64, fuel: u64) -> Result<(), Trap> {
        if self.dead {
            let detail = "called after a trap".to_owned();
            return Err(Trap { kind: TrapKind::Dead, detail, last_words: None });
        }
        self.engine.call_begins();
        match self.engine.metering {
            Metering::Epochs => self.inner.set_epoch_deadline(ticks.max(1)),
            Metering::Fuel => self.inner.set_fuel(fuel).expect("an engine that meters by fuel takes fuel"),
        }
        self.inner.data_mut().last_error = None;
        Ok(())
    }

    /// Reads the error of a call; the instance is dead from here on.
    pub(crate) fn trapped(&mut self, error: &wasmtime::Error) -> Trap {
        self.dead = true;
        let sandbox = self.inner.data_mut();
        let kind = match error.downcast_ref::<wasmtime::Trap>() {
            Some(wasmtime::Trap::Interrupt | wasmtime::Trap::OutOfFuel) => TrapKind::Deadline,
            Some(wasmtime::Trap::StackOverflow) => TrapKind::StackOverflow,
            Some(wasmtime::Trap::UnreachableCodeReached) if sandbox.memory_refused => TrapKind::Memory,
            Some(wasmtime::Trap::UnreachableCodeReached) => TrapKind::Panic,
            Some(_) => TrapKind::Fault,
            None if sandbox.memory_refused => TrapKind::Memory,
            // There is no type for it; a test of an answer that is too large holds the words.
            None if error.to_string().contains("fuel allocated for hostcalls has been exhausted") => TrapKind::Output,
            None => TrapKind::Interface,
        };
        Trap { kind, detail: format!("{error:?}"), last_words: sandbox.last_error.take() }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead
    }

    /// Reads the error of an instantiation.
    pub(crate) fn not_instantiated(&mut self, error: &wasmtime::Error) -> OpenError {
        let ran = error.downcast_ref::<wasmtime::Trap>().is_some() || self.inner.data().memory_refused;
        if ran {
            return OpenError::Trap(self.trapped(error));
        }
        self.dead = true;
        if error.is::<wasmtime::PoolConcurrencyLimitError>() {
            return OpenError::NoRoom { detail: format!("{error:#}") };
        }
        OpenError::Unusable { detail: format!("{error:#}") }
    }

    /// Bytes of linear memory in use.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.inner.data().memory_bytes
    }

    pub(crate) fn take_log(&mut self) -> Log {
        let sandbox = self.inner.data_mut();
        Log { lines: sandbox.lines.drain(..).collect(), dropped: std::mem::take(&mut sandbox.lines_dropped) }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dead", &self.dead).finish_non_exhaustive()
    }
}

/// A linked component, named once.
pub(crate) type Pre = InstancePre<Sandbox>;

#[cfg(test)]
mod tests {
    use super::*;

    /// A plugin once wrote `x`, a newline, and a line that looked as if another plugin had written it; or cleared the operator's screen.
    #[test]
    fn what_a_plugin_logs_is_one_line_and_steers_no_terminal() {
        for (said, line) in [
            ("plain", "plain"),
            ("a\nERROR other: forged", "a\\nERROR other: forged"),
            ("\u{1b}[2J\u{9b}1m\r\t\0", "\\u{1b}[2J\\u{9b}1m\\r\\t\\u{0}"),
            ("a\u{2028}b\u{85}c", "a\\u{2028}b\\u{85}c"),
            ("größer \\n", "größer \\n"),
        ] {
            let mut sandbox = Sandbox::new(&Limits::default());
            sandbox.log(LogLevel::Error, said.to_owned());
            assert_eq!(sandbox.lines[0].message, line);
            assert_eq!(sandbox.last_error.as_deref(), Some(line), "these become the words of a panic");
            assert_eq!(one_line(line), line, "once is enough");
        }
    }
}
