//! Where things lie on a device.
//!
//! ```text
//! 0        label, root slot A, root slot B, to 64 KiB
//! 64 KiB   journal ring, or room for one
//!          extents
//!          journal ring, or room for one
//! end-64K  label, root slot A, root slot B
//! ```

use plimsoll_hardware::Geometry;

use crate::error::{Error, Result};
use crate::format::{GROUP_EXTENTS, PAGE_BYTES, RingPlace};

/// Bytes at either end of a device for its label and roots.
pub(crate) const END_BYTES: u64 = 65_536;
/// Pages of them that are used: the label and both roots.
pub(crate) const END_PAGES: usize = 3;
/// Smallest device of a pool in bytes: 4 MiB hold the ends, two small rings, and at 64 KiB some 55 extents.
pub const DEVICE_BYTES_MIN: u64 = 4 << 20;

/// The parts of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) ring_pages: u64,
    pub(crate) first_ring: u64,
    pub(crate) second_ring: u64,
    pub(crate) extents_page: u64,
    pub(crate) extents: u64,
}

/// A ring's pages for a pool whose first device has `size` bytes: a 256th, 128 KiB to 32 MiB. A third of 32 MiB, where a
/// checkpoint is due, holds 350,000 first writes.
pub(crate) fn ring_pages(size: u64) -> u64 {
    (size / 256).clamp(128 << 10, 32 << 20) / PAGE_BYTES as u64
}

/// Rings that a device of `size` bytes keeps room for, so that the journal can move to it when its own leaves: both, where that takes
/// no more than a sixteenth of the device, one where that one does not, else none.
pub(crate) fn rings_kept(size: u64, ring_pages: u64) -> u64 {
    let ring = ring_pages * PAGE_BYTES as u64;
    (size / 16).checked_div(ring).unwrap_or(0).min(2)
}

/// Lays out a device with `rings` rings (0 to 2) on it.
pub(crate) fn lay_out(geometry: &Geometry, extent_bytes: u32, rings: u64, ring_pages: u64) -> Result<Layout> {
    let page = PAGE_BYTES as u64;
    let extent = u64::from(extent_bytes);
    let size = geometry.size / page * page;
    let too_small = |minimum| Error::TooSmall { path: geometry.path.clone(), size: geometry.size, minimum };
    if size < DEVICE_BYTES_MIN {
        return Err(too_small(DEVICE_BYTES_MIN));
    }
    let ring_bytes = ring_pages * page;
    let start = (END_BYTES + ring_bytes * rings.min(1)).next_multiple_of(extent);
    let end = size - END_BYTES - ring_bytes * rings.saturating_sub(1);
    let extents = end.saturating_sub(start) / extent;
    // A checkpoint's reserve and something to give out besides.
    let least = 32;
    if extents < least {
        return Err(too_small(start + least * extent + size - end));
    }
    Ok(Layout {
        ring_pages,
        first_ring: END_BYTES / page,
        second_ring: end.div_ceil(page),
        extents_page: start / page,
        extents,
    })
}

impl Layout {
    /// Where the journal's copies lie when this is device `first` and the other copy's device is `second`.
    pub(crate) fn rings(&self, single: bool) -> [RingPlace; 2] {
        let place = |device, page| RingPlace { device, page, pages: self.ring_pages };
        match single {
            true => [place(0, self.first_ring), place(0, self.second_ring)],
            false => [place(0, self.first_ring), place(1, self.first_ring)],
        }
    }
}

/// Byte offsets of the two labels of a device of `size` bytes.
pub(crate) fn label_places(size: u64) -> [u64; 2] {
    let page = PAGE_BYTES as u64;
    [0, size / page * page - END_BYTES]
}

/// Byte offsets of the two copies of the root of `generation`.
pub(crate) fn root_places(size: u64, generation: u64) -> [u64; 2] {
    label_places(size).map(|label| label + (1 + generation % 2) * PAGE_BYTES as u64)
}

/// First extent number of a device that comes after `end`.
pub(crate) fn next_base(end: u64) -> u64 {
    end.next_multiple_of(GROUP_EXTENTS)
}
