//! Making a tree higher, and putting pages that were read into it.

use super::{Found, LeafSlot, Node, Slot, Tree, child};
use crate::format::{PageRef, Payload};

impl<P: Payload> Tree<P> {
    /// Adds levels until leaf `index` has a place.
    pub(super) fn grow_to(&mut self, index: u64) {
        while index >= self.capacity() {
            self.height += 1;
            if matches!(self.root, Slot::Empty) {
                continue;
            }
            let mut node = Node::empty(&self.counts);
            node.slots[0] = std::mem::replace(&mut self.root, Slot::Empty);
            node.dirty = true;
            self.dirtied(1);
            self.root = Slot::Node(Box::new(node));
        }
    }

    /// Puts a page that was read for leaf `index` in its place, unless the place has changed meanwhile.
    pub(super) fn install(&mut self, index: u64, reference: &PageRef, page: Slot<P>) {
        if index >= self.capacity() {
            return;
        }
        let mut level = self.height;
        let mut slot = &mut self.root;
        while let Slot::Node(node) = slot {
            level -= 1;
            slot = &mut node.slots[child(index, level)];
        }
        if matches!(slot, Slot::Unread(expected) if expected == reference) {
            *slot = page;
        }
    }

    /// Forgets a leaf that is clean and not being written; `false` when it must stay.
    pub(crate) fn evict(&mut self, index: u64) -> bool {
        let Some(slot) = self.slot_mut(index) else { return true };
        let Slot::Leaf(leaf) = slot else { return true };
        if leaf.dirty || std::rc::Rc::strong_count(&leaf.page) > 1 {
            return false;
        }
        *slot = if leaf.home.is_none() { Slot::Empty } else { Slot::Unread(leaf.home) };
        true
    }

    /// Whether leaf `index` was used since this was last asked.
    pub(crate) fn take_touched(&mut self, index: u64) -> bool {
        match self.slot_mut(index) {
            Some(Slot::Leaf(leaf)) => leaf.touched.replace(false),
            _ => false,
        }
    }

    pub(super) fn leaf_mut(&mut self, index: u64) -> Option<&mut LeafSlot<P>> {
        match self.slot_mut(index) {
            Some(Slot::Leaf(leaf)) => Some(leaf),
            _ => None,
        }
    }

    /// Forgets what a lost page named: its range reads as never written. Only for a repair that was agreed to. A page that is
    /// lost on the devices and still in memory is written anew by the next checkpoint instead.
    pub(crate) fn forget_lost(&mut self, index: u64) {
        match self.get(index) {
            Found::Lost => {}
            Found::Unread(..) => return,
            Found::Page(_) | Found::Absent => {
                self.change(index);
                return;
            }
        }
        let mut level = self.height;
        let mut slot = &mut self.root;
        let mut dirtied = 0;
        while let Slot::Node(node) = slot {
            dirtied += usize::from(!node.dirty);
            node.dirty = true;
            level -= 1;
            slot = &mut node.slots[child(index, level)];
        }
        *slot = Slot::Empty;
        self.uprooted |= dirtied == 0;
        self.dirtied(dirtied);
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot<P>> {
        if index >= self.capacity() {
            return None;
        }
        let mut level = self.height;
        let mut slot = &mut self.root;
        while let Slot::Node(node) = slot {
            level -= 1;
            slot = &mut node.slots[child(index, level)];
        }
        (level == 0).then_some(slot)
    }
}
