//! Being told, once, when no more than so much is available.

use std::cell::Cell;

use crate::wait::WaitQueue;

/// One task's wish to be woken when space runs low.
#[derive(Default)]
pub(crate) struct Waterline {
    /// Available extents at or below which it is told.
    at: Cell<Option<u64>>,
    /// It was reached, or what it is reckoned from has changed.
    pub(crate) reached: WaitQueue,
}

impl Waterline {
    /// Waits until no more than `left` extents are available, or it is time to look again for another reason.
    pub(crate) async fn wait(&self, left: u64) {
        self.at.set(Some(left));
        self.reached.changed().await;
    }

    #[inline]
    pub(super) fn look(&self, available: impl FnOnce() -> u64) {
        if self.at.get().is_some_and(|left| available() <= left) {
            self.at.set(None);
            self.reached.notify();
        }
    }
}
