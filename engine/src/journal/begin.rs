//! The beginning of a life: what a start found and decided is written down before anybody is served.
//!
//! Whatever of this a crash interrupts, the next start comes to the same state:
//! - the halves of a tail are written as the batches that they were to become, with their numbers and in the name of their own
//!   life, so the tail goes on being true until the last of them is durable;
//! - DROPPED records are written without a claim to cover anything; the batch that does comes last. Where there are halves, the first
//!   of them covers what was written ahead, so what is dropped of that is said in the same batch.

use std::rc::Rc;

use plimsoll_hardware::{IoError, Machine};

use super::{Journal, JournalFailed};
use crate::format::{JournalStart, PAGE_BYTES, Record};

/// What a start found.
pub(crate) struct Beginning {
    /// The life that ended.
    pub(crate) before: u64,
    /// Its batches that only crash memory had, oldest first.
    pub(crate) halves: Vec<(u64, Vec<Record>)>,
    pub(crate) drops: Vec<Record>,
    /// Its last batch, which needs no proof, says nothing, and neither does anything after it: it ended as it began.
    pub(crate) idle: bool,
    /// Where its last batch is, if the ring needs its room: the next one may be there.
    pub(crate) take_back: Option<JournalStart>,
}

impl<M: Machine> Journal<M> {
    /// Begins this journal's life.
    pub(crate) async fn begin_life(self: &Rc<Self>, beginning: Beginning) -> Result<(), JournalFailed> {
        self.write_beginning(beginning).await?;
        self.begin_tail();
        Ok(())
    }

    /// Writes down what was found and decided. There is always a batch of the new life, so that the tail of the one before is never taken
    /// for the present one's. But a life in which nothing happened goes on: however often a start is cut short, the ring does not fill.
    pub(crate) async fn write_beginning(self: &Rc<Self>, beginning: Beginning) -> Result<(), JournalFailed> {
        let life = self.life.replace(beginning.before);
        if beginning.idle {
            return self.go_on(beginning.take_back).await.map_err(|error| self.fail(error));
        }
        let mut drops = &beginning.drops[..];
        for (sequence, records) in &beginning.halves {
            if *sequence < self.pending_sequence() {
                continue;
            }
            // Who wrote ahead had kept room for this in the half.
            let all: Vec<&Record> = records.iter().chain(std::mem::take(&mut drops)).collect();
            let bytes = all.iter().map(|record| record.encoded_len()).sum();
            let mut permit = self.reserve_for_checkpoint(bytes).await?;
            self.append(&mut permit, all);
            drop(permit);
            self.cut_anyway().await?;
        }
        for chunk in drops.chunks(self.change_bytes_max() / 16) {
            let bytes = chunk.iter().map(Record::encoded_len).sum();
            let mut permit = self.reserve_for_checkpoint(bytes).await?;
            let sequence = self.append(&mut permit, chunk);
            drop(permit);
            self.write_out_now(sequence).await?;
        }
        self.life.set(life);
        self.cut_anyway().await
    }

    /// Goes on with the life that ended, whose last batch may be in a device's cache only, or at the place of that.
    async fn go_on(&self, place: Option<JournalStart>) -> Result<(), IoError> {
        if let Some(place) = place {
            // At no time are there two batches of one number that could both come next.
            self.write_rings(place.position, &[0; PAGE_BYTES]).await?;
        }
        self.media.flush().await?;
        if let Some(place) = place {
            self.state.borrow_mut().go_on_at(place, place.sequence - 1);
        }
        Ok(())
    }

    /// The tail changes hands: from here on it is this life's, and no other is called after the pool's devices. Nothing is pending.
    pub(crate) fn begin_tail(&self) {
        if let Some(tail) = self.former_tail.take() {
            tail.begin(self.pool, self.life.get(), self.pending_sequence());
            // Set once: a journal begins one life.
            let _ = self.tail.set(tail);
        }
        for other in self.other_tails.take() {
            other.forget();
            self.media.machine.remove_crash_memory(&other.name());
        }
    }
}
