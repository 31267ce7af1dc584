//! Connections: frames, limits, and the order of answers.
//!
//! A client may send many requests before the first is answered; answers leave in the order of the requests. Each request holds a
//! *slot*; a slot that is filled waits until those before it are. Invariant: the slots of a connection are consecutive numbers.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tidegate_records::ids::ShardId;

use crate::{
    RequestId,
    shard::{Effect, Effects},
};

/// A connection, unique for the life of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Why the bytes of a connection are not a frame. The connection is closed: nothing after it can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a request of {length} bytes: negative")]
    Negative { length: i32 },
    #[error("a request of {length} bytes, socket.request.max.bytes allows {limit}")]
    TooLarge { length: i32, limit: usize },
}

/// The length of the frame that starts with `prefix`, its four length bytes excluded.
///
/// # Errors
/// [`FrameError`] before anything is allocated for it.
pub fn frame_length(prefix: [u8; 4], limit: usize) -> Result<usize, FrameError> {
    let length = i32::from_be_bytes(prefix);
    match usize::try_from(length) {
        Err(_) => Err(FrameError::Negative { length }),
        Ok(bytes) if bytes > limit => Err(FrameError::TooLarge { length, limit }),
        Ok(bytes) => Ok(bytes),
    }
}

/// The place of a request in the order of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(u64);

enum SlotState {
    Waiting {
        bytes: usize,
        /// The request, where it is done but for those before it.
        held: Option<RequestId>,
    },
    Answered(Vec<Bytes>),
    /// `acks=0`: nothing is sent.
    Silent,
}

/// So many requests in a row whose partitions are all on one other shard, and the connection moves there: each would hop twice.
const MOVES_AFTER: u32 = 64;

struct Connection {
    client_host: String,
    first: u64,
    slots: VecDeque<SlotState>,
    waiting_bytes: usize,
    /// The shard that alone owned the partitions of the last requests, and how many those were.
    served_by: Option<(ShardId, u32)>,
}

/// The connections of a shard.
#[derive(Default)]
pub(crate) struct Connections {
    open: BTreeMap<ConnectionId, Connection>,
}

impl Connections {
    pub(crate) fn opened(&mut self, id: ConnectionId, client_host: String) {
        let connection =
            Connection { client_host, first: 0, slots: VecDeque::new(), waiting_bytes: 0, served_by: None };
        self.open.insert(id, connection);
    }

    /// Those that are held are given back: nobody waits for them any more.
    pub(crate) fn closed(&mut self, id: ConnectionId) -> Vec<RequestId> {
        let slots = self.open.remove(&id).map(|connection| connection.slots).unwrap_or_default();
        let held = slots.into_iter().filter_map(|slot| match slot {
            SlotState::Waiting { held, .. } => held,
            SlotState::Answered(_) | SlotState::Silent => None,
        });
        held.collect()
    }

    /// Whether a request must wait for those before it on its connection, and is held until then: [`Effects::release`] has it when they
    /// are answered.
    pub(crate) fn hold(&mut self, id: ConnectionId, slot: Slot, request: RequestId) -> bool {
        let Some(connection) = self.open.get_mut(&id) else { return false };
        let index = slot.0.saturating_sub(connection.first) as usize;
        match connection.slots.get_mut(index) {
            Some(SlotState::Waiting { held, .. }) if index > 0 => {
                *held = Some(request);
                true
            }
            _ => false,
        }
    }

    pub(crate) fn client_host(&self, id: ConnectionId) -> &str {
        self.open.get(&id).map_or("", |connection| &connection.client_host)
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Takes the next slot; `None` if the connection is gone.
    pub(crate) fn take_slot(&mut self, id: ConnectionId, request_bytes: usize) -> Option<Slot> {
        let connection = self.open.get_mut(&id)?;
        let slot = Slot(connection.first + connection.slots.len() as u64);
        connection.slots.push_back(SlotState::Waiting { bytes: request_bytes, held: None });
        connection.waiting_bytes += request_bytes;
        Some(slot)
    }

    /// Gives back the slot that was taken last: its request comes again.
    pub(crate) fn give_back_slot(&mut self, id: ConnectionId, request_bytes: usize) {
        if let Some(connection) = self.open.get_mut(&id) {
            let last = connection.slots.pop_back();
            assert!(
                matches!(last, Some(SlotState::Waiting { bytes, .. }) if bytes == request_bytes),
                "it was just taken"
            );
            connection.waiting_bytes -= request_bytes;
        }
    }

    /// Requests that are not answered yet, and their bytes: what the shell bounds before it reads more.
    pub(crate) fn backlog(&self, id: ConnectionId) -> (usize, usize) {
        self.open.get(&id).map_or((0, 0), |connection| (connection.slots.len(), connection.waiting_bytes))
    }

    /// Notes that a request's partitions are all on the shard `owner`, or that they are not all on one (`None`). Whether the
    /// connection is better served there from now on.
    pub(crate) fn served_by(&mut self, id: ConnectionId, owner: Option<ShardId>) -> bool {
        let Some(connection) = self.open.get_mut(&id) else { return false };
        let row = match (owner, connection.served_by) {
            (Some(owner), Some((same, row))) if owner == same => row + 1,
            _ => 1,
        };
        let enough = owner.is_some() && row >= MOVES_AFTER;
        // Asked once, and again only after as many: it may not have been the moment.
        connection.served_by = owner.filter(|_| !enough).map(|owner| (owner, row));
        enough
    }

    /// Fills a slot (`None`: nothing is sent for it) and sends what is now in order.
    pub(crate) fn answer(&mut self, id: ConnectionId, slot: Slot, frame: Option<Vec<Bytes>>, effects: &mut Effects) {
        let Some(connection) = self.open.get_mut(&id) else { return };
        let Some(index) = slot.0.checked_sub(connection.first) else { return };
        let Some(state) = connection.slots.get_mut(index as usize) else { return };
        let SlotState::Waiting { bytes, .. } = *state else { panic!("a request is answered once") };
        connection.waiting_bytes -= bytes;
        *state = frame.map_or(SlotState::Silent, SlotState::Answered);
        let first = connection.first;
        let mut chunks = Vec::new();
        while let Some(front) = connection.slots.front() {
            if let SlotState::Waiting { held, .. } = front {
                effects.release.extend(*held);
                break;
            }
            if let Some(SlotState::Answered(frame)) = connection.slots.pop_front() {
                chunks.extend(frame);
            }
            connection.first += 1;
        }
        if connection.first > first {
            effects.push(Effect::Send { connection: id, chunks });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections() -> Connections {
        let mut connections = Connections::default();
        connections.opened(ConnectionId(1), "/127.0.0.1".into());
        connections
    }

    #[test]
    fn a_connection_moves_after_a_row_of_requests_for_one_shard() {
        let mut connections = connections();
        for _ in 1..MOVES_AFTER {
            assert!(!connections.served_by(ConnectionId(1), Some(ShardId(2))));
        }
        assert!(connections.served_by(ConnectionId(1), Some(ShardId(2))));
        assert!(!connections.served_by(ConnectionId(1), Some(ShardId(2))), "it is asked once");
    }

    #[test]
    fn another_owner_or_several_begin_the_row_anew() {
        for other in [None, Some(ShardId(3))] {
            let mut connections = connections();
            for _ in 1..MOVES_AFTER {
                connections.served_by(ConnectionId(1), Some(ShardId(2)));
            }
            assert!(!connections.served_by(ConnectionId(1), other));
            assert!(!connections.served_by(ConnectionId(1), Some(ShardId(2))));
        }
    }

    /// Who waits for what is under way is told with what is sent; nothing was sent for these.
    #[test]
    fn a_request_without_an_answer_is_done_all_the_same() {
        let (mut connections, mut effects) = (connections(), Effects::default());
        let slots = [(); 2].map(|()| connections.take_slot(ConnectionId(1), 10).expect("it is open"));
        connections.answer(ConnectionId(1), slots[1], None, &mut effects);
        assert!(effects.list.is_empty(), "the one before it is under way");
        connections.answer(ConnectionId(1), slots[0], None, &mut effects);
        assert!(matches!(&effects.list[..], [Effect::Send { chunks, .. }] if chunks.is_empty()));
        assert_eq!(connections.backlog(ConnectionId(1)), (0, 0));
    }

    #[test]
    fn a_connection_that_is_gone_moves_nowhere() {
        assert!(!connections().served_by(ConnectionId(9), Some(ShardId(2))));
    }
}
