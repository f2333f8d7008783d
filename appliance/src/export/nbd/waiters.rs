//! Waiting for a condition on one thread.

use std::cell::RefCell;
use std::task::{Poll, Waker};

/// Tasks that wait until something they can see for themselves is true. Whoever may have made it true wakes them all.
#[derive(Default)]
pub(super) struct Waiters {
    wakers: RefCell<Vec<Waker>>,
}

impl Waiters {
    /// Completes when `condition` holds; it is looked at now and after each [`Waiters::wake`].
    pub(super) async fn until(&self, mut condition: impl FnMut() -> bool) {
        std::future::poll_fn(|context| {
            if condition() {
                return Poll::Ready(());
            }
            let mut wakers = self.wakers.borrow_mut();
            if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Makes every waiting task look again.
    pub(super) fn wake(&self) {
        if self.wakers.borrow().is_empty() {
            return;
        }
        // Taken out first: a waker may run code that waits here again.
        let mut woken = std::mem::take(&mut *self.wakers.borrow_mut());
        woken.drain(..).for_each(Waker::wake);
        let mut wakers = self.wakers.borrow_mut();
        if wakers.is_empty() {
            *wakers = woken; // keeps its memory
        }
    }
}

/// Runs `future` unless `condition`, looked at whenever `waiters` are woken, holds first: then drops it and answers
/// `None`.
pub(super) async fn unless<T>(
    waiters: &Waiters,
    mut condition: impl FnMut() -> bool,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut stop = std::pin::pin!(waiters.until(&mut condition));
    std::future::poll_fn(|context| {
        if stop.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(context).map(Some)
    })
    .await
}
