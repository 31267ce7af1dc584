//! Batches of derived producers that were refused for a passing reason, until they come again.
//!
//! A client's own sequence has no gaps, so a partition that refused a batch refuses those behind it until it is retried (KIP-98). The
//! sequence of a derived producer has gaps by its nature (`model::partition::producers`): the batches behind would be taken, and the retry
//! of the one before them would be out of order for good. What Apache Kafka gets from the numbers is remembered here instead: by each
//! destination for the parts that it refused, and for each connection of the batches that were not routed, or refused by any destination.
//!
//! In memory only: after a restart, or over another connection, a client sends everything that is open again in order.

use std::collections::BTreeMap;

use tidegate_model::partition::{
    SequenceError,
    producers::{BATCHES_KEPT, is_ahead},
};
use tidegate_records::{
    batch::BatchHeader,
    ids::{ProducerEpoch, ProducerId, Sequence},
};

use crate::ConnectionId;

/// Producers remembered at most. One that is forgotten falls back to what a gap allows.
const PRODUCERS_MAX: usize = 100_000;

/// A batch of a derived producer, as far as its order goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) producer: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) base_sequence: Sequence,
}

impl Turn {
    pub(crate) fn of(header: &BatchHeader) -> Self {
        Self { producer: header.producer_id, epoch: header.producer_epoch, base_sequence: header.base_sequence }
    }
}

/// The batches of each producer that must come again before those behind them, the earliest at most. All of them, and not the first alone:
/// when that has come again, a late copy of one that is further behind, from a connection that is gone, is still not the next.
///
/// `O`: of whom it is remembered, beside the producer.
#[derive(Debug)]
pub(crate) struct Refused<O = ()> {
    producers: BTreeMap<(O, ProducerId), (ProducerEpoch, Vec<Sequence>)>,
}

impl<O> Default for Refused<O> {
    fn default() -> Self {
        Self { producers: BTreeMap::new() }
    }
}

impl<O: Ord + Copy> Refused<O> {
    /// Whether a batch may be looked at: none before it is missing.
    ///
    /// # Errors
    /// [`SequenceError::OutOfOrderSequence`], which every client takes for "send it again after the one before".
    pub(crate) fn check(&self, of: O, turn: Turn) -> Result<(), SequenceError> {
        let Some((epoch, refused)) = self.producers.get(&(of, turn.producer)) else { return Ok(()) };
        let got = turn.base_sequence;
        match refused.iter().find(|refused| *epoch == turn.epoch && is_ahead(got, **refused)) {
            Some(last) => Err(SequenceError::OutOfOrderSequence { producer: turn.producer, last: *last, got }),
            None => Ok(()),
        }
    }

    /// A batch was refused and will be sent again.
    pub(crate) fn refused(&mut self, of: O, turn: Turn) {
        if self.producers.len() >= PRODUCERS_MAX {
            self.producers.clear();
        }
        let (epoch, refused) = self.producers.entry((of, turn.producer)).or_insert((turn.epoch, Vec::new()));
        if turn.epoch > *epoch {
            (*epoch, *refused) = (turn.epoch, Vec::new());
        }
        if turn.epoch == *epoch && !refused.contains(&turn.base_sequence) {
            let place = refused.iter().position(|known| is_ahead(*known, turn.base_sequence)).unwrap_or(refused.len());
            refused.insert(place, turn.base_sequence);
            refused.truncate(BATCHES_KEPT);
        }
    }

    /// A batch was taken: if none before them is missing, those behind it may come.
    pub(crate) fn taken(&mut self, of: O, turn: Turn) {
        let Some((epoch, refused)) = self.producers.get_mut(&(of, turn.producer)) else { return };
        if *epoch == turn.epoch {
            refused.retain(|refused| *refused != turn.base_sequence);
        }
        if *epoch < turn.epoch || refused.is_empty() {
            self.producers.remove(&(of, turn.producer));
        }
    }
}

impl Refused<ConnectionId> {
    /// What was sent over a connection that is gone comes again over another, from its first.
    pub(crate) fn closed(&mut self, connection: ConnectionId) {
        let all = (connection, ProducerId(i64::MIN))..=(connection, ProducerId(i64::MAX));
        let gone: Vec<_> = self.producers.range(all).map(|(key, _)| *key).collect();
        for key in gone {
            self.producers.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(epoch: i16, sequence: i32) -> Turn {
        let producer = ProducerId(1 << 62);
        Turn { producer, epoch: ProducerEpoch(epoch), base_sequence: Sequence(sequence) }
    }

    #[test]
    fn what_follows_a_refused_batch_waits_for_its_retry() {
        let mut refused = Refused::default();
        assert!(refused.check((), batch(0, 10)).is_ok());
        refused.refused((), batch(0, 10));
        refused.refused((), batch(0, 20));
        assert!(refused.check((), batch(0, 20)).is_err());
        assert!(refused.check((), batch(0, 5)).is_ok(), "one before it is a retry of what is there");
        assert!(refused.check((), batch(0, 10)).is_ok());
        refused.taken((), batch(0, 5));
        assert!(refused.check((), batch(0, 20)).is_err());
        refused.taken((), batch(0, 10));
        assert!(refused.check((), batch(0, 20)).is_ok());
        assert!(refused.check((), batch(0, 30)).is_err(), "the one before it is still missing");
        refused.taken((), batch(0, 20));
        assert!(refused.check((), batch(0, 30)).is_ok());
    }

    #[test]
    fn of_many_that_were_refused_the_earliest_are_remembered() {
        let mut refused = Refused::default();
        (1..=9).rev().for_each(|tens| refused.refused((), batch(0, 10 * tens)));
        for tens in 1..=5 {
            assert!(refused.check((), batch(0, 10 * tens + 1)).is_err());
            refused.taken((), batch(0, 10 * tens));
        }
        assert!(refused.check((), batch(0, 91)).is_ok());
    }

    #[test]
    fn a_new_epoch_begins_anew() {
        let mut refused = Refused::default();
        refused.refused((), batch(0, 10));
        assert!(refused.check((), batch(1, 20)).is_ok());
        refused.taken((), batch(1, 0));
        assert!(refused.check((), batch(0, 20)).is_ok());
    }

    #[test]
    fn sequences_wrap() {
        let mut refused = Refused::default();
        refused.refused((), batch(0, i32::MAX - 1));
        assert!(refused.check((), batch(0, 3)).is_err());
        assert!(refused.check((), batch(0, i32::MAX - 1)).is_ok());
    }

    #[test]
    fn what_is_remembered_of_a_connection_goes_with_it() {
        let mut refused = Refused::default();
        let [one, other] = [ConnectionId(1), ConnectionId(2)];
        refused.refused(one, batch(0, 10));
        refused.refused(other, batch(0, 10));
        refused.closed(one);
        assert!(refused.check(one, batch(0, 20)).is_ok());
        assert!(refused.check(other, batch(0, 20)).is_err());
    }
}
