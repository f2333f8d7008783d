//! Discarding: blocks lose their contents and extents that are left empty go back to the pool.
//!
//! One step without an `await`, under one batch: after a crash all of it happened or nothing. A range of more leaves than
//! [`Store::change_leaves_max`] is done in several such steps.

use std::rc::Rc;

use plimsoll_hardware::Machine;

use super::change::Change;
use super::range::pieces;
use super::{Store, VdiskCore, count};
use crate::error::Result;
use crate::format::{Blocks, ENTRY_BYTES, LEAF_WORDS, Record, VirtualExtent};
use crate::tree::Found;

/// Bytes of the record of a vdisk's entry.
pub(crate) const PUT_BYTES: usize = 8 + ENTRY_BYTES;
/// An UNMAP and a CLEAR at either end.
const CHANGE_BYTES: usize = 24 + 2 * 16;

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
            self.flush_journal().await?;
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
        let mut permit = self.permit(CHANGE_BYTES).await?;
        loop {
            for leaf in self.present_leaves(vdisk, first, end) {
                let loaded = vdisk.mapping.load_leaf(&self.media, &self.cache, leaf).await;
                loaded.map_err(|lost| self.damaged(vdisk, lost))?;
            }
            let Some(cuts) = self.cuts(vdisk, offset, length) else { continue };
            let records = records_of(vdisk, &cuts);
            let changes: Vec<Change> = cuts.into_iter().map(|(change, _)| change).collect();
            if changes.iter().filter_map(Change::leaves).all(|extent| self.space.is_loaded(extent)) {
                let (sequence, _) = self.apply(vdisk, &changes, &records, &mut permit);
                self.trim_cache();
                drop((permit, room));
                return self.outlast(sequence).await;
            }
            self.load_groups(&changes).await?;
        }
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

    /// What has to go at this instant, and the blocks of each extent that lie in the range; `None` when a leaf is not in memory.
    fn cuts(&self, vdisk: &VdiskCore, offset: u64, length: u64) -> Option<Vec<(Change, Blocks)>> {
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
                if word.contents().overlaps(blocks) {
                    cuts.push((Change { at: piece.at, before: word, after: word.without(blocks) }, blocks));
                }
            }
        }
        Some(cuts)
    }
}

/// The records of a discard: one for all extents that lie whole in it, and one for the part of an extent at either end.
fn records_of(vdisk: &VdiskCore, cuts: &[(Change, Blocks)]) -> Vec<Record> {
    let mut records = Vec::with_capacity(3);
    let (Some(first), Some(last)) = (cuts.first(), cuts.last()) else { return records };
    let mut inner = cuts.iter().filter(|(_, blocks)| *blocks == Blocks::ALL);
    if let Some((head, _)) = inner.next() {
        let end = inner.next_back().map_or(head, |(end, _)| end);
        records.push(Record::Unmap { vdisk: vdisk.id, first: head.at, count: end.at.0 - head.at.0 + 1 });
    }
    // Only the first and the last extent of a range can be cut in part.
    for (index, (cut, blocks)) in [first, last].into_iter().enumerate() {
        if *blocks != Blocks::ALL && (index == 0 || cuts.len() > 1) {
            records.push(Record::Clear { vdisk: vdisk.id, at: cut.at, blocks: *blocks });
        }
    }
    records
}
