//! A partitioner that was opened: asked for the partition of each record, its answers checked.

use tidegate_records::columns::Columns;

use crate::{
    CallError, Compiled, Context, Limits, Needs, OpenError, Rejection, TopicInfo, World, WrongAnswer,
    router::check_rejections,
    sandbox::{Log, Series, Store},
    since_0_1::{Call, PartitionerExports},
};

/// The partitions of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// One for each record. Checked to be below the partitions of the topic, but for rejected records.
    pub partitions: Vec<u32>,
    /// Usually empty. The partition of a rejected record means nothing.
    pub rejected: Vec<Rejection>,
}

/// One instance of a partitioner, with its configuration. Belongs to one shard and one attachment.
pub struct Partitioner {
    store: Store,
    exports: PartitionerExports,
    needs: Needs,
}

impl Partitioner {
    /// Opens an instance, as [`Router::open`](crate::Router::open).
    ///
    /// # Errors
    /// [`OpenError::Refused`] has the plugin's own words about the configuration; the others say what is wrong with the plugin.
    pub fn open(compiled: &Compiled, config: &str, limits: &Limits) -> Result<Self, OpenError> {
        let pre = compiled.pre(World::Partitioner)?;
        let mut store = Store::new(compiled, limits)?;
        let (exports, needs) = PartitionerExports::open(&mut store, pre, config)?;
        Ok(Self { store, exports, needs })
    }

    /// The columns and facts to call it with.
    #[must_use]
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Asks for the partition of each record, as [`Router::route`](crate::Router::route).
    ///
    /// # Errors
    /// [`CallError`]; after [`CallError::Trap`] the instance is dead.
    ///
    /// # Panics
    /// Where columns and contexts are not what the needs say or do not fit together.
    pub fn partition(
        &mut self,
        topic: &TopicInfo<'_>,
        columns: &Columns,
        contexts: &[Context<'_>],
    ) -> Result<Placement, CallError> {
        let call = Call::new(topic, columns, contexts, &self.needs);
        let placement = self.exports.partition(&mut self.store, &call)?;
        check(&placement, columns.count, topic.partitions)?;
        Ok(placement)
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

impl std::fmt::Debug for Partitioner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partitioner").field("store", &self.store).field("needs", &self.needs).finish_non_exhaustive()
    }
}

fn check(placement: &Placement, count: u32, partitions: u32) -> Result<(), WrongAnswer> {
    check_rejections(&placement.rejected, count)?;
    let found = placement.partitions.len();
    if found != count as usize {
        return Err(WrongAnswer::Count { found, wanted: count as usize });
    }
    // The common case is one comparison a record, of several at once; who was rejected matters only once something is out of range.
    if placement.partitions.iter().fold(0, |highest, partition| highest.max(*partition)) < partitions {
        return Ok(());
    }
    for (record, partition) in placement.partitions.iter().enumerate() {
        if *partition >= partitions && !placement.rejected.iter().any(|one| one.record as usize == record) {
            return Err(WrongAnswer::Partition { record, partition: *partition, partitions });
        }
    }
    Ok(())
}
