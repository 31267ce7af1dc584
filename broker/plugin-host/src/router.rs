//! A router that was opened: asked where records go, its answers checked.

use tidegate_records::columns::Columns;

use crate::{
    CallError, Compiled, Context, Limits, Needs, OpenError, Rejection, TopicInfo, World, WrongAnswer,
    sandbox::{Log, Series, Store},
    since_0_1::{Call, RouterExports},
};

/// The number of the topic that records were sent to.
pub const SENT_TO: u32 = 0;

/// In [`Destinations::partitions`]: the destination's own partitioner decides.
pub const ANY_PARTITION: u32 = u32::MAX;

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub routes: Routes,
    /// Usually empty. What `routes` says of a rejected record means nothing.
    pub rejected: Vec<Rejection>,
}

/// Where each record goes. Checked: every index is in range, every topic number known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routes {
    /// Every record to the topic it was sent to.
    Unchanged,
    /// Every record to all of these; none: all are dropped.
    Uniform(Destinations),
    /// Record i to `topics[i]`.
    Single(Destinations),
    /// Record i to `to.topics[ends[i - 1]..ends[i]]`; nothing there: it is dropped.
    Many { ends: Vec<u32>, to: Destinations },
}

/// Topics by number ([`Router::topic_name`]), and the partitions wished for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations {
    pub topics: Vec<u32>,
    /// As long as `topics`, or empty: no wishes. [`ANY_PARTITION`] is no wish. Whether the partition exists is not checked here.
    pub partitions: Vec<u32>,
}

/// One place a record goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// [`SENT_TO`], or a number for [`Router::topic_name`].
    pub topic: u32,
    /// What the router wished for; it may not exist.
    pub partition: Option<u32>,
}

impl Routes {
    /// Where one record goes.
    ///
    /// # Panics
    /// Beyond the last record.
    pub fn of_record(&self, record: usize) -> impl Iterator<Item = Destination> {
        const UNCHANGED: &[u32] = &[SENT_TO];
        let (topics, partitions) = match self {
            Self::Unchanged => (UNCHANGED, &[][..]),
            Self::Uniform(to) => to.range(0, to.topics.len()),
            Self::Single(to) => to.range(record, record + 1),
            Self::Many { ends, to } => {
                let start = if record == 0 { 0 } else { ends[record - 1] as usize };
                to.range(start, ends[record] as usize)
            }
        };
        topics.iter().enumerate().map(move |(index, topic)| Destination {
            topic: *topic,
            partition: partitions.get(index).copied().filter(|partition| *partition != ANY_PARTITION),
        })
    }
}

impl Destinations {
    fn range(&self, start: usize, end: usize) -> (&[u32], &[u32]) {
        (&self.topics[start..end], self.partitions.get(start..end).unwrap_or_default())
    }
}

/// One instance of a router, with its configuration. Belongs to one shard and one attachment.
pub struct Router {
    store: Store,
    exports: RouterExports,
    needs: Needs,
    destinations_max: usize,
}

impl Router {
    /// Opens an instance. Costs tens of microseconds, and what the plugin does with its configuration.
    ///
    /// # Errors
    /// [`OpenError::Refused`] has the plugin's own words about the configuration; the others say what is wrong with the plugin.
    pub fn open(compiled: &Compiled, config: &str, limits: &Limits) -> Result<Self, OpenError> {
        let pre = compiled.pre(World::Router)?;
        let mut store = Store::new(compiled, limits)?;
        let (exports, needs) = RouterExports::open(&mut store, pre, config)?;
        Ok(Self { store, exports, needs, destinations_max: limits.destinations_max })
    }

    /// The columns and facts to call it with.
    #[must_use]
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Asks where records go. `columns` are those of [`Router::needs`], of one batch or of several one after another; `contexts`
    /// has an entry for each batch. Costs about half a microsecond and a few nanoseconds for each record.
    ///
    /// An error is about all records of the call: where there were several batches, ask again for each alone.
    ///
    /// # Errors
    /// [`CallError`]; after [`CallError::Trap`] the instance is dead.
    ///
    /// # Panics
    /// Where columns and contexts are not what the needs say or do not fit together.
    pub fn route(
        &mut self,
        topic: &TopicInfo<'_>,
        columns: &Columns,
        contexts: &[Context<'_>],
    ) -> Result<Answer, CallError> {
        let call = Call::new(topic, columns, contexts, &self.needs);
        let answer = self.exports.route(&mut self.store, &call)?;
        check(&answer, columns.count, self.store.inner.data().topics.len() + 1, self.destinations_max)?;
        Ok(answer)
    }

    /// The name behind a number of an answer; none for [`SENT_TO`].
    #[must_use]
    pub fn topic_name(&self, number: u32) -> Option<&str> {
        let index = number.checked_sub(1)?;
        self.store.inner.data().topics.get(index as usize).map(String::as_str)
    }

    /// The topics that it has named so far: name i has number i + 1. After `open`, those of its configuration: does each exist?
    #[must_use]
    pub fn topics(&self) -> &[String] {
        &self.store.inner.data().topics
    }

    /// Whether it has trapped: open another.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.store.is_dead()
    }

    /// Bytes of memory that it has.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.store.memory_bytes()
    }

    /// What it logged since this was last called.
    pub fn take_log(&mut self) -> Log {
        self.store.take_log()
    }

    /// Its own metrics, since it was opened.
    #[must_use]
    pub fn series(&self) -> &[Series] {
        &self.store.inner.data().series
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").field("store", &self.store).field("needs", &self.needs).finish_non_exhaustive()
    }
}

/// Checks an answer for `count` records, with topic numbers below `known`.
pub(crate) fn check(answer: &Answer, count: u32, known: usize, destinations_max: usize) -> Result<(), WrongAnswer> {
    check_rejections(&answer.rejected, count)?;
    let count = count as usize;
    match &answer.routes {
        Routes::Unchanged => Ok(()),
        Routes::Uniform(to) => {
            check_destinations(to, known)?;
            check_one(0, &to.topics, destinations_max, &mut vec![usize::MAX; known])
        }
        Routes::Single(to) if to.topics.len() != count => {
            Err(WrongAnswer::Count { found: to.topics.len(), wanted: count })
        }
        Routes::Single(to) => check_destinations(to, known),
        Routes::Many { ends, .. } if ends.len() != count => {
            Err(WrongAnswer::Count { found: ends.len(), wanted: count })
        }
        Routes::Many { ends, to } => {
            check_destinations(to, known)?;
            let destinations = to.topics.len();
            let mut last_record = vec![usize::MAX; known];
            let mut start = 0;
            for (record, end) in ends.iter().enumerate() {
                let wrong = WrongAnswer::Ends { record, end: *end, destinations };
                let topics = to.topics.get(start..*end as usize).ok_or(wrong)?;
                check_one(record, topics, destinations_max, &mut last_record)?;
                start = *end as usize;
            }
            if start != destinations {
                return Err(WrongAnswer::Ends { record: count.saturating_sub(1), end: start as u32, destinations });
            }
            Ok(())
        }
    }
}

fn check_destinations(to: &Destinations, known: usize) -> Result<(), WrongAnswer> {
    if !to.partitions.is_empty() && to.partitions.len() != to.topics.len() {
        return Err(WrongAnswer::Partitions { partitions: to.partitions.len(), topics: to.topics.len() });
    }
    match to.topics.iter().find(|number| **number as usize >= known) {
        Some(number) => Err(WrongAnswer::Topic { number: *number, known }),
        None => Ok(()),
    }
}

/// A record goes to a topic once: a retry is recognised by topic, so a second copy there would be taken for one.
fn check_one(record: usize, topics: &[u32], max: usize, last_record: &mut [usize]) -> Result<(), WrongAnswer> {
    if topics.len() > max {
        return Err(WrongAnswer::TooMany { record, destinations: topics.len(), max });
    }
    for number in topics {
        let last = last_record.get_mut(*number as usize).expect("topic numbers were checked");
        if std::mem::replace(last, record) == record {
            return Err(WrongAnswer::Twice { record });
        }
    }
    Ok(())
}

pub(crate) fn check_rejections(rejected: &[Rejection], count: u32) -> Result<(), WrongAnswer> {
    match rejected.iter().find(|rejection| rejection.record >= count) {
        Some(rejection) => Err(WrongAnswer::Rejection { record: rejection.record, count }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
