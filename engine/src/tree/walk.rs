//! Visiting the pages of a tree in order.

use super::{Slot, Tree, child};
use crate::format::{NODE_FANOUT, PageRef, PageType, Payload};

/// A page of the tree as it stands on the devices.
#[derive(Clone)]
pub(crate) struct PageSeen {
    pub(crate) reference: PageRef,
    pub(crate) kind: PageType,
    /// First leaf that it covers, and how many.
    pub(crate) first: u64,
    pub(crate) leaves: u64,
    pub(crate) lost: bool,
    /// It is in memory.
    pub(crate) read: bool,
}

impl PageSeen {
    /// How far above the leaves it is.
    pub(crate) fn level(&self) -> u8 {
        (self.leaves.trailing_zeros() / 7) as u8
    }

    /// Whether it is a node that nobody has read.
    pub(crate) fn is_unread_node(&self) -> bool {
        self.kind == PageType::Node && !self.read && !self.lost
    }
}

impl<P: Payload> Tree<P> {
    /// The first leaf at or after `index` that exists or may exist behind an unread page; `None` when there is none.
    pub(crate) fn next_present(&self, index: u64) -> Option<u64> {
        if index >= self.capacity() {
            return None;
        }
        next(&self.root, self.height, 0, index, true)
    }

    /// As [`Tree::next_present`], leaving out what is lost: a lost node may stand for millions of leaves.
    pub(crate) fn next_sound(&self, index: u64) -> Option<u64> {
        if index >= self.capacity() {
            return None;
        }
        next(&self.root, self.height, 0, index, false)
    }

    /// The first leaf that is lost, or is behind a lost node.
    pub(crate) fn first_lost(&self) -> Option<u64> {
        first_lost(&self.root, self.height, 0)
    }

    /// Every page that has a home among those that were read, and those that are named and were not read.
    pub(crate) fn pages(&self) -> Vec<PageSeen> {
        let mut seen = Vec::new();
        visit(&self.root, self.height, 0, &mut seen);
        seen
    }
}

fn next<P>(slot: &Slot<P>, level: u8, first: u64, index: u64, lost: bool) -> Option<u64> {
    match slot {
        Slot::Empty => None,
        Slot::Node(node) => {
            let start = if index > first { child(index, level - 1) } else { 0 };
            (start..NODE_FANOUT).find_map(|position| {
                let below = first + ((position as u64) << (7 * u32::from(level - 1)));
                next(&node.slots[position], level - 1, below, index.max(below), lost)
            })
        }
        Slot::Lost(_) if !lost => None,
        Slot::Unread(_) | Slot::Lost(_) | Slot::Leaf(_) => Some(index.max(first)),
    }
}

fn first_lost<P>(slot: &Slot<P>, level: u8, first: u64) -> Option<u64> {
    match slot {
        Slot::Lost(_) => Some(first),
        Slot::Node(node) => node.slots.iter().enumerate().find_map(|(position, slot)| {
            first_lost(slot, level - 1, first + ((position as u64) << (7 * u32::from(level - 1))))
        }),
        Slot::Empty | Slot::Unread(_) | Slot::Leaf(_) => None,
    }
}

fn visit<P: Payload>(slot: &Slot<P>, level: u8, first: u64, seen: &mut Vec<PageSeen>) {
    let leaves = 1u64 << (7 * u32::from(level));
    let kind = if level == 0 { P::TYPE } else { PageType::Node };
    let mut push = |reference: &PageRef, lost, read| {
        if !reference.is_none() {
            seen.push(PageSeen { reference: *reference, kind, first, leaves, lost, read });
        }
    };
    match slot {
        Slot::Empty => {}
        Slot::Unread(reference) => push(reference, false, false),
        Slot::Lost(reference) => push(reference, true, false),
        Slot::Leaf(leaf) => push(&leaf.home, false, true),
        Slot::Node(node) => {
            push(&node.home, false, true);
            for (position, slot) in node.slots.iter().enumerate() {
                visit(slot, level - 1, first + ((position as u64) << (7 * u32::from(level - 1))), seen);
            }
        }
    }
}
