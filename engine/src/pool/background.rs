//! What runs beside the I/O of an open pool.

use std::pin::pin;
use std::rc::{Rc, Weak};

use futures_util::future::{Either, select};
use plimsoll_hardware::Machine;

use super::Pool;
use crate::format::{EntryState, Standing};
use crate::vdisk::Store;

impl<M: Machine> Pool<M> {
    pub(super) fn start_background(&self) {
        let store = Rc::downgrade(&self.store);
        self.store.media.machine.spawn(run_checkpoints(store.clone()));
        self.store.media.machine.spawn(keep_reserve(store.clone()));
        self.store.media.machine.spawn(super::compact::when_scarce(store.clone()));
        self.store.media.machine.spawn(super::survey::when_filling(store));
        let unfinished: Vec<_> = self.store.vdisks.borrow().values().cloned().collect();
        for vdisk in unfinished {
            if vdisk.entry.borrow().state != EntryState::Ready {
                self.store.start_giving_back(&vdisk);
            }
            if vdisk.ready.get() {
                self.store.resume_reclaim_of(&vdisk);
            }
        }
        for member in self.store.members() {
            if member.standing() != Standing::InUse {
                self.store.start_moving_out(&member);
            }
        }
    }
}

/// Writes checkpoints when they are wanted, until the pool is closed or forgotten.
async fn run_checkpoints<M: Machine>(weak: Weak<Store<M>>) {
    while let Some(store) = weak.upgrade() {
        // Writers that closing waits for may need one more.
        let closed = store.closing.get() && store.promised.get() == 0;
        if closed || store.read_only.borrow().is_some() {
            // Whoever waits for a checkpoint finds that there will be none.
            store.checkpoint.done.notify();
            return;
        }
        let asked = store.checkpoint.wanted.get();
        // A reader of the pages of the last checkpoint holds the next one up.
        let held_up = store.checkpoint.pins.get() > 0;
        if (asked || store.wants_checkpoint()) && !held_up {
            store.checkpoint.running.set(true);
            let result = store.write_checkpoint(false).await;
            store.checkpoint.running.set(false);
            store.checkpoint.done.notify();
            if let Err(error) = result {
                tracing::error!(%error, "checkpoints have ended");
                return;
            }
            continue;
        }
        let request = pin!(store.checkpoint.request.changed());
        let pressure = pin!(store.journal.pressure.changed());
        match select(request, pressure).await {
            Either::Left(_) | Either::Right(_) => {}
        }
    }
}

/// Keeps the metadata reserve in blocks of the files that devices are, never in front of a write.
async fn keep_reserve<M: Machine>(weak: Weak<Store<M>>) {
    let mut told = false;
    while let Some(store) = weak.upgrade()
        && store.is_writable()
        && !store.closing.get()
    {
        let eased = store.space.ledger.eased.changed();
        let (gained, short) = (store.space.keep_reserve().await, store.space.kept_short() > 0);
        if short && gained {
            continue;
        }
        if short && !told {
            store.note_full_devices();
        }
        told = short;
        if short && store.space.is_some_full() {
            // Nobody tells that there is room again.
            select(pin!(eased), pin!(store.until_next_look())).await;
            store.look_for_room().await;
        } else {
            eased.await;
        }
    }
}
