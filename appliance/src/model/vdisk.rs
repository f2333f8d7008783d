//! A vdisk as the API shows it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Listed, SurveyView, WriteCache};

/// What a vdisk is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VdiskState {
    /// It serves.
    Ready,
    /// Its tail is being given back.
    Shrinking,
    /// It is gone; its space is being given back.
    Deleting,
}

/// A vdisk.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct VdiskView {
    /// POOL/VDISK.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// Its name in the pool.
    pub vdisk: String,
    /// Stable for its life.
    pub uuid: String,
    /// What it is doing.
    pub state: VdiskState,
    /// When it was made.
    pub created_at: String,
    /// Size shown to the guest.
    pub designated_bytes: u64,
    /// Physical space behind it.
    pub backed_bytes: u64,
    /// Of that, its own.
    pub exclusive_bytes: u64,
    /// Of that, also named by others.
    pub shared_bytes: u64,
    /// Of `backed_bytes`, what could come back, as the last survey found it; null when it was not in one.
    pub reclaimable_bytes: Option<u64>,
    /// Held back by its regulation file.
    pub regulation_bytes: u64,
    /// Designated minus the regulation file.
    pub effective_bytes: u64,
    /// What its guest can still write without writing anything again: designated minus backed and the regulation file.
    pub available_bytes: u64,
    /// Physical space promised to it.
    pub reservation_bytes: u64,
    /// Physical space that it may not exceed.
    pub quota_bytes: Option<u64>,
    /// Of its reservation, what is not in use yet: kept from everybody else.
    pub reserved_bytes: u64,
    /// What becomes of its writes when there is no space: `hold(TIME)` or `fail`.
    pub on_full: String,
    /// Writes that wait for space.
    pub held_writes: u64,
    /// Memory that their data takes.
    pub held_writes_bytes: u64,
    /// There is no space for its writes.
    pub exhausted: bool,
    /// Whose it is.
    pub tenant: Option<String>,
    /// The virtual machine it belongs to.
    pub vm: Option<String>,
    /// Levels of its physical space against its designated size.
    pub thresholds: String,
    /// The same against its quota.
    pub quota_thresholds: String,
    /// What the initiator addresses: 512 or 4096.
    pub sector_bytes: u64,
    /// 100 * backed / designated.
    pub backed_pct: f64,
    /// `off`: every acknowledged write survives power loss.
    pub write_cache: WriteCache,
    /// Zeros that are written are not stored.
    pub zero_detection: bool,
    /// Patterns of the pool that are written are stored by their number.
    pub pattern_detection: bool,
    /// Number of the pattern that is its own.
    pub pattern: Option<u16>,
    /// Clients connected to it.
    pub clients: u64,
    /// How `reclaimable_bytes` is made up, and how certain it is.
    pub survey: Option<SurveyView>,
    /// Of what an operator may set; for If-Match.
    pub version: String,
}

impl Listed for VdiskView {
    const SCHEMA: &'static str = "vdisk.list/v1";
}
