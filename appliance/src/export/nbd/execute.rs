//! Commands, one function each: from the engine's answer to the client's.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use plimsoll_engine::{Error, StatusRange, Zeroes};
use plimsoll_hardware::buffer::{PAGE, UNIT};
use plimsoll_hardware::{Buffer, Frozen, Machine};

use super::command::{Command, Span};
use super::connection::{Connection, Pieces};
use super::gate::{self, Sectors, sectors};
use super::outbox::Part;
use super::status::{self, Ending};
use super::wire::{Cookie, Head, RANGE_BYTES, encode_range};

/// Reads from here up look for holes first, which are then not read and not sent. Below, looking costs more than it
/// saves: a lookup is some tenths of a microsecond, and so is sending 4 KiB.
const HOLES_FROM_BYTES: u32 = 64 << 10;
/// Parts into which the holes of one READ may cut its answer.
const HOLE_RANGES_MAX: usize = 16;
/// Ranges in one BLOCK_STATUS answer: what a page holds.
const STATUS_RANGES_MAX: usize = PAGE / RANGE_BYTES;

/// Carries out anything but a WRITE and answers it.
pub(super) async fn command<M: Machine>(connection: &Connection<M>, cookie: Cookie, command: Command, bytes: usize) {
    let done = match command {
        Command::Read { span, whole } => return read(connection, cookie, span, whole, bytes).await,
        Command::BlockStatus { span, one } => return block_status(connection, cookie, span, one).await,
        Command::Flush => connection.vdisk.flush().await,
        Command::Trim { span, fua } => trim(connection, span, fua).await,
        Command::WriteZeroes { span, how, fua } => write_zeroes(connection, span, how, fua).await,
        Command::Cache { span } => cache(connection, span).await,
        // A WRITE has a payload and comes as a job of its own.
        Command::Write { .. } => return connection.fail(cookie, status::INTERNAL, bytes),
    };
    match done {
        Ok(()) => connection.done(cookie, bytes),
        Err(error) => connection.fail(cookie, failure(connection, &error), bytes),
    }
}

/// Carries out a WRITE or a piece of one.
pub(super) async fn write<M: Machine>(
    connection: &Connection<M>,
    cookie: Cookie,
    span: Span,
    buffer: Buffer,
    fua: bool,
    bytes: usize,
    pieces: Option<Rc<Pieces>>,
) {
    let written = gate::write(connection, span, buffer, fua).await;
    let failed = written.err().map(|error| failure(connection, &error));
    match (pieces, failed) {
        (None, None) => connection.done(cookie, bytes),
        (None, Some(ending)) => connection.fail(cookie, ending, bytes),
        (Some(pieces), failed) => {
            connection.session.release(bytes, 0);
            connection.finish_piece(cookie, &pieces, failed);
        }
    }
}

fn failure<M: Machine>(connection: &Connection<M>, error: &Error) -> Ending {
    tracing::debug!(peer = %connection.session.peer, %error, "a request failed");
    Ending::from(error)
}

/// Reads the sectors around `span`, which fit a buffer, into `spare` or else into new memory. Answers the sectors, and
/// where in them the span lies.
async fn read_sectors<M: Machine>(
    connection: &Connection<M>,
    span: Span,
    spare: Option<Buffer>,
) -> Result<(Frozen, Range<usize>), Error> {
    let (start, end) = span.widened(connection.sector);
    let length = (end - start) as usize;
    let buffers = connection.handle.buffers();
    let mut buffer = match spare.or_else(|| buffers.try_alloc(length)) {
        Some(buffer) => buffer,
        None => buffers.alloc(length).await,
    };
    buffer.truncate(length);
    let sectors = connection.vdisk.read(start, buffer).await?.freeze();
    let sent = &connection.session.read_bytes;
    sent.set(sent.get() + u64::from(span.length));
    let before = (span.offset - start) as usize;
    Ok((sectors, before..before + span.length as usize))
}

/// Memory for a first piece of `span`, that piece, and the rest. Where no run is free that holds as much as a buffer may, the piece is
/// shorter.
async fn memory_for<M: Machine>(connection: &Connection<M>, span: Span) -> (Buffer, Span, Option<Span>) {
    let (start, end) = span.cut(connection.sector).0.widened(connection.sector);
    let buffer = connection.handle.buffers().alloc_up_to((end - start) as usize).await;
    let (piece, rest) = span.cut_at(connection.sector, buffer.len() as u32);
    (buffer, piece, rest)
}

/// The bytes of `span`, which fits a buffer.
async fn read_piece<M: Machine>(
    connection: &Connection<M>,
    span: Span,
    memory: Option<Buffer>,
) -> Result<Frozen, Error> {
    let (sectors, place) = read_sectors(connection, span, memory).await?;
    Ok(if place == (0..sectors.len()) { sectors } else { sectors.slice(place) })
}

async fn read<M: Machine>(connection: &Connection<M>, cookie: Cookie, span: Span, whole: bool, bytes: usize) {
    let (first, rest) = span.cut(connection.sector);
    let (start, end) = first.widened(connection.sector);
    let is_long = span.length >= HOLES_FROM_BYTES || (end - start) as usize > UNIT;
    if connection.structured && !whole && is_long {
        return read_around_holes(connection, cookie, span, bytes).await;
    }
    let mut memory = None;
    if rest.is_some() || !connection.structured {
        let (buffer, _, rest) = memory_for(connection, span).await;
        if rest.is_some() {
            return read_series(connection, cookie, span, buffer, bytes).await;
        }
        memory = Some(buffer);
    }
    match read_piece(connection, first, memory).await {
        Ok(data) => {
            let head = if connection.structured {
                Head::Data { offset: span.offset, length: span.length }
            } else {
                Head::Simple(None)
            };
            connection.answer(cookie, head, Some(data), bytes);
        }
        Err(error) => connection.fail(cookie, failure(connection, &error), bytes),
    }
}

/// A READ in chunks: holes as such, data in pieces of at most a buffer.
async fn read_around_holes<M: Machine>(connection: &Connection<M>, cookie: Cookie, span: Span, bytes: usize) {
    let mut at = span.offset;
    // What was reserved is enough for all of it.
    let fits = span.cut(connection.sector).1.is_none();
    while at < span.end() {
        let left = Span { offset: at, length: (span.end() - at) as u32 };
        let ranges = match ranges(connection, left, HOLE_RANGES_MAX).await {
            Ok(ranges) => ranges,
            Err(error) => return connection.fail(cookie, failure(connection, &error), bytes),
        };
        if ranges.is_empty() {
            return connection.fail(cookie, status::INTERNAL, bytes);
        }
        for (range, data) in ranges {
            if !data {
                at = range.end;
                let length = (range.end - range.start) as u32;
                send_chunk(
                    connection,
                    cookie,
                    Head::Hole { offset: range.start, length },
                    None,
                    at == span.end(),
                    bytes,
                );
                continue;
            }
            while at < range.end {
                let left = Span { offset: at, length: (range.end - at) as u32 };
                let (buffer, piece, _) = memory_for(connection, left).await;
                let data = match read_piece(connection, piece, Some(buffer)).await {
                    Ok(data) => data,
                    Err(error) => return connection.fail(cookie, failure(connection, &error), bytes),
                };
                at = piece.end();
                let head = Head::Data { offset: piece.offset, length: piece.length };
                let last = at == span.end();
                if last || fits {
                    send_chunk(connection, cookie, head, Some(data), last, bytes);
                    continue;
                }
                // The next piece takes the place of this one in memory, so it waits until the client took it.
                let sent = Rc::new(Cell::new(false));
                let part =
                    Part { cookie, head: Some(head), data: Some(data), last, bytes: 0, sent: Some(sent.clone()) };
                connection.outbox.push(&connection.session, part);
                connection.session.changed.until(|| sent.get()).await;
            }
        }
    }
}

fn send_chunk<M: Machine>(
    connection: &Connection<M>,
    cookie: Cookie,
    head: Head,
    data: Option<Frozen>,
    last: bool,
    bytes: usize,
) {
    let part = Part { cookie, head: Some(head), data, last, bytes: if last { bytes } else { 0 }, sent: None };
    connection.outbox.push(&connection.session, part);
}

/// A READ longer than `buffer`, its first memory, for a client that knows no chunks: head, then data piece by piece with nothing between.
/// Once the head is gone there is no way to report an error but to close the connection.
async fn read_series<M: Machine>(connection: &Connection<M>, cookie: Cookie, span: Span, buffer: Buffer, bytes: usize) {
    let (session, outbox) = (&connection.session, &connection.outbox);
    outbox.begin_series(session).await;
    let (mut piece, mut rest) = span.cut_at(connection.sector, buffer.len() as u32);
    let mut spare = Some(buffer);
    loop {
        let begins = piece.offset == span.offset;
        let (sectors, place) = match read_sectors(connection, piece, spare.take()).await {
            Ok(read) => read,
            Err(error) if begins => {
                connection.fail(cookie, failure(connection, &error), bytes);
                break;
            }
            Err(error) => {
                failure(connection, &error);
                session.end();
                session.release(bytes, 1);
                break;
            }
        };
        let last = rest.is_none();
        let sent = Rc::new(Cell::new(false));
        let part = Part {
            cookie,
            head: begins.then_some(Head::Simple(None)),
            data: Some(sectors.slice(place)),
            last,
            bytes: if last { bytes } else { 0 },
            sent: Some(sent.clone()),
        };
        if begins {
            outbox.push(session, part);
        } else {
            outbox.push_series(session, part);
        }
        let Some(more) = rest else { break };
        // The memory of this piece serves the next: waiting for other memory, which only sending what waits behind
        // this answer could free, would be waiting for ever. So no piece is longer than the one before.
        session.changed.until(|| sent.get()).await;
        let length = sectors.len();
        spare = sectors.try_thaw().ok();
        (piece, rest) = more.cut_at(connection.sector, length as u32);
    }
    outbox.end_series(session);
}

/// Neighbouring ranges of `span` from its first byte on, and whether they hold data.
async fn ranges<M: Machine>(
    connection: &Connection<M>,
    span: Span,
    most: usize,
) -> Result<Vec<(Range<u64>, bool)>, Error> {
    let (start, end) = span.widened(connection.sector);
    let found = connection.vdisk.block_status(start, end - start, most).await?;
    let mut at = start;
    let mut ranges = Vec::with_capacity(found.len());
    for StatusRange { length, data } in found {
        let range = at.max(span.offset)..(at + length).min(span.end());
        at += length;
        if range.start < range.end {
            ranges.push((range, data));
        }
    }
    Ok(ranges)
}

async fn block_status<M: Machine>(connection: &Connection<M>, cookie: Cookie, span: Span, one: bool) {
    let buffers = connection.handle.buffers();
    let found = ranges(connection, span, if one { 1 } else { STATUS_RANGES_MAX }).await;
    let ranges = match found {
        Ok(ranges) if !ranges.is_empty() => ranges,
        Ok(_) => return connection.fail(cookie, status::INTERNAL, 0),
        Err(error) => return connection.fail(cookie, failure(connection, &error), 0),
    };
    let mut buffer = buffers.alloc(PAGE).await;
    let length = ranges.len().min(STATUS_RANGES_MAX) * RANGE_BYTES;
    let mut into = &mut buffer[..length];
    for (range, data) in ranges.into_iter().take(STATUS_RANGES_MAX) {
        encode_range((range.end - range.start) as u32, data, &mut into);
    }
    buffer.truncate(length);
    connection.answer(cookie, Head::Ranges { length: length as u32 }, Some(buffer.freeze()), 0);
}

/// Gives back the whole sectors of `span`. A trim is a hint: what is finer stays.
async fn trim<M: Machine>(connection: &Connection<M>, span: Span, fua: bool) -> Result<(), Error> {
    let Some(middle) = sectors(span, connection.sector).middle else { return Ok(()) };
    let _pass = connection.gate.pass(middle.clone(), &connection.held).await?;
    connection.vdisk.discard(middle.start, middle.end - middle.start, fua).await
}

async fn write_zeroes<M: Machine>(connection: &Connection<M>, span: Span, how: Zeroes, fua: bool) -> Result<(), Error> {
    let Sectors { edges, middle } = sectors(span, connection.sector);
    for edge in edges.into_iter().flatten() {
        let mut buffer = connection.handle.buffers().alloc(gate::write_bytes(edge, connection.sector)).await;
        buffer.fill(0);
        gate::write(connection, edge, buffer, fua).await?;
    }
    let Some(middle) = middle else { return Ok(()) };
    let _pass = connection.gate.pass(middle.clone(), &connection.held).await?;
    let options = connection.options(fua);
    connection.vdisk.write_zeroes_with(middle.start, middle.end - middle.start, how, &options).await
}

/// Brings the mapping of `span` into memory. Data is not cached anywhere, so there is no more to do.
async fn cache<M: Machine>(connection: &Connection<M>, span: Span) -> Result<(), Error> {
    ranges(connection, span, STATUS_RANGES_MAX).await.map(drop)
}
