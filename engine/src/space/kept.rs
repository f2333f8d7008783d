//! The metadata reserve below the devices. That data never takes the last extents is a number; where a device is a file it is worth
//! nothing once the file system is full, unless the file has blocks for them. So as many free extents as the reserve are set apart whose
//! blocks were asked for beforehand: data passes over them, and metadata takes them first.
//!
//! They are free, as far as anybody counts: only in memory they look taken. Where a device is no file they cost nothing.

use std::ops::Range;

use plimsoll_hardware::Machine;

use super::Space;
use super::group::{GroupInfo, place};
use crate::format::{ExtentId, GROUP_EXTENTS};

/// Extents without blocks that are passed over when extents are set apart: after a start it is not known which of them have some.
const PASSED_OVER_MAX: usize = 64;
/// Extents set apart at once: a pool may be closed in between.
const KEPT_AT_ONCE: usize = 64;

impl<M: Machine> Space<M> {
    /// Extents that the reserve lacks of those that are set apart.
    pub(crate) fn kept_short(&self) -> u64 {
        self.reserved().saturating_sub(self.kept.borrow().len() as u64)
    }

    /// Sets extents apart as far as some are missing and there is room for them, not many at a time; answers whether any was. It may have
    /// to be asked again.
    pub(crate) async fn keep_reserve(&self) -> bool {
        // Most of the times that something has eased: no group need be read for that.
        if self.kept_short() == 0 {
            return false;
        }
        let (mut gained, mut passed_over) = (false, 0);
        for extent in self.candidates((self.kept_short() as usize).min(KEPT_AT_ONCE) + PASSED_OVER_MAX).await {
            if self.kept_short() == 0 || passed_over == PASSED_OVER_MAX {
                break;
            }
            if !self.is_free(extent) {
                continue;
            }
            // Before it is asked for: nobody else is to take it meanwhile, and what is available does not change.
            self.bar(extent);
            self.kept.borrow_mut().insert(extent);
            if self.allocate_pages(extent).await {
                gained = true;
            } else {
                passed_over += 1;
                if self.kept.borrow_mut().remove(&extent) {
                    self.unbar(extent);
                }
            }
        }
        if passed_over > 0 {
            self.note_full();
        }
        gained
    }

    /// Gives free what is set apart beyond the reserve, which shrinks when pages come free in extents that metadata has.
    pub(super) fn trim_kept(&self) {
        while self.kept.borrow().len() as u64 > self.reserved() {
            // From the middle: the ends are where metadata goes.
            let border = self.meta.borrow().border();
            let mut kept = self.kept.borrow_mut();
            let found = kept.range(..border).next_back().or_else(|| kept.range(border..).next()).copied();
            let Some(extent) = found else { return };
            kept.remove(&extent);
            drop(kept);
            self.unbar(extent);
        }
    }

    /// Takes one that is set apart, for a page: on the side that it is for, or on either.
    pub(super) fn take_kept(&self, side: Option<bool>) -> Option<ExtentId> {
        let border = self.meta.borrow().border();
        let mut kept = self.kept.borrow_mut();
        let extent = match side {
            Some(false) => kept.range(..border).next(),
            Some(true) => kept.range(border..).next_back(),
            None => kept.iter().next(),
        };
        let extent = extent.copied()?;
        kept.remove(&extent);
        self.held.set(self.held.get() + 1);
        Some(extent)
    }

    /// Gives free what is set apart in these groups.
    pub(super) fn release_kept(&self, groups: &[Range<u64>]) {
        let of_them = |extent: &ExtentId| groups.iter().any(|range| range.contains(&place(*extent).0));
        let released: Vec<_> = self.kept.borrow().iter().copied().filter(of_them).collect();
        for extent in released {
            self.kept.borrow_mut().remove(&extent);
            self.unbar(extent);
        }
    }

    /// Extents of these groups that are set apart.
    pub(super) fn kept_in(&self, groups: &Range<u64>) -> u64 {
        let (from, end) = (ExtentId(groups.start * GROUP_EXTENTS), ExtentId(groups.end * GROUP_EXTENTS));
        self.kept.borrow().range(from..end).count() as u64
    }

    /// Free extents where metadata would go next, of both sides by turns, some `count` of them.
    async fn candidates(&self, count: usize) -> Vec<ExtentId> {
        let (border, end) = (place(self.meta.borrow().border()).0, self.group_count());
        let half = count.div_ceil(2);
        let first = self.free_in(if border == 0 { 0..end } else { 0..border }, false, half).await;
        let second = self.free_in(border..end, true, half).await;
        let common = first.len().min(second.len());
        let both = first.iter().zip(&second).flat_map(|(&first, &second)| [first, second]);
        both.chain(first[common..].iter().copied()).chain(second[common..].iter().copied()).collect()
    }

    /// Up to `count` free extents of groups that may be used, from their start, or from their end.
    async fn free_in(&self, groups: Range<u64>, from_end: bool, count: usize) -> Vec<ExtentId> {
        let mut found = Vec::new();
        for step in 0..groups.end - groups.start {
            if found.len() >= count {
                break;
            }
            let group = if from_end { groups.end - 1 - step } else { groups.start + step };
            let may_have_some = self.groups.borrow().get(group as usize).is_some_and(GroupInfo::may_be_used);
            if !may_have_some || self.load_group(group).await.is_err() {
                continue;
            }
            let Some(free) = self.groups.borrow()[group as usize].usable_slots() else { continue };
            let extent = |slot: usize| ExtentId(group * GROUP_EXTENTS + slot as u64);
            let left = count - found.len();
            match from_end {
                true => found.extend(free.iter_ones().rev().take(left).map(extent)),
                false => found.extend(free.iter_ones().take(left).map(extent)),
            }
        }
        found
    }
}
