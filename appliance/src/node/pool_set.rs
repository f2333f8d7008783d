//! `pool set`: what is decided for a pool.

use plimsoll_engine::{Pool, PoolPolicy};
use plimsoll_hardware::Handle;

use super::Node;
use crate::model::{GrowthChange, GrowthPolicy, Plan, PoolView, SetPool};
use crate::policy;
use crate::problem::{Answer, Problem};

impl Node {
    /// Decides anew for a pool; what is absent stays as it is. Either all of it is in force, or nothing.
    ///
    /// # Errors
    /// `not-found`, `unavailable`, `invalid-argument`, `state-no-space` and `state-not-kept` when it cannot be remembered, and the
    /// pool's reasons.
    pub async fn set_pool(&self, name: &str, request: SetPool) -> Answer<PoolView> {
        // In turn, so that what is checked here still holds when it is put in force.
        let _turn = self.turn().await?;
        let pool = self.pool(name)?;
        let before = pool.policy();
        let decided = decided_for(&pool, &request)?;
        let growth = match &request.growth {
            Some(change) => Some(self.check_growth(&pool, self.growth_of(&pool, change.clone())?).await?),
            None => None,
        };
        if decided != before {
            pool.change_policy(|now| policy_of(now, &request)).await?;
            tracing::info!(pool = pool.info().name, "the pool's policy was changed");
        }
        if let Some(growth) = growth
            && let Err(problem) = self.set_growth(pool.info().uuid, growth).await
        {
            if decided != before
                && let Err(error) = pool.set_policy(before).await
            {
                tracing::error!(pool = pool.info().name, %error, "a policy stays in force although it was refused");
            }
            return Err(problem);
        }
        self.pool_view(name)
    }

    /// What [`Node::set_pool`] would do.
    ///
    /// # Errors
    /// As [`Node::set_pool`].
    pub async fn plan_set_pool(&self, name: &str, request: SetPool) -> Answer<Plan> {
        let pool = self.pool(name)?;
        let decided = decided_for(&pool, &request)?;
        let mut plan = Plan::of([]);
        if decided != pool.policy() {
            let info = pool.info();
            plan.steps.push(format!("change the policy of pool {}", info.name));
            let limit = policy::overcommit_limit_text(decided.overcommit_limit);
            let allowed = pool.promises_max(&decided).filter(|_| request.overcommit_limit.is_some());
            let beyond = allowed.and_then(|max| policy::over_promised(&info.name, info.designated_bytes, max, &limit));
            plan.steps.extend(beyond.map(|beyond| format!("go on although {beyond}")));
        }
        if let Some(change) = request.growth {
            let growth = self.growth_of(&pool, change)?;
            plan.steps.extend(self.plan_growth(&pool, growth).await?);
        }
        Ok(plan)
    }

    /// The growth that a change comes to: of what it does not name, what is in force.
    fn growth_of(&self, pool: &Pool<Handle>, change: Option<GrowthChange>) -> Answer<Option<GrowthPolicy>> {
        let Some(change) = change else { return Ok(None) };
        let info = pool.info();
        let policy = change.merged(self.growth_policy(info.uuid)).ok_or_else(|| {
            let detail = format!("pool {} does not grow by itself yet, and nothing says when it is to", info.name);
            Problem::new("invalid-argument", detail).hint(format!(
                "plimsoll pool set {} --auto-grow-at 85% --spare PATH, or --grow-file-to SIZE",
                info.name
            ))
        })?;
        Ok(Some(policy))
    }
}

fn decided_for(pool: &Pool<Handle>, request: &SetPool) -> Answer<PoolPolicy> {
    let decided = policy_of(pool.policy(), request)?;
    Pool::<Handle>::check_policy(&decided)?;
    Ok(decided)
}

fn policy_of(before: PoolPolicy, change: &SetPool) -> Answer<PoolPolicy> {
    let limit = change.overcommit_limit.as_deref();
    let horizons = change.horizons.as_deref();
    Ok(PoolPolicy {
        overcommit_limit: limit.map_or(Ok(before.overcommit_limit), policy::overcommit_limit)?,
        levels: change.thresholds.as_deref().map_or(Ok(before.levels), policy::levels)?,
        hysteresis_pct: change.hysteresis_pct.or(before.hysteresis_pct),
        horizons: horizons.map_or(Ok(before.horizons), policy::horizons)?,
        hold_bytes: change.hold_bytes_max.map_or(before.hold_bytes, |bytes| (bytes > 0).then_some(bytes)),
    })
}
