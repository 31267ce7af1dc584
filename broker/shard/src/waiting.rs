//! Parts of requests that an owner cannot answer at once: produces until they are committed, fetches until there is something to
//! read, lookups until the disk has answered. Each has an origin, to which it is answered exactly once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate_model::partition::CommitRule;
use tidegate_records::{
    ids::{LeaderEpoch, Offset, TopicPartition},
    time::{Instant, Timestamp},
};

use crate::{error::PartitionError, message::*, shard::Effects};

/// A part that waits on this shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartId(u64);

/// Waits in a partition until its commit rule holds for `next_offset`.
pub(crate) struct ProduceWaiter {
    pub(crate) part: PartId,
    pub(crate) item: usize,
    pub(crate) rule: CommitRule,
    pub(crate) base_offset: Offset,
    pub(crate) next_offset: Offset,
}

pub(crate) struct Part {
    pub(crate) origin: Origin,
    pub(crate) deadline: Instant,
    pub(crate) work: PartWork,
}

/// An item of a produce part: its index in the request, where it goes, and its answer once there is one.
type ProducePart = (u32, TopicPartition, Option<Result<Produced, PartitionError>>);

pub(crate) enum PartWork {
    Produce { items: Vec<ProducePart>, open: usize },
    Fetch(FetchPart),
    Deletes { items: Vec<(u32, Option<Result<Offset, PartitionError>>)>, open: usize },
    Lookups { items: Vec<Option<ListedOffset>>, indexes: Vec<u32>, open: usize },
}

pub(crate) struct FetchPart {
    pub(crate) ask: FetchAsk,
    pub(crate) results: Vec<FetchedItem>,
    pub(crate) next_item: usize,
    pub(crate) found_bytes: usize,
    /// Bytes that its answer may hold, by what the shard can hold.
    pub(crate) budget: usize,
    pub(crate) has_error: bool,
    pub(crate) reading: bool,
    pub(crate) woken_while_reading: bool,
    /// Bytes that its partitions had committed when it began to wait.
    pub(crate) parked: Option<u64>,
}

/// The parts of a shard.
#[derive(Default)]
pub(crate) struct Waiting {
    parts: BTreeMap<PartId, Part>,
    next: u64,
    deadlines: BTreeSet<(Instant, PartId)>,
    fetches: BTreeMap<(u16, u64), PartId>,
    woken: VecDeque<PartId>,
}

impl Waiting {
    fn insert(&mut self, part: Part, with_deadline: bool) -> PartId {
        self.next += 1;
        let id = PartId(self.next);
        if with_deadline {
            self.deadlines.insert((part.deadline, id));
        }
        self.parts.insert(id, part);
        id
    }

    pub(crate) fn take(&mut self, id: PartId) -> Option<Part> {
        self.parts.remove(&id)
    }

    pub(crate) fn put(&mut self, id: PartId, part: Part) {
        self.parts.insert(id, part);
    }

    pub(crate) fn wake(&mut self, id: PartId) {
        self.woken.push_back(id);
    }

    pub(crate) fn next_woken(&mut self) -> Option<PartId> {
        self.woken.pop_front()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Parts whose deadline has come; each is named once.
    pub(crate) fn expired(&mut self, now: Instant) -> Vec<PartId> {
        let mut due = Vec::new();
        while let Some((deadline, id)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            due.push(id);
        }
        due
    }

    pub(crate) fn is_fetch(&self, id: PartId) -> bool {
        matches!(self.parts.get(&id), Some(Part { work: PartWork::Fetch(_), .. }))
    }

    // ---- produce ----

    pub(crate) fn begin_produce(&mut self, origin: Origin, items: &[ProduceItem], deadline: Instant) -> PartId {
        let open = items.len();
        let items = items.iter().map(|item| (item.index, item.partition, None)).collect();
        self.insert(Part { origin, deadline, work: PartWork::Produce { items, open } }, true)
    }

    /// One item of a produce part is answered; the last one answers the part.
    pub(crate) fn produced(
        &mut self,
        id: PartId,
        item: usize,
        result: Result<Produced, PartitionError>,
        effects: &mut Effects,
    ) {
        let Some(Part { origin, deadline, work: PartWork::Produce { items, open } }) = self.parts.get_mut(&id) else {
            return;
        };
        let place = &mut items[item].2;
        if place.is_some() {
            return;
        }
        *place = Some(result);
        *open -= 1;
        if *open == 0 {
            let (origin, deadline) = (*origin, *deadline);
            self.deadlines.remove(&(deadline, id));
            if let Some(Part { work: PartWork::Produce { items, .. }, .. }) = self.parts.remove(&id) {
                let items = items
                    .into_iter()
                    .map(|(index, partition, result)| ProducedItem {
                        index,
                        partition,
                        result: result.expect("all items are answered"),
                    })
                    .collect();
                effects.reply(origin, Reply::Produced(items));
            }
        }
    }

    /// Answers every open item of a produce part with an error.
    pub(crate) fn fail_produce(&mut self, id: PartId, error: &PartitionError, effects: &mut Effects) {
        let Some(Part { work: PartWork::Produce { items, .. }, .. }) = self.parts.get(&id) else { return };
        let open: Vec<usize> = (0..items.len()).filter(|item| items[*item].2.is_none()).collect();
        for item in open {
            self.produced(id, item, Err(error.clone()), effects);
        }
    }

    // ---- fetch ----

    pub(crate) fn begin_fetch(&mut self, origin: Origin, ask: FetchAsk) -> PartId {
        let deadline = ask.deadline;
        let fetch = FetchPart {
            ask,
            results: Vec::new(),
            next_item: 0,
            found_bytes: 0,
            budget: 0,
            has_error: false,
            reading: false,
            woken_while_reading: false,
            parked: None,
        };
        let id = self.insert(Part { origin, deadline, work: PartWork::Fetch(fetch) }, true);
        self.fetches.insert((origin.shard.0, origin.request.0), id);
        id
    }

    pub(crate) fn fetch_of(&self, origin: Origin) -> Option<PartId> {
        self.fetches.get(&(origin.shard.0, origin.request.0)).copied()
    }

    /// The fetch is to be answered with what there is.
    pub(crate) fn expire_now(&mut self, id: PartId) {
        if let Some(part) = self.parts.get_mut(&id) {
            self.deadlines.remove(&(part.deadline, id));
            part.deadline = Instant(0);
            self.woken.push_back(id);
        }
    }

    /// A fetch was taken out and is answered.
    pub(crate) fn finished(&mut self, id: PartId, origin: Origin, deadline: Instant) {
        self.deadlines.remove(&(deadline, id));
        self.fetches.remove(&(origin.shard.0, origin.request.0));
    }

    pub(crate) fn produces(&self) -> usize {
        self.parts.values().filter(|part| matches!(part.work, PartWork::Produce { .. })).count()
    }

    // ---- deleting records ----

    pub(crate) fn begin_deletes(&mut self, origin: Origin, items: &[DeleteRecordsItem]) -> PartId {
        let work =
            PartWork::Deletes { items: items.iter().map(|item| (item.index, None)).collect(), open: items.len() };
        self.insert(Part { origin, deadline: Instant(u64::MAX), work }, false)
    }

    /// One item of a part is answered; the last one answers the part.
    pub(crate) fn deleted(
        &mut self,
        id: PartId,
        item: usize,
        result: Result<Offset, PartitionError>,
        effects: &mut Effects,
    ) {
        let Some(Part { origin, work: PartWork::Deletes { items, open }, .. }) = self.parts.get_mut(&id) else {
            return;
        };
        if items[item].1.is_none() {
            items[item].1 = Some(result);
            *open -= 1;
        }
        if *open == 0 {
            let answers =
                std::mem::take(items).into_iter().filter_map(|(index, result)| Some((index, result?))).collect();
            effects.reply(*origin, Reply::RecordsDeleted(answers));
            self.parts.remove(&id);
        }
    }

    // ---- lookups ----

    pub(crate) fn begin_lookups(&mut self, origin: Origin, count: usize) -> PartId {
        let items = std::iter::repeat_with(|| None).take(count).collect();
        let work = PartWork::Lookups { items, indexes: vec![0; count], open: count };
        self.insert(Part { origin, deadline: Instant(u64::MAX), work }, false)
    }

    pub(crate) fn lookup_index(&mut self, id: PartId, item: usize, index: u32) {
        if let Some(Part { work: PartWork::Lookups { indexes, .. }, .. }) = self.parts.get_mut(&id) {
            indexes[item] = index;
        }
    }

    pub(crate) fn listed(
        &mut self,
        id: PartId,
        item: usize,
        index: u32,
        result: Result<(Offset, Timestamp, LeaderEpoch), PartitionError>,
    ) {
        if let Some(Part { work: PartWork::Lookups { items, open, .. }, .. }) = self.parts.get_mut(&id)
            && items[item].is_none()
        {
            items[item] = Some(ListedOffset { index, result });
            *open -= 1;
        }
    }

    pub(crate) fn looked_up(
        &mut self,
        id: PartId,
        item: usize,
        result: Result<(Offset, Timestamp, LeaderEpoch), PartitionError>,
    ) {
        let index = match self.parts.get(&id) {
            Some(Part { work: PartWork::Lookups { indexes, .. }, .. }) => indexes[item],
            _ => return,
        };
        self.listed(id, item, index, result);
    }

    /// Answers a part of lookups if none is open.
    pub(crate) fn finish_lookups(&mut self, id: PartId, effects: &mut Effects) {
        let Some(Part { work: PartWork::Lookups { open: 0, .. }, .. }) = self.parts.get(&id) else { return };
        if let Some(Part { origin, work: PartWork::Lookups { items, .. }, .. }) = self.parts.remove(&id) {
            effects.reply(origin, Reply::OffsetsListed(items.into_iter().flatten().collect()));
        }
    }
}
