//! Devices that have no room below them: files in a file system that is full, whatever the pool has left of them.
//!
//! As long as a device is known to be so, of its free extents only those are taken that were in use before: their blocks are in the file
//! already. The last of what can be taken at all is left to metadata. No file system says that it has room again, so it is asked
//! (`vdisk/below.rs`).

use std::rc::Rc;

use plimsoll_hardware::{IoError, Machine};

use super::group::{Bits, GroupInfo, place};
use super::{Space, margin};
use crate::event::Shortage;
use crate::format::{ExtentId, GROUP_EXTENTS, META_PAGES_PER_EXTENT};
use crate::media::Disk;

impl GroupInfo {
    /// Free extents whose blocks the file has, as far as is known.
    fn backed(&self) -> Option<Bits> {
        let (taken, backed) = (self.taken.as_ref()?, self.backed.as_ref()?);
        Some(**backed & !**taken)
    }

    /// Extents that may be taken.
    fn usable(&self) -> u64 {
        match (self.closed, self.full) {
            (true, _) => 0,
            (_, false) => u64::from(self.free),
            (_, true) => self.backed().map_or(0, |backed| backed.count_ones() as u64),
        }
    }

    /// First, or last, extent that may be taken, of a group that was read.
    pub(super) fn end_of_usable(&self, last: bool) -> Option<usize> {
        let free = match self.full {
            true => self.backed()?,
            false => !**self.taken.as_ref()?,
        };
        if last { free.last_one() } else { free.first_one() }
    }
}

impl<M: Machine> Space<M> {
    /// Takes over which devices are full.
    pub(crate) fn note_full(&self) {
        let drives = self.media.drives();
        let full: Vec<_> = drives.iter().filter(|drive| drive.is_full()).map(|drive| drive.groups()).collect();
        self.some_full.set(!full.is_empty());
        for (index, info) in self.groups.borrow_mut().iter_mut().enumerate() {
            info.full = full.iter().any(|range| range.contains(&(index as u64)));
        }
    }

    /// As [`Space::note_full`], when writes to these extents found no room: they are not taken for having their blocks again.
    pub(crate) fn note_full_at(&self, extents: impl IntoIterator<Item = ExtentId>) {
        extents.into_iter().for_each(|extent| self.set_backed(extent, false));
        self.note_full();
    }

    /// A checkpoint finds no room for its pages, or does again.
    pub(crate) fn set_starved(&self, starved: bool) {
        if self.starved.replace(starved) && !starved {
            self.ledger.eased.notify();
        }
    }

    pub(crate) fn is_starved(&self) -> bool {
        self.starved.get()
    }

    /// Why nobody can have so many extents more of which the pool has enough.
    pub(crate) fn full_below(&self, extents: u64) -> Option<Shortage> {
        if !self.some_full.get() {
            return None;
        }
        let free_pages = self.meta.borrow().free_pages();
        let kept = margin(self.dirty_max()).saturating_sub(free_pages / u64::from(META_PAGES_PER_EXTENT));
        let usable: u64 = self.groups.borrow().iter().map(GroupInfo::usable).sum();
        (self.starved.get() || usable < extents + kept + self.ledger.granted.get()).then_some(Shortage::DeviceFull)
    }

    /// Why an extent of a full device cannot be moved to where there are all of its blocks.
    pub(crate) fn stuck(&self) -> Option<Shortage> {
        let nowhere = self.some_full.get() && self.available() == 0;
        if nowhere { Some(Shortage::DeviceFull) } else { self.full_below(1) }
    }

    pub(crate) fn is_some_full(&self) -> bool {
        self.some_full.get()
    }

    /// A free extent of a full device whose blocks the file has.
    pub(super) fn find_backed(&self) -> Option<ExtentId> {
        let groups = self.groups.borrow();
        let mut full = groups.iter().enumerate().filter(|(_, info)| info.full && !info.closed);
        full.find_map(|(group, info)| {
            info.end_of_usable(false).map(|slot| ExtentId(group as u64 * GROUP_EXTENTS + slot as u64))
        })
    }

    /// Remembers that the file has the blocks of an extent, or that it lacks some.
    pub(crate) fn set_backed(&self, extent: ExtentId, backed: bool) {
        let (group, slot) = place(extent);
        if let Some(info) = self.groups.borrow_mut().get_mut(group as usize)
            && (backed || info.backed.is_some())
        {
            info.backed.get_or_insert_default().set(slot, backed);
        }
    }

    /// Has space kept for an extent in whatever it is on; `false`: there is none. It must be held.
    pub(super) async fn allocate_below(&self, extent: ExtentId) -> bool {
        let Some((drive, start)) = self.media.locate(extent) else { return true };
        // Of other errors the write that follows will tell.
        let full = matches!(drive.allocate(start, self.media.extent_bytes).await, Err(IoError::NoSpace { .. }));
        self.set_backed(extent, !full);
        !full
    }

    /// Whether a full device has room for an extent more.
    pub(crate) async fn has_room_below(&self, disk: &Rc<Disk<M::Device>>) -> bool {
        let drives = self.media.drives();
        for group in drives.iter().filter(|drive| drive.is_of(disk)).flat_map(|drive| drive.groups()) {
            if self.group_has_free(group) && self.load_group(group).await.is_ok() {
                let Some(extent) = self.unbacked_in(group) else { continue };
                self.hold(extent);
                let has_room = self.allocate_below(extent).await;
                self.let_go(extent);
                return has_room;
            }
        }
        // It gets no extent more, and whether it has room for more blocks of those that it has, a write will show.
        true
    }

    fn group_has_free(&self, group: u64) -> bool {
        // A device that is growing has groups already that are not given out.
        self.groups.borrow().get(group as usize).is_some_and(|info| info.free > 0)
    }

    fn unbacked_in(&self, group: u64) -> Option<ExtentId> {
        let groups = self.groups.borrow();
        let info = groups.get(group as usize)?;
        let taken = **info.taken.as_ref()?;
        let known = info.backed.as_ref().map_or(taken, |backed| taken | **backed);
        known.first_zero().map(|slot| ExtentId(group * GROUP_EXTENTS + slot as u64))
    }
}
