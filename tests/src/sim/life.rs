//! A world from its first life to its last: start, compare, work, stop at some point, start again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use plimsoll_engine::{CreatePool, Error, OpenPool, Pool, identify};
use plimsoll_hardware::sim::{CrashKind, FaultKind, Outcome, Random, SimMachine, SimWorld};

use super::session::{Session, State};
use super::setup::Setup;
use super::{client, trace, verify};

/// What a seed did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Crashes, each followed by a start and a comparison.
    pub cycles: u64,
    /// Crashes in the middle of a start.
    pub crashes_in_start: u64,
    /// Clean closes.
    pub closes: u64,
}

/// Starts that may crash before one is left in peace.
const STARTS_MAX: u32 = 4;

/// Runs all lives of a seed.
///
/// # Panics
/// When something is found that is not allowed.
pub fn run(seed: u64) -> Tally {
    let mut random = Random::new(seed);
    let (setup, world) = Setup::draw(seed, &mut random);
    world.set_trace(trace::on());
    trace::say(|| format!("{setup:?}"));
    let mut image = Image {
        world,
        setup: Rc::new(setup),
        state: Rc::new(RefCell::new(State { model: Default::default(), random })),
        made: false,
        closed: false,
        tally: Tally::default(),
    };
    image.setup.allow_faults(&image.world);
    for _ in 0..image.setup.lives {
        let session = image.start();
        image.work(&session);
    }
    image.tally
}

/// Disks and what is known of them.
struct Image {
    world: SimWorld,
    setup: Rc<Setup>,
    state: Rc<RefCell<State>>,
    made: bool,
    /// The last life closed the pool.
    closed: bool,
    tally: Tally,
}

impl Drop for Image {
    fn drop(&mut self) {
        if std::thread::panicking() && trace::on() {
            eprintln!("{}", self.world.trace());
        }
    }
}

impl Image {
    fn below(&self, bound: u64) -> u64 {
        self.state.borrow_mut().random.below(bound)
    }

    fn stop(&mut self, power: bool) {
        let kind = if power { CrashKind::Power } else { CrashKind::Process };
        self.world.crash(kind);
        self.state.borrow_mut().model.stop(power || self.setup.drops());
    }

    /// Sets a point to stop at, within so many device operations or three times as many polls.
    fn arm(&self, machine: &SimMachine, operations: u64) {
        match self.below(4) {
            0 => machine.crash_after_polls(1 + self.below(operations * 3)),
            1 => machine.tear_crash_memory_at(1 + self.below(operations / 4)),
            _ => machine.crash_after_ops(1 + self.below(operations)),
        }
    }

    /// Starts until a start is not stopped, and compares everything.
    fn start(&mut self) -> Rc<Session> {
        for attempt in 1.. {
            let last = attempt >= STARTS_MAX;
            self.world.heal();
            let faulty = !last && self.made && self.setup.faults.is_some() && self.below(3) == 0;
            if let Some(profile) = self.setup.faults.filter(|_| faulty) {
                self.world.set_faults(profile);
            }
            let machine = self.world.boot();
            if !last && self.below(4) == 0 {
                self.arm(&machine, 100);
            }
            match self.start_once(&machine, faulty) {
                Some(session) => {
                    machine.crash_after_ops(0);
                    machine.crash_after_polls(0);
                    machine.tear_crash_memory_at(0);
                    self.tally.cycles += u64::from(self.made);
                    self.made = true;
                    return session;
                }
                None => {
                    self.tally.crashes_in_start += 1;
                    self.closed = false;
                    let power = self.below(2) == 0;
                    self.stop(power);
                }
            }
        }
        unreachable!("the last start is left in peace")
    }

    /// Opens the pool and compares everything; `None` when the machine stopped, or faults got in the way.
    fn start_once(&self, machine: &SimMachine, faulty: bool) -> Option<Rc<Session>> {
        let vanished = self.world.faults_struck(FaultKind::Vanish);
        let (setup, state) = (self.setup.clone(), self.state.clone());
        let opened = ended(machine.run(open(machine.clone(), setup.clone(), self.made)), "a start")?;
        if faulty {
            self.world.heal();
        }
        let pool = match opened {
            Ok(pool) => pool,
            Err(error) if faulty => {
                trace::say(|| format!("the start failed: {error}"));
                return None;
            }
            Err(error) => panic!("the pool cannot be opened: {error} [{}]", error.code()),
        };
        let info = pool.info();
        trace::say(|| format!("opened: {:?}, read-only: {:?}", info.recovery, info.read_only));
        let impaired = info.read_only.is_some() || info.counters.pages_lost > 0 || !info.recovery.warnings.is_empty();
        if faulty && (impaired || self.world.faults_struck(FaultKind::Vanish) > vanished) {
            // It serves what it can. Whatever it writes in this state must not make things worse.
            let _ = ended(machine.run(async { pool.check().await.is_ok() }), "a check of an impaired pool")?;
            return None;
        }
        assert!(info.read_only.is_none(), "the pool is read-only after a start: {info:?}");
        assert!(!self.closed || info.recovery.clean, "a pool that was closed was not clean: {:?}", info.recovery);
        let devices = Cell::new(info.devices.len());
        let machine = machine.clone();
        let session = Rc::new(Session { machine, pool, state, setup, broken: Cell::new(false), devices });
        ended(session.machine.run(compare(session.clone())), "the comparison after a start")?;
        Some(session)
    }

    /// Lets clients work, and stops the machine.
    fn work(&mut self, session: &Rc<Session>) {
        let machine = session.machine.clone();
        if let Some(profile) = self.setup.faults {
            self.world.set_faults(profile);
        }
        let armed = self.below(4) != 0;
        if armed {
            self.arm(&machine, [30, 100, 300][self.below(3) as usize]);
        }
        let clients = 1 + self.below(self.setup.clients as u64) as usize;
        let ops = 2 + self.below(24) / clients as u64;
        let ending = self.below(8);
        let shared = session.clone();
        let work = machine.run(async move {
            shared.all(clients, async move |session| client::run(session, ops).await).await;
            end(&shared, ending).await
        });
        self.closed = ended(work, "the pool").unwrap_or(false);
        self.tally.closes += u64::from(self.closed);
        let power = self.below(2) == 0;
        self.stop(power);
    }
}

/// What is done when the clients have gone. Answers whether the pool was closed.
async fn end(session: &Rc<Session>, ending: u64) -> bool {
    if session.broken.get() {
        return false;
    }
    match ending {
        0 => verify::figures(session).await,
        1 => super::full::fill(session).await,
        2 => {
            let began = session.state.borrow_mut().model.tick();
            match session.ask(session.pool.close()).await {
                Ok(()) if session.pool.info().read_only.is_none() => {
                    session.state.borrow_mut().model.flush_done(began);
                    return true;
                }
                Ok(()) => {}
                Err(error) => session.bear("a close", &error),
            }
        }
        _ => {}
    }
    false
}

/// What a run came to; `None` when the machine stopped.
fn ended<T>(outcome: Outcome<T>, what: &str) -> Option<T> {
    match outcome {
        Outcome::Done(value) => Some(value),
        Outcome::Crashed => None,
        Outcome::Deadlock(description) => panic!("{what} hangs: {description}"),
    }
}

/// Opens the pool, or makes it.
async fn open(machine: SimMachine, setup: Rc<Setup>, made: bool) -> Result<Pool<SimMachine>, Error> {
    let mut devices: Vec<_> = (0..setup.devices).map(|index| machine.open(index)).collect();
    if !made {
        let spec = CreatePool { extent_bytes: setup.extent as u32, force: true, ..CreatePool::named("tank") };
        return Pool::create(&machine, spec, devices).await;
    }
    let spare = machine.open(setup.devices);
    let label = identify(&machine, &spare).await?;
    devices.extend(label.map(|_| spare));
    Pool::open(&machine, OpenPool::default(), devices).await
}

/// Compares everything a start found with the model.
async fn compare(session: Rc<Session>) {
    verify::everything(&session).await;
    verify::check(&session).await;
    if session.below(4) == 0 {
        verify::figures(&session).await;
    }
}

/// Adds the spare device.
pub async fn add_device(session: &Session) {
    session.devices.set(session.devices.get() + 1);
    let device = session.machine.open(session.setup.devices);
    // An attempt that a crash has cut short leaves a label.
    let force = match identify(&session.machine, &device).await {
        Ok(label) => label.is_some(),
        Err(Error::NotAPool { .. }) => true,
        Err(error) => return session.bear("a look at the spare device", &error),
    };
    match session.ask(session.pool.add_device(device, force)).await {
        Ok(()) => {}
        Err(error) => session.bear("adding a device", &error),
    }
}
