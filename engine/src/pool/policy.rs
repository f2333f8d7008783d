//! What an operator decides while the pool is open: for the pool, for a vdisk, for a tenant.

use plimsoll_hardware::Machine;

use super::Pool;
use crate::error::{Error, Result};
use crate::format::{Entry, EntryState, PoolPolicy, Record, VdiskPolicy};
use crate::vdisk::{VdiskInfo, horizons, thresholds};

/// A tenant: all vdisks that carry its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantInfo {
    /// Its name.
    pub name: String,
    /// Physical bytes behind its vdisks, and held by their writes under way.
    pub used_bytes: u64,
    /// Physical bytes that it may not exceed.
    pub quota_bytes: Option<u64>,
}

/// Refuses what makes no sense.
pub(super) fn verify(policy: &VdiskPolicy) -> Result<()> {
    policy.verify().map_err(Error::InvalidArgument)?;
    for levels in [&policy.levels, &policy.quota_levels] {
        thresholds(levels, None).map_err(|error| Error::InvalidArgument(error.to_string()))?;
    }
    Ok(())
}

impl<M: Machine> Pool<M> {
    /// What was decided for the pool.
    pub fn policy(&self) -> PoolPolicy {
        self.store.policy.borrow().clone()
    }

    /// Decides anew. Limits below what is in use are taken: nothing is lost, and nothing more is promised.
    ///
    /// # Errors
    /// `InvalidArgument`, `ReadOnly`, `Device`.
    pub async fn set_policy(&self, policy: PoolPolicy) -> Result<()> {
        let store = &self.store;
        policy.verify().map_err(Error::InvalidArgument)?;
        let levels = thresholds(&policy.levels, policy.hysteresis_pct);
        levels.map_err(|error| Error::InvalidArgument(error.to_string()))?;
        horizons(&policy).map_err(|error| Error::InvalidArgument(error.to_string()))?;
        store.writable()?;
        let record = Record::Policy(Box::new(policy.clone()));
        let permit = store.journal.reserve(record.encoded_len()).await;
        let mut permit = permit.map_err(|failure| store.journal_failed(failure))?;
        *store.policy.borrow_mut() = policy;
        store.journal.append(&mut permit, &[record]);
        drop(permit);
        store.watch_pool_anew();
        store.space.ledger.eased.notify();
        store.journal.flush().await.map_err(|failure| store.journal_failed(failure))
    }

    /// Decides anew for a vdisk.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument`, `LimitExceeded` when its reservation cannot be promised, `ReadOnly`, `Device`.
    pub async fn set_vdisk_policy(&self, name: &str, policy: VdiskPolicy) -> Result<VdiskInfo> {
        let store = &self.store;
        let vdisk = self.find(name)?;
        verify(&policy)?;
        let changed = store.put_entry(&vdisk, |entry| {
            store.still_there(&vdisk)?;
            let before = entry.clone();
            let entry = Entry { policy, ..entry };
            if entry.state != EntryState::Deleting {
                store.check_promises(&vdisk, Some(&before), &entry)?;
            }
            Ok(entry)
        });
        changed.await?;
        store.holds.look_again();
        Ok(vdisk.info(store.media.extent_bytes))
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

    /// Tenants that are named by a vdisk or have a quota, by name.
    pub fn tenants(&self) -> Vec<TenantInfo> {
        let extent = self.store.media.extent_bytes;
        let tenants = self.store.space.ledger.tenants();
        let info = tenants.iter().map(|tenant| TenantInfo {
            name: tenant.name.clone(),
            used_bytes: tenant.used.get() * extent,
            quota_bytes: Some(tenant.quota.get()).filter(|&quota| quota != u64::MAX).map(|quota| quota * extent),
        });
        info.collect()
    }
}
