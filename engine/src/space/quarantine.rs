//! Freed extents that must not be used yet.

use std::collections::VecDeque;

use super::{Epochs, Figure, See};
use crate::format::ExtentId;
use crate::planted::Bug;

/// What must be so of the batch that freed an extent before it is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It is durable.
    Durable,
    /// It needs no proof: a start that drops a record which moved contents goes back to the extent where they were.
    Confirmed,
}

struct Lot {
    extents: Vec<ExtentId>,
    /// The batch with the record that freed them.
    sequence: u64,
    epoch: u64,
}

/// Lots of freed extents, oldest first.
#[derive(Default)]
pub(crate) struct Quarantine {
    lots: VecDeque<Lot>,
    extents: u64,
}

impl Quarantine {
    pub(crate) fn push(&mut self, extents: Vec<ExtentId>, sequence: u64, epoch: u64) {
        if !extents.is_empty() {
            self.extents += extents.len() as u64;
            self.lots.push_back(Lot { extents, sequence, epoch });
        }
    }

    pub(crate) fn extents(&self) -> u64 {
        self.extents
    }

    /// How many of its extents are so.
    pub(crate) fn count(&self, so: impl Fn(ExtentId) -> bool) -> u64 {
        self.lots.iter().flat_map(|lot| &lot.extents).filter(|&&extent| so(extent)).count() as u64
    }

    /// Takes out what may be used again: its record is in a batch up to `safe`, and its epoch is over.
    pub(crate) fn release(&mut self, safe: u64, epochs: &Epochs) -> Vec<ExtentId> {
        let mut released = Vec::new();
        while let Some(lot) = self.lots.front() {
            let early = Bug::ReuseQuarantined.is_planted();
            if !early && (lot.sequence > safe || !epochs.is_over(lot.epoch)) {
                break;
            }
            if let Some(lot) = self.lots.pop_front() {
                self.extents -= lot.extents.len() as u64;
                released.extend(lot.extents);
            }
        }
        released
    }

    /// Shows how many extents there are, beside what is in the lots.
    pub(super) fn recount(&mut self, what: &str, see: &mut See<'_>) {
        self.extents = Figure::shown(see, what, self.extents, self.count(|_| true));
    }

    /// The batch that must become safe before the oldest lot can be released.
    pub(crate) fn waits_for(&self) -> Option<u64> {
        self.lots.front().map(|lot| lot.sequence)
    }
}
