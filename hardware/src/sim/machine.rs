//! One life of a process on a simulated machine, and running a future in it.

use std::panic::Location;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::device::SimDevice;
use super::executor::MAIN;
use super::life::{Event, Life, Sleep};
use super::memory::SimCrashMemory;
use crate::{BufferPool, Machine};

/// Polls between two events after which the next event happens although tasks are ready.
const POLLS_WITHOUT_EVENT_MAX: u32 = 100_000;

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// The future ended. Spawned tasks go on in the next run.
    Done(T),
    /// The machine crashed; call [`super::SimWorld::crash`] and boot again.
    Crashed,
    /// Nothing can happen any more, or nothing but timers has for too long; says who waits.
    Deadlock(String),
}

impl<T> Outcome<T> {
    /// The result of a run that must end.
    ///
    /// # Panics
    /// When it crashed or hangs.
    #[track_caller]
    pub fn done(self) -> T {
        match self {
            Outcome::Done(value) => value,
            Outcome::Crashed => panic!("the machine crashed in a run that should have ended"),
            Outcome::Deadlock(description) => panic!("{description}"),
        }
    }

    /// The result of a run that may crash but not hang; `None` when it crashed.
    ///
    /// # Panics
    /// When it hangs.
    #[track_caller]
    pub fn unless_crashed(self) -> Option<T> {
        match self {
            Outcome::Done(value) => Some(value),
            Outcome::Crashed => None,
            Outcome::Deadlock(description) => panic!("{description}"),
        }
    }
}

/// One life of a process. Clones are the same life; when it has ended, nothing done with them has any effect and
/// nothing awaited through them ever completes.
#[derive(Clone)]
pub struct SimMachine {
    life: Rc<Life>,
}

impl SimMachine {
    pub(super) fn new(life: Rc<Life>) -> Self {
        Self { life }
    }

    /// The disk at `index`.
    pub fn open(&self, index: usize) -> SimDevice {
        SimDevice::new(self.life.clone(), index)
    }

    /// Extends the disk at `index` to `size` bytes, as [`super::SimWorld::extend`] does.
    pub fn extend(&self, index: usize, size: u64) {
        if !self.life.dead() {
            self.life.core.borrow_mut().disks[index].extend(size);
        }
    }

    /// Lets the disk at `index` have so much room, as [`super::SimWorld::set_room`] does.
    pub fn set_room(&self, index: usize, bytes: Option<u64>) {
        if !self.life.dead() {
            self.life.core.borrow_mut().disks[index].set_room(bytes);
        }
    }

    /// Polls `future` and the spawned tasks until it ends or the machine crashes or hangs.
    pub fn run<F: Future>(&self, future: F) -> Outcome<F::Output> {
        let life = &*self.life;
        let executor = life.executor();
        let mut future = pin!(future);
        let waker = executor.waker(MAIN);
        waker.wake_by_ref();
        let (mut polls, mut idle_since) = (0, life.core.borrow().now);
        let outcome = loop {
            if life.dead() {
                break Outcome::Crashed;
            }
            // Tasks that wake each other for ever must not hold up what they wait for.
            let spinning = polls >= POLLS_WITHOUT_EVENT_MAX;
            let picked = if spinning { None } else { executor.pick(&mut life.core.borrow_mut().random) };
            let Some(slot) = picked else {
                polls = 0;
                match life.next_event() {
                    Some(Event::Completion { .. }) => idle_since = life.core.borrow().now,
                    Some(Event::Timer { .. }) => {
                        let idle = Duration::from_nanos(life.core.borrow().now - idle_since);
                        if idle > life.idle_max.get() {
                            break Outcome::Deadlock(life.describe("nothing but timers"));
                        }
                    }
                    None if spinning => break Outcome::Deadlock(life.describe("tasks wake each other for ever")),
                    None => break Outcome::Deadlock(life.describe("deadlock")),
                }
                continue;
            };
            polls += 1;
            if life.crash_at_poll.reached() {
                break Outcome::Crashed;
            }
            if slot != MAIN {
                executor.poll(slot);
            } else if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                break if life.dead() { Outcome::Crashed } else { Outcome::Done(value) };
            }
        };
        if matches!(outcome, Outcome::Crashed) {
            life.end();
        }
        outcome
    }

    /// The `count`-th device operation from now never completes, and the machine crashes with it. 0 is never.
    pub fn crash_after_ops(&self, count: u64) {
        self.life.crash_at_operation.set(count);
    }

    /// As [`SimMachine::crash_after_ops`] with a count from 1 to `max`, drawn from the seed.
    pub fn crash_within_ops(&self, max: u64) {
        let count = 1 + self.life.core.borrow_mut().random.below(max);
        self.crash_after_ops(count);
    }

    /// The machine crashes before the `count`-th poll of a task from now: finer than operations. 0 is never.
    pub fn crash_after_polls(&self, count: u64) {
        self.life.crash_at_poll.set(count);
    }

    /// The machine crashes in the `count`-th store to crash memory from now, which leaves any part of it. 0 is never.
    pub fn tear_crash_memory_at(&self, count: u64) {
        self.life.tear_at_store.set(count);
    }

    /// The `count`-th device operation from now fails. 0 is never.
    pub fn fail_op(&self, count: u64) {
        self.life.fail_at_operation.set(count);
    }

    /// Device operations submitted in this life.
    pub fn ops(&self) -> u64 {
        self.life.submitted.get()
    }

    /// Whether this life has ended.
    pub fn crashed(&self) -> bool {
        self.life.dead()
    }

    /// Virtual time without an I/O completion after which a run counts as hung; 24 hours at first.
    pub fn set_idle_max(&self, duration: Duration) {
        self.life.idle_max.set(duration);
    }
}

impl Machine for SimMachine {
    type Device = SimDevice;
    type CrashMemory = SimCrashMemory;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.life.core.borrow().now)
    }

    fn wall_clock_ms(&self) -> u64 {
        // 2026-01-01, and on from there.
        1_767_225_600_000 + self.life.core.borrow().now / 1_000_000
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        Sleep::new(self.life.clone(), duration)
    }

    #[track_caller]
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if !self.life.dead() {
            self.life.executor().spawn(task, Location::caller());
        }
    }

    fn random(&self) -> u64 {
        self.life.core.borrow_mut().random.word()
    }

    fn buffers(&self) -> &BufferPool {
        &self.life.buffers
    }

    fn crash_memory(&self, name: &str, bytes: usize) -> Result<SimCrashMemory, String> {
        SimCrashMemory::open(&self.life, name, bytes)
    }

    fn has_crash_memory(&self, name: &str) -> bool {
        SimCrashMemory::exists(&self.life, name)
    }

    fn remove_crash_memory(&self, name: &str) {
        SimCrashMemory::remove(&self.life, name);
    }

    fn rename_crash_memory(&self, from: &str, to: &str) -> Result<(), String> {
        SimCrashMemory::rename(&self.life, from, to)
    }
}
