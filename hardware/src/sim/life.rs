//! One life of a simulated process: its tasks, timers and operations in flight, from boot to crash.
//!
//! Virtual time stands still while any task is ready and then jumps to the next timer or completion.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

use super::counters::{Happening, Trace};
use super::disk::Disk;
use super::effect::leave_in_flight;
use super::executor::Executor;
use super::fault::Faults;
use super::io::Operation;
use super::memory::Region;
use super::parts::Parts;
use super::random::Random;
use super::survival::{CrashDamage, Survivals};
use crate::BufferPool;

/// What outlives a life. Cloned by a fork.
#[derive(Clone)]
pub(super) struct Core {
    pub(super) random: Random,
    /// Virtual nanoseconds.
    pub(super) now: u64,
    pub(super) disks: Vec<Disk>,
    pub(super) memory: Vec<Region>,
    pub(super) faults: Faults,
    pub(super) trace: Trace,
    pub(super) damage: CrashDamage,
    pub(super) survivals: Survivals,
    /// Lives so far.
    pub(super) lives: u64,
    /// When a disk last failed at something that may have taken with it what it had answered before.
    pub(super) loss_at: Option<u64>,
    /// The life that ended did not live, not for an instant, to hear of such a loss.
    pub(super) unheard: bool,
}

impl Core {
    /// Puts something that concerns no disk into the trace.
    pub(super) fn note(&mut self, what: &str) {
        self.trace.note(self.now, &Happening { what, disk: 0, offset: self.lives, length: 0 });
    }
}

/// What can happen when nothing is ready.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    Timer { slot: usize, number: u64 },
    Completion { slot: usize },
}

#[derive(Default)]
struct Timers {
    /// By time, then by a drawn word, so that what falls due together comes in any order.
    due: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sleeping: Slab<(u64, Waker)>,
    numbers: u64,
}

/// A count that stops the life when it is reached; 0 is never.
#[derive(Default)]
pub(super) struct Countdown {
    left: Cell<u64>,
}

impl Countdown {
    pub(super) fn set(&self, count: u64) {
        self.left.set(count);
    }

    /// Whether this is the one that was counted down to.
    pub(super) fn reached(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left == 1
    }
}

pub(super) struct Life {
    pub(super) core: Rc<RefCell<Core>>,
    pub(super) number: u64,
    /// Nothing has any effect any more.
    dead: Cell<bool>,
    /// Its tasks are dropped and the world is free for another life.
    ended: Cell<bool>,
    /// What a store after death does not change.
    memory_at_death: RefCell<Vec<Region>>,
    executor: Option<Executor>,
    timers: RefCell<Timers>,
    pub(super) operations: RefCell<Slab<Operation>>,
    pub(super) submitted: Cell<u64>,
    pub(super) crash_at_operation: Countdown,
    pub(super) fail_at_operation: Countdown,
    pub(super) crash_at_poll: Countdown,
    pub(super) tear_at_store: Countdown,
    pub(super) idle_max: Cell<Duration>,
    pub(super) buffers: BufferPool,
}

impl Life {
    pub(super) fn new(core: Rc<RefCell<Core>>, buffer_bytes: usize, fresh: bool) -> std::io::Result<Self> {
        let Parts { buffers, wakers } = Parts::take(buffer_bytes, fresh)?;
        let number = core.borrow().lives;
        Ok(Self {
            core,
            number,
            dead: Cell::new(false),
            ended: Cell::new(false),
            memory_at_death: RefCell::default(),
            executor: Some(Executor::new(wakers)),
            timers: RefCell::default(),
            operations: RefCell::default(),
            submitted: Cell::new(0),
            crash_at_operation: Countdown::default(),
            fail_at_operation: Countdown::default(),
            crash_at_poll: Countdown::default(),
            tear_at_store: Countdown::default(),
            idle_max: Cell::new(Duration::from_secs(24 * 3600)),
            buffers,
        })
    }

    pub(super) fn executor(&self) -> &Executor {
        self.executor.as_ref().expect("the executor is taken only when the life is dropped")
    }

    pub(super) fn dead(&self) -> bool {
        self.dead.get()
    }

    /// Whether its tasks are gone too and the world may belong to another life.
    pub(super) fn ended(&self) -> bool {
        self.ended.get()
    }

    /// Stops everything at this instant; what was in flight stays in flight.
    pub(super) fn stop(&self) {
        if !self.dead.replace(true) {
            *self.memory_at_death.borrow_mut() = self.core.borrow().memory.clone();
        }
    }

    /// Stops, drops the tasks, and hands what was in flight to the disks, for the crash to decide.
    pub(super) fn end(&self) {
        self.stop();
        if self.ended() {
            return;
        }
        self.executor().clear();
        self.ended.set(true);
        drop(std::mem::take(&mut *self.timers.borrow_mut()));
        let operations = std::mem::take(&mut *self.operations.borrow_mut());
        let mut core = self.core.borrow_mut();
        core.memory = self.memory_at_death.take();
        core.unheard = core.loss_at == Some(core.now) || core.disks.iter().any(|disk| disk.unheard);
        leave_in_flight(operations.iter().map(|(_, operation)| operation), &mut core);
        drop(core);
        drop(operations);
    }

    pub(super) fn complete_at(&self, time: u64, tie: u64, slot: usize) {
        self.timers.borrow_mut().due.push(Reverse((time, tie, Event::Completion { slot })));
    }

    /// Lets the next event happen, if there is one.
    pub(super) fn next_event(&self) -> Option<Event> {
        let (event, waker) = {
            let mut timers = self.timers.borrow_mut();
            loop {
                let Reverse((time, _, event)) = timers.due.pop()?;
                let waker = match event {
                    Event::Completion { .. } => None,
                    Event::Timer { slot, number } => match timers.sleeping.get(slot) {
                        Some((sleeper, _)) if *sleeper == number => Some(timers.sleeping.remove(slot).1),
                        // Its sleeper was dropped.
                        _ => continue,
                    },
                };
                let mut core = self.core.borrow_mut();
                core.now = core.now.max(time);
                break (event, waker);
            }
        };
        match (event, waker) {
            (Event::Completion { slot }, _) => self.complete(slot),
            (_, Some(waker)) => waker.wake(),
            _ => {}
        }
        Some(event)
    }

    pub(super) fn describe(&self, why: &str) -> String {
        let now = Duration::from_nanos(self.core.borrow().now);
        let flying = self.operations.borrow().len();
        let sleeping = self.timers.borrow().sleeping.len();
        let (free, all) = (self.buffers.free_bytes(), self.buffers.bytes());
        let tasks = self.executor().describe();
        format!(
            "{why} at virtual {now:?}: {flying} operations in flight, {sleeping} timers, {free} of {all} buffer bytes \
             free; waiting:\n  the main task{tasks}"
        )
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Some(executor) = self.executor.take() {
            Parts { buffers: self.buffers.clone(), wakers: executor.into_wakers() }.give();
        }
    }
}

/// Waits for a time.
pub(super) struct Sleep {
    life: Rc<Life>,
    until: u64,
    timer: Option<(usize, u64)>,
}

impl Sleep {
    pub(super) fn new(life: Rc<Life>, duration: Duration) -> Self {
        let now = life.core.borrow().now;
        let until = now.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        Self { life, until, timer: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.life.dead() {
            return Poll::Pending;
        }
        let tie = {
            let mut core = self.life.core.borrow_mut();
            if core.now >= self.until {
                return Poll::Ready(());
            }
            core.random.word()
        };
        let mut timers = self.life.timers.borrow_mut();
        match self.timer {
            Some((slot, _)) => timers.sleeping[slot].1.clone_from(context.waker()),
            None => {
                timers.numbers += 1;
                let number = timers.numbers;
                let slot = timers.sleeping.insert((number, context.waker().clone()));
                timers.due.push(Reverse((self.until, tie, Event::Timer { slot, number })));
                drop(timers);
                self.timer = Some((slot, number));
            }
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let Some((slot, number)) = self.timer else { return };
        let mut timers = self.life.timers.borrow_mut();
        if timers.sleeping.get(slot).is_some_and(|(sleeper, _)| *sleeper == number) {
            timers.sleeping.remove(slot);
        }
    }
}
