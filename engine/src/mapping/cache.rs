//! How much of the mapping stays in memory: all of it, up to a cap the operator sets.
//!
//! Second chance: a leaf is not moved when it is used, only marked; when it comes up for eviction marked, it goes round again.

use std::cell::{Cell, RefCell};

use lru::LruCache;

use crate::format::VdiskId;

/// Memory of a leaf: its page, slot, cache entry and their allocations' headers; measured 4,260, rounded up.
pub(crate) const LEAF_MEMORY_BYTES: u64 = 4_288;

/// The leaves in memory, of all vdisks.
pub(crate) struct Cache {
    leaves: RefCell<LruCache<(VdiskId, u64), ()>>,
    leaves_max: Cell<usize>,
}

impl Cache {
    pub(crate) fn new(bytes: u64) -> Self {
        // Fewer than 64 leaves would make neighbours evict each other.
        let leaves_max = (bytes / LEAF_MEMORY_BYTES).max(64) as usize;
        Cache { leaves: RefCell::new(LruCache::unbounded()), leaves_max: Cell::new(leaves_max) }
    }

    /// Notes that a leaf has come into memory.
    pub(crate) fn admit(&self, vdisk: VdiskId, leaf: u64) {
        self.leaves.borrow_mut().get_or_insert((vdisk, leaf), || ());
    }

    /// Whether something should be evicted.
    pub(crate) fn is_full(&self) -> bool {
        self.leaves.borrow().len() > self.leaves_max.get()
    }

    /// The leaf to be evicted next; it is out of the list until it is put back.
    pub(crate) fn candidate(&self) -> Option<(VdiskId, u64)> {
        self.leaves.borrow_mut().pop_lru().map(|(key, ())| key)
    }

    pub(crate) fn put_back(&self, key: (VdiskId, u64)) {
        self.leaves.borrow_mut().put(key, ());
    }

    /// Leaves in memory.
    pub(crate) fn len(&self) -> usize {
        self.leaves.borrow().len()
    }

    /// Most clean and dirty leaves that fit.
    pub(crate) fn capacity(&self) -> usize {
        self.leaves_max.get()
    }
}
