//! How a record is printed: as text, as JSON, or by a pattern in kcat's spelling.

use std::io::{self, Write};

use base64::Engine as _;
use rdkafka::message::{Headers as _, Message};
use serde_json::{Value, json};

/// The forms of a record on output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RecordFormat {
    /// The value on a line; with a separator, the key before it.
    Text {
        key_separator: Option<Vec<u8>>,
    },
    /// One JSON object a line.
    Json,
    Pattern(Vec<Piece>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Literal(Vec<u8>),
    Key,
    KeyLength,
    Value,
    ValueLength,
    Topic,
    Partition,
    Offset,
    Timestamp,
    Headers,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("unknown format {0:?}: use json, text, or a pattern such as '%k %v\\n'")]
    NoPattern(String),
    #[error(
        "%{0} means nothing in a pattern: use %k %v %t %p %o %T %h, %K and %S for lengths, and %% for a percent sign"
    )]
    UnknownPlaceholder(char),
    #[error("a pattern ends in a single %; write %% for a percent sign")]
    LonePercent,
    #[error(transparent)]
    Escape(#[from] EscapeError),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EscapeError {
    #[error("\\{0} is no escape: use \\n \\r \\t \\0 \\\\ or \\xFF")]
    Unknown(char),
    #[error("\\x wants two hexadecimal digits after it")]
    Hex,
    #[error("a \\ stands at the end; write \\\\ for a backslash")]
    Lone,
}

impl RecordFormat {
    pub(crate) fn parse(text: &str, key_separator: Option<Vec<u8>>) -> Result<Self, FormatError> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text { key_separator }),
            pattern if pattern.contains('%') => Ok(Self::Pattern(pieces(pattern)?)),
            other => Err(FormatError::NoPattern(other.to_owned())),
        }
    }

    pub(crate) fn write(&self, out: &mut dyn Write, record: &impl Message) -> io::Result<()> {
        match self {
            Self::Text { key_separator } => {
                if let Some(separator) = key_separator {
                    out.write_all(record.key().unwrap_or_default())?;
                    out.write_all(separator)?;
                }
                out.write_all(record.payload().unwrap_or_default())?;
                out.write_all(b"\n")
            }
            Self::Json => {
                serde_json::to_writer(&mut *out, &to_json(record))?;
                out.write_all(b"\n")
            }
            Self::Pattern(pieces) => pieces.iter().try_for_each(|piece| piece.write(out, record)),
        }
    }
}

impl Piece {
    fn write(&self, out: &mut dyn Write, record: &impl Message) -> io::Result<()> {
        match self {
            Self::Literal(bytes) => out.write_all(bytes),
            Self::Key => out.write_all(record.key().unwrap_or_default()),
            Self::Value => out.write_all(record.payload().unwrap_or_default()),
            // As kcat: -1 tells a record without one from one that is empty.
            Self::KeyLength => write!(out, "{}", length(record.key())),
            Self::ValueLength => write!(out, "{}", length(record.payload())),
            Self::Topic => out.write_all(record.topic().as_bytes()),
            Self::Partition => write!(out, "{}", record.partition()),
            Self::Offset => write!(out, "{}", record.offset()),
            Self::Timestamp => write!(out, "{}", record.timestamp().to_millis().unwrap_or(-1)),
            Self::Headers => {
                for (index, header) in record.headers().into_iter().flat_map(|headers| headers.iter()).enumerate() {
                    if index > 0 {
                        out.write_all(b",")?;
                    }
                    out.write_all(header.key.as_bytes())?;
                    out.write_all(b"=")?;
                    out.write_all(header.value.unwrap_or_default())?;
                }
                Ok(())
            }
        }
    }
}

fn length(bytes: Option<&[u8]>) -> i64 {
    bytes.map_or(-1, |bytes| bytes.len() as i64)
}

fn to_json(record: &impl Message) -> Value {
    let headers: Vec<Value> = record
        .headers()
        .into_iter()
        .flat_map(|headers| headers.iter())
        .map(|header| json!({ "key": header.key, "value": text(header.value) }))
        .collect();
    json!({
        "topic": record.topic(),
        "partition": record.partition(),
        "offset": record.offset(),
        "timestamp": record.timestamp().to_millis(),
        "key": text(record.key()),
        "value": text(record.payload()),
        "headers": headers,
    })
}

/// A string where the bytes are UTF-8, else `{"base64": "..."}`, which `produce --format json` takes back.
pub(crate) fn text(bytes: Option<&[u8]>) -> Value {
    match bytes {
        None => Value::Null,
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => json!({ "base64": base64::engine::general_purpose::STANDARD.encode(bytes) }),
        },
    }
}

fn pieces(pattern: &str) -> Result<Vec<Piece>, FormatError> {
    let mut pieces = Vec::new();
    let mut rest = pattern;
    while !rest.is_empty() {
        let end = rest.find('%').unwrap_or(rest.len());
        let (literal, after) = rest.split_at(end);
        push_literal(&mut pieces, unescape(literal)?);
        let mut letters = after.chars();
        if letters.next().is_none() {
            break;
        }
        let piece = match letters.next().ok_or(FormatError::LonePercent)? {
            'k' => Piece::Key,
            'K' => Piece::KeyLength,
            'v' | 's' => Piece::Value,
            'S' => Piece::ValueLength,
            't' => Piece::Topic,
            'p' => Piece::Partition,
            'o' => Piece::Offset,
            'T' => Piece::Timestamp,
            'h' => Piece::Headers,
            '%' => Piece::Literal(b"%".to_vec()),
            other => return Err(FormatError::UnknownPlaceholder(other)),
        };
        match piece {
            Piece::Literal(bytes) => push_literal(&mut pieces, bytes),
            other => pieces.push(other),
        }
        rest = letters.as_str();
    }
    Ok(pieces)
}

fn push_literal(pieces: &mut Vec<Piece>, bytes: Vec<u8>) {
    if let Some(Piece::Literal(last)) = pieces.last_mut() {
        last.extend(bytes);
    } else if !bytes.is_empty() {
        pieces.push(Piece::Literal(bytes));
    }
}

/// Bytes as a shell cannot easily write them: `\t`, `\n`, `\x01`.
pub(crate) fn unescape(text: &str) -> Result<Vec<u8>, EscapeError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            bytes.extend(letter.encode_utf8(&mut [0; 4]).bytes());
            continue;
        }
        bytes.push(match letters.next().ok_or(EscapeError::Lone)? {
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            '0' => 0,
            '\\' => b'\\',
            'x' => {
                let mut digit = || letters.next().and_then(|letter| letter.to_digit(16)).ok_or(EscapeError::Hex);
                (digit()? * 16 + digit()?) as u8
            }
            other => return Err(EscapeError::Unknown(other)),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rdkafka::{
        Timestamp,
        message::{Header, OwnedHeaders, OwnedMessage},
    };

    use super::*;

    fn record(key: Option<&[u8]>, value: Option<&[u8]>) -> OwnedMessage {
        let headers = OwnedHeaders::new()
            .insert(Header { key: "a", value: Some("1") })
            .insert(Header::<&[u8]> { key: "b", value: None });
        let (key, value) = (key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec));
        OwnedMessage::new(value, key, "orders".into(), Timestamp::CreateTime(1234), 3, 42, Some(headers))
    }

    fn printed(format: &str, separator: Option<&str>, record: &OwnedMessage) -> String {
        let separator = separator.map(|text| unescape(text).unwrap());
        let mut out = Vec::new();
        RecordFormat::parse(format, separator).unwrap().write(&mut out, record).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_format_prints_a_record() {
        let check = |format, separator, expected: &str| {
            assert_eq!(printed(format, separator, &record(Some(b"k"), Some(b"v"))), expected, "{format}");
        };
        check("text", None, "v\n");
        check("text", Some("\\t"), "k\tv\n");
        check("%k=%v\\n", None, "k=v\n");
        check("%t/%p@%o %T [%h] %K %S 100%%\\x21", None, "orders/3@42 1234 [a=1,b=] 1 1 100%!");
        check("%s", None, "v");
        check(
            "json",
            None,
            "{\"headers\":[{\"key\":\"a\",\"value\":\"1\"},{\"key\":\"b\",\"value\":null}],\"key\":\"k\",\"offset\":42,\"partition\":3,\
             \"timestamp\":1234,\"topic\":\"orders\",\"value\":\"v\"}\n",
        );
    }

    #[test]
    fn what_is_missing_is_told_from_what_is_empty() {
        assert_eq!(printed("%K,%S", None, &record(None, Some(b""))), "-1,0");
        assert!(printed("json", None, &record(None, Some(b""))).contains("\"key\":null"));
        assert!(printed("json", None, &record(None, Some(b"\xff"))).contains("{\"base64\":\"/w==\"}"));
    }

    #[test]
    fn wrong_formats_are_refused() {
        let check = |format, expected| assert_eq!(RecordFormat::parse(format, None), Err(expected), "{format}");
        check("xml", FormatError::NoPattern("xml".into()));
        check("%k%", FormatError::LonePercent);
        check("%y", FormatError::UnknownPlaceholder('y'));
        check("%k\\q", FormatError::Escape(EscapeError::Unknown('q')));
        check("%k\\x1", FormatError::Escape(EscapeError::Hex));
        check("%k\\", FormatError::Escape(EscapeError::Lone));
    }

    proptest! {
        #[test]
        fn no_pattern_panics(pattern in ".{0,40}") {
            let _ = RecordFormat::parse(&pattern, None);
            let _ = unescape(&pattern);
        }

        #[test]
        fn text_without_backslashes_stands_for_itself(text in "[^\\\\]{0,40}") {
            prop_assert_eq!(unescape(&text).unwrap(), text.as_bytes());
        }
    }
}
