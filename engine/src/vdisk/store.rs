//! An open pool: its layers, its vdisks, and whether it still takes writes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use plimsoll_hardware::Machine;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::format::{
    Detection, Entry, EntryState, PoolPolicy, Record, RingPlace, RootPage, TABLE_ENTRIES, TablePage, VdiskId,
};
use crate::journal::{Journal, JournalFailed};
use crate::mapping::{Cache, LostRange, Mapping, Patterns};
use crate::media::Media;
use crate::space::Space;
use crate::tree::{Found, PageCounts, Tree};
use crate::wait::WaitQueue;

use super::exhaustion::Episode;
use super::{Alarms, HoldQueue, NextLook, Reclaimable};

/// One vdisk in memory.
pub(crate) struct VdiskCore {
    pub(crate) id: VdiskId,
    /// All that the table says of it; `backed` and the tree's root are brought up to date by checkpoints.
    pub(crate) entry: RefCell<Entry>,
    pub(crate) mapping: Mapping,
    /// Copies of the entry's, for the path of every I/O.
    pub(crate) size: Cell<u64>,
    pub(crate) ready: Cell<bool>,
    pub(crate) sector: Cell<u32>,
    pub(crate) write_through: Cell<bool>,
    pub(crate) detection: Cell<Detection>,
    /// Moves whenever blocks get their first contents.
    pub(crate) first_writes: Cell<u64>,
    /// Writes that are held, and the memory in bytes that their data takes.
    pub(crate) held: Cell<(u64, u64)>,
    /// Since when there has been no space for its writes.
    pub(crate) exhausted: Cell<Option<Duration>>,
    /// Writes that have waited since.
    pub(crate) waited: Cell<u64>,
    /// What the last survey found.
    pub(crate) surveyed: Cell<Option<Reclaimable>>,
    pub(super) episode: Episode,
}

impl VdiskCore {
    pub(crate) fn new(id: VdiskId, entry: Entry, counts: Rc<PageCounts>) -> Rc<Self> {
        let mapping = Mapping::new(id, entry.tree, entry.backed, counts);
        let (size, ready) = (Cell::new(entry.size), Cell::new(entry.state != EntryState::Deleting));
        let (sector, write_through) = (Cell::new(entry.sector), Cell::new(entry.write_through));
        let detection = Cell::new(Detection::of(&entry.policy));
        let (entry, first_writes) = (RefCell::new(entry), Cell::new(0));
        let (held, exhausted, waited) = (Cell::default(), Cell::default(), Cell::default());
        Rc::new(VdiskCore {
            id,
            entry,
            mapping,
            size,
            ready,
            sector,
            write_through,
            detection,
            first_writes,
            held,
            exhausted,
            waited,
            surveyed: Cell::default(),
            episode: Episode::default(),
        })
    }

    pub(crate) fn name(&self) -> String {
        self.entry.borrow().name.clone()
    }

    /// Puts a new entry in force.
    pub(crate) fn update(&self, entry: Entry) {
        self.size.set(entry.size);
        self.sector.set(entry.sector);
        self.write_through.set(entry.write_through);
        self.detection.set(Detection::of(&entry.policy));
        self.ready.set(entry.state != EntryState::Deleting);
        *self.entry.borrow_mut() = entry;
    }
}

/// What was done since the pool was opened.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) reads: Cell<u64>,
    pub(crate) read_bytes: Cell<u64>,
    pub(crate) writes: Cell<u64>,
    pub(crate) write_bytes: Cell<u64>,
    pub(crate) first_writes: Cell<u64>,
    pub(crate) discards: Cell<u64>,
    /// Bytes of zeros, and of patterns, that were written and need no space.
    pub(crate) zero_bytes: Cell<u64>,
    pub(crate) pattern_bytes: Cell<u64>,
    pub(crate) packed_bytes: Cell<u64>,
    /// Extents that packed words have taken for themselves again.
    pub(crate) unpacked_extents: Cell<u64>,
    pub(crate) flushes: Cell<u64>,
    pub(crate) checkpoints: Cell<u64>,
    /// Writes that had to wait for space, and their bytes.
    pub(crate) held_writes: Cell<u64>,
    pub(crate) held_write_bytes: Cell<u64>,
    /// Writes that failed for want of space.
    pub(crate) refused_writes: Cell<u64>,
}

impl Counters {
    /// A write has to wait for space.
    pub(crate) fn held(&self, bytes: u64) {
        count(&self.held_writes, 1);
        count(&self.held_write_bytes, bytes);
    }
}

pub(crate) fn count(counter: &Cell<u64>, by: u64) {
    counter.set(counter.get() + by);
}

/// Who the pool is. Does not change while it is open, but for its name's sake in messages everywhere.
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    pub(crate) created_ms: u64,
    pub(crate) rings: [RingPlace; 2],
}

/// Wishes for checkpoints, and their end.
#[derive(Default)]
pub(crate) struct CheckpointControl {
    pub(crate) wanted: Cell<bool>,
    pub(crate) running: Cell<bool>,
    pub(crate) repairing: Cell<bool>,
    /// Dirty pages right after the last one.
    pub(crate) floor: Cell<usize>,
    /// A device is being added.
    pub(crate) growing: Cell<bool>,
    /// Writes of parts of what is a device's block now may be in flight until this epoch is over.
    pub(crate) narrow_writes: Cell<Option<u64>>,
    /// Readers of the last checkpoint's pages, which therefore must not be used again.
    pub(crate) pins: Cell<u32>,
    pub(crate) request: WaitQueue,
    pub(crate) done: WaitQueue,
    /// A device has joined or left.
    pub(crate) members: WaitQueue,
}

/// When it was last looked for what could come back, and who wants to know.
#[derive(Default)]
pub(crate) struct Surveys {
    pub(crate) ended: Cell<Option<Duration>>,
    pub(crate) wanted: Cell<bool>,
    pub(crate) asked: WaitQueue,
}

impl Surveys {
    /// Somebody wants to know.
    pub(crate) fn ask(&self) {
        self.wanted.set(true);
        self.asked.notify();
    }
}

/// An open pool.
pub(crate) struct Store<M: Machine> {
    pub(crate) identity: Identity,
    pub(crate) media: Rc<Media<M>>,
    pub(crate) journal: Rc<Journal<M>>,
    pub(crate) space: Space<M>,
    pub(crate) table: RefCell<Tree<TablePage>>,
    pub(crate) patterns: Patterns,
    pub(crate) vdisks: RefCell<BTreeMap<VdiskId, Rc<VdiskCore>>>,
    pub(crate) names: RefCell<BTreeMap<String, VdiskId>>,
    /// No identifier below this one is free.
    pub(crate) free_from: Cell<u32>,
    pub(crate) cache: Cache,
    /// Metadata pages in memory, and dirty ones promised to changes under way.
    pub(crate) counts: Rc<PageCounts>,
    pub(crate) promised: Cell<usize>,
    pub(crate) root: RefCell<RootPage>,
    pub(crate) checkpoint: CheckpointControl,
    pub(crate) counters: Counters,
    pub(crate) policy: RefCell<PoolPolicy>,
    pub(crate) holds: HoldQueue,
    pub(crate) next_look: NextLook,
    pub(crate) alarms: Alarms,
    pub(crate) jobs: RefCell<VecDeque<Rc<crate::pool::Job>>>,
    /// The last reclaim of each vdisk.
    pub(crate) reclaims: RefCell<BTreeMap<VdiskId, Rc<crate::pool::Reclaim>>>,
    pub(crate) surveys: Surveys,
    pub(crate) closing: Cell<bool>,
    pub(crate) read_only: RefCell<Option<String>>,
    pub(crate) inspect: bool,
    /// What a start decided to drop and did not write down, because the pool is read-only.
    pub(crate) undecided: RefCell<Vec<Record>>,
}

impl<M: Machine> Store<M> {
    /// Whether the pool takes writes.
    pub(crate) fn is_writable(&self) -> bool {
        !self.closing.get() && self.read_only.borrow().is_none() && !self.journal.has_failed()
    }

    /// Why it takes no writes; `None` when it does.
    pub(crate) fn why_read_only(&self) -> Option<String> {
        let read_only = self.read_only.borrow().clone();
        read_only.or_else(|| self.journal.failure().map(|error| error.to_string()))
    }

    /// Refuses when the pool takes no writes, and says why.
    pub(crate) fn writable(&self) -> Result<()> {
        if self.is_writable() {
            return Ok(());
        }
        if self.closing.get() {
            return Err(Error::Closing(self.identity.name.clone()));
        }
        if let Some(reason) = self.read_only.borrow().clone() {
            return Err(Error::ReadOnly { pool: self.identity.name.clone(), reason, cause: self.journal.failure() });
        }
        if let Some(error) = self.journal.failure() {
            return Err(self.journal_failed(JournalFailed(error)));
        }
        Ok(())
    }

    /// The journal took a change no more: the pool is read-only from here on. The first to notice gets the device's words.
    pub(crate) fn journal_failed(&self, failure: JournalFailed) -> Error {
        let name = &self.identity.name;
        let reason = format!("{}; mend the device, then open it again (plimsoll pool import --name {name})", failure.0);
        let mut read_only = self.read_only.borrow_mut();
        if read_only.is_none() {
            *read_only = Some(reason);
            self.media.trouble.noticed.notify();
            return Error::Device(failure.0);
        }
        let reason = read_only.clone().unwrap_or(reason);
        Error::ReadOnly { pool: self.identity.name.clone(), reason, cause: Some(failure.0) }
    }

    /// The error for a part of a vdisk whose mapping is lost.
    pub(crate) fn damaged(&self, vdisk: &VdiskCore, lost: LostRange) -> Error {
        let extent = self.media.extent_bytes;
        Error::Damaged {
            vdisk: format!("{}/{}", self.identity.name, vdisk.name()),
            offset: lost.first.0 * extent,
            length: lost.count * extent,
        }
    }

    /// Evicts clean leaves beyond the cap. Dirty ones stay until a checkpoint has written them.
    pub(crate) fn trim_cache(&self) {
        let mut kept = Vec::new();
        while self.cache.is_full() && kept.len() < 64 {
            let Some((id, leaf)) = self.cache.candidate() else { break };
            let Some(vdisk) = self.vdisks.borrow().get(&id).cloned() else { continue };
            let mut tree = vdisk.mapping.tree.borrow_mut();
            if tree.take_touched(leaf) || !tree.evict(leaf) {
                kept.push((id, leaf));
            }
        }
        for key in kept {
            self.cache.put_back(key);
        }
    }

    /// Whether the table's page for this identifier is lost, or could not be read when the pool was opened.
    pub(crate) fn is_table_lost(&self, id: VdiskId) -> bool {
        matches!(self.table.borrow().get(table_place(id).0), Found::Lost | Found::Unread(..))
    }

    /// Writes the vdisk's entry into its page of the table.
    pub(crate) fn put_in_table(&self, vdisk: &VdiskCore) {
        let mut entry = vdisk.entry.borrow().clone();
        entry.backed = vdisk.mapping.account.backed.get();
        let (page, slot) = table_place(vdisk.id);
        self.table.borrow_mut().change(page).entries[slot] = Some(entry);
    }
}

/// Page and slot of the vdisk table.
pub(crate) fn table_place(id: VdiskId) -> (u64, usize) {
    (u64::from(id.0) / TABLE_ENTRIES as u64, id.0 as usize % TABLE_ENTRIES)
}
