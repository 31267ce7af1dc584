//! Members through their lives: requests that depend on what was answered before.

use bytes::Bytes;
use kafka_protocol::messages::{
    consumer_group_heartbeat_request as consumer_heartbeat, offset_commit_request as commit,
    offset_delete_request as offset_delete, offset_fetch_request as offset_fetch, *,
};
use uuid::Uuid;

use super::requests::{Known, group, join, name, text};

type Step = (ApiKey, i16, &'static str, RequestKind);

/// A dynamic member alone in a classic group: joins, syncs, beats, commits, is described and leaves; then the group is deleted.
pub(super) struct ClassicLife {
    version: i16,
    group: String,
    member: String,
    generation: i32,
    step: usize,
}

impl ClassicLife {
    pub(super) fn new(version: i16) -> Self {
        Self { version, group: format!("classic-v{version}"), member: String::new(), generation: -1, step: 0 }
    }

    pub(super) fn next(&mut self) -> Option<Step> {
        let v = self.version;
        self.step += 1;
        let id = || group(&self.group);
        let member = || text(&self.member);
        Some(match self.step {
            1 => (ApiKey::JoinGroup, v, "first", RequestKind::JoinGroup(join(v, &self.group, ""))),
            2 => (ApiKey::JoinGroup, v, "with an id", RequestKind::JoinGroup(join(v, &self.group, &self.member))),
            3 => {
                let v = v.min(5);
                let assigned = sync_group_request::SyncGroupRequestAssignment::default()
                    .with_member_id(member())
                    .with_assignment(Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0\0\0\0\0"));
                let mut request = SyncGroupRequest::default()
                    .with_group_id(id())
                    .with_generation_id(self.generation)
                    .with_member_id(member())
                    .with_assignments(vec![assigned]);
                if v >= 5 {
                    request =
                        request.with_protocol_type(Some(text("consumer"))).with_protocol_name(Some(text("range")));
                }
                (ApiKey::SyncGroup, v, "the leader", RequestKind::SyncGroup(request))
            }
            4 | 5 => {
                let subject = if self.step == 4 { "a member" } else { "of an old generation" };
                let request = HeartbeatRequest::default()
                    .with_group_id(id())
                    .with_generation_id(if self.step == 4 { self.generation } else { 77 })
                    .with_member_id(member());
                (ApiKey::Heartbeat, v.min(4), subject, RequestKind::Heartbeat(request))
            }
            6 | 7 => {
                let subject = if self.step == 6 { "of a member" } else { "of an old generation" };
                let one = commit::OffsetCommitRequestPartition::default().with_committed_offset(2);
                let topic = commit::OffsetCommitRequestTopic::default().with_name(name("t"));
                let request = OffsetCommitRequest::default()
                    .with_group_id(id())
                    .with_generation_id_or_member_epoch(if self.step == 6 { self.generation } else { 77 })
                    .with_member_id(member())
                    .with_topics(vec![topic.with_partitions(vec![one])]);
                (ApiKey::OffsetCommit, v.clamp(2, 9), subject, RequestKind::OffsetCommit(request))
            }
            8 => {
                let request = DescribeGroupsRequest::default().with_groups(vec![id()]);
                (ApiKey::DescribeGroups, v.min(6), "a stable one", RequestKind::DescribeGroups(request))
            }
            9 => {
                let one = offset_delete::OffsetDeleteRequestPartition::default();
                let topic = offset_delete::OffsetDeleteRequestTopic::default().with_name(name("t"));
                let request = OffsetDeleteRequest::default().with_group_id(id());
                let request = request.with_topics(vec![topic.with_partitions(vec![one])]);
                (ApiKey::OffsetDelete, 0, "of a topic that is read", RequestKind::OffsetDelete(request))
            }
            10 | 14 => {
                let subject = if self.step == 10 { "a live one" } else { "an empty one" };
                let request = DeleteGroupsRequest::default().with_groups_names(vec![id()]);
                (ApiKey::DeleteGroups, v.min(2), subject, RequestKind::DeleteGroups(request))
            }
            11 => {
                let beat = ConsumerGroupHeartbeatRequest::default()
                    .with_group_id(id())
                    .with_member_id(text("other"))
                    .with_rebalance_timeout_ms(60_000)
                    .with_subscribed_topic_names(Some(vec![name("t")]))
                    .with_server_assignor(Some(text("nonsense")))
                    .with_topic_partitions(Some(vec![]));
                (ApiKey::ConsumerGroupHeartbeat, 1, "into a classic group", RequestKind::ConsumerGroupHeartbeat(beat))
            }
            12 => {
                let v = v.min(5);
                let request = LeaveGroupRequest::default().with_group_id(id());
                let request = if v < 3 {
                    request.with_member_id(member())
                } else {
                    let one = leave_group_request::MemberIdentity::default().with_member_id(member());
                    request.with_members(vec![one])
                };
                (ApiKey::LeaveGroup, v, "a member", RequestKind::LeaveGroup(request))
            }
            13 => {
                let request = DescribeGroupsRequest::default().with_groups(vec![id()]);
                (ApiKey::DescribeGroups, v.min(6), "an empty one", RequestKind::DescribeGroups(request))
            }
            _ => return None,
        })
    }

    pub(super) fn answered(&mut self, answer: &ResponseKind) {
        if let ResponseKind::JoinGroup(answer) = answer {
            self.member = answer.member_id.to_string();
            self.generation = answer.generation_id;
        }
    }
}

/// A member alone in a group of the consumer protocol.
pub(super) struct ConsumerLife {
    version: i16,
    group: String,
    member: String,
    epoch: i32,
    topic: Uuid,
    step: usize,
}

impl ConsumerLife {
    pub(super) fn new(version: i16, known: &Known) -> Self {
        // From version 1 on the member draws its own id.
        let member = if version >= 1 { "AAAAAAAAAAAAAAAAAAAAAQ" } else { "" };
        let group = format!("consumer-v{version}");
        Self { version, group, member: member.to_owned(), epoch: 0, topic: known.id("many"), step: 0 }
    }

    pub(super) fn next(&mut self) -> Option<Step> {
        let v = self.version;
        self.step += 1;
        let beat = |epoch| {
            ConsumerGroupHeartbeatRequest::default()
                .with_group_id(group(&self.group))
                .with_member_id(text(&self.member))
                .with_member_epoch(epoch)
        };
        let heartbeat = |subject, body| {
            Some((ApiKey::ConsumerGroupHeartbeat, v, subject, RequestKind::ConsumerGroupHeartbeat(body)))
        };
        let commit = |subject, epoch| {
            let one = commit::OffsetCommitRequestPartition::default().with_committed_offset(1);
            let topic = commit::OffsetCommitRequestTopic::default().with_name(name("many"));
            let request = OffsetCommitRequest::default()
                .with_group_id(group(&self.group))
                .with_generation_id_or_member_epoch(epoch)
                .with_member_id(text(&self.member))
                .with_topics(vec![topic.with_partitions(vec![one])]);
            Some((ApiKey::OffsetCommit, 9, subject, RequestKind::OffsetCommit(request)))
        };
        match self.step {
            1 => heartbeat(
                "a new member",
                beat(0)
                    .with_rebalance_timeout_ms(60_000)
                    .with_subscribed_topic_names(Some(vec![name("many")]))
                    .with_topic_partitions(Some(vec![])),
            ),
            2 => {
                let all = consumer_heartbeat::TopicPartitions::default()
                    .with_topic_id(self.topic)
                    .with_partitions((0..5).collect());
                heartbeat("owning what it was given", beat(self.epoch).with_topic_partitions(Some(vec![all])))
            }
            3 => heartbeat("an epoch that is not there yet", beat(self.epoch + 5)),
            4 => commit("of a consumer", self.epoch),
            5 => commit("of a consumer's other epoch", self.epoch + 1),
            6 => commit("into a live consumer group", -1),
            7 => {
                let one = offset_fetch::OffsetFetchRequestGroup::default()
                    .with_group_id(group(&self.group))
                    .with_member_id(Some(text(&self.member)))
                    .with_member_epoch(self.epoch + 1)
                    .with_topics(None);
                let request = OffsetFetchRequest::default().with_groups(vec![one]);
                Some((ApiKey::OffsetFetch, 9, "of a consumer's other epoch", RequestKind::OffsetFetch(request)))
            }
            8 => {
                let request = DescribeGroupsRequest::default().with_groups(vec![group(&self.group)]);
                Some((ApiKey::DescribeGroups, 6, "a consumer group", RequestKind::DescribeGroups(request)))
            }
            9 => Some((
                ApiKey::JoinGroup,
                9,
                "into a consumer group",
                RequestKind::JoinGroup(join(9, &self.group, "").with_protocols(vec![
                    join_group_request::JoinGroupRequestProtocol::default()
                        .with_name(text("range"))
                        .with_metadata(Bytes::from_static(b"\xff")),
                ])),
            )),
            10 => heartbeat("leaving", beat(-1)),
            11 => {
                let request = DeleteGroupsRequest::default().with_groups_names(vec![group(&self.group)]);
                Some((ApiKey::DeleteGroups, 2, "an empty consumer group", RequestKind::DeleteGroups(request)))
            }
            _ => None,
        }
    }

    pub(super) fn answered(&mut self, answer: &ResponseKind) {
        if let ResponseKind::ConsumerGroupHeartbeat(answer) = answer
            && answer.error_code == 0
        {
            if let Some(member) = &answer.member_id {
                self.member = member.to_string();
            }
            self.epoch = answer.member_epoch;
        }
    }
}
