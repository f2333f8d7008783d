//! Writes that are finer than a sector, safe beside all other writes to the same vdisk.
//!
//! A vdisk writes whole sectors, and clients that never asked for block sizes may write single bytes. Such a write reads
//! the sectors at its ends, and whatever another connection writes to those sectors in between would be undone. So every
//! change of a vdisk by this server passes its [`Gate`]: a fine write waits until no change in flight touches its
//! sectors and keeps others out of them until it is done, of those in the same sectors the first that can go on goes first. While there is no fine write this costs one
//! entry in a slab.
//! What is in the way may be held for want of space; so who waits here is given up as a held write is, and never applied.
//!
//! Not here: other protocols. They address sectors, and an initiator that shares a disk with NBD clients that do not
//! keeps its own order.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::pin::pin;
use std::task::{Poll, Waker};

use futures_util::future::select;
use plimsoll_engine::{Error, Ticket};
use plimsoll_hardware::{Buffer, Machine};
use slab::Slab;

use super::command::Span;
use super::connection::Connection;

#[derive(Clone)]
struct Change {
    bytes: Range<u64>,
    fine: bool,
}

impl Change {
    /// Whether the two must not be in flight at once.
    fn meets(&self, other: &Change) -> bool {
        (self.fine || other.fine) && self.bytes.start < other.bytes.end && other.bytes.start < self.bytes.end
    }
}

/// A change that waits for others.
struct Waiting {
    change: Change,
    waker: Option<Waker>,
    /// It is in flight, and its task has yet to see that.
    key: Option<usize>,
}

/// The changes of one vdisk that are in flight.
#[derive(Default)]
pub(super) struct Gate {
    in_flight: RefCell<Slab<Change>>,
    fine: Cell<u32>,
    /// By the order in which they came.
    waiting: RefCell<BTreeMap<u64, Waiting>>,
    next_ticket: Cell<u64>,
}

/// A change in flight; dropped when it is done.
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    key: usize,
}

/// A place among those that wait; left when it is dropped.
struct Place<'a> {
    gate: &'a Gate,
    ticket: u64,
}

impl Gate {
    /// For a change of whole sectors: waits for fine writes in the way.
    pub(super) async fn pass(&self, bytes: Range<u64>, held: &Ticket) -> Result<Pass<'_>, Error> {
        self.enter(Change { bytes, fine: false }, held).await
    }

    /// For a write finer than its sectors: waits for every change in the way.
    async fn pass_fine(&self, bytes: Range<u64>, held: &Ticket) -> Result<Pass<'_>, Error> {
        self.enter(Change { bytes, fine: true }, held).await
    }

    async fn enter(&self, change: Change, held: &Ticket) -> Result<Pass<'_>, Error> {
        if !self.is_in_the_way(&change) {
            return Ok(Pass { gate: self, key: self.begin(change) });
        }
        let _behind = held.behind(change.bytes.end - change.bytes.start);
        let place = self.wait(change);
        select(pin!(place.has_begun()), pin!(held.cancelled())).await;
        match place.take() {
            Some(pass) if !held.is_cancelled() => Ok(pass),
            _ => Err(Error::Cancelled),
        }
    }

    fn is_in_the_way(&self, change: &Change) -> bool {
        // Without fine writes nothing is, and nothing need be looked at.
        (change.fine || self.fine.get() > 0) && self.in_flight.borrow().iter().any(|(_, other)| other.meets(change))
    }

    fn begin(&self, change: Change) -> usize {
        self.fine.set(self.fine.get() + u32::from(change.fine));
        self.in_flight.borrow_mut().insert(change)
    }

    fn wait(&self, change: Change) -> Place<'_> {
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        self.waiting.borrow_mut().insert(ticket, Waiting { change, waker: None, key: None });
        Place { gate: self, ticket }
    }

    fn end(&self, key: usize) {
        let ended = self.in_flight.borrow_mut().remove(key);
        self.fine.set(self.fine.get() - u32::from(ended.fine));
        // Those who can go on now are in flight from here on: each task is woken once, however many wait for the same sectors.
        let mut woken = Vec::new();
        for waiting in self.waiting.borrow_mut().values_mut().filter(|waiting| waiting.key.is_none()) {
            if !waiting.change.meets(&ended) || self.is_in_the_way(&waiting.change) {
                continue;
            }
            waiting.key = Some(self.begin(waiting.change.clone()));
            woken.extend(waiting.waker.take());
            let next = &waiting.change;
            if next.fine && next.bytes.start <= ended.bytes.start && ended.bytes.end <= next.bytes.end {
                // It is in the way of all others.
                break;
            }
        }
        woken.into_iter().for_each(Waker::wake);
    }
}

impl<'a> Place<'a> {
    async fn has_begun(&self) {
        std::future::poll_fn(|context| match self.gate.waiting.borrow_mut().get_mut(&self.ticket) {
            Some(Waiting { waker, key: None, .. }) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        })
        .await
    }

    /// The change in flight, if it is.
    fn take(self) -> Option<Pass<'a>> {
        let waiting = self.gate.waiting.borrow_mut().remove(&self.ticket);
        waiting.and_then(|waiting| waiting.key).map(|key| Pass { gate: self.gate, key })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let waiting = self.gate.waiting.borrow_mut().remove(&self.ticket);
        if let Some(key) = waiting.and_then(|waiting| waiting.key) {
            self.gate.end(key);
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.end(self.key);
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
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    use proptest::prelude::*;

    use super::*;

    /// How often it was woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn of_many_that_wait_for_a_sector_one_is_woken_at_a_time_in_order() {
        let (gate, held, woken) = (Gate::default(), Ticket::default(), Arc::new(Count::default()));
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        let mut waiting: VecDeque<_> = (0..100).map(|_| Box::pin(gate.pass_fine(0..512, &held))).collect();
        // Those beside it, and one whole sector more in its way.
        let mut beside = Box::pin(gate.pass_fine(512..1024, &held));
        assert!(beside.as_mut().poll(&mut context).is_ready());
        let mut passes = Vec::new();
        for (index, change) in waiting.iter_mut().enumerate() {
            match change.as_mut().poll(&mut context) {
                Poll::Ready(pass) => passes.push(pass.expect("a pass")),
                Poll::Pending => assert!(index > 0),
            }
        }
        waiting.pop_front();
        let mut whole = Box::pin(gate.pass(0..4096, &held));
        assert!(whole.as_mut().poll(&mut context).is_pending());
        let mut expected = 0;
        let mut is_woken_once_more = || {
            expected += 1;
            assert_eq!(woken.0.load(Ordering::Relaxed), expected, "woken by the end of one");
        };
        passes.clear();
        is_woken_once_more();
        for index in 0..99 {
            let mut next = waiting.pop_front().expect("another");
            if index % 2 == 1 {
                // One that goes away lets the next one go on.
                drop(next);
            } else {
                let Poll::Ready(pass) = next.as_mut().poll(&mut context) else { panic!("{index} is not the next") };
                drop(pass);
            }
            is_woken_once_more();
        }
        assert!(whole.as_mut().poll(&mut context).is_ready() && waiting.is_empty());
        drop((whole, beside));
        assert!(gate.in_flight.borrow().is_empty() && gate.waiting.borrow().is_empty() && gate.fine.get() == 0);
    }

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
