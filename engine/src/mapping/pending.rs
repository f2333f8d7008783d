//! Records that were replayed for leaves not yet read: opening a pool reads no leaf for a MAP, a MOVE or a FILL.

use futures_util::stream::{self, StreamExt};
use plimsoll_hardware::Machine;

use super::{Cache, Mapping};
use crate::format::{Blocks, ExtentId, LEAF_WORDS, PatternId, VirtualExtent, Word};
use crate::media::Media;
use crate::tree::Found;

/// Leaves read at the same time.
const READS_AT_ONCE: usize = 32;

/// A record waiting for its leaf.
pub(super) struct Delta {
    slot: usize,
    blocks: Blocks,
    what: What,
}

/// What the blocks get.
#[derive(Clone, Copy, PartialEq)]
enum What {
    Map(ExtentId),
    /// The word is this, whatever it was.
    Move(ExtentId),
    Fill(PatternId),
    /// They take the place of an extent: the word is this, whatever it was.
    FillInstead(PatternId),
}

impl What {
    fn extent(self) -> Option<ExtentId> {
        match self {
            What::Map(extent) | What::Move(extent) => Some(extent),
            What::Fill(_) | What::FillInstead(_) => None,
        }
    }
}

impl Delta {
    fn apply(&self, word: Word) -> Word {
        match self.what {
            What::Map(extent) => apply_map(word, extent, self.blocks),
            What::Move(extent) => Word::mapped(extent, self.blocks),
            What::Fill(pattern) => apply_fill(word, pattern, self.blocks),
            What::FillInstead(pattern) => Word::fill(pattern, self.blocks),
        }
    }
}

/// A word after a MAP record.
pub(crate) fn apply_map(word: Word, extent: ExtentId, blocks: Blocks) -> Word {
    let before = if word.is_mapped() && word.extent() == extent { word.valid() } else { Blocks::NONE };
    Word::mapped(extent, before.with(blocks))
}

/// A word after a FILL record. Where it takes the place of anything else, its blocks are all that have contents.
pub(crate) fn apply_fill(word: Word, pattern: PatternId, blocks: Blocks) -> Word {
    let before = if word.is_fill() && word.pattern() == pattern { word.filled() } else { Blocks::NONE };
    Word::fill(pattern, before.with(blocks))
}

impl Mapping {
    /// Keeps a replayed MAP until its leaf is wanted; one that is in memory already gets it now.
    pub(crate) fn postpone(&self, at: VirtualExtent, extent: ExtentId, blocks: Blocks) {
        self.push_pending(at, Delta { slot: at.slot(), blocks, what: What::Map(extent) });
    }

    /// As [`Mapping::postpone`], for a replayed MOVE.
    pub(crate) fn postpone_move(&self, at: VirtualExtent, to: ExtentId, blocks: Blocks) {
        self.push_pending(at, Delta { slot: at.slot(), blocks, what: What::Move(to) });
    }

    /// As [`Mapping::postpone`], for a FILL. `freed`: it took the place of an extent.
    pub(crate) fn postpone_fill(&self, at: VirtualExtent, pattern: PatternId, blocks: Blocks, freed: bool) {
        if freed && let Some(deltas) = self.pending.borrow_mut().get_mut(&at.leaf()) {
            // What waits names an extent that is free, and that somebody else may have by now.
            deltas.retain(|delta| delta.slot != at.slot());
        }
        // A fill of the same pattern may be in the leaf from before it had the extent.
        let what = if freed { What::FillInstead(pattern) } else { What::Fill(pattern) };
        self.push_pending(at, Delta { slot: at.slot(), blocks, what });
    }

    fn push_pending(&self, at: VirtualExtent, delta: Delta) {
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
            page.set(delta.slot, delta.apply(page.get(delta.slot)));
        }
    }

    /// The words that a leaf without any other contents has of what waits for it; none if nothing does.
    pub(crate) fn pending_words(&self, leaf: u64) -> Vec<Word> {
        let pending = self.pending.borrow();
        let Some(deltas) = pending.get(&leaf) else { return Vec::new() };
        let mut words = vec![Word::UNMAPPED; LEAF_WORDS];
        deltas.iter().for_each(|delta| words[delta.slot] = delta.apply(words[delta.slot]));
        words
    }

    /// Brings in every leaf that has something waiting. A checkpoint must, before it cuts. Lost leaves keep theirs; `false` when
    /// there is one that only cannot be read at present.
    pub(crate) async fn settle_pending<M: Machine>(&self, media: &Media<M>, cache: &Cache) -> bool {
        let leaves: Vec<u64> = self.pending.borrow().keys().copied().collect();
        let loads = stream::iter(leaves).map(async |leaf| {
            // What became of it shows in the tree.
            let _ = self.load_leaf(media, cache, leaf).await;
            !matches!(self.tree.borrow().get(leaf), Found::Unread(..))
        });
        loads.buffer_unordered(READS_AT_ONCE).fold(true, async |all, settled| all && settled).await
    }

    /// At most so many pages become dirty when all that waits is brought in.
    pub(crate) fn pending_pages(&self) -> u64 {
        self.tree.borrow().pages_to_change(self.pending.borrow().keys().copied())
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
                    emptied.extend(delta.what.extent());
                    return false;
                }
            }
            true
        });
        emptied.sort_unstable();
        emptied.dedup();
        emptied.retain(|&extent| {
            !deltas.iter().any(|delta| delta.slot == at.slot() && delta.what.extent() == Some(extent))
        });
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

    /// As [`Mapping::next_present`], leaving out what is lost: a lost node may stand for millions of leaves.
    pub(crate) fn next_sound(&self, leaf: u64) -> Option<u64> {
        let sound = self.tree.borrow().next_sound(leaf);
        sound.into_iter().chain(self.next_pending(leaf)).min()
    }

    /// First leaf at or after `leaf` that has something waiting.
    pub(crate) fn next_pending(&self, leaf: u64) -> Option<u64> {
        self.pending.borrow().range(leaf..).next().map(|(&waiting, _)| waiting)
    }
}
