//! The ceiling that benchmarks compare with: one io_uring over one file, with the flags, the fixed buffer and the fixed file that
//! the reactor uses, and nothing else.
//!
//! It is here because a ring is a promise to the kernel about memory, and this crate has all of those.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use io_uring::{EnterFlags, IoUring, opcode, squeue, types};

use crate::{Buffer, BufferPool};

/// Marks the completion of a flush.
const FLUSH: u64 = 1 << 32;
/// Memory for the buffers in bytes: as much as a reactor has by default.
const MEMORY_BYTES: usize = 64 << 20;

/// What has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A read or a write of the buffer of this number.
    Transfer(usize),
    /// A flush that was given this number.
    Flush(usize),
}

/// One ring over one file, with a buffer for each operation in flight.
pub struct BareRing {
    // Dropped first: the kernel lets go of the memory and the file with it.
    ring: IoUring,
    buffers: Vec<Buffer>,
    _pool: BufferPool,
    _file: File,
    enter: EnterFlags,
}

impl BareRing {
    /// Opens `path` past the page cache, with `depth` buffers of `block` bytes (multiples of 4096), filled with one byte.
    ///
    /// # Errors
    /// The system's, when the file cannot be opened so, or there is no ring or memory.
    pub fn open(path: &Path, depth: usize, block: usize) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
        let pool = BufferPool::new(MEMORY_BYTES)?;
        let ring: IoUring = IoUring::builder()
            .dontfork()
            .setup_clamp()
            .setup_cqsize(4096)
            .setup_submit_all()
            .setup_coop_taskrun()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(1024)?;
        let (start, bytes) = pool.region();
        // SAFETY: advice about our own mapping, which outlives the ring, as the order of the fields says.
        unsafe {
            libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE);
            ring.submitter().register_buffers(&[libc::iovec { iov_base: start.cast(), iov_len: bytes }])?;
        }
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        let mut buffers = Vec::with_capacity(depth);
        for _ in 0..depth {
            let mut buffer = pool.try_alloc(block).ok_or(io::ErrorKind::OutOfMemory)?;
            buffer.fill(0x5a);
            buffers.push(buffer);
        }
        let mut enter = EnterFlags::GETEVENTS;
        if ring.params().is_feature_no_iowait() {
            enter |= EnterFlags::NO_IOWAIT;
        }
        Ok(BareRing { ring, buffers, _pool: pool, _file: file, enter })
    }

    /// Queues a read into buffer `number` from `offset`.
    ///
    /// # Errors
    /// When more is queued than the ring holds.
    pub fn read(&mut self, number: usize, offset: u64) -> io::Result<()> {
        let (start, length) = self.place(number);
        let entry = opcode::ReadFixed::new(types::Fixed(0), start, length, 0).offset(offset).build();
        self.push(entry.user_data(number as u64))
    }

    /// Queues a write of buffer `number` to `offset`.
    ///
    /// # Errors
    /// As [`BareRing::read`].
    pub fn write(&mut self, number: usize, offset: u64) -> io::Result<()> {
        let (start, length) = self.place(number);
        let entry = opcode::WriteFixed::new(types::Fixed(0), start, length, 0).offset(offset).build();
        self.push(entry.user_data(number as u64))
    }

    /// Queues a flush. Through the ring too: an `fdatasync` from this thread was measured at a whole tick of the kernel (4 ms) where
    /// one through the ring takes 0.1 ms.
    ///
    /// # Errors
    /// As [`BareRing::read`].
    pub fn flush(&mut self, number: usize) -> io::Result<()> {
        let entry = opcode::Fsync::new(types::Fixed(0)).flags(types::FsyncFlags::DATASYNC).build();
        self.push(entry.user_data(FLUSH | number as u64))
    }

    fn place(&mut self, number: usize) -> (*mut u8, u32) {
        let buffer = &mut self.buffers[number];
        (buffer.as_mut_ptr(), buffer.len() as u32)
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        // SAFETY: entries name no memory but the buffers, which live until all operations have ended.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| io::ErrorKind::OutOfMemory.into())
    }

    /// Submits what is queued, waits for one operation, and adds all that have ended to `ended`.
    ///
    /// # Errors
    /// The system's, and that of an operation that failed or was cut short.
    pub fn turn(&mut self, ended: &mut Vec<Ended>) -> io::Result<()> {
        let queued = self.ring.submission().len() as u32;
        // SAFETY: no argument is passed and none is announced by the flags.
        unsafe { self.ring.submitter().enter::<()>(queued, 1, self.enter.bits(), None)? };
        for completion in self.ring.completion() {
            let (number, result) = (completion.user_data(), completion.result());
            if result < 0 {
                return Err(io::Error::from_raw_os_error(-result));
            }
            let (transfer, number) = (number & FLUSH == 0, (number & !FLUSH) as usize);
            if transfer && result as usize != self.buffers[number].len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            ended.push(if transfer { Ended::Transfer(number) } else { Ended::Flush(number) });
        }
        Ok(())
    }
}

/// Processor time of the whole process, which counts what the kernel's workers do for it, and of this thread alone. Through libc:
/// valgrind does not get along with rustix's way to the clocks.
pub fn processor_times() -> (Duration, Duration) {
    (time(libc::CLOCK_PROCESS_CPUTIME_ID), time(libc::CLOCK_THREAD_CPUTIME_ID))
}

fn time(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes the one structure that it is given.
    let answer = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(answer, 0, "processor clocks are there since Linux 2.6");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
