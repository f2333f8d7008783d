//! Tenants: labels that vdisks share, and `tenant set`. What is decided for one is remembered here, because no device knows it.

use std::ops::Add;

use plimsoll_engine::{Levels, Pool};
use plimsoll_hardware::Handle;

use super::Node;
use super::division::Division;
use super::levels::check_reachable;
use super::pool_list::percent;
use super::promises::check_tenant;
use super::state::TenantRecord;
use crate::model::{Plan, SetTenant, TenantView};
use crate::name;
use crate::policy;
use crate::problem::{Answer, Problem};
use crate::units::{counted, iec};

impl Node {
    /// The tenants of all open pools: those that have vdisks or a quota there.
    pub fn tenants(&self) -> Vec<TenantView> {
        let all = self.open_pools();
        let is_there = |view: &TenantView| view.vdisks > 0 || view.used_bytes > 0 || view.quota_bytes.is_some();
        all.iter().flat_map(tenants_of).filter(is_there).collect()
    }

    /// Decides what a tenant's vdisks in a pool may use together, and when that is told; what is absent stays as it is. Of one that has
    /// neither a quota nor vdisks afterwards nothing is kept.
    ///
    /// # Errors
    /// `invalid-name`, `invalid-argument`, `limit-exceeded` for a quota below what is reserved for its vdisks, `not-found`, `unavailable`,
    /// `state-no-space` and `state-not-kept` when it cannot be kept.
    pub async fn set_tenant(&self, pool: &str, tenant: &str, request: SetTenant) -> Answer<TenantView> {
        // One after the other: each puts back what it could not keep.
        let _turn = self.turn().await?;
        let pool = self.pool(pool)?;
        let mut levels = checked(&pool, tenant, &request)?;
        let uuid = pool.info().uuid;
        if request.quota_bytes == Some(0)
            && levels.is_none()
            && view_of(&pool, tenant).is_none_or(|known| known.vdisks == 0)
        {
            levels = Some(Levels::Default);
        }
        // A lower quota is in force before it is remembered: what is reserved meanwhile must be within it.
        let before = view_of(&pool, tenant).and_then(|known| known.quota_bytes);
        let quota = request.quota_bytes.map(|bytes| (bytes > 0).then_some(bytes));
        let lower = quota.filter(|quota| quota.unwrap_or(u64::MAX) < before.unwrap_or(u64::MAX));
        if let Some(lower) = lower {
            pool.set_tenant_quota(tenant, lower);
        }
        let kept = self.remember(|state| {
            let known = state.tenants.iter().position(|known| known.pool == uuid && known.tenant == tenant);
            let fresh = TenantRecord { pool: uuid, tenant: tenant.to_owned(), quota_bytes: 0, thresholds: None };
            let mut record = known.map_or(fresh, |at| state.tenants.remove(at));
            record.quota_bytes = request.quota_bytes.unwrap_or(record.quota_bytes);
            if let Some(levels) = &levels {
                record.thresholds = Some(policy::levels_text(levels)).filter(|_| *levels != Levels::Default);
            }
            if record.quota_bytes > 0 || record.thresholds.is_some() {
                state.tenants.push(record);
            }
        });
        if let Err(problem) = kept.await {
            if lower.is_some() {
                pool.set_tenant_quota(tenant, before);
            }
            return Err(problem);
        }
        if let Some(quota) = quota {
            pool.set_tenant_quota(tenant, quota);
        }
        if let Some(levels) = levels {
            pool.set_tenant_levels(tenant, levels)?;
        }
        tracing::info!(pool = pool.info().name, tenant, "what a tenant may use was changed");
        view_of(&pool, tenant).ok_or_else(|| Problem::not_found("tenant", tenant))
    }

    /// What [`Node::set_tenant`] would do.
    ///
    /// # Errors
    /// As [`Node::set_tenant`].
    pub fn plan_set_tenant(&self, pool: &str, tenant: &str, request: &SetTenant) -> Answer<Plan> {
        let pool = self.pool(pool)?;
        let levels = checked(&pool, tenant, request)?;
        let known = view_of(&pool, tenant);
        let extent = u64::from(pool.info().extent_bytes);
        let pool = pool.info().name;
        let mut plan = Plan::of([]);
        if let Some(bytes) = request.quota_bytes {
            let (used, vdisks, before) =
                known.map_or((0, 0, None), |known| (known.used_bytes, known.vdisks, known.quota_bytes));
            let bound = |bytes: u64| match bytes {
                0 => "as much as there is".to_owned(),
                bytes => iec(bytes / extent * extent),
            };
            let (was, will) = (bound(before.unwrap_or(0)), bound(bytes));
            let exceeded = if bytes > 0 && used > bytes { ", which is more" } else { "" };
            plan.steps.push(format!(
                "let tenant {tenant} use {will} of pool {pool} instead of {was}; {} of {} are in use{exceeded}",
                iec(used),
                counted(vdisks, "vdisk")
            ));
        }
        if let Some(levels) = levels {
            let levels = policy::levels_text(&levels);
            plan.steps.push(format!("tell when tenant {tenant} uses so much of its quota in pool {pool}: {levels}"));
        }
        Ok(plan)
    }

    /// Tells a pool that was opened what is remembered of its tenants.
    pub(super) fn tell_tenants(&self, pool: &Pool<Handle>) {
        let uuid = pool.info().uuid;
        for record in self.0.state.borrow().tenants.iter().filter(|record| record.pool == uuid) {
            pool.set_tenant_quota(&record.tenant, (record.quota_bytes > 0).then_some(record.quota_bytes));
            let levels = record.thresholds.as_deref().map(policy::levels);
            let told = levels.map(|levels| pool.set_tenant_levels(&record.tenant, levels?).map_err(Problem::from));
            if let Some(Err(problem)) = told {
                tracing::warn!(tenant = record.tenant, reason = problem.detail, "a tenant has the usual thresholds");
            }
        }
    }
}

/// Refuses what makes no sense; answers the levels that are asked for.
fn checked(pool: &Pool<Handle>, tenant: &str, request: &SetTenant) -> Answer<Option<Levels>> {
    name::check("tenant", tenant)?;
    if request.quota_bytes.is_none() && request.thresholds.is_none() {
        let hint = format!("plimsoll tenant set {tenant} --pool {} --quota SIZE", pool.info().name);
        return Err(Problem::new("invalid-argument", "there is nothing to change").hint(hint));
    }
    let levels = request.thresholds.as_deref().map(policy::levels).transpose()?;
    if let Some(levels) = &levels {
        Pool::<Handle>::check_tenant_levels(levels)?;
        let known = || view_of(pool, tenant).and_then(|known| known.quota_bytes);
        if let Some(quota) = request.quota_bytes.map_or_else(known, |bytes| (bytes > 0).then_some(bytes)) {
            check_reachable(levels, &format!("the quota of tenant {tenant} is"), quota)?;
        }
    }
    request.quota_bytes.filter(|bytes| *bytes > 0).map_or(Ok(()), |bytes| check_tenant(pool, tenant, bytes))?;
    Ok(levels)
}

fn view_of(pool: &Pool<Handle>, tenant: &str) -> Option<TenantView> {
    tenants_of(pool).into_iter().find(|view| view.name == tenant)
}

fn tenants_of(pool: &Pool<Handle>) -> Vec<TenantView> {
    let (name, vdisks) = (pool.info().name, pool.vdisks());
    let view = |tenant: plimsoll_engine::TenantInfo| {
        let own: Vec<_> = vdisks.iter().filter(|vdisk| vdisk.policy.tenant.as_ref() == Some(&tenant.name)).collect();
        let designated_bytes = own.iter().map(|vdisk| vdisk.size).sum();
        let division = Division::of(tenant.used_bytes, designated_bytes);
        TenantView {
            pool: name.clone(),
            used_bytes: tenant.used_bytes,
            exclusive_bytes: division.exclusive_bytes,
            shared_bytes: division.shared_bytes,
            reclaimable_bytes: own
                .iter()
                .filter_map(|vdisk| vdisk.reclaimable)
                .map(|found| found.bytes())
                .reduce(Add::add),
            quota_bytes: tenant.quota_bytes,
            used_pct: tenant.quota_bytes.map(|quota| percent(tenant.used_bytes, quota)),
            thresholds: policy::levels_text(&tenant.levels),
            vdisks: own.len() as u64,
            designated_bytes,
            regulation_bytes: division.regulation_bytes,
            effective_bytes: division.effective_bytes,
            reservation_bytes: own.iter().map(|vdisk| vdisk.policy.reservation).sum(),
            reserved_bytes: own.iter().map(|vdisk| vdisk.reserved_bytes).sum(),
            name: tenant.name,
        }
    };
    pool.tenants().into_iter().map(view).collect()
}
