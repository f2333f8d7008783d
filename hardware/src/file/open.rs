//! Opening and locking.
//!
//! Two locks are taken together: `flock` on the inode, which every Plimsoll process asks for, and for block devices
//! `O_EXCL`, which also keeps out mounts, mdraid, LVM and other kernel users. Both may still be held for a while by a
//! process that was killed, since the kernel finishes its I/O first; so they are asked for again until the patience
//! ends.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{FileDevice, OpenError};
use crate::machine::Machine;
use crate::probe;
use crate::reactor::{Descriptor, Handle};

/// First and longest pause between two attempts at a lock.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// How to open a device.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Goes through the page cache, for file systems without direct I/O. Default false.
    pub buffered: bool,
    /// Never writes. Default false.
    pub read_only: bool,
    /// Keeps others out. Default true.
    pub lock: bool,
    /// How long a lock that somebody holds is asked for again. Default 5 s.
    pub lock_patience: Duration,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { buffered: false, read_only: false, lock: true, lock_patience: Duration::from_secs(5) }
    }
}

impl FileDevice {
    pub(crate) async fn open(handle: &Handle, path: &Path, options: OpenOptions) -> Result<FileDevice, OpenError> {
        let began = handle.now();
        let mut pause = RETRY_PAUSES.0;
        let (fd, kind) = loop {
            if let Some(opened) = try_open(path, &options)? {
                break opened;
            }
            let waited = handle.now() - began;
            if waited >= options.lock_patience {
                return Err(OpenError::Held { path: path.to_owned(), waited });
            }
            handle.sleep(pause.min(options.lock_patience - waited)).await;
            pause = (pause * 2).min(RETRY_PAUSES.1);
        };
        let is_block_device = kind == FileType::BlockDevice;
        let geometry = probe::geometry(&fd, path, is_block_device, options.buffered, options.read_only)
            .map_err(|source| OpenError::System { path: path.to_owned(), operation: "asking for its size", source })?;
        if geometry.size == 0 {
            let bytes = probe::size(&fd, is_block_device).unwrap_or(0);
            return Err(OpenError::Empty { path: path.to_owned(), bytes, block: geometry.logical_block });
        }
        if geometry.read_only && !options.read_only {
            return Err(OpenError::WriteProtected { path: path.to_owned() });
        }
        Ok(FileDevice::new(Descriptor::new(handle.core(), fd), geometry, is_block_device))
    }
}

/// Opens and locks, or answers `None` when somebody holds it.
fn try_open(path: &Path, options: &OpenOptions) -> Result<Option<(OwnedFd, FileType)>, OpenError> {
    let system = |operation: &'static str| {
        let path = path.to_owned();
        move |errno: Errno| match errno {
            Errno::NOENT => OpenError::Missing { path },
            Errno::ROFS => OpenError::WriteProtected { path },
            _ => OpenError::System { path, operation, source: errno.into() },
        }
    };
    // Looked at before it is opened: opening a pipe or a terminal may block or do something.
    let there = rustix::fs::stat(path).map_err(system("looking at it"))?;
    let kind = FileType::from_raw_mode(there.st_mode);
    let mut flags = OFlags::CLOEXEC;
    flags |= if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    match kind {
        FileType::BlockDevice if options.lock => flags |= OFlags::EXCL,
        FileType::BlockDevice | FileType::RegularFile => {}
        _ => return Err(OpenError::WrongKind { path: path.to_owned() }),
    }
    if !options.buffered {
        flags |= OFlags::DIRECT;
    }
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::BUSY) if flags.contains(OFlags::EXCL) => return Ok(None),
        Err(Errno::INVAL) if !options.buffered => return Err(OpenError::NoDirectIo { path: path.to_owned() }),
        Err(errno) => return Err(system("opening it")(errno)),
    };
    let opened = rustix::fs::fstat(&fd).map_err(system("looking at it"))?;
    if (opened.st_dev, opened.st_ino) != (there.st_dev, there.st_ino) {
        // Replaced in between: look again.
        return Ok(None);
    }
    if options.lock {
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(system("locking it")(errno)),
        }
    }
    Ok(Some((fd, kind)))
}
