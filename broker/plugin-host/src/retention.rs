//! A retention policy that was opened: asked how long the records of a topic are kept, with a filter, which of a segment are, and, where it
//! offloads, which segments go to the object store.

use tidegate_records::columns::Columns;

use crate::{
    CallError, Compiled, Context, Limits, Needs, OpenError, TopicInfo, World, WrongAnswer,
    sandbox::{Log, Series, Store},
    since_0_1::{Call, FilterExports, OffloadExports, RetentionExports},
};

/// A sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub base_offset: i64,
    /// The offset after its last record.
    pub next_offset: i64,
    /// In milliseconds since 1970.
    pub max_timestamp: i64,
    pub bytes: u64,
}

/// A consumer group's position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    pub group: String,
    /// The next record that it wants.
    pub committed: i64,
    /// Since it committed that.
    pub idle_ms: u64,
}

/// What a policy sees of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionLog {
    pub partition: u32,
    pub start_offset: i64,
    pub high_watermark: i64,
    /// Sealed ones, oldest first.
    pub segments: Vec<Segment>,
    pub readers: Vec<Reader>,
}

/// What becomes of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The new start offset, unless the broker's bounds or the present one are in the way.
    pub delete_before: i64,
    /// Indexes of segments, checked; empty without a filter.
    pub rewrite: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retained {
    /// One for each partition.
    pub verdicts: Vec<Verdict>,
    /// Milliseconds; 0: at the broker's next round.
    pub again_in_ms: u64,
}

/// What a policy that offloads sees of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffloadLog {
    pub partition: u32,
    pub start_offset: i64,
    pub high_watermark: i64,
    /// Sealed ones, oldest first, and whether each is in the object store already.
    pub segments: Vec<(Segment, bool)>,
    /// Of the active segment.
    pub active_bytes: u64,
}

/// One instance of a retention policy, with its configuration.
pub struct Retention {
    store: Store,
    exports: RetentionExports,
    filters: bool,
    offloads: bool,
}

impl Retention {
    /// Opens an instance, as [`Router::open`](crate::Router::open).
    ///
    /// # Errors
    /// [`OpenError::Refused`] has the plugin's own words about the configuration; the others say what is wrong with the plugin.
    pub fn open(compiled: &Compiled, config: &str, limits: &Limits) -> Result<Self, OpenError> {
        let pre = compiled.pre(World::Retention)?;
        let mut store = Store::new(compiled, limits)?;
        let (exports, _) = RetentionExports::open(&mut store, pre, config)?;
        let (filters, offloads) = (FilterExports::are_in(pre), OffloadExports::are_in(pre));
        Ok(Self { store, exports, filters, offloads })
    }

    /// Whether its component has a [`Filter`].
    #[must_use]
    pub fn filters(&self) -> bool {
        self.filters
    }

    /// Whether its component says which segments are offloaded ([`Offloader`]).
    #[must_use]
    pub fn offloads(&self) -> bool {
        self.offloads
    }

    /// Asks what becomes of partitions of a topic. `now`: milliseconds since 1970.
    ///
    /// # Errors
    /// [`CallError`]; after [`CallError::Trap`] the instance is dead.
    pub fn evaluate(&mut self, topic: &TopicInfo<'_>, logs: &[PartitionLog], now: i64) -> Result<Retained, CallError> {
        let retained = self.exports.evaluate(&mut self.store, topic, logs, now)?;
        check(&retained, logs, self.filters)?;
        Ok(retained)
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

impl std::fmt::Debug for Retention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retention").field("store", &self.store).field("filters", &self.filters).finish_non_exhaustive()
    }
}

fn check(retained: &Retained, logs: &[PartitionLog], filters: bool) -> Result<(), WrongAnswer> {
    if retained.verdicts.len() != logs.len() {
        return Err(WrongAnswer::Verdicts { found: retained.verdicts.len(), wanted: logs.len() });
    }
    for (verdict, log) in retained.verdicts.iter().zip(logs) {
        if !verdict.rewrite.is_empty() && !filters {
            return Err(WrongAnswer::NoFilter);
        }
        let segments = log.segments.len();
        if let Some(segment) = verdict.rewrite.iter().find(|segment| **segment as usize >= segments) {
            return Err(WrongAnswer::Segment { partition: log.partition, segment: *segment, segments });
        }
    }
    Ok(())
}

/// One instance of a policy's filter: what is kept of segments that are rewritten.
pub struct Filter {
    store: Store,
    exports: FilterExports,
    needs: Needs,
}

impl Filter {
    /// Opens an instance, as [`Retention::open`]: of the same component, with the same configuration.
    ///
    /// # Errors
    /// As [`Retention::open`]; [`OpenError::Unusable`] where the component has no filter.
    pub fn open(compiled: &Compiled, config: &str, limits: &Limits) -> Result<Self, OpenError> {
        let pre = compiled.pre(World::Retention)?;
        let mut store = Store::new(compiled, limits)?;
        let (exports, needs) = FilterExports::open(&mut store, pre, config)?;
        Ok(Self { store, exports, needs })
    }

    /// The columns to call it with; offsets are always among them.
    #[must_use]
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Asks which records of a batch are kept: bit i (word i / 64, least significant first) is record i. `now`: milliseconds since 1970.
    ///
    /// # Errors
    /// [`CallError`]; after [`CallError::Trap`] the instance is dead.
    ///
    /// # Panics
    /// Where the columns are not what the needs say, or have no offsets.
    pub fn keep(
        &mut self,
        topic: &TopicInfo<'_>,
        partition: u32,
        columns: &Columns,
        now: i64,
    ) -> Result<Vec<u64>, CallError> {
        let whole = Context {
            end: columns.count,
            now: tidegate_records::time::Timestamp(now),
            seed: 0,
            principal: None,
            client_id: None,
        };
        let call = Call::new(topic, columns, &[whole], &self.needs);
        let offsets = columns.offsets.as_deref().expect("offsets were built");
        let kept = self.exports.keep(&mut self.store, partition, &call, offsets, now)?;
        let (count, wanted) = (columns.count, (columns.count as usize).div_ceil(64));
        if kept.len() != wanted {
            return Err(WrongAnswer::Kept { found: kept.len(), count, wanted }.into());
        }
        Ok(kept)
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
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter").field("store", &self.store).field("needs", &self.needs).finish_non_exhaustive()
    }
}

/// One instance of a policy that says which segments go to the object store.
pub struct Offloader {
    store: Store,
    exports: OffloadExports,
}

impl Offloader {
    /// Opens an instance, as [`Retention::open`]: of the same component, with the same configuration.
    ///
    /// # Errors
    /// As [`Retention::open`]; [`OpenError::Unusable`] where the component does not offload.
    pub fn open(compiled: &Compiled, config: &str, limits: &Limits) -> Result<Self, OpenError> {
        let pre = compiled.pre(World::Retention)?;
        let mut store = Store::new(compiled, limits)?;
        let exports = OffloadExports::open(&mut store, pre, config)?;
        Ok(Self { store, exports })
    }

    /// Asks which segments go: for each partition, in order, their indexes. `now`: milliseconds since 1970.
    ///
    /// # Errors
    /// [`CallError`]; after [`CallError::Trap`] the instance is dead.
    pub fn offload(
        &mut self,
        topic: &TopicInfo<'_>,
        logs: &[OffloadLog],
        now: i64,
    ) -> Result<Vec<Vec<u32>>, CallError> {
        let chosen = self.exports.offload(&mut self.store, topic, logs, now)?;
        if chosen.len() != logs.len() {
            return Err(WrongAnswer::Offloads { found: chosen.len(), wanted: logs.len() }.into());
        }
        for (chosen, log) in chosen.iter().zip(logs) {
            let segments = log.segments.len();
            if let Some(segment) = chosen.iter().find(|segment| **segment as usize >= segments) {
                let (partition, segment) = (log.partition, *segment);
                return Err(WrongAnswer::Offload { partition, segment, segments }.into());
            }
        }
        Ok(chosen)
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
}

impl std::fmt::Debug for Offloader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offloader").field("store", &self.store).finish_non_exhaustive()
    }
}
