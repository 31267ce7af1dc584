//! Routes by topic patterns in RabbitMQ's syntax.
//!
//! A routing key is words separated by dots: `eu.order.paid`. In a pattern `*` stands for exactly one word and `#` for any number
//! of words, none among them. Every binding whose pattern matches gets the record, each topic once.
//!
//! The routing key is the record's key, a header, or a field of its JSON value ([`config::Source`]); a record that has none has the
//! empty routing key, which only patterns made of `#` match.

pub mod config;
pub mod matcher;

use config::Config;
use matcher::Matcher;
use tidegate_sdk::{
    Batch, Error, Failure, Router, Routes, Setup, Topic,
    config::{Reader, Unrouted, shown},
};

/// See the crate's documentation.
#[derive(Debug)]
pub struct TopicRouter {
    source: Reader,
    matcher: Matcher<Topic>,
    unmatched: Unrouted,
}

impl Router for TopicRouter {
    type Config = Config;
    const EXAMPLE: &str = r##"{ "source": { "key": true }, "bindings": [ { "pattern": "eu.#", "topic": "orders-eu" }, { "pattern": "*.paid", "topic": "payments" } ], "unmatched": "keep" }"##;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        if config.bindings.is_empty() {
            return Err("`bindings` is empty: nothing would be routed".into());
        }
        let source = config.source.open(setup)?;
        let bindings =
            config.bindings.iter().map(|binding| Ok((binding.pattern.as_str(), setup.topic(&binding.topic)?)));
        let matcher = Matcher::new(bindings.collect::<Result<Vec<_>, Error>>()?)?;
        Ok(Self { source, matcher, unmatched: config.unmatched.open(setup)? })
    }

    fn route(&mut self, batch: &Batch, routes: &mut Routes) -> Result<(), Failure> {
        let Self { source, matcher, unmatched } = self;
        source.for_each(batch, |routing_key| {
            let routing_key = routing_key.unwrap_or_default();
            match matcher.matches(routing_key) {
                [] => {
                    unmatched.route(routes, || format!("no binding matches the routing key '{}'", shown(routing_key)))
                }
                topics => routes.to_each(topics),
            }
        });
        Ok(())
    }
}

tidegate_sdk::export!(router: TopicRouter);

#[cfg(test)]
mod tests;
