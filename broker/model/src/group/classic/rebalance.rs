//! The two phases of a rebalance: members join, then sync; and what happens when the time for either runs out.

use super::*;
use crate::group::PersistToken;

impl ClassicGroup {
    fn join_timer(&self) -> Timer {
        Timer::ClassicJoin { group: self.id.clone() }
    }

    fn sync_timer(&self) -> Timer {
        Timer::ClassicSync { group: self.id.clone() }
    }

    /// Starts a rebalance if the state allows one, else sees whether the present one can go on.
    pub(super) fn rebalance(&mut self, context: &mut Context<'_>) -> Option<PersistToken> {
        if self.state == ClassicState::PreparingRebalance {
            self.complete_join_if_all_joined(context)
        } else {
            self.prepare_rebalance(context)
        }
    }

    /// Opens the join phase. The first one of an empty group lasts for a while, so that members which start together are in
    /// the same generation.
    pub(super) fn prepare_rebalance(&mut self, context: &mut Context<'_>) -> Option<PersistToken> {
        if self.state == ClassicState::CompletingRebalance {
            self.drop_assignments(GroupError::RebalanceInProgress, context);
        }
        self.pending_sync.clear();
        context.timers.cancel(&self.sync_timer());
        let is_initial = self.state == ClassicState::Empty;
        self.transition_to(ClassicState::PreparingRebalance, context.now.wall);
        if is_initial {
            let delay = context.config.initial_rebalance_delay;
            let round_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            let timeout_ms = u64::try_from(self.rebalance_timeout_ms()).unwrap_or(0);
            if round_ms == 0 {
                return self.complete_join(context);
            }
            self.initial_delay = Some(InitialDelay { round_ms, remaining_ms: timeout_ms.saturating_sub(round_ms) });
            context.schedule(self.join_timer(), delay);
            return None;
        }
        if self.has_all_members_joined() {
            return self.complete_join(context);
        }
        context.schedule(self.join_timer(), millis(self.rebalance_timeout_ms()));
        None
    }

    /// Ends the join phase if nobody is missing. An initial rebalance waits for its delay in any case.
    pub(super) fn complete_join_if_all_joined(&mut self, context: &mut Context<'_>) -> Option<PersistToken> {
        let may_complete = self.state == ClassicState::PreparingRebalance
            && self.previous_state != ClassicState::Empty
            && self.has_all_members_joined();
        if may_complete { self.complete_join(context) } else { None }
    }

    /// The time to join has passed.
    pub(in crate::group) fn join_expired(&mut self, context: &mut Context<'_>) {
        if self.state != ClassicState::PreparingRebalance {
            return;
        }
        if let Some(InitialDelay { round_ms, remaining_ms }) = self.initial_delay.take()
            && self.new_member_added
            && remaining_ms != 0
        {
            self.new_member_added = false;
            let delay_ms = u64::try_from(context.config.initial_rebalance_delay.as_millis()).unwrap_or(u64::MAX);
            let next_ms = delay_ms.min(remaining_ms);
            self.initial_delay =
                Some(InitialDelay { round_ms: next_ms, remaining_ms: remaining_ms.saturating_sub(round_ms) });
            context.schedule(self.join_timer(), std::time::Duration::from_millis(next_ms));
            return;
        }
        self.complete_join(context);
    }

    /// Ends the join phase with whoever has joined: dynamic members that did not are removed, static ones keep their place.
    pub(super) fn complete_join(&mut self, context: &mut Context<'_>) -> Option<PersistToken> {
        context.timers.cancel(&self.join_timer());
        self.initial_delay = None;
        self.new_member_added = false;
        let missing: Vec<Text> = self
            .members
            .values()
            .filter(|member| member.awaiting_join.is_none() && member.instance_id.is_none())
            .map(|member| member.id.clone())
            .collect();
        for id in &missing {
            self.remove(id);
            context.timers.cancel(&self.session_timer(id));
        }
        if !self.elect_joined_leader() && !self.members.is_empty() {
            // Only static members are left and none has joined: wait until their sessions end.
            context.schedule(self.join_timer(), millis(self.rebalance_timeout_ms()));
            return None;
        }
        self.start_generation(context.now.wall);
        if self.members.is_empty() {
            let write = Write::of_group(&self.id, Then::Nothing);
            return Some(context.persist(self.partition, &[self.record()], write));
        }
        let ids: Vec<Text> = self.members.keys().cloned().collect();
        for id in ids {
            self.answer_join(&id, self.join_answer(&id), context);
            self.heard_of(&id, context);
            if let Some(member) = self.members.get_mut(&id) {
                member.is_new = false;
            }
            self.pending_sync.insert(id);
        }
        context.schedule(self.sync_timer(), millis(self.rebalance_timeout_ms()));
        None
    }

    /// Whether the group has a leader that has joined, another one if need be.
    fn elect_joined_leader(&mut self) -> bool {
        let has_joined = |member: &&ClassicMember| member.awaiting_join.is_some();
        let Some(leader) = self.leader.as_ref().and_then(|id| self.members.get(id)) else { return false };
        if has_joined(&leader) {
            return true;
        }
        let Some(successor) = self.members.values().find(has_joined) else { return false };
        self.leader = Some(successor.id.clone());
        true
    }

    fn start_generation(&mut self, now: Timestamp) {
        // After the largest generation comes 0 again: a client only compares for equality.
        self.generation = self.generation.checked_add(1).unwrap_or(0);
        self.pending_sync.clear();
        self.protocol_name = self.selected_protocol();
        self.subscribed_topics = self.read_subscribed_topics();
        let next = if self.members.is_empty() { ClassicState::Empty } else { ClassicState::CompletingRebalance };
        self.transition_to(next, now);
    }

    /// The time to sync has passed: whoever did not is removed.
    pub(in crate::group) fn sync_expired(&mut self, context: &mut Context<'_>) {
        let waits_for_syncs = matches!(self.state, ClassicState::CompletingRebalance | ClassicState::Stable);
        if !waits_for_syncs || self.pending_sync.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.pending_sync) {
            self.remove(&id);
            context.timers.cancel(&self.session_timer(&id));
        }
        self.prepare_rebalance(context);
    }

    /// A session has ended.
    pub(in crate::group) fn session_expired(&mut self, member_id: &str, context: &mut Context<'_>) {
        if self.pending_join.contains(member_id) {
            self.remove(member_id);
            if self.state == ClassicState::PreparingRebalance && self.has_all_members_joined() {
                self.complete_join(context);
            }
        } else if self.members.get(member_id).is_some_and(|member| !member.has_satisfied_heartbeat()) {
            self.refuse_parked_join(member_id, context);
            self.remove(member_id);
            match self.state {
                ClassicState::Stable | ClassicState::CompletingRebalance => {
                    self.rebalance(context);
                }
                ClassicState::PreparingRebalance if self.has_all_members_joined() => {
                    self.complete_join(context);
                }
                _ => {}
            }
        }
    }

    /// The assignment is durable, or will never be. Nothing happens if the group has moved on in the meantime.
    pub(in crate::group) fn synced(
        &mut self,
        generation: i32,
        mut assignments: BTreeMap<Text, Bytes>,
        result: Result<(), GroupError>,
        context: &mut Context<'_>,
    ) {
        if self.state != ClassicState::CompletingRebalance || self.generation != generation {
            return;
        }
        if let Err(error) = result {
            self.drop_assignments(error, context);
            self.rebalance(context);
            return;
        }
        for member in self.members.values_mut() {
            member.assignment = assignments.remove(&member.id).unwrap_or_default();
        }
        let ids: Vec<Text> = self.members.keys().cloned().collect();
        for id in ids {
            let answer = self.sync_answer(&id);
            if self.answer_sync(&id, answer, context) {
                // The session may have ended while the SyncGroup stood for heartbeats.
                self.heard_of(&id, context);
            }
        }
        self.transition_to(ClassicState::Stable, context.now.wall);
    }

    pub(super) fn sync_answer(&self, member_id: &str) -> SyncAnswer {
        SyncAnswer {
            error: None,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            assignment: self.members.get(member_id).map(|member| member.assignment.clone()).unwrap_or_default(),
        }
    }

    fn drop_assignments(&mut self, error: GroupError, context: &mut Context<'_>) {
        let ids: Vec<Text> = self.members.keys().cloned().collect();
        for id in ids {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = Bytes::new();
            }
            if self.answer_sync(&id, SyncAnswer::refused(error), context) {
                self.heard_of(&id, context);
            }
        }
    }

    /// The group has just been loaded: sessions start anew, and a group that is too large rebalances.
    pub(in crate::group) fn loaded(&mut self, context: &mut Context<'_>) {
        let ids: Vec<Text> = self.members.keys().cloned().collect();
        for id in ids {
            self.heard_of(&id, context);
        }
        if self.members.len() > context.config.max_size {
            self.prepare_rebalance(context);
        }
    }
}
