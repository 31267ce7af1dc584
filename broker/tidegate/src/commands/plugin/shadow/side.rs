//! The two plugins that a shadow compares.

use std::time::Duration;

use tidegate_plugin_host::{Limits, ack::Arrival};
use tidegate_records::{
    columns::{Columns, Wanted},
    record::RecordError,
};

#[cfg(test)]
use super::super::sandbox::Place;
use super::super::sandbox::{Loaded, Opened, Outcome, Surroundings};

/// An instance, and how to have another one.
pub(super) struct Running {
    loaded: Loaded,
    config: String,
    limits: Limits,
    opened: Opened,
}

impl Running {
    pub(super) fn open(loaded: Loaded, config: String, limits: &Limits) -> anyhow::Result<Self> {
        let opened = loaded.open_within(&config, limits)?;
        Ok(Self { loaded, config, limits: limits.clone(), opened })
    }

    /// The instance; after a trap another one, as in the broker.
    fn instance(&mut self) -> anyhow::Result<&mut Opened> {
        if self.opened.is_dead() {
            self.opened = self.loaded.open_within(&self.config, &self.limits)?;
        }
        Ok(&mut self.opened)
    }
}

/// A plugin, and what its calls have cost.
pub(super) struct Side {
    plugin: Option<Running>,
    spent: Duration,
    answered: u64,
}

impl Side {
    pub(super) fn new(plugin: Option<Running>) -> Self {
        Self { plugin, spent: Duration::ZERO, answered: 0 }
    }

    /// What becomes of the records of a batch (none: there is no plugin), or why there is no answer.
    pub(super) fn ask(
        &mut self,
        read: &dyn Fn(&Wanted) -> Result<Columns, RecordError>,
        around: &Surroundings,
        arrival: &Arrival<'_>,
    ) -> anyhow::Result<Result<Option<Vec<Outcome>>, String>> {
        let Some(plugin) = &mut self.plugin else { return Ok(Ok(None)) };
        let plugin = match plugin.instance() {
            Ok(plugin) => plugin,
            Err(error) => return Ok(Err(format!("{error:#}"))),
        };
        let columns = read(&plugin.needs().columns)?;
        Ok(match plugin.answer(&columns, around, arrival) {
            Ok((outcomes, took)) => {
                self.spent += took;
                self.answered += outcomes.len() as u64;
                Ok(Some(settled(outcomes)))
            }
            Err(error) => Err(error.to_string()),
        })
    }

    /// Another plugin takes its place; what it has cost goes on being counted.
    pub(super) fn replace(&mut self, plugin: Option<Running>) {
        self.plugin = plugin;
    }

    pub(super) fn cost(&self) -> f64 {
        if self.answered == 0 { 0.0 } else { self.spent.as_nanos() as f64 / self.answered as f64 }
    }
}

/// What the broker makes of an answer: each destination once, in no order; and nothing of a batch is written of which a record is rejected.
fn settled(mut outcomes: Vec<Outcome>) -> Vec<Outcome> {
    for outcome in &mut outcomes {
        if let Outcome::To(places) = outcome {
            places.sort();
            places.dedup();
        }
    }
    let first = outcomes.iter().enumerate().find_map(|(record, outcome)| match outcome {
        Outcome::Rejected(reason) => Some((record, reason.clone())),
        _ => None,
    });
    if let Some((rejected, reason)) = first {
        for outcome in &mut outcomes {
            if !matches!(outcome, Outcome::Rejected(_)) {
                *outcome = Outcome::Rejected(format!("with record {rejected} of its batch: {reason}"));
            }
        }
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_compared_as_the_broker_takes_them() {
        let to = |topics: &[&str]| {
            let place = |topic: &&str| Place { topic: (*topic).to_owned(), partition: None };
            Outcome::To(topics.iter().map(place).collect())
        };
        assert_eq!(settled(vec![to(&["b", "a", "b"])]), settled(vec![to(&["a", "b"])]));
        let refused = settled(vec![to(&["a"]), Outcome::Rejected("no".to_owned())]);
        let with = Outcome::Rejected("with record 1 of its batch: no".to_owned());
        assert_eq!(refused, [with, Outcome::Rejected("no".to_owned())]);
    }
}
