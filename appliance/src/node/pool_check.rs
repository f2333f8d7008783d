//! `pool check` and `pool repair`, as jobs: they read all metadata, which takes a while on a large pool.

use plimsoll_engine::{self as engine, Pool};
use plimsoll_hardware::reactor::Handle;
use tokio::sync::oneshot;

use super::Node;
use super::jobs::Outcome;
use crate::model::{CheckView, FindingView, JobView, RepairView};
use crate::problem::Answer;

impl Node {
    /// Starts a check.
    ///
    /// # Errors
    /// `not-found`, `unavailable`.
    pub fn check_pool(&self, name: &str) -> Answer<JobView> {
        Ok(self.start_check("check", &self.pool(name)?).0)
    }

    /// Checks a pool in a job of that kind; what is answered with it is closed when the job has ended.
    pub(super) fn start_check(&self, kind: &str, pool: &Pool<Handle>) -> (JobView, oneshot::Receiver<()>) {
        let (node, pool, name) = (self.clone(), pool.clone(), pool.info().name);
        let (running, ended) = oneshot::channel();
        let job = self.start_job(kind, &name.clone(), async move {
            let _running = running;
            let report = until_closed(&pool, pool.check()).await?;
            let mut check = check_view(&name, &report);
            node.note_checked(&pool, &check).await;
            check.findings.splice(0..0, node.losses_found(pool.info().uuid));
            check.clean = check.findings.is_empty();
            Ok(Outcome::Check(check))
        });
        (job, ended)
    }

    /// Starts a repair, or the planning of one.
    ///
    /// # Errors
    /// `not-found`, `unavailable`.
    pub fn repair_pool(&self, name: &str, plan_only: bool) -> Answer<JobView> {
        let pool = self.pool(name)?;
        let name = pool.info().name;
        let kind = if plan_only { "plan-repair" } else { "repair" };
        let node = self.clone();
        Ok(self.start_job(kind, &name.clone(), async move {
            let uuid = pool.info().uuid;
            let mut steps = match plan_only {
                true => until_closed(&pool, pool.repair_plan()).await?,
                // Not left half way: a close waits for it.
                false => pool.repair().await?,
            };
            steps.extend(node.loss_steps(uuid));
            if !plan_only {
                node.end_losses(&pool).await;
                node.note_repaired(&pool);
                // What was told of is over, or not.
                drop(node.start_check("audit", &pool));
            }
            Ok(Outcome::Repair(repair_view(&name, !plan_only, steps)))
        }))
    }
}

/// What a look at a pool comes to, unless it is closed before: whoever closes it waits for its devices.
async fn until_closed<T>(pool: &Pool<Handle>, look: impl Future<Output = engine::Result<T>>) -> engine::Result<T> {
    tokio::select! {
        found = look => found,
        () = pool.closed() => Err(engine::Error::Closing(pool.info().name)),
    }
}

/// A repair as the API shows it.
pub fn repair_view(pool: &str, done: bool, steps: Vec<String>) -> RepairView {
    RepairView { schema: "pool-repair/v1".to_owned(), pool: pool.to_owned(), done, steps }
}

/// A check as the API shows it.
pub fn check_view(pool: &str, report: &engine::CheckReport) -> CheckView {
    let finding = |finding: &engine::Finding| FindingView {
        kind: finding.kind.to_owned(),
        loss: finding.loss,
        healed: finding.healed,
        vdisk: finding.vdisk.clone(),
        offset_bytes: finding.offset,
        length_bytes: finding.length,
        message: finding.message.clone(),
    };
    CheckView {
        schema: "pool-check/v1".to_owned(),
        pool: pool.to_owned(),
        clean: report.clean(),
        findings: report.findings.iter().map(finding).collect(),
        pages_read: report.pages_read,
        extents_checked: report.extents_checked,
        vdisks_checked: report.vdisks_checked,
        filled_extents: report.filled_extents,
        leaked_extents: report.leaked_extents,
    }
}
