//! One connection as the server sees it from outside: who, since when, how far, and the way to end it.
//!
//! Invariant: [`Session::end`] can be called at any moment and from any task; whoever works for the connection sees
//! `ended` at its next step, and whoever waits on its socket is answered because the socket is shut down.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use plimsoll_engine::Ticket;
use plimsoll_hardware::reactor::{Peer, Stream};
use uuid::Uuid;

use super::waiters::Waiters;

/// What is known of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Number of the connection, counted from 1 by its server.
    pub id: u64,
    /// Who is at the other end.
    pub peer: Peer,
    /// The export it chose; none during the handshake.
    pub export: Option<String>,
    /// When it came, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Requests that were read.
    pub requests: u64,
    /// Requests that were read and are not answered.
    pub unanswered: u32,
    /// Bytes that were sent as answers to READ.
    pub read_bytes: u64,
    /// Bytes that were received with WRITE.
    pub written_bytes: u64,
}

pub(super) struct Session {
    pub(super) id: u64,
    pub(super) listener: usize,
    pub(super) peer: Peer,
    pub(super) stream: Stream,
    pub(super) since: Duration,
    pub(super) since_ms: u64,
    /// Name and vdisk of the export, once chosen.
    pub(super) export: RefCell<Option<(String, Uuid)>>,
    /// Messages of the handshake that were read.
    pub(super) options: Cell<u32>,
    pub(super) requests: Cell<u64>,
    pub(super) unanswered: Cell<u32>,
    pub(super) bytes: Cell<usize>,
    pub(super) read_bytes: Cell<u64>,
    pub(super) written_bytes: Cell<u64>,
    /// No new request is read, and the connection ends when the others are answered.
    draining: Cell<bool>,
    ended: Cell<bool>,
    /// A hand on its writes that wait for space: they are given up with it.
    pub(super) held: RefCell<Ticket>,
    /// Wakes whoever waits for room, for an end, or for a reply to be sent.
    pub(super) changed: Waiters,
    /// In the middle of a payload, or of sending.
    pub(super) receiving: Cell<bool>,
    pub(super) sending: Cell<bool>,
    /// Payload pieces received and batches sent: whether anything moves.
    pub(super) moves: Cell<u64>,
    /// `moves` when it was last looked at, and since when it stands still.
    pub(super) still: Cell<(u64, Duration)>,
}

impl Session {
    pub(super) fn new(id: u64, listener: usize, stream: Stream, now: Duration, now_ms: u64) -> Self {
        Self {
            id,
            listener,
            peer: stream.peer(),
            stream,
            since: now,
            since_ms: now_ms,
            export: RefCell::default(),
            options: Cell::default(),
            requests: Cell::default(),
            unanswered: Cell::default(),
            bytes: Cell::default(),
            read_bytes: Cell::default(),
            written_bytes: Cell::default(),
            draining: Cell::default(),
            ended: Cell::default(),
            held: RefCell::default(),
            changed: Waiters::default(),
            receiving: Cell::default(),
            sending: Cell::default(),
            moves: Cell::default(),
            still: Cell::new((0, now)),
        }
    }

    pub(super) fn info(&self) -> ConnectionInfo {
        ConnectionInfo {
            id: self.id,
            peer: self.peer,
            export: self.export.borrow().as_ref().map(|(name, _)| name.clone()),
            since_ms: self.since_ms,
            requests: self.requests.get(),
            unanswered: self.unanswered.get(),
            read_bytes: self.read_bytes.get(),
            written_bytes: self.written_bytes.get(),
        }
    }

    pub(super) fn is_negotiating(&self) -> bool {
        self.export.borrow().is_none()
    }

    pub(super) fn ended(&self) -> bool {
        self.ended.get()
    }

    /// Whether no further request is read.
    pub(super) fn takes_no_more(&self) -> bool {
        self.ended.get() || self.draining.get()
    }

    /// Whether some of its writes wait for space, or for others that do.
    pub(super) fn has_held_writes(&self) -> bool {
        let held = self.held.borrow();
        held.held() > 0 || held.waiting_behind().0 > 0
    }

    /// Closes the connection now. Operations that were handed to the engine go on, but for writes that wait for space; their
    /// answers are dropped.
    pub(super) fn end(&self) {
        if !self.ended.replace(true) {
            // It may be over already, which is as good.
            let _ = self.stream.shutdown();
            self.held.borrow().cancel();
            self.changed.wake();
        }
    }

    /// Answers what was read, but for writes that wait for space, then closes.
    pub(super) fn drain(&self) {
        self.draining.set(true);
        self.held.borrow().cancel();
        if self.is_negotiating() || self.unanswered.get() == 0 {
            self.end();
        }
    }

    /// Counts a request that was read.
    pub(super) fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
        self.unanswered.set(self.unanswered.get() + 1);
    }

    /// Takes `bytes` of the connection's memory, of which it may have `limit` at present; waits until it may.
    pub(super) async fn reserve(&self, bytes: usize, limit: impl Fn() -> usize) {
        self.changed
            .until(|| {
                let held = self.bytes.get();
                held == 0 || held + bytes <= limit() || self.ended()
            })
            .await;
        self.bytes.set(self.bytes.get() + bytes);
    }

    /// Gives `bytes` back and counts `answers` requests as answered.
    pub(super) fn release(&self, bytes: usize, answers: u32) {
        self.bytes.set(self.bytes.get() - bytes);
        self.unanswered.set(self.unanswered.get() - answers);
        if self.draining.get() && self.unanswered.get() == 0 {
            self.end();
        }
        self.changed.wake();
    }

    pub(super) fn moved(&self) {
        self.moves.set(self.moves.get() + 1);
    }

    /// Whether the client has kept us waiting in the middle of something for longer than `time`.
    pub(super) fn is_stalled(&self, now: Duration, time: Duration) -> bool {
        let waits = self.receiving.get() || self.sending.get();
        let (moves, since) = self.still.get();
        if !waits || moves != self.moves.get() {
            self.still.set((self.moves.get(), now));
            return false;
        }
        now.saturating_sub(since) >= time
    }
}
