//! Compaction: a job that puts the contents of thinly used extents together, so that scattered small discards give space back too.
//!
//! It goes through the vdisks leaf by leaf (`mapping/packing.rs` plans, `vdisk/pack.rs` does it), as often as it is asked to, and by
//! itself where extents have become thinner, when the pool is short of space. Nothing is written down of it: what it has done stays,
//! and what it has not is found again.

use std::collections::BTreeSet;
use std::rc::{Rc, Weak};
use std::time::Duration;

use plimsoll_hardware::Machine;

use super::{Job, JobInfo, JobState, Pool};
use crate::error::{Error, Result};
use crate::format::{ExtentId, LEAF_WORDS, VdiskId};
use crate::mapping::plan;
use crate::tree::Found;
use crate::vdisk::{Reclaimable, Store, VdiskCore, count};

/// What the job is called.
const KIND: &str = "compact";
/// One in so many extents available, or fewer, is short of space: 95 % in use, the last of the default levels.
const SHORT: u64 = 20;
/// Time between two compactions that begin by themselves: what is discarded meanwhile is put together at once.
const REST: Duration = Duration::from_secs(1);
/// As long as it may become while first writes take apart again what was put together. Less than a write is held by default (20 s), so
/// what can be given back still helps those that wait.
const REST_MAX: Duration = Duration::from_secs(16);

/// Leaves to look at; `None`: all there are.
type Scope = Option<BTreeSet<(VdiskId, u64)>>;

impl<M: Machine> Pool<M> {
    /// Puts thinly used extents of all vdisks together, as far as that frees some, in the job that is answered; the one that is under
    /// way, if there is one. Overwrites and reads go on; a first write to an extent that is just being copied waits for it.
    ///
    /// # Errors
    /// `ReadOnly`, `Closing`.
    pub fn compact(&self) -> Result<JobInfo> {
        self.store.writable()?;
        Ok(self.store.start_compacting(None))
    }
}

impl<M: Machine> Store<M> {
    fn start_compacting(self: &Rc<Self>, scope: Scope) -> JobInfo {
        let (pool, leaf_bytes) = (self.identity.name.clone(), self.leaf_bytes());
        if let Some(job) = self.running_job(KIND) {
            return job.info();
        }
        let total = match &scope {
            Some(leaves) => leaves.len() as u64 * leaf_bytes,
            None => self.vdisks.borrow().values().map(|vdisk| vdisk.size.get().next_multiple_of(leaf_bytes)).sum(),
        };
        let job = self.add_job(KIND, pool, total);
        let (store, running) = (self.clone(), job.clone());
        self.media.machine.spawn(async move {
            let ended = match scope {
                Some(leaves) => store.compact_leaves(&leaves, &running).await,
                None => store.compact_all(&running).await,
            };
            running.end(match ended {
                Ok(()) => JobState::Done,
                Err(error) => JobState::Failed(error.to_string()),
            });
            store.space.scarce.reached.notify();
        });
        job.info()
    }

    async fn compact_all(self: &Rc<Self>, job: &Job) -> Result<()> {
        let vdisks: Vec<_> = self.vdisks.borrow().values().cloned().collect();
        let mut passed = 0;
        for vdisk in &vdisks {
            let mut next = vdisk.mapping.next_sound(0);
            while let Some(leaf) = next
                && vdisk.ready.get()
            {
                self.compact_leaf(vdisk, leaf).await?;
                job.progress(passed + (leaf + 1) * self.leaf_bytes());
                next = vdisk.mapping.next_sound(leaf + 1);
            }
            note_packed(vdisk, |_| 0);
            passed += vdisk.size.get().next_multiple_of(self.leaf_bytes());
        }
        Ok(())
    }

    async fn compact_leaves(self: &Rc<Self>, leaves: &BTreeSet<(VdiskId, u64)>, job: &Job) -> Result<()> {
        for (passed, (vdisk, leaf)) in leaves.iter().enumerate() {
            let vdisk = self.vdisks.borrow().get(vdisk).filter(|vdisk| vdisk.ready.get()).cloned();
            if let Some(vdisk) = vdisk {
                self.compact_leaf(&vdisk, *leaf).await?;
            }
            job.progress((passed as u64 + 1) * self.leaf_bytes());
        }
        Ok(())
    }

    async fn compact_leaf(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, leaf: u64) -> Result<()> {
        let freed = match self.pack_leaf(vdisk, leaf).await {
            Ok(freed) => freed,
            // What cannot be read or found is left as it is; a check tells of it.
            Err(Error::Damaged { .. } | Error::Device(_)) => return self.writable(),
            Err(error) => return Err(error),
        };
        let freed_bytes = freed * self.media.extent_bytes;
        count(&self.counters.packed_bytes, freed_bytes);
        note_packed(vdisk, |packable| packable.saturating_sub(freed_bytes));
        self.trim_cache();
        Ok(())
    }

    /// Answers how many extents came free.
    async fn pack_leaf(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, leaf: u64) -> Result<u64> {
        let loaded = vdisk.mapping.load_leaf(&self.media, &self.cache, leaf).await;
        loaded.map_err(|lost| self.damaged(vdisk, lost))?;
        let plan = {
            let tree = vdisk.mapping.tree.borrow();
            let Found::Page(page) = tree.get(leaf) else { return Ok(0) };
            plan(page, |extent| self.is_to_stay(extent))
        };
        if plan.is_empty() { Ok(0) } else { self.pack(vdisk, leaf, &plan).await }
    }

    /// Whether an extent is on a device that does not leave.
    pub(super) fn is_to_stay(&self, extent: ExtentId) -> bool {
        self.media.locate(extent).is_some_and(|(drive, _)| !drive.is_leaving())
    }

    /// Extents that came free by packing, and those that packed words have taken for themselves again.
    fn packed_and_unpacked(&self) -> (u64, u64) {
        (self.counters.packed_bytes.get() / self.media.extent_bytes, self.counters.unpacked_extents.get())
    }

    /// Bytes of a vdisk that a leaf covers.
    pub(super) fn leaf_bytes(&self) -> u64 {
        LEAF_WORDS as u64 * self.media.extent_bytes
    }
}

/// Corrects what a survey found.
fn note_packed(vdisk: &VdiskCore, packable: impl Fn(u64) -> u64) {
    let corrected = |found: Reclaimable| Reclaimable { packable_bytes: packable(found.packable_bytes), ..found };
    vdisk.surveyed.update(|known| known.map(corrected));
}

/// Compacts a pool by itself, until it is closed or forgotten.
pub(super) async fn when_scarce<M: Machine>(weak: Weak<Store<M>>) {
    let mut rest = REST;
    while let Some(store) = weak.upgrade()
        && !store.closing.get()
        && !store.inspect
    {
        let short = store.space.total() / SHORT;
        if store.space.available() <= short
            && store.is_writable()
            && store.running_job(KIND).is_none()
            && let Some(scope) = store.space.thinned.take()
        {
            let before = store.packed_and_unpacked();
            store.start_compacting(scope);
            // Nothing of the pool is held meanwhile: it may be closed, and its devices opened by others.
            let machine = store.media.machine.clone();
            drop(store);
            machine.sleep(rest).await;
            let Some(store) = weak.upgrade() else { return };
            let after = store.packed_and_unpacked();
            let in_vain = 2 * (after.1 - before.1) > after.0 - before.0;
            rest = if in_vain { (2 * rest).min(REST_MAX) } else { REST };
            continue;
        }
        store.space.scarce.wait(short).await;
    }
}
