//! What a check makes of the allocation groups: they say of every extent and page what others say that they have.

use std::time::Duration;

use futures_util::future::join_all;
use plimsoll_hardware::Machine;

use super::check::Checker;
use super::mend::Mend;
use crate::format::{Detail, ExtentId, GROUP_EXTENTS};
use crate::tree::Found;

/// Allocation groups that are read at the same time, and compared between two turns of others: a millisecond at most.
const GROUPS_AT_ONCE: usize = 16;

impl<M: Machine> Checker<'_, M> {
    /// Compares the groups with who has what.
    pub(super) async fn check_groups(&mut self) {
        let (mut data, mut meta) = (0, 0);
        let groups: Vec<u64> = (0..self.store.space.group_count()).collect();
        for groups in groups.chunks(GROUPS_AT_ONCE) {
            let space = &self.store.space;
            let loads = groups.iter().map(|&group| async move { (group, space.load_group(group).await) });
            for (group, loaded) in join_all(loads).await {
                if loaded.is_ok() {
                    let (of_data, of_meta) = self.check_group(group);
                    (data, meta) = (data + of_data, meta + of_meta);
                }
            }
            // What is in memory, or was never written, is looked at without a wait: others have their turn.
            self.store.media.machine.sleep(Duration::from_micros(1)).await;
        }
        let space = &self.store.space;
        let said = (space.data(), space.meta_extents());
        if said != (data, meta) && space.lost_groups.get() == 0 {
            let message =
                format!("the pool says {} data and {} metadata extents; there are {data} and {meta}", said.0, said.1);
            self.find("count-mismatch", false, None, message);
            self.mends.push(Mend::Totals(data as i64 - said.0 as i64, meta as i64 - said.1 as i64));
        }
    }

    /// Compares a group that is in memory with who has what; answers its extents of data and of metadata.
    fn check_group(&mut self, group: u64) -> (u64, u64) {
        let store = self.store;
        let size = u64::from(store.space.group_size(group));
        self.report.extents_checked += size;
        let first = group * GROUP_EXTENTS;
        let (mut data, mut meta) = (0, 0);
        let tree = store.space.tree.borrow();
        let page = match tree.get(group) {
            Found::Page(page) => Some(page),
            _ => None,
        };
        // As a rule they are the same, and that is seen at once.
        let named = self.named.range(ExtentId(first)..ExtentId(first + GROUP_EXTENTS));
        let named = named.map(|(extent, pages)| ((extent.0 - first) as usize, *pages));
        let mut allocated = page.map_or_else(Default::default, |page| *page.bits());
        let of_meta = || page.into_iter().flat_map(|page| page.meta());
        if of_meta().eq(named) {
            meta = of_meta().count() as u64;
            of_meta().for_each(|(slot, _)| allocated.set(slot, false));
            let words = (GROUP_EXTENTS / 64) as usize;
            let owned = &self.owned.as_raw_slice()[group as usize * words..][..words];
            if allocated.as_raw_slice() == owned && allocated[size as usize..].not_any() {
                return (allocated.count_ones() as u64, meta);
            }
            meta = 0;
        }
        for slot in 0..size as usize {
            let allocated = page.is_some_and(|page| page.is_allocated(slot));
            let pages = match page.and_then(|page| page.detail(slot)) {
                Some(Detail::Meta(pages)) => Some(pages),
                _ => None,
            };
            data += u64::from(allocated && pages.is_none());
            meta += u64::from(pages.is_some());
            self.compare(ExtentId(first + slot as u64), allocated, pages);
        }
        (data, meta)
    }

    fn compare(&mut self, extent: ExtentId, allocated: bool, pages: Option<u16>) {
        let owned = self.owned[extent.0 as usize];
        let named = self.named.get(&extent).copied().unwrap_or(0);
        let number = extent.0;
        if owned && (!allocated || pages.is_some()) {
            let what = if pages.is_some() { "metadata" } else { "free" };
            let message = format!("extent {number} holds data and its group says {what}");
            if named == 0 && (pages.is_none() || !self.lost_pages) {
                self.find("unallocated-extent", true, None, message);
                self.mends.push(Mend::Allocate(extent));
            } else {
                self.refuse("unallocated-extent", None, message);
            }
            return;
        }
        // What nobody names may be behind a page that is lost; that is decided first.
        if allocated && pages.is_none() && !owned && !self.lost_pages {
            self.report.leaked_extents += 1;
            self.find("leaked-extent", false, None, format!("extent {number} is allocated and nobody has it"));
            self.mends.push(Mend::Free(extent));
        }
        let used = pages.unwrap_or(0);
        if named & !used != 0 {
            let message =
                format!("pages {:#06x} of extent {number} are in use and its group says they are free", named & !used);
            self.find("unallocated-page", true, None, message);
            // Whoever names the others may be behind a page that is lost.
            let kept = if self.lost_pages { used } else { 0 };
            self.mends.push(Mend::Pages(extent, named | kept));
        } else if used & !named != 0 && !self.lost_pages {
            let message = format!("pages {:#06x} of extent {number} are kept and nobody names them", used & !named);
            self.find("leaked-page", false, None, message);
            self.mends.push(Mend::Pages(extent, named));
        }
    }
}
