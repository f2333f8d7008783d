//! Figures that are kept because they are asked for all the time, beside what a recount comes to.

use std::cell::Cell;
use std::fmt;

use plimsoll_hardware::Machine;

use super::Space;
use super::group::Bits;
use crate::tree::Found;

/// One of them.
pub(crate) struct Figure {
    /// What it is a number of.
    pub(crate) what: String,
    pub(crate) kept: u64,
    pub(crate) counted: u64,
}

/// Looks at figures, and may change what is kept.
pub(crate) type See<'a> = dyn FnMut(&mut Figure) + 'a;

impl Figure {
    pub(crate) fn show(see: &mut See<'_>, what: impl Into<String>, kept: &Cell<u64>, counted: u64) {
        kept.set(Figure::shown(see, what, kept.get(), counted));
    }

    /// As [`Figure::show`]; answers what is to be kept.
    pub(crate) fn shown(see: &mut See<'_>, what: impl Into<String>, kept: u64, counted: u64) -> u64 {
        let mut figure = Figure { what: what.into(), kept, counted };
        see(&mut figure);
        figure.kept
    }

    pub(crate) fn is_right(&self) -> bool {
        self.kept == self.counted
    }

    pub(crate) fn correct(&mut self) {
        self.kept = self.counted;
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (by, way) = (self.kept.abs_diff(self.counted), if self.kept > self.counted { "many" } else { "few" });
        write!(f, "{}: the pool says {}, there are {}: {by} too {way}", self.what, self.kept, self.counted)
    }
}

impl<M: Machine> Space<M> {
    /// Shows the figures of who has which extent; `granted` is what held writes may take. `all_read`: no page of a group is lost, so what
    /// is left can be judged, too.
    pub(crate) fn recount(&self, granted: u64, all_read: bool, see: &mut See<'_>) {
        Figure::show(see, "extents granted to held writes", &self.ledger.granted, granted);
        self.quarantine.borrow_mut().recount("extents in quarantine until that is durable", see);
        self.moved.borrow_mut().recount("extents in quarantine until that is confirmed", see);
        let resting = self.quarantine.borrow().count(|_| true) + self.moved.borrow().count(|_| true);
        // Taken and not named by a group; free in all, and of these on devices that are leaving.
        let (mut unnamed, mut free, mut closed_free) = (0, 0, 0);
        let tree = self.tree.borrow();
        for (number, info) in self.groups.borrow().iter().enumerate() {
            let mut left = u64::from(info.free);
            if let Some(taken) = &info.taken {
                let named = match tree.get(number as u64) {
                    Found::Page(page) => *page.bits(),
                    _ => Bits::ZERO,
                };
                unnamed += (**taken & !named)[..info.size as usize].count_ones() as u64;
                left = taken.count_zeros() as u64;
            }
            free += left;
            closed_free += if info.closed { left } else { 0 };
        }
        drop(tree);
        let kept = self.kept.borrow().len() as u64;
        let held = unnamed.saturating_sub(resting + kept);
        Figure::show(see, "extents held for writes under way and for new metadata", &self.held, held);
        Figure::show(see, "free extents of devices that are leaving", &self.closed_free, closed_free);
        self.meta.borrow_mut().recount(see);
        if all_read && self.lost_groups.get() == 0 {
            let taken = self.data.get() + self.meta_extents.get() + self.held.get() + self.quarantined();
            // What is available, and what is kept for whom, are parts of this.
            let unused = self.total().saturating_sub(taken);
            Figure::shown(see, "extents that nobody has", unused, free - closed_free + kept);
        }
    }
}
