//! Watching the ledger: levels of the pool, its vdisks and tenants, limits, and the time to full.
//!
//! The ledger knows between which figures nobody wants to know of a change; when one leaves them, a task here is woken and tells what is
//! new. Nothing is told before [`Alarms::arm`]: whoever listens says first what it has been told in earlier lives, so that a start
//! neither repeats nor loses anything.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};
use plimsoll_hardware::Machine;

use super::{Store, VdiskCore};
use crate::event::{AlarmState, Level, Limit, Measure, SpaceEvent, Subject, SubjectKey};
use crate::format::{Levels, PoolPolicy, VdiskId};
use crate::space::{Figures, Forecast, Horizons, Tenant, ThresholdError, Thresholds, Watch};
use crate::wait::WaitQueue;

/// Events kept for a listener that does not come for them. Each has a cause of its own that does not repeat by itself.
const EVENTS_MAX: usize = 65_536;
/// Events kept until somebody listens. Between opening a pool and that come those of the first writes, if any.
const EARLY_MAX: usize = 1024;
/// As often exhausted vdisks are looked at: whether they would find space if anybody still wanted some.
const RELIEF: Duration = Duration::from_secs(1);

/// What is watched, and what was not fetched yet.
#[derive(Default)]
pub(crate) struct Alarms {
    armed: Cell<bool>,
    /// Vdisks that are looked at again though their use may stay, because a level of theirs rests.
    resting: RefCell<BTreeSet<VdiskId>>,
    pool: RefCell<Option<(Watch, Forecast)>>,
    vdisks: RefCell<BTreeMap<VdiskId, VdiskWatch>>,
    tenants: RefCell<BTreeMap<String, Watch>>,
    exceeded: RefCell<BTreeSet<(SubjectKey, Limit)>>,
    /// Why the pool cannot grow by itself, as far as it was told.
    growth_impossible: RefCell<Option<String>>,
    /// It was told that the pool takes no writes.
    pub(super) read_only: Cell<bool>,
    /// Some vdisk may be exhausted.
    pub(crate) some_exhausted: Cell<bool>,
    /// Held writes came to their bound, and that is not told yet.
    pub(super) some_expired: Cell<bool>,
    /// What happened before anybody said what was told in earlier lives.
    early: RefCell<Vec<SpaceEvent>>,
    /// When the ends of the devices are looked at next.
    pub(crate) look_at: Cell<Duration>,
    events: RefCell<VecDeque<SpaceEvent>>,
    pub(crate) raised: WaitQueue,
}

struct VdiskWatch {
    designated: Watch,
    quota: Watch,
}

impl Alarms {
    /// Tells something that others know, as soon as anybody wants to know; not what was told already.
    pub(crate) fn raise_for_others(&self, event: SpaceEvent) {
        if !self.armed.get() {
            return self.raise(event);
        }
        let impossible = match &event {
            SpaceEvent::GrowthImpossible { reason } => Some(reason.clone()),
            SpaceEvent::Grown { .. } | SpaceEvent::GrowthPossible => None,
            _ => return self.raise(event),
        };
        let told = self.growth_impossible.replace(impossible.clone());
        if told != impossible || matches!(event, SpaceEvent::Grown { .. }) {
            self.raise(event);
        }
    }

    /// Tells something, as soon as anybody wants to know.
    pub(crate) fn raise(&self, event: SpaceEvent) {
        if !self.armed.get() {
            let mut early = self.early.borrow_mut();
            if early.len() < EARLY_MAX {
                early.push(event);
            } else {
                tracing::warn!(?event, "too much happened before anybody listened; this is not told");
            }
            return;
        }
        let mut events = self.events.borrow_mut();
        if events.len() < EVENTS_MAX {
            events.push_back(event);
        } else {
            tracing::error!(?event, "an event is lost: nobody fetches them");
        }
        drop(events);
        self.raised.notify();
    }

    /// Whether a level of something rests, so that it is looked at again though its use may stay.
    fn some_rests(&self) -> bool {
        !self.resting.borrow().is_empty()
            || self.pool.borrow().as_ref().is_some_and(|(watch, _)| watch.is_resting())
            || self.tenants.borrow().values().any(Watch::is_resting)
    }

    /// Time to full and rate in bytes a second, as they were measured last.
    pub(crate) fn outlook(&self) -> (Option<Duration>, u64) {
        let estimate = self.pool.borrow().as_ref().and_then(|(_, forecast)| forecast.estimate());
        estimate.map_or((None, 0), |estimate| (estimate.time_to_full, estimate.rate_bytes_per_s))
    }

    /// Everything told since this was last asked.
    pub(crate) fn take(&self) -> Vec<SpaceEvent> {
        self.events.borrow_mut().drain(..).collect()
    }
}

/// The thresholds that `levels` are.
pub(crate) fn thresholds(levels: &Levels, hysteresis_pct: Option<u8>) -> Result<Thresholds, ThresholdError> {
    let default = Thresholds::default();
    let hysteresis = hysteresis_pct.unwrap_or(default.hysteresis_pct());
    match levels {
        Levels::Default => Thresholds::new(default.levels().to_vec(), hysteresis),
        Levels::Off => Ok(Thresholds::off()),
        // A level below the usual hysteresis has one that it can leave.
        Levels::At(levels) => match (levels.first(), hysteresis_pct) {
            (Some(&Level::Percent(lowest)), None) => {
                Thresholds::new(levels.clone(), hysteresis.min(lowest.saturating_sub(1)))
            }
            _ => Thresholds::new(levels.clone(), hysteresis),
        },
    }
}

/// The horizons that a policy has.
pub(crate) fn horizons(policy: &PoolPolicy) -> Result<Horizons, crate::space::HorizonError> {
    policy.horizons.clone().map_or_else(|| Ok(Horizons::default()), Horizons::new)
}

impl<M: Machine> Store<M> {
    /// Begins to tell, given what was told in earlier lives.
    pub(crate) fn arm(self: &Rc<Self>, state: &AlarmState) {
        let alarms = &self.alarms;
        if alarms.armed.replace(true) {
            return;
        }
        let policy = self.policy.borrow().clone();
        let (mut watch, mut forecast) = pool_watches(&policy);
        let fired = state.fired_levels(&SubjectKey::Pool, Measure::Physical);
        if !fired.is_empty() {
            // What was known of what could come back went with the last life.
            self.surveys.ask();
        }
        watch.restore(&fired);
        forecast.restore(state.horizon);
        *alarms.pool.borrow_mut() = Some((watch, forecast));
        alarms.exceeded.borrow_mut().clone_from(&state.exceeded);
        alarms.growth_impossible.borrow_mut().clone_from(&state.growth_impossible);
        alarms.read_only.set(state.read_only);
        if state.not_served.is_some() {
            alarms.raise(SpaceEvent::NotServed { reason: String::new(), rising: false });
        }
        for vdisk in self.vdisks.borrow().values().filter(|vdisk| vdisk.ready.get()) {
            let key = SubjectKey::Vdisk(vdisk.entry.borrow().uuid);
            let mut watch = vdisk_watch(vdisk);
            watch.designated.restore(&state.fired_levels(&key, Measure::Designated));
            watch.quota.restore(&state.fired_levels(&key, Measure::Quota));
            alarms.vdisks.borrow_mut().insert(vdisk.id, watch);
            let uuid = vdisk.entry.borrow().uuid;
            if let Some(needed_bytes) = state.exhausted.get(&uuid) {
                alarms.some_exhausted.set(true);
                // It was told in an earlier life already that it is; that it was over since is news.
                let mut over = false;
                alarms.early.borrow_mut().retain(|event| match event {
                    SpaceEvent::Exhausted { vdisk, .. } if vdisk.uuid == uuid => over,
                    SpaceEvent::Resumed { vdisk, .. } if vdisk.uuid == uuid => {
                        over = true;
                        true
                    }
                    _ => true,
                });
                vdisk.episode.inherited.set(!over);
                if !over && vdisk.exhausted.get().is_none() {
                    vdisk.exhausted.set(Some(self.media.machine.now()));
                    vdisk.episode.lacked.set(needed_bytes.div_ceil(self.media.extent_bytes));
                }
            }
        }
        let subjects = state.levels.iter().map(|fired| &fired.subject);
        for subject in subjects.chain(state.exceeded.iter().map(|(subject, _)| subject)) {
            if let SubjectKey::Tenant(name) = subject {
                // Nobody else may know of it any more: then what was told is over.
                self.space.ledger.tenant(name);
            }
        }
        for tenant in self.space.ledger.tenants() {
            let mut watch = tenant_watch(&tenant);
            watch.restore(&state.fired_levels(&SubjectKey::Tenant(tenant.name.clone()), Measure::Quota));
            alarms.tenants.borrow_mut().insert(tenant.name.clone(), watch);
        }
        alarms.early.take().into_iter().for_each(|event| alarms.raise_for_others(event));
        self.watch_all();
        self.media.machine.spawn(keep_watching(self.clone()));
    }

    /// A vdisk was made, changed, or is gone.
    pub(crate) fn watch_vdisk_anew(&self, vdisk: &VdiskCore) {
        if !self.alarms.armed.get() {
            return;
        }
        {
            let mut vdisks = self.alarms.vdisks.borrow_mut();
            if !vdisk.ready.get() {
                let Some(watch) = vdisks.remove(&vdisk.id) else { return };
                drop(vdisks);
                return self.forget_alarms(vdisk, &watch);
            }
            let fresh = vdisk_watch(vdisk);
            match vdisks.get_mut(&vdisk.id) {
                Some(watch) => {
                    watch.designated.set(fresh.designated.thresholds().clone());
                    watch.quota.set(fresh.quota.thresholds().clone());
                }
                None => drop(vdisks.insert(vdisk.id, fresh)),
            }
        }
        self.watch_vdisk(vdisk);
        self.watch_pool();
    }

    /// A vdisk is gone: if anything was told about it, so is that.
    fn forget_alarms(&self, vdisk: &VdiskCore, watch: &VdiskWatch) {
        let gone = (SubjectKey::Vdisk(vdisk.entry.borrow().uuid), Limit::Quota);
        let exceeded = self.alarms.exceeded.borrow_mut().remove(&gone);
        let fired = [&watch.designated, &watch.quota].iter().any(|watch| !watch.fired().is_empty());
        if vdisk.exhausted.take().is_some() || exceeded || fired {
            self.alarms.raise(SpaceEvent::VdiskDeleted { vdisk: vdisk.event_name() });
        }
    }

    /// The pool's policy was changed.
    pub(crate) fn watch_pool_anew(&self) {
        {
            let policy = self.policy.borrow();
            let mut pool = self.alarms.pool.borrow_mut();
            let Some((watch, forecast)) = &mut *pool else { return };
            if let Ok(thresholds) = thresholds(&policy.levels, policy.hysteresis_pct) {
                watch.set(thresholds);
            }
            if let Ok(horizons) = horizons(&policy) {
                forecast.set(&horizons);
            }
        }
        self.watch_pool();
        // Its task sleeps for as long as the horizons of before allow.
        self.space.ledger.unrest.notify();
    }

    /// Looks at every figure.
    fn watch_all(&self) {
        let vdisks: Vec<_> = self.vdisks.borrow().values().filter(|vdisk| vdisk.ready.get()).cloned().collect();
        vdisks.iter().for_each(|vdisk| self.watch_vdisk(vdisk));
        self.watch_tenants();
        self.watch_pool();
        self.watch_devices();
    }

    fn watch_pool(&self) {
        let extent = self.media.extent_bytes;
        let total = self.space.total() * extent;
        let used = total - self.space.available() * extent;
        let crossings = {
            let mut pool = self.alarms.pool.borrow_mut();
            let Some((watch, _)) = &mut *pool else { return };
            let crossings = watch.update(self.media.machine.now(), used, total);
            let (low, high) = watch.quiet();
            // The use of vdisks moves with that of the pool, but for metadata: this is looked at after every change of both.
            let in_use = self.space.ledger.in_use();
            let until = in_use.saturating_add(high.saturating_sub(used).div_ceil(extent));
            let from = (in_use + 1).saturating_sub(used.saturating_sub(low).div_ceil(extent));
            self.space.ledger.bounds.set(from.min(in_use), until);
            crossings
        };
        if crossings.iter().any(|crossing| crossing.rising) {
            self.surveys.ask();
        }
        for crossing in crossings {
            self.alarms.raise(SpaceEvent::Threshold {
                subject: Subject::Pool,
                measure: Measure::Physical,
                level: crossing.level,
                used_bytes: used,
                total_bytes: total,
                rising: crossing.rising,
            });
        }
        let overcommit = self.policy.borrow().overcommit_limit;
        let limit = overcommit.map(|limit| self.space.promises_max(limit, self.vdisks.borrow().len() as u64));
        let promised = self.space.ledger.designated();
        self.watch_limit(Subject::Pool, Limit::Overcommit, promised, limit);
    }

    fn watch_vdisk(&self, vdisk: &VdiskCore) {
        let extent = self.media.extent_bytes;
        let account = &vdisk.mapping.account;
        let in_use = account.in_use();
        let quota = account.quota().unwrap_or(0);
        let (designated, used, quota_bytes) = (vdisk.size.get(), in_use * extent, quota * extent);
        let mut crossings = Vec::new();
        {
            let mut vdisks = self.alarms.vdisks.borrow_mut();
            let Some(watch) = vdisks.get_mut(&vdisk.id) else { return };
            let figures = [(Measure::Designated, designated), (Measure::Quota, quota_bytes)];
            let (mut from, mut until) = (0, u64::MAX);
            for (watch, (measure, total)) in [&mut watch.designated, &mut watch.quota].into_iter().zip(figures) {
                let now = self.media.machine.now();
                crossings.extend(watch.update(now, used, total).into_iter().map(|crossing| (measure, total, crossing)));
                let (low, high) = watch.quiet();
                from = from.max(low.div_ceil(extent));
                until = until.min(high.div_ceil(extent));
            }
            if watch.designated.is_resting() || watch.quota.is_resting() {
                self.alarms.resting.borrow_mut().insert(vdisk.id);
            }
            (from, until) = within_limit((from, until), in_use, account.quota());
            account.bounds().set(from.min(in_use), until.max(in_use + 1));
        }
        for (measure, total_bytes, crossing) in crossings {
            self.alarms.raise(SpaceEvent::Threshold {
                subject: Subject::Vdisk(vdisk.event_name()),
                measure,
                level: crossing.level,
                used_bytes: used,
                total_bytes,
                rising: crossing.rising,
            });
        }
        let limit = account.quota().map(|quota| quota * extent);
        self.watch_limit(Subject::Vdisk(vdisk.event_name()), Limit::Quota, used, limit);
    }

    /// The levels of a tenant were changed.
    pub(crate) fn watch_tenant_anew(&self, tenant: &Tenant) {
        if let Some(watch) = self.alarms.tenants.borrow_mut().get_mut(&tenant.name) {
            watch.set(tenant_watch(tenant).thresholds().clone());
        }
        self.watch_tenants();
    }

    /// Looks at every tenant.
    pub(crate) fn watch_tenants(&self) {
        if !self.alarms.armed.get() {
            return;
        }
        let extent = self.media.extent_bytes;
        for tenant in self.space.ledger.tenants() {
            let (in_use, quota) = (tenant.used.get(), Some(tenant.quota.get()).filter(|&quota| quota != u64::MAX));
            let (used, total) = (in_use * extent, quota.unwrap_or(0) * extent);
            let crossings = {
                let mut tenants = self.alarms.tenants.borrow_mut();
                let watch = tenants.entry(tenant.name.clone()).or_insert_with(|| tenant_watch(&tenant));
                let crossings = watch.update(self.media.machine.now(), used, total);
                let (low, high) = watch.quiet();
                let bounds = (low.div_ceil(extent), high.div_ceil(extent));
                let (from, until) = within_limit(bounds, in_use, quota);
                tenant.bounds.set(from.min(in_use), until.max(in_use + 1));
                crossings
            };
            for crossing in crossings {
                self.alarms.raise(SpaceEvent::Threshold {
                    subject: Subject::Tenant(tenant.name.clone()),
                    measure: Measure::Quota,
                    level: crossing.level,
                    used_bytes: used,
                    total_bytes: total,
                    rising: crossing.rising,
                });
            }
            let limit = quota.map(|quota| quota * extent);
            self.watch_limit(Subject::Tenant(tenant.name.clone()), Limit::Quota, used, limit);
        }
    }

    fn watch_limit(&self, subject: Subject, limit: Limit, used_bytes: u64, limit_bytes: Option<u64>) {
        let key = (subject.key(), limit);
        let rising = limit_bytes.is_some_and(|limit| used_bytes > limit);
        let mut exceeded = self.alarms.exceeded.borrow_mut();
        let changed = if rising { exceeded.insert(key) } else { exceeded.remove(&key) };
        drop(exceeded);
        if changed {
            self.alarms.raise(SpaceEvent::LimitExceeded { subject, limit, used_bytes, limit_bytes, rising });
        }
    }

    fn look_ahead(&self) {
        let extent = self.media.extent_bytes;
        let space = &self.space;
        let figures = Figures {
            allocated: (space.total() - space.unused()) * extent,
            total: space.total() * extent,
            available: space.available() * extent,
        };
        let now = self.media.machine.now();
        let outlook = match &mut *self.alarms.pool.borrow_mut() {
            Some((_, forecast)) => forecast.tick(now, figures),
            None => return,
        };
        if let Some(outlook) = outlook {
            self.alarms.raise(SpaceEvent::Forecast {
                horizon: outlook.horizon,
                still: outlook.still,
                time_to_full: outlook.estimate.time_to_full,
                rate_bytes_per_s: outlook.estimate.rate_bytes_per_s,
                available_bytes: outlook.available,
                rising: outlook.rising,
            });
        }
    }
}

/// Bounds that are left, too, when a limit is exceeded or kept again.
fn within_limit((from, until): (u64, u64), in_use: u64, limit: Option<u64>) -> (u64, u64) {
    match limit {
        None => (from, until),
        Some(limit) if in_use > limit => (from.max(limit + 1), until),
        Some(limit) => (from, until.min(limit + 1)),
    }
}

fn pool_watches(policy: &PoolPolicy) -> (Watch, Forecast) {
    // What was decided was found to make sense then.
    let thresholds = thresholds(&policy.levels, policy.hysteresis_pct).unwrap_or_default();
    (Watch::new(thresholds), Forecast::new(&horizons(policy).unwrap_or_default()))
}

fn tenant_watch(tenant: &Tenant) -> Watch {
    Watch::new(thresholds(&tenant.levels.borrow(), None).unwrap_or_default())
}

fn vdisk_watch(vdisk: &VdiskCore) -> VdiskWatch {
    let policy = &vdisk.entry.borrow().policy;
    let watch = |levels| Watch::new(thresholds(levels, None).unwrap_or_default());
    VdiskWatch { designated: watch(&policy.levels), quota: watch(&policy.quota_levels) }
}

/// Tells what is new whenever the ledger has left its bounds, and looks ahead now and then, until the pool is closed.
async fn keep_watching<M: Machine>(store: Rc<Store<M>>) {
    let machine = store.media.machine.clone();
    let mut next = machine.now();
    // What others have to say of quotas after a start comes first.
    let mut relief = next + RELIEF;
    while !store.closing.get() {
        let ledger = &store.space.ledger;
        let unrest = pin!(ledger.unrest.changed());
        let eased = pin!(ledger.eased.changed());
        let noticed = pin!(store.media.trouble.noticed.changed());
        for id in ledger.take_restless() {
            let vdisk = store.vdisks.borrow().get(&id).cloned();
            if let Some(vdisk) = vdisk {
                store.watch_vdisk(&vdisk);
            }
        }
        let now = machine.now();
        if now >= relief {
            for id in store.alarms.resting.take() {
                let vdisk = store.vdisks.borrow().get(&id).cloned();
                vdisk.into_iter().for_each(|vdisk| store.watch_vdisk(&vdisk));
            }
        }
        store.watch_tenants();
        store.watch_pool();
        store.tell_expiries();
        if now >= next {
            // Freed extents whose record somebody else's flush made durable, or that were still read when it was.
            store.release_freed();
            store.look_ahead();
            store.look_at_ends();
            let policy = store.policy.borrow().clone();
            next = now + horizons(&policy).unwrap_or_default().tick();
        }
        store.watch_devices();
        if now >= relief {
            store.alarms.some_exhausted.set(store.note_relieved());
            relief = now + RELIEF;
        }
        let alarms = &store.alarms;
        let until = if alarms.some_exhausted.get() || alarms.some_rests() { next.min(relief) } else { next };
        let sleep = pin!(machine.sleep(until.saturating_sub(now)));
        match select(select(unrest, eased), select(noticed, sleep)).await {
            Either::Left(_) | Either::Right(_) => {}
        }
    }
    store.alarms.raised.notify();
}
