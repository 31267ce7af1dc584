//! Kafka's APIs, a file each. One that answers at once is one function; one that waits has `begin` and `finish`, in order.
//!
//! [`VERSIONS`] is what ApiVersions tells; `frame` refuses everything else. An API that is not here does not exist.

use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::{ApiKey, RequestHeader, RequestKind},
    protocol::{Decodable, Encodable, StrBytes},
};
use tidegate_records::time::Now;

use crate::{
    api::error_codes::ErrorCodes,
    connection::ConnectionId,
    frame_shape,
    message::Reply,
    request::Request,
    shard::{Effect, Effects, Observation, Shard},
};

mod alter_configs;
mod api_versions;
mod cluster;
mod configs;
mod delete_records;
mod error_codes;
mod fetch;
mod fetch_response;
mod find_coordinator;
mod groups;
mod init_producer_id;
mod list_offsets;
mod metadata;
mod offset_for_leader_epoch;
mod produce;
mod topics;

#[cfg(test)]
mod tests;

pub(crate) use init_producer_id::ProducerIds;
pub(crate) use produce::{Decompression, refuse_derived};

/// An API and the versions of it that are implemented.
#[derive(Clone, Copy, Debug)]
pub struct Versions {
    pub api: ApiKey,
    pub min: i16,
    pub max: i16,
}

const fn versions(api: ApiKey, min: i16, max: i16) -> Versions {
    Versions { api, min, max }
}

/// Everything that is implemented, in the order of the keys. Sources: Kafka 4's ranges, as far as the codec has them.
pub const VERSIONS: &[Versions] = &[
    // 12 and up mean transactions v2 (KIP-890), which needs transactions.
    versions(ApiKey::Produce, 3, 11),
    versions(ApiKey::Fetch, 4, 18),
    versions(ApiKey::ListOffsets, 1, 10),
    versions(ApiKey::Metadata, 0, 13),
    versions(ApiKey::OffsetCommit, 2, 9),
    versions(ApiKey::OffsetFetch, 1, 9),
    versions(ApiKey::FindCoordinator, 0, 6),
    versions(ApiKey::JoinGroup, 0, 9),
    versions(ApiKey::Heartbeat, 0, 4),
    versions(ApiKey::LeaveGroup, 0, 5),
    versions(ApiKey::SyncGroup, 0, 5),
    versions(ApiKey::DescribeGroups, 0, 6),
    versions(ApiKey::ListGroups, 0, 5),
    versions(ApiKey::ApiVersions, 0, 4),
    versions(ApiKey::CreateTopics, 2, 7),
    versions(ApiKey::DeleteTopics, 1, 6),
    versions(ApiKey::DeleteRecords, 0, 2),
    versions(ApiKey::InitProducerId, 0, 5),
    versions(ApiKey::OffsetForLeaderEpoch, 2, 4),
    versions(ApiKey::DescribeConfigs, 1, 4),
    versions(ApiKey::AlterConfigs, 0, 2),
    versions(ApiKey::DescribeLogDirs, 1, 4),
    versions(ApiKey::CreatePartitions, 0, 3),
    versions(ApiKey::DeleteGroups, 0, 2),
    versions(ApiKey::IncrementalAlterConfigs, 0, 1),
    versions(ApiKey::OffsetDelete, 0, 0),
    versions(ApiKey::DescribeCluster, 0, 2),
    versions(ApiKey::DescribeProducers, 0, 0),
    versions(ApiKey::ConsumerGroupHeartbeat, 0, 1),
    versions(ApiKey::ConsumerGroupDescribe, 0, 1),
    versions(ApiKey::ListConfigResources, 0, 1),
    versions(ApiKey::DescribeTopicPartitions, 0, 0),
];

/// A request that waits for replies.
pub(crate) enum Work {
    Produce(produce::Work),
    Fetch(fetch::Work),
    ListOffsets(list_offsets::Work),
    OffsetForLeaderEpoch(offset_for_leader_epoch::Work),
    Metadata(metadata::Work),
    Topics(topics::Work),
    AlterConfigs(alter_configs::Work),
    DeleteRecords(delete_records::Work),
    LogDirs(cluster::LogDirsWork),
    Producers(cluster::ProducersWork),
    InitProducerId,
    FindCoordinator(find_coordinator::Work),
    Groups(groups::Work),
}

/// A response that could not be encoded: a mistake of ours, never of the client; its connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("the answer to {api:?} v{version} cannot be encoded: {reason}")]
pub(crate) struct EncodeError {
    api: ApiKey,
    version: i16,
    reason: String,
}

impl EncodeError {
    pub(crate) fn new(request: &Request, error: &dyn std::fmt::Display) -> Self {
        Self { api: request.api, version: request.version, reason: error.to_string() }
    }

    pub(crate) fn too_large(request: &Request) -> Self {
        Self { api: request.api, version: request.version, reason: "over 2 GiB".into() }
    }
}

/// Takes a frame apart and begins its request.
pub(crate) fn frame(shard: &mut Shard, now: Now, connection: ConnectionId, frame: Bytes, effects: &mut Effects) {
    let close = |effects: &mut Effects, reason: String| effects.push(Effect::Close { connection, reason });
    let Some((key, version)) = key_and_version(&frame) else {
        return close(effects, format!("a request of {} bytes has no header", frame.len()));
    };
    let Ok(api) = ApiKey::try_from(key) else {
        return close(effects, format!("there is no API with key {key}"));
    };
    let Some(range) = VERSIONS.iter().find(|versions| versions.api == api) else {
        return close(effects, format!("{api:?} is not implemented; ask ApiVersions for what is"));
    };
    let known = (range.min..=range.max).contains(&version);
    if !known && api != ApiKey::ApiVersions {
        return close(effects, format!("{api:?} v{version} is not implemented, only v{}-v{}", range.min, range.max));
    }
    // ApiVersions of a version from the future still has a header that can be read as far as the correlation id.
    let header_version = api.request_header_version(version.min(range.max));
    let bytes = frame.len();
    let whole = frame.clone();
    let mut body = frame;
    // The codec believes every count: nothing is given to it before the whole request was walked.
    if let Err(fault) = frame_shape::check_header(header_version, &body) {
        return close(effects, format!("the header of {api:?} v{version} cannot be read: {fault}"));
    }
    let header = match RequestHeader::decode(&mut body, header_version) {
        Ok(header) => header,
        Err(error) => return close(effects, format!("the header of {api:?} v{version} cannot be read: {error}")),
    };
    let Some(slot) = shard.connections.take_slot(connection, bytes) else { return };
    let request = Request {
        id: shard.next_request_id(),
        connection,
        slot,
        api,
        version,
        correlation_id: header.correlation_id,
        client_id: header.client_id,
        received: now,
    };
    if !known {
        return api_versions::unknown_version(shard, now, request, effects);
    }
    if let Err(error) = frame_shape::check(api, version, &body) {
        return close(effects, format!("the body of {error}"));
    }
    match RequestKind::decode(api, &mut body, version) {
        Ok(kind) => {
            if let RequestKind::Produce(produce) = &kind {
                let wait = produce::waits(shard, now.instant, produce);
                if !wait.is_zero() {
                    shard.connections.give_back_slot(connection, bytes);
                    return effects.push(Effect::Later { connection, frame: whole, until: now.instant + wait });
                }
            }
            begin(shard, now, request, kind, effects)
        }
        Err(error) => close(effects, format!("the body of {api:?} v{version} cannot be read: {error}")),
    }
}

fn key_and_version(frame: &[u8]) -> Option<(i16, i16)> {
    let (key, rest) = frame.split_first_chunk::<2>()?;
    let (version, _) = rest.split_first_chunk::<2>()?;
    Some((i16::from_be_bytes(*key), i16::from_be_bytes(*version)))
}

fn begin(shard: &mut Shard, now: Now, request: Request, kind: RequestKind, effects: &mut Effects) {
    match kind {
        RequestKind::Produce(body) => produce::begin(shard, now, request, body, effects),
        RequestKind::Fetch(body) => fetch::begin(shard, now, request, body, effects),
        RequestKind::ListOffsets(body) => list_offsets::begin(shard, now, request, body, effects),
        RequestKind::ApiVersions(body) => api_versions::answer(shard, now, request, &body, effects),
        RequestKind::Metadata(body) => metadata::begin(shard, now, request, body, effects),
        RequestKind::CreateTopics(body) => topics::create(shard, now, request, body, effects),
        RequestKind::DeleteTopics(body) => topics::delete(shard, now, request, body, effects),
        RequestKind::CreatePartitions(body) => topics::extend(shard, now, request, body, effects),
        RequestKind::DeleteRecords(body) => delete_records::begin(shard, now, request, body, effects),
        RequestKind::InitProducerId(body) => init_producer_id::begin(shard, now, request, &body, effects),
        RequestKind::DescribeConfigs(body) => configs::describe(shard, now, &request, &body, effects),
        RequestKind::AlterConfigs(body) => alter_configs::replace(shard, now, request, body, effects),
        RequestKind::IncrementalAlterConfigs(body) => {
            alter_configs::alter(shard, now, request, body, effects);
        }
        RequestKind::ListConfigResources(body) => configs::list(shard, now, &request, &body, effects),
        RequestKind::DescribeCluster(body) => cluster::describe(shard, now, &request, &body, effects),
        RequestKind::DescribeTopicPartitions(body) => {
            cluster::topic_partitions(shard, now, &request, &body, effects);
        }
        RequestKind::DescribeLogDirs(body) => cluster::log_dirs(shard, now, request, body, effects),
        RequestKind::DescribeProducers(body) => cluster::producers(shard, now, request, body, effects),
        RequestKind::OffsetForLeaderEpoch(body) => offset_for_leader_epoch::begin(shard, now, request, body, effects),
        RequestKind::FindCoordinator(body) => find_coordinator::begin(shard, now, request, body, effects),
        kind @ (RequestKind::JoinGroup(_)
        | RequestKind::SyncGroup(_)
        | RequestKind::Heartbeat(_)
        | RequestKind::LeaveGroup(_)
        | RequestKind::OffsetCommit(_)
        | RequestKind::OffsetFetch(_)
        | RequestKind::OffsetDelete(_)
        | RequestKind::ListGroups(_)
        | RequestKind::DescribeGroups(_)
        | RequestKind::DeleteGroups(_)
        | RequestKind::ConsumerGroupHeartbeat(_)
        | RequestKind::ConsumerGroupDescribe(_)) => groups::begin(shard, now, request, kind, effects),
        _ => {
            let reason = format!("{:?} is in the table of versions but not dispatched", request.api);
            effects.push(Effect::Close { connection: request.connection, reason });
        }
    }
}

/// A request is next on its connection that was held for those before it.
pub(crate) fn release(shard: &mut Shard, now: Now, request: &Request, work: Work, effects: &mut Effects) {
    match work {
        Work::Produce(work) => produce::respond(shard, now, request, work, effects),
        _ => unreachable!("only a produce request is held"),
    }
}

/// A reply has come for a request; `Some` while it still waits for others.
pub(crate) fn finish(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    work: Work,
    reply: Reply,
    effects: &mut Effects,
) -> Option<Work> {
    match (work, reply) {
        (Work::Produce(work), Reply::Produced(items)) => produce::finish(shard, now, request, work, items, effects),
        (Work::Fetch(work), Reply::Fetched { from, items }) => {
            fetch::finish(shard, now, request, work, (from, items), effects)
        }
        (Work::ListOffsets(work), Reply::OffsetsListed(items)) => {
            list_offsets::finish(shard, now, request, work, items, effects)
        }
        (Work::OffsetForLeaderEpoch(work), Reply::EpochEnds(items)) => {
            offset_for_leader_epoch::finish(shard, now, request, work, items, effects)
        }
        (Work::Metadata(work), Reply::Proposed { tag, result }) => {
            metadata::finish(shard, now, request, work, (tag, result), effects)
        }
        (Work::Topics(work), Reply::Proposed { tag, result }) => {
            topics::finish(shard, now, request, work, (tag, result), effects)
        }
        (Work::AlterConfigs(work), Reply::Proposed { tag, result }) => {
            alter_configs::finish(shard, now, request, work, (tag, result), effects)
        }
        (Work::DeleteRecords(work), Reply::RecordsDeleted(items)) => {
            delete_records::finish(shard, now, request, work, items, effects)
        }
        (Work::LogDirs(work), Reply::LogSizes(sizes)) => {
            cluster::finish_log_dirs(shard, now, request, work, sizes, effects)
        }
        (Work::Producers(work), Reply::Producers(found)) => {
            cluster::finish_producers(shard, now, request, work, found, effects)
        }
        (Work::InitProducerId, Reply::Proposed { result, .. }) => {
            init_producer_id::finish(shard, now, request, result, effects)
        }
        (Work::Groups(work), Reply::Group(answer)) => groups::finish(shard, now, request, work, *answer, effects),
        (Work::FindCoordinator(work), Reply::Proposed { result, .. }) => {
            find_coordinator::finish(shard, now, request, &work, result, effects);
            None
        }
        _ => unreachable!("a request is answered with the reply that it asked for"),
    }
}

impl Shard {
    /// Answers a request with a response of its version.
    pub(crate) fn answer(
        &mut self,
        now: Now,
        request: &Request,
        response: &(impl Encodable + ErrorCodes),
        effects: &mut Effects,
    ) {
        response.each_error_code(&mut |code| effects.count_error(request.api, code));
        match request.frame(response) {
            Ok(frame) => self.answer_frame(now, request, vec![frame], effects),
            Err(error) => effects.push(Effect::Close { connection: request.connection, reason: error.to_string() }),
        }
    }

    /// Answers a request with a whole frame, length and header included.
    pub(crate) fn answer_frame(&mut self, now: Now, request: &Request, frame: Vec<Bytes>, effects: &mut Effects) {
        observe(now, request, effects);
        self.connections.answer(request.connection, request.slot, Some(frame), effects);
    }

    /// Ends a request that has no response.
    pub(crate) fn answer_nothing(&mut self, now: Now, request: &Request, effects: &mut Effects) {
        observe(now, request, effects);
        self.connections.answer(request.connection, request.slot, None, effects);
    }
}

fn observe(now: Now, request: &Request, effects: &mut Effects) {
    let nanos = u64::try_from(now.instant.since(request.received.instant).as_nanos()).unwrap_or(u64::MAX);
    effects.observations.push(Observation { api: request.api, nanos });
}

/// A string of the codec.
pub(crate) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Shorthand for an error's code.
pub(crate) fn code(error: ResponseError) -> i16 {
    error.code()
}
