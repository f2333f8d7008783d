//! One device of an open pool, and the stretches of it that the pool uses.

use std::cell::Cell;
use std::rc::Rc;

use plimsoll_hardware::{Buffer, Device, Durability, Frozen, IoError};

use super::Trouble;
use crate::format::{DeviceSlot, GROUP_EXTENTS, Standing};

/// A device, whatever stretches of it the pool uses.
pub(crate) struct Disk<D> {
    pub(crate) device: D,
    /// Writes that have completed, and how many of them a completed flush covers.
    written: Cell<u64>,
    flushed: Cell<u64>,
    /// A flush or a write with FUA failed: what the device had not flushed may be lost, and it would not say so again.
    doubtful: Cell<bool>,
    /// The file system that it is a file of had no room for it when it was asked last.
    full: Cell<bool>,
    /// Where its end was when a label or root was last seen there, in bytes; 0: nowhere yet.
    pub(crate) end_seen_at: Cell<u64>,
    /// It is there no more, and nobody knows what else of the device is zeros now.
    end_lost: Cell<bool>,
    /// What is told when it fails, and that it may have lost what it had not flushed: when it vanishes, or fails to make something durable.
    trouble: Rc<Trouble>,
}

/// A stretch of a device, and what the root says of it. A device that grew may have several.
pub(crate) struct Drive<D> {
    pub(crate) disk: Rc<Disk<D>>,
    /// Its place in the root's table.
    pub(crate) index: u16,
    slot: Cell<DeviceSlot>,
    /// Copies of the slot's, for the path of every I/O.
    pub(crate) extent_base: u64,
    pub(crate) extents_page: u64,
    extents: Cell<u64>,
    /// No root names it yet.
    joining: Cell<bool>,
}

impl<D> Drive<D> {
    pub(crate) fn new(disk: Rc<Disk<D>>, index: u16, slot: DeviceSlot) -> Self {
        Drive {
            disk,
            index,
            extent_base: slot.extent_base,
            extents_page: slot.extents_page,
            extents: Cell::new(slot.extents),
            slot: Cell::new(slot),
            joining: Cell::new(false),
        }
    }

    /// Whether only the root that will name it may need it.
    pub(crate) fn is_joining(&self) -> bool {
        self.joining.get()
    }

    pub(crate) fn set_joining(&self, joining: bool) {
        self.joining.set(joining);
    }

    pub(crate) fn slot(&self) -> DeviceSlot {
        self.slot.get()
    }

    pub(crate) fn extents(&self) -> u64 {
        self.extents.get()
    }

    /// Changes what the next root says of it. Where its extents begin never changes.
    pub(crate) fn change(&self, change: impl FnOnce(&mut DeviceSlot)) {
        let mut slot = self.slot.get();
        change(&mut slot);
        assert!(slot.extent_base == self.extent_base && slot.extents_page == self.extents_page, "a stretch has moved");
        self.extents.set(slot.extents);
        self.slot.set(slot);
    }

    /// Its allocation groups.
    pub(crate) fn groups(&self) -> std::ops::Range<u64> {
        let first = self.extent_base / GROUP_EXTENTS;
        first..first + self.extents.get().div_ceil(GROUP_EXTENTS)
    }

    /// Whether it gets nothing new.
    pub(crate) fn is_leaving(&self) -> bool {
        self.slot.get().standing != Standing::InUse
    }

    /// Whether it is a stretch of this device.
    pub(crate) fn is_of(&self, disk: &Rc<Disk<D>>) -> bool {
        Rc::ptr_eq(&self.disk, disk)
    }
}

impl<D: Device> std::ops::Deref for Drive<D> {
    type Target = Disk<D>;

    fn deref(&self) -> &Disk<D> {
        &self.disk
    }
}

impl<D: Device> Disk<D> {
    pub(crate) fn new(device: D, trouble: &Rc<Trouble>) -> Rc<Self> {
        // What a former life wrote may still be in the device's cache.
        let (written, flushed, doubtful, full) = (Cell::new(1), Cell::new(0), Cell::new(false), Cell::new(false));
        Rc::new(Disk {
            device,
            written,
            flushed,
            doubtful,
            full,
            end_seen_at: Cell::new(0),
            end_lost: Cell::new(false),
            trouble: trouble.clone(),
        })
    }

    pub(crate) async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer, IoError> {
        self.has_end(offset)?;
        self.noted(self.device.read(offset, buffer).await)
    }

    pub(crate) async fn write(&self, offset: u64, data: Frozen, durability: Durability) -> Result<(), IoError> {
        self.has_end(offset)?;
        let result = self.noted(self.device.write(offset, data, durability).await);
        self.written.set(self.written.get() + 1);
        // One that found no room has taken nothing with it.
        let failed = result.as_ref().is_err_and(|error| !matches!(error, IoError::NoSpace { .. }));
        if durability == Durability::Fua && failed && self.device.geometry().volatile_cache {
            self.doubt();
        }
        result
    }

    /// Its end is not there any more: from here on nothing is read from it or written.
    #[cold]
    pub(crate) fn lose_end(&self, offset: u64) -> IoError {
        self.end_lost.set(true);
        let error = self.without_end(offset);
        self.trouble.note(&self.device.geometry().path, &error);
        error
    }

    pub(crate) fn is_without_end(&self) -> bool {
        self.end_lost.get()
    }

    fn has_end(&self, offset: u64) -> Result<(), IoError> {
        if self.end_lost.get() { Err(self.without_end(offset)) } else { Ok(()) }
    }

    #[cold]
    fn without_end(&self, offset: u64) -> IoError {
        let reason = "zeros are where its label was: its end was cut off, thrown away or written over, and what was there is lost";
        let path = self.device.geometry().path.clone();
        IoError::Failed { path, operation: "looking for its end", offset, reason: reason.to_owned() }
    }

    /// What was read at `offset` is not what was written there; `other` is what that means, in words.
    #[cold]
    pub(crate) fn misread(&self, offset: u64, other: &str) {
        let path = self.device.geometry().path.clone();
        let reason = format!("a metadata page there is not what was written, {other}");
        self.trouble.note(&path, &IoError::Failed { path: path.clone(), operation: "read", offset, reason });
    }

    /// Has what it is on keep space for a range.
    pub(crate) async fn allocate(&self, offset: u64, length: u64) -> Result<(), IoError> {
        self.noted(self.device.allocate(offset, length).await)
    }

    /// Whether it had no room when it was asked last.
    pub(crate) fn is_full(&self) -> bool {
        self.full.get()
    }

    /// It may have room again.
    pub(crate) fn try_again(&self) {
        self.full.set(false);
    }

    /// How large it is now; the pool uses `used` bytes of it.
    pub(crate) fn measure(&self, used: u64) -> Result<u64, IoError> {
        self.noted(self.device.measure(used))
    }

    fn noted<T>(&self, result: Result<T, IoError>) -> Result<T, IoError> {
        match &result {
            // The device is not to blame, and who needed the space waits and tells.
            Err(IoError::NoSpace { .. }) => self.full.set(true),
            Err(error) => self.trouble.note(&self.device.geometry().path, error),
            Ok(_) => {}
        }
        result
    }

    /// At once, not when whoever asked finds out: our process may die before that.
    fn doubt(&self) {
        self.doubtful.set(true);
        self.trouble.lose();
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
