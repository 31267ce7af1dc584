//! One client's socket: bytes in become frames, answers go out, and neither side may fill the memory.
//!
//! Two tasks a connection. The reader stops while too much is unanswered or unsent: a slow client slows itself down. The writer
//! runs only when the socket did not take everything at once. The 64 KiB that a read needs are shared by all connections of a
//! shard, so that thousands of idle ones cost little; a large frame is received into the buffer that it stays in.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    rc::Rc,
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use tidegate_records::{ids::ShardId, time::Instant};
use tidegate_shard::{ConnectionId, FrameError, frame_length};
use tidegate_storage::disk::AlignedBuffer;

use super::{
    event::Event,
    memory::{Memory, Reservation},
    runtime,
};

/// Chunks given to one `sendmsg`.
const CHUNKS_MAX: usize = 64;
/// The most bytes of a large frame that a wake waits for.
const WAKE_BYTES_MAX: usize = 256 * 1024;
/// How long a connection that sends one request after another, without waiting for answers, is left alone after each receive. Each
/// wake costs a shard tens of microseconds however little has come; what gathers meanwhile shares the wake, the hop to other
/// shards, the commit round and the answer. A client that waits for each answer is never kept waiting for this.
const GATHER: Duration = Duration::from_millis(1);
/// Who has sent so much already is not kept waiting for more.
const GATHERED_BYTES: usize = 256 * 1024;
/// From this size on a frame is received into a buffer of its own.
const LARGE_FRAME_BYTES: usize = 32 * 1024;
/// What is asked of a socket at first, without knowing what it has.
const HEAD_BYTES: usize = 16 * 1024;
/// Where at least so much more waits, it is received into a chunk that its frames share, and copied no more.
const STREAM_BYTES: usize = 16 * 1024;
/// A chunk.
const CHUNK_BYTES: usize = 256 * 1024;
/// A connection that has room for a large request, and has sent less than this into it lately, is let go where others wait for room: some
/// that announce requests and never send all of them would keep everybody out.
const STALLED_AFTER: Duration = Duration::from_secs(5);
const STALLED_BYTES_A_SECOND: f64 = 16.0 * 1024.0;
/// From this size on a frame in a chunk gets a buffer of its own.
const CHUNK_FRAME_BYTES: usize = 128 * 1024;

/// A client's connection on its shard.
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) peer: SocketAddr,
    /// Kept open.
    _stream: TcpStream,
    fd: RawFd,
    /// The last receive took all that there was: asking again at once is a system call for nothing.
    drained: Cell<bool>,
    outbox: RefCell<VecDeque<Bytes>>,
    outbox_bytes: Cell<usize>,
    memory: Memory,
    /// Room of requests that are received or being received.
    reserved: RefCell<Vec<Reservation>>,
    /// The writer has the first chunk in its hand and waits for room in the socket: nobody else may send.
    writer_waits: Cell<bool>,
    /// Set once: nothing more is read, and after the outbox nothing more is written.
    closing: Cell<bool>,
    /// Set when another shard has the socket: this side must not shut it down.
    moved: Cell<bool>,
    /// The shard that should have it, as soon as nothing is under way.
    pub(crate) move_to: Cell<Option<ShardId>>,
    /// Nothing is read before that.
    pub(crate) paused_until: Cell<Instant>,
    /// Frames that are to be taken in before anything else, once it is not paused any more.
    pub(crate) deferred: RefCell<VecDeque<Bytes>>,
    /// While it has room for a request that has not come whole: when it counts as stalled, if nothing more comes.
    stalls_at: Cell<Option<std::time::Instant>>,
    pub(crate) last_active: Cell<Instant>,
    last_receive: Cell<Instant>,
    /// What the socket's `SO_RCVLOWAT` is.
    wakes_at: Cell<usize>,
    unsent: Event,
    /// Something was sent or answered: the reader may go on.
    pub(crate) progress: Event,
}

/// What a read gave.
pub(crate) enum Received {
    Frames(Vec<Bytes>),
    /// The client is gone, or has sent what cannot be a frame.
    End(Option<FrameError>),
}

impl Connection {
    /// Takes over an accepted socket.
    ///
    /// # Errors
    /// The socket's options could not be set: it is gone already.
    pub(crate) fn new(
        id: ConnectionId,
        socket: OwnedFd,
        peer: SocketAddr,
        now: Instant,
        memory: Memory,
    ) -> io::Result<Rc<Self>> {
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        keep_alive(stream.as_raw_fd())?;
        let fd = stream.as_raw_fd();
        Ok(Rc::new(Self {
            id,
            peer,
            _stream: stream,
            fd,
            drained: Cell::new(false),
            outbox: RefCell::default(),
            outbox_bytes: Cell::new(0),
            memory,
            reserved: RefCell::default(),
            writer_waits: Cell::new(false),
            closing: Cell::new(false),
            moved: Cell::new(false),
            move_to: Cell::new(None),
            paused_until: Cell::new(now),
            deferred: RefCell::default(),
            stalls_at: Cell::new(None),
            last_active: Cell::new(now),
            last_receive: Cell::new(now),
            wakes_at: Cell::new(1),
            unsent: Event::default(),
            progress: Event::default(),
        }))
    }

    /// Queues chunks; [`Connection::flush`] sends them.
    pub(crate) fn queue(&self, chunks: Vec<Bytes>) {
        if self.closing.get() {
            return;
        }
        let bytes = chunks.iter().map(Bytes::len).sum::<usize>();
        self.outbox_bytes.set(self.outbox_bytes.get() + bytes);
        self.memory.queued(bytes);
        self.outbox.borrow_mut().extend(chunks);
    }

    /// The requests that were received are taken in: their room is free.
    pub(crate) fn release(&self) {
        self.reserved.borrow_mut().clear();
        self.stalls_at.set(None);
    }

    /// Keeps room for what it is about to receive.
    fn hold(&self, room: Reservation) {
        self.reserved.borrow_mut().push(room);
        if self.stalls_at.get().is_none() {
            self.stalls_at.set(Some(std::time::Instant::now() + STALLED_AFTER));
        }
    }

    /// Each byte puts it off, but what came quickly at first does not count for long: who sends half of a large request and stops has
    /// stopped.
    fn put_off_stalling(&self, received: usize) {
        if let Some(at) = self.stalls_at.get() {
            let now = std::time::Instant::now();
            let earned = Duration::from_secs_f64(received as f64 / STALLED_BYTES_A_SECOND);
            self.stalls_at.set(Some((at.max(now) + earned).min(now + STALLED_AFTER)));
        }
    }

    /// Whether it holds room that others may be waiting for, and hardly sends anything into it.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalls_at.get().is_some_and(|at| at <= std::time::Instant::now())
    }

    /// Bytes that are answered but not sent.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.outbox_bytes.get()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Ends the connection after what is queued.
    pub(crate) fn close(&self) {
        if self.closing.replace(true) || self.moved.get() {
            return;
        }
        // The reader may be waiting for bytes that never come: end its side.
        // SAFETY: the descriptor is open as long as `self._stream` is; `shutdown` takes no memory.
        unsafe { libc::shutdown(self.fd, libc::SHUT_RD) };
        self.progress.raise();
        self.unsent.raise();
    }

    /// Ends the connection at once, with what is queued: its client does not take it.
    pub(crate) fn abort(&self) {
        self.close();
        if !self.moved.get() {
            // SAFETY: as in `close`. The writer, if it waits, gets an error and drops what is queued.
            unsafe { libc::shutdown(self.fd, libc::SHUT_RDWR) };
        }
    }

    /// Another shard has the socket now; this side ends without touching it.
    pub(crate) fn forget(&self) {
        self.moved.set(true);
        self.closing.set(true);
        self.unsent.raise();
    }

    /// Sends what the socket takes now. The rest is left to the writer.
    pub(crate) fn flush(&self) {
        if self.writer_waits.get() {
            // It holds the first chunk, and sends it and what follows as soon as there is room.
            return;
        }
        match self.try_send() {
            Ok(true) => self.progress.raise(),
            Ok(false) => self.unsent.raise(),
            Err(_) => {
                self.drop_outbox();
                self.close();
            }
        }
    }

    fn drop_outbox(&self) {
        self.outbox.borrow_mut().clear();
        self.memory.sent(self.outbox_bytes.replace(0));
    }

    /// Whether everything is sent.
    fn try_send(&self) -> io::Result<bool> {
        let mut outbox = self.outbox.borrow_mut();
        while !outbox.is_empty() {
            let mut vectors: [libc::iovec; CHUNKS_MAX] =
                [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; CHUNKS_MAX];
            let mut count = 0;
            for (vector, chunk) in vectors.iter_mut().zip(outbox.iter()) {
                vector.iov_base = chunk.as_ptr().cast_mut().cast();
                vector.iov_len = chunk.len();
                count += 1;
            }
            // SAFETY: all-zero is a valid `msghdr`.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_iov = vectors.as_mut_ptr();
            message.msg_iovlen = count;
            // SAFETY: the vectors point into chunks that `outbox` keeps alive over the call, which only reads them.
            let sent = unsafe { libc::sendmsg(self.fd, &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
            if sent < 0 {
                let error = io::Error::last_os_error();
                return match error.kind() {
                    io::ErrorKind::WouldBlock => Ok(false),
                    io::ErrorKind::Interrupted => continue,
                    _ => Err(error),
                };
            }
            self.sent(&mut outbox, sent as usize);
        }
        Ok(true)
    }

    fn sent(&self, outbox: &mut VecDeque<Bytes>, mut bytes: usize) {
        self.outbox_bytes.set(self.outbox_bytes.get() - bytes);
        self.memory.sent(bytes);
        while let Some(front) = outbox.front_mut() {
            if bytes < front.len() {
                front.advance(bytes);
                return;
            }
            bytes -= front.len();
            outbox.pop_front();
        }
    }

    /// The writer: waits for room in the socket whenever it did not take everything at once. Ends with the connection.
    pub(crate) async fn write_loop(&self) {
        loop {
            self.unsent.wait().await;
            while !self.outbox.borrow().is_empty() {
                self.writer_waits.set(true);
                let writable = runtime::reactor().writable(self.fd).await;
                self.writer_waits.set(false);
                if writable.and_then(|()| self.try_send()).is_err() {
                    self.drop_outbox();
                    self.close();
                    return;
                }
                self.progress.raise();
            }
            self.progress.raise();
            if self.closing.get() {
                if !self.moved.get() {
                    // SAFETY: as in `close`.
                    unsafe { libc::shutdown(self.fd, libc::SHUT_RDWR) };
                }
                return;
            }
        }
    }

    /// Waits for bytes and takes whole frames out of them. `buffer` keeps what is incomplete.
    pub(crate) async fn receive(&self, buffer: &mut Incoming, scratch: &RefCell<Vec<u8>>, limit: usize) -> Received {
        loop {
            if self.closing.get() {
                return Received::End(None);
            }
            match buffer.take_frames(limit) {
                Ok(frames) if !frames.is_empty() => return Received::Frames(frames),
                Ok(_) => {}
                Err(error) => return Received::End(Some(error)),
            }
            if let Some(large) = buffer.large.as_mut().filter(|large| !large.has_room) {
                // While it waits, the socket's own buffer is all that this client fills.
                self.hold(self.memory.reserve(large.length).await);
                large.make_room();
                continue;
            }
            if let Some(stream) = buffer.stream.as_mut().filter(|stream| !stream.has_room) {
                self.hold(self.memory.reserve(CHUNK_BYTES).await);
                stream.make_room();
                continue;
            }
            let read = if let Some(large) = &mut buffer.large {
                let rest = &mut large.frame.as_mut_slice()[large.filled..large.length];
                let read = self.read(rest, rest.len()).await;
                large.filled += read.as_ref().map_or(0, |bytes| *bytes);
                read
            } else if let Some(stream) = &mut buffer.stream {
                let wanted = stream.wanted;
                let read = self.read(&mut stream.chunk.as_mut_slice()[stream.filled..], wanted).await;
                stream.filled += read.as_ref().map_or(0, |bytes| *bytes);
                read
            } else {
                let read = self
                    .read_with(1, || {
                        let scratch = &mut scratch.borrow_mut()[..HEAD_BYTES];
                        let read = self.try_read(scratch)?;
                        buffer.small.extend_from_slice(&scratch[..read.unwrap_or(0)]);
                        Ok(read)
                    })
                    .await;
                if read.as_ref().is_ok_and(|bytes| *bytes == HEAD_BYTES) && received_bytes(self.fd) >= STREAM_BYTES {
                    buffer.stream();
                }
                read
            };
            match read {
                Ok(0) | Err(_) => return Received::End(None),
                Ok(_) => {}
            }
        }
    }

    /// Reads into `into`. Woken once for what is wanted, not for each packet of it (the kernel takes half of the socket's buffer at most).
    async fn read(&self, into: &mut [u8], wanted: usize) -> io::Result<usize> {
        self.read_with(wanted.min(WAKE_BYTES_MAX), || self.try_read(into)).await
    }

    /// Reads with `try_read` as soon as there are `wanted` bytes, or an end.
    async fn read_with(
        &self,
        wanted: usize,
        mut try_read: impl FnMut() -> io::Result<Option<usize>>,
    ) -> io::Result<usize> {
        self.wake_at(wanted);
        loop {
            if self.drained.replace(false) {
                runtime::reactor().readable(self.fd).await?;
            }
            if let Some(bytes) = try_read()? {
                return Ok(bytes);
            }
            self.drained.set(true);
        }
    }

    /// Receives what is there; `None`: nothing yet, `Some(0)`: the client is gone.
    fn try_read(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            // SAFETY: the kernel writes at most `into.len()` bytes to `into`, which lives over the call.
            let read = unsafe { libc::recv(self.fd, into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) };
            if let Ok(read) = usize::try_from(read) {
                self.drained.set(read < into.len());
                self.put_off_stalling(read);
                return Ok(Some(read));
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(None),
                io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            }
        }
    }

    /// Tells the kernel not to wake us for less, if it does not know.
    fn wake_at(&self, bytes: usize) {
        if self.wakes_at.replace(bytes) != bytes {
            wake_at_bytes(self.fd, bytes);
        }
    }

    /// How long to leave the socket alone, if more is likely to gather in it. `waiting`: its requests that are not answered.
    pub(crate) fn gather(&self, now: Instant, waiting: usize) -> Option<Duration> {
        let since = now.since(self.last_receive.replace(now));
        (waiting > 1 && since < GATHER * 2 && received_bytes(self.fd) < GATHERED_BYTES).then_some(GATHER)
    }

    /// The socket, for another shard. Only when nothing is queued or under way.
    pub(crate) fn duplicate_socket(&self) -> io::Result<OwnedFd> {
        self.wake_at(1);
        // SAFETY: duplicates an open descriptor; the result is checked before it is owned.
        let fd = unsafe { libc::fcntl(self.fd, libc::F_DUPFD_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nothing else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// Bytes that the socket holds and nobody has received.
fn received_bytes(fd: RawFd) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open and the kernel writes one integer to `bytes`, which lives over the call.
    let result = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut bytes) };
    if result < 0 { usize::MAX } else { bytes.unsigned_abs() as usize }
}

/// Tells the kernel not to wake us for less (`SO_RCVLOWAT`). It refuses no valid number; a refusal would only cost wakes.
fn wake_at_bytes(fd: RawFd, bytes: usize) {
    let value = bytes as libc::c_int;
    // SAFETY: `value` lives over the call and the length is its own.
    unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
}

fn keep_alive(fd: RawFd) -> io::Result<()> {
    // A client whose machine is gone is noticed within some minutes, not two hours.
    for (level, option, value) in [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 120),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 30),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 4),
    ] {
        let value: libc::c_int = value;
        // SAFETY: `value` lives over the call and the length is its own.
        let result = unsafe {
            libc::setsockopt(fd, level, option, (&raw const value).cast(), size_of::<libc::c_int>() as libc::socklen_t)
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Bytes that came and are not yet whole frames: in one of three places.
#[derive(Default)]
pub(crate) struct Incoming {
    small: BytesMut,
    stream: Option<Stream>,
    large: Option<LargeFrame>,
}

/// Frames of a client that sends much, one behind the other.
struct Stream {
    /// Not larger than what was received until there is room for it.
    chunk: AlignedBuffer,
    filled: usize,
    /// Bytes that the first frame lacks; at least one.
    wanted: usize,
    /// Whether the shard has room for it; nothing is received before.
    has_room: bool,
}

impl Stream {
    fn with(received: &[u8], wanted: usize) -> Self {
        Self { chunk: grown(received, received.len()), filled: received.len(), wanted, has_room: false }
    }

    fn make_room(&mut self) {
        self.chunk = grown(&self.chunk.as_slice()[..self.filled], CHUNK_BYTES);
        self.has_room = true;
    }
}

/// A full buffer of `bytes` that begins with `received`.
fn grown(received: &[u8], bytes: usize) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::uncleared(bytes);
    buffer.as_mut_slice()[..received.len()].copy_from_slice(received);
    buffer
}

struct LargeFrame {
    /// Not larger than what was received until there is room for it: a client that only claims a large request costs nothing.
    frame: AlignedBuffer,
    length: usize,
    filled: usize,
    /// Whether the shard has room for all of it.
    has_room: bool,
}

impl LargeFrame {
    /// A frame of `length` bytes of which `received` are there.
    fn with(received: &[u8], length: usize) -> Self {
        Self { frame: grown(received, received.len()), length, filled: received.len(), has_room: false }
    }

    fn make_room(&mut self) {
        self.frame = grown(&self.frame.as_slice()[..self.filled], self.length);
        self.has_room = true;
    }
}

impl Incoming {
    pub(crate) fn with(received: Bytes) -> Self {
        Self { small: BytesMut::from(received.as_ref()), ..Self::default() }
    }

    /// What is not taken apart yet, for the shard that takes the connection over: as it came, in the middle of a large frame too.
    pub(crate) fn take_rest(&mut self) -> Bytes {
        if let Some(stream) = self.stream.take() {
            return Bytes::copy_from_slice(&stream.chunk.as_slice()[..stream.filled]);
        }
        let Some(large) = self.large.take() else { return std::mem::take(&mut self.small).freeze() };
        let mut rest = BytesMut::with_capacity(4 + large.filled);
        rest.extend_from_slice(&(large.length as u32).to_be_bytes());
        rest.extend_from_slice(&large.frame.as_slice()[..large.filled]);
        rest.freeze()
    }

    /// There is much more to come: what is there goes to the front of a chunk.
    fn stream(&mut self) {
        self.stream = Some(Stream::with(&std::mem::take(&mut self.small), 1));
    }

    fn take_frames(&mut self, limit: usize) -> Result<Vec<Bytes>, FrameError> {
        if let Some(large) = self.large.take_if(|large| large.filled == large.length) {
            return Ok(vec![large.frame.share().bytes().slice(..large.length)]);
        }
        if self.large.is_some() {
            return Ok(Vec::new());
        }
        if let Some(stream) = self.stream.take() {
            return self.take_from_chunk(stream, limit);
        }
        let mut frames = Vec::new();
        while let Some((prefix, _)) = self.small.split_first_chunk::<4>() {
            let length = frame_length(*prefix, limit)?;
            if self.small.len() >= 4 + length {
                self.small.advance(4);
                frames.push(self.small.split_to(length).freeze());
                continue;
            }
            if length >= LARGE_FRAME_BYTES {
                self.large = Some(LargeFrame::with(&self.small[4..], length));
                self.small = BytesMut::new();
            }
            break;
        }
        if self.small.is_empty() {
            // An idle connection keeps no buffer.
            self.small = BytesMut::new();
        }
        Ok(frames)
    }

    /// The whole frames of a chunk, which they share. The rest begins the next.
    fn take_from_chunk(&mut self, mut stream: Stream, limit: usize) -> Result<Vec<Bytes>, FrameError> {
        let received = &stream.chunk.as_slice()[..stream.filled];
        let mut whole = Vec::new();
        let mut at = 0;
        let mut next = None;
        while let Some((prefix, behind)) = received[at..].split_first_chunk::<4>() {
            let length = frame_length(*prefix, limit)?;
            if behind.len() < length {
                next = Some(length);
                break;
            }
            whole.push(at + 4..at + 4 + length);
            at += 4 + length;
        }
        let rest = &received[at..];
        let wanted = next.map_or(1, |length| 4 + length - rest.len());
        if let Some(length) = next.filter(|length| *length >= CHUNK_FRAME_BYTES) {
            self.large = Some(LargeFrame::with(&rest[4..], length));
        } else if at == 0 {
            stream.wanted = wanted;
            self.stream = Some(stream);
            return Ok(Vec::new());
        } else if !rest.is_empty() {
            self.stream = Some(Stream::with(rest, wanted));
        }
        let chunk = stream.chunk.share().bytes();
        Ok(whole.into_iter().map(|range| chunk.slice(range)).collect())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.drop_outbox();
    }
}

#[cfg(test)]
mod tests;
