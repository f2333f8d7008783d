//! Closing: the last checkpoint says that nothing is left to recover.

use plimsoll_hardware::Machine;

use super::Pool;
use crate::error::Result;

impl<M: Machine> Pool<M> {
    /// Refuses new work, waits for I/O in flight and the jobs' present steps, writes a checkpoint and marks the pool clean.
    /// Handles answer `Closing` from then on. Closing a closed pool does nothing.
    ///
    /// # Errors
    /// When the last checkpoint cannot be written: the pool is recovered by the next start, as after a crash.
    pub async fn close(&self) -> Result<()> {
        let store = &self.store;
        if store.closing.replace(true) {
            return Ok(());
        }
        store.checkpoint.request.notify();
        store.checkpoint.done.notify();
        while store.checkpoint.running.get() || store.promised.get() > 0 {
            store.checkpoint.done.changed().await;
        }
        while store.space.epochs.wait().await {}
        if store.inspect || store.read_only.borrow().is_some() || store.journal.failure().is_some() {
            return Ok(());
        }
        store.checkpoint.running.set(true);
        store.write_checkpoint(true).await?;
        store.journal.forget_tail();
        Ok(())
    }
}
