//! `pool set`: what is decided for a pool. And for its tenants, whose quotas are remembered here, because no device knows them.

use plimsoll_engine::{Pool, PoolPolicy};
use plimsoll_hardware::Handle;

use super::Node;
use super::pool_list::percent;
use super::state::TenantRecord;
use crate::model::{Plan, PoolView, SetPool, SetTenant, TenantView};
use crate::name;
use crate::policy;
use crate::problem::Answer;
use crate::units::iec;

impl Node {
    /// Decides anew for a pool; what is absent stays as it is.
    ///
    /// # Errors
    /// `not-found`, `unavailable`, `invalid-argument`, and the pool's reasons.
    pub async fn set_pool(&self, name: &str, request: SetPool) -> Answer<PoolView> {
        // In turn, so that what is checked here still holds when it is put in force.
        let _turn = self.0.changes.lock().await;
        let pool = self.pool(name)?;
        let decided = decided_for(&pool, &request)?;
        if let Some(growth) = request.growth.clone() {
            self.set_growth(&pool, growth).await?;
        }
        if decided != pool.policy() {
            pool.change_policy(|now| policy_of(now, &request)).await?;
            tracing::info!(pool = pool.info().name, "the pool's policy was changed");
        }
        self.pool_view(name)
    }

    /// What [`Node::set_pool`] would do.
    ///
    /// # Errors
    /// As [`Node::set_pool`].
    pub async fn plan_set_pool(&self, name: &str, request: SetPool) -> Answer<Plan> {
        let pool = self.pool(name)?;
        let decided = decided_for(&pool, &request)?;
        let mut plan = Plan::of([]);
        if decided != pool.policy() {
            plan.steps.push(format!("change the policy of pool {}", pool.info().name));
        }
        if let Some(growth) = request.growth {
            plan.steps.extend(self.plan_growth(&pool, growth).await?);
        }
        Ok(plan)
    }

    /// The tenants of all open pools.
    pub fn tenants(&self) -> Vec<TenantView> {
        self.open_pools().iter().flat_map(tenants_of).collect()
    }

    /// Bounds what a tenant's vdisks in a pool may use together.
    ///
    /// # Errors
    /// `invalid-name`, `not-found`, `unavailable`, `internal` when it cannot be kept.
    pub async fn set_tenant(&self, pool: &str, tenant: &str, request: SetTenant) -> Answer<TenantView> {
        name::check("tenant", tenant)?;
        let pool = self.pool(pool)?;
        let quota = (request.quota_bytes > 0).then_some(request.quota_bytes);
        let uuid = pool.info().uuid;
        self.remember(|state| {
            state.tenants.retain(|record| record.pool != uuid || record.tenant != tenant);
            if let Some(quota_bytes) = quota {
                state.tenants.push(TenantRecord { pool: uuid, tenant: tenant.to_owned(), quota_bytes });
            }
        })
        .await?;
        pool.set_tenant_quota(tenant, quota);
        tracing::info!(pool = pool.info().name, tenant, quota = quota.map(iec), "the quota of a tenant was changed");
        let found = tenants_of(&pool).into_iter().find(|view| view.name == tenant);
        found.ok_or_else(|| crate::problem::Problem::not_found("tenant", tenant))
    }

    /// What [`Node::set_tenant`] would do.
    ///
    /// # Errors
    /// `invalid-name`, `not-found`, `unavailable`.
    pub fn plan_set_tenant(&self, pool: &str, tenant: &str, request: &SetTenant) -> Answer<Plan> {
        name::check("tenant", tenant)?;
        let pool = self.pool(pool)?.info().name;
        let limit = match request.quota_bytes {
            0 => "as much physical space as there is".to_owned(),
            bytes => format!("at most {} of physical space", iec(bytes)),
        };
        Ok(Plan::of([format!("let tenant {tenant} use {limit} in pool {pool}")]))
    }

    /// Tells a pool that was opened what is remembered of its tenants.
    pub(super) fn tell_quotas(&self, pool: &Pool<Handle>) {
        let uuid = pool.info().uuid;
        for record in self.0.state.borrow().tenants.iter().filter(|record| record.pool == uuid) {
            pool.set_tenant_quota(&record.tenant, Some(record.quota_bytes));
        }
    }
}

fn tenants_of(pool: &Pool<Handle>) -> Vec<TenantView> {
    let (name, vdisks) = (pool.info().name, pool.vdisks());
    let view = |tenant: plimsoll_engine::TenantInfo| {
        let own = vdisks.iter().filter(|vdisk| vdisk.policy.tenant.as_ref() == Some(&tenant.name));
        TenantView {
            pool: name.clone(),
            used_bytes: tenant.used_bytes,
            quota_bytes: tenant.quota_bytes,
            used_pct: tenant.quota_bytes.map(|quota| percent(tenant.used_bytes, quota)),
            vdisks: own.clone().count() as u64,
            designated_bytes: own.map(|vdisk| vdisk.size).sum(),
            name: tenant.name,
        }
    };
    pool.tenants().into_iter().map(view).collect()
}

fn decided_for(pool: &Pool<Handle>, request: &SetPool) -> Answer<PoolPolicy> {
    let decided = policy_of(pool.policy(), request)?;
    Pool::<Handle>::check_policy(&decided)?;
    Ok(decided)
}

fn policy_of(before: PoolPolicy, change: &SetPool) -> Answer<PoolPolicy> {
    let limit = change.overcommit_limit.as_deref();
    let horizons = change.horizons.as_deref();
    Ok(PoolPolicy {
        overcommit_limit: limit.map_or(Ok(before.overcommit_limit), policy::overcommit_limit)?,
        levels: change.thresholds.as_deref().map_or(Ok(before.levels), policy::levels)?,
        hysteresis_pct: change.hysteresis_pct.or(before.hysteresis_pct),
        horizons: horizons.map_or(Ok(before.horizons), policy::horizons)?,
        hold_bytes: change.hold_bytes_max.map_or(before.hold_bytes, |bytes| (bytes > 0).then_some(bytes)),
    })
}
