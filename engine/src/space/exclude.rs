//! Leaving a device out: nothing is taken from it any more, and what is on it may go.
//!
//! A device is closed as long as its [`Drive`](crate::media::Drive) says that it leaves; opening a pool and every change of that
//! come here. The free extents of closed devices are nobody's: they count neither as available nor as a part of the whole.

use plimsoll_hardware::Machine;

use super::allocate::Search;
use super::{Rest, Space};
use crate::format::{ExtentId, VdiskId, VirtualExtent};
use crate::media::Drive;

impl<M: Machine> Space<M> {
    /// Closes the groups of devices that are leaving or not quite there, and opens those of devices that stay after all.
    pub(super) fn close_leaving(&self) {
        let drives = self.media.drives();
        let groups_of = |so: fn(&Drive<M::Device>) -> bool| -> Vec<_> {
            drives.iter().filter(|drive| so(drive)).map(|drive| drive.groups()).collect()
        };
        let (leaving, joining) = (groups_of(Drive::is_leaving), groups_of(Drive::is_joining));
        let is_in =
            |ranges: &[std::ops::Range<u64>], index: usize| ranges.iter().any(|range| range.contains(&(index as u64)));
        self.release_kept(&leaving);
        let mut groups = self.groups.borrow_mut();
        let mut free = 0;
        for (index, info) in groups.iter_mut().enumerate() {
            info.joining = is_in(&joining, index);
            info.closed = info.joining || is_in(&leaving, index);
            free += if info.closed { u64::from(info.free) } else { 0 };
        }
        self.closed_free.set(free);
        self.meta.borrow_mut().close(leaving);
    }

    /// Extents of these groups that are not free: allocated, held or in quarantine.
    pub(crate) fn taken_in(&self, groups: std::ops::Range<u64>) -> u64 {
        let infos = self.groups.borrow();
        let of = |group| infos.get(group as usize).map_or(0, |info| u64::from(info.size - info.free));
        let kept = self.kept_in(&groups);
        groups.map(of).sum::<u64>() - kept
    }

    /// Extents that are missing for so many more to be taken with every promise kept: the metadata reserve, grants, reservations.
    pub(crate) fn missing_for(&self, extents: u64) -> u64 {
        let kept = self.reserved() + self.ledger.granted.get() + self.withheld();
        (extents + kept).saturating_sub(self.unused())
    }

    /// Whether a group among these is lost, and with it what is known of its extents.
    pub(crate) fn has_lost(&self, groups: std::ops::Range<u64>) -> bool {
        let infos = self.groups.borrow();
        groups.into_iter().any(|group| infos.get(group as usize).is_some_and(|info| info.lost))
    }

    /// Takes an extent for what moves away from another. Nobody's account knows of it, and what is promised to others is not for it.
    pub(crate) async fn take_for_move(&self, vdisk: VdiskId, at: VirtualExtent) -> Option<ExtentId> {
        loop {
            // What has its blocks in a file whose file system is full goes to metadata first.
            if self.available() == 0 || self.full_below(1).is_some() {
                return None;
            }
            match self.find(vdisk, at) {
                Search::Found(extent) => return Some(extent),
                // A group that cannot be read is passed over at the next turn.
                Search::Read(group) => drop(self.load_group(group).await),
                Search::Nothing => return None,
            }
        }
    }

    /// Gives back what was taken for a move that did not come about.
    pub(crate) fn forfeit_move(&self, extent: ExtentId) {
        self.let_go(extent);
        self.ledger.eased.notify();
    }

    /// The contents of `from`, an extent of data, are in the held extent `to` now: `sequence` is the batch of the record that says
    /// so. Both groups must be loaded.
    pub(crate) fn relocate(&self, from: ExtentId, to: ExtentId, sequence: u64) {
        self.change_group(from, |group, slot| group.set_free(slot));
        self.held.set(self.held.get() - 1);
        self.change_group(to, |group, slot| group.set_data(slot));
        self.put_to_rest(vec![from], sequence, Rest::Confirmed);
    }
}
