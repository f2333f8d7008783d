//! Telling a listener what happens to space.

use plimsoll_hardware::Machine;

use super::Pool;
use crate::event::{AlarmState, SpaceEvent};

impl<M: Machine> Pool<M> {
    /// Begins to raise events. `told` is what the listener knows of earlier lives: what still holds of it is not told again, and what is over is
    /// told to be over. Called once after opening; later calls do nothing.
    pub fn arm(&self, told: &AlarmState) {
        if !self.store.inspect {
            self.store.arm(told);
        }
    }

    /// Waits for events and answers them in order; none when the pool is closed. One listener at a time.
    pub async fn events(&self) -> Vec<SpaceEvent> {
        loop {
            let events = self.store.alarms.take();
            if !events.is_empty() || self.store.closing.get() {
                return events;
            }
            self.store.alarms.raised.changed().await;
        }
    }

    /// Tells the listener something that whoever uses the pool knows and the engine does not, in its place among the others.
    pub fn raise(&self, event: SpaceEvent) {
        self.store.alarms.raise_for_others(event);
    }
}
