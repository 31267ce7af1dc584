//! Requests as a client may send them: whatever comes, the shard answers, closes the connection, or waits; it does not panic, and it
//! does not believe a count.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use tidegate_model::metadata::{MetadataChange, MetadataImage};
use tidegate_records::{
    ids::{BrokerId, Offset, PartitionIndex, ShardId, TopicId, TopicPartition},
    time::{Instant, Now, Timestamp},
};
use tidegate_shard::{ConnectionId, Effect, Effects, Input, RecoveredPartition, Shard, ShardIdentity, ShardSettings};

/// A topic that is there.
const TOPIC: &str = "orders";
const TOPIC_ID: TopicId = TopicId([7; 16]);
const PARTITIONS: i32 = 2;
/// Requests of one case.
const FRAMES_MAX: usize = 16;

/// `bytes` are what one connection sends: frames, each after its length. The last may be cut off.
pub fn frames(bytes: &[u8]) {
    let mut shard = started();
    let connection = ConnectionId(1);
    step(&mut shard, Input::Connected { connection, client_host: "127.0.0.1".to_owned() });
    let mut rest = bytes;
    for _ in 0..FRAMES_MAX {
        let Some((length, after)) = rest.split_first_chunk::<4>() else { break };
        let length = (u32::from_be_bytes(*length) as usize).min(after.len());
        let (frame, after) = after.split_at(length);
        step(&mut shard, Input::Frame { connection, frame: Bytes::copy_from_slice(frame) });
        rest = after;
    }
    step(&mut shard, Input::Tick);
    step(&mut shard, Input::Disconnected { connection });
}

fn started() -> Shard {
    let identity = ShardIdentity { shard: ShardId(0), shards: 1, broker: BrokerId(1) };
    let mut shard = Shard::new(identity, Arc::new(ShardSettings::default()));
    let mut image = MetadataImage::default();
    for (name, id) in [(TOPIC, TOPIC_ID), ("__consumer_offsets", TopicId([8; 16]))] {
        image = image.apply(&MetadataChange::CreateTopic {
            name: name.to_owned(),
            id: id.to_hex(),
            partitions: PARTITIONS,
            configs: BTreeMap::new(),
        });
    }
    let mut recovered = Vec::new();
    for topic in [TOPIC_ID, TopicId([8; 16])] {
        recovered.extend((0..PARTITIONS).map(|index| RecoveredPartition {
            partition: TopicPartition::new(topic, PartitionIndex(index)),
            log_start_offset: Offset(0),
            log_end_offset: Offset(0),
            epochs: Vec::new(),
            producers: None,
            batches: Vec::new(),
            unsaved_bytes: 0,
            error: None,
        }));
    }
    step(&mut shard, Input::Start { image: Arc::new(image), recovered });
    shard
}

/// One input, and storage's answer to what it appends.
fn step(shard: &mut Shard, input: Input) {
    let now = Now { instant: Instant(1_000_000), wall: Timestamp(1_700_000_000_000) };
    let mut inputs = vec![input];
    while let Some(input) = inputs.pop() {
        let mut effects = Effects::default();
        shard.set_append_budget(1 << 20, None);
        shard.step(now, input, &mut effects);
        let mut partitions = BTreeMap::new();
        for effect in effects.list {
            if let Effect::Append { partition, batch } = effect {
                let next_offset = batch.base_offset.plus(i64::from(batch.header.last_offset_delta) + 1);
                partitions.insert(partition, next_offset);
            }
        }
        if !partitions.is_empty() {
            inputs.push(Input::Durable { partitions: partitions.into_iter().collect() });
        }
    }
}
