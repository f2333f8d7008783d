//! What a write to one piece of a vdisk takes: claims and, at its edges, blocks that are written whole.

use std::cell::Cell;
use std::rc::Rc;

use plimsoll_hardware::{Buffer, Frozen, IoError, Machine};

use super::range::Piece;
use super::{Store, VdiskCore};
use crate::error::{Error, Result};
use crate::format::{Blocks, ExtentId};
use crate::mapping::Claimed;

/// Claimed blocks of one piece. Dropped without being published, it gives everything back.
pub(crate) struct ClaimGuard<M: Machine> {
    pub(super) store: Rc<Store<M>>,
    pub(super) vdisk: Rc<VdiskCore>,
    pub(crate) piece: Piece,
    pub(crate) blocks: Blocks,
    pub(crate) extent: Option<ExtentId>,
    /// A write to the extent is under way and must not be forgotten.
    pub(crate) writing: bool,
    /// Claimed blocks that had no contents when the write was submitted.
    pub(crate) new: Cell<Blocks>,
    /// First and last block when they are not covered whole: their whole contents, and whether they were read.
    pub(crate) edges: Vec<Edge>,
}

/// A block at the edge of a write that has to be written whole.
pub(crate) struct Edge {
    pub(crate) block: u32,
    pub(crate) contents: Frozen,
    /// The rest of it was read from the extent; otherwise it is zeros.
    pub(crate) was_valid: bool,
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
        let mapped = match self.vdisk.mapping.peek(self.piece.at) {
            Some(Ok(word)) => word.is_mapped() && word.extent() == extent,
            // The leaf left memory or was lost. While a claim stands its extent is either held or data of this word.
            _ => self.store.space.is_allocated(extent),
        };
        if mapped {
            return;
        }
        match claim.freed {
            Some(sequence) => self.store.space.quarantine_held(extent, sequence),
            None => self.store.space.forfeit(extent),
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
    pub(crate) async fn claim(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        piece: Piece,
        data: &Frozen,
    ) -> Result<Option<ClaimGuard<M>>> {
        loop {
            let looked_up = vdisk.mapping.lookup(&self.media, &self.cache, piece.at).await;
            let word = looked_up.map_err(|lost| self.damaged(vdisk, lost))?;
            let blocks = self.blocks_to_claim(vdisk, &piece, word.valid());
            if blocks.is_empty() {
                return Ok(None);
            }
            // Deleting waits for the claims it finds; none may come after.
            self.still_there(vdisk)?;
            let mapped = word.is_mapped().then(|| word.extent());
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
                writing: false,
                new: Cell::default(),
                edges: Vec::new(),
            };
            let extent = match claimed {
                Claimed::In(extent) => extent,
                _ => {
                    let extent = self.take_extent(vdisk, &piece).await?;
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

    /// An extent for a first write. Space that is only waiting for a flush is waited for.
    async fn take_extent(self: &Rc<Self>, vdisk: &VdiskCore, piece: &Piece) -> Result<ExtentId> {
        loop {
            match self.space.take(vdisk.id, piece.at).await {
                Ok(extent) => return Ok(extent),
                Err(full) => {
                    if !self.recover_quarantine().await? {
                        let (pool, free) = (self.identity.name.clone(), self.space.available());
                        tracing::debug!(unused = full.free, "a write found no extent");
                        return Err(Error::OutOfSpace { pool, needed: 1, free });
                    }
                }
            }
        }
    }

    /// Makes freed extents usable that only wait for their record to be durable; `false` when that gained nothing.
    pub(super) async fn recover_quarantine(self: &Rc<Self>) -> Result<bool> {
        if self.space.release_quarantine(self.journal.durable()) {
            return Ok(true);
        }
        let Some(sequence) = self.space.quarantine.borrow().waits_for() else { return Ok(false) };
        if sequence <= self.journal.durable() {
            // Only operations in flight keep it; none of them waits for space.
            return Ok(self.space.epochs.wait().await);
        }
        self.journal.flush().await.map_err(|failure| self.journal_failed(failure))?;
        Ok(self.space.release_quarantine(self.journal.durable()))
    }

    /// Makes the whole contents of the first and last block of a claimed piece where the request has only a part of
    /// them and a part cannot be written; `false` when the block was discarded meanwhile and all must start again.
    async fn prepare_edges(&self, vdisk: &VdiskCore, guard: &mut ClaimGuard<M>, data: &Frozen) -> Result<bool> {
        let block_bytes = self.media.block_bytes();
        let piece = guard.piece;
        let partial = piece.blocks(block_bytes).without(piece.whole_blocks(block_bytes));
        for block in (0..16).filter(|&block| partial.has(block)) {
            let Some(Ok(word)) = vdisk.mapping.peek(piece.at) else { return Ok(false) };
            let valid = word.valid().has(block);
            let start = u64::from(block) * block_bytes;
            let from = piece.offset.max(start);
            let until = (piece.offset + piece.length).min(start + block_bytes);
            if valid && self.is_device_aligned(from, until - from) {
                continue;
            }
            let mut contents = self.media.buffers().alloc(block_bytes as usize).await;
            if valid {
                self.settle_narrow_writes().await;
                contents = self.read_block(word.extent(), start, contents).await?;
            } else {
                contents.fill(0);
            }
            let source = (piece.from + from - piece.offset) as usize;
            let length = (until - from) as usize;
            contents[(from - start) as usize..][..length].copy_from_slice(&data[source..source + length]);
            guard.edges.push(Edge { block, contents: contents.freeze(), was_valid: valid });
        }
        Ok(true)
    }

    /// Waits for writes that began when a device's block was smaller: a block read now may lack them.
    async fn settle_narrow_writes(&self) {
        while let Some(epoch) = self.checkpoint.narrow_writes.get() {
            if self.space.epochs.is_over(epoch) || !self.space.epochs.wait().await {
                self.checkpoint.narrow_writes.set(None);
            }
        }
    }

    async fn read_block(&self, extent: ExtentId, inside: u64, buffer: Buffer) -> std::result::Result<Buffer, IoError> {
        let _epoch = self.space.epochs.enter();
        match self.media.locate(extent) {
            Some((drive, start)) => drive.read(start + inside, buffer).await,
            None => Ok(buffer),
        }
    }
}
