//! The file system in which the disk is the one file, `disk`.
//!
//! The file is opened for direct I/O whatever its opener asks for, so every read and write of another process arrives
//! here as it was issued. A handle belongs to the power-on period in which it was opened: after a power cut every
//! operation on it fails with EIO, so that a dying process's late writes cannot reach the disk that it lost.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, WriteFlags,
};
use rustix::fs::{FallocateFlags, OFlags};

use super::media::{Cache, Media};

/// The name of the one file.
pub const FILE_NAME: &str = "disk";
const FILE: INodeNo = INodeNo(2);
const TTL: Duration = Duration::from_secs(60);

/// The disk as the file system and the control socket share it.
#[derive(Debug)]
pub struct Shared {
    /// The disk.
    pub media: Media,
    /// The power-on period; a cut begins a new one.
    pub period: u64,
}

/// The file system.
#[derive(Debug)]
pub struct OneFile(pub Arc<Mutex<Shared>>);

impl OneFile {
    /// How it is to be mounted.
    pub fn config() -> Config {
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName("fault-disk".into()), MountOption::NoSuid, MountOption::NoDev, MountOption::RW];
        config
    }

    /// Does `operation` on the disk for handle `handle`; gives its result and how late the answer is to be.
    fn on_disk<T>(
        &self,
        handle: FileHandle,
        operation: impl FnOnce(&mut Media) -> Result<T, rustix::io::Errno>,
    ) -> (Result<T, Errno>, Duration) {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let late = Duration::from_millis(shared.media.faults.slow_ms);
        if handle.0 != shared.period {
            return (Err(Errno::EIO), late);
        }
        let result = operation(&mut shared.media);
        (result.map_err(|error| Errno::from_i32(error.raw_os_error())), late)
    }

    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let size = self.0.lock().unwrap_or_else(PoisonError::into_inner).media.size();
        let (kind, perm, size) =
            if inode == FILE { (FileType::RegularFile, 0o600, size) } else { (FileType::Directory, 0o700, 0) };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// Answers now, or after `late` from a thread of its own: a slow disk is slow for each request, not one at a time.
fn answer(late: Duration, reply: impl FnOnce() + Send + 'static) {
    if late.is_zero() {
        reply();
    } else {
        std::thread::spawn(move || {
            std::thread::sleep(late);
            reply();
        });
    }
}

fn done(result: Result<(), Errno>, late: Duration, reply: ReplyEmpty) {
    answer(late, move || match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    });
}

impl Filesystem for OneFile {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Several requests of one direct read or write may be under way at once; a kernel without it is only slower.
        let _ = config.add_capabilities(fuser::InitFlags::FUSE_ASYNC_DIO);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == FILE_NAME {
            reply.entry(&TTL, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(inode));
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<fuser::TimeOrNow>,
        _mtime: Option<fuser::TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let attributes = self.attributes(inode);
        match size {
            Some(size) if size != attributes.size => reply.error(Errno::EPERM),
            _ => reply.attr(&TTL, &attributes),
        }
    }

    fn open(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if inode != FILE {
            return reply.error(Errno::EISDIR);
        }
        let period = self.0.lock().unwrap_or_else(PoisonError::into_inner).period;
        reply.opened(FileHandle(period), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut buffer = vec![0; size as usize];
        let (result, late) = self.on_disk(handle, |media| media.read(offset, &mut buffer));
        answer(late, move || match result {
            Ok(length) => reply.data(&buffer[..length]),
            Err(error) => reply.error(error),
        });
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let synchronous = OFlags::from_bits_retain(flags.0 as u32).intersects(OFlags::DSYNC | OFlags::SYNC);
        let cache = if synchronous { Cache::Through } else { Cache::Volatile };
        let length = data.len() as u32;
        let (result, late) = self.on_disk(handle, |media| media.write(offset, data, cache));
        answer(late, move || match result {
            Ok(()) => reply.written(length),
            Err(error) => reply.error(error),
        });
    }

    fn flush(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        // This is close(2), which flushes nothing.
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _inode: INodeNo, handle: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        let (result, late) = self.on_disk(handle, Media::flush);
        done(result, late, reply);
    }

    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = FallocateFlags::from_bits_retain(mode as u32);
        if mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE) {
            let (result, late) = self.on_disk(handle, |media| media.discard(offset, length));
            done(result, late, reply);
        } else {
            reply.error(Errno::EOPNOTSUPP);
        }
    }

    fn readdir(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, offset: u64, reply: ReplyDirectory) {
        let mut reply = reply;
        if offset == 0 {
            let _full = reply.add(FILE, 1, FileType::RegularFile, FILE_NAME);
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        let blocks = self.attributes(FILE).size / 4096;
        reply.statfs(blocks, 0, 0, 1, 0, 4096, 255, 4096);
    }
}
