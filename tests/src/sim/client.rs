//! Clients: random reads and writes of vdisks, each told to the model before and after.

use std::rc::Rc;
use std::time::Duration;

use plimsoll_engine::{Error, Ticket, WriteOptions, Zeroes};
use plimsoll_hardware::{IoError, Machine};

use super::decide::is_kept;
use super::model::{Change, Ended, Existence, Op};
use super::pattern::{SECTOR, fill, repeat};
use super::promises::Tenant;
use super::session::Session;
use super::window::Standing;

/// A place in a window, in bytes.
struct Place {
    vdisk: u16,
    name: String,
    from: u64,
    until: u64,
}

/// An operation that was asked for.
pub struct Asked {
    /// For the model.
    pub op: Op,
    /// When, in virtual time.
    pub since: Duration,
    /// Whose quota it goes by, of some.
    pub tenant: Option<Tenant>,
}

/// Does `ops` things, one after the other.
pub async fn run(session: Rc<Session>, ops: u64) {
    // As a guest's journal does: a flush after each write.
    let flushes = session.below(4) == 0;
    for _ in 0..ops {
        if session.broken.get() {
            return;
        }
        match session.below(100) {
            0..45 => {
                write(&session).await;
                if flushes && !session.broken.get() {
                    flush(&session).await;
                }
            }
            45..60 => read(&session).await,
            60..68 => zeroes(&session).await,
            68..80 => discard(&session).await,
            80..90 => flush(&session).await,
            90..93 => status(&session).await,
            _ => super::control::run(&session).await,
        }
    }
}

/// A range of a random window, at most `max` bytes; of whole sectors of its vdisk.
fn place(session: &Session, max: u64) -> Option<Place> {
    let state = &mut *session.state.borrow_mut();
    let random = &mut state.random;
    let usable: Vec<_> = state
        .model
        .disks
        .values()
        .filter(|disk| !disk.exclusive && disk.existence != Existence::Creating && !disk.windows.is_empty())
        .collect();
    let disk = usable.get(random.below(usable.len() as u64) as usize)?;
    let window = &disk.windows[random.below(disk.windows.len() as u64) as usize];
    let end = window.end().min(disk.size);
    if end <= window.start {
        return None;
    }
    let sectors = (end - window.start) / disk.sector;
    let wanted = match random.below(8) {
        0..3 => 1 + random.below(8 * SECTOR / disk.sector),
        3..6 => (1 + random.below(4)) * 4096 / disk.sector,
        6 => 65_536 / disk.sector,
        _ => 1 + random.below(sectors),
    };
    let wanted = wanted.min(max / disk.sector).clamp(1, sectors.max(1));
    let mut first = random.below(sectors - wanted + 1);
    if random.coin() {
        // Mostly whole blocks of 4 KiB.
        first = first * disk.sector / 4096 * 4096 / disk.sector;
    }
    let from = window.start + first * disk.sector;
    let until = (from + wanted * disk.sector).min(end);
    (from < until).then(|| Place { vdisk: disk.serial, name: disk.name.clone(), from, until })
}

/// Tells the model that an operation begins.
fn begin(session: &Session, vdisk: u16, change: Change, from: u64, until: u64) -> Asked {
    let name = session.state.borrow().model.disks.get(&vdisk).map(|disk| disk.name.clone());
    // Looking costs more than writing.
    let tenant = name.filter(|_| session.below(4) == 0).and_then(|name| Tenant::of(session, &name));
    let op = session.state.borrow_mut().model.begin(vdisk, change, from, until);
    Asked { op, since: session.machine.now(), tenant }
}

/// What an answer means to the model.
fn ended(session: &Session, op: &Op, result: Result<(), Error>, durable: bool) -> Ended {
    match result {
        Ok(()) => Ended::Done { durable },
        // What could be overwritten may have been before room was found missing.
        Err(Error::OutOfSpace { .. } | Error::QuotaExceeded { .. } | Error::Cancelled)
            if session.room.was_short() && op.change != Change::Discard =>
        {
            Ended::Failed
        }
        Err(Error::OutOfSpace { needed, .. }) if matches!(op.change, Change::Write | Change::Zeros) => {
            keeps_reservation(session, op, needed);
            Ended::Refused
        }
        Err(Error::QuotaExceeded { needed, .. }) if matches!(op.change, Change::Write | Change::Zeros) => {
            keeps_reservation(session, op, needed / session.setup.extent);
            Ended::Refused
        }
        // Given up while it was held: it is never applied.
        Err(Error::Cancelled) => Ended::Refused,
        // Blocks that need no space were, or were not, done with before.
        Err(Error::OutOfSpace { .. } | Error::QuotaExceeded { .. })
            // A part of a block of a fill is one of them.
            if matches!(op.change, Change::Repeat | Change::Blank | Change::Unmap) =>
        {
            Ended::Failed
        }
        Err(Error::NotFound { .. } | Error::InvalidRequest { .. }) if is_leaving(session, op.vdisk, op.until) => {
            Ended::Failed
        }
        Err(error) => {
            session.bear(&format!("{:?} of {}..{}", op.change, op.from, op.until), &error);
            Ended::Failed
        }
    }
}

/// A vdisk is never refused what it has reserved, as far as that was not decided just now.
fn keeps_reservation(session: &Session, op: &Op, needed: u64) {
    let state = session.state.borrow();
    let Some(disk) = state.model.disks.get(&op.vdisk) else { return };
    let (Some(_), Some(handle)) = (disk.decided.since(op.began), session.vdisk(&disk.name)) else { return };
    let info = handle.info();
    assert!(
        session.setup.faults.is_some() || needed * session.setup.extent > info.reserved_bytes,
        "{needed} extents were refused to {} of its own {} reserved bytes: {:?}",
        info.name,
        info.reserved_bytes,
        session.pool.info()
    );
}

/// Whether what lies before `until` in a vdisk may be gone by now, or soon.
fn is_leaving(session: &Session, vdisk: u16, until: u64) -> bool {
    let state = session.state.borrow();
    state.model.disks.get(&vdisk).is_none_or(|disk| {
        disk.existence == Existence::Deleting || until > disk.size || disk.size_asked.is_some_and(|size| until > size)
    })
}

fn is_write_through(session: &Session, vdisk: u16) -> bool {
    session.state.borrow().model.disks.get(&vdisk).is_some_and(|disk| disk.write_through)
}

/// Tells the model the end of `op`.
fn end(session: &Session, asked: &Asked, result: Result<(), Error>, durable: bool) {
    let op = &asked.op;
    let is_full = |error: &&Error| {
        matches!(error, Error::OutOfSpace { .. } | Error::QuotaExceeded { .. } | Error::Device(IoError::NoSpace { .. }))
    };
    let refused = result.as_ref().err().filter(is_full);
    is_kept(session, asked, refused);
    if let Some(tenant) = &asked.tenant {
        tenant.is_kept(session);
    }
    let full = refused.is_some();
    if result.is_ok() {
        session.did(match op.change {
            Change::Write => "writes",
            Change::Repeat => "writes of the pattern",
            Change::Blank => "writes of zeros",
            Change::Zeros => "zeros stored",
            Change::Unmap => "zeros by unmapping",
            Change::Discard => "discards",
        });
    }
    let ended = ended(session, op, result, durable);
    let alone = session.state.borrow_mut().model.end(op, ended);
    assert!(
        !(full && alone && op.must_fit),
        "an overwrite of {}..{} of vdisk {}, which has space, was refused for want of space",
        op.from,
        op.until,
        op.vdisk
    );
}

async fn write(session: &Session) {
    let Some(place) = place(session, 256 << 10) else { return };
    match session.below(8) {
        0 => return write_same(session, &place, Change::Blank).await,
        1 | 2 => return write_same(session, &place, Change::Repeat).await,
        _ => {}
    }
    write_at(session, place.vdisk, &place.name, place.from, place.until).await;
}

/// Writes one range with its own version. Answers whether it succeeded.
pub async fn write_at(session: &Session, vdisk: u16, name: &str, from: u64, until: u64) -> bool {
    let mut buffer = session.machine.buffers().alloc((until - from) as usize).await;
    let Some(handle) = session.vdisk(name) else { return false };
    let fua = session.below(8) == 0;
    let asked = begin(session, vdisk, Change::Write, from, until);
    fill(&mut buffer, vdisk, from / SECTOR, asked.op.id);
    let ticket = (session.below(8) == 0).then(Ticket::default);
    if let Some(ticket) = ticket.clone() {
        // Whoever sent it loses patience, or is gone.
        let (machine, time) = (session.machine.clone(), Duration::from_micros(1 << session.below(18)));
        session.machine.spawn(async move {
            machine.sleep(time).await;
            ticket.cancel();
        });
    }
    let how = WriteOptions { fua, ticket, ..WriteOptions::default() };
    let result = session.ask(handle.write_with(from, buffer.freeze(), &how)).await;
    let good = result.is_ok();
    end(session, &asked, result, fua || is_write_through(session, vdisk));
    good
}

/// Writes zeros or the pattern, as data.
async fn write_same(session: &Session, place: &Place, change: Change) {
    let mut buffer = session.machine.buffers().alloc((place.until - place.from) as usize).await;
    let Some(handle) = session.vdisk(&place.name) else { return };
    let fua = session.below(8) == 0;
    match change {
        Change::Repeat => repeat(&mut buffer),
        _ => buffer.fill(0),
    }
    let asked = begin(session, place.vdisk, change, place.from, place.until);
    let result = session.ask(handle.write(place.from, buffer.freeze(), fua)).await;
    end(session, &asked, result, fua || is_write_through(session, place.vdisk));
}

async fn zeroes(session: &Session) {
    let Some(place) = place(session, 256 << 10) else { return };
    let Some(handle) = session.vdisk(&place.name) else { return };
    let (how, change) = match session.below(3) {
        0 => (Zeroes::Allocate, Change::Zeros),
        _ => (Zeroes::Unmap, Change::Unmap),
    };
    let fua = session.below(8) == 0;
    let asked = begin(session, place.vdisk, change, place.from, place.until);
    let result = session.ask(handle.write_zeroes(place.from, place.until - place.from, how, fua)).await;
    end(session, &asked, result, fua || is_write_through(session, place.vdisk));
}

async fn discard(session: &Session) {
    let Some(mut place) = place(session, 256 << 10) else { return };
    if session.below(6) == 0 {
        let size = session.state.borrow().model.disks.get(&place.vdisk).map_or(place.until, |disk| disk.size);
        (place.from, place.until) = (0, size);
    }
    let Some(handle) = session.vdisk(&place.name) else { return };
    let fua = session.below(8) == 0;
    let asked = begin(session, place.vdisk, Change::Discard, place.from, place.until);
    let result = session.ask(handle.discard(place.from, place.until - place.from, fua)).await;
    end(session, &asked, result, fua || is_write_through(session, place.vdisk));
}

async fn read(session: &Session) {
    let Some(place) = place(session, 256 << 10) else { return };
    let buffer = session.machine.buffers().alloc((place.until - place.from) as usize).await;
    let Some(handle) = session.vdisk(&place.name) else { return };
    let began = session.state.borrow_mut().model.begin_read(place.vdisk);
    let result = session.ask(handle.read(place.from, buffer)).await;
    let leaving = is_leaving(session, place.vdisk, place.until);
    {
        let model = &mut session.state.borrow_mut().model;
        let dropped = session.setup.drops().then(|| model.flushed());
        if let (Ok(buffer), Some(disk)) = (&result, model.disks.get(&place.vdisk)) {
            let window = disk.windows.iter().find(|window| window.clip(place.from, place.until).is_some());
            let checked = window.map(|window| window.check_read(place.vdisk, place.from, buffer, began, dropped));
            if let Some(Err(error)) = checked
                && !leaving
            {
                panic!("vdisk {} ({}): {error}", place.name, place.vdisk);
            }
        }
        model.end_read(place.vdisk, began);
    }
    match result {
        Ok(_) => session.did("reads"),
        Err(Error::NotFound { .. } | Error::InvalidRequest { .. }) if leaving => {}
        Err(error) => session.bear("a read", &error),
    }
}

async fn flush(session: &Session) {
    let name = {
        let state = &mut *session.state.borrow_mut();
        let ready: Vec<_> = state.model.disks.values().filter(|disk| disk.existence == Existence::Certain).collect();
        let Some(disk) = ready.get(state.random.below(ready.len() as u64) as usize) else { return };
        disk.name.clone()
    };
    let Some(handle) = session.vdisk(&name) else { return };
    let began = session.state.borrow_mut().model.tick();
    match session.ask(handle.flush()).await {
        Ok(()) => {
            session.did("flushes");
            session.state.borrow_mut().model.flush_done(began);
        }
        Err(Error::NotFound { .. }) => {}
        Err(error) => session.bear("a flush", &error),
    }
}

/// Compares data and holes of a whole window while nothing touches it.
async fn status(session: &Session) {
    let Some(place) = place(session, SECTOR) else { return };
    let Some(handle) = session.vdisk(&place.name) else { return };
    let window = {
        let model = &session.state.borrow().model;
        let Some(disk) = model.disks.get(&place.vdisk).filter(|disk| disk.users == 0) else { return };
        let Some(window) = disk.windows.iter().find(|window| window.clip(place.from, place.until).is_some()) else {
            return;
        };
        (window.start, window.end().min(disk.size), window.block)
    };
    let before = session.state.borrow_mut().model.tick();
    let ranges = match session.ask(handle.block_status(window.0, window.1 - window.0, usize::MAX)).await {
        Ok(ranges) => ranges,
        Err(Error::NotFound { .. } | Error::InvalidRequest { .. }) => return,
        Err(error) => return session.bear("a block status", &error),
    };
    let state = &mut *session.state.borrow_mut();
    let now = state.model.tick();
    let Some(disk) = state.model.disks.get(&place.vdisk) else { return };
    if now != before + 1 {
        // Something else went on.
        return;
    }
    let Some(known) = disk.windows.iter().find(|known| known.start == window.0) else { return };
    session.did("block statuses");
    let mut at = window.0;
    for range in ranges {
        for block in (at / window.2..(at + range.length).div_ceil(window.2)).map(|block| block * window.2) {
            let standing = known.blocks[((block - window.0) / window.2) as usize].standing;
            let expected = if range.data { Standing::Data } else { Standing::Hole };
            assert!(
                standing == Standing::Unknown || standing == expected,
                "the block at {block} of vdisk {} is said to be {expected:?} and is {standing:?}",
                place.name
            );
        }
        at += range.length;
    }
}
