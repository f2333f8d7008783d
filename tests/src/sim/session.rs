//! One life of the pool with its clients, and what they share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Poll, Waker};

use plimsoll_engine::{AlarmState, Error, Pool, PoolPolicy, Vdisk};
use plimsoll_hardware::sim::{Random, SimMachine};
use plimsoll_hardware::{IoError, Machine};

use super::decide::Decided;
use super::model::Model;
use super::room::{self, Room};
use super::setup::Setup;
use super::tally::Tally;

/// What outlives a life: the model and the tester's own chance.
#[derive(Clone)]
pub struct State {
    /// What may be there.
    pub model: Model,
    /// What was decided for the pool.
    pub pool: Decided<PoolPolicy>,
    /// What was told of space in all lives.
    pub alarms: AlarmState,
    /// Chance of its own, so that the engine's draws do not change the workload.
    pub random: Random,
}

/// A life with an open pool.
pub struct Session {
    /// The machine.
    pub machine: SimMachine,
    /// The pool.
    pub pool: Pool<SimMachine>,
    /// The model.
    pub state: Rc<RefCell<State>>,
    /// The world's make.
    pub setup: Rc<Setup>,
    /// Something failed that only a new start can mend; nothing more is demanded of this life.
    pub broken: Cell<bool>,
    /// Faults have ended, of this life and of its start: it works.
    pub calm: Cell<bool>,
    /// What there is below the devices.
    pub room: Room,
    /// Growth by itself.
    pub grower: Grower,
    /// Decisions that were begun or answered, of whatever a tenant's quota depends on.
    pub decisions: Cell<u64>,
    /// What was done.
    pub tally: RefCell<Tally>,
}

/// How far growth by itself is.
#[derive(Default)]
pub struct Grower {
    /// It waits until as much is in use as was decided, or grows.
    pub waits: Cell<bool>,
    /// It grows.
    pub grows: Cell<bool>,
    /// It is not to grow any more.
    pub over: Cell<bool>,
}

impl Session {
    /// A handle, or `None` when the vdisk is not there.
    pub fn vdisk(&self, name: &str) -> Option<Vdisk<SimMachine>> {
        self.pool.vdisk(name).ok()
    }

    /// What a tenant's quota depends on may be another now.
    pub fn decides(&self) {
        self.decisions.set(self.decisions.get() + 1);
    }

    /// It was done.
    pub fn did(&self, what: &'static str) {
        self.tally.borrow_mut().did(what, 1);
    }

    /// A number below `bound`.
    pub fn below(&self, bound: u64) -> u64 {
        self.state.borrow_mut().random.below(bound)
    }

    /// Notes an error that only faults can bring about, or want of room below the devices.
    ///
    /// # Panics
    /// When there are none.
    #[track_caller]
    pub fn bear(&self, what: &str, error: &Error) {
        if room::excuses(self, error) {
            return;
        }
        if self.calm.get() {
            // What was lost before is lost; all else goes on.
            assert!(
                matches!(error, Error::Damaged { .. }),
                "{what} failed after the faults: {error} [{}]",
                error.code()
            );
            return;
        }
        let faults = self.setup.faults.is_some();
        assert!(faults, "{what} failed on sound devices: {error} [{}]", error.code());
        match error {
            Error::ReadOnly { .. } | Error::Device(IoError::Gone { .. }) => self.give_up(),
            Error::Device(_) if self.pool.info().read_only.is_some() => self.give_up(),
            Error::Device(_) | Error::Damaged { .. } => {}
            other => panic!("{what} failed in a way that no fault explains: {other} [{}]", other.code()),
        }
    }

    /// Only a new start helps.
    pub fn give_up(&self) {
        self.broken.set(true);
    }

    /// Waits for an answer of the engine. One that a process computes after its death reaches nobody.
    pub async fn ask<T>(&self, question: impl Future<Output = T>) -> T {
        let answer = question.await;
        if self.machine.crashed() {
            std::future::pending::<()>().await;
        }
        answer
    }

    /// Runs `count` tasks of `work` and waits for their end.
    pub async fn all(self: &Rc<Self>, count: usize, work: impl AsyncFn(Rc<Session>) + Clone + 'static) {
        let latch = Rc::new(Latch { left: Cell::new(count), waker: RefCell::default() });
        for _ in 0..count {
            let (session, latch, work) = (self.clone(), latch.clone(), work.clone());
            self.machine.spawn(async move {
                work(session).await;
                latch.left.set(latch.left.get() - 1);
                if let Some(waker) = latch.waker.take() {
                    waker.wake();
                }
            });
        }
        std::future::poll_fn(|context| {
            if latch.left.get() == 0 {
                return Poll::Ready(());
            }
            *latch.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

struct Latch {
    left: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}
