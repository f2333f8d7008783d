//! `pattern list`, `show`, `add`, `set`, `remove`.

use plimsoll_engine::{self as engine, PatternInfo, PatternSpec};

use super::Node;
use crate::model::{AddPattern, PatternUse, PatternView, Plan, time_of};
use crate::problem::{Answer, Problem};
use crate::units::counted;

impl Node {
    /// The patterns of a pool.
    ///
    /// # Errors
    /// `not-found`, `unavailable` for the pool.
    pub fn patterns(&self, pool: &str) -> Answer<Vec<PatternView>> {
        let pool = self.pool(pool)?;
        let name = pool.info().name;
        Ok(pool.patterns().iter().map(|pattern| view(&name, pattern)).collect())
    }

    /// One pattern.
    ///
    /// # Errors
    /// `not-found`, `unavailable`.
    pub fn pattern(&self, pool: &str, number: u16) -> Answer<PatternView> {
        let pool = self.pool(pool)?;
        Ok(view(&pool.info().name, &pool.pattern(number)?))
    }

    /// Adds a pattern.
    ///
    /// # Errors
    /// `invalid-argument` for a unit that cannot be one, `exists`.
    pub async fn add_pattern(&self, pool: &str, request: AddPattern) -> Answer<PatternView> {
        let pool = self.pool(pool)?;
        let name = pool.info().name;
        let added = pool.add_pattern(spec(&name, &request)?, used(request.used)).await;
        let view = view(&name, &added.map_err(|error| refused(&name, error))?);
        tracing::info!(pattern = view.name, bytes = view.unit_bytes, "pattern added");
        Ok(view)
    }

    /// What [`Node::add_pattern`] would do.
    ///
    /// # Errors
    /// As [`Node::add_pattern`], as far as that can be known.
    pub fn plan_add_pattern(&self, pool: &str, request: &AddPattern) -> Answer<Plan> {
        let pool = self.pool(pool)?;
        let (name, known) = (pool.info().name, pool.patterns().len() as u64);
        let what = match spec(&name, request)? {
            PatternSpec::Random => "64 random bytes".to_owned(),
            PatternSpec::Unit(unit) => {
                pool.check_pattern(&unit).map_err(|error| refused(&name, error))?;
                let repeats = |known: &&PatternInfo| unit.chunks(known.unit.len()).all(|chunk| chunk == known.unit);
                if let Some(known) = pool.patterns().iter().find(repeats) {
                    let known = format!("{} of pool {name}", known.number);
                    return Err(refused(&name, engine::Error::Exists { kind: "pattern", name: known }));
                }
                counted(unit.len() as u64, "byte")
            }
        };
        let used = words(request.used);
        Ok(Plan::of([format!(
            "add a pattern of {what}, {used}, to pool {name}, which has {}",
            counted(known, "pattern")
        )]))
    }

    /// What [`Node::set_pattern`] would do.
    ///
    /// # Errors
    /// `not-found`.
    pub fn plan_set_pattern(&self, pool: &str, number: u16, now: PatternUse) -> Answer<Plan> {
        let pattern = self.pattern(pool, number)?;
        if pattern.used == now {
            return Ok(Plan::of([]));
        }
        let (before, after) = (words(pattern.used), words(now));
        Ok(Plan::of([format!(
            "have pattern {} {after} instead of {before}; what is stored by it reads as ever",
            pattern.name
        )]))
    }

    /// What [`Node::remove_pattern`] would do.
    ///
    /// # Errors
    /// `not-found`, `busy` when it is not disabled, or a vdisk's own. Whether anything is stored by it is known only when all of the mapping is read.
    pub fn plan_remove_pattern(&self, pool: &str, number: u16) -> Answer<Plan> {
        let pattern = self.pattern(pool, number)?;
        if pattern.used != PatternUse::Disabled {
            let detail = format!("pattern {} is {}, not disabled", pattern.name, words(pattern.used));
            return Err(Problem::new("busy", detail).hint(format!("plimsoll pattern disable {pool} {number}")));
        }
        if let Some(vdisk) = pattern.vdisks.first() {
            let detail = format!("pattern {} is {vdisk}'s own", pattern.name);
            return Err(Problem::new("busy", detail).hint(format!("plimsoll vdisk set {vdisk} --pattern none")));
        }
        let unit = counted(pattern.unit_bytes, "byte");
        Ok(Plan::of([format!("remove pattern {} of {unit}, if nothing is stored by it", pattern.name)]))
    }

    /// Changes what a pattern is matched against.
    ///
    /// # Errors
    /// `not-found`.
    pub async fn set_pattern(&self, pool: &str, number: u16, now: PatternUse) -> Answer<PatternView> {
        let pool = self.pool(pool)?;
        let changed = pool.set_pattern(number, used(now)).await?;
        let view = view(&pool.info().name, &changed);
        tracing::info!(pattern = view.name, used = ?view.used, "pattern changed");
        Ok(view)
    }

    /// Removes a pattern that nothing is stored by.
    ///
    /// # Errors
    /// `not-found`, `busy` with where it is in use.
    pub async fn remove_pattern(&self, pool: &str, number: u16) -> Answer<()> {
        let pool = self.pool(pool)?;
        pool.remove_pattern(number).await?;
        tracing::info!(pool = pool.info().name, number, "pattern removed");
        Ok(())
    }
}

fn words(used: PatternUse) -> &'static str {
    match used {
        PatternUse::Everywhere => "matched everywhere",
        PatternUse::OwnOnly => "matched for vdisks whose own it is",
        PatternUse::Disabled => "disabled",
    }
}

fn used(used: PatternUse) -> engine::PatternUse {
    match used {
        PatternUse::Everywhere => engine::PatternUse::Everywhere,
        PatternUse::OwnOnly => engine::PatternUse::OwnOnly,
        PatternUse::Disabled => engine::PatternUse::Disabled,
    }
}

/// What can be said instead of a unit that was refused.
fn example(pool: &str) -> String {
    format!("plimsoll pattern add {pool} --text PLIMSOLL | --hex DIGITS | --file FILE | --random")
}

/// Why the engine refused a pattern, with a command of ours.
fn refused(pool: &str, error: engine::Error) -> Problem {
    let is_there = matches!(error, engine::Error::Exists { .. });
    let problem = Problem::from(error);
    match &problem.hint {
        _ if is_there => problem.hint(format!("plimsoll pattern list {pool}")),
        Some(advice) if advice.contains("plimsoll") => problem,
        Some(advice) => {
            let hint = format!("{advice}: {}", example(pool));
            problem.hint(hint)
        }
        None if problem.code == "invalid-argument" => problem.hint(example(pool)),
        None => problem,
    }
}

fn spec(pool: &str, request: &AddPattern) -> Answer<PatternSpec> {
    match (&request.unit_hex, request.random) {
        (None, true) => Ok(PatternSpec::Random),
        (Some(digits), false) => match bytes_of(digits) {
            Some(unit) => Ok(PatternSpec::Unit(unit)),
            None => {
                let detail = "the unit is not an even number of hexadecimal digits, two for each byte";
                Err(Problem::new("invalid-argument", detail).hint(example(pool)))
            }
        },
        _ => Err(Problem::new("invalid-argument", "a pattern has either a unit or is random").hint(example(pool))),
    }
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).ok();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn view(pool: &str, pattern: &PatternInfo) -> PatternView {
    PatternView {
        name: format!("{pool}/{}", pattern.number),
        pool: pool.to_owned(),
        number: pattern.number,
        used: match pattern.used {
            engine::PatternUse::Everywhere => PatternUse::Everywhere,
            engine::PatternUse::OwnOnly => PatternUse::OwnOnly,
            engine::PatternUse::Disabled => PatternUse::Disabled,
        },
        unit_bytes: pattern.unit.len() as u64,
        unit_hex: pattern.unit.iter().map(|byte| format!("{byte:02x}")).collect(),
        vdisks: pattern.vdisks.iter().map(|vdisk| format!("{pool}/{vdisk}")).collect(),
        created_at: time_of(pattern.created_ms),
    }
}
