//! Promising room for records, and appending them.

use std::rc::Rc;

use plimsoll_hardware::Machine;

use super::{Journal, JournalFailed, State, UNPROVEN_MAX, Unproven};
use crate::format::{BATCH_HEADER_BYTES, Blocks, ExtentId, Record, pages_of};

/// Eighths of the ring that may be in use, what has a permit included, for somebody to get one. The next is for flushes: each begins a
/// page, and they must not wait for a checkpoint, which may wait itself. The last two are a checkpoint's: its records and two batches.
const FOR_RECORDS: u64 = 5;
/// Eighths of the ring that may be in use for a batch to be begun.
const FOR_BATCHES: u64 = 6;

/// A promise of room for records in the batch to come; what is not used is forfeited when it is dropped.
pub(crate) struct Permit<M: Machine> {
    journal: Rc<Journal<M>>,
    bytes: usize,
}

impl<M: Machine> Permit<M> {
    /// So many of its bytes are in a batch now.
    pub(super) fn spend(&mut self, state: &mut State, bytes: usize) {
        assert!(bytes <= self.bytes, "{bytes} bytes of records were appended with room for {}", self.bytes);
        self.bytes -= bytes;
        state.reserved -= bytes;
    }
}

impl<M: Machine> Drop for Permit<M> {
    fn drop(&mut self) {
        self.journal.state.borrow_mut().reserved -= self.bytes;
        if self.bytes > 0 {
            self.journal.changed.notify();
        }
    }
}

impl<M: Machine> Journal<M> {
    /// Bytes of records that one batch, and so one atomic change, can have.
    pub(crate) fn change_bytes_max(&self) -> usize {
        Self::batch_bytes_max(self.ring_pages)
    }

    /// Waits until `bytes` of records have room in one batch.
    pub(crate) async fn reserve(self: &Rc<Self>, bytes: usize) -> Result<Permit<M>, JournalFailed> {
        self.reserve_from(bytes, false).await
    }

    /// As [`Journal::reserve`], from the part of the ring that is kept for checkpoints.
    pub(crate) async fn reserve_for_checkpoint(self: &Rc<Self>, bytes: usize) -> Result<Permit<M>, JournalFailed> {
        self.reserve_from(bytes, true).await
    }

    async fn reserve_from(self: &Rc<Self>, bytes: usize, kept: bool) -> Result<Permit<M>, JournalFailed> {
        assert!(bytes <= self.change_bytes_max(), "{bytes} bytes of records are more than a batch holds");
        loop {
            if let Some(permit) = self.permit(bytes, kept) {
                return Ok(permit);
            }
            {
                let mut state = self.state.borrow_mut();
                if let Some(error) = &state.failed {
                    return Err(JournalFailed(error.clone()));
                }
                let held = state.pending.len() - BATCH_HEADER_BYTES + state.reserved;
                if held + bytes > self.change_bytes_max() && state.pending.len() > BATCH_HEADER_BYTES {
                    state.write_wanted = state.pending_sequence;
                }
            }
            self.kick();
            self.pressure.notify();
            self.changed.changed().await;
        }
    }

    /// As [`Journal::reserve`], when there is room now.
    pub(crate) fn reserve_at_once(self: &Rc<Self>, bytes: usize) -> Option<Permit<M>> {
        self.permit(bytes, false)
    }

    fn permit(self: &Rc<Self>, bytes: usize, kept: bool) -> Option<Permit<M>> {
        let mut state = self.state.borrow_mut();
        let held = state.pending.len() - BATCH_HEADER_BYTES + state.reserved;
        let fits = held + bytes <= self.change_bytes_max() && (kept || self.has_room(&state, FOR_RECORDS));
        if !fits || state.failed.is_some() {
            return None;
        }
        state.reserved += bytes;
        Some(Permit { journal: self.clone(), bytes })
    }

    /// Waits until the ring has room for a batch beyond what a checkpoint needs.
    pub(super) async fn wait_for_room_to_flush(self: &Rc<Self>) -> Result<(), JournalFailed> {
        loop {
            {
                let state = self.state.borrow();
                if let Some(error) = &state.failed {
                    return Err(JournalFailed(error.clone()));
                }
                if self.has_room(&state, FOR_BATCHES) {
                    return Ok(());
                }
            }
            self.pressure.notify();
            self.changed.changed().await;
        }
    }

    /// Whether a checkpoint should run now: a third of the ring is in use.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        let state = self.state.borrow();
        (state.position - state.start) * 3 > self.ring_pages
    }

    /// Whether so much of the ring is in use that a start should make room before anybody is served: three quarters.
    pub(crate) fn is_nearly_full(&self) -> bool {
        let state = self.state.borrow();
        (state.position - state.start) * 4 > self.ring_pages * 3
    }

    /// Whether what is in the ring, and what is to come, is no more than so many eighths of it.
    fn has_room(&self, state: &State, eighths: u64) -> bool {
        let pending = pages_of(state.pending.len() + state.reserved) as u64;
        (state.position - state.start + state.going_out + pending) * 8 <= self.ring_pages * eighths
    }

    /// Appends `records`, all in one batch; answers the batch's number. The permit must cover them.
    pub(crate) fn append<'a>(&self, permit: &mut Permit<M>, records: impl IntoIterator<Item = &'a Record>) -> u64 {
        let mut state = self.state.borrow_mut();
        let before = state.pending.len();
        for record in records {
            record.encode(&mut state.pending);
        }
        let added = state.pending.len() - before;
        permit.spend(&mut state, added);
        if let Some(tail) = self.tail.get() {
            tail.append(&state.pending[before..]);
        }
        state.pending_sequence
    }

    /// Appends that `blocks` of `extent` were written for the first time. Remembers that this needs its proof.
    pub(crate) fn append_map(&self, permit: &mut Permit<M>, record: &Record, extent: ExtentId, blocks: Blocks) -> u64 {
        let sequence = self.append(permit, std::slice::from_ref(record));
        permit.journal.note_first_contents(extent, blocks, sequence);
        sequence
    }

    /// A record of batch `sequence` says that these blocks have their first contents.
    pub(super) fn note_first_contents(self: &Rc<Self>, extent: ExtentId, blocks: Blocks, sequence: u64) {
        let crowded = {
            let mut state = self.state.borrow_mut();
            state.maps += 1;
            if !self.media.is_volatile() {
                return;
            }
            let confirmed = state.confirmed;
            let fresh = Unproven { blocks, oldest: sequence, newest: sequence };
            let known = state.unproven.entry(extent).or_insert(fresh);
            *known = match known.newest <= confirmed {
                true => fresh,
                false => Unproven { blocks: known.blocks.with(blocks), newest: sequence, ..*known },
            };
            self.is_crowded(&mut state)
        };
        if crowded {
            self.kick();
        }
    }

    /// Drops what needs no proof any more; when too many are left, asks for a flush that nobody waits for.
    fn is_crowded(&self, state: &mut State) -> bool {
        if state.unproven.len() < UNPROVEN_MAX || state.flush_wanted > state.flush_done {
            return false;
        }
        let confirmed = state.confirmed;
        state.unproven.retain(|_, unproven| unproven.newest > confirmed);
        let crowded = state.unproven.len() >= UNPROVEN_MAX / 2;
        if crowded {
            state.confirm_wanted = state.pending_sequence;
        }
        crowded
    }
}
