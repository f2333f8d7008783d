//! Claims: blocks that are being written for the first time, and the extent that they are written to.
//!
//! Writers of different blocks of one extent share its claim and go on side by side; writers of the same block wait for each
//! other. While a claim stands its extent is not freed, whatever happens to the word.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::format::{Blocks, ExtentId, VirtualExtent};
use crate::wait::WaitQueue;

/// What stands behind a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// `None` while one is being taken.
    pub(crate) extent: Option<ExtentId>,
    busy: Blocks,
    writers: u32,
    /// The extent was unmapped under the claim: a record has freed it.
    pub(crate) freed: bool,
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
        claims.insert(at, Claim { extent: mapped, busy, writers: 1, freed: false });
        mapped.map_or(Claimed::Empty, Claimed::In)
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
        let mut claims = self.claims.borrow_mut();
        let last = claims.get_mut(&at).is_some_and(|claim| {
            claim.busy = claim.busy.without(blocks);
            claim.writers -= 1;
            claim.writers == 0
        });
        let gone = if last { claims.remove(&at) } else { None };
        drop(claims);
        self.released.notify();
        gone
    }

    /// Whether a claim stands on `at`; if so, notes that a record has freed its extent.
    pub(crate) fn note_freed(&self, at: VirtualExtent) -> bool {
        match self.claims.borrow_mut().get_mut(&at) {
            Some(claim) => {
                claim.freed = true;
                true
            }
            None => false,
        }
    }
}
