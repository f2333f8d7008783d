//! The geometry of an open block device or regular file.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags, major, minor};

use super::QueueLimits;
use crate::crash_memory::MEMORY_FILE_SYSTEMS;
use crate::device::Geometry;

/// `BLKGETSIZE64`, `_IOR(0x12, 114, size_t)`: linux/fs.h.
const BLKGETSIZE64: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<usize>(0x12, 114);
/// `BLKROGET`, `_IO(0x12, 94)`: linux/fs.h.
const BLKROGET: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 94);

/// Bytes of a punched hole or zeroed range in a file, per call: each call occupies a worker of the kernel, and a file
/// system's transactions, for its whole length.
const FILE_RANGE_MAX: u64 = 1 << 30;

/// Unit that file systems allocate in; smaller writes read and modify.
const FILE_BLOCK: u32 = 4096;

/// Asks the system about an open device. `read_only` is how it was opened.
pub(crate) fn geometry(
    fd: &OwnedFd,
    path: &Path,
    is_block_device: bool,
    buffered: bool,
    read_only: bool,
) -> io::Result<Geometry> {
    let path = path.display().to_string();
    let bytes = size(fd, is_block_device)?;
    let mut geometry = if is_block_device {
        of_block_device(fd, path, buffered, read_only)?
    } else {
        of_file(fd, path, buffered, read_only)?
    };
    geometry.size = bytes - bytes % geometry.logical_block as u64;
    Ok(geometry)
}

/// Bytes of a device as the system counts them.
pub(crate) fn size(fd: impl AsFd, is_block_device: bool) -> io::Result<u64> {
    if !is_block_device {
        return Ok(rustix::fs::fstat(fd)?.st_size as u64);
    }
    // SAFETY: BLKGETSIZE64 writes one 64-bit word.
    Ok(unsafe { rustix::ioctl::ioctl(fd, rustix::ioctl::Getter::<{ BLKGETSIZE64 }, u64>::new()) }?)
}

fn of_block_device(fd: &OwnedFd, path: String, buffered: bool, read_only: bool) -> io::Result<Geometry> {
    let logical_block = rustix::fs::ioctl_blksszget(fd)?;
    let physical_block = rustix::fs::ioctl_blkpbszget(fd)?;
    // SAFETY: BLKROGET writes one int.
    let protected = unsafe { rustix::ioctl::ioctl(fd, rustix::ioctl::Getter::<{ BLKROGET }, i32>::new()) }? != 0;
    let number = rustix::fs::fstat(fd)?.st_rdev;
    let directory = PathBuf::from(format!("/sys/dev/block/{}:{}", major(number), minor(number)));
    let limits = QueueLimits::read(&directory);
    let limits = if buffered { limits.through_page_cache() } else { limits };
    Ok(Geometry {
        path,
        identity: format!("b{number:x}"),
        size: 0,
        logical_block,
        physical_block: physical_block.max(logical_block),
        volatile_cache: limits.volatile_cache,
        fua: limits.fua,
        discard_max: whole_blocks(limits.discard_max, logical_block),
        write_zeroes_max: whole_blocks(limits.write_zeroes_max, logical_block),
        rotational: limits.rotational,
        read_only: read_only || protected,
    })
}

fn of_file(fd: &OwnedFd, path: String, buffered: bool, read_only: bool) -> io::Result<Geometry> {
    let in_memory = MEMORY_FILE_SYSTEMS.contains(&(rustix::fs::fstatfs(fd)?.f_type as u64));
    let logical_block = if buffered || in_memory { 512 } else { direct_io_block(fd) };
    let found = rustix::fs::fstat(fd)?;
    let device = found.st_dev;
    let below = QueueLimits::read(&PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device))));
    Ok(Geometry {
        path,
        identity: format!("{device:x}-{:x}{}", found.st_ino, born(fd)),
        size: 0,
        logical_block,
        physical_block: FILE_BLOCK,
        // Even over a device without a cache a file system holds back its own metadata until it is asked; in memory
        // there is nothing that could survive a loss of power anyway.
        volatile_cache: !in_memory,
        fua: false,
        discard_max: FILE_RANGE_MAX,
        write_zeroes_max: FILE_RANGE_MAX,
        rotational: below.rotational,
        read_only,
    })
}

/// When a file was made, where its file system says so: the number of one that was deleted is given to the next.
fn born(fd: &OwnedFd) -> String {
    let known = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok();
    let known = known.filter(|known| known.stx_mask & StatxFlags::BTIME.bits() != 0).map(|known| known.stx_btime);
    known.map_or_else(String::new, |born| format!("-{:x}-{:x}", born.tv_sec, born.tv_nsec))
}

/// The unit of direct I/O in a file: 512 when the file system says so (Linux 6.1), else 4096, which always works.
fn direct_io_block(fd: &OwnedFd) -> u32 {
    let known = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    match known {
        Ok(known) if (1..=512).contains(&known.stx_dio_offset_align) => 512,
        _ => 4096,
    }
}

fn whole_blocks(bytes: u64, block: u32) -> u64 {
    bytes - bytes % block as u64
}
