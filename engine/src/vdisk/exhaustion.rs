//! Saying that a vdisk's writes find no space, and that they do again: once each, however many writes there are.
//!
//! An *episode* begins with the first write that finds none. If writes are held it is over when none waits any more and one got space. If
//! they fail at once it is over when as much is there as the last one lacked, but not within [`RESUME_PAUSE`] of the end before: a vdisk
//! whose writes fail and succeed in turn stays exhausted meanwhile. So does, after [`QUICK_MAX`] quick ones, one whose writes are held and
//! go on in turn.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use plimsoll_hardware::Machine;

use super::wait_for_space::Need;
use super::{Store, VdiskCore};
use crate::event::{Shortage, SpaceEvent, VdiskName};

/// Nobody makes space more often than once a minute: what is told more often is one and the same want of it.
const RESUME_PAUSE: Duration = Duration::from_secs(60);

/// Episodes that may end within [`RESUME_PAUSE`] of each other before it is one and the same want: somebody who makes space step by step
/// is told of each.
const QUICK_MAX: u32 = 10;

/// An episode, beside its beginning.
#[derive(Default)]
pub(crate) struct Episode {
    /// Extents that the last write lacked that found no space.
    pub(super) lacked: Cell<u64>,
    /// It began in an earlier life, nobody here knows when.
    pub(super) inherited: Cell<bool>,
    /// Why there is none, by the last look; unknown when the episode began in an earlier life.
    cause: Cell<Option<Shortage>>,
    /// A write got space since.
    supplied: Cell<bool>,
    /// Held writes that came to their bound, and what they needed.
    expired: Cell<(u64, u64)>,
    /// How long the first of them was held, until that is told; and that it was, or will be.
    expiry: Cell<Option<Duration>>,
    told_expired: Cell<bool>,
    /// It was told that there is no memory to hold writes in.
    overflown: Cell<bool>,
    /// When the episode before was over.
    resumed_at: Cell<Option<Duration>>,
    /// How many of those before ended quickly after the one before them.
    quick: Cell<u32>,
}

impl Episode {
    /// A write still finds no space.
    pub(super) fn lacks(&self, cause: Shortage) {
        self.cause.set(Some(cause));
    }
}

impl VdiskCore {
    /// Why its writes find no space; none when they do, or when that is not known.
    pub(super) fn shortage(&self) -> Option<Shortage> {
        self.exhausted.get().and(self.episode.cause.get())
    }

    /// As events name it.
    pub(crate) fn event_name(&self) -> VdiskName {
        let entry = self.entry.borrow();
        let (vm, tenant) = (entry.policy.vm.clone(), entry.policy.tenant.clone());
        VdiskName { name: entry.name.clone(), uuid: entry.uuid, vm, tenant }
    }
}

impl<M: Machine> Store<M> {
    /// A write found no space; it waits, or not.
    pub(super) fn note_exhausted(&self, vdisk: &VdiskCore, need: &Need, held: bool) {
        vdisk.episode.lacked.set(need.extents());
        vdisk.episode.lacks(need.shortage.get());
        vdisk.episode.supplied.set(false);
        if vdisk.exhausted.get().is_some() || !vdisk.ready.get() {
            return;
        }
        vdisk.exhausted.set(Some(self.media.machine.now()));
        // It is looked at from now on.
        self.alarms.some_exhausted.set(true);
        self.space.ledger.unrest.notify();
        self.alarms.raise(SpaceEvent::Exhausted {
            vdisk: vdisk.event_name(),
            needed_bytes: need.extents() * self.media.extent_bytes,
            cause: need.shortage.get(),
            device: self.full_device(need.shortage.get()),
            held,
        });
    }

    /// A write of a vdisk got space.
    #[inline]
    pub(super) fn note_supplied(&self, vdisk: &VdiskCore) {
        if vdisk.held.get().0 > 0 {
            // Others may have waited for the same extent.
            self.space.ledger.eased.notify();
        }
        if vdisk.exhausted.get().is_some() {
            vdisk.episode.supplied.set(true);
            self.note_end(vdisk);
        }
    }

    /// Looks at every vdisk that is exhausted: which could write again if anybody still wanted to. Answers whether some still are.
    pub(super) fn note_relieved(&self) -> bool {
        let is_exhausted = |vdisk: &&Rc<VdiskCore>| vdisk.exhausted.get().is_some();
        let vdisks: Vec<_> = self.vdisks.borrow().values().filter(is_exhausted).cloned().collect();
        vdisks.iter().for_each(|vdisk| self.note_end(vdisk));
        vdisks.iter().any(|vdisk| is_exhausted(&vdisk))
    }

    /// Tells that the episode is over, if it is.
    fn note_end(&self, vdisk: &VdiskCore) {
        let (episode, now) = (&vdisk.episode, self.media.machine.now());
        // One is forgotten for each pause that has gone by.
        let pauses = episode
            .resumed_at
            .get()
            .map_or(u64::MAX, |before| now.saturating_sub(before).as_secs() / RESUME_PAUSE.as_secs());
        let early = pauses == 0;
        let quick = episode.quick.get().saturating_sub(u32::try_from(pauses).unwrap_or(u32::MAX)) + u32::from(early);
        let supplied = quick <= QUICK_MAX && vdisk.waited.get() > 0 && episode.supplied.get();
        // Nobody may be left who could show it by a write.
        let relieved = || !early && self.space.shortage(&vdisk.mapping.account, episode.lacked.get().max(1)).is_none();
        if vdisk.held.get().0 > 0 || !(supplied || relieved()) {
            return;
        }
        let Some(since) = vdisk.exhausted.take() else { return };
        self.tell_expired(vdisk);
        episode.resumed_at.set(Some(now));
        episode.quick.set(quick);
        episode.overflown.set(false);
        episode.told_expired.set(false);
        let (expired, expired_bytes) = episode.expired.take();
        self.alarms.raise(SpaceEvent::Resumed {
            vdisk: vdisk.event_name(),
            lasted: (!episode.inherited.take()).then(|| now.saturating_sub(since)),
            writes: vdisk.waited.take(),
            expired,
            expired_bytes,
        });
    }

    /// A held write came to its bound. Told at once, with those that do so in the same instant, and once in an episode.
    pub(super) fn note_expired(&self, vdisk: &VdiskCore, need: &Need, held_for: Duration) {
        let (writes, bytes) = vdisk.episode.expired.get();
        vdisk.episode.expired.set((writes + 1, bytes + need.extents() * self.media.extent_bytes));
        if !vdisk.episode.told_expired.replace(true) {
            vdisk.episode.expiry.set(Some(held_for));
            self.alarms.some_expired.set(true);
            self.space.ledger.unrest.notify();
        }
    }

    /// A write should be held, and held ones take too much memory already.
    pub(super) fn note_overflow(&self, vdisk: &VdiskCore, need: &Need, bound_bytes: u64) {
        let (writes, bytes) = vdisk.episode.expired.get();
        vdisk.episode.expired.set((writes + 1, bytes + need.extents() * self.media.extent_bytes));
        if !vdisk.episode.overflown.replace(true) {
            let held_bytes = (vdisk.held.get().1, self.holds.figures().1);
            let cause = need.shortage.get();
            let (vdisk, device) = (vdisk.event_name(), self.full_device(cause));
            self.alarms.raise(SpaceEvent::HoldOverflow { vdisk, held_bytes, bound_bytes, cause, device });
        }
    }

    /// Tells whose held writes came to their bound since this was last asked.
    pub(super) fn tell_expiries(&self) {
        if !self.alarms.some_expired.take() {
            return;
        }
        let vdisks: Vec<_> =
            self.vdisks.borrow().values().filter(|vdisk| vdisk.exhausted.get().is_some()).cloned().collect();
        vdisks.iter().for_each(|vdisk| self.tell_expired(vdisk));
    }

    fn tell_expired(&self, vdisk: &VdiskCore) {
        let Some(held_for) = vdisk.episode.expiry.take() else { return };
        let (writes, needed_bytes) = vdisk.episode.expired.get();
        let cause = vdisk.episode.cause.get().unwrap_or(Shortage::PoolFull);
        let (vdisk, device) = (vdisk.event_name(), self.full_device(cause));
        self.alarms.raise(SpaceEvent::HoldExpired { vdisk, held_for, writes, needed_bytes, cause, device });
    }

    fn full_device(&self, cause: Shortage) -> Option<String> {
        (cause == Shortage::DeviceFull).then(|| self.full_device_path())
    }
}
