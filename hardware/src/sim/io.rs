//! Operations on simulated disks: submitted, in flight for a drawn time, completed in whatever order that gives.
//!
//! What they do to the disk then is in `effect`.

use std::task::Waker;

use super::counters::Happening;
use super::device::SimDevice;
use super::disk::Content;
use super::effect::{Effect, vanish};
use super::fault::{FaultKind, FaultSite};
use super::life::{Core, Life};
use crate::{Buffer, Device as _, Frozen, IoError};

pub(super) enum Request {
    Read(Buffer),
    Write {
        data: Frozen,
        fua: bool,
    },
    /// Saves every write before this mark.
    Flush(u64),
    Discard,
    Zeroes,
    /// Gives pages that were never written their room.
    Allocate,
    /// Taken out on completion.
    Ended,
}

impl Request {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Request::Read(_) => "read",
            Request::Write { fua: false, .. } => "write",
            Request::Write { fua: true, .. } => "write fua",
            Request::Flush(_) => "flush",
            Request::Discard => "discard",
            Request::Zeroes => "write zeroes",
            Request::Allocate => "allocate",
            Request::Ended => "ended",
        }
    }
}

pub(super) type Answer = Result<Option<Buffer>, IoError>;

pub(super) struct Operation {
    pub(super) disk: usize,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) request: Request,
    pub(super) must_fail: bool,
    pub(super) waker: Option<Waker>,
    pub(super) answer: Option<Answer>,
}

impl Operation {
    /// What a write leaves, if it is one.
    pub(super) fn content(&self, word: u64) -> Option<Content<'_>> {
        match &self.request {
            Request::Write { data, .. } => Some(Content::Data(data)),
            Request::Zeroes => Some(Content::Zeroes),
            Request::Discard => Some(Content::Undefined(word)),
            _ => None,
        }
    }

    pub(super) fn site(&self, kind: FaultKind) -> FaultSite {
        FaultSite { disk: self.disk, offset: self.offset, length: self.length, kind }
    }
}

impl Life {
    /// Takes in an operation; its slot, or `None` when the process is dead or dies with it.
    pub(super) fn submit(
        &self,
        device: &SimDevice,
        offset: u64,
        length: u64,
        request: Request,
        waker: &Waker,
    ) -> Result<Option<usize>, IoError> {
        if self.dead() {
            return Ok(None);
        }
        let mut core = self.core.borrow_mut();
        let Core { disks, random, faults, trace, now, .. } = &mut *core;
        let disk = device.index();
        let target = &mut disks[disk];
        let what = request.name();
        // What was cut off is only found out by trying.
        let size = target.size.max(device.geometry().size);
        let fits = offset.checked_add(length).is_some_and(|end| end <= size);
        if !fits || !offset.is_multiple_of(target.block) || !length.is_multiple_of(target.block) {
            let path = target.geometry.path.clone();
            return Err(IoError::OutOfRange { path, operation: what, offset, length, size });
        }
        let counters = &mut target.counters;
        match request {
            Request::Read(_) => {
                counters.reads += 1;
                counters.bytes_read += length;
            }
            Request::Flush(_) => counters.flushes += 1,
            Request::Discard => counters.discards += 1,
            Request::Allocate => {}
            _ => {
                counters.writes += 1;
                counters.bytes_written += length;
            }
        }
        trace.note(*now, &Happening { what, disk, offset, length });
        self.submitted.set(self.submitted.get() + 1);
        let must_fail = self.fail_at_operation.reached();
        let flush = matches!(request, Request::Flush(_));
        let operation =
            Operation { disk, offset, length, request, must_fail, waker: Some(waker.clone()), answer: None };
        if faults.strikes(operation.site(FaultKind::Vanish), random) {
            trace.note(*now, &Happening { what: "  the disk vanishes", disk, offset, length });
            vanish(target, random);
        }
        // 20 to 120 us, a flush 100 to 600; one in sixteen takes eight times that.
        let mut latency = 20_000 + random.below(100_000);
        if flush {
            latency *= 5;
        }
        if random.below(16) == 0 {
            latency *= 8;
        }
        if faults.strikes(operation.site(FaultKind::Slow), random) {
            latency *= 100;
        }
        let (time, tie) = (*now + latency, random.word());
        drop(core);
        let slot = self.operations.borrow_mut().insert(operation);
        if self.crash_at_operation.reached() {
            self.stop();
            return Ok(None);
        }
        self.complete_at(time, tie, slot);
        Ok(Some(slot))
    }

    /// Ends the operation in `slot`.
    pub(super) fn complete(&self, slot: usize) {
        let mut operations = self.operations.borrow_mut();
        let mut core = self.core.borrow_mut();
        let outcome = match &operations[slot].request {
            Request::Read(_) => Effect::Good,
            _ => core.take_effect(&operations[slot]),
        };
        let request = std::mem::replace(&mut operations[slot].request, Request::Ended);
        let (outcome, buffer, what) = match request {
            Request::Read(mut buffer) => {
                let outcome = core.read(&operations, slot, &mut buffer);
                (outcome, Some(buffer), "read")
            }
            other => (outcome, None, other.name()),
        };
        let operation = &mut operations[slot];
        let (disk, offset, length) = (operation.disk, operation.offset, operation.length);
        let path = || core.disks[disk].geometry.path.clone();
        let (answer, ending) = match outcome {
            Effect::Good => (Ok(buffer), "  done"),
            Effect::Gone => {
                let path = path();
                core.disks[disk].unheard = false;
                (Err(IoError::Gone { path }), "  gone")
            }
            Effect::Full => (Err(IoError::NoSpace { path: path() }), "  full"),
            Effect::Failed(reason) => {
                (Err(IoError::Failed { path: path(), operation: what, offset, reason: reason.to_owned() }), "  failed")
            }
        };
        let now = core.now;
        // A file system that is full loses nothing that it has.
        if what != "read" && !matches!(answer, Ok(_) | Err(IoError::NoSpace { .. })) {
            core.loss_at = Some(now);
        }
        core.trace.note(now, &Happening { what: ending, disk, offset, length });
        drop(core);
        operation.answer = Some(answer);
        match operation.waker.take() {
            Some(waker) => {
                drop(operations);
                waker.wake();
            }
            // Nobody waits any more.
            None => drop(operations.remove(slot)),
        }
    }

    /// The waiter for `slot` was dropped; the operation goes on.
    pub(super) fn abandon(&self, slot: usize) {
        if self.dead() {
            return;
        }
        let mut operations = self.operations.borrow_mut();
        let Some(operation) = operations.get_mut(slot) else { return };
        if operation.answer.is_some() {
            let ended = operations.remove(slot);
            drop(operations);
            drop(ended);
        } else {
            let waker = operation.waker.take();
            drop(operations);
            drop(waker);
        }
    }
}
