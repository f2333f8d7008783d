//! The lives of one image: start, compare, work, stop at some point, start again.

use std::rc::Rc;

use plimsoll_engine::JobState;
use plimsoll_hardware::sim::SimMachine;

use super::image::{Image, Work};
use super::session::Session;
use super::tally::Tally;
use super::trace;

/// What is done when the faults have ended; in the end it is closed.
const CALM: Work = Work { clients: 2, ops: 6, ending: 2 };

/// Adds what was done in a life.
fn count(tally: &mut Tally, session: &Session) {
    let counters = session.pool.info().counters;
    tally.did("journal batches ahead of their data", counters.journal_commits_ahead);
    tally.did("writes held", counters.held_writes);
    tally.did("writes refused", counters.refused_writes);
    tally.did("KiB packed", counters.packed_bytes >> 10);
    for job in session.pool.jobs().iter().filter(|job| job.state == JobState::Done) {
        tally.did("evacuations done", u64::from(job.kind == "device-evacuate"));
        tally.did("reclaims done", u64::from(job.kind == "reclaim"));
    }
    tally.add(&session.tally.borrow());
}

/// Starts that may crash before one is left in peace.
const STARTS_MAX: u32 = 4;

/// Runs all lives of a seed.
///
/// # Panics
/// When something is found that is not allowed.
pub fn run(seed: u64) -> Tally {
    let mut image = Image::new(seed, false);
    let mut tally = Tally::default();
    image.world.set_trace(trace::devices());
    for _ in 0..image.setup.lives {
        let session = start(&mut image, &mut tally, Faults::Seldom);
        work(&mut image, &session);
        tally.did("clean closes", u64::from(image.closed));
        count(&mut tally, &session);
        if trace::devices() {
            eprintln!("{}", image.world.trace());
            image.world.set_trace(true);
        }
        image.stop(image.below(2) == 0);
    }
    // What the last life did is compared, too. The faults have ended: whatever they left behind, the pool works.
    let session = start(&mut image, &mut tally, Faults::None);
    session.calm.set(true);
    image.work(&session, CALM).expect("nothing stops the last life");
    assert!(image.closed, "a pool was not closed after the faults: {:?}", session.pool.info().read_only);
    count(&mut tally, &session);
    image.stop(false);
    // What was written then is compared, too.
    start(&mut image, &mut tally, Faults::None);
    tally.add_world(&image.world);
    tally
}

/// Sets a point to stop at, within so many device operations or three times as many polls.
fn arm(image: &Image, machine: &SimMachine, operations: u64) {
    match image.below(4) {
        0 => machine.crash_after_polls(1 + image.below(operations * 3)),
        1 => machine.tear_crash_memory_at(1 + image.below(operations / 4)),
        _ => machine.crash_after_ops(1 + image.below(operations)),
    }
}

/// Whether devices fail during a start.
#[derive(Clone, Copy, PartialEq)]
enum Faults {
    Seldom,
    None,
}

/// Starts until a start is not stopped, and compares everything.
fn start(image: &mut Image, tally: &mut Tally, faults: Faults) -> Rc<Session> {
    for attempt in 1.. {
        let last = attempt >= STARTS_MAX;
        image.world.heal();
        let faulty =
            faults == Faults::Seldom && !last && image.made && image.setup.faults.is_some() && image.below(3) == 0;
        if let Some(profile) = image.setup.faults.filter(|_| faulty) {
            image.world.set_faults(profile);
        }
        let machine = image.world.boot();
        if !last && image.below(4) == 0 {
            arm(image, &machine, 100);
        }
        if let Some(session) = image.start_once(&machine, faulty) {
            machine.crash_after_ops(0);
            machine.crash_after_polls(0);
            machine.tear_crash_memory_at(0);
            tally.cycles += u64::from(image.made);
            image.made = true;
            return session;
        }
        tally.did("crashes inside a start", 1);
        image.closed = false;
        image.stop(image.below(2) == 0);
    }
    unreachable!("the last start is left in peace")
}

/// Lets clients work, up to a point where the machine stops, or to their end.
fn work(image: &mut Image, session: &Rc<Session>) {
    if let Some(profile) = image.setup.faults {
        image.world.set_faults(profile);
    }
    if image.below(4) != 0 {
        arm(image, &session.machine, [30, 100, 300][image.below(3) as usize]);
    }
    let clients = 1 + image.below(image.setup.clients as u64) as usize;
    // Seldom so much that the journal comes round.
    let things = if image.below(16) == 0 { 400 } else { 24 };
    let ops = 2 + image.below(things) / clients as u64;
    let ending = image.below(8);
    // Whether it stops or ends: the next start compares.
    let _ = image.work(session, Work { clients, ops, ending });
}
