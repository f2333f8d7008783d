//! Turning the dirty part of a tree into pages, for a checkpoint.
//!
//! Three steps: `collect_dirty` (at the checkpoint's instant, shares the leaves), `set_home` for each leaf once its place
//! is known, and `seal_nodes` (all nodes at once, children before parents). A leaf that changed again in between is dirty
//! again, and so are the nodes above it; its home is the version of the checkpoint.

use std::rc::Rc;

use super::{Node, Slot, Tree, child};
use crate::format::{NodePage, PAGE_BYTES, PageAddr, PageRef, PageType, Payload, TreeRoot, node_is_empty};

/// What sealing asks of the checkpoint that writes it.
pub(crate) trait Sealer {
    /// Two places for a page.
    fn place(&mut self) -> (PageAddr, PageAddr);
    /// Gives back the places of a version that nobody needs once the checkpoint stands.
    fn release(&mut self, reference: &PageRef);
    /// Takes a page to be written to both of its places.
    fn write(&mut self, reference: &PageRef, page: Box<[u8]>);
    fn generation(&self) -> u64;
}

impl<P: Payload> Tree<P> {
    /// The leaves that changed since the last call, as they are now.
    pub(crate) fn collect_dirty(&mut self) -> Vec<(u64, Rc<P>)> {
        let mut found = Vec::new();
        let height = self.height;
        collect(&mut self.root, height, 0, &mut found);
        self.cleaned(found.len());
        found
    }

    /// Says where a leaf's version of this checkpoint is; answers where the last one was.
    pub(crate) fn set_home(&mut self, index: u64, home: PageRef) -> PageRef {
        let Some(leaf) = self.leaf_mut(index) else { unreachable!("leaf {index} left memory during a checkpoint") };
        std::mem::replace(&mut leaf.home, home)
    }

    /// Seals all dirty nodes; answers where the tree of this checkpoint starts.
    pub(crate) fn seal_nodes(&mut self, sealer: &mut impl Sealer) -> TreeRoot {
        let (height, mut sealed) = (self.height, 0);
        let reference = seal(&mut self.root, sealer, &mut sealed);
        self.cleaned(sealed);
        self.uprooted = false;
        TreeRoot { reference, height }
    }

    /// Has the page `level` above leaf `index` written anew by the next checkpoint, if it is in memory.
    pub(crate) fn soil(&mut self, index: u64, level: u8) {
        if index >= self.capacity() {
            return;
        }
        let mut at = self.height;
        let mut slot = &mut self.root;
        let mut dirtied = 0;
        loop {
            match slot {
                Slot::Node(node) => {
                    dirtied += usize::from(!node.dirty);
                    node.dirty = true;
                    if at == level {
                        break;
                    }
                    at -= 1;
                    slot = &mut node.slots[child(index, at)];
                }
                Slot::Leaf(leaf) => {
                    dirtied += usize::from(!leaf.dirty);
                    leaf.dirty = true;
                    break;
                }
                _ => break,
            }
        }
        self.dirtied(dirtied);
    }

    /// Drops leaves that hold nothing and have no home, after a checkpoint.
    pub(crate) fn prune(&mut self) {
        prune(&mut self.root);
    }
}

fn collect<P>(slot: &mut Slot<P>, level: u8, first: u64, found: &mut Vec<(u64, Rc<P>)>) {
    match slot {
        Slot::Leaf(leaf) if leaf.dirty => {
            leaf.dirty = false;
            found.push((first, leaf.page.clone()));
        }
        Slot::Node(node) if node.dirty => {
            for (position, slot) in node.slots.iter_mut().enumerate() {
                collect(slot, level - 1, first + ((position as u64) << (7 * u32::from(level - 1))), found);
            }
        }
        _ => {}
    }
}

fn seal<P>(slot: &mut Slot<P>, sealer: &mut impl Sealer, sealed: &mut usize) -> PageRef {
    match slot {
        Slot::Empty => PageRef::NONE,
        Slot::Unread(reference) | Slot::Lost(reference) => *reference,
        Slot::Leaf(leaf) => leaf.home,
        Slot::Node(node) if !node.dirty => node.home,
        Slot::Node(node) => {
            let references: Vec<PageRef> = node.slots.iter_mut().map(|slot| seal(slot, sealer, sealed)).collect();
            node.dirty = node.slots.iter().any(is_dirty);
            *sealed += usize::from(!node.dirty);
            if !node.home.is_none() {
                sealer.release(&node.home);
            }
            node.home = seal_node(&references, sealer);
            node.home
        }
    }
}

fn seal_node(references: &[PageRef], sealer: &mut impl Sealer) -> PageRef {
    if node_is_empty(references) {
        return PageRef::NONE;
    }
    let mut page = vec![0u8; PAGE_BYTES].into_boxed_slice();
    NodePage::encode(references.iter().copied(), &mut page);
    let places = sealer.place();
    let reference = PageRef::seal(PageType::Node, places, sealer.generation(), 0, &page);
    sealer.write(&reference, page);
    reference
}

fn is_dirty<P>(slot: &Slot<P>) -> bool {
    match slot {
        Slot::Leaf(leaf) => leaf.dirty,
        Slot::Node(node) => node.dirty,
        _ => false,
    }
}

fn prune<P: Payload>(slot: &mut Slot<P>) {
    let drop_it = match slot {
        Slot::Leaf(leaf) => !leaf.dirty && leaf.home.is_none() && Rc::strong_count(&leaf.page) == 1,
        Slot::Node(node) => {
            prune_children(node);
            !node.dirty && node.home.is_none() && node.slots.iter().all(|slot| matches!(slot, Slot::Empty))
        }
        _ => false,
    };
    if drop_it {
        *slot = Slot::Empty;
    }
}

fn prune_children<P: Payload>(node: &mut Node<P>) {
    for slot in &mut node.slots {
        prune(slot);
    }
}
