use std::{
    io::{ErrorKind, Read as _},
    net::TcpListener,
};

use super::*;
use crate::shell::runtime::{self, Runtime};

/// Reads what there is.
fn drain(client: &mut TcpStream, received: &mut Vec<u8>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match client.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => received.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The writer waited for room in the socket with a chunk in its hand. A new answer made `flush` send the same chunk meanwhile, and the
/// writer then sent it again: clients that read slowly and asked ahead got a stream that they could not parse.
#[test]
fn a_slow_client_gets_every_answer_once_and_in_order() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_nonblocking(true).unwrap();
    let (socket, peer) = listener.accept().unwrap();
    let memory = Memory::new(1 << 20);
    Runtime::new().expect("io_uring is to be had").run(async move {
        let connection = Connection::new(ConnectionId(0), socket.into(), peer, Instant(0), memory.clone()).unwrap();
        let writer = Rc::clone(&connection);
        let writing = runtime::spawn_local(async move { writer.write_loop().await });
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        // Far more than the socket's buffers hold, every chunk different.
        for number in 0..2000_u32 {
            let chunk: Bytes = number.to_be_bytes().repeat(4000).into();
            sent.extend_from_slice(&chunk);
            connection.queue(vec![chunk]);
        }
        connection.flush();
        assert!(connection.unsent_bytes() > 0 && memory.is_full_of_answers());
        while connection.unsent_bytes() > 0 {
            // The writer finds the socket full and waits; then there is room, and a new answer, before it looks again.
            runtime::yield_if_needed().await;
            futures_lite::future::yield_now().await;
            drain(&mut client, &mut received);
            if sent.len() < 64 << 20 {
                let chunk: Bytes = vec![7; 1000].into();
                sent.extend_from_slice(&chunk);
                connection.queue(vec![chunk]);
                connection.flush();
            }
        }
        connection.close();
        writing.await;
        client.set_nonblocking(false).unwrap();
        client.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), sent.len());
        assert!(received == sent, "the stream is not what was queued");
        assert!(!memory.is_full_of_answers());
    });
}

#[test]
fn a_client_that_takes_nothing_is_let_go_with_what_it_was_to_get() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, peer) = listener.accept().unwrap();
    let memory = Memory::new(1 << 20);
    Runtime::new().expect("io_uring is to be had").run(async move {
        let connection = Connection::new(ConnectionId(0), socket.into(), peer, Instant(0), memory.clone()).unwrap();
        let writer = Rc::clone(&connection);
        let writing = runtime::spawn_local(async move { writer.write_loop().await });
        connection.queue(vec![vec![1; 64 << 20].into()]);
        connection.flush();
        futures_lite::future::yield_now().await;
        assert!(memory.is_full_of_answers());
        connection.abort();
        writing.await;
        assert_eq!(connection.unsent_bytes(), 0);
        assert!(!memory.is_full_of_answers());
        drop(client);
    });
}

/// A connection moved in the middle of a large frame lost what had come of it, and everything behind it was read from the wrong byte.
#[test]
fn frames_are_whole_wherever_the_connection_moves() {
    let lengths = [3_usize, 40_000, 0, 100_000, 17, 32 * 1024, 200_000, 16_384, 60_000, 60_000, 5];
    let mut stream = Vec::new();
    for (number, length) in lengths.iter().enumerate() {
        stream.extend_from_slice(&(*length as u32).to_be_bytes());
        stream.extend(std::iter::repeat_n(number as u8, *length));
    }
    // Streamed: what comes is received into chunks wherever the connection would do so.
    for (step, streamed) in
        [1_000, 1_023, 40_000, 65_536, 300_000].into_iter().flat_map(|step| [(step, false), (step, true)])
    {
        let mut incoming = Incoming::default();
        let mut frames = Vec::new();
        for piece in stream.chunks(step) {
            let mut piece = piece;
            while !piece.is_empty() {
                incoming.large.iter_mut().filter(|large| !large.has_room).for_each(LargeFrame::make_room);
                incoming.stream.iter_mut().filter(|stream| !stream.has_room).for_each(Stream::make_room);
                let into = match (&mut incoming.large, &mut incoming.stream) {
                    (Some(large), _) => Some((large.frame.as_mut_slice(), &mut large.filled, large.length)),
                    (None, Some(stream)) => Some((stream.chunk.as_mut_slice(), &mut stream.filled, CHUNK_BYTES)),
                    (None, None) => None,
                };
                match into {
                    Some((memory, filled, most)) => {
                        let taken = piece.len().min(most - *filled);
                        memory[*filled..*filled + taken].copy_from_slice(&piece[..taken]);
                        *filled += taken;
                        piece = &piece[taken..];
                    }
                    None => {
                        let taken = piece.len().min(HEAD_BYTES);
                        incoming.small.extend_from_slice(&piece[..taken]);
                        piece = &piece[taken..];
                        if streamed && piece.len() >= STREAM_BYTES {
                            incoming.stream();
                        }
                    }
                }
                frames.extend(incoming.take_frames(1 << 20).unwrap());
            }
            incoming = Incoming::with(incoming.take_rest());
            frames.extend(incoming.take_frames(1 << 20).unwrap());
        }
        assert_eq!(frames.iter().map(Bytes::len).collect::<Vec<_>>(), lengths, "in steps of {step}");
        for (number, frame) in frames.iter().enumerate() {
            assert!(frame.iter().all(|byte| usize::from(*byte) == number));
        }
    }
}
