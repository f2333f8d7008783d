//! One device of an open pool.

use std::cell::Cell;
use std::rc::Rc;

use plimsoll_hardware::{Buffer, Device, Durability, Frozen, IoError};

use super::Lossy;
use crate::format::DeviceSlot;

/// A device and what the root says of it.
pub(crate) struct Drive<D> {
    pub(crate) device: D,
    pub(crate) slot: DeviceSlot,
    /// Writes that have completed, and how many of them a completed flush covers.
    written: Cell<u64>,
    flushed: Cell<u64>,
    /// A flush or a write with FUA failed: what the device had not flushed may be lost, and it would not say so again.
    doubtful: Cell<bool>,
    /// Who is told when it may have lost what it had not flushed: when it vanishes, or fails to make something durable.
    lossy: Rc<Lossy>,
}

impl<D: Device> Drive<D> {
    pub(crate) fn new(device: D, slot: DeviceSlot, lossy: Rc<Lossy>) -> Self {
        // What a former life wrote may still be in the device's cache.
        Drive { device, slot, written: Cell::new(1), flushed: Cell::new(0), doubtful: Cell::new(false), lossy }
    }

    pub(crate) async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer, IoError> {
        self.noted(self.device.read(offset, buffer).await)
    }

    pub(crate) async fn write(&self, offset: u64, data: Frozen, durability: Durability) -> Result<(), IoError> {
        let result = self.noted(self.device.write(offset, data, durability).await);
        self.written.set(self.written.get() + 1);
        if durability == Durability::Fua && result.is_err() && self.device.geometry().volatile_cache {
            self.doubt();
        }
        result
    }

    fn noted<T>(&self, result: Result<T, IoError>) -> Result<T, IoError> {
        if let Err(IoError::Gone { .. }) = &result {
            self.lossy.tell();
        }
        result
    }

    /// At once, not when whoever asked finds out: our process may die before that.
    fn doubt(&self) {
        self.doubtful.set(true);
        self.lossy.tell();
    }

    /// Flushes when there is something to flush. Two at once flush twice: neither may answer for the other. When one fails the
    /// device may have dropped what the other asked for as well, so that fails too.
    pub(crate) async fn flush(&self) -> Result<(), IoError> {
        let written = self.written.get();
        self.undoubted()?;
        if self.flushed.get() >= written || !self.device.geometry().volatile_cache {
            return Ok(());
        }
        let result = self.noted(self.device.flush().await);
        if result.is_err() {
            self.doubt();
        }
        result?;
        self.undoubted()?;
        self.flushed.set(self.flushed.get().max(written));
        Ok(())
    }

    fn undoubted(&self) -> Result<(), IoError> {
        if !self.doubtful.get() {
            return Ok(());
        }
        Err(IoError::Failed {
            path: self.device.geometry().path.clone(),
            operation: "flush",
            offset: 0,
            reason: "a durable write or a flush failed before, and may have taken others with it".to_owned(),
        })
    }
}
