//! A few fields out of a JSON value, in one pass and without building the rest of it.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

/// Fields that are looked for, each by its path: `a.b` is the field `b` of the object in the field `a`.
#[derive(Clone, Debug)]
pub struct Fields {
    /// Node 0 is the value itself.
    nodes: Vec<Node>,
    count: usize,
}

/// Where the paths are after some names.
#[derive(Clone, Debug, Default)]
struct Node {
    names: Vec<(Box<str>, usize)>,
    /// The path that ends here.
    field: Option<usize>,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    Null,
    Truth(bool),
    Number(Number),
    Text(Cow<'a, str>),
    /// An array or an object.
    Nested,
}

impl<'a> Value<'a> {
    /// A text as it is, a number or truth value as JSON writes it; nothing of null, an array or an object.
    #[must_use]
    pub fn into_text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Null | Self::Nested => None,
            Self::Truth(truth) => Some(if truth { "true" } else { "false" }.into()),
            Self::Number(number) => Some(number.to_string().into()),
            Self::Text(text) => Some(text),
        }
    }
}

impl Fields {
    /// # Errors
    /// A path with an empty name in it.
    pub fn new<'p>(paths: impl IntoIterator<Item = &'p str>) -> Result<Self, String> {
        let mut fields = Self { nodes: vec![Node::default()], count: 0 };
        for path in paths {
            if path.split('.').any(str::is_empty) {
                return Err(format!("the field '{path}' cannot be found: a name in it is empty"));
            }
            fields.add(path);
        }
        Ok(fields)
    }

    /// A path that is there already is found at its first position.
    fn add(&mut self, path: &str) {
        let mut at = 0;
        for name in path.split('.') {
            at = match self.nodes[at].names.iter().find(|(known, _)| **known == *name) {
                Some((_, next)) => *next,
                None => {
                    let next = self.nodes.len();
                    self.nodes.push(Node::default());
                    self.nodes[at].names.push((name.into(), next));
                    next
                }
            };
        }
        if self.nodes[at].field.is_none() {
            self.nodes[at].field = Some(self.count);
        }
        self.count += 1;
    }

    /// Puts what the fields hold into `found`, in the order of their paths; `None` where a field is not there. The first one
    /// counts where a name occurs twice. Says whether `json` is a JSON value; if not, nothing is found.
    pub fn read<'a>(&self, json: &'a [u8], found: &mut Vec<Option<Value<'a>>>) -> bool {
        found.clear();
        found.resize(self.count, None);
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let whole = At { fields: self, node: 0, found }.deserialize(&mut deserializer).is_ok();
        // What follows has to be blank: half a value is no value.
        let whole = whole && deserializer.end().is_ok();
        if !whole {
            found.fill(None);
        }
        whole
    }
}

/// Reads the value at a node.
struct At<'f, 'o, 'de> {
    fields: &'f Fields,
    node: usize,
    found: &'o mut Vec<Option<Value<'de>>>,
}

impl<'de> At<'_, '_, 'de> {
    fn is(self, value: Value<'de>) {
        if let Some(field) = self.fields.nodes[self.node].field {
            self.found[field] = Some(value);
        }
    }
}

impl<'de> DeserializeSeed<'de> for At<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { fields, node, found } = self;
        let mut seen = 0_u64;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            match fields.nodes[node].names.iter().position(|(known, _)| **known == *name) {
                // Beyond 64 names at one place the last of two equal ones counts.
                Some(index) if index >= 64 || seen & (1 << index) == 0 => {
                    seen |= 1_u64.checked_shl(index as u32).unwrap_or(0);
                    let next = fields.nodes[node].names[index].1;
                    map.next_value_seed(At { fields, node: next, found: &mut *found })?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        At { fields, node, found }.is(Value::Nested);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        self.is(Value::Nested);
        Ok(())
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<(), E> {
        self.is(Value::Text(text.into()));
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.is(Value::Text(text.to_owned().into()));
        Ok(())
    }

    fn visit_bool<E>(self, truth: bool) -> Result<(), E> {
        self.is(Value::Truth(truth));
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.is(Value::Number(number.into()));
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.is(Value::Number(number.into()));
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        // JSON has no infinity and no NaN.
        self.is(Number::from_f64(number).map_or(Value::Null, Value::Number));
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.is(Value::Null);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(paths: &[&str], json: &str) -> (bool, Vec<Option<String>>) {
        let fields = Fields::new(paths.iter().copied()).expect("the paths are good");
        let mut found = Vec::new();
        let whole = fields.read(json.as_bytes(), &mut found);
        let text = |value: Value<'_>| match value {
            Value::Null => "null".to_owned(),
            Value::Nested => "nested".to_owned(),
            other => other.into_text().expect("only null and nested have no text").into_owned(),
        };
        (whole, found.into_iter().map(|value| value.map(text)).collect())
    }

    #[track_caller]
    fn check(paths: &[&str], json: &str, expected: &[Option<&str>]) {
        assert_eq!(read(paths, json), (true, expected.iter().map(|text| text.map(str::to_owned)).collect::<Vec<_>>()));
    }

    #[test]
    fn fields_are_found_in_one_pass_in_any_order() {
        let json =
            r#"{ "z": [1, { "a": 1 }], "b": { "c": "deep", "d": null }, "a": 1.5, "t": true, "\u0065": "escaped\n" }"#;
        check(
            &["a", "b.c", "b.d", "t", "e"],
            json,
            &[Some("1.5"), Some("deep"), Some("null"), Some("true"), Some("escaped\n")],
        );
        check(&["z", "b", "z.a", "x", "b.c.d"], json, &[Some("nested"), Some("nested"), None, None, None]);
        check(&["b", "b.c"], json, &[Some("nested"), Some("deep")]);
    }

    #[test]
    fn the_first_of_two_equal_names_counts() {
        check(&["a"], r#"{ "a": 1, "a": 2 }"#, &[Some("1")]);
    }

    #[test]
    fn large_numbers_keep_their_digits() {
        check(&["a"], r#"{ "a": 18446744073709551615 }"#, &[Some("18446744073709551615")]);
        check(&["a"], r#"{ "a": -9223372036854775808 }"#, &[Some("-9223372036854775808")]);
    }

    #[test]
    fn half_a_value_is_no_value() {
        for json in [r#"{ "a": 1 "#, r#"{ "a": 1 } 2"#, "", "{a:1}"] {
            assert_eq!(read(&["a"], json), (false, vec![None]), "{json}");
        }
        check(&["a"], "7", &[None]);
    }

    #[test]
    fn an_empty_name_is_refused() {
        assert!(Fields::new(["a..b"]).is_err());
        assert!(Fields::new([""]).is_err());
    }
}
