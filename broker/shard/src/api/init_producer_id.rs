//! InitProducerId (key 22): an id for an idempotent producer. Sources: KIP-98, KIP-360 (epoch bumps).
//!
//! Ids are handed out of blocks that the control plane commits, so that one is never given twice, over restarts too. One proposal
//! serves all requests that wait for it.

use kafka_protocol::{
    ResponseError,
    messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId},
};
use tidegate_model::metadata::{MetadataChange, ProposalResult};
use tidegate_records::time::Now;

use super::{Work as AnyWork, code};
use crate::{
    RequestId,
    error::metadata_code,
    request::Request,
    shard::{Effects, Shard},
};

/// Ids of one block.
const BLOCK: u32 = 1_000;

/// Ids that were committed for this shard and not given out.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds {
    next: i64,
    left: u32,
    waiting: Vec<RequestId>,
}

pub(super) fn begin(
    shard: &mut Shard,
    now: Now,
    request: Request,
    body: &InitProducerIdRequest,
    effects: &mut Effects,
) {
    let is_empty = body.transactional_id.as_ref().is_some_and(|id| id.0.is_empty());
    if is_empty || (body.producer_id.0 == -1) != (body.producer_epoch == -1) {
        return refuse(shard, now, &request, code(ResponseError::InvalidRequest), effects);
    }
    if body.transactional_id.is_some() {
        // A fatal code: the producer must not try for ever.
        return refuse(shard, now, &request, code(ResponseError::TransactionalIdAuthorizationFailed), effects);
    }
    // A producer without transactions gets a new id even if it has one (KIP-360): its old sequences mean nothing any more.
    if let Some(id) = shard.producer_ids.take() {
        return answer(shard, now, &request, id, effects);
    }
    let id = request.id;
    shard.park(request, AnyWork::InitProducerId);
    let first = shard.producer_ids.waiting.is_empty();
    shard.producer_ids.waiting.push(id);
    if first {
        shard.propose(id, 0, MetadataChange::AllocateProducerIds { count: BLOCK }, effects);
    }
}

impl ProducerIds {
    fn take(&mut self) -> Option<i64> {
        self.left = self.left.checked_sub(1)?;
        self.next += 1;
        Some(self.next - 1)
    }
}

pub(super) fn finish(
    shard: &mut Shard,
    now: Now,
    request: &Request,
    result: ProposalResult,
    effects: &mut Effects,
) -> Option<AnyWork> {
    let waiting = std::mem::take(&mut shard.producer_ids.waiting);
    match result {
        Ok(committed) => {
            let first = committed.first_producer_id.expect("a committed block has a first id");
            shard.producer_ids = ProducerIds { next: first, left: BLOCK, waiting: Vec::new() };
            hand_out(shard, now, request, effects);
            for id in waiting.into_iter().filter(|id| *id != request.id) {
                if let Some(request) = shard.unpark(id) {
                    hand_out(shard, now, &request, effects);
                }
            }
        }
        Err(error) => {
            refuse(shard, now, request, metadata_code(&error), effects);
            for id in waiting.into_iter().filter(|id| *id != request.id) {
                if let Some(request) = shard.unpark(id) {
                    refuse(shard, now, &request, metadata_code(&error), effects);
                }
            }
        }
    }
    None
}

fn hand_out(shard: &mut Shard, now: Now, request: &Request, effects: &mut Effects) {
    match shard.producer_ids.take() {
        Some(id) => answer(shard, now, request, id, effects),
        // More requests than a block has ids waited at once; they ask again.
        None => refuse(shard, now, request, code(ResponseError::CoordinatorLoadInProgress), effects),
    }
}

fn answer(shard: &mut Shard, now: Now, request: &Request, id: i64, effects: &mut Effects) {
    let response = InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0);
    shard.answer(now, request, &response, effects);
}

fn refuse(shard: &mut Shard, now: Now, request: &Request, error_code: i16, effects: &mut Effects) {
    let response = InitProducerIdResponse::default()
        .with_error_code(error_code)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    shard.answer(now, request, &response, effects);
}
