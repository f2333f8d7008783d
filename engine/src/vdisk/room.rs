//! Room for dirty metadata pages: what a checkpoint will have to write is bounded before it is made, so that its pages always fit
//! the reserve. All that the last checkpoint which stands does not have counts: also what one under way writes, because a crash leaves that
//! to the next, and replayed changes that wait for their leaves.

use std::pin::pin;
use std::rc::Rc;

use futures_util::future::{Either, select};
use plimsoll_hardware::Machine;

use super::Store;
use super::write::pages_for;
use crate::error::Result;
use crate::format::MAP_RECORD_BYTES;
use crate::journal::{JournalFailed, Permit};

/// A promise that so many pages may become dirty; forfeited when it is dropped.
pub(crate) struct Room<M: Machine> {
    store: Rc<Store<M>>,
    pages: usize,
}

impl<M: Machine> Drop for Room<M> {
    fn drop(&mut self) {
        self.store.promised.set(self.store.promised.get() - self.pages);
        self.store.checkpoint.done.notify();
        let begins = !self.store.checkpoint.running.get() && self.store.wants_checkpoint();
        if self.store.closing.get() || begins {
            self.store.checkpoint.request.notify();
        }
    }
}

impl<M: Machine> Store<M> {
    /// Waits until `pages` more pages may become dirty. More than half of all that may is counted as half: one such change at
    /// a time is within the slack of the reserve.
    pub(crate) async fn room(self: &Rc<Self>, pages: usize) -> Result<Room<M>> {
        self.writable()?;
        match self.room_at_once(pages) {
            Some(room) => Ok(room),
            None => self.unless_starved(self.wait_for_room(pages)).await,
        }
    }

    async fn wait_for_room(self: &Rc<Self>, pages: usize) -> Result<Room<M>> {
        loop {
            self.request_checkpoint();
            self.checkpoint.done.changed().await;
            if let Some(error) = self.journal.failure() {
                return Err(self.journal_failed(JournalFailed(error)));
            }
            self.writable()?;
            if let Some(room) = self.room_at_once(pages) {
                return Ok(room);
            }
        }
    }

    /// As [`Store::room`], when there is room now.
    pub(crate) fn room_at_once(self: &Rc<Self>, pages: usize) -> Option<Room<M>> {
        let pages = pages.min(self.space.dirty_max() / 2);
        let used = self.counts.unwritten() + self.promised.get();
        // What a checkpoint leaves dirty itself is there for the next one however often it is asked for.
        let alone = self.promised.get() == 0 && used <= self.checkpoint.floor.get();
        (used + pages <= self.space.dirty_max() || alone).then(|| {
            self.promised.set(self.promised.get() + pages);
            Room { store: self.clone(), pages }
        })
    }

    /// Room in the journal and for dirty pages, for a write of so many pieces; `None`: the checkpoint that could make some starves.
    pub(super) async fn means(self: &Rc<Self>, pieces: usize) -> Result<Option<(Permit<M>, Room<M>)>> {
        self.writable()?;
        let means = pin!(async {
            let room = self.room(pages_for(pieces)).await?;
            Ok((self.permit(MAP_RECORD_BYTES * pieces).await?, room))
        });
        match select(means, pin!(self.starved())).await {
            Either::Left((means, _)) => means.map(Some),
            Either::Right(_) => Ok(None),
        }
    }

    /// Asks for a checkpoint; it runs beside.
    pub(crate) fn request_checkpoint(&self) {
        self.checkpoint.wanted.set(true);
        self.checkpoint.request.notify();
    }

    /// Whether so many pages are dirty that a checkpoint should run.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        // A half, so that writers need not wait; dirty leaves may take half of the cache.
        self.counts.unwritten() * 2 > self.space.dirty_max().min(self.cache.capacity())
            || self.journal.wants_checkpoint()
    }
}
