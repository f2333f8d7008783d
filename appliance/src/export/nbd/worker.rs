//! Tasks that carry out requests.
//!
//! A connection has as many workers as it ever had requests at once, at most [`NbdLimits::workers`](super::NbdLimits);
//! they stay until it closes, so that a request costs no task and no allocation. The one that went
//! idle last is woken first. Writes that wait for space have workers beside these, which go when they do not wait any more.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::rc::Rc;
use std::task::{Poll, Waker};

use plimsoll_hardware::{Buffer, Machine};

use super::command::{Command, Span};
use super::connection::{Connection, Pieces};
use super::execute;
use super::wire::Cookie;

/// Something to do for a client.
pub(super) enum Job {
    /// Anything but a WRITE.
    Command {
        cookie: Cookie,
        command: Command,
        /// What was reserved for it.
        bytes: usize,
    },
    /// A WRITE, or a piece of one.
    Write { cookie: Cookie, span: Span, buffer: Buffer, fua: bool, bytes: usize, pieces: Option<Rc<Pieces>> },
}

pub(super) struct Jobs<M: Machine> {
    queue: RefCell<VecDeque<Job>>,
    /// Workers without work, by number, and how to wake them.
    idle: RefCell<Vec<(u64, Waker)>>,
    workers: Cell<u32>,
    /// Never given to another one, for workers leave in any order.
    next_number: Cell<u64>,
    closed: Cell<bool>,
    machine: PhantomData<M>,
}

impl<M: Machine> Jobs<M> {
    pub(super) fn new() -> Self {
        Self {
            queue: RefCell::default(),
            idle: RefCell::default(),
            workers: Cell::default(),
            next_number: Cell::default(),
            closed: Cell::default(),
            machine: PhantomData,
        }
    }

    /// Tasks that exist.
    pub(super) fn workers(&self) -> u32 {
        self.workers.get()
    }

    /// Gives `job` to a worker, a new one if all are busy and there may be more.
    pub(super) fn submit(&self, connection: &Rc<Connection<M>>, job: Job) {
        self.queue.borrow_mut().push_back(job);
        let idle = self.idle.borrow_mut().pop();
        match idle {
            Some((_, waker)) => waker.wake(),
            None if self.workers.get() < workers_max(connection) => {
                let number = self.next_number.get();
                self.next_number.set(number + 1);
                self.workers.set(self.workers.get() + 1);
                connection.handle.spawn(work(connection.clone(), number));
            }
            None => {}
        }
    }

    /// Lets the workers go.
    pub(super) fn close(&self) {
        self.closed.set(true);
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        idle.into_iter().for_each(|(_, waker)| waker.wake());
    }

    async fn next(&self, number: u64) -> Option<Job> {
        std::future::poll_fn(|context| {
            let job = self.queue.borrow_mut().pop_front();
            let mut idle = self.idle.borrow_mut();
            let place = idle.iter().position(|(other, _)| *other == number);
            if job.is_some() || self.closed.get() {
                // Woken by something else than a job while listed as idle.
                place.map(|place| idle.remove(place));
                return Poll::Ready(job);
            }
            if place.is_none() {
                idle.push((number, context.waker().clone()));
            }
            Poll::Pending
        })
        .await
    }
}

fn workers_max<M: Machine>(connection: &Connection<M>) -> u32 {
    let behind = connection.held.waiting_behind().0.min(connection.limits.workers());
    connection.limits.workers().saturating_add(connection.held.held()).saturating_add(behind)
}

async fn work<M: Machine>(connection: Rc<Connection<M>>, number: u64) {
    while let Some(job) = connection.jobs.next(number).await {
        match job {
            Job::Command { cookie, command, bytes } => execute::command(&connection, cookie, command, bytes).await,
            Job::Write { cookie, span, buffer, fua, bytes, pieces } => {
                execute::write(&connection, cookie, span, buffer, fua, bytes, pieces).await;
            }
        }
        if connection.jobs.workers.get() > workers_max(&connection) {
            break;
        }
    }
    connection.jobs.workers.set(connection.jobs.workers.get() - 1);
    connection.session.changed.wake();
}
