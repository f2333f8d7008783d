//! Watches: whoever works from what an extent holds, without holding writers up, learns whether it was written meanwhile.
//!
//! How to use one, to change a word because of what its extent holds (or to move what it holds):
//! 1. watch the virtual extent, then end the present epoch and wait until it is over: overwrites that were submitted before the
//!    watch stood have ended;
//! 2. look the word up and, with no `await` in between, enter the epoch and submit the reads;
//! 3. when all is prepared (room, permit, groups), at one instant: the watch is not hit, the word is what it was and
//!    [`super::Claims::stands_on`] says that no first write is under way. Then what was read is what the extent holds, and nothing is
//!    in flight to it: change the word and append the record before the next `await`.
//!
//! A watch is hit by every overwrite, when it is submitted, and by every change of the word. First writes under way do not hit it until
//! their record is appended; their claim says that they are there. Where overwrites keep spoiling the work, a watch can hold them up for
//! a moment.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use foldhash::HashMap;

use crate::format::VirtualExtent;
use crate::planted::Bug;
use crate::wait::WaitQueue;

/// The watches on a vdisk's extents.
#[derive(Default)]
pub(crate) struct Watches {
    /// How many stand: with none, a write has nothing to do here but to look at this.
    standing: Cell<usize>,
    watched: RefCell<HashMap<VirtualExtent, Watched>>,
    /// A watch that held overwrites has ended.
    pub(crate) released: WaitQueue,
}

#[derive(Default)]
struct Watched {
    watchers: usize,
    holders: usize,
    hits: u64,
}

/// A watch on one virtual extent, until it is dropped.
pub(crate) struct Watch {
    watches: Rc<Watches>,
    at: VirtualExtent,
    /// Hits that there had been when it began.
    before: u64,
    holds: bool,
}

impl Watches {
    /// Begins to watch `at`.
    pub(crate) fn watch(self: &Rc<Self>, at: VirtualExtent) -> Watch {
        let mut watched = self.watched.borrow_mut();
        let known = watched.entry(at).or_default();
        known.watchers += 1;
        self.standing.set(self.standing.get() + 1);
        Watch { watches: self.clone(), at, before: known.hits, holds: false }
    }

    /// Asks for an overwrite of `at` that begins before the next `await`; `false` when it must wait for [`Watches::released`] and ask
    /// again.
    #[inline]
    pub(crate) fn pass(&self, at: VirtualExtent) -> bool {
        self.standing.get() == 0 || self.note(at, false)
    }

    /// Says that `at` gets its first contents, or that its word has changed.
    #[inline]
    pub(crate) fn hit(&self, at: VirtualExtent) {
        if self.standing.get() > 0 {
            self.note(at, true);
        }
    }

    #[cold]
    fn note(&self, at: VirtualExtent, even_if_held: bool) -> bool {
        match self.watched.borrow_mut().get_mut(&at) {
            Some(known) if known.holders > 0 && !even_if_held => false,
            Some(known) => {
                known.hits += 1;
                true
            }
            None => true,
        }
    }
}

impl Watch {
    /// Whether the extent was overwritten, or its word changed, since the watch began.
    pub(crate) fn is_hit(&self) -> bool {
        let hit = self.watches.watched.borrow().get(&self.at).is_none_or(|known| known.hits != self.before);
        hit && !Bug::SkipWatch.is_planted()
    }

    /// Holds overwrites up from now on, until it is dropped.
    pub(crate) fn hold(&mut self) {
        if !std::mem::replace(&mut self.holds, true)
            && let Some(known) = self.watches.watched.borrow_mut().get_mut(&self.at)
        {
            known.holders += 1;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watches.standing.set(self.watches.standing.get() - 1);
        let mut watched = self.watches.watched.borrow_mut();
        if let Some(known) = watched.get_mut(&self.at) {
            known.watchers -= 1;
            known.holders -= usize::from(self.holds);
            if known.watchers == 0 {
                watched.remove(&self.at);
            }
        }
        drop(watched);
        if self.holds {
            self.watches.released.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_hit_by_what_happens_to_its_extent_while_it_stands_and_by_nothing_else() {
        let watches = Rc::new(Watches::default());
        watches.hit(VirtualExtent(1));
        let first = watches.watch(VirtualExtent(1));
        watches.hit(VirtualExtent(2));
        assert!(!first.is_hit());
        watches.hit(VirtualExtent(1));
        let second = watches.watch(VirtualExtent(1));
        assert!(first.is_hit() && !second.is_hit());
        drop(first);
        assert!(!second.is_hit());
        watches.hit(VirtualExtent(1));
        assert!(second.is_hit());
        drop(second);
        assert!(watches.watched.borrow().is_empty() && watches.standing.get() == 0);
        assert!(!watches.watch(VirtualExtent(1)).is_hit());
    }

    #[test]
    fn overwrites_pass_and_are_seen_until_a_watch_holds_them_up() {
        let watches = Rc::new(Watches::default());
        let (mut holding, beside) = (watches.watch(VirtualExtent(1)), watches.watch(VirtualExtent(1)));
        assert!(watches.pass(VirtualExtent(1)) && holding.is_hit() && beside.is_hit());
        let seen = watches.watch(VirtualExtent(1));
        holding.hold();
        assert!(!watches.pass(VirtualExtent(1)) && watches.pass(VirtualExtent(2)));
        assert!(!seen.is_hit(), "what was held up has not begun");
        watches.hit(VirtualExtent(1));
        assert!(seen.is_hit(), "a word that changed is no overwrite");
        drop(holding);
        assert!(watches.pass(VirtualExtent(1)));
    }
}
