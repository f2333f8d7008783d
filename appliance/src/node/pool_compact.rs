//! `pool compact`: putting thinly used extents together.

use plimsoll_engine::Surveyed;
use plimsoll_hardware::Machine;

use super::Node;
use crate::model::{JobView, Plan};
use crate::problem::Answer;
use crate::reclaimable::{as_of, between_data, command};
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
    /// As [`Node::compact_pool`].
    pub fn plan_compact_pool(&self, name: &str) -> Answer<Plan> {
        let pool = self.writable_pool(name)?;
        let (info, vdisks) = (pool.info(), pool.vdisks().len() as u64);
        let frees = match pool.surveyed() {
            Some(Surveyed { total, .. }) => {
                let mut text =
                    format!("{}, {} would come free", as_of(&total, self.machine().now()), iec(total.packable_bytes));
                if between_data(&total) > 0 {
                    let between = iec(between_data(&total));
                    text += &format!("; {between} of zeros between data may as well, once they are reclaimed");
                }
                text
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
