//! Which error codes a response carries, for the metrics: of the whole response and of each thing in it.

use kafka_protocol::messages::{
    AlterConfigsResponse, ApiVersionsResponse, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatResponse,
    CreatePartitionsResponse, CreateTopicsResponse, DeleteGroupsResponse, DeleteRecordsResponse, DeleteTopicsResponse,
    DescribeClusterResponse, DescribeConfigsResponse, DescribeGroupsResponse, DescribeLogDirsResponse,
    DescribeProducersResponse, DescribeTopicPartitionsResponse, FindCoordinatorResponse, HeartbeatResponse,
    IncrementalAlterConfigsResponse, InitProducerIdResponse, JoinGroupResponse, LeaveGroupResponse,
    ListConfigResourcesResponse, ListGroupsResponse, ListOffsetsResponse, MetadataResponse, OffsetCommitResponse,
    OffsetDeleteResponse, OffsetFetchResponse, OffsetForLeaderEpochResponse, ProduceResponse, SyncGroupResponse,
};

/// A response whose error codes can be counted. A response without an implementation cannot be sent.
pub(crate) trait ErrorCodes {
    /// Calls `see` with each code in the response, 0 (none) among them.
    fn each_error_code(&self, see: &mut dyn FnMut(i16));
}

/// The code of a value, or of everything in its list, or in the lists of its list.
macro_rules! each {
    ($value:expr, $see:ident,) => { $see($value.error_code) };
    ($value:expr, $see:ident, $list:ident $($rest:ident)*) => {
        for item in &$value.$list {
            each!(item, $see, $($rest)*);
        }
    };
}

/// Each response with the paths to its codes; `[]` is the response itself.
macro_rules! error_codes {
    ($($response:ident: $([$($path:ident)*])+;)+) => {
        $(impl ErrorCodes for $response {
            fn each_error_code(&self, see: &mut dyn FnMut(i16)) {
                $(each!(self, see, $($path)*);)+
            }
        })+
    };
}

error_codes! {
    AlterConfigsResponse: [responses];
    ApiVersionsResponse: [];
    ConsumerGroupDescribeResponse: [groups];
    ConsumerGroupHeartbeatResponse: [];
    CreatePartitionsResponse: [results];
    CreateTopicsResponse: [topics];
    DeleteGroupsResponse: [results];
    DeleteRecordsResponse: [topics partitions];
    DeleteTopicsResponse: [responses];
    DescribeClusterResponse: [];
    DescribeConfigsResponse: [results];
    DescribeGroupsResponse: [groups];
    DescribeLogDirsResponse: [] [results];
    DescribeProducersResponse: [topics partitions];
    DescribeTopicPartitionsResponse: [topics] [topics partitions];
    FindCoordinatorResponse: [] [coordinators];
    HeartbeatResponse: [];
    IncrementalAlterConfigsResponse: [responses];
    InitProducerIdResponse: [];
    JoinGroupResponse: [];
    LeaveGroupResponse: [] [members];
    ListConfigResourcesResponse: [];
    ListGroupsResponse: [];
    ListOffsetsResponse: [topics partitions];
    MetadataResponse: [] [topics] [topics partitions];
    OffsetCommitResponse: [topics partitions];
    OffsetDeleteResponse: [] [topics partitions];
    OffsetFetchResponse: [] [topics partitions] [groups] [groups topics partitions];
    OffsetForLeaderEpochResponse: [topics partitions];
    ProduceResponse: [responses partition_responses];
    SyncGroupResponse: [];
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{
        metadata_response::{MetadataResponsePartition, MetadataResponseTopic},
        produce_response::{PartitionProduceResponse, TopicProduceResponse},
    };

    use super::*;

    fn codes(response: &impl ErrorCodes) -> Vec<i16> {
        let mut codes = Vec::new();
        response.each_error_code(&mut |code| codes.push(code));
        codes
    }

    #[test]
    fn codes_are_found_at_every_depth() {
        let partition = |code| PartitionProduceResponse::default().with_error_code(code);
        let topic = |codes: &[i16]| {
            TopicProduceResponse::default().with_partition_responses(codes.iter().copied().map(partition).collect())
        };
        let produced = ProduceResponse::default().with_responses(vec![topic(&[0, 3]), topic(&[10])]);
        assert_eq!(codes(&produced), [0, 3, 10]);

        let partition = MetadataResponsePartition::default().with_error_code(5);
        let topic = MetadataResponseTopic::default().with_error_code(36).with_partitions(vec![partition]);
        assert_eq!(codes(&MetadataResponse::default().with_error_code(1).with_topics(vec![topic])), [1, 36, 5]);
        assert_eq!(codes(&HeartbeatResponse::default().with_error_code(27)), [27]);
    }
}
