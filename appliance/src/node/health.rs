//! What is wrong now, and what to do about it: `status` sums it up. Events tell when it began; here is what holds.

mod space;
mod webhooks;

use plimsoll_engine::{Level, Levels, Pool, PoolInfo, Thresholds};
use plimsoll_hardware::Handle;

use super::below::open_on_gone;
use super::{Node, Slot};
use crate::event::{CRITICAL_PCT, bring_back, replaced};
use crate::model::{Health, HealthFinding};
use crate::problem::Problem;
use crate::reclaimable;
use crate::units::{counted, iec};
#[cfg(test)]
pub(super) use space::SCARCE_BYTES;
pub use webhooks::failing_webhooks;

/// Vdisks of a pool that are named one by one.
const VDISKS_MAX: usize = 10;

impl Node {
    /// All that is wrong with pools and events.
    pub(super) fn findings(&self) -> Vec<HealthFinding> {
        let mut findings = Vec::new();
        for (name, slot) in &*self.0.pools.borrow() {
            match slot {
                Slot::Unavailable(reason) => findings.push(self.not_served(name, reason)),
                Slot::Open(pool) => findings.extend(self.of_pool(pool)),
            }
        }
        findings.extend(self.unkept_finding());
        findings.extend(self.events().warnings().iter().map(|warning| {
            let (reason, advice) = warning.split_once("; ").unwrap_or((warning, ""));
            let (object, reason, advice) = ("event log".to_owned(), reason.to_owned(), advice.to_owned());
            HealthFinding { health: Health::Warning, object, reason, advice }
        }));
        findings
    }

    fn of_pool(&self, pool: &Pool<Handle>) -> Vec<HealthFinding> {
        let info = pool.info();
        let name = &info.name;
        let about =
            |health, reason: String, advice: String| HealthFinding { health, object: name.clone(), reason, advice };
        let mut findings = Vec::new();
        if let Some(reason) = &info.read_only {
            let (reason, advice) = reason.rsplit_once("; ").unwrap_or((reason, ""));
            let again = format!("mend what failed, then open it again: plimsoll pool import --name {name}");
            let advice = if advice.is_empty() { again } else { advice.to_owned() };
            findings.push(about(Health::Critical, format!("pool {name} is read-only: {reason}"), advice));
        }
        let gone = self.0.files_gone.borrow().get(&info.uuid).cloned();
        findings.extend(gone.map(|gone| {
            let advice = "copy the vdisks out while they are served: plimsoll export list; move back what was moved";
            about(Health::Critical, open_on_gone(name, &gone), advice.to_owned())
        }));
        findings.extend(self.0.replaced.borrow().get(&info.uuid).map(|files| {
            let advice = format!("unless that was on purpose: {}", bring_back(name));
            about(Health::Warning, replaced(name, files), advice)
        }));
        findings.extend(self.astray(name).map(|(reason, advice)| about(Health::Warning, reason, advice)));
        let check = || format!("plimsoll pool check {name}");
        findings.extend(self.loss_findings(name, info.uuid));
        let damage = info.recovery.warnings.iter();
        findings.extend(damage.map(|warning| about(Health::Critical, warning.clone(), check())));
        let repaired = self.0.repaired.borrow().get(&info.uuid).copied().unwrap_or(0);
        let lost = info.counters.pages_lost.saturating_sub(repaired);
        if lost > 0 {
            let pages = counted(lost, "metadata page");
            let reason = format!("both copies of {pages} of pool {name} are lost, and what they named");
            findings.push(about(Health::Critical, reason, check()));
        }
        findings.extend(self.check_finding(name, info.uuid));
        findings.extend(fullness(&info).map(|(health, reason)| {
            let surveyed = pool.surveyed().filter(|_| self.losses(info.uuid).is_empty());
            let could = surveyed.and_then(|surveyed| reclaimable::could(name, &surveyed, info.physical_bytes));
            let reclaim = could.map(|could| format!("; {could}")).unwrap_or_default();
            let advice =
                format!("plimsoll pool add-device {name} --device PATH; plimsoll space --pool {name}{reclaim}");
            about(health, reason, advice)
        }));
        if let Some(reason) = self.growth_view(info.uuid).and_then(|growth| growth.impossible) {
            let advice = format!("plimsoll pool add-device {name} --device PATH");
            findings.push(about(Health::Warning, format!("pool {name} cannot grow by itself: {reason}"), advice));
        }
        findings.extend(space::findings(pool, &info, self.available_below(&info)));
        findings
    }

    fn not_served(&self, name: &str, problem: &Problem) -> HealthFinding {
        let reason = problem.detail.strip_prefix(&format!("pool {name}: ")).unwrap_or(&problem.detail);
        let known = self.0.state.borrow().pools.iter().any(|pool| pool.name == name) || self.configured(name).is_some();
        let again =
            if known { format!("plimsoll pool import --name {name}") } else { "plimsoll pool import PATH".to_owned() };
        HealthFinding {
            health: Health::Critical,
            object: name.to_owned(),
            reason: format!("pool {name} is not served: {reason}"),
            advice: problem.hint.clone().unwrap_or(again),
        }
    }

    /// A repair has seen to the metadata pages that were lost until now.
    pub(super) fn note_repaired(&self, pool: &Pool<Handle>) {
        let info = pool.info();
        self.0.repaired.borrow_mut().insert(info.uuid, info.counters.pages_lost);
    }

    /// Whether a pool of this name is here, or was: one that is only asked for leaves its name to who makes it.
    pub(super) fn is_taken(&self, name: &str) -> bool {
        matches!(self.0.pools.borrow().get(name), Some(Slot::Open(_)))
            || self.0.state.borrow().pools.iter().any(|pool| pool.name == name)
    }
}

/// Whether a pool is full, or has reached one of its levels.
fn fullness(info: &PoolInfo) -> Option<(Health, String)> {
    let (name, total) = (&info.name, info.physical_bytes);
    if info.available_bytes == 0 {
        let waiting = counted(info.held_writes, "waiting write");
        let reason = format!("pool {name} is full: nothing of {} is available, {waiting}", iec(total));
        return Some((Health::Critical, reason));
    }
    let used = total - info.available_bytes;
    let pct = |bytes: u64| 100.0 * bytes as f64 / total.max(1) as f64;
    let usual = Thresholds::default();
    let levels: &[Level] = match &info.policy.levels {
        Levels::Default => usual.levels(),
        Levels::Off => &[],
        Levels::At(levels) => levels,
    };
    let levels = levels.iter().map(|level| match level {
        Level::Percent(percent) => f64::from(*percent),
        Level::Bytes(bytes) => pct(*bytes),
    });
    let reached = levels.filter(|level| pct(used) >= *level).reduce(f64::max)?;
    let health = if reached >= CRITICAL_PCT { Health::Critical } else { Health::Warning };
    let left = iec(info.available_bytes);
    Some((
        health,
        format!("pool {name} is nearly full: {:.1} % are used, {left} of {} are left", pct(used), iec(total)),
    ))
}
