//! Events of the pools: from the engine into the log, in order.

use std::collections::BTreeSet;
use std::time::Duration;

use plimsoll_engine::{AlarmState, Pool, SpaceEvent, SubjectKey};
use plimsoll_hardware::{Handle, Machine};
use uuid::Uuid;

use super::Node;
use crate::event::{EventLog, NewEvent, Webhooks, describe};
use crate::problem::Answer;

/// Between two attempts to keep events, as when the state directory's file system is full.
const RETRY_TIME: Duration = Duration::from_secs(1);
/// Alarms beyond which those of vdisks that are gone are looked for: six levels of ten thousand vdisks.
const ALARMS_KEPT: usize = 60_000;

/// Forgets the alarms of vdisks that are no more.
fn forget_the_gone(pool: &Pool<Handle>, alarms: &mut AlarmState) {
    let there: BTreeSet<Uuid> = pool.vdisks().iter().map(|vdisk| vdisk.uuid).collect();
    let of = |subject: &SubjectKey| match subject {
        SubjectKey::Vdisk(uuid) => Some(*uuid),
        _ => None,
    };
    let levels = alarms.levels.iter().filter_map(|fired| of(&fired.subject));
    let exceeded = alarms.exceeded.iter().filter_map(|(subject, _)| of(subject));
    let known: BTreeSet<Uuid> = levels.chain(exceeded).chain(alarms.exhausted.iter().copied()).collect();
    known.difference(&there).for_each(|gone| alarms.forget_vdisk(*gone));
}

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

    /// Keeps what a pool tells, until it is closed. What was told in earlier lives is not told again.
    pub(super) fn listen(&self, pool: Pool<Handle>) {
        let node = self.clone();
        self.spawn(async move {
            let (name, uuid) = (pool.info().name, pool.info().uuid);
            let mut alarms = node.alarms(uuid).await.unwrap_or_else(|problem| {
                tracing::error!(
                    pool = name,
                    reason = problem.detail,
                    "what was told before is not known and may be told again"
                );
                AlarmState::default()
            });
            forget_the_gone(&pool, &mut alarms);
            pool.arm(&alarms);
            loop {
                let events = pool.events().await;
                if events.is_empty() {
                    return;
                }
                // In order, so the next ones wait.
                while let Err(problem) = node.record((&name, uuid), &events, &mut alarms).await {
                    tracing::error!(pool = name, reason = problem.detail, "events cannot be kept; trying again");
                    node.machine().sleep(RETRY_TIME).await;
                    if node.0.closing.get() {
                        return;
                    }
                }
                if alarms.levels.len() > ALARMS_KEPT {
                    forget_the_gone(&pool, &mut alarms);
                }
            }
        });
    }

    /// Keeps an event of the appliance itself.
    ///
    /// # Errors
    /// `internal` when it cannot be kept.
    pub async fn tell(&self, event: NewEvent) -> Answer<()> {
        self.0.events.append(vec![event], None).await.map(drop)
    }
}
