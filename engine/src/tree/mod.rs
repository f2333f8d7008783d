//! One radix tree for everything that is looked up by a number: mapping leaves, allocation groups, vdisk entries.
//!
//! Fixed fan-out, no rebalancing, absent pages are null. In memory a slot is either a reference to a page that was not read,
//! or the page. Nodes stay once they were read; leaves may be evicted while they are clean.
//!
//! Invariants: a dirty leaf has dirty nodes all the way up; `home` is the version of the last checkpoint written; a leaf's
//! page is shared (`Rc`) while a checkpoint writes it, and changing it then makes a copy first, so a checkpoint is exact.

mod grow;
mod load;
mod seal;
mod slot;
#[cfg(test)]
mod tests;
mod walk;

pub(crate) use load::{Loader, load, load_nodes};
pub(crate) use seal::Sealer;
pub(crate) use slot::{LeafSlot, Node, Slot};
pub(crate) use walk::PageSeen;

use std::cell::Cell;
use std::rc::Rc;

use crate::format::{NODE_FANOUT, PageRef, Payload, TreeRoot};

/// Pages in memory of all trees of a pool.
#[derive(Default)]
pub(crate) struct PageCounts {
    /// Leaves and nodes that the next checkpoint has to write.
    pub(crate) dirty: Cell<usize>,
    /// Those that the checkpoint under way writes.
    pub(crate) writing: Cell<usize>,
    /// At most so many become dirty by replayed changes that wait for their leaves.
    pub(crate) waiting: Cell<usize>,
    pub(crate) nodes: Cell<usize>,
}

/// A tree whose leaves are pages of `P`.
pub(crate) struct Tree<P> {
    root: Slot<P>,
    height: u8,
    /// Dirty pages, nodes included.
    dirty: usize,
    /// The root's page was given up: the next checkpoint must say so though no page is dirty.
    uprooted: bool,
    counts: Rc<PageCounts>,
}

/// What a look-up finds.
pub(crate) enum Found<T> {
    /// The page.
    Page(T),
    /// Nothing was ever written there.
    Absent,
    /// A page on the way, `level` above the leaves, has to be read first.
    Unread(PageRef, u8),
    /// Both copies of a page on the way are bad.
    Lost,
}

impl PageCounts {
    /// All that changed since the last checkpoint that stands, at most.
    pub(crate) fn unwritten(&self) -> usize {
        self.dirty.get() + self.writing.get() + self.waiting.get()
    }
}

impl<P: Payload> Tree<P> {
    pub(crate) fn new(root: TreeRoot, counts: Rc<PageCounts>) -> Self {
        let slot = if root.reference.is_none() { Slot::Empty } else { Slot::Unread(root.reference) };
        Tree { root: slot, height: root.height, dirty: 0, uprooted: false, counts }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty > 0 || self.uprooted
    }

    /// Dirty leaves and nodes.
    pub(crate) fn dirty_pages(&self) -> u64 {
        self.dirty as u64
    }

    fn dirtied(&mut self, pages: usize) {
        self.dirty += pages;
        self.counts.dirty.set(self.counts.dirty.get() + pages);
    }

    fn cleaned(&mut self, pages: usize) {
        self.dirty -= pages;
        self.counts.dirty.set(self.counts.dirty.get() - pages);
        self.counts.writing.set(self.counts.writing.get() + pages);
    }

    /// At most so many pages become dirty when `leaves`, in rising order, change: they, and the nodes above them.
    pub(crate) fn pages_to_change(&self, leaves: impl DoubleEndedIterator<Item = u64> + Clone) -> u64 {
        let levels = |bits: u64| u64::from((u64::BITS - bits.leading_zeros()).div_ceil(NODE_FANOUT.ilog2()));
        let Some(last) = leaves.clone().next_back() else { return 0 };
        let height = levels(last).max(u64::from(self.height));
        let mut before = None;
        let new = leaves.map(|leaf| before.replace(leaf).map_or(height + 1, |before| levels(before ^ leaf)));
        // A tree that grows has new nodes above what there was, too.
        new.sum::<u64>() + (height - u64::from(self.height))
    }

    /// Leaves that a tree of this height can have.
    pub(crate) fn capacity(&self) -> u64 {
        (NODE_FANOUT as u64).pow(u32::from(self.height))
    }

    /// The leaf `index`.
    pub(crate) fn get(&self, index: u64) -> Found<&P> {
        if index >= self.capacity() {
            return Found::Absent;
        }
        let mut slot = &self.root;
        let mut level = self.height;
        loop {
            match slot {
                Slot::Empty => return Found::Absent,
                Slot::Unread(reference) => return Found::Unread(*reference, level),
                Slot::Lost(_) => return Found::Lost,
                Slot::Leaf(leaf) => {
                    leaf.touched.set(true);
                    return Found::Page(&leaf.page);
                }
                Slot::Node(node) => {
                    level -= 1;
                    slot = &node.slots[child(index, level)];
                }
            }
        }
    }

    /// The leaf `index` to be changed, made when it is absent; it and the nodes above it become dirty. Everything on the
    /// way must have been read.
    ///
    /// # Panics
    /// When it has not; callers look first.
    pub(crate) fn change(&mut self, index: u64) -> &mut P {
        self.change_noting(index).0
    }

    /// As [`Tree::change`]; answers also whether the leaf was made.
    pub(crate) fn change_noting(&mut self, index: u64) -> (&mut P, bool) {
        self.grow_to(index);
        let mut level = self.height;
        let mut slot = &mut self.root;
        let (mut dirtied, mut made) = (0, false);
        let leaf = loop {
            if matches!(slot, Slot::Empty) {
                made = level == 0;
                *slot = if made {
                    Slot::Leaf(Box::new(LeafSlot::new(PageRef::NONE, P::empty())))
                } else {
                    Slot::Node(Box::new(Node::empty(&self.counts)))
                };
            }
            match slot {
                Slot::Leaf(leaf) => break leaf,
                Slot::Node(node) => {
                    dirtied += usize::from(!node.dirty);
                    node.dirty = true;
                    level -= 1;
                    slot = &mut node.slots[child(index, level)];
                }
                Slot::Empty | Slot::Unread(_) | Slot::Lost(_) => {
                    unreachable!("leaf {index} is changed before it was read")
                }
            }
        };
        dirtied += usize::from(!leaf.dirty);
        leaf.dirty = true;
        leaf.touched.set(true);
        if dirtied > 0 {
            self.dirty += dirtied;
            self.counts.dirty.set(self.counts.dirty.get() + dirtied);
        }
        (Rc::make_mut(&mut leaf.page), made)
    }
}

/// Which child of a node whose children are `level` above the leaves holds leaf `index`.
fn child(index: u64, level: u8) -> usize {
    (index >> (7 * u32::from(level)) & (NODE_FANOUT as u64 - 1)) as usize
}

impl<P> Drop for Tree<P> {
    fn drop(&mut self) {
        self.counts.dirty.set(self.counts.dirty.get() - self.dirty);
    }
}
