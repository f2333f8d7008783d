//! The journal: what changed since the last checkpoint, in order, in two rings on the devices and a tail in crash memory.
//!
//! A record is *appended* (in crash memory: it survives our process), later *written* (in a batch on the devices: in their
//! caches at least) and, with a flush, *durable*. Batches are numbered; a record belongs to the batch that was pending when
//! it was appended, or to one of its own that was written before (`ahead`).
//!
//! Proofs. On a device with a volatile cache a batch may reach the medium before the data that its MAP records name. So each
//! MAP carries a checksum of its data, and after power loss a MAP whose batch no later statement *covers* is believed only if
//! the data on the medium matches. This lets a flush cost one device flush: data and batch go out, then both are flushed.
//! It breaks when the data is legitimately overwritten afterwards, so an overwrite asks first ([`Journal::gate`]):
//! - batch not yet relied on by any flush: go on, and the next flush will be a *proven* one (data flushed before the batch
//!   is written, and the batch says so);
//! - relied on: wait until a proven batch is durable, which needs no proof any more;
//! - covered by a durable statement: nothing to do.
//!
//! Invariants: one commit at a time; `confirmed <= durable <= written < pending_sequence`; `relied <= written` or the batch
//! being written; after a failed write or flush nothing is appended any more.

mod ahead;
mod append;
mod begin;
mod commit;
mod gate;
mod move_rings;
mod read;
mod ring;
mod tail;

pub(crate) use append::Permit;
pub(crate) use begin::Beginning;
pub(crate) use gate::Gate;
use move_rings::Moving;
pub(crate) use read::{JournalEnd, read};
pub(crate) use tail::{Left, Tail};

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use foldhash::{HashMap, HashMapExt};
use plimsoll_hardware::{IoError, Machine};
use uuid::Uuid;

use crate::format::{BATCH_HEADER_BYTES, Blocks, ExtentId, JournalStart, PAGE_BYTES, RingPlace};
use crate::media::Media;
use crate::wait::WaitQueue;

/// The journal of an open pool.
pub(crate) struct Journal<M: Machine> {
    media: Rc<Media<M>>,
    pool: Uuid,
    pub(crate) life: Cell<u64>,
    rings: Cell<[RingPlace; 2]>,
    ring_pages: u64,
    /// Where a ring is about to move.
    moving: RefCell<Option<Moving>>,
    state: RefCell<State>,
    tail: OnceCell<Rc<Tail<M::CrashMemory>>>,
    /// The tail of the life before, until this one has begun, and those that nobody goes on from.
    former_tail: RefCell<Option<Rc<Tail<M::CrashMemory>>>>,
    other_tails: RefCell<Vec<Rc<Tail<M::CrashMemory>>>>,
    changed: WaitQueue,
    /// The ring is filling up: a checkpoint is wanted.
    pub(crate) pressure: WaitQueue,
    pub(crate) commits: Cell<u64>,
    /// Of these, written beside their data.
    pub(crate) ahead: Cell<u64>,
}

/// Why the journal takes nothing any more.
#[derive(Clone, Debug)]
pub(crate) struct JournalFailed(pub(crate) IoError);

/// Blocks of an extent whose records need their proof, and the first and last batch that these records are in.
#[derive(Clone, Copy)]
struct Unproven {
    blocks: Blocks,
    oldest: u64,
    newest: u64,
}

/// Extents that may need proofs before a flush is made unasked: what a start after power loss has to read is bounded by it.
/// 16,384 reads of 4 KiB are a second of a slow disk.
const UNPROVEN_MAX: usize = 16_384;

struct State {
    /// Room for the header, then the records of the batch to come.
    pending: Vec<u8>,
    pending_sequence: u64,
    /// Bytes promised to those who hold permits.
    reserved: usize,
    /// Where the next batch goes, in pages since the journal began.
    position: u64,
    /// Pages of the batch being written, which will go there.
    going_out: u64,
    previous: u32,
    /// Position that the last checkpoint's replay starts from; what is before it is free.
    start: u64,
    written: u64,
    /// Batches up to here, and their data, survived a completed flush.
    covered: u64,
    durable: u64,
    /// What the last batch written says that is covered.
    stated: u64,
    /// Batches up to here are covered by a durable statement.
    confirmed: u64,
    /// A flush was answered, or will be, on the strength of proofs in batches up to here.
    relied: u64,
    /// Data of a record of a batch up to here was overwritten since: its proof is void.
    stale: u64,
    /// Records of batches up to here may have no proof of their own.
    voided: u64,
    unproven: HashMap<ExtentId, Unproven>,
    flush_wanted: u64,
    flush_done: u64,
    write_wanted: u64,
    confirm_wanted: u64,
    committing: bool,
    /// The batch being written has a record that is not true yet.
    ahead: bool,
    /// MAPs since the last flush was asked for.
    maps: u64,
    /// There was one between the last two.
    lone: bool,
    failed: Option<IoError>,
}

impl State {
    /// The next batch is the one of `next`, and those up to `covered` are durable.
    fn go_on_at(&mut self, next: JournalStart, covered: u64) {
        (self.pending_sequence, self.position, self.previous) = (next.sequence, next.position, next.previous);
        self.written = next.sequence - 1;
        (self.covered, self.durable, self.stated) = (covered, covered, covered);
        (self.confirmed, self.relied) = (covered, covered);
    }

    fn note_flush(&mut self) {
        if self.maps > 0 {
            self.lone = self.maps == 1;
        }
        self.maps = 0;
    }
}

impl<M: Machine> Journal<M> {
    /// A journal that goes on at `next`, with the batches from `start` on still needed, and those up to `covered` known to be
    /// durable. Nothing is pending.
    pub(crate) fn new(
        media: Rc<Media<M>>,
        pool: Uuid,
        life: u64,
        rings: [RingPlace; 2],
        start: u64,
        next: JournalStart,
        covered: u64,
    ) -> Self {
        let mut state = State {
            pending: vec![0; BATCH_HEADER_BYTES],
            pending_sequence: 0,
            reserved: 0,
            position: 0,
            going_out: 0,
            previous: 0,
            start,
            written: 0,
            covered: 0,
            durable: 0,
            stated: 0,
            confirmed: 0,
            relied: 0,
            stale: 0,
            voided: 0,
            unproven: HashMap::new(),
            flush_wanted: 0,
            flush_done: 0,
            write_wanted: 0,
            confirm_wanted: 0,
            committing: false,
            ahead: false,
            maps: 0,
            lone: false,
            failed: None,
        };
        state.go_on_at(next, covered);
        Journal {
            media,
            pool,
            life: Cell::new(life),
            rings: Cell::new(rings),
            ring_pages: rings[0].pages,
            moving: RefCell::default(),
            state: RefCell::new(state),
            tail: OnceCell::new(),
            former_tail: RefCell::default(),
            other_tails: RefCell::default(),
            changed: WaitQueue::default(),
            pressure: WaitQueue::default(),
            commits: Cell::new(0),
            ahead: Cell::new(0),
        }
    }

    /// Largest payload of a batch in bytes: a quarter of the ring, at most 256 KiB (and what a half of the tail holds).
    pub(crate) fn batch_bytes_max(ring_pages: u64) -> usize {
        ((ring_pages as usize * PAGE_BYTES / 4) - BATCH_HEADER_BYTES).min(256 << 10)
    }

    /// The number of the last batch that is durable.
    pub(crate) fn durable(&self) -> u64 {
        self.state.borrow().durable
    }

    /// The number of the last batch whose records need no proof.
    pub(crate) fn confirmed(&self) -> u64 {
        self.state.borrow().confirmed
    }

    /// The number of the batch that records appended now will be in.
    pub(crate) fn pending_sequence(&self) -> u64 {
        self.state.borrow().pending_sequence
    }

    /// Whether some record would not survive power loss now.
    pub(crate) fn has_undurable(&self) -> bool {
        let state = self.state.borrow();
        state.pending.len() > BATCH_HEADER_BYTES || state.durable < state.written || state.committing
    }

    /// Why nothing can be written any more, if so.
    pub(crate) fn failure(&self) -> Option<IoError> {
        self.state.borrow().failed.clone()
    }

    /// Whether nothing can be written any more.
    pub(crate) fn has_failed(&self) -> bool {
        self.state.borrow().failed.is_some()
    }

    /// Lets the space before `start` go: a checkpoint stands that replays from there.
    pub(crate) fn release(&self, start: u64) {
        self.state.borrow_mut().start = start;
        self.changed.notify();
    }

    /// Whether crash memory keeps records between batches. Without it a record must be written before it counts.
    pub(crate) fn has_tail(&self) -> bool {
        self.tail.get().is_some_and(|tail| !tail.is_void())
    }

    /// What the tail is called, if there is one.
    pub(crate) fn tail_name(&self) -> Option<String> {
        self.tail.get().map(|tail| tail.name())
    }

    /// The tail goes on under another name.
    ///
    /// # Errors
    /// Why it does not; it has its name as before.
    pub(crate) fn rename_tail(&self, name: String) -> Result<(), String> {
        let Some(tail) = self.tail.get() else { return Ok(()) };
        self.media.machine.rename_crash_memory(&tail.name(), &name)?;
        tail.rename(name);
        Ok(())
    }

    /// A device may have lost what it had not flushed: the tail must not be believed, so what it alone has is written.
    pub(crate) fn lose_tail(self: &Rc<Self>) {
        self.forget_tail();
        {
            let mut state = self.state.borrow_mut();
            if state.pending.len() > BATCH_HEADER_BYTES {
                state.write_wanted = state.pending_sequence;
            }
        }
        self.kick();
    }

    /// Takes the tail of the life before, and others that are called after members too. A failure on the way to the present life voids
    /// them all.
    pub(crate) fn keep_former_tails(
        &self,
        tail: Option<Rc<Tail<M::CrashMemory>>>,
        others: Vec<Rc<Tail<M::CrashMemory>>>,
    ) {
        self.former_tail.replace(tail);
        self.other_tails.replace(others);
    }

    /// Makes the tail belong to nobody: everything is on the devices, or must not be believed.
    pub(crate) fn forget_tail(&self) {
        self.tail.get().into_iter().for_each(|tail| tail.forget());
        self.former_tail.borrow().iter().for_each(|tail| tail.forget());
        self.other_tails.borrow().iter().for_each(|tail| tail.forget());
    }

    /// Takes nothing any more, because of something that happened elsewhere.
    pub(crate) fn stop(&self, error: IoError) {
        self.fail(error);
    }

    /// What is pending was appended without proofs, or with proofs that must not count: they are written in a batch
    /// that needs none, and the next flush is a proven one.
    pub(crate) fn void_proofs(&self) {
        let mut state = self.state.borrow_mut();
        state.stale = state.pending_sequence;
        state.voided = state.pending_sequence;
    }

    /// Passes over the batch numbers that what lies beyond a damaged part of the ring may have, of which `highest` was seen, and those
    /// that a tail goes on with.
    pub(crate) fn jump(&self, highest: u64) {
        let (former, others) = (self.former_tail.borrow(), self.other_tails.borrow());
        let tails = former.iter().chain(&*others).filter_map(|tail| tail.recover(self.pool));
        let in_tails = tails.flat_map(|(_, halves)| halves).map(|(sequence, _)| sequence);
        let highest = in_tails.fold(highest, u64::max);
        let mut state = self.state.borrow_mut();
        state.pending_sequence = state.pending_sequence.max(highest) + self.ring_pages;
    }

    fn fail(&self, error: IoError) -> JournalFailed {
        tracing::error!(%error, "the journal failed; the pool takes no more writes in this life");
        self.state.borrow_mut().failed.get_or_insert(error.clone());
        self.changed.notify();
        self.pressure.notify();
        JournalFailed(error)
    }
}
