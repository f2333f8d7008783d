//! A survey: a job that finds what space could come back, and changes nothing.
//!
//! It goes through the mapping of every vdisk: what compaction would free shows there. What is zeros or a pattern shows only to who
//! reads it, so a sample of each vdisk is read (`vdisk/sample.rs`), as a reclaim would read it (`vdisk/reclaim.rs`). It rests as much as
//! it works. What is damaged is passed over.
//! What it found is kept with the vdisks until the next one, or the pool is closed. A reclaim or compaction that went through all of a
//! vdisk corrects it.

use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use plimsoll_hardware::Machine;

use super::{Job, JobInfo, JobState, Pool};
use crate::error::{Error, Result};
use crate::format::{Blocks, VirtualExtent};
use crate::mapping::{frees, plan};
use crate::tree::Found;
use crate::vdisk::{Part, Reclaimable, Sample, Seen, Store, VdiskCore, VdiskState, estimate};

/// What the job is called.
const KIND: &str = "survey";
/// Extents of a vdisk that are read, 64 MiB: of a share found in them, at worst a half, the rest differs by 3 % at most.
const SAMPLE_MAX: u64 = 1024;
/// Extents of all vdisks together, 4 GiB, where there are many; but some of each.
const SAMPLES_MAX: u64 = 65_536;
const SAMPLE_MIN: u64 = 16;
/// It rests as long as its last step took, within these bounds: so long a close or a delete waits for it.
const REST_MIN: Duration = Duration::from_millis(1);
const REST_MAX: Duration = Duration::from_millis(100);
/// Age at which what is known is looked at again when the pool reaches a level of use.
const STALE: Duration = Duration::from_secs(3600);

/// What the last survey of a pool found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surveyed {
    /// Of all vdisks together.
    pub total: Reclaimable,
    /// Of each that has been looked at, by name.
    pub vdisks: BTreeMap<String, Reclaimable>,
}

impl<M: Machine> Pool<M> {
    /// Looks for what space could come back, in the job that is answered; the one that is under way, if there is one. Changes nothing,
    /// and holds nothing up.
    ///
    /// # Errors
    /// `ReadOnly`, `Closing`.
    pub fn survey(&self) -> Result<JobInfo> {
        self.store.writable()?;
        Ok(self.store.start_surveying())
    }

    /// What the last survey found, of the vdisks that there are still; `None` when none has ended since the pool was opened. Never more
    /// than a vdisk stores by now.
    pub fn surveyed(&self) -> Option<Surveyed> {
        let at = self.store.surveys.ended.get()?;
        let known = self.vdisks().into_iter().filter(|vdisk| vdisk.state != VdiskState::Deleting);
        let vdisks: BTreeMap<_, _> = known.filter_map(|vdisk| Some((vdisk.name, vdisk.reclaimable?))).collect();
        let nothing = Reclaimable { at, ..Reclaimable::default() };
        let total = vdisks.values().fold(nothing, |total, &found| total.and(found));
        Some(Surveyed { total, vdisks })
    }
}

/// What the mapping of a vdisk shows.
struct Passed {
    /// Extents that a compaction would free.
    packable: u64,
    /// Words with an extent, and the blocks that they store.
    words: u64,
    blocks: u64,
}

impl<M: Machine> Store<M> {
    fn start_surveying(self: &Rc<Self>) -> JobInfo {
        if let Some(job) = self.running_job(KIND) {
            return job.info();
        }
        let total =
            self.vdisks.borrow().values().map(|vdisk| vdisk.size.get().next_multiple_of(self.leaf_bytes())).sum();
        let job = self.add_job(KIND, self.identity.name.clone(), total);
        let (store, running) = (self.clone(), job.clone());
        self.media.machine.spawn(async move {
            running.end(match store.survey_all(&running).await {
                Ok(()) => JobState::Done,
                Err(error) => JobState::Failed(error.to_string()),
            });
        });
        job.info()
    }

    async fn survey_all(self: &Rc<Self>, job: &Job) -> Result<()> {
        let vdisks: Vec<_> = self.vdisks.borrow().values().cloned().collect();
        let sample = (SAMPLES_MAX / (vdisks.len() as u64).max(1)).clamp(SAMPLE_MIN, SAMPLE_MAX);
        let mut before = 0;
        for vdisk in &vdisks {
            self.survey(vdisk, sample as usize, &|passed| job.progress(before + passed)).await?;
            before += vdisk.size.get().next_multiple_of(self.leaf_bytes());
            job.progress(before);
        }
        self.surveys.ended.set(Some(self.media.machine.now()));
        Ok(())
    }

    async fn survey(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, sample: usize, progress: &dyn Fn(u64)) -> Result<()> {
        let (extent_bytes, block_bytes) = (self.media.extent_bytes, self.media.block_bytes());
        let mut sample = Sample::new(self.media.machine.random(), sample);
        let passed = self.pass_through(vdisk, &mut sample, progress).await?;
        let seen = self.read_sample(vdisk, &sample.into_places()).await?;
        let found = estimate(&seen, passed.words, passed.blocks);
        let figures = Reclaimable {
            packable_bytes: passed.packable * extent_bytes,
            zero_bytes: found.zeros * block_bytes,
            pattern_bytes: found.filled * block_bytes,
            whole_bytes: found.whole * block_bytes,
            margin_bytes: found.margin * block_bytes,
            sampled_bytes: seen.len() as u64 * extent_bytes,
            at: self.media.machine.now(),
        };
        vdisk.surveyed.set(Some(figures));
        Ok(())
    }

    /// A reclaim has gone through all of a vdisk, and left so many extents that a compaction would free; `None`: that is not known. It
    /// matters where anybody ever wanted to know.
    pub(super) fn note_reclaimed(&self, vdisk: &VdiskCore, packable: Option<u64>) {
        let Some(before) = vdisk.surveyed.get() else { return };
        let packable_bytes = packable.map_or(before.packable_bytes, |extents| extents * self.media.extent_bytes);
        let at = self.media.machine.now();
        vdisk.surveyed.set(Some(Reclaimable { packable_bytes, at, ..Reclaimable::default() }));
    }

    /// Extents of a leaf that a compaction would free, as far as it is in memory.
    pub(super) fn packable_of(&self, vdisk: &VdiskCore, leaf: u64) -> u64 {
        match vdisk.mapping.tree.borrow().get(leaf) {
            Found::Page(page) => frees(&plan(page, |extent| self.is_to_stay(extent))),
            _ => 0,
        }
    }

    /// Goes through the mapping of a vdisk, and offers all of its words to the sample.
    async fn pass_through(
        self: &Rc<Self>,
        vdisk: &VdiskCore,
        sample: &mut Sample,
        progress: &dyn Fn(u64),
    ) -> Result<Passed> {
        let mut passed = Passed { packable: 0, words: 0, blocks: 0 };
        let mut next = vdisk.mapping.next_sound(0);
        while let Some(leaf) = next
            && vdisk.ready.get()
        {
            self.writable()?;
            let began = self.media.machine.now();
            // What is lost is not found in memory either.
            let _ = vdisk.mapping.load_leaf(&self.media, &self.cache, leaf).await;
            passed.packable += self.packable_of(vdisk, leaf);
            if let Found::Page(page) = vdisk.mapping.tree.borrow().get(leaf) {
                for (slot, word) in page.iter().enumerate().filter(|(_, word)| word.is_mapped()) {
                    passed.words += 1;
                    passed.blocks += u64::from(word.valid().count());
                    sample.offer(VirtualExtent::in_leaf(leaf, slot));
                }
            }
            self.trim_cache();
            progress((leaf + 1) * self.leaf_bytes());
            self.rest(began).await;
            next = vdisk.mapping.next_sound(leaf + 1);
        }
        Ok(passed)
    }

    async fn read_sample(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, places: &[VirtualExtent]) -> Result<Vec<Seen>> {
        let parts: Vec<Part> = places.iter().map(|&at| (at, Blocks::ALL)).collect();
        let mut all = Vec::with_capacity(parts.len());
        for stretch in parts.chunks(self.reclaim_extents_max()) {
            if !vdisk.ready.get() {
                break;
            }
            self.writable()?;
            let began = self.media.machine.now();
            match self.see_extents(vdisk, stretch).await {
                Ok(seen) => all.extend(seen),
                Err(error) => {
                    self.pass_by(error)?;
                    // One after the other, so that what is bad keeps nothing from its neighbours.
                    for part in stretch.chunks(1) {
                        match self.see_extents(vdisk, part).await {
                            Ok(seen) => all.extend(seen),
                            Err(error) => self.pass_by(error)?,
                        }
                    }
                }
            }
            self.rest(began).await;
        }
        Ok(all)
    }

    /// What cannot be read or found is not looked at; a check tells of it.
    fn pass_by(&self, error: Error) -> Result<()> {
        match error {
            Error::Damaged { .. } | Error::Device(_) => self.writable(),
            error => Err(error),
        }
    }

    async fn rest(&self, began: Duration) {
        let machine = &self.media.machine;
        let took = machine.now().saturating_sub(began);
        machine.sleep(took.clamp(REST_MIN, REST_MAX)).await;
    }

    /// Whether nobody has looked for so long that it should be done again.
    fn is_survey_stale(&self) -> bool {
        let ended = self.surveys.ended.get();
        ended.is_none_or(|ended| self.media.machine.now().saturating_sub(ended) >= STALE)
    }
}

/// Looks for what could come back when a pool reaches a level of its use, until it is closed or forgotten: alarms can say then.
pub(super) async fn when_filling<M: Machine>(weak: Weak<Store<M>>) {
    while let Some(store) = weak.upgrade()
        && !store.closing.get()
        && !store.inspect
    {
        if store.surveys.wanted.take() && store.is_writable() && store.is_survey_stale() {
            store.start_surveying();
        }
        store.surveys.asked.changed().await;
    }
}
