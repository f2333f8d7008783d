//! What a write to one piece of a vdisk takes: claims and, at its edges, blocks that are written whole.

use std::cell::Cell;
use std::rc::Rc;

use plimsoll_hardware::{Buffer, Frozen, IoError, Machine};

use super::range::Piece;
use super::ticket::Asked;
use super::wait_for_space::Grant;
use super::{Store, VdiskCore};
use crate::error::{Error, Result};
use crate::event::Shortage;
use crate::format::{Blocks, ExtentId, OnFull, VirtualExtent, Word};
use crate::mapping::{Claimed, LostRange, Pattern};
use crate::space::Rest;

/// Claimed blocks of one piece. Dropped without being published, it gives everything back.
pub(crate) struct ClaimGuard<M: Machine> {
    pub(super) store: Rc<Store<M>>,
    pub(super) vdisk: Rc<VdiskCore>,
    pub(crate) piece: Piece,
    pub(crate) blocks: Blocks,
    pub(crate) extent: Option<ExtentId>,
    /// The extent is that of a packed word: only blocks with contents may be written.
    pub(super) packed: bool,
    /// A write to the extent is under way and must not be forgotten.
    pub(crate) writing: bool,
    /// Claimed blocks that had no contents when the write was submitted.
    pub(crate) new: Cell<Blocks>,
    /// First and last block when they are not covered whole: their whole contents, and whether they were read.
    pub(crate) edges: Vec<Edge>,
    /// Where the word is a fill: its blocks that the request does not touch, which the extent has to hold from now on, and the
    /// pattern over a whole extent.
    pub(crate) backdrop: Option<(Blocks, Frozen)>,
}

/// What may take an extent: for whom, and what it was granted when it was held.
pub(super) type Turn<'a, M> = (&'a Asked<'a>, Option<&'a Grant<M>>);

/// Why a piece was not claimed.
pub(super) enum Refused {
    /// There is no extent for it.
    Short(Shortage),
    /// The word is packed, and blocks without contents need an extent of its own: see `Store::unpack`.
    Packed(VirtualExtent),
    Failed(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused::Failed(error)
    }
}

/// A block at the edge of a write that has to be written whole.
pub(crate) struct Edge {
    pub(crate) block: u32,
    pub(crate) contents: Frozen,
    /// The rest of it had contents: in the extent, or a pattern; otherwise it is zeros.
    pub(crate) was_valid: bool,
}

impl<M: Machine> ClaimGuard<M> {
    /// Blocks of the fill behind the request.
    pub(super) fn backdrop_blocks(&self) -> Blocks {
        self.backdrop.as_ref().map_or(Blocks::NONE, |(blocks, _)| *blocks)
    }

    /// Blocks written beyond what was asked for that had contents and have none any more.
    pub(super) fn discarded(&self, word: Word) -> Blocks {
        let edges = self.edges.iter().filter(|edge| edge.was_valid).map(|edge| edge.block);
        let edges = edges.fold(Blocks::NONE, |blocks, block| blocks.with(Blocks::range(block, block + 1)));
        edges.with(self.backdrop_blocks()).without(word.contents())
    }
}

impl<M: Machine> Drop for ClaimGuard<M> {
    fn drop(&mut self) {
        if self.writing {
            // The caller went away while the device was writing. Whatever becomes of it must not reach a new owner.
            tracing::warn!(extent = ?self.extent, "a write was abandoned; its extent is kept until the pool is reopened");
            return;
        }
        let Some(claim) = self.vdisk.mapping.claims.release(self.piece.at, self.blocks) else { return };
        let Some(extent) = claim.extent else { return };
        let account = &self.vdisk.mapping.account;
        if self.packed {
            if let Some(sequence) = claim.freed {
                self.store.space.quarantine_held(account, extent, sequence, Rest::Confirmed);
            }
            return;
        }
        let mapped = match self.vdisk.mapping.peek(self.piece.at) {
            Some(Ok(word)) => word.is_mapped() && word.extent() == extent,
            // The leaf left memory or was lost. While a claim stands its extent is either held or data of this word.
            _ => self.store.space.is_allocated(extent),
        };
        if mapped {
            return;
        }
        match claim.freed {
            Some(sequence) => self.store.space.quarantine_held(account, extent, sequence, Rest::Durable),
            None => self.store.space.forfeit(account, extent),
        }
    }
}

impl<M: Machine> Store<M> {
    /// Blocks of `piece` that a write cannot simply overwrite: those without contents, and those that the device can
    /// only write whole and the request does not.
    pub(crate) fn blocks_to_claim(&self, vdisk: &VdiskCore, piece: &Piece, valid: Blocks) -> Blocks {
        let block_bytes = self.media.block_bytes();
        let touched = piece.blocks(block_bytes);
        if vdisk.sector.get() < self.media.logical_block() {
            // A write beside ours in the same device block would read what we are about to change.
            return touched;
        }
        if valid.contains(touched) { Blocks::NONE } else { touched }
    }

    /// Claims what a write of `piece` needs, waiting for writers of the same blocks; `None` when it can overwrite.
    pub(super) async fn claim(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        piece: Piece,
        data: &Frozen,
        (asked, grant): Turn<'_, M>,
    ) -> std::result::Result<Option<ClaimGuard<M>>, Refused> {
        loop {
            let looked_up = vdisk.mapping.lookup(&self.media, &self.cache, piece.at).await;
            let word = looked_up.map_err(|lost| self.damaged(vdisk, lost))?;
            let blocks = self.blocks_to_claim(vdisk, &piece, word.valid());
            if blocks.is_empty() {
                return Ok(None);
            }
            // Deleting waits for the claims it finds; none may come after.
            self.still_there(vdisk)?;
            if word.is_packed() && !word.valid().contains(blocks) {
                return Err(Refused::Packed(piece.at));
            }
            let mapped = word.is_mapped().then(|| word.extent());
            // What takes the place of a fill does so for all its blocks. To a packed extent nobody adds under a claim.
            let blocks = if word.is_fill() || word.is_packed() { Blocks::ALL } else { blocks };
            let claimed = vdisk.mapping.claims.claim(piece.at, blocks, mapped);
            if claimed == Claimed::Taken {
                vdisk.mapping.claims.released.changed().await;
                continue;
            }
            let mut guard = ClaimGuard {
                store: self.clone(),
                vdisk: vdisk.clone(),
                piece,
                blocks: if claimed == Claimed::Empty { Blocks::ALL } else { blocks },
                extent: None,
                packed: word.is_packed(),
                writing: false,
                new: Cell::default(),
                edges: Vec::new(),
                backdrop: None,
            };
            let extent = match claimed {
                Claimed::In(extent) => extent,
                _ => {
                    let extent = self.take_extent(vdisk, piece.at, (asked, grant)).await?;
                    guard.blocks = blocks;
                    vdisk.mapping.claims.supply(piece.at, blocks, extent);
                    extent
                }
            };
            guard.extent = Some(extent);
            if self.prepare_edges(vdisk, &mut guard, data).await? {
                return Ok(Some(guard));
            }
        }
    }

    /// An extent for a first write: one that was granted, or one that nobody who waits has come before. Space that is only waiting for a
    /// flush is waited for.
    pub(super) async fn take_extent(
        self: &Rc<Self>,
        vdisk: &VdiskCore,
        at: VirtualExtent,
        (asked, grant): Turn<'_, M>,
    ) -> std::result::Result<ExtentId, Refused> {
        let account = &vdisk.mapping.account;
        loop {
            let granted = grant.filter(|grant| grant.is_left());
            if granted.is_none() && self.holds.is_behind(vdisk) && asked.on_full(vdisk) != OnFull::Fail {
                let lacking = self.space.shortage(account, 1).unwrap_or_else(|| self.holds.lack_before(vdisk));
                return Err(Refused::Short(lacking));
            }
            match self.space.take(account, vdisk.id, at, granted.is_some()).await {
                Ok(extent) => {
                    // No `await` since it was taken.
                    granted.inspect(|grant| grant.used());
                    return Ok(extent);
                }
                Err(shortage) => {
                    // Who would fail instead of waiting finds out by this that there is room again.
                    if shortage == Shortage::DeviceFull && self.look_for_room().await {
                        continue;
                    }
                    if !matches!(shortage, Shortage::PoolFull | Shortage::Reserved | Shortage::DeviceFull)
                        || !self.recover_quarantine().await?
                    {
                        return Err(Refused::Short(shortage));
                    }
                }
            }
        }
    }

    /// As [`Store::take_extent`], when there is nothing to wait for and nobody who waits.
    pub(super) fn take_at_once(&self, vdisk: &VdiskCore, at: VirtualExtent) -> Option<ExtentId> {
        if self.holds.is_behind(vdisk) {
            return None;
        }
        self.space.take_at_once(&vdisk.mapping.account, vdisk.id, at)
    }

    /// Makes freed extents usable that only wait for their record to be durable; `false` when that gained nothing.
    pub(crate) async fn recover_quarantine(self: &Rc<Self>) -> Result<bool> {
        if self.release_freed() {
            return Ok(true);
        }
        let freed = self.space.quarantine.borrow().waits_for();
        let moved = self.space.moved.borrow().waits_for();
        match (freed, moved) {
            (None, None) => return Ok(false),
            (Some(sequence), _) if sequence > self.journal.durable() => self.flush_journal().await?,
            (_, Some(sequence)) if sequence > self.journal.confirmed() => self.confirm(sequence).await?,
            // Only operations in flight keep it; none of them waits for space.
            _ => return Ok(self.space.epochs.wait().await),
        }
        // Nothing is released here when whoever waited for the same flush was faster, or when operations in flight keep it
        // still. Either way the record is safe now, and it is worth looking again.
        self.release_freed();
        Ok(true)
    }

    /// Makes usable what was freed and need not rest any more; `false`: nothing.
    pub(crate) fn release_freed(&self) -> bool {
        self.space.release_quarantine(self.journal.durable(), self.journal.confirmed())
    }

    /// Makes the whole contents of the first and last block of a claimed piece where the request has only a part of
    /// them and a part cannot be written; `false` when the block was discarded meanwhile and all must start again.
    async fn prepare_edges(&self, vdisk: &VdiskCore, guard: &mut ClaimGuard<M>, data: &Frozen) -> Result<bool> {
        let block_bytes = self.media.block_bytes();
        let piece = guard.piece;
        let partial = piece.blocks(block_bytes).without(piece.whole_blocks(block_bytes));
        for block in partial.iter() {
            let Some(Ok(word)) = vdisk.mapping.peek(piece.at) else { return Ok(false) };
            let valid = word.contents().has(block);
            let start = u64::from(block) * block_bytes;
            let from = piece.offset.max(start);
            let until = (piece.offset + piece.length).min(start + block_bytes);
            if word.valid().has(block) && self.is_device_aligned(from, until - from) {
                continue;
            }
            let mut contents = self.media.buffers().alloc(block_bytes as usize).await;
            if word.valid().has(block) {
                self.settle_narrow_writes().await;
                contents = self.read_block(word, block, contents).await?;
            } else if valid {
                self.pattern_of(vdisk, piece.at, word)?.fill(&mut contents, 0);
            } else {
                contents.fill(0);
            }
            let source = (piece.from + from - piece.offset) as usize;
            let length = (until - from) as usize;
            contents[(from - start) as usize..][..length].copy_from_slice(&data[source..source + length]);
            guard.edges.push(Edge { block, contents: contents.freeze(), was_valid: valid });
        }
        self.prepare_backdrop(vdisk, guard).await
    }

    /// Where the word is a fill, its blocks that the request does not touch: an extent is to hold them too.
    async fn prepare_backdrop(&self, vdisk: &VdiskCore, guard: &mut ClaimGuard<M>) -> Result<bool> {
        let block_bytes = self.media.block_bytes();
        let Some(Ok(word)) = vdisk.mapping.peek(guard.piece.at) else { return Ok(false) };
        let others = word.filled().without(guard.piece.blocks(block_bytes));
        if others.is_empty() {
            return Ok(true);
        }
        let pattern = self.pattern_of(vdisk, guard.piece.at, word)?;
        let mut contents = self.media.buffers().alloc(self.media.extent_bytes as usize).await;
        pattern.fill(&mut contents, 0);
        guard.backdrop = Some((others, contents.freeze()));
        Ok(true)
    }

    /// The pattern of a fill.
    pub(super) fn pattern_of(&self, vdisk: &VdiskCore, at: VirtualExtent, word: Word) -> Result<Rc<Pattern>> {
        let pattern = self.patterns.get(word.pattern());
        pattern.ok_or_else(|| self.damaged(vdisk, LostRange { first: at, count: 1 }))
    }

    /// Waits for writes that began when a device's block was smaller: a block read now may lack them.
    async fn settle_narrow_writes(&self) {
        while let Some(epoch) = self.checkpoint.narrow_writes.get() {
            if self.space.epochs.is_over(epoch) || !self.space.epochs.wait().await {
                self.checkpoint.narrow_writes.set(None);
            }
        }
    }

    async fn read_block(&self, word: Word, block: u32, buffer: Buffer) -> std::result::Result<Buffer, IoError> {
        let _epoch = self.space.epochs.enter();
        let place = word.places(Blocks::range(block, block + 1)).iter().next();
        match self.media.locate(word.extent()).zip(place) {
            Some(((drive, start), place)) => {
                drive.read(start + u64::from(place) * self.media.block_bytes(), buffer).await
            }
            None => Ok(buffer),
        }
    }
}
