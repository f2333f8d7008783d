//! Where extents have become thinner.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::format::VdiskId;

/// Leaves that are remembered; beyond these all are looked at. A set of so many takes a megabyte or two.
const LEAVES_MAX: usize = 65_536;

/// Leaves in which extents have lost blocks and kept others since this was last asked. What first writes have not filled yet is not among
/// them: it is about to be.
#[derive(Default)]
pub(crate) struct Thinned {
    /// `None`: nobody knows; so it is when a pool has been opened.
    leaves: RefCell<Option<BTreeSet<(VdiskId, u64)>>>,
}

impl Thinned {
    pub(super) fn note(&self, vdisk: VdiskId, leaf: u64) {
        let mut leaves = self.leaves.borrow_mut();
        if let Some(known) = &mut *leaves
            && known.insert((vdisk, leaf))
            && known.len() > LEAVES_MAX
        {
            *leaves = None;
        }
    }

    /// Takes the leaves, to look at them; `Some(None)`: they may be any. `None`: there are none.
    pub(crate) fn take(&self) -> Option<Option<BTreeSet<(VdiskId, u64)>>> {
        let taken = self.leaves.replace(Some(BTreeSet::new()));
        match taken {
            Some(leaves) if leaves.is_empty() => None,
            taken => Some(taken),
        }
    }
}
