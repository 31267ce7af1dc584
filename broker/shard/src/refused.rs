//! Batches of derived producers that were refused for a passing reason, until they come again.
//!
//! A client's own sequence has no gaps, so a partition that refused a batch refuses those behind it until it is retried (KIP-98). The
//! sequence of a derived producer has gaps by its nature (`model::partition::producers`): the batches behind would be taken, and the retry
//! of the one before them would be out of order for good. What Apache Kafka gets from the numbers is remembered here instead.
//!
//! In memory only: after a restart a client has lost its connection, and sends everything that is open again in order.

use std::collections::BTreeMap;

use tidegate_model::partition::{SequenceError, producers::is_ahead};
use tidegate_records::{
    batch::BatchHeader,
    ids::{ProducerEpoch, ProducerId, Sequence},
};

/// Producers remembered at most. One that is forgotten falls back to what a gap allows.
const PRODUCERS_MAX: usize = 100_000;

/// The earliest batch of each producer that must come again before those behind it.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    producers: BTreeMap<ProducerId, (ProducerEpoch, Sequence)>,
}

impl Refused {
    /// Whether a batch may be looked at: none before it is missing.
    ///
    /// # Errors
    /// [`SequenceError::OutOfOrderSequence`], which every client takes for "send it again after the one before".
    pub(crate) fn check(&self, header: &BatchHeader) -> Result<(), SequenceError> {
        match self.producers.get(&header.producer_id) {
            Some((epoch, refused)) if *epoch == header.producer_epoch && is_ahead(header.base_sequence, *refused) => {
                let (producer, last, got) = (header.producer_id, *refused, header.base_sequence);
                Err(SequenceError::OutOfOrderSequence { producer, last, got })
            }
            _ => Ok(()),
        }
    }

    /// A batch was refused and will be sent again.
    pub(crate) fn refused(&mut self, header: &BatchHeader) {
        if self.producers.len() >= PRODUCERS_MAX {
            self.producers.clear();
        }
        let new = (header.producer_epoch, header.base_sequence);
        let known = self.producers.entry(header.producer_id).or_insert(new);
        if header.producer_epoch > known.0 || (header.producer_epoch == known.0 && is_ahead(known.1, new.1)) {
            *known = new;
        }
    }

    /// A batch was taken: if it is the one that was missing, those behind it may come.
    pub(crate) fn taken(&mut self, header: &BatchHeader) {
        if let Some((epoch, refused)) = self.producers.get(&header.producer_id)
            && (*epoch < header.producer_epoch || *refused == header.base_sequence)
        {
            self.producers.remove(&header.producer_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_records::{batch::Compression, build::BatchBuilder, time::Timestamp};

    use super::*;

    fn batch(epoch: i16, sequence: i32) -> BatchHeader {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push(Timestamp(0), None, Some(b"value"), []);
        BatchHeader {
            producer_id: ProducerId(1 << 62),
            producer_epoch: ProducerEpoch(epoch),
            base_sequence: Sequence(sequence),
            ..builder.build().1
        }
    }

    #[test]
    fn what_follows_a_refused_batch_waits_for_its_retry() {
        let mut refused = Refused::default();
        assert!(refused.check(&batch(0, 10)).is_ok());
        refused.refused(&batch(0, 10));
        refused.refused(&batch(0, 20));
        assert!(refused.check(&batch(0, 20)).is_err());
        assert!(refused.check(&batch(0, 5)).is_ok(), "one before it is a retry of what is there");
        assert!(refused.check(&batch(0, 10)).is_ok());
        refused.taken(&batch(0, 5));
        assert!(refused.check(&batch(0, 20)).is_err());
        refused.taken(&batch(0, 10));
        assert!(refused.check(&batch(0, 20)).is_ok());
    }

    #[test]
    fn a_new_epoch_begins_anew() {
        let mut refused = Refused::default();
        refused.refused(&batch(0, 10));
        assert!(refused.check(&batch(1, 20)).is_ok());
        refused.taken(&batch(1, 0));
        assert!(refused.check(&batch(0, 20)).is_ok());
    }

    #[test]
    fn sequences_wrap() {
        let mut refused = Refused::default();
        refused.refused(&batch(0, i32::MAX - 1));
        assert!(refused.check(&batch(0, 3)).is_err());
        assert!(refused.check(&batch(0, i32::MAX - 1)).is_ok());
    }
}
