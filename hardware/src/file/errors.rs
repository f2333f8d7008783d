//! What may go wrong with a real device: at opening, and the system's answers in the words of [`IoError`].

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::Inner;
use crate::device::IoError;

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A system call failed.
    #[error("{path}: {operation} failed")]
    System {
        /// The device.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// There is nothing at the path.
    #[error("{path}: no such device or file; list devices with: plimsoll device list")]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// It is a directory, a character device or the like.
    #[error("{path} is neither a block device nor a regular file")]
    WrongKind {
        /// The path.
        path: PathBuf,
    },
    /// Somebody else has it.
    #[error(
        "{path}: another process holds it (or it is mounted), still after {} ms of waiting; stop that process or unmount \
         it (find it with: fuser -v {path})", .waited.as_millis()
    )]
    Held {
        /// The path.
        path: PathBuf,
        /// How long it was tried.
        waited: Duration,
    },
    /// The file system cannot bypass the page cache.
    #[error(
        "{path}: its file system refuses direct I/O (O_DIRECT); choose another one, or accept the page cache with buffered=yes"
    )]
    NoDirectIo {
        /// The path.
        path: PathBuf,
    },
    /// It is write-protected.
    #[error("{path} is write-protected; open it read-only, or lift the protection (blockdev --setrw {path})")]
    WriteProtected {
        /// The path.
        path: PathBuf,
    },
    /// It has not one block.
    #[error("{path} has {bytes} bytes, less than one block of {block}; make it larger (truncate -s SIZE {path})")]
    Empty {
        /// The path.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// Bytes of a logical block.
        block: u32,
    },
}

impl Inner {
    /// The error for a negative result of a system call.
    #[cold]
    pub(super) fn failure(&self, operation: &'static str, offset: u64, result: i32) -> IoError {
        let path = self.geometry.path.clone();
        match -result {
            libc::ENOSPC | libc::EDQUOT => IoError::NoSpace { path },
            libc::ENODEV | libc::ENXIO | libc::EBADFD => IoError::Gone { path },
            errno => {
                IoError::Failed { path, operation, offset, reason: io::Error::from_raw_os_error(errno).to_string() }
            }
        }
    }

    #[cold]
    pub(super) fn failed(&self, operation: &'static str, offset: u64, reason: String) -> IoError {
        IoError::Failed { path: self.geometry.path.clone(), operation, offset, reason }
    }

    /// Refuses what does not fit the device.
    #[inline]
    pub(super) fn check(&self, operation: &'static str, offset: u64, length: u64) -> Result<(), IoError> {
        let geometry = &self.geometry;
        // Blocks are a power of two, so one mask checks both numbers.
        let aligned = (offset | length) & (geometry.logical_block as u64 - 1) == 0;
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.size.get());
        if aligned && inside {
            return Ok(());
        }
        Err(self.out_of_range(operation, offset, length))
    }

    #[cold]
    fn out_of_range(&self, operation: &'static str, offset: u64, length: u64) -> IoError {
        if self.is_cut_off() {
            return self.cut_off(self.size.get());
        }
        let (path, size) = (self.geometry.path.clone(), self.size.get());
        IoError::OutOfRange { path, operation, offset, length, size }
    }

    /// Whether it has become smaller.
    pub(super) fn is_cut_off(&self) -> bool {
        !self.changeable.get() && !self.geometry.read_only
    }

    /// As [`Inner::check`], and whether it may be changed at all.
    #[inline]
    pub(super) fn check_change(&self, operation: &'static str, offset: u64, length: u64) -> Result<(), IoError> {
        if self.changeable.get() { self.check(operation, offset, length) } else { Err(self.fixed(operation, offset)) }
    }

    #[cold]
    fn fixed(&self, operation: &'static str, offset: u64) -> IoError {
        let cut_off = "it has become smaller than it was and is not written to any more, so that what it lost does not \
                       read as zeros";
        self.failed(operation, offset, if self.geometry.read_only { "it was opened read-only" } else { cut_off }.into())
    }

    /// It ends at `end` now, before the end of what is used of it.
    #[cold]
    pub(super) fn cut_off(&self, end: u64) -> IoError {
        self.changeable.set(false);
        // Made long again it would read as zeros there.
        let end = end.min(self.size.get());
        self.size.set(end);
        IoError::Shrunk { path: self.geometry.path.clone(), size: end, used: self.used.get() }
    }
}
