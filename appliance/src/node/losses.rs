//! What a pool is served without, because somebody accepted that. The pool is whole again as far as its devices tell; so it is remembered
//! here, and stays a finding until a repair says that it was seen to.

use plimsoll_engine::{Pool, SpaceEvent};
use plimsoll_hardware::Handle;
use uuid::Uuid;

use super::Node;
use super::pool_open::Whole;
use super::state::LossRecord;
use crate::model::{FindingView, Health, HealthFinding};
use crate::problem::{Answer, Problem};

impl Node {
    /// Opens a pool on its devices. What of it is lost is remembered first: afterwards nothing shows it.
    ///
    /// # Errors
    /// The engine's reasons; `state-no-space`, `state-not-kept` when what is lost cannot be remembered.
    pub(super) async fn open_whole(&self, uuid: Uuid, whole: Whole, truncated: bool) -> Answer<Pool<Handle>> {
        let Whole { devices, lost, .. } = whole;
        let new: Vec<_> = lost.into_iter().map(|what| LossRecord { pool: uuid, what }).collect();
        let known = self.0.state.borrow().losses.clone();
        let new: Vec<_> = new.into_iter().filter(|loss| !known.contains(loss)).collect();
        if !new.is_empty() {
            self.remember(|state| state.losses.extend(new.iter().cloned())).await?;
        }
        // When that fails the ends may be written already, and then nothing else says that they were lost.
        Ok(self.open_on(devices, truncated).await?)
    }

    /// What of a pool is lost and nobody has seen to yet.
    pub(super) fn losses(&self, pool: Uuid) -> Vec<String> {
        let state = self.0.state.borrow();
        state.losses.iter().filter(|loss| loss.pool == pool).map(|loss| loss.what.clone()).collect()
    }

    /// Refuses to give up what reads as zeros where some of that may be what was lost.
    ///
    /// # Errors
    /// `conflict` until somebody has seen to it.
    pub(super) fn refuse_to_reclaim(&self, name: &str, pool: Uuid) -> Answer<()> {
        if self.losses(pool).is_empty() {
            return Ok(());
        }
        let detail = format!(
            "the end of a device of pool {name} was lost: a reclaim would take the zeros that read there now for what guests gave up, and \
             nothing would show any more what was lost"
        );
        Err(Problem::new("conflict", detail)
            .hint(format!("compare its vdisks with a backup; when that is done: plimsoll pool check {name} --repair")))
    }

    /// As findings of a check.
    pub(super) fn losses_found(&self, pool: Uuid) -> impl Iterator<Item = FindingView> {
        self.losses(pool).into_iter().map(|message| FindingView {
            kind: "end-lost".to_owned(),
            loss: true,
            healed: false,
            vdisk: None,
            offset_bytes: None,
            length_bytes: None,
            message,
        })
    }

    /// As findings of the status.
    pub(super) fn loss_findings(&self, name: &str, pool: Uuid) -> impl Iterator<Item = HealthFinding> {
        self.losses(pool).into_iter().map(move |what| {
            let (reason, advice) = what.split_once("; ").unwrap_or((&what, "compare its vdisks with a backup"));
            HealthFinding {
                health: Health::Critical,
                object: name.to_owned(),
                reason: format!("pool {name}: {reason}"),
                advice: format!("{advice}; when that is done: plimsoll pool check {name} --repair"),
            }
        })
    }

    /// What a repair says of them.
    pub(super) fn loss_steps(&self, pool: Uuid) -> impl Iterator<Item = String> {
        self.losses(pool).into_iter().map(|what| format!("say no more of this: {what}"))
    }

    /// Nothing more is to be said of them.
    pub(super) async fn forget_losses(&self, pool: Uuid) {
        if !self.losses(pool).is_empty() {
            // A finding until it is kept.
            let _ = self.note(|state| state.losses.retain(|loss| loss.pool != pool)).await;
        }
    }

    /// Somebody has seen to them, and that is told if they were.
    pub(super) async fn end_losses(&self, pool: &Pool<Handle>) {
        let uuid = pool.info().uuid;
        let lost = self.losses(uuid);
        self.forget_losses(uuid).await;
        // What else a check has found is told by the next one.
        let is_all = self.last_check(uuid).is_none_or(|found| found.findings == 0);
        if is_all && !lost.is_empty() && self.alarms(uuid).await.is_ok_and(|alarms| alarms.check_found.is_some()) {
            pool.raise(SpaceEvent::CheckFound { reason: lost.join("; "), loss: true, rising: false });
        }
    }
}
