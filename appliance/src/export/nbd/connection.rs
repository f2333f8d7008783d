//! One client during the transmission phase: reads its requests and hands them to workers.
//!
//! The way of a request: [`Inbox`] -> [`decode_request`] -> [`verify`] -> a place among the connection's requests and
//! bytes -> [`Jobs`](super::worker::Jobs) -> the engine -> [`Outbox`] -> socket. Requests run beside each other and are
//! answered as they end. A large payload is received in pieces of at most 1 MiB, each written as soon as it is here.
//!
//! Nobody holds memory while waiting for more of it: this task holds none but the read-ahead when it waits for a
//! payload's buffer, and a worker has one buffer at a time.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use plimsoll_engine::{Ticket, Vdisk, WriteOptions};
use plimsoll_hardware::reactor::Handle;
use plimsoll_hardware::{Buffer, Frozen, Machine};

use super::NbdLimits;
use super::command::{Command, Facts, Span, verify};
use super::gate::{Gate, write_bytes, write_place};
use super::inbox::Inbox;
use super::outbox::{Outbox, Part};
use super::session::Session;
use super::status::{Ending, Status};
use super::wire::{Cookie, Head, PAYLOAD_MAX, Request, Verb, decode_request};
use super::worker::{Job, Jobs};

pub(super) struct Connection<M: Machine> {
    pub(super) handle: Handle,
    pub(super) limits: Rc<NbdLimits>,
    pub(super) session: Rc<Session>,
    pub(super) vdisk: Vdisk<M>,
    pub(super) gate: Rc<Gate>,
    pub(super) sector: u32,
    pub(super) read_only: bool,
    pub(super) structured: bool,
    pub(super) block_status: bool,
    pub(super) outbox: Outbox,
    pub(super) jobs: Jobs<M>,
    /// A hand on the writes that wait for space.
    pub(super) held: Ticket,
}

/// A WRITE in several pieces. Whoever drops the last share answers.
pub(super) struct Pieces {
    shares: Cell<u32>,
    failed: Cell<Option<Ending>>,
}

impl<M: Machine> Connection<M> {
    /// Serves the client until it leaves or is made to.
    pub(super) async fn run(self: Rc<Self>, mut inbox: Inbox) {
        let writer = self.clone();
        let writing = Rc::new(Cell::new(true));
        let still_writing = writing.clone();
        self.handle.spawn(async move {
            writer.outbox.run(&writer.session, writer.handle.buffers()).await;
            still_writing.set(false);
            writer.session.changed.wake();
        });
        if let Err(error) = self.read_requests(&mut inbox).await {
            tracing::debug!(peer = %self.session.peer, %error, "a client was lost");
            self.session.end();
        }
        drop(inbox);
        // Nobody is there to be told: what still waits for space is never written.
        self.held.cancel();
        // What the engine was given it finishes, whether or not there is somebody to tell.
        self.session.changed.until(|| self.session.unanswered.get() == 0).await;
        self.outbox.close();
        self.jobs.close();
        self.session.changed.until(|| !writing.get() && self.jobs.workers() == 0).await;
        self.session.end();
    }

    async fn read_requests(self: &Rc<Self>, inbox: &mut Inbox) -> io::Result<()> {
        let session = &self.session;
        loop {
            session.changed.until(|| self.may_read_another() || session.takes_no_more()).await;
            if session.takes_no_more() {
                return Ok(());
            }
            let Some(bytes) = inbox.take().await? else { return Ok(()) };
            if session.takes_no_more() {
                return Ok(());
            }
            let request = decode_request(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if request.verb == Verb::Disconnect {
                return Ok(());
            }
            session.begin();
            match verify(&request, &self.facts()) {
                Ok(Command::Write { span, fua }) => {
                    session.receiving.set(true);
                    let received = self.receive_write(inbox, request.cookie, span, fua).await;
                    self.received(received)?;
                }
                Ok(command) => {
                    let bytes = match command {
                        Command::Read { span, .. } => self.read_bytes(span),
                        _ => 0,
                    };
                    session.reserve(bytes, || self.bytes_max()).await;
                    self.submit(Job::Command { cookie: request.cookie, command, bytes });
                }
                Err(status) => {
                    session.receiving.set(true);
                    let passed = self.pass_over(inbox, &request).await;
                    self.received(passed)?;
                    self.fail(request.cookie, status, 0);
                }
            }
        }
    }

    /// A payload is over. When it broke off, its request will not be answered.
    fn received(&self, result: io::Result<()>) -> io::Result<()> {
        self.session.receiving.set(false);
        result.inspect_err(|_| {
            self.session.end();
            self.session.release(0, 1);
        })
    }

    /// Whether there is a place for another request. Writes that wait for space do not take those of others: how many there are is bounded
    /// by the memory that the engine holds them in. Nor do those that wait for such a one in the same sectors, up to as many again.
    fn may_read_another(&self) -> bool {
        let waiting = self.held.held() + self.held.waiting_behind().0.min(self.limits.requests);
        self.session.unanswered.get().saturating_sub(waiting) < self.limits.requests
    }

    /// Memory that others may take beside writes that wait, as [`Connection::may_read_another`] counts them.
    fn bytes_max(&self) -> usize {
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(0);
        let behind = bytes(self.held.waiting_behind().1).min(self.limits.bytes);
        self.limits.bytes.saturating_add(bytes(self.held.held_bytes())).saturating_add(behind)
    }

    /// How the engine is to write for this client.
    pub(super) fn options(&self, fua: bool) -> WriteOptions {
        WriteOptions { fua, on_full: None, ticket: Some(self.held.clone()) }
    }

    fn facts(&self) -> Facts {
        Facts {
            size: self.vdisk.size(),
            read_only: self.read_only,
            structured: self.structured,
            block_status: self.block_status,
            sector: self.sector,
        }
    }

    /// Memory that reading `span` holds at a time.
    fn read_bytes(&self, span: Span) -> usize {
        let (piece, _) = span.cut(self.sector);
        let (start, end) = piece.widened(self.sector);
        (end - start) as usize
    }

    /// Passes over the payload of a request that is refused.
    async fn pass_over(&self, inbox: &mut Inbox, request: &Request) -> io::Result<()> {
        if request.verb != Verb::Write {
            return Ok(());
        }
        if request.length > PAYLOAD_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a payload of more than 32 MiB"));
        }
        inbox.skip(request.length as usize).await
    }

    async fn receive_write(
        self: &Rc<Self>,
        inbox: &mut Inbox,
        cookie: Cookie,
        span: Span,
        fua: bool,
    ) -> io::Result<()> {
        let (mut rest, mut pieces) = (Some(span), None);
        while let Some(span) = rest {
            if pieces.as_ref().is_some_and(|pieces: &Rc<Pieces>| pieces.failed.get().is_some()) {
                // After a failure the rest is only passed over.
                inbox.skip(span.length as usize).await?;
                break;
            }
            let (buffer, piece, behind) = self.memory_for(span).await;
            rest = behind;
            if rest.is_some() && pieces.is_none() {
                pieces = Some(Rc::new(Pieces { shares: Cell::new(1), failed: Cell::new(None) }));
            }
            let bytes = buffer.len();
            let buffer = self.receive_piece(inbox, piece, buffer).await?;
            if let Some(pieces) = &pieces {
                pieces.shares.set(pieces.shares.get() + 1);
            }
            self.submit(Job::Write { cookie, span: piece, buffer, fua, bytes, pieces: pieces.clone() });
        }
        if let Some(pieces) = pieces {
            self.finish_piece(cookie, &pieces, None);
        }
        Ok(())
    }

    /// Memory for a first piece of `span` as [`write_bytes`] says, that piece, and the rest. Where no run is free that holds as much as a buffer may, the
    /// piece is shorter. The memory counts as the connection's.
    async fn memory_for(&self, span: Span) -> (Buffer, Span, Option<Span>) {
        let (piece, rest) = span.cut(self.sector);
        let wanted = write_bytes(piece, self.sector);
        // Held up by our own work, not by the client.
        self.session.receiving.set(false);
        self.session.reserve(wanted, || self.bytes_max()).await;
        let mut buffer = self.handle.buffers().alloc_up_to(wanted).await;
        self.session.receiving.set(true);
        if buffer.len() == wanted {
            return (buffer, piece, rest);
        }
        let (start, end) = piece.widened(self.sector);
        let edges = wanted - (end - start) as usize;
        let (piece, rest) = span.cut_at(self.sector, (buffer.len() - edges) as u32);
        let bytes = write_bytes(piece, self.sector);
        buffer.truncate(bytes);
        self.session.release(wanted - bytes, 0);
        (buffer, piece, rest)
    }

    async fn receive_piece(&self, inbox: &mut Inbox, span: Span, mut buffer: Buffer) -> io::Result<Buffer> {
        let bytes = buffer.len();
        let place = write_place(span, self.sector);
        let received = if place == (0..bytes) {
            inbox.payload(buffer).await
        } else {
            let mut front = buffer.split_to(place.start);
            let middle = buffer.split_to(place.len());
            inbox.payload(middle).await.map(|middle| {
                front.unsplit(middle);
                front.unsplit(buffer);
                front
            })
        };
        self.session.moved();
        match received {
            Ok(buffer) => {
                self.session.written_bytes.set(self.session.written_bytes.get() + u64::from(span.length));
                Ok(buffer)
            }
            Err(error) => {
                self.session.release(bytes, 0);
                Err(error)
            }
        }
    }

    /// Notes how a piece ended, and answers when it was the last.
    pub(super) fn finish_piece(&self, cookie: Cookie, pieces: &Pieces, failed: Option<Ending>) {
        if failed.is_some() && pieces.failed.get().is_none() {
            pieces.failed.set(failed);
        }
        pieces.shares.set(pieces.shares.get() - 1);
        if pieces.shares.get() == 0 {
            match pieces.failed.get() {
                None => self.done(cookie, 0),
                Some(ending) => self.fail(cookie, ending, 0),
            }
        }
    }

    fn submit(self: &Rc<Self>, job: Job) {
        self.jobs.submit(self, job);
    }

    /// Answers that a request was carried out; `bytes` of the connection's memory go back.
    pub(super) fn done(&self, cookie: Cookie, bytes: usize) {
        let head = if self.structured { Head::None } else { Head::Simple(None) };
        self.answer(cookie, head, None, bytes);
    }

    /// Answers that a request failed, or leaves it unanswered; `bytes` of the connection's memory go back. Who has left one request to the
    /// server that comes next leaves it those behind it, too.
    pub(super) fn fail(&self, cookie: Cookie, ending: impl Into<Ending>, bytes: usize) {
        match ending.into() {
            Ending::Answered(Status { errno, text }) => {
                let head = if self.structured { Head::Error { errno, text } } else { Head::Simple(Some(errno)) };
                self.answer(cookie, head, None, bytes);
            }
            Ending::Unanswered => {
                self.session.drain();
                self.session.release(bytes, 1);
            }
        }
    }

    /// Sends the last part of an answer.
    pub(super) fn answer(&self, cookie: Cookie, head: Head, data: Option<Frozen>, bytes: usize) {
        let part = Part { cookie, head: Some(head), data, last: true, bytes, sent: None };
        self.outbox.push(&self.session, part);
    }
}
