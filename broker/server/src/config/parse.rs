//! A TOML text as a list of keys and values with their lines. `a.b = 1`, `[a]` with `b = 1` and `"a.b" = 1` are the same key.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A value as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// From the command line, where nothing says which it is.
    Unquoted(String),
    /// An array, a date, or a number that is too large; with what it is called.
    Other(&'static str),
}

pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: Value,
    /// From 1.
    pub(super) line: usize,
}

/// All keys of `text`, in the order in which they stand there; else the line and the words of what is wrong.
pub(super) fn entries(text: &str) -> Result<Vec<Entry>, (usize, String)> {
    let table = DeTable::parse(text).map_err(|error| {
        let position = error.span().map_or(0, |span| span.start);
        (line_of(text.as_bytes(), position), error.message().to_owned())
    })?;
    let mut entries = Vec::new();
    flatten(text, "", table.get_ref(), &mut entries);
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

fn flatten(text: &str, prefix: &str, table: &DeTable<'_>, entries: &mut Vec<Entry>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        if let DeValue::Table(inner) = value.get_ref() {
            flatten(text, &name, inner, entries);
        } else {
            entries.push(Entry { key: name, value: read(value), line: line_of(text.as_bytes(), key.span().start) });
        }
    }
}

fn read(value: &Spanned<DeValue<'_>>) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("a number that is too large"),
        },
        DeValue::Float(number) => number.as_str().parse().map_or(Value::Other("a number"), Value::Float),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(_) => Value::Other("a list"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}

/// The line of a byte, from 1.
pub(super) fn line_of(text: &[u8], position: usize) -> usize {
    text.iter().take(position).filter(|byte| **byte == b'\n').count() + 1
}
