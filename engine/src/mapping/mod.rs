//! From a vdisk's extents to the pool's: one tree of words per vdisk, and who is changing which of them.
//!
//! Invariants: a word changes only together with the record that says so, in one step without an `await`; a claim keeps two
//! writers from giving the same block its first contents, and keeps a discard from freeing an extent that is being written;
//! a watch tells who works from what an extent holds whether that changed.

mod cache;
mod claim;
mod lookup;
mod packing;
mod patterns;
mod pending;
mod watch;

pub(crate) use cache::Cache;
pub(crate) use claim::{Claimed, Claims};
pub(crate) use lookup::LostRange;
pub(crate) use packing::{Packing, frees, plan};
pub(crate) use patterns::{Pattern, Patterns, first_word};
pub(crate) use pending::{apply_fill, apply_map};
pub(crate) use watch::{Watch, Watches};

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use foldhash::HashMap;
use pending::Delta;

use crate::format::{Leaf, TreeRoot, VdiskId, VirtualExtent};
use crate::space::Account;
use crate::tree::{Loader, PageCounts, Tree};

/// The mapping of one vdisk.
pub(crate) struct Mapping {
    pub(crate) vdisk: VdiskId,
    pub(crate) tree: RefCell<Tree<Leaf>>,
    loader: Loader,
    pub(crate) claims: Claims,
    pub(crate) watches: Rc<Watches>,
    /// What it has and was promised.
    pub(crate) account: Rc<Account>,
    /// Extents that lost blocks and were not freed, with the epoch in which: overwrites of what the blocks held before may still
    /// be in flight until it is over, and must not land on their next first contents.
    pub(crate) settling: RefCell<HashMap<VirtualExtent, u64>>,
    /// Records replayed for leaves that were not read yet.
    pending: RefCell<BTreeMap<u64, Vec<Delta>>>,
}

impl Mapping {
    pub(crate) fn new(vdisk: VdiskId, root: TreeRoot, backed: u64, counts: Rc<PageCounts>) -> Self {
        Mapping {
            vdisk,
            tree: RefCell::new(Tree::new(root, counts)),
            loader: Loader::default(),
            claims: Claims::default(),
            watches: Rc::default(),
            account: Rc::new(Account::new(vdisk, backed)),
            settling: RefCell::default(),
            pending: RefCell::default(),
        }
    }
}
