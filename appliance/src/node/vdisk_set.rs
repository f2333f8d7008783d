//! `vdisk set`: another size for a vdisk, other promises, and what its writes are looked through for.

use plimsoll_engine::{Pool, VdiskInfo, VdiskPolicy};
use plimsoll_hardware::Handle;

use super::Node;
use super::vdisk_create::check_size;
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
        let before = self.vdisk_view(&pool.info().name, &info);
        check_version(&before, version)?;
        let info = set_detection(&pool, info, &request).await?;
        let decided = policy_of(info.policy.clone(), &request.policy)?;
        // The size first when it grows: a larger reservation may need it.
        let bytes = request.designated_bytes.unwrap_or(info.size);
        check_size(bytes, info.sector, &before.name)?;
        if decided != info.policy && bytes <= info.size {
            pool.set_vdisk_policy(&info.name, decided.clone()).await?;
        }
        if bytes == info.size {
            return self.vdisk(name);
        }
        let after = pool.resize_vdisk(&info.name, bytes, request.discard_tail).await.map_err(|error| {
            let hint = format!("plimsoll vdisk set {} --size {bytes} --discard-tail", before.name);
            let cuts = matches!(error, plimsoll_engine::Error::WouldCutOff { .. });
            let problem = Problem::from(error);
            if cuts { problem.hint(hint) } else { problem }
        })?;
        tracing::info!(vdisk = before.name, from = info.size, to = bytes, "vdisk resized");
        if decided != info.policy && bytes > info.size {
            pool.set_vdisk_policy(&info.name, decided).await?;
            return self.vdisk(name);
        }
        Ok(self.vdisk_view(&before.pool, &after))
    }

    /// What [`Node::set_vdisk`] would do.
    ///
    /// # Errors
    /// As [`Node::set_vdisk`].
    pub async fn plan_set_vdisk(&self, name: &VdiskName, request: SetVdisk, version: Option<String>) -> Answer<Plan> {
        let (pool, info) = self.find_vdisk(name)?;
        let view = self.vdisk_view(&pool.info().name, &info);
        check_version(&view, version)?;
        let bytes = request.designated_bytes.unwrap_or(info.size);
        check_size(bytes, info.sector, &view.name)?;
        let decided = policy_of(info.policy.clone(), &request.policy)?;
        let mut plan = Plan::of([]);
        if bytes != info.size {
            plan.steps.push(format!("resize vdisk {} from {} to {}", view.name, iec(info.size), iec(bytes)));
        }
        if decided != info.policy {
            plan.steps.push(format!("change what is decided for vdisk {}", view.name));
            let more = decided.reservation.saturating_sub(info.policy.reservation);
            plan.needs_bytes = (more > 0).then_some(more);
        }
        let word = |on: bool| if on { "on" } else { "off" };
        let detections = [("zeros", request.zero_detection), ("patterns", request.pattern_detection)];
        for (what, on) in detections.into_iter().filter_map(|(what, on)| Some((what, on?))) {
            plan.steps.push(format!("turn detection of {what} {} for vdisk {}", word(on), view.name));
        }
        match request.pattern {
            None => {}
            Some(0) => plan.steps.push(format!("give vdisk {} no pattern of its own", view.name)),
            Some(number) => {
                pool.pattern(number)?;
                plan.steps.push(format!("make pattern {number} the own one of vdisk {}", view.name));
            }
        }
        if bytes < info.size {
            let cut_off = backed_between(&pool, &info.name, bytes, info.size).await?;
            if cut_off > 0 && !request.discard_tail {
                let error = plimsoll_engine::Error::WouldCutOff { vdisk: view.name, size: bytes, backed: cut_off };
                return Err(error.into());
            }
            plan.steps.push(format!("give up {cut_off} backed bytes beyond the new end"));
            plan.frees_bytes = Some(cut_off);
        }
        Ok(plan)
    }
}

/// Changes what a vdisk's writes are looked through for, where that is asked for.
async fn set_detection(pool: &Pool<Handle>, mut info: VdiskInfo, request: &SetVdisk) -> Answer<VdiskInfo> {
    if let Some(number) = request.pattern {
        info = pool.set_own_pattern(&info.name, (number > 0).then_some(number)).await?;
    }
    if request.zero_detection.is_some() || request.pattern_detection.is_some() {
        info = pool.set_detection(&info.name, request.zero_detection, request.pattern_detection).await?;
        tracing::info!(vdisk = info.name, info.zero_detection, info.pattern_detection, "detection changed");
    }
    Ok(info)
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

pub(super) fn check_version(vdisk: &VdiskView, asked: Option<String>) -> Answer<()> {
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
