//! Saying that a vdisk's writes find no space, and that they do again: once each, however many writes there are.

use std::time::Duration;

use plimsoll_hardware::Machine;

use super::hold::Need;
use super::{Store, VdiskCore};
use crate::event::{SpaceEvent, VdiskName};

impl VdiskCore {
    /// As events name it.
    pub(crate) fn event_name(&self) -> VdiskName {
        let entry = self.entry.borrow();
        VdiskName { name: entry.name.clone(), uuid: entry.uuid, vm: entry.policy.vm.clone() }
    }
}

impl<M: Machine> Store<M> {
    /// A write found no space; it waits, or not.
    pub(super) fn note_exhausted(&self, vdisk: &VdiskCore, need: &Need, held: bool) {
        if vdisk.exhausted.get().is_some() {
            return;
        }
        vdisk.exhausted.set(Some(self.media.machine.now()));
        self.alarms.raise(SpaceEvent::Exhausted {
            vdisk: vdisk.event_name(),
            needed_bytes: need.extents * self.media.extent_bytes,
            cause: need.shortage,
            held,
        });
    }

    /// Blocks of an exhausted vdisk got their first contents.
    pub(super) fn note_resumed(&self, vdisk: &VdiskCore) {
        if vdisk.held.get().0 > 0 {
            return;
        }
        let Some(since) = vdisk.exhausted.take() else { return };
        let (lasted, writes) = (self.media.machine.now().saturating_sub(since), vdisk.waited.replace(0));
        self.alarms.raise(SpaceEvent::Resumed { vdisk: vdisk.event_name(), lasted, writes });
    }

    /// Vdisks that could write again, if anybody still wanted to: those who waited have given up.
    pub(super) fn note_relieved(&self) {
        let vdisks: Vec<_> =
            self.vdisks.borrow().values().filter(|vdisk| vdisk.exhausted.get().is_some()).cloned().collect();
        for vdisk in vdisks {
            if self.space.shortage(&vdisk.mapping.account, 1).is_none() {
                self.note_resumed(&vdisk);
            }
        }
    }

    /// A held write came to its bound.
    pub(super) fn note_expired(&self, vdisk: &VdiskCore, need: &Need, held_for: Duration) {
        let needed_bytes = need.extents * self.media.extent_bytes;
        self.alarms.raise(SpaceEvent::HoldExpired { vdisk: vdisk.event_name(), held_for, writes: 1, needed_bytes });
    }
}
