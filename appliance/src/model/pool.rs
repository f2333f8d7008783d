//! A pool as the API shows it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{GrowthPolicy, Listed, PoolDeviceView, SurveyView};

/// Whether a pool serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PoolState {
    /// Open and writable.
    Online,
    /// Open, but nothing may be written; `reason` says why.
    ReadOnly,
    /// Known but not open; `reason` says why.
    Unavailable,
}

/// A pool. Figures of an unavailable one are null.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PoolView {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Whether it serves.
    pub state: PoolState,
    /// Why it is not online.
    pub reason: Option<String>,
    /// Stable code of the reason.
    pub reason_code: Option<String>,
    /// Path of the device whose file system is full, where metadata waits for room; null when none does.
    pub starved: Option<String>,
    /// When it was made.
    pub created_at: Option<String>,
    /// Unit of allocation.
    pub extent_bytes: Option<u64>,
    /// Unit of validity and sharing.
    pub block_bytes: Option<u64>,
    /// Space for data and metadata on all devices.
    pub physical_bytes: Option<u64>,
    /// What vdisks without a reservation can still get: physical without utilized, metadata, metadata reserve, reserved, held and
    /// quarantined.
    pub available_bytes: Option<u64>,
    /// Of that, what the file systems under its files have room for; null where that is all of it.
    pub available_below_bytes: Option<u64>,
    /// Allocated to data.
    pub utilized_bytes: Option<u64>,
    /// Of that, what one vdisk or snapshot alone names.
    pub exclusive_bytes: Option<u64>,
    /// Of that, what several name.
    pub shared_bytes: Option<u64>,
    /// Of what is allocated to data, what could come back, as the last survey found it; null when there was none.
    pub reclaimable_bytes: Option<u64>,
    /// Allocated to metadata.
    pub metadata_bytes: Option<u64>,
    /// Kept back for metadata, so that it never runs out.
    pub metadata_reserve_bytes: Option<u64>,
    /// Promised to vdisks by reservations and not in use yet, with what metadata may need of it then.
    pub reserved_bytes: Option<u64>,
    /// Space taken for writes under way and for metadata not yet named, and granted to held writes.
    pub held_bytes: Option<u64>,
    /// Writes that wait for space; they have none yet.
    pub held_writes: Option<u64>,
    /// Memory that their data takes: a page at least for each, and else the next power of two.
    pub held_writes_bytes: Option<u64>,
    /// What the data of such writes may take of the memory for I/O together: what was set, or a quarter.
    pub hold_bytes_max: Option<u64>,
    /// That was not set.
    pub hold_bytes_by_default: Option<bool>,
    /// Freed, and usable as soon as that is durable.
    pub quarantined_bytes: Option<u64>,
    /// Sum of the sizes of all vdisks.
    pub designated_bytes: Option<u64>,
    /// Of that, what regulation files in guests hold back.
    pub regulation_bytes: Option<u64>,
    /// Designated minus regulation.
    pub effective_bytes: Option<u64>,
    /// Designated minus physical.
    pub overcommit_bytes: Option<i64>,
    /// Designated by physical.
    pub overcommit_ratio: Option<f64>,
    /// Designated space that the overcommit limit allows; null when there is none.
    pub designated_bytes_max: Option<u64>,
    /// 100 * (1 - available / physical).
    pub used_pct: Option<f64>,
    /// What it may promise beyond what it has.
    pub overcommit_limit: Option<String>,
    /// Levels of use at which events rise.
    pub thresholds: Option<String>,
    /// How far below a level the use must fall before it is armed again.
    pub hysteresis_pct: Option<f64>,
    /// Times to full at which events rise.
    pub horizons: Option<String>,
    /// When it is full at the measured rate; null while its use does not grow.
    pub time_to_full_seconds: Option<f64>,
    /// The rate, what was freed subtracted.
    pub growth_bytes_per_second: Option<u64>,
    /// Number of vdisks.
    pub vdisks: Option<u64>,
    /// Its devices in order of their index.
    pub devices: Vec<PoolDeviceView>,
    /// Counts every root that was written.
    pub generation: Option<u64>,
    /// What was done when it was opened.
    pub recovery: Option<RecoveryView>,
    /// Counters since it was opened.
    pub counters: Option<CountersView>,
    /// How `reclaimable_bytes` is made up, and how certain it is.
    pub survey: Option<SurveyView>,
    /// What the last check or audit found; null when there was none since it was opened.
    pub last_check: Option<LastCheckView>,
    /// How it grows by itself; null when it does not.
    pub growth: Option<GrowthView>,
}

impl Listed for PoolView {
    const SCHEMA: &'static str = "pool.list/v1";
}

/// How a pool grows by itself, and whether it can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GrowthView {
    /// What was asked for.
    pub policy: GrowthPolicy,
    /// Why it could not when it last had to.
    pub impossible: Option<String>,
}

/// What a check of a pool found; until one was made, what its start found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastCheckView {
    /// When it was through.
    pub ended_at: String,
    /// No check was made yet: it is the start that found and healed it.
    #[serde(default)]
    pub at_start: bool,
    /// Things that were not as they should be.
    pub findings: u64,
    /// Data was lost or is at risk.
    pub loss: bool,
    /// All of them were bad copies, which have been written again from good ones.
    #[serde(default)]
    pub healed: bool,
    /// The first of them.
    pub first: Option<String>,
}

/// What opening a pool had to do.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RecoveryView {
    /// It had been closed cleanly.
    pub clean: bool,
    /// Journal records applied.
    pub records_replayed: u64,
    /// Journal records that were not believed: of first writes that no flush had covered, or that were never answered.
    pub records_dropped: u64,
    /// Records found in memory that outlived the process.
    pub from_crash_memory: u64,
    /// What an operator should know.
    pub warnings: Vec<String>,
    /// Labels and roots that were bad and have been written again from another copy.
    pub healed: Vec<String>,
}

/// Counters of a pool since it was opened.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the names say it; units are in the names")]
pub struct CountersView {
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub write_bytes: u64,
    pub first_writes: u64,
    pub discards: u64,
    pub flushes: u64,
    pub journal_commits: u64,
    /// Of the commits, those beside the data of a first write that a flush was likely to follow.
    pub journal_commits_ahead: u64,
    pub checkpoints: u64,
    pub held_writes: u64,
    pub held_write_bytes: u64,
    /// Writes that failed for want of space.
    pub refused_writes: u64,
    pub pages_healed: u64,
    pub pages_lost: u64,
    /// Bytes of zeros that were not, or are no more, stored.
    pub zero_bytes: u64,
    /// Bytes that are stored by the number of a pattern.
    pub pattern_bytes: u64,
    /// Bytes of space that came free because thinly used extents were put together.
    pub packed_bytes: u64,
    pub cached_mapping_bytes: u64,
}
