//! How much of the mapping stays in memory: all of it, up to a cap the operator sets.
//!
//! Second chance: a leaf is not moved when it is used, only marked; when it comes up for eviction marked, it goes round again.

use std::cell::RefCell;
use std::rc::Rc;

use lru::LruCache;

use crate::format::VdiskId;
use crate::tree::PageCounts;

/// Memory of a leaf: its page, slot, cache entry and their allocations' headers; measured 4,260, rounded up.
const LEAF_MEMORY_BYTES: u64 = 4_288;

/// Memory of a node: 128 slots of 40 bytes, and its own fields.
const NODE_MEMORY_BYTES: u64 = 5_248;

/// Fewer leaves would make neighbours evict each other.
const LEAVES_MIN: u64 = 64;

/// The leaves in memory, of all vdisks.
pub(crate) struct Cache {
    leaves: RefCell<LruCache<(VdiskId, u64), ()>>,
    /// What leaves and nodes may take.
    bytes: u64,
    counts: Rc<PageCounts>,
}

impl Cache {
    pub(crate) fn new(bytes: u64, counts: Rc<PageCounts>) -> Self {
        Cache { leaves: RefCell::new(LruCache::unbounded()), bytes, counts }
    }

    /// Notes that a leaf has come into memory.
    pub(crate) fn admit(&self, vdisk: VdiskId, leaf: u64) {
        self.leaves.borrow_mut().get_or_insert((vdisk, leaf), || ());
    }

    /// Whether something should be evicted.
    pub(crate) fn is_full(&self) -> bool {
        self.leaves.borrow().len() > self.capacity()
    }

    /// The leaf to be evicted next; it is out of the list until it is put back.
    pub(crate) fn candidate(&self) -> Option<(VdiskId, u64)> {
        self.leaves.borrow_mut().pop_lru().map(|(key, ())| key)
    }

    pub(crate) fn put_back(&self, key: (VdiskId, u64)) {
        self.leaves.borrow_mut().put(key, ());
    }

    /// What leaves and nodes take.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.leaves.borrow().len() as u64 * LEAF_MEMORY_BYTES + self.counts.nodes.get() as u64 * NODE_MEMORY_BYTES
    }

    /// Most clean and dirty leaves that fit beside the nodes, which stay once they were read.
    pub(crate) fn capacity(&self) -> usize {
        let left = self.bytes.saturating_sub(self.counts.nodes.get() as u64 * NODE_MEMORY_BYTES);
        (left / LEAF_MEMORY_BYTES).max(LEAVES_MIN) as usize
    }
}
