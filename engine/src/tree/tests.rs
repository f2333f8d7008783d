//! A tree against an ordered map, through changes, checkpoints and new starts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::PageCounts;
use super::{Found, LeafSlot, Node, Sealer, Slot, Tree};
use crate::format::{
    Blocks, ExtentId, HEIGHT_MAX, Leaf, NODE_FANOUT, NodePage, PAGE_BYTES, PageAddr, PageRef, PageType, Payload,
    TreeRoot, Word,
};

/// Pages by their first address, as a device would hold them.
#[derive(Default)]
struct Shelf {
    pages: HashMap<PageAddr, Box<[u8]>>,
    places: u64,
    generation: u64,
}

impl Sealer for Shelf {
    fn place(&mut self) -> (PageAddr, PageAddr) {
        self.places += 2;
        (PageAddr::new(0, self.places), PageAddr::new(0, self.places + 1))
    }

    fn release(&mut self, reference: &PageRef) {
        if !reference.is_none() {
            assert!(self.pages.remove(&reference.a).is_some(), "a page is released that was never written, or twice");
        }
    }

    fn write(&mut self, reference: &PageRef, page: Box<[u8]>) {
        assert!(self.pages.insert(reference.a, page).is_none(), "a page is written over another");
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}

/// Writes everything dirty; answers where the tree starts.
fn checkpoint(tree: &mut Tree<Leaf>, shelf: &mut Shelf) -> TreeRoot {
    shelf.generation += 1;
    for (index, page) in tree.collect_dirty() {
        let home = if page.is_empty() {
            PageRef::NONE
        } else {
            let mut bytes = vec![0u8; PAGE_BYTES].into_boxed_slice();
            page.encode(&mut bytes);
            let home = PageRef::seal(PageType::Leaf, shelf.place(), shelf.generation, page.summary(), &bytes);
            shelf.write(&home, bytes);
            home
        };
        let before = tree.set_home(index, home);
        shelf.release(&before);
    }
    let root = tree.seal_nodes(shelf);
    tree.prune();
    assert!(!tree.is_dirty());
    root
}

/// Reads what is on the way to a leaf, as `load` does from devices.
fn fetch(tree: &mut Tree<Leaf>, shelf: &Shelf, index: u64) {
    while let Found::Unread(reference, level) = tree.get(index) {
        let page = &shelf.pages[&reference.a];
        let kind = if level == 0 { PageType::Leaf } else { PageType::Node };
        assert!(reference.verifies(kind, page), "the page of leaf {index} at level {level} is not what was meant");
        let slot = if level == 0 {
            Slot::Leaf(Box::new(LeafSlot::new(reference, Leaf::decode(page).expect("a leaf"))))
        } else {
            let mut node = Box::new(Node::empty(&tree.counts.clone()));
            node.home = reference;
            for (slot, below) in node.slots.iter_mut().zip(NodePage::decode(page).expect("a node")) {
                if !below.is_none() {
                    *slot = Slot::Unread(below);
                }
            }
            Slot::Node(node)
        };
        tree.install(index, &reference, slot);
    }
}

fn value(tree: &Tree<Leaf>, index: u64, slot: usize) -> Word {
    match tree.get(index) {
        Found::Page(leaf) => leaf.get(slot),
        Found::Absent => Word::UNMAPPED,
        Found::Unread(..) | Found::Lost => panic!("leaf {index} was not read"),
    }
}

/// Pages that the tree names; all nodes and leaves must have been read.
fn named(tree: &Tree<Leaf>) -> HashSet<PageAddr> {
    tree.pages().iter().map(|page| page.reference.a).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Set(u64, usize, u64),
    Clear(u64, usize),
    Look(u64, usize),
    Evict(u64),
    Checkpoint,
    Reopen,
}

fn steps() -> impl Strategy<Value = Step> {
    // Near each other, at the borders of nodes, and far away.
    let leaf = || prop_oneof![0u64..4, 126u64..130, (NODE_FANOUT as u64).pow(2) - 1..(NODE_FANOUT as u64).pow(2) + 1];
    let leaf = move || prop_oneof![6 => leaf(), 1 => 0..1u64 << 29];
    let slot = || prop_oneof![Just(0usize), Just(511), 0..512usize];
    prop_oneof![
        6 => (leaf(), slot(), 0..1u64 << 40).prop_map(|(leaf, slot, extent)| Step::Set(leaf, slot, extent)),
        3 => (leaf(), slot()).prop_map(|(leaf, slot)| Step::Clear(leaf, slot)),
        3 => (leaf(), slot()).prop_map(|(leaf, slot)| Step::Look(leaf, slot)),
        2 => leaf().prop_map(Step::Evict),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_is_an_ordered_map(steps in vec(steps(), 1..120)) {
        let dirty = Rc::new(PageCounts::default());
        let mut shelf = Shelf::default();
        let mut tree: Tree<Leaf> = Tree::new(TreeRoot::EMPTY, dirty.clone());
        let mut model: BTreeMap<(u64, usize), Word> = BTreeMap::new();
        let mut durable = (TreeRoot::EMPTY, model.clone());
        for step in steps {
            match step {
                Step::Set(leaf, slot, extent) => {
                    let word = Word::mapped(ExtentId(extent), Blocks::ALL);
                    fetch(&mut tree, &shelf, leaf);
                    tree.change(leaf).set(slot, word);
                    model.insert((leaf, slot), word);
                }
                Step::Clear(leaf, slot) => {
                    fetch(&mut tree, &shelf, leaf);
                    if matches!(tree.get(leaf), Found::Page(_)) {
                        tree.change(leaf).set(slot, Word::UNMAPPED);
                    }
                    model.remove(&(leaf, slot));
                }
                Step::Look(leaf, slot) => {
                    fetch(&mut tree, &shelf, leaf);
                    let expected = model.get(&(leaf, slot)).copied().unwrap_or_default();
                    prop_assert_eq!(value(&tree, leaf, slot), expected);
                }
                Step::Evict(leaf) => {
                    tree.evict(leaf);
                }
                Step::Checkpoint => {
                    durable = (checkpoint(&mut tree, &mut shelf), model.clone());
                    prop_assert_eq!(dirty.dirty.get(), 0);
                }
                // What was not checkpointed is forgotten.
                Step::Reopen => {
                    tree = Tree::new(durable.0, dirty.clone());
                    model = durable.1.clone();
                    prop_assert_eq!(dirty.dirty.get(), 0);
                }
            }
        }
        for (&(leaf, slot), &word) in &model {
            prop_assert!(tree.next_present(leaf) == Some(leaf));
            fetch(&mut tree, &shelf, leaf);
            prop_assert_eq!(value(&tree, leaf, slot), word);
        }
        // All that is stored is named, and nothing else.
        let root = checkpoint(&mut tree, &mut shelf);
        let mut tree = Tree::new(root, dirty);
        let mut next = tree.next_present(0);
        while let Some(leaf) = next {
            fetch(&mut tree, &shelf, leaf);
            next = tree.next_present(leaf + 1);
        }
        prop_assert_eq!(named(&tree), shelf.pages.keys().copied().collect::<HashSet<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pages_are_foretold_of_leaves_that_change(
        before in vec(0..1u64 << 22, 0..8),
        leaves in btree_set(prop_oneof![0..600u64, 0..1u64 << 29], 0..40),
    ) {
        let mut tree: Tree<Leaf> = Tree::new(TreeRoot::EMPTY, Rc::default());
        before.iter().for_each(|leaf| tree.change(*leaf).set(0, Word::mapped(ExtentId(1), Blocks::ALL)));
        checkpoint(&mut tree, &mut Shelf::default());
        let foretold = tree.pages_to_change(leaves.iter().copied());
        leaves.iter().for_each(|leaf| tree.change(*leaf).set(1, Word::mapped(ExtentId(1), Blocks::ALL)));
        prop_assert!(foretold >= tree.dirty_pages());
        // A tree that grows may have the new nodes above what there was on the way to a leaf anyway.
        prop_assert!(foretold <= tree.dirty_pages() + u64::from(HEIGHT_MAX));
    }
}

#[test]
fn a_leaf_that_changes_while_it_is_written_keeps_its_old_version_for_the_checkpoint() {
    let dirty = Rc::new(PageCounts::default());
    let mut tree: Tree<Leaf> = Tree::new(TreeRoot::EMPTY, dirty.clone());
    tree.change(3).set(0, Word::mapped(ExtentId(1), Blocks::ALL));
    let cut = tree.collect_dirty();
    tree.change(3).set(0, Word::mapped(ExtentId(2), Blocks::ALL));
    assert_eq!(cut[0].1.get(0).extent(), ExtentId(1));
    assert_eq!(value(&tree, 3, 0).extent(), ExtentId(2));
    let mut shelf = Shelf::default();
    let home = PageRef::seal(PageType::Leaf, shelf.place(), 1, 1, &[0; PAGE_BYTES]);
    tree.set_home(3, home);
    tree.seal_nodes(&mut shelf);
    assert!(tree.is_dirty(), "the second change is still to be written");
    assert!(!tree.evict(3), "a dirty leaf must not leave memory");
    drop(tree);
    assert_eq!(dirty.dirty.get(), 0, "a tree that is gone has no dirty pages");
}
