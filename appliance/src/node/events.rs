//! Events of the pools: from the engine into the log, in order.

use std::collections::BTreeSet;
use std::time::Duration;

use plimsoll_engine::{AlarmState, Pool, SpaceEvent, SubjectKey};
use plimsoll_hardware::{Handle, Machine};
use uuid::Uuid;

use super::Node;
use crate::event::{EventLog, NewEvent, Webhooks, describe_all};
use crate::problem::{Answer, Problem};
use crate::reclaimable;

/// After events could not be kept: the disk of the state directory is full, most likely.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);

/// The last events of a pool are written in milliseconds.
const HEARD_TIME_MAX: Duration = Duration::from_secs(5);

/// Forgets the alarms of vdisks that are no more.
fn forget_the_gone(pool: &Pool<Handle>, alarms: &mut AlarmState) {
    let there: BTreeSet<Uuid> = pool.vdisks().iter().map(|vdisk| vdisk.uuid).collect();
    let of = |subject: &SubjectKey| match subject {
        SubjectKey::Vdisk(uuid) => Some(*uuid),
        _ => None,
    };
    let levels = alarms.levels.iter().filter_map(|fired| of(&fired.subject));
    let exceeded = alarms.exceeded.iter().filter_map(|(subject, _)| of(subject));
    let known: BTreeSet<Uuid> = levels.chain(exceeded).chain(alarms.exhausted.keys().copied()).collect();
    known.difference(&there).for_each(|gone| alarms.forget_vdisk(*gone));
}

/// A task that keeps what a pool tells.
struct Listening {
    node: Node,
    pool: Uuid,
}

impl Listening {
    fn begin(node: &Node, pool: Uuid) -> Self {
        *node.0.listening.borrow_mut().entry(pool).or_default() += 1;
        Listening { node: node.clone(), pool }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let inner = &self.node.0;
        let mut listening = inner.listening.borrow_mut();
        if let Some(tasks) = listening.get_mut(&self.pool) {
            *tasks -= 1;
            if *tasks == 0 {
                listening.remove(&self.pool);
            }
        }
        drop(listening);
        inner.listener_ended.notify_waiters();
    }
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
        let open = self.pool(name).ok().filter(|pool| pool.info().uuid == uuid);
        let could = || {
            // What was lost at the end of a device reads as zeros, too.
            let pool = open.as_ref().filter(|_| self.losses(uuid).is_empty())?;
            match pool.surveyed() {
                Some(surveyed) => reclaimable::could(name, &surveyed, pool.info().physical_bytes),
                None => Some(reclaimable::not_known(name)),
            }
        };
        let described = describe_all(name, events, could);
        // No `await` between this and the log's taking it, so that nothing comes behind `forget_pool`.
        let kept = (!self.0.gone.borrow().contains(&uuid)).then(|| (uuid, after.clone()));
        let seqs = self.0.events.append(described, kept).await?;
        *alarms = after;
        Ok(seqs)
    }

    /// A pool that should be served is not. Told once for a reason, until it is served again.
    pub(super) async fn tell_not_served(&self, name: &str, pool: Uuid, problem: &Problem) {
        let advice = problem.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        let reason = problem.detail.clone() + &advice;
        let told = async {
            let mut alarms = self.alarms(pool).await?;
            if alarms.not_served.as_ref() != Some(&reason) {
                self.record((name, pool), &[SpaceEvent::NotServed { reason, rising: true }], &mut alarms).await?;
            }
            Ok::<_, Problem>(())
        };
        if let Err(problem) = told.await {
            tracing::error!(pool = name, reason = problem.detail, "that a pool is not served could not be told");
        }
    }

    /// A pool was let go, and its alarms with it: when it comes back, what holds then is told.
    pub(super) async fn forget_pool(&self, pool: Uuid) {
        self.0.gone.borrow_mut().insert(pool);
        if let Err(problem) = self.0.events.forget_alarms(pool).await {
            tracing::warn!(%pool, reason = problem.detail, "the alarms of a pool that is gone stay behind");
        }
    }

    /// Keeps what a pool tells, until it is closed. What was told in earlier lives is not told again.
    pub(super) fn listen_to(&self, pool: Pool<Handle>) {
        let node = self.clone();
        let (name, uuid) = (pool.info().name, pool.info().uuid);
        self.0.gone.borrow_mut().remove(&uuid);
        let listening = Listening::begin(self, uuid);
        self.spawn(async move {
            let _listening = listening;
            let mut alarms = node.alarms(uuid).await.unwrap_or_else(|problem| {
                let reason = problem.detail;
                tracing::error!(pool = name, reason, "what was told before is not known and may be told again");
                AlarmState::default()
            });
            forget_the_gone(&pool, &mut alarms);
            pool.arm(&alarms);
            let next = async || Some(pool.events().await).filter(|events| !events.is_empty());
            node.listen((&name, uuid), alarms, next).await;
        });
    }

    /// Keeps what `next` gives, until it gives `None`: the task of a pool that was armed with `alarms`. What cannot be kept
    /// is tried again, and what comes behind it waits, so that the order holds.
    async fn listen(
        &self,
        pool: (&str, Uuid),
        mut alarms: AlarmState,
        mut next: impl AsyncFnMut() -> Option<Vec<SpaceEvent>>,
    ) {
        while let Some(events) = next().await {
            while !events.is_empty() {
                match self.record(pool, &events, &mut alarms).await {
                    Ok(_) => break,
                    // When it is opened again the engine raises them again: the alarms are as they were.
                    Err(_) if self.0.closing.get() || !self.0.pools.borrow().contains_key(pool.0) => return,
                    Err(problem) => {
                        tracing::error!(pool = pool.0, reason = problem.detail, "events cannot be kept; trying again");
                        self.machine().sleep(TROUBLE_PAUSE).await;
                    }
                }
            }
        }
    }

    /// Waits until all is kept that a closed pool has told: what is told of the pool from then on finds the alarms as they are. A log
    /// that takes longer keeps nobody waiting.
    pub(super) async fn heard_out(&self, pool: Uuid) {
        let heard_out = async {
            loop {
                let ended = self.0.listener_ended.notified();
                if !self.0.listening.borrow().contains_key(&pool) {
                    return;
                }
                ended.await;
            }
        };
        if let Err(late) = self.machine().timeout(HEARD_TIME_MAX, heard_out).await {
            tracing::warn!(%pool, %late, "the last of what a pool told is not kept yet");
        }
    }

    /// Keeps an event of the appliance itself.
    ///
    /// # Errors
    /// `internal` when it cannot be kept.
    pub async fn tell(&self, event: NewEvent) -> Answer<()> {
        self.0.events.append(vec![event], None).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_engine::{Level, Measure, Subject};
    use plimsoll_hardware::{Reactor, ReactorConfig};

    use super::*;
    use crate::model::{CreatePool, ImportPool};
    use crate::node::Slot;
    use crate::node::tests::failing::with_failing;
    use crate::node::tests::vdisk;

    fn threshold(percent: u8, rising: bool) -> SpaceEvent {
        SpaceEvent::Threshold {
            subject: Subject::Pool,
            measure: Measure::Physical,
            level: Level::Percent(percent),
            used_bytes: u64::from(percent),
            total_bytes: 100,
            rising,
        }
    }

    #[test]
    fn what_a_pool_raises_is_kept_in_order_and_its_alarms_are_given_back_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let pool = ("tank", Uuid::from_u128(7));
        for life in 0..3 {
            let reactor = Reactor::new(ReactorConfig { buffer_bytes: 16 << 20, ..ReactorConfig::default() }).unwrap();
            let node = Node::new(reactor.handle(), dir.path(), None).unwrap();
            reactor.block_on(async {
                let alarms = node.alarms(pool.1).await.unwrap();
                let expected = if life == 0 { vec![] } else { vec![Level::Percent(70)] };
                assert_eq!(alarms.fired_levels(&Subject::Pool.key(), Measure::Physical), expected);
                // What an engine that was armed with it would raise.
                let first =
                    if life == 0 { vec![threshold(70, true), threshold(85, true)] } else { vec![threshold(85, true)] };
                let mut raised = [first, vec![], vec![threshold(85, false)]].into_iter();
                node.listen(pool, alarms, async || raised.next()).await;
                let summary = node.events().summary();
                assert_eq!((summary.last_seq, summary.warnings), (3 + 2 * life, 2 + life));
                assert_eq!(node.status().unacknowledged_warnings, 2 + life);
            });
        }
    }

    #[test]
    fn the_alarms_of_a_pool_go_with_it_and_what_it_tells_late_leaves_none() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("device");
        std::fs::File::create_new(&device).unwrap().set_len(128 << 20).unwrap();
        let path = device.display().to_string();
        let reactor = Reactor::new(ReactorConfig { buffer_bytes: 16 << 20, ..ReactorConfig::default() }).unwrap();
        let node = Node::new(reactor.handle(), dir.path(), None).unwrap();
        reactor.block_on(async {
            let (name, devices) = ("tank".to_owned(), vec![path.clone()]);
            let pool = CreatePool { name, devices, extent_bytes: None, force: Vec::new(), buffered: true };
            node.create_pool(pool).await.unwrap();
            for deleted in [false, true] {
                let uuid = node.pool("tank").unwrap().info().uuid;
                let tell = async || {
                    let mut alarms = AlarmState::default();
                    node.record(("tank", uuid), &[threshold(85, true)], &mut alarms).await.unwrap();
                    node.alarms(uuid).await.unwrap()
                };
                assert_eq!(tell().await.levels.len(), 1, "it is served");
                if deleted {
                    node.delete_pool("tank", &[]).await.unwrap();
                } else {
                    node.export_pool("tank", &[]).await.unwrap();
                }
                assert_eq!(node.alarms(uuid).await.unwrap(), AlarmState::default(), "deleted: {deleted}");
                assert_eq!(tell().await, AlarmState::default(), "deleted: {deleted}");
                if !deleted {
                    let paths = vec![path.clone()];
                    node.import_pool(ImportPool { paths, name: None, buffered: true, force: Vec::new() })
                        .await
                        .unwrap();
                }
            }
            node.close().await.unwrap();
        });
    }

    #[test]
    fn what_a_failed_pool_told_last_does_not_undo_that_it_is_not_served_any_more() {
        with_failing(|node, device| async move {
            let uuid = node.pool("tank").unwrap().info().uuid;
            device.fail();
            node.create_vdisk("tank", vdisk("a")).await.unwrap_err();
            // A listener that is slow: its last word comes when the pool is known not to be served, if that is not waited for.
            let (slow, listening) = (node.clone(), Listening::begin(&node, uuid));
            let alarms = node.alarms(uuid).await.unwrap();
            node.spawn(async move {
                let _listening = listening;
                let mut last = Some(vec![threshold(85, true)]);
                let next = async || {
                    for _ in 0..300 {
                        if last.is_none() || matches!(slow.0.pools.borrow().get("tank"), Some(Slot::Unavailable(_))) {
                            break;
                        }
                        slow.machine().sleep(Duration::from_millis(1)).await;
                    }
                    last.take()
                };
                slow.listen(("tank", uuid), alarms, next).await;
            });
            let again = ImportPool { paths: Vec::new(), name: Some("tank".into()), buffered: true, force: Vec::new() };
            node.import_pool(again).await.unwrap_err();
            node.heard_out(uuid).await;
            let alarms = node.alarms(uuid).await.unwrap();
            assert_eq!(alarms.levels.len(), 1, "what it told last is kept");
            assert!(alarms.not_served.is_some(), "and undid that the pool is not served");
            node.close().await.unwrap();
        });
    }

    #[test]
    fn a_listener_that_does_not_end_keeps_nobody_waiting() {
        with_failing(|node, _device| async move {
            let uuid = node.pool("tank").unwrap().info().uuid;
            let _for_ever = Listening::begin(&node, uuid);
            node.export_pool("tank", &[]).await.unwrap();
            node.close().await.unwrap();
        });
    }
}
