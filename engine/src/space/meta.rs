//! Pages for metadata: sixteen to an extent, two places for every page, far apart.
//!
//! A checkpoint places new pages and releases those they replace. What it released stays in use until its root is durable; then
//! [`Space::settle_meta`] makes both true in the groups, and the next checkpoint writes that down. Until then the journal's META records
//! of this generation say it.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_hardware::Machine;

use super::group::place;
use super::{Figure, See, Space};
use crate::format::{ExtentId, GROUP_EXTENTS, META_PAGES_PER_EXTENT, PageAddr, PageRef};

/// Metadata extents that were seen, and what the checkpoint under way changes in them.
#[derive(Default)]
pub(crate) struct MetaPages {
    /// Pages in use per extent.
    used: BTreeMap<ExtentId, u16>,
    /// Those of `used` with a free page.
    open: BTreeSet<ExtentId>,
    /// Extents that were free before this checkpoint.
    fresh: BTreeSet<ExtentId>,
    touched: BTreeSet<ExtentId>,
    releasing: Vec<(ExtentId, u32)>,
    /// Free pages in extents of the first and of the second side.
    free_pages: [u64; 2],
    /// Groups that were not read and have free pages.
    pub(super) unread: BTreeSet<u64>,
    /// Group where an extent was found last, of either side.
    cursors: [u64; 2],
    /// Groups from this one on are for second copies.
    second_side: u64,
    /// Groups of devices that are leaving: no page is placed there.
    closed: Vec<std::ops::Range<u64>>,
    /// Extents of full devices where a page found no room: none is placed there either.
    shut: BTreeSet<ExtentId>,
}

impl MetaPages {
    /// Pages that are free in extents already used for metadata.
    pub(crate) fn free_pages(&self) -> u64 {
        self.free_pages[0] + self.free_pages[1]
    }

    /// Draws the border between the sides, with what was seen so far.
    fn divide(&mut self, second_side: u64) {
        self.second_side = second_side;
        self.cursors = [0, u64::MAX];
        self.free_pages = [0; 2];
        let used = std::mem::take(&mut self.used);
        self.open.clear();
        for (&extent, &pages) in &used {
            self.offer(extent, pages);
        }
        self.used = used;
    }

    /// Leaves out the extents of these groups, and no others.
    pub(super) fn close(&mut self, closed: Vec<std::ops::Range<u64>>) {
        self.closed = closed;
        let closed = &self.closed;
        self.unread.retain(|group| !closed.iter().any(|range| range.contains(group)));
        self.divide(self.second_side);
    }

    /// Leaves out an extent until its device has room again.
    fn shut(&mut self, extent: ExtentId) {
        self.shut.insert(extent);
        self.divide(self.second_side);
    }

    /// Offers the extents again whose devices are not full any more.
    pub(super) fn reopen(&mut self, is_full: impl Fn(ExtentId) -> bool) {
        let shut = self.shut.len();
        self.shut.retain(|extent| is_full(*extent));
        if self.shut.len() < shut {
            self.divide(self.second_side);
        }
    }

    /// Whether no page is placed in an extent.
    fn is_closed(&self, extent: ExtentId) -> bool {
        self.shut.contains(&extent) || self.closed.iter().any(|range| range.contains(&place(extent).0))
    }

    /// Counts the free pages of an extent, and lets them be taken, unless it is left out.
    fn offer(&mut self, extent: ExtentId, pages: u16) {
        if self.is_closed(extent) {
            return;
        }
        let side = self.side(extent);
        self.free_pages[side] += u64::from(pages.count_zeros());
        if pages != u16::MAX {
            self.open.insert(extent);
        }
    }

    fn side(&self, extent: ExtentId) -> usize {
        usize::from(self.is_second(extent))
    }

    pub(super) fn learn(&mut self, extent: ExtentId, pages: u16) {
        if self.used.insert(extent, pages).is_none() {
            self.offer(extent, pages);
        }
    }

    fn is_second(&self, extent: ExtentId) -> bool {
        place(extent).0 >= self.second_side
    }

    /// First extent that is for second copies.
    pub(super) fn border(&self) -> ExtentId {
        ExtentId(self.second_side * GROUP_EXTENTS)
    }

    fn open_on(&self, second: bool) -> Option<ExtentId> {
        let border = self.border();
        match second {
            true => self.open.range(border..).next(),
            false => self.open.range(..border).next(),
        }
        .copied()
    }

    /// Takes a free page of `extent`.
    fn take(&mut self, extent: ExtentId) -> u32 {
        let Some(used) = self.used.get_mut(&extent) else { unreachable!("extent {} is not metadata", extent.0) };
        let page = used.trailing_ones();
        *used |= 1 << page;
        if *used == u16::MAX {
            self.open.remove(&extent);
        }
        let side = self.side(extent);
        self.free_pages[side] -= 1;
        self.touched.insert(extent);
        page
    }

    /// Makes a page that was taken free again.
    fn put_back(&mut self, extent: ExtentId, page: u32) {
        let Some(used) = self.used.get_mut(&extent) else { unreachable!("extent {} is not metadata", extent.0) };
        *used &= !(1 << page);
        if !self.is_closed(extent) {
            let side = self.side(extent);
            self.free_pages[side] += 1;
            self.open.insert(extent);
        }
    }

    /// Shows the free pages of both sides, beside those of the extents.
    pub(super) fn recount(&mut self, see: &mut See<'_>) {
        let mut free = [0; 2];
        for (&extent, pages) in self.used.iter().filter(|(extent, _)| !self.is_closed(**extent)) {
            free[self.side(extent)] += u64::from(pages.count_zeros());
        }
        for (side, copies) in ["first", "second"].into_iter().enumerate() {
            let what = format!("free metadata pages for {copies} copies");
            self.free_pages[side] = Figure::shown(see, what, self.free_pages[side], free[side]);
        }
    }

    fn free_on(&self, second: bool) -> u64 {
        self.free_pages[usize::from(second)]
    }
}

/// No page is left for metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoMetaSpace {
    /// The reserve was wrong, or the devices lie about their size.
    AllTaken,
    /// There would be some if there were room below the devices.
    DeviceFull,
}

impl<M: Machine> Space<M> {
    /// Splits the groups into those for first and for second copies: by device when there are several, else by halves.
    pub(crate) fn divide_meta(&self) {
        let lanes = self.lanes.borrow();
        let border = match &lanes.ranges[..] {
            [only] => only.first + (only.end - only.first) / 2,
            ranges => ranges.get(ranges.len() / 2).map_or(0, |range| range.first),
        };
        self.meta.borrow_mut().divide(border);
    }

    /// Takes an extent for metadata from the groups `from..end`, downwards on the second side, beginning where one was found last;
    /// ignores the reserve.
    async fn take_for_meta(&self, from: u64, end: u64, second: bool) -> Option<ExtentId> {
        let count = end - from;
        let cursor = self.meta.borrow().cursors[usize::from(second)].clamp(from, end.saturating_sub(1).max(from));
        for step in 0..count {
            let offset = if second { cursor - from + count - step } else { cursor - from + step };
            let group = from + offset % count;
            if !self.may_have_free(group) || self.load_group(group).await.is_err() {
                continue;
            }
            if let Some(extent) = self.end_of_free(group, second) {
                self.meta.borrow_mut().cursors[usize::from(second)] = group;
                self.hold(extent);
                return Some(extent);
            }
        }
        None
    }

    /// Makes sure that `pages` pages can be placed, twice, without waiting.
    pub(crate) async fn prepare_meta(&self, pages: u64) -> Result<(), NoMetaSpace> {
        let groups = self.group_count();
        // Pages for first copies that had to go to the side of the second ones, which those must not count as theirs;
        // and an extent more, because the copies of the last page must not be left with one extent between them.
        let mut elsewhere = 0;
        for second in [false, true] {
            let wanted =
                if second && elsewhere > 0 { pages + elsewhere + u64::from(META_PAGES_PER_EXTENT) } else { pages };
            let mut free = self.meta.borrow().free_on(second);
            while free < wanted {
                let border = self.meta.borrow().second_side;
                let (from, end) = if second { (border, groups) } else { (0, border) };
                let unread = self.meta.borrow_mut().unread.range(from..end).next().copied();
                if let Some(group) = unread {
                    // One that is lost is not offered again.
                    let _ = self.load_group(group).await;
                    free = self.meta.borrow().free_on(second);
                    continue;
                }
                let mut extent = self.take_kept(Some(second));
                if extent.is_none() {
                    extent = self.take_for_meta(from, end, second).await;
                }
                if extent.is_none() {
                    // That side is full; the two copies still never share an extent.
                    extent = self.take_kept(None);
                }
                if extent.is_none() {
                    extent = self.take_for_meta(0, groups, second).await;
                }
                let Some(extent) = extent else {
                    let meta = self.meta.borrow();
                    return if meta.free_pages() >= 2 * pages + u64::from(META_PAGES_PER_EXTENT) {
                        Ok(())
                    } else {
                        Err(if self.some_full.get() { NoMetaSpace::DeviceFull } else { NoMetaSpace::AllTaken })
                    };
                };
                // Whoever relies on the page must not be the first to find that there is no room for it.
                if !self.allocate_pages(extent).await {
                    self.let_go(extent);
                    self.note_full();
                    continue;
                }
                let mut meta = self.meta.borrow_mut();
                if !second && meta.is_second(extent) {
                    elsewhere += u64::from(META_PAGES_PER_EXTENT);
                }
                // Its blocks are there now.
                meta.shut.remove(&extent);
                meta.learn(extent, 0);
                meta.fresh.insert(extent);
                drop(meta);
                self.trim_kept();
                free += u64::from(META_PAGES_PER_EXTENT);
            }
        }
        Ok(())
    }

    /// Whether `pages` pages can be placed, twice, without waiting.
    pub(crate) fn can_place(&self, pages: u64) -> bool {
        let meta = self.meta.borrow();
        let each = meta.free_on(false).min(meta.free_on(true));
        each >= pages || meta.free_pages() >= 2 * pages + u64::from(META_PAGES_PER_EXTENT)
    }

    /// Two places for a page; `None` when [`Space::prepare_meta`] has to make room first.
    pub(crate) fn place_page(&self) -> Option<(PageAddr, PageAddr)> {
        let mut meta = self.meta.borrow_mut();
        let first = meta.open_on(false).or_else(|| meta.open.first().copied())?;
        let mut second = meta.open_on(true);
        if second.is_none() || second == Some(first) {
            second = meta.open.iter().rev().find(|&&extent| extent != first).copied();
        }
        let second = second?;
        let (a, b) = (meta.take(first), meta.take(second));
        let address = |extent, page| self.media.page_of(extent, page).unwrap_or(PageAddr::NONE);
        Some((address(first, a), address(second, b)))
    }

    /// Gives back the pages of a version that is replaced, once this checkpoint's root is durable.
    pub(crate) fn release_page(&self, reference: &PageRef) {
        if reference.is_none() {
            return;
        }
        let mut meta = self.meta.borrow_mut();
        for address in [reference.a, reference.b] {
            if let Some(place) = self.media.extent_of(address) {
                meta.releasing.push(place);
            }
        }
    }

    /// Gives back the places of a page that this checkpoint placed and nothing names.
    pub(crate) fn retract_page(&self, reference: &PageRef) {
        let mut meta = self.meta.borrow_mut();
        for (extent, page) in [reference.a, reference.b].into_iter().filter_map(|at| self.media.extent_of(at)) {
            meta.put_back(extent, page);
        }
    }

    /// A page found no room at its place below the device.
    pub(crate) fn shut_place(&self, at: PageAddr) {
        let Some((extent, _)) = self.media.extent_of(at) else { return };
        self.note_full_at([extent]);
        self.meta.borrow_mut().shut(extent);
    }

    /// The pages in use of every extent that this checkpoint changes, as they are once it stands.
    pub(crate) async fn meta_changes(&self) -> Vec<(ExtentId, u16)> {
        let releasing: Vec<_> = self.meta.borrow().releasing.clone();
        // A group that cannot be read keeps its pages: leaked until a repair.
        let _ = self.load_groups_of(releasing.iter().map(|(extent, _)| *extent)).await;
        let meta = self.meta.borrow();
        let mut masks: BTreeMap<ExtentId, u16> = BTreeMap::new();
        for &extent in meta.touched.iter().chain(meta.releasing.iter().map(|(extent, _)| extent)) {
            if let Some(&used) = meta.used.get(&extent) {
                masks.insert(extent, used);
            }
        }
        for (extent, page) in &meta.releasing {
            if let Some(mask) = masks.get_mut(extent) {
                *mask &= !(1 << page);
            }
        }
        masks.into_iter().collect()
    }

    /// The checkpoint stands: what it released is free, what it placed is in use, also for the groups.
    pub(crate) fn settle_meta(&self, changes: &[(ExtentId, u16)]) {
        for &(extent, pages) in changes {
            self.set_meta(extent, pages);
        }
        let mut meta = self.meta.borrow_mut();
        meta.touched.clear();
        meta.releasing.clear();
        // Extents that were taken and not used after all.
        let unused: Vec<_> = std::mem::take(&mut meta.fresh).into_iter().collect();
        drop(meta);
        for extent in unused {
            self.drop_meta(extent);
            self.let_go(extent);
        }
        self.trim_kept();
        // What was kept for pages may be had again.
        self.ledger.eased.notify();
    }

    /// Says which pages of a metadata extent are in use; none frees it. Its group must be loaded.
    pub(crate) fn set_meta(&self, extent: ExtentId, pages: u16) {
        let was_held = self.meta.borrow_mut().fresh.remove(&extent);
        let was_meta = !was_held && self.is_allocated(extent);
        self.drop_meta(extent);
        if was_held {
            self.held.set(self.held.get() - 1);
        }
        if pages == 0 {
            if was_meta {
                self.change_group(extent, |group, slot| group.set_free(slot));
                self.meta_extents.set(self.meta_extents.get() - 1);
                self.set_backed(extent, true);
            }
            self.unbar(extent);
            return;
        }
        self.bar(extent);
        self.change_group(extent, |group, slot| group.set_meta(slot, pages));
        if !was_meta {
            self.meta_extents.set(self.meta_extents.get() + 1);
        }
        self.meta.borrow_mut().learn(extent, pages);
    }

    fn drop_meta(&self, extent: ExtentId) {
        let mut meta = self.meta.borrow_mut();
        if let Some(used) = meta.used.remove(&extent)
            && !meta.is_closed(extent)
        {
            let side = meta.side(extent);
            meta.free_pages[side] -= u64::from(used.count_zeros());
            meta.open.remove(&extent);
        }
    }
}
