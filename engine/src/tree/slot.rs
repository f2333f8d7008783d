//! What stands in a tree's slots.

use std::cell::Cell;
use std::rc::Rc;

use super::PageCounts;
use crate::format::{NODE_FANOUT, PageRef};

/// One place of a node, or the root.
pub(crate) enum Slot<P> {
    Empty,
    Unread(PageRef),
    Lost(PageRef),
    Node(Box<Node<P>>),
    Leaf(Box<LeafSlot<P>>),
}

/// A node in memory; it counts among the pool's as long as it lives.
pub(crate) struct Node<P> {
    pub(crate) slots: [Slot<P>; NODE_FANOUT],
    pub(crate) home: PageRef,
    pub(crate) dirty: bool,
    counts: Rc<PageCounts>,
}

impl<P> Node<P> {
    pub(crate) fn empty(counts: &Rc<PageCounts>) -> Self {
        counts.nodes.set(counts.nodes.get() + 1);
        let slots = std::array::from_fn(|_| Slot::Empty);
        Node { slots, home: PageRef::NONE, dirty: false, counts: counts.clone() }
    }
}

impl<P> Drop for Node<P> {
    fn drop(&mut self) {
        self.counts.nodes.set(self.counts.nodes.get() - 1);
    }
}

/// A leaf in memory.
pub(crate) struct LeafSlot<P> {
    pub(crate) page: Rc<P>,
    pub(crate) home: PageRef,
    pub(crate) dirty: bool,
    /// Used since the cache last looked.
    pub(crate) touched: Cell<bool>,
}

impl<P> LeafSlot<P> {
    pub(crate) fn new(home: PageRef, page: P) -> Self {
        LeafSlot { page: Rc::new(page), home, dirty: false, touched: Cell::new(true) }
    }
}
