//! The tasks of a reactor: boxed futures by number.
//!
//! Invariant: a task that is being polled has left its place empty, so whatever it does (spawn, wake itself, end) finds
//! the table unborrowed.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

use slab::Slab;

use super::waker::{MAIN_TASK, Ready, TaskNumber};

type Task = Pin<Box<dyn Future<Output = ()>>>;

pub(super) struct Tasks {
    places: RefCell<Slab<Option<Task>>>,
}

impl Tasks {
    pub(super) fn new() -> Self {
        let mut places = Slab::new();
        let main = places.insert(None);
        debug_assert!(main == MAIN_TASK as usize, "the first place of a slab is 0");
        Self { places: RefCell::new(places) }
    }

    pub(super) fn add(&self, task: impl Future<Output = ()> + 'static) -> TaskNumber {
        let number = self.places.borrow_mut().insert(Some(Box::pin(task)));
        TaskNumber::try_from(number).expect("fewer than 2^32 tasks")
    }

    /// Polls a task once; one that has ended, or is not there any more, is passed over.
    #[inline]
    pub(super) fn poll(&self, number: TaskNumber, ready: &Ready) {
        let task = self.places.borrow_mut().get_mut(number as usize).and_then(Option::take);
        let Some(mut task) = task else { return };
        let waker = ready.waker(number);
        match task.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => {
                if let Some(place) = self.places.borrow_mut().get_mut(number as usize) {
                    *place = Some(task);
                }
            }
            Poll::Ready(()) => {
                // Dropped first: its parts may wake this very number, which must not be another task's yet.
                drop(task);
                self.places.borrow_mut().remove(number as usize);
            }
        }
    }

    /// Drops every task.
    pub(super) fn clear(&self) {
        loop {
            let tasks: Vec<Task> = self.places.borrow_mut().iter_mut().filter_map(|(_, place)| place.take()).collect();
            if tasks.is_empty() {
                return;
            }
        }
    }
}
