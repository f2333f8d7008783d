//! What a client sent and nobody has used yet.
//!
//! Method: one receive brings whatever has come, often many requests. Requests, and payloads that are small, are taken
//! out of this buffer; a large payload is copied only as far as it has come, and the rest is received right where the
//! device will read it. After a large payload only the next request's head is received, so that a stream of large
//! writes is hardly copied at all.
//!
//! Memory: a page while little comes, [`BUSY_BYTES`] while a page is not enough; so a thousand idle connections hold
//! four megabytes.

use std::io;

use plimsoll_hardware::buffer::PAGE;
use plimsoll_hardware::reactor::Stream;
use plimsoll_hardware::{Buffer, BufferPool};

/// Read-ahead of a busy connection: 15 writes of 4 KiB, or 2,340 heads.
const BUSY_BYTES: usize = 64 << 10;
/// Payloads up to here are worth copying: 16 KiB cost about 1 us, a receive of its own more.
const SMALL_BYTES: usize = 16 << 10;
/// So many receives in a row that a page would have held make the buffer a page again.
const QUIET_RECEIVES: u32 = 64;

pub(super) struct Inbox {
    stream: Stream,
    buffers: BufferPool,
    /// Absent only while it is being received into, or after an error.
    buffer: Option<Buffer>,
    start: usize,
    end: usize,
    /// The last payload was large: receive no more than asked for, once.
    lean: bool,
    crowded: bool,
    quiet: u32,
}

impl Inbox {
    pub(super) async fn new(stream: Stream, buffers: BufferPool) -> Self {
        let buffer = Some(buffers.alloc(PAGE).await);
        Self { stream, buffers, buffer, start: 0, end: 0, lean: false, crowded: false, quiet: 0 }
    }

    fn held(&self) -> &[u8] {
        self.buffer.as_deref().map_or(&[], |buffer| &buffer[self.start..self.end])
    }

    /// The next `N` bytes, or `None` when the stream ended before.
    pub(super) async fn take<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        if !self.fill(N).await? {
            return Ok(None);
        }
        let bytes = self.held().first_chunk::<N>().copied();
        self.start += N;
        Ok(bytes)
    }

    /// The next `length` bytes on the heap; for handshakes, whose lengths are small and checked.
    pub(super) async fn take_vec(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            self.need(1).await?;
            let held = self.held();
            let part = held.len().min(length - bytes.len());
            bytes.extend_from_slice(&held[..part]);
            self.start += part;
        }
        Ok(bytes)
    }

    /// Passes over the next `length` bytes.
    pub(super) async fn skip(&mut self, mut length: usize) -> io::Result<()> {
        while length > 0 {
            self.need(1).await?;
            let part = self.held().len().min(length);
            self.start += part;
            length -= part;
        }
        Ok(())
    }

    /// Fills the whole of `into` with the next bytes.
    pub(super) async fn payload(&mut self, mut into: Buffer) -> io::Result<Buffer> {
        let length = into.len();
        self.lean = length > SMALL_BYTES;
        if !self.lean && length <= self.buffer.as_ref().map_or(0, |buffer| buffer.len()) {
            self.need(length).await?;
        }
        let held = self.held();
        let part = held.len().min(length);
        into[..part].copy_from_slice(&held[..part]);
        self.start += part;
        if part == length {
            return Ok(into);
        }
        // What comes is more than the buffer holds: a busy client.
        self.crowded |= !self.lean;
        let mut front = into.split_to(part);
        front.unsplit(self.stream.recv_exact(into).await?);
        Ok(front)
    }

    async fn need(&mut self, bytes: usize) -> io::Result<()> {
        if self.fill(bytes).await? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Receives until at least `bytes` bytes are here, which must fit a page or the present buffer; false when the
    /// stream ended before.
    async fn fill(&mut self, bytes: usize) -> io::Result<bool> {
        while self.end - self.start < bytes {
            self.make_room(bytes);
            let Some(mut tail) = self.buffer.take() else { return Ok(false) };
            let mut front = tail.split_to(self.end);
            let wanted = if self.lean { bytes - (self.end - self.start) } else { tail.len() };
            let room = tail.split_to(wanted);
            let (room, received) = self.stream.recv(room).await?;
            front.unsplit(room);
            front.unsplit(tail);
            self.crowded |= received == wanted && !self.lean;
            self.lean = false;
            self.quiet = if received >= PAGE { 0 } else { self.quiet + 1 };
            self.end += received;
            self.buffer = Some(front);
            if received == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Moves what is here to the front when the rest of the buffer is too short, and changes the buffer's size.
    fn make_room(&mut self, bytes: usize) {
        let held = self.end - self.start;
        let size = self.buffer.as_ref().map_or(0, |buffer| buffer.len());
        if held == 0 {
            (self.start, self.end) = (0, 0);
        } else if size - self.start >= bytes {
            return;
        }
        let better = match size {
            PAGE if self.crowded => BUSY_BYTES,
            BUSY_BYTES if self.quiet > QUIET_RECEIVES && held < PAGE && bytes <= PAGE => PAGE,
            _ => size,
        };
        self.crowded = false;
        // When memory is short the present size will do.
        let replacement = if better == size { None } else { self.buffers.try_alloc(better) };
        match (replacement, &mut self.buffer) {
            (Some(mut larger), _) => {
                larger[..held].copy_from_slice(self.held());
                self.buffer = Some(larger);
                self.quiet = 0;
            }
            (None, Some(buffer)) => buffer.copy_within(self.start..self.end, 0),
            (None, None) => {}
        }
        (self.start, self.end) = (0, held);
    }
}
