//! Writing ahead: the batch of a lone first write goes out beside its data, not after it.
//!
//! Who writes and flushes by turns, one write at a time, would wait for data, batch and device flush one after the other. When the last
//! two flushes had one first write between them, the next one is expected to be such a one, too, and its batch is written at once.
//! The record is then on a device before it is true, so:
//! - power loss: it needs its proof, as the record of any batch that nothing covers;
//! - death of our process: the tail gets the record only when the data is there, in the half of its batch, and a start believes of a
//!   batch only what its half has;
//! - it counts as a commit until it is settled, so no later batch covers it and no checkpoint cuts behind it;
//! - when the data fails, DROPPED is in the next batch, before anything can cover it;
//! - so it is when something was appended meanwhile: that took effect before this, and this comes after it, as any other record.

use std::rc::Rc;

use plimsoll_hardware::Machine;

use super::commit::{Want, wanted};
use super::{Journal, Permit};
use crate::format::{BATCH_HEADER_BYTES, Blocks, DROPPED_RECORD_BYTES, ExtentId, MAP_RECORD_BYTES, Record};

/// A batch with one record that is not true yet. Let go without being [settled](Journal::settle), it never is.
pub(crate) struct Ahead<M: Machine> {
    journal: Rc<Journal<M>>,
    sequence: u64,
    /// For saying that it was dropped.
    permit: Permit<M>,
    /// The record, encoded.
    record: Vec<u8>,
}

impl<M: Machine> Journal<M> {
    /// Begins to write the batch of this MAP, whose data is about to be written; `None` when it had better be appended afterwards. Who
    /// asks keeps a permit for that: it may come to it.
    pub(crate) fn write_ahead(self: &Rc<Self>, record: &Record) -> Option<Ahead<M>> {
        if !self.is_worth_writing_ahead() {
            return None;
        }
        let mut permit = self.reserve_at_once(MAP_RECORD_BYTES + DROPPED_RECORD_BYTES)?;
        let mut encoded = Vec::with_capacity(record.encoded_len());
        record.encode(&mut encoded);
        {
            let mut state = self.state.borrow_mut();
            state.pending.extend_from_slice(&encoded);
            permit.spend(&mut state, encoded.len());
        }
        let sealed = self.seal(Want::default()).ok()?;
        let sequence = {
            let mut state = self.state.borrow_mut();
            (state.committing, state.ahead) = (true, true);
            state.pending_sequence - 1
        };
        self.ahead.set(self.ahead.get() + 1);
        let journal = self.clone();
        self.media.machine.spawn(async move {
            // A failure is the journal's, and whoever asks it learns of it.
            let _ = journal.put_out(sealed).await;
            while journal.state.borrow().ahead {
                journal.changed.changed().await;
            }
            journal.commit_wanted().await;
        });
        Some(Ahead { journal: self.clone(), sequence, permit, record: encoded })
    }

    /// Whether a first write now would be alone in its batch, a flush is likely to wait for that, and proofs will do.
    fn is_worth_writing_ahead(&self) -> bool {
        let state = self.state.borrow();
        let alone = state.lone && state.maps == 0 && state.pending.len() == BATCH_HEADER_BYTES;
        let idle = !state.committing && state.failed.is_none() && wanted(&state).is_none();
        let by_proof = state.stale <= state.confirmed && state.pending_sequence > state.voided;
        alone && idle && by_proof && self.media.is_volatile() && self.has_tail()
    }
}

impl<M: Machine> Ahead<M> {
    /// The data is there: `blocks` of `extent` have their first contents. Answers the batch's number; `None`: the record has to be
    /// appended after all.
    pub(crate) fn settle(self, extent: ExtentId, blocks: Blocks) -> Option<u64> {
        if self.journal.state.borrow().pending.len() > BATCH_HEADER_BYTES {
            return None;
        }
        self.journal.state.borrow_mut().ahead = false;
        if let Some(tail) = self.journal.tail.get() {
            tail.append_late(&self.record);
        }
        self.journal.note_first_contents(extent, blocks, self.sequence);
        Some(self.sequence)
    }
}

impl<M: Machine> Drop for Ahead<M> {
    fn drop(&mut self) {
        let journal = self.journal.clone();
        // It may have been settled, and the next one goes out only after this.
        let open = std::mem::take(&mut journal.state.borrow_mut().ahead);
        if open && !journal.has_failed() {
            journal.append(&mut self.permit, &[Record::Dropped { batch: self.sequence, index: 0 }]);
        }
        journal.changed.notify();
    }
}
