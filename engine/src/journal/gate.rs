//! What an overwrite has to ask before it may void a proof.

use std::rc::Rc;

use plimsoll_hardware::Machine;

use super::{Journal, JournalFailed};
use crate::format::{BATCH_HEADER_BYTES, Blocks, ExtentId};

/// Whether blocks may be overwritten now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// Wait until this batch is confirmed ([`Journal::confirm`]) and ask again.
    Closed(u64),
}

impl<M: Machine> Journal<M> {
    /// Asks for an overwrite of `blocks` of `extent`, to be started before the next `await` if the gate is open.
    pub(crate) fn gate(&self, extent: ExtentId, blocks: Blocks) -> Gate {
        let mut state = self.state.borrow_mut();
        if state.unproven.is_empty() {
            return Gate::Open;
        }
        let Some(&unproven) = state.unproven.get(&extent) else { return Gate::Open };
        if unproven.newest <= state.confirmed {
            state.unproven.remove(&extent);
            return Gate::Open;
        }
        if !unproven.blocks.overlaps(blocks) {
            return Gate::Open;
        }
        if state.relied > state.confirmed && unproven.oldest <= state.relied {
            return Gate::Closed(state.relied);
        }
        // Without a tail a start cannot tell the death of our process from power loss: whatever is answered relies on proofs.
        if !self.has_tail() {
            return Gate::Closed(unproven.newest);
        }
        state.stale = state.stale.max(unproven.newest);
        Gate::Open
    }

    /// Whether what a device lost may include the first contents of `blocks` of `extent`: what is there may be its former owner's.
    pub(crate) fn doubts(&self, extent: ExtentId, blocks: Blocks) -> bool {
        let state = self.state.borrow();
        let unproven = state.unproven.get(&extent);
        self.media.is_lossy()
            && unproven.is_some_and(|known| known.newest > state.confirmed && known.blocks.overlaps(blocks))
    }

    /// Waits until no record that was appended before this call needs its proof any more.
    pub(crate) async fn confirm_all(self: &Rc<Self>) -> Result<(), JournalFailed> {
        let last = {
            let state = self.state.borrow();
            let sealed = if state.committing { state.pending_sequence - 1 } else { state.written };
            if state.pending.len() > BATCH_HEADER_BYTES { state.pending_sequence } else { sealed }
        };
        self.confirm(last).await
    }

    /// Waits until batch `wanted` is confirmed.
    pub(crate) async fn confirm(self: &Rc<Self>, wanted: u64) -> Result<(), JournalFailed> {
        self.wait_for_room_to_flush().await?;
        loop {
            {
                let mut state = self.state.borrow_mut();
                if let Some(error) = &state.failed {
                    return Err(JournalFailed(error.clone()));
                }
                if state.confirmed >= wanted {
                    return Ok(());
                }
                state.confirm_wanted = state.confirm_wanted.max(wanted);
            }
            self.kick();
            self.changed.changed().await;
        }
    }
}
