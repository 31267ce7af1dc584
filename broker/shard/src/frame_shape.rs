//! Whether a request that is not decoded yet can be decoded at all: every count and length in it fits the bytes that follow it.
//!
//! The codec reserves memory for as many elements as an array's count says, before it reads the first. A count is four bytes from
//! the network, so one hostile frame would end the process. So a request is walked first, over a table of its fields
//! (`requests`), without allocating: what passes is exactly as large as it says. An element is at least one byte on the wire but
//! may be a hundred in memory, hence [`ELEMENTS_MAX`] too.
//!
//! It only guards: what the values mean is the codec's and the API's. Wire types: <https://kafka.apache.org/protocol#protocol_types>;
//! tagged fields: KIP-482.

use std::fmt;

use kafka_protocol::messages::ApiKey;

mod requests;
#[cfg(test)]
mod tests;

/// Elements of arrays, and unknown tagged fields, that one request may have in all. The largest that a client sends are fetches and
/// commits of some hundred thousand partitions; a codec's struct is about 100 bytes, so this bounds a request at about 100 MB.
pub const ELEMENTS_MAX: usize = 1_000_000;

/// A version that does not exist.
const NEVER: i16 = i16::MAX;

const BOOL: Kind = Kind::Fixed(1);
const INT8: Kind = Kind::Fixed(1);
const INT16: Kind = Kind::Fixed(2);
const INT32: Kind = Kind::Fixed(4);
const INT64: Kind = Kind::Fixed(8);
const UUID: Kind = Kind::Fixed(16);
const STRING: Kind = Kind::String;
const BYTES: Kind = Kind::Bytes;

/// How a value is written.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// So many bytes.
    Fixed(usize),
    /// Length i16, or varint of length + 1 in flexible versions.
    String,
    /// Length i32, or varint of length + 1 in flexible versions.
    Bytes,
    /// Count i32, or varint of count + 1 in flexible versions; then the elements.
    Array(&'static Self),
    /// Its fields; in flexible versions the tagged ones after them.
    Struct(&'static [Field]),
}

/// A field of a request, or of a struct in it.
#[derive(Clone, Copy, Debug)]
struct Field {
    name: &'static str,
    since: i16,
    until: i16,
    nullable_since: i16,
    tag: Option<u32>,
    kind: Kind,
}

const fn field(name: &'static str, kind: Kind) -> Field {
    Field { name, since: 0, until: NEVER, nullable_since: NEVER, tag: None, kind }
}

const fn array(name: &'static str, element: &'static Kind) -> Field {
    field(name, Kind::Array(element))
}

impl Field {
    /// The first version that has it.
    const fn since(self, version: i16) -> Self {
        Self { since: version, ..self }
    }

    /// The last version that has it.
    const fn until(self, version: i16) -> Self {
        Self { until: version, ..self }
    }

    /// The first version in which it may be null.
    const fn nullable(self, version: i16) -> Self {
        Self { nullable_since: version, ..self }
    }

    /// It stands among the tagged fields, under this tag.
    const fn tagged(self, tag: u32) -> Self {
        Self { tag: Some(tag), ..self }
    }

    fn is_in(&self, version: i16) -> bool {
        (self.since..=self.until).contains(&version)
    }
}

/// The requests of one API.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// The first version with varint lengths and tagged fields (KIP-482).
    flexible_since: i16,
    fields: &'static [Field],
}

/// Why a request cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{api:?} v{version}: {field}: {fault}")]
pub struct ShapeError {
    pub api: ApiKey,
    pub version: i16,
    /// Where, from the outside in.
    pub field: FieldPath,
    pub fault: ShapeFault,
}

/// The names of the fields that lead to a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldPath(Vec<&'static str>);

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("the request");
        }
        // Collected from the inside out.
        for (index, name) in self.0.iter().rev().enumerate() {
            let dot = if index == 0 { "" } else { "." };
            write!(f, "{dot}{name}")?;
        }
        Ok(())
    }
}

/// What is wrong with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeFault {
    #[error("the request ends before it does")]
    Truncated,
    #[error("a length of {length} does not fit into the {left} bytes that are left")]
    Length { length: i64, left: usize },
    #[error("{count} elements do not fit into the {left} bytes that are left")]
    Count { count: i64, left: usize },
    #[error("it may not be null")]
    Null,
    #[error("a tagged field says it has {size} bytes, and its value has another number")]
    TaggedSize { size: usize },
    #[error("the request has more than {ELEMENTS_MAX} elements")]
    Elements,
    #[error("there is no table of this request's fields")]
    NoShape,
}

/// Walks the body of a request, which begins after its header, and returns how many bytes of it the request takes.
///
/// # Errors
/// [`ShapeError`]: a length or count that cannot be. `version` must be one that is implemented; others are walked as if it were.
pub fn check(api: ApiKey, version: i16, body: &[u8]) -> Result<usize, ShapeError> {
    let error = |field, fault| ShapeError { api, version, field, fault };
    let Some(shape) = requests::shape(api) else { return Err(error(FieldPath::default(), ShapeFault::NoShape)) };
    let mut walk = Walk { rest: body, version, flexible: version >= shape.flexible_since, elements_left: ELEMENTS_MAX };
    match walk.fields(shape.fields) {
        Ok(()) => Ok(body.len() - walk.rest.len()),
        Err((path, fault)) => Err(error(path, fault)),
    }
}

/// Walks the header of a request of version 1 or 2: its client id, and how many tagged fields there are.
///
/// # Errors
/// [`ShapeFault`].
pub fn check_header(header_version: i16, frame: &[u8]) -> Result<(), ShapeFault> {
    let mut walk = Walk { rest: frame, version: header_version, flexible: false, elements_left: ELEMENTS_MAX };
    // Key, version, correlation id; the client id keeps its i16 length in every version (KIP-482).
    walk.skip(8)?;
    walk.string(true)?;
    if header_version >= 2 { walk.tagged(&[]).map_err(|(_, fault)| fault) } else { Ok(()) }
}

/// The path is collected as the error unwinds, so that the walk itself keeps no track.
type Walked = Result<(), (FieldPath, ShapeFault)>;

fn at_no_field(fault: ShapeFault) -> (FieldPath, ShapeFault) {
    (FieldPath::default(), fault)
}

struct Walk<'a> {
    rest: &'a [u8],
    version: i16,
    flexible: bool,
    elements_left: usize,
}

impl Walk<'_> {
    fn skip(&mut self, bytes: usize) -> Result<(), ShapeFault> {
        self.rest = self.rest.get(bytes..).ok_or(ShapeFault::Truncated)?;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ShapeFault> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(ShapeFault::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// As the codec reads it: five bytes at most, and what they say beyond 32 bits is lost.
    fn varint(&mut self) -> Result<u32, ShapeFault> {
        let mut value = 0_u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.take()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        Ok(value)
    }

    /// -1 for null.
    fn compact(&mut self) -> Result<i64, ShapeFault> {
        Ok(i64::from(self.varint()?) - 1)
    }

    fn bytes(&mut self, length: i64, nullable: bool) -> Result<(), ShapeFault> {
        if length == -1 {
            return if nullable { Ok(()) } else { Err(ShapeFault::Null) };
        }
        let refused = ShapeFault::Length { length, left: self.rest.len() };
        let length = usize::try_from(length).map_err(|_| refused)?;
        self.rest = self.rest.get(length..).ok_or(refused)?;
        Ok(())
    }

    fn string(&mut self, nullable: bool) -> Result<(), ShapeFault> {
        let length = if self.flexible { self.compact()? } else { i64::from(i16::from_be_bytes(self.take()?)) };
        self.bytes(length, nullable)
    }

    fn count(&mut self, count: usize) -> Result<(), ShapeFault> {
        self.elements_left = self.elements_left.checked_sub(count).ok_or(ShapeFault::Elements)?;
        Ok(())
    }

    fn value(&mut self, kind: Kind, nullable: bool) -> Walked {
        match kind {
            Kind::Fixed(bytes) => self.skip(bytes).map_err(at_no_field),
            Kind::String => self.string(nullable).map_err(at_no_field),
            Kind::Bytes => self.blob(nullable).map_err(at_no_field),
            Kind::Array(element) => {
                let count = self.begin_array(nullable).map_err(at_no_field)?;
                (0..count).try_for_each(|_| self.value(*element, false))
            }
            Kind::Struct(fields) => {
                // A struct that may be null begins with a byte: 1 where it is there.
                if nullable && self.take().map_err(at_no_field)? != [1] {
                    return Ok(());
                }
                self.fields(fields)
            }
        }
    }

    fn blob(&mut self, nullable: bool) -> Result<(), ShapeFault> {
        let length = if self.flexible { self.compact()? } else { i64::from(i32::from_be_bytes(self.take()?)) };
        self.bytes(length, nullable)
    }

    fn begin_array(&mut self, nullable: bool) -> Result<usize, ShapeFault> {
        let count = if self.flexible { self.compact()? } else { i64::from(i32::from_be_bytes(self.take()?)) };
        if count == -1 {
            return if nullable { Ok(0) } else { Err(ShapeFault::Null) };
        }
        // Every element is at least a byte: what cannot be is refused before it is walked.
        let left = self.rest.len();
        let elements = usize::try_from(count).ok().filter(|elements| *elements <= left);
        let elements = elements.ok_or(ShapeFault::Count { count, left })?;
        self.count(elements)?;
        Ok(elements)
    }

    fn fields(&mut self, fields: &'static [Field]) -> Walked {
        let version = self.version;
        for field in fields.iter().filter(|field| field.tag.is_none() && field.is_in(version)) {
            self.value(field.kind, version >= field.nullable_since).map_err(|(mut path, fault)| {
                path.0.push(field.name);
                (path, fault)
            })?;
        }
        if self.flexible { self.tagged(fields) } else { Ok(()) }
    }

    fn tagged(&mut self, fields: &'static [Field]) -> Walked {
        let count = self.varint().map_err(at_no_field)?;
        for _ in 0..count {
            let tag = self.varint().map_err(at_no_field)?;
            let size = self.varint().map_err(at_no_field)? as usize;
            let (value, rest) = self
                .rest
                .split_at_checked(size)
                .ok_or_else(|| at_no_field(ShapeFault::Length { length: size as i64, left: self.rest.len() }))?;
            let known = fields.iter().find(|field| field.tag == Some(tag) && field.is_in(self.version));
            let Some(field) = known else {
                // The codec keeps it.
                self.count(1).map_err(at_no_field)?;
                self.rest = rest;
                continue;
            };
            self.rest = value;
            let walked = self.value(field.kind, self.version >= field.nullable_since).and_then(|()| {
                if self.rest.is_empty() { Ok(()) } else { Err(at_no_field(ShapeFault::TaggedSize { size })) }
            });
            walked.map_err(|(mut path, fault)| {
                path.0.push(field.name);
                (path, fault)
            })?;
            self.rest = rest;
        }
        Ok(())
    }
}
