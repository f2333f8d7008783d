//! Waiting for what happens to a pool by itself: nobody has to ask again and again.

use plimsoll_hardware::Machine;

use super::Pool;

impl<M: Machine> Pool<M> {
    /// Completes when a device has joined or left since this was called; `false` when the pool is closing.
    pub async fn members_changed(&self) -> bool {
        if !self.store.closing.get() {
            self.store.checkpoint.members.changed().await;
        }
        !self.store.closing.get()
    }

    /// Completes when the pool is closing.
    pub async fn closed(&self) {
        while self.members_changed().await {}
    }

    /// Completes when `percent` (1 to 100) of its space, or more, is not available, or when writes find no room below its devices;
    /// `false` when the pool is closing. What only waits for a flush to be free is not counted as used. One task at a time may wait for it.
    pub async fn used_reaches(&self, percent: u8) -> bool {
        let space = &self.store.space;
        let is_full_below = || space.full_below(space.wanted_below.get().max(1)).is_some();
        while !self.store.closing.get() {
            let total = space.total();
            // Available extents at which it is reached.
            let left = total - (total * u64::from(percent.clamp(1, 100))).div_ceil(100);
            if space.available() + space.coming() <= left {
                return true;
            }
            if is_full_below() {
                // Somebody may have made room, and nobody else has looked.
                self.store.until_next_look().await;
                self.store.look_for_room().await;
                if is_full_below() {
                    return true;
                }
            }
            if space.available() > left {
                space.filling.wait(left).await;
            } else if !matches!(self.store.recover_quarantine().await, Ok(true)) {
                return true;
            }
        }
        false
    }
}
