//! What can go wrong with a plugin once it is compiled. Nothing here is the broker's fault.

use std::fmt;

/// Why an instance could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The plugin refuses its configuration. The text is the plugin's own, for whoever attaches it.
    #[error("{message}")]
    Refused { message: String },
    #[error("the plugin trapped while it was opened: {0}")]
    Trap(#[from] Trap),
    /// What it exports is not what its world says, or what it asks for cannot be given.
    #[error("the plugin cannot be used: {detail}")]
    Unusable { detail: String },
    /// Memory for the instance could not be had: the pool is used up, or the machine refuses.
    #[error("there is no room for another instance: {detail}")]
    NoRoom { detail: String },
    /// It is a plugin for something else.
    #[error("the plugin is of the world `{found}`, not `{wanted}`")]
    World { found: crate::World, wanted: crate::World },
}

/// Why there is no answer to a call.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The instance is dead.
    #[error("the plugin trapped: {0}")]
    Trap(#[from] Trap),
    /// The plugin says that it cannot answer, in its own words. The instance lives on.
    #[error("the plugin refused the batch: {message}")]
    Refused { message: String },
    /// The plugin asks for a retry, in its own words. The instance lives on.
    #[error("the plugin asks for a retry: {message}")]
    Retry { message: String },
    /// The answer is nonsense. The instance lives on.
    #[error("the plugin's answer is wrong: {0}")]
    WrongAnswer(#[from] WrongAnswer),
}

/// How a plugin was stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trap {
    pub kind: TrapKind,
    /// The engine's account with a backtrace, of several lines; for the log.
    pub detail: String,
    /// What the plugin logged last as an error: with the SDK, the text of a panic.
    pub last_words: Option<String>,
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        match &self.last_words {
            Some(words) => write!(f, " ({words})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Trap {}

/// The ways in which a plugin is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrapKind {
    /// It took longer than a call may.
    Deadline,
    /// It wanted more memory than it may have.
    Memory,
    /// It called itself too deep.
    StackOverflow,
    /// It gave up: a panic, an `abort`, an `unreachable`.
    Panic,
    /// It did what no program may: an access out of bounds, a division by zero.
    Fault,
    /// It handed over more bytes than it may.
    Output,
    /// What it handed over breaks the rules of the component model.
    Interface,
    /// It was called after it had trapped; a mistake of the caller.
    Dead,
}

impl fmt::Display for TrapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "it took too long",
            Self::Memory => "it wanted more memory than it may have",
            Self::StackOverflow => "its stack overflowed",
            Self::Panic => "it panicked",
            Self::Fault => "it faulted",
            Self::Output => "it handed over more bytes than `tidegate.plugin.output.max.bytes` allows",
            Self::Interface => "what it handed over breaks the rules of the interface",
            Self::Dead => "it had trapped before",
        })
    }
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongAnswer {
    #[error("{found} answers for {wanted} records")]
    Count { found: usize, wanted: usize },
    /// `ends` of a fan-out goes back, or not to the end.
    #[error("the destinations of record {record} end at {end}, of {destinations}")]
    Ends { record: usize, end: u32, destinations: usize },
    #[error("{partitions} partitions for {topics} topics")]
    Partitions { partitions: usize, topics: usize },
    #[error("topic number {number}, but only those below {known} were resolved")]
    Topic { number: u32, known: usize },
    #[error("record {record} goes to the same topic twice")]
    Twice { record: usize },
    #[error("record {record} goes to {destinations} topics, {max} are allowed")]
    TooMany { record: usize, destinations: usize, max: usize },
    #[error("partition {partition} for record {record}, of a topic with {partitions}")]
    Partition { record: usize, partition: u32, partitions: u32 },
    #[error("record {record} is rejected, of {count}")]
    Rejection { record: u32, count: u32 },
    #[error("{found} decisions for {wanted} batches")]
    Decisions { found: usize, wanted: usize },
    /// More than what it said it may ask for when it was opened, which is what was checked then.
    #[error("batch {arrival} is to wait for more copies than the plugin announced when it was opened")]
    BeyondStrongest { arrival: usize },
    #[error("{found} verdicts for {wanted} partitions")]
    Verdicts { found: usize, wanted: usize },
    #[error("segment {segment} of partition {partition} is to be rewritten, of {segments}")]
    Segment { partition: u32, segment: u32, segments: usize },
    #[error("a segment is to be rewritten, and the plugin exports no `filtering`")]
    NoFilter,
    #[error("{found} choices of segments to offload for {wanted} partitions")]
    Offloads { found: usize, wanted: usize },
    #[error("segment {segment} of partition {partition} is to be offloaded, of {segments}")]
    Offload { partition: u32, segment: u32, segments: usize },
    #[error("{found} words of kept records for {count} records, not {wanted}")]
    Kept { found: usize, count: u32, wanted: usize },
}
