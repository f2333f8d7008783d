//! Promises: whether a pool can make one, and putting it in force.

use plimsoll_hardware::Machine;

use crate::error::{Error, Result, iec};
use crate::format::{Entry, EntryState, OvercommitLimit};
use crate::space::{Account, Figure, Terms};
use crate::vdisk::{Store, VdiskCore};

impl<M: Machine> Store<M> {
    /// What an entry promises.
    pub(super) fn terms(&self, entry: &Entry) -> Terms {
        let extent_bytes = self.media.extent_bytes;
        if entry.state == EntryState::Deleting {
            return Terms { extent_bytes, ..Terms::default() };
        }
        Terms {
            reservation: entry.policy.reservation.div_ceil(extent_bytes),
            quota: entry.policy.quota.map(|quota| quota / extent_bytes),
            designated: entry.size,
            extent_bytes,
        }
    }

    /// Puts what a vdisk's entry says in force.
    pub(super) fn put_in_force(&self, vdisk: &VdiskCore) {
        let entry = vdisk.entry.borrow();
        let account = &vdisk.mapping.account;
        self.space.ledger.set_terms(account, self.terms(&entry), entry.policy.tenant.as_deref());
        drop(entry);
        self.space.note_filling();
        self.watch_vdisk_anew(vdisk);
    }

    /// Puts everything in force that was read and replayed.
    pub(super) fn open_ledger(&self) {
        let vdisks: Vec<_> = self.vdisks.borrow().values().cloned().collect();
        vdisks.iter().for_each(|vdisk| self.put_in_force(vdisk));
        let accounts = vdisks.iter().map(|vdisk| &*vdisk.mapping.account);
        self.space.ledger.recount(accounts, u64::MAX, &mut Figure::correct);
        self.space.ledger.eased.notify();
    }

    /// Refuses an entry that promises more than can be kept, or more than is allowed: what the vdisk has been promised (`before`) it
    /// keeps whatever the limits are now.
    pub(super) fn check_promises(&self, vdisk: &VdiskCore, before: Option<&Entry>, entry: &Entry) -> Result<()> {
        let name = format!("{}/{}", self.identity.name, entry.name);
        if entry.size > before.map_or(0, |before| before.size) {
            self.check_overcommit(
                &format!("vdisk {name} of {}", iec(entry.size)),
                &vdisk.mapping.account,
                entry.size,
                before.is_none(),
            )?;
        }
        let extent_bytes = self.media.extent_bytes;
        let more = entry.policy.reservation > before.map_or(0, |before| before.policy.reservation);
        if more && entry.policy.reservation > entry.size.next_multiple_of(extent_bytes) {
            return Err(Error::InvalidArgument(format!(
                "vdisk {name} of {} cannot use a reservation of {}; reserve at most its size",
                iec(entry.size),
                iec(entry.policy.reservation)
            )));
        }
        self.check_tenant(vdisk, before, entry)?;
        if let Some(missing) = self.space.short_of(&vdisk.mapping.account, &self.terms(entry)) {
            let pool = &self.identity.name;
            return Err(Error::LimitExceeded {
                what: format!("a reservation of {} for vdisk {name}", iec(entry.policy.reservation)),
                limit: format!(
                    "what pool {pool} can still promise ({}, of which some must stay for metadata)",
                    iec(self.space.available() * extent_bytes)
                ),
                excess: missing * extent_bytes,
                advice: format!(
                    "reserve less, add a device (plimsoll pool add-device {pool} --device PATH), or lower the reservation of \
                     another vdisk"
                ),
            });
        }
        Ok(())
    }

    /// What is reserved for a vdisk of a tenant must be within the tenant's quota.
    fn check_tenant(&self, vdisk: &VdiskCore, before: Option<&Entry>, entry: &Entry) -> Result<()> {
        let Some(name) = &entry.policy.tenant else { return Ok(()) };
        let (extent_bytes, account) = (self.media.extent_bytes, &vdisk.mapping.account);
        let reservation = entry.policy.reservation.div_ceil(extent_bytes);
        let same = before.is_some_and(|before| before.policy.tenant == entry.policy.tenant);
        let more = !same || before.is_some_and(|before| entry.policy.reservation > before.policy.reservation);
        let tenant = self.space.ledger.tenant(name);
        let quota = tenant.quota.get();
        if quota == u64::MAX || reservation == 0 || !more {
            return Ok(());
        }
        let own = if same { account.in_use() + account.unfilled() } else { 0 };
        let promised = tenant.promised() - own;
        let excess = (promised + reservation.max(account.in_use())).saturating_sub(quota);
        if excess == 0 {
            return Ok(());
        }
        let pool = &self.identity.name;
        Err(Error::LimitExceeded {
            what: format!("a reservation of {} for vdisk {pool}/{}", iec(entry.policy.reservation), entry.name),
            limit: format!(
                "the quota of tenant {name} in pool {pool}: {}, of which {} are used or reserved by others",
                iec(quota * extent_bytes),
                iec(promised * extent_bytes)
            ),
            excess: excess * extent_bytes,
            advice: format!("reserve less, or raise the quota (plimsoll tenant set {name} --pool {pool} --quota SIZE)"),
        })
    }

    /// Bytes that the pool may promise; `None` is as many as it likes. `more`: vdisks beside those that there are.
    pub(super) fn promises_max(&self, more: u64) -> Option<u64> {
        self.promises_max_by(self.policy.borrow().overcommit_limit, more)
    }

    /// The same, if this were the limit.
    pub(super) fn promises_max_by(&self, limit: Option<OvercommitLimit>, more: u64) -> Option<u64> {
        let vdisks = self.vdisks.borrow().len() as u64 + more;
        limit.map(|limit| self.space.promises_max(limit, vdisks))
    }

    fn check_overcommit(&self, what: &str, account: &Account, designated: u64, is_new: bool) -> Result<()> {
        let limit = self.policy.borrow().overcommit_limit;
        let Some((limit, allowed)) = limit.zip(self.promises_max(u64::from(is_new))) else { return Ok(()) };
        let limit = match limit {
            OvercommitLimit::Bytes(bytes) => format!("{} of overcommit", iec(bytes)),
            OvercommitLimit::Ratio(ratio) => format!("an overcommit ratio of {}", ratio as f64 / 1000.0),
        };
        let physical = self.space.total() * self.media.extent_bytes;
        let promised = self.space.ledger.designated() - account.designated();
        let excess = promised.saturating_add(designated).saturating_sub(allowed);
        if excess == 0 {
            return Ok(());
        }
        let pool = &self.identity.name;
        Err(Error::LimitExceeded {
            what: what.to_owned(),
            limit: format!(
                "the limit of pool {pool}, {limit}: of its {}, less what metadata takes, it may promise {}, and {} of \
                 that are promised to others",
                iec(physical),
                iec(allowed),
                iec(promised)
            ),
            excess,
            advice: format!(
                "make it smaller, add a device (plimsoll pool add-device {pool} --device PATH), or raise the limit (plimsoll \
                 pool set {pool} --overcommit-limit LIMIT)"
            ),
        })
    }
}
