//! What each sector of a region may hold after a crash.
//!
//! One worker writes the region and never has two requests in flight on one sector. Of each sector the oracle keeps
//! the version that must at least be there (`stable`), and the later ones that may be there instead (`newer`, oldest
//! first). What moves a version from one to the other is the promise under test:
//!
//! * [`Promise::ProcessDeath`]: an acknowledged change survives, flushed or not. Only changes in flight are `newer`.
//! * [`Promise::PowerLoss`]: a change survives once a flush that was submitted after its acknowledgement completed, or
//!   when it was written with FUA. Until then the sector may hold any version since.

use std::collections::BTreeMap;
use std::ops::Range;

use super::pattern::{Identity, Seen};

/// Set in the version of a change to zeros. Such a change has a version of its own, so that two of them are told apart.
pub const ZEROS: u32 = 1 << 31;

/// What must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// The process is killed.
    ProcessDeath,
    /// The power is cut.
    PowerLoss,
}

/// The acknowledged changes that a flush covers: sector and version.
pub type Covered = Vec<(u64, u32)>;

/// The state of one region.
#[derive(Debug)]
pub struct Oracle {
    vdisk: u32,
    promise: Promise,
    region: Range<u64>,
    stable: Vec<u32>,
    newer: BTreeMap<u64, Vec<u32>>,
    /// The last acknowledged version, where it is not stable.
    acknowledged: BTreeMap<u64, u32>,
}

impl Oracle {
    /// The oracle of the sectors `region` of vdisk number `vdisk`, all zeros.
    pub fn new(vdisk: u32, promise: Promise, region: Range<u64>) -> Self {
        let stable = vec![0; (region.end - region.start) as usize];
        Self { vdisk, promise, region, stable, newer: BTreeMap::new(), acknowledged: BTreeMap::new() }
    }

    /// The region.
    pub fn region(&self) -> Range<u64> {
        self.region.clone()
    }

    /// A change of `sectors` to `version` is being submitted; no other change has that version.
    pub fn submitted(&mut self, sectors: Range<u64>, version: u32) {
        for sector in sectors {
            self.newer.entry(sector).or_default().push(version);
        }
    }

    /// It was acknowledged; `fua` if it was to be durable with that.
    pub fn acknowledged(&mut self, sectors: Range<u64>, version: u32, fua: bool) {
        for sector in sectors {
            if fua || self.promise == Promise::ProcessDeath {
                *self.stable_mut(sector) = version;
                self.newer.remove(&sector);
                self.acknowledged.remove(&sector);
            } else {
                self.acknowledged.insert(sector, version);
            }
        }
    }

    /// A flush is being submitted; gives what it covers.
    pub fn flush_submitted(&self) -> Covered {
        self.acknowledged.iter().map(|(sector, version)| (*sector, *version)).collect()
    }

    /// The flush that covers `covered` was acknowledged.
    pub fn flushed(&mut self, covered: Covered) {
        for (sector, version) in covered {
            if self.acknowledged.get(&sector) == Some(&version) {
                self.acknowledged.remove(&sector);
            }
            // Nothing to do where a later FUA write made a newer version stable.
            let Some(newer) = self.newer.get_mut(&sector) else { continue };
            let Some(place) = newer.iter().rposition(|candidate| *candidate == version) else { continue };
            newer.drain(..=place);
            if newer.is_empty() {
                self.newer.remove(&sector);
            }
            *self.stable_mut(sector) = version;
        }
    }

    /// What a read of `sector`, with nothing in flight on it, must give while the daemon lives: a version that was
    /// written, or 0 for zeros.
    pub fn expected(&self, sector: u64) -> u32 {
        let stable = self.stable[(sector - self.region.start) as usize];
        content(self.acknowledged.get(&sector).copied().unwrap_or(stable))
    }

    /// Checks what `sector` holds after the crash, and takes it as the sector's state.
    ///
    /// # Errors
    /// It may not hold that; the text says what it may.
    pub fn after_crash(&mut self, sector: u64, seen: Seen) -> Result<(), String> {
        let newer = self.newer.remove(&sector).unwrap_or_default();
        self.acknowledged.remove(&sector);
        let (vdisk, promise) = (self.vdisk, self.promise);
        let stable = self.stable_mut(sector);
        let version = match seen {
            Seen::Zeros => Some(0),
            Seen::Written(Identity { vdisk: v, sector: s, version }) if (v, s) == (vdisk, sector) => Some(version),
            _ => None,
        };
        match version {
            Some(version) if version == content(*stable) || newer.iter().any(|other| version == content(*other)) => {
                *stable = version;
                Ok(())
            }
            _ => Err(format!(
                "{promise:?}: vdisk {vdisk} sector {sector} holds {seen:?}; allowed are version {stable} and the newer \
                 {newer:?} (0 and everything from {ZEROS} on are zeros)"
            )),
        }
    }

    fn stable_mut(&mut self, sector: u64) -> &mut u32 {
        &mut self.stable[(sector - self.region.start) as usize]
    }
}

/// What a sector holds after the change `version`: itself, or 0 for zeros.
fn content(version: u32) -> u32 {
    if version & ZEROS == 0 { version } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(version: u32) -> Seen {
        Seen::Written(Identity { vdisk: 1, sector: 5, version })
    }

    #[test]
    fn a_killed_process_may_lose_only_what_was_in_flight() {
        let mut oracle = Oracle::new(1, Promise::ProcessDeath, 0..8);
        oracle.submitted(5..6, 1);
        oracle.acknowledged(5..6, 1, false);
        oracle.submitted(5..6, 2);
        assert!(oracle.after_crash(5, Seen::Zeros).is_err(), "an acknowledged write was lost and nobody noticed");
        oracle.submitted(5..6, 3);
        assert_eq!(oracle.after_crash(5, written(3)), Ok(()));
        assert_eq!(oracle.expected(5), 3);
    }

    #[test]
    fn a_power_cut_may_undo_all_that_no_flush_covers() {
        let mut oracle = Oracle::new(1, Promise::PowerLoss, 0..8);
        oracle.submitted(5..6, 1);
        oracle.acknowledged(5..6, 1, false);
        let covered = oracle.flush_submitted();
        oracle.submitted(5..6, 2);
        oracle.acknowledged(5..6, 2, false);
        oracle.flushed(covered);
        assert_eq!(oracle.expected(5), 2);
        assert!(oracle.after_crash(5, Seen::Zeros).is_err(), "a flushed write was lost and nobody noticed");
        oracle.submitted(5..6, 3);
        oracle.acknowledged(5..6, 3, true);
        assert!(oracle.after_crash(5, written(2)).is_err(), "a write with FUA was lost and nobody noticed");
        assert!(oracle.after_crash(5, Seen::Garbage(None)).is_err());
    }

    #[test]
    fn an_older_flush_does_not_undo_a_write_with_fua() {
        let mut oracle = Oracle::new(1, Promise::PowerLoss, 0..8);
        oracle.submitted(5..6, 1);
        oracle.acknowledged(5..6, 1, false);
        let covered = oracle.flush_submitted();
        oracle.submitted(5..6, 2);
        oracle.acknowledged(5..6, 2, true);
        oracle.flushed(covered);
        assert!(oracle.after_crash(5, written(1)).is_err());
    }

    #[test]
    fn a_flush_of_one_discard_does_not_vouch_for_a_later_one() {
        let mut oracle = Oracle::new(1, Promise::PowerLoss, 0..8);
        oracle.submitted(5..6, ZEROS | 1);
        oracle.acknowledged(5..6, ZEROS | 1, false);
        let covered = oracle.flush_submitted();
        for version in [2, ZEROS | 3] {
            oracle.submitted(5..6, version);
            oracle.acknowledged(5..6, version, false);
        }
        oracle.flushed(covered);
        assert_eq!(oracle.expected(5), 0);
        assert_eq!(oracle.after_crash(5, written(2)), Ok(()));
    }
}
