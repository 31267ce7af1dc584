use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        BrokerId, FetchRequest, ProduceRequest, RequestKind, TopicName, TransactionalId,
        fetch_request::{FetchPartition, FetchTopic, ReplicaState},
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::{Encodable, StrBytes},
};
use proptest::prelude::*;

use super::*;
use crate::api::VERSIONS;

/// SplitMix64: the cases are a function of a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Writes requests as the table says that they are, with everything in them.
struct Writer {
    out: Vec<u8>,
    random: Random,
    version: i16,
    flexible: bool,
}

impl Writer {
    fn request(shape: Shape, version: i16, seed: u64) -> Vec<u8> {
        let flexible = version >= shape.flexible_since;
        let mut writer = Self { out: Vec::new(), random: Random(seed), version, flexible };
        writer.fields(shape.fields);
        writer.out
    }

    fn varint(out: &mut Vec<u8>, mut value: u32) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    fn length(&mut self, length: Option<usize>, short: bool) {
        let value = length.map_or(-1, |length| length as i32);
        match (self.flexible, short) {
            (true, _) => Self::varint(&mut self.out, (value + 1) as u32),
            (false, true) => self.out.extend((value as i16).to_be_bytes()),
            (false, false) => self.out.extend(value.to_be_bytes()),
        }
    }

    fn value(&mut self, kind: Kind, nullable: bool) {
        let null = nullable && self.random.below(4) == 0;
        // Long enough at times for a varint of two bytes.
        let length = if self.random.below(8) == 0 { 130 } else { self.random.below(6) as usize };
        match kind {
            Kind::Fixed(1) => self.out.push(1),
            // No value is a default, which the codec would leave out of the tagged fields.
            Kind::Fixed(bytes) => (0..bytes).for_each(|_| {
                let byte = 1 + self.random.below(100) as u8;
                self.out.push(byte);
            }),
            Kind::String | Kind::Bytes if null => self.length(None, matches!(kind, Kind::String)),
            Kind::String | Kind::Bytes => {
                self.length(Some(length + 1), matches!(kind, Kind::String));
                self.out.extend(std::iter::repeat_n(b'x', length + 1));
            }
            Kind::Array(_) if null => self.length(None, false),
            Kind::Array(element) => {
                let count = self.random.below(4) as usize;
                self.length(Some(count), false);
                (0..count).for_each(|_| self.value(*element, false));
            }
            Kind::Struct(fields) => {
                if nullable {
                    self.out.push(if null { -1_i8 as u8 } else { 1 });
                }
                if !null {
                    self.fields(fields);
                }
            }
        }
    }

    fn fields(&mut self, fields: &'static [Field]) {
        let version = self.version;
        for field in fields.iter().filter(|field| field.tag.is_none() && field.is_in(version)) {
            self.value(field.kind, version >= field.nullable_since);
        }
        if !self.flexible {
            return;
        }
        let mut tags: Vec<(u32, Vec<u8>)> = Vec::new();
        for field in fields.iter().filter(|field| field.is_in(version)) {
            let Some(tag) = field.tag else { continue };
            if self.random.below(2) == 0 {
                let outer = std::mem::take(&mut self.out);
                self.value(field.kind, false);
                tags.push((tag, std::mem::replace(&mut self.out, outer)));
            }
        }
        if self.random.below(3) == 0 {
            tags.push((99, vec![7; self.random.below(200) as usize]));
        }
        Self::varint(&mut self.out, tags.len() as u32);
        for (tag, bytes) in tags {
            Self::varint(&mut self.out, tag);
            Self::varint(&mut self.out, bytes.len() as u32);
            self.out.extend(bytes);
        }
    }
}

/// Every API of the table in every version that the codec has.
fn every_version() -> impl Iterator<Item = (ApiKey, i16, Shape)> {
    ApiKey::iter().filter_map(|api| requests::shape(api).map(|shape| (api, shape))).flat_map(|(api, shape)| {
        let range = api.valid_versions();
        // The newest version of these is in the codec's table of ranges, and refused by its decoder.
        let undecodable = matches!(api, ApiKey::OffsetCommit | ApiKey::OffsetFetch | ApiKey::InitProducerId);
        let max = if undecodable { range.max - 1 } else { range.max };
        (range.min..=max).map(move |version| (api, version, shape))
    })
}

#[test]
fn every_version_that_is_told_has_a_shape() {
    for versions in VERSIONS {
        for version in versions.min..=versions.max {
            let mut all = every_version();
            let known = all.any(|(api, walked, _)| api == versions.api && walked == version);
            assert!(known, "{:?} v{version}", versions.api);
        }
    }
}

#[test]
fn the_table_is_the_codecs_layout() {
    for (api, version, shape) in every_version() {
        for seed in 0..60 {
            let written = Writer::request(shape, version, seed);
            let mut bytes = Bytes::from(written.clone());
            let request = RequestKind::decode(api, &mut bytes, version)
                .unwrap_or_else(|error| panic!("{api:?} v{version} seed {seed}: {error}"));
            assert!(bytes.is_empty(), "{api:?} v{version} seed {seed}: {} bytes left", bytes.len());
            let mut again = BytesMut::new();
            request.encode(&mut again, version).unwrap_or_else(|error| panic!("{api:?} v{version}: {error}"));
            assert_eq!(again.as_ref(), written, "{api:?} v{version} seed {seed}");
            assert_eq!(check(api, version, &written), Ok(written.len()), "{api:?} v{version} seed {seed}");
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    for (api, version, shape) in every_version() {
        for seed in 0..6 {
            let written = Writer::request(shape, version, seed);
            for length in 0..written.len() {
                assert!(check(api, version, &written[..length]).is_err(), "{api:?} v{version} seed {seed} at {length}");
            }
        }
    }
}

#[test]
fn what_clients_encode_is_accepted_whole() {
    let fetch = FetchRequest::default()
        .with_cluster_id(Some(StrBytes::from_static_str("cluster")))
        .with_replica_state(ReplicaState::default().with_replica_id(BrokerId(3)).with_replica_epoch(4))
        .with_topics(vec![
            FetchTopic::default()
                .with_partitions(vec![FetchPartition::default().with_high_watermark(9); 3]);
            2
        ]);
    for version in 15..=18 {
        let mut fetch = fetch.clone();
        if version < 18 {
            fetch.topics.iter_mut().flat_map(|topic| &mut topic.partitions).for_each(|p| p.high_watermark = i64::MAX);
        }
        let mut bytes = BytesMut::new();
        fetch.encode(&mut bytes, version).unwrap();
        assert_eq!(check(ApiKey::Fetch, version, &bytes), Ok(bytes.len()), "v{version}");
    }
    let produce = ProduceRequest::default()
        .with_transactional_id(Some(TransactionalId(StrBytes::from_static_str("t"))))
        .with_topic_data(vec![
            TopicProduceData::default()
                .with_name(TopicName(StrBytes::from_static_str("orders")))
                .with_partition_data(vec![
                    PartitionProduceData::default()
                        .with_records(Some(Bytes::from_static(&[1; 300])));
                    3
                ]);
            2
        ]);
    for version in 3..=11 {
        let mut bytes = BytesMut::new();
        produce.encode(&mut bytes, version).unwrap();
        assert_eq!(check(ApiKey::Produce, version, &bytes), Ok(bytes.len()), "v{version}");
    }
}

#[test]
fn hostile_counts_are_refused_before_anything_is_reserved() {
    let refused = |api, version, body: &[u8], expected: &str| {
        assert_eq!(check(api, version, body).unwrap_err().to_string(), expected);
    };
    refused(
        ApiKey::Metadata,
        1,
        &[0x7f, 0xff, 0xff, 0xff, 0, 0],
        "Metadata v1: topics: 2147483647 elements do not fit into the 2 bytes that are left",
    );
    refused(
        ApiKey::Metadata,
        1,
        &[0xff, 0xff, 0xff, 0xfe],
        "Metadata v1: topics: -2 elements do not fit into the 0 bytes that are left",
    );
    refused(ApiKey::Metadata, 0, &[0xff, 0xff, 0xff, 0xff], "Metadata v0: topics: it may not be null");
    refused(
        ApiKey::Metadata,
        9,
        &[0xff, 0xff, 0xff, 0xff, 0x0f, 0],
        "Metadata v9: topics: 4294967294 elements do not fit into the 1 bytes that are left",
    );
    refused(
        ApiKey::CreateTopics,
        5,
        // One topic "a" of 1 partition and 1 replica, whose assignments are said to be very many.
        &[2, 2, b'a', 0, 0, 0, 1, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0],
        "CreateTopics v5: topics.assignments: 4294967294 elements do not fit into the 2 bytes that are left",
    );
    refused(
        ApiKey::Heartbeat,
        0,
        &[0x7f, 0xff, b'a'],
        "Heartbeat v0: group_id: a length of 32767 does not fit into the 1 bytes that are left",
    );
    refused(ApiKey::Vote, 0, &[], "Vote v0: the request: there is no table of this request's fields");
}

#[test]
fn a_request_has_at_most_a_million_elements() {
    // DescribeGroups v5 with empty group ids: two varints of count, a byte each.
    let body = |count: usize| {
        let mut body = Vec::new();
        Writer::varint(&mut body, count as u32 + 1);
        body.extend(std::iter::repeat_n(1, count));
        body.extend([0, 0]);
        body
    };
    assert_eq!(check(ApiKey::DescribeGroups, 5, &body(ELEMENTS_MAX)).ok(), Some(body(ELEMENTS_MAX).len()));
    let error = check(ApiKey::DescribeGroups, 5, &body(ELEMENTS_MAX + 1)).unwrap_err();
    assert_eq!(error.fault, ShapeFault::Elements);
    // And tagged fields that nobody knows count too.
    let mut tags = vec![1, 0];
    Writer::varint(&mut tags, ELEMENTS_MAX as u32 + 1);
    (0..=ELEMENTS_MAX).for_each(|_| tags.extend([50, 0]));
    assert_eq!(check(ApiKey::DescribeGroups, 5, &tags).unwrap_err().fault, ShapeFault::Elements);
}

#[test]
fn headers_are_walked_too() {
    let header = |tail: &[u8]| [&[0, 3, 0, 9, 0, 0, 0, 1], tail].concat();
    assert_eq!(check_header(1, &header(&[0, 1, b'c'])), Ok(()));
    assert_eq!(check_header(1, &header(&[0xff, 0xff])), Ok(()));
    assert_eq!(check_header(2, &header(&[0, 1, b'c', 1, 5, 2, 0, 0])), Ok(()));
    assert_eq!(check_header(1, &header(&[0, 2, b'c'])), Err(ShapeFault::Length { length: 2, left: 1 }));
    assert_eq!(check_header(2, &header(&[0, 0, 1, 5, 2, 0])), Err(ShapeFault::Length { length: 2, left: 1 }));
    assert_eq!(check_header(2, &[0, 3, 0]), Err(ShapeFault::Truncated));
}

proptest! {
    #[test]
    fn any_bytes_are_walked_without_a_panic_and_what_passes_can_be_decoded(
        seed in any::<u64>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        for (api, version, shape) in every_version() {
            let _ = check(api, version, &noise);
            let mut written = Writer::request(shape, version, seed);
            if !written.is_empty() {
                for (index, byte) in &flips {
                    let at = index.index(written.len());
                    written[at] = *byte;
                }
            }
            let Ok(length) = check(api, version, &written) else { continue };
            // What the walk lets through, the codec reads with the same length or refuses for what the values mean (UTF-8, tags
            // of other versions). It must not ask for memory that is not there.
            let mut bytes = Bytes::from(written.clone());
            if RequestKind::decode(api, &mut bytes, version).is_ok() {
                prop_assert_eq!(written.len() - bytes.len(), length, "{:?} v{}", api, version);
            }
        }
    }
}
