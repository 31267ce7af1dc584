//! One round of compaction over one log: what the model decides, batch by batch, between reads and writes of storage.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    rc::Rc,
};

use tidegate_model::compaction::{Filtered, Indexed, OffsetMap, Plan};
use tidegate_records::ids::{Offset, TopicPartition};

use super::{executor::Core, runtime};

/// Memory of the map from keys to offsets; a log with more keys takes several rounds.
const MAP_BYTES: usize = 16 << 20;
/// Bytes read at once: other work of the shard runs between the reads.
const READ_BYTES: usize = 256 << 10;

/// Runs a round. Readers and writers go on meanwhile; the old segments serve until the new one is whole.
pub(crate) async fn compact(core: &Rc<Core>, partition: TopicPartition, plan: Plan) -> Result<(), String> {
    let secret = || RandomState::new().build_hasher().finish();
    let map = OffsetMap::new(MAP_BYTES, [secret(), secret()]);
    let begun = core.shard.borrow().begin_compaction(core.clock.now(), partition, plan, map);
    let Some(mut round) = begun else { return Ok(()) };
    let store = core.log.store();
    let read = async |from: Offset, to: Offset| {
        store.read_stored(partition, from, to, READ_BYTES).await.map_err(|error| error.to_string())
    };

    let mut next = plan.first_dirty;
    'index: loop {
        let stored = read(next, plan.up_to).await?;
        let Some(last) = stored.last() else {
            round.all_indexed();
            break;
        };
        next = last.header.next_offset();
        for batch in &stored {
            if round.index(&batch.header, &batch.bytes).map_err(|error| error.to_string())? == Indexed::Full {
                break 'index;
            }
        }
        runtime::yield_if_needed().await;
    }
    if round.cleaned_to() == plan.first_dirty {
        return Ok(());
    }
    for (from, to) in round.groups(&super::housekeeping::segments(core, partition)) {
        let mut rewrite = store.begin_rewrite(partition, from, to).await.map_err(|error| error.to_string())?;
        let mut next = from;
        loop {
            let stored = read(next, to).await?;
            let Some(last) = stored.last() else { break };
            next = last.header.next_offset();
            for batch in stored {
                let kept = match round.filter(&batch.header, &batch.bytes).map_err(|error| error.to_string())? {
                    Filtered::Keep => batch.bytes,
                    Filtered::Replace(bytes) => bytes,
                    Filtered::Drop => continue,
                };
                rewrite.push(kept, batch.append_time).await.map_err(|error| error.to_string())?;
            }
            runtime::yield_if_needed().await;
        }
        rewrite.finish().await.map_err(|error| error.to_string())?;
    }
    core.shard.borrow_mut().compacted(partition, round.cleaned_to());
    Ok(())
}
