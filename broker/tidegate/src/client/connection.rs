//! One TCP connection to one broker: requests go out one at a time, each at the highest version that both sides speak.
//!
//! Answers are bounded ([`RESPONSE_BYTES_MAX`](super::RESPONSE_BYTES_MAX)) and memory grows with what arrives, not with what is announced.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use kafka_protocol::{
    error::ResponseError,
    messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader},
    protocol::{Decodable, Encodable as _, HeaderVersion, Message as _, Request, StrBytes, VersionRange},
};

use super::error::{ClientError, check};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of the first answer, which costs a broker nothing: whoever is silent for so long does not speak the protocol, or is stuck.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the timeouts that requests carry.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// What ApiVersions is asked in: new enough for features, and known to every broker since Kafka 2.4.
const API_VERSIONS_VERSION: i16 = 3;

#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    address: String,
    offered: BTreeMap<i16, VersionRange>,
    correlation_id: i32,
}

impl Connection {
    /// Connects and asks which versions the broker speaks.
    pub(crate) fn open(address: &str) -> Result<Self, ClientError> {
        let mut connection = Self {
            stream: connect(address)?,
            address: address.to_owned(),
            offered: BTreeMap::new(),
            correlation_id: 0,
        };
        let answer = connection.api_versions()?;
        check(format!("{address} refuses to say what it speaks"), answer.error_code, None)?;
        connection
            .stream
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .map_err(|source| ClientError::Connect { address: address.to_owned(), source })?;
        connection.offered = answer
            .api_keys
            .iter()
            .map(|api| (api.api_key, VersionRange { min: api.min_version, max: api.max_version }))
            .collect();
        Ok(connection)
    }

    /// Every API that the broker offers, by its key.
    pub(crate) fn offered(&self) -> &BTreeMap<i16, VersionRange> {
        &self.offered
    }

    pub(crate) fn offers<R: Request>(&self) -> bool {
        self.version::<R>().is_ok()
    }

    /// The version in which `R` will be asked.
    pub(crate) fn version<R: Request>(&self) -> Result<i16, ClientError> {
        let known = R::VERSIONS.intersect(&R::Response::VERSIONS);
        let offered = self.offered.get(&R::KEY);
        let both = offered.map(|range| range.intersect(&known)).filter(|range| !range.is_empty());
        both.map(|range| range.max).ok_or_else(|| ClientError::Unsupported {
            address: self.address.clone(),
            api: api_name(R::KEY),
            offered: offered.map_or("none of it".to_owned(), |range| format!("versions {}-{}", range.min, range.max)),
            needed: format!("{}-{}", known.min, known.max),
        })
    }

    /// Asks and waits for the answer.
    pub(crate) fn call<R: Request>(&mut self, request: &R) -> Result<R::Response, ClientError> {
        let version = self.version::<R>()?;
        let mut answer = self.exchange(request, version)?;
        self.decode::<R>(&mut answer, version)
    }

    /// A broker that does not know the version says so in version 0 (KIP-511).
    fn api_versions(&mut self) -> Result<ApiVersionsResponse, ClientError> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("tidegate"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let mut answer = self.exchange(&request, API_VERSIONS_VERSION)?;
        // The header of this answer is always version 0: the correlation id, and then the error code.
        let code = answer.get(4..6).map(|code| i16::from_be_bytes([code[0], code[1]]));
        if code == Some(ResponseError::UnsupportedVersion.code()) {
            let mut answer = self.exchange(&ApiVersionsRequest::default(), 0)?;
            return self.decode::<ApiVersionsRequest>(&mut answer, 0);
        }
        self.decode::<ApiVersionsRequest>(&mut answer, API_VERSIONS_VERSION)
    }

    /// Sends one frame and reads one frame.
    fn exchange<R: Request>(&mut self, request: &R, version: i16) -> Result<Bytes, ClientError> {
        let api = api_name(R::KEY);
        let broken = |address: &str, source| ClientError::Broken { address: address.to_owned(), api, source };
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str("tidegate-cli")));
        let mut frame = BytesMut::from(&[0; 4][..]);
        header
            .encode(&mut frame, R::header_version(version))
            .and_then(|()| request.encode(&mut frame, version))
            .map_err(|reason| ClientError::Garbled {
                address: self.address.clone(),
                api,
                reason: format!("(in the request) {reason}"),
            })?;
        let length =
            u32::try_from(frame.len() - 4).map_err(|_| broken(&self.address, io::ErrorKind::InvalidInput.into()))?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame).map_err(|source| broken(&self.address, source))?;

        let mut length = [0; 4];
        self.stream.read_exact(&mut length).map_err(|source| broken(&self.address, source))?;
        let length = u64::from(u32::from_be_bytes(length));
        if length > super::RESPONSE_BYTES_MAX {
            return Err(ClientError::TooLong { address: self.address.clone(), api, bytes: length });
        }
        let mut answer = Vec::new();
        let read = (&mut self.stream).take(length).read_to_end(&mut answer);
        let read = read.map_err(|source| broken(&self.address, source))?;
        if (read as u64) < length {
            return Err(broken(&self.address, io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(answer.into())
    }

    fn decode<R: Request>(&self, answer: &mut Bytes, version: i16) -> Result<R::Response, ClientError> {
        let garbled =
            |reason: String| ClientError::Garbled { address: self.address.clone(), api: api_name(R::KEY), reason };
        let header = ResponseHeader::decode(answer, R::Response::header_version(version))
            .map_err(|reason| garbled(reason.to_string()))?;
        if header.correlation_id != self.correlation_id {
            return Err(garbled(format!(
                "it is to request {}, and {} was asked",
                header.correlation_id, self.correlation_id
            )));
        }
        let body = R::Response::decode(answer, version).map_err(|reason| garbled(reason.to_string()))?;
        if answer.has_remaining() {
            return Err(garbled(format!("{} bytes are left over", answer.remaining())));
        }
        Ok(body)
    }
}

fn connect(address: &str) -> Result<TcpStream, ClientError> {
    let (host, port) = address.rsplit_once(':').ok_or_else(|| ClientError::Address { address: address.to_owned() })?;
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let port = port.parse::<u16>().ok().filter(|_| !host.is_empty());
    let port = port.ok_or_else(|| ClientError::Address { address: address.to_owned() })?;
    let resolved = (host, port)
        .to_socket_addrs()
        .map_err(|source| ClientError::Resolve { address: address.to_owned(), source })?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for candidate in resolved {
        match TcpStream::connect_timeout(&candidate, CONNECT_TIMEOUT) {
            Ok(stream) => {
                let prepared = stream
                    .set_nodelay(true)
                    .and_then(|()| stream.set_read_timeout(Some(HELLO_TIMEOUT)))
                    .and_then(|()| stream.set_write_timeout(Some(ANSWER_TIMEOUT)));
                return match prepared {
                    Ok(()) => Ok(stream),
                    Err(source) => Err(ClientError::Connect { address: address.to_owned(), source }),
                };
            }
            Err(error) => last = error,
        }
    }
    Err(ClientError::Connect { address: address.to_owned(), source: last })
}

/// The name of an API as Kafka's protocol page has it.
pub(crate) fn api_name(key: i16) -> &'static str {
    macro_rules! names {
        ($($name:ident),* $(,)?) => {
            match ApiKey::try_from(key) {
                $(Ok(ApiKey::$name) => stringify!($name),)*
                _ => "an API without a name here",
            }
        };
    }
    names!(
        Produce,
        Fetch,
        ListOffsets,
        Metadata,
        OffsetCommit,
        OffsetFetch,
        FindCoordinator,
        JoinGroup,
        Heartbeat,
        LeaveGroup,
        SyncGroup,
        DescribeGroups,
        ListGroups,
        SaslHandshake,
        ApiVersions,
        CreateTopics,
        DeleteTopics,
        DeleteRecords,
        InitProducerId,
        OffsetForLeaderEpoch,
        AddPartitionsToTxn,
        AddOffsetsToTxn,
        EndTxn,
        WriteTxnMarkers,
        TxnOffsetCommit,
        DescribeAcls,
        CreateAcls,
        DeleteAcls,
        DescribeConfigs,
        AlterConfigs,
        AlterReplicaLogDirs,
        DescribeLogDirs,
        SaslAuthenticate,
        CreatePartitions,
        CreateDelegationToken,
        RenewDelegationToken,
        ExpireDelegationToken,
        DescribeDelegationToken,
        DeleteGroups,
        ElectLeaders,
        IncrementalAlterConfigs,
        AlterPartitionReassignments,
        ListPartitionReassignments,
        OffsetDelete,
        DescribeClientQuotas,
        AlterClientQuotas,
        DescribeUserScramCredentials,
        AlterUserScramCredentials,
        DescribeQuorum,
        UpdateFeatures,
        DescribeCluster,
        DescribeProducers,
        UnregisterBroker,
        DescribeTransactions,
        ListTransactions,
        ConsumerGroupHeartbeat,
        ConsumerGroupDescribe,
        GetTelemetrySubscriptions,
        PushTelemetry,
        ListConfigResources,
        DescribeTopicPartitions,
        ShareGroupHeartbeat,
        ShareGroupDescribe,
        ShareFetch,
        ShareAcknowledge,
        AddRaftVoter,
        RemoveRaftVoter,
        InitializeShareGroupState,
        ReadShareGroupState,
        WriteShareGroupState,
        DeleteShareGroupState,
        ReadShareGroupStateSummary,
        DescribeShareGroupOffsets,
        AlterShareGroupOffsets,
        DeleteShareGroupOffsets,
    )
}
