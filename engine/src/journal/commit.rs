//! Group commit: one at a time, for everybody who waits.

use std::rc::Rc;

use plimsoll_hardware::{IoError, Machine};

use super::{Journal, JournalFailed};
use crate::format::{BATCH_HEADER_BYTES, BatchHeader, JournalStart, pages_of, seal_batch};
use crate::planted::Bug;

/// What goes out in one commit.
pub(super) struct Sealed {
    /// Room for the header, and the records; empty: nothing has to be said.
    bytes: Vec<u8>,
    header: BatchHeader,
    /// Who asked for a flush up to here is answered by this one.
    ticket: u64,
    flush: bool,
}

/// What a commit has to achieve.
#[derive(Clone, Copy, Default)]
pub(super) struct Want {
    /// Power loss must not take it.
    flush: bool,
    /// It must need no proof afterwards.
    proven: bool,
    /// A batch must be written even if there is nothing to say.
    batch: bool,
}

impl<M: Machine> Journal<M> {
    /// Makes everything answered before this call survive power loss.
    pub(crate) async fn flush(self: &Rc<Self>) -> Result<(), JournalFailed> {
        // A flush that has nothing to say needs none.
        if self.has_something_to_say() {
            self.wait_for_room_to_flush().await?;
        }
        let ticket = {
            let mut state = self.state.borrow_mut();
            state.note_flush();
            state.flush_wanted += 1;
            state.flush_wanted
        };
        self.until(|state| state.flush_done >= ticket).await
    }

    /// Whether a flush now would write a batch.
    fn has_something_to_say(&self) -> bool {
        let state = self.state.borrow();
        state.pending.len() > BATCH_HEADER_BYTES || state.stale > state.confirmed
    }

    /// Waits until batch `sequence` is written: it survives our process without crash memory.
    pub(crate) async fn write_out(self: &Rc<Self>, sequence: u64) -> Result<(), JournalFailed> {
        self.wait_for_room_to_flush().await?;
        self.write_out_now(sequence).await
    }

    pub(super) async fn write_out_now(self: &Rc<Self>, sequence: u64) -> Result<(), JournalFailed> {
        {
            let mut state = self.state.borrow_mut();
            state.write_wanted = state.write_wanted.max(sequence);
        }
        self.until(|state| state.written >= sequence).await
    }

    async fn until(self: &Rc<Self>, done: impl Fn(&super::State) -> bool) -> Result<(), JournalFailed> {
        loop {
            {
                let state = self.state.borrow();
                if done(&state) {
                    return Ok(());
                }
                if let Some(error) = &state.failed {
                    return Err(JournalFailed(error.clone()));
                }
            }
            self.kick();
            self.changed.changed().await;
        }
    }

    /// Starts committing unless somebody does, as a task of its own: whoever asked may go away in the middle.
    pub(super) fn kick(self: &Rc<Self>) {
        let idle = {
            let mut state = self.state.borrow_mut();
            let idle = !state.committing && state.failed.is_none() && wanted(&state).is_some();
            state.committing |= idle;
            idle
        };
        if !idle {
            return;
        }
        let journal = self.clone();
        self.media.machine.spawn(async move { journal.commit_wanted().await });
    }

    /// Commits as long as somebody waits for it. The caller has said that it is committing.
    pub(super) async fn commit_wanted(&self) {
        loop {
            let want = wanted(&self.state.borrow());
            let Some(want) = want else { break };
            if self.commit(want, || ()).await.is_err() {
                break;
            }
            self.changed.notify();
        }
        self.state.borrow_mut().committing = false;
        self.changed.notify();
    }

    /// Seals what is pending, takes `snapshot` at that very instant, and makes it durable and proven. Answers where a
    /// replay that starts from the snapshot has to begin.
    pub(crate) async fn cut<T>(
        self: &Rc<Self>,
        snapshot: impl FnOnce() -> T,
    ) -> Result<(JournalStart, T), JournalFailed> {
        self.cut_with(false, snapshot).await
    }

    /// As [`Journal::cut`], and a batch is written even if nothing is pending.
    pub(super) async fn cut_anyway(self: &Rc<Self>) -> Result<(), JournalFailed> {
        self.cut_with(true, || ()).await.map(|_| ())
    }

    async fn cut_with<T>(
        self: &Rc<Self>,
        batch: bool,
        snapshot: impl FnOnce() -> T,
    ) -> Result<(JournalStart, T), JournalFailed> {
        while self.state.borrow().committing {
            self.changed.changed().await;
        }
        self.state.borrow_mut().committing = true;
        let result = self.commit(Want { flush: true, proven: true, batch }, snapshot).await;
        self.state.borrow_mut().committing = false;
        self.changed.notify();
        self.kick();
        result
    }

    async fn commit<T>(&self, want: Want, snapshot: impl FnOnce() -> T) -> Result<(JournalStart, T), JournalFailed> {
        let sealed = self.seal(want)?;
        let snapshot = snapshot();
        Ok((self.put_out(sealed).await?, snapshot))
    }

    /// Takes what is pending as the next batch.
    pub(super) fn seal(&self, want: Want) -> Result<Sealed, JournalFailed> {
        let volatile = self.media.is_volatile();
        let mut state = self.state.borrow_mut();
        if let Some(error) = &state.failed {
            return Err(JournalFailed(error.clone()));
        }
        let sequence = state.pending_sequence;
        let ticket = if want.flush { state.flush_wanted } else { 0 };
        let empty = state.pending.len() == BATCH_HEADER_BYTES;
        let proven =
            !volatile || want.proven || (want.flush && state.stale > state.confirmed) || sequence <= state.voided;
        // An empty batch is written only to confirm those before it.
        let write = !empty || want.batch || (volatile && proven && state.confirmed < state.written);
        let bytes = if write { self.take_pending(&mut state) } else { Vec::new() };
        state.going_out = bytes.len().checked_sub(BATCH_HEADER_BYTES).map_or(0, |payload| pages_of(payload) as u64);
        if want.flush && !proven {
            state.relied = if write { sequence } else { state.written };
        }
        let (pool, life, previous, covered) = (self.pool, self.life.get(), state.previous, state.covered);
        let header = BatchHeader { pool, life, sequence, previous, covered, proven };
        Ok(Sealed { bytes, header, ticket, flush: want.flush })
    }

    /// Writes a batch, with the device flushes that belong to it. Answers where the next one goes.
    pub(super) async fn put_out(&self, sealed: Sealed) -> Result<JournalStart, JournalFailed> {
        let Sealed { mut bytes, mut header, ticket, flush } = sealed;
        let volatile = self.media.is_volatile();
        let failed = |error: IoError| self.fail(error);
        let sequence = header.sequence;
        if header.proven && volatile && !bytes.is_empty() {
            self.flush_media().await.map_err(failed)?;
            header.covered = sequence;
        }
        if !bytes.is_empty() {
            self.commits.set(self.commits.get() + 1);
            let payload = bytes.len() - BATCH_HEADER_BYTES;
            let position = self.state.borrow().position;
            let previous = seal_batch(&header, payload, &mut bytes);
            self.write_rings(position, &bytes).await.map_err(failed)?;
            let mut state = self.state.borrow_mut();
            state.position += pages_of(payload) as u64;
            state.going_out = 0;
            state.previous = previous;
            state.written = sequence;
            state.stated = header.covered;
        }
        if flush {
            let written = self.state.borrow().written;
            self.flush_media().await.map_err(failed)?;
            let mut state = self.state.borrow_mut();
            state.covered = written;
            state.durable = written;
            state.confirmed = if volatile { state.confirmed.max(state.stated) } else { written };
            state.flush_done = state.flush_done.max(ticket);
            if state.confirmed == written && state.pending.len() == BATCH_HEADER_BYTES {
                state.unproven.clear();
            }
        } else if !volatile {
            let mut state = self.state.borrow_mut();
            let written = state.written;
            (state.covered, state.durable, state.confirmed) = (written, written, written);
        }
        if self.wants_checkpoint() {
            self.pressure.notify();
        }
        let state = self.state.borrow();
        Ok(JournalStart { sequence: state.written + 1, position: state.position, previous: state.previous })
    }

    fn take_pending(&self, state: &mut super::State) -> Vec<u8> {
        let mut fresh = Vec::with_capacity(state.pending.len());
        fresh.resize(BATCH_HEADER_BYTES, 0);
        state.pending_sequence += 1;
        if let Some(tail) = self.tail.get() {
            tail.turn(state.pending_sequence);
        }
        std::mem::replace(&mut state.pending, fresh)
    }

    /// Flushes the devices. When that fails they may have dropped what was answered, and the tail is void by the time it says so.
    async fn flush_media(&self) -> Result<(), IoError> {
        if Bug::SkipFlush.is_planted() && self.commits.get() % 7 == 3 {
            return Ok(());
        }
        self.media.flush().await
    }
}

/// The strongest of what is waited for; `None` when nothing is.
pub(super) fn wanted(state: &super::State) -> Option<Want> {
    let confirm = state.confirm_wanted > state.confirmed;
    let flush = state.flush_wanted > state.flush_done;
    let write = state.write_wanted > state.written;
    (confirm || flush || write).then_some(Want { flush: confirm || flush, proven: confirm, batch: false })
}
