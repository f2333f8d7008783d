//! Records that were replayed for leaves not yet read: opening a pool reads no leaf for a MAP or a MOVE.

use plimsoll_hardware::Machine;

use super::{Cache, Mapping};
use crate::format::{Blocks, ExtentId, VirtualExtent, Word};
use crate::media::Media;
use crate::tree::Found;

/// A MAP or MOVE record waiting for its leaf.
pub(super) struct Delta {
    slot: usize,
    extent: ExtentId,
    blocks: Blocks,
    /// A MOVE: the word is this, whatever it was.
    whole: bool,
}

impl Delta {
    fn applied_to(&self, word: Word) -> Word {
        match self.whole {
            true => Word::mapped(self.extent, self.blocks),
            false => apply_map(word, self.extent, self.blocks),
        }
    }
}

/// A word after a MAP record.
pub(crate) fn apply_map(word: Word, extent: ExtentId, blocks: Blocks) -> Word {
    let before = if word.is_mapped() && word.extent() == extent { word.valid() } else { Blocks::NONE };
    Word::mapped(extent, before.with(blocks))
}

impl Mapping {
    /// Keeps a replayed MAP until its leaf is wanted; one that is in memory already gets it now.
    pub(crate) fn postpone(&self, at: VirtualExtent, extent: ExtentId, blocks: Blocks) {
        self.keep(at, Delta { slot: at.slot(), extent, blocks, whole: false });
    }

    /// As [`Mapping::postpone`], for a replayed MOVE.
    pub(crate) fn postpone_move(&self, at: VirtualExtent, to: ExtentId, blocks: Blocks) {
        self.keep(at, Delta { slot: at.slot(), extent: to, blocks, whole: true });
    }

    fn keep(&self, at: VirtualExtent, delta: Delta) {
        self.pending.borrow_mut().entry(at.leaf()).or_default().push(delta);
        if matches!(self.tree.borrow().get(at.leaf()), Found::Page(_)) {
            self.apply_pending(at.leaf());
        }
    }

    pub(super) fn apply_pending(&self, leaf: u64) {
        if self.pending.borrow().is_empty() {
            return;
        }
        let Some(deltas) = self.pending.borrow_mut().remove(&leaf) else { return };
        let mut tree = self.tree.borrow_mut();
        let page = tree.change(leaf);
        for delta in deltas {
            page.set(delta.slot, delta.applied_to(page.get(delta.slot)));
        }
    }

    /// Brings in every leaf that has something waiting. A checkpoint must, before it cuts. Lost leaves keep theirs; `false` when
    /// there is one that only cannot be read at present.
    pub(crate) async fn settle_pending<M: Machine>(&self, media: &Media<M>, cache: &Cache) -> bool {
        let leaves: Vec<u64> = self.pending.borrow().keys().copied().collect();
        let mut settled = true;
        for leaf in leaves {
            // What became of it shows in the tree.
            let _ = self.load_leaf(media, cache, leaf).await;
            settled &= !matches!(self.tree.borrow().get(leaf), Found::Unread(..));
        }
        settled
    }

    /// Takes `blocks` out of what waits for a leaf that is lost. Answers the extents that nothing waiting names any more.
    pub(crate) fn withdraw(&self, at: VirtualExtent, blocks: Blocks) -> Vec<ExtentId> {
        let mut pending = self.pending.borrow_mut();
        let Some(deltas) = pending.get_mut(&at.leaf()) else { return Vec::new() };
        let mut emptied = Vec::new();
        deltas.retain_mut(|delta| {
            if delta.slot == at.slot() {
                delta.blocks = delta.blocks.without(blocks);
                if delta.blocks.is_empty() {
                    emptied.push(delta.extent);
                    return false;
                }
            }
            true
        });
        emptied.sort_unstable();
        emptied.dedup();
        emptied.retain(|extent| !deltas.iter().any(|delta| delta.slot == at.slot() && delta.extent == *extent));
        if deltas.is_empty() {
            pending.remove(&at.leaf());
        }
        emptied
    }

    /// First leaf at or after `leaf` that exists or has something waiting.
    pub(crate) fn next_present(&self, leaf: u64) -> Option<u64> {
        let present = self.tree.borrow().next_present(leaf);
        present.into_iter().chain(self.next_pending(leaf)).min()
    }

    /// First leaf at or after `leaf` that has something waiting.
    pub(crate) fn next_pending(&self, leaf: u64) -> Option<u64> {
        self.pending.borrow().range(leaf..).next().map(|(&waiting, _)| waiting)
    }
}
