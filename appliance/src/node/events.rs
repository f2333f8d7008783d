//! Events of the pools: from the engine into the log, in order.

use plimsoll_engine::{AlarmState, SpaceEvent};
use uuid::Uuid;

use super::Node;
use crate::event::{EventLog, NewEvent, Webhooks, describe};
use crate::problem::Answer;

impl Node {
    /// The event log.
    pub fn events(&self) -> &EventLog {
        &self.0.events
    }

    /// The webhooks.
    pub fn webhooks(&self) -> &Webhooks {
        &self.0.webhooks
    }

    /// What had fired in a pool when it was served last: for `Pool::arm`.
    ///
    /// # Errors
    /// `internal` when the log cannot be read.
    pub async fn alarms(&self, pool: Uuid) -> Answer<AlarmState> {
        let log = self.0.events.clone();
        self.blocking(move || log.alarms(pool)).await?
    }

    /// Keeps events of a pool and the alarms that they leave behind, in one durable step. `alarms` is what there was
    /// before; it is changed when the events are kept, and only then.
    ///
    /// # Errors
    /// `internal` when they cannot be kept: nothing is kept then, and it can be tried again.
    pub async fn record(&self, pool: (&str, Uuid), events: &[SpaceEvent], alarms: &mut AlarmState) -> Answer<Vec<u64>> {
        let (name, uuid) = pool;
        let mut after = alarms.clone();
        events.iter().for_each(|event| after.apply(event));
        let described = events.iter().map(|event| describe(name, event)).collect();
        let seqs = self.0.events.append(described, Some((uuid, after.clone()))).await?;
        *alarms = after;
        Ok(seqs)
    }

    /// Keeps an event of the appliance itself.
    ///
    /// # Errors
    /// `internal` when it cannot be kept.
    pub async fn tell(&self, event: NewEvent) -> Answer<()> {
        self.0.events.append(vec![event], None).await.map(drop)
    }
}
