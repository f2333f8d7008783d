//! Discarding: blocks lose their contents and extents that are left empty go back to the pool.
//!
//! One step without an `await`, under one batch: after a crash all of it happened or nothing. A range of more leaves than
//! [`Store::change_leaves_max`] is done in several such steps.

use std::rc::Rc;

use plimsoll_hardware::Machine;

use super::range::pieces;
use super::{Store, VdiskCore, count};
use crate::error::Result;
use crate::format::{Blocks, ENTRY_BYTES, ExtentId, LEAF_WORDS, Record, VirtualExtent, Word};
use crate::journal::Permit;
use crate::tree::Found;

/// Bytes of the record of a vdisk's entry.
pub(crate) const PUT_BYTES: usize = 8 + ENTRY_BYTES;
/// An UNMAP and a CLEAR at either end.
const CHANGE_BYTES: usize = 24 + 2 * 16;

/// What a discard takes out of one word.
struct Cut {
    at: VirtualExtent,
    blocks: Blocks,
    word: Word,
}

impl<M: Machine> Store<M> {
    /// Discards the blocks that lie whole in the range; parts of blocks at its ends keep their contents.
    pub(crate) async fn discard(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        offset: u64,
        length: u64,
        durable: bool,
    ) -> Result<()> {
        self.check_range(vdisk, "a discard", offset, length)?;
        self.writable()?;
        count(&self.counters.discards, 1);
        self.discard_unchecked(vdisk, offset, length).await?;
        if durable || vdisk.write_through.get() {
            self.journal.flush().await.map_err(|failure| self.journal_failed(failure))?;
        }
        Ok(())
    }

    /// Leaves that one discard takes at once: a quarter of the dirty pages allowed, at most 256 (8 GiB at 64 KiB).
    fn change_leaves_max(&self) -> u64 {
        (self.space.dirty_max() as u64 / 4).clamp(4, 256)
    }

    /// As [`Store::discard`], also beyond the end of a vdisk that is shrinking, and of one that is being deleted.
    pub(crate) async fn discard_unchecked(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        let step = self.change_leaves_max() * LEAF_WORDS as u64 * self.media.extent_bytes;
        let end = offset.saturating_add(length);
        let mut at = offset;
        let leaf = LEAF_WORDS as u64 * self.media.extent_bytes;
        // Passes over leaves that do not exist: a vdisk has room for half a billion of them.
        while at < end
            && let Some(present) = vdisk.mapping.next_present(at / leaf)
        {
            at = at.max(present * leaf);
            if at >= end {
                break;
            }
            // Cut at multiples of the step, so that extents are not split.
            let until = (at / step + 1).saturating_mul(step).min(end);
            self.discard_step(vdisk, at, until - at).await?;
            at = until;
        }
        Ok(())
    }

    async fn discard_step(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, offset: u64, length: u64) -> Result<()> {
        let extent = self.media.extent_bytes;
        let (first, end) = (VirtualExtent(offset / extent), VirtualExtent((offset + length).div_ceil(extent)));
        let leaves = self.present_leaves(vdisk, first, end).len();
        if leaves == 0 {
            return Ok(());
        }
        // Each extent may be in another group.
        let groups = (end.0 - first.0).min(leaves as u64 * LEAF_WORDS as u64).min(self.space.group_count());
        let room = self.room(leaves * 3 + 8 + groups as usize).await?;
        let permit = self.journal.reserve(CHANGE_BYTES).await;
        let mut permit = permit.map_err(|failure| self.journal_failed(failure))?;
        loop {
            for leaf in self.present_leaves(vdisk, first, end) {
                let loaded = vdisk.mapping.load_leaf(&self.media, &self.cache, leaf).await;
                loaded.map_err(|lost| self.damaged(vdisk, lost))?;
            }
            let Some(cuts) = self.cuts(vdisk, offset, length) else { continue };
            let extents: Vec<ExtentId> = cuts.iter().filter(|cut| cut.empties()).map(|cut| cut.word.extent()).collect();
            if extents.iter().all(|&extent| self.space.is_loaded(extent)) {
                let sequence = self.apply(vdisk, &cuts, extents, &mut permit);
                self.trim_cache();
                drop((permit, room));
                return self.outlast(sequence).await;
            }
            if let Err(lost) = self.space.load_groups_of(extents).await {
                tracing::error!(?lost, "an allocation group is lost; extents in it cannot be freed until a repair");
                return Err(self.group_lost());
            }
        }
    }

    pub(super) fn group_lost(&self) -> crate::Error {
        let reason = "an allocation group is damaged in both copies; see plimsoll pool check --repair".to_owned();
        crate::Error::ReadOnly { pool: self.identity.name.clone(), reason, cause: None }
    }

    /// Leaves that exist, or wait for something replayed, among those of `first..end`.
    fn present_leaves(&self, vdisk: &VdiskCore, first: VirtualExtent, end: VirtualExtent) -> Vec<u64> {
        let tree = vdisk.mapping.tree.borrow();
        let last = (end.0 - 1) / LEAF_WORDS as u64;
        let mut leaves = Vec::new();
        let mut at = first.leaf();
        loop {
            let next = tree.next_present(at).into_iter().chain(vdisk.mapping.next_pending(at)).min();
            match next {
                Some(leaf) if leaf <= last => {
                    leaves.push(leaf);
                    at = leaf + 1;
                }
                _ => return leaves,
            }
        }
    }

    /// What has to go at this instant; `None` when a leaf is not in memory.
    fn cuts(&self, vdisk: &VdiskCore, offset: u64, length: u64) -> Option<Vec<Cut>> {
        let (extent_bytes, block_bytes) = (self.media.extent_bytes, self.media.block_bytes());
        let end = VirtualExtent((offset + length).div_ceil(extent_bytes));
        let mut cuts = Vec::new();
        let tree = vdisk.mapping.tree.borrow();
        for leaf in self.present_leaves(vdisk, VirtualExtent(offset / extent_bytes), end) {
            let Found::Page(page) = tree.get(leaf) else { return None };
            let start = leaf * LEAF_WORDS as u64 * extent_bytes;
            let from = offset.max(start);
            let until = (offset + length).min(start + LEAF_WORDS as u64 * extent_bytes);
            for piece in pieces(from, until - from, extent_bytes) {
                let word = page.get(piece.at.slot());
                let blocks = piece.whole_blocks(block_bytes);
                if word.is_mapped() && word.valid().overlaps(blocks) {
                    cuts.push(Cut { at: piece.at, blocks, word });
                }
            }
        }
        Some(cuts)
    }

    /// Answers the batch of the records, 0 when none was needed.
    fn apply(&self, vdisk: &VdiskCore, cuts: &[Cut], mut freed: Vec<ExtentId>, permit: &mut Permit<M>) -> u64 {
        let (Some(first), Some(last)) = (cuts.first(), cuts.last()) else { return 0 };
        let mut records = Vec::with_capacity(3);
        let whole = |cut: &&Cut| cut.blocks == Blocks::ALL;
        let mut inner = cuts.iter().filter(whole);
        if let Some(head) = inner.next() {
            let end = inner.next_back().unwrap_or(head);
            records.push(Record::Unmap { vdisk: vdisk.id, first: head.at, count: end.at.0 - head.at.0 + 1 });
        }
        // Only the first and the last extent of a range can be cut in part.
        for (index, cut) in [first, last].into_iter().enumerate() {
            if cut.blocks != Blocks::ALL && (index == 0 || cuts.len() > 1) {
                records.push(Record::Clear { vdisk: vdisk.id, at: cut.at, blocks: cut.blocks });
            }
        }
        let mut emptied = 0;
        let epoch = self.space.epochs.advance();
        let in_flight = !self.space.epochs.is_over(epoch);
        let mut settling = vdisk.mapping.settling.borrow_mut();
        settling.retain(|_, epoch| !self.space.epochs.is_over(*epoch));
        for cut in cuts {
            let left = cut.word.valid().without(cut.blocks);
            if left.is_empty() {
                emptied += 1;
                vdisk.mapping.set(&self.cache, cut.at, Word::UNMAPPED);
                if vdisk.mapping.claims.note_freed(cut.at, self.journal.pending_sequence()) {
                    if in_flight {
                        settling.insert(cut.at, epoch);
                    }
                    self.space.free_but_hold(cut.word.extent());
                    freed.retain(|&extent| extent != cut.word.extent());
                }
            } else {
                vdisk.mapping.set(&self.cache, cut.at, Word::mapped(cut.word.extent(), left));
                if in_flight {
                    settling.insert(cut.at, epoch);
                }
            }
        }
        drop(settling);
        vdisk.mapping.backed.set(vdisk.mapping.backed.get() - emptied);
        let sequence = self.journal.append(permit, &records);
        self.space.free(freed, sequence);
        self.space.release_quarantine(self.journal.durable());
        sequence
    }
}

impl Cut {
    fn empties(&self) -> bool {
        self.word.valid().without(self.blocks).is_empty()
    }
}
