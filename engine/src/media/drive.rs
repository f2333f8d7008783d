//! One device of an open pool.

use std::cell::Cell;

use plimsoll_hardware::{Buffer, Device, Durability, Frozen, IoError};

use crate::format::DeviceSlot;

/// A device and what the root says of it.
pub(crate) struct Drive<D> {
    pub(crate) device: D,
    pub(crate) slot: DeviceSlot,
    /// Something was written since the last flush began.
    unflushed: Cell<bool>,
}

impl<D: Device> Drive<D> {
    pub(crate) fn new(device: D, slot: DeviceSlot) -> Self {
        // What a former life wrote may still be in the device's cache.
        Drive { device, slot, unflushed: Cell::new(true) }
    }

    pub(crate) async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer, IoError> {
        self.device.read(offset, buffer).await
    }

    pub(crate) async fn write(&self, offset: u64, data: Frozen, durability: Durability) -> Result<(), IoError> {
        let result = self.device.write(offset, data, durability).await;
        if durability == Durability::Cached || result.is_err() {
            self.unflushed.set(true);
        }
        result
    }

    /// Flushes when there is something to flush.
    pub(crate) async fn flush(&self) -> Result<(), IoError> {
        if !self.unflushed.replace(false) {
            return Ok(());
        }
        if !self.device.geometry().volatile_cache {
            return Ok(());
        }
        let result = self.device.flush().await;
        if result.is_err() {
            self.unflushed.set(true);
        }
        result
    }
}
