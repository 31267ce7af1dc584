//! Takes records that keep to limits of size and to rules for keys, tombstones and headers.
//!
//! Every rule that a record breaks is named to its producer, so that one refusal is enough to mend it.

use std::collections::BTreeSet;

use tidegate_sdk::{
    Batch, Column, Error, Failure, Header, Setup,
    ack::{AckHook, Arrival, Decisions, Reason},
};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    key: Presence,
    /// `"forbidden"`: no tombstones.
    #[serde(default)]
    tombstones: Tombstones,
    max_key_bytes: Option<usize>,
    max_value_bytes: Option<usize>,
    /// Of the batch as it was sent, compressed if it was.
    max_batch_bytes: Option<u32>,
    #[serde(default)]
    headers: Vec<HeaderRule>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Presence {
    #[default]
    Optional,
    Required,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Tombstones {
    #[default]
    Allowed,
    Forbidden,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderRule {
    name: String,
    #[serde(default)]
    optional: bool,
    max_bytes: Option<usize>,
    /// Texts that it may be; any, if it is not said.
    one_of: Option<BTreeSet<String>>,
}

#[derive(Debug)]
pub struct Policy {
    key: Presence,
    tombstones: Tombstones,
    max_key_bytes: Option<usize>,
    max_value_bytes: Option<usize>,
    max_batch_bytes: Option<u32>,
    headers: Vec<(Header, HeaderRule)>,
}

impl AckHook for Policy {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "key": "required", "max_value_bytes": 65536, "headers": [ { "name": "owner", "one_of": ["shop", "payments"] } ] }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        let Config { key, tombstones, max_key_bytes, max_value_bytes, max_batch_bytes, headers } = config;
        let looks_at_keys = key == Presence::Required || max_key_bytes.is_some();
        let looks_at_values = tombstones == Tombstones::Forbidden || max_value_bytes.is_some();
        if !looks_at_keys && !looks_at_values && max_batch_bytes.is_none() && headers.is_empty() {
            return Err("there is no rule in it: every record would be taken".into());
        }
        if looks_at_keys {
            setup.read_keys();
        }
        if looks_at_values {
            setup.read_values();
        }
        let mut names = BTreeSet::new();
        for rule in &headers {
            if rule.name.is_empty() || !names.insert(&rule.name) {
                return Err(format!("the header '{}' has no name, or two rules", rule.name).into());
            }
            if rule.one_of.as_ref().is_some_and(BTreeSet::is_empty) {
                return Err(format!("'one_of' of the header '{}' is empty: it could be nothing", rule.name).into());
            }
        }
        let headers = headers.into_iter().map(|rule| (setup.read_header(&rule.name), rule)).collect();
        Ok(Self { key, tombstones, max_key_bytes, max_value_bytes, max_batch_bytes, headers })
    }

    fn decide(&mut self, batch: &Batch, arrivals: &[Arrival], decisions: &mut Decisions) -> Result<(), Failure> {
        let mut broken: Vec<Vec<String>> = vec![Vec::new(); batch.len()];
        if self.key == Presence::Required || self.max_key_bytes.is_some() {
            check(batch.keys(), &mut broken, |key| self.key_broken(key));
        }
        if self.tombstones == Tombstones::Forbidden || self.max_value_bytes.is_some() {
            check(batch.values(), &mut broken, |value| self.value_broken(value));
        }
        for (header, rule) in &self.headers {
            check(batch.header(*header), &mut broken, |value| rule.broken(value));
        }
        for (record, reasons) in broken.into_iter().enumerate().filter(|(_, reasons)| !reasons.is_empty()) {
            decisions.reject(record, reasons.join("; "));
        }
        for arrival in arrivals {
            match self.max_batch_bytes {
                Some(max) if arrival.bytes > max => {
                    let message = format!("the batch has {} bytes, {max} are allowed", arrival.bytes);
                    decisions.refuse(Reason::MessageTooLarge, message);
                }
                _ => decisions.as_asked(),
            }
        }
        Ok(())
    }
}

/// Adds to each record what is wrong with its value of a column.
fn check(column: Column<'_>, broken: &mut [Vec<String>], rule: impl Fn(Option<&[u8]>) -> Option<String>) {
    for (value, reasons) in column.iter().zip(broken) {
        reasons.extend(rule(value));
    }
}

impl Policy {
    fn key_broken(&self, key: Option<&[u8]>) -> Option<String> {
        match (key, self.max_key_bytes) {
            (None, _) => (self.key == Presence::Required).then(|| "it has no key".to_owned()),
            (Some(key), Some(max)) => too_long("the key", key, max),
            (Some(_), None) => None,
        }
    }

    fn value_broken(&self, value: Option<&[u8]>) -> Option<String> {
        match (value, self.max_value_bytes) {
            (None, _) => (self.tombstones == Tombstones::Forbidden).then(|| "it has no value".to_owned()),
            (Some(value), Some(max)) => too_long("the value", value, max),
            (Some(_), None) => None,
        }
    }
}

impl HeaderRule {
    fn broken(&self, value: Option<&[u8]>) -> Option<String> {
        let Self { name, optional, max_bytes, one_of } = self;
        let Some(value) = value else {
            return (!optional).then(|| format!("the header '{name}' is missing"));
        };
        if let Some(max) = max_bytes
            && let Some(broken) = too_long(&format!("the header '{name}'"), value, *max)
        {
            return Some(broken);
        }
        let allowed = one_of.as_ref()?;
        if std::str::from_utf8(value).is_ok_and(|value| allowed.contains(value)) {
            return None;
        }
        let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
        let shown: String = String::from_utf8_lossy(value).chars().take(100).collect();
        Some(format!("the header '{name}' is '{shown}', and not one of {}", allowed.join(", ")))
    }
}

fn too_long(what: &str, value: &[u8], max: usize) -> Option<String> {
    (value.len() > max).then(|| format!("{what} has {} bytes, {max} are allowed", value.len()))
}

tidegate_sdk::export!(ack: Policy);

#[cfg(test)]
mod tests {
    use tidegate_sdk::testkit::{Decided, open_ack, record};

    use super::*;

    #[test]
    fn all_that_is_wrong_with_a_record_is_named() {
        let mut policy = open_ack::<Policy>(
            r#"{ "key": "required", "max_key_bytes": 4, "tombstones": "forbidden", "max_value_bytes": 3,
                 "headers": [ { "name": "owner", "one_of": ["shop"] }, { "name": "trace", "optional": true, "max_bytes": 2 } ] }"#,
        )
        .expect("it opens");
        let good = record().key("k").value("abc").header("owner", "shop");
        assert_eq!(policy.decide(&[good.clone(), good.clone().header("trace", "12")]), Ok(Decided::AsAsked));
        let decided = policy.decide(&[
            good,
            record(),
            record().key("longer").value("abcd").header("owner", "x").header("trace", "123"),
        ]);
        let rejected = vec![
            (1, "it has no key; it has no value; the header 'owner' is missing".to_owned()),
            (
                2,
                "the key has 6 bytes, 4 are allowed; the value has 4 bytes, 3 are allowed; \
                 the header 'owner' is 'x', and not one of shop; the header 'trace' has 3 bytes, 2 are allowed"
                    .to_owned(),
            ),
        ];
        assert_eq!(decided, Ok(Decided::Rejected(rejected)));
    }

    #[test]
    fn a_batch_may_have_so_many_bytes() {
        let mut policy = open_ack::<Policy>(r#"{ "max_batch_bytes": 60 }"#).expect("it opens");
        let words = "the batch has 61 bytes, 60 are allowed".to_owned();
        assert_eq!(policy.decide(&[record()]), Ok(Decided::Refused(Reason::MessageTooLarge, words)));
    }

    #[test]
    fn a_policy_without_rules_is_a_mistake() {
        let refused = |config| open_ack::<Policy>(config).expect_err("it is refused");
        assert_eq!(refused("{}"), "there is no rule in it: every record would be taken");
        assert!(refused(r#"{ "headers": [ { "name": "a" }, { "name": "a" } ] }"#).contains("two rules"));
        assert!(refused(r#"{ "headers": [ { "name": "a", "one_of": [] } ] }"#).contains("could be nothing"));
        assert!(refused(r#"{ "keys": "required" }"#).contains("unknown field `keys`"));
        open_ack::<Policy>(Policy::EXAMPLE).expect("the example opens");
    }
}
