//! The audit: every pool that is served is checked from time to time, so that damage, and figures that the mapping does not bear out, are
//! found while there is a second copy, and not when somebody asks.
//!
//! An audit is the check that `pool check` makes, as a job of its own kind. What any of them finds is remembered until the next one.

use std::cell::Cell;
use std::time::Duration;

use plimsoll_engine::{Pool, SpaceEvent};
use plimsoll_hardware::Machine as _;
use plimsoll_hardware::reactor::Handle;
use uuid::Uuid;

use super::Node;
use crate::model::{CheckView, Health, HealthFinding, LastCheckView, time_of};
use crate::units::counted;

/// Between two audits, unless the configuration says otherwise: a day. One reads each metadata page twice, 0.03 % of what is stored.
const EVERY_DEFAULT: Duration = Duration::from_secs(86_400);
/// After a pool was opened: not while everybody connects again.
const FIRST: Duration = Duration::from_secs(600);

/// When pools are audited: so long between two; `None`, never.
pub(super) struct Audits(Cell<Option<Duration>>);

impl Default for Audits {
    fn default() -> Self {
        Self(Cell::new(Some(EVERY_DEFAULT)))
    }
}

impl Node {
    /// How much time is between two audits of a pool that is opened from now on; none, it has none.
    pub fn set_audit_every(&self, every: Option<Duration>) {
        self.0.audits.0.set(every);
    }

    /// Audits a pool as long as it is open.
    pub(super) fn follow_audits(&self, pool: &Pool<Handle>) {
        let (node, pool, every) = (self.clone(), pool.clone(), self.0.audits.0.get());
        self.spawn_while_open(&pool.clone(), async move {
            // What was found in an earlier life is a finding of this one until it is not found any more.
            let is_told = async || node.alarms(pool.info().uuid).await.is_ok_and(|alarms| alarms.check_found.is_some());
            if !pool.info().recovery.healed.is_empty() || is_told().await {
                node.audited(&pool).await;
            }
            let Some(every) = every else { return };
            let mut rest = FIRST.min(every);
            loop {
                node.machine().sleep(rest).await;
                node.audited(&pool).await;
                rest = every;
            }
        });
    }

    async fn audited(&self, pool: &Pool<Handle>) {
        // A job that failed says so itself.
        let _ = self.start_check("audit", pool).1.await;
    }

    /// Remembers what opening a pool has healed, until a check finds it no more, and tells it.
    pub(super) fn note_healed(&self, pool: &Pool<Handle>) {
        let info = pool.info();
        let Some(first) = info.recovery.healed.first().filter(|_| self.losses(info.uuid).is_empty()) else { return };
        let found = LastCheckView {
            ended_at: time_of(self.machine().wall_clock_ms()),
            findings: info.recovery.healed.len() as u64,
            loss: false,
            healed: true,
            first: Some(first.clone()),
            at_start: true,
        };
        if let Some(reason) = told(&found) {
            pool.raise(SpaceEvent::CheckFound { reason, loss: false, rising: true });
        }
        self.0.checked.borrow_mut().insert(info.uuid, found);
    }

    /// Remembers what a check found, and tells it once.
    pub(super) async fn note_checked(&self, pool: &Pool<Handle>, check: &CheckView) {
        let uuid = pool.info().uuid;
        let found = LastCheckView {
            ended_at: time_of(self.machine().wall_clock_ms()),
            findings: check.findings.len() as u64,
            loss: check.findings.iter().any(|finding| finding.loss),
            healed: !check.findings.is_empty() && check.findings.iter().all(|finding| finding.healed),
            first: check.findings.first().map(|finding| finding.message.clone()),
            at_start: false,
        };
        let before = self.0.checked.borrow_mut().insert(uuid, found.clone());
        let reason = told(&found);
        if let Some(reason) = &reason {
            tracing::error!(pool = check.pool, reason, "a check found what is not as it should be");
        }
        // The log keeps what is told a moment later than it is told.
        let before = match before {
            Some(before) => told(&before),
            None => match self.alarms(uuid).await {
                Ok(alarms) => alarms.check_found,
                Err(problem) => {
                    return tracing::error!(pool = check.pool, reason = problem.detail, "what was told is not known");
                }
            },
        };
        // That an end was lost is told until that was seen to, whatever a check finds of the rest.
        let stays = reason.is_none() && !self.losses(uuid).is_empty();
        if before != reason && !stays {
            let (rising, loss) = (reason.is_some(), found.loss);
            pool.raise(SpaceEvent::CheckFound { reason: reason.or(before).unwrap_or_default(), loss, rising });
        }
    }

    /// What the last check of a pool found, since the daemon began.
    pub(super) fn last_check(&self, pool: Uuid) -> Option<LastCheckView> {
        self.0.checked.borrow().get(&pool).cloned()
    }

    pub(super) fn check_finding(&self, pool: &str, uuid: Uuid) -> Option<HealthFinding> {
        let found = self.last_check(uuid)?;
        let reason = format!("pool {pool}: {}", told(&found)?);
        let check = format!("plimsoll pool check {pool}");
        let (health, advice) = match (found.loss, found.healed) {
            (true, _) => (Health::Critical, check + " --repair --dry-run"),
            (false, true) => (Health::Ok, check),
            (false, false) => (Health::Warning, check + " --repair --dry-run"),
        };
        Some(HealthFinding { health, object: pool.to_owned(), reason, advice })
    }
}

/// What a check found, in words.
fn told(found: &LastCheckView) -> Option<String> {
    let healed = match (found.healed, found.findings) {
        (false, _) => "",
        (true, 1) => " and healed it",
        (true, _) => " and healed them",
    };
    let who = if found.at_start { "the start" } else { "the check" };
    let first = if found.findings > 1 { ", first" } else { "" };
    Some(format!("{who} found {}{healed}{first}: {}", counted(found.findings, "thing"), found.first.as_ref()?))
}
