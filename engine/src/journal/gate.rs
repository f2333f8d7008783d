//! What an overwrite has to ask before it may void a proof.

use std::rc::Rc;

use plimsoll_hardware::Machine;

use super::{Journal, JournalFailed};
use crate::format::{Blocks, ExtentId};

/// Whether blocks may be overwritten now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// Wait for [`Journal::confirm`] and ask again.
    Closed,
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
        if unproven.oldest <= state.relied {
            return Gate::Closed;
        }
        state.stale = state.stale.max(unproven.newest);
        Gate::Open
    }

    /// Waits until everything relied on now is confirmed.
    pub(crate) async fn confirm(self: &Rc<Self>) -> Result<(), JournalFailed> {
        let wanted = self.state.borrow().relied;
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
