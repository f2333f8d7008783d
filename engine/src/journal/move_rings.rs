//! Moving the rings to other places, while the journal goes on.
//!
//! Every batch is written to the old places and to the new ones, from before a checkpoint's first cut until its root stands. That root
//! names the new places, and all that a replay from it needs is there; the root before names the old ones, and they miss nothing
//! either. So whichever root a crash leaves finds its journal whole. From the moment the root stands the old places are not used.

use plimsoll_hardware::{IoError, Machine};

use super::Journal;
use crate::format::RingPlace;

/// A move of one ring or both.
pub(super) struct Moving {
    rings: [RingPlace; 2],
    /// A root that names the new places is being written: they are the journal now as much as the old ones.
    named: bool,
}

impl<M: Machine> Journal<M> {
    /// Where its copies are.
    pub(crate) fn rings(&self) -> [RingPlace; 2] {
        self.rings.get()
    }

    /// Writes every batch to these places too, from now on. The next checkpoint that begins afterwards moves the rings there.
    pub(crate) fn begin_move(&self, rings: [RingPlace; 2]) {
        *self.moving.borrow_mut() = Some(Moving { rings, named: false });
    }

    /// Whether every batch is written to new places too.
    pub(crate) fn is_moving(&self) -> bool {
        self.moving.borrow().is_some()
    }

    /// The places for the next root: the new ones if every batch since its cut (`was_moving`) has gone there, else the old ones.
    pub(crate) fn name_rings(&self, was_moving: bool) -> [RingPlace; 2] {
        match &mut *self.moving.borrow_mut() {
            Some(moving) if was_moving => {
                moving.named = true;
                moving.rings
            }
            _ => self.rings.get(),
        }
    }

    /// The root that was asked for with [`Journal::name_rings`] stands.
    pub(crate) fn settle_rings(&self) {
        let mut moving = self.moving.borrow_mut();
        if let Some(moved) = moving.take_if(|moving| moving.named) {
            self.rings.set(moved.rings);
        }
    }

    /// The new places that are not old ones.
    pub(super) fn moving_places(&self) -> Vec<RingPlace> {
        let old = self.rings.get();
        let moving = self.moving.borrow();
        moving.iter().flat_map(|moving| moving.rings).filter(|ring| !old.contains(ring)).collect()
    }

    /// A batch could not be written to a new place: the move is off, unless a root says already that it is there.
    pub(super) fn move_failed(&self, error: IoError) -> Result<(), IoError> {
        let mut moving = self.moving.borrow_mut();
        if moving.as_ref().is_some_and(|moving| moving.named) {
            return Err(error);
        }
        tracing::warn!(%error, "the journal stays where it is: it cannot be written to its new place");
        *moving = None;
        Ok(())
    }
}
