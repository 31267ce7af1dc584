//! What a plugin asks for when it is opened.

use crate::{
    Error, Topic,
    bindings::base::tidegate::plugin::{metrics::Kind, types},
    host,
};

/// Given to `open`: here the plugin says what it wants to see, which topics it writes to and what it measures.
#[derive(Debug)]
pub struct Setup {
    pub(crate) columns: types::Columns,
    pub(crate) facts: types::Facts,
    pub(crate) headers: Vec<String>,
}

/// A header that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header(pub(crate) usize);

impl Setup {
    pub(crate) fn new() -> Self {
        Self { columns: types::Columns::empty(), facts: types::Facts::empty(), headers: Vec::new() }
    }

    /// Asks for [`Batch::keys`](crate::Batch::keys).
    pub fn read_keys(&mut self) {
        self.columns |= types::Columns::KEYS;
    }

    /// Asks for [`Batch::values`](crate::Batch::values). They are copied into the plugin: ask only for what is read.
    pub fn read_values(&mut self) {
        self.columns |= types::Columns::VALUES;
    }

    /// Asks for [`Batch::timestamps`](crate::Batch::timestamps).
    pub fn read_timestamps(&mut self) {
        self.columns |= types::Columns::TIMESTAMPS;
    }

    /// Asks for a header, which [`Batch::header`](crate::Batch::header) then gives.
    pub fn read_header(&mut self, name: &str) -> Header {
        let index = self.headers.iter().position(|known| known == name).unwrap_or_else(|| {
            self.headers.push(name.to_owned());
            self.headers.len() - 1
        });
        Header(index)
    }

    /// Asks for [`Context::principal`](crate::Context::principal).
    pub fn read_principal(&mut self) {
        self.facts |= types::Facts::PRINCIPAL;
    }

    /// Asks for [`Context::client_id`](crate::Context::client_id).
    pub fn read_client_id(&mut self) {
        self.facts |= types::Facts::CLIENT_ID;
    }

    /// A topic to route to; for routers only. Naming it here lets the broker check that it exists when the plugin is attached.
    ///
    /// # Errors
    /// Where no topic can have that name.
    pub fn topic(&mut self, name: &str) -> Result<Topic, Error> {
        Ok(host::resolve(name).map(Topic)?)
    }

    /// A number that only grows, in the broker's metrics. Counting costs a call into the broker: count by batch.
    ///
    /// # Errors
    /// Where the name is not one of a metric, or there are too many.
    pub fn counter(&mut self, name: &str, labels: &[(&str, &str)]) -> Result<Counter, Error> {
        Ok(host::declare(name, Kind::Counter, labels).map(Counter)?)
    }

    /// A number that goes up and down.
    ///
    /// # Errors
    /// As [`Setup::counter`].
    pub fn gauge(&mut self, name: &str, labels: &[(&str, &str)]) -> Result<Gauge, Error> {
        Ok(host::declare(name, Kind::Gauge, labels).map(Gauge)?)
    }

    /// How often which values were seen.
    ///
    /// # Errors
    /// As [`Setup::counter`].
    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)]) -> Result<Histogram, Error> {
        Ok(host::declare(name, Kind::Histogram, labels).map(Histogram)?)
    }
}

/// See [`Setup::counter`].
#[derive(Clone, Copy, Debug)]
pub struct Counter(u32);

impl Counter {
    pub fn add(self, by: u64) {
        host::add(self.0, by);
    }
}

/// See [`Setup::gauge`].
#[derive(Clone, Copy, Debug)]
pub struct Gauge(u32);

impl Gauge {
    pub fn set(self, to: f64) {
        host::set(self.0, to);
    }
}

/// See [`Setup::histogram`].
#[derive(Clone, Copy, Debug)]
pub struct Histogram(u32);

impl Histogram {
    pub fn observe(self, value: f64) {
        host::observe(self.0, value);
    }
}
