//! Where the next extent of a vdisk should lie: beside its neighbours.
//!
//! A run of sixteen virtual extents (1 MiB at the default size) is given a run of sixteen physical ones and keeps it in mind, without
//! any claim on it: others take extents out of it when no whole run is left.

use std::num::NonZeroUsize;

use lru::LruCache;
use plimsoll_hardware::Machine;

use crate::format::{ExtentId, VdiskId, VirtualExtent};
use crate::media::Media;

/// Extents of a run.
pub(super) const RUN: u64 = 16;
/// Runs kept in mind: 4,096 of 1 MiB.
const LANES_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not zero");

/// Groups of one device that may be given out, and where in them to look next.
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) cursor: u64,
}

/// Recent runs, and a cursor per device.
pub(crate) struct Lanes {
    runs: LruCache<(VdiskId, u64), ExtentId>,
    pub(super) ranges: Vec<Range>,
    pub(super) turn: usize,
}

impl Default for Lanes {
    fn default() -> Self {
        Lanes { runs: LruCache::new(LANES_MAX), ranges: Vec::new(), turn: 0 }
    }
}

impl Lanes {
    pub(super) fn resize<M: Machine>(&mut self, media: &Media<M>) {
        self.ranges = media
            .drives()
            .iter()
            .filter(|drive| !drive.is_leaving())
            .map(|drive| {
                let groups = drive.groups();
                Range { first: groups.start, end: groups.end, cursor: groups.start }
            })
            .collect();
        self.turn = 0;
    }

    /// The extent that would continue the run of its neighbours.
    pub(super) fn wish(&mut self, vdisk: VdiskId, at: VirtualExtent) -> Option<ExtentId> {
        let base = *self.runs.get(&(vdisk, at.0 / RUN))?;
        Some(ExtentId(base.0 + at.0 % RUN))
    }

    /// Remembers the run that `extent` lies in as that of `at`.
    pub(super) fn settle(&mut self, vdisk: VdiskId, at: VirtualExtent, extent: ExtentId) {
        self.runs.put((vdisk, at.0 / RUN), ExtentId(extent.0 - extent.0 % RUN));
    }
}
