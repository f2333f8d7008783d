//! The trait behind which every drive looks the same, and what an operation on one may answer.

use crate::buffer::{Buffer, Frozen};

/// What the pool needs to know of a device. Read once when it is opened; see [`Device::measure`] for one that grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Where it was found: a path, or a made-up name for a simulated one. For messages only.
    pub path: String,
    /// What tells it from all other devices of this machine, copies of it too, whatever its path, until it is plugged in or its file
    /// system is mounted anew: letters, digits and `-`.
    pub identity: String,
    /// Usable size in bytes; a multiple of `logical_block`.
    pub size: u64,
    /// Smallest addressable unit in bytes, and the unit of atomicity that may be assumed: 512 or 4096.
    pub logical_block: u32,
    /// Unit in bytes that the medium writes without read-modify-write; at least `logical_block`.
    pub physical_block: u32,
    /// The device may lose completed writes on power loss until a flush completes.
    pub volatile_cache: bool,
    /// A write with [`Durability::Fua`] costs less than a write and a flush.
    pub fua: bool,
    /// Largest discard in bytes, 0 when the device has no discard.
    pub discard_max: u64,
    /// Largest write-zeroes in bytes, 0 when zeros must be written as data.
    pub write_zeroes_max: u64,
    /// A magnetic disk.
    pub rotational: bool,
    /// Opened without permission to write.
    pub read_only: bool,
}

/// How durable a write must be when it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// In the device; a later flush makes it survive power loss.
    Cached,
    /// On the medium.
    Fua,
}

/// Why an operation on a device failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// The file system under a file-backed device has no space (ENOSPC, EDQUOT) for a write, of which each block is as it was
    /// or as it was to be. No other is the less durable for it, so no flush fails so.
    #[error("{path}: no space left under the device; free space in its file system")]
    NoSpace {
        /// The device.
        path: String,
    },
    /// The device is gone (ENODEV, ENXIO, or a vanished simulated one). Nothing it acknowledged unflushed may be trusted.
    #[error("{path}: the device is gone; reconnect it and open the pool again")]
    Gone {
        /// The device.
        path: String,
    },
    /// The request does not fit the device: beyond its end, or misaligned. A bug above, or a device that shrank.
    #[error("{path}: {operation} of {length} bytes at {offset} does not fit a device of {size} bytes")]
    OutOfRange {
        /// The device.
        path: String,
        /// What was asked for.
        operation: &'static str,
        /// Byte offset.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Size of the device in bytes.
        size: u64,
    },
    /// It has fewer bytes than are used of it. It takes no change any more.
    #[error(
        "{path}: it ends at {size} now and had {used} bytes: it was truncated or shrunk under the pool, and what was behind is lost"
    )]
    Shrunk {
        /// The device.
        path: String,
        /// Bytes that it has.
        size: u64,
        /// Bytes that are used of it.
        used: u64,
    },
    /// Any other failure of the medium (EIO and its kin).
    #[error("{path}: {operation} failed at {offset}: {reason}")]
    Failed {
        /// The device.
        path: String,
        /// What was asked for.
        operation: &'static str,
        /// Byte offset.
        offset: u64,
        /// The system's words.
        reason: String,
    },
}

/// One drive, partition, file or simulated disk.
///
/// Offsets and lengths are in bytes and multiples of [`Geometry::logical_block`]; buffers are aligned by construction.
/// Operations are submitted when their future is first polled and go on when it is dropped: the memory stays owned by
/// the device until the operation has ended. Two operations in flight that overlap are not ordered.
pub trait Device: 'static {
    /// What was learnt when it was opened.
    fn geometry(&self) -> &Geometry;

    /// Asks the system how large it is now, in whole logical blocks, and from then on lets it be accessed up to there. `used`: bytes that
    /// are used of it from then on; before it was asked, as many as it was opened with.
    ///
    /// One that has fewer has lost what was behind. It takes no change from then on, by whatever it was noticed: a write would make a
    /// file long again, and what was lost would read as zeros.
    ///
    /// # Errors
    /// `Shrunk`, `Gone`; `Failed` with the system's words when it does not say.
    fn measure(&self, used: u64) -> Result<u64, IoError>;

    /// Fills the whole of `buffer` from `offset`.
    fn read(&self, offset: u64, buffer: Buffer) -> impl Future<Output = Result<Buffer, IoError>>;

    /// Writes all of `data` at `offset`. When it fails any part of it may have been written.
    fn write(&self, offset: u64, data: Frozen, durability: Durability) -> impl Future<Output = Result<(), IoError>>;

    /// Makes every write that completed before this call survive power loss. No I/O when the cache is not volatile.
    fn flush(&self) -> impl Future<Output = Result<(), IoError>>;

    /// Tells the device that a range is not needed. A hint: what it reads afterwards is undefined.
    fn discard(&self, offset: u64, length: u64) -> impl Future<Output = Result<(), IoError>>;

    /// Makes a range read as zeros, by the device's own means where it has them.
    fn write_zeroes(&self, offset: u64, length: u64) -> impl Future<Output = Result<(), IoError>>;

    /// Has a file's file system keep space for a range, so that writes to it do not meet a full one. What the range reads stays. Nothing
    /// to do for a block device, nor where the file system has no means for it.
    ///
    /// # Errors
    /// `NoSpace` when there is none; those of a write.
    fn allocate(&self, offset: u64, length: u64) -> impl Future<Output = Result<(), IoError>>;
}
