use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{
    ResponseError,
    messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, MetadataRequest, MetadataResponse},
};
use proptest::prelude::*;

use super::rig::{Rig, frame, header, text};
use crate::{ConnectionId, api::VERSIONS};

fn range(response: &ApiVersionsResponse, api: ApiKey) -> Option<(i16, i16)> {
    let found = response.api_keys.iter().find(|told| told.api_key == api as i16);
    found.map(|told| (told.min_version, told.max_version))
}

#[test]
fn what_is_implemented_is_told_and_nothing_else() {
    for version in 0..=4 {
        let body = ApiVersionsRequest::default()
            .with_client_software_name(text("apache-kafka-java"))
            .with_client_software_version(text("4.3.0"));
        let body = if version >= 3 { body } else { ApiVersionsRequest::default() };
        let response: ApiVersionsResponse = Rig::new(1).ask(ApiKey::ApiVersions, version, &body);
        assert_eq!((response.error_code, response.api_keys.len()), (0, VERSIONS.len()));
        for versions in VERSIONS {
            // The one untruth: older librdkafka switches compression off where Produce begins later (KAFKA-18659).
            let min = if versions.api == ApiKey::Produce { 0 } else { versions.min };
            assert_eq!(range(&response, versions.api), Some((min, versions.max)), "{:?}", versions.api);
        }
        let finalized: Vec<_> =
            response.finalized_features.iter().map(|one| (one.name.to_string(), one.max_version_level)).collect();
        let supported: Vec<_> = response
            .supported_features
            .iter()
            .map(|one| (one.name.to_string(), one.min_version, one.max_version))
            .collect();
        let feature = "group.version".to_owned();
        assert_eq!(finalized, if version >= 3 { vec![(feature.clone(), 1)] } else { vec![] });
        assert_eq!(supported, if version >= 4 { vec![(feature, 0, 1)] } else { vec![] });
    }
}

/// librdkafka up to 2.11.0 turns features on by single versions that a broker's ranges must contain.
#[test]
fn the_versions_that_old_librdkafka_looks_for_are_there() {
    let body = ApiVersionsRequest::default();
    let response: ApiVersionsResponse = Rig::new(1).ask(ApiKey::ApiVersions, 0, &body);
    for (api, versions) in [
        (ApiKey::Produce, &[3, 7][..]),
        (ApiKey::Fetch, &[4, 10]),
        (ApiKey::FindCoordinator, &[0]),
        (ApiKey::JoinGroup, &[0]),
        (ApiKey::SyncGroup, &[0]),
        (ApiKey::Heartbeat, &[0]),
        (ApiKey::LeaveGroup, &[0]),
        (ApiKey::OffsetCommit, &[2]),
        (ApiKey::OffsetFetch, &[1]),
        (ApiKey::ListOffsets, &[1]),
        (ApiKey::InitProducerId, &[0]),
        (ApiKey::ApiVersions, &[0]),
    ] {
        let (min, max) = range(&response, api).unwrap_or_else(|| panic!("{api:?} is missing"));
        assert!(versions.iter().all(|version| (min..=max).contains(version)), "{api:?} {min}-{max}");
    }
    // Transactions v2 begin with Produce 12; there are none.
    assert_eq!(range(&response, ApiKey::Produce).map(|(_, max)| max), Some(11));
    assert_eq!(range(&response, ApiKey::GetTelemetrySubscriptions), None, "nobody receives metrics");
}

#[test]
fn an_api_versions_request_from_the_future_is_answered_in_version_0() {
    for version in [5, 99, i16::MAX] {
        let mut rig = Rig::new(1);
        let mut frame = header(ApiKey::ApiVersions as i16, version, 2);
        frame.put_slice(b"\x05what\x05ever and more");
        rig.send_frame(0, frame.freeze());
        let response: ApiVersionsResponse = rig.received(0, ApiKey::ApiVersions, 0).expect("an answer");
        assert_eq!(response.error_code, ResponseError::UnsupportedVersion.code());
        assert_eq!(range(&response, ApiKey::ApiVersions), Some((0, 4)));
    }
}

#[test]
fn names_that_could_not_stand_in_a_metric_are_refused() {
    for (name, version) in [("", "1"), ("a b", "1"), ("-a", "1"), ("a", ""), ("a", "1.")] {
        let body = ApiVersionsRequest::default()
            .with_client_software_name(text(name))
            .with_client_software_version(text(version));
        let response: ApiVersionsResponse = Rig::new(1).ask(ApiKey::ApiVersions, 3, &body);
        assert_eq!(response.error_code, ResponseError::InvalidRequest.code(), "{name} {version}");
    }
}

#[test]
fn frames_that_cannot_be_understood_close_their_connection_alone() {
    let metadata = frame(ApiKey::Metadata, 9, &MetadataRequest::default().with_topics(Some(vec![])));
    let mut hostile = header(ApiKey::Metadata as i16, 9, 2);
    hostile.put_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0]);
    let check = |frame: Bytes, expected: &str| {
        let mut rig = Rig::new(1);
        rig.step(0, crate::Input::Connected { connection: ConnectionId(50), client_host: "/10.0.0.2".into() });
        rig.send_frame(0, frame);
        let reason = rig.closed.get(&ConnectionId(0)).cloned().unwrap_or_default();
        assert!(reason.contains(expected), "{reason:?} has no {expected:?}");
        assert_eq!(rig.closed.len(), 1);
    };
    check(Bytes::new(), "a request of 0 bytes has no header");
    check(metadata.slice(..7), "the header of Metadata v9 cannot be read");
    check(metadata.slice(..metadata.len() - 1), "the body of Metadata v9");
    check(hostile.freeze(), "topics: 4294967294 elements do not fit into the 3 bytes that are left");
    check(header(999, 0, 1).freeze(), "there is no API with key 999");
    check(header(ApiKey::Vote as i16, 0, 2).freeze(), "Vote is not implemented");
    check(header(ApiKey::Metadata as i16, 14, 2).freeze(), "Metadata v14 is not implemented, only v0-v13");
    check(header(ApiKey::Produce as i16, 2, 1).freeze(), "Produce v2 is not implemented, only v3-v11");
    check(header(ApiKey::Fetch as i16, -1, 1).freeze(), "Fetch v-1 is not implemented");
}

#[test]
fn answers_leave_in_the_order_of_the_requests() {
    let mut rig = Rig::new(2);
    rig.held = Some(Vec::new());
    // Waits for the topic to be made; the second could be answered at once.
    let topic = kafka_protocol::messages::metadata_request::MetadataRequestTopic::default();
    let topic = topic.with_name(Some(super::rig::topic_name("new")));
    let body = MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(true);
    rig.send(0, ApiKey::Metadata, 9, &body);
    rig.send(0, ApiKey::ApiVersions, 0, &ApiVersionsRequest::default());
    assert!(rig.received::<MetadataResponse>(0, ApiKey::Metadata, 9).is_none());
    rig.release();
    let first: MetadataResponse = rig.received(0, ApiKey::Metadata, 9).expect("the first");
    assert_eq!(first.topics[0].error_code, 0);
    let second: ApiVersionsResponse = rig.received(0, ApiKey::ApiVersions, 0).expect("the second");
    assert_eq!(second.error_code, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever comes, the shard lives, and the connection is answered, waits or is closed.
    #[test]
    fn any_bytes_as_a_request_of_any_api_do_no_harm(
        body in prop::collection::vec(any::<u8>(), 0..120),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        for versions in VERSIONS {
            for version in versions.min..=versions.max {
                let mut rig = Rig::new(1);
                let header_version = versions.api.request_header_version(version);
                let mut frame = header(versions.api as i16, version, header_version);
                // Zeros are the shortest valid body of nearly everything; some bytes of it are changed.
                frame.put_bytes(0, 90);
                let start = frame.len() - 90;
                for (index, byte) in &flips {
                    let at = start + index.index(90);
                    frame[at] = *byte;
                }
                rig.send_frame(0, frame.freeze());
                let mut frame: BytesMut = header(versions.api as i16, version, header_version);
                frame.put_slice(&body);
                rig.send_frame(0, frame.freeze());
            }
        }
    }
}
