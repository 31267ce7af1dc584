//! The reconciliation of a member: from what it has to what it is to have, in an order that never gives a partition to two.
//!
//! A member first gives up what it is not to keep and says so by the partitions that it reports; then it gets what is free;
//! what others still own follows when they have given it up. Source: KIP-848; Apache Kafka's `CurrentAssignmentBuilder`.

use super::*;

/// What a member says that it owns.
pub(super) type Reported<'a> = Option<&'a [(TopicId, Vec<i32>)]>;

impl State {
    /// The member one step closer to its target.
    pub(super) fn reconciled(
        &self,
        member: &Member,
        subscription_changed: bool,
        reported: Reported<'_>,
        topics: &TopicsImage,
    ) -> Member {
        let subscribed: BTreeSet<TopicId> =
            self.subscribed_names(member).filter_map(|name| topics.by_name(name)).map(|(id, _)| id).collect();
        match member.state {
            MemberState::Stable if member.epoch != self.assignment_epoch => {
                self.next_assignment(member, member.epoch, &subscribed, reported)
            }
            MemberState::Stable if subscription_changed => unsubscribed(member, &subscribed, reported),
            MemberState::Stable => member.clone(),
            MemberState::UnrevokedPartitions if owns_any(reported, &member.revoking) => {
                if subscription_changed {
                    unsubscribed(member, &subscribed, reported)
                } else {
                    member.clone()
                }
            }
            MemberState::UnrevokedPartitions | MemberState::UnreleasedPartitions => {
                self.next_assignment(member, member.epoch, &subscribed, reported)
            }
            // It has begun from nothing, or it would have been fenced.
            MemberState::Unknown => self.next_assignment(member, self.assignment_epoch, &subscribed, reported),
        }
    }

    fn next_assignment(
        &self,
        member: &Member,
        epoch: i32,
        subscribed: &BTreeSet<TopicId>,
        reported: Reported<'_>,
    ) -> Member {
        let none = Partitions::new();
        let target = self.targets.get(&member.id).unwrap_or(&none);
        let is_target = |topic: TopicId, partition: i32| {
            subscribed.contains(&topic) && target.get(&topic).is_some_and(|partitions| partitions.contains(&partition))
        };
        let mut kept = Owned::new();
        let mut given_up = Owned::new();
        for (topic, partitions) in &member.assigned {
            for (partition, since) in partitions {
                let goes_to = if is_target(*topic, *partition) { &mut kept } else { &mut given_up };
                goes_to.entry(*topic).or_default().insert(*partition, *since);
            }
        }
        if owns_any(reported, &given_up) {
            let mut next = member.clone();
            next.set_epoch(epoch);
            next.state = MemberState::UnrevokedPartitions;
            next.assigned = kept;
            next.revoking = given_up;
            return next;
        }
        let mut is_missing_some = false;
        for (topic, partitions) in target.iter().filter(|(topic, _)| subscribed.contains(topic)) {
            for partition in partitions {
                let is_kept = kept.get(topic).is_some_and(|kept| kept.contains_key(partition));
                if is_kept {
                    continue;
                }
                if self.others_own(&member.id, *topic, *partition) {
                    is_missing_some = true;
                } else {
                    kept.entry(*topic).or_default().insert(*partition, self.assignment_epoch);
                }
            }
        }
        let mut next = member.clone();
        next.set_epoch(self.assignment_epoch);
        next.state = if is_missing_some { MemberState::UnreleasedPartitions } else { MemberState::Stable };
        next.assigned = kept;
        next.revoking = Owned::new();
        next
    }

    fn others_own(&self, member: &Text, topic: TopicId, partition: i32) -> bool {
        self.members.values().any(|other| other.id != *member && other.owns(topic, partition))
    }
}

/// The member without the topics that it is not subscribed to any more.
fn unsubscribed(member: &Member, subscribed: &BTreeSet<TopicId>, reported: Reported<'_>) -> Member {
    let mut next = member.clone();
    let gone: Vec<TopicId> = member.assigned.keys().filter(|topic| !subscribed.contains(topic)).copied().collect();
    if gone.is_empty() {
        return next;
    }
    let mut revoking = member.revoking.clone();
    for topic in gone {
        if let Some(partitions) = next.assigned.remove(&topic) {
            revoking.entry(topic).or_default().extend(partitions);
        }
    }
    next.set_epoch(member.epoch);
    if owns_any(reported, &revoking) {
        next.state = MemberState::UnrevokedPartitions;
        next.revoking = revoking;
    }
    next
}

/// Whether the member owns any of these, as far as it said: silence means that nothing has changed.
fn owns_any(reported: Reported<'_>, owned: &Owned) -> bool {
    if owned.is_empty() {
        return false;
    }
    let Some(reported) = reported else { return true };
    reported.iter().any(|(topic, partitions)| {
        owned.get(topic).is_some_and(|owned| partitions.iter().any(|partition| owned.contains_key(partition)))
    })
}
