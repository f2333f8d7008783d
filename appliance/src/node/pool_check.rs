//! `pool check` and `pool repair`, as jobs: they read all metadata, which takes a while on a large pool.

use plimsoll_engine as engine;

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
        let pool = self.pool(name)?;
        let name = pool.info().name;
        Ok(self.start_job("check", &name.clone(), async move {
            let report = pool.check().await?;
            Ok(Outcome::Check(check_view(&name, &report)))
        }))
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
            let steps = if plan_only { pool.repair_plan().await? } else { pool.repair().await? };
            if !plan_only {
                node.note_repaired(&pool);
            }
            Ok(Outcome::Repair(repair_view(&name, !plan_only, steps)))
        }))
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
