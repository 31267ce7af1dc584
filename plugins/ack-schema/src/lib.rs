//! Takes records whose value is JSON that fits a schema (JSON Schema, drafts 4 to 2020-12).

use std::fmt::Write as _;

use boon::{Compiler, ErrorKind, SchemaIndex, Schemas, ValidationError};
use serde_json::Value as Json;
use tidegate_sdk::{
    Batch, Error, Failure, Setup,
    ack::{AckHook, Arrival, Decisions},
};

/// The name under which the schema is compiled; nothing is fetched.
const LOCATION: &str = "tidegate:schema";
/// Mistakes of one record that are named.
const NAMED_MAX: usize = 5;

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    schema: Json,
    #[serde(default)]
    tombstones: Tombstones,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Tombstones {
    #[default]
    Allowed,
    Forbidden,
}

pub struct Schema {
    schemas: Schemas,
    schema: SchemaIndex,
    tombstones: Tombstones,
}

impl AckHook for Schema {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "schema": { "type": "object", "required": ["id"], "properties": { "id": { "type": "integer" }, "total": { "type": "number", "minimum": 0 } } } }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        let mut schemas = Schemas::new();
        let mut compiler = Compiler::new();
        // `format` is a rule here and not a remark: that is what who writes it expects.
        compiler.enable_format_assertions();
        compiler.add_resource(LOCATION, config.schema).map_err(|error| format!("the schema is wrong: {error}"))?;
        let schema =
            compiler.compile(LOCATION, &mut schemas).map_err(|error| format!("the schema is wrong: {error:#}"))?;
        setup.read_values();
        Ok(Self { schemas, schema, tombstones: config.tombstones })
    }

    fn decide(&mut self, batch: &Batch, _: &[Arrival], decisions: &mut Decisions) -> Result<(), Failure> {
        for (record, value) in batch.values().iter().enumerate() {
            match value {
                None if self.tombstones == Tombstones::Forbidden => decisions.reject(record, "it has no value"),
                None => {}
                Some(value) => match serde_json::from_slice::<Json>(value) {
                    Err(error) => decisions.reject(record, format!("its value is not JSON: {error}")),
                    Ok(json) => {
                        if let Err(error) = self.schemas.validate(&json, self.schema) {
                            decisions.reject(record, mistakes(&error));
                        }
                    }
                },
            }
        }
        decisions.rest_as_asked();
        Ok(())
    }
}

/// What is wrong, each mistake with its place: `at '/total': want number, but got string`.
fn mistakes(error: &ValidationError<'_, '_>) -> String {
    let mut found = Vec::new();
    leaves(error, &mut found);
    let mut text = String::new();
    for (index, mistake) in found.iter().take(NAMED_MAX).enumerate() {
        let place = mistake.instance_location.to_string();
        let place = if place.is_empty() { "the value".to_owned() } else { format!("'{place}'") };
        let separator = if index == 0 { "" } else { "; " };
        // A String takes all that is written.
        let _ = write!(text, "{separator}at {place}: {}", mistake.kind);
    }
    if found.len() > NAMED_MAX {
        let _ = write!(text, "; and {} more", found.len() - NAMED_MAX);
    }
    text
}

/// The mistakes at the ends of the tree: what stands above only says that there are some below. Alternatives are one mistake.
fn leaves<'e, 's, 'v>(error: &'e ValidationError<'s, 'v>, found: &mut Vec<&'e ValidationError<'s, 'v>>) {
    let alternatives = matches!(error.kind, ErrorKind::AnyOf | ErrorKind::OneOf(_));
    if error.causes.is_empty() || alternatives {
        found.push(error);
    } else {
        error.causes.iter().for_each(|cause| leaves(cause, found));
    }
}

tidegate_sdk::export!(ack: Schema);

#[cfg(test)]
mod tests {
    use tidegate_sdk::testkit::{Decided, open_ack, record};

    use super::*;

    #[test]
    fn records_that_do_not_fit_are_rejected_with_the_place() {
        let mut hook = open_ack::<Schema>(Schema::EXAMPLE).expect("the example opens");
        let good = record().value(r#"{ "id": 7, "total": 1.5 }"#);
        assert_eq!(hook.decide(&[good.clone(), record()]), Ok(Decided::AsAsked));
        let Ok(Decided::Rejected(rejected)) = hook.decide(&[
            good,
            record().value(r#"{ "id": "7", "total": -1 }"#),
            record().value("{}"),
            record().value("{"),
        ]) else {
            panic!("three do not fit")
        };
        assert_eq!(rejected.iter().map(|(record, _)| *record).collect::<Vec<_>>(), [1, 2, 3]);
        let words: Vec<&str> = rejected.iter().map(|(_, words)| words.as_str()).collect();
        assert!(words[0].contains("at '/id': want integer, but got string"), "{words:?}");
        assert!(words[0].contains("at '/total': "), "{words:?}");
        assert!(words[1].contains("at the value: missing properties 'id'"), "{words:?}");
        assert!(words[2].starts_with("its value is not JSON: "), "{words:?}");
    }

    #[test]
    fn tombstones_can_be_forbidden() {
        let mut hook = open_ack::<Schema>(r#"{ "schema": true, "tombstones": "forbidden" }"#).expect("it opens");
        assert_eq!(hook.decide(&[record()]), Ok(Decided::Rejected(vec![(0, "it has no value".to_owned())])));
    }

    #[test]
    fn references_within_the_schema_work_and_others_are_refused() {
        let config = r##"{ "schema": { "$defs": { "name": { "type": "string", "format": "email" } },
            "properties": { "who": { "$ref": "#/$defs/name" } } } }"##;
        let mut hook = open_ack::<Schema>(config).expect("it opens");
        assert_eq!(hook.decide(&[record().value(r#"{ "who": "a@b.example" }"#)]), Ok(Decided::AsAsked));
        assert!(matches!(hook.decide(&[record().value(r#"{ "who": "nobody" }"#)]), Ok(Decided::Rejected(_))));
        let refused = |config| open_ack::<Schema>(config).expect_err("it is refused");
        let elsewhere = refused(r#"{ "schema": { "$ref": "https://schemas.example/name.json" } }"#);
        assert!(elsewhere.starts_with("the schema is wrong: ") && elsewhere.contains("schemas.example"), "{elsewhere}");
        let wrong = refused(r#"{ "schema": { "type": "strin" } }"#);
        assert!(wrong.starts_with("the schema is wrong: "), "{wrong}");
    }
}
