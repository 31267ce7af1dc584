//! Routers: which topics a record is written to.

use serde::de::DeserializeOwned;

use crate::{
    Batch, Error, Failure, Setup,
    bindings::{
        base::tidegate::plugin::types::Rejection,
        router::exports::tidegate::plugin::routing::{Answer, Destinations, FanOut, Routes as Answered},
    },
    host,
};

/// Decides which topics records are written to.
pub trait Router: Sized + 'static {
    /// What the configuration of the attachment is read into, as JSON. `()` where there is none.
    type Config: DeserializeOwned;

    /// A configuration that works, shown by `tidegate plugin describe`.
    const EXAMPLE: &str = "";

    /// Opens the router with its configuration, and says what it needs to see. Costly set-up belongs here.
    ///
    /// # Errors
    /// Why the configuration cannot be used: whoever attaches the plugin reads it.
    fn open(config: Self::Config, setup: &mut Setup) -> Result<Self, Error>;

    /// Answers for every record of the batch, in order.
    ///
    /// # Errors
    /// Why there is no answer for the whole batch.
    fn route(&mut self, batch: &Batch, routes: &mut Routes) -> Result<(), Failure>;
}

/// A topic that records can be routed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(pub(crate) u32);

impl Topic {
    /// The topic that the records were sent to.
    pub const SENT_TO: Self = Self(0);

    /// A topic whose name comes from the data. Each new name costs a call into the broker: keep what this returns.
    ///
    /// # Errors
    /// Where no topic can have that name, or there are too many of them.
    pub fn named(name: &str) -> Result<Self, Failure> {
        host::resolve(name).map(Self).map_err(Failure::Failed)
    }
}

/// No wish for a partition.
const ANY_PARTITION: u32 = u32::MAX;

/// The answers of a router, in the order of the records.
///
/// Either one of [`to`](Self::to), [`to_partition`](Self::to_partition), [`to_each`](Self::to_each), [`keep`](Self::keep),
/// [`discard`](Self::discard) and [`reject`](Self::reject) for each record; or [`add`](Self::add) as often as wanted and then
/// [`done`](Self::done) for each; or one of those that end in `all` for the whole batch.
#[derive(Debug)]
pub struct Routes {
    count: usize,
    topics: Vec<u32>,
    /// Empty as long as no partition was wished for.
    partitions: Vec<u32>,
    ends: Vec<u32>,
    one_each: bool,
    all: Option<Vec<u32>>,
    rejected: Vec<Rejection>,
}

impl Routes {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            count,
            topics: Vec::with_capacity(count),
            partitions: Vec::new(),
            ends: Vec::with_capacity(count),
            one_each: true,
            all: None,
            rejected: Vec::new(),
        }
    }

    /// The record goes to one topic.
    #[inline]
    pub fn to(&mut self, topic: Topic) {
        self.add(topic);
        self.done();
    }

    /// The record goes to one partition of one topic.
    pub fn to_partition(&mut self, topic: Topic, partition: u32) {
        self.add_partition(topic, partition);
        self.done();
    }

    /// The record goes to each of these topics.
    pub fn to_each(&mut self, topics: &[Topic]) {
        for topic in topics {
            self.add(*topic);
        }
        self.done();
    }

    /// The record goes to the topic that it was sent to.
    #[inline]
    pub fn keep(&mut self) {
        self.to(Topic::SENT_TO);
    }

    /// The record goes nowhere; the producer is told that all is well.
    pub fn discard(&mut self) {
        self.done();
    }

    /// The record is refused: its producer gets the reason, and nothing of the producer's batch is written.
    pub fn reject(&mut self, reason: impl Into<String>) {
        self.rejected.push(Rejection { record: self.ends.len() as u32, reason: reason.into() });
        self.done();
    }

    /// One more topic for the present record. A topic may be named once for each record.
    #[inline]
    pub fn add(&mut self, topic: Topic) {
        self.topics.push(topic.0);
        if !self.partitions.is_empty() {
            self.partitions.push(ANY_PARTITION);
        }
    }

    /// As [`add`](Self::add), unless the present record has the topic already.
    #[inline]
    pub fn add_once(&mut self, topic: Topic) {
        let start = self.ends.last().map_or(0, |end| *end as usize);
        if !self.topics[start..].contains(&topic.0) {
            self.add(topic);
        }
    }

    /// How many topics the present record has so far.
    #[must_use]
    pub fn added(&self) -> usize {
        self.topics.len() - self.ends.last().map_or(0, |end| *end as usize)
    }

    /// One more topic for the present record, and the partition of it.
    pub fn add_partition(&mut self, topic: Topic, partition: u32) {
        self.partitions.resize(self.topics.len(), ANY_PARTITION);
        self.topics.push(topic.0);
        self.partitions.push(partition);
    }

    /// That was all for the present record; the next call is about the next one.
    #[inline]
    pub fn done(&mut self) {
        let end = self.topics.len() as u32;
        self.ends.push(end);
        self.one_each &= end as usize == self.ends.len();
    }

    /// Every record goes to the topic that it was sent to.
    pub fn keep_all(&mut self) {
        self.all_to(&[Topic::SENT_TO]);
    }

    /// Every record goes to each of these topics.
    pub fn all_to(&mut self, topics: &[Topic]) {
        self.all = Some(topics.iter().map(|topic| topic.0).collect());
    }

    /// Every record is dropped.
    pub fn discard_all(&mut self) {
        self.all_to(&[]);
    }

    pub(crate) fn finish(self) -> Result<Answer, Failure> {
        let Self { count, topics, partitions, ends, one_each, all, rejected } = self;
        let routes = match all {
            Some(_) if !ends.is_empty() => {
                return Err(Failure::Failed(format!(
                    "the router answered for the whole batch and for {} of its records",
                    ends.len()
                )));
            }
            Some(topics) => uniform(topics),
            None if ends.len() != count => {
                return Err(Failure::Failed(format!("the router answered for {} of {count} records", ends.len())));
            }
            None if one_each && partitions.is_empty() && topics.iter().all(|topic| *topic == topics[0]) => {
                uniform(topics[..1].to_vec())
            }
            None if one_each => Answered::Single(Destinations { topics, partitions }),
            None => Answered::Many(FanOut { ends, to: Destinations { topics, partitions } }),
        };
        Ok(Answer { routes, rejected })
    }
}

fn uniform(topics: Vec<u32>) -> Answered {
    if topics == [Topic::SENT_TO.0] {
        Answered::Unchanged
    } else {
        Answered::Uniform(Destinations { topics, partitions: Vec::new() })
    }
}
