//! Waiting on one thread: a queue of tasks that are all woken when something changes.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use slab::Slab;

/// Tasks that wait for a change. The rule for users: test the condition, then call [`WaitQueue::changed`] with no
/// `await` between the two, and test again after it.
#[derive(Default)]
pub(crate) struct WaitQueue {
    changes: Cell<u64>,
    /// Each has a place of its own: where thousands wait none has to look at the others.
    waiters: RefCell<Slab<Waker>>,
}

/// Completes at the next change.
pub(crate) struct Changed<'a> {
    queue: &'a WaitQueue,
    seen: u64,
    place: Option<usize>,
}

impl WaitQueue {
    /// Completes at the first [`WaitQueue::notify`] after this call.
    pub(crate) fn changed(&self) -> Changed<'_> {
        Changed { queue: self, seen: self.changes.get(), place: None }
    }

    /// Wakes all who wait.
    pub(crate) fn notify(&self) {
        self.changes.set(self.changes.get().wrapping_add(1));
        if !self.waiters.borrow().is_empty() {
            for (_, waker) in self.waiters.take() {
                waker.wake();
            }
        }
    }
}

impl Changed<'_> {
    fn is_over(&self) -> bool {
        self.queue.changes.get() != self.seen
    }
}

impl Future for Changed<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.is_over() {
            return Poll::Ready(());
        }
        let mut waiters = self.queue.waiters.borrow_mut();
        match self.place {
            Some(place) if waiters[place].will_wake(context.waker()) => {}
            Some(place) => {
                let before = std::mem::replace(&mut waiters[place], context.waker().clone());
                // What goes with it may wait here, too.
                drop(waiters);
                drop(before);
            }
            None => {
                let place = waiters.insert(context.waker().clone());
                drop(waiters);
                self.place = Some(place);
            }
        }
        Poll::Pending
    }
}

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        // Who was woken has no place any more: it may be another's.
        if let Some(place) = self.place.filter(|_| !self.is_over()) {
            let waker = self.queue.waiters.borrow_mut().try_remove(place);
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::task::noop_waker_ref;

    use super::*;

    fn poll(changed: &mut Changed<'_>) -> Poll<()> {
        Pin::new(changed).poll(&mut Context::from_waker(noop_waker_ref()))
    }

    #[test]
    fn who_waits_has_a_place_until_the_change_or_until_it_goes() {
        let queue = WaitQueue::default();
        let mut waiting: Vec<_> = (0..100).map(|_| queue.changed()).collect();
        for _ in 0..2 {
            assert!(waiting.iter_mut().all(|changed| poll(changed).is_pending()));
            assert_eq!(queue.waiters.borrow().len(), 100);
        }
        waiting.truncate(40);
        assert_eq!(queue.waiters.borrow().len(), 40);
        queue.notify();
        assert!(waiting.iter_mut().all(|changed| poll(changed).is_ready()));
        // Those that were woken take nothing from those that wait for the next change.
        let mut next = queue.changed();
        assert!(poll(&mut next).is_pending());
        drop(waiting);
        assert_eq!(queue.waiters.borrow().len(), 1);
        queue.notify();
        assert!(poll(&mut next).is_ready());
    }
}
