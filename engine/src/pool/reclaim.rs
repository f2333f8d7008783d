//! Reclaim: a background job that looks through what a vdisk has stored and gives back what need not be.
//!
//! Of a whole vdisk it goes on after a pause, a close and a crash: where it is stands in the vdisk's entry, written down every GiB.
//! What lies behind that is looked at once more, which changes nothing. Of ranges named from outside it begins anew.
//! Its results are kept until the next one of the same vdisk, or the pool is closed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use plimsoll_hardware::Machine;

use super::{Job, JobInfo, JobState, Pool};
use crate::error::{Error, Result};
use crate::format::{Blocks, EntryState, LEAF_WORDS, ReclaimState, VirtualExtent};
use crate::tree::Found;
use crate::vdisk::{Part, Progress, Store, VdiskCore, pieces};

/// Stretches read at the same time, each of 1 MiB at most: enough to keep a device busy.
const READS_AT_ONCE: usize = 8;
/// Bytes after which the place is written down.
const CURSOR_BYTES: u64 = 1 << 30;
/// Extents whose contents are given up in one step: 48 bytes of records each must fit the smallest batch, 32 KiB.
const WORTHLESS_AT_ONCE: usize = 256;

/// What is to be reclaimed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReclaimSpec {
    /// Offset and length in bytes, multiples of the sector; `None`: all of the vdisk. Only blocks that lie whole in a range count.
    pub ranges: Option<Vec<(u64, u64)>>,
    /// What the ranges hold is not needed, whatever it is: it reads as zeros afterwards. Only with ranges.
    pub worthless: bool,
    /// Bytes read in a second at most; 0: as fast as it goes.
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
    /// Bytes of the vdisk, or of the ranges, that it has passed.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes read.
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
    spec: RefCell<ReclaimSpec>,
    progress: Progress,
    done: Cell<u64>,
    total: u64,
    running: Cell<bool>,
    paused: Cell<bool>,
    /// When the next stretch may be read.
    next: Cell<Duration>,
}

impl Reclaim {
    fn new(spec: ReclaimSpec, total: u64, done: u64, paused: bool) -> Rc<Self> {
        let (spec, progress) = (RefCell::new(spec), Progress::default());
        let (running, paused) = (Cell::new(false), Cell::new(paused));
        Rc::new(Reclaim { spec, progress, done: Cell::new(done), total, running, paused, next: Cell::default() })
    }

    /// Waits until another `bytes` may be read.
    async fn pace<M: Machine>(&self, machine: &M, bytes: u64) {
        let rate = self.spec.borrow().rate;
        if rate == 0 {
            return;
        }
        let (now, slot) = (machine.now(), self.next.get().max(machine.now()));
        self.next.set(slot + Duration::from_secs_f64(bytes as f64 / rate as f64));
        if slot > now {
            machine.sleep(slot - now).await;
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
        self.check_spec(&vdisk, &spec)?;
        let object = format!("{}/{}", store.identity.name, vdisk.name());
        let known = store.reclaims.borrow().get(&vdisk.id).cloned();
        if known.is_some_and(|known| known.running.get()) {
            let reason = format!("a reclaim goes on; wait for it, or pause it (plimsoll reclaim {object} --pause)");
            return Err(Error::Busy { object, reason });
        }
        let total = match &spec.ranges {
            Some(ranges) => ranges.iter().map(|(_, length)| length).sum(),
            None => vdisk.size.get(),
        };
        let reclaim = Reclaim::new(spec.clone(), total, 0, false);
        reclaim.running.set(true);
        store.reclaims.borrow_mut().insert(vdisk.id, reclaim.clone());
        let state = ReclaimState { cursor: 0, paused: false, rate_mib: rate_mib(spec.rate) };
        let kept = spec.ranges.is_none().then_some(state);
        if let Err(error) = store.keep_reclaim(&vdisk, kept).await {
            reclaim.running.set(false);
            return Err(error);
        }
        Ok(store.start_reclaim(&vdisk, reclaim))
    }

    /// Says whether `spec` makes sense for the vdisk, and begins nothing.
    ///
    /// # Errors
    /// As [`Pool::reclaim`].
    pub fn check_reclaim(&self, vdisk: &str, spec: &ReclaimSpec) -> Result<()> {
        let vdisk = self.find(vdisk)?;
        self.check_spec(&vdisk, spec)
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
        self.store.keep_place(&vdisk, &reclaim).await?;
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
        while reclaim.running.get() {
            // The last reads before the pause.
            store.media.machine.sleep(Duration::from_millis(1)).await;
        }
        reclaim.paused.set(false);
        reclaim.running.set(true);
        store.keep_place(&vdisk, &reclaim).await.inspect_err(|_| reclaim.running.set(false))?;
        Ok(store.start_reclaim(&vdisk, reclaim))
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
            rate: reclaim.spec.borrow().rate,
            done_bytes: reclaim.done.get(),
            total_bytes: reclaim.total,
            scanned_bytes: progress.read.get(),
            zero_bytes: progress.zeros.get() * block,
            pattern_bytes: progress.filled.get() * block,
            freed_bytes: progress.extents.get() * self.store.media.extent_bytes,
        }
    }

    fn check_spec(&self, vdisk: &VdiskCore, spec: &ReclaimSpec) -> Result<()> {
        let (size, sector) = (vdisk.size.get(), u64::from(vdisk.sector.get()));
        let Some(ranges) = &spec.ranges else {
            if spec.worthless {
                let problem = "that everything on a vdisk is worthless is said by a discard of all of it, not by a reclaim; name ranges";
                return Err(Error::InvalidArgument(problem.to_owned()));
            }
            return Ok(());
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
        for pair in sorted.windows(2) {
            let [(first, before), (second, number)] = [pair[0], pair[1]];
            if first + ranges[before].1 > second {
                return refused(number, format!("it overlaps range {}; name every byte once", before + 1));
            }
        }
        Ok(())
    }
}

impl<M: Machine> Store<M> {
    /// Goes on with what the vdisk's entry says, after a start.
    pub(super) fn resume_reclaim_of(self: &Rc<Self>, vdisk: &Rc<VdiskCore>) {
        let Some(state) = vdisk.entry.borrow().reclaim else { return };
        let spec = ReclaimSpec { rate: u64::from(state.rate_mib) << 20, ..ReclaimSpec::default() };
        let reclaim = Reclaim::new(spec, vdisk.size.get(), state.cursor, state.paused);
        self.reclaims.borrow_mut().insert(vdisk.id, reclaim.clone());
        if !state.paused {
            reclaim.running.set(true);
            self.start_reclaim(vdisk, reclaim);
        }
    }

    /// Writes down where a reclaim of a whole vdisk is, or that there is none.
    async fn keep_reclaim(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, state: Option<ReclaimState>) -> Result<()> {
        if vdisk.entry.borrow().reclaim == state {
            return Ok(());
        }
        let kept = self.put_entry(vdisk, |entry| {
            self.still_there(vdisk)?;
            Ok(crate::format::Entry { reclaim: state, ..entry })
        });
        kept.await
    }

    async fn keep_place(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, reclaim: &Reclaim) -> Result<()> {
        let (whole, rate) = (reclaim.spec.borrow().ranges.is_none(), reclaim.spec.borrow().rate);
        if !whole {
            return Ok(());
        }
        let (cursor, paused) = (reclaim.done.get(), reclaim.paused.get());
        self.keep_reclaim(vdisk, Some(ReclaimState { cursor, paused, rate_mib: rate_mib(rate) })).await
    }

    fn start_reclaim(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, reclaim: Rc<Reclaim>) -> JobInfo {
        let object = format!("{}/{}", self.identity.name, vdisk.name());
        let job = self.add_job("reclaim", object, reclaim.total);
        job.progress(reclaim.done.get());
        let (store, vdisk, running) = (self.clone(), vdisk.clone(), job.clone());
        self.media.machine.spawn(async move {
            let result = store.run_reclaim(&vdisk, &reclaim, &running).await;
            reclaim.running.set(false);
            running.end(match result {
                Ok(true) => JobState::Done,
                Ok(false) if reclaim.paused.get() => JobState::Paused,
                // Closing: the next start goes on.
                Ok(false) | Err(Error::Closing(_)) => JobState::Running,
                Err(error) => JobState::Failed(error.to_string()),
            });
        });
        job.info()
    }

    /// `false`: it stopped before its end, because it was paused or the pool is closing.
    async fn run_reclaim(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, reclaim: &Reclaim, job: &Job) -> Result<bool> {
        let ranges = reclaim.spec.borrow().ranges.clone();
        let ended = match ranges {
            Some(ranges) => self.reclaim_ranges(vdisk, reclaim, job, &ranges).await?,
            None => self.reclaim_all(vdisk, reclaim, job).await?,
        };
        if !ended {
            return Ok(false);
        }
        // What is said to be free is free for good.
        self.journal.flush().await.map_err(|failure| self.journal_failed(failure))?;
        if reclaim.spec.borrow().ranges.is_none() {
            self.keep_reclaim(vdisk, None).await?;
        }
        reclaim.done.set(reclaim.total);
        Ok(true)
    }

    async fn reclaim_all(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, reclaim: &Reclaim, job: &Job) -> Result<bool> {
        let leaf_bytes = LEAF_WORDS as u64 * self.media.extent_bytes;
        let mut written_down = reclaim.progress.read.get();
        let mut next = vdisk.mapping.next_present(reclaim.done.get() / leaf_bytes);
        while let Some(leaf) = next {
            let loaded = vdisk.mapping.load_leaf(&self.media, &self.cache, leaf).await;
            loaded.map_err(|lost| self.damaged(vdisk, lost))?;
            let parts: Vec<Part> = match vdisk.mapping.tree.borrow().get(leaf) {
                Found::Page(page) => {
                    let first = leaf * LEAF_WORDS as u64;
                    let mapped = page.iter().enumerate().filter(|(_, word)| word.is_mapped());
                    mapped.map(|(slot, _)| (VirtualExtent(first + slot as u64), Blocks::ALL)).collect()
                }
                _ => Vec::new(),
            };
            if !self.look_through(vdisk, reclaim, &parts).await? {
                return Ok(false);
            }
            reclaim.done.set(((leaf + 1) * leaf_bytes).min(reclaim.total));
            job.progress(reclaim.done.get());
            if reclaim.progress.read.get() - written_down >= CURSOR_BYTES {
                written_down = reclaim.progress.read.get();
                self.keep_place(vdisk, reclaim).await?;
            }
            next = vdisk.mapping.next_present(leaf + 1);
        }
        Ok(true)
    }

    async fn reclaim_ranges(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        reclaim: &Reclaim,
        job: &Job,
        ranges: &[(u64, u64)],
    ) -> Result<bool> {
        let (worthless, block_bytes) = (reclaim.spec.borrow().worthless, self.media.block_bytes());
        for &(offset, length) in ranges {
            let mut parts: Vec<Part> = Vec::new();
            for piece in pieces(offset, length, self.media.extent_bytes) {
                let blocks = piece.whole_blocks(block_bytes);
                let present = vdisk.mapping.next_present(piece.at.leaf()) == Some(piece.at.leaf());
                if present && !blocks.is_empty() {
                    parts.push((piece.at, blocks));
                }
                if parts.len() >= WORTHLESS_AT_ONCE {
                    if !self.pass(vdisk, reclaim, &parts, worthless).await? {
                        return Ok(false);
                    }
                    parts.clear();
                }
            }
            if !self.pass(vdisk, reclaim, &parts, worthless).await? {
                return Ok(false);
            }
            reclaim.done.set(reclaim.done.get() + length);
            job.progress(reclaim.done.get());
        }
        Ok(true)
    }

    async fn pass(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        reclaim: &Reclaim,
        parts: &[Part],
        worthless: bool,
    ) -> Result<bool> {
        if !worthless {
            return self.look_through(vdisk, reclaim, parts).await;
        }
        if !self.goes_on(vdisk, reclaim)? {
            return Ok(false);
        }
        self.reclaim_worthless(vdisk, parts, &reclaim.progress).await?;
        Ok(true)
    }

    /// Looks at extents, several stretches at the same time. `false`: it is to stop, and some of them were not looked at.
    async fn look_through(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, reclaim: &Reclaim, parts: &[Part]) -> Result<bool> {
        let stretches = stream::iter(parts.chunks(self.reclaim_extents_max())).map(|stretch| async move {
            let bytes = stretch.len() as u64 * self.media.extent_bytes;
            reclaim.pace(&self.media.machine, bytes).await;
            if !self.goes_on(vdisk, reclaim)? {
                return Ok(false);
            }
            self.reclaim_extents(vdisk, stretch, &reclaim.progress).await?;
            Ok::<bool, Error>(true)
        });
        let results: Vec<bool> = stretches.buffered(READS_AT_ONCE).try_collect().await?;
        Ok(results.into_iter().all(|looked_at| looked_at))
    }

    fn goes_on(&self, vdisk: &VdiskCore, reclaim: &Reclaim) -> Result<bool> {
        if self.closing.get() || reclaim.paused.get() {
            return Ok(false);
        }
        self.still_there(vdisk)?;
        self.writable()?;
        Ok(true)
    }

    /// Forgets the reclaim of a vdisk that goes away.
    pub(super) fn forget_reclaim(&self, vdisk: &VdiskCore) {
        if vdisk.entry.borrow().state == EntryState::Deleting {
            self.reclaims.borrow_mut().remove(&vdisk.id);
        }
    }
}

/// What an entry says of a rate: whole MiB, and not none where there is one.
fn rate_mib(rate: u64) -> u32 {
    u32::try_from(rate.div_ceil(1 << 20)).unwrap_or(u32::MAX)
}
