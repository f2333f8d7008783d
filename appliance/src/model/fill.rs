//! What needs no space: patterns of a pool, and reclaims that look for them and for zeros.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Listed;
use super::object::objects;

/// What a pattern is matched against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PatternUse {
    /// What is written to any vdisk of the pool.
    #[default]
    Everywhere,
    /// What is written to vdisks whose own pattern it is.
    OwnOnly,
    /// Nothing; what is stored by it reads as ever.
    Disabled,
}

/// A pattern: what blocks repeat that are stored by its number.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PatternView {
    /// POOL/NUMBER.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// Its number in the pool, 1 to 255.
    pub number: u16,
    /// What it is matched against.
    #[serde(rename = "use")]
    pub used: PatternUse,
    /// Bytes that are repeated.
    pub unit_bytes: u64,
    /// These bytes in hexadecimal digits.
    pub unit_hex: String,
    /// Vdisks whose own it is.
    pub vdisks: Vec<String>,
    /// When it was added.
    pub created_at: String,
}

impl Listed for PatternView {
    const SCHEMA: &'static str = "pattern.list/v1";
}

/// A new pattern: exactly one of `unit_hex` and `random`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddPattern {
    /// The unit that is repeated, in hexadecimal digits: 1 to 4096 bytes, a power of two, not all zeros.
    #[serde(default)]
    pub unit_hex: Option<String>,
    /// A unit of 64 random bytes.
    #[serde(default)]
    pub random: bool,
    /// `everywhere` by default.
    #[serde(default, rename = "use")]
    pub used: PatternUse,
}

/// A change to a pattern.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPattern {
    /// What it is matched against from now on.
    #[serde(rename = "use")]
    pub used: PatternUse,
}

/// A part of a vdisk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// First byte; a multiple of the sector.
    pub offset_bytes: u64,
    /// Bytes; a multiple of the sector.
    pub length_bytes: u64,
}

/// Ranges of one reclaim at most: sorting so many holds the reactor up for some hundredths of a second.
pub const RANGES_MAX: usize = 500_000;
/// What to do with more.
pub const RANGES_ADVICE: &str = "merge ranges that adjoin, or give at most 500,000 at a time, one reclaim after the other: \
    split -l 500000 FILE, then plimsoll reclaim POOL/VDISK --ranges FILE --wait for each part";

/// A reclaim to be begun.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BeginReclaim {
    /// Parts of the vdisk, at most 500,000; absent: all of it.
    #[serde(default, deserialize_with = "objects")]
    pub ranges: Option<Vec<Range>>,
    /// What the ranges hold is not needed, whatever it is.
    #[serde(default)]
    pub worthless: bool,
    /// Bytes read in a second at most, whole MiB up to 1 TiB; absent or 0: no limit.
    #[serde(default)]
    pub rate_bytes: Option<u64>,
    /// Give up a reclaim of the vdisk that is paused, and begin from the start.
    #[serde(default)]
    pub anew: bool,
}

/// A change to a reclaim that goes on or is paused.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetReclaim {
    /// It waits, or goes on.
    #[serde(default)]
    pub paused: Option<bool>,
    /// Bytes read in a second at most, whole MiB; 0: no limit.
    #[serde(default)]
    pub rate_bytes: Option<u64>,
}

/// How the last reclaim of a vdisk stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReclaimView {
    /// POOL/VDISK.
    pub name: String,
    /// Its job; null when that is so old that it was forgotten.
    pub job: Option<String>,
    /// It goes on.
    pub running: bool,
    /// It waits to be resumed.
    pub paused: bool,
    /// Bytes read in a second at most; null: no limit.
    pub rate_bytes: Option<u64>,
    /// Bytes of the vdisk, or of the ranges, that it has passed; holes count as what is stored does.
    pub done_bytes: u64,
    /// Bytes of the vdisk, or of the ranges, when it began.
    pub total_bytes: u64,
    /// 100 * done / total.
    pub done_pct: f64,
    /// Bytes read since the pool was opened, by whole extents; holes are not read.
    pub scanned_bytes: u64,
    /// Bytes of zeros that are not stored any more, since the pool was opened; of anything, when it was worthless.
    pub zero_bytes: u64,
    /// Bytes that are stored by the number of a pattern now, since the pool was opened.
    pub pattern_bytes: u64,
    /// Bytes of the pool that came free, since the pool was opened.
    pub freed_bytes: u64,
}
