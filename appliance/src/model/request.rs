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

/// A device that is to be emptied, or to leave its pool.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaveDevice {
    /// Its path, its UUID, or an unambiguous prefix of that.
    pub device: String,
    /// Bytes of data moved in a second at most; as fast as it goes when absent. Also changes the pace of what is under way.
    #[serde(default)]
    pub rate_bytes: Option<u64>,
}

/// Use what devices have become larger by.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrowPool {
    /// Only this one: its path, its UUID, or an unambiguous prefix of that. All when absent.
    #[serde(default)]
    pub device: Option<String>,
}

/// Changes to a pool (a merge patch: what is absent stays).
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPool {
    /// How it grows by itself; null ends that.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<GrowthPolicy>)]
    pub growth: Option<Option<GrowthPolicy>>,
}

/// How a pool grows by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrowthPolicy {
    /// When so much of it is used, in percent: 1 to 99.
    pub at_pct: u8,
    /// Devices that may be added, in this order; each goes off the list when it is added.
    #[serde(default)]
    pub spares: Vec<String>,
    /// Enlarge the last file that the pool is made of, up to this size.
    #[serde(default)]
    pub grow_file_to_bytes: Option<u64>,
    /// Bytes by which it is enlarged at a time; an eighth of its size when absent, 64 MiB at least.
    #[serde(default)]
    pub step_bytes: Option<u64>,
    /// Bytes of the file system that are left free; a gibibyte when absent.
    #[serde(default)]
    pub keep_free_bytes: Option<u64>,
}

/// Tells null, which ends something, from what is absent.
fn present<'de, D, T>(from: D) -> Result<Option<Option<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(from).map(Some)
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
    pub fn of<const N: usize>(steps: [String; N]) -> Self {
        Self { schema: "plan/v1".to_owned(), steps: steps.into(), frees_bytes: None, needs_bytes: None }
    }
}
