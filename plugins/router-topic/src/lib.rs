//! Routes by topic patterns in RabbitMQ's syntax.
//!
//! A routing key is words separated by dots: `eu.order.paid`. In a pattern `*` stands for exactly one word and `#` for any number
//! of words, none among them. Every binding whose pattern matches gets the record, each topic once.
//!
//! The routing key is the record's key, a header, or a field of its JSON value ([`config::Source`]); a record that has none has the
//! empty routing key, which only patterns made of `#` match.

pub mod config;
mod json;
pub mod matcher;

use config::{Config, Source, Unmatched};
use matcher::Matcher;
use tidegate_sdk::{Batch, Error, Failure, Header, Router, Routes, Setup, Topic};

/// See the crate's documentation.
#[derive(Debug)]
pub struct TopicRouter {
    read: Read,
    matcher: Matcher<Topic>,
    unmatched: Unrouted,
}

/// Where the routing key is read from.
#[derive(Debug)]
enum Read {
    Key,
    Header(Header),
    Json(Vec<String>),
}

#[derive(Debug)]
enum Unrouted {
    Discard,
    To(Topic),
    Reject,
}

impl Router for TopicRouter {
    type Config = Config;
    const EXAMPLE: &str = r##"{ "source": { "key": true }, "bindings": [ { "pattern": "eu.#", "topic": "orders-eu" }, { "pattern": "*.paid", "topic": "payments" } ], "unmatched": "keep" }"##;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        config.check()?;
        let read = match &config.source {
            Source::Key(_) => {
                setup.read_keys();
                Read::Key
            }
            Source::Header(name) => Read::Header(setup.read_header(name)),
            Source::Json(path) => {
                setup.read_values();
                Read::Json(path.split('.').map(str::to_owned).collect())
            }
        };
        let bindings =
            config.bindings.iter().map(|binding| Ok((binding.pattern.as_str(), setup.topic(&binding.topic)?)));
        let matcher = Matcher::new(bindings.collect::<Result<Vec<_>, Error>>()?)?;
        let unmatched = match &config.unmatched {
            Unmatched::Drop => Unrouted::Discard,
            Unmatched::Keep => Unrouted::To(Topic::SENT_TO),
            Unmatched::Topic(name) => Unrouted::To(setup.topic(name)?),
            Unmatched::Reject => Unrouted::Reject,
        };
        Ok(Self { read, matcher, unmatched })
    }

    fn route(&mut self, batch: &Batch, routes: &mut Routes) -> Result<(), Failure> {
        match &self.read {
            Read::Key => batch.keys().iter().for_each(|key| {
                route_by(&mut self.matcher, &self.unmatched, key.unwrap_or_default(), routes);
            }),
            Read::Header(header) => batch.header(*header).iter().for_each(|value| {
                route_by(&mut self.matcher, &self.unmatched, value.unwrap_or_default(), routes);
            }),
            Read::Json(path) => batch.values().iter().for_each(|value| {
                let field = value.and_then(|value| json::field(value, path));
                route_by(&mut self.matcher, &self.unmatched, field.unwrap_or_default().as_bytes(), routes);
            }),
        }
        Ok(())
    }
}

fn route_by(matcher: &mut Matcher<Topic>, unmatched: &Unrouted, routing_key: &[u8], routes: &mut Routes) {
    match (matcher.matches(routing_key), unmatched) {
        ([], Unrouted::Discard) => routes.discard(),
        ([], Unrouted::To(topic)) => routes.to(*topic),
        ([], Unrouted::Reject) => {
            let shown = String::from_utf8_lossy(&routing_key[..routing_key.len().min(100)]).into_owned();
            routes.reject(format!("no binding matches the routing key '{shown}'"));
        }
        (topics, _) => routes.to_each(topics),
    }
}

tidegate_sdk::export!(router: TopicRouter);

#[cfg(test)]
mod tests;
