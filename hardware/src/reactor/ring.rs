//! One io_uring: entries go in, one system call per turn, completions come out.
//!
//! Invariants: [`Ring::push`] never enters the kernel and never fails. What does not fit the submission queue waits in a
//! backlog, first in first out, so entries reach the kernel in the order in which they were pushed; the cancelling of an
//! operation relies on that (see `operations`).
//!
//! Not here: whose operation an entry is. A ring knows user data only as numbers.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::{EnterFlags, IoUring, cqueue, squeue, types};
use rustix::io::Errno;

/// Completions that are taken from the queue at once: 64 x 16 bytes on the stack.
pub(super) const REAP_BATCH: usize = 64;

pub(super) struct Ring {
    uring: IoUring,
    backlog: VecDeque<squeue::Entry>,
    enter_flags: u32,
    free_file_slots: Vec<u32>,
}

impl Ring {
    /// A ring of `entries` submission entries with the fastest set of flags that this kernel has.
    pub(super) fn new(entries: u32) -> io::Result<Self> {
        let uring = build(entries)?;
        let mut enter_flags = EnterFlags::GETEVENTS;
        if uring.params().is_feature_no_iowait() {
            // Waiting here is idling; without this an idle thread is accounted as one that waits for a disk.
            enter_flags |= EnterFlags::NO_IOWAIT;
        }
        Ok(Self { uring, backlog: VecDeque::new(), enter_flags: enter_flags.bits(), free_file_slots: Vec::new() })
    }

    /// Queues an entry for the next [`Ring::enter`].
    ///
    /// # Safety
    /// All memory that `entry` points to must stay valid and unmoved until its completion has been reaped.
    #[inline]
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() {
            // SAFETY: the caller's promise.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.backlog.push_back(entry);
    }

    /// Hands everything queued to the kernel and, when `wait`, sleeps until a completion arrives or `timeout` is over.
    /// Never waits while something could not be handed over.
    ///
    /// # Panics
    /// When the kernel refuses for a reason that retrying cannot cure: no operation could ever end again.
    pub(super) fn enter(&mut self, wait: bool, timeout: Option<Duration>) {
        let mut wait = wait;
        if !self.backlog.is_empty() {
            let mut queue = self.uring.submission();
            while let Some(entry) = self.backlog.front() {
                // SAFETY: whoever pushed it promised that its memory lives until its completion.
                if unsafe { queue.push(entry) }.is_err() {
                    wait = false;
                    break;
                }
                self.backlog.pop_front();
            }
        }
        let queued = self.uring.submission().len() as u32;
        let submitter = self.uring.submitter();
        let entered = match timeout.filter(|_| wait) {
            None => {
                // SAFETY: the flags ask for events without an argument, which is what is passed.
                unsafe { submitter.enter::<()>(queued, wait as u32, self.enter_flags, None) }
            }
            Some(timeout) => {
                let timespec = types::Timespec::from(timeout);
                let arguments = types::SubmitArgs::new().timespec(&timespec);
                let flags = self.enter_flags | EnterFlags::EXT_ARG.bits();
                // SAFETY: EXT_ARG takes an argument of this type, and both it and its timespec outlive the call.
                unsafe { submitter.enter(queued, 1, flags, Some(&arguments)) }
            }
        };
        if let Err(error) = entered {
            self.excuse(&error);
        }
    }

    /// Accepts what is not a failure, and rests a moment when the kernel is short of memory.
    #[cold]
    fn excuse(&mut self, error: &io::Error) {
        match Errno::from_io_error(error) {
            // The timeout is over; a signal came; completions must be reaped before more can be submitted.
            Some(Errno::TIME | Errno::INTR | Errno::BUSY) => {}
            Some(Errno::AGAIN | Errno::NOMEM) => {
                if self.uring.completion().is_empty() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            _ => panic!("io_uring_enter failed, no I/O can complete any more: {error}"),
        }
    }

    /// Takes up to [`REAP_BATCH`] completions.
    #[inline]
    pub(super) fn reap<'a>(&mut self, into: &'a mut [MaybeUninit<cqueue::Entry>; REAP_BATCH]) -> &'a [cqueue::Entry] {
        self.uring.completion().fill(into)
    }

    /// Registers a region of memory as fixed buffer 0.
    ///
    /// # Safety
    /// The region must stay mapped as long as this ring lives.
    pub(super) unsafe fn register_region(&mut self, start: *mut u8, bytes: usize) -> io::Result<()> {
        let region = libc::iovec { iov_base: start.cast(), iov_len: bytes };
        // SAFETY: the caller's promise.
        unsafe { self.uring.submitter().register_buffers(&[region]) }
    }

    /// Makes room for `slots` fixed files; without it every [`Ring::register_file`] answers `None`.
    pub(super) fn register_file_table(&mut self, slots: u32) -> io::Result<()> {
        self.uring.submitter().register_files_sparse(slots)?;
        self.free_file_slots = (0..slots).rev().collect();
        Ok(())
    }

    /// Gives `fd` a slot in the table, when one is free. The kernel keeps the file open until the slot is released.
    pub(super) fn register_file(&mut self, fd: RawFd) -> Option<u32> {
        let slot = self.free_file_slots.pop()?;
        match self.uring.submitter().register_files_update(slot, &[fd]) {
            Ok(_) => Some(slot),
            Err(error) => {
                tracing::debug!(%error, slot, "a file could not be registered with the ring; used unregistered");
                self.free_file_slots.push(slot);
                None
            }
        }
    }

    /// Empties a slot. No entry that names it may be queued or unfinished.
    pub(super) fn release_file(&mut self, slot: u32) {
        match self.uring.submitter().register_files_update(slot, &[-1]) {
            Ok(_) => self.free_file_slots.push(slot),
            Err(error) => tracing::warn!(%error, slot, "a registered file could not be released; its slot stays used"),
        }
    }
}

/// Tries sets of flags from the fastest (Linux 6.1) to none.
fn build(entries: u32) -> io::Result<IoUring> {
    let mut last = None;
    for level in (0..=2).rev() {
        let mut builder = IoUring::builder();
        // Four completions of room for each entry: the queue is drained once per turn, and a turn may submit several
        // times. An overflow would be kept by the kernel, only slower.
        builder.dontfork().setup_clamp().setup_cqsize(entries.saturating_mul(4));
        if level >= 1 {
            builder.setup_submit_all();
        }
        if level >= 2 {
            // Completions are processed only when this thread asks for them: no interrupts by task work.
            builder.setup_coop_taskrun().setup_single_issuer().setup_defer_taskrun();
        } else if level == 1 {
            builder.setup_coop_taskrun();
        }
        match builder.build(entries) {
            Ok(uring) => return Ok(uring),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::Unsupported.into()))
}
