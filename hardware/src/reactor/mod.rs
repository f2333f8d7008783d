//! The real machine: one thread, one io_uring, straight-line `async` tasks.
//!
//! Method: a turn of the loop polls every task that is ready, then enters the kernel once. That one call submits what
//! the tasks started and, when nothing is ready, sleeps until something completes, a timer is due or another thread
//! rings. An idle reactor therefore uses no CPU, and a busy one makes one system call for many operations.
//!
//! Invariants:
//! 1. Everything here belongs to the thread that made the reactor; nothing is `Send` except wakers and
//!    [`MailboxSender`]s.
//! 2. No `RefCell` of [`Core`] is borrowed while foreign code runs: a waker, the drop of a task, a buffer or a
//!    descriptor.
//! 3. Memory that the kernel uses outlives the use (see `operations`), also when the reactor is dropped: it then waits
//!    for what is in flight, or, if that does not end, leaks it.
//!
//! Not here: what is on a device ([`crate::file`]) and what the bytes of a socket mean.

mod blocking;
mod descriptor;
mod handle;
mod listener;
mod mailbox;
mod message;
mod operations;
mod ring;
mod stream;
mod tasks;
#[cfg(test)]
mod tests;
mod timers;
mod waker;

use std::cell::{Cell, OnceCell, RefCell};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use io_uring::cqueue;

pub use handle::{Elapsed, Handle};
pub use listener::Listener;
pub use mailbox::{Mailbox, MailboxSender, mailbox};
pub use stream::{Peer, Stream};
pub use timers::Sleep;

pub(crate) use descriptor::{Descriptor, entry_on};
pub(crate) use operations::Operation;

use crate::buffer::{BufferPool, Frozen};
use message::Message;
use operations::{Completed, Operations};
use ring::{REAP_BATCH, Ring};
use tasks::Tasks;
use timers::Timers;
use waker::{MAIN_TASK, Ready, Remote, Running};

/// Tasks polled in one turn before the kernel is entered, so that many tasks that wake each other cannot keep I/O
/// waiting: at 0.2 us each, 512 polls are 0.1 ms.
const POLLS_PER_TURN: usize = 512;

/// How long a reactor that is dropped waits for what is in flight. Devices answer or time out in the kernel within 30 s
/// (the default of SCSI and NVMe).
const DRAIN_TIME_MAX: Duration = Duration::from_secs(60);

/// Sizes of a reactor.
#[derive(Clone, Debug)]
pub struct ReactorConfig {
    /// Memory for I/O in bytes, rounded up to whole mebibytes. Default 64 MiB.
    pub buffer_bytes: usize,
    /// Entries of the submission queue, rounded up to a power of two. More operations than this can be in flight; they
    /// only need several turns to be submitted. Default 1024.
    pub ring_entries: u32,
    /// Files and sockets that the ring knows by number, which makes each operation on them cheaper; those beyond work
    /// as well. 0 for none. Default 1024.
    pub file_slots: u32,
    /// Registers the memory with the ring, which keeps it resident and makes each operation cheaper. Default true.
    pub register_buffers: bool,
}

impl Default for ReactorConfig {
    fn default() -> Self {
        Self { buffer_bytes: 64 << 20, ring_entries: 1024, file_slots: 1024, register_buffers: true }
    }
}

/// Why there is no reactor.
#[derive(Debug, thiserror::Error)]
pub enum ReactorError {
    /// The kernel gave no io_uring.
    #[error(
        "the kernel gave no io_uring with {entries} entries; Linux 5.11 or later is needed, with \
         kernel.io_uring_disabled = 0 (see: sysctl kernel.io_uring_disabled), and a container must allow io_uring_setup"
    )]
    Ring {
        /// Entries asked for.
        entries: u32,
        /// The system's error.
        source: std::io::Error,
    },
    /// There is no memory for the buffers.
    #[error("no memory for {bytes} bytes of I/O buffers; configure fewer")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// The system's error.
        source: std::io::Error,
    },
    /// There is no eventfd for waking.
    #[error("no eventfd for waking the reactor; raise the limit of open files (ulimit -n)")]
    Bell {
        /// The system's error.
        source: std::io::Error,
    },
}

/// One thread's loop. It runs only inside [`Reactor::block_on`].
///
/// Dropping it drops its tasks, cancels what waits on sockets and waits for what devices still do.
pub struct Reactor {
    core: Rc<Core>,
}

/// What the handles, devices and sockets of a reactor share.
pub(crate) struct Core {
    ring: RefCell<Ring>,
    operations: RefCell<Operations>,
    tasks: Tasks,
    timers: RefCell<Timers>,
    ready: Rc<Ready>,
    remote: Arc<Remote>,
    /// Addresses that the ring knows as fixed buffer 0; empty when it knows none.
    registered: Range<usize>,
    pub(crate) buffers: BufferPool,
    /// Zeros to write where a device has no other way; made when first needed.
    pub(crate) zeros: OnceCell<Frozen>,
    #[expect(clippy::vec_box, reason = "the kernel knows a message by its address, so it moves as a box")]
    spare_messages: RefCell<Vec<Box<Message>>>,
    helper: blocking::Helper,
    randomness: RefCell<handle::Randomness>,
    started: Instant,
    /// When the timers were looked at last. Taken for the present where a turn's length does not matter, since asking
    /// costs as much as a tenth of an operation.
    looked_at_clock: Cell<Duration>,
    /// No more operations and tasks: the reactor is gone.
    closed: Cell<bool>,
}

impl Core {
    /// Time since the reactor was made.
    #[inline]
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether the ring knows the memory at `start` as its fixed buffer.
    #[inline]
    pub(crate) fn is_registered(&self, start: *const u8) -> bool {
        self.registered.contains(&start.addr())
    }

    /// See [`Handle::blocking`].
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::io::Result<T> {
        self.helper.run(work).await
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if !self.closed.get() {
            self.ready.push(self.tasks.add(task));
        }
    }

    /// Enters the kernel once and wakes whoever's operation ended.
    fn turn(&self, wait: bool) {
        let mut timeout = None;
        if wait && !self.timers.borrow().is_empty() {
            let first = self.timers.borrow().first();
            timeout = first.map(|due| due.saturating_sub(self.looked_at_clock.get()));
        }
        self.ring.borrow_mut().enter(wait, timeout);
        let mut batch = [const { MaybeUninit::<cqueue::Entry>::uninit() }; REAP_BATCH];
        loop {
            let completions = self.ring.borrow_mut().reap(&mut batch);
            for completion in completions {
                let completed = self.operations.borrow_mut().complete(completion.user_data(), completion.result());
                match completed {
                    Completed::Wake(waker) => waker.wake(),
                    Completed::Nothing => {}
                    freed @ Completed::Free { .. } => drop(freed),
                }
            }
            if completions.len() < REAP_BATCH {
                break;
            }
        }
        if !self.timers.borrow().is_empty() {
            let now = self.now();
            self.looked_at_clock.set(now);
            loop {
                let due = self.timers.borrow_mut().pop_due(now);
                let Some(waker) = due else { break };
                waker.wake();
            }
        }
    }
}

impl Reactor {
    /// A reactor for this thread.
    ///
    /// # Errors
    /// [`ReactorError`], by what the system did not give. Memory that cannot be registered is used unregistered.
    pub fn new(config: ReactorConfig) -> Result<Self, ReactorError> {
        let ReactorConfig { buffer_bytes, ring_entries, file_slots, register_buffers } = config;
        let entries = ring_entries.max(1).next_power_of_two();
        let mut ring = Ring::new(entries).map_err(|source| ReactorError::Ring { entries, source })?;
        let buffers =
            BufferPool::new(buffer_bytes).map_err(|source| ReactorError::Memory { bytes: buffer_bytes, source })?;
        let (ready, remote) = waker::enlist().map_err(|source| ReactorError::Bell { source })?;
        let registered = if register_buffers { register_region(&mut ring, &buffers) } else { 0..0 };
        if file_slots > 0
            && let Err(error) = ring.register_file_table(file_slots)
        {
            tracing::debug!(%error, file_slots, "the ring has no file table; files are used unregistered");
        }
        let core = Rc::new(Core {
            ring: RefCell::new(ring),
            operations: RefCell::default(),
            tasks: Tasks::new(),
            timers: RefCell::default(),
            ready,
            remote,
            registered,
            buffers,
            zeros: OnceCell::new(),
            spare_messages: RefCell::default(),
            helper: blocking::Helper::default(),
            randomness: RefCell::default(),
            started: Instant::now(),
            looked_at_clock: Cell::default(),
            closed: Cell::new(false),
        });
        core.spawn(answer_bell(core.clone())?);
        Ok(Self { core })
    }

    /// What tasks reach this reactor by.
    pub fn handle(&self) -> Handle {
        Handle::new(self.core.clone())
    }

    /// Runs `future` and all spawned tasks until `future` ends. Tasks that are not done then go on at the next call.
    ///
    /// # Panics
    /// When called by a task of this reactor, or when the kernel refuses to serve the ring any more.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let core = &*self.core;
        let _running = Running::enter(&core.ready);
        let waker = core.ready.waker(MAIN_TASK);
        let mut context = Context::from_waker(&waker);
        let mut future = std::pin::pin!(future);
        core.ready.push(MAIN_TASK);
        core.looked_at_clock.set(core.now());
        loop {
            for _ in 0..POLLS_PER_TURN {
                match core.ready.pop() {
                    Some(MAIN_TASK) => {
                        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                            // What was started but not handed over yet must go on without us.
                            core.ring.borrow_mut().enter(false, None);
                            return output;
                        }
                    }
                    Some(task) => core.tasks.poll(task, &core.ready),
                    None => break,
                }
            }
            core.turn(core.ready.is_empty());
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        let core = &self.core;
        core.tasks.clear();
        core.closed.set(true);
        core.tasks.clear();
        let cancellable = core.operations.borrow().cancellable();
        cancellable.into_iter().for_each(|key| core.cancel(key));
        let deadline = core.now() + DRAIN_TIME_MAX;
        loop {
            let in_kernel = core.operations.borrow().in_kernel();
            if in_kernel == 0 {
                return;
            }
            if core.now() >= deadline {
                tracing::error!(in_kernel, "operations did not end; their memory is given up");
                std::mem::forget(core.operations.take());
                return;
            }
            // A timer makes sure that the deadline is looked at; there is none left of the tasks.
            core.ring.borrow_mut().enter(true, Some(Duration::from_millis(100)));
            core.turn(false);
        }
    }
}

/// Registers the pool's region; answers the addresses, which are none when the system does not want to.
fn register_region(ring: &mut Ring, buffers: &BufferPool) -> Range<usize> {
    let (start, bytes) = buffers.region();
    // Two-megabyte pages make the registered memory few pieces; when there are none it works as well.
    // SAFETY: the advice changes no contents, and the region is one mapping of this length.
    let _ = unsafe { rustix::mm::madvise(start.cast(), bytes, rustix::mm::Advice::LinuxHugepage) };
    // SAFETY: `Core` owns the ring and the pool and drops the ring first.
    match unsafe { ring.register_region(start, bytes) } {
        Ok(()) => start.addr()..start.addr() + bytes,
        Err(error) => {
            tracing::warn!(%error, bytes, "I/O memory could not be registered and each operation costs more; raise the limit of locked memory (ulimit -l)");
            0..0
        }
    }
}

/// The task that passes on what other threads woke.
fn answer_bell(core: Rc<Core>) -> Result<impl Future<Output = ()>, ReactorError> {
    let fd = core.remote.bell().try_clone().map_err(|source| ReactorError::Bell { source })?;
    let bell = Descriptor::new(&core, fd);
    Ok(async move {
        let mut word = Box::new(0u64);
        loop {
            let entry = entry_on!(&bell, |target| io_uring::opcode::Read::new(target, (&raw mut *word).cast(), 8));
            // SAFETY: the entry names the eight bytes of the box that is held.
            let operation = unsafe { core.start(entry, word, &bell, true) };
            let (result, back) = operation.await;
            word = back;
            if result == -libc::ECANCELED {
                return;
            }
            for task in core.remote.take_woken() {
                core.ready.push(task);
            }
        }
    })
}
