//! Letters between threads: what shards ask one another, new connections, metadata, the call to stop.
//!
//! A hop costs about 100 us when idle and next to nothing when busy, so letters are gathered while a shard works and sent
//! together when it is done. Channels are unbounded on purpose: what may be in them is bounded at the sockets, and a bounded
//! one can deadlock when all shards send first.

use std::{collections::BTreeSet, net::SocketAddr, os::fd::OwnedFd, sync::Arc};

use bytes::Bytes;
use tidegate_model::metadata::MetadataImage;
use tidegate_records::ids::{ShardId, TopicPartition};
use tidegate_shard::{
    RequestId,
    message::{Ask, Origin, Reply},
};

use crate::{control::plugins::LoadedPlugin, readers::Readers};

/// One thing for a shard to take in.
pub enum Letter {
    /// Another shard asks.
    Asked { origin: Origin, ask: Ask },
    /// A shard or the control plane answers.
    Replied { request: RequestId, reply: Reply },
    /// A connection to serve from now on.
    Connection(NewConnection),
    /// Committed metadata; `taken` is called once the shard answers from it.
    Metadata { image: Arc<MetadataImage>, taken: Box<dyn FnOnce() + Send> },
    /// A plugin, or another version of one, is ready; before the metadata that name it.
    Plugin(LoadedPlugin),
    /// Partitions of any shard that damage keeps offline.
    Offline(Arc<BTreeSet<TopicPartition>>),
    /// Who reads topics with a retention plugin.
    Readers(Arc<Readers>),
    /// Finish what is under way, sync, and end.
    Stop,
}

/// A connection on its way to a shard.
pub struct NewConnection {
    pub socket: OwnedFd,
    pub peer: SocketAddr,
    /// Bytes that another shard has received but not taken apart.
    pub received: Bytes,
    /// Whether it was accepted just now, and not served by another shard before.
    pub is_new: bool,
}

/// The letter boxes of all shards. Cheap to clone.
#[derive(Clone)]
pub struct Mailboxes {
    senders: Arc<[async_channel::Sender<Vec<Letter>>]>,
}

/// A shard's own letter box.
pub type Mailbox = async_channel::Receiver<Vec<Letter>>;

impl Mailboxes {
    /// A letter box for each of `shards` shards.
    #[must_use]
    pub fn new(shards: u16) -> (Self, Vec<Mailbox>) {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..shards).map(|_| async_channel::unbounded()).unzip();
        (Self { senders: senders.into() }, receivers)
    }

    /// Sends letters to a shard. One that has ended takes none: its letters are dropped with it.
    pub fn send(&self, to: ShardId, letters: Vec<Letter>) {
        if let Some(sender) = self.senders.get(usize::from(to.0)) {
            let _ = sender.try_send(letters);
        }
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.senders.len() as u16
    }
}
