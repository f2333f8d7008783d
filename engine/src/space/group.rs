//! What is known of each allocation group without, and with, its page.

use plimsoll_hardware::Machine;

use super::Space;
use crate::format::{Detail, ExtentId, GROUP_EXTENTS, Group, PageType};
use crate::media::LostPage;
use crate::tree::{Found, load};

pub(super) type Bits = bitvec::prelude::BitArray<[u64; GROUP_EXTENTS as usize / 64], bitvec::prelude::Lsb0>;

/// A group in memory.
pub(super) struct GroupInfo {
    /// Extents that it really has; the last of a device may have fewer than 1024.
    pub(super) size: u32,
    /// Its page was read, or never existed.
    pub(super) loaded: bool,
    pub(super) lost: bool,
    /// Extents that may not be taken: allocated, held or in quarantine. Only once it is loaded.
    pub(super) taken: Option<Box<Bits>>,
    pub(super) free: u32,
    /// Of those that were free before it was lost.
    out_of_reach: u32,
    /// It has no aligned run of sixteen free extents; cleared when something is freed.
    pub(super) fragmented: bool,
    /// It is of a device that is leaving: nothing is taken from it; or of one that joins, and only metadata takes from it.
    pub(super) closed: bool,
    pub(super) joining: bool,
    /// It is of a device that is full below.
    pub(super) full: bool,
    /// Extents that were in use before, so that the file has their blocks, unless a write showed otherwise.
    pub(super) backed: Option<Box<Bits>>,
}

impl GroupInfo {
    pub(super) fn new(size: u32) -> Self {
        GroupInfo {
            size,
            loaded: false,
            lost: false,
            taken: None,
            free: size,
            out_of_reach: 0,
            fragmented: false,
            closed: false,
            joining: false,
            full: false,
            backed: None,
        }
    }
}

/// Notes that a group of a device has, or has not any more, `size` extents. Those of a group that grew are free.
pub(super) fn resize_group(info: &mut GroupInfo, size: u32) {
    if info.size == size {
        return;
    }
    let grew = info.size > 0 && size > info.size;
    if !grew {
        *info = GroupInfo::new(size);
        return;
    }
    if let Some(taken) = &mut info.taken {
        taken[info.size as usize..size as usize].fill(false);
    }
    info.free += if info.lost { 0 } else { size - info.size };
    info.fragmented = false;
    info.size = size;
}

/// Group and place in it of an extent.
pub(super) fn place(extent: ExtentId) -> (u64, usize) {
    (extent.0 / GROUP_EXTENTS, (extent.0 % GROUP_EXTENTS) as usize)
}

impl<M: Machine> Space<M> {
    /// Takes over what the nodes of the group tree say of groups that were not read. The nodes must have been.
    pub(crate) fn adopt_summaries(&self) {
        let mut groups = self.groups.borrow_mut();
        for page in self.tree.borrow().pages() {
            let Some(info) = groups.get_mut(page.first as usize) else { continue };
            if page.kind == PageType::Group && !info.loaded {
                self.tally(info, info.size.saturating_sub(page.reference.summary & 0xffff));
                if page.reference.summary >> 16 > 0 && !info.closed {
                    self.meta.borrow_mut().unread.insert(page.first);
                }
            }
        }
    }

    /// Whether a group has free extents that metadata may take, as far as is known.
    pub(super) fn may_have_free(&self, group: u64) -> bool {
        let groups = self.groups.borrow();
        let info = &groups[group as usize];
        info.free > 0 && (!info.closed || info.joining)
    }

    /// Notes how many free extents a group has.
    fn tally(&self, info: &mut GroupInfo, free: u32) {
        if info.closed {
            self.closed_free.set(self.closed_free.get() + u64::from(free) - u64::from(info.free));
        }
        info.free = free;
    }

    /// First, or last, free extent of a group that was read; of a full device, one whose blocks the file has.
    pub(super) fn end_of_free(&self, group: u64, last: bool) -> Option<ExtentId> {
        let slot = self.groups.borrow()[group as usize].end_of_usable(last)?;
        Some(ExtentId(group * GROUP_EXTENTS + slot as u64))
    }

    /// Reads a group's page, once.
    pub(crate) async fn load_group(&self, group: u64) -> Result<(), LostPage> {
        match self.groups.borrow().get(group as usize) {
            Some(info) if info.lost => return Err(LostPage { unread: false }),
            Some(info) if info.loaded => return Ok(()),
            Some(_) => {}
            // Beyond the devices: named by a damaged word only.
            None => return Err(LostPage { unread: false }),
        }
        let loaded = load(&self.media, &self.loader, &self.tree, group).await;
        self.meta.borrow_mut().unread.remove(&group);
        let mut groups = self.groups.borrow_mut();
        let info = &mut groups[group as usize];
        if info.loaded || info.lost {
            return if info.lost { Err(LostPage { unread: false }) } else { Ok(()) };
        }
        if let Err(lost) = loaded {
            info.lost = true;
            info.out_of_reach = info.free;
            self.out_of_reach.set(self.out_of_reach.get() + u64::from(info.free));
            self.tally(info, 0);
            self.lost_groups.set(self.lost_groups.get() + 1);
            return Err(lost);
        }
        let tree = self.tree.borrow();
        let mut taken = Box::new(Bits::ZERO);
        if let Found::Page(page) = tree.get(group) {
            *taken = *page.bits();
            for (slot, pages) in page.meta() {
                self.meta.borrow_mut().learn(ExtentId(group * GROUP_EXTENTS + slot as u64), pages);
            }
        }
        taken[info.size as usize..].fill(true);
        self.tally(info, taken.count_zeros() as u32);
        info.taken = Some(taken);
        info.loaded = true;
        drop((groups, tree));
        // Its metadata may have free pages.
        self.trim_kept();
        Ok(())
    }

    /// Reads the groups of all `extents`.
    pub(crate) async fn load_groups_of(&self, extents: impl IntoIterator<Item = ExtentId>) -> Result<(), LostPage> {
        let mut last = None;
        for extent in extents {
            let (group, _) = place(extent);
            if last != Some(group) {
                self.load_group(group).await?;
                last = Some(group);
            }
        }
        Ok(())
    }

    /// Whether an extent of a group that was read may be taken.
    pub(crate) fn is_free(&self, extent: ExtentId) -> bool {
        let (group, slot) = place(extent);
        let groups = self.groups.borrow();
        groups
            .get(group as usize)
            .is_some_and(|info| !info.closed && info.taken.as_ref().is_some_and(|taken| !taken[slot]))
    }

    pub(crate) fn is_loaded(&self, extent: ExtentId) -> bool {
        self.groups.borrow().get(place(extent).0 as usize).is_some_and(|info| info.loaded)
    }

    /// Whether the extent's group says it is in use. Its group must be loaded.
    pub(crate) fn is_allocated(&self, extent: ExtentId) -> bool {
        let (group, slot) = place(extent);
        matches!(self.tree.borrow().get(group), Found::Page(page) if page.is_allocated(slot))
    }

    /// What the extent is used for beyond being in use. Its group must be loaded.
    pub(crate) fn detail(&self, extent: ExtentId) -> Option<Detail> {
        let (group, slot) = place(extent);
        match self.tree.borrow().get(group) {
            Found::Page(page) => page.detail(slot),
            _ => None,
        }
    }

    pub(crate) fn group_count(&self) -> u64 {
        self.groups.borrow().len() as u64
    }

    pub(crate) fn group_size(&self, group: u64) -> u32 {
        self.groups.borrow()[group as usize].size
    }

    /// Puts a group whose page is lost together again from what others name in it. A group that is in memory is written anew.
    /// One that only cannot be read is left as it is.
    pub(crate) fn rebuild_group(&self, group: u64, data: &[ExtentId], meta: &[(ExtentId, u16)]) {
        if matches!(self.tree.borrow().get(group), Found::Unread(..)) {
            return;
        }
        {
            let mut groups = self.groups.borrow_mut();
            let info = &mut groups[group as usize];
            if !info.lost {
                self.tree.borrow_mut().forget_lost(group);
                return;
            }
            let (size, closed, joining, full) = (info.size, info.closed, info.joining, info.full);
            self.out_of_reach.set(self.out_of_reach.get() - u64::from(info.out_of_reach));
            self.tally(info, size);
            let taken = Some(Box::new(Bits::ZERO));
            *info = GroupInfo { loaded: true, taken, closed, joining, full, ..GroupInfo::new(size) };
            if let Some(taken) = &mut info.taken {
                taken[info.size as usize..].fill(true);
            }
            self.lost_groups.set(self.lost_groups.get() - 1);
        }
        self.tree.borrow_mut().forget_lost(group);
        for &extent in data {
            self.bar(extent);
            self.change_group(extent, |group, slot| group.set_data(slot));
        }
        for &(extent, pages) in meta {
            self.bar(extent);
            self.change_group(extent, |group, slot| group.set_meta(slot, pages));
            self.meta.borrow_mut().learn(extent, pages);
        }
    }

    /// Marks an extent as not to be taken.
    pub(super) fn bar(&self, extent: ExtentId) {
        let (group, slot) = place(extent);
        let mut groups = self.groups.borrow_mut();
        let info = &mut groups[group as usize];
        if let Some(taken) = &mut info.taken
            && !taken.replace(slot, true)
        {
            self.tally(info, info.free - 1);
        }
    }

    /// Marks an extent as free to be taken.
    pub(super) fn unbar(&self, extent: ExtentId) {
        let (group, slot) = place(extent);
        let mut groups = self.groups.borrow_mut();
        let info = &mut groups[group as usize];
        if let Some(taken) = &mut info.taken
            && taken.replace(slot, false)
        {
            self.tally(info, info.free + 1);
            info.fragmented = false;
        }
    }

    pub(super) fn change_group(&self, extent: ExtentId, change: impl FnOnce(&mut Group, usize)) {
        let (group, slot) = place(extent);
        change(self.tree.borrow_mut().change(group), slot);
    }
}
