//! A helper thread for the few system calls that have no form on the ring, such as the ioctl that discards.

use std::cell::OnceCell;
use std::io;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

type Work = Box<dyn FnOnce() + Send>;

/// The thread, started when first needed; it ends with the reactor.
#[derive(Default)]
pub(super) struct Helper {
    work: OnceCell<Sender<Work>>,
}

enum Outcome<T> {
    Waiting(Option<Waker>),
    Done(T),
    Lost,
}

/// Reports that the work is lost if it never delivered: it panicked, or the thread ended.
struct Delivery<T>(Arc<Mutex<Outcome<T>>>);

impl<T> Delivery<T> {
    fn put(&self, new: Outcome<T>) {
        let mut outcome = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Outcome::Waiting(waker) = &mut *outcome {
            let waker = waker.take();
            *outcome = new;
            drop(outcome);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl<T> Drop for Delivery<T> {
    fn drop(&mut self) {
        self.put(Outcome::Lost);
    }
}

impl Helper {
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let outcome = Arc::new(Mutex::new(Outcome::Waiting(None)));
        let delivery = Delivery(outcome.clone());
        let thread = self.thread()?;
        let work: Work = Box::new(move || delivery.put(Outcome::Done(work())));
        // A thread that is gone drops the work, and with it the delivery, which is then lost.
        let _ = thread.send(work);
        std::future::poll_fn(|context| {
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            match std::mem::replace(&mut *outcome, Outcome::Lost) {
                Outcome::Waiting(_) => {
                    *outcome = Outcome::Waiting(Some(context.waker().clone()));
                    Poll::Pending
                }
                Outcome::Done(result) => Poll::Ready(Ok(result)),
                Outcome::Lost => Poll::Ready(Err(io::Error::other("the helper thread did not finish its work"))),
            }
        })
        .await
    }

    fn thread(&self) -> io::Result<&Sender<Work>> {
        if let Some(sender) = self.work.get() {
            return Ok(sender);
        }
        let (sender, receiver) = mpsc::channel::<Work>();
        std::thread::Builder::new()
            .name("plimsoll-helper".into())
            .spawn(move || receiver.into_iter().for_each(|work| work()))?;
        Ok(self.work.get_or_init(|| sender))
    }
}
