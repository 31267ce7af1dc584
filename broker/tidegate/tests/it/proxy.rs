//! Stands between clients and a broker, and loses answers: the request has done its work, and its sender cannot know.

use std::{
    io::{Read, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

/// A listener that passes everything on to a broker. Runs until the test's process ends.
pub(crate) struct Proxy {
    pub(crate) address: String,
    shared: Arc<Shared>,
}

struct Shared {
    broker: Mutex<String>,
    /// One answer of so many is lost, and its connection with it; 0: none.
    one_in: AtomicU32,
    lost: AtomicU64,
    stopped: AtomicBool,
}

impl Proxy {
    /// Listens; whom it passes on to is said later, since a broker must know this address when it starts.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let shared = Arc::new(Shared {
            broker: Mutex::new(String::new()),
            one_in: AtomicU32::new(0),
            lost: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                let broker = accepting.broker.lock().expect("no panic").clone();
                // A broker that is down: the client finds its connection closed.
                let Ok(broker) = TcpStream::connect(broker) else { continue };
                pass_on(&accepting, number as u64, client, broker);
            }
        });
        Self { address, shared }
    }

    pub(crate) fn pass_on_to(&self, broker: &str) {
        broker.clone_into(&mut self.shared.broker.lock().expect("no panic"));
    }

    /// From now on one answer of `one_in` is lost; 0: none.
    pub(crate) fn lose(&self, one_in: u32) {
        self.shared.one_in.store(one_in, Ordering::SeqCst);
    }

    pub(crate) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
    }
}

fn pass_on(shared: &Arc<Shared>, number: u64, client: TcpStream, broker: TcpStream) {
    let (Ok(mut from_client), Ok(mut to_broker)) = (client.try_clone(), broker.try_clone()) else { return };
    for stream in [&client, &broker] {
        let _ = stream.set_nodelay(true);
    }
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_broker);
        let _ = to_broker.shutdown(Shutdown::Both);
    });
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        let _ = answers(&shared, number, &client, &broker);
        let _ = client.shutdown(Shutdown::Both);
        let _ = broker.shutdown(Shutdown::Both);
    });
}

/// Passes answers on, frame by frame, until one is lost.
fn answers(shared: &Shared, number: u64, mut client: &TcpStream, mut broker: &TcpStream) -> std::io::Result<()> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    loop {
        let mut frame = vec![0; 4];
        broker.read_exact(&mut frame)?;
        let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
        broker.take(length.into()).read_to_end(&mut frame)?;
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let one_in = shared.one_in.load(Ordering::SeqCst);
        if one_in > 0 && state.is_multiple_of(one_in.into()) {
            shared.lost.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        client.write_all(&frame)?;
    }
}
