//! What a step of the coordinator works with besides the group at hand: the time, the settings, timers, writes in flight,
//! and the effects.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tidegate_records::time::Now;

use super::{
    GroupEffect, PersistToken, RequestToken,
    classic::StaticReplacement,
    config::GroupConfig,
    coordinator::Group,
    offsets::OffsetKey,
    record_format::GroupRecord,
    request::{GroupAnswer, Text},
    timers::{Timer, Timers},
};

/// Everything that a group's rules may touch outside of the group.
pub(super) struct Context<'a> {
    pub(super) now: Now,
    pub(super) config: &'a GroupConfig,
    pub(super) timers: &'a mut Timers,
    pub(super) ledger: &'a mut Ledger,
    pub(super) member_ids: &'a mut MemberIds,
    pub(super) effects: &'a mut Vec<GroupEffect>,
}

impl Context<'_> {
    pub(super) fn answer(&mut self, token: RequestToken, answer: GroupAnswer) {
        self.effects.push(GroupEffect::Answer { token, answer });
    }

    pub(super) fn schedule(&mut self, timer: Timer, after: Duration) {
        self.timers.schedule(timer, self.now.instant + after);
    }

    /// Hands records to the log. `write.then` runs once their fate is known.
    pub(super) fn persist(&mut self, partition: i32, records: &[GroupRecord], write: Write) -> PersistToken {
        let token = self.ledger.open(partition, write);
        let records = records.iter().map(GroupRecord::encode).collect();
        self.effects.push(GroupEffect::Persist { token, partition, records });
        token
    }
}

/// Milliseconds from a client; a negative number is none.
pub(super) fn millis(millis: i32) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// A write in flight.
#[derive(Debug)]
pub(super) struct Write {
    /// The group whose state the write carries; `None` if it carries several.
    pub(super) group: Option<Text>,
    /// The offsets that it carries.
    pub(super) offsets: Vec<OffsetKey>,
    /// Sent when it is durable; sent as refusals when it failed.
    pub(super) answers: Vec<(RequestToken, GroupAnswer)>,
    pub(super) then: Then,
}

impl Write {
    pub(super) fn of_group(group: &Text, then: Then) -> Self {
        Self { group: Some(group.clone()), offsets: Vec::new(), answers: Vec::new(), then }
    }
}

/// What is left to do when the fate of a write is known.
#[derive(Debug)]
pub(super) enum Then {
    Nothing,
    /// A classic group got its first record, in the place of an empty consumer group if `replaced`. If that failed, it goes.
    ClassicCreated {
        replaced: Option<Box<Group>>,
    },
    /// The leader's assignment: propagate it, if the generation is still the same.
    ClassicSynced {
        generation: i32,
        assignments: BTreeMap<Text, Bytes>,
    },
    /// A static member came back under a new id while the group was stable.
    ClassicStaticReplaced(Box<StaticReplacement>),
    /// Records of a consumer group. `replaced` is the empty classic group in whose place it came.
    ConsumerChanged {
        replaced: Option<Box<Group>>,
    },
    /// Groups were deleted, at a client's request or because they expired. If that failed, they come back.
    GroupsRemoved {
        request: Option<RequestToken>,
        groups: Vec<Group>,
    },
}

/// The writes whose fate is not known yet.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    opened: u64,
    in_flight: BTreeMap<PersistToken, (i32, Write)>,
}

impl Ledger {
    fn open(&mut self, partition: i32, write: Write) -> PersistToken {
        self.opened += 1;
        let token = PersistToken(self.opened);
        self.in_flight.insert(token, (partition, write));
        token
    }

    /// The write's fate is known. `None` if it was abandoned by an unload.
    pub(super) fn close(&mut self, token: PersistToken) -> Option<Write> {
        self.in_flight.remove(&token).map(|(_, write)| write)
    }

    /// The latest write that touches the group, if one is in flight.
    pub(super) fn latest_of(&self, group: &str) -> Option<PersistToken> {
        let touches = |write: &Write| {
            write.group.as_deref().is_none_or(|of| of == group) || write.offsets.iter().any(|(of, _, _)| **of == *group)
        };
        self.in_flight.iter().rev().find(|(_, (_, write))| touches(write)).map(|(token, _)| *token)
    }

    /// Sends the answer once the write is durable.
    pub(super) fn answer_with(&mut self, token: PersistToken, request: RequestToken, answer: GroupAnswer) {
        let (_, write) = self.in_flight.get_mut(&token).expect("whoever holds the token has just opened the write");
        write.answers.push((request, answer));
    }

    /// Drops the writes of a partition and hands out what waited for them.
    pub(super) fn abandon(&mut self, partition: i32) -> Vec<(PersistToken, Write)> {
        let tokens: Vec<_> =
            self.in_flight.iter().filter(|(_, (of, _))| *of == partition).map(|(token, _)| *token).collect();
        tokens.into_iter().filter_map(|token| Some((token, self.close(token)?))).collect()
    }
}

/// Makes member ids: unique, without a visible pattern, and the same for the same seed.
#[derive(Clone, Debug)]
pub(super) struct MemberIds {
    seed: (u64, u64),
    made: u64,
}

impl MemberIds {
    pub(super) fn new(seed: u128) -> Self {
        Self { seed: ((seed >> 64) as u64, seed as u64), made: 0 }
    }

    /// A counter, mixed with both halves of the seed by the finalizer of splitmix64 (Steele, Lea and Flood).
    fn next(&mut self) -> u64 {
        let mix = |mut word: u64| {
            word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ word >> 31
        };
        self.made += 1;
        mix(mix(self.seed.0.wrapping_add(self.made.wrapping_mul(0x9e37_79b9_7f4a_7c15))) ^ self.seed.1)
    }

    /// A random UUID (version 4) in its usual text form.
    pub(super) fn uuid(&mut self) -> String {
        let high = self.next() & !0xf000 | 0x4000;
        let low = self.next() & !(0b11 << 62) | 0b10 << 62;
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }
}
