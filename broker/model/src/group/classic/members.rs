//! What members and administrators ask between the rebalances: SyncGroup, Heartbeat, LeaveGroup, and whether a commit is valid.

use super::*;
use crate::group::{
    PersistToken,
    request::{Heartbeat, LeavingMember, OffsetCommit, SyncGroup},
};

impl ClassicGroup {
    /// Handles a SyncGroup. A follower's is parked until the leader's assignment is durable.
    pub(in crate::group) fn sync(&mut self, token: RequestToken, request: SyncGroup, context: &mut Context<'_>) {
        if let Err(error) = self.validate_sync(&request) {
            context.answer(token, GroupAnswer::Sync(SyncAnswer::refused(error)));
            return;
        }
        self.synced_by(&request.member_id, context);
        if self.state == ClassicState::Stable {
            context.answer(token, GroupAnswer::Sync(self.sync_answer(&request.member_id)));
            return;
        }
        let Some(member) = self.members.get_mut(&request.member_id) else { return };
        if let Some(earlier) = member.awaiting_sync.replace(token) {
            // The client has given up on its earlier request, but every request is answered.
            context.answer(earlier, GroupAnswer::Sync(SyncAnswer::refused(GroupError::RebalanceInProgress)));
        }
        if self.is_leader(&request.member_id) {
            let mut given: BTreeMap<Text, Bytes> = request.assignments.into_iter().collect();
            given.retain(|id, _| self.members.contains_key(id));
            let record = self.to_record(|member| given.get(&member.id).cloned().unwrap_or_default());
            let then = Then::ClassicSynced { generation: self.generation, assignments: given };
            context.persist(self.partition, &[record], Write::of_group(&self.id, then));
        }
    }

    fn validate_sync(&self, request: &SyncGroup) -> Result<(), GroupError> {
        self.validate_member(&request.member_id, request.group_instance_id.as_deref())?;
        let differs = |asked: &Option<Text>, ours: &Option<Text>| asked.is_some() && asked != ours;
        if request.generation != self.generation {
            Err(GroupError::IllegalGeneration)
        } else if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol_name, &self.protocol_name)
        {
            Err(GroupError::InconsistentGroupProtocol)
        } else if self.state == ClassicState::PreparingRebalance {
            Err(GroupError::RebalanceInProgress)
        } else {
            Ok(())
        }
    }

    fn synced_by(&mut self, member_id: &str, context: &mut Context<'_>) {
        self.pending_sync.remove(member_id);
        if self.pending_sync.is_empty() {
            context.timers.cancel(&Timer::ClassicSync { group: self.id.clone() });
        }
    }

    pub(in crate::group) fn heartbeat(
        &mut self,
        request: &Heartbeat,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        self.validate_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        self.heard_of(&request.member_id, context);
        // Between join and sync a heartbeat is as good as any other.
        if self.state == ClassicState::PreparingRebalance { Err(GroupError::RebalanceInProgress) } else { Ok(()) }
    }

    /// Removes members, and starts one rebalance for all. The token is that of the write to wait for, if any.
    pub(in crate::group) fn leave(
        &mut self,
        leaving: Vec<LeavingMember>,
        context: &mut Context<'_>,
    ) -> (Vec<(LeavingMember, Option<GroupError>)>, Option<PersistToken>) {
        let mut outcomes = Vec::with_capacity(leaving.len());
        for member in leaving {
            let outcome = self.leave_one(&member, context).err();
            outcomes.push((member, outcome));
        }
        let any_left = outcomes.iter().any(|(_, error)| error.is_none());
        let write = match self.state {
            _ if !any_left => None,
            ClassicState::Stable | ClassicState::CompletingRebalance => self.rebalance(context),
            ClassicState::PreparingRebalance => self.complete_join_if_all_joined(context),
            ClassicState::Empty => None,
        };
        (outcomes, write)
    }

    fn leave_one(&mut self, member: &LeavingMember, context: &mut Context<'_>) -> Result<(), GroupError> {
        let id = if member.member_id.is_empty() {
            // An administrator removes a static member.
            let instance_id = member.group_instance_id.as_ref().ok_or(GroupError::UnknownMemberId)?;
            self.static_members.get(instance_id).cloned().ok_or(GroupError::UnknownMemberId)?
        } else {
            if !self.pending_join.contains(&member.member_id) {
                self.validate_member(&member.member_id, member.group_instance_id.as_deref())?;
            }
            member.member_id.clone()
        };
        context.timers.cancel(&self.session_timer(&id));
        self.refuse_parked_join(&id, context);
        self.answer_sync(&id, SyncAnswer::refused(GroupError::UnknownMemberId), context);
        self.remove(&id);
        Ok(())
    }

    /// Whether offsets may be committed. From a member it counts as a heartbeat.
    pub(in crate::group) fn validate_commit(
        &self,
        request: &OffsetCommit,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let generation = request.generation_or_epoch;
        if generation < 0 && self.is_empty() {
            // An administrator, or a consumer that only keeps its offsets here.
            return Ok(());
        }
        if generation >= 0 || !request.member_id.is_empty() || request.group_instance_id.is_some() {
            self.validate_member(&request.member_id, request.group_instance_id.as_deref())?;
            if generation != self.generation {
                return Err(GroupError::IllegalGeneration);
            }
        } else if !self.is_empty() {
            return Err(GroupError::UnknownMemberId);
        }
        if self.state == ClassicState::CompletingRebalance {
            return Err(GroupError::RebalanceInProgress);
        }
        self.heard_of(&request.member_id, context);
        Ok(())
    }
}
