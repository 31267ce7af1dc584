//! Fetch sessions: a client names its partitions once, and after that only what changed; the broker answers likewise (KIP-227).
//!
//! A fetch is begun with [`FetchSessions::begin`], which says what is to be fetched, and ended with [`FetchSessions::end`], which
//! says what of it the answer carries. The rules are those of Apache Kafka's `FetchManager` and `FetchSessionCacheShard`.
//!
//! Invariants: at most as many sessions as there are slots, and at most [`PARTITIONS_MAX`] partitions in all of them; a session keeps
//! to topic ids or to names; its epoch goes up by one with each of its requests, so that a request that is lost, sent twice or comes
//! out of order is found out. A client whose session is gone begins anew with a full request: a session is never worth keeping.
//!
//! Left out: the precedence of followers, which come with replication.

use std::{collections::BTreeMap, sync::Arc};

use tidegate_records::{
    ids::{LeaderEpoch, Offset, PartitionIndex, TopicId},
    time::Instant,
};

#[cfg(test)]
mod tests;

/// Partitions of all sessions together; some 200 bytes each.
pub const PARTITIONS_MAX: usize = 250_000;
/// Kafka's `MIN_INCREMENTAL_FETCH_SESSION_EVICTION_MS`: a session may be evicted that was idle, or has existed, for so long.
const EVICTION_MS: u128 = 120_000;

/// Kafka's limit for the name of a topic.
const NAME_BYTES_MAX: usize = 249;
/// Topics that a session may have forgotten, beside as many as it has partitions, before it is ended to forget them truly.
const OLD_TOPICS_MAX: usize = 1_000;
/// `FetchMetadata.INITIAL_EPOCH`: a full request that asks for a session.
const INITIAL_EPOCH: i32 = 0;

/// The topic of a partition as the client names it: by id from version 13 on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicName {
    Name(Arc<str>),
    Id(TopicId),
}

/// What a client asks of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchParameters {
    pub fetch_offset: Offset,
    pub bytes_max: i32,
    pub current_leader_epoch: LeaderEpoch,
    pub last_fetched_epoch: LeaderEpoch,
}

/// A partition that is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub topic: TopicName,
    pub partition: PartitionIndex,
    pub parameters: FetchParameters,
}

/// A fetch request, as far as sessions are concerned.
#[derive(Clone, Debug)]
pub struct FetchRequest {
    pub session_id: i32,
    pub epoch: i32,
    /// Whether its version names topics by id.
    pub uses_topic_ids: bool,
    pub partitions: Vec<Fetched>,
    pub forgotten: Vec<(TopicName, PartitionIndex)>,
}

/// What a fetch that was begun is a part of; handed back to [`FetchSessions::end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchContext {
    /// No session, and none is wanted.
    Sessionless,
    /// A session begins with its answer, if there is room.
    Full { uses_topic_ids: bool },
    /// A request of a session. `epoch` is what the session has since.
    Incremental { session_id: i32, epoch: i32 },
}

/// What was found of a partition, as far as it decides whether the answer must tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub high_watermark: Offset,
    pub log_start_offset: Offset,
    /// It has records, an error, or a diverging epoch.
    pub content: FoundContent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundContent {
    Nothing,
    Records,
    DivergingEpoch,
    Error,
}

/// What the answer carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 0: no session.
    pub session_id: i32,
    /// For each partition that was fetched, whether it is in the answer.
    pub carries: Vec<bool>,
}

/// Why a request of a session is refused. The client begins a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchSessionError {
    #[error(
        "there is no fetch session {session_id}: it was evicted, or is of another connection or start of the broker"
    )]
    SessionIdNotFound { session_id: i32 },
    #[error("fetch session {session_id} expects epoch {expected}, the request has {got}")]
    InvalidSessionEpoch { session_id: i32, expected: i32, got: i32 },
    #[error("fetch session {session_id} was begun with the other kind of topic names")]
    SessionTopicId { session_id: i32 },
}

/// Which range of session ids a cache gives out, so that two caches of one broker never give the same.
#[derive(Clone, Copy, Debug)]
pub struct SessionIds {
    pub first: i32,
    pub count: i32,
}

#[derive(Debug)]
struct Session {
    uses_topic_ids: bool,
    epoch: i32,
    created: Instant,
    last_used: Instant,
    topics: Vec<TopicName>,
    topic_numbers: BTreeMap<TopicName, usize>,
    partitions: BTreeMap<Key, Cached>,
    /// In which order they are fetched: those that had records go to the end, so that all get their turn.
    order: BTreeMap<u64, Key>,
    next_place: u64,
}

/// The number of the topic in the session, and the partition.
type Key = (usize, PartitionIndex);

#[derive(Clone, Copy, Debug)]
struct Cached {
    place: u64,
    parameters: FetchParameters,
    /// What the client was told last; -1 makes the next answer carry it.
    high_watermark: Offset,
    log_start_offset: Offset,
}

/// The sessions of one shard's connections.
#[derive(Debug)]
pub struct FetchSessions {
    sessions: BTreeMap<i32, Session>,
    ids: SessionIds,
    slots: usize,
    partitions: usize,
    random: u64,
}

impl FetchSessions {
    /// A cache of so many slots (`max.incremental.fetch.session.cache.slots`). `seed` differs from start to start: ids must not repeat,
    /// or a client would go on in the session of another.
    #[must_use]
    pub fn new(slots: usize, ids: SessionIds, seed: u64) -> Self {
        Self { sessions: BTreeMap::new(), ids, slots, partitions: 0, random: seed }
    }

    /// Says what a request fetches, in which order.
    ///
    /// # Errors
    /// [`FetchSessionError`].
    pub fn begin(
        &mut self,
        now: Instant,
        request: FetchRequest,
    ) -> Result<(FetchContext, Vec<Fetched>), FetchSessionError> {
        let FetchRequest { session_id, epoch, uses_topic_ids, partitions, forgotten } = request;
        // No topic has such a name; it must not be remembered.
        let is_overlong = partitions
            .iter()
            .any(|fetched| matches!(&fetched.topic, TopicName::Name(name) if name.len() > NAME_BYTES_MAX));
        if epoch <= INITIAL_EPOCH {
            // A full request ends the session that it names. Epoch -1 wants no other.
            self.remove(session_id);
            let wants_session = epoch == INITIAL_EPOCH && self.slots > 0 && !is_overlong;
            let context = if wants_session { FetchContext::Full { uses_topic_ids } } else { FetchContext::Sessionless };
            return Ok((context, partitions));
        }
        let unknown = FetchSessionError::SessionIdNotFound { session_id };
        let session = self.sessions.get_mut(&session_id).ok_or(unknown)?;
        if session.epoch != epoch {
            return Err(FetchSessionError::InvalidSessionEpoch { session_id, expected: session.epoch, got: epoch });
        }
        if session.uses_topic_ids != uses_topic_ids {
            return Err(FetchSessionError::SessionTopicId { session_id });
        }
        let before = session.partitions.len();
        for fetched in &partitions {
            session.update(fetched);
        }
        for (topic, partition) in &forgotten {
            session.forget(topic, *partition);
        }
        session.last_used = now;
        session.epoch = next_epoch(epoch);
        let context = FetchContext::Incremental { session_id, epoch: session.epoch };
        let all = session.in_order();
        let has_many_old_topics = session.topics.len() > 2 * session.partitions.len() + OLD_TOPICS_MAX;
        self.partitions = self.partitions + session.partitions.len() - before;
        if all.is_empty() {
            self.remove(session_id);
            return Ok((FetchContext::Sessionless, partitions));
        }
        if is_overlong || has_many_old_topics || self.partitions > PARTITIONS_MAX {
            self.remove(session_id);
            return Err(unknown);
        }
        Ok((context, all))
    }

    /// Says what the answer carries. `found` is of `fetched`, one for one.
    ///
    /// # Errors
    /// [`FetchSessionError`]: another request of the session came meanwhile.
    pub fn end(
        &mut self,
        now: Instant,
        context: FetchContext,
        fetched: &[Fetched],
        found: &[Found],
    ) -> Result<Answer, FetchSessionError> {
        assert_eq!(fetched.len(), found.len(), "one is found for each that is fetched");
        let everything = |session_id| Answer { session_id, carries: vec![true; found.len()] };
        match context {
            FetchContext::Sessionless => Ok(everything(0)),
            FetchContext::Full { uses_topic_ids } => {
                Ok(everything(self.create(now, uses_topic_ids, fetched, found).unwrap_or(0)))
            }
            FetchContext::Incremental { session_id, epoch } => {
                let unknown = FetchSessionError::SessionIdNotFound { session_id };
                let session = self.sessions.get_mut(&session_id).ok_or(unknown)?;
                if session.epoch != epoch {
                    let (expected, got) = (session.epoch, epoch);
                    return Err(FetchSessionError::InvalidSessionEpoch { session_id, expected, got });
                }
                let carries = fetched.iter().zip(found).map(|(fetched, found)| session.tell(fetched, found)).collect();
                Ok(Answer { session_id, carries })
            }
        }
    }

    /// Sessions, and partitions in them.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.sessions.len(), self.partitions)
    }

    fn create(&mut self, now: Instant, uses_topic_ids: bool, fetched: &[Fetched], found: &[Found]) -> Option<i32> {
        if fetched.is_empty() || fetched.len() > PARTITIONS_MAX {
            return None;
        }
        if self.sessions.len() >= self.slots && !self.evict(now, fetched.len()) {
            return None;
        }
        if self.partitions + fetched.len() > PARTITIONS_MAX {
            return None;
        }
        let mut session = Session {
            uses_topic_ids,
            epoch: next_epoch(INITIAL_EPOCH),
            created: now,
            last_used: now,
            topics: Vec::new(),
            topic_numbers: BTreeMap::new(),
            partitions: BTreeMap::new(),
            order: BTreeMap::new(),
            next_place: 0,
        };
        for (fetched, found) in fetched.iter().zip(found) {
            session.update(fetched);
            session.tell(fetched, found);
        }
        self.partitions += session.partitions.len();
        let id = self.new_id();
        self.sessions.insert(id, session);
        assert!(self.sessions.len() <= self.slots, "sessions are bounded");
        Some(id)
    }

    /// Makes room for a session of so many partitions: an idle one goes, else one that has existed for a while and has no more
    /// partitions than the new one.
    fn evict(&mut self, now: Instant, partitions: usize) -> bool {
        let age_of = |since: Instant| now.since(since).as_millis();
        let idlest = self.sessions.iter().min_by_key(|(id, session)| (session.last_used, **id));
        let idle = idlest.filter(|(_, session)| age_of(session.last_used) > EVICTION_MS).map(|(id, _)| *id);
        let smaller = || {
            let settled = self.sessions.iter().filter(|(_, session)| age_of(session.created) > EVICTION_MS);
            let smallest = settled.min_by_key(|(id, session)| (session.partitions.len(), **id));
            smallest.filter(|(_, session)| session.partitions.len() <= partitions).map(|(id, _)| *id)
        };
        let Some(id) = idle.or_else(smaller) else { return false };
        self.remove(id);
        true
    }

    fn remove(&mut self, session_id: i32) {
        if let Some(session) = self.sessions.remove(&session_id) {
            self.partitions -= session.partitions.len();
        }
    }

    fn new_id(&mut self) -> i32 {
        loop {
            // SplitMix64.
            self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.random;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let id = self.ids.first + ((mixed >> 33) % self.ids.count as u64) as i32;
            if id != 0 && !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }
}

/// `FetchMetadata.nextEpoch`: 0 is for a new session alone.
fn next_epoch(epoch: i32) -> i32 {
    epoch.checked_add(1).unwrap_or(1)
}

impl Session {
    fn key(&mut self, topic: &TopicName, partition: PartitionIndex) -> Key {
        let number = *self.topic_numbers.entry(topic.clone()).or_insert_with(|| {
            self.topics.push(topic.clone());
            self.topics.len() - 1
        });
        (number, partition)
    }

    fn update(&mut self, fetched: &Fetched) {
        let key = self.key(&fetched.topic, fetched.partition);
        if let Some(cached) = self.partitions.get_mut(&key) {
            cached.parameters = fetched.parameters;
            return;
        }
        let cached = Cached {
            place: self.next_place,
            parameters: fetched.parameters,
            high_watermark: Offset::UNKNOWN,
            log_start_offset: Offset::UNKNOWN,
        };
        self.partitions.insert(key, cached);
        self.order.insert(self.next_place, key);
        self.next_place += 1;
    }

    fn forget(&mut self, topic: &TopicName, partition: PartitionIndex) {
        let Some(number) = self.topic_numbers.get(topic) else { return };
        if let Some(cached) = self.partitions.remove(&(*number, partition)) {
            self.order.remove(&cached.place);
        }
    }

    fn in_order(&self) -> Vec<Fetched> {
        self.order
            .values()
            .map(|key| Fetched {
                topic: self.topics[key.0].clone(),
                partition: key.1,
                parameters: self.partitions[key].parameters,
            })
            .collect()
    }

    /// Whether the client must be told, which is noted as done.
    fn tell(&mut self, fetched: &Fetched, found: &Found) -> bool {
        let Some(number) = self.topic_numbers.get(&fetched.topic) else { return false };
        let key = (*number, fetched.partition);
        let Some(cached) = self.partitions.get_mut(&key) else { return false };
        let is_news =
            cached.high_watermark != found.high_watermark || cached.log_start_offset != found.log_start_offset;
        cached.high_watermark = found.high_watermark;
        cached.log_start_offset = found.log_start_offset;
        match found.content {
            FoundContent::Nothing => is_news,
            FoundContent::DivergingEpoch => true,
            FoundContent::Error => {
                // Once the error is over, the partition is told again.
                cached.high_watermark = Offset::UNKNOWN;
                true
            }
            FoundContent::Records => {
                self.order.remove(&cached.place);
                cached.place = self.next_place;
                self.order.insert(self.next_place, key);
                self.next_place += 1;
                true
            }
        }
    }
}

impl SessionIds {
    /// The share of one of `shards` caches: positive, and no other's.
    #[must_use]
    pub fn of_shard(shard: u16, shards: u16) -> Self {
        assert!(shard < shards, "a shard is one of those that there are");
        let count = i32::MAX / i32::from(shards);
        Self { first: i32::from(shard) * count, count }
    }
}
