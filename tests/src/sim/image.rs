//! Disks, what is known of them, and the steps of a life on them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use plimsoll_engine::{CreatePool, Error, OpenPool, Pool, identify};
use plimsoll_hardware::IoError;
use plimsoll_hardware::sim::{CrashKind, FaultKind, Outcome, Random, SimMachine, SimWorld};

use super::session::{Session, State};
use super::setup::Setup;
use super::{client, decide, trace, verify};

/// A pool between two lives, or in one.
pub struct Image {
    /// The disks.
    pub world: SimWorld,
    /// Their make.
    pub setup: Rc<Setup>,
    /// What may be on them.
    pub state: Rc<RefCell<State>>,
    /// The pool was made.
    pub made: bool,
    /// The last life closed the pool.
    pub closed: bool,
    /// How often devices may have dropped what they had answered, when the last start was compared.
    losses: Cell<u64>,
    /// A device was gone before it could say which pool's it is, so nobody could disown that pool's crash memory.
    nameless_loss: Cell<bool>,
}

/// Work for one life.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Clients at the same time.
    pub clients: usize,
    /// Things each of them does.
    pub ops: u64,
    /// What is done in the end: 0 compares figures, 1 fills the pool, 2 closes it, others nothing.
    pub ending: u64,
}

/// Pages in which bits flip between two lives, at most.
const ROTTEN_MAX: u64 = 3;

impl Drop for Image {
    fn drop(&mut self) {
        if std::thread::panicking() && trace::on() {
            eprintln!("{}", self.world.trace());
        }
    }
}

impl Image {
    /// Empty disks as `seed` makes them; without faults when `sound`.
    pub fn new(seed: u64, sound: bool) -> Image {
        let mut random = Random::new(seed);
        let (mut setup, world) = Setup::draw(seed, &mut random);
        if sound {
            setup.faults = None;
        }
        world.set_trace(trace::on());
        trace::say(|| format!("{setup:?}"));
        setup.allow_faults(&world);
        let state = Rc::new(RefCell::new(State {
            model: Default::default(),
            pool: Default::default(),
            alarms: Default::default(),
            random,
        }));
        Image {
            world,
            setup: Rc::new(setup),
            state,
            made: false,
            closed: false,
            losses: Cell::new(0),
            nameless_loss: Cell::new(false),
        }
    }

    /// The same pool on `world`, a copy of this one's, going its own way from here.
    pub fn fork(&self, world: SimWorld) -> Image {
        let state = Rc::new(RefCell::new(self.state.borrow().clone()));
        Image {
            world,
            setup: self.setup.clone(),
            state,
            made: self.made,
            closed: self.closed,
            losses: self.losses.clone(),
            nameless_loss: Cell::new(false),
        }
    }

    /// A number below `bound`.
    pub fn below(&self, bound: u64) -> u64 {
        self.state.borrow_mut().random.below(bound)
    }

    /// The machine stops.
    pub fn stop(&self, power: bool) {
        let power = power || self.nameless_loss.take();
        self.world.crash(if power { CrashKind::Power } else { CrashKind::Process });
        if self.setup.faults.is_some_and(|faults| faults.bit_flip > 0) {
            self.world.rot(self.below(ROTTEN_MAX + 1));
        }
        self.stopped(power);
    }

    /// The machine has stopped: for a crash that was chosen.
    pub fn stopped(&self, power: bool) {
        let dropped = self.losses_struck() != self.losses.get();
        self.state.borrow_mut().model.stop(power || dropped);
    }

    /// How often devices may have dropped what they had answered: with a flush or a durable write that failed, or when they went away.
    fn losses_struck(&self) -> u64 {
        let kinds = [FaultKind::FlushError, FaultKind::WriteError, FaultKind::Vanish];
        kinds.into_iter().map(|kind| self.world.faults_struck(kind)).sum()
    }

    /// Opens the pool and compares everything; `None` when the machine stopped, or faults got in the way.
    pub fn start_once(&self, machine: &SimMachine, faulty: bool) -> Option<Rc<Session>> {
        let vanished = self.world.faults_struck(FaultKind::Vanish);
        let (setup, state) = (self.setup.clone(), self.state.clone());
        let opened = ended(machine.run(open(machine.clone(), setup.clone(), self.made)), "a start")?;
        if faulty {
            self.world.heal();
        }
        let pool = match opened {
            Ok(pool) => pool,
            Err(error) if faulty => {
                self.nameless_loss.set(matches!(error, Error::Device(IoError::Gone { .. })));
                trace::say(|| format!("the start failed: {error}"));
                return None;
            }
            Err(error) => panic!("the pool cannot be opened: {error} [{}]", error.code()),
        };
        let info = pool.info();
        trace::say(|| format!("opened: {:?}, read-only: {:?}", info.recovery, info.read_only));
        let is_whole = info.recovery.ends_lost.is_empty() && info.recovery.warnings.is_empty();
        let impaired = info.read_only.is_some() || info.counters.pages_lost > 0 || !is_whole;
        if faulty && (impaired || self.world.faults_struck(FaultKind::Vanish) > vanished) {
            // It serves what it can. Whatever it writes in this state must not make things worse.
            let _ = ended(machine.run(async { pool.check().await.is_ok() }), "a check of an impaired pool")?;
            return None;
        }
        assert!(info.read_only.is_none(), "the pool is read-only after a start: {info:?}");
        assert!(!self.closed || info.recovery.clean, "a pool that was closed was not clean: {:?}", info.recovery);
        let machine = machine.clone();
        let session = Rc::new(Session {
            machine,
            pool,
            state,
            setup,
            broken: Cell::new(false),
            calm: Cell::new(false),
            room: Default::default(),
            grower: Default::default(),
            decisions: Cell::new(0),
            tally: Default::default(),
        });
        ended(session.machine.run(compare(session.clone())), "the comparison after a start")?;
        self.losses.set(self.losses_struck());
        super::alarms::listen(&session);
        Some(session)
    }

    /// Lets clients work; `None` when the machine stopped.
    pub fn work(&mut self, session: &Rc<Session>, work: Work) -> Option<()> {
        if session.below(3) == 0 {
            super::room::run_out(session);
        }
        let shared = session.clone();
        let run = session.machine.run(async move {
            shared.all(work.clients, async move |session| client::run(session, work.ops).await).await;
            end(&shared, work.ending).await
        });
        let closed = ended(run, "the pool");
        self.closed = closed.unwrap_or(false);
        closed.map(|_| ())
    }
}

/// What is done when the clients have gone. Answers whether the pool was closed.
async fn end(session: &Rc<Session>, ending: u64) -> bool {
    decide::stop_growing(session).await;
    if session.broken.get() {
        return false;
    }
    super::room::settle(session).await;
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
    // Devices come and go; what a label of the pool is on belongs to it, or is passed over.
    devices.clear();
    for index in 0..=setup.devices {
        let device = machine.open(index);
        match identify(&machine, &device).await {
            // Adding it, or letting it go, was cut short; a pool that needs it says so.
            Err(Error::NotAPool { .. }) | Ok(None) => {}
            Ok(Some(_)) => devices.push(device),
            Err(error) => return Err(error),
        }
    }
    let options = OpenPool { cache_bytes: setup.small_cache.then_some(0), ..OpenPool::default() };
    Pool::open(&machine, options, devices).await
}

/// Compares everything a start found with the model.
async fn compare(session: Rc<Session>) {
    verify::everything(&session).await;
    verify::check(&session).await;
    if session.below(4) == 0 {
        verify::figures(&session).await;
    }
}
