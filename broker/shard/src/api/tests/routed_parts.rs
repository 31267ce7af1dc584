//! Parts of routed batches at the shard that owns their destination.

use tidegate_model::partition::{CommitRule, producers::derived_producer_id};
use tidegate_records::{
    batch::Compression,
    build::{BatchBuilder, Producer},
    ids::{Offset, PartitionIndex, ProducerEpoch, ProducerId, Sequence, ShardId, TopicPartition},
    split::with_producer,
    time::{Instant, Timestamp},
};

use super::rig::Rig;
use crate::{
    Effect, Effects, Input, RequestId,
    message::{Ask, Origin, ProduceAsk, ProduceItem, Reply},
};

/// A part of one record, from a client's batch that began at `sequence`.
fn part(to: TopicPartition, sequence: i32) -> ProduceItem {
    let ingress = TopicPartition { partition: PartitionIndex(7), ..to };
    let id = derived_producer_id(ProducerId(1), ingress);
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(Timestamp(1_700_000_000_000), None, Some(sequence.to_string().as_bytes()), []);
    let (bytes, header) = builder.build();
    let producer = Producer { id, epoch: ProducerEpoch(0), base_sequence: Sequence(sequence) };
    let (bytes, header) = with_producer(&bytes, &header, Some(producer));
    ProduceItem { index: 0, partition: to, bytes, header, rule: CommitRule::LEADER_DURABLE }
}

/// The first part is refused because storage has no room, the second finds room: were it taken, the retry of the first would be
/// out of order for good, and its record lost at this destination alone.
#[test]
fn a_part_waits_for_those_before_it_that_were_refused() {
    let mut rig = Rig::new(1);
    rig.create("destination", 1, &[]);
    let topic = rig.image.topic("destination").expect("just created").id;
    let to = TopicPartition::new(topic, PartitionIndex(0));
    let now = rig.now;
    let mut requests = 0;
    // What is appended, and the code of the answer if there is one at once.
    let mut produce = |sequence: i32, room: usize| {
        requests += 1;
        let shard = &mut rig.shards[0];
        let mut effects = Effects::default();
        shard.set_append_budget(room, (room == 0).then(|| "the disk is full".to_owned()));
        // From another shard, so that the answer is an effect.
        let origin = Origin { shard: ShardId(1), request: RequestId(requests) };
        let items = vec![part(to, sequence)];
        let ask = ProduceAsk { items, deadline: Instant(u64::MAX) };
        shard.step(now, Input::Asked { origin, ask: Ask::Produce(ask) }, &mut effects);
        let mut appended = None;
        let mut code = None;
        for effect in effects.list {
            match effect {
                Effect::Append { batch, .. } => appended = Some((batch.base_offset, batch.header.base_sequence.0)),
                Effect::Reply { reply: Reply::Produced(items), .. } => {
                    code = items[0].result.as_ref().err().map(crate::error::PartitionError::code);
                }
                _ => {}
            }
        }
        (appended, code)
    };
    const STORAGE: Option<i16> = Some(56);
    const OUT_OF_ORDER: Option<i16> = Some(45);
    let room = usize::MAX;
    assert_eq!(produce(0, room), (Some((Offset(0), 0)), None));
    assert_eq!(produce(10, 0), (None, STORAGE));
    assert_eq!(produce(20, room), (None, OUT_OF_ORDER));
    assert_eq!(produce(30, 0), (None, OUT_OF_ORDER));
    // The client sends them again, in order.
    assert_eq!(produce(10, room), (Some((Offset(1), 10)), None));
    assert_eq!(produce(20, room), (Some((Offset(2), 20)), None));
    assert_eq!(produce(30, room), (Some((Offset(3), 30)), None));
    // And once more: each is known.
    for sequence in [10, 20, 30] {
        assert_eq!(produce(sequence, room), (None, None), "a duplicate waits for the first copy to be durable");
    }
}
