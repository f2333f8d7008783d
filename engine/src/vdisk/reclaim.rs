//! Reading what extents hold, and giving back what need not be stored: blocks of zeros, and extents that repeat a pattern. Or only saying
//! what that would be.
//!
//! It goes on beside writes and holds none of them up: `mapping/watch.rs` says how. What is written while it is looked at is left
//! alone; so is an extent with a first write under way. Reads take no part in the epochs: whatever is read from an extent that was
//! given to somebody else meanwhile is thrown away, because its word has changed.

use std::cell::Cell;
use std::rc::Rc;

use futures_util::future::join_all;
use plimsoll_hardware::buffer::BUFFER_MAX;
use plimsoll_hardware::{Buffer, Machine};

use super::change::{Freed, Judged, Wanted};
use super::detect::Held;
use super::{Seen, Store, VdiskCore, count};
use crate::error::Result;
use crate::format::{Blocks, Detection, PatternId, VirtualExtent, Word};
use crate::mapping::{LostRange, Watch};
use crate::media::Drive;

/// How far a reclaim has come.
#[derive(Default)]
pub(crate) struct Progress {
    /// Bytes read.
    pub(crate) read: Cell<u64>,
    /// Blocks of zeros given back, blocks that became a fill, extents that came free of both.
    pub(crate) zeros: Cell<u64>,
    pub(crate) filled: Cell<u64>,
    pub(crate) extents: Cell<u64>,
}

impl Progress {
    pub(super) fn add(&self, freed: &Freed) {
        count(&self.zeros, freed.zeros);
        count(&self.filled, freed.filled);
        count(&self.extents, freed.extents);
    }
}

/// A virtual extent and those of its blocks that are looked at.
pub(crate) type Part = (VirtualExtent, Blocks);

/// One extent that is looked at.
struct Look {
    at: VirtualExtent,
    blocks: Blocks,
    word: Word,
    watch: Watch,
}

/// Neighbours on a device.
struct Run<D> {
    drive: Rc<Drive<D>>,
    offset: u64,
    length: u64,
}

impl<M: Machine> Store<M> {
    /// Extents that are looked at at once: as many as one buffer holds.
    pub(crate) fn reclaim_extents_max(&self) -> usize {
        (BUFFER_MAX as u64 / self.media.extent_bytes) as usize
    }

    /// Looks at these extents, at most [`Store::reclaim_extents_max`], and gives back what need not be stored.
    pub(crate) async fn reclaim_extents(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        parts: &[Part],
        progress: &Progress,
    ) -> Result<()> {
        let found = self.look_at(vdisk, parts).await?;
        count(&progress.read, found.len() as u64 * self.media.extent_bytes);
        let found: Vec<_> = found.into_iter().filter_map(|(look, wanted)| Some((look, wanted?))).collect();
        if !found.is_empty() {
            self.give_back(vdisk, &found, progress).await?;
        }
        Ok(())
    }

    /// Looks at these extents, at most [`Store::reclaim_extents_max`], and changes nothing. Left out is what may have changed meanwhile.
    pub(crate) async fn see_extents(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, parts: &[Part]) -> Result<Vec<Seen>> {
        let mut found = self.look_at(vdisk, parts).await?;
        found.retain(|(look, _)| !look.watch.is_hit() && !vdisk.mapping.claims.stands_on(look.at));
        let seen = found.into_iter().map(|(look, wanted)| {
            let filled = wanted.and_then(|wanted| wanted.fill).map_or(Blocks::NONE, |(_, blocks)| blocks);
            Seen {
                stored: look.word.valid().count().into(),
                zeros: wanted.map_or(0, |wanted| wanted.zeros.count()).into(),
                filled: filled.count().into(),
                alone: !look.word.is_packed(),
            }
        });
        Ok(seen.collect())
    }

    /// What these extents hold, and what of it need not be stored.
    async fn look_at(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, parts: &[Part]) -> Result<Vec<(Look, Option<Wanted>)>> {
        let Some(looks) = self.watch_extents(vdisk, parts).await? else { return Ok(Vec::new()) };
        let (extent_bytes, buffers) = (self.media.extent_bytes as usize, self.media.machine.buffers());
        let own = vdisk.entry.borrow().pattern;
        let (mut rest, mut found) = (looks, Vec::with_capacity(parts.len()));
        while !rest.is_empty() {
            let mut buffer = buffers.alloc_up_to(rest.len() * extent_bytes).await;
            if buffer.len() < extent_bytes {
                drop(buffer);
                buffer = buffers.alloc(extent_bytes).await;
            }
            // What was written since the watch began is left alone: it may go on.
            rest.retain(|look| !look.watch.is_hit());
            let some: Vec<Look> = rest.drain(..rest.len().min(buffer.len() / extent_bytes)).collect();
            if some.is_empty() {
                break;
            }
            buffer.truncate(some.len() * extent_bytes);
            let buffer = self.read_looks(vdisk, &some, buffer).await?;
            if self.media.is_lossy() {
                // What a device shows may be what it held before; the pool takes no more changes either.
                return self.writable().map(|()| Vec::new());
            }
            found.extend(some.into_iter().zip(buffer.chunks(extent_bytes)).map(|(look, bytes)| {
                let wanted = self.examine(&look, bytes, own);
                (look, wanted)
            }));
        }
        Ok(found)
    }

    /// Watches those of the extents that have anything to look at, and waits for the overwrites that are under way.
    async fn watch_extents(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, parts: &[Part]) -> Result<Option<Vec<Look>>> {
        let mut looks = Vec::with_capacity(parts.len());
        for &(at, blocks) in parts {
            let looked_up = vdisk.mapping.lookup(&self.media, &self.cache, at).await;
            let word = looked_up.map_err(|lost| self.damaged(vdisk, lost))?;
            if word.valid().overlaps(blocks) && !vdisk.mapping.claims.stands_on(at) {
                // No `await` since the look-up: the watch is hit by whatever changes the word from now on.
                looks.push(Look { at, blocks, word, watch: vdisk.mapping.watches.watch(at) });
            }
        }
        self.trim_cache();
        if looks.is_empty() {
            return Ok(None);
        }
        self.settle_overwrites(vdisk).await?;
        Ok(Some(looks))
    }

    /// Reads the extents into `buffer`, one after the other, in as few operations as they lie in.
    async fn read_looks(&self, vdisk: &VdiskCore, looks: &[Look], mut buffer: Buffer) -> Result<Buffer> {
        let extent_bytes = self.media.extent_bytes;
        let mut runs: Vec<Run<M::Device>> = Vec::new();
        for look in looks {
            let Some((drive, offset)) = self.media.locate(look.word.extent()) else {
                return Err(self.damaged(vdisk, LostRange { first: look.at, count: 1 }));
            };
            match runs.last_mut() {
                Some(last) if Rc::ptr_eq(&last.drive, &drive) && last.offset + last.length == offset => {
                    last.length += extent_bytes;
                }
                _ => runs.push(Run { drive, offset, length: extent_bytes }),
            }
        }
        let reads: Vec<_> = runs
            .iter()
            .map(|run| {
                let part = buffer.split_to(run.length as usize);
                run.drive.read(run.offset, part)
            })
            .collect();
        let mut whole: Option<Buffer> = None;
        for part in join_all(reads).await {
            let part = part?;
            match &mut whole {
                None => whole = Some(part),
                Some(whole) => whole.unsplit(part),
            }
        }
        Ok(whole.unwrap_or(buffer))
    }

    /// What an extent that holds `bytes` need not store.
    fn examine(&self, look: &Look, bytes: &[u8], own: Option<PatternId>) -> Option<Wanted> {
        let block_bytes = self.media.block_bytes() as usize;
        let mut wanted = Wanted { at: look.at, zeros: Blocks::NONE, fill: None };
        for block in look.word.valid().iter().filter(|&block| look.blocks.has(block)) {
            let one = Blocks::range(block, block + 1);
            let start = look.word.places(one).iter().next().map_or(0, |place| place as usize * block_bytes);
            match self.held(Detection::ON, own, &bytes[start..start + block_bytes]) {
                Held::Data => {}
                Held::Zeros => wanted.zeros = wanted.zeros.with(one),
                Held::Pattern(pattern) => {
                    let (first, blocks) = wanted.fill.unwrap_or((pattern, Blocks::NONE));
                    if first == pattern {
                        wanted.fill = Some((pattern, blocks.with(one)));
                    }
                }
            }
        }
        let filled = wanted.fill.map_or(Blocks::NONE, |(_, blocks)| blocks);
        if !filled.with(wanted.zeros).contains(look.word.valid()) {
            wanted.fill = None;
        }
        (!wanted.zeros.is_empty() || wanted.fill.is_some()).then_some(wanted)
    }

    /// Does what was found, where nothing was written since.
    async fn give_back(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        found: &[(Look, Wanted)],
        progress: &Progress,
    ) -> Result<()> {
        let wanted: Vec<Wanted> = found.iter().map(|(_, wanted)| *wanted).collect();
        let (mut permit, _room) = self.change_means(&wanted).await?;
        loop {
            // No `await` from here to the change.
            let changes: Vec<_> = found
                .iter()
                .filter(|(look, _)| !look.watch.is_hit() && !vdisk.mapping.claims.stands_on(look.at))
                .filter_map(|(look, wanted)| match self.judge(vdisk, wanted, look.word) {
                    Judged::Change(change) => Some(change),
                    Judged::Nothing | Judged::Refused => None,
                })
                .collect();
            // A word that nobody changed may have left memory, with its leaf.
            let absent = changes.iter().find(|change| vdisk.mapping.peek(change.at).is_none());
            if let Some(change) = absent {
                let looked_up = vdisk.mapping.lookup(&self.media, &self.cache, change.at).await;
                looked_up.map_err(|lost| self.damaged(vdisk, lost))?;
                continue;
            }
            let is_as_seen = |change: &&super::change::Change| matches!(vdisk.mapping.peek(change.at), Some(Ok(word)) if word == change.before);
            assert!(changes.iter().all(|change| is_as_seen(&change)), "a word changed and its watch was not hit");
            if changes.is_empty() {
                return Ok(());
            }
            if let Some(freed) = self.change_now(vdisk, &changes, &mut permit) {
                progress.add(&freed);
                count(&self.counters.zero_bytes, freed.zeros * self.media.block_bytes());
                count(&self.counters.pattern_bytes, freed.filled * self.media.block_bytes());
                return self.outlast(freed.sequence).await;
            }
            self.load_groups(&changes).await?;
        }
    }

    /// Takes all contents of these blocks, whatever they hold, as a write of zeros would.
    pub(crate) async fn reclaim_worthless(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        parts: &[Part],
        progress: &Progress,
    ) -> Result<()> {
        let wanted: Vec<Wanted> = parts.iter().map(|&(at, blocks)| Wanted { at, zeros: blocks, fill: None }).collect();
        let Some(first) = parts.first() else { return Ok(()) };
        let (freed, _) = self
            .change_scattered(vdisk, (first.0.0 * self.media.extent_bytes, u64::from(vdisk.sector.get())), &wanted)
            .await?;
        progress.add(&freed);
        Ok(())
    }
}
