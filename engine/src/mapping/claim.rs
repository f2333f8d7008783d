//! Claims: blocks that are being written for the first time, and the extent that they are written to.
//!
//! Writers of different blocks of one extent share its claim and go on side by side; writers of the same block wait for each
//! other. While a claim stands its extent is not freed, whatever happens to the word.

use std::cell::RefCell;
use std::collections::hash_map::Entry;

use foldhash::HashMap;

use crate::format::{Blocks, ExtentId, VirtualExtent};
use crate::wait::WaitQueue;

/// What stands behind a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// `None` while one is being taken.
    pub(crate) extent: Option<ExtentId>,
    busy: Blocks,
    writers: u32,
    /// The extent was unmapped under the claim: the batch of the record that freed it.
    pub(crate) freed: Option<u64>,
}

/// What a request for a claim comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// The blocks are claimed, in this extent.
    In(ExtentId),
    /// The virtual extent is claimed whole, for an extent that is yet to be taken: see [`Claims::supply`].
    Empty,
    /// Somebody has some of the blocks: wait and ask again.
    Taken,
}

/// The claims on a vdisk's extents.
#[derive(Default)]
pub(crate) struct Claims {
    claims: RefCell<HashMap<VirtualExtent, Claim>>,
    pub(crate) released: WaitQueue,
}

impl Claims {
    /// Claims `blocks` of `at`, which is mapped to `mapped` at present.
    pub(crate) fn claim(&self, at: VirtualExtent, blocks: Blocks, mapped: Option<ExtentId>) -> Claimed {
        let mut claims = self.claims.borrow_mut();
        if let Some(claim) = claims.get_mut(&at) {
            let Some(extent) = claim.extent else { return Claimed::Taken };
            if claim.busy.overlaps(blocks) {
                return Claimed::Taken;
            }
            claim.busy = claim.busy.with(blocks);
            claim.writers += 1;
            return Claimed::In(extent);
        }
        let busy = if mapped.is_some() { blocks } else { Blocks::ALL };
        claims.insert(at, Claim { extent: mapped, busy, writers: 1, freed: None });
        mapped.map_or(Claimed::Empty, Claimed::In)
    }

    /// Claims `blocks` of `at` without waiting; an extent that is not mapped yet and that nobody has claimed is taken by `take`.
    /// Answers the extent, or `None`, with nothing claimed, when somebody is in the way or nothing could be taken.
    pub(crate) fn claim_at_once(
        &self,
        at: VirtualExtent,
        blocks: Blocks,
        mapped: Option<ExtentId>,
        take: impl FnOnce() -> Option<ExtentId>,
    ) -> Option<ExtentId> {
        match self.claims.borrow_mut().entry(at) {
            Entry::Occupied(mut entry) => {
                let claim = entry.get_mut();
                let extent = claim.extent.filter(|_| !claim.busy.overlaps(blocks))?;
                claim.busy = claim.busy.with(blocks);
                claim.writers += 1;
                Some(extent)
            }
            Entry::Vacant(entry) => {
                let extent = mapped.or_else(take)?;
                entry.insert(Claim { extent: Some(extent), busy: blocks, writers: 1, freed: None });
                Some(extent)
            }
        }
    }

    /// Gives an empty claim its extent, and lets go all but `blocks`.
    pub(crate) fn supply(&self, at: VirtualExtent, blocks: Blocks, extent: ExtentId) {
        if let Some(claim) = self.claims.borrow_mut().get_mut(&at) {
            claim.extent = Some(extent);
            claim.busy = blocks;
        }
        self.released.notify();
    }

    /// Gives up `blocks`. Answers the claim when nobody is left in it.
    pub(crate) fn release(&self, at: VirtualExtent, blocks: Blocks) -> Option<Claim> {
        let gone = match self.claims.borrow_mut().entry(at) {
            Entry::Occupied(mut entry) => {
                let claim = entry.get_mut();
                claim.busy = claim.busy.without(blocks);
                claim.writers -= 1;
                (claim.writers == 0).then(|| entry.remove())
            }
            Entry::Vacant(_) => None,
        };
        self.released.notify();
        gone
    }

    /// Whether a first write to `at` is under way, or something else that has claimed blocks of it.
    pub(crate) fn stands_on(&self, at: VirtualExtent) -> bool {
        self.claims.borrow().contains_key(&at)
    }

    /// Whether a claim stands on `at`; if so, notes that a record of batch `sequence` has freed its extent.
    pub(crate) fn note_freed(&self, at: VirtualExtent, sequence: u64) -> bool {
        match self.claims.borrow_mut().get_mut(&at) {
            Some(claim) => {
                claim.freed = Some(sequence);
                true
            }
            None => false,
        }
    }
}
