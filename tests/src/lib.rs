//! What the tests that cross crates have in common.
//!
//! The test programs are in `tests/`: simulation and crash enumeration need only Rust; those behind the feature `real`
//! start the real program and are run by `tests/run`, which installs what they need.

pub mod daemon;
#[cfg(feature = "real")]
pub mod fault_disk;
#[cfg(feature = "real")]
pub mod guest;
#[cfg(test)]
mod harness;
pub mod load;
pub mod nbd_client;
pub mod random;
#[cfg(feature = "real")]
pub mod root;
pub mod sim;
