//! Messages to a reactor from any thread: the one way in.
//!
//! Unbounded: whoever sends bounds what it sends, by waiting for answers.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use super::Handle;

struct Shared<T> {
    letters: VecDeque<T>,
    receiver: Option<Waker>,
    senders: usize,
    closed: bool,
}

type Post<T> = Arc<Mutex<Shared<T>>>;

/// A mailbox of this reactor and a first sender for it.
pub fn mailbox<T: Send>(_reactor: &Handle) -> (MailboxSender<T>, Mailbox<T>) {
    let shared = Shared { letters: VecDeque::new(), receiver: None, senders: 1, closed: false };
    let post = Arc::new(Mutex::new(shared));
    (MailboxSender { post: post.clone() }, Mailbox { post, _stays_on_its_thread: PhantomData })
}

/// Where a reactor receives. Dropping it closes it: later sends are refused, unread messages are dropped.
pub struct Mailbox<T> {
    post: Post<T>,
    _stays_on_its_thread: PhantomData<Rc<()>>,
}

/// Sends to a [`Mailbox`] from any thread.
pub struct MailboxSender<T> {
    post: Post<T>,
}

fn lock<T>(post: &Post<T>) -> MutexGuard<'_, Shared<T>> {
    // No code of others runs under the lock, so a poisoned one is whole.
    post.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Mailbox<T> {
    /// The next message in order of arrival, or `None` when all were read and no sender is left.
    pub async fn recv(&mut self) -> Option<T> {
        std::future::poll_fn(|context| {
            let mut shared = lock(&self.post);
            if let Some(letter) = shared.letters.pop_front() {
                return Poll::Ready(Some(letter));
            }
            if shared.senders == 0 {
                return Poll::Ready(None);
            }
            let before = shared.receiver.replace(context.waker().clone());
            drop(shared);
            drop(before);
            Poll::Pending
        })
        .await
    }

    /// The next message if there is one now.
    pub fn try_recv(&mut self) -> Option<T> {
        lock(&self.post).letters.pop_front()
    }
}

impl<T> Drop for Mailbox<T> {
    fn drop(&mut self) {
        let mut shared = lock(&self.post);
        shared.closed = true;
        let unread = std::mem::take(&mut shared.letters);
        let receiver = shared.receiver.take();
        drop(shared);
        drop((unread, receiver));
    }
}

impl<T> MailboxSender<T> {
    /// Sends without waiting.
    ///
    /// # Errors
    /// The message itself, when the mailbox is closed.
    pub fn send(&self, letter: T) -> Result<(), T> {
        let mut shared = lock(&self.post);
        if shared.closed {
            return Err(letter);
        }
        shared.letters.push_back(letter);
        let receiver = shared.receiver.take();
        drop(shared);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        Ok(())
    }

    /// Whether the mailbox is gone.
    pub fn is_closed(&self) -> bool {
        lock(&self.post).closed
    }
}

impl<T> Clone for MailboxSender<T> {
    fn clone(&self) -> Self {
        lock(&self.post).senders += 1;
        Self { post: self.post.clone() }
    }
}

impl<T> Drop for MailboxSender<T> {
    fn drop(&mut self) {
        let mut shared = lock(&self.post);
        shared.senders -= 1;
        let receiver = if shared.senders == 0 { shared.receiver.take() } else { None };
        drop(shared);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }
}
