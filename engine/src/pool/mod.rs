//! Pools: create, open, recover, checkpoint, close; their vdisks come and go here; check and repair.

mod add_device;
mod admin;
mod alarm;
mod background;
mod change_vdisk;
mod check;
mod check_groups;
mod check_vdisk;
mod checkpoint;
mod close;
mod compact;
mod create;
mod ends;
mod evacuate;
mod examine;
mod follow;
#[cfg(feature = "generator")]
mod generate;
mod grow_device;
mod identify;
mod info;
mod job;
mod layout;
mod left;
mod mend;
mod move_out;
mod open;
mod pattern;
mod policy;
mod promise;
mod reclaim;
mod reclaim_job;
mod recount;
mod recover;
mod repair;
mod replay;
mod ring_places;
mod roots;
mod shrink;
mod survey;
#[cfg(test)]
mod tests;
mod warning;

pub use admin::CreateVdisk;
pub use change_vdisk::VdiskSettings;
pub use check::{CheckReport, Finding};
pub use create::CreatePool;
pub use evacuate::{Evacuate, EvacuationPlan};
pub use grow_device::GrowthPlan;
pub use identify::{Label, identify};
pub use info::{DeviceInfo, DeviceState, PoolCounters, PoolInfo, RecoveryInfo};
pub(crate) use job::Job;
pub use job::{JobInfo, JobState};
pub use layout::DEVICE_BYTES_MIN;
pub use open::{OpenPool, crash_memory_name};
pub use pattern::{PatternInfo, PatternSpec, PatternUse};
pub use policy::TenantInfo;
pub(crate) use reclaim::Reclaim;
pub use reclaim::{ReclaimInfo, ReclaimSpec};
pub use survey::Surveyed;

use std::cell::RefCell;
use std::rc::Rc;

use plimsoll_hardware::Machine;

use crate::vdisk::Store;
use warning::Warning;

/// An open pool. Cheap to clone; all clones are the same pool. Belongs to one thread.
pub struct Pool<M: Machine> {
    store: Rc<Store<M>>,
    /// What the start did; its warnings are in `warnings`.
    recovery: RecoveryInfo,
    warnings: Rc<RefCell<Vec<Warning>>>,
}

impl<M: Machine> Clone for Pool<M> {
    fn clone(&self) -> Self {
        Pool { store: self.store.clone(), recovery: self.recovery.clone(), warnings: self.warnings.clone() }
    }
}
