//! Requests under way on the shard that received them.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{ApiKey, ResponseHeader},
    protocol::{Encodable, StrBytes},
};
use tidegate_records::time::Now;

use crate::{ConnectionId, api, connection::Slot};

/// A request under way, unique for the life of the shard that received it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What must be known to answer a request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) id: RequestId,
    pub(crate) connection: ConnectionId,
    pub(crate) slot: Slot,
    pub(crate) api: ApiKey,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) client_id: Option<StrBytes>,
    pub(crate) received: Now,
}

impl Request {
    /// A whole response frame: length, header, body.
    pub(crate) fn frame(&self, body: &impl Encodable) -> Result<Bytes, api::EncodeError> {
        let mut frame = BytesMut::with_capacity(256);
        self.begin_frame(&mut frame)?;
        body.encode(&mut frame, self.version).map_err(|error| api::EncodeError::new(self, &error))?;
        let length = i32::try_from(frame.len() - 4).map_err(|_| api::EncodeError::too_large(self))?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        Ok(frame.freeze())
    }

    /// Four bytes for the length, then the response header.
    pub(crate) fn begin_frame(&self, frame: &mut BytesMut) -> Result<(), api::EncodeError> {
        frame.put_i32(0);
        let header = ResponseHeader::default().with_correlation_id(self.correlation_id);
        header
            .encode(frame, self.api.response_header_version(self.version))
            .map_err(|error| api::EncodeError::new(self, &error))
    }
}
