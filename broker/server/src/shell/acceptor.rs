//! Accepts Kafka connections and hands them to the shards in turn.
//!
//! One sleeping thread instead of a listener for each shard: the kernel spreads connections over `SO_REUSEPORT` listeners by a hash
//! of their addresses, which leaves shards idle when there are few; and a second broker could share the port unnoticed.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use tidegate_records::ids::ShardId;

use super::mailbox::{Letter, Mailboxes, NewConnection};

/// The accepting thread; stopped by [`Acceptor::stop`].
pub struct Acceptor {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Counts open connections over all shards.
pub type OpenConnections = Arc<AtomicUsize>;

impl Acceptor {
    /// Starts to accept on a bound listener. Connections over `connections_max` (`max.connections`) are closed at once.
    ///
    /// # Errors
    /// The listener has no address, or no thread could be made.
    pub fn start(
        listener: TcpListener,
        mailboxes: Mailboxes,
        open: OpenConnections,
        connections_max: usize,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let thread = std::thread::Builder::new().name("acceptor".into()).spawn(move || {
            let mut next = 0;
            while !stop.load(Ordering::Acquire) {
                match listener.accept() {
                    Ok(_) if stop.load(Ordering::Acquire) => break,
                    Ok((stream, peer)) => {
                        if open.load(Ordering::Relaxed) >= connections_max {
                            tracing::warn!(%peer, connections_max, "connection refused: max.connections is reached");
                            continue;
                        }
                        open.fetch_add(1, Ordering::Relaxed);
                        let to = ShardId(next % mailboxes.shards());
                        next = next.wrapping_add(1);
                        let connection = NewConnection { socket: stream.into(), peer, received: Bytes::new(), is_new: true };
                        mailboxes.send(to, vec![Letter::Connection(connection)]);
                    }
                    Err(error) => {
                        // Out of file descriptors, most likely: the next attempt would fail at once, so wait for one to be freed.
                        tracing::error!(%error, "a connection could not be accepted; raise the open-files limit (ulimit -n)");
                        std::thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        })?;
        Ok(Self { address, stopping, thread })
    }

    /// Accepts no more; returns when the thread has ended.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes the thread from its accept.
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        let _ = TcpStream::connect_timeout(&address, Duration::from_secs(1));
        if self.thread.join().is_err() {
            tracing::error!("the accepting thread has panicked");
        }
    }
}
