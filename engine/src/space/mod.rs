//! Who has which extent: allocation, quarantine, metadata pages, and the sums that the ledger shows.
//!
//! An extent is free; *held* (taken for a write under way, or for metadata not yet named: in memory only, so a crash frees
//! it); allocated (its group says so, from the moment its record is appended); or in *quarantine* (freed, until the record
//! that freed it is durable and no I/O that may still reach it is in flight).
//!
//! Invariants: an allocated extent has exactly one owner (leaf or metadata); data never takes the last `reserve` extents, so a
//! checkpoint always finds its pages; what a group's page says is exactly the state of the records before the checkpoint.

mod allocate;
mod epoch;
mod exclude;
mod figures;
mod forecast;
mod full;
mod group;
mod kept;
mod lanes;
mod ledger;
mod meta;
mod quarantine;
#[cfg(test)]
mod tests;
mod thinned;
mod threshold;
mod waterline;

pub(crate) use epoch::{EpochGuard, Epochs};
pub(crate) use figures::{Figure, See};
pub(crate) use forecast::{Figures, Forecast};
pub use forecast::{HORIZON_MAX, HORIZON_MIN, HORIZONS_MAX, HorizonError, Horizons};
pub(crate) use full::META_EXTENT_BYTES;
pub(crate) use lanes::Lanes;
pub(crate) use ledger::{Account, Ledger, Tenant, Terms};
pub(crate) use meta::{MetaPages, NoMetaSpace};
pub(crate) use quarantine::{Quarantine, Rest};
pub(crate) use threshold::Levels as Watch;
pub use threshold::{LEVELS_MAX, ThresholdError, Thresholds};

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use plimsoll_hardware::Machine;

use crate::event::Shortage;
use crate::format::{
    ExtentId, GROUP_EXTENTS, Group, LEAF_WORDS, META_PAGES_PER_EXTENT, OvercommitLimit, TreeRoot, VdiskId,
};
use crate::media::Media;
use crate::tree::{Loader, PageCounts, Tree};
use group::{GroupInfo, resize_group};
use thinned::Thinned;
use waterline::Waterline;

/// The space of an open pool.
pub(crate) struct Space<M: Machine> {
    media: Rc<Media<M>>,
    pub(crate) tree: RefCell<Tree<Group>>,
    loader: Loader,
    groups: RefCell<Vec<GroupInfo>>,
    lanes: RefCell<Lanes>,
    pub(crate) meta: RefCell<MetaPages>,
    pub(crate) quarantine: RefCell<Quarantine>,
    /// Extents whose contents were moved: they rest until the record of that needs no proof.
    pub(crate) moved: RefCell<Quarantine>,
    /// When growth is wanted, and when packing is.
    pub(crate) filling: Waterline,
    pub(crate) scarce: Waterline,
    /// Free extents of devices that are leaving: nobody gets them.
    closed_free: Cell<u64>,
    pub(crate) epochs: Epochs,
    pub(crate) ledger: Ledger,
    /// Extents of all devices.
    total: Cell<u64>,
    /// Allocated to data, and to metadata.
    data: Cell<u64>,
    meta_extents: Cell<u64>,
    held: Cell<u64>,
    reserve_pages: Cell<u64>,
    /// Where extents have lost blocks and kept others: what packing could give back.
    pub(crate) thinned: Thinned,
    /// A group could not be read: what it says is unknown, and nothing is allocated from it.
    pub(crate) lost_groups: Cell<u64>,
    /// Extents that were free in these, as far as is known.
    out_of_reach: Cell<u64>,
    /// Some device is full below.
    some_full: Cell<bool>,
    /// Extents that the last write wanted which found no room below the devices.
    pub(crate) wanted_below: Cell<u64>,
    /// Since when a checkpoint waits because of that.
    starved: Cell<Option<Duration>>,
    /// Free extents that are set apart for metadata.
    kept: RefCell<BTreeSet<ExtentId>>,
    /// Extents by which the bounds of metadata go: a device counts once it has joined.
    joined: Cell<u64>,
}

impl<M: Machine> Space<M> {
    pub(crate) fn new(media: Rc<Media<M>>, root: TreeRoot, data: u64, meta: u64, counts: Rc<PageCounts>) -> Self {
        let space = Space {
            media,
            tree: RefCell::new(Tree::new(root, counts)),
            loader: Loader::default(),
            groups: RefCell::default(),
            lanes: RefCell::default(),
            meta: RefCell::default(),
            quarantine: RefCell::default(),
            moved: RefCell::default(),
            filling: Waterline::default(),
            scarce: Waterline::default(),
            closed_free: Cell::new(0),
            epochs: Epochs::default(),
            ledger: Ledger::default(),
            total: Cell::new(0),
            data: Cell::new(data),
            meta_extents: Cell::new(meta),
            held: Cell::new(0),
            reserve_pages: Cell::new(0),
            thinned: Thinned::default(),
            lost_groups: Cell::new(0),
            out_of_reach: Cell::new(0),
            some_full: Cell::new(false),
            wanted_below: Cell::new(0),
            starved: Cell::new(None),
            kept: RefCell::default(),
            joined: Cell::new(0),
        };
        space.resize();
        space
    }

    /// Takes the devices and their sizes over, when the pool is opened, grew, or a device has left or is about to.
    pub(crate) fn resize(&self) {
        let sizes = self.media.group_sizes();
        let mut groups = self.groups.borrow_mut();
        for (index, &size) in sizes.iter().enumerate() {
            match groups.get_mut(index) {
                Some(info) => resize_group(info, size),
                None => groups.push(GroupInfo::new(size)),
            }
        }
        for info in groups.iter_mut().skip(sizes.len()) {
            resize_group(info, 0);
        }
        drop(groups);
        self.close_leaving();
        self.note_full();
        let total: u64 = sizes.iter().map(|&size| u64::from(size)).sum();
        let joining: u64 =
            self.media.drives().iter().filter(|drive| drive.is_joining()).map(|drive| drive.extents()).sum();
        self.total.set(total);
        self.joined.set(total - joining);
        self.reserve_pages.set(reserve_pages(total - joining));
        self.trim_kept();
        self.lanes.borrow_mut().resize(&self.media);
        self.ledger.eased.notify();
        self.filling.reached.notify();
        self.scarce.reached.notify();
    }

    /// Most dirty metadata pages that may gather before a checkpoint has to write them.
    pub(crate) fn dirty_max(&self) -> usize {
        dirty_max(self.joined.get())
    }

    /// Extents that are used or may be: all but the free ones of devices that are leaving.
    pub(crate) fn total(&self) -> u64 {
        self.total.get() - self.closed_free.get()
    }

    pub(crate) fn data(&self) -> u64 {
        self.data.get()
    }

    pub(crate) fn meta_extents(&self) -> u64 {
        self.meta_extents.get()
    }

    pub(crate) fn quarantined(&self) -> u64 {
        self.quarantine.borrow().extents() + self.moved.borrow().extents()
    }

    /// Taken for writes under way and for metadata not yet named, and granted to held writes.
    pub(crate) fn held(&self) -> u64 {
        self.held.get() + self.ledger.granted.get()
    }

    /// Corrects the counts after a recount.
    pub(crate) fn correct(&self, data: i64, meta: i64) {
        self.data.set(self.data.get().saturating_add_signed(data));
        self.meta_extents.set(self.meta_extents.get().saturating_add_signed(meta));
    }

    /// Extents that nobody has and somebody may get.
    pub(crate) fn unused(&self) -> u64 {
        let taken = self.data.get() + self.meta_extents.get() + self.held.get() + self.quarantined();
        self.total() - taken - self.out_of_reach.get().min(self.total() - taken)
    }

    /// Extents kept for metadata beyond the pages already free in metadata extents.
    pub(crate) fn reserved(&self) -> u64 {
        let free = self.meta.borrow().free_pages();
        extents_for(self.reserve_pages.get().saturating_sub(free))
    }

    /// Extents for data that nobody has and nobody was granted; they may be promised to somebody.
    pub(crate) fn spare(&self) -> u64 {
        self.unused().saturating_sub(self.reserved() + self.ledger.granted.get())
    }

    /// Extents of metadata that may become necessary for what is in memory and was never placed, while there are reservations to keep;
    /// also filled ones: what is freed of them is their vdisk's again.
    fn margin(&self) -> u64 {
        if self.ledger.reserved() == 0 { 0 } else { margin(self.dirty_max()) }
    }

    /// Extents that `vdisks` vdisks can have together when all that they are is written: the others are the metadata behind that, in two
    /// copies of which checkpoints keep the former ones, and its reserve.
    fn for_data(&self, vdisks: u64) -> u64 {
        let total = self.total();
        let pages = total.div_ceil(LEAF_WORDS as u64) + total.div_ceil(GROUP_EXTENTS) + 2 * vdisks;
        let behind = (4 * pages).div_ceil(u64::from(META_PAGES_PER_EXTENT));
        let reserve = self.reserve_pages.get().div_ceil(u64::from(META_PAGES_PER_EXTENT));
        // The last extent of each may be used in part.
        total.saturating_sub(behind + reserve + 2 + vdisks)
    }

    /// Bytes that may be promised to `vdisks` vdisks. By what they can have: where no more than that is promised no write ever lacks
    /// space.
    pub(crate) fn promises_max(&self, limit: OvercommitLimit, vdisks: u64) -> u64 {
        let for_data = self.for_data(vdisks) * self.media.extent_bytes;
        match limit {
            OvercommitLimit::Bytes(bytes) => for_data.saturating_add(bytes),
            OvercommitLimit::Ratio(ratio) => {
                u64::try_from(u128::from(for_data) * u128::from(ratio) / 1000).unwrap_or(u64::MAX)
            }
        }
    }

    /// Extents that a vdisk without a reservation can still get.
    pub(crate) fn available(&self) -> u64 {
        self.spare().saturating_sub(self.withheld())
    }

    /// Tells who waits for the pool to fill when it has. To be called whenever less may have become available.
    pub(crate) fn note_filling(&self) {
        self.filling.look(|| self.available());
        self.scarce.look(|| self.available());
    }

    /// Says that an extent of a leaf has lost blocks and has others.
    pub(crate) fn note_thinned(&self, vdisk: VdiskId, leaf: u64) {
        self.thinned.note(vdisk, leaf);
        self.scarce.look(|| self.available());
    }

    /// Extents kept for reservations: what is not in use of them, and the metadata that may go with it.
    pub(crate) fn withheld(&self) -> u64 {
        self.ledger.unfilled() + self.margin()
    }

    /// Why `account` cannot have `extents` more now; `None`: it can.
    pub(crate) fn shortage(&self, account: &Account, extents: u64) -> Option<Shortage> {
        let shortage = self.ledger.shortage(account, extents, self.spare(), self.margin());
        shortage.or_else(|| self.full_below(extents))
    }

    /// Why `account` cannot have an extent that was granted to it: the metadata of others that were granted some at the same time, or
    /// before, has taken so much that only its reserve and reservations are left. `None`: it can.
    fn eaten_up(&self, account: &Account) -> Option<Shortage> {
        // What was reserved for it is its own; only the metadata reserve is nobody's.
        let others = if account.is_within_reservation() { 0 } else { self.ledger.withheld_by_others(account) };
        (self.unused() <= self.reserved() + others).then_some(Shortage::PoolFull)
    }

    /// Extents more that would have to be free for `terms` to be promised; `None`: they can be.
    pub(crate) fn short_of(&self, account: &Account, terms: &Terms) -> Option<u64> {
        let first = terms.reservation > 0 && self.ledger.reserved() == 0;
        let added = self.ledger.added_by(account, terms) + if first { margin(self.dirty_max()) } else { 0 };
        let missing = added.saturating_sub(self.available() + self.coming());
        (missing > 0).then_some(missing)
    }

    /// Extents in quarantine that somebody may have when they come out of it.
    pub(crate) fn coming(&self) -> u64 {
        let groups = self.groups.borrow();
        let stays = |extent| !groups[group::place(extent).0 as usize].closed;
        self.quarantine.borrow().count(stays) + self.moved.borrow().count(stays)
    }
}

/// Extents for two copies of so many dirty pages.
fn margin(dirty: usize) -> u64 {
    (2 * dirty as u64).div_ceil(u64::from(META_PAGES_PER_EXTENT))
}

/// A sixteenth of the extents as dirty pages, 32 to 16,384 (64 MiB): large pools gather many changes per page written.
fn dirty_max(total: u64) -> usize {
    (total / 16).clamp(32, 16_384) as usize
}

/// Extents of the reserve of a pool of so many that has no metadata yet.
pub(crate) fn reserve_extents(total: u64) -> u64 {
    extents_for(reserve_pages(total))
}

/// Extents for so many pages in two copies, each of which may leave one partly used.
fn extents_for(pages: u64) -> u64 {
    pages.div_ceil(u64::from(META_PAGES_PER_EXTENT)) + 2
}

/// What checkpoints need at worst: two copies of every dirty page written anew while the old ones still count, and of as many
/// nodes that become dirty while it runs; as much again for pages that did not exist before; and some for pages tried twice.
fn reserve_pages(total: u64) -> u64 {
    6 * dirty_max(total) as u64 + 64
}
