//! A small synchronous client for Kafka's admin APIs, over `kafka-protocol` and plain sockets.
//!
//! It asks any broker of a cluster, and the right one where only that one answers: a partition's leader, a group's coordinator.
//! Records are produced and consumed by librdkafka ([`crate::librdkafka`]); this client is for everything else. Each file is one subject.

mod connection;
pub(crate) mod error;

pub(crate) mod brokers;
pub(crate) mod configs;
pub(crate) mod groups;
pub(crate) mod offsets;
pub(crate) mod topics;

use std::{collections::BTreeMap, thread, time::Duration};

use kafka_protocol::{
    error::ResponseError,
    messages::MetadataRequest,
    protocol::{Request, VersionRange},
};

use connection::Connection;
pub(crate) use connection::api_name;
use error::{ClientError, check};

/// How large an answer may be. Kafka's own limit for requests, `socket.request.max.bytes`.
pub(crate) const RESPONSE_BYTES_MAX: u64 = 100 << 20;
/// What requests that change something give the broker for it.
const CHANGE_TIMEOUT_MS: i32 = 30_000;
/// How often, and with which pauses, is asked again what a cluster that has just started cannot answer yet.
const TRIES_MAX: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Broker {
    pub(crate) id: i32,
    pub(crate) host: String,
    pub(crate) port: i32,
    pub(crate) rack: Option<String>,
}

impl Broker {
    pub(crate) fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// A cluster, reached through its bootstrap brokers.
#[derive(Debug)]
pub(crate) struct Cluster {
    first: Connection,
    connections: BTreeMap<i32, Connection>,
    brokers: BTreeMap<i32, Broker>,
    controller: i32,
    cluster_id: Option<String>,
}

impl Cluster {
    /// Connects to the first of `bootstrap` (`HOST:PORT`, separated by commas) that answers.
    ///
    /// # Errors
    /// The last one's error, where none answers.
    pub(crate) fn connect(bootstrap: &str) -> Result<Self, ClientError> {
        let mut result = Err(ClientError::Address { address: bootstrap.to_owned() });
        for address in bootstrap.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            result = Connection::open(address);
            if result.is_ok() {
                break;
            }
        }
        let mut cluster = Self {
            first: result?,
            connections: BTreeMap::new(),
            brokers: BTreeMap::new(),
            controller: -1,
            cluster_id: None,
        };
        cluster.refresh()?;
        Ok(cluster)
    }

    pub(crate) fn brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values()
    }

    pub(crate) fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    pub(crate) fn controller(&self) -> i32 {
        self.controller
    }

    /// What the broker that answered first offers.
    pub(crate) fn offered(&self) -> &BTreeMap<i16, VersionRange> {
        self.first.offered()
    }

    fn refresh(&mut self) -> Result<(), ClientError> {
        // An empty list asks for no topics from version 1 on; every broker that this client can talk to has that.
        let request = MetadataRequest::default().with_topics(Some(Vec::new())).with_allow_auto_topic_creation(false);
        let answer = self.first.call(&request)?;
        check("cannot see the cluster", answer.error_code, None)?;
        self.controller = answer.controller_id.0;
        self.cluster_id = answer.cluster_id.map(|id| id.to_string());
        self.brokers = answer
            .brokers
            .into_iter()
            .map(|broker| {
                let rack = broker.rack.map(|rack| rack.to_string());
                (
                    broker.node_id.0,
                    Broker { id: broker.node_id.0, host: broker.host.to_string(), port: broker.port, rack },
                )
            })
            .collect();
        Ok(())
    }

    /// Any broker.
    fn any(&mut self) -> &mut Connection {
        &mut self.first
    }

    /// The one that changes metadata; where there is no single one, any.
    fn controlling(&mut self) -> Result<&mut Connection, ClientError> {
        let controller = self.controller;
        if self.brokers.contains_key(&controller) { self.broker(controller) } else { Ok(&mut self.first) }
    }

    /// That broker, at the address that it advertises.
    fn broker(&mut self, id: i32) -> Result<&mut Connection, ClientError> {
        use std::collections::btree_map::Entry;
        match self.connections.entry(id) {
            Entry::Occupied(found) => Ok(found.into_mut()),
            Entry::Vacant(free) => {
                let broker = self.brokers.get(&id).ok_or(ClientError::NoSuchBroker { broker: id })?;
                let address = broker.address();
                let connection = Connection::open(&address).map_err(|source| ClientError::Advertised {
                    broker: id,
                    address,
                    source: Box::new(source),
                })?;
                Ok(free.insert(connection))
            }
        }
    }

    fn supports<R: Request>(&self) -> bool {
        self.first.offers::<R>()
    }
}

/// Asks again while the cluster is not ready for it yet: internal topics that are being created, leaders that are being chosen.
fn patiently<T>(mut ask: impl FnMut() -> Result<T, ClientError>) -> Result<T, ClientError> {
    let mut tries = 1;
    loop {
        match ask() {
            Err(error) if tries < TRIES_MAX && is_passing(error.code()) => {
                tries += 1;
                thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

fn is_passing(code: Option<ResponseError>) -> bool {
    matches!(
        code,
        Some(
            ResponseError::CoordinatorNotAvailable
                | ResponseError::CoordinatorLoadInProgress
                | ResponseError::LeaderNotAvailable
                | ResponseError::NotCoordinator
                | ResponseError::NotLeaderOrFollower
        )
    )
}
