//! Long work by id: the node's own jobs (`1795659731123`), and those of the pools (`tank.1795659731123`). The first number of a life is its
//! beginning in milliseconds since the Unix epoch, so that no job of another life is taken for one of this.
//!
//! A job of the node that has ended is kept for whoever asks later, at most [`ENDED_MAX`] of them.

use std::collections::BTreeMap;
use std::future::Future;

use plimsoll_engine as engine;

use super::Node;
use super::pool_list::percent;
use crate::model::{CheckView, JobState, JobView, RepairView};
use crate::problem::{Answer, Problem};

/// Jobs that are remembered after their end: a week of one check per 10 minutes.
const ENDED_MAX: usize = 1000;

/// A job that has gone through all there is may still have something to do, as a survey that reads its samples.
const UNENDED_PCT_MAX: f64 = 99.0;

#[derive(Default)]
pub(super) struct Jobs {
    last: u64,
    by_id: BTreeMap<u64, JobView>,
}

/// What a job of the node ended with.
pub(super) enum Outcome {
    Check(CheckView),
    Repair(RepairView),
}

impl Node {
    /// All jobs: the pools' first, then the node's own.
    pub fn jobs(&self) -> Vec<JobView> {
        let mut jobs = Vec::new();
        for pool in self.open_pools() {
            let name = pool.info().name;
            jobs.extend(pool.jobs().iter().map(|job| view(&name, job)));
        }
        jobs.extend(self.0.jobs.borrow().by_id.values().cloned());
        jobs
    }

    /// One job.
    ///
    /// # Errors
    /// `not-found`.
    pub fn job(&self, id: &str) -> Answer<JobView> {
        self.jobs().into_iter().find(|job| job.id == id).ok_or_else(|| Problem::not_found("job", id))
    }

    /// Starts `work` as a job.
    pub(super) fn start_job(
        &self,
        kind: &str,
        object: &str,
        work: impl Future<Output = Answer<Outcome>> + 'static,
    ) -> JobView {
        let job = {
            let mut jobs = self.0.jobs.borrow_mut();
            let id = self.0.started_ms.max(jobs.last + 1);
            jobs.last = id;
            let job = JobView {
                id: id.to_string(),
                kind: kind.to_owned(),
                object: object.to_owned(),
                state: JobState::Running,
                done: 0,
                total: 0,
                unit: "steps".to_owned(),
                done_pct: None,
                problem: None,
                waits_for: None,
                check: None,
                repair: None,
            };
            jobs.by_id.insert(id, job.clone());
            jobs.forget_ended();
            job
        };
        let (node, id) = (self.clone(), self.0.jobs.borrow().last);
        self.spawn(async move {
            let outcome = work.await;
            if let Some(job) = node.0.jobs.borrow_mut().by_id.get_mut(&id) {
                job.end(outcome);
            }
        });
        job
    }
}

impl Jobs {
    fn forget_ended(&mut self) {
        while self.by_id.len() > ENDED_MAX {
            let Some(oldest) = self.by_id.iter().find(|(_, job)| job.state != JobState::Running).map(|(id, _)| *id)
            else {
                return;
            };
            self.by_id.remove(&oldest);
        }
    }
}

impl JobView {
    fn end(&mut self, outcome: Answer<Outcome>) {
        self.state = JobState::Done;
        match outcome {
            Ok(Outcome::Check(check)) => self.check = Some(check),
            Ok(Outcome::Repair(repair)) => self.repair = Some(repair),
            Err(problem) => {
                self.state = JobState::Failed;
                self.problem = Some(problem);
                return;
            }
        }
        (self.done, self.total, self.done_pct) = (1, 1, Some(100.0));
    }
}

/// A pool's job as the API shows it.
pub(super) fn view(pool: &str, job: &engine::JobInfo) -> JobView {
    let named = [format!("{pool}/"), format!("{pool} ")].iter().any(|start| job.object.starts_with(start));
    let pct_max = if job.state == engine::JobState::Done { 100.0 } else { UNENDED_PCT_MAX };
    let object = if named || job.object == pool { job.object.clone() } else { format!("{pool}/{}", job.object) };
    JobView {
        id: format!("{pool}.{}", job.id),
        kind: job.kind.to_owned(),
        object,
        state: match job.state {
            engine::JobState::Running => JobState::Running,
            engine::JobState::Paused => JobState::Paused,
            engine::JobState::Done => JobState::Done,
            engine::JobState::Cancelled => JobState::Cancelled,
            engine::JobState::Failed(_) => JobState::Failed,
        },
        done: job.done,
        total: job.total,
        unit: job.unit.to_owned(),
        done_pct: (job.total > 0).then(|| percent(job.done, job.total).min(pct_max)),
        problem: match &job.state {
            // Stopped by what an operator has to decide.
            engine::JobState::Failed(reason) if job.kind == "device-evacuate" => {
                Some(Problem::new("conflict", reason.clone()))
            }
            engine::JobState::Failed(reason) => Some(Problem::new("internal", reason.clone())),
            engine::JobState::Cancelled if job.kind == "reclaim" => {
                let detail = format!("vdisk {} was deleted before its reclaim had ended", job.object);
                Some(Problem::new("conflict", detail).hint(format!("plimsoll job show {pool}.{}", job.id)))
            }
            _ => None,
        },
        waits_for: job.waits_for.clone(),
        check: None,
        repair: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_done_when_it_has_ended_and_not_before() {
        let job = |state| engine::JobInfo {
            id: 7,
            kind: "survey",
            object: "tank".into(),
            done: 10,
            total: 10,
            unit: "bytes",
            state,
            waits_for: None,
        };
        let done_pct = |state| view("tank", &job(state)).done_pct;
        assert_eq!(done_pct(engine::JobState::Running), Some(UNENDED_PCT_MAX));
        assert_eq!(done_pct(engine::JobState::Done), Some(100.0));
    }
}
