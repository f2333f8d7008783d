//! Reclaim: a background job that looks through what a vdisk has stored and gives back what need not be.
//!
//! Of a whole vdisk it goes on after a pause, a close and a crash: where it is stands in the vdisk's entry, written down every GiB.
//! What lies behind that is looked at once more, which changes nothing. Of ranges named from outside it is over
//! with the process: whoever named them does so again.
//! What cannot be read is passed over; the job has failed then, and everything else was looked at.
//! Its results are kept until the next one of the same vdisk, or the pool is closed.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::select;
use plimsoll_hardware::Machine;

use super::{Job, JobInfo, Pool};
use crate::error::{Error, Result};
use crate::format::ReclaimState;
use crate::vdisk::{Progress, VdiskCore};
use crate::wait::WaitQueue;

/// A rate is a multiple of this, because an entry says so many.
const RATE_BYTES: u64 = 1 << 20;

/// What is to be reclaimed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReclaimSpec {
    /// Offset and length in bytes, multiples of the sector; `None`: all of the vdisk. Only blocks that lie whole in ranges count;
    /// ranges that adjoin are one.
    pub ranges: Option<Vec<(u64, u64)>>,
    /// What the ranges hold is not needed, whatever it is: it reads as zeros afterwards. Only with ranges.
    pub worthless: bool,
    /// Bytes read in a second at most, whole MiB; 0: as fast as it goes.
    pub rate: u64,
}

/// How a reclaim stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReclaimInfo {
    /// The vdisk.
    pub vdisk: String,
    /// It goes on.
    pub running: bool,
    /// It was told to wait, and is to be resumed.
    pub paused: bool,
    /// Bytes read in a second at most; 0: no limit.
    pub rate: u64,
    /// Bytes of the vdisk, or of the ranges, that it has passed; holes count as what is stored does. At most `total_bytes`.
    pub done_bytes: u64,
    /// Bytes of the vdisk, or of the ranges, when it began.
    pub total_bytes: u64,
    /// Bytes read since the pool was opened, by whole extents; holes are not read.
    pub scanned_bytes: u64,
    /// Bytes of zeros that are not stored any more; of anything, when it was worthless.
    pub zero_bytes: u64,
    /// Bytes that are stored by the number of a pattern now.
    pub pattern_bytes: u64,
    /// Bytes of the pool's space that came free.
    pub freed_bytes: u64,
}

/// A reclaim in memory.
pub(crate) struct Reclaim {
    pub(super) spec: ReclaimSpec,
    /// What the spec said, until it is changed.
    rate: Cell<u64>,
    /// One for all of its life, paused or not.
    pub(super) job: Rc<Job>,
    pub(super) progress: Progress,
    done: Cell<u64>,
    pub(super) total: u64,
    pub(super) running: Cell<bool>,
    pub(super) paused: Cell<bool>,
    /// Nothing is left to be done, or it never began.
    pub(super) over: Cell<bool>,
    /// Why something could not be looked at.
    pub(super) passed_over: RefCell<Option<Error>>,
    /// Extents that a compaction would free of what it has left; `None` when it did not go through all of it in this life.
    pub(super) packable: Cell<Option<u64>>,
    /// When the next stretch may be read.
    next: Cell<Duration>,
    /// It is to look whether it still goes on, or has ended.
    pub(super) stirred: WaitQueue,
}

impl Reclaim {
    pub(super) fn new(spec: ReclaimSpec, job: Rc<Job>, total: u64, done: u64) -> Rc<Self> {
        let reclaim = Reclaim {
            rate: Cell::new(spec.rate),
            spec,
            job,
            progress: Progress::default(),
            done: Cell::default(),
            total,
            running: Cell::new(false),
            paused: Cell::new(false),
            over: Cell::new(false),
            passed_over: RefCell::default(),
            packable: Cell::new((done == 0).then_some(0)),
            next: Cell::default(),
            stirred: WaitQueue::default(),
        };
        reclaim.pass(done);
        Rc::new(reclaim)
    }

    /// So many bytes have been passed.
    pub(super) fn pass(&self, done: u64) {
        self.done.set(done.min(self.total));
        self.job.progress(self.done.get());
    }

    pub(super) fn done(&self) -> u64 {
        self.done.get()
    }

    /// What an entry says of it: nothing when it is over, or of ranges, which are not kept.
    pub(super) fn state(&self) -> Option<ReclaimState> {
        let (cursor, paused) = (self.done.get(), self.paused.get());
        let state = ReclaimState { cursor, paused, rate_mib: (self.rate.get() / RATE_BYTES) as u32 };
        (self.spec.ranges.is_none() && !self.over.get()).then_some(state)
    }

    /// Waits until another `bytes` may be read, or it is stirred.
    pub(super) async fn pace<M: Machine>(&self, machine: &M, bytes: u64) {
        loop {
            let rate = self.rate.get();
            if rate == 0 {
                return;
            }
            let (now, slot) = (machine.now(), self.next.get().max(machine.now()));
            self.next.set(slot + Duration::from_secs_f64(bytes as f64 / rate as f64));
            if slot <= now {
                return;
            }
            select(pin!(self.stirred.changed()), pin!(machine.sleep(slot - now))).await;
            if self.rate.get() == rate {
                return;
            }
            // Stirred by another rate: whoever waits goes by that one.
        }
    }
}

impl<M: Machine> Pool<M> {
    /// Begins to reclaim; goes on in the job that is answered. One that is paused begins anew.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for ranges that make no sense, `Busy` while one of this vdisk goes on, `ReadOnly`, `Device`.
    pub async fn reclaim(&self, vdisk: &str, spec: ReclaimSpec) -> Result<JobInfo> {
        let store = &self.store;
        let vdisk = self.find(vdisk)?;
        store.writable()?;
        let spec = self.checked_spec(&vdisk, &spec)?;
        let object = format!("{}/{}", store.identity.name, vdisk.name());
        let known = store.reclaims.borrow().get(&vdisk.id).cloned();
        if known.as_ref().is_some_and(|known| known.running.get()) {
            let reason = format!("a reclaim goes on; wait for it, or pause it (plimsoll reclaim {object} --pause)");
            return Err(Error::Busy { object, reason });
        }
        let total = match &spec.ranges {
            Some(ranges) => ranges.iter().map(|(_, length)| length).sum(),
            None => vdisk.size.get(),
        };
        let job = match known.filter(|known| known.paused.get()) {
            Some(paused) => paused.job.clone(),
            None => store.add_job("reclaim", object, total),
        };
        job.go_on(total);
        let reclaim = Reclaim::new(spec, job, total, 0);
        reclaim.running.set(true);
        store.reclaims.borrow_mut().insert(vdisk.id, reclaim.clone());
        let written_down = store.keep_reclaim(&vdisk).await;
        written_down.inspect_err(|error| reclaim.give_up(error))?;
        Ok(store.start_reclaim(&vdisk, reclaim))
    }

    /// Says whether `spec` makes sense for the vdisk, and begins nothing.
    ///
    /// # Errors
    /// As [`Pool::reclaim`].
    pub fn check_reclaim(&self, vdisk: &str, spec: &ReclaimSpec) -> Result<()> {
        let vdisk = self.find(vdisk)?;
        self.checked_spec(&vdisk, spec).map(drop)
    }

    /// Makes a reclaim wait, after what it is reading now. It is remembered that it waits.
    ///
    /// # Errors
    /// `NotFound` for the vdisk and when nothing goes on, `ReadOnly`, `Device`.
    pub async fn pause_reclaim(&self, vdisk: &str) -> Result<ReclaimInfo> {
        let vdisk = self.find(vdisk)?;
        let reclaim = self.known_reclaim(&vdisk)?;
        if !reclaim.running.get() {
            return Err(self.no_reclaim(&vdisk, "that goes on"));
        }
        reclaim.paused.set(true);
        reclaim.stirred.notify();
        self.store.keep_reclaim(&vdisk).await?;
        Ok(self.describe_reclaim(&vdisk, &reclaim))
    }

    /// Lets a reclaim that was paused go on.
    ///
    /// # Errors
    /// As [`Pool::pause_reclaim`].
    pub async fn resume_reclaim(&self, vdisk: &str) -> Result<JobInfo> {
        let store = &self.store;
        let vdisk = self.find(vdisk)?;
        let reclaim = self.known_reclaim(&vdisk)?;
        if !reclaim.paused.get() {
            return Err(self.no_reclaim(&vdisk, "that is paused"));
        }
        while reclaim.running.get() && reclaim.paused.get() {
            // The last reads before the pause.
            reclaim.stirred.changed().await;
        }
        if !reclaim.paused.get() {
            // Somebody else was quicker.
            return Ok(reclaim.job.info());
        }
        reclaim.paused.set(false);
        reclaim.running.set(true);
        reclaim.next.set(Duration::ZERO);
        reclaim.job.go_on(reclaim.total);
        reclaim.job.progress(reclaim.done());
        let written_down = store.keep_reclaim(&vdisk).await;
        written_down.inspect_err(|error| reclaim.give_up(error))?;
        Ok(store.start_reclaim(&vdisk, reclaim))
    }

    /// Changes how many bytes a reclaim that goes on or is paused may read in a second: whole MiB; 0: as fast as it goes.
    ///
    /// # Errors
    /// As [`Pool::pause_reclaim`]; `InvalidArgument` for a rate that cannot be.
    pub async fn set_reclaim_rate(&self, vdisk: &str, rate: u64) -> Result<ReclaimInfo> {
        check_rate(rate)?;
        let vdisk = self.find(vdisk)?;
        let reclaim = self.known_reclaim(&vdisk)?;
        if !reclaim.running.get() && !reclaim.paused.get() {
            return Err(self.no_reclaim(&vdisk, "that goes on or is paused"));
        }
        if reclaim.rate.replace(rate) != rate {
            reclaim.next.set(Duration::ZERO);
            reclaim.stirred.notify();
        }
        self.store.keep_reclaim(&vdisk).await?;
        Ok(self.describe_reclaim(&vdisk, &reclaim))
    }

    /// How the last reclaim of a vdisk stands; `None` when there was none since the pool was opened.
    ///
    /// # Errors
    /// `NotFound` for the vdisk.
    pub fn reclaim_info(&self, vdisk: &str) -> Result<Option<ReclaimInfo>> {
        let vdisk = self.find(vdisk)?;
        let known = self.store.reclaims.borrow().get(&vdisk.id).cloned();
        Ok(known.map(|reclaim| self.describe_reclaim(&vdisk, &reclaim)))
    }

    fn known_reclaim(&self, vdisk: &VdiskCore) -> Result<Rc<Reclaim>> {
        let known = self.store.reclaims.borrow().get(&vdisk.id).cloned();
        known.ok_or_else(|| self.no_reclaim(vdisk, "at all"))
    }

    fn no_reclaim(&self, vdisk: &VdiskCore, which: &str) -> Error {
        let name = format!("of {}/{} {which}", self.store.identity.name, vdisk.name());
        Error::NotFound { kind: "a reclaim", name }
    }

    fn describe_reclaim(&self, vdisk: &VdiskCore, reclaim: &Reclaim) -> ReclaimInfo {
        let (progress, block) = (&reclaim.progress, self.store.media.block_bytes());
        ReclaimInfo {
            vdisk: vdisk.name(),
            running: reclaim.running.get(),
            paused: reclaim.paused.get(),
            rate: reclaim.rate.get(),
            done_bytes: reclaim.job.info().done,
            total_bytes: reclaim.total,
            scanned_bytes: progress.read.get(),
            zero_bytes: progress.zeros.get() * block,
            pattern_bytes: progress.filled.get() * block,
            freed_bytes: progress.extents.get() * self.store.media.extent_bytes,
        }
    }

    /// A spec that makes sense, its ranges in order and merged where they adjoin.
    fn checked_spec(&self, vdisk: &VdiskCore, spec: &ReclaimSpec) -> Result<ReclaimSpec> {
        let (size, sector) = (vdisk.size.get(), u64::from(vdisk.sector.get()));
        check_rate(spec.rate)?;
        let Some(ranges) = &spec.ranges else {
            if spec.worthless {
                let problem = "that everything on a vdisk is worthless is said by a discard of all of it, not by a reclaim; name ranges";
                return Err(Error::InvalidArgument(problem.to_owned()));
            }
            return Ok(spec.clone());
        };
        if ranges.is_empty() {
            return Err(Error::InvalidArgument(
                "there is no range to be reclaimed; name one, or leave ranges out".into(),
            ));
        }
        let name = format!("{}/{}", self.store.identity.name, vdisk.name());
        let refused = |number: usize, problem: String| {
            let (offset, length) = ranges[number];
            Err(Error::InvalidArgument(format!("range {} of {name} ({offset}..+{length}): {problem}", number + 1)))
        };
        let mut sorted: Vec<(u64, usize)> = Vec::with_capacity(ranges.len());
        for (number, &(offset, length)) in ranges.iter().enumerate() {
            if length == 0 {
                return refused(number, "it has no bytes; leave it out".to_owned());
            }
            if (offset | length) & (sector - 1) != 0 {
                return refused(number, format!("offset and length must be multiples of the sector, {sector} bytes"));
            }
            if offset.checked_add(length).is_none_or(|end| end > size) {
                return refused(number, format!("the vdisk ends at byte {size}"));
            }
            sorted.push((offset, number));
        }
        sorted.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        let mut before = 0;
        for (offset, number) in sorted {
            let length = ranges[number].1;
            match merged.last_mut() {
                Some((first, known)) if *first + *known > offset => {
                    return refused(number, format!("it overlaps range {}; name every byte once", before + 1));
                }
                Some((first, known)) if *first + *known == offset => *known += length,
                _ => merged.push((offset, length)),
            }
            before = number;
        }
        Ok(ReclaimSpec { ranges: Some(merged), ..*spec })
    }
}

fn check_rate(rate: u64) -> Result<()> {
    if rate.is_multiple_of(RATE_BYTES) && rate / RATE_BYTES <= u64::from(u32::MAX) {
        return Ok(());
    }
    let problem = format!("a rate of {rate} bytes a second is no whole number of MiB; say 1M, 2M, ... or 0");
    Err(Error::InvalidArgument(problem))
}
