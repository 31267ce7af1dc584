//! What a partition remembers of its idempotent producers: enough to recognise a retry and to refuse a gap (KIP-98, KIP-360).
//!
//! Invariants: at most [`BATCHES_KEPT`] batches for each producer, oldest first. A producer is forgotten by the *broker's* clock of
//! its last append, never by record timestamps: a backfill with old timestamps must not lose its producer (and double its
//! retries) when the broker restarts.
//!
//! Two kinds of producer. A client's own (KIP-98): its sequence has no gaps. A *derived* one (see [`derived_producer_id`]): the
//! parts into which a router split a client's batches; its sequences go up, and a gap only says that some batch had nothing
//! for this partition.

use std::collections::{BTreeMap, VecDeque};

use tidegate_records::{
    batch::BatchHeader,
    ids::{Offset, ProducerEpoch, ProducerId, Sequence, TopicPartition},
    time::Timestamp,
};

/// Batches remembered for each producer; Kafka's clients keep at most this many in flight when idempotent.
pub const BATCHES_KEPT: usize = 5;

/// Ids from here on are derived by routing; the allocator of producer ids stays below.
pub const DERIVED_PRODUCER_IDS_START: i64 = 1 << 62;

/// The producer id that the parts of a routed batch carry: a function of the client's id and of where the client sent it.
#[must_use]
pub fn derived_producer_id(producer: ProducerId, ingress: TopicPartition) -> ProducerId {
    // FNV-1a over the fields, then a finaliser: stable over releases, because a retry may meet a newer broker.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    mix(&producer.0.to_be_bytes());
    mix(&ingress.topic.0);
    mix(&ingress.partition.0.to_be_bytes());
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^= hash >> 29;
    ProducerId(((hash >> 2) as i64) | DERIVED_PRODUCER_IDS_START)
}

/// Whether a producer id was made by [`derived_producer_id`].
#[must_use]
pub fn is_derived(producer: ProducerId) -> bool {
    producer.0 >= DERIVED_PRODUCER_IDS_START
}

/// Whether a derived producer's batch from `sequence` on comes after the one from `earlier` on.
#[must_use]
pub fn is_ahead(sequence: Sequence, earlier: Sequence) -> bool {
    // Sequences live on a ring of 2^31; ahead means less than half of it, as for serial numbers.
    let ahead = sequence.0.wrapping_sub(earlier.0) & i32::MAX;
    ahead > 0 && ahead < 1 << 30
}

/// One remembered batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducedBatch {
    pub first_sequence: Sequence,
    pub last_sequence: Sequence,
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub max_timestamp: Timestamp,
}

/// What is known of one producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerState {
    pub epoch: ProducerEpoch,
    /// The broker's wall clock at its last append.
    pub last_append: Timestamp,
    batches: VecDeque<ProducedBatch>,
}

impl ProducerState {
    /// The newest batch, if any is remembered.
    #[must_use]
    pub fn last_batch(&self) -> Option<&ProducedBatch> {
        self.batches.back()
    }
}

/// Why a producer's batch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    #[error(
        "producer {producer} has epoch {current} here, the batch has {got}: a newer instance of the producer has taken over"
    )]
    InvalidProducerEpoch { producer: ProducerId, current: ProducerEpoch, got: ProducerEpoch },
    #[error("producer {producer}: sequence {got} does not follow {last}: batches before it are missing")]
    OutOfOrderSequence { producer: ProducerId, last: Sequence, got: Sequence },
}

/// What the check says of a batch that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceCheck {
    New,
    /// A retry of a remembered batch: answer with what the first append got.
    Duplicate(ProducedBatch),
}

/// The producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    states: BTreeMap<ProducerId, ProducerState>,
}

impl Producers {
    /// Whether a batch is new, a retry, or refused. Changes nothing; batches without a producer id are always new.
    ///
    /// # Errors
    /// [`SequenceError`]: fenced epoch, or a gap in a client's sequence.
    pub fn check(&self, header: &BatchHeader) -> Result<SequenceCheck, SequenceError> {
        if !header.producer_id.is_some() {
            return Ok(SequenceCheck::New);
        }
        let Some(state) = self.states.get(&header.producer_id) else {
            // Kafka accepts any sequence of a producer that it does not know: retention may have taken the earlier batches.
            return Ok(SequenceCheck::New);
        };
        let producer = header.producer_id;
        if header.producer_epoch < state.epoch {
            return Err(SequenceError::InvalidProducerEpoch {
                producer,
                current: state.epoch,
                got: header.producer_epoch,
            });
        }
        if header.producer_epoch > state.epoch {
            return if header.base_sequence == Sequence(0) || is_derived(producer) {
                Ok(SequenceCheck::New)
            } else {
                Err(SequenceError::OutOfOrderSequence { producer, last: Sequence::NONE, got: header.base_sequence })
            };
        }
        let (first, last) = (header.base_sequence, header.last_sequence());
        if let Some(batch) = state.batches.iter().find(|b| b.first_sequence == first && b.last_sequence == last) {
            return Ok(SequenceCheck::Duplicate(*batch));
        }
        let Some(newest) = state.batches.back() else { return Ok(SequenceCheck::New) };
        let follows = if is_derived(producer) {
            is_ahead(first, newest.first_sequence)
        } else {
            newest.last_sequence.plus(1) == first
        };
        if follows {
            Ok(SequenceCheck::New)
        } else {
            Err(SequenceError::OutOfOrderSequence { producer, last: newest.last_sequence, got: first })
        }
    }

    /// Remembers an appended batch. `header` carries the offsets it was given; `append_time` is the broker's clock.
    pub fn appended(&mut self, header: &BatchHeader, append_time: Timestamp) {
        if !header.producer_id.is_some() || header.attributes.is_control() {
            return;
        }
        let state = self.states.entry(header.producer_id).or_insert_with(|| ProducerState {
            epoch: header.producer_epoch,
            last_append: append_time,
            batches: VecDeque::with_capacity(BATCHES_KEPT),
        });
        if state.epoch != header.producer_epoch {
            state.epoch = header.producer_epoch;
            state.batches.clear();
        }
        state.last_append = append_time;
        if state.batches.len() == BATCHES_KEPT {
            state.batches.pop_front();
        }
        state.batches.push_back(ProducedBatch {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
            max_timestamp: header.max_timestamp,
        });
        assert!(state.batches.len() <= BATCHES_KEPT, "a producer's memory is bounded");
    }

    /// Forgets producers whose last append is older than `expiration_ms` (`producer.id.expiration.ms`). Returns how many.
    pub fn expire(&mut self, now: Timestamp, expiration_ms: i64) -> usize {
        let before = self.states.len();
        // A clock that jumped forward and back must not expire what was written "in the future".
        self.states.retain(|_, state| now.0.saturating_sub(state.last_append.0) < expiration_ms);
        before - self.states.len()
    }

    /// The producers in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (ProducerId, &ProducerState)> {
        self.states.iter().map(|(id, state)| (*id, state))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.states.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The bytes of a snapshot, big-endian: version u8 = 1, count u32, then for each producer id i64, epoch i16, last append
    /// i64, batches u8, and for each batch first and last sequence i32, base and last offset i64, max timestamp i64.
    /// Storage adds the checksum.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(5 + self.states.len() * 64);
        out.push(1);
        out.extend_from_slice(
            &u32::try_from(self.states.len()).expect("a partition has fewer than 2^32 producers").to_be_bytes(),
        );
        for (id, state) in &self.states {
            out.extend_from_slice(&id.0.to_be_bytes());
            out.extend_from_slice(&state.epoch.0.to_be_bytes());
            out.extend_from_slice(&state.last_append.0.to_be_bytes());
            out.push(state.batches.len() as u8);
            for batch in &state.batches {
                out.extend_from_slice(&batch.first_sequence.0.to_be_bytes());
                out.extend_from_slice(&batch.last_sequence.0.to_be_bytes());
                out.extend_from_slice(&batch.base_offset.0.to_be_bytes());
                out.extend_from_slice(&batch.last_offset.0.to_be_bytes());
                out.extend_from_slice(&batch.max_timestamp.0.to_be_bytes());
            }
        }
        out
    }

    /// The inverse of [`Producers::encode`]; `None` for bytes that are not a snapshot of a version known here.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        if reader.take::<1>()? != [1] {
            return None;
        }
        let count = u32::from_be_bytes(reader.take()?);
        let mut states = BTreeMap::new();
        for _ in 0..count {
            let id = ProducerId(i64::from_be_bytes(reader.take()?));
            let epoch = ProducerEpoch(i16::from_be_bytes(reader.take()?));
            let last_append = Timestamp(i64::from_be_bytes(reader.take()?));
            let [kept] = reader.take::<1>()?;
            if usize::from(kept) > BATCHES_KEPT {
                return None;
            }
            let mut batches = VecDeque::with_capacity(BATCHES_KEPT);
            for _ in 0..kept {
                batches.push_back(ProducedBatch {
                    first_sequence: Sequence(i32::from_be_bytes(reader.take()?)),
                    last_sequence: Sequence(i32::from_be_bytes(reader.take()?)),
                    base_offset: Offset(i64::from_be_bytes(reader.take()?)),
                    last_offset: Offset(i64::from_be_bytes(reader.take()?)),
                    max_timestamp: Timestamp(i64::from_be_bytes(reader.take()?)),
                });
            }
            states.insert(id, ProducerState { epoch, last_append, batches });
        }
        reader.0.is_empty().then_some(Self { states })
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
}
