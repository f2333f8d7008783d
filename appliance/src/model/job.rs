//! Long work and what it found.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Listed;
use crate::problem::Problem;

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// Under way.
    Running,
    /// Waits to be resumed.
    Paused,
    /// Ended well.
    Done,
    /// Called off before its end.
    Cancelled,
    /// Ended badly; `problem` says why.
    Failed,
}

/// A job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// For `job show`; no other job has or had it.
    pub id: String,
    /// `check`, `repair`, `vdisk-delete`, `compact`, `survey`, ...
    pub kind: String,
    /// What it works on.
    pub object: String,
    /// How far it is.
    pub state: JobState,
    /// Work done, in `unit`.
    pub done: u64,
    /// Work in all, in `unit`; 0 while that is unknown.
    pub total: u64,
    /// What is counted.
    pub unit: String,
    /// 100 * done / total.
    pub done_pct: Option<f64>,
    /// Why it failed, or was called off by what happened to what it works on.
    pub problem: Option<Problem>,
    /// What keeps it from going on, and what would help.
    pub waits_for: Option<String>,
    /// What a check found.
    pub check: Option<CheckView>,
    /// What a repair did.
    pub repair: Option<RepairView>,
}

impl Listed for JobView {
    const SCHEMA: &'static str = "job.list/v1";
}

/// What a check found.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CheckView {
    /// `pool-check/v1`.
    pub schema: String,
    /// The pool.
    pub pool: String,
    /// Nothing was found.
    pub clean: bool,
    /// All that was found.
    pub findings: Vec<FindingView>,
    /// Metadata pages read.
    pub pages_read: u64,
    /// Extents compared with the mapping.
    pub extents_checked: u64,
    /// Vdisks walked.
    pub vdisks_checked: u64,
    /// Extents of vdisks that repeat a pattern and take no space.
    pub filled_extents: u64,
    /// Extents that nothing names and that are not free.
    pub leaked_extents: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FindingView {
    /// Kebab-case, stable.
    pub kind: String,
    /// Data was lost or is at risk.
    pub loss: bool,
    /// A copy was bad, and has been written again from another.
    pub healed: bool,
    /// Whose data.
    pub vdisk: Option<String>,
    /// Where in it.
    pub offset_bytes: Option<u64>,
    /// How much.
    pub length_bytes: Option<u64>,
    /// In words.
    pub message: String,
}

/// What a repair did, or would do.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RepairView {
    /// `pool-repair/v1`.
    pub schema: String,
    /// The pool.
    pub pool: String,
    /// False: it is only a plan.
    pub done: bool,
    /// One line each.
    pub steps: Vec<String>,
}
