//! Routes by what stands in fields of the JSON value: equality, sets, ranges, presence.
//!
//! All fields of all bindings are read in one pass over the value; what nobody asks for is skipped, not built.

use std::cmp::Ordering;

use serde_json::{Number, Value as Json};
use tidegate_sdk::{
    Batch, Error, Failure, Router, Routes, Setup, Topic,
    config::{Unmatched, Unrouted},
    json::{Fields, Value},
};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    bindings: Vec<Binding>,
    #[serde(default)]
    unmatched: Unmatched,
    /// For records whose value is no JSON; as `unmatched` unless it is said.
    invalid: Option<Unmatched>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Binding {
    when: Vec<When>,
    #[serde(default, rename = "match")]
    how: Match,
    topic: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Match {
    #[default]
    All,
    Any,
}

/// What must hold of a field; where there is more than one demand, all of them.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct When {
    field: String,
    /// Whether the field is there; null counts as there.
    exists: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    equals: Option<Json>,
    #[serde(default, deserialize_with = "given")]
    not: Option<Json>,
    #[serde(rename = "in")]
    one_of: Option<Vec<Json>>,
    /// At least.
    from: Option<Number>,
    /// More than.
    above: Option<Number>,
    /// At most.
    to: Option<Number>,
    /// Less than.
    below: Option<Number>,
    prefix: Option<String>,
}

/// `null` is something to compare with, and not the same as nothing.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Json>, D::Error> {
    serde::Deserialize::deserialize(deserializer).map(Some)
}

#[derive(Debug)]
pub struct JsonRouter {
    fields: Fields,
    bindings: Vec<Bound>,
    unmatched: Unrouted,
    invalid: Unrouted,
}

#[derive(Debug)]
struct Bound {
    /// The position of the field, and what must hold of it.
    tests: Vec<(usize, Test)>,
    any: bool,
    topic: Topic,
}

#[derive(Debug)]
enum Test {
    Exists(bool),
    OneOf(Vec<Scalar>),
    Not(Scalar),
    Range { low: Option<(Number, Ordering)>, high: Option<(Number, Ordering)> },
    Prefix(String),
}

#[derive(Debug)]
enum Scalar {
    Null,
    Truth(bool),
    Number(Number),
    Text(String),
}

impl Router for JsonRouter {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "bindings": [ { "when": [ { "field": "region", "in": [ "eu", "uk" ] }, { "field": "order.total", "from": 1000 } ], "topic": "orders-large-europe" } ], "unmatched": "keep" }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        if config.bindings.is_empty() {
            return Err("`bindings` is empty: nothing would be routed".into());
        }
        let mut paths: Vec<&str> = Vec::new();
        let mut bindings = Vec::with_capacity(config.bindings.len());
        for binding in &config.bindings {
            if binding.when.is_empty() {
                return Err(
                    format!("the binding of '{}' has no `when`: it would match everything", binding.topic).into()
                );
            }
            let mut tests = Vec::new();
            for when in &binding.when {
                let field = paths.iter().position(|path| *path == when.field).unwrap_or_else(|| {
                    paths.push(&when.field);
                    paths.len() - 1
                });
                let before = tests.len();
                when.add_tests(field, &mut tests)?;
                if tests.len() == before {
                    return Err(format!("`when` demands nothing of the field '{}'", when.field).into());
                }
                if binding.how == Match::Any && tests.len() > before + 1 {
                    return Err(format!(
                        "with \"match\": \"any\" each part of `when` demands one thing; that of the field '{}' demands {}",
                        when.field,
                        tests.len() - before
                    )
                    .into());
                }
            }
            bindings.push(Bound { tests, any: binding.how == Match::Any, topic: setup.topic(&binding.topic)? });
        }
        setup.read_values();
        let fields = Fields::new(paths)?;
        let unmatched = config.unmatched.open(setup)?;
        let invalid = config.invalid.map_or(Ok(unmatched), |invalid| invalid.open(setup))?;
        Ok(Self { fields, bindings, unmatched, invalid })
    }

    fn route(&mut self, batch: &Batch, routes: &mut Routes) -> Result<(), Failure> {
        let mut found = Vec::new();
        for value in batch.values() {
            if !self.fields.read(value.unwrap_or_default(), &mut found) {
                self.invalid.route(routes, || "the value is not JSON".to_owned());
                continue;
            }
            for binding in &self.bindings {
                if binding.matches(&found) {
                    routes.add_once(binding.topic);
                }
            }
            self.unmatched.done(routes, || "no binding matches the value".to_owned());
        }
        Ok(())
    }
}

impl When {
    fn add_tests(&self, field: usize, tests: &mut Vec<(usize, Test)>) -> Result<(), Error> {
        let scalar = |json: &Json| Scalar::new(json, &self.field);
        if let Some(exists) = self.exists {
            tests.push((field, Test::Exists(exists)));
        }
        if let Some(wanted) = &self.equals {
            tests.push((field, Test::OneOf(vec![scalar(wanted)?])));
        }
        if let Some(wanted) = &self.one_of {
            tests.push((field, Test::OneOf(wanted.iter().map(scalar).collect::<Result<_, _>>()?)));
        }
        if let Some(unwanted) = &self.not {
            tests.push((field, Test::Not(scalar(unwanted)?)));
        }
        if let Some(prefix) = &self.prefix {
            tests.push((field, Test::Prefix(prefix.clone())));
        }
        let bound =
            |inclusive: &Option<Number>, exclusive: &Option<Number>, side: Ordering| match (inclusive, exclusive) {
                (Some(_), Some(_)) => Err(format!("the field '{}' is bounded twice on one side", self.field)),
                (Some(number), None) => Ok(Some((number.clone(), Ordering::Equal))),
                (None, Some(number)) => Ok(Some((number.clone(), side))),
                (None, None) => Ok(None),
            };
        let low = bound(&self.from, &self.above, Ordering::Greater)?;
        let high = bound(&self.to, &self.below, Ordering::Less)?;
        if let (Some((from, at_from)), Some((to, at_to))) = (&low, &high) {
            let is_empty = match compare(from, to) {
                Ordering::Less => false,
                Ordering::Equal => *at_from != Ordering::Equal || *at_to != Ordering::Equal,
                Ordering::Greater => true,
            };
            if is_empty {
                return Err(format!("the range of the field '{}' is empty: no number can be in it", self.field).into());
            }
        }
        if low.is_some() || high.is_some() {
            tests.push((field, Test::Range { low, high }));
        }
        Ok(())
    }
}

impl Bound {
    fn matches(&self, found: &[Option<Value<'_>>]) -> bool {
        let holds = |(field, test): &(usize, Test)| test.holds(found[*field].as_ref());
        if self.any { self.tests.iter().any(holds) } else { self.tests.iter().all(holds) }
    }
}

impl Test {
    fn holds(&self, found: Option<&Value<'_>>) -> bool {
        match (self, found) {
            (Self::Exists(wanted), found) => found.is_some() == *wanted,
            (Self::Not(unwanted), found) => !found.is_some_and(|found| unwanted.equals(found)),
            (_, None) => false,
            (Self::OneOf(wanted), Some(found)) => wanted.iter().any(|wanted| wanted.equals(found)),
            (Self::Prefix(prefix), Some(Value::Text(text))) => text.starts_with(prefix),
            (Self::Range { low, high }, Some(Value::Number(number))) => {
                let above = |(low, ordering): &(Number, Ordering)| {
                    let compared = compare(number, low);
                    compared == Ordering::Greater || compared == *ordering
                };
                let below = |(high, ordering): &(Number, Ordering)| {
                    let compared = compare(number, high);
                    compared == Ordering::Less || compared == *ordering
                };
                low.as_ref().is_none_or(above) && high.as_ref().is_none_or(below)
            }
            (Self::Prefix(_) | Self::Range { .. }, Some(_)) => false,
        }
    }
}

impl Scalar {
    fn new(json: &Json, field: &str) -> Result<Self, String> {
        match json {
            Json::Null => Ok(Self::Null),
            Json::Bool(truth) => Ok(Self::Truth(*truth)),
            Json::Number(number) => Ok(Self::Number(number.clone())),
            Json::String(text) => Ok(Self::Text(text.clone())),
            Json::Array(_) | Json::Object(_) => {
                Err(format!("the field '{field}' cannot be compared with an array or an object"))
            }
        }
    }

    fn equals(&self, found: &Value<'_>) -> bool {
        match (self, found) {
            (Self::Null, Value::Null) => true,
            (Self::Truth(wanted), Value::Truth(found)) => wanted == found,
            (Self::Number(wanted), Value::Number(found)) => compare(found, wanted) == Ordering::Equal,
            (Self::Text(wanted), Value::Text(found)) => wanted == found,
            _ => false,
        }
    }
}

/// Whole numbers exactly; where one has a fraction or is beyond 64 bits, as doubles.
fn compare(one: &Number, other: &Number) -> Ordering {
    let whole = |number: &Number| number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    match (whole(one), whole(other)) {
        (Some(one), Some(other)) => one.cmp(&other),
        // A JSON number is never NaN.
        _ => one.as_f64().unwrap_or(0.0).total_cmp(&other.as_f64().unwrap_or(0.0)),
    }
}

tidegate_sdk::export!(router: JsonRouter);

#[cfg(test)]
mod tests;
