//! What the engine tells about space, and about what keeps it from being used: events, in order, and what has fired so far. Plain data,
//! nothing else.
//!
//! Events are level-triggered. [`AlarmState`] says what is fired; who listens keeps it, changes it with every event by
//! [`AlarmState::apply`] and stores both in one step. After a start it is given back, and only what differs from it is
//! raised: nothing is lost or repeated by a restart, and no event is needed twice.
//!
//! Not here: times, numbers and advice. The engine keeps no wall clock and knows no commands; the listener adds them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use uuid::Uuid;

/// A point at which something is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Of the total, 1 to 100.
    Percent(u8),
    /// Bytes in use, at least 1.
    Bytes(u64),
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Level::Percent(percent) => write!(f, "{percent} %"),
            Level::Bytes(bytes) => {
                const UNITS: [&str; 7] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
                // The largest unit of which it is a whole number: a level is compared exactly.
                let unit = (bytes.trailing_zeros() / 10).min(6);
                write!(f, "{} {}", bytes >> (10 * unit), UNITS[unit as usize])
            }
        }
    }
}

/// What is compared with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Measure {
    /// Space used of the pool's physical space.
    Physical,
    /// Space behind a vdisk of its designated size.
    Designated,
    /// Physical space used of a quota.
    Quota,
}

/// A vdisk as events name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VdiskName {
    /// Its name in the pool.
    pub name: String,
    /// Its UUID: names come and go.
    pub uuid: Uuid,
    /// The label of the virtual machine that it belongs to.
    pub vm: Option<String>,
    /// The label of whom it belongs to.
    pub tenant: Option<String>,
}

/// Whom an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The pool.
    Pool,
    /// One of its vdisks.
    Vdisk(VdiskName),
    /// A tenant, in this pool.
    Tenant(String),
}

impl Subject {
    /// Without what may change.
    pub fn key(&self) -> SubjectKey {
        match self {
            Subject::Pool => SubjectKey::Pool,
            Subject::Vdisk(vdisk) => SubjectKey::Vdisk(vdisk.uuid),
            Subject::Tenant(tenant) => SubjectKey::Tenant(tenant.clone()),
        }
    }
}

/// A [`Subject`] as alarms remember it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubjectKey {
    /// The pool.
    Pool,
    /// A vdisk.
    Vdisk(Uuid),
    /// A tenant.
    Tenant(String),
}

/// Why a write finds no space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shortage {
    /// Nothing is free but the metadata reserve.
    PoolFull,
    /// The vdisk is at its quota.
    VdiskQuota,
    /// Its tenant is at its quota.
    TenantQuota,
    /// What is free is reserved by others.
    Reserved,
    /// The pool has some, and what is below has no room for it: devices are files in a file system that is full.
    DeviceFull,
}

/// A limit that was set below what is in use. Nothing is lost by that; nothing more is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Physical bytes of a vdisk or tenant.
    Quota,
    /// What the pool may promise.
    Overcommit,
}

/// Something that happened to space or to the devices that it is on. `rising` is true when it began and false when it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpaceEvent {
    /// A figure has reached a level, or has fallen well below it.
    Threshold {
        /// Whose figure.
        subject: Subject,
        /// Which figure.
        measure: Measure,
        /// The level.
        level: Level,
        /// The figure.
        used_bytes: u64,
        /// What it is compared with.
        total_bytes: u64,
        /// Reached, not left.
        rising: bool,
    },
    /// At the measured rate the pool is full within the horizon, or no longer. Of all horizons that it is within, the shortest alone is
    /// told.
    Forecast {
        /// The horizon.
        horizon: Duration,
        /// When it is over: the shortest horizon that the pool is still full within.
        still: Option<Duration>,
        /// Estimated; none when use does not grow.
        time_to_full: Option<Duration>,
        /// Bytes allocated per second, what was freed subtracted.
        rate_bytes_per_s: u64,
        /// What is left.
        available_bytes: u64,
        /// Within the horizon, not out of it again.
        rising: bool,
    },
    /// A write of this vdisk finds no space. Raised once until it is resumed.
    Exhausted {
        /// Whose write.
        vdisk: VdiskName,
        /// What the write needs.
        needed_bytes: u64,
        /// Why there is none.
        cause: Shortage,
        /// The device that is full, where that is the cause.
        device: Option<String>,
        /// The write waits; otherwise it failed.
        held: bool,
    },
    /// Writes of this vdisk find space again.
    Resumed {
        /// Whose writes.
        vdisk: VdiskName,
        /// Since it was exhausted; none when that was before this start.
        lasted: Option<Duration>,
        /// Held writes that went through.
        writes: u64,
        /// Writes that came to their bound meanwhile, or were too many to be held.
        expired: u64,
        /// What those would have needed.
        expired_bytes: u64,
    },
    /// Held writes came to their bound and failed as "no space". The vdisk is still exhausted. Raised for the first ones; `Resumed` counts
    /// all.
    HoldExpired {
        /// Whose writes.
        vdisk: VdiskName,
        /// How long they were held.
        held_for: Duration,
        /// How many failed.
        writes: u64,
        /// What they would have needed.
        needed_bytes: u64,
        /// Why there was none, by the last look.
        cause: Shortage,
        /// The device that is full, where that is the cause.
        device: Option<String>,
    },
    /// Writes that should be held fail instead, because those that are held take all the memory that they may. Raised once until
    /// `Resumed`, which counts these, too.
    HoldOverflow {
        /// Whose writes.
        vdisk: VdiskName,
        /// Memory that held writes of the vdisk, and of all the pool, take.
        held_bytes: (u64, u64),
        /// What those of the pool may take.
        bound_bytes: u64,
        /// Why there is no space, by the last look.
        cause: Shortage,
        /// The device that is full, where that is the cause.
        device: Option<String>,
    },
    /// The pool should grow by itself and cannot.
    GrowthImpossible {
        /// Why.
        reason: String,
    },
    /// That is over without growth: it need not grow by itself any more, or could again.
    GrowthPossible,
    /// The pool has grown.
    Grown {
        /// What was added or became larger.
        device: String,
        /// By how much.
        bytes: u64,
    },
    /// A limit is lower than what is in use, or no longer.
    LimitExceeded {
        /// Whose limit.
        subject: Subject,
        /// Which.
        limit: Limit,
        /// What is in use or promised.
        used_bytes: u64,
        /// The limit; there may be none any more.
        limit_bytes: Option<u64>,
        /// It is exceeded now, not kept again.
        rising: bool,
    },
    /// Operations of a device failed. Told of each device once, and again after an hour if it goes on; reading a page or a sector again may
    /// have helped.
    DeviceErrors {
        /// Its path.
        device: String,
        /// How many, since that was told before.
        errors: u64,
        /// What the first of them says.
        reason: String,
        /// It is not the device that fails: the file system that it is a file of is full, and metadata lacks room there that it may need.
        full: bool,
    },
    /// The pool takes no writes, or takes them again.
    ReadOnly {
        /// Why; what it was for is over when it is empty.
        reason: String,
        /// It takes none.
        rising: bool,
    },
    /// The pool is not served, or is again. Raised by whoever should serve it.
    NotServed {
        /// Why.
        reason: String,
        /// It is not.
        rising: bool,
    },
    /// The file systems that a pool's devices are files of have less room than the pool has available, or have as much again. Raised by
    /// whoever looks at them.
    RoomBelow {
        /// A device whose file system lacks room.
        device: String,
        /// What there is room for.
        room_bytes: u64,
        /// What the pool has available.
        available_bytes: u64,
        /// There is less.
        rising: bool,
    },
    /// Files that the pool is open on were deleted, moved or replaced, or are all where they were. Raised by whoever looks at them.
    FilesGone {
        /// Their paths.
        files: String,
        /// They are gone.
        rising: bool,
    },
    /// Files that the pool is open on are others than those that it was open on before. Raised by whoever knows them.
    FilesReplaced {
        /// Their paths.
        files: String,
    },
    /// A check of the pool found what is not as it should be, or does not any more. Raised by whoever has it checked.
    CheckFound {
        /// What it found; what it found before, when that is over.
        reason: String,
        /// Data was lost or is at risk.
        loss: bool,
        /// It found something.
        rising: bool,
    },
    /// A vdisk was deleted about which something was told: that is over.
    VdiskDeleted {
        /// Which.
        vdisk: VdiskName,
    },
}

/// A level that has been reached and not been left since.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FiredLevel {
    /// Whose figure.
    pub subject: SubjectKey,
    /// Which figure.
    pub measure: Measure,
    /// The level.
    pub level: Level,
}

/// All that has fired in a pool and is not over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlarmState {
    /// Levels reached.
    pub levels: BTreeSet<FiredLevel>,
    /// The shortest horizon within which the pool is full.
    pub horizon: Option<Duration>,
    /// Vdisks with writes that found no space, and the bytes that the last one needed.
    pub exhausted: BTreeMap<Uuid, u64>,
    /// The pool should grow by itself and cannot: why.
    pub growth_impossible: Option<String>,
    /// Limits below what is in use.
    pub exceeded: BTreeSet<(SubjectKey, Limit)>,
    /// The pool takes no writes.
    pub read_only: bool,
    /// The pool is not served: why.
    pub not_served: Option<String>,
    /// What the last check found.
    pub check_found: Option<String>,
    /// There is less room below the pool than it has available.
    pub room_below: bool,
    /// Files that the pool is open on and that are not where they were: their paths.
    pub files_gone: Option<String>,
}

impl AlarmState {
    /// Takes an event over.
    pub fn apply(&mut self, event: &SpaceEvent) {
        match event {
            SpaceEvent::Threshold { subject, measure, level, rising, .. } => {
                let fired = FiredLevel { subject: subject.key(), measure: *measure, level: *level };
                turn(&mut self.levels, fired, *rising);
            }
            SpaceEvent::Forecast { horizon, still, rising, .. } => {
                self.horizon = if *rising { Some(*horizon) } else { *still };
            }
            SpaceEvent::Exhausted { vdisk, needed_bytes, .. } => drop(self.exhausted.insert(vdisk.uuid, *needed_bytes)),
            SpaceEvent::Resumed { vdisk, .. } => drop(self.exhausted.remove(&vdisk.uuid)),
            SpaceEvent::HoldExpired { .. }
            | SpaceEvent::HoldOverflow { .. }
            | SpaceEvent::DeviceErrors { .. }
            | SpaceEvent::FilesReplaced { .. } => {}
            SpaceEvent::ReadOnly { rising, .. } => self.read_only = *rising,
            SpaceEvent::NotServed { reason, rising } => self.not_served = rising.then(|| reason.clone()),
            SpaceEvent::RoomBelow { rising, .. } => self.room_below = *rising,
            SpaceEvent::FilesGone { files, rising } => self.files_gone = rising.then(|| files.clone()),
            SpaceEvent::CheckFound { reason, rising, .. } => self.check_found = rising.then(|| reason.clone()),
            SpaceEvent::GrowthImpossible { reason } => self.growth_impossible = Some(reason.clone()),
            SpaceEvent::Grown { .. } | SpaceEvent::GrowthPossible => self.growth_impossible = None,
            SpaceEvent::VdiskDeleted { vdisk } => self.forget_vdisk(vdisk.uuid),
            SpaceEvent::LimitExceeded { subject, limit, rising, .. } => {
                turn(&mut self.exceeded, (subject.key(), *limit), *rising);
            }
        }
    }

    /// The levels reached of one figure, ascending.
    pub fn fired_levels(&self, subject: &SubjectKey, measure: Measure) -> Vec<Level> {
        let of = |fired: &&FiredLevel| fired.subject == *subject && fired.measure == measure;
        self.levels.iter().filter(of).map(|fired| fired.level).collect()
    }

    /// Forgets a vdisk that is gone.
    pub fn forget_vdisk(&mut self, uuid: Uuid) {
        let gone = SubjectKey::Vdisk(uuid);
        self.levels.retain(|fired| fired.subject != gone);
        self.exhausted.remove(&uuid);
        self.exceeded.retain(|(subject, _)| *subject != gone);
    }
}

fn turn<T: Ord>(set: &mut BTreeSet<T>, what: T, on: bool) {
    if on {
        set.insert(what);
    } else {
        set.remove(&what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threshold(uuid: u128, level: Level, rising: bool) -> SpaceEvent {
        let subject =
            Subject::Vdisk(VdiskName { name: "a".into(), uuid: Uuid::from_u128(uuid), vm: None, tenant: None });
        SpaceEvent::Threshold { subject, measure: Measure::Quota, level, used_bytes: 1, total_bytes: 2, rising }
    }

    #[test]
    fn what_has_fired_stays_until_it_is_over() {
        let mut state = AlarmState::default();
        let key = SubjectKey::Vdisk(Uuid::from_u128(1));
        for percent in [85, 70] {
            state.apply(&threshold(1, Level::Percent(percent), true));
            state.apply(&threshold(2, Level::Percent(percent), true));
        }
        assert_eq!(state.fired_levels(&key, Measure::Quota), [Level::Percent(70), Level::Percent(85)]);
        assert_eq!(state.fired_levels(&key, Measure::Designated), []);
        state.apply(&threshold(1, Level::Percent(85), false));
        assert_eq!(state.fired_levels(&key, Measure::Quota), [Level::Percent(70)]);
        state.apply(&SpaceEvent::GrowthImpossible { reason: "no spare device".into() });
        assert_eq!(state.growth_impossible.as_deref(), Some("no spare device"));
        state.apply(&SpaceEvent::Grown { device: "/dev/sdb".into(), bytes: 1 << 30 });
        assert_eq!(state.growth_impossible, None);
        let vdisk = VdiskName { name: "a".into(), uuid: Uuid::from_u128(1), vm: None, tenant: None };
        state.apply(&SpaceEvent::VdiskDeleted { vdisk });
        state.forget_vdisk(Uuid::from_u128(2));
        assert_eq!(state, AlarmState::default());
    }
}
