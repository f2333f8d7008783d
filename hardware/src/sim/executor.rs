//! Tasks and their wakers: which task is polled next is drawn from the seed.
//!
//! A waker belongs to a slot, not to a task, so wakers are made once and serve every life on this thread. A waker of an
//! earlier task of the slot may wake the present one for nothing, which every future must bear anyway.

use std::any::type_name;
use std::cell::RefCell;
use std::panic::Location;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use slab::Slab;

use super::random::Random;

/// The slot of the future that `run` was called with; spawned tasks have the slots behind it.
pub(super) const MAIN: usize = 0;

type Ready = Arc<Mutex<Vec<usize>>>;

struct SlotWaker {
    slot: usize,
    queued: AtomicBool,
    ready: Ready,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).push(self.slot);
        }
    }
}

/// The wakers of all slots and the slots that were woken.
#[derive(Default)]
pub(super) struct Wakers {
    ready: Ready,
    slots: Vec<(Arc<SlotWaker>, Waker)>,
}

impl Wakers {
    fn slot(&mut self, slot: usize) -> &(Arc<SlotWaker>, Waker) {
        while self.slots.len() <= slot {
            let (slot, ready) = (self.slots.len(), self.ready.clone());
            let waker = Arc::new(SlotWaker { slot, queued: AtomicBool::new(false), ready });
            self.slots.push((waker.clone(), Waker::from(waker)));
        }
        &self.slots[slot]
    }

    /// Forgets who was woken.
    fn reset(&mut self) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for (slot, _) in &self.slots {
            slot.queued.store(false, Ordering::Relaxed);
        }
    }
}

struct Task {
    /// Absent while it is being polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    number: u64,
    name: &'static str,
    place: &'static Location<'static>,
}

#[derive(Default)]
struct Tasks {
    slots: Slab<Task>,
    spawned: u64,
}

/// The tasks of one life.
pub(super) struct Executor {
    tasks: RefCell<Tasks>,
    wakers: RefCell<Wakers>,
}

impl Executor {
    pub(super) fn new(mut wakers: Wakers) -> Self {
        wakers.reset();
        Self { tasks: RefCell::default(), wakers: RefCell::new(wakers) }
    }

    pub(super) fn into_wakers(self) -> Wakers {
        self.wakers.into_inner()
    }

    pub(super) fn spawn<F: Future<Output = ()> + 'static>(&self, future: F, place: &'static Location<'static>) {
        let mut tasks = self.tasks.borrow_mut();
        tasks.spawned += 1;
        let number = tasks.spawned;
        let task = Task { future: Some(Box::pin(future)), number, name: type_name::<F>(), place };
        let slot = tasks.slots.insert(task) + 1;
        self.waker(slot).wake();
    }

    pub(super) fn waker(&self, slot: usize) -> Waker {
        self.wakers.borrow_mut().slot(slot).1.clone()
    }

    /// A woken slot, any of them.
    pub(super) fn pick(&self, random: &mut Random) -> Option<usize> {
        let mut wakers = self.wakers.borrow_mut();
        let slot = {
            let mut ready = wakers.ready.lock().unwrap_or_else(PoisonError::into_inner);
            match ready.len() {
                0 => return None,
                1 => ready.swap_remove(0),
                several => ready.swap_remove(random.below(several as u64) as usize),
            }
        };
        wakers.slot(slot).0.queued.store(false, Ordering::Relaxed);
        Some(slot)
    }

    /// Polls the spawned task in `slot`, when there still is one.
    pub(super) fn poll(&self, slot: usize) {
        let taken = self.tasks.borrow_mut().slots.get_mut(slot - 1).and_then(|task| task.future.take());
        let Some(mut future) = taken else { return };
        let waker = self.waker(slot);
        let ended = future.as_mut().poll(&mut Context::from_waker(&waker));
        let mut tasks = self.tasks.borrow_mut();
        // The slots are emptied when the machine dies, which a task cannot cause while it is polled.
        if ended == Poll::Ready(()) {
            tasks.slots.remove(slot - 1);
            drop(tasks);
            drop(future);
        } else if let Some(task) = tasks.slots.get_mut(slot - 1) {
            task.future = Some(future);
        }
    }

    /// Drops every task.
    pub(super) fn clear(&self) {
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(tasks);
    }

    /// The tasks that have not ended, for a report.
    pub(super) fn describe(&self) -> String {
        let tasks = self.tasks.borrow();
        let mut lines: Vec<_> = tasks.slots.iter().map(|(_, task)| task).collect();
        lines.sort_by_key(|task| task.number);
        let lines = lines.iter().map(|task| format!("\n  task {}: {} ({})", task.number, task.name, task.place));
        lines.collect()
    }
}
