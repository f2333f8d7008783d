//! Closing: the last checkpoint says that nothing is left to recover.

use plimsoll_hardware::{IoError, Machine};

use super::Pool;
use crate::error::{Error, Result};
use crate::journal::JournalFailed;

impl<M: Machine> Pool<M> {
    /// Refuses new work, waits for I/O in flight and the jobs' present steps, writes a checkpoint and marks the pool clean.
    /// Handles answer `Closing` from then on. Closing a closed pool does nothing.
    ///
    /// # Errors
    /// `ClosedFull`, `Device`, `ReadOnly` when the pool could not be marked clean, now or because it failed before: the next start
    /// recovers it, as after a crash. A pool that was opened for reading only has nothing to mark.
    pub async fn close(&self) -> Result<()> {
        let store = &self.store;
        if store.closing.replace(true) {
            return Ok(());
        }
        store.holds.look_again();
        store.stir_reclaims();
        store.space.ledger.eased.notify();
        store.alarms.raised.notify();
        store.checkpoint.request.notify();
        store.checkpoint.done.notify();
        store.checkpoint.members.notify();
        store.space.filling.reached.notify();
        store.space.scarce.reached.notify();
        store.surveys.asked.notify();
        // A check that looks at the last checkpoint's pages must not find others there.
        while store.checkpoint.running.get() || store.checkpoint.pins.get() > 0 || store.promised.get() > 0 {
            store.checkpoint.done.changed().await;
        }
        while store.space.epochs.wait().await {}
        if let Some(failure) = store.journal.failure() {
            return Err(self.closed_full().unwrap_or_else(|| store.journal_failed(JournalFailed(failure))));
        }
        if store.inspect || store.read_only.borrow().is_some() {
            return Ok(());
        }
        store.checkpoint.running.set(true);
        // Two, so that a copy of a device that was made before this life is known to be old (`open`).
        for clean in [false, true] {
            store.write_checkpoint(clean).await.map_err(|error| self.closed_full().unwrap_or(error))?;
        }
        store.journal.forget_tail();
        Ok(())
    }

    /// What to say when all that failed is that a checkpoint found no room below the devices.
    fn closed_full(&self) -> Option<Error> {
        let Some(IoError::NoSpace { path }) = self.store.journal.failure() else { return None };
        Some(Error::ClosedFull { pool: self.store.identity.name.clone(), path })
    }
}
