//! What an operator decides while the pool is open: for the pool, for a tenant.

use plimsoll_hardware::Machine;

use super::Pool;
use crate::error::{Error, Result};
use crate::format::{Levels, PoolPolicy, Record, VdiskPolicy};
use crate::vdisk::{horizons, thresholds};

/// A tenant: all vdisks that carry its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantInfo {
    /// Its name.
    pub name: String,
    /// Physical bytes behind its vdisks, and held by their writes under way.
    pub used_bytes: u64,
    /// Physical bytes that it may not exceed.
    pub quota_bytes: Option<u64>,
    /// Levels of its use against its quota.
    pub levels: Levels,
}

/// Refuses what makes no sense.
pub(super) fn verify(policy: &VdiskPolicy) -> Result<()> {
    policy.verify().map_err(Error::InvalidArgument)?;
    for levels in [&policy.levels, &policy.quota_levels] {
        thresholds(levels, None).map_err(|error| Error::InvalidArgument(error.to_string()))?;
    }
    Ok(())
}

fn verify_pool(policy: &PoolPolicy) -> Result<()> {
    policy.verify().map_err(Error::InvalidArgument)?;
    let levels = thresholds(&policy.levels, policy.hysteresis_pct);
    levels.map_err(|error| Error::InvalidArgument(error.to_string()))?;
    horizons(policy).map(drop).map_err(|error| Error::InvalidArgument(error.to_string()))
}

impl<M: Machine> Pool<M> {
    /// What was decided for the pool.
    pub fn policy(&self) -> PoolPolicy {
        self.store.policy.borrow().clone()
    }

    /// Decides anew. Limits below what is in use are taken: nothing is lost, and nothing more is promised.
    ///
    /// # Errors
    /// As [`Pool::change_policy`].
    pub async fn set_policy(&self, policy: PoolPolicy) -> Result<()> {
        self.change_policy(|_| Ok(policy)).await
    }

    /// As [`Pool::set_policy`], given what is decided now: nothing else can happen in between.
    ///
    /// # Errors
    /// What `change` answers. `InvalidArgument`, `ReadOnly`, `Device`.
    pub async fn change_policy<E: From<Error>>(
        &self,
        change: impl FnOnce(PoolPolicy) -> Result<PoolPolicy, E>,
    ) -> Result<(), E> {
        let store = &self.store;
        store.writable()?;
        let mut permit = store.permit(Record::Policy(Box::default()).encoded_len()).await?;
        // No `await` from the look at the policy to the change.
        let policy = change(self.policy())?;
        verify_pool(&policy)?;
        *store.policy.borrow_mut() = policy.clone();
        store.journal.append(&mut permit, &[Record::Policy(Box::new(policy))]);
        drop(permit);
        store.watch_pool_anew();
        store.space.ledger.eased.notify();
        Ok(store.flush_journal().await?)
    }

    /// Says whether a policy makes sense.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn check_policy(policy: &PoolPolicy) -> Result<()> {
        verify_pool(policy)
    }

    /// Bytes of designated space that this policy would allow the pool to promise; `None` is as many as it likes.
    pub fn promises_max(&self, policy: &PoolPolicy) -> Option<u64> {
        self.store.promises_max_by(policy.overcommit_limit, 0)
    }

    /// Bounds what all vdisks of a tenant may use together: physical bytes, rounded down to extents; `None` is no bound. Not kept on the
    /// devices: who opens the pool says it again.
    pub fn set_tenant_quota(&self, tenant: &str, quota_bytes: Option<u64>) {
        let store = &self.store;
        let quota = quota_bytes.map_or(u64::MAX, |bytes| bytes / store.media.extent_bytes);
        store.space.ledger.tenant(tenant).quota.set(quota);
        store.watch_tenants();
        store.space.ledger.eased.notify();
    }

    /// Decides at which levels of a tenant's use against its quota something is told. Not kept on the devices either.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn set_tenant_levels(&self, tenant: &str, levels: Levels) -> Result<()> {
        Self::check_tenant_levels(&levels)?;
        let tenant = self.store.space.ledger.tenant(tenant);
        tenant.levels.replace(levels);
        self.store.watch_tenant_anew(&tenant);
        Ok(())
    }

    /// Says whether levels of a tenant make sense.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn check_tenant_levels(levels: &Levels) -> Result<()> {
        thresholds(levels, None).map(drop).map_err(|error| Error::InvalidArgument(error.to_string()))
    }

    /// Tenants that are named by a vdisk or have a quota, by name.
    pub fn tenants(&self) -> Vec<TenantInfo> {
        let extent = self.store.media.extent_bytes;
        let tenants = self.store.space.ledger.tenants();
        let info = tenants.iter().map(|tenant| TenantInfo {
            name: tenant.name.clone(),
            used_bytes: tenant.used.get() * extent,
            quota_bytes: Some(tenant.quota.get()).filter(|&quota| quota != u64::MAX).map(|quota| quota * extent),
            levels: tenant.levels.borrow().clone(),
        });
        info.collect()
    }
}
