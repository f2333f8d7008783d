//! Discarding and zeroing, and keeping space.
//!
//! Each of the former has several ways, from the device's own to plain data. A way that the device or file system refuses
//! (`EOPNOTSUPP` and its kin) is not tried again.

use std::os::fd::AsFd;

use io_uring::{opcode, squeue};

use super::Inner;
use crate::buffer::PAGE;
use crate::device::{Durability, IoError};
use crate::reactor::entry_on;

/// Zeros are written from one shared buffer of this many bytes.
const ZEROS: usize = 16 * PAGE;

/// `BLOCK_URING_CMD_DISCARD`, `_IO(0x12, 0)`: linux/blkdev.h, since Linux 6.12.
const BLOCK_URING_CMD_DISCARD: u32 = 0x12 << 8;
/// `BLKDISCARD`, `_IO(0x12, 119)`: linux/fs.h. Its argument is two words: offset and length.
const BLKDISCARD: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 119);

/// How a range is made to read as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ZeroBy {
    /// `FALLOC_FL_ZERO_RANGE`: keeps the space.
    Range,
    /// `FALLOC_FL_PUNCH_HOLE`, files only: gives the space back, and a hole reads as zeros.
    Punch,
    /// Writing zeros.
    Data,
}

/// How a range is discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiscardBy {
    /// A command on the ring to a block device.
    Command,
    /// The ioctl, on the helper thread: what kernels before 6.12 have.
    Ioctl,
    /// `FALLOC_FL_PUNCH_HOLE` in a file.
    Punch,
    /// Not at all: it is a hint.
    Nothing,
}

/// Whether the result says that this way does not exist here.
fn is_refused(result: i32) -> bool {
    matches!(-result, libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::EINVAL)
}

/// Cuts a range into pieces of at most `most` bytes.
fn pieces(offset: u64, length: u64, most: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..length).step_by(most.max(1) as usize).map(move |at| (offset + at, most.min(length - at)))
}

impl Inner {
    pub(super) async fn discard(&self, offset: u64, length: u64) -> Result<(), IoError> {
        self.check_change("discard", offset, length)?;
        for (offset, length) in pieces(offset, length, self.geometry.discard_max) {
            self.discard_piece(offset, length).await?;
        }
        Ok(())
    }

    async fn discard_piece(&self, offset: u64, length: u64) -> Result<(), IoError> {
        let descriptor = &self.descriptor;
        loop {
            let by = self.discard_by.get();
            let result = match by {
                DiscardBy::Nothing => return Ok(()),
                DiscardBy::Punch => self.run_once(|| self.fallocate(libc::FALLOC_FL_PUNCH_HOLE, offset, length)).await,
                DiscardBy::Command => {
                    let mut command = [0; 16];
                    command[..8].copy_from_slice(&length.to_ne_bytes());
                    self.run_once(|| {
                        entry_on!(descriptor, |target| opcode::UringCmd16::new(target, BLOCK_URING_CMD_DISCARD)
                            .addr(Some(offset))
                            .cmd(command))
                    })
                    .await
                }
                DiscardBy::Ioctl => self.discard_by_ioctl(offset, length).await,
            };
            if result >= 0 {
                return Ok(());
            }
            if !is_refused(result) {
                return Err(self.failure("discard", offset, result));
            }
            self.discard_by.set(match by {
                DiscardBy::Command => DiscardBy::Ioctl,
                _ => DiscardBy::Nothing,
            });
            tracing::debug!(path = %self.geometry.path, ?by, result, "a way to discard is refused; the next is tried");
        }
    }

    async fn discard_by_ioctl(&self, offset: u64, length: u64) -> i32 {
        let Ok(fd) = self.descriptor.as_fd().try_clone_to_owned() else { return -libc::EMFILE };
        let discard = move || {
            let mut range = [offset, length];
            // SAFETY: BLKDISCARD reads two 64-bit words at its argument.
            let done = unsafe {
                rustix::ioctl::ioctl(&fd, rustix::ioctl::Updater::<{ BLKDISCARD }, [u64; 2]>::new(&mut range))
            };
            done.map_or_else(|errno| -errno.raw_os_error(), |()| 0)
        };
        self.descriptor.core().blocking(discard).await.unwrap_or(-libc::EIO)
    }

    pub(super) async fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), IoError> {
        self.check_change("write zeroes", offset, length)?;
        let mut done = 0;
        while done < length {
            let by = self.zero_by.get();
            let (at, left) = (offset + done, length - done);
            let mode = match by {
                ZeroBy::Range => libc::FALLOC_FL_ZERO_RANGE,
                ZeroBy::Punch => libc::FALLOC_FL_PUNCH_HOLE,
                ZeroBy::Data => return self.write_zeroes_as_data(at, left).await,
            };
            let piece = left.min(self.geometry.write_zeroes_max);
            let result = self.run_once(|| self.fallocate(mode, at, piece)).await;
            if result >= 0 {
                done += piece;
                continue;
            }
            if !is_refused(result) {
                return Err(self.failure("write zeroes", at, result));
            }
            self.zero_by.set(match by {
                // What a block device reads after a hole was punched is up to the device.
                ZeroBy::Range if !self.is_block_device => ZeroBy::Punch,
                _ => ZeroBy::Data,
            });
            tracing::debug!(path = %self.geometry.path, ?by, result, "a way to zero is refused; the next is tried");
        }
        Ok(())
    }

    async fn write_zeroes_as_data(&self, offset: u64, length: u64) -> Result<(), IoError> {
        let core = self.descriptor.core();
        if core.zeros.get().is_none() {
            let zeros = core.buffers.zeroed(ZEROS).await.freeze();
            // Another task may have been first while this one waited for memory; one buffer is enough.
            let _ = core.zeros.set(zeros);
        }
        let zeros = core.zeros.get().expect("the buffer of zeros was just made");
        for (offset, length) in pieces(offset, length, ZEROS as u64) {
            self.write(offset, zeros.slice(0..length as usize), Durability::Cached).await?;
        }
        Ok(())
    }

    pub(super) async fn allocate(&self, offset: u64, length: u64) -> Result<(), IoError> {
        self.check_change("allocate", offset, length)?;
        if self.is_block_device {
            return Ok(());
        }
        match self.run_once(|| self.fallocate(0, offset, length)).await {
            result if result >= 0 || is_refused(result) => Ok(()),
            result => Err(self.failure("allocate", offset, result)),
        }
    }

    fn fallocate(&self, mode: i32, offset: u64, length: u64) -> squeue::Entry {
        let descriptor = &self.descriptor;
        let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
        entry_on!(descriptor, |target| opcode::Fallocate::new(target, length).offset(offset).mode(mode))
    }
}
