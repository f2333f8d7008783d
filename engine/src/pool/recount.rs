//! Counting everything anew that the pool has a figure of.

use plimsoll_hardware::Machine;

use crate::space::{Figure, See};
use crate::vdisk::Store;

impl<M: Machine> Store<M> {
    /// Shows every figure of the space, of promises and of held writes, beside a recount. No `await` in it, so all are of one instant, and
    /// between two `await`s they are right whatever is under way. `all_read`: see [`crate::space::Space::recount`].
    pub(super) fn recount(&self, all_read: bool, see: &mut See<'_>) {
        let vdisks: Vec<_> = self.vdisks.borrow().values().cloned().collect();
        for vdisk in &vdisks {
            let (entry, name) = (vdisk.entry.borrow(), format!("{}/{}", self.identity.name, vdisk.name()));
            vdisk.mapping.account.compare(&name, &self.terms(&entry), see);
        }
        self.space.ledger.recount(vdisks.iter().map(|vdisk| &*vdisk.mapping.account), self.space.held(), see);
        self.space.recount(self.holds.granted(), all_read, see);
        self.holds.recount(see);
        let held = self.holds.by_vdisk();
        for vdisk in vdisks {
            let ((writes, bytes), counted) = (vdisk.held.get(), held.get(&vdisk.id).copied().unwrap_or_default());
            if (writes, bytes) == (0, 0) && counted == (0, 0) {
                continue;
            }
            let name = format!("{}/{}", self.identity.name, vdisk.name());
            let writes = Figure::shown(see, format!("held writes of {name}"), writes, counted.0);
            let bytes = Figure::shown(see, format!("bytes of held writes of {name}"), bytes, counted.1);
            vdisk.held.set((writes, bytes));
        }
    }
}
