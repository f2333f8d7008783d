//! A reclaim at work: the job that `reclaim.rs` begins, pauses and resumes.

use std::cell::Cell;
use std::rc::Rc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use plimsoll_hardware::Machine;

use super::reclaim::{Reclaim, ReclaimSpec};
use super::{JobInfo, JobState};
use crate::error::{Error, Result};
use crate::format::{Blocks, Entry, EntryState, LEAF_WORDS, VirtualExtent};
use crate::tree::Found;
use crate::vdisk::{Part, Store, VdiskCore, pieces};

/// Stretches read at the same time, each of 1 MiB at most: enough to keep a device busy.
const READS_AT_ONCE: usize = 8;
/// Bytes after which the place is written down.
const CURSOR_BYTES: u64 = 1 << 30;
/// Extents whose contents are given up in one step, in as many leaves as may change together: 56 bytes of records each must fit the
/// smallest batch, 32 KiB.
const WORTHLESS_AT_ONCE: usize = 256;

impl Reclaim {
    /// It could not be begun.
    pub(super) fn give_up(&self, error: &Error) {
        self.running.set(false);
        self.over.set(true);
        self.job.end(JobState::Failed(error.to_string()));
        self.stirred.notify();
    }
}

impl<M: Machine> Store<M> {
    /// Goes on with what the vdisk's entry says, after a start.
    pub(super) fn resume_reclaim_of(self: &Rc<Self>, vdisk: &Rc<VdiskCore>) {
        let Some(state) = vdisk.entry.borrow().reclaim else { return };
        let spec = ReclaimSpec { rate: u64::from(state.rate_mib) << 20, ..ReclaimSpec::default() };
        let (object, total) = (format!("{}/{}", self.identity.name, vdisk.name()), vdisk.size.get());
        let reclaim = Reclaim::new(spec, self.add_job("reclaim", object, total), total, state.cursor);
        self.reclaims.borrow_mut().insert(vdisk.id, reclaim.clone());
        if state.paused {
            reclaim.paused.set(true);
            reclaim.job.end(JobState::Paused);
        } else {
            reclaim.running.set(true);
            self.start_reclaim(vdisk, reclaim);
        }
    }

    /// Writes down how the last reclaim of a vdisk stands.
    pub(super) async fn keep_reclaim(self: &Rc<Self>, vdisk: &Rc<VdiskCore>) -> Result<()> {
        // By what is the case when it is written: it may have ended meanwhile, or be another.
        let state = || self.reclaims.borrow().get(&vdisk.id).and_then(|known| known.state());
        if vdisk.entry.borrow().reclaim == state() {
            return Ok(());
        }
        let kept = self.put_entry(vdisk, |entry| {
            self.still_there(vdisk)?;
            Ok(Entry { reclaim: state(), ..entry })
        });
        kept.await
    }

    pub(super) fn start_reclaim(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, reclaim: Rc<Reclaim>) -> JobInfo {
        let (store, vdisk, info) = (self.clone(), vdisk.clone(), reclaim.job.info());
        self.media.machine.spawn(async move {
            let result = Run { store: &store, vdisk: &vdisk, reclaim: &reclaim }.run().await;
            reclaim.running.set(false);
            reclaim.job.end(match result {
                Ok(true) => JobState::Done,
                Ok(false) if reclaim.paused.get() => {
                    // What was under way is looked at again.
                    reclaim.job.progress(reclaim.done());
                    JobState::Paused
                }
                // Closing: the next start goes on.
                Ok(false) | Err(Error::Closing(_)) => JobState::Running,
                Err(_) if store.still_there(&vdisk).is_err() => JobState::Cancelled,
                Err(error) => JobState::Failed(error.to_string()),
            });
            reclaim.stirred.notify();
        });
        info
    }

    /// Forgets the reclaim of a vdisk that goes away.
    pub(super) fn forget_reclaim(&self, vdisk: &VdiskCore) {
        if vdisk.entry.borrow().state != EntryState::Deleting {
            return;
        }
        let Some(reclaim) = self.reclaims.borrow_mut().remove(&vdisk.id) else { return };
        if reclaim.paused.get() && !reclaim.running.get() {
            reclaim.job.end(JobState::Cancelled);
        }
        reclaim.stirred.notify();
    }

    /// Lets all reclaims see that the pool is closing: what they hold of it stays locked until they have ended.
    pub(super) fn stir_reclaims(&self) {
        self.reclaims.borrow().values().for_each(|reclaim| reclaim.stirred.notify());
    }
}

/// A reclaim of a vdisk, at work.
struct Run<'a, M: Machine> {
    store: &'a Rc<Store<M>>,
    vdisk: &'a Rc<VdiskCore>,
    reclaim: &'a Reclaim,
}

impl<M: Machine> Run<'_, M> {
    /// `false`: it stopped before its end, because it was paused or the pool is closing.
    async fn run(&self) -> Result<bool> {
        let Run { store, vdisk, reclaim } = *self;
        if let Some(lost) = vdisk.mapping.first_lost() {
            self.pass_over(store.damaged(vdisk, lost))?;
        }
        let ended = match &reclaim.spec.ranges {
            Some(ranges) => self.ranges(ranges).await?,
            None => self.all().await?,
        };
        if !ended {
            return Ok(false);
        }
        // What is said to be free is free for good.
        store.flush_journal().await?;
        // One that was told to wait at its very end has nothing to wait for.
        reclaim.over.set(true);
        reclaim.paused.set(false);
        store.keep_reclaim(vdisk).await?;
        reclaim.pass(reclaim.total);
        if reclaim.spec.ranges.is_none() {
            store.note_reclaimed(vdisk, reclaim.packable.get());
        }
        reclaim.passed_over.take().map_or(Ok(true), Err)
    }

    async fn all(&self) -> Result<bool> {
        let Run { store, vdisk, reclaim } = *self;
        let leaf_bytes = LEAF_WORDS as u64 * store.media.extent_bytes;
        let mut written_down = reclaim.progress.read.get();
        let mut next = vdisk.mapping.next_sound(reclaim.done() / leaf_bytes);
        while let Some(leaf) = next {
            if let Err(lost) = vdisk.mapping.load_leaf(&store.media, &store.cache, leaf).await {
                self.pass_over(store.damaged(vdisk, lost))?;
            }
            let parts: Vec<Part> = match vdisk.mapping.tree.borrow().get(leaf) {
                Found::Page(page) => {
                    let first = leaf * LEAF_WORDS as u64;
                    let mapped = page.iter().enumerate().filter(|(_, word)| word.is_mapped());
                    mapped.map(|(slot, _)| (VirtualExtent(first + slot as u64), Blocks::ALL)).collect()
                }
                _ => Vec::new(),
            };
            let until = (leaf + 1) * leaf_bytes;
            if !self.look_through(&parts, until).await? {
                return Ok(false);
            }
            reclaim.pass(until);
            if let Some(packable) = reclaim.packable.get()
                && vdisk.surveyed.get().is_some()
            {
                reclaim.packable.set(Some(packable + store.packable_of(vdisk, leaf)));
            }
            if reclaim.progress.read.get() - written_down >= CURSOR_BYTES {
                written_down = reclaim.progress.read.get();
                store.keep_reclaim(vdisk).await?;
            }
            next = vdisk.mapping.next_sound(leaf + 1);
        }
        Ok(true)
    }

    /// Goes through ranges in ascending order, from where it was when it was paused.
    async fn ranges(&self, ranges: &[(u64, u64)]) -> Result<bool> {
        let Run { store, vdisk, reclaim } = *self;
        let (extent_bytes, block_bytes) = (store.media.extent_bytes, store.media.block_bytes());
        let leaf_bytes = LEAF_WORDS as u64 * extent_bytes;
        // Bytes of ranges before this one, and what of them need not be looked at again.
        let (mut before, skipped) = (0, reclaim.done());
        let (mut parts, mut leaves): (Vec<Part>, usize) = (Vec::new(), 0);
        for &(offset, length) in ranges {
            let end = offset + length;
            let mut at = (offset + skipped.saturating_sub(before)).min(end);
            while at < end {
                // Holes are passed by whole leaves, however large the range is.
                let leaf = at / leaf_bytes;
                let present = vdisk.mapping.next_sound(leaf).map_or(end, |next| (next * leaf_bytes).min(end));
                if present > at {
                    at = present;
                    continue;
                }
                let stop = ((leaf + 1) * leaf_bytes).min(end);
                for piece in pieces(at, stop - at, extent_bytes) {
                    let blocks = piece.whole_blocks(block_bytes);
                    let word = match vdisk.mapping.lookup(&store.media, &store.cache, piece.at).await {
                        Ok(word) => word,
                        Err(lost) => {
                            self.pass_over(store.damaged(vdisk, lost))?;
                            continue;
                        }
                    };
                    let wanted = if reclaim.spec.worthless { word.contents() } else { word.valid() };
                    if !wanted.overlaps(blocks) {
                        continue;
                    }
                    match parts.last_mut() {
                        // Several ranges in one extent are looked at together: only so they may become a fill.
                        Some((last, known)) if *last == piece.at => *known = known.with(blocks),
                        _ => {
                            // Ranges ascend, so a leaf that is not the last one's is a new one.
                            let in_new = parts.last().is_none_or(|(last, _)| last.leaf() != piece.at.leaf());
                            leaves += usize::from(in_new);
                            let too_many = parts.len() >= WORTHLESS_AT_ONCE
                                || (reclaim.spec.worthless && !store.may_change_at_once(leaves, parts.len() + 1));
                            if too_many && !parts.is_empty() {
                                let until = before + at + piece.from - offset;
                                if !self.pass(&parts, until).await? {
                                    return Ok(false);
                                }
                                parts.clear();
                                leaves = 1;
                                reclaim.pass(until);
                            }
                            parts.push((piece.at, blocks));
                        }
                    }
                }
                store.trim_cache();
                at = stop;
            }
            before += length;
        }
        self.pass(&parts, reclaim.total).await
    }

    async fn pass(&self, parts: &[Part], until: u64) -> Result<bool> {
        if !self.reclaim.spec.worthless {
            return self.look_through(parts, until).await;
        }
        if !self.goes_on()? {
            return Ok(false);
        }
        self.store.reclaim_worthless(self.vdisk, parts, &self.reclaim.progress).await?;
        Ok(true)
    }

    /// Looks at extents, several stretches at the same time; with the last of them `until` bytes are passed. `false`: it is to stop, and
    /// some of them were not looked at.
    async fn look_through(&self, parts: &[Part], until: u64) -> Result<bool> {
        let Run { store, vdisk, reclaim } = *self;
        let (from, count) = (reclaim.done(), parts.chunks(store.reclaim_extents_max()).len() as u64);
        let looked_at = Cell::new(0);
        let looked_at = &looked_at;
        let stretches = stream::iter(parts.chunks(store.reclaim_extents_max())).map(|stretch| async move {
            let bytes = stretch.len() as u64 * store.media.extent_bytes;
            // No `await` from the look to the wait: whatever stops it stirs it.
            if !self.goes_on()? {
                return Ok(false);
            }
            reclaim.pace(&store.media.machine, bytes).await;
            if !self.goes_on()? {
                return Ok(false);
            }
            if let Err(error) = store.reclaim_extents(vdisk, stretch, &reclaim.progress).await {
                self.pass_over(error)?;
                // One after the other, so that what is bad keeps nothing from its neighbours.
                for part in stretch.chunks(1).filter(|_| stretch.len() > 1) {
                    if let Err(error) = store.reclaim_extents(vdisk, part, &reclaim.progress).await {
                        self.pass_over(error)?;
                    }
                }
            }
            looked_at.set(looked_at.get() + 1);
            // Only told: where it is to go on is behind all of them.
            reclaim.job.progress(from + until.saturating_sub(from) * looked_at.get() / count);
            Ok::<bool, Error>(true)
        });
        let results: Vec<bool> = stretches.buffered(READS_AT_ONCE).try_collect().await?;
        Ok(results.into_iter().all(|goes_on| goes_on))
    }

    /// What cannot be read or found is left as it is, and said at the end; everything else ends a reclaim.
    fn pass_over(&self, error: Error) -> Result<()> {
        self.store.writable()?;
        if !matches!(error, Error::Damaged { .. } | Error::Device(_)) {
            return Err(error);
        }
        self.reclaim.passed_over.borrow_mut().get_or_insert(error);
        Ok(())
    }

    fn goes_on(&self) -> Result<bool> {
        if self.store.closing.get() || self.reclaim.paused.get() {
            return Ok(false);
        }
        self.store.still_there(self.vdisk)?;
        self.store.writable()?;
        Ok(true)
    }
}
