//! What the machine gives us: memory for I/O, devices, time, and one reactor per thread that serves them all.
//!
//! This is the only crate of the workspace with `unsafe`. Everything above it is written against three traits:
//! [`Device`] (a drive), [`Machine`] (devices' surroundings: clock, randomness, tasks, memory) and
//! [`CrashMemory`] (bytes that outlive the process but not the power). Two machines implement them: the real one
//! (`reactor`, on io_uring) and the simulated one (`sim`), which is deterministic from a seed.
//!
//! What this crate deliberately does not do: it knows nothing of pools, extents or protocols.

#![allow(unsafe_code)]

#[cfg(feature = "bare")]
pub mod bare;
pub mod buffer;
pub mod crash_memory;
pub mod device;
pub mod file;
pub mod machine;
pub mod probe;
pub mod reactor;
pub mod sim;

pub use buffer::{Buffer, BufferPool, Frozen};
pub use crash_memory::SharedMemory;
pub use device::{Device, Durability, Geometry, IoError};
pub use file::{FileDevice, OpenError, OpenOptions};
pub use machine::{CrashMemory, Machine};
pub use reactor::{Handle, Listener, Mailbox, MailboxSender, Reactor, ReactorConfig, ReactorError, Stream, mailbox};
