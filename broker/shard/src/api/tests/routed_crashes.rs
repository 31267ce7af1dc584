//! Exactly once, and in order, through a router: hundreds of seeds, each a broker of several shards that loses answers, has no room, and is
//! killed between the parts of a batch, while an idempotent producer sends and sends again.
//!
//! A shard's appends are durable in their order, as a journal makes them: a crash leaves of each shard's a part from the beginning, whatever the
//! other shards have. Messages between two shards stay in order, and those of different pairs do not.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, LazyLock},
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, ProduceRequest, ProduceResponse, ResponseHeader,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::Decodable as _,
};
use tidegate_model::{
    metadata::{MetadataChange, MetadataImage, Plugin},
    partition::EpochStart,
};
use tidegate_plugin_host::{Compiled, Engine, EngineConfig, compile::compile, component::inspect};
use tidegate_records::{
    batch::{BatchHeader, Compression, stamp},
    build::{BatchBuilder, Producer},
    ids::{BrokerId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, ShardId, TopicPartition},
    record::Records,
    time::{Instant, Now, Timestamp},
};

use super::rig::{Rig, frame, topic_name};
use crate::{
    AppendBatch, ConnectionId, Effect, Effects, Input, RecoveredPartition, Shard, ShardIdentity, ShardSettings,
    message::Origin, ownership::owner,
};

/// More by hand: `TIDEGATE_SEEDS=100000`.
const SEEDS: u64 = 500;
const BATCHES: usize = 24;
const SOURCE_PARTITIONS: usize = 3;
/// Idempotent clients have at most so many on their way to a partition.
const IN_FLIGHT_MAX: usize = 5;
const PRODUCE_VERSION: i16 = 9;
const DESTINATIONS: [&str; 4] = ["source", "one", "two", "three"];

/// Plugins as they were built with a released interface.
static PLUGINS: LazyLock<[(&str, Compiled); 2]> = LazyLock::new(|| {
    let router = include_bytes!("../../../../plugin-host/tests/built-with-0.1.2/first-router.wasm");
    let partitioner = include_bytes!("../../../../plugin-host/tests/built-with-0.1.2/partitioner-murmur2.wasm");
    let engine = Engine::new(&EngineConfig { instances_max: 0, ..EngineConfig::default() }).expect("an engine");
    let compiled = |bytes: &'static [u8]| {
        let component = inspect(&Bytes::from_static(bytes), bytes.len()).expect("a component");
        compile(&engine, &component).expect("it is compiled")
    };
    [("router", compiled(router)), ("murmur2", compiled(partitioner))]
});

/// A source whose records go to one of three topics each and stay in it, too; one of the three has a partitioner.
static IMAGE: LazyLock<Arc<MetadataImage>> = LazyLock::new(|| {
    let mut rig = Rig::new(1);
    for (name, world) in [("router", "router"), ("murmur2", "partitioner")] {
        let plugin = Plugin {
            name: name.to_owned(),
            version: 1,
            hash: String::new(),
            world: world.to_owned(),
            bytes: 0,
            uploaded_at: 0,
            previous: None,
        };
        rig.commit(MetadataChange::DeployPlugin(plugin)).expect("deployed");
    }
    rig.create("one", 2, &[]);
    rig.create("two", 3, &[]);
    rig.create("three", 3, &[("tidegate.partitioner", "murmur2")]);
    let config = r#"{ "regions": { "one": "one", "two": "two", "three": "three" } }"#;
    let configs =
        [("tidegate.router", "router"), ("tidegate.router.config", config), ("tidegate.router.store", "true")];
    rig.create("source", SOURCE_PARTITIONS as i32, &configs);
    rig.image
});

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// A batch that is in a log, or on its way there.
struct Stored {
    partition: TopicPartition,
    header: BatchHeader,
    bytes: Bytes,
}

/// A batch that the client has, and where its sequence begins.
struct Sent {
    sequence: usize,
    bytes: Bytes,
}

/// A partition of the source, as the client sees it.
#[derive(Default)]
struct Lane {
    /// Not acknowledged, in order.
    open: VecDeque<Sent>,
    /// Sent over the connection that there is, and not answered: the first of those that are open, unless `again`.
    in_flight: usize,
    /// One was refused: when all that are in flight are answered, those that are open are sent again.
    again: bool,
    next_sequence: usize,
}

struct World {
    random: Random,
    shards: Vec<Shard>,
    /// From shard, to shard.
    channels: BTreeMap<(usize, usize), VecDeque<Input>>,
    /// By shard, in order: appended, and not durable.
    pending: Vec<VecDeque<Stored>>,
    logs: BTreeMap<TopicPartition, Vec<Stored>>,
    /// The client's connection, and the shard that has it.
    connection: (ConnectionId, usize),
    /// Frames in the socket that a shard has not looked at, also those of connections that are gone.
    frames: VecDeque<(ConnectionId, usize, Bytes)>,
    gone: BTreeSet<ConnectionId>,
    answers: BytesMut,
    /// What the answers are about: partition of the source and sequence, in the order of the requests.
    asked: VecDeque<(usize, usize)>,
    lanes: Vec<Lane>,
    made: usize,
    time: u64,
    /// What happened, for the message of a failure.
    lost_answers: usize,
    crashes: usize,
    refusals: usize,
}

fn now(time: u64) -> Now {
    Now { instant: Instant(time), wall: Timestamp(1_700_000_000_000 + time as i64 / 1_000_000) }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            shards: Vec::new(),
            channels: BTreeMap::new(),
            pending: Vec::new(),
            logs: BTreeMap::new(),
            connection: (ConnectionId(0), 0),
            frames: VecDeque::new(),
            gone: BTreeSet::new(),
            answers: BytesMut::new(),
            asked: VecDeque::new(),
            lanes: (0..SOURCE_PARTITIONS).map(|_| Lane::default()).collect(),
            made: 0,
            time: 1,
            lost_answers: 0,
            crashes: 0,
            refusals: 0,
        };
        world.start();
        world
    }

    /// A process begins, with any number of shards, and with what is in the logs.
    fn start(&mut self) {
        let count = 1 + self.random.below(3);
        let settings = Arc::new(ShardSettings::default());
        let identity =
            |shard| ShardIdentity { shard: ShardId(shard as u16), shards: count as u16, broker: BrokerId(1) };
        self.shards = (0..count).map(|shard| Shard::new(identity(shard), Arc::clone(&settings))).collect();
        self.pending = (0..count).map(|_| VecDeque::new()).collect();
        for shard in 0..count {
            for (name, compiled) in PLUGINS.iter() {
                let (name, compiled) = ((*name).to_owned(), compiled.clone());
                self.step(shard, Input::Plugin { name, version: 1, compiled });
            }
            let owned = self.logs.iter().filter(|(partition, _)| owner(**partition, count as u16).0 == shard as u16);
            let recovered = owned.map(|(partition, log)| recovered(*partition, log)).collect();
            self.step(shard, Input::Start { image: Arc::clone(&IMAGE), recovered });
        }
        self.connect();
    }

    fn connect(&mut self) {
        self.connection = (ConnectionId(self.connection.0.0 + 1), self.random.below(self.shards.len()));
        let (connection, shard) = self.connection;
        self.step(shard, Input::Connected { connection, client_host: "/10.0.0.1".into() });
        // What was not acknowledged is sent again, in order.
        for lane in &mut self.lanes {
            (lane.in_flight, lane.again) = (0, false);
        }
    }

    /// The answers that are on their way are lost with the connection. Of what the client has sent a part from the beginning still arrives.
    fn cut(&mut self) {
        self.lost_answers += self.asked.len();
        self.gone.insert(self.connection.0);
        let (connection, shard) = self.connection;
        let mut arrive = self.random.below(2 * IN_FLIGHT_MAX * SOURCE_PARTITIONS);
        self.frames.retain(|(of, _, _)| {
            let arrives = *of != connection || arrive > 0;
            arrive -= usize::from(*of == connection && arrives);
            arrives
        });
        if !self.frames.iter().any(|(of, _, _)| *of == connection) {
            self.step(shard, Input::Disconnected { connection });
        }
        self.answers.clear();
        self.asked.clear();
        self.connect();
    }

    /// `kill -9`: of each shard's appends a part from the beginning is on the disk, and everything else is gone.
    fn crash(&mut self) {
        self.crashes += 1;
        self.lost_answers += self.asked.len();
        for mut pending in std::mem::take(&mut self.pending) {
            let kept = self.random.below(pending.len() + 1);
            for stored in pending.drain(..kept) {
                self.logs.entry(stored.partition).or_default().push(stored);
            }
        }
        self.channels.clear();
        self.frames.clear();
        self.answers.clear();
        self.asked.clear();
        self.start();
    }

    fn step(&mut self, shard: usize, input: Input) {
        self.time += 1_000;
        let mut effects = Effects::default();
        // Now and then there is no room, for one step.
        let has_room = !(matches!(input, Input::Asked { .. } | Input::Frame { .. }) && self.random.one_in(40));
        self.shards[shard].set_append_budget(
            if has_room { usize::MAX } else { 0 },
            (!has_room).then(|| "the disk is full".to_owned()),
        );
        self.shards[shard].step(now(self.time), input, &mut effects);
        for effect in effects.list {
            match effect {
                Effect::Send { connection, chunks } if connection == self.connection.0 => {
                    chunks.iter().for_each(|chunk| self.answers.extend_from_slice(chunk));
                }
                Effect::Ask { to, request, ask } => {
                    let origin = Origin { shard: ShardId(shard as u16), request };
                    let channel = self.channels.entry((shard, usize::from(to.0))).or_default();
                    channel.push_back(Input::Asked { origin, ask });
                }
                Effect::Reply { to, request, reply } => {
                    let channel = self.channels.entry((shard, usize::from(to.0))).or_default();
                    channel.push_back(Input::Replied { request, reply });
                }
                Effect::Append { partition, batch } => self.pending[shard].push_back(stored(partition, &batch)),
                Effect::Close { reason, .. } => panic!("a connection is closed: {reason}"),
                _ => {}
            }
        }
    }

    /// The client makes a batch, or sends one that it has.
    fn client(&mut self) {
        let partition = self.random.below(SOURCE_PARTITIONS);
        if self.lanes[partition].open.len() == self.lanes[partition].in_flight && self.made < BATCHES {
            let batch = self.make(partition);
            self.lanes[partition].open.push_back(batch);
        }
        let lane = &mut self.lanes[partition];
        if lane.again || lane.in_flight == IN_FLIGHT_MAX || lane.in_flight == lane.open.len() {
            return;
        }
        let batch = &lane.open[lane.in_flight];
        let data = PartitionProduceData::default().with_index(partition as i32).with_records(Some(batch.bytes.clone()));
        self.asked.push_back((partition, batch.sequence));
        lane.in_flight += 1;
        let topic = TopicProduceData::default().with_name(topic_name("source")).with_partition_data(vec![data]);
        let body = ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic]);
        let (connection, shard) = self.connection;
        self.frames.push_back((connection, shard, frame(ApiKey::Produce, PRODUCE_VERSION, &body)));
    }

    fn make(&mut self, partition: usize) -> Sent {
        let sequence = self.lanes[partition].next_sequence;
        let numbers: Vec<usize> = (sequence..=sequence + self.random.below(6)).collect();
        self.made += 1;
        let lane = &mut self.lanes[partition];
        lane.next_sequence += numbers.len();
        let producer =
            Producer { id: ProducerId(7), epoch: ProducerEpoch(0), base_sequence: Sequence(sequence as i32) };
        let mut builder = BatchBuilder::new(Compression::None).with_producer(producer);
        for number in &numbers {
            let destination = goes_to(partition, *number);
            let (key, value) = (format!("{destination}.{number}"), format!("{partition}/{number}"));
            builder.push(now(self.time).wall, Some(key.as_bytes()), Some(value.as_bytes()), []);
        }
        Sent { sequence, bytes: builder.build().0 }
    }

    /// The client reads an answer: acknowledged, or "again".
    fn answer(&mut self) {
        let Some(length) = self.answers.first_chunk::<4>() else { return };
        let length = u32::from_be_bytes(*length) as usize;
        let mut bytes = self.answers.split_to(4 + length).freeze().slice(4..);
        let (partition, sequence) = self.asked.pop_front().expect("an answer to a request");
        ResponseHeader::decode(&mut bytes, ApiKey::Produce.response_header_version(PRODUCE_VERSION)).expect("a header");
        let response = ProduceResponse::decode(&mut bytes, PRODUCE_VERSION).expect("an answer");
        let answer = &response.responses[0].partition_responses[0];
        let lane = &mut self.lanes[partition];
        lane.in_flight -= 1;
        match answer.error_code {
            0 => {
                // Also where it goes to other destinations: librdkafka takes it for a sign that the one before was written.
                assert!(!lane.again, "a batch is acknowledged behind one that was refused");
                let first = lane.open.pop_front().map(|batch| batch.sequence);
                assert_eq!(first, Some(sequence), "batches are acknowledged in their order");
            }
            // STORAGE_ERROR, and OUT_OF_ORDER_SEQUENCE_NUMBER for those behind it.
            56 | 45 => {
                self.refusals += 1;
                lane.again = true;
            }
            other => panic!("error {other}: {:?}", answer.error_message),
        }
        if lane.in_flight == 0 {
            lane.again = false;
        }
    }

    /// A shard looks at what a client sent, or at what another shard said; or a round of the journal ends.
    fn broker(&mut self) {
        let busy: Vec<(usize, usize)> =
            self.channels.iter().filter(|(_, inputs)| !inputs.is_empty()).map(|(channel, _)| *channel).collect();
        let shards = self.shards.len();
        match self.random.below(busy.len() + 1 + shards) {
            at if at < busy.len() => {
                let input = self.channels.get_mut(&busy[at]).and_then(VecDeque::pop_front).expect("it is busy");
                self.step(busy[at].1, input);
            }
            at if at == busy.len() => {
                // Any connection's first.
                let Some(first) = self.frames.front().map(|(connection, _, _)| *connection) else { return };
                let other = if self.random.one_in(2) { self.connection.0 } else { first };
                let position = self.frames.iter().position(|(of, _, _)| *of == other);
                let Some((connection, shard, frame)) = position.and_then(|at| self.frames.remove(at)) else { return };
                self.step(shard, Input::Frame { connection, frame });
                let is_last = !self.frames.iter().any(|(of, _, _)| *of == connection);
                if is_last && self.gone.contains(&connection) {
                    self.step(shard, Input::Disconnected { connection });
                }
            }
            at => {
                let shard = at - busy.len() - 1;
                let durable = self.random.below(self.pending[shard].len() + 1);
                let mut ends: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
                for stored in self.pending[shard].drain(..durable) {
                    ends.insert(stored.partition, stored.header.next_offset());
                    self.logs.entry(stored.partition).or_default().push(stored);
                }
                if !ends.is_empty() {
                    self.step(shard, Input::Durable { partitions: ends.into_iter().collect() });
                }
            }
        }
    }

    fn is_done(&self) -> bool {
        self.made == BATCHES && self.lanes.iter().all(|lane| lane.open.is_empty())
    }

    fn run(&mut self) {
        while !self.is_done() {
            match self.random.below(100) {
                0 => self.cut(),
                1 => self.crash(),
                2..30 => self.client(),
                30..45 => self.answer(),
                _ => self.broker(),
            }
        }
        // What was acknowledged stays, whatever happens then.
        self.crash();
    }

    /// By topic and partition of the source: the numbers of its records, in the order in which they are there.
    fn found(&self) -> BTreeMap<(&str, TopicPartition, usize), Vec<usize>> {
        let mut found: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (partition, log) in &self.logs {
            let topic = &IMAGE.topic_by_id(partition.topic).expect("it is there").name;
            for stored in log {
                for record in
                    Records::new(&stored.bytes[tidegate_records::batch::HEADER_BYTES..], stored.header.records_count)
                {
                    let value = std::str::from_utf8(record.expect("a record").value.expect("a value")).expect("text");
                    let (source, number) = value.split_once('/').expect("where it was sent to, and its number");
                    let source: usize = source.parse().expect("a partition");
                    found
                        .entry((topic.as_str(), *partition, source))
                        .or_default()
                        .push(number.parse().expect("a number"));
                }
            }
        }
        found
    }

    fn check(&self, seed: u64) {
        let found = self.found();
        for (place, numbers) in &found {
            assert!(numbers.is_sorted_by(|a, b| a < b), "seed {seed}: {place:?} has {numbers:?}");
        }
        for (partition, lane) in self.lanes.iter().enumerate() {
            for topic in DESTINATIONS {
                let there = found.iter().filter(|((name, _, source), _)| *name == topic && *source == partition);
                let mut there: Vec<usize> = there.flat_map(|(_, numbers)| numbers.clone()).collect();
                there.sort_unstable();
                let goes_there = |number: &usize| topic == "source" || goes_to(partition, *number) == topic;
                let expected: Vec<usize> = (0..lane.next_sequence).filter(goes_there).collect();
                assert_eq!(there, expected, "seed {seed}: what went from partition {partition} to {topic}");
            }
        }
    }
}

/// Where the router sends a record beside where it was sent to.
fn goes_to(partition: usize, number: usize) -> &'static str {
    DESTINATIONS[1 + (number * 7 + partition + number / 5) % 3]
}

fn stored(partition: TopicPartition, batch: &AppendBatch) -> Stored {
    let mut bytes = BytesMut::from(&batch.bytes[..]);
    stamp(&mut bytes, batch.base_offset, batch.leader_epoch);
    let header =
        BatchHeader { base_offset: batch.base_offset, partition_leader_epoch: batch.leader_epoch, ..batch.header };
    Stored { partition, header, bytes: bytes.freeze() }
}

fn recovered(partition: TopicPartition, log: &[Stored]) -> RecoveredPartition {
    RecoveredPartition {
        partition,
        log_start_offset: Offset(0),
        log_end_offset: log.last().map_or(Offset(0), |stored| stored.header.next_offset()),
        epochs: vec![EpochStart { epoch: LeaderEpoch(0), start_offset: Offset(0) }],
        producers: None,
        batches: log.iter().map(|stored| (stored.header, Timestamp(1_700_000_000_000))).collect(),
        unsaved_bytes: 0,
        error: None,
    }
}

#[test]
fn a_producer_that_sends_again_leaves_each_record_once_and_in_order_everywhere() {
    let (mut lost_answers, mut crashes, mut refusals) = (0, 0, 0);
    let seeds = std::env::var("TIDEGATE_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    for seed in 0..seeds {
        let mut world = World::new(seed);
        world.run();
        world.check(seed);
        lost_answers += world.lost_answers;
        crashes += world.crashes;
        refusals += world.refusals;
    }
    // Of chance nothing is left to chance: each of these happens often.
    assert!(lost_answers > 1_000 && crashes > 1_000 && refusals > 300, "{lost_answers} {crashes} {refusals}");
}
