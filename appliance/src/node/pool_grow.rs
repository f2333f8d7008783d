//! `pool grow`: using what devices have become larger by.

use plimsoll_engine::{GrowthPlan, Pool};
use plimsoll_hardware::reactor::Handle;

use super::Node;
use crate::model::{GrowPool, Plan, PoolView};
use crate::problem::Answer;
use crate::units::iec;

impl Node {
    /// Grows a pool by what its devices, or the one that is named, have become larger by; nothing when none has.
    ///
    /// # Errors
    /// `not-found`, the engine's reasons.
    pub async fn grow_pool(&self, name: &str, request: GrowPool) -> Answer<PoolView> {
        let _turn = self.turn().await?;
        self.grow_in_turn(name, request).await
    }

    /// The same, by somebody who has the turn.
    pub(super) async fn grow_in_turn(&self, name: &str, request: GrowPool) -> Answer<PoolView> {
        let (pool, plans) = self.growth(name, &request)?;
        let mut gained = 0;
        for plan in plans.iter().filter(|plan| plan.gained_bytes > 0) {
            gained += pool.grow_device(plan.device).await?;
            tracing::info!(pool = name, path = plan.path, bytes = plan.found_bytes, "a device has grown");
        }
        if gained > 0 {
            tracing::info!(pool = name, gained, "the pool has grown");
        }
        self.pool_view(name)
    }

    /// What [`Node::grow_pool`] would do.
    ///
    /// # Errors
    /// As there.
    pub fn plan_grow_pool(&self, name: &str, request: &GrowPool) -> Answer<Plan> {
        let (pool, plans) = self.growth(name, request)?;
        let info = pool.info();
        let name = &info.name;
        let mut steps: Vec<String> = plans
            .iter()
            .filter(|plan| plan.gained_bytes > 0)
            .map(|plan| {
                let (from, to, more) = (iec(plan.size_bytes), iec(plan.found_bytes), iec(plan.gained_bytes));
                format!("use {} of {to} instead of {from}: {more} more for pool {name}", plan.path)
            })
            .collect();
        let gained: u64 = plans.iter().map(|plan| plan.gained_bytes).sum();
        if gained > 0 {
            let (before, after) = (iec(info.physical_bytes), iec(info.physical_bytes + gained));
            steps.push(format!("give pool {name} {after} instead of {before}"));
        }
        Ok(Plan::of(steps))
    }

    fn growth(&self, name: &str, request: &GrowPool) -> Answer<(Pool<Handle>, Vec<GrowthPlan>)> {
        let only = request.device.as_ref().map(|device| self.member(name, device)).transpose()?;
        let pool = self.pool(name)?;
        let mut plans = pool.growth_plans()?;
        plans.retain(|plan| only.as_ref().is_none_or(|(_, device)| plan.device == *device));
        Ok((pool, plans))
    }
}
