//! Flushing: everything answered before survives power loss afterwards. One journal serves the pool, so a flush of one vdisk
//! is a flush of all, shared by all who ask at the same time.

use std::rc::Rc;

use plimsoll_hardware::Machine;

use super::{Store, VdiskCore, count};
use crate::error::Result;

impl<M: Machine> Store<M> {
    pub(crate) async fn flush(self: &Rc<Self>, vdisk: &VdiskCore) -> Result<()> {
        self.still_there(vdisk)?;
        self.writable()?;
        count(&self.counters.flushes, 1);
        self.flush_journal().await?;
        // What was discarded before is available, and shows, when this is answered.
        self.release_freed();
        Ok(())
    }
}
