//! Freed extents that must not be used yet.

use std::collections::VecDeque;

use super::Epochs;
use crate::format::ExtentId;

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

    /// Takes out what may be used again: its record is durable and its epoch over.
    pub(crate) fn release(&mut self, durable: u64, epochs: &Epochs) -> Vec<ExtentId> {
        let mut released = Vec::new();
        while let Some(lot) = self.lots.front() {
            let early = cfg!(feature = "planted-reuse-quarantined");
            if !early && (lot.sequence > durable || !epochs.is_over(lot.epoch)) {
                break;
            }
            if let Some(lot) = self.lots.pop_front() {
                self.extents -= lot.extents.len() as u64;
                released.extend(lot.extents);
            }
        }
        released
    }

    /// The batch that must become durable before the oldest lot can be released.
    pub(crate) fn waits_for(&self) -> Option<u64> {
        self.lots.front().map(|lot| lot.sequence)
    }
}
