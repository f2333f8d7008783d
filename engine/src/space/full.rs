//! Devices that have no room below them: files in a file system that is full, whatever the pool has left of them.
//!
//! As long as a device is known to be so, of its free extents only those are taken that were in use before: their blocks are in the file
//! already. What the metadata reserve lacks of extents set apart (`kept`) has precedence among them. No file system says that it has room
//! again, so it is asked (`vdisk/below.rs`).

use std::rc::Rc;
use std::time::Duration;

use plimsoll_hardware::{IoError, Machine};

use super::Space;
use super::group::{Bits, GroupInfo, place};
use crate::event::Shortage;
use crate::format::{ExtentId, GROUP_EXTENTS, META_PAGES_PER_EXTENT, PAGE_BYTES};
use crate::media::Disk;

/// Bytes that metadata uses of an extent.
pub(crate) const META_EXTENT_BYTES: u64 = META_PAGES_PER_EXTENT as u64 * PAGE_BYTES as u64;

impl GroupInfo {
    /// Extents that may be taken, of a group that was read: of a full device, those whose blocks the file has, as far as is known.
    pub(super) fn usable_slots(&self) -> Option<Bits> {
        let free = !**self.taken.as_ref()?;
        if self.full { Some(**self.backed.as_ref()? & free) } else { Some(free) }
    }

    /// Whether some extent may be taken, as far as is known without reading its page.
    pub(super) fn may_be_used(&self) -> bool {
        self.free > 0 && !self.closed && (!self.full || self.backed.is_some())
    }

    /// Extents that may be taken.
    fn usable(&self) -> u64 {
        match (self.closed, self.full) {
            (true, _) => 0,
            (_, false) => u64::from(self.free),
            (_, true) => self.usable_slots().map_or(0, |usable| usable.count_ones() as u64),
        }
    }

    /// First, or last, extent that may be taken, of a group that was read.
    pub(super) fn end_of_usable(&self, last: bool) -> Option<usize> {
        let free = self.usable_slots()?;
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
        let groups = self.groups.borrow();
        let is_full = |extent| groups.get(place(extent).0 as usize).is_some_and(|info| info.full);
        self.meta.borrow_mut().reopen(is_full);
    }

    /// As [`Space::note_full`], when writes to these extents found no room: they are not taken for having their blocks again.
    pub(crate) fn note_full_at(&self, extents: impl IntoIterator<Item = ExtentId>) {
        extents.into_iter().for_each(|extent| self.set_backed(extent, false));
        self.note_full();
    }

    /// A checkpoint finds no room for its pages, or does again.
    pub(crate) fn set_starved(&self, starved: bool) {
        let since = starved.then(|| self.starved.get().unwrap_or(self.media.machine.now()));
        if self.starved.replace(since).is_some() && !starved {
            self.ledger.eased.notify();
        }
    }

    pub(crate) fn is_starved(&self) -> bool {
        self.starved.get().is_some()
    }

    /// How long a checkpoint has found no room; 0 when none looks for it.
    pub(crate) fn starved_for(&self) -> Duration {
        self.starved.get().map_or(Duration::ZERO, |since| self.media.machine.now().saturating_sub(since))
    }

    /// Why nobody can have so many extents more of which the pool has enough.
    pub(crate) fn full_below(&self, extents: u64) -> Option<Shortage> {
        if !self.some_full.get() {
            return None;
        }
        let usable: u64 = self.groups.borrow().iter().map(GroupInfo::usable).sum();
        let wanted = extents + self.kept_short() + self.ledger.granted.get();
        (self.is_starved() || usable < wanted).then_some(Shortage::DeviceFull)
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

    /// Has space kept for the first `bytes` of an extent in whatever it is on; `false`: there is none. Nobody else must have it.
    async fn allocate_below(&self, extent: ExtentId, bytes: u64) -> bool {
        let Some((drive, start)) = self.media.locate(extent) else { return true };
        // Of other errors the write that follows will tell.
        let full = matches!(drive.allocate(start, bytes).await, Err(IoError::NoSpace { .. }));
        self.set_backed(extent, !full);
        !full
    }

    /// As [`Space::allocate_below`], for the pages that metadata has of an extent.
    pub(super) async fn allocate_pages(&self, extent: ExtentId) -> bool {
        self.allocate_below(extent, META_EXTENT_BYTES).await
    }

    /// Whether a full device has room for an extent more.
    pub(crate) async fn has_room_below(&self, disk: &Rc<Disk<M::Device>>) -> bool {
        let drives = self.media.drives();
        for group in drives.iter().filter(|drive| drive.is_of(disk)).flat_map(|drive| drive.groups()) {
            if self.group_has_free(group) && self.load_group(group).await.is_ok() {
                let Some(extent) = self.unbacked_in(group) else { continue };
                self.hold(extent);
                let has_room = self.allocate_below(extent, self.media.extent_bytes).await;
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
