//! Routes by headers, as RabbitMQ's headers exchange: a binding names headers and their values, and says whether all of them or
//! any of them must be there.
//!
//! `match` is RabbitMQ's `x-match`. With `all` and `any`, headers of the binding whose name begins with `x-` are not looked at;
//! `all-with-x` and `any-with-x` look at them, too. A value of `null` asks only whether the header is there.

use std::collections::BTreeMap;

use tidegate_sdk::{
    Batch, Column, Error, Failure, Header, Router, Routes, Setup, Topic,
    config::{Unmatched, Unrouted},
};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    bindings: Vec<Binding>,
    #[serde(default)]
    unmatched: Unmatched,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Binding {
    headers: BTreeMap<String, Option<Wanted>>,
    #[serde(default, rename = "match")]
    how: Match,
    topic: String,
}

/// The value of a header, as text: Kafka's headers are bytes, and say nothing of types.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
enum Wanted {
    Text(String),
    Truth(bool),
    Integer(i64),
    Decimal(f64),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Match {
    #[default]
    All,
    Any,
    AllWithX,
    AnyWithX,
}

#[derive(Debug)]
pub struct HeadersRouter {
    /// Every header that some binding looks at, once.
    headers: Vec<Header>,
    bindings: Vec<Bound>,
    unmatched: Unrouted,
}

#[derive(Debug)]
struct Bound {
    /// The position in `headers`, and the value; none: the header has to be there, whatever its value.
    tests: Vec<(usize, Option<Vec<u8>>)>,
    any: bool,
    topic: Topic,
}

impl Router for HeadersRouter {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "bindings": [ { "headers": { "format": "pdf", "type": "report" }, "match": "all", "topic": "reports" } ], "unmatched": "keep" }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        if config.bindings.is_empty() {
            return Err("`bindings` is empty: nothing would be routed".into());
        }
        let mut headers = Vec::new();
        let mut bindings = Vec::with_capacity(config.bindings.len());
        for binding in config.bindings {
            let with_x = matches!(binding.how, Match::AllWithX | Match::AnyWithX);
            let mut tests = Vec::new();
            for (name, wanted) in binding.headers {
                if name.starts_with("x-") && !with_x {
                    continue;
                }
                let header = setup.read_header(&name);
                let index = headers.iter().position(|known| *known == header).unwrap_or_else(|| {
                    headers.push(header);
                    headers.len() - 1
                });
                tests.push((index, wanted.map(Wanted::into_bytes)));
            }
            let any = matches!(binding.how, Match::Any | Match::AnyWithX);
            bindings.push(Bound { tests, any, topic: setup.topic(&binding.topic)? });
        }
        Ok(Self { headers, bindings, unmatched: config.unmatched.open(setup)? })
    }

    fn route(&mut self, batch: &Batch, routes: &mut Routes) -> Result<(), Failure> {
        let mut columns: Vec<_> = self.headers.iter().map(|header| Column::iter(&batch.header(*header))).collect();
        let mut values: Vec<Option<&[u8]>> = vec![None; columns.len()];
        for _ in 0..batch.len() {
            for (value, column) in values.iter_mut().zip(&mut columns) {
                *value = column.next().flatten();
            }
            for binding in &self.bindings {
                if binding.matches(&values) {
                    routes.add_once(binding.topic);
                }
            }
            self.unmatched.done(routes, || "no binding matches the headers".to_owned());
        }
        Ok(())
    }
}

impl Bound {
    /// As RabbitMQ does: `all` of no header matches everything, `any` of none nothing.
    fn matches(&self, values: &[Option<&[u8]>]) -> bool {
        let holds = |(index, wanted): &(usize, Option<Vec<u8>>)| match (values[*index], wanted) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(value), Some(wanted)) => value == wanted,
        };
        if self.any { self.tests.iter().any(holds) } else { self.tests.iter().all(holds) }
    }
}

impl Wanted {
    fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text,
            Self::Truth(truth) => truth.to_string(),
            Self::Integer(number) => number.to_string(),
            Self::Decimal(number) => number.to_string(),
        }
        .into_bytes()
    }
}

tidegate_sdk::export!(router: HeadersRouter);

#[cfg(test)]
mod tests;
