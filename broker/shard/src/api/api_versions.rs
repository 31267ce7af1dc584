//! ApiVersions (key 18): what this broker speaks. Sources: KIP-35, KIP-511, KIP-584.
//!
//! Two of its rules have broken home-grown brokers before. A version that is not known is answered in a **v0 body** with
//! UNSUPPORTED_VERSION and the supported range, so that the client can ask again. And Produce is told from 0, although 0 to 2 are
//! refused: older librdkafka else switches compression off (KAFKA-18659). It is the one untruth that Apache Kafka tells too.

use kafka_protocol::{
    ResponseError,
    messages::{
        ApiKey, ApiVersionsRequest, ApiVersionsResponse,
        api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey},
    },
    protocol::StrBytes,
};
use tidegate_records::time::Now;

use super::{VERSIONS, code};
use crate::{
    request::Request,
    shard::{Effects, Shard},
};

fn api_keys() -> Vec<ApiVersion> {
    VERSIONS
        .iter()
        .map(|versions| {
            let min = if versions.api == ApiKey::Produce { 0 } else { versions.min };
            ApiVersion::default().with_api_key(versions.api as i16).with_min_version(min).with_max_version(versions.max)
        })
        .collect()
}

pub(super) fn answer(shard: &mut Shard, now: Now, request: Request, body: &ApiVersionsRequest, effects: &mut Effects) {
    let mut response = ApiVersionsResponse::default();
    if request.version >= 3 && !(is_name(&body.client_software_name) && is_name(&body.client_software_version)) {
        // KIP-511: names that could not stand in a metric are refused.
        response.error_code = code(ResponseError::InvalidRequest);
        return shard.answer(now, &request, &response, effects);
    }
    response.api_keys = api_keys();
    if request.version >= 4 {
        // Its minimum of 0 cannot be read by clients of version 3 (KAFKA-17492): Kafka leaves it out for them.
        response.supported_features = vec![
            SupportedFeatureKey::default()
                .with_name(StrBytes::from_static_str("group.version"))
                .with_min_version(0)
                .with_max_version(1),
        ];
    }
    if request.version >= 3 {
        response.finalized_features_epoch = 0;
        response.finalized_features = vec![
            FinalizedFeatureKey::default()
                .with_name(StrBytes::from_static_str("group.version"))
                .with_max_version_level(1)
                .with_min_version_level(1),
        ];
    }
    shard.answer(now, &request, &response, effects);
}

/// KIP-511: letters, digits, dots and dashes, beginning and ending with a letter or digit.
fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
}

/// A version that is not known here.
pub(super) fn unknown_version(shard: &mut Shard, now: Now, request: Request, effects: &mut Effects) {
    let request = Request { version: 0, ..request };
    let response = ApiVersionsResponse::default()
        .with_error_code(code(ResponseError::UnsupportedVersion))
        .with_api_keys(api_keys());
    shard.answer(now, &request, &response, effects);
}
