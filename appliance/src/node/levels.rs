//! Levels in bytes that could never be reached.

use plimsoll_engine::{Level, Levels, VdiskPolicy};

use crate::model::VdiskPolicyChange;
use crate::problem::{Answer, Problem};
use crate::units::iec;

/// Refuses levels above `total`, of which `whole` says what it is: `pool tank has`.
///
/// # Errors
/// `invalid-argument`.
pub(super) fn check_reachable(levels: &Levels, whole: &str, total: u64) -> Answer<()> {
    let Levels::At(levels) = levels else { return Ok(()) };
    let beyond = |level: &Level| match level {
        Level::Bytes(bytes) => Some(*bytes).filter(|bytes| *bytes > total),
        Level::Percent(_) => None,
    };
    match levels.iter().find_map(beyond) {
        Some(bytes) => {
            let (bytes, all) = (iec(bytes), iec(total));
            let detail = format!("a threshold of {bytes} can never be reached: {whole} {all}");
            Err(Problem::new("invalid-argument", detail).hint("say sizes up to that, or shares, such as 70%,95%"))
        }
        None => Ok(()),
    }
}

/// As [`check_reachable`], what a request changes of a vdisk of `size` bytes.
///
/// # Errors
/// `invalid-argument`.
pub(super) fn check_vdisk_levels(
    name: &str,
    change: &VdiskPolicyChange,
    policy: &VdiskPolicy,
    size: u64,
) -> Answer<()> {
    if change.thresholds.is_some() {
        check_reachable(&policy.levels, &format!("vdisk {name} has"), size)?;
    }
    match policy.quota.filter(|_| change.quota_thresholds.is_some()) {
        Some(quota) => check_reachable(&policy.quota_levels, &format!("the quota of vdisk {name} is"), quota),
        None => Ok(()),
    }
}
