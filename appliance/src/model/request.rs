//! What the API takes. Unknown fields are refused, so that a misspelt one is not silently ignored.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::object::{object, object_or_null};

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
    /// Checks to override: `foreign` (a device holds something else), `spare` (it is a spare of another pool).
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
    /// Checks to override: `foreign` (it holds something else), `spare` (it is a spare of another pool).
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
    /// Bytes of data moved in a second at most, 1 KiB to 1 TiB; 0: as fast as it goes. Also changes the pace of what is under way, which
    /// stays when this is absent; what begins goes at 256 MiB a second then, and faster while writes wait for space.
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
    /// Bytes by which it is enlarged at a time, 64 MiB at least; an eighth of its size, or that, when absent.
    #[serde(default)]
    pub step_bytes: Option<u64>,
    /// Bytes of the file system that are left free, less than it has; a gibibyte when absent.
    #[serde(default)]
    pub keep_free_bytes: Option<u64>,
    /// Checks to override when spares are named and added: `foreign`.
    #[serde(default)]
    pub force: Vec<String>,
}

/// How a pool is to grow by itself; what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrowthChange {
    /// When so much of it is used, in percent: 1 to 99. Must be there when the pool does not grow by itself yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_pct: Option<u8>,
    /// Devices that may be added, in this order, instead of those that might so far; each goes off the list when it is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spares: Option<Vec<String>>,
    /// Enlarge the last file that the pool is made of, up to this size; null: do not.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub grow_file_to_bytes: Option<Option<u64>>,
    /// Bytes by which it is enlarged at a time, 64 MiB at least; null: an eighth of its size, or that.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub step_bytes: Option<Option<u64>>,
    /// Bytes of the file system that are left free, less than it has; null: a gibibyte.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub keep_free_bytes: Option<Option<u64>>,
    /// Checks to override when spares are named and added: `foreign`. None when spares are named and this is absent: what was overridden for
    /// others is not for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<Vec<String>>,
}

impl GrowthChange {
    /// The policy that this makes of the one in force; `None` when neither says at which level.
    pub fn merged(self, before: Option<GrowthPolicy>) -> Option<GrowthPolicy> {
        let at_pct = self.at_pct.or(before.as_ref().map(|before| before.at_pct))?;
        let before = before.unwrap_or(GrowthPolicy {
            at_pct,
            spares: Vec::new(),
            grow_file_to_bytes: None,
            step_bytes: None,
            keep_free_bytes: None,
            force: Vec::new(),
        });
        let force = if self.spares.is_some() { Vec::new() } else { before.force };
        Some(GrowthPolicy {
            at_pct,
            spares: self.spares.unwrap_or(before.spares),
            grow_file_to_bytes: self.grow_file_to_bytes.unwrap_or(before.grow_file_to_bytes),
            step_bytes: self.step_bytes.unwrap_or(before.step_bytes),
            keep_free_bytes: self.keep_free_bytes.unwrap_or(before.keep_free_bytes),
            force: self.force.unwrap_or(force),
        })
    }
}

impl From<GrowthPolicy> for GrowthChange {
    /// Nothing of the policy in force stays.
    fn from(policy: GrowthPolicy) -> Self {
        Self {
            at_pct: Some(policy.at_pct),
            spares: Some(policy.spares),
            grow_file_to_bytes: Some(policy.grow_file_to_bytes),
            step_bytes: Some(policy.step_bytes),
            keep_free_bytes: Some(policy.keep_free_bytes),
            force: Some(policy.force),
        }
    }
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
    /// Checks to override: `truncated` serves what is left of a device that was cut off and made long again.
    #[serde(default)]
    pub force: Vec<String>,
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
    /// What is promised to it, and what becomes of its writes when there is no space.
    #[serde(default, deserialize_with = "object")]
    pub policy: VdiskPolicyChange,
}

/// What an operator decides for a vdisk; what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VdiskPolicyChange {
    /// Whose it is; empty: nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The virtual machine it belongs to; empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// `hold(20s)`, 2 ms to 49 days, `hold` for the usual time, or `fail`. Writes that wait already do the same: fail at once, or wait so
    /// long from when they began to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_full: Option<String>,
    /// Physical space that is its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_bytes: Option<u64>,
    /// Physical space that it may not exceed, an extent at least and rounded down to extents; 0: as much as it likes. May be less than is in
    /// use, but not less than its reservation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// Levels of its physical space against its designated size: `70%,85%,95%`, `800G,900G` in whole MiB, `off`, `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<String>,
    /// The same against its quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_thresholds: Option<String>,
}

/// What an operator decides for a pool; what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPool {
    /// `1.5x`, bytes beyond physical space, or `none`.
    #[serde(default)]
    pub overcommit_limit: Option<String>,
    /// Levels of use: `70%,85%,95%`, `800G,900G`, `off`, `default`.
    #[serde(default)]
    pub thresholds: Option<String>,
    /// How far below a level the use must fall before it is armed again, in per cent of the pool, or of a level that is a size: 0 to 50.
    #[serde(default)]
    pub hysteresis_pct: Option<u8>,
    /// Times to full at which an event rises: `24h,1h,5m`, `off`, `default`.
    #[serde(default)]
    pub horizons: Option<String>,
    /// Bytes that held writes may take together, 64 KiB to half of the memory for I/O; 0: a quarter of it.
    #[serde(default)]
    pub hold_bytes_max: Option<u64>,
    /// How it grows by itself; null ends that.
    #[serde(default, deserialize_with = "object_or_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<GrowthChange>)]
    pub growth: Option<Option<GrowthChange>>,
}

/// What an operator decides for a tenant of a pool; what is absent stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetTenant {
    /// Physical space that its vdisks in the pool may not exceed together, an extent at least and rounded down to extents; 0: as much as they
    /// like. May be less than is in use, but not less than is reserved for them.
    #[serde(default)]
    pub quota_bytes: Option<u64>,
    /// Levels of its use against its quota: `70%,85%,95%`, `800G,900G`, `off`, `default`.
    #[serde(default)]
    pub thresholds: Option<String>,
}

/// Changes to a vdisk (a merge patch: what is absent stays).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetVdisk {
    /// The new size.
    #[serde(default)]
    pub designated_bytes: Option<u64>,
    /// Give up backed blocks beyond the new size.
    #[serde(default)]
    pub discard_tail: bool,
    /// What is promised to it, and what becomes of its writes when there is no space.
    #[serde(default, deserialize_with = "object")]
    pub policy: VdiskPolicyChange,
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
