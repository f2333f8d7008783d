//! Who has which space, as the API shows it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Listed;

/// Who has the space of the pools, what they promised beyond it, and how some could come back.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SpaceReport {
    /// `space.list/v1`.
    pub schema: String,
    /// A line for each use, the vdisks of a pool first, the largest in front.
    pub items: Vec<SpaceView>,
    /// A line for each pool.
    pub pools: Vec<PromisedView>,
}

/// What a pool has promised, and what could come back to it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PromisedView {
    /// The pool.
    pub pool: String,
    /// Space for data and metadata on all devices.
    pub physical_bytes: u64,
    /// What vdisks without a reservation can still get.
    pub available_bytes: u64,
    /// Of that, what the file systems under its files have room for; null where that is all of it.
    pub available_below_bytes: Option<u64>,
    /// Sum of the sizes of all vdisks.
    pub designated_bytes: u64,
    /// Designated space that the overcommit limit allows; null when there is none.
    pub designated_bytes_max: Option<u64>,
    /// Designated minus physical.
    pub overcommit_bytes: i64,
    /// Designated by physical.
    pub overcommit_ratio: f64,
    /// Of what is stored, what could come back, as the last survey found it; null when there was none.
    pub reclaimable_bytes: Option<u64>,
    /// How that is made up, and how certain it is.
    pub survey: Option<SurveyView>,
    /// What came free since the pool was opened because thinly used extents were put together.
    pub packed_bytes: u64,
    /// What could come back and by which commands, or the one that finds out; null when nothing is stored.
    pub advice: Option<String>,
}

/// A line of the report of who has the space of a pool.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SpaceView {
    /// The pool.
    pub pool: String,
    /// `vdisk` (one of them), `metadata`, `metadata-reserve` (kept so that metadata never runs out; less than the pool says where metadata
    /// has taken of it), `reserved` (promised and not in use: the sum of `reserved_bytes`; less where it only waits for freed space),
    /// `reserved-metadata` (what metadata may need of it when that is used), `held` (for writes under way), `quarantine` (freed, usable as soon as that is durable), `available`. Together they are the
    /// pool's physical space.
    pub what: String,
    /// POOL/VDISK, for a vdisk.
    pub name: Option<String>,
    /// Whose it is.
    pub tenant: Option<String>,
    /// The virtual machine it belongs to.
    pub vm: Option<String>,
    /// Space of the pool's devices.
    pub physical_bytes: u64,
    /// Of the pool's physical space.
    pub share_pct: f64,
    /// Size shown to the guest, for a vdisk.
    pub designated_bytes: Option<u64>,
    /// Of `physical_bytes`, its own.
    pub exclusive_bytes: Option<u64>,
    /// Of `physical_bytes`, named by others too.
    pub shared_bytes: Option<u64>,
    /// Promised to it and not in use.
    pub reserved_bytes: Option<u64>,
    /// Of `physical_bytes`, what could come back, as the last survey found it; null when it was not in one.
    pub reclaimable_bytes: Option<u64>,
    /// How that is made up, and how certain it is.
    pub survey: Option<SurveyView>,
    /// What its last reclaim freed; null when there was none since the pool was opened.
    pub reclaimed_bytes: Option<u64>,
    /// Writes of it that wait for space.
    pub held_writes: Option<u64>,
}

/// What could come back of stored data: what a survey found. `reclaimable_bytes` is what comes back for sure: packable and whole together,
/// though not more than is stored, since a thin extent of nothing but zeros may be in both. Zeros and patterns beyond whole are between
/// data: compaction may bring them back after a reclaim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SurveyView {
    /// What a compaction would free: counted.
    pub packable_bytes: u64,
    /// Blocks of zeros that a reclaim would give up: an estimate where not all was read. Those of extents that hold other data too come
    /// back as far as compaction can put together what is left.
    pub zero_bytes: u64,
    /// Blocks that a reclaim would store by the number of a pattern: an estimate as well.
    pub pattern_bytes: u64,
    /// Of zeros and patterns, those in extents that hold nothing else: a reclaim brings them back at once.
    pub whole_bytes: u64,
    /// Zeros and patterns together are so much more or less at most, with a probability of 95 %; 0: all was read.
    pub margin_bytes: u64,
    /// Data that was read for it.
    pub sampled_bytes: u64,
    /// Since then; what was written since is not in it.
    pub age_seconds: u64,
}

/// A tenant of a pool.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TenantView {
    /// Its name.
    pub name: String,
    /// The pool.
    pub pool: String,
    /// Physical space that its vdisks there have.
    pub used_bytes: u64,
    /// Of that, what no other vdisk or snapshot names.
    pub exclusive_bytes: u64,
    /// Of that, what others name too.
    pub shared_bytes: u64,
    /// Of what its vdisks store, what could come back, as the last survey found it; null when it looked at none of them.
    pub reclaimable_bytes: Option<u64>,
    /// Physical space that they may not exceed together.
    pub quota_bytes: Option<u64>,
    /// 100 * used / quota.
    pub used_pct: Option<f64>,
    /// Levels of that at which events rise.
    pub thresholds: String,
    /// Its vdisks there.
    pub vdisks: u64,
    /// Sum of their sizes.
    pub designated_bytes: u64,
    /// Of that, what regulation files in their guests hold back.
    pub regulation_bytes: u64,
    /// Designated minus regulation.
    pub effective_bytes: u64,
    /// Sum of their reservations.
    pub reservation_bytes: u64,
    /// What of these is not in use yet, and kept for them.
    pub reserved_bytes: u64,
}

impl Listed for TenantView {
    const SCHEMA: &'static str = "tenant.list/v1";
}
