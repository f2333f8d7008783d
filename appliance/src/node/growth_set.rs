//! `pool set`, as far as it says how a pool grows by itself.

use super::Node;
use super::machine::absolute;
use super::state::GrowthRecord;
use crate::model::GrowthPolicy;
use crate::problem::{Answer, Problem};
use crate::units::iec;

impl Node {
    /// Decides anew how a pool grows by itself; `None` ends it.
    ///
    /// # Errors
    /// `not-found`, `invalid-argument` by what is wrong with the policy.
    pub(super) async fn set_growth(&self, name: &str, growth: Option<GrowthPolicy>) -> Answer<()> {
        let _turn = self.0.changes.lock().await;
        let info = self.pool(name)?.info();
        let policy = growth.map(|policy| self.checked(&info.name, policy)).transpose()?;
        self.remember(|state| {
            state.growth.retain(|known| known.pool != info.uuid);
            state.growth.extend(policy.map(|policy| GrowthRecord { pool: info.uuid, policy }));
        })
        .await?;
        self.0.growing.borrow_mut().entry(info.uuid).or_default().impossible = None;
        self.wake_growth();
        Ok(())
    }

    /// What [`Node::set_growth`] would do.
    ///
    /// # Errors
    /// As there.
    pub(super) fn plan_set_growth(&self, name: &str, growth: Option<GrowthPolicy>) -> Answer<Vec<String>> {
        let name = self.pool(name)?.info().name;
        let Some(policy) = growth else { return Ok(vec![format!("let pool {name} grow only when it is told to")]) };
        let policy = self.checked(&name, policy)?;
        let mut steps = vec![format!("grow pool {name} when {} % of it are used", policy.at_pct)];
        steps.extend(policy.spares.iter().map(|path| format!("then add {path}, which loses what is on it")));
        steps
            .extend(policy.grow_file_to_bytes.map(|bytes| format!("then enlarge its last file, up to {}", iec(bytes))));
        Ok(steps)
    }

    fn checked(&self, pool: &str, policy: GrowthPolicy) -> Answer<GrowthPolicy> {
        let refuse = |detail: String| Err(Problem::new("invalid-argument", detail).hint("plimsoll pool set --help"));
        if !(1..=99).contains(&policy.at_pct) {
            return refuse(format!("a pool cannot grow at {} %; 1 to 99 make sense", policy.at_pct));
        }
        if policy.spares.is_empty() && policy.grow_file_to_bytes.is_none() {
            return refuse(format!(
                "pool {pool} has nothing to grow by: neither a spare device nor a size of its file"
            ));
        }
        let spares: Vec<String> = policy.spares.iter().map(|path| absolute(path)).collect();
        if let Some(twice) = spares.iter().enumerate().find(|(index, path)| spares[..*index].contains(path)) {
            return refuse(format!("{} is named twice", twice.1));
        }
        if let Some((path, user)) = spares.iter().find_map(|path| self.pool_on(path).map(|user| (path, user))) {
            return Err(Problem::new("in-use", format!("{path} is a device of pool {user}"))
                .hint(format!("plimsoll pool show {user}")));
        }
        Ok(GrowthPolicy { spares, ..policy })
    }
}
