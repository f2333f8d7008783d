//! Pools, vdisks and the mapping between them: pure logic over hardware's traits.
//!
//! A [`Pool`] owns devices and hands out extents of them; a [`Vdisk`] has a designated size that needs no space behind it until
//! it is written. `FORMAT.md` beside this crate says what stands on the devices.
//!
//! What this crate deliberately does not do: it opens no file, keeps no clock, starts no thread and knows no protocol. All of
//! it runs on one thread, over [`plimsoll_hardware::Machine`], the real one or the simulated one.
#![forbid(unsafe_code)]

mod error;
mod event;
mod format;
mod journal;
mod mapping;
mod media;
mod planted;
mod pool;
mod space;
mod tree;
mod vdisk;
mod wait;

pub use error::{Error, Result, iec};
pub use event::{AlarmState, FiredLevel, Level, Limit, Measure, Shortage, SpaceEvent, Subject, SubjectKey, VdiskName};
pub use format::{Levels, OnFull, OvercommitLimit, PoolPolicy, VdiskPolicy};
pub use pool::{
    CheckReport, CreatePool, CreateVdisk, DEVICE_BYTES_MIN, DeviceInfo, DeviceState, Evacuate, EvacuationPlan, Finding,
    GrowthPlan, JobInfo, JobState, Label, OpenPool, PatternInfo, PatternSpec, PatternUse, Pool, PoolCounters, PoolInfo,
    ReclaimInfo, ReclaimSpec, RecoveryInfo, Surveyed, TenantInfo, VdiskSettings, crash_memory_name, identify,
};
pub use space::{
    HORIZON_MAX, HORIZON_MIN, HORIZONS_MAX, HorizonError, Horizons, LEVELS_MAX, ThresholdError, Thresholds,
};
pub use vdisk::{Reclaimable, StatusRange, Ticket, Vdisk, VdiskInfo, VdiskState, WriteOptions, Zeroes};
