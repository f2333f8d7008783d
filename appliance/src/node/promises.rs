//! Promises that contradict each other: a quota below what is reserved under it, or below anything that could be written. A limit below what
//! is in use is none of them: it is taken, and told as exceeded.

use plimsoll_engine::{Pool, VdiskInfo, VdiskPolicy, VdiskState};
use plimsoll_hardware::Handle;
use uuid::Uuid;

use crate::model::VdiskPolicyChange;
use crate::problem::{Answer, Problem};
use crate::units::iec;

/// Refuses a change of what is decided for vdisk `name` to `policy`; `now` is what is known of one that is there already.
///
/// # Errors
/// `invalid-argument` for a quota below an extent or the vdisk's reservation, `limit-exceeded` when its tenant's quota is below what would
/// be reserved for the tenant's vdisks.
pub(super) fn check_vdisk(
    pool: &Pool<Handle>,
    name: &str,
    now: Option<&VdiskInfo>,
    change: &VdiskPolicyChange,
    policy: &VdiskPolicy,
) -> Answer<()> {
    let info = pool.info();
    let extent = u64::from(info.extent_bytes);
    let reserved = policy.reservation.div_ceil(extent);
    if let Some(quota) = policy.quota.filter(|_| change.quota_bytes.is_some() || change.reservation_bytes.is_some()) {
        check_least("vdisk", name, quota, extent)?;
        if quota / extent < reserved {
            let (quota, reserved) = (iec(quota), iec(policy.reservation));
            let detail = format!("a quota of {quota} for vdisk {name} is below its reservation of {reserved}");
            return Err(Problem::new("invalid-argument", detail)
                .hint(format!("plimsoll vdisk set {name} --quota SIZE --reservation SIZE, or --quota none")));
        }
    }
    let known = |now: &VdiskInfo| now.policy.tenant == policy.tenant && now.policy.reservation >= policy.reservation;
    let Some(tenant) = policy.tenant.as_deref().filter(|_| reserved > 0 && !now.is_some_and(known)) else {
        return Ok(());
    };
    let quota = pool.tenants().into_iter().find(|known| known.name == tenant).and_then(|known| known.quota_bytes);
    let all = reserved.saturating_add(reserved_of(pool, tenant, now.map(|now| now.uuid))).saturating_mul(extent);
    match quota.filter(|quota| *quota < all) {
        Some(quota) => {
            let (all, quota, own) = (iec(all), iec(quota), iec(policy.reservation));
            let detail = format!(
                "with {own} for vdisk {name} the reservations of tenant {tenant} in pool {} are {all}, more than its quota of {quota}",
                info.name
            );
            let hint = format!("plimsoll tenant set {tenant} --pool {} --quota SIZE; or reserve less", info.name);
            Err(Problem::new("limit-exceeded", detail).hint(hint))
        }
        None => Ok(()),
    }
}

/// Refuses a quota of a tenant.
///
/// # Errors
/// `invalid-argument` below an extent, `limit-exceeded` below what is reserved for its vdisks.
pub(super) fn check_tenant(pool: &Pool<Handle>, tenant: &str, quota: u64) -> Answer<()> {
    let info = pool.info();
    let extent = u64::from(info.extent_bytes);
    check_least("tenant", tenant, quota, extent)?;
    let reserved = reserved_of(pool, tenant, None);
    if quota / extent < reserved {
        let (quota, reserved, pool) = (iec(quota), iec(reserved.saturating_mul(extent)), &info.name);
        let detail = format!(
            "a quota of {quota} for tenant {tenant} is below what is reserved for its vdisks in pool {pool}, {reserved}"
        );
        return Err(Problem::new("limit-exceeded", detail).hint(format!(
            "lower a reservation: plimsoll vdisk set {pool}/VDISK --reservation SIZE; see plimsoll vdisk list --pool {pool} \
             --filter tenant={tenant} -o wide"
        )));
    }
    Ok(())
}

/// Space is given out by extents: who may have none of them can write nothing.
fn check_least(kind: &str, name: &str, quota: u64, extent: u64) -> Answer<()> {
    if quota >= extent {
        return Ok(());
    }
    let (quota, extent) = (iec(quota), iec(extent));
    let detail =
        format!("a quota of {quota} for {kind} {name} is less than an extent, {extent}: nothing could be written");
    Err(Problem::new("invalid-argument", detail).hint(format!("say {extent} or more, or none for no bound")))
}

/// Extents that are reserved for the vdisks of a tenant, but for one of them.
fn reserved_of(pool: &Pool<Handle>, tenant: &str, but: Option<Uuid>) -> u64 {
    let extent = u64::from(pool.info().extent_bytes);
    let of = |vdisk: &VdiskInfo| {
        vdisk.policy.tenant.as_deref() == Some(tenant) && vdisk.state != VdiskState::Deleting && Some(vdisk.uuid) != but
    };
    pool.vdisks().iter().filter(|vdisk| of(vdisk)).map(|vdisk| vdisk.policy.reservation.div_ceil(extent)).sum()
}
