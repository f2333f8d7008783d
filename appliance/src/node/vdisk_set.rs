//! `vdisk set`: another size for a vdisk, other promises, and what its writes are looked through for. All that is asked for at once is
//! done in one step of the engine, or nothing of it.

use plimsoll_engine::{Pool, PoolInfo, VdiskInfo, VdiskPolicy, VdiskSettings};
use plimsoll_hardware::Handle;

use super::Node;
use super::levels::check_vdisk_levels;
use super::promises::check_vdisk;
use super::vdisk_create::check_size;
use super::vdisk_plan::policy_steps;
use crate::model::{Plan, SetVdisk, VdiskPolicyChange, VdiskView};
use crate::name::VdiskName;
use crate::policy;
use crate::problem::{Answer, Problem};
use crate::units::iec;

/// Ranges asked for at once when backed space is counted.
const RANGES_AT_ONCE: usize = 1024;

impl Node {
    /// Changes a vdisk. `version`, when given, must be the one that it has.
    ///
    /// # Errors
    /// `would-cut-off` when backed blocks lie beyond the new size and `discard_tail` is not said; `version-mismatch`.
    pub async fn set_vdisk(&self, name: &VdiskName, request: SetVdisk, version: Option<String>) -> Answer<VdiskView> {
        let (pool, info) = self.find_vdisk(name)?;
        let in_pool = pool.info().name;
        let full = format!("{in_pool}/{}", info.name);
        let change = |now: &VdiskInfo| {
            check_version(&self.vdisk_view(&in_pool, now), version.as_deref())?;
            settings_of(&pool, &full, now, &request)
        };
        let changed = pool.change_vdisk(&info.name, request.discard_tail, change).await;
        let after = changed.map_err(|problem: Problem| match (problem.code.as_str(), request.designated_bytes) {
            ("would-cut-off", Some(bytes)) => {
                problem.hint(format!("plimsoll vdisk set {full} --size {bytes} --discard-tail"))
            }
            _ => problem,
        })?;
        tracing::info!(vdisk = full, bytes = after.size, "vdisk changed");
        Ok(self.vdisk_view(&in_pool, &after))
    }

    /// What [`Node::set_vdisk`] would do.
    ///
    /// # Errors
    /// As [`Node::set_vdisk`].
    pub async fn plan_set_vdisk(&self, name: &VdiskName, request: SetVdisk, version: Option<String>) -> Answer<Plan> {
        let (pool, info) = self.find_vdisk(name)?;
        let view = self.vdisk_view(&pool.info().name, &info);
        check_version(&view, version.as_deref())?;
        let decided = settings_of(&pool, &view.name, &info, &request)?;
        let (bytes, policy) = (decided.size, decided.policy.clone());
        pool.check_change(&info.name, decided.clone())?;
        let in_pool = pool.info();
        let mut plan = Plan::of([]);
        if bytes != info.size {
            plan.steps.push(format!("resize vdisk {} from {} to {}", view.name, iec(info.size), iec(bytes)));
            let promised = (in_pool.designated_bytes - info.size).saturating_add(bytes);
            plan.steps.push(promise(&in_pool, promised));
        }
        let extent_bytes = in_pool.extent_bytes.into();
        plan.steps.extend(policy_steps(&view.name, extent_bytes, Some(&info), &info.policy, &policy));
        // What is in use is its own already.
        let unfilled = policy.reservation.saturating_sub(info.backed_bytes);
        plan.needs_bytes = Some(unfilled.saturating_sub(info.reserved_bytes)).filter(|more| *more > 0);
        match decided.pattern {
            pattern if pattern == info.pattern => {}
            None => plan.steps.push(format!("give vdisk {} no pattern of its own", view.name)),
            Some(number) => plan.steps.push(format!("make pattern {number} the own one of vdisk {}", view.name)),
        }
        if bytes < info.size {
            let cut_off = backed_between(&pool, &info.name, bytes, info.size).await?;
            if cut_off > 0 && !request.discard_tail {
                let error = plimsoll_engine::Error::WouldCutOff { vdisk: view.name, size: bytes, backed: cut_off };
                return Err(error.into());
            }
            plan.steps.push(format!("give up the {} that are backed beyond the new end", iec(cut_off)));
            plan.frees_bytes = Some(cut_off);
        }
        Ok(plan)
    }
}

/// What a pool has promised when it is `promised` bytes.
pub(super) fn promise(pool: &PoolInfo, promised: u64) -> String {
    let ratio = promised as f64 / pool.physical_bytes.max(1) as f64;
    let limit = match pool.designated_bytes_max.filter(|allowed| promised > *allowed) {
        Some(allowed) => format!(", more than the {} that its overcommit limit allows", iec(allowed)),
        None => String::new(),
    };
    format!("have pool {} promise {} on {}, {ratio:.2}x{limit}", pool.name, iec(promised), iec(pool.physical_bytes))
}

/// What a vdisk has with what a request changes of it.
fn settings_of(pool: &Pool<Handle>, name: &str, now: &VdiskInfo, request: &SetVdisk) -> Answer<VdiskSettings> {
    let size = request.designated_bytes.unwrap_or(now.size);
    check_size(size, now.sector, name)?;
    let policy = policy_of(now.policy.clone(), &request.policy)?;
    check_vdisk(pool, name, Some(now), &request.policy, &policy)?;
    check_vdisk_levels(name, &request.policy, &policy, size)?;
    let kept = |asked: Option<bool>, kept| asked.map_or(kept, |on| !on);
    Ok(VdiskSettings {
        size,
        pattern: request.pattern.map_or(now.pattern, |number| (number > 0).then_some(number)),
        policy: VdiskPolicy {
            keep_zeros: kept(request.zero_detection, policy.keep_zeros),
            keep_patterns: kept(request.pattern_detection, policy.keep_patterns),
            ..policy
        },
    })
}

/// `before` with what a request changes of it.
pub(super) fn policy_of(before: VdiskPolicy, change: &VdiskPolicyChange) -> Answer<VdiskPolicy> {
    let text = |asked: &Option<String>, before: Option<String>| match asked.as_deref() {
        None => before,
        Some("") => None,
        Some(name) => Some(name.to_owned()),
    };
    let levels = |asked: &Option<String>, before| asked.as_deref().map_or(Ok(before), policy::levels);
    Ok(VdiskPolicy {
        tenant: text(&change.tenant, before.tenant),
        vm: text(&change.vm, before.vm),
        on_full: change.on_full.as_deref().map_or(Ok(before.on_full), policy::on_full)?,
        reservation: change.reservation_bytes.unwrap_or(before.reservation),
        quota: change.quota_bytes.map_or(before.quota, |bytes| (bytes > 0).then_some(bytes)),
        levels: levels(&change.thresholds, before.levels)?,
        quota_levels: levels(&change.quota_thresholds, before.quota_levels)?,
        ..before
    })
}

pub(super) fn check_version(vdisk: &VdiskView, asked: Option<&str>) -> Answer<()> {
    match asked {
        Some(asked) if asked != vdisk.version && asked != "*" => {
            let detail = format!("vdisk {} has version {}, not {asked}", vdisk.name, vdisk.version);
            Err(Problem::new("version-mismatch", detail).hint(format!("plimsoll vdisk show {}", vdisk.name)))
        }
        _ => Ok(()),
    }
}

async fn backed_between(pool: &Pool<Handle>, vdisk: &str, from: u64, to: u64) -> Answer<u64> {
    let vdisk = pool.vdisk(vdisk)?;
    let (mut at, mut backed) = (from, 0);
    while at < to {
        let ranges = vdisk.block_status(at, to - at, RANGES_AT_ONCE).await?;
        let covered: u64 = ranges.iter().map(|range| range.length).sum();
        backed += ranges.iter().filter(|range| range.data).map(|range| range.length).sum::<u64>();
        if covered == 0 {
            break;
        }
        at += covered;
    }
    Ok(backed)
}
