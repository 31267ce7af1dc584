//! Pieces of configuration that many plugins have, each with what it becomes when the plugin is opened.
//!
//! They read the same in every plugin that uses them:
//!
//! ```
//! use tidegate_sdk::{Batch, Error, Failure, Router, Routes, Setup, Topic, config};
//!
//! #[derive(serde::Deserialize)]
//! struct Config {
//!     #[serde(default)]
//!     source: config::Source,
//!     audit: String,
//!     #[serde(default)]
//!     unmatched: config::Unmatched,
//! }
//!
//! struct Audited {
//!     source: config::Reader,
//!     audit: Topic,
//!     unmatched: config::Unrouted,
//! }
//!
//! impl Router for Audited {
//!     type Config = Config;
//!
//!     fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
//!         Ok(Self {
//!             source: config.source.open(setup)?,
//!             audit: setup.topic(&config.audit)?,
//!             unmatched: config.unmatched.open(setup)?,
//!         })
//!     }
//!
//!     fn route(&mut self, batch: &Batch, routes: &mut Routes) -> Result<(), Failure> {
//!         self.source.for_each(batch, |text| match text {
//!             Some(text) if text.starts_with(b"audit.") => routes.to(self.audit),
//!             _ => self.unmatched.route(routes, || "it is not to be audited".to_owned()),
//!         });
//!         Ok(())
//!     }
//! }
//! # let _ = tidegate_sdk::testkit::open_router::<Audited>(r#"{ "source": { "header": "kind" }, "audit": "log" }"#)?;
//! # Ok::<(), String>(())
//! ```

use std::borrow::Cow;

use serde::Deserialize;

use crate::{
    Batch, Context, Error, Header, Placement, Random, Routes, Setup, Topic,
    json::{Fields, Value},
};

/// What of a record a plugin decides by.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// `{ "key": true }`: the key of the record.
    Key(bool),
    /// `{ "header": "name" }`: the last value of a header.
    Header(String),
    /// `{ "json": "a.b" }`: a text, number or truth value in the JSON object that is the record's value; dots go deeper.
    Json(String),
}

impl Default for Source {
    fn default() -> Self {
        Self::Key(true)
    }
}

impl Source {
    /// Asks for the column that it needs.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(&self, setup: &mut Setup) -> Result<Reader, Error> {
        match self {
            Self::Key(true) => {
                setup.read_keys();
                Ok(Reader::Key)
            }
            Self::Key(false) => Err("`source` says `\"key\": false`; leave it out, or name a header or a field".into()),
            Self::Header(name) if name.is_empty() => Err("the header that `source` names is empty".into()),
            Self::Header(name) => Ok(Reader::Header(setup.read_header(name))),
            Self::Json(path) => {
                let fields = Fields::new([path.as_str()]).map_err(|error| format!("`source`: {error}"))?;
                setup.read_values();
                Ok(Reader::Json(fields))
            }
        }
    }
}

/// Reads what a [`Source`] names.
#[derive(Clone, Debug)]
pub enum Reader {
    Key,
    Header(Header),
    Json(Fields),
}

impl Reader {
    /// Calls `with` for each record, in order: `None` where it has no such key, header or field.
    #[inline]
    pub fn for_each(&self, batch: &Batch, mut with: impl FnMut(Option<&[u8]>)) {
        match self {
            Self::Key => batch.keys().iter().for_each(with),
            Self::Header(header) => batch.header(*header).iter().for_each(with),
            Self::Json(fields) => {
                let mut found = Vec::with_capacity(1);
                for value in batch.values() {
                    let text = value.filter(|value| fields.read(value, &mut found)).and_then(|_| found[0].take());
                    with(text.and_then(Value::into_text).as_deref().map(str::as_bytes));
                }
            }
        }
    }
}

/// What happens to a record that nothing in the configuration matches.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Unmatched {
    /// It goes nowhere, as in RabbitMQ without an alternate exchange.
    Drop,
    /// It stays in the topic that it was sent to.
    #[default]
    Keep,
    /// `{ "topic": "x" }`: it goes there, as to RabbitMQ's alternate exchange.
    Topic(String),
    /// Its producer gets an error, as with RabbitMQ's `mandatory`.
    Reject,
}

impl Unmatched {
    /// # Errors
    /// Where no topic can have the name.
    pub fn open(&self, setup: &mut Setup) -> Result<Unrouted, Error> {
        Ok(match self {
            Self::Drop => Unrouted::Discard,
            Self::Keep => Unrouted::To(Topic::SENT_TO),
            Self::Topic(name) => Unrouted::To(setup.topic(name)?),
            Self::Reject => Unrouted::Reject,
        })
    }
}

/// An [`Unmatched`] that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrouted {
    Discard,
    To(Topic),
    Reject,
}

impl Unrouted {
    /// Answers for a record. `reason` is what its producer reads if it is rejected.
    #[inline]
    pub fn route(self, routes: &mut Routes, reason: impl FnOnce() -> String) {
        match self {
            Self::Discard => routes.discard(),
            Self::To(topic) => routes.to(topic),
            Self::Reject => routes.reject(reason()),
        }
    }

    /// Ends the answer for a record whose topics were [added](Routes::add): only where there is none does this decide.
    #[inline]
    pub fn done(self, routes: &mut Routes, reason: impl FnOnce() -> String) {
        if routes.added() == 0 { self.route(routes, reason) } else { routes.done() }
    }
}

/// Which partition records without a key go to. All ways begin with the seed of the batch, so that a retried batch is placed
/// the same.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Keyless {
    /// Those of one batch together, each batch elsewhere: larger batches on the disk.
    #[default]
    Sticky,
    /// One after another over all partitions.
    RoundRobin,
    /// Each anywhere.
    Random,
}

impl Keyless {
    /// Begins a run of records that came in one batch.
    #[must_use]
    pub fn begin(self, context: Context<'_>, partitions: u32) -> KeylessPlaces {
        let mut random = context.random();
        let next = random.below(partitions);
        KeylessPlaces { how: self, random, next, partitions }
    }

    /// Answers for every record of a batch: `of_key` chooses the partition of a key, and this that of records without one. `of_key` is
    /// called for them too, with an empty key: asking each record whether it has one would cost as much as a short hash.
    ///
    /// # Panics
    /// Without [`Setup::read_keys`], or after other answers for the same batch.
    #[inline]
    pub fn place(self, batch: &Batch, placement: &mut Placement, mut of_key: impl FnMut(&[u8]) -> u32) {
        let places = placement.next(batch.len());
        for (place, key) in places.iter_mut().zip(batch.keys().or_empty()) {
            *place = of_key(key);
        }
        if !batch.keys().is_whole() {
            self.place_keyless(batch, places);
        }
    }

    /// Apart from the loop above, which is faster alone.
    fn place_keyless(self, batch: &Batch, places: &mut [u32]) {
        for run in batch.runs() {
            let mut keyless = self.begin(run.context, batch.topic_partitions());
            for (place, key) in places[run.records.clone()].iter_mut().zip(batch.keys().range(run.records)) {
                if key.is_none() {
                    *place = keyless.place();
                }
            }
        }
    }
}

/// The partitions of the keyless records of one batch.
#[derive(Clone, Debug)]
pub struct KeylessPlaces {
    how: Keyless,
    random: Random,
    next: u32,
    partitions: u32,
}

impl KeylessPlaces {
    /// The partition of the next record without a key; there is no end.
    #[inline]
    pub fn place(&mut self) -> u32 {
        let place = self.next;
        match self.how {
            Keyless::Sticky => {}
            Keyless::RoundRobin => self.next = (place + 1) % self.partitions,
            Keyless::Random => self.next = self.random.below(self.partitions),
        }
        place
    }
}

/// Bytes of a record as they are shown in an error: text, and not too much of it.
#[must_use]
pub fn shown(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&bytes[..bytes.len().min(100)])
}
