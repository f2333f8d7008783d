//! What tasks hold of their reactor, and the real [`Machine`].

use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use super::{Core, Sleep};
use crate::buffer::BufferPool;
use crate::crash_memory::SharedMemory;
use crate::file::{FileDevice, OpenError, OpenOptions};
use crate::machine::Machine;

/// A reactor as its tasks see it. Cheap to clone; stays on its thread.
#[derive(Clone)]
pub struct Handle {
    core: Rc<Core>,
}

/// A deadline passed before the future was done; it has been dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not done within {} ms", .0.as_millis())]
pub struct Elapsed(
    /// How long it was given.
    pub Duration,
);

impl Handle {
    pub(super) fn new(core: Rc<Core>) -> Self {
        Self { core }
    }

    pub(crate) fn core(&self) -> &Rc<Core> {
        &self.core
    }

    /// Opens a block device or a regular file. See [`OpenOptions`].
    ///
    /// # Errors
    /// [`OpenError`], by what stands in the way.
    pub async fn open_device(&self, path: impl AsRef<Path>, options: OpenOptions) -> Result<FileDevice, OpenError> {
        FileDevice::open(self, path.as_ref(), options).await
    }

    /// Runs `future`, but drops it when it is not done after `duration`. A socket operation that is dropped is
    /// cancelled; what a stream received or sent by then is lost to the caller, so its stream should be closed.
    ///
    /// # Errors
    /// [`Elapsed`] when the time was over first.
    pub async fn timeout<T>(&self, duration: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
        let mut future = pin!(future);
        let mut sleep = pin!(Sleep::new(self.core.clone(), duration));
        std::future::poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            sleep.as_mut().poll(context).map(|()| Err(Elapsed(duration)))
        })
        .await
    }

    /// Lets the other tasks that are ready, and the kernel, have a turn first.
    pub async fn yield_now(&self) {
        let mut yielded = false;
        std::future::poll_fn(|context| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    /// Runs `work`, which may block, on a helper thread, one after the other, and waits for its result.
    ///
    /// # Errors
    /// When there is no helper thread, or `work` panicked.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<T> {
        self.core.blocking(work).await
    }
}

impl Machine for Handle {
    type Device = FileDevice;
    type CrashMemory = SharedMemory;

    fn now(&self) -> Duration {
        self.core.now()
    }

    fn wall_clock_ms(&self) -> u64 {
        // A clock before 1970 is a wrong clock; a label of 0 says so well enough.
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        Sleep::new(self.core.clone(), duration)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.core.spawn(task);
    }

    fn random(&self) -> u64 {
        self.core.randomness.borrow_mut().next()
    }

    fn buffers(&self) -> &BufferPool {
        &self.core.buffers
    }

    fn crash_memory(&self, name: &str, bytes: usize) -> Result<SharedMemory, String> {
        SharedMemory::open(name, bytes).map_err(|error| error.to_string())
    }

    fn has_crash_memory(&self, name: &str) -> bool {
        SharedMemory::exists(name)
    }

    fn remove_crash_memory(&self, name: &str) {
        if let Err(error) = SharedMemory::remove(name) {
            tracing::debug!(%error, "crash memory stays behind");
        }
    }

    fn rename_crash_memory(&self, from: &str, to: &str) -> Result<(), String> {
        SharedMemory::rename(from, to).map_err(|error| error.to_string())
    }
}

/// Random words of the kernel, fetched 32 at a time.
#[derive(Default)]
pub(super) struct Randomness {
    words: Vec<u64>,
}

impl Randomness {
    fn next(&mut self) -> u64 {
        loop {
            if let Some(word) = self.words.pop() {
                return word;
            }
            let mut bytes = [0u8; 256];
            // Requests of up to 256 bytes are never cut short once the kernel's generator is up (getrandom(2)).
            let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
            self.words.extend(bytes[..filled].as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)));
        }
    }
}
