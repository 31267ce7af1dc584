//! A broker in memory: what is appended is durable at once, metadata is committed when it is proposed, and time stands still.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, ProduceRequest, ProduceResponse, RequestHeader, ResponseHeader, TopicName,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::{Decodable, Encodable, StrBytes},
};
use tidegate_model::{
    metadata::{Broker, Committed, MetadataChange, MetadataImage, ProposalResult},
    topic_config::BrokerDefaults,
};
use tidegate_records::{
    batch::Compression,
    build::BatchBuilder,
    ids::{BrokerId, Offset, ShardId, TopicId, TopicPartition},
    time::{Instant, Now, Timestamp},
};

use crate::{
    ConnectionId, Effect, Effects, Input, RequestId, Shard, ShardIdentity, ShardSettings,
    message::{Origin, Reply},
};

const CORRELATION: i32 = 7;

/// Base offset, end and bytes of each batch.
pub(super) type Log = Vec<(Offset, Offset, Bytes)>;

pub(super) struct Rig {
    pub(super) shards: Vec<Shard>,
    pub(super) now: Now,
    pub(super) image: Arc<MetadataImage>,
    pub(super) logs: BTreeMap<TopicPartition, Log>,
    pub(super) closed: BTreeMap<ConnectionId, String>,
    /// Proposals wait here while it is `Some`.
    pub(super) held: Option<Vec<(usize, RequestId, u32, MetadataChange)>>,
    sent: BTreeMap<ConnectionId, BytesMut>,
    topics_made: u8,
}

impl Rig {
    pub(super) fn new(shards: u16) -> Self {
        Self::with(shards, ShardSettings::default(), BrokerDefaults::new())
    }

    /// Connection `n` is on shard `n`.
    pub(super) fn with(shards: u16, settings: ShardSettings, defaults: BrokerDefaults) -> Self {
        let broker = Broker { id: 1, host: "broker.example".into(), port: 9092, rack: Some("r1".into()) };
        let image = Arc::new(MetadataImage::new("cluster".into(), broker, defaults));
        let settings = Arc::new(settings);
        let identity = |shard| ShardIdentity { shard: ShardId(shard), shards, broker: BrokerId(1) };
        let mut rig = Self {
            shards: (0..shards).map(|shard| Shard::new(identity(shard), Arc::clone(&settings))).collect(),
            now: Now { instant: Instant(1), wall: Timestamp(1_700_000_000_000) },
            image: Arc::clone(&image),
            logs: BTreeMap::new(),
            closed: BTreeMap::new(),
            held: None,
            sent: BTreeMap::new(),
            topics_made: 0,
        };
        for shard in 0..usize::from(shards) {
            rig.step(shard, Input::Start { image: Arc::clone(&image), recovered: Vec::new() });
            let connection = ConnectionId(shard as u64);
            rig.step(shard, Input::Connected { connection, client_host: "/10.0.0.1".into() });
        }
        rig
    }

    pub(super) fn create(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let configs = configs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let change = MetadataChange::CreateTopic { name: name.into(), id: String::new(), partitions, configs };
        self.commit(change).expect("a topic that can be made");
    }

    pub(super) fn commit(&mut self, mut change: MetadataChange) -> ProposalResult {
        if let MetadataChange::CreateTopic { id, .. } = &mut change {
            self.topics_made += 1;
            let mut bytes = [self.topics_made; 16];
            bytes[0] = 0x80;
            *id = TopicId(bytes).to_hex();
        }
        self.image.validate(&change)?;
        let allocated = matches!(change, MetadataChange::AllocateProducerIds { .. });
        let first_producer_id = allocated.then(|| self.image.next_producer_id());
        self.image = Arc::new(self.image.apply(&change));
        for shard in 0..self.shards.len() {
            self.step(shard, Input::Metadata { image: Arc::clone(&self.image) });
        }
        Ok(Committed { image: Arc::clone(&self.image), first_producer_id })
    }

    /// Commits what is held, in order.
    pub(super) fn release(&mut self) {
        for (shard, request, tag, change) in self.held.take().unwrap_or_default() {
            let result = self.commit(change);
            self.step(shard, Input::Replied { request, reply: Reply::Proposed { tag, result } });
        }
    }

    pub(super) fn step(&mut self, shard: usize, input: Input) {
        let mut inputs = VecDeque::from([(shard, input)]);
        while let Some((at, input)) = inputs.pop_front() {
            let mut effects = Effects::default();
            self.shards[at].set_append_budget(usize::MAX, None);
            self.shards[at].step(self.now, input, &mut effects);
            for effect in effects.list {
                self.perform(at, effect, &mut inputs);
            }
        }
    }

    fn perform(&mut self, at: usize, effect: Effect, inputs: &mut VecDeque<(usize, Input)>) {
        let from = ShardId(at as u16);
        match effect {
            Effect::Send { connection, chunks } => {
                let sent = self.sent.entry(connection).or_default();
                chunks.iter().for_each(|chunk| sent.extend_from_slice(chunk));
            }
            Effect::Close { connection, reason } => {
                self.closed.insert(connection, reason);
            }
            Effect::Ask { to, request, ask } => {
                inputs.push_back((usize::from(to.0), Input::Asked { origin: Origin { shard: from, request }, ask }));
            }
            Effect::Reply { to, request, reply } => {
                inputs.push_back((usize::from(to.0), Input::Replied { request, reply }));
            }
            Effect::Append { partition, batch } => {
                let mut bytes = BytesMut::from(&batch.bytes[..]);
                tidegate_records::batch::stamp(&mut bytes, batch.base_offset, batch.leader_epoch);
                let end = batch.base_offset.plus(i64::from(batch.header.last_offset_delta) + 1);
                self.logs.entry(partition).or_default().push((batch.base_offset, end, bytes.freeze()));
                inputs.push_back((at, Input::Durable { partitions: vec![(partition, end)] }));
            }
            Effect::Read { read, partition, from, up_to, max_bytes, at_least_one } => {
                let log = self.logs.get(&partition).into_iter().flatten();
                let wanted = log.filter(|(base, end, _)| *end > from && *base < up_to);
                let mut room = max_bytes;
                let mut first = at_least_one;
                let fits = |bytes: &Bytes| {
                    let fits = std::mem::take(&mut first) || bytes.len() <= room;
                    room = room.saturating_sub(bytes.len());
                    fits
                };
                let outcome = Ok(wanted.map(|(_, _, bytes)| bytes.clone()).take_while(fits).collect());
                inputs.push_back((at, Input::ReadDone { read, outcome }));
            }
            Effect::Measure { read, partitions } => {
                let size = |partition| {
                    let log = self.logs.get(partition).into_iter().flatten();
                    log.map(|(_, _, bytes)| bytes.len() as u64).sum::<u64>()
                };
                let sizes = partitions.iter().map(size).collect();
                inputs.push_back((at, Input::Measured { read, sizes }));
            }
            Effect::SetLogStart { read, partition, offset } => {
                inputs.push_back((at, Input::LogStartMoved { partition, offset }));
                inputs.push_back((at, Input::LogStartSet { read, result: Ok(()) }));
            }
            Effect::Propose { request, tag, change } => match &mut self.held {
                Some(held) => held.push((at, request, tag, change)),
                None => {
                    let result = self.commit(change);
                    inputs.push_back((at, Input::Replied { request, reply: Reply::Proposed { tag, result } }));
                }
            },
            Effect::CreatePartition { partition } => {
                self.logs.entry(partition).or_default();
            }
            Effect::DeletePartition { partition } => {
                self.logs.remove(&partition);
            }
            _ => {}
        }
    }

    /// Sends the bytes of a request as they are.
    pub(super) fn send_frame(&mut self, connection: u64, frame: Bytes) {
        let connection = ConnectionId(connection);
        self.step(connection.0 as usize, Input::Frame { connection, frame });
    }

    pub(super) fn send(&mut self, connection: u64, api: ApiKey, version: i16, body: &impl Encodable) {
        self.send_frame(connection, frame(api, version, body));
        assert_eq!(self.closed.get(&ConnectionId(connection)), None);
    }

    /// The next answer on a connection, if there is one.
    pub(super) fn received<T: Decodable>(&mut self, connection: u64, api: ApiKey, version: i16) -> Option<T> {
        let sent = self.sent.get_mut(&ConnectionId(connection)).filter(|sent| !sent.is_empty())?;
        let length = u32::from_be_bytes(sent.split_to(4)[..].try_into().expect("four bytes"));
        let mut frame = sent.split_to(length as usize).freeze();
        let header = ResponseHeader::decode(&mut frame, api.response_header_version(version)).expect("a header");
        assert_eq!(header.correlation_id, CORRELATION);
        let response = T::decode(&mut frame, version).expect("an answer of its version");
        assert!(frame.is_empty(), "{api:?} v{version}: nothing follows");
        Some(response)
    }

    pub(super) fn ask_on<T: Decodable>(
        &mut self,
        connection: u64,
        api: ApiKey,
        version: i16,
        body: &impl Encodable,
    ) -> T {
        self.send(connection, api, version, body);
        self.received(connection, api, version).expect("it is answered by now")
    }

    /// On the first shard's connection.
    pub(super) fn ask<T: Decodable>(&mut self, api: ApiKey, version: i16, body: &impl Encodable) -> T {
        self.ask_on(0, api, version, body)
    }

    /// Lets time pass, and every shard notice.
    pub(super) fn wait(&mut self, time: Duration) {
        self.now.instant = self.now.instant + time;
        self.now.wall.0 += i64::try_from(time.as_millis()).expect("a short time");
        for shard in 0..self.shards.len() {
            self.step(shard, Input::Tick);
        }
    }

    pub(super) fn produce(&mut self, topic: &str, partition: i32, records: usize) -> i64 {
        self.produce_on(0, topic, partition, records)
    }

    /// Appends a batch of `records` records and returns its base offset.
    pub(super) fn produce_on(&mut self, connection: u64, topic: &str, partition: i32, records: usize) -> i64 {
        let mut batch = BatchBuilder::new(Compression::None);
        for _ in 0..records {
            batch.push(self.now.wall, Some(b"key"), Some(b"value"), []);
        }
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch.build().0));
        let topic = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
        let body = ProduceRequest::default().with_acks(-1).with_timeout_ms(1000).with_topic_data(vec![topic]);
        let response: ProduceResponse = self.ask_on(connection, ApiKey::Produce, 9, &body);
        let answer = &response.responses[0].partition_responses[0];
        assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
        answer.base_offset
    }
}

pub(super) fn frame(api: ApiKey, version: i16, body: &impl Encodable) -> Bytes {
    let mut frame = header(api as i16, version, api.request_header_version(version));
    body.encode(&mut frame, version).expect("a request of its version");
    frame.freeze()
}

pub(super) fn header(api: i16, version: i16, header_version: i16) -> BytesMut {
    let mut frame = BytesMut::new();
    let header = RequestHeader::default()
        .with_request_api_key(api)
        .with_request_api_version(version)
        .with_correlation_id(CORRELATION)
        .with_client_id(Some(text("client")));
    header.encode(&mut frame, header_version).expect("a header");
    frame
}

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}
