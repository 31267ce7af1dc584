//! FindCoordinator (key 10): which broker coordinates a group. Many keys at once from v4 (KIP-699).
//!
//! The first to ask makes `__consumer_offsets`; the answer waits until it is there. There are no transactions and no share
//! groups yet, so nobody coordinates them: a transactional producer is told so in a way that ends it at once.

use kafka_protocol::{
    ResponseError,
    messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse, find_coordinator_response::Coordinator},
    protocol::StrBytes,
};
use tidegate_model::metadata::{MetadataError, OFFSETS_TOPIC, ProposalResult};
use tidegate_records::time::Now;

use super::{Work as AnyWork, code, text};
use crate::{
    request::Request,
    shard::{Effects, Shard},
};

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const SHARE: i8 = 2;

const NO_TRANSACTIONS: &str = "this broker has no transactions yet: produce without transactional.id";

pub(crate) struct Work {
    keys: Vec<StrBytes>,
    key_type: i8,
}

/// Why there is no coordinator.
struct Refusal {
    error: ResponseError,
    message: &'static str,
}

pub(super) fn begin(
    shard: &mut Shard,
    now: Now,
    request: Request,
    body: FindCoordinatorRequest,
    effects: &mut Effects,
) {
    let keys = if request.version >= 4 { body.coordinator_keys } else { vec![body.key] };
    let work = Work { keys, key_type: body.key_type };
    if work.key_type != GROUP || shard.image.topic(OFFSETS_TOPIC).is_some() {
        return respond(shard, now, &request, &work, None, effects);
    }
    let change = shard.creation_of(OFFSETS_TOPIC);
    let id = request.id;
    shard.park(request, AnyWork::FindCoordinator(work));
    shard.propose(id, 0, change, effects);
}

pub(super) fn finish(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    work: &Work,
    result: ProposalResult,
    effects: &mut Effects,
) {
    let refusal = match result {
        Ok(_) | Err(MetadataError::TopicExists { .. }) => None,
        Err(_) => Some(Refusal {
            error: ResponseError::CoordinatorNotAvailable,
            message: "the topic __consumer_offsets cannot be created; the broker's log says why",
        }),
    };
    respond(shard, now, request, work, refusal, effects);
}

fn refusal_of(key_type: i8, version: i16) -> Option<Refusal> {
    let (error, message) = match key_type {
        GROUP => return None,
        // The clients of these versions show the words.
        TRANSACTION if version >= 4 => (ResponseError::UnsupportedVersion, NO_TRANSACTIONS),
        // librdkafka ends on this code and tries for ever on every other.
        TRANSACTION => (ResponseError::TransactionalIdAuthorizationFailed, NO_TRANSACTIONS),
        SHARE => (ResponseError::InvalidRequest, "this broker has no share groups"),
        _ => (ResponseError::InvalidRequest, "the key type is not one of 0 (group), 1 (transaction) and 2 (share)"),
    };
    Some(Refusal { error, message })
}

fn respond(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    work: &Work,
    refusal: Option<Refusal>,
    effects: &mut Effects,
) {
    let refusal = refusal.or_else(|| refusal_of(work.key_type, request.version));
    let broker = shard.image.brokers.iter().find(|broker| broker.id == shard.identity.broker.0);
    let (refusal, node, host, port) = match (refusal, broker) {
        (None, Some(broker)) => (None, broker.id, text(&broker.host), i32::from(broker.port)),
        (None, None) => {
            let error = ResponseError::CoordinatorNotAvailable;
            (Some(Refusal { error, message: "the broker is starting" }), -1, StrBytes::default(), -1)
        }
        (refusal, _) => (refusal, -1, StrBytes::default(), -1),
    };
    let error_code = refusal.as_ref().map_or(0, |refusal| code(refusal.error));
    let error_message = refusal.as_ref().map(|refusal| StrBytes::from_static_str(refusal.message));
    let response = if request.version >= 4 {
        let coordinators = work.keys.iter().map(|key| {
            Coordinator::default()
                .with_key(key.clone())
                .with_node_id(BrokerId(node))
                .with_host(host.clone())
                .with_port(port)
                .with_error_code(error_code)
                .with_error_message(error_message.clone())
        });
        FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
    } else {
        FindCoordinatorResponse::default()
            .with_node_id(BrokerId(node))
            .with_host(host)
            .with_port(port)
            .with_error_code(error_code)
            .with_error_message(error_message.filter(|_| request.version >= 1))
    };
    shard.answer(now, request, &response, effects);
}
