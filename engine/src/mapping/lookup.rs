//! Finding and changing words.

use plimsoll_hardware::Machine;

use super::{Cache, Mapping};
use crate::format::{ExtentId, LEAF_WORDS, Payload, VirtualExtent, Word};
use crate::media::Media;
use crate::tree::{Found, load};

/// Virtual extents whose mapping is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LostRange {
    pub(crate) first: VirtualExtent,
    pub(crate) count: u64,
}

impl Mapping {
    /// The first leaf that is lost, or is behind a lost node, as far as is known.
    pub(crate) fn first_lost(&self) -> Option<LostRange> {
        self.tree.borrow().first_lost().map(|leaf| lost(VirtualExtent::in_leaf(leaf, 0)))
    }

    /// The word of `at`, when it is in memory.
    pub(crate) fn peek(&self, at: VirtualExtent) -> Option<Result<Word, LostRange>> {
        match self.tree.borrow().get(at.leaf()) {
            Found::Page(leaf) => Some(Ok(leaf.get(at.slot()))),
            Found::Absent if !self.pending.borrow().contains_key(&at.leaf()) => Some(Ok(Word::UNMAPPED)),
            Found::Absent | Found::Unread(..) => None,
            Found::Lost => Some(Err(lost(at))),
        }
    }

    /// Whether a leaf that is in memory, or absent, says anything.
    pub(crate) fn has_words(&self, leaf: u64) -> bool {
        match self.tree.borrow().get(leaf) {
            Found::Page(page) => !page.is_empty(),
            Found::Absent => false,
            Found::Unread(..) | Found::Lost => true,
        }
    }

    /// The word of `at`, read from the devices when it is not in memory.
    pub(crate) async fn lookup<M: Machine>(
        &self,
        media: &Media<M>,
        cache: &Cache,
        at: VirtualExtent,
    ) -> Result<Word, LostRange> {
        if let Some(found) = self.peek(at) {
            return found;
        }
        // Boxed: who looks words up on the path of I/O should not carry what a read from the devices needs.
        Box::pin(self.load_leaf(media, cache, at.leaf())).await?;
        match self.tree.borrow().get(at.leaf()) {
            Found::Page(leaf) => Ok(leaf.get(at.slot())),
            _ => Ok(Word::UNMAPPED),
        }
    }

    /// Brings a leaf into memory, with what was replayed for it. Afterwards, and until the next `await`, it is there or
    /// is known to be absent.
    pub(crate) async fn load_leaf<M: Machine>(
        &self,
        media: &Media<M>,
        cache: &Cache,
        leaf: u64,
    ) -> Result<(), LostRange> {
        if load(media, &self.loader, &self.tree, leaf).await.is_err() {
            return Err(lost(VirtualExtent(leaf * LEAF_WORDS as u64)));
        }
        self.apply_pending(leaf);
        if matches!(self.tree.borrow().get(leaf), Found::Page(_)) {
            cache.admit(self.vdisk, leaf);
        }
        Ok(())
    }

    /// Whether a word of a leaf in memory names `extent`: the words of a leaf may share one.
    pub(crate) fn names(&self, leaf: u64, extent: ExtentId) -> bool {
        match self.tree.borrow().get(leaf) {
            Found::Page(page) => page.iter().any(|word| word.is_mapped() && word.extent() == extent),
            _ => false,
        }
    }

    /// Changes a word whose leaf is in memory or absent.
    pub(crate) fn set(&self, cache: &Cache, at: VirtualExtent, word: Word) {
        let mut tree = self.tree.borrow_mut();
        let (leaf, made) = tree.change_noting(at.leaf());
        leaf.set(at.slot(), word);
        self.watches.hit(at);
        if made {
            cache.admit(self.vdisk, at.leaf());
        }
    }
}

fn lost(at: VirtualExtent) -> LostRange {
    LostRange { first: VirtualExtent(at.leaf() * LEAF_WORDS as u64), count: LEAF_WORDS as u64 }
}
