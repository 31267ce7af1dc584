//! Replays the fuzz corpus of frames on stable: each file as it is, cut off everywhere, and under some thousand seeded mutations.

use std::{fs, path::Path};

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, ConsumerGroupHeartbeatRequest, CreateTopicsRequest, FetchRequest, FindCoordinatorRequest, GroupId,
        JoinGroupRequest, ListOffsetsRequest, MetadataRequest, OffsetCommitRequest, ProduceRequest, RequestHeader,
        RequestKind, TopicName,
        create_topics_request::{CreatableTopic, CreatableTopicConfig},
        fetch_request::{FetchPartition, FetchTopic},
        join_group_request::JoinGroupRequestProtocol,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        metadata_request::MetadataRequestTopic,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::{Encodable as _, StrBytes},
};
use rustix::process::{Resource, Rlimit, setrlimit};
use tidegate_shard::api::VERSIONS;

#[path = "../../fuzz/src/frames.rs"]
pub mod frames;

/// What the process may take in all, in bytes: a count that is believed before it is checked ends the test.
const ADDRESS_SPACE_MAX: u64 = 2 << 30;
/// Mutations of each file; `TIDEGATE_MUTATIONS` asks for more.
const MUTATIONS: u64 = 60;

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/frames")
}

fn mutations() -> u64 {
    std::env::var("TIDEGATE_MUTATIONS").map_or(MUTATIONS, |text| text.parse().expect("TIDEGATE_MUTATIONS is a number"))
}

/// SplitMix64.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[test]
fn frames_never_panic() {
    let limit = Rlimit { current: Some(ADDRESS_SPACE_MAX), maximum: None };
    setrlimit(Resource::As, limit).expect("a limit can be lowered");
    let mut files: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > VERSIONS.len() / 2, "the corpus is in the repository");
    for file in files {
        let bytes = fs::read(&file).unwrap();
        frames::frames(&bytes);
        for at in 4..bytes.len() {
            frames::frames(&bytes[..at]);
        }
        for seed in 0..mutations() {
            let mut state = seed;
            let mut mutated = bytes.clone();
            for _ in 0..=draw(&mut state) % 3 {
                // The length stays, so that what is changed is read.
                let at = 4 + draw(&mut state) as usize % (mutated.len() - 4);
                match draw(&mut state) % 4 {
                    0 => mutated[at] = 0x7f,
                    1 => mutated[at] = 0xff,
                    2 => mutated[at] = 0,
                    _ => mutated[at] ^= 1 << (draw(&mut state) % 8),
                }
            }
            frames::frames(&mutated);
        }
    }
}

fn name(text: &str) -> TopicName {
    TopicName(StrBytes::from_string(text.to_owned()))
}

/// A request of each API with something in it, where that leads further than an empty one.
fn filled(api: ApiKey) -> Option<RequestKind> {
    let text = |text: &'static str| StrBytes::from_static_str(text);
    let group = || GroupId(StrBytes::from_static_str("readers"));
    Some(match api {
        ApiKey::Produce => {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/record_batch/java-idempotent");
            let data = PartitionProduceData::default().with_records(Some(Bytes::from(fs::read(file).unwrap())));
            let topic = TopicProduceData::default().with_name(name("orders")).with_partition_data(vec![data]);
            let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(1000);
            RequestKind::Produce(request.with_topic_data(vec![topic]))
        }
        ApiKey::Fetch => {
            let partition = FetchPartition::default().with_partition_max_bytes(1 << 20);
            let topic = FetchTopic::default().with_topic(name("orders")).with_partitions(vec![partition]);
            let topic = topic.with_topic_id(uuid::Uuid::from_bytes([7; 16]));
            RequestKind::Fetch(FetchRequest::default().with_max_bytes(1 << 20).with_topics(vec![topic]))
        }
        ApiKey::ListOffsets => {
            let topic = ListOffsetsTopic::default().with_name(name("orders"));
            let topic = topic.with_partitions(vec![ListOffsetsPartition::default().with_timestamp(-1)]);
            RequestKind::ListOffsets(ListOffsetsRequest::default().with_topics(vec![topic]))
        }
        ApiKey::Metadata => {
            let topic = MetadataRequestTopic::default().with_name(Some(name("orders")));
            RequestKind::Metadata(MetadataRequest::default().with_topics(Some(vec![topic])))
        }
        ApiKey::CreateTopics => {
            let config = CreatableTopicConfig::default().with_name(text("retention.ms")).with_value(Some(text("5")));
            let topic = CreatableTopic::default().with_name(name("new")).with_num_partitions(3);
            let topic = topic.with_replication_factor(1).with_configs(vec![config]);
            RequestKind::CreateTopics(CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(1000))
        }
        ApiKey::FindCoordinator => {
            let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("readers")]);
            RequestKind::FindCoordinator(request)
        }
        ApiKey::JoinGroup => {
            let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
            let protocol = protocol.with_metadata(Bytes::from_static(b"\0\x03\0\0\0\x01\0\x06orders\0\0\0\0"));
            let request = JoinGroupRequest::default().with_group_id(group()).with_session_timeout_ms(10_000);
            let request = request.with_rebalance_timeout_ms(10_000).with_protocol_type(text("consumer"));
            RequestKind::JoinGroup(request.with_protocols(vec![protocol]))
        }
        ApiKey::OffsetCommit => {
            let partition = OffsetCommitRequestPartition::default().with_committed_offset(5);
            let topic = OffsetCommitRequestTopic::default().with_name(name("orders")).with_partitions(vec![partition]);
            let request = OffsetCommitRequest::default().with_group_id(group());
            RequestKind::OffsetCommit(request.with_generation_id_or_member_epoch(-1).with_topics(vec![topic]))
        }
        ApiKey::ConsumerGroupHeartbeat => {
            let request = ConsumerGroupHeartbeatRequest::default().with_group_id(group());
            let request = request.with_rebalance_timeout_ms(10_000).with_topic_partitions(Some(Vec::new()));
            RequestKind::ConsumerGroupHeartbeat(request.with_subscribed_topic_names(Some(vec![name("orders")])))
        }
        _ => return None,
    })
}

fn framed(api: ApiKey, version: i16, body: &[u8]) -> Bytes {
    let header = RequestHeader::default()
        .with_request_api_key(api as i16)
        .with_request_api_version(version)
        .with_correlation_id(1)
        .with_client_id(Some(StrBytes::from_static_str("fuzz")));
    let mut frame = BytesMut::new();
    header.encode(&mut frame, api.request_header_version(version)).expect("a header can be encoded");
    frame.put_slice(body);
    let mut out = BytesMut::new();
    out.put_u32(frame.len() as u32);
    out.put_slice(&frame);
    out.freeze()
}

/// The corpus has a request of every API, in the lowest and the highest version that is implemented. `TIDEGATE_CORPUS=1` writes what
/// is missing.
#[test]
fn the_corpus_has_every_api() {
    for range in VERSIONS {
        for version in [range.min, range.max] {
            let file = folder().join(format!("{:?}-v{version}", range.api));
            if !file.exists() && std::env::var_os("TIDEGATE_CORPUS").is_some() {
                let mut body = BytesMut::new();
                let encoded = filled(range.api).is_some_and(|kind| {
                    body.clear();
                    kind.encode(&mut body, version).is_ok()
                });
                if !encoded {
                    // Zeros are an empty request in most APIs: no arrays, empty strings.
                    body.clear();
                    body.put_bytes(0, 64);
                }
                fs::write(&file, framed(range.api, version, &body)).unwrap();
            }
            assert!(file.exists(), "{} is missing: run this test once with TIDEGATE_CORPUS=1", file.display());
        }
    }
}
