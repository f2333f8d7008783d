//! Real devices: block devices and regular files, read and written past the page cache.
//!
//! Invariants:
//! 1. An operation answers `Ok` only when every byte of it was transferred: short transfers go on, and one that cannot
//!    is an error.
//! 2. A device that is open is locked against every other opener that asks for the lock (see `open`).
//! 3. One that was found to have become smaller is not changed any more.
//!
//! Not here: what a device can do ([`crate::probe`]), and any caching.

mod errors;
mod open;
mod punch;
#[cfg(test)]
mod tests;
mod transfer;

use std::cell::Cell;
use std::rc::Rc;

pub use errors::OpenError;
pub use open::OpenOptions;

use crate::buffer::{Buffer, Frozen};
use crate::device::{Device, Durability, Geometry, IoError};
use crate::reactor::Descriptor;
use punch::{DiscardBy, ZeroBy};

/// A block device or regular file, opened on a reactor. Cheap to clone; the lock is given back with the last clone and
/// its last operation.
#[derive(Clone)]
pub struct FileDevice {
    inner: Rc<Inner>,
}

struct Inner {
    descriptor: Rc<Descriptor>,
    geometry: Geometry,
    /// Bytes that may be accessed: those it had when it was opened or measured last, and no more than it ended at when it was cut off.
    size: Cell<u64>,
    /// Bytes that are used of it, as far as anybody has said.
    used: Cell<u64>,
    /// It may be changed: neither opened read-only nor cut off.
    changeable: Cell<bool>,
    is_block_device: bool,
    /// The best way that has not been refused yet.
    zero_by: Cell<ZeroBy>,
    discard_by: Cell<DiscardBy>,
}

impl FileDevice {
    fn new(descriptor: Rc<Descriptor>, geometry: Geometry, is_block_device: bool) -> Self {
        let zero_by = match (is_block_device, geometry.write_zeroes_max) {
            (_, 0) => ZeroBy::Data,
            _ => ZeroBy::Range,
        };
        let discard_by = match (is_block_device, geometry.discard_max) {
            (_, 0) => DiscardBy::Nothing,
            (true, _) => DiscardBy::Command,
            (false, _) => DiscardBy::Punch,
        };
        let (zero_by, discard_by) = (Cell::new(zero_by), Cell::new(discard_by));
        let (size, used, changeable) =
            (Cell::new(geometry.size), Cell::new(geometry.size), Cell::new(!geometry.read_only));
        Self {
            inner: Rc::new(Inner {
                descriptor,
                geometry,
                size,
                used,
                changeable,
                is_block_device,
                zero_by,
                discard_by,
            }),
        }
    }
}

impl Device for FileDevice {
    #[inline]
    fn geometry(&self) -> &Geometry {
        &self.inner.geometry
    }

    fn measure(&self, used: u64) -> Result<u64, IoError> {
        self.inner.measure(used)
    }

    #[inline]
    fn read(&self, offset: u64, buffer: Buffer) -> impl Future<Output = Result<Buffer, IoError>> {
        self.inner.read(offset, buffer)
    }

    #[inline]
    fn write(&self, offset: u64, data: Frozen, durability: Durability) -> impl Future<Output = Result<(), IoError>> {
        self.inner.write(offset, data, durability)
    }

    fn flush(&self) -> impl Future<Output = Result<(), IoError>> {
        self.inner.flush()
    }

    fn discard(&self, offset: u64, length: u64) -> impl Future<Output = Result<(), IoError>> {
        self.inner.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> impl Future<Output = Result<(), IoError>> {
        self.inner.write_zeroes(offset, length)
    }

    fn allocate(&self, offset: u64, length: u64) -> impl Future<Output = Result<(), IoError>> {
        self.inner.allocate(offset, length)
    }
}
