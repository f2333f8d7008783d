//! Watching what is below the pool: operations of devices that failed, and whether the pool takes writes.

use plimsoll_hardware::{IoError, Machine};

use super::Store;
use crate::event::SpaceEvent;

impl<M: Machine> Store<M> {
    /// Looks at what has failed, and whether the pool takes writes.
    pub(super) fn watch_devices(&self) {
        let trouble = &self.media.trouble;
        for failed in trouble.take_due(self.media.machine.now()) {
            let full = matches!(failed.first, IoError::NoSpace { .. });
            let (device, errors, reason) = (failed.path, failed.errors, failed.first.to_string());
            self.alarms.raise(SpaceEvent::DeviceErrors { device, errors, reason, full });
        }
        let reason = self.why_read_only();
        if self.alarms.read_only.replace(reason.is_some()) != reason.is_some() {
            let (rising, reason) = (reason.is_some(), reason.unwrap_or_default());
            self.alarms.raise(SpaceEvent::ReadOnly { reason, rising });
        }
    }
}
