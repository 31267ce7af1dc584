//! An acknowledgement hook that was opened: asked whether a batch is taken and when it counts as acknowledged.

use tidegate_records::columns::Columns;

use crate::{
    CallError, Compiled, Context, Limits, Needs, OpenError, Rejection, TopicInfo, World, WrongAnswer,
    router::check_rejections,
    sandbox::{Log, Series, Store},
    since_0_1::{AckExports, Call},
};

/// What a producer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    None,
    Leader,
    All,
}

/// One copy of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica<'a> {
    pub broker: i32,
    pub rack: Option<&'a str>,
    pub in_sync: bool,
    /// Records that it is behind the leader.
    pub behind: u64,
}

/// A batch as it came from a producer.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    pub partition: u32,
    /// As it was sent, compressed if it was.
    pub bytes: u32,
    pub acks: Acks,
    pub min_in_sync: u32,
    /// The leader first.
    pub replicas: &'a [Replica<'a>],
}

/// Copies that must be durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    pub count: u32,
    /// Different racks that they are in at least.
    pub racks: u32,
    /// Brokers that must be among them.
    pub brokers: Vec<i32>,
    /// Milliseconds until the producer gets a retriable error; 0: its own timeout.
    pub within_ms: u32,
}

impl Copies {
    /// Whether whoever can give this can give `other`, too. Time is not compared: it can always be given.
    fn covers(&self, other: &Self) -> bool {
        self.count.max(1) >= other.count
            && self.racks.max(1) >= other.racks
            && other.brokers.iter().all(|broker| self.brokers.contains(broker))
    }
}

/// Why a whole batch is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: RefusalReason,
    /// The plugin's words, for the producer.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    InvalidRecord,
    PolicyViolation,
    TopicAuthorizationFailed,
    MessageTooLarge,
    Throttled,
    NotEnoughReplicas,
}

/// What becomes of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    AsAsked,
    Appended,
    LeaderDurable,
    MinInSync,
    AllInSync,
    /// Checked to be no more than [`AckHook::strongest`].
    Until(Copies),
    Refuse(Refusal),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decisions {
    /// One for each arrival.
    pub decisions: Vec<Decision>,
    pub rejected: Vec<Rejection>,
}

/// One instance of an acknowledgement hook, with its configuration. Belongs to one shard and one attachment.
pub struct AckHook {
    store: Store,
    exports: AckExports,
    needs: Needs,
    strongest: Option<Copies>,
}

impl AckHook {
    /// Opens an instance, as [`Router::open`](crate::Router::open).
    ///
    /// # Errors
    /// [`OpenError::Refused`] has the plugin's own words about the configuration; the others say what is wrong with the plugin.
    pub fn open(compiled: &Compiled, config: &str, limits: &Limits) -> Result<Self, OpenError> {
        let pre = compiled.pre(World::Ack)?;
        let mut store = Store::new(compiled, limits)?;
        let (exports, needs) = AckExports::open(&mut store, pre, config)?;
        let strongest = exports.strongest(&mut store)?;
        Ok(Self { store, exports, needs, strongest })
    }

    /// The columns and facts to call it with.
    #[must_use]
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// The most that it asks for in [`Decision::Until`]: can the cluster give it?
    #[must_use]
    pub fn strongest(&self) -> Option<&Copies> {
        self.strongest.as_ref()
    }

    /// Asks about batches, as [`Router::route`](crate::Router::route); there is an arrival for each context.
    ///
    /// # Errors
    /// [`CallError`]; after [`CallError::Trap`] the instance is dead.
    ///
    /// # Panics
    /// Where columns, contexts and arrivals do not fit together or are not what the needs say.
    pub fn decide(
        &mut self,
        topic: &TopicInfo<'_>,
        columns: &Columns,
        contexts: &[Context<'_>],
        arrivals: &[Arrival<'_>],
    ) -> Result<Decisions, CallError> {
        assert_eq!(contexts.len(), arrivals.len(), "there is an arrival for each context");
        let call = Call::new(topic, columns, contexts, &self.needs);
        let decided = self.exports.decide(&mut self.store, &call, arrivals)?;
        check(&decided, columns.count, arrivals.len(), self.strongest.as_ref())?;
        Ok(decided)
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

impl std::fmt::Debug for AckHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AckHook").field("store", &self.store).field("needs", &self.needs).finish_non_exhaustive()
    }
}

fn check(decided: &Decisions, count: u32, arrivals: usize, strongest: Option<&Copies>) -> Result<(), WrongAnswer> {
    check_rejections(&decided.rejected, count)?;
    if decided.decisions.len() != arrivals {
        return Err(WrongAnswer::Decisions { found: decided.decisions.len(), wanted: arrivals });
    }
    for (arrival, decision) in decided.decisions.iter().enumerate() {
        if let Decision::Until(copies) = decision
            && !strongest.is_some_and(|strongest| strongest.covers(copies))
        {
            return Err(WrongAnswer::BeyondStrongest { arrival });
        }
    }
    Ok(())
}
