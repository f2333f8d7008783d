//! `reclaim`: giving back what a vdisk stores and need not.

use std::time::Duration;

use plimsoll_engine::{Pool, ReclaimInfo, ReclaimSpec, VdiskInfo};
use plimsoll_hardware::{Handle, Machine};

use super::Node;
use super::pool_list::percent;
use crate::model::{BeginReclaim, JobView, Plan, RANGES_ADVICE, RANGES_MAX, ReclaimView, SetReclaim};
use crate::name::VdiskName;
use crate::policy::{RATE_BYTES_MAX, duration_text};
use crate::problem::{Answer, Problem};
use crate::reclaimable;
use crate::units::{counted, iec};

/// A reclaim's pace is a multiple of this.
const RATE_UNIT_BYTES: u64 = 1 << 20;

impl Node {
    /// Begins a reclaim.
    ///
    /// # Errors
    /// `not-found`, `busy` while one goes on, `conflict` when one is paused and this is not to begin anew, `invalid-argument` for ranges or
    /// a rate that make no sense, `too-large` for too many ranges.
    pub async fn begin_reclaim(&self, name: &VdiskName, request: BeginReclaim) -> Answer<JobView> {
        let (pool, info) = self.find_vdisk(name)?;
        self.refuse_to_reclaim(&pool.info().name, pool.info().uuid)?;
        let anew = request.anew;
        let spec = spec(request)?;
        // No `await` from the look to the beginning.
        none_under_way(&pool, &info.name, anew)?;
        let job = pool.reclaim(&info.name, spec).await?;
        tracing::info!(vdisk = info.name, job = job.id, "reclaim begun");
        Ok(super::jobs::view(&pool.info().name, &job))
    }

    /// What [`Node::begin_reclaim`] would do.
    ///
    /// # Errors
    /// As [`Node::begin_reclaim`].
    pub fn plan_begin_reclaim(&self, name: &VdiskName, request: BeginReclaim) -> Answer<Plan> {
        let (pool, info) = self.find_vdisk(name)?;
        self.refuse_to_reclaim(&pool.info().name, pool.info().uuid)?;
        let anew = request.anew;
        let spec = spec(request)?;
        pool.check_reclaim(&info.name, &spec)?;
        let before = none_under_way(&pool, &info.name, anew)?;
        let vdisk = format!("{}/{}", pool.info().name, info.name);
        let mut plan = Plan::of([]);
        if let Some(paused) = before {
            plan.steps.push(format!("give up the reclaim of {vdisk} that is paused, {}", progress(&paused)));
        }
        let (bytes, what) = match &spec.ranges {
            // Places that share an extent are looked through one by one.
            None => {
                (info.backed_bytes, format!("all that vdisk {vdisk} stores, in {} of space", iec(info.backed_bytes)))
            }
            Some(ranges) => {
                let bytes = ranges.iter().map(|(_, length)| length).sum();
                let count = counted(ranges.len() as u64, "range");
                (bytes, format!("{} of vdisk {vdisk} in {count}", iec(bytes)))
            }
        };
        let how = if spec.worthless { "give up what is stored in" } else { "look through" };
        let pace = match spec.rate {
            0 => String::new(),
            rate => {
                format!(" at {} a second, so {} at least", iec(rate), duration_text(Duration::from_secs(bytes / rate)))
            }
        };
        let all = spec.ranges.is_none();
        let expected = if all { expected(&pool.info().name, &info, self.machine().now()) } else { String::new() };
        plan.steps.push(format!("{how} {what}{pace}{expected}"));
        Ok(plan)
    }

    /// What [`Node::pause_reclaim`] would do.
    ///
    /// # Errors
    /// As there.
    pub fn plan_pause_reclaim(&self, name: &VdiskName, paused: bool) -> Answer<Plan> {
        let (pool, info) = self.find_vdisk(name)?;
        let known = pool.reclaim_info(&info.name)?;
        let fits = |known: &ReclaimInfo| if paused { known.running } else { known.paused };
        let vdisk = format!("{}/{}", pool.info().name, info.name);
        let under_way = known.as_ref().is_some_and(|known| known.running || known.paused);
        let known = known.filter(fits).ok_or_else(|| {
            let which = if paused { "running" } else { "paused" };
            let hint = match under_way {
                true => format!("plimsoll reclaim {vdisk} --show"),
                false => format!("plimsoll reclaim {vdisk}"),
            };
            Problem::new("not-found", format!("there is no {which} reclaim of {vdisk}")).hint(hint)
        })?;
        let word = if paused { "pause" } else { "resume" };
        Ok(Plan::of([format!("{word} the reclaim of {vdisk}, {}", progress(&known))]))
    }

    /// What [`Node::set_reclaim`] would do.
    ///
    /// # Errors
    /// As there.
    pub fn plan_set_reclaim(&self, name: &VdiskName, request: SetReclaim) -> Answer<Plan> {
        let mut plan = Plan::of([]);
        if let Some(rate) = request.rate_bytes {
            check_pace(rate)?;
            let (pool, info) = self.find_vdisk(name)?;
            let vdisk = format!("{}/{}", pool.info().name, info.name);
            let known = pool.reclaim_info(&info.name)?.filter(|known| known.running || known.paused);
            let known = known.ok_or_else(|| {
                Problem::new("not-found", format!("no reclaim of {vdisk} goes on or is paused"))
                    .hint(format!("plimsoll reclaim {vdisk} --rate SIZE"))
            })?;
            let (now, before) = (pace(rate), pace(known.rate));
            plan.steps.push(format!("have the reclaim of {vdisk} read {now} instead of {before}"));
        }
        if let Some(paused) = request.paused {
            plan.steps.extend(self.plan_pause_reclaim(name, paused)?.steps);
        }
        if plan.steps.is_empty() {
            return Err(Problem::new(
                "invalid-argument",
                "of a reclaim its pace can be changed, and whether it is paused",
            )
            .hint(format!("plimsoll reclaim {name} --pause | --resume | --rate SIZE")));
        }
        Ok(plan)
    }

    /// Changes a reclaim that goes on or is paused: its pace, then whether it waits.
    ///
    /// # Errors
    /// `not-found` for the vdisk, and when there is none to be changed so; `invalid-argument` for a pace that cannot be, and when nothing
    /// is to be changed.
    pub async fn set_reclaim(&self, name: &VdiskName, request: SetReclaim) -> Answer<ReclaimView> {
        self.plan_set_reclaim(name, request)?;
        let (pool, info) = self.find_vdisk(name)?;
        if let Some(rate) = request.rate_bytes {
            pool.set_reclaim_rate(&info.name, rate).await?;
        }
        match request.paused {
            Some(paused) => self.pause_reclaim(name, paused).await,
            None => self.reclaim(name),
        }
    }

    /// How the last reclaim of a vdisk stands.
    ///
    /// # Errors
    /// `not-found` for the vdisk, and when there was none since the pool was opened.
    pub fn reclaim(&self, name: &VdiskName) -> Answer<ReclaimView> {
        let (pool, info) = self.find_vdisk(name)?;
        let known = pool.reclaim_info(&info.name)?;
        let none = || {
            Problem::new("not-found", format!("nothing of {name} was reclaimed since its pool was opened"))
                .hint(format!("plimsoll reclaim {name}"))
        };
        Ok(view(&pool, &known.ok_or_else(none)?))
    }

    /// Makes a reclaim wait, or go on.
    ///
    /// # Errors
    /// `not-found` for the vdisk, and when there is none to pause or resume.
    pub async fn pause_reclaim(&self, name: &VdiskName, paused: bool) -> Answer<ReclaimView> {
        self.plan_pause_reclaim(name, paused)?;
        let (pool, info) = self.find_vdisk(name)?;
        match paused {
            true => drop(pool.pause_reclaim(&info.name).await?),
            false => drop(pool.resume_reclaim(&info.name).await?),
        }
        self.reclaim(name)
    }
}

/// What a reclaim of all of a vdisk would give up.
fn expected(pool: &str, vdisk: &VdiskInfo, now: Duration) -> String {
    let Some(found) = vdisk.reclaimable else {
        return format!("; how much of that need not be stored: {}", reclaimable::command(pool));
    };
    let bytes = found.zero_bytes + found.pattern_bytes;
    let mut text = format!(
        "; {}, {} of that need not be stored",
        reclaimable::as_of(&found, now),
        reclaimable::amount(bytes, found.margin_bytes)
    );
    if found.whole_bytes < bytes {
        let at_once = iec(found.whole_bytes);
        text += &format!(
            ", of which {at_once} come free at once, and the rest, zeros between data, as far as what it leaves can be put together \
             (plimsoll pool compact {pool})"
        );
    }
    text
}

/// Refuses to begin while a reclaim of the vdisk goes on, or is paused unless it is to be given up; answers that one.
fn none_under_way(pool: &Pool<Handle>, vdisk: &str, anew: bool) -> Answer<Option<ReclaimInfo>> {
    let Some(known) = pool.reclaim_info(vdisk)?.filter(|known| known.running || known.paused) else { return Ok(None) };
    let object = format!("{}/{vdisk}", pool.info().name);
    let (code, state, hint) = match (known.paused, anew) {
        (true, true) if !known.running => return Ok(Some(known)),
        (true, _) => (
            "conflict",
            "is paused",
            format!("plimsoll reclaim {object} --resume; or give it up: plimsoll reclaim {object} --anew"),
        ),
        (false, _) => {
            let change =
                format!("plimsoll reclaim {object} --pause; for another pace: plimsoll reclaim {object} --rate SIZE");
            ("busy", "goes on", format!("plimsoll reclaim {object} --show; {change}"))
        }
    };
    Err(Problem::new(code, format!("a reclaim of {object} {state}, {}", progress(&known))).hint(hint))
}

fn progress(known: &ReclaimInfo) -> String {
    format!("{} of {} done", iec(known.done_bytes), iec(known.total_bytes))
}

fn check_pace(rate: u64) -> Answer<()> {
    if rate <= RATE_BYTES_MAX && rate.is_multiple_of(RATE_UNIT_BYTES) {
        return Ok(());
    }
    let (rate, unit, most) = (iec(rate), iec(RATE_UNIT_BYTES), iec(RATE_BYTES_MAX));
    let detail = format!(
        "{rate} a second cannot be the pace of a reclaim: whole MiB from {unit} to {most} can, and none, no limit"
    );
    Err(Problem::new("invalid-argument", detail).hint("say --rate 200M"))
}

fn pace(rate: u64) -> String {
    if rate == 0 { "as fast as it goes".to_owned() } else { format!("at most {} a second", iec(rate)) }
}

fn spec(request: BeginReclaim) -> Answer<ReclaimSpec> {
    let rate = request.rate_bytes.unwrap_or(0);
    check_pace(rate)?;
    let count = request.ranges.as_ref().map_or(0, Vec::len);
    if count > RANGES_MAX {
        let detail = format!("{count} ranges are more than one reclaim takes, {RANGES_MAX}");
        return Err(Problem::new("too-large", detail).hint(RANGES_ADVICE));
    }
    let ranges = request.ranges.map(|ranges| {
        let ranges = ranges.into_iter();
        ranges.map(|range| (range.offset_bytes, range.length_bytes)).collect()
    });
    Ok(ReclaimSpec { ranges, worthless: request.worthless, rate })
}

fn view(pool: &Pool<Handle>, info: &ReclaimInfo) -> ReclaimView {
    let pool_name = pool.info().name;
    let name = format!("{pool_name}/{}", info.vdisk);
    let jobs = pool.jobs();
    let job = jobs.iter().rev().find(|job| job.kind == "reclaim" && job.object == name);
    ReclaimView {
        job: job.map(|job| super::jobs::view(&pool_name, job).id),
        name,
        running: info.running,
        paused: info.paused,
        rate_bytes: (info.rate > 0).then_some(info.rate),
        done_bytes: info.done_bytes,
        total_bytes: info.total_bytes,
        done_pct: percent(info.done_bytes, info.total_bytes),
        scanned_bytes: info.scanned_bytes,
        zero_bytes: info.zero_bytes,
        pattern_bytes: info.pattern_bytes,
        freed_bytes: info.freed_bytes,
    }
}
