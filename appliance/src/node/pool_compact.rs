//! `pool compact`: putting thinly used extents together.

use plimsoll_hardware::Machine;

use super::Node;
use crate::model::{JobView, Plan};
use crate::problem::Answer;
use crate::reclaimable::{as_of, command};
use crate::units::{counted, iec};

impl Node {
    /// Begins to put thinly used extents of a pool together; the job that is under way, if there is one.
    ///
    /// # Errors
    /// `not-found`, the engine's reasons.
    pub fn compact_pool(&self, name: &str) -> Answer<JobView> {
        let pool = self.pool(name)?;
        let job = pool.compact()?;
        tracing::info!(pool = name, "thinly used extents are put together");
        Ok(super::jobs::view(&pool.info().name, &job))
    }

    /// What [`Node::compact_pool`] would do. What it would free is known when there was a survey.
    ///
    /// # Errors
    /// `not-found`.
    pub fn plan_compact_pool(&self, name: &str) -> Answer<Plan> {
        let pool = self.pool(name)?;
        let (info, vdisks) = (pool.info(), pool.vdisks().len() as u64);
        let frees = match pool.surveyed() {
            Some(surveyed) => {
                format!(
                    "{}, {} would come free",
                    as_of(&surveyed.total, self.machine().now()),
                    iec(surveyed.total.packable_bytes)
                )
            }
            None => format!("how much would come free: {}", command(&info.name)),
        };
        Ok(Plan::of([format!(
            "look through the {} that {} of pool {} have, and put thinly used extents together; {} are available now; {frees}",
            iec(info.utilized_bytes),
            counted(vdisks, "vdisk"),
            info.name,
            iec(info.available_bytes)
        )]))
    }
}
