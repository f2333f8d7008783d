//! Pools, vdisks and the mapping between them: pure logic over hardware's traits.
//!
//! A [`Pool`] owns devices and hands out extents of them; a [`Vdisk`] has a designated size that needs no space behind it until
//! it is written. `FORMAT.md` beside this crate says what stands on the devices.
//!
//! What this crate deliberately does not do: it opens no file, keeps no clock, starts no thread and knows no protocol. All of
//! it runs on one thread, over [`plimsoll_hardware::Machine`], the real one or the simulated one.
#![forbid(unsafe_code)]

mod error;
mod format;
mod journal;
mod mapping;
mod media;
mod pool;
mod space;
mod tree;
mod vdisk;
mod wait;

pub use error::{Error, Result};
pub use pool::{
    CheckReport, CreatePool, CreateVdisk, DEVICE_BYTES_MIN, DeviceInfo, DeviceState, Evacuate, EvacuationPlan, Finding, GrowthPlan, JobInfo, JobState, Label, OpenPool,
    Pool, PoolCounters, PoolInfo, RecoveryInfo, identify,
};
pub use vdisk::{StatusRange, Vdisk, VdiskInfo, VdiskState, Zeroes};
