//! What must not be promised or given out beyond a limit, whoever writes, creates and decides at the same time: a tenant's quota, and the
//! overcommit limit of the pool. A vdisk's own quota and reservation are judged by [`super::decide`] and [`super::client`].

use plimsoll_engine::{DeviceState, PoolInfo};

use super::sector::Moment;
use super::session::Session;

/// What a tenant had when a write of one of its vdisks began.
pub struct Tenant {
    name: String,
    used: u64,
    quota: u64,
    /// Decisions until then.
    decisions: u64,
}

impl Tenant {
    /// That of a vdisk; `None` when it has none, or one without a quota, or with reservations, which are its own whatever the quota.
    pub fn of(session: &Session, vdisk: &str) -> Option<Self> {
        let name = session.vdisk(vdisk)?.info().policy.tenant?;
        let (used, quota) = figures(session, &name)?;
        Some(Self { name, used, quota, decisions: session.decisions.get() })
    }

    /// Whatever was written meanwhile, it has no more than it may, or than it had.
    ///
    /// # Panics
    /// It has.
    pub fn is_kept(&self, session: &Session) {
        let Some((used, quota)) = figures(session, &self.name) else { return };
        if session.decisions.get() != self.decisions || quota != self.quota {
            return;
        }
        session.did("quotas of tenants judged");
        assert!(
            used <= quota.max(self.used),
            "tenant {} has {used} bytes by a quota of {quota}, and had {}",
            self.name,
            self.used
        );
    }
}

/// Used, and its quota.
fn figures(session: &Session, tenant: &str) -> Option<(u64, u64)> {
    let reserves = |vdisk: &plimsoll_engine::VdiskInfo| {
        vdisk.policy.tenant.as_deref() == Some(tenant) && (vdisk.policy.reservation > 0 || vdisk.reserved_bytes > 0)
    };
    if session.pool.vdisks().iter().any(reserves) {
        return None;
    }
    let known = session.pool.tenants().into_iter().find(|known| known.name == tenant)?;
    Some((known.used_bytes, known.quota_bytes?))
}

/// What the pool was when something was asked for that promises more.
pub struct Overcommit {
    began: Moment,
    before: PoolInfo,
}

impl Overcommit {
    /// As it is now.
    pub fn now(session: &Session) -> Self {
        Self { began: session.state.borrow_mut().model.tick(), before: session.pool.info() }
    }

    /// It was granted: with it the pool promises no more than it may.
    ///
    /// # Panics
    /// It promises more.
    pub fn is_kept(&self, session: &Session) {
        let info = session.pool.info();
        let stays = |info: &PoolInfo| info.devices.iter().all(|device| device.state == DeviceState::InUse);
        let same = info.physical_bytes == self.before.physical_bytes && stays(&info) && stays(&self.before);
        if session.state.borrow().pool.since(self.began).is_none() || !same {
            return;
        }
        let Some(most) = info.designated_bytes_max else { return };
        session.did("overcommit limits judged");
        assert!(
            info.designated_bytes <= most,
            "{} bytes were promised by a limit of {most}: {info:?}",
            info.designated_bytes
        );
    }
}
