//! Clients that decide anew while others work: what is promised to vdisks, tenants and the pool, what becomes of writes without space,
//! what is told, and when the pool grows by itself. And what the model makes of it: what was decided survives a crash once it was
//! answered, a write is held as long as was decided, and a quota is kept.

use std::rc::Rc;
use std::time::Duration;

use plimsoll_engine::{Error, Level, Levels, OnFull, OvercommitLimit, VdiskPolicy};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::Random;

use super::client::Asked;
use super::control::pick;
use super::members;
use super::sector::Moment;
use super::session::Session;
use super::trace::say;

/// Longest that an answer may take beyond the time for which a write is held.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What was decided for something, as far as is known.
#[derive(Clone, Default)]
pub struct Decided<T> {
    /// In force.
    pub policy: T,
    /// Asked for; that or the other is in force.
    pub asked: Option<T>,
    /// When the last decision began, or was answered.
    pub when: Moment,
}

impl<T: PartialEq + std::fmt::Debug> Decided<T> {
    /// In force from the beginning.
    pub fn new(policy: T) -> Self {
        Decided { policy, asked: None, when: 0 }
    }

    /// It is asked for another.
    pub fn ask(&mut self, policy: T, now: Moment) {
        (self.asked, self.when) = (Some(policy), now);
    }

    /// What was asked for is in force, or was refused.
    pub fn answer(&mut self, good: bool, now: Moment) {
        if let Some(asked) = self.asked.take().filter(|_| good) {
            self.policy = asked;
        }
        self.when = now;
    }

    /// A start found this.
    ///
    /// # Panics
    /// When it was neither in force nor asked for.
    pub fn settle(&mut self, found: T, whose: &str) {
        let known = found == self.policy || self.asked.as_ref() == Some(&found);
        assert!(known, "{whose} has {found:?}, and was to have {:?} or {:?}", self.policy, self.asked);
        (self.policy, self.asked) = (found, None);
    }

    /// What has been in force, and nothing else, since `began`.
    pub fn since(&self, began: Moment) -> Option<&T> {
        (self.asked.is_none() && self.when < began).then_some(&self.policy)
    }
}

/// Decides something.
pub async fn run(session: &Rc<Session>) {
    match session.below(8) {
        0..4 => vdisk(session).await,
        4..6 => pool(session).await,
        6 => tenant(session),
        _ => grow_by_itself(session),
    }
}

/// What may be promised to a vdisk, and how long its writes wait for space.
pub fn vdisk_policy(extent: u64, size: u64, random: &mut Random) -> VdiskPolicy {
    let on_full = match random.below(6) {
        0 => OnFull::Fail,
        1 => OnFull::default(),
        2 => OnFull::Hold(Duration::from_secs(1 + random.below(10))),
        _ => OnFull::Hold(Duration::from_millis(2 + random.below(200))),
    };
    let reservation = if random.below(6) == 0 { (1 + random.below(8)) * extent } else { 0 }.min(size);
    let quota = (random.below(6) == 0).then(|| (1 + random.below(12)) * extent + reservation);
    let tenant = (random.below(3) == 0).then(|| format!("t{}", random.below(2)));
    VdiskPolicy { on_full, reservation, quota, tenant, ..VdiskPolicy::default() }
}

/// Levels in per cent, ascending.
fn levels(random: &mut Random) -> Levels {
    match random.below(3) {
        0 => Levels::Default,
        1 => Levels::Off,
        _ => {
            let (count, step) = (1 + random.below(4), 1 + random.below(24) as u8);
            Levels::At((1..=count as u8).map(|index| Level::Percent(index * step + 1)).collect())
        }
    }
}

/// Some of what `now` says, and some that is new.
fn changed(now: &VdiskPolicy, extent: u64, size: u64, random: &mut Random) -> VdiskPolicy {
    let mut policy = now.clone();
    let fresh = vdisk_policy(extent, size, random);
    match random.below(6) {
        0 | 1 => policy.on_full = fresh.on_full,
        2 => (policy.reservation, policy.quota) = (fresh.reservation, fresh.quota),
        3 => policy.tenant = fresh.tenant,
        4 => (policy.levels, policy.quota_levels) = (levels(random), levels(random)),
        _ => (policy.keep_zeros, policy.keep_patterns) = (random.below(3) == 0, random.below(3) == 0),
    }
    policy
}

async fn vdisk(session: &Session) {
    let alone = session.below(2) == 0;
    let Some((serial, name)) = pick(session, alone) else { return };
    let policy = {
        let state = &mut *session.state.borrow_mut();
        let now = state.model.tick();
        let Some(disk) = state.model.disks.get_mut(&serial) else { return };
        let policy = changed(&disk.decided.policy, session.setup.extent, disk.size, &mut state.random);
        disk.decided.ask(policy.clone(), now);
        // A death may leave the new quota in force, below what was written meanwhile.
        disk.had = u64::MAX;
        policy
    };
    session.decides();
    let result = session.ask(session.pool.set_vdisk_policy(&name, policy.clone())).await;
    session.decides();
    say(|| format!("{name} ({serial}) is to have {policy:?}: {result:?}"));
    let good = match result {
        Ok(_) => true,
        Err(Error::LimitExceeded { .. }) => false,
        Err(error) => return session.bear("a decision for a vdisk", &error),
    };
    let backed = session.vdisk(&name).map_or(0, |vdisk| vdisk.info().backed_bytes);
    session.did("decisions");
    let state = &mut *session.state.borrow_mut();
    let now = state.model.tick();
    if let Some(disk) = state.model.disks.get_mut(&serial) {
        disk.decided.answer(good, now);
        disk.exclusive = false;
        // Writes under way have space that no figure shows yet.
        disk.had = if disk.users == 0 { backed } else { u64::MAX };
    }
}

async fn pool(session: &Session) {
    let policy = {
        let state = &mut *session.state.borrow_mut();
        if state.pool.asked.is_some() {
            return;
        }
        let (now, random, extent) = (state.model.tick(), &mut state.random, session.setup.extent);
        let mut policy = state.pool.policy.clone();
        match random.below(5) {
            0 | 1 => {
                policy.overcommit_limit = match random.below(3) {
                    0 => None,
                    1 => Some(OvercommitLimit::Bytes(random.below(1 << 32))),
                    _ => Some(OvercommitLimit::Ratio(1000 + random.below(1 << 20))),
                };
            }
            2 => {
                policy.levels = match random.below(3) {
                    0 => {
                        let step = (8 + random.below(32)) * extent;
                        Levels::At((1..4).map(|index| Level::Bytes(index * step)).collect())
                    }
                    _ => levels(random),
                };
                policy.hysteresis_pct = random.coin().then_some(1);
            }
            3 => {
                policy.horizons = [None, Some(Vec::new()), Some([3600, 2].map(Duration::from_secs).into())]
                    [random.below(3) as usize]
                    .clone()
            }
            _ => policy.hold_bytes = [None, None, Some(16 << 10), Some(256 << 10)][random.below(4) as usize],
        }
        state.pool.ask(policy.clone(), now);
        policy
    };
    let result = session.ask(session.pool.set_policy(policy.clone())).await;
    say(|| format!("the pool is to have {policy:?}: {result:?}"));
    if let Err(error) = result {
        return session.bear("a decision for the pool", &error);
    }
    session.did("decisions");
    let state = &mut *session.state.borrow_mut();
    let now = state.model.tick();
    state.pool.answer(true, now);
}

/// The quota of a tenant, also below what is in use, and at which of its levels something is told.
fn tenant(session: &Session) {
    let tenant = format!("t{}", session.below(2));
    let (quota, levels) = {
        let random = &mut session.state.borrow_mut().random;
        ((random.below(3) != 0).then(|| random.below(40) * session.setup.extent), levels(random))
    };
    say(|| format!("quota of {tenant}: {quota:?}, told at {levels:?}"));
    session.did("decisions for tenants");
    session.decides();
    session.pool.set_tenant_quota(&tenant, quota);
    session.pool.set_tenant_levels(&tenant, levels).expect("levels that make sense");
}

/// The pool gets a device, or a larger one, once so much of it is in use.
fn grow_by_itself(session: &Rc<Session>) {
    if session.grower.waits.replace(true) {
        return;
    }
    let (percent, session) = (10 + session.below(60) as u8, session.clone());
    let machine = session.machine.clone();
    machine.spawn(async move {
        let reached = session.ask(session.pool.used_reaches(percent)).await;
        if reached && !session.grower.over.get() && !session.broken.get() {
            session.grower.grows.set(true);
            say(|| format!("{percent} % are in use: the pool grows by itself"));
            let before = session.pool.info().physical_bytes;
            members::add(&session).await;
            members::grow_last(&session).await;
            let grown = session.pool.info().physical_bytes > before;
            session.tally.borrow_mut().did("times grown by itself", u64::from(grown));
            session.grower.grows.set(false);
        }
        session.grower.waits.set(false);
    });
}

/// What grows by itself does so no more.
pub async fn stop_growing(session: &Session) {
    session.grower.over.set(true);
    while session.grower.grows.get() && !session.broken.get() {
        session.pause().await;
    }
}

/// What was decided while `asked` was under way, and nothing else, is what became of it.
///
/// # Panics
/// When a write that found no space failed before its time, or one was answered long after it; when a vdisk has more than its quota.
pub fn is_kept(session: &Session, asked: &Asked, refused: Option<&Error>) {
    let waited = session.machine.now() - asked.since;
    let state = session.state.borrow();
    let Some(disk) = state.model.disks.get(&asked.op.vdisk) else { return };
    let Some(policy) = disk.decided.since(asked.op.began) else { return };
    let time = match policy.on_full {
        OnFull::Fail => Duration::ZERO,
        OnFull::Hold(time) => time,
    };
    let crowded = state.pool.since(asked.op.began).is_none_or(|policy| policy.hold_bytes.is_some());
    if let Some(error) = refused.filter(|_| !crowded) {
        if policy.quota.is_none() && policy.tenant.is_none() {
            super::room::is_found(session, error);
        }
        assert!(waited >= time, "a write of {} failed after {waited:?} of {time:?}: {error}", disk.name);
    }
    let judged = session.setup.faults.is_none() && !session.room.was_short();
    assert!(
        !judged || waited <= time + ANSWER_MAX,
        "a write of {} was answered after {waited:?} of {time:?}",
        disk.name
    );
    if let (Some(quota), Some(vdisk)) = (policy.quota, session.vdisk(&disk.name)) {
        let backed = vdisk.info().backed_bytes;
        assert!(
            backed <= quota.max(disk.had),
            "{} has {backed} bytes by a quota of {quota}, and had {}",
            disk.name,
            disk.had
        );
    }
}
