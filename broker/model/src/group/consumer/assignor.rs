//! The assignors of the broker: which member is to have which partitions.
//!
//! `uniform` spreads all partitions evenly and moves as few as it can. `range` gives each member neighbouring partitions of
//! each topic, the same index of all topics to the same member, so that co-partitioned topics can be joined.
//! Source: Apache Kafka's `UniformAssignor` and `RangeAssignor`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate_records::ids::TopicId;

use super::Partitions;
use crate::group::request::Text;

/// The assignor of a group whose members ask for none.
pub(super) const DEFAULT: &str = UNIFORM;
const UNIFORM: &str = "uniform";
const RANGE: &str = "range";
/// What members may ask for.
pub(super) const SUPPORTED: [&str; 2] = [UNIFORM, RANGE];

/// A member as an assignor sees it.
pub(super) struct Candidate<'a> {
    pub(super) id: &'a Text,
    pub(super) instance_id: Option<&'a Text>,
    /// Existing topics only.
    pub(super) topics: BTreeSet<TopicId>,
    /// Its present target.
    pub(super) current: &'a Partitions,
}

/// The new targets; every candidate has one. `counts` has every topic of every candidate.
pub(super) fn assign(
    assignor: &str,
    candidates: &[Candidate<'_>],
    counts: &BTreeMap<TopicId, i32>,
) -> BTreeMap<Text, Partitions> {
    match assignor {
        RANGE => range(candidates, counts),
        _ => uniform(candidates, counts),
    }
}

fn range(candidates: &[Candidate<'_>], counts: &BTreeMap<TopicId, i32>) -> BTreeMap<Text, Partitions> {
    // Static members first, by their instance ids, so that a restart under a new member id changes nothing.
    let mut sorted: Vec<&Candidate<'_>> = candidates.iter().collect();
    sorted.sort_by_key(|candidate| (candidate.instance_id.is_none(), candidate.instance_id.unwrap_or(candidate.id)));
    let mut targets: BTreeMap<Text, Partitions> =
        candidates.iter().map(|candidate| (candidate.id.clone(), Partitions::new())).collect();
    for (topic, count) in counts {
        let subscribers: Vec<_> = sorted.iter().filter(|candidate| candidate.topics.contains(topic)).collect();
        let members = i32::try_from(subscribers.len()).expect("fewer members than partitions can be numbered");
        let mut next = 0;
        for (index, candidate) in (0..).zip(&subscribers) {
            let share = count / members + i32::from(index < count % members);
            if share > 0 {
                let target = targets.get_mut(candidate.id).expect("every candidate has a target");
                target.insert(*topic, (next..next + share).collect());
            }
            next += share;
        }
    }
    targets
}

fn uniform(candidates: &[Candidate<'_>], counts: &BTreeMap<TopicId, i32>) -> BTreeMap<Text, Partitions> {
    let mut plan = Plan::keeping_current(candidates, counts);
    let homogeneous = candidates.windows(2).all(|pair| pair[0].topics == pair[1].topics);
    if homogeneous {
        plan.shed_over_quota();
    }
    plan.hand_out_free();
    if !homogeneous {
        plan.balance();
    }
    plan.into_targets(candidates)
}

/// Who has what so far.
struct Plan {
    /// For each candidate.
    owned: Vec<BTreeSet<(TopicId, i32)>>,
    free: BTreeSet<(TopicId, i32)>,
    /// For each topic, by index.
    subscribers: BTreeMap<TopicId, Vec<usize>>,
}

impl Plan {
    /// Everybody keeps what they may: subscribed, existing, and nobody else's.
    fn keeping_current(candidates: &[Candidate<'_>], counts: &BTreeMap<TopicId, i32>) -> Self {
        let mut free: BTreeSet<(TopicId, i32)> =
            counts.iter().flat_map(|(topic, count)| (0..*count).map(move |partition| (*topic, partition))).collect();
        let mut subscribers = BTreeMap::<TopicId, Vec<usize>>::new();
        let mut owned = Vec::with_capacity(candidates.len());
        for (index, candidate) in candidates.iter().enumerate() {
            for topic in &candidate.topics {
                subscribers.entry(*topic).or_default().push(index);
            }
            let current = candidate.current.iter().filter(|(topic, _)| candidate.topics.contains(topic));
            let current =
                current.flat_map(|(topic, partitions)| partitions.iter().map(move |partition| (*topic, *partition)));
            owned.push(current.filter(|partition| free.remove(partition)).collect());
        }
        Self { owned, free, subscribers }
    }

    /// With equal subscriptions the quotas are known: what is over them is given up, and nothing else.
    fn shed_over_quota(&mut self) {
        let members = self.owned.len();
        let total = self.free.len() + self.owned.iter().map(BTreeSet::len).sum::<usize>();
        let (quota, mut extra) = match members {
            0 => return,
            members => (total / members, total % members),
        };
        // Who has most gets the extra ones, so that fewer move.
        let mut order: Vec<usize> = (0..members).collect();
        order.sort_by_key(|index| std::cmp::Reverse(self.owned[*index].len()));
        for index in order {
            let allowed = quota + usize::from(extra > 0);
            extra -= usize::from(extra > 0 && self.owned[index].len() >= allowed);
            while self.owned[index].len() > allowed {
                let given_up = self.owned[index].pop_last().expect("it has more than it may");
                self.free.insert(given_up);
            }
        }
    }

    /// What nobody has goes to whoever has least among its subscribers; topics with few subscribers first.
    fn hand_out_free(&mut self) {
        let mut free: Vec<_> = std::mem::take(&mut self.free).into_iter().collect();
        free.sort_by_key(|(topic, partition)| (self.subscribers[topic].len(), *topic, *partition));
        // The members in the order of their load; members with the same load in their own order.
        let mut by_load: BTreeSet<(usize, usize)> =
            self.owned.iter().enumerate().map(|(index, owned)| (owned.len(), index)).collect();
        for (topic, partition) in free {
            let subscribers = &self.subscribers[&topic];
            let everybody = subscribers.len() == self.owned.len();
            let least = if everybody {
                by_load.first().map(|(_, index)| *index)
            } else {
                subscribers.iter().copied().min_by_key(|index| (self.owned[*index].len(), *index))
            };
            let index = least.expect("a topic is in the plan because somebody is subscribed to it");
            by_load.remove(&(self.owned[index].len(), index));
            self.owned[index].insert((topic, partition));
            by_load.insert((self.owned[index].len(), index));
        }
    }

    /// Evens out what is left: as long as a partition can go from one member to another, perhaps by way of others, so that a
    /// member with at least two more gives to one with fewer.
    fn balance(&mut self) {
        // Every move brings two members closer, so this is an upper bound and not a limit on quality.
        let moves_max = self.owned.iter().map(BTreeSet::len).sum::<usize>();
        for _ in 0..moves_max {
            let mut givers: Vec<usize> = (0..self.owned.len()).collect();
            givers.sort_by_key(|index| (std::cmp::Reverse(self.owned[*index].len()), *index));
            let Some(path) = givers.into_iter().find_map(|giver| self.path_to_relief(giver)) else { return };
            for step in path.windows(2) {
                let (giver, taker) = (step[0], step[1]);
                let takes = |(topic, _): &&(TopicId, i32)| self.subscribers[topic].contains(&taker);
                let moved = self.owned[giver].iter().rfind(takes).copied().expect("the path goes by what they own");
                self.owned[giver].remove(&moved);
                self.owned[taker].insert(moved);
            }
        }
    }

    /// The shortest way from `giver` to a member with at least two partitions less.
    fn path_to_relief(&self, giver: usize) -> Option<Vec<usize>> {
        let load = self.owned[giver].len();
        let mut came_from = BTreeMap::from([(giver, giver)]);
        let mut topics_seen = BTreeSet::new();
        let mut queue = VecDeque::from([giver]);
        while let Some(member) = queue.pop_front() {
            if self.owned[member].len() + 2 <= load {
                let mut path = vec![member];
                while let Some(before) = path.last().and_then(|last| came_from.get(last))
                    && path.last() != Some(before)
                {
                    path.push(*before);
                }
                path.reverse();
                return Some(path);
            }
            for (topic, _) in &self.owned[member] {
                if topics_seen.insert(*topic) {
                    for other in &self.subscribers[topic] {
                        if !came_from.contains_key(other) {
                            came_from.insert(*other, member);
                            queue.push_back(*other);
                        }
                    }
                }
            }
        }
        None
    }

    fn into_targets(self, candidates: &[Candidate<'_>]) -> BTreeMap<Text, Partitions> {
        let targets = candidates.iter().zip(self.owned).map(|(candidate, owned)| {
            let mut target = Partitions::new();
            for (topic, partition) in owned {
                target.entry(topic).or_default().insert(partition);
            }
            (candidate.id.clone(), target)
        });
        targets.collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    struct Case {
        counts: BTreeMap<TopicId, i32>,
        /// Subscriptions, by the index of the topic.
        members: Vec<BTreeSet<usize>>,
    }

    fn case() -> impl Strategy<Value = Case> {
        let counts = proptest::collection::vec(1..12i32, 1..5);
        counts.prop_flat_map(|counts| {
            let subscription = proptest::collection::btree_set(0..counts.len(), 0..=counts.len());
            let members = proptest::collection::vec(subscription, 1..8);
            let counts: BTreeMap<TopicId, i32> = (0..).map(|index| TopicId([index; 16])).zip(counts).collect();
            members.prop_map(move |members| Case { counts: counts.clone(), members })
        })
    }

    /// Assigns from `current`.
    fn run(assignor: &str, case: &Case, current: &BTreeMap<Text, Partitions>) -> BTreeMap<Text, Partitions> {
        let ids: Vec<Text> = (0..case.members.len()).map(|index| format!("member-{index}").into()).collect();
        let topics: Vec<TopicId> = case.counts.keys().copied().collect();
        let none = Partitions::new();
        let candidates: Vec<Candidate<'_>> = ids
            .iter()
            .zip(&case.members)
            .map(|(id, subscription)| Candidate {
                id,
                instance_id: None,
                topics: subscription.iter().map(|index| topics[*index]).collect(),
                current: current.get(id).unwrap_or(&none),
            })
            .collect();
        let subscribed: BTreeSet<TopicId> =
            candidates.iter().flat_map(|candidate| candidate.topics.iter().copied()).collect();
        let mut counts = case.counts.clone();
        counts.retain(|topic, _| subscribed.contains(topic));
        let targets = assign(assignor, &candidates, &counts);

        let mut assigned = BTreeMap::new();
        for candidate in &candidates {
            for (topic, partitions) in &targets[candidate.id] {
                assert!(candidate.topics.contains(topic), "only what it is subscribed to");
                for partition in partitions {
                    assert_eq!(assigned.insert((*topic, *partition), candidate.id), None, "one owner");
                }
            }
        }
        let all: i32 = counts.values().sum();
        assert_eq!(assigned.len(), all as usize, "everything is assigned");
        targets
    }

    fn sizes(targets: &BTreeMap<Text, Partitions>) -> Vec<usize> {
        targets.values().map(|target| target.values().map(BTreeSet::len).sum()).collect()
    }

    proptest! {
        #[test]
        fn everything_is_assigned_to_one_subscriber_and_stays_there(case in case()) {
            for assignor in SUPPORTED {
                let first = run(assignor, &case, &BTreeMap::new());
                prop_assert_eq!(run(assignor, &case, &first), first, "nothing moves without a reason");
            }
        }

        #[test]
        fn equal_subscriptions_are_equally_served_and_few_partitions_move(case in case(), leaves in any::<bool>()) {
            let mut case = case;
            let all: BTreeSet<usize> = (0..case.counts.len()).collect();
            case.members.iter_mut().for_each(|subscription| subscription.clone_from(&all));
            let before = run(UNIFORM, &case, &BTreeMap::new());
            if leaves && case.members.len() > 1 {
                case.members.pop();
            } else {
                case.members.push(all);
            }
            let after = run(UNIFORM, &case, &before);
            let (least, most) = (sizes(&after).into_iter().min(), sizes(&after).into_iter().max());
            prop_assert!(most <= least.map(|least| least + 1), "{:?}", sizes(&after));
            // Members give something up only if there is a new one that must get it.
            let kept: usize = before
                .iter()
                .filter_map(|(id, target)| Some((target, after.get(id)?)))
                .flat_map(|(old, new)| old.iter().map(|(topic, old)| new.get(topic).map_or(0, |new| old.intersection(new).count())))
                .sum();
            let stayed: usize = before.iter().filter(|(id, _)| after.contains_key(*id)).map(|(_, target)| target.values().map(BTreeSet::len).sum::<usize>()).sum();
            let newcomers: usize = after.iter().filter(|(id, _)| !before.contains_key(*id)).map(|(_, target)| target.values().map(BTreeSet::len).sum::<usize>()).sum();
            prop_assert_eq!(kept, stayed - newcomers);
        }

        #[test]
        fn no_partition_could_go_to_a_member_with_two_less(case in case()) {
            let targets = run(UNIFORM, &case, &BTreeMap::new());
            let sizes = sizes(&targets);
            let topics: Vec<TopicId> = case.counts.keys().copied().collect();
            for (giver, target) in targets.values().enumerate() {
                for topic in target.keys() {
                    for (taker, subscription) in case.members.iter().enumerate() {
                        let may_take = subscription.iter().any(|index| topics[*index] == *topic);
                        prop_assert!(!may_take || sizes[giver] <= sizes[taker] + 1);
                    }
                }
            }
        }
    }
}
