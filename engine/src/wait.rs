//! Waiting on one thread: a queue of tasks that are all woken when something changes.

use std::cell::{Cell, RefCell};
use std::task::{Poll, Waker};

/// Tasks that wait for a change. The rule for users: test the condition, then call [`WaitQueue::changed`] with no
/// `await` between the two, and test again after it.
#[derive(Default)]
pub(crate) struct WaitQueue {
    changes: Cell<u64>,
    waiters: RefCell<Vec<Waker>>,
}

impl WaitQueue {
    /// Completes at the first [`WaitQueue::notify`] after this call.
    pub(crate) fn changed(&self) -> impl Future<Output = ()> + '_ {
        let seen = self.changes.get();
        std::future::poll_fn(move |context| {
            if self.changes.get() != seen {
                return Poll::Ready(());
            }
            let mut waiters = self.waiters.borrow_mut();
            if !waiters.iter().any(|waker| waker.will_wake(context.waker())) {
                waiters.push(context.waker().clone());
            }
            Poll::Pending
        })
    }

    /// Wakes all who wait.
    pub(crate) fn notify(&self) {
        self.changes.set(self.changes.get().wrapping_add(1));
        if !self.waiters.borrow().is_empty() {
            for waker in self.waiters.take() {
                waker.wake();
            }
        }
    }
}
