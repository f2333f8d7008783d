//! A machine with nothing but memory and tasks, which are all polled in turn: no kernel, no ring, the same instructions
//! every time.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use plimsoll_hardware::{BufferPool, CrashMemory, Machine};

use super::MemoryDevice;

type Task = Pin<Box<dyn Future<Output = ()>>>;

struct Inner {
    buffers: BufferPool,
    tasks: RefCell<VecDeque<Task>>,
    started: Instant,
    random: Cell<u64>,
}

/// The machine. All clones are the same one.
#[derive(Clone)]
pub(crate) struct MemoryMachine {
    inner: Rc<Inner>,
}

impl MemoryMachine {
    pub(crate) fn new() -> std::io::Result<Self> {
        let inner = Inner {
            buffers: BufferPool::new(32 << 20)?,
            tasks: RefCell::default(),
            started: Instant::now(),
            random: Cell::new(1),
        };
        Ok(MemoryMachine { inner: Rc::new(inner) })
    }

    /// Runs `future`; when it waits, everybody is polled until it goes on. What is left of the tasks is dropped.
    pub(crate) fn run<T>(self, future: impl Future<Output = T>) -> T {
        let mut context = Context::from_waker(Waker::noop());
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                self.inner.tasks.take();
                return output;
            }
            let turn = self.inner.tasks.borrow().len();
            for _ in 0..turn {
                let Some(mut task) = self.inner.tasks.borrow_mut().pop_front() else { break };
                if task.as_mut().poll(&mut context).is_pending() {
                    self.inner.tasks.borrow_mut().push_back(task);
                }
            }
        }
    }
}

impl Machine for MemoryMachine {
    type Device = MemoryDevice;
    type CrashMemory = HeapMemory;

    fn now(&self) -> Duration {
        self.inner.started.elapsed()
    }

    fn wall_clock_ms(&self) -> u64 {
        0
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        let due = Instant::now() + duration;
        std::future::poll_fn(move |_| if Instant::now() >= due { Poll::Ready(()) } else { Poll::Pending })
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.inner.tasks.borrow_mut().push_back(Box::pin(task));
    }

    fn random(&self) -> u64 {
        let next = self.inner.random.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.inner.random.set(next);
        next
    }

    fn buffers(&self) -> &BufferPool {
        &self.inner.buffers
    }

    fn crash_memory(&self, _name: &str, bytes: usize) -> Result<HeapMemory, String> {
        Ok(HeapMemory { bytes: RefCell::new(vec![0; bytes]) })
    }

    fn has_crash_memory(&self, _name: &str) -> bool {
        false
    }

    fn remove_crash_memory(&self, _name: &str) {}

    fn rename_crash_memory(&self, _from: &str, _to: &str) -> Result<(), String> {
        Ok(())
    }
}

/// Crash memory that does not outlive anything.
pub(crate) struct HeapMemory {
    bytes: RefCell<Vec<u8>>,
}

impl CrashMemory for HeapMemory {
    fn survived(&self) -> bool {
        false
    }

    fn len(&self) -> usize {
        self.bytes.borrow().len()
    }

    fn load(&self, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.bytes.borrow()[offset..offset + into.len()]);
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        self.bytes.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn store_u64(&self, offset: usize, word: u64) {
        self.store(offset, &word.to_le_bytes());
    }
}
