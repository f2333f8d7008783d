//! `pool survey`: finding out what space could come back.

use super::Node;
use crate::model::{JobView, Plan};
use crate::problem::Answer;
use crate::units::{counted, iec};

impl Node {
    /// Begins to look for what could come back of a pool's space; the job that is under way, if there is one.
    ///
    /// # Errors
    /// `not-found`, the engine's reasons.
    pub fn survey_pool(&self, name: &str) -> Answer<JobView> {
        let pool = self.pool(name)?;
        let job = pool.survey()?;
        tracing::info!(pool = name, "what could come back is looked for");
        Ok(super::jobs::view(&pool.info().name, &job))
    }

    /// What [`Node::survey_pool`] would do.
    ///
    /// # Errors
    /// As [`Node::survey_pool`].
    pub fn plan_survey_pool(&self, name: &str) -> Answer<Plan> {
        let pool = self.writable_pool(name)?;
        let (info, vdisks) = (pool.info(), pool.vdisks().len() as u64);
        Ok(Plan::of([format!(
            "go through the mapping of {} of pool {} and read a sample of the {} that they have; nothing is changed",
            counted(vdisks, "vdisk"),
            info.name,
            iec(info.utilized_bytes),
        )]))
    }
}
