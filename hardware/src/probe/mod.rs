//! What a device is and can do, and what is on it already.
//!
//! `geometry` asks an open device; `queue` reads what the block layer publishes in sysfs, which tests imitate with a
//! directory of files; `list` finds the block devices of this machine; `signature` recognises foreign contents.
//!
//! Not here: any decision about what to do with the answers.

mod geometry;
mod list;
mod queue;
mod signature;

pub use list::{DeviceSummary, list_devices};
pub use queue::QueueLimits;
pub use signature::{SIGNATURE_BYTES, signature};

pub(crate) use geometry::{geometry, size};
