//! What is to be sent to a client, in the order in which it became ready.
//!
//! Method: whoever has an answer puts it here; one task sends all that has gathered in one message, heads and data side
//! by side, without copying the data. Its page for heads is its own from the start, so that an exhausted pool, which
//! only sending can refill, never waits for memory in order to send.
//!
//! Invariants:
//! 1. An answer's memory and its place among the connection's requests are given back when it was sent, not before: a
//!    client that does not read is not read from.
//! 2. Between a part that begins a series and the one that ends it, only parts of the series are sent. At most one
//!    series exists at a time (see [`Outbox::begin_series`]).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use plimsoll_hardware::buffer::PAGE;
use plimsoll_hardware::{Buffer, BufferPool, Frozen};

use super::session::Session;
use super::waiters::Waiters;
use super::wire::{Cookie, HEAD_BYTES_MAX, Head, encode_head};

/// Parts of one message: each is at most two pieces of memory, and the kernel takes 1,024 (UIO_MAXIOV).
const PARTS_PER_MESSAGE: usize = 48;
const _: () = assert!(PARTS_PER_MESSAGE * HEAD_BYTES_MAX <= PAGE && PARTS_PER_MESSAGE * 2 <= 1024);
/// Bytes after which a message is sent although more is ready: what came first should not wait for it.
const MESSAGE_BYTES: usize = 1 << 20;

/// A head, the data behind it, and what is given back when both were sent.
pub(super) struct Part {
    pub(super) cookie: Cookie,
    /// None: more data of a simple reply.
    pub(super) head: Option<Head>,
    pub(super) data: Option<Frozen>,
    /// Ends the answer to the request.
    pub(super) last: bool,
    /// Bytes of the connection's memory to give back.
    pub(super) bytes: usize,
    /// Set when it was sent.
    pub(super) sent: Option<Rc<Cell<bool>>>,
}

#[derive(Default)]
pub(super) struct Outbox {
    parts: RefCell<VecDeque<Part>>,
    /// Parts of the series behind its first.
    series: RefCell<VecDeque<Part>>,
    /// A worker makes a series.
    reserved: Cell<bool>,
    /// The first part of the series was taken and the last was not.
    inside: Cell<bool>,
    filled: Waiters,
    closed: Cell<bool>,
}

impl Outbox {
    pub(super) fn push(&self, session: &Session, part: Part) {
        if self.closed.get() {
            return give_back(session, &part);
        }
        self.parts.borrow_mut().push_back(part);
        self.filled.wake();
    }

    /// Waits for the right to send a series: one part by [`Outbox::push`], which has `last` unset, then the others.
    pub(super) async fn begin_series(&self, session: &Session) {
        session.changed.until(|| !self.reserved.get()).await;
        self.reserved.set(true);
    }

    pub(super) fn push_series(&self, session: &Session, part: Part) {
        if self.closed.get() {
            return give_back(session, &part);
        }
        self.series.borrow_mut().push_back(part);
        self.filled.wake();
    }

    pub(super) fn end_series(&self, session: &Session) {
        self.reserved.set(false);
        session.changed.wake();
    }

    /// No more will come; [`Outbox::run`] ends when all was sent.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.filled.wake();
    }

    fn has_next(&self) -> bool {
        if self.inside.get() { !self.series.borrow().is_empty() } else { !self.parts.borrow().is_empty() }
    }

    fn next(&self) -> Option<Part> {
        if self.inside.get() {
            let part = self.series.borrow_mut().pop_front()?;
            self.inside.set(!part.last);
            return Some(part);
        }
        let part = self.parts.borrow_mut().pop_front()?;
        let begins = matches!(part.head, Some(Head::Simple(None))) && !part.last;
        self.inside.set(begins);
        Some(part)
    }

    /// Sends until closed and empty, or until the connection ended. Gives everything back in the end.
    pub(super) async fn run(&self, session: &Session, buffers: &BufferPool) {
        let mut page = Some(buffers.alloc(PAGE).await);
        let mut message = Vec::new();
        let mut parts = Vec::new();
        loop {
            self.filled.until(|| self.has_next() || self.closed.get() || session.ended()).await;
            let Some(heads) = page.take() else { break };
            if session.ended() || !self.has_next() {
                break;
            }
            let heads = self.gather(heads, &mut message, &mut parts);
            session.sending.set(true);
            let sent = session.stream.send_vectored(message.drain(..)).await;
            session.sending.set(false);
            session.moved();
            for part in parts.drain(..) {
                give_back(session, &part);
            }
            if let Err(error) = sent {
                tracing::debug!(peer = %session.peer, %error, "a client did not take its answers");
                break;
            }
            page = match heads.try_thaw() {
                Ok(page) => Some(page),
                Err(_) => Some(buffers.alloc(PAGE).await),
            };
        }
        self.closed.set(true);
        session.end();
        while let Some(part) = self.parts.borrow_mut().pop_front() {
            give_back(session, &part);
        }
        while let Some(part) = self.series.borrow_mut().pop_front() {
            give_back(session, &part);
        }
    }

    /// Takes what is ready and lists it as a message. The heads lie in the page that is given back.
    fn gather(&self, mut page: Buffer, message: &mut Vec<Frozen>, parts: &mut Vec<Part>) -> Frozen {
        let mut bytes = 0;
        let mut ends = [0usize; PARTS_PER_MESSAGE];
        let mut end = 0;
        while parts.len() < PARTS_PER_MESSAGE && bytes < MESSAGE_BYTES {
            let Some(part) = self.next() else { break };
            if let Some(head) = part.head {
                let mut into = &mut page[end..];
                let before = into.len();
                encode_head(part.cookie, head, part.last, &mut into);
                end += before - into.len();
            }
            bytes += part.data.as_ref().map_or(0, |data| data.len());
            ends[parts.len()] = end;
            parts.push(part);
        }
        let page = page.freeze();
        let mut start = 0;
        for (part, end) in parts.iter_mut().zip(ends) {
            // Heads without data between them are neighbours and go as one.
            if let Some(data) = part.data.take() {
                if end > start {
                    message.push(page.slice(start..end));
                    start = end;
                }
                message.push(data);
            }
        }
        if end > start {
            message.push(page.slice(start..end));
        }
        page
    }
}

fn give_back(session: &Session, part: &Part) {
    if let Some(sent) = &part.sent {
        sent.set(true);
    }
    session.release(part.bytes, part.last as u32);
}
