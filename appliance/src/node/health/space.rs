//! Whose writes find no space, and which limits are below what is in use.

use plimsoll_engine::{Pool, PoolInfo, Shortage, TenantInfo, VdiskInfo};
use plimsoll_hardware::Handle;

use super::VDISKS_MAX;
use crate::model::{Health, HealthFinding};
use crate::policy;
use crate::units::{counted, iec};

/// So much in a file system is as good as nothing: others may take it at any moment, and the last of it is hardly ever in one piece.
pub(in crate::node) const SCARCE_BYTES: u64 = 8 << 20;

/// All of a pool's. `below`: so much of what is available there is room for, and a device where there is no more.
pub(super) fn findings(pool: &Pool<Handle>, info: &PoolInfo, below: Option<(u64, String)>) -> Vec<HealthFinding> {
    let (vdisks, tenants, name) = (pool.vdisks(), pool.tenants(), &info.name);
    let room = below.as_ref().map_or(info.available_bytes, |(bytes, _)| bytes.saturating_sub(SCARCE_BYTES));
    let is_without =
        |vdisk: &&VdiskInfo| vdisk.exhausted_since.is_some() && !would_find_space(info, room, &tenants, vdisk);
    let without: Vec<_> = vdisks.iter().filter(is_without).collect();
    let mut findings: Vec<_> =
        without.iter().take(VDISKS_MAX).map(|vdisk| exhausted(info, room, &tenants, vdisk)).collect();
    let more = without.len().saturating_sub(VDISKS_MAX) as u64;
    if more > 0 {
        let reason = format!("there is no space for writes to {} of pool {name}", counted(more, "more vdisk"));
        findings.push(finding(Health::Critical, name, reason, format!("plimsoll vdisk list --pool {name}")));
    }
    let over: Vec<_> = vdisks.iter().filter_map(|vdisk| over_quota(name, vdisk)).collect();
    let more = over.len().saturating_sub(VDISKS_MAX) as u64;
    findings.extend(over.into_iter().take(VDISKS_MAX));
    if more > 0 {
        let reason = format!("{} of pool {name} have more than their quotas", counted(more, "more vdisk"));
        let advice = format!("plimsoll vdisk list --pool {name} --columns name,backed_bytes,quota_bytes");
        findings.push(finding(Health::Warning, name, reason, advice));
    }
    findings.extend(tenants.iter().filter_map(|tenant| tenant_over_quota(name, tenant)));
    findings.extend(over_promised(info));
    findings.extend(match (&info.starved, below) {
        (Some(device), _) => Some(starved(name, device)),
        (None, below) => below.map(|(bytes, device)| promised_below(info, bytes, &device)),
    });
    findings
}

/// Whether a write would go through by now to a vdisk of which none waits: nobody has tried, so the engine does not know yet.
fn would_find_space(info: &PoolInfo, room: u64, tenants: &[TenantInfo], vdisk: &VdiskInfo) -> bool {
    let one = u64::from(info.extent_bytes);
    let fits = |used: u64, quota: Option<u64>| quota.is_none_or(|quota| used + one <= quota);
    let tenant = tenants.iter().find(|tenant| vdisk.policy.tenant.as_ref() == Some(&tenant.name));
    vdisk.held_writes == 0
        && info.starved.is_none()
        // What is reserved of a pool is not reserved of the file systems below it.
        && (room >= one || vdisk.reserved_bytes >= one && vdisk.shortage != Some(Shortage::DeviceFull))
        && fits(vdisk.backed_bytes, vdisk.policy.quota)
        && tenant.is_none_or(|tenant| fits(tenant.used_bytes, tenant.quota_bytes))
}

fn finding(health: Health, object: &str, reason: String, advice: String) -> HealthFinding {
    HealthFinding { health, object: object.to_owned(), reason, advice }
}

/// What would stand in the way of a write of a vdisk of which none came since the pool was opened.
fn shortage_to_come(info: &PoolInfo, room: u64, tenant: Option<&TenantInfo>, vdisk: &VdiskInfo) -> Option<Shortage> {
    let one = u64::from(info.extent_bytes);
    let is_at = |used: u64, quota: Option<u64>| quota.is_some_and(|quota| used + one > quota);
    if is_at(vdisk.backed_bytes, vdisk.policy.quota) {
        Some(Shortage::VdiskQuota)
    } else if tenant.is_some_and(|tenant| is_at(tenant.used_bytes, tenant.quota_bytes)) {
        Some(Shortage::TenantQuota)
    } else if info.available_bytes < one {
        Some(Shortage::PoolFull)
    } else {
        (room < one || info.starved.is_some()).then_some(Shortage::DeviceFull)
    }
}

/// What stands in the way is what the engine found, and where it does not know yet, what a look at the figures suggests.
fn exhausted(info: &PoolInfo, room: u64, tenants: &[TenantInfo], vdisk: &VdiskInfo) -> HealthFinding {
    let pool = &info.name;
    let object = format!("{pool}/{}", vdisk.name);
    let tenant = tenants.iter().find(|tenant| vdisk.policy.tenant.as_ref() == Some(&tenant.name));
    let add = format!("plimsoll pool add-device {pool} --device PATH");
    let shortage = vdisk.shortage.or_else(|| shortage_to_come(info, room, tenant, vdisk));
    let (why, advice) = match (shortage, vdisk.policy.quota, tenant) {
        (Some(Shortage::VdiskQuota), Some(quota), _) => (
            format!("it has {} of its quota of {}", iec(vdisk.backed_bytes), iec(quota)),
            format!("plimsoll vdisk set {object} --quota SIZE; plimsoll reclaim {object}"),
        ),
        (Some(Shortage::TenantQuota), _, Some(TenantInfo { name, used_bytes, quota_bytes: Some(quota), .. })) => (
            format!("its tenant {name} has {} of its quota of {} in pool {pool}", iec(*used_bytes), iec(*quota)),
            format!("plimsoll tenant set {name} --pool {pool} --quota SIZE; plimsoll space --pool {pool}"),
        ),
        (Some(Shortage::Reserved), ..) => (
            format!("what is free of pool {pool} is reserved by others, {} in all", iec(info.reserved_bytes)),
            format!("{add}; plimsoll vdisk list --pool {pool} --sort -reservation_bytes"),
        ),
        (Some(Shortage::DeviceFull), ..) => (
            format!("pool {pool} has some, but the file system of a device is full, where somebody has to free space"),
            format!("{add}; plimsoll pool show {pool}"),
        ),
        (Some(_), ..) => {
            let (left, total) = (iec(info.available_bytes), iec(info.physical_bytes));
            (format!("{left} of {total} are left of pool {pool}"), format!("{add}; plimsoll space --pool {pool}"))
        }
        (None, ..) => (
            format!("so it was when pool {pool} was opened, and none came since that got any"),
            format!("plimsoll vdisk show {object}; plimsoll space --pool {pool}"),
        ),
    };
    let waiting = counted(vdisk.held_writes, "waiting write");
    let reason = format!("there is no space for writes to vdisk {object}: {why}, {waiting}");
    finding(Health::Critical, &object, reason, advice)
}

/// A vdisk that has more than it may, unless it is told already that this keeps it from writing.
fn over_quota(pool: &str, vdisk: &VdiskInfo) -> Option<HealthFinding> {
    let quota = vdisk.policy.quota.filter(|quota| vdisk.backed_bytes > *quota)?;
    if vdisk.shortage == Some(Shortage::VdiskQuota) || vdisk.exhausted_since.is_some() && vdisk.shortage.is_none() {
        return None;
    }
    let object = format!("{pool}/{}", vdisk.name);
    let reason = format!(
        "vdisk {object} has {}, more than its quota of {}: it gets no more",
        iec(vdisk.backed_bytes),
        iec(quota)
    );
    let advice = format!("plimsoll vdisk set {object} --quota SIZE; plimsoll reclaim {object}");
    Some(finding(Health::Warning, &object, reason, advice))
}

fn tenant_over_quota(pool: &str, tenant: &TenantInfo) -> Option<HealthFinding> {
    let (name, used) = (&tenant.name, tenant.used_bytes);
    let quota = tenant.quota_bytes.filter(|quota| used > *quota)?;
    let (has, may) = (iec(used), iec(quota));
    let reason =
        format!("tenant {name} has {has} in pool {pool}, more than its quota of {may}: its vdisks get no more");
    let advice = format!("plimsoll tenant set {name} --pool {pool} --quota SIZE; plimsoll space --pool {pool}");
    Some(finding(Health::Warning, name, reason, advice))
}

fn over_promised(info: &PoolInfo) -> Option<HealthFinding> {
    let (pool, promised) = (&info.name, info.designated_bytes);
    let limit = policy::overcommit_limit_text(info.policy.overcommit_limit);
    let reason = policy::over_promised(pool, promised, info.designated_bytes_max?, &limit)?;
    let advice = format!(
        "plimsoll pool add-device {pool} --device PATH; plimsoll pool set {pool} --overcommit-limit LIMIT; plimsoll vdisk list \
         --pool {pool}"
    );
    Some(finding(Health::Warning, pool, reason, advice))
}

/// A pool that has more than there is room for.
fn promised_below(info: &PoolInfo, bytes: u64, device: &str) -> HealthFinding {
    let (pool, has) = (&info.name, iec(info.available_bytes));
    let health = if bytes < SCARCE_BYTES { Health::Critical } else { Health::Warning };
    let room = iec(bytes);
    let reason = format!(
        "pool {pool} has {has} available, and room for {room} of that: the file system of {device} has no more"
    );
    let advice = format!("free space there, or: plimsoll pool add-device {pool} --device PATH");
    finding(health, pool, reason, advice)
}

/// A checkpoint that has space in the pool, and none behind it.
fn starved(pool: &str, device: &str) -> HealthFinding {
    let reason = format!("metadata of pool {pool} waits for room: the file system under {device} is full");
    let advice = format!("free space there, or: plimsoll pool add-device {pool} --device PATH");
    finding(Health::Critical, pool, reason, advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_that_waits_for_room_is_critical_and_says_where_there_is_none() {
        let found = starved("tank", "/srv/tank.img");
        let expected = "metadata of pool tank waits for room: the file system under /srv/tank.img is full";
        assert_eq!((found.health, found.object.as_str(), found.reason.as_str()), (Health::Critical, "tank", expected));
        crate::cli::hints::assert_advice_can_be_followed(&found.advice);
    }
}
