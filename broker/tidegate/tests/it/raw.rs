//! Requests byte by byte, for what no stock client sends.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::{
    messages::{ApiKey, RequestHeader, ResponseHeader},
    protocol::{Decodable, Encodable, StrBytes},
};

/// A connection that speaks frames.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    correlation: i32,
}

impl Raw {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("options can be set");
        Self { stream, correlation: 0 }
    }

    /// Sends a request and reads its answer.
    pub(crate) fn call<Q: Encodable, A: Decodable>(&mut self, api: ApiKey, version: i16, request: &Q) -> A {
        self.send(api, version, request);
        self.receive(api, version)
    }

    pub(crate) fn send<Q: Encodable>(&mut self, api: ApiKey, version: i16, request: &Q) {
        let frame = self.frame(api, version, request);
        self.send_frame(&frame);
    }

    /// Sends several requests at once; the correlation id of the first.
    pub(crate) fn send_all<Q: Encodable>(
        &mut self,
        api: ApiKey,
        version: i16,
        requests: impl Iterator<Item = Q>,
    ) -> i32 {
        let first = self.correlation + 1;
        let mut bytes = BytesMut::new();
        for request in requests {
            let frame = self.frame(api, version, &request);
            bytes.put_i32(frame.len() as i32);
            bytes.put_slice(&frame);
        }
        self.stream.write_all(&bytes).expect("the requests are sent");
        first
    }

    /// A request as it goes over the wire, without the length before it.
    pub(crate) fn frame<Q: Encodable>(&mut self, api: ApiKey, version: i16, request: &Q) -> BytesMut {
        self.correlation += 1;
        let mut frame = BytesMut::new();
        let header = RequestHeader::default()
            .with_request_api_key(api as i16)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("it")));
        header.encode(&mut frame, api.request_header_version(version)).expect("the header is encoded");
        request.encode(&mut frame, version).expect("the request is encoded");
        frame
    }

    pub(crate) fn send_frame(&mut self, frame: &[u8]) {
        let mut bytes = BytesMut::with_capacity(frame.len() + 4);
        bytes.put_i32(frame.len() as i32);
        bytes.put_slice(frame);
        self.stream.write_all(&bytes).expect("the request is sent");
    }

    pub(crate) fn receive<A: Decodable>(&mut self, api: ApiKey, version: i16) -> A {
        self.receive_numbered(api, version, self.correlation)
    }

    /// The next answer, which is to have this correlation id.
    pub(crate) fn receive_numbered<A: Decodable>(&mut self, api: ApiKey, version: i16, correlation: i32) -> A {
        let mut frame = self.receive_frame().expect("there is an answer");
        let header =
            ResponseHeader::decode(&mut frame, api.response_header_version(version)).expect("the header is decoded");
        assert_eq!(header.correlation_id, correlation, "answers come in order");
        let answer = A::decode(&mut frame, version).expect("the answer is decoded");
        assert!(frame.is_empty(), "nothing follows the answer");
        answer
    }

    /// The answer to the next of the requests that another `Raw` on the same socket sends.
    pub(crate) fn receive_next<A: Decodable>(&mut self, api: ApiKey, version: i16) -> A {
        self.correlation += 1;
        self.receive(api, version)
    }

    pub(crate) fn receive_frame(&mut self) -> io::Result<Bytes> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).expect("a length")];
        self.stream.read_exact(&mut frame)?;
        Ok(frame.into())
    }

    /// Whether the broker closes the connection without an answer.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        !matches!(self.stream.read(&mut byte), Ok(1))
    }
}
