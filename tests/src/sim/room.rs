//! Devices that are files in a file system that becomes full below the pool, and has room again after a while. First writes are held
//! meanwhile or fail; whatever needs nothing new goes on.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use plimsoll_engine::{Error, Shortage};
use plimsoll_hardware::{IoError, Machine};

use super::session::Session;
use super::trace::say;

/// The pool looks for room once a second as long as somebody needs some.
const NOTICED: Duration = Duration::from_secs(3);

/// What there is below the devices in this life.
#[derive(Default)]
pub struct Room {
    /// There was too little at some time.
    was_short: Cell<bool>,
    /// There is.
    is_short: Cell<bool>,
    /// Since when there is enough again.
    back: Cell<Duration>,
}

impl Room {
    /// Whether there was too little at some time.
    pub fn was_short(&self) -> bool {
        self.was_short.get()
    }
}

/// Takes the room of all devices, or of one, but for a little, and gives it back after a while.
pub fn run_out(session: &Rc<Session>) {
    if !session.setup.files || session.room.is_short.replace(true) {
        return;
    }
    session.room.was_short.set(true);
    let all = session.below(2) == 0;
    let one = session.below(session.setup.devices as u64 + 1) as usize;
    for disk in 0..=session.setup.devices {
        if all || disk == one {
            let bytes = session.below(6) * session.setup.block();
            say(|| format!("disk{disk} has room for {bytes} bytes"));
            session.machine.set_room(disk, Some(bytes));
        }
    }
    session.did("times without room below");
    let lasts = Duration::from_millis(1 << session.below(15));
    let (machine, session) = (session.machine.clone(), session.clone());
    machine.clone().spawn(async move {
        machine.sleep(lasts).await;
        come_back(&session);
    });
}

/// There is room for everything.
fn come_back(session: &Session) {
    if session.room.is_short.replace(false) {
        say(|| "there is room again".to_owned());
        (0..=session.setup.devices).for_each(|disk| session.machine.set_room(disk, None));
        session.room.back.set(session.machine.now());
    }
}

/// Whether an error may be for want of room. What a check would look at is not written while there is none.
pub fn excuses(session: &Session, error: &Error) -> bool {
    session.room.was_short() && (is_want(error) || matches!(error, Error::Busy { .. }))
}

/// Whether an error says that there is no room.
fn is_want(error: &Error) -> bool {
    matches!(error, Error::Device(IoError::NoSpace { .. }))
}

/// A write of a vdisk that nothing else limits found room, if there has been some for a while.
///
/// # Panics
/// When it did not.
pub fn is_found(session: &Session, error: &Error) {
    let room = &session.room;
    // Enough for the largest write, so that space of the pool is not what it lacks by now.
    let plenty = session.pool.info().available_bytes > (1 << 20) + 4 * session.setup.extent;
    if is_want(error) && plenty && !room.is_short.get() {
        let since = session.machine.now() - room.back.get();
        assert!(since <= NOTICED, "no room was found {since:?} after there was some: {error}");
    }
}

/// Gives the room back, and demands that nothing waits for it any more.
pub async fn settle(session: &Session) {
    if !session.room.was_short() {
        return;
    }
    come_back(session);
    session.ask(session.machine.sleep(NOTICED)).await;
    let info = session.pool.info();
    assert!(info.starved.is_none(), "metadata waits, and there is room: {info:?}");
    for vdisk in session.pool.vdisks() {
        let waits = vdisk.held_writes > 0 && vdisk.shortage == Some(Shortage::DeviceFull);
        assert!(!waits, "writes wait, and there is room: {vdisk:?}");
    }
    if session.below(2) == 0 {
        super::verify::check(session).await;
    }
}
