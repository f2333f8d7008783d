//! Wakers without memory: the data word of a waker *is* the number of the reactor and of the task.
//!
//! Method: cloning and dropping such a waker costs nothing, and one that outlives its task does no harm, since at worst
//! it wakes a later task of the same number for nothing, which the contract of `Future` allows. On the reactor's own
//! thread a wake-up is a push to its ready queue; from elsewhere the number goes into a queue under a mutex, and an
//! eventfd, which the ring always reads, rings the bell.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{RawWaker, RawWakerVTable, Waker};

use rustix::event::EventfdFlags;

/// Number of a task of one reactor.
pub(super) type TaskNumber = u32;

/// The task that is `block_on`'s own future.
pub(super) const MAIN_TASK: TaskNumber = 0;

// A waker's data word holds the reactor's number in its upper half and the task's in its lower half.
const _: () = assert!(size_of::<usize>() == 8);

/// Tasks to be polled, each at most once.
pub(super) struct Ready {
    reactor: u32,
    queue: RefCell<Queue>,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<TaskNumber>,
    queued: Vec<bool>,
}

impl Ready {
    #[inline]
    pub(super) fn push(&self, task: TaskNumber) {
        let mut queue = self.queue.borrow_mut();
        match queue.queued.get_mut(task as usize) {
            Some(true) => return,
            Some(queued) => *queued = true,
            None => {
                queue.queued.resize(task as usize + 1, false);
                queue.queued[task as usize] = true;
            }
        }
        queue.tasks.push_back(task);
    }

    #[inline]
    pub(super) fn pop(&self) -> Option<TaskNumber> {
        let mut queue = self.queue.borrow_mut();
        let task = queue.tasks.pop_front()?;
        queue.queued[task as usize] = false;
        Some(task)
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.queue.borrow().tasks.is_empty()
    }

    /// The waker of a task.
    #[inline]
    pub(super) fn waker(&self, task: TaskNumber) -> Waker {
        let word = (self.reactor as usize) << 32 | task as usize;
        let raw = RawWaker::new(std::ptr::without_provenance(word), &VTABLE);
        // SAFETY: the functions only compute with the word, so they are thread-safe, and need no memory to be alive.
        unsafe { Waker::from_raw(raw) }
    }
}

/// The part of a reactor that other threads see.
pub(super) struct Remote {
    woken: Mutex<Vec<TaskNumber>>,
    bell: OwnedFd,
}

impl Remote {
    pub(super) fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    pub(super) fn take_woken(&self) -> Vec<TaskNumber> {
        std::mem::take(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wake(&self, task: TaskNumber) {
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        woken.push(task);
        let first = woken.len() == 1;
        drop(woken);
        if first {
            // The counter cannot overflow: it is read before the queue is emptied, and only the first of a queue rings.
            if let Err(error) = rustix::io::write(&self.bell, &1u64.to_ne_bytes()) {
                tracing::error!(%error, "a reactor could not be woken");
            }
        }
    }
}

/// The reactors of this process by number; a free place is a dead one.
static REACTORS: Mutex<Vec<Weak<Remote>>> = Mutex::new(Vec::new());

thread_local! {
    /// The ready queue of the reactor that runs on this thread now.
    static RUNNING: RefCell<Option<Rc<Ready>>> = const { RefCell::new(None) };
}

/// The two ends of waking a new reactor.
pub(super) fn enlist() -> std::io::Result<(Rc<Ready>, Arc<Remote>)> {
    let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
    let remote = Arc::new(Remote { woken: Mutex::default(), bell });
    let mut reactors = REACTORS.lock().unwrap_or_else(PoisonError::into_inner);
    let place = reactors.iter().position(|reactor| reactor.strong_count() == 0).unwrap_or(reactors.len());
    if place == reactors.len() {
        reactors.push(Weak::new());
    }
    reactors[place] = Arc::downgrade(&remote);
    Ok((Rc::new(Ready { reactor: place as u32, queue: RefCell::default() }), remote))
}

/// Marks a reactor as the one that runs on this thread, until dropped.
pub(super) struct Running {
    before: Option<Rc<Ready>>,
}

impl Running {
    pub(super) fn enter(ready: &Rc<Ready>) -> Self {
        Self { before: RUNNING.with(|running| running.replace(Some(ready.clone()))) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.with(|running| running.replace(self.before.take()));
    }
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake, forget);

fn clone(word: *const ()) -> RawWaker {
    RawWaker::new(word, &VTABLE)
}

fn wake(word: *const ()) {
    let (reactor, task) = ((word.addr() >> 32) as u32, word.addr() as u32);
    // The thread-local is gone while its thread ends; then the bell is the way.
    let local = RUNNING.try_with(|running| match &*running.borrow() {
        Some(ready) if ready.reactor == reactor => {
            ready.push(task);
            true
        }
        _ => false,
    });
    if local != Ok(true) {
        wake_remote(reactor, task);
    }
}

#[cold]
fn wake_remote(reactor: u32, task: TaskNumber) {
    let reactors = REACTORS.lock().unwrap_or_else(PoisonError::into_inner);
    let remote = reactors.get(reactor as usize).and_then(Weak::upgrade);
    drop(reactors);
    if let Some(remote) = remote {
        remote.wake(task);
    }
}

fn forget(_: *const ()) {}
