//! Timers: who is to be woken when, in order of time and, at one time, of arrival.
//!
//! A map and not a heap, so that a timer that is not needed any more (most of them: deadlines that were met) leaves at
//! once instead of staying until its time.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::Core;

#[derive(Default)]
pub(super) struct Timers {
    waiting: BTreeMap<(Duration, u64), Waker>,
    next: u64,
}

impl Timers {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When the first one is due.
    pub(super) fn first(&self) -> Option<Duration> {
        self.waiting.first_key_value().map(|(&(due, _), _)| due)
    }

    /// Takes one that is due.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<Waker> {
        let first = self.waiting.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

/// Completes at a time of its reactor's clock.
pub struct Sleep {
    core: Rc<Core>,
    due: Duration,
    ticket: Option<u64>,
}

impl Sleep {
    pub(super) fn new(core: Rc<Core>, duration: Duration) -> Self {
        let due = core.now().saturating_add(duration);
        Self { core, due, ticket: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let now = self.core.now();
        if now >= self.due {
            return Poll::Ready(());
        }
        self.core.looked_at_clock.set(now);
        let core = self.core.clone();
        let mut timers = core.timers.borrow_mut();
        let ticket = *self.ticket.get_or_insert_with(|| {
            timers.next += 1;
            timers.next
        });
        timers.waiting.insert((self.due, ticket), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let waker = self.core.timers.borrow_mut().waiting.remove(&(self.due, ticket));
            drop(waker);
        }
    }
}
