//! JoinGroup: new members, members that return, and static members under a new id.

use super::*;

/// A static member that returned while the group was stable, as long as its record is in flight.
#[derive(Debug)]
pub(in crate::group) struct StaticReplacement {
    instance_id: Text,
    generation: i32,
    old_id: Text,
    new_id: Text,
    old_protocols: Vec<Protocol>,
    old_rebalance_timeout_ms: i32,
    old_session_timeout_ms: i32,
    /// Who led before.
    leader: Text,
    skip_assignment_supported: bool,
}

impl ClassicGroup {
    /// Handles a JoinGroup whose group id and session timeout are valid. Answers now, or parks it until the phase ends.
    pub(in crate::group) fn join(&mut self, token: RequestToken, request: JoinGroup, context: &mut Context<'_>) {
        let refuse = |member_id: &Text, error, context: &mut Context<'_>| {
            context.answer(token, GroupAnswer::Join(JoinAnswer::refused(member_id.clone(), error)));
        };
        if !self.accepts(&request.member_id, context.config.max_size) {
            self.remove(&request.member_id);
            refuse(&"".into(), GroupError::GroupMaxSizeReached, context);
            return;
        }
        if !self.supports(&request.protocol_type, &request.protocols) {
            refuse(&request.member_id, GroupError::InconsistentGroupProtocol, context);
            return;
        }
        if request.member_id.is_empty() {
            self.join_new(token, request, context);
        } else if self.pending_join.contains(&request.member_id) {
            if request.group_instance_id.is_some() {
                // A pending id was given to a dynamic member.
                refuse(&request.member_id, GroupError::UnknownMemberId, context);
                return;
            }
            let member_id = request.member_id.clone();
            self.add_member(token, request, member_id, context);
        } else if let Err(error) = self.validate_member(&request.member_id, request.group_instance_id.as_deref()) {
            refuse(&request.member_id, error, context);
        } else {
            self.rejoin(token, request, context);
        }
    }

    /// Whether there is room. Members of the group are accepted, new ones up to the maximum. While the group prepares a
    /// rebalance those who wait are counted, so that a group over a lowered maximum loses those who come last.
    fn accepts(&self, member_id: &str, max_size: usize) -> bool {
        match self.state {
            ClassicState::Empty => true,
            ClassicState::PreparingRebalance => {
                self.members.get(member_id).is_some_and(|member| member.awaiting_join.is_some())
                    || self.awaiting_join_count() < max_size
            }
            ClassicState::CompletingRebalance | ClassicState::Stable => {
                self.members.contains_key(member_id) || self.members.len() < max_size
            }
        }
    }

    fn join_new(&mut self, token: RequestToken, request: JoinGroup, context: &mut Context<'_>) {
        let stem = request.group_instance_id.as_ref().unwrap_or(&request.client_id);
        let new_id: Text = format!("{stem}-{}", context.member_ids.uuid()).into();
        let known = request.group_instance_id.as_ref().and_then(|id| self.static_members.get(id)).cloned();
        match known {
            Some(old_id) => self.replace_static(token, request, old_id, new_id, context),
            None if request.group_instance_id.is_none() && request.known_member_id_required => {
                // The member has to show that it got its id, so that lost answers leave no member behind (KIP-394).
                context.schedule(self.session_timer(&new_id), millis(request.session_timeout_ms));
                self.pending_join.insert(new_id.clone());
                let answer = JoinAnswer::refused(new_id, GroupError::MemberIdRequired);
                context.answer(token, GroupAnswer::Join(answer));
            }
            None => self.add_member(token, request, new_id, context),
        }
    }

    fn add_member(&mut self, token: RequestToken, request: JoinGroup, id: Text, context: &mut Context<'_>) {
        if self.state == ClassicState::PreparingRebalance && self.previous_state == ClassicState::Empty {
            self.new_member_added = true;
        }
        self.add(ClassicMember {
            id: id.clone(),
            instance_id: request.group_instance_id,
            client_id: request.client_id,
            client_host: request.client_host,
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            session_timeout_ms: request.session_timeout_ms,
            protocol_type: request.protocol_type,
            protocols: request.protocols,
            assignment: Bytes::new(),
            awaiting_join: Some(token),
            awaiting_sync: None,
            is_new: true,
        });
        // It cannot send heartbeats before it knows its id; a client that went away and tried again must not stay for ever.
        context.schedule(self.session_timer(&id), context.config.new_member_join_timeout);
        self.rebalance(context);
    }

    /// A member of the group joins again.
    fn rejoin(&mut self, token: RequestToken, request: JoinGroup, context: &mut Context<'_>) {
        let unchanged =
            self.members.get(&request.member_id).is_some_and(|member| member.protocols == request.protocols);
        let rebalances = match self.state {
            ClassicState::PreparingRebalance => true,
            // It may not have got the answer: it is told again.
            ClassicState::CompletingRebalance => !unchanged,
            // The leader joins to have partitions assigned anew.
            ClassicState::Stable => !unchanged || self.is_leader(&request.member_id),
            ClassicState::Empty => {
                let answer = JoinAnswer::refused(request.member_id, GroupError::UnknownMemberId);
                context.answer(token, GroupAnswer::Join(answer));
                return;
            }
        };
        if !rebalances {
            let mut answer = self.join_answer(&request.member_id);
            if self.state == ClassicState::Stable {
                answer.members = Vec::new();
            }
            context.answer(token, GroupAnswer::Join(answer));
            return;
        }
        self.park_join(&request.member_id.clone(), Some(token), request, context);
        self.rebalance(context);
    }

    /// Takes over what the member says of itself, and parks its request.
    fn park_join(&mut self, id: &str, token: Option<RequestToken>, request: JoinGroup, context: &mut Context<'_>) {
        self.set_protocols(id, request.protocols);
        let Some(member) = self.members.get_mut(id) else { return };
        member.rebalance_timeout_ms = request.rebalance_timeout_ms;
        member.session_timeout_ms = request.session_timeout_ms;
        let earlier = std::mem::replace(&mut member.awaiting_join, token);
        if let Some(earlier) = earlier {
            // The client has given up on its earlier request, but every request is answered.
            let answer = JoinAnswer::refused(id.into(), GroupError::RebalanceInProgress);
            context.answer(earlier, GroupAnswer::Join(answer));
        }
    }

    /// A static member comes back without its member id: it takes the place of its earlier self (KIP-345).
    fn replace_static(
        &mut self,
        token: RequestToken,
        request: JoinGroup,
        old_id: Text,
        new_id: Text,
        context: &mut Context<'_>,
    ) {
        let leader = self.leader_text();
        self.fence(&old_id, context);
        self.rename(&old_id, &new_id);
        self.heard_of(&new_id, context);
        let Some(member) = self.members.get(&new_id) else { return };
        let replacement = StaticReplacement {
            instance_id: request.group_instance_id.clone().expect("only static members are replaced"),
            generation: self.generation,
            old_id,
            new_id: new_id.clone(),
            old_protocols: member.protocols.clone(),
            old_rebalance_timeout_ms: member.rebalance_timeout_ms,
            old_session_timeout_ms: member.session_timeout_ms,
            leader,
            skip_assignment_supported: request.skip_assignment_supported,
        };
        self.park_join(&new_id, Some(token), request, context);
        match self.state {
            // The same protocol as before: the member gets its assignment back without a rebalance, once it is durable.
            ClassicState::Stable if self.selected_protocol() == self.protocol_name => {
                let write = Write::of_group(&self.id, Then::ClassicStaticReplaced(Box::new(replacement)));
                context.persist(self.partition, &[self.record()], write);
            }
            ClassicState::Stable => {
                self.rebalance(context);
            }
            // The leader may already be assigning to the old id.
            ClassicState::CompletingRebalance => {
                self.prepare_rebalance(context);
            }
            ClassicState::PreparingRebalance => {
                self.complete_join_if_all_joined(context);
            }
            ClassicState::Empty => unreachable!("an empty group has no static members"),
        }
    }

    /// Tells a parked earlier self that it was replaced.
    fn fence(&mut self, id: &str, context: &mut Context<'_>) {
        self.answer_join(id, JoinAnswer::refused(id.into(), GroupError::FencedInstanceId), context);
        self.answer_sync(id, SyncAnswer::refused(GroupError::FencedInstanceId), context);
        context.timers.cancel(&self.session_timer(id));
    }

    fn rename(&mut self, old_id: &Text, new_id: &Text) {
        let Some(mut member) = self.members.remove(old_id) else { return };
        member.id = new_id.clone();
        member.is_new = false;
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(instance_id.clone(), new_id.clone());
        }
        if self.is_leader(old_id) {
            self.leader = Some(new_id.clone());
        }
        if self.pending_sync.remove(old_id) {
            self.pending_sync.insert(new_id.clone());
        }
        self.members.insert(new_id.clone(), member);
    }

    /// The record of a returned static member is durable, or will never be: then it is as if it had not returned.
    pub(in crate::group) fn static_replaced(
        &mut self,
        replacement: StaticReplacement,
        result: Result<(), GroupError>,
        context: &mut Context<'_>,
    ) {
        let StaticReplacement { instance_id, old_id, new_id, .. } = replacement;
        if self.state != ClassicState::Stable || self.generation != replacement.generation {
            // A rebalance has begun meanwhile: the parked request counts as its join, and its end writes the new id.
            return;
        }
        if self.static_members.get(&instance_id) != Some(&new_id) {
            // It has returned once more, or left. What the later return falls back on is not durable either: begin anew.
            if result.is_err() {
                self.rebalance(context);
            }
            return;
        }
        if let Err(error) = result {
            self.answer_join(&new_id, JoinAnswer::refused("".into(), error), context);
            context.timers.cancel(&self.session_timer(&new_id));
            self.set_protocols(&new_id, replacement.old_protocols);
            self.rename(&new_id, &old_id);
            if let Some(member) = self.members.get_mut(&old_id) {
                member.rebalance_timeout_ms = replacement.old_rebalance_timeout_ms;
                member.session_timeout_ms = replacement.old_session_timeout_ms;
            }
            self.heard_of(&old_id, context);
            return;
        }
        let mut answer = self.join_answer(&new_id);
        if replacement.skip_assignment_supported {
            answer.skip_assignment = self.is_leader(&new_id);
        } else {
            // An old client that thinks itself leader would assign anew: it is shown the id that led before (KIP-814).
            answer.members = Vec::new();
            answer.leader = replacement.leader;
        }
        self.answer_join(&new_id, answer, context);
    }
}
