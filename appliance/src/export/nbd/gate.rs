//! Writes that are finer than a sector, safe beside all other writes to the same vdisk.
//!
//! A vdisk writes whole sectors, and clients that never asked for block sizes may write single bytes. Such a write reads
//! the sectors at its ends, and whatever another connection writes to those sectors in between would be undone. So every
//! change of a vdisk by this server passes its [`Gate`]: a fine write waits until no change in flight touches its
//! sectors and keeps others out of them until it is done. While there is no fine write this costs one entry in a slab.
//! What is in the way may be held for want of space; so who waits here is given up as a held write is, and never applied.
//!
//! Not here: other protocols. They address sectors, and an initiator that shares a disk with NBD clients that do not
//! keeps its own order.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::pin::pin;

use futures_util::future::select;
use plimsoll_engine::{Error, Ticket};
use plimsoll_hardware::{Buffer, Machine};
use slab::Slab;

use super::command::Span;
use super::connection::Connection;
use super::waiters::Waiters;

struct InFlight {
    bytes: Range<u64>,
    fine: bool,
}

/// The changes of one vdisk that are in flight.
#[derive(Default)]
pub(super) struct Gate {
    in_flight: RefCell<Slab<InFlight>>,
    fine: Cell<u32>,
    changed: Waiters,
}

/// A change in flight; dropped when it is done.
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    key: usize,
}

impl Gate {
    /// For a change of whole sectors: waits for fine writes in the way.
    pub(super) async fn pass(&self, bytes: Range<u64>, held: &Ticket) -> Result<Pass<'_>, Error> {
        if self.fine.get() > 0 {
            self.wait(&bytes, true, held).await?;
        }
        Ok(self.enter(bytes, false))
    }

    /// For a write finer than its sectors: waits for every change in the way.
    async fn pass_fine(&self, bytes: Range<u64>, held: &Ticket) -> Result<Pass<'_>, Error> {
        self.wait(&bytes, false, held).await?;
        self.fine.set(self.fine.get() + 1);
        Ok(self.enter(bytes, true))
    }

    async fn wait(&self, bytes: &Range<u64>, only_fine: bool, held: &Ticket) -> Result<(), Error> {
        if !self.meets(bytes, only_fine) {
            return Ok(());
        }
        let _behind = held.behind(bytes.end - bytes.start);
        let free = pin!(self.changed.until(|| !self.meets(bytes, only_fine)));
        select(free, pin!(held.cancelled())).await;
        if held.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn meets(&self, bytes: &Range<u64>, only_fine: bool) -> bool {
        let in_flight = self.in_flight.borrow();
        in_flight.iter().any(|(_, other)| {
            (other.fine || !only_fine) && other.bytes.start < bytes.end && bytes.start < other.bytes.end
        })
    }

    fn enter(&self, bytes: Range<u64>, fine: bool) -> Pass<'_> {
        Pass { gate: self, key: self.in_flight.borrow_mut().insert(InFlight { bytes, fine }) }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let entry = self.gate.in_flight.borrow_mut().remove(self.key);
        if entry.fine {
            self.gate.fine.set(self.gate.fine.get() - 1);
        }
        self.gate.changed.wake();
    }
}

/// Bytes of the buffer that a write of `span` needs: the span itself when it is whole sectors; else the sectors around
/// it, its own bytes in their place, and behind them room for two sectors as they were.
pub(super) fn write_bytes(span: Span, sector: u32) -> usize {
    if span.is_aligned(sector) {
        return span.length as usize;
    }
    let (start, end) = span.widened(sector);
    (end - start) as usize + 2 * sector as usize
}

/// Where in that buffer the span's own bytes lie.
pub(super) fn write_place(span: Span, sector: u32) -> Range<usize> {
    let before = (span.offset & u64::from(sector - 1)) as usize;
    before..before + span.length as usize
}

/// Writes `span` out of a buffer laid out as [`write_bytes`] says.
pub(super) async fn write<M: Machine>(
    connection: &Connection<M>,
    span: Span,
    mut buffer: Buffer,
    fua: bool,
) -> Result<(), Error> {
    let Connection { vdisk, gate, sector, held, .. } = connection;
    let (sector, how) = (*sector, connection.options(fua));
    if span.is_aligned(sector) {
        let _pass = gate.pass(span.offset..span.end(), held).await?;
        return vdisk.write_with(span.offset, buffer.freeze(), &how).await;
    }
    let (start, end) = span.widened(sector);
    let _pass = gate.pass_fine(start..end, held).await?;
    let place = write_place(span, sector);
    let mut data = buffer.split_to((end - start) as usize);
    if place.start > 0 {
        let before = vdisk.read(start, buffer.split_to(sector as usize)).await?;
        data[..place.start].copy_from_slice(&before[..place.start]);
    }
    if place.end < data.len() {
        let after = vdisk.read(end - u64::from(sector), buffer.split_to(sector as usize)).await?;
        let keep = data.len() - place.end;
        data[place.end..].copy_from_slice(&after[sector as usize - keep..]);
    }
    vdisk.write_with(start, data.freeze(), &how).await
}

/// A span as at most two fine edges and the whole sectors between them.
pub(super) struct Sectors {
    pub(super) edges: [Option<Span>; 2],
    pub(super) middle: Option<Range<u64>>,
}

/// Cuts `span` at the borders of its sectors.
pub(super) fn sectors(span: Span, sector: u32) -> Sectors {
    let mask = u64::from(sector - 1);
    let (first, last) = ((span.offset + mask) & !mask, span.end() & !mask);
    let edge = |from: u64, to: u64| (from < to).then(|| Span { offset: from, length: (to - from) as u32 });
    if first > last {
        // Inside one sector.
        return Sectors { edges: [Some(span), None], middle: None };
    }
    Sectors { edges: [edge(span.offset, first), edge(last, span.end())], middle: (first < last).then_some(first..last) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn edges_and_middle_are_the_span_without_gap_or_overlap(offset in 0..20_000u64, length in 1..20_000u32) {
            let span = Span { offset, length };
            let Sectors { edges: [head, tail], middle } = sectors(span, 4096);
            let mut at = offset;
            let parts = [head.map(|s| s.offset..s.end()), middle.clone(), tail.map(|s| s.offset..s.end())];
            for part in parts.into_iter().flatten() {
                prop_assert_eq!(part.start, at);
                at = part.end;
            }
            prop_assert_eq!(at, span.end());
            if let Some(middle) = middle {
                prop_assert!(middle.start % 4096 == 0 && middle.end % 4096 == 0);
            }
        }
    }
}
