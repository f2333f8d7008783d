//! Watches: virtual extents whose contents are being copied elsewhere.
//!
//! A claim keeps first writes away from an extent; overwrites know nothing of claims. So whoever copies an extent watches it: an
//! overwrite that begins meanwhile says so, and the copy is worthless; or it is held, for the moment of the copy, when too many did.

use std::cell::{Cell, RefCell};

use foldhash::HashMap;

use crate::format::VirtualExtent;
use crate::wait::WaitQueue;

#[derive(Default)]
struct Watch {
    hit: bool,
    holds: bool,
}

/// The watches on a vdisk's extents; at most one on each.
#[derive(Default)]
pub(crate) struct Watches {
    /// How many there are, for those who only want to know that there is none.
    count: Cell<u32>,
    watches: RefCell<HashMap<VirtualExtent, Watch>>,
    /// One that held overwrites has ended.
    pub(crate) ended: WaitQueue,
}

impl Watches {
    /// Watches `at`, which its watcher has claimed, so that nobody else does.
    pub(crate) fn begin(&self, at: VirtualExtent, holds: bool) {
        let before = self.watches.borrow_mut().insert(at, Watch { hit: false, holds });
        assert!(before.is_none(), "virtual extent {} is watched twice", at.0);
        self.count.set(self.count.get() + 1);
    }

    pub(crate) fn end(&self, at: VirtualExtent) {
        let ended = self.watches.borrow_mut().remove(&at);
        self.count.set(self.count.get() - u32::from(ended.is_some()));
        if ended.is_some_and(|watch| watch.holds) {
            self.ended.notify();
        }
    }

    /// Holds overwrites of `at`, which is watched, from now on.
    pub(crate) fn hold(&self, at: VirtualExtent) {
        if let Some(watch) = self.watches.borrow_mut().get_mut(&at) {
            watch.holds = true;
        }
    }

    /// Whether an overwrite of `at` has begun since it is watched.
    pub(crate) fn was_hit(&self, at: VirtualExtent) -> bool {
        self.watches.borrow().get(&at).is_some_and(|watch| watch.hit)
    }

    /// Asks for an overwrite of `at` that begins before the next `await`; `false` when it must wait for [`Watches::ended`] and ask
    /// again.
    #[inline]
    pub(crate) fn pass(&self, at: VirtualExtent) -> bool {
        self.count.get() == 0 || self.pass_watched(at)
    }

    fn pass_watched(&self, at: VirtualExtent) -> bool {
        match self.watches.borrow_mut().get_mut(&at) {
            Some(watch) if watch.holds => false,
            Some(watch) => {
                watch.hit = true;
                true
            }
            None => true,
        }
    }
}
