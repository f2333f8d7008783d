//! The surroundings that the engine reaches only through traits, so that all of it runs inside a simulation.

use std::time::Duration;

use crate::{BufferPool, Device};

/// Clock, randomness, tasks and memory of one thread. Cheap to clone; all clones are the same machine.
pub trait Machine: Clone + 'static {
    /// Its drives.
    type Device: Device;
    /// Its memory that outlives the process.
    type CrashMemory: CrashMemory;

    /// Monotonic time since an arbitrary start.
    fn now(&self) -> Duration;

    /// Wall-clock time in milliseconds since the Unix epoch. For labels only, never for decisions.
    fn wall_clock_ms(&self) -> u64;

    /// Completes no earlier than `duration` from now.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static;

    /// Runs `task` on this thread beside the others until it ends.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);

    /// A random number, unpredictable on the real machine, drawn from the seed on the simulated one.
    fn random(&self) -> u64;

    /// Memory for I/O.
    fn buffers(&self) -> &BufferPool;

    /// Memory named `name` of `bytes` bytes that a process killed and started again finds unchanged, and that is empty
    /// (all zeros) after power loss or a reboot.
    ///
    /// # Errors
    /// The system's words when there is no such memory here or another user owns it.
    fn crash_memory(&self, name: &str, bytes: usize) -> Result<Self::CrashMemory, String>;

    /// Whether there is memory of this name.
    fn has_crash_memory(&self, name: &str) -> bool;

    /// Removes memory of this name, if there is some. Whoever has it open keeps what is open.
    fn remove_crash_memory(&self, name: &str);

    /// Gives memory another name, in place of what has that. Whoever has it open keeps it.
    ///
    /// # Errors
    /// The system's words; it has its former name then.
    fn rename_crash_memory(&self, from: &str, to: &str) -> Result<(), String>;
}

/// Bytes that outlive the process but not the power.
///
/// A store is visible to the next process as soon as the call returns; stores are visible in the order of the calls, and
/// a process killed in the middle of one leaves any part of it, except that [`CrashMemory::store_u64`] is all or nothing.
pub trait CrashMemory: 'static {
    /// Whether these bytes were left by an earlier process since the machine last started. When false they are zeros.
    fn survived(&self) -> bool;

    /// Size in bytes.
    fn len(&self) -> usize;

    /// Whether it has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies out the bytes at `offset`. Panics when they do not lie inside.
    fn load(&self, offset: usize, into: &mut [u8]);

    /// Copies `bytes` in at `offset`. Panics when they do not lie inside.
    fn store(&self, offset: usize, bytes: &[u8]);

    /// Stores one little-endian word at `offset` (a multiple of 8), all or nothing.
    fn store_u64(&self, offset: usize, word: u64);
}
