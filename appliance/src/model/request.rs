//! What the API takes. Unknown fields are refused, so that a misspelt one is not silently ignored.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether acknowledged writes may wait in volatile caches until the next flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WriteCache {
    /// They may.
    #[default]
    On,
    /// They may not: each write is answered when it survives power loss.
    Off,
}

/// A new pool.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreatePool {
    /// Its name.
    pub name: String,
    /// Paths of block devices, or of regular files that exist.
    pub devices: Vec<String>,
    /// 64 KiB to 1 MiB, a power of two; 64 KiB by default.
    #[serde(default)]
    pub extent_bytes: Option<u32>,
    /// Checks to override: `foreign` (the device holds something else).
    #[serde(default)]
    pub force: Vec<String>,
    /// Go through the page cache, for file systems without direct I/O.
    #[serde(default)]
    pub buffered: bool,
}

/// One more device for a pool.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddDevice {
    /// Its path.
    pub path: String,
    /// Checks to override: `foreign`.
    #[serde(default)]
    pub force: Vec<String>,
    /// Go through the page cache, for file systems without direct I/O.
    #[serde(default)]
    pub buffered: bool,
}

/// A pool that was made elsewhere, or that could not be opened at the start.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportPool {
    /// Paths of its devices; the others are looked for beside them.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Name of a known pool that is unavailable.
    #[serde(default)]
    pub name: Option<String>,
    /// Go through the page cache, for file systems without direct I/O.
    #[serde(default)]
    pub buffered: bool,
}

/// A repair.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RepairPool {}

/// A new vdisk.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVdisk {
    /// Its name in the pool.
    pub name: String,
    /// Size shown to the guest.
    pub designated_bytes: u64,
    /// 512 or 4096; 512 by default.
    #[serde(default)]
    pub sector_bytes: Option<u32>,
    /// On by default.
    #[serde(default)]
    pub write_cache: Option<WriteCache>,
}

/// Changes to a vdisk (a merge patch: what is absent stays).
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetVdisk {
    /// The new size.
    #[serde(default)]
    pub designated_bytes: Option<u64>,
    /// Give up backed blocks beyond the new size.
    #[serde(default)]
    pub discard_tail: bool,
    /// Whether zeros that are written are looked for.
    #[serde(default)]
    pub zero_detection: Option<bool>,
    /// Whether patterns of the pool that are written are looked for.
    #[serde(default)]
    pub pattern_detection: Option<bool>,
    /// The number of a pattern that is to be the vdisk's own; 0 takes that away.
    #[serde(default)]
    pub pattern: Option<u16>,
}

/// An export, or a change to one.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddExport {
    /// POOL/VDISK.
    pub name: String,
    /// `nbd`, which is the default.
    #[serde(default)]
    pub protocol: Option<String>,
    /// Refuse writes.
    #[serde(default)]
    pub read_only: bool,
}

/// What a request would do: the answer to `?dry_run=true`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// `plan/v1`.
    pub schema: String,
    /// One line each.
    pub steps: Vec<String>,
    /// Space that comes back to the pool.
    pub frees_bytes: Option<u64>,
    /// Space that must be free for it.
    pub needs_bytes: Option<u64>,
}

impl Plan {
    /// A plan of these steps.
    pub fn of(steps: impl Into<Vec<String>>) -> Self {
        Self { schema: "plan/v1".to_owned(), steps: steps.into(), frees_bytes: None, needs_bytes: None }
    }
}
