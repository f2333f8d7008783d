//! The ceiling: a tight loop over one io_uring, with the flags, fixed buffer and fixed file that the reactor uses.
//!
//! A ring is a promise to the kernel about memory, so this is `unsafe` and outside the crate that otherwise has all of
//! it: there it would be one loop more that nothing but this benchmark runs.
#![expect(unsafe_code, reason = "submission entries name memory; the loop keeps it")]

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Instant;

use io_uring::{EnterFlags, IoUring, opcode, squeue, types};
use plimsoll_hardware::{Buffer, BufferPool};

use crate::meter::{Histogram, Measured, Meter, SAMPLE};
use crate::work::{Kind, Run};

/// Does the work of `run` on the file itself.
pub(crate) fn measure(path: &Path, run: &Run) -> Result<Measured, Box<dyn Error>> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
    let pool = BufferPool::new(64 << 20)?;
    Loop::new(file, pool, run)?.turn(run)
}

/// Marks the completion of a flush.
const FLUSH: u64 = 1 << 32;

struct Loop {
    // Dropped first: the kernel lets go of the memory and the file with it.
    ring: IoUring,
    buffers: Vec<Buffer>,
    _pool: BufferPool,
    _file: File,
}

impl Loop {
    fn new(file: File, pool: BufferPool, run: &Run) -> Result<Self, Box<dyn Error>> {
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
        let mut buffers = Vec::with_capacity(run.case.depth);
        for _ in 0..run.case.depth {
            let mut buffer = pool.try_alloc(run.case.block as usize).ok_or("no memory")?;
            buffer.fill(0x5a);
            buffers.push(buffer);
        }
        Ok(Loop { ring, buffers, _pool: pool, _file: file })
    }

    /// Flushes through the ring too: a `fdatasync` from this thread was measured at a whole tick of the kernel (4 ms)
    /// where one through the ring takes 0.1 ms.
    fn push_flush(&mut self, number: usize) -> Result<(), squeue::PushError> {
        let entry = opcode::Fsync::new(types::Fixed(0)).flags(types::FsyncFlags::DATASYNC).build();
        // SAFETY: the entry names no memory.
        unsafe { self.ring.submission().push(&entry.user_data(FLUSH | number as u64)) }
    }

    fn push(&mut self, run: &Run, number: usize, offset: u64) -> Result<(), squeue::PushError> {
        let (start, length) = (self.buffers[number].as_mut_ptr(), run.case.block as u32);
        let file = types::Fixed(0);
        let entry = match run.case.kind.writes() {
            true => opcode::WriteFixed::new(file, start, length, 0).offset(offset).build(),
            false => opcode::ReadFixed::new(file, start, length, 0).offset(offset).build(),
        };
        // SAFETY: the buffers live until all operations have ended.
        unsafe { self.ring.submission().push(&entry.user_data(number as u64)) }
    }

    fn turn(mut self, run: &Run) -> Result<Measured, Box<dyn Error>> {
        let mut flags = EnterFlags::GETEVENTS;
        if self.ring.params().is_feature_no_iowait() {
            flags |= EnterFlags::NO_IOWAIT;
        }
        let (depth, flush) = (run.case.depth, run.case.kind == Kind::FirstWriteFlush);
        let (mut offsets, mut latencies) = (run.offsets(), Histogram::new());
        let mut begun: Vec<Option<Instant>> = vec![None; depth];
        let (mut operations, mut in_flight) = (0u64, 0);
        let mut done = Vec::with_capacity(depth);
        let meter = Meter::start();
        for number in 0..depth {
            if let Some(offset) = offsets.next() {
                self.push(run, number, offset)?;
                in_flight += 1;
            }
        }
        while in_flight > 0 {
            let queued = self.ring.submission().len() as u32;
            // SAFETY: no argument is passed and none is announced by the flags.
            unsafe { self.ring.submitter().enter::<()>(queued, 1, flags.bits(), None)? };
            let go_on = meter.began.elapsed() < run.time;
            done.extend(self.ring.completion().map(|completion| (completion.user_data(), completion.result())));
            for (number, result) in done.drain(..) {
                let expected = if number & FLUSH == 0 { run.case.block as i32 } else { 0 };
                if result != expected {
                    return Err(format!("an operation of the bare loop answered {result}").into());
                }
                if flush && number & FLUSH == 0 {
                    self.push_flush(number as usize)?;
                    continue;
                }
                let number = (number & !FLUSH) as usize;
                if let Some(began) = begun[number].take() {
                    latencies.add(began.elapsed());
                }
                operations += 1;
                match offsets.next().filter(|_| go_on) {
                    Some(offset) => {
                        begun[number] = (flush || operations.is_multiple_of(SAMPLE)).then(Instant::now);
                        self.push(run, number, offset)?;
                    }
                    None => in_flight -= 1,
                }
            }
        }
        Ok(meter.stop(operations, &latencies))
    }
}
