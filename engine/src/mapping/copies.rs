//! Copies: virtual extents whose contents are being copied elsewhere.
//!
//! A claim keeps first writes away from an extent; overwrites know nothing of claims. So whoever copies an extent watches it: an
//! overwrite that begins meanwhile says so, and the copy is worthless; or it is held, for the moment of the copy, when too many did.

use std::cell::{Cell, RefCell};

use foldhash::HashMap;

use crate::format::VirtualExtent;
use crate::wait::WaitQueue;

#[derive(Default)]
struct Copy {
    hit: bool,
    holds: bool,
}

/// The copies under way of a vdisk's extents; at most one of each.
#[derive(Default)]
pub(crate) struct Copies {
    /// How many there are, for those who only want to know that there is none.
    count: Cell<u32>,
    copies: RefCell<HashMap<VirtualExtent, Copy>>,
    /// One that held overwrites has ended.
    pub(crate) ended: WaitQueue,
}

impl Copies {
    /// Copies `at`, which its watcher has claimed, so that nobody else does.
    pub(crate) fn begin(&self, at: VirtualExtent, holds: bool) {
        let before = self.copies.borrow_mut().insert(at, Copy { hit: false, holds });
        assert!(before.is_none(), "virtual extent {} is watched twice", at.0);
        self.count.set(self.count.get() + 1);
    }

    pub(crate) fn end(&self, at: VirtualExtent) {
        let ended = self.copies.borrow_mut().remove(&at);
        self.count.set(self.count.get() - u32::from(ended.is_some()));
        if ended.is_some_and(|watch| watch.holds) {
            self.ended.notify();
        }
    }

    /// Holds overwrites of `at`, which is watched, from now on.
    pub(crate) fn hold(&self, at: VirtualExtent) {
        if let Some(watch) = self.copies.borrow_mut().get_mut(&at) {
            watch.holds = true;
        }
    }

    /// Whether an overwrite of `at` has begun since it is watched.
    pub(crate) fn was_hit(&self, at: VirtualExtent) -> bool {
        self.copies.borrow().get(&at).is_some_and(|watch| watch.hit)
    }

    /// Asks for an overwrite of `at` that begins before the next `await`; `false` when it must wait for [`Copies::ended`] and ask
    /// again.
    #[inline]
    pub(crate) fn pass(&self, at: VirtualExtent) -> bool {
        self.count.get() == 0 || self.pass_watched(at)
    }

    fn pass_watched(&self, at: VirtualExtent) -> bool {
        match self.copies.borrow_mut().get_mut(&at) {
            Some(watch) if watch.holds => false,
            Some(watch) => {
                watch.hit = true;
                true
            }
            None => true,
        }
    }
}
