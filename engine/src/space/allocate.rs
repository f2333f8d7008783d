//! Taking an extent for a write, and what becomes of it.

use plimsoll_hardware::Machine;

use super::group::{Bits, place};
use super::lanes::RUN;
use super::{Account, Rest, Space};
use crate::event::Shortage;
use crate::format::{ExtentId, GROUP_EXTENTS, VdiskId, VirtualExtent};

/// What a search of the groups in memory comes to.
pub(super) enum Search {
    Found(ExtentId),
    /// This group may have one, and has to be read.
    Read(u64),
    Nothing,
}

impl<M: Machine> Space<M> {
    /// Takes an extent for `at` of a vdisk, beside its neighbours where that is possible, and holds it until it is allocated,
    /// released or a crash forgets it. `granted`: one of those that were granted to it before.
    pub(crate) async fn take(
        &self,
        account: &Account,
        vdisk: VdiskId,
        at: VirtualExtent,
        granted: bool,
    ) -> Result<ExtentId, Shortage> {
        loop {
            let shortage = if granted { self.eaten_up(account) } else { self.shortage(account, 1) };
            if let Some(shortage) = shortage {
                return Err(shortage);
            }
            match self.find(vdisk, at) {
                Search::Found(extent) => {
                    if granted {
                        self.ledger.took_granted();
                    } else {
                        self.ledger.took(account);
                    }
                    return Ok(extent);
                }
                // A group that cannot be read is passed over at the next turn.
                Search::Read(group) => drop(self.load_group(group).await),
                Search::Nothing if self.some_full.get() => return Err(Shortage::DeviceFull),
                Search::Nothing => return Err(Shortage::PoolFull),
            }
        }
    }

    /// As [`Space::take`], when that needs no waiting.
    pub(crate) fn take_at_once(&self, account: &Account, vdisk: VdiskId, at: VirtualExtent) -> Option<ExtentId> {
        if self.shortage(account, 1).is_some() {
            return None;
        }
        match self.find(vdisk, at) {
            Search::Found(extent) => {
                self.ledger.took(account);
                Some(extent)
            }
            _ => None,
        }
    }

    /// Finds an extent in the groups in memory, and holds it.
    pub(super) fn find(&self, vdisk: VdiskId, at: VirtualExtent) -> Search {
        if let Some(extent) = self.take_wished(vdisk, at) {
            return Search::Found(extent);
        }
        let backed = || self.find_backed().map_or(Search::Nothing, Search::Found);
        let found = self.search_run(at).or_else(|| self.search_any()).or_else(backed);
        if let Search::Found(extent) = found {
            self.lanes.borrow_mut().settle(vdisk, at, extent);
            self.hold(extent);
        }
        found
    }

    fn take_wished(&self, vdisk: VdiskId, at: VirtualExtent) -> Option<ExtentId> {
        let wish = self.lanes.borrow_mut().wish(vdisk, at)?;
        let (group, slot) = place(wish);
        let free = {
            let groups = self.groups.borrow();
            let info = groups.get(group as usize)?;
            !info.closed && !info.full && !info.taken.as_ref()?[slot]
        };
        free.then(|| {
            self.hold(wish);
            wish
        })
    }

    /// An extent in a run of sixteen that nobody has touched, at the place that `at` has in its own run.
    fn search_run(&self, at: VirtualExtent) -> Search {
        let mut lanes = self.lanes.borrow_mut();
        let mut groups = self.groups.borrow_mut();
        for _ in 0..lanes.ranges.len() {
            lanes.turn = (lanes.turn + 1) % lanes.ranges.len();
            let turn = lanes.turn;
            let range = &mut lanes.ranges[turn];
            for step in 0..range.end - range.first {
                let group = range.first + (range.cursor - range.first + step) % (range.end - range.first);
                let info = &mut groups[group as usize];
                if info.lost || info.closed || info.full || info.fragmented || info.free < RUN as u32 {
                    continue;
                }
                range.cursor = group;
                let Some(taken) = &info.taken else { return Search::Read(group) };
                if let Some(run) = free_run(taken) {
                    return Search::Found(ExtentId(group * GROUP_EXTENTS + run + at.0 % RUN));
                }
                info.fragmented = true;
            }
        }
        Search::Nothing
    }

    /// Any free extent at all.
    fn search_any(&self) -> Search {
        for (group, info) in self.groups.borrow().iter().enumerate() {
            if info.lost || info.closed || info.full || info.free == 0 {
                continue;
            }
            let Some(taken) = &info.taken else { return Search::Read(group as u64) };
            if let Some(slot) = taken.first_zero() {
                return Search::Found(ExtentId(group as u64 * GROUP_EXTENTS + slot as u64));
            }
        }
        Search::Nothing
    }

    pub(super) fn hold(&self, extent: ExtentId) {
        self.bar(extent);
        self.held.set(self.held.get() + 1);
        self.note_filling();
    }

    /// A held extent becomes data: its record was appended.
    pub(crate) fn allocate(&self, account: &Account, extent: ExtentId) {
        self.ledger.backed_held(account);
        self.held.set(self.held.get() - 1);
        self.data.set(self.data.get() + 1);
        self.change_group(extent, |group, slot| group.set_data(slot));
    }

    /// A held extent was never named by a record: it is free again at once.
    pub(crate) fn forfeit(&self, account: &Account, extent: ExtentId) {
        self.let_go(extent);
        self.ledger.gave_up(account);
    }

    /// A held extent is free again.
    pub(super) fn let_go(&self, extent: ExtentId) {
        self.held.set(self.held.get() - 1);
        self.unbar(extent);
    }

    /// Extents of data are named no more: `sequence` is the batch of the record that says so. Their groups must be loaded.
    pub(crate) fn free(&self, account: &Account, extents: Vec<ExtentId>, sequence: u64, rest: Rest) {
        if extents.is_empty() {
            return;
        }
        for &extent in &extents {
            self.change_group(extent, |group, slot| group.set_free(slot));
        }
        self.data.set(self.data.get() - extents.len() as u64);
        let freed = extents.len() as u64;
        self.put_to_rest(extents, sequence, rest);
        self.ledger.freed(account, freed);
    }

    pub(super) fn put_to_rest(&self, extents: Vec<ExtentId>, sequence: u64, rest: Rest) {
        extents.iter().for_each(|&extent| self.set_backed(extent, true));
        let epoch = self.epochs.advance();
        let quarantine = match rest {
            Rest::Durable => &self.quarantine,
            Rest::Confirmed => &self.moved,
        };
        quarantine.borrow_mut().push(extents, sequence, epoch);
    }

    /// An extent of data is named no more, but a write under way goes on using it: held again.
    pub(crate) fn free_but_hold(&self, account: &Account, extent: ExtentId) {
        self.ledger.freed_but_held(account);
        self.change_group(extent, |group, slot| group.set_free(slot));
        self.data.set(self.data.get() - 1);
        self.held.set(self.held.get() + 1);
    }

    /// A held extent that a record once named is given up: `sequence` is a batch not before that which freed it.
    pub(crate) fn quarantine_held(&self, account: &Account, extent: ExtentId, sequence: u64, rest: Rest) {
        self.held.set(self.held.get() - 1);
        self.put_to_rest(vec![extent], sequence, rest);
        self.ledger.gave_up(account);
    }

    /// Lets go what may be used again, with batches up to these durable and confirmed; answers whether anything was.
    pub(crate) fn release_quarantine(&self, durable: u64, confirmed: u64) -> bool {
        let mut released = self.quarantine.borrow_mut().release(durable, &self.epochs);
        released.append(&mut self.moved.borrow_mut().release(confirmed, &self.epochs));
        for &extent in &released {
            self.unbar(extent);
        }
        if !released.is_empty() {
            self.ledger.eased.notify();
        }
        !released.is_empty()
    }

    /// Replaying a MAP: the extent is data now. Answers whether it was not before. Its group must be loaded.
    pub(crate) fn replay_allocate(&self, extent: ExtentId) -> bool {
        if self.is_allocated(extent) {
            return false;
        }
        self.bar(extent);
        self.data.set(self.data.get() + 1);
        self.change_group(extent, |group, slot| group.set_data(slot));
        true
    }

    /// Replaying what freed an extent: no I/O of this life can be in flight to it. Its group must be loaded.
    pub(crate) fn replay_free(&self, extent: ExtentId) {
        if self.is_allocated(extent) && self.detail(extent).is_none() {
            self.data.set(self.data.get() - 1);
            self.change_group(extent, |group, slot| group.set_free(slot));
            self.set_backed(extent, true);
            self.unbar(extent);
        }
    }
}

impl Search {
    fn or_else(self, other: impl FnOnce() -> Search) -> Search {
        match self {
            Search::Nothing => other(),
            found => found,
        }
    }
}

/// First extent of a free, aligned run of sixteen.
fn free_run(taken: &Bits) -> Option<u64> {
    taken.chunks(RUN as usize).position(|run| run.not_any()).map(|run| run as u64 * RUN)
}
