//! `reclaim`: giving back what a vdisk stores and need not.

use plimsoll_engine::{ReclaimInfo, ReclaimSpec};

use super::Node;
use super::pool_list::percent;
use crate::model::{BeginReclaim, JobView, Plan, RANGES_ADVICE, RANGES_MAX, ReclaimView};
use crate::name::VdiskName;
use crate::problem::{Answer, Problem};
use crate::units::iec;

impl Node {
    /// Begins a reclaim.
    ///
    /// # Errors
    /// `not-found`, `busy` while one goes on, `invalid-argument` for ranges that make no sense, `too-large` for too many.
    pub async fn begin_reclaim(&self, name: &VdiskName, request: BeginReclaim) -> Answer<JobView> {
        let (pool, info) = self.find_vdisk(name)?;
        let job = pool.reclaim(&info.name, spec(request)?).await?;
        tracing::info!(vdisk = info.name, job = job.id, "reclaim begun");
        Ok(super::jobs::view(&pool.info().name, &job))
    }

    /// What [`Node::begin_reclaim`] would do.
    ///
    /// # Errors
    /// As [`Node::begin_reclaim`].
    pub fn plan_begin_reclaim(&self, name: &VdiskName, request: BeginReclaim) -> Answer<Plan> {
        let (pool, info) = self.find_vdisk(name)?;
        let spec = spec(request)?;
        pool.check_reclaim(&info.name, &spec)?;
        let vdisk = format!("{}/{}", pool.info().name, info.name);
        let what = match &spec.ranges {
            None => format!("look through the {} that vdisk {vdisk} stores", iec(info.backed_bytes)),
            Some(ranges) => {
                let bytes = iec(ranges.iter().map(|(_, length)| length).sum());
                let how = if spec.worthless { "give up what is stored in" } else { "look through" };
                format!("{how} {bytes} of vdisk {vdisk} in {} ranges", ranges.len())
            }
        };
        Ok(Plan::of([what]))
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
        Ok(view(&pool.info().name, &known.ok_or_else(none)?))
    }

    /// Makes a reclaim wait, or go on.
    ///
    /// # Errors
    /// `not-found` for the vdisk, and when there is none to pause or resume.
    pub async fn pause_reclaim(&self, name: &VdiskName, paused: bool) -> Answer<ReclaimView> {
        let (pool, info) = self.find_vdisk(name)?;
        match paused {
            true => drop(pool.pause_reclaim(&info.name).await?),
            false => drop(pool.resume_reclaim(&info.name).await?),
        }
        self.reclaim(name)
    }
}

fn spec(request: BeginReclaim) -> Answer<ReclaimSpec> {
    let count = request.ranges.as_ref().map_or(0, Vec::len);
    if count > RANGES_MAX {
        let detail = format!("{count} ranges are more than one reclaim takes, {RANGES_MAX}");
        return Err(Problem::new("too-large", detail).hint(RANGES_ADVICE));
    }
    let ranges = request.ranges.map(|ranges| {
        let ranges = ranges.into_iter();
        ranges.map(|range| (range.offset_bytes, range.length_bytes)).collect()
    });
    Ok(ReclaimSpec { ranges, worthless: request.worthless, rate: request.rate_bytes.unwrap_or(0) })
}

fn view(pool: &str, info: &ReclaimInfo) -> ReclaimView {
    ReclaimView {
        name: format!("{pool}/{}", info.vdisk),
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
