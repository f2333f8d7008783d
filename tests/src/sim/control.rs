//! Clients that make, resize and delete vdisks, change the pool's devices, and ask for a check.

use std::rc::Rc;
use std::time::Duration;

use plimsoll_engine::{CreateVdisk, Error, PatternSpec, PatternUse, ReclaimSpec};
use plimsoll_hardware::Machine;

use super::decide::{Decided, vdisk_policy};
use super::model::{Disk, Existence};
use super::pattern::UNIT;
use super::promises::Overcommit;
use super::session::Session;
use super::trace::say;
use super::window::Window;

/// Does one thing.
pub async fn run(session: &Rc<Session>) {
    match session.below(29) {
        0..6 => create(session).await,
        6..10 => delete(session).await,
        10..14 => resize(session).await,
        14 => super::verify::check_online(session).await,
        15 => super::members::add(session).await,
        16..21 => super::members::run(session).await,
        21 => pattern(session).await,
        22 => reclaim(session).await,
        23 => compact(session),
        24..28 => super::decide::run(session).await,
        28 => super::room::run_out(session),
        _ => create(session).await,
    }
}

/// Makes a vdisk, unless there are enough.
pub async fn create(session: &Session) {
    let spec = {
        let state = &mut *session.state.borrow_mut();
        if state.model.disks.len() >= session.setup.disks_max {
            return;
        }
        let serial = state.model.serial();
        // A name may be taken over from one that was deleted.
        let name = (0..)
            .map(|number| format!("v{number}"))
            .find(|name| state.model.disks.values().all(|disk| disk.name != *name));
        let name = name.unwrap_or_default();
        let random = &mut state.random;
        let sector = if random.below(4) == 0 { 4096 } else { 512 };
        let size = match random.below(6) {
            0 => (256 << 10) + random.below(1024) * sector,
            1..4 => (1 << 20) + random.below(16) * 65_536,
            4 => 1 << 30,
            _ => 1 << (30 + random.below(25)),
        };
        let write_through = random.below(8) == 0;
        let policy = vdisk_policy(session.setup.extent, size, random);
        let windows = windows(session.setup.windows, size, session.setup.block(), random);
        let disk = Disk {
            serial,
            name: name.clone(),
            sector,
            write_through,
            size,
            size_asked: None,
            cut: None,
            existence: Existence::Creating,
            windows,
            users: 0,
            exclusive: true,
            lax: false,
            decided: Decided::new(policy.clone()),
            had: 0,
        };
        state.model.disks.insert(serial, disk);
        (serial, CreateVdisk { name, size, sector: sector as u32, write_through, policy })
    };
    say(|| format!("create {:?} ({})", spec.1, spec.0));
    let promised = Overcommit::now(session);
    session.decides();
    let result = session.ask(session.pool.create_vdisk(spec.1)).await;
    session.decides();
    say(|| format!("create ({}): {result:?}", spec.0));
    match &result {
        Ok(_) => {
            session.did("vdisks created");
            promised.is_kept(session);
            if let Some(disk) = session.state.borrow_mut().model.disks.get_mut(&spec.0) {
                (disk.existence, disk.exclusive) = (Existence::Certain, false);
            }
        }
        Err(Error::OutOfSpace { .. } | Error::LimitExceeded { .. }) => {
            drop(session.state.borrow_mut().model.disks.remove(&spec.0));
        }
        Err(error) => session.bear("a create", error),
    }
}

/// Stretches of up to 192 KiB in a vdisk, some beside the borders of mapping pages, the first at its start.
fn windows(count: usize, size: u64, block: u64, random: &mut plimsoll_hardware::sim::Random) -> Vec<Window> {
    let cell = 256 << 10;
    let cells = size.div_ceil(cell);
    let mut windows: Vec<Window> = Vec::new();
    for index in 0..count as u64 {
        let at = match random.below(4) {
            _ if index == 0 => 0,
            0 => cells - 1,
            1 => (random.below(cells / 128 + 1) * 128).min(cells - 1),
            2 => random.below(cells.min(8)),
            _ => random.below(cells),
        };
        let start = at * cell + random.below(65_536 / block) * block;
        let length = (1 + random.below((192 << 10) / block)) * block;
        let end = size.next_multiple_of(block);
        let length = length.min(end.saturating_sub(start));
        if length > 0 && windows.iter().all(|other| other.start / cell != at) {
            windows.push(Window::hole(start, length, block));
        }
    }
    windows
}

/// A vdisk for a change of its own: nobody else may touch it when `alone`.
pub fn pick(session: &Session, alone: bool) -> Option<(u16, String)> {
    let state = &mut *session.state.borrow_mut();
    let ready: Vec<u16> = state
        .model
        .disks
        .values()
        .filter(|disk| !disk.exclusive && disk.existence == Existence::Certain && disk.size_asked.is_none())
        .filter(|disk| !alone || disk.users == 0)
        .map(|disk| disk.serial)
        .collect();
    let serial = *ready.get(state.random.below(ready.len() as u64) as usize)?;
    let disk = state.model.disks.get_mut(&serial)?;
    disk.exclusive = true;
    Some((serial, disk.name.clone()))
}

/// Adds the pattern, puts it out of use and back, or tries to remove it.
async fn pattern(session: &Session) {
    let known = session.pool.patterns();
    let choice = session.below(6);
    let result = match known.first() {
        None => {
            let spec = PatternSpec::Unit(UNIT.to_vec());
            session.ask(session.pool.add_pattern(spec, PatternUse::Everywhere)).await.map(drop)
        }
        Some(known) if choice == 0 => session.ask(session.pool.remove_pattern(known.number)).await,
        Some(known) => {
            let used = if choice == 1 { PatternUse::Disabled } else { PatternUse::Everywhere };
            session.ask(session.pool.set_pattern(known.number, used)).await.map(drop)
        }
    };
    say(|| format!("pattern {choice} of {known:?}: {result:?}"));
    match result {
        Ok(()) => session.did("patterns changed"),
        // Others change them too, and it may be in use.
        Err(Error::Exists { .. } | Error::NotFound { .. } | Error::Busy { .. }) => {}
        // The table of patterns is metadata, too.
        Err(Error::OutOfSpace { .. }) if known.is_empty() => {}
        Err(error) => session.bear("a change of a pattern", &error),
    }
}

/// Begins, pauses or resumes a reclaim, of a whole vdisk or of its first window.
async fn reclaim(session: &Session) {
    let Some((serial, name)) = pick(session, false) else { return };
    let ranges = {
        let state = &mut *session.state.borrow_mut();
        let Some(disk) = state.model.disks.get_mut(&serial) else { return };
        disk.lax = true;
        disk.windows.iter_mut().for_each(Window::doubt_space);
        let first = disk
            .windows
            .first()
            .map(|window| (window.start, window.length().min(disk.size.saturating_sub(window.start))));
        first.filter(|(_, length)| *length > 0 && state.random.below(4) == 0).map(|range| vec![range])
    };
    let result = match session.below(6) {
        0 => session.ask(session.pool.pause_reclaim(&name)).await.map(drop),
        1 => session.ask(session.pool.resume_reclaim(&name)).await.map(drop),
        _ => session.ask(session.pool.reclaim(&name, ReclaimSpec { ranges, ..ReclaimSpec::default() })).await.map(drop),
    };
    say(|| format!("reclaim of {name} ({serial}): {result:?}"));
    if let Some(disk) = session.state.borrow_mut().model.disks.get_mut(&serial) {
        disk.exclusive = false;
    }
    match result {
        Ok(()) => session.did("reclaims asked for"),
        Err(Error::Busy { .. } | Error::NotFound { .. } | Error::InvalidArgument(_)) => {}
        Err(error) => session.bear("a reclaim", &error),
    }
}

/// Puts thin extents together.
fn compact(session: &Session) {
    let result = session.pool.compact();
    say(|| format!("compaction: {result:?}"));
    match result {
        Ok(_) => session.did("compactions asked for"),
        Err(error) => session.bear("a compaction", &error),
    }
}

/// Deletes a vdisk, also while others use it.
async fn delete(session: &Session) {
    let alone = session.below(2) == 0;
    let Some((serial, name)) = pick(session, alone) else { return };
    if let Some(disk) = session.state.borrow_mut().model.disks.get_mut(&serial) {
        disk.existence = Existence::Deleting;
    }
    say(|| format!("delete {name} ({serial})"));
    match session.ask(session.pool.delete_vdisk(&name)).await {
        Ok(_) => {
            session.did("vdisks deleted");
            session.state.borrow_mut().model.disks.remove(&serial);
        }
        Err(error) => session.bear("a delete", &error),
    }
}

async fn resize(session: &Session) {
    let alone = session.below(2) == 0;
    let Some((serial, name)) = pick(session, alone) else { return };
    let (size, old, discard_tail) = {
        let state = &mut *session.state.borrow_mut();
        let Some(disk) = state.model.disks.get(&serial) else { return };
        let (old, sector, random) = (disk.size, disk.sector, &mut state.random);
        let size = match random.below(4) {
            0 => old + random.below(512) * 4096,
            1 => old / 2 / sector * sector,
            2 => disk
                .windows
                .first()
                .map_or(old, |window| window.start + random.below(window.length() / sector) * sector),
            _ => random.below(old / sector) * sector,
        };
        (size.max(sector).min(1 << 54), old, random.below(3) != 0)
    };
    if let Some(disk) = session.state.borrow_mut().model.disks.get_mut(&serial) {
        disk.size_asked = Some(size);
    }
    say(|| format!("resize {name} ({serial}) from {old} to {size}"));
    let promised = Overcommit::now(session);
    let result = session.ask(session.pool.resize_vdisk(&name, size, discard_tail)).await;
    say(|| format!("resize {name}: {result:?}"));
    if result.is_ok() && size > old {
        promised.is_kept(session);
    }
    let reservation = session.pool.vdisk(&name).map_or(0, |vdisk| vdisk.info().policy.reservation);
    let failed = {
        let model = &mut session.state.borrow_mut().model;
        let Some(disk) = model.disks.get_mut(&serial) else { return };
        match result {
            Ok(_) => {
                session.did("vdisks resized");
                disk.size = size;
                (disk.size_asked, disk.exclusive) = (None, false);
                if size < old {
                    model.cut(serial, size);
                }
                None
            }
            // A larger vdisk may need more metadata behind its reservation.
            Err(Error::Busy { .. } | Error::LimitExceeded { .. }) => {
                (disk.size_asked, disk.exclusive) = (None, false);
                None
            }
            Err(Error::InvalidArgument(_)) if size < reservation => {
                (disk.size_asked, disk.exclusive) = (None, false);
                None
            }
            Err(Error::WouldCutOff { .. }) => {
                assert!(size < old && !discard_tail, "a resize from {old} to {size} was refused");
                (disk.size_asked, disk.exclusive) = (None, false);
                None
            }
            Err(error) => Some(error),
        }
    };
    if let Some(error) = failed {
        session.bear("a resize", &error);
    }
}

impl Session {
    /// Waits for a while of virtual time.
    pub async fn pause(&self) {
        self.machine.sleep(Duration::from_millis(1)).await;
    }
}
