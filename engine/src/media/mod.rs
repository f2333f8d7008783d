//! The pool's devices as one body: where an extent or page lies, and the I/O that reaches it there.
//!
//! Invariants: every metadata page is written to both of its places before anybody names it; a device that failed a flush
//! is not flushed again in this life, because a flush that succeeds after one that failed says nothing.

mod drive;
mod flush;
mod page;
mod place;
mod scrub;
mod trouble;

pub(crate) use drive::{Disk, Drive};
pub(crate) use page::{LostPage, PageIo};
pub(crate) use scrub::Scrubbed;
pub(crate) use trouble::Trouble;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use plimsoll_hardware::{BufferPool, Device, IoError, Machine};

use crate::format::DeviceSlot;

/// Drives by their place in the pool; a hole is where one has left.
type Places<D> = Vec<Option<Rc<Drive<D>>>>;

/// The devices of an open pool.
pub(crate) struct Media<M: Machine> {
    /// By index, as in the root's table; none where a device has left.
    drives: RefCell<Places<M::Device>>,
    pub(crate) extent_bytes: u64,
    /// Some device may lose completed writes without a flush.
    volatile: Cell<bool>,
    /// Largest logical block of all devices.
    logical_block: Cell<u32>,
    flush_failed: RefCell<Option<IoError>>,
    pub(crate) pages: PageIo,
    pub(crate) trouble: Rc<Trouble>,
    buffers: BufferPool,
    pub(crate) machine: M,
}

impl<M: Machine> Media<M> {
    pub(crate) fn new(machine: M, extent_bytes: u32) -> Self {
        Media {
            drives: RefCell::default(),
            extent_bytes: u64::from(extent_bytes),
            volatile: Cell::new(false),
            logical_block: Cell::new(512),
            flush_failed: RefCell::default(),
            pages: PageIo::default(),
            trouble: Rc::default(),
            buffers: machine.buffers().privileged(),
            machine,
        }
    }

    /// As [`Media::when_lossy`], from before the journal is read.
    pub(crate) fn when_lossy_at_start(&self, act: impl Fn() + 'static) {
        self.trouble.at_start(act);
    }

    /// Says what to do, once, when a device may have lost what it had not flushed, whatever else says otherwise.
    pub(crate) fn when_lossy(&self, act: impl Fn() + 'static) {
        self.trouble.act(act);
    }

    /// Whether some device may have lost what it had not flushed, also before anybody was there to be told.
    pub(crate) fn is_lossy(&self) -> bool {
        self.trouble.is_lossy()
    }

    /// Asks every device whether it still has what the pool uses of it.
    ///
    /// # Errors
    /// `Shrunk` when one has not; else what the first says that is gone, or does not know.
    pub(crate) fn measure(&self) -> Result<(), IoError> {
        let drives = self.drives();
        let measure = |disk: &Rc<Disk<M::Device>>| {
            let used = drives.iter().filter(|drive| drive.is_of(disk)).map(|drive| drive.slot().size).max();
            disk.measure(used.unwrap_or(0)).err()
        };
        // All of them, whatever the first says: one that was cut off is told so.
        let failed: Vec<IoError> = self.disks().iter().filter_map(measure).collect();
        let shrunk = failed.iter().find(|error| matches!(error, IoError::Shrunk { .. }));
        shrunk.or(failed.first()).map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Adds a stretch of a device in its place of the root's table. Extents ascend from place to place.
    pub(crate) fn put(&self, drive: Drive<M::Device>) {
        let geometry = drive.device.geometry();
        self.volatile.set(self.volatile.get() || geometry.volatile_cache);
        self.logical_block.set(self.logical_block.get().max(geometry.logical_block));
        let mut drives = self.drives.borrow_mut();
        let index = usize::from(drive.index);
        if index >= drives.len() {
            drives.resize_with(index + 1, || None);
        }
        drives[index] = Some(Rc::new(drive));
    }

    /// Takes a device that has left out of its places.
    pub(crate) fn remove(&self, disk: &Rc<Disk<M::Device>>) {
        for place in self.drives.borrow_mut().iter_mut() {
            if place.as_ref().is_some_and(|drive| drive.is_of(disk)) {
                *place = None;
            }
        }
    }

    /// All stretches in use, in the order of their extents.
    pub(crate) fn drives(&self) -> Vec<Rc<Drive<M::Device>>> {
        self.drives.borrow().iter().flatten().cloned().collect()
    }

    /// The devices, each once.
    pub(crate) fn disks(&self) -> Vec<Rc<Disk<M::Device>>> {
        let mut disks: Vec<Rc<Disk<M::Device>>> = Vec::new();
        for drive in self.drives.borrow().iter().flatten() {
            if !disks.iter().any(|disk| drive.is_of(disk)) {
                disks.push(drive.disk.clone());
            }
        }
        disks
    }

    pub(crate) fn drive(&self, index: u16) -> Option<Rc<Drive<M::Device>>> {
        self.drives.borrow().get(usize::from(index)).cloned().flatten()
    }

    /// As [`Media::drive`], for I/O that needs one.
    pub(crate) fn drive_at(&self, index: u16) -> Result<Rc<Drive<M::Device>>, IoError> {
        let gone = || IoError::Gone { path: format!("device {index} of the pool") };
        self.drive(index).ok_or_else(gone)
    }

    /// The root's table of devices.
    pub(crate) fn slots(&self) -> Vec<DeviceSlot> {
        let drives = self.drives.borrow();
        drives.iter().map(|drive| drive.as_ref().map_or(DeviceSlot::HOLE, |drive| drive.slot())).collect()
    }

    /// Whether completed writes need a flush to survive power loss.
    pub(crate) fn is_volatile(&self) -> bool {
        self.volatile.get()
    }

    /// Smallest write in bytes that all devices take.
    pub(crate) fn logical_block(&self) -> u32 {
        self.logical_block.get()
    }

    /// The same devices for a reader that writes nothing, not even to heal.
    pub(crate) fn view(&self) -> Self {
        let mut view = Media::new(self.machine.clone(), self.extent_bytes as u32);
        view.pages.unread = self.pages.unread.clone();
        view.pages.inspect.set(true);
        view.pages.passing.set(true);
        view.volatile.set(self.volatile.get());
        view.logical_block.set(self.logical_block.get());
        *view.drives.borrow_mut() = self.drives.borrow().clone();
        view
    }

    /// Memory for the engine's own I/O, which may take what is kept from everybody else: requests hold memory while they wait
    /// for it.
    pub(crate) fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    /// Bytes of a block, the unit of validity.
    pub(crate) fn block_bytes(&self) -> u64 {
        self.extent_bytes / u64::from(crate::format::BLOCKS_PER_EXTENT)
    }
}
