//! Flushing: everything answered before survives power loss afterwards. One journal serves the pool, so a flush of one vdisk
//! is a flush of all, shared by all who ask at the same time.

use std::rc::Rc;

use plimsoll_hardware::Machine;

use super::{Store, VdiskCore, count};
use crate::error::{Error, Result};

impl<M: Machine> Store<M> {
    pub(crate) async fn flush(self: &Rc<Self>, vdisk: &VdiskCore) -> Result<()> {
        if !vdisk.ready.get() {
            let name = format!("{}/{}", self.identity.name, vdisk.name());
            return Err(Error::NotFound { kind: "vdisk", name });
        }
        self.writable()?;
        count(&self.counters.flushes, 1);
        self.journal.flush().await.map_err(|failure| self.journal_failed(failure))
    }
}
