//! The bytes of a Fetch response, v4 to v18, without copying records.
//!
//! The codec would copy every record batch twice. Here large batches stay in the buffers in which storage found them: a response is a
//! list of chunks. A test compares every version with the codec. Layout: `FetchResponse.json` of Apache Kafka.

use bytes::{BufMut, Bytes, BytesMut};
use tidegate_model::fetch_session::TopicName;
use tidegate_records::ids::{LeaderEpoch, Offset};

/// Records below this many bytes are copied between the fields: cheaper than a chunk of their own.
const COPY_BYTES_MAX: usize = 4096;
/// From this version on lengths are varints and structs end with tagged fields (KIP-482).
const FLEXIBLE: i16 = 12;

/// Which topic a group of partitions is of, as the version names it.
#[derive(Clone, Debug)]
pub(super) struct TopicAnswer {
    pub(super) name: String,
    pub(super) id: [u8; 16],
    pub(super) partitions: Vec<PartitionAnswer>,
}

impl TopicAnswer {
    pub(super) fn new(topic: &TopicName, partitions: usize) -> Self {
        let (name, id) = match topic {
            TopicName::Name(name) => (name.to_string(), [0; 16]),
            TopicName::Id(id) => (String::new(), id.0),
        };
        Self { name, id, partitions: Vec::with_capacity(partitions) }
    }
}

#[derive(Clone, Debug)]
pub(super) struct PartitionAnswer {
    pub(super) index: i32,
    pub(super) error_code: i16,
    pub(super) high_watermark: Offset,
    pub(super) last_stable_offset: Offset,
    pub(super) log_start_offset: Offset,
    pub(super) diverging: Option<(LeaderEpoch, Offset)>,
    pub(super) read_committed: bool,
    pub(super) records: Vec<Bytes>,
}

impl PartitionAnswer {
    pub(super) fn error(index: i32, error_code: i16) -> Self {
        Self {
            index,
            error_code,
            high_watermark: Offset::UNKNOWN,
            last_stable_offset: Offset::UNKNOWN,
            log_start_offset: Offset::UNKNOWN,
            diverging: None,
            read_committed: false,
            records: Vec::new(),
        }
    }

    pub(super) fn records_bytes(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }
}

/// Writes the body after `head` (length and response header), fills the length in, and returns the chunks of the frame.
pub(super) fn encode(
    head: BytesMut,
    version: i16,
    error_code: i16,
    session_id: i32,
    topics: &[TopicAnswer],
) -> Vec<Bytes> {
    let mut writer = Writer { chunks: Vec::new(), buffer: head };
    let flexible = version >= FLEXIBLE;
    writer.buffer.put_i32(0);
    if version >= 7 {
        writer.buffer.put_i16(error_code);
        writer.buffer.put_i32(session_id);
    }
    writer.count(topics.len(), flexible);
    for topic in topics {
        if version >= 13 {
            writer.buffer.put_slice(&topic.id);
        } else {
            writer.string(&topic.name, flexible);
        }
        writer.count(topic.partitions.len(), flexible);
        for partition in &topic.partitions {
            writer.partition(partition, version);
        }
        writer.no_tags(flexible);
    }
    writer.no_tags(flexible);
    writer.finish()
}

struct Writer {
    chunks: Vec<Bytes>,
    buffer: BytesMut,
}

impl Writer {
    fn count(&mut self, count: usize, flexible: bool) {
        if flexible {
            self.varint(count as u32 + 1);
        } else {
            self.buffer.put_i32(count as i32);
        }
    }

    fn string(&mut self, text: &str, flexible: bool) {
        if flexible {
            self.varint(text.len() as u32 + 1);
        } else {
            self.buffer.put_i16(text.len() as i16);
        }
        self.buffer.put_slice(text.as_bytes());
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buffer.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.put_u8(value as u8);
    }

    fn no_tags(&mut self, flexible: bool) {
        if flexible {
            self.buffer.put_u8(0);
        }
    }

    fn partition(&mut self, partition: &PartitionAnswer, version: i16) {
        let flexible = version >= FLEXIBLE;
        self.buffer.put_i32(partition.index);
        self.buffer.put_i16(partition.error_code);
        self.buffer.put_i64(partition.high_watermark.0);
        self.buffer.put_i64(partition.last_stable_offset.0);
        if version >= 5 {
            self.buffer.put_i64(partition.log_start_offset.0);
        }
        // Aborted transactions: an empty list for read_committed, else null.
        match (partition.read_committed, flexible) {
            (true, true) => self.buffer.put_u8(1),
            (true, false) => self.buffer.put_i32(0),
            (false, true) => self.buffer.put_u8(0),
            (false, false) => self.buffer.put_i32(-1),
        }
        if version >= 11 {
            // Preferred read replica: none.
            self.buffer.put_i32(-1);
        }
        let bytes = partition.records_bytes();
        if flexible {
            self.varint(bytes as u32 + 1);
        } else {
            self.buffer.put_i32(bytes as i32);
        }
        for records in &partition.records {
            if records.len() < COPY_BYTES_MAX {
                self.buffer.put_slice(records);
            } else {
                self.chunks.push(self.buffer.split().freeze());
                self.chunks.push(records.clone());
            }
        }
        match partition.diverging {
            Some((epoch, end)) if flexible => {
                // One tagged field: number 0, 13 bytes.
                self.buffer.put_slice(&[1, 0, 13]);
                self.buffer.put_i32(epoch.0);
                self.buffer.put_i64(end.0);
                self.buffer.put_u8(0);
            }
            _ => self.no_tags(flexible),
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.chunks.push(self.buffer.freeze());
        let length = self.chunks.iter().map(Bytes::len).sum::<usize>() - 4;
        let mut first = BytesMut::from(self.chunks[0].as_ref());
        first[..4].copy_from_slice(&(length as i32).to_be_bytes());
        self.chunks[0] = first.freeze();
        self.chunks
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::{
        messages::{
            FetchResponse, TopicName,
            fetch_response::{EpochEndOffset, FetchableTopicResponse, PartitionData},
        },
        protocol::{Encodable, StrBytes},
    };

    use super::*;

    fn answer(index: i32, records: &[&[u8]], diverging: Option<(i32, i64)>, read_committed: bool) -> PartitionAnswer {
        PartitionAnswer {
            index,
            error_code: 3,
            high_watermark: Offset(70),
            last_stable_offset: Offset(60),
            log_start_offset: Offset(5),
            diverging: diverging.map(|(epoch, end)| (LeaderEpoch(epoch), Offset(end))),
            read_committed,
            records: records.iter().map(|bytes| Bytes::copy_from_slice(bytes)).collect(),
        }
    }

    #[test]
    fn every_version_is_what_the_codec_writes() {
        let large = vec![7; COPY_BYTES_MAX * 2];
        let topics = vec![
            TopicAnswer {
                name: "orders".into(),
                id: [9; 16],
                partitions: vec![answer(0, &[b"abc", &large, b"d"], None, false), answer(1, &[], Some((4, 12)), true)],
            },
            TopicAnswer { name: "x".into(), id: [1; 16], partitions: vec![answer(200, &[&large], None, true)] },
        ];
        for version in 4..=18 {
            let responses = topics
                .iter()
                .map(|topic| {
                    let mut out = FetchableTopicResponse::default();
                    if version >= 13 {
                        out.topic_id = uuid::Uuid::from_bytes(topic.id);
                    } else {
                        out.topic = TopicName(StrBytes::from_string(topic.name.clone()));
                    }
                    out.partitions = topic
                        .partitions
                        .iter()
                        .map(|partition| {
                            let mut data = PartitionData::default()
                                .with_partition_index(partition.index)
                                .with_error_code(partition.error_code)
                                .with_high_watermark(partition.high_watermark.0)
                                .with_last_stable_offset(partition.last_stable_offset.0)
                                .with_aborted_transactions(partition.read_committed.then(Vec::new))
                                .with_records(Some(partition.records.concat().into()));
                            if version >= 5 {
                                data.log_start_offset = partition.log_start_offset.0;
                            }
                            if version >= 12
                                && let Some((epoch, end)) = partition.diverging
                            {
                                data.diverging_epoch =
                                    EpochEndOffset::default().with_epoch(epoch.0).with_end_offset(end.0);
                            }
                            data
                        })
                        .collect();
                    out
                })
                .collect();
            let mut expected = FetchResponse::default().with_responses(responses);
            if version >= 7 {
                expected = expected.with_error_code(2).with_session_id(77);
            }
            let mut wanted = BytesMut::new();
            wanted.put_i32(0);
            expected.encode(&mut wanted, version).unwrap();
            let length = wanted.len() as i32 - 4;
            wanted[..4].copy_from_slice(&length.to_be_bytes());
            let mut head = BytesMut::new();
            head.put_i32(0);
            let got = encode(head, version, 2, 77, &topics).concat();
            assert_eq!(got, wanted, "version {version}");
        }
    }
}
